//! Records of a partition → batches.
//!
//! Enters: records. Leaves: rows of the columns that the pipeline needs, in the order of the offsets: by the decoders
//! that read files, and what a message has beside its value. Always holds: a record that cannot be read is told with
//! topic, partition and offset; a message without a value deletes the row of its key, or is told.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;

use super::super::bad::{BadRecord, OnError};
use super::super::decode::Decoder;
use super::super::ops::{Says, Upkeep};
use super::super::options::StreamOptions;
use super::super::table::{Coding, FileFormat};
use super::super::text::TextReader;
use super::super::{Read, StreamTable};
use super::columns::{Beside, beside};
use super::records::{Form, Keeps, Record, Records, Value};
use super::schema::Schemas;
use crate::change::with_columns;
use crate::durable::Folder;
use crate::error::{Error, Result};

/// The member that says in the objects that tombstones become that they delete.
const WORD: &str = "__fuse_op";
/// Rows of a batch of raw values.
const RAW_ROWS: usize = 8192;

/// Reads the records of one topic.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    topic: String,
    text: TextReader,
    raw: bool,
    /// What values are written in, where that is no text.
    schemas: Option<Arc<Schemas>>,
    /// Reads what tombstones become, where the table has a key.
    deletes: Option<Decoder>,
    /// The names of the columns of the key, and true for those that are texts.
    key: Vec<(String, bool)>,
    /// Envelopes bring a tombstone behind each delete, which says nothing more.
    ignores_tombstones: bool,
    /// Of each column that leaves: where it is in what the decoder gives, or what it is beside the value.
    columns: Vec<From>,
    schema: SchemaRef,
}

#[derive(Debug, Clone, Copy)]
enum From {
    Value(usize),
    Beside(Beside),
}

impl Reader {
    /// For these columns of a table.
    pub(super) fn new(
        table: &StreamTable,
        topic: &str,
        (format, coding): (Option<FileFormat>, Coding),
        wanted: &[usize],
        dead_letters: Option<Folder>,
    ) -> Result<Self> {
        let all = table.columns();
        let is_beside = |at: usize| beside(all.field(at));
        let body: Vec<usize> = (0..all.fields().len()).filter(|at| is_beside(*at).is_none()).collect();
        let place = |at: usize| body.iter().position(|one| *one == at);
        let read: Vec<usize> = wanted.iter().filter_map(|at| place(*at)).collect();
        let columns = wanted.iter().map(|at| match (is_beside(*at), place(*at)) {
            (Some(what), _) => From::Beside(what),
            (None, at) => From::Value(read.iter().position(|one| Some(*one) == at).unwrap_or_default()),
        });
        let mut columns: Vec<From> = columns.collect();
        let body_schema = Arc::new(all.project(&body)?);
        let options = table.options();
        let upkeep = table
            .upkeep()
            .map(|upkeep| Upkeep { key: upkeep.key.iter().filter_map(|at| place(*at)).collect(), ..upkeep.clone() });
        let format_read = format.unwrap_or(FileFormat::Json);
        let decoder = Decoder::new(format_read, Arc::clone(&body_schema), read.clone(), options, upkeep.as_ref())?;
        let mut fields: Vec<_> = wanted.iter().map(|at| Arc::clone(&all.fields()[*at])).collect();
        if upkeep.is_some() {
            let schema = decoder.schema();
            let last = schema.fields().len() - 1;
            fields = fields.iter().map(|field| Arc::new(field.as_ref().clone().with_nullable(true))).collect();
            fields.push(Arc::clone(&schema.fields()[last]));
            columns.push(From::Value(last));
        }
        let debezium = upkeep.as_ref().is_some_and(|upkeep| upkeep.says == Says::Debezium);
        let keyed = upkeep.as_ref().filter(|upkeep| !upkeep.key.is_empty() && !debezium);
        let deletes = keyed.map(|upkeep| -> Result<Decoder> {
            let upkeep = Upkeep { says: Says::Column(WORD.to_owned()), ..upkeep.clone() };
            let options = StreamOptions { evolve: false, ..options.clone() };
            Decoder::new(FileFormat::Json, Arc::clone(&body_schema), read, &options, Some(&upkeep))
        });
        let key = keyed.into_iter().flat_map(|upkeep| &upkeep.key).map(|at| {
            let field = body_schema.field(*at);
            let text = matches!(field.data_type(), DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8);
            (field.name().clone(), text || field.data_type().is_temporal())
        });
        Ok(Self {
            topic: topic.to_owned(),
            raw: format.is_none(),
            schemas: Schemas::of(coding, &options.kafka)?.map(Arc::new),
            key: key.collect(),
            deletes: deletes.transpose()?,
            ignores_tombstones: debezium,
            text: TextReader { decoder, on_error: options.on_error, dead_letters },
            columns,
            schema: Arc::new(arrow::datatypes::Schema::new(fields)),
        })
    }

    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    pub(super) fn dead_letters(&self) -> Option<&Folder> {
        self.text.dead_letters.as_ref()
    }

