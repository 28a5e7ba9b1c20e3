//! The types of columns, between fuse and databases.
//!
//! Enters: columns of a query, and columns of a table in a database. Leaves: the few types that databases store, and
//! whether the two go together. Always holds: a value that its stored type does not hold is an error, and never
//! another value.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;

use super::{Address, Found, System};
use crate::change::with_columns;
use crate::error::{Error, Result, sql_type};
use crate::format::{carry, is_nested};

/// The type in which values of this one are stored.
fn stored_type(kind: &DataType) -> DataType {
    match kind {
        DataType::Dictionary(_, value) => stored_type(value),
        DataType::RunEndEncoded(_, values) => stored_type(values.data_type()),
        DataType::Int8 | DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 => DataType::Int64,
        DataType::UInt64 => DataType::Decimal128(20, 0),
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s) => {
            DataType::Decimal128(*p, *s)
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            DataType::Binary
        }
        DataType::Date32 | DataType::Date64 => DataType::Date32,
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Timestamp(_, None) => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Timestamp(_, Some(_)) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Boolean | DataType::Int16 | DataType::Int32 | DataType::Int64 => kind.clone(),
        DataType::Float32 | DataType::Float64 => kind.clone(),
        _ => DataType::Utf8,
    }
}

/// The type in which a Delta table stores values of this one. Types that Delta does not have, such as TIME, stay:
/// making the table tells of them.
pub(super) fn stored_in_lake(kind: &DataType) -> DataType {
    let inner =
        |field: &Arc<Field>| Arc::new(Field::new(field.name(), stored_in_lake(field.data_type()), field.is_nullable()));
    match kind {
        DataType::Dictionary(_, value) => stored_in_lake(value),
        DataType::RunEndEncoded(_, values) => stored_in_lake(values.data_type()),
        DataType::Int8 => kind.clone(),
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            DataType::List(inner(item))
        }
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        DataType::Map(entries, sorted) => DataType::Map(inner(entries), *sorted),
        DataType::Time32(_) | DataType::Time64(_) => kind.clone(),
        _ => match stored_type(kind) {
            DataType::Utf8 => kind.clone(),
            stored => stored,
        },
    }
}

/// The columns as a system stores them; a database stores nested values as JSON.
pub fn stored(system: System, columns: &Schema) -> SchemaRef {
    let kind = if system == System::Delta { stored_in_lake } else { stored_type };
    let field = |field: &Arc<Field>| Field::new(field.name(), kind(field.data_type()), field.is_nullable());
    Arc::new(Schema::new(columns.fields().iter().map(field).collect::<Vec<_>>()))
}

/// The rows in columns of these types; a value that does not fit is an error that names its column.
pub fn in_types(columns: &SchemaRef, rows: &RecordBatch) -> Result<RecordBatch> {
    let converted = rows.columns().iter().zip(columns.fields()).map(|(column, field)| {
        let named = |error: Error| Error { message: format!("{}: {}", field.name(), error.message), ..error };
        converted(column, field.data_type()).map_err(named)
    });
    with_columns(columns, converted.collect::<Result<_>>()?, rows.num_rows())
}

fn converted(column: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    if is_nested(column.data_type()) && *to == DataType::Utf8 {
        return carry(column, to);
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    Ok(cast_with_options(column, to, &options)?)
}

/// Types between which a database converts.
fn family(kind: &DataType) -> u8 {
    match stored_type(kind) {
        DataType::Int16 | DataType::Int32 | DataType::Int64 => 0,
        DataType::Float32 | DataType::Float64 => 1,
        DataType::Decimal128(..) => 2,
        DataType::Boolean => 3,
        DataType::Binary => 4,
        DataType::Date32 => 5,
        DataType::Time64(_) => 6,
        DataType::Timestamp(_, None) => 7,
        DataType::Timestamp(_, Some(_)) => 8,
        _ => 9,
    }
}

/// Refuses a table whose columns or key are not those that are declared.
pub fn expect_same(address: &Address, columns: &SchemaRef, key: &[usize], found: &Found) -> Result<()> {
    let table = address.table();
    let list = |schema: &SchemaRef| {
        let one = |field: &Arc<Field>| format!("{} {}", field.name(), sql_type(field.data_type()));
        schema.fields().iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let same = |field: &Arc<Field>| {
        let there = found.columns.field_with_name(field.name());
        there.is_ok_and(|there| match address.system() {
            System::Delta => stored_in_lake(there.data_type()).equals_datatype(&stored_in_lake(field.data_type())),
            _ => family(there.data_type()) == family(field.data_type()),
        })
    };
    if columns.fields().len() != found.columns.fields().len() || !columns.fields().iter().all(same) {
        return Err(Error::sql(format!("the table {table} is there already, with other columns"))
            .note(format!("declared: {}", list(columns)))
            .note(format!("there: {}", list(&found.columns)))
            .hint("leave the columns out to take those of the table, or name another table"));
    }
    let names = |schema: &SchemaRef, key: &[usize]| {
        let mut names: Vec<String> = key.iter().map(|at| schema.field(*at).name().clone()).collect();
        names.sort_unstable();
        names
    };
    let (declared, there) = (names(columns, key), names(&found.columns, &found.key));
    if address.system() == System::Delta && there.is_empty() {
        // One that others have made says nothing of a key.
        return Ok(());
    }
    if !declared.is_empty() && declared != there {
        return Err(Error::sql(format!("the table {table} is there already, with another key"))
            .note(format!("declared: ({}); there: ({})", declared.join(", "), there.join(", ")))
            .hint("declare the key that the table has, or name another table"));
    }
    Ok(())
}
