//! Joins of two growing sides.
//!
//! Enters: changes of either side. Leaves: changes of the result, weights multiplied. Always holds: each side's
//! change meets all that the other side holds: ΔL ⋈ R, then (L + ΔL) ⋈ ΔR; outer, semi, anti and mark joins count
//! the matches of each kept row, and answer when the count leaves 0 or comes back to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt64Array, new_null_array};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{JoinType, NullEquality};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{ExprSchemable, Join as Plan};
use datafusion::physical_expr::PhysicalExpr;

use super::arrangement::Side;
use super::keys::{Keys, evaluate, has_null, hash};
use super::{EpochContext, Operator, Shard, physical};
use crate::change::{Changes, RowEncoder, take_rows, with_columns};
use crate::checkpoint::Saved;
use crate::error::Result;

/// Pairs that are made into rows at once.
const PAIRS: usize = 32 * 1024;

/// What becomes of the rows of a side by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
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

/// The join of one shard's keys.
pub(super) struct Join {
    sides: [Side; 2],
    kept: [Kept; 2],
    exprs: [Vec<Arc<dyn PhysicalExpr>>; 2],
    /// The side that comes to rest first is applied first.
    first: usize,
    pairs: bool,
    nulls_match: bool,
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// Columns of both sides.
    both: SchemaRef,
    output: SchemaRef,
    append_only: bool,
    encoder: RowEncoder,
    keys: Keys,
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
        output_append_only: bool,
        state: &SessionState,
    ) -> Result<Self> {
        let exprs = key_exprs(plan, state)?;
        let encoder = RowEncoder::new(key_types(plan)?)?;
        let joined = plan.left.schema().join(plan.right.schema())?;
        let filter = plan.filter.as_ref();
        let filter = filter.map(|filter| physical(filter, &joined, state)).transpose()?;
        let kept = match plan.join_type {
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
        };
        let pairs = matches!(plan.join_type, JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full);
        let schemas = [Arc::clone(plan.left.schema().inner()), Arc::clone(plan.right.schema().inner())];
        let [left, right] = schemas;
        // What a side at rest will never ask for is not stored, unless its own matches are counted.
        let stored = |other: usize| !rests[other] || kept[other] != Kept::No;
        let sides = [Side::new(left, append_only[0], stored(1))?, Side::new(right, append_only[1], stored(0))?];
        Ok(Self {
            sides,
            kept,
            exprs,
            first: usize::from(rests[1]),
            pairs,
            nulls_match: plan.null_equality == NullEquality::NullEqualsNull,
            filter,
            both: Arc::clone(joined.inner()),
            output: Arc::clone(plan.schema.inner()),
            append_only: output_append_only,
            encoder,
            keys: Keys::default(),
        })
    }

    /// Applies the changes of one side; `out` gets what changes in the result.
    fn apply(&mut self, side: usize, change: &Changes, out: &mut Vec<Changes>) -> Result<()> {
        let columns = evaluate(&self.exprs[side], &change.rows)?;
        let encoded = self.encoder.encode(&columns, change.len())?;
        let numbers: Vec<u32> = (0..encoded.len())
            .map(|row| {
                let key = encoded.row(row);
                self.keys.intern(hash(key), key).0
            })
            .collect();
        let mut counts = vec![0_i64; change.len()];
        // Rows of the other side whose count changes, with what it was.
        let mut touched: BTreeMap<u32, i64> = BTreeMap::new();
        let (mut rows, mut slots) = (Vec::new(), Vec::new());
        for (row, number) in numbers.iter().enumerate() {
            if self.nulls_match || !has_null(&columns, row) {
                for slot in self.sides[1 - side].chain(*number) {
                    rows.push(row as u64);
                    slots.push(slot);
                }
            }
            if rows.len() >= PAIRS || (row + 1 == change.len() && !rows.is_empty()) {
                self.meet(side, change, &rows, &slots, &mut counts, &mut touched, out)?;
                rows.clear();
                slots.clear();
            }
        }
        self.answer_touched(1 - side, &touched, out)?;
        self.answer_own(side, change, &counts, out)?;
        self.sides[side].add(change, &numbers, &counts)
    }

    /// Pairs of changed rows and rows of the other side with the same key.
    #[allow(clippy::too_many_arguments)]
    fn meet(
        &mut self,
        side: usize,
        change: &Changes,
        rows: &[u64],
        slots: &[u32],
        counts: &mut [i64],
        touched: &mut BTreeMap<u32, i64>,
        out: &mut Vec<Changes>,
    ) -> Result<()> {
        let other = 1 - side;
        let wants_rows = self.pairs || self.filter.is_some();
        let mut pairs = None;
        let mut keep: Option<BooleanArray> = None;
        if wants_rows {
            let own = take_rows(&change.rows, &UInt64Array::from(rows.to_vec()))?;
            let theirs = self.sides[other].gather(slots)?;
            let (left, right) = if side == 0 { (own, theirs) } else { (theirs, own) };
            let columns: Vec<ArrayRef> = left.columns().iter().chain(right.columns()).cloned().collect();
            let both = with_columns(&self.both, columns, rows.len())?;
            if let Some(filter) = &self.filter {
                let passed = filter.evaluate(&both)?.into_array(rows.len())?;
                keep = Some(passed.as_boolean().clone());
            }
            pairs = Some(both);
        }
        let passes = |at: usize| keep.as_ref().is_none_or(|keep| keep.is_valid(at) && keep.value(at));
        let mut kept = Vec::with_capacity(rows.len());
        let mut weights = Vec::with_capacity(rows.len());
        for at in (0..rows.len()).filter(|at| passes(*at)) {
            let (row, slot) = (rows[at] as usize, slots[at]);
            let (own, theirs) = (change.weight(row), self.sides[other].weight(slot));
            kept.push(at as u64);
            weights.push(own * theirs);
            counts[row] += theirs;
            if self.kept[other] != Kept::No {
                touched.entry(slot).or_insert(self.sides[other].matches(slot));
                self.sides[other].add_matches(slot, own);
            }
        }
        if self.pairs
            && let Some(pairs) = pairs
        {
            let rows = if kept.len() == rows.len() { pairs } else { take_rows(&pairs, &UInt64Array::from(kept))? };
            let rows = with_columns(&self.output, rows.columns().to_vec(), weights.len())?;
            self.emit(rows, weights, out);
        }
        Ok(())
    }

    /// What the rows of a change are by themselves.
    fn answer_own(&self, side: usize, change: &Changes, counts: &[i64], out: &mut Vec<Changes>) -> Result<()> {
        let kept = self.kept[side];
        if kept == Kept::No {
            return Ok(());
        }
        let stands = |row: usize| match kept {
            Kept::Mark => true,
            Kept::Semi => counts[row] != 0,
            _ => counts[row] == 0,
        };
        let rows: Vec<u64> = (0..change.len()).filter(|row| stands(*row)).map(|row| row as u64).collect();
        let weights = rows.iter().map(|row| change.weight(*row as usize)).collect();
        let marks = rows.iter().map(|row| counts[*row as usize] != 0).collect();
        let rows = take_rows(&change.rows, &UInt64Array::from(rows))?;
        self.emit_alone(side, &rows, weights, marks, out)
    }

    /// What becomes of rows whose count of matches has left 0 or come back to it.
    fn answer_touched(&self, side: usize, touched: &BTreeMap<u32, i64>, out: &mut Vec<Changes>) -> Result<()> {
        let kept = self.kept[side];
        let (mut slots, mut weights, mut marks) = (Vec::new(), Vec::new(), Vec::new());
        for (slot, before) in touched {
            let now = self.sides[side].matches(*slot);
            let matched = now != 0;
            if (*before != 0) == matched {
                continue;
            }
            let weight = self.sides[side].weight(*slot);
            let mut push = |weight: i64, mark: bool| {
                slots.push(*slot);
                weights.push(weight);
                marks.push(mark);
            };
            match kept {
                Kept::Mark => {
                    push(-weight, !matched);
                    push(weight, matched);
                }
                Kept::Semi => push(if matched { weight } else { -weight }, matched),
                _ => push(if matched { -weight } else { weight }, matched),
            }
        }
        if slots.is_empty() {
            return Ok(());
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
            let weights = (!self.append_only).then(|| Int64Array::from(weights));
            out.push(Changes { rows, weights });
        }
    }
}

