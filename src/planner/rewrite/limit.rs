//! `LIMIT 10%`.
//!
//! Enters: a query with such a LIMIT. Leaves: the same with the number of rows. Always holds: the rows are counted
//! once, by a query of its own; a part of a row is none.

use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::{Expr, LimitClause, Query, Value};

use super::{Rewriter, Step, ast, wrong};
use crate::parser::{is_mark, mark};

/// Puts the number of rows in place of the percentage.
pub(super) fn percent(rewriter: &Rewriter<'_>, query: &mut Query) -> Step<()> {
    let Some(LimitClause::LimitOffset { limit: Some(Expr::Function(call)), .. }) = &query.limit_clause else {
        return Ok(());
    };
    if !call.name.0.first().and_then(|part| part.as_ident()).is_some_and(|name| is_mark(name, mark::PERCENT)) {
        return Ok(());
    }
    let share = ast::args(call).first().and_then(|arg| match arg {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, _) => digits.parse::<f64>().ok().filter(|share| (0.0..=100.0).contains(share)),
            _ => None,
        },
        _ => None,
    });
    let Some(share) = share else {
        return Err(wrong("LIMIT of a percentage is a number from 0 to 100", &call.name).into());
    };
    let mut all = query.clone();
    (all.limit_clause, all.order_by) = (None, None);
    let from = vec![ast::alone(ast::derived(all, Some(ast::alias("all"))))];
    let rows = rewriter.rows(ast::query(ast::select(vec![ast::item(ast::count_rows(), None)], from)))?;
    let count = match rows.first().and_then(|row| row.first()) {
        Some(ScalarValue::Int64(Some(count))) => *count,
        _ => 0,
    };
    let kept = (count as f64 * share / 100.0).floor() as i64;
    if let Some(LimitClause::LimitOffset { limit, .. }) = &mut query.limit_clause {
        *limit = Some(ast::number(kept));
    }
    Ok(())
}
