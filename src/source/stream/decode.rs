//! Bytes of a growing file → batches.
//!
//! Enters: whole records of text, or row groups and batches of a binary file. Leaves: batches of the columns that
//! the pipeline needs, matched by name. Always holds: a record that cannot be read is named, with its place.

use std::fs::File;
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::reader::FileReader;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::reader::ChunkReader;

use super::avro;
use super::options::StreamOptions;
use super::table::FileFormat;
use crate::error::{Error, Result};

pub(super) const BATCH_ROWS: usize = 8192;

/// Where the bytes of a binary file are.
#[derive(Debug, Clone)]
pub(super) enum Input {
    Local(PathBuf),
    Memory(Bytes),
}

/// Reads the records of one table.
#[derive(Debug, Clone)]
pub(super) struct Decoder {
    pub(super) format: FileFormat,
    /// The columns of the table.
    table: SchemaRef,
    /// Those that are read, in the order of the table.
    wanted: SchemaRef,
    delimiter: u8,
    quote: u8,
    pub(super) header: bool,
}

impl Decoder {
    pub(super) fn new(
        format: FileFormat,
        table: SchemaRef,
        columns: Vec<usize>,
        options: &StreamOptions,
    ) -> Result<Self> {
        let wanted = Arc::new(table.project(&columns)?);
        let header = format == FileFormat::Csv && options.header;
        Ok(Self { format, table, wanted, delimiter: options.delimiter, quote: options.quote, header })
    }

    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.wanted)
    }

    /// True for formats whose records are parted by line ends.
    pub(super) fn is_text(&self) -> bool {
        matches!(self.format, FileFormat::Json | FileFormat::Csv)
    }

    /// The length of the whole records at the start of `text`.
    pub(super) fn whole_records(&self, text: &[u8]) -> usize {
        if self.format == FileFormat::Json || !text.contains(&self.quote) {
            return text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        }
        let (mut quoted, mut end) = (false, 0);
        for (at, byte) in text.iter().enumerate() {
            if *byte == self.quote {
                quoted = !quoted;
            } else if *byte == b'\n' && !quoted {
                end = at + 1;
            }
        }
        end
    }

    /// Where each record of `text` is; the last one may lack its line end.
    pub(super) fn records(&self, text: &[u8]) -> Vec<std::ops::Range<usize>> {
        let quotes = self.format == FileFormat::Csv;
        let (mut quoted, mut from, mut records) = (false, 0, Vec::new());
        for (at, byte) in text.iter().enumerate() {
            if quotes && *byte == self.quote {
                quoted = !quoted;
            } else if *byte == b'\n' && !quoted {
                records.push(from..at + 1);
                from = at + 1;
            }
        }
        if from < text.len() {
            records.push(from..text.len());
        }
        records
    }

    /// True for text that is a record even if more comes behind it: JSON objects have an end of their own.
    pub(super) fn is_complete(&self, text: &[u8]) -> bool {
        self.format == FileFormat::Json
            && text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
            && serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
    }

    /// The same for one column alone.
    pub(super) fn only(&self, column: &str) -> Self {
        let fields: Vec<_> = self.wanted.fields().iter().filter(|field| field.name() == column).cloned().collect();
        Self { wanted: Arc::new(Schema::new(fields)), ..self.clone() }
    }

    /// The text that a record has in a column; nothing if it has none.
    pub(super) fn value(&self, record: &[u8], names: Option<&[String]>, column: &str) -> Option<String> {
        if self.format == FileFormat::Csv {
            let (schema, _) = self.csv_columns(names);
            let mut reader = csv::ReaderBuilder::new();
            let mut reader = reader.delimiter(self.delimiter).quote(self.quote).has_headers(false).from_reader(record);
            let fields = reader.records().next()?.ok()?;
            return fields.get(schema.index_of(column).ok()?).filter(|text| !text.is_empty()).map(str::to_owned);
        }
        match serde_json::from_slice::<serde_json::Value>(record).ok()?.get(column)? {
            serde_json::Value::Null => None,
            serde_json::Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }

    /// Cuts whole records into pieces of about `bytes`, to be read in parallel.
    pub(super) fn cut(&self, text: &Bytes, bytes: usize) -> Vec<Bytes> {
        if self.format == FileFormat::Csv && text.contains(&self.quote) {
            return vec![text.clone()];
        }
        let mut pieces = Vec::new();
        let mut rest = text.clone();
        while rest.len() > bytes {
            let Some(end) = rest[bytes..].iter().position(|byte| *byte == b'\n') else { break };
            pieces.push(rest.split_to(bytes + end + 1));
        }
        pieces.push(rest);
        pieces
    }

    /// Reads whole records of text. `names` is the header of the file, if it has one.
    pub(super) fn text(&self, text: &[u8], names: Option<&[String]>) -> Result<Vec<RecordBatch>> {
        match self.format {
            FileFormat::Csv => self.csv(text, names),
            _ => self.json(text),
        }
    }

    fn json(&self, text: &[u8]) -> Result<Vec<RecordBatch>> {
        let reader = arrow::json::ReaderBuilder::new(self.schema())
            .with_batch_size(BATCH_ROWS)
            .with_coerce_primitive(true)
            .build(Cursor::new(text))?;
        Ok(reader.collect::<Result<Vec<_>, _>>()?)
    }

    fn csv(&self, text: &[u8], names: Option<&[String]>) -> Result<Vec<RecordBatch>> {
        let (schema, places) = self.csv_columns(names);
        let reader = arrow::csv::ReaderBuilder::new(schema)
            .with_batch_size(BATCH_ROWS)
            .with_delimiter(self.delimiter)
            .with_quote(self.quote)
            .with_projection(places.iter().flatten().copied().collect())
            .build(Cursor::new(text))?;
        let batches = reader.map(|batch| self.by_name(&batch?));
        batches.collect()
    }

    /// The columns of a file, and where among them each wanted one is.
    fn csv_columns(&self, names: Option<&[String]>) -> (SchemaRef, Vec<Option<usize>>) {
        let Some(names) = names else {
            let places = self.wanted.fields().iter().map(|field| self.table.index_of(field.name()).ok());
            return (Arc::clone(&self.table), places.collect());
        };
        let fields = names.iter().map(|name| match self.table.field_with_name(name) {
            Ok(field) => field.clone(),
            Err(_) => Field::new(name, DataType::Utf8, true),
        });
        let schema = Schema::new(fields.collect::<Vec<_>>());
        let places = self.wanted.fields().iter().map(|field| schema.index_of(field.name()).ok()).collect();
        (Arc::new(schema), places)
    }

    /// The names in the first line of a CSV file, and the length of that line; nothing while it is not there.
    pub(super) fn header(&self, start: &[u8]) -> Result<Option<(Vec<String>, usize)>> {
        let mut end = 0;
        let mut quoted = false;
        for (at, byte) in start.iter().enumerate() {
            if *byte == self.quote {
                quoted = !quoted;
            } else if *byte == b'\n' && !quoted {
                end = at + 1;
                break;
            }
        }
        if end == 0 {
            return Ok(None);
        }
        let line = start[..end].strip_prefix(b"\xef\xbb\xbf").unwrap_or(&start[..end]);
        let mut reader = csv::ReaderBuilder::new();
        let mut reader = reader.delimiter(self.delimiter).quote(self.quote).has_headers(false).from_reader(line);
        let record = reader.records().next().transpose();
        let record = record.map_err(|e| Error::query(format!("the header cannot be read: {e}")))?.unwrap_or_default();
        Ok(Some((record.iter().map(str::to_owned).collect(), end)))
    }

    /// True if a file may seem to have its end before it is there.
    pub(super) fn end_is_unsure(&self) -> bool {
        self.format == FileFormat::Avro
    }

    /// Rows in each unit of a binary file; nothing while its end is not there.
    pub(super) fn units(&self, input: &Input) -> Option<Vec<u64>> {
        match self.format {
            FileFormat::Parquet => match input {
                Input::Local(path) => parquet_units(&File::open(path).ok()?),
                Input::Memory(bytes) => parquet_units(bytes),
            },
            FileFormat::Avro => {
                let blocks = match input {
                    Input::Local(path) => avro::blocks(File::open(path).ok()?),
                    Input::Memory(bytes) => avro::blocks(Cursor::new(bytes)),
                };
                Some(blocks?.iter().map(|block| block.rows).collect())
            }
            _ => {
                let reader = match input {
                    Input::Local(path) => {
                        FileReader::try_new(std::io::BufReader::new(File::open(path).ok()?), None).ok()?.num_batches()
                    }
                    Input::Memory(bytes) => FileReader::try_new(Cursor::new(bytes.clone()), None).ok()?.num_batches(),
                };
                // The rows of a batch are not known before it is read.
                Some(vec![BATCH_ROWS as u64; reader])
            }
        }
    }

    /// Reads units `from..to` of a binary file.
    pub(super) fn binary(&self, input: &Input, from: usize, to: usize) -> Result<Vec<RecordBatch>> {
        let name = |e: std::io::Error| Error::query(format!("cannot open it: {e}"));
        match (self.format, input) {
            (FileFormat::Parquet, Input::Local(path)) => self.parquet(File::open(path).map_err(name)?, from, to),
            (FileFormat::Parquet, Input::Memory(bytes)) => self.parquet(bytes.clone(), from, to),
            (FileFormat::Avro, input) => {
                let batches = match input {
                    Input::Local(path) => avro::read(File::open(path).map_err(name)?, from, to)?,
                    Input::Memory(bytes) => avro::read(Cursor::new(bytes), from, to)?,
                };
                batches.iter().map(|batch| self.by_name(batch)).collect()
            }
            (_, Input::Local(path)) => {
                let file = std::io::BufReader::new(File::open(path).map_err(name)?);
                self.arrow(FileReader::try_new(file, None)?, from, to)
            }
            (_, Input::Memory(bytes)) => self.arrow(FileReader::try_new(Cursor::new(bytes.clone()), None)?, from, to),
        }
    }

    fn parquet(&self, input: impl ChunkReader + 'static, from: usize, to: usize) -> Result<Vec<RecordBatch>> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(input)?;
        let fields = builder.schema().fields();
        let wanted = fields.iter().enumerate().filter(|(_, field)| self.wanted.index_of(field.name()).is_ok());
        let roots: Vec<usize> = wanted.map(|(at, _)| at).collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let reader = builder.with_projection(mask).with_batch_size(BATCH_ROWS).with_row_groups((from..to).collect());
        reader.build()?.map(|batch| self.by_name(&batch?)).collect()
    }

    fn arrow<R: std::io::Read + std::io::Seek>(
        &self,
        mut reader: FileReader<R>,
        from: usize,
        to: usize,
    ) -> Result<Vec<RecordBatch>> {
        reader.set_index(from)?;
        reader.take(to - from).map(|batch| self.by_name(&batch?)).collect()
    }

    /// The wanted columns, in their types; one that the file lacks is NULL.
    fn by_name(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let safe = CastOptions { safe: false, ..CastOptions::default() };
        let columns = self.wanted.fields().iter().map(|field| -> Result<ArrayRef> {
            match batch.column_by_name(field.name()) {
                Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
                Some(column) => cast_with_options(column, field.data_type(), &safe)
                    .map_err(|e| Error::query(format!("column {}: {}", field.name(), Error::from(e).message))),
                None if field.is_nullable() => Ok(new_null_array(field.data_type(), batch.num_rows())),
                None => Err(Error::query(format!("column {} is missing, and it is NOT NULL", field.name()))),
            }
        });
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(self.schema(), columns.collect::<Result<_>>()?, &options)?)
    }
}

fn parquet_units(input: &impl ChunkReader) -> Option<Vec<u64>> {
    let metadata = ArrowReaderMetadata::load(input, ArrowReaderOptions::new()).ok()?;
    let groups = metadata.metadata().row_groups();
    Some(groups.iter().map(|group| u64::try_from(group.num_rows()).unwrap_or(0)).collect())
}
