//! Aggregates by group.
//!
//! Enters: changes. Leaves: for each group that they touch, its old row retracted and its new one inserted, where the
//! two differ. Always holds: a function is kept up to date by sums, by the order of its values, or by states of
//! DataFusion's, at the cost of the rows that come or go; where none of that serves, the rows of the groups that are
//! touched are computed anew. A group without rows is gone; without GROUP BY there is one group, also of no rows.

mod cold;
mod counted;
mod exact;
mod function;
mod groups;
mod packed;
mod partial;
mod rows;
mod states;
mod sums;
mod value_key;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array, UInt64Array, new_null_array,
};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef, UInt32Type};
use datafusion::execution::SessionState;
use datafusion::execution::disk_manager::DiskManager;
use datafusion::logical_expr::Aggregate as Plan;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_expr::expressions::Column;
use hashbrown::{HashMap, HashSet};

use super::expiry::Expiry;
use super::keys::evaluate;
use super::{EpochContext, Operator, Shard, physical};
use crate::change::{Changes, RowMatcher, concat, retracted_too_often, take_rows, with_columns};
use crate::checkpoint::{Pieces, Saved};
use crate::error::Result;
use crate::planner::{Eviction, Upkeep};
use cold::Cold;
use function::{Fold, Function, Moved};
use groups::Groups;
pub(super) use partial::Partial;
use rows::Rows;
use states::States;
use sums::Sums;

/// Columns of the files of a checkpoint: which shard has written a row, and its number of the group.
const SHARD: &str = "__shard";
const GROUP: &str = "__group";
const ROWS: &str = "__rows";

type Folds = Vec<Box<dyn Fold>>;

/// The aggregates of one shard's groups.
pub(super) struct Aggregate {
    by: Vec<Arc<dyn PhysicalExpr>>,
    folds: Folds,
    /// For each function, which of the columns of all folds it is.
    places: Vec<usize>,
    input: SchemaRef,
    /// Group columns, then results.
    output: SchemaRef,
    /// What is saved a row for each group.
    saved: SchemaRef,
    /// What a [`Partial`] makes of rows: the same, without the group's shard and number.
    partial: SchemaRef,
    results: RowMatcher,
    groups: Groups,
    /// Results are never retracted.
    append_only: bool,
    /// By group: its place among those that the epoch touches, if `stamps` has the epoch.
    touched_at: Vec<u32>,
    stamps: Vec<u64>,
    steps: u64,
    /// Rows that were saved since the state was last saved as a whole.
    saved_rows: usize,
    /// All has to be saved.
    save_whole: bool,
    shard: u32,
    /// When groups can be forgotten.
    expiry: Option<Expiry<u32>>,
    /// Groups that are not in the tables, where a group can be one row, and is not forgotten by time.
    cold: Option<Cold>,
}

impl Aggregate {
    /// `grows`: the input never retracts.
    pub(super) fn new(
        plan: &Plan,
        (grows, append_only): (bool, bool),
        evict: &[Eviction],
        state: &SessionState,
        shard: usize,
    ) -> Result<Self> {
        let (props, context) = (state.execution_props(), PhysicalPlanningContext::default());
        let input = plan.input.schema();
        let by = plan.group_expr.iter().map(|expr| physical(expr, input, state));
        let by: Vec<Arc<dyn PhysicalExpr>> = by.collect::<Result<_>>()?;
        let output = Arc::clone(plan.schema.inner());
        let mut functions = Vec::new();
        for expr in &plan.aggr_expr {
            let lowered = LoweredAggregateBuilder::new(expr, input, input.as_arrow(), props, &context).build()?;
            functions.push(Function::new(lowered.aggregate, lowered.filter, input.inner(), by.is_empty())?);
        }
        let (folds, places) = folds(&functions, grows, !evict.is_empty(), input.inner())?;
        let (keys, results) = output.fields().split_at(by.len());
        let types = |fields: &[FieldRef]| fields.iter().map(|field| field.data_type().clone()).collect::<Vec<_>>();
        let expiry = evict.first().map(|eviction| {
            let key = Column::new(output.field(eviction.key).name(), eviction.key);
            Expiry::new(eviction, Arc::new(key), state)
        });
        let nullable = |field: &FieldRef| Arc::new(field.as_ref().clone().with_nullable(true));
        let mut saved = vec![
            Arc::new(Field::new(SHARD, DataType::UInt32, false)),
            Arc::new(Field::new(GROUP, DataType::UInt32, false)),
        ];
        saved.extend(keys.iter().map(nullable));
        saved.push(Arc::new(Field::new(ROWS, DataType::Int64, false)));
        saved.extend(folds.iter().flat_map(|fold| fold.fields()));
        let partial = Arc::new(Schema::new(saved[2..].to_vec()));
        let is_row = !by.is_empty() && expiry.is_none() && folds.iter().all(|fold| fold.merges());
        let cold = is_row.then(|| Cold::new(&partial, keys.len())).transpose()?;
        Ok(Self {
            by,
            folds,
            places,
            input: Arc::clone(input.inner()),
            results: RowMatcher::new(types(results))?,
            groups: Groups::new(types(keys))?,
            output: Arc::clone(&output),
            partial,
            saved: Arc::new(Schema::new(saved)),
            append_only,
            touched_at: Vec::new(),
            stamps: Vec::new(),
            steps: 0,
            saved_rows: 0,
            save_whole: false,
            shard: shard as u32,
            expiry: expiry.transpose()?,
            cold,
        })
    }

