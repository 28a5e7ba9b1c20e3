//! Semi, anti and mark joins on equal keys.
//!
//! Enters: changes of the rows, and of the rows that they are tested against. Leaves: changes of the rows that stand.
//! Always holds: of the tests only the keys are kept, each once; a test that comes beside others of its key costs
//! nothing more, however many rows have that key. NOT IN knows NULL: how many tests there are, and how many of them
//! are NULL, is the same number in every shard.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt64Array, new_null_array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::common::NullEquality;
use datafusion::execution::SessionState;
use datafusion::execution::disk_manager::DiskManager;
use datafusion::logical_expr::{Expr, Join as Plan};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;

use super::arrangement::Side;
use super::expiry::Expiry;
use super::index::NONE;
use super::join::{Kept, forget, key_exprs, key_types, restore_side};
use super::keys::{KeyHasher, evaluate_key, nulls};
use super::multiset::{Applied, BLOCK, Matches, Multiset};
use super::{EpochContext, Operator, Shard, physical};
use crate::change::{Changes, nullable, take_rows, with_columns};
use crate::checkpoint::{Pieces, Saved};
use crate::error::Result;
use crate::planner::Eviction;

/// Tests of NOT IN, over all shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Tally {
    rows: i64,
    nulls: i64,
}

/// The join of one shard's keys.
pub(super) struct Exists {
    /// Which input the rows are; the other one are the tests.
    side: usize,
    kept: Kept,
    exprs: [Vec<Arc<dyn PhysicalExpr>>; 2],
    hasher: KeyHasher,
    nulls_match: bool,
    null_aware: bool,
    rows: Side,
    /// The keys of the tests.
    tests: Multiset,
    tests_expiry: Option<Expiry<u32>>,
    key: SchemaRef,
    tests_only_grow: bool,
    tally: Tally,
    tally_changed: bool,
    output: SchemaRef,
    append_only: bool,
}

/// True for the joins that this operator is for.
pub(super) fn suits(join: &Plan) -> bool {
    let kept = Kept::of(join.join_type);
    join.filter.is_none() && kept.iter().any(|kept| matches!(kept, Kept::Semi | Kept::Anti | Kept::Mark))
}

/// The columns of a [`Tally`]'s change.
pub(super) fn tally_schema() -> SchemaRef {
    let field = |name| Field::new(name, DataType::Int64, false);
    Arc::new(Schema::new(vec![field("rows"), field("nulls")]))
}

impl Exists {
    pub(super) fn new(
        plan: &Plan,
        rests: [bool; 2],
        append_only: [bool; 2],
        (output_append_only, evict): (bool, &[Eviction]),
        state: &SessionState,
    ) -> Result<Self> {
        let kept = Kept::of(plan.join_type);
        let side = usize::from(kept[0] == Kept::No);
        let schema = if side == 0 { plan.left.schema() } else { plan.right.schema() };
        let types = key_types(plan)?;
        let fields = types.iter().enumerate().map(|(at, kind)| Field::new(format!("key{at}"), kind.clone(), true));
        let key = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let columns = nullable(schema.as_arrow());
        // Tests at rest will never ask for rows.
        let stored = !rests[1 - side];
        let evicted = |side: usize| evict.iter().find(|eviction| eviction.input == side);
        let rows = match evicted(side) {
            Some(eviction) => {
                let expiry = Expiry::new(eviction, physical(&eviction.value, schema, state)?, state)?;
                Side::forgetting(columns, false, stored, expiry)?
            }
            None => Side::new(columns, append_only[side], false, stored)?,
        };
        // Of tests there are the keys.
        let place = |eviction: &Eviction| {
            let own = |(left, right): &(Expr, Expr)| *(if side == 0 { right } else { left }) == eviction.value;
            plan.on.iter().position(own)
        };
        let tests_expiry = match evicted(1 - side).and_then(|eviction| Some((eviction, place(eviction)?))) {
            Some((eviction, at)) => {
                let value = Arc::new(Column::new(key.field(at).name(), at));
                Some(Expiry::new(eviction, value, state)?)
            }
            None => None,
        };
        Ok(Self {
            side,
            kept: kept[side],
            exprs: key_exprs(plan, state)?,
            hasher: KeyHasher::new(types)?,
            nulls_match: plan.null_equality == NullEquality::NullEqualsNull,
            null_aware: plan.null_aware,
            rows,
            tests: Multiset::new(Arc::clone(&key), false)?,
            key,
            tests_expiry,
            tests_only_grow: append_only[1 - side],
            tally: Tally::default(),
            tally_changed: false,
            output: nullable(plan.schema.as_arrow()),
            append_only: output_append_only,
        })
    }

