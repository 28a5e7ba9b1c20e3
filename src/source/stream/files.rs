//! A folder, a glob or a file that grows.
//!
//! Enters: listings. Leaves: pieces of files: whole lines of text, row groups of Parquet, batches of Arrow. Always
//! holds: a piece is given once; a line that is not finished waits, and so does a binary file without its end.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::decode::{Decoder, Input};
use super::{Source, StreamOptions};
use crate::checkpoint::Saved;
use crate::config::{QUIET_MICROS, RECORD_BYTES_LIMIT};
use crate::error::{Error, Result};
use crate::offset::{FileSlice, OffsetRange};
use crate::source::Location;

/// How much text one thread reads at a time.
const PIECE_BYTES: usize = 4 << 20;
/// Files that are read at the same time.
const READING_FILES: usize = 4;
/// How much of a CSV file is read for its header.
const HEADER_BYTES: u64 = 1 << 20;

/// How far a file has been taken, in the units of its format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Taken {
    to: u64,
    /// Nothing more will come: a binary file was taken to its end.
    done: bool,
}

pub(super) struct Files {
    location: Location,
    store: Arc<dyn ObjectStore>,
    decoder: Decoder,
    options: StreamOptions,
    taken: HashMap<String, Taken>,
    /// Files of which something was taken since the last checkpoint.
    changed: Vec<String>,
    /// Files of the last listing that have something to take.
    waiting: VecDeque<ObjectMeta>,
    /// Bytes that were read to find where records end.
    read: HashMap<FileKey, Bytes>,
    /// A line without its end was left, whose file may be quiet soon.
    unfinished: bool,
}

type FileKey = (String, u64, u64);

impl Files {
    pub(super) fn new(
        location: Location,
        store: Arc<dyn ObjectStore>,
        decoder: Decoder,
        options: StreamOptions,
    ) -> Self {
        let (taken, read) = (HashMap::new(), HashMap::new());
        Self {
            location,
            store,
            decoder,
            options,
            taken,
            changed: Vec::new(),
            waiting: VecDeque::new(),
            read,
            unfinished: false,
        }
    }

    /// Lists what has something to take.
    async fn list(&mut self) -> Result<()> {
        let mut files = self.location.files_in(self.store.as_ref()).await?;
        files.retain(|file| match self.taken.get(file.location.as_ref()) {
            None => file.size > 0,
            Some(taken) => !taken.done && file.size != taken.to,
        });
        if self.options.by_time {
            files.sort_by(|a, b| (a.last_modified, &a.location).cmp(&(b.last_modified, &b.location)));
        }
        self.waiting = files.into();
        Ok(())
    }

    fn input(&self, path: &Path, bytes: Option<Bytes>) -> Input {
        match (bytes, self.location.local_path().is_some()) {
            (Some(bytes), _) => Input::Memory(bytes),
            (None, _) => Input::Local(std::path::Path::new("/").join(path.as_ref())),
        }
    }

    /// What a binary file gives within the limits.
    async fn binary_slice(&mut self, file: &ObjectMeta, rows: u64) -> Result<Option<(FileSlice, u64)>> {
        let local = self.location.local_path().is_some();
        let bytes = if local { None } else { Some(self.store.get(&file.location).await?.bytes().await?) };
        let input = self.input(&file.location, bytes);
        let decoder = self.decoder.clone();
        let units = blocking(move || Ok(decoder.units(&input))).await?;
        let Some(units) = units else { return Ok(None) };
        let from = self.taken.get(file.location.as_ref()).map_or(0, |taken| taken.to);
        let mut to = from;
        let mut sum = 0;
        for unit in units.iter().skip(usize::try_from(from).unwrap_or(usize::MAX)) {
            if to > from && sum + unit > rows {
                break;
            }
            sum += unit;
            to += 1;
        }
        let all = units.len() as u64;
        let bytes = file.size * (to - from) / all.max(1);
        let last = to == all;
        let slice = FileSlice { path: file.location.to_string(), from, to, bytes, last, file: None };
        Ok(Some((slice, sum)))
    }

