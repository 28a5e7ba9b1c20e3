//! Values as Postgres writes them.
//!
//! Enters: batches, or the text of COPY and of logical replication. Leaves: the text of COPY, or batches. Always
//! holds: a value that its column's type cannot hold is an error that names the column.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder, RecordBatch, StringArray, StringBuilder};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, SchemaRef};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::change::with_columns;
use crate::error::{Error, Result, clip, sql_type};
use crate::format::texts;

/// Rows of a batch.
const BATCH_ROWS: usize = 8192;

/// A value of logical replication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// NULL.
    Null,
    /// A large value that has not changed, and is not told.
    Unchanged,
    /// Its text.
    Value(String),
}

/// Rows as the text of COPY, in pieces of about so many bytes.
pub(super) fn copy_text(rows: &RecordBatch, piece: usize) -> Result<Vec<Vec<u8>>> {
    let columns = rows.columns().iter().map(column_text).collect::<Result<Vec<_>>>()?;
    let mut pieces = Vec::new();
    let mut text = Vec::new();
    for row in 0..rows.num_rows() {
        for (at, values) in columns.iter().enumerate() {
            if at > 0 {
                text.push(b'\t');
            }
            match values.is_null(row) {
                true => text.extend_from_slice(b"\\N"),
                false => escape(values.value(row), &mut text),
            }
        }
        text.push(b'\n');
        if text.len() >= piece {
            pieces.push(std::mem::take(&mut text));
        }
    }
    if !text.is_empty() {
        pieces.push(text);
    }
    Ok(pieces)
}

fn column_text(column: &ArrayRef) -> Result<StringArray> {
    Ok(match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().clone(),
        DataType::Binary => {
            let hex = |bytes: &[u8]| bytes.iter().fold("\\x".to_owned(), |text, byte| format!("{text}{byte:02x}"));
            column.as_binary::<i32>().iter().map(|bytes| bytes.map(hex)).collect()
        }
        _ => {
            let texts = texts(column, "")?;
            (0..column.len()).map(|row| column.is_valid(row).then(|| texts.value(row))).collect()
        }
    })
}

fn escape(value: &str, text: &mut Vec<u8>) {
    for byte in value.bytes() {
        match byte {
            b'\\' => text.extend_from_slice(b"\\\\"),
            b'\n' => text.extend_from_slice(b"\\n"),
            b'\r' => text.extend_from_slice(b"\\r"),
            b'\t' => text.extend_from_slice(b"\\t"),
            _ => text.push(byte),
        }
    }
}

/// The value of a field of COPY; nothing: NULL.
fn unescape(field: &[u8]) -> Result<Option<String>> {
    if field == b"\\N" {
        return Ok(None);
    }
    let mut value = Vec::with_capacity(field.len());
    let mut bytes = field.iter().copied();
    while let Some(byte) = bytes.next() {
        value.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'v') => 11,
                Some(other) => other,
                None => b'\\',
            },
            byte => byte,
        });
    }
    String::from_utf8(value).map(Some).map_err(|_| Error::query("a text of the server is not UTF-8"))
}

/// Columns that are built of texts.
pub struct TextColumns {
    columns: SchemaRef,
    builders: Vec<StringBuilder>,
    rows: usize,
}

impl TextColumns {
    /// Of these types.
    pub fn new(columns: SchemaRef) -> Self {
        let builders = columns.fields().iter().map(|_| StringBuilder::new()).collect();
        Self { columns, builders, rows: 0 }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Adds a row.
    pub fn push<'a>(&mut self, values: impl Iterator<Item = Option<&'a str>>) {
        self.builders.iter_mut().zip(values).for_each(|(builder, value)| builder.append_option(value));
        self.rows += 1;
    }

    /// The rows.
    pub fn finish(mut self) -> Result<RecordBatch> {
        let arrays = self.builders.iter_mut().zip(self.columns.fields());
        let arrays = arrays.map(|(builder, field)| typed(builder.finish(), field)).collect::<Result<Vec<_>>>()?;
        with_columns(&self.columns, arrays, self.rows)
    }
}

