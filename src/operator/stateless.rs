//! Filters, projections, and other work that looks at one row at a time.
//!
//! Enters: changes. Leaves: changes with the same weights. Always holds: nothing is kept between epochs.

use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::compute::{filter, filter_record_batch};
use arrow::datatypes::SchemaRef;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_expr::PhysicalExpr;

use super::keys::evaluate;
use super::{EpochContext, Operator, physical};
use crate::change::{Changes, with_columns};
use crate::error::Result;
use crate::planner::{Step, placeholder};

enum Compiled {
    Filter(Arc<dyn PhysicalExpr>),
    Project { exprs: Vec<Arc<dyn PhysicalExpr>>, schema: SchemaRef },
}

/// One step after the other, batch by batch.
pub(super) struct Stateless {
    steps: Vec<Compiled>,
}

impl Stateless {
    pub(super) fn new(steps: &[Step], state: &SessionState) -> Result<Self> {
        let compile = |step: &Step| -> Result<Compiled> {
            Ok(match step {
                Step::Filter { predicate, input } => Compiled::Filter(physical(predicate, input, state)?),
                Step::Project { exprs, input, schema } => {
                    let exprs = exprs.iter().map(|expr| physical(expr, input, state));
                    Compiled::Project { exprs: exprs.collect::<Result<_>>()?, schema: Arc::clone(schema) }
                }
            })
        };
        Ok(Self { steps: steps.iter().map(compile).collect::<Result<_>>()? })
    }
}

impl Compiled {
    fn apply(&self, change: Changes) -> Result<Changes> {
        match self {
            Compiled::Filter(predicate) => {
                let keep = predicate.evaluate(&change.rows)?.into_array(change.len())?;
                let keep = keep.as_boolean();
                let weights = match &change.weights {
                    Some(weights) => Some(filter(weights, keep)?.as_primitive().clone()),
                    None => None,
                };
                Ok(Changes { rows: filter_record_batch(&change.rows, keep)?, weights })
            }
            Compiled::Project { exprs, schema } => {
                let columns = evaluate(exprs, &change.rows)?;
                Ok(Changes { rows: with_columns(schema, columns, change.len())?, weights: change.weights })
            }
        }
    }
}

impl Operator for Stateless {
    fn step(&mut self, inputs: Vec<Vec<Changes>>, _context: &EpochContext) -> Result<Vec<Changes>> {
        let mut out = Vec::new();
        for mut change in inputs.into_iter().flatten() {
            for step in &self.steps {
                change = step.apply(change)?;
            }
            if !change.is_empty() {
                out.push(change);
            }
        }
        Ok(out)
    }
}

/// All inputs, under the names of the union's columns.
pub(super) struct Union {
    schema: SchemaRef,
    append_only: bool,
}

impl Union {
    pub(super) fn new(schema: &SchemaRef, append_only: bool) -> Self {
        Self { schema: SchemaRef::clone(schema), append_only }
    }
}

impl Operator for Union {
    fn step(&mut self, inputs: Vec<Vec<Changes>>, _context: &EpochContext) -> Result<Vec<Changes>> {
        let unite = |change: Changes| -> Result<Changes> {
            let weights = match change.weights {
                None if !self.append_only => Some(Int64Array::from(vec![1; change.rows.num_rows()])),
                weights => weights,
            };
            let rows = with_columns(&self.schema, change.rows.columns().to_vec(), change.rows.num_rows())?;
            Ok(Changes { rows, weights })
        };
        inputs.into_iter().flatten().map(unite).collect()
    }
}

/// A plan of DataFusion's that is run over the changes alone.
pub(super) struct Linear {
    pub(super) plan: LogicalPlan,
}

impl Operator for Linear {
    fn step(&mut self, inputs: Vec<Vec<Changes>>, context: &EpochContext) -> Result<Vec<Changes>> {
        let mut plain = Vec::new();
        let mut out = Vec::new();
        for change in inputs.into_iter().flatten() {
            let Some(weights) = &change.weights else {
                plain.push(change.rows);
                continue;
            };
            // Rows of one weight give rows of that weight.
            let mut distinct: Vec<i64> = weights.values().to_vec();
            distinct.sort_unstable();
            distinct.dedup();
            for weight in distinct {
                let keep = arrow::array::BooleanArray::from_iter(weights.values().iter().map(|w| Some(*w == weight)));
                let rows = filter_record_batch(&change.rows, &keep)?;
                for rows in self.run(vec![rows], context)? {
                    let weights = Int64Array::from(vec![weight; rows.num_rows()]);
                    out.push(Changes::weighted(rows, weights));
                }
            }
        }
        if !plain.is_empty() {
            out.extend(self.run(plain, context)?.into_iter().map(Changes::inserted));
        }
        Ok(out)
    }
}

impl Linear {
    fn run(&self, rows: Vec<RecordBatch>, context: &EpochContext) -> Result<Vec<RecordBatch>> {
        context.runtime.block_on(placeholder::run(&context.state, &self.plan, vec![rows]))
    }
}
