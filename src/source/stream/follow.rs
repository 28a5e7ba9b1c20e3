//! One local text file, followed as it grows.
//!
//! Enters: what is appended, and files of other names that it was before a rotation. Leaves: whole lines. Always
//! holds: a file is known by its inode and by what was first and last in it, never by its name alone; one that was
//! renamed is read to its end before the one that took its name.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type, UInt64Type};
use async_trait::async_trait;
use bytes::Bytes;

use super::text::{TextFile, TextReader, Whole, read_at};
use super::{Read, Source, StreamOptions, Waiting};
use crate::checkpoint::Saved;
use crate::config::QUIET_MICROS;
use crate::durable::Folder;
use crate::error::{Error, Result};
use crate::offset::{FileMark, FileSlice, OffsetRange};
use crate::source::infer::display_path;

/// How much of the start of a file, and of the end of what was taken, says that it is the same file.
const MARK_BYTES: u64 = 1024;

/// How far a file has been taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Position {
    mark: FileMark,
    to: u64,
}

pub(super) struct Follow {
    path: PathBuf,
    reader: TextReader,
    options: StreamOptions,
    /// Files that were left for their successors, or cut, and how far they were taken before.
    past: Vec<Position>,
    /// Nothing before the first file is there.
    position: Option<Position>,
    /// The file of the position; it stays open, so that it can be read to its end when it is removed.
    file: Option<Arc<File>>,
    changed: bool,
    unfinished: bool,
    waiting: u64,
    /// When what is taken now was written, or the last of it: the file does not tell of the others.
    taking_since: Option<i64>,
    /// What was read to find where lines end.
    read: Option<(FileSlice, Bytes)>,
}

impl Follow {
    pub(super) fn new(path: PathBuf, reader: TextReader, options: StreamOptions) -> Self {
        let (position, file, read) = (None, None, None);
        let past = Vec::new();
        Self {
            path,
            reader,
            options,
            past,
            position,
            file,
            changed: false,
            unfinished: false,
            waiting: 0,
            taking_since: None,
            read,
        }
    }

    fn name(&self) -> String {
        display_path(self.path.display().to_string().trim_start_matches('/'))
    }

    fn io(&self, error: &std::io::Error) -> Error {
        Error::io(self.path.display(), error)
    }

    /// What comes next is of another file, or of the same one after it was cut.
    fn leave(&mut self) {
        self.past.extend(self.position.filter(|position| position.to > 0));
    }

    /// Begins with a file.
    fn start(&mut self, file: File) -> Result<()> {
        self.leave();
        let inode = file.metadata().map_err(|e| self.io(&e))?.ino();
        self.position = Some(Position { mark: FileMark { inode, crc32: 0 }, to: 0 });
        self.file = Some(Arc::new(file));
        self.changed = true;
        Ok(())
    }

    /// The open file and how far it was taken; nothing while there is none.
    fn current(&mut self) -> Result<Option<(Arc<File>, Position)>> {
        let Some(position) = self.position else {
            if let Some(file) = open(&self.path).map_err(|e| self.io(&e))? {
                self.start(file)?;
            }
            return Ok(self.file.clone().zip(self.position));
        };
        if self.file.is_none() {
            self.file = self.find(position.mark.inode)?.map(Arc::new);
        }
        if self.file.is_none() {
            let gone = Error::query(format!(
                "{}: the file that was read until byte {} is gone, and what came behind that may be lost",
                self.name(),
                position.to
            ));
            if !self.options.restart_on_truncate {
                return Err(gone.hint("OPTIONS ('on_truncate' 'restart') goes on with the file that is there now"));
            }
            if let Some(file) = open(&self.path).map_err(|e| self.io(&e))? {
                self.start(file)?;
            }
        }
        Ok(self.file.clone().zip(self.position))
    }

    /// The file of that inode: under its name, or another one in its folder.
    fn find(&self, inode: u64) -> Result<Option<File>> {
        let is = |path: &Path| fs::metadata(path).is_ok_and(|found| found.is_file() && found.ino() == inode);
        if is(&self.path) {
            return open(&self.path).map_err(|e| self.io(&e));
        }
        for path in self.neighbours()? {
            if is(&path) {
                return open(&path).map_err(|e| self.io(&e));
            }
        }
        Ok(None)
    }

