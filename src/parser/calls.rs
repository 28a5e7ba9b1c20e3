//! `FROM read_csv('x.txt', delim => ';')` and `FROM t VERSION AS OF 3`.
//!
//! Enters: a call or a version in FROM. Leaves: a table whose name is the text of that. Always holds: the name says all
//! that was said, so whoever resolves it needs nothing else.

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, ObjectName, TableAlias, TableFactor, TableVersion, Value, ValueWithSpan,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use crate::error::{Error, Result};

/// Functions that read files.
pub const FILE_FUNCTIONS: [&str; 9] = [
    "read_csv",
    "read_csv_auto",
    "read_parquet",
    "parquet_scan",
    "read_json",
    "read_json_auto",
    "read_ndjson",
    "read_ndjson_auto",
    "sniff_csv",
];

/// Makes the name of the table out of a call of one of [`FILE_FUNCTIONS`].
pub(super) fn name_call(factor: &mut TableFactor) {
    let TableFactor::Table { name, args, .. } = factor else { return };
    let function = name.to_string().to_ascii_lowercase();
    if !FILE_FUNCTIONS.contains(&function.as_str()) {
        return;
    }
    let Some(list) = args.take() else { return };
    let list = list.args.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let span = name.0.first().and_then(|part| part.as_ident()).map(|name| name.span);
    let mut call = Ident::with_quote('"', format!("{function}({list})"));
    call.span = span.unwrap_or(call.span);
    *name = ObjectName::from(vec![call]);
}

/// What stands between the name of a table and the number or time of its version.
pub const VERSIONS: [&str; 2] = [" VERSION AS OF ", " TIMESTAMP AS OF "];

/// True if a statement reads a table `VERSION AS OF` or `TIMESTAMP AS OF`.
pub(super) fn names_versions(tokens: &[TokenWithSpan]) -> bool {
    let words: Vec<&Token> =
        tokens.iter().map(|token| &token.token).filter(|token| !matches!(token, Token::Whitespace(_))).collect();
    let is =
        |token: &Token, keywords: &[Keyword]| matches!(token, Token::Word(word) if keywords.contains(&word.keyword));
    words.windows(3).any(|run| {
        is(run[0], &[Keyword::VERSION, Keyword::TIMESTAMP]) && is(run[1], &[Keyword::AS]) && is(run[2], &[Keyword::OF])
    })
}

/// Makes the name of the table out of its name and version.
///
/// # Errors
/// A version that is no literal.
pub(super) fn name_version(factor: &mut TableFactor) -> Result<()> {
    let TableFactor::Table { name, alias, version, .. } = factor else { return Ok(()) };
    let (what, value) = match version {
        Some(TableVersion::VersionAsOf(value)) => (VERSIONS[0], value),
        Some(TableVersion::TimestampAsOf(value)) => (VERSIONS[1], value),
        _ => return Ok(()),
    };
    let value = match value {
        Expr::Value(ValueWithSpan { value: Value::SingleQuotedString(text) | Value::Number(text, _), .. }) => text,
        Expr::TypedString(typed) => match &typed.value.value {
            Value::SingleQuotedString(text) => text,
            _ => return Err(Error::sql(format!("{}wants a literal", what.trim_start()))),
        },
        _ => {
            return Err(Error::sql(format!("{}wants a literal", what.trim_start()))
                .hint("FROM t VERSION AS OF 3, FROM t TIMESTAMP AS OF '2026-01-31 12:00:00'"));
        }
    };
    let only = match name.0.as_slice() {
        [part] => part.as_ident(),
        _ => None,
    };
    let text = only.map_or_else(|| name.to_string(), |only| only.value.clone());
    let mut named = Ident::with_quote('"', format!("{text}{what}{value}"));
    named.span = only.map_or(named.span, |only| only.span);
    let called = alias.is_none().then(|| name.0.last().and_then(|part| part.as_ident()).cloned()).flatten();
    if let Some(called) = called {
        *alias = Some(TableAlias { explicit: true, name: called, columns: Vec::new(), at: None });
    }
    (*name, *version) = (ObjectName::from(vec![named]), None);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Reading, Script, parse};

    #[test]
    fn a_call_becomes_a_name() {
        let text = "from READ_CSV('a.csv', delim => ';', header := true, types = {'a': 'INT'}) t";
        let script = Script { name: "test".into(), text: text.into() };
        let body = parse(&script, &Reading::default()).expect("parses")[0].body.to_string();
        let name = "\"read_csv('a.csv', delim => ';', header := true, types = {'a': 'INT'})\"";
        assert_eq!(body, format!("SELECT * FROM {name} t"));
    }
}
