//! UNPIVOT as two lists that are unnested side by side: names and values.
//!
//! Enters: UNPIVOT as a statement, or in FROM. Leaves: a SELECT over a SELECT with unnest(). Always holds:
//! rows whose value is NULL are left out, unless INCLUDE NULLS keeps them.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{
    Expr, ExprWithAlias, Ident, NullInclusion, Select, SelectItem, TableFactor, TableWithJoins, visit_expressions,
};

use super::{Column, Rewriter, Step, ast, columns, wrong};
use crate::parser::{is_mark, mark};

/// One row that each row becomes: its name, and its values.
struct Turned {
    name: String,
    values: Vec<Expr>,
}

struct Unpivot {
    from: Vec<TableWithJoins>,
    turned: Vec<Turned>,
    name: String,
    values: Vec<String>,
    nulls: bool,
}

/// `SELECT mark, columns, into, name, values FROM t`, as the parser leaves the statement.
pub(super) fn statement(rewriter: &Rewriter<'_>, select: &Select) -> Step<Select> {
    let known = rewriter.columns_of(&select.from)?;
    let mut turned = Vec::new();
    let mut names = Vec::new();
    let mut into = false;
    for item in select.projection.iter().skip(1) {
        match item {
            SelectItem::UnnamedExpr(Expr::Identifier(name)) if is_mark(name, mark::INTO) => into = true,
            SelectItem::UnnamedExpr(Expr::Identifier(name)) if into => names.push(ast::meant(name)),
            other if into => return Err(wrong("UNPIVOT … INTO takes names", other).into()),
            SelectItem::ExprWithAlias { expr, alias } => turned.extend(one(rewriter, &known, expr, Some(alias))?),
            SelectItem::UnnamedExpr(expr) => turned.extend(one(rewriter, &known, expr, None)?),
            other => {
                let all = columns::chosen(rewriter, &known, other.clone())?;
                turned.extend(all.into_iter().map(|(expr, name)| Turned { name, values: vec![expr] }));
            }
        }
    }
    let mut names = names.into_iter();
    let name = names.next().unwrap_or_else(|| "name".to_owned());
    let mut values: Vec<String> = names.collect();
    if values.is_empty() {
        values.push("value".to_owned());
    }
    Unpivot { from: select.from.clone(), turned, name, values, nulls: false }.build(&known)
}

/// `t UNPIVOT (sales FOR month IN (jan, feb))`.
pub(super) fn factor(rewriter: &Rewriter<'_>, factor: &TableFactor) -> Step<TableFactor> {
    let TableFactor::Unpivot { table, value, name, columns, null_inclusion, alias } = factor else {
        return Ok(factor.clone());
    };
    let from = vec![ast::alone(TableFactor::clone(table))];
    let known = rewriter.columns_of(&from)?;
    let mut turned = Vec::new();
    for ExprWithAlias { expr, alias } in columns {
        turned.extend(one(rewriter, &known, expr, alias.as_ref())?);
    }
    let values = match value {
        Expr::Tuple(values) => values.iter().map(name_of).collect::<Option<Vec<_>>>(),
        Expr::Nested(value) => name_of(value).map(|name| vec![name]),
        value => name_of(value).map(|name| vec![name]),
    };
    let values = values.ok_or_else(|| wrong("UNPIVOT takes names for its values", value))?;
    let nulls = matches!(null_inclusion, Some(NullInclusion::IncludeNulls));
    let select = Unpivot { from, turned, name: ast::meant(name), values, nulls }.build(&known)?;
    Ok(ast::derived(ast::query(select), alias.clone()))
}

fn name_of(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(name) => Some(ast::meant(name)),
        Expr::CompoundIdentifier(parts) => parts.last().map(ast::meant),
        _ => None,
    }
}

/// What one item of the list stands for.
fn one(rewriter: &Rewriter<'_>, known: &Arc<[Column]>, expr: &Expr, alias: Option<&Ident>) -> Step<Vec<Turned>> {
    let named = |values: Vec<Expr>, name: String| Turned { name: alias.map_or(name, ast::meant), values };
    Ok(match expr {
        Expr::Tuple(values) => {
            let names: Vec<String> =
                values.iter().map(|value| name_of(value).unwrap_or_else(|| value.to_string())).collect();
            vec![named(values.clone(), names.join("_"))]
        }
        Expr::Nested(inner) => one(rewriter, known, inner, alias)?,
        expr => {
            let all = columns::chosen(rewriter, known, SelectItem::UnnamedExpr(expr.clone()))?;
            let turn = |(expr, name): (Expr, String)| {
                let own = name_of(&expr).unwrap_or_else(|| expr.to_string());
                named(vec![expr], if name.is_empty() { own } else { name })
            };
            all.into_iter().map(turn).collect()
        }
    })
}

impl Unpivot {
    fn build(self, known: &[Column]) -> Step<Select> {
        let mut used = HashSet::new();
        for value in self.turned.iter().flat_map(|turned| &turned.values) {
            let _ = visit_expressions(value, |expr| {
                used.extend(name_of(expr));
                ControlFlow::<()>::Continue(())
            });
        }
        if let Some(odd) = self.turned.iter().find(|turned| turned.values.len() != self.values.len()) {
            let message = format!("UNPIVOT has {} values for {} names", odd.values.len(), self.values.len());
            return Err(odd
                .values
                .first()
                .map_or_else(|| crate::error::Error::sql(&message), |value| wrong(&message, value))
                .into());
        }
        let kept: Vec<&Column> = known.iter().filter(|column| !used.contains(&column.name)).collect();
        let list = |items: Vec<Expr>| ast::call("unnest", vec![ast::call("make_array", items)]);
        let mut inner: Vec<SelectItem> = Vec::new();
        for column in &kept {
            inner.push(SelectItem::UnnamedExpr(ast::column_of(column.table.as_ref(), &column.name)));
        }
        let names = self.turned.iter().map(|turned| ast::text(&turned.name)).collect();
        inner.push(ast::item(list(names), Some(ast::name(&self.name))));
        for (at, name) in self.values.iter().enumerate() {
            let values = self.turned.iter().filter_map(|turned| turned.values.get(at).cloned()).collect();
            inner.push(ast::item(list(values), Some(ast::name(name))));
        }
        let inner = ast::query(ast::select(inner, self.from));
        let mut select = ast::select_all(vec![ast::alone(ast::derived(inner, Some(ast::alias("unpivoted"))))]);
        if !self.nulls {
            select.selection = ast::all(self.values.iter().map(|name| Expr::IsNotNull(Box::new(ast::column(name)))));
        }
        Ok(select)
    }
}
