//! An unbounded table, as the planner sees it.
//!
//! Enters: CREATE UNBOUNDED EXTERNAL TABLE. Leaves: its columns, inferred from what is there where they are not
//! declared. Always holds: it cannot be scanned as a table at rest; a pipeline reads it.

#[cfg(feature = "postgres")]
mod database;
#[cfg(feature = "delta")]
mod lake;
mod past;
mod watermark;

use std::collections::HashMap;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::Result as DfResult;
use datafusion::datasource::TableType;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{CreateExternalTable, Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;

use super::generate::Rate;
use super::history::History;
use super::nexmark::NexmarkKind;
use super::ops::{Says, Upkeep};
use super::options::{KafkaOptions, StreamOptions, csv_options, plain};
use crate::change::OnMissing;
use crate::checkpoint::FoundTable;
#[cfg(feature = "postgres")]
use crate::database::Address;
#[cfg(feature = "delta")]
use crate::database::Lake;
use crate::error::{Error, Result, sql_type};
use crate::format::csv::canonical_option;
use crate::kafka::Topic;
use crate::source::{FileKind, Location};

pub use watermark::Watermark;

/// What is said of a table that reads standard input.
pub const STANDARD_INPUT: &str = "standard input";

/// What the values of a topic are before they are objects of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// Text, unless a registry is named: then what their schemas say.
    Plain,
    Avro,
    Protobuf,
}

/// The formats of files that streams are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileFormat {
    Json,
    Csv,
    Parquet,
    Arrow,
    Avro,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Files {
        location: Box<Location>,
        format: FileFormat,
    },
    /// One local text file.
    Follow {
        path: PathBuf,
        format: FileFormat,
    },
    /// A named pipe; without a path: standard input.
    Pipe {
        path: Option<PathBuf>,
        format: FileFormat,
    },
    Rate,
    Nexmark(NexmarkKind),
    /// A topic of Kafka; without a format, values are taken as they are.
    Kafka {
        topic: Topic,
        format: Option<FileFormat>,
        coding: Coding,
    },
    /// A table of Postgres, whose changes are followed.
    #[cfg(feature = "postgres")]
    Postgres(Box<Address>),
    /// A Delta table, whose commits are followed, unless it is what comes before a stream.
    #[cfg(feature = "delta")]
    Delta {
        lake: Box<Lake>,
        history: bool,
    },
}

/// What was found of a growing table in what was there.
#[derive(Debug, Clone)]
pub struct Look {
    /// Its columns.
    pub columns: SchemaRef,
    /// How its CSV files are written, as options.
    pub options: Vec<(String, String)>,
}

/// The columns of growing tables, by their names, as they were found when their pipeline was first run: what came
/// since does not change them.
#[derive(Debug, Default)]
pub struct Remembered(Mutex<HashMap<String, Look>>);

impl Remembered {
    /// Remembers the columns of a table.
    pub fn put(&self, table: String, look: Look) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(table, look);
    }

    fn get(&self, table: &str) -> Option<Look> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(table).cloned()
    }
}

/// An unbounded table.
#[derive(Debug)]
pub struct StreamTable {
    kind: Kind,
    columns: SchemaRef,
    options: StreamOptions,
    /// The columns were found, and not declared.
    found: bool,
    /// How its rows change and go, if they do.
    upkeep: Option<Upkeep>,
    watermark: Option<Watermark>,
    /// What comes before the stream.
    history: Option<Box<History>>,
}

