//! One aggregate function, and what keeps it up to date.
//!
//! Enters: an aggregate of a plan. Leaves: its arguments over rows, accumulators of DataFusion's, and the names of
//! its results. Always holds: arguments are what DataFusion's own aggregation would hand to the accumulators.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::{SortColumn, lexsort_to_indices, prep_null_mask_filter};
use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use datafusion::execution::disk_manager::DiskManager;
use datafusion::logical_expr::GroupsAccumulator;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::{GroupsAccumulatorAdapter, PhysicalExpr};

use crate::checkpoint::{Pieces, Saved};
use crate::error::{Error, Result};
use crate::operator::keys::evaluate;
use crate::planner::{Called, Upkeep};

/// An aggregate function with its arguments.
#[derive(Clone)]
pub(super) struct Function {
    pub(super) function: Arc<AggregateFunctionExpr>,
    /// The arguments, then what its ORDER BY sorts by.
    pub(super) arguments: Vec<Arc<dyn PhysicalExpr>>,
    pub(super) filter: Option<Arc<dyn PhysicalExpr>>,
    pub(super) types: Vec<DataType>,
    /// There is no GROUP BY.
    pub(super) global: bool,
}

/// Rows of one change, with the numbers of their groups.
pub(super) struct Batch<'a> {
    pub(super) rows: &'a RecordBatch,
    pub(super) weights: Option<&'a Int64Array>,
    /// By row, the group's number.
    pub(super) numbers: &'a [u32],
    /// By row, the group's place among those that the epoch touches.
    pub(super) places: &'a [usize],
    /// How many groups the epoch has touched so far. Accumulators take it that each of them has had a value.
    pub(super) touched: usize,
    /// One more than the largest number of a group.
    pub(super) groups: usize,
}

impl Batch<'_> {
    pub(super) fn len(&self) -> usize {
        self.rows.num_rows()
    }

    #[inline]
    pub(super) fn weight(&self, row: usize) -> i64 {
        self.weights.map_or(1, |weights| weights.value(row))
    }
}

/// Where groups have gone that were saved by another number of shards, or the same.
pub(super) trait Moved {
    /// The group's number here; nothing if it is not of this shard.
    fn number(&self, shard: u32, number: u32) -> Option<u32>;
}

/// What is kept of some of the functions, by group.
pub(super) trait Fold: Send {
    /// Takes rows in.
    fn update(&mut self, batch: &Batch<'_>) -> Result<()>;

    /// All rows of the epoch are in; `touched` are the groups that had any.
    fn settle(&mut self, touched: &[u32], groups: usize) -> Result<()>;

    /// The results of these groups, as they were when last settled; a column for each function.
    fn results(&self, groups: &[u32]) -> Result<Vec<ArrayRef>>;

    /// A group is gone, after all its rows.
    fn remove(&mut self, group: u32);

    /// A group is forgotten, with its rows.
    fn forget(&mut self, group: u32) -> Result<()> {
        self.remove(group);
        Ok(())
    }

    /// True if it takes the states of other folds in.
    fn merges(&self) -> bool {
        false
    }

    /// Takes in what [`Fold::states`] of another fold gave, a row for each row of the batch.
    fn merge(&mut self, _batch: &Batch<'_>, _states: &[ArrayRef]) -> Result<()> {
        Err(Error::query("an aggregate does not take in states of others"))
    }

    /// Forgets all groups, and gives their memory back: of folds that merge.
    fn clear(&mut self) {}

    /// The columns of [`Fold::states`].
    fn fields(&self) -> Vec<FieldRef>;

    /// What is kept a row for each group.
    fn states(&self, groups: &[u32]) -> Result<Vec<ArrayRef>>;

    /// Takes back what [`Fold::states`] gave.
    fn restore_states(&mut self, groups: &[u32], total: usize, columns: &[ArrayRef]) -> Result<()>;

    /// True if [`Fold::save`] gives anything.
    fn has_part(&self) -> bool {
        false
    }

    /// What is kept beside that: what has changed of it since the last call, or all.
    fn save(&mut self, _shard: u32, _whole: bool) -> Result<Option<Saved>> {
        Ok(None)
    }

    /// Takes that back.
    fn restore(&mut self, _saved: Pieces, _moved: &dyn Moved) -> Result<()> {
        Ok(())
    }

    /// Memory, about.
    fn bytes(&self) -> usize;

    /// Puts rows on disk until so many bytes of memory are free, or none can go; gives how many are.
    fn spill(&mut self, _bytes: usize, _disk: &Arc<DiskManager>) -> Result<usize> {
        Ok(0)
    }
}

impl Function {
    pub(super) fn new(
        function: Arc<AggregateFunctionExpr>,
        filter: Option<Arc<dyn PhysicalExpr>>,
        input: &SchemaRef,
        global: bool,
    ) -> Result<Self> {
        let mut arguments = function.expressions();
        arguments.extend(function.order_bys().iter().map(|order| Arc::clone(&order.expr)));
        let types = arguments.iter().map(|argument| Ok(argument.data_type(input)?)).collect::<Result<_>>()?;
        Ok(Self { function, arguments, filter, types, global })
    }

