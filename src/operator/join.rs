//! Joins of two growing sides.
//!
//! Enters: changes of either side. Leaves: changes of the result, weights multiplied. Always holds: each side's
//! change meets all that the other side holds: ΔL ⋈ R, then (L + ΔL) ⋈ ΔR; outer joins, and others whose condition
//! is more than equal keys, count the matches of each kept row, and answer when the count leaves 0 or comes back to
//! it. Pairs are made in blocks: a join without keys needs memory for its result, and not for all pairs.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt64Array, new_null_array};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{DFSchema, JoinType, NullEquality};
use datafusion::execution::SessionState;
use datafusion::execution::disk_manager::DiskManager;
use datafusion::logical_expr::{ExprSchemable, Join as Plan};
use datafusion::physical_expr::PhysicalExpr;
use hashbrown::HashMap;

use super::arrangement::Side;
use super::expiry::Expiry;
use super::keys::{KeyHasher, evaluate_key, nulls};
use super::multiset::Matches;
use super::{EpochContext, Operator, Shard, physical};
use crate::change::{Changes, nullable, take_rows, with_columns};
use crate::checkpoint::{Pieces, Saved};
use crate::error::Result;
use crate::planner::Eviction;

/// What becomes of the rows of a side by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// Nothing.
    No,
    /// They stand with NULLs while they have no match.
    Outer,
    /// They stand while they have a match.
    Semi,
    /// They stand while they have none.
    Anti,
    /// They stand with a column that says whether they have one.
    Mark,
}

impl Kept {
    /// Of both sides.
    pub(super) fn of(join: JoinType) -> [Self; 2] {
        match join {
            JoinType::Inner => [Kept::No, Kept::No],
            JoinType::Left => [Kept::Outer, Kept::No],
            JoinType::Right => [Kept::No, Kept::Outer],
            JoinType::Full => [Kept::Outer, Kept::Outer],
            JoinType::LeftSemi => [Kept::Semi, Kept::No],
            JoinType::RightSemi => [Kept::No, Kept::Semi],
            JoinType::LeftAnti => [Kept::Anti, Kept::No],
            JoinType::RightAnti => [Kept::No, Kept::Anti],
            JoinType::LeftMark => [Kept::Mark, Kept::No],
            JoinType::RightMark => [Kept::No, Kept::Mark],
        }
    }

    /// What a row of this weight adds to the result when its first match comes, or its last one goes: weights, each
    /// with the mark of the row.
    pub(super) fn flipped(self, matched: bool, weight: i64, mut push: impl FnMut(i64, bool)) {
        match self {
            Kept::Mark => {
                push(-weight, !matched);
                push(weight, matched);
            }
            Kept::Semi => push(if matched { weight } else { -weight }, matched),
            _ => push(if matched { -weight } else { weight }, matched),
        }
    }
}

/// The join of one shard's keys.
pub(super) struct Join {
    sides: [Side; 2],
    kept: [Kept; 2],
    exprs: [Vec<Arc<dyn PhysicalExpr>>; 2],
    hasher: KeyHasher,
    /// A side is at rest.
    rests: [bool; 2],
    /// The result has the columns of both sides.
    pairs: bool,
    nulls_match: bool,
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// Columns of both sides.
    both: SchemaRef,
    output: SchemaRef,
    append_only: bool,
}

/// One side's change on its way through the join.
struct Change<'a> {
    side: usize,
    rows: &'a Changes,
    keys: Vec<ArrayRef>,
    /// The matches of each row, counted by weight.
    counts: Vec<i64>,
    /// Rows of the other side whose count changes, with what it was.
    touched: HashMap<u32, i64>,
}

/// The key expressions of both sides.
pub(super) fn key_exprs(join: &Plan, state: &SessionState) -> Result<[Vec<Arc<dyn PhysicalExpr>>; 2]> {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for (l, r) in &join.on {
        left.push(physical(l, join.left.schema(), state)?);
        right.push(physical(r, join.right.schema(), state)?);
    }
    Ok([left, right])
}

/// The types of the keys, which are the same on both sides.
pub(super) fn key_types(join: &Plan) -> Result<Vec<DataType>> {
    join.on.iter().map(|(left, _)| Ok(left.get_type(join.left.schema())?)).collect()
}

