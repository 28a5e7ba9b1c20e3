//! A materialized view over growing tables.
//!
//! Enters: its plan. Leaves: a table that queries are planned over, and that no optimiser looks through.
//! Always holds: whatever reads it reads one result, which a pipeline computes once.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result as DfResult;
use datafusion::common::tree_node::Transformed;
use datafusion::datasource::{TableType, provider_as_source, source_as_provider};
use datafusion::logical_expr::{Expr, LogicalPlan, TableScan};
use datafusion::physical_plan::ExecutionPlan;

use crate::error::{Error, Result};

/// The view as a table.
#[derive(Debug)]
pub struct Maintained {
    plan: LogicalPlan,
}

impl Maintained {
    /// The view of that plan.
    pub fn new(plan: LogicalPlan) -> Self {
        Self { plan }
    }

    /// What it shows.
    pub fn plan(&self) -> &LogicalPlan {
        &self.plan
    }
}

/// The plan with each view that it reads replaced by what `change` makes of its plan.
pub fn map_views(plan: LogicalPlan, change: &dyn Fn(&LogicalPlan) -> Result<LogicalPlan>) -> Result<LogicalPlan> {
    let mapped = plan.transform_down_with_subqueries(|node| {
        let LogicalPlan::TableScan(scan) = node else { return Ok(Transformed::no(node)) };
        let table = source_as_provider(&scan.source)?;
        let Some(view) = table.downcast_ref::<Maintained>() else {
            return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
        };
        let source = provider_as_source(Arc::new(Maintained::new(change(view.plan())?)));
        Ok(Transformed::yes(LogicalPlan::TableScan(TableScan { source, ..scan })))
    });
    Ok(mapped?.data)
}

#[async_trait]
impl TableProvider for Maintained {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.plan.schema().inner())
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        _projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Err(Error::query("a view over growing tables cannot be read as a whole").into())
    }
}
