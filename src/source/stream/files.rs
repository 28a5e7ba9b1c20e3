//! A folder, a glob or a file that grows.
//!
//! Enters: listings. Leaves: pieces of files: whole lines of text, row groups of Parquet, batches of Arrow. Always
//! holds: a piece is given once; a line that is not finished waits, and so does a binary file without its end. A file
//! of compressed text is one piece.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::decode::Input;
use super::listing::Listing;
use super::text::{TextFile, TextReader, Whole};
use super::{Read, Source, StreamOptions, Waiting, blocking};
use crate::checkpoint::Saved;
use crate::config::QUIET_MICROS;
use crate::durable::Folder;
use crate::error::{Error, Result};
use crate::offset::{FileSlice, OffsetRange};
use crate::source::infer::display_path;
use crate::source::{FileKind, Location};

/// Files that are read at the same time.
const READING_FILES: usize = 4;
/// Parts of what a checkpoint has of taken files, from which all of it is written anew.
const SAVED_PARTS: usize = 32;

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
    reader: TextReader,
    options: StreamOptions,
    listing: Listing,
    taken: HashMap<String, Taken>,
    /// Files of which something was taken since the last checkpoint.
    changed: Vec<String>,
    /// Of how many parts the last checkpoint has what was taken, and their rows.
    saved: (usize, usize),
    /// What was taken, in the order in which it was, where the rows of the table depend on that.
    order: Option<Order>,
    /// The sizes of files that may grow by whole units, where all there was has been taken.
    whole: HashMap<String, u64>,
    /// Files of the last listing that have something to take.
    waiting: VecDeque<ObjectMeta>,
    /// Bytes that were read to find where records end.
    read: HashMap<FileKey, Bytes>,
    /// A line without its end was left, whose file may be quiet soon.
    unfinished: bool,
    taking_since: Option<i64>,
    /// The file that was taken last.
    last: Option<String>,
}

type FileKey = (String, u64, u64);

/// How far which file was taken, again and again.
#[derive(Default)]
struct Order {
    all: Vec<(String, Taken)>,
    /// How many of them are in a checkpoint.
    saved: usize,
}

impl Order {
    fn push(&mut self, path: &str, taken: Taken) {
        let unsaved = self.all.len() > self.saved;
        match self.all.last_mut().filter(|(last, _)| unsaved && last == path) {
            Some((_, last)) => *last = taken,
            None => self.all.push((path.to_owned(), taken)),
        }
    }

    /// The pieces of files that were taken.
    fn slices(&self) -> Vec<FileSlice> {
        let mut before: HashMap<&str, u64> = HashMap::new();
        let slice = |(path, taken): &'_ (String, Taken), from: u64| {
            let (path, to) = (path.clone(), taken.to);
            FileSlice { path, from, to, bytes: to - from, last: taken.done, file: None }
        };
        let slices = self.all.iter().map(|one| slice(one, before.insert(&one.0, one.1.to).unwrap_or(0)));
        slices.filter(|slice| slice.to > slice.from).collect()
    }
}

impl Files {
    pub(super) fn new(
        location: Location,
        store: Arc<dyn ObjectStore>,
        reader: TextReader,
        options: StreamOptions,
        in_order: bool,
    ) -> Self {
        let (taken, read) = (HashMap::new(), HashMap::new());
        Self {
            location,
            store,
            reader,
            options,
            listing: Listing::default(),
            saved: (0, 0),
            order: in_order.then(Order::default),
            whole: HashMap::new(),
            taken,
            changed: Vec::new(),
            waiting: VecDeque::new(),
            read,
            unfinished: false,
            taking_since: None,
            last: None,
        }
    }

    /// Lists what has something to take.
    async fn list(&mut self, now_micros: i64) -> Result<()> {
        let taken = &self.taken;
        let done = |path: &Path| taken.get(path.as_ref()).is_some_and(|taken| taken.done);
        let mut files = self.listing.files(&self.location, self.store.as_ref(), &done, now_micros).await?;
        files.retain(|file| file.size != taken.get(file.location.as_ref()).map_or(0, |taken| taken.to));
        files.retain(|file| self.whole.get(file.location.as_ref()) != Some(&file.size));
        if self.options.by_time {
            files.sort_by(|a, b| (a.last_modified, &a.location).cmp(&(b.last_modified, &b.location)));
        }
        self.waiting = files.into();
        Ok(())
    }

