//! Files that are huge, or unpack to huge ones, and views that double.
//!
//! Enters: a few bytes that stand for many. Leaves: what the program says. Always holds: it ends in time, by an error that
//! names the file or by its rows, within a gigabyte of memory.

use std::fs;
use std::process::Stdio;

use crate::bad_input::{packed, run, sql, wrong};
use crate::support::{Place, Ran};

#[test]
fn a_file_that_is_huge_or_unpacks_to_a_huge_one_ends_no_process() {
    let place = Place::new();
    // A head, 16 MB of one byte as often as said, and a tail: the members of a gzip file follow each other.
    let bomb = |name: &str, head: &str, (byte, times): (u8, usize), tail: &str| {
        let middle = packed(&place, "member", vec![byte; 16 << 20]).repeat(times);
        place.write(name, [packed(&place, "member", head), middle, packed(&place, "member", tail)].concat());
    };
    bomb("lines.csv.gz", "a,b\n1,2\n", (b'\n', 8), "3,4\n");
    assert_eq!(sql(&place, "SELECT sum(a) AS s FROM 'lines.csv.gz'").data(), "s\n4\n");
    place.sql("COPY (SELECT repeat('x', 1000) AS s FROM generate_series(1, 1000000)) TO 'page.parquet'").data();
    assert_eq!(sql(&place, "SELECT count(DISTINCT s) AS n FROM 'page.parquet'").data(), "n\n1\n");
    bomb("field.csv.gz", "a,b\n1,\"", (b'x', 64), "\"\n");
    bomb("field.ndjson.gz", "{\"a\":\"", (b'x', 64), "\"}\n");
    bomb("commas.csv.gz", "a", (b',', 1), "b\n");
    for name in ["field.csv.gz", "field.ndjson.gz", "commas.csv.gz"] {
        let ran = sql(&place, &format!("SELECT count(*) AS n FROM '{name}'"));
        assert!(ran.code == Some(0) || wrong(&ran, 1, &[name]).is_none(), "{name}: {ran:?}");
    }
    // What is behind the rows that were looked at.
    let rows: String = (0..40_000).map(|row| format!("{row},x\n")).collect();
    for (name, text) in [("quoted.csv", "1,\"LONG\"\n2,y\n"), ("plain.csv", "1,LONG\n2,y\n"), ("gone.csv", "1,\"LONG")]
    {
        place.write(name, format!("a,b\n{rows}{}", text.replace("LONG", &"y".repeat(80 << 20))));
        let (ran, peak) = measured(&place, &format!("SELECT count(*) AS n, max(length(b)) AS m FROM '{name}'"));
        assert_eq!(wrong(&ran, 1, &[&format!("{name}, line 40002"), "longer than 64 MB", "help:"]), None);
        assert!(peak < 1_000_000, "{name}: {peak} kB");
    }
    bomb("late.csv.gz", &format!("a,b\n{rows}1,"), (b'x', 64), "\n");
    let (ran, peak) = measured(&place, "SELECT count(*) AS n, max(length(b)) AS m FROM 'late.csv.gz'");
    assert_eq!(wrong(&ran, 1, &["late.csv.gz, line 40002", "longer than 64 MB"]), None);
    assert!(peak < 1_000_000, "{peak} kB");
    let line = |prefix: &str| (0..40_000).map(|at| format!("{prefix}{at}")).collect::<Vec<_>>().join(",");
    place.write("wide.csv", format!("{}\n{}\n", line("c"), line("")));
    assert_eq!(sql(&place, "SELECT c39999 FROM 'wide.csv'").data(), "c39999\n39999\n");
}

#[test]
fn a_parquet_file_that_unpacks_to_far_more_than_it_is_ends_early() {
    let place = Place::new();
    let rows = "SELECT repeat('x', 8388608) AS a FROM generate_series(1, 100)";
    for compression in ["zstd(1)", "brotli(1)"] {
        let copy = format!(
            "SET datafusion.execution.batch_size = 8; COPY ({rows}) TO 'bomb.parquet' \
             OPTIONS ('compression' '{compression}', 'dictionary_enabled' 'false', 'statistics_enabled' 'none')"
        );
        place.sql(&copy).data();
        let size = fs::metadata(place.path().join("bomb.parquet")).expect("a file").len();
        assert!(size < 1 << 20, "{size}");
        let (ran, peak) = measured(&place, "SELECT max(length(a)) AS m FROM 'bomb.parquet'");
        assert_eq!(wrong(&ran, 1, &["bomb.parquet", "would unpack to 800 MB"]), None);
        assert!(peak < 1_000_000, "{compression}: {peak} kB");
    }
    assert_eq!(sql(&place, "SELECT count(*) AS n FROM 'bomb.parquet'").data(), "n\n100\n");
}

#[test]
fn views_that_double_are_refused_and_not_planned_forever() {
    let place = Place::new();
    let views = |count: usize| {
        let view =
            |n: usize| format!("CREATE VIEW v{n} AS SELECT a.x FROM v{} a JOIN v{} b ON a.x = b.x; ", n - 1, n - 1);
        let views: String = (1..=count).map(view).collect();
        format!("CREATE TABLE v0 AS SELECT 1 AS x; {views} SELECT x FROM v{count}")
    };
    assert_eq!(sql(&place, &views(6)).data(), "x\n1\n");
    let ran = run(&place, 60, &["query", "-c", &views(30)]);
    assert_eq!(wrong(&ran, 2, &["views", "2000 times", "help:"]), None);
}

/// The outcome of a statement, and the most memory that was in use, in kB, as it was seen 100 times a second.
fn measured(place: &Place, sql: &str) -> (Ran, u64) {
    let mut command = place.command(&["query", "--format", "csv", "-c", sql]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let status = format!("/proc/{}/status", child.id());
    let ends = std::thread::spawn(move || child.wait_with_output().expect("it ends"));
    let mut peak = 0;
    while !ends.is_finished() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let most = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().split(' ').next()?.parse().ok());
        peak = most.unwrap_or(0).max(peak);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    (Ran::from(ends.join().expect("a thread")), peak)
}
