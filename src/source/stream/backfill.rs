//! History, and the stream that goes on behind it, as one table.
//!
//! Enters: the source of files that hold the history, and that of the stream. Leaves: the rows of the history first, then
//! those of the stream. Always holds: where the two meet, a row is there once: of both, a condition says which of them a
//! row is taken from, or a key says which rows of the stream the history has.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use async_trait::async_trait;
use datafusion::physical_expr::PhysicalExpr;

use super::{Read, Source, Waiting};
use crate::change::{RowEncoder, with_columns};
use crate::checkpoint::Saved;
use crate::durable::Folder;
use crate::error::{Error, Result};
use crate::offset::OffsetRange;

/// Parts of what a checkpoint has, from which all of it is written anew.
const SAVED_PARTS: usize = 32;

type Keys = HashSet<Box<[u8]>>;

/// How it is told where the history ends and the stream goes on.
pub(super) enum Seam {
    /// It is not: the stream begins where the history ends.
    None,
    /// Rows for which this holds are taken from the history, all others from the stream.
    UpTo(Arc<dyn PhysicalExpr>),
    /// A row of the stream is left out if the history has its key: the places of its columns, and what was seen.
    Keys { places: Vec<usize>, encoder: RowEncoder, seen: Mutex<Keys> },
}

/// What is saved of one of both sources, or of the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    History,
    Stream,
    Keys,
}

const PARTS: [(Part, &str); 3] = [(Part::History, "history"), (Part::Stream, "stream"), (Part::Keys, "keys")];

/// Of a part: whether it takes the place of what was saved of it before, and the batch.
type Entry = (Part, bool, RecordBatch);

pub(super) struct Backfill {
    history: Box<dyn Source>,
    stream: Box<dyn Source>,
    seam: Seam,
    /// Of each column that leaves, its place in what the sources give.
    places: Vec<usize>,
    schema: SchemaRef,
    /// All of the history was taken.
    over: bool,
    /// Keys that are in no checkpoint.
    new_keys: Mutex<Vec<Box<[u8]>>>,
    /// All that the checkpoints have.
    saved: Vec<Entry>,
    parts: usize,
}

impl Backfill {
    /// `places`: of each column that leaves, its place in what both sources give.
    pub(super) fn new(
        history: Box<dyn Source>,
        stream: Box<dyn Source>,
        seam: Seam,
        places: Vec<usize>,
    ) -> Result<Self> {
        let schema = Arc::new(stream.schema().project(&places)?);
        let (new_keys, saved) = (Mutex::default(), Vec::new());
        Ok(Self { history, stream, seam, places, schema, over: false, new_keys, saved, parts: 0 })
    }

    async fn read_history(&self, range: &OffsetRange) -> Result<Read> {
        self.cut(self.history.read(range).await?, true)
    }

    /// The rows that are taken from the history, or else from the stream, in the columns that are wanted.
    fn cut(&self, read: Read, history: bool) -> Result<Read> {
        let cut = |batch: &RecordBatch| -> Result<RecordBatch> {
            let kept = match &self.seam {
                Seam::None => None,
                Seam::UpTo(condition) => {
                    let values = condition.evaluate(batch)?.into_array(batch.num_rows())?;
                    let values = values.as_boolean();
                    let holds = |row| values.is_valid(row) && values.value(row);
                    Some((0..batch.num_rows()).map(|row| holds(row) == history).collect::<BooleanArray>())
                }
                Seam::Keys { places, encoder, seen } => {
                    let columns: Vec<ArrayRef> = places.iter().map(|at| Arc::clone(batch.column(*at))).collect();
                    let keys = encoder.encode(&columns, batch.num_rows())?;
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    let all = 0..batch.num_rows();
                    if history {
                        let mut new = self.new_keys.lock().unwrap_or_else(PoisonError::into_inner);
                        for key in all.map(|row| keys.row(row)).filter(|key| !key.is_empty()) {
                            if !seen.contains(key) {
                                seen.insert(key.into());
                                new.push(key.into());
                            }
                        }
                        None
                    } else {
                        Some(all.map(|row| !seen.contains(keys.row(row))).collect::<BooleanArray>())
                    }
                }
            };
            let batch = match kept {
                Some(kept) => filter_record_batch(batch, &kept)?,
                None => batch.clone(),
            };
            let columns = self.places.iter().map(|at| Arc::clone(batch.column(*at))).collect();
            with_columns(&self.schema, columns, batch.num_rows())
        };
        let batches = read.batches.iter().map(cut).collect::<Result<Vec<_>>>()?;
        Ok(Read { batches, ..read })
    }

