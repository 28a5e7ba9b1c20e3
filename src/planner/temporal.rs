//! Conditions on the time of the epoch.
//!
//! Enters: the condition of a filter. Leaves: the parts that compare a row with the time, and the rest. Always holds:
//! together they say what the condition says.

use std::fmt;

use datafusion::common::DFSchemaRef;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator};

use crate::error::Result;
use crate::function::is_epoch_time;

/// `row > time`, `row <= time` and the like.
#[derive(Debug, Clone)]
pub struct TimeBound {
    /// What depends on the row alone.
    pub row: Expr,
    /// What depends on the time alone.
    pub time: Expr,
    /// What both are over.
    pub input: DFSchemaRef,
    /// The row has to be greater, and not less.
    pub row_is_greater: bool,
    /// Or equal.
    pub or_equal: bool,
    /// Later times never come to less.
    pub rises: bool,
}

impl fmt::Display for TimeBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, equal) = (if self.row_is_greater { '>' } else { '<' }, if self.or_equal { "=" } else { "" });
        write!(f, "{} {sign}{equal} {}", self.row, self.time)
    }
}

/// A condition, taken apart.
pub(super) struct Parts {
    /// What does not depend on the time.
    pub(super) rest: Option<Expr>,
    pub(super) bounds: Vec<TimeBound>,
    /// What depends on the time in another way.
    pub(super) others: Option<Expr>,
}

/// True if it depends on the time.
pub(super) fn depends(expr: &Expr) -> Result<bool> {
    Ok(expr.exists(|expr| Ok(is_epoch_time(expr)))?)
}

/// True if an expression of the plan depends on the time.
pub fn depends_on_time(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            found |= expr.exists(|expr| Ok(is_epoch_time(expr)))?;
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(found)
}

/// Takes a condition apart.
pub(super) fn parts(predicate: &Expr, input: &DFSchemaRef) -> Result<Parts> {
    let (mut rest, mut bounds, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for part in split_conjunction_owned(predicate.clone()) {
        let split = match part {
            Expr::Between(between) if !between.negated => {
                vec![between.expr.clone().gt_eq(*between.low), between.expr.lt_eq(*between.high)]
            }
            part => vec![part],
        };
        for part in split {
            if !depends(&part)? {
                rest.push(part);
            } else if let Some(bound) = bound(&part, input)? {
                bounds.push(bound);
            } else {
                others.push(part);
            }
        }
    }
    Ok(Parts { rest: conjunction(rest), bounds, others: conjunction(others) })
}

fn bound(part: &Expr, input: &DFSchemaRef) -> Result<Option<TimeBound>> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = part else { return Ok(None) };
    let (greater, or_equal) = match op {
        Operator::Gt => (true, false),
        Operator::GtEq => (true, true),
        Operator::Lt => (false, false),
        Operator::LtEq => (false, true),
        _ => return Ok(None),
    };
    let only_time = |expr: &Expr| -> Result<bool> { Ok(depends(expr)? && expr.column_refs().is_empty()) };
    let (row, time, row_is_greater) = if only_time(right)? && !depends(left)? {
        (left, right, greater)
    } else if only_time(left)? && !depends(right)? {
        (right, left, !greater)
    } else {
        return Ok(None);
    };
    let rises = rises(time);
    let (row, time) = (row.as_ref().clone(), time.as_ref().clone());
    Ok(Some(TimeBound { row, time, input: DFSchemaRef::clone(input), row_is_greater, or_equal, rises }))
}

/// True for the time itself, and for it plus or minus a constant: later times never come to less.
fn rises(expr: &Expr) -> bool {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus | Operator::Minus, right }) => {
            rises(left) && matches!(right.as_ref(), Expr::Literal(..))
        }
        Expr::Cast(cast) => rises(&cast.expr),
        Expr::ScalarFunction(call) if call.func.name() == "current_time" => false,
        expr => is_epoch_time(expr),
    }
}
