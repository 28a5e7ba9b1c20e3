//! JSON text, token by token.
//!
//! Enters: a piece of a JSON text, as far as it is there. Leaves: its strings, numbers and marks, or a [`Fault`].
//! Always holds: what RFC 8259 does not allow is a fault, also in values that nobody asked for; a piece that
//! ends within a token is told apart from one that is wrong.

use std::borrow::Cow;

use crate::config::JSON_DEPTH_LIMIT;

/// What a reader does at most about a value: take it, or say why not.
pub(in crate::format) type Scan<T> = Result<T, Fault>;

/// Why a value could not be taken.
#[derive(Debug)]
pub(in crate::format) enum Fault {
    /// The text ends before the value does.
    Cut,
    /// The text is wrong.
    Wrong(Box<Wrong>),
}

/// A place in the piece, and what is wrong there.
#[derive(Debug)]
pub(in crate::format) struct Wrong {
    pub(in crate::format) at: usize,
    /// The member that was read, from the outside in.
    pub(in crate::format) member: Vec<String>,
    pub(in crate::format) what: String,
    pub(in crate::format) kind: WrongKind,
}

/// What kind of mistake it is, as far as it decides what helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WrongKind {
    /// It is not JSON, or no object.
    Syntax,
    /// A value is not of its column's type.
    Value,
    /// A member that the columns do not have.
    Unknown,
    /// A record is too long.
    Size,
}

/// A number as it is written.
#[derive(Debug, Clone, Copy)]
pub(in crate::format) struct Number<'a> {
    pub(in crate::format) text: &'a str,
    /// It has neither a fraction nor an exponent.
    pub(in crate::format) whole: bool,
}

/// What the next value is, by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::format) enum Token {
    Object,
    List,
    Text,
    Number,
    True,
    False,
    Null,
}

/// A place in a JSON text.
#[derive(Debug)]
pub(in crate::format) struct Scanner<'a> {
    text: &'a str,
    pub(in crate::format) at: usize,
    depth: usize,
    /// A line end was passed: it can only be white space.
    pub(in crate::format) on_lines: bool,
}

impl<'a> Scanner<'a> {
    pub(in crate::format) fn new(text: &'a str, at: usize) -> Self {
        Self { text, at, depth: 0, on_lines: false }
    }

    pub(in crate::format) fn wrong<T>(&self, kind: WrongKind, at: usize, what: impl Into<String>) -> Scan<T> {
        Err(Fault::Wrong(Box::new(Wrong { at, member: Vec::new(), what: what.into(), kind })))
    }

    fn syntax<T>(&self, what: impl Into<String>) -> Scan<T> {
        self.wrong(WrongKind::Syntax, self.at, what)
    }

