//! What a window node computes by, and how far.
//!
//! Enters: window nodes, and the predicate above. Leaves: the partitions that can be computed by themselves; which
//! rows of a ranking are ever wanted; how far functions look. Always holds: where it is not sure, the answer is the larger one.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use arrow::row::{RowConverter, SortField};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    AggregateUDF, BinaryExpr, Expr, ExprSchemable, Filter, LogicalPlan, Operator, Projection, SortExpr, SubqueryAlias,
    Window, WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition,
};

use super::placeholder::Placeholder;
use crate::error::Result;

/// A function that numbers the rows of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// `row_number()`.
    RowNumber,
    /// `rank()`.
    Rank,
    /// `dense_rank()`.
    DenseRank,
}

/// Only rows up to a number are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RankLimit {
    /// Which of the functions gives the number.
    pub rank: usize,
    /// The largest number that is wanted.
    pub rows: u64,
}

fn function(expr: &Expr) -> Option<&WindowFunction> {
    match expr {
        Expr::Alias(alias) => function(&alias.expr),
        Expr::WindowFunction(function) => Some(function),
        _ => None,
    }
}

/// The expressions by which all functions of a node partition: rows that differ in them do not see each other.
pub(super) fn partition(window: &Window) -> Vec<Expr> {
    let mut all = window.window_expr.iter().map(|expr| function(expr).map(|function| &function.params.partition_by));
    let first = all.next().flatten().cloned().unwrap_or_default();
    let rest: Vec<_> = all.collect();
    first.into_iter().filter(|by| rest.iter().all(|other| other.is_some_and(|other| other.contains(by)))).collect()
}

/// By what the functions of a node partition, and order, where that is the same for all.
pub fn ordered_by(window: &Window) -> (&[Expr], &[SortExpr]) {
    match window.window_expr.first().and_then(function) {
        Some(function) => (&function.params.partition_by, &function.params.order_by),
        None => (&[], &[]),
    }
}

/// How many rows before and behind a row functions look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// Before it.
    pub before: usize,
    /// Behind it.
    pub after: usize,
}

/// A function that looks at all rows of the partition up to a row, and at no row behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoFar {
    /// What it gives.
    pub kind: SoFarKind,
    /// Its arguments.
    pub args: Vec<Expr>,
    /// The rows that count; nothing: all.
    pub filter: Option<Expr>,
    /// Rows that the order leaves equal come one after the other, not all together.
    pub by_rows: bool,
}

/// What a [`SoFar`] gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SoFarKind {
    /// A number.
    Rank(Rank),
    /// The value of the first row.
    First,
    /// The value of the last row.
    Last,
    /// The aggregate of the rows.
    Aggregate(Arc<AggregateUDF>),
}

/// How far a function looks.
enum Look {
    Near(Reach),
    Back(SoFar),
}

/// How a node is kept up to date where its functions look at some rows only, or at none behind a row.
pub(super) enum Looks {
    /// Some rows before and behind.
    Near(Reach),
    /// All rows before.
    Back(Vec<SoFar>),
    /// Some of its functions do the one and some the other: two nodes.
    Both(Box<LogicalPlan>),
}

/// Functions that look further are taken for such as look at all rows.
const FAR: usize = 1000;

/// True if all functions partition and order alike, and rows can be kept as bytes, which do not remember dictionaries.
fn is_uniform(window: &Window, functions: &[&WindowFunction]) -> bool {
    let same = |params: &WindowFunctionParams| {
        let first = &functions[0].params;
        params.partition_by == first.partition_by && params.order_by == first.order_by
    };
    let input = window.input.schema();
    let fields = input.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect::<Vec<_>>();
    let kept = input.fields().iter().all(|field| !format!("{}", field.data_type()).contains("Dictionary"));
    kept && RowConverter::supports_fields(&fields) && functions.iter().all(|function| same(&function.params))
}

