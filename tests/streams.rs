//! Growing inputs through the program: followed files, pipes, generators, bad records.
//!
//! Enters: SQL over CREATE STREAM. Leaves: nothing. Always holds: what was read once is not read twice, whichever
//! run read it.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow_avro::writer::AvroWriter;

use crate::support::{Place, Ran};

/// Runs a pipeline until it has caught up; its state stays in `state`.
fn once(place: &Place, sql: &str) -> Ran {
    place.run(&["query", "--once", "--state", "state", "-q", "-c", sql])
}

/// What a folder of a pipeline's files holds.
fn rows(place: &Place, query: &str) -> String {
    place.run(&["query", "-q", "--format", "csv", "-c", query]).data()
}

fn append(place: &Place, name: &str, text: &str) {
    let path = place.path().join(name);
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("opens");
    file.write_all(text.as_bytes()).expect("writes");
}

/// Runs a pipeline with this on its standard input.
fn pipe(place: &Place, sql: &str, input: &[u8]) -> Ran {
    let mut command: Command =
        place.command(&["query", "--once", "--trigger", "10ms", "--state", "state", "-q", "-c", sql]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    // A pipeline that fails does not read to the end.
    let _ = child.stdin.take().expect("a pipe").write_all(input);
    Ran::from(child.wait_with_output().expect("ends"))
}

const FOLLOW: &str = "CREATE STREAM s (a BIGINT) STORED AS JSON LOCATION 'app.log';
    INSERT INTO o SELECT a FROM s;";
const OUT: &str = "CREATE EXTERNAL TABLE o (a BIGINT) STORED AS PARQUET LOCATION 'out/';";

#[test]
fn a_followed_file_goes_on_behind_a_rotation() {
    let place = Place::new();
    let sql = format!("{OUT}{FOLLOW}");
    append(&place, "app.log", "{\"a\":1}\n{\"a\":2}\n{\"a\":");
    once(&place, &sql).data();
    append(&place, "app.log", "3}\n{\"a\":4}\n");
    std::fs::rename(place.path().join("app.log"), place.path().join("app.log.1")).expect("renames");
    append(&place, "app.log", "{\"a\":5}\n");
    once(&place, &sql).data();
    append(&place, "app.log", "{\"a\":6}\n");
    once(&place, &sql).data();
    assert_eq!(rows(&place, "SELECT a FROM 'out/' ORDER BY a"), "a\n1\n2\n3\n4\n5\n6\n");
}

#[test]
fn a_followed_file_that_was_cut_is_an_error_unless_options_allow_it() {
    let place = Place::new();
    let strict = format!("{OUT}{FOLLOW}");
    place.write("app.log", "{\"a\":1}\n{\"a\":2}\n");
    once(&place, &strict).data();
    place.write("app.log", "{\"a\":7}\n");
    let error = once(&place, &strict).error(1);
    assert!(error.contains("app.log was cut") && error.contains("on_truncate"), "{error}");
    let lax = strict.replace("'app.log'", "'app.log' OPTIONS ('on_truncate' 'restart')");
    once(&place, &lax).data();
    assert_eq!(rows(&place, "SELECT a FROM 'out/' ORDER BY a"), "a\n1\n2\n7\n");
}

#[test]
fn standard_input_is_read_to_its_end_and_the_next_one_is_added() {
    let place = Place::new();
    let sql = "CREATE STREAM s (a BIGINT, b VARCHAR) STORED AS CSV LOCATION '-';
        COPY (SELECT b, sum(a) AS a FROM s GROUP BY b) TO 'sums.csv';";
    pipe(&place, sql, b"a,b\n1,x\n2,y\n3,x").data();
    assert_eq!(rows(&place, "SELECT b, a FROM 'sums.csv' ORDER BY b"), "b,a\nx,4\ny,2\n");
    // Another order of columns: each input has a header of its own.
    pipe(&place, sql, b"b,a\nx,10\n").data();
    assert_eq!(rows(&place, "SELECT b, a FROM 'sums.csv' ORDER BY b"), "b,a\nx,14\ny,2\n");
    let error = pipe(&place, &sql.replace("(a BIGINT, b VARCHAR) ", ""), b"").error(2);
    assert!(error.contains("must be declared"), "{error}");
}

#[test]
fn a_pipe_larger_than_its_spool_passes_through() {
    let place = Place::new();
    let sql = "CREATE STREAM s (a BIGINT) STORED AS JSON LOCATION '/dev/stdin' OPTIONS ('max_spool_bytes' '1MB');
        COPY (SELECT count(*) AS n, sum(a) AS a FROM s) TO 'sum.csv';";
    let count: u64 = 600_000;
    let text: String = (0..count).map(|a| format!("{{\"a\":{a}}}\n")).collect();
    assert!(text.len() > 5_000_000);
    pipe(&place, sql, text.as_bytes()).data();
    assert_eq!(rows(&place, "FROM 'sum.csv'"), format!("n,a\n{count},{}\n", count * (count - 1) / 2));
    let spooled = place.files().into_iter().filter(|file| file.starts_with("state/spool/"));
    let kept: u64 = spooled.map(|file| std::fs::metadata(place.path().join(file)).expect("a file").len()).sum();
    assert!(kept < 1_500_000, "{kept}");
}

#[test]
fn a_named_pipe_is_read_until_its_writer_closes_it() {
    let place = Place::new();
    let path = place.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
    let writer = std::thread::spawn({
        let path = path.clone();
        move || std::fs::write(path, "{\"a\":1}\n{\"a\":2}\n").expect("writes")
    });
    once(&place, &format!("{OUT}{}", FOLLOW.replace("app.log", "fifo"))).data();
    writer.join().expect("wrote");
    assert_eq!(rows(&place, "SELECT a FROM 'out/' ORDER BY a"), "a\n1\n2\n");
}

#[test]
fn nexmark_tables_are_of_one_history() {
    let place = Place::new();
    let sql = "CREATE STREAM bid STORED AS NEXMARK OPTIONS ('rows' '5000');
        CREATE STREAM auction STORED AS NEXMARK OPTIONS ('rows' '5000');
        CREATE STREAM p STORED AS NEXMARK OPTIONS ('rows' '5000', 'kind' 'person');
        COPY (SELECT a.category, count(*) AS bids FROM auction a JOIN bid b ON a.id = b.auction
              WHERE b.date_time BETWEEN a.date_time AND a.expires GROUP BY a.category) TO 'bids.csv';
        COPY (SELECT count(*) AS sellers FROM p JOIN auction a ON a.seller = p.id) TO 'sellers.csv';";
    once(&place, sql).data();
    let bids: u64 =
        rows(&place, "SELECT sum(bids) FROM 'bids.csv'").lines().nth(1).expect("a row").parse().expect("one");
    assert!(bids > 1000, "{bids}");
    let sellers = rows(&place, "FROM 'sellers.csv'");
    assert!(
        sellers.lines().nth(1).is_some_and(|count| count.parse::<u64>().is_ok_and(|count| count > 250)),
        "{sellers}"
    );
    let error = once(&place, "CREATE STREAM x STORED AS NEXMARK; SELECT * FROM x").error(2);
    assert!(error.contains("'kind' 'bid'"), "{error}");
}

const BAD: &str = "{\"a\":1}\n{\"a\":\"two\"}\n{\"a\":3}\n{\"a\":\n";

#[test]
fn a_bad_record_fails_with_its_place_and_begins_no_epoch() {
    let place = Place::new();
    place.write("in/x.json", BAD);
    let sql = format!("{OUT}{}", FOLLOW.replace("app.log", "in/"));
    let error = once(&place, &sql).error(1);
    assert!(error.contains("x.json, line 2, column a: 'two' is no Int64"), "{error}");
    assert!(error.contains("{\"a\":\"two\"}") && error.contains("on_error"), "{error}");
    // Mended, it is read.
    place.write("in/x.json", "{\"a\":1}\n");
    once(&place, &sql).data();
    assert_eq!(rows(&place, "SELECT a FROM 'out/'"), "a\n1\n");
}

#[test]
fn bad_records_are_left_out_counted_and_kept() {
    let place = Place::new();
    place.write("in/x.json", BAD);
    let sql = |options: &str| format!("{OUT}{}", FOLLOW.replace("'app.log'", &format!("'in/' OPTIONS ({options})")));
    let ran = place.run(&["query", "--once", "--state", "s1", "-c", &sql("'on_error' 'skip'")]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("2 bad records left out"), "{}", ran.stderr);
    let letters = sql("'dead_letter' 'bad/'").replace("'out/'", "'out2/'");
    once(&place, &letters).data();
    once(&place, &letters).data();
    assert_eq!(rows(&place, "SELECT a FROM 'out2/' ORDER BY a"), "a\n1\n3\n");
    let kept = rows(&place, "SELECT payload, position, \"column\", reason FROM 'bad/' ORDER BY position");
    assert!(kept.contains("\"{\"\"a\"\":\"\"two\"\"}\",8,a,'two' is no Int64"), "{kept}");
    assert_eq!(kept.lines().count(), 3, "{kept}");
    let error = once(&place, &sql("'on_eror' 'skip'")).error(2);
    assert!(error.contains("did you mean on_error?"), "{error}");
}

#[test]
fn new_columns_are_ignored_and_incompatible_ones_stop_it() {
    let place = Place::new();
    let sql = format!("{OUT}{}", FOLLOW.replace("app.log", "in/").replace("JSON", "PARQUET"));
    place.write("in/.keep", "");
    place.sql("COPY (SELECT 1 AS a) TO 'in/1.parquet'").data();
    place.sql("COPY (SELECT 'new' AS b, 2 AS a) TO 'in/2.parquet'").data();
    once(&place, &sql).data();
    place.sql("COPY (SELECT 'three' AS a) TO 'in/3.parquet'").data();
    let error = once(&place, &sql).error(1);
    assert!(error.contains("3.parquet") && error.contains("column a") && error.contains("three"), "{error}");
    std::fs::remove_file(place.path().join("in/3.parquet")).expect("removes");
    place.sql("COPY (SELECT 4 AS a) TO 'in/4.parquet'").data();
    once(&place, &sql).data();
    assert_eq!(rows(&place, "SELECT a FROM 'out/' ORDER BY a"), "a\n1\n2\n4\n");
}

#[test]
fn a_folder_of_avro_files_is_read() {
    let place = Place::new();
    let file = |values: Vec<i64>| {
        let batch = RecordBatch::try_from_iter([("a", Arc::new(Int64Array::from(values)) as ArrayRef)]).expect("rows");
        let mut writer = AvroWriter::new(Vec::new(), batch.schema().as_ref().clone()).expect("a writer");
        writer.write(&batch).expect("writes");
        writer.finish().expect("ends");
        writer.into_inner()
    };
    place.write("in/1.avro", file(vec![1, 2]));
    let sql = "CREATE STREAM s STORED AS AVRO LOCATION 'in/'; COPY (SELECT sum(a) AS n FROM s) TO 'n.csv';";
    once(&place, sql).data();
    assert_eq!(rows(&place, "FROM 'n.csv'"), "n\n3\n");
    place.write("in/2.avro", file(vec![10]));
    once(&place, sql).data();
    assert_eq!(rows(&place, "FROM 'n.csv'"), "n\n13\n");
}
