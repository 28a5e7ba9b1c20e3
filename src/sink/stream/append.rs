//! A folder that files are added to.
//!
//! Enters: changes. Leaves: files named by the pipeline and the epoch in which they were begun. Always holds: an
//! epoch adds to one file in each partition, by exchanging it for one that has the new rows too, until it is rolled;
//! writing an epoch again gives the same files.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::{Deserialize, Serialize};

use super::encode::Growing;
use super::image::{Image, fold, in_folder};
use super::{FileEncoding, Mode, Roll, Sink};
use crate::change::{Changes, consolidate, take_rows};
use crate::config::NULL_FOLDER;
use crate::durable::{Folder, Shown, StagedFile};
use crate::error::{Error, Result};
use crate::format::texts;
use crate::offset::Epoch;

/// Characters that a folder's name escapes, as Hive does.
const ESCAPED: &AsciiSet = &CONTROLS
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'\'')
    .add(b'*')
    .add(b'/')
    .add(b':')
    .add(b'=')
    .add(b'?')
    .add(b'\\')
    .add(b'{')
    .add(b'[')
    .add(b']')
    .add(b'^');

/// A folder of files.
pub struct AppendSink {
    folder: Folder,
    encoding: FileEncoding,
    roll: Roll,
    /// The identity of the pipeline.
    id: String,
    mode: Mode,
    /// It begins in a folder that holds no files.
    must_be_new: bool,
    /// Places of the columns that name folders.
    partitions: Vec<usize>,
    /// The columns of the query.
    columns: SchemaRef,
    /// The columns of the files.
    files: SchemaRef,
    taken: Vec<Changes>,
    /// The file that each folder's rows are added to.
    open: BTreeMap<String, Open>,
    staged: Vec<StagedFile>,
    shown: Shown,
}

/// A file that rows are added to.
struct Open {
    first: Epoch,
    since_micros: i64,
    file: Growing,
}

/// What the commit log keeps of it.
#[derive(Serialize, Deserialize)]
struct Position {
    first: Epoch,
    since_micros: i64,
    rows: usize,
    bytes: usize,
    /// How many columns it has; nothing is added to a file with fewer.
    #[serde(default)]
    columns: usize,
}

/// The columns that a changelog has behind those of the query.
fn changelog_fields() -> [Arc<Field>; 2] {
    let field = |name, kind| Arc::new(Field::new(name, kind, false));
    [field("op", DataType::Utf8), field("epoch", DataType::Int64)]
}

impl AppendSink {
    /// A sink that adds files to `folder`.
    pub fn new(
        folder: Folder,
        encoding: FileEncoding,
        columns: SchemaRef,
        partitions: Vec<usize>,
        mode: Mode,
        roll: Roll,
        must_be_new: bool,
    ) -> Result<Self> {
        let kept = columns.fields().iter().enumerate().filter(|(at, _)| !partitions.contains(at));
        let mut fields: Vec<Arc<Field>> = kept.map(|(_, field)| Arc::clone(field)).collect();
        if mode == Mode::Changelog {
            fields.extend(changelog_fields());
        }
        let files = encoding.schema(&Arc::new(Schema::new(fields)))?;
        let (taken, open, staged) = (Vec::new(), BTreeMap::new(), Vec::new());
        Ok(Self {
            folder,
            encoding,
            roll,
            id: String::new(),
            mode,
            must_be_new,
            partitions,
            columns,
            files,
            taken,
            open,
            staged,
            shown: Shown::default(),
        })
    }

    fn file_name(&self, folder: &str, first: Epoch) -> String {
        format!("{folder}part-{}-{first:010}.{}", self.id, self.encoding.ending())
    }

