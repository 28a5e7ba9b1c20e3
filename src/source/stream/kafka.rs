//! A topic of Kafka.
//!
//! Enters: what is committed to its partitions. Leaves: rows. Always holds: offsets are those of the pipeline's own log,
//! whatever a group of Kafka's has; a range gives the same rows each time, as long as the topic keeps them; a partition
//! that is new is read from its beginning.

mod columns;
mod feed;
mod reader;
mod records;
mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef};
use async_trait::async_trait;

use super::options::{Start, StreamOptions};
use super::table::{Coding, FileFormat};
use super::{Read, Source, StreamTable, Waiting, blocking};
use crate::checkpoint::Saved;
use crate::durable::Folder;
use crate::error::{Error, Result};
use crate::kafka::Topic;
use crate::offset::{OffsetRange, PartitionSlice};

use feed::{Bounds, Feed, Tap};
use reader::Reader;
use records::Records;

pub(super) use columns::check as check_columns;

/// The columns of the values of a topic, as their newest schema has them.
pub(super) async fn columns_of(topic: &Topic, coding: Coding, options: &StreamOptions) -> Result<SchemaRef> {
    match schema::Schemas::of(coding, &options.kafka)? {
        Some(schemas) => schemas.columns(&topic.name).await,
        None => Err(Error::sql("the columns of a topic must be declared")),
    }
}

/// How often it is looked how far the topic has grown, and whether it has new partitions.
const LOOK_MICROS: i64 = 1_000_000;
/// How long the next epoch waits for something to come.
const PATIENCE: Duration = Duration::from_millis(500);
/// Feeds that are kept for ranges that are read again.
const FEEDS: usize = 4;

/// What was taken of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Taken {
    from: i64,
    to: i64,
}

pub(super) struct Kafka {
    tap: Tap,
    reader: Reader,
    options: StreamOptions,
    taken: BTreeMap<i32, Taken>,
    /// What brings the next range; nothing before the first.
    live: Option<Feed>,
    /// What reads ranges again, where they stand.
    feeds: Mutex<Vec<Feed>>,
    /// The records of the last range.
    given: Vec<(PartitionSlice, Arc<Mutex<Option<Records>>>)>,
    /// What was there when the run began.
    there: Option<Bounds>,
    /// What was there at the last look, and when that was.
    bounds: Bounds,
    looked_micros: i64,
    /// Partitions that were read to their end.
    drained: BTreeSet<i32>,
    /// Only what was there is wanted.
    stopping: bool,
    /// What the group shows.
    shown: BTreeMap<i32, i64>,
    taking_since: Option<i64>,
}

impl Kafka {
    /// Of these columns of a table; without a format, values are taken as they are.
    pub(super) fn new(
        table: &StreamTable,
        topic: &Topic,
        format: (Option<FileFormat>, Coding),
        wanted: &[usize],
        dead_letters: Option<Folder>,
    ) -> Result<Self> {
        let options = table.options().clone();
        let reader = Reader::new(table, &topic.name, format, wanted, dead_letters)?;
        let tap = Tap {
            topic: topic.clone(),
            client: options.kafka.client.clone(),
            group: options.kafka.group.clone(),
            keeps: reader.keeps(),
        };
        Ok(Self {
            tap,
            reader,
            options,
            taken: BTreeMap::new(),
            live: None,
            feeds: Mutex::default(),
            given: Vec::new(),
            there: None,
            bounds: Bounds::new(),
            looked_micros: 0,
            drained: BTreeSet::new(),
            stopping: false,
            shown: BTreeMap::new(),
            taking_since: None,
        })
    }

    /// How far each partition was taken.
    fn positions(&self) -> BTreeMap<i32, i64> {
        self.taken.iter().map(|(partition, taken)| (*partition, taken.to)).collect()
    }

    /// True when all was taken that was there when the run began.
    fn is_caught_up(&self) -> bool {
        let Some(there) = &self.there else { return false };
        there.iter().all(|(partition, (_, high))| {
            self.drained.contains(partition) || self.taken.get(partition).is_some_and(|taken| taken.to >= *high)
        })
    }

