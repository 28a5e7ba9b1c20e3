//! Rows → the bytes of one file.
//!
//! Enters: batches. Leaves: a Parquet, CSV or NDJSON file in memory. Always holds: a file that grows is at each
//! commit what it would be, had all its rows come at once.

use arrow::array::RecordBatch;
use arrow::csv::WriterBuilder as CsvBuilder;
use arrow::datatypes::SchemaRef;
use arrow::json::writer::{LineDelimited, WriterBuilder as JsonBuilder};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::config::{CREATED_BY, ROW_GROUP_ROWS};
use crate::error::{Error, Result};
use crate::format::{Carrier, carry};

/// The format of a sink's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileEncoding {
    /// Parquet.
    Parquet,
    /// CSV with this delimiter.
    Csv(u8),
    /// An object a line.
    Json,
}

impl FileEncoding {
    /// The ending of file names.
    pub fn ending(self) -> &'static str {
        match self {
            FileEncoding::Parquet => "parquet",
            FileEncoding::Csv(b'\t') => "tsv",
            FileEncoding::Csv(_) => "csv",
            FileEncoding::Json => "json",
        }
    }

    /// The columns as the format has them.
    pub fn schema(self, schema: &SchemaRef) -> Result<SchemaRef> {
        match self {
            FileEncoding::Parquet => Carrier::Parquet,
            FileEncoding::Csv(_) => Carrier::Text,
            FileEncoding::Json => Carrier::Json,
        }
        .schema(schema)
    }
}

/// A file that rows are added to.
pub(super) struct Growing {
    encoding: FileEncoding,
    schema: SchemaRef,
    rows: usize,
    /// Of Parquet, which has its end behind the rows.
    batches: Vec<RecordBatch>,
    /// Of text.
    text: Vec<u8>,
}

impl Growing {
    /// An empty file with these columns, as [`FileEncoding::schema`] gave them.
    pub(super) fn new(encoding: FileEncoding, schema: SchemaRef) -> Self {
        Self { encoding, schema, rows: 0, batches: Vec::new(), text: Vec::new() }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Adds rows.
    pub(super) fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        let columns = batch.columns().iter().zip(self.schema.fields());
        let columns = columns.map(|(column, field)| carry(column, field.data_type())).collect::<Result<Vec<_>>>()?;
        let batch = crate::change::with_columns(&self.schema, columns, batch.num_rows())?;
        match self.encoding {
            FileEncoding::Parquet => self.batches.push(batch.clone()),
            FileEncoding::Csv(delimiter) => {
                let writer = CsvBuilder::new().with_delimiter(delimiter).with_header(self.text.is_empty());
                writer.build(&mut self.text).write(&batch)?;
            }
            FileEncoding::Json => {
                let writer = JsonBuilder::new().with_explicit_nulls(true);
                let mut writer = writer.build::<_, LineDelimited>(&mut self.text);
                writer.write(&batch)?;
                writer.finish()?;
            }
        }
        self.rows += batch.num_rows();
        Ok(())
    }

    /// The bytes of the file as it is.
    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        if self.encoding != FileEncoding::Parquet {
            return Ok(self.text.clone());
        }
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_created_by(CREATED_BY.to_owned());
        let mut writer = ArrowWriter::try_new(Vec::new(), SchemaRef::clone(&self.schema), Some(properties.build()))?;
        for batch in &self.batches {
            writer.write(batch)?;
        }
        Ok(writer.into_inner()?)
    }

    /// How long the text is; a text goes on from there.
    pub(super) fn text_bytes(&self) -> usize {
        self.text.len()
    }

    /// Goes on from a file that had so many rows, and as text so many bytes.
    pub(super) fn resume(&mut self, file: Bytes, rows: usize, text_bytes: usize) -> Result<()> {
        if self.encoding == FileEncoding::Parquet {
            let reader = ParquetRecordBatchReaderBuilder::try_new(file)?.with_limit(rows).build()?;
            for batch in reader {
                self.push(&batch?)?;
            }
        } else {
            self.text = file.get(..text_bytes).unwrap_or_default().to_vec();
            self.rows = if self.text.len() == text_bytes { rows } else { 0 };
        }
        if self.rows != rows {
            return Err(Error::query("it has lost rows since it was written"));
        }
        Ok(())
    }
}
