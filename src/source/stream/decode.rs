//! Pieces of a growing file → batches.
//!
//! Enters: row groups, batches or blocks of a binary file; text goes on in [`super::records`]. Leaves: batches of the
//! columns that the pipeline needs, matched by name. Always holds: a column is read in the type that the table has.

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
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::ChunkReader;

use super::Read;
use super::avro;
use super::bad::OnError;
use super::ops::{Ops, Says, Upkeep};
use super::options::StreamOptions;
use super::table::FileFormat;
use crate::error::{Error, Result, sql_type};
use crate::format::Envelopes;
use crate::format::csv::Dialect;
use crate::offset::GROWS_KEY;
use crate::source::infer::widen;

pub(super) const BATCH_ROWS: usize = 8192;

/// Where the bytes of a binary file are.
#[derive(Debug, Clone)]
pub(super) enum Input {
    Local(PathBuf),
    Memory(Bytes),
}

/// What a binary file has.
pub(super) struct Units {
    /// The rows of each unit.
    rows: Vec<u64>,
    /// Rows are added behind those that it has: each row is a unit.
    pub(super) grows: bool,
}

impl Units {
    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        if self.grows { self.rows.iter().sum() } else { self.rows.len() as u64 }
    }

    /// Where a piece from `from` on ends that has about `rows` rows, and how many it has.
    pub(super) fn piece(&self, from: u64, rows: u64) -> (u64, u64) {
        if self.grows {
            let to = self.count().min(from.saturating_add(rows.max(1))).max(from);
            return (to, to - from);
        }
        let (mut to, mut sum) = (from, 0);
        for unit in self.rows.iter().skip(usize::try_from(from).unwrap_or(usize::MAX)) {
            if to > from && sum + unit > rows {
                break;
            }
            sum += unit;
            to += 1;
        }
        (to, sum)
    }
}

/// Reads the records of one table.
#[derive(Debug, Clone)]
pub(super) struct Decoder {
    pub(super) format: FileFormat,
    /// The columns of the table.
    pub(super) table: SchemaRef,
    /// Where in the table those are that are read.
    pub(super) columns: Vec<usize>,
    /// Those that are read, in the order of the table.
    pub(super) wanted: SchemaRef,
    /// How records of CSV are written.
    pub(super) dialect: Dialect,
    /// A JSON object stands on one line.
    pub(super) lines: bool,
    /// Columns that the table does not have are told.
    pub(super) evolve: bool,
    /// A record that cannot be read is left out: then all of its columns must be good, not those alone that are read.
    pub(super) lenient: bool,
    /// What rows do, where they do not only come.
    pub(super) ops: Option<Ops>,
    /// Objects are envelopes of Debezium.
    pub(super) envelopes: Option<Envelopes>,
}

impl Decoder {
    pub(super) fn new(
        format: FileFormat,
        table: SchemaRef,
        columns: Vec<usize>,
        options: &StreamOptions,
        upkeep: Option<&Upkeep>,
    ) -> Result<Self> {
        let (dialect, lines) = (options.dialect.clone(), options.lines);
        let (lenient, evolve) = (options.on_error != OnError::Fail, options.evolve);
        let Some(upkeep) = upkeep else {
            let wanted = Arc::new(table.project(&columns)?);
            let (ops, envelopes) = (None, None);
            return Ok(Self { format, table, columns, wanted, dialect, lines, evolve, lenient, ops, envelopes });
        };
        let ops = Some(Ops::new(upkeep, &table, &columns)?);
        let debezium = upkeep.says == Says::Debezium;
        let envelopes = debezium.then(|| Envelopes::new(&table, &upkeep.key, options.writing));
        let read = upkeep.read_schema(&table);
        let columns: Vec<usize> = columns.into_iter().chain(table.fields().len()..read.fields().len()).collect();
        let wanted = Arc::new(read.project(&columns)?);
        Ok(Self { format, table: read, columns, wanted, dialect, lines, evolve, lenient, ops, envelopes })
    }

    /// The columns that it gives.
    pub(super) fn schema(&self) -> SchemaRef {
        self.ops.as_ref().map_or_else(|| Arc::clone(&self.wanted), Ops::schema)
    }

    /// True for formats whose records are parted by line ends.
    pub(super) fn is_text(&self) -> bool {
        matches!(self.format, FileFormat::Json | FileFormat::Csv)
    }

