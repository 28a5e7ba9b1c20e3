//! Pieces of text files → batches.
//!
//! Enters: a file and a range of bytes. Leaves: whole records, and the batches of them. Always holds: a record that
//! cannot be read is found alone, and does not take its neighbours along.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::bad::OnError;
use super::decode::Decoder;
use super::records::{CsvColumns, Salvaged};
use super::table::FileFormat;
use super::{Read, add_field, blocking};
use crate::config::RECORD_BYTES_LIMIT;
use crate::durable::Folder;
use crate::error::{Error, Result};
use crate::offset::FileSlice;

/// How much text one thread reads at a time.
const PIECE_BYTES: usize = 4 << 20;
/// How much is read at a time to find the end of a line.
const LINE_BYTES: u64 = 64 << 10;
/// How much of a CSV file is read for its header.
const HEADER_BYTES: u64 = 1 << 20;
/// How much of a file is read at a time to count its lines.
const COUNT_BYTES: u64 = 8 << 20;

/// A text file.
#[derive(Debug, Clone)]
pub(super) enum TextFile {
    Stored(Arc<dyn ObjectStore>, Path),
    /// It keeps its file also when that is renamed or removed.
    Open(Arc<File>),
    /// All of it.
    Memory(Bytes),
}

impl TextFile {
    /// The bytes of a range; fewer if the file ends before.
    pub(super) async fn range(&self, range: Range<u64>) -> Result<Bytes> {
        match self {
            TextFile::Stored(store, path) => Ok(store.get_range(path, range).await?),
            TextFile::Open(file) => {
                let file = Arc::clone(file);
                blocking(move || read_at(&file, range).map(Bytes::from)).await
            }
            TextFile::Memory(text) => {
                let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(text.len());
                Ok(text.slice(place(range.start)..place(range.end)))
            }
        }
    }
}

/// The bytes of a range of a local file; fewer if it ends before.
pub(super) fn read_at(file: &File, range: Range<u64>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(usize::MAX)];
    let mut length = 0;
    while length < bytes.len() {
        match file.read_at(&mut bytes[length..], range.start + length as u64) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::query(format!("cannot read it: {error}"))),
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// Whole records at the start of what is there.
pub(super) struct Whole {
    /// The byte behind them.
    pub(super) to: u64,
    /// They themselves, if they were read.
    pub(super) text: Option<Bytes>,
}

/// Reads the text of one table.
#[derive(Debug, Clone)]
pub(super) struct TextReader {
    pub(super) decoder: Decoder,
    pub(super) on_error: OnError,
    /// Where records go that cannot be read.
    pub(super) dead_letters: Option<Folder>,
}

impl TextReader {
    /// The whole records of a file from byte `from` on, about `budget` bytes; nothing if there is none before `size`.
    pub(super) async fn whole(
        &self,
        file: &TextFile,
        name: &str,
        from: u64,
        size: u64,
        budget: u64,
    ) -> Result<Option<Whole>> {
        let mut budget = budget.max(1);
        loop {
            let end = size.min(from.saturating_add(budget));
            if self.is_read_in_pieces(file, from, end)
                && let Some(to) = last_line_end(file, from, end).await?
            {
                return Ok(Some(Whole { to, text: None }));
            }
            let chunk = file.range(from..end).await?;
            let whole = self.decoder.whole_records(&chunk);
            if whole > 0 {
                return Ok(Some(Whole { to: from + whole as u64, text: Some(chunk.slice(..whole)) }));
            }
            if end == size {
                return Ok(None);
            }
            if budget >= RECORD_BYTES_LIMIT as u64 {
                return Err(Error::query(format!(
                    "{name}, byte {from}: a record of more than {RECORD_BYTES_LIMIT} bytes"
                )));
            }
            budget = (budget * 2).min(RECORD_BYTES_LIMIT as u64);
        }
    }

