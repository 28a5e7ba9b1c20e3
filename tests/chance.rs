//! random() and uuid() in pipelines.
//!
//! Enters: pipelines that are stopped and killed. Leaves: nothing. Always holds: a row has the values that it was first
//! given, in all outputs, however often its epoch is run again and in however many shards; where that cannot be, the
//! query is refused.

use crate::support::{Place, Ran};

const SQL: &str = "CREATE STREAM s (a BIGINT) STORED AS JSON LOCATION 'in/' OPTIONS ('max_files_per_epoch' '1');
    CREATE MATERIALIZED VIEW v AS SELECT a, random() AS r, uuid() AS u FROM s WHERE random() < 0.9;
    COPY (SELECT a, r, u FROM v) TO 'rows/' STORED AS PARQUET;
    COPY (SELECT count(*) AS n, min(r) AS low, max(r) AS high, count(DISTINCT u) AS us, min(u) AS u FROM v) TO 'all.parquet';
    COPY (SELECT a % 3 AS k, max(r) AS r FROM v GROUP BY 1) TO 'k.parquet';";

fn run(place: &Place, threads: &str, failpoints: &str) -> Ran {
    let args = ["query", "--once", "--state", "state", "-q", "--threads", threads, "-c", SQL];
    Ran::from(place.command(&args).env("FAILPOINTS", failpoints).output().expect("runs"))
}

fn input(place: &Place, file: u64) {
    // Rows that are equal too.
    let rows = (0..60).map(|row| format!("{{\"a\":{}}}\n", row % 40 + file * 40));
    place.write(&format!("in/{file}.json"), rows.collect::<String>());
}

/// The outputs as one query sees them, and as it sees the rows.
fn assert_agree(place: &Place) {
    let csv = |sql: &str| place.run(&["query", "-q", "--format", "csv", "-c", sql]).data();
    let rows = "SELECT count(*) AS n, min(r) AS low, max(r) AS high, count(DISTINCT u) AS us, min(u) AS u FROM 'rows/'";
    assert_eq!(csv("FROM 'all.parquet'"), csv(rows));
    let groups = "SELECT a % 3 AS k, max(r) AS r FROM 'rows/' GROUP BY 1 ORDER BY k";
    assert_eq!(csv("FROM 'k.parquet' ORDER BY k"), csv(groups));
}

#[test]
fn values_are_the_same_when_an_epoch_is_run_again() {
    let place = Place::new();
    for file in 0..3 {
        input(&place, file);
    }
    run(&place, "2", "").data();
    assert_agree(&place);
    let counted =
        "SELECT count(*) AS n, count(DISTINCT r) AS rs, count(DISTINCT u) AS us, min(r) >= 0 AND max(r) < 1 AS fits,
        min(length(u)) AS l FROM 'rows/'";
    let found = place.run(&["query", "-q", "--format", "csv", "-c", counted]).data();
    let line = found.lines().nth(1).expect("a row");
    let n: u64 = line.split(',').next().and_then(|n| n.parse().ok()).expect("a number");
    // 180 rows, of which nine in ten pass.
    assert!((130..180).contains(&n), "{line}");
    assert_eq!(line, format!("{n},{n},{n},true,36"));
    #[cfg(feature = "failpoints")]
    for (round, threads) in ["1", "3", "2", "1"].into_iter().enumerate() {
        let file = 3 + round as u64 * 2;
        input(&place, file);
        input(&place, file + 1);
        // It ends before the checkpoint: the next run runs both epochs again, in another number of shards.
        let ran = run(&place, threads, "state.rename.before=2*off->1*return(exit)->off");
        assert_ne!(ran.code, Some(0), "{}", ran.stderr);
        run(&place, if threads == "1" { "2" } else { "1" }, "").data();
        assert_agree(&place);
    }
}

#[test]
fn samples_of_streams_stay_as_they_are() {
    let place = Place::new();
    let sql = "CREATE STREAM s (a BIGINT) STORED AS JSON LOCATION 'in/';
        COPY (SELECT a FROM s TABLESAMPLE BERNOULLI (50)) TO 'half.csv';
        COPY (SELECT a FROM s TABLESAMPLE (5 ROWS)) TO 'five.csv';";
    let once = || place.run(&["query", "--once", "--state", "state", "-q", "-c", sql]);
    input(&place, 0);
    once().data();
    let first = place.read("half.csv");
    assert!((10..50).contains(&first.lines().count()), "{first}");
    assert_eq!(place.read("five.csv").lines().count(), 6);
    input(&place, 1);
    once().data();
    let second = place.read("half.csv");
    assert!(first.lines().all(|line| second.lines().any(|other| other == line)), "{first}\n{second}");
    assert_eq!(place.read("five.csv").lines().count(), 6);
}

#[test]
fn where_a_value_could_not_be_found_again_it_is_refused() {
    let place = Place::new();
    let refused = |query: &str, words: &str| {
        let sql = format!(
            "CREATE STREAM s (a BIGINT) STORED AS JSON LOCATION 'in/';
            CREATE STREAM t (a BIGINT) STORED AS JSON LOCATION 'in/'; {query};"
        );
        let error = place.run(&["query", "--once", "--state", "state", "-q", "-c", &sql]).error(2);
        assert!(error.contains(words) && error.contains("in a subquery over"), "{query}: {error}");
    };
    input(&place, 0);
    refused("SELECT n, random() FROM (SELECT count(*) AS n FROM s GROUP BY a)", "rows that may be taken back");
    refused("SELECT s.a, uuid() FROM s LEFT JOIN t ON s.a = t.a", "rows that may be taken back");
    refused(
        "SELECT s.a FROM s JOIN t ON s.a = t.a AND random() < 0.5 AND s.a + t.a + random() < 9",
        "condition of a join",
    );
    refused(
        "WITH RECURSIVE r AS (SELECT a FROM s UNION ALL SELECT a + random() FROM r WHERE a < 2) SELECT * FROM r",
        "another value",
    );
}
