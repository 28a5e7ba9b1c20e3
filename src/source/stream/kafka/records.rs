//! Records of a partition, as they came.
//!
//! Enters: messages. Leaves: their values as one text, a line each (of CSV: a record), beside their offsets and what
//! else is wanted of them. Always holds: a value is one record or none, so that a bad one does not take its neighbours
//! along.

use std::ops::Range;

use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Headers};

use super::super::decode::Decoder;
use super::schema::Schemas;
use crate::error::Result;

/// What is kept of a message beside its value.
#[derive(Debug, Clone)]
pub(super) struct Keeps {
    pub(super) keys: bool,
    pub(super) headers: bool,
    pub(super) form: Form,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(super) enum Form {
    /// An object.
    Json,
    /// A record of CSV.
    Csv(Box<Decoder>),
    /// Any bytes.
    Raw,
}

/// What is there of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// It is in the text, there.
    At(Range<usize>),
    /// The message has none: a tombstone.
    None,
    /// It cannot be a record: what it is, and why.
    Bad(Box<(String, String)>),
}

/// One message.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) offset: i64,
    /// Milliseconds since 1970.
    pub(super) millis: Option<i64>,
    pub(super) value: Value,
    key: Option<Range<usize>>,
    headers: Option<Range<usize>>,
}

#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) all: Vec<Record>,
    pub(super) text: Vec<u8>,
    /// Keys and headers.
    beside: Vec<u8>,
}

impl Records {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn bytes(&self) -> u64 {
        (self.text.len() + self.beside.len()) as u64
    }

    /// The key of a record, where it is kept.
    pub(super) fn key(&self, record: &Record) -> Option<&[u8]> {
        record.key.clone().map(|range| &self.beside[range])
    }

    /// Its headers as an object of JSON, where they are kept.
    pub(super) fn headers(&self, record: &Record) -> Option<&str> {
        record.headers.clone().and_then(|range| std::str::from_utf8(&self.beside[range]).ok())
    }

    /// Adds a message; how many bytes that took.
    pub(super) fn push(&mut self, message: &BorrowedMessage<'_>, keeps: &Keeps) -> u64 {
        let before = self.bytes();
        let value = match message.payload() {
            None => Value::None,
            Some(bytes) => self.value(bytes, &keeps.form),
        };
        let key = message.key().filter(|_| keeps.keys).map(|key| self.put(key));
        let headers = keeps.headers.then(|| {
            let mut object = serde_json::Map::new();
            for header in message.headers().into_iter().flat_map(Headers::iter) {
                let value = header.value.map_or(serde_json::Value::Null, |bytes| String::from_utf8_lossy(bytes).into());
                object.insert(header.key.to_owned(), value);
            }
            self.put(serde_json::Value::Object(object).to_string().as_bytes())
        });
        self.all.push(Record {
            offset: message.offset(),
            millis: message.timestamp().to_millis(),
            value,
            key,
            headers,
        });
        // A record without anything has a place all the same.
        self.bytes() - before + size_of::<Record>() as u64
    }

    fn put(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.beside.len();
        self.beside.extend_from_slice(bytes);
        start..self.beside.len()
    }

    fn value(&mut self, bytes: &[u8], form: &Form) -> Value {
        let start = self.text.len();
        let bad = |why: &str| Value::Bad(Box::new((String::from_utf8_lossy(bytes).into_owned(), why.to_owned())));
        if matches!(form, Form::Raw) {
            self.text.extend_from_slice(bytes);
            return Value::At(start..self.text.len());
        }
        let record = bytes.trim_ascii_end();
        if record.is_empty() {
            return bad("the message is empty");
        }
        match form {
            Form::Csv(decoder) => {
                self.text.extend_from_slice(bytes.strip_suffix(b"\n").unwrap_or(bytes));
                self.text.push(b'\n');
                if !decoder.is_one_record(&self.text[start..]) {
                    self.text.truncate(start);
                    return bad("the message is not one record of CSV");
                }
            }
            _ => {
                self.text.extend_from_slice(record);
                if memchr::memchr(b'\n', record).is_some() {
                    // Within an object of several lines they are white space.
                    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(record) {
                        self.text.truncate(start);
                        return bad(&format!("the message is not one object of JSON: {error}"));
                    }
                    self.text[start..].iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
                }
                self.text.push(b'\n');
            }
        }
        Value::At(start..self.text.len())
    }