    /// What is needed of messages.
    pub(super) fn keeps(&self) -> Keeps {
        let wants = |what: Beside| self.columns.iter().any(|from| matches!(from, From::Beside(one) if *one == what));
        Keeps {
            keys: self.deletes.is_some() || wants(Beside::Key),
            headers: wants(Beside::Headers),
            form: match self.text.decoder.format {
                _ if self.raw || self.schemas.is_some() => Form::Raw,
                FileFormat::Csv => Form::Csv(Box::new(self.text.decoder.clone())),
                _ => Form::Json,
            },
        }
    }

    /// The rows of the records of one partition.
    pub(super) async fn read(&self, partition: i32, records: Records) -> Result<Read> {
        let records = match &self.schemas {
            Some(schemas) => records.in_json(schemas).await?,
            None => records,
        };
        let records = Arc::new(records);
        let mut read = Read::default();
        let mut at = 0;
        while at < records.len() {
            let tombstone = |record: &Record| record.value == Value::None;
            let deletes = tombstone(&records.all[at]) && !self.raw;
            let run = records.all[at..].iter().take_while(|one| (tombstone(one) && !self.raw) == deletes).count();
            let run = at..at + run;
            at = run.end;
            let more = match deletes {
                _ if self.raw => self.raw_values(partition, &records, run)?,
                false => self.values(partition, &records, run).await?,
                true => self.tombstones(partition, &records, run)?,
            };
            if let Some(bad) = more.bad.first().filter(|_| self.text.on_error == OnError::Fail) {
                return Err(bad.error_at(format!("{}, partition {partition}, offset {}", self.topic, bad.position)));
            }
            read.add(more);
        }
        Ok(read)
    }

    fn bad(&self, partition: i32, offset: i64, payload: String, column: Option<String>, reason: String) -> BadRecord {
        let file = format!("{}/{partition}", self.topic);
        BadRecord { file, position: u64::try_from(offset).unwrap_or_default(), payload, column, reason }
    }

    /// Rows of values, of which none is missing.
    async fn values(&self, partition: i32, records: &Arc<Records>, run: Range<usize>) -> Result<Read> {
        let mut bad = Vec::new();
        let mut whole: Vec<(usize, usize)> = Vec::new();
        for at in run {
            match &records.all[at].value {
                Value::At(range) => whole.push((at, range.start)),
                Value::Bad(told) => {
                    let (payload, reason) = told.as_ref().clone();
                    bad.push(self.bad(partition, records.all[at].offset, payload, None, reason));
                }
                Value::None => {}
            }
        }
        let (Some((_, start)), Some((last, _))) = (whole.first().copied(), whole.last()) else {
            return Ok(Read { bad, ..Read::default() });
        };
        let Value::At(range) = &records.all[*last].value else { return Ok(Read { bad, ..Read::default() }) };
        let end = range.end;
        let text = Bytes::from_owner(Text(Arc::clone(records))).slice(start..end);
        let columns = (self.text.decoder.format == FileFormat::Csv).then(|| self.text.decoder.csv_columns(None));
        let salvaged = self.text.salvage(text, columns.transpose()?).await?;
        let mut good = vec![true; whole.len()];
        for one in salvaged.bad {
            let at = whole.partition_point(|(_, at)| *at <= one.record.start + start).saturating_sub(1);
            good[at] = false;
            let offset = records.all[whole[at].0].offset;
            bad.push(self.bad(partition, offset, one.payload, one.column, one.reason));
        }
        bad.sort_by_key(|bad| bad.position);
        let good: Vec<usize> = whole.iter().zip(good).filter(|(_, good)| *good).map(|((at, _), _)| *at).collect();
        let batches = self.with_beside(partition, records, &good, salvaged.batches, &bad)?;
        Ok(Read { batches, bad, new: salvaged.new })
    }