    /// The text from a place to here.
    pub(in crate::format) fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// The next byte that is not white space; nothing at the end of the text.
    pub(in crate::format) fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(*byte);
            }
            self.on_lines |= *byte == b'\n';
            self.at += 1;
        }
        None
    }

    fn next(&mut self) -> Scan<u8> {
        self.peek().ok_or(Fault::Cut)
    }

    /// The character at the place, as messages show it.
    pub(in crate::format) fn shown(&self) -> String {
        match self.text.get(self.at..).and_then(|rest| rest.chars().next()) {
            Some(c) => format!("'{}'", c.escape_default()),
            None => "the end".to_owned(),
        }
    }

    /// What begins here.
    pub(in crate::format) fn token(&mut self) -> Scan<Token> {
        Ok(match self.next()? {
            b'{' => Token::Object,
            b'[' => Token::List,
            b'"' => Token::Text,
            b'-' | b'0'..=b'9' => Token::Number,
            b't' => Token::True,
            b'f' => Token::False,
            b'n' => Token::Null,
            _ => return self.syntax(format!("expected a value, found {}", self.shown())),
        })
    }

    /// Takes `null`, `true` or `false`, whose first letter is next.
    pub(in crate::format) fn word(&mut self, word: &str) -> Scan<()> {
        let rest = &self.text.as_bytes()[self.at..];
        if rest.starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(());
        }
        if word.as_bytes().starts_with(rest) {
            return Err(Fault::Cut);
        }
        self.syntax(format!("expected a value, found a word that is not {word}"))
    }

    fn digits(&mut self) -> Scan<()> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        while bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == bytes.len() {
            return Err(Fault::Cut);
        }
        if self.at == start { self.syntax(format!("expected a digit, found {}", self.shown())) } else { Ok(()) }
    }

    /// Takes a number, whose first byte is next.
    pub(in crate::format) fn number(&mut self) -> Scan<Number<'a>> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        if bytes[self.at] == b'-' {
            self.at += 1;
        }
        let first = self.at;
        self.digits()?;
        if bytes[first] == b'0' && self.at > first + 1 {
            self.at = first;
            return self.syntax("a number begins with 0: write it as a text, or without the zero");
        }
        let mut whole = true;
        if bytes.get(self.at) == Some(&b'.') {
            whole = false;
            self.at += 1;
            self.digits()?;
        }
        if matches!(bytes.get(self.at), Some(b'e' | b'E')) {
            whole = false;
            self.at += 1;
            if matches!(bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(Number { text: self.since(start), whole })
    }

    /// Takes a string, whose quote is next.
    pub(in crate::format) fn string(&mut self) -> Scan<Cow<'a, str>> {
        self.at += 1;
        let start = self.at;
        let mut made: Option<String> = None;
        let mut plain = start;
        loop {
            self.at = end_of_plain(self.text.as_bytes(), self.at).ok_or(Fault::Cut)?;
            match self.text.as_bytes()[self.at] {
                b'"' => {
                    let rest = self.since(plain);
                    self.at += 1;
                    return Ok(match made {
                        Some(mut made) => {
                            made.push_str(rest);
                            Cow::Owned(made)
                        }
                        None => Cow::Borrowed(rest),
                    });
                }
                b'\\' => {
                    let rest = self.since(plain);
                    let made = made.get_or_insert_default();
                    made.push_str(rest);
                    made.push(self.escape()?);
                    plain = self.at;
                }
                _ => {
                    return self.syntax(format!("{} within a text: write it as an escape", self.shown()));
                }
            }
        }
    }

    /// Takes an escape, whose backslash is next.
    fn escape(&mut self) -> Scan<char> {
        let bytes = self.text.as_bytes();
        let kind = *bytes.get(self.at + 1).ok_or(Fault::Cut)?;
        let plain = match kind {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => return self.syntax("an escape that JSON does not have"),
        };
        self.at += 2;
        Ok(plain)
    }

    fn unicode(&mut self) -> Scan<char> {
        let start = self.at;
        let first = self.hex(start)?;
        self.at = start + 6;
        if let Some(c) = char::from_u32(first) {
            return Ok(c);
        }
        let bytes = self.text.as_bytes();
        let second = match (bytes.get(self.at), bytes.get(self.at + 1)) {
            (Some(b'\\'), Some(b'u')) => self.hex(self.at)?,
            (None, _) | (Some(b'\\'), None) => return Err(Fault::Cut),
            _ => 0,
        };
        if (0xD800..0xDC00).contains(&first) && (0xDC00..0xE000).contains(&second) {
            self.at += 6;
            let code = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
            return char::from_u32(code).ok_or(Fault::Cut);
        }
        self.at = start;
        self.syntax("half of a surrogate pair: no character has this escape")
    }

    /// The four digits behind the `\u` at a place.
    fn hex(&self, at: usize) -> Scan<u32> {
        let bytes = self.text.as_bytes();
        let mut value = 0;
        for place in at + 2..at + 6 {
            let digit = char::from(*bytes.get(place).ok_or(Fault::Cut)?).to_digit(16);
            let Some(digit) = digit else {
                return self.syntax("an escape of a character needs four hexadecimal digits");
            };
            value = value * 16 + digit;
        }
        Ok(value)
    }

    /// Takes an object, whose brace is next; `member` takes the value of each member.
    pub(in crate::format) fn object(&mut self, mut member: impl FnMut(&mut Self, &str) -> Scan<()>) -> Scan<()> {
        self.enter()?;
        if self.next()? == b'}' {
            return self.leave();
        }
        loop {
            if self.next()? != b'"' {
                return self.syntax(format!("expected the name of a member, found {}", self.shown()));
            }
            let name = self.string()?;
            if self.next()? != b':' {
                return self.syntax(format!("expected ':', found {}", self.shown()));
            }
            self.at += 1;
            member(self, &name)?;
            match self.next()? {
                b',' => self.at += 1,
                b'}' => return self.leave(),
                _ => return self.syntax(format!("expected ',' or '}}', found {}", self.shown())),
            }
        }
    }

    /// Takes a list, whose bracket is next; `element` takes each of its values.
    pub(in crate::format) fn list(&mut self, mut element: impl FnMut(&mut Self) -> Scan<()>) -> Scan<()> {
        self.enter()?;
        if self.next()? == b']' {
            return self.leave();
        }
        loop {
            element(self)?;
            match self.next()? {
                b',' => self.at += 1,
                b']' => return self.leave(),
                _ => return self.syntax(format!("expected ',' or ']', found {}", self.shown())),
            }
        }
    }

    fn enter(&mut self) -> Scan<()> {
        self.depth += 1;
        if self.depth > JSON_DEPTH_LIMIT {
            return self.syntax(format!("nested deeper than {JSON_DEPTH_LIMIT} levels"));
        }
        self.at += 1;
        Ok(())
    }

    fn leave(&mut self) -> Scan<()> {
        self.depth -= 1;
        self.at += 1;
        Ok(())
    }

    /// Takes any value.
    pub(in crate::format) fn skip(&mut self) -> Scan<()> {
        match self.token()? {
            Token::Object => self.object(|scanner, _| scanner.skip()),
            Token::List => self.list(Self::skip),
            Token::Text => self.string().map(drop),
            Token::Number => self.number().map(drop),
            Token::True => self.word("true"),
            Token::False => self.word("false"),
            Token::Null => self.word("null"),
        }
    }
}

