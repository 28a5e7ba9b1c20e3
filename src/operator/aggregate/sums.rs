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

/// What is summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Rows without NULL.
    Count,
    /// Whole numbers and decimals, of this scale.
    Whole { scale: i8, average: bool },
    /// Floats.
    Float { average: bool },
    /// A float and its square.
    Variance,
    /// Two floats, their squares and their product.
    Pair(Pair),
    /// True and false apart.
    Bool { and: bool },
}

/// In which order DataFusion keeps the moments of pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pair {
    Covariance,
    Correlation,
    /// Its first argument is y.
    Regression,
}

/// The sums of one function.
pub(super) struct Sums {
    function: Function,
    kind: Kind,
    /// Rows without NULL; of [`Kind::Bool`] those that are true.
    counts: Vec<i64>,
    /// Of [`Kind::Bool`] the rows that are false.
    wholes: Vec<i128>,
    /// As many a group as [`Kind::width`] says.
    floats: Vec<Exact>,
}

impl Kind {
    fn of(function: &Function, append_only: bool) -> Option<Self> {
        let aggregate = &function.function;
        let result = aggregate.field().data_type().clone();
        let argument = function.types.first();
        if !aggregate.order_bys().is_empty() {
            return None;
        }
        Some(match aggregate.fun().name() {
            "count" => Kind::Count,
            "sum" => match result {
                DataType::Int64 | DataType::UInt64 | DataType::Duration(_) => Kind::Whole { scale: 0, average: false },
                DataType::Decimal32(_, scale) | DataType::Decimal64(_, scale) | DataType::Decimal128(_, scale) => {
                    Kind::Whole { scale, average: false }
                }
                DataType::Float64 => Kind::Float { average: false },
                _ => return None,
            },
            "avg" => match argument {
                Some(DataType::Decimal128(_, scale)) => Kind::Whole { scale: *scale, average: true },
                Some(DataType::Float64) => Kind::Float { average: true },
                _ => return None,
            },
            "bool_and" => Kind::Bool { and: true },
            "bool_or" => Kind::Bool { and: false },
            // Without retractions DataFusion's own states are faster.
            _ if append_only => return None,
            "var" | "var_pop" | "stddev" | "stddev_pop" => Kind::Variance,
            "covar_samp" | "covar_pop" => Kind::Pair(Pair::Covariance),
            "corr" => Kind::Pair(Pair::Correlation),
            name if name.starts_with("regr_") => Kind::Pair(Pair::Regression),
            _ => return None,
        })
    }

    /// How many floats are kept of a group.
    fn width(self) -> usize {
        match self {
            Kind::Count | Kind::Whole { .. } | Kind::Bool { .. } => 0,
            Kind::Float { .. } => 1,
            Kind::Variance => 2,
            Kind::Pair(_) => 5,
        }
    }

    fn keeps_whole(self) -> bool {
        matches!(self, Kind::Whole { .. } | Kind::Bool { .. })
    }
}

impl Sums {
    /// For a function that is made of sums; nothing for others.
    pub(super) fn new(function: &Function, append_only: bool) -> Option<Self> {
        let kind = Kind::of(function, append_only)?;
        Some(Self { function: function.clone(), kind, counts: Vec::new(), wholes: Vec::new(), floats: Vec::new() })
    }

    fn reserve(&mut self, groups: usize) {
        if self.counts.len() < groups {
            self.counts.resize(groups, 0);
            if self.kind.keeps_whole() {
                self.wholes.resize(groups, 0);
            }
            self.floats.resize(groups * self.kind.width(), Exact::default());
        }
    }

    /// Adds rows, so many times each, to their groups.
    pub(super) fn add(
        &mut self,
        arguments: &[ArrayRef],
        groups: &[u32],
        total: usize,
        times: impl Fn(usize) -> i64,
    ) -> Result<()> {
        self.reserve(total);
        let nulls = arguments.iter().fold(None, |nulls: Option<NullBuffer>, argument| {
            NullBuffer::union(nulls.as_ref(), argument.logical_nulls().as_ref())
        });
        let rows = groups.iter().enumerate().map(|(row, group)| (row, *group as usize, times(row)));
        let rows =
            rows.filter(|(row, _, times)| *times != 0 && nulls.as_ref().is_none_or(|nulls| nulls.is_valid(*row)));
        match self.kind {
            Kind::Count => rows.for_each(|(_, group, times)| self.counts[group] += times),
            Kind::Whole { .. } => {
                let values = wide(&arguments[0])?;
                for (row, group, times) in rows {
                    self.counts[group] += times;
                    let sum = values.value(row).checked_mul(i128::from(times));
                    let sum = sum.and_then(|value| self.wholes[group].checked_add(value));
                    self.wholes[group] = sum.ok_or_else(|| too_large(&self.function))?;
                }
            }
            Kind::Float { .. } => {
                let values = floats(&arguments[0])?;
                for (row, group, times) in rows {
                    self.counts[group] += times;
                    self.floats[group].add(values.value(row), times);
                }
            }
            Kind::Variance => {
                let values = floats(&arguments[0])?;
                for (row, group, times) in rows {
                    let x = values.value(row);
                    self.counts[group] += times;
                    self.floats[group * 2].add(x, times);
                    self.floats[group * 2 + 1].add_product(x, x, times);
                }
            }
            Kind::Pair(_) => {
                let (xs, ys) = (floats(&arguments[0])?, floats(&arguments[1])?);
                for (row, group, times) in rows {
                    let (x, y) = (xs.value(row), ys.value(row));
                    self.counts[group] += times;
                    let sums = &mut self.floats[group * 5..group * 5 + 5];
                    sums[0].add(x, times);
                    sums[1].add(y, times);
                    sums[2].add_product(x, x, times);
                    sums[3].add_product(y, y, times);
                    sums[4].add_product(x, y, times);
                }
            }
            Kind::Bool { .. } => {
                let values = arguments[0].as_boolean();
                for (row, group, times) in rows {
                    match values.value(row) {
                        true => self.counts[group] += times,
                        false => self.wholes[group] += i128::from(times),
                    }
                }
            }
        }
        Ok(())
    }

