//! min() and max() of floats, by groups.
//!
//! Enters: DataFusion's functions. Leaves: the same, with an accumulator of ours where many groups have floats. Always
//! holds: the order is that of ORDER BY, in which NaN is the largest; it does not matter in which order values come.
//!
//! DataFusion 55.2 begins with the largest finite float, which it then gives for a group of infinities, and forgets a
//! NaN when a number follows it. Without GROUP BY it does neither.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowNativeTypeOp, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray};
use arrow::compute::{not, nullif, prep_null_mask_filter};
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, ReversedUDAF,
    SetMonotonicity, Signature, StatisticsArgs,
};

use crate::error::Result;

/// Puts them in the place of DataFusion's.
pub(super) fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    for (name, keep) in [("min", Ordering::Less), ("max", Ordering::Greater)] {
        if let Ok(inner) = registry.udaf(name) {
            registry.register_udaf(Arc::new(AggregateUDF::new_from_impl(Extreme { inner, keep })))?;
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Extreme {
    inner: Arc<AggregateUDF>,
    /// How a value is to the one before, that takes its place.
    keep: Ordering,
}

impl AggregateUDFImpl for Extreme {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, args: &[DataType]) -> DfResult<DataType> {
        self.inner.return_type(args)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> DfResult<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> DfResult<Box<dyn GroupsAccumulator>> {
        match args.return_field.data_type() {
            DataType::Float16 => Ok(Box::new(Groups::<Float16Type>::new(self.keep))),
            DataType::Float32 => Ok(Box::new(Groups::<Float32Type>::new(self.keep))),
            DataType::Float64 => Ok(Box::new(Groups::<Float64Type>::new(self.keep))),
            _ => self.inner.create_groups_accumulator(args),
        }
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> DfResult<Box<dyn Accumulator>> {
        self.inner.create_sliding_accumulator(args)
    }

    fn coerce_types(&self, args: &[DataType]) -> DfResult<Vec<DataType>> {
        self.inner.coerce_types(args)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.inner.reverse_udf()
    }

    fn is_descending(&self) -> Option<bool> {
        self.inner.is_descending()
    }

    fn value_from_stats(&self, statistics: &StatisticsArgs<'_>) -> Option<ScalarValue> {
        self.inner.value_from_stats(statistics)
    }

    fn set_monotonicity(&self, kind: &DataType) -> SetMonotonicity {
        self.inner.inner().set_monotonicity(kind)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

/// The value of each group so far.
struct Groups<T: ArrowPrimitiveType> {
    values: Vec<Option<T::Native>>,
    keep: Ordering,
}

impl<T: ArrowPrimitiveType> Groups<T> {
    fn new(keep: Ordering) -> Self {
        Self { values: Vec::new(), keep }
    }
}

impl<T: ArrowPrimitiveType> GroupsAccumulator for Groups<T> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        chosen: Option<&BooleanArray>,
        total: usize,
    ) -> DfResult<()> {
        self.values.resize(total, None);
        let values = values[0].as_primitive::<T>();
        for (row, group) in groups.iter().enumerate() {
            let left_out = chosen.is_some_and(|chosen| chosen.is_null(row) || !chosen.value(row));
            if left_out || values.is_null(row) {
                continue;
            }
            let (new, known) = (values.value(row), &mut self.values[*group]);
            if known.is_none_or(|known| new.compare(known) == self.keep) {
                *known = Some(new);
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> DfResult<()> {
        self.update_batch(states, groups, None, total)
    }

    fn evaluate(&mut self, emit: EmitTo) -> DfResult<ArrayRef> {
        Ok(Arc::new(PrimitiveArray::<T>::from_iter(emit.take_needed(&mut self.values))))
    }

    fn state(&mut self, emit: EmitTo) -> DfResult<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit)?])
    }

    fn convert_to_state(&self, values: &[ArrayRef], chosen: Option<&BooleanArray>) -> DfResult<Vec<ArrayRef>> {
        let Some(chosen) = chosen else { return Ok(values.to_vec()) };
        Ok(vec![nullif(&values[0], &not(&prep_null_mask_filter(chosen))?)?])
    }

    fn size(&self) -> usize {
        self.values.capacity() * size_of::<Option<T::Native>>()
    }
}
