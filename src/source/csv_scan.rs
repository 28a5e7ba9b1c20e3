//! The scan of CSV files.
//!
//! Enters: files of one dialect, or ranges of them. Leaves: batches of the columns that a query asks for. Always holds:
//! a range begins and ends where a batch does (`Edges`), so line numbers and quoted line breaks are right, and the
//! batches are those of the whole file.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::datasource::listing::{FileRange, PartitionedFile};
use datafusion::datasource::physical_plan::{FileOpenFuture, FileOpener};
use futures::stream::{BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{GetResultPayload, ObjectMeta, ObjectStoreExt};

use super::Rejects;
use super::infer::display;
use super::scan::{Format, Wanted};
use crate::error::{Error, Result};
use crate::format::csv::{CsvDecoder, Dialect, Edge, Edges, Encoding, Transcoder};

/// Bytes of a local file that are read at once.
const READ_BYTES: usize = 512 << 10;

/// CSV of one dialect.
#[derive(Clone)]
pub(super) struct Csv {
    dialect: Dialect,
    rejects: Arc<Rejects>,
    edges: Arc<Mutex<HashMap<Path, FileEdges>>>,
}

/// Where a file can be cut, for all of its ranges.
type FileEdges = Arc<Mutex<Edges>>;

impl Csv {
    pub(super) fn new(dialect: Dialect, rejects: Arc<Rejects>) -> Self {
        Self { dialect, rejects, edges: Arc::default() }
    }
}

impl Format for Csv {
    const NAME: &'static str = "csv";

    fn cuts(&self, schema: &SchemaRef) -> bool {
        self.dialect.encoding == Encoding::Utf8 && CsvDecoder::reads_pieces(&self.dialect, schema)
    }

    fn opener(&self, wanted: Wanted) -> Arc<dyn FileOpener> {
        Arc::new(Opener { csv: self.clone(), wanted })
    }

    fn describe(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ", has_header={}", self.dialect.header)
    }
}

#[derive(Clone)]
struct Opener {
    csv: Csv,
    wanted: Wanted,
}

/// A piece of a file: where it begins, unless with the file, and the bytes behind its end.
struct Piece {
    begin: Option<Edge>,
    end: u64,
}

impl Opener {
    /// The rows that a range of a file stands for; nothing if there are none.
    fn piece(&self, meta: &ObjectMeta, range: &FileRange, file: &File) -> Result<Option<Piece>> {
        let place = |at: i64| u64::try_from(at).unwrap_or(0);
        let (start, end) = (place(range.start), place(range.end));
        let edges = {
            let mut known = self.csv.edges.lock().unwrap_or_else(PoisonError::into_inner);
            match known.get(&meta.location) {
                Some(edges) => Arc::clone(edges),
                None => {
                    let width = self.wanted.schema.fields().len();
                    // A handle of its own, with a place of its own.
                    let file = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
                    let edges = Edges::new(file, self.csv.dialect.clone(), width, self.wanted.batch_rows);
                    let edges = Arc::new(Mutex::new(edges));
                    known.insert(meta.location.clone(), Arc::clone(&edges));
                    edges
                }
            }
        };
        let mut edges = edges.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = if start == 0 { None } else { edges.at(start) };
        if start > 0 && begin.is_none() {
            return Ok(None);
        }
        let behind = if end >= meta.size { None } else { edges.at(end) };
        let end = behind.map_or(meta.size, |edge| edge.offset);
        Ok(Some(Piece { begin, end }).filter(|piece| piece.begin.is_none_or(|begin| begin.offset < end)))
    }
}

/// Where the bytes of a file come from.
enum Source {
    Local(Box<dyn Read + Send>, Vec<u8>),
    Remote(BoxStream<'static, DfResult<Bytes>>),
}

struct Reading {
    source: Source,
    transcoder: Option<Transcoder>,
    decoder: CsvDecoder,
    end: bool,
}

/// Adds bytes to the decoder's.
fn add(transcoder: &mut Option<Transcoder>, decoder: &mut CsvDecoder, bytes: &[u8]) {
    match transcoder {
        Some(transcoder) => transcoder.push(bytes, decoder.buffer()),
        None => decoder.push(bytes),
    }
}

impl Reading {
    /// Adds the next bytes to the decoder's; notes the end.
    async fn more(&mut self) -> DfResult<()> {
        match &mut self.source {
            Source::Local(file, buffer) => {
                // Read to the brim, so that the end of a small file is known with its only piece.
                let mut count = 0;
                while count < buffer.len() && !self.end {
                    let read = file.read(&mut buffer[count..]).map_err(Error::from)?;
                    self.end = read == 0;
                    count += read;
                }
                add(&mut self.transcoder, &mut self.decoder, &buffer[..count]);
            }
            Source::Remote(stream) => match stream.next().await.transpose()? {
                Some(bytes) => add(&mut self.transcoder, &mut self.decoder, &bytes),
                None => self.end = true,
            },
        }
        Ok(())
    }

    async fn next(mut self) -> DfResult<Option<(RecordBatch, Self)>> {
        loop {
            if let Some(batch) = self.decoder.next(self.end)? {
                return Ok(Some((batch, self)));
            }
            if self.end {
                return Ok(None);
            }
            self.more().await?;
        }
    }
}

impl FileOpener for Opener {
    fn open(&self, file: PartitionedFile) -> DfResult<FileOpenFuture> {
        let this = self.clone();
        Ok(Box::pin(async move {
            let (store, compression) = (&this.wanted.store, this.wanted.compression);
            let mut decoder = this.decoder(&file.object_meta);
            let source = match store.get(&file.object_meta.location).await?.payload {
                GetResultPayload::File(mut local, _) => match &file.range {
                    None => Source::Local(Box::new(compression.convert_read(local)?), vec![0; READ_BYTES]),
                    Some(range) => {
                        let Some(piece) = this.piece(&file.object_meta, range, &local)? else {
                            return Ok(futures::stream::empty().boxed());
                        };
                        let start = piece.begin.map_or(0, |edge| edge.offset);
                        if let Some(edge) = piece.begin {
                            decoder.begin_at(edge.line);
                            local.seek(SeekFrom::Start(start))?;
                        }
                        Source::Local(Box::new(local.take(piece.end - start)), vec![0; READ_BYTES])
                    }
                },
                // The first range has all rows.
                GetResultPayload::Stream(_) if file.range.as_ref().is_some_and(|range| range.start > 0) => {
                    return Ok(futures::stream::empty().boxed());
                }
                GetResultPayload::Stream(stream) => {
                    let stream = stream.map(|bytes| bytes.map_err(DataFusionError::from)).boxed();
                    Source::Remote(compression.convert_stream(stream)?)
                }
            };
            let encoding = this.csv.dialect.encoding;
            let transcoder = (encoding != Encoding::Utf8).then(|| Transcoder::new(encoding));
            let reading = Reading { source, transcoder, decoder, end: false };
            Ok(futures::stream::try_unfold(reading, Reading::next).boxed())
        }))
    }
}

impl Opener {
    fn decoder(&self, meta: &ObjectMeta) -> CsvDecoder {
        let (name, rejects) = (display(meta), Arc::clone(&self.csv.rejects));
        let told_name = name.clone();
        let Wanted { schema, columns, batch_rows, .. } = &self.wanted;
        CsvDecoder::new(
            name,
            self.csv.dialect.clone(),
            Arc::clone(schema),
            columns.clone(),
            *batch_rows,
            Arc::new(move |told| rejects.tell(&told_name, told)),
        )
    }
}