    fn look_up(&self, rows: &RecordBatch) -> Result<LookedUp> {
        let keys = evaluate_key(&self.exprs[self.side], rows)?;
        let nulls = if self.nulls_match { None } else { nulls(&keys) };
        let found = self.tests.find(&keys, rows.num_rows())?;
        let is_null = |row: usize| nulls.as_ref().is_some_and(|nulls| nulls[row]);
        let matched = found.iter().enumerate().map(|(row, slot)| *slot != NONE && !is_null(row)).collect();
        Ok(LookedUp { keys, nulls, matched })
    }

    /// True if a row without a test stands, for NOT IN.
    fn is_open(&self, key_is_null: bool) -> bool {
        !self.null_aware || if key_is_null { self.tally.rows == 0 } else { self.tally.nulls == 0 }
    }

    fn apply_rows(&mut self, change: &Changes, out: &mut Vec<Changes>) -> Result<()> {
        let LookedUp { keys, nulls, matched } = self.look_up(&change.rows)?;
        let is_null = |row: usize| nulls.as_ref().is_some_and(|nulls| nulls[row]);
        let stands = |row: &usize| match self.kept {
            Kept::Mark => true,
            Kept::Semi => matched[*row],
            _ => !matched[*row] && self.is_open(is_null(*row)),
        };
        let standing: Vec<usize> = (0..change.len()).filter(stands).collect();
        let weights = standing.iter().map(|row| change.weight(*row)).collect();
        let marks = standing.iter().map(|row| matched[*row]).collect();
        let places = UInt64Array::from_iter_values(standing.iter().map(|row| *row as u64));
        self.emit(&take_rows(&change.rows, &places)?, weights, marks, out)?;

        let mut hashes = self.hasher.hashes(&keys, change.len())?;
        if nulls.is_none() || self.null_aware {
            return self.rows.add(change, &hashes, Matches::Of(&[]));
        }
        // No test is for a row without a key.
        let asked: Vec<u64> = (0..change.len()).filter(|row| !is_null(*row)).map(|row| row as u64).collect();
        hashes = asked.iter().map(|row| hashes[*row as usize]).collect();
        self.rows.add(&change.take(&UInt64Array::from(asked))?, &hashes, Matches::Of(&[]))
    }

    fn apply_tests(&mut self, change: &Changes, out: &mut Vec<Changes>) -> Result<()> {
        let keys = evaluate_key(&self.exprs[1 - self.side], &change.rows)?;
        let nulls = if self.nulls_match { None } else { nulls(&keys) };
        let rows = with_columns(&self.key, keys, change.len())?;
        let mut change = Changes { rows, weights: change.weights.clone() };
        if let Some(nulls) = nulls {
            let keyed = (0..change.len()).filter(|row| !nulls[*row]).map(|row| row as u64);
            change = change.take(&UInt64Array::from_iter_values(keyed))?;
        }
        if self.tests_only_grow {
            let found = self.tests.find(change.rows.columns(), change.len())?;
            let new = found.iter().enumerate().filter(|(_, slot)| **slot == NONE).map(|(row, _)| row as u64);
            change = change.take(&UInt64Array::from_iter_values(new))?;
        }
        let applied = self.apply_to_tests(&change, Matches::Of(&[]))?;
        let flipped = applied.iter().filter(|row| (row.before != 0) != (row.after != 0));
        let (places, matched): (Vec<u64>, Vec<bool>) = flipped.map(|row| (row.row as u64, row.after != 0)).unzip();
        if !places.is_empty() && self.is_open(false) {
            self.flip(&change.take(&UInt64Array::from(places))?.rows, &matched, out)?;
        }
        Ok(())
    }

    fn apply_to_tests(&mut self, change: &Changes, matches: Matches<'_>) -> Result<Vec<Applied>> {
        let applied = self.tests.apply(change, matches)?;
        if let Some(expiry) = &mut self.tests_expiry {
            let values = expiry.values(&change.rows)?;
            for test in applied.iter().filter(|test| test.is_new && !values.is_null(test.row)) {
                expiry.push(values.value(test.row), test.slot);
            }
        }
        Ok(applied)
    }

