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
    assert!(error.contains("x.json, line 2, column a: \"two\" is not a whole number that fits BIGINT"), "{error}");
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
    assert!(kept.contains("\"{\"\"a\"\":\"\"two\"\"}\",8,a,\"\"\"two\"\" is not a whole number"), "{kept}");
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
    assert!(error.contains("in/3.parquet: column a is VARCHAR there, and BIGINT in the table"), "{error}");
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

/// What a statement over a growing table says, and over the same table at rest: rows, or an error without its hints.
fn both(place: &Place, state: &str, table: &str, query: &str) -> [Result<String, String>; 2] {
    let told = |ran: Ran| match ran.code {
        Some(0) => Ok(()),
        _ => Err(ran.stderr.lines().next().unwrap_or_default().to_owned()),
    };
    let stream = format!("CREATE STREAM t {table}; COPY ({query}) TO '{state}.csv'");
    let stream = told(place.run(&["query", "--once", "--state", state, "-q", "-c", &stream]));
    let stream =
        stream.map(|()| rows(place, &format!("FROM read_csv('{state}.csv', all_varchar => true) ORDER BY ALL")));
    let rest = format!("CREATE EXTERNAL TABLE t {table}; COPY ({query}) TO '{state}-rest.csv'");
    let rest = told(place.run(&["query", "-q", "-c", &rest]));
    let rest =
        rest.map(|()| rows(place, &format!("FROM read_csv('{state}-rest.csv', all_varchar => true) ORDER BY ALL")));
    [stream, rest]
}

#[test]
fn the_same_bytes_give_the_same_rows_or_the_same_error_as_at_rest() {
    let place = Place::new();
    let json = [
        "{\"a\":1,\"b\":\"x\",\"c\":{\"d\":[1,2]}}\n{\"b\":7.50,\"a\":-2.0}\n",
        "{\"a\":1.5}\n",
        "{\"a\":1}\n{\"a\":9223372036854775808}\n",
        "{\"a\":true}\n",
        "{\"a\":1,}\n",
        "{\"a\":1,\"z\":[1,]}\n",
        "{\"a\":1,\"z\":2}\n",
        "{\"b\":{\"x\": 1}}\n{\"b\":null}\n{\"b\":[true, 2]}\n",
        "\u{feff}{\"a\":1}\r\n\r\n{\"a\":2}\r\n",
        "{\"a\":1}{\"a\":2}\n",
        "{\"a\":1} x\n",
        "{\"c\":{\"d\":[1.5]}}\n",
    ];
    let csv = [
        "a,b,c\n1,x,2024-01-31\n2,\"y\"\"\nz\",\n",
        "a,b,c\n1.5,x,\n",
        "a,b,c\n1,5\" pipe,\n",
        "a,b,c\n1,x,yesterday\n",
        "a,b,c\n99999999999999999999,x,\n",
        "\u{feff}a,b,c\r\n1,x,2024-01-31\r\n",
    ];
    let cases = json.iter().map(|text| ("JSON", "a BIGINT, b VARCHAR, c STRUCT(d BIGINT[])", *text));
    let cases = cases.chain(csv.iter().map(|text| ("CSV", "a BIGINT, b VARCHAR, c DATE", *text)));
    for (at, (format, columns, text)) in cases.enumerate() {
        let folder = format!("in{at}");
        place.write(&format!("{folder}/x.{}", format.to_lowercase()), text);
        let table = format!("({columns}) STORED AS {format} LOCATION '{folder}/'");
        let [stream, rest] = both(&place, &format!("s{at}"), &table, "SELECT a, b, CAST(c AS VARCHAR) AS c FROM t");
        assert_eq!(stream, rest, "{text}");
    }
}