fn typed(texts: StringArray, field: &Field) -> Result<ArrayRef> {
    let wrong = |text: &str, why: &str| {
        Error::query(format!("column {}: '{}' is no {}{why}", field.name(), clip(text), sql_type(field.data_type())))
            .hint(format!("CREATE … ({} VARCHAR, …) reads it as text", field.name()))
    };
    match field.data_type() {
        DataType::Utf8 => return Ok(Arc::new(texts)),
        DataType::Binary => {
            let mut bytes = BinaryBuilder::new();
            for text in &texts {
                match text.map(|text| hex(text).ok_or_else(|| wrong(text, ""))).transpose()? {
                    Some(value) => bytes.append_value(value),
                    None => bytes.append_null(),
                }
            }
            return Ok(Arc::new(bytes.finish()));
        }
        DataType::Decimal128(_, scale) => {
            let digits = |text: &str| text.split_once('.').map_or(0, |(_, rest)| rest.trim_end_matches('0').len());
            let places = usize::try_from(*scale).unwrap_or(0);
            if let Some(text) = texts.iter().flatten().find(|text| digits(text) > places) {
                return Err(wrong(text, ": it has more digits behind the point"));
            }
        }
        _ => {}
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let array: ArrayRef = Arc::new(texts);
    if let Ok(typed) = cast_with_options(&array, field.data_type(), &options) {
        return Ok(typed);
    }
    let one = |row: &usize| cast_with_options(&array.slice(*row, 1), field.data_type(), &options).is_err();
    let bad = (0..array.len()).find(one).map_or("", |row| array.as_string::<i32>().value(row));
    Err(wrong(bad, ""))
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(pair).collect()
}

/// Batches of the text of COPY.
pub(super) fn batches(
    columns: SchemaRef,
    bytes: BoxStream<'static, Result<Bytes>>,
) -> BoxStream<'static, Result<RecordBatch>> {
    let state = (bytes, Vec::<u8>::new(), false);
    let next = move |(mut bytes, mut rest, mut ended): (BoxStream<'static, Result<Bytes>>, Vec<u8>, bool)| {
        let columns = Arc::clone(&columns);
        async move {
            let mut rows = TextColumns::new(columns);
            while !ended && rows.len() < BATCH_ROWS {
                match bytes.next().await {
                    Some(more) => rest.extend_from_slice(&more?),
                    None => ended = true,
                }
                take_lines(&mut rest, &mut rows)?;
            }
            Ok::<_, Error>((!rows.is_empty()).then_some((rows, (bytes, rest, ended))))
        }
    };
    futures::stream::try_unfold(state, next).map(|rows| rows.and_then(TextColumns::finish)).boxed()
}

/// Takes the whole lines off the front.
fn take_lines(rest: &mut Vec<u8>, rows: &mut TextColumns) -> Result<()> {
    let mut from = 0;
    while let Some(length) = memchr::memchr(b'\n', &rest[from..]) {
        let line = &rest[from..from + length];
        let values = line.split(|byte| *byte == b'\t').map(unescape).collect::<Result<Vec<_>>>()?;
        rows.push(values.iter().map(Option::as_deref));
        from += length + 1;
    }
    rest.drain(..from);
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Schema, TimeUnit};

    use super::*;

    #[test]
    fn texts_become_values_and_back() {
        let stamp = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let columns = Arc::new(Schema::new(vec![
            Field::new("t", DataType::Utf8, true),
            Field::new("y", DataType::Binary, true),
            Field::new("b", DataType::Boolean, true),
            Field::new("d", DataType::Float64, true),
            Field::new("z", stamp, true),
            Field::new("m", DataType::Decimal128(10, 2), true),
        ]));
        let mut rows = TextColumns::new(Arc::clone(&columns));
        let mut text =
            b"a\\tb\\\\\\n\t\\\\x00ff\tt\tNaN\t2024-02-29 10:00:00.5+00\t-1.50\n\\N\t\\N\t\\N\t\\N\t\\N\t\\N\nrest"
                .to_vec();
        take_lines(&mut text, &mut rows).expect("lines");
        assert_eq!(text, b"rest");
        let batch = rows.finish().expect("rows");
        assert_eq!(batch.column(0).as_string::<i32>().value(0), "a\tb\\\n");
        assert_eq!(batch.column(1).as_binary::<i32>().value(0), [0, 255]);
        assert!(batch.columns().iter().all(|column| column.is_null(1)));
        let again = copy_text(&batch, 1).expect("text");
        assert_eq!(again.len(), 2);
        let line = String::from_utf8(again[0].clone()).expect("text");
        assert!(line.starts_with("a\\tb\\\\\\n\t\\\\x00ff\ttrue\tNaN\t2024-02-29"), "{line}");
        let mut rows = TextColumns::new(columns);
        rows.push([None, None, None, None, None, Some("1.005")].into_iter());
        let error = rows.finish().expect_err("refuses").message;
        assert!(error.contains("column m") && error.contains("more digits"), "{error}");
    }
}
