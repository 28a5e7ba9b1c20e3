//! SESSION windows over rows that come and go.
//!
//! Enters: changes of rows that have a time. Leaves: changes of the same rows with the start and the end of their
//! session. Always holds: the rows of a partition are kept in the order of time; the work follows the rows of the
//! sessions that a change touches; a session that no row can join any more is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::execution::SessionState;
use datafusion::physical_expr::PhysicalExpr;

use super::exchange::Exchange;
use super::expiry::Expiry;
use super::keys::{KeyHasher, evaluate, evaluate_key};
use super::{EpochContext, Operator, Shard, physical};
use crate::change::{Changes, RowEncoder, nullable, with_columns};
use crate::checkpoint::Saved;
use crate::error::{Error, Result};
use crate::planner::{Eviction, Sessions as Plan};
use crate::times::ordered;

/// Rows that are saved in one batch.
const BLOCK: usize = 32 * 1024;
/// Bytes of a time within a key.
const TIME: usize = 8;

/// What is compared: the partition, the time, the whole row, one behind the other.
type Key = Box<[u8]>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    weight: i64,
    /// Where in the key the time begins; the row is behind it.
    time: u32,
}

/// A row, and the first and the last time of its session.
type Placed = (Key, i64, i64);

/// The partitions of one shard.
pub(super) struct Sessions {
    partition: Vec<Arc<dyn PhysicalExpr>>,
    partition_encoder: RowEncoder,
    hasher: KeyHasher,
    time: Arc<dyn PhysicalExpr>,
    kind: DataType,
    gap: i64,
    encoder: RowEncoder,
    input: SchemaRef,
    output: SchemaRef,
    rows: BTreeMap<Key, Entry>,
    /// Bytes of the keys.
    bytes: usize,
    /// What has changed since the last checkpoint, as it was then.
    fresh: BTreeMap<Key, Entry>,
    saved_rows: usize,
    /// Partitions by the last times that their sessions had.
    expiry: Option<Expiry<Key>>,
}

fn bytes_of(time: i64) -> [u8; TIME] {
    (time ^ i64::MIN).to_be_bytes()
}

/// The time within a key.
fn time_in(key: &[u8], at: usize) -> i64 {
    key[at..].first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes) ^ i64::MIN)
}

fn at(prefix: &[u8], time: i64) -> Vec<u8> {
    [prefix, &bytes_of(time)].concat()
}

impl Sessions {
    pub(super) fn new(plan: &Plan, evict: &[Eviction], state: &SessionState) -> Result<Self> {
        let input = plan.input.schema();
        let partition = plan.partition.iter().map(|expr| physical(expr, input, state)).collect::<Result<Vec<_>>>()?;
        let types = partition.iter().map(|expr| Ok(expr.data_type(input.as_arrow())?));
        let types = types.collect::<Result<Vec<_>>>()?;
        let time = physical(&plan.time, input, state)?;
        let expiry = evict.first().map(|eviction| Expiry::new(eviction, Arc::clone(&time), state)).transpose()?;
        Ok(Self {
            partition_encoder: RowEncoder::new(types.clone())?,
            hasher: KeyHasher::new(types)?,
            partition,
            kind: time.data_type(input.as_arrow())?,
            time,
            gap: plan.gap_in_units()?,
            encoder: RowEncoder::of(input.as_arrow())?,
            input: nullable(input.as_arrow()),
            output: nullable(datafusion::logical_expr::UserDefinedLogicalNodeCore::schema(plan).as_arrow()),
            rows: BTreeMap::new(),
            bytes: 0,
            fresh: BTreeMap::new(),
            saved_rows: 0,
            expiry,
        })
    }

    /// How its input is divided.
    pub(super) fn exchange(&self) -> Result<Exchange> {
        let types = self.partition.iter().map(|expr| Ok(expr.data_type(&self.input)?));
        Exchange::by_key(self.partition.clone(), types.collect::<Result<_>>()?)
    }