#[test]
fn csv_is_written_as_options_say_or_as_it_is_found() {
    let place = Place::new();
    place.write("in/x.csv", "# made by hand\nid;on;price\n1;31/01/2024;1.234,50\n2;NA;2,00\n");
    let declared = "CREATE STREAM s (id BIGINT, \"on\" DATE, price DOUBLE) STORED AS CSV LOCATION 'in/' OPTIONS \
        ('delimiter' ';', 'comment' '#', 'dateformat' '%d/%m/%Y', 'nullstr' 'NA', 'decimal_separator' ',', 'thousands' '.');
        COPY (SELECT * FROM s) TO 'declared.csv'";
    place.run(&["query", "--once", "--state", "s1", "-q", "-c", declared]).data();
    let expected = "id,on,price\n1,2024-01-31,1234.5\n2,,2.0\n";
    assert_eq!(rows(&place, "FROM 'declared.csv' ORDER BY id"), expected);
    let found =
        "CREATE STREAM s STORED AS CSV LOCATION 'in/' OPTIONS ('nullstr' 'NA'); COPY (SELECT * FROM s) TO 'found.csv'";
    place.run(&["query", "--once", "--state", "s2", "-q", "-c", found]).data();
    assert_eq!(rows(&place, "FROM 'found.csv' ORDER BY id"), expected);
    // What comes later does not change what was found.
    place.write("in/y.csv", "# made by hand\nid;on;price;new\n3;01/02/2024;0,50;x\n");
    place.run(&["query", "--once", "--state", "s2", "-q", "-c", found]).data();
    assert_eq!(rows(&place, "FROM 'found.csv' ORDER BY id"), format!("{expected}3,2024-02-01,0.5\n"));
    for (options, message) in [
        ("'delimitr' ';'", "did you mean delimiter?"),
        ("'ignore_errors' 'true'", "on_error"),
        ("'encoding' 'utf-16'", "iconv"),
        ("'delimiter' ','", "its first line names none of the columns"),
    ] {
        let sql =
            format!("CREATE STREAM s (id BIGINT) STORED AS CSV LOCATION 'in/' OPTIONS ({options}); SELECT * FROM s");
        let ran = place.run(&["query", "--once", "--state", "s3", "--fresh", "-q", "-c", &sql]);
        assert!(ran.code != Some(0) && ran.stderr.contains(message), "{options}: {}", ran.stderr);
    }
}

#[test]
fn compressed_files_and_files_that_are_one_array_are_taken_whole() {
    let place = Place::new();
    let sql = "CREATE STREAM s (a BIGINT) STORED AS JSON LOCATION 'in/'; COPY (SELECT sum(a) AS n FROM s) TO 'n.csv'";
    place.write("in/1.json", "{\"a\":1}\n");
    place.sql("COPY (SELECT 20 AS a UNION ALL SELECT 300) TO 'in/2.json.gz'").data();
    place.sql("COPY (SELECT 4000 AS a) TO 'in/3.json.zst'").data();
    let whole = std::fs::read(place.path().join("in/2.json.gz")).expect("reads");
    place.write("in/4.json.gz", &whole[..whole.len() / 2]);
    once(&place, sql).data();
    assert_eq!(rows(&place, "FROM 'n.csv'"), "n\n4321\n");
    place.write("in/4.json.gz", &whole);
    once(&place, sql).data();
    assert_eq!(rows(&place, "FROM 'n.csv'"), "n\n4641\n");
    place.write("array/1.json", "[{\"a\":1},\n {\"a\":\n 2}]");
    let sql = sql.replace("'in/'", "'array/'").replace("n.csv", "m.csv");
    let error = place.run(&["query", "--once", "--state", "s2", "-q", "-c", &sql]).error(1);
    assert!(error.contains("1.json, line 1") && error.contains("'newline_delimited' 'false'"), "{error}");
    let sql = sql.replace("'array/'", "'array/' OPTIONS ('newline_delimited' 'false')");
    place.run(&["query", "--once", "--state", "s2", "-q", "-c", &sql]).data();
    assert_eq!(rows(&place, "FROM 'm.csv'"), "n\n3\n");
}

#[test]
fn columns_that_come_later_are_added_if_options_say_so() {
    let place = Place::new();
    let sql = "CREATE STREAM s (a BIGINT) STORED AS JSON LOCATION 'in/' OPTIONS ('schema' 'evolve');
        COPY (SELECT * FROM s) TO 'all/' STORED AS PARQUET;
        COPY (SELECT * FROM s) TO 'all.csv';
        COPY (SELECT count(*) AS n, sum(a) AS a FROM s) TO 'n.csv';";
    place.write("in/1.json", "{\"a\":1}\n{\"a\":2}\n");
    once(&place, sql).data();
    place.write("in/2.json", "{\"a\":3,\"b\":1,\"c\":null}\n{\"a\":4,\"b\":0.5}\n");
    let ran = place.run(&["query", "--once", "--state", "state", "-c", sql]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("s has new columns: b DOUBLE"), "{}", ran.stderr);
    let expected = "a,b\n1,\n2,\n3,1.0\n4,0.5\n";
    assert_eq!(rows(&place, "SELECT a, b FROM 'all/' ORDER BY a"), expected);
    assert_eq!(rows(&place, "SELECT a, b FROM 'all.csv' ORDER BY a"), expected);
    place.write("in/3.json", "{\"b\":2,\"a\":5}\n");
    once(&place, sql).data();
    assert_eq!(rows(&place, "SELECT a, b FROM 'all/' ORDER BY a"), format!("{expected}5,2.0\n"));
    assert_eq!(rows(&place, "FROM 'n.csv'"), "n,a\n5,15\n");
    place.write("in/4.json", "{\"b\":\"text\"}\n");
    let error = once(&place, sql).error(1);
    assert!(error.contains("4.json, line 1, column b: \"text\" is not a number that fits DOUBLE"), "{error}");
}

