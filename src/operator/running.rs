//! Window functions that look at all rows up to a row: running sums, numbers, first values.
//!
//! Enters: changes. Leaves: what differs in the results from the first change of each partition on. Always holds: what is
//! kept is the input, in order, and now and then what the functions have come to; from the last such mark before a change
//! on, the results before and after are both computed, so the work of an epoch follows the rows behind the change. The
//! rows go to disk where they do not fit into memory; the marks stay there.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{filter, prep_null_mask_filter};
use arrow::datatypes::SchemaRef;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::execution::disk_manager::DiskManager;
use datafusion::logical_expr::{Accumulator, Window as Plan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};

use super::exchange::Exchange;
use super::keys::evaluate;
use super::ordered::OrderedRows;
use super::pages::{Entry, Key};
use super::{EpochContext, Operator, Shard, physical};
use crate::change::{Changes, consolidate, nullable, retracted_too_often, with_columns};
use crate::checkpoint::{Pieces, Saved};
use crate::error::Result;
use crate::planner::{Eviction, Rank, SoFar, SoFarKind, ordered_by};

/// Rows from one mark to the next, at least.
const MARK_ROWS: u64 = 256;

/// Rows that are computed at once, at least.
const BATCH_ROWS: usize = 8192;

/// One function.
struct Function {
    kind: Kind,
    args: Vec<Arc<dyn PhysicalExpr>>,
    filter: Option<Arc<dyn PhysicalExpr>>,
    by_rows: bool,
}

enum Kind {
    Rank(Rank),
    First,
    Last,
    Aggregate(Box<AggregateFunctionExpr>),
}

/// What a function has come to.
enum So {
    Far(Box<dyn Accumulator>),
    Value(Option<ScalarValue>),
}

/// The same, at rest.
#[derive(Debug, Clone)]
enum Rest {
    Far(Vec<ScalarValue>),
    Value(Option<ScalarValue>),
}

/// Behind the rows up to a key.
struct Mark {
    rows: u64,
    groups: u64,
    functions: Vec<Rest>,
}

/// Where in a partition the functions stand.
struct Stand {
    rows: u64,
    groups: u64,
    functions: Vec<So>,
    /// Rows since the last mark.
    unmarked: u64,
}

/// The arguments of a function over a batch.
struct Args {
    columns: Vec<ArrayRef>,
    selected: Option<BooleanArray>,
}

/// Rows of partitions, one behind the other, whole groups of equal order.
#[derive(Default)]
struct Batch<'a> {
    /// The key, where its row begins; which of the touched partitions.
    rows: Vec<(&'a Key, u32)>,
    partitions: Vec<usize>,
    /// Where groups of equal order end.
    ends: Vec<usize>,
}

/// A partition, and the first group of equal order that a change is in.
type Touched = BTreeMap<Key, Key>;

/// Marks, and the rows behind which they stand.
type Marks = Vec<(Key, Mark)>;

/// The partitions of one shard.
pub(super) struct RunningRows {
    kept: OrderedRows,
    functions: Vec<Function>,
    /// By the last key that it is behind, which is the last one of a group of equal order.
    marks: BTreeMap<Key, Mark>,
    output: SchemaRef,
}

impl Function {
    fn new(run: &SoFar, input: &DFSchema, state: &SessionState) -> Result<Self> {
        let args = run.args.iter().map(|arg| physical(arg, input, state)).collect::<Result<Vec<_>>>()?;
        let kind = match &run.kind {
            SoFarKind::Rank(rank) => Kind::Rank(*rank),
            SoFarKind::First => Kind::First,
            SoFarKind::Last => Kind::Last,
            SoFarKind::Aggregate(udf) => {
                let builder = AggregateExprBuilder::new(Arc::clone(udf), args.clone());
                Kind::Aggregate(Box::new(builder.schema(Arc::clone(input.inner())).alias(udf.name()).build()?))
            }
        };
        let filter = run.filter.as_ref().map(|filter| physical(filter, input, state)).transpose()?;
        Ok(Self { kind, args, filter, by_rows: run.by_rows })
    }

