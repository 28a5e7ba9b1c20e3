//! SESSION windows over rows that come and go.
//!
//! Enters: changes of rows that have a time. Leaves: changes of the same rows with the start and the end of their
//! session. Always holds: the work follows the rows of the sessions that a change touches; a session that no row can
//! join any more is forgotten. Rows go to disk where they do not fit into memory; the ends of sessions stay there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::execution::SessionState;
use datafusion::execution::disk_manager::DiskManager;
use datafusion::logical_expr::UserDefinedLogicalNodeCore;

use super::exchange::Exchange;
use super::expiry::Expiry;
use super::pages::{Entry, Key};
use super::timeline::{Timeline, time_in};
use super::{EpochContext, Operator, Shard};
use crate::change::{Changes, nullable, with_columns};
use crate::checkpoint::{Pieces, Saved};
use crate::error::Result;
use crate::planner::{Eviction, Sessions as Plan};

/// A row, and the first and the last time of its session.
type Placed = (Key, i64, i64);

/// The partitions of one shard.
pub(super) struct Sessions {
    rows: Timeline,
    kind: DataType,
    gap: i64,
    output: SchemaRef,
    /// Partitions by the ends that their sessions had.
    expiry: Option<Expiry<Key>>,
}

impl Sessions {
    pub(super) fn new(plan: &Plan, evict: &[Eviction], state: &SessionState) -> Result<Self> {
        let input = plan.input.schema();
        let rows = Timeline::new(&plan.partition, &plan.time, input, state)?;
        let expiry = evict.first().map(|eviction| Expiry::new(eviction, Arc::clone(rows.time()), state)).transpose()?;
        Ok(Self {
            kind: rows.time().data_type(input.as_arrow())?,
            rows,
            gap: plan.gap_in_units()?,
            output: nullable(UserDefinedLogicalNodeCore::schema(plan).as_arrow()),
            expiry,
        })
    }

    /// How its input is divided.
    pub(super) fn exchange(&self) -> Result<Exchange> {
        self.rows.exchange()
    }

    /// The first and the last time of the session that this time is in, or would join.
    fn extent(&self, prefix: &[u8], time: i64) -> Result<(i64, i64)> {
        let (mut first, mut last) = (time, time);
        while let Some(before) = self.rows.last(prefix, first, false)?.map(|key| time_in(key, prefix.len()))
            && before >= first.saturating_sub(self.gap)
        {
            first = before;
        }
        while let Some(behind) = self.rows.first(prefix, last, false)?.map(|key| time_in(key, prefix.len()))
            && behind <= last.saturating_add(self.gap)
        {
            last = behind;
        }
        Ok((first, last))
    }

    /// The times of the sessions that these times are in or would join; those that would be one are one.
    fn spans(&self, prefix: &[u8], times: &BTreeSet<i64>) -> Result<Vec<(i64, i64)>> {
        let mut spans: Vec<(i64, i64)> = Vec::new();
        for time in times {
            if spans.last().is_some_and(|(_, last)| time <= last) {
                continue;
            }
            let (first, last) = self.extent(prefix, *time)?;
            match spans.last_mut() {
                Some(span) if first <= span.1.saturating_add(self.gap) => span.1 = span.1.max(last),
                _ => spans.push((first, last)),
            }
        }
        Ok(spans)
    }

    /// The rows of a span, session by session.
    fn sessions(&self, prefix: &[u8], span: (i64, i64)) -> Result<Vec<Vec<(Key, Entry)>>> {
        let mut sessions: Vec<Vec<(Key, Entry)>> = Vec::new();
        let mut before: Option<i64> = None;
        for row in self.rows.between(prefix, span) {
            let (key, entry) = row?;
            let time = time_in(key, prefix.len());
            let joins = before.is_some_and(|before| time <= before.saturating_add(self.gap));
            match sessions.last_mut().filter(|_| joins) {
                Some(session) => session.push((key.clone(), *entry)),
                None => sessions.push(vec![(key.clone(), *entry)]),
            }
            before = Some(time);
        }
        Ok(sessions)
    }

