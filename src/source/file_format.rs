//! DataFusion's file formats with our own look at the columns.
//!
//! Enters: files. Leaves: their columns, found in one pass over the first rows of each; else what the format
//! beneath gives. Always holds: a text that is inferred as a number, date or time is one: nothing is taken for
//! what it merely resembles, and leading zeros stay.
//!
//! DataFusion cuts files at line ends before it looks, and takes a `\` in CSV for an escape there; and it names the
//! files it writes without regard to compression and tabs. Scans of JSON are ours, see [`super::json_scan`].

use std::any::Any;
use std::collections::HashMap;
use std::io::{BufReader, Cursor, Read};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::stats::Precision;
use datafusion::common::{GetExt, Result as DfResult, Statistics};
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::{FileFormat, FileFormatFactory};
use datafusion::datasource::physical_plan::{FileScanConfig, FileSinkConfig, FileSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::physical_expr::LexRequirement;
use datafusion::physical_plan::ExecutionPlan;
use futures::FutureExt;
use object_store::{GetOptions, GetRange, GetResultPayload, ObjectMeta, ObjectStore, ObjectStoreExt};

use super::arrow_scan::{self, Arrow};
use super::csv_format::{self, CsvText};
use super::csv_scan::Csv;
use super::infer::{self, display};
use super::json_scan::{self, Json};
use super::parquet_guard;
use super::scan::Scan;
use super::sniff::{self, Sniffed};
use super::{Rejects, infer_json};
use crate::config::{RECORD_BYTES_LIMIT, parse_bytes, settings};
use crate::error::{Error, Result};
use crate::format::csv::Dialect;
use crate::format::{Members, Problem};

/// Columns from which a table is read in smaller batches.
const WIDE_COLUMNS: usize = 1_000;

/// The option of JSON tables: members that the columns do not have are left out.
pub(super) const IGNORE_UNKNOWN: &str = "format.ignore_unknown";

/// A text format as its options describe it.
#[derive(Debug, Clone)]
enum Text {
    Csv(Box<CsvText>),
    Json(FileCompressionType, Members),
    /// Not text: DataFusion knows the columns.
    No,
}

/// A format of DataFusion's and what is ours about it.
#[derive(Debug)]
pub(super) struct FuseFormat {
    inner: Arc<dyn FileFormat>,
    text: Text,
    rejects: Arc<Rejects>,
}

impl FuseFormat {
    /// `members`: what a JSON scan does about those that the columns do not have.
    fn new(inner: Arc<dyn FileFormat>, csv: Option<CsvText>, members: Members, rejects: Arc<Rejects>) -> Self {
        let json = (inner.as_ref() as &dyn Any).downcast_ref::<JsonFormat>();
        let text = match (csv, json) {
            (Some(csv), _) => Text::Csv(Box::new(csv)),
            (None, Some(json)) => Text::Json(json.options().compression.into(), members),
            (None, None) => Text::No,
        };
        Self { inner, text, rejects }
    }

    /// How files are read, if this is CSV.
    pub(super) fn csv(&self) -> Option<&CsvText> {
        match &self.text {
            Text::Csv(csv) => Some(csv),
            _ => None,
        }
    }

    fn is_arrow(&self) -> bool {
        self.inner.get_ext().ends_with("arrow")
    }

    /// The same for files of another dialect.
    pub(super) fn with_dialect(&self, dialect: Dialect) -> Option<Self> {
        let (inner, csv) = self.csv()?.with_dialect(dialect);
        Some(Self { inner: Arc::new(inner), text: Text::Csv(Box::new(csv)), rejects: Arc::clone(&self.rejects) })
    }

    /// Dialect and columns of a CSV file.
    pub(super) async fn sniff(&self, store: &dyn ObjectStore, file: &ObjectMeta) -> Result<Sniffed> {
        let name = display(file);
        let Some(csv) = self.csv() else { return Err(Error::query(format!("{name}: not a CSV file"))) };
        let (wanted, given) = (csv.dialect.clone(), Arc::clone(&csv.given));
        let sniffed = sniff::look(store, file, csv.options.compression.into(), wanted, given, name.clone()).await?;
        self.rejects.read_as(&name, sniffed.dialect.words());
        Ok(sniffed)
    }

    async fn infer(&self, state: &dyn Session, store: &dyn ObjectStore, file: &ObjectMeta) -> Result<SchemaRef> {
        let name = display(file);
        match self.text.clone() {
            Text::Csv(_) => Ok(self.sniff(store, file).await?.schema),
            Text::Json(compression, _) => {
                let bytes = parse_bytes(&settings(state.config_options()).json_sample)? as u64;
                match json_columns(store, file, compression, bytes, false).await? {
                    Ok(columns) => Ok(columns),
                    Err(problem) => Err(json_scan::explain(store, file, compression, &problem).await),
                }
            }
            Text::No => Err(Error::query(format!("{name}: not a text file"))),
        }
    }
}

/// The columns of a JSON file that grows: its last line may not be whole.
pub(super) async fn growing_json_columns(
    state: &dyn Session,
    store: &dyn ObjectStore,
    file: &ObjectMeta,
    compression: FileCompressionType,
) -> Result<SchemaRef> {
    let bytes = parse_bytes(&settings(state.config_options()).json_sample)? as u64;
    match json_columns(store, file, compression, bytes, true).await? {
        Ok(columns) => Ok(columns),
        Err(problem) => Err(json_scan::explain(store, file, compression, &problem).await),
    }
}

/// The columns of a JSON file, from its first bytes and, if it is larger, from its middle and end.
async fn json_columns(
    store: &dyn ObjectStore,
    file: &ObjectMeta,
    compression: FileCompressionType,
    bytes: u64,
    grows: bool,
) -> Result<Result<SchemaRef, Problem>> {
    let mut sample = Sample::open(store, file, compression, bytes).await?;
    sample.cut |= grows;
    let mut pieces = Vec::new();
    if file.size > bytes && !compression.is_compressed() {
        let length = (bytes / 8).max(1);
        for start in [file.size / 2, file.size.saturating_sub(length)] {
            let end = file.size.min(start + length);
            pieces.push((start, store.get_range(&file.location, start..end).await?));
        }
    }
    blocking(move || infer_json::columns(sample, bytes, pieces)).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(Error::query(format!("a worker crashed: {e}"))))
}

