//! The first rows of each partition: row_number, rank and dense_rank up to a limit.
//!
//! Enters: changes. Leaves: changes of the rows within the limit, with their numbers. Always holds: the rows of a
//! partition are kept in its order, and rows that the order leaves equal in that of their columns, so that the same
//! rows get the same numbers in every run; the work of an epoch follows the change and the limit. Of an input that
//! only grows the rows within the limit are kept, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, Window as Plan};
use datafusion::physical_expr::PhysicalExpr;

use super::exchange::Exchange;
use super::expiry::Expiry;
use super::keys::{KeyHasher, evaluate, evaluate_key};
use super::log::{Log, ToSave};
use super::{EpochContext, Operator, Shard, physical};
use crate::change::{Changes, RowEncoder, nullable, with_columns};
use crate::checkpoint::Saved;
use crate::error::Result;
use crate::planner::{Eviction, Rank, RankLimit, ranked_by};

/// Rows that are saved in one batch.
const BLOCK: usize = 32 * 1024;

/// What is compared: the partition, the order, the whole row, one behind the other.
type Key = Box<[u8]>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    weight: i64,
    /// Where in the key the order begins, and where the row.
    order: u32,
    row: u32,
}

/// Columns that are parts of keys.
struct Part {
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    converter: Option<RowConverter>,
}

/// A row within the limit, and its numbers.
type Ranked = (Key, Vec<u64>);

/// The partitions of one shard.
pub(super) struct Ranking {
    partition: Part,
    order: Part,
    encoder: RowEncoder,
    hasher: KeyHasher,
    ranks: Vec<Rank>,
    limit: RankLimit,
    input_grows: bool,
    input: SchemaRef,
    output: SchemaRef,
    rows: BTreeMap<Key, Entry>,
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

impl Ranking {
    pub(super) fn new(
        window: &Plan,
        (ranks, limit): (&[Rank], RankLimit),
        (input_grows, evict): (bool, &[Eviction]),
        state: &SessionState,
    ) -> Result<Self> {
        let input = window.input.schema();
        let of = |expr: &Expr, options: SortOptions| -> Result<(Arc<dyn PhysicalExpr>, SortField)> {
            let expr = physical(expr, input, state)?;
            let field = SortField::new_with_options(expr.data_type(input.as_arrow())?, options);
            Ok((expr, field))
        };
        let expiry = evict.first().map(|evict| Expiry::new(evict, physical(&evict.value, input, state)?, state));
        let (partition, order) = ranked_by(window);
        let partition = partition.iter().map(|expr| of(expr, SortOptions::default())).collect::<Result<Vec<_>>>()?;
        let order =
            order.iter().map(|by| of(&by.expr, SortOptions { descending: !by.asc, nulls_first: by.nulls_first }));
        let types = partition.iter().map(|(expr, _)| Ok(expr.data_type(input.as_arrow())?));
        Ok(Self {
            hasher: KeyHasher::new(types.collect::<Result<Vec<_>>>()?)?,
            order: Part::new(order.collect::<Result<_>>()?)?,
            partition: Part::new(partition)?,
            encoder: RowEncoder::of(input.as_arrow())?,
            ranks: ranks.to_vec(),
            limit,
            input_grows,
            input: nullable(input.as_arrow()),
            output: nullable(window.schema.as_arrow()),
            rows: BTreeMap::new(),
            bytes: 0,
            log: Log::default(),
            expiry: expiry.transpose()?,
        })
    }

    /// How its input is divided.
    pub(super) fn exchange(&self) -> Result<Exchange> {
        let types = self.partition.exprs.iter().map(|expr| Ok(expr.data_type(&self.input)?));
        Exchange::by_key(self.partition.exprs.clone(), types.collect::<Result<_>>()?)
    }

