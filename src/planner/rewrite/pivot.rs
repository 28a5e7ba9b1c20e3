//! PIVOT as one aggregation: a column for each value, each with a filter of its own.
//!
//! Enters: PIVOT as a statement, or in FROM, with its values or without. Leaves: a SELECT with GROUP BY.
//! Always holds: the columns are in the order of their values as text; rows whose value is NULL make groups,
//! but no column.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, DataType, Distinct, Expr, ExprWithAlias, Function, FunctionArguments, GroupByExpr, Ident,
    PivotValueSource, Query, Select, SelectItem, TableFactor, TableWithJoins, visit_expressions, visit_expressions_mut,
};

use super::{Rewriter, Step, ast, wrong};
use crate::config::PIVOT_COLUMNS_LIMIT;
use crate::error::Error;
use crate::parser::{is_mark, mark};

/// One of the expressions whose values become columns.
struct Turned {
    expr: Expr,
    /// The conditions of its values, with the names that columns get; nothing: those of the data.
    values: Option<Vec<(Expr, String)>>,
}

struct Pivot {
    from: Vec<TableWithJoins>,
    turned: Vec<Turned>,
    aggregates: Vec<(Expr, Option<Ident>)>,
    groups: Option<Vec<Expr>>,
}

/// `SELECT mark, columns, using, aggregates FROM t GROUP BY …`, as the parser leaves the statement.
pub(super) fn statement(rewriter: &Rewriter<'_>, select: &Select) -> Step<Select> {
    let mut turned = Vec::new();
    let mut aggregates = Vec::new();
    let mut using = false;
    for item in select.projection.iter().skip(1) {
        let (expr, alias) = match item {
            SelectItem::UnnamedExpr(Expr::Identifier(name)) if is_mark(name, mark::USING) => {
                using = true;
                continue;
            }
            SelectItem::UnnamedExpr(expr) => (expr.clone(), None),
            SelectItem::ExprWithAlias { expr, alias } => (expr.clone(), Some(alias.clone())),
            other => return Err(wrong("PIVOT … ON takes expressions", other).into()),
        };
        if using {
            aggregates.push((expr, alias));
        } else {
            turned.push(on(rewriter, expr)?);
        }
    }
    if turned.is_empty() {
        return Err(Error::sql("PIVOT needs ON and a column").hint("PIVOT t ON month USING sum(x)").into());
    }
    let groups = match &select.group_by {
        GroupByExpr::Expressions(exprs, _) if exprs.is_empty() => None,
        GroupByExpr::Expressions(exprs, _) => Some(exprs.clone()),
        GroupByExpr::All(_) => return Err(Error::sql("PIVOT … GROUP BY takes columns, not ALL").into()),
    };
    Pivot { from: select.from.clone(), turned, aggregates, groups }.build(rewriter)
}

/// `t PIVOT (sum(n) FOR year IN (2000, 2010))`.
pub(super) fn factor(rewriter: &Rewriter<'_>, factor: &TableFactor) -> Step<TableFactor> {
    let TableFactor::Pivot { table, aggregate_functions, value_column, value_source, default_on_null, alias } = factor
    else {
        return Ok(factor.clone());
    };
    if default_on_null.is_some() {
        return Err(wrong("DEFAULT ON NULL of PIVOT is not supported", factor).hint("use coalesce() around it").into());
    }
    let [column] = value_column.as_slice() else {
        return Err(wrong("PIVOT … FOR takes one column", factor).hint("FOR a IN (…) b IN (…) takes several").into());
    };
    let values = match value_source {
        PivotValueSource::List(list) => Some(list.iter().map(|value| of_list(column, value)).collect()),
        PivotValueSource::Any(_) => None,
        PivotValueSource::Subquery(query) => Some(of_query(rewriter, column, query)?),
    };
    let mut turned = vec![Turned { expr: column.clone(), values }];
    let mut aggregates = Vec::new();
    let mut groups = None;
    for ExprWithAlias { expr, alias } in aggregate_functions {
        let (marked, args) = match expr {
            Expr::Function(call) => (call.name.0.first().and_then(|part| part.as_ident()), ast::args(call)),
            _ => (None, Vec::new()),
        };
        match marked {
            Some(name) if is_mark(name, mark::FOR) => {
                for arg in args {
                    turned.push(on(rewriter, arg.clone())?);
                }
            }
            Some(name) if is_mark(name, mark::GROUP) => groups = Some(args.into_iter().cloned().collect()),
            _ => aggregates.push((expr.clone(), alias.clone())),
        }
    }
    let from = vec![ast::alone(TableFactor::clone(table))];
    let select = Pivot { from, turned, aggregates, groups }.build(rewriter)?;
    Ok(ast::derived(ast::query(select), alias.clone()))
}