/// How far the functions of a node look; nothing if one of them looks at all rows, or there is no order.
pub(super) fn looks(window: &Window) -> Result<Option<Looks>> {
    let functions: Option<Vec<&WindowFunction>> = window.window_expr.iter().map(function).collect();
    let Some(functions) = functions else { return Ok(None) };
    let ordered = functions.first().is_some_and(|function| !function.params.order_by.is_empty());
    if !ordered || !is_uniform(window, &functions) {
        return Ok(None);
    }
    let looks = functions.iter().map(|function| look(function, window.input.schema()));
    let Some(looks) = looks.collect::<Option<Vec<Look>>>() else { return Ok(None) };
    let (mut reach, mut runs) = (Reach { before: 0, after: 0 }, Vec::new());
    let (mut near, mut back) = (Vec::new(), Vec::new());
    for (look, expr) in looks.into_iter().zip(&window.window_expr) {
        match look {
            Look::Near(this) => {
                reach = Reach { before: reach.before.max(this.before), after: reach.after.max(this.after) };
                near.push(expr.clone());
            }
            Look::Back(run) => {
                runs.push(run);
                back.push(expr.clone());
            }
        }
    }
    if back.is_empty() {
        return Ok((reach.before <= FAR && reach.after <= FAR).then_some(Looks::Near(reach)));
    }
    if near.is_empty() {
        return Ok(Some(Looks::Back(runs)));
    }
    let near = LogicalPlan::Window(Window::try_new(near, Arc::clone(&window.input))?);
    Ok(Some(Looks::Both(Box::new(LogicalPlan::Window(Window::try_new(back, Arc::new(near))?)))))
}

fn look(function: &WindowFunction, input: &DFSchema) -> Option<Look> {
    let params = &function.params;
    if params.distinct || params.null_treatment == Some(NullTreatment::IgnoreNulls) {
        return None;
    }
    if let Some(run) = run(function) {
        return Some(Look::Back(run));
    }
    match &function.fun {
        WindowFunctionDefinition::WindowUDF(udf) => match udf.name() {
            "lag" => Some(Look::Near(Reach { before: shift(params)?, after: 0 })),
            "lead" => Some(Look::Near(Reach { before: 0, after: shift(params)? })),
            "first_value" | "last_value" | "nth_value" => Some(Look::Near(reach(params)?)),
            _ => None,
        },
        WindowFunctionDefinition::AggregateUDF(udf) => {
            // A float that slides out of a frame leaves a trace in the sum, which depends on where the sum began.
            let traceless = matches!(udf.name(), "count" | "min" | "max");
            (traceless || params.args.iter().all(|arg| is_whole(arg, input))).then_some(Look::Near(reach(params)?))
        }
    }
}

/// By how many rows lag() and lead() shift.
fn shift(params: &WindowFunctionParams) -> Option<usize> {
    match params.args.get(1) {
        None => Some(1),
        Some(Expr::Literal(value, _)) => usize::try_from(whole(value)?).ok(),
        Some(_) => None,
    }
}

fn reach(params: &WindowFunctionParams) -> Option<Reach> {
    let frame = &params.window_frame;
    if frame.units != WindowFrameUnits::Rows {
        return None;
    }
    let mut reach = Reach { before: 0, after: 0 };
    for bound in [&frame.start_bound, &frame.end_bound] {
        match bound {
            WindowFrameBound::CurrentRow => {}
            WindowFrameBound::Preceding(rows) => reach.before = reach.before.max(usize::try_from(whole(rows)?).ok()?),
            WindowFrameBound::Following(rows) => reach.after = reach.after.max(usize::try_from(whole(rows)?).ok()?),
        }
    }
    Some(reach)
}

/// True of what is no float, or the float of a whole number.
fn is_whole(expr: &Expr, input: &DFSchema) -> bool {
    match expr {
        Expr::Cast(cast) => is_whole(&cast.expr, input),
        expr => expr.get_type(input).is_ok_and(|kind| !kind.is_floating()),
    }
}

