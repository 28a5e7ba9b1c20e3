//! The columns of a set of files.
//!
//! Enters: files of one format. Leaves: their columns, matched by name and widened where files differ,
//! and the hive partition columns in their paths. Always holds: a column that two files cannot agree on
//! is an error that names both files; nothing is matched by position between files whose headers differ.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::Session;
use datafusion::datasource::file_format::FileFormat;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::{ObjectMeta, ObjectStore};

use super::Location;
use super::file_format::fuse_format;
use crate::config::NULL_FOLDER;
use crate::error::{Error, Result};
use crate::format::csv::Dialect;

/// Files that share their columns.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) schema: SchemaRef,
    /// How they are written, if they are CSV files.
    pub(super) dialect: Option<Dialect>,
    pub(super) files: Vec<ObjectMeta>,
    /// What the folders of all these files say, where the groups differ in it.
    pub(super) folders: Vec<(String, String)>,
}

/// The columns of each file, and its dialect if it is a CSV file.
pub(super) async fn schemas(
    state: &dyn Session,
    store: &Arc<dyn ObjectStore>,
    format: &Arc<dyn FileFormat>,
    files: &[ObjectMeta],
) -> Result<Vec<(SchemaRef, Option<Dialect>)>> {
    let one = |file: ObjectMeta| async move {
        let look = async {
            match fuse_format(format.as_ref()) {
                Some(format) if format.csv().is_some() => {
                    let sniffed = format.sniff(store.as_ref(), &file).await?;
                    Ok((sniffed.schema, Some(sniffed.dialect)))
                }
                _ => Ok((format.infer_schema(state, store, std::slice::from_ref(&file)).await?, None)),
            }
        };
        // Decoders of damaged files may panic.
        match AssertUnwindSafe(look).catch_unwind().await {
            Ok(schema) => schema.map_err(|e: Error| unreadable(&file, e)),
            Err(_) => Err(Error::query(format!("cannot read {}: the file is damaged", display(&file)))),
        }
    };
    stream::iter(files.iter().cloned()).map(one).buffered(16).try_collect().await
}

fn unreadable(file: &ObjectMeta, mut error: Error) -> Error {
    let name = display(file);
    let formats = [
        ("at least 8 bytes long", "Parquet"),
        ("Corrupt footer", "Parquet"),
        ("Failed to parse Arrow file", "Arrow"),
        ("Incorrect avro magic", "Avro"),
    ];
    if let Some((_, format)) = formats.iter().find(|(words, _)| error.message.contains(words)) {
        let article = if *format == "Parquet" { "a" } else { "an" };
        return Error::query(format!("{name} is not {article} {format} file, or its end is missing"));
    }
    if !error.message.contains(&name) {
        error.message = format!("cannot read {name}: {}", error.message);
    }
    error.kind = crate::error::Kind::Query;
    error
}

/// A file's path as errors print it: relative to the working folder where it lies below it.
pub(super) fn display(file: &ObjectMeta) -> String {
    display_path(file.location.as_ref())
}

/// The same of its path in the store.
pub(super) fn display_path(path: &str) -> String {
    let path = format!("/{path}");
    match std::env::current_dir()
        .ok()
        .and_then(|cwd| path.strip_prefix(&format!("{}/", cwd.display())).map(str::to_owned))
    {
        Some(relative) => relative,
        None => path,
    }
}

/// The columns of all files together, by name; a file lacks a column: NULL.
pub(super) fn union(files: &[ObjectMeta], schemas: &[SchemaRef], textual: bool) -> Result<SchemaRef> {
    let mut fields: Vec<(Field, usize)> = Vec::new();
    let mut position: HashMap<String, usize> = HashMap::new();
    for (at, schema) in schemas.iter().enumerate() {
        for field in schema.fields() {
            let Some(&known) = position.get(field.name()) else {
                position.insert(field.name().clone(), fields.len());
                fields.push((field.as_ref().clone().with_nullable(true), at));
                continue;
            };
            let (first, origin) = &mut fields[known];
            let Some(wider) = widen(first.data_type(), field.data_type(), textual) else {
                return Err(Error::query(format!(
                    "column {} is {} in {} but {} in {}",
                    field.name(),
                    first.data_type(),
                    display(&files[*origin]),
                    field.data_type(),
                    display(&files[at]),
                ))
                .hint("read the files as two tables and CAST the column in one of them, or name it in CREATE EXTERNAL TABLE"));
            };
            *first = first.clone().with_data_type(wider);
        }
    }
    Ok(Arc::new(Schema::new(fields.into_iter().map(|(field, _)| field).collect::<Vec<_>>())))
}

/// Files by their header, those whose columns have the same names in the same order, and their dialect; if
/// `by_folder`, by what their partition folders say; if `by_name`, each by itself, as a folder `filename=…` would.
pub(super) fn groups(
    location: &Location,
    files: Vec<ObjectMeta>,
    schemas: Vec<SchemaRef>,
    dialects: Vec<Option<Dialect>>,
    by_folder: bool,
    by_name: bool,
) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for ((file, schema), dialect) in files.into_iter().zip(schemas).zip(dialects) {
        let mut folders = if by_folder { folder_pairs(location, &file) } else { Vec::new() };
        if by_name {
            folders.push(("filename".to_owned(), display(&file)));
        }
        let names = |schema: &SchemaRef| schema.fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>();
        let same = |group: &Group| {
            group.folders == folders && group.dialect == dialect && names(&group.schema) == names(&schema)
        };
        match groups.iter_mut().find(|group| same(group)) {
            Some(group) => group.files.push(file),
            None => groups.push(Group { schema, dialect, files: vec![file], folders }),
        }
    }
    groups
}