    /// The keys of rows, each with the entry that it would have.
    fn keys(&self, change: &Changes) -> Result<Vec<(Key, Entry)>> {
        let partitions = self.partition_encoder.encode(&evaluate(&self.partition, &change.rows)?, change.len())?;
        let times = ordered(&self.time.evaluate(&change.rows)?.into_array(change.len())?)?;
        let rows = self.encoder.encode(change.rows.columns(), change.len())?;
        if times.null_count() > 0 {
            return Err(Error::query("a row without a time came to a SESSION"));
        }
        let key = |row: usize| {
            let partition = partitions.row(row);
            let entry = Entry { weight: change.weight(row), time: partition.len() as u32 };
            ([partition, &bytes_of(times.value(row)), rows.row(row)].concat().into_boxed_slice(), entry)
        };
        Ok((0..change.len()).map(key).collect())
    }

    fn add(&mut self, key: Key, more: Entry) {
        let old = self.rows.get(&key).copied().unwrap_or(Entry { weight: 0, ..more });
        if !self.fresh.contains_key(&key) {
            self.fresh.insert(key.clone(), old);
        }
        let weight = old.weight + more.weight;
        let was_there = self.rows.contains_key(&key);
        if self.fresh.get(&key).is_some_and(|saved| saved.weight == weight) {
            // As it was: what comes and goes again is no reason to grow.
            self.fresh.remove(&key);
        }
        if weight == 0 {
            self.bytes -= if was_there { key.len() } else { 0 };
            self.rows.remove(&key);
        } else {
            self.bytes += if was_there { 0 } else { key.len() };
            self.rows.insert(key, Entry { weight, ..more });
        }
    }

