//! The columns of a CSV file.
//!
//! Enters: the start of a file. Leaves: a name and a type for each column. Always holds: every value that was
//! looked at can be read as its column's type, and reads back as the text that it was, but for the form of
//! floats and times; a line with too many or too few fields is an error that names it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use chrono::{NaiveDate, Utc};
use datafusion::common::config::CsvOptions;
use regex::Regex;

use super::diagnose::{ragged, reader};
use super::file_format::Sample;
use crate::config::COLUMNS_LIMIT;
use crate::error::{Error, Result};

/// What the values of a column, as far as they were seen, can all be.
#[derive(Debug, Clone, Copy)]
struct Possible {
    seen: bool,
    boolean: bool,
    integer: bool,
    float: bool,
    date: bool,
    /// A time without a zone, or a date.
    local: bool,
    /// A time with a zone.
    zoned: bool,
    nanoseconds: bool,
}

impl Possible {
    const ALL: Self = Self {
        seen: false,
        boolean: true,
        integer: true,
        float: true,
        date: true,
        local: true,
        zoned: true,
        nanoseconds: false,
    };

    const NONE: Self = Self {
        seen: false,
        boolean: false,
        integer: false,
        float: false,
        date: false,
        local: false,
        zoned: false,
        nanoseconds: false,
    };

    fn see(&mut self, text: &str) {
        /// Longer texts are no numbers and no times.
        const LONGEST: usize = 400;
        self.seen = true;
        if text.len() > LONGEST {
            let nanoseconds = self.nanoseconds;
            *self = Self { seen: true, nanoseconds, ..Self::NONE };
            return;
        }
        self.boolean &= text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false");
        self.integer &= is_integer(text);
        self.float &= is_float(text);
        self.date &= is_date(text);
        if self.local || self.zoned {
            let time = Time::read(text);
            self.local &= is_date(text) || time.as_ref().is_some_and(|time| !time.zoned);
            self.zoned &= time.as_ref().is_some_and(|time| time.zoned);
            self.nanoseconds |= time.is_some_and(|time| time.fraction > 6);
        }
    }

    fn data_type(self) -> DataType {
        let unit = if self.nanoseconds { TimeUnit::Nanosecond } else { TimeUnit::Microsecond };
        match self {
            Self { seen: false, .. } => DataType::Null,
            Self { boolean: true, .. } => DataType::Boolean,
            Self { integer: true, .. } => DataType::Int64,
            Self { float: true, .. } => DataType::Float64,
            Self { date: true, .. } => DataType::Date32,
            Self { local: true, .. } => DataType::Timestamp(unit, None),
            Self { zoned: true, .. } => DataType::Timestamp(unit, Some("UTC".into())),
            _ => DataType::Utf8,
        }
    }
}

/// `007` is not one: codes, phone numbers and postcodes keep their zeros.
fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = digits == "0" || (!digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()));
    plain && text.parse::<i64>().is_ok()
}

fn is_float(text: &str) -> bool {
    if matches!(text, "NaN" | "inf" | "-inf" | "Infinity" | "-Infinity") || is_integer(text) {
        return true;
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let whole = digits.split(['.', 'e', 'E']).next().unwrap_or("");
    let leading_zero = whole.len() > 1 && whole.starts_with('0');
    // A whole number too large for an integer is an identifier: a float would change it.
    let has_point_or_power = digits.contains(['.', 'e', 'E']);
    let plain = digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    plain && !leading_zero && has_point_or_power && text.parse::<f64>().is_ok()
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok()
}

/// A date and time of day, as in `2024-02-29 12:34:56.5+01:00`.
struct Time {
    zoned: bool,
    /// Digits behind the point.
    fraction: usize,
}

impl Time {
    fn read(text: &str) -> Option<Self> {
        let clock = text.get(11..)?;
        if !matches!(text.as_bytes()[10], b' ' | b'T') || string_to_datetime(&Utc, text).is_err() {
            return None;
        }
        let fraction = clock.split_once('.').map_or("", |(_, rest)| rest);
        let fraction = fraction.bytes().take_while(u8::is_ascii_digit).count();
        Some(Self { zoned: clock.contains(['Z', 'z', '+', '-']), fraction })
    }
}

/// Reads the columns of the file called `name`.
pub(super) fn columns(sample: Sample, options: &CsvOptions, has_header: bool, name: &str) -> Result<SchemaRef> {
    let null = options.null_regex.as_deref().map(Regex::new).transpose();
    let null = null.map_err(|e| Error::sql(format!("null_regex cannot be read: {e}")))?;
    let unbroken = Arc::clone(&sample.unbroken);
    let (cut, rows) = (sample.cut, options.schema_infer_max_rec.unwrap_or(sample.rows));
    let mut records = reader(options, sample.text);
    let mut record = csv::ByteRecord::new();
    let mut header: Option<Vec<String>> = None;
    let mut possible: Vec<Possible> = Vec::new();
    let mut seen = 0;
    while seen < rows {
        match records.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(_) if cut => break,
            Err(error) => return Err(Error::query(format!("cannot read {name}: {error}"))),
        }
        unbroken.store(0, Ordering::Relaxed);
        let line = record.position().map_or(0, csv::Position::line);
        if header.is_none() {
            header = Some(names(&record, has_header, name)?);
            possible = vec![Possible::ALL; record.len()];
            if has_header {
                continue;
            }
        }
        if record.len() != possible.len() && !options.truncated_rows.unwrap_or(false) {
            if cut && records.is_done() {
                break;
            }
            return Err(ragged(name, line, &record, possible.len(), options.delimiter));
        }
        look(&record, &mut possible, null.as_ref(), name, line, header.as_deref().unwrap_or_default())?;
        seen += 1;
    }
    let fields = header.unwrap_or_default().into_iter().zip(possible);
    let fields: Vec<Field> = fields.map(|(name, possible)| Field::new(name, possible.data_type(), true)).collect();
    Ok(Arc::new(Schema::new(fields)))
}

