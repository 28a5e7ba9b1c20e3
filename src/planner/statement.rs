//! A statement → DataFusion's logical plan.
//!
//! Enters: a statement as users write it, and whoever can answer what a rewrite has to know. Leaves: a plan
//! of ordinary nodes. Always holds: the session's tables are as they were; an error is about the statement
//! as it was written.

use std::sync::Arc;

use arrow::array::{AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, LogicalPlanBuilder, ScalarUDF, Volatility, create_udf, lit,
};
use datafusion::sql::parser::Statement as Body;
use datafusion::sql::sqlparser::ast::{Expr as SqlExpr, Query, Statement as Sql};
use futures::future::BoxFuture;

use super::rewrite::{Answers, Column, Macros, Progress, Question, literal, rewrite, value_query};
use super::{inlined, joins, misplaced, repair};
use crate::config::QUESTIONS_LIMIT;
use crate::error::{Error, Result, sql_type};

/// Runs a query while a statement is planned. The flag: it reads no tables.
pub type Run<'a> = &'a (dyn Fn(LogicalPlan, bool) -> BoxFuture<'a, Result<Vec<RecordBatch>>> + Send + Sync);

/// Plans one statement.
pub async fn plan(state: &SessionState, macros: &Macros, body: Body, run: Run<'_>) -> Result<LogicalPlan> {
    let mut body = body;
    let is_aggregate = |name: &str| state.aggregate_functions().contains_key(name);
    misplaced::refuse(&body, state)?;
    macros.expand(&mut body, &is_aggregate)?;
    let mut answers = Answers::default();
    let plain = rewritten(state, &body, &mut answers, false, run).await?;
    let error = match state.statement_to_plan(plain.clone()).await {
        Ok(plan) => {
            inlined::refuse_many(&plain, &plan)?;
            misplaced::refuse_ranges(&plan)?;
            let shows_columns = matches!(&plain, Body::Statement(sql) if matches!(**sql, Sql::ShowColumns { .. }));
            let plan = if shows_columns { with_sql_types(plan)? } else { described(plan)? };
            return repair::repair(plan);
        }
        Err(error) => Error::from(error),
    };
    // Names that no table has may be those of columns of the SELECT itself.
    if error.message.starts_with("no column named")
        && let Ok(with_aliases) = rewritten(state, &body, &mut answers, true, run).await
        && with_aliases != plain
    {
        let plan = state.statement_to_plan(with_aliases).await;
        return repair::repair(plan?);
    }
    Err(error)
}

/// DESCRIBE with types as SQL names them.
fn described(plan: LogicalPlan) -> Result<LogicalPlan> {
    let LogicalPlan::DescribeTable(table) = &plan else { return Ok(plan) };
    let row = |field: &Arc<Field>| {
        let nullable = if field.is_nullable() { "YES" } else { "NO" };
        vec![lit(field.name().clone()), lit(sql_type(field.data_type())), lit(nullable)]
    };
    let rows: Vec<Vec<Expr>> = table.schema.fields().iter().map(row).collect();
    if rows.is_empty() {
        return Ok(plan);
    }
    let values = LogicalPlanBuilder::values(rows)?;
    let names = ["column_name", "data_type", "is_nullable"];
    let columns =
        values.schema().columns().into_iter().zip(names).map(|(column, name)| Expr::Column(column).alias(name));
    Ok(values.project(columns.collect::<Vec<_>>())?.build()?)
}

/// SHOW COLUMNS with types as SQL names them.
fn with_sql_types(plan: LogicalPlan) -> Result<LogicalPlan> {
    let columns = plan.schema().columns().into_iter().map(|column| match column.name.as_str() {
        "data_type" => sql_type_of().call(vec![Expr::Column(column)]).alias("data_type"),
        _ => Expr::Column(column),
    });
    Ok(LogicalPlanBuilder::from(plan.clone()).project(columns.collect::<Vec<_>>())?.build()?)
}

/// The function that puts the name of an Arrow type as SQL does.
fn sql_type_of() -> ScalarUDF {
    let named = |args: &[ColumnarValue]| {
        let columns = ColumnarValue::values_to_arrays(args)?;
        let names = cast(&columns[0], &DataType::Utf8)?;
        let named = names.as_string::<i32>().iter().map(|name| {
            let kind = name.and_then(|name| name.parse::<DataType>().ok());
            kind.map_or(name.map(str::to_owned), |kind| Some(sql_type(&kind)))
        });
        Ok(ColumnarValue::Array(Arc::new(named.collect::<StringArray>())))
    };
    create_udf("sql_type", vec![DataType::Utf8], DataType::Utf8, Volatility::Immutable, Arc::new(named))
}

/// Answers one question after the other, until the statement can be rewritten.
async fn rewritten(
    state: &SessionState,
    body: &Body,
    answers: &mut Answers,
    aliases: bool,
    run: Run<'_>,
) -> Result<Body> {
    for _ in 0..QUESTIONS_LIMIT {
        let mut attempt = body.clone();
        let progress = {
            let is_aggregate = |name: &str| state.aggregate_functions().contains_key(name);
            rewrite(&mut attempt, answers, &is_aggregate, aliases)?
        };
        match progress {
            Progress::Done => {
                group_joins(&mut attempt);
                return Ok(attempt);
            }
            Progress::Ask(Question::Columns(query)) => {
                let text = query.to_string();
                let plan = plan_query(state, *query).await?;
                let columns: Arc<[Column]> = columns(&plan);
                answers.columns.insert(text, columns);
            }
            Progress::Ask(Question::Rows(query)) => {
                let text = query.to_string();
                let plan = plan_query(state, *query).await?;
                answers.rows.insert(text, rows(&run(plan, false).await?)?);
            }
            Progress::Ask(Question::Constant(query)) => {
                let text = query.to_string();
                let plan = plan_query(state, *query).await?;
                answers.rows.insert(text, rows(&run(plan, true).await?)?);
            }
        }
    }
    Err(Error::sql("the statement has too many parts that depend on the columns of tables"))
}

/// Plans a query of plain SQL.
pub(super) async fn plan_query(state: &SessionState, query: Query) -> Result<LogicalPlan> {
    let mut body = Body::Statement(Box::new(Sql::Query(Box::new(query))));
    group_joins(&mut body);
    repair::repair(state.statement_to_plan(body).await?)
}

/// `SELECT value`.
pub fn query_of_value(value: SqlExpr) -> Body {
    Body::Statement(Box::new(Sql::Query(Box::new(value_query(value)))))
}

/// The only value of a result, as a literal.
pub fn value_of(batches: &[RecordBatch]) -> Result<SqlExpr> {
    let rows = rows(batches)?;
    let value = rows.first().and_then(|row| row.first());
    let literal = value.map_or_else(|| literal(&ScalarValue::Null), literal);
    literal.ok_or_else(|| Error::sql("a variable holds a number, a text, a date, a timestamp or a truth value"))
}

fn group_joins(body: &mut Body) {
    match body {
        Body::Statement(sql) => joins::group(sql.as_mut()),
        Body::CopyTo(copy) => {
            if let datafusion::sql::parser::CopyToSource::Query(query) = &mut copy.source {
                joins::group(query.as_mut());
            }
        }
        Body::Explain(explain) => group_joins(&mut explain.statement),
        Body::CreateExternalTable(_) | Body::Reset(_) => {}
    }
}

fn columns(plan: &LogicalPlan) -> Arc<[Column]> {
    let columns = plan.schema().iter().map(|(table, field)| Column {
        table: table.cloned(),
        name: field.name().clone(),
        kind: field.data_type().clone(),
        nullable: field.is_nullable(),
    });
    columns.collect()
}

fn rows(batches: &[RecordBatch]) -> Result<Arc<[Vec<ScalarValue>]>> {
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values = batch.columns().iter().map(|column| ScalarValue::try_from_array(column, row));
            rows.push(values.collect::<Result<Vec<_>, _>>()?);
        }
    }
    Ok(rows.into())
}
