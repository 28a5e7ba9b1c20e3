//! Aggregates that count how often each value is there: mode, histogram, entropy.
//!
//! Enters: a column. Leaves: the most frequent value, a map from values to counts, or the entropy in bits.
//! Always holds: NULLs do not count; of values that are equally frequent, mode() gives the least.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, MapArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Int64Type};
use arrow::row::{OwnedRow, RowConverter, SortField};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};

use crate::error::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    Mode,
    Histogram,
    Entropy,
}

/// Registers them.
pub(super) fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    for (name, what) in [("mode", What::Mode), ("histogram", What::Histogram), ("entropy", What::Entropy)] {
        let signature = Signature::any(1, Volatility::Immutable);
        registry.register_udaf(Arc::new(AggregateUDF::new_from_impl(Counts { name, what, signature })))?;
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Counts {
    name: &'static str,
    what: What,
    signature: Signature,
}

/// The two fields within a map of counts.
fn entries(value: &DataType) -> Fields {
    Fields::from(vec![Field::new("key", value.clone(), false), Field::new("value", DataType::Int64, true)])
}

fn map_type(value: &DataType) -> DataType {
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries(value)), false)), false)
}

impl AggregateUDFImpl for Counts {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> DfResult<DataType> {
        let value = args.first().cloned().unwrap_or(DataType::Null);
        Ok(match self.what {
            What::Mode => value,
            What::Histogram => map_type(&value),
            What::Entropy => DataType::Float64,
        })
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> DfResult<Vec<FieldRef>> {
        let value = args.input_fields.first().map_or(DataType::Null, |field| field.data_type().clone());
        let list = |name: &str, kind: DataType| {
            let name = format!("{}[{name}]", args.name);
            Arc::new(Field::new(name, DataType::List(Arc::new(Field::new_list_field(kind, true))), true))
        };
        Ok(vec![list("values", value), list("counts", DataType::Int64)])
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> DfResult<Box<dyn Accumulator>> {
        let value = args.expr_fields.first().map_or(DataType::Null, |field| field.data_type().clone());
        let rows = RowConverter::new(vec![SortField::new_with_options(value.clone(), SortOptions::default())])?;
        Ok(Box::new(Counter { what: self.what, value, rows, counts: BTreeMap::new(), bytes: 0 }))
    }
}

/// Values in the comparable form of arrow-row, and how often each was there.
#[derive(Debug)]
struct Counter {
    what: What,
    value: DataType,
    rows: RowConverter,
    counts: BTreeMap<OwnedRow, i64>,
    bytes: usize,
}

impl Counter {
    fn add(&mut self, values: &ArrayRef, count: impl Fn(usize) -> i64) -> DfResult<()> {
        let rows = self.rows.convert_columns(&[Arc::clone(values)])?;
        for at in (0..values.len()).filter(|at| values.is_valid(*at)) {
            let row = rows.row(at).owned();
            let bytes = row.as_ref().len() + size_of::<(OwnedRow, i64)>();
            let count = count(at);
            let sum = self.counts.entry(row).or_insert_with(|| {
                self.bytes += bytes;
                0
            });
            *sum += count;
        }
        Ok(())
    }

    /// All values in order, and their counts.
    fn columns(&self) -> DfResult<(ArrayRef, Int64Array)> {
        let columns = self.rows.convert_rows(self.counts.keys().map(OwnedRow::row))?;
        let values = columns.into_iter().next().ok_or_else(|| Error::query("a column without values"))?;
        Ok((values, self.counts.values().copied().collect()))
    }
}

fn list(values: ArrayRef) -> ScalarValue {
    ScalarValue::List(Arc::new(datafusion::common::utils::SingleRowListArrayBuilder::new(values).build_list_array()))
}

impl Accumulator for Counter {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        values.first().map_or(Ok(()), |values| self.add(values, |_| 1))
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        let [values, counts] = states else { return Ok(()) };
        let (values, counts) = (values.as_list::<i32>(), counts.as_list::<i32>());
        for at in (0..values.len()).filter(|at| values.is_valid(*at)) {
            let counts = counts.value(at);
            let counts = counts.as_primitive::<Int64Type>();
            self.add(&values.value(at), |row| counts.value(row))?;
        }
        Ok(())
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        let (values, counts) = self.columns()?;
        Ok(vec![list(values), list(Arc::new(counts))])
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        let total: i64 = self.counts.values().sum();
        if total == 0 {
            return match self.what {
                What::Mode => ScalarValue::try_from(&self.value),
                What::Histogram => ScalarValue::try_from(&map_type(&self.value)),
                What::Entropy => Ok(ScalarValue::Float64(Some(0.0))),
            };
        }
        let (values, counts) = self.columns()?;
        match self.what {
            What::Mode => {
                let most = self.counts.values().max().copied().unwrap_or(0);
                let at = self.counts.values().position(|count| *count == most).unwrap_or(0);
                ScalarValue::try_from_array(&values, at)
            }
            What::Histogram => {
                let fields = entries(&self.value);
                let length = values.len();
                let entries = StructArray::try_new(fields.clone(), vec![values, Arc::new(counts)], None)?;
                let field = Arc::new(Field::new("entries", DataType::Struct(fields), false));
                let map = MapArray::try_new(field, OffsetBuffer::from_lengths([length]), entries, None, false)?;
                Ok(ScalarValue::Map(Arc::new(map)))
            }
            What::Entropy => {
                let share = |count: &i64| *count as f64 / total as f64;
                let bits = self.counts.values().map(|count| -share(count) * share(count).log2()).sum();
                Ok(ScalarValue::Float64(Some(bits)))
            }
        }
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.bytes + self.rows.size()
    }
}
