//! ORDER BY … LIMIT … OFFSET, and LIMIT alone.
//!
//! Enters: changes, all in one shard. Leaves: what enters the rows from the first to the last that are wanted, and what
//! leaves them. Always holds: rows that are equal by ORDER BY stand in the order of all their columns, so the same
//! input gives the same rows; over input that never retracts no more rows are kept than are wanted.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::physical_expr::PhysicalExpr;

use super::keys::evaluate;
use super::log::{Log, ToSave};
use super::{EpochContext, Operator, Shard};
use crate::change::{Changes, RowEncoder, concat, consolidate, retracted_too_often, take_rows, with_columns};
use crate::checkpoint::{Pieces, Saved};
use crate::error::Result;

/// A row's place in the order: what it is sorted by, then all its columns, as bytes.
type Place = Box<[u8]>;

/// How often a row is there, and where its columns begin in its place.
#[derive(Debug, Clone, Copy)]
struct Entry {
    weight: i64,
    columns: usize,
}

/// Rows in order, of which some are wanted.
pub(super) struct Top {
    by: Vec<Arc<dyn PhysicalExpr>>,
    sorter: RowConverter,
    encoder: RowEncoder,
    schema: SchemaRef,
    skip: i64,
    /// The place behind the last row that is wanted.
    end: i64,
    bounded: bool,
    rows: BTreeMap<Place, Entry>,
    bytes: usize,
    /// What was wanted at the end of the last epoch, in order.
    shown: Vec<(Place, Entry)>,
    log: Log<Place, Entry>,
}

impl Top {
    /// Of rows ordered by these, the `fetch` ones behind `skip`. `grows`: the input never retracts.
    pub(super) fn new(
        by: Vec<(Arc<dyn PhysicalExpr>, SortOptions)>,
        (skip, fetch): (usize, usize),
        schema: SchemaRef,
        grows: bool,
    ) -> Result<Self> {
        let field = |(expr, options): &(Arc<dyn PhysicalExpr>, SortOptions)| {
            Ok(SortField::new_with_options(expr.data_type(&schema)?, *options))
        };
        let sorter = RowConverter::new(by.iter().map(field).collect::<Result<_>>()?)?;
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        Ok(Self {
            sorter,
            by: by.into_iter().map(|(expr, _)| expr).collect(),
            encoder: RowEncoder::of(&schema)?,
            schema,
            skip: number(skip),
            end: number(skip.saturating_add(fetch)),
            bounded: grows,
            rows: BTreeMap::new(),
            bytes: 0,
            shown: Vec::new(),
            log: Log::default(),
        })
    }

    /// The places of rows in the order.
    fn places(&self, rows: &RecordBatch) -> Result<Vec<(Place, usize)>> {
        let columns = self.encoder.encode(rows.columns(), rows.num_rows())?;
        if self.by.is_empty() {
            return Ok((0..rows.num_rows()).map(|row| (columns.row(row).into(), 0)).collect());
        }
        let sorted = self.sorter.convert_columns(&evaluate(&self.by, rows)?)?;
        let place = |row: usize| {
            let by = sorted.row(row);
            let by: &[u8] = by.data();
            ([by, columns.row(row)].concat().into_boxed_slice(), by.len())
        };
        Ok((0..rows.num_rows()).map(place).collect())
    }

    fn add(&mut self, place: &Place, added: Entry) -> Result<()> {
        let weight = self.rows.get(place).map_or(0, |entry| entry.weight) + added.weight;
        if weight < 0 {
            return Err(retracted_too_often());
        }
        self.set(place.clone(), Entry { weight, ..added });
        Ok(())
    }

    fn set(&mut self, place: Place, entry: Entry) {
        let len = place.len();
        if entry.weight == 0 {
            if self.rows.remove(&place).is_some() {
                self.bytes -= len;
            }
        } else if self.rows.insert(place, entry).is_none() {
            self.bytes += len;
        }
    }

    /// The rows that are wanted, in order.
    fn wanted(&self) -> Vec<(Place, Entry)> {
        let mut wanted = Vec::new();
        let mut passed = 0_i64;
        for (place, entry) in &self.rows {
            let from = passed.max(self.skip);
            passed = passed.saturating_add(entry.weight);
            let to = passed.min(self.end);
            if to > from {
                wanted.push((place.clone(), Entry { weight: to - from, ..*entry }));
            }
            if passed >= self.end {
                break;
            }
        }
        wanted
    }

