//! Delta Lake tables.
//!
//! Enters: where a table is; rows that are inserted, replaced and deleted by key. Leaves: the table's columns and rows;
//! commits of its log. Always holds: a transaction is one commit, which carries the numbers of its epochs as
//! application transactions (`txn` of the Delta protocol), so readers see an epoch whole and a retry finds it. Rows that
//! change are written anew with their files (copy-on-write): every reader of Delta can read them.

mod append;
mod follow;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, new_null_array};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::common::{Column, TableReference};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::{Expr, JoinType, cast, lit, not};
use datafusion::prelude::SessionContext;
use deltalake_core::delta_datafusion::planner::DeltaPlanner;
use deltalake_core::delta_datafusion::{DeltaColumn, DeltaSessionConfig};
use deltalake_core::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake_core::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake_core::kernel::{StructField, Transaction};
use deltalake_core::logstore::{LogStoreRef, StorageConfig, default_logstore};
use deltalake_core::operations::create::CreateBuilder;
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use deltalake_core::{DeltaTable, DeltaTableError};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::prefix::PrefixStore;
use serde_json::Value;

use super::lake::{Lake, Version};
use super::types::stored_in_lake;
use super::upsert::twice_in;
use super::{Connection, Found, Query, SinkName};
use crate::durable::step;
use crate::error::{Error, Result};
use crate::offset::Epoch;

pub use append::append;
pub use follow::{LakeCommit, LakeFile, LakeFollower};

/// The property of a table that names the columns of its key, as JSON.
const KEY: &str = "fuse.primaryKey";

/// What a commit says about who made it.
const PIPELINE: &str = "fuse.pipeline";

/// Marks in the source of a merge the keys that go.
const GONE: &str = "fuse gone";

/// The names of both sides of a merge.
const THERE: &str = "there";
const NEW: &str = "new";

/// A table, and what the transaction has so far.
pub(super) struct Delta {
    lake: Lake,
    log: LogStoreRef,
    session: SessionState,
    table: Option<DeltaTable>,
    pending: Pending,
}

/// What a transaction has so far.
#[derive(Default)]
struct Pending {
    /// Rows whose keys were not there, or that have none.
    inserts: Vec<RecordBatch>,
    replaces: Vec<RecordBatch>,
    /// Keys that go.
    deletes: Vec<RecordBatch>,
    /// The places of the key's columns.
    key: Vec<usize>,
    numbers: Vec<Transaction>,
    pipeline: Option<String>,
    clears: bool,
}

/// What the library says, with the table it says it of.
fn told(lake: &Lake, error: DeltaTableError) -> Error {
    match error {
        DeltaTableError::Arrow { source } => source.into(),
        DeltaTableError::ObjectStore { source } => source.into(),
        DeltaTableError::Transaction { source } => Error::query(format!("{lake}: {source}"))
            .note("another writer changed the table meanwhile")
            .hint("the same command goes on from the last epoch that is there"),
        error => Error::query(format!("{lake}: {error}")),
    }
}

fn qualified(side: &str, name: &str) -> Expr {
    Expr::Column(Column::new(Some(TableReference::bare(side)), name))
}

/// The log of a table.
fn log_of(lake: &Lake) -> Result<LogStoreRef> {
    let path = object_store::path::Path::from_url_path(lake.url().path())
        .map_err(|error| Error::query(format!("{lake}: {error}")))?;
    let store = lake.store();
    let below = Arc::new(PrefixStore::new(Arc::clone(store), path));
    Ok(default_logstore(below, Arc::clone(store), lake.url(), &StorageConfig::default()))
}

/// In which plans of the library run: within the memory of the one that reads and writes the table.
fn session(lake: &Lake) -> SessionState {
    let session = SessionStateBuilder::new().with_config(DeltaSessionConfig::default().into()).with_default_features();
    session.with_query_planner(DeltaPlanner::new()).with_runtime_env(Arc::clone(lake.runtime())).build()
}

