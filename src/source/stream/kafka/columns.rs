//! Columns of what a message has beside its value.
//!
//! Enters: the columns of a table. Leaves: which of them are of the message itself. Always holds: what begins with
//! `kafka_` is one of these, or an error.

use arrow::datatypes::{DataType, Field, Schema};

use crate::error::{Error, Result, near_name, sql_type};

/// What a message has beside its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beside {
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
    Headers,
}

const PREFIX: &str = "kafka_";
const NAMES: [(&str, Beside); 6] = [
    ("kafka_topic", Beside::Topic),
    ("kafka_partition", Beside::Partition),
    ("kafka_offset", Beside::Offset),
    ("kafka_timestamp", Beside::Timestamp),
    ("kafka_key", Beside::Key),
    ("kafka_headers", Beside::Headers),
];

/// What a column is of the message itself; nothing if it is of the value.
pub(super) fn beside(field: &Field) -> Option<Beside> {
    NAMES.into_iter().find(|(name, _)| name == field.name()).map(|(_, what)| what)
}

/// Refuses columns of a message that there are not, and types that they do not have.
pub(in super::super) fn check(columns: &Schema) -> Result<()> {
    for field in columns.fields().iter().filter(|field| field.name().starts_with(PREFIX)) {
        let name = field.name();
        let Some(what) = beside(field) else {
            let names = NAMES.map(|(name, _)| name);
            return Err(match near_name(name, names) {
                Some(near) => Error::sql(format!("a message has no {name}")).hint(format!("did you mean {near}?")),
                None => Error::sql(format!("a message has no {name}")).hint(format!("it has {}", names.join(", "))),
            }
            .mark(name.clone()));
        };
        let text = matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        let bytes = matches!(field.data_type(), DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
        let (fits, kind) = match what {
            Beside::Topic | Beside::Headers => (text, "VARCHAR"),
            Beside::Key => (text || bytes, "VARCHAR or BYTEA"),
            Beside::Partition => (matches!(field.data_type(), DataType::Int32 | DataType::Int64), "INT"),
            Beside::Offset => (*field.data_type() == DataType::Int64, "BIGINT"),
            Beside::Timestamp => (matches!(field.data_type(), DataType::Timestamp(..)), "TIMESTAMP"),
        };
        if !fits {
            return Err(Error::sql(format!("{name} is {kind}, not {}", sql_type(field.data_type()))).mark(name.clone()));
        }
    }
    Ok(())
}
