//! Calls that differ in a cast alone.
//!
//! Enters: a SELECT with `max(x), max(x::FLOAT)` in it. Leaves: the same with the cast within a function that changes
//! nothing. Always holds: DataFusion, which names a cast as what is cast, finds another name for each call; a column that
//! has no name of its own is named as it was written.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, Query, Select, SelectItem, VisitMut, VisitorMut, visit_expressions, visit_expressions_mut,
};

use super::ast;

/// The calls of a SELECT without their casts, each with the ways in which it is written.
type Ways = BTreeMap<String, BTreeSet<String>>;

/// Lets calls have names of their own.
pub(super) fn tell_apart(select: &mut Select) {
    let mut ways = Ways::new();
    let _ = visit_expressions(&*select, |expr| {
        if let Expr::Function(call) = expr {
            ways.entry(without_casts(call)).or_default().insert(call.to_string());
        }
        ControlFlow::<()>::Continue(())
    });
    ways.retain(|_, ways| ways.len() > 1);
    if ways.is_empty() {
        return;
    }
    let mut apart = Apart { ways, depth: 0, changed: false };
    for item in &mut select.projection {
        let written = item.to_string();
        apart.changed = false;
        let _ = item.visit(&mut apart);
        if let (SelectItem::UnnamedExpr(expr), true) = (&*item, apart.changed) {
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: ast::name(&written) };
        }
    }
    for clause in [&mut select.having, &mut select.qualify].into_iter().flatten() {
        let _ = clause.visit(&mut apart);
    }
}

fn without_casts(call: &Function) -> String {
    let mut call = call.clone();
    let _ = visit_expressions_mut(&mut call, |expr| {
        while let Expr::Cast { expr: inner, .. } = expr {
            *expr = inner.as_ref().clone();
        }
        ControlFlow::<()>::Continue(())
    });
    call.to_string()
}

struct Apart {
    ways: Ways,
    depth: usize,
    changed: bool,
}

impl VisitorMut for Apart {
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
        let Expr::Function(call) = expr else { return ControlFlow::Continue(()) };
        if self.depth > 0 || !self.ways.contains_key(&without_casts(call)) {
            return ControlFlow::Continue(());
        }
        let changed = &mut self.changed;
        let _ = visit_expressions_mut(&mut call.args, |expr| {
            if matches!(expr, Expr::Cast { .. }) {
                *expr = ast::call("coalesce", vec![expr.clone()]);
                *changed = true;
            }
            ControlFlow::<()>::Continue(())
        });
        ControlFlow::Continue(())
    }
}