    /// The same with values that are objects of JSON, and keys, where they are in the same coding.
    pub(super) async fn in_json(mut self, schemas: &Schemas) -> Result<Self> {
        let bytes = std::mem::take(&mut self.text);
        let of = |record: &Record| match &record.value {
            Value::At(range) => Some(range.clone()),
            _ => None,
        };
        let values: Vec<&[u8]> = self.all.iter().filter_map(of).map(|range| &bytes[range]).collect();
        let mut lines = schemas.lines(&values).await?.into_iter();
        for at in 0..self.all.len() {
            let Some(range) = of(&self.all[at]) else { continue };
            self.all[at].value = match lines.next() {
                Some(Ok(line)) => self.value(&line, &Form::Json),
                told => {
                    let reason = told.and_then(std::result::Result::err).unwrap_or_default();
                    Value::Bad(Box::new((hex(&bytes[range]), reason)))
                }
            };
        }
        self.keys_in_json(schemas).await?;
        Ok(self)
    }

    async fn keys_in_json(&mut self, schemas: &Schemas) -> Result<()> {
        let framed =
            |record: &&mut Record, beside: &[u8]| record.key.clone().is_some_and(|range| schemas.heads(&beside[range]));
        let mut beside = std::mem::take(&mut self.beside);
        let keyed: Vec<&mut Record> = self.all.iter_mut().filter(|record| framed(record, &beside)).collect();
        let keys: Vec<&[u8]> = keyed.iter().filter_map(|record| record.key.clone()).map(|key| &beside[key]).collect();
        let lines = schemas.lines(&keys).await?;
        for (record, line) in keyed.into_iter().zip(lines) {
            if let Ok(line) = line {
                let start = beside.len();
                beside.extend_from_slice(&line);
                record.key = Some(start..beside.len());
            }
        }
        self.beside = beside;
        Ok(())
    }

    /// Takes those before an offset.
    pub(super) fn split_to(&mut self, offset: i64) -> Self {
        let count = self.all.partition_point(|record| record.offset < offset);
        if count == self.all.len() {
            return std::mem::take(self);
        }
        let rest = self.all.split_off(count);
        let first = |of: fn(&Record) -> Option<usize>, all: usize| rest.iter().find_map(of).unwrap_or(all);
        let text = first(text_start, self.text.len());
        let beside = first(beside_start, self.beside.len());
        let mut taken = std::mem::take(self);
        self.text = taken.text.split_off(text);
        self.beside = taken.beside.split_off(beside);
        let moved = |range: Range<usize>, by: usize| range.start - by..range.end - by;
        self.all = rest
            .into_iter()
            .map(|record| Record {
                value: match record.value {
                    Value::At(range) => Value::At(moved(range, text)),
                    other => other,
                },
                key: record.key.map(|range| moved(range, beside)),
                headers: record.headers.map(|range| moved(range, beside)),
                ..record
            })
            .collect();
        taken
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text_start(record: &Record) -> Option<usize> {
    match &record.value {
        Value::At(range) => Some(range.start),
        _ => None,
    }
}

fn beside_start(record: &Record) -> Option<usize> {
    record.key.as_ref().or(record.headers.as_ref()).map(|range| range.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(values: &[&str], form: &Form) -> Records {
        let mut all = Records::default();
        for (offset, value) in values.iter().enumerate() {
            let value = all.value(value.as_bytes(), form);
            let key = Some(all.put(format!("k{offset}").as_bytes()));
            all.all.push(Record { offset: offset as i64 * 2, millis: None, value, key, headers: None });
        }
        all
    }

    #[test]
    fn a_message_is_one_line_or_bad() {
        let all = records(&["{\"a\": 1}\n", "{\n \"a\": 2}", "{\"a\":\n1", " ", "{\"a\":3}\n{\"a\":4}"], &Form::Json);
        assert_eq!(std::str::from_utf8(&all.text).expect("text"), "{\"a\": 1}\n{  \"a\": 2}\n");
        let bad = all.all.iter().filter(|record| matches!(record.value, Value::Bad(_))).count();
        assert_eq!(bad, 3);
    }

    #[test]
    fn what_is_split_has_its_own_text() {
        for cut in 0..=7 {
            let mut all = records(&["{\"a\":1}", "", "{\"a\":2}", "{\"a\":3}"], &Form::Json);
            let first = all.split_to(cut);
            let mut keys = Vec::new();
            for part in [&first, &all] {
                for record in &part.all {
                    keys.push(String::from_utf8_lossy(part.key(record).expect("a key")).into_owned());
                    if let Value::At(range) = &record.value {
                        assert!(part.text[range.clone()].starts_with(b"{\"a\":"), "{cut}");
                        assert_eq!(part.text[range.end - 1], b'\n');
                    }
                }
            }
            assert_eq!(keys, ["k0", "k1", "k2", "k3"]);
            assert!(first.all.iter().all(|record| record.offset < cut) && all.all.iter().all(|r| r.offset >= cut));
        }
    }
}