    /// Where partitions begin of which nothing was taken.
    fn starts(&self, feed: &Feed, bounds: &Bounds) -> Result<BTreeMap<i32, i64>> {
        let low = || bounds.iter().map(|(partition, (low, _))| (*partition, *low)).collect();
        // What has come to be since is read from its beginning.
        let starts: BTreeMap<i32, i64> = match self.options.kafka.start {
            _ if !self.taken.is_empty() => low(),
            Start::Earliest => low(),
            Start::Latest => bounds.iter().map(|(partition, (_, high))| (*partition, *high)).collect(),
            Start::Millis(millis) => feed.offsets_at(millis, bounds)?,
        };
        Ok(starts.into_iter().filter(|(partition, _)| !self.taken.contains_key(partition)).collect())
    }

    /// What the next range has, by partition. To be called where a thread may block.
    fn pull(&mut self, mut feed: Feed, now_micros: i64) -> Result<(Feed, Vec<(PartitionSlice, Records)>)> {
        let first = self.there.is_none();
        if first {
            self.bounds = feed.look()?;
            self.there = Some(self.bounds.clone());
            self.looked_micros = now_micros;
        } else if now_micros - self.looked_micros >= LOOK_MICROS {
            self.looked_micros = now_micros;
            if let Some(bounds) = feed.look_again()? {
                self.bounds = bounds;
            }
        }
        let mut at = self.positions();
        if first {
            feed.expect(&self.bounds, &at)?;
        }
        let new = self.starts(&feed, &self.bounds)?;
        at.extend(new.iter().map(|(partition, from)| (*partition, *from)));
        feed.go_to(&at, first)?;
        let limits = &self.options.limits;
        feed.pull(limits.rows, limits.bytes, PATIENCE)?;
        let held: Vec<(i32, i64, usize)> = feed.held().map(|(partition, to, rows, _)| (partition, to, rows)).collect();
        let mut slices = Vec::new();
        for (partition, to, rows) in held {
            let from = at.get(&partition).copied().unwrap_or(to);
            // A new partition is named even where nothing has come of it, so that it is known where it begins.
            if rows > 0 || new.contains_key(&partition) {
                let records = feed.take(partition, to);
                slices.push((PartitionSlice { partition, from, to: to.max(from) }, records));
            }
        }
        self.drained = feed.drained();
        Ok((feed, slices))
    }

    /// The records of a range that was not given just now.
    async fn again(&self, slices: &[PartitionSlice]) -> Result<Vec<Records>> {
        let wanted: BTreeMap<i32, i64> = slices.iter().map(|slice| (slice.partition, slice.from)).collect();
        let known = {
            let mut feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
            let at = feeds.iter().position(|feed| feed.stands_at(&wanted)).or_else(|| feeds.len().checked_sub(1));
            at.map(|at| feeds.swap_remove(at))
        };
        let (tap, slices) = (self.tap.clone(), slices.to_vec());
        let (feed, records) = blocking(move || {
            let mut feed = match known {
                Some(feed) => feed,
                None => tap.open()?,
            };
            feed.go_to(&wanted, false)?;
            feed.pull_all(&slices)?;
            let records = slices.iter().map(|slice| feed.take(slice.partition, slice.to)).collect();
            Ok((feed, records))
        })
        .await?;
        let mut feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner);
        if feeds.len() < FEEDS {
            feeds.push(feed);
        }
        Ok(records)
    }
}

fn slices_of(range: &OffsetRange) -> Result<&[PartitionSlice]> {
    match range {
        OffsetRange::Partitions(slices) => Ok(slices),
        _ => Err(Error::query("not a range of a topic")),
    }
}

#[async_trait]
impl Source for Kafka {
    fn schema(&self) -> SchemaRef {
        self.reader.schema()
    }

    async fn next(&mut self, now_micros: i64) -> Result<OffsetRange> {
        self.given.clear();
        self.taking_since = None;
        if self.tap.group.is_some() {
            self.show().await?;
        }
        if self.stopping && self.is_caught_up() {
            return Ok(OffsetRange::Partitions(Vec::new()));
        }
        let (live, tap) = (self.live.take(), self.tap.clone());
        let feed = match live {
            Some(feed) => feed,
            None => blocking(move || tap.open()).await?,
        };
        let (feed, slices) = tokio::task::block_in_place(|| self.pull(feed, now_micros))?;
        self.live = Some(feed);
        let oldest = slices.iter().flat_map(|(_, records)| &records.all).filter_map(|record| record.millis).min();
        self.taking_since = oldest.map(|millis| millis.saturating_mul(1000));
        let range = slices.iter().map(|(slice, _)| slice.clone()).collect();
        self.given = slices.into_iter().map(|(slice, records)| (slice, Arc::new(Mutex::new(Some(records))))).collect();
        Ok(OffsetRange::Partitions(range))
    }