    /// Notes when these groups, which are new, can be forgotten.
    fn note(&mut self, new: &[u32]) -> Result<()> {
        if self.expiry.is_none() || new.is_empty() {
            return Ok(());
        }
        let keys = self.keys(new)?;
        if let Some(expiry) = &mut self.expiry {
            let values = expiry.values(&keys)?;
            for (row, group) in new.iter().enumerate().filter(|(row, _)| !values.is_null(*row)) {
                expiry.push(values.value(row), *group);
            }
        }
        Ok(())
    }

    /// Forgets the groups that no row can reach any more.
    fn expire(&mut self, context: &EpochContext) -> Result<()> {
        let over = self.expiry.as_mut().map(|expiry| expiry.over(context)).transpose()?.unwrap_or_default();
        let over: HashSet<(i64, u32)> = over.into_iter().collect();
        let there = over.iter().map(|(_, group)| *group).filter(|group| self.groups.rows[*group as usize] > 0);
        let there: Vec<u32> = there.collect::<BTreeSet<u32>>().into_iter().collect();
        if there.is_empty() {
            return Ok(());
        }
        let keys = self.keys(&there)?;
        let Some(values) = self.expiry.as_ref().map(|expiry| expiry.values(&keys)).transpose()? else { return Ok(()) };
        for (row, group) in there.into_iter().enumerate() {
            // A number may have been given to another group since.
            if !values.is_null(row) && over.contains(&(values.value(row), group)) {
                self.groups.change(group);
                self.folds.iter_mut().try_for_each(|fold| fold.forget(group))?;
                self.groups.remove(group);
            }
        }
        Ok(())
    }

    /// The group columns of these groups.
    fn keys(&self, groups: &[u32]) -> Result<RecordBatch> {
        let keys = self.output.fields()[..self.by.len()].iter();
        let schema = Schema::new(keys.map(|key| key.as_ref().clone().with_nullable(true)).collect::<Vec<_>>());
        with_columns(&Arc::new(schema), self.groups.columns(groups)?, groups.len())
    }

    /// Memory, about.
    fn bytes(&self) -> usize {
        let folds: usize = self.folds.iter().map(|fold| fold.bytes()).sum();
        let waiting = self.expiry.as_ref().map_or(0, Expiry::bytes) + self.cold.as_ref().map_or(0, Cold::bytes);
        self.groups.bytes() + folds + waiting + self.touched_at.capacity() * 4 + self.stamps.capacity() * 8
    }

    fn is_global(&self) -> bool {
        self.by.is_empty()
    }

