//! What fuse changes about a physical plan.
//!
//! Enters: DataFusion's plan. Leaves: the same, but a hash join builds on the side of fewer rows, and a sort of which
//! very many rows are kept sorts them all. Always holds: the rows are the same, and their order where they have one.

use std::sync::Arc;

use datafusion::common::Result as DfResult;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode};
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};

use super::checked::CheckArithmetic;
use super::conjunction::CompareAll;
use super::nan::KeepNan;
use super::texts::CompareViews;
use crate::config::TOP_ROWS_IN_MEMORY;

/// DataFusion's rules with ours among them, each at its place.
pub fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    rules.insert(0, Arc::new(CheckArithmetic));
    let behind = rules.iter().position(|rule| rule.name() == "join_selection").map_or(0, |at| at + 1);
    rules.insert(behind, Arc::new(SmallerBuild));
    rules.push(Arc::new(SpillLargeTops));
    rules.push(Arc::new(KeepNan));
    rules.push(Arc::new(CompareAll));
    rules.push(Arc::new(CompareViews));
    rules
}

/// DataFusion compares the sides of a join by bytes where it knows them, and believes that a semi join has the bytes
/// of all that it reads; what a build costs is its rows. TPC-H q21: 60,000 rows instead of 3.8 million.
#[derive(Debug, Default)]
struct SmallerBuild;

/// A build side of so many times the rows of the other is exchanged.
const TOO_MANY: usize = 4;

impl PhysicalOptimizerRule for SmallerBuild {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> DfResult<Arc<dyn ExecutionPlan>> {
        let rows = |side: &Arc<dyn ExecutionPlan>| -> DfResult<Option<usize>> {
            let statistics = StatisticsContext::new().compute(side.as_ref(), &StatisticsArgs::new())?;
            Ok(statistics.num_rows.get_value().copied())
        };
        let exchange = |node: Arc<dyn ExecutionPlan>| {
            let Some(join) = node.downcast_ref::<HashJoinExec>() else { return Ok(Transformed::no(node)) };
            let partitioned = *join.partition_mode() == PartitionMode::Partitioned;
            if !partitioned || join.null_aware || !join.join_type().supports_swap() {
                return Ok(Transformed::no(node));
            }
            match (rows(join.left())?, rows(join.right())?) {
                (Some(left), Some(right)) if right > 0 && left / TOO_MANY > right => {
                    Ok(Transformed::yes(join.swap_inputs(PartitionMode::Partitioned)?))
                }
                _ => Ok(Transformed::no(node)),
            }
        };
        plan.transform_up(exchange).data()
    }

    fn name(&self) -> &str {
        "smaller_build"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// `ORDER BY … LIMIT 10 OFFSET 5000000` keeps five million rows. DataFusion would hold them in a heap that
/// cannot spill; a whole sort can.
#[derive(Debug, Default)]
struct SpillLargeTops;

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
