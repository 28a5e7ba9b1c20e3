//! Bad data, bad SQL, bad arguments.
//!
//! Enters: files and statements that are wrong in one way each, and some that are only huge. Leaves: what the
//! program says about them. Always holds: a run ends in time and within its memory, by an exit code and not by a
//! signal; an error prints nothing on standard output, says where the trouble is in the words of who reads it,
//! and leaves no file; what is read is read whole or refused, never in part.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::process::{Command, Stdio};

use crate::support::{Place, Ran};

/// What a run may take of address space: stacks and arenas are in it, so it is far more than what is touched.
const ADDRESS_SPACE_KB: &str = "6291456";
/// Seconds after which a run has hung.
const PATIENCE: u32 = 30;
/// Words of the libraries beneath, which tell a user nothing.
const FOREIGN: &str = "internal error; panicked; backtrace; bug in datafusion; objectstore; external error; \
                       execution error; error during planning; user-defined coercion; arrow error; json error; \
                       parquet error; generic file error; io error; os error; listingtable; sqltorel; \
                       logical plan; windowudf; syntax(";

/// Runs the program with an end to its time and memory.
pub(crate) fn run(place: &Place, seconds: u32, args: &[&str]) -> Ran {
    let mut command = Command::new("timeout");
    command.arg(seconds.to_string()).args(["sh", "-c", "ulimit -v $0 && exec \"$@\"", ADDRESS_SPACE_KB]);
    command.arg(env!("CARGO_BIN_EXE_fuse")).args(args).current_dir(place.path());
    command.env_remove("RUST_LOG").env_remove("RUST_BACKTRACE").stdin(Stdio::null());
    Ran::from(command.output().expect("timeout and sh run"))
}

pub(crate) fn sql(place: &Place, sql: &str) -> Ran {
    run(place, PATIENCE, &["query", "--format", "csv", "--memory-limit", "100MB", "-c", sql])
}

/// What is wrong with a failed run, if anything is. The words are looked for outside of the lines of SQL it shows.
pub(crate) fn wrong(ran: &Ran, code: i32, says: &[&str]) -> Option<String> {
    let shown = |line: &&str| line.split_once(" |").is_some_and(|(number, _)| number.trim().parse::<u32>().is_ok());
    let message = ran.stderr.lines().filter(|line| !shown(line)).collect::<Vec<_>>().join("\n").to_lowercase();
    let mut wrong: Vec<String> = Vec::new();
    wrong.extend((ran.code != Some(code)).then(|| format!("exit code {:?}, not {code}", ran.code)));
    wrong.extend((!ran.stdout.is_empty()).then(|| format!("{} bytes on standard output", ran.stdout.len())));
    let lacking = says.iter().filter(|word| !message.contains(&word.to_lowercase()));
    wrong.extend(lacking.map(|word| format!("lacks {word}")));
    wrong.extend(FOREIGN.split("; ").filter(|word| message.contains(word)).map(|word| format!("says {word}")));
    let stderr: String = ran.stderr.chars().take(600).collect();
    (!wrong.is_empty()).then(|| format!("{}\n{stderr}", wrong.join("; ")))
}

/// Holds the program to cases, one a line: `exit code: SQL => words of the message & more words`. Behind ` <= `
/// the SQL has the text of the file that it names. All are tried, so that one run shows everything that is wrong.
#[track_caller]
fn hold(place: &Place, cases: &str) {
    let cases: Vec<&str> = cases.lines().map(str::trim).filter(|case| !case.is_empty()).collect();
    let check = |case: &&str| {
        let (code, rest) = case.split_once(": ")?;
        let (text, says) = rest.split_once(" => ")?;
        let (text, file) = text.split_once(" <= ").map_or((text, None), |(text, file)| (text, Some(file)));
        if let (Some(name), Some(file)) = (text.split('\'').nth(1), file) {
            place.write(name, file.replace("\\n", "\n"));
        }
        let ran = sql(place, &text.replace("\\n", "\n"));
        let wrong = wrong(&ran, code.parse().ok()?, &says.split(" & ").collect::<Vec<_>>())?;
        Some(format!("{text}\n{wrong}"))
    };
    assert!(cases.iter().all(|case| case.contains(": ") && case.contains(" => ")), "{cases:?}");
    let failed: Vec<String> = cases.iter().filter_map(check).collect();
    assert!(failed.is_empty(), "{} of {}:\n\n{}\n", failed.len(), cases.len(), failed.join("\n\n"));
}

