//! The rows of one side of a join, by key.
//!
//! Enters: changes with the number of each row's key. Leaves: the rows of a key. Always holds: where the input
//! retracts, equal rows are one row with a weight, and one of weight 0 is gone; each row has a count of matches.

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;

use super::chunks::Chunks;
use crate::change::{Changes, RowEncoder};
use crate::checkpoint::Saved;
use crate::error::Result;

const END: u32 = u32::MAX;

/// One side of a join.
pub(super) struct Side {
    schema: SchemaRef,
    append_only: bool,
    /// Nothing is kept of a side whose other side rests.
    stored: bool,
    rows: Chunks,
    /// The first slot of each key's chain.
    heads: Vec<u32>,
    /// By slot: the next one of the chain, the weight, the matches.
    next: Vec<u32>,
    weights: Vec<i64>,
    matches: Vec<i64>,
    /// By slot, where the input retracts: the row as bytes.
    bytes: Vec<Box<[u8]>>,
    encoder: Option<RowEncoder>,
    /// Since the last checkpoint.
    added: Vec<Changes>,
    saved_rows: usize,
    /// All has to be saved.
    save_whole: bool,
}

impl Side {
    pub(super) fn new(schema: SchemaRef, append_only: bool, stored: bool) -> Result<Self> {
        let encoder = if append_only { None } else { Some(RowEncoder::of(&schema)?) };
        Ok(Self {
            rows: Chunks::new(SchemaRef::clone(&schema)),
            schema,
            append_only,
            stored,
            heads: Vec::new(),
            next: Vec::new(),
            weights: Vec::new(),
            matches: Vec::new(),
            bytes: Vec::new(),
            encoder,
            added: Vec::new(),
            saved_rows: 0,
            save_whole: false,
        })
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    pub(super) fn append_only(&self) -> bool {
        self.append_only
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn bytes(&self) -> usize {
        let own: usize = self.bytes.iter().map(|bytes| bytes.len() + 16).sum();
        self.rows.bytes() + self.heads.len() * 4 + self.next.len() * 20 + own
    }

    pub(super) fn weight(&self, slot: u32) -> i64 {
        self.weights[slot as usize]
    }

    pub(super) fn matches(&self, slot: u32) -> i64 {
        self.matches[slot as usize]
    }

    pub(super) fn add_matches(&mut self, slot: u32, count: i64) {
        self.matches[slot as usize] += count;
    }

    pub(super) fn gather(&self, slots: &[u32]) -> Result<RecordBatch> {
        self.rows.gather(slots)
    }

    /// The slots of a key's rows.
    pub(super) fn chain(&self, key: u32) -> impl Iterator<Item = u32> + '_ {
        let mut at = self.heads.get(key as usize).copied().unwrap_or(END);
        std::iter::from_fn(move || {
            let slot = (at != END).then_some(at)?;
            at = self.next[slot as usize];
            Some(slot)
        })
    }

    /// Adds the rows of a change, whose keys have these numbers and which have so many matches.
    pub(super) fn add(&mut self, change: &Changes, keys: &[u32], matches: &[i64]) -> Result<()> {
        if !self.stored {
            return Ok(());
        }
        self.added.push(change.clone());
        let Some(encoder) = &self.encoder else {
            let slots = self.rows.insert(&change.rows)?;
            for (row, slot) in slots.into_iter().enumerate() {
                self.link(keys[row], slot, change.weight(row), matches[row]);
            }
            return Ok(());
        };
        let encoded = encoder.encode(change.rows.columns(), change.len())?;
        for row in 0..change.len() {
            let bytes = encoded.row(row);
            let found = self.chain(keys[row]).find(|slot| &*self.bytes[*slot as usize] == bytes);
            match found {
                Some(slot) => {
                    self.weights[slot as usize] += change.weight(row);
                    if self.weights[slot as usize] == 0 {
                        self.unlink(keys[row], slot);
                    }
                }
                None => {
                    let one = change.rows.slice(row, 1);
                    let slot = self.rows.insert(&one)?[0];
                    self.link(keys[row], slot, change.weight(row), matches[row]);
                    self.bytes.resize(self.next.len(), Box::default());
                    self.bytes[slot as usize] = bytes.into();
                }
            }
        }
        Ok(())
    }

    fn link(&mut self, key: u32, slot: u32, weight: i64, matches: i64) {
        let (key, at) = (key as usize, slot as usize);
        if self.heads.len() <= key {
            self.heads.resize(key + 1, END);
        }
        if self.next.len() <= at {
            self.next.resize(at + 1, END);
            self.weights.resize(at + 1, 0);
            self.matches.resize(at + 1, 0);
        }
        self.next[at] = self.heads[key];
        self.weights[at] = weight;
        self.matches[at] = matches;
        self.heads[key] = slot;
    }

    fn unlink(&mut self, key: u32, slot: u32) {
        let after = self.next[slot as usize];
        let key = key as usize;
        if self.heads[key] == slot {
            self.heads[key] = after;
        } else {
            let mut at = self.heads[key];
            while self.next[at as usize] != slot {
                at = self.next[at as usize];
            }
            self.next[at as usize] = after;
        }
        self.bytes[slot as usize] = Box::default();
        self.rows.remove(slot);
    }

    /// What is there was saved before, but has to be saved again if it has `moved` between shards.
    pub(super) fn mark_saved(&mut self, moved: bool) {
        self.save_whole = moved;
        self.saved_rows = self.added.iter().map(Changes::len).sum();
        self.added.clear();
    }

    pub(super) fn save(&mut self) -> Result<Saved> {
        if self.save_whole {
            return self.save_whole();
        }
        let added = std::mem::take(&mut self.added);
        if added.is_empty() {
            return Ok(Saved::Unchanged);
        }
        self.saved_rows += added.iter().map(Changes::len).sum::<usize>();
        if self.saved_rows > 2 * self.len() + 1000 {
            return self.save_whole();
        }
        Ok(Saved::Added(added.iter().map(Changes::with_weight_column).collect::<Result<_>>()?))
    }

    /// All rows with their weights.
    pub(super) fn save_whole(&mut self) -> Result<Saved> {
        self.added.clear();
        self.save_whole = false;
        self.saved_rows = self.len();
        let live = self.rows.live();
        let weights = Int64Array::from_iter_values(live.iter().map(|slot| self.weight(*slot)));
        let whole = Changes::weighted(self.rows.gather(&live)?, weights);
        Ok(Saved::Whole(vec![whole.with_weight_column()?]))
    }
}
