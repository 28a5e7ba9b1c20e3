//! Checkpoints: the state of all parts of a pipeline after one epoch.
//!
//! Enters: what each part has changed since the last checkpoint, or all of it. Leaves: the same, after a restart.
//! Always holds: a manifest is written when all files that it names are synced; the two newest checkpoints stay, so
//! that one that is damaged leaves another; a file that no manifest names is removed.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::NullArray;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::log::{seal, unseal};
use super::pieces::Pieces;
use crate::config::CREATED_BY;
use crate::durable::Folder;
use crate::error::{Error, Result};
use crate::offset::Epoch;

/// A file of a checkpoint is ended when it has so many bytes: it is made in memory.
const SEGMENT_BYTES: usize = 32 << 20;

/// What a part of a pipeline hands over at a checkpoint.
#[derive(Debug)]
pub enum Saved {
    /// It is as at the last checkpoint.
    Unchanged,
    /// What has changed since; restored behind what was saved before.
    Added(Pieces),
    /// All of it; takes the place of what was saved before.
    Whole(Pieces),
}

/// A checkpoint as its manifest tells it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The last epoch that is in it.
    pub epoch: Epoch,
    /// The files of each part, in the order in which they are restored.
    pub parts: BTreeMap<String, Vec<Segment>>,
    /// What each operator has cost up to it, in the order of EXPLAIN INCREMENTAL.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operators: Vec<Explained>,
}

/// An operator of a pipeline, and what it has cost.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// What it does, behind two blanks for each operator above it.
    pub operator: String,
    /// How its work grows.
    pub strategy: String,
    /// Whether it retracts.
    pub output: String,
    /// Why it is that strategy.
    pub reason: String,
    /// What it has cost.
    pub work: Work,
}

/// What an operator has cost so far, and what it keeps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// The operator and all beneath it, as a hash: by it the operator is known in a later run, and in EXPLAIN.
    pub key: String,
    /// Rows of its state.
    pub rows: u64,
    /// Bytes of its state in memory, about.
    pub bytes: u64,
    /// The epochs that it has run.
    pub epochs: u64,
    /// The time that they took.
    pub nanos: u64,
}

impl Work {
    /// The time of an epoch on average, in microseconds.
    pub fn epoch_micros(&self) -> f64 {
        self.nanos as f64 / 1000.0 / self.epochs.max(1) as f64
    }
}

/// One Parquet file of a part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    file: String,
    rows: u64,
    bytes: u64,
    crc32: String,
}

impl Checkpoint {
    /// Bytes of all its files.
    pub fn bytes(&self) -> u64 {
        self.parts.values().flatten().map(|segment| segment.bytes).sum()
    }

    /// Rows of all its files.
    pub fn rows(&self) -> u64 {
        self.parts.values().flatten().map(|segment| segment.rows).sum()
    }

    /// Rows and bytes of each part.
    pub fn sizes(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        self.parts.iter().map(|(part, segments)| {
            let sum = |value: fn(&Segment) -> u64| segments.iter().map(value).sum();
            (part.as_str(), sum(|segment| segment.rows), sum(|segment| segment.bytes))
        })
    }
}

/// The checkpoints of one pipeline.
#[derive(Debug)]
pub struct StateStore {
    folder: Folder,
    last: Checkpoint,
}

/// Rows that are read from a file at a time.
const READ_ROWS: usize = 32 * 1024;

const MANIFESTS: &str = "checkpoints";
const STATE: &str = "state";
const TABLES: &str = "tables";

fn manifest(epoch: Epoch) -> String {
    format!("{MANIFESTS}/{epoch:012}.json")
}

