//! Every limit and default of fuse, and the DataFusion switches that it sets.
//!
//! Enters: flags of the command line and `SET fuse.… = …`. Leaves: a [`Settings`] inside DataFusion's
//! own options, so that `SHOW` and `information_schema.df_settings` list it.
//! Always holds: each flag of `fuse query` has a setting here with a sentence that explains it.

use std::any::Any;

use datafusion::common::Result as DfResult;
use datafusion::common::config::{ConfigEntry, ConfigExtension, ConfigOptions, ExtensionOptions};
use datafusion::common::extensions_options;
use datafusion::prelude::SessionConfig;

use crate::error::{Error, Result};

extensions_options! {
    /// The settings of fuse by their names, see [`Settings`].
    pub struct Fields {
        /// How results are printed: table, expanded, csv, tsv, json, ndjson, markdown, parquet, arrow or svg. Empty: by the ending of fuse.output, else table.
        pub format: String, default = String::new()
        /// The file that results are written to, in one atomic step. Empty: standard output.
        pub output: String, default = String::new()
        /// Threads that a statement may use. 0: one per core.
        pub threads: usize, default = 0
        /// Memory that a statement may use before it spills to disk, such as 8GB. Empty: three quarters of the machine's.
        pub memory_limit: String, default = String::new()
        /// Folder for what does not fit in memory. Empty: the system's folder for temporary files.
        pub temp_dir: String, default = String::new()
        /// Print to standard error how long each statement took.
        pub timing: bool, default = false
        /// Print nothing but data and errors.
        pub quiet: bool, default = false
        /// What COPY does with a folder that already holds files: error, append or replace. OPTIONS ('mode' '…') overrides it.
        pub copy_mode: String, default = "error".to_owned()
        /// Rows of a table shown on a terminal, the first and last ones of a longer result. 0: all.
        pub table_rows: usize, default = 40
        /// Bytes that a function which builds strings (repeat, lpad, rpad, …) may make of one batch of rows, such as 256MB.
        pub function_bytes: String, default = "256MB".to_owned()
        /// Bytes of each JSON file that are read to find its columns. More of a larger file is seen with more, such as 1GB.
        pub json_sample: String, default = "8MB".to_owned()
        /// What a pipeline does that has to compute something anew from all input at each change: allow, warn or error.
        pub on_full_recompute: String, default = "warn".to_owned()
    }
}

/// The settings of fuse, `SET fuse.name = value`.
#[derive(Debug, Clone, Default)]
pub struct Settings(Fields);

impl ConfigExtension for Settings {
    const PREFIX: &'static str = "fuse";
}

impl std::ops::Deref for Settings {
    type Target = Fields;

    fn deref(&self) -> &Fields {
        &self.0
    }
}

impl std::ops::DerefMut for Settings {
    fn deref_mut(&mut self) -> &mut Fields {
        &mut self.0
    }
}

/// As [`Fields`] does it, but listed under their full names.
impl ExtensionOptions for Settings {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    fn set(&mut self, key: &str, value: &str) -> DfResult<()> {
        self.0.set(key, value)
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        let named = |entry: ConfigEntry| ConfigEntry { key: format!("{}.{}", Self::PREFIX, entry.key), ..entry };
        self.0.entries().into_iter().map(named).collect()
    }
}

/// Rows and bytes that the printers hold back to find column widths.
pub const TABLE_WINDOW_ROWS: usize = 4096;
/// Bytes of the last result that the interactive session keeps for `.last` and `.plot`.
pub const KEPT_RESULT_BYTES: usize = 64 << 20;
/// Rows that a chart draws.
pub const CHART_ROWS: usize = 50_000;
/// Rows of a Parquet row group: large enough to compress well, small enough that two cores share a file.
pub const ROW_GROUP_ROWS: usize = 256 * 1024;
/// What the footers of Parquet files name as their writer.
pub const CREATED_BY: &str = concat!("fuse version ", env!("CARGO_PKG_VERSION"));
/// Stack of the thread that parses and plans. Address space only: what is not touched costs nothing.
pub const PLANNER_STACK_BYTES: usize = 1 << 30;
/// Stack of each worker thread.
pub const WORKER_STACK_BYTES: usize = 64 << 20;
/// Levels of nesting that the parser accepts.
pub const NESTING_LIMIT: usize = 250;
/// Operands of one chain of AND or OR from which it is planned as a balanced tree.
pub const CHAIN_OPERANDS: usize = 16;
/// Operands that one statement's AND and OR chains may have in all: planning takes time quadratic in it.
pub const CHAIN_OPERANDS_LIMIT: usize = 20_000;
/// The value of the partition folder whose rows have NULL, as Hive, Spark and DuckDB write it.
pub const NULL_FOLDER: &str = "__HIVE_DEFAULT_PARTITION__";
/// Bytes of SQL that standard input may hold.
pub const SCRIPT_BYTES_LIMIT: u64 = 64 << 20;
/// Rows that ORDER BY with LIMIT keeps in a heap in memory. More are sorted as a whole, which can spill.
pub const TOP_ROWS_IN_MEMORY: usize = 100_000;
/// The largest number of threads.
pub const MOST_THREADS: usize = 1024;
/// Operands of one chain of any other operator, such as `+`: each is a level of nesting.
pub const EXPRESSION_OPERANDS_LIMIT: usize = 1_000;
/// Tables that a statement may read beyond those that it writes, once the queries of its WITH are in their places.
pub const INLINED_TABLES_LIMIT: u64 = 2_000;
/// Columns of a text file.
pub const COLUMNS_LIMIT: usize = 100_000;
/// Bytes of one record of a text file.
pub const RECORD_BYTES_LIMIT: usize = 64 << 20;
/// Bytes that a piece of a file may unpack to before it is asked how little they are packed in.
pub const UNPACKED_BYTES_LIMIT: u64 = 512 << 20;
/// How many bytes one byte may then unpack to. Real data is below 100; a bomb is far above 1,000.
pub const PACKING_LIMIT: u64 = 500;
/// Bytes of JSON that become one batch at the most, however few its rows are.
pub const JSON_BATCH_BYTES: u64 = 64 << 20;
/// Levels of nesting of a JSON value.
pub const JSON_DEPTH_LIMIT: usize = 500;
/// Rows read from the start of each CSV file to find the types of its columns.
pub const SCHEMA_SAMPLE_ROWS: usize = 20_480;
/// Bytes read from the start of each text file to find the types of its columns.
pub const SCHEMA_SAMPLE_BYTES: usize = 8 << 20;

