//! How a sink writes.
//!
//! Enters: OPTIONS, and whether the query retracts. Leaves: a [`Mode`] and when files are closed. Always holds: a
//! mode that the query or the target does not allow is an error that says which are.

use crate::config::{ROLL_BYTES, ROLL_MICROS, ROLL_ROWS, parse_bytes, parse_micros};
use crate::error::{Error, Result};

/// What a sink does with changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Adds rows.
    Append,
    /// Shows the whole result anew.
    Replace,
    /// Adds a row for each change, with the columns `op` and `epoch`.
    Changelog,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::Append => "'append'",
            Mode::Replace => "'replace'",
            Mode::Changelog => "'changelog'",
        }
    }
}

/// When a file that grows is closed and the next one begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roll {
    /// Rows.
    pub rows: usize,
    /// Bytes.
    pub bytes: usize,
    /// Microseconds since it was begun.
    pub micros: i64,
}

impl Default for Roll {
    fn default() -> Self {
        Self { rows: ROLL_ROWS, bytes: ROLL_BYTES, micros: ROLL_MICROS }
    }
}

/// What OPTIONS say of a sink.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SinkOptions {
    /// The mode, if it is given.
    pub mode: Option<Mode>,
    /// When files are closed.
    pub roll: Roll,
}

impl SinkOptions {
    /// Sets the option of that name; false if there is none.
    pub fn set(&mut self, name: &str, value: &str) -> Result<bool> {
        let wrong = |hint: &str| Error::sql(format!("the option {name} cannot be '{value}'")).hint(hint.to_owned());
        match name {
            "mode" => {
                self.mode = Some(match value {
                    "append" => Mode::Append,
                    "replace" => Mode::Replace,
                    "changelog" => Mode::Changelog,
                    _ => return Err(wrong("mode is 'append', 'replace' or 'changelog'")),
                });
            }
            "roll_rows" => {
                let rows = value.replace('_', "").parse().ok().filter(|rows| *rows > 0);
                self.roll.rows = rows.ok_or_else(|| wrong("it is a number of rows"))?;
            }
            "roll_bytes" => self.roll.bytes = parse_bytes(value).map_err(|_| wrong("such as 128MB"))?,
            "roll_interval" => {
                self.roll.micros = parse_micros(value).ok_or_else(|| wrong("such as '10s', '5m' or '1h'"))?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The mode for a query and a target, or an error that names those that are possible.
pub fn choose_mode(asked: Option<Mode>, append_only: bool, folder: bool, target: &str) -> Result<Mode> {
    let possible: &[Mode] = match (append_only, folder) {
        (true, true) => &[Mode::Append, Mode::Changelog],
        (false, true) => &[Mode::Changelog],
        (_, false) => &[Mode::Replace],
    };
    let names = possible.iter().map(|mode| mode.name()).collect::<Vec<_>>().join(" or ");
    let other =
        if folder { "a file, such as 'out.parquet', is replaced as a whole" } else { "a folder ends in a slash" };
    match asked {
        Some(mode) if possible.contains(&mode) => Ok(mode),
        Some(mode) => Err(Error::sql(format!("mode {} is not possible for '{target}' here", mode.name()))
            .note(format!("this query and target allow {names}"))
            .hint(other)),
        None if append_only || !folder => Ok(possible[0]),
        None => {
            let file = target.trim_end_matches('/');
            Err(Error::sql(format!("rows of this query change after they were written, and '{target}' is a folder"))
                .note("OPTIONS ('mode' 'changelog') writes each change as a row, with op and epoch")
                .hint(format!("a file, such as '{file}.parquet', is replaced as a whole at each commit")))
        }
    }
}
