//! A sum that does not wrap.
//!
//! Enters: whole numbers, durations and decimals. Leaves: their sum in DataFusion's type of it. Always holds: a sum
//! that this type cannot hold is an error, and only the whole sum counts: it does not matter in which order and in
//! how many parts the values come.
//!
//! DataFusion adds in the type of the result, and wraps. Here the running sum, also between the parts of a plan, is
//! a decimal of 128 bits: no number of rows takes 64-bit values beyond that.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, ListArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DECIMAL128_MAX_PRECISION, DataType, Decimal32Type, Decimal64Type, Decimal128Type, Field, FieldRef, Int64Type,
    UInt64Type,
};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, Expr, GroupsAccumulator, Operator,
    ReversedUDAF, SetMonotonicity, Signature, StatisticsArgs,
};

use crate::error::{Error, Result};

/// DataFusion's sum, with running sums of ours.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct CheckedSum(pub(super) Arc<AggregateUDF>);

/// What is summed, and into which type.
#[derive(Debug, Clone)]
struct Target {
    kind: DataType,
    /// As SQL writes it.
    name: String,
}

impl Target {
    /// Nothing for types whose sums are DataFusion's: floats do not wrap, 256 bits are not filled.
    fn of(args: &AccumulatorArgs<'_>) -> Option<Self> {
        let kind = args.return_field.data_type();
        is_ours(kind).then(|| Self { kind: kind.clone(), name: args.name.to_owned() })
    }

    fn too_large(&self) -> Error {
        let (kind, hint) = match self.kind {
            DataType::Int64 => ("BIGINT", "sum larger numbers as decimals: sum(CAST(… AS DECIMAL(38, 0)))"),
            DataType::UInt64 => ("BIGINT UNSIGNED", "sum larger numbers as decimals: sum(CAST(… AS DECIMAL(38, 0)))"),
            DataType::Duration(_) => ("a duration", "sum seconds instead, as numbers"),
            _ => ("the largest DECIMAL", "sum floats, which are not exact: sum(CAST(… AS DOUBLE))"),
        };
        Error::query(format!("the result of {} is too large for {kind}", self.name)).hint(hint)
    }

    /// Running sums in the type of the result.
    fn results(&self, sums: &Decimal128Array) -> Result<ArrayRef> {
        let fits = |sum: i128| match self.kind {
            DataType::Int64 | DataType::Duration(_) => i64::try_from(sum).is_ok(),
            DataType::UInt64 => u64::try_from(sum).is_ok(),
            DataType::Decimal32(precision, _)
            | DataType::Decimal64(precision, _)
            | DataType::Decimal128(precision, _) => {
                sum.unsigned_abs() < 10_u128.pow(u32::from(precision.min(DECIMAL128_MAX_PRECISION)))
            }
            _ => false,
        };
        if !sums.iter().flatten().all(fits) {
            return Err(self.too_large());
        }
        if let DataType::Decimal128(precision, scale) = self.kind {
            return Ok(Arc::new(sums.clone().with_precision_and_scale(precision, scale)?));
        }
        if let DataType::Duration(_) = self.kind {
            return Ok(cast(&cast(sums, &DataType::Int64)?, &self.kind)?);
        }
        Ok(cast(sums, &self.kind)?)
    }

    fn result(&self, sum: Option<i128>) -> DfResult<ScalarValue> {
        let sums = running(vec![sum].into(), &self.kind)?;
        ScalarValue::try_from_array(&self.results(&sums)?, 0)
    }
}

fn is_ours(kind: &DataType) -> bool {
    use DataType::*;
    matches!(kind, Int64 | UInt64 | Duration(_) | Decimal32(..) | Decimal64(..) | Decimal128(..))
}

/// The type of running sums that become `kind`.
fn running_type(kind: &DataType) -> DataType {
    match kind {
        DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) | DataType::Decimal128(_, scale) => {
            DataType::Decimal128(DECIMAL128_MAX_PRECISION, *scale)
        }
        _ => DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0),
    }
}

fn running(sums: Decimal128Array, kind: &DataType) -> Result<Decimal128Array> {
    Ok(sums.with_data_type(running_type(kind)))
}

