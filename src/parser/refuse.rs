//! What would be ignored must not pass.
//!
//! Enters: a parsed statement. Leaves: the same, with a few spellings rewritten into ones that are
//! planned (TABLESAMPLE, FETCH FIRST), or an error for a clause that DataFusion would drop in silence.
//! Always holds: no clause that a user wrote is ignored.

use std::ops::ControlFlow;

use datafusion::sql::parser::{CopyToSource, Statement as Body};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, DuplicateTreatment, Expr, Fetch, FunctionArg, FunctionArgExpr, FunctionArguments, Ident,
    LimitClause, OrderByExpr, OrderByKind, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr,
    Statement as Sql, TableAlias, TableFactor, TableSample, TableSampleKind, TableSampleUnit, Value, VisitMut,
    VisitorMut, visit_expressions,
};
use datafusion::sql::sqlparser::parser::Parser;

use super::inline::Inlined;
use super::{calls, chain};
use crate::config::{CHAIN_OPERANDS_LIMIT, EXPRESSION_OPERANDS_LIMIT, INLINED_TABLES_LIMIT};
use crate::error::{Error, Result};

/// Rewrites what can be planned, refuses what would be ignored.
pub(super) fn check(body: &mut Body) -> Result<()> {
    match body {
        Body::Statement(sql) => walk(sql.as_mut()),
        Body::CopyTo(copy) => match &mut copy.source {
            CopyToSource::Query(query) => walk(query.as_mut()),
            CopyToSource::Relation(_) => Ok(()),
        },
        Body::Explain(explain) => check(explain.statement.as_mut()),
        Body::CreateExternalTable(_) | Body::Reset(_) => Ok(()),
    }
}

fn walk(node: &mut impl VisitMut) -> Result<()> {
    let mut pass = Pass { operands: 0, inlined: Inlined::default() };
    if let ControlFlow::Break(error) = node.visit(&mut pass) {
        return Err(error);
    }
    if pass.inlined.extra() > INLINED_TABLES_LIMIT {
        return Err(Error::sql(format!(
            "the queries of WITH read tables over {INLINED_TABLES_LIMIT} times, each name replaced by its query"
        ))
        .hint("CREATE TABLE … AS computes once what is read often"));
    }
    Ok(())
}

struct Pass {
    operands: usize,
    inlined: Inlined,
}

impl VisitorMut for Pass {
    type Break = Error;

