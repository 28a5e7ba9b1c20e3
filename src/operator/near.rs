//! Window functions that look at some rows before and behind a row, and no further.
//!
//! Enters: changes. Leaves: what differs in the results of the rows near by. Always holds: what is kept is the input, in
//! order; around each row that comes or goes, the results before and after are both computed by DataFusion's operator, so
//! the work of an epoch follows the change, however large a partition is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, UInt64Array};
use arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::execution::SessionState;
use datafusion::execution::disk_manager::DiskManager;
use datafusion::logical_expr::{LogicalPlan, Window as Plan};

use super::exchange::Exchange;
use super::ordered::OrderedRows;
use super::pages::{Entry, Key};
use super::{EpochContext, Operator, Shard};
use crate::change::{Changes, consolidate, nullable, retracted_too_often, take_rows, with_columns};
use crate::checkpoint::{Pieces, Saved};
use crate::error::Result;
use crate::planner::placeholder::Prepared;
use crate::planner::{Eviction, Reach, ordered_by};

/// Rows of one partition from a key to another.
struct Region {
    from: Key,
    to: Key,
    partition: Key,
}

/// The partitions of one shard.
pub(super) struct Near {
    kept: OrderedRows,
    reach: Reach,
    logical: LogicalPlan,
    plan: Option<Prepared>,
    /// The columns of the input, the region, the row's place.
    numbered: SchemaRef,
    output: SchemaRef,
}

/// Regions are computed together until they have so many rows: the plan sorts them in memory.
const ROWS_AT_ONCE: usize = 4096;

/// Rows of regions, each with those beside it that its results need.
#[derive(Default)]
struct Gathered<'a> {
    rows: Vec<(&'a Key, u32)>,
    regions: Vec<i64>,
    /// The row is of a region itself.
    inside: Vec<bool>,
}

impl<'a> Gathered<'a> {
    fn push(&mut self, (key, entry): (&'a Key, &'a Entry), copies: usize, region: usize, inside: bool) {
        for _ in 0..copies {
            self.rows.push((key, entry.row));
            self.regions.push(region as i64);
            self.inside.push(inside);
        }
    }
}

fn copies(entry: &Entry) -> usize {
    usize::try_from(entry.weight).unwrap_or(0)
}

impl Near {
    pub(super) fn new(
        window: &Plan,
        reach: Reach,
        logical: &LogicalPlan,
        evict: &[Eviction],
        state: &SessionState,
    ) -> Result<Self> {
        let numbered = logical.inputs().first().map_or(logical.schema(), |input| input.schema()).inner().clone();
        Ok(Self {
            kept: OrderedRows::new(window.input.schema(), ordered_by(window), evict, state)?,
            reach,
            logical: logical.clone(),
            plan: None,
            numbered: nullable(&numbered),
            output: nullable(window.schema.as_arrow()),
        })
    }

    /// How its input is divided.
    pub(super) fn exchange(&self) -> Result<Exchange> {
        self.kept.exchange()
    }

    /// The rows whose results changes of these may touch, as they are now.
    fn touched(&self, keys: &BTreeMap<&Key, u32>) -> Result<Vec<Region>> {
        let mut regions = Vec::new();
        let mut keys = keys.iter().map(|(key, order)| (*key, *order)).peekable();
        while let Some((first, order)) = keys.next() {
            let partition: Key = first[..order as usize].into();
            let (mut from, mut to) = (first.clone(), first.clone());
            let mut left = self.reach.after;
            for row in self.kept.before(first, &partition) {
                if left == 0 {
                    break;
                }
                let (before, entry) = row?;
                left = left.saturating_sub(copies(entry));
                from = before.clone();
            }
            // What the region reaches is part of it, and begins it anew.
            let mut left = self.reach.before;
            for row in self.kept.from(first, &partition) {
                let (behind, entry) = row?;
                while keys.next_if(|(key, _)| key <= &behind && key.starts_with(&partition)).is_some() {
                    left = self.reach.before.saturating_add(copies(entry));
                }
                if behind != first {
                    if left == 0 {
                        break;
                    }
                    left = left.saturating_sub(copies(entry));
                }
                to = behind.clone();
            }
            regions.push(Region { from, to, partition });
        }
        Ok(regions)
    }

    /// The rows of the first of these regions, and those that their results need; and how many regions they are.
    fn gather(&self, regions: &[Region]) -> Result<(Gathered<'_>, usize)> {
        let mut all = Gathered::default();
        for (at, region) in regions.iter().enumerate() {
            if all.rows.len() >= ROWS_AT_ONCE {
                return Ok((all, at));
            }
            let (mut before, mut left) = (Vec::new(), self.reach.before);
            for row in self.kept.before(&region.from, &region.partition) {
                if left == 0 {
                    break;
                }
                let (key, entry) = row?;
                let count = copies(entry).min(left);
                left -= count;
                before.push(((key, entry), count));
            }
            before.into_iter().rev().for_each(|(row, count)| all.push(row, count, at, false));
            let mut left = self.reach.after;
            for row in self.kept.from(&region.from, &region.partition) {
                let (key, entry) = row?;
                if *key <= region.to {
                    all.push((key, entry), copies(entry), at, true);
                    continue;
                }
                if left == 0 {
                    break;
                }
                let count = copies(entry).min(left);
                left -= count;
                all.push((key, entry), count, at, false);
            }
        }
        Ok((all, regions.len()))
    }

