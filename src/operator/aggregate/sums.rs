//! Functions that are sums: count, sum, avg, variances, correlations, bool_and, bool_or.
//!
//! Enters: rows with weights. Leaves: the results of groups. Always holds: the work follows the rows, also when they
//! are taken away; sums are exact, whole numbers in 128 bits, floats as [`Exact`]; what they come to is left to
//! DataFusion's own accumulators.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal128Array, Float64Array, Int64Array, UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Decimal128Type, Field, FieldRef, Float64Type, Int64Type};
use datafusion::logical_expr::EmitTo;

use super::exact::Exact;
use super::function::{Batch, Fold, Function};
use crate::error::{Error, Result};
use crate::function::wide;
use crate::planner::{Pair, Sum};

/// The sums of one function.
pub(super) struct Sums {
    function: Function,
    sum: Sum,
    /// Rows without NULL; of [`Sum::Bool`] those that are true.
    counts: Vec<i64>,
    /// Of [`Sum::Bool`] the rows that are false.
    wholes: Vec<i128>,
    /// As many a group as [`Sum::width`] says.
    floats: Vec<Exact>,
}

/// How many floats are kept of a group.
fn width(sum: Sum) -> usize {
    match sum {
        Sum::Count | Sum::Whole { .. } | Sum::Bool { .. } => 0,
        Sum::Float { .. } => 1,
        Sum::Variance => 2,
        Sum::Pair(_) => 5,
    }
}

fn keeps_whole(sum: Sum) -> bool {
    matches!(sum, Sum::Whole { .. } | Sum::Bool { .. })
}

impl Sums {
    pub(super) fn new(function: Function, sum: Sum) -> Self {
        Self { function, sum, counts: Vec::new(), wholes: Vec::new(), floats: Vec::new() }
    }

    fn reserve(&mut self, groups: usize) {
        if self.counts.len() < groups {
            self.counts.resize(groups, 0);
            if keeps_whole(self.sum) {
                self.wholes.resize(groups, 0);
            }
            self.floats.resize(groups * width(self.sum), Exact::default());
        }
    }

    /// Adds rows to their groups; `times`: how often each, if that is not once.
    pub(super) fn add(
        &mut self,
        arguments: &[ArrayRef],
        groups: &[u32],
        total: usize,
        times: Option<Vec<i64>>,
    ) -> Result<()> {
        self.reserve(total);
        let nulls = arguments.iter().fold(None, |nulls: Option<NullBuffer>, argument| {
            NullBuffer::union(nulls.as_ref(), argument.logical_nulls().as_ref())
        });
        let times = without_nulls(times, nulls.filter(|nulls| nulls.null_count() > 0));
        let rows = Rows { groups, times: times.as_deref() };
        let Self { function, sum, counts, wholes, floats: kept } = self;
        match sum {
            Sum::Count => rows.each(|_, group, times| counts[group] += times),
            Sum::Whole { .. } => {
                if !add_wholes(&arguments[0], &rows, counts, wholes)? {
                    return Err(too_large(function));
                }
            }
            Sum::Float { .. } => {
                let values = floats(&arguments[0])?;
                rows.each(|row, group, times| {
                    counts[group] += times;
                    kept[group].add(values.value(row), times);
                });
            }
            Sum::Variance => {
                let values = floats(&arguments[0])?;
                rows.each(|row, group, times| {
                    let x = values.value(row);
                    counts[group] += times;
                    kept[group * 2].add(x, times);
                    kept[group * 2 + 1].add_product(x, x, times);
                });
            }
            Sum::Pair(_) => {
                let (xs, ys) = (floats(&arguments[0])?, floats(&arguments[1])?);
                rows.each(|row, group, times| {
                    let (x, y) = (xs.value(row), ys.value(row));
                    counts[group] += times;
                    let sums = &mut kept[group * 5..group * 5 + 5];
                    sums[0].add(x, times);
                    sums[1].add(y, times);
                    sums[2].add_product(x, x, times);
                    sums[3].add_product(y, y, times);
                    sums[4].add_product(x, y, times);
                });
            }
            Sum::Bool { .. } => {
                let values = arguments[0].as_boolean();
                rows.each(|row, group, times| match values.value(row) {
                    true => counts[group] += times,
                    false => wholes[group] += i128::from(times),
                });
            }
        }
        Ok(())
    }

