//! Texts of other forms → texts that arrow reads.
//!
//! Enters: a field, and the type of its column. Leaves: ISO dates and plain numbers. Always holds: a text that is
//! not of the dialect's form passes as it is.

use arrow::datatypes::DataType;
use chrono::{NaiveDate, NaiveDateTime};

use super::Dialect;

/// Forms of dates that are looked for, besides ISO's. The first two may both fit.
pub const DATE_FORMATS: [&str; 8] =
    ["%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d.%m.%Y", "%Y/%m/%d", "%Y.%m.%d", "%d %b %Y"];

/// What follows a date in a time.
pub const TIME_ENDINGS: [&str; 2] = [" %H:%M:%S%.f", " %H:%M"];

/// What is to be done with the texts of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    AsIs,
    Date,
    Time,
    Number,
}

/// Turns the fields of one file into what arrow reads.
#[derive(Debug, Clone)]
pub(super) struct Converter {
    forms: Vec<Form>,
    nulls: Vec<String>,
    dateformat: Option<String>,
    timestampformat: Option<String>,
    decimal: u8,
    thousands: Option<u8>,
}

impl Converter {
    pub(super) fn new(dialect: &Dialect, types: impl Iterator<Item = DataType>) -> Self {
        let numbers = dialect.decimal != b'.' || dialect.thousands.is_some();
        let form = |kind: DataType| match kind {
            DataType::Date32 | DataType::Date64 if dialect.dateformat.is_some() => Form::Date,
            DataType::Timestamp(_, _) if dialect.timestampformat.is_some() || dialect.dateformat.is_some() => {
                Form::Time
            }
            kind if numbers && (kind.is_numeric() || kind.is_decimal()) => Form::Number,
            _ => Form::AsIs,
        };
        Self {
            forms: types.map(form).collect(),
            nulls: dialect.nulls.iter().filter(|text| !text.is_empty()).cloned().collect(),
            dateformat: dialect.dateformat.clone(),
            timestampformat: dialect.timestampformat.clone(),
            decimal: dialect.decimal,
            thousands: dialect.thousands,
        }
    }

    /// True if all texts pass as they are.
    pub(super) fn is_plain(&self) -> bool {
        self.nulls.is_empty() && self.forms.iter().all(|form| *form == Form::AsIs)
    }

    /// The text of column `column`, in a form that arrow reads.
    pub(super) fn convert(&self, column: usize, text: &str) -> Option<String> {
        if self.nulls.iter().any(|null| null == text) {
            return Some(String::new());
        }
        match self.forms.get(column)? {
            Form::AsIs => None,
            Form::Date => {
                let read = NaiveDate::parse_from_str(text, self.dateformat.as_deref()?).ok()?;
                Some(read.format("%Y-%m-%d").to_string())
            }
            Form::Time => {
                let time =
                    self.timestampformat.as_deref().and_then(|form| NaiveDateTime::parse_from_str(text, form).ok());
                let date = || NaiveDate::parse_from_str(text, self.dateformat.as_deref()?).ok()?.and_hms_opt(0, 0, 0);
                Some(time.or_else(date)?.format("%Y-%m-%dT%H:%M:%S%.f").to_string())
            }
            Form::Number => plain_number(text, self.decimal, self.thousands),
        }
    }
}

/// The number with a point before its fraction and nothing between its digits; nothing if it is no number that
/// is written so.
pub fn plain_number(text: &str, decimal: u8, thousands: Option<u8>) -> Option<String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text),
    };
    let (whole, fraction) = match digits.split_once(char::from(decimal)) {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (digits, None),
    };
    let mut groups: Vec<&str> = match thousands {
        Some(separator) => whole.split(char::from(separator)).collect(),
        None => vec![whole],
    };
    let first = groups.remove(0);
    let numeric = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let grouped = groups.is_empty() || first.len() <= 3;
    if !numeric(first) || !grouped || groups.iter().any(|group| group.len() != 3 || !numeric(group)) {
        return None;
    }
    let power =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'e' | b'E' | b'-' | b'+'));
    match fraction {
        Some(fraction) if !fraction.starts_with(|c: char| c.is_ascii_digit()) || !power(fraction) => None,
        Some(fraction) => Some(format!("{sign}{first}{}.{fraction}", groups.concat())),
        None => Some(format!("{sign}{first}{}", groups.concat())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_other_countries_are_read() {
        let number = |text| plain_number(text, b',', Some(b'.'));
        assert_eq!(number("1.234.567,89").as_deref(), Some("1234567.89"));
        assert_eq!(number("-0,5").as_deref(), Some("-0.5"));
        assert_eq!(number("12").as_deref(), Some("12"));
        for text in ["1.23", "1,2,3", ",5", "", "12.3456", "1234.567"] {
            assert_eq!(number(text), None, "{text}");
        }
        assert_eq!(plain_number("1,234.5", b'.', Some(b',')).as_deref(), Some("1234.5"));
    }
}
