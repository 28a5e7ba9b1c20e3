//! Rows by partition, each in its order.
//!
//! Enters: changes. Leaves: the rows of a partition, in the order that was asked for. Always holds: rows that the order
//! leaves equal stand in that of their columns; equal rows are one with a weight. They go to disk where they do not fit
//! into memory (`pages.rs`); when partitions can be forgotten is kept in memory.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::DFSchema;
use datafusion::execution::SessionState;
use datafusion::execution::disk_manager::DiskManager;
use datafusion::logical_expr::{Expr, SortExpr};
use datafusion::physical_expr::PhysicalExpr;

use super::exchange::Exchange;
use super::expiry::Expiry;
use super::kept::KeptRows;
use super::keys::{KeyHasher, evaluate, evaluate_key};
use super::pages::{Entry, Key};
use super::{EpochContext, Shard, physical};
use crate::change::Changes;
use crate::checkpoint::{Pieces, Saved};
use crate::error::Result;
use crate::planner::Eviction;

/// Columns that are parts of keys.
struct Part {
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    converter: Option<RowConverter>,
}

/// The rows of one shard's partitions.
pub(super) struct OrderedRows {
    partition: Part,
    order: Part,
    hasher: KeyHasher,
    rows: KeptRows,
    /// When a partition, by how its keys begin, can be forgotten.
    expiry: Option<Expiry<Key>>,
}

impl Part {
    fn new(columns: Vec<(Arc<dyn PhysicalExpr>, SortField)>) -> Result<Self> {
        let (exprs, fields): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        let converter = if fields.is_empty() { None } else { Some(RowConverter::new(fields)?) };
        Ok(Self { exprs, converter })
    }

    fn encode(&self, rows: &RecordBatch) -> Result<Option<Rows>> {
        let columns = evaluate(&self.exprs, rows)?;
        Ok(self.converter.as_ref().map(|converter| converter.convert_columns(&columns)).transpose()?)
    }
}

fn bytes_of(rows: &Option<Rows>, row: usize) -> &[u8] {
    rows.as_ref().map_or(&[], |rows| rows.row(row).data())
}

impl OrderedRows {
    /// Of rows with these columns.
    pub(super) fn new(
        input: &DFSchema,
        (partition, order): (&[Expr], &[SortExpr]),
        evict: &[Eviction],
        state: &SessionState,
    ) -> Result<Self> {
        let of = |expr: &Expr, options: SortOptions| -> Result<(Arc<dyn PhysicalExpr>, SortField)> {
            let expr = physical(expr, input, state)?;
            let field = SortField::new_with_options(expr.data_type(input.as_arrow())?, options);
            Ok((expr, field))
        };
        let expiry = evict.first().map(|evict| Expiry::new(evict, physical(&evict.value, input, state)?, state));
        let partition = partition.iter().map(|expr| of(expr, SortOptions::default())).collect::<Result<Vec<_>>>()?;
        let order =
            order.iter().map(|by| of(&by.expr, SortOptions { descending: !by.asc, nulls_first: by.nulls_first }));
        let types = partition.iter().map(|(expr, _)| Ok(expr.data_type(input.as_arrow())?));
        Ok(Self {
            hasher: KeyHasher::new(types.collect::<Result<Vec<_>>>()?)?,
            order: Part::new(order.collect::<Result<_>>()?)?,
            partition: Part::new(partition)?,
            rows: KeptRows::new(input.as_arrow())?,
            expiry: expiry.transpose()?,
        })
    }

    /// The columns.
    pub(super) fn schema(&self) -> &SchemaRef {
        self.rows.schema()
    }

    /// How the input is divided.
    pub(super) fn exchange(&self) -> Result<Exchange> {
        let types = self.partition.exprs.iter().map(|expr| Ok(expr.data_type(self.schema())?));
        Exchange::by_key(self.partition.exprs.clone(), types.collect::<Result<_>>()?)
    }

    /// The keys of rows, each with the entry that it would have.
    pub(super) fn keys(&self, change: &Changes) -> Result<Vec<(Key, Entry)>> {
        let (partition, order) = (self.partition.encode(&change.rows)?, self.order.encode(&change.rows)?);
        let rows = self.rows.encode(change)?;
        let key = |row: usize| {
            let parts = [bytes_of(&partition, row), bytes_of(&order, row), rows.row(row)];
            let order = parts[0].len() as u32;
            let entry = Entry { weight: change.weight(row), order, row: order + parts[1].len() as u32 };
            (parts.concat().into_boxed_slice(), entry)
        };
        Ok((0..change.len()).map(key).collect())
    }

