//! What is written is what was meant, or nothing is.
//!
//! Enters: results that a format or a folder's name cannot carry as they are. Leaves: nothing. Always holds:
//! NULL has a folder of its own, nested values are JSON, endings say how a file is compressed, and what would
//! lose a column, a row or a result is refused before a file shows.
//! (`tests/round_trip.rs` holds that the values come back.)

use std::process::Command;

use crate::support::Place;

fn folders(place: &Place, above: &str) -> Vec<String> {
    let below = |file: &String| {
        let rest = file.strip_prefix(above)?;
        Some(rest.rsplit_once('/')?.0.to_owned())
    };
    place.files().iter().filter_map(below).collect()
}

#[test]
fn null_has_a_folder_of_its_own() {
    let place = Place::new();
    let keys = [
        ("Int64", "0", "0"),
        ("Date32", "1970-01-01", "1970-01-01"),
        ("Date64", "1970-01-01", "1970-01-01"),
        ("Boolean", "false", "false"),
        ("Float64", "1.5", "1.5"),
        ("Decimal128(10, 2)", "-1.50", "-1.50"),
        ("Timestamp(Second, None)", "2024-02-29T12:34:56", "2024-02-29T12:34:56"),
        ("Dictionary(Int32, Utf8)", "x=1/2", "x%3D1%2F2"),
        ("Utf8", "", ""),
    ];
    for (at, (kind, value, folder)) in keys.into_iter().enumerate() {
        for format in ["parquet", "csv", "json", "arrow"] {
            let rows = format!("VALUES ('{value}', 1), (NULL, 2)");
            let rows = format!("SELECT arrow_cast(column1, '{kind}') AS k, column2 AS v FROM ({rows})");
            place.sql(&format!("COPY ({rows}) TO '{format}{at}/' STORED AS {format} PARTITIONED BY (k)")).data();
            let mut want = vec![format!("k={folder}"), "k=__HIVE_DEFAULT_PARTITION__".to_owned()];
            want.sort();
            assert_eq!(folders(&place, &format!("{format}{at}/")), want, "{kind} in {format}");
        }
    }
    let nested = place.sql("COPY (SELECT [1] AS k, 1 AS v) TO 'n/' STORED AS csv PARTITIONED BY (k)").error(2);
    assert!(nested.contains("PARTITIONED BY k"), "{nested}");
    let all = place.sql("COPY (SELECT 1 AS k) TO 'n/' STORED AS csv PARTITIONED BY (k)").error(2);
    assert!(all.contains("every column"), "{all}");
    let kept = "SET datafusion.execution.keep_partition_by_columns = true; \
                COPY (SELECT NULL::INT AS k, 1 AS v) TO 'n/' STORED AS csv PARTITIONED BY (k)";
    let kept = place.sql(kept).error(1);
    assert!(kept.contains("NULL"), "{kept}");
    assert!(!place.path().join("n").exists());
}

#[test]
fn inserted_nulls_come_back() {
    let place = Place::new();
    for (format, kind) in [("parquet", "BIGINT"), ("csv", "VARCHAR"), ("json", "DATE"), ("arrow", "DOUBLE")] {
        let folder = format!("{format}/t");
        std::fs::create_dir_all(place.path().join(&folder)).expect("a folder");
        let table = format!(
            "CREATE EXTERNAL TABLE t (a BIGINT NOT NULL, k {kind}, b VARCHAR) STORED AS {format} \
             PARTITIONED BY (k) LOCATION '{folder}/'"
        );
        let sql = |sql: &str| place.sql(&format!("{table}; {sql}"));
        let value = match kind {
            "DATE" => "DATE '2024-02-29'",
            "VARCHAR" => "'a b/c=1\u{1}\ttab\nline'",
            _ => "7",
        };
        let order = "SELECT count(*) AS n, count(k) AS k FROM t; SELECT a FROM t";
        assert_eq!(
            sql(&format!("INSERT INTO t (a, b, k) VALUES (1, 'x', {value}), (2, 'y', NULL); {order} ORDER BY a"))
                .data(),
            "n,k\n2,1\na\n1\n2\n"
        );
        sql("INSERT INTO t (a, b, k) SELECT 3, 'z', NULL UNION ALL SELECT 4, 'z', NULL").data();
        for (filter, rows) in [
            ("k IS NULL", "2,y\n3,z\n4,z\n"),
            ("k IS NOT NULL", "1,x\n"),
            (&format!("k = {value}"), "1,x\n"),
            ("k IS NULL AND a > 2", "3,z\n4,z\n"),
        ] {
            let answer = sql(&format!("SELECT a, b FROM t WHERE {filter} ORDER BY a")).data();
            assert_eq!(answer, format!("a,b\n{rows}"), "{format}: {filter}");
        }
        let found = folders(&place, &format!("{folder}/"));
        assert_eq!(found.iter().filter(|name| *name == "k=__HIVE_DEFAULT_PARTITION__").count(), 2, "{found:?}");
        // The folder is read as it was written by its path, too.
        let path = place.sql(&format!("SELECT count(*) AS n, count(k) AS k FROM '{folder}/'")).data();
        assert_eq!(path, "n,k\n4,1\n", "{format}");
        let null = sql("INSERT INTO t (a, k) VALUES (NULL, 7)").error(1);
        assert!(null.contains("NOT NULL"), "{null}");
    }
    place.write("one.csv", "a\n1\n");
    let table = "CREATE EXTERNAL TABLE t STORED AS csv LOCATION 'one.csv'";
    let one = place.sql(&format!("{table}; INSERT INTO t VALUES (2)")).error(2);
    assert!(one.contains("t is one file") && one.contains("folder"), "{one}");
}

