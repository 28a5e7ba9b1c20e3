//! Functions whose results cannot be brought up to date when rows are taken away: all rows are kept.
//!
//! Enters: rows with weights. Leaves: the results of groups. Always holds: a group that an epoch touches is computed
//! anew from its rows, by DataFusion's accumulators; others are not looked at.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, UInt32Type};
use datafusion::execution::disk_manager::DiskManager;
use datafusion::logical_expr::EmitTo;

use super::function::{Batch, Fold, Function, Moved};
use super::{GROUP, SHARD};
use crate::change::{Changes, retracted_too_often, take_rows, with_columns};
use crate::checkpoint::{Pieces, Saved};
use crate::error::Result;
use crate::operator::arrangement::{Side, hash_of_number};
use crate::operator::chunks::Chunks;
use crate::operator::multiset::Matches;

const NOWHERE: u32 = u32::MAX;

/// The rows of all groups, as far as these functions look at them.
pub(super) struct Rows {
    functions: Vec<Function>,
    /// The group's number; for each function its arguments, then whether FILTER lets the row through.
    schema: SchemaRef,
    side: Side,
    /// The results of each group that has rows.
    results: Chunks,
    result_schema: SchemaRef,
    /// By group: its row in `results`.
    slots: Vec<u32>,
}

impl Rows {
    pub(super) fn new(functions: Vec<Function>) -> Result<Self> {
        let mut fields = vec![Field::new(GROUP, DataType::UInt32, false)];
        for (at, function) in functions.iter().enumerate() {
            for (argument, kind) in function.types.iter().enumerate() {
                fields.push(Field::new(format!("argument {at} {argument}"), kind.clone(), true));
            }
            if function.filter.is_some() {
                fields.push(Field::new(format!("filter {at}"), DataType::Boolean, true));
            }
        }
        let results = functions.iter().map(|function| function.function.field());
        let results = results.map(|field| Field::new(field.name(), field.data_type().clone(), true));
        let result_schema = Arc::new(Schema::new(results.collect::<Vec<_>>()));
        let schema = Arc::new(Schema::new(fields));
        Ok(Self {
            functions,
            side: Side::new(Arc::clone(&schema), false, false, true)?,
            schema,
            results: Chunks::new(Arc::clone(&result_schema)),
            result_schema,
            slots: Vec::new(),
        })
    }

    fn slots(&self, groups: &[u32]) -> Vec<u32> {
        groups.iter().map(|group| self.slots[*group as usize]).collect()
    }

    /// The rows of these groups, each as often as it is there, and the places of their groups.
    fn gather(&self, groups: &[u32]) -> Result<(RecordBatch, Vec<usize>)> {
        let (mut slots, mut times, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (place, group) in groups.iter().enumerate() {
            let first = slots.len();
            slots.extend(self.side.chain(hash_of_number(*group)));
            // A chain begins with what came last.
            slots[first..].reverse();
            for slot in &slots[first..] {
                let weight = usize::try_from(self.side.weight(*slot)).map_err(|_| retracted_too_often())?;
                times.push(weight);
                places.extend(std::iter::repeat_n(place, weight));
            }
        }
        let rows = self.side.gather(&slots)?;
        if times.iter().all(|times| *times == 1) {
            return Ok((rows, places));
        }
        let repeated = times.iter().enumerate().flat_map(|(row, times)| std::iter::repeat_n(row as u64, *times));
        Ok((take_rows(&rows, &UInt64Array::from_iter_values(repeated))?, places))
    }

    fn put(&mut self, groups: &[u32], rows: &RecordBatch) -> Result<()> {
        groups.iter().for_each(|group| self.remove(*group));
        let slots = self.results.insert(rows)?;
        for (group, slot) in groups.iter().zip(slots) {
            self.slots[*group as usize] = slot;
        }
        Ok(())
    }
}

impl Fold for Rows {
    fn update(&mut self, batch: &Batch<'_>) -> Result<()> {
        if batch.len() == 0 {
            return Ok(());
        }
        let mut columns: Vec<ArrayRef> = vec![Arc::new(UInt32Array::from(batch.numbers.to_vec()))];
        for function in &self.functions {
            columns.extend(function.arguments(batch.rows)?);
            if let Some(selected) = function.selected(batch.rows)? {
                columns.push(Arc::new(selected));
            }
        }
        let weights = (0..batch.len()).map(|row| batch.weight(row));
        let change =
            Changes::weighted(with_columns(&self.schema, columns, batch.len())?, Int64Array::from_iter_values(weights));
        self.side.add(&change, &hashes(batch.numbers), Matches::Of(&[]))
    }

