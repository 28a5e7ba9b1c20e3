//! The rows of a source that inserts, changes and deletes.
//!
//! Enters: what the source read, in its order, with what each row does. Leaves: the rows that come and go, once an
//! epoch each. Always holds: the rows that are there are kept, by key; a delete of one that is not there ends the
//! pipeline, or is counted.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int8Array, RecordBatch};
use arrow::datatypes::{DataType, Int8Type, SchemaRef};
use datafusion::execution::disk_manager::DiskManager;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;

use super::exchange::Exchange;
use super::keys::{KeyHasher, evaluate_key};
use super::log::{Log, ToSave};
use super::waiting::Waiting;
use super::{EpochContext, Operator, Shard};
use crate::change::{Changes, NetRows, OnMissing, nullable, weighted_schema, with_columns};
use crate::checkpoint::{Pieces, Saved};
use crate::error::{Error, Result};

/// Rows that are saved in one batch.
const BLOCK: usize = 8 * 1024;

/// The rows of one shard.
pub(super) struct Net {
    /// The name of the source.
    name: String,
    schema: SchemaRef,
    rows: NetRows,
    key: Vec<Arc<dyn PhysicalExpr>>,
    hasher: KeyHasher,
    log: Log<Box<[u8]>>,
    /// Rows that are not in `rows`, with their weights, where equal keys have equal bytes.
    waiting: Option<Waiting>,
}

/// The columns at these places, or all of them.
fn key_columns(schema: &SchemaRef, key: &[usize]) -> (Vec<Arc<dyn PhysicalExpr>>, Vec<DataType>) {
    let all: Vec<usize> = (0..schema.fields().len()).collect();
    let places = if key.is_empty() { &all[..] } else { key };
    let column = |at: &usize| {
        let field = schema.field(*at);
        (Arc::new(Column::new(field.name(), *at)) as Arc<dyn PhysicalExpr>, field.data_type().clone())
    };
    places.iter().map(column).unzip()
}

impl Net {
    /// Of a source of these columns; `key` are the places of its key, if it has one.
    pub(super) fn new(name: &str, schema: &SchemaRef, key: &[usize], on_missing: OnMissing) -> Result<Self> {
        let (columns, types) = key_columns(schema, key);
        let exact = |kind: &DataType| !kind.is_floating() && !kind.is_nested();
        let waiting = types.iter().all(exact).then(|| {
            let all = (0..schema.fields().len()).collect();
            Waiting::new(&weighted_schema(&nullable(schema)), if key.is_empty() { all } else { key.to_vec() })
        });
        Ok(Self {
            name: name.to_owned(),
            schema: Arc::clone(schema),
            rows: NetRows::new(schema, key, on_missing)?,
            key: columns,
            hasher: KeyHasher::new(types)?,
            log: Log::default(),
            waiting: waiting.transpose()?,
        })
    }

    /// Takes the rows back that these speak of.
    fn thaw(&mut self, rows: &RecordBatch) -> Result<()> {
        let Some(waiting) = self.waiting.as_mut().filter(|waiting| waiting.len() > 0) else { return Ok(()) };
        let keys: Vec<ArrayRef> = evaluate_key(&self.key, rows)?;
        let (places, found) = waiting.take(&keys, rows.num_rows())?;
        if places.is_empty() {
            return Ok(());
        }
        self.rows.restore(&Changes::from_weight_column(&found)?, |_| true)
    }

    /// All rows wait.
    fn freeze(&mut self, disk: &Arc<DiskManager>) -> Result<()> {
        let Some(waiting) = &mut self.waiting else { return Ok(()) };
        let changed = self.log.take_changed();
        for part in self.rows.all(BLOCK) {
            let part = part?;
            let keys = self.rows.keys(&part.rows)?;
            waiting.put(&part.with_weight_column()?, |row| changed.contains_key(keys.row(row)))?;
            waiting.spill_large(disk)?;
        }
        // That they are gone has still to be saved.
        for key in changed.into_keys().filter(|key| !self.rows.has(key)) {
            self.log.set(key, ());
        }
        self.rows.clear();
        Ok(())
    }

    /// How its input is divided.
    pub(super) fn exchange(schema: &SchemaRef, key: &[usize]) -> Result<Exchange> {
        let (columns, types) = key_columns(schema, key);
        Exchange::by_key(columns, types)
    }
}

