//! Conditions on the time: `ts > now() - INTERVAL '1 hour'`.
//!
//! Enters: changes, and the time of the epoch. Leaves: the rows for which the conditions hold, inserted when they begin
//! to and retracted when they end, also where no row has come. Always holds: what is shown is what the conditions select
//! at the time of the epoch; a row for which they can never hold again is forgotten, and so is its retraction; the work
//! follows the rows that come, go, begin or end.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::execution::SessionState;
use datafusion::physical_expr::PhysicalExpr;

use super::keys::{canonical, hash};
use super::log::{Log, ToSave};
use super::{EpochContext, Operator, Shard, physical};
use crate::change::{Changes, RowEncoder, WEIGHT, retracted_too_often, with_columns};
use crate::checkpoint::{Pieces, Saved};
use crate::error::Result;
use crate::planner::TimeBound;

/// How often a row is shown, in the files of a checkpoint.
const SHOWN: &str = "__shown";

type Bytes = Box<[u8]>;

/// One condition at work.
struct Bound {
    plan: TimeBound,
    row: Arc<dyn PhysicalExpr>,
    time: Arc<dyn PhysicalExpr>,
    encoder: RowEncoder,
    /// The rows by what the time is compared with.
    order: BTreeSet<(Bytes, u32)>,
    /// What the time came to in the last epoch.
    last: Option<Bytes>,
}

/// A row that may be shown, now or later.
struct Kept {
    row: Bytes,
    /// By condition: what the time is compared with.
    values: Vec<Bytes>,
    weight: i64,
    shown: i64,
}

/// The rows of one shard.
pub(super) struct Temporal {
    bounds: Vec<Bound>,
    schema: SchemaRef,
    saved: SchemaRef,
    encoder: RowEncoder,
    slots: HashMap<Bytes, u32>,
    rows: Vec<Option<Kept>>,
    free: Vec<u32>,
    bytes: usize,
    /// How often the rows that have changed are there and are shown.
    log: Log<Bytes, (i64, i64)>,
}

impl Bound {
    fn new(plan: &TimeBound, state: &SessionState) -> Result<Self> {
        let row = physical(&plan.row, &plan.input, state)?;
        let kind = row.data_type(plan.input.as_arrow())?;
        Ok(Self {
            row,
            time: physical(&plan.time, &plan.input, state)?,
            encoder: RowEncoder::new([kind])?,
            plan: plan.clone(),
            order: BTreeSet::new(),
            last: None,
        })
    }

    /// What the time comes to now; nothing for NULL.
    fn now(&self) -> Result<Option<Bytes>> {
        let schema = Arc::new(Schema::empty());
        let row = with_columns(&schema, Vec::new(), 1)?;
        let value = self.time.evaluate(&row)?.into_array(1)?;
        if value.is_null(0) {
            return Ok(None);
        }
        Ok(Some(self.encoder.encode(&[value], 1)?.row(0).into()))
    }

    fn holds(&self, value: &Bytes, now: &Bytes) -> bool {
        if self.plan.or_equal && value == now {
            return true;
        }
        if self.plan.row_is_greater { value > now } else { value < now }
    }

    /// The condition does not hold, and will not at any later time.
    fn is_over(&self, value: &Bytes, now: &Bytes) -> bool {
        self.plan.rises && self.plan.row_is_greater && !self.holds(value, now)
    }

    /// Rows for which it may have changed since the last epoch; all, if nothing is known of it.
    fn turned(&self, now: &Bytes) -> Vec<u32> {
        let Some(last) = &self.last else { return self.order.iter().map(|(_, slot)| *slot).collect() };
        if last == now {
            return Vec::new();
        }
        let (from, to) = if last < now { (last, now) } else { (now, last) };
        self.order.range((from.clone(), 0)..=(to.clone(), u32::MAX)).map(|(_, slot)| *slot).collect()
    }
}

impl Temporal {
    pub(super) fn new(bounds: &[TimeBound], schema: SchemaRef, state: &SessionState) -> Result<Self> {
        let mut fields = schema.fields().to_vec();
        fields.push(Arc::new(Field::new(SHOWN, DataType::Int64, false)));
        fields.push(Arc::new(Field::new(WEIGHT, DataType::Int64, false)));
        Ok(Self {
            bounds: bounds.iter().map(|bound| Bound::new(bound, state)).collect::<Result<_>>()?,
            encoder: RowEncoder::of(&schema)?,
            schema,
            saved: Arc::new(Schema::new(fields)),
            slots: HashMap::new(),
            rows: Vec::new(),
            free: Vec::new(),
            bytes: 0,
            log: Log::default(),
        })
    }

