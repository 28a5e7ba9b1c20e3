//! Names of columns that have none.
//!
//! Enters: a statement. Leaves: the same, whose outermost SELECT names its expressions as they were typed. Always
//! holds: names within subqueries, views and tables stay DataFusion's, since other statements may use them.

use datafusion::sql::parser::{CopyToSource, Statement as Body};
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, OrderByKind, Query, SelectItem, SetExpr, SetQuantifier, Statement as Sql,
};

/// The longest text that becomes a name.
const LONGEST: usize = 120;

/// `SELECT a + 1` has the column `a + 1`, and not `t.a + Int64(1)`.
pub(super) fn name_items(body: &mut Body) {
    match body {
        Body::Statement(sql) => {
            if let Sql::Query(query) = sql.as_mut() {
                name_query(query);
            }
        }
        Body::CopyTo(copy) => {
            if let CopyToSource::Query(query) = &mut copy.source {
                name_query(query);
            }
        }
        _ => {}
    }
}

fn name_query(query: &mut Query) {
    // ORDER BY of a UNION may say an expression of its first query again.
    let plain = |expr: &Expr| matches!(expr, Expr::Identifier(_) | Expr::Value(_));
    let ordered = query.order_by.as_ref().is_none_or(|order| match &order.kind {
        OrderByKind::Expressions(exprs) => exprs.iter().all(|order| plain(&order.expr)),
        OrderByKind::All(_) => true,
    });
    let mut body = query.body.as_mut();
    while let SetExpr::SetOperation { left, set_quantifier, .. } = body {
        let by_name =
            matches!(set_quantifier, SetQuantifier::ByName | SetQuantifier::AllByName | SetQuantifier::DistinctByName);
        if by_name || !ordered {
            return;
        }
        body = left.as_mut();
    }
    let SetExpr::Select(select) = body else { return };
    // DISTINCT and ORDER BY have to agree on their expressions; a marked SELECT, such as PIVOT, is none yet.
    let marked = select.projection.iter().any(|item| item.to_string().contains("fuse."));
    if select.distinct.is_some() || marked {
        return;
    }
    for item in &mut select.projection {
        let SelectItem::UnnamedExpr(expr) = item else { continue };
        if let Some(name) = name_of(expr) {
            let expr = expr.clone();
            *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', name) };
        }
    }
}

/// The text of an expression that has no name of its own, and is one column.
fn name_of(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::CompoundFieldAccess { .. } | Expr::Nested(_) => None,
        Expr::Value(value) if matches!(value.value, datafusion::sql::sqlparser::ast::Value::Placeholder(_)) => None,
        // A list of columns.
        Expr::Tuple(_) => None,
        expr => {
            let name = expr.to_string();
            let lower = name.to_ascii_lowercase();
            // These become several columns, whose names come from what they become.
            let many = ["unnest(", "columns(", "columns\"(", "\n"].iter().any(|part| lower.contains(part));
            (name.len() <= LONGEST && !many).then_some(name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Reading, Script, parse};

    #[test]
    fn expressions_are_named_and_pivots_are_not() {
        let read = |text: &str| {
            let script = Script { name: "test".into(), text: text.into() };
            parse(&script, &Reading::default()).expect("parses")[0].body.to_string()
        };
        assert_eq!(read("select 1 union all select 2"), "SELECT 1 AS \"1\" UNION ALL SELECT 2");
        assert_eq!(read("select a+1, b from t"), "SELECT a + 1 AS \"a + 1\", b FROM t");
        for text in ["pivot t on a using sum(b)", "select distinct a + 1 from t", "select columns('a.*') from t"] {
            assert!(!read(text).contains(" AS \""), "{}", read(text));
        }
    }
}
