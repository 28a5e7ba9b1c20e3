//! Files of the sqllogictest format, run through [`fuse::session::Session`].
//!
//! Enters: `tests/slt/**/*.slt`, and the folder that `FUSE_SLT_DIR` names, in batch and in epochs. Leaves: `N passed, M failed,
//! K skipped`, with file and line of each failure. Always holds: records are counted, each file has a new
//! session and a working folder of its own; EXPLAIN goldens of other engines are skipped, and an expected
//! error is any error, since the words of errors are ours.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float16Type, Float32Type, Float64Type};
use arrow::util::display::{ArrayFormatter, DurationFormat, FormatOptions};
use datafusion::arrow;
use fuse::config::Settings;
use fuse::error::Error;
use fuse::session::Session;
use sqllogictest::{
    AsyncDB, DBOutput, DefaultColumnType, ExpectedError, Normalizer, QueryExpect, Record, Runner, SortMode,
    StatementExpect, TestError,
};
use tokio::runtime::Handle;
use tokio::task::block_in_place;

use crate::slt_epochs::{Answer, Epochs, taken};

/// How failed records are listed before the rest is only counted, for each file.
const SHOWN_PER_FILE: usize = 30;

#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
}

#[test]
fn own_files_pass() {
    pass(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt"), Mode::Batch);
}

#[test]
fn own_files_pass_in_epochs() {
    pass(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt"), Mode::Epochs);
}

/// FUSE_SLT_MODE is `batch`, `epochs` or `both`, which is the default.
#[test]
fn files_of_fuse_slt_dir_pass() {
    let Some(folder) = std::env::var_os("FUSE_SLT_DIR") else { return };
    let modes: &[Mode] = match std::env::var("FUSE_SLT_MODE").as_deref() {
        Ok("batch") => &[Mode::Batch],
        Ok("epochs") => &[Mode::Epochs],
        _ => &[Mode::Batch, Mode::Epochs],
    };
    let tallies: Vec<Tally> = modes.iter().map(|mode| run_folder(Path::new(&folder), *mode)).collect();
    assert!(tallies.iter().all(|tally| tally.passed > 0 && tally.failed == 0), "{tallies:?}");
}

fn pass(folder: &Path, mode: Mode) {
    let tally = run_folder(folder, mode);
    assert!(tally.passed > 0 && tally.failed == 0, "{mode:?}: {tally:?}");
}

/// Runs every file below a folder and prints the sum.
fn run_folder(folder: &Path, mode: Mode) -> Tally {
    let mut tally = Tally::default();
    for file in files_below(folder) {
        let (one, report) = run_file_on_deep_stack(file.clone(), mode);
        tally.passed += one.passed;
        tally.failed += one.failed;
        tally.skipped += one.skipped;
        print(&report);
    }
    print(&format!("{mode:?}: {} passed, {} failed, {} skipped\n", tally.passed, tally.failed, tally.skipped));
    tally
}

/// Past the test harness, which would hold it back.
fn print(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else if path.extension().is_some_and(|ending| ending == "slt") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The program plans on a deep stack too.
fn run_file_on_deep_stack(file: PathBuf, mode: Mode) -> (Tally, String) {
    let thread = std::thread::Builder::new().stack_size(fuse::config::PLANNER_STACK_BYTES);
    let run = thread.spawn(move || {
        let runtime = crate::support::runtime();
        runtime.block_on(run_file(&file, mode))
    });
    run.expect("a thread").join().unwrap_or_else(|_| (Tally { failed: 1, ..Tally::default() }, "panic\n".to_owned()))
}

async fn run_file(file: &Path, mode: Mode) -> (Tally, String) {
    let mut tally = Tally::default();
    let mut report = String::new();
    let records = match sqllogictest::parse_file::<DefaultColumnType>(file) {
        Ok(records) => records,
        Err(error) => {
            tally.failed += 1;
            return (tally, format!("{}: {error}\n", file.display()));
        }
    };
    let texts: Vec<String> = records.iter().filter_map(sql).map(str::to_owned).collect();
    let mut runner = Runner::new(|| Engine::new(mode, &texts));
    runner.with_normalizer(|text| text.trim_end().to_owned());
    runner.with_validator(same_rows);
    if mode == Mode::Epochs {
        runner.add_label("epochs");
    }
    for record in records {
        let counts = matches!(record, Record::Statement { .. } | Record::Query { .. });
        if is_explain(&record) {
            tally.skipped += 1;
            continue;
        }
        if matches!(record, Record::Halt { .. }) {
            break;
        }
        ROWSORT.set(is_rowsort(&record));
        match runner.run_async(any_error(record)).await {
            Ok(sqllogictest::RecordOutput::Nothing) if counts => tally.skipped += 1,
            Ok(_) => tally.passed += usize::from(counts),
            Err(error) => {
                tally.failed += 1;
                if tally.failed <= SHOWN_PER_FILE {
                    let _ = writeln!(report, "{}", summary(&error));
                }
            }
        }
    }
    (tally, report)
}

/// File, line and the first lines of what is wrong.
fn summary(error: &TestError) -> String {
    let text = error.display(false).to_string();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).take(12).collect();
    format!("FAILED {}: {}", error.location(), lines.join("\n    "))
}

fn sql(record: &Record<DefaultColumnType>) -> Option<&str> {
    match record {
        Record::Statement { sql, .. } | Record::Query { sql, .. } => Some(sql),
        _ => None,
    }
}

fn is_explain(record: &Record<DefaultColumnType>) -> bool {
    let begins = |text: &str| text.trim_start().get(..7).is_some_and(|word| word.eq_ignore_ascii_case("explain"));
    sql(record).is_some_and(begins)
}

thread_local! {
    /// The last answer came out of a pipeline, which keeps rows and not their order.
    static UNORDERED: Cell<bool> = const { Cell::new(false) };
    /// The record wants its rows sorted.
    static ROWSORT: Cell<bool> = const { Cell::new(false) };
}

fn is_rowsort(record: &Record<DefaultColumnType>) -> bool {
    let Record::Query { expected: QueryExpect::Results { sort_mode, .. }, .. } = record else { return false };
    *sort_mode == Some(SortMode::RowSort)
}

/// As the runner's own, but that rows without an order may come in any, and that engines may print a number with more
/// digits or zeros behind the point, and a time with a blank for the T.
fn same_rows(normalizer: Normalizer, actual: &[Vec<String>], expected: &[String]) -> bool {
    if sqllogictest::default_validator(normalizer, actual, expected) {
        return true;
    }
    let number = |word: &str| word.contains('.') && word.parse::<f64>().is_ok() && !word.contains(['e', 'E']);
    let word = |word: &str| match word.split_once('T') {
        _ if number(word) => rounded(word),
        Some((day, time)) if day.len() == 10 && time.as_bytes().get(2) == Some(&b':') => format!("{day} {time}"),
        _ => word.to_owned(),
    };
    let plain = |line: &String| line.split_whitespace().map(word).collect::<Vec<_>>().join(" ");
    let mut actual: Vec<String> = actual.iter().map(|row| plain(&row.join(" "))).collect();
    let mut expected: Vec<String> = expected.iter().map(plain).collect();
    if UNORDERED.get() || ROWSORT.get() {
        actual.sort();
        expected.sort();
    }
    actual == expected
}

/// The record with its expected error, if any, without the words of another engine.
fn any_error(mut record: Record<DefaultColumnType>) -> Record<DefaultColumnType> {
    match &mut record {
        Record::Statement { expected: StatementExpect::Error(error), .. }
        | Record::Query { expected: QueryExpect::Error(error), .. } => *error = ExpectedError::Empty,
        _ => {}
    }
    record
}

/// How the statements of a file run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Batch,
    Epochs,
}

enum Engine {
    Batch(Box<Session>),
    Epochs(Box<Epochs>),
}

impl Engine {
    /// As DataFusion's own runner: four partitions, and COPY adds to a folder. FUSE_SLT_DIALECT: another
    /// dialect than ours.
    async fn new(mode: Mode, texts: &[String]) -> Result<Self, Error> {
        let mut settings = Settings::default();
        settings.threads = 4;
        settings.copy_mode = "append".to_owned();
        let dialect = std::env::var("FUSE_SLT_DIALECT").ok();
        if mode == Mode::Epochs {
            return Ok(Self::Epochs(Box::new(Epochs::new(&settings, dialect.as_deref(), texts).await?)));
        }
        let session = Session::new(settings)?;
        if let Some(dialect) = dialect {
            session.execute_text(&format!("SET datafusion.sql_parser.dialect = '{dialect}'")).await?;
        }
        Ok(Self::Batch(Box::new(session)))
    }
}

#[async_trait::async_trait]
impl AsyncDB for Engine {
    type Error = Error;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, Error> {
        UNORDERED.set(false);
        // Engines that answer before they have computed have it; fuse has nothing to wait for.
        if sql.trim().trim_end_matches(';').eq_ignore_ascii_case("flush") {
            return Ok(DBOutput::StatementComplete(0));
        }
        let answer = match self {
            Engine::Batch(session) => taken(session.execute_text(sql).await?).await?,
            // A pipeline at work stays on its thread.
            Engine::Epochs(epochs) => block_in_place(|| Handle::current().block_on(epochs.run(sql)))?,
        };
        match answer {
            Answer::Done => Ok(DBOutput::StatementComplete(0)),
            Answer::Written(rows) => {
                Ok(DBOutput::Rows { types: vec![DefaultColumnType::Integer], rows: vec![vec![rows.to_string()]] })
            }
            Answer::Rows { columns, batches, unordered } => {
                UNORDERED.set(unordered);
                let types = columns.fields().iter().map(|field| column_type(field.data_type())).collect();
                let rows = |batch: &RecordBatch| (0..batch.num_rows()).map(|row| line(batch, row)).collect::<Vec<_>>();
                Ok(DBOutput::Rows { types, rows: batches.iter().flat_map(rows).collect() })
            }
        }
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "datafusion"
    }

    async fn sleep(duration: std::time::Duration) {
        tokio::time::sleep(duration).await;
    }
}

fn line(batch: &RecordBatch, row: usize) -> Vec<String> {
    batch.columns().iter().map(|column| cell(column, row)).collect()
}

fn column_type(kind: &DataType) -> DefaultColumnType {
    if kind.is_integer() {
        DefaultColumnType::Integer
    } else if kind.is_numeric() {
        DefaultColumnType::FloatingPoint
    } else {
        DefaultColumnType::Text
    }
}

/// A value as the format writes it: an empty text is `(empty)`, floats and decimals have at most twelve
/// digits behind the point and no zeros at their end.
fn cell(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return "NULL".to_owned();
    }
    match column.data_type() {
        DataType::Float16 => float(f64::from(column.as_primitive::<Float16Type>().value(row)), None),
        DataType::Float32 => {
            let value = column.as_primitive::<Float32Type>().value(row);
            float(f64::from(value), Some(value.to_string()))
        }
        DataType::Float64 => float(column.as_primitive::<Float64Type>().value(row), None),
        kind => {
            let text = display(column, row);
            if kind.is_decimal() { trimmed(&text) } else { plain(&text) }
        }
    }
}

