//! Rows by partition, each in its order.
//!
//! Enters: changes. Leaves: the rows of a partition, in the order that was asked for. Always holds: rows that the order
//! leaves equal stand in that of their columns; equal rows are one with a weight; what is saved is by how much weights
//! have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::DFSchema;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, SortExpr};
use datafusion::physical_expr::PhysicalExpr;

use super::exchange::Exchange;
use super::expiry::Expiry;
use super::keys::{KeyHasher, evaluate, evaluate_key};
use super::log::{Log, ToSave};
use super::{EpochContext, Shard, physical};
use crate::change::{Changes, RowEncoder, nullable, with_columns};
use crate::checkpoint::{Pieces, Saved};
use crate::error::Result;
use crate::planner::Eviction;

/// Rows that are saved in one batch.
const BLOCK: usize = 32 * 1024;

/// What is compared: the partition, the order, the whole row, one behind the other.
pub(super) type Key = Box<[u8]>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) weight: i64,
    /// Where in the key the order begins, and where the row.
    pub(super) order: u32,
    pub(super) row: u32,
}

/// Columns that are parts of keys.
struct Part {
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    converter: Option<RowConverter>,
}

/// The rows of one shard's partitions.
pub(super) struct OrderedRows {
    partition: Part,
    order: Part,
    encoder: RowEncoder,
    hasher: KeyHasher,
    input: SchemaRef,
    pub(super) rows: BTreeMap<Key, Entry>,
    /// Bytes of the keys.
    bytes: usize,
    /// What has changed since the last checkpoint, as it was then.
    log: Log<Key, Entry>,
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
            encoder: RowEncoder::of(input.as_arrow())?,
            input: nullable(input.as_arrow()),
            rows: BTreeMap::new(),
            bytes: 0,
            log: Log::default(),
            expiry: expiry.transpose()?,
        })
    }

    /// The columns.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.input
    }

    /// How the input is divided.
    pub(super) fn exchange(&self) -> Result<Exchange> {
        let types = self.partition.exprs.iter().map(|expr| Ok(expr.data_type(&self.input)?));
        Exchange::by_key(self.partition.exprs.clone(), types.collect::<Result<_>>()?)
    }

    /// The keys of rows, each with the entry that it would have.
    pub(super) fn keys(&self, change: &Changes) -> Result<Vec<(Key, Entry)>> {
        let (partition, order) = (self.partition.encode(&change.rows)?, self.order.encode(&change.rows)?);
        let rows = self.encoder.encode(change.rows.columns(), change.len())?;
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
            let range = self.rows.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
            let known = range.take(1).any(|(key, _)| key.starts_with(prefix));
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
        over.iter().for_each(|prefix| self.forget(prefix, prefix));
        Ok(over)
    }

    /// Forgets the rows of a partition from this key on: nothing will bring them back.
    pub(super) fn forget(&mut self, prefix: &[u8], from: &[u8]) {
        let behind: Vec<(Key, Entry)> = self.from(from, prefix).map(|(key, entry)| (key.clone(), *entry)).collect();
        for (key, entry) in behind {
            self.add(key, Entry { weight: -entry.weight, ..entry });
        }
    }

    /// Adds to the weight of a row; gives what it is then.
    pub(super) fn add(&mut self, key: Key, more: Entry) -> i64 {
        let old = self.rows.get(&key).copied().unwrap_or(Entry { weight: 0, ..more });
        self.log.set_first(&key, old);
        let weight = old.weight + more.weight;
        let was_there = self.rows.contains_key(&key);
        // As it was: what comes and goes again is no reason to grow.
        self.log.forget_if(&key, |saved| saved.weight == weight);
        if weight == 0 {
            self.bytes -= if was_there { key.len() } else { 0 };
            self.rows.remove(&key);
        } else {
            self.bytes += if was_there { 0 } else { key.len() };
            self.rows.insert(key, Entry { weight, ..more });
        }
        weight
    }

    /// The rows of a partition from a key on.
    pub(super) fn from<'a>(&'a self, key: &'a [u8], partition: &'a [u8]) -> impl Iterator<Item = (&'a Key, &'a Entry)> {
        let range = self.rows.range::<[u8], _>((Bound::Included(key), Bound::Unbounded));
        range.take_while(move |(key, _)| key.starts_with(partition))
    }

    /// The rows of a partition before a key, the last one first.
    pub(super) fn before<'a>(
        &'a self,
        key: &'a [u8],
        partition: &'a [u8],
    ) -> impl Iterator<Item = (&'a Key, &'a Entry)> {
        let range = self.rows.range::<[u8], _>((Bound::Included(partition), Bound::Excluded(key)));
        range.rev()
    }

    /// The columns of rows.
    pub(super) fn decode<'a>(&self, keys: impl Iterator<Item = (&'a Key, u32)>) -> Result<Vec<ArrayRef>> {
        self.encoder.decode(keys.map(|(key, row)| &key[row as usize..]))
    }

    /// How much more each of these rows weighs than at the last checkpoint.
    fn saved<'a>(&self, rows: impl Iterator<Item = (&'a Key, &'a Entry, i64)> + Clone) -> Result<RecordBatch> {
        let columns = self.decode(rows.clone().map(|(key, entry, _)| (key, entry.row)))?;
        let weights = Int64Array::from_iter_values(rows.map(|(_, _, weight)| weight));
        Changes::weighted(with_columns(&self.input, columns, weights.len())?, weights).with_weight_column()
    }

    /// What has changed since the last call.
    pub(super) fn save(&mut self) -> Result<Vec<Saved>> {
        let saved = self.log.take(self.rows.len(), false);
        let weight = |key: &Key| self.rows.get(key).map_or(0, |entry| entry.weight);
        let rows: Vec<(&Key, &Entry, i64)> = match &saved {
            ToSave::Nothing => Vec::new(),
            ToSave::Changed(changed) => {
                let changed = changed.iter().map(|(key, old)| (key, old, weight(key) - old.weight));
                changed.filter(|(_, _, more)| *more != 0).collect()
            }
            ToSave::All => self.rows.iter().map(|(key, entry)| (key, entry, entry.weight)).collect(),
        };
        let parts = rows.chunks(BLOCK).map(|rows| self.saved(rows.iter().copied()));
        Ok(vec![saved.of(parts.collect::<Result<_>>()?)])
    }

    /// Takes over what was saved, as far as it belongs to this shard.
    pub(super) fn restore(&mut self, saved: Vec<Pieces>, shard: Shard) -> Result<()> {
        let mut noted = BTreeSet::new();
        for batch in saved.into_iter().flatten() {
            let batch = &batch?;
            let change = Changes::from_weight_column(batch)?;
            let rows = with_columns(&self.input, change.rows.columns().to_vec(), change.len())?;
            let change = Changes { rows, weights: change.weights };
            let hashes = self.hasher.hashes(&evaluate_key(&self.partition.exprs, &change.rows)?, change.len())?;
            let keys = self.keys(&change)?;
            // Also of partitions of other shards: there is nothing to be forgotten of them then.
            self.note(&change, &keys, &mut noted)?;
            for ((key, entry), hash) in keys.into_iter().zip(hashes) {
                if shard.has(hash) {
                    self.add(key, entry);
                }
            }
        }
        self.log.restored(self.rows.len(), shard.moved);
        Ok(())
    }

    /// Rows and bytes, about.
    pub(super) fn size(&self) -> (usize, usize) {
        // The map has about two thirds of its places taken, each a pointer, a length and an entry.
        let expiry = self.expiry.as_ref().map_or(0, Expiry::bytes);
        (self.rows.len(), self.bytes + self.rows.len() * 48 + expiry)
    }
}
