//! What OPTIONS of an unbounded table say.
//!
//! Enters: names and values. Leaves: [`StreamOptions`]. Always holds: a name or value that means nothing is an error.

use std::collections::HashMap;

use super::bad::OnError;
use crate::config::{EPOCH_BYTES, EPOCH_FILES, EPOCH_ROWS, SPOOL_BYTES, SPOOL_LEAST_BYTES, parse_bytes};
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
    /// Generators: rows a second, if they are given.
    pub rows_per_second: Option<u64>,
    /// Generators: how many rows there are in all; nothing: no end.
    pub rows: Option<u64>,
    /// Generators: the seed.
    pub seed: u64,
    /// Nexmark: which events.
    pub kind: Option<String>,
    /// What becomes of records that cannot be read.
    pub on_error: OnError,
    /// The folder for records that cannot be read.
    pub dead_letter: Option<String>,
    /// A file that is followed is read from its start when it was cut; else that is an error.
    pub restart_on_truncate: bool,
    /// Pipes: bytes that are kept in the state at the most.
    pub spool_bytes: u64,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            limits: Limits { rows: EPOCH_ROWS, bytes: EPOCH_BYTES, files: EPOCH_FILES },
            by_time: false,
            delimiter: b',',
            quote: b'"',
            header: true,
            rows_per_second: None,
            rows: None,
            seed: 0,
            kind: None,
            on_error: OnError::Fail,
            dead_letter: None,
            restart_on_truncate: false,
            spool_bytes: SPOOL_BYTES,
        }
    }
}

const NAMES: [&str; 16] = [
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
    "kind",
    "on_error",
    "dead_letter",
    "on_truncate",
    "max_spool_bytes",
];

impl StreamOptions {
    /// Reads OPTIONS (…).
    pub fn read(options: &HashMap<String, String>) -> Result<Self> {
        let mut this = Self::default();
        for (name, value) in options {
            let name = name.strip_prefix("format.").unwrap_or(name);
            this.set(name, value.trim())?;
        }
        match (this.on_error, &this.dead_letter, options.contains_key("on_error")) {
            (OnError::DeadLetter, None, _) => Err(Error::sql("'on_error' 'dead_letter' wants a folder")
                .hint("OPTIONS ('on_error' 'dead_letter', 'dead_letter' 'folder/')")),
            (OnError::Fail | OnError::Skip, Some(_), true) => {
                Err(Error::sql("the option dead_letter names a folder that nothing would be written to")
                    .hint("'on_error' 'dead_letter' writes there what cannot be read"))
            }
            (_, Some(_), _) => Ok(Self { on_error: OnError::DeadLetter, ..this }),
            _ => Ok(this),
        }
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
            "rows_per_second" => self.rows_per_second = Some(count()?),
            "rows" => self.rows = Some(count()?),
            "seed" => self.seed = value.parse().map_err(|_| wrong("it is a whole number"))?,
            "kind" => self.kind = Some(value.to_ascii_lowercase()),
            "on_error" => {
                self.on_error = match value {
                    "fail" => OnError::Fail,
                    "skip" => OnError::Skip,
                    "dead_letter" => OnError::DeadLetter,
                    _ => return Err(wrong("on_error is 'fail', 'skip' or 'dead_letter'")),
                }
            }
            "dead_letter" => self.dead_letter = Some(value.to_owned()).filter(|folder| !folder.is_empty()),
            "on_truncate" => {
                self.restart_on_truncate = match value {
                    "fail" => false,
                    "restart" => true,
                    _ => return Err(wrong("on_truncate is 'fail' or 'restart'")),
                }
            }
            "max_spool_bytes" => {
                let bytes = parse_bytes(value).ok().filter(|bytes| *bytes >= SPOOL_LEAST_BYTES);
                self.spool_bytes = bytes.ok_or_else(|| wrong("such as 1GB, and at least 1MB"))? as u64;
            }
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
