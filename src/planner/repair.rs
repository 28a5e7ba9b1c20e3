//! Plans that DataFusion would answer wrongly, or not at all, in other words.
//!
//! Enters: DataFusion's logical plan, before its optimizer. Leaves: a plan of ordinary nodes with the answer
//! of the standard. Always holds: names and types of the columns stay.
//!
//! - INTERSECT ALL and EXCEPT ALL count: equal rows are numbered on both sides, and the number is joined too.
//! - A correlated `x NOT IN (…)` knows NULL: it is NOT EXISTS of a row for which `x = y` is not false.
//! - IN and EXISTS outside of WHERE become scalar subqueries that count.
//! - What is ordered by twice, within an aggregate or by DISTINCT ON, is ordered by once.
//! - GROUP BY, DISTINCT and PARTITION BY take -0.0 and 0.0 for one value, and so every NaN.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion, TreeNodeRewriter};
use datafusion::common::{Column, DFSchema, ExprSchema, NullEquality, Result as DfResult, ScalarValue};
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::{
    Distinct, Expr, ExprFunctionExt, ExprSchemable, Filter, Join, JoinType, LogicalPlan, LogicalPlanBuilder, Operator,
    SortExpr, Subquery, lit, not, when,
};

use super::floats::{keys_of_one_form, of_one_form, one_form, rows_of_one_form};
use crate::error::Result;

/// Mends a plan.
pub(super) fn repair(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(plan.transform_up_with_subqueries(mend)?.data)
}

fn mend(node: LogicalPlan) -> DfResult<Transformed<LogicalPlan>> {
    match node {
        LogicalPlan::Join(join) if counts(&join) => Ok(Transformed::yes(numbered(join)?)),
        LogicalPlan::Filter(filter) => {
            let schema = Arc::clone(filter.input.schema());
            let mended = filter_terms(filter.predicate.clone(), &schema, true)?;
            if !mended.transformed {
                return Ok(Transformed::no(LogicalPlan::Filter(filter)));
            }
            Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(mended.data, filter.input)?)))
        }
        node if node.subqueries_in_expressions()? => values(node),
        LogicalPlan::Distinct(Distinct::All(input)) => {
            Ok(rows_of_one_form(input)?.update_data(|input| LogicalPlan::Distinct(Distinct::All(input))))
        }
        LogicalPlan::Distinct(Distinct::On(mut on)) => {
            let repeats = on.sort_expr.as_mut().is_some_and(order_once);
            Ok(Transformed::new_transformed(LogicalPlan::Distinct(Distinct::On(on)), repeats))
        }
        LogicalPlan::Aggregate(aggregate) => {
            let Transformed { data: aggregate, transformed: keys, .. } = keys_of_one_form(aggregate)?;
            let schema = Arc::clone(aggregate.input.schema());
            let mended = calls(LogicalPlan::Aggregate(aggregate), &|expr| match expr {
                Expr::AggregateFunction(function) => {
                    let repeats = order_once(&mut function.params.order_by);
                    if !function.params.distinct {
                        return Ok(repeats);
                    }
                    let by = function.params.order_by.iter_mut().map(|by| &mut by.expr);
                    Ok(one_form(function.params.args.iter_mut().chain(by), &schema)? || repeats)
                }
                _ => Ok(false),
            })?;
            Ok(Transformed::new_transformed(mended.data, mended.transformed || keys))
        }
        LogicalPlan::Window(window) => {
            let schema = Arc::clone(window.input.schema());
            calls(LogicalPlan::Window(window), &|expr| match expr {
                Expr::WindowFunction(function) => one_form(&mut function.params.partition_by, &schema),
                _ => Ok(false),
            })
        }
        node => Ok(Transformed::no(node)),
    }
}

/// Drops what rows are equal by already; true if there was any. DataFusion's accumulators count on it.
fn order_once(order: &mut Vec<SortExpr>) -> bool {
    let all = order.len();
    let mut known: Vec<Expr> = Vec::new();
    order.retain(|by| {
        let new = !known.contains(&by.expr);
        known.push(by.expr.clone());
        new
    });
    order.len() < all
}

