//! Rows in columns, each under a number that stays.
//!
//! Enters: batches. Leaves: a *slot* for each row, under which it is found until it is removed. Always holds: small
//! chunks are merged, dead rows are dropped, so that the work of an insert is logarithmic in the rows, amortised; a
//! large chunk is written once and stays.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, SchemaRef};

use crate::change::{concat, with_columns};
use crate::error::{Error, Result};

/// The rows of a chunk have numbers of 16 bits.
const CHUNK_ROWS: usize = 1 << 16;
/// So many chunks of a size become one of the next.
const MERGED: usize = 8;
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
}

struct Chunk {
    batch: RecordBatch,
    /// The slot of each row, or [`NOWHERE`].
    slots: Vec<u32>,
    live: usize,
    bytes: usize,
}

impl Chunk {
    fn new(batch: RecordBatch, slots: Vec<u32>, live: usize) -> Self {
        let bytes = batch.get_array_memory_size() + slots.capacity() * 4;
        Self { batch, slots, live, bytes }
    }

    fn is_sparse(&self) -> bool {
        self.slots.len() > 1024 && self.live * 2 < self.slots.len()
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
            let (mut run, mut rows) = (0, 0);
            for at in self.small.iter().rev() {
                let chunk = &self.chunks[*at];
                if chunk.level() > level || rows + chunk.live > CHUNK_ROWS {
                    break;
                }
                (run, rows) = (run + 1, rows + chunk.live);
            }
            if run < 2 || (run < MERGED && rows < CHUNK_ROWS / 2) {
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
        let hole =
            Chunk { batch: RecordBatch::new_empty(Arc::clone(&self.schema)), slots: Vec::new(), live: 0, bytes: 0 };
        let chunk = std::mem::replace(&mut self.chunks[at], hole);
        self.bytes -= chunk.bytes;
        chunk
    }

    fn push(&mut self, chunk: Chunk) -> Result<()> {
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
        if chunk.slots.len() < CHUNK_ROWS / 2 {
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
        let whole = parts.iter().all(|part| part.live == part.slots.len());
        for (part, chunk) in parts.iter().enumerate() {
            let alive = chunk.slots.iter().enumerate().filter(|(_, slot)| **slot != NOWHERE);
            for (row, slot) in alive {
                slots.push(*slot);
                if !whole {
                    rows.push((part, row));
                }
            }
        }
        let batches: Vec<&RecordBatch> = parts.iter().map(|part| &part.batch).collect();
        let batch = if whole { concat(&self.schema, batches)? } else { pick(&self.schema, &batches, &rows)? };
        Ok(Chunk::new(compact(&batch)?, slots, live))
    }

    /// The rows of these slots, in this order.
    pub(super) fn gather(&self, slots: &[u32]) -> Result<RecordBatch> {
        let (batches, rows) = self.find(slots);
        pick(&self.schema, &batches, &rows)
    }

    /// The chunks that hold these slots, and where in them the rows are.
    fn find(&self, slots: &[u32]) -> (Vec<&RecordBatch>, Vec<(usize, usize)>) {
        let mut used: Vec<u32> = vec![NOWHERE; self.chunks.len()];
        let mut batches = Vec::new();
        let mut rows = Vec::with_capacity(slots.len());
        for slot in slots {
            let place = self.places[*slot as usize] as usize;
            let at = &mut used[place / CHUNK_ROWS];
            if *at == NOWHERE {
                *at = batches.len() as u32;
                batches.push(&self.chunks[place / CHUNK_ROWS].batch);
            }
            rows.push((*at as usize, place % CHUNK_ROWS));
        }
        (batches, rows)
    }

    /// All slots that hold a row.
    pub(super) fn live(&self) -> Vec<u32> {
        self.chunks.iter().flat_map(|chunk| chunk.slots.iter().copied().filter(|slot| *slot != NOWHERE)).collect()
    }
}

/// Rows of several batches.
fn pick(schema: &SchemaRef, batches: &[&RecordBatch], rows: &[(usize, usize)]) -> Result<RecordBatch> {
    if rows.is_empty() {
        return Ok(RecordBatch::new_empty(Arc::clone(schema)));
    }
    let picked = (0..schema.fields().len()).map(|at| {
        let arrays: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(at).as_ref()).collect();
        Ok(interleave(&arrays, rows)?)
    });
    with_columns(schema, picked.collect::<Result<_>>()?, rows.len())
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
    use proptest::prelude::*;

    use super::*;

    fn batch(values: Vec<i64>) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, false)]));
        RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(values))]).expect("batch")
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
