//! What OPTIONS of an unbounded table say.
//!
//! Enters: names and values. Leaves: [`StreamOptions`]. Always holds: a name or value that means nothing is an error.

use std::collections::HashMap;

use datafusion::datasource::file_format::file_compression_type::FileCompressionType;

use super::bad::OnError;
use crate::change::OnMissing;
use crate::config::{EPOCH_BYTES, EPOCH_FILES, EPOCH_ROWS, IDLE_MICROS, SPOOL_BYTES, SPOOL_LEAST_BYTES, parse_bytes};
use crate::error::{Error, Result, near_name};
use crate::format::csv::{Dialect, Encoding, canonical_option};
use crate::format::{TimeUnit, Writing};
use crate::kafka::{ClientOptions, RegistryOptions};

/// How much an epoch takes from one source at the most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Rows, as far as they are known before they are read.
    pub rows: u64,
    /// Bytes.
    pub bytes: u64,
    /// Files.
    pub files: usize,
}

/// `WATERMARK FOR column AS expression`, and what becomes of rows that are behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct EventTime {
    /// The time of a row.
    pub column: String,
    /// The watermark is the greatest value of this so far; in SQL.
    pub expression: String,
    /// Rows that are late are kept in the folder of dead letters; else they are counted, and dropped.
    pub keeps_late: bool,
    /// Without rows for so long, in microseconds, the table does not hold back the watermarks of others.
    pub idle_micros: Option<i64>,
}

/// Where reading of a topic begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record that is there.
    #[default]
    Earliest,
    /// Behind what is there when the pipeline is first run.
    Latest,
    /// At the first record that is not older, in milliseconds since 1970.
    Millis(i64),
}

/// What OPTIONS say of a topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KafkaOptions {
    /// What clients are given.
    pub client: ClientOptions,
    /// Where reading begins.
    pub start: Start,
    /// The group that shows how far the pipeline is.
    pub group: Option<String>,
    /// Where the schemas of values are.
    pub registry: RegistryOptions,
    /// A file with the schema of all values.
    pub schema_file: Option<String>,
    /// Which message of Protobuf values are.
    pub message: Option<String>,
}

/// `BACKFILL FROM 'folder/*.parquet' [UP TO condition | DEDUPLICATE BY (columns)]`, as options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackfillOptions {
    /// Where the history is.
    pub from: Option<String>,
    /// Rows for which this holds are taken from the history, all others from the stream; in SQL.
    pub up_to: Option<String>,
    /// Rows of the stream whose values of these columns the history has are left out; a name a line.
    pub by: Option<String>,
}

/// The options of an unbounded table.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamOptions {
    /// How much an epoch takes.
    pub limits: Limits,
    /// Files are taken in the order of their modification times, not of their names.
    pub by_time: bool,
    /// CSV: how records are written.
    pub dialect: Dialect,
    /// JSON: an object stands on one line; else files are taken whole.
    pub lines: bool,
    /// Columns that come later are added to the table; else they are left out.
    pub evolve: bool,
    /// Generators: rows a second, if they are given.
    pub rows_per_second: Option<u64>,
    /// Generators: how many rows there are in all; nothing: no end.
    pub rows: Option<u64>,
    /// Generators: the seed.
    pub seed: u64,
    /// Nexmark: which events.
    pub kind: Option<String>,
    /// What becomes of records that cannot be read.
    pub on_error: OnError,
    /// The folder for records that cannot be read.
    pub dead_letter: Option<String>,
    /// A file that is followed is read from its start when it was cut; else that is an error.
    pub restart_on_truncate: bool,
    /// The watermark, if one is declared.
    pub event_time: Option<EventTime>,
    /// Pipes: bytes that are kept in the state at the most.
    pub spool_bytes: u64,
    /// The column that says what a row does.
    pub op_column: Option<String>,
    /// What becomes of a delete of a row that is not there.
    pub on_missing: Option<OnMissing>,
    /// Debezium: how values are written where an envelope does not say.
    pub writing: Writing,
    /// Topics of Kafka.
    pub kafka: KafkaOptions,
    /// What comes before the stream.
    pub backfill: BackfillOptions,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            limits: Limits { rows: EPOCH_ROWS, bytes: EPOCH_BYTES, files: EPOCH_FILES },
            by_time: false,
            dialect: Dialect { repair: false, ..Dialect::default() },
            lines: true,
            evolve: false,
            rows_per_second: None,
            rows: None,
            seed: 0,
            kind: None,
            on_error: OnError::Fail,
            dead_letter: None,
            restart_on_truncate: false,
            event_time: None,
            spool_bytes: SPOOL_BYTES,
            op_column: None,
            on_missing: None,
            writing: Writing::default(),
            kafka: KafkaOptions::default(),
            backfill: BackfillOptions::default(),
        }
    }
}

