//! Functions of dates and timestamps.
//!
//! Enters: dates, timestamps, texts that are read as such, and names of units. Leaves: differences, numbers
//! of microseconds since 1970, last days of months. Always holds: NULL in an argument makes NULL; an unknown
//! unit is an error that lists them.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Date32Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, TimeUnit};
use chrono::{DateTime, Datelike, Months, NaiveDate, NaiveDateTime};
use datafusion::common::Result as DfResult;
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::{arrays, columnar};
use crate::error::{Error, Result};

/// What a function of this file computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    /// The boundaries of a unit between two times.
    Boundaries,
    /// The whole units between two times.
    Whole,
    /// Ticks since 1970, this many microseconds each; a number becomes a timestamp.
    Epoch(i64),
    /// The last day of the month.
    LastDay,
}

/// Registers them.
pub(super) fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    let functions: [(&str, &[&str], What, usize); 6] = [
        ("date_diff", &["datediff"], What::Boundaries, 3),
        ("date_sub", &["datesub"], What::Whole, 3),
        ("epoch_ms", &[], What::Epoch(1_000), 1),
        ("epoch_us", &[], What::Epoch(1), 1),
        ("last_day", &[], What::LastDay, 1),
        ("epoch_s", &[], What::Epoch(1_000_000), 1),
    ];
    for (name, aliases, what, arguments) in functions {
        let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
        let signature = Signature::any(arguments, Volatility::Immutable);
        registry.register_udf(Arc::new(ScalarUDF::new_from_impl(Function { name, aliases, what, signature })))?;
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Function {
    name: &'static str,
    aliases: Vec<String>,
    what: What,
    signature: Signature,
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, args: &[DataType]) -> DfResult<DataType> {
        Ok(match self.what {
            What::LastDay => DataType::Date32,
            What::Epoch(_) if args.first().is_some_and(DataType::is_integer) => micros(),
            _ => DataType::Int64,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let (args, single) = arrays(&args.args)?;
        columnar(self.run(&args)?, single)
    }
}

fn micros() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

fn times(array: &ArrayRef) -> Result<TimestampMicrosecondArray> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let array = cast_with_options(array, &micros(), &strict)?;
    let array = array.as_any().downcast_ref::<TimestampMicrosecondArray>().cloned();
    array.ok_or_else(|| Error::query("not a date or a timestamp"))
}

impl Function {
    fn run(&self, args: &[ArrayRef]) -> Result<ArrayRef> {
        Ok(match (self.what, args) {
            (What::Boundaries | What::Whole, [unit, from, to]) => {
                let units = cast(unit, &DataType::Utf8)?;
                let units = units.as_any().downcast_ref::<StringArray>().cloned();
                let units = units.ok_or_else(|| Error::sql(format!("{} takes the name of a unit first", self.name)))?;
                let (from, to) = (times(from)?, times(to)?);
                let rows = units.iter().zip(&from).zip(&to).map(|((unit, from), to)| {
                    let (Some(unit), Some(from), Some(to)) = (unit, from, to) else { return Ok(None) };
                    let unit = Unit::named(unit)?;
                    let whole = self.what == What::Whole;
                    Ok(Some(if whole { unit.whole(from, to)? } else { unit.boundaries(from, to)? }))
                });
                Arc::new(rows.collect::<Result<Int64Array>>()?)
            }
            (What::Epoch(tick), [time]) if time.data_type().is_integer() => {
                let ticks = cast(time, &DataType::Int64)?;
                let ticks = ticks.as_any().downcast_ref::<Int64Array>().cloned();
                let ticks = ticks.unwrap_or_else(|| Int64Array::new_null(time.len()));
                let times = ticks.iter().map(|n| {
                    n.map(|n| {
                        n.checked_mul(tick).ok_or_else(|| Error::query(format!("{n} is too large for a timestamp")))
                    })
                    .transpose()
                });
                Arc::new(times.collect::<Result<TimestampMicrosecondArray>>()?)
            }
            (What::Epoch(tick), [time]) => {
                let ticks =
                    times(time)?.iter().map(|time| time.map(|time| time.div_euclid(tick))).collect::<Int64Array>();
                Arc::new(ticks)
            }
            (What::LastDay, [time]) => {
                let last = times(time)?.iter().map(|time| time.and_then(last_day)).collect::<Date32Array>();
                Arc::new(last)
            }
            _ => return Err(Error::sql(format!("{} takes other arguments", self.name))),
        })
    }
}

/// Days since 1970 of the last day of a month.
fn last_day(micros: i64) -> Option<i32> {
    let date = DateTime::from_timestamp_micros(micros)?.date_naive();
    let next = date.with_day(1)?.checked_add_months(Months::new(1))?;
    let last = next.pred_opt()?.signed_duration_since(NaiveDate::default());
    i32::try_from(last.num_days()).ok()
}

enum Unit {
    /// Of so many microseconds.
    Ticks(i64),
    /// Of so many months.
    Months(i32),
}

impl Unit {
    fn named(name: &str) -> Result<Self> {
        const SECOND: i64 = 1_000_000;
        let lower = name.to_lowercase();
        Ok(match lower.strip_suffix('s').filter(|rest| rest.len() > 2).unwrap_or(&lower) {
            "microsecond" | "us" => Unit::Ticks(1),
            "millisecond" | "ms" => Unit::Ticks(1_000),
            "second" => Unit::Ticks(SECOND),
            "minute" => Unit::Ticks(60 * SECOND),
            "hour" => Unit::Ticks(3_600 * SECOND),
            "day" => Unit::Ticks(86_400 * SECOND),
            "week" => Unit::Ticks(7 * 86_400 * SECOND),
            "month" => Unit::Months(1),
            "quarter" => Unit::Months(3),
            "year" => Unit::Months(12),
            "decade" => Unit::Months(120),
            "century" | "centurie" => Unit::Months(1_200),
            _ => {
                return Err(Error::query(format!("no unit of time named '{name}'"))
                    .hint("units are microsecond, millisecond, second, minute, hour, day, week, month, quarter, year, decade, century"));
            }
        })
    }

    fn boundaries(&self, from: i64, to: i64) -> Result<i64> {
        Ok(match self {
            Unit::Ticks(size) => to.div_euclid(*size) - from.div_euclid(*size),
            Unit::Months(size) => {
                let number = |time: i64| -> Result<i64> {
                    let date = date_time(time)?.date();
                    Ok(i64::from((date.year() * 12 + date.month0() as i32).div_euclid(*size)))
                };
                number(to)? - number(from)?
            }
        })
    }

    fn whole(&self, from: i64, to: i64) -> Result<i64> {
        match self {
            Unit::Ticks(size) => Ok((to - from) / size),
            Unit::Months(size) if from > to => Ok(-Unit::Months(*size).whole(to, from)?),
            Unit::Months(size) => {
                let months = Unit::Months(1).boundaries(from, to)?;
                let count = u32::try_from(months).unwrap_or(0);
                let reached = date_time(from)?.checked_add_months(Months::new(count)).is_some_and(|time| {
                    // The 31st of a month that has none is not reached on its last day.
                    time.day() == date_time(from).map_or(0, |from| from.day())
                        && time.and_utc().timestamp_micros() <= to
                });
                Ok((months - i64::from(!reached)) / i64::from(*size))
            }
        }
    }
}

fn date_time(micros: i64) -> Result<NaiveDateTime> {
    let time = DateTime::from_timestamp_micros(micros).map(|time| time.naive_utc());
    time.ok_or_else(|| Error::query("a timestamp is out of range"))
}
