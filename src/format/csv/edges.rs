//! Where a file can be cut, so that several threads read it.
//!
//! Enters: a file and its dialect. Leaves: places where a batch of rows begins, with their lines. Always holds: all
//! before such a place is sound and of the right width, so that reading the pieces by themselves gives the very
//! batches that reading the whole gives. Where that cannot be told, there is no further place.
//!
//! Whether a line end is one of data depends on all quotes before it. So one pass over the file looks at them: it
//! makes nothing of what it sees, and is many times faster than reading.

use std::fs::File;
use std::io::Read;

use memchr::{memchr2, memchr3};

use super::records::skip_empty;
use super::{Dialect, lines};
use crate::config::RECORD_BYTES_LIMIT;

/// Bytes that are looked at at once.
const PIECE_BYTES: usize = 1 << 20;

/// A place where a batch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// Bytes before it.
    pub offset: u64,
    /// Its line, from 1.
    pub line: u64,
}

/// The places of one file, found as they are asked for.
#[derive(Debug)]
pub struct Edges<R = File> {
    file: R,
    dialect: Dialect,
    width: usize,
    batch_rows: usize,
    known: Vec<Edge>,
    /// What is read of the batch that is looked at, where it begins in the file, and how far it is looked at.
    text: Vec<u8>,
    start: Edge,
    place: usize,
    rows: usize,
    begun: bool,
    done: bool,
}

enum Skim {
    /// A record of so many fields; what is behind it begins here.
    Record(usize, usize),
    Cut,
    Unsound,
}

impl<R: Read> Edges<R> {
    /// The places of a file of `width` columns that is read in batches of `batch_rows`.
    pub fn new(file: R, dialect: Dialect, width: usize, batch_rows: usize) -> Self {
        Self {
            file,
            dialect,
            width,
            batch_rows: batch_rows.max(1),
            known: Vec::new(),
            text: Vec::new(),
            start: Edge { offset: 0, line: 1 },
            place: 0,
            rows: 0,
            begun: false,
            done: false,
        }
    }

    /// The first place at `target` or behind it; nothing if there is none.
    pub fn at(&mut self, target: u64) -> Option<Edge> {
        while !self.done && self.known.last().is_none_or(|last| last.offset < target) {
            self.advance();
        }
        let at = self.known.partition_point(|edge| edge.offset < target);
        self.known.get(at).copied()
    }

    /// Looks at what is there, then reads more.
    fn advance(&mut self) {
        if !self.begun && self.place == 0 && self.text.starts_with(b"\xef\xbb\xbf") {
            self.place = 3;
        }
        while !self.done {
            match skim(&self.text, self.place, &self.dialect) {
                Skim::Record(next, width) => self.pass(next, width),
                Skim::Unsound => self.done = true,
                Skim::Cut => break,
            }
            if self.rows == 0 && self.begun && self.place == 0 {
                // A new edge is known.
                return;
            }
        }
        let before = self.text.len();
        self.text.resize(before + PIECE_BYTES, 0);
        let count = self.file.read(&mut self.text[before..]).unwrap_or(0);
        self.text.truncate(before + count);
        self.done |= count == 0 || before - self.place > RECORD_BYTES_LIMIT;
    }

    fn pass(&mut self, next: usize, width: usize) {
        self.place = next;
        if !self.begun && self.dialect.header {
            self.begun = true;
            return;
        }
        self.begun = true;
        self.rows += 1;
        if width != self.width {
            self.done = true;
        } else if self.rows == self.batch_rows {
            let passed = &self.text[..next];
            self.start = Edge { offset: self.start.offset + next as u64, line: self.start.line + lines(passed) };
            self.known.push(self.start);
            self.text.drain(..next);
            (self.place, self.rows) = (0, 0);
        }
    }
}

/// Passes over a record and the line end behind it.
fn skim(bytes: &[u8], at: usize, dialect: &Dialect) -> Skim {
    let Some(mut place) = skip_empty(bytes, at, dialect) else { return Skim::Cut };
    let mut width = 0;
    loop {
        let end = match dialect.quote {
            Some(quote) if bytes.get(place) == Some(&quote) => match quoted(bytes, place, dialect, quote) {
                Ok(end) => end,
                Err(other) => return other,
            },
            _ => {
                let rest = bytes.get(place..).unwrap_or_default();
                let Some(length) = memchr3(dialect.delimiter, b'\n', b'\r', rest) else { return Skim::Cut };
                place + length
            }
        };
        width += 1;
        if bytes[end] == dialect.delimiter {
            place = end + 1;
            continue;
        }
        return match (bytes[end], bytes.get(end + 1)) {
            // A line end of two bytes is not parted.
            (b'\r', None) => Skim::Cut,
            (b'\r', Some(b'\n')) => Skim::Record(end + 2, width),
            _ => Skim::Record(end + 1, width),
        };
    }
}

