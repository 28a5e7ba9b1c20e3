//! The rows of a query, as they are computed.
//!
//! Enters: a logical plan. Leaves: batches, one at a time. Always holds: a hash join beyond the memory limit
//! starts again as one that sorts, as long as no row has left; a panic beneath is an error of the query.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::execution::{SendableRecordBatchStream, SessionState, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionConfig;
use futures::{FutureExt, StreamExt};

use super::narrow::narrow_aggregates;
use super::progress::{Current, Operator, analyzed};
use super::shared::share_aggregates;
use crate::catalog::explain_unknown_name;
use crate::error::{Error, Result};
use crate::{sink, source};

/// The rows of a query, batch by batch.
pub struct Rows {
    schema: SchemaRef,
    running: Running,
    /// Until the first batch is out, the query may start again in another way.
    again: Option<Box<(SessionState, LogicalPlan)>>,
    current: Current,
    /// What EXPLAIN ANALYZE of a write found: it ran before its rows came here.
    analyzed: Option<Vec<Operator>>,
}

/// A physical plan at work.
struct Running {
    stream: SendableRecordBatchStream,
    plan: Arc<dyn ExecutionPlan>,
    task: Arc<TaskContext>,
}

impl Running {
    async fn start(state: &SessionState, plan: &LogicalPlan, current: &Current) -> Result<Self> {
        let physical = state.create_physical_plan(plan).await;
        let physical = physical.map_err(|error| explain_unknown_name(state, Error::from(error)))?;
        let plan = narrow_aggregates(share_aggregates(sink::adapt(state, plan, physical).await?)?)?;
        current.set(&plan);
        let task = state.task_ctx();
        let stream = execute_stream(Arc::clone(&plan), Arc::clone(&task))?;
        Ok(Self { stream, plan, task })
    }

    async fn next(&mut self) -> Option<Result<RecordBatch>> {
        let next = AssertUnwindSafe(self.stream.next()).catch_unwind().await;
        let next = match next {
            Ok(next) => next?,
            Err(panic) => {
                let error = Error::from_panic(panic.as_ref());
                return Some(Err(source::explain_panic(&self.plan, &self.task, error).await));
            }
        };
        match next {
            Ok(batch) => Some(Ok(batch)),
            Err(error) => Some(Err(source::explain_scan_error(&self.plan, &self.task, error).await)),
        }
    }
}

impl Rows {
    /// Starts a query.
    pub(super) async fn start(state: SessionState, plan: LogicalPlan, current: &Current) -> Result<Self> {
        let rows = Self::start_once(&state, &plan, current).await?;
        Ok(Self { again: Some(Box::new((state, plan))), ..rows })
    }

    /// Starts a plan that must not start twice.
    pub(super) async fn start_once(state: &SessionState, plan: &LogicalPlan, current: &Current) -> Result<Self> {
        let running = Running::start(state, plan, current).await?;
        let schema = running.plan.schema();
        Ok(Self { schema, running, again: None, current: current.clone(), analyzed: None })
    }

    /// The operators that EXPLAIN ANALYZE ran, once all rows are out; nothing for another statement.
    pub fn analyzed(&self) -> Option<Vec<Operator>> {
        self.analyzed.clone().or_else(|| analyzed(&self.running.plan))
    }

    /// These rows tell of a statement that has run already.
    pub(super) fn with_analyzed(self, analyzed: Option<Vec<Operator>>) -> Self {
        Self { analyzed, ..self }
    }

    /// The same rows under other names of columns.
    pub(super) fn with_schema(self, schema: SchemaRef) -> Self {
        Self { schema, ..self }
    }

    /// Their columns.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The next batch, or nothing at the end.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let mut item = self.running.next().await;
        if let Some(Err(error)) = &item
            && error.join_exceeds_memory
            && let Some(again) = self.again.take()
        {
            let (state, plan) = again.as_ref();
            self.running = Running::start(&with_sorted_joins(state), plan, &self.current).await?;
            item = self.running.next().await;
        }
        self.again = None;
        item.transpose()
    }

    /// All of them.
    pub async fn collect(mut self) -> Result<Vec<RecordBatch>> {
        self.drain().await
    }

    /// All that are left.
    pub(super) async fn drain(&mut self) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::new();
        while let Some(batch) = self.next().await? {
            batches.push(batch);
        }
        Ok(batches)
    }
}

/// The state of a session whose joins sort both sides, and so can spill. Small batches, since four sorts or
/// more share what memory there is, and each must hold some batches at the least.
pub(super) fn with_sorted_joins(state: &SessionState) -> SessionState {
    let mut config = state.config().clone();
    config.options_mut().optimizer.prefer_hash_join = false;
    let config = config.with_batch_size(1024);
    reconfigured(state, config)
}

/// The same state with another configuration. The catalogs are shared: one that is made anew would take away the tables.
pub(super) fn reconfigured(state: &SessionState, config: SessionConfig) -> SessionState {
    let config = config.with_create_default_catalog_and_schema(false);
    SessionStateBuilder::new_from_existing(state.clone()).with_config(config).build()
}
