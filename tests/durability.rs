//! What is written is seen whole or not at all.
//!
//! Enters: COPY, INSERT and `-o`, failed, killed and repeated. Leaves: nothing. Always holds: a reader sees
//! the old files or the new ones, and nothing in between; what a killed writer leaves is hidden, and goes
//! with the next write.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::Place;

/// What a reader of the folder sees: files whose names are not hidden.
fn visible(place: &Place) -> Vec<String> {
    place.files().into_iter().filter(|name| !name.split('/').any(|part| part.starts_with('.'))).collect()
}

/// A COPY of this query takes long enough to be killed in.
const LONG: &str =
    "SELECT value AS n, repeat('x', 100) || value AS t, value % 7 AS k FROM generate_series(1, 30000000)";

/// Writes the first bytes of each partition soon.
const EARLY: &str = "OPTIONS ('compression' 'uncompressed', 'max_row_group_size' '10000')";

/// Waits until something is staged, so that the kill falls into the writing.
fn wait_until_staged(place: &Place) {
    let start = Instant::now();
    while !place.files().iter().any(|name| name.contains(".fuse-tmp-")) {
        assert!(start.elapsed() < Duration::from_secs(120), "nothing was staged");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(100));
}

fn killed_while_writing(place: &Place, sql: &str) {
    let mut child = place.command(&["query", "-c", sql]).stderr(Stdio::null()).spawn().expect("starts");
    wait_until_staged(place);
    child.kill().expect("kill -9");
    child.wait().expect("ends");
}

#[test]
fn a_killed_copy_leaves_the_old_file_and_the_next_cleans_up() {
    let place = Place::new();
    place.sql("COPY (SELECT 1 AS n) TO 'a.parquet'").data();
    killed_while_writing(&place, &format!("COPY ({LONG}) TO 'a.parquet'"));
    assert_eq!(visible(&place), ["a.parquet"]);
    assert_eq!(place.sql("SELECT n FROM 'a.parquet'").data(), "n\n1\n");
    place.sql("COPY (SELECT 2 AS n) TO 'a.parquet'").data();
    assert_eq!(place.files(), ["a.parquet"]);
    assert_eq!(place.sql("SELECT n FROM 'a.parquet'").data(), "n\n2\n");
}

#[test]
fn a_killed_copy_leaves_no_folder() {
    let place = Place::new();
    let copy = format!("COPY ({LONG}) TO 'd/' STORED AS PARQUET PARTITIONED BY (k) {EARLY}");
    killed_while_writing(&place, &copy);
    assert_eq!(visible(&place), Vec::<String>::new());
    place.sql("COPY (SELECT 1 AS n, 2 AS k) TO 'd/' STORED AS PARQUET PARTITIONED BY (k)").data();
    assert_eq!(place.sql("SELECT n, k FROM 'd/'").data(), "n,k\n1,2\n");
    assert_eq!(place.files().len(), 1, "{:?}", place.files());
}

#[test]
fn a_failed_copy_leaves_the_old_folder() {
    let place = Place::new();
    place.sql("COPY (SELECT 1 AS n, 2 AS k) TO 'd/' STORED AS PARQUET PARTITIONED BY (k)").data();
    let before = place.files();
    let failing = "COPY (SELECT value AS n, 100 / (value - 90000) AS k FROM generate_series(1, 100000)) TO 'd/' \
                   STORED AS PARQUET OPTIONS ('mode' 'replace')";
    place.sql(failing).error(1);
    assert_eq!(place.files(), before);
}

#[test]
fn copy_to_a_full_folder_wants_a_mode() {
    let place = Place::new();
    let copy = |n: i32, options: &str| place.sql(&format!("COPY (SELECT {n} AS n) TO 'd/' STORED AS CSV {options}"));
    copy(1, "").data();
    let error = copy(2, "").error(1);
    assert!(error.contains("the folder 'd/' is not empty") && error.contains("'replace'"), "{error}");
    copy(2, "OPTIONS ('mode' 'append')").data();
    assert_eq!(place.sql("SELECT n FROM 'd/' ORDER BY n").data(), "n\n1\n2\n");
    copy(3, "OPTIONS ('mode' 'replace')").data();
    assert_eq!(place.sql("SELECT n FROM 'd/' ORDER BY n").data(), "n\n3\n");
    place.write("d/notes.txt", "mine");
    let error = copy(4, "OPTIONS ('mode' 'replace')").error(1);
    assert!(error.contains("notes.txt"), "{error}");
    let error = copy(4, "OPTIONS ('mode' 'merge')").error(2);
    assert!(error.contains("mode 'merge' is not known"), "{error}");
}

#[test]
fn a_file_can_be_copied_over_itself() {
    let place = Place::new();
    place.sql("COPY (SELECT value AS n FROM generate_series(1, 1000)) TO 'a.parquet'").data();
    place.sql("COPY (SELECT n + 1 AS n FROM 'a.parquet') TO 'a.parquet'").data();
    assert_eq!(
        place.sql("SELECT min(n) AS a, max(n) AS b, count(*) AS c FROM 'a.parquet'").data(),
        "a,b,c\n2,1001,1000\n"
    );
}

