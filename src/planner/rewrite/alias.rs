//! Names of columns of a SELECT, used in the same SELECT.
//!
//! Enters: a SELECT with `a + 1 AS b` in it, and the columns of its FROM. Leaves: the same with the
//! expression in place of `b` in the other columns, WHERE, GROUP BY, HAVING and QUALIFY. Always holds: a real
//! column wins over an alias; an alias is known behind its definition only; subqueries are left alone.

use std::collections::HashMap;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, GroupByExpr, Query, Select, SelectItem, VisitMut, VisitorMut};

use super::{Rewriter, Step, ast};

/// Puts the expressions in place of their names.
pub(super) fn inline(rewriter: &Rewriter<'_>, select: &mut Select) -> Step<()> {
    if !select.projection.iter().any(|item| matches!(item, SelectItem::ExprWithAlias { .. })) {
        return Ok(());
    }
    let columns = if select.from.is_empty() { None } else { Some(rewriter.columns_of(&select.from)?) };
    let is_column = |name: &str| columns.iter().flat_map(|columns| columns.iter()).any(|column| column.name == name);
    let mut known = Known::default();
    for item in &mut select.projection {
        match item {
            SelectItem::UnnamedExpr(expr) => known.put_in(expr),
            SelectItem::ExprWithAlias { expr, alias } => {
                known.put_in(expr);
                let name = ast::meant(alias);
                if !is_column(&name) {
                    known.exprs.insert(name, expr.clone());
                }
            }
            _ => {}
        }
    }
    for clause in [&mut select.selection, &mut select.having, &mut select.qualify].into_iter().flatten() {
        known.put_in(clause);
    }
    if let GroupByExpr::Expressions(exprs, _) = &mut select.group_by {
        for expr in exprs.iter_mut().filter(|expr| !matches!(expr, Expr::Identifier(_))) {
            known.put_in(expr);
        }
    }
    Ok(())
}

/// The aliases that have been defined, and how deep in subqueries we are.
#[derive(Default)]
struct Known {
    exprs: HashMap<String, Expr>,
    depth: usize,
}

impl Known {
    fn put_in(&mut self, expr: &mut Expr) {
        if !self.exprs.is_empty() {
            let _ = expr.visit(self);
        }
    }
}

impl VisitorMut for Known {
    type Break = ();

    fn pre_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Identifier(ident) = expr
            && self.depth == 0
            && let Some(meant) = self.exprs.get(&ast::meant(ident))
        {
            *expr = Expr::Nested(Box::new(meant.clone()));
        }
        ControlFlow::Continue(())
    }
}