/// The node with its calls mended, under their names. `mend` tells whether it changed one.
fn calls(node: LogicalPlan, mend: &dyn Fn(&mut Expr) -> DfResult<bool>) -> DfResult<Transformed<LogicalPlan>> {
    node.map_expressions(|expr| {
        let name = expr.schema_name().to_string();
        let mended = expr.transform_up(|mut expr| {
            let changed = mend(&mut expr)?;
            Ok(Transformed::new_transformed(expr, changed))
        })?;
        Ok(if mended.transformed { mended.update_data(|expr| under_name(expr, name)) } else { mended })
    })
}

trait HasSubqueries {
    fn subqueries_in_expressions(&self) -> DfResult<bool>;
}

impl HasSubqueries for LogicalPlan {
    fn subqueries_in_expressions(&self) -> DfResult<bool> {
        let mut found = false;
        self.apply_expressions(|expr| {
            found |= expr.exists(|expr| Ok(matches!(expr, Expr::InSubquery(_) | Expr::Exists(_))))?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(found)
    }
}

/// True for the join of INTERSECT ALL or EXCEPT ALL. Nothing else compares NULLs as equal at this stage;
/// where the left side is distinct already, there is nothing to count. A view's rows are numbered since it was made.
fn counts(join: &Join) -> bool {
    matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti)
        && join.null_equality == NullEquality::NullEqualsNull
        && !matches!(join.left.as_ref(), LogicalPlan::Distinct(_))
        && !join.left.schema().has_column_with_unqualified_name(LEFT_NUMBER)
}

/// Columns that number equal rows.
const LEFT_NUMBER: &str = "fuse left";
const RIGHT_NUMBER: &str = "fuse right";

fn numbered(join: Join) -> DfResult<LogicalPlan> {
    let side = |plan: &LogicalPlan, name: &str| -> DfResult<LogicalPlan> {
        let column = |field| {
            let column = Expr::Column(Column::from(field));
            Ok(of_one_form(&column, plan.schema())?.unwrap_or(column))
        };
        let columns = plan.schema().iter().map(column).collect::<DfResult<_>>()?;
        let number = row_number().partition_by(columns).build()?;
        LogicalPlanBuilder::from(plan.clone()).window(vec![number.alias(name)])?.build()
    };
    let (left, right) = (side(&join.left, LEFT_NUMBER)?, side(&join.right, RIGHT_NUMBER)?);
    let column = |expr: &Expr| match expr {
        Expr::Column(column) => Ok(column.clone()),
        other => datafusion::common::plan_err!("a set operation on {other}"),
    };
    let mut lefts = join.on.iter().map(|(left, _)| column(left)).collect::<DfResult<Vec<_>>>()?;
    let mut rights = join.on.iter().map(|(_, right)| column(right)).collect::<DfResult<Vec<_>>>()?;
    lefts.push(Column::from_name(LEFT_NUMBER));
    rights.push(Column::from_name(RIGHT_NUMBER));
    let shown: Vec<Expr> = join.left.schema().iter().map(|field| Expr::Column(Column::from(field))).collect();
    LogicalPlanBuilder::from(left)
        .join_detailed(right, join.join_type, (lefts, rights), None, join.null_equality)?
        .project(shown)?
        .build()
}

/// The terms of WHERE: below AND and OR, an unknown IN is as good as a false one. `top`: below AND only, where
/// DataFusion plans an uncorrelated NOT IN as a join that knows NULL.
fn filter_terms(expr: Expr, schema: &DFSchema, top: bool) -> DfResult<Transformed<Expr>> {
    match expr {
        Expr::BinaryExpr(mut both) if matches!(both.op, Operator::And | Operator::Or) => {
            let top = top && both.op == Operator::And;
            let left = filter_terms(*both.left, schema, top)?;
            let right = filter_terms(*both.right, schema, top)?;
            let transformed = left.transformed || right.transformed;
            (both.left, both.right) = (Box::new(left.data), Box::new(right.data));
            Ok(Transformed::new_transformed(Expr::BinaryExpr(both), transformed))
        }
        Expr::Not(inner) => match *inner {
            Expr::InSubquery(test) => {
                filter_terms(Expr::InSubquery(InSubquery { negated: !test.negated, ..test }), schema, top)
            }
            Expr::Exists(_) => Ok(Transformed::no(Expr::Not(inner))),
            other => three_valued(Expr::Not(Box::new(other)), schema),
        },
        Expr::InSubquery(test) if test.negated && is_correlated(&test.subquery) && knows_null(&test, schema)? => {
            let y = only_column(&test.subquery)?;
            let unequal = y.eq(outer(*test.expr, schema)?);
            let plan = filtered(&test.subquery, Expr::IsNotFalse(Box::new(unequal)))?;
            Ok(Transformed::yes(Expr::Exists(Exists { subquery: plan, negated: true })))
        }
        Expr::InSubquery(test) if test.negated && !top && knows_null(&test, schema)? => {
            Expr::InSubquery(test).rewrite(&mut Counted { schema })
        }
        Expr::InSubquery(_) | Expr::Exists(_) => Ok(Transformed::no(expr)),
        other => three_valued(other, schema),
    }
}

/// IN below anything else, such as CASE or IS NULL, gets its NULL.
fn three_valued(expr: Expr, schema: &DFSchema) -> DfResult<Transformed<Expr>> {
    let in_null = |expr: Expr| match expr {
        Expr::InSubquery(test) if knows_null(&test, schema)? && !is_correlated(&test.subquery) => {
            Expr::InSubquery(test).rewrite(&mut Counted { schema })
        }
        Expr::InSubquery(test) if knows_null(&test, schema)? => {
            let y = only_column(&test.subquery)?;
            let equal = y.eq(outer(Expr::clone(&test.expr), schema)?);
            let exists = |condition: Expr| -> DfResult<Expr> {
                Ok(Expr::Exists(Exists { subquery: filtered(&test.subquery, condition)?, negated: false }))
            };
            let value = when(exists(equal.clone())?, lit(true))
                .when(exists(equal.is_null())?, Expr::Literal(ScalarValue::Boolean(None), None))
                .otherwise(lit(false))?;
            Ok(Transformed::yes(if test.negated { not(value) } else { value }))
        }
        other => Ok(Transformed::no(other)),
    };
    expr.transform_up(in_null)
}

/// IN and EXISTS in a node that is no filter, as numbers of rows. What is no projection gets one beneath.
fn values(node: LogicalPlan) -> DfResult<Transformed<LogicalPlan>> {
    match &node {
        LogicalPlan::Projection(_) => {
            let schema = Arc::clone(node.inputs().first().map_or(node.schema(), |input| input.schema()));
            node.map_expressions(|expr| {
                let name = expr.schema_name().to_string();
                let mended = expr.rewrite(&mut Counted { schema: &schema })?;
                Ok(if mended.transformed { mended.update_data(|expr| under_name(expr, name)) } else { mended })
            })
        }
        LogicalPlan::Aggregate(_) | LogicalPlan::Window(_) | LogicalPlan::Sort(_) => beneath(node),
        _ => Ok(Transformed::no(node)),
    }
}

fn under_name(expr: Expr, name: String) -> Expr {
    if matches!(expr, Expr::Alias(_)) { expr } else { expr.alias(name) }
}

/// Computes the tests in a projection beneath the node.
fn beneath(node: LogicalPlan) -> DfResult<Transformed<LogicalPlan>> {
    let Some(input) = node.inputs().into_iter().next().cloned() else { return Ok(Transformed::no(node)) };
    let schema = Arc::clone(input.schema());
    let mut computed: Vec<Expr> = schema.iter().map(|field| Expr::Column(Column::from(field))).collect();
    let mut exprs = Vec::new();
    for expr in node.expressions() {
        let name = expr.schema_name().to_string();
        let put_aside = |expr: Expr| match expr {
            Expr::InSubquery(_) | Expr::Exists(_) => {
                let place = format!("fuse test {}", computed.len());
                computed.push(expr.rewrite(&mut Counted { schema: &schema })?.data.alias(&place));
                Ok(Transformed::yes(Expr::Column(Column::from_name(place))))
            }
            other => Ok(Transformed::no(other)),
        };
        let mended = expr.transform_up(put_aside)?;
        let sorted = matches!(node, LogicalPlan::Sort(_));
        exprs.push(if mended.transformed && !sorted { under_name(mended.data, name) } else { mended.data });
    }
    let input = LogicalPlanBuilder::from(input).project(computed)?.build()?;
    let shown: Vec<Expr> = node.schema().iter().map(|field| Expr::Column(Column::from(field))).collect();
    let mended = node.with_new_exprs(exprs, vec![input])?;
    Ok(Transformed::yes(LogicalPlanBuilder::from(mended).project(shown)?.build()?))
}

struct Counted<'a> {
    schema: &'a DFSchema,
}

