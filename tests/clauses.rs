//! What a statement says is done, or refused: no clause is ignored, and no statement plans forever.
//!
//! Enters: statements. Leaves: nothing. Always holds: an unknown name is an error, a key holds, and a statement that
//! would be planned for hours is refused.

use std::fmt::Write as _;

use crate::support::Place;

#[test]
fn replace_wants_a_column_that_is_there() {
    let place = Place::new();
    let from = "FROM (VALUES (1, 2), (3, 4)) t(a, b)";
    for query in [
        format!("SELECT * REPLACE (1 AS nope) {from}"),
        format!("SELECT t.* REPLACE (1 AS nope) {from} WHERE a = 1"),
        format!("SELECT b FROM (SELECT * REPLACE (1 AS a, 2 AS nope) {from})"),
        format!("SELECT * EXCLUDE (nope) {from}"),
    ] {
        let error = place.sql(&query).error(2);
        assert!(error.contains("nope"), "{query}: {error}");
    }
    assert_eq!(
        place.sql(&format!("SELECT * REPLACE (a * 10 AS a) {from} WHERE a = 1 OR b = 4")).data(),
        "a,b\n10,2\n30,4\n"
    );
    assert_eq!(place.sql(&format!("SELECT t.* REPLACE (0 AS \"b\") {from} ORDER BY a")).data(), "a,b\n1,0\n3,0\n");
    let plan = place.sql(&format!("EXPLAIN SELECT * REPLACE (a + 1 AS a) {from}")).data();
    assert!(!plan.contains("Filter"), "{plan}");
}

#[test]
fn keys_of_tables_in_memory_hold() {
    let place = Place::new();
    let table = "CREATE TABLE t (a BIGINT, b TEXT, PRIMARY KEY (a), UNIQUE (b)); INSERT INTO t VALUES (1, 'x'), (2, NULL), (3, NULL); ";
    let kept = place.sql(&format!("{table} INSERT INTO t SELECT 4, 'y'; SELECT count(*), sum(a) FROM t"));
    assert!(kept.data().ends_with("\n4,10\n"));
    for (insert, says) in [
        ("INSERT INTO t VALUES (1, 'z')", "(1) would be in t more than once: its PRIMARY KEY is (a)"),
        ("INSERT INTO t VALUES (7, 'u'), (7, 'v')", "(7) would be in t more than once"),
        ("INSERT INTO t VALUES (7, 'x')", "(x) would be in t more than once: its UNIQUE is (b)"),
        ("INSERT INTO t (b) VALUES ('z')", "NULL"),
        ("CREATE TABLE u (a BIGINT PRIMARY KEY) AS VALUES (1), (1)", "(1) would be in u more than once"),
    ] {
        let error = place.sql(&format!("{table} {insert}")).error(1);
        assert!(error.contains(says), "{insert}: {error}");
    }
    place.write("t.csv", "a,b\n1,2\n");
    let external = "CREATE EXTERNAL TABLE t (a INT UNIQUE, b INT) STORED AS CSV LOCATION 't.csv'";
    assert!(place.sql(external).error(2).contains("UNIQUE is not supported for tables over files"));
    // There a row takes the place of the one of its key.
    place.write("t.csv", "a,b\n1,2\n2,3\n1,4\n");
    let external = "CREATE EXTERNAL TABLE t (a INT PRIMARY KEY, b INT) STORED AS CSV LOCATION 't.csv'";
    assert_eq!(place.sql(&format!("{external}; SELECT a, b FROM t ORDER BY a")).data(), "a,b\n1,4\n2,3\n");
}

#[test]
fn what_would_be_planned_for_hours_is_refused() {
    let place = Place::new();
    let doubled = |times: usize| {
        let mut text = "WITH q0 AS (SELECT 1 AS x FROM (VALUES (1)) v)".to_owned();
        for at in 1..=times {
            let _ = write!(text, ", q{at} AS (SELECT * FROM q{0} UNION ALL SELECT * FROM Q{0})", at - 1);
        }
        format!("{text} SELECT count(*) FROM q{times}")
    };
    assert!(place.sql(&doubled(5)).data().ends_with("\n32\n"));
    for times in [20, 70] {
        assert!(place.sql(&doubled(times)).error(2).contains("read tables over 2000 times"), "{times}");
    }
    let long: Vec<String> = (0..1_000).map(|row| format!("SELECT {row} AS x")).collect();
    let sum = |union: &str| place.sql(&format!("SELECT count(*), sum(x) FROM ({})", long.join(union))).data();
    assert!(sum(" UNION ALL ").ends_with("\n1000,499500\n"));
    let first = place.sql(&format!("{} ORDER BY 1 LIMIT 1", long.join(" UNION ")).replacen("AS x", "AS first", 1));
    assert_eq!(first.data(), "first\n0\n");
}