    fn advance(&mut self, range: &OffsetRange) -> Result<()> {
        for slice in slices_of(range)? {
            let taken = self.taken.entry(slice.partition).or_insert(Taken { from: slice.from, to: slice.from });
            taken.to = slice.to;
        }
        Ok(())
    }

    async fn read(&self, range: &OffsetRange) -> Result<Read> {
        let slices = slices_of(range)?;
        let mut records = Vec::new();
        for slice in slices {
            let given = self.given.iter().find(|(given, _)| given == slice);
            let given = given.and_then(|(_, given)| given.lock().unwrap_or_else(PoisonError::into_inner).take());
            records.extend(given);
        }
        if records.len() < slices.len() {
            records = self.again(slices).await?;
        }
        let mut read = Read::default();
        for (slice, records) in slices.iter().zip(records) {
            read.add(self.reader.read(slice.partition, records).await?);
        }
        Ok(read)
    }

    fn dead_letters(&self) -> Option<&Folder> {
        self.reader.dead_letters()
    }

    fn stop_growing(&mut self) {
        self.stopping = true;
    }

    fn is_waiting(&self) -> bool {
        self.stopping && !self.is_caught_up()
    }

    fn waiting(&self) -> Waiting {
        let waits = |(partition, (low, high)): (&i32, &(i64, i64))| {
            let at = self.taken.get(partition).map_or(*low, |taken| taken.to);
            if self.drained.contains(partition) { 0 } else { u64::try_from(high - at).unwrap_or(0) }
        };
        Waiting { bytes: 0, rows: Some(self.bounds.iter().map(waits).sum()), since_micros: None }
    }

    fn taking_since(&self) -> Option<i64> {
        self.taking_since
    }

    fn position(&self) -> serde_json::Value {
        let offsets = self.taken.iter().map(|(partition, taken)| (partition.to_string(), taken.to.into()));
        serde_json::json!({ "topic": self.tap.topic.name, "offsets": offsets.collect::<serde_json::Map<_, _>>() })
    }

    fn taken(&self) -> Result<OffsetRange> {
        let slice = |(partition, taken): (&i32, &Taken)| PartitionSlice {
            partition: *partition,
            from: taken.from,
            to: taken.to,
        };
        Ok(OffsetRange::Partitions(self.taken.iter().map(slice).collect()))
    }

    fn release(&mut self) -> Result<()> {
        if let Some(feed) = self.live.as_ref().filter(|_| self.tap.group.is_some()) {
            let positions = self.positions();
            tokio::task::block_in_place(|| feed.show(&positions));
            self.shown = positions;
        }
        Ok(())
    }

    fn save(&mut self) -> Result<Saved> {
        let schema = Schema::new(vec![
            Field::new("partition", DataType::Int32, false),
            Field::new("from", DataType::Int64, false),
            Field::new("to", DataType::Int64, false),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int32Array::from_iter_values(self.taken.keys().copied())),
            Arc::new(Int64Array::from_iter_values(self.taken.values().map(|taken| taken.from))),
            Arc::new(Int64Array::from_iter_values(self.taken.values().map(|taken| taken.to))),
        ];
        Ok(Saved::Whole(vec![RecordBatch::try_new(Arc::new(schema), columns)?].into()))
    }

    fn restore(&mut self, saved: Vec<RecordBatch>) -> Result<()> {
        let Some(batch) = saved.last() else { return Ok(()) };
        let offsets = |at: usize| batch.column(at).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let taken = Taken { from: offsets(1).value(row), to: offsets(2).value(row) };
            self.taken.insert(batch.column(0).as_primitive::<Int32Type>().value(row), taken);
        }
        Ok(())
    }
}

impl Kafka {
    /// Shows in the group what the epochs behind the last call have taken: all sinks hold them by now.
    async fn show(&mut self) -> Result<()> {
        let positions = self.positions();
        if positions == self.shown || self.live.is_none() {
            return Ok(());
        }
        let Some(feed) = self.live.take() else { return Ok(()) };
        let offsets = positions.clone();
        let feed = blocking(move || {
            feed.show(&offsets);
            Ok(feed)
        });
        self.live = Some(feed.await?);
        self.shown = positions;
        Ok(())
    }
}