impl TreeNodeRewriter for Counted<'_> {
    type Node = Expr;

    fn f_up(&mut self, expr: Expr) -> DfResult<Transformed<Expr>> {
        match expr {
            Expr::Exists(exists) => {
                let found = rows_of(&exists.subquery, None)?.gt(lit(0_i64));
                Ok(Transformed::yes(if exists.negated { not(found) } else { found }))
            }
            Expr::InSubquery(test) => {
                let y = only_column(&test.subquery)?;
                let x = outer(Expr::clone(&test.expr), self.schema)?;
                let found = rows_of(&test.subquery, Some(y.clone().eq(x)))?.gt(lit(0_i64));
                let null = Expr::Literal(ScalarValue::Boolean(None), None);
                let value = when(rows_of(&test.subquery, None)?.eq(lit(0_i64)), lit(false))
                    .when(test.expr.clone().is_null(), null.clone())
                    .when(found, lit(true))
                    .when(rows_of(&test.subquery, Some(y.is_null()))?.gt(lit(0_i64)), null)
                    .otherwise(lit(false))?;
                Ok(Transformed::yes(if test.negated { not(value) } else { value }))
            }
            other => Ok(Transformed::no(other)),
        }
    }
}

/// `(SELECT count(*) FROM subquery WHERE condition)`.
fn rows_of(subquery: &Subquery, condition: Option<Expr>) -> DfResult<Expr> {
    let subquery = match condition {
        Some(condition) => filtered(subquery, condition)?,
        None => subquery.clone(),
    };
    let plan = LogicalPlanBuilder::from(LogicalPlan::clone(&subquery.subquery));
    let plan = plan.aggregate(Vec::<Expr>::new(), vec![count(lit(1_i64))])?.build()?;
    Ok(Expr::ScalarSubquery(Subquery { subquery: Arc::new(plan), ..subquery }))
}

