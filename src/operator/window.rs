//! Window functions, partition by partition.
//!
//! Enters: changes. Leaves: what differs in the results of the partitions that they touch. Always holds: what is kept
//! is the result, which has the input's columns in front: a partition's old rows and its old result are the same rows.
//! DataFusion's own operator computes the touched partitions anew, all of them together.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, UInt64Array};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::execution::SessionState;
use datafusion::execution::disk_manager::DiskManager;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_expr::PhysicalExpr;

use super::arrangement::Side;
use super::exchange::Exchange;
use super::expiry::Expiry;
use super::join::{forget, restore_side};
use super::keys::{KeyHasher, evaluate_key};
use super::multiset::{Matches, Multiset};
use super::{EpochContext, Operator, Shard, physical};
use crate::change::{Changes, consolidate, nullable, repeat, take_rows, with_columns};
use crate::checkpoint::{Pieces, Saved};
use crate::error::Result;
use crate::planner::Eviction;
use crate::planner::placeholder::Prepared;

/// The partitions of one shard.
pub(super) struct Window {
    logical: LogicalPlan,
    plan: Option<Prepared>,
    partition: Vec<Arc<dyn PhysicalExpr>>,
    hasher: KeyHasher,
    /// The keys of partitions.
    key: SchemaRef,
    input: SchemaRef,
    output: SchemaRef,
    results: Side,
}

impl Window {
    /// `input`: the columns of what the plan reads, by which it is partitioned.
    pub(super) fn new(
        logical: &LogicalPlan,
        partition: &[Expr],
        input: &DFSchema,
        evict: &[Eviction],
        state: &SessionState,
    ) -> Result<Self> {
        let output = nullable(logical.schema().as_arrow());
        let partition = partition.iter().map(|expr| physical(expr, input, state)).collect::<Result<Vec<_>>>()?;
        let field = |(at, expr): (usize, &Arc<dyn PhysicalExpr>)| -> Result<Field> {
            Ok(Field::new(format!("key{at}"), expr.data_type(input.as_arrow())?, true))
        };
        let key = Arc::new(Schema::new(partition.iter().enumerate().map(field).collect::<Result<Vec<_>>>()?));
        let results = match evict.first() {
            Some(eviction) => {
                let expiry = Expiry::new(eviction, physical(&eviction.value, input, state)?, state)?;
                Side::forgetting(Arc::clone(&output), false, true, expiry)?
            }
            None => Side::new(Arc::clone(&output), false, false, true)?,
        };
        Ok(Self {
            logical: logical.clone(),
            plan: None,
            partition,
            hasher: KeyHasher::new(key.fields().iter().map(|field| field.data_type().clone()))?,
            key,
            input: nullable(input.as_arrow()),
            results,
            output,
        })
    }

    /// How its input is divided.
    pub(super) fn exchange(&self) -> Result<Exchange> {
        let types = self.key.fields().iter().map(|field| field.data_type().clone());
        Exchange::by_key(self.partition.clone(), types.collect())
    }

    /// The old results of the partitions that a change touches.
    fn touched(&self, change: &Changes) -> Result<Vec<Changes>> {
        let keys = with_columns(&self.key, evaluate_key(&self.partition, &change.rows)?, change.len())?;
        let mut distinct = Multiset::new(Arc::clone(&self.key), false)?;
        let applied = distinct.apply(&Changes::inserted(keys.clone()), Matches::Of(&[]))?;
        let places = UInt64Array::from_iter_values(applied.iter().map(|key| key.row as u64));
        let keys = take_rows(&keys, &places)?;
        let hashes = self.hasher.hashes(keys.columns(), keys.num_rows())?;
        let mut walk = self.results.walk(&hashes, |_| true);
        let mut found = Vec::new();
        loop {
            let (places, slots) = self.results.step(&mut walk);
            if places.is_empty() {
                return Ok(found);
            }
            let rows = self.results.gather(&slots)?;
            let theirs = evaluate_key(&self.partition, &rows)?;
            let ours = take_rows(&keys, &UInt64Array::from(places))?;
            let equal = self.hasher.equal(ours.columns(), &theirs, slots.len())?;
            let weights = Int64Array::from_iter_values(slots.iter().map(|slot| self.results.weight(*slot)));
            let mut change = Changes::weighted(rows, weights);
            if let Some(equal) = equal {
                let mine = (0..slots.len()).filter(|at| equal.value(*at)).map(|at| at as u64);
                change = change.take(&UInt64Array::from_iter_values(mine))?;
            }
            found.push(change);
        }
    }

    /// The input's rows of old results.
    fn inputs(&self, results: &[Changes]) -> Result<Vec<Changes>> {
        let columns = self.input.fields().len();
        let of = |change: &Changes| {
            let rows = with_columns(&self.input, change.rows.columns()[..columns].to_vec(), change.len())?;
            Ok(Changes { rows, weights: change.weights.clone() })
        };
        results.iter().map(of).collect()
    }

    fn compute(&mut self, rows: RecordBatch, context: &EpochContext) -> Result<Vec<Changes>> {
        if rows.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let plan = match self.plan.take() {
            Some(plan) => plan,
            None => context.runtime.block_on(Prepared::new(&context.state, &self.logical, 1))?,
        };
        let results = context.runtime.block_on(plan.run(vec![vec![rows]]))?;
        self.plan = Some(plan);
        let named = results
            .into_iter()
            .map(|rows| Ok(Changes::inserted(with_columns(&self.output, rows.columns().to_vec(), rows.num_rows())?)));
        named.collect()
    }
}

impl Operator for Window {
    fn step(&mut self, inputs: Vec<Vec<Changes>>, context: &EpochContext) -> Result<Vec<Changes>> {
        let changes: Vec<Changes> = inputs.into_iter().flatten().collect();
        let Some(change) = consolidate(&self.input, &changes)? else {
            forget(&mut self.results, &self.partition, &self.hasher, context)?;
            return Ok(Vec::new());
        };
        let old = self.touched(&change)?;
        let mut rows = self.inputs(&old)?;
        rows.push(change);
        let rows = match consolidate(&self.input, &rows)? {
            Some(rows) => repeat(&rows)?,
            None => RecordBatch::new_empty(Arc::clone(&self.input)),
        };
        let mut all = self.compute(rows, context)?;
        for change in old {
            let weights = Int64Array::from_iter_values((0..change.len()).map(|row| -change.weight(row)));
            all.push(Changes::weighted(change.rows, weights));
        }
        let difference = consolidate(&self.output, &all)?;
        if let Some(difference) = &difference {
            let hashes = self.hasher.hashes(&evaluate_key(&self.partition, &difference.rows)?, difference.len())?;
            self.results.add(difference, &hashes, Matches::Of(&[]))?;
        }
        forget(&mut self.results, &self.partition, &self.hasher, context)?;
        Ok(difference.into_iter().collect())
    }

    fn save(&mut self) -> Result<Vec<Saved>> {
        Ok(vec![self.results.save()?])
    }

    fn restore(&mut self, saved: Vec<Pieces>, shard: Shard) -> Result<()> {
        let batches = saved.into_iter().next().unwrap_or_default();
        restore_side(&mut self.results, &self.partition, &self.hasher, batches, shard)
    }

    fn size(&self) -> (usize, usize) {
        (self.results.count(), self.results.bytes())
    }

    fn spill(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        self.results.spill(bytes, disk)
    }
}
