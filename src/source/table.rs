//! Tables over files.
//!
//! Enters: the path of `FROM 'path'`, and what a call or statement wishes. Leaves: DataFusion's ListingTable over the files, or
//! a union of several where CSV headers differ. Always holds: the format is known from the ending or
//! from STORED AS; columns match by name; partition columns are typed.

use std::collections::HashMap;
use std::io::{Cursor, Read};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::{FileFormat, FileFormatFactory};
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{LogicalPlanBuilder, cast, col, lit};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::created::FileTableFactory;
use super::file_format::{FuseFormatFactory, fuse_format};
use super::infer::{self, Group};
use super::location::Listed;
use super::stream::StreamFactory;
use super::{DATA_ENDINGS, FileKind, Location, Rejects};
use crate::config::NULL_FOLDER;
use crate::error::{Error, Result, near_name, unknown_format};
use crate::format::csv::Dialect;

/// The formats that CREATE EXTERNAL TABLE … STORED AS knows.
const FORMATS: [&str; 5] = ["PARQUET", "CSV", "JSON", "ARROW", "AVRO"];

/// Makes `STORED AS` of every file format ours.
pub fn register_formats(state: &mut SessionState, rejects: &Arc<Rejects>) -> Result<()> {
    for generator in ["RATE", "NEXMARK"] {
        state.table_factories_mut().insert(generator.to_owned(), Arc::new(StreamFactory));
    }
    for format in ["DEBEZIUM", "RAW", "PROTOBUF"] {
        state.table_factories_mut().insert(format.to_owned(), Arc::new(FileTableFactory::default()));
    }
    super::database::register(state);
    for format in FORMATS {
        state.table_factories_mut().insert(format.to_owned(), Arc::new(FileTableFactory::default()));
        if let Some(factory) = state.get_file_format_factory(format) {
            let factory = FuseFormatFactory { inner: factory, rejects: Arc::clone(rejects) };
            state.register_file_format(Arc::new(factory), true)?;
        }
    }
    Ok(())
}

/// What a call such as `read_csv('x.txt', delim => ';')` wants of its table.
#[derive(Debug, Clone, Default)]
pub(super) struct Wishes {
    /// The format, whatever the ending says.
    pub(super) format: Option<&'static str>,
    /// Options of the format.
    pub(super) options: HashMap<String, String>,
    /// The names and types of all columns.
    pub(super) columns: Option<Vec<(String, DataType)>>,
    /// The names of the columns, in order.
    pub(super) names: Vec<String>,
    /// The types of some columns.
    pub(super) types: Vec<(String, DataType)>,
    /// All columns are text.
    pub(super) all_text: bool,
    /// A column more holds the file's path.
    pub(super) filename: bool,
    /// Folders named `key=value` are no columns.
    pub(super) unpartitioned: bool,
}

/// The table that `FROM 'path'` means, or nothing if `text` is no path.
pub async fn table_for_path(state: &SessionState, text: &str) -> Result<Option<Arc<dyn TableProvider>>> {
    if !Location::looks_like_one(text) {
        return Ok(None);
    }
    wished_table(state, text, &Wishes::default()).await.map(Some)
}

/// The table over the files of `text`.
pub(super) async fn wished_table(state: &SessionState, text: &str, wishes: &Wishes) -> Result<Arc<dyn TableProvider>> {
    let found = find(state, text, wishes).await?;
    if found.united { found.union(state) } else { found.listing(state) }
}

/// Lists the files of `text` and looks into them.
pub(super) async fn find(state: &SessionState, text: &str, wishes: &Wishes) -> Result<Found> {
    let location = Location::parse(text)?;
    let store = state.runtime_env().object_store(&location.url)?;
    let listed = location.files(state).await?;
    let (kind, suffix, files) = match wishes.format {
        None => data_files(&location, listed.files, store.as_ref()).await?,
        Some(format) => forced_files(format, &location, listed.files, store.as_ref()).await?,
    };
    let listed = Listed { files, seen: listed.seen };
    let mut options = format_options(&kind, store.as_ref(), &listed.files).await?;
    if wishes.options.contains_key("delimiter") {
        options.remove("format.delimiter");
    }
    options.extend(wishes.options.iter().map(|(name, value)| (format!("format.{name}"), value.clone())));
    let format = create_format(state, kind.format(), &options)?;
    let mut found = Found::look(state, &store, location, format, listed, wishes).await?;
    found.suffix = suffix;
    Ok(found)
}

