//! The first rows of each partition: row_number, rank and dense_rank up to a limit.
//!
//! Enters: changes. Leaves: changes of the rows within the limit, with their numbers. Always holds: the rows of a
//! partition are kept in its order, and rows that the order leaves equal in that of their columns, so that the same
//! rows get the same numbers in every run; the work of an epoch follows the change and the limit. Of an input that
//! only grows the rows within the limit are kept, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Int64Array, UInt64Array};
use arrow::datatypes::SchemaRef;
use datafusion::execution::SessionState;
use datafusion::execution::disk_manager::DiskManager;
use datafusion::logical_expr::Window as Plan;

use super::exchange::Exchange;
use super::ordered::OrderedRows;
use super::pages::Key;
use super::{EpochContext, Operator, Shard};
use crate::change::{Changes, nullable, with_columns};
use crate::checkpoint::{Pieces, Saved};
use crate::error::Result;
use crate::planner::{Eviction, Rank, RankLimit, ordered_by};

/// A row within the limit, and its numbers.
type Ranked = (Key, Vec<u64>);

/// Where in its key the row begins, and how often it is there.
type Count = (u32, i64);

/// Rows within the limit, in order.
type First = Vec<(Ranked, Count)>;

/// The partitions of one shard.
pub(super) struct Ranking {
    kept: OrderedRows,
    ranks: Vec<Rank>,
    limit: RankLimit,
    input_grows: bool,
    output: SchemaRef,
}

impl Ranking {
    pub(super) fn new(
        window: &Plan,
        (ranks, limit): (&[Rank], RankLimit),
        (input_grows, evict): (bool, &[Eviction]),
        state: &SessionState,
    ) -> Result<Self> {
        Ok(Self {
            kept: OrderedRows::new(window.input.schema(), ordered_by(window), evict, state)?,
            ranks: ranks.to_vec(),
            limit,
            input_grows,
            output: nullable(window.schema.as_arrow()),
        })
    }

    /// How its input is divided.
    pub(super) fn exchange(&self) -> Result<Exchange> {
        self.kept.exchange()
    }

    /// The rows of a partition within the limit; and the first key behind them.
    fn first(&self, prefix: &[u8]) -> Result<(First, Option<Key>)> {
        let numbered = self.ranks.contains(&Rank::RowNumber);
        let (mut before, mut rank, mut dense) = (0_u64, 0, 0);
        let mut last: Option<&[u8]> = None;
        let mut first = Vec::new();
        for row in self.kept.from(prefix, prefix) {
            let (key, entry) = row?;
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
                return Ok((first, Some(key.clone())));
            }
            if numbered {
                let copies = (1..=copies).map(|copy| numbers(before + copy)).take_while(|numbers| within(numbers));
                first.extend(copies.map(|numbers| ((key.clone(), numbers), (entry.row, 1))));
            } else if copies > 0 {
                first.push(((key.clone(), numbers(0)), (entry.row, entry.weight)));
            }
            before += copies;
        }
        Ok((first, None))
    }

    /// What has changed, as rows with their numbers.
    fn output(&self, difference: &BTreeMap<Ranked, Count>) -> Result<Vec<Changes>> {
        let changed: Vec<_> = difference.iter().filter(|(_, (_, weight))| *weight != 0).collect();
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        let mut columns = self.kept.decode(changed.iter().map(|((key, _), (row, _))| (key, *row)))?;
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
            let more = self.kept.keys(change)?;
            self.kept.note(change, &more, &mut noted)?;
            keys.extend(more);
        }
        let touched: BTreeSet<Key> = keys.iter().map(|(key, entry)| key[..entry.order as usize].into()).collect();
        let mut difference: BTreeMap<Ranked, Count> = BTreeMap::new();
        let mut count = |rows: First, sign: i64| {
            for (row, (at, weight)) in rows {
                difference.entry(row).or_insert((at, 0)).1 += sign * weight;
            }
        };
        for prefix in &touched {
            count(self.first(prefix)?.0, -1);
        }
        for (key, entry) in keys {
            self.kept.add(key, entry)?;
        }
        for prefix in &touched {
            let (first, behind) = self.first(prefix)?;
            count(first, 1);
            if let Some(behind) = behind.filter(|_| self.input_grows) {
                self.kept.forget(prefix, &behind)?;
            }
        }
        self.kept.forget_over(context)?;
        self.output(&difference)
    }

    fn save(&mut self) -> Result<Vec<Saved>> {
        self.kept.save()
    }

    fn restore(&mut self, saved: Vec<Pieces>, shard: Shard) -> Result<()> {
        self.kept.restore(saved, shard)
    }

    fn size(&self) -> (usize, usize) {
        self.kept.size()
    }

    fn spill(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        self.kept.spill(bytes, disk)
    }
}
