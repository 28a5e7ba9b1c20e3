//! Growing inputs.
//!
//! Enters: CREATE UNBOUNDED EXTERNAL TABLE. Leaves: a [`StreamTable`] for the planner, and from it a [`Source`] that
//! cuts what has come into ranges and reads them. Always holds: a range that was given once can be read again, with
//! the same rows in the same order, until the source is told that nobody will.

mod avro;
mod backfill;
mod bad;
mod decode;
mod files;
mod follow;
mod generate;
mod history;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "delta")]
mod lake;
mod late;
mod listing;
mod net;
mod nexmark;
mod ops;
mod options;
#[cfg(feature = "postgres")]
mod postgres;
mod records;
mod spool;
mod table;
mod taken;
mod text;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::execution::SessionState;

use crate::checkpoint::Saved;
use crate::durable::Folder;
use crate::error::{Error, Result};
use crate::kafka::Topic;
use crate::offset::OffsetRange;
use crate::source::infer::widen;

pub use bad::{BadRecord, OnError, bury, bury_late, unbury};
pub use late::{LateRanges, LateRows};
pub use net::NetTable;
pub use ops::{Says, Upkeep};
pub use options::{EventTime, Limits, StreamOptions, csv_options};
pub use table::{Look, Remembered, STANDARD_INPUT, StreamFactory, StreamTable, Watermark};
pub use taken::{Open, TakenTable, pieces};

/// What a range gave.
#[derive(Debug, Default)]
pub struct Read {
    /// Its rows.
    pub batches: Vec<RecordBatch>,
    /// Records that were left out.
    pub bad: Vec<BadRecord>,
    /// Columns that it has and the table does not, where OPTIONS ask for them.
    pub new: Vec<Field>,
}

impl From<Vec<RecordBatch>> for Read {
    fn from(batches: Vec<RecordBatch>) -> Self {
        Self { batches, ..Self::default() }
    }
}

impl Read {
    /// Adds what comes behind it.
    fn add(&mut self, more: Read) {
        self.batches.extend(more.batches);
        self.bad.extend(more.bad);
        more.new.into_iter().for_each(|field| add_field(&mut self.new, field));
    }
}

/// Adds a column, or widens the one of its name so that it holds both.
fn add_field(fields: &mut Vec<Field>, field: Field) {
    match fields.iter_mut().find(|known| known.name() == field.name()) {
        Some(known) => {
            let both = widen(known.data_type(), field.data_type(), true).unwrap_or(DataType::Utf8);
            known.set_data_type(both);
        }
        None => fields.push(field),
    }
}

/// Input that has come and was not taken yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Its bytes.
    pub bytes: u64,
    /// Its rows, where they can be known.
    pub rows: Option<u64>,
    /// When the oldest of it was written, in microseconds since 1970.
    pub since_micros: Option<i64>,
}

impl Waiting {
    /// The sum of both; rows are known if both are.
    pub fn and(self, other: Self) -> Self {
        let since = [self.since_micros, other.since_micros].into_iter().flatten().min();
        let none = |one: Self| if one.bytes == 0 { Some(one.rows.unwrap_or(0)) } else { one.rows };
        let rows = none(self).zip(none(other)).map(|(a, b)| a + b);
        Self { bytes: self.bytes + other.bytes, rows, since_micros: since }
    }

    /// True if nothing waits.
    pub fn is_nothing(&self) -> bool {
        self.bytes == 0 && self.rows.unwrap_or(0) == 0
    }
}

/// One growing input of a running pipeline.
#[async_trait]
pub trait Source: Send + Sync {
    /// The columns that it gives.
    fn schema(&self) -> SchemaRef;

    /// What the next epoch can take; an empty range if nothing has come. `now_micros` is the time.
    async fn next(&mut self, now_micros: i64) -> Result<OffsetRange>;

    /// Moves behind a range that an epoch has taken, now or before a restart.
    fn advance(&mut self, range: &OffsetRange) -> Result<()>;

    /// The rows of a range.
    async fn read(&self, range: &OffsetRange) -> Result<Read>;

    /// Is told where the pipeline's state is, and its own name there, before anything else.
    fn attach(&mut self, _state: &Folder, _name: &str) -> Result<()> {
        Ok(())
    }

    /// Where records go that cannot be read.
    fn dead_letters(&self) -> Option<&Folder> {
        None
    }

    /// True if it keeps so much for ranges that may be read again that a checkpoint should be made.
    fn wants_checkpoint(&self) -> bool {
        false
    }

    /// A checkpoint of what was saved last is made: nothing before the one before it is read again.
    fn release(&mut self) -> Result<()> {
        Ok(())
    }

    /// What comes from now on is not wanted: a generator, which would never be caught up with, ends.
    fn stop_growing(&mut self) {}

    /// True when nothing can come any more.
    fn is_finished(&self) -> bool {
        false
    }

    /// True when the input has ended, so that nothing would come in a later run either.
    fn is_ended(&self) -> bool {
        false
    }

    /// True if something is there that can be taken soon, such as a last line that may still be written.
    fn is_waiting(&self) -> bool {
        false
    }

    /// What is known to wait behind the last range.
    fn waiting(&self) -> Waiting {
        Waiting::default()
    }

    /// When the oldest of what the last range takes was written, in microseconds since 1970.
    fn taking_since(&self) -> Option<i64> {
        None
    }