/// An expression of ON, with its values if IN gives them.
fn on(rewriter: &Rewriter<'_>, expr: Expr) -> Step<Turned> {
    Ok(match expr {
        Expr::InList { expr, list, negated: false } => {
            let one = |value: &Expr| of_list(&expr, &ExprWithAlias { expr: value.clone(), alias: None });
            let values = list.iter().map(one).collect();
            Turned { expr: *expr, values: Some(values) }
        }
        Expr::InSubquery { expr, subquery, negated: false } => {
            Turned { values: Some(of_query(rewriter, &expr, &subquery)?), expr: *expr }
        }
        expr => Turned { expr, values: None },
    })
}

fn of_list(column: &Expr, value: &ExprWithAlias) -> (Expr, String) {
    let text = match &value.expr {
        Expr::Value(literal) => literal.value.clone().into_string(),
        _ => None,
    };
    let name = value.alias.as_ref().map(ast::meant).or(text).unwrap_or_else(|| value.expr.to_string());
    (ast::binary(column.clone(), BinaryOperator::Eq, value.expr.clone()), name)
}

/// The values that a query of one column gives.
fn of_query(rewriter: &Rewriter<'_>, column: &Expr, query: &Query) -> Step<Vec<(Expr, String)>> {
    let rows = rewriter.rows(query.clone())?;
    let mut values = Vec::new();
    for value in rows.iter().filter_map(|row| row.first()).filter(|value| !value.is_null()) {
        let name = value.to_string();
        let literal = ast::literal(value).unwrap_or_else(|| ast::text(&name));
        values.push((ast::binary(column.clone(), BinaryOperator::Eq, literal), name));
    }
    Ok(values)
}

impl Pivot {
    fn build(self, rewriter: &Rewriter<'_>) -> Step<Select> {
        let mut values = Vec::new();
        for turned in &self.turned {
            values.push(match &turned.values {
                Some(values) => values.clone(),
                None => self.values_of(rewriter, &turned.expr)?,
            });
        }
        let aggregates = match self.aggregates.is_empty() {
            true => vec![(ast::count_rows(), None)],
            false => self.aggregates.clone(),
        };
        let groups = match &self.groups {
            Some(groups) => groups.clone(),
            None => self.other_columns(rewriter)?,
        };
        let mut combined: Vec<(Option<Expr>, String)> = vec![(None, String::new())];
        for values in &values {
            let with = |(condition, name): &(Option<Expr>, String)| -> Vec<(Option<Expr>, String)> {
                let next = |(value, text): &(Expr, String)| {
                    let condition = ast::all(condition.iter().cloned().chain([value.clone()]));
                    (condition, if name.is_empty() { text.clone() } else { format!("{name}_{text}") })
                };
                values.iter().map(next).collect()
            };
            combined = combined.iter().flat_map(with).collect();
            if combined.len() * aggregates.len() > PIVOT_COLUMNS_LIMIT {
                let error = Error::sql(format!("PIVOT would make over {PIVOT_COLUMNS_LIMIT} columns"));
                return Err(error.hint("name the values: ON column IN ('a', 'b')").into());
            }
        }
        let mut projection: Vec<SelectItem> = groups.iter().cloned().map(SelectItem::UnnamedExpr).collect();
        for (condition, name) in combined {
            for (aggregate, alias) in &aggregates {
                let mut expr = aggregate.clone();
                let Some(condition) = &condition else { continue };
                filter(rewriter, &mut expr, condition)?;
                let name = match alias {
                    Some(alias) => format!("{name}_{}", ast::meant(alias)),
                    None if aggregates.len() > 1 => format!("{name}_{aggregate}"),
                    None => name.clone(),
                };
                projection.push(ast::item(expr, Some(ast::name(&name))));
            }
        }
        let mut select = ast::select(projection, self.from);
        select.group_by = GroupByExpr::Expressions(groups, Vec::new());
        Ok(select)
    }