    fn input(&self, path: &Path, bytes: Option<Bytes>) -> Input {
        match (bytes, self.location.local_path().is_some()) {
            (Some(bytes), _) => Input::Memory(bytes),
            (None, _) => Input::Local(local_path(path)),
        }
    }

    /// What a binary file gives within the limits.
    async fn binary_slice(
        &mut self,
        file: &ObjectMeta,
        rows: u64,
        now_micros: i64,
    ) -> Result<Option<(FileSlice, u64)>> {
        if self.reader.decoder.end_is_unsure() && !is_quiet(file, now_micros) {
            self.unfinished = true;
            return Ok(None);
        }
        let local = self.location.local_path().is_some();
        let bytes = if local { None } else { Some(self.store.get(&file.location).await?.bytes().await?) };
        let input = self.input(&file.location, bytes);
        let decoder = self.reader.decoder.clone();
        let units = blocking(move || Ok(decoder.units(&input))).await?;
        let Some(units) = units else { return Ok(None) };
        let from = self.taken.get(file.location.as_ref()).map_or(0, |taken| taken.to);
        let (to, sum) = units.piece(from, rows);
        let (all, grows) = (units.count(), units.grows);
        let bytes = file.size * (to - from) / all.max(1);
        if grows && to == all {
            self.whole.insert(file.location.to_string(), file.size);
        }
        if grows && to == from {
            return Ok(None);
        }
        let slice =
            FileSlice { path: file.location.to_string(), from, to, bytes, last: to == all && !grows, file: None };
        Ok(Some((slice, sum)))
    }

    /// A text file whose lines can be read.
    fn text_file(&self, path: &Path) -> Result<TextFile> {
        if self.location.local_path().is_none() {
            return Ok(TextFile::Stored(Arc::clone(&self.store), path.clone()));
        }
        let local = local_path(path);
        let file = File::open(&local).map_err(|e| Error::io(local.display(), &e))?;
        Ok(TextFile::Open(Arc::new(file)))
    }

    /// How a text file is compressed.
    fn compression(&self, path: &Path) -> FileCompressionType {
        FileKind::forced("JSON", path.as_ref()).compression
    }

    /// True for a text file whose end has to be there before it can be read.
    fn is_taken_whole(&self, path: &Path) -> bool {
        self.reader.decoder.is_text() && (!self.reader.decoder.lines || self.compression(path).is_compressed())
    }

    /// The text of a file that is taken whole; nothing while it is not all there.
    async fn whole_text(&self, path: &Path) -> Result<Option<Bytes>> {
        let bytes = self.store.get(path).await?.bytes().await?;
        let compression = self.compression(path);
        if !compression.is_compressed() {
            return Ok(Some(bytes));
        }
        blocking(move || {
            let mut text = Vec::new();
            let read = compression.convert_read(std::io::Cursor::new(bytes))?.read_to_end(&mut text);
            Ok(read.is_ok().then(|| Bytes::from(text)))
        })
        .await
    }

    /// A file that is taken whole, once nobody writes to it.
    async fn whole_slice(&mut self, file: &ObjectMeta, now_micros: i64) -> Result<Option<FileSlice>> {
        if !is_quiet(file, now_micros) {
            self.unfinished = true;
            return Ok(None);
        }
        let Some(text) = self.whole_text(&file.location).await? else { return Ok(None) };
        let (path, to) = (file.location.to_string(), text.len() as u64);
        self.read.insert((path.clone(), 0, to), text);
        Ok(Some(FileSlice { path, from: 0, to, bytes: to, last: true, file: None }))
    }

    /// The whole lines of a text file within the limits.
    async fn text_slice(&mut self, file: &ObjectMeta, bytes: u64, now_micros: i64) -> Result<Option<FileSlice>> {
        if self.is_taken_whole(&file.location) {
            return self.whole_slice(file, now_micros).await;
        }
        let path = file.location.to_string();
        let from = self.taken.get(&path).map_or(0, |taken| taken.to);
        if file.size < from {
            return Err(Error::query(format!(
                "{} was cut: it has {} bytes, and {from} were taken",
                display_path(&path),
                file.size
            ))
            .hint("files of a stream grow or stay; start anew with --fresh to take what is there now"));
        }
        let text = self.text_file(&file.location)?;
        let mut whole = self.reader.whole(&text, &display_path(&path), from, file.size, bytes).await?;
        if whole.is_none() && is_quiet(file, now_micros) {
            // Nobody is writing: the last line needs no line end.
            let rest = text.range(from..file.size).await?;
            whole = Some(Whole { to: from + rest.len() as u64, text: Some(rest) });
        }
        let Some(Whole { to, text }) = whole else {
            self.unfinished = true;
            return Ok(None);
        };
        if let Some(text) = text {
            self.read.insert((path.clone(), from, to), text);
        }
        Ok(Some(FileSlice { path, from, to, bytes: to - from, last: false, file: None }))
    }

