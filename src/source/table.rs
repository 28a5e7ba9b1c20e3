//! Tables over files.
//!
//! Enters: `FROM 'path'` or CREATE EXTERNAL TABLE. Leaves: DataFusion's ListingTable over the files, or
//! a union of several where CSV headers differ. Always holds: the format is known from the ending or
//! from STORED AS; columns match by name; partition columns are typed.

use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::{DFSchema, Result as DfResult, ScalarValue};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::{FileFormat, FileFormatFactory};
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::datasource::listing_table_factory::ListingTableFactory;
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{CreateExternalTable, LogicalPlanBuilder, cast, col, lit};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::file_format::{FuseFormatFactory, IGNORE_UNKNOWN, csv_options};
use super::infer::{self, Group};
use super::stream::{StreamFactory, StreamTable};
use super::{DATA_ENDINGS, FileKind, Location};
use crate::config::{NULL_FOLDER, SCHEMA_SAMPLE_ROWS};
use crate::error::{Error, Result, unknown_format};

/// The formats that CREATE EXTERNAL TABLE … STORED AS knows.
const FORMATS: [&str; 5] = ["PARQUET", "CSV", "JSON", "ARROW", "AVRO"];

/// Makes `STORED AS` of every file format ours.
pub fn register_formats(state: &mut SessionState) -> Result<()> {
    state.table_factories_mut().insert("RATE".to_owned(), Arc::new(StreamFactory));
    for format in FORMATS {
        state.table_factories_mut().insert(format.to_owned(), Arc::new(FileTableFactory::default()));
        if let Some(factory) = state.get_file_format_factory(format) {
            state.register_file_format(Arc::new(FuseFormatFactory(factory)), true)?;
        }
    }
    Ok(())
}

/// The table that `FROM 'path'` means, or nothing if `text` is no path.
pub async fn table_for_path(state: &SessionState, text: &str) -> Result<Option<Arc<dyn TableProvider>>> {
    if !Location::looks_like_one(text) {
        return Ok(None);
    }
    let location = Location::parse(text)?;
    let store = state.runtime_env().object_store(&location.url)?;
    let listed = location.files(state).await?;
    let (kind, suffix, files) = data_files(&location, listed, store.as_ref()).await?;
    let options = format_options(&kind, store.as_ref(), &files).await?;
    let format = create_format(state, kind.format(), &options)?;
    let found = Found::look(state, &store, location, format, files, true).await?;
    if found.united { Ok(Some(found.union(state)?)) } else { Ok(Some(found.listing(state, &suffix)?)) }
}

/// The data files among those listed, their one format and the ending that selects them again.
async fn data_files(
    location: &Location,
    listed: Vec<ObjectMeta>,
    store: &dyn ObjectStore,
) -> Result<(FileKind, String, Vec<ObjectMeta>)> {
    let single = listed.len() == 1 && listed[0].location == *location.url.prefix();
    let mut files: Vec<(FileKind, ObjectMeta)> =
        listed.iter().filter_map(|file| Some((FileKind::of(file.location.as_ref())?, file.clone()))).collect();
    let Some((kind, first)) = files.first().cloned() else {
        if listed.is_empty() || !single {
            return Err(location.missing(store).await);
        }
        return Err(Error::query(format!("the ending of '{}' does not tell its format", location.text)).hint(format!(
            "known endings are .{}; or name the format: CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '{}'",
            DATA_ENDINGS.join(", ."),
            location.text
        )));
    };
    if let Some((other, _)) = files.iter().find(|(other, _)| *other != kind) {
        let (a, b) = (kind.suffix(), other.suffix());
        return Err(Error::query(format!("'{}' holds both {a} and {b} files", location.text))
            .hint(format!("choose with a glob: '{}/*{a}'", location.text.trim_end_matches('/'))));
    }
    let suffix = first.location.as_ref()[first.location.as_ref().len() - kind.suffix().len()..].to_owned();
    files.retain(|(_, file)| file.size > 0 && file.location.as_ref().ends_with(&suffix));
    if files.is_empty() {
        return Err(Error::query(format!("'{}' is empty: it has no header and no rows", location.text)));
    }
    Ok((kind, suffix, files.into_iter().map(|(_, file)| file).collect()))
}

