//! What a format can carry, and what becomes of what it cannot.
//!
//! Enters: the columns of a result that is to be written. Leaves: columns of types that the format has, with
//! the same values; or an error that names the column. Always holds: this is known from the schema, before
//! anything is written, and the same for COPY, INSERT and the command line.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray, StringBuilder, make_array};
use arrow::compute::{CastOptions, can_cast_types, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, IntervalUnit, Schema, SchemaRef, TimeUnit};
use arrow::json::writer::{EncoderOptions, make_encoder};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use arrow::util::display::ArrayFormatter;
use datafusion::common::utils::quote_identifier;

use super::{Encoder, Shown, cell};
use crate::error::{Error, Result};

/// What carries values to a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// CSV and TSV: fields are text.
    Text,
    /// JSON, as an array or as lines.
    Json,
    /// Parquet files.
    Parquet,
    /// Arrow files and streams.
    Arrow,
}

/// A type that a carrier does not have.
struct Foreign(DataType);

impl Carrier {
    /// The carrier of files with this ending, as DataFusion names it.
    pub fn of_ending(ending: &str) -> Option<Self> {
        match ending.trim_start_matches('.') {
            "csv" => Some(Carrier::Text),
            "json" => Some(Carrier::Json),
            "parquet" => Some(Carrier::Parquet),
            "arrow" => Some(Carrier::Arrow),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Carrier::Text => "CSV",
            Carrier::Json => "JSON",
            Carrier::Parquet => "Parquet",
            Carrier::Arrow => "Arrow",
        }
    }

    /// The columns as this carries them.
    pub fn schema(self, schema: &Schema) -> Result<SchemaRef> {
        let fields = schema.fields().iter().map(|field| self.field(field)).collect::<Result<Fields>>()?;
        Ok(Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())))
    }

    /// A column as this carries it.
    pub fn field(self, field: &FieldRef) -> Result<FieldRef> {
        let kind = field.data_type();
        let known = self.kind(kind).and_then(|to| match same_layout(kind, &to) || to == DataType::Utf8 {
            false if !can_cast_types(kind, &to) => Err(Foreign(kind.clone())),
            _ => Ok(to),
        });
        match known {
            Ok(to) if to == *kind => Ok(Arc::clone(field)),
            Ok(to) => Ok(Arc::new(Field::clone(field).with_data_type(to))),
            Err(Foreign(kind)) => {
                let name = quote_identifier(field.name());
                let error = Error::sql(format!("{} cannot carry column {name}: it holds {kind}", self.name()));
                Err(match kind {
                    DataType::Union(..) => {
                        error.hint(format!("take one kind of value out of it: union_extract({name}, …)"))
                    }
                    DataType::Struct(_) => error.hint("leave the empty struct out, or write Arrow"),
                    _ => error.hint(format!("CAST({name} AS VARCHAR) AS {name} writes its text")),
                })
            }
        }
    }

    fn kind(self, kind: &DataType) -> Result<DataType, Foreign> {
        use Carrier::{Arrow, Json, Parquet, Text};
        let child =
            |field: &FieldRef| self.kind(field.data_type()).map(|to| Arc::new(Field::clone(field).with_data_type(to)));
        let foreign = || Err(Foreign(kind.clone()));
        Ok(match (self, kind) {
            (Text, kind) if is_nested(kind) => Json.kind(kind).map(|_| DataType::Utf8)?,
            (Text, _) => kind.clone(),
            (Json | Parquet, DataType::Union(..)) => return foreign(),
            (Json, DataType::Map(entries, sorted)) => {
                let entries = keys_as_text(entries).ok_or_else(|| Foreign(kind.clone()))?;
                DataType::Map(child(&entries)?, *sorted)
            }
            (Parquet, DataType::Interval(IntervalUnit::MonthDayNano)) => return foreign(),
            (Parquet, DataType::Struct(fields)) if fields.is_empty() => return foreign(),
            // Without these, other readers would see numbers.
            (Parquet, DataType::Timestamp(TimeUnit::Second, zone)) => {
                DataType::Timestamp(TimeUnit::Millisecond, zone.clone())
            }
            (Parquet, DataType::Date64) => DataType::Timestamp(TimeUnit::Millisecond, None),
            (Parquet, DataType::Time32(TimeUnit::Second)) => DataType::Time32(TimeUnit::Millisecond),
            // A file has one dictionary a column, a result has one a batch.
            (Arrow, DataType::Dictionary(_, value)) => self.kind(value)?,
            (_, DataType::Dictionary(_, value)) => {
                let to = self.kind(value)?;
                if to == **value { kind.clone() } else { to }
            }
            // Readers of Arrow files want ends that are never NULL.
            (Arrow, DataType::RunEndEncoded(ends, values)) if self.kind(values.data_type())? == *values.data_type() => {
                let ends = Arc::new(Field::clone(ends).with_nullable(false));
                DataType::RunEndEncoded(ends, Arc::clone(values))
            }
            (_, DataType::RunEndEncoded(_, values)) => {
                let to = child(values)?;
                if to == *values { kind.clone() } else { to.data_type().clone() }
            }
            (_, DataType::List(field)) => DataType::List(child(field)?),
            (_, DataType::LargeList(field)) => DataType::LargeList(child(field)?),
            (_, DataType::ListView(field)) => DataType::ListView(child(field)?),
            (_, DataType::LargeListView(field)) => DataType::LargeListView(child(field)?),
            (_, DataType::FixedSizeList(field, size)) => DataType::FixedSizeList(child(field)?, *size),
            (_, DataType::Map(entries, sorted)) => DataType::Map(child(entries)?, *sorted),
            (_, DataType::Struct(fields)) => {
                DataType::Struct(fields.iter().map(child).collect::<Result<Fields, Foreign>>()?)
            }
            _ => kind.clone(),
        })
    }
}

