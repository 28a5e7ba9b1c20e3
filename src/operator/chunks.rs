//! Rows in columns, each under a number that stays.
//!
//! Enters: batches. Leaves: a *slot* for each row, under which it is found until it is removed. Always holds: small
//! chunks are merged, dead rows are dropped, so that the work of an insert is logarithmic in the rows, amortised; a
//! large chunk is written once and stays, in memory or on disk.

mod cold;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::execution::disk_manager::DiskManager;

use crate::change::{RowEncoder, concat, with_columns};
use crate::durable::planted;
use crate::error::{Error, Result};
use cold::{ColdRows, ColdWriter};

/// The rows of a chunk have numbers of 16 bits.
const CHUNK_ROWS: usize = 1 << 16;
/// So many chunks of a size become one of the next.
const MERGED: usize = 8;
/// A chunk of so many bytes is large, however few its rows are.
const CHUNK_BYTES: usize = 8 << 20;
/// Smaller chunks are not worth a place on disk.
const LEAST_SPILLED: usize = 256 << 10;
const NOWHERE: u32 = u32::MAX;

/// Rows of one schema.
pub(super) struct Chunks {
    schema: SchemaRef,
    chunks: Vec<Chunk>,
    /// Places in `chunks` that are empty.
    holes: Vec<usize>,
    /// Those that will be merged, the last made last.
    small: Vec<usize>,
    /// Those that have become sparse.
    sparse: Vec<usize>,
    /// Of each slot the place of its chunk, and that of its row in the lower 16 bits.
    places: Vec<u32>,
    free: Vec<u32>,
    /// Of all chunks.
    bytes: usize,
    /// Makes bytes of the rows that go to disk.
    encoder: Option<Arc<RowEncoder>>,
    /// Chunks that were ever made.
    made: u64,
}

/// The rows of a chunk.
#[derive(Clone)]
struct Held {
    /// None, if they are cold.
    batch: RecordBatch,
    cold: Option<Arc<ColdRows>>,
}

/// Some rows as they are when it is made, whatever becomes of them then.
pub(super) struct Snapshot {
    schema: SchemaRef,
    encoder: Option<Arc<RowEncoder>>,
    chunks: Vec<Held>,
    places: Vec<u32>,
}

struct Chunk {
    rows: Held,
    /// A chunk of a higher number was made later.
    number: u64,
    /// The slot of each row, or [`NOWHERE`].
    slots: Vec<u32>,
    live: usize,
    /// The memory that it takes.
    bytes: usize,
    /// The bytes of its rows when it was made, wherever they are.
    width: usize,
}

impl Chunk {
    fn new(batch: RecordBatch, slots: Vec<u32>, live: usize) -> Self {
        let memory = batch.get_array_memory_size();
        let (width, bytes) = (width(&batch, memory), memory + slots.capacity() * 4);
        Self { rows: Held { batch, cold: None }, number: 0, slots, live, bytes, width }
    }

    fn is_sparse(&self) -> bool {
        self.slots.len() > 1024 && self.live * 2 < self.slots.len()
    }

    /// It stays as it is, and can go to disk.
    fn is_large(&self) -> bool {
        self.slots.len() >= CHUNK_ROWS / 2 || self.width >= CHUNK_BYTES
    }

    /// Chunks of one level are merged; from half of the full size on they are left as they are.
    fn level(&self) -> u32 {
        self.slots.len().max(1).ilog2() / MERGED.ilog2()
    }
}

/// Lengthens a list, with little room to spare: there is one entry for each of many rows.
pub(super) fn lengthen<T: Clone>(list: &mut Vec<T>, length: usize, with: T) {
    if length > list.capacity() {
        list.reserve_exact(length - list.len() + length / 8);
    }
    if length > list.len() {
        list.resize(length, with);
    }
}

impl Chunks {
    pub(super) fn new(schema: SchemaRef) -> Self {
        Self {
            schema,
            chunks: Vec::new(),
            holes: Vec::new(),
            small: Vec::new(),
            sparse: Vec::new(),
            places: Vec::new(),
            free: Vec::new(),
            bytes: 0,
            encoder: None,
            made: 0,
        }
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// The memory of the rows, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + (self.places.capacity() + self.free.capacity()) * 4
    }