impl StreamTable {
    /// The table of a statement; `look` finds the columns of what is there, should none be declared.
    pub async fn create(
        state: &dyn Session,
        cmd: &CreateExternalTable,
        look: impl Future<Output = Result<Look>>,
    ) -> Result<Self> {
        let mut options = StreamOptions::read(&cmd.options, &cmd.file_type)?;
        let upkeep = upkeep_of(cmd, &options)?;
        let declared = Arc::clone(cmd.schema.inner());
        let kind = Kind::of(cmd, &options)?;
        let mut found = false;
        let known = state.config().get_extension::<Remembered>().and_then(|known| known.get(&cmd.name.to_string()));
        let columns = match (&kind, declared.fields().is_empty()) {
            (Kind::Rate, true) => Rate::columns(),
            (Kind::Rate, false) => return Err(Error::sql("STORED AS RATE has columns of its own: value and ts")),
            (Kind::Nexmark(kind), true) => kind.columns(),
            (Kind::Nexmark(_), false) => {
                return Err(Error::sql("STORED AS NEXMARK has columns of its own, those of the benchmark"));
            }
            (_, false) => match known.filter(|known| options.evolve && begins_with(&known.columns, &declared)) {
                // Columns were added to those that are declared.
                Some(known) => {
                    found = true;
                    known.columns
                }
                None => declared,
            },
            (Kind::Kafka { format: None, .. }, true) => {
                Arc::new(Schema::new(vec![Field::new("value", DataType::Utf8, true)]))
            }
            (Kind::Kafka { topic, coding, .. }, true) if *coding != Coding::Plain => {
                found = true;
                super::topic_schema(topic, *coding, &options, known).await?
            }
            (Kind::Kafka { .. }, true) if cmd.file_type != "DEBEZIUM" => {
                return Err(undeclared(cmd, "messages that come later may have others than those that are there"));
            }
            (Kind::Pipe { .. }, true) => {
                return Err(undeclared(cmd, "a pipe cannot be looked at before it is read"));
            }
            (_, true) if cmd.file_type == "DEBEZIUM" => return Err(undeclared_envelopes(cmd)),
            (_, true) => {
                found = true;
                let look = match known {
                    Some(known) => known,
                    None => look.await.and_then(|look| without_op(look, upkeep.as_ref())).map_err(|error| {
                        let error =
                            error.note(format!("the columns of {} are not declared, and not found there", cmd.name));
                        match error.hint {
                            Some(_) => error,
                            None => error.hint(format!("CREATE STREAM {} (column TYPE, …) waits for them", cmd.name)),
                        }
                    })?,
                };
                let given: Vec<&str> = cmd.options.keys().map(|name| canonical_option(plain(name))).collect();
                let new = look.options.into_iter().filter(|(name, _)| !given.contains(&name.as_str()));
                options = StreamOptions::read(&cmd.options.clone().into_iter().chain(new).collect(), &cmd.file_type)?;
                look.columns
            }
        };
        check_topic(&kind, &columns, &options, upkeep.as_ref())?;
        let watermark = options.event_time.as_ref().map(|time| Watermark::new(state, time, &columns)).transpose()?;
        if matches!(kind, Kind::Rate | Kind::Nexmark(_)) && options.dead_letter.is_some() {
            return Err(Error::sql("a generator has no dead letters").hint("leave out dead_letter"));
        }
        upkeep.as_ref().map_or(Ok(()), |upkeep| upkeep.check(&columns, watermark.is_some()))?;
        let session = state.as_any().downcast_ref::<SessionState>();
        let history = History::of(&options, &columns, upkeep.as_ref(), session)?.map(Box::new);
        Ok(Self { kind, columns, options, found, upkeep, watermark, history })
    }

    /// What comes before the stream.
    pub(super) fn history(&self) -> Option<&History> {
        self.history.as_deref()
    }

    /// Its watermark, if it has one.
    pub fn watermark(&self) -> Option<&Watermark> {
        self.watermark.as_ref()
    }

    /// The same over files at rest, which are not followed.
    pub(super) async fn at_rest(
        state: &dyn Session,
        cmd: &CreateExternalTable,
        look: impl Future<Output = Result<Look>>,
    ) -> Result<Self> {
        let mut table = Self::create(state, cmd, look).await?;
        if table.options.dead_letter.is_some() {
            return Err(Error::sql("a table at rest keeps no dead letters").hint("'on_error' 'skip' leaves lines out"));
        }
        if !cmd.table_partition_cols.is_empty() {
            return Err(Error::sql("a table whose rows change and go cannot be PARTITIONED BY"));
        }
        let location = Location::parse(cmd.locations.first().map_or("", String::as_str))?;
        if let Kind::Follow { format, .. } = table.kind {
            table.kind = Kind::Files { location: Box::new(location.clone()), format };
        }
        let folder = location.url.is_collection() && location.url.get_glob().is_none();
        if matches!(table.kind, Kind::Files { .. }) && !folder {
            let store = state.runtime_env().object_store(&location.url)?;
            if location.files_in(store.as_ref()).await?.is_empty() {
                return Err(location.missing(store.as_ref()).await);
            }
        }
        Ok(table)
    }

