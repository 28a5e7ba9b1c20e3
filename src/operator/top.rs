//! ORDER BY … LIMIT … OFFSET, and LIMIT alone.
//!
//! Enters: changes, all in one shard. Leaves: what enters the rows from the first to the last that are wanted, and what
//! leaves them. Always holds: rows that are equal by ORDER BY stand in the order of all their columns, so the same
//! input gives the same rows; over input that never retracts no more rows are kept than are wanted. Those that are not
//! wanted now go to disk where they do not fit into memory; those that are stay there.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::execution::disk_manager::DiskManager;
use datafusion::physical_expr::PhysicalExpr;

use super::keys::evaluate;
use super::log::{Log, ToSave};
use super::pages::{Entry, Key, Pages};
use super::{EpochContext, Operator, Shard};
use crate::change::{Changes, RowEncoder, concat, consolidate, retracted_too_often, take_rows, with_columns};
use crate::checkpoint::{Pieces, Saved};
use crate::error::Result;

/// Rows that are saved in one batch.
const BLOCK: usize = 32 * 1024;

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
    rows: Pages,
    /// The sum of their weights.
    total: i64,
    /// What was wanted at the end of the last epoch, in order.
    shown: Vec<(Key, Entry)>,
    log: Log<Key, Entry>,
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
            rows: Pages::new(),
            total: 0,
            shown: Vec::new(),
            log: Log::default(),
        })
    }

    /// The places of rows in the order.
    fn places(&self, rows: &RecordBatch) -> Result<Vec<(Key, u32)>> {
        let columns = self.encoder.encode(rows.columns(), rows.num_rows())?;
        if self.by.is_empty() {
            return Ok((0..rows.num_rows()).map(|row| (columns.row(row).into(), 0)).collect());
        }
        let sorted = self.sorter.convert_columns(&evaluate(&self.by, rows)?)?;
        let place = |row: usize| {
            let by = sorted.row(row);
            let by: &[u8] = by.data();
            ([by, columns.row(row)].concat().into_boxed_slice(), by.len() as u32)
        };
        Ok((0..rows.num_rows()).map(place).collect())
    }

    /// Adds to the weight of a row; gives what it is then.
    fn add(&mut self, place: &Key, more: Entry) -> Result<i64> {
        self.total += more.weight;
        Ok(self.rows.add(place, more)? + more.weight)
    }

    /// The rows that are wanted, in order.
    fn wanted(&self) -> Result<Vec<(Key, Entry)>> {
        let mut wanted = Vec::new();
        let mut passed = 0_i64;
        for row in self.rows.from(&[]) {
            let (place, entry) = row?;
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
        Ok(wanted)
    }

    /// Drops what can never be wanted.
    fn drop_rest(&mut self) -> Result<()> {
        while self.total > self.end {
            let last = self.rows.before(None).next().transpose()?;
            let Some((place, entry)) = last.map(|(place, entry)| (place.clone(), *entry)) else { break };
            let surplus = entry.weight.min(self.total - self.end);
            let weight = self.add(&place, Entry { weight: -surplus, ..entry })?;
            self.log.set(place, Entry { weight, ..entry });
        }
        Ok(())
    }

    fn decode<'a>(&self, entries: impl Iterator<Item = (&'a Key, u32)>) -> Result<RecordBatch> {
        let rows: Vec<&[u8]> = entries.map(|(place, row)| &place[row as usize..]).collect();
        let count = rows.len();
        with_columns(&self.schema, self.encoder.decode(rows)?, count)
    }

    /// These rows, as a checkpoint holds them.
    fn saved(&self, rows: &[(&Key, &Entry)]) -> Result<RecordBatch> {
        let weights = Int64Array::from_iter_values(rows.iter().map(|(_, entry)| entry.weight));
        let rows = self.decode(rows.iter().map(|(place, entry)| (*place, entry.row)))?;
        Changes::weighted(rows, weights).with_weight_column()
    }

    fn difference(&self, before: &[(Key, Entry)], after: &[(Key, Entry)]) -> Result<Vec<Changes>> {
        let mut changes: BTreeMap<&Key, (i64, u32)> = BTreeMap::new();
        for (sign, entries) in [(-1, before), (1, after)] {
            for (place, entry) in entries {
                changes.entry(place).or_insert((0, entry.row)).0 += sign * entry.weight;
            }
        }
        changes.retain(|_, (weight, _)| *weight != 0);
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.decode(changes.iter().map(|(place, (_, row))| (*place, *row)))?;
        let weights = Int64Array::from_iter_values(changes.values().map(|(weight, _)| *weight));
        Ok(vec![Changes::weighted(rows, weights)])
    }
}