    /// Drops what can never be wanted.
    fn drop_rest(&mut self) {
        let total: i64 = self.rows.values().map(|entry| entry.weight).sum();
        let mut surplus = total - self.end;
        while surplus > 0 {
            let Some(mut last) = self.rows.last_entry() else { break };
            let entry = *last.get();
            let left = (entry.weight - surplus).max(0);
            surplus -= entry.weight - left;
            let place = last.key().clone();
            if left == 0 {
                self.bytes -= place.len();
                last.remove();
            } else {
                last.get_mut().weight = left;
            }
            self.log.set(place, Entry { weight: left, ..entry });
        }
    }

    fn decode<'a>(&self, entries: impl Iterator<Item = (&'a Place, usize)>) -> Result<RecordBatch> {
        let rows: Vec<&[u8]> = entries.map(|(place, columns)| &place[columns..]).collect();
        let count = rows.len();
        with_columns(&self.schema, self.encoder.decode(rows)?, count)
    }

    fn difference(&self, before: &[(Place, Entry)], after: &[(Place, Entry)]) -> Result<Vec<Changes>> {
        let mut changes: BTreeMap<&Place, (i64, usize)> = BTreeMap::new();
        for (sign, entries) in [(-1, before), (1, after)] {
            for (place, entry) in entries {
                changes.entry(place).or_insert((0, entry.columns)).0 += sign * entry.weight;
            }
        }
        changes.retain(|_, (weight, _)| *weight != 0);
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.decode(changes.iter().map(|(place, (_, columns))| (*place, *columns)))?;
        let weights = Int64Array::from_iter_values(changes.values().map(|(weight, _)| *weight));
        Ok(vec![Changes::weighted(rows, weights)])
    }
}

impl Operator for Top {
    fn step(&mut self, inputs: Vec<Vec<Changes>>, _context: &EpochContext) -> Result<Vec<Changes>> {
        let mut epoch: BTreeMap<Place, Entry> = BTreeMap::new();
        for change in inputs.iter().flatten() {
            for (row, (place, columns)) in self.places(&change.rows)?.into_iter().enumerate() {
                epoch.entry(place).or_insert(Entry { weight: 0, columns }).weight += change.weight(row);
            }
        }
        epoch.retain(|_, entry| entry.weight != 0);
        let Some((first, _)) = epoch.first_key_value() else { return Ok(Vec::new()) };
        // What is behind the last row that is wanted does not show, if all are there that are wanted.
        let shown: i64 = self.shown.iter().map(|(_, entry)| entry.weight).sum();
        let behind = self.shown.last().is_some_and(|(last, _)| first > last);
        let hidden = shown == self.end - self.skip && behind;
        for (place, entry) in &epoch {
            self.add(place, *entry)?;
            let weight = self.rows.get(place).map_or(0, |entry| entry.weight);
            self.log.set(place.clone(), Entry { weight, ..*entry });
        }
        if self.bounded {
            self.drop_rest();
        }
        if hidden {
            return Ok(Vec::new());
        }
        let wanted = self.wanted();
        let before = std::mem::replace(&mut self.shown, wanted);
        self.difference(&before, &self.shown)
    }

    fn save(&mut self) -> Result<Vec<Saved>> {
        let saved = self.log.take(self.rows.len(), false);
        let entries = match &saved {
            ToSave::Nothing => return Ok(vec![Saved::Unchanged]),
            ToSave::Changed(changed) => changed,
            ToSave::All => &self.rows,
        };
        let rows = self.decode(entries.iter().map(|(place, entry)| (place, entry.columns)))?;
        let weights = Int64Array::from_iter_values(entries.values().map(|entry| entry.weight));
        Ok(vec![saved.of(vec![Changes::weighted(rows, weights).with_weight_column()?])])
    }

    fn restore(&mut self, saved: Vec<Pieces>, shard: Shard) -> Result<()> {
        if shard.index > 0 {
            return Ok(());
        }
        for batch in saved.into_iter().flatten() {
            let batch = &batch?;
            let change = Changes::from_weight_column(batch)?;
            self.log.restored(change.len(), shard.moved);
            for (row, (place, columns)) in self.places(&change.rows)?.into_iter().enumerate() {
                // Of a row that was saved several times the last counts.
                self.set(place, Entry { weight: change.weight(row), columns });
            }
        }
        self.shown = self.wanted();
        Ok(())
    }