    /// Rows that delete those of the keys.
    fn tombstones(&self, partition: i32, records: &Arc<Records>, run: Range<usize>) -> Result<Read> {
        if self.ignores_tombstones {
            return Ok(Read::default());
        }
        let (mut bad, mut good, mut text) = (Vec::new(), Vec::new(), String::new());
        for at in run {
            let record = &records.all[at];
            let object = match &self.deletes {
                Some(_) => self.key_object(records.key(record)),
                None => Err("the message has no value; a table with a PRIMARY KEY takes that for a delete".to_owned()),
            };
            match object {
                Ok(object) => {
                    text += &object;
                    text.push('\n');
                    good.push(at);
                }
                Err(reason) => {
                    let key = records.key(record).map(|key| String::from_utf8_lossy(key).into_owned());
                    bad.push(self.bad(partition, record.offset, key.unwrap_or_default(), None, reason));
                }
            }
        }
        let Some(deletes) = self.deletes.as_ref().filter(|_| !good.is_empty()) else {
            return Ok(Read { bad, ..Read::default() });
        };
        let salvaged = deletes.json(text.as_bytes(), self.text.on_error == OnError::Fail)?;
        let starts: Vec<usize> =
            std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1)).collect();
        let mut kept = vec![true; good.len()];
        for one in salvaged.bad {
            let at = starts.partition_point(|at| *at <= one.record.start).saturating_sub(1);
            kept[at] = false;
            let line = text.lines().nth(at).unwrap_or_default().to_owned();
            bad.push(self.bad(partition, records.all[good[at]].offset, line, one.column, one.reason));
        }
        let good: Vec<usize> = good.into_iter().zip(kept).filter(|(_, kept)| *kept).map(|(at, _)| at).collect();
        let batches = self.with_beside(partition, records, &good, salvaged.batches, &bad)?;
        Ok(Read { batches, bad, new: Vec::new() })
    }

    /// The object that deletes the row of a key: the key is an object with its columns, as they are or as the payload
    /// of an envelope, or the value of its one column, as text or as JSON.
    fn key_object(&self, key: Option<&[u8]>) -> Result<String, String> {
        let key = key.ok_or("the message has no value, and no key that says which row it deletes")?;
        let text = std::str::from_utf8(key).map_err(|_| "the key is not UTF-8".to_owned())?;
        let mut object = serde_json::Map::new();
        match (serde_json::from_str(text), self.key.as_slice()) {
            (Ok(serde_json::Value::Object(mut members)), names) => {
                if let Some(serde_json::Value::Object(payload)) = members.get("payload") {
                    members = payload.clone();
                }
                for (name, _) in names {
                    let value = members.remove(name).ok_or_else(|| format!("the key {text} has no {name}"))?;
                    object.insert(name.clone(), value);
                }
            }
            (Ok(value @ serde_json::Value::String(_)), [(name, _)]) => drop(object.insert(name.clone(), value)),
            (Ok(value), [(name, false)]) => drop(object.insert(name.clone(), value)),
            (_, [(name, _)]) => drop(object.insert(name.clone(), text.into())),
            _ => return Err(format!("the key {text} is no object, and the PRIMARY KEY has several columns")),
        }
        object.insert(WORD.to_owned(), "d".into());
        Ok(serde_json::Value::Object(object).to_string())
    }

    /// Rows of values that are not looked into.
    fn raw_values(&self, partition: i32, records: &Arc<Records>, run: Range<usize>) -> Result<Read> {
        let wanted = &self.text.decoder.wanted;
        let (mut batches, mut bad, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        let at = |at: usize| match &records.all[at].value {
            Value::At(range) => Some(&records.text[range.clone()]),
            _ => None,
        };
        let text = wanted.fields().first().is_some_and(|field| !matches!(field.data_type(), DataType::Binary));
        for row in run {
            if text && at(row).is_some_and(|bytes| std::str::from_utf8(bytes).is_err()) {
                let payload = String::from_utf8_lossy(at(row).unwrap_or_default()).into_owned();
                let reason = "it is not UTF-8; a column of type BYTEA holds any bytes".to_owned();
                bad.push(self.bad(partition, records.all[row].offset, payload, None, reason));
            } else {
                kept.push(row);
            }
        }
        for rows in kept.chunks(RAW_ROWS) {
            let columns = wanted.fields().iter().map(|field| -> Result<ArrayRef> {
                let values: BinaryArray = rows.iter().map(|row| at(*row)).collect();
                Ok(cast(&values, field.data_type())?)
            });
            batches.push(with_columns(wanted, columns.collect::<Result<_>>()?, rows.len())?);
        }
        let batches = self.with_beside(partition, records, &kept, batches, &bad)?;
        Ok(Read { batches, bad, new: Vec::new() })
    }

    /// The rows with what their messages have beside the values. `rows`: their records.
    fn with_beside(
        &self,
        partition: i32,
        records: &Records,
        rows: &[usize],
        batches: Vec<RecordBatch>,
        bad: &[BadRecord],
    ) -> Result<Vec<RecordBatch>> {
        if self.text.on_error == OnError::Fail && !bad.is_empty() {
            return Ok(Vec::new());
        }
        let any = self.columns.iter().any(|from| matches!(from, From::Beside(_)));
        let count: usize = batches.iter().map(RecordBatch::num_rows).sum();
        if any && count != rows.len() {
            return Err(Error::query(format!("{} messages gave {count} rows", rows.len())));
        }
        let mut at = 0;
        let batch = |batch: RecordBatch| {
            let of = if any { &rows[at..at + batch.num_rows()] } else { &[] };
            at += batch.num_rows();
            let columns = self.columns.iter().zip(self.schema.fields()).map(|(from, field)| match from {
                From::Value(place) => Ok(Arc::clone(batch.column(*place))),
                From::Beside(what) => Ok(cast(&self.column(*what, partition, records, of), field.data_type())?),
            });
            with_columns(&self.schema, columns.collect::<Result<_>>()?, batch.num_rows())
        };
        batches.into_iter().map(batch).collect()
    }

    /// What the messages of these rows have there.
    fn column(&self, what: Beside, partition: i32, records: &Records, rows: &[usize]) -> ArrayRef {
        let all = rows.iter().map(|row| &records.all[*row]);
        match what {
            Beside::Topic => Arc::new(StringArray::from_iter_values(rows.iter().map(|_| &self.topic))),
            Beside::Partition => Arc::new(Int32Array::from(vec![partition; rows.len()])),
            Beside::Offset => Arc::new(Int64Array::from_iter_values(all.map(|record| record.offset))),
            Beside::Timestamp => Arc::new(TimestampMillisecondArray::from_iter(all.map(|record| record.millis))),
            Beside::Key => Arc::new(BinaryArray::from_iter(all.map(|record| records.key(record)))),
            Beside::Headers => Arc::new(StringArray::from_iter(all.map(|record| records.headers(record)))),
        }
    }
}

/// The text of records, which stays as long as a piece of it is read.
struct Text(Arc<Records>);

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        &self.0.text
    }
}