    /// Counts the rows of these spans with the bounds of their sessions; notes when each new session ends.
    fn count(
        &mut self,
        prefix: &Key,
        spans: &[(i64, i64)],
        sign: i64,
        difference: &mut BTreeMap<Placed, (u32, i64)>,
    ) -> Result<()> {
        for span in spans {
            for session in self.sessions(prefix, *span)? {
                let time = |row: Option<&(Key, Entry)>| row.map_or(0, |(key, _)| time_in(key, prefix.len()));
                let (first, last) = (time(session.first()), time(session.last()));
                let known =
                    session.first().is_some_and(|(key, _)| difference.contains_key(&(key.clone(), first, last)));
                if let Some(expiry) = self.expiry.as_mut().filter(|_| sign > 0 && !known) {
                    expiry.push(last.saturating_add(self.gap), prefix.clone());
                }
                for (key, entry) in session {
                    difference.entry((key, first, last)).or_insert((entry.row, 0)).1 += sign * entry.weight;
                }
            }
        }
        Ok(())
    }

    /// Forgets the sessions that have ended for good.
    fn expire(&mut self, context: &EpochContext) -> Result<()> {
        let Some(expiry) = &mut self.expiry else { return Ok(()) };
        for (end, prefix) in expiry.over(context)? {
            let last = end.saturating_sub(self.gap);
            let span = self.extent(&prefix, last)?;
            if span.1 > last {
                // It has become longer, and is noted with its new end.
                continue;
            }
            for (key, entry) in self.sessions(&prefix, span)?.into_iter().flatten() {
                self.rows.remove(key, entry)?;
            }
        }
        Ok(())
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
        let mut columns = self.rows.decode(changed.iter().map(|((key, ..), (row, _))| (key, *row)))?;
        columns.push(self.times(changed.iter().map(|((_, first, _), _)| *first))?);
        columns.push(self.times(changed.iter().map(|((_, _, last), _)| last.saturating_add(self.gap)))?);
        let weights = Int64Array::from_iter_values(changed.iter().map(|(_, (_, weight))| *weight));
        Ok(vec![Changes::weighted(with_columns(&self.output, columns, changed.len())?, weights)])
    }
}

impl Operator for Sessions {
    fn step(&mut self, inputs: Vec<Vec<Changes>>, context: &EpochContext) -> Result<Vec<Changes>> {
        let mut rows = Vec::new();
        for change in inputs.iter().flatten() {
            rows.extend(self.rows.place(change)?);
        }
        let mut touched: BTreeMap<Key, BTreeSet<i64>> = BTreeMap::new();
        for row in &rows {
            let time = row.entry.order as usize;
            touched.entry(row.key[..time].into()).or_default().insert(time_in(&row.key, time));
        }
        let spans = touched.into_iter().map(|(prefix, times)| {
            let spans = self.spans(&prefix, &times)?;
            Ok((prefix, spans))
        });
        let spans: Vec<(Key, Vec<(i64, i64)>)> = spans.collect::<Result<_>>()?;
        let mut difference = BTreeMap::new();
        for (prefix, spans) in &spans {
            self.count(prefix, spans, -1, &mut difference)?;
        }
        self.rows.add_all(rows)?;
        for (prefix, spans) in &spans {
            self.count(prefix, spans, 1, &mut difference)?;
        }
        self.expire(context)?;
        self.output(&difference)
    }

    fn save(&mut self) -> Result<Vec<Saved>> {
        Ok(vec![self.rows.save()?])
    }

    fn restore(&mut self, saved: Vec<Pieces>, shard: Shard) -> Result<()> {
        self.rows.restore(saved.into_iter().next().unwrap_or_default(), shard)?;
        let mut partitions: BTreeMap<Key, BTreeSet<i64>> = BTreeMap::new();
        if self.expiry.is_none() {
            return Ok(());
        }
        for row in self.rows.all() {
            let (key, entry) = row?;
            let time = entry.order as usize;
            partitions.entry(key[..time].into()).or_default().insert(time_in(key, time));
        }
        for (prefix, times) in partitions {
            let spans = self.spans(&prefix, &times)?;
            self.count(&prefix, &spans, 1, &mut BTreeMap::new())?;
        }
        Ok(())
    }

    fn size(&self) -> (usize, usize) {
        let (rows, bytes) = self.rows.size();
        (rows, bytes + self.expiry.as_ref().map_or(0, Expiry::bytes))
    }

    fn spill(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        self.rows.spill(bytes, disk)
    }
}