    /// The same with more columns, to be planned anew.
    pub fn with_columns(&self, new: &[Field]) -> Look {
        let fields = self.columns.fields().iter().map(|field| field.as_ref().clone()).chain(new.iter().cloned());
        Look { columns: Arc::new(Schema::new(fields.collect::<Vec<_>>())), options: self.written() }
    }

    /// How its files are written, as options.
    fn written(&self) -> Vec<(String, String)> {
        let csv = matches!(
            self.kind,
            Kind::Files { format: FileFormat::Csv, .. } | Kind::Follow { format: FileFormat::Csv, .. }
        );
        let options = if csv { self.options.dialect.found_options() } else { Vec::new() };
        options.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// What is to be kept of its columns: nothing if they are those that are declared.
    pub fn look(&self) -> Option<Look> {
        self.found.then(|| Look { columns: Arc::clone(&self.columns), options: self.written() })
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.kind
    }

    /// Its columns.
    pub fn columns(&self) -> &SchemaRef {
        &self.columns
    }

    /// How its rows change and go; nothing: they only come.
    pub fn upkeep(&self) -> Option<&Upkeep> {
        self.upkeep.as_ref()
    }

    /// What OPTIONS say.
    pub fn options(&self) -> &StreamOptions {
        &self.options
    }

    /// The pipe that it reads, which gives its bytes once.
    pub fn pipe(&self) -> Option<String> {
        match &self.kind {
            Kind::Pipe { path: Some(path), .. } => Some(path.display().to_string()),
            Kind::Pipe { path: None, .. } => Some(STANDARD_INPUT.to_owned()),
            _ => None,
        }
    }

    /// What it is, in one line: a state that was made for one table is not used for another.
    pub fn describe(&self) -> String {
        let columns: Vec<String> =
            self.columns.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
        let columns = columns.join(", ");
        let watermark = self.options.event_time.as_ref();
        let watermark = watermark.map(|time| format!(" watermark for {} as {}", time.column, time.expression));
        let upkeep = self.upkeep.as_ref().map_or(String::new(), Upkeep::describe);
        let table = match &self.kind {
            Kind::Rate => format!("RATE {} a second ({columns})", Rate::rate(&self.options)),
            Kind::Nexmark(kind) => {
                let rate = self.options.rows_per_second.map_or(String::new(), |rate| format!(" {rate} a second"));
                format!("NEXMARK {kind:?} of seed {}{rate}", self.options.seed)
            }
            #[cfg(feature = "postgres")]
            Kind::Postgres(address) => format!("POSTGRES {address:?} ({columns})"),
            #[cfg(feature = "delta")]
            Kind::Delta { lake, .. } => format!("DELTA {lake} ({columns})"),
            Kind::Files { location, format } => format!("{format:?} '{}' ({columns})", location.url),
            Kind::Follow { path, format } => format!("{format:?} '{}' ({columns})", path.display()),
            Kind::Pipe { path: Some(path), format } => format!("{format:?} pipe '{}' ({columns})", path.display()),
            Kind::Pipe { path: None, format } => format!("{format:?} standard input ({columns})"),
            // Brokers move, a topic stays.
            Kind::Kafka { topic, format, coding } => {
                let format = match coding {
                    Coding::Plain => format.map_or("Raw".to_owned(), |format| format!("{format:?}")),
                    coding => format!("{coding:?}"),
                };
                format!("{format} topic '{}' ({columns})", topic.name)
            }
        };
        let history = self.history.as_ref().map_or(String::new(), |history| history.describe());
        table + &upkeep + &watermark.unwrap_or_default() + &history
    }
}

/// The columns of a table that knows its own: those that are declared, those that were found before, or those that it
/// has; an error if one is not there in its type, as `same` compares types. `table`: what errors call it.
#[cfg(any(feature = "postgres", feature = "delta"))]
fn columns_there(
    state: &dyn Session,
    cmd: &CreateExternalTable,
    found: &SchemaRef,
    table: &str,
    same: impl Fn(&DataType, &DataType) -> bool,
) -> Result<SchemaRef> {
    let known = state.config().get_extension::<Remembered>().and_then(|known| known.get(&cmd.name.to_string()));
    let declared = cmd.schema.inner();
    let columns = match known {
        _ if !declared.fields().is_empty() => Arc::clone(declared),
        Some(known) => known.columns,
        None => Arc::clone(found),
    };
    for field in columns.fields() {
        let there = found.field_with_name(field.name()).ok();
        if there.is_none_or(|there| !same(there.data_type(), field.data_type())) {
            let now = there.map_or("is not there".to_owned(), |there| format!("is {}", sql_type(there.data_type())));
            return Err(Error::query(format!("column {} of {table} {now}", field.name()))
                .note(format!("here it is {}", sql_type(field.data_type())))
                .hint("leave the columns out to take those of the table; a pipeline begins anew with --fresh"));
        }
    }
    Ok(columns)
}

fn undeclared(cmd: &CreateExternalTable, why: &str) -> Error {
    Error::sql(format!("the columns of {} must be declared", cmd.name))
        .note(why)
        .hint(format!("CREATE STREAM {} (column TYPE, …) …", cmd.name))
}

fn undeclared_envelopes(cmd: &CreateExternalTable) -> Error {
    Error::sql(format!("the columns of {} must be declared", cmd.name))
        .note("an envelope of Debezium does not tell which types of SQL its values have")
        .hint(format!("CREATE STREAM {} (column TYPE, …) STORED AS DEBEZIUM …", cmd.name))
}

/// What was found without the column that says what a row does.
fn without_op(look: Look, upkeep: Option<&Upkeep>) -> Result<Look> {
    let Some(upkeep) = upkeep else { return Ok(look) };
    Ok(Look { columns: upkeep.without_op(&look.columns)?, ..look })
}

/// How the rows of a table change and go. Compaction of a topic leaves tombstones of rows that are gone.
fn upkeep_of(cmd: &CreateExternalTable, options: &StreamOptions) -> Result<Option<Upkeep>> {
    let mut upkeep = Upkeep::of(cmd, options)?;
    let topic = cmd.locations.first().is_some_and(|location| location.starts_with("kafka://"));
    if let Some(upkeep) = upkeep.as_mut().filter(|upkeep| topic && upkeep.says == Says::Nothing)
        && options.on_missing.is_none()
    {
        upkeep.on_missing = OnMissing::Skip;
    }
    Ok(upkeep)
}

/// Refuses columns and options of topics that cannot be, and options of topics elsewhere.
fn check_topic(kind: &Kind, columns: &SchemaRef, options: &StreamOptions, upkeep: Option<&Upkeep>) -> Result<()> {
    let Kind::Kafka { format, .. } = kind else {
        return match &options.kafka {
            options if *options == KafkaOptions::default() => Ok(()),
            _ => Err(Error::sql(
                "the options start, group, schema_registry, schema_file, message and kafka.… are of topics",
            )
            .hint("LOCATION 'kafka://host:9092/topic'")),
        };
    };
    super::topic_columns(columns)?;
    let of_message = |at: &usize| columns.field(*at).name().starts_with("kafka_");
    let body = (0..columns.fields().len()).filter(|at| !of_message(at));
    match upkeep {
        Some(_) if format.is_none() => {
            return Err(Error::sql("STORED AS RAW takes values as they are, and their rows only come")
                .hint("leave out op_column and PRIMARY KEY"));
        }
        Some(upkeep) if upkeep.key.iter().any(of_message) => {
            return Err(Error::sql("what a message has beside its value is no PRIMARY KEY"));
        }
        Some(upkeep)
            if body.clone().count() < columns.fields().len()
                && (upkeep.key.is_empty() || upkeep.says == Says::Debezium) =>
        {
            return Err(Error::sql(
                "columns of the message itself, such as kafka_offset, are of tables with a PRIMARY KEY, and of those whose rows only come",
            ));
        }
        _ => {}
    }
    let raw: Vec<usize> = body.collect();
    let fits =
        |at: &usize| matches!(columns.field(*at).data_type(), DataType::Utf8 | DataType::Utf8View | DataType::Binary);
    if format.is_none() && !matches!(raw.as_slice(), [one] if fits(one)) {
        return Err(Error::sql("STORED AS RAW has one column for the value, of type VARCHAR or BYTEA")
            .hint("CREATE STREAM t (value VARCHAR) STORED AS RAW …; kafka_key and its like may stand beside it"));
    }
    Ok(())
}

fn begins_with(columns: &SchemaRef, first: &SchemaRef) -> bool {
    columns.fields().iter().zip(first.fields()).filter(|(a, b)| a == b).count() == first.fields().len()
}

impl Look {
    /// The same, to be kept in a state.
    pub fn to_record(&self) -> Result<FoundTable> {
        let mut writer = StreamWriter::try_new(Vec::new(), &self.columns)?;
        writer.finish()?;
        let schema = writer.into_inner()?.iter().map(|byte| format!("{byte:02x}")).collect();
        let columns =
            self.columns.fields().iter().map(|field| format!("{} {}", field.name(), sql_type(field.data_type())));
        Ok(FoundTable { columns: columns.collect(), options: self.options.iter().cloned().collect(), schema })
    }