    /// The values that an expression has in the data.
    fn values_of(&self, rewriter: &Rewriter<'_>, expr: &Expr) -> Step<Vec<(Expr, String)>> {
        let nested = Expr::Nested(Box::new(expr.clone()));
        let text = ast::cast(nested.clone(), DataType::Varchar(None));
        let items =
            vec![ast::item(nested.clone(), Some(ast::name("value"))), ast::item(text.clone(), Some(ast::name("text")))];
        let mut select = ast::select(items, self.from.clone());
        select.distinct = Some(Distinct::Distinct);
        select.selection = Some(Expr::IsNotNull(Box::new(nested)));
        let rows = rewriter.rows(ast::query(select))?;
        let mut values = Vec::new();
        for row in rows.iter() {
            let [value, name] = row.as_slice() else { continue };
            let name = name.to_string();
            let condition = match ast::literal(value) {
                Some(literal)
                    if !matches!(
                        value.data_type(),
                        arrow::datatypes::DataType::Float16 | arrow::datatypes::DataType::Float32
                    ) =>
                {
                    ast::binary(expr.clone(), BinaryOperator::Eq, literal)
                }
                _ => ast::binary(text.clone(), BinaryOperator::Eq, ast::text(&name)),
            };
            values.push((condition, name));
        }
        values.sort_by(|(_, a), (_, b)| a.cmp(b));
        Ok(values)
    }

    /// Without GROUP BY, the groups are all columns that nothing else names.
    fn other_columns(&self, rewriter: &Rewriter<'_>) -> Step<Vec<Expr>> {
        let columns = rewriter.columns_of(&self.from)?;
        let mut named = HashSet::new();
        let exprs = self.turned.iter().map(|turned| &turned.expr).chain(self.aggregates.iter().map(|(expr, _)| expr));
        for expr in exprs {
            let _ = visit_expressions(expr, |expr| {
                match expr {
                    Expr::Identifier(ident) => named.extend([ast::meant(ident)]),
                    Expr::CompoundIdentifier(parts) => named.extend(parts.last().map(ast::meant)),
                    _ => {}
                }
                ControlFlow::<()>::Continue(())
            });
        }
        let others = columns.iter().filter(|column| !named.contains(&column.name));
        Ok(others.map(|column| ast::column_of(column.table.as_ref(), &column.name)).collect())
    }
}

/// Lets the aggregates of an expression see only rows where a condition holds.
fn filter(rewriter: &Rewriter<'_>, expr: &mut Expr, condition: &Expr) -> Step<()> {
    let mut found = false;
    let _ = visit_expressions_mut(expr, |expr| {
        if let Expr::Function(call) = expr
            && is_aggregate(rewriter, call)
        {
            found = true;
            let both = ast::all(call.filter.take().map(|filter| *filter).into_iter().chain([condition.clone()]));
            call.filter = both.map(Box::new);
        }
        ControlFlow::<()>::Continue(())
    });
    if found {
        return Ok(());
    }
    Err(wrong(format!("PIVOT … USING takes an aggregate, not {expr}"), expr).hint("USING sum(column)").into())
}

fn is_aggregate(rewriter: &Rewriter<'_>, call: &Function) -> bool {
    matches!(call.args, FunctionArguments::List(_))
        && call.over.is_none()
        && (rewriter.is_aggregate)(&call.name.to_string().to_lowercase())
}