    /// Notes when the partitions of rows can be forgotten that have no rows yet; `noted` are those that were noted.
    pub(super) fn note(&mut self, change: &Changes, keys: &[(Key, Entry)], noted: &mut BTreeSet<Key>) -> Result<()> {
        let Some(expiry) = &mut self.expiry else { return Ok(()) };
        let values = expiry.values(&change.rows)?;
        for (row, (key, entry)) in keys.iter().enumerate().filter(|(row, _)| !values.is_null(*row)) {
            let prefix = &key[..entry.order as usize];
            let first = self.rows.pages().from(prefix).next().transpose()?;
            let known = first.is_some_and(|(key, _)| key.starts_with(prefix));
            if !known && noted.insert(prefix.into()) {
                expiry.push(values.value(row), prefix.into());
            }
        }
        Ok(())
    }

    /// Forgets the partitions that are over now; gives how their keys begin.
    pub(super) fn forget_over(&mut self, context: &EpochContext) -> Result<Vec<Key>> {
        let over = self.expiry.as_mut().map(|expiry| expiry.over(context)).transpose()?;
        let over: Vec<Key> = over.unwrap_or_default().into_iter().map(|(_, prefix)| prefix).collect();
        for prefix in &over {
            self.forget(prefix, prefix)?;
        }
        Ok(over)
    }

    /// Forgets the rows of a partition from this key on: nothing will bring them back.
    pub(super) fn forget(&mut self, prefix: &[u8], from: &[u8]) -> Result<()> {
        let behind = self.from(from, prefix).map(|row| row.map(|(key, entry)| (key.clone(), *entry)));
        for (key, entry) in behind.collect::<Result<Vec<_>>>()? {
            self.add(key, Entry { weight: -entry.weight, ..entry })?;
        }
        Ok(())
    }

    /// Adds to the weight of a row; gives what it is then.
    pub(super) fn add(&mut self, key: Key, more: Entry) -> Result<i64> {
        self.rows.add(key, more)
    }

    /// The rows of a partition from a key on.
    pub(super) fn from<'a, 'b>(
        &'a self,
        key: &[u8],
        partition: &'b [u8],
    ) -> impl Iterator<Item = Result<(&'a Key, &'a Entry)>> + use<'a, 'b> {
        let rows = self.rows.pages().from(key);
        rows.take_while(move |row| row.as_ref().map_or(true, |(key, _)| key.starts_with(partition)))
    }

    /// The rows of a partition before a key of it, the last one first.
    pub(super) fn before<'a, 'b>(
        &'a self,
        key: &[u8],
        partition: &'b [u8],
    ) -> impl Iterator<Item = Result<(&'a Key, &'a Entry)>> + use<'a, 'b> {
        let rows = self.rows.pages().before(Some(key));
        rows.take_while(move |row| row.as_ref().map_or(true, |(key, _)| key.starts_with(partition)))
    }

    /// The columns of rows; each with the place in its key.
    pub(super) fn decode<'a>(&self, keys: impl Iterator<Item = (&'a Key, u32)>) -> Result<Vec<ArrayRef>> {
        self.rows.decode(keys)
    }

    /// What has changed since the last call.
    pub(super) fn save(&mut self) -> Result<Vec<Saved>> {
        Ok(vec![self.rows.save()?])
    }

    /// Takes over what was saved, as far as it belongs to this shard.
    pub(super) fn restore(&mut self, saved: Vec<Pieces>, shard: Shard) -> Result<()> {
        let mut noted = BTreeSet::new();
        for batch in saved.into_iter().flatten() {
            let change = self.rows.saved(&batch?)?;
            let hashes = self.hasher.hashes(&evaluate_key(&self.partition.exprs, &change.rows)?, change.len())?;
            let keys = self.keys(&change)?;
            // Also of partitions of other shards: there is nothing to be forgotten of them then.
            self.note(&change, &keys, &mut noted)?;
            for ((key, entry), hash) in keys.into_iter().zip(hashes) {
                if shard.has(hash) {
                    self.add(key, entry)?;
                }
            }
            self.rows.restored_some(shard)?;
        }
        self.rows.restored(shard.moved);
        Ok(())
    }

    /// Rows and bytes, about.
    pub(super) fn size(&self) -> (usize, usize) {
        let (rows, bytes) = self.rows.size();
        (rows, bytes + self.expiry.as_ref().map_or(0, Expiry::bytes))
    }

    /// Puts rows on disk until so many bytes of memory are free, or none can go; gives how many are.
    pub(super) fn spill(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        self.rows.spill(bytes, disk)
    }
}