/// The function as one of all rows up to a row.
fn run(function: &WindowFunction) -> Option<SoFar> {
    let params = &function.params;
    let frame = &params.window_frame;
    let made = |kind: SoFarKind| SoFar {
        kind,
        args: params.args.clone(),
        filter: params.filter.as_deref().cloned(),
        by_rows: frame.units == WindowFrameUnits::Rows,
    };
    if let Some(rank) = rank(function) {
        return Some(made(SoFarKind::Rank(rank)));
    }
    let starts = matches!(&frame.start_bound, WindowFrameBound::Preceding(rows) if rows.is_null());
    if !starts || frame.end_bound != WindowFrameBound::CurrentRow {
        return None;
    }
    match &function.fun {
        WindowFunctionDefinition::WindowUDF(udf) => match udf.name() {
            "first_value" if params.filter.is_none() => Some(made(SoFarKind::First)),
            "last_value" if params.filter.is_none() => Some(made(SoFarKind::Last)),
            _ => None,
        },
        WindowFunctionDefinition::AggregateUDF(udf) => {
            // Those that go on from their states as if there had been no pause.
            const STEADY: [&str; 10] =
                ["count", "sum", "avg", "min", "max", "bool_and", "bool_or", "bit_and", "bit_or", "bit_xor"];
            STEADY.contains(&udf.name()).then(|| made(SoFarKind::Aggregate(Arc::clone(udf))))
        }
    }
}

/// The node over rows of regions that are far from each other: behind its input's columns stand the region and the place
/// of each row, by which it partitions and orders.
pub(super) fn of_regions(window: &Window) -> Result<LogicalPlan> {
    const NAMES: [&str; 2] = ["fuse region", "fuse place"];
    let input = window.input.schema();
    let mut fields: Vec<_> = input.iter().map(|(table, field)| (table.cloned(), Arc::clone(field))).collect();
    fields.extend(NAMES.map(|name| (None, Arc::new(Field::new(name, DataType::Int64, false)))));
    let schema = Arc::new(DFSchema::new_with_metadata(fields, HashMap::new())?);
    let [region, place] = NAMES.map(|name| Expr::Column(Column::from_name(name)));
    let moved = |expr: Expr| -> DfResult<Transformed<Expr>> {
        let Expr::WindowFunction(mut function) = expr else { return Ok(Transformed::no(expr)) };
        function.params.partition_by = vec![region.clone()];
        function.params.order_by = vec![place.clone().sort(true, false)];
        Ok(Transformed::yes(Expr::WindowFunction(function)))
    };
    let exprs = window.window_expr.iter().map(|expr| Ok(expr.clone().transform_up(moved)?.data));
    let leaf = Arc::new(Placeholder::leaf(0, schema));
    Ok(LogicalPlan::Window(Window::try_new(exprs.collect::<Result<_>>()?, leaf)?))
}

/// The functions of a node that only ranks, and the limit that a predicate sets to it.
pub(super) fn ranking(window: &Window, predicate: &Expr) -> Option<(Vec<Rank>, RankLimit)> {
    let functions: Vec<&WindowFunction> = window.window_expr.iter().map(function).collect::<Option<_>>()?;
    let ranks = functions.iter().map(|function| rank(function)).collect::<Option<Vec<_>>>()?;
    if functions.is_empty() || !is_uniform(window, &functions) {
        return None;
    }
    let columns = window.input.schema().fields().len();
    let names: Vec<Column> =
        (0..ranks.len()).map(|at| Column::from(window.schema.qualified_field(columns + at))).collect();
    let limits = split_conjunction(predicate).into_iter().filter_map(|term| limit(term, &names));
    let limit = limits.min_by_key(|limit| limit.rows)?;
    Some((ranks, limit))
}

