//! Groups that wait for their next row outside of the tables of groups.
//!
//! Enters: groups, each as a row of its columns, how many rows it has, and what its functions keep. Leaves: the same, by
//! the columns. Always holds: a group is here or in the tables, never in both; its row can go to disk; a row that was
//! not saved since it changed is saved with the next checkpoint.

use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch, new_null_array};
use arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::execution::disk_manager::DiskManager;

use super::Aggregate;
use crate::change::with_columns;
use crate::checkpoint::{Pieces, Saved};
use crate::error::{Error, Result};
use crate::operator::Shard;
use crate::operator::waiting::Waiting;

/// Groups that become rows, or are saved, at once.
const BLOCK: usize = 8 * 1024;

/// The rows of groups.
pub(super) struct Cold {
    rows: Waiting,
    /// The columns of groups that are gone since the last checkpoint.
    gone: Vec<RecordBatch>,
}

impl Cold {
    /// For rows of these columns, of which the first are those of the groups.
    pub(super) fn new(schema: &SchemaRef, keys: usize) -> Result<Self> {
        Ok(Self { rows: Waiting::new(schema, (0..keys).collect())?, gone: Vec::new() })
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.rows.bytes() + self.gone.iter().map(RecordBatch::get_array_memory_size).sum::<usize>()
    }
}

impl Aggregate {
    /// Takes the groups that are touched back from where they wait.
    pub(super) fn thaw(&mut self, touched: &[u32]) -> Result<()> {
        let Some(cold) = self.cold.as_mut().filter(|cold| cold.len() > 0) else { return Ok(()) };
        let new: Vec<u32> = touched.iter().copied().filter(|group| self.groups.rows[*group as usize] == 0).collect();
        if new.is_empty() {
            return Ok(());
        }
        let (places, rows) = cold.rows.take(&self.groups.columns(&new)?, new.len())?;
        let numbers: Vec<u32> = places.into_iter().map(|place| new[place as usize]).collect();
        let (counts, mut states) = rows.columns()[self.by.len()..].split_at(1);
        for (group, count) in numbers.iter().zip(counts[0].as_primitive::<Int64Type>().values()) {
            self.groups.rows[*group as usize] = *count;
        }
        for fold in &mut self.folds {
            let (own, rest) = states.split_at(fold.fields().len());
            fold.restore_states(&numbers, self.groups.numbers(), own)?;
            states = rest;
        }
        Ok(())
    }

    /// All groups become rows, and the tables are empty.
    fn freeze(&mut self, disk: &Arc<DiskManager>) -> Result<()> {
        let Some(mut cold) = self.cold.take() else { return Ok(()) };
        let unsaved = self.groups.take_changed();
        let mut changed = vec![false; self.groups.numbers()];
        unsaved.into_iter().for_each(|group| changed[group as usize] = true);
        for groups in self.groups.all().chunks(BLOCK) {
            let rows = with_columns(&self.partial, self.kept(groups)?, groups.len())?;
            cold.rows.put(&rows, |row| changed[groups[row] as usize])?;
            cold.rows.spill_large(disk)?;
        }
        self.cold = Some(cold);
        self.groups.clear();
        self.folds.iter_mut().for_each(|fold| fold.clear());
        (self.touched_at, self.stamps) = (Vec::new(), Vec::new());
        Ok(())
    }

    /// Puts groups on disk until so many bytes of memory are free, or none can go; gives how many are.
    pub(super) fn spill_groups(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        let before = self.bytes();
        let left = |aggregate: &Self| bytes.saturating_sub(before.saturating_sub(aggregate.bytes()));
        if let Some(cold) = &mut self.cold {
            cold.rows.spill_large(disk)?;
        }
        if left(self) > 0 {
            self.freeze(disk)?;
        }
        for at in 0..self.folds.len() {
            let left = left(self);
            self.folds[at].spill(left, disk)?;
        }
        let left = left(self);
        if let Some(cold) = &mut self.cold {
            cold.rows.spill(left, disk)?;
        }
        Ok(before.saturating_sub(self.bytes()))
    }

    /// Notes that these groups, which are still there, are about to go.
    pub(super) fn note_gone(&mut self, groups: &[u32]) -> Result<()> {
        if self.cold.is_none() || groups.is_empty() {
            return Ok(());
        }
        let keys = self.keys(groups)?;
        if let Some(cold) = &mut self.cold {
            cold.gone.push(keys);
        }
        Ok(())
    }

    /// What has changed since the last checkpoint: groups that are gone, as rows that count none, then those that are
    /// there. A group's last row is what it is.
    pub(super) fn save_groups(&mut self) -> Result<Option<Saved>> {
        let Some(mut cold) = self.cold.take() else { return Ok(None) };
        let changed = self.groups.take_changed();
        let changed: Vec<u32> = changed.into_iter().filter(|group| self.groups.rows[*group as usize] != 0).collect();
        let gone = std::mem::take(&mut cold.gone);
        let there = self.groups.len() + cold.len();
        self.saved_rows += changed.len() + gone.iter().map(RecordBatch::num_rows).sum::<usize>();
        let whole = std::mem::take(&mut self.save_whole) || self.saved_rows > 2 * there + 1000;
        let (unsaved, rest) = cold.rows.save(whole);
        self.saved_rows += unsaved;
        let hot = if whole { self.groups.all() } else { changed };
        let mut first = Vec::new();
        for keys in gone.iter().filter(|_| !whole) {
            let none = self.partial.fields().iter().skip(keys.num_columns() + 1);
            let none = none.map(|field| new_null_array(field.data_type(), keys.num_rows()));
            let mut columns = keys.columns().to_vec();
            columns.push(Arc::new(Int64Array::from(vec![0; keys.num_rows()])));
            columns.extend(none);
            first.push(with_columns(&self.partial, columns, keys.num_rows())?);
        }
        for groups in hot.chunks(BLOCK) {
            first.push(with_columns(&self.partial, self.kept(groups)?, groups.len())?);
        }
        let nothing = first.is_empty() && unsaved == 0;
        let rest = rest.batches(BLOCK);
        self.cold = Some(cold);
        let all = Pieces::new(Pieces::from(first).chain(rest));
        Ok(Some(if whole {
            self.saved_rows = there;
            Saved::Whole(all)
        } else if nothing {
            Saved::Unchanged
        } else {
            Saved::Added(all)
        }))
    }

    /// Takes that back, as far as it is of this shard.
    pub(super) fn restore_keyed(&mut self, saved: Pieces, shard: Shard) -> Result<()> {
        let (Some(cold), keys) = (&mut self.cold, self.by.len()) else { return Ok(()) };
        for batch in saved {
            let batch = batch?;
            if batch.num_columns() != self.partial.fields().len() {
                return Err(Error::query("the groups were saved by another version of fuse")
                    .hint("start anew with --fresh, or go on with the version that saved them"));
            }
            let batch = with_columns(&self.partial, batch.columns().to_vec(), batch.num_rows())?;
            self.saved_rows += batch.num_rows();
            let counts = batch.column(keys).as_primitive::<Int64Type>();
            cold.rows.restore(&batch, |row| counts.value(row) != 0, shard)?;
        }
        self.save_whole = shard.moved;
        Ok(())
    }
}