    fn begin(&self, from: Option<&Rest>) -> Result<So> {
        Ok(match (&self.kind, from) {
            (Kind::Aggregate(function), from) => {
                let mut accumulator = function.create_accumulator()?;
                if let Some(Rest::Far(state)) = from {
                    let state = state.iter().map(|value| Ok(value.to_array()?)).collect::<Result<Vec<_>>>()?;
                    accumulator.merge_batch(&state)?;
                }
                So::Far(accumulator)
            }
            (_, Some(Rest::Value(value))) => So::Value(value.clone()),
            _ => So::Value(None),
        })
    }

    fn args(&self, rows: &RecordBatch) -> Result<Args> {
        let selected = self.filter.as_ref().map(|filter| filter.evaluate(rows)?.into_array(rows.num_rows()));
        let selected = selected.transpose()?.map(|selected| {
            let selected = selected.as_boolean();
            if selected.null_count() > 0 { prep_null_mask_filter(selected) } else { selected.clone() }
        });
        Ok(Args { columns: evaluate(&self.args, rows)?, selected })
    }

    /// The results of a group of rows of equal order; `before` it there were so many rows and groups.
    fn group(
        &self,
        so: &mut So,
        args: &Args,
        rows: std::ops::Range<usize>,
        before: (u64, u64),
        out: &mut Vec<ScalarValue>,
    ) -> Result<()> {
        let (start, count) = (rows.start, rows.len());
        match (&self.kind, so) {
            (Kind::Rank(rank), _) => out.extend((0..count as u64).map(|row| {
                ScalarValue::UInt64(Some(match rank {
                    Rank::RowNumber => before.0 + row + 1,
                    Rank::Rank => before.0 + 1,
                    Rank::DenseRank => before.1 + 1,
                }))
            })),
            (Kind::First, So::Value(value)) => {
                if value.is_none() {
                    *value = Some(ScalarValue::try_from_array(&args.columns[0], start)?);
                }
                out.extend(std::iter::repeat_n(value.clone(), count).flatten());
            }
            (Kind::Last, _) => {
                for row in rows.clone() {
                    let row = if self.by_rows { row } else { rows.end - 1 };
                    out.push(ScalarValue::try_from_array(&args.columns[0], row)?);
                }
            }
            (_, So::Far(accumulator)) if self.by_rows => {
                for row in rows {
                    args.update(accumulator.as_mut(), row, 1)?;
                    out.push(accumulator.evaluate()?);
                }
            }
            (_, So::Far(accumulator)) => {
                args.update(accumulator.as_mut(), start, count)?;
                let value = accumulator.evaluate()?;
                out.extend(std::iter::repeat_n(value, count));
            }
            _ => {}
        }
        Ok(())
    }
}

impl Args {
    fn update(&self, accumulator: &mut dyn Accumulator, start: usize, count: usize) -> Result<()> {
        let columns = self.columns.iter().map(|column| column.slice(start, count));
        let Some(selected) = &self.selected else { return Ok(accumulator.update_batch(&columns.collect::<Vec<_>>())?) };
        let selected = selected.slice(start, count);
        let columns = columns.map(|column| Ok(filter(&column, &selected)?)).collect::<Result<Vec<_>>>()?;
        Ok(accumulator.update_batch(&columns)?)
    }
}

impl Batch<'_> {
    /// Rows of the last group may follow.
    fn end_group(&mut self) {
        if self.ends.last().copied().unwrap_or(0) < self.rows.len() {
            self.ends.push(self.rows.len());
        }
    }
}

impl RunningRows {
    pub(super) fn new(window: &Plan, runs: &[SoFar], evict: &[Eviction], state: &SessionState) -> Result<Self> {
        let input = window.input.schema();
        let functions = runs.iter().map(|run| Function::new(run, input, state));
        Ok(Self {
            kept: OrderedRows::new(input, ordered_by(window), evict, state)?,
            functions: functions.collect::<Result<_>>()?,
            marks: BTreeMap::new(),
            output: nullable(window.schema.as_arrow()),
        })
    }

