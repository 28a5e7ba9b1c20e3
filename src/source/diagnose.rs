//! Where exactly bad text is.
//!
//! Enters: the error of a scan, and the plan that scanned. Leaves: the same error with file, line, column
//! and text, and the option that helps. Always holds: this reads files only after something failed.
//!
//! A scan cuts large files at line ends and reads the pieces in parallel, so its line numbers count from
//! a place that the user does not know. The files are read again from their starts, as raw records.

use std::io::Read;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::physical_plan::{CsvSource, FileScanConfig, FileSource, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::find_value::find_value;
use super::infer::display;
use crate::error::{Error, Kind, clip};

/// How records are written in a CSV file.
struct CsvShape {
    delimiter: u8,
    quote: u8,
    escape: Option<u8>,
    comment: Option<u8>,
    has_header: bool,
    compression: FileCompressionType,
}

impl CsvShape {
    fn of_source(source: &CsvSource, compression: FileCompressionType) -> Self {
        Self {
            delimiter: source.delimiter(),
            quote: source.quote(),
            escape: source.escape(),
            comment: source.comment(),
            has_header: source.has_header(),
            compression,
        }
    }

    fn reader(&self, text: Box<dyn Read>) -> csv::Reader<Box<dyn Read>> {
        csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(self.delimiter)
            .quote(self.quote)
            .escape(self.escape)
            .comment(self.comment)
            .from_reader(text)
    }
}

/// A line with more or fewer fields than the others.
pub(super) fn ragged(name: &str, line: u64, record: &csv::ByteRecord, width: usize, delimiter: u8) -> Error {
    Error::query(format!("{name}, line {line}: {} fields, but the file has {width} columns", record.len()))
        .note(format!("the line is: {}", shown(record, delimiter)))
        .hint("OPTIONS ('format.truncated_rows' 'true') fills missing fields with NULL; a delimiter in a field needs quotes")
}

/// Bytes that are no text.
pub(super) fn not_utf8(name: &str, line: u64, column: &str, text: &str) -> Error {
    let column = if column.is_empty() { String::new() } else { format!(", column {column}") };
    Error::query(format!("{name}, line {line}{column}: not UTF-8"))
        .note(format!("the text is: {}", clip(text)))
        .hint("convert the file first, for example: iconv -f latin1 -t utf-8")
}

/// What a record reader found wrong, as far as its message tells.
enum Complaint {
    /// This text of column `column` (from 0) is not of the type.
    Value { text: String, kind: String, column: usize },
    /// A record with more or fewer fields than the others.
    Fields,
    /// Bytes that are not UTF-8.
    Utf8,
}

impl Complaint {
    fn read(message: &str) -> Option<Self> {
        if message.contains("invalid UTF-8") || message.contains("invalid utf-8") {
            return Some(Self::Utf8);
        }
        if message.contains("incorrect number of fields") || message.contains("unequal lengths") {
            return Some(Self::Fields);
        }
        let rest = message.split_once("Error while parsing value '")?.1;
        let (text, rest) = rest.split_once("' as type '")?;
        let (kind, rest) = rest.split_once("' for column ")?;
        let column = rest.split(' ').next()?.parse().ok()?;
        Some(Self::Value { text: text.to_owned(), kind: kind.to_owned(), column })
    }
}

/// Adds file, line and column to the error of a running plan, if a text file caused it.
pub async fn explain_scan_error(
    plan: &Arc<dyn ExecutionPlan>,
    context: &Arc<TaskContext>,
    error: DataFusionError,
) -> Error {
    let text = error.to_string().to_lowercase();
    let damaged = text.contains("parquet");
    let unpacked = ["deflate", "frame", "eof", "zstd", "xz", "corrupt"].iter().any(|word| text.contains(word));
    let error = Error::from(error);
    if error.kind != Kind::Query {
        return error;
    }
    // `'abc' is not of type INT`, of a CAST.
    if let Some((value, kind)) = error.message.strip_prefix('\'').and_then(|rest| rest.rsplit_once("' is not of type "))
        && let Some(place) = find_value(plan, context, value).await
    {
        return Error { message: format!("{place}: '{}' is not of type {kind}", clip(value)), ..error };
    }
    let mut scans = vec![Arc::clone(plan)];
    while let Some(node) = scans.pop() {
        scans.extend(node.children().into_iter().cloned());
        let Some(scan) = node.downcast_ref::<DataSourceExec>() else { continue };
        let files = scan.data_source().downcast_ref::<FileScanConfig>().map(files_of).unwrap_or_default();
        if files.iter().any(|file| error.message.starts_with(&display(file))) {
            // It is told already.
            return error;
        }
        if unpacked
            && let Some(config) = scan.data_source().downcast_ref::<FileScanConfig>()
            && let Some(found) = search_compressed(config, context).await
        {
            return found;
        }
        let found = if let Some((config, source)) = scan.downcast_to_file_source::<CsvSource>() {
            let Some(complaint) = Complaint::read(&error.message) else { continue };
            let shape = CsvShape::of_source(source, config.file_compression_type);
            search_csv(config, source.table_schema().file_schema(), &shape, &complaint, context).await
        } else if let Some((config, _)) = scan.downcast_to_file_source::<ParquetSource>() {
            if damaged { search_parquet(config, context).await } else { None }
        } else {
            continue;
        };
        if let Some(found) = found {
            return found;
        }
    }
    error
}

/// What made a plan stumble: a file of Parquet that is damaged in a way that its reader did not expect, or else `error`.
pub async fn explain_panic(plan: &Arc<dyn ExecutionPlan>, context: &Arc<TaskContext>, error: Error) -> Error {
    let (mut scans, mut files) = (vec![Arc::clone(plan)], Vec::new());
    while let Some(node) = scans.pop() {
        scans.extend(node.children().into_iter().cloned());
        let Some(scan) = node.downcast_ref::<DataSourceExec>() else { continue };
        let Some((config, _)) = scan.downcast_to_file_source::<ParquetSource>() else { continue };
        if let Some(found) = search_parquet(config, context).await {
            return found;
        }
        files.extend(files_of(config).iter().map(display));
    }
    files.sort_unstable();
    files.dedup();
    // A reader of whole files may be content with what a reader of ranges stumbles over.
    match files.as_slice() {
        [] => error,
        [file] => {
            Error::query(format!("cannot read {file}: its pages are not where it says")).hint("the file is damaged")
        }
        files => error.note(format!("one of {} files of Parquet may be damaged: read them one by one", files.len())),
    }
}

async fn open(
    store: &dyn ObjectStore,
    file: &ObjectMeta,
    compression: FileCompressionType,
) -> crate::error::Result<Box<dyn Read>> {
    if let object_store::GetResultPayload::File(file, _) = store.get(&file.location).await?.payload {
        return Ok(Box::new(compression.convert_read(std::io::BufReader::new(file))?));
    }
    let bytes = store.get(&file.location).await?.bytes().await?;
    Ok(Box::new(compression.convert_read(std::io::Cursor::new(bytes))?))
}

async fn search_csv(
    config: &FileScanConfig,
    schema: &SchemaRef,
    shape: &CsvShape,
    complaint: &Complaint,
    context: &TaskContext,
) -> Option<Error> {
    let store = context.runtime_env().object_store(&config.object_store_url).ok()?;
    for file in files_of(config) {
        let text = open(store.as_ref(), &file, shape.compression).await.ok()?;
        if let Some(found) = search_records(&file, text, shape, complaint, Some(schema)) {
            return Some(found);
        }
    }
    None
}

/// Each file of a scan once, in order of names: a large file is scanned in several ranges.
fn files_of(config: &FileScanConfig) -> Vec<ObjectMeta> {
    let all = config.file_groups.iter().flat_map(|group| group.files());
    let mut files: Vec<ObjectMeta> = all.map(|file| file.object_meta.clone()).collect();
    files.sort_by(|a, b| a.location.cmp(&b.location));
    files.dedup_by(|a, b| a.location == b.location);
    files
}

fn search_records(
    file: &ObjectMeta,
    text: Box<dyn Read>,
    shape: &CsvShape,
    complaint: &Complaint,
    schema: Option<&SchemaRef>,
) -> Option<Error> {
    let name = display(file);
    let mut reader = shape.reader(text);
    let mut record = csv::ByteRecord::new();
    let mut header: Vec<String> = Vec::new();
    let mut width = schema.map(|schema| schema.fields().len());
    let mut first = true;
    while reader.read_byte_record(&mut record).ok()? {
        let line = record.position().map_or(0, csv::Position::line);
        let is_header = std::mem::take(&mut first) && shape.has_header;
        if is_header {
            header = record.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        }
        let width = *width.get_or_insert(record.len());
        let column_name = |at: usize| match schema.and_then(|schema| schema.fields().get(at)) {
            Some(field) => field.name().clone(),
            None => header.get(at).cloned().unwrap_or_else(|| format!("{}", at + 1)),
        };
        match complaint {
            Complaint::Fields if record.len() != width => {
                return Some(ragged(&name, line, &record, width, shape.delimiter));
            }
            Complaint::Utf8 => {
                if let Some(at) = record.iter().position(|field| std::str::from_utf8(field).is_err()) {
                    return Some(not_utf8(&name, line, &column_name(at), &String::from_utf8_lossy(&record[at])));
                }
            }
            Complaint::Value { text, kind, column } if !is_header && record.get(*column) == Some(text.as_bytes()) => {
                let column = column_name(*column);
                return Some(
                    Error::query(format!("{name}, line {line}, column {column}: '{}' is not of type {kind}", clip(text)))
                        .note(format!("the first {} rows of each file decide the types", crate::config::SCHEMA_SAMPLE_ROWS))
                        .hint(format!(
                            "declare the type: CREATE EXTERNAL TABLE t ({column} VARCHAR, …) STORED AS CSV LOCATION '{name}'"
                        )),
                );
            }
            _ => {}
        }
    }
    None
}

fn shown(record: &csv::ByteRecord, delimiter: u8) -> String {
    let fields: Vec<String> = record.iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect();
    clip(&fields.join(&char::from(delimiter).to_string()))
}

/// Names the Parquet file that cannot be read to its end. Only local files are tried.
async fn search_parquet(config: &FileScanConfig, context: &TaskContext) -> Option<Error> {
    let store = context.runtime_env().object_store(&config.object_store_url).ok()?;
    for file in files_of(config) {
        let object_store::GetResultPayload::File(handle, _) = store.get(&file.location).await.ok()?.payload else {
            return None;
        };
        let read = move || -> Result<(), ArrowError> {
            ParquetRecordBatchReaderBuilder::try_new(handle)?.build()?.try_for_each(|batch| batch.map(drop))
        };
        let cause = match tokio::task::spawn_blocking(read).await {
            Ok(Ok(())) => continue,
            Ok(Err(cause)) => Error::from(cause).message,
            Err(_) => "its pages are not what they say".to_owned(),
        };
        return Some(Error::query(format!("{}: {cause}", display(&file))).hint("the file is damaged"));
    }
    None
}

/// Names the compressed file that cannot be unpacked to its end.
async fn search_compressed(config: &FileScanConfig, context: &TaskContext) -> Option<Error> {
    if !config.file_compression_type.is_compressed() {
        return None;
    }
    let store = context.runtime_env().object_store(&config.object_store_url).ok()?;
    for file in files_of(config) {
        let mut text = open(store.as_ref(), &file, config.file_compression_type).await.ok()?;
        if let Err(cause) = std::io::copy(&mut text, &mut std::io::sink()) {
            return Some(
                Error::query(format!("{}: the compressed data is damaged: {cause}", display(&file)))
                    .hint("it may have been cut off: fetch or write the file again"),
            );
        }
    }
    None
}
