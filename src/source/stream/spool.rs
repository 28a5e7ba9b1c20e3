//! Standard input and named pipes.
//!
//! Enters: bytes that come once. Leaves: whole records, from segments in the state folder. Always holds: what a range
//! names is synced to a segment before the range is given, and stays until no checkpoint needs it; a segment begins
//! with the header, if there is one, and holds whole records.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use arrow::array::{AsArray, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use async_trait::async_trait;

use super::decode::Decoder;
use super::table::FileFormat;
use super::text::{TextFile, TextReader, read_at};
use super::{Read, Source, StreamOptions, Waiting, blocking};
use crate::checkpoint::Saved;
use crate::config::RECORD_BYTES_LIMIT;
use crate::durable::Folder;
use crate::error::{Error, Result};
use crate::offset::{FileSlice, OffsetRange};

/// The folder within the state.
const SPOOL: &str = "spool";
const READ_BYTES: usize = 256 << 10;
/// A segment has an eighth of the spool, and this at the most.
const SEGMENT_BYTES: u64 = 64 << 20;

/// How far segments have been taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Position {
    segment: u64,
    to: u64,
}

/// A segment by its number, and its length.
#[derive(Debug, Clone, Copy)]
struct Segment {
    number: u64,
    bytes: u64,
}

/// What the thread that reads and the source share.
#[derive(Debug, Default)]
struct Spooled {
    segments: VecDeque<Segment>,
    ended: bool,
    failed: Option<Error>,
}

