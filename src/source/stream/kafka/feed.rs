//! A consumer of one topic, and what it has brought.
//!
//! Enters: offsets to begin at. Leaves: records in the order of their offsets, partition by partition. Always holds:
//! what is kept of a partition is all that was committed to it between two offsets; an offset that is gone is an error,
//! and never a jump to another one. It waits for brokers: to be called where a thread may block.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Message, Offset, TopicPartitionList};

use super::records::{Keeps, Records};
use crate::clock::Stopwatch;
use crate::error::{Error, Result};
use crate::kafka::{ANSWER, ClientOptions, Context, Topic, client_config, failed, may_pass};
use crate::offset::PartitionSlice;

/// For how long brokers may be away.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long one wait for a record is.
const WAIT: Duration = Duration::from_millis(100);
/// The same behind a record: more of them are likely there.
const SHORT_WAIT: Duration = Duration::from_millis(5);

/// The first offset of a partition, and the one behind its last committed record.
pub(super) type Bounds = BTreeMap<i32, (i64, i64)>;

/// What makes a feed.
#[derive(Debug, Clone)]
pub(super) struct Tap {
    pub(super) topic: Topic,
    pub(super) client: ClientOptions,
    /// The group whose offsets show how far the pipeline is.
    pub(super) group: Option<String>,
    pub(super) keeps: Keeps,
}

/// What came of a partition.
struct Part {
    /// All from this offset on is in `records`.
    from: i64,
    /// Up to this one.
    to: i64,
    records: Records,
    /// The end was seen, behind what is kept.
    ended: bool,
}

pub(super) struct Feed {
    tap: Tap,
    consumer: BaseConsumer<Context>,
    /// The consumer was told what to read.
    assigned: bool,
    parts: BTreeMap<i32, Part>,
    /// Since when nothing was heard of the brokers but errors.
    failing: Option<Stopwatch>,
    /// An offset is said to be gone, and it has not been seen yet whether it is: a broker that is coming back may be
    /// the reason.
    unsure: bool,
}

impl Tap {
    pub(super) fn open(&self) -> Result<Feed> {
        let (consumer, parts) = (self.consumer()?, BTreeMap::new());
        Ok(Feed { tap: self.clone(), consumer, assigned: false, parts, failing: None, unsure: false })
    }

    fn consumer(&self) -> Result<BaseConsumer<Context>> {
        let mut config = client_config(&self.topic, &self.client)?;
        config.set("group.id", self.group.as_deref().unwrap_or("fuse"));
        config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        config.set("enable.partition.eof", "true").set("auto.offset.reset", "error");
        config.set("isolation.level", "read_committed").set("allow.auto.create.topics", "false");
        let consumer = config.create_with_context(Context::default());
        consumer.map_err(|error| failed(&self.topic, "read", &error, None))
    }
}

impl Feed {
    fn failed(&self, what: &str, error: &KafkaError) -> Error {
        failed(&self.tap.topic, what, error, Some(self.consumer.context()))
    }

    /// The bounds of all partitions.
    pub(super) fn look(&mut self) -> Result<Bounds> {
        let looked = self.bounds();
        if looked.is_ok() {
            self.failing = None;
        }
        looked.map_err(|error| self.failed("read", &error))
    }

