//! Functions of DataFusion's with a limit on what they make.
//!
//! Enters: the functions that turn a number into as much text or as many elements. Leaves: the same, but a
//! result larger than `fuse.function_bytes` is an error. Always holds: the size is known before memory is
//! taken.
//!
//! DataFusion counts the memory of its operators, not of its functions: `repeat('x', 2000000000)` would end
//! the process under any memory limit.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, LargeStringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, IntervalMonthDayNanoType, IntervalUnit, TimeUnit};
use datafusion::common::Result as DfResult;
use datafusion::common::config::ConfigOptions;
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    AggregateUDF, ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature,
};

use regex::Regex;

use super::sum::CheckedSum;
use crate::config::{parse_bytes, settings};
use crate::error::{Error, Result};

/// How much a call makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Growth {
    /// The bytes of the first argument, as often as the second says.
    Repeated,
    /// As many characters as the second argument says.
    Padded,
    /// As many elements as the second argument says.
    Elements,
    /// The first argument, with the third in place of the second.
    Replaced,
    /// The whole numbers from the first to the second argument, or from 0 to the first.
    Range,
    /// All arguments, one behind the other.
    Joined,
}

const LIMITED: [(&str, Growth); 11] = [
    ("concat", Growth::Joined),
    ("concat_ws", Growth::Joined),
    ("regexp_replace", Growth::Replaced),
    ("array_resize", Growth::Elements),
    ("replace", Growth::Replaced),
    ("repeat", Growth::Repeated),
    ("lpad", Growth::Padded),
    ("rpad", Growth::Padded),
    ("array_repeat", Growth::Elements),
    ("range", Growth::Range),
    ("generate_series", Growth::Range),
];

/// Bytes that one character of padding may take.
const CHARACTER_BYTES: i64 = 4;
/// Bytes of one element of a list, at the least.
const ELEMENT_BYTES: i64 = 8;

/// Bytes from which a bound is worth a count.
const BOUND_IN_DOUBT: usize = 1 << 27;

