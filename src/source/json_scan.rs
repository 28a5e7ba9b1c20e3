//! Scans of JSON files.
//!
//! Enters: a file, or a range of one, and the columns to be read. Leaves: batches, or an error with file, line
//! and column. Always holds: each object of a file is read by one range, however the ranges cut it; a file that
//! is one array is read by its first range.
//!
//! A range begins and ends at the first line end, from its own ends on, that stands between a `}` and a `{`.
//! JSON has no line ends in texts, and a comma between objects within anything, so there one object ends and
//! the next begins, also where objects take several lines.

use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileOpenFuture, FileOpener};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt};

use super::infer::display;
use super::scan::{Format, Wanted};
use crate::error::{Error, Result};
use crate::format::{JsonDecoder, Members, NOT_UTF8, Problem, Records, WrongKind};

/// Bytes that are read at once.
pub(super) const PIECE_BYTES: usize = 256 << 10;

/// JSON, and what becomes of members that the columns do not have.
#[derive(Clone)]
pub(super) struct Json {
    pub(super) members: Members,
}

impl Format for Json {
    const NAME: &'static str = "json";

    fn cuts(&self, _schema: &SchemaRef) -> bool {
        true
    }

    fn opener(&self, wanted: Wanted) -> Arc<dyn FileOpener> {
        Arc::new(Opener { members: self.members, wanted })
    }
}

#[derive(Clone)]
struct Opener {
    members: Members,
    wanted: Wanted,
}

/// Why a scan ends early.
enum Failure {
    Text(Problem),
    Other(Error),
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

type Batches = BoxStream<'static, Result<RecordBatch, Failure>>;

impl FileOpener for Opener {
    fn open(&self, file: PartitionedFile) -> DfResult<FileOpenFuture> {
        let this = self.clone();
        Ok(Box::pin(async move {
            let meta = file.object_meta.clone();
            let range = match &file.range {
                Some(range) => this.whole_objects(&meta, range.start, range.end).await?,
                None => (0, meta.size),
            };
            let batches = this.batches(&meta, range).await?;
            let explained = batches.then(move |item| {
                let (this, meta) = (this.clone(), meta.clone());
                async move {
                    match item {
                        Ok(batch) => Ok(batch),
                        Err(Failure::Other(error)) => Err(DataFusionError::from(error)),
                        Err(Failure::Text(problem)) => {
                            Err(explain(this.wanted.store.as_ref(), &meta, this.wanted.compression, &problem)
                                .await
                                .into())
                        }
                    }
                }
            });
            Ok(explained.boxed())
        }))
    }
}

impl Opener {
    /// The bytes of the objects that a range stands for.
    async fn whole_objects(&self, file: &ObjectMeta, start: i64, end: i64) -> Result<(u64, u64)> {
        let store = self.wanted.store.as_ref();
        if is_array(store, file).await? {
            return Ok(if start == 0 { (0, file.size) } else { (file.size, file.size) });
        }
        let place = |at: i64| u64::try_from(at).unwrap_or(0);
        Ok((edge(store, file, place(start)).await?, edge(store, file, place(end)).await?))
    }

