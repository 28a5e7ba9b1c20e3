//! Scans of Parquet that keep NaN.
//!
//! Enters: a physical plan, after all other rules. Leaves: the same plan, but row groups and pages are not skipped
//! by a predicate that NaN may satisfy. Always holds: the rows are those that the predicate's own evaluation keeps.
//!
//! In SQL, NaN is larger than all numbers. The minimum and maximum that Parquet files store leave it out, so
//! `x > 5` would skip a row group of `1, 2, NaN`.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::datasource::physical_plan::{FileScanConfigBuilder, FileSource, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{
    BinaryExpr, CastExpr, Column, DynamicFilterPhysicalExpr, InListExpr, IsNotNullExpr, IsNullExpr, Literal, lit,
};
use datafusion::physical_expr::{conjunction, split_conjunction};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

/// Takes from the predicates of Parquet scans what would skip NaN. Their filters evaluate it all the same.
#[derive(Debug, Default)]
pub(super) struct KeepNan;

impl PhysicalOptimizerRule for KeepNan {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> DfResult<Arc<dyn ExecutionPlan>> {
        let change = |node: Arc<dyn ExecutionPlan>| {
            let changed = node.downcast_ref::<DataSourceExec>().and_then(keep_nan);
            Ok(match changed {
                Some(changed) => Transformed::yes(changed as Arc<dyn ExecutionPlan>),
                None => Transformed::no(node),
            })
        };
        plan.transform_up(change).data()
    }

    fn name(&self) -> &str {
        "keep_nan"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn keep_nan(scan: &DataSourceExec) -> Option<Arc<DataSourceExec>> {
    let (config, source) = scan.downcast_to_file_source::<ParquetSource>()?;
    let predicate = &source.filter()?;
    let schema = source.table_schema().table_schema();
    if !has_float(predicate, schema) {
        return None;
    }
    // A scan that is the filter itself keeps what the query says, and skips nothing by it.
    let filters = source.table_parquet_options().global.pushdown_filters;
    let parts = split_conjunction(predicate);
    let keep = |part: &&Arc<dyn PhysicalExpr>| excludes_nan(part, schema) || (filters && !is_dynamic(part));
    let kept: Vec<_> = parts.iter().copied().filter(keep).cloned().collect();
    if kept.len() == parts.len() && !filters {
        return None;
    }
    let mut options = source.table_parquet_options().clone();
    options.global.pruning &= !filters;
    options.global.enable_page_index &= !filters;
    let predicate = if kept.is_empty() { lit(true) } else { conjunction(kept) };
    let changed = source.with_predicate(predicate).with_table_parquet_options(options);
    let config = FileScanConfigBuilder::from(config.clone()).with_source(Arc::new(changed)).build();
    Some(DataSourceExec::from_data_source(config))
}

/// True for what a sort or a join finds out while it runs. They do not rely on it.
fn is_dynamic(expr: &Arc<dyn PhysicalExpr>) -> bool {
    expr.exists(|node| Ok(node.downcast_ref::<DynamicFilterPhysicalExpr>().is_some())).unwrap_or(true)
}

/// True if an expression reads a column of floats.
fn has_float(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    let float = |node: &Arc<dyn PhysicalExpr>| {
        let column = node.downcast_ref::<Column>();
        Ok(column.is_some_and(|column| {
            schema.field_with_name(column.name()).is_ok_and(|field| field.data_type().is_floating())
        }))
    };
    expr.exists(float).unwrap_or(true)
}

/// True if no row with NaN satisfies a predicate, as far as it is about floats.
fn excludes_nan(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    if !has_float(expr, schema) || expr.downcast_ref::<IsNullExpr>().is_some() {
        return true;
    }
    if let Some(null) = expr.downcast_ref::<IsNotNullExpr>() {
        return is_column(null.arg());
    }
    if let Some(list) = expr.downcast_ref::<InListExpr>() {
        return !list.negated() && is_column(list.expr()) && list.list().iter().all(is_number);
    }
    let Some(binary) = expr.downcast_ref::<BinaryExpr>() else { return false };
    let (left, right) = (binary.left(), binary.right());
    match binary.op() {
        Operator::And | Operator::Or => excludes_nan(left, schema) && excludes_nan(right, schema),
        Operator::Eq => (is_column(left) && is_number(right)) || (is_number(left) && is_column(right)),
        Operator::Lt | Operator::LtEq => is_column(left) && is_number(right),
        Operator::Gt | Operator::GtEq => is_number(left) && is_column(right),
        _ => false,
    }
}

/// A column, or one in another type.
fn is_column(expr: &Arc<dyn PhysicalExpr>) -> bool {
    match expr.downcast_ref::<CastExpr>() {
        Some(cast) => is_column(cast.expr()),
        None => expr.downcast_ref::<Column>().is_some(),
    }
}

/// A constant that is not NaN.
fn is_number(expr: &Arc<dyn PhysicalExpr>) -> bool {
    expr.downcast_ref::<Literal>().is_some_and(|literal| match literal.value() {
        ScalarValue::Float16(value) => value.is_none_or(|value| !value.is_nan()),
        ScalarValue::Float32(value) => value.is_none_or(|value| !value.is_nan()),
        ScalarValue::Float64(value) => value.is_none_or(|value| !value.is_nan()),
        value => value.data_type().is_numeric(),
    })
}
