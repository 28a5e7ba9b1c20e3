//! Generators: rows that are made and not read.
//!
//! Enters: a number of rows a second. Leaves: rows that depend on their number alone. Always holds: the same range
//! gives the same rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;

use super::{Read, Source, StreamOptions, Waiting};
use crate::checkpoint::Saved;
use crate::error::{Error, Result};
use crate::offset::OffsetRange;

const BATCH_ROWS: u64 = 64 * 1024;
const MICROS: i64 = 1_000_000;
/// Rows a second, where OPTIONS do not say.
const ROWS_PER_SECOND: u64 = 1000;

/// Says which rows are due.
pub(super) struct Clock {
    rows_per_second: u64,
    /// When row 0 was due, in microseconds since 1970.
    start_micros: Option<i64>,
    /// The row behind the last one that was due when it was asked last.
    pub(super) due: u64,
}

impl Clock {
    pub(super) fn new(rows_per_second: u64) -> Self {
        Self { rows_per_second, start_micros: None, due: 0 }
    }

    /// A row's own time: microseconds since 1970 by its number, so that it does not depend on when it is read.
    fn micros(&self, row: u64) -> i64 {
        let micros = u128::from(row) * MICROS as u128 / u128::from(self.rows_per_second);
        i64::try_from(micros).unwrap_or(i64::MAX)
    }

    /// The row behind the last one that is due. What is due begins anew with each run, at row `next`: a pause does
    /// not pile up rows.
    pub(super) fn due(&mut self, next: u64, now_micros: i64) -> u64 {
        let due_at_start = self.micros(next);
        let start = *self.start_micros.get_or_insert(now_micros - due_at_start - MICROS / 10);
        let passed = u128::try_from(now_micros - start).unwrap_or(0);
        self.due = u64::try_from(passed * u128::from(self.rows_per_second) / MICROS as u128).unwrap_or(u64::MAX);
        self.due
    }

    /// Rows that are due behind `next`.
    pub(super) fn waiting(&self, next: u64, options: &StreamOptions) -> Waiting {
        let rows = self.due.min(options.rows.unwrap_or(u64::MAX)).saturating_sub(next);
        let since = self.start_micros.filter(|_| rows > 0).map(|start| start.saturating_add(self.micros(next)));
        Waiting { bytes: 0, rows: Some(rows), since_micros: since }
    }
}

/// The number of the next row, for a checkpoint.
pub(super) fn save(next: u64) -> Result<Saved> {
    let schema = Schema::new(vec![Field::new("next", DataType::Int64, false)]);
    let next = Arc::new(Int64Array::from(vec![next as i64]));
    Ok(Saved::Whole(vec![RecordBatch::try_new(Arc::new(schema), vec![next])?].into()))
}

/// What [`save`] saved.
pub(super) fn restore(saved: &[RecordBatch]) -> Option<u64> {
    let column = saved.last()?.column(0).as_any().downcast_ref::<Int64Array>()?;
    Some(column.value(0) as u64)
}

/// STORED AS RATE: a counter, and the moment at which each row is due.
pub(super) struct Rate {
    schema: SchemaRef,
    options: StreamOptions,
    clock: Clock,
    next: u64,
    /// How many rows there are in all, whatever is wanted of them.
    total: Option<u64>,
}

impl Rate {
    /// The columns of the table.
    pub(super) fn columns() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("value", DataType::Int64, false),
            Field::new("ts", DataType::Timestamp(TimeUnit::Microsecond, None), false),
        ]))
    }

    pub(super) fn new(schema: SchemaRef, options: StreamOptions) -> Self {
        let clock = Clock::new(Self::rate(&options));
        Self { schema, clock, next: 0, total: options.rows, options }
    }

    /// Rows a second.
    pub(super) fn rate(options: &StreamOptions) -> u64 {
        options.rows_per_second.unwrap_or(ROWS_PER_SECOND)
    }
}

/// What an epoch takes of a generator that stands at `next`, of whose rows those before `due` are due.
pub(super) fn rows_due(next: u64, due: u64, options: &StreamOptions) -> OffsetRange {
    let end = due.min(options.rows.unwrap_or(u64::MAX)).min(next.saturating_add(options.limits.rows));
    OffsetRange::Rows { from: next, to: end.max(next) }
}

#[async_trait]
impl Source for Rate {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    async fn next(&mut self, now_micros: i64) -> Result<OffsetRange> {
        let due = self.clock.due(self.next, now_micros);
        Ok(rows_due(self.next, due, &self.options))
    }

    fn advance(&mut self, range: &OffsetRange) -> Result<()> {
        if let OffsetRange::Rows { to, .. } = range {
            self.next = *to;
        }
        Ok(())
    }

    async fn read(&self, range: &OffsetRange) -> Result<Read> {
        let OffsetRange::Rows { from, to } = *range else { return Err(Error::query("not a range of rows")) };
        let mut batches = Vec::new();
        let mut at = from;
        while at < to {
            let end = to.min(at + BATCH_ROWS);
            let columns = self.schema.fields().iter().map(|field| -> ArrayRef {
                if field.name() == "value" {
                    Arc::new(Int64Array::from_iter_values((at..end).map(|row| row as i64)))
                } else {
                    Arc::new(TimestampMicrosecondArray::from_iter_values((at..end).map(|row| self.clock.micros(row))))
                }
            });
            let options = RecordBatchOptions::new().with_row_count(Some((end - at) as usize));
            batches.push(RecordBatch::try_new_with_options(self.schema(), columns.collect(), &options)?);
            at = end;
        }
        Ok(batches.into())
    }

    fn waiting(&self) -> Waiting {
        self.clock.waiting(self.next, &self.options)
    }

    fn position(&self) -> serde_json::Value {
        serde_json::json!({ "rows": self.next })
    }

    fn stop_growing(&mut self) {
        self.options.rows = Some(self.options.rows.unwrap_or(u64::MAX).min(self.next.max(self.clock.due)));
    }

    fn is_finished(&self) -> bool {
        self.options.rows.is_some_and(|rows| self.next >= rows)
    }

    fn is_ended(&self) -> bool {
        self.total.is_some_and(|rows| self.next >= rows)
    }

    fn taken(&self) -> Result<OffsetRange> {
        Ok(OffsetRange::Rows { from: 0, to: self.next })
    }

    fn save(&mut self) -> Result<Saved> {
        save(self.next)
    }

    fn restore(&mut self, saved: Vec<RecordBatch>) -> Result<()> {
        self.next = restore(&saved).unwrap_or(self.next);
        Ok(())
    }
}