/// Rows that an epoch takes from a source at the most, where OPTIONS do not say.
pub const EPOCH_ROWS: u64 = 1_000_000;
/// Bytes that an epoch takes from a source at the most, where OPTIONS do not say.
pub const EPOCH_BYTES: u64 = 128 << 20;
/// Files that an epoch takes from a source at the most, where OPTIONS do not say.
pub const EPOCH_FILES: usize = 10_000;
/// Bytes of a pipe that are kept in the state at the most, where OPTIONS do not say.
pub const SPOOL_BYTES: u64 = 1 << 30;
/// The least that OPTIONS may say.
pub const SPOOL_LEAST_BYTES: usize = 1_000_000;
/// Rows of a file that a sink adds to, from which the next one is begun.
pub const ROLL_ROWS: usize = 250_000;
/// Bytes of a file that a sink adds to, from which the next one is begun.
pub const ROLL_BYTES: usize = 128 << 20;
/// Age of a file that a sink adds to, from which the next one is begun.
pub const ROLL_MICROS: i64 = 60_000_000;
/// Most keys of one side of a join that rows of its other side are looked up in beneath an aggregate.
pub const NARROWING_KEYS: usize = 1 << 20;
/// Rows after which looking them up ends where it leaves few out.
pub const NARROWING_ROWS: usize = 1 << 16;
/// Microseconds for which a file that is replaced keeps the bytes of the version before, for readers that have its end
/// and not yet its rows.
pub const VERSION_MICROS: i64 = 10_000_000;
/// Time after which a checkpoint is made.
pub const CHECKPOINT_MICROS: i64 = 30_000_000;
/// Epochs after which a checkpoint is made.
pub const CHECKPOINT_EPOCHS: u64 = 1_000;
/// For how long a text file has not changed when its last line needs no line end.
pub const QUIET_MICROS: i64 = 2_000_000;
/// Columns that PIVOT may make.
pub const PIVOT_COLUMNS_LIMIT: usize = 10_000;
/// Macros that may call each other in a row.
pub const MACRO_DEPTH: usize = 64;
/// Queries that may be needed to plan one statement.
pub const QUESTIONS_LIMIT: usize = 1_000;
/// Microseconds without rows after which a growing table does not hold back the watermarks of others.
pub const IDLE_MICROS: i64 = 60_000_000;
/// Windows that a row of HOP is in, at the most.
pub const WINDOWS_OF_A_ROW: i64 = 10_000;

/// The words that [`Settings::copy_mode`] and `OPTIONS ('mode' …)` accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyMode {
    /// A folder that holds files is an error.
    Error,
    /// New files go beside those that are there.
    Append,
    /// The folder is exchanged for the new one in one step.
    Replace,
}

impl std::str::FromStr for CopyMode {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match word.to_ascii_lowercase().as_str() {
            "error" => Ok(CopyMode::Error),
            "append" => Ok(CopyMode::Append),
            "replace" => Ok(CopyMode::Replace),
            _ => Err(Error::sql(format!("mode '{word}' is not known")).hint("mode is 'error', 'append' or 'replace'")),
        }
    }
}

/// The words that [`Settings::on_full_recompute`] accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFullRecompute {
    /// It runs.
    Allow,
    /// It runs, and says so.
    Warn,
    /// It is an error.
    Error,
}

