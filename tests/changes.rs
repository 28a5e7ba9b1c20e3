//! Tables that others insert into, change and delete from, through the program.
//!
//! Enters: changelogs, rows with keys, envelopes of Debezium. Leaves: nothing. Always holds: what a pipeline shows is
//! what is there; what cannot be said to be there or not is an error with its place.

use std::fs::OpenOptions;
use std::io::Write;

use crate::support::{Place, Ran};

fn once(place: &Place, sql: &str) -> Ran {
    place.run(&["query", "--once", "--state", "state", "-q", "-c", sql])
}

/// The same for one of several pipelines.
fn once_of(place: &Place, state: &str, sql: &str) -> Ran {
    place.run(&["query", "--once", "--state", state, "-q", "-c", sql])
}

fn rows(place: &Place, query: &str) -> String {
    place.run(&["query", "-q", "--format", "csv", "-c", query]).data()
}

fn append(place: &Place, name: &str, text: &str) {
    let path = place.path().join(name);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("opens");
    file.write_all(text.as_bytes()).expect("writes");
}

const KEYED: &str = "CREATE STREAM t (id BIGINT, name VARCHAR, n BIGINT NOT NULL, PRIMARY KEY (id))
    STORED AS JSON LOCATION 't/' OPTIONS ('op_column' 'op', 'max_files_per_epoch' '1');";
const SHOW: &str = "COPY (SELECT * FROM t ORDER BY id) TO 'out.csv';";

#[test]
fn a_row_replaces_the_one_of_its_key_until_it_is_deleted() {
    let place = Place::new();
    let sql = format!("{KEYED}{SHOW}");
    append(
        &place,
        "t/1.json",
        "{\"op\":\"c\",\"id\":1,\"name\":\"a\",\"n\":1}\n{\"op\":\"c\",\"id\":2,\"name\":\"b\",\"n\":2}\n",
    );
    once(&place, &sql).data();
    assert_eq!(place.read("out.csv"), "id,name,n\n1,a,1\n2,b,2\n");
    append(&place, "t/1.json", "{\"op\":\"u\",\"id\":1,\"name\":null,\"n\":7}\n{\"op\":\"d\",\"id\":2}\n");
    append(&place, "t/2.json", "{\"op\":\"c\",\"id\":2,\"name\":\"B\",\"n\":3}\n");
    once(&place, &sql).data();
    assert_eq!(place.read("out.csv"), "id,name,n\n1,,7\n2,B,3\n");
    let verdict = place.run(&["verify", "--state", "state", "-c", &sql]).data();
    assert!(verdict.contains("equal: 1 statement, 2 rows"), "{verdict}");
    let bounded = KEYED.replace("STREAM", "EXTERNAL TABLE");
    assert_eq!(rows(&place, &format!("{bounded} SELECT name, n FROM t ORDER BY n")), "name,n\nB,3\n,7\n");
}

#[test]
fn what_is_taken_out_of_the_order_of_names_is_verified_in_the_order_in_which_it_was_taken() {
    let place = Place::new();
    let sql = format!("{KEYED}{SHOW}");
    append(&place, "t/b.json", "{\"op\":\"c\",\"id\":1,\"name\":\"b\",\"n\":1}\n");
    once(&place, &sql).data();
    append(&place, "t/a.json", "{\"op\":\"c\",\"id\":1,\"name\":\"a\",\"n\":2}\n{\"op\":\"d\",\"id\":1}\n");
    once(&place, &sql).data();
    append(&place, "t/b.json", "{\"op\":\"c\",\"id\":1,\"name\":\"b again\",\"n\":3}\n");
    once(&place, &sql).data();
    assert_eq!(place.read("out.csv"), "id,name,n\n1,b again,3\n");
    let verdict = place.run(&["verify", "--state", "state", "-c", &sql]).data();
    assert!(verdict.contains("equal: 1 statement, 1 row"), "{verdict}");
}