/// The delimiter or line end behind a quoted field.
fn quoted(bytes: &[u8], at: usize, dialect: &Dialect, quote: u8) -> Result<usize, Skim> {
    let mut place = at + 1;
    loop {
        let rest = bytes.get(place..).unwrap_or_default();
        let Some(length) = memchr2(quote, dialect.escape.unwrap_or(quote), rest) else { return Err(Skim::Cut) };
        let mark = place + length;
        let Some(next) = bytes.get(mark + 1) else { return Err(Skim::Cut) };
        if bytes[mark] != quote || *next == quote {
            place = mark + 2;
        } else if *next == dialect.delimiter || matches!(next, b'\n' | b'\r') {
            return Ok(mark + 1);
        } else {
            return Err(Skim::Unsound);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::compute::concat_batches;
    use arrow::datatypes::{DataType, Field, Schema};
    use arrow::record_batch::RecordBatch;
    use proptest::prelude::*;

    use super::super::CsvDecoder;
    use super::*;

    const BATCH: usize = 4;

    fn schema() -> Arc<Schema> {
        Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)]))
    }

    /// What a piece of a file is; `edge`: where it begins.
    fn read(text: &[u8], edge: Option<Edge>) -> Result<Vec<RecordBatch>, String> {
        let told = Arc::new(|_| ());
        let mut decoder = CsvDecoder::new("t".into(), Dialect::default(), schema(), vec![0, 1], BATCH, told);
        if let Some(edge) = edge {
            decoder.begin_at(edge.line);
        }
        decoder.push(text);
        let mut batches = Vec::new();
        while let Some(batch) = decoder.next(true).map_err(|error| error.message)? {
            batches.push(batch);
        }
        Ok(batches)
    }

    fn cut(text: &[u8], target: u64) -> Option<Edge> {
        Edges::new(text, Dialect::default(), 2, BATCH).at(target)
    }

    #[test]
    fn a_line_end_within_quotes_is_no_edge() {
        let text = format!("a,b\n{}", "1,\"x\n2,y\"\r\n".repeat(10));
        let edge = cut(text.as_bytes(), 5).expect("an edge");
        assert_eq!(edge, Edge { offset: 4 + 4 * 11, line: 10 });
        assert_eq!(cut(text.as_bytes(), 93), None);
        for odd in ["1,\"x\n", "1\n", "1,\"x\"y\n"] {
            let text = format!("a,b\n{odd}{}", "1,x\n".repeat(10));
            assert_eq!(cut(text.as_bytes(), 5), None, "{odd}");
        }
    }

    proptest! {
        /// Two pieces are the whole, also in their errors, wherever the cut is asked for.
        #[test]
        fn pieces_are_the_whole(
            rows in prop::collection::vec(0_usize..9, 0..60),
            target in 0_u64..600,
        ) {
            const ROWS: [&str; 9] = [
                "1,x\n", "22,\"y\"\n", "3,\"a\nb\"\n", "4,\"q\"\"q\"\r\n", "\n", "5,\n", "6,a\"b\n", ",\"\"\n", "7,\"w\"w\n",
            ];
            let body: String = rows.iter().map(|row| ROWS[*row]).collect();
            let text = format!("a,b\n{body}");
            let whole = read(text.as_bytes(), None);
            let edge = cut(text.as_bytes(), target);
            let middle = edge.map_or(text.len(), |edge| edge.offset as usize);
            let first = read(&text.as_bytes()[..middle], None);
            let second = edge.map_or(Ok(Vec::new()), |edge| read(&text.as_bytes()[middle..], Some(edge)));
            match (whole, first, second) {
                (Ok(whole), Ok(first), Ok(second)) => {
                    let pieces = [first, second].concat();
                    let one = |batches: &[RecordBatch]| concat_batches(&schema(), batches).expect("one batch");
                    prop_assert_eq!(one(&whole), one(&pieces));
                }
                (Err(whole), first, second) => prop_assert_eq!(whole, first.err().or(second.err()).unwrap_or_default()),
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
