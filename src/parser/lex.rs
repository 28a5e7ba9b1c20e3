//! The lexemes of a text that someone is typing.
//!
//! Enters: any text, finished or not. Leaves: its lexemes, one behind the other. Always holds: together they are
//! the text, byte by byte; they come from the tokenizer that [`super::parse`] uses, so what ends a statement
//! here ends it there.

use std::ops::Range;

use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Whitespace};

use super::FuseDialect;

/// What a lexeme is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LexemeKind {
    /// A keyword, or a name without quotes.
    Word,
    /// A name in quotes.
    QuotedName,
    /// A literal text.
    Text,
    /// A number.
    Number,
    /// A comment.
    Comment,
    /// White space.
    Space,
    /// The `;` that ends a statement.
    End,
    /// An opening bracket.
    Open,
    /// A closing bracket.
    Close,
    /// All other signs.
    Sign,
    /// What the tokenizer cannot read: mostly a literal, a name or a comment that has no end yet.
    Unfinished,
}

/// A piece of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lexeme {
    /// What it is.
    pub kind: LexemeKind,
    /// Its bytes.
    pub range: Range<usize>,
}

/// The lexemes of a text.
pub fn lex(text: &str) -> Vec<Lexeme> {
    let mut tokens = Vec::new();
    // An error leaves what was read before it.
    let _ = Tokenizer::new(&FuseDialect::PLAIN, text).tokenize_with_location_into_buf(&mut tokens);
    let mut lexemes: Vec<Lexeme> = Vec::new();
    let mut chars = Chars { rest: text.char_indices(), text, line: 1, column: 1 };
    for token in tokens.iter().filter(|token| token.token != Token::EOF) {
        let start = chars.at(token.span.start.line, token.span.start.column);
        let end = chars.at(token.span.end.line, token.span.end.column);
        lexemes.push(Lexeme { kind: kind(token), range: start..end });
    }
    let behind = lexemes.last().map_or(0, |last| last.range.end);
    if behind < text.len() {
        lexemes.push(Lexeme { kind: LexemeKind::Unfinished, range: behind..text.len() });
    }
    lexemes
}

/// True if nothing is missing: the text is empty, or its last statement has its `;`.
pub fn is_complete(text: &str) -> bool {
    let lexemes = lex(text);
    let last = lexemes.iter().rfind(|lexeme| !matches!(lexeme.kind, LexemeKind::Space | LexemeKind::Comment));
    last.is_none_or(|last| last.kind == LexemeKind::End)
}

fn kind(token: &TokenWithSpan) -> LexemeKind {
    match &token.token {
        Token::Word(word) if word.quote_style.is_some() => LexemeKind::QuotedName,
        Token::Word(_) => LexemeKind::Word,
        Token::Number(..) => LexemeKind::Number,
        Token::Whitespace(Whitespace::SingleLineComment { .. } | Whitespace::MultiLineComment(_)) => {
            LexemeKind::Comment
        }
        Token::Whitespace(_) => LexemeKind::Space,
        Token::SemiColon => LexemeKind::End,
        Token::LParen | Token::LBracket | Token::LBrace => LexemeKind::Open,
        Token::RParen | Token::RBracket | Token::RBrace => LexemeKind::Close,
        Token::SingleQuotedString(_)
        | Token::DollarQuotedString(_)
        | Token::TripleSingleQuotedString(_)
        | Token::TripleDoubleQuotedString(_)
        | Token::EscapedStringLiteral(_)
        | Token::UnicodeStringLiteral(_)
        | Token::NationalStringLiteral(_)
        | Token::HexStringLiteral(_)
        | Token::SingleQuotedByteStringLiteral(_)
        | Token::DoubleQuotedByteStringLiteral(_)
        | Token::SingleQuotedRawStringLiteral(_)
        | Token::DoubleQuotedRawStringLiteral(_) => LexemeKind::Text,
        _ => LexemeKind::Sign,
    }
}

/// Finds bytes by line and column, forwards only.
struct Chars<'a> {
    rest: std::str::CharIndices<'a>,
    text: &'a str,
    line: u64,
    column: u64,
}

impl Chars<'_> {
    fn at(&mut self, line: u64, column: u64) -> usize {
        while (self.line, self.column) < (line, column) {
            match self.rest.next() {
                Some((_, '\n')) => (self.line, self.column) = (self.line + 1, 1),
                Some(_) => self.column += 1,
                None => return self.text.len(),
            }
        }
        self.rest.clone().next().map_or(self.text.len(), |(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lexemes_are_the_text() {
        for text in
            ["", "select 'ä;\n' as \"b c\", 1.5 -- x\n/* y */;", "a  b\r\n'open ; ", "select {a: [1]} ; é", "/* ;"]
        {
            let whole: String = lex(text).iter().map(|lexeme| &text[lexeme.range.clone()]).collect();
            assert_eq!(whole, text);
        }
    }

    #[test]
    fn a_semicolon_ends_a_statement_where_it_is_one() {
        for text in ["", " \n", "-- only a note", "select 1;", "select 1; -- done", "select ';';\n"] {
            assert!(is_complete(text), "{text}");
        }
        for text in ["select 1", "select ';", "select 1 -- ;", "select 1; select 2", "/* ;", "select \"a;"] {
            assert!(!is_complete(text), "{text}");
        }
    }
}
