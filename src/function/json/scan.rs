//! JSON text, read without making values of it.
//!
//! Enters: a text and a path. Leaves: where the values are that the path means, and what they are. Always holds: the
//! whole text is JSON or it is an error with its place; numbers keep the digits with which they are written.

use std::borrow::Cow;
use std::ops::Range;

use super::path::Step;
use crate::config::JSON_DEPTH_LIMIT;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Object,
    Array,
    Text,
    Number,
    Boolean,
    Null,
}

/// Where a text stops being JSON, and what is wrong there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    pub(super) at: usize,
    pub(super) what: &'static str,
}

type Scanned<T> = Result<T, Malformed>;

/// A place in a text.
#[derive(Clone, Copy)]
pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

/// The places of the values that a path means; all of them with `all`, else the first.
pub(super) fn find(text: &str, path: &[Step], all: bool) -> Scanned<Vec<Range<usize>>> {
    let mut found = Vec::new();
    let mut scanner = Scanner::new(text);
    scanner.walk(path, all, &mut found)?;
    scanner.end()?;
    Ok(found)
}

/// Nothing, if the text is JSON.
pub(super) fn check(text: &str) -> Scanned<()> {
    find(text, &[], false).map(drop)
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0 }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn wrong<T>(&self, what: &'static str) -> Scanned<T> {
        let what = if self.at >= self.text.len() { "the text ends early" } else { what };
        Err(Malformed { at: self.at, what })
    }

    fn space(&mut self) {
        while matches!(self.byte(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn end(&mut self) -> Scanned<()> {
        self.space();
        if self.at == self.text.len() { Ok(()) } else { self.wrong("there is more behind the value") }
    }

    /// What the next value is.
    pub(super) fn kind(&mut self) -> Scanned<Kind> {
        self.space();
        Ok(match self.byte() {
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b'"') => Kind::Text,
            Some(b'-' | b'0'..=b'9') => Kind::Number,
            Some(b't' | b'f') => Kind::Boolean,
            Some(b'n') => Kind::Null,
            _ => return self.wrong("no value begins so"),
        })
    }

    /// Passes over a value; gives its place.
    pub(super) fn value(&mut self) -> Scanned<Range<usize>> {
        let kind = self.kind()?;
        let start = self.at;
        match kind {
            Kind::Object => self.members(|scanner, _| scanner.value().map(drop))?,
            Kind::Array => self.items(|scanner, _| scanner.value().map(drop))?,
            Kind::Text => {
                self.string()?;
            }
            Kind::Number => self.number()?,
            Kind::Boolean | Kind::Null => self.word()?,
        }
        Ok(start..self.at)
    }

    /// The members of an object: `each` passes over a value, and is told the place of its name within quotes.
    pub(super) fn members(&mut self, mut each: impl FnMut(&mut Self, Range<usize>) -> Scanned<()>) -> Scanned<()> {
        self.enter()?;
        if self.closes(b'}') {
            return Ok(());
        }
        loop {
            self.space();
            if self.byte() != Some(b'"') {
                return self.wrong("a member has no name");
            }
            let name = self.string()?;
            self.space();
            if self.byte() != Some(b':') {
                return self.wrong("a colon is missing");
            }
            self.at += 1;
            each(self, name)?;
            if self.closes(b'}') {
                return Ok(());
            }
            self.comma()?;
        }
    }

    /// The items of an array: `each` passes over a value, and is told its number.
    pub(super) fn items(&mut self, mut each: impl FnMut(&mut Self, usize) -> Scanned<()>) -> Scanned<()> {
        self.enter()?;
        if self.closes(b']') {
            return Ok(());
        }
        for number in 0.. {
            each(self, number)?;
            if self.closes(b']') {
                break;
            }
            self.comma()?;
        }
        Ok(())
    }

    fn enter(&mut self) -> Scanned<()> {
        self.depth += 1;
        if self.depth > JSON_DEPTH_LIMIT {
            return self.wrong("it is nested too deeply");
        }
        self.at += 1;
        Ok(())
    }

    fn closes(&mut self, end: u8) -> bool {
        self.space();
        let closes = self.byte() == Some(end);
        if closes {
            self.at += 1;
            self.depth -= 1;
        }
        closes
    }

    fn comma(&mut self) -> Scanned<()> {
        if self.byte() != Some(b',') {
            return self.wrong("a comma is missing");
        }
        self.at += 1;
        Ok(())
    }

    /// A string; gives the place within its quotes.
    fn string(&mut self) -> Scanned<Range<usize>> {
        self.at += 1;
        let start = self.at;
        loop {
            match self.byte() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(start..self.at - 1);
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape()?;
                }
                Some(0..0x20) => return self.wrong("a control character in a text"),
                Some(_) => self.at += 1,
                None => return self.wrong("a text is not closed"),
            }
        }
    }

    fn escape(&mut self) -> Scanned<()> {
        match self.byte() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                let digits = self.text.as_bytes().get(self.at + 1..self.at + 5);
                if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
                    return self.wrong("\\u has four digits");
                }
                self.at += 5;
            }
            _ => return self.wrong("no such escape"),
        }
        Ok(())
    }

    fn digits(&mut self) -> Scanned<()> {
        if !self.byte().is_some_and(|byte| byte.is_ascii_digit()) {
            return self.wrong("a digit is missing");
        }
        while self.byte().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Scanned<()> {
        self.at += usize::from(self.byte() == Some(b'-'));
        if self.byte() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(())
    }

    fn word(&mut self) -> Scanned<()> {
        let rest = &self.text[self.at..];
        let word = ["true", "false", "null"].into_iter().find(|word| rest.starts_with(word));
        match word {
            Some(word) => self.at += word.len(),
            None => return self.wrong("no value begins so"),
        }
        Ok(())
    }

    fn walk(&mut self, path: &[Step], all: bool, found: &mut Vec<Range<usize>>) -> Scanned<()> {
        let Some((step, rest)) = path.split_first() else {
            let place = self.value()?;
            if all || found.is_empty() {
                found.push(place);
            }
            return Ok(());
        };
        let start = *self;
        match (self.kind()?, step) {
            (Kind::Object, Step::Member(_) | Step::AnyMember) => {
                let mut first = true;
                let text = self.text;
                self.members(|scanner, name| {
                    let wanted = match step {
                        Step::Member(wanted) => first && unescape(&text[name]) == wanted.as_str(),
                        _ => true,
                    };
                    if !wanted {
                        return scanner.value().map(drop);
                    }
                    first &= !matches!(step, Step::Member(_));
                    scanner.walk(rest, all, found)
                })
            }
            (Kind::Array, Step::Item(_) | Step::AnyItem) => {
                let wanted = match step {
                    Step::Item(number) if *number < 0 => {
                        let mut count = 0_i64;
                        self.clone().items(|scanner, _| {
                            count += 1;
                            scanner.value().map(drop)
                        })?;
                        Some(count + number)
                    }
                    Step::Item(number) => Some(*number),
                    _ => None,
                };
                self.items(|scanner, number| {
                    if wanted.is_none_or(|wanted| usize::try_from(wanted) == Ok(number)) {
                        scanner.walk(rest, all, found)
                    } else {
                        scanner.value().map(drop)
                    }
                })
            }
            (kind, Step::Anywhere) => {
                start.clone().walk(rest, all, found)?;
                match kind {
                    Kind::Object => self.members(|scanner, _| scanner.walk(path, all, found)),
                    Kind::Array => self.items(|scanner, _| scanner.walk(path, all, found)),
                    _ => self.value().map(drop),
                }
            }
            _ => self.value().map(drop),
        }
    }
}