/// The files among those listed that a call names, whatever their endings are.
pub(super) async fn forced_files(
    format: &'static str,
    location: &Location,
    mut listed: Vec<ObjectMeta>,
    store: &dyn ObjectStore,
) -> Result<(FileKind, String, Vec<ObjectMeta>)> {
    if listed.is_empty() {
        return Err(location.missing(store).await);
    }
    let of_format =
        |file: &ObjectMeta| FileKind::of(file.location.as_ref()).is_some_and(|kind| kind.format() == format);
    let folder = location.url.is_collection() && location.url.get_glob().is_none();
    if folder && listed.iter().any(of_format) {
        listed.retain(of_format);
    }
    listed.retain(|file| file.size > 0);
    let Some(first) = listed.first() else {
        return Err(Error::query(format!("'{}' is empty: it has no header and no rows", location.text)));
    };
    let known = FileKind::of(first.location.as_ref()).filter(|kind| kind.format() == format);
    let kind = known.unwrap_or_else(|| FileKind::forced(format, first.location.as_ref()));
    let suffix = if folder && known.is_some() { kind.suffix() } else { String::new() };
    listed.retain(|file| file.location.as_ref().ends_with(&suffix));
    Ok((kind, suffix, listed))
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
pub(super) async fn format_options(
    kind: &FileKind,
    store: &dyn ObjectStore,
    files: &[ObjectMeta],
) -> Result<HashMap<String, String>> {
    let mut options = HashMap::new();
    if let Some(name) = kind.compression_name() {
        options.insert("format.compression".to_owned(), name.to_owned());
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

pub(super) fn create_format(
    state: &SessionState,
    name: &str,
    options: &HashMap<String, String>,
) -> Result<Arc<dyn FileFormat>> {
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
pub(super) struct Found {
    location: Location,
    /// The ending that selects them in their folder.
    suffix: String,
    format: Arc<dyn FileFormat>,
    partitions: Vec<(String, DataType)>,
    /// One group, unless they are to be united.
    groups: Vec<Group>,
    /// The columns of all, by name.
    schema: SchemaRef,
    /// True if the groups are read by themselves and united.
    pub(super) united: bool,
}

/// The columns of all files together; those of text files in which no value was seen are text.
fn union(files: &[ObjectMeta], schemas: &[SchemaRef], csv: bool) -> Result<SchemaRef> {
    let same = schemas.windows(2).all(|pair| pair[0] == pair[1]);
    let schema = if same { Arc::clone(&schemas[0]) } else { infer::union(files, schemas, csv)? };
    if !csv || schema.fields().iter().all(|field| *field.data_type() != DataType::Null) {
        return Ok(schema);
    }
    let text = |field: &Arc<Field>| match field.data_type() {
        DataType::Null => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8)),
        _ => Arc::clone(field),
    };
    Ok(Arc::new(Schema::new(schema.fields().iter().map(text).collect::<Vec<_>>())))
}

impl Wishes {
    /// The columns of a file as the user wants them.
    fn apply(&self, schema: &SchemaRef, file: &ObjectMeta, csv: bool) -> Result<SchemaRef> {
        let name = infer::display(file);
        let has = schema.fields().len();
        let count = |given: usize, what: &str| {
            Error::query(format!("{name} has {has} columns, but {given} {what} are given"))
                .hint(format!("sniff_csv('{name}') shows the columns; is the delimiter right?"))
        };
        if let Some(columns) = &self.columns {
            if csv && columns.len() != has {
                return Err(count(columns.len(), "columns"));
            }
            let fields = columns.iter().map(|(name, kind)| Field::new(name, kind.clone(), true));
            return Ok(Arc::new(Schema::new(fields.collect::<Vec<_>>())));
        }
        if self.names.len() > has {
            return Err(count(self.names.len(), "names"));
        }
        let mut fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
        for (field, name) in fields.iter_mut().zip(&self.names) {
            field.set_name(name.clone());
        }
        if self.all_text {
            fields.iter_mut().for_each(|field| field.set_data_type(DataType::Utf8));
        }
        for (column, kind) in &self.types {
            let Some(field) = fields.iter_mut().find(|field| field.name() == column) else {
                let error =
                    Error::sql(format!("types: {name} has no column named {column}")).mark(format!("'{column}'"));
                return Err(match near_name(column, schema.fields().iter().map(|field| field.name().as_str())) {
                    Some(near) => error.hint(format!("did you mean {near}?")),
                    None => error,
                });
            };
            field.set_data_type(kind.clone());
        }
        Ok(Arc::new(Schema::new(fields)))
    }
}

fn same_names(a: &SchemaRef, b: &SchemaRef) -> bool {
    a.fields().iter().map(|field| field.name()).eq(b.fields().iter().map(|field| field.name()))
}

impl Found {
    /// Opens the files.
    pub(super) async fn look(
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        location: Location,
        format: Arc<dyn FileFormat>,
        listed: Listed,
        wishes: &Wishes,
    ) -> Result<Self> {
        let Listed { files, seen } = listed;
        let csv = fuse_format(format.as_ref()).is_some_and(|format| format.csv().is_some());
        let (schemas, dialects): (Vec<_>, Vec<_>) =
            infer::schemas(state, store, &format, &files).await?.into_iter().unzip();
        let schemas = schemas.iter().zip(&files).map(|(schema, file)| wishes.apply(schema, file, csv));
        let schemas = schemas.collect::<Result<Vec<_>>>()?;
        let mut partitions = if wishes.unpartitioned { Vec::new() } else { infer::partitions(&location, &files)? };
        let schema = union(&files, &schemas, csv)?;
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
        let one_dialect = dialects.windows(2).all(|pair| pair[0] == pair[1]);
        let suffix = files.first().map(|file| file.location.as_ref().rsplit('.').next().unwrap_or(""));
        let suffix = if wishes.format.is_some() { "" } else { suffix.unwrap_or("") };
        let listable = location.lists_the_same(suffix, &seen, &files);
        let null_folder = !partitions.is_empty() && infer::has_null_folder(&location, &files);
        let united = !listable || null_folder || wishes.filename || (csv && !(one_header && one_dialect));
        let groups = if united {
            infer::groups(&location, files, schemas, dialects, !partitions.is_empty(), wishes.filename)
        } else {
            let dialect = dialects.into_iter().next().flatten();
            vec![Group { schema: Arc::clone(&schema), dialect, files, folders: Vec::new() }]
        };
        if wishes.filename {
            partitions.push(("filename".to_owned(), DataType::Utf8));
        }
        Ok(Self { location, suffix: String::new(), format, partitions, groups, schema, united })
    }

    /// The format of a group's files.
    fn format(&self, group: Option<&Group>) -> Arc<dyn FileFormat> {
        let dialect = group.and_then(|group| group.dialect.clone());
        let sniffed = dialect.and_then(|dialect| fuse_format(self.format.as_ref())?.with_dialect(dialect));
        sniffed.map_or_else(|| Arc::clone(&self.format), |format| Arc::new(format) as Arc<dyn FileFormat>)
    }

    /// The dialect of the files, if they are CSV files of one.
    pub(super) fn dialect(&self) -> Option<&Dialect> {
        self.groups.first()?.dialect.as_ref()
    }

    /// True if the files are written in more than one way.
    pub(super) fn has_several_dialects(&self) -> bool {
        self.groups.windows(2).any(|pair| pair[0].dialect != pair[1].dialect)
    }

    /// The columns of the files.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// One table over all files.
    fn listing(&self, state: &SessionState) -> Result<Arc<dyn TableProvider>> {
        let single = !self.location.url.is_collection() && self.location.url.get_glob().is_none();
        let options = ListingOptions::new(self.format(self.groups.first()))
            .with_file_extension(if single { "" } else { &self.suffix })
            .with_table_partition_cols(self.partitions.clone());
        table(state, vec![self.location.url.clone()], options, Arc::clone(&self.schema))
    }

    /// A table for each group, all united by name.
    pub(super) fn union(&self, state: &SessionState) -> Result<Arc<dyn TableProvider>> {
        let mut all: Option<LogicalPlanBuilder> = None;
        for group in &self.groups {
            let root = self.location.url.object_store();
            let urls = group.files.iter().map(|file| {
                let url = format!("{}{}", root.as_str(), percent_path(&file.location));
                Ok(ListingTableUrl::parse(url)?)
            });
            let options = ListingOptions::new(self.format(Some(group))).with_file_extension("");
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
                    path if name == "filename" => ScalarValue::from(path),
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

pub(super) fn table(
    state: &SessionState,
    urls: Vec<ListingTableUrl>,
    options: ListingOptions,
    schema: SchemaRef,
) -> Result<Arc<dyn TableProvider>> {
    let config = ListingTableConfig::new_with_multi_paths(urls).with_listing_options(options).with_schema(schema);
    let cache = state.runtime_env().cache_manager.get_file_statistic_cache();
    Ok(Arc::new(ListingTable::try_new(config)?.with_cache(cache)))
}

impl Found {
    /// The columns of the files and, behind them, those of their paths.
    pub(super) fn with_partitions(&self, names: &mut Vec<String>) -> SchemaRef {
        let mut fields: Vec<Arc<Field>> = self.schema.fields().iter().cloned().collect();
        fields.extend(self.partitions.iter().map(|(name, kind)| Arc::new(Field::new(name, kind.clone(), true))));
        if names.is_empty() {
            names.extend(self.partitions.iter().map(|(name, _)| name.clone()));
        }
        Arc::new(Schema::new(fields))
    }
}
