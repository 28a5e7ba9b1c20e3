//! What stands in a plan for rows that come later.
//!
//! Enters: the columns of an input. Leaves: a leaf of a logical plan, and the scan that takes its place when the
//! plan runs, once or again and again. Always holds: what is planned over it does not depend on the rows.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{DFSchemaRef, Result as DfResult};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, SessionState, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};
use futures::stream;

use crate::change::with_columns;
use crate::error::Result;

/// One input of a plan that is run again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placeholder {
    /// Which input it is.
    pub input: usize,
    schema: DFSchemaRef,
}

impl Placeholder {
    /// A leaf with these columns.
    pub fn leaf(input: usize, schema: DFSchemaRef) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(Self { input, schema }) })
    }
}

impl Hash for Placeholder {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
    }
}

impl PartialOrd for Placeholder {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self.schema == other.schema).then(|| self.input.cmp(&other.input))
    }
}

impl UserDefinedLogicalNodeCore for Placeholder {
    fn name(&self) -> &str {
        "Placeholder"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        Vec::new()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "input {}", self.input)
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, _inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        Ok(self.clone())
    }
}

struct Inputs(Vec<Vec<RecordBatch>>);

#[async_trait]
impl ExtensionPlanner for Inputs {
    async fn plan_extension(
        &self,
        _planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical: &[&LogicalPlan],
        _physical: &[Arc<dyn ExecutionPlan>],
        _state: &dyn Session,
        _context: &PhysicalPlanningContext,
    ) -> DfResult<Option<Arc<dyn ExecutionPlan>>> {
        let Some(placeholder) = node.as_any().downcast_ref::<Placeholder>() else { return Ok(None) };
        let schema = Arc::new(placeholder.schema.as_arrow().clone());
        let batches = self.0.get(placeholder.input).map_or(&[][..], Vec::as_slice);
        let batches = batches
            .iter()
            .map(|batch| {
                RecordBatch::try_new_with_options(
                    Arc::clone(&schema),
                    batch.columns().to_vec(),
                    &arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows())),
                )
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Some(MemorySourceConfig::try_new_exec(&[batches], schema, None)?))
    }
}

/// The rows of a plan over these inputs.
pub async fn run(state: &SessionState, plan: &LogicalPlan, inputs: Vec<Vec<RecordBatch>>) -> Result<Vec<RecordBatch>> {
    let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(Inputs(inputs))]);
    let physical = planner.create_physical_plan(plan, state).await?;
    Ok(datafusion::physical_plan::collect(physical, state.task_ctx()).await?)
}

/// The rows that a prepared plan reads in its next run.
type Slot = Arc<Mutex<Vec<RecordBatch>>>;

struct Slots(Vec<Slot>);

#[derive(Debug)]
struct SlotStream {
    schema: SchemaRef,
    slot: Slot,
}

impl PartitionStream for SlotStream {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let batches = self.slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let schema = Arc::clone(&self.schema);
        let named = batches
            .into_iter()
            .map(move |batch| Ok(with_columns(&schema, batch.columns().to_vec(), batch.num_rows())?));
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream::iter(named)))
    }
}

#[async_trait]
impl ExtensionPlanner for Slots {
    async fn plan_extension(
        &self,
        _planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        _logical: &[&LogicalPlan],
        _physical: &[Arc<dyn ExecutionPlan>],
        _state: &dyn Session,
        _context: &PhysicalPlanningContext,
    ) -> DfResult<Option<Arc<dyn ExecutionPlan>>> {
        let Some(placeholder) = node.as_any().downcast_ref::<Placeholder>() else { return Ok(None) };
        let Some(slot) = self.0.get(placeholder.input) else { return Ok(None) };
        let schema = Arc::clone(placeholder.schema.inner());
        let stream = Arc::new(SlotStream { schema: Arc::clone(&schema), slot: Arc::clone(slot) });
        Ok(Some(Arc::new(StreamingTableExec::try_new(schema, vec![stream], None, [], false, None)?)))
    }
}

/// A plan that is planned once, at one partition, and run over other rows each time.
#[derive(Debug)]
pub struct Prepared {
    plan: Arc<dyn ExecutionPlan>,
    slots: Vec<Slot>,
    context: Arc<TaskContext>,
}

impl Prepared {
    /// Plans it.
    pub async fn new(state: &SessionState, plan: &LogicalPlan, inputs: usize) -> Result<Self> {
        Self::within(state, plan, inputs, Arc::clone(state.runtime_env())).await
    }

    /// The same, without a limit of its memory: for small inputs, which are in memory as they are.
    pub async fn unlimited(state: &SessionState, plan: &LogicalPlan, inputs: usize) -> Result<Self> {
        Self::within(state, plan, inputs, Arc::new(RuntimeEnv::default())).await
    }

    async fn within(state: &SessionState, plan: &LogicalPlan, inputs: usize, memory: Arc<RuntimeEnv>) -> Result<Self> {
        let slots: Vec<Slot> = (0..inputs).map(|_| Slot::default()).collect();
        // What a dynamic filter has learnt from one run must not reach the next.
        let config = state.config().clone().with_target_partitions(1);
        let config = config.set_bool("datafusion.optimizer.enable_dynamic_filter_pushdown", false);
        let state = SessionStateBuilder::new_from_existing(state.clone()).with_config(config).build();
        let planner = DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(Slots(slots.clone()))]);
        let plan = planner.create_physical_plan(plan, &state).await?;
        let context = Arc::new(TaskContext::from(&state).with_runtime(memory));
        Ok(Self { plan, slots, context })
    }

    /// Its rows over these inputs.
    pub async fn run(&self, inputs: Vec<Vec<RecordBatch>>) -> Result<Vec<RecordBatch>> {
        for (slot, rows) in self.slots.iter().zip(inputs) {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = rows;
        }
        let plan = reset_plan_states(Arc::clone(&self.plan))?;
        let rows = datafusion::physical_plan::collect(plan, Arc::clone(&self.context)).await;
        for slot in &self.slots {
            slot.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        Ok(rows?)
    }
}
