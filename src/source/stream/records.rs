//! Text of a growing file → batches, by the decoders that read text at rest.
//!
//! Enters: text, cut behind whole records. Leaves: batches of the columns that the pipeline needs, and the records
//! that cannot be read, with their places. Always holds: a row does not depend on where the text was cut; so nothing
//! is repaired, and a JSON object stands on one line unless files are taken whole.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;

use super::bad::BadRecord;
use super::decode::{BATCH_ROWS, Decoder};
use super::table::FileFormat;
use crate::error::{Error, Result};
use crate::format::csv::{CsvDecoder, Dialect, Records as CsvRecords, Step, Told};
use crate::format::{Envelopes, JsonDecoder, Members, NOT_ONE_LINE, NOT_UTF8, Problem, Records, Shapes, WrongKind};

/// How much text a JSON decoder is given at once.
const PUSH_BYTES: usize = 256 << 10;

/// What can be read of a text, and what cannot.
#[derive(Debug, Default)]
pub(super) struct Salvaged {
    pub(super) batches: Vec<RecordBatch>,
    pub(super) bad: Vec<Bad>,
    /// Columns that the table does not have.
    pub(super) new: Vec<Field>,
}

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bad {
    /// Where it is in the text.
    pub(super) record: Range<usize>,
    /// Its text, without its line end.
    pub(super) payload: String,
    pub(super) column: Option<String>,
    pub(super) reason: String,
}

impl Bad {
    /// The same in a file, for a text that begins at byte `from` of it.
    pub(super) fn of(self, file: &str, from: u64) -> BadRecord {
        let Self { record, payload, column, reason } = self;
        BadRecord { file: file.to_owned(), position: from + record.start as u64, payload, column, reason }
    }
}

/// The columns of a CSV file.
#[derive(Debug, Clone)]
pub(super) struct CsvColumns {
    schema: SchemaRef,
    /// Where those are that are read; some may be missing.
    read: Vec<usize>,
}

impl Decoder {
    /// The length of the whole records at the start of `text`.
    pub(super) fn whole_records(&self, text: &[u8]) -> usize {
        if self.parted_by_lines(text) {
            return memchr::memrchr(b'\n', text).map_or(0, |at| at + 1);
        }
        self.csv_ends(text).last().unwrap_or(0)
    }

    /// True if a text is one record of CSV, with its line end.
    #[cfg(feature = "kafka")]
    pub(super) fn is_one_record(&self, text: &[u8]) -> bool {
        self.csv_ends(text).eq([text.len()])
    }

    /// Cuts whole records into pieces of about `bytes`, to be read in parallel.
    pub(super) fn cut(&self, text: &Bytes, bytes: usize) -> Vec<Bytes> {
        if text.len() <= bytes || (self.format == FileFormat::Json && !self.lines) {
            return vec![text.clone()];
        }
        let mut pieces = Vec::new();
        let mut rest = text.clone();
        if self.parted_by_lines(text) {
            while rest.len() > bytes {
                let Some(end) = memchr::memchr(b'\n', &rest[bytes..]) else { break };
                pieces.push(rest.split_to(bytes + end + 1));
            }
        } else {
            let mut start = 0;
            for end in self.csv_ends(text) {
                if end - start > bytes {
                    pieces.push(rest.split_to(end - start));
                    start = end;
                }
            }
        }
        pieces.push(rest);
        pieces
    }

    /// True if each line end is the end of a record.
    fn parted_by_lines(&self, text: &[u8]) -> bool {
        let quoted = |quote: u8| memchr::memchr(quote, text).is_some();
        self.format == FileFormat::Json || !self.dialect.quote.is_some_and(quoted)
    }

