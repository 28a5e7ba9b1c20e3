//! The 22 TPC-H queries of `sql/tpch`, run whole through the fuse binary.
//!
//! Enters: the tables at scale factor 0.1, generated once under cargo's folder for test files and
//! turned into Parquet by fuse itself; the queries; the answers of `testdata/tpch/answers`.
//! Leaves: nothing but the report of a failure, which names every failing query with the rows that
//! were expected and those that came.
//! Always holds: rows are compared in the order that fuse printed them in, which each query's
//! ORDER BY settles for this data; numbers are compared exactly by value, but for the columns that
//! divide (`RATIOS`), which engines round in their own ways.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "../benches/tpch/data.rs"]
pub(crate) mod data;

const SCALE: f64 = 0.1;

/// The columns that come out of an average or a division.
const RATIOS: [&str; 6] = ["avg_qty", "avg_price", "avg_disc", "mkt_share", "promo_revenue", "avg_yearly"];

/// How many differing rows of one query a failure shows.
const SHOWN: usize = 5;

type Rows = Vec<Vec<String>>;

#[test]
fn tpch_queries_give_the_expected_answers() {
    let fuse = Path::new(env!("CARGO_BIN_EXE_fuse"));
    let dir = tables(fuse).expect("the TPC-H tables could not be made");
    let failures: Vec<String> = (1..=22)
        .map(|number| format!("q{number:02}"))
        .filter_map(|query| {
            let why = check(fuse, &dir, &query).err()?;
            Some(format!("--- {query}: {why}"))
        })
        .collect();
    assert!(failures.is_empty(), "{} of the 22 TPC-H queries failed\n{}", failures.len(), failures.join("\n"));
}

/// The folder with the eight tables as Parquet files. The `.tbl` files stay from one run to the
/// next; the Parquet files are written anew by the fuse under test.
fn tables(fuse: &Path) -> io::Result<PathBuf> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tpch-sf0.1");
    let complete = dir.join("complete");
    let generated = complete.exists();
    fs::create_dir_all(&dir)?;
    for (table, columns) in data::TABLES {
        let tbl = dir.join(format!("{table}.tbl"));
        if !generated {
            data::write_tbl(table, SCALE, &tbl)?;
        }
        data::to_parquet(fuse, (table, columns), &tbl, &dir.join(format!("{table}.parquet")))?;
    }
    fs::write(complete, format!("TPC-H scale factor {SCALE}\n"))?;
    Ok(dir)
}

/// Runs one query, such as `q01`, and compares what it prints with its answer.
fn check(fuse: &Path, dir: &Path, query: &str) -> Result<(), String> {
    let repo = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sql = read(&repo.join(format!("sql/tpch/{query}.sql")))?;
    let answer = read(&repo.join(format!("testdata/tpch/answers/{query}.csv")))?;
    let file = dir.join(format!("{query}.sql"));
    fs::write(&file, format!("{}{sql}", external_tables(dir))).map_err(|e| e.to_string())?;
    let run =
        Command::new(fuse).arg("query").arg(&file).args(["--format", "csv"]).output().map_err(|e| e.to_string())?;
    if !run.status.success() {
        return Err(format!("{}\n{}", run.status, String::from_utf8_lossy(&run.stderr)));
    }
    compare(&rows(answer.as_bytes())?, &rows(&run.stdout)?)
}

fn external_tables(dir: &Path) -> String {
    let declare = |(table, _): (&str, &str)| {
        let file = data::literal(&dir.join(format!("{table}.parquet")));
        format!("CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION {file};\n")
    };
    data::TABLES.map(declare).concat()
}

fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))
}

/// The lines of a CSV text, the header the first of them.
fn rows(text: &[u8]) -> Result<Rows, String> {
    csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_reader(text)
        .into_deserialize()
        .collect::<Result<Rows, csv::Error>>()
        .map_err(|e| e.to_string())
}

fn compare(expected: &Rows, actual: &Rows) -> Result<(), String> {
    let (Some(names), Some(found)) = (expected.first(), actual.first()) else {
        return Err("no header line".to_string());
    };
    if names.len() != found.len() || !names.iter().zip(found).all(|(a, b)| same_name(a, b)) {
        return Err(format!("columns\n  expected {names:?}\n  actual   {found:?}"));
    }
    let longest = expected.len().max(actual.len());
    let differing: Vec<usize> = (1..longest).filter(|&at| !same_row(names, expected.get(at), actual.get(at))).collect();
    if differing.is_empty() {
        return Ok(());
    }
    let mut report =
        format!("{} rows expected, {} came, {} differ", expected.len() - 1, actual.len() - 1, differing.len());
    for &at in differing.iter().take(SHOWN) {
        let show = |row: Option<&Vec<String>>| row.map_or("none".to_string(), |row| row.join("|"));
        report.push_str(&format!(
            "\n  row {at} expected {}\n  row {at} actual   {}",
            show(expected.get(at)),
            show(actual.get(at))
        ));
    }
    Err(report)
}

/// Whether two columns have one name. Engines name an expression without an alias as they like.
fn same_name(expected: &str, actual: &str) -> bool {
    expected == actual || expected.contains('(')
}

fn same_row(names: &[String], expected: Option<&Vec<String>>, actual: Option<&Vec<String>>) -> bool {
    let (Some(expected), Some(actual)) = (expected, actual) else {
        return false;
    };
    expected.len() == actual.len()
        && names.iter().zip(expected.iter().zip(actual)).all(|(name, (expected, actual))| {
            if RATIOS.contains(&name.as_str()) { close(expected, actual) } else { exact(expected) == exact(actual) }
        })
}

/// A number without the zeros that do not count; any other text as it is.
fn exact(text: &str) -> &str {
    let number = text.strip_prefix('-').unwrap_or(text);
    match number.split_once('.') {
        Some((whole, fraction)) if digits(whole) && digits(fraction) => {
            text.trim_end_matches('0').trim_end_matches('.')
        }
        _ => text,
    }
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether two ratios agree: to one part in a million, or, where an engine gives a ratio as a
/// decimal of at least four places, to one unit of the last place that it gives.
fn close(expected: &str, actual: &str) -> bool {
    let (Ok(wanted), Ok(given)) = (expected.parse::<f64>(), actual.parse::<f64>()) else {
        return false;
    };
    let places = actual.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    let last_place = if places < 4 { 0.0 } else { 0.1_f64.powf(places as f64) };
    (wanted - given).abs() <= (wanted.abs() * 1e-6).max(last_place * 1.000_001)
}

#[test]
fn answers_are_compared_by_value() {
    assert_eq!(exact("7822103.0000"), exact("7822103"));
    assert_eq!(exact("-0.50"), exact("-0.5"));
    assert_ne!(exact("100"), exact("1"));
    assert_ne!(exact("10.1"), exact("10.10001"));
    assert_eq!(exact("v1.0"), "v1.0");
    assert!(close("0.05014459706340077", "0.050144"));
    assert!(!close("0.05014459706340077", "0.050146"));
    assert!(!close("0.05014459706340077", "0.05"));
    assert!(close("23512.752857142856", "23512.75"));
    assert!(!close("23512.752857142856", "NaN"));
}