    /// True if each thread reads its own piece of the text, which is never in memory as a whole.
    fn is_read_in_pieces(&self, file: &TextFile, from: u64, to: u64) -> bool {
        let lines = self.decoder.format == FileFormat::Json && self.decoder.lines;
        lines && matches!(file, TextFile::Open(_)) && to - from > PIECE_BYTES as u64
    }

    /// The rows of a piece of a file. `known`: its bytes, if they were read before.
    pub(super) async fn read(
        &self,
        file: &TextFile,
        name: &str,
        slice: &FileSlice,
        known: Option<Bytes>,
    ) -> Result<Read> {
        let located = |error: Error| Error { message: format!("{name}: {}", error.message), ..error };
        if known.is_none()
            && self.is_read_in_pieces(file, slice.from, slice.to)
            && let TextFile::Open(open) = file
        {
            let salvaged = self.salvage_pieces(open, slice.from, slice.to).await.map_err(located)?;
            return self.told(salvaged, file, name, 0).await;
        }
        let mut from = slice.from;
        let mut text = match known {
            Some(text) => text,
            None => file.range(slice.from..slice.to).await.map_err(located)?,
        };
        if text.len() as u64 != slice.to - slice.from {
            return Err(located(Error::query("the file is shorter than it was")));
        }
        let mut columns = None;
        if self.decoder.format == FileFormat::Csv {
            let start = file.range(0..slice.to.min(HEADER_BYTES)).await.map_err(located)?;
            let Some((names, length)) = self.decoder.header(&start).map_err(located)? else {
                return Ok(Read::default());
            };
            columns = Some(self.decoder.csv_columns(names.as_deref()).map_err(located)?);
            if from == 0 {
                text = text.slice(length..);
                from = length as u64;
            }
        } else if from == 0 && text.starts_with(b"\xef\xbb\xbf") {
            text = text.slice(3..);
            from = 3;
        }
        let salvaged = self.salvage(text, columns).await.map_err(located)?;
        self.told(salvaged, file, name, from).await
    }

    /// What was read, with the places of what could not be; `from` is where the text began.
    async fn told(&self, salvaged: Salvaged, file: &TextFile, name: &str, from: u64) -> Result<Read> {
        let bad = salvaged.bad.into_iter().map(|bad| bad.of(name, from));
        let read = Read { batches: salvaged.batches, bad: bad.collect(), new: salvaged.new };
        match read.bad.first() {
            Some(bad) if self.on_error == OnError::Fail => Err(bad.error(line_of(file, bad.position).await?)),
            _ => Ok(read),
        }
    }

    /// Reads what can be read of whole records, in parallel.
    pub(super) async fn salvage(&self, text: Bytes, columns: Option<CsvColumns>) -> Result<Salvaged> {
        let mut at = 0;
        let tasks = self.decoder.cut(&text, PIECE_BYTES).into_iter().map(|piece| {
            let start = at;
            at += piece.len();
            let (reader, columns) = (self.clone(), columns.clone());
            blocking(move || reader.salvage_piece(&piece, start, columns.as_ref()))
        });
        in_turn(tasks.collect()).await
    }

    /// The same of lines of a file, which each thread reads for itself.
    async fn salvage_pieces(&self, file: &Arc<File>, from: u64, to: u64) -> Result<Salvaged> {
        let pieces = (from..to).step_by(PIECE_BYTES);
        let tasks = pieces.map(|start| {
            let (reader, file) = (self.clone(), Arc::clone(file));
            blocking(move || {
                let end = to.min(start + PIECE_BYTES as u64);
                let (mut at, text) = lines_of(&file, start, end, from, to)?;
                let mut text: &[u8] = &text;
                if at == 0
                    && let Some(rest) = text.strip_prefix(b"\xef\xbb\xbf")
                {
                    (at, text) = (3, rest);
                }
                reader.salvage_piece(text, usize::try_from(at).unwrap_or(usize::MAX), None)
            })
        });
        in_turn(tasks.collect()).await
    }

