//! A topic of Kafka.
//!
//! Enters: changes. Leaves: messages, the transaction of an epoch whole or not at all. Always holds: the number of the
//! epoch is in its transaction, so an epoch that is run again after a kill is written if it was not, and not if it was.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;

use super::Sink;
use crate::change::Changes;
use crate::error::{Error, Result};
use crate::kafka::{TopicTarget, Writer, make_topic};
use crate::message::Messages;
use crate::offset::Epoch;

/// One topic.
pub struct KafkaSink {
    target: TopicTarget,
    messages: Messages,
    /// Which of the sinks of its pipeline it is.
    place: usize,
    id: String,
    writer: Option<Arc<Writer>>,
    taken: Vec<Changes>,
    staged: bool,
    /// The last epoch that has a transaction.
    marked: Epoch,
    /// The last epoch that the topic held when this run began.
    held: Epoch,
    /// What the log says of that.
    logged: Epoch,
}

impl KafkaSink {
    /// A sink of rows of these columns. `place`: which one of its pipeline it is.
    pub fn new(target: TopicTarget, columns: SchemaRef, place: usize) -> Result<Self> {
        let messages = Messages::new(&target, columns)?;
        let (id, writer, taken) = (String::new(), None, Vec::new());
        Ok(Self { target, messages, place, id, writer, taken, staged: false, marked: 0, held: 0, logged: 0 })
    }

    fn writer(&self) -> Result<Arc<Writer>> {
        self.writer.clone().ok_or_else(|| Error::query("a topic that was not opened"))
    }
}

/// Runs what waits for brokers.
fn waiting<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    tokio::task::block_in_place(work)
}

#[async_trait]
impl Sink for KafkaSink {
    async fn begin(&mut self) -> Result<()> {
        make_topic(&self.target.topic, &self.target.client).await
    }

    fn identify(&mut self, id: &str) {
        id.clone_into(&mut self.id);
    }

    async fn resume(&mut self, position: &serde_json::Value) -> Result<()> {
        self.messages.register(&self.target).await?;
        let name = format!("fuse-{}-{}", self.id, self.place);
        let (held, writer) = waiting(|| {
            let writer = Writer::open(&self.target.topic, &self.target.client, &name)?;
            Ok((writer.committed()?, writer))
        })?;
        self.writer = Some(Arc::new(writer));
        self.held = held.unwrap_or_default();
        self.logged = position.get("epoch").and_then(serde_json::Value::as_u64).unwrap_or_default();
        self.marked = self.held.max(self.logged);
        Ok(())
    }

    fn unclear(&mut self, epoch: Epoch) -> Result<()> {
        if self.held >= self.logged {
            return Ok(());
        }
        let topic = &self.target.topic.name;
        Err(Error::query(format!("whether the topic {topic} has epoch {epoch} is not known any more"))
            .note(format!(
                "the offsets of the group fuse-{}-{} say it, and the brokers have forgotten them (offsets.retention.minutes)",
                self.id, self.place
            ))
            .hint("look into the topic; --fresh writes everything to it once more"))
    }

    fn take(&mut self, changes: Vec<Changes>, shown: bool) -> Result<()> {
        if !shown {
            self.taken.extend(changes.into_iter().filter(|change| !change.is_empty()));
        }
        Ok(())
    }

    async fn stage(&mut self, epoch: Epoch, now_micros: i64) -> Result<()> {
        let taken = std::mem::take(&mut self.taken);
        if epoch < self.held {
            return Err(Error::query(format!(
                "the topic {} has epoch {} of this pipeline, and its state is at epoch {epoch}",
                self.target.topic.name, self.held
            ))
            .note("the state was taken back to an earlier one")
            .hint("--fresh begins anew, and writes everything once more"));
        }
        let messages = if epoch == self.held { Vec::new() } else { self.messages.of(&taken, epoch, now_micros)? };
        self.staged = !messages.is_empty();
        if self.staged {
            let writer = self.writer()?;
            waiting(|| writer.stage(epoch, &messages))?;
        }
        Ok(())
    }

    async fn commit(&mut self, epoch: Epoch) -> Result<()> {
        if std::mem::take(&mut self.staged) {
            let writer = self.writer()?;
            waiting(|| writer.commit())?;
            self.marked = epoch;
        }
        Ok(())
    }

    fn position(&self) -> serde_json::Value {
        serde_json::json!({ "epoch": self.marked })
    }
}