    async fn read_slice(&self, slice: &FileSlice) -> Result<Read> {
        let name = display_path(&slice.path);
        let located = |error: Error| Error { message: format!("{name}: {}", error.message), ..error };
        let path = Path::parse(&slice.path).map_err(|e| Error::query(e.to_string()))?;
        if self.reader.decoder.is_text() {
            let known = self.read.get(&(slice.path.clone(), slice.from, slice.to)).cloned();
            if !self.is_taken_whole(&path) {
                return self.reader.read(&self.text_file(&path)?, &name, slice, known).await;
            }
            let text = match known {
                Some(text) => Some(text),
                None => self.whole_text(&path).await.map_err(located)?,
            };
            let text = text.ok_or_else(|| located(Error::query("it is not whole any more")))?;
            return self.reader.read(&TextFile::Memory(text), &name, slice, None).await;
        }
        let local = self.location.local_path().is_some();
        let bytes = if local { None } else { Some(self.store.get(&path).await?.bytes().await?) };
        let input = self.input(&path, bytes);
        let (from, to) = (slice.from as usize, slice.to as usize);
        let decoder = self.reader.decoder.clone();
        blocking(move || decoder.binary(&input, from, to)).await.map_err(located)
    }
}

/// The path of a local file.
fn local_path(path: &Path) -> PathBuf {
    std::path::Path::new("/").join(path.as_ref())
}

/// What a checkpoint has of files: of one that comes several times the last counts.
fn saved_batch(all: &[(String, Taken)]) -> Result<RecordBatch> {
    let schema = Schema::new(vec![
        Field::new("path", DataType::Utf8, false),
        Field::new("to", DataType::UInt64, false),
        Field::new("done", DataType::Boolean, false),
    ]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(all.iter().map(|(path, _)| path))),
        Arc::new(UInt64Array::from_iter_values(all.iter().map(|(_, taken)| taken.to))),
        Arc::new(BooleanArray::from_iter(all.iter().map(|(_, taken)| Some(taken.done)))),
    ];
    Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
}

/// True if nobody has written to a file for a while.
fn is_quiet(file: &ObjectMeta, now_micros: i64) -> bool {
    now_micros - file.last_modified.timestamp_micros() >= QUIET_MICROS
}

#[async_trait]
impl Source for Files {
    fn schema(&self) -> SchemaRef {
        self.reader.decoder.schema()
    }

    async fn next(&mut self, now_micros: i64) -> Result<OffsetRange> {
        self.read.clear();
        if self.waiting.is_empty() {
            self.unfinished = false;
            self.list(now_micros).await?;
        }
        self.taking_since = None;
        let limits = self.options.limits.clone();
        let (mut slices, mut rows, mut bytes) = (Vec::new(), 0, 0);
        while let Some(file) = self.waiting.front().cloned() {
            if slices.len() >= limits.files || rows >= limits.rows || bytes >= limits.bytes {
                break;
            }
            let before = slices.len();
            let more = if self.reader.decoder.is_text() {
                let slice = self.text_slice(&file, limits.bytes - bytes, now_micros).await?;
                let more = slice
                    .as_ref()
                    .is_some_and(|slice| !slice.last && slice.to < file.size && slice.bytes >= limits.bytes - bytes);
                slices.extend(slice);
                more
            } else {
                let found = self.binary_slice(&file, limits.rows - rows, now_micros).await?;
                let whole = self.whole.get(file.location.as_ref()) == Some(&file.size);
                let more = found.as_ref().is_some_and(|(slice, _)| !slice.last && !whole);
                rows += found.as_ref().map_or(0, |(_, rows)| *rows);
                slices.extend(found.map(|(slice, _)| slice));
                more
            };
            bytes = slices.iter().map(|slice| slice.bytes).sum();
            if slices.len() > before {
                let written = file.last_modified.timestamp_micros();
                self.taking_since = Some(self.taking_since.map_or(written, |since| since.min(written)));
            }
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
            if let Some(order) = &mut self.order {
                order.push(&slice.path, taken);
            }
            self.taken.insert(slice.path.clone(), taken);
            self.changed.push(slice.path.clone());
            self.last = Some(slice.path.clone());
        }
        Ok(())
    }