    /// The whole lines of a text file within the limits.
    async fn text_slice(&mut self, file: &ObjectMeta, bytes: u64, now_micros: i64) -> Result<Option<FileSlice>> {
        let path = file.location.to_string();
        let from = self.taken.get(&path).map_or(0, |taken| taken.to);
        if file.size < from {
            return Err(Error::query(format!("/{path} was cut: it has {} bytes, and {from} were taken", file.size))
                .hint("files of a stream grow or stay; start anew with --fresh to take what is there now"));
        }
        let quiet = now_micros - file.last_modified.timestamp_micros() >= QUIET_MICROS;
        let mut budget = bytes.max(1);
        loop {
            let end = file.size.min(from + budget);
            let chunk = self.store.get_range(&file.location, from..end).await?;
            let mut whole = self.decoder.whole_records(&chunk) as u64;
            if end == file.size && quiet {
                // Nobody is writing: the last line needs no line end.
                whole = end - from;
            }
            if whole > 0 {
                let to = from + whole;
                self.read.insert((path.clone(), from, to), chunk.slice(..whole as usize));
                return Ok(Some(FileSlice { path, from, to, bytes: whole, last: false, file: None }));
            }
            if end == file.size {
                self.unfinished = true;
                return Ok(None);
            }
            if budget >= RECORD_BYTES_LIMIT as u64 {
                return Err(Error::query(format!(
                    "/{path}, byte {from}: a record of more than {RECORD_BYTES_LIMIT} bytes"
                )));
            }
            budget = (budget * 2).min(RECORD_BYTES_LIMIT as u64);
        }
    }

    async fn read_slice(&self, slice: &FileSlice) -> Result<Vec<RecordBatch>> {
        let located = |error: Error| {
            let mut error = error;
            error.message = format!("/{}, from {} to {}: {}", slice.path, slice.from, slice.to, error.message);
            error
        };
        let path = Path::parse(&slice.path).map_err(|e| Error::query(e.to_string()))?;
        let decoder = self.decoder.clone();
        if !self.decoder.is_text() {
            let local = self.location.local_path().is_some();
            let bytes = if local { None } else { Some(self.store.get(&path).await?.bytes().await?) };
            let input = self.input(&path, bytes);
            let (from, to) = (slice.from as usize, slice.to as usize);
            return blocking(move || decoder.binary(&input, from, to)).await.map_err(located);
        }
        let key = (slice.path.clone(), slice.from, slice.to);
        let mut text = match self.read.get(&key) {
            Some(text) => text.clone(),
            None => {
                let text = self.store.get_range(&path, slice.from..slice.to).await?;
                if text.len() as u64 != slice.to - slice.from {
                    return Err(located(Error::query("the file is shorter than it was")));
                }
                text
            }
        };
        let mut names = None;
        if self.decoder.header {
            let start = self.store.get_range(&path, 0..slice.to.min(HEADER_BYTES)).await?;
            if let Some((header, length)) = self.decoder.header(&start).map_err(located)? {
                names = Some(Arc::new(header));
                if slice.from == 0 {
                    text = text.slice(length..);
                }
            } else {
                return Ok(Vec::new());
            }
        } else if slice.from == 0 && text.starts_with(b"\xef\xbb\xbf") {
            text = text.slice(3..);
        }
        let pieces = self.decoder.cut(&text, PIECE_BYTES).into_iter().map(|piece| {
            let (decoder, names) = (self.decoder.clone(), names.clone());
            blocking(move || decoder.text(&piece, names.as_ref().map(|names| names.as_slice())))
        });
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let batches: Vec<Vec<RecordBatch>> =
            stream::iter(pieces).buffered(threads).try_collect().await.map_err(located)?;
        Ok(batches.into_iter().flatten().collect())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) if panic.is_panic() => Err(Error::from_panic(panic.into_panic().as_ref())),
        Err(_) => Err(Error::query("stopped")),
    }
}

#[async_trait]
impl Source for Files {
    fn schema(&self) -> SchemaRef {
        self.decoder.schema()
    }