    /// True if a file may seem to have its end before it is there.
    pub(super) fn end_is_unsure(&self) -> bool {
        self.format == FileFormat::Avro
    }

    /// What a binary file has; nothing while its end is not there.
    pub(super) fn units(&self, input: &Input) -> Option<Units> {
        let units = match self.format {
            FileFormat::Parquet => {
                return match input {
                    Input::Local(path) => parquet_units(&File::open(path).ok()?),
                    Input::Memory(bytes) => parquet_units(bytes),
                };
            }
            FileFormat::Avro => {
                let blocks = match input {
                    Input::Local(path) => avro::blocks(File::open(path).ok()?),
                    Input::Memory(bytes) => avro::blocks(Cursor::new(bytes)),
                };
                blocks?.iter().map(|block| block.rows).collect()
            }
            _ => {
                let reader = match input {
                    Input::Local(path) => {
                        FileReader::try_new(std::io::BufReader::new(File::open(path).ok()?), None).ok()?.num_batches()
                    }
                    Input::Memory(bytes) => FileReader::try_new(Cursor::new(bytes.clone()), None).ok()?.num_batches(),
                };
                // The rows of a batch are not known before it is read.
                vec![BATCH_ROWS as u64; reader]
            }
        };
        Some(Units { rows: units, grows: false })
    }

    /// Reads units `from..to` of a binary file.
    pub(super) fn binary(&self, input: &Input, from: usize, to: usize) -> Result<Read> {
        let mut read = self.units_of(input, from, to)?;
        let Some(ops) = &self.ops else { return Ok(read) };
        for batch in &mut read.batches {
            let (rows, bad) = ops.of(batch)?;
            if let Some(bad) = bad.into_iter().next() {
                return Err(Error::query(format!("column {}: {}", bad.column, bad.reason)));
            }
            *batch = rows;
        }
        Ok(read)
    }

    fn units_of(&self, input: &Input, from: usize, to: usize) -> Result<Read> {
        let name = |e: std::io::Error| Error::query(format!("cannot open it: {e}"));
        match (self.format, input) {
            (FileFormat::Parquet, Input::Local(path)) => self.parquet(File::open(path).map_err(name)?, from, to),
            (FileFormat::Parquet, Input::Memory(bytes)) => self.parquet(bytes.clone(), from, to),
            (FileFormat::Avro, input) => {
                let batches = match input {
                    Input::Local(path) => avro::read(File::open(path).map_err(name)?, from, to)?,
                    Input::Memory(bytes) => avro::read(Cursor::new(bytes), from, to)?,
                };
                let new = batches.first().map(|batch| self.new_fields(&batch.schema())).unwrap_or_default();
                let batches = batches.iter().map(|batch| self.by_name(batch)).collect::<Result<_>>()?;
                Ok(Read { batches, new, ..Read::default() })
            }
            (_, Input::Local(path)) => {
                let file = std::io::BufReader::new(File::open(path).map_err(name)?);
                self.arrow(FileReader::try_new(file, None)?, from, to)
            }
            (_, Input::Memory(bytes)) => self.arrow(FileReader::try_new(Cursor::new(bytes.clone()), None)?, from, to),
        }
    }

    fn parquet(&self, input: impl ChunkReader + 'static, from: usize, to: usize) -> Result<Read> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(input)?;
        let new = self.new_fields(builder.schema());
        let fields = builder.schema().fields();
        let wanted = fields.iter().enumerate().filter(|(_, field)| self.wanted.index_of(field.name()).is_ok());
        let roots: Vec<usize> = wanted.map(|(at, _)| at).collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let grows = grows(builder.metadata());
        let reader = builder.with_projection(mask).with_batch_size(BATCH_ROWS);
        let reader = match grows {
            true => reader.with_offset(from).with_limit(to - from),
            false => reader.with_row_groups((from..to).collect()),
        };
        let batches = reader.build()?.map(|batch| self.by_name(&batch?)).collect::<Result<_>>()?;
        Ok(Read { batches, new, ..Read::default() })
    }

    fn arrow<R: std::io::Read + std::io::Seek>(
        &self,
        mut reader: FileReader<R>,
        from: usize,
        to: usize,
    ) -> Result<Read> {
        let new = self.new_fields(&reader.schema());
        reader.set_index(from)?;
        let batches = reader.take(to - from).map(|batch| self.by_name(&batch?)).collect::<Result<_>>()?;
        Ok(Read { batches, new, ..Read::default() })
    }

