//! The columns of a CSV file.
//!
//! Enters: records of a file. Leaves: a name and a type for each column, and the form of dates and numbers.
//! Always holds: every value that was looked at can be read as its column's type, and reads back as the text that
//! it was, but for the form of numbers and times; what can be read in two ways stays text.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use chrono::{NaiveDate, NaiveDateTime, Utc};

use crate::config::COLUMNS_LIMIT;
use crate::error::{Error, Result};
use crate::format::csv::{DATE_FORMATS, Dialect, Records, TIME_ENDINGS, plain_number};

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
    /// A point has been seen in a number.
    point: bool,
    /// Numbers with a decimal comma, and whether a value can be no other number.
    comma: bool,
    comma_sure: bool,
    /// The same with commas between groups of digits; and whether all are whole.
    grouped: bool,
    grouped_sure: bool,
    grouped_whole: bool,
    /// A bit for each of [`DATE_FORMATS`] in which all can be dates; and times.
    dates: u16,
    times: u32,
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
        point: false,
        comma: true,
        comma_sure: false,
        grouped: true,
        grouped_sure: false,
        grouped_whole: true,
        dates: (1 << DATE_FORMATS.len()) - 1,
        times: (1 << (DATE_FORMATS.len() * TIME_ENDINGS.len())) - 1,
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
        point: false,
        comma: false,
        comma_sure: false,
        grouped: false,
        grouped_sure: false,
        grouped_whole: false,
        dates: 0,
        times: 0,
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
        self.point |= self.float && text.contains('.');
        self.see_local_number(text);
        self.see_local_date(text);
    }

    fn see_local_number(&mut self, text: &str) {
        let zeros = text.trim_start_matches('-');
        let code = zeros.len() > 1 && zeros.starts_with('0') && zeros.as_bytes()[1].is_ascii_digit();
        if self.comma {
            let groups = text.matches('.').count();
            let fraction = text.split_once(',').map(|(_, fraction)| fraction.len());
            self.comma = !code && plain_number(text, b',', Some(b'.')).is_some();
            self.comma_sure |= self.comma && (fraction.is_some_and(|digits| digits != 3 || groups > 0) || groups > 1);
        }
        if self.grouped {
            let groups = text.matches(',').count();
            self.grouped = !code && plain_number(text, b'.', Some(b',')).is_some();
            self.grouped_sure |= self.grouped && (groups > 1 || (groups == 1 && text.contains('.')));
            self.grouped_whole &= !text.contains('.');
        }
    }

    fn see_local_date(&mut self, text: &str) {
        if self.dates == 0 && self.times == 0 {
            return;
        }
        if !text.starts_with(|c: char| c.is_ascii_digit()) || text.len() < 8 || text.len() > 32 {
            (self.dates, self.times) = (0, 0);
            return;
        }
        for (at, form) in DATE_FORMATS.iter().enumerate() {
            if self.dates & (1 << at) != 0 && NaiveDate::parse_from_str(text, form).is_err() {
                self.dates &= !(1 << at);
            }
            for (ending, clock) in TIME_ENDINGS.iter().enumerate() {
                let bit = 1 << (at * TIME_ENDINGS.len() + ending);
                let reads = || NaiveDateTime::parse_from_str(text, &format!("{form}{clock}")).is_ok();
                if self.times & bit != 0 && !reads() {
                    self.times &= !bit;
                }
            }
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

/// What was found in the records of a file.
#[derive(Debug)]
pub(super) struct Columns {
    pub(super) types: Vec<DataType>,
    pub(super) dateformat: Option<String>,
    pub(super) timestampformat: Option<String>,
    /// What stands before fractions and between groups of digits.
    pub(super) number: Option<(u8, u8)>,
    /// Columns that are not text.
    pub(super) typed: usize,
}

/// Finds the types of the columns. What the dialect says of dates and numbers holds.
pub(super) fn types(records: &Records, rows: impl Iterator<Item = usize>, width: usize, dialect: &Dialect) -> Columns {
    let mut possible = vec![Possible::ALL; width];
    for record in rows.filter(|record| records.is_sound(*record) && records.width(*record) == width) {
        for (field, possible) in records.fields(record).zip(&mut possible) {
            match std::str::from_utf8(field) {
                Ok("") => {}
                Ok(text) if dialect.nulls.iter().any(|null| null == text) => {}
                Ok(text) => possible.see(text),
                Err(_) => possible.see("not UTF-8"),
            }
        }
    }
    settle(&possible, dialect)
}

fn settle(possible: &[Possible], dialect: &Dialect) -> Columns {
    let mut types: Vec<DataType> = possible.iter().map(|possible| possible.data_type()).collect();
    let text = |at: usize, types: &[DataType]| types[at] == DataType::Utf8;
    let dateformat = dialect.dateformat.clone().or_else(|| only_date(possible));
    if let Some(form) = &dateformat {
        let bit = DATE_FORMATS.iter().position(|known| known == form);
        for (at, possible) in possible.iter().enumerate() {
            let fits = bit.is_some_and(|bit| possible.dates & (1 << bit) != 0) && possible.seen;
            if text(at, &types) && fits {
                types[at] = DataType::Date32;
            }
        }
    }
    let timestampformat = dialect.timestampformat.clone().or_else(|| only_time(possible, dateformat.as_deref()));
    if let Some(form) = &timestampformat {
        for (at, possible) in possible.iter().enumerate() {
            let known = |bit: &usize| time_form(*bit) == *form && possible.times & (1 << bit) != 0 && possible.seen;
            if text(at, &types) && (0..DATE_FORMATS.len() * TIME_ENDINGS.len()).any(|bit| known(&bit)) {
                types[at] = DataType::Timestamp(TimeUnit::Microsecond, None);
            }
        }
    }
    let number = number_form(possible, &types, dialect);
    for (at, possible) in possible.iter().enumerate().filter(|(_, possible)| possible.seen) {
        match number {
            Some((b',', _)) if text(at, &types) && possible.comma => types[at] = DataType::Float64,
            Some((b'.', _)) if text(at, &types) && possible.grouped => {
                types[at] = if possible.grouped_whole { DataType::Int64 } else { DataType::Float64 };
            }
            _ => {}
        }
    }
    let typed = types.iter().filter(|kind| !matches!(kind, DataType::Utf8 | DataType::Null)).count();
    let used = |kind: fn(&DataType) -> bool, form: Option<String>| form.filter(|_| types.iter().any(kind));
    Columns {
        dateformat: used(|kind| *kind == DataType::Date32, dateformat),
        timestampformat: used(|kind| matches!(kind, DataType::Timestamp(_, None)), timestampformat),
        types,
        number,
        typed,
    }
}

/// The one form in which a column's texts are dates. Where day and month could be changed, another column or
/// value has to tell.
fn only_date(possible: &[Possible]) -> Option<String> {
    let dates = possible.iter().filter(|possible| possible.seen && possible.dates != 0);
    let bit =
        dates.map(|possible| possible.dates).filter(|dates| dates.count_ones() == 1).map(u16::trailing_zeros).next()?;
    Some(DATE_FORMATS[bit as usize].to_owned())
}

fn only_time(possible: &[Possible], dateformat: Option<&str>) -> Option<String> {
    let times = possible.iter().filter(|possible| possible.seen && possible.times != 0);
    for possible in times {
        let forms: Vec<usize> =
            (0..DATE_FORMATS.len() * TIME_ENDINGS.len()).filter(|bit| possible.times & (1 << bit) != 0).collect();
        let known = forms.iter().find(|bit| dateformat == Some(DATE_FORMATS[**bit / TIME_ENDINGS.len()]));
        if let Some(bit) = known.or(if forms.len() == 1 { forms.first() } else { None }) {
            return Some(time_form(*bit));
        }
    }
    None
}

fn time_form(bit: usize) -> String {
    format!("{}{}", DATE_FORMATS[bit / TIME_ENDINGS.len()], TIME_ENDINGS[bit % TIME_ENDINGS.len()])
}

/// What stands before fractions and between groups, if that is sure and holds for the whole file.
fn number_form(possible: &[Possible], types: &[DataType], dialect: &Dialect) -> Option<(u8, u8)> {
    if dialect.decimal != b'.' || dialect.thousands.is_some() {
        let other = if dialect.decimal == b',' { b'.' } else { b',' };
        return Some((dialect.decimal, dialect.thousands.unwrap_or(other)));
    }
    let texts = || possible.iter().zip(types).filter(|(possible, kind)| possible.seen && **kind == DataType::Utf8);
    let points = possible.iter().zip(types).any(|(possible, kind)| possible.point && *kind == DataType::Float64);
    let comma = texts().any(|(possible, _)| possible.comma && possible.comma_sure && !possible.grouped_sure);
    let grouped = texts().any(|(possible, _)| possible.grouped && possible.grouped_sure && !possible.comma_sure);
    match (comma && !points, grouped) {
        (true, false) => Some((b',', b'.')),
        (false, true) => Some((b'.', b',')),
        _ => None,
    }
}

/// The columns of a file, of names and types.
pub(super) fn schema(names: Vec<String>, types: Vec<DataType>) -> SchemaRef {
    let fields = names.into_iter().zip(types).map(|(name, kind)| Field::new(name, kind, true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// The names of the columns. A name that comes again gets a number: `a`, `a_1`; one that is missing is `column_2`.
pub(super) fn names<'a>(header: impl Iterator<Item = &'a [u8]>, width: usize, file: &str) -> Result<Vec<String>> {
    if width > COLUMNS_LIMIT {
        return Err(Error::query(format!("{file}, line 1: {width} columns, the limit is {COLUMNS_LIMIT}"))
            .hint("is this the right delimiter? read_csv('…', delim => ';') sets another"));
    }
    let mut names: Vec<String> = Vec::with_capacity(width);
    let mut taken = HashSet::with_capacity(width);
    let mut header = header.fuse();
    for at in 0..width {
        let given = match std::str::from_utf8(header.next().unwrap_or_default()) {
            Ok(text) if text.trim().is_empty() => format!("column_{}", at + 1),
            Ok(text) => text.trim_start_matches('\u{feff}').to_owned(),
            Err(_) => {
                return Err(Error::query(format!("{file}, line 1: not UTF-8")).hint(format!(
                    "read_csv('{file}', encoding => 'latin-1') reads Western European text; iconv converts others"
                )));
            }
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
    use super::super::sniff::sniff;
    use super::*;

    fn found(text: &str) -> (Vec<DataType>, Dialect) {
        let sniffed =
            sniff(text.as_bytes(), true, &[], &Dialect::default(), &HashSet::new(), "t.csv").expect("columns");
        (sniffed.schema.fields().iter().map(|field| field.data_type().clone()).collect(), sniffed.dialect)
    }

    fn types(text: &str) -> Vec<DataType> {
        found(text).0
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

    #[test]
    fn dates_and_numbers_of_other_countries_are_found_where_they_are_sure() {
        use DataType::*;
        let (types, dialect) = found("d;e;n\n01/02/2024;x;1,5\n28/02/2024;y;1.234,75\n");
        assert_eq!(types, [Date32, Utf8, Float64]);
        assert_eq!((dialect.dateformat.as_deref(), dialect.decimal), (Some("%d/%m/%Y"), b','));
        assert_eq!(found("d;n\n01/02/2024;1,234\n02/03/2024;5,678\n").0, [Utf8, Utf8]);
        assert_eq!(found("t,n\n28.02.2024 12:30,\"1,234.5\"\n").0, [Timestamp(TimeUnit::Microsecond, None), Float64]);
    }
}
