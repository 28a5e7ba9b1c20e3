//! Text → batches.
//!
//! Enters: pieces of text, as they come. Leaves: batches of the schema's columns. Always holds: what is not read
//! as it is written is told; line numbers count from the start of the file.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use arrow::csv::ReaderBuilder;
use arrow::csv::reader::Decoder;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;

use super::convert::Converter;
use super::records::is_sound;
use super::repair::Profile;
use super::{Dialect, Records, Step, lines};
use crate::config::RECORD_BYTES_LIMIT;
use crate::error::{Error, Result, clip, sql_type};

/// What became of a row that is not as the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was read in the one way in which it fits.
    Repaired,
    /// It was left out.
    LeftOut,
}

/// A row that is not as the others.
#[derive(Debug, Clone)]
pub struct Told {
    /// Counted from 1.
    pub line: u64,
    /// The column, if it is one value that does not fit.
    pub column: Option<String>,
    /// The value, or the line.
    pub text: String,
    /// What is wrong with it.
    pub reason: String,
    /// What became of it.
    pub fate: Fate,
}

/// Told of each row that is not as the others.
type Listener = Arc<dyn Fn(Told) + Send + Sync>;

/// Turns the text of one file into batches.
pub struct CsvDecoder {
    name: String,
    dialect: Dialect,
    schema: SchemaRef,
    projection: Vec<usize>,
    batch_rows: usize,
    converter: Converter,
    listener: Listener,
    /// Arrow's decoder, unless each value has to be looked at.
    fast: Option<Decoder>,
    profile: Profile,
    pending: Vec<u8>,
    /// Where the next batch begins in `pending`, and how much behind it arrow has seen.
    start: usize,
    fed: usize,
    /// Bytes that must be there before it is worth reading again.
    wait_for: usize,
    line: u64,
    begun: bool,
    /// Arrow's decoder refuses what is there: the next batch is read record by record.
    suspect: bool,
}

impl fmt::Debug for CsvDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CsvDecoder({})", self.name)
    }
}

/// A record that is to become a row.
struct Row {
    line: u64,
    fields: Vec<Vec<u8>>,
}

impl CsvDecoder {
    /// A decoder of the columns `projection` of `schema`; errors call the text `name`.
    pub fn new(
        name: String,
        dialect: Dialect,
        schema: SchemaRef,
        projection: Vec<usize>,
        batch_rows: usize,
        listener: Listener,
    ) -> Self {
        let converter = Converter::new(&dialect, schema.fields().iter().map(|field| field.data_type().clone()));
        let profile = Profile::new(schema.fields().len());
        let mut this = Self {
            name,
            dialect,
            schema,
            projection,
            batch_rows,
            converter,
            listener,
            fast: None,
            profile,
            pending: Vec::new(),
            start: 0,
            fed: 0,
            wait_for: 0,
            line: 1,
            begun: false,
            suspect: false,
        };
        this.restart();
        this
    }

    /// True if a file of this dialect is read in the same batches whether it is cut at [`super::Edges`] or not: what
    /// is learned of one row for another is learned within a batch.
    pub fn reads_pieces(dialect: &Dialect, schema: &SchemaRef) -> bool {
        let plain = Converter::new(dialect, schema.fields().iter().map(|field| field.data_type().clone())).is_plain();
        plain && !dialect.trailing && !dialect.null_padding && !dialect.leaves_out() && dialect.skip == 0
    }

    /// The text begins at a line of a file, and with a row.
    pub fn begin_at(&mut self, line: u64) {
        self.line = line;
        self.begun = true;
    }