/// The table as it is, or at the version that is asked for; nothing if there is none.
async fn load(lake: &Lake, log: &LogStoreRef) -> Result<Option<DeltaTable>> {
    let mut table = DeltaTable::new(Arc::clone(log));
    let told = |error| told(lake, error);
    if !table.verify_deltatable_existence().await.map_err(told)? {
        return Ok(None);
    }
    match lake.version() {
        None => table.load().await.map_err(told)?,
        Some(Version::Number(version)) => table.load_version(*version).await.map_err(told)?,
        Some(Version::Time(time)) => table.load_with_datetime(*time).await.map_err(told)?,
    }
    Ok(Some(table))
}

/// A table as DataFusion reads it; nothing if there is none.
pub async fn provider(lake: &Lake) -> Result<Option<Arc<dyn TableProvider>>> {
    let Some(table) = load(lake, &log_of(lake)?).await? else { return Ok(None) };
    Ok(Some(table.table_provider().await?))
}

/// What is known of a table without its rows.
fn found(lake: &Lake, table: &DeltaTable) -> Result<Found> {
    let state = table.snapshot().map_err(|error| told(lake, error))?;
    let columns = state.snapshot().arrow_schema();
    let names = state.metadata().configuration().get(KEY).map(String::as_str).unwrap_or("[]");
    let names: Vec<String> = serde_json::from_str(names)
        .map_err(|error| Error::query(format!("{lake}: the property {KEY} is {names}: {error}")))?;
    let key = names.iter().map(|name| columns.index_of(name)).collect::<Result<_, _>>()?;
    let append_only = state.metadata().configuration().get("delta.appendOnly").is_some_and(|is| is == "true");
    Ok(Found { columns, key, append_only })
}

impl Delta {
    pub(super) fn open(lake: &Lake) -> Result<Self> {
        let (log, session) = (log_of(lake)?, session(lake));
        Ok(Self { lake: lake.clone(), log, session, table: None, pending: Pending::default() })
    }

    /// The table as it is now.
    async fn newest(&mut self) -> Result<Option<&DeltaTable>> {
        match &mut self.table {
            Some(table) => table.update_state().await.map_err(|error| told(&self.lake, error))?,
            None => self.table = load(&self.lake, &self.log).await?,
        }
        Ok(self.table.as_ref())
    }

    async fn existing(&mut self) -> Result<DeltaTable> {
        self.newest().await?;
        self.table.clone().ok_or_else(|| Error::query(format!("{}: there is no Delta table", self.lake)))
    }

    /// What a commit says of who made it.
    fn maker(&self) -> CommitProperties {
        let pipeline = self.pending.pipeline.iter().map(|id| (PIPELINE.to_owned(), Value::from(id.as_str())));
        CommitProperties::default().with_metadata(pipeline)
    }

    /// The same, with the numbers of its epochs.
    fn properties(&self) -> CommitProperties {
        self.maker().with_application_transactions(self.pending.numbers.clone())
    }

    /// The rows of a transaction that change by key: those that are there in the end, and the keys that go.
    fn source(&self, columns: &SchemaRef) -> Result<RecordBatch> {
        let nullable = |field: &Arc<Field>| Field::clone(field).with_nullable(true);
        let mut fields: Vec<Field> = columns.fields().iter().map(nullable).collect();
        fields.push(Field::new(GONE, DataType::Boolean, false));
        let schema = Arc::new(Schema::new(fields));
        let batch = |mut columns: Vec<ArrayRef>, rows: usize, gone: bool| {
            columns.push(Arc::new(BooleanArray::from(vec![gone; rows])));
            RecordBatch::try_new(Arc::clone(&schema), columns)
        };
        let mut all = Vec::new();
        for rows in self.pending.inserts.iter().chain(&self.pending.replaces) {
            all.push(batch(rows.columns().to_vec(), rows.num_rows(), false)?);
        }
        for keys in &self.pending.deletes {
            let mut of_row: Vec<ArrayRef> =
                columns.fields().iter().map(|field| new_null_array(field.data_type(), keys.num_rows())).collect();
            for (at, column) in self.pending.key.iter().zip(keys.columns()) {
                of_row[*at] = Arc::clone(column);
            }
            all.push(batch(of_row, keys.num_rows(), true)?);
        }
        Ok(concat_batches(&schema, &all)?)
    }

