//! ASOF JOIN over rows that come and go.
//!
//! Enters: changes of both sides. Leaves: changes of the left rows, each with the one right row that is nearest in time.
//! Always holds: the work follows the left rows whose partner may have changed: those between a right row that comes or
//! goes and the next one. What no later row can reach is forgotten: left rows, and right rows, of which the
//! last one stays where the partner is before. Rows go to disk where they do not fit into memory; when which of them can
//! be forgotten stays there.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, UInt64Array, new_null_array};
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use datafusion::execution::SessionState;
use datafusion::execution::disk_manager::DiskManager;
use datafusion::logical_expr::UserDefinedLogicalNodeCore;

use super::exchange::Exchange;
use super::expiry::Expiry;
use super::pages::{Entry, Key};
use super::timeline::{Placed, Timeline, time_in};
use super::{EpochContext, Operator, Shard};
use crate::change::{Changes, nullable, with_columns};
use crate::checkpoint::{Pieces, Saved};
use crate::error::Result;
use crate::planner::{AsOfJoin, Eviction};

/// A left row, and the right one that is its partner.
type Pair = (Key, Option<Key>);

/// Where in the keys of a pair the rows begin, and how often it is there.
#[derive(Debug, Clone, Copy)]
struct Count {
    row: u32,
    weight: i64,
}

/// The join of one shard's keys.
pub(super) struct AsOf {
    lefts: Timeline,
    rights: Timeline,
    /// Left rows without a partner are shown.
    outer: bool,
    /// The partner is the last row before; else the first behind.
    before: bool,
    /// Or at the same time.
    or_at: bool,
    /// The columns of the right side that are shown.
    shown: Vec<usize>,
    output: SchemaRef,
    left_expiry: Option<Expiry<Key>>,
    /// By partition.
    right_expiry: Option<Expiry<Key>>,
}

impl AsOf {
    pub(super) fn new(plan: &AsOfJoin, evict: &[Eviction], state: &SessionState) -> Result<Self> {
        let [left, right] = plan.sides();
        let (left_keys, right_keys): (Vec<_>, Vec<_>) = plan.keys().iter().cloned().unzip();
        let (left_time, right_time) = plan.times();
        let lefts = Timeline::new(&left_keys, left_time, left.schema(), state)?;
        let rights = Timeline::new(&right_keys, right_time, right.schema(), state)?;
        let expiry = |side: usize, rows: &Timeline| {
            let eviction = evict.iter().find(|eviction| eviction.input == side);
            eviction.map(|eviction| Expiry::new(eviction, Arc::clone(rows.time()), state)).transpose()
        };
        Ok(Self {
            left_expiry: expiry(0, &lefts)?,
            right_expiry: expiry(1, &rights)?,
            lefts,
            rights,
            outer: plan.is_outer(),
            before: plan.looks_back(),
            or_at: plan.or_at(),
            shown: plan.shown(),
            output: nullable(UserDefinedLogicalNodeCore::schema(plan).as_arrow()),
        })
    }

    /// How its inputs are divided.
    pub(super) fn exchanges(&self) -> Result<Vec<Exchange>> {
        Ok(vec![self.lefts.exchange()?, self.rights.exchange()?])
    }

    fn partner(&self, key: &Key, time: u32) -> Result<Option<Key>> {
        let prefix = &key[..time as usize];
        let time = time_in(key, prefix.len());
        let found = if self.before {
            self.rights.last(prefix, time, self.or_at)?
        } else {
            self.rights.first(prefix, time, self.or_at)?
        };
        Ok(found.cloned())
    }