    /// Where it stands, in a few words for people and programs.
    fn position(&self) -> serde_json::Value;

    /// All that was taken from its beginning on, as a range that [`Source::read`] reads; an error if it cannot say, or
    /// if the source has let go of some of it.
    fn taken(&self) -> Result<OffsetRange> {
        Err(Error::query("it does not keep what was taken"))
    }

    /// Removes what it has made outside of the state, for a pipeline that starts anew.
    async fn forget(&mut self, _state: &Folder, _name: &str) -> Result<()> {
        Ok(())
    }

    /// Where it stands, for a checkpoint.
    fn save(&mut self) -> Result<Saved>;

    /// Goes to where a checkpoint left it.
    fn restore(&mut self, saved: Vec<RecordBatch>) -> Result<()>;
}

/// Opens the source behind a table, for a pipeline that needs these of its columns. `folder` opens the folder that an
/// option names.
pub fn open_source(
    table: &StreamTable,
    columns: &[usize],
    state: &SessionState,
    folder: &dyn Fn(&str) -> Result<Folder>,
) -> Result<Box<dyn Source>> {
    match table.history() {
        Some(history) => {
            history.open(table, columns, state, &|table, columns| open_alone(table, columns, state, folder))
        }
        None => open_alone(table, columns, state, folder),
    }
}

/// Opens the source behind a table without its history.
fn open_alone(
    table: &StreamTable,
    columns: &[usize],
    state: &SessionState,
    folder: &dyn Fn(&str) -> Result<Folder>,
) -> Result<Box<dyn Source>> {
    let options = table.options().clone();
    let schema = Arc::new(table.columns().project(columns)?);
    let reader = |format: table::FileFormat| -> Result<text::TextReader> {
        let decoder =
            decode::Decoder::new(format, Arc::clone(table.columns()), columns.to_vec(), &options, table.upkeep())?;
        let dead_letters = options.dead_letter.as_deref().map(folder).transpose()?;
        Ok(text::TextReader { decoder, on_error: options.on_error, dead_letters })
    };
    match table.kind() {
        table::Kind::Kafka { topic, format, coding } => {
            let dead_letters = options.dead_letter.as_deref().map(folder).transpose()?;
            topic_source(table, topic, (*format, *coding), columns, dead_letters)
        }
        table::Kind::Rate => Ok(Box::new(generate::Rate::new(schema, options))),
        #[cfg(feature = "postgres")]
        table::Kind::Postgres(address) => {
            let upkeep = table.upkeep().ok_or_else(|| Error::query("a table of a database whose rows only come"))?;
            Ok(Box::new(postgres::Postgres::new(address.as_ref().clone(), table, columns, upkeep)?))
        }
        #[cfg(feature = "delta")]
        table::Kind::Delta { lake, history } => {
            let changes = table.upkeep().is_some();
            Ok(Box::new(lake::Delta::new((lake, *history), table.columns(), columns, changes, options.limits)?))
        }
        table::Kind::Nexmark(kind) => Ok(Box::new(nexmark::Nexmark::new(*kind, schema, options))),
        table::Kind::Files { location, format } => {
            let store = state.runtime_env().object_store(&location.url)?;
            let location = location.as_ref().clone();
            let in_order = table.upkeep().is_some();
            Ok(Box::new(files::Files::new(location, store, reader(*format)?, options.clone(), in_order)))
        }
        table::Kind::Follow { path, format } => {
            Ok(Box::new(follow::Follow::new(path.clone(), reader(*format)?, options.clone())))
        }
        table::Kind::Pipe { path, format } => {
            Ok(Box::new(spool::Spool::new(path.clone(), reader(*format)?, options.clone())))
        }
    }
}

#[cfg(feature = "kafka")]
fn topic_source(
    table: &StreamTable,
    topic: &Topic,
    format: (Option<table::FileFormat>, table::Coding),
    columns: &[usize],
    dead_letters: Option<Folder>,
) -> Result<Box<dyn Source>> {
    Ok(Box::new(kafka::Kafka::new(table, topic, format, columns, dead_letters)?))
}

/// The columns of a topic's values: those that were found before, or those of their newest schema.
async fn topic_schema(
    topic: &Topic,
    coding: table::Coding,
    options: &StreamOptions,
    known: Option<Look>,
) -> Result<SchemaRef> {
    if let Some(known) = known {
        return Ok(known.columns);
    }
    #[cfg(feature = "kafka")]
    return kafka::columns_of(topic, coding, options).await;
    #[cfg(not(feature = "kafka"))]
    {
        let _ = (coding, options);
        Err(topic.not_built_in())
    }
}

/// Refuses columns of a topic's messages that there are not.
fn topic_columns(columns: &SchemaRef) -> Result<()> {
    #[cfg(feature = "kafka")]
    kafka::check_columns(columns)?;
    let _ = columns;
    Ok(())
}

#[cfg(not(feature = "kafka"))]
fn topic_source(
    _table: &StreamTable,
    topic: &Topic,
    _format: (Option<table::FileFormat>, table::Coding),
    _columns: &[usize],
    _dead_letters: Option<Folder>,
) -> Result<Box<dyn Source>> {
    Err(topic.not_built_in())
}

/// Runs what computes or waits on a thread that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) if panic.is_panic() => Err(Error::from_panic(panic.into_panic().as_ref())),
        Err(_) => Err(Error::query("stopped")),
    }
}