    /// How its input is divided.
    pub(super) fn exchange(&self) -> Result<Exchange> {
        self.kept.exchange()
    }

    /// The mark before a change.
    fn mark(&self, partition: &Key, from: &Key) -> Option<(&Key, &Mark)> {
        self.marks.range::<[u8], _>((Bound::Included(&partition[..]), Bound::Excluded(&from[..]))).next_back()
    }

    fn begin(&self, mark: Option<&Mark>) -> Result<Stand> {
        let at = |at: usize| mark.map(|mark| &mark.functions[at]);
        let functions = self.functions.iter().enumerate().map(|(place, function)| function.begin(at(place)));
        let (rows, groups) = mark.map_or((0, 0), |mark| (mark.rows, mark.groups));
        Ok(Stand { rows, groups, functions: functions.collect::<Result<_>>()?, unmarked: 0 })
    }

    /// The results of partitions from their first change on, each with this weight; and the marks between.
    fn results(&self, touched: &Touched, weight: i64) -> Result<(Vec<Changes>, Marks)> {
        let (mut all, mut marks) = (Vec::new(), Vec::new());
        let partitions: Vec<(&Key, &Key)> = touched.iter().collect();
        let mut stand = (usize::MAX, self.begin(None)?);
        let mut batch = Batch::default();
        for (at, (partition, from)) in partitions.iter().enumerate() {
            let mark = self.mark(partition, from).map(|(key, _)| key);
            let start = mark.unwrap_or(partition);
            let mut last: Option<&[u8]> = None;
            for row in self.kept.from(start, partition) {
                let (key, entry) = row?;
                // The mark stands behind its row.
                if mark == Some(key) {
                    continue;
                }
                let order = &key[..entry.row as usize];
                if last.is_some_and(|last| last != order) {
                    batch.end_group();
                    if batch.rows.len() >= BATCH_ROWS {
                        self.compute(&batch, &partitions, &mut stand, weight, (&mut all, &mut marks))?;
                        batch = Batch::default();
                    }
                }
                last = Some(order);
                for _ in 0..entry.weight.max(0) {
                    batch.rows.push((key, entry.row));
                    batch.partitions.push(at);
                }
            }
            batch.end_group();
        }
        self.compute(&batch, &partitions, &mut stand, weight, (&mut all, &mut marks))?;
        Ok((all, marks))
    }

    /// The results of a batch; `stand` is where the functions are, and in which partition.
    fn compute(
        &self,
        batch: &Batch<'_>,
        partitions: &[(&Key, &Key)],
        stand: &mut (usize, Stand),
        weight: i64,
        (all, marks): (&mut Vec<Changes>, &mut Marks),
    ) -> Result<()> {
        let count = batch.rows.len();
        if count == 0 {
            return Ok(());
        }
        let columns = self.kept.decode(batch.rows.iter().copied())?;
        let rows = with_columns(self.kept.schema(), columns, count)?;
        let args = self.functions.iter().map(|function| function.args(&rows)).collect::<Result<Vec<_>>>()?;
        let mut results: Vec<Vec<ScalarValue>> = vec![Vec::with_capacity(count); self.functions.len()];
        let mut wanted = Vec::with_capacity(count);
        let mut start = 0;
        for end in &batch.ends {
            let at = batch.partitions[start];
            let (partition, from) = partitions[at];
            if stand.0 != at {
                *stand = (at, self.begin(self.mark(partition, from).map(|(_, mark)| mark))?);
            }
            let stand = &mut stand.1;
            for ((function, so), (args, out)) in
                self.functions.iter().zip(&mut stand.functions).zip(args.iter().zip(&mut results))
            {
                function.group(so, args, start..*end, (stand.rows, stand.groups), out)?;
            }
            stand.pass((end - start) as u64);
            let last = batch.rows[end - 1].0;
            wanted.extend(std::iter::repeat_n(last >= from, end - start));
            if stand.unmarked >= MARK_ROWS {
                marks.push((last.clone(), stand.rest()?));
                // What has been asked for its state may not go on.
                stand.functions = self.begin(marks.last().map(|(_, mark)| mark))?.functions;
            }
            start = *end;
        }
        let mut columns = rows.columns().to_vec();
        for values in results {
            columns.push(ScalarValue::iter_to_array(values)?);
        }
        let rows = with_columns(&self.output, columns, count)?;
        let rows = arrow::compute::filter_record_batch(&rows, &BooleanArray::from(wanted))?;
        let weights = vec![weight; rows.num_rows()];
        all.push(Changes::weighted(rows, weights.into()));
        Ok(())
    }

