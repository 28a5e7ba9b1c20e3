//! State that is restored into another number of shards.
//!
//! Enters: tables that grow, and of which rows are taken away and given back. Leaves: nothing. Always holds: whatever
//! number of threads ran before, a pipeline shows what the batch gives over all that it took.

use std::fmt::Write as _;

use crate::support::Place;

const STREAMS: &str = "
    CREATE STREAM a (id BIGINT, k BIGINT, v BIGINT) STORED AS JSON LOCATION 'a/';
    CREATE STREAM b (id BIGINT, k BIGINT, v BIGINT) STORED AS JSON LOCATION 'b/';
    CREATE STREAM gone (id BIGINT, sign BIGINT) STORED AS JSON LOCATION 'gone/';";

const TABLES: &str = "
    CREATE EXTERNAL TABLE a (id BIGINT, k BIGINT, v BIGINT) STORED AS JSON LOCATION 'a/';
    CREATE EXTERNAL TABLE b (id BIGINT, k BIGINT, v BIGINT) STORED AS JSON LOCATION 'b/';
    CREATE EXTERNAL TABLE gone (id BIGINT, sign BIGINT) STORED AS JSON LOCATION 'gone/';";

const VIEWS: &str = "
    CREATE VIEW dead AS SELECT id FROM gone GROUP BY id HAVING sum(sign) > 0;
    CREATE VIEW l AS SELECT * FROM a WHERE NOT EXISTS (SELECT 1 FROM dead WHERE dead.id = a.id);
    CREATE VIEW r AS SELECT * FROM b WHERE NOT EXISTS (SELECT 1 FROM dead WHERE dead.id = b.id);";

/// What is joined, grouped and ranked, over rows that come and go.
const QUERIES: [&str; 19] = [
    "SELECT l.id AS x, r.id AS y FROM l JOIN r ON l.k = r.k",
    "SELECT l.id AS x, r.v AS y FROM l LEFT JOIN r ON l.k = r.k AND l.v < r.v",
    "SELECT l.v AS x, r.id AS y FROM l RIGHT JOIN r ON l.v = r.v",
    "SELECT l.id AS x, r.id AS y FROM l FULL JOIN r ON l.k = r.k AND l.v = r.v",
    "SELECT l.id AS x, r.id AS y FROM l JOIN r ON l.v + 20 < r.v",
    "SELECT l.id AS x, r.id AS y FROM l LEFT JOIN r ON (l.k IS NOT DISTINCT FROM r.k) AND l.v <> r.v",
    "SELECT id AS x, v AS y FROM l WHERE EXISTS (SELECT 1 FROM r WHERE r.k = l.k AND r.v > l.v)",
    "SELECT id AS x, v AS y FROM l WHERE NOT EXISTS (SELECT 1 FROM r WHERE r.k = l.k AND r.v > l.v)",
    "SELECT id AS x, k AS y FROM l WHERE v NOT IN (SELECT v FROM r WHERE v % 2 = 0)",
    "SELECT id AS x, k AS y FROM l WHERE k NOT IN (SELECT k FROM r WHERE v > 32)",
    "SELECT id AS x, EXISTS (SELECT 1 FROM r WHERE r.v = l.v) AS y FROM l",
    "SELECT l.k AS x, count(*) AS n, sum(r.v) AS y FROM l JOIN r ON l.k = r.k GROUP BY l.k",
    "SELECT id AS x, row_number() OVER (PARTITION BY k ORDER BY v, id) AS y FROM l QUALIFY y <= 2",
    "SELECT id AS x, sum(v) OVER (ORDER BY v, id) AS y FROM r",
    "SELECT id AS x, lag(v, 2) OVER (PARTITION BY k ORDER BY v, id) AS y FROM l",
    "SELECT id AS x, lead(id) OVER (ORDER BY v DESC, id) AS y FROM l",
    "SELECT id AS x, avg(v) OVER (PARTITION BY k ORDER BY id) AS y FROM l",
    "SELECT id AS x, lag(v) OVER (ORDER BY id) AS y, row_number() OVER (ORDER BY id) AS n FROM r",
    "SELECT id AS x, sum(v) OVER (PARTITION BY v % 2 ORDER BY id ROWS BETWEEN 3 PRECEDING AND 1 FOLLOWING) AS y FROM r",
];

fn pipeline() -> String {
    let mut sql = format!("{STREAMS}{}", VIEWS.replace("CREATE VIEW", "CREATE MATERIALIZED VIEW"));
    for (at, query) in QUERIES.iter().enumerate() {
        let _ = write!(sql, "COPY ({query}) TO 'q{at}.csv';");
    }
    sql
}