    /// The rows of an epoch, as files have them.
    fn rows(&mut self, epoch: Epoch) -> Result<Vec<RecordBatch>> {
        let taken = std::mem::take(&mut self.taken);
        if self.mode != Mode::Changelog {
            return Ok(taken.into_iter().map(|change| change.rows).collect());
        }
        let Some(changes) = consolidate(&self.columns, &taken)? else { return Ok(Vec::new()) };
        let (rows, ops) = changes.with_ops()?;
        let epochs = vec![i64::try_from(epoch).unwrap_or(i64::MAX); rows.num_rows()];
        let fields = self.columns.fields().iter().cloned().chain(changelog_fields()).collect::<Vec<_>>();
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(ops));
        columns.push(Arc::new(Int64Array::from(epochs)));
        Ok(vec![RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?])
    }

    /// The rows by the folder that they go to, without the columns that name it.
    fn by_folder(&self, batch: &RecordBatch) -> Result<BTreeMap<String, RecordBatch>> {
        let kept: Vec<usize> = (0..batch.num_columns()).filter(|at| !self.partitions.contains(at)).collect();
        if self.partitions.is_empty() {
            return Ok(BTreeMap::from([(String::new(), batch.clone())]));
        }
        let mut folders = vec![String::new(); batch.num_rows()];
        for at in &self.partitions {
            let name = self.columns.field(*at).name();
            let values: ArrayRef = Arc::clone(batch.column(*at));
            let values = texts(&values, NULL_FOLDER)?;
            for (row, folder) in folders.iter_mut().enumerate() {
                let value = if values.is_null(row) { NULL_FOLDER } else { values.value(row) };
                let value = utf8_percent_encode(value, ESCAPED);
                *folder = format!("{folder}{name}={value}/");
            }
        }
        let mut rows: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (row, folder) in folders.into_iter().enumerate() {
            rows.entry(folder).or_default().push(row as u64);
        }
        let batch = batch.project(&kept)?;
        let take = |rows: Vec<u64>| take_rows(&batch, &UInt64Array::from(rows));
        rows.into_iter().map(|(folder, rows)| Ok((folder, take(rows)?))).collect()
    }

    fn is_full(&self, open: &Open, now_micros: i64) -> bool {
        open.file.rows() >= self.roll.rows
            || open.file.bytes() >= self.roll.bytes
            || now_micros - open.since_micros >= self.roll.micros
    }
}

/// The files in a folder that the pipeline of that identity has written.
async fn own_files(folder: &Folder, id: &str) -> Result<Vec<String>> {
    let prefix = format!("part-{id}-");
    let own = |name: &String| name.rsplit('/').next().is_some_and(|file| file.starts_with(&prefix));
    Ok(folder.list_all().await?.into_iter().filter(own).collect())
}

#[async_trait]
impl Sink for AppendSink {
    async fn begin(&mut self) -> Result<()> {
        let files = if self.must_be_new { self.folder.list_all().await? } else { Vec::new() };
        if files.iter().all(|name| name.starts_with('.')) {
            return Ok(());
        }
        Err(Error::query(format!("the folder {} is not empty", self.folder.name()))
            .hint("OPTIONS ('mode' 'append') adds files to it"))
    }

    fn identify(&mut self, id: &str) {
        id.clone_into(&mut self.id);
    }

    fn take(&mut self, changes: Vec<Changes>, shown: bool) -> Result<()> {
        if !shown {
            self.taken.extend(changes.into_iter().filter(|change| !change.is_empty()));
        }
        Ok(())
    }

    async fn stage(&mut self, epoch: Epoch, now_micros: i64) -> Result<()> {
        let mut touched = Vec::new();
        let mut open = std::mem::take(&mut self.open);
        open.retain(|_, open| !self.is_full(open, now_micros));
        for batch in self.rows(epoch)? {
            for (folder, rows) in self.by_folder(&batch)? {
                let begin = || Open {
                    first: epoch,
                    since_micros: now_micros,
                    file: Growing::new(self.encoding, Arc::clone(&self.files)),
                };
                open.entry(folder.clone()).or_insert_with(begin).file.push(&rows)?;
                touched.push(folder);
            }
        }
        touched.sort();
        touched.dedup();
        for folder in touched {
            let Some(open) = open.get_mut(&folder) else { continue };
            let name = self.file_name(&folder, open.first);
            self.staged.push(self.folder.stage(&name, open.file.version(epoch)?).await?);
        }
        self.open = open;
        Ok(())
    }

