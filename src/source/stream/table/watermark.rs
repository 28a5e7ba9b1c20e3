//! The watermark of a table.
//!
//! Enters: WATERMARK FOR, and the columns of the table. Leaves: the column that is the time of a row, and the expression
//! over it. Always holds: the expression is a time, and of that column alone.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::DFSchema;
use datafusion::execution::SessionState;
use datafusion::physical_expr::PhysicalExpr;

use super::super::options::EventTime;
use crate::error::{Error, Result, near_name, sql_type};

/// The watermark of a table, at work.
#[derive(Debug, Clone)]
pub struct Watermark {
    /// The column that is the time of a row, by its place in the table.
    pub column: usize,
    /// Its greatest value is the watermark; over that column alone.
    pub expr: Arc<dyn PhysicalExpr>,
    /// Rows that are late are kept.
    pub keeps_late: bool,
    /// See [`EventTime::idle_micros`].
    pub idle_micros: Option<i64>,
}

impl Watermark {
    pub(super) fn new(state: &dyn Session, event_time: &EventTime, columns: &SchemaRef) -> Result<Self> {
        let names = || columns.fields().iter().map(|field| field.name().as_str());
        let unknown = || {
            let error = Error::sql(format!("WATERMARK FOR {}, which is no column of the table", event_time.column));
            match near_name(&event_time.column, names()) {
                Some(near) => error.hint(format!("did you mean {near}?")),
                None => error,
            }
        };
        let (column, field) = columns.column_with_name(&event_time.column).ok_or_else(unknown)?;
        let is_time = |kind: &DataType| matches!(kind, DataType::Timestamp(..) | DataType::Date32);
        if !is_time(field.data_type()) {
            let kind = sql_type(field.data_type());
            return Err(Error::sql(format!("WATERMARK FOR {}, which is {kind}, and no time", event_time.column))
                .hint("declare the column as TIMESTAMP"));
        }
        let alone = Schema::new(vec![field.clone()]);
        let schema = DFSchema::try_from(alone.clone())?;
        let state = state.as_any().downcast_ref::<SessionState>();
        let state = state.ok_or_else(|| Error::query("a watermark without a session"))?;
        let expr = state.create_logical_expr(&event_time.expression, &schema).map_err(Error::from);
        let expr = expr.and_then(|expr| Ok(state.create_physical_expr(expr, &schema)?));
        let expr = expr.map_err(|error| {
            error.note(format!("a watermark is an expression of its column {} alone", event_time.column))
        })?;
        if !is_time(&expr.data_type(&alone)?) {
            return Err(Error::sql(format!("the watermark {} is no time", event_time.expression))
                .hint(format!("such as {} - INTERVAL '5 seconds'", event_time.column)));
        }
        Ok(Self { column, expr, keeps_late: event_time.keeps_late, idle_micros: event_time.idle_micros })
    }
}