/// New rows, and of the rows so far some that go and some that come back.
fn grow(place: &Place, round: u64) {
    let row = |id: u64, salt: u64| {
        let k = if (id + salt).is_multiple_of(11) { "null".to_owned() } else { ((id * 7 + salt) % 9).to_string() };
        format!("{{\"id\":{id},\"k\":{k},\"v\":{}}}\n", (id * 13 + salt * 5) % 37)
    };
    let ids = round * 30..round * 30 + 30;
    place.write(&format!("a/{round}.json"), ids.clone().map(|id| row(id, 0)).collect::<String>());
    place.write(&format!("b/{round}.json"), ids.map(|id| row(id, 1)).collect::<String>());
    let sign = |id: u64, sign: i64| format!("{{\"id\":{id},\"sign\":{sign}}}\n");
    let mut gone: String = (0..round * 30 + 30).filter(|id| id % 5 == round % 5).map(|id| sign(id, 1)).collect();
    if round > 0 {
        gone.extend((0..round * 30).filter(|id| id % 5 == (round - 1) % 5).map(|id| sign(id, -1)));
    }
    place.write(&format!("gone/{round}.json"), gone);
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn joins_are_restored_into_other_numbers_of_shards() {
    let (place, sql) = (Place::new(), pipeline());
    let mut seen = [false; QUERIES.len()];
    for (round, threads) in ["1", "3", "2", "1", "3"].into_iter().enumerate() {
        grow(&place, round as u64);
        let args = ["query", "--once", "--state", "state", "-q", "--threads", threads, "-c", &sql];
        place.run(&args).data();
        for (at, query) in QUERIES.iter().enumerate() {
            let batch = place.run(&["query", "-q", "--format", "csv", "-c", &format!("{TABLES}{VIEWS}{query}")]).data();
            let shown = place.read(&format!("q{at}.csv"));
            seen[at] |= shown.lines().count() > 1;
            assert_eq!(sorted(&shown), sorted(&batch), "round {round}, {threads} threads: {query}");
        }
    }
    assert!(!seen.contains(&false), "a query has never shown anything: {seen:?}");
}

#[test]
fn windows_over_rows_near_by_follow_the_change() {
    let place = Place::new();
    let strategy = |window: &str| {
        let sql = format!("{STREAMS} EXPLAIN INCREMENTAL SELECT id, {window} FROM a");
        let found = place.run(&["query", "-q", "--format", "csv", "-c", &sql]).data();
        let line = found
            .lines()
            .find(|line| ["Rows near by", "Rows so far", "WindowAggr"].iter().any(|name| line.contains(name)));
        line.map(|line| if line.contains(",change,") { "change" } else { "group" }.to_owned()).expect("a window")
    };
    assert_eq!(strategy("lag(v) OVER (ORDER BY id)"), "change");
    assert_eq!(strategy("avg(v) OVER (PARTITION BY k ORDER BY id ROWS BETWEEN 9 PRECEDING AND CURRENT ROW)"), "change");
    assert_eq!(strategy("avg(v) OVER (PARTITION BY k ORDER BY id RANGE BETWEEN 9 PRECEDING AND CURRENT ROW)"), "group");
    assert_eq!(strategy("sum(v) OVER (ORDER BY id)"), "change");
    assert_eq!(strategy("row_number() OVER (PARTITION BY k ORDER BY id)"), "change");
    assert_eq!(strategy("first_value(v) OVER (PARTITION BY k ORDER BY id)"), "change");
    assert_eq!(strategy("sum(v) OVER (PARTITION BY k)"), "group");
    assert_eq!(strategy("ntile(4) OVER (PARTITION BY k ORDER BY id)"), "group");
    // What slides out of a sum of fractions leaves a trace.
    assert_eq!(strategy("sum(v / 2.5::DOUBLE) OVER (ORDER BY id ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)"), "group");
}

#[test]
fn an_epoch_of_one_row_does_not_look_at_its_whole_partition() {
    let place = Place::new();
    let line = |id: u64| format!("{{\"id\":{id},\"k\":{},\"v\":{}}}\n", id % 2, id % 97);
    place.write("a/0.json", (0..100_000).map(line).collect::<String>());
    let windows = "lag(v, 3) OVER (ORDER BY id) AS l, sum(v) OVER (ORDER BY id) AS s, \
                   avg(v) OVER (PARTITION BY k ORDER BY id ROWS BETWEEN 5 PRECEDING AND 2 FOLLOWING) AS m";
    let sql = format!(
        "CREATE STREAM a (id BIGINT, k BIGINT, v BIGINT) STORED AS JSON LOCATION 'a/' OPTIONS ('max_files_per_epoch' '1'); \
         COPY (SELECT id, {windows} FROM a) TO 'out/' STORED AS PARQUET OPTIONS ('mode' 'changelog');"
    );
    // The microseconds and epochs of the window functions so far.
    let spent = || {
        place.run(&["query", "-q", "--once", "--state", "state", "-c", &sql]).data();
        let text = place.run(&["inspect", "state", "--format", "json"]).data();
        let inspected: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let operators = inspected["operators"].as_array().expect("operators").iter();
        let number = |one: &serde_json::Value, name: &str| one[name].as_f64().expect("a number");
        let windows = operators.filter(|one| one["operator"].as_str().expect("a text").contains("Rows "));
        let costs = windows.map(|one| (number(one, "epoch_micros") * number(one, "epochs"), number(one, "epochs")));
        costs.fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    };
    let (first, operators) = spent();
    assert_eq!(operators, 3.0, "three operators in one epoch");
    for at in 0..20 {
        place.write(&format!("a/{}.json", at + 1), line(100_000 + at));
    }
    let (all, epochs) = spent();
    assert_eq!(epochs, 63.0);
    let one = (all - first) / 20.0;
    // One that looks at all costs as much as the first; one that does not, a thousandth. Other tests run beside this.
    assert!(one < first / 10.0, "{first} µs for 100,000 rows, {one} µs for one more");
    let verified = place.run(&["verify", "--state", "state", "-c", &sql]).data();
    assert!(verified.contains("equal: 1 statement"), "{verified}");
}

/// Epochs of many rows with few groups, in files of which each shard gets some: what a shard sums up before its rows
/// are divided is what the rows come to.
#[test]
fn what_shards_sum_up_before_is_what_their_rows_come_to() {
    let place = Place::new();
    let line = |id: u64| {
        let (k, f) = (id % 7, (id % 1000) as f64 / 7.0);
        let v = if id.is_multiple_of(13) { "null".to_owned() } else { (id * 31 % 101).to_string() };
        format!("{{\"id\":{id},\"k\":{k},\"v\":{v},\"f\":{f}}}\n")
    };
    let rows = "count(*) AS c, count(v) AS n, sum(v) AS s, avg(v) AS a, sum(f) AS f, var_pop(f) AS p, corr(v, f) AS r, \
                bool_or(v > 99) AS o, sum(v) FILTER (WHERE v > 50) AS w";
    let values =
        "min(v) AS lo, max(f) AS hi, approx_distinct(v) AS d, first_value(id ORDER BY f DESC, id) AS e, count(*) AS c";
    let queries = [
        format!("SELECT k, {rows} FROM a GROUP BY k"),
        format!("SELECT {rows} FROM a"),
        format!("SELECT k, v, {values} FROM a GROUP BY k, v"),
        format!("SELECT {values} FROM a"),
        // Of rows that come and go.
        "SELECT g, count(*) AS c, sum(s) AS s, avg(s) AS a, var_pop(s) AS p, bool_and(s > 10) AS o
         FROM (SELECT id // 3 AS h, id % 5 AS g, sum(v) AS s FROM a GROUP BY 1, 2) GROUP BY g"
            .to_owned(),
        // Two keys that have half of the rows; the others are alone.
        format!(
            "SELECT CASE WHEN id % 4 = 0 THEN 7.0 WHEN id % 4 = 1 THEN NULL ELSE id / 2 END AS g, {rows} FROM a GROUP BY 1"
        ),
        format!("SELECT CASE WHEN id % 3 = 0 THEN 'hot' ELSE id::VARCHAR END AS g, {values} FROM a GROUP BY 1"),
        "SELECT k, count(*) AS c FROM (SELECT k, id, f FROM a UNION ALL SELECT k + 0.5, id, f FROM a) GROUP BY k"
            .to_owned(),
    ];
    let mut sql = String::from(
        "CREATE STREAM a (id BIGINT, k BIGINT, v BIGINT, f DOUBLE) STORED AS JSON LOCATION 'a/' OPTIONS ('max_files_per_epoch' '4');",
    );
    for (at, query) in queries.iter().enumerate() {
        let _ = write!(sql, "COPY ({query}) TO 'q{at}.csv';");
    }
    place.write("p.sql", &sql);
    for round in 0..2_u64 {
        for file in 0..8 {
            let from = (round * 8 + file) * 12_000;
            // The second time also rows that are alone.
            let alone = if round == 1 { line(7_000_000 + file) } else { String::new() };
            place
                .write(&format!("a/{round}-{file}.json"), (from..from + 12_000).map(line).collect::<String>() + &alone);
        }
        place.run(&["query", "p.sql", "--once", "-q", "--threads", if round == 0 { "3" } else { "2" }]).data();
        let verified = place.run(&["verify", "p.sql"]).data();
        assert!(verified.contains(&format!("equal: {} statements", queries.len())), "{verified}");
    }
}
