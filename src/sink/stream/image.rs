//! What readers of a sink's files see, to be compared with what they should.
//!
//! Enters: the bytes of files, and rows as they come out of a batch. Leaves: both in the same columns: of Parquet those
//! of the file, of CSV the fields as text, of NDJSON the line. Always holds: rows that are written as the same bytes
//! are equal, and others are not.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::FileEncoding;
use super::encode::Growing;
use crate::change::{Changes, with_columns};
use crate::error::{Error, Result};
use crate::format::carry;

/// Rows as a reader sees them.
#[derive(Debug)]
pub struct Image {
    /// The columns.
    pub columns: SchemaRef,
    /// The rows.
    pub rows: Vec<Changes>,
}

/// The name of the only column of an NDJSON file's image.
pub const LINE: &str = "line";
/// The name of the column that tells the folder of a row, where columns name folders.
pub const FOLDER: &str = "folder";

impl FileEncoding {
    /// The columns of the image of a file with these columns.
    pub(super) fn image_columns(self, file: &SchemaRef) -> SchemaRef {
        let text = |name: &str| Field::new(name, DataType::Utf8, true);
        match self {
            FileEncoding::Parquet => Arc::clone(file),
            FileEncoding::Csv(_) => {
                Arc::new(Schema::new(file.fields().iter().map(|field| text(field.name())).collect::<Vec<_>>()))
            }
            FileEncoding::Json => Arc::new(Schema::new(vec![text(LINE)])),
        }
    }

    /// The image of a file whose columns are, as [`FileEncoding::schema`] gives them, those of `file`.
    pub(super) fn image_of_file(self, bytes: Bytes, file: &SchemaRef) -> Result<Vec<RecordBatch>> {
        let columns = self.image_columns(file);
        match self {
            FileEncoding::Parquet => {
                let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?.build()?;
                let named = |batch: RecordBatch| with_columns(&columns, batch.columns().to_vec(), batch.num_rows());
                reader.map(|batch| named(batch?)).collect()
            }
            FileEncoding::Csv(delimiter) => csv(&bytes, delimiter, &columns),
            FileEncoding::Json => {
                let text = std::str::from_utf8(&bytes).map_err(|_| Error::query("it is not UTF-8"))?;
                let lines: ArrayRef = Arc::new(StringArray::from(text.lines().collect::<Vec<_>>()));
                let count = lines.len();
                Ok(vec![with_columns(&columns, vec![lines], count)?])
            }
        }
    }

    /// The image of rows that would be written to such a file.
    pub(super) fn image_of_rows(self, rows: &RecordBatch, file: &SchemaRef) -> Result<Vec<RecordBatch>> {
        if self == FileEncoding::Parquet {
            let columns = rows.columns().iter().zip(file.fields());
            let columns = columns.map(|(column, field)| carry(column, field.data_type()));
            return Ok(vec![with_columns(file, columns.collect::<Result<_>>()?, rows.num_rows())?]);
        }
        let mut written = Growing::new(self, Arc::clone(file));
        written.push(rows)?;
        self.image_of_file(Bytes::copy_from_slice(written.version(0)?), file)
    }
}

fn csv(bytes: &[u8], delimiter: u8, columns: &SchemaRef) -> Result<Vec<RecordBatch>> {
    let broken = |error: csv::Error| Error::query(format!("it is not the CSV that was written: {error}"));
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(bytes);
    let mut fields: Vec<Vec<String>> = vec![Vec::new(); columns.fields().len()];
    for record in reader.records() {
        let record = record.map_err(broken)?;
        if record.len() != fields.len() {
            return Err(Error::query(format!("a record has {} fields, and not {}", record.len(), fields.len())));
        }
        fields.iter_mut().zip(&record).for_each(|(field, text)| field.push(text.to_owned()));
    }
    let count = fields.first().map_or(0, Vec::len);
    let arrays = fields.into_iter().map(|field| Arc::new(StringArray::from(field)) as ArrayRef);
    Ok(vec![with_columns(columns, arrays.collect(), count)?])
}

/// Folds the image of a changelog: what is left of the rows when each op is done, without the two last columns.
pub(super) fn fold(encoding: FileEncoding, batch: &RecordBatch) -> Result<Changes> {
    let odd = |op: &str| Error::query(format!("a changelog has the op '{op}'"));
    let weight = |op: &str| match op {
        "insert" => Ok(1),
        "delete" => Ok(-1),
        other => Err(odd(other)),
    };
    if encoding == FileEncoding::Json {
        let (mut rows, mut weights) = (Vec::new(), Vec::new());
        for line in batch.column(0).as_string::<i32>().iter().flatten() {
            let (row, rest) = line.rsplit_once(",\"op\":\"").ok_or_else(|| odd(line))?;
            weights.push(weight(rest.split('"').next().unwrap_or_default())?);
            rows.push(format!("{row}}}"));
        }
        let rows: ArrayRef = Arc::new(StringArray::from(rows));
        let rows = with_columns(&batch.schema(), vec![rows], weights.len())?;
        return Ok(Changes::weighted(rows, Int64Array::from(weights)));
    }
    let last = batch.num_columns() - 2;
    let ops = batch.column(last).as_string::<i32>();
    let weights = ops.iter().map(|op| weight(op.unwrap_or_default())).collect::<Result<Vec<i64>>>()?;
    let rows = batch.project(&(0..last).collect::<Vec<_>>())?;
    Ok(Changes::weighted(rows, Int64Array::from(weights)))
}

/// The rows with the folder that they are in.
pub(super) fn in_folder(changes: Changes, folder: &str) -> Result<Changes> {
    let rows = &changes.rows;
    let mut fields = rows.schema().fields().to_vec();
    fields.push(Arc::new(Field::new(FOLDER, DataType::Utf8, false)));
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(StringArray::from(vec![folder; rows.num_rows()])));
    let rows = with_columns(&Arc::new(Schema::new(fields)), columns, rows.num_rows())?;
    Ok(Changes { rows, weights: changes.weights })
}