#[test]
fn new_columns_of_parquet_are_added_and_those_of_rows_that_are_kept_are_refused() {
    let place = Place::new();
    place.sql("COPY (SELECT 1 AS a) TO 'in/1.parquet'").data();
    let sql = "CREATE STREAM s STORED AS PARQUET LOCATION 'in/' OPTIONS ('schema' 'evolve');
        COPY (SELECT * FROM s) TO 'all/' STORED AS PARQUET;";
    once(&place, sql).data();
    place.sql("COPY (SELECT 2 AS a, 'x' AS b) TO 'in/2.parquet'").data();
    let joined = format!("{sql} COPY (SELECT l.a FROM s l JOIN (SELECT DISTINCT * FROM s) r ON l.a = r.a) TO 'j.csv';");
    once(&place, sql).data();
    assert_eq!(rows(&place, "SELECT a, b FROM 'all/' ORDER BY a"), "a,b\n1,\n2,x\n");
    let joined = joined.replace("'all/'", "'more/'");
    std::fs::remove_file(place.path().join("in/2.parquet")).expect("removes");
    place.run(&["query", "--once", "--state", "s2", "-q", "-c", &joined]).data();
    place.sql("COPY (SELECT 3 AS a, 'x' AS b) TO 'in/3.parquet'").data();
    let error = place.run(&["query", "--once", "--state", "s2", "-q", "-c", &joined]).error(1);
    assert!(error.contains("would change what the state keeps") && error.contains("--fresh"), "{error}");
}

#[test]
fn a_state_tells_its_last_error_where_its_sources_are_and_what_it_keeps() {
    let place = Place::new();
    let sql = "CREATE STREAM s (a BIGINT) STORED AS JSON LOCATION 'in/';
        COPY (SELECT a, count(*) AS n FROM s GROUP BY a) TO 'n.csv'";
    place.write("in/1.json", "{\"a\":1}\n{\"a\":2}\n");
    once(&place, sql).data();
    place.write("in/2.json", "{\"a\":3}\n{\"a\":0.5}\n");
    once(&place, sql).error(1);
    let json = |place: &Place| -> serde_json::Value {
        serde_json::from_str(&place.run(&["inspect", "state", "--format", "json"]).data()).expect("JSON")
    };
    let found = json(&place);
    assert_eq!(found["committed_epoch"], 1);
    assert_eq!(found["last_error"]["epoch"], 2);
    assert!(found["last_error"]["message"].as_str().is_some_and(|text| text.contains("2.json, line 2")), "{found}");
    assert!(found["last_error"]["at"].as_str().is_some_and(|at| at.starts_with("20")), "{found}");
    assert_eq!(found["sources"]["s"], serde_json::json!({ "files": 1, "last": "in/1.json" }));
    let kept = found["keeps"].as_array().expect("a list");
    assert!(
        kept.iter().any(|one| one["what"].as_str().is_some_and(|what| what.starts_with("Aggregate by"))),
        "{found}"
    );
    // Manifests tell it all: the state itself is not opened.
    for entry in std::fs::read_dir(place.path().join("state/state")).expect("lists") {
        std::fs::remove_file(entry.expect("an entry").path()).expect("removes");
    }
    let text = place.run(&["inspect", "state"]).data();
    for words in ["last error", "in epoch 2:", "s: files 1, last in/1.json", "Aggregate by [s.a]", "2 rows"] {
        assert!(text.contains(words), "{words} in {text}");
    }
}