impl std::str::FromStr for OnFullRecompute {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match word.to_ascii_lowercase().as_str() {
            "allow" => Ok(OnFullRecompute::Allow),
            "warn" => Ok(OnFullRecompute::Warn),
            "error" => Ok(OnFullRecompute::Error),
            _ => Err(Error::usage(format!("on_full_recompute '{word}' is not known"))
                .hint("fuse.on_full_recompute is 'allow', 'warn' or 'error'")),
        }
    }
}

/// The session's configuration before any flag: DataFusion's switches as fuse wants them.
pub fn session_config() -> SessionConfig {
    let mut config = SessionConfig::new().with_information_schema(true).with_option_extension(Settings::default());
    tune(config.options_mut());
    config
}

/// What each sorting partition keeps aside for its own merge. DataFusion's default of 10 MB leaves nothing to
/// sort in where many partitions share a small limit.
pub fn sort_reservation(memory_bytes: usize, threads: usize) -> usize {
    const DEFAULT: usize = 10 << 20;
    (memory_bytes / (threads.max(1) * 20)).clamp(64 << 10, DEFAULT)
}

/// What differs from DataFusion's defaults, and why.
fn tune(options: &mut ConfigOptions) {
    // Errors point at their place in the SQL.
    options.sql_parser.collect_spans = true;
    // A folder is read with its subfolders, and a glob may reach into them.
    options.execution.listing_table_ignore_subdirectory = false;
    // A line break inside of quotes is data. DataFusion would cut large files at it and read wrong rows; our own scan
    // cuts where it is known to be none. OPTIONS ('format.newlines_in_values' 'false') is DataFusion's scan.
    options.catalog.newlines_in_values = true;
    // A build side of up to 64 MB or two million rows is read by one thread, and neither side is repartitioned:
    // 6 % less CPU over TPC-H at scale factor 1 on two cores (defaults: 1 MB, 131,072 rows).
    options.optimizer.hash_join_single_partition_threshold = 64 << 20;
    options.optimizer.hash_join_single_partition_threshold_rows = 2_000_000;
    options.execution.parquet.max_row_group_size = ROW_GROUP_ROWS;
    options.execution.parquet.created_by = CREATED_BY.to_owned();
}

/// The current settings of a session.
pub fn settings(options: &ConfigOptions) -> Settings {
    options.extensions.get::<Settings>().cloned().unwrap_or_default()
}

/// The value that a setting has when nobody sets it; nothing for an unknown name. `name` begins with `fuse.`.
pub fn default_value(name: &str) -> Option<String> {
    let entry = Settings::default().entries().into_iter().find(|entry| entry.key == name)?;
    Some(entry.value.unwrap_or_default())
}

/// The names of all settings, with `fuse.` before them.
pub fn setting_names() -> Vec<String> {
    Settings::default().entries().into_iter().map(|entry| entry.key).collect()
}

/// Reads a number of bytes such as `8GB`, `512 MiB`, `1.5g` or `1000`.
pub fn parse_bytes(text: &str) -> Result<usize> {
    let wrong =
        || Error::usage(format!("'{text}' is not a size")).hint("write a number and a unit, such as 512MB or 8GB");
    let text_lower = text.trim().to_ascii_lowercase();
    let digits = text_lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text_lower.len());
    let (number, unit) = text_lower.split_at(digits);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let factor: u64 = match unit.trim() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "kib" => 1 << 10,
        "m" | "mb" => 1_000_000,
        "mib" => 1 << 20,
        "g" | "gb" => 1_000_000_000,
        "gib" => 1 << 30,
        "t" | "tb" => 1_000_000_000_000,
        "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    let bytes = number * factor as f64;
    if bytes.is_finite() && bytes >= 1.0 && bytes < usize::MAX as f64 { Ok(bytes as usize) } else { Err(wrong()) }
}

/// Reads a time such as `500ms`, `10s`, `5m` or `1h`, in microseconds.
pub fn parse_micros(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let factor = match text[digits..].trim() {
        "us" => 1.0,
        "ms" => 1e3,
        "s" | "" | "sec" | "second" | "seconds" => 1e6,
        "m" | "min" | "minute" | "minutes" => 60e6,
        "h" | "hour" | "hours" => 3600e6,
        "d" | "day" | "days" => 86_400e6,
        _ => return None,
    };
    let micros = number * factor;
    (micros.is_finite() && (0.0..9e18).contains(&micros)).then_some(micros as i64)
}

/// The memory limit when none is given: three quarters of the machine's memory.
pub fn default_memory_limit() -> usize {
    let info = rustix::system::sysinfo();
    let total = info.totalram as u64 * u64::from(info.mem_unit);
    usize::try_from(total / 4 * 3).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_decimal_and_binary_units() {
        for (text, bytes) in [("8GB", 8_000_000_000), ("512 MiB", 512 << 20), ("1.5k", 1500), ("1000", 1000)] {
            assert_eq!(parse_bytes(text).ok(), Some(bytes), "{text}");
        }
        for text in ["", "GB", "-1", "8XB", "0"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
