//! Rows of short columns ↔ one number each.
//!
//! Enters: columns of fixed width. Leaves: 128 bits a row, and which of its columns are NULL; the columns again.
//! Always holds: rows are equal where both are; the bits of a NULL are 0.

use std::sync::Arc;

use arrow::array::{Array, ArrayData, ArrayRef, AsArray, BooleanArray, make_array};
use arrow::buffer::{Buffer, NullBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowNativeType, DataType};

use crate::error::Result;

/// Bytes of a row, at most.
const ROW_BYTES: usize = 16;

/// A row: the bits of its columns, and a bit for each that is NULL.
pub(super) type Row = (u128, u16);

/// How the columns of a row stand in it.
pub(super) struct Packing {
    /// Type, width in bytes, and the first bit.
    columns: Vec<(DataType, usize, u32)>,
}

impl Packing {
    /// For columns of these types, where a row of them is short enough.
    pub(super) fn of(types: &[DataType]) -> Option<Self> {
        let (mut columns, mut bytes) = (Vec::new(), 0);
        for kind in types {
            let width = match kind {
                DataType::Boolean => 1,
                kind => kind.primitive_width().filter(|width| [1, 2, 4, 8, 16].contains(width))?,
            };
            columns.push((kind.clone(), width, 8 * bytes as u32));
            bytes += width;
        }
        (!columns.is_empty() && bytes <= ROW_BYTES).then_some(Self { columns })
    }

    /// The rows of these columns.
    pub(super) fn pack(&self, columns: &[ArrayRef], rows: usize) -> Vec<Row> {
        let mut packed = vec![(0, 0); rows];
        for (at, (column, (kind, width, shift))) in columns.iter().zip(&self.columns).enumerate() {
            let (null, shift) = (1 << at, *shift);
            if *kind == DataType::Boolean {
                let values = column.as_boolean();
                let values = (0..values.len()).map(|row| u128::from(values.value(row)));
                fill(&mut packed, values, column.nulls(), null, shift);
                continue;
            }
            let data = column.to_data();
            match width {
                1 => fill(&mut packed, wide(data.buffer::<u8>(0)), column.nulls(), null, shift),
                2 => fill(&mut packed, wide(data.buffer::<u16>(0)), column.nulls(), null, shift),
                4 => fill(&mut packed, wide(data.buffer::<u32>(0)), column.nulls(), null, shift),
                8 => fill(&mut packed, wide(data.buffer::<u64>(0)), column.nulls(), null, shift),
                _ => {
                    let values = data.buffer::<i128>(0).iter().map(|value| *value as u128);
                    fill(&mut packed, values, column.nulls(), null, shift);
                }
            }
        }
        packed
    }

    /// The bits of each row, where the only column is of 8 bytes and has no NULL: what [`Packing::pack`] would make of
    /// it need not be made.
    pub(super) fn longs(&self, columns: &[ArrayRef]) -> Option<ScalarBuffer<u64>> {
        match (columns, &self.columns[..]) {
            ([column], [(kind, 8, _)]) if *kind != DataType::Boolean && column.null_count() == 0 => {
                let data = column.to_data();
                Some(ScalarBuffer::new(data.buffers()[0].clone(), data.offset(), data.len()))
            }
            _ => None,
        }
    }

