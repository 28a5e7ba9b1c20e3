//! Where the results of a pipeline go.
//!
//! Enters: the changes of each epoch. Leaves: files that readers see whole, each epoch once. Always holds: what an
//! epoch brings is staged and synced before any sink shows it, and showing it twice is the same as once.

mod append;
mod database;
mod encode;
mod image;
#[cfg(feature = "kafka")]
mod kafka;
mod replace;
mod spec;
mod versions;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;

use crate::change::Changes;
use crate::checkpoint::Saved;
use crate::error::Result;
use crate::offset::Epoch;

pub use append::AppendSink;
pub use database::DatabaseSink;
pub use encode::FileEncoding;
pub use image::{FOLDER, Image, LINE};
#[cfg(feature = "kafka")]
pub use kafka::KafkaSink;
pub use replace::{Order, ReplaceSink};
pub use spec::{Mode, Roll, SinkOptions, choose_mode};

/// What takes the result of one statement.
#[async_trait]
pub trait Sink: Send {
    /// Takes the changes of an epoch. `shown`: they were shown before a restart, and are only needed to go on.
    fn take(&mut self, changes: Vec<Changes>, shown: bool) -> Result<()>;

    /// Makes what was taken durable, where no reader sees it.
    async fn stage(&mut self, epoch: Epoch, now_micros: i64) -> Result<()>;

    /// Shows it: as little as can be done, so that readers of several sinks see them change together, or nearly so.
    async fn commit(&mut self, epoch: Epoch) -> Result<()>;

    /// Makes durable what was shown.
    fn settle(&mut self) -> Result<()> {
        Ok(())
    }

    /// False if an epoch that is shown again, after a kill, is seen twice.
    fn is_idempotent(&self) -> bool {
        true
    }

    /// True if it shows a whole result anew. Such sinks commit behind those that add: who reads of which epoch the
    /// result is finds that epoch everywhere.
    fn replaces(&self) -> bool {
        false
    }

    /// Where it stands, for the commit log.
    fn position(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Goes on from a position of the commit log.
    async fn resume(&mut self, _position: &serde_json::Value) -> Result<()> {
        Ok(())
    }

    /// This epoch was begun by an earlier run, and the log does not say whether it was shown. An error if the sink cannot
    /// tell.
    fn unclear(&mut self, _epoch: Epoch) -> Result<()> {
        Ok(())
    }

    /// Looks at the target before a pipeline's first epoch.
    async fn begin(&mut self) -> Result<()> {
        Ok(())
    }

    /// From now on it writes for the pipeline of this identity.
    fn identify(&mut self, _id: &str) {}

    /// What it keeps between epochs, for a checkpoint.
    fn save(&mut self) -> Result<Saved> {
        Ok(Saved::Unchanged)
    }

    /// Takes over what a checkpoint has.
    fn restore(&mut self, _saved: Vec<RecordBatch>) -> Result<()> {
        Ok(())
    }

    /// What readers see of what the pipeline of this identity has written; nothing for a sink that cannot be read.
    async fn shown(&mut self) -> Result<Option<Image>> {
        Ok(None)
    }

    /// How readers should see these rows, the whole result of a query: in the columns of [`Sink::shown`].
    fn image(&self, rows: &RecordBatch) -> Result<Vec<Changes>> {
        Ok(vec![Changes::inserted(rows.clone())])
    }

    /// The result as it is kept between epochs; nothing for a sink that keeps none.
    fn kept(&self) -> Result<Option<Changes>> {
        Ok(None)
    }

    /// Removes what the pipeline of that identity has written here, for one that starts anew.
    async fn forget(&mut self, _id: &str) -> Result<()> {
        Ok(())
    }
}