#[test]
fn a_delete_of_what_is_not_there_ends_the_pipeline_or_is_counted() {
    let place = Place::new();
    let sql = format!("{KEYED}{SHOW}");
    append(&place, "t/1.json", "{\"op\":\"c\",\"id\":1,\"name\":\"a\",\"n\":1}\n{\"op\":\"d\",\"id\":5}\n");
    let error = once(&place, &sql).error(1);
    assert!(error.contains("t: a delete of a row that is not there: id = 5"), "{error}");
    assert!(error.contains("1.json from 0 to") && error.contains("'on_missing' 'skip'"), "{error}");
    // The option is no part of what the state belongs to.
    let lax = sql.replace("'op_column'", "'on_missing' 'skip', 'op_column'");
    once(&place, &lax).data();
    assert_eq!(place.read("out.csv"), "id,name,n\n1,a,1\n");
    let inspected = place.run(&["inspect", "state", "--format", "json"]).data();
    assert!(inspected.contains("\"t\": 1") || inspected.contains("\"t\":1"), "{inspected}");
    let bounded = KEYED.replace("STREAM", "EXTERNAL TABLE");
    let error = place.sql(&format!("{bounded} SELECT * FROM t")).error(1);
    assert!(error.contains("not there: id = 5"), "{error}");
    let bounded = bounded.replace("'op_column'", "'on_missing' 'skip', 'op_column'");
    assert_eq!(rows(&place, &format!("{bounded} SELECT count(*) AS n FROM t")), "n\n1\n");
}

#[test]
fn whole_rows_are_inserted_and_deleted_where_there_is_no_key() {
    let place = Place::new();
    let sql = "CREATE STREAM t (a BIGINT, b VARCHAR) STORED AS CSV LOCATION 't/' OPTIONS ('op_column' 'sign');
        COPY (SELECT count(*) AS n, sum(a) AS a FROM t) TO 'out.csv';";
    append(&place, "t/1.csv", "a,sign,b\n1,1,x\n1,1,x\n2,1,y\n1,-1,x\n");
    once(&place, sql).data();
    assert_eq!(place.read("out.csv"), "n,a\n2,3\n");
    // The row is known by all of its columns, whichever the query reads.
    append(&place, "t/1.csv", "2,-1,z\n");
    let error = once(&place, sql).error(1);
    assert!(error.contains("t: a delete of a row that is not there: a = 2, b = z"), "{error}");
    let update =
        "CREATE EXTERNAL TABLE t (a BIGINT) STORED AS JSON LOCATION 'u.json' OPTIONS ('op_column' 'op'); FROM t";
    append(&place, "u.json", "{\"a\":1,\"op\":\"c\"}\n{\"a\":2,\"op\":\"u\"}\n");
    let error = place.sql(update).error(1);
    assert!(error.contains("u.json, line 2, column op") && error.contains("wants a PRIMARY KEY"), "{error}");
}

#[test]
fn a_word_that_is_not_known_is_told_with_its_line() {
    let place = Place::new();
    let sql = format!("{KEYED}{SHOW}");
    let good = "{\"op\":\"c\",\"id\":1,\"name\":\"a\",\"n\":1}\n";
    append(
        &place,
        "t/1.json",
        &format!(
            "{good}\n{{\"op\":\"x\",\"id\":2,\"n\":1}}\n{{\"op\":\"c\",\"id\":null,\"n\":1}}\n{{\"op\":\"c\",\"id\":3}}\n"
        ),
    );
    let error = once(&place, &sql).error(1);
    assert!(error.contains("1.json, line 3, column op: 'x' is none of insert, update, delete"), "{error}");
    let skip = sql.replace("'op_column'", "'dead_letter' 'bad/', 'op_column'");
    once_of(&place, "second", &skip).data();
    assert_eq!(place.read("out.csv"), "id,name,n\n1,a,1\n");
    let bad = rows(&place, "SELECT \"column\", reason FROM 'bad/**/*.parquet' ORDER BY position");
    let lines: Vec<&str> = bad.lines().skip(1).collect();
    assert!(lines[0].starts_with("op,") && lines[1].starts_with("id,\"it is NULL, and it is in the key"), "{bad}");
    assert!(lines[2].starts_with("n,\"it is NULL, and the column is NOT NULL"), "{bad}");
    assert_eq!(lines.len(), 3, "{bad}");
    place.write("t/1.json", "{\"id\":4,\"n\":1}\n");
    let error = once_of(&place, "third", &sql).error(1);
    assert!(error.contains("1.json, line 1, column op: no value, and the column is NOT NULL"), "{error}");
}