    /// Takes over what one of the sources saves.
    fn keep(&mut self, part: Part, saved: Saved, new: &mut Vec<Entry>) -> Result<()> {
        let (batches, whole) = match saved {
            Saved::Unchanged => return Ok(()),
            Saved::Added(batches) => (batches, false),
            Saved::Whole(batches) => (batches, true),
        };
        for (at, batch) in batches.enumerate() {
            new.push((part, whole && at == 0, batch?));
        }
        Ok(())
    }

    fn keys(&self) -> Result<Option<RecordBatch>> {
        let new = std::mem::take(&mut *self.new_keys.lock().unwrap_or_else(PoisonError::into_inner));
        if new.is_empty() {
            return Ok(None);
        }
        let keys: BinaryArray = new.iter().map(|key| Some(&**key)).collect();
        let schema = Schema::new(vec![Field::new("key", DataType::Binary, true)]);
        Ok(Some(RecordBatch::try_new(Arc::new(schema), vec![Arc::new(keys)])?))
    }
}

/// What is left of entries when each that is whole takes the place of those before.
fn settled(entries: Vec<Entry>) -> Vec<Entry> {
    let mut kept: Vec<Entry> = Vec::new();
    for entry in entries {
        if entry.1 {
            kept.retain(|known| known.0 != entry.0);
        }
        kept.push(entry);
    }
    kept
}

/// Entries as one batch: the batches of the parts have columns of their own.
fn packed(entries: &[Entry]) -> Result<RecordBatch> {
    let name = |part: Part| PARTS.iter().find(|(known, _)| *known == part).map_or("", |(_, name)| name);
    let bytes = entries.iter().map(|(_, _, batch)| -> Result<Vec<u8>> {
        let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
        writer.write(batch)?;
        writer.finish()?;
        Ok(writer.into_inner()?)
    });
    let bytes = bytes.collect::<Result<Vec<_>>>()?;
    let schema = Schema::new(vec![
        Field::new("part", DataType::Utf8, false),
        Field::new("whole", DataType::Boolean, false),
        Field::new("batch", DataType::Binary, false),
    ]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(entries.iter().map(|(part, ..)| name(*part)))),
        Arc::new(BooleanArray::from_iter(entries.iter().map(|(_, whole, _)| Some(*whole)))),
        Arc::new(BinaryArray::from_iter_values(bytes)),
    ];
    Ok(RecordBatch::try_new(Arc::new(schema), columns)?)
}

fn unpacked(batches: &[RecordBatch]) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for batch in batches {
        let (names, whole) = (batch.column(0).as_string::<i32>(), batch.column(1).as_boolean());
        for row in 0..batch.num_rows() {
            let part = PARTS.iter().find(|(_, name)| *name == names.value(row)).map(|(part, _)| *part);
            let part = part.ok_or_else(|| Error::query("the state holds a part that this version cannot read"))?;
            for one in StreamReader::try_new(batch.column(2).as_binary::<i32>().value(row), None)? {
                entries.push((part, whole.value(row), one?));
            }
        }
    }
    Ok(entries)
}

#[async_trait]
impl Source for Backfill {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    async fn next(&mut self, now_micros: i64) -> Result<OffsetRange> {
        if !self.over {
            let range = self.history.next(now_micros).await?;
            if !range.is_empty() || self.history.is_waiting() {
                // An empty one stays empty: nothing of the stream comes before the history is over.
                return Ok(OffsetRange::History(Box::new(range)));
            }
        }
        self.stream.next(now_micros).await
    }