    /// The groups of a change's rows, and their places among those that the epoch touches; `touched` gets those that
    /// are new among them.
    fn touch(&mut self, change: &Changes, touched: &mut Vec<u32>) -> Result<Numbered> {
        let columns = if self.is_partial(change) {
            change.rows.columns()[..self.by.len()].to_vec()
        } else {
            evaluate(&self.by, &change.rows)?
        };
        // A row of none names the one group.
        let rows = if self.is_global() { change.len().max(1) } else { change.len() };
        let mut numbers = self.groups.intern(&columns, rows)?;
        self.touched_at.resize(self.groups.numbers(), 0);
        self.stamps.resize(self.groups.numbers(), 0);
        let mut places = Vec::with_capacity(rows);
        for number in &numbers {
            let at = *number as usize;
            if self.stamps[at] != self.steps {
                self.stamps[at] = self.steps;
                self.touched_at[at] = touched.len() as u32;
                touched.push(*number);
            }
            places.push(self.touched_at[at] as usize);
        }
        numbers.truncate(change.len());
        places.truncate(change.len());
        Ok(Numbered { numbers, places, touched: touched.len() })
    }

    /// The result columns of these groups.
    fn results(&self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        if groups.is_empty() {
            let results = &self.output.fields()[self.by.len()..];
            return Ok(results.iter().map(|field| arrow::array::new_empty_array(field.data_type())).collect());
        }
        let mut columns = Vec::new();
        for fold in &self.folds {
            columns.extend(fold.results(groups)?);
        }
        Ok(self.places.iter().map(|place| Arc::clone(&columns[*place])).collect())
    }

    fn rows(&self, groups: &[u32], results: Vec<ArrayRef>) -> Result<RecordBatch> {
        let columns = if self.is_global() { Vec::new() } else { self.groups.columns(groups)? };
        with_columns(&self.output, columns.into_iter().chain(results).collect(), groups.len())
    }

    /// Groups and their results in one.
    fn all_standing(&self, mut parts: Vec<Standing>) -> Result<Standing> {
        if parts.len() < 2 {
            return Ok(match parts.pop() {
                Some(one) => one,
                None => Standing { groups: Vec::new(), results: self.results(&[])? },
            });
        }
        let column = |at: usize| -> Result<ArrayRef> {
            let arrays: Vec<&dyn Array> = parts.iter().map(|part| part.results[at].as_ref()).collect();
            Ok(arrow::compute::concat(&arrays)?)
        };
        let results = (0..self.places.len()).map(column).collect::<Result<_>>()?;
        Ok(Standing { results, groups: parts.into_iter().flat_map(|part| part.groups).collect() })
    }

    /// What becomes of the groups: those that stand before and after and are the same are left out.
    fn difference(&self, before: Standing, after: Standing) -> Result<Vec<Changes>> {
        let (old, new) = self.both(&before.groups, &after.groups);
        let mut keep_new = vec![true; after.groups.len()];
        let mut keep_old = vec![true; before.groups.len()];
        let same = self.same(&before.results, &old, &after.results, &new)?;
        for at in (0..old.len()).filter(|at| same.as_ref().is_none_or(|same| same.value(*at))) {
            keep_old[old[at] as usize] = false;
            keep_new[new[at] as usize] = false;
        }
        let mut out = Vec::new();
        for (standing, keep, weight) in [(before, keep_old, -1), (after, keep_new, 1)] {
            let places = keep.iter().enumerate().filter(|(_, keep)| **keep).map(|(at, _)| at as u64);
            let places = UInt64Array::from_iter_values(places);
            if places.is_empty() {
                continue;
            }
            let rows = self.rows(&standing.groups, standing.results)?;
            let rows = if places.len() == standing.groups.len() { rows } else { take_rows(&rows, &places)? };
            let weights = Int64Array::from(vec![weight; places.len()]);
            out.push(if self.append_only { Changes::inserted(rows) } else { Changes::weighted(rows, weights) });
        }
        Ok(out)
    }

    /// The places of the groups that are in both lists, which have the order in which the epoch has touched them.
    fn both(&self, before: &[u32], after: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let (mut old, mut new, mut at) = (Vec::new(), Vec::new(), 0);
        let touched_at = |group: u32| self.touched_at[group as usize];
        for (place, group) in after.iter().enumerate() {
            while before.get(at).is_some_and(|old| touched_at(*old) < touched_at(*group)) {
                at += 1;
            }
            if before.get(at) == Some(group) {
                old.push(at as u32);
                new.push(place as u32);
            }
        }
        (old, new)
    }

