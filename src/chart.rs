//! Results as charts.
//!
//! Enters: the batches of a small result. Leaves: a [`Chart`], and from it text for a terminal or SVG. Always
//! holds: the types of the columns choose the kind of chart; NULL and what is no finite number is left out.

mod svg;
mod terminal;

use std::collections::HashSet;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono::DateTime;

use crate::error::{Error, Result};

pub use terminal::clip;

/// Lines, kinds of points or bars that can be told apart.
const SERIES: usize = 8;

/// What a chart is drawn with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Points along an axis of time or numbers, joined.
    Line,
    /// A bar for each row.
    Bar,
    /// Points.
    Scatter,
}

impl std::str::FromStr for Kind {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match word.to_ascii_lowercase().as_str() {
            "line" => Ok(Kind::Line),
            "bar" => Ok(Kind::Bar),
            "scatter" => Ok(Kind::Scatter),
            _ => Err(Error::usage(format!("no chart named '{word}'")).hint("charts are line, bar and scatter")),
        }
    }
}

/// What the numbers of the x axis are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    Number,
    /// Milliseconds since 1970.
    Time,
}

/// Numbers of one colour.
#[derive(Debug, PartialEq)]
struct Series {
    name: String,
    /// For bars, x is the row.
    points: Vec<(f64, f64)>,
}

/// A result, ready to be drawn.
#[derive(Debug)]
pub struct Chart {
    kind: Kind,
    /// The name of the x axis.
    x: String,
    scale: Scale,
    series: Vec<Series>,
    /// The names of the bars.
    labels: Vec<String>,
}

/// What a column can be in a chart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Time,
    Number,
    Text,
}

fn role(kind: &DataType) -> Option<Role> {
    match kind {
        DataType::Dictionary(_, value) => role(value),
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => Some(Role::Time),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Boolean => Some(Role::Text),
        kind if kind.is_numeric() => Some(Role::Number),
        _ => None,
    }
}

/// A result as one batch, with the role of each column.
struct Columns {
    batch: RecordBatch,
    roles: Vec<Option<Role>>,
}

impl Columns {
    fn first(&self, wanted: Role) -> Option<usize> {
        self.roles.iter().position(|role| *role == Some(wanted))
    }

    /// All columns of numbers but this one.
    fn numbers(&self, but: Option<usize>) -> Vec<usize> {
        (0..self.roles.len()).filter(|at| self.roles[*at] == Some(Role::Number) && Some(*at) != but).collect()
    }

    fn name(&self, at: usize) -> String {
        self.batch.schema().field(at).name().clone()
    }

    fn values(&self, at: usize) -> Result<Vec<Option<f64>>> {
        let column = self.batch.column(at);
        if self.roles[at] == Some(Role::Time) {
            let times = cast(&cast(column, &DataType::Timestamp(TimeUnit::Millisecond, None))?, &DataType::Int64)?;
            return Ok(times.as_primitive::<Int64Type>().iter().map(|time| time.map(|time| time as f64)).collect());
        }
        let numbers = cast(column, &DataType::Float64)?;
        Ok(numbers.as_primitive::<Float64Type>().iter().map(|number| number.filter(|n| n.is_finite())).collect())
    }

    fn all_differ(&self, at: usize) -> Result<bool> {
        let texts = self.texts(at)?;
        Ok(texts.iter().collect::<HashSet<_>>().len() == texts.len())
    }

    fn texts(&self, at: usize) -> Result<Vec<String>> {
        let column: &ArrayRef = self.batch.column(at);
        let options = FormatOptions::new().with_null("NULL");
        let formatter = ArrayFormatter::try_new(column.as_ref(), &options)?;
        let text = |row| formatter.value(row).try_to_string();
        Ok((0..column.len()).map(text).collect::<Result<_, _>>()?)
    }
}

impl Chart {
    /// The chart of a result; `kind` if it is not to be chosen by the columns.
    pub fn new(schema: &SchemaRef, batches: &[RecordBatch], kind: Option<Kind>) -> Result<Self> {
        let batch = concat_batches(schema, batches)?;
        let roles = schema.fields().iter().map(|field| role(field.data_type())).collect();
        let columns = Columns { batch, roles };
        let time = columns.first(Role::Time);
        let text = columns.first(Role::Text);
        let bars = match kind {
            Some(kind) => kind == Kind::Bar,
            // Names that come again are lines over time.
            None => text == Some(0) && (time.is_none() || columns.all_differ(0)?),
        };
        let chart = if bars { Self::bars(&columns, text.or(time).unwrap_or(0))? } else { Self::plane(&columns, kind)? };
        if chart.series.iter().all(|series| series.points.is_empty()) {
            return Err(Error::query("there is nothing to draw: no row has a number"));
        }
        Ok(chart)
    }