    /// States as DataFusion's accumulators of this function have them.
    fn accumulated(&self, groups: &[u32]) -> Vec<ArrayRef> {
        let at = |group: &u32| *group as usize;
        let some = |group: &u32| self.counts[at(group)] != 0;
        // Moments of no rows are 0, sums of no rows are NULL.
        let moments = matches!(self.sum, Sum::Variance | Sum::Pair(_));
        let nulls = (!moments).then(|| NullBuffer::from_iter(groups.iter().map(some)));
        let count = || {
            let counts = groups.iter().map(|group| u64::try_from(self.counts[at(group)]).unwrap_or(0));
            Arc::new(UInt64Array::new(counts.collect(), nulls.clone())) as ArrayRef
        };
        let float = |value: &dyn Fn(usize) -> f64| -> ArrayRef {
            let values = groups.iter().map(|group| if some(group) { value(at(group)) } else { 0.0 });
            Arc::new(Float64Array::new(values.collect(), nulls.clone()))
        };
        match self.sum {
            Sum::Count => {
                vec![Arc::new(Int64Array::from_iter_values(groups.iter().map(|group| self.counts[at(group)])))]
            }
            Sum::Whole { scale, average } => {
                let sums = groups.iter().map(|group| self.wholes[at(group)]);
                let sums = Decimal128Array::new(sums.collect(), nulls.clone())
                    .with_data_type(DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale));
                if average { vec![count(), Arc::new(sums)] } else { vec![Arc::new(sums)] }
            }
            Sum::Float { average } => {
                let sum = float(&|group| self.floats[group].value());
                if average { vec![count(), sum] } else { vec![sum] }
            }
            Sum::Variance => {
                let (x, xx) = (|group| &self.floats[group * 2], |group| &self.floats[group * 2 + 1]);
                let mean = float(&|group| x(group).value() / self.counts[group] as f64);
                vec![count(), mean, float(&|group| central(self.counts[group], xx(group), x(group), x(group)))]
            }
            Sum::Pair(pair) => {
                let sums = |group: usize| &self.floats[group * 5..group * 5 + 5];
                let mean = |which: usize| float(&|group| sums(group)[which].value() / self.counts[group] as f64);
                let moment = |sum: usize, a: usize, b: usize| {
                    float(&|group| {
                        let sums = sums(group);
                        central(self.counts[group], &sums[sum], &sums[a], &sums[b])
                    })
                };
                match pair {
                    Pair::Covariance => vec![count(), mean(0), mean(1), moment(4, 0, 1)],
                    Pair::Correlation => {
                        vec![count(), mean(0), moment(2, 0, 0), mean(1), moment(3, 1, 1), moment(4, 0, 1)]
                    }
                    Pair::Regression => {
                        vec![count(), mean(1), mean(0), moment(3, 1, 1), moment(2, 0, 0), moment(4, 0, 1)]
                    }
                }
            }
            Sum::Bool { and } => {
                let seen = |group: &u32| self.counts[at(group)] != 0 || self.wholes[at(group)] != 0;
                let value = |group: &u32| {
                    let value = if and { self.wholes[at(group)] == 0 } else { self.counts[at(group)] != 0 };
                    seen(group).then_some(value)
                };
                vec![Arc::new(groups.iter().map(value).collect::<BooleanArray>())]
            }
        }
    }
}

/// Rows, and how often each counts.
struct Rows<'a> {
    groups: &'a [u32],
    times: Option<&'a [i64]>,
}