    /// The nearest time of the partition before this one, if it is within the gap.
    fn before(&self, prefix: &[u8], time: i64) -> Option<i64> {
        let end = at(prefix, time);
        let (key, _) = self.rows.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(end.as_slice()))).next_back()?;
        let found = key.starts_with(prefix).then(|| time_in(key, prefix.len()))?;
        (found >= time.saturating_sub(self.gap)).then_some(found)
    }

    /// The same behind it.
    fn behind(&self, prefix: &[u8], time: i64) -> Option<i64> {
        let start = at(prefix, time.checked_add(1)?);
        let (key, _) = self.rows.range::<[u8], _>((Bound::Included(start.as_slice()), Bound::Unbounded)).next()?;
        let found = key.starts_with(prefix).then(|| time_in(key, prefix.len()))?;
        (found <= time.saturating_add(self.gap)).then_some(found)
    }

    /// The first and the last time of the session that this time is in, or would join.
    fn extent(&self, prefix: &[u8], time: i64) -> (i64, i64) {
        let (mut first, mut last) = (time, time);
        while let Some(before) = self.before(prefix, first) {
            first = before;
        }
        while let Some(behind) = self.behind(prefix, last) {
            last = behind;
        }
        (first, last)
    }

    /// The times of the sessions that these times are in or would join; those that would be one are one.
    fn spans(&self, prefix: &[u8], times: &BTreeSet<i64>) -> Vec<(i64, i64)> {
        let mut spans: Vec<(i64, i64)> = Vec::new();
        for time in times {
            if spans.last().is_some_and(|(_, last)| time <= last) {
                continue;
            }
            let (first, last) = self.extent(prefix, *time);
            match spans.last_mut() {
                Some(span) if first <= span.1.saturating_add(self.gap) => span.1 = span.1.max(last),
                _ => spans.push((first, last)),
            }
        }
        spans
    }

    /// The rows of a span, session by session.
    fn sessions(&self, prefix: &[u8], (first, last): (i64, i64)) -> Vec<Vec<(Key, Entry)>> {
        let (start, end) = (at(prefix, first), at(prefix, last));
        let range = self.rows.range::<[u8], _>((Bound::Included(start.as_slice()), Bound::Unbounded));
        let within = range.take_while(|(key, _)| key.starts_with(prefix) && key[..end.len()] <= *end);
        let mut sessions: Vec<Vec<(Key, Entry)>> = Vec::new();
        let mut before = None;
        for (key, entry) in within {
            let time = time_in(key, prefix.len());
            match sessions
                .last_mut()
                .filter(|_| before.is_some_and(|before: i64| time <= before.saturating_add(self.gap)))
            {
                Some(session) => session.push((key.clone(), *entry)),
                None => sessions.push(vec![(key.clone(), *entry)]),
            }
            before = Some(time);
        }
        sessions
    }

    /// Counts the rows of these spans with the bounds of their sessions; notes when each session ends.
    fn count(&mut self, prefix: &Key, spans: &[(i64, i64)], sign: i64, difference: &mut BTreeMap<Placed, (u32, i64)>) {
        for span in spans {
            for session in self.sessions(prefix, *span) {
                let time = |row: Option<&(Key, Entry)>| row.map_or(0, |(key, _)| time_in(key, prefix.len()));
                let (first, last) = (time(session.first()), time(session.last()));
                let known =
                    session.first().is_some_and(|(key, _)| difference.contains_key(&(key.clone(), first, last)));
                if let Some(expiry) = self.expiry.as_mut().filter(|_| sign > 0 && !known) {
                    expiry.push(last.saturating_add(self.gap), prefix.clone());
                }
                for (key, entry) in session {
                    difference.entry((key, first, last)).or_insert((entry.time, 0)).1 += sign * entry.weight;
                }
            }
        }
    }

    /// Forgets the sessions that have ended for good.
    fn expire(&mut self, context: &EpochContext) -> Result<()> {
        let Some(expiry) = &mut self.expiry else { return Ok(()) };
        for (end, prefix) in expiry.over(context)? {
            let last = end.saturating_sub(self.gap);
            if self.behind(&prefix, last).is_some() {
                // It has become longer, and is noted with its new end.
                continue;
            }
            let span = self.extent(&prefix, last);
            for (key, entry) in self.sessions(&prefix, span).into_iter().flatten() {
                self.add(key, Entry { weight: -entry.weight, ..entry });
            }
        }
        Ok(())
    }

    /// The columns of rows.
    fn decode<'a>(&self, keys: impl Iterator<Item = (&'a Key, u32)>) -> Result<Vec<ArrayRef>> {
        self.encoder.decode(keys.map(|(key, time)| &key[time as usize + TIME..]))
    }

    fn times(&self, values: impl Iterator<Item = i64>) -> Result<ArrayRef> {
        let values = Int64Array::from_iter_values(values).into_data();
        Ok(arrow::array::make_array(values.into_builder().data_type(self.kind.clone()).build()?))
    }

    fn output(&self, difference: &BTreeMap<Placed, (u32, i64)>) -> Result<Vec<Changes>> {
        let changed: Vec<_> = difference.iter().filter(|(_, (_, weight))| *weight != 0).collect();
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        let mut columns = self.decode(changed.iter().map(|((key, ..), (time, _))| (key, *time)))?;
        columns.push(self.times(changed.iter().map(|((_, first, _), _)| *first))?);
        columns.push(self.times(changed.iter().map(|((_, _, last), _)| last.saturating_add(self.gap)))?);
        let weights = Int64Array::from_iter_values(changed.iter().map(|(_, (_, weight))| *weight));
        Ok(vec![Changes::weighted(with_columns(&self.output, columns, changed.len())?, weights)])
    }

    /// How much more each of these rows weighs than at the last checkpoint.
    fn saved<'a>(&self, rows: impl Iterator<Item = (&'a Key, &'a Entry, i64)> + Clone) -> Result<RecordBatch> {
        let columns = self.decode(rows.clone().map(|(key, entry, _)| (key, entry.time)))?;
        let weights = Int64Array::from_iter_values(rows.map(|(_, _, weight)| weight));
        Changes::weighted(with_columns(&self.input, columns, weights.len())?, weights).with_weight_column()
    }
}