impl Join {
    pub(super) fn new(
        plan: &Plan,
        rests: [bool; 2],
        append_only: [bool; 2],
        (output_append_only, evict): (bool, &[Eviction]),
        state: &SessionState,
    ) -> Result<Self> {
        let joined = plan.left.schema().join(plan.right.schema())?;
        let filter = plan.filter.as_ref();
        let filter = filter.map(|filter| physical(filter, &joined, state)).transpose()?;
        let kept = Kept::of(plan.join_type);
        let pairs = matches!(plan.join_type, JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full);
        let side = |at: usize, schema: &DFSchema| {
            // What a side at rest will never ask for is not stored.
            let (columns, counted, stored) = (nullable(schema.as_arrow()), kept[at] != Kept::No, !rests[1 - at]);
            match evict.iter().find(|eviction| eviction.input == at) {
                Some(eviction) => {
                    let expiry = Expiry::new(eviction, physical(&eviction.value, schema, state)?, state)?;
                    Side::forgetting(columns, counted, stored, expiry)
                }
                None => Side::new(columns, append_only[at], counted, stored),
            }
        };
        Ok(Self {
            sides: [side(0, plan.left.schema())?, side(1, plan.right.schema())?],
            kept,
            exprs: key_exprs(plan, state)?,
            hasher: KeyHasher::new(key_types(plan)?)?,
            rests,
            pairs,
            nulls_match: plan.null_equality == NullEquality::NullEqualsNull,
            filter,
            both: nullable(joined.as_arrow()),
            output: nullable(plan.schema.as_arrow()),
            append_only: output_append_only,
        })
    }

    /// The side that is applied first: one that rests; or else the one of fewer rows, if the rows of the other can be
    /// forgotten, of which those need not be kept that are over when the epoch ends.
    fn first(&self, inputs: &[Vec<Changes>]) -> usize {
        let rows = |side: usize| inputs[side].iter().map(Changes::len).sum::<usize>();
        match self.rests {
            [false, false] => usize::from(self.sides[0].forgets() && (!self.sides[1].forgets() || rows(0) > rows(1))),
            [_, right] => usize::from(right),
        }
    }

    /// Applies the changes of one side; `out` gets what changes in the result. `last`: no change of the other side comes
    /// behind it in this epoch.
    fn apply(
        &mut self,
        (side, last): (usize, bool),
        rows: &Changes,
        context: &EpochContext,
        out: &mut Vec<Changes>,
    ) -> Result<()> {
        let keys = evaluate_key(&self.exprs[side], &rows.rows)?;
        let hashes = self.hasher.hashes(&keys, rows.len())?;
        let nulls = if self.nulls_match { None } else { nulls(&keys) };
        let (counts, touched) = (vec![0; rows.len()], HashMap::new());
        let mut change = Change { side, rows, keys, counts, touched };
        let mut walk = self.sides[1 - side].walk(&hashes, |row| nulls.as_ref().is_none_or(|nulls| !nulls[row]));
        loop {
            let (rows, slots) = self.sides[1 - side].step(&mut walk);
            if rows.is_empty() {
                break;
            }
            self.meet(&mut change, rows, slots, out)?;
        }
        self.answer_touched(1 - side, &change.touched, out)?;
        self.answer_own(&change, out)?;
        let counts = change.counts;
        let over = if last { self.sides[side].already_over(&rows.rows, context)? } else { None };
        if nulls.is_none() && over.is_none() {
            return self.sides[side].add(rows, &hashes, Matches::Of(&counts));
        }
        // A row without a key meets nothing, ever; one that is over meets nothing from now on.
        let is = |marks: &Option<Vec<bool>>, row: usize| marks.as_ref().is_some_and(|marks| marks[row]);
        let kept = (0..rows.len()).filter(|row| !is(&nulls, *row) && !is(&over, *row));
        let kept: Vec<u64> = kept.map(|row| row as u64).collect();
        let (hashes, counts): (Vec<u64>, Vec<i64>) =
            kept.iter().map(|row| (hashes[*row as usize], counts[*row as usize])).unzip();
        self.sides[side].add(&rows.take(&UInt64Array::from(kept))?, &hashes, Matches::Of(&counts))
    }

