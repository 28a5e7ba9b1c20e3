//! Rows by partition, and within it in the order of their times.
//!
//! Enters: changes of rows that have a time. Leaves: the rows of a range of times, and what is before and behind it.
//! Always holds: equal rows are one row with a weight; a checkpoint gets what has changed since the last, and no more.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::common::DFSchema;
use datafusion::execution::SessionState;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;

use super::exchange::Exchange;
use super::keys::{KeyHasher, evaluate, evaluate_key, nulls};
use super::{Shard, physical};
use crate::change::{Changes, RowEncoder, nullable, retracted_too_often, with_columns};
use crate::checkpoint::{Pieces, Saved};
use crate::error::Result;
use crate::times::ordered;

/// Rows that are saved in one batch.
const BLOCK: usize = 32 * 1024;
/// Bytes of a time within a key.
const TIME: usize = 8;

/// What is compared: the partition, the time, the whole row, one behind the other.
pub(super) type Key = Box<[u8]>;

/// What there is of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) weight: i64,
    /// Where in the key the time begins; the row is behind it.
    pub(super) time: u32,
}

/// A row of a change.
pub(super) struct Placed {
    pub(super) key: Key,
    pub(super) entry: Entry,
    /// Its time or a column of its partition is NULL.
    pub(super) nowhere: bool,
}

/// The rows of one shard.
pub(super) struct Timeline {
    partition: Vec<Arc<dyn PhysicalExpr>>,
    partition_encoder: RowEncoder,
    hasher: KeyHasher,
    time: Arc<dyn PhysicalExpr>,
    encoder: RowEncoder,
    schema: SchemaRef,
    rows: BTreeMap<Key, Entry>,
    /// Bytes of the keys.
    bytes: usize,
    /// What has changed since the last checkpoint, as it was then.
    fresh: BTreeMap<Key, Entry>,
    saved_rows: usize,
}

fn bytes_of(time: i64) -> [u8; TIME] {
    (time ^ i64::MIN).to_be_bytes()
}

/// The time within a key.
pub(super) fn time_in(key: &[u8], at: usize) -> i64 {
    key[at..].first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes) ^ i64::MIN)
}

fn at(prefix: &[u8], time: i64) -> Vec<u8> {
    [prefix, &bytes_of(time)].concat()
}