    fn neighbours(&self) -> Result<Vec<PathBuf>> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        match fs::read_dir(folder) {
            Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(Error::io(folder.display(), &error)),
        }
    }

    /// The file behind one that was renamed: the oldest later one among those that were renamed since, or the one
    /// that has the name now.
    fn successor(&self, old: &Metadata) -> Result<Option<File>> {
        let Ok(named) = fs::metadata(&self.path) else { return Ok(None) };
        if named.ino() == old.ino() {
            return Ok(None);
        }
        let base = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let rotated = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // Such as app.log.1 or app.log-20260131; not app.log.gz.
            name.strip_prefix(&base).is_some_and(|rest| {
                rest.starts_with(['.', '-'])
                    && rest.bytes().any(|byte| byte.is_ascii_digit())
                    && rest.bytes().all(|byte| byte.is_ascii_digit() || b".-_:T".contains(&byte))
            })
        };
        let time = |found: &Metadata| (found.mtime(), found.mtime_nsec());
        let between = self.neighbours()?.into_iter().filter(rotated).filter_map(|path| {
            let found = fs::metadata(&path).ok().filter(|found| found.is_file() && found.ino() != old.ino())?;
            (time(&found) > time(old)).then(|| (time(&found), path))
        });
        let next = between.min().map_or_else(|| self.path.clone(), |(_, path)| path);
        open(&next).map_err(|e| self.io(&e))
    }

    /// An error, or a new start if OPTIONS say so, when what was taken is no longer there.
    fn check(&mut self, file: &File, position: Position, size: u64) -> Result<Position> {
        if size >= position.to && mark(file, position.mark.inode, position.to)? == position.mark {
            return Ok(position);
        }
        if !self.options.restart_on_truncate {
            let what = if size < position.to { "was cut" } else { "was cut and written anew" };
            return Err(Error::query(format!(
                "{} {what}: it has {size} bytes, and {} of other content were taken",
                self.name(),
                position.to
            ))
            .hint("OPTIONS ('on_truncate' 'restart') reads it from its start again whenever it is cut"));
        }
        self.leave();
        let anew = Position { mark: FileMark { crc32: 0, ..position.mark }, to: 0 };
        self.position = Some(anew);
        self.changed = true;
        Ok(anew)
    }

    async fn slice(&mut self, now_micros: i64) -> Result<Option<FileSlice>> {
        self.unfinished = false;
        self.waiting = 0;
        self.taking_since = None;
        loop {
            let Some((file, position)) = self.current()? else { return Ok(None) };
            let found = file.metadata().map_err(|e| self.io(&e))?;
            let size = found.len();
            let position = self.check(&file, position, size)?;
            let text = TextFile::Open(Arc::clone(&file));
            let from = position.to;
            if size > from {
                let limit = self.options.limits.bytes;
                let whole = self.reader.whole(&text, &self.name(), from, size, limit).await?;
                if let Some(whole) = whole {
                    self.waiting = size - whole.to;
                    return self.take(&file, position, whole).map(Some);
                }
            }
            let changed = found.mtime() * 1_000_000 + found.mtime_nsec() / 1000;
            let quiet = now_micros - changed >= QUIET_MICROS;
            let next = self.successor(&found)?;
            let rest = if size > from { text.range(from..size).await? } else { Bytes::new() };
            // What is renamed is finished when its writer has let go of it; else a line is, if it cannot go on.
            let finished = if next.is_some() { !rest.is_empty() } else { self.reader.decoder.is_complete(&rest) };
            if quiet && finished {
                return self.take(&file, position, Whole { to: from + rest.len() as u64, text: Some(rest) }).map(Some);
            }
            self.unfinished = !quiet && (finished || next.is_some());
            match next {
                Some(next) if quiet => self.start(next)?,
                _ => return Ok(None),
            }
        }
    }

    fn take(&mut self, file: &File, position: Position, whole: Whole) -> Result<FileSlice> {
        let to = whole.to;
        let bytes = to - position.to;
        let path = self.path.display().to_string().trim_start_matches('/').to_owned();
        let mark = mark(file, position.mark.inode, to)?;
        let slice = FileSlice { path, from: position.to, to, bytes, last: false, file: Some(mark) };
        self.read = whole.text.map(|text| (slice.clone(), text));
        let found = file.metadata().map_err(|e| self.io(&e))?;
        self.taking_since = Some(found.mtime() * 1_000_000 + found.mtime_nsec() / 1000);
        Ok(slice)
    }
}

fn open(path: &Path) -> std::io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The mark of a file that was taken to byte `to`.
fn mark(file: &File, inode: u64, to: u64) -> Result<FileMark> {
    let mut hasher = crc32fast::Hasher::new();
    if to > 0 {
        hasher.update(&read_at(file, 0..to.min(MARK_BYTES))?);
        hasher.update(&read_at(file, to.saturating_sub(MARK_BYTES)..to)?);
    }
    Ok(FileMark { inode, crc32: hasher.finalize() })
}

