//! What has no operator of its own: all input is kept, and the result computed anew.
//!
//! Enters: changes. Leaves: what differs from the result before. Always holds: an epoch without changes costs
//! nothing; one with a change costs as much as the whole.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;

use super::{EpochContext, Operator, Shard};
use crate::change::{Changes, concat, consolidate, repeat, with_columns};
use crate::checkpoint::{Pieces, Saved};
use crate::error::Result;
use crate::planner::depends_on_time;
use crate::planner::placeholder::{self, Prepared};

/// Up to so many rows a plan that was made before is run on one core; for more it is planned anew, for all cores.
const PREPARED_ROWS: usize = 100_000;

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
    /// The same, planned; nothing before the first run, and where it cannot be run twice.
    prepared: Option<Prepared>,
    repeats: bool,
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
        // Planning makes the time a constant.
        let timed = depends_on_time(plan)?;
        let inputs = inputs.into_iter().map(|(schema, append_only)| Input {
            schema,
            append_only,
            kept: Vec::new(),
            added: Vec::new(),
        });
        Ok(Self {
            plan: plan.clone(),
            prepared: None,
            repeats: !timed && !is_recursive(plan)?,
            schema: Arc::clone(plan.schema().inner()),
            inputs: inputs.collect(),
            result: Vec::new(),
            result_changed: false,
            has_run: false,
            timed,
            save_whole: false,
        })
    }

    fn run(&mut self, rows: Vec<Vec<RecordBatch>>, context: &EpochContext) -> Result<Vec<RecordBatch>> {
        let count: usize = rows.iter().flatten().map(RecordBatch::num_rows).sum();
        if !self.repeats || count > PREPARED_ROWS {
            return context.runtime.block_on(placeholder::run(&context.state, &self.plan, rows));
        }
        let prepared = match self.prepared.take() {
            Some(prepared) => prepared,
            None => context.runtime.block_on(Prepared::new(&context.state, &self.plan, rows.len()))?,
        };
        let batches = context.runtime.block_on(prepared.run(rows))?;
        self.prepared = Some(prepared);
        Ok(batches)
    }
}

/// True if a part of the plan runs until nothing new comes: DataFusion cannot begin it anew.
fn is_recursive(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        found |= matches!(node, LogicalPlan::RecursiveQuery(_));
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
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
        let batches = self.run(rows, context)?;
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
                _ if self.save_whole => Saved::Whole(with_weights(&input.kept)?.into()),
                (true, _) => Saved::Unchanged,
                (false, true) => Saved::Added(with_weights(&added)?.into()),
                (false, false) => Saved::Whole(with_weights(&input.kept)?.into()),
            });
        }
        let changed = std::mem::take(&mut self.result_changed) || std::mem::take(&mut self.save_whole);
        saved.push(if changed { Saved::Whole(with_weights(&self.result)?.into()) } else { Saved::Unchanged });
        Ok(saved)
    }

    fn restore(&mut self, mut saved: Vec<Pieces>, shard: Shard) -> Result<()> {
        if shard.index > 0 {
            return Ok(());
        }
        self.has_run = true;
        self.save_whole = shard.moved;
        saved.resize_with(self.inputs.len() + 1, Pieces::default);
        let changes =
            |batches: Pieces| batches.map(|batch| Changes::from_weight_column(&batch?)).collect::<Result<Vec<_>>>();
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
