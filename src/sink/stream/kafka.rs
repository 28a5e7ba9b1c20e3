//! A topic of Kafka.
//!
//! Enters: changes. Leaves: messages, the transaction of an epoch whole or not at all. Always holds: the number of the
//! epoch is in its transaction, so an epoch that is run again after a kill is written if it was not, and not if it was.

mod avro;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::json::writer::{LineDelimited, WriterBuilder};
use async_trait::async_trait;

use super::encode::carried;
use super::{FileEncoding, Sink};
use crate::change::{Changes, RowEncoder, consolidate, with_columns};
use crate::error::{Error, Result};
use crate::format::texts;
use crate::kafka::{Encoding, Outgoing, TopicTarget, Values, Writer, make_topic};
use crate::offset::Epoch;

/// Messages of changes.
struct Messages {
    values: Values,
    columns: SchemaRef,
    /// As JSON has them.
    carried: SchemaRef,
    /// The places of the columns of the key.
    key: Vec<usize>,
    /// What writes values in Avro, where that is asked for.
    avro: Option<avro::Records>,
}

/// One topic.
pub struct KafkaSink {
    target: TopicTarget,
    messages: Messages,
    /// Which of the sinks of its pipeline it is.
    place: usize,
    id: String,
    writer: Option<Arc<Writer>>,
    taken: Vec<Changes>,
    staged: bool,
    /// The last epoch that has a transaction.
    marked: Epoch,
    /// The last epoch that the topic held when this run began.
    held: Epoch,
    /// What the log says of that.
    logged: Epoch,
}

impl KafkaSink {
    /// A sink of rows of these columns. `place`: which one of its pipeline it is.
    pub fn new(target: TopicTarget, columns: SchemaRef, place: usize) -> Result<Self> {
        let find = |name: &String| Ok(columns.index_of(name)?);
        let key = target.key.iter().map(find).collect::<Result<Vec<_>>>()?;
        let carried = FileEncoding::Json.schema(&columns)?;
        let messages = Messages { values: target.values, columns, carried, key, avro: None };
        let (id, writer, taken) = (String::new(), None, Vec::new());
        Ok(Self { target, messages, place, id, writer, taken, staged: false, marked: 0, held: 0, logged: 0 })
    }

    fn writer(&self) -> Result<Arc<Writer>> {
        self.writer.clone().ok_or_else(|| Error::query("a topic that was not opened"))
    }
}

impl Messages {
    /// The messages of an epoch.
    fn of(&self, taken: &[Changes], epoch: Epoch, now_micros: i64) -> Result<Vec<Outgoing>> {
        let Some(changes) = consolidate(&self.columns, taken)? else { return Ok(Vec::new()) };
        let (rows, ops) = changes.with_ops()?;
        let keys = self.keys(&rows)?;
        match self.values {
            Values::Rows if self.key.is_empty() => {
                if ops.iter().flatten().any(|op| op != "insert") {
                    return Err(Error::query("a row was retracted that was written to a topic"));
                }
                let key = || std::iter::repeat(None);
                Ok(self
                    .objects(&rows)?
                    .into_iter()
                    .zip(key())
                    .map(|(value, key)| Outgoing { key, value: Some(value) })
                    .collect())
            }
            Values::Rows => self.upserts(&rows, &ops, keys),
            Values::Changelog => {
                let epochs = Int64Array::from(vec![i64::try_from(epoch).unwrap_or(i64::MAX); rows.num_rows()]);
                let mut columns = rows.columns().to_vec();
                columns.extend([Arc::new(ops) as ArrayRef, Arc::new(epochs)]);
                let rows = with_columns(&self.written(), columns, rows.num_rows())?;
                let values = self.objects(&rows)?;
                Ok(values.into_iter().zip(keys).map(|(value, key)| Outgoing { key, value: Some(value) }).collect())
            }
            Values::Envelopes => self.envelopes(&rows, &ops, keys, now_micros / 1000),
        }
    }

