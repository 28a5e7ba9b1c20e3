//! A table that others insert into, change and delete from, at rest.
//!
//! Enters: the pieces of its source, in order. Leaves: the rows that are there behind the last. Always holds: they
//! are those that a pipeline over the same pieces has.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int8Type, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as DfResult;
use datafusion::datasource::TableType;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, SessionState, TaskContext};
use datafusion::logical_expr::{CreateExternalTable, Expr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::{StreamExt, TryStreamExt, stream};

use super::{Look, Open, Source, StreamTable, Upkeep, open_source, pieces};
use crate::change::{NetRows, repeat, with_columns};
use crate::error::{Error, Result};
use crate::offset::OffsetRange;

/// Rows of a batch.
const BATCH_ROWS: usize = 8192;
/// A time at which everything has been quiet for long: nobody writes any more.
const LATER_MICROS: i64 = i64::MAX / 4;

/// The rows of a table that are there in the end.
pub struct NetTable {
    schema: SchemaRef,
    upkeep: Upkeep,
    /// What is read of it; nothing: all that is there.
    range: Option<OffsetRange>,
    open: Open,
    read: Arc<AtomicU64>,
}

impl NetTable {
    /// Over what a pipeline has taken. `read` counts the rows.
    pub fn taken(schema: SchemaRef, upkeep: Upkeep, range: OffsetRange, open: Open, read: Arc<AtomicU64>) -> Self {
        Self { schema, upkeep, range: Some(range), open, read }
    }

    /// The table of a statement, if its rows change and go; `look` finds its columns, should none be declared.
    pub async fn at_rest(
        state: &SessionState,
        cmd: &CreateExternalTable,
        look: impl Future<Output = Result<Look>>,
    ) -> Result<Option<Self>> {
        let op = cmd.options.keys().any(|name| super::options::plain(name) == "op_column");
        if !op && cmd.file_type != "DEBEZIUM" && cmd.constraints.is_empty() {
            return Ok(None);
        }
        let table = StreamTable::at_rest(state, cmd, look).await?;
        let Some(upkeep) = table.upkeep().cloned() else { return Ok(None) };
        let (schema, state) = (Arc::clone(table.columns()), state.clone());
        let open = move |columns: &[usize]| {
            let letters = |_: &str| Err(Error::sql("a table at rest has no dead letters"));
            open_source(&table, columns, &state, &letters)
        };
        Ok(Some(Self { schema, upkeep, range: None, open: Arc::new(open), read: Arc::default() }))
    }
}

impl fmt::Debug for NetTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetTable").field("schema", &self.schema).finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for NetTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let columns = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        let read = self.upkeep.columns(&columns, &self.schema);
        let place = |column: &usize| read.binary_search(column).unwrap_or_default();
        let part: Arc<dyn PartitionStream> = Arc::new(Part {
            schema: Arc::new(self.schema.project(&columns)?),
            places: columns.iter().map(place).collect(),
            key: self.upkeep.key.iter().map(place).collect(),
            source_schema: Arc::new(self.schema.project(&read)?),
            upkeep: self.upkeep.clone(),
            range: self.range.clone(),
            open: Arc::clone(&self.open),
            read,
            rows: Arc::clone(&self.read),
        });
        let schema = Arc::clone(part.schema());
        Ok(Arc::new(StreamingTableExec::try_new(schema, vec![part], None, [], false, limit)?))
    }
}

#[derive(Clone)]
struct Part {
    schema: SchemaRef,
    /// Of each column, its place in what is read.
    places: Vec<usize>,
    /// Of each column of the key, the same.
    key: Vec<usize>,
    source_schema: SchemaRef,
    upkeep: Upkeep,
    range: Option<OffsetRange>,
    open: Open,
    read: Vec<usize>,
    rows: Arc<AtomicU64>,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("range", &self.range).finish_non_exhaustive()
    }
}

impl Part {
    /// Reads all pieces.
    async fn net(self, context: Arc<TaskContext>) -> Result<Vec<RecordBatch>> {
        let memory = MemoryConsumer::new("rows of a table that changes").register(context.memory_pool());
        let mut net = NetRows::new(&self.source_schema, &self.key, self.upkeep.on_missing)?;
        let mut source = (self.open)(&self.read)?;
        for range in self.range.iter().flat_map(pieces) {
            self.apply(&mut net, source.as_ref(), &range).await?;
            memory.try_resize(net.bytes())?;
        }
        while self.range.is_none() {
            let range = source.next(LATER_MICROS).await?;
            if range.is_empty() {
                break;
            }
            self.apply(&mut net, source.as_ref(), &range).await?;
            memory.try_resize(net.bytes())?;
            source.advance(&range)?;
        }
        let batches = net.all(BATCH_ROWS).map(|part| {
            let rows = repeat(&part?)?;
            let columns = self.places.iter().map(|place| Arc::clone(rows.column(*place))).collect();
            with_columns(&self.schema, columns, rows.num_rows())
        });
        batches.collect()
    }

    async fn apply(&self, net: &mut NetRows, source: &dyn Source, range: &OffsetRange) -> Result<()> {
        for batch in source.read(range).await?.batches {
            self.rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
            let last = batch.num_columns() - 1;
            let rows = batch.project(&(0..last).collect::<Vec<_>>())?;
            net.apply(&rows, batch.column(last).as_primitive::<Int8Type>())
                .map_err(|error| error.note(format!("it is in {}", range.describe())))?;
        }
        net.settle(|_| {}).map(drop)
    }
}

impl PartitionStream for Part {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let part = self.clone();
        let batches =
            stream::once(async move { Ok::<_, datafusion::error::DataFusionError>(part.net(context).await?) });
        let batches = batches.map_ok(|batches| stream::iter(batches).map(Ok)).try_flatten();
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches))
    }
}