    /// Inserts, replaces and deletes by key, in one commit.
    async fn merge(&self, table: DeltaTable) -> Result<DeltaTable> {
        let told = |error| told(&self.lake, error);
        let columns = self.columns(&table)?;
        let source = SessionContext::new_with_state(self.session.clone()).read_batch(self.source(&columns)?)?;
        let same = |at: &usize| {
            let name = columns.field(*at).name();
            qualified(THERE, name).eq(qualified(NEW, name))
        };
        let matches = self.pending.key.iter().map(same).reduce(Expr::and).unwrap_or_else(|| lit(false));
        let gone = || qualified(NEW, GONE);
        let names: Vec<&String> = columns.fields().iter().map(|field| field.name()).collect();
        let column = |name: &str| DeltaColumn::from(Column::from_name(name));
        let (table, _) = table
            .merge(source, matches)
            .with_source_alias(NEW)
            .with_target_alias(THERE)
            .with_session_state(Arc::new(self.session.clone()))
            .with_commit_properties(self.properties())
            .when_matched_delete(|delete| delete.predicate(gone()))
            .map_err(told)?
            .when_matched_update(|update| {
                let update = update.predicate(not(gone()));
                names.iter().fold(update, |update, name| update.update(column(name), qualified(NEW, name)))
            })
            .map_err(told)?
            .when_not_matched_insert(|insert| {
                let insert = insert.predicate(not(gone()));
                names.iter().fold(insert, |insert, name| insert.set(column(name), qualified(NEW, name)))
            })
            .map_err(told)?
            .await
            .map_err(told)?;
        Ok(table)
    }

    /// Refuses rows that are inserted if their key is there, or twice among them: no reader of Delta looks for that.
    async fn expect_new(&self, table: &DeltaTable) -> Result<()> {
        let columns = self.columns(table)?;
        let context = SessionContext::new_with_state(self.session.clone());
        let keys = || self.pending.key.iter().map(|at| columns.field(*at));
        let (here, there): (Vec<String>, Vec<String>) =
            (0..self.pending.key.len()).map(|at| (format!("new {at}"), format!("there {at}"))).unzip();
        let named = |names: &[String]| -> Vec<Expr> {
            let one = |(field, name): (&Field, &String)| {
                cast(Expr::Column(Column::from_name(field.name())), field.data_type().clone()).alias(name)
            };
            keys().zip(names).map(one).collect()
        };
        let rows = context.read_batches(self.pending.inserts.clone())?.select(named(&here))?;
        let column = |name: &String| Expr::Column(Column::from_name(name));
        let count = count(lit(1)).alias("rows");
        let twice = rows.clone().aggregate(here.iter().map(column).collect(), vec![count])?;
        let twice =
            twice.filter(column(&"rows".to_owned()).gt(lit(1)))?.select(here.iter().map(column).collect::<Vec<_>>())?;
        let known = context.read_table(table.table_provider().await?)?.select(named(&there))?;
        let (ours, theirs): (Vec<&str>, Vec<&str>) =
            here.iter().zip(&there).map(|(here, there)| (here.as_str(), there.as_str())).unzip();
        let known = rows.join(known, JoinType::Inner, &ours, &theirs, None)?;
        let known = known.select(here.iter().map(column).collect::<Vec<_>>())?;
        for found in [twice, known] {
            let found = found.limit(0, Some(1))?.collect().await?;
            if let Some(row) = found.iter().find(|rows| rows.num_rows() > 0) {
                return Err(twice_in(
                    &self.lake.to_string(),
                    row,
                    0,
                    &keys().map(Field::name).cloned().collect::<Vec<_>>(),
                ));
            }
        }
        Ok(())
    }

    /// The columns of the table in the types in which rows are handed over.
    fn columns(&self, table: &DeltaTable) -> Result<SchemaRef> {
        let there = found(&self.lake, table)?.columns;
        let field = |field: &Arc<Field>| {
            let kind = stored_in_lake(field.data_type());
            Field::new(field.name(), kind, field.is_nullable())
        };
        Ok(Arc::new(Schema::new(there.fields().iter().map(field).collect::<Vec<_>>())))
    }