impl Operator for Top {
    fn step(&mut self, inputs: Vec<Vec<Changes>>, _context: &EpochContext) -> Result<Vec<Changes>> {
        let mut epoch: BTreeMap<Key, Entry> = BTreeMap::new();
        for change in inputs.iter().flatten() {
            for (at, (place, row)) in self.places(&change.rows)?.into_iter().enumerate() {
                epoch.entry(place).or_insert(Entry { weight: 0, order: 0, row }).weight += change.weight(at);
            }
        }
        epoch.retain(|_, entry| entry.weight != 0);
        let Some((first, _)) = epoch.first_key_value() else { return Ok(Vec::new()) };
        // What is behind the last row that is wanted does not show, if all are there that are wanted.
        let shown: i64 = self.shown.iter().map(|(_, entry)| entry.weight).sum();
        let behind = self.shown.last().is_some_and(|(last, _)| first > last);
        let hidden = shown == self.end - self.skip && behind;
        for (place, entry) in &epoch {
            let weight = self.add(place, *entry)?;
            if weight < 0 {
                return Err(retracted_too_often());
            }
            self.log.set(place.clone(), Entry { weight, ..*entry });
        }
        if self.bounded {
            self.drop_rest()?;
        }
        if hidden {
            return Ok(Vec::new());
        }
        let wanted = self.wanted()?;
        let before = std::mem::replace(&mut self.shown, wanted);
        self.difference(&before, &self.shown)
    }

    fn save(&mut self) -> Result<Vec<Saved>> {
        let saved = self.log.take(self.rows.len(), false);
        let mut parts = Vec::new();
        match &saved {
            ToSave::Nothing => {}
            ToSave::Changed(changed) => {
                for block in changed.iter().collect::<Vec<_>>().chunks(BLOCK) {
                    parts.push(self.saved(block)?);
                }
            }
            ToSave::All => self.rows.blocks(BLOCK, |block| {
                parts.push(self.saved(block)?);
                Ok(())
            })?,
        }
        Ok(vec![saved.of(parts)])
    }

    fn restore(&mut self, saved: Vec<Pieces>, shard: Shard) -> Result<()> {
        if shard.index > 0 {
            return Ok(());
        }
        for batch in saved.into_iter().flatten() {
            let batch = &batch?;
            let change = Changes::from_weight_column(batch)?;
            self.log.restored(change.len(), shard.moved);
            for (at, (place, row)) in self.places(&change.rows)?.into_iter().enumerate() {
                // Of a row that was saved several times the last counts.
                let before = self.rows.get(&place)?.map_or(0, |entry| entry.weight);
                self.add(&place, Entry { weight: change.weight(at) - before, order: 0, row })?;
            }
            self.log.take_changed();
            shard.fit(self.rows.bytes(), |bytes, disk| self.rows.spill(bytes, disk))?;
        }
        self.shown = self.wanted()?;
        Ok(())
    }

    fn size(&self) -> (usize, usize) {
        (self.rows.len(), self.rows.bytes())
    }

    fn spill(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        self.rows.spill(bytes, disk)
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

    fn spill(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        self.first.spill(bytes, disk)
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
        Ok(vec![Saved::Whole(vec![with_columns(&Self::schema(), vec![seen], 1)?].into())])
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