    /// Changed rows beside rows of the other side whose key may be theirs.
    fn meet(
        &mut self,
        change: &mut Change<'_>,
        mut rows: Vec<u64>,
        mut slots: Vec<u32>,
        out: &mut Vec<Changes>,
    ) -> Result<()> {
        let (side, other) = (change.side, 1 - change.side);
        let places = UInt64Array::from(rows.clone());
        let mut own = take_rows(&change.rows.rows, &places)?;
        let mut theirs = self.sides[other].gather(&slots)?;
        let keys = change.keys.iter().map(|key| Ok(arrow::compute::take(key, &places, None)?));
        let keys = keys.collect::<Result<Vec<_>>>()?;
        let equal = self.hasher.equal(&keys, &evaluate_key(&self.exprs[other], &theirs)?, rows.len())?;
        if let Some(equal) = equal {
            (own, theirs) = (keep_rows(&own, &equal)?, keep_rows(&theirs, &equal)?);
            keep(&mut rows, &equal);
            keep(&mut slots, &equal);
        }
        let (left, right) = if side == 0 { (own, theirs) } else { (theirs, own) };
        let columns: Vec<ArrayRef> = left.columns().iter().chain(right.columns()).cloned().collect();
        let mut both = with_columns(&self.both, columns, rows.len())?;
        if let Some(filter) = &self.filter {
            let passed = filter.evaluate(&both)?.into_array(rows.len())?;
            let passed = match passed.as_boolean() {
                passed if passed.null_count() > 0 => arrow::compute::prep_null_mask_filter(passed),
                passed => passed.clone(),
            };
            if passed.true_count() < rows.len() {
                both = if self.pairs { keep_rows(&both, &passed)? } else { both };
                keep(&mut rows, &passed);
                keep(&mut slots, &passed);
            }
        }
        let mut weights = Vec::with_capacity(rows.len());
        for (row, slot) in rows.iter().zip(&slots) {
            let (own, theirs) = (change.rows.weight(*row as usize), self.sides[other].weight(*slot));
            weights.push(own * theirs);
            change.counts[*row as usize] += theirs;
            if self.kept[other] != Kept::No {
                change.touched.entry(*slot).or_insert(self.sides[other].matches(*slot));
                self.sides[other].add_matches(*slot, own);
            }
        }
        if self.pairs {
            let rows = with_columns(&self.output, both.columns().to_vec(), weights.len())?;
            self.emit(rows, weights, out);
        }
        Ok(())
    }

    /// What the rows of a change are by themselves.
    fn answer_own(&self, change: &Change<'_>, out: &mut Vec<Changes>) -> Result<()> {
        let kept = self.kept[change.side];
        if kept == Kept::No {
            return Ok(());
        }
        let stands = |row: usize| match kept {
            Kept::Mark => true,
            Kept::Semi => change.counts[row] != 0,
            _ => change.counts[row] == 0,
        };
        let rows: Vec<u64> = (0..change.rows.len()).filter(|row| stands(*row)).map(|row| row as u64).collect();
        let weights = rows.iter().map(|row| change.rows.weight(*row as usize)).collect();
        let marks = rows.iter().map(|row| change.counts[*row as usize] != 0).collect();
        let rows = take_rows(&change.rows.rows, &UInt64Array::from(rows))?;
        self.emit_alone(change.side, &rows, weights, marks, out)
    }

    /// What becomes of rows whose count of matches has left 0 or come back to it.
    fn answer_touched(&self, side: usize, touched: &HashMap<u32, i64>, out: &mut Vec<Changes>) -> Result<()> {
        let matched = |slot: u32| self.sides[side].matches(slot) != 0;
        let flipped = touched.iter().filter(|(slot, before)| (**before != 0) != matched(**slot));
        let mut flipped: Vec<u32> = flipped.map(|(slot, _)| *slot).collect();
        if flipped.is_empty() {
            return Ok(());
        }
        flipped.sort_unstable();
        let (mut slots, mut weights, mut marks) = (Vec::new(), Vec::new(), Vec::new());
        for slot in flipped {
            self.kept[side].flipped(matched(slot), self.sides[side].weight(slot), |weight, mark| {
                slots.push(slot);
                weights.push(weight);
                marks.push(mark);
            });
        }
        let rows = self.sides[side].gather(&slots)?;
        self.emit_alone(side, &rows, weights, marks, out)
    }

    /// Rows of one side by themselves, as the result shows them.
    fn emit_alone(
        &self,
        side: usize,
        rows: &RecordBatch,
        weights: Vec<i64>,
        marks: Vec<bool>,
        out: &mut Vec<Changes>,
    ) -> Result<()> {
        let count = rows.num_rows();
        let mut columns = rows.columns().to_vec();
        match self.kept[side] {
            Kept::Outer => {
                let other = self.sides[1 - side].schema();
                let nulls = other.fields().iter().map(|field| new_null_array(field.data_type(), count));
                if side == 0 {
                    columns.extend(nulls);
                } else {
                    columns = nulls.chain(columns).collect();
                }
            }
            Kept::Mark => columns.push(Arc::new(BooleanArray::from(marks))),
            _ => {}
        }
        self.emit(with_columns(&self.output, columns, count)?, weights, out);
        Ok(())
    }