    /// Commits what the transaction has.
    async fn write(&self, mut table: DeltaTable) -> Result<DeltaTable> {
        let told = |error| told(&self.lake, error);
        let pending = &self.pending;
        if pending.clears {
            table = table.delete().with_commit_properties(self.properties()).await.map_err(told)?.0;
        }
        if !pending.inserts.is_empty() && !pending.key.is_empty() {
            self.expect_new(&table).await?;
        }
        if !pending.replaces.is_empty() || !pending.deletes.is_empty() {
            return self.merge(table).await;
        }
        if !pending.inserts.is_empty() {
            let write = table.write(pending.inserts.clone()).with_save_mode(SaveMode::Append);
            let write = write.with_session_state(Arc::new(self.session.clone()));
            return write.with_commit_properties(self.properties()).await.map_err(told);
        }
        if !pending.numbers.is_empty() {
            let operation = DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
            let state = table.snapshot().map_err(told)?.snapshot();
            let commit = CommitBuilder::from(self.properties()).build(Some(state), Arc::clone(&self.log), operation);
            commit.await.map_err(told)?;
            table.update_state().await.map_err(told)?;
        }
        Ok(table)
    }

    /// Puts small files together and removes files that no version of late needs, now and then.
    async fn tidy(&self, table: DeltaTable) -> Result<DeltaTable> {
        let told = |error| told(&self.lake, error);
        let every = self.lake.compact_every();
        let due = every > 0 && table.version().is_some_and(|version| version > 0 && version % every == 0);
        if !due {
            return Ok(table);
        }
        let properties = self.maker();
        let optimize = table.optimize().with_session_state(Arc::new(self.session.clone()));
        let (table, _) = optimize.with_commit_properties(properties.clone()).await.map_err(told)?;
        step("sink.lake.compact.after")?;
        let keep = chrono::Duration::from_std(self.lake.vacuum_after()).unwrap_or(chrono::Duration::days(7));
        let enforce = self.lake.vacuum_after() >= Duration::from_secs(7 * 24 * 3600);
        let vacuum = table.vacuum().with_retention_period(keep).with_enforce_retention_duration(enforce);
        let (table, _) = vacuum.with_commit_properties(properties).await.map_err(told)?;
        step("sink.lake.vacuum.after")?;
        Ok(table)
    }
}

/// The name under which the log knows a sink.
fn application(sink: &SinkName) -> String {
    format!("fuse-{}-{}", sink.pipeline, sink.statement)
}

#[async_trait]
impl Connection for Delta {
    async fn look(&mut self, _table: &str) -> Result<Option<Found>> {
        self.newest().await?;
        self.table.as_ref().map(|table| found(&self.lake, table)).transpose()
    }

    async fn create(&mut self, _table: &str, columns: &SchemaRef, key: &[usize]) -> Result<()> {
        let field = |(at, field): (usize, &Arc<Field>)| -> Result<StructField> {
            let field = Field::clone(field).with_nullable(field.is_nullable() && !key.contains(&at));
            (&field).try_into_kernel().map_err(|error: arrow::error::ArrowError| {
                Error::sql(format!("Delta has no type for the column {}: {error}", field.name()))
                    .hint("CAST it to a type that it has, such as VARCHAR")
            })
        };
        let fields = columns.fields().iter().enumerate().map(field).collect::<Result<Vec<_>>>()?;
        let names: Vec<&String> = key.iter().map(|at| columns.field(*at).name()).collect();
        let names =
            (!names.is_empty()).then(|| Value::from(names.into_iter().cloned().collect::<Vec<_>>()).to_string());
        let made = CreateBuilder::new()
            .with_log_store(Arc::clone(&self.log))
            .with_columns(fields)
            .with_partition_columns(self.lake.partitions())
            .with_raise_if_key_not_exists(false)
            .with_configuration([(KEY, names)])
            .await;
        self.table = Some(made.map_err(|error| told(&self.lake, error))?);
        Ok(())
    }

    async fn begin(&mut self) -> Result<()> {
        self.pending = Pending::default();
        Ok(())
    }