/// The `key=value` folders between a location and a file.
fn folder_pairs(location: &Location, file: &ObjectMeta) -> Vec<(String, String)> {
    let parts: Vec<&str> = location.url.strip_prefix(&file.location).map(Iterator::collect).unwrap_or_default();
    let folders = &parts[..parts.len().saturating_sub(1)];
    folders
        .iter()
        .filter_map(|part| part.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// The type that holds the values of both; in a text format, text holds all.
pub(super) fn widen(a: &DataType, b: &DataType, textual: bool) -> Option<DataType> {
    use DataType::*;
    if a == b {
        return Some(a.clone());
    }
    let text = |t: &DataType| matches!(t, Utf8 | LargeUtf8 | Utf8View);
    match (a, b) {
        (Null, other) | (other, Null) => Some(other.clone()),
        (Decimal128(38, 0), other) | (other, Decimal128(38, 0)) if other.is_integer() => Some(Decimal128(38, 0)),
        _ if a.is_integer() && b.is_integer() => Some(wider_integer(a, b)),
        _ if a.is_numeric() && b.is_numeric() && (a.is_floating() || b.is_floating()) => Some(Float64),
        (Date32, Timestamp(unit, zone)) | (Timestamp(unit, zone), Date32) => Some(Timestamp(*unit, zone.clone())),
        (Timestamp(_, zone), Timestamp(_, other)) if zone == other => {
            Some(Timestamp(TimeUnit::Nanosecond, zone.clone()))
        }
        (Struct(left), Struct(right)) => widen_struct(left, right, textual),
        (List(left), List(right)) => {
            let item = widen(left.data_type(), right.data_type(), textual)?;
            Some(List(Arc::new(left.as_ref().clone().with_data_type(item).with_nullable(true))))
        }
        _ if text(a) && text(b) => Some(Utf8View),
        _ if textual && !a.is_nested() && !b.is_nested() => Some(Utf8),
        _ => None,
    }
}

fn wider_integer(a: &DataType, b: &DataType) -> DataType {
    let wider = if a.primitive_width() >= b.primitive_width() { a } else { b };
    if a.is_signed_integer() == b.is_signed_integer() { wider.clone() } else { DataType::Int64 }
}

fn widen_struct(left: &arrow::datatypes::Fields, right: &arrow::datatypes::Fields, textual: bool) -> Option<DataType> {
    let mut fields: Vec<Field> = left.iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
    for field in right {
        match fields.iter_mut().find(|known| known.name() == field.name()) {
            Some(known) => {
                let wider = widen(known.data_type(), field.data_type(), textual)?;
                *known = known.clone().with_data_type(wider);
            }
            None => fields.push(field.as_ref().clone().with_nullable(true)),
        }
    }
    Some(DataType::Struct(fields.into()))
}

/// The hive partition columns in the paths below a location: `year=2024/month=01/x.parquet`.
pub(super) fn partitions(location: &Location, files: &[ObjectMeta]) -> Result<Vec<(String, DataType)>> {
    let mut columns: Option<Vec<(String, DataType)>> = None;
    for file in files {
        let pairs = folder_pairs(location, file);
        match &mut columns {
            None => columns = Some(pairs.into_iter().map(|(key, value)| (key, value_type(&value))).collect()),
            Some(known) => {
                if known.len() != pairs.len() || known.iter().zip(&pairs).any(|((name, _), (key, _))| name != key) {
                    let first = files.first().map(display).unwrap_or_default();
                    return Err(Error::query(format!("the partition folders of {first} and {} differ", display(file)))
                        .hint("files of one table lie below the same key=value folders"));
                }
                for ((_, known), (_, value)) in known.iter_mut().zip(&pairs) {
                    *known = match (&*known, value_type(value)) {
                        (DataType::Null, other) => other,
                        (known, other) if other == DataType::Null || *known == other => known.clone(),
                        _ => DataType::Utf8,
                    };
                }
            }
        }
    }
    let mut columns = columns.unwrap_or_default();
    for (_, kind) in columns.iter_mut().filter(|(_, kind)| *kind == DataType::Null) {
        *kind = DataType::Utf8;
    }
    Ok(columns)
}

/// True if a partition column is NULL for some file. DataFusion would take the folder's name for the value.
pub(super) fn has_null_folder(location: &Location, files: &[ObjectMeta]) -> bool {
    files.iter().any(|file| folder_pairs(location, file).iter().any(|(_, value)| value == NULL_FOLDER))
}

/// Whole numbers and dates are typed; `01` is a number, since months are written so; all else is text.
fn value_type(value: &str) -> DataType {
    if value == NULL_FOLDER {
        DataType::Null
    } else if value.parse::<i64>().is_ok() && !value.starts_with('+') {
        DataType::Int64
    } else if value.len() == 10 && chrono::NaiveDate::parse_from_str(value, "%Y-%m-%d").is_ok() {
        DataType::Date32
    } else {
        DataType::Utf8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_widen_without_loss_or_not_at_all() {
        use DataType::*;
        assert_eq!(widen(&Int32, &Int64, false), Some(Int64));
        assert_eq!(widen(&Int64, &Float64, false), Some(Float64));
        assert_eq!(widen(&Null, &Utf8, false), Some(Utf8));
        assert_eq!(widen(&Int64, &Utf8, false), None);
        assert_eq!(widen(&Int64, &Utf8, true), Some(Utf8));
    }

    #[test]
    fn partition_values_are_typed() {
        assert_eq!(value_type("2024"), DataType::Int64);
        assert_eq!(value_type("2024-01-31"), DataType::Date32);
        assert_eq!(value_type("2024-01"), DataType::Utf8);
        assert_eq!(value_type("-9223372036854775808"), DataType::Int64);
        assert_eq!(value_type(NULL_FOLDER), DataType::Null);
    }
}
