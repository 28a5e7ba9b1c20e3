//! The one error of the whole program.
//!
//! Enters: what went wrong in any floor, or in a library beneath. Leaves: a [`Kind`] that says what
//! the caller should do, a message in the user's words, and the place in the SQL where there is one.
//! Always holds: the exit code of a kind is decided in one match, [`Kind::exit_code`].

use std::fmt;
use std::io;

use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, Diagnostic, SchemaError};
use datafusion::sql::sqlparser::parser::ParserError;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

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

/// An error as a user sees it.
#[derive(Debug, Clone)]
pub struct Error {
    /// What the caller should do.
    pub kind: Kind,
    /// What is wrong, one sentence without a full stop.
    pub message: String,
    /// Where in the SQL, if it is known.
    pub span: Option<Span>,
    /// Facts that help to understand it.
    pub notes: Vec<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// A join ran out of memory that could have sorted and spilled.
    pub join_exceeds_memory: bool,
}

impl Error {
    /// An error of `kind` with nothing but a message.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), span: None, notes: Vec::new(), hint: None, join_exceeds_memory: false }
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
        self.hint = Some(hint.into());
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

    /// A panic beneath us: a bug, in fuse or in a library. What the statement wrote is not kept.
    pub fn from_panic(panic: &(dyn std::any::Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        Self::query(format!("a bug ended the statement: {text}")).hint("nothing of it was kept; the session goes on")
    }

    fn from_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Kind::Closed, "the reader of the output has gone"),
            io::ErrorKind::StorageFull => {
                Self::query("no space left on the device").hint("free some space; nothing of this statement was kept")
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

impl From<ParserError> for Error {
    fn from(error: ParserError) -> Self {
        from_parser(&error)
    }
}

impl From<ArrowError> for Error {
    fn from(error: ArrowError) -> Self {
        match error {
            ArrowError::IoError(_, io) => Self::from_io(&io),
            ArrowError::ExternalError(inner) => from_boxed(inner.as_ref()),
            ArrowError::ParquetError(message) => Self::query(message),
            ArrowError::CsvError(m) | ArrowError::JsonError(m) => Self::query(tidy(&m)),
            other => Self::query(tidy(&strip_prefixes(&other.to_string()))),
        }
    }
}

impl From<parquet::errors::ParquetError> for Error {
    fn from(error: parquet::errors::ParquetError) -> Self {
        from_parquet(&error)
    }
}

fn from_parquet(error: &parquet::errors::ParquetError) -> Error {
    match error {
        parquet::errors::ParquetError::External(inner) => from_boxed(inner.as_ref()),
        other => Error::query(tidy(&strip_prefixes(&other.to_string()))),
    }
}

impl From<object_store::Error> for Error {
    fn from(error: object_store::Error) -> Self {
        from_store(&error)
    }
}

fn from_store(error: &object_store::Error) -> Error {
    match error {
        object_store::Error::NotFound { path, .. } => Error::query(format!("no such file: /{path}")),
        object_store::Error::Generic { source, .. } => from_boxed(source.as_ref()),
        other => Error::query(other.to_string()),
    }
}

/// Takes out what we, or a library, had wrapped.
fn from_boxed(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Error {
    if let Some(own) = error.downcast_ref::<Error>() {
        return own.clone();
    }
    if let Some(io) = error.downcast_ref::<io::Error>() {
        return Error::from_io(io);
    }
    let mut inner = error.source();
    while let Some(cause) = inner {
        if let Some(own) = cause.downcast_ref::<Error>() {
            return own.clone();
        }
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            let mut this = Error::from_io(io);
            this.message = format!("{error}: {}", this.message);
            return this;
        }
        inner = cause.source();
    }
    Error::query(tidy(&strip_prefixes(&error.to_string())))
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        DataFusionError::External(Box::new(error))
    }
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        from_datafusion(&error)
    }
}

fn from_datafusion(error: &DataFusionError) -> Error {
    match error {
        DataFusionError::Context(_, inner) => from_datafusion(inner),
        DataFusionError::Shared(inner) => from_datafusion(inner),
        DataFusionError::Collection(errors) => match errors.first() {
            Some(first) => from_datafusion(first),
            None => Error::query("the statement failed"),
        },
        DataFusionError::Diagnostic(diagnostic, inner) => from_diagnostic(diagnostic, from_datafusion(inner)),
        DataFusionError::External(inner) => from_boxed(inner.as_ref()),
        DataFusionError::IoError(io) => Error::from_io(io),
        DataFusionError::ArrowError(arrow, _) => from_arrow_ref(arrow),
        DataFusionError::ParquetError(parquet) => from_parquet(parquet),
        DataFusionError::ObjectStore(store) => from_store(store),
        DataFusionError::SQL(parser, _) => from_parser(parser),
        DataFusionError::SchemaError(schema, _) => from_schema(schema),
        DataFusionError::ExecutionJoin(join) => Error::query(format!("a worker of this statement crashed: {join}"))
            .hint("this is a bug in fuse; the statement's output was not kept"),
        DataFusionError::ResourcesExhausted(message) => exhausted(message),
        DataFusionError::Plan(m) | DataFusionError::NotImplemented(m) | DataFusionError::Configuration(m) => {
            from_signatures(m).or_else(|| known_message(m)).unwrap_or_else(|| Error::sql(tidy(&strip_prefixes(m))))
        }
        DataFusionError::Execution(m) if m.starts_with("Table '") => Error::sql(tidy(m)),
        DataFusionError::Internal(m) => from_signatures(m).unwrap_or_else(|| Error::query(tidy(m))),
        other => {
            let text = other.strip_backtrace();
            known_message(&text).unwrap_or_else(|| Error::query(tidy(&strip_prefixes(&text))))
        }
    }
}