/// What the ending, and for JSON the first byte, say of how to read the files.
async fn format_options(
    kind: &FileKind,
    store: &dyn ObjectStore,
    files: &[ObjectMeta],
) -> Result<HashMap<String, String>> {
    let mut options = HashMap::new();
    if let Some(name) = kind.compression_name() {
        options.insert("format.compression".to_owned(), name.to_owned());
    }
    if kind.format() == "CSV" {
        options.insert("format.schema_infer_max_rec".to_owned(), SCHEMA_SAMPLE_ROWS.to_string());
    }
    if kind.ending == "tsv" {
        options.insert("format.delimiter".to_owned(), "\t".to_owned());
    }
    if kind.format() == "JSON" && starts_with_bracket(store, files, kind.compression).await? {
        options.insert("format.newline_delimited".to_owned(), "false".to_owned());
    }
    Ok(options)
}

/// True for a JSON file that is one array and not a row per line.
async fn starts_with_bracket(
    store: &dyn ObjectStore,
    files: &[ObjectMeta],
    compression: FileCompressionType,
) -> Result<bool> {
    let Some(file) = files.first() else { return Ok(false) };
    let start = GetOptions { range: Some(GetRange::Bounded(0..file.size.min(64 * 1024))), ..Default::default() };
    let bytes = store.get_opts(&file.location, start).await?.bytes().await?;
    let mut text = Vec::new();
    // What is cut off in the middle of compressed data cannot be unpacked to its end.
    let _ = compression.convert_read(Cursor::new(bytes))?.take(256).read_to_end(&mut text);
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    Ok(text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'['))
}

fn create_format(state: &SessionState, name: &str, options: &HashMap<String, String>) -> Result<Arc<dyn FileFormat>> {
    let factory = state.get_file_format_factory(name).ok_or_else(|| unknown_format(name))?;
    factory.create(state, options).map_err(|error| name_bad_option(state, &factory, options, Error::from(error)))
}

/// The error of the one option that is wrong, with its name and value.
fn name_bad_option(
    state: &SessionState,
    factory: &Arc<dyn FileFormatFactory>,
    options: &HashMap<String, String>,
    error: Error,
) -> Error {
    for (name, value) in options {
        let alone = HashMap::from([(name.clone(), value.clone())]);
        if let Err(cause) = factory.create(state, &alone) {
            let cause = Error::from(cause).message;
            return Error::sql(format!(
                "the option '{}' cannot be '{value}': {cause}",
                name.trim_start_matches("format.")
            ));
        }
    }
    error
}

/// Files that were found and what is in them.
struct Found {
    location: Location,
    format: Arc<dyn FileFormat>,
    partitions: Vec<(String, DataType)>,
    /// One group, unless they are to be united.
    groups: Vec<Group>,
    /// The columns of all, by name.
    schema: SchemaRef,
    /// True if the groups are read by themselves and united.
    united: bool,
}

fn same_names(a: &SchemaRef, b: &SchemaRef) -> bool {
    a.fields().iter().map(|field| field.name()).eq(b.fields().iter().map(|field| field.name()))
}

impl Found {
    /// Opens the files. `partitioned`: `key=value` folders are columns.
    async fn look(
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        location: Location,
        format: Arc<dyn FileFormat>,
        files: Vec<ObjectMeta>,
        partitioned: bool,
    ) -> Result<Self> {
        let csv = csv_options(format.as_ref()).is_some();
        let schemas = infer::schemas(state, store, &format, &files).await?;
        let partitions = if partitioned { infer::partitions(&location, &files)? } else { Vec::new() };
        let same = schemas.windows(2).all(|pair| pair[0] == pair[1]);
        let schema = if same { Arc::clone(&schemas[0]) } else { infer::union(&files, &schemas, csv)? };
        if schema.fields().is_empty() {
            return Err(Error::query(format!("no columns found in '{}'", location.text)));
        }
        if let Some((name, _)) = partitions.iter().find(|(name, _)| schema.column_with_name(name).is_some()) {
            return Err(Error::query(format!(
                "column {name} of '{}' is in the files and in their paths",
                location.text
            ))
            .hint("read the files without their folders, by a glob, or write them without that column"));
        }
        let one_header = schemas.windows(2).all(|pair| same_names(&pair[0], &pair[1]));
        let suffix = files.first().map(|file| file.location.as_ref().rsplit('.').next().unwrap_or(""));
        let listable = location.lists_the_same(state, suffix.unwrap_or(""), &files).await?;
        let null_folder = !partitions.is_empty() && infer::has_null_folder(&location, &files);
        let united = !listable || null_folder || (csv && !one_header);
        let groups = if united {
            infer::groups(&location, files, schemas, !partitions.is_empty())
        } else {
            vec![Group { schema: Arc::clone(&schema), files, folders: Vec::new() }]
        };
        Ok(Self { location, format, partitions, groups, schema, united })
    }

