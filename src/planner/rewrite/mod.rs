//! Friendly SQL → the SQL that DataFusion plans.
//!
//! Enters: a parsed statement, and what is known about its tables. Leaves: the same in plainer words
//! (projections, aggregates, joins, windows, unnest), or a [`Question`] that has to be answered first.
//! Always holds: the same statement with the same answers gives the same result; nothing is looked up here.
//!
//! What `COLUMNS(*)` means depends on the columns of FROM, and the columns of a PIVOT on the data. Whoever
//! calls [`rewrite`] answers one question after the other, and calls again until there is none.

mod alias;
mod ast;
mod casts;
mod columns;
mod limit;
mod macros;
mod pivot;
mod special;
mod summarize;
mod unpivot;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::{ScalarValue, TableReference};
use datafusion::sql::parser::{CopyToSource, Statement as Body};
use datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken;
use datafusion::sql::sqlparser::ast::{
    Cte, Expr, ObjectName, OrderByKind, Query, Select, SelectItem, SetExpr, Spanned, Statement as Sql, TableFactor,
    TableWithJoins, VisitMut, VisitorMut, With,
};

use crate::error::{Error, Result, Span};
use crate::parser::{self, is_mark, mark};

pub use macros::{Definition, Macros, definition};

/// What has to be known before a statement can be rewritten.
#[derive(Debug)]
pub(super) enum Question {
    /// The columns of a query.
    Columns(Box<Query>),
    /// The rows of a query.
    Rows(Box<Query>),
    /// The rows of a query that reads no table.
    Constant(Box<Query>),
}

/// A column that a query can use.
#[derive(Debug, Clone)]
pub(super) struct Column {
    /// The table that it belongs to.
    pub table: Option<TableReference>,
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: DataType,
    /// True if it may be NULL.
    pub nullable: bool,
}

/// What is known, by the text of the query that asked for it.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Answers to [`Question::Columns`].
    pub columns: HashMap<String, Arc<[Column]>>,
    /// Answers to [`Question::Rows`] and [`Question::Constant`].
    pub rows: HashMap<String, Arc<[Vec<ScalarValue>]>>,
}

/// How far a rewrite came.
#[derive(Debug)]
pub(super) enum Progress {
    /// To the end.
    Done,
    /// To a question.
    Ask(Question),
}

/// Rewrites a statement in place; what is left behind a [`Progress::Ask`] is of no use. `aliases`: names of
/// columns of a SELECT may stand in its other clauses.
pub(super) fn rewrite(
    body: &mut Body,
    answers: &Answers,
    is_aggregate: &dyn Fn(&str) -> bool,
    aliases: bool,
) -> Result<Progress> {
    let mut pass = Rewriter { answers, is_aggregate, aliases, scopes: Vec::new(), withs: Vec::new() };
    match visit_body(body, &mut pass) {
        ControlFlow::Continue(()) => Ok(Progress::Done),
        ControlFlow::Break(Stop::Ask(question)) => Ok(Progress::Ask(question)),
        ControlFlow::Break(Stop::Fail(error)) => Err(error),
    }
}

/// A value as a literal of SQL, if its type has one.
pub(super) fn literal(value: &ScalarValue) -> Option<Expr> {
    ast::literal(value)
}

/// `SELECT value`.
pub(super) fn value_query(value: Expr) -> Query {
    ast::query(ast::select(vec![SelectItem::UnnamedExpr(value)], Vec::new()))
}

/// `SELECT * FROM name`.
pub(super) fn all_of(name: ObjectName) -> Query {
    let relation = ast::table(name);
    ast::query(ast::select_all(vec![TableWithJoins { relation, joins: Vec::new() }]))
}

fn visit_body<V: VisitorMut>(body: &mut Body, visitor: &mut V) -> ControlFlow<V::Break> {
    match body {
        Body::Statement(sql) => sql.visit(visitor),
        Body::CopyTo(copy) => match &mut copy.source {
            CopyToSource::Query(query) => query.visit(visitor),
            CopyToSource::Relation(_) => ControlFlow::Continue(()),
        },
        Body::Explain(explain) => visit_body(&mut explain.statement, visitor),
        Body::CreateExternalTable(_) | Body::Reset(_) => ControlFlow::Continue(()),
    }
}

/// Why a rewrite does not go on.
#[derive(Debug)]
enum Stop {
    Ask(Question),
    Fail(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Fail(error)
    }
}

type Step<T> = Result<T, Stop>;

struct Rewriter<'a> {
    answers: &'a Answers,
    is_aggregate: &'a dyn Fn(&str) -> bool,
    aliases: bool,
    /// The common table expressions that can be seen, by query.
    scopes: Vec<Vec<Cte>>,
    /// The WITH of each query that is being visited.
    withs: Vec<Option<With>>,
}