    fn bars(columns: &Columns, names: usize) -> Result<Self> {
        let numbers = series_of(columns.numbers(Some(names)))?;
        let point = |(row, value): (usize, &Option<f64>)| value.map(|value| (row as f64, value));
        let series = |at: &usize| -> Result<Series> {
            Ok(Series {
                name: columns.name(*at),
                points: columns.values(*at)?.iter().enumerate().filter_map(point).collect(),
            })
        };
        let series = numbers.iter().map(series).collect::<Result<_>>()?;
        let (x, labels) = (columns.name(names), columns.texts(names)?);
        Ok(Self { kind: Kind::Bar, x, scale: Scale::Number, series, labels })
    }

    /// Lines or points, over time, over the first numbers, or over the number of the row.
    fn plane(columns: &Columns, kind: Option<Kind>) -> Result<Self> {
        let numbers = columns.numbers(None);
        let x = match columns.first(Role::Time) {
            Some(time) => Some(time),
            None if numbers.len() > 1 => numbers.first().copied(),
            None => None,
        };
        let values = series_of(columns.numbers(x))?;
        let xs = match x {
            Some(x) => columns.values(x)?,
            None => (1..=columns.batch.num_rows()).map(|row| Some(row as f64)).collect(),
        };
        let time = x.is_some_and(|x| columns.roles[x] == Some(Role::Time));
        let rising = xs.windows(2).all(|pair| pair[0] < pair[1]);
        let kind = kind.unwrap_or(if time || rising { Kind::Line } else { Kind::Scatter });
        let mut series = match (columns.first(Role::Text), values.as_slice()) {
            // A row for each time and name: a line for each name.
            (Some(names), [value]) if x.is_some() => grouped(&xs, &columns.values(*value)?, &columns.texts(names)?)?,
            _ => {
                let one = |at: &usize| -> Result<Series> {
                    Ok(Series { name: columns.name(*at), points: pairs(&xs, &columns.values(*at)?) })
                };
                values.iter().map(one).collect::<Result<Vec<_>>>()?
            }
        };
        if kind == Kind::Line {
            series.iter_mut().for_each(|series| series.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
        }
        let name = x.map_or_else(|| "row".to_owned(), |x| columns.name(x));
        let scale = if time { Scale::Time } else { Scale::Number };
        Ok(Self { kind, x: name, scale, series, labels: Vec::new() })
    }

    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.series.iter().flat_map(|series| series.points.iter().copied())
    }

    /// The smallest and the largest x.
    fn x_range(&self) -> (f64, f64) {
        widened(self.points().map(|point| point.0))
    }

    /// The smallest and the largest y; bars begin at zero.
    fn y_range(&self) -> (f64, f64) {
        let zero = (self.kind == Kind::Bar).then_some(0.0);
        widened(self.points().map(|point| point.1).chain(zero))
    }

    fn x_label(&self, value: f64) -> String {
        match self.scale {
            Scale::Number => number(value),
            Scale::Time => time(value, self.x_range()),
        }
    }
}

fn series_of(numbers: Vec<usize>) -> Result<Vec<usize>> {
    match numbers.len() {
        0 => Err(Error::query("a chart needs a column of numbers").hint("a name or a time, then numbers")),
        1..=SERIES => Ok(numbers),
        many => Err(Error::query(format!("{many} columns of numbers: a chart shows at most {SERIES}"))),
    }
}

fn pairs(xs: &[Option<f64>], ys: &[Option<f64>]) -> Vec<(f64, f64)> {
    xs.iter().zip(ys).filter_map(|(x, y)| Some(((*x)?, (*y)?))).collect()
}

fn grouped(xs: &[Option<f64>], ys: &[Option<f64>], names: &[String]) -> Result<Vec<Series>> {
    let mut all: Vec<Series> = Vec::new();
    for (row, name) in names.iter().enumerate() {
        let (Some(x), Some(y)) = (xs[row], ys[row]) else { continue };
        match all.iter().position(|series| series.name == *name) {
            Some(at) => all[at].points.push((x, y)),
            None if all.len() == SERIES => {
                return Err(Error::query(format!("more than {SERIES} names: a chart shows at most {SERIES} lines"))
                    .hint("filter them, or leave the column of names out"));
            }
            None => all.push(Series { name: name.clone(), points: vec![(x, y)] }),
        }
    }
    Ok(all)
}