    /// The places behind the records of CSV, and behind their line ends.
    fn csv_ends<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
        let (mut records, mut at) = (CsvRecords::default(), 0);
        std::iter::from_fn(move || {
            let Step::Read(end) = records.read(text, at, &self.dialect, false) else { return None };
            records.pop();
            at = match text.get(end..end + 2) {
                Some(b"\r\n") => end + 2,
                // The line end may have a second half.
                None if text.get(end) == Some(&b'\r') => return None,
                _ => end + 1,
            };
            Some(at)
        })
    }

    /// True for text that is a record even if more comes behind it: JSON objects have an end of their own.
    pub(super) fn is_complete(&self, text: &[u8]) -> bool {
        self.format == FileFormat::Json
            && text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
            && serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
    }

    /// What stands before the first record of a CSV file: the names of its columns, if it has a header, and the
    /// length of it all; nothing while it is not there.
    pub(super) fn header(&self, start: &[u8]) -> Result<Option<(Option<Vec<String>>, usize)>> {
        let mut at = if start.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        for _ in 0..self.dialect.skip {
            let Some(length) = memchr::memchr(b'\n', &start[at..]) else { return Ok(None) };
            at += length + 1;
        }
        if !self.dialect.header {
            return Ok(Some((None, at)));
        }
        let mut records = CsvRecords::default();
        if !matches!(records.read(start, at, &self.dialect, false), Step::Read(_)) {
            return Ok(None);
        }
        let end = records.range(0).end;
        let Some(length) = memchr::memchr(b'\n', &start[end..]) else { return Ok(None) };
        let names = records.fields(0).map(|name| String::from_utf8(name.to_vec()));
        let mut names = names.collect::<Result<Vec<_>, _>>().map_err(|_| Error::query("the header is not UTF-8"))?;
        if self.dialect.trailing && names.last().is_some_and(String::is_empty) {
            names.pop();
        }
        Ok(Some((Some(names), end + length + 1)))
    }

    /// The columns of a CSV file with that header.
    pub(super) fn csv_columns(&self, names: Option<&[String]>) -> Result<CsvColumns> {
        let fields: Vec<Field> = match names {
            None => self.table.fields().iter().map(|field| field.as_ref().clone()).collect(),
            Some(names) => {
                let known = |name: &String| self.table.field_with_name(name).cloned();
                names.iter().map(|name| known(name).unwrap_or(Field::new(name, DataType::Utf8, true))).collect()
            }
        };
        let all = Schema::new(fields.clone());
        if let Some(names) = names.filter(|_| self.table.fields().iter().all(|f| all.index_of(f.name()).is_err())) {
            let columns: Vec<&str> = self.table.fields().iter().map(|field| field.name().as_str()).collect();
            return Err(Error::query(format!("its first line names none of the columns {}", columns.join(", ")))
                .note(format!("it has {}", names.join(" and ")))
                .hint("OPTIONS ('has_header' 'false') if it is a record; ('delimiter' ';') if fields are parted so"));
        }
        let wanted: Vec<&String> = self.wanted.fields().iter().map(|field| field.name()).collect();
        let read: Vec<usize> = wanted.iter().filter_map(|name| all.index_of(name).ok()).collect();
        if self.lenient {
            return Ok(CsvColumns { schema: Arc::new(all), read: (0..fields.len()).collect() });
        }
        // What is not read may be anything.
        let fields = fields.into_iter().enumerate().map(|(at, field)| match read.contains(&at) {
            true => field,
            false => Field::new(field.name(), DataType::Utf8, true),
        });
        Ok(CsvColumns { schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())), read })
    }

    /// Reads CSV. `first`: the first bad record is enough.
    pub(super) fn csv(&self, text: &[u8], columns: &CsvColumns, first: bool) -> Result<Salvaged> {
        let told: Arc<Mutex<Vec<Told>>> = Arc::default();
        let read = |leave_out: bool| -> Result<Vec<RecordBatch>> {
            let dialect = Dialect { header: false, skip: 0, ignore_errors: leave_out, ..self.dialect.clone() };
            let to = Arc::clone(&told);
            let listener = Arc::new(move |one| to.lock().unwrap_or_else(PoisonError::into_inner).push(one));
            let schema = Arc::clone(&columns.schema);
            let mut decoder =
                CsvDecoder::new(String::new(), dialect, schema, columns.read.clone(), BATCH_ROWS, listener);
            decoder.push(text);
            let mut batches = Vec::new();
            while let Some(batch) = decoder.next(true)? {
                batches.push(self.by_name(&batch)?);
            }
            Ok(batches)
        };
        let batches = match read(!first) {
            Ok(batches) => batches,
            Err(error) => {
                // Once more, for the place.
                let _ = read(true);
                if told.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
                    return Err(error);
                }
                Vec::new()
            }
        };
        let told = std::mem::take(&mut *told.lock().unwrap_or_else(PoisonError::into_inner));
        let mut bad = Vec::new();
        let (mut line, mut at) = (1, 0);
        for one in told {
            at += nth_line(&text[at..], one.line - line);
            line = one.line;
            bad.push(self.csv_bad(text, at, columns, one));
        }
        self.with_ops(text, Salvaged { batches, bad, new: Vec::new() })
    }

    /// What each row does, in place of the words that say so.
    fn with_ops(&self, text: &[u8], mut found: Salvaged) -> Result<Salvaged> {
        let Some(ops) = &self.ops else { return Ok(found) };
        let (mut before, mut bad) = (0, Vec::new());
        for batch in &mut found.batches {
            let (rows, wrong) = ops.of(batch)?;
            bad.extend(wrong.into_iter().map(|bad| (before + bad.row, bad)));
            before += batch.num_rows();
            *batch = rows;
        }
        if bad.is_empty() {
            return Ok(found);
        }
        let mut good = self.record_ranges(text);
        good.retain(|record| !found.bad.iter().any(|bad| bad.record.contains(&record.start)));
        for (row, bad) in bad {
            // A file that is taken whole is one record.
            let record = good.get(row).cloned().unwrap_or(0..text.len());
            let (payload, column) = (String::new(), Some(bad.column));
            found.bad.push(Bad { record, payload, column, reason: bad.reason });
        }
        found.bad.sort_by_key(|bad| bad.record.start);
        Ok(found)
    }

    /// The places of the records of a text, with their line ends.
    fn record_ranges(&self, text: &[u8]) -> Vec<Range<usize>> {
        if self.format == FileFormat::Json && !self.lines {
            return Vec::new();
        }
        let ends: Vec<usize> = if self.parted_by_lines(text) {
            memchr::memchr_iter(b'\n', text).map(|at| at + 1).collect()
        } else {
            self.csv_ends(text).collect()
        };
        let ends = ends.into_iter().chain([text.len()]);
        let mut start = 0;
        let ranges = ends.map(|end| std::mem::replace(&mut start, end)..end);
        ranges.filter(|record| !text[record.clone()].trim_ascii().is_empty()).collect()
    }

    fn csv_bad(&self, text: &[u8], at: usize, columns: &CsvColumns, told: Told) -> Bad {
        let mut records = CsvRecords::default();
        let read = records.read(text, at, &self.dialect, true);
        let record = if matches!(read, Step::Read(_)) { records.range(0) } else { at..text.len() };
        let field = told.column.as_ref().and_then(|name| columns.schema.field_with_name(name).ok());
        let reason = match field {
            Some(field) if told.text.is_empty() && !field.is_nullable() => {
                "it is NULL, and the column is NOT NULL".to_owned()
            }
            Some(_) => format!("'{}' is {}", told.text, told.reason),
            None => told.reason,
        };
        Bad { record, payload: String::new(), column: told.column, reason }
    }

    /// Reads JSON. `first`: the first bad record is enough.
    pub(super) fn json(&self, text: &[u8], first: bool) -> Result<Salvaged> {
        match &self.envelopes {
            Some(envelopes) => self.enveloped(envelopes.clone(), text, first),
            None => self.with_ops(text, self.objects(text, first)?),
        }
    }

    /// Reads objects. `first`: the first bad one is enough.
    fn objects(&self, text: &[u8], first: bool) -> Result<Salvaged> {
        let mut found = Salvaged::default();
        // What is before a bad record, and what is behind it: the first part on top.
        let mut todo: Vec<Range<usize>> = std::iter::once(0..text.len()).collect();
        while let Some(range) = todo.pop() {
            let part = &text[range.clone()];
            let mut rows = self.json_rows(part, if self.evolve { Members::Refused } else { Members::Ignored })?;
            if rows.as_ref().is_err_and(|problem| problem.kind == WrongKind::Unknown) {
                found.new.extend(self.json_fields(part));
                rows = self.json_rows(part, Members::Ignored)?;
            }
            match rows {
                Ok(batches) => found.batches.extend(batches),
                Err(problem) => {
                    let at = if self.lines { problem.object } else { problem.offset };
                    let at = range.start + usize::try_from(at).unwrap_or(usize::MAX);
                    let line = line_around(text, at, &range);
                    if first {
                        found.bad.push(bad_json(line, problem, self.lines));
                        break;
                    }
                    todo.extend((line.end < range.end).then_some(line.end..range.end));
                    todo.extend((range.start < line.start).then_some(range.start..line.start));
                    found.bad.push(bad_json(line, problem, self.lines));
                }
            }
        }
        found.bad.sort_by_key(|bad| bad.record.start);
        Ok(found)
    }

    /// Reads envelopes of Debezium, which become objects first. `first`: the first bad one is enough.
    fn enveloped(&self, mut envelopes: Envelopes, text: &[u8], first: bool) -> Result<Salvaged> {
        let (mut bad, mut rows) = (Vec::new(), String::new());
        // Where the rows of each envelope end, and the envelope.
        let mut records: Vec<(usize, Range<usize>)> = Vec::new();
        for record in self.record_ranges(text) {
            let read = match std::str::from_utf8(&text[record.clone()]) {
                Ok(envelope) => envelopes.read(envelope, &mut rows),
                Err(_) => Err((None, NOT_UTF8.to_owned())),
            };
            match read {
                Ok(_) => records.push((rows.len(), record)),
                Err((column, reason)) => {
                    bad.push(Bad { record, payload: String::new(), column, reason });
                    if first {
                        break;
                    }
                }
            }
        }
        let mut found = self.with_ops(rows.as_bytes(), self.objects(rows.as_bytes(), first)?)?;
        if !found.bad.is_empty() {
            let of = |at: usize| records.partition_point(|(end, _)| *end <= at).min(records.len() - 1);
            let wrong: Vec<usize> = found.bad.iter().map(|bad| of(bad.record.start)).collect();
            for (at, one) in wrong.iter().zip(std::mem::take(&mut found.bad)) {
                bad.push(Bad { record: records[*at].1.clone(), ..one });
            }
            // An envelope is taken whole or not at all.
            let start = |at: usize| at.checked_sub(1).map_or(0, |before| records[before].0);
            let good = (0..records.len()).filter(|at| !wrong.contains(at));
            let good: String = good.map(|at| &rows[start(at)..records[at].0]).collect();
            found = self.with_ops(good.as_bytes(), self.objects(good.as_bytes(), first)?)?;
        }
        bad.sort_by_key(|bad| bad.record.start);
        bad.dedup_by_key(|bad| bad.record.start);
        found.bad.extend(bad);
        Ok(found)
    }

    /// The columns that objects have and the table does not.
    fn json_fields(&self, text: &[u8]) -> Vec<Field> {
        let (mut records, mut shapes) = (Records::default(), Shapes::default());
        records.push(text);
        records.end();
        // What is wrong there is told when it is read.
        let _ = shapes.look(&mut records);
        self.new_fields(&shapes.schema())
    }

    fn json_rows(&self, text: &[u8], members: Members) -> Result<Result<Vec<RecordBatch>, Problem>> {
        let records = if self.lines { Records::one_a_line() } else { Records::default() };
        let all: Vec<usize> = (0..self.table.fields().len()).collect();
        let read = if self.lenient { &all } else { &self.columns };
        let mut decoder = JsonDecoder::new(records, &self.table, read, members, BATCH_ROWS)?;
        let mut batches = Vec::new();
        let mut pieces = text.chunks(PUSH_BYTES);
        loop {
            let ended = match pieces.next() {
                Some(piece) => {
                    decoder.push(piece);
                    false
                }
                None => {
                    decoder.end();
                    true
                }
            };
            loop {
                match decoder.next_batch() {
                    Ok(Some(batch)) => batches.push(self.by_name(&batch)?),
                    Ok(None) => break,
                    Err(problem) => return Ok(Err(problem)),
                }
            }
            if ended {
                return Ok(Ok(batches));
            }
        }
    }
}