    /// For each pair of rows, whether it is the same; nothing if all are.
    fn same(&self, before: &[ArrayRef], old: &[u32], after: &[ArrayRef], new: &[u32]) -> Result<Option<BooleanArray>> {
        let taken = |columns: &[ArrayRef], places: &[u32]| -> Result<Vec<ArrayRef>> {
            let places = UInt32Array::from(places.to_vec());
            // Places go up, so these are all rows.
            let all = |column: &ArrayRef| column.len() == places.len();
            let take =
                |column: &ArrayRef| if all(column) { Ok(Arc::clone(column)) } else { Ok(take(column, &places, None)?) };
            columns.iter().map(take).collect()
        };
        self.results.equal(&taken(before, old)?, &taken(after, new)?, old.len())
    }

    /// What is kept of these groups: their columns, how many rows they have, and the states of the functions.
    fn kept(&self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        let mut columns = if self.is_global() { Vec::new() } else { self.groups.columns(groups)? };
        let rows = groups.iter().map(|group| self.groups.rows[*group as usize]);
        columns.push(Arc::new(Int64Array::from_iter_values(rows)));
        for fold in &self.folds {
            columns.extend(fold.states(groups)?);
        }
        Ok(columns)
    }

    /// What is saved of these groups; of one that is gone nothing but that.
    fn states(&self, groups: &[u32]) -> Result<RecordBatch> {
        let stands = |group: &&u32| self.groups.rows[**group as usize] != 0 || self.is_global();
        let (alive, gone): (Vec<&u32>, Vec<&u32>) = groups.iter().partition(stands);
        let alive: Vec<u32> = alive.into_iter().copied().collect();
        let numbers = alive.iter().chain(gone.iter().copied()).copied();
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from(vec![self.shard; groups.len()])),
            Arc::new(UInt32Array::from_iter_values(numbers)),
        ];
        let no_rows: ArrayRef = Arc::new(Int64Array::from(vec![0; gone.len()]));
        for (at, column) in self.kept(&alive)?.into_iter().enumerate() {
            let nothing = || new_null_array(column.data_type(), gone.len());
            let of_gone = if at == self.by.len() { Arc::clone(&no_rows) } else { nothing() };
            columns.push(arrow::compute::concat(&[column.as_ref(), of_gone.as_ref()])?);
        }
        with_columns(&self.saved, columns, groups.len())
    }

    /// Takes back what [`Aggregate::states`] gave, of the groups of this shard.
    fn restore_groups(&mut self, saved: RecordBatch, shard: Shard) -> Result<Renumbered> {
        let keys = self.by.len();
        let places = if shard.moved { last_rows(&saved, keys) } else { last_rows_of_one(&saved, keys) };
        let chosen = take_rows(&saved, &places.into())?;
        drop(saved);
        let (shards, numbers) = (u32s(&chosen, 0), u32s(&chosen, 1));
        let wanted = (!shard.moved).then(|| numbers.values().to_vec());
        let given = self.groups.restore(&chosen.columns()[2..2 + keys], chosen.num_rows(), wanted)?;
        let (chosen, mine, renumbered) = if shard.moved {
            let hashes = self.groups.hashes(&chosen.columns()[2..2 + keys], chosen.num_rows())?;
            let mut renumbered = HashMap::new();
            let mut mine: (Vec<u64>, Vec<u32>) = (Vec::new(), Vec::new());
            for (at, number) in given.into_iter().enumerate() {
                // What belongs to another shard is forgotten again.
                let here = if keys == 0 { shard.index == 0 } else { shard.has(hashes[at]) };
                if !here {
                    self.groups.remove(number);
                    continue;
                }
                renumbered.insert((shards.value(at), numbers.value(at)), number);
                mine.0.push(at as u64);
                mine.1.push(number);
            }
            (take_rows(&chosen, &mine.0.into())?, mine.1, Renumbered::Other(renumbered))
        } else {
            let mut there = vec![false; self.groups.numbers()];
            given.iter().for_each(|number| there[*number as usize] = true);
            (chosen.clone(), given, Renumbered::Same(there))
        };
        let rows = chosen.column(2 + keys).as_primitive::<Int64Type>();
        mine.iter().zip(rows.values()).for_each(|(number, rows)| self.groups.rows[*number as usize] = *rows);
        self.note(&mine)?;
        let mut at = 3 + keys;
        for fold in &mut self.folds {
            let width = fold.fields().len();
            fold.restore_states(&mine, self.groups.numbers(), &chosen.columns()[at..at + width])?;
            at += width;
        }
        Ok(renumbered)
    }
}