/// The options of every growing table.
const NAMES: [&str; 24] = [
    "max_rows_per_epoch",
    "max_bytes_per_epoch",
    "max_files_per_epoch",
    "order",
    "rows_per_second",
    "rows",
    "seed",
    "newline_delimited",
    "kind",
    "on_error",
    "dead_letter",
    "on_truncate",
    "max_spool_bytes",
    "schema",
    "watermark",
    "watermark_for",
    "late",
    "idle_timeout",
    "op_column",
    "on_missing",
    "time_unit",
    "decimals",
    "start",
    "group",
];

/// Those of CSV, as for tables at rest.
const CSV_NAMES: [&str; 14] = [
    "delimiter",
    "quote",
    "escape",
    "comment",
    "has_header",
    "skip",
    "trailing_delimiter",
    "nullstr",
    "dateformat",
    "timestampformat",
    "decimal_separator",
    "thousands",
    "null_padding",
    "encoding",
];

impl StreamOptions {
    /// Reads OPTIONS (…) of a table of that format.
    pub fn read(options: &HashMap<String, String>, format: &str) -> Result<Self> {
        let mut this = Self { event_time: event_time(options)?, ..Self::default() };
        for (name, value) in options {
            if format != "CSV" || csv_option(name).is_none() {
                this.set(plain(name), value.trim(), format)?;
            }
        }
        this.set_dialect(Dialect::from_options(&csv_options(options))?)?;
        if !this.lines && (this.on_error != OnError::Fail || this.dead_letter.is_some()) {
            return Err(Error::sql("with 'newline_delimited' 'false' no record can be left out")
                .note("where one that cannot be read ends is known by its line alone")
                .hint("leave out on_error and dead_letter"));
        }
        let keeps_late = this.event_time.as_ref().is_some_and(|event_time| event_time.keeps_late);
        match (this.on_error, &this.dead_letter, options.contains_key("on_error")) {
            (_, None, _) if keeps_late => Err(Error::sql("'late' 'dead_letter' wants a folder")
                .hint("OPTIONS ('late' 'dead_letter', 'dead_letter' 'folder/')")),
            (OnError::Fail | OnError::Skip, Some(_), _) if keeps_late => Ok(this),
            (OnError::DeadLetter, None, _) => Err(Error::sql("'on_error' 'dead_letter' wants a folder")
                .hint("OPTIONS ('on_error' 'dead_letter', 'dead_letter' 'folder/')")),
            (OnError::Fail | OnError::Skip, Some(_), true) => {
                Err(Error::sql("the option dead_letter names a folder that nothing would be written to")
                    .hint("'on_error' 'dead_letter' writes there what cannot be read"))
            }
            (_, Some(_), _) => Ok(Self { on_error: OnError::DeadLetter, ..this }),
            _ => Ok(this),
        }
    }

