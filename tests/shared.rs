//! Aggregates that a query has twice.
//!
//! Enters: queries that name a CTE, or write a subquery, more than once. Leaves: nothing. Always holds: the second
//! reads what the first has computed where both are equal, and nowhere else; the answer is the same.

use crate::support::Place;

const SUMS: &str = "WITH sums AS (SELECT k, sum(v) AS s FROM 't.parquet' GROUP BY k)";

fn place() -> Place {
    let place = Place::new();
    let sql = "COPY (SELECT value % 7 AS k, value AS v FROM range(1000)) TO 't.parquet';
        COPY (FROM 't.parquet') TO 't.csv'";
    assert_eq!(place.run(&["query", "-q", "-c", sql]).code, Some(0));
    place
}

#[track_caller]
fn check(place: &Place, query: &str, answer: &str, is_shared: bool) {
    assert_eq!(place.run(&["query", "-q", "-f", "csv", "-c", query]).data(), answer, "{query}");
    let analyzed = place.run(&["query", "-q", "-c", &format!("EXPLAIN ANALYZE {query}")]).data();
    assert_eq!(analyzed.contains("SharedExec: computed above"), is_shared, "{analyzed}");
}

#[test]
fn what_is_equal_is_computed_once() {
    let place = place();
    let most = format!("{SUMS} SELECT k, s FROM sums WHERE s = (SELECT max(s) FROM sums)");
    check(&place, &most, "k,s\n5,71786\n", true);
    let joined =
        format!("{SUMS} SELECT count(*) AS n, sum(a.s - b.s) AS d FROM sums AS a JOIN sums AS b ON a.k = b.k + 1");
    check(&place, &joined, "n,d\n6,-142\n", true);
    // Only rows that the other side has are wanted of one of the two.
    let filtered = "SELECT count(*) AS n, min(b.s) AS s FROM (SELECT k, sum(v) AS s FROM 't.parquet' GROUP BY k) AS b \
        JOIN (SELECT k, sum(v) AS s FROM 't.parquet' GROUP BY k HAVING sum(v) > 71500) AS a ON a.k = b.k";
    check(&place, filtered, "n,s\n2,71643\n", true);
}

#[test]
fn what_differs_is_not() {
    let place = place();
    let where_ = |from: &str, a: &str, b: &str| {
        format!(
            "SELECT sum(s) AS s FROM (SELECT k, sum(v) AS s FROM {from} WHERE {a} GROUP BY k \
             UNION ALL SELECT k, sum(v) AS s FROM {from} WHERE {b} GROUP BY k)"
        )
    };
    check(&place, &where_("'t.parquet'", "v < 10", "v < 10"), "s\n90\n", true);
    check(&place, &where_("'t.parquet'", "v < 10", "v < 11"), "s\n100\n", false);
    check(&place, &where_("'t.parquet'", "v < 10 OR random() > 2", "v < 10 OR random() > 2"), "s\n90\n", false);
    // How a CSV file is read is not compared.
    check(&place, &where_("'t.csv'", "v < 10", "v < 10"), "s\n90\n", false);
}

#[test]
fn what_is_kept_for_the_second_spills() {
    let place = Place::new();
    std::fs::create_dir(place.path().join("spill")).expect("a folder");
    let sql = "COPY (SELECT value AS k, repeat('y', 80) || value AS s FROM range(600000)) TO 't.parquet';
        WITH g AS (SELECT s, max(k) AS m FROM 't.parquet' GROUP BY s)
        SELECT count(*) AS n, sum(m) AS m, max(length(s)) AS l FROM (FROM g UNION ALL FROM g)";
    let limits = ["--memory-limit", "60MB", "--temp-dir", "spill", "--threads", "2"];
    let ran = place.run(&[&["query", "-q", "-c", sql, "--format", "csv"], &limits[..]].concat());
    assert_eq!(ran.data(), "n,m,l\n1200000,359999400000,86\n");
    assert!(!place.files().iter().any(|name| name.starts_with("spill")), "{:?}", place.files());
}
