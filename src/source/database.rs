//! Tables in databases and lakes, at rest.
//!
//! Enters: CREATE EXTERNAL TABLE … STORED AS SQLITE, POSTGRES or DELTA. Leaves: a table that can be read and inserted into.
//! Always holds: an INSERT is one transaction; what a query asks of the database is no less than what it needs.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
#[cfg(feature = "delta")]
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::{Constraint, Result as DfResult};
use datafusion::datasource::TableType;
use datafusion::datasource::sink::{DataSink, DataSinkExec};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{CreateExternalTable, Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan};
use futures::{StreamExt, TryStreamExt, stream};

use super::stores::Stores;
#[cfg(any(feature = "postgres", feature = "delta"))]
use super::stream::StreamTable;
#[cfg(feature = "delta")]
use crate::database::append_to_lake;
use crate::database::{Address, Lake, Query, System, connect, expect_same, in_types, look, make_or_expect, stored};
use crate::error::{Error, Result};

/// A table in a database.
#[derive(Debug)]
pub struct DatabaseTable {
    address: Address,
    columns: SchemaRef,
    key: Vec<usize>,
}

impl DatabaseTable {
    /// The table that is there, in its columns; nothing if there is none.
    pub(super) async fn found(address: Address) -> Result<Option<Self>> {
        let found = look(&address).await?;
        Ok(found.map(|found| Self { address, columns: found.columns, key: found.key }))
    }

    async fn create(system: System, cmd: &CreateExternalTable, state: &dyn Session) -> Result<Self> {
        let address = match system {
            System::Delta => Address::of_lake(lake(cmd, state, &[])?),
            system => Address::of(system, &cmd.locations, &cmd.options, &[])?,
        };
        let is_partitioned = !cmd.table_partition_cols.is_empty() && system != System::Delta;
        if is_partitioned || !cmd.order_exprs.is_empty() {
            return Err(
                Error::sql("a table in a database is neither PARTITIONED BY nor ORDERED").hint("leave the clause out")
            );
        }
        let declared = Arc::clone(cmd.schema.inner());
        if let Some(missing) = cmd.table_partition_cols.iter().find(|name| declared.index_of(name).is_err())
            && !declared.fields().is_empty()
        {
            return Err(Error::sql(format!("PARTITIONED BY names {missing}, which is no column of the table")));
        }
        let mut key = Vec::new();
        for constraint in cmd.constraints.iter() {
            if let Constraint::PrimaryKey(places) = constraint {
                key.clone_from(places);
            }
        }
        let found = look(&address).await?;
        let columns = match (found, declared.fields().is_empty()) {
            (Some(found), true) => {
                key = found.key;
                found.columns
            }
            (Some(found), false) => {
                expect_same(&address, &declared, &key, &found)?;
                declared
            }
            (None, false) => declared,
            (None, true) => {
                let what = match system {
                    System::Delta => format!("there is no Delta table in {address}"),
                    _ => format!("there is no table {} in {address}", address.table()),
                };
                return Err(Error::query(what)
                    .hint("with its columns declared, CREATE EXTERNAL TABLE t (column TYPE, …) …, it is made when rows are inserted"));
            }
        };
        Ok(Self { address, columns, key })
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The places of the columns of its key.
    pub fn key(&self) -> &[usize] {
        &self.key
    }

    /// The condition in the SQL of the database, if it says the same there.
    fn filter(&self, filter: &Expr) -> Option<String> {
        match self.address.system() {
            #[cfg(feature = "postgres")]
            System::Postgres => crate::database::filter_sql(filter, &self.columns),
            // A column of SQLite may hold values of any type, which it compares in ways of its own.
            _ => {
                let _ = filter;
                None
            }
        }
    }
}

#[async_trait]
impl TableProvider for DatabaseTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.columns)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        let one = |filter: &&Expr| match self.filter(filter) {
            _ if self.address.lake().is_some() => TableProviderFilterPushDown::Inexact,
            Some(_) => TableProviderFilterPushDown::Exact,
            None => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(one).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let columns = projection.map_or(Ok(Schema::clone(&self.columns)), |places| self.columns.project(places))?;
        #[cfg(feature = "delta")]
        if let Some(lake) = self.address.lake() {
            return Ok(super::lake::scan(lake, state, Arc::new(columns), filters, limit).await?);
        }
        let _ = state;
        let filters = filters.iter().filter_map(|filter| self.filter(filter)).collect();
        let query = Query { columns: Arc::new(columns), filters, limit };
        let part: Arc<dyn PartitionStream> = Arc::new(Scan { address: self.address.clone(), query });
        let schema = Arc::clone(part.schema());
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![part], None, [], false, limit)?))
    }

    async fn insert_into(
        &self,
        _state: &dyn Session,
        input: Arc<dyn ExecutionPlan>,
        insert_op: InsertOp,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        if insert_op != InsertOp::Append {
            return Err(Error::sql(format!("{insert_op} a table in a database is not possible"))
                .hint("INSERT INTO adds rows")
                .into());
        }
        let sink = Insert { address: self.address.clone(), columns: self.schema(), key: self.key.clone() };
        Ok(Arc::new(DataSinkExec::new(input, Arc::new(sink), None)))
    }
}