#[async_trait]
impl Source for Follow {
    fn schema(&self) -> SchemaRef {
        self.reader.decoder.schema()
    }

    async fn next(&mut self, now_micros: i64) -> Result<OffsetRange> {
        self.read = None;
        Ok(OffsetRange::Files(self.slice(now_micros).await?.into_iter().collect()))
    }

    fn advance(&mut self, range: &OffsetRange) -> Result<()> {
        let OffsetRange::Files(slices) = range else { return Ok(()) };
        for slice in slices {
            let Some(mark) = slice.file else { continue };
            let other = self.position.is_none_or(|position| position.mark.inode != mark.inode);
            if other {
                self.file = None;
            }
            // A run before has gone on to this file.
            if other || (slice.from == 0 && self.position.is_some_and(|position| position.to > 0)) {
                self.leave();
            }
            self.position = Some(Position { mark, to: slice.to });
            self.changed = true;
        }
        Ok(())
    }

    async fn read(&self, range: &OffsetRange) -> Result<Read> {
        let OffsetRange::Files(slices) = range else { return Err(Error::query("not a range of files")) };
        let mut read = Read::default();
        for slice in slices {
            let Some(expected) = slice.file else { return Err(Error::query("not a range of a followed file")) };
            let known = self.read.as_ref().filter(|(known, _)| known == slice).map(|(_, text)| text.clone());
            let same = self.file.clone().filter(|_| self.position.is_some_and(|at| at.mark.inode == expected.inode));
            let file = match same {
                Some(file) => Some(file),
                None => self.find(expected.inode)?.map(Arc::new),
            };
            let intact = match &file {
                Some(file) => known.is_some() || mark(file, expected.inode, slice.to)? == expected,
                None => false,
            };
            let Some(file) = file.filter(|_| intact) else {
                return Err(Error::query(format!(
                    "{}: bytes {} to {} were taken and are needed again, but they are gone",
                    self.name(),
                    slice.from,
                    slice.to
                ))
                .hint("bring the file back, or start anew with --fresh: outputs are then written again"));
            };
            let more = self.reader.read(&TextFile::Open(file), &self.name(), slice, known).await?;
            read.add(more);
        }
        Ok(read)
    }

    fn dead_letters(&self) -> Option<&Folder> {
        self.reader.dead_letters.as_ref()
    }

    fn is_waiting(&self) -> bool {
        self.unfinished
    }

    fn waiting(&self) -> Waiting {
        let since_micros = self.taking_since.filter(|_| self.waiting > 0);
        Waiting { bytes: self.waiting, rows: None, since_micros }
    }

    fn taking_since(&self) -> Option<i64> {
        self.taking_since
    }

    fn position(&self) -> serde_json::Value {
        let inode = self.position.map(|position| position.mark.inode);
        let to = self.position.map(|position| position.to);
        serde_json::json!({ "file": self.name(), "inode": inode, "to_byte": to })
    }

    fn taken(&self) -> Result<OffsetRange> {
        let path = self.name().trim_start_matches('/').to_owned();
        let slice = |Position { mark, to }| {
            let (path, file) = (path.clone(), Some(mark));
            FileSlice { path, from: 0, to, bytes: to, last: false, file }
        };
        let all = self.past.iter().copied().chain(self.position).filter(|position| position.to > 0);
        Ok(OffsetRange::Files(all.map(slice).collect()))
    }