#[test]
fn binary_files_say_what_their_rows_do_too() {
    let place = Place::new();
    rows(
        &place,
        "COPY (SELECT * FROM (VALUES (1, 'a', true), (2, 'b', false), (1, 'c', false)) v(id, name, deleted)) TO 't/1.parquet'",
    );
    let table = "CREATE EXTERNAL TABLE t (id BIGINT, name VARCHAR, PRIMARY KEY (id)) STORED AS PARQUET LOCATION 't/'
        OPTIONS ('op_column' 'deleted', 'on_missing' 'skip');";
    assert_eq!(rows(&place, &format!("{table} FROM t ORDER BY id")), "id,name\n1,c\n2,b\n");
    rows(&place, "COPY (SELECT 3 AS id, 'x' AS name, 'maybe' AS deleted) TO 't/2.parquet'");
    let error = place.sql(&format!("{table} FROM t")).error(1);
    assert!(error.contains("2.parquet: column deleted: 'maybe' is none of"), "{error}");
}

const CHAIN: &str = "CREATE STREAM s (k BIGINT, v BIGINT) STORED AS JSON LOCATION 'in/';
    COPY (SELECT k, count(*) AS n, sum(v) AS v FROM s GROUP BY k) TO 'log/' STORED AS {format} OPTIONS ('mode' 'changelog');";
const BEHIND: &str =
    "CREATE STREAM c (k BIGINT, n BIGINT, v BIGINT{key}) STORED AS {format} LOCATION 'log/' OPTIONS ('op_column' 'op');
    COPY (SELECT n, count(*) AS groups, sum(v) AS v FROM c GROUP BY n ORDER BY n) TO 'out.csv';";

#[test]
fn the_changelog_of_one_pipeline_is_the_source_of_the_next() {
    for format in ["PARQUET", "JSON", "CSV"] {
        for key in ["", ", PRIMARY KEY (k)"] {
            let place = Place::new();
            let first = CHAIN.replace("{format}", format);
            let second = BEHIND.replace("{format}", format).replace("{key}", key);
            for round in 0..20 {
                let text: String = (0..7).map(|row| format!("{{\"k\":{},\"v\":{row}}}\n", (row * round) % 5)).collect();
                append(&place, &format!("in/{}.json", round / 3), &text);
                once_of(&place, "one", &first).data();
                if round % 3 != 1 {
                    once_of(&place, "two", &second).data();
                }
            }
            once_of(&place, "two", &second).data();
            let all = "CREATE EXTERNAL TABLE s (k BIGINT, v BIGINT) STORED AS JSON LOCATION 'in/';
                SELECT n, count(*) AS groups, sum(v) AS v FROM (SELECT k, count(*) AS n, sum(v) AS v FROM s GROUP BY k) GROUP BY n ORDER BY n";
            assert_eq!(place.read("out.csv"), rows(&place, all), "{format} {key}");
            let verdict = place.run(&["verify", "--state", "two", "-c", &second]).data();
            assert!(verdict.contains("equal: 1 statement"), "{verdict}");
        }
    }
}

