//! Work that is larger than the memory limit.
//!
//! Enters: a sort, an aggregation and a join, each beyond `--memory-limit`. Leaves: nothing. Always holds: they
//! finish, with the answer that they give without a limit, and leave nothing in the folder for what spills.

use crate::support::Place;

const LEFT: &str = "(SELECT value AS v, repeat('y', 30) || value AS s FROM generate_series(1, 1500000))";
const RIGHT: &str = "(SELECT value * 3 AS v, repeat('x', 40) || value AS s FROM generate_series(1, 1500000))";

#[track_caller]
fn finishes(sql: &str, answer: &str) {
    let place = Place::new();
    std::fs::create_dir(place.path().join("spill")).expect("a folder");
    let limits = ["--memory-limit", "60MB", "--temp-dir", "spill", "--threads", "2"];
    let ran = place.run(&[&["query", "-q", "-c", sql, "--format", "csv"], &limits[..]].concat());
    assert_eq!(ran.data(), answer);
    assert!(!place.files().iter().any(|name| name.starts_with("spill")), "{:?}", place.files());
}

#[test]
fn a_sort_spills() {
    let sql = format!(
        "COPY (SELECT s FROM {LEFT} ORDER BY reverse(s)) TO 'sorted.parquet'; \
         SELECT count(*) AS n, max(s) AS m FROM 'sorted.parquet'"
    );
    finishes(&sql, &format!("n,m\n1500000,{}999999\n", "y".repeat(30)));
}

#[test]
fn a_late_page_of_a_sort_spills() {
    let sql = format!("SELECT v FROM {LEFT} ORDER BY s || 'x', v LIMIT 2 OFFSET 1499998");
    finishes(&sql, "v\n99\n9\n");
}

#[test]
fn an_aggregation_spills() {
    let sql = format!("SELECT count(*) AS n, sum(m) AS m FROM (SELECT s, max(v) AS m FROM {LEFT} GROUP BY s)");
    finishes(&sql, "n,m\n1500000,1125000750000\n");
}

#[test]
fn a_join_starts_again_sorted() {
    let sql = format!(
        "SELECT count(*) AS n, max(length(a.s || b.s)) AS l FROM {LEFT} AS a JOIN {RIGHT} AS b \
         ON a.s = repeat('y', 30) || b.v WHERE a.v + b.v > 6"
    );
    finishes(&sql, "n,l\n499999,83\n");
    // So does one that writes; what its first attempt staged is not kept.
    let copy = format!("COPY ({sql}) TO 'joined.csv'; SELECT n FROM 'joined.csv'");
    finishes(&copy, "n\n499999\n");
}

#[test]
fn the_state_of_a_pipeline_spills() {
    let place = Place::new();
    std::fs::create_dir(place.path().join("spill")).expect("a folder");
    // 300 MB of rows on both sides together.
    let sql = "CREATE STREAM r STORED AS RATE OPTIONS ('rows' '600000', 'rows_per_second' '1000000000',
            'max_rows_per_epoch' '50000');
        COPY (SELECT count(*) AS n, max(length(a.s || b.s)) AS l, sum(b.v) AS v
            FROM (SELECT value AS v, repeat('y', 200) || value AS s FROM r) AS a
            JOIN (SELECT value * 3 AS v, repeat('x', 250) || value AS s FROM r) AS b ON a.v = b.v) TO 'joined.csv'";
    let limits = ["--memory-limit", "100MB", "--temp-dir", "spill", "--threads", "2"];
    let ran = place.run(&[&["query", "--once", "--state", "state", "-q", "-c", sql], &limits[..]].concat());
    assert_eq!(ran.data(), "");
    let joined = std::fs::read_to_string(place.path().join("joined.csv")).expect("a file");
    assert_eq!(joined, "n,l,v\n200000,462,59999700000\n");
    assert!(!place.files().iter().any(|name| name.starts_with("spill/")), "{:?}", place.files());
}