fn display(column: &ArrayRef, row: usize) -> String {
    let options = FormatOptions::new().with_null("NULL").with_duration_format(DurationFormat::Pretty);
    let formatter = ArrayFormatter::try_new(column.as_ref(), &options).expect("a type that can be shown");
    formatter.value(row).try_to_string().unwrap_or_else(|error| error.to_string())
}

fn plain(text: &str) -> String {
    if text.is_empty() { "(empty)".to_owned() } else { text.trim_end_matches('\n').replace('\u{0}', "\\0") }
}

fn float(value: f64, text: Option<String>) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "Infinity".to_owned() } else { "-Infinity".to_owned() }
    } else {
        rounded(&text.unwrap_or_else(|| value.to_string()))
    }
}

/// A decimal number rounded half away from zero to twelve digits behind the point.
fn rounded(text: &str) -> String {
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let Some((whole, fraction)) = digits.split_once('.') else { return trimmed(text) };
    let mut all: Vec<u8> = whole.bytes().chain(fraction.bytes().take(12)).map(|b| b.saturating_sub(b'0')).collect();
    let places = fraction.len().min(12);
    if fraction.as_bytes().get(12).is_some_and(|digit| *digit >= b'5') {
        let carried = all.iter_mut().rev().find_map(|digit| {
            *digit = if *digit == 9 { 0 } else { *digit + 1 };
            (*digit != 0).then_some(())
        });
        if carried.is_none() {
            all.insert(0, 1);
        }
    }
    let text: String = all.iter().map(|digit| char::from(b'0' + digit)).collect();
    let (whole, fraction) = text.split_at(text.len() - places);
    trimmed(&format!("{sign}{whole}.{fraction}"))
}

/// A decimal number without zeros at its end, and zero without a sign.
fn trimmed(text: &str) -> String {
    let number = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text };
    let zero = number.bytes().all(|b| matches!(b, b'0' | b'.' | b'-'));
    if zero { "0".to_owned() } else { number.to_owned() }
}

#[test]
fn numbers_are_rounded_as_the_format_says() {
    assert_eq!(rounded("1.50"), "1.5");
    assert_eq!(rounded("-0.0"), "0");
    assert_eq!(rounded("0.9999999999999"), "1");
    assert_eq!(rounded("-0"), "0");
    assert_eq!(rounded("120"), "120");
    assert_eq!(rounded("2.1234567890123"), "2.123456789012");
}
