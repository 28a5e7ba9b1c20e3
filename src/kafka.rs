//! Topics of Kafka, and how a client reaches them.
//!
//! Enters: `kafka://host:9092/topic`, and OPTIONS that begin with `kafka.`. Leaves: a [`Topic`], and what a client is
//! configured with. Always holds: a secret is named by a reference (`env:NAME`, `file:PATH`), which is looked up when a
//! client is made; its value is in no plan, no state and no message.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

#[cfg(feature = "kafka")]
mod client;
#[cfg(feature = "kafka")]
mod registry;
#[cfg(feature = "kafka")]
mod writer;

#[cfg(feature = "kafka")]
pub use client::{ANSWER, Context, client_config, failed, may_pass};
#[cfg(feature = "kafka")]
pub use registry::{Registered, Registry, SchemaKind};
#[cfg(feature = "kafka")]
pub use writer::{Outgoing, Writer, make_topic};

/// A topic, and where its brokers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// `host:port`, several parted by commas.
    pub brokers: String,
    /// The topic itself.
    pub name: String,
}

/// What is given to clients beside the brokers, as it was written: references, and no secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientOptions(BTreeMap<String, String>);

/// What OPTIONS say of a schema registry, as they are written: references, and no secrets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryOptions {
    /// Where it is.
    pub url: Option<String>,
    /// Who asks.
    pub user: Option<String>,
    /// A reference to the password.
    pub password: Option<String>,
}

/// How values are written as bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Objects of JSON.
    #[default]
    Json,
    /// Records of Avro, behind the number of their schema in a registry.
    Avro,
}

/// What the messages of a topic that is written have as values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// Rows; with a key, a message without a value is a row that is gone.
    Rows,
    /// Rows, each with what it does and its epoch.
    Changelog,
    /// Envelopes of Debezium.
    Envelopes,
}

/// A topic that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicTarget {
    /// The topic.
    pub topic: Topic,
    /// What clients are given.
    pub client: ClientOptions,
    /// What messages say.
    pub values: Values,
    /// How values are written.
    pub encoding: Encoding,
    /// Where schemas are registered.
    pub registry: RegistryOptions,
    /// The columns that are the keys of messages.
    pub key: Vec<String>,
}

impl TopicTarget {
    /// Where it writes and how, in words: a state that was made for one is not used for another.
    pub fn describe(&self) -> String {
        let key = if self.key.is_empty() { String::new() } else { format!(" by {}", self.key.join(", ")) };
        let avro = if self.encoding == Encoding::Avro { " in avro" } else { "" };
        format!("topic {} as {:?}{key}{avro}", self.topic.name, self.values).to_lowercase()
    }
}

/// The start of a location.
const SCHEME: &str = "kafka://";

/// What fuse sets itself: its guarantees depend on them.
const OWN: [&str; 12] = [
    "bootstrap.servers",
    "metadata.broker.list",
    "group.id",
    "group.instance.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "auto.offset.reset",
    "isolation.level",
    "transactional.id",
    "enable.idempotence",
    "allow.auto.create.topics",
];

impl Topic {
    /// The topic that a location names; nothing if it is no location of Kafka's.
    pub fn parse(location: &str) -> Result<Option<Self>> {
        let Some(rest) = location.strip_prefix(SCHEME) else { return Ok(None) };
        let usage = |message: &str| Error::sql(message.to_owned()).hint("LOCATION 'kafka://host:9092/topic'");
        if rest.contains('@') {
            // It may be a password: it is not shown.
            return Err(usage("a location of Kafka has no user and no password in it")
                .note("OPTIONS ('kafka.sasl.username' 'env:USER', 'kafka.sasl.password' 'env:PASSWORD') name them"));
        }
        let (brokers, name) = rest.split_once('/').unwrap_or((rest, ""));
        let valid = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if brokers.is_empty() {
            return Err(usage(&format!("'{location}' names no broker")));
        }
        if name.is_empty() || name.len() > 249 || !name.chars().all(valid) || [".", ".."].contains(&name) {
            return Err(usage(&format!("'{location}' names no topic"))
                .note("the name of a topic has letters, digits, '.', '_' and '-'"));
        }
        let with_port = |broker: &str| match broker.rsplit_once(':') {
            Some((_, port)) if port.chars().all(|c| c.is_ascii_digit()) => broker.to_owned(),
            _ => format!("{broker}:9092"),
        };
        let brokers = brokers.split(',').map(str::trim).filter(|broker| !broker.is_empty()).map(with_port);
        Ok(Some(Self { brokers: brokers.collect::<Vec<_>>().join(","), name: name.to_owned() }))
    }
}

