//! STORED AS NEXMARK: the auctions of the Nexmark benchmark.
//!
//! Enters: numbers of events, of all three kinds together. Leaves: the persons, auctions or bids among them. Always
//! holds: an event depends on its number and the seed alone; tables of different kinds are of one history.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::{Event, EventType};

use super::generate::{Clock, rows_due};
use super::{Read, Source, StreamOptions, Waiting, blocking};
use crate::checkpoint::Saved;
use crate::error::{Error, Result};
use crate::offset::OffsetRange;

/// Events of one batch.
const BATCH_EVENTS: u64 = 64 * 1024;
/// The events repeat their kinds: one person, three auctions, the rest bids.
const CYCLE: u64 = 50;
/// 2015-07-15, where the benchmark's time begins, in milliseconds since 1970.
const BASE_MILLIS: u64 = 1_436_918_400_000;
/// Events in a second of the benchmark's time, where OPTIONS do not say.
const EVENTS_PER_SECOND: u64 = 10_000;
/// Histories of different seeds have numbers of their own, so far apart; a multiple of the cycle.
const SEED_EVENTS: u64 = 50_000_000_000;
/// More seeds would not fit into the numbers.
const SEEDS: u64 = 1 << 20;

/// What a table shows of the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NexmarkKind {
    Person,
    Auction,
    Bid,
}

impl NexmarkKind {
    /// The kind of that name.
    pub(super) fn of(name: &str) -> Option<Self> {
        match name {
            "person" => Some(Self::Person),
            "auction" => Some(Self::Auction),
            "bid" => Some(Self::Bid),
            _ => None,
        }
    }

    /// The columns of its table.
    pub(super) fn columns(self) -> SchemaRef {
        let number = |name| Field::new(name, DataType::Int64, false);
        let text = |name| Field::new(name, DataType::Utf8, false);
        let time = |name| Field::new(name, DataType::Timestamp(TimeUnit::Millisecond, None), false);
        let fields = match self {
            Self::Person => vec![
                number("id"),
                text("name"),
                text("email_address"),
                text("credit_card"),
                text("city"),
                text("state"),
                time("date_time"),
                text("extra"),
            ],
            Self::Auction => vec![
                number("id"),
                text("item_name"),
                text("description"),
                number("initial_bid"),
                number("reserve"),
                time("date_time"),
                time("expires"),
                number("seller"),
                number("category"),
                text("extra"),
            ],
            Self::Bid => vec![
                number("auction"),
                number("bidder"),
                number("price"),
                text("channel"),
                text("url"),
                time("date_time"),
                text("extra"),
            ],
        };
        Arc::new(Schema::new(fields))
    }

    fn event(self) -> EventType {
        match self {
            Self::Person => EventType::Person,
            Self::Auction => EventType::Auction,
            Self::Bid => EventType::Bid,
        }
    }

    /// How many events of this kind there are before event `number`.
    fn before(self, number: u64) -> u64 {
        let (cycles, rest) = (number / CYCLE, number % CYCLE);
        match self {
            Self::Person => cycles + rest.min(1),
            Self::Auction => cycles * 3 + rest.saturating_sub(1).min(3),
            Self::Bid => cycles * 46 + rest.saturating_sub(4),
        }
    }
}

/// One kind of events, as they become due or all at once.
pub(super) struct Nexmark {
    kind: NexmarkKind,
    schema: SchemaRef,
    config: NexmarkConfig,
    options: StreamOptions,
    clock: Option<Clock>,
    next: u64,
    /// How many events there are in all, whatever is wanted of them.
    total: Option<u64>,
}

impl Nexmark {
    pub(super) fn new(kind: NexmarkKind, schema: SchemaRef, options: StreamOptions) -> Self {
        let rate = options.rows_per_second.unwrap_or(EVENTS_PER_SECOND);
        let whole = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        let config = NexmarkConfig {
            base_time: BASE_MILLIS,
            first_event_id: whole(options.seed % SEEDS * SEED_EVENTS),
            first_rate: whole(rate),
            next_rate: whole(rate),
            ..NexmarkConfig::default()
        };
        // A number of events without a rate is a data set: all of it is there.
        let paced = options.rows_per_second.is_some() || options.rows.is_none();
        let clock = paced.then(|| Clock::new(rate));
        Self { kind, schema, config, total: options.rows, options, clock, next: 0 }
    }
}

