//! Text → [`Statement`]s. Data only: nothing is looked up or run here.
//!
//! Enters: a [`Script`], the text of one file, of `-c`, or of standard input, and the values of `-D`.
//! Leaves: its statements, each with its place in the text.
//! Always holds: there is one tokenizer for all, so a `;` in a literal or a comment ends nothing;
//! lines and columns of every error count from the start of the script.

mod arrows;
mod calls;
mod chain;
mod dialect;
mod friendly;
mod inline;
mod lex;
mod locate;
pub mod mark;
mod names;
mod refuse;
mod respell;
mod stream;
mod time_windows;

use std::collections::HashMap;

use datafusion::sql::parser::{DFParserBuilder, ResetStatement, Statement as Body};
use datafusion::sql::sqlparser::ast::{Expr, Query, Set, Statement as Sql};
use datafusion::sql::sqlparser::dialect::{Dialect, dialect_from_str};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer};

pub use calls::{FILE_FUNCTIONS, VERSIONS};
pub use dialect::{FuseDialect, call};
pub use lex::{Lexeme, LexemeKind, is_complete, lex};
pub use locate::locate;
pub use mark::is_mark;
pub use time_windows::TIME_WINDOWS;

use crate::config::NESTING_LIMIT;
use crate::error::{Error, Result, Span};

/// A text of SQL and the name that errors call it by.
#[derive(Debug, Clone)]
pub struct Script {
    /// A file's path, `<stdin>`, or `-c`.
    pub name: String,
    /// The SQL.
    pub text: String,
}

/// One statement of a script.
#[derive(Debug, Clone)]
pub struct Statement {
    /// What was parsed.
    pub body: Body,
    /// From its first to behind its last token.
    pub span: Span,
    /// EXPLAIN INCREMENTAL stood before it.
    pub incremental: bool,
    /// EMIT FINAL stood behind it.
    pub emits_final: bool,
}

impl Statement {
    /// True for EXPLAIN: its rows are the text of a plan.
    pub fn is_explain(&self) -> bool {
        matches!(self.body, Body::Explain(_))
    }
}

/// Values for `$name`, from `-D name=value` and `SET fuse.define.name = value`.
pub type Defines = HashMap<String, String>;

/// What the reading of a script starts with. `SET` within the script changes it for what follows.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// Values for `$name`.
    pub defines: Defines,
    /// `datafusion.sql_parser.dialect`; nothing or `generic`: the dialect of fuse.
    pub dialect: Option<String>,
}

impl Reading {
    /// Takes over what a statement that ran says about the reading of later ones.
    pub fn note(&mut self, statement: &Statement) {
        note_setting(&statement.body, self);
    }
}

/// Parses the whole script, so that a mistake in its last statement shows before the first one runs.
pub fn parse(script: &Script, reading: &Reading) -> Result<Vec<Statement>> {
    let mut reading = reading.clone();
    let mut text = script.text.clone();
    let mut statements = Vec::new();
    while let Some(behind) = parse_until_dialect_changes(&text, &mut reading, &mut statements)? {
        text = blank(&text, behind);
    }
    Ok(statements)
}

/// Parses statements up to the first that changes the dialect; gives the place behind that one.
fn parse_until_dialect_changes(
    text: &str,
    reading: &mut Reading,
    statements: &mut Vec<Statement>,
) -> Result<Option<(usize, usize)>> {
    let chosen = chosen_dialect(reading)?;
    let dialect = chosen.as_deref().unwrap_or(&FuseDialect::PLAIN);
    let mut tokens = Vec::new();
    let read = Tokenizer::new(dialect, text).tokenize_with_location_into_buf(&mut tokens);
    let mut pieces: Vec<&[TokenWithSpan]> = tokens.split(|token| token.token == Token::SemiColon).collect();
    if read.is_err() {
        // The statements before may change the dialect to one that can read this.
        pieces.pop();
    }
    for tokens in pieces {
        let Some(statement) = parse_one(tokens, chosen.as_deref(), reading)? else { continue };
        let before = reading.dialect.clone();
        note_setting(&statement.body, reading);
        let behind = statement.span.end;
        statements.push(statement);
        if reading.dialect != before {
            return Ok(Some(behind));
        }
    }
    // What is not closed begins behind the last token that was read.
    let start = tokens.last().map_or(Location { line: 1, column: 1 }, |last| last.span.end);
    read.map_err(|e| match e.message.as_str() {
        "Unexpected EOF while in a multi-line comment" => Error::sql("a comment is not closed").at(place(start)),
        message if message.starts_with("Unterminated string literal") => {
            Error::sql("a quote is not closed").at(place(e.location))
        }
        _ => Error::sql(e.message).at(place(e.location)),
    })?;
    Ok(None)
}

/// The dialect that was set; nothing: ours.
fn chosen_dialect(reading: &Reading) -> Result<Option<Box<dyn Dialect>>> {
    let name = reading.dialect.as_deref().filter(|name| !name.eq_ignore_ascii_case("generic"));
    let unknown = |name| Error::sql(format!("no SQL dialect named {name}"));
    name.map(|name| dialect_from_str(name).ok_or_else(|| unknown(name))).transpose()
}