/// The first byte from `at` that is a quote, a backslash or a control character: eight bytes at a time.
fn end_of_plain(bytes: &[u8], mut at: usize) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    while let Some(eight) = bytes.get(at..at + 8).and_then(|eight| eight.try_into().ok()) {
        let word = u64::from_le_bytes(eight);
        let zero = |x: u64| x.wrapping_sub(ONES) & !x & HIGH;
        let quote = zero(word ^ (ONES * u64::from(b'"')));
        let backslash = zero(word ^ (ONES * u64::from(b'\\')));
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        // A borrow may mark bytes behind the first that is marked, never before it.
        let marks = quote | backslash | control;
        if marks != 0 {
            return Some(at + marks.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let rest = bytes.get(at..)?;
    rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20)).map(|place| at + place)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing, if the text is one JSON value and no more.
    fn fault(text: &str) -> Option<String> {
        let padded = format!("{text} ");
        let mut scanner = Scanner::new(&padded, 0);
        match scanner.skip() {
            Ok(()) => scanner.peek().map(|_| "more text".to_owned()),
            Err(Fault::Cut) => Some("cut".to_owned()),
            Err(Fault::Wrong(wrong)) => Some(wrong.what),
        }
    }

    #[test]
    fn json_is_taken_and_nothing_else() {
        let good = r#"{} ¦ [] ¦ {"a":[1,-0,0.5,1e5,1E-2,-1.5e+3]} ¦ ["\u00e9\ud83d\ude00\"\\\/\b\f\n\r\t"] ¦ "a" ¦ [null,true,false]"#;
        for text in good.split(" ¦ ") {
            assert_eq!(fault(text), None, "{text}");
        }
        let bad = r#"{,} ¦ [1,] ¦ {"a":1,} ¦ {"a" 1} ¦ {a:1} ¦ {"a":01} ¦ [1.] ¦ [.5] ¦ [+1] ¦ [1e] ¦ [-] ¦ [1 2] ¦ ["\x"]
            ¦ ["\u12g4"] ¦ ["\ud800"] ¦ ["\ud800\u0041"] ¦ [tru] ¦ [nul] ¦ ["a] ¦ [ ¦ {"a" ¦ [1,,2] ¦ {"a":1,,"b":2} ¦ {"a":1}}
            ¦ [NaN] ¦ [Infinity] ¦ ['a'] ¦ [0x1] ¦ {"a":1 "b":2} ¦ [truex] ¦ ["	"] ¦ [-01] ¦ {"a":} ¦ {1:1} ¦ [1]x ¦ //"#;
        for text in bad.split('¦').map(str::trim) {
            assert!(fault(text).is_some(), "{text}");
        }
        assert!(fault(&"[".repeat(100_000)).expect("too deep").contains("deeper"));
    }

    #[test]
    fn a_piece_that_ends_within_a_value_is_cut_and_not_wrong() {
        let text = r#"{"a\u00e9\ud83d\ude00":[1.5e3,true,null,"x"]}"#;
        for end in (1..text.len()).filter(|end| text.is_char_boundary(*end)) {
            let mut scanner = Scanner::new(&text[..end], 0);
            assert!(matches!(scanner.skip(), Err(Fault::Cut)), "{}", &text[..end]);
        }
    }

    #[test]
    fn strings_are_searched_eight_bytes_at_a_time() {
        for stop in [b'"', b'\\', 0, 0x1f] {
            for place in 0..40 {
                let mut bytes = vec![b'x'; 40];
                bytes[..place].fill(0xc3);
                bytes[place] = stop;
                assert_eq!(end_of_plain(&bytes, 0), Some(place));
            }
        }
        assert_eq!(end_of_plain("!# ~\u{7f}é".repeat(9).as_bytes(), 0), None);
    }
}