#[test]
fn a_setting_says_whether_a_query_may_be_computed_anew_from_all_input() {
    let place = Place::new();
    place.write("in/1.json", "{\"a\":1}\n{\"a\":2}\n");
    let sql = |setting: &str| {
        format!(
            "{setting} CREATE STREAM s (a BIGINT) STORED AS JSON LOCATION 'in/';
            COPY (WITH RECURSIVE r AS (SELECT a FROM s UNION ALL SELECT a + 10 FROM r WHERE a < 10)
                  SELECT a FROM r ORDER BY a) TO 'r.csv';"
        )
    };
    let run = |state: &str, setting: &str| place.run(&["query", "--once", "--state", state, "-c", &sql(setting)]);
    let warned = run("warn", "");
    assert_eq!(warned.code, Some(0), "{}", warned.stderr);
    assert_eq!(warned.stderr.matches("is computed anew from all input at each change: a recursive query").count(), 1);
    assert_eq!(place.read("r.csv"), "a\n1\n2\n11\n12\n");
    let said = run("warn2", "SET fuse.on_full_recompute = 'warn';");
    assert!(said.stderr.contains("note: ") && said.stderr.contains("a recursive query"), "{}", said.stderr);
    let allowed = run("allow", "SET fuse.on_full_recompute = 'allow';");
    assert_eq!(allowed.code, Some(0), "{}", allowed.stderr);
    assert!(!allowed.stderr.contains("computed anew"), "{}", allowed.stderr);
    let error = run("error", "SET fuse.on_full_recompute = 'error';").error(2);
    assert!(error.contains("is computed anew from all input at each change: a recursive query"), "{error}");
    assert!(error.contains("help: EXPLAIN INCREMENTAL shows all operators"), "{error}");
    assert!(!place.path().join("error").exists(), "nothing has begun");
    let error = run("other", "SET fuse.on_full_recompute = 'maybe';").error(2);
    assert!(error.contains("on_full_recompute"), "{error}");
    // What follows the change passes.
    let fine = "SET fuse.on_full_recompute = 'error'; CREATE STREAM s (a BIGINT) STORED AS JSON LOCATION 'in/';
        COPY (SELECT sum(a) AS a FROM s) TO 'sum.csv';";
    place.run(&["query", "--once", "--state", "fine", "-q", "-c", fine]).data();
}

#[test]
fn a_replaced_file_is_in_the_order_of_columns_that_it_does_not_have() {
    let place = Place::new();
    let sql = "CREATE STREAM s (a BIGINT, b BIGINT) STORED AS JSON LOCATION 'in/';
        COPY (SELECT a FROM s ORDER BY b DESC, a + 1) TO 'a.csv';
        COPY (SELECT a % 3 AS k FROM s GROUP BY 1 ORDER BY count(*), 1 DESC) TO 'k.json';
        COPY (SELECT a AS x FROM s ORDER BY b LIMIT 2) TO 'top.parquet';
        COPY (SELECT a AS x FROM s ORDER BY b OFFSET 2) TO 'rest.csv';
        COPY (SELECT a FROM s ORDER BY b) TO 'rows/' STORED AS CSV;";
    place.write("in/1.json", "{\"a\":1,\"b\":5}\n{\"a\":2,\"b\":1}\n{\"a\":4,\"b\":9}\n");
    once(&place, sql).data();
    assert_eq!(place.read("a.csv"), "a\n4\n1\n2\n");
    place.write("in/2.json", "{\"a\":8,\"b\":5}\n{\"a\":7,\"b\":0}\n{\"a\":1,\"b\":7}\n");
    once(&place, sql).data();
    assert_eq!(place.read("a.csv"), "a\n4\n1\n1\n8\n2\n7\n");
    assert_eq!(place.read("k.json"), "{\"k\":2}\n{\"k\":1}\n");
    assert_eq!(rows(&place, "FROM 'top.parquet'"), "x\n7\n2\n");
    assert_eq!(place.read("rest.csv"), "x\n1\n8\n1\n4\n");
    assert_eq!(rows(&place, "FROM 'rows/' ORDER BY a"), "a\n1\n1\n2\n4\n7\n8\n");
    let verified = place.run(&["verify", "--state", "state", "-c", sql]).data();
    assert!(verified.contains("equal: 5 statements"), "{verified}");
}