#[cfg(not(feature = "kafka"))]
impl Topic {
    /// The error of a program that was built without Kafka.
    pub fn not_built_in(&self) -> Error {
        Error::query(format!("this fuse was built without Kafka, and cannot reach the topic {}", self.name))
            .hint("cargo build --release has it; --no-default-features leaves it out")
    }
}

/// True for the name of an option whose value is a secret.
fn is_secret(name: &str) -> bool {
    ["password", "secret", "key.pem", "oauthbearer.config", "jaas"].iter().any(|part| name.contains(part))
}

impl ClientOptions {
    /// Takes `OPTIONS ('kafka.NAME' 'VALUE')`.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        if OWN.contains(&name) {
            return Err(Error::sql(format!("fuse sets kafka.{name} itself")).hint(
                "OPTIONS ('start' 'latest') says where reading begins, ('group' 'name') where offsets are shown",
            ));
        }
        if is_secret(name) && reference(value).is_none() {
            // The value is not shown: it may be the secret.
            return Err(Error::sql(format!("kafka.{name} is a secret, which does not stand in SQL"))
                .hint(format!("('kafka.{name}' 'env:NAME') or ('kafka.{name}' 'file:PATH') says where it is")));
        }
        self.0.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// True if nothing is given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What each option is, with references looked up. For a client alone.
    #[cfg(feature = "kafka")]
    fn resolved(&self) -> Result<Vec<(String, String)>> {
        self.0.iter().map(|(name, value)| Ok((name.clone(), resolve(&format!("kafka.{name}"), value)?))).collect()
    }
}

impl RegistryOptions {
    /// Takes `OPTIONS ('schema_registry' 'URL')` and what is beside it; false if an option is none of these.
    pub fn set(&mut self, name: &str, value: &str) -> Result<bool> {
        let text = Some(value.to_owned());
        match name {
            "schema_registry" => self.url = text,
            "schema_registry.user" => self.user = text,
            "schema_registry.password" if reference(value).is_none() => {
                // The value is not shown: it may be the secret.
                return Err(Error::sql("schema_registry.password is a secret, which does not stand in SQL")
                    .hint("('schema_registry.password' 'env:NAME') or 'file:PATH' says where it is"));
            }
            "schema_registry.password" => self.password = text,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// What a reference refers to, and where that is; nothing if a text is none.
fn reference(value: &str) -> Option<(&str, &str)> {
    value.split_once(':').filter(|(kind, _)| ["env", "file"].contains(kind))
}

#[cfg(feature = "kafka")]
fn resolve(option: &str, value: &str) -> Result<String> {
    match reference(value) {
        Some(("env", name)) => std::env::var(name).map_err(|_| {
            Error::query(format!("{option}: the environment has no {name}")).hint(format!("{name}=… fuse query …"))
        }),
        Some((_, path)) => {
            let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, &error))?;
            Ok(text.trim_end_matches(['\n', '\r']).to_owned())
        }
        None => Ok(value.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_name_brokers_and_a_topic() {
        let topic = |text: &str| Topic::parse(text);
        let found = topic("kafka://a,b:1/orders.v1").expect("a topic").expect("of Kafka");
        assert_eq!((found.brokers.as_str(), found.name.as_str()), ("a:9092,b:1", "orders.v1"));
        assert_eq!(topic("orders/").expect("a folder"), None);
        for wrong in ["kafka://a", "kafka://a/", "kafka:///t", "kafka://a/b/c", "kafka://a/t?x=1"] {
            assert!(topic(wrong).is_err(), "{wrong}");
        }
        let error = topic("kafka://me:canary@a/t").expect_err("a password");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }

    #[test]
    fn secrets_are_references() {
        let mut options = ClientOptions::default();
        let error = options.set("sasl.password", "canary").expect_err("a secret");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
        options.set("sasl.password", "env:PASSWORD").expect("a reference");
        options.set("sasl.username", "me").expect("no secret");
        assert!(options.set("isolation.level", "read_uncommitted").is_err());
    }
}
