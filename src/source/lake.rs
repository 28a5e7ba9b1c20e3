//! Delta tables at rest.
//!
//! Enters: a folder with a log of its versions, by its path or as `t VERSION AS OF 3`. Leaves: the rows of that version.
//! Always holds: the log says which of the files are the table, and which of their rows.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::TableReference;
use datafusion::execution::SessionState;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, cast};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::projection::ProjectionExec;
use futures::StreamExt;

use super::database::lake_with;
use super::{DatabaseTable, Location};
use crate::database::{Address, Lake, Version, lake_table, version_time};
use crate::error::{Error, Result};
use crate::parser::VERSIONS;

/// The Delta table as its library reads it, in these columns.
pub(super) async fn scan(
    lake: &Lake,
    state: &dyn Session,
    columns: SchemaRef,
    filters: &[Expr],
    limit: Option<usize>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let Some(table) = lake_table(lake).await? else { return Ok(Arc::new(EmptyExec::new(columns))) };
    let there = table.schema();
    let places = columns.fields().iter().map(|field| there.index_of(field.name())).collect::<Result<Vec<_>, _>>()?;
    let plan = table.scan(state, Some(&places), filters, limit).await?;
    let in_type = |(at, field): (usize, &FieldRef)| -> Result<(Arc<dyn PhysicalExpr>, String)> {
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), at));
        Ok((cast(column, &plan.schema(), field.data_type().clone())?, field.name().clone()))
    };
    let exprs = columns.fields().iter().enumerate().map(in_type).collect::<Result<Vec<_>>>()?;
    Ok(Arc::new(ProjectionExec::try_new(exprs, plan)?))
}

/// The Delta table in that folder.
pub fn lake_at(folder: &str, state: &SessionState) -> Result<Lake> {
    lake_with(folder, state, &HashMap::new())
}

/// The Delta table that a name in FROM means: a folder's, or `t VERSION AS OF 3`; nothing if it means none.
pub async fn delta_table(state: &SessionState, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
    if let Some(table) = table_of_version(state, name).await? {
        return Ok(Some(table));
    }
    Ok(table_in_folder(state, name).await?.map(|table| Arc::new(table) as Arc<dyn TableProvider>))
}

/// The Delta table in the folder of that name: its log says which of the files there are the table.
async fn table_in_folder(state: &SessionState, text: &str) -> Result<Option<DatabaseTable>> {
    if !Location::looks_like_one(text) {
        return Ok(None);
    }
    let location = Location::parse(text)?;
    if !location.url.is_collection() || location.url.get_glob().is_some() {
        return Ok(None);
    }
    let log = location.url.prefix().clone().join("_delta_log");
    let store = state.runtime_env().object_store(&location.url)?;
    if store.list(Some(&log)).next().await.is_none() {
        return Ok(None);
    }
    DatabaseTable::found(Address::of_lake(lake_at(location.url.as_str(), state)?)).await
}

/// The table that `t VERSION AS OF 3` names, as [`VERSIONS`] spells it; nothing if `name` is no such name.
async fn table_of_version(state: &SessionState, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
    let [number, time] = VERSIONS;
    let (base, version) = match (name.rsplit_once(number), name.rsplit_once(time)) {
        (Some((base, text)), _) => {
            let number = text.parse().map_err(|_| Error::sql(format!("a version is a number, not {text}")))?;
            (base, Version::Number(number))
        }
        (None, Some((base, text))) => (base, Version::Time(version_time(text)?)),
        (None, None) => return Ok(None),
    };
    let reference = match Location::looks_like_one(base) {
        true => TableReference::bare(base),
        false => TableReference::from(base),
    };
    let table = state.schema_for_ref(reference.clone())?.table(reference.table()).await?;
    let Some(table) = table else { return Err(Error::sql(format!("no table named {base}"))) };
    let Some(lake) = table.downcast_ref::<DatabaseTable>().and_then(|table| table.address().lake()) else {
        return Err(Error::sql(format!("{base} has no versions")).hint("Delta tables have: STORED AS DELTA"));
    };
    let address = Address::of_lake(lake.clone().at(version));
    match DatabaseTable::found(address.clone()).await? {
        Some(table) => Ok(Some(Arc::new(table))),
        None => Err(Error::query(format!("there is no Delta table in {address}"))),
    }
}
