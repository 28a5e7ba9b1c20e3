//! LIKE with several parts, without a regular expression.
//!
//! Enters: optimised logical plans. Leaves: the same, with [`like_in_order`] where it serves. Always holds: rows, names
//! and types stay; a pattern with a fixed beginning stays LIKE, by which Parquet files are pruned.

use std::sync::Arc;

use datafusion::common::Result as DfResult;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

use crate::function::like_in_order;

/// Rewrites `LIKE '%one%two%'`.
#[derive(Debug)]
pub(super) struct LikeInOrder;

impl OptimizerRule for LikeInOrder {
    fn name(&self) -> &str {
        "like_in_order"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, _config: &dyn OptimizerConfig) -> DfResult<Transformed<LogicalPlan>> {
        let inputs = plan.inputs();
        let input = if inputs.is_empty() { Arc::clone(plan.schema()) } else { Arc::new(merge_schema(&inputs)) };
        let names = NamePreserver::new(&plan);
        plan.map_expressions(|expr| {
            let name = names.save(&expr);
            let changed = expr.transform_up(|node| {
                let Expr::Like(like) = &node else { return Ok(Transformed::no(node)) };
                let text = like.expr.get_type(input.as_ref());
                Ok(match text.ok().and_then(|text| like_in_order(like, &text)) {
                    Some(call) => Transformed::yes(call),
                    None => Transformed::no(node),
                })
            })?;
            Ok(changed.update_data(|expr| name.restore(expr)))
        })
    }
}
