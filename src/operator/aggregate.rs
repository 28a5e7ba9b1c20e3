//! Aggregates by group, over input that never retracts.
//!
//! Enters: inserted rows. Leaves: for each touched group, its old row retracted and its new one inserted. Always
//! holds: what is kept of a group is the state of DataFusion's accumulators, as columns; the work of an epoch
//! follows the groups that it touches. Without GROUP BY there is one group, also before the first row.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt64Array};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::execution::SessionState;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Aggregate as Plan, EmitTo, GroupsAccumulator};
use datafusion::physical_expr::aggregate::{AggregateFunctionExpr, LoweredAggregateBuilder};
use datafusion::physical_expr::{GroupsAccumulatorAdapter, PhysicalExpr};
use datafusion::physical_plan::aggregates::group_values::new_group_values;
use datafusion::physical_plan::aggregates::order::GroupOrdering;

use super::chunks::Chunks;
use super::keys::{Keys, evaluate, hash};
use super::{EpochContext, Operator, Shard, physical};
use crate::change::{Changes, RowEncoder, concat, take_rows, with_columns};
use crate::checkpoint::Saved;
use crate::error::Result;

/// One aggregate function with its arguments.
struct Function {
    function: Arc<AggregateFunctionExpr>,
    arguments: Vec<Arc<dyn PhysicalExpr>>,
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// How many columns its state has.
    states: usize,
}

/// The aggregates of one shard's groups.
pub(super) struct Aggregate {
    groups: Vec<Arc<dyn PhysicalExpr>>,
    functions: Vec<Function>,
    input: SchemaRef,
    /// Group columns, then results.
    output: SchemaRef,
    /// Group columns, then states.
    kept: SchemaRef,
    encoder: RowEncoder,
    keys: Keys,
    /// A row for each key, under the key's number.
    rows: Chunks,
    /// Keys whose state has changed since the last checkpoint.
    changed: BTreeSet<u32>,
    /// Rows that were saved since the state was last saved as a whole.
    saved_rows: usize,
    /// This shard has the one group of an aggregate without GROUP BY.
    is_first: bool,
}

type Accumulators = Vec<Box<dyn GroupsAccumulator>>;

/// The groups that an epoch touches.
struct Touched {
    /// Their key columns.
    keys: Vec<ArrayRef>,
    /// The number of each in [`Keys`], and whether it is new.
    numbers: Vec<(u32, bool)>,
}

impl Aggregate {
    pub(super) fn new(plan: &Plan, state: &SessionState, is_first: bool) -> Result<Self> {
        let (props, context) = (state.execution_props(), PhysicalPlanningContext::default());
        let input = plan.input.schema();
        let groups = plan.group_expr.iter().map(|expr| physical(expr, input, state));
        let groups: Vec<Arc<dyn PhysicalExpr>> = groups.collect::<Result<_>>()?;
        let output = Arc::clone(plan.schema.inner());
        let mut fields: Vec<Arc<Field>> = output.fields()[..groups.len()].to_vec();
        let mut functions = Vec::new();
        for expr in &plan.aggr_expr {
            let lowered = LoweredAggregateBuilder::new(expr, input, input.as_arrow(), props, &context).build()?;
            let (function, filter) = (lowered.aggregate, lowered.filter);
            let states = function.state_fields()?;
            for (at, field) in states.iter().enumerate() {
                let name = format!("{}#{}.{at}", function.name(), functions.len());
                fields.push(Arc::new(Field::new(name, field.data_type().clone(), true)));
            }
            let arguments = function.expressions();
            functions.push(Function { function, arguments, filter, states: states.len() });
        }
        let kept = Arc::new(Schema::new(fields));
        let encoder = RowEncoder::new(output.fields()[..groups.len()].iter().map(|field| field.data_type().clone()))?;
        Ok(Self {
            groups,
            functions,
            input: Arc::clone(input.inner()),
            output,
            rows: Chunks::new(Arc::clone(&kept)),
            kept,
            encoder,
            keys: Keys::default(),
            changed: BTreeSet::new(),
            saved_rows: 0,
            is_first,
        })
    }