    fn advance(&mut self, range: &OffsetRange) -> Result<()> {
        match range {
            OffsetRange::History(range) => self.history.advance(range),
            range => {
                self.over = true;
                self.stream.advance(range)
            }
        }
    }

    async fn read(&self, range: &OffsetRange) -> Result<Read> {
        match range {
            OffsetRange::History(range) => self.read_history(range).await,
            OffsetRange::Behind { history, rest } => {
                if let Seam::Keys { seen, .. } = &self.seam {
                    let known = !seen.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
                    if !known {
                        self.read_history(history).await?;
                    }
                }
                self.cut(self.stream.read(rest).await?, false)
            }
            range => self.cut(self.stream.read(range).await?, false),
        }
    }

    fn attach(&mut self, state: &Folder, name: &str) -> Result<()> {
        self.stream.attach(state, name)
    }

    fn dead_letters(&self) -> Option<&Folder> {
        self.stream.dead_letters()
    }

    fn wants_checkpoint(&self) -> bool {
        self.stream.wants_checkpoint()
    }

    fn release(&mut self) -> Result<()> {
        self.stream.release()
    }

    fn stop_growing(&mut self) {
        self.stream.stop_growing();
    }

    fn is_finished(&self) -> bool {
        self.over && self.stream.is_finished()
    }

    fn is_ended(&self) -> bool {
        self.over && self.stream.is_ended()
    }

    fn is_waiting(&self) -> bool {
        (!self.over && self.history.is_waiting()) || self.stream.is_waiting()
    }

    fn waiting(&self) -> Waiting {
        if self.over { self.stream.waiting() } else { self.history.waiting().and(self.stream.waiting()) }
    }

    fn taking_since(&self) -> Option<i64> {
        // How old the history is does not matter.
        if self.over { self.stream.taking_since() } else { None }
    }

    fn position(&self) -> serde_json::Value {
        serde_json::json!({ "history": self.history.position(), "stream": self.stream.position() })
    }

    fn taken(&self) -> Result<OffsetRange> {
        let history = Box::new(self.history.taken()?);
        Ok(OffsetRange::Behind { history, rest: Box::new(self.stream.taken()?) })
    }

    async fn forget(&mut self, state: &Folder, name: &str) -> Result<()> {
        self.stream.forget(state, name).await
    }

    fn save(&mut self) -> Result<Saved> {
        let mut new = Vec::new();
        let history = self.history.save()?;
        // What is saved of the stream says that the history is over.
        let stream = if self.over { self.stream.save()? } else { Saved::Unchanged };
        self.keep(Part::History, history, &mut new)?;
        self.keep(Part::Stream, stream, &mut new)?;
        new.extend(self.keys()?.map(|keys| (Part::Keys, false, keys)));
        if new.is_empty() {
            return Ok(Saved::Unchanged);
        }
        self.parts += 1;
        self.saved = settled(std::mem::take(&mut self.saved).into_iter().chain(new.iter().cloned()).collect());
        if self.parts < SAVED_PARTS {
            return Ok(Saved::Added(vec![packed(&new)?].into()));
        }
        self.parts = 0;
        Ok(Saved::Whole(vec![packed(&self.saved)?].into()))
    }

    fn restore(&mut self, saved: Vec<RecordBatch>) -> Result<()> {
        self.saved = settled(unpacked(&saved)?);
        // How many parts there were is not known; they are written as one soon.
        self.parts = SAVED_PARTS;
        let of = |part: Part| -> Vec<RecordBatch> {
            self.saved.iter().filter(|(known, ..)| *known == part).map(|(_, _, batch)| batch.clone()).collect()
        };
        let (history, stream, keys) = (of(Part::History), of(Part::Stream), of(Part::Keys));
        self.over = !stream.is_empty() && stream.iter().any(|batch| batch.num_rows() > 0);
        self.history.restore(history)?;
        self.stream.restore(stream)?;
        if let Seam::Keys { seen, .. } = &self.seam {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            for batch in keys {
                seen.extend(batch.column(0).as_binary::<i32>().iter().flatten().map(Box::from));
            }
        }
        Ok(())
    }
}
