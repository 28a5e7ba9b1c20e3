//! Pieces of SQL, built by hand.
//!
//! Enters: names, texts and expressions. Leaves: syntax trees. Always holds: names are quoted, so that they
//! mean exactly the column that they came from.

use datafusion::common::{ScalarValue, TableReference};
use datafusion::logical_expr::Expr as PlanExpr;
use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr,
    Ident, ObjectName, Query, Select, SelectFlavor, SelectItem, SetExpr, SetQuantifier, TableAlias, TableFactor,
    TableWithJoins, Value, WildcardAdditionalOptions,
};
use datafusion::sql::unparser::expr_to_sql;

use crate::parser;

/// A quoted name.
pub(super) fn name(text: &str) -> Ident {
    Ident::with_quote('"', text)
}

/// A column by its name alone.
pub(super) fn column(text: &str) -> Expr {
    Expr::Identifier(name(text))
}

/// A column of a table.
pub(super) fn column_of(table: Option<&TableReference>, text: &str) -> Expr {
    let Some(table) = table else { return column(text) };
    Expr::CompoundIdentifier(table.to_vec().iter().map(|part| name(part)).chain([name(text)]).collect())
}

/// A literal text.
pub(super) fn text(value: &str) -> Expr {
    Expr::value(Value::SingleQuotedString(value.to_owned()))
}

/// A literal number.
pub(super) fn number(value: impl ToString) -> Expr {
    Expr::value(Value::Number(value.to_string(), false))
}

/// NULL.
pub(super) fn null() -> Expr {
    Expr::value(Value::Null)
}

/// A value as a literal, if SQL can spell its type.
pub(super) fn literal(value: &ScalarValue) -> Option<Expr> {
    expr_to_sql(&PlanExpr::Literal(value.clone(), None)).ok()
}

/// `function(args)`.
pub(super) fn call(function: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|arg| FunctionArg::Unnamed(FunctionArgExpr::Expr(arg))).collect();
    parser::call(function, args)
}

/// `count(*)`.
pub(super) fn count_rows() -> Expr {
    parser::call("count", vec![FunctionArg::Unnamed(FunctionArgExpr::Wildcard)])
}

/// `CAST(expr AS kind)`.
pub(super) fn cast(expr: Expr, kind: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type: kind, array: false, format: None }
}

/// `left op right`, each in parentheses.
pub(super) fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    let nested = |expr: Expr| match expr {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Value(_) | Expr::Nested(_) => Box::new(expr),
        other => Box::new(Expr::Nested(Box::new(other))),
    };
    Expr::BinaryOp { left: nested(left), op, right: nested(right) }
}

/// All of them, or nothing if there are none.
pub(super) fn all(conditions: impl IntoIterator<Item = Expr>) -> Option<Expr> {
    conditions.into_iter().reduce(|left, right| binary(left, BinaryOperator::And, right))
}

/// A column of a SELECT.
pub(super) fn item(expr: Expr, alias: Option<Ident>) -> SelectItem {
    match alias {
        Some(alias) => SelectItem::ExprWithAlias { expr, alias },
        None => SelectItem::UnnamedExpr(expr),
    }
}

/// `SELECT projection FROM from`.
pub(super) fn select(projection: Vec<SelectItem>, from: Vec<TableWithJoins>) -> Select {
    Select {
        select_token: AttachedToken::empty(),
        optimizer_hints: Vec::new(),
        distinct: None,
        select_modifiers: None,
        top: None,
        top_before_distinct: false,
        projection,
        exclude: None,
        into: None,
        from,
        lateral_views: Vec::new(),
        prewhere: None,
        selection: None,
        connect_by: Vec::new(),
        group_by: GroupByExpr::Expressions(Vec::new(), Vec::new()),
        cluster_by: Vec::new(),
        distribute_by: Vec::new(),
        sort_by: Vec::new(),
        having: None,
        named_window: Vec::new(),
        qualify: None,
        window_before_qualify: false,
        value_table_mode: None,
        flavor: SelectFlavor::Standard,
    }
}

/// `SELECT *` of these tables.
pub(super) fn select_all(from: Vec<TableWithJoins>) -> Select {
    select(vec![SelectItem::Wildcard(WildcardAdditionalOptions::default())], from)
}

/// A table by its name.
pub(super) fn table(name: ObjectName) -> TableFactor {
    TableFactor::Table {
        name,
        alias: None,
        args: None,
        with_hints: Vec::new(),
        version: None,
        with_ordinality: false,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    }
}

/// A SELECT as a whole query.
pub(super) fn query(select: Select) -> Query {
    query_of(SetExpr::Select(Box::new(select)))
}

/// Any body as a whole query.
pub(super) fn query_of(body: SetExpr) -> Query {
    Query {
        with: None,
        body: Box::new(body),
        order_by: None,
        limit_clause: None,
        fetch: None,
        locks: Vec::new(),
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators: Vec::new(),
    }
}

/// A query in FROM.
pub(super) fn derived(query: Query, alias: Option<TableAlias>) -> TableFactor {
    TableFactor::Derived { lateral: false, subquery: Box::new(query), alias, sample: None }
}

/// The alias of a table, and of its columns.
pub(super) fn alias(table: &str) -> TableAlias {
    TableAlias { explicit: true, name: name(table), columns: Vec::new(), at: None }
}

/// A table without joins.
pub(super) fn alone(relation: TableFactor) -> TableWithJoins {
    TableWithJoins { relation, joins: Vec::new() }
}

/// The name that an identifier means: unquoted ones are in lower case.
pub(super) fn meant(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// The last part of a name with dots.
pub(super) fn last_part(name: &ObjectName) -> String {
    name.0.last().and_then(|part| part.as_ident()).map(meant).unwrap_or_default()
}

/// The expressions among the arguments of a call.
pub(super) fn args(call: &Function) -> Vec<&Expr> {
    let FunctionArguments::List(list) = &call.args else { return Vec::new() };
    let plain = list.args.iter().filter_map(|arg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    });
    plain.collect()
}
/// Names the columns of queries that stand second in a UNION, INTERSECT or EXCEPT: the names of the first are those
/// of the result, and DataFusion gives them to expressions, where they may meet a column of that name at another place.
pub(super) fn name_second_queries(body: &mut SetExpr) {
    let SetExpr::SetOperation { left, right, set_quantifier, .. } = body else { return };
    use SetQuantifier::{AllByName, ByName, DistinctByName};
    if matches!(set_quantifier, ByName | AllByName | DistinctByName) {
        return;
    }
    name_second_queries(left);
    let mut rest = vec![right];
    while let Some(query) = rest.pop() {
        match query.as_mut() {
            SetExpr::SetOperation { left, right, .. } => rest.extend([left, right]),
            SetExpr::Select(select) => name_columns(select),
            _ => {}
        }
    }
}

fn name_columns(select: &mut Select) {
    let is_column = |expr: &Expr| matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
    let computes = |item: &SelectItem| matches!(item, SelectItem::UnnamedExpr(expr) if !is_column(expr));
    if !select.projection.iter().any(computes) {
        return;
    }
    for (at, item) in select.projection.iter_mut().enumerate() {
        if let SelectItem::UnnamedExpr(expr) = item
            && is_column(expr)
        {
            let (expr, alias) = (expr.clone(), Ident::with_quote('"', format!("column {at} of a second query")));
            *item = SelectItem::ExprWithAlias { expr, alias };
        }
    }
}