    /// The left rows whose partner may be another one once right rows of these times have come or gone.
    fn reached(&self, prefix: &Key, times: &BTreeSet<i64>, reached: &mut BTreeSet<Key>) -> Result<()> {
        let time_of = |key: &Key| time_in(key, prefix.len());
        for time in times {
            let span = if self.before {
                let next = self.rights.first(prefix, *time, false)?.map(time_of);
                let changed = times.range((Bound::Excluded(*time), Bound::Unbounded)).next().copied();
                (*time, next.into_iter().chain(changed).min().unwrap_or(i64::MAX))
            } else {
                let last = self.rights.last(prefix, *time, false)?.map(time_of);
                let changed = times.range(..time).next_back().copied();
                (last.into_iter().chain(changed).max().unwrap_or(i64::MIN), *time)
            };
            for row in self.lefts.between(prefix, span) {
                reached.insert(row?.0.clone());
            }
        }
        Ok(())
    }

    fn count(&self, keys: &BTreeSet<Key>, sign: i64, difference: &mut BTreeMap<Pair, Count>) -> Result<()> {
        for key in keys {
            let Some(entry) = self.lefts.get(key)? else { continue };
            let pair = (key.clone(), self.partner(key, entry.order)?);
            difference.entry(pair).or_insert(Count { row: entry.row, weight: 0 }).weight += sign * entry.weight;
        }
        Ok(())
    }

    /// Takes the changes of the left side in that have a key; others meet nothing.
    fn split(&self, inputs: &[Changes], difference: &mut BTreeMap<Pair, Count>) -> Result<Vec<Placed>> {
        let mut rows = Vec::new();
        for change in inputs {
            for row in self.lefts.place(change)? {
                if !row.nowhere {
                    rows.push(row);
                    continue;
                }
                let count = difference.entry((row.key, None)).or_insert(Count { row: row.entry.row, weight: 0 });
                count.weight += row.entry.weight;
            }
        }
        Ok(rows)
    }

    fn note_left(&mut self, key: &Key, time: u32) {
        if let Some(expiry) = &mut self.left_expiry {
            expiry.push(time_in(key, time as usize), key.clone());
        }
    }

    fn note_right(&mut self, key: &Key, time: u32) {
        if let Some(expiry) = &mut self.right_expiry {
            expiry.push(time_in(key, time as usize), key[..time as usize].into());
        }
    }

    fn forget(&mut self, context: &EpochContext) -> Result<()> {
        if let Some(expiry) = &mut self.left_expiry {
            for (_, key) in expiry.over(context)? {
                if let Some(entry) = self.lefts.get(&key)? {
                    self.lefts.remove(key, entry)?;
                }
            }
        }
        let Some(expiry) = &mut self.right_expiry else { return Ok(()) };
        let mut passed: BTreeMap<Key, i64> = BTreeMap::new();
        for (time, prefix) in expiry.over(context)? {
            let last = passed.entry(prefix).or_insert(time);
            *last = time.max(*last);
        }
        for (prefix, last) in passed {
            let mut rights = rows_until(&self.rights, &prefix, last)?;
            if self.before {
                // The last one may be the partner of what comes.
                rights.pop();
            } else {
                // A left row that has a partner among them keeps it.
                let until = if self.or_at { Some(last) } else { last.checked_sub(1) };
                let lefts = until.map(|until| rows_until(&self.lefts, &prefix, until)).transpose()?;
                for (key, entry) in lefts.unwrap_or_default() {
                    self.lefts.remove(key, entry)?;
                }
            }
            for (key, entry) in rights {
                self.rights.remove(key, entry)?;
            }
        }
        Ok(())
    }

    fn output(&self, difference: BTreeMap<Pair, Count>) -> Result<Vec<Changes>> {
        let stands = |((_, partner), count): &(Pair, Count)| count.weight != 0 && (self.outer || partner.is_some());
        let changed: Vec<(Pair, Count)> = difference.into_iter().filter(stands).collect();
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        let mut columns = self.lefts.decode(changed.iter().map(|((key, _), count)| (key, count.row)))?;
        // Both keys begin with the same partition.
        let partners = changed.iter().filter_map(|((_, partner), count)| Some((partner.as_ref()?, count.row)));
        let found = self.rights.decode(partners)?;
        let mut next = 0;
        let places: UInt64Array = changed
            .iter()
            .map(|((_, partner), _)| {
                partner.as_ref().map(|_| {
                    next += 1;
                    next - 1
                })
            })
            .collect();
        for at in &self.shown {
            let column: ArrayRef = if next == 0 {
                new_null_array(self.rights.schema().field(*at).data_type(), changed.len())
            } else {
                take(&found[*at], &places, None)?
            };
            columns.push(column);
        }
        let weights = Int64Array::from_iter_values(changed.iter().map(|(_, count)| count.weight));
        Ok(vec![Changes::weighted(with_columns(&self.output, columns, changed.len())?, weights)])
    }
}