/// The ends of some numbers, apart from one another.
fn widened(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return (0.0, 1.0);
    }
    if low == high {
        let half = if low == 0.0 { 1.0 } else { low.abs() / 2.0 };
        return (low - half, high + half);
    }
    (low, high)
}

/// `1234.5`, `2.5M`
fn number(value: f64) -> String {
    let size = value.abs();
    let (scaled, unit) = match size {
        s if s >= 1e12 || (s > 0.0 && s < 1e-3) => return format!("{value:.1e}"),
        s if s >= 1e9 => (value / 1e9, "G"),
        s if s >= 1e6 => (value / 1e6, "M"),
        s if s >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        s if s >= 100.0 => 0,
        s if s >= 10.0 => 1,
        s if s >= 1.0 || s == 0.0 => 2,
        _ => 4,
    };
    let text = format!("{scaled:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// A time as precise as the axis is short.
fn time(milliseconds: f64, (from, to): (f64, f64)) -> String {
    const MINUTE: f64 = 60e3;
    const DAY: f64 = 1440.0 * MINUTE;
    let pattern = match to - from {
        span if span > 1500.0 * DAY => "%Y-%m",
        span if span > 4.0 * DAY => "%Y-%m-%d",
        span if span > DAY => "%m-%d %H:%M",
        span if span > 5.0 * MINUTE => "%H:%M",
        _ => "%H:%M:%S",
    };
    match DateTime::from_timestamp_millis(milliseconds as i64) {
        Some(time) => time.format(pattern).to_string(),
        None => number(milliseconds),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, StringArray, TimestampSecondArray};

    use super::*;

    pub(super) fn chart(columns: Vec<(&str, ArrayRef)>, kind: Option<Kind>) -> Result<Chart> {
        let batch = RecordBatch::try_from_iter(columns).expect("a batch");
        Chart::new(&batch.schema(), &[batch], kind)
    }

    pub(super) fn times(seconds: &[i64]) -> ArrayRef {
        Arc::new(TimestampSecondArray::from(seconds.to_vec()))
    }

    pub(super) fn numbers(values: &[f64]) -> ArrayRef {
        Arc::new(Float64Array::from(values.to_vec()))
    }

    pub(super) fn texts(values: &[&str]) -> ArrayRef {
        Arc::new(StringArray::from(values.to_vec()))
    }

    #[test]
    fn the_columns_choose_the_chart() {
        let kind = |columns| chart(columns, None).map(|chart| chart.kind).ok();
        let whole = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
        assert_eq!(kind(vec![("t", times(&[1, 2])), ("n", numbers(&[1.0, 2.0]))]), Some(Kind::Line));
        assert_eq!(kind(vec![("x", whole(vec![1, 2])), ("n", numbers(&[1.0, 2.0]))]), Some(Kind::Line));
        assert_eq!(kind(vec![("x", numbers(&[2.0, 1.0])), ("n", numbers(&[1.0, 2.0]))]), Some(Kind::Scatter));
        assert_eq!(kind(vec![("c", texts(&["a", "b"])), ("n", numbers(&[1.0, 2.0]))]), Some(Kind::Bar));
        let timed = |names: &[&str]| vec![("c", texts(names)), ("n", numbers(&[1.0, 2.0])), ("t", times(&[1, 2]))];
        assert_eq!(kind(timed(&["a", "b"])), Some(Kind::Bar));
        assert_eq!(kind(timed(&["a", "a"])), Some(Kind::Line));
        assert_eq!(kind(vec![("c", texts(&["a", "b"]))]), None);
        assert_eq!(kind(vec![("n", numbers(&[f64::NAN]))]), None);
    }

    #[test]
    fn names_beside_times_make_a_line_each() {
        let columns =
            vec![("t", times(&[2, 1, 1])), ("c", texts(&["a", "b", "a"])), ("n", numbers(&[1.0, 2.0, f64::INFINITY]))];
        let chart = chart(columns, None).expect("a chart");
        let names: Vec<_> = chart.series.iter().map(|s| (s.name.as_str(), s.points.clone())).collect();
        assert_eq!(names, [("a", vec![(2000.0, 1.0)]), ("b", vec![(1000.0, 2.0)])]);
    }

    #[test]
    fn numbers_on_an_axis_are_short() {
        let shown = [0.0, 0.25, 1.0, 1234.0, 12_500.0, -2_500_000.0, 1e-9].map(number);
        assert_eq!(shown, ["0", "0.25", "1", "1234", "12.5k", "-2.5M", "1.0e-9"]);
    }
}