/// A CSV file of 32,000 lines, of which one is odd. Line 1 is the header; types are taken from 20,480 rows.
fn csv(odd: usize, text: &str) -> String {
    let mut csv = "a,b,c\n".to_owned();
    for line in 2..=32_000 {
        let _ = if line == odd { writeln!(csv, "{text}") } else { writeln!(csv, "{line},x{line},{line}.5") };
    }
    csv
}

/// The same as JSON, an object a line.
fn ndjson(odd: usize, text: &str) -> String {
    let plain = |line| format!("{{\"a\":{line},\"b\":\"x{line}\"}}\n");
    (1..=32_000).map(|line| if line == odd { format!("{text}\n") } else { plain(line) }).collect()
}

/// Writes a file, and a `.gz` of it beside it.
pub(crate) fn packed(place: &Place, name: &str, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    place.write(name, bytes);
    let output = Command::new("gzip").args(["-1", "-c"]).arg(place.path().join(name)).output().expect("gzip runs");
    assert!(output.status.success());
    place.write(&format!("{name}.gz"), &output.stdout);
    output.stdout
}

/// The bytes of a file that the program wrote.
fn copied(place: &Place, name: &str) -> Vec<u8> {
    let rows = "SELECT i AS a, i * 2 AS b, 'name' || i AS c FROM generate_series(1, 100000) t(i)";
    place.sql(&format!("COPY ({rows}) TO '{name}'")).data();
    fs::read(place.path().join(name)).expect("a file")
}

#[test]
fn what_is_not_there_is_named() {
    let place = Place::new();
    place.write("station.csv", "a,b\n1,2\n");
    place.write("lake/part.csv", "a,b\n1,2\n");
    fs::create_dir(place.path().join("hollow")).expect("a folder");
    fs::create_dir(place.path().join("dir.parquet")).expect("a folder");
    let cases = r#"1: SELECT * FROM 'statoin.csv' => 'statoin.csv' & help: did you mean 'station.csv'?
        2: SELECT * FROM 'station.cvs' => station.cvs & help: did you mean 'station.csv'?
        2: SELECT * FROM 'lake' => lake & help: & 'lake/'
        1: SELECT * FROM 'hollow/' => 'hollow/' & no data files & help:
        1: SELECT * FROM 'dir.parquet' => 'dir.parquet' & no data files & help:
        1: SELECT * FROM 'notes/readme.txt' <= hello => 'notes/readme.txt' & STORED AS CSV
        1: SELECT * FROM '*.nope' => '*.nope'
        1: CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'statoin.csv' => help: did you mean 'station.csv'?
        1: CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '' => empty"#;
    hold(&place, cases);
}

#[test]
fn an_empty_file_is_named_and_a_header_is_a_table() {
    let place = Place::new();
    for ending in ["csv", "tsv", "json", "ndjson", "parquet", "arrow", "avro"] {
        place.write(&format!("x.{ending}"), "");
        hold(&place, &format!("1: SELECT * FROM 'x.{ending}' => x.{ending} & empty"));
    }
    place.write("header.csv", "a,b\n");
    assert_eq!(sql(&place, "SELECT * FROM 'header.csv'").data(), "a,b\n");
    place.write("blank.csv", "a,b\n1,2\n\n".to_owned() + &"\n".repeat(20_000) + "3,4\n");
    assert_eq!(sql(&place, "SELECT sum(a) AS s FROM 'blank.csv'").data(), "s\n4\n");
}

#[test]
fn a_damaged_binary_file_is_named() {
    let place = Place::new();
    let good = copied(&place, "good.parquet");
    let (half, end) = (good.len() / 2, good.len());
    let with = |at: usize, bytes: &[u8]| [&good[..at], bytes, &good[at + bytes.len()..]].concat();
    place.write("gap.parquet", [&good[..half], &good[half + 5000..]].concat());
    place.write("length.parquet", with(end - 8, &i32::MAX.to_le_bytes()));
    place.write("footer.parquet", with(end - 200, &[0x5a; 100]));
    place.write("page.parquet", with(half, &[0x5a; 20_000]));
    let arrow = copied(&place, "good.arrow");
    let half = arrow.len() / 2;
    place.write("cut.arrow", &arrow[..half]);
    place.write("gap.arrow", [&arrow[..half], &arrow[half + 4096..]].concat());
    place.write("pair/a.parquet", &good);
    place.write("pair/b.parquet", &good[..good.len() / 2]);
    let cases = r#"1: SELECT max(c) FROM 'gap.parquet' => gap.parquet
        1: SELECT max(c) FROM 'length.parquet' => length.parquet
        1: SELECT max(c) FROM 'footer.parquet' => footer.parquet
        1: SELECT count(DISTINCT a), count(DISTINCT b), count(DISTINCT c) FROM 'page.parquet' => page.parquet
        1: SELECT max(c) FROM 'short.parquet' <= PAR1PAR1 => short.parquet
        1: SELECT max(c) FROM 'text.parquet' <= a,b\n1,2 => text.parquet & not a Parquet file
        1: SELECT max(c) FROM 'pair/' => pair/b.parquet
        1: SELECT * FROM 'text.arrow' <= hello => text.arrow & not an Arrow file
        1: SELECT * FROM 'text.avro' <= hello => text.avro & not an Avro file
        1: SELECT count(DISTINCT c) FROM 'cut.arrow' => cut.arrow
        1: SELECT count(DISTINCT c) FROM 'gap.arrow' => gap.arrow"#;
    hold(&place, cases);
}