    async fn batches(&self, file: &ObjectMeta, (start, end): (u64, u64)) -> Result<Batches> {
        if start >= end {
            return Ok(stream::empty().boxed());
        }
        let records = if start == 0 { Records::default() } else { Records::lines_from(start) };
        let Wanted { store, compression, schema, columns, batch_rows } = &self.wanted;
        let decoder = JsonDecoder::new(records, schema, columns, self.members, *batch_rows)?;
        let options = GetOptions { range: Some(GetRange::Bounded(start..end)), ..Default::default() };
        let found = store.get_opts(&file.location, options).await?;
        Ok(match found.payload {
            GetResultPayload::File(mut file, _) => {
                file.seek(SeekFrom::Start(found.range.start))?;
                let text = compression.convert_read(file.take(found.range.end - found.range.start))?;
                local_batches(decoder, text).boxed()
            }
            GetResultPayload::Stream(bytes) => {
                let bytes = bytes.map_err(DataFusionError::from).boxed();
                remote_batches(decoder, compression.convert_stream(bytes)?).boxed()
            }
        })
    }
}

fn local_batches(
    mut decoder: JsonDecoder,
    mut text: impl Read + Send,
) -> impl Stream<Item = Result<RecordBatch, Failure>> + Send {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut ended = false;
    let mut next = move || -> Result<Option<RecordBatch>, Failure> {
        loop {
            match decoder.next_batch().map_err(Failure::Text)? {
                Some(batch) => return Ok(Some(batch)),
                None if ended => return Ok(None),
                None => {}
            }
            let count = text.read(&mut buffer)?;
            decoder.push(&buffer[..count]);
            if count == 0 {
                ended = true;
                decoder.end();
            }
        }
    };
    let mut failed = false;
    stream::iter(std::iter::from_fn(move || {
        let item = if failed { None } else { next().transpose() };
        failed |= matches!(item, Some(Err(_)));
        item
    }))
}

fn remote_batches(
    decoder: JsonDecoder,
    bytes: BoxStream<'static, DfResult<Bytes>>,
) -> impl Stream<Item = Result<RecordBatch, Failure>> + Send {
    stream::try_unfold((decoder, bytes, false), |(mut decoder, mut bytes, mut ended)| async move {
        loop {
            match decoder.next_batch().map_err(Failure::Text)? {
                Some(batch) => return Ok(Some((batch, (decoder, bytes, ended)))),
                None if ended => return Ok(None),
                None => {}
            }
            match bytes.next().await {
                Some(piece) => decoder.push(&piece?),
                None => {
                    ended = true;
                    decoder.end();
                }
            }
        }
    })
}

/// True for a file that is one array. Compressed files are not cut, so nobody asks for them.
async fn is_array(store: &dyn ObjectStore, file: &ObjectMeta) -> Result<bool> {
    let mut at = 0;
    while at < file.size {
        let piece = store.get_range(&file.location, at..file.size.min(at + 4096)).await?;
        let text = if at == 0 { piece.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&piece) } else { &piece };
        if let Some(byte) = text.iter().find(|byte| !byte.is_ascii_whitespace()) {
            return Ok(*byte == b'[');
        }
        at += piece.len() as u64;
    }
    Ok(false)
}

/// The first place from `from` on where one object ends and the next begins; the end of the file, if none does.
async fn edge(store: &dyn ObjectStore, file: &ObjectMeta, from: u64) -> Result<u64> {
    if from == 0 {
        return Ok(0);
    }
    let mut edge = Edge::default();
    let mut at = from;
    while at < file.size {
        let piece = store.get_range(&file.location, at..file.size.min(at + PIECE_BYTES as u64)).await?;
        if let Some(place) = edge.find(&piece) {
            return Ok(from + place);
        }
        at += piece.len() as u64;
    }
    Ok(file.size)
}

/// Looks for a place where one object ends and the next begins.
#[derive(Default)]
pub(super) struct Edge {
    read: u64,
    /// The last byte that is no white space.
    last: u8,
    /// Behind the line end that follows it.
    behind: Option<u64>,
}

impl Edge {
    /// The place, from the start of the first piece.
    pub(super) fn find(&mut self, piece: &[u8]) -> Option<u64> {
        for byte in piece {
            self.read += 1;
            match byte {
                b'\n' => self.behind = self.behind.or(Some(self.read)),
                b' ' | b'\t' | b'\r' => {}
                b'{' if self.last == b'}' && self.behind.is_some() => return self.behind,
                other => {
                    self.last = *other;
                    self.behind = None;
                }
            }
        }
        None
    }
}