    /// What a state has kept.
    pub fn from_record(record: &FoundTable) -> Result<Self> {
        let digits = record.schema.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap_or_default());
        let bytes = digits.map(|pair| u8::from_str_radix(pair, 16)).collect::<Result<Vec<_>, _>>();
        let bytes = bytes.map_err(|_| Error::query("the columns in the state cannot be read"))?;
        let columns = StreamReader::try_new(bytes.as_slice(), None)?.schema();
        Ok(Self { columns, options: record.options.clone().into_iter().collect() })
    }
}

impl Kind {
    /// What a statement reads.
    fn of(cmd: &CreateExternalTable, options: &StreamOptions) -> Result<Self> {
        let topic = Topic::parse(cmd.locations.first().map_or("", String::as_str))?;
        Ok(match cmd.file_type.as_str() {
            _ if topic.is_some() => Kind::of_topic(cmd, topic, options)?,
            "RATE" => Kind::Rate,
            "NEXMARK" => Kind::nexmark(cmd, options)?,
            "JSON" | "DEBEZIUM" => Kind::files(cmd, FileFormat::Json, options.lines)?,
            "CSV" => Kind::files(cmd, FileFormat::Csv, true)?,
            "PARQUET" => Kind::files(cmd, FileFormat::Parquet, true)?,
            "ARROW" => Kind::files(cmd, FileFormat::Arrow, true)?,
            "AVRO" => Kind::files(cmd, FileFormat::Avro, true)?,
            other => return Err(Error::sql(format!("a stream cannot be STORED AS {other}"))),
        })
    }