    /// States as DataFusion's accumulators of this function have them.
    fn accumulated(&self, groups: &[u32]) -> Vec<ArrayRef> {
        let at = |group: &u32| *group as usize;
        let some = |group: &u32| self.counts[at(group)] != 0;
        // Moments of no rows are 0, sums of no rows are NULL.
        let moments = matches!(self.kind, Kind::Variance | Kind::Pair(_));
        let nulls = (!moments).then(|| NullBuffer::from_iter(groups.iter().map(some)));
        let count = || {
            let counts = groups.iter().map(|group| u64::try_from(self.counts[at(group)]).unwrap_or(0));
            Arc::new(UInt64Array::new(counts.collect(), nulls.clone())) as ArrayRef
        };
        let float = |value: &dyn Fn(usize) -> f64| -> ArrayRef {
            let values = groups.iter().map(|group| if some(group) { value(at(group)) } else { 0.0 });
            Arc::new(Float64Array::new(values.collect(), nulls.clone()))
        };
        match self.kind {
            Kind::Count => {
                vec![Arc::new(Int64Array::from_iter_values(groups.iter().map(|group| self.counts[at(group)])))]
            }
            Kind::Whole { scale, average } => {
                let sums = groups.iter().map(|group| self.wholes[at(group)]);
                let sums = Decimal128Array::new(sums.collect(), nulls.clone())
                    .with_data_type(DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale));
                if average { vec![count(), Arc::new(sums)] } else { vec![Arc::new(sums)] }
            }
            Kind::Float { average } => {
                let sum = float(&|group| self.floats[group].value());
                if average { vec![count(), sum] } else { vec![sum] }
            }
            Kind::Variance => {
                let (x, xx) = (|group| &self.floats[group * 2], |group| &self.floats[group * 2 + 1]);
                let mean = float(&|group| x(group).value() / self.counts[group] as f64);
                vec![count(), mean, float(&|group| central(self.counts[group], xx(group), x(group), x(group)))]
            }
            Kind::Pair(pair) => {
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
            Kind::Bool { and } => {
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
        let function = self.function.clone();
        let arguments = function.arguments(batch.rows)?;
        match function.selected(batch.rows)? {
            Some(selected) => {
                let times = |row| if selected.value(row) { batch.weight(row) } else { 0 };
                self.add(&arguments, batch.numbers, batch.groups, times)
            }
            None => self.add(&arguments, batch.numbers, batch.groups, |row| batch.weight(row)),
        }
    }

    fn settle(&mut self, _touched: &[u32], groups: usize) -> Result<()> {
        self.reserve(groups);
        Ok(())
    }

    fn results(&self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        let states = self.accumulated(groups);
        if matches!(self.kind, Kind::Count | Kind::Bool { .. } | Kind::Float { average: false }) {
            return Ok(states);
        }
        let mut accumulator = match self.kind {
            // Those of many groups have other states.
            Kind::Pair(_) => self.function.single_accumulators(),
            _ => self.function.accumulator()?,
        };
        let places: Vec<usize> = (0..groups.len()).collect();
        accumulator.merge_batch(&states, &places, groups.len())?;
        Ok(vec![accumulator.evaluate(EmitTo::All)?])
    }

    fn remove(&mut self, group: u32) {
        let group = group as usize;
        let width = self.kind.width();
        self.counts[group] = 0;
        if self.kind.keeps_whole() {
            self.wholes[group] = 0;
        }
        self.floats[group * width..(group + 1) * width].fill(Exact::default());
    }

    fn fields(&self) -> Vec<FieldRef> {
        let name = self.function.function.name();
        let field = |what: &str, kind| Arc::new(Field::new(format!("{name} {what}"), kind, true));
        let mut fields = vec![field("count", DataType::Int64)];
        if self.kind.keeps_whole() {
            fields.push(field("sum", DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0)));
        }
        fields.extend((0..self.kind.width()).map(|at| field(&format!("sum {at}"), DataType::Binary)));
        fields
    }

    fn states(&self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        let groups = || groups.iter().map(|group| *group as usize);
        let counts = Int64Array::from_iter_values(groups().map(|group| self.counts[group]));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(counts)];
        if self.kind.keeps_whole() {
            let sums = Decimal128Array::from_iter_values(groups().map(|group| self.wholes[group]));
            columns.push(Arc::new(sums.with_data_type(DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0))));
        }
        let width = self.kind.width();
        for at in 0..width {
            let bytes = groups().map(|group| self.floats[group * width + at].to_bytes());
            columns.push(Arc::new(BinaryArray::from_iter_values(bytes)));
        }
        Ok(columns)
    }

    fn restore_states(&mut self, groups: &[u32], total: usize, columns: &[ArrayRef]) -> Result<()> {
        self.reserve(total);
        let width = self.kind.width();
        let counts = columns[0].as_primitive::<Int64Type>();
        for (row, group) in groups.iter().enumerate() {
            let group = *group as usize;
            self.counts[group] = counts.value(row);
            if self.kind.keeps_whole() {
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