impl Operator for Sessions {
    fn step(&mut self, inputs: Vec<Vec<Changes>>, context: &EpochContext) -> Result<Vec<Changes>> {
        let mut keys = Vec::new();
        for change in inputs.iter().flatten() {
            keys.extend(self.keys(change)?);
        }
        let mut touched: BTreeMap<Key, BTreeSet<i64>> = BTreeMap::new();
        for (key, entry) in &keys {
            let time = entry.time as usize;
            touched.entry(key[..time].into()).or_default().insert(time_in(key, time));
        }
        let spans: Vec<(Key, Vec<(i64, i64)>)> = touched
            .into_iter()
            .map(|(prefix, times)| {
                let spans = self.spans(&prefix, &times);
                (prefix, spans)
            })
            .collect();
        let mut difference = BTreeMap::new();
        spans.iter().for_each(|(prefix, spans)| self.count(prefix, spans, -1, &mut difference));
        for (key, entry) in keys {
            self.add(key, entry);
        }
        spans.iter().for_each(|(prefix, spans)| self.count(prefix, spans, 1, &mut difference));
        self.expire(context)?;
        self.output(&difference)
    }

    fn save(&mut self) -> Result<Vec<Saved>> {
        let fresh = std::mem::take(&mut self.fresh);
        let weight = |key: &Key| self.rows.get(key).map_or(0, |entry| entry.weight);
        let changed: Vec<_> = fresh.iter().map(|(key, old)| (key, old, weight(key) - old.weight)).collect();
        let changed: Vec<_> = changed.into_iter().filter(|(_, _, more)| *more != 0).collect();
        if changed.is_empty() {
            return Ok(vec![Saved::Unchanged]);
        }
        self.saved_rows += changed.len();
        if self.saved_rows > 2 * self.rows.len() + 1000 {
            self.saved_rows = self.rows.len();
            let all: Vec<_> = self.rows.iter().map(|(key, entry)| (key, entry, entry.weight)).collect();
            let parts = all.chunks(BLOCK).map(|rows| self.saved(rows.iter().copied()));
            return Ok(vec![Saved::Whole(parts.collect::<Result<_>>()?)]);
        }
        let parts = changed.chunks(BLOCK).map(|rows| self.saved(rows.iter().copied()));
        Ok(vec![Saved::Added(parts.collect::<Result<_>>()?)])
    }

    fn restore(&mut self, saved: Vec<Vec<RecordBatch>>, shard: Shard) -> Result<()> {
        let mut partitions: BTreeMap<Key, BTreeSet<i64>> = BTreeMap::new();
        for batch in saved.iter().flatten() {
            let change = Changes::from_weight_column(batch)?;
            let rows = with_columns(&self.input, change.rows.columns().to_vec(), change.len())?;
            let change = Changes { rows, weights: change.weights };
            let hashes = self.hasher.hashes(&evaluate_key(&self.partition, &change.rows)?, change.len())?;
            for ((key, entry), hash) in self.keys(&change)?.into_iter().zip(hashes) {
                if shard.has(hash) {
                    let time = entry.time as usize;
                    partitions.entry(key[..time].into()).or_default().insert(time_in(&key, time));
                    self.add(key, entry);
                }
            }
        }
        for (prefix, times) in partitions {
            let spans = self.spans(&prefix, &times);
            self.count(&prefix, &spans, 1, &mut BTreeMap::new());
        }
        if !shard.moved {
            self.saved_rows = self.fresh.len();
            self.fresh.clear();
        }
        Ok(())
    }

    fn size(&self) -> (usize, usize) {
        // As in a ranking; what is noted of ends has a partition each.
        let expiry = self.expiry.as_ref().map_or(0, Expiry::bytes);
        (self.rows.len(), self.bytes + self.rows.len() * 48 + expiry)
    }
}
