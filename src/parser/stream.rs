//! The words of streams, put as the parser knows them.
//!
//! Enters: the tokens of one statement. Leaves: CREATE STREAM as CREATE UNBOUNDED EXTERNAL TABLE, WATERMARK FOR among its
//! OPTIONS, and a statement without the EXPLAIN INCREMENTAL before it and the EMIT behind it. Always holds: literals, comments and names in quotes stay as they are.

use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use crate::error::{Error, Result};

/// The places of the tokens that are no white space.
fn words(tokens: &[TokenWithSpan]) -> Vec<usize> {
    (0..tokens.len()).filter(|at| !matches!(tokens[*at].token, Token::Whitespace(_) | Token::EOF)).collect()
}

fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(found) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word))
}

/// Takes EXPLAIN INCREMENTAL away; true if it was there.
pub(super) fn take_explain_incremental(tokens: &mut Vec<TokenWithSpan>) -> bool {
    let words = words(tokens);
    let [explain, incremental, ..] = words[..] else { return false };
    let found = is_word(&tokens[explain].token, "explain") && is_word(&tokens[incremental].token, "incremental");
    if found {
        tokens.drain(..=incremental);
    }
    found
}

/// Takes EMIT CHANGES or EMIT FINAL away from the end of a query; true if it was FINAL.
pub(super) fn take_emit(tokens: &mut Vec<TokenWithSpan>) -> Result<bool> {
    let places = words(tokens);
    let is = |at: usize, word: &str| places.get(at).is_some_and(|place| is_word(&tokens[*place].token, word));
    let close = |at: usize| places.get(at).is_none_or(|place| tokens[*place].token == Token::RParen);
    let emits = |at: &usize| is(*at, "emit") && (is(at + 1, "final") || is(at + 1, "changes")) && close(at + 2);
    let Some(at) = (1..places.len()).find(emits) else { return Ok(false) };
    let is_final = is(at + 1, "final");
    // In COPY (SELECT …) TO the query has parentheses.
    let copied = is(0, "copy") && is(at + 3, "to");
    if at + 2 < places.len() && !copied {
        return Err(Error::sql("EMIT stands at the end of a statement")
            .at(tokens[places[at]].span)
            .hint("a CREATE MATERIALIZED VIEW … EMIT FINAL can be read by others"));
    }
    let range = places[at]..=places[at + 1];
    tokens.drain(range);
    Ok(is_final)
}

/// `WATERMARK FOR ts AS ts - INTERVAL '5 seconds'` among the columns is the options watermark_for and watermark.
fn watermark_to_options(tokens: &mut Vec<TokenWithSpan>) -> Result<()> {
    let places = words(tokens);
    let is = |at: usize, word: &str| places.get(at).is_some_and(|place| is_word(&tokens[*place].token, word));
    let token = |at: usize| places.get(at).map(|place| &tokens[*place].token);
    let Some(start) = (1..places.len()).find(|at| is(*at, "watermark") && is(at + 1, "for")) else { return Ok(()) };
    let span = tokens[places[start]].span;
    let usage = |message: &str| {
        Error::sql(message.to_owned()).at(span).hint("WATERMARK FOR ts AS ts - INTERVAL '5 seconds', among the columns")
    };
    let (Some(Token::Word(column)), true) = (token(start + 2), is(start + 3, "as")) else {
        return Err(usage("WATERMARK FOR wants a column, AS and an expression"));
    };
    let column = if column.quote_style.is_some() { column.value.clone() } else { column.value.to_lowercase() };
    let mut depth = 0;
    let mut end = start + 4;
    while let Some(token) = token(end) {
        match token {
            Token::LParen => depth += 1,
            Token::RParen if depth == 0 => break,
            Token::RParen => depth -= 1,
            Token::Comma if depth == 0 => break,
            _ => {}
        }
        end += 1;
    }
    let more = (end..places.len()).any(|at| is(at, "watermark") && is(at + 1, "for"));
    if end == start + 4 || end == places.len() || more {
        return Err(usage("a table has one WATERMARK, with a column and an expression"));
    }
    let text: String = tokens[places[start + 4]..places[end]].iter().map(|token| token.token.to_string()).collect();
    // The comma goes with it; parentheses around nothing else too.
    let (mut from, mut to) = (places[start], places[end]);
    match (token(start - 1), token(end)) {
        (Some(Token::Comma), _) => from = places[start - 1],
        (_, Some(Token::Comma)) => to += 1,
        (Some(Token::LParen), _) => (from, to) = (places[start - 1], to + 1),
        _ => return Err(usage("WATERMARK FOR stands among the columns")),
    }
    tokens.drain(from..to);
    add_options(tokens, &[("watermark_for", column), ("watermark", text.trim().to_owned())], span);
    Ok(())
}