#[test]
fn rows_that_a_pipeline_adds_to_a_parquet_file_are_taken_too() {
    let place = Place::new();
    let first =
        "CREATE STREAM s (a BIGINT) STORED AS JSON LOCATION 'in/'; COPY (SELECT a FROM s) TO 'mid/' STORED AS PARQUET;";
    let second = "CREATE STREAM m (a BIGINT) STORED AS PARQUET LOCATION 'mid/' OPTIONS ('max_rows_per_epoch' '3');
        COPY (SELECT count(*) AS n, sum(a) AS a FROM m) TO 'out.csv';";
    // Small row groups of a file become one now and then.
    for round in 0..40 {
        append(&place, "in/1.json", &format!("{{\"a\":{round}}}\n{{\"a\":{round}}}\n"));
        once_of(&place, "one", first).data();
        if round % 5 == 0 {
            once_of(&place, "two", second).data();
        }
    }
    once_of(&place, "two", second).data();
    assert_eq!(place.read("out.csv"), "n,a\n80,1560\n");
    assert!(place.run(&["verify", "--state", "two", "-c", second]).data().contains("equal: 1 statement"));
}

const DEBEZIUM: &str = "CREATE STREAM t (id BIGINT, price DECIMAL(10, 2), ts TIMESTAMP, day DATE, PRIMARY KEY (id))
    STORED AS DEBEZIUM LOCATION 't.json' OPTIONS ('time_unit' 'us', 'decimals' 'base64');";

#[test]
fn envelopes_of_debezium_give_the_rows_of_the_database() {
    let place = Place::new();
    let sql = format!("{DEBEZIUM}{SHOW}");
    append(
        &place,
        "t.json",
        "{\"op\":\"r\",\"before\":null,\"after\":{\"id\":1,\"price\":\"BNI=\",\"ts\":1577836800123456,\"day\":18262},\"source\":{}}\n\
         {\"schema\":{\"fields\":[]},\"payload\":{\"op\":\"c\",\"after\":{\"id\":2,\"price\":null,\"ts\":null,\"day\":null}}}\n",
    );
    once(&place, &sql).data();
    assert_eq!(place.read("out.csv"), "id,price,ts,day\n1,12.34,2020-01-01T00:00:00.123456,2020-01-01\n2,,,\n");
    append(
        &place,
        "t.json",
        "{\"op\":\"u\",\"before\":null,\"after\":{\"id\":1,\"price\":7.5,\"ts\":0,\"day\":0}}\n\
         {\"op\":\"d\",\"before\":{\"id\":2},\"after\":null}\nnull\n",
    );
    once(&place, &sql).data();
    assert_eq!(place.read("out.csv"), "id,price,ts,day\n1,7.50,1970-01-01T00:00:00,1970-01-01\n");
    assert!(place.run(&["verify", "--state", "state", "-c", &sql]).data().contains("equal: 1 statement"));
    append(&place, "t.json", "{\"op\":\"t\",\"before\":null,\"after\":null}\n");
    let error = once(&place, &sql).error(1);
    assert!(error.contains("t.json, line 6: op 't': the whole table was emptied"), "{error}");
    // What an integer means has to be said.
    let silent = DEBEZIUM.replace("'time_unit' 'us', ", "").replace("STREAM", "EXTERNAL TABLE");
    let error = place.sql(&format!("{silent} FROM t")).error(1);
    assert!(error.contains("line 1, column ts") && error.contains("'time_unit'"), "{error}");
}

#[test]
fn an_envelope_is_taken_whole_or_not_at_all() {
    let place = Place::new();
    append(
        &place,
        "t.json",
        "{\"op\":\"c\",\"after\":{\"id\":1,\"n\":1}}\n\
         {\"op\":\"u\",\"before\":{\"id\":1,\"n\":1},\"after\":{\"id\":1,\"n\":\"two\"}}\n\
         {\"op\":\"u\",\"before\":{\"id\":1,\"n\":1},\"after\":{\"id\":1,\"n\":3}}\n{\"id\":5}\n",
    );
    let sql = "CREATE EXTERNAL TABLE t (id BIGINT, n BIGINT) STORED AS DEBEZIUM LOCATION 't.json' OPTIONS ('on_error' 'skip'); FROM t";
    assert_eq!(rows(&place, sql), "id,n\n1,3\n");
    let error = place.sql(&sql.replace(" OPTIONS ('on_error' 'skip')", "")).error(1);
    assert!(error.contains("t.json, line 2, column n: \"two\" is not a whole number"), "{error}");
}