    fn size(&self) -> (usize, usize) {
        (self.rows.len(), self.bytes + self.rows.len() * 48)
    }
}

/// OFFSET without LIMIT: all rows but the first ones, which are those that it keeps.
pub(super) struct Rest {
    first: Top,
}

impl Rest {
    /// Of rows ordered by these, all behind the first `skip`.
    pub(super) fn new(
        by: Vec<(Arc<dyn PhysicalExpr>, SortOptions)>,
        skip: usize,
        schema: SchemaRef,
        grows: bool,
    ) -> Result<Self> {
        Ok(Self { first: Top::new(by, (0, skip), schema, grows)? })
    }
}

impl Operator for Rest {
    fn step(&mut self, inputs: Vec<Vec<Changes>>, context: &EpochContext) -> Result<Vec<Changes>> {
        let mut all: Vec<Changes> = inputs.iter().flatten().cloned().collect();
        for first in self.first.step(inputs, context)? {
            let weights = Int64Array::from_iter_values((0..first.len()).map(|row| -first.weight(row)));
            all.push(Changes::weighted(first.rows, weights));
        }
        Ok(consolidate(&self.first.schema, &all)?.into_iter().collect())
    }

    fn save(&mut self) -> Result<Vec<Saved>> {
        self.first.save()
    }

    fn restore(&mut self, saved: Vec<Pieces>, shard: Shard) -> Result<()> {
        self.first.restore(saved, shard)
    }

    fn size(&self) -> (usize, usize) {
        self.first.size()
    }
}

/// LIMIT or OFFSET alone, over input that never retracts: the first rows that come, or all behind them.
pub(super) struct First {
    encoder: RowEncoder,
    skip: usize,
    fetch: usize,
    seen: usize,
    changed: bool,
}

impl First {
    pub(super) fn new((skip, fetch): (usize, usize), schema: &SchemaRef) -> Result<Self> {
        Ok(Self { encoder: RowEncoder::of(schema)?, skip, fetch, seen: 0, changed: false })
    }

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("seen", DataType::Int64, false)]))
    }
}

impl Operator for First {
    fn step(&mut self, inputs: Vec<Vec<Changes>>, _context: &EpochContext) -> Result<Vec<Changes>> {
        let end = self.skip.saturating_add(self.fetch);
        let inputs: Vec<Changes> = inputs.into_iter().flatten().filter(|change| !change.is_empty()).collect();
        let Some(first) = inputs.first().filter(|_| self.seen < end) else { return Ok(Vec::new()) };
        let all = concat(&first.rows.schema(), inputs.iter().map(|change| &change.rows))?;
        // Shards hand over in an order that differs between runs; that of the rows does not.
        let encoded = self.encoder.encode(all.columns(), all.num_rows())?;
        let mut order: Vec<u64> = (0..all.num_rows() as u64).collect();
        order.sort_by(|a, b| encoded.row(*a as usize).cmp(encoded.row(*b as usize)));
        let from = self.skip.saturating_sub(self.seen).min(order.len());
        let to = (end - self.seen).min(order.len());
        self.seen += to;
        self.changed = true;
        Ok(vec![Changes::inserted(take_rows(&all, &UInt64Array::from(order[from..to].to_vec()))?)])
    }

    fn save(&mut self) -> Result<Vec<Saved>> {
        if !std::mem::take(&mut self.changed) {
            return Ok(vec![Saved::Unchanged]);
        }
        let seen = Arc::new(Int64Array::from(vec![self.seen as i64]));
        Ok(vec![Saved::Whole(vec![with_columns(&Self::schema(), vec![seen], 1)?])])
    }

    fn restore(&mut self, saved: Vec<Pieces>, shard: Shard) -> Result<()> {
        if let Some(batch) = saved.into_iter().flatten().last().filter(|_| shard.index == 0) {
            let batch = batch?;
            self.seen = usize::try_from(batch.column(0).as_primitive::<Int64Type>().value(0)).unwrap_or(0);
            self.changed = shard.moved;
        }
        Ok(())
    }

    fn size(&self) -> (usize, usize) {
        (1, 8)
    }
}
