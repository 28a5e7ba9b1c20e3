//! A topic that is written to.
//!
//! Enters: CREATE EXTERNAL TABLE over `kafka://`. Leaves: a table that pipelines and statements insert into. Always
//! holds: the rows of a statement are one transaction; it is not read, but a stream over the same topic is.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Constraint, Result as DfResult};
use datafusion::datasource::TableType;
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{CreateExternalTable, Expr};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan};
#[cfg(feature = "kafka")]
use futures::StreamExt;

#[cfg(feature = "kafka")]
use crate::clock::{chance, now_micros};
use crate::error::{Error, Result};
use crate::kafka::{ClientOptions, Encoding, RegistryOptions, Topic, TopicTarget, Values};
#[cfg(feature = "kafka")]
use crate::kafka::{Writer, make_topic};
#[cfg(feature = "kafka")]
use crate::message::Messages;

/// A topic that is written to.
#[derive(Debug)]
pub struct TopicTable {
    schema: SchemaRef,
    target: TopicTarget,
}

impl TopicTable {
    /// The table of a statement; nothing if it is not over a topic.
    pub(super) fn create(cmd: &CreateExternalTable) -> Result<Option<Self>> {
        let Some(topic) = Topic::parse(cmd.locations.first().map_or("", String::as_str))? else { return Ok(None) };
        let values = match cmd.file_type.as_str() {
            "JSON" => Values::Rows,
            "DEBEZIUM" => Values::Envelopes,
            "AVRO" => Values::Rows,
            other => {
                return Err(Error::sql(format!("a topic cannot be written STORED AS {other}"))
                    .hint("its messages are JSON, AVRO or DEBEZIUM"));
            }
        };
        let schema = Arc::clone(cmd.schema.inner());
        if schema.fields().is_empty() {
            return Err(Error::sql(format!("the columns of {} must be declared", cmd.name))
                .hint(format!("CREATE EXTERNAL TABLE {} (column TYPE, …) …", cmd.name)));
        }
        if !cmd.table_partition_cols.is_empty() {
            return Err(Error::sql("a topic has partitions of its own, and no PARTITIONED BY")
                .hint("rows of one PRIMARY KEY are in one partition"));
        }
        let encoding = if cmd.file_type == "AVRO" { Encoding::Avro } else { Encoding::Json };
        let (mut client, mut registry) = (ClientOptions::default(), RegistryOptions::default());
        for (name, value) in &cmd.options {
            match name.strip_prefix("kafka.") {
                Some(name) => client.set(name, value.trim())?,
                None => {
                    let name = name.strip_prefix("format.").unwrap_or(name);
                    if encoding == Encoding::Avro && registry.set(name, value.trim())? {
                        continue;
                    }
                    return Err(Error::sql(format!("a topic that is written has no option '{name}'"))
                        .hint("options are mode, those of the client: kafka.…, and schema_registry for AVRO"));
                }
            }
        }
        if encoding == Encoding::Avro && registry.url.is_none() {
            return Err(Error::sql("STORED AS AVRO wants a registry of schemas")
                .hint("OPTIONS ('schema_registry' 'http://host:8081')"));
        }
        let key = cmd.constraints.iter().find_map(|constraint| match constraint {
            Constraint::PrimaryKey(places) => Some(places.iter().map(|at| schema.field(*at).name().clone()).collect()),
            Constraint::Unique(_) => None,
        });
        let target = TopicTarget { topic, client, values, encoding, registry, key: key.unwrap_or_default() };
        Ok(Some(Self { schema, target }))
    }

    /// What it is.
    pub fn target(&self) -> &TopicTarget {
        &self.target
    }
}

#[async_trait]
impl TableProvider for TopicTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn insert_into(
        &self,
        _state: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
        insert_op: InsertOp,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        if insert_op != InsertOp::Append {
            return Err(Error::sql(format!("{insert_op} a topic is not possible"))
                .hint("INSERT INTO adds messages")
                .into());
        }
        let sink = Insert { target: self.target.clone(), columns: self.schema() };
        Ok(Arc::new(DataSinkExec::new(input, Arc::new(sink), None)))
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        _projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let name = &self.target.topic.name;
        let error = Error::query(format!("the topic {name} is written by this table, and not read"));
        Err(error.hint(format!("CREATE STREAM t (…) STORED AS JSON LOCATION 'kafka://…/{name}' reads it")).into())
    }
}

/// Writes rows to a topic, in one transaction.
struct Insert {
    target: TopicTarget,
    columns: SchemaRef,
}

impl fmt::Debug for Insert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.target.describe())
    }
}

impl DisplayAs for Insert {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A transaction that is given up where it is not committed: by an error, or by Ctrl-C.
#[cfg(feature = "kafka")]
struct Open {
    writer: Writer,
    committed: bool,
}

#[cfg(feature = "kafka")]
impl Drop for Open {
    fn drop(&mut self) {
        if !self.committed {
            self.writer.abort();
        }
    }
}

impl Insert {
    #[cfg(feature = "kafka")]
    async fn insert(&self, mut data: SendableRecordBatchStream) -> Result<u64> {
        use tokio::task::block_in_place;

        let (topic, client) = (&self.target.topic, &self.target.client);
        let mut messages = Messages::new(&self.target, Arc::clone(&self.columns))?;
        make_topic(topic, client).await?;
        messages.register(&self.target).await?;
        // Of its own: two statements do not end each other's transactions.
        let name = format!("fuse-insert-{:016x}", chance());
        let mut open = block_in_place(|| {
            let writer = Writer::open(topic, client, &name)?;
            writer.begin().map(|()| Open { writer, committed: false })
        })?;
        let (mut rows, now) = (0, now_micros());
        while let Some(batch) = data.next().await {
            let batch = batch?;
            rows += batch.num_rows() as u64;
            let messages = messages.of_rows(&batch, now)?;
            block_in_place(|| open.writer.send_all(&messages))?;
        }
        block_in_place(|| open.writer.flush().and_then(|()| open.writer.commit()))?;
        open.committed = true;
        Ok(rows)
    }

    #[cfg(not(feature = "kafka"))]
    async fn insert(&self, _data: SendableRecordBatchStream) -> Result<u64> {
        Err(self.target.topic.not_built_in())
    }
}

#[async_trait]
impl DataSink for Insert {
    fn schema(&self) -> &SchemaRef {
        &self.columns
    }

    async fn write_all(&self, data: SendableRecordBatchStream, _context: &Arc<TaskContext>) -> DfResult<u64> {
        Ok(self.insert(data).await?)
    }
}
