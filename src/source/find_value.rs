//! Which row of which file has a value that could not be cast.
//!
//! Enters: a plan that failed, and the text that is not of a type. Leaves: the file, row and column that have it.
//! Always holds: only text columns that the plan casts are looked at, and files are read only after something failed.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfig, FileScanConfigBuilder, FileSource, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::expressions::{CastExpr, Column};
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::ExecutionPlan;
use futures::StreamExt;

use super::arrow_scan::Arrow;
use super::csv_scan::Csv;
use super::infer::display;
use super::json_scan::Json;
use super::scan::Scan;

/// The place of the first such value: `data.csv, row 12, column b`.
pub(super) async fn find_value(
    plan: &Arc<dyn ExecutionPlan>,
    context: &Arc<TaskContext>,
    text: &str,
) -> Option<String> {
    let mut names = HashSet::new();
    let mut scans = Vec::new();
    let mut nodes = vec![Arc::clone(plan)];
    while let Some(node) = nodes.pop() {
        nodes.extend(node.children().into_iter().cloned());
        node.apply_expressions(&mut |expr| {
            expr.apply(|node| {
                if let Some(cast) = node.downcast_ref::<CastExpr>()
                    && let Some(column) = cast.expr().downcast_ref::<Column>()
                {
                    names.insert(column.name().to_owned());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
        .ok()?;
        scans.push(node);
    }
    for scan in &scans {
        let Some(scan) = scan.downcast_ref::<DataSourceExec>() else { continue };
        let Some(config) = scan.data_source().downcast_ref::<FileScanConfig>() else { continue };
        if let Some(place) = search(config, &names, context, text).await {
            return Some(place);
        }
    }
    None
}

/// The source of a scan as it was before a query asked for columns.
fn whole(source: &Arc<dyn FileSource>) -> Option<Arc<dyn FileSource>> {
    if let Some(scan) = source.downcast_ref::<Scan<Csv>>() {
        return Some(Arc::new(scan.whole()));
    }
    if let Some(scan) = source.downcast_ref::<Scan<Json>>() {
        return Some(Arc::new(scan.whole()));
    }
    if let Some(scan) = source.downcast_ref::<Scan<Arrow>>() {
        return Some(Arc::new(scan.whole()));
    }
    let parquet = source.downcast_ref::<ParquetSource>()?;
    let factory = Arc::clone(parquet.parquet_file_reader_factory()?);
    let source = ParquetSource::new(source.table_schema().clone()).with_parquet_file_reader_factory(factory);
    Some(Arc::new(source))
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Dictionary(_, value) => is_text(value),
        kind => kind.is_string(),
    }
}

async fn search(
    config: &FileScanConfig,
    names: &HashSet<String>,
    context: &Arc<TaskContext>,
    text: &str,
) -> Option<String> {
    let source = whole(config.file_source())?;
    let schema: &Schema = source.table_schema().table_schema();
    let wanted = |at: &usize| {
        let field = schema.field(*at);
        names.contains(field.name()) && is_text(field.data_type())
    };
    let columns: Vec<usize> = (0..source.table_schema().file_schema().fields().len()).filter(wanted).collect();
    if columns.is_empty() {
        return None;
    }
    let source = source.try_pushdown_projection(&ProjectionExprs::from_indices(&columns, schema)).ok()??;
    let mut files: Vec<PartitionedFile> = config.file_groups.iter().flat_map(|group| group.files()).cloned().collect();
    files.sort_by(|a, b| a.object_meta.location.cmp(&b.object_meta.location));
    files.dedup_by(|a, b| a.object_meta.location == b.object_meta.location);
    for mut file in files {
        file.range = None;
        let name = display(&file.object_meta);
        let one = FileScanConfigBuilder::from(config.clone())
            .with_source(Arc::clone(&source))
            .with_limit(None)
            .with_file_groups(vec![FileGroup::new(vec![file])])
            .build();
        let mut batches = DataSourceExec::from_data_source(one).execute(0, Arc::clone(context)).ok()?;
        let mut before = 0;
        while let Some(Ok(batch)) = batches.next().await {
            let mut found: Option<(usize, usize)> = None;
            for (at, column) in batch.columns().iter().enumerate() {
                let texts = cast(column, &DataType::Utf8View).ok()?;
                let row = texts.as_string_view().iter().position(|value| value == Some(text));
                found = found.into_iter().chain(row.map(|row| (row, at))).min();
            }
            if let Some((row, at)) = found {
                let column = schema.field(columns[at]).name();
                return Some(format!("{name}, row {}, column {column}", before + row + 1));
            }
            before += batch.num_rows();
        }
    }
    None
}