#[test]
fn explain_incremental_tells_what_operators_keep_and_what_they_cost() {
    let place = Place::new();
    let tables = "CREATE STREAM s (a BIGINT) STORED AS JSON LOCATION 'in/';
        CREATE MATERIALIZED VIEW v AS SELECT a % 10 AS k, count(*) AS n FROM s WHERE a > 0 GROUP BY 1;";
    let sql = format!("{tables} COPY (SELECT * FROM v) TO 'v.csv'; COPY (SELECT a FROM s WHERE a > 0) TO 'a.csv';");
    let explain = format!("{tables} EXPLAIN INCREMENTAL SELECT * FROM v");
    let explained = |more: &[&str]| {
        let args = ["query", "-q", "--format", "csv", "-c", &explain];
        place.run(&[&args, more].concat()).data()
    };
    assert!(explained(&[]).starts_with("operator,strategy,output,reason\n"), "it has not run");
    place.write("in/1.json", "{\"a\":1}\n{\"a\":2}\n{\"a\":-2}\n");
    once(&place, &sql).data();
    place.write("in/2.json", "{\"a\":11}\n{\"a\":3}\n");
    once(&place, &sql).data();
    let found = explained(&["--state", "state"]);
    let mut lines = found.lines();
    let names = "operator,strategy,output,reason,state_rows,state_bytes,epochs,epoch_micros";
    assert_eq!(lines.next(), Some(names), "{found}");
    let cost = |line: &str| -> Vec<f64> {
        let mut last: Vec<f64> = line.rsplit(',').take(4).map(|text| text.parse().expect("a number")).collect();
        last.reverse();
        last
    };
    // The statement is part of a larger plan, in which another one reads what is below the aggregate.
    let aggregate = lines.clone().find(|line| line.trim_start().contains("Aggregate by")).expect("an aggregate");
    assert!(
        matches!(cost(aggregate)[..], [rows, bytes, epochs, micros] if rows == 3.0 && bytes > 0.0 && epochs == 2.0 && micros > 0.0),
        "{found}"
    );
    let scan = lines.find(|line| line.contains("Scan s")).expect("a scan");
    assert_eq!(cost(scan)[..3], [0.0, 0.0, 2.0], "{found}");
    // A state is none of a query's that it does not know.
    let other = format!("{tables} EXPLAIN INCREMENTAL SELECT count(*) FROM s WHERE a > 5");
    let other = place.run(&["query", "-q", "--format", "csv", "--state", "state", "-c", &other]).data();
    assert!(other.lines().nth(1).is_some_and(|line| line.ends_with(",,,")), "{other}");

    let inspected = place.run(&["inspect", "state", "--format", "json"]).data();
    let inspected: serde_json::Value = serde_json::from_str(&inspected).expect("JSON");
    let operators = inspected["operators"].as_array().expect("a list");
    let known = operators.iter().find(|one| one["state_rows"] == 3).expect("the aggregate");
    assert!(known["operator"].as_str().is_some_and(|text| text.contains("Aggregate by")), "{inspected}");
    assert_eq!((&known["strategy"], &known["epochs"]), (&"change".into(), &2.into()));
    assert!(known["epoch_micros"].as_f64().is_some_and(|micros| micros > 0.0), "{inspected}");
    let text = place.run(&["inspect", "state"]).data();
    let line = text.lines().find(|line| line.contains("Aggregate by") && line.contains(" an epoch, change)"));
    assert!(line.is_some_and(|line| line.contains("(3 rows, ")), "{text}");
}

#[test]
fn a_materialized_view_is_computed_once_for_all_that_read_it() {
    let place = Place::new();
    place.write("in/1.json", "{\"a\":1,\"b\":10}\n{\"a\":2,\"b\":20}\n{\"a\":1,\"b\":5}\n");
    let views = "CREATE STREAM s (a BIGINT, b BIGINT) STORED AS JSON LOCATION 'in/';
        CREATE MATERIALIZED VIEW v AS SELECT a, sum(b) AS b, count(*) AS n FROM s GROUP BY a;
        CREATE MATERIALIZED VIEW w AS SELECT max(b) AS most FROM v;";
    let error = once(&place, views).error(2);
    assert!(
        error.contains("nothing reads the materialized view v") && error.contains("COPY (SELECT * FROM v)"),
        "{error}"
    );
    let sql = format!(
        "{views} EXPLAIN INCREMENTAL SELECT * FROM v; COPY (SELECT a, b FROM v WHERE n > 1) TO 'x.csv';
        COPY (SELECT a, n FROM v) TO 'y.csv'; COPY (SELECT * FROM w) TO 'z.csv';"
    );
    once(&place, &sql).data();
    assert_eq!(rows(&place, "FROM 'x.csv'"), "a,b\n1,15\n");
    assert_eq!(rows(&place, "FROM 'y.csv' ORDER BY a"), "a,n\n1,2\n2,1\n");
    assert_eq!(rows(&place, "FROM 'z.csv'"), "most\n20\n");
    let found = place.run(&["inspect", "state", "--format", "json"]).data();
    let found: serde_json::Value = serde_json::from_str(&found).expect("JSON");
    let groups = found["keeps"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|one| one["what"] == "Aggregate by [s.a]: sum(s.b), count(*)");
    assert_eq!(groups.count(), 1, "{found}");
}

