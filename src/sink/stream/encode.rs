//! Rows → the bytes of one file.
//!
//! Enters: batches. Leaves: a Parquet, CSV or NDJSON file in memory. Always holds: a file that grows is at each
//! commit what it would be, had all its rows come at once; its bytes are those of the commit before, and more.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::csv::WriterBuilder as CsvBuilder;
use arrow::datatypes::SchemaRef;
use arrow::json::writer::{LineDelimited, WriterBuilder as JsonBuilder};

use super::versions::Grown;
use crate::error::{Error, Result};
use crate::format::{Carrier, carried};
use crate::offset::Epoch;

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
    /// Rows that the next version of a Parquet file has more.
    new: Vec<RecordBatch>,
    content: Content,
}

enum Content {
    Parquet(Grown),
    Text(Vec<u8>),
}

impl Growing {
    /// An empty file with these columns, as [`FileEncoding::schema`] gave them.
    pub(super) fn new(encoding: FileEncoding, schema: SchemaRef) -> Self {
        let content = match encoding {
            FileEncoding::Parquet => Content::Parquet(Grown::new(Arc::clone(&schema))),
            _ => Content::Text(Vec::new()),
        };
        Self { encoding, schema, rows: 0, new: Vec::new(), content }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Adds rows.
    pub(super) fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        let batch = carried(&self.schema, batch)?;
        self.rows += batch.num_rows();
        match &mut self.content {
            Content::Parquet(_) => self.new.push(batch),
            Content::Text(text) => match self.encoding {
                FileEncoding::Csv(delimiter) => {
                    let writer = CsvBuilder::new().with_delimiter(delimiter).with_header(text.is_empty());
                    writer.build(text).write(&batch)?;
                }
                _ => {
                    let writer = JsonBuilder::new().with_explicit_nulls(true);
                    let mut writer = writer.build::<_, LineDelimited>(text);
                    writer.write(&batch)?;
                    writer.finish()?;
                }
            },
        }
        Ok(())
    }

    /// The bytes of the file with what was pushed; its rows are those up to `epoch`.
    pub(super) fn version(&mut self, epoch: Epoch) -> Result<&[u8]> {
        match &mut self.content {
            Content::Parquet(file) => {
                file.add(&std::mem::take(&mut self.new), epoch)?;
                Ok(file.bytes())
            }
            Content::Text(text) => Ok(text),
        }
    }

    /// How long its last version is.
    pub(super) fn bytes(&self) -> usize {
        match &self.content {
            Content::Parquet(file) => file.bytes().len(),
            Content::Text(text) => text.len(),
        }
    }

    /// Goes on from the version of `file` that had so many bytes and rows.
    pub(super) fn resume(&mut self, mut file: Vec<u8>, rows: usize, bytes: usize) -> Result<()> {
        let lost = || Error::query("it has lost rows since it was written");
        if file.len() < bytes {
            return Err(lost());
        }
        self.rows = rows;
        match &mut self.content {
            Content::Parquet(content) => {
                *content = Grown::open(Arc::clone(&self.schema), file, bytes)?;
                if content.rows() == rows { Ok(()) } else { Err(lost()) }
            }
            Content::Text(text) => {
                file.truncate(bytes);
                *text = file;
                Ok(())
            }
        }
    }
}