    fn accumulators(&self) -> Result<Accumulators> {
        let make = |function: &Function| -> Result<Box<dyn GroupsAccumulator>> {
            // Accumulators of many groups expect a row in each; the one group may have none.
            if !self.groups.is_empty() && function.function.groups_accumulator_supported() {
                return Ok(function.function.create_groups_accumulator()?);
            }
            let function = Arc::clone(&function.function);
            Ok(Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator())))
        };
        self.functions.iter().map(make).collect()
    }

    /// Accumulators that hold these states, each in a group of its own number.
    fn merge(&self, into: &mut Accumulators, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        let mut at = 0;
        for (accumulator, function) in into.iter_mut().zip(&self.functions) {
            accumulator.merge_batch(&states[at..at + function.states], groups, total)?;
            at += function.states;
        }
        Ok(())
    }

    fn results(&self, states: &[ArrayRef], total: usize) -> Result<Vec<ArrayRef>> {
        let mut accumulators = self.accumulators()?;
        let groups: Vec<usize> = (0..total).collect();
        self.merge(&mut accumulators, states, &groups, total)?;
        accumulators.iter_mut().map(|accumulator| Ok(accumulator.evaluate(EmitTo::All)?)).collect()
    }

    /// Numbers the groups of the rows from 0, and feeds the rows to accumulators.
    fn accumulate(&self, inputs: &[Changes]) -> Result<(Vec<ArrayRef>, Accumulators, usize)> {
        let mut accumulators = self.accumulators()?;
        let fields = Schema::new(self.output.fields()[..self.groups.len()].to_vec());
        let grouped = !self.groups.is_empty();
        let mut values = grouped.then(|| new_group_values(Arc::new(fields), &GroupOrdering::None)).transpose()?;
        let mut numbers = Vec::new();
        let mut total = usize::from(!grouped);
        for change in inputs {
            match &mut values {
                Some(values) => {
                    values.intern(&evaluate(&self.groups, &change.rows)?, &mut numbers)?;
                    total = values.len();
                }
                None => numbers = vec![0; change.len()],
            }
            for (accumulator, function) in accumulators.iter_mut().zip(&self.functions) {
                let arguments = evaluate(&function.arguments, &change.rows)?;
                let filter = match &function.filter {
                    Some(filter) => Some(filter.evaluate(&change.rows)?.into_array(change.len())?),
                    None => None,
                };
                let filter: Option<&BooleanArray> = filter.as_ref().map(|filter| filter.as_boolean());
                accumulator.update_batch(&arguments, &numbers, filter, total)?;
            }
        }
        if inputs.is_empty() {
            for (accumulator, function) in accumulators.iter_mut().zip(&self.functions) {
                // They must know of the one group.
                let schema = function.arguments.iter().map(|argument| argument.data_type(&self.input));
                let empty: Vec<ArrayRef> =
                    schema.map(|kind| Ok(arrow::array::new_empty_array(&kind?))).collect::<Result<_>>()?;
                accumulator.update_batch(&empty, &[], None, total)?;
            }
        }
        let keys = match values {
            Some(mut values) => values.emit(EmitTo::All)?,
            None => Vec::new(),
        };
        Ok((keys, accumulators, total))
    }

    /// Finds the numbers of the keys that were touched; new ones get one.
    fn intern(&mut self, keys: Vec<ArrayRef>, total: usize) -> Result<Touched> {
        let encoded = self.encoder.encode(&keys, total)?;
        let numbers = (0..encoded.len()).map(|row| {
            let key = encoded.row(row);
            self.keys.intern(hash(key), key)
        });
        let numbers = numbers.collect();
        Ok(Touched { keys, numbers })
    }

    /// Keeps the new states of the touched groups.
    fn keep(&mut self, touched: &Touched, states: Vec<ArrayRef>) -> Result<()> {
        let columns = touched.keys.iter().cloned().chain(states).collect();
        let rows = with_columns(&self.kept, columns, touched.numbers.len())?;
        self.store(&touched.numbers, &rows)?;
        self.changed.extend(touched.numbers.iter().map(|(number, _)| *number));
        Ok(())
    }

    fn store(&mut self, numbers: &[(u32, bool)], rows: &RecordBatch) -> Result<()> {
        let places = |new: bool| {
            let of_kind = numbers.iter().enumerate().filter(move |(_, (_, is_new))| *is_new == new);
            UInt64Array::from_iter_values(of_kind.map(|(at, _)| at as u64))
        };
        let (old, new) = (places(false), places(true));
        let slots: Vec<u32> = old.values().iter().map(|at| numbers[*at as usize].0).collect();
        self.rows.replace(&slots, &take_rows(rows, &old)?)?;
        // Numbers and slots are both given in order, and neither is ever taken back.
        self.rows.insert(&take_rows(rows, &new)?)?;
        debug_assert_eq!(self.rows.slots(), self.keys.len());
        Ok(())
    }
}

