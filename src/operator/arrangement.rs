//! The rows of one side of a join, by key.
//!
//! Enters: changes with the hash of each row's key. Leaves: the rows whose key may have a hash; who asks compares the
//! keys. Always holds: rows are chained by 32 bits of the hash, and found at the cost of the change; where the input
//! retracts, or matches are counted, equal rows are one row with a weight, and it is found without its chain.

use std::sync::Arc;

use arrow::array::{Array, Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::execution::disk_manager::DiskManager;

use super::EpochContext;
use super::chunks::{Chunks, lengthen};
use super::expiry::Expiry;
use super::index::{Index, NONE, tag_of};
use super::multiset::{BLOCK, Matches, Multiset};
use crate::change::Changes;
use crate::checkpoint::{Pieces, Saved};
use crate::error::Result;

/// A hash for keys that are numbers: no two have the same chain.
pub fn hash_of_number(number: u32) -> u64 {
    u64::from(number.wrapping_mul(0x9E37_79B1)) << 32
}

/// How many insertions are prepared at once.
const AHEAD: usize = 64;

enum Rows {
    /// Of an input that only grows: all rows, in the order in which they came.
    Plain { rows: Box<Chunks>, saved: usize },
    /// Equal rows are one.
    Distinct(Box<Multiset>),
}

/// One side of a join.
pub struct Side {
    schema: SchemaRef,
    /// Nothing is kept of a side whose other side rests.
    stored: bool,
    rows: Rows,
    /// The first slot of each chain.
    index: Index,
    /// By slot: the next one of the chain, and, where rows may go, the one before.
    next: Vec<u32>,
    before: Vec<u32>,
    /// When its rows can be forgotten.
    expiry: Option<Expiry<u32>>,
}

/// A way along the chains of many keys.
pub struct Walk {
    /// Rows of the change, each with the slot where it stands.
    at: Vec<(u32, u32)>,
}

impl Side {
    /// An empty side. `counts_matches`: of each row there is a number that its owner changes. `stored`: rows are kept
    /// at all.
    ///
    /// # Errors
    /// Columns of a type that cannot be compared.
    pub fn new(schema: SchemaRef, append_only: bool, counts_matches: bool, stored: bool) -> Result<Self> {
        let rows = if append_only && !counts_matches {
            Rows::Plain { rows: Box::new(Chunks::new(SchemaRef::clone(&schema))), saved: 0 }
        } else {
            Rows::Distinct(Box::new(Multiset::new(SchemaRef::clone(&schema), counts_matches)?))
        };
        Ok(Self { schema, stored, rows, index: Index::default(), next: Vec::new(), before: Vec::new(), expiry: None })
    }

    /// A side whose rows can be forgotten, so that they may go.
    pub(super) fn forgetting(
        schema: SchemaRef,
        counts_matches: bool,
        stored: bool,
        expiry: Expiry<u32>,
    ) -> Result<Self> {
        Ok(Self { expiry: Some(expiry), ..Self::new(schema, false, counts_matches, stored)? })
    }

    /// The retraction of the rows that are over now; nothing if none is.
    pub(super) fn over(&mut self, context: &EpochContext) -> Result<Option<Changes>> {
        let (Some(expiry), Rows::Distinct(set)) = (&mut self.expiry, &self.rows) else { return Ok(None) };
        let (slots, rows) = expiry.rows_over(set.rows(), context)?;
        let weights = slots.iter().map(|slot| -set.weight(*slot));
        let gone = Changes::weighted(rows, Int64Array::from_iter_values(weights));
        Ok((!gone.is_empty()).then_some(gone))
    }

    /// Which of these rows [`Side::over`] would give at the end of the epoch; nothing if none is.
    pub(super) fn already_over(&mut self, rows: &RecordBatch, context: &EpochContext) -> Result<Option<Vec<bool>>> {
        self.expiry.as_mut().map_or(Ok(None), |expiry| expiry.already_over(rows, context))
    }

    /// True if its rows can be forgotten.
    pub(super) fn forgets(&self) -> bool {
        self.expiry.is_some()
    }

    /// Its columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn chunks(&self) -> &Chunks {
        match &self.rows {
            Rows::Plain { rows, .. } => rows,
            Rows::Distinct(set) => set.rows(),
        }
    }

    /// How many rows there are; equal ones count once where they are one.
    pub fn count(&self) -> usize {
        self.chunks().len()
    }

    /// Its memory, about. Does not look at the rows.
    pub fn bytes(&self) -> usize {
        let rows = match &self.rows {
            Rows::Plain { rows, .. } => rows.bytes(),
            Rows::Distinct(set) => set.bytes(),
        };
        let expiry = self.expiry.as_ref().map_or(0, Expiry::bytes);
        rows + expiry + self.index.bytes() + (self.next.capacity() + self.before.capacity()) * 4
    }

    /// Puts rows on disk until so many bytes of memory are free, or none can go; gives how many are.
    ///
    /// # Errors
    /// The disk is full.
    pub fn spill(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        match &mut self.rows {
            Rows::Plain { rows, .. } => rows.spill(bytes, disk),
            Rows::Distinct(set) => set.spill(bytes, disk),
        }
    }

    /// How often a row is there.
    pub fn weight(&self, slot: u32) -> i64 {
        match &self.rows {
            Rows::Plain { .. } => 1,
            Rows::Distinct(set) => set.weight(slot),
        }
    }

    /// The number that its owner keeps with a row.
    pub fn matches(&self, slot: u32) -> i64 {
        match &self.rows {
            Rows::Plain { .. } => 0,
            Rows::Distinct(set) => set.matches(slot),
        }
    }

    /// Adds to that number.
    pub fn add_matches(&mut self, slot: u32, count: i64) {
        if let Rows::Distinct(set) = &mut self.rows {
            set.add_matches(slot, count);
        }
    }

    /// The rows of these slots.
    pub fn gather(&self, slots: &[u32]) -> Result<RecordBatch> {
        self.chunks().gather(slots)
    }

    /// All slots.
    pub fn live(&self) -> Vec<u32> {
        self.chunks().live()
    }

    /// The rows under one hash, the last one first.
    pub fn chain(&self, hash: u64) -> impl Iterator<Item = u32> + '_ {
        let mut at = self.index.all(tag_of(hash)).next().unwrap_or(NONE);
        std::iter::from_fn(move || {
            let slot = (at != NONE).then_some(at)?;
            at = self.next[slot as usize];
            Some(slot)
        })
    }

    /// The chains of these hashes; `wanted` says of which rows.
    pub fn walk(&self, hashes: &[u64], wanted: impl Fn(usize) -> bool) -> Walk {
        let heads = self.index.find(hashes).into_iter().enumerate();
        let begun = heads.filter(|(row, slot)| *slot != NONE && wanted(*row));
        Walk { at: begun.map(|(row, slot)| (row as u32, slot)).collect() }
    }

    /// The next rows of the change with slots that may match them; both empty at the end.
    pub fn step(&self, walk: &mut Walk) -> (Vec<u64>, Vec<u32>) {
        let (mut rows, mut slots) = (Vec::new(), Vec::new());
        while rows.len() < BLOCK && !walk.at.is_empty() {
            // One step of many chains, so that their waits for memory overlap.
            let start = walk.at.len().saturating_sub(BLOCK - rows.len());
            let mut left = start;
            for at in start..walk.at.len() {
                let (row, slot) = walk.at[at];
                rows.push(u64::from(row));
                slots.push(slot);
                let next = self.next[slot as usize];
                if next != NONE {
                    walk.at[left] = (row, next);
                    left += 1;
                }
            }
            walk.at.truncate(left);
        }
        (rows, slots)
    }

    /// Adds the rows of a change, whose keys have these hashes and which have so many matches.
    pub fn add(&mut self, change: &Changes, hashes: &[u64], matches: Matches<'_>) -> Result<()> {
        if !self.stored || change.is_empty() {
            return Ok(());
        }
        match &mut self.rows {
            Rows::Plain { rows, .. } => {
                let slots = rows.insert(&change.rows)?;
                lengthen(&mut self.next, rows.slots(), NONE);
                for (slots, hashes) in slots.chunks(AHEAD).zip(hashes.chunks(AHEAD)) {
                    self.index.warm(hashes.iter().copied());
                    for (slot, hash) in slots.iter().zip(hashes) {
                        self.next[*slot as usize] = self.index.replace(tag_of(*hash), *slot);
                    }
                }
            }
            Rows::Distinct(set) => {
                let values = self.expiry.as_ref().map(|expiry| expiry.values(&change.rows)).transpose()?;
                let applied = set.apply(change, matches)?;
                let slots = set.rows().slots();
                lengthen(&mut self.next, slots, NONE);
                lengthen(&mut self.before, slots, NONE);
                for (place, row) in applied.iter().enumerate() {
                    if place % AHEAD == 0 {
                        self.index.warm(applied[place..].iter().take(AHEAD).map(|row| hashes[row.row]));
                    }
                    if row.is_new {
                        if let (Some(expiry), Some(values)) = (&mut self.expiry, &values)
                            && !values.is_null(row.row)
                        {
                            expiry.push(values.value(row.row), row.slot);
                        }
                        self.link(row.slot, hashes[row.row]);
                    } else if row.after == 0 {
                        self.unlink(row.slot, hashes[row.row]);
                    }
                }
            }
        }
        Ok(())
    }

    fn link(&mut self, slot: u32, hash: u64) {
        let next = self.index.replace(tag_of(hash), slot);
        self.next[slot as usize] = next;
        self.before[slot as usize] = NONE;
        if next != NONE {
            self.before[next as usize] = slot;
        }
    }

    fn unlink(&mut self, slot: u32, hash: u64) {
        let (before, next) = (self.before[slot as usize], self.next[slot as usize]);
        if next != NONE {
            self.before[next as usize] = before;
        }
        match (before, next) {
            (NONE, NONE) => self.index.remove(tag_of(hash), slot),
            (NONE, next) => {
                self.index.replace(tag_of(hash), next);
            }
            (before, next) => self.next[before as usize] = next,
        }
    }

    /// What has changed since the last call.
    pub fn save(&mut self) -> Result<Saved> {
        match &mut self.rows {
            Rows::Distinct(set) => set.save(),
            Rows::Plain { rows, saved } => {
                // Slots are given in order, and none is taken back.
                let new: Vec<u32> = (*saved as u32..rows.slots() as u32).collect();
                *saved = rows.slots();
                if new.is_empty() {
                    return Ok(Saved::Unchanged);
                }
                Ok(Saved::Added(Pieces::new(rows.snapshot(&new).batches(BLOCK))))
            }
        }
    }

    /// What was saved of rows: the change, and how many more matches they have.
    pub fn saved_parts(&self, batch: &RecordBatch) -> Result<(Changes, Vec<i64>)> {
        match &self.rows {
            Rows::Plain { .. } => Ok((Changes::inserted(batch.clone()), vec![0; batch.num_rows()])),
            Rows::Distinct(set) => set.saved_parts(batch),
        }
    }

    /// What was added so far was saved before; if it has `moved` between shards, it has to be saved again.
    pub fn mark_saved(&mut self, moved: bool) {
        match &mut self.rows {
            Rows::Plain { rows, saved } if !moved => *saved = rows.slots(),
            Rows::Distinct(set) if !moved => set.mark_saved(),
            _ => {}
        }
    }

    /// All of it.
    pub fn save_whole(&mut self) -> Result<Saved> {
        match &mut self.rows {
            Rows::Distinct(set) => set.save_whole(),
            Rows::Plain { saved, .. } => {
                *saved = 0;
                Ok(match self.save()? {
                    Saved::Added(batches) => Saved::Whole(batches),
                    other => other,
                })
            }
        }
    }
}
