//! Rows in order, and what has changed of them since the last checkpoint.
//!
//! Enters: keys that end with the bytes of a row, each with a weight. Leaves: rows, and batches for a checkpoint. Always
//! holds: what is saved is by how much weights have changed, or all rows, block by block. The rows go to disk where they
//! do not fit into memory; the keys that have changed since the last checkpoint stay in memory.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::execution::disk_manager::DiskManager;

use super::Shard;
use super::log::{Log, ToSave};
use super::pages::{Entry, Key, Pages};
use crate::change::{Changes, Encoded, RowEncoder, nullable, with_columns};
use crate::checkpoint::Saved;
use crate::error::Result;

/// Rows that are saved in one batch.
const BLOCK: usize = 32 * 1024;

/// A row that has changed.
struct Moved {
    /// Its weight at the last checkpoint, and now.
    saved: i64,
    now: i64,
    /// Where in the key it begins.
    row: u32,
}

/// Rows by key.
pub(super) struct KeptRows {
    schema: SchemaRef,
    encoder: RowEncoder,
    rows: Pages,
    log: Log<Key, Moved>,
}

impl KeptRows {
    /// Of rows with these columns.
    pub(super) fn new(columns: &Schema) -> Result<Self> {
        Ok(Self {
            schema: nullable(columns),
            encoder: RowEncoder::of(columns)?,
            rows: Pages::new(),
            log: Log::default(),
        })
    }

    /// The columns.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The rows, where nothing is changed.
    pub(super) fn pages(&self) -> &Pages {
        &self.rows
    }

    /// The bytes of rows, with which their keys end.
    pub(super) fn encode(&self, change: &Changes) -> Result<Encoded> {
        self.encoder.encode(change.rows.columns(), change.len())
    }

    /// The columns of rows; each with the place in its key.
    pub(super) fn decode<'a>(&self, keys: impl Iterator<Item = (&'a Key, u32)>) -> Result<Vec<ArrayRef>> {
        self.encoder.decode(keys.map(|(key, row)| &key[row as usize..]))
    }

    /// Adds to the weight of a row; gives what it is then.
    pub(super) fn add(&mut self, key: Key, more: Entry) -> Result<i64> {
        let before = self.rows.add(&key, more)?;
        let now = before + more.weight;
        // As it was: what comes and goes again is no reason to grow.
        self.log.update(self.rows.len(), key, |known| {
            let saved = known.map_or(before, |known| known.saved);
            (saved != now).then_some(Moved { saved, now, row: more.row })
        });
        Ok(now)
    }

    /// How much more each of these rows weighs than at the last checkpoint.
    fn batch<'a>(&self, rows: impl Iterator<Item = (&'a Key, u32, i64)> + Clone) -> Result<RecordBatch> {
        let columns = self.decode(rows.clone().map(|(key, row, _)| (key, row)))?;
        let weights = Int64Array::from_iter_values(rows.map(|(_, _, weight)| weight));
        Changes::weighted(with_columns(&self.schema, columns, weights.len())?, weights).with_weight_column()
    }

    /// What has changed since the last call.
    pub(super) fn save(&mut self) -> Result<Saved> {
        let saved = self.log.take(self.rows.len(), false);
        let mut parts = Vec::new();
        match &saved {
            ToSave::Nothing => {}
            ToSave::Changed(changed) => {
                let changed: Vec<(&Key, &Moved)> = changed.iter().collect();
                for block in changed.chunks(BLOCK) {
                    parts.push(self.batch(block.iter().map(|(key, row)| (*key, row.row, row.now - row.saved)))?);
                }
            }
            ToSave::All => self.rows.blocks(BLOCK, |block| {
                parts.push(self.batch(block.iter().map(|(key, entry)| (*key, entry.row, entry.weight)))?);
                Ok(())
            })?,
        }
        Ok(saved.of(parts))
    }

    /// What one batch of a checkpoint says.
    pub(super) fn saved(&self, batch: &RecordBatch) -> Result<Changes> {
        let change = Changes::from_weight_column(batch)?;
        let rows = with_columns(&self.schema, change.rows.columns().to_vec(), change.len())?;
        Ok(Changes { rows, weights: change.weights })
    }

    /// What was added so far is of a checkpoint. Lets rows go to disk.
    pub(super) fn restored_some(&mut self, shard: Shard) -> Result<()> {
        self.log.clear();
        shard.fit(self.rows.bytes(), |bytes, disk| self.rows.spill(bytes, disk))
    }

    /// All of a checkpoint was taken over. `moved`: from other shards, so that all has to be saved again.
    pub(super) fn restored(&mut self, moved: bool) {
        self.log.restored(self.rows.len(), moved);
    }

    /// Rows and bytes, about.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.rows.len(), self.rows.bytes())
    }

    /// Puts rows on disk until so many bytes of memory are free, or none can go; gives how many are.
    pub(super) fn spill(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        self.rows.spill(bytes, disk)
    }
}
