//! An unbounded table, as the planner sees it.
//!
//! Enters: CREATE UNBOUNDED EXTERNAL TABLE. Leaves: its columns, inferred from what is there where they are not
//! declared. Always holds: it cannot be scanned as a table at rest; a pipeline reads it.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::Result as DfResult;
use datafusion::datasource::TableType;
use datafusion::logical_expr::{CreateExternalTable, Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;

use super::generate::Rate;
use super::options::StreamOptions;
use crate::error::{Error, Result};
use crate::source::Location;

/// The formats of files that streams are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileFormat {
    Json,
    Csv,
    Parquet,
    Arrow,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Files { location: Box<Location>, format: FileFormat },
    Rate,
}

/// An unbounded table.
#[derive(Debug)]
pub struct StreamTable {
    kind: Kind,
    columns: SchemaRef,
    options: StreamOptions,
}

impl StreamTable {
    /// The table of a statement; `inferred` finds the columns of what is there, should none be declared.
    pub async fn create(
        cmd: &CreateExternalTable,
        inferred: impl Future<Output = DfResult<Arc<dyn TableProvider>>>,
    ) -> Result<Self> {
        let options = StreamOptions::read(&cmd.options)?;
        let declared = Arc::clone(cmd.schema.inner());
        let kind = match cmd.file_type.as_str() {
            "RATE" => Kind::Rate,
            "JSON" => Kind::files(cmd, FileFormat::Json)?,
            "CSV" => Kind::files(cmd, FileFormat::Csv)?,
            "PARQUET" => Kind::files(cmd, FileFormat::Parquet)?,
            "ARROW" => Kind::files(cmd, FileFormat::Arrow)?,
            other => return Err(Error::sql(format!("a stream cannot be STORED AS {other}"))),
        };
        let columns = match (&kind, declared.fields().is_empty()) {
            (Kind::Rate, true) => Rate::columns(),
            (Kind::Rate, false) => return Err(Error::sql("STORED AS RATE has columns of its own: value and ts")),
            (_, false) => declared,
            (_, true) => {
                let found = inferred.await.map_err(|error| {
                    Error::from(error)
                        .note(format!("the columns of {} are not declared, and not found there", cmd.name))
                })?;
                found.schema()
            }
        };
        Ok(Self { kind, columns, options })
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Its columns.
    pub fn columns(&self) -> &SchemaRef {
        &self.columns
    }

    /// What OPTIONS say.
    pub fn options(&self) -> &StreamOptions {
        &self.options
    }

    /// What it is, in one line: a state that was made for one table is not used for another.
    pub fn describe(&self) -> String {
        let columns: Vec<String> =
            self.columns.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
        let columns = columns.join(", ");
        match &self.kind {
            Kind::Rate => format!("RATE {} a second ({columns})", self.options.rows_per_second),
            Kind::Files { location, format } => format!("{format:?} '{}' ({columns})", location.url),
        }
    }
}

impl Kind {
    fn files(cmd: &CreateExternalTable, format: FileFormat) -> Result<Self> {
        match cmd.locations.as_slice() {
            [one] => Ok(Kind::Files { location: Box::new(Location::parse(one)?), format }),
            _ => {
                Err(Error::sql("an unbounded table has one LOCATION")
                    .hint("a glob such as '{a,b}/*.json' names several"))
            }
        }
    }
}

#[async_trait]
impl TableProvider for StreamTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.columns)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Unsupported; filters.len()])
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        _projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Err(Error::query("an unbounded table cannot be read as a whole").into())
    }
}

/// `STORED AS RATE` and others that are no files.
#[derive(Debug)]
pub struct StreamFactory;

#[async_trait]
impl TableProviderFactory for StreamFactory {
    async fn create(&self, _state: &dyn Session, cmd: &CreateExternalTable) -> DfResult<Arc<dyn TableProvider>> {
        let none = async { Err(Error::sql("a generator has columns of its own").into()) };
        Ok(Arc::new(StreamTable::create(cmd, none).await?))
    }
}
