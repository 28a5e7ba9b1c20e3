//! Which rows are equal.
//!
//! Enters: columns. Leaves: rows as bytes, hashes, and for each row the first one that is equal to it. Always holds:
//! rows are equal where their bytes are: NULL equals NULL, NaN equals NaN of the same bits, 0.0 is not -0.0; the hash
//! of bytes is the same in every run, other hashes are of one process.

use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array, new_empty_array};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{and, cast, take};
use arrow::datatypes::{DataType, Schema};
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::hash_utils::{RandomState, create_hashes};
use hashbrown::HashTable;

use crate::error::Result;

/// Turns rows into bytes that are equal where the rows are. Rows without columns are all equal.
pub struct RowEncoder {
    types: Vec<DataType>,
    converter: Option<RowConverter>,
}

/// The rows of a batch as bytes.
pub struct Encoded {
    rows: Option<Rows>,
    count: usize,
}

impl RowEncoder {
    /// For columns of these types.
    pub fn new(types: impl IntoIterator<Item = DataType>) -> Result<Self> {
        let types: Vec<DataType> = types.into_iter().collect();
        let fields: Vec<SortField> = types.iter().cloned().map(SortField::new).collect();
        let converter = if fields.is_empty() { None } else { Some(RowConverter::new(fields)?) };
        Ok(Self { types, converter })
    }

    /// For whole rows of these columns.
    pub fn of(schema: &Schema) -> Result<Self> {
        Self::new(schema.fields().iter().map(|field| field.data_type().clone()))
    }

    /// The columns of rows that were encoded.
    pub fn decode<'a>(&self, rows: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>> {
        let Some(converter) = &self.converter else { return Ok(Vec::new()) };
        let parser = converter.parser();
        let columns = converter.convert_rows(rows.into_iter().map(|row| parser.parse(row)))?;
        // What was a dictionary comes back as its values.
        let typed = columns.into_iter().zip(&self.types).map(|(column, kind)| -> Result<ArrayRef> {
            if column.data_type() == kind { Ok(column) } else { Ok(cast(&column, kind)?) }
        });
        typed.collect()
    }

    /// The bytes of `count` rows.
    pub fn encode(&self, columns: &[ArrayRef], count: usize) -> Result<Encoded> {
        let rows = self.converter.as_ref().map(|converter| converter.convert_columns(columns)).transpose()?;
        Ok(Encoded { rows, count })
    }
}

impl Encoded {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The bytes of a row.
    #[inline]
    pub fn row(&self, row: usize) -> &[u8] {
        self.rows.as_ref().map_or(&[], |rows| rows.row(row).data())
    }
}

