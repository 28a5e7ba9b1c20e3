//! EMIT FINAL.
//!
//! Enters: the plan of a statement over growing tables. Leaves: the same with a node where its rows can be told that do
//! not change any more: above the last operator with a column that a watermark bounds. Always holds: what is above it
//! works row by row, so that its result never changes either.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{Column, DFSchemaRef, Result as DfResult};
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, Sort, UserDefinedLogicalNodeCore};

use super::differentiate::Builder;
use super::event_time::{self, Bound};
use super::maintained::Maintained;
use crate::error::{Error, Result};

/// Rows that are shown when they are final.
#[derive(Debug, Clone)]
pub struct EmitFinal {
    /// The rows.
    pub input: Arc<LogicalPlan>,
    /// Which column tells, and by what it is bounded; nothing before it is known where.
    pub closed: Option<(Column, Bound)>,
}

impl EmitFinal {
    /// A statement that asks for it.
    pub fn plan(input: LogicalPlan) -> LogicalPlan {
        Self::node(input, None)
    }

    fn node(input: LogicalPlan, closed: Option<(Column, Bound)>) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(Self { input: Arc::new(input), closed }) })
    }

    /// The node that it is, if it is one.
    pub fn of(plan: &LogicalPlan) -> Option<&Self> {
        let LogicalPlan::Extension(extension) = plan else { return None };
        extension.node.as_any().downcast_ref::<Self>()
    }
}

/// True if the plan, or a view that it reads, has such a node.
pub fn emits_final(plan: &LogicalPlan) -> Result<bool> {
    let (mut found, mut views) = (false, Vec::new());
    plan.apply_with_subqueries(|node| {
        found |= EmitFinal::of(node).is_some();
        if let LogicalPlan::TableScan(scan) = node
            && let Some(view) = source_as_provider(&scan.source)?.downcast_ref::<Maintained>()
        {
            views.push(view.plan().clone());
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    for view in &views {
        found = found || emits_final(view)?;
    }
    Ok(found)
}

/// Moves the node of an optimised plan to where it belongs.
pub fn place_final(plan: LogicalPlan) -> Result<LogicalPlan> {
    let placed = plan.transform_down_with_subqueries(|node| match EmitFinal::of(&node) {
        Some(EmitFinal { input, closed: None }) => Ok(Transformed::yes(placed(input)?.ok_or_else(nothing_closes)?)),
        _ => Ok(Transformed::no(node)),
    });
    Ok(placed?.data)
}

fn nothing_closes() -> Error {
    Error::sql("EMIT FINAL wants windows of a time that has a watermark")
        .note("a row is final when the watermark has passed its window")
        .hint(
            "WATERMARK FOR ts AS … in CREATE STREAM, and GROUP BY window_start, window_end of a TUMBLE, HOP or SESSION",
        )
}

fn placed(plan: &LogicalPlan) -> Result<Option<LogicalPlan>> {
    // The order of the result is looked for at the top.
    let sorts = matches!(plan, LogicalPlan::Sort(Sort { fetch: None, .. }));
    if let Some(closed) = if sorts { None } else { closed(plan)? } {
        return Ok(Some(EmitFinal::node(plan.clone(), Some(closed))));
    }
    let input = match plan {
        LogicalPlan::Projection(projection) => &projection.input,
        LogicalPlan::Filter(filter) => &filter.input,
        LogicalPlan::SubqueryAlias(alias) => &alias.input,
        LogicalPlan::Sort(Sort { input, fetch: None, .. }) => input,
        _ => return Ok(None),
    };
    let Some(input) = placed(input)? else { return Ok(None) };
    Ok(Some(plan.with_new_exprs(plan.expressions(), vec![input])?))
}

/// The column of a plan that tells which of its rows are final, where they may change before.
fn closed(plan: &LogicalPlan) -> Result<Option<(Column, Bound)>> {
    let mut builder = Builder::default();
    let node = builder.node(plan)?;
    if builder.plan.nodes[node].append_only {
        return Ok(None);
    }
    let bounds = event_time::bounds(&builder.plan)?.swap_remove(node);
    let mut known = bounds.into_iter().enumerate().filter_map(|(at, bound)| Some((at, bound?)));
    let known = known.find(|(_, bound)| !bound.is_empty());
    Ok(known.map(|(at, bound)| (Column::from(plan.schema().qualified_field(at)), bound)))
}

impl PartialEq for EmitFinal {
    fn eq(&self, other: &Self) -> bool {
        let column = |one: &Self| one.closed.as_ref().map(|(column, _)| column.clone());
        self.input == other.input && column(self) == column(other)
    }
}

impl Eq for EmitFinal {}

impl Hash for EmitFinal {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
    }
}

impl PartialOrd for EmitFinal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for EmitFinal {
    fn name(&self) -> &str {
        "EmitFinal"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        self.closed.iter().map(|(column, _)| Expr::Column(column.clone())).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Final rows")
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        let input = inputs.into_iter().next().map_or_else(|| Arc::clone(&self.input), Arc::new);
        Ok(Self { input, closed: self.closed.clone() })
    }
}
