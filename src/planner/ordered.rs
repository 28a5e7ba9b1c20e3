//! The order of a result that is shown as a whole.
//!
//! Enters: the optimised plan of a statement. Leaves: the plan of its rows, by what they are sorted, and how many columns
//! at the end are there for that alone. Always holds: an order that cannot be carried is left out, and no row is.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::{Expr, Limit, LogicalPlan, Projection, Sort, SortExpr};

use crate::error::Result;

/// A plan, and the order of its rows.
pub(super) struct Ordered {
    pub(super) plan: LogicalPlan,
    pub(super) sort: Vec<SortExpr>,
    /// Columns at the end that the statement does not have.
    pub(super) hidden: usize,
}

/// Takes the order away from above a plan. `whole`: its rows are shown as a whole, so that columns by which they are
/// sorted and which they do not have are worth carrying.
pub(super) fn ordered(plan: &LogicalPlan, whole: bool) -> Result<Ordered> {
    let (mut below, mut projections) = (plan, Vec::new());
    while let LogicalPlan::Projection(projection) = below {
        projections.push(projection);
        below = &projection.input;
    }
    let (sort, input) = sort_of(below);
    let unordered = || Ordered { plan: plan.clone(), sort: Vec::new(), hidden: 0 };
    if !projections.is_empty() && (!whole || sort.iter().any(|by| by.expr.is_volatile())) {
        return Ok(unordered());
    }
    let (mut sort, mut plan, columns) = (sort, input.clone(), plan.schema().fields().len());
    if sort.is_empty() && !projections.is_empty() {
        return Ok(unordered());
    }
    for projection in projections.into_iter().rev() {
        let mut exprs = projection.expr.clone();
        for (at, by) in sort.iter_mut().enumerate() {
            let known = projection.expr.iter().position(|expr| expr.clone().unalias() == by.expr);
            let column = match known {
                Some(at) => Column::from(projection.schema.qualified_field(at)),
                None => {
                    let name = format!("fuse order {at}");
                    exprs.push(by.expr.clone().alias(&name));
                    Column::from_name(name)
                }
            };
            by.expr = Expr::Column(column);
        }
        plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(plan))?);
    }
    let hidden = plan.schema().fields().len() - columns;
    Ok(Ordered { plan, sort, hidden })
}

/// By what a plan sorts its rows, and what gives the same rows.
fn sort_of(plan: &LogicalPlan) -> (Vec<SortExpr>, &LogicalPlan) {
    match plan {
        LogicalPlan::Sort(Sort { expr, input, fetch: None }) => (expr.clone(), input.as_ref()),
        LogicalPlan::Sort(Sort { expr, .. }) => (expr.clone(), plan),
        LogicalPlan::Limit(Limit { input, .. }) => match input.as_ref() {
            LogicalPlan::Sort(Sort { expr, .. }) => (expr.clone(), plan),
            _ => (Vec::new(), plan),
        },
        plan => (Vec::new(), plan),
    }
}

/// Puts LIMIT and OFFSET beneath projections, where the order is that they count by.
pub(super) fn with_limits_at_sorts(plan: LogicalPlan) -> Result<LogicalPlan> {
    let sunk = plan.transform_down(|node| {
        let LogicalPlan::Limit(limit) = &node else { return Ok(Transformed::no(node)) };
        let LogicalPlan::Projection(projection) = limit.input.as_ref() else { return Ok(Transformed::no(node)) };
        let limit = LogicalPlan::Limit(Limit { input: Arc::clone(&projection.input), ..limit.clone() });
        let projection = LogicalPlan::Projection(projection.clone());
        Ok(Transformed::yes(projection.with_new_exprs(projection.expressions(), vec![limit])?))
    })?;
    Ok(sunk.data)
}