/// The text with all before `place` turned to spaces, so that lines and columns stay what they were.
fn blank(text: &str, place: (usize, usize)) -> String {
    let (mut line, mut column) = (1, 1);
    let blanked = text.chars().map(|c| {
        let before = (line, column) < place;
        (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
        if before && c != '\n' { ' ' } else { c }
    });
    blanked.collect()
}

/// One statement from its tokens, or nothing if they are all white space and comments.
fn parse_one(tokens: &[TokenWithSpan], chosen: Option<&dyn Dialect>, reading: &Reading) -> Result<Option<Statement>> {
    let mut words = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF));
    let Some(first) = words.next() else { return Ok(None) };
    let last = words.next_back().unwrap_or(first);
    let span = Span { start: Span::from(first.span).start, end: Span::from(last.span).end };

    let mut tokens: Vec<TokenWithSpan> =
        tokens.iter().cloned().map(|token| substitute(token, &reading.defines)).collect();
    let incremental = stream::take_explain_incremental(&mut tokens);
    stream::complete_create(&mut tokens)?;
    let emits_final = stream::take_emit(&mut tokens)?;
    friendly::drop_trailing_commas(&mut tokens);
    if chosen.is_none() {
        respell::respell(&mut tokens)?;
    }
    friendly::complete_from_first(&mut tokens);
    let opener = unclosed(&tokens);
    let ours = FuseDialect::of(friendly::has_struct_type(&tokens), calls::names_versions(&tokens));
    let dialect = chosen.unwrap_or(&ours);
    let mut parser = DFParserBuilder::new(tokens).with_dialect(dialect).with_recursion_limit(NESTING_LIMIT).build()?;
    // Where the parser found the end of the text, the place is behind the last token.
    let at_end = |error: Error| match opener {
        Some(opener) if error.message.contains("found: EOF") => Error::sql("a parenthesis is not closed").at(opener),
        _ => error.at(Span::at(span.end.0, span.end.1)),
    };
    let mut body = parser.parse_statement().map_err(|e| at_end(Error::from(e)))?;
    let next = parser.parser.peek_token();
    if next.token != Token::EOF {
        return Err(Error::sql(format!("expected the end of the statement, found {}", next.token)).at(next.span));
    }
    refuse::check(&mut body).map_err(|error| error.at(span))?;
    names::name_items(&mut body);
    Ok(Some(Statement { body, span, incremental, emits_final }))
}

/// The last parenthesis or bracket that is opened and not closed.
fn unclosed(tokens: &[TokenWithSpan]) -> Option<Span> {
    let mut open = Vec::new();
    for token in tokens {
        match token.token {
            Token::LParen | Token::LBracket | Token::LBrace => open.push(token.span),
            Token::RParen | Token::RBracket | Token::RBrace => {
                open.pop();
            }
            _ => {}
        }
    }
    open.pop().map(Span::from)
}

/// Puts the value of `$name` in place of it, and takes the `_` out of `1_000`.
fn substitute(mut token: TokenWithSpan, defines: &Defines) -> TokenWithSpan {
    if let Token::Placeholder(name) = &token.token
        && let Some(value) = name.strip_prefix('$').and_then(|name| defines.get(name))
    {
        token.token = if is_number(value) {
            Token::Number(value.clone(), false)
        } else {
            Token::SingleQuotedString(value.clone())
        };
    }
    if let Token::Number(digits, _) = &mut token.token {
        digits.retain(|c| c != '_');
    }
    token
}

/// A number as SQL writes it; `007` is not one, so that codes and phone numbers stay text.
fn is_number(value: &str) -> bool {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let plain = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') && digits.bytes().any(|b| b.is_ascii_digit());
    plain && digits.parse::<f64>().is_ok() && (digits == "0" || !digits.starts_with('0') || digits.starts_with("0."))
}

/// Takes over what `SET fuse.define.name = 'value'` and `SET datafusion.sql_parser.dialect = …` say.
fn note_setting(body: &Body, reading: &mut Reading) {
    const DIALECT: &str = "datafusion.sql_parser.dialect";
    match body {
        Body::Reset(ResetStatement::Variable(name)) if name.to_string().eq_ignore_ascii_case(DIALECT) => {
            reading.dialect = None;
        }
        Body::Statement(sql) => {
            let Sql::Set(Set::SingleAssignment { variable, values, .. }) = sql.as_ref() else { return };
            let variable = variable.to_string();
            let Some(value) = values.first().map(setting_value) else { return };
            if let Some(name) = variable.strip_prefix("fuse.define.") {
                reading.defines.insert(name.to_owned(), value);
            } else if variable.eq_ignore_ascii_case(DIALECT) {
                reading.dialect = Some(value);
            }
        }
        _ => {}
    }
}

fn setting_value(value: &Expr) -> String {
    match value {
        Expr::Value(value) => value.value.clone().into_string().unwrap_or_else(|| value.value.to_string()),
        other => other.to_string(),
    }
}