#[test]
fn plans_and_sinks_know_that_rows_go() {
    let place = Place::new();
    append(&place, "t/1.json", "{\"op\":\"c\",\"id\":1,\"n\":1}\n");
    let plan = rows(&place, &format!("{KEYED} EXPLAIN INCREMENTAL SELECT name FROM t WHERE n > 1"));
    assert!(plan.contains("Rows of t that are there, by id\",change,retracts"), "{plan}");
    let error = once(&place, &format!("{KEYED} COPY (SELECT id FROM t) TO 'folder/' STORED AS PARQUET;")).error(2);
    assert!(error.contains("changelog"), "{error}");
    once(
        &place,
        &format!("{KEYED} COPY (SELECT id FROM t) TO 'folder/' STORED AS PARQUET OPTIONS ('mode' 'changelog');"),
    )
    .data();
    assert_eq!(rows(&place, "SELECT id, op FROM 'folder/'"), "id,op\n1,insert\n");
}

#[test]
fn columns_are_found_without_the_one_of_ops() {
    let place = Place::new();
    append(&place, "t/1.csv", "a;op;b\n1;+I;x\n2;+I;y\n1;-D;x\n");
    let table = "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 't/' OPTIONS ('op_column' 'op');";
    assert_eq!(rows(&place, &format!("{table} FROM t")), "a,b\n2,y\n");
    let sql = table.replace("EXTERNAL TABLE", "STREAM") + "COPY (FROM t) TO 'out.csv'";
    once(&place, &sql).data();
    assert_eq!(place.read("out.csv"), "a,b\n2,y\n");
    let error = place.sql(&format!("{} FROM t", table.replace("'op')", "'ops')"))).error(2);
    assert!(error.contains("no column ops") && error.contains("did you mean op?"), "{error}");
}

#[test]
fn what_cannot_be_such_a_table_is_refused() {
    let place = Place::new();
    append(&place, "t/1.json", "{}\n");
    let cases = [
        (
            "STREAM t (a BIGINT, op VARCHAR) STORED AS JSON LOCATION 't/' OPTIONS ('op_column' 'op')",
            "op says what a row does, and is no column",
        ),
        ("STREAM t (a DOUBLE PRIMARY KEY) STORED AS JSON LOCATION 't/'", "a is a number with a fraction, and no key"),
        (
            "STREAM t (a BIGINT) STORED AS JSON LOCATION 't/' OPTIONS ('on_missing' 'skip')",
            "on_missing is of tables from which rows go",
        ),
        (
            "STREAM t (a BIGINT PRIMARY KEY) STORED AS JSON LOCATION 't/' OPTIONS ('on_missing' 'maybe')",
            "on_missing cannot be 'maybe'",
        ),
        (
            "STREAM t (a BIGINT PRIMARY KEY) STORED AS JSON LOCATION 't/' OPTIONS ('time_unit' 'us')",
            "is of tables STORED AS DEBEZIUM",
        ),
        ("STREAM t STORED AS DEBEZIUM LOCATION 't/'", "the columns of t must be declared"),
        ("STREAM t (a BYTEA) STORED AS DEBEZIUM LOCATION 't/'", "bytes as text in base64"),
        ("STREAM t (a BIGINT) STORED AS DEBEZIUM LOCATION 't/' OPTIONS ('op_column' 'op')", "has an op of its own"),
        ("STREAM t (a BIGINT UNIQUE) STORED AS JSON LOCATION 't/'", "UNIQUE is not supported"),
        ("EXTERNAL TABLE t (a BIGINT PRIMARY KEY) STORED AS JSON LOCATION 'nowhere.json'", "nowhere.json"),
        (
            "EXTERNAL TABLE t (a BIGINT PRIMARY KEY, p VARCHAR) STORED AS JSON PARTITIONED BY (p) LOCATION 't/'",
            "cannot be PARTITIONED BY",
        ),
        ("STREAM t STORED AS RATE OPTIONS ('op_column' 'op')", "rows of STORED AS RATE only come"),
    ];
    for (statement, said) in cases {
        let ran = place.sql(&format!("CREATE {statement};"));
        assert!(ran.code == Some(2) || ran.code == Some(1), "{statement}: {ran:?}");
        assert!(ran.stderr.contains(said), "{statement}: {}", ran.stderr);
    }
}

