//! Values in Avro and Protobuf, as objects of JSON.
//!
//! Enters: the bytes of messages, and a schema: of a registry, whose number stands before each value, or of a file.
//! Leaves: a line of JSON for each, which the decoders of JSON read as any other. Always holds: a message that its
//! schema does not read is told alone; what a registry does not answer is an error, and no bad message.

mod avro;
mod protobuf;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use tokio::sync::Mutex;

use super::super::options::KafkaOptions;
use super::super::table::Coding;
use crate::error::{Error, Result};
use crate::kafka::{Registered, Registry, SchemaKind};

/// What stands before a value whose schema is in a registry: a zero, and the schema's number in four bytes.
const HEAD: usize = 5;

/// Reads values of one topic.
#[derive(Debug)]
pub(super) struct Schemas {
    registry: Option<Registry>,
    /// The schema of all values, where it is of a file.
    file: Option<Arc<Language>>,
    known: Mutex<HashMap<u32, Arc<Language>>>,
}

/// A schema, at work.
#[derive(Debug)]
enum Language {
    Avro(avro::Record),
    Protobuf(protobuf::Messages),
    Json,
}

impl Language {
    fn of(schema: &Registered) -> Result<Self> {
        Ok(match schema.kind {
            SchemaKind::Avro => Language::Avro(avro::Record::new(&schema.text, &schema.references)?),
            SchemaKind::Protobuf => Language::Protobuf(protobuf::Messages::new(&schema.text, &schema.references)?),
            SchemaKind::Json => Language::Json,
        })
    }

    /// A line for each body, or why there is none.
    fn lines(&self, bodies: &[&[u8]], framed: bool) -> Vec<Result<Vec<u8>, String>> {
        match self {
            Language::Avro(record) => record.lines(bodies),
            Language::Protobuf(messages) => bodies.iter().map(|body| messages.line(body, framed)).collect(),
            Language::Json => bodies.iter().map(|body| Ok(body.to_vec())).collect(),
        }
    }

    fn columns(&self) -> Result<SchemaRef> {
        match self {
            Language::Avro(record) => record.columns(),
            Language::Protobuf(messages) => messages.columns(),
            Language::Json => Err(Error::sql("columns are not taken from a schema of JSON").hint("declare them")),
        }
    }
}

impl Schemas {
    /// Those of a topic; nothing if its values are text.
    pub(super) fn of(coding: Coding, options: &KafkaOptions) -> Result<Option<Self>> {
        let registry = Registry::of(&options.registry)?;
        let text = |path: &String| std::fs::read_to_string(path).map_err(|error| Error::io(path, &error));
        let file = options.schema_file.as_ref().map(text).transpose()?;
        let file = match (coding, &registry, file) {
            (Coding::Plain, None, _) => return Ok(None),
            (_, Some(_), None) => None,
            (Coding::Avro, None, Some(text)) => Some(Language::Avro(avro::Record::new(&text, &[])?)),
            (Coding::Protobuf, None, Some(text)) => {
                let messages = protobuf::Messages::new(&text, &[])?;
                Some(Language::Protobuf(messages.named(options.message.as_deref())?))
            }
            (Coding::Plain, Some(_), Some(_)) | (_, Some(_), Some(_)) => {
                return Err(Error::sql("schema_registry and schema_file both say what values are: leave one out"));
            }
            (_, None, None) => {
                return Err(Error::sql("what are the values? Avro and Protobuf cannot be read without a schema").hint(
                    "OPTIONS ('schema_registry' 'http://host:8081'), or ('schema_file' 'order.avsc') for values without a schema's number",
                ));
            }
        };
        Ok(Some(Self { registry, file: file.map(Arc::new), known: Mutex::default() }))
    }

    /// The columns of the newest schema of a topic's values. All may be NULL: values of other schemas may lack them.
    pub(super) async fn columns(&self, topic: &str) -> Result<SchemaRef> {
        let columns = self.newest(topic).await?;
        let fields = columns.fields().iter().map(|field| Field::new(field.name(), field.data_type().clone(), true));
        Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())))
    }

    async fn newest(&self, topic: &str) -> Result<SchemaRef> {
        if let Some(file) = &self.file {
            return file.columns();
        }
        let subject = format!("{topic}-value");
        let Some(registry) = &self.registry else { return Err(Error::sql("no schema")) };
        let latest = registry.latest(&subject).await?;
        let (_, schema) =
            latest.ok_or_else(|| Error::query(format!("the schema registry has no subject {subject}")))?;
        Language::of(&schema)?.columns()
    }

    async fn language(&self, registry: &Registry, id: u32) -> Result<Option<Arc<Language>>> {
        let mut known = self.known.lock().await;
        if let Some(language) = known.get(&id) {
            return Ok(Some(Arc::clone(language)));
        }
        let Some(schema) = registry.by_id(id).await? else { return Ok(None) };
        let language = Language::of(&schema).map_err(|error| error.note(format!("of the schema {id}")))?;
        Ok(Some(Arc::clone(known.entry(id).or_insert(Arc::new(language)))))
    }

    /// True if a key has the number of a schema before it.
    pub(super) fn heads(&self, key: &[u8]) -> bool {
        self.registry.is_some() && number(key).is_some()
    }

    /// A line of JSON for each value, or why there is none.
    pub(super) async fn lines(&self, values: &[&[u8]]) -> Result<Vec<Result<Vec<u8>, String>>> {
        if let Some(file) = &self.file {
            return Ok(file.lines(values, false));
        }
        let Some(registry) = &self.registry else { return Ok(Vec::new()) };
        let mut lines = Vec::with_capacity(values.len());
        let mut at = 0;
        while at < values.len() {
            let Some(id) = number(values[at]) else {
                lines.push(Err("the number of its schema does not stand before it".to_owned()));
                at += 1;
                continue;
            };
            let run = values[at..].iter().take_while(|value| number(value) == Some(id)).count();
            let bodies: Vec<&[u8]> = values[at..at + run].iter().map(|value| &value[HEAD..]).collect();
            match self.language(registry, id).await? {
                Some(language) => lines.extend(language.lines(&bodies, true)),
                None => lines.extend(bodies.iter().map(|_| Err(format!("the schema registry has no schema {id}")))),
            }
            at += run;
        }
        Ok(lines)
    }
}

/// The number of the schema of a value.
fn number(value: &[u8]) -> Option<u32> {
    match value {
        [0, a, b, c, d, ..] => Some(u32::from_be_bytes([*a, *b, *c, *d])),
        _ => None,
    }
}
