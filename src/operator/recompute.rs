//! What has no operator of its own: all input is kept, and the result computed anew.
//!
//! Enters: changes. Leaves: what differs from the result before. Always holds: an epoch without changes costs
//! nothing; one with a change costs as much as the whole.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::logical_expr::LogicalPlan;

use super::{EpochContext, Operator, Shard};
use crate::change::{Changes, concat, consolidate, repeat, with_columns};
use crate::checkpoint::Saved;
use crate::error::Result;
use crate::planner::{depends_on_time, placeholder};

/// How many batches of an input are kept before they become one.
const BATCHES: usize = 64;

/// All that has come on one input.
struct Input {
    schema: SchemaRef,
    append_only: bool,
    kept: Vec<Changes>,
    /// Since the last checkpoint.
    added: Vec<Changes>,
}

/// A plan that is run over everything, whenever something has changed.
pub(super) struct Recompute {
    plan: LogicalPlan,
    schema: SchemaRef,
    inputs: Vec<Input>,
    /// The rows of the last result.
    result: Vec<Changes>,
    result_changed: bool,
    has_run: bool,
    /// The result depends on the time too.
    timed: bool,
    /// All has to be saved.
    save_whole: bool,
}

impl Input {
    fn add(&mut self, changes: Vec<Changes>) -> Result<()> {
        self.added.extend(changes.iter().cloned());
        self.kept.extend(changes);
        if !self.append_only {
            self.kept = consolidate(&self.schema, &self.kept)?.into_iter().collect();
        } else if self.kept.len() > BATCHES {
            let all = concat(&self.schema, self.kept.iter().map(|change| &change.rows))?;
            self.kept = vec![Changes::inserted(all)];
        }
        Ok(())
    }

    /// The rows, each as often as its weight says.
    fn rows(&self) -> Result<Vec<RecordBatch>> {
        self.kept.iter().map(repeat).collect()
    }
}

impl Recompute {
    pub(super) fn new(plan: &LogicalPlan, inputs: Vec<(SchemaRef, bool)>) -> Result<Self> {
        let inputs = inputs.into_iter().map(|(schema, append_only)| Input {
            schema,
            append_only,
            kept: Vec::new(),
            added: Vec::new(),
        });
        Ok(Self {
            plan: plan.clone(),
            schema: Arc::clone(plan.schema().inner()),
            inputs: inputs.collect(),
            result: Vec::new(),
            result_changed: false,
            has_run: false,
            timed: depends_on_time(plan)?,
            save_whole: false,
        })
    }
}

impl Operator for Recompute {
    fn step(&mut self, inputs: Vec<Vec<Changes>>, context: &EpochContext) -> Result<Vec<Changes>> {
        if self.has_run && !self.timed && inputs.iter().flatten().all(Changes::is_empty) {
            return Ok(Vec::new());
        }
        self.has_run = true;
        for (input, changes) in self.inputs.iter_mut().zip(inputs) {
            input.add(changes)?;
        }
        let rows = self.inputs.iter().map(Input::rows).collect::<Result<Vec<_>>>()?;
        let batches = context.runtime.block_on(placeholder::run(&context.state, &self.plan, rows))?;
        let new = batches
            .into_iter()
            .filter(|rows| rows.num_rows() > 0)
            .map(|rows| Ok(Changes::inserted(with_columns(&self.schema, rows.columns().to_vec(), rows.num_rows())?)));
        let new = new.collect::<Result<Vec<Changes>>>()?;
        let negated = self.result.iter().map(|old| {
            let weights = Int64Array::from_iter_values((0..old.len()).map(|row| -old.weight(row)));
            Changes::weighted(old.rows.clone(), weights)
        });
        let all: Vec<Changes> = new.iter().cloned().chain(negated).collect();
        let difference = consolidate(&self.schema, &all)?;
        if difference.is_some() {
            self.result = consolidate(&self.schema, &new)?.into_iter().collect();
            self.result_changed = true;
        }
        Ok(difference.into_iter().collect())
    }

    fn save(&mut self) -> Result<Vec<Saved>> {
        let with_weights =
            |changes: &[Changes]| changes.iter().map(Changes::with_weight_column).collect::<Result<Vec<_>>>();
        let mut saved = Vec::new();
        for input in &mut self.inputs {
            let added = std::mem::take(&mut input.added);
            saved.push(match (added.is_empty(), input.append_only) {
                _ if self.save_whole => Saved::Whole(with_weights(&input.kept)?),
                (true, _) => Saved::Unchanged,
                (false, true) => Saved::Added(with_weights(&added)?),
                (false, false) => Saved::Whole(with_weights(&input.kept)?),
            });
        }
        let changed = std::mem::take(&mut self.result_changed) || std::mem::take(&mut self.save_whole);
        saved.push(if changed { Saved::Whole(with_weights(&self.result)?) } else { Saved::Unchanged });
        Ok(saved)
    }

    fn restore(&mut self, mut saved: Vec<Vec<RecordBatch>>, shard: Shard) -> Result<()> {
        if shard.index > 0 {
            return Ok(());
        }
        self.has_run = true;
        self.save_whole = shard.moved;
        saved.resize(self.inputs.len() + 1, Vec::new());
        let changes =
            |batches: Vec<RecordBatch>| batches.iter().map(Changes::from_weight_column).collect::<Result<Vec<_>>>();
        self.result = saved.pop().map(changes).transpose()?.unwrap_or_default();
        for (input, batches) in self.inputs.iter_mut().zip(saved) {
            let mut kept = changes(batches)?;
            if input.append_only {
                kept.iter_mut().for_each(|change| change.weights = None);
            }
            input.kept = kept;
        }
        Ok(())
    }

    fn size(&self) -> (usize, usize) {
        let all = self.inputs.iter().flat_map(|input| &input.kept).chain(&self.result);
        all.fold((0, 0), |(rows, bytes), change| (rows + change.len(), bytes + change.rows.get_array_memory_size()))
    }
}
