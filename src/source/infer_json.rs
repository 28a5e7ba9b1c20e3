//! The columns of a JSON file.
//!
//! Enters: the start of a file of objects, one after the other with any white space between, or of one array
//! of objects. Leaves: a type for each column, in the order in which they first appear. Always holds: what is
//! not JSON, or no object, is an error that names file and line.

use std::fmt;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::json::reader::infer_json_schema_from_iterator;
use serde_core::de::{Deserialize, Deserializer as _, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Deserializer, Map, Value};

use super::file_format::Sample;
use crate::error::{Error, Result};

/// An object, its members in the order of the text.
struct Row(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: serde_core::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Row;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Row(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Gathers the rows of an array, up to a limit.
struct Rows<'a> {
    rows: &'a mut Vec<Row>,
    limit: usize,
    unbroken: &'a AtomicUsize,
}

impl<'de> Visitor<'de> for Rows<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while let Some(row) = array.next_element()? {
            self.rows.push(row);
            self.unbroken.store(0, Ordering::Relaxed);
            if self.rows.len() >= self.limit {
                // There is no other way to leave the rest unread.
                return Err(A::Error::custom("enough"));
            }
        }
        Ok(())
    }
}

/// Reads the columns of the file called `name`.
pub(super) fn columns(sample: Sample, name: &str) -> Result<SchemaRef> {
    let cut = sample.cut;
    let mut rows = Vec::new();
    if let Err(error) = read_rows(sample, &mut rows)
        && !(cut && error.is_eof() && !rows.is_empty())
    {
        return Err(Error::query(format!(
            "{name}, line {}, column {}: {}",
            error.line(),
            error.column(),
            plain(&error)
        )));
    }
    let mut order: Vec<String> = Vec::new();
    let mut values = Vec::with_capacity(rows.len());
    for Row(members) in rows {
        for (key, _) in &members {
            if !order.contains(key) {
                order.push(key.clone());
            }
        }
        values.push(Ok(Value::Object(members.into_iter().collect::<Map<_, _>>())));
    }
    let schema = infer_json_schema_from_iterator(values.into_iter())?;
    let field = |name: &String| schema.field_with_name(name).ok().cloned();
    Ok(Arc::new(Schema::new(order.iter().filter_map(field).collect::<Vec<Field>>())))
}

/// The message without the place, which we write ourselves.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    if text.contains("unicode code point") { "not UTF-8".to_owned() } else { text.to_owned() }
}

fn read_rows(sample: Sample, rows: &mut Vec<Row>) -> Result<(), serde_json::Error> {
    let mut text = BufReader::new(sample.text);
    let start = text.fill_buf().map_err(serde_json::Error::custom)?;
    let mark = if start.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
    let array = start[mark..].iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    text.consume(mark);
    if array {
        let limit = sample.rows;
        let mut document = Deserializer::from_reader(text);
        return match document.deserialize_seq(Rows { rows, limit, unbroken: &sample.unbroken }) {
            Err(_) if rows.len() >= limit => Ok(()),
            // Nothing may stand behind the array: its reader would not see it.
            Ok(()) => document.end(),
            Err(error) => Err(error),
        };
    }
    for row in Deserializer::from_reader(text.by_ref()).into_iter::<Row>().take(sample.rows) {
        rows.push(row?);
        sample.unbroken.store(0, Ordering::Relaxed);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns_of(text: &str) -> Result<Vec<String>> {
        let sample = Sample::new(std::io::Cursor::new(text.to_owned()), false, 2);
        let schema = columns(sample, "t.json")?;
        Ok(schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect())
    }

    #[test]
    fn columns_keep_their_order_in_lines_and_in_arrays() {
        let want = ["b Int64", "a Utf8", "c Boolean"];
        for text in
            ["{\"b\":1,\"a\":\"x\"}\n{\"c\":true}\n{\"d\":1}", "[{\"b\":1,\n \"a\":\"x\"},\n {\"c\":true}, {\"d\":1}]"]
        {
            assert_eq!(columns_of(text).expect("columns"), want, "{text}");
        }
    }

    #[test]
    fn an_error_names_its_line() {
        assert!(
            columns_of("{\"a\":1}\n{\"a\":}").expect_err("no JSON").message.starts_with("t.json, line 2, column 6: ")
        );
        assert!(columns_of("[1]").expect_err("no object").message.contains("expected an object"));
    }
}