/// Forms of SQL that are rewritten, over tables t (id, k, v, ts) and u (k, ts, x).
const FORMS: [&str; 16] = [
    "SELECT column_name, min, max, count FROM (SUMMARIZE SELECT k, v FROM t)",
    "SELECT * FROM (SELECT k, v % 2 AS odd, v FROM t) PIVOT (sum(v) FOR odd IN (0, 1))",
    "UNPIVOT (SELECT id, k, v FROM t) ON k, v INTO NAME what VALUE n",
    "SELECT t.id, u.x FROM t ASOF JOIN u ON t.k = u.k AND t.ts >= u.ts",
    "SELECT max(COLUMNS('^(k|v)$')) FROM t",
    "SELECT * EXCLUDE (ts) RENAME (v AS w) FROM t",
    "SELECT id FROM t SEMI JOIN u ON t.k = u.k",
    "SELECT id FROM t ANTI JOIN u ON t.k = u.k AND u.x > 5",
    "SELECT t.id, f.name FROM t JOIN read_csv('names.csv') f ON f.k = t.k",
    "SELECT t.id, g.value FROM t JOIN generate_series(0, 3) g ON g.value = t.v",
    "SELECT k, arg_min(id, v * 100 + id) AS a, arg_max(id, v * 100 + id) AS b FROM t GROUP BY k",
    "SELECT k, mode(v % 2) AS m FROM t GROUP BY k",
    "SELECT histogram(k) AS h FROM t",
    "SELECT id, twice(v) AS w FROM t WHERE w > 4",
    "SELECT k, v + 1 AS w, w * 2 AS x FROM t WHERE x > 6",
    "FROM t SELECT k, count(*) AS n GROUP BY ALL",
];