    /// The results of regions, each with this weight.
    fn results(&mut self, mut regions: &[Region], weight: i64, context: &EpochContext) -> Result<Vec<Changes>> {
        let mut all = Vec::new();
        while !regions.is_empty() {
            let (gathered, count) = self.gather(regions)?;
            let Gathered { rows, regions: of, inside } = gathered;
            regions = &regions[count..];
            if !rows.is_empty() {
                let batch = self.batch(rows, of)?;
                all.extend(self.computed(batch, &inside, weight, context)?);
            }
        }
        Ok(all)
    }

    /// Rows with their regions, and their places.
    fn batch(&self, rows: Vec<(&Key, u32)>, regions: Vec<i64>) -> Result<RecordBatch> {
        let (count, mut columns) = (rows.len(), self.kept.decode(rows.into_iter())?);
        columns.push(Arc::new(Int64Array::from(regions)) as ArrayRef);
        columns.push(Arc::new(Int64Array::from_iter_values(0..count as i64)));
        with_columns(&self.numbered, columns, count)
    }

    /// The results of such rows, each with this weight.
    fn computed(
        &mut self,
        batch: RecordBatch,
        inside: &[bool],
        weight: i64,
        context: &EpochContext,
    ) -> Result<Vec<Changes>> {
        let plan = match self.plan.take() {
            Some(plan) => plan,
            None => context.runtime.block_on(Prepared::unlimited(&context.state, &self.logical, 1))?,
        };
        let batches = context.runtime.block_on(plan.run(vec![vec![batch]]))?;
        self.plan = Some(plan);
        batches.iter().map(|batch| self.shown(batch, inside, weight)).collect()
    }

    /// The rows of regions themselves, in the columns of the result.
    fn shown(&self, batch: &RecordBatch, inside: &[bool], weight: i64) -> Result<Changes> {
        let columns = self.kept.schema().fields().len();
        let places = batch.column(columns + 1).as_primitive::<Int64Type>().values();
        let kept = places.iter().enumerate().filter(|(_, place)| inside[**place as usize]).map(|(row, _)| row as u64);
        let rows = take_rows(batch, &UInt64Array::from_iter_values(kept))?;
        let shown = (0..columns).chain(columns + 2..rows.num_columns()).map(|at| Arc::clone(rows.column(at)));
        let weights = Int64Array::from(vec![weight; rows.num_rows()]);
        Ok(Changes::weighted(with_columns(&self.output, shown.collect(), rows.num_rows())?, weights))
    }

    /// Adds changes, or takes them back; true if a row is there less than never.
    fn add(&mut self, keys: &[(Key, Entry)], sign: i64) -> Result<bool> {
        let mut below = false;
        for (key, entry) in keys {
            below |= self.kept.add(key.clone(), Entry { weight: sign * entry.weight, ..*entry })? < 0;
        }
        Ok(below)
    }
}

/// Regions that overlap become one.
fn merged(mut regions: Vec<Region>) -> Vec<Region> {
    regions.sort_by(|a, b| a.from.cmp(&b.from));
    let mut all: Vec<Region> = Vec::new();
    for region in regions {
        match all.last_mut().filter(|last| last.partition == region.partition && last.to >= region.from) {
            Some(last) => last.to = std::mem::take(&mut last.to).max(region.to),
            None => all.push(region),
        }
    }
    all
}

impl Operator for Near {
    fn step(&mut self, inputs: Vec<Vec<Changes>>, context: &EpochContext) -> Result<Vec<Changes>> {
        let changes: Vec<Changes> = inputs.into_iter().flatten().collect();
        let Some(change) = consolidate(self.kept.schema(), &changes)? else {
            self.kept.forget_over(context)?;
            return Ok(Vec::new());
        };
        let keys = self.kept.keys(&change)?;
        self.kept.note(&change, &keys, &mut BTreeSet::new())?;
        let touched: BTreeMap<&Key, u32> = keys.iter().map(|(key, entry)| (key, entry.order)).collect();
        let mut regions = self.touched(&touched)?;
        if self.add(&keys, 1)? {
            return Err(retracted_too_often());
        }
        regions.extend(self.touched(&touched)?);
        let regions = merged(regions);
        let mut all = self.results(&regions, 1, context)?;
        // The same as it was before.
        self.add(&keys, -1)?;
        all.extend(self.results(&regions, -1, context)?);
        self.add(&keys, 1)?;
        self.kept.forget_over(context)?;
        Ok(consolidate(&self.output, &all)?.into_iter().collect())
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