impl Operator for Join {
    fn step(&mut self, mut inputs: Vec<Vec<Changes>>, _context: &EpochContext) -> Result<Vec<Changes>> {
        let mut out = Vec::new();
        for side in [self.first, 1 - self.first] {
            for change in std::mem::take(&mut inputs[side]) {
                if !change.is_empty() {
                    self.apply(side, &change, &mut out)?;
                }
            }
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

    fn restore(&mut self, saved: Vec<Vec<RecordBatch>>, shard: Shard) -> Result<()> {
        let mut sides: Vec<Vec<RecordBatch>> = saved.into_iter().take(2).collect();
        sides.resize(2, Vec::new());
        let mut inputs = Vec::new();
        for (side, batches) in sides.iter().enumerate() {
            let mut changes = Vec::new();
            for rows in batches {
                let mut change = Changes::from_weight_column(rows)?;
                let columns = evaluate(&self.exprs[side], &change.rows)?;
                let encoded = self.encoder.encode(&columns, change.len())?;
                let mine = (0..encoded.len()).filter(|row| shard.has(hash(encoded.row(*row)))).map(|row| row as u64);
                change = change.take(&UInt64Array::from_iter_values(mine))?;
                if self.sides[side].append_only() {
                    change.weights = None;
                }
                changes.push(change);
            }
            inputs.push(changes);
        }
        // The matches are counted again; what comes out was there before.
        let mut ignored = Vec::new();
        for side in [self.first, 1 - self.first] {
            for change in &inputs[side] {
                self.apply(side, change, &mut ignored)?;
                ignored.clear();
            }
        }
        self.sides.iter_mut().for_each(|side| side.mark_saved(shard.moved));
        Ok(())
    }

    fn size(&self) -> (usize, usize) {
        let [left, right] = &self.sides;
        (left.len() + right.len(), left.bytes() + right.bytes() + self.keys.memory())
    }
}
