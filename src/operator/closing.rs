//! EMIT FINAL: rows that do not change any more.
//!
//! Enters: changes. Leaves: each row once, when the watermark has passed it, and never its retraction. Always holds:
//! a row is kept until then, and forgotten with that.

use std::sync::Arc;

use arrow::array::{Array, Int64Array, UInt64Array};
use arrow::datatypes::SchemaRef;
use datafusion::common::DFSchema;
use datafusion::execution::SessionState;
use datafusion::execution::disk_manager::DiskManager;

use super::expiry::Expiry;
use super::keys::{canonical, hash};
use super::multiset::{Applied, Matches, Multiset};
use super::{EpochContext, Operator, Shard, physical};
use crate::change::{Changes, RowEncoder, consolidate, nullable, repeat, retracted_too_often};
use crate::checkpoint::{Pieces, Saved};
use crate::error::{Error, Result};
use crate::planner::Eviction;

/// The rows of one shard that may still change.
pub(super) struct Closing {
    rows: Multiset,
    expiry: Expiry<u32>,
    encoder: RowEncoder,
    schema: SchemaRef,
}

impl Closing {
    pub(super) fn new(input: &DFSchema, evict: &[Eviction], state: &SessionState) -> Result<Self> {
        let eviction = evict.first().ok_or_else(|| Error::query("EMIT FINAL without a watermark"))?;
        let schema = nullable(input.as_arrow());
        Ok(Self {
            rows: Multiset::new(Arc::clone(&schema), false)?,
            expiry: Expiry::new(eviction, physical(&eviction.value, input, state)?, state)?,
            encoder: RowEncoder::of(&schema)?,
            schema,
        })
    }

    fn apply(&mut self, change: &Changes, matches: Matches<'_>) -> Result<Vec<Applied>> {
        let applied = self.rows.apply(change, matches)?;
        let values = self.expiry.values(&change.rows)?;
        for one in applied.iter().filter(|one| one.is_new && !values.is_null(one.row)) {
            self.expiry.push(values.value(one.row), one.slot);
        }
        Ok(applied)
    }

    /// What is over, and is kept no longer.
    fn close(&mut self, context: &EpochContext) -> Result<Option<Changes>> {
        let (slots, rows) = self.expiry.rows_over(self.rows.rows(), context)?;
        if slots.is_empty() {
            return Ok(None);
        }
        let weights = Int64Array::from_iter_values(slots.iter().map(|slot| self.rows.weight(*slot)));
        let gone = Int64Array::from_iter_values(weights.values().iter().map(|weight| -weight));
        self.rows.apply(&Changes::weighted(rows.clone(), gone), Matches::Of(&[]))?;
        Ok(Some(Changes::weighted(rows, weights)))
    }
}

impl Operator for Closing {
    fn step(&mut self, inputs: Vec<Vec<Changes>>, context: &EpochContext) -> Result<Vec<Changes>> {
        let changes: Vec<Changes> = inputs.into_iter().flatten().collect();
        // Within an epoch a row may go before it has come.
        if let Some(change) = consolidate(&self.schema, &changes)? {
            let applied = self.apply(&change, Matches::Of(&[]))?;
            if applied.iter().any(|one| one.after < 0) {
                return Err(retracted_too_often());
            }
        }
        let closed = self.close(context)?;
        closed.into_iter().map(|closed| Ok(Changes::inserted(repeat(&closed)?))).collect()
    }

    fn save(&mut self) -> Result<Vec<Saved>> {
        Ok(vec![self.rows.save()?])
    }

    fn restore(&mut self, saved: Vec<Pieces>, shard: Shard) -> Result<()> {
        for batch in saved.into_iter().flatten() {
            let batch = &batch?;
            let (change, _) = self.rows.saved_parts(batch)?;
            let columns: Vec<_> = change.rows.columns().iter().map(canonical).collect();
            let keys = self.encoder.encode(&columns, change.len())?;
            let mine = (0..change.len()).filter(|row| shard.has(hash(keys.row(*row)))).map(|row| row as u64);
            let mine = change.take(&UInt64Array::from_iter_values(mine))?;
            self.apply(&mine, Matches::More(&[]))?;
        }
        if !shard.moved {
            self.rows.mark_saved();
        }
        Ok(())
    }

    fn size(&self) -> (usize, usize) {
        (self.rows.rows().len(), self.rows.bytes() + self.expiry.bytes())
    }

    fn spill(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        self.rows.spill(bytes, disk)
    }
}
