//! Rows that wait for the next change of their key.
//!
//! Enters: rows of which each has a key of its own. Leaves: the same, by their keys. Always holds: a row that is given
//! away is here no more; rows can go to disk, and of each 12 to 30 bytes stay; those that changed since they were last
//! saved are known.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use datafusion::execution::disk_manager::DiskManager;

use super::Shard;
use super::chunks::{Chunks, Snapshot};
use super::index::{Index, tag_of};
use super::keys::{KeyHasher, canonical};
use crate::change::take_rows;
use crate::error::Result;

/// Rows by key.
pub(super) struct Waiting {
    rows: Chunks,
    slots: Index,
    /// The places of the key's columns.
    key: Vec<usize>,
    hasher: KeyHasher,
    /// Slots of rows that are not in a checkpoint; some are free again.
    unsaved: Vec<u32>,
}

impl Waiting {
    /// For rows of these columns; those at the places `key` are the key.
    pub(super) fn new(schema: &SchemaRef, key: Vec<usize>) -> Result<Self> {
        let types = key.iter().map(|at| schema.field(*at).data_type().clone());
        Ok(Self {
            rows: Chunks::new(Arc::clone(schema)),
            slots: Index::default(),
            hasher: KeyHasher::new(types)?,
            key,
            unsaved: Vec::new(),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.rows.bytes() + self.slots.bytes() + self.unsaved.capacity() * 4
    }

    fn key_of(&self, rows: &RecordBatch) -> Vec<ArrayRef> {
        self.key.iter().map(|at| canonical(rows.column(*at))).collect()
    }

    /// Takes rows in whose keys are not here; `is_new`: which of them no checkpoint has.
    pub(super) fn put(&mut self, rows: &RecordBatch, is_new: impl Fn(usize) -> bool) -> Result<()> {
        let hashes = self.hasher.hashes(&self.key_of(rows), rows.num_rows())?;
        for (row, slot) in self.rows.insert(rows)?.into_iter().enumerate() {
            self.slots.insert(tag_of(hashes[row]), slot);
            if is_new(row) {
                self.unsaved.push(slot);
            }
        }
        Ok(())
    }

    /// Gives the rows of these keys away that are here: the place of each among the keys, and the rows.
    pub(super) fn take(&mut self, keys: &[ArrayRef], count: usize) -> Result<(Vec<u32>, RecordBatch)> {
        let keys: Vec<ArrayRef> = keys.iter().map(canonical).collect();
        let hashes = self.hasher.hashes(&keys, count)?;
        let slots = &self.slots;
        slots.warm(hashes.iter().copied());
        let found = (0_u32..).zip(&hashes).flat_map(|(at, hash)| slots.all(tag_of(*hash)).map(move |slot| (at, slot)));
        let (places, slots): (Vec<u32>, Vec<u32>) = found.unzip();
        let rows = self.rows.gather(&slots)?;
        if places.is_empty() {
            return Ok((places, rows));
        }
        let asked = UInt32Array::from(places.clone());
        let asked = keys.iter().map(|column| Ok(take(column, &asked, None)?)).collect::<Result<Vec<_>>>()?;
        let same = self.hasher.equal(&self.key_of(&rows), &asked, places.len())?;
        let mut mine = Vec::new();
        for at in (0..places.len()).filter(|at| same.as_ref().is_none_or(|same| same.value(*at))) {
            // A key may be asked for twice.
            if self.rows.is_live(slots[at]) {
                self.slots.remove(tag_of(hashes[places[at] as usize]), slots[at]);
                self.rows.remove(slots[at]);
                mine.push(at);
            }
        }
        self.rows.tidy()?;
        let rows = take_rows(&rows, &UInt64Array::from_iter_values(mine.iter().map(|at| *at as u64)))?;
        Ok((mine.into_iter().map(|at| places[at]).collect(), rows))
    }

    /// How many rows no checkpoint has, and these; or all of them. From now on a checkpoint has them.
    pub(super) fn save(&mut self, all: bool) -> (usize, Snapshot) {
        let mut slots = std::mem::take(&mut self.unsaved);
        if all {
            slots = self.rows.live();
        } else {
            slots.retain(|slot| self.rows.is_live(*slot));
            slots.sort_unstable();
            slots.dedup();
        }
        (slots.len(), self.rows.snapshot(&slots))
    }

    /// Takes back what a checkpoint has, as far as it is of this shard: rows that take the place of those of their
    /// keys, or say that there are none any more.
    pub(super) fn restore(
        &mut self,
        batch: &RecordBatch,
        is_there: impl Fn(usize) -> bool,
        shard: Shard,
    ) -> Result<()> {
        let keys = self.key_of(batch);
        let hashes = self.hasher.hashes(&keys, batch.num_rows())?;
        self.take(&keys, batch.num_rows())?;
        let mine = (0..batch.num_rows()).filter(|row| is_there(*row) && shard.has(hashes[*row]));
        let mine: Vec<u64> = mine.map(|row| row as u64).collect();
        self.put(&take_rows(batch, &mine.into())?, |_| false)?;
        shard.fit(self.bytes(), |_, disk| self.spill_large(disk))
    }

    /// Puts rows on disk of which there are enough for a large file.
    pub(super) fn spill_large(&mut self, disk: &Arc<DiskManager>) -> Result<usize> {
        self.rows.spill_large(usize::MAX, disk)
    }

    /// Puts rows on disk until so many bytes of memory are free, or none can go; gives how many are.
    pub(super) fn spill(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        self.rows.spill(bytes, disk)
    }
}