#[test]
fn friendly_forms_follow_a_table_that_others_change() {
    let place = Place::new();
    place.write("names.csv", "k,name\n0,zero\n1,one\n1,uno\n");
    let tables = |kind: &str| {
        format!(
            "CREATE MACRO twice(x) AS x * 2;
             CREATE {kind} t (id BIGINT PRIMARY KEY, k BIGINT, v BIGINT, ts TIMESTAMP) STORED AS JSON LOCATION 't/' OPTIONS ('op_column' 'op');
             CREATE {kind} u (k BIGINT, ts TIMESTAMP, x BIGINT) STORED AS JSON LOCATION 'u/';"
        )
    };
    let copies: String = FORMS
        .iter()
        .enumerate()
        .map(|(at, form)| format!("COPY ({form}) TO 'out/{at}.json' OPTIONS ('mode' 'replace');\n"))
        .collect();
    let by_name = "CREATE EXTERNAL TABLE o (b BIGINT, a BIGINT) STORED AS PARQUET LOCATION 'o/';
        INSERT INTO o BY NAME SELECT x AS a, k AS b FROM u;";
    let sql = format!("SET fuse.on_full_recompute = 'allow'; {}{copies}{by_name}", tables("STREAM"));
    for round in 0..4 {
        let rows = (0..6).map(|row| {
            let (id, k, v) = ((row * 5 + round * 3) % 11, (row + round) % 4, (row * 7 + round) % 6);
            format!("{{\"op\":\"u\",\"id\":{id},\"k\":{k},\"v\":{v},\"ts\":\"2024-01-0{}\"}}\n", 1 + id % 5)
        });
        let delete = if round > 0 { format!("{{\"op\":\"d\",\"id\":{}}}\n", round * 3) } else { String::new() };
        append(&place, "t/1.json", &(rows.collect::<String>() + &delete));
        append(
            &place,
            "u/1.json",
            &format!("{{\"k\":{round},\"ts\":\"2024-01-0{}\",\"x\":{}}}\n", 1 + round, round * 10),
        );
        once(&place, &sql).data();
        for (at, form) in FORMS.iter().enumerate() {
            let lines = |sql: &str| {
                let text = place.run(&["query", "-q", "--format", "ndjson", "-c", sql]).data();
                let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            let batch = lines(&format!("{}{form}", tables("EXTERNAL TABLE")));
            assert!(!batch.is_empty(), "{form}");
            let shown = place.read(&format!("out/{at}.json"));
            let mut shown: Vec<&str> = shown.lines().collect();
            shown.sort_unstable();
            assert_eq!(shown, batch, "{form}, round {round}");
        }
    }
    assert_eq!(rows(&place, "SELECT a, b FROM 'o/' ORDER BY a"), "a,b\n0,0\n10,1\n20,2\n30,3\n");
    let error = place.sql(&format!("{} PIVOT t ON k USING sum(v)", tables("STREAM"))).error(2);
    assert!(error.contains("PIVOT without IN") && error.contains("PIVOT … ON column IN ('a', 'b')"), "{error}");
}

/// A pipeline that goes on until it is killed.
fn start(place: &Place, state: &str, sql: &str) -> std::process::Child {
    let mut command = place.command(&["query", "--trigger", "5ms", "--state", state, "-q", "-c", sql]);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().expect("starts")
}

#[test]
fn a_chain_shows_each_row_once_whichever_of_its_pipelines_is_killed() {
    let place = Place::new();
    let first = CHAIN.replace("{format}", "PARQUET");
    let second = BEHIND.replace("{format}", "PARQUET").replace("{key}", "");
    let mut running = [start(&place, "one", &first), start(&place, "two", &second)];
    let mut seed = std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64) | 1;
    let first_seed = seed;
    for round in 0..24_u64 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let text: String = (0..9).map(|row| format!("{{\"k\":{},\"v\":{row}}}\n", (row * 5 + round) % 7)).collect();
        append(&place, "in/1.json", &text);
        std::thread::sleep(std::time::Duration::from_millis(30 + (seed >> 33) % 300));
        let which = (seed >> 60) as usize % 2;
        let [state, sql] = [["one", &first], ["two", &second]][which];
        let ended = running[which].try_wait().expect("waits");
        assert!(ended.is_none(), "{state} ended by itself, seed {first_seed}");
        running[which].kill().expect("kills");
        running[which].wait().expect("waits");
        running[which] = start(&place, state, sql);
    }
    for child in &mut running {
        child.kill().expect("kills");
        child.wait().expect("waits");
    }
    once_of(&place, "one", &first).data();
    once_of(&place, "two", &second).data();
    let all = "CREATE EXTERNAL TABLE s (k BIGINT, v BIGINT) STORED AS JSON LOCATION 'in/';
        SELECT n, count(*) AS groups, sum(v) AS v FROM (SELECT k, count(*) AS n, sum(v) AS v FROM s GROUP BY k) GROUP BY n ORDER BY n";
    assert_eq!(place.read("out.csv"), rows(&place, all), "seed {first_seed}");
    assert!(place.run(&["verify", "--state", "two", "-c", &second]).data().contains("equal: 1 statement"));
}
