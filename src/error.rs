//! The one error of the whole program.
//!
//! Enters: what went wrong in any floor, or in a library beneath. Leaves: a [`Kind`] that says what
//! the caller should do, a message in the user's words, and the place in the SQL where there is one.
//! Always holds: the exit code of a kind is decided in one match, [`Kind::exit_code`].

mod library;
mod rules;
mod store;
mod types;
mod words;

use std::fmt;
use std::io;

pub use types::sql_type;
pub use words::as_sql;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

const NO_SPACE: &str = "no space left on the device";

/// What the caller should do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The command line is wrong: show how it is meant.
    Usage,
    /// The SQL is wrong: change it.
    Sql,
    /// The SQL is right, but running it failed: look at the data, the disk, the network, the limits.
    Query,
    /// The user stopped it.
    Interrupted,
    /// Who reads our output has gone: stop in silence.
    Closed,
}

impl Kind {
    /// The exit code of the process: 0 done, 1 failed, 2 bad SQL or usage, 130 interrupted.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Closed => 0,
            Kind::Query => 1,
            Kind::Usage | Kind::Sql => 2,
            Kind::Interrupted => 130,
        }
    }
}

/// A place in a SQL text: lines and columns count characters from 1; the end is exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Line and column of the first character.
    pub start: (usize, usize),
    /// Line and column behind the last character.
    pub end: (usize, usize),
}

impl Span {
    /// A span of one character.
    pub fn at(line: usize, column: usize) -> Self {
        Self { start: (line, column), end: (line, column + 1) }
    }
}

impl From<datafusion::sql::sqlparser::tokenizer::Span> for Span {
    fn from(span: datafusion::sql::sqlparser::tokenizer::Span) -> Self {
        let place = |at: datafusion::sql::sqlparser::tokenizer::Location| (at.line as usize, at.column as usize);
        Self { start: place(span.start), end: place(span.end) }
    }
}

/// A word or text of a statement; `a|b`: the one or the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark(pub String);

/// An error as a user sees it.
#[derive(Debug, Clone)]
pub struct Error {
    /// What the caller should do.
    pub kind: Kind,
    /// What is wrong, one sentence without a full stop.
    pub message: String,
    /// Where in the SQL, if it is known.
    pub span: Option<Span>,
    /// The word or text of the statement that it is about, where no place is known.
    pub mark: Option<Box<Mark>>,
    /// Facts that help to understand it.
    pub notes: Vec<String>,
    /// What to do about it.
    pub hint: Option<Box<str>>,
    /// A join ran out of memory that could have sorted and spilled.
    pub join_exceeds_memory: bool,
}

impl Error {
    /// An error of `kind` with nothing but a message.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            span: None,
            mark: None,
            notes: Vec::new(),
            hint: None,
            join_exceeds_memory: false,
        }
    }

    /// A wrong command line.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// Wrong SQL.
    pub fn sql(message: impl Into<String>) -> Self {
        Self::new(Kind::Sql, message)
    }

    /// A statement that failed while it ran.
    pub fn query(message: impl Into<String>) -> Self {
        Self::new(Kind::Query, message)
    }

    /// Adds the place in the SQL, unless there is one already.
    #[must_use]
    pub fn at(mut self, span: impl Into<Span>) -> Self {
        self.span.get_or_insert(span.into());
        self
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into().into_boxed_str());
        self
    }

    /// Adds the word of the statement that it is about.
    #[must_use]
    pub fn mark(mut self, word: impl Into<String>) -> Self {
        self.mark = Some(Box::new(Mark(word.into())));
        self
    }

    /// Adds a fact.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// An I/O error with the path it is about.
    pub fn io(path: impl fmt::Display, error: &io::Error) -> Self {
        let mut this = Self::from_io(error);
        this.message = format!("{path}: {}", this.message);
        this
    }

    /// True if a disk is full.
    pub fn is_full_disk(&self) -> bool {
        self.message.ends_with(NO_SPACE)
    }

    /// A panic beneath us: a bug, in fuse or in a library. What the statement wrote is not kept.
    pub fn from_panic(panic: &(dyn std::any::Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Self::query(format!("fuse stumbled over this statement: {text}"))
            .hint("nothing of it was kept, and the session goes on; please report the statement to fuse")
    }

    fn from_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Kind::Closed, "the reader of the output has gone"),
            io::ErrorKind::StorageFull => {
                Self::query(NO_SPACE).hint("free some space; nothing of this statement was kept")
            }
            io::ErrorKind::NotFound => Self::query("no such file or folder"),
            io::ErrorKind::PermissionDenied => Self::query("permission denied"),
            io::ErrorKind::NotADirectory => Self::query("a part of the path is not a folder"),
            io::ErrorKind::IsADirectory => Self::query("is a folder, not a file"),
            _ => match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
                Some(own) => own.clone(),
                None => Self::query(error.to_string().split(" (os error").next().unwrap_or_default()),
            },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(span) = self.span {
            write!(f, " (line {}, column {})", span.start.0, span.start.1)?;
        }
        for note in &self.notes {
            write!(f, "\n  note: {note}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  help: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::from_io(&error)
    }
}

/// A format that STORED AS does not know.
pub fn unknown_format(name: &str) -> Error {
    const FORMATS: [&str; 11] =
        ["PARQUET", "CSV", "TSV", "JSON", "NDJSON", "ARROW", "AVRO", "PROTOBUF", "SQLITE", "POSTGRES", "DELTA"];
    let error = Error::sql(format!("no format named {name}"));
    match near_name(name, FORMATS) {
        Some(near) => error.hint(format!("did you mean {near}?")),
        None => error.hint(format!("formats are {}", FORMATS.join(", "))),
    }
    .mark(name)
}

/// The start of a text that may be long.
pub fn clip(text: &str) -> String {
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The candidate nearest to `name`, if one is near enough that a user may have meant it.
pub fn near_name<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = name.to_lowercase();
    let limit = match wanted.chars().count() {
        0..=2 => 0,
        3..=5 => 1,
        6..=9 => 2,
        _ => 3,
    };
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_offered_and_a_far_one_is_not() {
        assert_eq!(near_name("statoin", ["station", "ration"]), Some("station"));
        assert_eq!(near_name("histogram", ["list_sum", "sum"]), None);
        assert_eq!(near_name("ab", ["ac"]), None);
    }
}