impl Timeline {
    pub(super) fn new(partition: &[Expr], time: &Expr, input: &DFSchema, state: &SessionState) -> Result<Self> {
        let partition = partition.iter().map(|expr| physical(expr, input, state)).collect::<Result<Vec<_>>>()?;
        let types = partition.iter().map(|expr| Ok(expr.data_type(input.as_arrow())?));
        let types = types.collect::<Result<Vec<_>>>()?;
        Ok(Self {
            partition_encoder: RowEncoder::new(types.clone())?,
            hasher: KeyHasher::new(types)?,
            partition,
            time: physical(time, input, state)?,
            encoder: RowEncoder::of(input.as_arrow())?,
            schema: nullable(input.as_arrow()),
            rows: BTreeMap::new(),
            bytes: 0,
            fresh: BTreeMap::new(),
            saved_rows: 0,
        })
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(super) fn time(&self) -> &Arc<dyn PhysicalExpr> {
        &self.time
    }

    /// How its input is divided.
    pub(super) fn exchange(&self) -> Result<Exchange> {
        let types = self.partition.iter().map(|expr| Ok(expr.data_type(&self.schema)?));
        Exchange::by_key(self.partition.clone(), types.collect::<Result<_>>()?)
    }

    /// Where the rows of a change belong.
    pub(super) fn place(&self, change: &Changes) -> Result<Vec<Placed>> {
        let partition = evaluate(&self.partition, &change.rows)?;
        let nulls = nulls(&partition);
        let partitions = self.partition_encoder.encode(&partition, change.len())?;
        let times = ordered(&self.time.evaluate(&change.rows)?.into_array(change.len())?)?;
        let rows = self.encoder.encode(change.rows.columns(), change.len())?;
        let placed = |row: usize| {
            let partition = partitions.row(row);
            let entry = Entry { weight: change.weight(row), time: partition.len() as u32 };
            let key = [partition, &bytes_of(times.value(row)), rows.row(row)].concat().into_boxed_slice();
            let nowhere = times.is_null(row) || nulls.as_ref().is_some_and(|nulls| nulls[row]);
            Placed { key, entry, nowhere }
        };
        Ok((0..change.len()).map(placed).collect())
    }

    pub(super) fn add(&mut self, key: Key, more: Entry) {
        let old = self.rows.get(&key).copied().unwrap_or(Entry { weight: 0, ..more });
        if !self.fresh.contains_key(&key) {
            self.fresh.insert(key.clone(), old);
        }
        let weight = old.weight + more.weight;
        let was_there = self.rows.contains_key(&key);
        if self.fresh.get(&key).is_some_and(|saved| saved.weight == weight) {
            // As it was: what comes and goes again is no reason to grow.
            self.fresh.remove(&key);
        }
        if weight == 0 {
            self.bytes -= if was_there { key.len() } else { 0 };
            self.rows.remove(&key);
        } else {
            self.bytes += if was_there { 0 } else { key.len() };
            self.rows.insert(key, Entry { weight, ..more });
        }
    }

    /// Adds the rows of an epoch.
    pub(super) fn add_all(&mut self, rows: Vec<Placed>) -> Result<()> {
        let retracts = rows.iter().any(|row| row.entry.weight < 0);
        let keys: Vec<Key> = if retracts { rows.iter().map(|row| row.key.clone()).collect() } else { Vec::new() };
        for row in rows {
            self.add(row.key, row.entry);
        }
        if keys.iter().any(|key| self.rows.get(key).is_some_and(|entry| entry.weight < 0)) {
            return Err(retracted_too_often());
        }
        Ok(())
    }

    /// Forgets a row.
    pub(super) fn remove(&mut self, key: Key, entry: Entry) {
        self.add(key, Entry { weight: -entry.weight, ..entry });
    }

    pub(super) fn get(&self, key: &Key) -> Option<&Entry> {
        self.rows.get(key)
    }

    /// The last row of a partition before a time, or at it.
    pub(super) fn last(&self, prefix: &[u8], time: i64, or_at: bool) -> Option<&Key> {
        let end = match time.checked_add(1).filter(|_| or_at) {
            Some(behind) => at(prefix, behind),
            None if or_at => [prefix, &[0xFF; TIME + 1]].concat(),
            None => at(prefix, time),
        };
        let (key, _) = self.rows.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(end.as_slice()))).next_back()?;
        key.starts_with(prefix).then_some(key)
    }

    /// The first row of a partition behind a time, or at it.
    pub(super) fn first(&self, prefix: &[u8], time: i64, or_at: bool) -> Option<&Key> {
        let start = at(prefix, if or_at { time } else { time.checked_add(1)? });
        let (key, _) = self.rows.range::<[u8], _>((Bound::Included(start.as_slice()), Bound::Unbounded)).next()?;
        key.starts_with(prefix).then_some(key)
    }

    /// The rows of a partition from one time to another, both of them with it.
    pub(super) fn between<'a>(
        &'a self,
        prefix: &'a [u8],
        (first, last): (i64, i64),
    ) -> impl Iterator<Item = (&'a Key, &'a Entry)> {
        let (start, end) = (at(prefix, first), at(prefix, last));
        let range = self.rows.range::<[u8], _>((Bound::Included(start.as_slice()), Bound::Unbounded));
        range.take_while(move |(key, _)| key.starts_with(prefix) && key[..end.len()] <= *end)
    }

    /// The columns of rows; each with the place of its time in the key.
    pub(super) fn decode<'a>(&self, keys: impl Iterator<Item = (&'a Key, u32)>) -> Result<Vec<ArrayRef>> {
        self.encoder.decode(keys.map(|(key, time)| &key[time as usize + TIME..]))
    }

    /// How much more each of these rows weighs than at the last checkpoint.
    fn saved<'a>(&self, rows: impl Iterator<Item = (&'a Key, &'a Entry, i64)> + Clone) -> Result<RecordBatch> {
        let columns = self.decode(rows.clone().map(|(key, entry, _)| (key, entry.time)))?;
        let weights = Int64Array::from_iter_values(rows.map(|(_, _, weight)| weight));
        Changes::weighted(with_columns(&self.schema, columns, weights.len())?, weights).with_weight_column()
    }

    /// What has changed since the last call.
    pub(super) fn save(&mut self) -> Result<Saved> {
        let fresh = std::mem::take(&mut self.fresh);
        let weight = |key: &Key| self.rows.get(key).map_or(0, |entry| entry.weight);
        let changed: Vec<_> = fresh.iter().map(|(key, old)| (key, old, weight(key) - old.weight)).collect();
        let changed: Vec<_> = changed.into_iter().filter(|(_, _, more)| *more != 0).collect();
        if changed.is_empty() {
            return Ok(Saved::Unchanged);
        }
        self.saved_rows += changed.len();
        if self.saved_rows > 2 * self.rows.len() + 1000 {
            self.saved_rows = self.rows.len();
            let all: Vec<_> = self.rows.iter().map(|(key, entry)| (key, entry, entry.weight)).collect();
            let parts = all.chunks(BLOCK).map(|rows| self.saved(rows.iter().copied()));
            return Ok(Saved::Whole(parts.collect::<Result<_>>()?));
        }
        let parts = changed.chunks(BLOCK).map(|rows| self.saved(rows.iter().copied()));
        Ok(Saved::Added(parts.collect::<Result<_>>()?))
    }

    /// Takes over what was saved, as far as it belongs to this shard.
    pub(super) fn restore(&mut self, saved: Pieces, shard: Shard) -> Result<()> {
        for batch in saved {
            let change = Changes::from_weight_column(&batch?)?;
            let rows = with_columns(&self.schema, change.rows.columns().to_vec(), change.len())?;
            let change = Changes { rows, weights: change.weights };
            let hashes = self.hasher.hashes(&evaluate_key(&self.partition, &change.rows)?, change.len())?;
            for (placed, hash) in self.place(&change)?.into_iter().zip(hashes) {
                if shard.has(hash) {
                    self.add(placed.key, placed.entry);
                }
            }
        }
        if !shard.moved {
            self.saved_rows = self.fresh.len();
            self.fresh.clear();
        }
        Ok(())
    }

    /// All rows.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.rows.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Memory, about: the map has about two thirds of its places taken, each a pointer, a length and an entry.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.rows.len() * 48
    }
}