/// The start of a text file, decompressed.
pub(super) struct Sample {
    pub(super) text: Box<dyn Read + Send>,
    /// The text may end in the middle of a record.
    pub(super) cut: bool,
    /// To be set to zero at the end of each record.
    pub(super) unbroken: Arc<AtomicUsize>,
}

/// A reader that ends with an error where a record is longer than [`RECORD_BYTES_LIMIT`]: a few bytes may
/// unpack to a field of gigabytes.
struct Bounded<R> {
    inner: R,
    unbroken: Arc<AtomicUsize>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        // Empty lines are no records, and there may be many.
        let bytes = buffer[..count].iter().filter(|byte| !matches!(byte, b'\n' | b'\r')).count();
        if self.unbroken.fetch_add(bytes, Ordering::Relaxed) > RECORD_BYTES_LIMIT {
            return Err(std::io::Error::other(format!("a record is longer than {} MB", RECORD_BYTES_LIMIT >> 20)));
        }
        Ok(count)
    }
}

impl Sample {
    pub(super) fn new(text: impl Read + Send + 'static, cut: bool) -> Self {
        let unbroken = Arc::new(AtomicUsize::new(0));
        let text = Bounded { inner: text, unbroken: Arc::clone(&unbroken) };
        Self { text: Box::new(text), cut, unbroken }
    }