#[derive(Debug, Default)]
struct Shared {
    spooled: Mutex<Spooled>,
    room: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Spooled> {
        self.spooled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Spooled {
    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Bytes up to a position.
    fn before(&self, position: Position) -> u64 {
        let whole = |segment: &&Segment| segment.number < position.segment;
        self.segments.iter().filter(whole).map(|segment| segment.bytes).sum::<u64>() + position.to
    }
}

pub(super) struct Spool {
    /// What is read; nothing: standard input.
    pipe: Option<PathBuf>,
    reader: TextReader,
    options: StreamOptions,
    folder: PathBuf,
    name: String,
    shared: Arc<Shared>,
    running: bool,
    position: Position,
    /// Where the last checkpoint stands, and the one before it.
    saved: [Option<Position>; 2],
}

impl Spool {
    pub(super) fn new(pipe: Option<PathBuf>, reader: TextReader, options: StreamOptions) -> Self {
        Self {
            pipe,
            reader,
            options,
            folder: PathBuf::new(),
            name: String::new(),
            shared: Arc::default(),
            running: false,
            position: Position::default(),
            saved: [None, None],
        }
    }

    fn path(&self, segment: u64) -> PathBuf {
        self.folder.join(format!("{}-{segment:012}.text", self.name))
    }

    /// As errors name what is read.
    fn title(&self) -> String {
        self.pipe.as_ref().map_or_else(|| "standard input".to_owned(), |path| path.display().to_string())
    }

    fn number(path: &str, name: &str) -> Option<u64> {
        path.strip_prefix(name)?.strip_prefix('-')?.strip_suffix(".text")?.parse().ok()
    }

    /// Begins to read, behind what an earlier run has left.
    fn start(&mut self) -> Result<()> {
        self.running = true;
        let last = self.shared.lock().segments.back().copied();
        if let Some(last) = last {
            self.trim(last)?;
        }
        let next = last.map_or(self.position.segment, |last| last.number).max(self.position.segment) + 1;
        let writer = Writer {
            decoder: self.reader.decoder.clone(),
            folder: self.folder.clone(),
            name: self.name.clone(),
            shared: Arc::clone(&self.shared),
            spool_bytes: self.options.spool_bytes,
            segment: None,
            next,
            header: None,
        };
        let (pipe, title, shared) = (self.pipe.clone(), self.title(), Arc::clone(&self.shared));
        let work = move || {
            let done = writer.run(pipe.as_deref());
            let mut spooled = shared.lock();
            spooled.failed = done.err().map(|error| Error { message: format!("{title}: {}", error.message), ..error });
            spooled.ended = true;
        };
        // A thread of its own: reading may wait for ever.
        std::thread::Builder::new().name("spool".to_owned()).spawn(work).map_err(|e| Error::io(self.title(), &e))?;
        Ok(())
    }

    /// Cuts off half a record that a killed run has left at the end of its last segment.
    fn trim(&mut self, last: Segment) -> Result<()> {
        let path = self.path(last.number);
        let failed = |e| Error::io(path.display(), &e);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
        let from = if last.number == self.position.segment { self.position.to } else { 0 };
        let rest = read_at(&file, from..last.bytes)?;
        let bytes = from + self.reader.decoder.whole_records(&rest) as u64;
        file.set_len(bytes).map_err(failed)?;
        if let Some(last) = self.shared.lock().segments.back_mut() {
            last.bytes = bytes;
        }
        Ok(())
    }

    /// The segment that has more, from where on, and its length.
    fn ready(&self) -> Option<(u64, u64, u64)> {
        let spooled = self.shared.lock();
        spooled.segments.iter().find_map(|segment| {
            let from = match segment.number.cmp(&self.position.segment) {
                std::cmp::Ordering::Less => return None,
                std::cmp::Ordering::Equal => self.position.to,
                std::cmp::Ordering::Greater => 0,
            };
            (segment.bytes > from).then_some((segment.number, from, segment.bytes))
        })
    }

    fn open(&self, segment: u64) -> Result<TextFile> {
        let path = self.path(segment);
        Ok(TextFile::Open(Arc::new(File::open(&path).map_err(|e| Error::io(path.display(), &e))?)))
    }
}

/// The thread that reads the pipe.
struct Writer {
    decoder: Decoder,
    folder: PathBuf,
    name: String,
    shared: Arc<Shared>,
    spool_bytes: u64,
    segment: Option<(File, u64)>,
    next: u64,
    header: Option<Vec<u8>>,
}

impl Writer {
    fn run(mut self, pipe: Option<&Path>) -> Result<()> {
        let failed = |e| Error::query(format!("cannot read it: {e}"));
        let mut input: Box<dyn std::io::Read> = match pipe {
            Some(path) => Box::new(File::open(path).map_err(failed)?),
            None => Box::new(std::io::stdin().lock()),
        };
        let (mut buffer, mut pending) = (vec![0; READ_BYTES], Vec::new());
        loop {
            self.wait_for_room();
            let count = match input.read(&mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                read => read.map_err(failed)?,
            };
            pending.extend_from_slice(&buffer[..count]);
            if count == 0 && !pending.is_empty() && !pending.ends_with(b"\n") {
                pending.push(b'\n');
            }
            let whole = if count == 0 { pending.len() } else { self.decoder.whole_records(&pending) };
            if whole > 0 {
                self.write(&pending[..whole]).map_err(|e| Error::io(self.folder.display(), &e))?;
                pending.drain(..whole);
            }
            if count == 0 {
                return Ok(());
            }
            if pending.len() > RECORD_BYTES_LIMIT.min(usize::try_from(self.spool_bytes / 4).unwrap_or(usize::MAX)) {
                return Err(Error::query(format!("a record of more than {} bytes", pending.len()))
                    .hint("a larger 'max_spool_bytes' lets longer records pass, up to 64MB"));
            }
        }
    }

    fn wait_for_room(&self) {
        let mut spooled = self.shared.lock();
        while spooled.bytes() >= self.spool_bytes {
            spooled = self.shared.room.wait(spooled).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Adds whole records to the segment, or to the next one if it is full.
    fn write(&mut self, records: &[u8]) -> std::io::Result<()> {
        let full = SEGMENT_BYTES.min(self.spool_bytes / 8);
        if self.header.is_none() && self.decoder.format == FileFormat::Csv {
            let header = self.decoder.header(records).ok().flatten();
            self.header = Some(records[..header.map_or(0, |(_, length)| length)].to_vec());
        }
        let mut start: &[u8] = &[];
        if self.segment.as_ref().is_none_or(|(_, bytes)| *bytes >= full) {
            let path = self.folder.join(format!("{}-{:012}.text", self.name, self.next));
            let first = self.segment.is_none();
            self.segment = Some((File::create(path)?, 0));
            File::open(&self.folder)?.sync_all()?;
            self.shared.lock().segments.push_back(Segment { number: self.next, bytes: 0 });
            self.next += 1;
            if !first {
                start = self.header.as_deref().unwrap_or_default();
            }
        }
        if let Some((file, bytes)) = &mut self.segment {
            file.write_all(start)?;
            file.write_all(records)?;
            *bytes += (start.len() + records.len()) as u64;
            if let Some(last) = self.shared.lock().segments.back_mut() {
                last.bytes = *bytes;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Source for Spool {
    fn schema(&self) -> SchemaRef {
        self.reader.decoder.schema()
    }

    fn attach(&mut self, state: &Folder, name: &str) -> Result<()> {
        let Some(root) = state.local_path() else {
            return Err(Error::query(format!("{} can be read only with its state in a local folder", self.title()))
                .note("what a pipe gives comes once, and is kept in the state until a checkpoint holds it")
                .hint("--state DIR names one"));
        };
        self.folder = root.join(SPOOL);
        self.name = name.to_owned();
        let failed = |e| Error::io(self.folder.display(), &e);
        fs::create_dir_all(&self.folder).map_err(failed)?;
        let mut segments = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed)?.flatten() {
            if let Some(number) = Self::number(&entry.file_name().to_string_lossy(), name) {
                segments.push(Segment { number, bytes: entry.metadata().map_err(failed)?.len() });
            }
        }
        segments.sort_by_key(|segment| segment.number);
        self.shared.lock().segments = segments.into();
        Ok(())
    }

    async fn next(&mut self, _now_micros: i64) -> Result<OffsetRange> {
        if !self.running {
            self.start()?;
        }
        if let Some(error) = self.shared.lock().failed.take() {
            return Err(error);
        }
        let Some((segment, from, bytes)) = self.ready() else { return Ok(OffsetRange::Files(Vec::new())) };
        // So that what checkpoints keep never fills the spool.
        let budget = self.options.limits.bytes.min(self.options.spool_bytes / 4);
        let file = self.open(segment)?;
        let Some(whole) = self.reader.whole(&file, &self.title(), from, bytes, budget).await? else {
            return Ok(OffsetRange::Files(Vec::new()));
        };
        let path = self.path(segment);
        let synced = path.clone();
        blocking(move || {
            File::open(&synced).and_then(|file| file.sync_all()).map_err(|e| Error::io(synced.display(), &e))
        })
        .await?;
        let path = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (to, bytes) = (whole.to, whole.to - from);
        Ok(OffsetRange::Files(vec![FileSlice { path, from, to, bytes, last: false, file: None }]))
    }

    fn advance(&mut self, range: &OffsetRange) -> Result<()> {
        let OffsetRange::Files(slices) = range else { return Ok(()) };
        for slice in slices {
            let Some(segment) = Self::number(&slice.path, &self.name) else { continue };
            self.position = Position { segment, to: slice.to };
        }
        Ok(())
    }

    async fn read(&self, range: &OffsetRange) -> Result<Read> {
        let OffsetRange::Files(slices) = range else { return Err(Error::query("not a range of files")) };
        let mut read = Read::default();
        for slice in slices {
            let number = Self::number(&slice.path, &self.name).unwrap_or_default();
            let more = self.reader.read(&self.open(number)?, &self.title(), slice, None).await?;
            read.add(more);
        }
        Ok(read)
    }

    fn dead_letters(&self) -> Option<&Folder> {
        self.reader.dead_letters.as_ref()
    }

    fn is_finished(&self) -> bool {
        let ended = self.running && {
            let spooled = self.shared.lock();
            spooled.ended && spooled.failed.is_none()
        };
        ended && self.ready().is_none()
    }

    fn is_ended(&self) -> bool {
        // A named pipe may be opened again.
        self.pipe.is_none() && self.is_finished()
    }

    fn is_waiting(&self) -> bool {
        !self.is_finished()
    }

    fn waiting(&self) -> Waiting {
        let spooled = self.shared.lock();
        let bytes = spooled.bytes().saturating_sub(spooled.before(self.position));
        Waiting { bytes, ..Waiting::default() }
    }

    fn position(&self) -> serde_json::Value {
        serde_json::json!({ "segment": self.position.segment, "to_byte": self.position.to })
    }

    fn wants_checkpoint(&self) -> bool {
        let spooled = self.shared.lock();
        let since = spooled.before(self.position)
            - spooled.before(self.saved[1].unwrap_or_default()).min(spooled.before(self.position));
        since > self.options.spool_bytes / 4 || (since > 0 && spooled.bytes() >= self.options.spool_bytes)
    }

    fn release(&mut self) -> Result<()> {
        let Some(done) = self.saved[0] else { return Ok(()) };
        loop {
            let mut spooled = self.shared.lock();
            let Some(first) = spooled.segments.front().filter(|first| first.number < done.segment).copied() else {
                break;
            };
            spooled.segments.pop_front();
            drop(spooled);
            let path = self.path(first.number);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(path.display(), &error));
                }
                _ => self.shared.room.notify_all(),
            }
        }
        Ok(())
    }

    fn taken(&self) -> Result<OffsetRange> {
        let spooled = self.shared.lock();
        let before: Vec<&Segment> = spooled.segments.iter().filter(|one| one.number < self.position.segment).collect();
        let (first, gone) = (before.first().map_or(self.position.segment, |one| one.number), self.position.segment > 1);
        if gone && first > 1 {
            return Err(Error::query(format!("what {} gave at first is gone: it comes once", self.title()))
                .note("the spool keeps it until two checkpoints hold what was made of it"));
        }
        let slice = |number: u64, to: u64| {
            let path = self.path(number).file_name().unwrap_or_default().to_string_lossy().into_owned();
            FileSlice { path, from: 0, to, bytes: to, last: false, file: None }
        };
        let whole = before.iter().map(|one| slice(one.number, one.bytes));
        let last = Some(slice(self.position.segment, self.position.to)).filter(|last| last.to > 0);
        Ok(OffsetRange::Files(whole.chain(last).collect()))
    }

    fn save(&mut self) -> Result<Saved> {
        self.saved = [self.saved[1], Some(self.position)];
        let names = ["segment", "to"].map(|name| Field::new(name, DataType::UInt64, false));
        let values =
            [self.position.segment, self.position.to].map(|value| Arc::new(UInt64Array::from(vec![value])) as _);
        Ok(Saved::Whole(vec![RecordBatch::try_new(Arc::new(Schema::new(names.to_vec())), values.to_vec())?].into()))
    }

    fn restore(&mut self, saved: Vec<RecordBatch>) -> Result<()> {
        for batch in saved.iter().filter(|batch| batch.num_rows() > 0) {
            let value = |at: usize| batch.column(at).as_primitive::<UInt64Type>().value(0);
            self.position = Position { segment: value(0), to: value(1) };
            self.saved = [None, Some(self.position)];
        }
        Ok(())
    }
}