    fn save(&mut self) -> Result<Saved> {
        let Some(position) = self.position.filter(|_| self.changed) else { return Ok(Saved::Unchanged) };
        self.changed = false;
        // The last one is where it stands.
        let all: Vec<Position> = self.past.iter().copied().chain([position]).collect();
        let schema = Schema::new(vec![
            Field::new("inode", DataType::UInt64, false),
            Field::new("crc32", DataType::UInt32, false),
            Field::new("to", DataType::UInt64, false),
        ]);
        let batch = RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(UInt64Array::from_iter_values(all.iter().map(|one| one.mark.inode))),
                Arc::new(UInt32Array::from_iter_values(all.iter().map(|one| one.mark.crc32))),
                Arc::new(UInt64Array::from_iter_values(all.iter().map(|one| one.to))),
            ],
        )?;
        Ok(Saved::Whole(vec![batch].into()))
    }

    fn restore(&mut self, saved: Vec<RecordBatch>) -> Result<()> {
        for batch in saved.iter().filter(|batch| batch.num_rows() > 0) {
            let position = |row: usize| {
                let inode = batch.column(0).as_primitive::<UInt64Type>().value(row);
                let crc32 = batch.column(1).as_primitive::<UInt32Type>().value(row);
                let to = batch.column(2).as_primitive::<UInt64Type>().value(row);
                Position { mark: FileMark { inode, crc32 }, to }
            };
            let last = batch.num_rows() - 1;
            self.past = (0..last).map(position).collect();
            self.position = Some(position(last));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::source::stream::bad::OnError;
    use crate::source::stream::decode::Decoder;
    use crate::source::stream::table::FileFormat;

    /// Long after each file was written.
    const LATER: i64 = 1 << 60;

    fn follow(path: &Path, restart: bool) -> Follow {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        let options = StreamOptions { restart_on_truncate: restart, ..StreamOptions::default() };
        let decoder = Decoder::new(FileFormat::Json, schema, vec![0], &options, None).expect("a decoder");
        let reader = TextReader { decoder, on_error: OnError::Fail, dead_letters: None };
        Follow::new(path.to_path_buf(), reader, options)
    }

    fn append(path: &Path, text: &str) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).expect("opens");
        file.write_all(text.as_bytes()).expect("writes");
    }

    /// What the next range gives, and the range.
    async fn step(source: &mut Follow, now: i64) -> Result<(Vec<i64>, OffsetRange)> {
        let range = source.next(now).await?;
        let read = source.read(&range).await?;
        source.advance(&range)?;
        let values = read
            .batches
            .iter()
            .flat_map(|batch| batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().values().to_vec());
        Ok((values.collect(), range))
    }

    fn restarted(old: &mut Follow) -> Follow {
        old.changed = true;
        let Saved::Whole(saved) = old.save().expect("saves") else { panic!("nothing saved") };
        let mut new = follow(&old.path.clone(), old.options.restart_on_truncate);
        new.restore(saved.collect::<Result<_>>().expect("reads")).expect("restores");
        new
    }

    #[tokio::test]
    async fn half_lines_wait_and_rotated_files_are_read_to_their_ends() {
        let root = tempfile::tempdir().expect("folder");
        let path = root.path().join("app.log");
        let mut source = follow(&path, false);
        assert!(step(&mut source, 0).await.expect("nothing").0.is_empty());
        append(&path, "{\"a\":1}\n{\"a\":");
        assert_eq!(step(&mut source, LATER).await.expect("reads").0, [1]);
        assert!(step(&mut source, LATER).await.expect("waits").0.is_empty());
        append(&path, "2}\n{\"a\":3}\n");
        assert_eq!(step(&mut source, 0).await.expect("reads").0, [2, 3]);
        append(&path, "{\"a\":4}\n");
        // Rotated twice while nobody reads.
        fs::rename(&path, root.path().join("app.log.2")).expect("renames");
        std::thread::sleep(std::time::Duration::from_millis(20));
        append(&path, "{\"a\":5}\n");
        fs::rename(&path, root.path().join("app.log.1")).expect("renames");
        std::thread::sleep(std::time::Duration::from_millis(20));
        append(&path, "{\"a\":6}\n");
        let mut source = restarted(&mut source);
        let (rows, range) = step(&mut source, LATER).await.expect("finishes the old one");
        assert_eq!(rows, [4]);
        assert_eq!(step(&mut source, LATER).await.expect("the one between").0, [5]);
        assert_eq!(step(&mut source, LATER).await.expect("the new one").0, [6]);
        // The same range again, by inode.
        let mut again = restarted(&mut source);
        assert_eq!(again.read(&range).await.expect("replays").batches[0].num_rows(), 1);
        append(&path, "{\"a\":7}\n");
        assert_eq!(step(&mut again, LATER).await.expect("goes on").0, [7]);
    }

    #[tokio::test]
    async fn a_file_that_was_cut_is_noticed_even_if_it_is_longer_now() {
        for text in ["{\"a\":9}\n", "{\"a\":9}\n{\"a\":9}\n{\"a\":9}\n{\"a\":9}\n"] {
            let root = tempfile::tempdir().expect("folder");
            let path = root.path().join("app.log");
            append(&path, "{\"a\":1}\n{\"a\":2}\n");
            let (mut strict, mut lax) = (follow(&path, false), follow(&path, true));
            let (_, range) = step(&mut strict, 0).await.expect("reads");
            step(&mut lax, 0).await.expect("reads");
            fs::write(&path, text).expect("cuts");
            let error = step(&mut strict, 0).await.expect_err("was cut");
            assert!(error.message.contains("was cut"), "{error:?}");
            let error = restarted(&mut strict).read(&range).await.expect_err("is gone");
            assert!(error.message.contains("gone"), "{error:?}");
            assert_eq!(step(&mut lax, 0).await.expect("reads anew").0, vec![9; text.lines().count()]);
        }
    }
}
