//! Distinct rows, each with how often it is there.
//!
//! Enters: changes. Leaves: for each row that they name its slot, and its weight before and after. Always holds: a
//! row is found by the hash of all its columns, however many rows share its key; one of weight 0 is gone; a
//! checkpoint gets what has changed since the last, and no more.

use arrow::array::{ArrayRef, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::execution::disk_manager::DiskManager;
use hashbrown::HashMap;
use std::sync::Arc;

use super::chunks::{Chunks, lengthen};
use super::index::{Index, NONE, tag_of};
use crate::change::{Changes, RowMatcher, take_rows, with_columns};
use crate::checkpoint::{Pieces, Saved};
use crate::error::Result;

/// Rows that are compared, or saved, at once.
pub(super) const BLOCK: usize = 32 * 1024;

/// How many rows are looked up at once, so that their waits for memory overlap.
const AHEAD: usize = 64;

/// What a row had at the last checkpoint.
#[derive(Debug, Clone, Copy, Default)]
struct AtSave {
    weight: i64,
    matches: i64,
}

/// Slots that have changed since the last checkpoint.
#[derive(Default)]
struct Fresh {
    /// Each at least once, and some that have gone since.
    slots: Vec<u32>,
    /// At so many slots those that have gone are left out.
    limit: usize,
    /// A bit for each slot.
    bits: Vec<u64>,
    /// What those had that were there.
    saved: HashMap<u32, AtSave>,
}

impl Fresh {
    fn has(&self, slot: u32) -> bool {
        self.bits.get(slot as usize / 64).is_some_and(|bits| bits >> (slot % 64) & 1 == 1)
    }

    fn add(&mut self, slot: u32, had: AtSave) {
        lengthen(&mut self.bits, slot as usize / 64 + 1, 0);
        self.bits[slot as usize / 64] |= 1 << (slot % 64);
        self.slots.push(slot);
        if self.slots.len() >= self.limit.max(1024) {
            // Those that have gone are no reason to grow.
            self.slots = self.slots();
            self.limit = 2 * self.slots.len();
        }
        if had.weight != 0 || had.matches != 0 {
            self.saved.insert(slot, had);
        }
    }

    fn saved(&self, slot: u32) -> AtSave {
        self.saved.get(&slot).copied().unwrap_or_default()
    }

    /// Forgets a slot; gives what it had.
    fn take(&mut self, slot: u32) -> AtSave {
        if let Some(bits) = self.bits.get_mut(slot as usize / 64) {
            *bits &= !(1 << (slot % 64));
        }
        self.saved.remove(&slot).unwrap_or_default()
    }

    /// All of them, in order.
    fn slots(&self) -> Vec<u32> {
        let mut slots: Vec<u32> = self.slots.iter().copied().filter(|slot| self.has(*slot)).collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    fn bytes(&self) -> usize {
        self.slots.capacity() * 4 + self.bits.capacity() * 8 + self.saved.capacity() * 25
    }
}

/// Rows with weights, and, if they are counted, matches.
pub(super) struct Multiset {
    schema: SchemaRef,
    rows: Chunks,
    /// By the hash of the row.
    index: Index,
    /// Of the slots whose weight is not 1.
    weights: HashMap<u32, i64>,
    /// By slot, if they are counted.
    matches: Option<Vec<i64>>,
    matcher: RowMatcher,
    fresh: Fresh,
    /// Rows that are gone since then, and what they had.
    gone: Vec<(RecordBatch, Vec<AtSave>)>,
    /// Rows that were saved since the state was last saved as a whole.
    saved_rows: usize,
}

/// The matches that come with a change.
#[derive(Debug, Clone, Copy)]
pub enum Matches<'a> {
    /// Of each row, if it is new; one that is there has them already.
    Of(&'a [i64]),
    /// More of each row, new or not.
    More(&'a [i64]),
}

/// What became of one row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Applied {
    /// Its place in the change.
    pub(super) row: usize,
    pub(super) slot: u32,
    pub(super) before: i64,
    pub(super) after: i64,
    /// It got its slot now.
    pub(super) is_new: bool,
}

/// A row that a change names, with all that the change says of it.
struct Named {
    row: usize,
    hash: u64,
    weight: i64,
    matches: i64,
}

impl Multiset {
    pub(super) fn new(schema: SchemaRef, counts_matches: bool) -> Result<Self> {
        Ok(Self {
            rows: Chunks::new(Arc::clone(&schema)),
            index: Index::default(),
            weights: HashMap::new(),
            matches: counts_matches.then(Vec::new),
            matcher: RowMatcher::of(&schema)?,
            schema,
            fresh: Fresh::default(),
            gone: Vec::new(),
            saved_rows: 0,
        })
    }

    pub(super) fn rows(&self) -> &Chunks {
        &self.rows
    }

    pub(super) fn bytes(&self) -> usize {
        let matches = self.matches.as_ref().map_or(0, Vec::capacity) * 8;
        self.rows.bytes() + self.index.bytes() + matches + self.weights.capacity() * 17 + self.fresh.bytes()
    }

    /// Puts rows on disk.
    pub(super) fn spill(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        self.rows.spill(bytes, disk)
    }

    pub(super) fn weight(&self, slot: u32) -> i64 {
        if self.weights.is_empty() { 1 } else { self.weights.get(&slot).copied().unwrap_or(1) }
    }

    pub(super) fn matches(&self, slot: u32) -> i64 {
        self.matches.as_ref().map_or(0, |matches| matches[slot as usize])
    }

    pub(super) fn add_matches(&mut self, slot: u32, count: i64) {
        self.touch(slot);
        if let Some(matches) = &mut self.matches {
            matches[slot as usize] += count;
        }
    }

    fn touch(&mut self, slot: u32) {
        if !self.fresh.has(slot) {
            let now = AtSave { weight: self.weight(slot), matches: self.matches(slot) };
            self.fresh.add(slot, now);
        }
    }

    fn set_weight(&mut self, slot: u32, weight: i64) {
        if weight == 1 {
            // A row that is new has no weight yet, mostly.
            if !self.weights.is_empty() {
                self.weights.remove(&slot);
            }
        } else {
            self.weights.insert(slot, weight);
        }
    }

    /// The slots of rows with these columns; [`NONE`] where there is none.
    pub(super) fn find(&self, columns: &[ArrayRef], count: usize) -> Result<Vec<u32>> {
        let hashes = self.matcher.hashes(columns, count)?.into_iter().enumerate();
        let named: Vec<Named> = hashes.map(|(row, hash)| Named { row, hash, weight: 0, matches: 0 }).collect();
        self.look_up(columns, &named)
    }

    fn look_up(&self, columns: &[ArrayRef], named: &[Named]) -> Result<Vec<u32>> {
        let mut found = vec![NONE; named.len()];
        let (mut places, mut slots) = (Vec::new(), Vec::new());
        for (block, names) in named.chunks(AHEAD).enumerate() {
            self.index.warm(names.iter().map(|name| name.hash));
            for (at, name) in names.iter().enumerate() {
                for slot in self.index.all(tag_of(name.hash)) {
                    places.push(block * AHEAD + at);
                    slots.push(slot);
                }
            }
            if slots.len() >= BLOCK {
                self.compare(columns, named, &places, &slots, &mut found)?;
                places.clear();
                slots.clear();
            }
        }
        self.compare(columns, named, &places, &slots, &mut found)?;
        Ok(found)
    }

    /// Of each named row at `places`, whether it is the row of the slot beside it.
    fn compare(
        &self,
        columns: &[ArrayRef],
        named: &[Named],
        places: &[usize],
        slots: &[u32],
        found: &mut [u32],
    ) -> Result<()> {
        if slots.is_empty() {
            return Ok(());
        }
        let rows = UInt64Array::from_iter_values(places.iter().map(|at| named[*at].row as u64));
        let ours = columns.iter().map(|column| Ok(take(column, &rows, None)?)).collect::<Result<Vec<_>>>()?;
        let equal = self.matcher.equal(&ours, self.rows.gather(slots)?.columns(), slots.len())?;
        for (pair, at) in places.iter().enumerate() {
            if equal.as_ref().is_none_or(|equal| equal.value(pair)) {
                found[*at] = slots[pair];
            }
        }
        Ok(())
    }

    /// Applies a change. A slot that became free is not given again before the next one.
    pub(super) fn apply(&mut self, change: &Changes, matches: Matches<'_>) -> Result<Vec<Applied>> {
        let hashes = self.matcher.hashes(change.rows.columns(), change.len())?;
        let firsts = self.matcher.firsts(change.rows.columns(), &hashes)?;
        let named = name(change, &hashes, &firsts, matches);
        let found = self.look_up(change.rows.columns(), &named)?;
        let mut applied = Vec::with_capacity(named.len());
        let (mut new, mut gone) = (Vec::new(), Vec::new());
        for (at, Named { row, weight, matches: more, hash }) in named.iter().enumerate() {
            let slot = found[at];
            if slot == NONE {
                new.push(at);
                continue;
            }
            let before = self.weight(slot);
            let after = before + weight;
            applied.push(Applied { row: *row, slot, before, after, is_new: false });
            if after == 0 {
                gone.push((*row, slot, *hash));
                continue;
            }
            self.touch(slot);
            self.set_weight(slot, after);
            if let (Matches::More(_), Some(all)) = (matches, &mut self.matches) {
                all[slot as usize] += more;
            }
        }
        self.insert(change, &named, &new, &mut applied)?;
        self.remove(change, &gone)?;
        self.rows.tidy()?;
        Ok(applied)
    }

    fn insert(&mut self, change: &Changes, named: &[Named], new: &[usize], applied: &mut Vec<Applied>) -> Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        let slots = if new.len() == change.len() {
            self.rows.insert(&change.rows)?
        } else {
            let rows = UInt64Array::from_iter_values(new.iter().map(|at| named[*at].row as u64));
            self.rows.insert(&take_rows(&change.rows, &rows)?)?
        };
        let slots_in_all = self.rows.slots();
        if let Some(all) = &mut self.matches {
            lengthen(all, slots_in_all, 0);
        }
        for (place, (at, slot)) in new.iter().zip(slots).enumerate() {
            if place % AHEAD == 0 {
                self.index.warm(new[place..].iter().take(AHEAD).map(|at| named[*at].hash));
            }
            let name = &named[*at];
            self.index.insert(tag_of(name.hash), slot);
            self.set_weight(slot, name.weight);
            if let Some(all) = &mut self.matches {
                all[slot as usize] = name.matches;
            }
            self.fresh.add(slot, AtSave::default());
            applied.push(Applied { row: name.row, slot, before: 0, after: name.weight, is_new: true });
        }
        Ok(())
    }

    fn remove(&mut self, change: &Changes, gone: &[(usize, u32, u64)]) -> Result<()> {
        let (mut rows, mut had) = (Vec::new(), Vec::new());
        for (row, slot, hash) in gone {
            let saved = match self.fresh.has(*slot) {
                true => self.fresh.take(*slot),
                false => AtSave { weight: self.weight(*slot), matches: self.matches(*slot) },
            };
            self.index.remove(tag_of(*hash), *slot);
            self.rows.remove(*slot);
            if !self.weights.is_empty() {
                self.weights.remove(slot);
            }
            if saved.weight != 0 || saved.matches != 0 {
                rows.push(*row as u64);
                had.push(saved);
            }
        }
        if !rows.is_empty() {
            self.gone.push((take_rows(&change.rows, &UInt64Array::from(rows))?, had));
        }
        Ok(())
    }

    /// What has changed since the last call.
    pub(super) fn save(&mut self) -> Result<Saved> {
        let fresh = std::mem::take(&mut self.fresh);
        let gone = std::mem::take(&mut self.gone);
        let slots = fresh.slots();
        if slots.is_empty() && gone.is_empty() {
            return Ok(Saved::Unchanged);
        }
        self.saved_rows += slots.len() + gone.iter().map(|(rows, _)| rows.num_rows()).sum::<usize>();
        if self.saved_rows > 2 * self.rows.len() + 1000 {
            return self.save_whole();
        }
        let mut parts = Vec::new();
        for (rows, had) in &gone {
            let taken = had.iter().map(|had| AtSave { weight: -had.weight, matches: -had.matches });
            parts.push(with_counts(&self.schema, self.matches.is_some(), rows, taken)?);
        }
        for slots in slots.chunks(BLOCK) {
            parts.push(self.saved(slots, |slot| fresh.saved(slot))?);
        }
        Ok(Saved::Added(parts.into()))
    }

    /// All of it.
    pub(super) fn save_whole(&mut self) -> Result<Saved> {
        self.fresh = Fresh::default();
        self.gone = Vec::new();
        self.saved_rows = self.rows.len();
        let live = self.rows.live();
        let counts: Vec<AtSave> = live.iter().map(|slot| self.more(*slot, AtSave::default())).collect();
        let (schema, has_matches) = (Arc::clone(&self.schema), self.matches.is_some());
        let rows = self.rows.snapshot(&live).batches(BLOCK).enumerate();
        Ok(Saved::Whole(Pieces::new(rows.map(move |(at, rows)| {
            let rows = rows?;
            let counts = counts[at * BLOCK..].iter().take(rows.num_rows()).copied();
            with_counts(&schema, has_matches, &rows, counts)
        }))))
    }

    /// Rows with what they have more than before.
    fn saved(&self, slots: &[u32], before: impl Fn(u32) -> AtSave) -> Result<RecordBatch> {
        let more = slots.iter().map(|slot| self.more(*slot, before(*slot)));
        with_counts(&self.schema, self.matches.is_some(), &self.rows.gather(slots)?, more)
    }

    /// What a slot has more than it had.
    fn more(&self, slot: u32, before: AtSave) -> AtSave {
        AtSave { weight: self.weight(slot) - before.weight, matches: self.matches(slot) - before.matches }
    }

    /// What [`Multiset::save`] gave of one batch: the change, and how many more matches its rows have.
    pub(super) fn saved_parts(&self, batch: &RecordBatch) -> Result<(Changes, Vec<i64>)> {
        let mut change = Changes::from_weight_column(batch)?;
        let mut matches = vec![0; change.len()];
        let columns = self.schema.fields().len();
        if self.matches.is_some() && change.rows.num_columns() > columns {
            let counts = Int64Array::from(change.rows.column(columns).to_data());
            matches.copy_from_slice(counts.values());
        }
        let rows = change.rows.columns()[..columns].to_vec();
        change.rows = with_columns(&self.schema, rows, matches.len())?;
        Ok((change, matches))
    }

    /// What was applied so far was saved before.
    pub(super) fn mark_saved(&mut self) {
        self.saved_rows = self.fresh.slots().len();
        self.fresh = Fresh::default();
        self.gone = Vec::new();
    }
}

/// Rows with their weights and, if they have them, their matches.
fn with_counts(
    schema: &SchemaRef,
    has_matches: bool,
    rows: &RecordBatch,
    counts: impl Iterator<Item = AtSave> + Clone,
) -> Result<RecordBatch> {
    let weights = Int64Array::from_iter_values(counts.clone().map(|count| count.weight));
    let rows = if has_matches {
        let mut fields = schema.fields().to_vec();
        fields.push(Arc::new(Field::new("__matches", DataType::Int64, false)));
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(Int64Array::from_iter_values(counts.map(|count| count.matches))));
        with_columns(&Arc::new(Schema::new(fields)), columns, weights.len())?
    } else {
        rows.clone()
    };
    Changes::weighted(rows, weights).with_weight_column()
}

/// The distinct rows of a change, but those about which it says nothing in the end. `firsts`: of each row the first
/// that is equal to it.
fn name(change: &Changes, hashes: &[u64], firsts: &[u32], matches: Matches<'_>) -> Vec<Named> {
    let mut named: Vec<Named> = Vec::with_capacity(change.len());
    let mut places: Vec<u32> = Vec::with_capacity(change.len());
    let (Matches::Of(counts) | Matches::More(counts)) = matches;
    let adds = matches!(matches, Matches::More(_));
    for (row, first) in firsts.iter().enumerate() {
        let (weight, count) = (change.weight(row), counts.get(row).copied().unwrap_or(0));
        if *first as usize == row {
            places.push(named.len() as u32);
            named.push(Named { row, hash: hashes[row], weight, matches: count });
        } else {
            let place = places[*first as usize];
            let name = &mut named[place as usize];
            name.weight += weight;
            name.matches += if adds { count } else { 0 };
            places.push(place);
        }
    }
    named.retain(|name| name.weight != 0 || (adds && name.matches != 0));
    named
}
