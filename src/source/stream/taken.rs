//! What a pipeline has taken from a growing input, as a table at rest.
//!
//! Enters: the range of all that was taken. Leaves: its rows, read as they are asked for. Always holds: the rows are
//! those that the epochs read, and nothing that has come since.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as DfResult;
use datafusion::datasource::TableType;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::{StreamExt, TryStreamExt, stream};

use super::{LateRanges, LateRows, Source};
use crate::change::with_columns;
use crate::error::Result;
use crate::offset::{OffsetRange, PartitionSlice};

/// Opens a source for these columns of its table.
pub type Open = Arc<dyn Fn(&[usize]) -> Result<Box<dyn Source>> + Send + Sync>;

/// Rows of a generator that are made at a time.
const PIECE_ROWS: u64 = 256 * 1024;
/// Offsets of a topic that are read at a time.
const PIECE_OFFSETS: i64 = 100_000;

/// The rows of a range.
pub struct TakenTable {
    schema: SchemaRef,
    range: OffsetRange,
    open: Open,
    rows: Arc<AtomicU64>,
    late: LateRanges,
}

impl TakenTable {
    /// A table of these columns, without the rows that were late. `rows` counts what is read.
    pub fn new(schema: SchemaRef, range: OffsetRange, open: Open, late: LateRanges, rows: Arc<AtomicU64>) -> Self {
        Self { schema, range, open, rows, late }
    }

    /// The late rows, as far as these columns go.
    async fn late_rows(&self, columns: &[usize]) -> Result<Option<Arc<Mutex<LateRows>>>> {
        if self.late.ranges.is_empty() {
            return Ok(None);
        }
        let mut read = columns.to_vec();
        read.push(self.late.column);
        read.sort_unstable();
        read.dedup();
        let place = |column: &usize| read.binary_search(column).unwrap_or_default();
        let places: Vec<usize> = columns.iter().map(place).collect();
        let source = (self.open)(&read)?;
        let schema = Arc::new(self.schema.project(columns)?);
        let late = LateRows::read(source.as_ref(), &self.late, place(&self.late.column), (schema, &places)).await?;
        Ok(Some(Arc::new(Mutex::new(late))))
    }
}

/// A range in parts, each of which is read at once: a file, or some rows of a generator.
pub fn pieces(range: &OffsetRange) -> Vec<OffsetRange> {
    match range {
        OffsetRange::Files(slices) => slices.iter().map(|slice| OffsetRange::Files(vec![slice.clone()])).collect(),
        OffsetRange::Rows { from, to } => {
            let piece = |from: u64| OffsetRange::Rows { from, to: (from + PIECE_ROWS).min(*to) };
            (*from..*to).step_by(PIECE_ROWS as usize).map(piece).collect()
        }
        OffsetRange::Partitions(slices) => {
            let piece = |slice: &PartitionSlice, from: i64| {
                let to = slice.to.min(from + PIECE_OFFSETS);
                OffsetRange::Partitions(vec![PartitionSlice { partition: slice.partition, from, to }])
            };
            let cut = |slice: &PartitionSlice| {
                let starts = (slice.from..slice.to).step_by(PIECE_OFFSETS as usize);
                starts.map(|from| piece(slice, from)).collect::<Vec<_>>()
            };
            slices.iter().flat_map(cut).collect()
        }
        OffsetRange::History(range) => {
            pieces(range).into_iter().map(|piece| OffsetRange::History(Box::new(piece))).collect()
        }
        OffsetRange::Behind { history, rest } => {
            let behind = |rest| OffsetRange::Behind { history: history.clone(), rest: Box::new(rest) };
            let first = pieces(&OffsetRange::History(history.clone()));
            first.into_iter().chain(pieces(rest).into_iter().map(behind)).collect()
        }
        OffsetRange::Table => vec![OffsetRange::Table],
    }
}

impl fmt::Debug for TakenTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TakenTable").field("schema", &self.schema).finish_non_exhaustive()
    }
}

#[async_trait]
impl TableProvider for TakenTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let columns = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        // count(*) needs rows, and rows need a column. A source gives its columns in the order of the table.
        let mut read = if columns.is_empty() { vec![0] } else { columns.clone() };
        read.sort_unstable();
        let source: Arc<dyn Source> = Arc::from((self.open)(&read)?);
        let places = columns.iter().map(|column| read.iter().position(|one| one == column).unwrap_or(0)).collect();
        let schema = Arc::new(self.schema.project(&columns)?);
        let late = self.late_rows(&columns).await?;
        let mut parts: Vec<Vec<OffsetRange>> = vec![Vec::new(); state.config().target_partitions().max(1)];
        let count = parts.len();
        for (at, piece) in pieces(&self.range).into_iter().enumerate() {
            parts[at % count].push(piece);
        }
        let parts = parts.into_iter().map(|pieces| -> Arc<dyn PartitionStream> {
            let (schema, source, rows) = (Arc::clone(&schema), Arc::clone(&source), Arc::clone(&self.rows));
            Arc::new(Part { schema, source, pieces, places: Arc::clone(&places), rows, late: late.clone() })
        });
        Ok(Arc::new(StreamingTableExec::try_new(Arc::clone(&schema), parts.collect(), None, [], false, limit)?))
    }
}

struct Part {
    schema: SchemaRef,
    source: Arc<dyn Source>,
    pieces: Vec<OffsetRange>,
    /// Of each column, its place in what the source gives.
    places: Arc<[usize]>,
    rows: Arc<AtomicU64>,
    late: Option<Arc<Mutex<LateRows>>>,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Part").field("pieces", &self.pieces).finish_non_exhaustive()
    }
}

impl PartitionStream for Part {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (schema, places, rows) = (Arc::clone(&self.schema), Arc::clone(&self.places), Arc::clone(&self.rows));
        let (source, late) = (Arc::clone(&self.source), self.late.clone());
        let read = stream::iter(self.pieces.clone()).then(move |piece| {
            let (schema, places, rows) = (Arc::clone(&schema), Arc::clone(&places), Arc::clone(&rows));
            let (source, late) = (Arc::clone(&source), late.clone());
            async move {
                let read = source.read(&piece).await?;
                let batches = read.batches.into_iter().map(move |batch| {
                    rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
                    let columns = places.iter().map(|place| Arc::clone(batch.column(*place))).collect();
                    let batch = with_columns(&schema, columns, batch.num_rows())?;
                    match &late {
                        Some(late) => Ok(late.lock().unwrap_or_else(PoisonError::into_inner).strip(batch)?),
                        None => Ok(batch),
                    }
                });
                Ok::<_, datafusion::error::DataFusionError>(stream::iter(batches))
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), read.try_flatten()))
    }
}