    fn pre_visit_statement(&mut self, statement: &mut Sql) -> ControlFlow<Error> {
        stop(match statement {
            Sql::Merge { .. } => Some("MERGE"),
            Sql::CreateIndex(_) => Some("CREATE INDEX"),
            _ => None,
        })
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        self.inlined.leave(query);
        ControlFlow::Continue(())
    }

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        chain::balance_unions(&mut query.body);
        self.inlined.enter(query);
        if let Some(fetch) = query.fetch.take() {
            limit(query, fetch)?;
        }
        order_by_all(query);
        stop(if !query.locks.is_empty() {
            Some("FOR UPDATE and FOR SHARE")
        } else if query.for_clause.is_some() {
            Some("FOR XML, JSON and BROWSE")
        } else if query.settings.is_some() {
            Some("SETTINGS")
        } else if query.format_clause.is_some() {
            Some("FORMAT")
        } else {
            None
        })
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        for at in 0..select.projection.len() {
            check_replaced(select, at);
        }
        for item in &select.projection {
            if let SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::Expr(_), _) = item {
                return stop(Some("an expression before .*"));
            }
        }
        stop(if !select.connect_by.is_empty() {
            Some("CONNECT BY")
        } else if select.prewhere.is_some() {
            Some("PREWHERE")
        } else if select.value_table_mode.is_some() {
            Some("SELECT AS STRUCT and AS VALUE")
        } else if select.select_modifiers.is_some() {
            Some("a modifier of SELECT")
        } else if select.exclude.is_some() {
            Some("EXCLUDE behind the columns")
        } else {
            None
        })
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        if let TableFactor::Table { name, .. } = factor {
            self.inlined.read(name);
        }
        calls::name_call(factor);
        if let Err(error) = calls::name_version(factor) {
            return ControlFlow::Break(error);
        }
        let sample = match factor {
            TableFactor::Table { sample, with_hints, partitions, json_path, index_hints, version, .. } => {
                stop(if !with_hints.is_empty() {
                    Some("a table hint")
                } else if !partitions.is_empty() {
                    Some("PARTITION of a table")
                } else if json_path.is_some() {
                    Some("a JSON path behind a table")
                } else if !index_hints.is_empty() {
                    Some("an index hint")
                } else if version.is_some() {
                    Some("FOR SYSTEM_TIME")
                } else {
                    None
                })?;
                sample.take()
            }
            TableFactor::Derived { sample, .. } => sample.take(),
            _ => None,
        };
        match sample {
            Some(TableSampleKind::BeforeTableAlias(sample) | TableSampleKind::AfterTableAlias(sample)) => {
                rewrite_sample(factor, *sample)
            }
            None => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        if let Expr::BinaryOp { left, op: BinaryOperator::Arrow, .. } = expr {
            bare(left);
        }
        if let Expr::Function(call) = expr
            && let FunctionArguments::List(list) = &call.args
            && list.duplicate_treatment == Some(DuplicateTreatment::Distinct)
            && list.args.iter().any(|arg| matches!(arg, FunctionArg::Unnamed(FunctionArgExpr::Wildcard)))
        {
            let error = Error::sql(format!("{}(DISTINCT *) is not supported", call.name)).mark("DISTINCT");
            return ControlFlow::Break(
                error.hint("SELECT count(*) FROM (SELECT DISTINCT * FROM t) counts distinct rows"),
            );
        }
        self.operands += chain::balance(expr);
        if chain::other_chain(expr) > EXPRESSION_OPERANDS_LIMIT {
            let error = Error::sql(format!("an expression has over {EXPRESSION_OPERANDS_LIMIT} operands in a row"))
                .hint("put the values into a file or a VALUES list and use sum() or string_agg()");
            return ControlFlow::Break(error);
        }
        if self.operands > CHAIN_OPERANDS_LIMIT {
            let error = Error::sql(format!("the statement has over {CHAIN_OPERANDS_LIMIT} terms joined by AND or OR"))
                .hint("put the values into a file or a VALUES list and join with it, or use IN (…)");
            return ControlFlow::Break(error);
        }
        ControlFlow::Continue(())
    }
}

/// `((name))`, which [`super::respell`] writes before an arrow, is the name.
fn bare(expr: &mut Box<Expr>) {
    if let Expr::Nested(outer) = expr.as_mut()
        && let Expr::Nested(inner) = outer.as_mut()
        && let Expr::Identifier(name) = inner.as_ref()
    {
        **expr = Expr::Identifier(name.clone());
    }
}

fn stop(what: Option<&str>) -> ControlFlow<Error> {
    match what {
        Some(what) => ControlFlow::Break(Error::sql(format!("{what} is not supported"))),
        None => ControlFlow::Continue(()),
    }
}

/// `* REPLACE (… AS a)` wants a column `a`, which DataFusion does not check: `a IS NULL OR TRUE` names it, and is gone
/// once the query is planned.
fn check_replaced(select: &mut Select, at: usize) {
    let (options, table) = match &select.projection[at] {
        SelectItem::Wildcard(options) => (options, None),
        SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), options) => {
            (options, Some(name.0.iter().filter_map(|part| part.as_ident().cloned()).collect::<Vec<_>>()))
        }
        _ => return,
    };
    for replaced in options.opt_replace.iter().flat_map(|replace| &replace.items) {
        let name = replaced.column_name.clone();
        let column = match &table {
            Some(table) => Expr::CompoundIdentifier(table.iter().cloned().chain([name]).collect()),
            None => Expr::Identifier(name),
        };
        let or = |left: Expr, op, right: Expr| Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) };
        let known = Expr::IsNull(Box::new(column));
        let known = Expr::Nested(Box::new(or(known, BinaryOperator::Or, Expr::value(Value::Boolean(true)))));
        select.selection = Some(match select.selection.take() {
            Some(selection) => or(Expr::Nested(Box::new(selection)), BinaryOperator::And, known),
            None => known,
        });
    }
}

