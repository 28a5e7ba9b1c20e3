//! A JSON text, piece by piece → rows.
//!
//! Enters: the bytes of a text in pieces of any size: objects one after the other, on lines or not, or one array
//! of objects. Leaves: batches of the columns that were asked for, or a [`Problem`] with its place. Always holds:
//! an object is taken whole or not at all; at the end nothing is left over, and nothing is missing.

use arrow::array::RecordBatchOptions;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

use super::column::{Column, Members, Structs};
use super::scan::{Fault, Scan, Scanner, Wrong, WrongKind};
use crate::config::{JSON_BATCH_BYTES, RECORD_BYTES_LIMIT};
use crate::error::{Error, Result};

/// What is wrong with a JSON text, and where.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The byte of the text.
    pub offset: u64,
    /// The first byte of the object that it stands in.
    pub object: u64,
    /// The column, with the names of the members inside of it behind points; empty: none.
    pub member: String,
    /// What is wrong.
    pub what: String,
    /// What kind of mistake it is.
    pub kind: WrongKind,
}

/// How the objects of a text follow each other, and what must come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Its start has not been seen.
    Unknown,
    /// One after the other.
    Lines,
    /// An array: an object, or its end.
    ArrayStart,
    /// An array: an object.
    ArrayObject,
    /// An array: a comma, or its end.
    ArrayComma,
    /// An array that has ended.
    Closed,
}

/// Takes objects.
pub(super) trait Reader {
    /// Takes the object whose brace is next and which stands at `offset` of the whole text.
    fn read(&mut self, scanner: &mut Scanner<'_>, offset: u64) -> Scan<()>;
    /// Takes back what it has of an object that failed.
    fn undo(&mut self);
}

/// The objects of a text that comes in pieces.
#[derive(Debug)]
pub struct Records {
    text: String,
    /// Where in `text` the next object is looked for.
    at: usize,
    /// The place of `text` in the whole.
    offset: u64,
    /// The first bytes of a character whose last ones have not come.
    tail: Vec<u8>,
    /// Behind `text` come bytes that are no UTF-8.
    invalid: bool,
    form: Form,
    ended: bool,
    /// An object did not end yet: no use to try again before `text` is as long as this.
    wait: usize,
    /// An object that takes several lines is an error.
    one_line: bool,
}

impl Default for Records {
    fn default() -> Self {
        Self {
            text: String::new(),
            at: 0,
            offset: 0,
            tail: Vec::new(),
            invalid: false,
            form: Form::Unknown,
            ended: false,
            wait: 0,
            one_line: false,
        }
    }
}

impl Records {
    /// Of objects one after the other, from a place in a text that is no array.
    pub fn lines_from(offset: u64) -> Self {
        Self { offset, form: Form::Lines, ..Self::default() }
    }

    /// Of objects that each stand on one line, so that a text can be cut at any line end.
    pub fn one_a_line() -> Self {
        Self { one_line: true, ..Self::lines_from(0) }
    }

    /// True if the text, as far as it has been read, is one array.
    pub fn is_array(&self) -> bool {
        !matches!(self.form, Form::Unknown | Form::Lines)
    }

    fn place(&self, at: usize) -> u64 {
        self.offset + at as u64
    }