impl StateStore {
    /// Opens the store at its newest intact checkpoint.
    pub async fn open(folder: Folder) -> Result<Self> {
        let mut store = Self { folder, last: Checkpoint::default() };
        let mut failure = None;
        let manifests = store.manifests().await?;
        for epoch in manifests.iter().rev() {
            match store.intact(*epoch).await {
                Ok(checkpoint) => {
                    store.last = checkpoint;
                    return Ok(store);
                }
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(store),
        }
    }

    /// The checkpoints in a state folder as their manifests tell them, the newest first; none of their files is read.
    pub async fn list(folder: Folder) -> Result<Vec<Checkpoint>> {
        let store = Self { folder, last: Checkpoint::default() };
        let mut found = Vec::new();
        for epoch in store.manifests().await?.into_iter().rev() {
            found.push(store.manifest(epoch).await?);
        }
        Ok(found)
    }

    /// The newest checkpoint.
    pub fn last(&self) -> &Checkpoint {
        &self.last
    }

    /// Keeps a table at rest as it is now, for as long as its epoch may be replayed.
    pub async fn save_table(&self, name: &str, batches: &[RecordBatch]) -> Result<()> {
        match encode(&mut batches.iter().cloned().map(Ok), usize::MAX)? {
            Some((_, bytes)) => self.folder.replace(&format!("{TABLES}/{name}.parquet"), bytes).await,
            None => Ok(()),
        }
    }

    /// A table at rest as it was.
    pub async fn load_table(&self, name: &str) -> Result<Vec<RecordBatch>> {
        match self.folder.read(&format!("{TABLES}/{name}.parquet")).await? {
            Some(bytes) => decode(bytes)?.collect(),
            None => Ok(Vec::new()),
        }
    }

    /// Removes the tables at rest: a checkpoint has what is needed of them.
    async fn remove_tables(&self) -> Result<()> {
        let names = self.folder.list(TABLES).await?;
        self.folder.remove(&names.into_iter().map(|name| format!("{TABLES}/{name}")).collect::<Vec<_>>()).await
    }

    async fn manifests(&self) -> Result<Vec<Epoch>> {
        let names = self.folder.list(MANIFESTS).await?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(".json")?.parse().ok()).collect())
    }

    async fn manifest(&self, epoch: Epoch) -> Result<Checkpoint> {
        let name = manifest(epoch);
        let bytes = self.folder.read(&name).await?.unwrap_or_default();
        unseal(&bytes, &format!("{}/{name}", self.folder.name()))
    }

    /// A checkpoint, if none of its files is damaged.
    async fn intact(&self, epoch: Epoch) -> Result<Checkpoint> {
        let checkpoint = self.manifest(epoch).await?;
        for segment in checkpoint.parts.values().flatten() {
            read(&self.folder, segment).await?;
        }
        Ok(checkpoint)
    }

    /// The parts of the newest checkpoint whose names are `wanted`, segment by segment.
    pub async fn parts(&self, wanted: impl Fn(&str) -> bool) -> Result<BTreeMap<String, Vec<RecordBatch>>> {
        let mut parts = BTreeMap::new();
        for (part, segments) in self.last.parts.iter().filter(|(part, _)| wanted(part)) {
            let mut batches = Vec::new();
            for segment in segments {
                batches.extend(decode(read(&self.folder, segment).await?)?.collect::<Result<Vec<_>>>()?);
            }
            parts.insert(part.clone(), batches);
        }
        Ok(parts)
    }

    /// One part of the newest checkpoint, read as it is asked for, on a thread that may wait.
    pub fn pieces(&self, part: &str, runtime: &Handle) -> Pieces {
        let segments = self.last.parts.get(part).cloned().unwrap_or_default();
        let (folder, runtime) = (self.folder.clone(), runtime.clone());
        let batches = segments.into_iter().flat_map(move |segment| {
            let read = runtime.block_on(read(&folder, &segment)).and_then(decode);
            let (found, error) = match read {
                Ok(found) => (Some(found), None),
                Err(error) => (None, Some(Err(error))),
            };
            found.into_iter().flatten().chain(error)
        });
        Pieces::new(batches)
    }

    /// Writes a checkpoint of the state after `epoch`. Returns the epoch up to which logs may go.
    pub async fn save(
        &mut self,
        epoch: Epoch,
        parts: Vec<(String, Saved)>,
        operators: Vec<Explained>,
    ) -> Result<Epoch> {
        let mut next = Checkpoint { epoch, parts: BTreeMap::new(), operators };
        for (part, saved) in parts {
            let mut segments = match &saved {
                Saved::Unchanged | Saved::Added(_) => self.last.parts.get(&part).cloned().unwrap_or_default(),
                Saved::Whole(_) => Vec::new(),
            };
            if let Saved::Added(batches) | Saved::Whole(batches) = saved {
                let mut batches = batches.fuse();
                for number in 1.. {
                    let Some((rows, bytes)) = encode(&mut batches, SEGMENT_BYTES)? else { break };
                    let more = if number == 1 { String::new() } else { format!("-{number}") };
                    let file = format!("{epoch:012}-{part}{more}.parquet");
                    let segment = Segment { file, rows, bytes: bytes.len() as u64, crc32: checksum(&bytes) };
                    // A name may be taken by a checkpoint that was begun and not finished.
                    self.folder.replace(&format!("{STATE}/{}", segment.file), bytes).await?;
                    segments.push(segment);
                }
            }
            if !segments.is_empty() {
                next.parts.insert(part, segments);
            }
        }
        self.folder.replace(&manifest(epoch), seal(&next)?).await?;
        let keep = std::mem::replace(&mut self.last, next);
        self.remove_old(&keep).await?;
        if keep.epoch > 0 {
            self.remove_tables().await?;
        }
        Ok(keep.epoch)
    }

    /// Removes all but the last checkpoint and `keep`, and the files that neither names.
    async fn remove_old(&self, keep: &Checkpoint) -> Result<()> {
        let old = self.manifests().await?;
        let old = old.into_iter().filter(|epoch| *epoch != self.last.epoch && *epoch != keep.epoch);
        self.folder.remove(&old.map(manifest).collect::<Vec<_>>()).await?;
        let named: HashSet<&str> = [&self.last, keep]
            .iter()
            .flat_map(|checkpoint| checkpoint.parts.values().flatten())
            .map(|segment| segment.file.as_str())
            .collect();
        let files = self.folder.list(STATE).await?;
        let orphans = files.into_iter().filter(|file| !named.contains(file.as_str()));
        self.folder.remove(&orphans.map(|file| format!("{STATE}/{file}")).collect::<Vec<_>>()).await
    }
}