fn from_arrow_ref(error: &ArrowError) -> Error {
    if let Some(known) = known_message(&error.to_string()) {
        return known;
    }
    match error {
        ArrowError::IoError(_, io) => Error::from_io(io),
        ArrowError::ExternalError(inner) => from_boxed(inner.as_ref()),
        other => Error::query(tidy(&strip_prefixes(&other.to_string()))),
    }
}

fn from_diagnostic(diagnostic: &Diagnostic, inner: Error) -> Error {
    let mut error = inner;
    error.kind = Kind::Sql;
    if let Some(span) = diagnostic.span
        && span.start.line > 0
    {
        error.span = Some(span.into());
    }
    let first = diagnostic.message.as_str();
    // Here the error beneath says more.
    if first.starts_with("column '") && first.ends_with("not found") || first == "expressions have incompatible types" {
        return error;
    }
    error.message = tidy(first);
    error.notes.extend(diagnostic.notes.iter().map(|note| tidy(&note.message)));
    if let Some(help) = diagnostic.helps.first() {
        error.hint.get_or_insert(tidy(&help.message));
    }
    error
}

/// Messages of DataFusion's that speak of its insides, in a user's words.
fn known_message(message: &str) -> Option<Error> {
    let after = |start: &str| message.split_once(start).map(|(_, rest)| rest);
    if message.contains("does not support logical expression WindowFunction") {
        return Some(
            Error::sql("a window function, such as row_number() OVER (), cannot stand here")
                .hint("filter on it with QUALIFY, or in a query around this one"),
        );
    }
    if let Some(rest) = after("Unable to find factory for ").or_else(|| after("Unable to create table with format ")) {
        let name = rest.split(['!', '.']).next().unwrap_or(rest);
        return Some(unknown_format(name));
    }
    if let Some(rest) = after("Unsupported ast node in sqltorel: ").or_else(|| after("Unsupported ast node ")) {
        let name = rest.split([' ', '(', '{']).next().unwrap_or(rest);
        return Some(Error::sql(format!("{} is not supported", name.to_uppercase())));
    }
    if let Some(rest) = after("Regular expression did not compile: ") {
        let cause = rest.lines().rev().find_map(|line| line.trim().strip_prefix("error: "));
        return Some(Error::query(format!(
            "the regular expression cannot be read: {}",
            cause.unwrap_or("it is too large")
        )));
    }
    if let Some(sides) = after("Overflow happened on: ") {
        return Some(
            Error::query(format!("the result of {} is too large for its type", tidy(sides)))
                .hint("CAST an operand to a larger type first: BIGINT, DECIMAL(38, 0) or DOUBLE"),
        );
    }
    if message.contains("offset overflow") {
        return Some(
            Error::query("a column of text is larger than 2 GB in one batch of rows")
                .hint("SET datafusion.execution.batch_size = 256 makes smaller batches"),
        );
    }
    if message.contains("No space left on device") {
        return Some(
            Error::query("no space left on the device")
                .hint("what does not fit in memory goes to the folder of --temp-dir: free some space there"),
        );
    }
    None
}

/// A format that STORED AS does not know.
pub fn unknown_format(name: &str) -> Error {
    const FORMATS: [&str; 7] = ["PARQUET", "CSV", "TSV", "JSON", "NDJSON", "ARROW", "AVRO"];
    let error = Error::sql(format!("no format named {name}"));
    match near_name(name, FORMATS) {
        Some(near) => error.hint(format!("did you mean {near}?")),
        None => error.hint(format!("formats are {}", FORMATS.join(", "))),
    }
}

/// `Function 'sum' failed to match any signature, errors: …` with an error for each signature.
fn from_signatures(message: &str) -> Option<Error> {
    let rest = message.split_once("Function '")?.1;
    let (function, rest) = rest.split_once("' failed to match any signature, errors:")?;
    if let Some(count) = rest.split(" expects ").nth(1).and_then(|rest| rest.split(' ').next())
        && count.parse::<usize>().is_ok()
        && !rest.contains("' requires ")
    {
        return Some(Error::sql(format!("{function} takes {count} argument(s)")));
    }
    let mut wanted: Vec<&str> = Vec::new();
    for part in rest.split("' requires ").skip(1) {
        let name = part.split(", but received").next().unwrap_or(part);
        if !wanted.contains(&name) {
            wanted.push(name);
        }
    }
    let mut received = rest.split("but received ").skip(1);
    let given = received.find_map(|part| part.split_once(" (DataType").map(|(name, _)| name));
    let given = given.map_or_else(|| "these arguments".to_owned(), |given| format!("a {given}"));
    let error = Error::sql(format!("{function} does not take {given}"));
    Some(if wanted.is_empty() {
        error
    } else {
        error.hint(format!("it takes {}; CAST the argument, or use another function", wanted.join(", ")))
    })
}