fn bad_json(record: Range<usize>, problem: Problem, lines: bool) -> Bad {
    let column = Some(problem.member).filter(|member| !member.is_empty());
    let other = lines && (problem.what == NOT_ONE_LINE || problem.what.ends_with("found '['"));
    let hint = if other { ": OPTIONS ('newline_delimited' 'false') takes files of other forms, whole" } else { "" };
    Bad { record, payload: String::new(), column, reason: format!("{}{hint}", problem.what) }
}

/// The line that has byte `at`, within a range, and its line end.
fn line_around(text: &[u8], at: usize, range: &Range<usize>) -> Range<usize> {
    let at = at.min(range.end.saturating_sub(1)).max(range.start);
    let start = memchr::memrchr(b'\n', &text[range.start..at]).map_or(range.start, |end| range.start + end + 1);
    let end = memchr::memchr(b'\n', &text[at..range.end]).map_or(range.end, |end| at + end + 1);
    start..end
}

/// The place behind so many line ends.
fn nth_line(text: &[u8], count: u64) -> usize {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let Some(before) = count.checked_sub(1) else { return 0 };
    let byte = if memchr::memchr(b'\n', text).is_some() { b'\n' } else { b'\r' };
    memchr::memchr_iter(byte, text).nth(before).map_or(text.len(), |end| end + 1)
}