/// The rows of a batch, and what each does.
fn with_op(batch: &RecordBatch) -> Result<(RecordBatch, Int8Array)> {
    let last = batch.num_columns() - 1;
    let ops = batch.column(last).as_primitive_opt::<Int8Type>();
    let ops = ops.ok_or_else(|| Error::query("a source does not say what its rows do"))?.clone();
    Ok((batch.project(&(0..last).collect::<Vec<_>>())?, ops))
}

impl Operator for Net {
    fn step(&mut self, inputs: Vec<Vec<Changes>>, context: &EpochContext) -> Result<Vec<Changes>> {
        let inputs = inputs.iter().flatten().map(|change| with_op(&change.rows)).collect::<Result<Vec<_>>>()?;
        inputs.iter().try_for_each(|(rows, _)| self.thaw(rows))?;
        for (rows, ops) in &inputs {
            self.rows.apply(rows, ops).map_err(|error| {
                let error = Error { message: format!("{}: {}", self.name, error.message), ..error };
                match context.taken.get(&self.name) {
                    Some(taken) => error.note(format!("in what epoch {} took: {taken}", context.epoch)),
                    None => error,
                }
            })?;
        }
        let log = &mut self.log;
        let changes = self.rows.settle(|key| log.set(key.into(), ()))?;
        let named = changes.map(|changes| {
            let rows = with_columns(&self.schema, changes.rows.columns().to_vec(), changes.len())?;
            Ok(Changes { rows, weights: changes.weights })
        });
        named.into_iter().collect()
    }

    fn save(&mut self) -> Result<Vec<Saved>> {
        let waits = self.waiting.as_ref().map_or(0, Waiting::len);
        let saved = self.log.take(self.rows.len() + waits, false);
        let mut parts: Vec<RecordBatch> = match &saved {
            ToSave::Nothing => Vec::new(),
            ToSave::Changed(changed) => {
                let keys: Vec<&[u8]> = changed.keys().map(|key| &**key).collect();
                let parts = keys.chunks(BLOCK).map(|keys| self.rows.of(keys.iter().copied())?.with_weight_column());
                parts.collect::<Result<_>>()?
            }
            ToSave::All => self.rows.all(BLOCK).map(|part| part?.with_weight_column()).collect::<Result<_>>()?,
        };
        parts.retain(|part| part.num_rows() > 0);
        let all = matches!(saved, ToSave::All);
        let Some(waiting) = &mut self.waiting else { return Ok(vec![saved.of(parts)]) };
        let (count, rest) = waiting.save(all);
        self.log.count(if all { 0 } else { count });
        let nothing = parts.is_empty() && count == 0;
        let parts = Pieces::new(Pieces::from(parts).chain(rest.batches(BLOCK)));
        Ok(vec![match all {
            true => Saved::Whole(parts),
            false if nothing => Saved::Unchanged,
            false => Saved::Added(parts),
        }])
    }

    fn restore(&mut self, saved: Vec<Pieces>, shard: Shard) -> Result<()> {
        for batch in saved.into_iter().flatten() {
            let batch = &batch?;
            let change = Changes::from_weight_column(batch)?;
            let hashes = self.hasher.hashes(&evaluate_key(&self.key, &change.rows)?, change.len())?;
            match &mut self.waiting {
                Some(waiting) => {
                    let schema = weighted_schema(&nullable(&self.schema));
                    let batch = with_columns(&schema, batch.columns().to_vec(), batch.num_rows())?;
                    waiting.restore(&batch, |row| change.weight(row) != 0, shard)?;
                }
                None => self.rows.restore(&change, |row| shard.has(hashes[row]))?,
            }
            let own = hashes.iter().filter(|hash| shard.has(**hash)).count();
            self.log.restored(own, shard.moved);
        }
        Ok(())
    }

    fn take_left_out(&mut self) -> u64 {
        self.rows.take_missing()
    }

    fn size(&self) -> (usize, usize) {
        let waiting = self.waiting.as_ref().map_or((0, 0), |waiting| (waiting.len(), waiting.bytes()));
        (self.rows.len() + waiting.0, self.rows.bytes() + waiting.1)
    }

    fn spill(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        let (_, before) = self.size();
        let left = |net: &Self| bytes.saturating_sub(before.saturating_sub(net.size().1));
        if let Some(waiting) = &mut self.waiting {
            waiting.spill_large(disk)?;
        }
        if left(self) > 0 {
            self.freeze(disk)?;
        }
        let left = left(self);
        if let Some(waiting) = &mut self.waiting {
            waiting.spill(left, disk)?;
        }
        Ok(before.saturating_sub(self.size().1))
    }
}