    /// One more than the largest slot that was ever given.
    pub(super) fn slots(&self) -> usize {
        self.places.len()
    }

    /// Keeps the rows; gives the slot of each.
    pub(super) fn insert(&mut self, batch: &RecordBatch) -> Result<Vec<u32>> {
        let reused = self.free.len().min(batch.num_rows());
        let mut slots = self.free.split_off(self.free.len() - reused);
        slots.reverse();
        let start = self.places.len();
        lengthen(&mut self.places, start + batch.num_rows() - reused, NOWHERE);
        slots.extend(start as u32..self.places.len() as u32);
        self.put(&slots, batch)?;
        Ok(slots)
    }

    /// Drops a row; its slot may be given again.
    pub(super) fn remove(&mut self, slot: u32) {
        self.forget(slot);
        self.places[slot as usize] = NOWHERE;
        self.free.push(slot);
    }

    fn forget(&mut self, slot: u32) {
        let place = self.places[slot as usize];
        if place == NOWHERE {
            return;
        }
        let at = place as usize / CHUNK_ROWS;
        let chunk = &mut self.chunks[at];
        let was_sparse = chunk.is_sparse();
        chunk.slots[place as usize % CHUNK_ROWS] = NOWHERE;
        chunk.live -= 1;
        if chunk.is_sparse() && !was_sparse {
            self.sparse.push(at);
        }
    }

    fn put(&mut self, slots: &[u32], batch: &RecordBatch) -> Result<()> {
        for start in (0..slots.len()).step_by(CHUNK_ROWS) {
            let rows = CHUNK_ROWS.min(slots.len() - start);
            let batch = compact(&batch.slice(start, rows))?;
            self.push(Chunk::new(batch, slots[start..start + rows].to_vec(), rows))?;
            self.merge_small()?;
        }
        self.tidy()
    }

    /// Merges the last chunks as long as there are many of their size, or enough for a large one.
    fn merge_small(&mut self) -> Result<()> {
        while let Some(level) = self.small.last().map(|last| self.chunks[*last].level()) {
            let (mut run, mut rows, mut bytes) = (0, 0, 0);
            for at in self.small.iter().rev() {
                let chunk = &self.chunks[*at];
                if chunk.level() > level || rows + chunk.live > CHUNK_ROWS || bytes >= CHUNK_BYTES {
                    break;
                }
                (run, rows, bytes) = (run + 1, rows + chunk.live, bytes + chunk.width);
            }
            if run < 2 || (run < MERGED && rows < CHUNK_ROWS / 2 && bytes < CHUNK_BYTES) {
                return Ok(());
            }
            let parts: Vec<Chunk> =
                self.small.split_off(self.small.len() - run).into_iter().map(|at| self.cut_out(at)).collect();
            let merged = self.merged(&parts)?;
            self.push(merged)?;
        }
        Ok(())
    }

    /// Rewrites the chunks of which most rows are dead. That costs as much as it cost to put the rows there.
    pub(super) fn tidy(&mut self) -> Result<()> {
        while let Some(at) = self.sparse.pop() {
            if !self.chunks[at].is_sparse() {
                continue;
            }
            self.small.retain(|small| *small != at);
            let chunk = self.cut_out(at);
            if chunk.live > 0 {
                let merged = self.merged(&[chunk])?;
                self.push(merged)?;
                self.merge_small()?;
            }
        }
        Ok(())
    }

    fn cut_out(&mut self, at: usize) -> Chunk {
        self.holes.push(at);
        let rows = Held { batch: RecordBatch::new_empty(Arc::clone(&self.schema)), cold: None };
        let hole = Chunk { rows, number: 0, slots: Vec::new(), live: 0, bytes: 0, width: 0 };
        let chunk = std::mem::replace(&mut self.chunks[at], hole);
        self.bytes -= chunk.bytes;
        chunk
    }

