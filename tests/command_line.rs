//! The command line: what goes where, and how it ends.
//!
//! Enters: arguments, pipes, signals. Leaves: nothing. Always holds: data is on standard output and all else
//! on standard error; 0 done, 1 failed, 2 bad SQL or usage, 130 interrupted. The goldens in `tests/cmd` are
//! rewritten by TRYCMD=overwrite.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Place, Ran};

#[test]
fn goldens() {
    trycmd::TestCases::new().case("tests/cmd/*.md").run();
}

#[test]
fn sql_comes_from_files_a_text_or_standard_input() {
    let place = Place::new();
    place.write("a.sql", "SELECT 1 AS a;");
    place.write("b.sql", "\u{feff}SELECT 2 AS b");
    assert_eq!(place.run(&["query", "a.sql", "b.sql", "--format", "csv"]).data(), "a\n1\nb\n2\n");
    let mut child = place.command(&["query", "-", "--format", "csv"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    child.stdin.take().expect("a pipe").write_all(b"SELECT 3 AS c").expect("writes");
    assert_eq!(Ran::from(child.wait_with_output().expect("ends")).data(), "c\n3\n");
}

#[test]
fn nothing_runs_after_the_first_error() {
    let place = Place::new();
    let sql = "COPY (SELECT 1 AS a) TO 'a.csv'; SELECT 1 / 0; COPY (SELECT 1 AS a) TO 'b.csv'";
    place.run(&["query", "-c", sql]).error(1);
    assert_eq!(place.files(), ["a.csv"]);
    // A mistake that shows while parsing stops all of it.
    place.run(&["query", "-c", "COPY (SELECT 1 AS a) TO 'c.csv'; SELEC 1"]).error(2);
    assert_eq!(place.files(), ["a.csv"]);
}

#[test]
fn check_plans_and_runs_nothing() {
    let place = Place::new();
    let sql = "COPY (SELECT 1 AS a) TO 'a.csv'; CREATE TABLE t AS SELECT 2 AS b; \
               INSERT INTO t VALUES (3); SELECT a, b FROM 'a.csv', t";
    assert_eq!(place.run(&["check", "-c", sql]).data(), "");
    assert_eq!(place.files(), Vec::<String>::new());
    let error = place.run(&["check", "-c", &sql.replace("a, b", "a, c")]).error(2);
    assert!(error.contains("no column named c"), "{error}");
}

#[test]
fn every_flag_has_a_setting_and_show_lists_it() {
    let place = Place::new();
    let list = place.sql("SHOW fuse").data();
    for name in ["format", "output", "threads", "memory_limit", "temp_dir", "timing", "quiet"] {
        assert!(list.contains(&format!("fuse.{name},")), "{name} in {list}");
    }
    let sql = "SET fuse.format = 'ndjson'; SELECT 1 AS a; SET fuse.output = 'x.csv'; SET fuse.format = 'csv'; SELECT 2 AS b; \
               SET fuse.define.n = 5; SET fuse.output = ''; SELECT $n AS c";
    assert_eq!(place.run(&["query", "-c", sql]).data(), "{\"a\":1}\nc\n5\n");
    assert_eq!(place.read("x.csv"), "b\n2\n");
    let threads = "SET fuse.threads = 3; SHOW datafusion.execution.target_partitions";
    assert!(place.sql(threads).data().contains(",3"));
    let limit = "SET fuse.memory_limit = '512MB'; SHOW datafusion.runtime.memory_limit";
    assert!(place.sql(limit).data().contains("488"), "{}", place.sql(limit).data());
    let error = place.sql("SET fuse.fromat = 'csv'").error(2);
    assert!(error.contains("did you mean fuse.format?"), "{error}");
    place.sql("SET fuse.format = 'xml'").error(2);
}

#[test]
fn quiet_and_timing_speak_on_standard_error_only() {
    let place = Place::new();
    let copy = "COPY (SELECT 1 AS a) TO 'a.csv'; SELECT 1 AS a";
    let ran = place.run(&["query", "-c", copy, "--format", "csv", "--timing"]);
    assert_eq!(ran.stdout, "a\n1\n");
    assert!(ran.stderr.contains("1 row written to a.csv") && ran.stderr.contains(" s, 1 row"), "{}", ran.stderr);
    let ran = place.run(&["query", "-c", copy, "--format", "csv", "--quiet"]);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("a\n1\n", ""));
}

#[test]
fn a_reader_that_goes_is_no_error() {
    let place = Place::new();
    let mut child = place
        .command(&["query", "-c", "SELECT * FROM generate_series(1, 100000000)", "--format", "csv"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "value");
    drop(lines);
    let ran = Ran::from(child.wait_with_output().expect("ends"));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
}

fn interrupt(child: &Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a number")).expect("a process");
    kill_process(pid, Signal::INT).expect("a signal");
}

#[test]
fn ctrl_c_stops_at_once_and_leaves_nothing() {
    let place = Place::new();
    let long = "COPY (SELECT a.value, count(*) FROM generate_series(1, 100000) a, generate_series(1, 100000) b \
                GROUP BY a.value) TO 'a.parquet'";
    let child = place.command(&["query", "-c", long]).stderr(Stdio::piped()).spawn().expect("starts");
    std::thread::sleep(Duration::from_millis(700));
    let start = Instant::now();
    interrupt(&child);
    let ran = Ran::from(child.wait_with_output().expect("ends"));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!((ran.code, ran.stderr.trim()), (Some(130), "error: interrupted"));
    assert_eq!(place.files(), Vec::<String>::new());
}

#[test]
fn ctrl_c_stops_a_writer_whose_reader_does_not_read() {
    let place = Place::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let sql = "SELECT * FROM generate_series(1, 100000000)";
    let child = place
        .command(&["query", "-c", sql, "--format", "csv"])
        .stdout(OwnedFd::from(writer))
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    std::thread::sleep(Duration::from_millis(700));
    let start = Instant::now();
    interrupt(&child);
    let ran = Ran::from(child.wait_with_output().expect("ends"));
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert_eq!(ran.code, Some(130));
    drop(reader);
}

/// The largest resident set of a run, in KiB.
fn peak_memory(place: &Place, sql: &str) -> u64 {
    let mut child = place
        .command(&["query", "-c", sql, "--format", "csv", "--threads", "2"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut out = child.stdout.take().expect("a pipe");
    let status = format!("/proc/{}/status", child.id());
    let (mut peak, mut buffer) = (0, vec![0; 1 << 20]);
    while out.read(&mut buffer).expect("reads") > 0 {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let size = line.and_then(|line| line.trim().split(' ').next()?.parse().ok());
        peak = peak.max(size.unwrap_or(0));
    }
    assert!(child.wait().expect("ends").success());
    peak
}

#[test]
fn printing_takes_no_more_memory_for_more_rows() {
    let place = Place::new();
    let few = peak_memory(&place, "SELECT * FROM generate_series(1, 1000)");
    let many = peak_memory(&place, "SELECT * FROM generate_series(1, 3000000)");
    assert!(many < few + 40 * 1024, "{few} KiB for 1,000 rows, {many} KiB for 3,000,000");
}

#[test]
fn no_escape_codes_outside_a_terminal() {
    let place = Place::new();
    for sql in
        ["SELECT 1 AS a", "DESCRIBE SELECT 1 AS a", "EXPLAIN SELECT 1", "EXPLAIN ANALYZE SELECT 1", "SELECT nope"]
    {
        let ran = place.run(&["query", "-c", sql]);
        assert!(!ran.stdout.contains('\u{1b}') && !ran.stderr.contains('\u{1b}'), "{sql}");
    }
}

#[test]
fn binary_formats_come_through_a_pipe() {
    let place = Place::new();
    for format in ["parquet", "arrow"] {
        let out = place.command(&["query", "-c", "SELECT 7 AS n", "--format", format]).output().expect("runs");
        place.write(&format!("x.{format}"), out.stdout);
        assert_eq!(place.sql(&format!("SELECT n FROM 'x.{format}'")).data(), "n\n7\n");
    }
    let error = place.run(&["query", "-c", "SELECT 1; SELECT 2", "-o", "x.parquet"]).error(2);
    assert!(error.contains("can hold one result"), "{error}");
}
