//! Changes: rows with a weight.
//!
//! Enters and leaves: [`Changes`], batches whose rows are inserted (+n) or retracted (-n). Always holds: an input
//! that never retracts carries no weights at all; consolidated changes hold each row once, and none of weight 0.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatchOptions, StringArray, UInt64Array};
use arrow::compute::{cast, concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, Rows, SortField};
use hashbrown::HashTable;

use crate::error::{Error, Result};

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

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// So many rows, with a table for them, fit into the cache of a core.
const CACHED_ROWS: usize = 8 * 1024;

/// The first of each kind of equal rows with the sum of their weights, if it is not 0; in order.
fn sums(rows: &Encoded, weights: &[i64]) -> Vec<(u64, i64)> {
    let count = weights.len();
    let hashes: Vec<u64> = (0..count).map(|row| hash(rows.row(row))).collect();
    // Equal rows are in the same part, and each part is small.
    let bits = (count / CACHED_ROWS + 1).next_power_of_two().ilog2();
    let part = |hash: u64| (hash as usize) & ((1 << bits) - 1);
    let mut ends = vec![0_usize; (1 << bits) + 1];
    hashes.iter().for_each(|hash| ends[part(*hash) + 1] += 1);
    for at in 1..ends.len() {
        ends[at] += ends[at - 1];
    }
    let mut parted: Vec<(u64, u32)> = vec![(0, 0); count];
    let mut next = ends.clone();
    for (row, hash) in hashes.into_iter().enumerate() {
        let place = &mut next[part(hash)];
        parted[*place] = (hash.rotate_right(bits), row as u32);
        *place += 1;
    }
    let mut sums = weights.to_vec();
    let mut is_first = vec![false; count];
    let mut table: HashTable<(u64, u32)> = HashTable::new();
    for bounds in ends.windows(2) {
        table.clear();
        for (hash, row) in &parted[bounds[0]..bounds[1]] {
            let bytes = rows.row(*row as usize);
            let same = |(other, first): &(u64, u32)| other == hash && rows.row(*first as usize) == bytes;
            if let Some((_, first)) = table.find(*hash, same) {
                sums[*first as usize] += weights[*row as usize];
            } else {
                table.insert_unique(*hash, (*hash, *row), |(hash, _)| *hash);
                is_first[*row as usize] = true;
            }
        }
    }
    let all = sums.into_iter().zip(is_first).enumerate();
    all.filter(|(_, (sum, is_first))| *is_first && *sum != 0).map(|(row, (sum, _))| (row as u64, sum)).collect()
}

/// Sums the weights of equal rows and drops those of weight 0. Rows keep the order of their first occurrence.
pub fn consolidate(schema: &SchemaRef, changes: &[Changes]) -> Result<Option<Changes>> {
    let changes: Vec<&Changes> = changes.iter().filter(|change| !change.is_empty()).collect();
    if changes.is_empty() {
        return Ok(None);
    }
    // What is taken back in the end may break a NOT NULL until then.
    let all = concat(&nullable(schema), changes.iter().map(|change| &change.rows))?;
    let rows = RowEncoder::of(schema)?.encode(all.columns(), all.num_rows())?;
    let weights: Vec<i64> = changes.iter().flat_map(|change| (0..change.len()).map(|row| change.weight(row))).collect();
    let kept = sums(&rows, &weights);
    if kept.is_empty() {
        return Ok(None);
    }
    let places = UInt64Array::from_iter_values(kept.iter().map(|(at, _)| *at));
    let weights = Int64Array::from_iter_values(kept.iter().map(|(_, weight)| *weight));
    let rows = take_rows(&all, &places)?;
    let count = rows.num_rows();
    Ok(Some(Changes::weighted(with_columns(schema, rows.columns().to_vec(), count)?, weights)))
}

/// The same columns, of which each may be NULL: within an epoch there may be rows that are taken back in the end.
pub fn nullable(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(
        schema.fields().iter().map(|field| Field::clone(field).with_nullable(true)).collect::<Vec<_>>(),
    ))
}
