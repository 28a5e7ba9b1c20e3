//! Messages of libraries in a user's words.
//!
//! Enters: an error whose message a library wrote. Leaves: the same in the words of SQL, with what to do, and the
//! word of the statement that it is about. Always holds: types are named as in CAST; a message that no rule knows
//! keeps its words.

use std::sync::OnceLock;

use regex::{Captures, Regex};

use super::types::sql_name;
use super::{Error, Kind};

/// What a message says, how a user says it, what to do, and the word that it is about.
struct Rule {
    pattern: &'static str,
    says: &'static str,
    hint: &'static str,
    mark: &'static str,
}

const fn rule(pattern: &'static str, says: &'static str, hint: &'static str, mark: &'static str) -> Rule {
    Rule { pattern, says, hint, mark }
}

/// `$1`, `$2` stand for what the pattern has in parentheses; types in it have become those of SQL.
const RULES: [Rule; 31] = [
    rule(
        r"^Cannot coerce arithmetic expression (.+) (\S+) (.+) to valid types",
        "no operator $2 for $1 and $3",
        "CAST one side to the type of the other",
        "$2",
    ),
    rule(
        r"^Cannot infer common argument type for comparison operation (.+) (=|!=|<>|<|>|<=|>=|IS DISTINCT FROM|IS NOT DISTINCT FROM) (.+)$",
        "$1 and $3 cannot be compared",
        "CAST one side to the type of the other",
        "$2",
    ),
    rule(
        r"^There isn't a common type to coerce (.+) and (.+) in I?LIKE expression",
        "LIKE compares texts, not $1 with $2",
        "CAST both sides to VARCHAR",
        "LIKE",
    ),
    rule(
        r"(?i)^cannot cast string '(?s)(.*)' to value of (.+) type",
        "'$1' is not of type $2",
        "TRY_CAST gives NULL instead",
        "'$1'|CAST|::",
    ),
    rule(r"^Can't cast value (\S+) to type (.+)$", "$1 does not fit into $2", "TRY_CAST gives NULL instead", "$1"),
    rule(r"(?i)^divide by zero", "division by zero", "nullif(x, 0) makes the divisor NULL, and the result too", "/|%"),
    rule(
        r"^Aggregate function calls cannot be nested",
        "an aggregate function within another",
        "compute the inner one in a subquery, and aggregate its result",
        "",
    ),
    rule(
        r"^Aggregate functions are not allowed in the WHERE clause",
        "an aggregate function cannot stand in WHERE: rows are filtered before they are grouped",
        "HAVING filters groups",
        "WHERE",
    ),
    rule(
        r"^Unsupported SQL type (.+)$",
        "no type named $1",
        "types are BOOLEAN, INT, BIGINT, DOUBLE, DECIMAL(p, s), VARCHAR, DATE, TIME, TIMESTAMP, INTERVAL, …",
        "$1",
    ),
    rule(
        r"^Inconsistent data length across values list: got (\d+) values in row (\d+) but expected (\d+)",
        "a row of VALUES has $1 values, where $3 are needed",
        "name the columns that you give: INSERT INTO t (a, b) VALUES (…)",
        "VALUES",
    ),
    rule(
        r"^(?:UNION|Union) queries have different number of columns",
        "both sides of UNION need the same number of columns",
        "UNION ALL BY NAME fills missing columns with NULL",
        "UNION",
    ),
    rule(
        r"(?i)scalar subquery (?:returned|can only return|should only return).*(?:more than one row|one row)",
        "a subquery in place of a value returned more than one row",
        "LIMIT 1, an aggregate, or IN (…) makes it one",
        "",
    ),
    rule(
        r"^Scalar subquery should only return one column(?:, but found (\d+).*)?",
        "a subquery in place of a value has more than one column",
        "select the one that is meant",
        "",
    ),
    rule(
        r"^Function '(\w+)' user-defined coercion failed with.*(?:without any arguments|at least one argument)",
        "$1 needs an argument",
        "",
        "$1",
    ),
    rule(
        r"^Function '(\w+)' user-defined coercion failed with: (?:Error during planning: |Execution error: |Internal error: )?(.+)$",
        "$1 cannot take these arguments: $2",
        "",
        "$1",
    ),
    rule(r"^Function '(\w+)' expects (\d+) arguments? but received (\d+)", "$1 takes $2 argument(s), not $3", "", "$1"),
    rule(r"^Function '(\w+)' expects (.+) but received (.+)$", "$1 takes $2, not $3", "CAST the argument", "$1"),
    rule(r"^Function '(\w+)' requires at least one argument", "$1 needs an argument", "", "$1"),
    rule(r"^Expected LIMIT to be an integer or null, but got (.+)$", "LIMIT takes a whole number, not $1", "", "LIMIT"),
    rule(
        r"^Expected OFFSET to be an integer or null, but got (.+)$",
        "OFFSET takes a whole number, not $1",
        "",
        "OFFSET",
    ),
    rule(
        r"^Order by column out of bounds, specified: (\d+), max: (\d+)",
        "ORDER BY $1 is out of range: the number of columns is $2",
        "",
        "ORDER BY",
    ),
    rule(
        r"^Cannot find column with position (\d+) in SELECT clause. Valid columns: 1 to (\d+)",
        "GROUP BY $1 is out of range: the number of columns is $2",
        "",
        "GROUP BY",
    ),
    rule(
        r"^Cannot create filter with non-boolean predicate '(.+)' returning (.+)$",
        "a condition is true or false, but $1 is $2",
        "compare it with a value",
        "WHERE",
    ),
    rule(
        r"^HAVING clause references: (.+) must appear in the GROUP BY clause or be used in an aggregate function",
        "HAVING uses a column that is neither grouped nor aggregated: $1",
        "add it to GROUP BY, or use WHERE",
        "HAVING",
    ),
    rule(
        r"^Substring without for/from is not valid",
        "substr needs a text and a position",
        "substr(text, start, length)",
        "substr",
    ),
    rule(
        r"^Unable to cast to DATE for converting from i64 to i32 failed",
        "a text cannot be read as a date",
        "dates are written 2024-12-31; to_date(text, '%d/%m/%Y') reads other forms",
        "to_date",
    ),
    rule(
        r#"^Invalid input syntax for type interval: "(.*)""#,
        "'$1' is not an interval",
        "intervals are written '2 days' or '1 month 3 hours'",
        "'$1'",
    ),
    rule(r"^Invalid window frame: (.+)$", "the window frame is empty: $1", "", "ROWS|RANGE|GROUPS"),
    rule(
        r"^'(.+)' must appear in GROUP BY clause because it's not an aggregate expression",
        "$1 is neither in GROUP BY nor aggregated",
        "add it to GROUP BY, GROUP BY ALL, or take one: any_value($1)",
        "$1",
    ),
    rule(
        r"^Column in SELECT must be in GROUP BY or an aggregate function: .*column '?(\S+?)'? must appear",
        "$1 is neither in GROUP BY nor aggregated",
        "add it to GROUP BY, GROUP BY ALL, or take one: any_value($1)",
        "$1",
    ),
    rule(r"^Unterminated string literal", "a quote is not closed", "", ""),
];

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
        error.message = format!("a bug in the engine: {}", error.message.trim_start_matches("Internal error: "));
        error.kind = Kind::Query;
    }
    error
}

/// Types and literals as SQL writes them, and columns without the name of their file.
fn in_sql(message: &str) -> String {
    static PARTS: OnceLock<Option<[Regex; 4]>> = OnceLock::new();
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
            // `g.csv.a`: a column behind the name of a file.
            Regex::new(r"[\w/.-]+\.(?:csv|tsv|parquet|json|ndjson|jsonl|arrow|avro)\.(\w+)").ok()?,
        ])
    });
    let Some([numbers, texts, types, files]) = parts else { return message.to_owned() };
    let text = numbers.replace_all(message, "$1");
    let text = texts.replace_all(&text, "'$1'");
    let text =
        types.replace_all(&text, |found: &Captures<'_>| sql_name(&found[0]).unwrap_or_else(|| found[0].to_owned()));
    files.replace_all(&text, "$1").into_owned()
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