    /// The columns of values.
    fn written(&self) -> SchemaRef {
        let mut fields = self.columns.fields().to_vec();
        if self.values == Values::Changelog {
            fields.push(Arc::new(Field::new("op", DataType::Utf8, false)));
            fields.push(Arc::new(Field::new("epoch", DataType::Int64, false)));
        }
        Arc::new(Schema::new(fields))
    }

    /// Each row as an object, or as a record of Avro.
    fn objects(&self, rows: &RecordBatch) -> Result<Vec<Vec<u8>>> {
        if let Some(records) = &self.avro {
            return records.values(rows);
        }
        let schema = match rows.schema().fields().len() == self.carried.fields().len() {
            true => Arc::clone(&self.carried),
            false => FileEncoding::Json.schema(&rows.schema())?,
        };
        let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
        writer.write(&carried(&schema, rows)?)?;
        writer.finish()?;
        let text = writer.into_inner();
        // A line end within a text is escaped.
        Ok(text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect())
    }

    /// The key of each row: the text of its one column, or an object of several.
    fn keys(&self, rows: &RecordBatch) -> Result<Vec<Option<Vec<u8>>>> {
        if self.key.is_empty() {
            return Ok(vec![None; rows.num_rows()]);
        }
        let of = rows.project(&self.key)?;
        if let Some(null) =
            of.columns().iter().position(|column| column.logical_nulls().is_some_and(|n| n.null_count() > 0))
        {
            return Err(Error::query(format!("{} is NULL, and in the PRIMARY KEY", of.schema().field(null).name())));
        }
        if let [_] = self.key.as_slice() {
            let texts = texts(of.column(0), "")?;
            return Ok(texts.iter().map(|text| text.map(|text| text.as_bytes().to_vec())).collect());
        }
        let schema = FileEncoding::Json.schema(&of.schema())?;
        let mut writer = WriterBuilder::new().build::<_, LineDelimited>(Vec::new());
        writer.write(&carried(&schema, &of)?)?;
        writer.finish()?;
        let text = writer.into_inner();
        Ok(text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| Some(line.to_vec())).collect())
    }

    /// The place of the row that goes and of the one that comes, by their key and in the order of the rows.
    fn pairs(&self, rows: &RecordBatch, ops: &StringArray) -> Result<Vec<(Option<usize>, Option<usize>)>> {
        let of = rows.project(&self.key)?;
        let keys = RowEncoder::of(&of.schema())?.encode(of.columns(), of.num_rows())?;
        let mut at: BTreeMap<&[u8], usize> = BTreeMap::new();
        let mut pairs: Vec<(Option<usize>, Option<usize>)> = Vec::new();
        for row in 0..rows.num_rows() {
            let pair = *at.entry(keys.row(row)).or_insert_with(|| {
                pairs.push((None, None));
                pairs.len() - 1
            });
            let (before, after) = &mut pairs[pair];
            let side = if ops.value(row) == "insert" { after } else { before };
            if side.replace(row).is_some() {
                let key = texts(of.column(0), "NULL")?;
                let names =
                    of.schema().fields().iter().map(|field| field.name().clone()).collect::<Vec<_>>().join(", ");
                return Err(Error::query(format!("two rows have the same PRIMARY KEY ({names}): {}", key.value(row)))
                    .hint("a topic with a PRIMARY KEY holds one row a key: GROUP BY it, or choose another"));
            }
        }
        Ok(pairs)
    }

    fn upserts(&self, rows: &RecordBatch, ops: &StringArray, mut keys: Vec<Option<Vec<u8>>>) -> Result<Vec<Outgoing>> {
        let mut values: Vec<Option<Vec<u8>>> = self.objects(rows)?.into_iter().map(Some).collect();
        let message = |(before, after): (Option<usize>, Option<usize>)| {
            let key = after.or(before).and_then(|row| keys[row].take());
            Outgoing { key, value: after.and_then(|row| values[row].take()) }
        };
        Ok(self.pairs(rows, ops)?.into_iter().map(message).collect())
    }

    fn envelopes(
        &self,
        rows: &RecordBatch,
        ops: &StringArray,
        keys: Vec<Option<Vec<u8>>>,
        millis: i64,
    ) -> Result<Vec<Outgoing>> {
        let objects = self.objects(rows)?;
        let pairs = if self.key.is_empty() {
            let pair = |row| if ops.value(row) == "insert" { (None, Some(row)) } else { (Some(row), None) };
            (0..rows.num_rows()).map(pair).collect()
        } else {
            self.pairs(rows, ops)?
        };
        let mut messages = Vec::new();
        for (before, after) in pairs {
            let op = match (before, after) {
                (Some(_), Some(_)) => "u",
                (None, _) => "c",
                (Some(_), None) => "d",
            };
            let object = |row: Option<usize>| row.map_or("null".into(), |row| String::from_utf8_lossy(&objects[row]));
            let text = format!(
                "{{\"before\":{},\"after\":{},\"op\":\"{op}\",\"ts_ms\":{millis}}}",
                object(before),
                object(after)
            );
            let key = after.or(before).and_then(|row| keys[row].clone());
            messages.push(Outgoing { key: key.clone(), value: Some(text.into_bytes()) });
            if op == "d" && key.is_some() {
                // Compaction may forget the key.
                messages.push(Outgoing { key, value: None });
            }
        }
        Ok(messages)
    }
}

