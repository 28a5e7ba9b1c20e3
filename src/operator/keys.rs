//! Keys → hashes.
//!
//! Enters: rows of key columns. Leaves: for equal keys the same hash; which of two lists of keys are equal. Always
//! holds: a key's hash depends on its values alone, so it lands in the same shard after a restart; 0.0 and -0.0 are
//! one key, as they are for DataFusion.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray};
use arrow::datatypes::{
    DataType, Date32Type, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt64Type,
};
use arrow::record_batch::RecordBatch;
use datafusion::common::utils::normalize_float_zero;
use datafusion::physical_expr::PhysicalExpr;

use crate::change::RowMatcher;
pub(super) use crate::change::hash;
use crate::error::Result;

/// The shard of a hash, by other bits than those that the tables use.
pub(super) fn shard_of(hash: u64, shards: usize) -> usize {
    (((hash >> 16) & 0xFFFF) as usize * shards) >> 16
}

/// The columns that these expressions give.
pub(super) fn evaluate(exprs: &[Arc<dyn PhysicalExpr>], batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
    exprs.iter().map(|expr| Ok(expr.evaluate(batch)?.into_array(batch.num_rows())?)).collect()
}

/// The same for the columns of a key.
pub(super) fn evaluate_key(exprs: &[Arc<dyn PhysicalExpr>], batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
    Ok(evaluate(exprs, batch)?.iter().map(normalize_float_zero).collect())
}

/// For each row, whether a key column is NULL there; nothing if none is.
pub(super) fn nulls(columns: &[ArrayRef]) -> Option<Vec<bool>> {
    let mut nulls: Option<Vec<bool>> = None;
    for column in columns {
        if let Some(null) = column.logical_nulls().filter(|null| null.null_count() > 0) {
            let all = nulls.get_or_insert_with(|| vec![false; column.len()]);
            all.iter_mut().zip(null.iter()).for_each(|(is_null, valid)| *is_null |= !valid);
        }
    }
    nulls
}

/// Hashes and compares keys of certain types.
pub struct KeyHasher {
    matcher: RowMatcher,
}

impl KeyHasher {
    /// For keys of these types.
    pub fn new(types: impl IntoIterator<Item = DataType>) -> Result<Self> {
        Ok(Self { matcher: RowMatcher::new(types)? })
    }

    /// The hash of each of `count` rows: that of its bytes, without making the bytes where one number is the key.
    pub fn hashes(&self, columns: &[ArrayRef], count: usize) -> Result<Vec<u64>> {
        if let [column] = columns
            && let Some(hashes) = native(column)
        {
            return Ok(hashes);
        }
        let columns: Vec<ArrayRef> = columns.iter().map(canonical).collect();
        let encoded = self.matcher.encoder().encode(&columns, count)?;
        Ok((0..count).map(|row| hash(encoded.row(row))).collect())
    }

    /// For each row, whether both keys are equal, NULL being equal to NULL; nothing if all are.
    pub(super) fn equal(&self, left: &[ArrayRef], right: &[ArrayRef], count: usize) -> Result<Option<BooleanArray>> {
        self.matcher.equal(left, right, count)
    }
}

/// The hashes of a column of numbers, equal to those of its bytes.
fn native(column: &ArrayRef) -> Option<Vec<u64>> {
    use DataType::{Date32, Float64, Int32, Int64, Timestamp, UInt64};
    let signed = |value: i64| (value ^ i64::MIN).to_be_bytes();
    let short = |value: i32| (value ^ i32::MIN).to_be_bytes();
    Some(match column.data_type() {
        Int64 => hashes_of::<Int64Type, 8>(column, signed),
        UInt64 => hashes_of::<UInt64Type, 8>(column, u64::to_be_bytes),
        Int32 => hashes_of::<Int32Type, 4>(column, short),
        Date32 => hashes_of::<Date32Type, 4>(column, short),
        Timestamp(TimeUnit::Second, _) => hashes_of::<TimestampSecondType, 8>(column, signed),
        Timestamp(TimeUnit::Millisecond, _) => hashes_of::<TimestampMillisecondType, 8>(column, signed),
        Timestamp(TimeUnit::Microsecond, _) => hashes_of::<TimestampMicrosecondType, 8>(column, signed),
        Timestamp(TimeUnit::Nanosecond, _) => hashes_of::<TimestampNanosecondType, 8>(column, signed),
        Float64 => hashes_of::<Float64Type, 8>(column, |value| {
            let bits = one_form(value).to_bits() as i64;
            signed(bits ^ (((bits >> 63) as u64) >> 1) as i64)
        }),
        _ => return None,
    })
}

fn hashes_of<T: ArrowPrimitiveType, const N: usize>(
    column: &ArrayRef,
    bytes: impl Fn(T::Native) -> [u8; N],
) -> Vec<u64> {
    let column = column.as_primitive::<T>();
    let one = |value: Option<T::Native>| {
        let mut key = [0_u8; 9];
        if let Some(value) = value {
            key[0] = 1;
            key[1..=N].copy_from_slice(&bytes(value));
        }
        hash(&key[..=N])
    };
    if column.null_count() == 0 {
        return column.values().iter().map(|value| one(Some(*value))).collect();
    }
    column.iter().map(one).collect()
}

/// The column with one form of values that SQL takes for equal: -0.0 becomes 0.0, all NaN become one.
pub(super) fn canonical(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float64 => Arc::new(column.as_primitive::<Float64Type>().unary::<_, Float64Type>(one_form)),
        DataType::Float32 => {
            let values = column.as_primitive::<Float32Type>();
            Arc::new(values.unary::<_, Float32Type>(|value| if value.is_nan() { f32::NAN } else { value + 0.0 }))
        }
        _ => Arc::clone(column),
    }
}

fn one_form(value: f64) -> f64 {
    if value.is_nan() { f64::NAN } else { value + 0.0 }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Date32Array, Float64Array, Int32Array, Int64Array, TimestampMillisecondArray, UInt64Array};
    use proptest::prelude::*;

    use super::*;
    use crate::change::RowEncoder;

    fn same(column: ArrayRef) -> Result<(), TestCaseError> {
        let encoder = RowEncoder::new([column.data_type().clone()]).expect("an encoder");
        let encoded = encoder.encode(&[canonical(&column)], column.len()).expect("bytes");
        let expected: Vec<u64> = (0..column.len()).map(|row| hash(encoded.row(row))).collect();
        prop_assert_eq!(native(&column), Some(expected));
        Ok(())
    }

    proptest! {
        #[test]
        fn a_number_has_the_hash_of_its_bytes(values in prop::collection::vec(prop::option::of(any::<i64>()), 0..20)) {
            let short = || values.iter().map(|value| value.map(|value| value as i32));
            same(Arc::new(Int64Array::from(values.clone())))?;
            same(Arc::new(UInt64Array::from_iter(values.iter().map(|value| value.map(|value| value as u64)))))?;
            same(Arc::new(Int32Array::from_iter(short())))?;
            same(Arc::new(Date32Array::from_iter(short())))?;
            same(Arc::new(TimestampMillisecondArray::from(values.clone()).with_timezone("UTC")))?;
            let floats = values.iter().map(|value| value.map(|value| f64::from_bits(value as u64)));
            same(Arc::new(Float64Array::from_iter(floats)))?;
        }
    }
}