/// The rows of one change, by group.
struct Numbered {
    numbers: Vec<u32>,
    places: Vec<usize>,
    /// How many groups were touched so far.
    touched: usize,
}

/// Some groups and their results.
struct Standing {
    groups: Vec<u32>,
    results: Vec<ArrayRef>,
}

/// Where groups have gone.
enum Renumbered {
    /// They have the numbers that they had; those of them that are there.
    Same(Vec<bool>),
    /// By the shard that they were of, and the number that they had there.
    Other(HashMap<(u32, u32), u32>),
}

impl Moved for Renumbered {
    fn number(&self, shard: u32, number: u32) -> Option<u32> {
        match self {
            Renumbered::Same(there) => there.get(number as usize).is_some_and(|there| *there).then_some(number),
            Renumbered::Other(numbers) => numbers.get(&(shard, number)).copied(),
        }
    }
}

fn u32s(rows: &RecordBatch, column: usize) -> &UInt32Array {
    rows.column(column).as_primitive::<UInt32Type>()
}

/// The last row of each group that is there, of those that several shards have saved.
fn last_rows(saved: &RecordBatch, keys: usize) -> Vec<u64> {
    let (shards, numbers) = (u32s(saved, 0), u32s(saved, 1));
    let mut last: HashMap<(u32, u32), u64> = HashMap::new();
    for row in 0..saved.num_rows() {
        last.insert((shards.value(row), numbers.value(row)), row as u64);
    }
    let mut last: Vec<((u32, u32), u64)> = last.into_iter().collect();
    last.sort_unstable();
    still_there(saved, keys, last.into_iter().map(|(_, row)| row))
}

/// The same of one shard: its numbers are places.
fn last_rows_of_one(saved: &RecordBatch, keys: usize) -> Vec<u64> {
    let numbers = u32s(saved, 1).values();
    let mut last = vec![None; numbers.iter().max().map_or(0, |last| *last as usize + 1)];
    (0_u64..).zip(numbers).for_each(|(row, number)| last[*number as usize] = Some(row));
    still_there(saved, keys, last.into_iter().flatten())
}

/// Without the groups that are gone; the one group without keys always is there.
fn still_there(saved: &RecordBatch, keys: usize, rows: impl Iterator<Item = u64>) -> Vec<u64> {
    let count = saved.column(2 + keys).as_primitive::<Int64Type>();
    rows.filter(|row| count.value(*row as usize) != 0 || keys == 0).collect()
}

/// What keeps each function up to date, and where its results stand among those of all.
fn folds(functions: &[Function], grows: bool, forgets: bool, input: &SchemaRef) -> Result<(Folds, Vec<usize>)> {
    let mut folds = Folds::new();
    let mut places = vec![0; functions.len()];
    let mut others = Vec::new();
    for (at, function) in functions.iter().enumerate() {
        let fold: Box<dyn Fold> = match function.upkeep(grows) {
            Upkeep::Sums(sum) => Box::new(Sums::new(function.clone(), sum)),
            Upkeep::Least => counted::least(function.clone())?,
            Upkeep::Greatest => counted::greatest(function.clone())?,
            Upkeep::Distinct(sum) => counted::distinct(function.clone(), sum, input, forgets)?,
            Upkeep::States | Upkeep::Rows => {
                others.push(at);
                continue;
            }
        };
        places[at] = folds.len();
        folds.push(fold);
    }
    for (place, at) in others.iter().enumerate() {
        places[*at] = folds.len() + place;
    }
    let others: Vec<Function> = others.iter().map(|at| functions[*at].clone()).collect();
    if !others.is_empty() {
        folds.push(if grows { Box::new(States::new(others)?) } else { Box::new(Rows::new(others)?) });
    }
    Ok((folds, places))
}

