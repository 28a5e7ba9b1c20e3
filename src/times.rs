//! Times as numbers.
//!
//! Enters: columns of times, and watermarks. Leaves: their numbers, each in the unit of its type, and which rows are
//! late. Always holds: a watermark in a coarser unit is rounded down, so that no row is late that is on time.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Date32Array, Int64Array, RecordBatch, make_array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Date32Type, Int32Type, Int64Type, TimeUnit};

use crate::error::{Error, Result};
use crate::offset::{ENDED, NO_WATERMARK};

/// How many microseconds, or units that are finer, are in a unit of that type.
fn scale(kind: &DataType) -> Result<(i64, i64)> {
    Ok(match kind {
        DataType::Timestamp(TimeUnit::Second, _) => (1_000_000, 1),
        DataType::Timestamp(TimeUnit::Millisecond, _) => (1000, 1),
        DataType::Timestamp(TimeUnit::Microsecond, _) => (1, 1),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => (1, 1000),
        DataType::Date32 => (86_400_000_000, 1),
        kind => return Err(Error::query(format!("a watermark of {kind}"))),
    })
}

/// Microseconds since 1970 in the units of a type, rounded down.
///
/// # Errors
/// A type that is no time.
pub fn in_units(micros: i64, kind: &DataType) -> Result<i64> {
    let (micros_in, in_micro) = scale(kind)?;
    Ok(micros.div_euclid(micros_in).saturating_mul(in_micro))
}

/// A value of a type of time in microseconds since 1970, rounded down.
pub fn micros_of(value: i64, kind: &DataType) -> i64 {
    scale(kind).map_or(value, |(micros_in, in_micro)| value.div_euclid(in_micro).saturating_mul(micros_in))
}

/// One value of a type of time.
///
/// # Errors
/// A type that is no time.
pub fn in_type(value: i64, kind: &DataType) -> Result<ArrayRef> {
    if *kind == DataType::Date32 {
        return Ok(Arc::new(Date32Array::from(vec![i32::try_from(value).ok()])));
    }
    let data = Int64Array::from(vec![value]).into_data().into_builder().data_type(kind.clone()).build()?;
    Ok(make_array(data))
}

/// Times as numbers, in their own unit.
///
/// # Errors
/// A type that is no time.
pub fn ordered(values: &ArrayRef) -> Result<Int64Array> {
    match values.data_type() {
        DataType::Timestamp(..) => {
            let data = values.to_data().into_builder().data_type(DataType::Int64).build()?;
            Ok(Int64Array::from(data))
        }
        DataType::Int64 => Ok(values.as_primitive::<Int64Type>().clone()),
        DataType::Int32 => Ok(values.as_primitive::<Int32Type>().unary(i64::from)),
        DataType::Date32 => Ok(values.as_primitive::<Date32Type>().unary(i64::from)),
        kind => Err(Error::query(format!("a watermark bounds no {kind}"))),
    }
}

/// Which rows of a batch are behind a watermark; nothing if none is.
///
/// # Errors
/// A column that is no time.
pub fn late_rows(batch: &RecordBatch, place: usize, watermark: i64) -> Result<Option<BooleanArray>> {
    if watermark == NO_WATERMARK {
        return Ok(None);
    }
    let column = batch.column(place);
    let limit = if watermark == ENDED { i64::MAX } else { in_units(watermark, column.data_type())? };
    let times = ordered(column)?;
    let late = (0..times.len()).map(|row| !times.is_null(row) && times.value(row) < limit);
    let late = BooleanArray::from_iter(late.map(Some));
    Ok((late.true_count() > 0).then_some(late))
}

/// The rows of a batch of a source that are behind a watermark.
///
/// # Errors
/// A column that is no time.
pub fn only_late(batch: &RecordBatch, place: usize, watermark: i64) -> Result<Option<RecordBatch>> {
    let mask = late_rows(batch, place, watermark)?;
    Ok(mask.map(|mask| filter_record_batch(batch, &mask)).transpose()?)
}