    fn settle(&mut self, touched: &[u32], groups: usize) -> Result<()> {
        if self.slots.len() < groups {
            self.slots.resize(groups, NOWHERE);
        }
        let (rows, places) = self.gather(touched)?;
        let mut results = Vec::new();
        let mut at = 1;
        for function in &self.functions {
            let arguments = &rows.columns()[at..at + function.types.len()];
            at += function.types.len();
            let mut selected: Option<BooleanArray> = None;
            if function.filter.is_some() {
                selected = Some(rows.column(at).as_boolean().clone());
                at += 1;
            }
            let mut accumulator = function.accumulator()?;
            let total = touched.len();
            function.accumulate(accumulator.as_mut(), arguments, &places, selected.as_ref(), total)?;
            results.push(accumulator.evaluate(EmitTo::All)?);
        }
        let results = with_columns(&self.result_schema, results, touched.len())?;
        self.put(touched, &results)
    }

    fn results(&self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        Ok(self.results.gather(&self.slots(groups))?.columns().to_vec())
    }

    fn remove(&mut self, group: u32) {
        let slot = std::mem::replace(&mut self.slots[group as usize], NOWHERE);
        if slot != NOWHERE {
            self.results.remove(slot);
        }
    }

    fn forget(&mut self, group: u32) -> Result<()> {
        let hash = hash_of_number(group);
        let slots: Vec<u32> = self.side.chain(hash).collect();
        let weights = slots.iter().map(|slot| -self.side.weight(*slot));
        let gone = Changes::weighted(self.side.gather(&slots)?, Int64Array::from_iter_values(weights));
        self.side.add(&gone, &vec![hash; slots.len()], Matches::Of(&[]))?;
        self.remove(group);
        Ok(())
    }

    fn fields(&self) -> Vec<FieldRef> {
        self.result_schema.fields().to_vec()
    }

    fn states(&self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        self.results(groups)
    }

    fn restore_states(&mut self, groups: &[u32], total: usize, columns: &[ArrayRef]) -> Result<()> {
        self.slots.resize(total, NOWHERE);
        let rows = with_columns(&self.result_schema, columns.to_vec(), groups.len())?;
        self.put(groups, &rows)
    }

    fn has_part(&self) -> bool {
        true
    }

    fn save(&mut self, shard: u32, whole: bool) -> Result<Option<Saved>> {
        let saved = if whole { self.side.save_whole()? } else { self.side.save()? };
        let with_shard = |batches: Pieces| Pieces::new(batches.map(move |batch| with_shard(&batch?, shard)));
        Ok(Some(match saved {
            Saved::Unchanged => Saved::Unchanged,
            Saved::Added(batches) => Saved::Added(with_shard(batches)),
            Saved::Whole(batches) => Saved::Whole(with_shard(batches)),
        }))
    }

    fn restore(&mut self, saved: Pieces, moved: &dyn Moved) -> Result<()> {
        for batch in saved {
            let batch = batch?;
            let shards = batch.column(0).as_primitive::<UInt32Type>();
            let groups = batch.column(1).as_primitive::<UInt32Type>();
            let number = |row: usize| Some((row as u64, moved.number(shards.value(row), groups.value(row))?));
            let (rows, numbers): (Vec<u64>, Vec<u32>) = (0..batch.num_rows()).filter_map(number).unzip();
            let rows = take_rows(&batch.project(&(1..batch.num_columns()).collect::<Vec<_>>())?, &rows.into())?;
            let mut change = Changes::from_weight_column(&rows)?;
            let mut columns = change.rows.columns().to_vec();
            columns[0] = Arc::new(UInt32Array::from(numbers.clone()));
            change.rows = with_columns(&self.schema, columns, change.rows.num_rows())?;
            self.side.add(&change, &hashes(&numbers), Matches::Of(&[]))?;
        }
        self.side.mark_saved(false);
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.side.bytes() + self.results.bytes() + self.slots.capacity() * 4
    }

    fn spill(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        let freed = self.side.spill(bytes, disk)?;
        Ok(freed + self.results.spill(bytes.saturating_sub(freed), disk)?)
    }
}

fn hashes(groups: &[u32]) -> Vec<u64> {
    groups.iter().map(|group| hash_of_number(*group)).collect()
}

/// The batch with the number of its shard before the other columns.
fn with_shard(batch: &RecordBatch, shard: u32) -> Result<RecordBatch> {
    let schema = batch.schema();
    let mut fields = vec![Arc::new(Field::new(SHARD, DataType::UInt32, false))];
    fields.extend(schema.fields().iter().cloned());
    let mut columns: Vec<ArrayRef> = vec![Arc::new(UInt32Array::from(vec![shard; batch.num_rows()]))];
    columns.extend(batch.columns().iter().cloned());
    with_columns(&Arc::new(Schema::new(fields)), columns, batch.num_rows())
}
