//! What fuse changes about a physical plan.
//!
//! Enters: DataFusion's plan, after its own rules. Leaves: the same, but a sort of which very many rows are
//! kept sorts them all. Always holds: the rows and their order are the same.

use std::sync::Arc;

use datafusion::common::Result as DfResult;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::sorts::sort::SortExec;

use crate::config::TOP_ROWS_IN_MEMORY;

/// `ORDER BY … LIMIT 10 OFFSET 5000000` keeps five million rows. DataFusion would hold them in a heap that
/// cannot spill; a whole sort can.
#[derive(Debug, Default)]
pub struct SpillLargeTops;

impl PhysicalOptimizerRule for SpillLargeTops {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> DfResult<Arc<dyn ExecutionPlan>> {
        let whole = |node: Arc<dyn ExecutionPlan>| match node.downcast_ref::<SortExec>() {
            Some(sort) if sort.fetch().is_some_and(|rows| rows > TOP_ROWS_IN_MEMORY) => {
                let rows = sort.fetch().unwrap_or(usize::MAX);
                let sorted = Arc::new(sort.with_fetch(None));
                Ok(Transformed::yes(Arc::new(LocalLimitExec::new(sorted, rows)) as Arc<dyn ExecutionPlan>))
            }
            _ => Ok(Transformed::no(node)),
        };
        plan.transform_up(whole).data()
    }

    fn name(&self) -> &str {
        "spill_large_tops"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
