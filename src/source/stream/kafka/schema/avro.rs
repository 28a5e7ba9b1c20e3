//! Records of Avro, as objects of JSON.
//!
//! Enters: a schema of Avro, with those that it refers to, and records without a head. Leaves: a line of JSON for each.
//! Always holds: a record is read whole, and nothing behind it.

use arrow::datatypes::SchemaRef;
use arrow_avro::reader::{Decoder, ReaderBuilder};
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::format::json_objects;

/// Records that are decoded at once.
const ROWS: usize = 1024;
/// The number under which the decoder knows the schema.
const NUMBER: u32 = 1;
/// The one member of what a schema that is no record becomes.
const ALONE: &str = "value";

/// Reads records of one schema.
#[derive(Debug)]
pub(super) struct Record {
    schema: String,
    /// The schema is no record: its value is what `ALONE` has.
    alone: bool,
}

impl Record {
    pub(super) fn new(text: &str, references: &[(String, String)]) -> Result<Self> {
        let parsed = |text: &str| {
            serde_json::from_str::<Value>(text)
                .or_else(|_| serde_json::from_value(Value::String(text.trim().to_owned())))
                .map_err(|error| Error::query(format!("a schema of Avro is JSON: {error}")))
        };
        let mut schema = parsed(text)?;
        let mut definitions = Vec::new();
        for (_, text) in references {
            let definition = parsed(text)?;
            definitions.push((full_name(&definition), Some(definition)));
        }
        inline(&mut schema, &mut definitions);
        let alone = schema.get("type").and_then(Value::as_str) != Some("record");
        if alone {
            schema = json!({ "type": "record", "name": "alone", "fields": [{ "name": ALONE, "type": schema }] });
        }
        let this = Self { schema: schema.to_string(), alone };
        this.decoder(1)?;
        Ok(this)
    }

    fn decoder(&self, rows: usize) -> Result<Decoder> {
        let mut store = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
        store.set(Fingerprint::Id(NUMBER), AvroSchema::new(self.schema.clone()))?;
        let builder = ReaderBuilder::new().with_writer_schema_store(store).with_batch_size(rows);
        let decoder = builder.with_active_fingerprint(Fingerprint::Id(NUMBER)).build_decoder();
        decoder.map_err(|error| Error::query(format!("a schema of Avro that cannot be read: {error}")))
    }

    pub(super) fn columns(&self) -> Result<SchemaRef> {
        if self.alone {
            return Err(Error::sql("the schema of the values is no record, and has no columns"));
        }
        Ok(self.decoder(1)?.schema())
    }

    /// A line for each record, or why there is none.
    pub(super) fn lines(&self, bodies: &[&[u8]]) -> Vec<Result<Vec<u8>, String>> {
        let mut lines = Vec::with_capacity(bodies.len());
        for some in bodies.chunks(ROWS) {
            match self.decoded(some) {
                Ok(all) => lines.extend(all.into_iter().map(Ok)),
                Err(reason) if some.len() == 1 => lines.push(Err(reason)),
                // Which one it is, is not known of them together.
                Err(_) => lines.extend(some.iter().map(|one| {
                    let line = self.decoded(&[one])?;
                    line.into_iter().next().ok_or_else(|| "it has no record".to_owned())
                })),
            }
        }
        lines
    }

    fn decoded(&self, bodies: &[&[u8]]) -> Result<Vec<Vec<u8>>, String> {
        let mut decoder = self.decoder(bodies.len()).map_err(|error| error.message)?;
        let mut framed = Vec::new();
        for body in bodies {
            framed.clear();
            framed.push(0);
            framed.extend_from_slice(&NUMBER.to_be_bytes());
            framed.extend_from_slice(body);
            let read = decoder.decode(&framed).map_err(|error| error.to_string())?;
            if read != framed.len() {
                return Err(match decoder.batch_is_full() {
                    true => "bytes stand behind the record".to_owned(),
                    false => "the record ends in the middle".to_owned(),
                });
            }
        }
        let batch = decoder.flush().map_err(|error| error.to_string())?;
        let batch = batch.filter(|batch| batch.num_rows() == bodies.len());
        let batch = batch.ok_or_else(|| "the record ends in the middle".to_owned())?;
        let mut lines = json_objects(&batch).map_err(|error| error.message)?;
        if self.alone {
            for line in &mut lines {
                let object: Value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
                *line = object[ALONE].to_string().into_bytes();
            }
        }
        Ok(lines)
    }
}

/// The name of a definition, with its namespace.
fn full_name(schema: &Value) -> String {
    let part = |name: &str| schema.get(name).and_then(Value::as_str).unwrap_or_default();
    match part("namespace") {
        "" => part("name").to_owned(),
        namespace if !part("name").contains('.') => format!("{namespace}.{}", part("name")),
        _ => part("name").to_owned(),
    }
}

/// Puts definitions where they are first named; Avro knows them by name from there on.
fn inline(schema: &mut Value, definitions: &mut [(String, Option<Value>)]) {
    match schema {
        Value::String(name) => {
            let found = definitions.iter_mut().find(|(known, left)| known == name && left.is_some());
            if let Some(mut definition) = found.and_then(|(_, left)| left.take()) {
                inline(&mut definition, definitions);
                *schema = definition;
            }
        }
        Value::Array(all) => all.iter_mut().for_each(|one| inline(one, definitions)),
        Value::Object(members) => {
            for name in ["type", "items", "values"] {
                if let Some(member) = members.get_mut(name) {
                    inline(member, definitions);
                }
            }
            if let Some(Value::Array(fields)) = members.get_mut("fields") {
                fields.iter_mut().for_each(|field| inline(field, definitions));
            }
        }
        _ => {}
    }
}