/// The filter with what it can ask of a ranking asked there too, beneath columns that are chosen, named or left out.
pub(super) fn with_limit_beneath(filter: &Filter) -> Result<Option<LogicalPlan>> {
    let (mut predicate, mut at) = (filter.predicate.clone(), filter.input.as_ref());
    loop {
        match at {
            LogicalPlan::Window(window) if ranking(window, &predicate).is_some() => break,
            LogicalPlan::Projection(Projection { input, .. })
            | LogicalPlan::SubqueryAlias(SubqueryAlias { input, .. }) => {
                let terms = split_conjunction(&predicate).into_iter().map(|term| beneath(at, input, term.clone()));
                let terms = terms.filter_map(Result::transpose).collect::<Result<Vec<_>>>()?;
                let Some(beneath) = conjunction(terms) else { return Ok(None) };
                (predicate, at) = (beneath, input.as_ref());
            }
            _ => return Ok(None),
        }
    }
    let limited = |plan: LogicalPlan| -> DfResult<Transformed<LogicalPlan>> {
        let is_window = matches!(plan, LogicalPlan::Window(_));
        let recursion = if is_window { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue };
        if !is_window {
            return Ok(Transformed::new(plan, false, recursion));
        }
        let limited = LogicalPlan::Filter(Filter::try_new(predicate.clone(), Arc::new(plan))?);
        Ok(Transformed::new(limited, true, recursion))
    };
    let input = filter.input.as_ref().clone().transform_down(limited)?.data;
    Ok(Some(LogicalPlan::Filter(Filter::try_new(filter.predicate.clone(), Arc::new(input))?)))
}

/// A condition on the columns of a plan, on those of its input; nothing where one of them is computed.
fn beneath(plan: &LogicalPlan, input: &LogicalPlan, predicate: Expr) -> Result<Option<Expr>> {
    let mut all_known = true;
    let moved = |expr: Expr| -> DfResult<Transformed<Expr>> {
        let Expr::Column(column) = &expr else { return Ok(Transformed::no(expr)) };
        let at = plan.schema().index_of_column(column)?;
        let column = match plan {
            LogicalPlan::Projection(projection) => match projection.expr[at].clone().unalias() {
                Expr::Column(column) => column,
                _ => {
                    all_known = false;
                    return Ok(Transformed::no(expr));
                }
            },
            _ => Column::from(input.schema().qualified_field(at)),
        };
        Ok(Transformed::yes(Expr::Column(column)))
    };
    let moved = predicate.transform_up(moved)?.data;
    Ok(all_known.then_some(moved))
}

fn rank(function: &WindowFunction) -> Option<Rank> {
    let WindowFunctionDefinition::WindowUDF(udf) = &function.fun else { return None };
    let params = &function.params;
    if params.filter.is_some() || params.distinct {
        return None;
    }
    match udf.name() {
        "row_number" => Some(Rank::RowNumber),
        "rank" => Some(Rank::Rank),
        "dense_rank" => Some(Rank::DenseRank),
        _ => None,
    }
}

/// The limit that one term sets, if it does.
fn limit(term: &Expr, names: &[Column]) -> Option<RankLimit> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = term else { return None };
    let (column, op, literal) = match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(value, _)) => (column, *op, value),
        (Expr::Literal(value, _), Expr::Column(column)) => (column, op.swap()?, value),
        _ => return None,
    };
    let rank = names.iter().position(|name| name == column)?;
    let value = whole(literal)?;
    let rows = match op {
        Operator::Eq | Operator::LtEq => value,
        Operator::Lt => value.saturating_sub(1),
        _ => return None,
    };
    Some(RankLimit { rank, rows })
}

fn whole(value: &ScalarValue) -> Option<u64> {
    match value {
        ScalarValue::UInt64(Some(value)) => Some(*value),
        ScalarValue::Int64(Some(value)) => u64::try_from(*value).ok(),
        ScalarValue::Int32(Some(value)) => u64::try_from(*value).ok(),
        _ => None,
    }
}