    fn push(&mut self, mut chunk: Chunk) -> Result<()> {
        self.made += 1;
        chunk.number = self.made;
        let at = self.holes.pop().unwrap_or(self.chunks.len());
        if at + 1 >= CHUNK_ROWS {
            return Err(Error::query("the state of one operator has too many rows for one thread"));
        }
        for (row, slot) in chunk.slots.iter().enumerate() {
            if *slot != NOWHERE {
                self.places[*slot as usize] = (at * CHUNK_ROWS + row) as u32;
            }
        }
        self.bytes += chunk.bytes;
        if !chunk.is_large() {
            self.small.push(at);
        }
        if at == self.chunks.len() {
            self.chunks.push(chunk);
        } else {
            self.chunks[at] = chunk;
        }
        Ok(())
    }

    fn merged(&self, parts: &[Chunk]) -> Result<Chunk> {
        let live: usize = parts.iter().map(|part| part.live).sum();
        let mut slots = Vec::with_capacity(live);
        let mut rows = Vec::new();
        let whole = parts.iter().all(|part| part.live == part.slots.len() && part.rows.cold.is_none());
        for (part, chunk) in parts.iter().enumerate() {
            let alive = chunk.slots.iter().enumerate().filter(|(_, slot)| **slot != NOWHERE);
            for (row, slot) in alive {
                slots.push(*slot);
                if !whole {
                    rows.push((part, row));
                }
            }
        }
        let parts: Vec<&Held> = parts.iter().map(|part| &part.rows).collect();
        let batch = if whole {
            concat(&self.schema, parts.iter().map(|part| &part.batch))?
        } else {
            pick(&self.schema, self.encoder.as_deref(), &parts, rows)?
        };
        Ok(Chunk::new(compact(&batch)?, slots, live))
    }

    /// The rows of these slots, in this order.
    pub(super) fn gather(&self, slots: &[u32]) -> Result<RecordBatch> {
        let places = slots.iter().map(|slot| self.places[*slot as usize]);
        let (used, rows) = find(places, self.chunks.len());
        let chunks: Vec<&Held> = used.into_iter().map(|at| &self.chunks[at].rows).collect();
        pick(&self.schema, self.encoder.as_deref(), &chunks, rows)
    }

    /// The rows of these slots, in this order, to be read later. It holds no row a second time.
    pub(super) fn snapshot(&self, slots: &[u32]) -> Snapshot {
        Snapshot {
            schema: Arc::clone(&self.schema),
            encoder: self.encoder.clone(),
            chunks: self.chunks.iter().map(|chunk| chunk.rows.clone()).collect(),
            places: slots.iter().map(|slot| self.places[*slot as usize]).collect(),
        }
    }

    /// Puts chunks on disk until so many bytes of memory are free or none is left; gives how many are.
    pub(super) fn spill(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        let freed = self.spill_large(bytes, disk)?;
        // What is small will be read again to be merged.
        let least = if planted("force.spill") { 0 } else { LEAST_SPILLED };
        Ok(freed + self.spill_some(bytes.saturating_sub(freed), disk, |chunk| chunk.width >= least)?)
    }

    /// The same of those that will not be merged, the first made first.
    pub(super) fn spill_large(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        self.spill_some(bytes, disk, Chunk::is_large)
    }

    fn spill_some(&mut self, bytes: usize, disk: &Arc<DiskManager>, which: impl Fn(&Chunk) -> bool) -> Result<usize> {
        let warm = |chunk: &Chunk| chunk.rows.cold.is_none() && chunk.live > 0 && which(chunk);
        let mut warm: Vec<usize> = (0..self.chunks.len()).filter(|at| warm(&self.chunks[*at])).collect();
        if bytes == 0 || warm.is_empty() || self.schema.fields().is_empty() {
            return Ok(0);
        }
        warm.sort_unstable_by_key(|at| self.chunks[*at].number);
        let encoder = match self.encoder.take() {
            Some(encoder) => encoder,
            None => Arc::new(RowEncoder::of(&self.schema)?),
        };
        let mut writer = ColdWriter::new(disk)?;
        let mut spilled = Vec::new();
        let mut freed = 0;
        for at in warm {
            if freed >= bytes {
                break;
            }
            let chunk = &self.chunks[at];
            if let Some(cold) = writer.write(&chunk.rows.batch, &encoder)? {
                freed += chunk.bytes.saturating_sub(cold.bytes() + chunk.slots.capacity() * 4);
                spilled.push((at, cold));
            }
        }
        writer.finish()?;
        for (at, cold) in spilled {
            let chunk = &mut self.chunks[at];
            self.bytes -= chunk.bytes;
            chunk.bytes = cold.bytes() + chunk.slots.capacity() * 4;
            self.bytes += chunk.bytes;
            chunk.rows = Held { batch: RecordBatch::new_empty(Arc::clone(&self.schema)), cold: Some(Arc::new(cold)) };
        }
        self.encoder = Some(encoder);
        Ok(freed)
    }

