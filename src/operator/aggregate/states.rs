//! Functions over input that never retracts, by the states of DataFusion's accumulators.
//!
//! Enters: rows. Leaves: the results of groups. Always holds: a group's states are a row of columns; the work of an
//! epoch follows its rows and the groups that they touch.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use datafusion::execution::disk_manager::DiskManager;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

use super::function::{Batch, Fold, Function};
use crate::change::with_columns;
use crate::error::Result;
use crate::operator::chunks::Chunks;

const NOWHERE: u32 = u32::MAX;

type Accumulators = Vec<Box<dyn GroupsAccumulator>>;

/// The states of some functions.
pub(super) struct States {
    functions: Vec<Function>,
    /// How many columns the states of each function have.
    widths: Vec<usize>,
    schema: SchemaRef,
    rows: Chunks,
    /// By group: its row.
    slots: Vec<u32>,
    /// The rows of the epoch, by the places of the groups.
    epoch: Option<Accumulators>,
}

impl States {
    pub(super) fn new(functions: Vec<Function>) -> Result<Self> {
        let (mut fields, mut widths) = (Vec::new(), Vec::new());
        for function in &functions {
            let states = function.function.state_fields()?;
            for (at, field) in states.iter().enumerate() {
                let name = format!("{} {at}", function.function.name());
                fields.push(Arc::new(Field::new(name, field.data_type().clone(), true)));
            }
            widths.push(states.len());
        }
        let schema = Arc::new(Schema::new(fields));
        let rows = Chunks::new(Arc::clone(&schema));
        Ok(Self { functions, widths, schema, rows, slots: Vec::new(), epoch: None })
    }

    fn accumulators(&self) -> Result<Accumulators> {
        self.functions.iter().map(Function::accumulator).collect()
    }

    fn merge_states(
        &self,
        into: &mut Accumulators,
        states: &RecordBatch,
        places: &[usize],
        total: usize,
    ) -> Result<()> {
        let mut at = 0;
        for (accumulator, width) in into.iter_mut().zip(&self.widths) {
            accumulator.merge_batch(&states.columns()[at..at + width], places, total)?;
            at += width;
        }
        Ok(())
    }

    fn slots(&self, groups: &[u32]) -> Vec<u32> {
        groups.iter().map(|group| self.slots[*group as usize]).collect()
    }

    fn put(&mut self, groups: &[u32], rows: &RecordBatch) -> Result<()> {
        for group in groups {
            let slot = std::mem::replace(&mut self.slots[*group as usize], NOWHERE);
            if slot != NOWHERE {
                self.rows.remove(slot);
            }
        }
        let slots = self.rows.insert(rows)?;
        for (group, slot) in groups.iter().zip(slots) {
            self.slots[*group as usize] = slot;
        }
        Ok(())
    }
}

impl Fold for States {
    fn update(&mut self, batch: &Batch<'_>) -> Result<()> {
        let mut accumulators = self.epoch.take().map_or_else(|| self.accumulators(), Ok)?;
        for (function, accumulator) in self.functions.iter().zip(&mut accumulators) {
            let arguments = function.arguments(batch.rows)?;
            let selected = function.selected(batch.rows)?;
            function.accumulate(accumulator.as_mut(), &arguments, batch.places, selected.as_ref(), batch.touched)?;
        }
        self.epoch = Some(accumulators);
        Ok(())
    }

    fn merges(&self) -> bool {
        true
    }

    fn merge(&mut self, batch: &Batch<'_>, states: &[ArrayRef]) -> Result<()> {
        let mut accumulators = self.epoch.take().map_or_else(|| self.accumulators(), Ok)?;
        let states = with_columns(&self.schema, states.to_vec(), batch.len())?;
        self.merge_states(&mut accumulators, &states, batch.places, batch.touched)?;
        self.epoch = Some(accumulators);
        Ok(())
    }

    fn clear(&mut self) {
        (self.rows, self.slots) = (Chunks::new(Arc::clone(&self.schema)), Vec::new());
    }

    fn settle(&mut self, touched: &[u32], groups: usize) -> Result<()> {
        if self.slots.len() < groups {
            self.slots.resize(groups, NOWHERE);
        }
        let Some(mut accumulators) = self.epoch.take() else { return Ok(()) };
        let known = |(_, group): &(usize, &u32)| self.slots[**group as usize] != NOWHERE;
        let (places, known): (Vec<usize>, Vec<u32>) = touched.iter().enumerate().filter(known).unzip();
        if !known.is_empty() {
            let old = self.rows.gather(&self.slots(&known))?;
            self.merge_states(&mut accumulators, &old, &places, touched.len())?;
        }
        let mut states = Vec::new();
        for accumulator in &mut accumulators {
            states.extend(accumulator.state(EmitTo::All)?);
        }
        let rows = with_columns(&self.schema, states, touched.len())?;
        self.put(touched, &rows)
    }

    fn results(&self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        let states = self.rows.gather(&self.slots(groups))?;
        let mut accumulators = self.accumulators()?;
        let places: Vec<usize> = (0..groups.len()).collect();
        self.merge_states(&mut accumulators, &states, &places, groups.len())?;
        accumulators.iter_mut().map(|accumulator| Ok(accumulator.evaluate(EmitTo::All)?)).collect()
    }

    fn remove(&mut self, group: u32) {
        let slot = std::mem::replace(&mut self.slots[group as usize], NOWHERE);
        if slot != NOWHERE {
            self.rows.remove(slot);
        }
    }

    fn fields(&self) -> Vec<FieldRef> {
        self.schema.fields().to_vec()
    }

    fn states(&self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(self.rows.gather(&self.slots(groups))?.columns().to_vec())
    }

    fn restore_states(&mut self, groups: &[u32], total: usize, columns: &[ArrayRef]) -> Result<()> {
        self.slots.resize(total, NOWHERE);
        let rows = with_columns(&self.schema, columns.to_vec(), groups.len())?;
        self.put(groups, &rows)
    }

    fn bytes(&self) -> usize {
        self.rows.bytes() + self.slots.capacity() * 4
    }

    fn spill(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        self.rows.spill(bytes, disk)
    }
}