    /// For each row what the time is compared with, by condition; nothing where one is NULL, and never holds.
    fn values(&self, rows: &RecordBatch) -> Result<Vec<Option<Vec<Bytes>>>> {
        let mut all = vec![Some(Vec::new()); rows.num_rows()];
        for bound in &self.bounds {
            let values: ArrayRef = bound.row.evaluate(rows)?.into_array(rows.num_rows())?;
            let encoded = bound.encoder.encode(std::slice::from_ref(&values), rows.num_rows())?;
            let nulls = values.logical_nulls();
            for (row, found) in all.iter_mut().enumerate() {
                if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                    *found = None;
                }
                if let Some(found) = found {
                    found.push(encoded.row(row).into());
                }
            }
        }
        Ok(all)
    }

    /// The slot of a row, which is kept from now on.
    fn slot(&mut self, row: &[u8], values: Vec<Bytes>) -> u32 {
        if let Some(slot) = self.slots.get(row) {
            return *slot;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.rows.push(None);
            (self.rows.len() - 1) as u32
        });
        for (bound, value) in self.bounds.iter_mut().zip(&values) {
            bound.order.insert((value.clone(), slot));
        }
        self.bytes += 2 * row.len() + values.iter().map(|value| 2 * value.len()).sum::<usize>();
        self.slots.insert(row.into(), slot);
        self.rows[slot as usize] = Some(Kept { row: row.into(), values, weight: 0, shown: 0 });
        slot
    }

    fn forget(&mut self, slot: u32) {
        let Some(kept) = self.rows[slot as usize].take() else { return };
        self.bytes -= 2 * kept.row.len() + kept.values.iter().map(|value| 2 * value.len()).sum::<usize>();
        self.slots.remove(&kept.row);
        for (bound, value) in self.bounds.iter_mut().zip(kept.values) {
            bound.order.remove(&(value, slot));
        }
        self.free.push(slot);
    }

    /// Takes the rows of an epoch in; gives the slots of those that are kept.
    fn take(&mut self, inputs: &[Changes], now: &[Bytes]) -> Result<HashSet<u32>> {
        let mut touched = HashSet::new();
        for change in inputs {
            let encoded = self.encoder.encode(change.rows.columns(), change.len())?;
            for (row, values) in self.values(&change.rows)?.into_iter().enumerate() {
                let Some(values) = values else { continue };
                let over = |((bound, value), now): ((&Bound, &Bytes), &Bytes)| bound.is_over(value, now);
                let known = self.slots.contains_key(encoded.row(row));
                if !known && self.bounds.iter().zip(&values).zip(now).any(over) {
                    continue;
                }
                let slot = self.slot(encoded.row(row), values);
                if let Some(kept) = &mut self.rows[slot as usize] {
                    kept.weight += change.weight(row);
                }
                touched.insert(slot);
            }
        }
        Ok(touched)
    }

    /// Shows or hides these rows; gives the bytes and the weights of what changes.
    fn settle(&mut self, slots: HashSet<u32>, now: &[Bytes]) -> Result<BTreeMap<Bytes, i64>> {
        let mut out = BTreeMap::new();
        for slot in slots {
            let Some(kept) = &mut self.rows[slot as usize] else { continue };
            if kept.weight < 0 {
                return Err(retracted_too_often());
            }
            let bounds = self.bounds.iter().zip(&kept.values).zip(now);
            let holds = bounds.clone().all(|((bound, value), now)| bound.holds(value, now));
            let over = bounds.into_iter().any(|((bound, value), now)| bound.is_over(value, now));
            let shown = if holds { kept.weight } else { 0 };
            if shown != kept.shown {
                out.insert(kept.row.clone(), shown - kept.shown);
            }
            kept.shown = shown;
            let gone = over || kept.weight == 0;
            self.log.set(kept.row.clone(), if gone { (0, 0) } else { (kept.weight, shown) });
            if gone {
                self.forget(slot);
            }
        }
        Ok(out)
    }

    fn decode<'a>(&self, rows: impl IntoIterator<Item = &'a Bytes>) -> Result<Vec<ArrayRef>> {
        self.encoder.decode(rows.into_iter().map(|row| &**row))
    }

    /// What the time comes to now, by condition; nothing if one is NULL.
    fn now(&self) -> Result<Option<Vec<Bytes>>> {
        self.bounds.iter().map(Bound::now).collect()
    }
}