    /// True if the slot holds a row.
    pub(super) fn is_live(&self, slot: u32) -> bool {
        self.places.get(slot as usize).is_some_and(|place| *place != NOWHERE)
    }

    /// All slots that hold a row.
    pub(super) fn live(&self) -> Vec<u32> {
        self.chunks.iter().flat_map(|chunk| chunk.slots.iter().copied().filter(|slot| *slot != NOWHERE)).collect()
    }
}

/// The bytes of rows, about, without what they only share with others.
fn width(batch: &RecordBatch, memory: usize) -> usize {
    let own = |column: &ArrayRef| column.to_data().get_slice_memory_size().unwrap_or(0);
    if memory < CHUNK_BYTES { memory } else { batch.columns().iter().map(own).sum() }
}

impl Snapshot {
    /// The rows, so many in a batch.
    pub(super) fn batches(self, rows: usize) -> impl Iterator<Item = Result<RecordBatch>> + Send {
        let starts = (0..self.places.len()).step_by(rows.max(1));
        starts.map(move |start| {
            let places = &self.places[start..self.places.len().min(start + rows.max(1))];
            let (used, rows) = find(places.iter().copied(), self.chunks.len());
            let chunks: Vec<&Held> = used.into_iter().map(|at| &self.chunks[at]).collect();
            pick(&self.schema, self.encoder.as_deref(), &chunks, rows)
        })
    }
}

/// The chunks of these places, each once, and for each place which of them it is in, and where.
fn find(places: impl Iterator<Item = u32>, chunks: usize) -> (Vec<usize>, Vec<(usize, usize)>) {
    let mut at: Vec<u32> = vec![NOWHERE; chunks];
    let (mut used, mut rows) = (Vec::new(), Vec::new());
    for place in places {
        let place = place as usize;
        let at = &mut at[place / CHUNK_ROWS];
        if *at == NOWHERE {
            *at = used.len() as u32;
            used.push(place / CHUNK_ROWS);
        }
        rows.push((*at as usize, place % CHUNK_ROWS));
    }
    (used, rows)
}

/// Rows of several chunks: which chunk, and where in it.
fn pick(
    schema: &SchemaRef,
    encoder: Option<&RowEncoder>,
    chunks: &[&Held],
    mut rows: Vec<(usize, usize)>,
) -> Result<RecordBatch> {
    if rows.is_empty() {
        return Ok(RecordBatch::new_empty(Arc::clone(schema)));
    }
    let thawed = thaw(encoder, chunks, &mut rows)?;
    let batches: Vec<&RecordBatch> =
        chunks.iter().zip(&thawed).map(|(chunk, thawed)| thawed.as_ref().unwrap_or(&chunk.batch)).collect();
    let picked = (0..schema.fields().len()).map(|at| {
        let arrays: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(at).as_ref()).collect();
        Ok(interleave(&arrays, &rows)?)
    });
    with_columns(schema, picked.collect::<Result<_>>()?, rows.len())
}

/// Of each chunk on disk the rows that are asked for, which `rows` then names by their places among them.
fn thaw(
    encoder: Option<&RowEncoder>,
    chunks: &[&Held],
    rows: &mut [(usize, usize)],
) -> Result<Vec<Option<RecordBatch>>> {
    let mut thawed: Vec<Option<RecordBatch>> = chunks.iter().map(|_| None).collect();
    let Some(encoder) = encoder.filter(|_| chunks.iter().any(|chunk| chunk.cold.is_some())) else {
        return Ok(thawed);
    };
    let mut asked: Vec<Vec<usize>> = vec![Vec::new(); chunks.len()];
    for (chunk, row) in rows.iter_mut().filter(|(chunk, _)| chunks[*chunk].cold.is_some()) {
        asked[*chunk].push(*row);
        *row = asked[*chunk].len() - 1;
    }
    for ((chunk, asked), thawed) in chunks.iter().zip(asked).zip(&mut thawed) {
        if let Some(cold) = &chunk.cold {
            *thawed = Some(cold.read(&asked, encoder, &chunk.batch)?);
        }
    }
    Ok(thawed)
}

