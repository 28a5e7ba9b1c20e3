//! The words of streams, put as the parser knows them.
//!
//! Enters: the tokens of one statement. Leaves: CREATE STREAM as CREATE UNBOUNDED EXTERNAL TABLE, and a statement
//! without the EXPLAIN INCREMENTAL before it. Always holds: literals, comments and names in quotes stay as they are.

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

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

/// CREATE STREAM t … STORED AS RATE is CREATE UNBOUNDED EXTERNAL TABLE t … STORED AS RATE LOCATION 'rate'.
pub(super) fn complete_create(tokens: &mut Vec<TokenWithSpan>) {
    let places = words(tokens);
    let is = |at: usize, word: &str| places.get(at).is_some_and(|place| is_word(&tokens[*place].token, word));
    if !is(0, "create") {
        return;
    }
    let name = if is(1, "or") && is(2, "replace") { 3 } else { 1 };
    let stream = is(name, "stream");
    let unbounded = is(name, "unbounded") && is(name + 1, "external");
    if !stream && !unbounded {
        return;
    }
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
}