#[async_trait]
impl Source for Nexmark {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    async fn next(&mut self, now_micros: i64) -> Result<OffsetRange> {
        let due = self.clock.as_mut().map_or(u64::MAX, |clock| clock.due(self.next, now_micros));
        Ok(rows_due(self.next, due, &self.options))
    }

    fn advance(&mut self, range: &OffsetRange) -> Result<()> {
        if let OffsetRange::Rows { to, .. } = range {
            self.next = *to;
        }
        Ok(())
    }

    async fn read(&self, range: &OffsetRange) -> Result<Read> {
        let OffsetRange::Rows { from, to } = *range else { return Err(Error::query("not a range of rows")) };
        let pieces = (0..(to - from).div_ceil(BATCH_EVENTS)).map(|piece| {
            let first = from + piece * BATCH_EVENTS;
            let end = to.min(first + BATCH_EVENTS);
            let (kind, config, schema) = (self.kind, self.config.clone(), self.schema());
            blocking(move || batch(kind, config, &schema, kind.before(first), kind.before(end)))
        });
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let batches: Vec<RecordBatch> = stream::iter(pieces).buffered(threads).try_collect().await?;
        Ok(batches.into())
    }

    fn waiting(&self) -> Waiting {
        match (&self.clock, self.options.rows) {
            (Some(clock), _) => clock.waiting(self.next, &self.options),
            (None, rows) => Waiting { rows: rows.map(|rows| rows - self.next.min(rows)), ..Waiting::default() },
        }
    }

    fn position(&self) -> serde_json::Value {
        serde_json::json!({ "rows": self.next })
    }

    fn stop_growing(&mut self) {
        let due = self.clock.as_ref().map_or(0, |clock| clock.due);
        self.options.rows = Some(self.options.rows.unwrap_or_else(|| due.max(self.next)));
    }

    fn is_finished(&self) -> bool {
        self.options.rows.is_some_and(|rows| self.next >= rows)
    }

    fn is_ended(&self) -> bool {
        self.total.is_some_and(|rows| self.next >= rows)
    }

    fn taken(&self) -> Result<OffsetRange> {
        Ok(OffsetRange::Rows { from: 0, to: self.next })
    }

    fn save(&mut self) -> Result<Saved> {
        super::generate::save(self.next)
    }

    fn restore(&mut self, saved: Vec<RecordBatch>) -> Result<()> {
        self.next = super::generate::restore(&saved).unwrap_or(self.next);
        Ok(())
    }
}

/// The events `from..to` of a kind.
fn batch(kind: NexmarkKind, config: NexmarkConfig, schema: &SchemaRef, from: u64, to: u64) -> Result<RecordBatch> {
    let count = usize::try_from(to - from).unwrap_or(0);
    let events = EventGenerator::new(config).with_type_filter(kind.event()).with_offset(from).take(count);
    let events: Vec<Event> = events.collect();
    let columns = schema.fields().iter().map(|field| column(&events, field)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(count));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}

fn column(events: &[Event], field: &Field) -> ArrayRef {
    let name = field.name().as_str();
    match field.data_type() {
        DataType::Utf8 => Arc::new(StringArray::from_iter_values(events.iter().map(|event| text(event, name)))),
        DataType::Int64 => Arc::new(Int64Array::from_iter_values(events.iter().map(|event| number(event, name)))),
        _ => {
            let millis = events.iter().map(|event| match (event, name) {
                (Event::Auction(auction), "expires") => auction.expires as i64,
                _ => event.timestamp() as i64,
            });
            Arc::new(TimestampMillisecondArray::from_iter_values(millis))
        }
    }
}

