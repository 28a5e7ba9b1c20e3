//! What the scans of our own formats share: the half that DataFusion's planner talks to.
//!
//! Enters: a way to open files of one format ([`Format`]). Leaves: DataFusion's `FileSource` over it. Always holds:
//! a format is asked for the columns that a query needs and no others; what a query computes of them is not its
//! concern.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::Result as DfResult;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::physical_plan::{FileOpener, FileScanConfig, FileSource};
use datafusion::datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{DisplayFormatType, PhysicalExpr, apply_expression_roots};
use object_store::ObjectStore;

/// A format whose files we open ourselves.
pub(super) trait Format: Clone + Send + Sync + 'static {
    /// The name in EXPLAIN.
    const NAME: &'static str;
    /// True if a file may be cut into ranges that are read by several threads.
    fn cuts(&self, schema: &SchemaRef) -> bool;

    /// Opens files for what is wanted of them.
    fn opener(&self, wanted: Wanted) -> Arc<dyn FileOpener>;

    /// What EXPLAIN says more.
    fn describe(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// What is wanted of files.
#[derive(Clone)]
pub(super) struct Wanted {
    /// Where they are.
    pub(super) store: Arc<dyn ObjectStore>,
    /// How they are compressed as a whole.
    pub(super) compression: FileCompressionType,
    /// Their columns.
    pub(super) schema: SchemaRef,
    /// Those that are read, by place.
    pub(super) columns: Vec<usize>,
    /// Rows of a batch.
    pub(super) batch_rows: usize,
}

/// The scan of files of one format.
#[derive(Clone)]
pub(super) struct Scan<F> {
    format: F,
    table_schema: TableSchema,
    projection: SplitProjection,
    batch_rows: usize,
    metrics: ExecutionPlanMetricsSet,
}

impl<F: Format> Scan<F> {
    pub(super) fn new(format: F, table_schema: TableSchema) -> Self {
        let projection = SplitProjection::unprojected(&table_schema);
        Self { format, table_schema, projection, batch_rows: 8192, metrics: ExecutionPlanMetricsSet::new() }
    }

    /// The scan of all columns.
    pub(super) fn whole(&self) -> Self {
        Self::new(self.format.clone(), self.table_schema.clone())
    }
}

impl<F: Format> FileSource for Scan<F> {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        _partition: usize,
    ) -> DfResult<Arc<dyn FileOpener>> {
        let opener = self.format.opener(Wanted {
            store,
            compression: config.file_compression_type,
            schema: Arc::clone(self.table_schema.file_schema()),
            columns: self.projection.file_indices.clone(),
            batch_rows: self.batch_rows,
        });
        ProjectionOpener::try_new(self.projection.clone(), opener, self.table_schema.file_schema())
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
        F::NAME
    }

    fn supports_repartitioning(&self) -> bool {
        self.format.cuts(self.table_schema.file_schema())
    }

    fn fmt_extra(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match kind {
            DisplayFormatType::Default | DisplayFormatType::Verbose => self.format.describe(f),
            DisplayFormatType::TreeRender => Ok(()),
        }
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        apply_expression_roots(self.projection.source.iter(), f)
    }
}
