//! What stands in a plan for rows that come later.
//!
//! Enters: the columns of an input. Leaves: a leaf of a logical plan, and the scan that takes its place when the
//! plan runs. Always holds: what is planned over it does not depend on the rows.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::{DFSchemaRef, Result as DfResult};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::SessionState;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};

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