    /// Forgets rows and tests that are over.
    fn forget(&mut self, context: &EpochContext) -> Result<()> {
        forget(&mut self.rows, &self.exprs[self.side], &self.hasher, context)?;
        let Some(expiry) = &mut self.tests_expiry else { return Ok(()) };
        let (slots, rows) = expiry.rows_over(self.tests.rows(), context)?;
        let weights = Int64Array::from_iter_values(slots.iter().map(|slot| -self.tests.weight(*slot)));
        self.tests.apply(&Changes::weighted(rows, weights), Matches::Of(&[]))?;
        Ok(())
    }

    /// The rows of keys that have got their first test, or lost their last.
    fn flip(&self, keys: &RecordBatch, matched: &[bool], out: &mut Vec<Changes>) -> Result<()> {
        let hashes = self.hasher.hashes(keys.columns(), matched.len())?;
        let mut walk = self.rows.walk(&hashes, |_| true);
        loop {
            let (places, slots) = self.rows.step(&mut walk);
            if places.is_empty() {
                return Ok(());
            }
            let rows = self.rows.gather(&slots)?;
            let theirs = evaluate_key(&self.exprs[self.side], &rows)?;
            let ours = take_rows(keys, &UInt64Array::from(places.clone()))?;
            let equal = self.hasher.equal(ours.columns(), &theirs, slots.len())?;
            let mut flipped = Flipped::default();
            for (at, slot) in slots.iter().enumerate() {
                if equal.as_ref().is_none_or(|equal| equal.value(at)) {
                    flipped.push(self.kept, at, matched[places[at] as usize], self.rows.weight(*slot));
                }
            }
            self.emit_flipped(&rows, flipped, out)?;
        }
    }

    /// NOT IN: what becomes of all rows when the first NULL comes or the last one goes, and of those without a key
    /// when the first test comes or the last one goes.
    fn apply_tally(&mut self, change: &Changes, out: &mut Vec<Changes>) -> Result<()> {
        let before = self.tally;
        for (column, sum) in [(0, &mut self.tally.rows), (1, &mut self.tally.nulls)] {
            *sum += change.rows.column(column).as_primitive::<Int64Type>().values().iter().sum::<i64>();
        }
        self.tally_changed |= self.tally != before;
        let (rows, nulls) = (before.rows == 0, before.nulls == 0);
        if rows != (self.tally.rows == 0) {
            let kinds = self.key.fields().iter().map(|field| new_null_array(field.data_type(), 1));
            let hashes = self.hasher.hashes(&kinds.collect::<Vec<_>>(), 1)?;
            let mut walk = self.rows.walk(&hashes, |_| true);
            loop {
                let (_, slots) = self.rows.step(&mut walk);
                if slots.is_empty() {
                    break;
                }
                self.reopen(&slots, true, rows, out)?;
            }
        }
        if nulls != (self.tally.nulls == 0) {
            for slots in self.rows.live().chunks(BLOCK) {
                self.reopen(slots, false, nulls, out)?;
            }
        }
        Ok(())
    }

    /// Rows with a key, or those without one, that stood before and do so no more, or the other way round.
    fn reopen(&self, slots: &[u32], without_key: bool, stood: bool, out: &mut Vec<Changes>) -> Result<()> {
        let rows = self.rows.gather(slots)?;
        let LookedUp { nulls, matched, .. } = self.look_up(&rows)?;
        let mut flipped = Flipped::default();
        for (at, slot) in slots.iter().enumerate() {
            let is_null = nulls.as_ref().is_some_and(|nulls| nulls[at]);
            if is_null == without_key && !matched[at] {
                flipped.push(self.kept, at, stood, self.rows.weight(*slot));
            }
        }
        self.emit_flipped(&rows, flipped, out)
    }

    fn emit_flipped(&self, rows: &RecordBatch, flipped: Flipped, out: &mut Vec<Changes>) -> Result<()> {
        self.emit(&take_rows(rows, &UInt64Array::from(flipped.places))?, flipped.weights, flipped.marks, out)
    }