    fn bounds(&self) -> Result<Bounds, KafkaError> {
        let name = &self.tap.topic.name;
        let metadata = self.consumer.fetch_metadata(Some(name), ANSWER)?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == name);
        let topic = topic.ok_or(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopic))?;
        if let Some(code) = topic.error() {
            return Err(KafkaError::MetadataFetch(code.into()));
        }
        let bounds = topic
            .partitions()
            .iter()
            .map(|partition| Ok((partition.id(), self.consumer.fetch_watermarks(name, partition.id(), ANSWER)?)));
        let bounds = bounds.collect::<Result<Bounds, KafkaError>>()?;
        if bounds.is_empty() { Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopic)) } else { Ok(bounds) }
    }

    /// The same, where brokers may be away for a while; nothing then.
    pub(super) fn look_again(&mut self) -> Result<Option<Bounds>> {
        match self.bounds() {
            Ok(bounds) => {
                self.failing = None;
                Ok(Some(bounds))
            }
            Err(error) => self.endure(&error).map(|()| None),
        }
    }

    /// The offsets of the first records that are not older than a time, in milliseconds since 1970; of partitions
    /// without such records their ends.
    pub(super) fn offsets_at(&self, millis: i64, bounds: &Bounds) -> Result<BTreeMap<i32, i64>> {
        let mut asked = TopicPartitionList::new();
        for partition in bounds.keys() {
            let added = asked.add_partition_offset(&self.tap.topic.name, *partition, Offset::Offset(millis));
            added.map_err(|error| self.failed("read", &error))?;
        }
        let found = self.consumer.offsets_for_times(asked, ANSWER).map_err(|error| self.failed("read", &error))?;
        let offset = |(partition, (_, high)): (&i32, &(i64, i64))| {
            let found = found.find_partition(&self.tap.topic.name, *partition).map(|element| element.offset());
            match found {
                Some(Offset::Offset(offset)) => (*partition, offset),
                _ => (*partition, *high),
            }
        };
        Ok(bounds.iter().map(offset).collect())
    }

    /// Shows in the group how far the pipeline is; what of it fails is of no consequence.
    pub(super) fn show(&self, offsets: &BTreeMap<i32, i64>) {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in offsets {
            let _ = list.add_partition_offset(&self.tap.topic.name, *partition, Offset::Offset(*offset));
        }
        if let Err(error) = self.consumer.commit(&list, CommitMode::Sync) {
            tracing::debug!(target: "kafka", "offsets are not shown: {error}");
        }
    }

    /// True if what comes next is what is wanted, of each of these partitions.
    pub(super) fn stands_at(&self, wanted: &BTreeMap<i32, i64>) -> bool {
        wanted.iter().all(|(partition, at)| self.parts.get(partition).is_some_and(|part| part.from == *at))
    }

    /// Goes to these offsets, and reads these partitions only. `anew`: also where it stands there.
    pub(super) fn go_to(&mut self, wanted: &BTreeMap<i32, i64>, anew: bool) -> Result<()> {
        if !anew && self.stands_at(wanted) && wanted.len() == self.parts.len() {
            return Ok(());
        }
        let kept = |part: &&Part| !anew && !part.records.is_empty();
        let mut parts = BTreeMap::new();
        for (partition, at) in wanted {
            let known = self.parts.remove(partition).filter(|part| part.from == *at && kept(&part));
            let part = known.unwrap_or_else(|| Part { from: *at, to: *at, records: Records::default(), ended: false });
            parts.insert(*partition, Part { ended: false, ..part });
        }
        self.parts = parts;
        self.assign()
    }

    /// Has the client read on where each partition stands. Each client is told once: librdkafka aborts where it is told
    /// again while it still stops (its issue 5573).
    fn assign(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.assigned, true) {
            self.consumer = self.tap.consumer()?;
        }
        let mut list = TopicPartitionList::new();
        for (partition, part) in &self.parts {
            let added = list.add_partition_offset(&self.tap.topic.name, *partition, Offset::Offset(part.to));
            added.map_err(|error| self.failed("read", &error))?;
        }
        self.consumer.assign(&list).map_err(|error| self.failed("read", &error))
    }

    /// Takes what has come, at most so many rows and bytes, and waits for something to come for at most `patience`.
    pub(super) fn pull(&mut self, rows: u64, bytes: u64, patience: Duration) -> Result<()> {
        let watch = Stopwatch::start();
        let (mut some, mut taken) = (false, 0);
        let mut room = bytes.saturating_sub(self.parts.values().map(|part| part.records.bytes()).sum());
        let held: u64 = self.parts.values().map(|part| part.records.len() as u64).sum();
        while held + taken < rows && room > 0 {
            let ended = self.parts.values().all(|part| part.ended);
            let wait = match (ended, some) {
                (true, _) => Duration::ZERO,
                (false, true) => SHORT_WAIT,
                (false, false) => WAIT.min(patience),
            };
            match self.poll(wait)? {
                Some(size) => {
                    (some, taken) = (true, taken + 1);
                    room = room.saturating_sub(size);
                }
                None if ended || some || watch.elapsed() >= patience => break,
                None => {}
            }
        }
        Ok(())
    }

    /// Takes all of these slices.
    pub(super) fn pull_all(&mut self, slices: &[PartitionSlice]) -> Result<()> {
        let lacks = |feed: &Self, slice: &PartitionSlice| {
            feed.parts.get(&slice.partition).is_some_and(|part| part.to < slice.to && !part.ended)
        };
        while slices.iter().any(|slice| lacks(self, slice)) {
            self.poll(WAIT)?;
        }
        let short = |slice: &&PartitionSlice| self.parts.get(&slice.partition).is_some_and(|part| part.to < slice.to);
        if let Some(short) = slices.iter().find(short) {
            // The end may be of records that nobody sees: those of transactions that were given up, and marks.
            let bounds = self.look()?;
            let end = bounds.get(&short.partition).map_or(0, |(_, high)| *high);
            if end < short.to {
                return Err(self.cut(short.partition, short.to, end));
            }
        }
        Ok(())
    }

    /// The next record, or that there is none now; its bytes.
    fn poll(&mut self, wait: Duration) -> Result<Option<u64>> {
        if self.unsure {
            self.make_sure()?;
        }
        let polled = match self.consumer.poll(wait) {
            None => None,
            Some(Ok(message)) => {
                self.failing = None;
                let part = self.parts.get_mut(&message.partition());
                let part = part.filter(|part| message.offset() >= part.to);
                return Ok(Some(part.map_or(0, |part| {
                    part.to = message.offset() + 1;
                    part.ended = false;
                    part.records.push(&message, &self.tap.keeps)
                })));
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.failing = None;
                if let Some(part) = self.parts.get_mut(&partition) {
                    part.ended = true;
                }
                return Ok(None);
            }
            Some(Err(error)) => Some(error),
        };
        match polled {
            Some(error) => self.endure(&error)?,
            None => self.waited()?,
        }
        Ok(None)
    }

    /// An error that passes is borne for a while.
    fn endure(&mut self, error: &KafkaError) -> Result<()> {
        let code = error.rdkafka_error_code();
        let gone =
            [RDKafkaErrorCode::AutoOffsetReset, RDKafkaErrorCode::OffsetOutOfRange, RDKafkaErrorCode::LogTruncation];
        if code.is_some_and(|code| gone.contains(&code)) {
            self.unsure = true;
        }
        if !code.is_some_and(may_pass) || matches!(error, KafkaError::MessageConsumptionFatal(_)) {
            return Err(self.failed("read", error));
        }
        let since = *self.failing.get_or_insert_with(Stopwatch::start);
        if since.elapsed() >= PATIENCE { Err(self.failed("read", error)) } else { Ok(()) }
    }

    /// Goes on where it stood, if what comes there is not gone; while brokers are away that is not known.
    fn make_sure(&mut self) -> Result<()> {
        let Some(bounds) = self.look_again()? else { return Ok(()) };
        let at: BTreeMap<i32, i64> = self.parts.iter().map(|(partition, part)| (*partition, part.to)).collect();
        self.expect(&bounds, &at)?;
        self.assign()?;
        self.unsure = false;
        Ok(())
    }

    /// Nothing was heard.
    fn waited(&self) -> Result<()> {
        match self.failing {
            Some(since) if since.elapsed() >= PATIENCE => {
                let error = KafkaError::Global(RDKafkaErrorCode::AllBrokersDown);
                Err(self.failed("read", &error))
            }
            _ => Ok(()),
        }
    }

    /// An error if there is nothing any more, or nothing yet, where reading is to go on.
    pub(super) fn expect(&self, bounds: &Bounds, at: &BTreeMap<i32, i64>) -> Result<()> {
        for (partition, at) in at {
            let Some((low, high)) = bounds.get(partition) else {
                return Err(Error::query(format!(
                    "partition {partition} of the topic {} is gone",
                    self.tap.topic.name
                ))
                .hint("was the topic made anew? --fresh begins with what is there now"));
            };
            if at < low {
                let lost = low - at;
                return Err(Error::query(format!(
                    "offset {at} of {}, partition {partition}, is gone: what is there begins at {low}",
                    self.tap.topic.name
                ))
                .note(format!("{lost} offsets were removed before they were read, by the topic's retention"))
                .hint("a longer retention.ms keeps them; --fresh begins anew with what is there now"));
            }
            if at > high {
                return Err(self.cut(*partition, *at, *high));
            }
        }
        Ok(())
    }

    fn cut(&self, partition: i32, at: i64, end: i64) -> Error {
        Error::query(format!(
            "{}, partition {partition}, was read up to offset {at}, and now ends at {end}",
            self.tap.topic.name
        ))
        .note("the topic was made anew, or its brokers have lost records")
        .hint("--fresh begins anew with what is there now")
    }

    /// What is kept of each partition from where it stands: the offset behind it, and true if its end was seen.
    pub(super) fn held(&self) -> impl Iterator<Item = (i32, i64, usize, bool)> {
        self.parts.iter().map(|(partition, part)| (*partition, part.to, part.records.len(), part.ended))
    }

    /// Takes the records of a partition up to an offset.
    pub(super) fn take(&mut self, partition: i32, to: i64) -> Records {
        let Some(part) = self.parts.get_mut(&partition) else { return Records::default() };
        part.from = to;
        part.to = part.to.max(to);
        part.records.split_to(to)
    }

    /// Partitions whose end was seen and of which nothing is kept.
    pub(super) fn drained(&self) -> BTreeSet<i32> {
        self.parts.iter().filter(|(_, part)| part.ended && part.records.is_empty()).map(|(at, _)| *at).collect()
    }
}