/// The place behind the last word.
fn behind(places: &[usize]) -> usize {
    places.last().map_or(0, |last| last + 1)
}

/// `BACKFILL FROM 'files' [UP TO condition | DEDUPLICATE BY (a, b)]` is the options backfill_from, …_up_to and …_by.
fn backfill_to_options(tokens: &mut Vec<TokenWithSpan>) -> Result<()> {
    let places = words(tokens);
    let is = |at: usize, word: &str| places.get(at).is_some_and(|place| is_word(&tokens[*place].token, word));
    let token = |at: usize| places.get(at).map(|place| &tokens[*place].token);
    let Some(start) = (1..places.len()).find(|at| is(*at, "backfill") && is(at + 1, "from")) else { return Ok(()) };
    let span = tokens[places[start]].span;
    let usage = |message: &str| {
        Error::sql(message.to_owned())
            .at(span)
            .hint("BACKFILL FROM 'folder/*.parquet' [UP TO condition | DEDUPLICATE BY (column, …)]")
    };
    let Some(Token::SingleQuotedString(files)) = token(start + 2) else {
        return Err(usage("BACKFILL FROM wants files in quotes"));
    };
    let mut options = vec![("backfill_from", files.clone())];
    let mut end = start + 3;
    if is(end, "up") && is(end + 1, "to") {
        let (first, mut depth) = (end + 2, 0);
        end = first;
        while let Some(token) = token(end) {
            match token {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                _ if depth == 0 && ["options", "location", "stored"].iter().any(|word| is(end, word)) => break,
                _ => {}
            }
            end += 1;
        }
        let last = places.get(end).copied().unwrap_or_else(|| behind(&places));
        let text = places.get(first).map(|first| &tokens[*first..last]).unwrap_or_default();
        let text: String = text.iter().map(|token| token.token.to_string()).collect();
        if text.trim().is_empty() {
            return Err(usage("UP TO wants a condition"));
        }
        options.push(("backfill_up_to", text.trim().to_owned()));
    } else if is(end, "deduplicate") && is(end + 1, "by") {
        let (mut names, mut at) = (Vec::new(), end + 3);
        while let Some(Token::Word(name)) = token(at) {
            names.push(if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() });
            at += if token(at + 1) == Some(&Token::Comma) { 2 } else { 1 };
        }
        if token(end + 2) != Some(&Token::LParen) || token(at) != Some(&Token::RParen) || names.is_empty() {
            return Err(usage("DEDUPLICATE BY wants columns in parentheses"));
        }
        options.push(("backfill_by", names.join("\n")));
        end = at + 1;
    }
    let to = places.get(end).copied().unwrap_or_else(|| behind(&places));
    tokens.drain(places[start]..to);
    add_options(tokens, &options, span);
    Ok(())
}

/// Adds to OPTIONS, or makes them.
fn add_options(tokens: &mut Vec<TokenWithSpan>, options: &[(&str, String)], span: Span) {
    let new = |token| TokenWithSpan { token, span };
    let mut list = Vec::new();
    for (name, value) in options {
        list.extend([Token::SingleQuotedString((*name).to_owned()), Token::SingleQuotedString(value.clone())]);
        list.push(Token::Comma);
    }
    let places = words(tokens);
    let open = (0..places.len().saturating_sub(1))
        .find(|at| is_word(&tokens[places[*at]].token, "options") && tokens[places[at + 1]].token == Token::LParen);
    if let Some(open) = open {
        let at = places[open + 1] + 1;
        tokens.splice(at..at, list.into_iter().map(new));
        return;
    }
    list.pop();
    let clause = [Token::make_keyword("OPTIONS"), Token::LParen].into_iter().chain(list).chain([Token::RParen]);
    let at = places.last().map_or(0, |last| last + 1);
    tokens.splice(at..at, clause.map(new));
}

