//! Growing inputs.
//!
//! Enters: CREATE UNBOUNDED EXTERNAL TABLE. Leaves: a [`StreamTable`] for the planner, and from it a [`Source`] that
//! cuts what has come into ranges and reads them. Always holds: a range that was given once can be read again, with
//! the same rows in the same order, until the source is told that nobody will.

mod decode;
mod files;
mod generate;
mod options;
mod table;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;

use crate::checkpoint::Saved;
use crate::error::Result;
use crate::offset::OffsetRange;

pub use options::{Limits, StreamOptions};
pub use table::{StreamFactory, StreamTable};

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
    async fn read(&self, range: &OffsetRange) -> Result<Vec<RecordBatch>>;

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

/// Opens the source behind a table, for a pipeline that needs these of its columns.
pub fn open_source(
    table: &StreamTable,
    columns: &[usize],
    state: &datafusion::execution::SessionState,
) -> Result<Box<dyn Source>> {
    let schema = Arc::new(table.columns().project(columns)?);
    match table.kind() {
        table::Kind::Rate => Ok(Box::new(generate::Rate::new(schema, table.options().clone()))),
        table::Kind::Files { location, format } => {
            let store = state.runtime_env().object_store(&location.url)?;
            let decoder =
                decode::Decoder::new(*format, Arc::clone(table.columns()), columns.to_vec(), table.options())?;
            Ok(Box::new(files::Files::new(location.as_ref().clone(), store, decoder, table.options().clone())))
        }
    }
}