    /// Adds a piece of the text.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.at > 0 {
            self.text.drain(..self.at);
            self.offset += self.at as u64;
            self.wait = self.wait.saturating_sub(self.at);
            self.at = 0;
        }
        let joined = (!self.tail.is_empty()).then(|| [self.tail.as_slice(), bytes].concat());
        let bytes = joined.as_deref().unwrap_or(bytes);
        self.tail.clear();
        if self.invalid {
            return;
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text.push_str(text),
            Err(error) => {
                let (text, rest) = bytes.split_at(error.valid_up_to());
                self.text.push_str(std::str::from_utf8(text).unwrap_or_default());
                self.invalid = error.error_len().is_some();
                self.tail.extend_from_slice(if self.invalid { &[] } else { rest });
            }
        }
    }

    /// No piece will follow.
    pub fn end(&mut self) {
        self.ended = true;
        self.invalid |= !self.tail.is_empty();
        self.wait = 0;
    }

    /// Gives the objects that have come whole to a reader, one at a time, until they are `rows`, or `bytes` of
    /// text; says how many.
    pub(super) fn read(&mut self, rows: usize, bytes: u64, reader: &mut impl Reader) -> Result<usize, Problem> {
        let (mut count, start) = (0, self.place(self.at));
        while count < rows && self.place(self.at) - start < bytes && self.text.len() >= self.wait {
            match self.step(reader) {
                Ok(true) => count += 1,
                Ok(false) => break,
                Err(Fault::Cut) => {
                    reader.undo();
                    self.cut()?;
                    break;
                }
                Err(Fault::Wrong(wrong)) => {
                    reader.undo();
                    return Err(self.problem(*wrong));
                }
            }
        }
        Ok(count)
    }

    /// Reads the next object, if it is there.
    fn step(&mut self, reader: &mut impl Reader) -> Scan<bool> {
        if !self.next()? {
            return Ok(false);
        }
        let mut scanner = Scanner::new(&self.text, self.at);
        reader.read(&mut scanner, self.offset + self.at as u64)?;
        if scanner.at - self.at > RECORD_BYTES_LIMIT {
            return scanner.wrong(WrongKind::Size, self.at, too_long());
        }
        if self.one_line && scanner.on_lines {
            return scanner.wrong(WrongKind::Syntax, self.at, NOT_ONE_LINE);
        }
        self.at = scanner.at;
        if self.form != Form::Lines {
            self.form = Form::ArrayComma;
        }
        Ok(true)
    }

    /// Goes to the start of the next object; false: it has not come, or there is none.
    fn next(&mut self) -> Scan<bool> {
        const MARK: char = '\u{feff}';
        if self.form == Form::Unknown && self.place(self.at) == 0 && self.text.starts_with(MARK) {
            self.at = MARK.len_utf8();
        }
        loop {
            let mut scanner = Scanner::new(&self.text, self.at);
            let found = scanner.peek();
            self.at = scanner.at;
            let Some(byte) = found else {
                let open = matches!(self.form, Form::ArrayStart | Form::ArrayObject | Form::ArrayComma);
                return if self.invalid || (self.ended && open) { Err(Fault::Cut) } else { Ok(false) };
            };
            self.form = match (self.form, byte) {
                (Form::Lines | Form::ArrayStart | Form::ArrayObject, b'{') => return Ok(true),
                (Form::Unknown, b'{') => {
                    self.form = Form::Lines;
                    return Ok(true);
                }
                (Form::Unknown, b'[') => Form::ArrayStart,
                (Form::ArrayComma, b',') => Form::ArrayObject,
                (Form::ArrayStart | Form::ArrayComma, b']') => Form::Closed,
                (form, _) => {
                    let expected = match form {
                        Form::ArrayComma => "expected ',' or ']' behind an object",
                        Form::Closed => "expected nothing behind the array",
                        _ => "expected an object",
                    };
                    let what = format!("{expected}, found {}", scanner.shown());
                    return scanner.wrong(WrongKind::Syntax, self.at, what);
                }
            };
            self.at += 1;
        }
    }

    /// An object does not end in what has come: an error, if nothing more will come.
    fn cut(&mut self) -> Result<(), Problem> {
        /// Longer objects are tried again only when there is twice as much of them: else their reading would
        /// take time quadratic in their length.
        const SHORT: usize = 1 << 16;
        let length = self.text.len() - self.at;
        let problem = |at: u64, kind, what: &str| {
            let object = self.place(self.at);
            Err(Problem { offset: at, object, member: String::new(), what: what.to_owned(), kind })
        };
        if self.invalid {
            return problem(self.place(self.text.len()), WrongKind::Syntax, NOT_UTF8);
        }
        if self.ended {
            return if length == 0 {
                problem(self.place(self.at), WrongKind::Syntax, "the array does not end: its last part is missing")
            } else {
                problem(self.place(self.at), WrongKind::Syntax, "this object does not end: the rest is missing")
            };
        }
        if length > RECORD_BYTES_LIMIT {
            return problem(self.place(self.at), WrongKind::Size, &too_long());
        }
        self.wait = if length > SHORT { self.text.len() + length } else { 0 };
        Ok(())
    }

    fn problem(&self, wrong: Wrong) -> Problem {
        let Wrong { at, member, what, kind } = wrong;
        Problem { offset: self.place(at), object: self.place(self.at), member: member.join("."), what, kind }
    }
}

