//! `json -> 'path'`, which the parser takes for a function with a parameter.
//!
//! Enters: the tokens of one statement. Leaves: tokens in which arrows of JSON can be told from those of functions.
//! Always holds: an argument of a function that takes functions stays one.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::respell::{Text, sign};

impl Text {
    /// `x -> 'a'` is JSON unless it is an argument of a function that takes functions. The parser takes a name before
    /// an arrow for a parameter, so it gets two pairs of parentheses, which [`super::refuse`] takes away.
    pub(super) fn json_arrows(&mut self) {
        for at in (1..self.tokens.len()).rev() {
            let named = matches!(self.token(at - 1), Some(Token::Word(_)));
            let part = at > 1 && self.token(at - 2) == Some(&Token::Period);
            if self.token(at) != Some(&Token::Arrow) || !named || part || self.is_argument_of_higher(at - 1) {
                continue;
            }
            let (span, name) = (self.place(at - 1), self.tokens[at - 1].clone());
            let (open, close) = (sign(Token::LParen, span), sign(Token::RParen, span));
            self.splice(at - 1..at, vec![open.clone(), open, name, close.clone(), close]);
        }
    }

    /// True if an argument of a function that takes functions begins here.
    fn is_argument_of_higher(&self, at: usize) -> bool {
        const HIGHER: [&str; 15] = [
            "columns",
            "list_transform",
            "list_apply",
            "array_transform",
            "array_apply",
            "apply",
            "transform",
            "list_filter",
            "array_filter",
            "filter",
            "list_reduce",
            "array_reduce",
            "reduce",
            "array_any_match",
            "list_any_match",
        ];
        let Some(before) = at.checked_sub(1) else { return false };
        if !matches!(self.token(before), Some(Token::LParen | Token::Comma)) {
            return false;
        }
        let mut depth = 0;
        for open in (0..=before).rev() {
            match self.token(open) {
                Some(Token::RParen | Token::RBracket | Token::RBrace) => depth += 1,
                Some(Token::LParen) if depth == 0 => {
                    return open > 0 && HIGHER.iter().any(|name| self.is(open - 1, name));
                }
                Some(Token::LBracket | Token::LBrace) if depth == 0 => return false,
                Some(Token::LParen | Token::LBracket | Token::LBrace) => depth -= 1,
                _ => {}
            }
        }
        false
    }
}