impl Rewriter<'_> {
    /// The query with all common table expressions that can be seen here.
    fn in_scope(&self, mut query: Query) -> Query {
        let mut ctes: Vec<Cte> = Vec::new();
        for cte in self.scopes.iter().flatten() {
            ctes.retain(|outer| ast::meant(&outer.alias.name) != ast::meant(&cte.alias.name));
            ctes.push(cte.clone());
        }
        if !ctes.is_empty() {
            query.with = Some(With { with_token: AttachedToken::empty(), recursive: true, cte_tables: ctes });
        }
        query
    }

    fn columns_of_query(&self, query: Query) -> Step<Arc<[Column]>> {
        let query = self.in_scope(query);
        match self.answers.columns.get(&query.to_string()) {
            Some(columns) => Ok(Arc::clone(columns)),
            None => Err(Stop::Ask(Question::Columns(Box::new(query)))),
        }
    }

    /// The columns that a SELECT of these tables can use.
    fn columns_of(&self, from: &[TableWithJoins]) -> Step<Arc<[Column]>> {
        self.columns_of_query(ast::query(ast::select_all(from.to_vec())))
    }

    fn rows(&self, query: Query) -> Step<Arc<[Vec<ScalarValue>]>> {
        let query = self.in_scope(query);
        match self.answers.rows.get(&query.to_string()) {
            Some(rows) => Ok(Arc::clone(rows)),
            None => Err(Stop::Ask(Question::Rows(Box::new(query)))),
        }
    }

    fn constant(&self, query: Query) -> Step<Arc<[Vec<ScalarValue>]>> {
        match self.answers.rows.get(&query.to_string()) {
            Some(rows) => Ok(Arc::clone(rows)),
            None => Err(Stop::Ask(Question::Constant(Box::new(query)))),
        }
    }

    fn select(&self, select: &mut Select) -> Step<()> {
        let first = match select.projection.first() {
            Some(SelectItem::UnnamedExpr(Expr::Identifier(first))) => first.clone(),
            _ => return self.plain_select(select),
        };
        if is_mark(&first, mark::PIVOT) {
            *select = pivot::statement(self, select)?;
        } else if is_mark(&first, mark::UNPIVOT) {
            *select = unpivot::statement(self, select)?;
        } else if is_mark(&first, mark::SUMMARIZE) {
            *select = summarize::summarize(self, &select.from)?;
        } else if is_mark(&first, mark::DESCRIBE) {
            *select = summarize::describe(self, &select.from)?;
        } else {
            return self.plain_select(select);
        }
        Ok(())
    }

    fn plain_select(&self, select: &mut Select) -> Step<()> {
        columns::expand(self, select)?;
        if self.aliases {
            alias::inline(self, select)?;
        }
        casts::tell_apart(select);
        Ok(())
    }

    fn order(&self, query: &mut Query) -> Step<()> {
        if let SetExpr::Select(select) = query.body.as_ref()
            && let Some(order) = &mut query.order_by
            && let OrderByKind::Expressions(exprs) = &mut order.kind
        {
            columns::expand_order(self, &select.from, exprs)?;
        }
        parser::order_by_all(query);
        Ok(())
    }

    fn factor(&self, factor: &mut TableFactor) -> Step<()> {
        match factor {
            TableFactor::Pivot { .. } => *factor = pivot::factor(self, factor)?,
            TableFactor::Unpivot { .. } => *factor = unpivot::factor(self, factor)?,
            _ => {}
        }
        Ok(())
    }

    /// `INSERT … BY NAME`: the columns are those of the query.
    fn insert(&self, statement: &mut Sql) -> Step<()> {
        let Sql::Insert(insert) = statement else { return Ok(()) };
        let marked = |column: &ObjectName| {
            column.0.first().and_then(|part| part.as_ident()).is_some_and(|ident| is_mark(ident, mark::BY_NAME))
        };
        if let ([column], Some(source)) = (insert.columns.as_slice(), &insert.source)
            && marked(column)
        {
            let columns = self.columns_of_query(Query::clone(source))?;
            insert.columns = columns.iter().map(|column| ObjectName::from(vec![ast::name(&column.name)])).collect();
        }
        Ok(())
    }
}

fn flow(step: Step<()>) -> ControlFlow<Stop> {
    match step {
        Ok(()) => ControlFlow::Continue(()),
        Err(stop) => ControlFlow::Break(stop),
    }
}

/// Where a piece of SQL stands, if it does.
pub(super) fn place(node: &impl Spanned) -> Option<Span> {
    let span = node.span();
    (span.start.line > 0).then(|| Span::from(span))
}

fn wrong(message: impl Into<String>, node: &impl Spanned) -> Error {
    let error = Error::sql(message);
    match place(node) {
        Some(place) => error.at(place),
        None => error,
    }
}

impl VisitorMut for Rewriter<'_> {
    type Break = Stop;

    /// Common table expressions first: what follows can see them. The WITH is put aside meanwhile, so that it
    /// is not visited twice.
    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Stop> {
        ast::name_second_queries(&mut query.body);
        let mut with = query.with.take();
        self.scopes.push(Vec::new());
        if let Some(with) = &mut with {
            for cte in &mut with.cte_tables {
                let itself = with.recursive.then(|| cte.clone());
                if let Some(scope) = self.scopes.last_mut() {
                    scope.extend(itself.clone());
                }
                cte.query.visit(self)?;
                if let Some(scope) = self.scopes.last_mut() {
                    if itself.is_some() {
                        scope.pop();
                    }
                    scope.push(cte.clone());
                }
            }
        }
        self.withs.push(with);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Stop> {
        let step = self.order(query).and_then(|()| limit::percent(self, query));
        self.scopes.pop();
        query.with = self.withs.pop().flatten();
        flow(step)
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<Stop> {
        flow(self.select(select))
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Stop> {
        flow(self.factor(factor))
    }

    fn post_visit_statement(&mut self, statement: &mut Sql) -> ControlFlow<Stop> {
        flow(self.insert(statement))
    }
}
