//! The scan of CSV files.
//!
//! Enters: files of one dialect. Leaves: batches of the columns that a query asks for. Always holds: a file is
//! read once, from its start, by one thread, so that line numbers and quoted line breaks are right.

use std::fmt;
use std::io::Read;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileOpenFuture, FileOpener, FileScanConfig, FileSource};
use datafusion::datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::DisplayFormatType;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::stream::{BoxStream, StreamExt};
use object_store::{GetResultPayload, ObjectStore, ObjectStoreExt};

use super::Rejects;
use super::infer::display;
use crate::error::Error;
use crate::format::csv::{CsvDecoder, Dialect, Encoding, Transcoder};

/// Bytes of a local file that are read at once.
const READ_BYTES: usize = 512 << 10;

/// Files of one dialect, and the columns that are wanted of them.
#[derive(Debug, Clone)]
pub(super) struct CsvScan {
    dialect: Dialect,
    table_schema: TableSchema,
    projection: SplitProjection,
    batch_rows: usize,
    metrics: ExecutionPlanMetricsSet,
    rejects: Arc<Rejects>,
}

impl CsvScan {
    pub(super) fn new(dialect: Dialect, table_schema: TableSchema, rejects: Arc<Rejects>) -> Self {
        let projection = SplitProjection::unprojected(&table_schema);
        let metrics = ExecutionPlanMetricsSet::new();
        Self { dialect, table_schema, projection, batch_rows: 8192, metrics, rejects }
    }
}

impl FileSource for CsvScan {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        base_config: &FileScanConfig,
        _partition: usize,
    ) -> DfResult<Arc<dyn FileOpener>> {
        let opener = Opener { scan: self.clone(), compression: base_config.file_compression_type, store };
        ProjectionOpener::try_new(self.projection.clone(), Arc::new(opener), self.table_schema.file_schema())
    }

    fn table_schema(&self) -> &TableSchema {
        &self.table_schema
    }

    fn with_batch_size(&self, batch_rows: usize) -> Arc<dyn FileSource> {
        Arc::new(Self { batch_rows, ..self.clone() })
    }

    fn try_pushdown_projection(&self, projection: &ProjectionExprs) -> DfResult<Option<Arc<dyn FileSource>>> {
        let merged = self.projection.source.try_merge(projection)?;
        let projection = SplitProjection::new(self.table_schema.file_schema(), &merged);
        Ok(Some(Arc::new(Self { projection, ..self.clone() })))
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        Some(&self.projection.source)
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        &self.metrics
    }

    fn file_type(&self) -> &str {
        "csv"
    }

    fn supports_repartitioning(&self) -> bool {
        false
    }

    fn fmt_extra(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match kind {
            DisplayFormatType::Default | DisplayFormatType::Verbose => {
                write!(f, ", has_header={}", self.dialect.header)
            }
            DisplayFormatType::TreeRender => Ok(()),
        }
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        for projected in self.projection.source.iter() {
            if f(&projected.expr)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }
}

struct Opener {
    scan: CsvScan,
    compression: FileCompressionType,
    store: Arc<dyn ObjectStore>,
}

/// Where the bytes of a file come from.
enum Source {
    Local(Box<dyn Read + Send>, Vec<u8>),
    Remote(BoxStream<'static, DfResult<Bytes>>),
}

struct Reading {
    source: Source,
    transcoder: Option<Transcoder>,
    decoder: CsvDecoder,
    end: bool,
}

/// Adds bytes to the decoder's.
fn add(transcoder: &mut Option<Transcoder>, decoder: &mut CsvDecoder, bytes: &[u8]) {
    match transcoder {
        Some(transcoder) => transcoder.push(bytes, decoder.buffer()),
        None => decoder.push(bytes),
    }
}

impl Reading {
    /// Adds the next bytes to the decoder's; notes the end.
    async fn more(&mut self) -> DfResult<()> {
        match &mut self.source {
            Source::Local(file, buffer) => {
                // Read to the brim, so that the end of a small file is known with its only piece.
                let mut count = 0;
                while count < buffer.len() && !self.end {
                    let read = file.read(&mut buffer[count..]).map_err(Error::from)?;
                    self.end = read == 0;
                    count += read;
                }
                add(&mut self.transcoder, &mut self.decoder, &buffer[..count]);
            }
            Source::Remote(stream) => match stream.next().await.transpose()? {
                Some(bytes) => add(&mut self.transcoder, &mut self.decoder, &bytes),
                None => self.end = true,
            },
        }
        Ok(())
    }

    async fn next(mut self) -> DfResult<Option<(RecordBatch, Self)>> {
        loop {
            if let Some(batch) = self.decoder.next(self.end)? {
                return Ok(Some((batch, self)));
            }
            if self.end {
                return Ok(None);
            }
            self.more().await?;
        }
    }
}

impl FileOpener for Opener {
    fn open(&self, file: PartitionedFile) -> DfResult<FileOpenFuture> {
        let name = display(&file.object_meta);
        let rejects = Arc::clone(&self.scan.rejects);
        let told_name = name.clone();
        let decoder = CsvDecoder::new(
            name,
            self.scan.dialect.clone(),
            Arc::clone(self.scan.table_schema.file_schema()),
            self.scan.projection.file_indices.clone(),
            self.scan.batch_rows,
            Arc::new(move |told| rejects.tell(&told_name, told)),
        );
        let encoding = self.scan.dialect.encoding;
        let transcoder = (encoding != Encoding::Utf8).then(|| Transcoder::new(encoding));
        let (store, compression) = (Arc::clone(&self.store), self.compression);
        Ok(Box::pin(async move {
            let source = match store.get(&file.object_meta.location).await?.payload {
                GetResultPayload::File(file, _) => {
                    Source::Local(Box::new(compression.convert_read(file)?), vec![0; READ_BYTES])
                }
                GetResultPayload::Stream(stream) => {
                    let stream = stream.map(|bytes| bytes.map_err(DataFusionError::from)).boxed();
                    Source::Remote(compression.convert_stream(stream)?)
                }
            };
            let reading = Reading { source, transcoder, decoder, end: false };
            Ok(futures::stream::try_unfold(reading, Reading::next).boxed())
        }))
    }
}
