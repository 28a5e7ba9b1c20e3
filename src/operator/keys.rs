//! Keys → numbers.
//!
//! Enters: rows of key columns. Leaves: for equal keys the same number, counted from 0. Always holds: a key's hash
//! depends on its values alone, so it lands in the same shard after a restart.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::record_batch::RecordBatch;
use datafusion::physical_expr::PhysicalExpr;
use hashbrown::HashTable;
use std::sync::Arc;

use crate::error::Result;

/// The hash of a key.
pub(super) fn hash(key: &[u8]) -> u64 {
    u64::from(crc32fast::hash(key)).wrapping_add(key.len() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// The shard of a hash, by other bits than those that the tables use.
pub(super) fn shard_of(hash: u64, shards: usize) -> usize {
    (((hash >> 20) & 0xFFFF) as usize * shards) >> 16
}

/// The columns that these expressions give.
pub(super) fn evaluate(exprs: &[Arc<dyn PhysicalExpr>], batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
    exprs.iter().map(|expr| Ok(expr.evaluate(batch)?.into_array(batch.num_rows())?)).collect()
}

/// For each row, whether a key column is NULL there.
pub(super) fn has_null(columns: &[ArrayRef], row: usize) -> bool {
    columns.iter().any(|column| column.is_null(row))
}

/// The column with one form of values that SQL takes for equal: -0.0 becomes 0.0, all NaN become one.
pub(super) fn canonical(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float64 => {
            let values = column.as_primitive::<Float64Type>();
            Arc::new(values.unary::<_, Float64Type>(|value| if value.is_nan() { f64::NAN } else { value + 0.0 }))
        }
        DataType::Float32 => {
            let values = column.as_primitive::<Float32Type>();
            Arc::new(values.unary::<_, Float32Type>(|value| if value.is_nan() { f32::NAN } else { value + 0.0 }))
        }
        _ => Arc::clone(column),
    }
}

/// All keys that were ever seen.
#[derive(Default)]
pub(super) struct Keys {
    table: HashTable<u32>,
    hashes: Vec<u64>,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Keys {
    fn get(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..self.ends[id]]
    }

    /// The number of a key, if it was seen.
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        self.table.find(hash, |id| self.hashes[*id as usize] == hash && self.get(*id) == key).copied()
    }

    /// The number of a key, and whether it is new.
    pub(super) fn intern(&mut self, hash: u64, key: &[u8]) -> (u32, bool) {
        if let Some(id) = self.find(hash, key) {
            return (id, false);
        }
        let id = self.hashes.len() as u32;
        self.hashes.push(hash);
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len());
        self.table.insert_unique(hash, id, |id| self.hashes[*id as usize]);
        (id, true)
    }

    /// Their memory, about.
    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity() + self.hashes.capacity() * 8 + self.ends.capacity() * 8 + self.table.capacity() * 5
    }
}
