//! History and stream in one table.
//!
//! Enters: files of a history, and a folder or a followed file that goes on behind it. Leaves: nothing. Always holds: no
//! row is missing and none is there twice where both meet, in one run or in several.

use crate::support::{Place, Ran};

fn once(place: &Place) -> Ran {
    place.run(&["query", "p.sql", "--once", "--quiet"])
}

/// Makes a history of the ids of a range, with columns in another order than the table has.
fn history(place: &Place, ids: std::ops::Range<u64>) {
    let (from, to) = (ids.start, ids.end);
    let sql = format!(
        "COPY (SELECT 'h' AS origin, value % 3 AS k, value AS id FROM generate_series({from}, {to} - 1) ORDER BY id)
         TO 'old/a.parquet'"
    );
    place.sql(&sql);
}

fn lines(ids: std::ops::Range<u64>) -> String {
    ids.map(|id| format!("{{\"id\":{id},\"k\":{},\"origin\":\"s\"}}\n", id % 3)).collect()
}

const OUT: &str = "COPY (SELECT id, origin FROM t) TO 'out/' STORED AS PARQUET;
    COPY (SELECT k, count(*) AS n, sum(id) AS s FROM t GROUP BY k ORDER BY k) TO 'sums.csv';";
const CHECK: &str = "SELECT count(*), count(DISTINCT id), sum(id), count(*) FILTER (origin = 'h') FROM 'out/*.parquet'";

fn rows(place: &Place, sql: &str) -> String {
    let data = place.sql(sql).data();
    data.split_once('\n').map_or(String::new(), |(_, rows)| rows.to_owned())
}

fn check_equal(place: &Place) {
    let verified = place.run(&["verify", "p.sql"]).data();
    assert!(verified.contains("equal: 2 statements"), "{verified}");
}

#[test]
fn the_stream_goes_on_where_the_history_ends() {
    let place = Place::new();
    history(&place, 0..5000);
    place.write("new.json", lines(5000..5100));
    let sql = "CREATE STREAM t (id BIGINT, k BIGINT, origin VARCHAR) STORED AS JSON LOCATION 'new.json'
               BACKFILL FROM 'old/*.parquet';";
    place.write("p.sql", format!("{sql}{OUT}"));
    once(&place).data();
    assert_eq!(rows(&place, CHECK), "5100,5100,13002450,5000\n");
    // What comes to the history later is not looked at: the stream has begun.
    place.sql("COPY (SELECT 'h' AS origin, 0 AS k, 7 AS id) TO 'old/b.parquet'");
    place.write("new.json", lines(5000..5200));
    once(&place).data();
    assert_eq!(rows(&place, CHECK), "5200,5200,13517400,5000\n");
    check_equal(&place);
}

#[test]
fn a_condition_says_which_of_both_has_a_row() {
    let place = Place::new();
    // Both have 900 to 1100.
    history(&place, 0..1100);
    place.write("in/1.json", lines(900..1200));
    let sql = "CREATE STREAM t (id BIGINT, k BIGINT, origin VARCHAR) STORED AS JSON LOCATION 'in/'
               BACKFILL FROM 'old/*.parquet' UP TO id < 1000 OPTIONS ('max_files_per_epoch' '1');";
    place.write("p.sql", format!("{sql}{OUT}"));
    once(&place).data();
    assert_eq!(rows(&place, CHECK), "1200,1200,719400,1000\n");
    place.write("in/2.json", lines(1200..1210));
    once(&place).data();
    assert_eq!(rows(&place, CHECK), "1210,1210,731445,1000\n");
    check_equal(&place);
    // The condition's column need not be among those that are read.
    let keys = "COPY (SELECT k FROM t) TO 'keys/' STORED AS PARQUET;";
    place.write("k.sql", format!("{sql}{keys}"));
    place.run(&["query", "k.sql", "--once", "--quiet"]).data();
    assert_eq!(rows(&place, "SELECT count(*) FROM 'keys/*.parquet'"), "1210\n");
}

#[test]
fn a_key_says_which_rows_the_history_has() {
    let place = Place::new();
    history(&place, 0..1000);
    place.write("in/1.json", lines(950..1050));
    let sql = "CREATE STREAM t (id BIGINT, k BIGINT, origin VARCHAR) STORED AS JSON LOCATION 'in/'
               BACKFILL FROM 'old/*.parquet' DEDUPLICATE BY (id, k);";
    place.write("p.sql", format!("{sql}{OUT}"));
    once(&place).data();
    assert_eq!(rows(&place, CHECK), "1050,1050,550725,1000\n");
    // The keys are in the state: what the history had is left out in later runs too.
    place.write("in/2.json", lines(990..1060));
    once(&place).data();
    // 1000 to 1049 come twice in the stream itself, and are there twice.
    assert_eq!(rows(&place, CHECK), "1110,1060,612495,1000\n");
    check_equal(&place);
}

#[test]
fn rows_with_a_key_take_the_place_of_the_history() {
    let place = Place::new();
    history(&place, 0..100);
    place.write("in/1.json", "{\"id\":7,\"k\":1,\"origin\":\"new\",\"op\":\"u\"}\n{\"id\":8,\"op\":\"d\"}\n");
    let sql = "CREATE STREAM t (id BIGINT PRIMARY KEY, k BIGINT, origin VARCHAR) STORED AS JSON LOCATION 'in/'
               OPTIONS ('op_column' 'op') BACKFILL FROM 'old/*.parquet';
               COPY (SELECT count(*) AS n, sum(id) AS s, count(*) FILTER (origin = 'new') AS c FROM t) TO 'sums.csv';";
    place.write("p.sql", sql);
    once(&place).data();
    assert_eq!(place.read("sums.csv"), "n,s,c\n99,4942,1\n");
}

#[test]
fn what_cannot_be_is_said() {
    let place = Place::new();
    history(&place, 0..10);
    let run = |clause: &str| {
        let sql = format!(
            "CREATE STREAM t (id BIGINT, k BIGINT, origin VARCHAR) STORED AS JSON LOCATION 'in/' BACKFILL FROM {clause};
             COPY (SELECT id FROM t) TO 'out/' STORED AS PARQUET;"
        );
        place.write("w.sql", sql);
        place.run(&["query", "w.sql", "--once", "--quiet"]).stderr
    };
    for (clause, said) in [
        ("old", "BACKFILL FROM wants files in quotes"),
        ("'old/'", "the format of the history 'old/' is not known"),
        ("'old/*.parquet' UP TO id", "it is no condition"),
        ("'old/*.parquet' UP TO nope < 1", "nope"),
        ("'old/*.parquet' DEDUPLICATE BY (idd)", "did you mean id?"),
        ("'old/*.parquet' DEDUPLICATE BY id", "columns in parentheses"),
    ] {
        let told = run(clause);
        assert!(told.contains(said), "{clause}: {told}");
    }
}
