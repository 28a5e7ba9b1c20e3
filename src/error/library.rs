//! Errors of libraries → ours.
//!
//! Enters: what DataFusion, Arrow, Parquet and the object stores say. Leaves: an [`Error`] with its kind and place.
//! Always holds: an error of ours that travels through a library comes out as it went in.

use std::io;

use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, Diagnostic, SchemaError};
use datafusion::sql::sqlparser::parser::ParserError;

use super::{Error, Kind, Span, near_name, store, types, unknown_format, words};

impl From<ArrowError> for Error {
    fn from(error: ArrowError) -> Self {
        from_arrow(&error)
    }
}

fn from_arrow(error: &ArrowError) -> Error {
    match error {
        ArrowError::IoError(_, io) => Error::from_io(io),
        ArrowError::ExternalError(inner) => from_boxed(inner.as_ref()),
        ArrowError::CsvError(message) | ArrowError::JsonError(message) => Error::query(tidy(message)),
        other => {
            let text = other.to_string();
            known_message(&text).unwrap_or_else(|| words::in_words(Error::query(tidy(&strip_prefixes(&text)))))
        }
    }
}

impl From<ParserError> for Error {
    fn from(error: ParserError) -> Self {
        from_parser(&error)
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

fn from_store(store_error: &object_store::Error) -> Error {
    match store_error {
        object_store::Error::NotFound { path, .. } => Error::query(format!("no such file: /{path}")),
        object_store::Error::Generic { source, .. } => match from_boxed(source.as_ref()) {
            error if error.message.contains("Error performing") => store::in_words(store_error),
            error => error,
        },
        other => store::in_words(other),
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
    words::in_words(Error::query(tidy(&strip_prefixes(&error.to_string()))))
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
        DataFusionError::Diagnostic(diagnostic, inner) => {
            words::in_words(from_diagnostic(diagnostic, from_datafusion(inner)))
        }
        DataFusionError::External(inner) => from_boxed(inner.as_ref()),
        DataFusionError::IoError(io) => Error::from_io(io),
        DataFusionError::ArrowError(arrow, _) => from_arrow(arrow),
        DataFusionError::ParquetError(parquet) => from_parquet(parquet),
        DataFusionError::ObjectStore(store) => from_store(store),
        DataFusionError::SQL(parser, _) => from_parser(parser),
        DataFusionError::SchemaError(schema, _) => from_schema(schema),
        DataFusionError::ExecutionJoin(join) => Error::query(format!("a thread of this statement ended early: {join}"))
            .hint("the statement's output was not kept; please report the statement to fuse"),
        DataFusionError::ResourcesExhausted(message) => exhausted(message),
        DataFusionError::Plan(m) | DataFusionError::NotImplemented(m) | DataFusionError::Configuration(m) => {
            let known = from_signatures(m).or_else(|| known_message(m));
            known.unwrap_or_else(|| words::in_words(Error::sql(tidy(&strip_prefixes(m)))))
        }
        DataFusionError::Execution(m) if m.starts_with("Table '") || m.starts_with("View '") => {
            words::in_words(Error::sql(tidy(m)))
        }
        DataFusionError::Internal(m) => from_signatures(m).unwrap_or_else(|| words::in_words(Error::query(tidy(m)))),
        other => {
            let text = other.strip_backtrace();
            known_message(&text).unwrap_or_else(|| words::in_words(Error::query(tidy(&strip_prefixes(&text)))))
        }
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
        error.hint.get_or_insert(tidy(&help.message).into());
    }
    error
}

/// Messages of DataFusion's that speak of its insides, in a user's words.
fn known_message(message: &str) -> Option<Error> {
    let after = |start: &str| message.split_once(start).map(|(_, rest)| rest);
    if message.contains("does not support logical expression WindowFunction") {
        return Some(
            Error::sql("a window function, such as row_number() OVER (), cannot stand here")
                .hint("filter on it with QUALIFY, or in a query around this one")
                .mark("OVER"),
        );
    }
    if let Some(rest) = after("Unable to find factory for ").or_else(|| after("Unable to create table with format ")) {
        let name = rest.split(['!', '.']).next().unwrap_or(rest);
        return Some(unknown_format(name));
    }
    if let Some(rest) = after("Unsupported ast node in sqltorel: ").or_else(|| after("Unsupported ast node ")) {
        let name = rest.split([' ', '(', '{']).next().unwrap_or(rest);
        let name = if name == "Value" { "a value here".to_owned() } else { name.to_uppercase() };
        return Some(Error::sql(format!("{name} is not supported")).mark(name));
    }
    if let Some(rest) = after("Regular expression did not compile: ") {
        let cause = rest.lines().rev().find_map(|line| line.trim().strip_prefix("error: "));
        let error =
            Error::query(format!("the regular expression cannot be read: {}", cause.unwrap_or("it is too large")));
        let pattern = rest.lines().skip_while(|line| !line.ends_with("regex parse error:")).nth(1);
        let pattern = pattern.map_or("", str::trim);
        return Some(error.mark(format!("'{pattern}'")));
    }
    if let Some(sides) = after("Overflow happened on: ") {
        let error = Error::query(format!("the result of {} is too large for its type", tidy(sides)))
            .hint("CAST an operand to a larger type first: BIGINT, DECIMAL(38, 0) or DOUBLE");
        return Some(error.mark(sides.split(' ').nth(1).unwrap_or_default()));
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

/// `Function 'sum' failed to match any signature, errors: …` with an error for each signature.
fn from_signatures(message: &str) -> Option<Error> {
    let rest = message.split_once("Function '")?.1;
    let (function, rest) = rest.split_once("' failed to match any signature, errors:")?;
    if let Some(count) = rest.split(" expects ").nth(1).and_then(|rest| rest.split(' ').next())
        && count.parse::<usize>().is_ok()
        && !rest.contains("' requires ")
    {
        let error = Error::sql(format!("{function} takes {count} argument(s)"));
        return Some(error.mark(function));
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
    let given = given.map_or_else(|| "these arguments".to_owned(), native_type);
    let error = Error::sql(format!("{function} does not take {given}"));
    let error = error.mark(function);
    Some(if wanted.is_empty() {
        error
    } else {
        let mut wanted: Vec<String> = wanted.into_iter().map(native_type).collect();
        wanted.dedup();
        error.hint(format!("it takes {}; CAST the argument, or use another function", wanted.join(", ")))
    })
}

/// DataFusion's name of a kind of types, in SQL.
fn native_type(name: &str) -> String {
    match name {
        "String" => "VARCHAR".to_owned(),
        "Decimal" | "Duration" | "Interval" => name.to_uppercase(),
        name => types::sql_name(name).unwrap_or_else(|| name.to_owned()),
    }
}

fn from_schema(error: &SchemaError) -> Error {
    if let SchemaError::FieldNotFound { field, valid_fields } = error {
        let names: Vec<&str> = valid_fields.iter().map(|column| column.name()).collect();
        let mut this = Error::sql(format!("no column named {}", field.quoted_flat_name()));
        if let Some(span) = field.spans().first() {
            this.span = Some(span.into());
        }
        if let Some(near) = near_name(field.name(), names.iter().copied()) {
            let near = datafusion::common::utils::quote_identifier(near);
            this.hint = Some(format!("did you mean {near}?").into());
        }
        let mut seen = std::collections::HashSet::new();
        let names: Vec<&str> = names.into_iter().filter(|name| seen.insert(*name)).collect();
        if !names.is_empty() {
            let shown: Vec<&str> = names.iter().copied().take(20).collect();
            let more = if names.len() > shown.len() { ", …" } else { "" };
            this.notes.push(format!("the columns here are {}{more}", shown.join(", ")));
        }
        return this.mark(field.name());
    }
    let mut this = words::in_words(Error::sql(tidy(&strip_prefixes(&error.to_string()))));
    if let SchemaError::AmbiguousReference { field } = error {
        this.span = field.spans().first().map(Span::from);
        this.hint = Some("name the table too, as in t.column".into());
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

/// Words that statements begin with.
const STATEMENTS: &[&str] = &[
    "SELECT",
    "FROM",
    "WITH",
    "VALUES",
    "CREATE",
    "DROP",
    "INSERT",
    "UPDATE",
    "DELETE",
    "COPY",
    "EXPLAIN",
    "DESCRIBE",
    "SUMMARIZE",
    "PIVOT",
    "UNPIVOT",
    "SHOW",
    "SET",
    "RESET",
    "PREPARE",
    "EXECUTE",
    "DEALLOCATE",
];

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
    // The message may have come through a parser twice.
    let place = place.rsplit(" at Line: ").next().unwrap_or(place);
    let mut numbers = place.split(", Column: ").filter_map(|n| n.trim().parse::<usize>().ok());
    let mut error = Error::sql(tidy(text));
    if let Some(word) = text.strip_prefix("Expected: an SQL statement, found: ") {
        error.message = format!("no statement begins with {word}");
        error.hint = near_name(word, STATEMENTS.iter().copied()).map(|near| format!("did you mean {near}?").into());
    }
    match (numbers.next(), numbers.next()) {
        (Some(line), Some(column)) => error.at(Span::at(line, column)),
        _ => error,
    }
}

fn exhausted(message: &str) -> Error {
    let first = message.lines().next().unwrap_or(message);
    // `Additional allocation failed for GroupedHashAggregateStream[0] (…) with top memory consumers (…) as:`
    let who = first.split_once(" failed for ").map_or("", |(_, rest)| rest);
    let who = who.split(['[', ' ', '(']).next().unwrap_or("");
    let what = match who {
        name if name.contains("Sort") => "a sort",
        name if name.contains("Aggregate") => "an aggregation",
        name if name.contains("Join") => "a join",
        name if name.contains("Window") => "a window function",
        _ => "the statement",
    };
    let error = Error::query(format!("not enough memory: {what} needs more than the limit allows"));
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
    let message = &message[..end];
    // A place that a parser puts into its words.
    let end = message.find(" at Line: ").filter(|at| message[*at..].contains(", Column: ")).unwrap_or(message.len());
    message[..end].trim().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

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