/// Views are copied, so that a row does not hold the whole batch that it came with.
fn compact(batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = batch.columns().iter().map(|column| -> ArrayRef {
        match column.data_type() {
            DataType::Utf8View => Arc::new(column.as_string_view().gc()),
            DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
            _ => Arc::clone(column),
        }
    });
    with_columns(&batch.schema(), columns.collect(), batch.num_rows())
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::{Field, Int64Type, Schema};
    use datafusion::execution::disk_manager::DiskManagerBuilder;
    use proptest::prelude::*;

    use super::*;

    fn batch(values: Vec<i64>) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, false)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(values))]).expect("batch")
    }

    #[test]
    fn rows_on_disk_are_rows_still() {
        let mut chunks = Chunks::new(batch(Vec::new()).schema());
        let slots = chunks.insert(&batch((0..300_000).collect())).expect("inserts");
        let disk = Arc::new(DiskManagerBuilder::default().build().expect("a disk"));
        let before = chunks.bytes();
        let freed = chunks.spill(usize::MAX, &disk).expect("spills");
        assert!(freed > 1_500_000 && chunks.bytes() + freed == before, "{freed} of {before}");
        let check = |chunks: &Chunks, step: usize| {
            let some: Vec<u32> = chunks.live().into_iter().step_by(step).collect();
            let rows = chunks.gather(&some).expect("gathers");
            // A slot's row is the slot's number.
            let expected: Vec<i64> = some.iter().map(|slot| i64::from(*slot)).collect();
            assert_eq!(rows.column(0).as_primitive::<Int64Type>().values().to_vec(), expected);
        };
        check(&chunks, 1);
        check(&chunks, 1_777);
        // Most rows go, so that what is left comes back to memory.
        slots.iter().filter(|slot| **slot % 5 != 0).for_each(|slot| chunks.remove(*slot));
        chunks.tidy().expect("tidies");
        assert_eq!(chunks.len(), 60_000);
        check(&chunks, 1);
        chunks.spill(usize::MAX, &disk).expect("spills");
        check(&chunks, 3);
    }

    proptest! {
        #[test]
        fn a_row_is_found_under_its_slot_until_it_is_removed(
            steps in prop::collection::vec((0_usize..2, 1_usize..3000, any::<u64>()), 1..40)
        ) {
            let mut chunks = Chunks::new(batch(vec![]).schema());
            let mut model: std::collections::BTreeMap<u32, i64> = Default::default();
            let mut next = 0_i64;
            for (kind, count, seed) in steps {
                let some: Vec<u32> = model.keys().copied().filter(|slot| (seed >> (slot % 61)) & 1 == 1).take(count).collect();
                match kind {
                    0 => {
                        let values: Vec<i64> = (next..next + count as i64).collect();
                        next += count as i64;
                        let slots = chunks.insert(&batch(values.clone())).expect("inserts");
                        model.extend(slots.into_iter().zip(values));
                    }
                    _ => {
                        for slot in &some {
                            chunks.remove(*slot);
                            model.remove(slot);
                        }
                        chunks.tidy().expect("tidies");
                    }
                }
                prop_assert_eq!(chunks.len(), model.len());
                let slots: Vec<u32> = model.keys().copied().collect();
                let rows = chunks.gather(&slots).expect("gathers");
                let found: Vec<i64> = rows.column(0).as_primitive::<Int64Type>().values().to_vec();
                prop_assert_eq!(found, model.values().copied().collect::<Vec<_>>());
                let mut live = chunks.live();
                live.sort_unstable();
                prop_assert_eq!(live, slots);
            }
        }
    }
}