    /// The keys of rows, each with the entry that it would have.
    fn keys(&self, change: &Changes) -> Result<Vec<(Key, Entry)>> {
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

    /// Notes when the partitions of rows can be forgotten that have no rows yet.
    fn note(&mut self, change: &Changes, keys: &[(Key, Entry)], noted: &mut BTreeSet<Key>) -> Result<()> {
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

    fn add(&mut self, key: Key, more: Entry) {
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
    }

    fn partition<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = (&'a Key, &'a Entry)> {
        let range = self.rows.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
        range.take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// The rows of a partition within the limit; and the first key behind them.
    fn first(&self, prefix: &[u8]) -> (Vec<(Ranked, i64)>, Option<Key>) {
        let numbered = self.ranks.contains(&Rank::RowNumber);
        let (mut before, mut rank, mut dense) = (0_u64, 0, 0);
        let mut last: Option<&[u8]> = None;
        let mut first = Vec::new();
        for (key, entry) in self.partition(prefix) {
            let order = &key[entry.order as usize..entry.row as usize];
            if last != Some(order) {
                (rank, dense, last) = (before + 1, dense + 1, Some(order));
            }
            let numbers = |row_number: u64| -> Vec<u64> {
                let number = |kind: &Rank| match kind {
                    Rank::RowNumber => row_number,
                    Rank::Rank => rank,
                    Rank::DenseRank => dense,
                };
                self.ranks.iter().map(number).collect()
            };
            let copies = u64::try_from(entry.weight).unwrap_or(0);
            let within = |numbers: &[u64]| numbers[self.limit.rank] <= self.limit.rows;
            if copies > 0 && !within(&numbers(before + 1)) {
                return (first, Some(key.clone()));
            }
            if numbered {
                let copies = (1..=copies).map(|copy| numbers(before + copy)).take_while(|numbers| within(numbers));
                first.extend(copies.map(|numbers| ((key.clone(), numbers), 1)));
            } else if copies > 0 {
                first.push(((key.clone(), numbers(0)), entry.weight));
            }
            before += copies;
        }
        (first, None)
    }

    /// Forgets the rows of a partition from this key on: nothing will bring them back.
    fn forget(&mut self, prefix: &[u8], from: &[u8]) {
        let range = self.rows.range::<[u8], _>((Bound::Included(from), Bound::Unbounded));
        let behind = range.take_while(|(key, _)| key.starts_with(prefix));
        let behind: Vec<(Key, Entry)> = behind.map(|(key, entry)| (key.clone(), *entry)).collect();
        for (key, entry) in behind {
            self.add(key, Entry { weight: -entry.weight, ..entry });
        }
    }

    /// The columns of rows.
    fn decode<'a>(&self, keys: impl Iterator<Item = (&'a Key, u32)>) -> Result<Vec<ArrayRef>> {
        self.encoder.decode(keys.map(|(key, row)| &key[row as usize..]))
    }

    /// How much more each of these rows weighs than at the last checkpoint.
    fn saved<'a>(&self, rows: impl Iterator<Item = (&'a Key, &'a Entry, i64)> + Clone) -> Result<RecordBatch> {
        let columns = self.decode(rows.clone().map(|(key, entry, _)| (key, entry.row)))?;
        let weights = Int64Array::from_iter_values(rows.map(|(_, _, weight)| weight));
        Changes::weighted(with_columns(&self.input, columns, weights.len())?, weights).with_weight_column()
    }

    /// What has changed, as rows with their numbers.
    fn output(&self, difference: &BTreeMap<Ranked, (u32, i64)>) -> Result<Vec<Changes>> {
        let changed: Vec<_> = difference.iter().filter(|(_, (_, weight))| *weight != 0).collect();
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        let mut columns = self.decode(changed.iter().map(|((key, _), (row, _))| (key, *row)))?;
        for at in 0..self.ranks.len() {
            let numbers = changed.iter().map(|((_, numbers), _)| numbers[at]);
            columns.push(Arc::new(UInt64Array::from_iter_values(numbers)));
        }
        let weights = Int64Array::from_iter_values(changed.iter().map(|(_, (_, weight))| *weight));
        Ok(vec![Changes::weighted(with_columns(&self.output, columns, changed.len())?, weights)])
    }
}

impl Operator for Ranking {
    fn step(&mut self, inputs: Vec<Vec<Changes>>, context: &EpochContext) -> Result<Vec<Changes>> {
        let mut keys = Vec::new();
        let mut noted = BTreeSet::new();
        for change in inputs.iter().flatten() {
            let more = self.keys(change)?;
            self.note(change, &more, &mut noted)?;
            keys.extend(more);
        }
        let touched: BTreeSet<Key> = keys.iter().map(|(key, entry)| key[..entry.order as usize].into()).collect();
        let mut difference: BTreeMap<Ranked, (u32, i64)> = BTreeMap::new();
        let mut count = |this: &Self, rows: Vec<(Ranked, i64)>, sign: i64| {
            for (row, weight) in rows {
                let at = this.rows.get(&row.0).map_or(0, |entry| entry.row);
                difference.entry(row).or_insert((at, 0)).1 += sign * weight;
            }
        };
        for prefix in &touched {
            count(self, self.first(prefix).0, -1);
        }
        for (key, entry) in keys {
            self.add(key, entry);
        }
        for prefix in &touched {
            let (first, behind) = self.first(prefix);
            count(self, first, 1);
            if let Some(behind) = behind.filter(|_| self.input_grows) {
                self.forget(prefix, &behind);
            }
        }
        let over = self.expiry.as_mut().map(|expiry| expiry.over(context)).transpose()?;
        for (_, prefix) in over.unwrap_or_default() {
            self.forget(&prefix, &prefix);
        }
        self.output(&difference)
    }

    fn save(&mut self) -> Result<Vec<Saved>> {
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

    fn restore(&mut self, saved: Vec<Vec<RecordBatch>>, shard: Shard) -> Result<()> {
        let mut noted = BTreeSet::new();
        for batch in saved.iter().flatten() {
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

    fn size(&self) -> (usize, usize) {
        // The map has about two thirds of its places taken, each a pointer, a length and an entry.
        let expiry = self.expiry.as_ref().map_or(0, Expiry::bytes);
        (self.rows.len(), self.bytes + self.rows.len() * 48 + expiry)
    }
}