#[test]
fn insert_adds_files_that_show_at_once() {
    let place = Place::new();
    let create = format!(
        "CREATE EXTERNAL TABLE t (n BIGINT, t VARCHAR, k BIGINT) STORED AS PARQUET PARTITIONED BY (k) LOCATION 'd/' {EARLY};"
    );
    place.sql(&format!("{create} INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2)")).data();
    place.sql(&format!("{create} INSERT INTO t VALUES (3, 'c', 1)")).data();
    assert_eq!(place.sql(&format!("{create} SELECT n, k FROM t ORDER BY n")).data(), "n,k\n1,1\n2,2\n3,1\n");
    killed_while_writing(&place, &format!("{create} INSERT INTO t {LONG}"));
    assert_eq!(place.sql(&format!("{create} SELECT count(*) AS c FROM t")).data(), "c\n3\n");
}

#[test]
fn the_output_file_shows_after_the_last_statement() {
    let place = Place::new();
    place.write("out.csv", "old");
    place.run(&["query", "-c", "SELECT 1 AS a; SELECT 1 / 0 AS b", "-o", "out.csv"]).error(1);
    assert_eq!(place.read("out.csv"), "old");
    place.run(&["query", "-c", "SELECT 1 AS a; SELECT 2 AS b", "-o", "out.csv"]).data();
    assert_eq!(place.read("out.csv"), "a\n1\nb\n2\n");
    assert_eq!(place.files(), ["out.csv"]);
}

#[test]
fn a_link_stays_a_link() {
    let place = Place::new();
    place.write("real.csv", "old");
    std::os::unix::fs::symlink("real.csv", place.path().join("link.csv")).expect("a link");
    place.run(&["query", "-c", "SELECT 1 AS a", "-o", "link.csv"]).data();
    place.sql("COPY (SELECT 2 AS a) TO 'link.csv'").data();
    assert!(place.path().join("link.csv").is_symlink());
    assert_eq!(place.read("real.csv"), "a\n2\n");
}

/// Every file and folder that appears is synced, and the sync comes before the name.
#[test]
fn files_are_synced_before_they_are_named() {
    let place = Place::new();
    let trace = place.path().join("trace");
    let status = Command::new("strace")
        .args(["-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2", "-o"])
        .arg(&trace)
        .arg(env!("CARGO_BIN_EXE_fuse"))
        .args(["query", "-c", "COPY (SELECT 1 AS n, 2 AS k) TO 'd/' STORED AS PARQUET PARTITIONED BY (k)"])
        .current_dir(place.path())
        .stderr(Stdio::null())
        .status()
        .expect("strace, which ./tests/run installs");
    assert!(status.success());
    let trace = std::fs::read_to_string(trace).expect("a trace");
    let position = |what: &str, with: &str| {
        let found = trace.lines().position(|line| line.contains(what) && line.contains(with));
        found.unwrap_or_else(|| panic!("no {what} of {with} in\n{trace}"))
    };
    let data = position("fsync", ".parquet.tmp>");
    let inner = position("fsync", "k=2>");
    let named = trace.lines().position(|line| line.contains("rename") && line.contains("/d\"")).expect("the rename");
    let outer = trace.lines().skip(named).any(|line| line.contains("fsync"));
    assert!(data < named && inner < named && outer, "{trace}");
}