    async fn next(&mut self, now_micros: i64) -> Result<OffsetRange> {
        self.read.clear();
        if self.waiting.is_empty() {
            self.unfinished = false;
            self.list().await?;
        }
        let limits = self.options.limits.clone();
        let (mut slices, mut rows, mut bytes) = (Vec::new(), 0, 0);
        while let Some(file) = self.waiting.front().cloned() {
            if slices.len() >= limits.files || rows >= limits.rows || bytes >= limits.bytes {
                break;
            }
            let more = if self.decoder.is_text() {
                let slice = self.text_slice(&file, limits.bytes - bytes, now_micros).await?;
                let more =
                    slice.as_ref().is_some_and(|slice| slice.to < file.size && slice.bytes >= limits.bytes - bytes);
                slices.extend(slice);
                more
            } else {
                let found = self.binary_slice(&file, limits.rows - rows).await?;
                let more = found.as_ref().is_some_and(|(slice, _)| !slice.last);
                rows += found.as_ref().map_or(0, |(_, rows)| *rows);
                slices.extend(found.map(|(slice, _)| slice));
                more
            };
            bytes = slices.iter().map(|slice| slice.bytes).sum();
            if more {
                break;
            }
            self.waiting.pop_front();
        }
        Ok(OffsetRange::Files(slices))
    }

    fn advance(&mut self, range: &OffsetRange) -> Result<()> {
        let OffsetRange::Files(slices) = range else { return Ok(()) };
        for slice in slices {
            let taken = Taken { to: slice.to, done: slice.last };
            self.taken.insert(slice.path.clone(), taken);
            self.changed.push(slice.path.clone());
        }
        Ok(())
    }

    async fn read(&self, range: &OffsetRange) -> Result<Vec<RecordBatch>> {
        let OffsetRange::Files(slices) = range else { return Err(Error::query("not a range of files")) };
        let mut reading = futures::stream::FuturesOrdered::new();
        let mut batches = Vec::new();
        for slice in slices {
            if reading.len() == READING_FILES {
                batches.extend(reading.try_next().await?.unwrap_or_default());
            }
            reading.push_back(self.read_slice(slice));
        }
        while let Some(more) = reading.try_next().await? {
            batches.extend(more);
        }
        Ok(batches)
    }

    fn waiting_bytes(&self) -> u64 {
        self.waiting
            .iter()
            .map(|file| file.size - self.taken.get(file.location.as_ref()).map_or(0, |t| t.to.min(file.size)))
            .sum()
    }

    fn is_waiting(&self) -> bool {
        self.unfinished
    }

    fn save(&mut self) -> Result<Saved> {
        if self.changed.is_empty() {
            return Ok(Saved::Unchanged);
        }
        self.changed.sort();
        self.changed.dedup();
        let paths: Vec<String> = std::mem::take(&mut self.changed);
        let all: Vec<Taken> = paths.iter().filter_map(|path| self.taken.get(path).copied()).collect();
        let schema = Schema::new(vec![
            Field::new("path", DataType::Utf8, false),
            Field::new("to", DataType::UInt64, false),
            Field::new("done", DataType::Boolean, false),
        ]);
        let batch = RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(StringArray::from_iter_values(&paths)),
                Arc::new(UInt64Array::from_iter_values(all.iter().map(|taken| taken.to))),
                Arc::new(BooleanArray::from_iter(all.iter().map(|taken| Some(taken.done)))),
            ],
        )?;
        Ok(Saved::Added(vec![batch]))
    }

    fn restore(&mut self, saved: Vec<RecordBatch>) -> Result<()> {
        for batch in saved {
            let (paths, ends) = (batch.column(0).as_string::<i32>(), batch.column(1).as_primitive::<UInt64Type>());
            let done = batch.column(2).as_boolean();
            for row in 0..paths.len() {
                let taken = Taken { to: ends.value(row), done: done.value(row) };
                self.taken.insert(paths.value(row).to_owned(), taken);
            }
        }
        Ok(())
    }
}