    /// Forgets the marks of a partition from here on.
    fn unmark(&mut self, partition: &Key, from: &Key) {
        let range = self.marks.range::<[u8], _>((Bound::Included(&from[..]), Bound::Unbounded));
        let gone = range.map(|(key, _)| key).take_while(|key| key.starts_with(partition));
        for key in gone.cloned().collect::<Vec<_>>() {
            self.marks.remove(&key);
        }
    }
}

impl Stand {
    fn pass(&mut self, rows: u64) {
        self.rows += rows;
        self.groups += 1;
        self.unmarked += rows;
    }

    fn rest(&mut self) -> Result<Mark> {
        self.unmarked = 0;
        let rest = |so: &mut So| {
            Ok(match so {
                So::Far(accumulator) => Rest::Far(accumulator.state()?),
                So::Value(value) => Rest::Value(value.clone()),
            })
        };
        let functions = self.functions.iter_mut().map(rest).collect::<Result<_>>()?;
        Ok(Mark { rows: self.rows, groups: self.groups, functions })
    }
}

/// The groups of equal order that are first touched in each partition.
fn first_touched(keys: &[(Key, Entry)]) -> Touched {
    let mut touched = Touched::new();
    for (key, entry) in keys {
        let group = &key[..entry.row as usize];
        match touched.get_mut(&key[..entry.order as usize]) {
            Some(first) if group < &first[..] => *first = group.into(),
            Some(_) => {}
            None => {
                touched.insert(key[..entry.order as usize].into(), group.into());
            }
        }
    }
    touched
}

impl Operator for RunningRows {
    fn step(&mut self, inputs: Vec<Vec<Changes>>, context: &EpochContext) -> Result<Vec<Changes>> {
        let changes: Vec<Changes> = inputs.into_iter().flatten().collect();
        let mut difference = None;
        if let Some(change) = consolidate(self.kept.schema(), &changes)? {
            let keys = self.kept.keys(&change)?;
            self.kept.note(&change, &keys, &mut BTreeSet::new())?;
            let touched = first_touched(&keys);
            let (mut all, _) = self.results(&touched, -1)?;
            for (partition, from) in &touched {
                self.unmark(partition, from);
            }
            for (key, entry) in keys {
                if self.kept.add(key, entry)? < 0 {
                    return Err(retracted_too_often());
                }
            }
            let (new, marks) = self.results(&touched, 1)?;
            self.marks.extend(marks);
            all.extend(new);
            difference = consolidate(&self.output, &all)?;
        }
        for partition in self.kept.forget_over(context)? {
            self.unmark(&partition, &partition);
        }
        Ok(difference.into_iter().collect())
    }

    fn save(&mut self) -> Result<Vec<Saved>> {
        self.kept.save()
    }

    fn restore(&mut self, saved: Vec<Pieces>, shard: Shard) -> Result<()> {
        self.kept.restore(saved, shard)
    }

    fn size(&self) -> (usize, usize) {
        let (rows, bytes) = self.kept.size();
        // A mark has a key and some numbers of each function.
        let keys: usize = self.marks.first_key_value().map_or(0, |(key, _)| key.len());
        (rows, bytes + self.marks.len() * (keys + 64 + 160 * self.functions.len()))
    }

    fn spill(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        self.kept.spill(bytes, disk)
    }
}
