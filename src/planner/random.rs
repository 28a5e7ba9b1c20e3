//! random() and uuid() of a pipeline.
//!
//! Enters: an optimised plan. Leaves: the same, with each call in a projection of its own beneath the node that makes it.
//! Always holds: a call becomes a column of rows that are never taken back; what is above it has its value and not the
//! call, so that a value that was given once is the value from then on.

use std::sync::Arc;

use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan, Projection};

use super::differentiate::is_continuous;
use crate::error::{Error, Result};

/// What a call gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chance {
    /// `random()`: a float from 0 up to 1.
    Random,
    /// `uuid()`: a text.
    Uuid,
}

fn chance(expr: &Expr) -> Option<Chance> {
    let Expr::ScalarFunction(call) = expr else { return None };
    match call.func.name() {
        "random" => Some(Chance::Random),
        "uuid" => Some(Chance::Uuid),
        _ => None,
    }
}

/// The calls of a projection that was made here, which stand behind all columns of its input.
pub(super) fn calls(projection: &Projection) -> Vec<Chance> {
    let alias = |expr: &Expr| match expr {
        Expr::Alias(alias) => chance(&alias.expr),
        _ => None,
    };
    projection.expr.iter().filter_map(alias).collect()
}

/// Puts calls into projections of their own.
pub fn with_calls_beneath(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(plan.transform_up_with_subqueries(|node| Ok(beneath(node)?))?.data)
}

fn beneath(node: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let has_call = |expr: &Expr| Ok(expr.exists(|expr| Ok(chance(expr).is_some()))?);
    let exprs = node.expressions();
    if !exprs.iter().map(has_call).collect::<Result<Vec<bool>>>()?.contains(&true) || !is_continuous(&node)? {
        return Ok(Transformed::no(node));
    }
    let [input] = node.inputs()[..] else {
        return Err(Error::sql("random() or uuid() in the condition of a join of growing tables")
            .hint("compute it in a subquery over one of the tables, and compare with its column"));
    };
    let mut below: Vec<Expr> = input.schema().iter().map(|field| Expr::Column(Column::from(field))).collect();
    let columns = below.len();
    let named = matches!(node, LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_));
    let mut above = Vec::new();
    for expr in exprs {
        let name = expr.schema_name().to_string();
        let replaced = expr.transform_up(|expr| {
            if chance(&expr).is_none() {
                return Ok(Transformed::no(expr));
            }
            let place = format!("fuse random {}", below.len() - columns);
            below.push(expr.alias(&place));
            Ok(Transformed::yes(Expr::Column(Column::from_name(place))))
        })?;
        let keeps = !named || !replaced.transformed || matches!(replaced.data, Expr::Alias(_));
        above.push(if keeps { replaced.data } else { replaced.data.alias(name) });
    }
    let below = LogicalPlan::Projection(Projection::try_new(below, Arc::new(input.clone()))?);
    let shown: Vec<Expr> = node.schema().iter().map(|field| Expr::Column(Column::from(field))).collect();
    let mended = node.with_new_exprs(above, vec![below])?;
    if named {
        return Ok(Transformed::yes(mended));
    }
    Ok(Transformed::yes(LogicalPlan::Projection(Projection::try_new(shown, Arc::new(mended))?)))
}

/// Refuses calls in what is computed anew from all input: they would give other values each time.
pub(super) fn refuse(plan: &LogicalPlan, reason: &str) -> Result<()> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            found |= expr.exists(|expr| Ok(chance(expr).is_some()))?;
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    if !found {
        return Ok(());
    }
    Err(Error::sql("random() or uuid() in what is computed anew at each change would have another value each time")
        .note(format!("it is computed anew: {reason}"))
        .hint("compute it in a subquery over the growing table alone"))
}

/// What is said of calls over rows that may be taken back.
pub(super) fn taken_back() -> Error {
    Error::sql("random() or uuid() over rows that may be taken back again")
        .note("a row that is taken back has to be found by its value, and that would be another one then")
        .hint("compute it in a subquery over the growing table alone, before rows are joined, grouped or limited")
}