impl Operator for Aggregate {
    fn step(&mut self, inputs: Vec<Vec<Changes>>, context: &EpochContext) -> Result<Vec<Changes>> {
        let mut inputs: Vec<Changes> = inputs.into_iter().flatten().filter(|change| !change.is_empty()).collect();
        if inputs.is_empty() {
            if !(self.is_global() && self.shard == 0 && self.groups.len() == 0) {
                self.expire(context)?;
                return Ok(Vec::new());
            }
            // The one group is there before its first row.
            inputs.push(Changes::inserted(RecordBatch::new_empty(Arc::clone(&self.input))));
        }
        let stood = self.groups.len() > 0;
        let stands = |groups: &Groups, group: &u32| groups.rows[*group as usize] > 0;
        let global = self.is_global();
        self.steps += 1;
        // Change by change, so that what is found for its rows is still in the cache when they are added.
        let (mut touched, mut before) = (Vec::new(), Vec::new());
        for change in &inputs {
            let from = touched.len();
            let numbered = self.touch(change, &mut touched)?;
            let new = &touched[from..];
            self.thaw(new)?;
            let known = new.iter().filter(|group| if global { stood } else { stands(&self.groups, group) });
            let known: Vec<u32> = known.copied().collect();
            if !known.is_empty() {
                before.push(Standing { results: self.results(&known)?, groups: known });
            }
            self.take_in(change, &numbered)?;
        }
        let before = self.all_standing(before)?;
        for fold in &mut self.folds {
            fold.settle(&touched, self.groups.numbers())?;
        }
        if touched.iter().any(|group| self.groups.rows[*group as usize] < 0) {
            return Err(retracted_too_often());
        }
        let standing = touched.iter().filter(|group| global || stands(&self.groups, group));
        let standing: Vec<u32> = standing.copied().collect();
        let after = Standing { results: self.results(&standing)?, groups: standing };
        if self.expiry.is_some() {
            let old: HashSet<u32> = before.groups.iter().copied().collect();
            let new: Vec<u32> = after.groups.iter().copied().filter(|group| !old.contains(group)).collect();
            self.note(&new)?;
        }
        let out = self.difference(before, after)?;
        let gone = touched.iter().filter(|group| !global && self.groups.rows[**group as usize] == 0);
        self.note_gone(&gone.copied().collect::<Vec<_>>())?;
        for group in touched {
            self.groups.change(group);
            if !global && self.groups.rows[group as usize] == 0 {
                self.folds.iter_mut().for_each(|fold| fold.remove(group));
                self.groups.remove(group);
            }
        }
        self.expire(context)?;
        Ok(out)
    }

    fn save(&mut self) -> Result<Vec<Saved>> {
        if let Some(saved) = self.save_groups()? {
            return Ok(vec![saved]);
        }
        let changed = self.groups.take_changed();
        self.saved_rows += changed.len();
        let whole = std::mem::take(&mut self.save_whole);
        let mut all = Vec::new();
        all.push(if whole || self.saved_rows > 2 * self.groups.len() + 1000 {
            let alive = self.groups.all();
            self.saved_rows = alive.len();
            Saved::Whole(vec![self.states(&alive)?].into())
        } else if changed.is_empty() {
            Saved::Unchanged
        } else {
            Saved::Added(vec![self.states(&changed)?].into())
        });
        for fold in &mut self.folds {
            all.extend(fold.save(self.shard, whole)?);
        }
        Ok(all)
    }

    fn restore(&mut self, saved: Vec<Pieces>, shard: Shard) -> Result<()> {
        let mut parts = saved.into_iter();
        if self.cold.is_some() {
            return self.restore_keyed(parts.next().unwrap_or_default(), shard);
        }
        let batches = parts.next().unwrap_or_default().collect::<Result<Vec<_>>>()?;
        let rows = concat(&self.saved, &batches)?;
        drop(batches);
        self.saved_rows = rows.num_rows();
        self.save_whole = shard.moved;
        let renumbered = self.restore_groups(rows, shard)?;
        for fold in &mut self.folds {
            if fold.has_part() {
                fold.restore(parts.next().unwrap_or_default(), &renumbered)?;
            }
        }
        Ok(())
    }

    fn size(&self) -> (usize, usize) {
        (self.groups.len() + self.cold.as_ref().map_or(0, Cold::len), self.bytes())
    }

    fn spill(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        self.spill_groups(bytes, disk)
    }
}