    fn emit(&self, rows: &RecordBatch, weights: Vec<i64>, marks: Vec<bool>, out: &mut Vec<Changes>) -> Result<()> {
        if weights.is_empty() {
            return Ok(());
        }
        let mut columns = rows.columns().to_vec();
        if self.kept == Kept::Mark {
            columns.push(Arc::new(BooleanArray::from(marks)));
        }
        let rows = with_columns(&self.output, columns, weights.len())?;
        let change = Changes::weighted(rows, Int64Array::from(weights));
        out.push(if self.append_only { Changes::inserted(crate::change::repeat(&change)?) } else { change });
        Ok(())
    }
}

/// Rows by their keys.
struct LookedUp {
    keys: Vec<ArrayRef>,
    /// Where a key column is NULL, and that matters.
    nulls: Option<Vec<bool>>,
    /// Whether each has a test.
    matched: Vec<bool>,
}

/// Rows that begin or cease to stand.
#[derive(Default)]
struct Flipped {
    places: Vec<u64>,
    weights: Vec<i64>,
    marks: Vec<bool>,
}

impl Flipped {
    fn push(&mut self, kept: Kept, at: usize, matched: bool, weight: i64) {
        kept.flipped(matched, weight, |weight, mark| {
            self.places.push(at as u64);
            self.weights.push(weight);
            self.marks.push(mark);
        });
    }
}

impl Operator for Exists {
    fn step(&mut self, mut inputs: Vec<Vec<Changes>>, context: &EpochContext) -> Result<Vec<Changes>> {
        let mut out = Vec::new();
        let tallies = if inputs.len() > 2 { inputs.remove(2) } else { Vec::new() };
        let rows = std::mem::take(&mut inputs[self.side]);
        // Tests first: what they say of new rows needs no correction then.
        for change in inputs.into_iter().flatten().filter(|change| !change.is_empty()) {
            self.apply_tests(&change, &mut out)?;
        }
        for change in tallies.iter().filter(|change| !change.is_empty()) {
            self.apply_tally(change, &mut out)?;
        }
        for change in rows.iter().filter(|change| !change.is_empty()) {
            self.apply_rows(change, &mut out)?;
        }
        self.forget(context)?;
        Ok(out)
    }

    fn save(&mut self) -> Result<Vec<Saved>> {
        let mut saved = vec![self.rows.save()?, self.tests.save()?];
        if self.null_aware {
            saved.push(if std::mem::take(&mut self.tally_changed) {
                let column = |sum: i64| Arc::new(Int64Array::from(vec![sum])) as ArrayRef;
                let columns = vec![column(self.tally.rows), column(self.tally.nulls)];
                Saved::Whole(vec![with_columns(&tally_schema(), columns, 1)?].into())
            } else {
                Saved::Unchanged
            });
        }
        Ok(saved)
    }

    fn restore(&mut self, mut saved: Vec<Pieces>, shard: Shard) -> Result<()> {
        saved.resize_with(3, Pieces::default);
        let (tally, tests) = (saved.pop().unwrap_or_default(), saved.pop().unwrap_or_default());
        let rows = saved.pop().unwrap_or_default();
        restore_side(&mut self.rows, &self.exprs[self.side], &self.hasher, rows, shard)?;
        for batch in tests {
            let (change, _) = self.tests.saved_parts(&batch?)?;
            let hashes = self.hasher.hashes(change.rows.columns(), change.len())?;
            let mine = (0..change.len()).filter(|row| shard.has(hashes[*row])).map(|row| row as u64);
            self.apply_to_tests(&change.take(&UInt64Array::from_iter_values(mine))?, Matches::More(&[]))?;
        }
        if !shard.moved {
            self.tests.mark_saved();
        }
        // Each shard has saved the same.
        if let Some(tally) = tally.last().transpose()? {
            let sum = |column: usize| tally.column(column).as_primitive::<Int64Type>().value(0);
            self.tally = Tally { rows: sum(0), nulls: sum(1) };
            self.tally_changed = shard.moved;
        }
        Ok(())
    }

    fn size(&self) -> (usize, usize) {
        let expiry = self.tests_expiry.as_ref().map_or(0, Expiry::bytes);
        (self.rows.count() + self.tests.rows().len(), self.rows.bytes() + self.tests.bytes() + expiry)
    }

    fn spill(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        let freed = self.rows.spill(bytes, disk)?;
        Ok(freed + self.tests.spill(bytes.saturating_sub(freed), disk)?)
    }
}