    /// Reads a piece of text that begins at byte `start`.
    fn salvage_piece(&self, piece: &[u8], start: usize, columns: Option<&CsvColumns>) -> Result<Salvaged> {
        let first = self.on_error == OnError::Fail;
        let mut found = match columns {
            Some(columns) => self.decoder.csv(piece, columns, first)?,
            None => self.decoder.json(piece, first)?,
        };
        for bad in &mut found.bad {
            bad.payload = String::from_utf8_lossy(&piece[bad.record.clone()]).trim_end().to_owned();
            bad.record = bad.record.start + start..bad.record.end + start;
        }
        Ok(found)
    }
}

/// What was found in pieces of a text, which are read in parallel.
async fn in_turn(tasks: Vec<impl Future<Output = Result<Salvaged>>>) -> Result<Salvaged> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut done = stream::iter(tasks).buffered(threads);
    let mut all = Salvaged::default();
    while let Some(found) = done.try_next().await? {
        all.batches.extend(found.batches);
        all.bad.extend(found.bad);
        found.new.into_iter().for_each(|field| add_field(&mut all.new, field));
    }
    Ok(all)
}

/// The byte behind the last line end of a range, if there is one.
async fn last_line_end(file: &TextFile, from: u64, to: u64) -> Result<Option<u64>> {
    let mut end = to;
    while end > from {
        let start = from.max(end.saturating_sub(LINE_BYTES));
        let bytes = file.range(start..end).await?;
        if let Some(at) = memchr::memrchr(b'\n', &bytes) {
            return Ok(Some(start + at as u64 + 1));
        }
        end = start;
    }
    Ok(None)
}

/// The lines that begin in bytes `start..end` of a file, and where they do. Lines begin at `first`, and the last one
/// ends at `last`.
fn lines_of(file: &File, start: u64, end: u64, first: u64, last: u64) -> Result<(u64, Bytes)> {
    let shorter = || Error::query("the file is shorter than it was");
    // The byte before tells whether a line begins here; some bytes behind, where the last one ends.
    let before = if start == first { start } else { start - 1 };
    let mut text = read_at(file, before..last.min(end + LINE_BYTES))?;
    let length = usize::try_from(end - before).unwrap_or(usize::MAX);
    let begins = text.get(..length).ok_or_else(shorter)?;
    let skipped = match (start == first, memchr::memchr(b'\n', begins)) {
        (true, _) => 0,
        (false, Some(at)) => at + 1,
        // The line that goes on here goes on behind.
        (false, None) => return Ok((end, Bytes::new())),
    };
    let mut searched = length - 1;
    loop {
        if let Some(at) = memchr::memchr(b'\n', &text[searched..]) {
            text.truncate(searched + at + 1);
            break;
        }
        searched = text.len();
        let at = before + searched as u64;
        if at >= last {
            break;
        }
        let more = read_at(file, at..last.min(at + LINE_BYTES))?;
        if more.is_empty() {
            return Err(shorter());
        }
        text.extend_from_slice(&more);
    }
    Ok((before + skipped as u64, Bytes::from(text).slice(skipped..)))
}