#[test]
fn damaged_compression_is_named() {
    let place = Place::new();
    let (text, json) = (packed(&place, "good.csv", csv(0, "")), packed(&place, "good.ndjson", ndjson(0, "")));
    place.write("cut.csv.gz", &text[..text.len() * 9 / 10]);
    place.write("cut.ndjson.gz", &json[..json.len() * 9 / 10]);
    let mut cases = "1: SELECT max(b) FROM 'cut.ndjson.gz' => cut.ndjson.gz\n".to_owned();
    for ending in ["gz", "zst", "xz", "bz2"] {
        place.write(&format!("text.csv.{ending}"), "a,b\n1,2\n");
        if ending != "gz" {
            let whole = copied(&place, &format!("whole.csv.{ending}"));
            place.write(&format!("cut.csv.{ending}"), &whole[..whole.len() / 2]);
        }
        let _ = writeln!(cases, "1: SELECT * FROM 'text.csv.{ending}' => text.csv.{ending}");
        let _ = writeln!(cases, "1: SELECT max(b) FROM 'cut.csv.{ending}' => cut.csv.{ending}");
    }
    hold(&place, &cases);
}

#[test]
fn a_bad_line_of_csv_is_named() {
    let place = Place::new();
    for (name, text) in [("short", "10,x"), ("long", "10,x,1.5,9"), ("value", "oops,x,1.5"), ("quote", "10,\"x,1.5")] {
        packed(&place, &format!("{name}.csv"), csv(30_000, text));
        place.write(&format!("early_{name}.csv"), csv(10, text));
        place.write(&format!("many_{name}/a.csv"), csv(0, ""));
        place.write(&format!("many_{name}/b.csv"), csv(30_000, text));
    }
    place.write("lines.csv", csv(100, "1,\"two\nlines\",1.5").replace("\n30000,", "\noops,"));
    let cases = r#"1: SELECT max(b) FROM 'short.csv' => short.csv, line 30000 & 10,x & help: & null_padding
        1: SELECT max(b) FROM 'early_short.csv' => early_short.csv, line 10 & help: & null_padding
        1: SELECT max(b) FROM 'many_short/*.csv' => many_short/b.csv, line 30000 & help:
        1: SELECT max(b) FROM 'short.csv.gz' => short.csv.gz, line 30000 & help:
        1: SELECT max(b) FROM 'long.csv' => long.csv, line 30000 & 4 fields & help:
        1: SELECT max(b) FROM read_csv('quote.csv', repair = false) => quote.csv, line 30000 & quote
        1: SELECT max(b) FROM read_csv('early_quote.csv', repair = false) => early_quote.csv, line 10 & quote
        1: SELECT sum(a) FROM 'value.csv' => value.csv, line 30000, column a & 'oops' & help: & VARCHAR
        1: SELECT sum(a) FROM 'many_value/' => many_value/b.csv, line 30000, column a & 'oops' & help:
        1: SELECT sum(a) FROM 'lines.csv' => lines.csv, line 30001, column a & 'oops'
        1: CREATE TABLE t AS SELECT * FROM 'value.csv' => value.csv, line 30000, column a & 'oops'
        1: COPY (SELECT * FROM 'value.csv') TO 'out.csv' => value.csv, line 30000, column a & 'oops'"#;
    hold(&place, cases);
    assert!(!place.files().iter().any(|name| name.contains("out") || name.contains(".fuse")), "{:?}", place.files());
}