fn look(
    record: &csv::ByteRecord,
    possible: &mut [Possible],
    null: Option<&Regex>,
    name: &str,
    line: u64,
    header: &[String],
) -> Result<()> {
    for (at, (field, possible)) in record.iter().zip(possible).enumerate() {
        let text = std::str::from_utf8(field).map_err(|_| {
            let column = header.get(at).map_or("", String::as_str);
            super::diagnose::not_utf8(name, line, column, &String::from_utf8_lossy(field))
        })?;
        if !text.is_empty() && !null.is_some_and(|null| null.is_match(text)) {
            possible.see(text);
        }
    }
    Ok(())
}

/// The names of the columns. A name that comes again gets a number: `a`, `a_1`.
fn names(record: &csv::ByteRecord, has_header: bool, file: &str) -> Result<Vec<String>> {
    if record.len() > COLUMNS_LIMIT {
        return Err(Error::query(format!("{file}, line 1: {} columns, the limit is {COLUMNS_LIMIT}", record.len()))
            .hint("is this the right delimiter? OPTIONS ('format.delimiter' ';') sets another"));
    }
    let mut names: Vec<String> = Vec::with_capacity(record.len());
    let mut taken = HashSet::with_capacity(record.len());
    for (at, field) in record.iter().enumerate() {
        let given = match std::str::from_utf8(field) {
            _ if !has_header => format!("column_{}", at + 1),
            Ok(text) => text.trim_start_matches('\u{feff}').to_owned(),
            Err(_) => return Err(super::diagnose::not_utf8(file, 1, "", &String::from_utf8_lossy(field))),
        };
        let mut name = given.clone();
        let mut number = 0;
        while !taken.insert(name.clone()) {
            number += 1;
            name = format!("{given}_{number}");
        }
        names.push(name);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(text: &str) -> Vec<DataType> {
        let sample = Sample::new(std::io::Cursor::new(text.to_owned()), false, 100);
        let schema = columns(sample, &CsvOptions::default(), true, "t.csv").expect("columns");
        schema.fields().iter().map(|field| field.data_type().clone()).collect()
    }

    #[test]
    fn a_type_is_what_all_values_are() {
        use DataType::*;
        assert_eq!(types("a,b,c\n1,1.5,true\n-2,3,FALSE\n"), [Int64, Float64, Boolean]);
        assert_eq!(types("a,b\n2024-02-29,2024-02-30\n,\n"), [Date32, Utf8]);
        assert_eq!(types("a,b,c\n007,12345678901234567890,1e5\n"), [Utf8, Utf8, Float64]);
        let micro = |zone: Option<&str>| Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
        assert_eq!(types("a\n2024-02-29T01:02:03\n2024-02-29\n"), [micro(None)]);
        assert_eq!(types("a\n2024-02-29 01:02:03Z\n2024-02-29 01:02:03+02:00\n"), [micro(Some("UTC"))]);
        assert_eq!(types("a\n2024-02-29 01:02:03 foo\n"), [Utf8]);
        assert_eq!(types("a,b\n,\n,x\n"), [Null, Utf8]);
        assert_eq!(types("a,b\n\"x,\\\",\"two\nlines\"\n"), [Utf8, Utf8]);
    }
}