    /// Adds text.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer().extend_from_slice(bytes);
    }

    /// Where the next text is to be added.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        if self.start > self.pending.len() / 2 {
            self.pending.drain(..self.start);
            self.start = 0;
        }
        &mut self.pending
    }

    /// The next batch; nothing where more text is needed, or at the end. `end`: no text follows.
    pub fn next(&mut self, end: bool) -> Result<Option<RecordBatch>> {
        if !self.begun && !self.begin(end) {
            return Ok(None);
        }
        loop {
            if !self.suspect && self.fast.is_some() {
                match self.next_fast(end) {
                    Fast::Batch(batch) => return Ok(Some(batch)),
                    Fast::More => return Ok(None),
                    Fast::Suspect => {
                        self.suspect = true;
                        self.restart();
                    }
                }
            }
            if !end && self.pending.len() - self.start < self.wait_for {
                return Ok(None);
            }
            let before = self.start;
            let batch = self.next_careful(end)?;
            if self.start > before {
                (self.suspect, self.wait_for) = (false, 0);
            }
            match batch {
                Some(batch) if batch.num_rows() > 0 => return Ok(Some(batch)),
                // All its rows were left out.
                _ if self.start > before => {}
                _ => {
                    self.wait_for = (self.pending.len() - self.start) * 2;
                    return Ok(None);
                }
            }
        }
    }

    /// Passes over what stands before the first row; false if more text is needed.
    fn begin(&mut self, end: bool) -> bool {
        let bytes = &self.pending;
        if bytes.len() < 3 && !end {
            return false;
        }
        let mut at = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        for _ in 0..self.dialect.skip {
            match memchr::memchr2(b'\n', b'\r', &bytes[at..]) {
                Some(length) => {
                    let feeds = bytes[at + length] == b'\r' && bytes.get(at + length + 1) == Some(&b'\n');
                    at += length + 1 + usize::from(feeds);
                }
                None if end => at = bytes.len(),
                None => return false,
            }
        }
        if self.dialect.header {
            let whole = end || bytes.len() > RECORD_BYTES_LIMIT;
            match Records::default().read(bytes, at, &self.dialect, whole) {
                Step::Read(next) => at = next,
                Step::End => at = bytes.len(),
                Step::Cut(_) => return false,
            }
        }
        self.line += lines(&bytes[..at]);
        self.start = at;
        self.begun = true;
        true
    }

    fn reader(&self, projection: Vec<usize>, rows: usize) -> ReaderBuilder {
        ReaderBuilder::new(Arc::clone(&self.schema)).with_batch_size(rows).with_projection(projection)
    }

    /// Gives arrow's decoder a new start.
    fn restart(&mut self) {
        /// Is in no UTF-8.
        const NEVER: u8 = 0xff;
        self.fed = 0;
        self.fast = None;
        let all = self.dialect.leaves_out() && self.projection.len() < self.schema.fields().len();
        // Which rows are left out does not depend on the columns that a query asks for.
        if !self.converter.is_plain() || self.dialect.trailing || all {
            return;
        }
        let dialect = &self.dialect;
        let mut builder = self
            .reader(self.projection.clone(), self.batch_rows)
            .with_delimiter(dialect.delimiter)
            .with_quote(dialect.quote.unwrap_or(NEVER))
            .with_truncated_rows(dialect.null_padding);
        if let Some(escape) = dialect.escape {
            builder = builder.with_escape(escape);
        }
        if let Some(comment) = dialect.comment {
            builder = builder.with_comment(comment);
        }
        self.fast = Some(builder.build_decoder());
    }

    fn next_fast(&mut self, end: bool) -> Fast {
        let Some(decoder) = &mut self.fast else { return Fast::Suspect };
        loop {
            let rest = &self.pending[self.start + self.fed..];
            if rest.is_empty() && !end {
                return if self.fed > RECORD_BYTES_LIMIT { Fast::Suspect } else { Fast::More };
            }
            let Ok(read) = decoder.decode(rest) else { return Fast::Suspect };
            self.fed += read;
            if decoder.capacity() == 0 || (end && read == 0) {
                break;
            }
        }
        match decoder.flush() {
            Ok(None) => Fast::More,
            Ok(Some(batch)) => {
                let bytes = &self.pending[self.start..self.start + self.fed];
                if !is_sound(bytes, &self.dialect) {
                    return Fast::Suspect;
                }
                self.line += lines(bytes);
                self.start += self.fed;
                self.fed = 0;
                Fast::Batch(batch)
            }
            Err(_) => Fast::Suspect,
        }
    }

    /// The next batch, record by record.
    fn next_careful(&mut self, end: bool) -> Result<Option<RecordBatch>> {
        let pending = std::mem::take(&mut self.pending);
        let bytes = &pending[self.start..];
        let (records, behind) = self.records(bytes, end)?;
        self.profile.learn(&records);
        let rows = self.rows(&records, bytes);
        self.line += lines(&bytes[..behind]);
        self.start += behind;
        self.pending = pending;
        let rows = rows?;
        if records.is_empty() {
            return Ok(None);
        }
        self.batch(rows).map(Some)
    }

    /// Reads the records of a batch; gives the place behind them.
    fn records(&self, bytes: &[u8], end: bool) -> Result<(Records, usize)> {
        let width = self.schema.fields().len();
        let (mut records, mut at) = (Records::default(), 0);
        while records.len() < self.batch_rows {
            let next = match records.read(bytes, at, &self.dialect, end) {
                Step::Read(next) => next,
                Step::End => return Ok((records, bytes.len())),
                // Nothing but empty lines, of which there may be many.
                Step::Cut(start)
                    if start < bytes.len() && bytes[start..].iter().all(|byte| matches!(byte, b'\n' | b'\r')) =>
                {
                    return Ok((records, bytes.len()));
                }
                // One long record, or a quote that is never closed.
                Step::Cut(start) if bytes.len() - start > RECORD_BYTES_LIMIT => {
                    match records.read_line(bytes, start, &self.dialect, end) {
                        Step::Read(next) => next,
                        _ => return Err(self.too_long(bytes, start)),
                    }
                }
                Step::Cut(_) => break,
            };
            let last = records.len() - 1;
            let range = records.range(last);
            if range.len() > RECORD_BYTES_LIMIT {
                return Err(self.too_long(bytes, range.start));
            }
            at = next;
            if records.width(last) != width && self.dialect.repair && lines(&bytes[range.clone()]) > 0 {
                // A quote that is not closed may have taken lines that follow.
                records.pop();
                let line = records.read_line(bytes, range.start, &self.dialect, end);
                if let Step::Read(next) = line
                    && records.width(last) == width
                {
                    at = next;
                } else {
                    records.pop();
                    records.read(bytes, range.start, &self.dialect, end);
                }
            }
        }
        Ok((records, at))
    }

    fn too_long(&self, bytes: &[u8], start: usize) -> Error {
        let line = self.line + lines(&bytes[..start]);
        Error::query(format!("{}, line {line}: a record is longer than {} MB", self.name, RECORD_BYTES_LIMIT >> 20))
            .note(format!("it is read with {}", self.dialect.words()))
            .hint(format!(
                "if these are the right delimiter and quote, the file is damaged; sniff_csv('{}') shows what was found",
                self.name
            ))
    }

    /// The records that can be rows; what is wrong with the others is told, or is the error.
    fn rows(&self, records: &Records, bytes: &[u8]) -> Result<Vec<Row>> {
        let width = self.schema.fields().len();
        let mut rows = Vec::with_capacity(records.len());
        let (mut line, mut counted) = (self.line, 0);
        for record in 0..records.len() {
            let range = records.range(record);
            line += lines(&bytes[counted..range.start]);
            counted = range.start;
            let mut fields: Vec<Vec<u8>> = records.fields(record).map(<[u8]>::to_vec).collect();
            if self.dialect.trailing && fields.len() == width + 1 && fields[width].is_empty() {
                fields.pop();
            }
            let text = &bytes[range];
            if let Some(at) = fields.iter().position(|field| std::str::from_utf8(field).is_err()) {
                let value = String::from_utf8_lossy(&fields[at]).into_owned();
                let column = self.schema.fields().get(at).map(|field| field.name().clone());
                self.refuse(line, column, &value, text, "not UTF-8")?;
                continue;
            }
            let sound = records.is_sound(record);
            if sound && fields.len() < width && self.dialect.null_padding {
                fields.resize(width, Vec::new());
            }
            if fields.len() != width {
                let repaired = self.dialect.repair.then(|| self.profile.repair(&fields, text, &self.dialect)).flatten();
                let Some(repaired) = repaired else {
                    let reason = format!("{} fields, but the file has {width} columns", fields.len());
                    self.refuse(line, None, "", text, &reason)?;
                    continue;
                };
                let reason = format!("{} fields, but the file has {width} columns", fields.len());
                self.tell(line, None, text, reason, Fate::Repaired);
                fields = repaired.fields;
            } else if !sound {
                if !self.dialect.repair {
                    self.refuse(line, None, "", text, "a quote is not closed before a delimiter")?;
                    continue;
                }
                self.tell(line, None, text, "a quote is not closed before a delimiter".to_owned(), Fate::Repaired);
                self.drop_quotes(&mut fields);
            }
            rows.push(Row { line, fields });
        }
        Ok(rows)
    }

    /// A stray quote beside a value that is no text is dropped.
    fn drop_quotes(&self, fields: &mut [Vec<u8>]) {
        let Some(quote) = self.dialect.quote else { return };
        for (field, column) in fields.iter_mut().zip(self.schema.fields()) {
            if !matches!(column.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
                field.retain(|byte| *byte != quote);
            }
        }
    }

    /// Makes a batch; rows with values that are not of their types are told, or are the error.
    fn batch(&self, rows: Vec<Row>) -> Result<RecordBatch> {
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let read = if self.dialect.leaves_out() { all } else { self.projection.clone() };
        let batch = match self.decode(&rows, &read) {
            Some(batch) => batch,
            None => {
                let mut good = Vec::with_capacity(rows.len());
                for row in rows {
                    let one = std::slice::from_ref(&row);
                    if self.decode(one, &read).is_some() {
                        good.push(row);
                        continue;
                    }
                    let bad = read.iter().copied().find(|column| self.decode(one, &[*column]).is_none());
                    self.refuse_value(&row, bad.unwrap_or_default())?;
                }
                self.decode(&good, &read).ok_or_else(|| Error::query(format!("{}: cannot be read", self.name)))?
            }
        };
        if read.len() == self.projection.len() {
            return Ok(batch);
        }
        Ok(batch.project(&self.projection)?)
    }

    /// Writes the rows as arrow reads them, and has it read them.
    fn decode(&self, rows: &[Row], columns: &[usize]) -> Option<RecordBatch> {
        let mut text = Vec::new();
        for row in rows {
            for (column, field) in row.fields.iter().enumerate() {
                if column > 0 {
                    text.push(b',');
                }
                let field = String::from_utf8_lossy(field);
                let field = self.converter.convert(column, &field).map_or(field, Cow::Owned);
                write_field(&mut text, field.as_bytes(), row.fields.len() == 1);
            }
            text.push(b'\n');
        }
        let mut decoder = self.reader(columns.to_vec(), rows.len().max(1)).build_decoder();
        let mut at = 0;
        while at < text.len() && decoder.capacity() > 0 {
            at += decoder.decode(&text[at..]).ok()?;
        }
        match decoder.flush().ok()? {
            Some(batch) => Some(batch),
            None => {
                let schema = self.schema.project(columns).ok()?;
                Some(RecordBatch::new_empty(Arc::new(schema)))
            }
        }
    }

    fn tell(&self, line: u64, column: Option<String>, text: &[u8], reason: String, fate: Fate) {
        let text = String::from_utf8_lossy(text).trim_end().to_owned();
        (self.listener)(Told { line, column, text, reason, fate });
    }

    /// The row is left out, or is the error.
    fn refuse(&self, line: u64, column: Option<String>, value: &str, text: &[u8], reason: &str) -> Result<()> {
        if self.dialect.leaves_out() {
            self.tell(
                line,
                column,
                if value.is_empty() { text } else { value.as_bytes() },
                reason.to_owned(),
                Fate::LeftOut,
            );
            return Ok(());
        }
        let place = column.map(|column| format!(", column {column}")).unwrap_or_default();
        let shown = clip(String::from_utf8_lossy(text).trim_end());
        let error = Error::query(format!("{}, line {line}{place}: {reason}", self.name))
            .note(format!("the line is: {shown}"))
            .note(format!("it is read with {}", self.dialect.words()));
        Err(error.hint(if reason == "not UTF-8" {
            format!("read_csv('{}', encoding => 'latin-1') reads Western European text; iconv converts others", self.name)
        } else {
            format!(
                "read_csv('{}', ignore_errors => true) leaves such lines out; null_padding => true fills missing fields \
                 with NULL; a delimiter in a field needs quotes",
                self.name
            )
        }))
    }

    fn refuse_value(&self, row: &Row, column: usize) -> Result<()> {
        let field = self.schema.field(column);
        let text = row.fields.get(column).map(|field| String::from_utf8_lossy(field).into_owned()).unwrap_or_default();
        let kind = sql_type(field.data_type());
        if self.dialect.leaves_out() {
            let reason = format!("not of type {kind}");
            self.tell(row.line, Some(field.name().clone()), text.as_bytes(), reason, Fate::LeftOut);
            return Ok(());
        }
        let (name, column) = (&self.name, field.name());
        Err(Error::query(format!(
            "{name}, line {}, column {column}: '{}' is not of type {kind}",
            row.line,
            clip(&text)
        ))
        .note(format!("it is read with {}", self.dialect.words()))
        .hint(format!(
            "read_csv('{name}', types => {{'{column}': 'VARCHAR'}}) reads the column as text; \
                 nullstr => '{}' takes this text for NULL; ignore_errors => true leaves such rows out",
            clip(&text)
        )))
    }
}

/// What a try with arrow's decoder gave.
enum Fast {
    Batch(RecordBatch),
    More,
    Suspect,
}

fn write_field(text: &mut Vec<u8>, field: &[u8], alone: bool) {
    let special = |byte: &u8| matches!(byte, b',' | b'"' | b'\n' | b'\r');
    if !alone && !field.iter().any(special) {
        text.extend_from_slice(field);
        return;
    }
    text.push(b'"');
    for byte in field {
        if *byte == b'"' {
            text.push(b'"');
        }
        text.push(*byte);
    }
    text.push(b'"');
}