#[test]
fn once_over_a_generator_without_end_takes_what_is_due_and_ends() {
    let place = Place::new();
    let sql = "CREATE STREAM r STORED AS RATE OPTIONS ('rows_per_second' '1000');
        CREATE STREAM bid STORED AS NEXMARK OPTIONS ('max_rows_per_epoch' '5000');
        COPY (SELECT count(*) AS n FROM r) TO 'n.csv'; COPY (SELECT count(*) AS n FROM bid) TO 'bids.csv'";
    let count = |file: &str| -> u64 {
        rows(&place, &format!("FROM '{file}'")).lines().nth(1).and_then(|n| n.parse().ok()).expect("a count")
    };
    once(&place, sql).data();
    let first = (count("n.csv"), count("bids.csv"));
    assert!(first.0 > 0 && first.1 > 0, "{first:?}");
    once(&place, sql).data();
    assert!(count("n.csv") > first.0 && count("bids.csv") > first.1);
}

#[test]
fn two_tables_over_one_pipe_are_refused() {
    let place = Place::new();
    let sql = "CREATE STREAM a (x BIGINT) STORED AS JSON LOCATION '-'; CREATE STREAM b (x BIGINT) STORED AS JSON LOCATION '-';
        COPY (SELECT a.x FROM a JOIN b ON a.x = b.x) TO 'x.csv'";
    let error = pipe(&place, sql, b"{\"x\":1}\n").error(2);
    assert!(error.contains("a and b both read standard input"), "{error}");
    // One table may be read twice.
    let sql = "CREATE STREAM a (x BIGINT) STORED AS JSON LOCATION '-';
        COPY (SELECT sum(x) AS x FROM a) TO 'x.csv'; COPY (SELECT count(*) AS n FROM a) TO 'n.csv'";
    pipe(&place, sql, b"{\"x\":1}\n{\"x\":2}\n").data();
    assert_eq!(rows(&place, "FROM 'x.csv' CROSS JOIN 'n.csv'"), "x,n\n3,2\n");
}

/// What is shown of rows of the last hour follows the time, also where no row comes.
#[test]
fn rows_leave_when_their_time_is_over() {
    let place = Place::new();
    let now = fuse::clock::now_micros();
    let line = |id: i64, micros: i64| format!("{{\"id\":{id},\"at\":{micros}}}\n");
    let text = [line(1, now - 3_600_000_000), line(2, now - 3_597_500_000), line(3, now), line(4, now + 2_500_000)];
    place.write("in/1.json", text.concat());
    let sql = "CREATE STREAM s (id BIGINT, at BIGINT) STORED AS JSON LOCATION 'in/';
        COPY (SELECT id FROM s WHERE to_timestamp_micros(at) > now() - INTERVAL '1 hour'
              AND to_timestamp_micros(at) <= now()) TO 'recent/' STORED AS CSV OPTIONS ('mode' 'changelog');
        COPY (SELECT count(*) AS n, max(id) AS last FROM s WHERE id > 1
              AND to_timestamp_micros(at) > now() - INTERVAL '1 hour') TO 'count.csv';";
    place.write("q.sql", sql);
    let count = || place.read("count.csv");
    place.run(&["query", "q.sql", "--once"]).data();
    assert_eq!(count(), "n,last\n3,4\n");
    place.run(&["query", "q.sql", "--until-idle", "4s"]).data();
    assert_eq!(count(), "n,last\n2,4\n");
    let mut changes = Vec::new();
    for file in place.files().iter().filter(|file| file.starts_with("recent/") && file.ends_with(".csv")) {
        let text = place.read(file);
        changes.extend(text.lines().skip(1).map(|line| line.split(',').take(2).collect::<Vec<_>>().join(",")));
    }
    changes.sort();
    assert_eq!(changes, ["2,delete", "2,insert", "3,insert", "4,insert"]);
}
