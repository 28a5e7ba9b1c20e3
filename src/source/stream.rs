//! Growing inputs.
//!
//! Enters: CREATE UNBOUNDED EXTERNAL TABLE. Leaves: a [`StreamTable`] for the planner, and from it a [`Source`] that
//! cuts what has come into ranges and reads them. Always holds: a range that was given once can be read again, with
//! the same rows in the same order, until the source is told that nobody will.

mod avro;
mod bad;
mod decode;
mod files;
mod follow;
mod generate;
mod listing;
mod nexmark;
mod options;
mod spool;
mod table;
mod text;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;

use crate::checkpoint::Saved;
use crate::durable::Folder;
use crate::error::{Error, Result};
use crate::offset::OffsetRange;

pub use bad::{BadRecord, OnError, bury, unbury};
pub use options::{Limits, StreamOptions};
pub use table::{StreamFactory, StreamTable};

/// What a range gave.
#[derive(Debug, Default)]
pub struct Read {
    /// Its rows.
    pub batches: Vec<RecordBatch>,
    /// Records that were left out.
    pub bad: Vec<BadRecord>,
}

impl From<Vec<RecordBatch>> for Read {
    fn from(batches: Vec<RecordBatch>) -> Self {
        Self { batches, bad: Vec::new() }
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

    /// True when nothing can come any more.
    fn is_finished(&self) -> bool {
        false
    }

    /// True if something is there that can be taken soon, such as a last line that may still be written.
    fn is_waiting(&self) -> bool {
        false
    }

    /// Bytes that are known to wait behind the last range.
    fn waiting_bytes(&self) -> u64 {
        0
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
    state: &datafusion::execution::SessionState,
    folder: &dyn Fn(&str) -> Result<Folder>,
) -> Result<Box<dyn Source>> {
    let options = table.options().clone();
    let schema = Arc::new(table.columns().project(columns)?);
    let reader = |format: table::FileFormat| -> Result<text::TextReader> {
        let decoder = decode::Decoder::new(format, Arc::clone(table.columns()), columns.to_vec(), &options)?;
        let dead_letters = options.dead_letter.as_deref().map(folder).transpose()?;
        Ok(text::TextReader { decoder, on_error: options.on_error, dead_letters })
    };
    match table.kind() {
        table::Kind::Rate => Ok(Box::new(generate::Rate::new(schema, options))),
        table::Kind::Nexmark(kind) => Ok(Box::new(nexmark::Nexmark::new(*kind, schema, options))),
        table::Kind::Files { location, format } => {
            let store = state.runtime_env().object_store(&location.url)?;
            let location = location.as_ref().clone();
            Ok(Box::new(files::Files::new(location, store, reader(*format)?, options.clone())))
        }
        table::Kind::Follow { path, format } => {
            Ok(Box::new(follow::Follow::new(path.clone(), reader(*format)?, options.clone())))
        }
        table::Kind::Pipe { path, format } => {
            Ok(Box::new(spool::Spool::new(path.clone(), reader(*format)?, options.clone())))
        }
    }
}

/// Runs what computes or waits on a thread that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) if panic.is_panic() => Err(Error::from_panic(panic.into_panic().as_ref())),
        Err(_) => Err(Error::query("stopped")),
    }
}
