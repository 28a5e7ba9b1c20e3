//! Rows in columns, each under a number that stays.
//!
//! Enters: batches. Leaves: a *slot* for each row, under which it is found until it is removed. Always holds: small
//! chunks are merged, dead rows are dropped, so that the work of an insert is logarithmic in the rows, amortised.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{DataType, SchemaRef};

use crate::error::Result;

const CHUNK_ROWS: usize = 64 * 1024;
const NOWHERE: u32 = u32::MAX;

/// Rows of one schema.
pub(super) struct Chunks {
    schema: SchemaRef,
    chunks: Vec<Chunk>,
    /// Chunk and row of each slot.
    places: Vec<(u32, u32)>,
    free: Vec<u32>,
}

struct Chunk {
    batch: RecordBatch,
    /// The slot of each row, or [`NOWHERE`].
    slots: Vec<u32>,
    live: usize,
}

impl Chunks {
    pub(super) fn new(schema: SchemaRef) -> Self {
        Self { schema, chunks: Vec::new(), places: Vec::new(), free: Vec::new() }
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// The memory of the rows, about.
    pub(super) fn bytes(&self) -> usize {
        let chunks = self.chunks.iter().map(|chunk| chunk.batch.get_array_memory_size() + chunk.slots.len() * 4);
        chunks.sum::<usize>() + self.places.len() * 8
    }

    /// Keeps the rows; gives the slot of each.
    pub(super) fn insert(&mut self, batch: &RecordBatch) -> Result<Vec<u32>> {
        let slots: Vec<u32> = (0..batch.num_rows())
            .map(|_| match self.free.pop() {
                Some(slot) => slot,
                None => {
                    self.places.push((NOWHERE, 0));
                    (self.places.len() - 1) as u32
                }
            })
            .collect();
        self.put(&slots, batch)?;
        Ok(slots)
    }

    /// Drops a row; its slot may be given again.
    pub(super) fn remove(&mut self, slot: u32) {
        self.forget(slot);
        self.places[slot as usize] = (NOWHERE, 0);
        self.free.push(slot);
    }

    fn forget(&mut self, slot: u32) {
        let (chunk, row) = self.places[slot as usize];
        if chunk != NOWHERE {
            let chunk = &mut self.chunks[chunk as usize];
            chunk.slots[row as usize] = NOWHERE;
            chunk.live -= 1;
        }
    }

    fn put(&mut self, slots: &[u32], batch: &RecordBatch) -> Result<()> {
        if slots.is_empty() {
            return Ok(());
        }
        self.push(Chunk { batch: compact(batch)?, slots: slots.to_vec(), live: slots.len() });
        while let [.., before, last] = self.chunks.as_slice() {
            let small = before.live <= 2 * last.live && before.live + last.live <= CHUNK_ROWS;
            let sparse = before.slots.len() > 1024 && before.live * 2 < before.slots.len();
            if !small && !sparse {
                break;
            }
            let last = self.chunks.pop();
            let before = self.chunks.pop();
            let parts: Vec<Chunk> = before.into_iter().chain(last).collect();
            let merged = self.merged(&parts)?;
            self.push(merged);
        }
        self.drop_sparse()
    }

    fn push(&mut self, chunk: Chunk) {
        let at = self.chunks.len() as u32;
        for (row, slot) in chunk.slots.iter().enumerate() {
            if *slot != NOWHERE {
                self.places[*slot as usize] = (at, row as u32);
            }
        }
        self.chunks.push(chunk);
    }

    fn merged(&self, parts: &[Chunk]) -> Result<Chunk> {
        let mut slots = Vec::new();
        let mut rows = Vec::new();
        for (part, chunk) in parts.iter().enumerate() {
            for (row, slot) in chunk.slots.iter().enumerate().filter(|(_, slot)| **slot != NOWHERE) {
                slots.push(*slot);
                rows.push((part, row));
            }
        }
        let batches: Vec<&RecordBatch> = parts.iter().map(|part| &part.batch).collect();
        let live = slots.len();
        Ok(Chunk { batch: compact(&pick(&self.schema, &batches, &rows)?)?, slots, live })
    }

    /// Rewrites a chunk of which most rows are dead. One at a time: the work follows the change.
    fn drop_sparse(&mut self) -> Result<()> {
        let sparse = |chunk: &Chunk| chunk.slots.len() > 1024 && chunk.live * 2 < chunk.slots.len();
        let Some(at) = self.chunks.iter().position(sparse) else { return Ok(()) };
        let last = self.chunks.len() - 1;
        self.chunks.swap(at, last);
        let moved = &self.chunks[at];
        for (row, slot) in moved.slots.iter().enumerate().filter(|(_, slot)| **slot != NOWHERE) {
            self.places[*slot as usize] = (at as u32, row as u32);
        }
        let Some(chunk) = self.chunks.pop() else { return Ok(()) };
        let merged = self.merged(&[chunk])?;
        self.push(merged);
        Ok(())
    }

    /// The rows of these slots, in this order.
    pub(super) fn gather(&self, slots: &[u32]) -> Result<RecordBatch> {
        let mut used: Vec<u32> = vec![NOWHERE; self.chunks.len()];
        let mut batches = Vec::new();
        let mut rows = Vec::with_capacity(slots.len());
        for slot in slots {
            let (chunk, row) = self.places[*slot as usize];
            let at = &mut used[chunk as usize];
            if *at == NOWHERE {
                *at = batches.len() as u32;
                batches.push(&self.chunks[chunk as usize].batch);
            }
            rows.push((*at as usize, row as usize));
        }
        pick(&self.schema, &batches, &rows)
    }

    /// All slots that hold a row.
    pub(super) fn live(&self) -> Vec<u32> {
        self.chunks.iter().flat_map(|chunk| chunk.slots.iter().copied().filter(|slot| *slot != NOWHERE)).collect()
    }
}

fn pick(schema: &SchemaRef, batches: &[&RecordBatch], rows: &[(usize, usize)]) -> Result<RecordBatch> {
    if rows.is_empty() {
        return Ok(RecordBatch::new_empty(Arc::clone(schema)));
    }
    if schema.fields().is_empty() {
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        return Ok(RecordBatch::try_new_with_options(Arc::clone(schema), Vec::new(), &options)?);
    }
    Ok(interleave_record_batch(batches, rows)?)
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
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(batch.schema(), columns.collect(), &options)?)
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