/// CREATE STREAM t … STORED AS RATE is CREATE UNBOUNDED EXTERNAL TABLE t … STORED AS RATE LOCATION 'rate'.
pub(super) fn complete_create(tokens: &mut Vec<TokenWithSpan>) -> Result<()> {
    if !makes_stream(tokens) {
        return Ok(());
    }
    watermark_to_options(tokens)?;
    backfill_to_options(tokens)?;
    let places = words(tokens);
    let is = |at: usize, word: &str| places.get(at).is_some_and(|place| is_word(&tokens[*place].token, word));
    let name = if is(1, "or") && is(2, "replace") { 3 } else { 1 };
    let stream = is(name, "stream");
    let stored = (0..places.len()).find(|at| is(*at, "stored") && is(at + 1, "as"));
    let located = (0..places.len()).any(|at| is(at, "location"));
    if let Some(stored) = stored.filter(|_| !located)
        && let Some(kind) = places.get(stored + 2).copied()
    {
        let location = Token::SingleQuotedString(tokens[kind].token.to_string().to_lowercase());
        let span = tokens[kind].span;
        let new = |token| TokenWithSpan { token, span };
        tokens.splice(kind + 1..kind + 1, [new(Token::make_keyword("LOCATION")), new(location)]);
    }
    if stream {
        let at = places[name];
        let span = tokens[at].span;
        let words = ["UNBOUNDED", "EXTERNAL", "TABLE"];
        tokens.splice(at..=at, words.map(|word| TokenWithSpan { token: Token::make_keyword(word), span }));
    }
    Ok(())
}

/// True for CREATE STREAM and CREATE UNBOUNDED EXTERNAL TABLE.
fn makes_stream(tokens: &[TokenWithSpan]) -> bool {
    let places = words(tokens);
    let is = |at: usize, word: &str| places.get(at).is_some_and(|place| is_word(&tokens[*place].token, word));
    let name = if is(1, "or") && is(2, "replace") { 3 } else { 1 };
    is(0, "create") && (is(name, "stream") || (is(name, "unbounded") && is(name + 1, "external")))
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::Statement as Body;

    use super::super::{Reading, Script, parse};
    use crate::error::Error;

    fn respelled(text: &str) -> Result<(String, bool), Error> {
        let script = Script { name: "test".into(), text: text.into() };
        let statement = parse(&script, &Reading::default())?.remove(0);
        Ok((statement.body.to_string(), statement.emits_final))
    }

    #[test]
    fn a_watermark_becomes_options() {
        let with = "WATERMARK FOR ts AS ts - INTERVAL '5' SECOND";
        for (columns, options, expected) in [
            (format!("(a INT, ts TIMESTAMP, {with})"), "", vec!["a", "ts"]),
            (format!("({with}, a INT)"), " OPTIONS ('late' 'drop')", vec!["a"]),
            (format!("({with})"), "", vec![]),
        ] {
            let text = format!("CREATE STREAM s {columns} STORED AS RATE{options}");
            let script = Script { name: "test".into(), text: text.as_str().into() };
            let statement = parse(&script, &Reading::default()).expect("parses").remove(0);
            let Body::CreateExternalTable(create) = statement.body else { panic!("{text}") };
            let option = |name: &str| {
                let found = create.options.iter().find(|(option, _)| option == name);
                found.map(|(_, value)| value.to_string())
            };
            assert_eq!(option("watermark_for").as_deref(), Some("'ts'"), "{text}");
            assert_eq!(option("watermark").as_deref(), Some("'ts - INTERVAL ''5'' SECOND'"), "{text}");
            assert_eq!(option("late").is_some(), !options.is_empty(), "{text}");
            let names: Vec<&str> = create.columns.iter().map(|column| column.name.value.as_str()).collect();
            assert_eq!(names, expected, "{text}");
        }
        let twice = format!("CREATE STREAM s ({with}, {with}) STORED AS RATE");
        assert!(respelled(&twice).expect_err("one is enough").message.contains("one WATERMARK"));
    }

    #[test]
    fn emit_stands_at_the_end() {
        let query = "SELECT a FROM t";
        assert_eq!(respelled(&format!("{query} EMIT FINAL")).expect("parses"), (query.to_owned(), true));
        assert_eq!(respelled(&format!("{query} emit changes")).expect("parses"), (query.to_owned(), false));
        assert!(respelled(&format!("COPY ({query} EMIT FINAL) TO 'x.parquet'")).expect("parses").1);
        let error = respelled(&format!("SELECT * FROM ({query} EMIT FINAL)")).expect_err("within a query");
        assert!(error.message.contains("at the end of a statement"), "{error:?}");
    }
}