#[test]
fn two_columns_of_one_name_are_only_shown_to_people() {
    let place = Place::new();
    let query = "SELECT * FROM (VALUES (1)) AS t(same) JOIN (VALUES (2)) AS u(same) ON true";
    assert_eq!(place.sql(query).data(), "same,same\n1,2\n");
    for format in ["table", "tsv", "markdown"] {
        place.run(&["query", "-c", query, "--format", format]).data();
    }
    for format in ["json", "ndjson", "parquet", "arrow"] {
        let error = place.run(&["query", "-c", query, "--format", format]).error(2);
        assert!(error.contains("two columns of the result are named same"), "{error}");
    }
    place.write("copy.sql", format!("COPY ({query}) TO 'a.csv'"));
    let error = place.run(&["check", "copy.sql"]).error(2);
    assert!(error.contains("named same"), "{error}");
}

#[test]
fn a_row_of_null_is_no_empty_line() {
    let place = Place::new();
    let query = "SELECT * FROM (VALUES (1), (NULL)) AS t(v)";
    assert_eq!(place.sql(query).data(), "v\n1\n\"\"\n");
    place.sql(&format!("COPY ({query}) TO 'a.csv'")).data();
    assert_eq!(place.read("a.csv"), "v\n1\n\"\"\n");
    place.sql(&format!("COPY ({query}) TO 'a.ndjson'")).data();
    assert_eq!(place.read("a.ndjson"), "{\"v\":1}\n{\"v\":null}\n");
}

#[test]
fn one_result_is_one_file() {
    let place = Place::new();
    for format in ["json", "parquet", "arrow"] {
        let ran = place.run(&["query", "-c", "SELECT 1 AS a; SELECT 2 AS b", "--format", format]);
        assert!(ran.code == Some(2) && ran.stderr.contains("can hold one result"), "{format}: {ran:?}");
        assert!(ran.stdout.len() > 1, "the first result is whole");
    }
    let mixed =
        place.run(&["query", "-c", "SELECT 1 AS a; SET fuse.format = 'json'; SELECT 2 AS b", "--format", "csv"]);
    assert_eq!((mixed.code, mixed.stdout.as_str()), (Some(2), "a\n1\n"));
}

#[test]
fn endings_say_how_a_file_is_compressed() {
    let place = Place::new();
    let unpack = |program: &str, file: &str| {
        let ran = Command::new(program).arg("-dc").arg(place.path().join(file)).output().expect(program);
        assert!(ran.status.success(), "{file}: {ran:?}");
        String::from_utf8(ran.stdout).expect("text")
    };
    place.run(&["query", "-c", "SELECT 1 AS a; SELECT 2 AS a", "-o", "a.csv.gz"]).data();
    assert_eq!(unpack("gzip", "a.csv.gz"), "a\n1\na\n2\n");
    place.run(&["query", "-c", "SELECT 1 AS a WHERE false", "-o", "b.x.gz", "--format", "ndjson"]).data();
    assert_eq!(unpack("gzip", "b.x.gz"), "");
    let rows = "SELECT count(*) AS n, sum(a) AS a FROM";
    place.run(&["query", "-c", "SELECT value AS a FROM range(100000)", "-o", "c.ndjson.zst"]).data();
    assert_eq!(place.sql(&format!("{rows} 'c.ndjson.zst'")).data(), "n,a\n100000,4999950000\n");
    for file in ["out.parquet.gz", "out.arrow.zst", "out.csv.bz2", "out.json.xz"] {
        let error = place.run(&["query", "-c", "SELECT 1 AS a", "-o", file]).error(2);
        assert!(error.contains("compress"), "{error}");
    }
    for file in ["out.parquet.gz", "out.arrow.zst"] {
        let error = place.sql(&format!("COPY (SELECT 1 AS a) TO '{file}'")).error(2);
        assert!(error.contains("compressed inside"), "{error}");
    }
    assert!(place.files().iter().all(|file| !file.contains("out")), "{:?}", place.files());
}

#[test]
fn types_are_refused_wherever_they_stand() {
    let place = Place::new();
    let pause = "interval '1 month'";
    for (value, file) in [
        (format!("[{pause}]"), "out.parquet"),
        (format!("{{'a': {{'b': {pause}}}}}"), "out.parquet"),
        (format!("map(['a'], [{pause}])"), "out.parquet"),
        ("map([x'00'], [1])".to_owned(), "out.ndjson"),
        ("map([[1]], [1])".to_owned(), "out.csv"),
    ] {
        for copy in [true, false] {
            let query = format!("SELECT {value} AS odd");
            let ran = match copy {
                true => place.sql(&format!("COPY ({query}) TO '{file}'")),
                false => place.run(&["query", "-c", &query, "-o", file]),
            };
            let error = ran.error(2);
            assert!(error.contains("column odd"), "{value}: {error}");
        }
    }
    assert!(place.files().is_empty(), "{:?}", place.files());
}
