//! Messages written to a topic, a transaction at a time.
//!
//! Enters: messages, and the number of the epoch that they are of. Leaves: a transaction that readers of what is
//! committed see whole or not at all. Always holds: the number is part of the transaction, as the offset of a group of
//! the writer's own, so that it can be told after any kill whether the transaction was committed; a writer that comes
//! later under the same name ends the one before. It waits for brokers: to be called where a thread may block.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, PurgeConfig};
use rdkafka::{Offset, TopicPartitionList};

use super::{ANSWER, ClientOptions, Context, Topic, client_config, failed};
use crate::clock::Stopwatch;
use crate::error::{Error, Result};

/// For how long a transaction may be unclear, or brokers away.
const PATIENCE: Duration = Duration::from_secs(60);
/// After so long without a commit brokers give a transaction up: the most that they allow.
const TRANSACTION_MILLIS: &str = "900000";

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// By which brokers and readers tell what belongs together.
    pub key: Option<Vec<u8>>,
    /// What it says; nothing: what had the key is gone.
    pub value: Option<Vec<u8>>,
}

/// Writes to one topic under one name.
pub struct Writer {
    topic: Topic,
    producer: BaseProducer<Context>,
    consumer: BaseConsumer<Context>,
    group: ConsumerGroupMetadata,
}

/// Makes the topic if it is not there, as brokers make them by default.
pub async fn make_topic(topic: &Topic, options: &ClientOptions) -> Result<()> {
    let wrong = |error: &KafkaError| failed(topic, "write to", error, None);
    let mut config = client_config(topic, options)?;
    config.set("allow.auto.create.topics", "false");
    let client: BaseProducer<Context> =
        config.create_with_context(Context::default()).map_err(|error| wrong(&error))?;
    let metadata = tokio::task::block_in_place(|| {
        client.client().fetch_metadata(Some(&topic.name), ANSWER).map_err(|error| {
            // What went wrong beneath is told to who polls.
            (0..10).for_each(|_| client.poll(Duration::from_millis(20)));
            failed(topic, "write to", &error, Some(client.context()))
        })
    })?;
    let there = metadata.topics().iter().any(|one| one.name() == topic.name && one.error().is_none());
    if there {
        return Ok(());
    }
    let admin: AdminClient<Context> = config.create_with_context(Context::default()).map_err(|error| wrong(&error))?;
    for (partitions, copies) in [(-1, -1), (1, 1)] {
        let new = NewTopic::new(&topic.name, partitions, TopicReplication::Fixed(copies));
        let made = admin.create_topics([&new], &AdminOptions::new().request_timeout(Some(ANSWER))).await;
        match made.map_err(|error| wrong(&error))?.pop() {
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) | Some(Ok(_)) => return Ok(()),
            // Brokers before 2.4 have no defaults that can be asked for.
            _ if partitions < 0 => {}
            Some(Err((_, code))) => return Err(wrong(&KafkaError::AdminOp(code))),
            None => {}
        }
    }
    Ok(())
}

impl Writer {
    /// Takes the name, ends what an earlier writer of that name has left open.
    pub fn open(topic: &Topic, options: &ClientOptions, name: &str) -> Result<Self> {
        let wrong = |error: &KafkaError, context: Option<&Context>| failed(topic, "write to", error, context);
        let mut config = client_config(topic, options)?;
        config.set("transactional.id", name).set("allow.auto.create.topics", "false");
        for (option, value) in [("transaction.timeout.ms", TRANSACTION_MILLIS), ("partitioner", "murmur2_random")] {
            if config.get(option).is_none() {
                config.set(option, value);
            }
        }
        let producer: BaseProducer<Context> =
            config.create_with_context(Context::default()).map_err(|error| wrong(&error, None))?;
        let mut config = client_config(topic, options)?;
        config.set("group.id", name).set("enable.auto.commit", "false").set("isolation.level", "read_committed");
        let consumer: BaseConsumer<Context> =
            config.create_with_context(Context::default()).map_err(|error| wrong(&error, None))?;
        let watch = Stopwatch::start();
        while let Err(error) = producer.init_transactions(ANSWER) {
            if !is_retriable(&error) || watch.elapsed() >= PATIENCE {
                return Err(wrong(&error, Some(producer.context())));
            }
        }
        let group = consumer.group_metadata().ok_or_else(|| Error::query("a group without a name"))?;
        Ok(Self { topic: topic.clone(), producer, consumer, group })
    }

