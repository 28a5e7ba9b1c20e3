//! What clients of Kafka have in common.
//!
//! Enters: a [`Topic`] and options. Leaves: the configuration of a client; errors in words. Always holds: a value of an
//! option is in no error, since it may be a secret.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;

use super::{ClientOptions, Topic};
use crate::error::{Error, Result};

/// How long a broker may take to answer.
pub const ANSWER: Duration = Duration::from_secs(15);

/// Hears what a client has to say.
#[derive(Debug, Default)]
pub struct Context {
    /// What went wrong last, for messages.
    last: Mutex<Option<String>>,
    /// A message that could not be written.
    undelivered: Mutex<Option<RDKafkaErrorCode>>,
}

impl Context {
    /// What went wrong last.
    pub fn last(&self) -> Option<String> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why a message could not be written, if one could not be since the last call.
    pub fn undelivered(&self) -> Option<RDKafkaErrorCode> {
        self.undelivered.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, _facility: &str, message: &str) {
        tracing::debug!(target: "kafka", "{message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "kafka", "{reason}");
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // That no broker is left says less than why the last one went.
        if last.is_none() || error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *last = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for Context {}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, delivered: &DeliveryResult<'_>, _: ()) {
        if let Err((error, _)) = delivered {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
            self.undelivered.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(code);
        }
    }
}

/// What every client of a topic is configured with.
pub fn client_config(topic: &Topic, options: &ClientOptions) -> Result<ClientConfig> {
    let mut config = ClientConfig::new();
    for (name, value) in options.resolved()? {
        config.set(name, value);
    }
    config.set("bootstrap.servers", &topic.brokers);
    config.set("client.id", config.get("client.id").unwrap_or("fuse").to_owned());
    // One that is restarted is found again soon.
    config.set("reconnect.backoff.max.ms", config.get("reconnect.backoff.max.ms").unwrap_or("1000").to_owned());
    // Some brokers answer with more than was asked for.
    config.set("receive.message.max.bytes", config.get("receive.message.max.bytes").unwrap_or("1000000000").to_owned());
    Ok(config)
}

/// An error of a client, in words: what was to be done with a topic, and why it could not be.
pub fn failed(topic: &Topic, what: &str, error: &KafkaError, context: Option<&Context>) -> Error {
    if let KafkaError::ClientConfig(_, _, name, _) = error {
        return Error::sql(format!("the option kafka.{name} cannot be so"))
            .hint("librdkafka's CONFIGURATION.md tells the options and their values");
    }
    let code = error.rdkafka_error_code();
    let why = match code {
        Some(code) => code.to_string(),
        None => error.to_string(),
    };
    let mut told = Error::query(format!("cannot {what} the topic {} at {}: {why}", topic.name, topic.brokers));
    if let Some(last) = context.and_then(Context::last) {
        told = told.note(last);
    }
    match code {
        Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => {
            told.hint("make the topic first, or mend its name in LOCATION")
        }
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::OperationTimedOut,
        ) => told.hint(
            "is a broker there, and is it meant to speak TLS or SASL? OPTIONS ('kafka.security.protocol' …) says so",
        ),
        _ => told,
    }
}

/// False for an error that time does not mend.
pub fn may_pass(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::*;
    !matches!(
        code,
        Authentication
            | SaslAuthenticationFailed
            | TopicAuthorizationFailed
            | GroupAuthorizationFailed
            | ClusterAuthorizationFailed
            | TransactionalIdAuthorizationFailed
            | NotImplemented
            | UnsupportedFeature
            | UnsupportedVersion
            | UnsupportedSASLMechanism
            | BadMessage
            | InvalidMessage
            | BadCompression
    )
}