/// Runs steps in a shell where `small` is a file system of four megabytes, most of them taken by `small/ballast`.
fn on_a_small_disk(place: &Place, steps: &str) -> String {
    std::fs::create_dir_all(place.path().join("small")).expect("a folder");
    let script = format!(
        "set -e; mount -t tmpfs -o size=4m tmpfs small; head -c 3700000 /dev/zero > small/ballast
         fuse() {{ '{}' query --quiet \"$@\"; }}
         rows() {{ fuse --format csv -c \"$1\" | tail -n +2 | tr '\\n' ' '; }}
         {steps}",
        env!("CARGO_BIN_EXE_fuse")
    );
    // A namespace of its own: the file system goes with the shell. In a container, root may need one of users too.
    let shell = |flags: &str| {
        let arguments = [flags, "bash", "-c", &script];
        Command::new("unshare").args(arguments).current_dir(place.path()).output().expect("unshare")
    };
    let mut output = shell("-m");
    if !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("unshare") {
        output = shell("-rm");
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

const MANY: &str = "CREATE STREAM r STORED AS RATE
    OPTIONS ('rows' '400000', 'rows_per_second' '1000000000', 'max_rows_per_epoch' '20000');";

#[test]
fn a_full_disk_ends_a_pipeline_that_goes_on_when_there_is_space() {
    for (state, out) in [("big", "small"), ("small", "big"), ("small", "small")] {
        let place = Place::new();
        let sql = format!(
            "{MANY} COPY (SELECT value, sha256(CAST(value AS VARCHAR)) AS h FROM r WHERE value % 4 = 0) TO '{out}/rows/' STORED AS PARQUET;
             COPY (SELECT value / 2 AS g, count(*) AS n FROM r GROUP BY value / 2) TO '{out}/agg.parquet';"
        );
        place.write("p.sql", sql);
        let steps = format!(
            "echo first $(fuse p.sql --once --state {state}/state 2>&1 >/dev/null && echo none)
             shown=$(rows \"SELECT count(*) AS n, count(DISTINCT value) AS d FROM '{out}/rows/'\" || true)
             [ -n \"$shown\" ] || shown=0,0
             echo shown $shown
             rm small/ballast; mount -o remount,size=64m small
             fuse p.sql --once --state {state}/state
             echo rows $(rows \"SELECT count(*) AS n, count(DISTINCT value) AS d FROM '{out}/rows/'\")
             echo agg $(rows \"SELECT count(*) AS n, sum(n) AS s FROM '{out}/agg.parquet'\")
             echo left $(find {out} -name '*.tmp' | wc -l)"
        );
        let text = on_a_small_disk(&place, &steps);
        let case = format!("state {state}, outputs {out}: {text}");
        let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).expect(name).trim().to_owned();
        let first = line("first");
        assert!(first.contains("no space left on the device"), "{case}");
        assert!(first.contains("is kept, and the same command goes on from there"), "{case}");
        assert!(!first.contains("nothing of this statement"), "{case}");
        let shown = line("shown");
        let (rows, distinct) = shown.split_once(',').expect("two numbers");
        assert_eq!(rows, distinct, "{case}");
        assert!(rows.parse::<u64>().expect("a number") % 5_000 == 0, "{case}");
        assert_eq!((line("rows").as_str(), line("agg").as_str()), ("100000,100000", "200000,400000"), "{case}");
        assert_eq!(line("left"), "0", "{case}");
    }
}

#[test]
fn standard_input_that_fills_the_disk_is_kept_as_far_as_it_was_read() {
    let place = Place::new();
    let sql =
        "CREATE STREAM s (a BIGINT) STORED AS JSON LOCATION '-'; COPY (SELECT a FROM s) TO 'rows/' STORED AS CSV;";
    place.write("p.sql", sql);
    let text = on_a_small_disk(
        &place,
        "json() { seq $1 $2 | sed 's/.*/{\"a\":&}/'; }
         echo first $(json 1 200000 | fuse p.sql --once --state small/state 2>&1 >/dev/null && echo none)
         rm small/ballast; mount -o remount,size=64m small
         json 1000001 1000010 | fuse p.sql --once --state small/state
         echo old $(rows \"SELECT count(*) AS n, count(DISTINCT a) AS d, max(a) AS m FROM 'rows/' WHERE a <= 1000000\")
         echo new $(rows \"SELECT count(*) AS n, sum(a) AS s FROM 'rows/' WHERE a > 1000000\")",
    );
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).expect(name).trim().to_owned();
    assert!(line("first").contains("no space left on the device"), "{text}");
    assert!(line("first").contains("the same command goes on from there"), "{text}");
    // What was spooled is a beginning without a gap; half a record at its end is none.
    let old = line("old");
    let numbers: Vec<u64> = old.split(',').map(|number| number.parse().expect("a number")).collect();
    assert!(numbers[0] > 0 && numbers[0] < 200_000 && numbers.iter().all(|number| *number == numbers[0]), "{text}");
    assert_eq!(line("new"), "10,10000055", "{text}");
}

#[test]
fn a_state_of_another_form_is_refused_and_can_be_replaced() {
    let place = Place::new();
    place.write("a.json", "{\"v\":1}\n{\"v\":2}\n");
    let sql =
        "CREATE STREAM a (v BIGINT) STORED AS JSON LOCATION 'a.json'; COPY (SELECT v FROM a) TO 'out/' STORED AS CSV;";
    let run = |more: &[&str]| place.run(&[&["query", "-q", "--once", "--state", "state", "-c", sql], more].concat());
    run(&[]).data();
    let path = place.path().join("state/pipeline.json");
    let text = std::fs::read_to_string(&path).expect("reads");
    for (form, told) in [("\"format\":7,", "format 7"), ("", "format 0")] {
        let changed = text.replacen("\"format\":1,", form, 1);
        assert_ne!(changed, text);
        let (body, _) = changed.rsplit_once(",\"crc32\":\"").expect("sealed");
        let sealed = format!("{body},\"crc32\":\"{:08x}\"}}\n", crc32fast::hash(body.as_bytes()));
        std::fs::write(&path, sealed).expect("writes");
        for args in [
            &["query", "-q", "--once", "--state", "state", "-c", sql][..],
            &["inspect", "state"],
            &["verify", "--state", "state", "-c", sql],
        ] {
            let ran = place.run(args);
            assert_eq!(ran.code, Some(1), "{}", ran.stderr);
            assert!(ran.stderr.contains(told) && ran.stderr.contains("--fresh"), "{}", ran.stderr);
        }
    }
    run(&["--fresh"]).data();
    assert_eq!(place.run(&["query", "--format", "csv", "-c", "FROM 'out/*.csv' ORDER BY v"]).data(), "v\n1\n2\n");
}
