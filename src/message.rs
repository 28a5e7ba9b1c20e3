//! Rows and changes as messages of a topic.
//!
//! Enters: rows, or the changes of an epoch. Leaves: messages in JSON, Avro or Debezium's envelopes. Always holds: a
//! message is in the partition of its key, so what becomes of a row is told in order; changes have one row a key.

mod avro;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::change::{Changes, RowEncoder, consolidate, with_columns};
use crate::error::{Error, Result};
use crate::format::{Carrier, json_objects, texts};
use crate::kafka::{Encoding, Outgoing, TopicTarget, Values};
use crate::offset::Epoch;

/// The places of the row that goes and of the one that comes.
type Pair = (Option<usize>, Option<usize>);

/// What makes messages of the rows of a topic.
pub struct Messages {
    values: Values,
    columns: SchemaRef,
    /// The places of the columns of the key.
    key: Vec<usize>,
    /// What writes values in Avro, where that is asked for.
    avro: Option<avro::Records>,
}

impl Messages {
    /// What writes these columns to a topic.
    pub fn new(target: &TopicTarget, columns: SchemaRef) -> Result<Self> {
        let find = |name: &String| Ok(columns.index_of(name)?);
        let key = target.key.iter().map(find).collect::<Result<Vec<_>>>()?;
        // What JSON cannot carry is told before anything is written.
        Carrier::Json.schema(&columns)?;
        Ok(Self { values: target.values, columns, key, avro: None })
    }

    /// Registers the schema of the values, where they are Avro: before the first of them is written.
    pub async fn register(&mut self, target: &TopicTarget) -> Result<()> {
        if target.encoding == Encoding::Avro {
            self.avro = Some(avro::Records::register(&target.topic.name, &self.written(), &target.registry).await?);
        }
        Ok(())
    }

    /// The messages of rows that are new: a row whose key there was already takes its place.
    pub fn of_rows(&self, rows: &RecordBatch, now_micros: i64) -> Result<Vec<Outgoing>> {
        let keys = self.keys(rows)?;
        if self.values == Values::Envelopes {
            let alone = (0..rows.num_rows()).map(|row| (None, Some(row))).collect();
            return self.envelopes(rows, alone, keys, now_micros / 1000);
        }
        self.with_keys(rows, keys)
    }

    /// The messages of an epoch.
    pub fn of(&self, taken: &[Changes], epoch: Epoch, now_micros: i64) -> Result<Vec<Outgoing>> {
        let Some(changes) = consolidate(&self.columns, taken)? else { return Ok(Vec::new()) };
        let (rows, ops) = changes.with_ops()?;
        let keys = self.keys(&rows)?;
        match self.values {
            Values::Rows if self.key.is_empty() => {
                if ops.iter().flatten().any(|op| op != "insert") {
                    return Err(Error::query("a row was retracted that was written to a topic"));
                }
                self.with_keys(&rows, keys)
            }
            Values::Rows => self.upserts(&rows, &ops, keys),
            Values::Changelog => {
                let epochs = Int64Array::from(vec![i64::try_from(epoch).unwrap_or(i64::MAX); rows.num_rows()]);
                let mut columns = rows.columns().to_vec();
                columns.extend([Arc::new(ops) as ArrayRef, Arc::new(epochs)]);
                let rows = with_columns(&self.written(), columns, rows.num_rows())?;
                self.with_keys(&rows, keys)
            }
            Values::Envelopes => self.envelopes(&rows, self.in_pairs(&rows, &ops)?, keys, now_micros / 1000),
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
        match &self.avro {
            Some(records) => records.values(rows),
            None => json_objects(rows),
        }
    }

    /// A message for each row.
    fn with_keys(&self, rows: &RecordBatch, keys: Vec<Option<Vec<u8>>>) -> Result<Vec<Outgoing>> {
        let message = |(value, key)| Outgoing { key, value: Some(value) };
        Ok(self.objects(rows)?.into_iter().zip(keys).map(message).collect())
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
        Ok(json_objects(&of)?.into_iter().map(Some).collect())
    }

    /// The place of the row that goes and of the one that comes, by their key and in the order of the rows.
    fn pairs(&self, rows: &RecordBatch, ops: &StringArray) -> Result<Vec<Pair>> {
        let of = rows.project(&self.key)?;
        let keys = RowEncoder::of(&of.schema())?.encode(of.columns(), of.num_rows())?;
        let mut at: BTreeMap<&[u8], usize> = BTreeMap::new();
        let mut pairs: Vec<Pair> = Vec::new();
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
        let message = |(before, after): Pair| {
            let key = after.or(before).and_then(|row| keys[row].take());
            Outgoing { key, value: after.and_then(|row| values[row].take()) }
        };
        Ok(self.pairs(rows, ops)?.into_iter().map(message).collect())
    }

    /// The same where there may be no key: each row is by itself then.
    fn in_pairs(&self, rows: &RecordBatch, ops: &StringArray) -> Result<Vec<Pair>> {
        if !self.key.is_empty() {
            return self.pairs(rows, ops);
        }
        let pair = |row| if ops.value(row) == "insert" { (None, Some(row)) } else { (Some(row), None) };
        Ok((0..rows.num_rows()).map(pair).collect())
    }

    fn envelopes(
        &self,
        rows: &RecordBatch,
        pairs: Vec<Pair>,
        keys: Vec<Option<Vec<u8>>>,
        millis: i64,
    ) -> Result<Vec<Outgoing>> {
        let objects = self.objects(rows)?;
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