/// What is said of bytes that are no text.
pub const NOT_UTF8: &str = "not UTF-8";

/// What is said of an object on several lines where it must stand on one.
pub const NOT_ONE_LINE: &str = "an object of a growing file stands on one line";

fn too_long() -> String {
    format!("a record is longer than {} MB", RECORD_BYTES_LIMIT >> 20)
}

/// The rows that have been read since the last batch.
struct Rows {
    columns: Structs,
    /// Where each began.
    places: Vec<u64>,
}

impl Reader for Rows {
    fn read(&mut self, scanner: &mut Scanner<'_>, offset: u64) -> Scan<()> {
        self.columns.row(scanner)?;
        self.places.push(offset);
        Ok(())
    }

    fn undo(&mut self) {
        self.columns.truncate(self.places.len());
    }
}

/// Reads batches from a JSON text.
pub struct JsonDecoder {
    records: Records,
    rows: Rows,
    schema: SchemaRef,
    batch_rows: usize,
    batch_bytes: u64,
}

impl JsonDecoder {
    /// A decoder of `records`, whose objects have the members of `schema`, in batches of the columns at the
    /// positions `read` of up to `batch_rows` rows.
    pub fn new(
        records: Records,
        schema: &Schema,
        read: &[usize],
        members: Members,
        batch_rows: usize,
    ) -> Result<Self, ArrowError> {
        Ok(Self {
            records,
            rows: Rows { columns: Structs::new(schema.fields(), Some(read), members)?, places: Vec::new() },
            schema: SchemaRef::new(schema.project(read)?),
            batch_rows: batch_rows.max(1),
            batch_bytes: 0,
        })
    }

    /// Adds a piece of the text.
    pub fn push(&mut self, bytes: &[u8]) {
        self.records.push(bytes);
    }

    /// No piece will follow.
    pub fn end(&mut self) {
        self.records.end();
    }

    /// The next full batch; at the end, the last rows. Nothing: more text is needed, or there is none.
    pub fn next_batch(&mut self) -> Result<Option<RecordBatch>, Problem> {
        let want = self.batch_rows - self.rows.places.len();
        let before = self.records.place(self.records.at);
        let bytes = JSON_BATCH_BYTES.saturating_sub(self.batch_bytes);
        self.records.read(want, bytes, &mut self.rows)?;
        self.batch_bytes += self.records.place(self.records.at) - before;
        let full = self.rows.places.len() >= self.batch_rows || self.batch_bytes >= JSON_BATCH_BYTES;
        if full || self.records.ended { self.flush() } else { Ok(None) }
    }