impl Rows<'_> {
    /// Calls `one` with each row that counts, its group, and how often it does. Where each counts once, that is known
    /// to the compiler.
    #[inline(always)]
    fn each(&self, mut one: impl FnMut(usize, usize, i64)) {
        match self.times {
            None => self.groups.iter().enumerate().for_each(|(row, group)| one(row, *group as usize, 1)),
            Some(times) => {
                let rows = self.groups.iter().zip(times).enumerate().filter(|(_, (_, times))| **times != 0);
                rows.for_each(|(row, (group, times))| one(row, *group as usize, *times));
            }
        }
    }
}

/// Adds whole numbers; false if 128 bits do not hold a sum.
fn add_wholes(values: &ArrayRef, rows: &Rows<'_>, counts: &mut [i64], wholes: &mut [i128]) -> Result<bool> {
    if is_short(values.data_type()) {
        let values = cast(values, &DataType::Int64)?;
        let values = values.as_primitive::<Int64Type>().values();
        // Fewer than 2^63 of them are in 128 bits.
        rows.each(|row, group, times| {
            counts[group] += times;
            wholes[group] += i128::from(values[row]) * i128::from(times);
        });
        return Ok(true);
    }
    let (values, mut fits) = (wide(values)?, true);
    rows.each(|row, group, times| {
        counts[group] += times;
        match plus(wholes[group], values.value(row), times) {
            Some(sum) => wholes[group] = sum,
            None => fits = false,
        }
    });
    Ok(fits)
}

/// How often rows count of which those that are NULL do not.
fn without_nulls(times: Option<Vec<i64>>, nulls: Option<NullBuffer>) -> Option<Vec<i64>> {
    let Some(nulls) = nulls else { return times };
    let Some(mut times) = times else { return Some(nulls.iter().map(i64::from).collect()) };
    times.iter_mut().zip(&nulls).for_each(|(times, valid)| *times *= i64::from(valid));
    Some(times)
}

/// True for whole numbers that 64 bits with a sign hold.
fn is_short(kind: &DataType) -> bool {
    kind.is_integer() && *kind != DataType::UInt64
}

/// `sum + value * times`, if 128 bits hold it. The product is left out where it can be: it takes longer than all else.
fn plus(sum: i128, value: i128, times: i64) -> Option<i128> {
    match times {
        1 => sum.checked_add(value),
        -1 => sum.checked_sub(value),
        _ => sum.checked_add(value.checked_mul(times.into())?),
    }
}

/// Σ(a - mean(a))(b - mean(b)) of n values from Σab, Σa and Σb, without cancellation.
fn central(count: i64, ab: &Exact, a: &Exact, b: &Exact) -> f64 {
    if !(ab.is_plain() && a.is_plain() && b.is_plain()) {
        return f64::NAN;
    }
    let mut sum = Exact::default();
    sum.add_scaled(ab, count as f64);
    sum.subtract_product(a, b);
    sum.value() / count as f64
}

fn floats(values: &ArrayRef) -> Result<Float64Array> {
    Ok(cast(values, &DataType::Float64)?.as_primitive::<Float64Type>().clone())
}

fn too_large(function: &Function) -> Error {
    Error::query(format!("the result of {} is too large", function.function.name()))
}

impl Fold for Sums {
    fn update(&mut self, batch: &Batch<'_>) -> Result<()> {
        let arguments = self.function.arguments(batch.rows)?;
        let times = match self.function.selected(batch.rows)? {
            Some(selected) => {
                let times = |row| if selected.value(row) { batch.weight(row) } else { 0 };
                Some((0..batch.len()).map(times).collect())
            }
            None => batch.weights.map(|weights| weights.values().to_vec()),
        };
        self.add(&arguments, batch.numbers, batch.groups, times)
    }

    fn merges(&self) -> bool {
        true
    }

