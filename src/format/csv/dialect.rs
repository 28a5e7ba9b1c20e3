//! How the records of a CSV file are written.
//!
//! Enters: options by name, as users write them. Leaves: a [`Dialect`], and the options again.
//! Always holds: a dialect that is written as options reads back as itself.

use std::collections::HashMap;

use super::Encoding;
use crate::error::{Error, Result};

/// The options that are ours and not DataFusion's, by their names here.
pub const OPTIONS: [&str; 13] = [
    "skip",
    "nullstr",
    "dateformat",
    "timestampformat",
    "decimal_separator",
    "thousands",
    "encoding",
    "null_padding",
    "ignore_errors",
    "store_rejects",
    "repair",
    "sample_size",
    "trailing_delimiter",
];

/// The one name of an option that has several.
pub fn canonical_option(name: &str) -> &str {
    match name {
        "delim" | "sep" => "delimiter",
        "header" => "has_header",
        "quotechar" => "quote",
        "escapechar" => "escape",
        "null" | "nulls" | "null_value" | "na_values" => "nullstr",
        "date_format" => "dateformat",
        "timestamp_format" => "timestampformat",
        "decimal" => "decimal_separator",
        "truncated_rows" => "null_padding",
        "schema_infer_max_rec" => "sample_size",
        other => other,
    }
}

/// How the records of a CSV file are written, and what to do with those that are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialect {
    /// Between fields.
    pub delimiter: u8,
    /// Around fields, if any are quoted.
    pub quote: Option<u8>,
    /// Before a quote within quotes, besides another quote.
    pub escape: Option<u8>,
    /// Begins a line that is no record.
    pub comment: Option<u8>,
    /// The first record holds the names.
    pub header: bool,
    /// Lines before the first record.
    pub skip: usize,
    /// Each record ends with a delimiter behind its last field.
    pub trailing: bool,
    /// Texts that mean NULL, besides the empty one.
    pub nulls: Vec<String>,
    /// The form of dates that are not ISO's, as in `%d/%m/%Y`.
    pub dateformat: Option<String>,
    /// The form of times that are not ISO's.
    pub timestampformat: Option<String>,
    /// Before the fraction of a number.
    pub decimal: u8,
    /// Between groups of three digits.
    pub thousands: Option<u8>,
    /// The characters.
    pub encoding: Encoding,
    /// Missing fields at the end of a record are NULL.
    pub null_padding: bool,
    /// Leave out rows that cannot be read.
    pub ignore_errors: bool,
    /// The same, and keep them for the table `rejects`.
    pub store_rejects: bool,
    /// Read a damaged row in the one way in which it fits the others.
    pub repair: bool,
    /// Rows to look at; nothing: the default.
    pub sample_rows: Option<usize>,
}

impl Default for Dialect {
    fn default() -> Self {
        Self {
            delimiter: b',',
            quote: Some(b'"'),
            escape: None,
            comment: None,
            header: true,
            skip: 0,
            trailing: false,
            nulls: Vec::new(),
            dateformat: None,
            timestampformat: None,
            decimal: b'.',
            thousands: None,
            encoding: Encoding::Utf8,
            null_padding: false,
            ignore_errors: false,
            store_rejects: false,
            repair: true,
            sample_rows: None,
        }
    }
}

impl Dialect {
    /// The dialect that these options describe; what they leave out is as by default.
    pub fn from_options(options: &HashMap<String, String>) -> Result<Self> {
        let mut this = Self::default();
        for (name, value) in options {
            this.set(name, value)?;
        }
        Ok(this)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let byte = || one_byte(name, value);
        let maybe = || if value.is_empty() { Ok(None) } else { one_byte(name, value).map(Some) };
        let flag = || truth(name, value);
        let text = || (!value.is_empty()).then(|| value.to_owned());
        match name {
            "delimiter" => self.delimiter = byte()?,
            "quote" => self.quote = maybe()?,
            "escape" => self.escape = maybe()?.filter(|byte| Some(*byte) != self.quote && *byte != b'"'),
            "comment" => self.comment = maybe()?,
            "has_header" => self.header = flag()?,
            "skip" => self.skip = number(name, value)?,
            "trailing_delimiter" => self.trailing = flag()?,
            "nullstr" => self.nulls = value.split('\u{1}').map(str::to_owned).collect(),
            "dateformat" => self.dateformat = text(),
            "timestampformat" => self.timestampformat = text(),
            "decimal_separator" => self.decimal = byte()?,
            "thousands" => self.thousands = maybe()?,
            "encoding" => self.encoding = value.parse()?,
            "null_padding" => self.null_padding = flag()?,
            "ignore_errors" => self.ignore_errors = flag()?,
            "store_rejects" => self.store_rejects = flag()?,
            "repair" => self.repair = flag()?,
            "sample_size" if value == "-1" => self.sample_rows = Some(usize::MAX),
            "sample_size" => self.sample_rows = Some(number(name, value)?),
            _ => {}
        }
        Ok(())
    }

    /// What was found in the file, as options: the names of [`canonical_option`] and their values.
    pub fn found_options(&self) -> Vec<(&'static str, String)> {
        let text = |byte: Option<u8>| byte.map(|byte| char::from(byte).to_string()).unwrap_or_default();
        let mut options = vec![("delimiter", text(Some(self.delimiter))), ("has_header", self.header.to_string())];
        let plain = Self::default();
        let mut add = |name: &'static str, differs: bool, value: String| {
            if differs {
                options.push((name, value));
            }
        };
        add("quote", self.quote != plain.quote, text(self.quote));
        add("escape", self.escape != plain.escape, text(self.escape));
        add("comment", self.comment != plain.comment, text(self.comment));
        add("skip", self.skip != 0, self.skip.to_string());
        add("trailing_delimiter", self.trailing, "true".to_owned());
        add("dateformat", self.dateformat.is_some(), self.dateformat.clone().unwrap_or_default());
        add("timestampformat", self.timestampformat.is_some(), self.timestampformat.clone().unwrap_or_default());
        add("decimal_separator", self.decimal != b'.', text(Some(self.decimal)));
        add("thousands", self.thousands.is_some(), text(self.thousands));
        add("encoding", self.encoding != Encoding::Utf8, self.encoding.to_string());
        options
    }

    /// In words, for errors and notes: `delimiter ';', header, skip 2`.
    pub fn words(&self) -> String {
        let words = self.found_options().into_iter().map(|(name, value)| match (name, value.as_str()) {
            ("has_header", "true") => "a header".to_owned(),
            ("has_header", _) => "no header".to_owned(),
            (_, "") => format!("no {name}"),
            ("delimiter", "\t") => "delimiter tab".to_owned(),
            _ => format!("{name} '{value}'"),
        });
        words.collect::<Vec<_>>().join(", ")
    }

    /// True if rows that cannot be read are left out.
    pub fn leaves_out(&self) -> bool {
        self.ignore_errors || self.store_rejects
    }
}

fn one_byte(name: &str, value: &str) -> Result<u8> {
    match value {
        "\\t" => Ok(b'\t'),
        _ if value.len() == 1 => Ok(value.as_bytes()[0]),
        _ => Err(Error::sql(format!("{name} cannot be '{value}': it is one ASCII character"))),
    }
}

fn number(name: &str, value: &str) -> Result<usize> {
    value.parse().map_err(|_| Error::sql(format!("{name} cannot be '{value}': it is a whole number")))
}

fn truth(name: &str, value: &str) -> Result<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(Error::sql(format!("{name} cannot be '{value}': it is true or false"))),
    }
}
