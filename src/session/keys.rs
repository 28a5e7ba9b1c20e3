//! PRIMARY KEY and UNIQUE of tables in memory.
//!
//! Enters: an INSERT, or the rows of a CREATE TABLE. Leaves: the same, its rows computed, or an error that names a
//! key. Always holds: no row is in a table before its keys are known to be new there. DataFusion takes keys for
//! true when it plans, and does not look at the rows.

use std::sync::Arc;

use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::catalog::TableProvider;
use datafusion::common::{Column, Constraint, Constraints};
use datafusion::datasource::{MemTable, provider_as_source, source_as_provider};
use datafusion::execution::SessionState;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, WriteOp, lit};

use super::{Current, Rows};
use crate::error::{Error, Result};

/// Computes the rows of an INSERT into a table with keys, and checks them.
pub(super) async fn check_insert(state: &SessionState, plan: LogicalPlan) -> Result<LogicalPlan> {
    let LogicalPlan::Dml(mut dml) = plan else { return Ok(plan) };
    let WriteOp::Insert(op) = dml.op else { return Ok(LogicalPlan::Dml(dml)) };
    let table = source_as_provider(&dml.target)?;
    let keys = match (table.downcast_ref::<MemTable>(), table.constraints()) {
        (Some(_), Some(keys)) if !keys.is_empty() => keys.clone(),
        _ => return Ok(LogicalPlan::Dml(dml)),
    };
    let rows = Rows::start(state.clone(), LogicalPlan::clone(&dml.input), &Current::default()).await?;
    let (schema, batches) = (rows.schema(), rows.collect().await?);
    let rows: Arc<dyn TableProvider> = Arc::new(MemTable::try_new(schema, vec![batches])?);
    let name = dml.table_name.table().to_owned();
    let old = (op == InsertOp::Append).then_some(table);
    check(state, &name, old, &rows, &keys).await?;
    dml.input = scan("rows", &rows)?.build()?.into();
    Ok(LogicalPlan::Dml(dml))
}

fn scan(name: &str, table: &Arc<dyn TableProvider>) -> Result<LogicalPlanBuilder> {
    Ok(LogicalPlanBuilder::scan(name, provider_as_source(Arc::clone(table)), None)?)
}

/// An error, if a key is twice in the rows of a table and those to come, or NULL in a primary key.
pub(super) async fn check(
    state: &SessionState,
    name: &str,
    old: Option<Arc<dyn TableProvider>>,
    new: &Arc<dyn TableProvider>,
    keys: &Constraints,
) -> Result<()> {
    for key in keys.iter() {
        let (columns, word) = match key {
            Constraint::PrimaryKey(columns) => (columns, "PRIMARY KEY"),
            Constraint::Unique(columns) => (columns, "UNIQUE"),
        };
        let fields = columns.iter().filter_map(|at| new.schema().fields().get(*at).map(|field| field.name().clone()));
        let shown = fields.collect::<Vec<_>>().join(", ");
        let names: Vec<Expr> = (0..columns.len()).map(key_column).collect();
        let null = names.iter().cloned().map(Expr::is_null).reduce(Expr::or).unwrap_or(lit(false));
        let mut all = key_values(new, columns)?;
        if word == "PRIMARY KEY" && first_row(state, all.clone().filter(null.clone())?).await?.is_some() {
            return Err(Error::query(format!("a row for {name} has NULL in its {word} ({shown})")));
        }
        if let Some(old) = &old {
            all = all.union(key_values(old, columns)?.build()?)?;
        }
        let counted = all.filter(null.is_not_true())?.aggregate(names, vec![count(lit(1_i64)).alias("rows")])?;
        let twice = counted.filter(Expr::Column(Column::from_name("rows")).gt(lit(1_i64)))?;
        if let Some(mut values) = first_row(state, twice).await? {
            values.truncate(columns.len());
            let values = values.join(", ");
            return Err(Error::query(format!("({values}) would be in {name} more than once: its {word} is ({shown})"))
                .hint("leave out the rows that are there already, or make the table without the key"));
        }
    }
    Ok(())
}

fn key_column(at: usize) -> Expr {
    Expr::Column(Column::from_name(format!("key{at}")))
}

/// The columns of a key by the names of [`key_column`].
fn key_values(table: &Arc<dyn TableProvider>, columns: &[usize]) -> Result<LogicalPlanBuilder> {
    let plan = scan("part", table)?;
    let value = |(name, at): (usize, &usize)| {
        Expr::Column(Column::from(plan.schema().qualified_field(*at))).alias(format!("key{name}"))
    };
    let values: Vec<Expr> = columns.iter().enumerate().map(value).collect();
    Ok(plan.project(values)?)
}

/// The values of the first row of a query, as text.
async fn first_row(state: &SessionState, query: LogicalPlanBuilder) -> Result<Option<Vec<String>>> {
    let batches =
        Rows::start(state.clone(), query.limit(0, Some(1))?.build()?, &Current::default()).await?.collect().await?;
    let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0) else { return Ok(None) };
    let options = FormatOptions::default();
    let text = |column| Ok(ArrayFormatter::try_new(column, &options)?.value(0).to_string());
    batch.columns().iter().map(|column| text(column.as_ref())).collect::<Result<_>>().map(Some)
}