/// Reads a table.
struct Scan {
    address: Address,
    query: Query,
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} where {:?}", self.address, self.query.filters)
    }
}

impl PartitionStream for Scan {
    fn schema(&self) -> &SchemaRef {
        &self.query.columns
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (address, query) = (self.address.clone(), self.query.clone());
        let rows = async move {
            let mut connection = connect(&address, false).await?;
            Ok::<_, DataFusionError>(connection.read(address.table(), &query).await?.map_err(DataFusionError::from))
        };
        let rows = stream::once(rows).try_flatten();
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.query.columns), rows))
    }
}

/// Inserts rows into a table, in one transaction.
#[derive(Debug)]
struct Insert {
    address: Address,
    columns: SchemaRef,
    key: Vec<usize>,
}

impl DisplayAs for Insert {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.address)
    }
}

impl Insert {
    async fn insert(&self, mut data: SendableRecordBatchStream) -> Result<u64> {
        let stored = stored(self.address.system(), &self.columns);
        let mut connection = connect(&self.address, true).await?;
        connection.begin().await?;
        make_or_expect(connection.as_mut(), &self.address, &stored, &self.key).await?;
        #[cfg(feature = "delta")]
        if let Some(lake) = self.address.lake().filter(|_| self.key.is_empty()) {
            return append(lake, &stored, data).await;
        }
        let mut rows = 0;
        while let Some(batch) = data.next().await {
            let batch = batch?;
            rows += batch.num_rows() as u64;
            connection.insert(self.address.table(), &in_types(&stored, &batch)?, &self.key).await?;
        }
        connection.commit().await?;
        Ok(rows)
    }
}

/// Appends rows to a Delta table, as they come.
#[cfg(feature = "delta")]
async fn append(lake: &Lake, stored: &SchemaRef, data: SendableRecordBatchStream) -> Result<u64> {
    let (schema, rows) = (Arc::clone(stored), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&rows);
    let data = data.map(move |batch| {
        let batch = in_types(&schema, &batch?)?;
        counted.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        Ok(batch)
    });
    append_to_lake(lake, Box::pin(RecordBatchStreamAdapter::new(Arc::clone(stored), data))).await?;
    Ok(rows.load(Ordering::Relaxed))
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

/// The Delta table that a statement names; `others`: options that have nothing to do with where it is.
fn lake(cmd: &CreateExternalTable, state: &dyn Session, others: &[&str]) -> Result<Lake> {
    System::Delta.expect_options(&cmd.options, others)?;
    let folder = System::Delta.only(&cmd.locations)?;
    Ok(lake_with(folder, state, &cmd.options)?.partitioned(&cmd.table_partition_cols))
}

/// The Delta table in a folder, with these options.
pub(super) fn lake_with(folder: &str, state: &dyn Session, options: &HashMap<String, String>) -> Result<Lake> {
    let url = Lake::url_of(folder)?;
    let store = Stores::durable(&url)?;
    Lake::new(url, store, Arc::clone(state.runtime_env()), options)
}

/// Makes `STORED AS` of databases and lakes ours.
pub(super) fn register(state: &mut SessionState) {
    for system in [System::Sqlite, System::Postgres, System::Delta] {
        state.table_factories_mut().insert(system.name().to_uppercase(), Arc::new(DatabaseFactory(system)));
    }
}

/// `STORED AS SQLITE`, `STORED AS POSTGRES` and `STORED AS DELTA`.
#[derive(Debug)]
struct DatabaseFactory(System);

#[async_trait]
impl TableProviderFactory for DatabaseFactory {
    async fn create(&self, state: &dyn Session, cmd: &CreateExternalTable) -> DfResult<Arc<dyn TableProvider>> {
        match self.0 {
            #[cfg(feature = "postgres")]
            System::Postgres if cmd.unbounded => Ok(Arc::new(StreamTable::of_postgres(state, cmd).await?)),
            #[cfg(feature = "delta")]
            System::Delta if cmd.unbounded => {
                Ok(Arc::new(StreamTable::of_delta(state, cmd, |others| lake(cmd, state, others)).await?))
            }
            system if cmd.unbounded => Err(Error::sql(format!(
                "{} does not tell here what changes in a table",
                system.name()
            ))
            .hint("CREATE EXTERNAL TABLE reads it as it is; the changes of Postgres and Delta tables can be followed")
            .into()),
            system => Ok(Arc::new(DatabaseTable::create(system, cmd, state).await?)),
        }
    }
}