/// The number of the line that begins at a byte.
async fn line_of(file: &TextFile, position: u64) -> Result<u64> {
    let (mut line, mut at) = (1, 0);
    while at < position {
        let end = position.min(at + COUNT_BYTES);
        let bytes = file.range(at..end).await?;
        line += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        at = end;
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use arrow::datatypes::{DataType, Field, Schema};
    use arrow::record_batch::RecordBatch;

    use super::*;
    use crate::source::stream::StreamOptions;

    fn reader(format: FileFormat, on_error: OnError) -> TextReader {
        let fields = vec![Field::new("a", DataType::Int64, true), Field::new("b", DataType::Utf8, true)];
        let schema = Arc::new(Schema::new(fields));
        let options = StreamOptions { on_error, ..StreamOptions::default() };
        let decoder = Decoder::new(format, schema, vec![0, 1], &options, None).expect("a decoder");
        TextReader { decoder, on_error, dead_letters: None }
    }

    async fn read(reader: &TextReader, text: &str) -> Result<Read> {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(text.as_bytes()).expect("writes");
        let to = text.len() as u64;
        let slice = FileSlice { path: "t".to_owned(), from: 0, to, bytes: to, last: false, file: None };
        reader.read(&TextFile::Open(Arc::new(file)), "t", &slice, None).await
    }

    #[tokio::test]
    async fn bad_records_are_found_alone_and_the_others_are_read() {
        let json: String = (0..100)
            .map(|row| match row {
                7 => "{\"a\": \"seven\", \"b\": \"x\"}\n".to_owned(),
                50 => "{\"a\": 50, \n".to_owned(),
                row => format!("{{\"a\": {row}, \"b\": \"x\"}}\n"),
            })
            .collect();
        let found = read(&reader(FileFormat::Json, OnError::Skip), &json).await.expect("reads");
        assert_eq!(found.batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 98);
        assert_eq!(found.bad.iter().map(|bad| bad.column.as_deref()).collect::<Vec<_>>(), [Some("a"), None]);
        assert!(found.bad[0].reason.starts_with("\"seven\" is not a whole number"), "{:?}", found.bad[0]);
        let at = found.bad[1].position as usize;
        assert!(json[at..].starts_with("{\"a\": 50, \n"));
    }

    #[tokio::test]
    async fn lines_are_read_in_pieces_wherever_they_break() {
        let line = |row: usize| format!("{{\"a\": {row}, \"b\": \"{}\"}}\n", "x".repeat(row % 300));
        let long = format!("{{\"a\": 1, \"b\": \"{}\"}}\n", "y".repeat(3 * PIECE_BYTES));
        let lines = (0..30_000).map(line).chain([long]).chain((0..30_000).map(line));
        let mut text = "\u{feff}".to_owned() + &lines.collect::<String>();
        let wrong = text.len();
        text += "{\"a\": \"seven\"}\n{\"a\": 7}\n";
        let whole = text.len();
        text += "{\"a\": ";
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(text.as_bytes()).expect("writes");
        let (reader, file) = (reader(FileFormat::Json, OnError::Skip), TextFile::Open(Arc::new(file)));
        let (size, all) = (text.len() as u64, u64::MAX);
        let found = reader.whole(&file, "t", 0, size, all).await.expect("reads").expect("whole lines");
        assert_eq!((found.to, found.text), (whole as u64, None));
        let slice = FileSlice { path: "t".to_owned(), from: 0, to: found.to, bytes: 0, last: false, file: None };
        let found = reader.read(&file, "t", &slice, None).await.expect("reads");
        assert_eq!(found.batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 60_002);
        let bad: Vec<_> = found.bad.iter().map(|bad| (bad.position, bad.payload.as_str())).collect();
        assert_eq!(bad, [(wrong as u64, "{\"a\": \"seven\"}")]);
    }

    #[tokio::test]
    async fn a_failure_names_line_column_and_text() {
        let csv = "a,b\n1,x\n2,\"two\nlines\"\nthree,y\n4,z\n";
        let error = read(&reader(FileFormat::Csv, OnError::Fail), csv).await.expect_err("three is no number");
        assert_eq!(error.message, "t, line 5, column a: 'three' is not of type BIGINT");
        assert!(error.notes.iter().any(|note| note.contains("three,y")), "{error:?}");
        let ragged = read(&reader(FileFormat::Csv, OnError::Skip), "a,b\n1\n2,x\n").await.expect("reads");
        assert_eq!((ragged.batches[0].num_rows(), ragged.bad.len()), (1, 1));
    }
}
