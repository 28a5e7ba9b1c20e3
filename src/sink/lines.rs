//! JSON lines as COPY writes them.
//!
//! Enters: batches. Leaves: an object a line. Always holds: a row has every column, NULL included, as the
//! command line writes it; DataFusion's own sink leaves NULL out, and with it a column that has no value.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::json::writer::{LineDelimited, Writer, WriterBuilder};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::common::Result as DfResult;
use datafusion::common::file_options::json_writer::JsonWriterOptions;
use datafusion::common::runtime::SpawnedTask;
use datafusion::datasource::file_format::json::JsonSink;
use datafusion::datasource::file_format::write::BatchSerializer;
use datafusion::datasource::file_format::write::demux::DemuxedStreamReceiver;
use datafusion::datasource::file_format::write::orchestration::spawn_writer_tasks_and_join;
use datafusion::datasource::physical_plan::{FileSink, FileSinkConfig};
use datafusion::datasource::sink::DataSink;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType};
use object_store::ObjectStore;

/// The sink of DataFusion's, with NULL.
#[derive(Debug)]
pub(super) struct JsonLines {
    inner: JsonSink,
    options: JsonWriterOptions,
}

impl JsonLines {
    pub(super) fn new(sink: &JsonSink) -> Self {
        let options = sink.writer_options().clone();
        Self { inner: JsonSink::new(sink.config().clone(), options.clone()), options }
    }
}

impl DisplayAs for JsonLines {
    fn fmt_as(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_as(kind, f)
    }
}

#[async_trait]
impl DataSink for JsonLines {
    fn schema(&self) -> &SchemaRef {
        self.inner.schema()
    }

    async fn write_all(&self, data: SendableRecordBatchStream, context: &Arc<TaskContext>) -> DfResult<u64> {
        FileSink::write_all(self, data, context).await
    }
}

#[async_trait]
impl FileSink for JsonLines {
    fn config(&self) -> &FileSinkConfig {
        self.inner.config()
    }

    async fn spawn_writer_tasks_and_join(
        &self,
        context: &Arc<TaskContext>,
        demux_task: SpawnedTask<DfResult<()>>,
        files: DemuxedStreamReceiver,
        store: Arc<dyn ObjectStore>,
    ) -> DfResult<u64> {
        let compression = self.options.compression.into();
        let level = self.options.compression_level;
        spawn_writer_tasks_and_join(context, Arc::new(Lines), compression, level, store, demux_task, files).await
    }
}

struct Lines;

impl BatchSerializer for Lines {
    fn serialize(&self, batch: RecordBatch, _first: bool) -> DfResult<Bytes> {
        let mut text = Vec::new();
        let mut writer: Writer<_, LineDelimited> = WriterBuilder::new().with_explicit_nulls(true).build(&mut text);
        writer.write(&batch)?;
        Ok(Bytes::from(text))
    }
}