/// `FETCH FIRST n ROWS ONLY` is LIMIT n.
fn limit(query: &mut Query, fetch: Fetch) -> ControlFlow<Error> {
    if fetch.with_ties || fetch.percent {
        return stop(Some("FETCH … WITH TIES or PERCENT"));
    }
    let count = fetch.quantity.unwrap_or_else(|| Expr::value(Value::Number("1".to_owned(), false)));
    match &mut query.limit_clause {
        Some(LimitClause::LimitOffset { limit: limit @ None, .. }) => *limit = Some(count),
        Some(_) => return stop(Some("LIMIT together with FETCH")),
        none => *none = Some(LimitClause::LimitOffset { limit: Some(count), offset: None, limit_by: Vec::new() }),
    }
    ControlFlow::Continue(())
}

/// ORDER BY ALL is ORDER BY 1, 2, …: DataFusion takes it for plain columns only.
pub(super) fn order_by_all(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_ref() else { return };
    let named = |item: &SelectItem| matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. });
    let Some(order) = &mut query.order_by else { return };
    if let OrderByKind::All(options) = &order.kind
        && select.projection.iter().all(named)
        && !select.projection.iter().any(is_several)
    {
        let options = *options;
        let position = |at: usize| OrderByExpr {
            expr: Expr::value(Value::Number(at.to_string(), false)),
            options,
            with_fill: None,
        };
        order.kind = OrderByKind::Expressions((1..=select.projection.len()).map(position).collect());
    }
}

/// True for what the planner makes several columns of, or another query: its position is not known yet.
fn is_several(item: &SelectItem) -> bool {
    let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else { return true };
    visit_expressions(expr, |expr| match expr {
        Expr::Function(call) if call.name.to_string().to_lowercase().contains("columns") => ControlFlow::Break(()),
        Expr::Identifier(name) if name.value.starts_with("fuse.") => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    })
    .is_break()
}

/// `t TABLESAMPLE BERNOULLI (10)` becomes `(SELECT * FROM t WHERE random() * 100 < 10) AS t`.
fn rewrite_sample(factor: &mut TableFactor, sample: TableSample) -> ControlFlow<Error> {
    if sample.seed.is_some() {
        return stop(Some("REPEATABLE (seed) of TABLESAMPLE"));
    }
    let (Some(quantity), None, None) = (sample.quantity, sample.bucket, sample.offset) else {
        return stop(Some("this form of TABLESAMPLE"));
    };
    let tail = match quantity.unit {
        Some(TableSampleUnit::Rows) => format!("ORDER BY random() LIMIT {}", quantity.value),
        Some(TableSampleUnit::Percent) | None => format!("WHERE random() * 100 < ({})", quantity.value),
    };
    match sampled(factor, &tail) {
        Ok(rewritten) => {
            *factor = rewritten;
            ControlFlow::Continue(())
        }
        Err(error) => ControlFlow::Break(error),
    }
}

fn sampled(factor: &TableFactor, tail: &str) -> Result<TableFactor> {
    let mut inner = factor.clone();
    let alias = match &mut inner {
        TableFactor::Table { name, alias, .. } => {
            let last = name.0.last().and_then(|part| part.as_ident()).cloned();
            alias.take().or_else(|| last.map(plain_alias))
        }
        TableFactor::Derived { alias, .. } => alias.take(),
        _ => None,
    };
    let text = format!("SELECT * FROM hole {tail}");
    let mut parser = Parser::new(&super::FuseDialect::PLAIN)
        .try_with_sql(&text)
        .map_err(|e| Error::sql(format!("TABLESAMPLE cannot be read: {e}")))?;
    let mut query = parser.parse_query().map_err(|e| Error::sql(format!("TABLESAMPLE cannot be read: {e}")))?;
    if let SetExpr::Select(select) = query.body.as_mut()
        && let Some(from) = select.from.first_mut()
    {
        from.relation = inner;
    }
    Ok(TableFactor::Derived { lateral: false, subquery: query, alias, sample: None })
}

fn plain_alias(name: Ident) -> TableAlias {
    TableAlias { explicit: true, name, columns: Vec::new(), at: None }
}