fn text<'a>(event: &'a Event, name: &str) -> &'a str {
    match (event, name) {
        (Event::Person(person), "name") => &person.name,
        (Event::Person(person), "email_address") => &person.email_address,
        (Event::Person(person), "credit_card") => &person.credit_card,
        (Event::Person(person), "city") => &person.city,
        (Event::Person(person), "state") => &person.state,
        (Event::Person(person), _) => &person.extra,
        (Event::Auction(auction), "item_name") => &auction.item_name,
        (Event::Auction(auction), "description") => &auction.description,
        (Event::Auction(auction), _) => &auction.extra,
        (Event::Bid(bid), "channel") => &bid.channel,
        (Event::Bid(bid), "url") => &bid.url,
        (Event::Bid(bid), _) => &bid.extra,
    }
}

fn number(event: &Event, name: &str) -> i64 {
    let number = match (event, name) {
        (Event::Person(person), _) => person.id,
        (Event::Auction(auction), "initial_bid") => auction.initial_bid,
        (Event::Auction(auction), "reserve") => auction.reserve,
        (Event::Auction(auction), "seller") => auction.seller,
        (Event::Auction(auction), "category") => auction.category,
        (Event::Auction(auction), _) => auction.id,
        (Event::Bid(bid), "auction") => bid.auction,
        (Event::Bid(bid), "bidder") => bid.bidder,
        (Event::Bid(bid), _) => bid.price,
    };
    number as i64
}

#[cfg(test)]
mod tests {
    use arrow::compute::concat_batches;

    use super::*;

    fn source(kind: NexmarkKind, seed: u64) -> Nexmark {
        let options = StreamOptions { rows: Some(1000), seed, ..StreamOptions::default() };
        Nexmark::new(kind, kind.columns(), options)
    }

    async fn rows(source: &Nexmark, from: u64, to: u64) -> RecordBatch {
        let read = source.read(&OffsetRange::Rows { from, to }).await.expect("reads");
        concat_batches(&source.schema(), &read.batches).expect("one schema")
    }

    #[tokio::test]
    async fn any_cut_gives_the_same_events_and_a_seed_gives_others() {
        for kind in [NexmarkKind::Person, NexmarkKind::Auction, NexmarkKind::Bid] {
            let one = source(kind, 0);
            let whole = rows(&one, 0, 1000).await;
            let (a, b) = (rows(&one, 0, 333).await, rows(&one, 333, 1000).await);
            assert_eq!(concat_batches(&one.schema(), [&a, &b]).expect("one schema"), whole);
            assert_ne!(rows(&source(kind, 1), 0, 1000).await, whole);
        }
        assert_eq!(rows(&source(NexmarkKind::Person, 0), 0, 1000).await.num_rows(), 20);
        assert_eq!(rows(&source(NexmarkKind::Auction, 0), 0, 1000).await.num_rows(), 60);
        assert_eq!(rows(&source(NexmarkKind::Bid, 0), 0, 1000).await.num_rows(), 920);
    }

    #[tokio::test]
    async fn a_table_is_what_its_kind_is_among_all_events() {
        let config = NexmarkConfig { base_time: BASE_MILLIS, ..NexmarkConfig::default() };
        let all: Vec<Event> = EventGenerator::new(config).take(157).collect();
        let bids: Vec<i64> =
            all.iter().filter(|event| event.event_type() == EventType::Bid).map(|e| number(e, "price")).collect();
        let read = rows(&source(NexmarkKind::Bid, 0), 0, 157).await;
        assert_eq!(read.column(2).as_ref(), &Int64Array::from(bids));
    }

    #[tokio::test]
    async fn a_data_set_is_there_at_once_and_ends() {
        let mut one = source(NexmarkKind::Bid, 0);
        let range = one.next(0).await.expect("finds");
        assert_eq!(range, OffsetRange::Rows { from: 0, to: 1000 });
        assert!(!one.is_finished());
        one.advance(&range).expect("moves");
        assert!(one.is_finished());
    }
}