/// Runs what waits for brokers.
fn waiting<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    tokio::task::block_in_place(work)
}

#[async_trait]
impl Sink for KafkaSink {
    async fn begin(&mut self) -> Result<()> {
        make_topic(&self.target.topic, &self.target.client).await
    }

    fn identify(&mut self, id: &str) {
        id.clone_into(&mut self.id);
    }

    async fn resume(&mut self, position: &serde_json::Value) -> Result<()> {
        if self.target.encoding == Encoding::Avro {
            let (topic, columns) = (&self.target.topic.name, self.messages.written());
            self.messages.avro = Some(avro::Records::register(topic, &columns, &self.target.registry).await?);
        }
        let name = format!("fuse-{}-{}", self.id, self.place);
        let (held, writer) = waiting(|| {
            let writer = Writer::open(&self.target.topic, &self.target.client, &name)?;
            Ok((writer.committed()?, writer))
        })?;
        self.writer = Some(Arc::new(writer));
        self.held = held.unwrap_or_default();
        self.logged = position.get("epoch").and_then(serde_json::Value::as_u64).unwrap_or_default();
        self.marked = self.held.max(self.logged);
        Ok(())
    }

    fn unclear(&mut self, epoch: Epoch) -> Result<()> {
        if self.held >= self.logged {
            return Ok(());
        }
        let topic = &self.target.topic.name;
        Err(Error::query(format!("whether the topic {topic} has epoch {epoch} is not known any more"))
            .note(format!(
                "the offsets of the group fuse-{}-{} say it, and the brokers have forgotten them (offsets.retention.minutes)",
                self.id, self.place
            ))
            .hint("look into the topic; --fresh writes everything to it once more"))
    }

    fn take(&mut self, changes: Vec<Changes>, shown: bool) -> Result<()> {
        if !shown {
            self.taken.extend(changes.into_iter().filter(|change| !change.is_empty()));
        }
        Ok(())
    }

    async fn stage(&mut self, epoch: Epoch, now_micros: i64) -> Result<()> {
        let taken = std::mem::take(&mut self.taken);
        if epoch < self.held {
            return Err(Error::query(format!(
                "the topic {} has epoch {} of this pipeline, and its state is at epoch {epoch}",
                self.target.topic.name, self.held
            ))
            .note("the state was taken back to an earlier one")
            .hint("--fresh begins anew, and writes everything once more"));
        }
        let messages = if epoch == self.held { Vec::new() } else { self.messages.of(&taken, epoch, now_micros)? };
        self.staged = !messages.is_empty();
        if self.staged {
            let writer = self.writer()?;
            waiting(|| writer.stage(epoch, &messages))?;
        }
        Ok(())
    }

    async fn commit(&mut self, epoch: Epoch) -> Result<()> {
        if std::mem::take(&mut self.staged) {
            let writer = self.writer()?;
            waiting(|| writer.commit())?;
            self.marked = epoch;
        }
        Ok(())
    }

    fn position(&self) -> serde_json::Value {
        serde_json::json!({ "epoch": self.marked })
    }
}