/// The subquery with one more condition on its rows.
fn filtered(subquery: &Subquery, condition: Expr) -> DfResult<Subquery> {
    let mut outer_ref_columns = subquery.outer_ref_columns.clone();
    condition.apply(|expr| {
        if matches!(expr, Expr::OuterReferenceColumn(..)) && !outer_ref_columns.contains(expr) {
            outer_ref_columns.push(expr.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    let plan = LogicalPlanBuilder::from(LogicalPlan::clone(&subquery.subquery)).filter(condition)?.build()?;
    Ok(Subquery { subquery: Arc::new(plan), outer_ref_columns, spans: subquery.spans.clone() })
}

fn only_column(subquery: &Subquery) -> DfResult<Expr> {
    match subquery.subquery.schema().iter().next() {
        Some(field) => Ok(Expr::Column(Column::from(field))),
        None => datafusion::common::plan_err!("a subquery behind IN has one column"),
    }
}

/// The expression as a subquery sees it.
fn outer(expr: Expr, schema: &DFSchema) -> DfResult<Expr> {
    let refer = |expr: Expr| match expr {
        Expr::Column(column) => {
            let field = Arc::clone(schema.field_from_column(&column)?);
            Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
        }
        other => Ok(Transformed::no(other)),
    };
    Ok(expr.transform_up(refer)?.data)
}

fn is_correlated(subquery: &Subquery) -> bool {
    !subquery.outer_ref_columns.is_empty()
}

/// True if either side of IN may be NULL.
fn knows_null(test: &InSubquery, schema: &DFSchema) -> DfResult<bool> {
    let inner = test.subquery.subquery.schema().fields().iter().any(|field| field.is_nullable());
    Ok(inner || test.expr.nullable(schema)?)
}
