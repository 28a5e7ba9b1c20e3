//! Changes: rows with a weight.
//!
//! Enters and leaves: [`Changes`], batches whose rows are inserted (+n) or retracted (-n). Always holds: an input
//! that never retracts carries no weights at all; consolidated changes hold each row once, and none of weight 0.

mod net;
mod rows;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatchOptions, StringArray, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use crate::error::{Error, Result};
pub use net::{DELETE, INSERT, NetRows, OP, OnMissing};
pub use rows::{Encoded, RowEncoder, RowMatcher, fold, hash};

/// The column that carries weights in files.
pub const WEIGHT: &str = "__weight";

/// Rows that were inserted or retracted.
#[derive(Debug, Clone)]
pub struct Changes {
    /// The rows.
    pub rows: RecordBatch,
    /// How often each was inserted (above 0) or retracted (below 0); nothing: each was inserted once.
    pub weights: Option<Int64Array>,
}

impl Changes {
    /// Rows that were inserted once each.
    pub fn inserted(rows: RecordBatch) -> Self {
        Self { rows, weights: None }
    }

    /// Rows with their weights.
    pub fn weighted(rows: RecordBatch, weights: Int64Array) -> Self {
        Self { rows, weights: Some(weights) }
    }

    /// The weight of a row.
    #[inline]
    pub fn weight(&self, row: usize) -> i64 {
        self.weights.as_ref().map_or(1, |weights| weights.value(row))
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// True if there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.num_rows() == 0
    }

    /// The rows at these places.
    pub fn take(&self, rows: &UInt64Array) -> Result<Self> {
        let weights = match &self.weights {
            Some(weights) => Some(arrow::compute::take(weights, rows, None)?),
            None => None,
        };
        Ok(Self { rows: take_rows(&self.rows, rows)?, weights: weights.as_ref().map(int64s) })
    }

    /// A row for each single change, and its op: what goes comes before what takes its place.
    pub fn with_ops(&self) -> Result<(RecordBatch, StringArray)> {
        let mut order: Vec<(bool, u64)> = Vec::new();
        for row in 0..self.len() {
            let weight = self.weight(row);
            order.extend((0..weight.unsigned_abs()).map(|_| (weight > 0, row as u64)));
        }
        order.sort_by_key(|(inserted, _)| *inserted);
        let rows = take_rows(&self.rows, &UInt64Array::from_iter_values(order.iter().map(|(_, row)| *row)))?;
        let ops = order.iter().map(|(inserted, _)| if *inserted { "insert" } else { "delete" });
        Ok((rows, StringArray::from_iter_values(ops)))
    }

    /// The rows with the weight as the last column.
    pub fn with_weight_column(&self) -> Result<RecordBatch> {
        let mut columns = self.rows.columns().to_vec();
        let weights = self.weights.clone().unwrap_or_else(|| Int64Array::from(vec![1; self.len()]));
        columns.push(Arc::new(weights));
        Ok(RecordBatch::try_new(weighted_schema(&self.rows.schema()), columns)?)
    }

    /// What [`Changes::with_weight_column`] gave.
    pub fn from_weight_column(batch: &RecordBatch) -> Result<Self> {
        let last = batch.num_columns() - 1;
        let weights = int64s(batch.column(last));
        let rows = batch.project(&(0..last).collect::<Vec<_>>())?;
        Ok(Self { rows, weights: Some(weights) })
    }
}

fn int64s(array: &ArrayRef) -> Int64Array {
    Int64Array::from(array.to_data())
}

/// The columns with that of the weight behind them.
pub fn weighted_schema(schema: &Schema) -> SchemaRef {
    let mut fields = schema.fields().to_vec();
    fields.push(Arc::new(Field::new(WEIGHT, DataType::Int64, false)));
    Arc::new(Schema::new(fields))
}

/// A batch with these columns, also if there are none.
pub fn with_columns(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

/// The rows at these places, also if there are no columns.
pub fn take_rows(batch: &RecordBatch, rows: &UInt64Array) -> Result<RecordBatch> {
    if batch.num_columns() == 0 {
        return with_columns(&batch.schema(), Vec::new(), rows.len());
    }
    Ok(take_record_batch(batch, rows)?)
}

/// One batch of all, also if there are no columns.
pub fn concat<'a>(schema: &SchemaRef, batches: impl IntoIterator<Item = &'a RecordBatch>) -> Result<RecordBatch> {
    if schema.fields().is_empty() {
        return with_columns(schema, Vec::new(), batches.into_iter().map(RecordBatch::num_rows).sum());
    }
    Ok(concat_batches(schema, batches)?)
}

/// The rows, each as often as its weight says.
pub fn repeat(change: &Changes) -> Result<RecordBatch> {
    let Some(weights) = &change.weights else { return Ok(change.rows.clone()) };
    if weights.values().iter().all(|weight| *weight == 1) {
        return Ok(change.rows.clone());
    }
    let times = |row: usize| usize::try_from(weights.value(row)).unwrap_or(0);
    let rows = (0..change.len()).flat_map(|row| std::iter::repeat_n(row as u64, times(row)));
    take_rows(&change.rows, &UInt64Array::from_iter_values(rows))
}

/// How many rows there are in all.
pub fn count(changes: &[Changes]) -> usize {
    changes.iter().map(Changes::len).sum()
}

/// More was taken away than was there.
pub fn retracted_too_often() -> Error {
    Error::query("a row was retracted that is not there").note("the input took away more than it had added")
}

/// Sums the weights of equal rows and drops those of weight 0. Rows keep the order of their first occurrence.
pub fn consolidate(schema: &SchemaRef, changes: &[Changes]) -> Result<Option<Changes>> {
    let changes: Vec<&Changes> = changes.iter().filter(|change| !change.is_empty()).collect();
    if changes.is_empty() {
        return Ok(None);
    }
    // What is taken back in the end may break a NOT NULL until then.
    let all = concat(&nullable(schema), changes.iter().map(|change| &change.rows))?;
    let matcher = RowMatcher::of(schema)?;
    let firsts = matcher.firsts(all.columns(), &matcher.hashes(all.columns(), all.num_rows())?)?;
    let mut sums = vec![0; firsts.len()];
    let weights = changes.iter().flat_map(|change| (0..change.len()).map(|row| change.weight(row)));
    firsts.iter().zip(weights).for_each(|(first, weight)| sums[*first as usize] += weight);
    let places = UInt64Array::from_iter_values((0..sums.len()).filter(|row| sums[*row] != 0).map(|row| row as u64));
    if places.is_empty() {
        return Ok(None);
    }
    let weights = Int64Array::from_iter_values(sums.into_iter().filter(|sum| *sum != 0));
    let rows = if places.len() == all.num_rows() { all } else { take_rows(&all, &places)? };
    let count = rows.num_rows();
    Ok(Some(Changes::weighted(with_columns(schema, rows.columns().to_vec(), count)?, weights)))
}

/// The same columns, of which each may be NULL: within an epoch there may be rows that are taken back in the end.
pub fn nullable(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(
        schema.fields().iter().map(|field| Field::clone(field).with_nullable(true)).collect::<Vec<_>>(),
    ))
}