    /// The columns that a file has and the table does not, where OPTIONS ask for them.
    pub(super) fn new_fields(&self, file: &Schema) -> Vec<Field> {
        let is_new = |field: &&Arc<Field>| {
            self.evolve && self.table.index_of(field.name()).is_err() && *field.data_type() != DataType::Null
        };
        file.fields().iter().filter(is_new).map(|field| field.as_ref().clone().with_nullable(true)).collect()
    }

    /// A column of a file in the type of the table, if that holds all values of its type.
    fn convert(&self, column: &ArrayRef, field: &Field) -> Result<ArrayRef> {
        let (theirs, ours) = (column.data_type(), field.data_type());
        if theirs == ours {
            return Ok(Arc::clone(column));
        }
        if !holds(ours, theirs) {
            return Err(Error::query(format!(
                "column {} is {} there, and {} in the table",
                field.name(),
                sql_type(theirs),
                sql_type(ours)
            ))
            .hint("declare the column in a type that holds both, such as VARCHAR, and start anew with --fresh"));
        }
        let safe = CastOptions { safe: false, ..CastOptions::default() };
        cast_with_options(column, ours, &safe)
            .map_err(|e| Error::query(format!("column {}: {}", field.name(), Error::from(e).message)))
    }

    /// The wanted columns, in their types; one that the file lacks is NULL.
    pub(super) fn by_name(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.wanted.fields().iter().map(|field| -> Result<ArrayRef> {
            match batch.column_by_name(field.name()) {
                Some(column) => self.convert(column, field),
                None if field.is_nullable() => Ok(new_null_array(field.data_type(), batch.num_rows())),
                None => Err(Error::query(format!("column {} is missing, and it is NOT NULL", field.name()))),
            }
        });
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let wanted = Arc::clone(&self.wanted);
        Ok(RecordBatch::try_new_with_options(wanted, columns.collect::<Result<_>>()?, &options)?)
    }
}

/// True if a column of type `ours` holds values of type `theirs` as they are; whole numbers are checked one by one.
fn holds(ours: &DataType, theirs: &DataType) -> bool {
    use DataType::*;
    let text = |kind: &DataType| matches!(kind, Utf8 | LargeUtf8 | Utf8View);
    let binary = |kind: &DataType| matches!(kind, Binary | LargeBinary | BinaryView | FixedSizeBinary(_));
    let list = |kind: &DataType| matches!(kind, List(_) | LargeList(_) | FixedSizeList(_, _) | ListView(_));
    match (ours, theirs) {
        (_, Null) => true,
        (_, Dictionary(_, value)) => holds(ours, value),
        _ if text(ours) => !theirs.is_nested(),
        _ if text(theirs) => false,
        (Timestamp(ours, _), Timestamp(theirs, _)) => ours >= theirs,
        (Decimal128(_, ours), Decimal128(_, theirs)) => ours >= theirs,
        (Date32, Date64) | (Date64, Date32) => true,
        (Time32(_) | Time64(_), Time32(_) | Time64(_)) => true,
        (Struct(_), Struct(_)) | (Map(_, _), Map(_, _)) => true,
        _ if ours.is_integer() && theirs.is_integer() => true,
        _ if binary(ours) && binary(theirs) || list(ours) && list(theirs) => true,
        _ => widen(ours, theirs, false).is_some_and(|both| both == *ours),
    }
}

fn parquet_units(input: &impl ChunkReader) -> Option<Units> {
    let metadata = ArrowReaderMetadata::load(input, ArrowReaderOptions::new()).ok()?;
    let groups = metadata.metadata().row_groups();
    let rows = groups.iter().map(|group| u64::try_from(group.num_rows()).unwrap_or(0)).collect();
    Some(Units { rows, grows: grows(metadata.metadata()) })
}

/// True for a file to which a pipeline adds rows. Its row groups are merged now and then, the order of rows stays.
fn grows(metadata: &ParquetMetaData) -> bool {
    let keys = metadata.file_metadata().key_value_metadata();
    keys.is_some_and(|keys| keys.iter().any(|one| one.key == GROWS_KEY))
}