/// The bytes of a file, if they are those that were written.
async fn read(folder: &Folder, segment: &Segment) -> Result<Bytes> {
    let name = format!("{STATE}/{}", segment.file);
    let bytes = folder.read(&name).await?.unwrap_or_default();
    if checksum(&bytes) != segment.crc32 {
        return Err(Error::query(format!("{}/{name} is damaged or missing", folder.name()))
            .hint("restore it from a backup, or start anew with --fresh: outputs are then written again"));
    }
    Ok(bytes)
}

fn checksum(bytes: &[u8]) -> String {
    format!("{:08x}", crc32fast::hash(bytes))
}

/// A Parquet file of the next of these batches, ended behind so many bytes, and how many rows it has; nothing if there
/// are none left.
fn encode(batches: &mut impl Iterator<Item = Result<RecordBatch>>, bytes: usize) -> Result<Option<(u64, Vec<u8>)>> {
    let mut started: Option<(ArrowWriter<Vec<u8>>, u64)> = None;
    for batch in batches {
        let mut batch = batch?;
        if batch.num_rows() == 0 {
            continue;
        }
        if batch.num_columns() == 0 {
            batch = with_rows(&batch)?;
        }
        let (writer, rows) = match &mut started {
            Some(started) => started,
            None => {
                let properties = WriterProperties::builder()
                    .set_compression(Compression::ZSTD(ZstdLevel::default()))
                    .set_created_by(CREATED_BY.to_owned());
                let writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties.build()))?;
                started.insert((writer, 0))
            }
        };
        writer.write(&batch)?;
        *rows += batch.num_rows() as u64;
        if writer.bytes_written() + writer.in_progress_size() > bytes {
            break;
        }
    }
    let Some((writer, rows)) = started else { return Ok(None) };
    Ok(Some((rows, writer.into_inner()?)))
}