    /// The rows that have come since the last batch, if any.
    pub fn flush(&mut self) -> Result<Option<RecordBatch>, Problem> {
        let places = std::mem::take(&mut self.rows.places);
        self.batch_bytes = 0;
        if places.is_empty() {
            return Ok(None);
        }
        let problem = |(row, member, error): (usize, String, ArrowError)| {
            let object = places.get(row).copied().unwrap_or_default();
            Problem { offset: object, object, member, what: Error::from(error).message, kind: WrongKind::Value }
        };
        let columns = self.rows.columns.take().map_err(problem)?;
        let options = RecordBatchOptions::new().with_row_count(Some(places.len()));
        let batch = RecordBatch::try_new_with_options(SchemaRef::clone(&self.schema), columns, &options);
        batch.map(Some).map_err(|error| problem((0, String::new(), error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::AsArray;
    use arrow::compute::concat_batches;
    use arrow::datatypes::{DataType, Field, Int64Type};
    use proptest::prelude::*;

    fn schema() -> Schema {
        let point = DataType::Struct(vec![Field::new("x", DataType::Float64, true)].into());
        let list = DataType::List(Field::new("item", DataType::Utf8, true).into());
        Schema::new(vec![
            Field::new("n", DataType::Int64, true),
            Field::new("t", DataType::Utf8, true),
            Field::new("p", point, true),
            Field::new("l", list, true),
        ])
    }

    /// All rows of a text that comes in pieces of `piece` bytes.
    fn rows(text: &[u8], piece: usize, batch: usize) -> Result<RecordBatch, Problem> {
        let schema = schema();
        let mut decoder =
            JsonDecoder::new(Records::default(), &schema, &[0, 1, 2, 3], Members::Refused, batch).expect("a decoder");
        let mut batches = Vec::new();
        for piece in text.chunks(piece) {
            decoder.push(piece);
            while let Some(batch) = decoder.next_batch()? {
                batches.push(batch);
            }
        }
        decoder.end();
        while let Some(batch) = decoder.next_batch()? {
            batches.push(batch);
        }
        Ok(concat_batches(&SchemaRef::new(schema), &batches).expect("one batch"))
    }

    const TEXT: &str = r#"{"n":1,"t":"é\u00e9","p":{"x":1.5},"l":["a",2,null]}
        {"t":7.50,"n":-2.0} {"p":null,"l":[],"t":{"a": [1]}}
        {
          "p": {}, "n": 9223372036854775807, "n": 4
        }"#;

    proptest! {
        #[test]
        fn pieces_of_any_size_give_the_same_rows(piece in 1_usize..120, batch in 1_usize..6, array in any::<bool>()) {
            let array_text = format!("\u{feff} [{}]\n", TEXT.replace("}\n", "},\n").replace("} {", "}, {"));
            let text = if array { array_text.as_str() } else { TEXT };
            let got = rows(text.as_bytes(), piece, batch).expect("rows");
            prop_assert_eq!(got, rows(TEXT.as_bytes(), TEXT.len(), 100).expect("rows"));
        }
    }

    #[test]
    fn values_stay_what_they_are() {
        let got = rows(TEXT.as_bytes(), 1000, 100).expect("rows");
        let numbers: Vec<Option<i64>> = got.column(0).as_primitive::<Int64Type>().iter().collect();
        assert_eq!(numbers, [Some(1), Some(-2), None, Some(4)]);
        let texts: Vec<Option<&str>> = got.column(1).as_string::<i32>().iter().collect();
        assert_eq!(texts, [Some("éé"), Some("7.50"), Some(r#"{"a": [1]}"#), None]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let cases = [
            (r#"{"n":1} {"n":1.5}"#, 13, "n", "1.5 is not a whole number"),
            (r#"{"n":9223372036854775808}"#, 5, "n", "whole number"),
            (r#"{"n":"x"}"#, 5, "n", "\"x\" is not"),
            (r#"{"p":{"x":true}}"#, 10, "p.x", "true is not a number"),
            (r#"{"p":{"x":1e999}}"#, 10, "p.x", "not a number"),
            (r#"{"p":{"y":1}}"#, 10, "p.y", "no column"),
            (r#"{"z":1}"#, 5, "z", "no column"),
            (r#"{"p":[1]}"#, 5, "p", "[1] is not an object"),
            (r#"[{"n":1}"#, 8, "", "the array does not end"),
            (r#"[{"n":1},"#, 9, "", "the array does not end"),
            (r#"[{"n":1},]"#, 9, "", "expected an object, found ']'"),
            (r#"[{"n":1}] 1"#, 10, "", "nothing behind the array"),
            (r#"[{"n":1} {"n":1}]"#, 9, "", "expected ',' or ']'"),
            (r#"{"n":1},{"n":1}"#, 7, "", "expected an object, found ','"),
            (r#"{"n":1} {"n""#, 8, "", "does not end"),
            ("1", 0, "", "expected an object"),
            ("[[1]]", 1, "", "expected an object"),
        ];
        for (text, offset, member, what) in cases {
            for piece in [1, 3, 100] {
                let problem = rows(text.as_bytes(), piece, 100).expect_err(text);
                assert_eq!((problem.offset, problem.member.as_str()), (offset, member), "{text}");
                assert!(problem.what.contains(what), "{text}: {}", problem.what);
            }
        }
        let invalid = [&br#"{"n":1}{"t":"a"#[..], b"\xff", br#""}"#].concat();
        for piece in [1, 3, 100] {
            let problem = rows(&invalid, piece, 100).expect_err("not UTF-8");
            assert_eq!((problem.offset, problem.what.as_str()), (14, NOT_UTF8));
        }
    }
}