    /// At least the first `bytes` of a file.
    pub(super) async fn open(
        store: &dyn ObjectStore,
        file: &ObjectMeta,
        compression: FileCompressionType,
        bytes: u64,
    ) -> Result<Self> {
        let whole = store.get(&file.location).await?;
        let (raw, cut): (Box<dyn Read + Send>, bool) = match whole.payload {
            GetResultPayload::File(file, _) => (Box::new(file), false),
            GetResultPayload::Stream(_) => {
                let end = file.size.min(bytes);
                let options = GetOptions { range: Some(GetRange::Bounded(0..end)), ..Default::default() };
                let bytes = store.get_opts(&file.location, options).await?.bytes().await?;
                (Box::new(Cursor::new(bytes)), end < file.size)
            }
        };
        Ok(Self::new(compression.convert_read(BufReader::new(raw))?, cut))
    }
}

#[async_trait]
impl FileFormat for FuseFormat {
    /// The ending of files that this format writes, without the dot.
    fn get_ext(&self) -> String {
        let plain = match &self.text {
            Text::Csv(csv) if csv.dialect.delimiter == b'\t' => "tsv".to_owned(),
            _ => self.inner.get_ext(),
        };
        let compression = self.compression_type().map(|kind| kind.get_ext()).unwrap_or_default();
        format!("{}{compression}", plain.trim_start_matches('.'))
    }

    fn get_ext_with_compression(&self, _compression: &FileCompressionType) -> DfResult<String> {
        Ok(self.get_ext())
    }

    fn compression_type(&self) -> Option<FileCompressionType> {
        self.inner.compression_type()
    }

    async fn infer_schema(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        objects: &[ObjectMeta],
    ) -> DfResult<SchemaRef> {
        if matches!(self.text, Text::No) {
            if self.is_arrow() {
                let mut schemas = Vec::with_capacity(objects.len());
                for file in objects {
                    schemas.push(arrow_scan::columns(Arc::clone(store), file).await?);
                }
                return match schemas.pop() {
                    Some(only) if schemas.is_empty() => Ok(only),
                    last => {
                        schemas.extend(last);
                        Ok(infer::union(objects, &schemas, false)?)
                    }
                };
            }
            return self.inner.infer_schema(state, store, objects).await;
        }
        let mut schemas = Vec::with_capacity(objects.len());
        for file in objects {
            schemas.push(self.infer(state, store.as_ref(), file).await?);
        }
        Ok(infer::union(objects, &schemas, self.csv().is_some())?)
    }

    /// What is known of a file. Statistics of floats leave NaN out, which is larger than all in SQL, so a
    /// minimum and maximum of floats are not known.
    async fn infer_stats(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        table_schema: SchemaRef,
        object: &ObjectMeta,
    ) -> DfResult<Statistics> {
        let found = self.inner.infer_stats(state, store, Arc::clone(&table_schema), object);
        // Statistics of a damaged file may not be of the types that its columns have.
        let mut statistics = AssertUnwindSafe(found).catch_unwind().await.unwrap_or_else(|_| {
            Err(Error::query(format!("cannot read {}: its statistics are damaged", display(object))).into())
        })?;
        for (column, field) in statistics.column_statistics.iter_mut().zip(table_schema.fields()) {
            if field.data_type().is_floating() {
                column.min_value = Precision::Absent;
                column.max_value = Precision::Absent;
            }
        }
        Ok(statistics)
    }

    async fn infer_ordering(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        table_schema: SchemaRef,
        object: &ObjectMeta,
    ) -> DfResult<Option<datafusion::physical_expr::LexOrdering>> {
        self.inner.infer_ordering(state, store, table_schema, object).await
    }

    async fn create_physical_plan(
        &self,
        state: &dyn Session,
        mut conf: FileScanConfig,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        let columns = conf.file_schema().fields().len();
        if columns > WIDE_COLUMNS {
            // Text readers keep some bytes for each column and row of a batch.
            conf.batch_size = Some((WIDE_COLUMNS * 1024 / columns).max(16));
        }
        let ours = conf.file_source();
        if ours.is::<Scan<Csv>>() || ours.is::<Scan<Arrow>>() {
            conf.file_compression_type = self.compression_type().unwrap_or(FileCompressionType::UNCOMPRESSED);
            return Ok(DataSourceExec::from_data_source(conf));
        }
        let plan = self.inner.create_physical_plan(state, conf).await?;
        let scan = plan.downcast_ref::<DataSourceExec>().map(DataSourceExec::data_source);
        let guarded = scan.and_then(|scan| parquet_guard::guarded(scan.downcast_ref::<FileScanConfig>()?));
        Ok(match guarded {
            Some(guarded) => DataSourceExec::from_data_source(guarded),
            None => plan,
        })
    }

