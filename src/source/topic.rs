//! A topic that is written to.
//!
//! Enters: CREATE EXTERNAL TABLE over `kafka://`. Leaves: a table that pipelines insert into. Always holds: it is not
//! read; a stream over the same topic is.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Constraint, Result as DfResult};
use datafusion::datasource::TableType;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{CreateExternalTable, Expr};
use datafusion::physical_plan::ExecutionPlan;

use crate::error::{Error, Result};
use crate::kafka::{ClientOptions, Encoding, RegistryOptions, Topic, TopicTarget, Values};

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
        _input: Arc<dyn ExecutionPlan>,
        _op: InsertOp,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let name = &self.target.topic.name;
        let error =
            Error::query(format!("the topic {name} is written by pipelines, and this query is over tables at rest"));
        Err(error.hint("CREATE STREAM over the same files makes a pipeline: fuse query … --once").into())
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