    /// One table over all files.
    fn listing(&self, state: &SessionState, suffix: &str) -> Result<Arc<dyn TableProvider>> {
        let single = !self.location.url.is_collection() && self.location.url.get_glob().is_none();
        let options = ListingOptions::new(Arc::clone(&self.format))
            .with_file_extension(if single { "" } else { suffix })
            .with_table_partition_cols(self.partitions.clone());
        table(state, vec![self.location.url.clone()], options, Arc::clone(&self.schema))
    }

    /// A table for each group, all united by name.
    fn union(&self, state: &SessionState) -> Result<Arc<dyn TableProvider>> {
        let mut all: Option<LogicalPlanBuilder> = None;
        for group in &self.groups {
            let root = self.location.url.object_store();
            let urls = group.files.iter().map(|file| {
                let url = format!("{}{}", root.as_str(), percent_path(&file.location));
                Ok(ListingTableUrl::parse(url)?)
            });
            let options = ListingOptions::new(Arc::clone(&self.format)).with_file_extension("");
            let types: Vec<Field> = group
                .schema
                .fields()
                .iter()
                .map(|field| self.schema.field_with_name(field.name()).cloned())
                .collect::<Result<_, _>>()?;
            let part = table(state, urls.collect::<Result<_>>()?, options, Arc::new(Schema::new(types)))?;
            let columns = self.schema.fields().iter().map(|field| match group.schema.column_with_name(field.name()) {
                Some(_) => Ok(col(datafusion::common::Column::from_name(field.name()))),
                None => Ok(cast(lit(ScalarValue::Null), field.data_type().clone()).alias(field.name())),
            });
            let folders = group.folders.iter().map(|(name, value)| {
                let kind = self.partitions.iter().find(|(known, _)| known == name).map(|(_, kind)| kind.clone());
                let value = match value.as_str() {
                    NULL_FOLDER => ScalarValue::Utf8(None),
                    text => ScalarValue::from(percent_decode_str(text).decode_utf8_lossy().into_owned()),
                };
                Ok(cast(lit(value), kind.unwrap_or(DataType::Utf8)).alias(name))
            });
            let plan = LogicalPlanBuilder::scan("files", provider_as_source(part), None)?
                .project(columns.chain(folders).collect::<Result<Vec<_>>>()?)?;
            all = Some(match all {
                Some(before) => before.union(plan.build()?)?,
                None => plan,
            });
        }
        let all = all.ok_or_else(|| Error::query("no files"))?;
        Ok(Arc::new(ViewTable::new(all.build()?, None)))
    }
}

/// A store's path as a URL writes it.
fn percent_path(path: &object_store::path::Path) -> String {
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'=').remove(b'-').remove(b'_').remove(b'.');
    utf8_percent_encode(path.as_ref(), KEPT).to_string()
}

fn table(
    state: &SessionState,
    urls: Vec<ListingTableUrl>,
    options: ListingOptions,
    schema: SchemaRef,
) -> Result<Arc<dyn TableProvider>> {
    let config = ListingTableConfig::new_with_multi_paths(urls).with_listing_options(options).with_schema(schema);
    let cache = state.runtime_env().cache_manager.get_file_statistic_cache();
    Ok(Arc::new(ListingTable::try_new(config)?.with_cache(cache)))
}

/// CREATE EXTERNAL TABLE over files: DataFusion's own factory, given columns that fuse has inferred.
#[derive(Debug, Default)]
pub struct FileTableFactory {
    inner: ListingTableFactory,
}