    /// How CSV files are written.
    pub(super) fn set_dialect(&mut self, dialect: Dialect) -> Result<()> {
        if dialect.encoding != Encoding::Utf8 {
            return Err(Error::sql(format!("a growing table cannot be read as {}", dialect.encoding))
                .hint("it is UTF-8; iconv converts from others"));
        }
        // A repair depends on the rows around, and those on how the input is cut into epochs.
        self.dialect = Dialect { repair: false, ..dialect };
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str, format: &str) -> Result<()> {
        if self.set_source(name, value)? {
            return Ok(());
        }
        let wrong = |means: &str| Error::sql(format!("the option {name} cannot be '{value}'")).hint(means.to_owned());
        let number = || value.replace('_', "").parse::<u64>().ok().filter(|n| *n > 0);
        let count = || number().ok_or_else(|| wrong("it is a number above 0"));
        let truth = || value.parse::<bool>().map_err(|_| wrong("it is true or false"));
        match name {
            "max_rows_per_epoch" => self.limits.rows = count()?,
            "max_bytes_per_epoch" => self.limits.bytes = parse_bytes(value).map_err(|_| wrong("such as 64MB"))? as u64,
            "max_files_per_epoch" => self.limits.files = usize::try_from(count()?).unwrap_or(usize::MAX),
            "order" => {
                self.by_time = match value {
                    "name" => false,
                    "time" | "modified" => true,
                    _ => return Err(wrong("order is 'name' or 'time'")),
                }
            }
            "rows_per_second" => self.rows_per_second = Some(count()?),
            "rows" => self.rows = Some(count()?),
            "seed" => self.seed = value.parse().map_err(|_| wrong("it is a whole number"))?,
            "kind" => self.kind = Some(value.to_ascii_lowercase()),
            "on_error" => {
                self.on_error = match value {
                    "fail" => OnError::Fail,
                    "skip" => OnError::Skip,
                    "dead_letter" => OnError::DeadLetter,
                    _ => return Err(wrong("on_error is 'fail', 'skip' or 'dead_letter'")),
                }
            }
            "dead_letter" => self.dead_letter = Some(value.to_owned()).filter(|folder| !folder.is_empty()),
            "on_truncate" => {
                self.restart_on_truncate = match value {
                    "fail" => false,
                    "restart" => true,
                    _ => return Err(wrong("on_truncate is 'fail' or 'restart'")),
                }
            }
            "schema" => {
                self.evolve = match value {
                    "ignore" => false,
                    "evolve" if format == "CSV" => {
                        return Err(wrong("new columns are found in JSON, Parquet, Arrow and Avro: CSV has no types"));
                    }
                    "evolve" => true,
                    _ => return Err(wrong("schema is 'ignore' or 'evolve'")),
                }
            }
            "max_spool_bytes" => {
                let bytes = parse_bytes(value).ok().filter(|bytes| *bytes >= SPOOL_LEAST_BYTES);
                self.spool_bytes = bytes.ok_or_else(|| wrong("such as 1GB, and at least 1MB"))? as u64;
            }
            // They belong together: see `event_time`.
            "watermark" | "watermark_for" | "late" | "idle_timeout" => {}
            "compression" if ["CSV", "JSON"].contains(&format) => {
                // The ending of each file tells.
                let _: FileCompressionType = value.parse().map_err(|_| wrong("it is gzip, bzip2, xz or zstd"))?;
            }
            "newline_delimited" if format == "JSON" => self.lines = truth()?,
            "op_column" => self.op_column = Some(value.to_owned()).filter(|column| !column.is_empty()),
            "on_missing" | "time_unit" | "decimals" => self.set_change(name, value, format)?,
            _ => return Err(unknown(name, format)),
        }
        Ok(())
    }
}

const STARTS: &str = "start is 'earliest', 'latest' or a time: '2026-01-31 12:00:00' (UTC), or milliseconds since 1970";

fn start(value: &str) -> Option<Start> {
    match value.to_ascii_lowercase().as_str() {
        "earliest" => return Some(Start::Earliest),
        "latest" => return Some(Start::Latest),
        _ => {}
    }
    let nanos = || arrow::compute::kernels::cast_utils::string_to_timestamp_nanos(value).ok();
    value.parse().ok().or_else(|| nanos().map(|nanos| nanos.div_euclid(1_000_000))).map(Start::Millis)
}

/// What is said of the time of rows.
fn event_time(options: &HashMap<String, String>) -> Result<Option<EventTime>> {
    let option =
        |name: &str| options.get(name).or_else(|| options.get(&format!("format.{name}"))).map(|text| text.trim());
    let wrong = |name: &str, value: &str, means: &str| {
        Error::sql(format!("the option {name} cannot be '{value}'")).hint(means.to_owned())
    };
    let (Some(column), Some(expression)) = (option("watermark_for"), option("watermark")) else {
        return match ["watermark_for", "watermark", "late", "idle_timeout"]
            .into_iter()
            .find(|name| option(name).is_some())
        {
            Some(name) => Err(Error::sql(format!("the option {name} is of no use without a watermark"))
                .hint("WATERMARK FOR ts AS ts - INTERVAL '5 seconds' stands among the columns")),
            None => Ok(None),
        };
    };
    let keeps_late = match option("late") {
        None | Some("drop") => false,
        Some("dead_letter") => true,
        Some(other) => return Err(wrong("late", other, "late is 'drop' or 'dead_letter'")),
    };
    let idle_micros = match option("idle_timeout") {
        None => Some(IDLE_MICROS),
        Some("never") => None,
        Some(text) => {
            let micros =
                seconds(text).filter(|seconds| *seconds > 0).and_then(|seconds| seconds.checked_mul(1_000_000));
            Some(micros.ok_or_else(|| wrong("idle_timeout", text, "such as '30 s', '5 min', or 'never'"))?)
        }
    };
    let (column, expression) = (column.to_owned(), expression.to_owned());
    Ok(Some(EventTime { column, expression, keeps_late, idle_micros }))
}