impl Operator for Temporal {
    fn step(&mut self, inputs: Vec<Vec<Changes>>, _context: &EpochContext) -> Result<Vec<Changes>> {
        let Some(now) = self.now()? else { return Ok(Vec::new()) };
        let inputs: Vec<Changes> = inputs.into_iter().flatten().collect();
        let mut touched = self.take(&inputs, &now)?;
        for (bound, now) in self.bounds.iter_mut().zip(&now) {
            touched.extend(bound.turned(now));
            bound.last = Some(now.clone());
        }
        let out = self.settle(touched, &now)?;
        if out.is_empty() {
            return Ok(Vec::new());
        }
        let rows = with_columns(&self.schema, self.decode(out.keys())?, out.len())?;
        Ok(vec![Changes::weighted(rows, Int64Array::from_iter_values(out.into_values()))])
    }

    fn is_due(&mut self) -> Result<bool> {
        let Some(now) = self.now()? else { return Ok(false) };
        let holds = |kept: &Kept| {
            let mut bounds = self.bounds.iter().zip(&kept.values).zip(&now);
            bounds.all(|((bound, value), now)| bound.holds(value, now))
        };
        let differs = |kept: &Kept| kept.shown != if holds(kept) { kept.weight } else { 0 };
        let turned = self.bounds.iter().zip(&now).flat_map(|(bound, now)| bound.turned(now));
        let due = turned.filter_map(|slot| self.rows[slot as usize].as_ref()).any(differs);
        if !due {
            // What was looked at need not be looked at again.
            for (bound, now) in self.bounds.iter_mut().zip(now) {
                bound.last = Some(now);
            }
        }
        Ok(due)
    }

    fn save(&mut self) -> Result<Vec<Saved>> {
        let saved = self.log.take(self.slots.len(), false);
        let all = self.rows.iter().flatten().map(|kept| (kept.row.clone(), (kept.weight, kept.shown)));
        let whole: BTreeMap<Bytes, (i64, i64)>;
        let rows = match &saved {
            ToSave::Nothing => return Ok(vec![Saved::Unchanged]),
            ToSave::Changed(changed) => changed,
            ToSave::All => {
                whole = all.collect();
                &whole
            }
        };
        let mut columns = self.decode(rows.keys())?;
        columns.push(Arc::new(Int64Array::from_iter_values(rows.values().map(|(_, shown)| *shown))));
        columns.push(Arc::new(Int64Array::from_iter_values(rows.values().map(|(weight, _)| *weight))));
        let batch = with_columns(&self.saved, columns, rows.len())?;
        Ok(vec![saved.of(vec![batch])])
    }

    fn restore(&mut self, saved: Vec<Pieces>, shard: Shard) -> Result<()> {
        for batch in saved.into_iter().flatten() {
            let batch = &batch?;
            let columns = self.schema.fields().len();
            let rows = batch.project(&(0..columns).collect::<Vec<_>>())?;
            let shown = batch.column(columns).as_primitive::<Int64Type>();
            let weights = batch.column(columns + 1).as_primitive::<Int64Type>();
            let encoded = self.encoder.encode(rows.columns(), rows.num_rows())?;
            let dealt: Vec<ArrayRef> = rows.columns().iter().map(canonical).collect();
            let dealt = self.encoder.encode(&dealt, rows.num_rows())?;
            self.log.restored(rows.num_rows(), shard.moved);
            for (row, values) in self.values(&rows)?.into_iter().enumerate() {
                let Some(values) = values.filter(|_| shard.has(hash(dealt.row(row)))) else { continue };
                // Of a row that was saved several times the last counts.
                let slot = self.slot(encoded.row(row), values);
                if weights.value(row) == 0 {
                    self.forget(slot);
                } else if let Some(kept) = &mut self.rows[slot as usize] {
                    (kept.weight, kept.shown) = (weights.value(row), shown.value(row));
                }
            }
        }
        Ok(())
    }

    fn size(&self) -> (usize, usize) {
        (self.slots.len(), self.bytes + self.slots.len() * (120 + 40 * self.bounds.len()))
    }
}
