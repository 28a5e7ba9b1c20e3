//! Bytes → records, one by one and strictly.
//!
//! Enters: text and a dialect. Leaves: records of fields, in one arena. Always holds: a record whose quotes are
//! not sound is one line, its stray quotes are text, and it is marked.

use memchr::{memchr, memchr2, memchr3};

use super::Dialect;

/// Records, and the text of their fields.
#[derive(Debug, Default)]
pub struct Records {
    text: Vec<u8>,
    /// Where each field ends in `text`.
    ends: Vec<usize>,
    /// For each record.
    marks: Vec<Mark>,
}

/// Where a record is.
#[derive(Debug, Clone, Copy)]
struct Mark {
    first: usize,
    start: usize,
    end: usize,
    sound: bool,
}

/// What the reading of a record gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A record; the next begins here.
    Read(usize),
    /// The text ends within a record, which begins here.
    Cut(usize),
    /// No more records.
    End,
}

enum Field {
    /// The field ends before a delimiter; the next begins here.
    Next(usize),
    /// The record ends here.
    Last(usize),
    Cut,
    /// A quote is closed within a field, or never.
    Unsound,
}

impl Records {
    /// The number of records.
    pub fn len(&self) -> usize {
        self.marks.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// The fields of a record.
    pub fn fields(&self, record: usize) -> impl ExactSizeIterator<Item = &[u8]> {
        let first = self.marks[record].first;
        let behind = self.marks.get(record + 1).map_or(self.ends.len(), |next| next.first);
        (first..behind).map(|at| &self.text[if at == 0 { 0 } else { self.ends[at - 1] }..self.ends[at]])
    }

    /// The number of fields of a record.
    pub fn width(&self, record: usize) -> usize {
        self.marks.get(record + 1).map_or(self.ends.len(), |next| next.first) - self.marks[record].first
    }

    /// False if a quote within it was taken for text.
    pub fn is_sound(&self, record: usize) -> bool {
        self.marks[record].sound
    }

    /// Where the record stands in the bytes that were read.
    pub fn range(&self, record: usize) -> std::ops::Range<usize> {
        self.marks[record].start..self.marks[record].end
    }

    /// Reads the record at `at`. `whole`: no bytes follow.
    pub fn read(&mut self, bytes: &[u8], at: usize, dialect: &Dialect, whole: bool) -> Step {
        let Some(start) = skip_empty(bytes, at, dialect) else {
            return if whole { Step::End } else { Step::Cut(at) };
        };
        if start >= bytes.len() {
            return if whole { Step::End } else { Step::Cut(at) };
        }
        let before = (self.text.len(), self.ends.len());
        let mut place = start;
        loop {
            match self.field(bytes, place, dialect, whole) {
                Field::Next(next) => place = next,
                Field::Last(end) => {
                    self.marks.push(Mark { first: before.1, start, end, sound: true });
                    return Step::Read(end);
                }
                Field::Cut => {
                    self.text.truncate(before.0);
                    self.ends.truncate(before.1);
                    return Step::Cut(start);
                }
                Field::Unsound => {
                    self.text.truncate(before.0);
                    self.ends.truncate(before.1);
                    return self.read_line(bytes, start, dialect, whole);
                }
            }
        }
    }

    /// Takes back the last record.
    pub fn pop(&mut self) {
        if let Some(mark) = self.marks.pop() {
            self.ends.truncate(mark.first);
            self.text.truncate(self.ends.last().copied().unwrap_or(0));
        }
    }

    /// Reads one line as a record, in which a quote that is not closed before the next delimiter is text.
    pub fn read_line(&mut self, bytes: &[u8], start: usize, dialect: &Dialect, whole: bool) -> Step {
        let end = match memchr2(b'\n', b'\r', &bytes[start..]) {
            Some(length) => start + length,
            None if whole => bytes.len(),
            None => return Step::Cut(start),
        };
        let line = &bytes[start..end];
        self.marks.push(Mark { first: self.ends.len(), start, end, sound: false });
        let mut place = 0;
        loop {
            while dialect.quote.is_some() && line.get(place).copied() == dialect.quote && !closes(line, place, dialect)
            {
                self.text.push(line[place]);
                place += 1;
            }
            match self.field(line, place, dialect, true) {
                Field::Next(next) => place = next,
                _ => return Step::Read(end),
            }
        }
    }

    fn field(&mut self, bytes: &[u8], at: usize, dialect: &Dialect, whole: bool) -> Field {
        match dialect.quote {
            Some(quote) if bytes.get(at) == Some(&quote) => self.quoted(bytes, at, dialect, quote, whole),
            _ => {
                let length = memchr3(dialect.delimiter, b'\n', b'\r', &bytes[at..]);
                let Some(length) = length.or(whole.then_some(bytes.len() - at)) else { return Field::Cut };
                self.text.extend_from_slice(&bytes[at..at + length]);
                self.close(bytes, at + length, dialect)
            }
        }
    }

    fn close(&mut self, bytes: &[u8], at: usize, dialect: &Dialect) -> Field {
        self.ends.push(self.text.len());
        if bytes.get(at) == Some(&dialect.delimiter) { Field::Next(at + 1) } else { Field::Last(at) }
    }

    fn quoted(&mut self, bytes: &[u8], at: usize, dialect: &Dialect, quote: u8, whole: bool) -> Field {
        let mut place = at + 1;
        loop {
            let found = memchr2(quote, dialect.escape.unwrap_or(quote), &bytes[place..]);
            let Some(length) = found else { return if whole { Field::Unsound } else { Field::Cut } };
            let mark = place + length;
            self.text.extend_from_slice(&bytes[place..mark]);
            let next = bytes.get(mark + 1).copied();
            if bytes[mark] == quote && next != Some(quote) {
                return match next {
                    None if !whole => Field::Cut,
                    None | Some(b'\n' | b'\r') => self.close(bytes, mark + 1, dialect),
                    Some(byte) if byte == dialect.delimiter => self.close(bytes, mark + 1, dialect),
                    Some(_) => Field::Unsound,
                };
            }
            match next {
                None => return if whole { Field::Unsound } else { Field::Cut },
                // An escape before anything but a quote or itself is text.
                Some(byte) if bytes[mark] != quote && byte != quote && byte != bytes[mark] => {
                    self.text.push(bytes[mark]);
                    place = mark + 1;
                }
                Some(byte) => {
                    self.text.push(byte);
                    place = mark + 2;
                }
            }
        }
    }
}

/// True if the quote at `at` opens a field that the next quote closes.
fn closes(line: &[u8], at: usize, dialect: &Dialect) -> bool {
    let mut trial = Records::default();
    let quote = dialect.quote.unwrap_or_default();
    matches!(trial.quoted(line, at, dialect, quote, true), Field::Next(_) | Field::Last(_))
}

/// The start of the next record, behind empty lines and comments; nothing if a comment has no end.
pub(super) fn skip_empty(bytes: &[u8], mut at: usize, dialect: &Dialect) -> Option<usize> {
    loop {
        match bytes.get(at) {
            Some(b'\n' | b'\r') => at += 1,
            Some(byte) if Some(*byte) == dialect.comment => at += memchr2(b'\n', b'\r', &bytes[at..])?,
            _ => return Some(at),
        }
    }
}

/// The number of line ends.
pub fn lines(bytes: &[u8]) -> u64 {
    let feeds = memchr::memchr_iter(b'\n', bytes).count() as u64;
    if feeds == 0 { memchr::memchr_iter(b'\r', bytes).count() as u64 } else { feeds }
}

/// True if each quote that opens a field is closed before a delimiter or the end of a line: arrow's decoder reads
/// such text as [`Records`] does.
pub(super) fn is_sound(bytes: &[u8], dialect: &Dialect) -> bool {
    let Some(quote) = dialect.quote else { return true };
    let ends = |byte: u8| byte == dialect.delimiter || byte == b'\n' || byte == b'\r';
    let mut place = 0;
    while let Some(length) = memchr(quote, &bytes[place..]) {
        let open = place + length;
        place = open + 1;
        if open > 0 && !ends(bytes[open - 1]) {
            continue;
        }
        loop {
            let Some(length) = memchr2(quote, dialect.escape.unwrap_or(quote), &bytes[place..]) else { return false };
            let mark = place + length;
            let next = bytes.get(mark + 1).copied();
            if bytes[mark] != quote || next == Some(quote) {
                place = (mark + 2).min(bytes.len());
                continue;
            }
            if next.is_some_and(|byte| !ends(byte)) {
                return false;
            }
            place = mark + 1;
            break;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(Vec<String>, bool)> {
        let (mut records, dialect, mut at) = (Records::default(), Dialect::default(), 0);
        while let Step::Read(next) = records.read(text.as_bytes(), at, &dialect, true) {
            at = next;
        }
        let texts = |at| records.fields(at).map(|field| String::from_utf8_lossy(field).into_owned()).collect();
        (0..records.len()).map(|at| (texts(at), records.is_sound(at))).collect()
    }

    #[test]
    fn quotes_that_are_not_closed_are_text_on_their_line() {
        assert_eq!(read("a,\"b \"\"c\"\"\nd\"\n\n1,2\r\n").len(), 2);
        let stray = read("1,\"x,y\n2,\"z\",3\n");
        assert_eq!(stray[0], (vec!["1".into(), "\"x".into(), "y".into()], false));
        assert_eq!(stray[1], (vec!["2".into(), "z".into(), "3".into()], true));
        assert_eq!(read("\"\"a\",b\n")[0].0, ["\"a", "b"]);
    }

    #[test]
    fn sound_text_is_told_from_unsound() {
        let dialect = Dialect::default();
        for text in ["a,\"b\"\n", "a,\"\"\"b\",c\n", "5\" pipe,x\n", "\"\"\n"] {
            assert!(is_sound(text.as_bytes(), &dialect), "{text}");
        }
        for text in ["a,\"b\"c\n", "a,\"b\n", "\"\"a\",b\n"] {
            assert!(!is_sound(text.as_bytes(), &dialect), "{text}");
        }
    }
}
