//! Rows that were late.
//!
//! Enters: the ranges of a source that had some, each with the watermark that stood before it. Leaves: what was taken
//! without them. Always holds: of equal rows as many are left out as were late.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;

use super::Source;
use crate::change::{RowEncoder, with_columns};
use crate::error::Result;
use crate::offset::OffsetRange;
use crate::times::only_late;

/// What has brought late rows.
#[derive(Debug, Clone, Default)]
pub struct LateRanges {
    /// The ranges, and the watermarks before them, in microseconds since 1970.
    pub ranges: Vec<(OffsetRange, i64)>,
    /// The column of the table that is the time of a row.
    pub column: usize,
}

/// Late rows, each with how often it was there.
#[derive(Clone)]
pub struct LateRows {
    schema: SchemaRef,
    counts: HashMap<Box<[u8]>, u64>,
}

impl LateRows {
    /// Reads them from a source whose column `time` is the time of a row; of each row the columns at `places`, which
    /// make `schema`.
    pub async fn read(
        source: &dyn Source,
        late: &LateRanges,
        time: usize,
        (schema, places): (SchemaRef, &[usize]),
    ) -> Result<Self> {
        let encoder = RowEncoder::of(&schema)?;
        let mut counts: HashMap<Box<[u8]>, u64> = HashMap::new();
        for (range, watermark) in &late.ranges {
            for batch in source.read(range).await?.batches {
                let Some(rows) = only_late(&batch, time, *watermark)? else { continue };
                let columns = places.iter().map(|place| Arc::clone(rows.column(*place))).collect::<Vec<_>>();
                let encoded = encoder.encode(&columns, rows.num_rows())?;
                for row in 0..rows.num_rows() {
                    *counts.entry(encoded.row(row).into()).or_default() += 1;
                }
            }
        }
        Ok(Self { schema, counts })
    }

    /// The batch without the rows that are among these, which are counted off.
    pub fn strip(&mut self, batch: RecordBatch) -> Result<RecordBatch> {
        if self.counts.is_empty() {
            return Ok(batch);
        }
        let encoded = RowEncoder::of(&self.schema)?.encode(batch.columns(), batch.num_rows())?;
        let mut kept = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let late = self.counts.get_mut(encoded.row(row)).filter(|count| **count > 0);
            kept.push(late.is_none());
            late.into_iter().for_each(|count| *count -= 1);
        }
        let kept = BooleanArray::from(kept);
        if batch.num_columns() == 0 {
            return with_columns(&batch.schema(), Vec::new(), kept.true_count());
        }
        Ok(filter_record_batch(&batch, &kept)?)
    }
}
