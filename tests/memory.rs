//! Work that is larger than the memory limit.
//!
//! Enters: a sort, an aggregation and a join, and pipelines, each beyond `--memory-limit`. Leaves: nothing. Always
//! holds: they finish, with the answer that they give without a limit, and leave nothing in the folder for what spills.

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

/// Rows that come and, some of them, go; of each 1,500 bytes of text are kept.
const ROWS: &str = "
    CREATE {stream} a (id BIGINT, k BIGINT, v BIGINT, ts TIMESTAMP) STORED AS JSON LOCATION 'a/' {options};
    CREATE {stream} gone (id BIGINT) STORED AS JSON LOCATION 'gone/' {options};
    CREATE VIEW l AS SELECT *, repeat('y', 1500) || id AS s FROM a
        WHERE NOT EXISTS (SELECT 1 FROM gone WHERE gone.id = a.id);
    CREATE VIEW r AS SELECT k, ts, max(v) AS v, repeat('z', 1500) || max(id) AS s FROM a WHERE v % 5 > 0 GROUP BY k, ts;";

/// Rows of a file: those of ten are 60 MB of text, and the limit is 40 MB.
const FILE_ROWS: u64 = 4_000;

fn grow(place: &Place, file: u64) {
    let row = |id: u64| {
        let (v, second) = (id * 7919 % 10_007, id * 31 % 40_000);
        let time = format!("2024-01-01T{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60);
        format!("{{\"id\":{id},\"k\":{},\"v\":{v},\"ts\":\"{time}\"}}\n", id % 13)
    };
    let ids = file * FILE_ROWS..(file + 1) * FILE_ROWS;
    place.write(&format!("a/{file}.json"), ids.clone().map(row).collect::<String>());
    // Rows of all files so far, and of those to come.
    let gone = (0..200).map(|at| format!("{{\"id\":{}}}\n", (at * 7 + file) * 37 % (ids.end + FILE_ROWS)));
    place.write(&format!("gone/{file}.json"), gone.collect::<String>());
}

/// A pipeline whose state has to go to disk shows what the batch gives, epoch after epoch, and behind a restart.
#[track_caller]
fn keeps_on_disk(operator: &str, query: &str) {
    let place = Place::new();
    std::fs::create_dir(place.path().join("spill")).expect("a folder");
    let options = "OPTIONS ('max_files_per_epoch' '1')";
    let stream = ROWS.replace("{stream}", "STREAM").replace("{options}", options);
    let table = ROWS.replace("{stream}", "EXTERNAL TABLE").replace("{options}", "");
    let limits = ["--memory-limit", "40MB", "--temp-dir", "spill", "--threads", "2"];
    let explained = place.run(&["query", "-q", "-c", &format!("{stream} EXPLAIN INCREMENTAL {query}")]).data();
    assert!(explained.contains(operator), "no {operator}:\n{explained}");
    let mut files = 0..10;
    for count in [6, 2, 2] {
        files.by_ref().take(count).for_each(|file| grow(&place, file));
        let sql = format!("{stream} COPY ({query}) TO 'shown.csv';");
        place.run(&[&["query", "--once", "--state", "state", "-q", "-c", &sql], &limits[..]].concat()).data();
        let batch = place.run(&["query", "-q", "--format", "csv", "-c", &format!("{table} {query}")]).data();
        let shown = place.read("shown.csv");
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort_unstable();
            lines
        };
        assert!(batch.lines().count() > 1 && sorted(&shown) == sorted(&batch), "{query}:\n{shown}\nbatch:\n{batch}");
        assert!(!place.files().iter().any(|name| name.starts_with("spill/")), "{:?}", place.files());
    }
}

#[test]
fn rankings_go_to_disk() {
    let query = "SELECT id, k, v, s FROM l QUALIFY row_number() OVER (PARTITION BY k ORDER BY v, id) <= 3";
    keeps_on_disk("First 3 by", query);
}

#[test]
fn a_ranking_whose_columns_are_chosen_keeps_those_within_the_limit() {
    let place = Place::new();
    let ranked = "SELECT s, id AS i, row_number() OVER (PARTITION BY k ORDER BY v, id) AS n FROM l";
    let query = format!("SELECT i, s FROM ({ranked}) AS r WHERE n <= 3 AND upper(s) <> 'x'");
    let stream = ROWS.replace("{stream}", "STREAM").replace("{options}", "");
    let explained = place.run(&["query", "-q", "-c", &format!("{stream} EXPLAIN INCREMENTAL {query}")]).data();
    assert!(explained.contains("First 3 by"), "{explained}");
}