/// Values as 128-bit numbers; running sums are such already.
pub fn wide(values: &ArrayRef) -> Result<Decimal128Array> {
    Ok(match values.data_type() {
        DataType::UInt64 => values.as_primitive::<UInt64Type>().unary(i128::from),
        DataType::Decimal32(..) => values.as_primitive::<Decimal32Type>().unary(i128::from),
        DataType::Decimal64(..) => values.as_primitive::<Decimal64Type>().unary(i128::from),
        DataType::Decimal128(..) => values.as_primitive::<Decimal128Type>().clone(),
        _ => cast(values, &DataType::Int64)?.as_primitive::<Int64Type>().unary(i128::from),
    })
}

fn only(values: &[ArrayRef]) -> Result<&ArrayRef> {
    values.first().ok_or_else(|| Error::query("sum() without an argument"))
}

impl AggregateUDFImpl for CheckedSum {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn aliases(&self) -> &[String] {
        self.0.aliases()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> DfResult<DataType> {
        self.0.return_type(arguments)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> DfResult<Vec<FieldRef>> {
        let kind = args.return_field.data_type();
        if !is_ours(kind) {
            return self.0.state_fields(args);
        }
        let name = format!("{}[sum]", args.name);
        Ok(vec![Arc::new(if args.is_distinct {
            Field::new_list(name, Field::new_list_field(running_type(kind), true), false)
        } else {
            Field::new(name, running_type(kind), true)
        })])
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> DfResult<Box<dyn Accumulator>> {
        Ok(match Target::of(&args) {
            Some(target) if args.is_distinct => Box::new(Distinct { target, counts: HashMap::new() }),
            Some(target) => Box::new(Whole { target, sum: 0, count: 0 }),
            None => self.0.accumulator(args)?,
        })
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> DfResult<Box<dyn Accumulator>> {
        if is_ours(args.return_field.data_type()) {
            return self.accumulator(args);
        }
        self.0.create_sliding_accumulator(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.0.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> DfResult<Box<dyn GroupsAccumulator>> {
        match Target::of(&args) {
            Some(target) => Ok(Box::new(Groups { target, sums: Vec::new(), seen: Vec::new(), wrapped: false })),
            None => self.0.create_groups_accumulator(args),
        }
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn set_monotonicity(&self, kind: &DataType) -> SetMonotonicity {
        self.0.inner().set_monotonicity(kind)
    }

    fn simplify_expr_op_literal(
        &self,
        function: &AggregateFunction,
        argument: &Expr,
        op: Operator,
        literal: &Expr,
        argument_is_left: bool,
    ) -> DfResult<Option<Expr>> {
        self.0.inner().simplify_expr_op_literal(function, argument, op, literal, argument_is_left)
    }

    fn value_from_stats(&self, statistics: &StatisticsArgs<'_>) -> Option<ScalarValue> {
        self.0.inner().value_from_stats(statistics)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.0.documentation()
    }
}

/// One sum, also over a window that moves.
#[derive(Debug)]
struct Whole {
    target: Target,
    sum: i128,
    count: u64,
}

impl Whole {
    fn step(&mut self, values: &[ArrayRef], add: impl Fn(i128, i128) -> Option<i128>) -> DfResult<u64> {
        let values = wide(only(values)?)?;
        let mut sum = Some(self.sum);
        if values.null_count() == 0 {
            for value in values.values() {
                sum = sum.and_then(|sum| add(sum, *value));
            }
        } else {
            for value in values.iter().flatten() {
                sum = sum.and_then(|sum| add(sum, value));
            }
        }
        self.sum = sum.ok_or_else(|| self.target.too_large())?;
        Ok((values.len() - values.null_count()) as u64)
    }
}

impl Accumulator for Whole {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        self.count += self.step(values, i128::checked_add)?;
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        self.update_batch(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        self.count -= self.step(values, i128::checked_sub)?;
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        self.target.result((self.count > 0).then_some(self.sum))
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        let sum = (self.count > 0).then_some(self.sum);
        let sums = running(vec![sum].into(), &self.target.kind)?;
        Ok(vec![ScalarValue::try_from_array(&sums, 0)?])
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// The sum of different values, also over a window that moves.
#[derive(Debug)]
struct Distinct {
    target: Target,
    /// How often each value is there.
    counts: HashMap<i128, u64>,
}

impl Accumulator for Distinct {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        for value in wide(only(values)?)?.iter().flatten() {
            *self.counts.entry(value).or_default() += 1;
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        for values in only(states)?.as_list::<i32>().iter().flatten() {
            self.update_batch(&[values])?;
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        for value in wide(only(values)?)?.iter().flatten() {
            if let Some(count) = self.counts.get_mut(&value) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&value);
                }
            }
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        let mut sum = (!self.counts.is_empty()).then_some(0_i128);
        for value in self.counts.keys() {
            sum = Some(sum.and_then(|sum| sum.checked_add(*value)).ok_or_else(|| self.target.too_large())?);
        }
        self.target.result(sum)
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        let values: Decimal128Array = self.counts.keys().copied().map(Some).collect();
        let values: ArrayRef = Arc::new(running(values, &self.target.kind)?);
        let item = Arc::new(Field::new_list_field(values.data_type().clone(), true));
        let offsets = arrow::buffer::OffsetBuffer::from_lengths([values.len()]);
        Ok(vec![ScalarValue::List(Arc::new(ListArray::try_new(item, offsets, values, None)?))])
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.counts.capacity() * size_of::<(i128, u64)>()
    }
}

/// A sum for each group.
struct Groups {
    target: Target,
    sums: Vec<i128>,
    /// True for groups with a value that is not NULL.
    seen: Vec<bool>,
    /// A running sum has left 128 bits: only decimals can.
    wrapped: bool,
}

impl Groups {
    fn take(&mut self, emit: EmitTo) -> Result<Decimal128Array> {
        if self.wrapped {
            return Err(self.target.too_large());
        }
        let (sums, seen) = (emit.take_needed(&mut self.sums), emit.take_needed(&mut self.seen));
        running(Decimal128Array::new(sums.into(), Some(seen.into())), &self.target.kind)
    }
}

impl GroupsAccumulator for Groups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        chosen: Option<&BooleanArray>,
        total: usize,
    ) -> DfResult<()> {
        self.sums.resize(total, 0);
        self.seen.resize(total, false);
        let values = wide(only(values)?)?;
        let mut add = |group: usize, value: i128| {
            let (sum, wrapped) = self.sums[group].overflowing_add(value);
            self.sums[group] = sum;
            self.seen[group] = true;
            self.wrapped |= wrapped;
        };
        match chosen {
            None if values.null_count() == 0 => {
                groups.iter().zip(values.values()).for_each(|(group, value)| add(*group, *value));
            }
            _ => {
                for (row, (group, value)) in groups.iter().zip(values.iter()).enumerate() {
                    let kept = chosen.is_none_or(|chosen| chosen.is_valid(row) && chosen.value(row));
                    if let Some(value) = value.filter(|_| kept) {
                        add(*group, value);
                    }
                }
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> DfResult<()> {
        self.update_batch(states, groups, None, total)
    }

    fn evaluate(&mut self, emit: EmitTo) -> DfResult<ArrayRef> {
        let sums = self.take(emit)?;
        Ok(self.target.results(&sums)?)
    }

    fn state(&mut self, emit: EmitTo) -> DfResult<Vec<ArrayRef>> {
        Ok(vec![Arc::new(self.take(emit)?)])
    }

    fn convert_to_state(&self, values: &[ArrayRef], chosen: Option<&BooleanArray>) -> DfResult<Vec<ArrayRef>> {
        let values = running(wide(only(values)?)?, &self.target.kind)?;
        let Some(chosen) = chosen else { return Ok(vec![Arc::new(values)]) };
        let dropped =
            BooleanArray::from_iter((0..values.len()).map(|row| Some(chosen.is_null(row) || !chosen.value(row))));
        Ok(vec![arrow::compute::nullif(&values, &dropped)?])
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<i128>() + self.seen.capacity()
    }
}