    async fn commit(&mut self, _epoch: Epoch) -> Result<()> {
        for staged in std::mem::take(&mut self.staged) {
            staged.show(&mut self.shown).await?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<()> {
        self.shown.settle()
    }

    fn position(&self) -> serde_json::Value {
        let open = self.open.iter().map(|(folder, open)| {
            let position = Position {
                first: open.first,
                since_micros: open.since_micros,
                rows: open.file.rows(),
                bytes: open.file.bytes(),
                columns: self.files.fields().len(),
            };
            (folder.clone(), serde_json::to_value(position).unwrap_or_default())
        });
        serde_json::Value::Object(open.collect())
    }

    async fn resume(&mut self, position: &serde_json::Value) -> Result<()> {
        self.folder.clear_stage()?;
        let Some(open) = position.as_object() else { return Ok(()) };
        for (folder, position) in open {
            let Ok(Position { first, since_micros, rows, bytes, columns }) = serde_json::from_value(position.clone())
            else {
                return Err(Error::query("the commit log holds a position that this version cannot read"));
            };
            if columns > 0 && columns != self.files.fields().len() {
                continue;
            }
            let name = self.file_name(folder, first);
            let Some(there) = self.folder.read(&name).await? else {
                // Someone moved it away: the rows that were shown are theirs now.
                continue;
            };
            let mut file = Growing::new(self.encoding, Arc::clone(&self.files));
            let whole = file.resume(Vec::from(there), rows, bytes);
            whole.map_err(|error| Error {
                message: format!("cannot go on with {}/{name}: {}", self.folder.name(), error.message),
                ..error
            })?;
            self.open.insert(folder.clone(), Open { first, since_micros, file });
        }
        Ok(())
    }

    async fn shown(&mut self) -> Result<Option<Image>> {
        let mut rows = Vec::new();
        // What begins with a dot is not shown.
        for name in own_files(&self.folder, &self.id).await?.into_iter().filter(|name| !name.starts_with('.')) {
            let located =
                |error: Error| Error { message: format!("{}/{name}: {}", self.folder.name(), error.message), ..error };
            let bytes = self.folder.read(&name).await?.unwrap_or_default();
            let folder = name.rfind('/').map_or("", |at| &name[..=at]);
            for batch in self.encoding.image_of_file(bytes, &self.files).map_err(located)? {
                let changes = match self.mode {
                    Mode::Changelog => fold(self.encoding, &batch).map_err(located)?,
                    Mode::Append | Mode::Replace => Changes::inserted(batch),
                };
                rows.push(if self.partitions.is_empty() { changes } else { in_folder(changes, folder)? });
            }
        }
        let none = self.image(&RecordBatch::new_empty(Arc::clone(&self.columns)))?;
        let columns = match none.first() {
            Some(none) => none.rows.schema(),
            None => Arc::clone(&self.columns),
        };
        Ok(Some(Image { columns, rows }))
    }

    fn image(&self, rows: &RecordBatch) -> Result<Vec<Changes>> {
        let kept = self.columns.fields().iter().enumerate().filter(|(at, _)| !self.partitions.contains(at));
        let kept: Vec<_> = kept.map(|(_, field)| Arc::clone(field)).collect();
        let file = self.encoding.schema(&Arc::new(Schema::new(kept)))?;
        let mut image = Vec::new();
        for (folder, rows) in self.by_folder(rows)? {
            for batch in self.encoding.image_of_rows(&rows, &file)? {
                let rows = Changes::inserted(batch);
                image.push(if self.partitions.is_empty() { rows } else { in_folder(rows, &folder)? });
            }
        }
        Ok(image)
    }

    async fn forget(&mut self, id: &str) -> Result<()> {
        self.folder.remove(&own_files(&self.folder, id).await?).await
    }
}
