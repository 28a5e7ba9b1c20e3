//! `COLUMNS(…)`, `* RENAME`, `* ILIKE`: one expression for many columns.
//!
//! Enters: a SELECT and the columns of its FROM. Leaves: the same with each column written out. Always
//! holds: columns keep the order of the table; no column at all is an error.

use std::ops::ControlFlow;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast::{
    Array, ExcludeSelectItem, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident,
    LambdaFunction, ObjectName, OrderByExpr, Parens, RenameSelectItem, Select, SelectItem,
    SelectItemQualifiedWildcardKind, SetExpr, TableAliasColumnDef, TableWithJoins, Value, Values,
    WildcardAdditionalOptions, visit_expressions, visit_expressions_mut,
};
use regex::Regex;

use super::{Column, Rewriter, Step, ast, wrong};
use crate::error::Error;
use crate::parser::{is_mark, mark};

/// A column that was chosen: what stands for it, and under which name it comes out.
#[derive(Debug, Clone)]
struct Chosen {
    expr: Expr,
    name: String,
}

/// Writes out what one SELECT says of many columns.
pub(super) fn expand(rewriter: &Rewriter<'_>, select: &mut Select) -> Step<()> {
    let by_position = |expr: &Expr| matches!(expr, Expr::Identifier(name) if position(name).is_some());
    let clauses = [&select.selection, &select.having, &select.qualify];
    let any = select.projection.iter().any(|item| match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
            has(expr, is_columns) || has(expr, by_position)
        }
        SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) => is_special(options),
        SelectItem::ExprWithAliases { .. } => false,
    }) || clauses.into_iter().flatten().any(|expr| has(expr, is_columns))
        || matches!(&select.group_by, GroupByExpr::Expressions(exprs, _) if exprs.iter().any(|expr| has(expr, is_columns)));
    if !any {
        return Ok(());
    }
    let columns = Columns { rewriter, columns: rewriter.columns_of(&select.from)? };
    let mut projection = Vec::new();
    for item in std::mem::take(&mut select.projection) {
        columns.item(item, &mut projection)?;
    }
    select.projection = projection;
    for clause in [&mut select.selection, &mut select.having, &mut select.qualify].into_iter().flatten() {
        if has(clause, is_columns) {
            let each = columns.each(clause)?.into_iter().map(|(expr, _)| expr);
            *clause = ast::all(each).unwrap_or_else(ast::null);
        }
    }
    if let GroupByExpr::Expressions(exprs, _) = &mut select.group_by {
        let mut all = Vec::new();
        for expr in std::mem::take(exprs) {
            match has(&expr, is_columns) {
                true => all.extend(columns.each(&expr)?.into_iter().map(|(expr, _)| expr)),
                false => all.push(expr),
            }
        }
        *exprs = all;
    }
    Ok(())
}

/// The same for ORDER BY.
pub(super) fn expand_order(rewriter: &Rewriter<'_>, from: &[TableWithJoins], order: &mut Vec<OrderByExpr>) -> Step<()> {
    if !order.iter().any(|by| has(&by.expr, is_columns)) {
        return Ok(());
    }
    let columns = Columns { rewriter, columns: rewriter.columns_of(from)? };
    let mut all = Vec::new();
    for by in std::mem::take(order) {
        if has(&by.expr, is_columns) {
            let each = columns.each(&by.expr)?.into_iter();
            all.extend(each.map(|(expr, _)| OrderByExpr { expr, options: by.options, with_fill: None }));
        } else {
            all.push(by);
        }
    }
    *order = all;
    Ok(())
}

/// The columns that the items of an UNPIVOT name.
pub(super) fn chosen(rewriter: &Rewriter<'_>, columns: &Arc<[Column]>, item: SelectItem) -> Step<Vec<(Expr, String)>> {
    let columns = Columns { rewriter, columns: Arc::clone(columns) };
    match &item {
        SelectItem::Wildcard(options) => {
            Ok(columns.starred(None, options)?.into_iter().map(|column| (column.expr, column.name)).collect())
        }
        SelectItem::UnnamedExpr(expr) => columns.each(expr),
        other => Err(wrong("UNPIVOT takes names of columns and COLUMNS(…)", other).into()),
    }
}

pub(super) fn is_columns(expr: &Expr) -> bool {
    let Expr::Function(call) = expr else { return false };
    match call.name.0.as_slice() {
        [part] => part.as_ident().is_some_and(|ident| {
            ident.value.eq_ignore_ascii_case("columns") && ident.quote_style.is_none() || is_mark(ident, mark::UNPACK)
        }),
        _ => false,
    }
}