    /// The columns of these rows.
    pub(super) fn unpack(&self, rows: impl Iterator<Item = Row> + Clone) -> Result<Vec<ArrayRef>> {
        let columns = self.columns.iter().enumerate();
        let columns = columns.map(|(at, (kind, width, shift))| -> Result<ArrayRef> {
            let values = rows.clone().map(|(bits, _)| bits >> shift);
            let nulls = NullBuffer::from_iter(rows.clone().map(|(_, nulls)| nulls & (1 << at) == 0));
            let nulls = Some(nulls).filter(|nulls| nulls.null_count() > 0);
            let buffer = match (kind, width) {
                (DataType::Boolean, _) => {
                    let values = values.map(|value| value & 1 == 1).collect();
                    return Ok(Arc::new(BooleanArray::new(values, nulls)));
                }
                (_, 1) => Buffer::from_iter(values.map(|value| value as u8)),
                (_, 2) => Buffer::from_iter(values.map(|value| value as u16)),
                (_, 4) => Buffer::from_iter(values.map(|value| value as u32)),
                (_, 8) => Buffer::from_iter(values.map(|value| value as u64)),
                _ => Buffer::from_iter(values.map(|value| value as i128)),
            };
            let data = ArrayData::builder(kind.clone()).len(rows.clone().count()).add_buffer(buffer).nulls(nulls);
            Ok(make_array(data.build()?))
        });
        columns.collect()
    }
}

fn wide<T: ArrowNativeType + Into<u128>>(values: &[T]) -> impl Iterator<Item = u128> {
    values.iter().map(|value| (*value).into())
}

/// Puts the values of a column into the rows.
fn fill(packed: &mut [Row], values: impl Iterator<Item = u128>, nulls: Option<&NullBuffer>, null: u16, shift: u32) {
    match nulls.filter(|nulls| nulls.null_count() > 0) {
        None => packed.iter_mut().zip(values).for_each(|((bits, _), value)| *bits |= value << shift),
        Some(nulls) => {
            for (((bits, flags), value), valid) in packed.iter_mut().zip(values).zip(nulls.iter()) {
                if valid { *bits |= value << shift } else { *flags |= null }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Decimal128Array, Float32Array, Int16Array, Int64Array, TimestampMicrosecondArray};
    use proptest::prelude::*;

    use super::*;
    use crate::change::RowEncoder;

    fn check(columns: &[ArrayRef]) -> Result<(), TestCaseError> {
        let types: Vec<DataType> = columns.iter().map(|column| column.data_type().clone()).collect();
        let packing = Packing::of(&types).expect("short columns");
        let rows = columns[0].len();
        let packed = packing.pack(columns, rows);
        if let Some(longs) = packing.longs(columns) {
            prop_assert_eq!(longs.iter().map(|bits| (u128::from(*bits), 0)).collect::<Vec<Row>>(), packed.clone());
        }
        prop_assert_eq!(&packing.unpack(packed.iter().copied()).expect("columns"), columns);
        let encoded = RowEncoder::new(types).expect("an encoder").encode(columns, rows).expect("bytes");
        for (a, b) in (0..rows).flat_map(|a| (0..rows).map(move |b| (a, b))) {
            prop_assert_eq!(packed[a] == packed[b], encoded.row(a) == encoded.row(b));
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_back(values in prop::collection::vec((prop::option::of(any::<i64>()), prop::option::of(0_i16..3)), 1..20), from in 0_usize..3) {
            let longs = Int64Array::from_iter(values.iter().map(|value| value.0));
            let times: TimestampMicrosecondArray = longs.reinterpret_cast();
            let shorts = Int16Array::from_iter(values.iter().map(|value| value.1));
            let floats = Float32Array::from_iter(values.iter().map(|value| value.0.map(|value| f32::from_bits(value as u32))));
            let flags = BooleanArray::from_iter(values.iter().map(|value| value.1.map(|value| value == 1)));
            let wide = Decimal128Array::from_iter(values.iter().map(|value| value.0.map(|value| i128::from(value) << 60)));
            let from = from.min(values.len());
            let slice = |column: &dyn Array| column.slice(from, values.len() - from);
            if from < values.len() {
                check(&[slice(&longs), slice(&times)])?;
                check(&[slice(&shorts), slice(&floats), slice(&flags)])?;
                check(&[slice(&wide)])?;
                check(&[slice(&longs)])?;
                check(&[slice(&Int64Array::from_iter_values(values.iter().map(|value| i64::from(value.1.unwrap_or(-1)))))])?;
            }
        }
    }
}