    fn merge(&mut self, batch: &Batch<'_>, states: &[ArrayRef]) -> Result<()> {
        self.reserve(batch.groups);
        let counts = states[0].as_primitive::<Int64Type>().values();
        let wholes = keeps_whole(self.sum).then(|| states[1].as_primitive::<Decimal128Type>().values());
        let width = width(self.sum);
        let floats = &states[states.len() - width..];
        for (row, group) in batch.numbers.iter().enumerate() {
            let group = *group as usize;
            self.counts[group] += counts[row];
            if let Some(wholes) = wholes {
                let sum = self.wholes[group].checked_add(wholes[row]);
                self.wholes[group] = sum.ok_or_else(|| too_large(&self.function))?;
            }
            for (at, sums) in floats.iter().enumerate() {
                self.floats[group * width + at].add_sum(&Exact::from_bytes(sums.as_binary::<i32>().value(row)));
            }
        }
        Ok(())
    }

    fn clear(&mut self) {
        (self.counts, self.wholes, self.floats) = (Vec::new(), Vec::new(), Vec::new());
    }

    fn settle(&mut self, _touched: &[u32], groups: usize) -> Result<()> {
        self.reserve(groups);
        Ok(())
    }

    fn results(&self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        let states = self.accumulated(groups);
        if matches!(self.sum, Sum::Count | Sum::Bool { .. } | Sum::Float { average: false }) {
            return Ok(states);
        }
        let mut accumulator = match self.sum {
            // Those of many groups have other states.
            Sum::Pair(_) => self.function.single_accumulators(),
            _ => self.function.accumulator()?,
        };
        let places: Vec<usize> = (0..groups.len()).collect();
        accumulator.merge_batch(&states, &places, groups.len())?;
        Ok(vec![accumulator.evaluate(EmitTo::All)?])
    }

    fn remove(&mut self, group: u32) {
        let group = group as usize;
        let width = width(self.sum);
        self.counts[group] = 0;
        if keeps_whole(self.sum) {
            self.wholes[group] = 0;
        }
        self.floats[group * width..(group + 1) * width].fill(Exact::default());
    }

    fn fields(&self) -> Vec<FieldRef> {
        let name = self.function.function.name();
        let field = |what: &str, kind| Arc::new(Field::new(format!("{name} {what}"), kind, true));
        let mut fields = vec![field("count", DataType::Int64)];
        if keeps_whole(self.sum) {
            fields.push(field("sum", DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0)));
        }
        fields.extend((0..width(self.sum)).map(|at| field(&format!("sum {at}"), DataType::Binary)));
        fields
    }

    fn states(&self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        let groups = || groups.iter().map(|group| *group as usize);
        let counts = Int64Array::from_iter_values(groups().map(|group| self.counts[group]));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(counts)];
        if keeps_whole(self.sum) {
            let sums = Decimal128Array::from_iter_values(groups().map(|group| self.wholes[group]));
            columns.push(Arc::new(sums.with_data_type(DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0))));
        }
        let width = width(self.sum);
        for at in 0..width {
            let bytes = groups().map(|group| self.floats[group * width + at].to_bytes());
            columns.push(Arc::new(BinaryArray::from_iter_values(bytes)));
        }
        Ok(columns)
    }

    fn restore_states(&mut self, groups: &[u32], total: usize, columns: &[ArrayRef]) -> Result<()> {
        self.reserve(total);
        let width = width(self.sum);
        let counts = columns[0].as_primitive::<Int64Type>();
        for (row, group) in groups.iter().enumerate() {
            let group = *group as usize;
            self.counts[group] = counts.value(row);
            if keeps_whole(self.sum) {
                self.wholes[group] = columns[1].as_primitive::<Decimal128Type>().value(row);
            }
            let first = columns.len() - width;
            for (at, column) in columns[first..].iter().enumerate() {
                self.floats[group * width + at] = Exact::from_bytes(column.as_binary::<i32>().value(row));
            }
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.counts.capacity() * 8 + self.wholes.capacity() * 16 + self.floats.capacity() * size_of::<Exact>()
    }
}
