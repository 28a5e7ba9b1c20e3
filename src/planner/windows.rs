//! What a window node computes by, and how far.
//!
//! Enters: window nodes, and the predicate above. Leaves: the partitions that can be computed by themselves; which
//! rows of a ranking are ever wanted. Always holds: where it is not sure, the answer is the larger one.

use arrow::row::{RowConverter, SortField};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::expr::{WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, SortExpr, Window, WindowFunctionDefinition};

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

/// By what the functions of a node that only ranks partition, and order.
pub fn ranked_by(window: &Window) -> (&[Expr], &[SortExpr]) {
    match window.window_expr.first().and_then(function) {
        Some(function) => (&function.params.partition_by, &function.params.order_by),
        None => (&[], &[]),
    }
}

/// The functions of a node that only ranks, and the limit that a predicate sets to it.
pub(super) fn ranking(window: &Window, predicate: &Expr) -> Option<(Vec<Rank>, RankLimit)> {
    let functions: Vec<&WindowFunction> = window.window_expr.iter().map(function).collect::<Option<_>>()?;
    let ranks = functions.iter().map(|function| rank(function)).collect::<Option<Vec<_>>>()?;
    let same = |params: &WindowFunctionParams| {
        let first = &functions[0].params;
        params.partition_by == first.partition_by && params.order_by == first.order_by
    };
    let input = window.input.schema();
    let fields = input.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect::<Vec<_>>();
    // Rows are kept as bytes, which do not remember dictionaries.
    let kept = input.fields().iter().all(|field| !format!("{}", field.data_type()).contains("Dictionary"));
    if !kept || !RowConverter::supports_fields(&fields) || !functions.iter().all(|function| same(&function.params)) {
        return None;
    }
    let columns = input.fields().len();
    let names: Vec<Column> =
        (0..ranks.len()).map(|at| Column::from(window.schema.qualified_field(columns + at))).collect();
    let limits = split_conjunction(predicate).into_iter().filter_map(|term| limit(term, &names));
    let limit = limits.min_by_key(|limit| limit.rows)?;
    Some((ranks, limit))
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