    /// `lines`: a record of text ends with its line.
    fn files(cmd: &CreateExternalTable, format: FileFormat, lines: bool) -> Result<Self> {
        let [one] = cmd.locations.as_slice() else {
            return Err(
                Error::sql("an unbounded table has one LOCATION").hint("a glob such as '{a,b}/*.json' names several")
            );
        };
        let text = matches!(format, FileFormat::Json | FileFormat::Csv);
        let standard = ["-", "/dev/stdin"].contains(&one.as_str());
        let path = if standard { None } else { Location::parse(one)?.local_path() };
        let pipe = path.as_ref().and_then(|path| std::fs::metadata(path).ok()).is_some_and(|f| f.file_type().is_fifo());
        if (standard || pipe) && !text {
            return Err(Error::sql(format!("a pipe cannot be STORED AS {}", cmd.file_type))
                .hint("lines of text can be read from a pipe: CSV and JSON"));
        }
        if standard || pipe {
            if !lines {
                return Err(Error::sql("a pipe cannot be read with 'newline_delimited' 'false'")
                    .hint("it has an object a line"));
            }
            return Ok(Kind::Pipe { path, format });
        }
        let location = Location::parse(one)?;
        let compressed = FileKind::forced("JSON", one).compression.is_compressed();
        let single = !location.url.is_collection() && location.url.get_glob().is_none() && lines && !compressed;
        match path {
            Some(path) if single && text && !path.is_dir() => Ok(Kind::Follow { path, format }),
            _ => Ok(Kind::Files { location: Box::new(location), format }),
        }
    }