/// The value without white space around its parts; with `indent`, on as many lines.
pub(super) fn write(text: &str, out: &mut String, indent: Option<usize>) -> Scanned<()> {
    let mut scanner = Scanner::new(text);
    write_value(&mut scanner, out, indent)?;
    scanner.end()
}

fn write_value(scanner: &mut Scanner<'_>, out: &mut String, indent: Option<usize>) -> Scanned<()> {
    let text = scanner.text;
    let inner = indent.map(|indent| indent + 1);
    let line = |out: &mut String, indent: Option<usize>| {
        if let Some(indent) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n("    ", indent));
        }
    };
    let mut empty = true;
    match scanner.kind()? {
        Kind::Object => {
            out.push('{');
            scanner.members(|scanner, name| {
                out.push_str(if empty { "" } else { "," });
                empty = false;
                line(out, inner);
                write_text(&text[name], out);
                out.push_str(if indent.is_some() { ": " } else { ":" });
                write_value(scanner, out, inner)
            })?;
            line(out, indent.filter(|_| !empty));
            out.push('}');
        }
        Kind::Array => {
            out.push('[');
            scanner.items(|scanner, _| {
                out.push_str(if empty { "" } else { "," });
                empty = false;
                line(out, inner);
                write_value(scanner, out, inner)
            })?;
            line(out, indent.filter(|_| !empty));
            out.push(']');
        }
        Kind::Text => {
            let place = scanner.value()?;
            write_text(&text[place.start + 1..place.end - 1], out);
        }
        _ => out.push_str(&text[scanner.value()?]),
    }
    Ok(())
}

/// A text of JSON, its escapes only where they are needed.
fn write_text(raw: &str, out: &mut String) {
    match unescape(raw) {
        Cow::Borrowed(text) => {
            out.push('"');
            out.push_str(text);
            out.push('"');
        }
        Cow::Owned(text) => write_string(&text, out),
    }
}

/// A text as JSON.
pub(super) fn write_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// What a text of JSON means, without its quotes.
pub(super) fn unescape(raw: &str) -> Cow<'_, str> {
    if !raw.contains('\\') {
        return Cow::Borrowed(raw);
    }
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let escape = rest.as_bytes().get(at + 1).copied().unwrap_or(b'\\');
        rest = rest.get(at + 2..).unwrap_or("");
        text.push(match escape {
            b'n' => '\n',
            b't' => '\t',
            b'r' => '\r',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'u' => {
                let (c, behind) = unicode(rest);
                rest = behind;
                c
            }
            other => char::from(other),
        });
    }
    text.push_str(rest);
    Cow::Owned(text)
}

/// The character of four digits, or of a pair of surrogates, and what follows.
fn unicode(rest: &str) -> (char, &str) {
    let unit = |text: &str| text.get(..4).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let first = unit(rest).unwrap_or(0xfffd);
    let behind = rest.get(4..).unwrap_or("");
    if let Some(tail) = behind.strip_prefix("\\u")
        && (0xd800..0xdc00).contains(&first)
        && let Some(second) = unit(tail).filter(|second| (0xdc00..0xe000).contains(second))
    {
        let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
        return (char::from_u32(code).unwrap_or('\u{fffd}'), tail.get(4..).unwrap_or(""));
    }
    (char::from_u32(first).unwrap_or('\u{fffd}'), behind)
}
