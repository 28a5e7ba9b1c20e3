//! Names of columns of a SELECT, used in the same SELECT.
//!
//! Enters: a SELECT with `a + 1 AS b` in it, and the columns of its FROM. Leaves: the same with the
//! expression in place of `b` in the other columns, ON, WHERE, GROUP BY, HAVING and QUALIFY. Always holds: a real
//! column wins over an alias; an alias is known behind its definition only; subqueries are left alone.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, JoinConstraint, JoinOperator, Query, Select, SelectItem, TableWithJoins, Value, VisitMut,
    VisitorMut, visit_expressions,
};

use super::{Rewriter, Step, ast};

/// Puts the expressions in place of their names.
pub(super) fn inline(rewriter: &Rewriter<'_>, select: &mut Select) -> Step<()> {
    if !select.projection.iter().any(|item| matches!(item, SelectItem::ExprWithAlias { .. })) {
        return Ok(());
    }
    let columns = if select.from.is_empty() { None } else { Some(rewriter.columns_of(&without_aliases(select))?) };
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
    for join in select.from.iter_mut().flat_map(|table| &mut table.joins) {
        if let Some(condition) = condition(&mut join.join_operator) {
            known.put_in(condition);
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

/// FROM without the conditions of joins that use names of columns of the SELECT: which columns there are does not
/// depend on them.
fn without_aliases(select: &Select) -> Vec<TableWithJoins> {
    let names = select.projection.iter().filter_map(|item| match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(ast::meant(alias)),
        _ => None,
    });
    let names: HashSet<String> = names.collect();
    let uses = |condition: &Expr| {
        let used = visit_expressions(condition, |expr| match expr {
            Expr::Identifier(ident) if names.contains(&ast::meant(ident)) => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        used.is_break()
    };
    let mut from = select.from.clone();
    for join in from.iter_mut().flat_map(|table| &mut table.joins) {
        if let Some(condition) = condition(&mut join.join_operator)
            && uses(condition)
        {
            *condition = Expr::value(Value::Boolean(true));
        }
    }
    from
}

/// The condition of a join, if it has one.
fn condition(join: &mut JoinOperator) -> Option<&mut Expr> {
    use JoinOperator as Op;
    match join {
        Op::Join(constraint)
        | Op::Inner(constraint)
        | Op::Left(constraint)
        | Op::LeftOuter(constraint)
        | Op::Right(constraint)
        | Op::RightOuter(constraint)
        | Op::FullOuter(constraint)
        | Op::Semi(constraint)
        | Op::LeftSemi(constraint)
        | Op::RightSemi(constraint)
        | Op::Anti(constraint)
        | Op::LeftAnti(constraint)
        | Op::RightAnti(constraint) => match constraint {
            JoinConstraint::On(condition) => Some(condition),
            _ => None,
        },
        _ => None,
    }
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