    fn failed(&self, error: &KafkaError) -> Error {
        let told = failed(&self.topic, "write to", error, Some(self.producer.context()));
        match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch,
            ) => told.note("another process writes for the same pipeline, or the transaction took too long"),
            _ => told,
        }
    }

    fn mark(&self, number: i64) -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        let offset = if number < 0 { Offset::Invalid } else { Offset::Offset(number) };
        list.add_partition_offset(&self.topic.name, 0, offset).map_err(|error| self.failed(&error))?;
        Ok(list)
    }

    /// The number of the last transaction that was committed; nothing if there was none.
    pub fn committed(&self) -> Result<Option<u64>> {
        let found = self.consumer.committed_offsets(self.mark(-1)?, PATIENCE).map_err(|error| self.failed(&error))?;
        let element = found.find_partition(&self.topic.name, 0);
        if let Some(Err(error)) = element.as_ref().map(|element| element.error()) {
            return Err(self.failed(&error));
        }
        Ok(match element.map(|element| element.offset()) {
            Some(Offset::Offset(number)) => u64::try_from(number).ok(),
            _ => None,
        })
    }

    /// Begins a transaction.
    pub fn begin(&self) -> Result<()> {
        self.producer.begin_transaction().map_err(|error| self.failed(&error))
    }

    /// Sends messages of the transaction, which nobody sees yet.
    pub fn send_all(&self, messages: &[Outgoing]) -> Result<()> {
        messages.iter().try_for_each(|message| self.send(message))
    }

    /// Waits until all that was sent has come.
    pub fn flush(&self) -> Result<()> {
        self.producer.flush(PATIENCE).map_err(|error| self.failed(&error))?;
        self.delivered()
    }

    /// Gives the transaction up, so that readers do not wait for its end.
    pub fn abort(&self) {
        // What waits to be sent is told as not delivered, and only to who polls: the abort waits for that.
        self.producer.purge(PurgeConfig::default().queue().inflight());
        let watch = Stopwatch::start();
        while self.producer.in_flight_count() > 0 && watch.elapsed() < ANSWER {
            self.producer.poll(Duration::from_millis(10));
        }
        // Brokers give up themselves what this did not reach.
        let _ = self.producer.abort_transaction(ANSWER);
    }

    /// A whole transaction up to its commit, with its number.
    pub fn stage(&self, number: u64, messages: &[Outgoing]) -> Result<()> {
        self.begin()?;
        self.send_all(messages)?;
        let mark = self.mark(i64::try_from(number).unwrap_or(i64::MAX))?;
        let marked = self.patiently(|| self.producer.send_offsets_to_transaction(&mark, &self.group, ANSWER));
        marked.map_err(|error| self.failed(&error))?;
        self.flush()
    }

    fn send(&self, message: &Outgoing) -> Result<()> {
        loop {
            let mut record = BaseRecord::<[u8], [u8]>::to(&self.topic.name);
            if let Some(key) = &message.key {
                record = record.key(key.as_slice());
            }
            if let Some(value) = &message.value {
                record = record.payload(value.as_slice());
            }
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    self.producer.poll(Duration::from_millis(100));
                    self.delivered()?;
                }
                Err((error, _)) => return Err(self.failed(&error)),
            }
        }
    }

    /// An error if a message could not be delivered.
    fn delivered(&self) -> Result<()> {
        match self.producer.context().undelivered() {
            Some(code) => Err(self.failed(&KafkaError::MessageProduction(code))),
            None => Ok(()),
        }
    }

    /// Shows the transaction.
    pub fn commit(&self) -> Result<()> {
        let done = self.patiently(|| self.producer.commit_transaction(ANSWER));
        done.map_err(|error| {
            self.failed(&error).note("whether it was committed is asked when the pipeline starts again")
        })
    }

    /// Repeats what may be repeated.
    fn patiently(&self, attempt: impl Fn() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
        let watch = Stopwatch::start();
        loop {
            match attempt() {
                Err(error) if is_retriable(&error) && watch.elapsed() < PATIENCE => {}
                done => return done,
            }
        }
    }
}

fn is_retriable(error: &KafkaError) -> bool {
    matches!(error, KafkaError::Transaction(error) if error.is_retriable())
}