    /// The topic that LOCATION names, in a format that messages have.
    fn of_topic(cmd: &CreateExternalTable, topic: Option<Topic>, options: &StreamOptions) -> Result<Self> {
        let ([_], Some(topic)) = (cmd.locations.as_slice(), topic) else {
            return Err(Error::sql("an unbounded table has one LOCATION").hint("make a table of each topic"));
        };
        let format = match cmd.file_type.as_str() {
            "JSON" | "DEBEZIUM" => Some(FileFormat::Json),
            "CSV" => Some(FileFormat::Csv),
            "RAW" => None,
            // They become objects of JSON as they are read.
            "AVRO" | "PROTOBUF" => Some(FileFormat::Json),
            other => {
                return Err(Error::sql(format!("a topic cannot be STORED AS {other}"))
                    .hint("its messages are JSON, CSV, AVRO, PROTOBUF, DEBEZIUM or RAW"));
            }
        };
        let coding = match cmd.file_type.as_str() {
            "AVRO" => Coding::Avro,
            "PROTOBUF" => Coding::Protobuf,
            _ => Coding::Plain,
        };
        if format != Some(FileFormat::Json) && options.kafka.registry.url.is_some() {
            return Err(Error::sql(format!("values STORED AS {} have no schema in a registry", cmd.file_type))
                .hint("STORED AS AVRO, PROTOBUF, JSON and DEBEZIUM may"));
        }
        if !options.lines {
            return Err(Error::sql("a message is one object: newline_delimited says nothing of it"));
        }
        let given = csv_options(&cmd.options);
        let odd = given.iter().find(|(name, value)| match name.as_str() {
            "has_header" => value.as_str() != "false",
            name => ["skip", "comment"].contains(&name),
        });
        if let Some((name, _)) = odd {
            return Err(Error::sql(format!("a message is one record of CSV, and {name} is of files"))
                .hint("columns are declared, in the order of the fields"));
        }
        Ok(Kind::Kafka { topic, format, coding })
    }

    /// The kind that OPTIONS name, or the table's name.
    fn nexmark(cmd: &CreateExternalTable, options: &StreamOptions) -> Result<Self> {
        let name = options.kind.as_deref().unwrap_or_else(|| cmd.name.table());
        NexmarkKind::of(name).map(Kind::Nexmark).ok_or_else(|| {
            Error::sql(format!("'{name}' is no kind of Nexmark events"))
                .hint("OPTIONS ('kind' 'bid'), 'auction' or 'person'; without it, the table's name is the kind")
        })
    }
}

#[async_trait]
impl TableProvider for StreamTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.columns)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DfResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Unsupported; filters.len()])
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        _projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        Err(Error::query("an unbounded table cannot be read as a whole").into())
    }
}

/// `STORED AS RATE` and others that are no files.
#[derive(Debug)]
pub struct StreamFactory;

#[async_trait]
impl TableProviderFactory for StreamFactory {
    async fn create(&self, state: &dyn Session, cmd: &CreateExternalTable) -> DfResult<Arc<dyn TableProvider>> {
        let none = async { Err(Error::sql("a generator has columns of its own")) };
        Ok(Arc::new(StreamTable::create(state, cmd, none).await?))
    }
}