fn from_schema(error: &SchemaError) -> Error {
    if let SchemaError::FieldNotFound { field, valid_fields } = error {
        let names: Vec<&str> = valid_fields.iter().map(|column| column.name()).collect();
        let mut this = Error::sql(format!("no column named {}", field.quoted_flat_name()));
        if let Some(span) = field.spans().first() {
            this.span = Some(span.into());
        }
        if let Some(near) = near_name(field.name(), names.iter().copied()) {
            this.hint = Some(format!("did you mean {}?", datafusion::common::utils::quote_identifier(near)));
        }
        if !names.is_empty() {
            let shown: Vec<&str> = names.iter().copied().take(20).collect();
            let more = if names.len() > shown.len() { ", …" } else { "" };
            this.notes.push(format!("the columns here are {}{more}", shown.join(", ")));
        }
        return this;
    }
    let mut this = Error::sql(tidy(&error.to_string()));
    if let SchemaError::AmbiguousReference { field } = error {
        this.span = field.spans().first().map(Span::from);
        this.hint = Some("name the table too, as in t.column".to_owned());
    }
    this
}

impl From<datafusion::common::Span> for Span {
    fn from(span: datafusion::common::Span) -> Self {
        Self {
            start: (span.start.line as usize, span.start.column as usize),
            end: (span.end.line as usize, span.end.column as usize),
        }
    }
}

/// A parser's message ends in ` at Line: 3, Column: 14`: that is our span.
fn from_parser(error: &ParserError) -> Error {
    let message = match error {
        ParserError::TokenizerError(m) | ParserError::ParserError(m) => m.as_str(),
        ParserError::RecursionLimitExceeded => {
            return Error::sql("the statement is nested too deeply")
                .hint("SET datafusion.sql_parser.recursion_limit raises the limit; a CTE or view flattens it");
        }
    };
    let Some((text, place)) = message.split_once(" at Line: ") else {
        return Error::sql(tidy(message));
    };
    let mut numbers = place.split(", Column: ").filter_map(|n| n.trim().parse::<usize>().ok());
    let error = Error::sql(tidy(text));
    match (numbers.next(), numbers.next()) {
        (Some(line), Some(column)) => error.at(Span::at(line, column)),
        _ => error,
    }
}

fn exhausted(message: &str) -> Error {
    let first = message.lines().next().unwrap_or(message);
    let error = Error::query(format!("not enough memory: {}", tidy(first)));
    if message.contains("HashJoinInput") {
        let error = error.hint("raise --memory-limit, or make the smaller side of the join smaller");
        return Error { join_exceeds_memory: true, ..error };
    }
    error.hint("raise --memory-limit, or lower --threads: each thread keeps buffers of its own")
}

/// Removes the words that libraries put before their messages.
fn strip_prefixes(message: &str) -> String {
    const PREFIXES: [&str; 16] = [
        "Generic file error: ",
        "IO error: ",
        "Parquet argument error: ",
        "Parquet error: EOF: ",
        "Error during planning: ",
        "External error: ",
        "Arrow error: ",
        "Parquet error: ",
        "Execution error: ",
        "Invalid argument error: ",
        "Schema error: ",
        "Parser error: ",
        "Cast error: ",
        "Compute error: ",
        "Object Store error: ",
        "This feature is not implemented: ",
    ];
    let mut rest = message;
    while let Some(shorter) = PREFIXES.iter().find_map(|prefix| rest.strip_prefix(prefix)) {
        rest = shorter;
    }
    rest.to_owned()
}

/// One paragraph, without a backtrace, a plea to report a bug elsewhere, or a final full stop.
fn tidy(message: &str) -> String {
    let end = message
        .find("\n\nbacktrace:")
        .or_else(|| message.find("\nThis issue was likely caused by a bug in DataFusion"))
        .or_else(|| message.find(". No function matches the given name"))
        .or_else(|| message.find(".. No function matches"))
        .unwrap_or(message.len());
    message[..end].trim().trim_end_matches('.').to_owned()
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

    #[test]
    fn a_parser_error_gives_its_place() {
        let error = from_parser(&ParserError::ParserError("Expected: x, found: y at Line: 3, Column: 14".into()));
        assert_eq!(error.span, Some(Span::at(3, 14)));
        assert_eq!(error.message, "Expected: x, found: y");
    }

    #[test]
    fn own_errors_survive_a_trip_through_datafusion() {
        let own = Error::sql("wrong").hint("right");
        let back = Error::from(DataFusionError::from(own).context("while doing"));
        assert_eq!((back.kind, back.message.as_str(), back.hint.as_deref()), (Kind::Sql, "wrong", Some("right")));
    }
}
