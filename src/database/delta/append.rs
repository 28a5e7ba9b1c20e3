//! Rows that are appended to a Delta table as they come.
//!
//! Enters: a stream of rows. Leaves: one commit. Always holds: no more of the rows is in memory than the files need that
//! are being written; a stream that ends with an error leaves no commit, and files that no version has.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::LogicalPlanBuilder;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use deltalake_core::protocol::SaveMode;
use futures::stream;

use super::{Delta, Lake, told};
use crate::error::Result;

/// Appends rows to a table that is there, in one commit.
pub async fn append(lake: &Lake, rows: SendableRecordBatchStream) -> Result<()> {
    let mut connection = Delta::open(lake)?;
    let table = connection.existing().await?;
    let part = Arc::new(Once { schema: rows.schema(), rows: Mutex::new(Some(rows)) });
    let input = StreamingTable::try_new(Arc::clone(&part.schema), vec![part])?;
    let input = LogicalPlanBuilder::scan("rows", provider_as_source(Arc::new(input)), None)?.build()?;
    let write = table.write(Vec::new()).with_save_mode(SaveMode::Append).with_input_plan(input);
    let write = write.with_session_state(Arc::new(connection.session.clone()));
    let table = write.with_commit_properties(connection.properties()).await.map_err(|error| told(lake, error))?;
    connection.tidy(table).await?;
    Ok(())
}

/// Rows that can be read once.
struct Once {
    schema: SchemaRef,
    rows: Mutex<Option<SendableRecordBatchStream>>,
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rows as they come")
    }
}

impl PartitionStream for Once {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        match self.rows.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(rows) => rows,
            None => {
                let twice = DataFusionError::Internal("rows that come once are read twice".to_owned());
                let schema = Arc::clone(&self.schema);
                Box::pin(RecordBatchStreamAdapter::new(schema, stream::iter([Err(twice)])))
            }
        }
    }
}
