//! What OPTIONS of an unbounded table say.
//!
//! Enters: names and values. Leaves: [`StreamOptions`]. Always holds: a name or value that means nothing is an error.

use std::collections::HashMap;

use crate::config::{EPOCH_BYTES, EPOCH_FILES, EPOCH_ROWS, parse_bytes};
use crate::error::{Error, Result, near_name};

/// How much an epoch takes from one source at the most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Rows, as far as they are known before they are read.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// Files.
    pub files: usize,
}

/// The options of an unbounded table.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamOptions {
    /// How much an epoch takes.
    pub limits: Limits,
    /// Files are taken in the order of their modification times, not of their names.
    pub by_time: bool,
    /// CSV: the character between fields.
    pub delimiter: u8,
    /// CSV: the character around fields.
    pub quote: u8,
    /// CSV: the first line of each file names the columns.
    pub header: bool,
    /// Generators: rows a second.
    pub rows_per_second: u64,
    /// Generators: how many rows there are in all; nothing: no end.
    pub rows: Option<u64>,
    /// Generators: the seed.
    pub seed: u64,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            limits: Limits { rows: EPOCH_ROWS, bytes: EPOCH_BYTES, files: EPOCH_FILES },
            by_time: false,
            delimiter: b',',
            quote: b'"',
            header: true,
            rows_per_second: 1000,
            rows: None,
            seed: 0,
        }
    }
}

const NAMES: [&str; 11] = [
    "max_rows_per_epoch",
    "max_bytes_per_epoch",
    "max_files_per_epoch",
    "order",
    "delimiter",
    "quote",
    "has_header",
    "rows_per_second",
    "rows",
    "seed",
    "newline_delimited",
];

impl StreamOptions {
    /// Reads OPTIONS (…).
    pub fn read(options: &HashMap<String, String>) -> Result<Self> {
        let mut this = Self::default();
        for (name, value) in options {
            let name = name.strip_prefix("format.").unwrap_or(name);
            this.set(name, value.trim())?;
        }
        Ok(this)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let wrong = |means: &str| Error::sql(format!("the option {name} cannot be '{value}'")).hint(means.to_owned());
        let number = || value.replace('_', "").parse::<u64>().ok().filter(|n| *n > 0);
        let count = || number().ok_or_else(|| wrong("it is a number above 0"));
        let byte = || match value.as_bytes() {
            [byte] => Ok(*byte),
            b"\\t" => Ok(b'\t'),
            _ => Err(wrong("it is one character")),
        };
        let truth = || value.parse::<bool>().map_err(|_| wrong("it is true or false"));
        match name {
            "max_rows_per_epoch" => self.limits.rows = count()?,
            "max_bytes_per_epoch" => self.limits.bytes = parse_bytes(value).map_err(|_| wrong("such as 64MB"))? as u64,
            "max_files_per_epoch" => self.limits.files = usize::try_from(count()?).unwrap_or(usize::MAX),
            "order" => {
                self.by_time = match value {
                    "name" => false,
                    "time" | "modified" => true,
                    _ => return Err(wrong("order is 'name' or 'time'")),
                }
            }
            "delimiter" => self.delimiter = byte()?,
            "quote" => self.quote = byte()?,
            "has_header" => self.header = truth()?,
            "rows_per_second" => self.rows_per_second = count()?,
            "rows" => self.rows = Some(count()?),
            "seed" => self.seed = value.parse().map_err(|_| wrong("it is a whole number"))?,
            "newline_delimited" => {
                truth()?.then_some(()).ok_or_else(|| wrong("a stream of JSON has an object a line"))?;
            }
            _ => {
                let error = Error::sql(format!("an unbounded table has no option '{name}'"));
                return Err(match near_name(name, NAMES) {
                    Some(near) => error.hint(format!("did you mean {near}?")),
                    None => error.hint(format!("options are {}", NAMES.join(", "))),
                });
            }
        }
        Ok(())
    }
}