/// A hash of bytes, the same in every run; 0 of none.
pub fn hash(key: &[u8]) -> u64 {
    if key.is_empty() {
        return 0;
    }
    let mut state = (key.len() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut words = key.chunks_exact(8);
    for word in &mut words {
        let mut eight = [0; 8];
        eight.copy_from_slice(word);
        state = fold(state ^ u64::from_le_bytes(eight), 0xA076_1D64_78BD_642F);
    }
    let mut rest = [0; 8];
    rest[..words.remainder().len()].copy_from_slice(words.remainder());
    fold(state ^ u64::from_le_bytes(rest), 0xE703_7ED1_A0B4_28DB)
}

/// Both in one hash.
#[inline]
pub fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// So many rows, with a table for them, fit into the cache of a core.
const CACHED_ROWS: usize = 8 * 1024;

/// Finds out which rows of certain types are equal, without making bytes of them where it can.
pub struct RowMatcher {
    encoder: RowEncoder,
    /// All types can be hashed and compared as columns.
    plain: bool,
}

impl RowMatcher {
    /// For columns of these types.
    pub fn new(types: impl IntoIterator<Item = DataType>) -> Result<Self> {
        let types: Vec<DataType> = types.into_iter().collect();
        let plain = |kind: &DataType| {
            let none = new_empty_array(kind);
            let hashed = create_hashes([&none], &RandomState::default(), &mut Vec::new()).is_ok();
            hashed && !kind.is_nested() && not_distinct(&none, &none).is_ok()
        };
        let plain = types.iter().all(plain);
        Ok(Self { encoder: RowEncoder::new(types)?, plain })
    }

    /// For whole rows of these columns.
    pub fn of(schema: &Schema) -> Result<Self> {
        Self::new(schema.fields().iter().map(|field| field.data_type().clone()))
    }

    /// What makes bytes of rows of these types.
    pub fn encoder(&self) -> &RowEncoder {
        &self.encoder
    }

    /// A hash of each of `count` rows, good in this process.
    pub fn hashes(&self, columns: &[ArrayRef], count: usize) -> Result<Vec<u64>> {
        if self.plain {
            let mut hashes = vec![0; count];
            if !columns.is_empty() {
                create_hashes(columns, &RandomState::default(), &mut hashes)?;
            }
            return Ok(hashes);
        }
        let encoded = self.encoder.encode(columns, count)?;
        Ok((0..count).map(|row| hash(encoded.row(row))).collect())
    }

    /// For each of `count` pairs of rows, whether they are equal; nothing if all are.
    pub fn equal(&self, left: &[ArrayRef], right: &[ArrayRef], count: usize) -> Result<Option<BooleanArray>> {
        let equal = if self.plain {
            let mut all: Option<BooleanArray> = None;
            for (left, right) in left.iter().zip(right) {
                let equal = not_distinct(left, right)?;
                all = Some(match all {
                    Some(before) => and(&before, &equal)?,
                    None => equal,
                });
            }
            match all {
                Some(all) => all,
                None => return Ok(None),
            }
        } else {
            let (left, right) = (self.encoder.encode(left, count)?, self.encoder.encode(right, count)?);
            (0..count).map(|row| Some(left.row(row) == right.row(row))).collect()
        };
        Ok((equal.true_count() < count).then_some(equal))
    }

    /// For each row the first one that is equal to it. `hashes` are those of [`RowMatcher::hashes`].
    pub fn firsts(&self, columns: &[ArrayRef], hashes: &[u64]) -> Result<Vec<u32>> {
        let firsts = firsts(hashes, |_, _| true);
        let later: Vec<u32> = (0..firsts.len() as u32).filter(|row| firsts[*row as usize] != *row).collect();
        if later.is_empty() || columns.is_empty() {
            return Ok(firsts);
        }
        let first = UInt32Array::from_iter_values(later.iter().map(|row| firsts[*row as usize]));
        let later = UInt32Array::from(later);
        let at =
            |rows: &UInt32Array| columns.iter().map(|column| take(column, rows, None)).collect::<Result<Vec<_>, _>>();
        if self.equal(&at(&first)?, &at(&later)?, later.len())?.is_none() {
            return Ok(firsts);
        }
        // Two rows that differ have one hash.
        let encoded = self.encoder.encode(columns, hashes.len())?;
        Ok(self::firsts(hashes, |a, b| encoded.row(a as usize) == encoded.row(b as usize)))
    }
}

/// For each row the first one of the same hash that is the `same`.
fn firsts(hashes: &[u64], same: impl Fn(u32, u32) -> bool) -> Vec<u32> {
    // Equal rows are in the same part, and each part is small.
    let bits = (hashes.len() / CACHED_ROWS + 1).next_power_of_two().ilog2();
    let part = |hash: u64| (hash as usize) & ((1 << bits) - 1);
    let mut ends = vec![0_usize; (1 << bits) + 1];
    hashes.iter().for_each(|hash| ends[part(*hash) + 1] += 1);
    for at in 1..ends.len() {
        ends[at] += ends[at - 1];
    }
    let mut parted: Vec<(u64, u32)> = vec![(0, 0); hashes.len()];
    let mut next = ends.clone();
    for (row, hash) in hashes.iter().enumerate() {
        let place = &mut next[part(*hash)];
        parted[*place] = (hash.rotate_right(bits), row as u32);
        *place += 1;
    }
    let mut firsts: Vec<u32> = (0..hashes.len() as u32).collect();
    let mut table: HashTable<(u64, u32)> = HashTable::with_capacity(CACHED_ROWS.min(hashes.len()));
    for bounds in ends.windows(2) {
        table.clear();
        for (hash, row) in &parted[bounds[0]..bounds[1]] {
            let equal = |(other, first): &(u64, u32)| other == hash && same(*first, *row);
            if let Some((_, first)) = table.find(*hash, equal) {
                firsts[*row as usize] = *first;
            } else {
                table.insert_unique(*hash, (*hash, *row), |(hash, _)| *hash);
            }
        }
    }
    firsts
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, ListArray, StringArray};
    use arrow::datatypes::Int32Type;
    use proptest::prelude::*;

    use super::*;

    fn check(columns: &[ArrayRef]) -> Result<(), TestCaseError> {
        let types = || columns.iter().map(|column| column.data_type().clone());
        let (matcher, encoder) = (RowMatcher::new(types()).expect("a matcher"), RowEncoder::new(types()).expect("one"));
        let count = columns[0].len();
        let encoded = encoder.encode(columns, count).expect("bytes");
        let expected: Vec<u32> = (0..count)
            .map(|row| (0..row).find(|first| encoded.row(*first) == encoded.row(row)).unwrap_or(row) as u32)
            .collect();
        let hashes = matcher.hashes(columns, count).expect("hashes");
        prop_assert_eq!(matcher.firsts(columns, &hashes).expect("firsts"), expected.clone());
        // Also where all have one hash.
        prop_assert_eq!(matcher.firsts(columns, &vec![7; count]).expect("firsts"), expected);
        Ok(())
    }

    proptest! {
        #[test]
        fn the_first_of_equal_rows_is_found(rows in prop::collection::vec((prop::option::of(0_i64..4), 0_usize..5, 0_usize..3), 0..60)) {
            const FLOATS: [f64; 5] = [0.0, -0.0, f64::NAN, 1.5, f64::INFINITY];
            let numbers: ArrayRef = Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.0)));
            let floats: ArrayRef = Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| FLOATS[row.1])));
            let texts: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| ["", "a", "a\0"][row.2])));
            let lists = rows.iter().map(|row| row.0.map(|n| vec![Some(n as i32); row.2]));
            let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists));
            check(&[Arc::clone(&numbers), floats])?;
            check(&[texts, Arc::clone(&numbers)])?;
            check(&[lists, numbers])?;
        }
    }
}