/// Puts the limited functions in the place of DataFusion's.
pub(super) fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    for (name, growth) in LIMITED {
        if let Ok(inner) = registry.udf(name) {
            registry.register_udf(Arc::new(ScalarUDF::new_from_impl(Limited { inner, growth })))?;
        }
    }
    if let Ok(inner) = registry.udaf("sum") {
        registry.register_udaf(Arc::new(AggregateUDF::new_from_impl(CheckedSum(inner))))?;
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Limited {
    inner: Arc<ScalarUDF>,
    growth: Growth,
}

/// The error of a function that would make more than `fuse.function_bytes`.
pub(super) fn refuse_large(name: &str, bytes: i64, options: &ConfigOptions) -> Result<()> {
    let limit = parse_bytes(&settings(options).function_bytes)?;
    if usize::try_from(bytes).is_ok_and(|bytes| bytes <= limit) {
        return Ok(());
    }
    let megabytes = bytes / 1_000_000;
    Err(Error::query(format!("{name} would make {megabytes} MB at once"))
        .hint("SET fuse.function_bytes = '4GB' allows more, if the memory is there"))
}

impl Limited {
    fn check(&self, args: &ScalarFunctionArgs) -> Result<()> {
        refuse_large(&format!("{}()", self.inner.name()), self.bytes(args)?, &args.config_options)
    }

    /// The size of the result, or more where the arguments do not tell.
    fn bytes(&self, args: &ScalarFunctionArgs) -> Result<i64> {
        let rows = args.number_rows;
        let column = |at: usize| args.args.get(at).map(|value| value.to_array(rows)).transpose();
        let (Some(first), second) = (column(0)?, column(1)?) else { return Ok(0) };
        if self.growth == Growth::Joined {
            return joined(args);
        }
        let lengths = |array: &ArrayRef| -> Result<Int64Array> {
            let array = arrow::compute::kernels::length::length(array)?;
            numbers(&array)
        };
        Ok(match (self.growth, second) {
            (Growth::Repeated, Some(count)) => sum_of(&lengths(&first)?, &numbers(&count)?, i64::saturating_mul),
            (Growth::Padded, Some(count)) => {
                sum_of(&numbers(&count)?, &numbers(&count)?, |n, _| n.saturating_mul(CHARACTER_BYTES))
            }
            (Growth::Elements, Some(count)) => {
                let bytes = first.to_data().get_slice_memory_size()?;
                let each = i64::try_from(bytes / first.len().max(1)).unwrap_or(i64::MAX);
                let count = numbers(&count)?;
                sum_of(&count, &count, |n, _| n.saturating_mul(each.max(ELEMENT_BYTES)))
            }
            (Growth::Replaced, Some(from)) => match column(2)? {
                Some(to) => replaced(&first, &from, &to, self.inner.name() == "regexp_replace")?,
                None => 0,
            },
            (Growth::Range, Some(end)) if first.data_type().is_integer() => {
                let (start, end) = (numbers(&first)?, numbers(&end)?);
                let step = column(2)?.map(|step| numbers(&step)).transpose()?;
                let step =
                    step.and_then(|step| step.iter().flatten().map(i64::saturating_abs).min()).unwrap_or(1).max(1);
                let size = |from: i64, to: i64| {
                    (to.saturating_sub(from).saturating_abs() / step).saturating_mul(ELEMENT_BYTES)
                };
                sum_of(&start, &end, size)
            }
            (Growth::Range, Some(end)) if first.data_type().is_temporal() => match column(2)? {
                Some(step) => times(&first, &end, &step)?.saturating_mul(ELEMENT_BYTES),
                None => 0,
            },
            (Growth::Range, None) if first.data_type().is_integer() => {
                let end = numbers(&first)?;
                sum_of(&end, &end, |n, _| n.saturating_abs().saturating_mul(ELEMENT_BYTES))
            }
            _ => 0,
        })
    }
}

/// The bytes that replace() makes: counted only where a bound that costs nothing is high.
fn replaced(text: &ArrayRef, from: &ArrayRef, to: &ArrayRef, by_pattern: bool) -> Result<i64> {
    let strings = |array: &ArrayRef| -> Result<LargeStringArray> {
        let array = cast(array, &DataType::LargeUtf8)?;
        let large = array.as_any().downcast_ref::<LargeStringArray>().cloned();
        Ok(large.unwrap_or_else(|| LargeStringArray::new_null(array.len())))
    };
    let most = |array: &ArrayRef| array.get_array_memory_size();
    if most(text).saturating_mul(most(to)) < BOUND_IN_DOUBT {
        return Ok(0);
    }
    let (text, from, to) = (strings(text)?, strings(from)?, strings(to)?);
    let rows = text.iter().zip(&from).zip(&to).filter_map(|((text, from), to)| Some((text?, from?, to?)));
    let found = |text: &str, from: &str| match Regex::new(from) {
        Ok(pattern) if by_pattern => pattern.find_iter(text).count(),
        _ => text.matches(from).count(),
    };
    let size =
        |(text, from, to): (&str, &str, &str)| text.len().saturating_add(found(text, from).saturating_mul(to.len()));
    let sizes = rows.map(size);
    Ok(i64::try_from(sizes.fold(0_usize, usize::saturating_add)).unwrap_or(i64::MAX))
}

/// The bytes of all arguments, constants as often as there are rows: counted only where a bound that costs nothing
/// is high, since columns of views share their texts.
fn joined(args: &ScalarFunctionArgs) -> Result<i64> {
    let mut columns = Vec::with_capacity(args.args.len());
    for value in &args.args {
        columns.push(match value {
            ColumnarValue::Array(array) => (Arc::clone(array), 1),
            ColumnarValue::Scalar(scalar) => (scalar.to_array()?, args.number_rows.max(1)),
        });
    }
    let sizes = columns.iter().map(|(array, times)| array.get_array_memory_size().saturating_mul(*times));
    if sizes.fold(0, usize::saturating_add) < BOUND_IN_DOUBT {
        return Ok(0);
    }
    let mut bytes = 0_i64;
    for (array, times) in columns.iter().filter(|(array, _)| array.data_type().is_string()) {
        let lengths = numbers(&arrow::compute::kernels::length::length(array)?)?;
        let times = i64::try_from(*times).unwrap_or(i64::MAX);
        bytes = bytes.saturating_add(sum_of(&lengths, &lengths, |length, _| length.saturating_mul(times)));
    }
    Ok(bytes)
}

/// How many times there are between others, a step apart.
fn times(first: &ArrayRef, last: &ArrayRef, step: &ArrayRef) -> Result<i64> {
    const DAY: i128 = 86_400_000_000_000;
    let seconds = |array: &ArrayRef| -> Result<Int64Array> {
        numbers(&cast(array, &DataType::Timestamp(TimeUnit::Second, None))?)
    };
    let (first, last) = (seconds(first)?, seconds(last)?);
    let steps = cast(step, &DataType::Interval(IntervalUnit::MonthDayNano))?;
    let steps = steps.as_primitive::<IntervalMonthDayNanoType>();
    let rows = first.iter().zip(&last).zip(steps).filter_map(|((first, last), step)| Some((first?, last?, step?)));
    let counts = rows.map(|(first, last, step)| {
        let span = i128::from(last.saturating_sub(first).saturating_abs()) * 1_000_000_000;
        let step = i128::from(step.months) * 28 * DAY + i128::from(step.days) * DAY + i128::from(step.nanoseconds);
        i64::try_from(span / step.abs().max(1)).unwrap_or(i64::MAX)
    });
    Ok(counts.fold(0, i64::saturating_add))
}

fn numbers(array: &ArrayRef) -> Result<Int64Array> {
    let array = cast(array, &DataType::Int64)?;
    Ok(array.as_any().downcast_ref::<Int64Array>().cloned().unwrap_or_else(|| Int64Array::new_null(array.len())))
}

/// The sum over all rows of a size that two columns make; NULL and less than nothing count nothing.
fn sum_of(a: &Int64Array, b: &Int64Array, size: impl Fn(i64, i64) -> i64) -> i64 {
    let sizes = a.iter().zip(b).filter_map(|(a, b)| Some(size(a?, b?).max(0)));
    sizes.fold(0, i64::saturating_add)
}

impl ScalarUDFImpl for Limited {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> DfResult<DataType> {
        self.inner.return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        self.inner.return_field_from_args(args)
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let inner = Arc::new(self.inner.inner().with_updated_config(config)?);
        Some(ScalarUDF::new_from_impl(Limited { inner, growth: self.growth }))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        self.check(&args)?;
        self.inner.invoke_with_args(args)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> DfResult<ExprSimplifyResult> {
        self.inner.simplify(args, info)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> DfResult<Vec<DataType>> {
        self.inner.coerce_types(arg_types)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}
