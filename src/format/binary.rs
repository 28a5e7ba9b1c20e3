//! Parquet and Arrow IPC.
//!
//! Enters: batches. Leaves: a Parquet file, an Arrow file, or an Arrow stream. Always holds: a Parquet file
//! has what COPY gives it: zstd, statistics, page index, row groups of [`ROW_GROUP_ROWS`].

use std::io::Write;

use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::{FileWriter, StreamWriter};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use super::{Encoder, Shown};
use crate::config::{CREATED_BY, ROW_GROUP_ROWS};
use crate::error::Result;

type Out = Box<dyn Write + Send>;

pub(super) struct ParquetEncoder(ArrowWriter<Out>);

impl ParquetEncoder {
    pub(super) fn new(schema: &SchemaRef, out: Out) -> Result<Self> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .set_created_by(CREATED_BY.to_owned())
            .build();
        Ok(Self(ArrowWriter::try_new(out, SchemaRef::clone(schema), Some(properties))?))
    }
}

impl Encoder for ParquetEncoder {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        Ok(self.0.write(batch)?)
    }

    fn finish(self: Box<Self>) -> Result<Shown> {
        let mut out = self.0.into_inner()?;
        out.flush()?;
        Ok(Shown::default())
    }
}

pub(super) struct ArrowFileEncoder(FileWriter<Out>);

impl ArrowFileEncoder {
    pub(super) fn new(schema: &SchemaRef, out: Out) -> Result<Self> {
        Ok(Self(FileWriter::try_new(out, schema)?))
    }
}

impl Encoder for ArrowFileEncoder {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        Ok(self.0.write(batch)?)
    }

    fn finish(mut self: Box<Self>) -> Result<Shown> {
        self.0.finish()?;
        self.0.get_mut().flush()?;
        Ok(Shown::default())
    }
}

pub(super) struct ArrowStreamEncoder(StreamWriter<Out>);

impl ArrowStreamEncoder {
    pub(super) fn new(schema: &SchemaRef, out: Out) -> Result<Self> {
        Ok(Self(StreamWriter::try_new(out, schema)?))
    }
}

impl Encoder for ArrowStreamEncoder {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        Ok(self.0.write(batch)?)
    }

    fn finish(mut self: Box<Self>) -> Result<Shown> {
        self.0.finish()?;
        self.0.get_mut().flush()?;
        Ok(Shown::default())
    }
}