#[test]
fn what_would_fill_the_memory_is_refused() {
    let place = Place::new();
    let wide = "FROM (SELECT repeat('x', 100000000) AS a)";
    for query in [
        format!("SELECT length(concat(a, a, a)) {wide}"),
        format!("SELECT length(concat_ws(a, a, a)) {wide}"),
        "SELECT array_length(generate_series(TIMESTAMP '1970-01-01', TIMESTAMP '2200-01-01', INTERVAL '1 second'))"
            .to_owned(),
        "SELECT array_length(range(DATE '1970-01-01', DATE '2200-01-01', INTERVAL '1 microsecond'))".to_owned(),
    ] {
        let error = place.sql(&query).error(1);
        assert!(error.contains(" MB at once") && error.contains("fuse.function_bytes"), "{query}: {error}");
    }
    let days = "SELECT array_length(range(DATE '0001-01-01', DATE '9999-01-01', INTERVAL '1 day')), concat('a', 1, NULL, concat_ws('-', 'b', 'c'))";
    assert_eq!(place.sql(days).data().lines().last(), Some("3651694,a1b-c"));
}

#[test]
fn what_has_to_know_all_rows_beforehand_is_refused_on_a_stream() {
    let place = Place::new();
    place.write("in/1.ndjson", "{\"k\":\"a\",\"n\":1}\n{\"k\":\"b\",\"n\":2}\n");
    let stream = "CREATE STREAM s (k VARCHAR, n BIGINT) STORED AS JSON LOCATION 'in/'";
    let run = |query: &str| {
        let sql = format!("{stream}; COPY ({query}) TO 'out.parquet'");
        place.run(&["query", "-q", "-c", &sql, "--once", "--state", "state", "--fresh"])
    };
    for query in ["PIVOT s ON k USING sum(n)", "SELECT * FROM s ORDER BY n LIMIT 50%"] {
        let error = run(query).error(2);
        assert!(error.contains("know all rows beforehand") && error.contains("help:"), "{query}: {error}");
    }
    assert_eq!(run("PIVOT s ON k IN ('a', 'b') USING sum(n)").data(), "");
    let read = place.sql("SELECT * FROM 'out.parquet'").data();
    assert_eq!(read, "a,b\n1,2\n");
}

/// Forms that a call does not have would be dropped in silence.
#[test]
fn clauses_of_calls_are_kept_or_refused() {
    let place = Place::new();
    for (call, clause) in [
        ("upper(DISTINCT b)", "DISTINCT"),
        ("upper(b) FILTER (WHERE true)", "FILTER"),
        ("upper(b ORDER BY b)", "ORDER BY"),
        ("upper(b) OVER ()", "OVER"),
        ("count(DISTINCT *)", "DISTINCT"),
    ] {
        let error = place.sql(&format!("SELECT {call} FROM (VALUES ('x')) t(b)")).error(2);
        assert!(error.contains(clause) && error.contains("-c:1:"), "{call}: {error}");
    }
    let index = place.sql("CREATE TABLE t (a INT); CREATE INDEX i ON t (a)").error(2);
    assert!(index.contains("CREATE INDEX is not supported"), "{index}");
}

#[test]
fn show_columns_names_types_as_sql_does() {
    let place = Place::new();
    let table = "CREATE TABLE t (a BIGINT, b VARCHAR, c DECIMAL(10, 2), d TIMESTAMP, e INT[]); ";
    let shown = place.sql(&format!("{table} SHOW COLUMNS FROM t")).data();
    let types: Vec<&str> = shown.lines().skip(1).map(|line| line.split_once(",t,").expect("a table").1).collect();
    let described = place.sql(&format!("{table} DESCRIBE t")).data();
    assert_eq!(types, described.lines().skip(1).collect::<Vec<_>>());
    let full = place.sql(&format!("{table} SHOW FULL COLUMNS FROM t")).data();
    assert!(full.contains("BIGINT") && !full.contains("Int64"), "{full}");
}

#[test]
fn plans_write_texts_joined_as_they_are_written() {
    let place = Place::new();
    let table = "CREATE TABLE t (a VARCHAR, b VARCHAR); EXPLAIN SELECT upper(a) || '-' || b FROM t";
    let plan = place.run(&["query", "-c", table]).data();
    assert!(plan.contains("upper(t.a) || Utf8(\"-\") || t.b"), "{plan}");
    assert!(!plan.contains("||("), "{plan}");
    place.write("s/1.json", "{\"a\":\"x\"}\n");
    let stream = "CREATE STREAM s (a VARCHAR) STORED AS JSON LOCATION 's/'; EXPLAIN INCREMENTAL SELECT a || 'y' FROM s";
    let plan = place.sql(stream).data();
    assert!(plan.contains("s.a || ") && !plan.contains("||("), "{plan}");
}