    fn dead_letters(&self) -> Option<&Folder> {
        self.reader.dead_letters.as_ref()
    }

    async fn read(&self, range: &OffsetRange) -> Result<Read> {
        let OffsetRange::Files(slices) = range else { return Err(Error::query("not a range of files")) };
        let mut reading = futures::stream::FuturesOrdered::new();
        let mut read = Read::default();
        for slice in slices {
            if reading.len() == READING_FILES {
                read.add(reading.try_next().await?.unwrap_or_default());
            }
            reading.push_back(self.read_slice(slice));
        }
        while let Some(more) = reading.try_next().await? {
            read.add(more);
        }
        Ok(read)
    }

    fn waiting(&self) -> Waiting {
        let text = self.reader.decoder.is_text();
        // The units of other formats are no bytes.
        let taken = |file: &ObjectMeta| match self.taken.get(file.location.as_ref()) {
            Some(taken) if text => taken.to.min(file.size),
            _ => 0,
        };
        let bytes = self.waiting.iter().map(|file| file.size - taken(file)).sum();
        let since_micros = self.waiting.iter().map(|file| file.last_modified.timestamp_micros()).min();
        Waiting { bytes, rows: None, since_micros }
    }

    fn taking_since(&self) -> Option<i64> {
        self.taking_since
    }

    fn position(&self) -> serde_json::Value {
        match &self.last {
            Some(last) => serde_json::json!({ "files": self.taken.len(), "last": display_path(last) }),
            None => serde_json::json!({ "files": self.taken.len() }),
        }
    }

    fn is_waiting(&self) -> bool {
        self.unfinished
    }

    fn taken(&self) -> Result<OffsetRange> {
        if let Some(order) = &self.order {
            return Ok(OffsetRange::Files(order.slices()));
        }
        let mut taken: Vec<(&String, &Taken)> = self.taken.iter().filter(|(_, taken)| taken.to > 0).collect();
        taken.sort_by_key(|(path, _)| *path);
        let slice = |(path, taken): (&String, &Taken)| {
            // Bytes of a text; what units of a binary format are in bytes is not kept.
            let (path, to) = (path.clone(), taken.to);
            FileSlice { path, from: 0, to, bytes: to, last: taken.done, file: None }
        };
        Ok(OffsetRange::Files(taken.into_iter().map(slice).collect()))
    }

    fn save(&mut self) -> Result<Saved> {
        if self.changed.is_empty() {
            return Ok(Saved::Unchanged);
        }
        self.changed.sort();
        self.changed.dedup();
        let changed = std::mem::take(&mut self.changed);
        let (parts, rows) = self.saved;
        if let Some(order) = &mut self.order {
            let whole = parts >= SAVED_PARTS;
            self.saved.0 = if whole { 1 } else { parts + 1 };
            let from = if whole { 0 } else { order.saved };
            order.saved = order.all.len();
            let batch = saved_batch(&order.all[from..])?;
            return Ok(if whole { Saved::Whole(vec![batch].into()) } else { Saved::Added(vec![batch].into()) });
        }
        // Parts would pile up, and have files in them again and again.
        let whole = parts >= SAVED_PARTS || rows + changed.len() > 2 * self.taken.len();
        let mut paths = if whole { self.taken.keys().cloned().collect() } else { changed };
        paths.sort();
        self.saved = if whole { (1, paths.len()) } else { (parts + 1, rows + paths.len()) };
        let all: Vec<(String, Taken)> =
            paths.into_iter().filter_map(|path| self.taken.get(&path).copied().map(|taken| (path, taken))).collect();
        let batch = saved_batch(&all)?;
        Ok(if whole { Saved::Whole(vec![batch].into()) } else { Saved::Added(vec![batch].into()) })
    }

    fn restore(&mut self, saved: Vec<RecordBatch>) -> Result<()> {
        // How many parts there were is not known; they are written as one soon.
        self.saved = (SAVED_PARTS, 0);
        for batch in saved {
            let (paths, ends) = (batch.column(0).as_string::<i32>(), batch.column(1).as_primitive::<UInt64Type>());
            let done = batch.column(2).as_boolean();
            for row in 0..paths.len() {
                let taken = Taken { to: ends.value(row), done: done.value(row) };
                if let Some(order) = &mut self.order {
                    order.all.push((paths.value(row).to_owned(), taken));
                    order.saved = order.all.len();
                }
                self.taken.insert(paths.value(row).to_owned(), taken);
            }
        }
        Ok(())
    }
}