    /// What is kept for it. `grows`: its input never retracts.
    pub(super) fn upkeep(&self, grows: bool) -> Upkeep {
        let function = &self.function;
        let arguments = &self.types[..self.types.len() - function.order_bys().len()];
        let field = function.field();
        let (name, result) = (function.fun().name(), field.data_type());
        let (distinct, ordered) = (function.is_distinct(), !function.order_bys().is_empty());
        Called { name, distinct, ordered, arguments, result }.upkeep(grows)
    }

    /// The same function of every row, where this one is DISTINCT.
    pub(super) fn of_all(&self, input: &SchemaRef) -> Result<Self> {
        let function = &self.function;
        let builder = AggregateExprBuilder::new(Arc::new(function.fun().clone()), function.expressions());
        let builder =
            builder.schema(Arc::clone(input)).alias(function.name()).with_ignore_nulls(function.ignore_nulls());
        Ok(Self { function: Arc::new(builder.build()?), ..self.clone() })
    }

    /// The columns of the arguments.
    pub(super) fn arguments(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
        evaluate(&self.arguments, rows)
    }

    /// The rows that FILTER lets through; nothing if there is none.
    pub(super) fn selected(&self, rows: &RecordBatch) -> Result<Option<BooleanArray>> {
        let Some(filter) = &self.filter else { return Ok(None) };
        let selected = filter.evaluate(rows)?.into_array(rows.num_rows())?;
        let selected = selected.as_boolean();
        Ok(Some(if selected.null_count() > 0 { prep_null_mask_filter(selected) } else { selected.clone() }))
    }

    /// An accumulator for many groups.
    pub(super) fn accumulator(&self) -> Result<Box<dyn GroupsAccumulator>> {
        // Accumulators of many groups expect a row in each; the one group may have none.
        if !self.global && self.function.groups_accumulator_supported() {
            return Ok(self.function.create_groups_accumulator()?);
        }
        Ok(self.single_accumulators())
    }

    /// The same, made of accumulators of one group each.
    pub(super) fn single_accumulators(&self) -> Box<dyn GroupsAccumulator> {
        let function = Arc::clone(&self.function);
        Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator()))
    }

    /// Hands rows to an accumulator, in the order that the function asks for.
    pub(super) fn accumulate(
        &self,
        accumulator: &mut dyn GroupsAccumulator,
        arguments: &[ArrayRef],
        places: &[usize],
        selected: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        let order = self.function.order_bys();
        if order.is_empty() || places.len() < 2 {
            return Ok(accumulator.update_batch(arguments, places, selected, total)?);
        }
        let by = &arguments[arguments.len() - order.len()..];
        let columns = by
            .iter()
            .zip(order)
            .map(|(values, order)| SortColumn { values: Arc::clone(values), options: Some(order.options) });
        let sorted = lexsort_to_indices(&columns.collect::<Vec<_>>(), None)?;
        let sorted = UInt64Array::from_iter_values(sorted.values().iter().map(|row| u64::from(*row)));
        let take = |column: &ArrayRef| Ok(arrow::compute::take(column, &sorted, None)?);
        let arguments = arguments.iter().map(take).collect::<Result<Vec<_>>>()?;
        let places: Vec<usize> = sorted.values().iter().map(|row| places[*row as usize]).collect();
        let selected = selected.map(|selected| arrow::compute::take(selected, &sorted, None)).transpose()?;
        let selected = selected.as_ref().map(|selected| selected.as_boolean());
        Ok(accumulator.update_batch(&arguments, &places, selected, total)?)
    }
}