/// A time of whole seconds, minutes, hours or days.
fn seconds(text: &str) -> Option<i64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim().trim_end_matches('s') {
        "" | "sec" | "second" => 1,
        "m" | "min" | "minute" => 60,
        "h" | "hour" => 3600,
        "d" | "day" => 86_400,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(unit)
}

impl StreamOptions {
    /// Options of topics and of histories; false if it is none of them.
    fn set_source(&mut self, name: &str, value: &str) -> Result<bool> {
        let text = Some(value.to_owned()).filter(|text| !text.is_empty());
        match name {
            "backfill_from" => self.backfill.from = text,
            "backfill_up_to" => self.backfill.up_to = text,
            "backfill_by" => self.backfill.by = text,
            "group" => self.kafka.group = text,
            "schema_file" => self.kafka.schema_file = text,
            "message" => self.kafka.message = text,
            _ if self.kafka.registry.set(name, value)? => {}
            "start" => {
                let wrong = || Error::sql(format!("the option start cannot be '{value}'")).hint(STARTS);
                self.kafka.start = start(value).ok_or_else(wrong)?;
            }
            _ => match name.strip_prefix("kafka.") {
                Some(name) => self.kafka.client.set(name, value)?,
                None => return Ok(false),
            },
        }
        Ok(true)
    }

    /// Options of tables whose rows change and go.
    fn set_change(&mut self, name: &str, value: &str, format: &str) -> Result<()> {
        let wrong =
            |means: &str| Err(Error::sql(format!("the option {name} cannot be '{value}'")).hint(means.to_owned()));
        if name != "on_missing" && format != "DEBEZIUM" {
            return Err(Error::sql(format!("the option {name} is of tables STORED AS DEBEZIUM")));
        }
        match (name, value) {
            ("on_missing", "fail") => self.on_missing = Some(OnMissing::Fail),
            ("on_missing", "skip") => self.on_missing = Some(OnMissing::Skip),
            ("on_missing", _) => return wrong("on_missing is 'fail' or 'skip'"),
            ("time_unit", "ms") => self.writing.time_unit = Some(TimeUnit::Milli),
            ("time_unit", "us") => self.writing.time_unit = Some(TimeUnit::Micro),
            ("time_unit", "ns") => self.writing.time_unit = Some(TimeUnit::Nano),
            ("time_unit", _) => {
                return wrong("time_unit is 'ms', 'us' or 'ns': what the numbers of TIMESTAMP and TIME count");
            }
            (_, "string") => self.writing.base64 = Some(false),
            (_, "base64") => self.writing.base64 = Some(true),
            _ => {
                return wrong(
                    "decimals are a 'string', such as \"12.50\", or 'base64', as Debezium writes them by default",
                );
            }
        }
        Ok(())
    }
}

/// The name of an option as users write it.
pub(super) fn plain(name: &str) -> &str {
    name.strip_prefix("format.").unwrap_or(name)
}

/// The options among these that say how records of CSV are written, by their one name.
pub fn csv_options(options: &HashMap<String, String>) -> HashMap<String, String> {
    let own = options.iter().filter_map(|(name, value)| Some((csv_option(name)?.to_owned(), value.clone())));
    own.collect()
}

/// The name of an option of CSV.
fn csv_option(name: &str) -> Option<&'static str> {
    let canonical = canonical_option(plain(name));
    CSV_NAMES.into_iter().find(|known| *known == canonical)
}

fn unknown(name: &str, format: &str) -> Error {
    let error = Error::sql(format!("an unbounded table STORED AS {format} has no option '{name}'"));
    if ["ignore_errors", "store_rejects", "repair"].contains(&name) {
        return error.hint("'on_error' says what becomes of records that cannot be read: fail, skip or dead_letter");
    }
    let csv = if format == "CSV" { CSV_NAMES.as_slice() } else { &[] };
    let names: Vec<&str> = csv.iter().chain(&NAMES).copied().collect();
    match near_name(name, names.iter().copied()) {
        Some(near) => error.hint(format!("did you mean {near}?")),
        None => error.hint(format!("options are {}", names.join(", "))),
    }
}