#[test]
fn windows_over_rows_near_by_go_to_disk() {
    let query = "SELECT k, count(*) AS n, sum(length(p)) AS l, sum(i * v) AS x FROM (SELECT k, v,
            lag(s, 2) OVER (PARTITION BY k ORDER BY id) AS p, lead(id) OVER (PARTITION BY k ORDER BY id) AS i FROM l)
        GROUP BY k";
    keeps_on_disk("Rows near by", query);
}

#[test]
fn windows_over_rows_so_far_go_to_disk() {
    let query = "SELECT k, count(*) AS n, sum(length(p)) AS l, sum(x % 1009) AS x FROM (SELECT k,
            first_value(s) OVER (PARTITION BY k ORDER BY v, id) AS p, sum(v) OVER (PARTITION BY k ORDER BY v, id) AS x FROM l)
        GROUP BY k";
    keeps_on_disk("Rows so far", query);
}

#[test]
fn sessions_go_to_disk() {
    let query = "SELECT k, window_start, count(*) AS n, sum(length(s)) AS l, sum(id) AS x
        FROM SESSION(TABLE l PARTITION BY k, DESCRIPTOR(ts), INTERVAL '20 seconds') GROUP BY k, window_start, window_end";
    keeps_on_disk("Sessions of", query);
}

#[test]
fn both_sides_of_an_asof_join_go_to_disk() {
    let query = "SELECT l.k, count(*) AS n, sum(length(l.s) + length(r.s)) AS l, sum(l.id * r.v) AS x
        FROM l ASOF JOIN r ON l.k = r.k AND l.ts > r.ts GROUP BY l.k";
    keeps_on_disk("AsOf", query);
}

#[test]
fn groups_go_to_disk() {
    let query = "SELECT k, count(*) AS c, sum(n) AS n, sum(t) AS t, bool_or(o) AS o, min(a) AS lo, max(length(s)) AS s
                 FROM (SELECT s, k, count(*) AS n, sum(v) AS t, bool_or(v > 9000) AS o, avg(v) AS a FROM l GROUP BY s, k)
                 GROUP BY k";
    keeps_on_disk("Aggregate", query);
}

#[test]
fn groups_of_rows_that_stay_go_to_disk_and_come_back() {
    let query = "SELECT length(s) AS s, count(*) AS c, sum(n) AS n, max(hi) AS hi, sum(e) AS e
                 FROM (SELECT repeat('y', 1500) || id % 26000 AS s, count(*) AS n, max(v) AS hi,
                       first_value(id ORDER BY v, id) AS e FROM a GROUP BY 1)
                 GROUP BY 1";
    keeps_on_disk("Aggregate", query);
}

/// 60 MB of rows by key that change, go, and come back.
#[test]
fn a_table_with_a_key_goes_to_disk() {
    let place = Place::new();
    std::fs::create_dir(place.path().join("spill")).expect("a folder");
    let sql = "CREATE STREAM t (id BIGINT, v BIGINT, s VARCHAR, PRIMARY KEY (id)) STORED AS JSON LOCATION 'a/'
            OPTIONS ('op_column' 'op', 'on_missing' 'skip', 'max_files_per_epoch' '1');
        COPY (SELECT id % 7 AS k, count(*) AS c, sum(v) AS v, sum(length(s)) AS s FROM t GROUP BY 1) TO 'shown.csv'";
    let text = "y".repeat(1500);
    let limits = ["--memory-limit", "30MB", "--temp-dir", "spill", "--threads", "2"];
    let mut files = 0..12_u64;
    for count in [8, 2, 2] {
        for file in files.by_ref().take(count) {
            let row = |at: u64| {
                // Of ten rows one goes, and two change one of before.
                let id = if at % 10 < 2 { at * 7919 % (file * 4_000 + 1) } else { file * 4_000 + at };
                let op = if at.is_multiple_of(10) { "d" } else { "u" };
                format!("{{\"op\":\"{op}\",\"id\":{id},\"v\":{},\"s\":\"{text}{at}\"}}\n", at + file)
            };
            place.write(&format!("a/{file:02}.json"), (0..4_000).map(row).collect::<String>());
        }
        place.run(&[&["query", "--once", "--state", "state", "-q", "-c", sql], &limits[..]].concat()).data();
        let verified = place.run(&["verify", "--state", "state", "-c", sql]).data();
        assert!(verified.contains("equal: 1 statement"), "{verified}");
        assert!(!place.files().iter().any(|name| name.starts_with("spill/")), "{:?}", place.files());
    }
}

#[test]
fn the_rows_of_a_limit_go_to_disk() {
    keeps_on_disk("Top 50 by", "SELECT id, v, s FROM l ORDER BY v, id LIMIT 50");
}

#[test]
fn the_rows_of_an_offset_go_to_disk() {
    let query =
        "SELECT count(*) AS n, sum(id) AS x, sum(length(s)) AS l FROM (SELECT * FROM l ORDER BY v, id OFFSET 20000)";
    keeps_on_disk("All behind 20000", query);
}
