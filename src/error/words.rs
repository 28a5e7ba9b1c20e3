//! Messages of libraries in a user's words.
//!
//! Enters: an error whose message a library wrote. Leaves: the same in the words of SQL, with what to do, and the
//! word of the statement that it is about. Always holds: types are named as in CAST; a message that no rule knows
//! keeps its words.

use std::sync::OnceLock;

use regex::{Captures, Regex};

use super::rules::{RULES, Rule};
use super::types::sql_name;
use super::{Error, Kind};

fn rules() -> &'static [(Regex, &'static Rule)] {
    static COMPILED: OnceLock<Vec<(Regex, &'static Rule)>> = OnceLock::new();
    COMPILED.get_or_init(|| RULES.iter().filter_map(|rule| Some((Regex::new(rule.pattern).ok()?, rule))).collect())
}

/// The error in a user's words.
pub(super) fn in_words(mut error: Error) -> Error {
    error.message = in_sql(&error.message);
    error.notes = error.notes.iter().map(|note| in_sql(note)).collect();
    error.hint = error.hint.as_deref().map(|hint| in_sql(hint).into());
    for (pattern, rule) in rules() {
        let Some(found) = pattern.captures(&error.message) else { continue };
        let fill = |template: &str| {
            let mut text = String::new();
            found.expand(template, &mut text);
            text
        };
        let (says, hint, mark) = (fill(rule.says), fill(rule.hint), fill(rule.mark));
        error.message = if rule.says.contains("takes") {
            says.replace("Numeric", "a number").replace("String", "VARCHAR")
        } else {
            says
        };
        if !hint.is_empty() {
            error.hint = Some(hint.into());
        }
        if !mark.is_empty() {
            error = error.mark(mark);
        }
        break;
    }
    if error.message.starts_with("Internal error") {
        error.message = error.message.trim_start_matches("Internal error: ").to_owned();
        error.kind = Kind::Query;
    }
    error
}

/// Types and literals as SQL writes them, and columns without the name of their file.
fn in_sql(message: &str) -> String {
    static FILES: OnceLock<Option<Regex>> = OnceLock::new();
    // `g.csv.a`: a column behind the name of a file.
    let files = FILES
        .get_or_init(|| Regex::new(r"[\w/.-]+\.(?:csv|tsv|parquet|json|ndjson|jsonl|arrow|avro)\.(\w+)").ok())
        .as_ref();
    let text = as_sql(message);
    files.map_or_else(|| text.clone(), |files| files.replace_all(&text, "$1").into_owned())
}

/// A text in which types and literals are spelled as SQL writes them.
pub fn as_sql(message: &str) -> String {
    static PARTS: OnceLock<Option<[Regex; 3]>> = OnceLock::new();
    let parts = PARTS.get_or_init(|| {
        Some([
            Regex::new(r#"\b(?:Int8|Int16|Int32|Int64|UInt8|UInt16|UInt32|UInt64|Float16|Float32|Float64|Boolean)\(([^()"]*)\)"#).ok()?,
            Regex::new(r#"\b(?:Utf8|LargeUtf8|Utf8View)\("([^"]*)"\)"#).ok()?,
            Regex::new(concat!(
                r#"\b(?:Timestamp\([^()]*(?:\("[^"]*"\))?\)|Decimal(?:32|64|128|256)\(\d+, ?-?\d+\)|Interval\(\w+\)|Duration\(\w+\)|"#,
                r"Time(?:32|64)\(\w+\)|Int8|Int16|Int32|Int64|UInt8|UInt16|UInt32|UInt64|Float16|Float32|Float64|",
                r"Utf8View|LargeUtf8|Utf8|Boolean|BinaryView|LargeBinary|Date32|Date64)(?:\b|$)?"
            ))
            .ok()?,
        ])
    });
    let Some([numbers, texts, types]) = parts else { return message.to_owned() };
    let text = numbers.replace_all(message, "$1");
    let text = texts.replace_all(&text, "'$1'");
    let text =
        types.replace_all(&text, |found: &Captures<'_>| sql_name(&found[0]).unwrap_or_else(|| found[0].to_owned()));
    nested_types(&text)
}

/// `List(BIGINT)` as `BIGINT[]`, and `Struct("a": INT)` as `STRUCT(a INT)`.
fn nested_types(text: &str) -> String {
    static PARTS: OnceLock<Option<[Regex; 4]>> = OnceLock::new();
    let parts = PARTS.get_or_init(|| {
        Some([
            Regex::new(r"\b(?:Large)?List(?:View)?\((?:nullable )?([^()]*(?:\([^()]*\))?)\)").ok()?,
            Regex::new(r#"\bStruct\(("[^()]*(?:\([^()]*\)[^()]*)*)\)"#).ok()?,
            Regex::new(r#""(\w+)": (?:nullable |non-null )?"#).ok()?,
            Regex::new(r"\bDictionary\(\w+(?: \w+)*, (\w+)\)").ok()?,
        ])
    });
    let Some([lists, structs, members, dictionaries]) = parts else { return text.to_owned() };
    let mut text = text.to_owned();
    loop {
        let changed = lists.replace_all(&text, "$1[]").into_owned();
        if changed == text {
            break;
        }
        text = changed;
    }
    let text = dictionaries.replace_all(&text, "$1");
    let of = |found: &Captures<'_>| format!("STRUCT({})", members.replace_all(&found[1], "$1 "));
    structs.replace_all(&text, of).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_can_be_read() {
        assert_eq!(rules().len(), RULES.len());
    }

    #[test]
    fn types_and_literals_are_those_of_sql() {
        for (library, ours) in [
            ("Int64 and Utf8View", "BIGINT and VARCHAR"),
            ("length(repeat(Utf8(\"x\"), Int64(20)))", "length(repeat('x', 20))"),
            ("Timestamp(ns) or Decimal128(10, 2)", "TIMESTAMP or DECIMAL(10, 2)"),
            ("data/g.csv.a is Date32", "a is DATE"),
        ] {
            assert_eq!(in_sql(library), ours);
        }
        let error = in_words(Error::sql("Cannot coerce arithmetic expression Int64 + Boolean to valid types"));
        assert_eq!(
            (error.message.as_str(), error.mark.as_ref().map(|mark| mark.0.as_str())),
            ("no operator + for BIGINT and BOOLEAN", Some("+"))
        );
    }
}