fn is_unpack(expr: &Expr) -> bool {
    matches!(expr, Expr::Function(call) if call.name.0.first().and_then(|part| part.as_ident()).is_some_and(|ident| is_mark(ident, mark::UNPACK)))
}

pub(super) fn has(expr: &Expr, wanted: impl Fn(&Expr) -> bool) -> bool {
    visit_expressions(expr, |expr| if wanted(expr) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        .is_break()
}

fn is_special(options: &WildcardAdditionalOptions) -> bool {
    options.opt_rename.is_some() || options.opt_ilike.is_some()
}

/// `#2` is the second column.
fn position(ident: &Ident) -> Option<usize> {
    if ident.quote_style.is_some() {
        return None;
    }
    ident.value.strip_prefix('#')?.parse().ok()
}

struct Columns<'a, 'b> {
    rewriter: &'a Rewriter<'b>,
    columns: Arc<[Column]>,
}

impl Columns<'_, '_> {
    fn item(&self, item: SelectItem, out: &mut Vec<SelectItem>) -> Step<()> {
        match item {
            SelectItem::Wildcard(options) if is_special(&options) => {
                out.extend(self.starred(None, &options)?.into_iter().map(named));
            }
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(table), options)
                if is_special(&options) =>
            {
                out.extend(self.starred(Some(&table), &options)?.into_iter().map(named));
            }
            SelectItem::UnnamedExpr(expr) if has(&expr, is_columns) => {
                for (expr, name) in self.each(&expr)? {
                    let taken = |item: &SelectItem| matches!(item, SelectItem::ExprWithAlias { alias, .. } if alias.value == name);
                    let name = if out.iter().any(taken) { expr.to_string().replace('"', "") } else { name };
                    out.push(if name.is_empty() {
                        SelectItem::UnnamedExpr(expr)
                    } else {
                        named(Chosen { expr, name })
                    });
                }
            }
            SelectItem::ExprWithAlias { expr, alias } if has(&expr, is_columns) => {
                let pattern = self.pattern_of(&expr)?;
                for (expr, name) in self.each(&expr)? {
                    let name = match &pattern {
                        Some(pattern) if alias.value.contains('\\') => groups(pattern, &name, &alias.value),
                        _ => alias.value.clone(),
                    };
                    out.push(ast::item(expr, Some(ast::name(&name))));
                }
            }
            SelectItem::UnnamedExpr(mut expr) => {
                self.positions(&mut expr)?;
                out.push(SelectItem::UnnamedExpr(expr));
            }
            SelectItem::ExprWithAlias { mut expr, alias } => {
                self.positions(&mut expr)?;
                out.push(SelectItem::ExprWithAlias { expr, alias });
            }
            other => out.push(other),
        }
        Ok(())
    }

    fn positions(&self, expr: &mut Expr) -> Step<()> {
        let mut failed = None;
        let _ = visit_expressions_mut(expr, |expr| {
            if let Expr::Identifier(ident) = expr
                && let Some(position) = position(ident)
            {
                match position.checked_sub(1).and_then(|at| self.columns.get(at)) {
                    Some(column) => *expr = self.reference(column),
                    None => failed = Some(wrong(format!("there is no column {position}"), expr)),
                }
            }
            ControlFlow::<()>::Continue(())
        });
        failed.map_or(Ok(()), |error| Err(error.into()))
    }

    /// The expression once for each column, with the column's name; with an empty one if it became one
    /// expression of all columns.
    fn each(&self, expr: &Expr) -> Step<Vec<(Expr, String)>> {
        let mut expr = expr.clone();
        if has(&expr, is_unpack) {
            self.unpack(&mut expr)?;
            if !has(&expr, is_columns) {
                return Ok(vec![(expr, String::new())]);
            }
        }
        let mut calls: Vec<Function> = Vec::new();
        let _ = visit_expressions(&expr, |expr| {
            if let Expr::Function(call) = expr
                && is_columns(&Expr::Function(call.clone()))
            {
                calls.push(call.clone());
            }
            ControlFlow::<()>::Continue(())
        });
        let Some(first) = calls.first() else { return Ok(vec![(expr, String::new())]) };
        if let Some(other) = calls.iter().find(|call| call.to_string() != first.to_string()) {
            return Err(wrong("an expression has two different COLUMNS(…)", &Expr::Function(other.clone())).into());
        }
        let chosen = self.call(first)?;
        let each = chosen.into_iter().map(|column| {
            let mut one = expr.clone();
            let _ = visit_expressions_mut(&mut one, |expr| {
                if is_columns(expr) {
                    *expr = column.expr.clone();
                }
                ControlFlow::<()>::Continue(())
            });
            (one, column.name)
        });
        Ok(each.collect())
    }

    /// `f(*COLUMNS(…))` is f of all of them.
    fn unpack(&self, expr: &mut Expr) -> Step<()> {
        let mut failed = None;
        let _ = visit_expressions_mut(expr, |expr| {
            let Expr::Function(Function { args: FunctionArguments::List(list), .. }) = expr else {
                return ControlFlow::<()>::Continue(());
            };
            let mut args = Vec::new();
            for arg in std::mem::take(&mut list.args) {
                match &arg {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(inner)) if is_unpack(inner) => {
                        let Expr::Function(call) = inner else { continue };
                        match self.call(call) {
                            Ok(chosen) => args.extend(
                                chosen.into_iter().map(|one| FunctionArg::Unnamed(FunctionArgExpr::Expr(one.expr))),
                            ),
                            Err(stop) => failed = Some(stop),
                        }
                    }
                    _ => args.push(arg),
                }
            }
            list.args = args;
            ControlFlow::Continue(())
        });
        failed.map_or(Ok(()), Err)
    }

    /// The columns that `COLUMNS(…)` means.
    fn call(&self, call: &Function) -> Step<Vec<Chosen>> {
        let FunctionArguments::List(list) = &call.args else { return Err(self.misused(call)) };
        let chosen = match list.args.as_slice() {
            [FunctionArg::Unnamed(FunctionArgExpr::Wildcard)] => {
                self.starred(None, &WildcardAdditionalOptions::default())?
            }
            [FunctionArg::Unnamed(FunctionArgExpr::WildcardWithOptions(options))] => self.starred(None, options)?,
            [FunctionArg::Unnamed(FunctionArgExpr::QualifiedWildcard(table))] => {
                self.starred(Some(table), &WildcardAdditionalOptions::default())?
            }
            [FunctionArg::Unnamed(FunctionArgExpr::Expr(expr))] => match expr {
                Expr::Value(value) => match value.value.clone().into_string() {
                    Some(pattern) => {
                        let pattern = regex(&pattern, expr)?;
                        self.filtered(|name| pattern.is_match(name))
                    }
                    None => return Err(self.misused(call)),
                },
                Expr::Array(Array { elem, .. }) => self.listed(elem)?,
                Expr::Lambda(lambda) => self.by_lambda(lambda)?,
                _ => return Err(self.misused(call)),
            },
            _ => return Err(self.misused(call)),
        };
        if chosen.is_empty() {
            let error = wrong(format!("no column is in {call}"), &Expr::Function(call.clone()));
            return Err(self.with_names(error).into());
        }
        Ok(chosen)
    }

    fn misused(&self, call: &Function) -> super::Stop {
        wrong("COLUMNS takes a regular expression, a list of names, a lambda, or *", &Expr::Function(call.clone()))
            .hint("COLUMNS('^a'), COLUMNS(['a', 'b']), COLUMNS(c -> c LIKE 'a%'), COLUMNS(* EXCLUDE (a))")
            .into()
    }

    fn with_names(&self, error: Error) -> Error {
        let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).take(20).collect();
        error.note(format!("the columns here are {}", names.join(", ")))
    }

    /// The regular expression of `COLUMNS('…')`, for names with its groups.
    fn pattern_of(&self, expr: &Expr) -> Step<Option<Regex>> {
        let mut pattern = None;
        let _ = visit_expressions(expr, |expr| {
            if is_columns(expr)
                && let Expr::Function(call) = expr
                && let [Expr::Value(value)] = ast::args(call).as_slice()
            {
                pattern = value.value.clone().into_string();
            }
            ControlFlow::<()>::Continue(())
        });
        pattern.map(|pattern| regex(&pattern, expr)).transpose()
    }

    /// The way to name a column: with its table where the name alone is not enough.
    fn reference(&self, column: &Column) -> Expr {
        let same = self.columns.iter().filter(|other| other.name == column.name).count();
        ast::column_of(column.table.as_ref().filter(|_| same > 1), &column.name)
    }

    fn filtered(&self, wanted: impl Fn(&str) -> bool) -> Vec<Chosen> {
        let wanted = self.columns.iter().filter(|column| wanted(&column.name));
        wanted.map(|column| Chosen { expr: self.reference(column), name: column.name.clone() }).collect()
    }

    fn listed(&self, names: &[Expr]) -> Step<Vec<Chosen>> {
        let mut chosen = Vec::new();
        for name in names {
            let text = match name {
                Expr::Value(value) => value.value.clone().into_string(),
                _ => None,
            };
            let text = text.ok_or_else(|| wrong("COLUMNS takes a list of names as text", name))?;
            let found = self.filtered(|name| name.eq_ignore_ascii_case(&text));
            if found.is_empty() {
                return Err(self.with_names(wrong(format!("no column named {text}"), name)).into());
            }
            chosen.extend(found);
        }
        Ok(chosen)
    }

    /// The names for which a lambda is true, found by a query over the names.
    fn by_lambda(&self, lambda: &LambdaFunction) -> Step<Vec<Chosen>> {
        let Some(parameter) = lambda.params.iter().next() else { return Ok(Vec::new()) };
        let rows = self.columns.iter().map(|column| Parens::with_empty_span(vec![ast::text(&column.name)])).collect();
        let values = SetExpr::Values(Values { explicit_row: false, value_keyword: false, rows });
        let mut alias = ast::alias("names");
        alias.columns.push(TableAliasColumnDef { name: parameter.name.clone(), data_type: None });
        let from = ast::alone(ast::derived(ast::query_of(values), Some(alias)));
        let item = SelectItem::UnnamedExpr(Expr::Identifier(parameter.name.clone()));
        let mut select = ast::select(vec![item], vec![from]);
        select.selection = Some(Expr::clone(&lambda.body));
        let rows = self.rewriter.constant(ast::query(select))?;
        let names: Vec<String> = rows.iter().flatten().map(|name| name.to_string()).collect();
        Ok(self.filtered(|name| names.iter().any(|found| found == name)))
    }

    /// `*` with its options.
    fn starred(&self, table: Option<&ObjectName>, options: &WildcardAdditionalOptions) -> Step<Vec<Chosen>> {
        let table = table.map(ast::last_part);
        let mut excluded: Vec<String> = match &options.opt_exclude {
            Some(ExcludeSelectItem::Single(name)) => vec![ast::last_part(name)],
            Some(ExcludeSelectItem::Multiple(names)) => names.iter().map(ast::last_part).collect(),
            None => Vec::new(),
        };
        if let Some(except) = &options.opt_except {
            excluded.extend(std::iter::once(&except.first_element).chain(&except.additional_elements).map(ast::meant));
        }
        let renamed: Vec<_> = match &options.opt_rename {
            Some(RenameSelectItem::Single(one)) => vec![one.clone()],
            Some(RenameSelectItem::Multiple(all)) => all.clone(),
            None => Vec::new(),
        };
        let renamed_names = renamed.iter().map(|one| ast::meant(&one.ident));
        for name in excluded.iter().cloned().chain(renamed_names) {
            if !self.columns.iter().any(|column| column.name == name) {
                let error = wrong(format!("no column named {name}"), &options.wildcard_token.0);
                return Err(self.with_names(error).into());
            }
        }
        let ilike = options.opt_ilike.as_ref().map(|like| like_pattern(&like.pattern)).transpose()?;
        let mut chosen = Vec::new();
        for column in self.columns.iter() {
            let of_table = table.as_ref().is_none_or(|table| column.table.as_ref().is_some_and(|t| t.table() == table));
            let like = ilike.as_ref().is_none_or(|pattern| pattern.is_match(&column.name));
            if !of_table || !like || excluded.contains(&column.name) {
                continue;
            }
            let replaced = options.opt_replace.iter().flat_map(|replace| &replace.items);
            let replaced = replaced.into_iter().find(|item| ast::meant(&item.column_name) == column.name);
            let expr = replaced.map_or_else(|| self.reference(column), |item| item.expr.clone());
            let renamed = renamed.iter().find(|one| ast::meant(&one.ident) == column.name);
            let name = renamed.map_or_else(|| column.name.clone(), |one| ast::meant(&one.alias));
            chosen.push(Chosen { expr, name });
        }
        Ok(chosen)
    }
}

/// The column under its name; one that has it already stays as it is.
fn named(column: Chosen) -> SelectItem {
    let same = matches!(&column.expr, Expr::Identifier(ident) if ident.value == column.name);
    ast::item(column.expr, (!same).then(|| ast::name(&column.name)))
}

fn regex(pattern: &str, place: &Expr) -> Step<Regex> {
    let unread = |_| wrong(format!("'{pattern}' is not a regular expression"), place).into();
    Regex::new(pattern).map_err(unread)
}

/// `a%` as a regular expression, in any case of letters.
fn like_pattern(pattern: &str) -> Step<Regex> {
    let text = regex::escape(pattern).replace('%', ".*").replace('_', ".");
    regex(&format!("(?is)^{text}$"), &Expr::value(Value::Null))
}

/// The alias with what the pattern found in the name in place of `\0`, `\1`, ….
fn groups(pattern: &Regex, name: &str, alias: &str) -> String {
    let Some(found) = pattern.captures(name) else { return alias.to_owned() };
    (0..10).fold(alias.to_owned(), |alias, n| {
        alias.replace(&format!("\\{n}"), found.get(n).map_or("", |group| group.as_str()))
    })
}