/// The rows of a partition up to a time, and at it.
fn rows_until(rows: &Timeline, prefix: &[u8], last: i64) -> Result<Vec<(Key, Entry)>> {
    rows.between(prefix, (i64::MIN, last)).map(|row| row.map(|(key, entry)| (key.clone(), *entry))).collect()
}

impl Operator for AsOf {
    fn step(&mut self, mut inputs: Vec<Vec<Changes>>, context: &EpochContext) -> Result<Vec<Changes>> {
        let right = inputs.pop().unwrap_or_default();
        let left = inputs.pop().unwrap_or_default();
        let mut difference = BTreeMap::new();
        let lefts = self.split(&left, &mut difference)?;
        let mut rights = Vec::new();
        for change in &right {
            // A right row without a key or a time is no partner.
            rights.extend(self.rights.place(change)?.into_iter().filter(|row| !row.nowhere));
        }
        let mut turned: BTreeMap<Key, BTreeSet<i64>> = BTreeMap::new();
        for row in &rights {
            let time = row.entry.order as usize;
            turned.entry(row.key[..time].into()).or_default().insert(time_in(&row.key, time));
        }
        let mut reached: BTreeSet<Key> = lefts.iter().map(|row| row.key.clone()).collect();
        for (prefix, times) in &turned {
            self.reached(prefix, times, &mut reached)?;
        }
        self.count(&reached, -1, &mut difference)?;
        for row in &rights {
            if self.rights.get(&row.key)?.is_none() {
                self.note_right(&row.key, row.entry.order);
            }
        }
        for row in &lefts {
            if self.lefts.get(&row.key)?.is_none() {
                self.note_left(&row.key, row.entry.order);
            }
        }
        self.rights.add_all(rights)?;
        self.lefts.add_all(lefts)?;
        self.count(&reached, 1, &mut difference)?;
        self.forget(context)?;
        self.output(difference)
    }

    fn save(&mut self) -> Result<Vec<Saved>> {
        Ok(vec![self.lefts.save()?, self.rights.save()?])
    }

    fn restore(&mut self, saved: Vec<Pieces>, shard: Shard) -> Result<()> {
        let mut saved = saved.into_iter();
        self.lefts.restore(saved.next().unwrap_or_default(), shard)?;
        self.rights.restore(saved.next().unwrap_or_default(), shard)?;
        let keys = |rows: &Timeline, forgets: bool| -> Result<Vec<(Key, u32)>> {
            let all = forgets.then(|| rows.all()).into_iter().flatten();
            all.map(|row| row.map(|(key, entry)| (key.clone(), entry.order))).collect()
        };
        for (key, time) in keys(&self.lefts, self.left_expiry.is_some())? {
            self.note_left(&key, time);
        }
        for (key, time) in keys(&self.rights, self.right_expiry.is_some())? {
            self.note_right(&key, time);
        }
        Ok(())
    }

    fn size(&self) -> (usize, usize) {
        let expiry = [&self.left_expiry, &self.right_expiry].into_iter().flatten().map(Expiry::bytes).sum::<usize>();
        let (lefts, rights) = (self.lefts.size(), self.rights.size());
        (lefts.0 + rights.0, lefts.1 + rights.1 + expiry)
    }

    fn spill(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        let freed = self.lefts.spill(bytes, disk)?;
        Ok(freed + self.rights.spill(bytes.saturating_sub(freed), disk)?)
    }
}