#[async_trait]
impl TableProviderFactory for FileTableFactory {
    async fn create(&self, state: &dyn Session, cmd: &CreateExternalTable) -> DfResult<Arc<dyn TableProvider>> {
        let Some(session) = state.as_any().downcast_ref::<SessionState>() else {
            return self.inner.create(state, cmd).await;
        };
        if cmd.unbounded {
            let mut plain = cmd.clone();
            plain.unbounded = false;
            plain.options.retain(|name, _| name.starts_with("format."));
            let inferred = self.create(state, &plain);
            return Ok(Arc::new(StreamTable::create(cmd, inferred).await?));
        }
        let mut cmd = cmd.clone();
        if let Some(ready) = prepare(session, &mut cmd).await? {
            return Ok(ready);
        }
        self.inner.create(state, &cmd).await
    }
}

/// Fills in the columns, and the glob that keeps other files out; or gives the finished table.
async fn prepare(state: &SessionState, cmd: &mut CreateExternalTable) -> Result<Option<Arc<dyn TableProvider>>> {
    if cmd.file_type == "CSV" && !cmd.options.contains_key("format.schema_infer_max_rec") {
        cmd.options.insert("format.schema_infer_max_rec".to_owned(), SCHEMA_SAMPLE_ROWS.to_string());
    }
    let declared = !cmd.schema.fields().is_empty();
    if cmd.file_type == "JSON" && declared {
        // Who names the columns may leave some out.
        cmd.options.entry(IGNORE_UNKNOWN.to_owned()).or_insert_with(|| "true".to_owned());
    }
    let format = create_format(state, &cmd.file_type, &cmd.options)?;
    let infer_partitions = state.config_options().execution.listing_table_factory_infer_partitions;
    let partitioned = infer_partitions || !cmd.table_partition_cols.is_empty();
    let mut inferred: Option<SchemaRef> = None;
    for text in &mut cmd.locations {
        let location = Location::parse(text)?;
        let folder = location.url.is_collection() && location.url.get_glob().is_none();
        let store = state.runtime_env().object_store(&location.url)?;
        let mut files = location.files(state).await?;
        if files.is_empty() && !(declared && folder) {
            return Err(location.missing(store.as_ref()).await);
        }
        if folder {
            let suffix = format!(".{}", format.get_ext());
            if files.is_empty() || files.iter().any(|file| file.location.as_ref().ends_with(&suffix)) {
                files.retain(|file| file.location.as_ref().ends_with(&suffix));
                text.push_str(if text.ends_with('/') { "*" } else { "/*" });
                text.push_str(&suffix);
            }
        }
        if declared {
            continue;
        }
        files.retain(|file| file.size > 0);
        if files.is_empty() {
            return Err(Error::query(format!("'{text}' is empty: it has no header and no rows")));
        }
        let found = Found::look(state, &store, location, Arc::clone(&format), files, partitioned).await?;
        if found.united {
            return Ok(Some(found.union(state)?));
        }
        let schema = found.with_partitions(&mut cmd.table_partition_cols);
        if inferred.as_ref().is_some_and(|known| *known != schema) {
            return Err(Error::query(format!("'{text}' has other columns than the locations before it"))
                .hint("make a table of each and unite them: SELECT * FROM a UNION ALL BY NAME SELECT * FROM b"));
        }
        inferred = Some(schema);
    }
    if let Some(schema) = inferred {
        cmd.schema = Arc::new(DFSchema::try_from(schema)?);
    }
    known_columns(cmd)?;
    Ok(None)
}

/// PARTITIONED BY and WITH ORDER name columns of the table.
fn known_columns(cmd: &CreateExternalTable) -> Result<()> {
    let ordered = cmd.order_exprs.iter().flatten().flat_map(|sort| sort.expr.column_refs()).map(|column| &column.name);
    for name in cmd.table_partition_cols.iter().chain(ordered) {
        if cmd.schema.field_with_unqualified_name(name).is_err() {
            let names: Vec<&str> = cmd.schema.fields().iter().map(|field| field.name().as_str()).collect();
            return Err(Error::sql(format!("no column named {name}"))
                .note(format!("the columns here are {}", names.join(", "))));
        }
    }
    Ok(())
}

impl Found {
    /// The columns of the files and, behind them, those of their paths.
    fn with_partitions(&self, names: &mut Vec<String>) -> SchemaRef {
        let mut fields: Vec<Arc<Field>> = self.schema.fields().iter().cloned().collect();
        fields.extend(self.partitions.iter().map(|(name, kind)| Arc::new(Field::new(name, kind.clone(), true))));
        if names.is_empty() {
            names.extend(self.partitions.iter().map(|(name, _)| name.clone()));
        }
        Arc::new(Schema::new(fields))
    }
}