/// ORDER BY ALL as positions, where each column is named.
pub fn order_by_all(query: &mut Query) {
    refuse::order_by_all(query);
}

/// An expression of SQL, in our dialect.
pub fn parse_expression(text: &str) -> Result<Expr> {
    Ok(Parser::new(&FuseDialect::PLAIN).try_with_sql(text)?.parse_expr()?)
}

fn place(location: Location) -> Span {
    Span::at(location.line as usize, location.column as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str, defines: &[(&str, &str)]) -> Result<Vec<Statement>> {
        let defines = defines.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        parse(&Script { name: "test".into(), text: text.into() }, &Reading { defines, dialect: None })
    }

    #[test]
    fn a_semicolon_in_a_literal_or_a_comment_ends_nothing() {
        let text = "select ';' as a; -- not here; nor here\n/* ; */ select \"b;\" from t;;\n";
        let statements = parse_text(text, &[]).expect("parses");
        assert_eq!(statements.len(), 2);
        assert_eq!(statements[1].span, Span { start: (2, 9), end: (2, 27) });
    }

    #[test]
    fn defined_names_are_replaced_and_numbers_stay_numbers() {
        let statements =
            parse_text("select * from $f where a = $n and b = $z", &[("f", "x.csv"), ("n", "7"), ("z", "007")]);
        let text = statements.expect("parses")[0].body.to_string();
        assert_eq!(text, "SELECT * FROM 'x.csv' WHERE a = 7 AND b = '007'");
        let statements = parse_text("set fuse.define.n = 3; select $n", &[]).expect("parses");
        assert_eq!(statements[1].body.to_string(), "SELECT 3 AS \"3\"");
    }

    #[test]
    fn a_dialect_holds_from_where_it_is_set() {
        let text = "select 1;\nset datafusion.sql_parser.dialect = 'mysql'; select \"text\"; select a from";
        let error = parse_text(text, &[]).expect_err("does not parse");
        assert_eq!(error.span.map(|s| s.start), Some((2, 74)));
        let text = "set datafusion.sql_parser.dialect = 'mysql'; select 'it\\'s'; \
                    reset datafusion.sql_parser.dialect; select 1_0";
        assert_eq!(parse_text(text, &[]).expect("parses")[3].body.to_string(), "SELECT 10 AS \"10\"");
    }

    #[test]
    fn trailing_commas_and_struct_types_are_read() {
        for text in ["select a, b, from t group by a, b, order by a,", "create table t (a struct(x int, y varchar),)"] {
            assert_eq!(parse_text(text, &[]).expect(text).len(), 1);
        }
        assert!(parse_text("select named_struct('a', values.n, 'b', 1) from values", &[]).is_ok());
        assert!(parse_text("select lead(default => 0, offset => 1) over (order by a) from t", &[]).is_ok());
    }

    #[test]
    fn underscores_in_numbers_are_read() {
        assert_eq!(parse_text("select 1_000", &[]).expect("parses")[0].body.to_string(), "SELECT 1000 AS \"1000\"");
    }

    #[test]
    fn places_count_from_the_start_of_the_script() {
        let error = parse_text("select 1;\n\nselect a b c", &[]).expect_err("does not parse");
        assert_eq!(error.span.map(|s| s.start), Some((3, 12)));
        let error = parse_text("select 1;\nselect 'abc", &[]).expect_err("does not parse");
        assert_eq!(error.span.map(|s| s.start.0), Some(2));
        let error = parse_text("select '/*' /* a /* b */ c", &[]).expect_err("does not parse");
        assert_eq!(error.span.map(|s| s.start), Some((1, 13)));
        let error = parse_text("select 1 +", &[]).expect_err("does not parse");
        assert_eq!(error.span.map(|s| s.start), Some((1, 11)));
    }

    const WORDS: [&str; 38] = [
        "PIVOT",
        "UNPIVOT",
        "SUMMARIZE",
        "DESCRIBE",
        "ON",
        "USING",
        "IN",
        "FOR",
        "GROUP BY",
        "INTO",
        "NAME",
        "VALUE",
        "ASOF",
        "LEFT",
        "JOIN",
        "MATCH_CONDITION",
        "SAMPLE",
        "TABLESAMPLE",
        "LIMIT",
        "%",
        "10",
        "ROWS",
        "COLUMNS",
        "*",
        "LIKE",
        "'x'",
        "lambda",
        "x",
        ":",
        "[",
        "]",
        "(",
        ")",
        ",",
        "IF",
        "SET VARIABLE",
        "DROP MACRO",
        "SELECT",
    ];

    proptest::proptest! {
        /// Half of a clause is an error of the parser, and no panic of ours.
        #[test]
        fn pieces_of_clauses_do_no_harm(words in proptest::collection::vec(0..WORDS.len(), 1..14)) {
            let text = words.iter().map(|word| WORDS[*word]).collect::<Vec<_>>().join(" ");
            let _ = parse_text(&text, &[]);
        }
    }
}