    fn emit(&self, rows: RecordBatch, weights: Vec<i64>, out: &mut Vec<Changes>) {
        if rows.num_rows() > 0 {
            let plain = self.append_only && weights.iter().all(|weight| *weight == 1);
            out.push(Changes { rows, weights: (!plain).then(|| Int64Array::from(weights)) });
        }
    }
}

/// The rows for which the mask is true.
fn keep_rows(rows: &RecordBatch, mask: &BooleanArray) -> Result<RecordBatch> {
    if rows.num_columns() == 0 {
        return with_columns(&rows.schema(), Vec::new(), mask.true_count());
    }
    Ok(arrow::compute::filter_record_batch(rows, mask)?)
}

fn keep<T>(list: &mut Vec<T>, mask: &BooleanArray) {
    let mut at = 0;
    list.retain(|_| {
        at += 1;
        mask.value(at - 1)
    });
}

impl Operator for Join {
    fn step(&mut self, mut inputs: Vec<Vec<Changes>>, context: &EpochContext) -> Result<Vec<Changes>> {
        let mut out = Vec::new();
        let first = self.first(&inputs);
        for side in [first, 1 - first] {
            for change in std::mem::take(&mut inputs[side]) {
                if !change.is_empty() {
                    self.apply((side, side != first), &change, context, &mut out)?;
                }
            }
        }
        for (side, exprs) in self.sides.iter_mut().zip(&self.exprs) {
            forget(side, exprs, &self.hasher, context)?;
        }
        if self.append_only {
            // An inserted row that matches rows of weight n stands n times.
            return out.into_iter().map(|change| Ok(Changes::inserted(crate::change::repeat(&change)?))).collect();
        }
        Ok(out)
    }

    fn save(&mut self) -> Result<Vec<Saved>> {
        self.sides.iter_mut().map(Side::save).collect()
    }

    fn restore(&mut self, saved: Vec<Pieces>, shard: Shard) -> Result<()> {
        for (side, batches) in saved.into_iter().take(2).enumerate() {
            restore_side(&mut self.sides[side], &self.exprs[side], &self.hasher, batches, shard)?;
        }
        Ok(())
    }

    fn size(&self) -> (usize, usize) {
        let [left, right] = &self.sides;
        (left.count() + right.count(), left.bytes() + right.bytes())
    }

    fn spill(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        let mut freed = 0;
        for side in &mut self.sides {
            freed += side.spill(bytes.saturating_sub(freed), disk)?;
        }
        Ok(freed)
    }
}

/// Forgets the rows of a side that are over.
pub(super) fn forget(
    side: &mut Side,
    exprs: &[Arc<dyn PhysicalExpr>],
    hasher: &KeyHasher,
    context: &EpochContext,
) -> Result<()> {
    let Some(gone) = side.over(context)? else { return Ok(()) };
    let hashes = hasher.hashes(&evaluate_key(exprs, &gone.rows)?, gone.len())?;
    side.add(&gone, &hashes, Matches::Of(&[]))
}

/// Puts back what was saved of a side, as far as it belongs to this shard.
pub(super) fn restore_side(
    side: &mut Side,
    exprs: &[Arc<dyn PhysicalExpr>],
    hasher: &KeyHasher,
    batches: Pieces,
    shard: Shard,
) -> Result<()> {
    for batch in batches {
        let (change, matches) = side.saved_parts(&batch?)?;
        let hashes = hasher.hashes(&evaluate_key(exprs, &change.rows)?, change.len())?;
        let mine: Vec<u64> = (0..change.len()).filter(|row| shard.has(hashes[*row])).map(|row| row as u64).collect();
        let (hashes, matches): (Vec<u64>, Vec<i64>) =
            mine.iter().map(|row| (hashes[*row as usize], matches[*row as usize])).unzip();
        side.add(&change.take(&UInt64Array::from(mine))?, &hashes, Matches::More(&matches))?;
        shard.fit(side.bytes(), |bytes, disk| side.spill(bytes, disk))?;
    }
    side.mark_saved(shard.moved);
    Ok(())
}
