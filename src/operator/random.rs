//! random() and uuid(), the same each time an epoch is run.
//!
//! Enters: rows that are never taken back. Leaves: the same with a column for each call. Always holds: a value depends on
//! the seed that the epoch has recorded, the place of the call, the row, and how many rows that equal it the epoch had
//! before it: so it hangs neither on the number of shards nor on how rows are cut into batches.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, StringArray};
use arrow::datatypes::SchemaRef;

use super::{EpochContext, Operator};
use crate::change::{Changes, RowEncoder, hash, with_columns};
use crate::error::Result;
use crate::planner::Chance;

/// The calls of one projection.
pub(super) struct Random {
    calls: Vec<Chance>,
    place: u64,
    encoder: RowEncoder,
    schema: SchemaRef,
}

impl Random {
    /// `schema`: the columns of the input, and behind them those of the calls.
    pub(super) fn new(calls: &[Chance], place: u64, schema: SchemaRef) -> Result<Self> {
        let columns = schema.fields().len() - calls.len();
        let kinds = schema.fields()[..columns].iter().map(|field| field.data_type().clone());
        Ok(Self { calls: calls.to_vec(), place, encoder: RowEncoder::new(kinds)?, schema })
    }

    fn column(&self, call: usize, rows: &[(u64, u64)], seed: u64) -> ArrayRef {
        let number = |row: &(u64, u64), lane: u64| number([seed, self.place, call as u64, lane, row.0, row.1]);
        match self.calls[call] {
            Chance::Random => {
                // As many bits as a float holds.
                let values = rows.iter().map(|row| (number(row, 0) >> 11) as f64 / (1_u64 << 53) as f64);
                Arc::new(Float64Array::from_iter_values(values))
            }
            Chance::Uuid => {
                Arc::new(StringArray::from_iter_values(rows.iter().map(|row| uuid(number(row, 0), number(row, 1)))))
            }
        }
    }
}

/// A number of which each bit hangs on all of these.
fn number(of: [u64; 6]) -> u64 {
    let bytes: Vec<u8> = of.iter().flat_map(|part| part.to_le_bytes()).collect();
    let mut bits = hash(&bytes);
    for factor in [0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB_u64] {
        bits = (bits ^ (bits >> 30)).wrapping_mul(factor);
    }
    bits ^ (bits >> 31)
}

/// A UUID of version 4.
fn uuid(high: u64, low: u64) -> String {
    let (high, low) = (high & !0xF000 | 0x4000, low & !(0b11 << 62) | (0b10 << 62));
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xFFFF,
        high & 0xFFFF,
        low >> 48,
        low & 0xFFFF_FFFF_FFFF
    )
}

impl Operator for Random {
    fn step(&mut self, inputs: Vec<Vec<Changes>>, context: &EpochContext) -> Result<Vec<Changes>> {
        let mut seen: HashMap<u64, u64> = HashMap::new();
        let mut out = Vec::new();
        for change in inputs.into_iter().flatten().filter(|change| !change.is_empty()) {
            let encoded = self.encoder.encode(change.rows.columns(), change.len())?;
            let rows = (0..change.len()).map(|row| {
                let row = hash(encoded.row(row));
                let before = seen.entry(row).or_insert(0);
                *before += 1;
                (row, *before)
            });
            let rows: Vec<(u64, u64)> = rows.collect();
            let mut columns = change.rows.columns().to_vec();
            columns.extend((0..self.calls.len()).map(|call| self.column(call, &rows, context.seed)));
            out.push(Changes::inserted(with_columns(&self.schema, columns, rows.len())?));
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_and_uuids_are_of_version_4() {
        let numbers: Vec<u64> = (0..20_000).map(|row| number([7, 1, 0, 0, 42, row])).collect();
        for bit in 0..64 {
            let ones = numbers.iter().filter(|number| *number >> bit & 1 == 1).count();
            assert!((9_600..10_400).contains(&ones), "bit {bit}: {ones}");
        }
        let distinct: std::collections::HashSet<&u64> = numbers.iter().collect();
        assert_eq!(distinct.len(), numbers.len());
        let text = uuid(u64::MAX, 0);
        assert_eq!(text, "ffffffff-ffff-4fff-8000-000000000000");
        assert_eq!(uuid(0, u64::MAX), "00000000-0000-4000-bfff-ffffffffffff");
    }
}