#[test]
fn the_remedies_that_errors_name_work() {
    let place = Place::new();
    place.write("short.csv", csv(30_000, "10,x"));
    place.write("value.csv", csv(30_000, "oops,x,1.5"));
    let table = |columns: &str, format: &str, file: &str, options: &str| {
        let create = format!("CREATE EXTERNAL TABLE t {columns} STORED AS {format} LOCATION '{file}' {options}");
        sql(&place, &format!("{create}; SELECT count(*) AS n, count(a) AS a, max(b) AS b FROM t")).data()
    };
    let all = "n,a,b\n31999,31999,x9999\n";
    assert_eq!(table("", "CSV", "short.csv", "OPTIONS ('format.truncated_rows' 'true')"), all);
    assert_eq!(table("(a VARCHAR, b VARCHAR, c DOUBLE)", "CSV", "value.csv", ""), all);
}

#[test]
fn bytes_that_are_no_text_are_named() {
    let place = Place::new();
    let latin = |text: String| text.bytes().map(|byte| if byte == b'~' { 0xe9 } else { byte }).collect::<Vec<u8>>();
    place.write("early.csv", latin(csv(10, "10,caf~,1.5")));
    place.write("late.csv", latin(csv(30_000, "10,caf~,1.5")));
    place.write("head.csv", b"a,caf\xe9\n1,2\n");
    place.write("early.ndjson", latin(ndjson(10, r#"{"a":10,"b":"caf~"}"#)));
    place.write("late.ndjson", latin(ndjson(30_000, r#"{"a":10,"b":"caf~"}"#)));
    let utf16: Vec<u8> = "\u{feff}a,b\n1,2\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    place.write("wide.csv", utf16);
    assert_eq!(sql(&place, "SELECT * FROM 'wide.csv'").data(), "a,b\n1,2\n");
    let cases = "1: SELECT max(b) FROM 'early.csv' => early.csv, line 10, column b & UTF-8 & help:
        1: SELECT max(b) FROM 'late.csv' => late.csv, line 30000, column b & UTF-8 & help:
        1: SELECT * FROM 'head.csv' => head.csv, line 1 & UTF-8 & help:
        1: SELECT max(b) FROM 'late.ndjson' => late.ndjson, line 30000 & UTF-8";
    hold(&place, cases);
}

#[test]
fn a_bad_line_of_json_is_named() {
    let place = Place::new();
    for (name, text) in [("cut", r#"{"a":10,"b":"#), ("kind", r#"{"a":{"k":1},"b":"x"}"#)] {
        packed(&place, &format!("{name}.ndjson"), ndjson(30_000, text));
        place.write(&format!("early_{name}.ndjson"), ndjson(10, text));
    }
    place.write("value.ndjson", ndjson(30_000, r#"{"a":"ten","b":"x"}"#));
    let cases = r#"1: SELECT max(b) FROM 'cut.ndjson' => cut.ndjson, line 30000
        1: SELECT max(b) FROM 'cut.ndjson.gz' => cut.ndjson.gz, line 30000
        1: SET fuse.json_sample = '99KB'; SELECT count(DISTINCT a) FROM "kind.ndjson" => kind.ndjson, line 30000
        1: SET fuse.json_sample = '99KB'; SELECT sum(a) FROM "value.ndjson" => value.ndjson, line 30000 & ten
        1: SELECT count(a) FROM 'open.json' <= [{"a":1},\n{"a":2},\n => open.json, line 3
        1: SELECT count(a) FROM 'behind.json' <= [{"a":1}]\n[{"a":2}]\n => behind.json
        1: SELECT count(a) FROM 'inner.json' <= [{"a":1},\n{"a":}] => inner.json, line 2
        1: SELECT * FROM 'numbers.json' <= [1,2,3] => numbers.json & object"#;
    hold(&place, cases);
}

#[test]
fn no_value_of_json_is_cut_or_dropped() {
    let place = Place::new();
    packed(&place, "array.json", r#"[{"a":1,"b":"odd"},{"a":2,"b":"odd"}]"#);
    let files = [("array.json.gz", "2")];
    for (file, value) in files {
        let ran = sql(&place, &format!("SELECT * FROM '{file}' WHERE b = 'odd'"));
        let read = ran.code == Some(0) && ran.stdout.contains(value);
        assert!(read || wrong(&ran, 1, &[file, "line", value]).is_none(), "{file}: {value} in {ran:?}");
    }
}

#[test]
fn what_only_looks_wrong_is_read() {
    let place = Place::new();
    place.write("mark.csv", "\u{feff}a,b\r\n1,x\r\n");
    place.write("mark.json", "\u{feff}[{\"a\":1,\"b\":\"x\"}]");
    place.write("lines.json", "{\n \"a\": 1,\n \"b\": \"x\"\n}\n");
    for name in ["mark.csv", "mark.json", "lines.json"] {
        assert_eq!(sql(&place, &format!("SELECT * FROM '{name}'")).data(), "a,b\n1,x\n", "{name}");
    }
    place.write("twice.csv", "a,b,a\n1,x,3\n");
    assert!(sql(&place, "SELECT * FROM 'twice.csv'").data().ends_with("\n1,x,3\n"));
}

#[test]
fn files_of_one_table_are_united_by_name_or_the_two_that_differ_are_named() {
    let place = Place::new();
    place.write("csv/1.csv", "a,b\n1,x\n");
    place.write("csv/2.csv", "c,b\n2,y\n");
    place.write("json/1.ndjson", "{\"a\":1,\"b\":\"x\"}\n");
    place.write("json/2.ndjson", "{\"c\":2,\"b\":\"y\"}\n");
    place.sql("COPY (SELECT 1 AS a, 'x' AS b) TO 'parquet/1.parquet'").data();
    place.sql("COPY (SELECT 2 AS c, 'y' AS b) TO 'parquet/2.parquet'").data();
    for name in ["csv", "json", "parquet"] {
        let rows = sql(&place, &format!("SELECT a, b, c FROM '{name}/' ORDER BY b")).data();
        assert_eq!(rows, "a,b,c\n1,x,\n,y,2\n", "{name}");
    }
    place.write("turned/1.csv", "a,b\n1,x\n");
    place.write("turned/2.csv", "b,a\ny,2\n");
    assert_eq!(sql(&place, "SELECT a, b FROM 'turned/*.csv' ORDER BY a").data(), "a,b\n1,x\n2,y\n");
    place.write("clash/1.ndjson", "{\"a\":1}\n");
    place.write("clash/2.ndjson", "{\"a\":\"s\"}\n");
    place.sql("COPY (SELECT 1 AS a) TO 'fight/1.parquet'; COPY (SELECT 's' AS a) TO 'fight/2.parquet'").data();
    for path in ["deep/y=1/1.csv", "deep/y=2/m=3/1.csv", "keys/y=1/1.csv", "keys/z=1/1.csv", "both/a=1/1.csv"] {
        place.write(path, "a,b\n1,x\n");
    }
    let cases = "1: SELECT * FROM 'clash/' => column a & clash/1.ndjson & clash/2.ndjson & help:
        1: SELECT * FROM 'fight/' => column a & fight/1.parquet & fight/2.parquet & help:
        1: SELECT * FROM 'deep/' => deep/y=1/1.csv & deep/y=2/m=3/1.csv & help:
        1: SELECT * FROM 'keys/' => keys/y=1/1.csv & keys/z=1/1.csv & help:
        1: SELECT * FROM 'both/' => column a & 'both/' & help:";
    hold(&place, cases);
}

#[test]
fn a_mistake_in_sql_is_pointed_at() {
    let place = Place::new();
    place.write("good.csv", "a,b\n1,x\n");
    let cases = r#"2: SELECT 'abc => -c:1:8
        2: SELECT "abc => -c:1:8
        2: SELECT 1;\nSELECT * FROM => -c:2:14
        2: SELECT nmae FROM (SELECT 1 AS name) t => nmae & -c:1:8 & help: did you mean name?
        2: CREATE TABLE station (a INT); SELECT * FROM statoin => -c:1:45 & help: did you mean station?
        2: SELECT row_number() FROM 'good.csv' => row_number & OVER
        2: SELECT sum(1, 2) => sum & argument
        2: SELECT round('x') => round
        2: SELECT 1 + true => +
        2: SELECT a FROM 'good.csv' GROUP BY b => -c:1:8 & GROUP BY & help:
        2: SELECT b FROM 'good.csv' WHERE sum(a) > 1 => WHERE & HAVING
        2: SELECT a FROM 'good.csv' WHERE row_number() OVER () = 1 => row_number & QUALIFY
        2: SELECT x FROM (VALUES (1)) a(x), (VALUES (2)) b(x) => ambiguous & -c:1:8 & help:
        2: SELECT 1 LIMIT -1 => LIMIT & -1
        2: SELECT * RENAME (nope AS x) FROM 'good.csv' => nope & -c:1:8
        2: SELECT * FROM 'good.csv' POSITIONAL JOIN 'good.csv' => POSITIONAL JOIN & -c:1:26 & help:
        2: SELECT $x => $x & help: & -D
        2: SELECT 'a' COLLATE x => COLLATE
        2: SELECT upper(b) OVER () FROM 'good.csv' => upper & OVER
        2: DROP TABLE nope => nope
        2: INSERT INTO 'good.csv' VALUES (1, 'x') => INSERT & folder & help:
        2: SET datafusion.execution.batch_size = 'x' => datafusion.execution.batch_size & 'x'
        2: SET fuse.threads = 'x' => fuse.threads & 'x'"#;
    hold(&place, cases);
}

#[test]
fn a_bad_option_is_named() {
    let place = Place::new();
    place.write("good.csv", "a,b\n1,x\n");
    let create = "2: CREATE EXTERNAL TABLE t STORED AS";
    let from = "LOCATION 'good.csv'; SELECT * FROM t =>";
    let copy = "2: COPY (SELECT 1 AS a) TO";
    let cases = format!(
        "{create} xlsx {from} XLSX & help: & CSV
         {create} parqet {from} PARQET & help: & PARQUET
         {create} CSV OPTIONS ('has_header' 'maybe') {from} has_header & maybe
         {create} CSV OPTIONS ('delimiter' '||') {from} delimiter & '||'
         {create} CSV OPTIONS ('compression' 'lz77') {from} lz77
         {create} CSV OPTIONS ('null_regex' '[') {from} null_regex
         {create} CSV OPTIONS ('schema_infer_max_rec' 'x') {from} schema_infer_max_rec & 'x'
         {create} CSV WITH ORDER (zz) {from} zz
         {create} CSV PARTITIONED BY (zz) {from} zz
         {copy} 'out.csv' STORED AS parqet => PARQET & help: & PARQUET
         {copy} 'out.csv' OPTIONS ('zzz' 'y') => zzz
         {copy} 'out.csv' OPTIONS ('mode' 'nope') => 'nope' & help:
         {copy} 'out*.csv' => 'out*.csv'"
    );
    hold(&place, &cases);
    assert_eq!(place.files(), ["good.csv"]);
}

#[test]
fn a_value_that_cannot_be_is_an_error_and_not_another_value() {
    let place = Place::new();
    let cases = "1: SELECT 1 / 0 => zero
        1: SELECT CAST(12345 AS DECIMAL(3, 1)) => 12345 & 99.9
        1: SELECT CAST('abc' AS INT) => 'abc' & -c:1:13
        1: SELECT CAST(x AS INT) FROM (VALUES ('1'), ('abc')) t(x) => 'abc'
        1: SELECT sum(CAST(b AS INT)) FROM 'cast.csv' WHERE a > 0 <= a,b\\n1,2\\n2,3\\n3,x7\\n4,5 => cast.csv, row 3, column b: 'x7'
        1: SELECT to_date('nope') => date & -c:1:8 & help:
        1: SELECT x::TIMESTAMP FROM (VALUES ('2024-01-01 25:00:00')) t(x) => '2024-01-01 25:00:00'
        1: SELECT 'a' ~ '(' => unclosed group
        1: SELECT regexp_match('a', '(') => unclosed group
        1: SELECT date_part('foo', DATE '2024-01-01') => 'foo'
        1: SELECT (SELECT x FROM (VALUES (1), (2)) t(x)) => more than one row";
    hold(&place, cases);
    let sample = sql(&place, "SELECT count(*) AS n FROM (VALUES (1), (2)) t(x) TABLESAMPLE (100)").data();
    assert_eq!(sample, "n\n2\n");
    let endless = "WITH RECURSIVE r AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM r) SELECT * FROM r LIMIT 3";
    assert_eq!(sql(&place, endless).data(), "x\n1\n2\n3\n");
}

#[test]
fn a_file_of_sql_is_read_as_it_is() {
    let place = Place::new();
    let file = |bytes: &[u8]| {
        place.write("a.sql", bytes);
        run(&place, PATIENCE, &["query", "--format", "csv", "a.sql"])
    };
    assert_eq!(file("\u{feff}SELECT 'a;b' AS x, 1_000 AS y; -- ;\r\n/* ; */\r\n".as_bytes()).data(), "x,y\na;b,1000\n");
    for nothing in ["", "  \n", "-- only\n/* a comment */ ; ;"] {
        assert_eq!(file(nothing.as_bytes()).data(), "", "{nothing}");
    }
    let said = |bytes: &[u8], says: &[&str]| assert_eq!(wrong(&file(bytes), 2, says), None);
    said(b"SELECT 1;\nSELECT '\xff'", &["a.sql", "line 2", "UTF-8"]);
    said(b"SELECT\0 1", &["a.sql:1:7"]);
    said("SELECT 1;\r\nSELECT 'ä', frm frm frm".as_bytes(), &["a.sql:2:21"]);
    said("SELECT 1;\n\n  SELECT 'abc".as_bytes(), &["a.sql:3:10"]);
    assert_eq!(run(&place, PATIENCE, &["query", "-c", "-- only a comment"]).data(), "");
}

#[test]
fn huge_statements_are_answered_or_refused_soon() {
    let place = Place::new();
    let list =
        |count: usize, item: fn(usize) -> String, between: &str| (0..count).map(item).collect::<Vec<_>>().join(between);
    let two = "SELECT count(*) AS x FROM (VALUES (1), (2)) t(x) WHERE";
    let union = list(500, |_| "SELECT 1 AS x".to_owned(), " UNION ALL ");
    let statements = [
        (format!("{two} {}", list(10_000, |i| format!("x = {i}"), " OR ")), "2", ""),
        (format!("{two} x IN ({})", list(50_000, |i| i.to_string(), ", ")), "2", ""),
        (format!("SELECT {}1{} AS x", "(".repeat(3000), ")".repeat(3000)), "1", "nested too deeply"),
        (format!("SELECT {} AS x", list(10_000, |_| "1".to_owned(), " + ")), "10000", "operands"),
        (format!("SELECT sum(x) AS x FROM ({union})"), "500", ""),
    ];
    for (text, answer, refusal) in statements {
        place.write("long.sql", &text);
        let ran = run(&place, 15, &["query", "--format", "csv", "long.sql"]);
        let refused = !refusal.is_empty() && wrong(&ran, 2, &[refusal, "help:"]).is_none();
        let answered = ran.code == Some(0) && ran.stdout == format!("x\n{answer}\n");
        assert!(refused || answered, "{}…\n{:?}: {:.600}", &text[..100], ran.code, ran.stderr);
    }
}

#[test]
fn a_function_that_makes_too_much_is_an_error() {
    let place = Place::new();
    let cases = "1: SELECT length(repeat('x', 2000000000)) => repeat & help:
        1: SELECT array_length(array_repeat(1, 2000000000)) => array_repeat & help:
        1: SELECT array_length(range(1, 2000000000)) => range & help:
        1: SELECT array_length(generate_series(1, 9000000000000000000)) => generate_series & help:
        1: SELECT array_length(array_resize([1], 2000000000, 1)) => array_resize
        1: SELECT length(replace(repeat('x', 10000000), 'x', repeat('y', 1000))) => replace
        1: SELECT length(regexp_replace(repeat('x', 3000000), 'x', repeat('y', 1000), 'g')) => regexp_replace
        1: SELECT max(length(repeat('x', 1000000 + v))) FROM generate_series(1, 8192) t(v) => repeat & help:
        1: SELECT max(length(s || s)) FROM (SELECT repeat('x', 20000 + v) AS s FROM generate_series(1, 8192) t(v)) => || & help:
        1: SELECT printf('%999999999d', 1) => printf & help:
        1: SELECT length(string_agg('name' || v, ',')) FROM generate_series(1, 50000000) t(v) => memory & help:";
    hold(&place, cases);
    assert_eq!(sql(&place, "SELECT array_length(array_repeat(1, 3000000)) AS n").data(), "n\n3000000\n");
}

/// Runs the program beside an empty `disk`, a file system of its own. What is left there is printed behind the
/// data, and so is found by [`wrong`]. Nothing, if this user may not mount.
fn on_disk(place: &Place, options: &str, args: &[&str]) -> Option<Ran> {
    fs::create_dir_all(place.path().join("disk")).expect("a folder");
    let script = "mount -t tmpfs -o $0 tmpfs disk || exit 99; timeout 30 \"$@\"; code=$?; ls -A disk; exit $code";
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", script, options, env!("CARGO_BIN_EXE_fuse"), "query"]).args(args);
    let output = command.current_dir(place.path()).env_remove("RUST_BACKTRACE").output();
    let ran = output.map(Ran::from).ok().filter(|ran| ran.code != Some(99) && !ran.stderr.starts_with("unshare:"));
    if ran.is_none() {
        eprintln!("skipped, since this user may not mount a file system");
    }
    ran
}

#[test]
fn a_full_disk_is_told_and_nothing_is_left() {
    let place = Place::new();
    let rows = "SELECT i, random() AS r FROM generate_series(1, 1000000) t(i)";
    let table = "CREATE EXTERNAL TABLE t (i BIGINT, r DOUBLE) STORED AS CSV LOCATION 'disk/t/'";
    let copies = ["a.csv", "a.parquet", "a.ndjson", "a.arrow"].map(|to| format!("COPY ({rows}) TO 'disk/{to}'"));
    let folder = format!("COPY ({rows}) TO 'disk/a' STORED AS CSV");
    let insert = format!("{table}; INSERT INTO t {rows}");
    let writes = copies.iter().chain([&folder, &insert]);
    let mut runs: Vec<Vec<&str>> = writes.map(|sql| vec!["-c", sql.as_str()]).collect();
    runs.push(vec!["-c", rows, "-o", "disk/a.csv"]);
    let mut failed = Vec::new();
    for args in runs {
        let Some(ran) = on_disk(&place, "size=2m", &args) else { return };
        failed.extend(wrong(&ran, 1, &["no space", "disk", "help:"]).map(|wrong| format!("{args:?}\n{wrong}")));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    let Some(ran) = on_disk(&place, "ro", &["-c", "COPY (SELECT 1 AS a) TO 'disk/new/a.csv'"]) else { return };
    assert_eq!(wrong(&ran, 1, &["disk/new", "read-only"]), None);
}

#[test]
fn a_target_that_cannot_be_is_named() {
    let place = Place::new();
    place.write("taken", "a file");
    let cases = "1: COPY (SELECT 1 AS a) TO 'taken/a.csv' => taken & not a folder
        1: COPY (SELECT 1 AS a) TO 'taken/new/a.parquet' => taken & not a folder
        1: COPY (SELECT 1 AS a) TO 'taken/' STORED AS CSV => taken & not a folder
        1: COPY (SELECT 1 AS a) TO '/proc/a.csv' => /proc/a.csv
        2: COPY (SELECT 1 AS a) TO 'a.nope' => 'a.nope' & help:
        2: COPY (SELECT 1 AS a) TO '' => ''";
    hold(&place, cases);
    let to = |target: &str| run(&place, PATIENCE, &["query", "-c", "SELECT 1 AS a", "--format", "csv", "-o", target]);
    assert_eq!(wrong(&to("taken/a.csv"), 1, &["taken", "not a folder"]), None);
    assert_eq!(wrong(&to("."), 1, &["folder"]), None);
    assert_eq!(wrong(&to(""), 2, &["-o"]), None);
    assert_eq!(place.files(), ["taken"]);
    assert_eq!(to("new/folder/a.csv").data(), "");
    assert_eq!(place.read("new/folder/a.csv"), "a\n1\n");
}

#[test]
fn a_pipe_takes_results_and_stays_a_pipe_and_is_no_table() {
    let place = Place::new();
    let pipe = place.path().join("pipe.csv");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    hold(&place, "1: COPY (SELECT 1 AS a) TO 'pipe.csv' => pipe.csv & a pipe & -o");
    let mut reader = Command::new("timeout");
    let reader = reader.args(["10", "cat"]).arg(&pipe).stdout(Stdio::piped()).spawn().expect("cat runs");
    run(&place, 10, &["query", "-c", "SELECT 1 AS a", "-o", "pipe.csv"]).data();
    let read = reader.wait_with_output().expect("cat ends");
    assert_eq!(String::from_utf8_lossy(&read.stdout), "a\n1\n");
    let ran = run(&place, 5, &["query", "-c", "SELECT * FROM 'pipe.csv'"]);
    assert_eq!(wrong(&ran, 1, &["pipe.csv", "a pipe"]), None);
    assert!(fs::symlink_metadata(&pipe).expect("the pipe").file_type().is_fifo());
}

#[test]
fn bad_arguments_are_refused_before_anything_runs() {
    let place = Place::new();
    place.write("a.sql", "SELECT 1");
    let cases = "--formt csv => '--format'
        qurey => 'query'
        query --formt csv -c COPY => '--format'
        query --format cvs -c COPY => 'cvs' & csv
        query --memory-limit x -c COPY => 'x' & help:
        query --memory-limit=-5GB -c COPY => '-5GB' & help:
        query --threads 0 -c COPY => --threads & '0'
        query -D x -c COPY => -D x & NAME=VALUE
        query -o x.nope -c COPY => 'x.nope' & --format
        query -c COPY a.sql => --command
        query b.sql => b.sql
        query . => . & folder
        check b.sql => b.sql";
    let check = |case: &str| {
        let (args, says) = case.split_once("=> ")?;
        let copy = "COPY (SELECT 1 AS a) TO 'out.csv'; SELECT 1";
        let args: Vec<&str> = args.split_whitespace().map(|arg| if arg == "COPY" { copy } else { arg }).collect();
        Some(format!("{args:?}: {}", wrong(&run(&place, PATIENCE, &args), 2, &says.split(" & ").collect::<Vec<_>>())?))
    };
    let failed: Vec<String> = cases.lines().filter_map(check).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert_eq!(place.files(), ["a.sql"]);
}