impl Operator for Aggregate {
    fn step(&mut self, inputs: Vec<Vec<Changes>>, _context: &EpochContext) -> Result<Vec<Changes>> {
        let inputs: Vec<Changes> = inputs.into_iter().flatten().filter(|change| !change.is_empty()).collect();
        let begins = self.groups.is_empty() && self.is_first && self.keys.len() == 0;
        if inputs.is_empty() && !begins {
            return Ok(Vec::new());
        }
        let (keys, mut accumulators, total) = self.accumulate(&inputs)?;
        let touched = self.intern(keys, total)?;
        let known: Vec<usize> = (0..total).filter(|at| !touched.numbers[*at].1).collect();
        let mut retracted = None;
        if !known.is_empty() {
            let slots: Vec<u32> = known.iter().map(|at| touched.numbers[*at].0).collect();
            let old = self.rows.gather(&slots)?;
            let states = &old.columns()[self.groups.len()..];
            let columns = old.columns()[..self.groups.len()].iter().cloned();
            let columns = columns.chain(self.results(states, known.len())?).collect();
            retracted = Some(with_columns(&self.output, columns, known.len())?);
            self.merge(&mut accumulators, states, &known, total)?;
        }
        let mut states = Vec::new();
        for accumulator in &mut accumulators {
            states.extend(accumulator.state(EmitTo::All)?);
        }
        let columns = touched.keys.iter().cloned().chain(self.results(&states, total)?).collect();
        let inserted = with_columns(&self.output, columns, total)?;
        self.keep(&touched, states)?;
        if self.functions.is_empty() {
            // DISTINCT: a group that was known changes nothing.
            let new = (0..total).filter(|at| touched.numbers[*at].1).map(|at| at as u64);
            let rows = take_rows(&inserted, &UInt64Array::from_iter_values(new))?;
            return Ok(vec![Changes::inserted(rows)]);
        }
        let mut out = Vec::new();
        if let Some(rows) = retracted {
            let weights = Int64Array::from(vec![-1; rows.num_rows()]);
            out.push(Changes::weighted(rows, weights));
        }
        let weights = Int64Array::from(vec![1; inserted.num_rows()]);
        out.push(Changes::weighted(inserted, weights));
        Ok(out)
    }

    fn save(&mut self) -> Result<Vec<Saved>> {
        if self.changed.is_empty() {
            return Ok(vec![Saved::Unchanged]);
        }
        let changed: Vec<u32> = std::mem::take(&mut self.changed).into_iter().collect();
        self.saved_rows += changed.len();
        if self.saved_rows > 2 * self.rows.len() + 1000 {
            self.saved_rows = self.rows.len();
            return Ok(vec![Saved::Whole(vec![self.rows.gather(&self.rows.live())?])]);
        }
        Ok(vec![Saved::Added(vec![self.rows.gather(&changed)?])])
    }

    fn restore(&mut self, mut saved: Vec<Vec<RecordBatch>>, shard: Shard) -> Result<()> {
        let Some(batches) = saved.pop().filter(|batches| !batches.is_empty()) else { return Ok(()) };
        let rows = concat(&self.kept, &batches)?;
        self.saved_rows = rows.num_rows();
        let encoded = self.encoder.encode(&rows.columns()[..self.groups.len()], rows.num_rows())?;
        // Of several rows with one key the last counts.
        let mut last: Vec<u64> = Vec::new();
        for row in 0..encoded.len() {
            let hash = hash(encoded.row(row));
            if !shard.has(hash) {
                continue;
            }
            match self.keys.intern(hash, encoded.row(row)) {
                (_, true) => last.push(row as u64),
                (number, false) => last[number as usize] = row as u64,
            }
        }
        self.rows.insert(&take_rows(&rows, &UInt64Array::from(last))?)?;
        Ok(())
    }

    fn size(&self) -> (usize, usize) {
        (self.rows.len(), self.rows.bytes() + self.keys.memory())
    }
}