    async fn commit(&mut self) -> Result<()> {
        let table = self.existing().await?;
        let table = self.write(table).await?;
        self.table = Some(self.tidy(table).await?);
        self.pending = Pending::default();
        Ok(())
    }

    async fn rollback(&mut self) -> Result<()> {
        self.pending = Pending::default();
        Ok(())
    }

    async fn insert(&mut self, _table: &str, rows: &RecordBatch, key: &[usize]) -> Result<()> {
        key.clone_into(&mut self.pending.key);
        if rows.num_rows() > 0 {
            self.pending.inserts.push(rows.clone());
        }
        Ok(())
    }

    async fn replace(&mut self, _table: &str, rows: &RecordBatch, key: &[usize]) -> Result<()> {
        key.clone_into(&mut self.pending.key);
        if rows.num_rows() > 0 {
            self.pending.replaces.push(rows.clone());
        }
        Ok(())
    }

    async fn delete(&mut self, _table: &str, keys: &RecordBatch) -> Result<()> {
        if keys.num_rows() > 0 {
            self.pending.deletes.push(keys.clone());
        }
        Ok(())
    }

    async fn make_epochs(&mut self) -> Result<()> {
        Ok(())
    }

    async fn epoch(&mut self, sink: &SinkName) -> Result<Option<Epoch>> {
        let log = Arc::clone(&self.log);
        let Some(table) = self.newest().await? else { return Ok(None) };
        let state = table.snapshot().cloned();
        let version = match state {
            Ok(state) => state.transaction_version(log.as_ref(), application(sink)).await,
            Err(error) => Err(error),
        };
        let version = version.map_err(|error| told(&self.lake, error))?;
        Ok(version.map(|version| Epoch::try_from(version).unwrap_or(0)))
    }

    async fn begin_epochs(&mut self, sink: &SinkName, _empty: bool) -> Result<()> {
        self.set_epoch(sink, 0).await
    }

    async fn set_epoch(&mut self, sink: &SinkName, epoch: Epoch) -> Result<()> {
        let number = i64::try_from(epoch).map_err(|_| Error::query("an epoch beyond 2^63"))?;
        self.pending.numbers.push(Transaction::new(application(sink), number));
        self.pending.pipeline = Some(sink.pipeline.clone());
        Ok(())
    }

    /// All rows are those of the pipeline if the log, which has to reach back to the first version, says of each commit
    /// with rows that it made it.
    async fn forget_epochs(&mut self, pipeline: &str, _table: &str) -> Result<bool> {
        self.pending.pipeline = Some(pipeline.to_owned());
        let table = self.existing().await?;
        let told = |error| told(&self.lake, error);
        let commits: Vec<_> = table.history(None).try_collect().await.map_err(told)?;
        let made = |operation: &Option<String>| operation.as_deref() == Some("CREATE TABLE");
        let whole = commits.last().is_some_and(|first| made(&first.operation));
        let ours = |of: &HashMap<String, Value>| of.get(PIPELINE).and_then(Value::as_str) == Some(pipeline);
        Ok(whole && commits.iter().all(|commit| made(&commit.operation) || ours(&commit.info)))
    }

    async fn is_empty(&mut self, _table: &str) -> Result<bool> {
        let table = self.existing().await?;
        Ok(table.snapshot().map_err(|error| told(&self.lake, error))?.log_data().num_files() == 0)
    }

    async fn clear(&mut self, _table: &str) -> Result<()> {
        self.pending.clears = true;
        Ok(())
    }

    async fn read(&mut self, _table: &str, query: &Query) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let table = self.existing().await?;
        let provider = table.table_provider().await?;
        let rows = SessionContext::new_with_state(self.session.clone()).read_table(provider)?;
        let column = |field: &Arc<Field>| {
            let column = Expr::Column(Column::from_name(field.name()));
            cast(column, field.data_type().clone()).alias(field.name())
        };
        let rows = rows.select(query.columns.fields().iter().map(column).collect::<Vec<_>>())?;
        Ok(rows.execute_stream().await?.map_err(Error::from).boxed())
    }
}
