//! An unbounded table, as the planner sees it.
//!
//! Enters: CREATE UNBOUNDED EXTERNAL TABLE. Leaves: its columns, inferred from what is there where they are not
//! declared. Always holds: it cannot be scanned as a table at rest; a pipeline reads it.

use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::Result as DfResult;
use datafusion::datasource::TableType;
use datafusion::logical_expr::{CreateExternalTable, Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;

use super::generate::Rate;
use super::nexmark::NexmarkKind;
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
    Avro,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Files {
        location: Box<Location>,
        format: FileFormat,
    },
    /// One local text file.
    Follow {
        path: PathBuf,
        format: FileFormat,
    },
    /// A named pipe; without a path: standard input.
    Pipe {
        path: Option<PathBuf>,
        format: FileFormat,
    },
    Rate,
    Nexmark(NexmarkKind),
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
            "NEXMARK" => Kind::nexmark(cmd, &options)?,
            "JSON" => Kind::files(cmd, FileFormat::Json)?,
            "CSV" => Kind::files(cmd, FileFormat::Csv)?,
            "PARQUET" => Kind::files(cmd, FileFormat::Parquet)?,
            "ARROW" => Kind::files(cmd, FileFormat::Arrow)?,
            "AVRO" => Kind::files(cmd, FileFormat::Avro)?,
            other => return Err(Error::sql(format!("a stream cannot be STORED AS {other}"))),
        };
        let columns = match (&kind, declared.fields().is_empty()) {
            (Kind::Rate, true) => Rate::columns(),
            (Kind::Rate, false) => return Err(Error::sql("STORED AS RATE has columns of its own: value and ts")),
            (Kind::Nexmark(kind), true) => kind.columns(),
            (Kind::Nexmark(_), false) => {
                return Err(Error::sql("STORED AS NEXMARK has columns of its own, those of the benchmark"));
            }
            (_, false) => declared,
            (Kind::Pipe { .. }, true) => {
                return Err(Error::sql(format!("the columns of {} must be declared", cmd.name))
                    .note("a pipe cannot be looked at before it is read")
                    .hint(format!("CREATE STREAM {} (column TYPE, …) …", cmd.name)));
            }
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
            Kind::Rate => format!("RATE {} a second ({columns})", Rate::rate(&self.options)),
            Kind::Nexmark(kind) => {
                let rate = self.options.rows_per_second.map_or(String::new(), |rate| format!(" {rate} a second"));
                format!("NEXMARK {kind:?} of seed {}{rate}", self.options.seed)
            }
            Kind::Files { location, format } => format!("{format:?} '{}' ({columns})", location.url),
            Kind::Follow { path, format } => format!("{format:?} '{}' ({columns})", path.display()),
            Kind::Pipe { path: Some(path), format } => format!("{format:?} pipe '{}' ({columns})", path.display()),
            Kind::Pipe { path: None, format } => format!("{format:?} standard input ({columns})"),
        }
    }
}

impl Kind {
    fn files(cmd: &CreateExternalTable, format: FileFormat) -> Result<Self> {
        let [one] = cmd.locations.as_slice() else {
            return Err(
                Error::sql("an unbounded table has one LOCATION").hint("a glob such as '{a,b}/*.json' names several")
            );
        };
        let text = matches!(format, FileFormat::Json | FileFormat::Csv);
        let standard = ["-", "/dev/stdin"].contains(&one.as_str());
        let path = if standard { None } else { Location::parse(one)?.local_path() };
        let pipe = path.as_ref().and_then(|path| std::fs::metadata(path).ok()).is_some_and(|f| f.file_type().is_fifo());
        if (standard || pipe) && !text {
            return Err(Error::sql(format!("a pipe cannot be STORED AS {}", cmd.file_type))
                .hint("lines of text can be read from a pipe: CSV and JSON"));
        }
        if standard || pipe {
            return Ok(Kind::Pipe { path, format });
        }
        let location = Location::parse(one)?;
        let single = !location.url.is_collection() && location.url.get_glob().is_none();
        match path {
            Some(path) if single && text && !path.is_dir() => Ok(Kind::Follow { path, format }),
            _ => Ok(Kind::Files { location: Box::new(location), format }),
        }
    }

    /// The kind that OPTIONS name, or the table's name.
    fn nexmark(cmd: &CreateExternalTable, options: &StreamOptions) -> Result<Self> {
        let name = options.kind.as_deref().unwrap_or_else(|| cmd.name.table());
        NexmarkKind::of(name).map(Kind::Nexmark).ok_or_else(|| {
            Error::sql(format!("'{name}' is no kind of Nexmark events"))
                .hint("OPTIONS ('kind' 'bid'), 'auction' or 'person'; without it, the table's name is the kind")
        })
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