/// The error that a user sees of a problem in a file: the file is read again, to count its lines.
pub(super) async fn explain(
    store: &dyn ObjectStore,
    file: &ObjectMeta,
    compression: FileCompressionType,
    problem: &Problem,
) -> Error {
    let name = display(file);
    let place = place(store, file, compression, problem).await.unwrap_or_default();
    let line = match place.line {
        0 => name.clone(),
        line => format!("{name}, line {line}"),
    };
    let column = problem.member.split('.').next().unwrap_or_default();
    let declare = format!("CREATE EXTERNAL TABLE t ({column} VARCHAR, …) STORED AS JSON LOCATION '{name}'");
    let error = match problem.kind {
        WrongKind::Unknown => Error::query(format!("{line}: the member {} is new: {}", problem.member, problem.what))
            .hint(
                "SET fuse.json_sample = '1GB' looks at more of each file for its columns; CREATE EXTERNAL TABLE … \
                 OPTIONS ('ignore_unknown' 'true') leaves such members out",
            ),
        WrongKind::Value => Error::query(format!("{line}, column {}: {}", problem.member, problem.what)).hint(format!(
            "declare another type: {declare}; or SET fuse.json_sample = '1GB', to look at more of each file"
        )),
        _ if problem.what == NOT_UTF8 => Error::query(format!("{line}: {NOT_UTF8}"))
            .hint("convert the file first, for example: iconv -f latin1 -t utf-8"),
        // Where an object lacks its end, the next one is what seems wrong.
        WrongKind::Syntax if place.object < place.line => Error::query(format!(
            "{name}, line {}: the object that begins here is wrong in line {}: {}",
            place.object, place.line, problem.what
        )),
        WrongKind::Syntax | WrongKind::Size => Error::query(format!("{line}: {}", problem.what)),
    };
    if place.near.is_empty() { error } else { error.note(format!("the text there is: {}", place.near)) }
}

/// Where in a file something is wrong.
#[derive(Default)]
struct Place {
    line: u64,
    /// The line in which the object begins.
    object: u64,
    /// The text around it.
    near: String,
}

async fn place(
    store: &dyn ObjectStore,
    file: &ObjectMeta,
    compression: FileCompressionType,
    problem: &Problem,
) -> Result<Place> {
    const BEFORE: usize = 60;
    const AFTER: usize = 60;
    let bytes = store.get(&file.location).await?.into_stream();
    let mut bytes = compression.convert_stream(bytes.map_err(DataFusionError::from).boxed())?;
    let (mut read, mut before) = (0, Vec::new());
    let mut place = Place { line: 1, object: 1, near: String::new() };
    while let Some(piece) = bytes.next().await {
        let piece = piece?;
        let until = |offset: u64| usize::try_from(offset.saturating_sub(read)).unwrap_or(usize::MAX).min(piece.len());
        let lines = |end: usize| piece[..end].iter().filter(|byte| **byte == b'\n').count() as u64;
        let here = until(problem.offset);
        place.line += lines(here);
        place.object += lines(until(problem.object));
        before.extend_from_slice(&piece[here.saturating_sub(BEFORE)..here]);
        before.drain(..before.len().saturating_sub(BEFORE));
        read += piece.len() as u64;
        if read > problem.offset {
            let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            let rest = &piece[here..piece.len().min(here + AFTER)];
            let near = [&before[start..], rest.split(|byte| *byte == b'\n').next().unwrap_or_default()].concat();
            place.near = String::from_utf8_lossy(&near).trim().to_owned();
            break;
        }
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_ends_where_the_next_begins_and_nowhere_else() {
        let find = |text: &str| Edge::default().find(text.as_bytes());
        assert_eq!(find("1}\n{\"a\":2}"), Some(3));
        assert_eq!(find("1}\r\n\n {\"a\":2}"), Some(4));
        assert_eq!(find("\n{\"a\":\n{\"b\":1}\n}\n{"), Some(17));
        for text in ["{\n{", "},\n{", "}{", "}\n}", "}\n", ""] {
            assert_eq!(find(text), None, "{text}");
        }
    }
}
