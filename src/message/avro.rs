//! Rows as records of Avro.
//!
//! Enters: rows of the columns of a topic. Leaves: a value for each: a zero, the number of the schema in the registry in
//! four bytes, and the record. Always holds: the schema is registered before the first value is written.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow_avro::schema::{AVRO_NAME_METADATA_KEY, AvroSchema, FingerprintStrategy};
use arrow_avro::writer::WriterBuilder;
use arrow_avro::writer::format::AvroSoeFormat;

use crate::database::{System, in_types, stored};
use crate::error::{Error, Result};
use crate::kafka::{Registry, RegistryOptions};

/// Writes records of one schema.
pub(super) struct Records {
    schema: SchemaRef,
    id: u32,
}

impl Records {
    /// Registers the schema of these columns for the values of a topic.
    pub(super) async fn register(topic: &str, columns: &SchemaRef, registry: &RegistryOptions) -> Result<Self> {
        let registry = Registry::of(registry)?.ok_or_else(|| {
            Error::sql("STORED AS AVRO wants a registry of schemas")
                .hint("OPTIONS ('schema_registry' 'http://host:8081')")
        })?;
        let schema = Self::schema(topic, columns)?;
        let text = AvroSchema::try_from(schema.as_ref())
            .map_err(|error| Error::sql(format!("the columns have no schema in Avro: {error}")))?;
        let id = registry.register(&format!("{topic}-value"), &text.json_string).await?;
        Ok(Self { schema, id })
    }

    /// The columns in types that Avro has.
    fn schema(topic: &str, columns: &SchemaRef) -> Result<SchemaRef> {
        let fits = |name: &str| {
            let mut chars = name.chars();
            chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
                && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        if let Some(field) = columns.fields().iter().find(|field| !fits(field.name())) {
            return Err(Error::sql(format!("{} is no name of a field in Avro", field.name()))
                .note("those have letters, digits and _, and begin with none of the digits")
                .hint(format!("name it: {} AS …", field.name())));
        }
        let name: String = topic.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let metadata = HashMap::from([(AVRO_NAME_METADATA_KEY.to_owned(), format!("r_{name}"))]);
        // Avro has the types that Delta has.
        let fields = stored(System::Delta, columns).fields().clone();
        Ok(Arc::new(Schema::new_with_metadata(fields, metadata)))
    }

    /// The value of each row.
    pub(super) fn values(&self, rows: &RecordBatch) -> Result<Vec<Vec<u8>>> {
        let failed = |error: &dyn std::fmt::Display| Error::query(format!("a row cannot be written in Avro: {error}"));
        let builder = WriterBuilder::new(self.schema.as_ref().clone());
        let builder = builder.with_fingerprint_strategy(FingerprintStrategy::Id(self.id));
        let mut encoder = builder.build_encoder::<AvroSoeFormat>().map_err(|error| failed(&error))?;
        encoder.encode(&in_types(&self.schema, rows)?).map_err(|error| failed(&error))?;
        Ok(encoder.flush().iter().map(|row| row.to_vec()).collect())
    }
}
