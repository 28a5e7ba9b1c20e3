//! How often views are planned.
//!
//! Enters: a plan, each view in it replaced by its query. Leaves: how many tables it reads. Always holds: shared parts
//! are looked at once: twenty views that each read the one before twice are a million tables.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::sql::parser::Statement as Body;
use datafusion::sql::sqlparser::ast::visit_relations;

use crate::config::INLINED_TABLES_LIMIT;
use crate::error::{Error, Result};

/// Refuses a plan that reads far more tables than the statement names.
pub(super) fn refuse_many(body: &Body, plan: &LogicalPlan) -> Result<()> {
    let reads = reads(plan, &mut HashMap::new())?;
    if reads <= INLINED_TABLES_LIMIT {
        return Ok(());
    }
    // The parser allows as many for the queries of WITH.
    if reads > named(body).saturating_add(2 * INLINED_TABLES_LIMIT) {
        return Err(Error::sql(format!(
            "the views of this statement read tables over {INLINED_TABLES_LIMIT} times, each name replaced by its query"
        ))
        .hint("CREATE TABLE … AS computes once what is read often"));
    }
    Ok(())
}

/// The tables that a statement names.
fn named(body: &Body) -> u64 {
    let mut count = 0_u64;
    if let Body::Statement(sql) = body {
        let _ = visit_relations(sql.as_ref(), |_| {
            count += 1;
            ControlFlow::<()>::Continue(())
        });
    }
    count
}

fn reads(plan: &LogicalPlan, known: &mut HashMap<*const LogicalPlan, u64>) -> Result<u64> {
    let here = std::ptr::from_ref(plan);
    if let Some(count) = known.get(&here) {
        return Ok(*count);
    }
    let mut count = u64::from(matches!(plan, LogicalPlan::TableScan(_)));
    for input in plan.inputs() {
        count = count.saturating_add(reads(input, known)?);
    }
    let mut subqueries = Vec::new();
    plan.apply_expressions(|expr| {
        expr.apply(|node| {
            subqueries.extend(match node {
                Expr::ScalarSubquery(subquery) => Some(subquery.clone()),
                Expr::InSubquery(found) => Some(found.subquery.clone()),
                Expr::Exists(found) => Some(found.subquery.clone()),
                _ => None,
            });
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    for subquery in &subqueries {
        count = count.saturating_add(reads(&subquery.subquery, known)?);
    }
    known.insert(here, count);
    Ok(count)
}
