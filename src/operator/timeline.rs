//! Rows by partition, and within it in the order of their times.
//!
//! Enters: changes of rows that have a time. Leaves: the rows of a range of times, and what is before and behind it.
//! Always holds: equal rows are one row with a weight; they go to disk where they do not fit into memory (`pages.rs`).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::SchemaRef;
use datafusion::common::DFSchema;
use datafusion::execution::SessionState;
use datafusion::execution::disk_manager::DiskManager;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;

use super::exchange::Exchange;
use super::kept::KeptRows;
use super::keys::{KeyHasher, evaluate, evaluate_key, nulls};
use super::pages::{Entry, Key};
use super::{Shard, physical};
use crate::change::{Changes, RowEncoder, retracted_too_often};
use crate::checkpoint::{Pieces, Saved};
use crate::error::Result;
use crate::times::ordered;

/// Bytes of a time within a key.
const TIME: usize = 8;

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
    rows: KeptRows,
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
            rows: KeptRows::new(input.as_arrow())?,
        })
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        self.rows.schema()
    }

    pub(super) fn time(&self) -> &Arc<dyn PhysicalExpr> {
        &self.time
    }

    /// How its input is divided.
    pub(super) fn exchange(&self) -> Result<Exchange> {
        let types = self.partition.iter().map(|expr| Ok(expr.data_type(self.schema())?));
        Exchange::by_key(self.partition.clone(), types.collect::<Result<_>>()?)
    }

    /// Where the rows of a change belong.
    pub(super) fn place(&self, change: &Changes) -> Result<Vec<Placed>> {
        let partition = evaluate(&self.partition, &change.rows)?;
        let nulls = nulls(&partition);
        let partitions = self.partition_encoder.encode(&partition, change.len())?;
        let times = ordered(&self.time.evaluate(&change.rows)?.into_array(change.len())?)?;
        let rows = self.rows.encode(change)?;
        let placed = |row: usize| {
            let partition = partitions.row(row);
            let order = partition.len() as u32;
            let entry = Entry { weight: change.weight(row), order, row: order + TIME as u32 };
            let key = [partition, &bytes_of(times.value(row)), rows.row(row)].concat().into_boxed_slice();
            let nowhere = times.is_null(row) || nulls.as_ref().is_some_and(|nulls| nulls[row]);
            Placed { key, entry, nowhere }
        };
        Ok((0..change.len()).map(placed).collect())
    }

    /// Adds the rows of an epoch.
    pub(super) fn add_all(&mut self, rows: Vec<Placed>) -> Result<()> {
        let retracts = rows.iter().any(|row| row.entry.weight < 0);
        let keys: Vec<Key> = if retracts { rows.iter().map(|row| row.key.clone()).collect() } else { Vec::new() };
        for row in rows {
            self.rows.add(row.key, row.entry)?;
        }
        for key in keys {
            if self.get(&key)?.is_some_and(|entry| entry.weight < 0) {
                return Err(retracted_too_often());
            }
        }
        Ok(())
    }

    /// Forgets a row.
    pub(super) fn remove(&mut self, key: Key, entry: Entry) -> Result<()> {
        self.rows.add(key, Entry { weight: -entry.weight, ..entry }).map(|_| ())
    }

    pub(super) fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.rows.pages().get(key)
    }

    /// The last row of a partition before a time, or at it.
    pub(super) fn last(&self, prefix: &[u8], time: i64, or_at: bool) -> Result<Option<&Key>> {
        let end = match time.checked_add(1).filter(|_| or_at) {
            Some(behind) => at(prefix, behind),
            None if or_at => [prefix, &[0xFF; TIME + 1]].concat(),
            None => at(prefix, time),
        };
        let last = self.rows.pages().before(Some(&end)).next().transpose()?;
        Ok(last.map(|(key, _)| key).filter(|key| key.starts_with(prefix)))
    }

    /// The first row of a partition behind a time, or at it.
    pub(super) fn first(&self, prefix: &[u8], time: i64, or_at: bool) -> Result<Option<&Key>> {
        let Some(time) = (if or_at { Some(time) } else { time.checked_add(1) }) else { return Ok(None) };
        let first = self.rows.pages().from(&at(prefix, time)).next().transpose()?;
        Ok(first.map(|(key, _)| key).filter(|key| key.starts_with(prefix)))
    }

    /// The rows of a partition from one time to another, both of them with it.
    pub(super) fn between<'a>(
        &'a self,
        prefix: &'a [u8],
        (first, last): (i64, i64),
    ) -> impl Iterator<Item = Result<(&'a Key, &'a Entry)>> {
        let (start, end) = (at(prefix, first), at(prefix, last));
        let within = move |key: &Key| key.starts_with(prefix) && key[..end.len()] <= *end;
        self.rows.pages().from(&start).take_while(move |row| row.as_ref().map_or(true, |(key, _)| within(key)))
    }

    /// The columns of rows; each with the place in its key.
    pub(super) fn decode<'a>(&self, keys: impl Iterator<Item = (&'a Key, u32)>) -> Result<Vec<ArrayRef>> {
        self.rows.decode(keys)
    }

    /// What has changed since the last call.
    pub(super) fn save(&mut self) -> Result<Saved> {
        self.rows.save()
    }

    /// Takes over what was saved, as far as it belongs to this shard.
    pub(super) fn restore(&mut self, saved: Pieces, shard: Shard) -> Result<()> {
        for batch in saved {
            let change = self.rows.saved(&batch?)?;
            let hashes = self.hasher.hashes(&evaluate_key(&self.partition, &change.rows)?, change.len())?;
            for (placed, hash) in self.place(&change)?.into_iter().zip(hashes) {
                if shard.has(hash) {
                    self.rows.add(placed.key, placed.entry)?;
                }
            }
            self.rows.restored_some(shard)?;
        }
        self.rows.restored(shard.moved);
        Ok(())
    }

    /// All rows.
    pub(super) fn all(&self) -> impl Iterator<Item = Result<(&Key, &Entry)>> {
        self.rows.pages().from(&[])
    }

    /// Rows and bytes, about.
    pub(super) fn size(&self) -> (usize, usize) {
        self.rows.size()
    }

    /// Puts rows on disk until so many bytes of memory are free, or none can go; gives how many are.
    pub(super) fn spill(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        self.rows.spill(bytes, disk)
    }
}
