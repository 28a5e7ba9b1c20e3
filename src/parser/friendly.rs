//! Spellings that the parser would refuse, mended on the tokens.
//!
//! Enters: the tokens of one statement. Leaves: tokens that the parser reads. Always holds: literals and
//! comments are tokens too, and stay as they are.
//!
//! sqlparser can accept trailing commas, but then takes any reserved word behind a comma for the end of the
//! list, and `f(x, values.a)` fails. Here a comma goes only where nothing else can follow it.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

/// Drops a comma before the end of a list: `GROUP BY a, b, ORDER BY a,`.
pub(super) fn drop_trailing_commas(tokens: &mut Vec<TokenWithSpan>) {
    let words: Vec<usize> = (0..tokens.len()).filter(|at| !matches!(tokens[*at].token, Token::Whitespace(_))).collect();
    let mut drop = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let next = |ahead: usize| words.get(at + ahead).map(|at| &tokens[*at].token);
        if tokens[*word].token == Token::Comma && at > 0 && ends_list(next(1), next(2)) {
            drop.push(*word);
        }
    }
    for at in drop.into_iter().rev() {
        tokens.remove(at);
    }
}

/// Puts `SELECT *` before a FROM that begins a query without one: `FROM t WHERE a = 1`.
pub(super) fn complete_from_first(tokens: &mut Vec<TokenWithSpan>) {
    let words: Vec<usize> = (0..tokens.len()).filter(|at| !matches!(tokens[*at].token, Token::Whitespace(_))).collect();
    // INSERT INTO t FROM s: the first FROM, with no SELECT or WITH before it.
    let is_insert = words.first().and_then(|first| keyword(Some(&tokens[*first].token))) == Some(Keyword::INSERT);
    let inserts = |at: usize| {
        let before = words[..at].iter().filter_map(|word| keyword(Some(&tokens[*word].token)));
        is_insert && !before.into_iter().any(|word| matches!(word, Keyword::SELECT | Keyword::WITH | Keyword::FROM))
    };
    let begins_query = |at: usize| match at.checked_sub(1).map(|before| &tokens[words[before]].token) {
        None | Some(Token::LParen) => true,
        Some(before) => matches!(
            keyword(Some(before)),
            Some(Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT | Keyword::ALL | Keyword::AS | Keyword::EXPLAIN)
        ),
    };
    let starts: Vec<usize> = (0..words.len())
        .filter(|at| keyword(Some(&tokens[words[*at]].token)) == Some(Keyword::FROM))
        .filter(|at| (begins_query(*at) || inserts(*at)) && !selects_later(tokens, &words[*at..]))
        .map(|at| words[at])
        .collect();
    for at in starts.into_iter().rev() {
        let span = tokens[at].span;
        let new = |token| TokenWithSpan { token, span };
        tokens.splice(at..at, [new(Token::make_keyword("SELECT")), new(Token::Mul)]);
    }
}

/// True if the query that begins with these words has its SELECT behind FROM: `FROM t SELECT a`.
fn selects_later(tokens: &[TokenWithSpan], words: &[usize]) -> bool {
    let mut depth = 0_i32;
    for word in words {
        let token = &tokens[*word].token;
        match token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            _ => {}
        }
        match keyword(Some(token)) {
            _ if depth < 0 => return false,
            Some(Keyword::SELECT) if depth == 0 => return true,
            Some(Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT) if depth == 0 => return false,
            _ => {}
        }
    }
    false
}

fn keyword(token: Option<&Token>) -> Option<Keyword> {
    match token {
        Some(Token::Word(word)) if word.quote_style.is_none() => Some(word.keyword),
        _ => None,
    }
}

/// True for what ends a list of columns, expressions or values.
fn ends_list(next: Option<&Token>, after: Option<&Token>) -> bool {
    match next {
        None | Some(Token::EOF | Token::RParen) => true,
        word => match keyword(word) {
            Some(Keyword::ORDER | Keyword::GROUP) => keyword(after) == Some(Keyword::BY),
            Some(Keyword::FROM | Keyword::HAVING | Keyword::QUALIFY | Keyword::UNION | Keyword::WHERE) => true,
            Some(Keyword::LIMIT) => matches!(after, Some(Token::Number(..))),
            _ => false,
        },
    }
}

/// True for `STRUCT(name TYPE`, which is a type and not a call of a function.
pub(super) fn has_struct_type(tokens: &[TokenWithSpan]) -> bool {
    let words: Vec<&Token> =
        tokens.iter().map(|token| &token.token).filter(|token| !matches!(token, Token::Whitespace(_))).collect();
    words.windows(4).any(|run| {
        keyword(Some(run[0])) == Some(Keyword::STRUCT)
            && *run[1] == Token::LParen
            && matches!(run[2], Token::Word(_))
            && matches!(run[3], Token::Word(_))
    })
}