/// A file without columns would forget how many rows it has.
const NO_COLUMNS: &str = "__no_columns";

fn with_rows(batch: &RecordBatch) -> Result<RecordBatch> {
    let schema = Arc::new(Schema::new(vec![Field::new(NO_COLUMNS, DataType::Null, true)]));
    Ok(RecordBatch::try_new(schema, vec![Arc::new(NullArray::new(batch.num_rows()))])?)
}

/// The batches of a file, each read when it is asked for.
fn decode(bytes: Bytes) -> Result<impl Iterator<Item = Result<RecordBatch>> + Send + use<>> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?.with_batch_size(READ_ROWS).build()?;
    Ok(reader.map(|batch| {
        let batch = batch?;
        Ok(match batch.schema().fields().as_ref() {
            [only] if only.name() == NO_COLUMNS => batch.project(&[])?,
            _ => batch,
        })
    }))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, RecordBatch, RecordBatchOptions};

    use super::*;

    fn batch(values: &[i64]) -> RecordBatch {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        let columns = vec![Arc::new(Int64Array::from(values.to_vec())) as _];
        RecordBatch::try_new_with_options(schema, columns, &RecordBatchOptions::new()).expect("batch")
    }

    #[test]
    fn rows_without_columns_are_counted() {
        let options = RecordBatchOptions::new().with_row_count(Some(3));
        let rows = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), Vec::new(), &options).expect("rows");
        let (_, bytes) = encode(&mut [Ok(rows)].into_iter(), SEGMENT_BYTES).expect("encodes").expect("rows");
        let read = decode(bytes.into()).expect("decodes").collect::<Result<Vec<_>>>().expect("batches");
        assert_eq!(read.iter().map(|batch| (batch.num_columns(), batch.num_rows())).collect::<Vec<_>>(), [(0, 3)]);
    }

    async fn rows(root: &std::path::Path) -> (Epoch, usize) {
        let store = StateStore::open(Folder::local(root).expect("opens")).await.expect("intact");
        let parts = store.parts(|_| true).await.expect("intact");
        (store.last().epoch, parts.values().flatten().map(RecordBatch::num_rows).sum())
    }

    #[tokio::test]
    async fn the_previous_checkpoint_stands_in_for_a_damaged_one() {
        let root = tempfile::tempdir().expect("folder");
        let mut store = StateStore::open(Folder::local(root.path()).expect("opens")).await.expect("empty");
        assert!(store.last().parts.is_empty());
        let part = |saved| vec![("0".to_owned(), saved)];
        store.save(10, part(Saved::Whole(vec![batch(&[1, 2])].into())), Vec::new()).await.expect("saves");
        store.save(20, part(Saved::Added(vec![batch(&[3])].into())), Vec::new()).await.expect("saves");
        assert_eq!(rows(root.path()).await, (20, 3));
        assert_eq!(store.save(30, part(Saved::Unchanged), Vec::new()).await.expect("saves"), 20);
        assert_eq!(rows(root.path()).await, (30, 3));
        store.save(40, part(Saved::Whole(vec![batch(&[9])].into())), Vec::new()).await.expect("saves");
        assert_eq!(std::fs::read_dir(root.path().join("checkpoints")).expect("lists").count(), 2);
        let newest = root.path().join("state/000000000040-0.parquet");
        let mut bytes = std::fs::read(&newest).expect("reads");
        bytes[9] ^= 1;
        std::fs::write(&newest, bytes).expect("writes");
        assert_eq!(rows(root.path()).await, (30, 3));
        std::fs::write(root.path().join("checkpoints/000000000030.json"), "").expect("writes");
        assert!(StateStore::open(Folder::local(root.path()).expect("opens")).await.is_err());
    }
}