    async fn create_writer_physical_plan(
        &self,
        input: Arc<dyn ExecutionPlan>,
        state: &dyn Session,
        conf: FileSinkConfig,
        order_requirements: Option<LexRequirement>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        self.inner.create_writer_physical_plan(input, state, conf, order_requirements).await
    }

    fn file_source(&self, table_schema: TableSchema) -> Arc<dyn FileSource> {
        match &self.text {
            Text::Json(_, members) => Arc::new(Scan::new(Json { members: *members }, table_schema)),
            Text::Csv(csv) if !csv.is_cut() => {
                Arc::new(Scan::new(Csv::new(csv.dialect.clone(), Arc::clone(&self.rejects)), table_schema))
            }
            Text::No if self.is_arrow() => Arc::new(Scan::new(Arrow, table_schema)),
            _ => self.inner.file_source(table_schema),
        }
    }
}

/// Makes [`FuseFormat`]s.
#[derive(Debug)]
pub(super) struct FuseFormatFactory {
    pub(super) inner: Arc<dyn FileFormatFactory>,
    pub(super) rejects: Arc<Rejects>,
}

impl FuseFormatFactory {
    fn format(&self, inner: Arc<dyn FileFormat>, csv: Option<CsvText>, members: Members) -> Arc<dyn FileFormat> {
        Arc::new(FuseFormat::new(inner, csv, members, Arc::clone(&self.rejects)))
    }
}

impl GetExt for FuseFormatFactory {
    fn get_ext(&self) -> String {
        self.inner.get_ext()
    }
}

fn as_csv(format: &dyn FileFormat) -> Option<&CsvFormat> {
    (format as &dyn Any).downcast_ref::<CsvFormat>()
}

impl FileFormatFactory for FuseFormatFactory {
    fn create(&self, state: &dyn Session, options: &HashMap<String, String>) -> DfResult<Arc<dyn FileFormat>> {
        let (mut options, mut members) = (options.clone(), Members::Refused);
        if self.inner.get_ext() == "json"
            && let Some(ignore) = options.remove(IGNORE_UNKNOWN)
        {
            members = match ignore.trim().to_ascii_lowercase().as_str() {
                "true" => Members::Ignored,
                "false" => Members::Refused,
                _ => return Err(Error::sql("it is true or false").into()),
            };
        }
        if as_csv(self.inner.default().as_ref()).is_none() {
            return Ok(self.format(self.inner.create(state, &options)?, None, members));
        }
        let (ours, theirs) = csv_format::split_options(&options);
        csv_format::checked(&ours)?;
        let inner = self.inner.create(state, &theirs).map_err(csv_format::explain_option)?;
        let header = state.config_options().catalog.has_header;
        let csv = csv_text(inner.as_ref(), &ours, header)?;
        Ok(self.format(inner, csv, members))
    }

    fn default(&self) -> Arc<dyn FileFormat> {
        let inner = self.inner.default();
        let csv = csv_text(inner.as_ref(), &HashMap::new(), true).unwrap_or_default();
        self.format(inner, csv, Members::Refused)
    }
}

fn csv_text(inner: &dyn FileFormat, ours: &HashMap<String, String>, has_header: bool) -> Result<Option<CsvText>> {
    as_csv(inner).map(|csv| CsvText::new(csv.options().clone(), ours, has_header)).transpose()
}

/// The format as ours.
pub(super) fn fuse_format(format: &dyn FileFormat) -> Option<&FuseFormat> {
    (format as &dyn Any).downcast_ref::<FuseFormat>()
}