/// True for types that differ in whether the ends of runs may be NULL, or not at all.
fn same_layout(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (DataType::RunEndEncoded(from, a), DataType::RunEndEncoded(to, b)) => {
            from.data_type() == to.data_type() && a == b
        }
        (from, to) => from == to,
    }
}

/// True for values that have values in them.
pub fn is_nested(kind: &DataType) -> bool {
    match kind {
        DataType::Dictionary(_, value) => is_nested(value),
        DataType::RunEndEncoded(_, values) => is_nested(values.data_type()),
        DataType::Union(..) => false,
        kind => kind.is_nested(),
    }
}

/// The entries of a map with keys that JSON has; nothing for keys that have no plain text.
fn keys_as_text(entries: &FieldRef) -> Option<FieldRef> {
    let DataType::Struct(fields) = entries.data_type() else { return None };
    let [key, value] = fields.as_ref() else { return None };
    let kind = match key.data_type() {
        kind @ (DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => kind.clone(),
        kind if kind.is_binary() || is_nested(kind) || !can_cast_types(kind, &DataType::Utf8) => return None,
        _ => DataType::Utf8,
    };
    let key = Arc::new(Field::clone(key).with_data_type(kind));
    let fields = DataType::Struct(vec![key, Arc::clone(value)].into());
    Some(Arc::new(Field::clone(entries).with_data_type(fields)))
}

/// The values as a type that [`Carrier::field`] told.
pub fn carry(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let from = array.data_type();
    if from == to {
        return Ok(Arc::clone(array));
    }
    if *to == DataType::Utf8 && is_nested(from) {
        return Ok(Arc::new(json(array)?));
    }
    if same_layout(from, to) {
        let data = array.to_data().into_builder().data_type(to.clone()).build()?;
        return Ok(make_array(data));
    }
    // An error rather than NULL, should a value not fit.
    let options = CastOptions { safe: false, ..CastOptions::default() };
    Ok(cast_with_options(array, to, &options)?)
}

/// Nested values as JSON.
fn json(array: &ArrayRef) -> Result<StringArray> {
    let to = Carrier::Json.field(&Arc::new(Field::new("value", array.data_type().clone(), true)))?;
    let array = carry(array, to.data_type())?;
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let mut encoder = make_encoder(&to, array.as_ref(), &options)?;
    let nulls = array.logical_nulls();
    let mut texts = StringBuilder::new();
    let mut text = Vec::new();
    for row in 0..array.len() {
        if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            texts.append_null();
            continue;
        }
        text.clear();
        encoder.encode(row, &mut text);
        texts.append_value(String::from_utf8_lossy(&text));
    }
    Ok(texts.finish())
}

/// The texts of plain values, with `null` for NULL.
pub fn texts(array: &ArrayRef, null: &str) -> Result<StringArray> {
    // A Date64 is a day, and its text is not to have hours.
    let array =
        if *array.data_type() == DataType::Date64 { carry(array, &DataType::Date32)? } else { Arc::clone(array) };
    let nulls = array.logical_nulls();
    let formatter = ArrayFormatter::try_new(array.as_ref(), &cell::OPTIONS)?;
    let mut texts = StringBuilder::new();
    for row in 0..array.len() {
        if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            texts.append_value(null);
        } else {
            write!(texts, "{}", formatter.value(row)).map_err(|_| Error::query("a value has no text"))?;
            texts.append_value("");
        }
    }
    Ok(texts.finish())
}

/// Refuses columns that a reader could not tell apart.
pub fn refuse_same_names(schema: &Schema) -> Result<()> {
    let mut names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => {
            let name = quote_identifier(pair[0]);
            Err(Error::sql(format!("two columns of the result are named {}", pair[0]))
                .hint(format!("give one of them another name: {name} AS …")))
        }
        None => Ok(()),
    }
}

/// Rows as the columns of a carrier have them.
pub fn carried(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(array, field)| carry(array, field.data_type())).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(SchemaRef::clone(schema), columns, &options)?)
}

/// An encoder that is given the columns as its format carries them.
pub(super) struct Carried {
    pub(super) schema: SchemaRef,
    pub(super) inner: Box<dyn Encoder>,
}

impl Encoder for Carried {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.inner.write(&carried(&self.schema, batch)?)
    }

    fn finish(self: Box<Self>) -> Result<Shown> {
        self.inner.finish()
    }
}
