//! The law of fusion: what a pipeline has shown after an epoch is what the query gives as a batch over the input
//! of the epochs so far.
//!
//! Enters: random rows, a random query, a random way to cut the rows into epochs, random stops and kills. Leaves:
//! nothing. Always holds: a failing case is printed with its SQL and shrunk. FUSE_LAW_CASES sets how many cases,
//! FUSE_LAW_QUERY their query.

mod changes;
mod joins;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::RecordBatch;
use fuse::config::Settings;
use fuse::error::Error;
use fuse::offset::Epoch;
use fuse::runtime::{self, ProgressCell, RunOptions, Until};
use fuse::session::{Outcome, Session};
use fuse::sink::stream::Sink;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::epochs::{Shown, lines};

/// Rows of a result with how often each is there.
type Multiset = BTreeMap<String, i64>;

const STREAMS: &str = "
    CREATE {unbounded} EXTERNAL TABLE s (id BIGINT, k BIGINT, g VARCHAR, v BIGINT, f DOUBLE)
        STORED AS JSON LOCATION '{root}/s/' {options};
    CREATE {unbounded} EXTERNAL TABLE u (k BIGINT, x BIGINT, h VARCHAR) STORED AS CSV LOCATION '{root}/u/' {options};
    CREATE TABLE d (k BIGINT, name VARCHAR, w BIGINT) AS VALUES
        (0, 'zero', 10), (1, 'one', 20), (1, 'uno', 21), (3, 'three', NULL), (NULL, 'none', 5);";

/// One part of a case: files that come, and how the pipeline is run over them.
#[derive(Debug, Clone)]
struct Round {
    s: Vec<Vec<SRow>>,
    u: Vec<Vec<URow>>,
    end: End,
}

/// How a run ends.
#[derive(Debug, Clone, PartialEq)]
enum End {
    CaughtUp,
    /// It is dropped after so many microseconds, and run again.
    Killed(u64),
}

type URow = (Option<i64>, Option<i64>, Option<String>);
type SRow = (Option<i64>, Option<String>, Option<i64>, Option<i64>);

fn ddl(root: &Path, unbounded: bool) -> String {
    let options = if unbounded { "OPTIONS ('max_files_per_epoch' '1')" } else { "" };
    STREAMS
        .replace("{unbounded}", if unbounded { "UNBOUNDED" } else { "" })
        .replace("{root}", &root.display().to_string())
        .replace("{options}", options)
}

/// The oracle: the query over all files that are there.
async fn batch(tables: &str, query: &str) -> Multiset {
    let session = Session::new(Settings::default()).expect("a session");
    session.execute_text(tables).await.expect("tables");
    let Outcome::Rows(rows) = session.execute_text(query).await.expect(query) else { panic!("{query}: no rows") };
    counted(&rows.collect().await.expect(query))
}

fn counted(batches: &[RecordBatch]) -> Multiset {
    let mut found = Multiset::new();
    batches.iter().flat_map(lines).for_each(|line| *found.entry(line).or_insert(0) += 1);
    found
}

/// What a pipeline has shown; nothing, if it never ran.
fn shown_rows(shown: &Mutex<Shown>) -> Multiset {
    let shown = shown.lock().unwrap();
    if shown.columns.is_none() { Multiset::new() } else { counted(&[shown.batch().expect("rows")]) }
}

/// One run of the pipeline; false if it was killed before its end.
async fn run(root: &Path, tables: &str, query: &str, shown: &Arc<Mutex<Shown>>, end: &End) -> Result<bool, Error> {
    let mut settings = Settings::default();
    // State is taken over by another number of shards.
    settings.threads = 1 + usize::try_from(fuse::clock::now_micros() % 3).unwrap_or(0);
    let session = Session::new(settings)?;
    session.execute_text(tables).await?;
    session.execute_text(query).await?;
    let collector = |columns, _, order| -> Box<dyn Sink> { Box::new(Shown::sink(shown, columns, order)) };
    let pipeline = session.pipeline(&collector)?.expect("a pipeline");
    let folder = session.state_folder(&root.join("state").display().to_string())?;
    let options = RunOptions { folder, trigger: Duration::ZERO, until: Until::CaughtUp, fresh: false };
    let (_stop, stopped) = watch::channel(false);
    let progress = ProgressCell::default();
    let work = runtime::run(pipeline, &options, stopped, &progress);
    match end {
        End::CaughtUp => work.await.map(|_| true),
        End::Killed(micros) => match tokio::time::timeout(Duration::from_micros(*micros), work).await {
            Ok(done) => done.map(|_| true),
            Err(_) => Ok(false),
        },
    }
}

fn write_files(root: &Path, round: &Round, numbers: &mut (usize, i64)) {
    for rows in &round.s {
        let mut text = String::new();
        for (k, g, v, f) in rows {
            numbers.1 += 1;
            let number = |n: &Option<i64>| n.map_or("null".to_owned(), |n| n.to_string());
            let g = g.as_ref().map_or("null".to_owned(), |g| format!("\"{g}\""));
            let f = f.map_or("null".to_owned(), |f| format!("{}", f as f64 / 4.0));
            text += &format!("{{\"id\":{},\"k\":{},\"g\":{g},\"v\":{},\"f\":{f}}}\n", numbers.1, number(k), number(v));
        }
        put(root, &format!("s/{:05}.json", numbers.0), &text);
        numbers.0 += 1;
    }
    for rows in &round.u {
        let mut text = "k,x,h\n".to_owned();
        for (k, x, h) in rows {
            let number = |n: &Option<i64>| n.map_or(String::new(), |n| n.to_string());
            text += &format!("{},{},{}\n", number(k), number(x), h.clone().unwrap_or_default());
        }
        put(root, &format!("u/{:05}.csv", numbers.0), &text);
        numbers.0 += 1;
    }
}

fn put(root: &Path, name: &str, text: &str) {
    let path = root.join(name);
    std::fs::write(path.with_extension("tmp"), text).expect("writes");
    std::fs::rename(path.with_extension("tmp"), path).expect("renames");
}

/// A memory file system where there is one: the law does not hang on the disk, other tests do.
fn temporary() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder")
}

fn hold(runtime: &Runtime, query: &str, rounds: &[Round]) -> Result<(), TestCaseError> {
    let root = temporary();
    for folder in ["s", "u"] {
        std::fs::create_dir(root.path().join(folder)).expect("a folder");
    }
    let shown = Arc::new(Mutex::new(Shown::default()));
    let mut numbers = (0, 0);
    for (at, round) in rounds.iter().enumerate() {
        write_files(root.path(), round, &mut numbers);
        let fail = |error: Error| TestCaseError::fail(format!("{query}\nround {at}: {error:?}"));
        let tables = ddl(root.path(), true);
        let ended = runtime.block_on(run(root.path(), &tables, query, &shown, &round.end)).map_err(fail)?;
        if !ended {
            runtime.block_on(run(root.path(), &tables, query, &shown, &End::CaughtUp)).map_err(fail)?;
        }
        let expected = runtime.block_on(batch(&ddl(root.path(), false), query));
        let epochs = shown.lock().unwrap().epochs.clone();
        let sequence: Vec<Epoch> = (1..=epochs.len() as u64).collect();
        prop_assert_eq!(&epochs, &sequence, "{}: epochs in order, each once", query);
        prop_assert_eq!(&shown_rows(&shown), &expected, "{}\nround {}", query, at);
    }
    Ok(())
}

fn s_row() -> impl Strategy<Value = SRow> {
    let g = prop::option::weighted(0.85, prop::sample::select(vec!["a", "b", "ab", "zz", ""]).prop_map(str::to_owned));
    (prop::option::weighted(0.85, 0_i64..6), g, prop::option::weighted(0.85, -5_i64..20), prop::option::of(-20_i64..50))
}

fn round() -> impl Strategy<Value = Round> {
    let u = (prop::option::weighted(0.85, 0_i64..6), prop::option::of(0_i64..9), prop::option::of("[a-c]{1,2}"));
    let end = prop_oneof![3 => Just(End::CaughtUp), 2 => (0_u64..40_000).prop_map(End::Killed)];
    (
        prop::collection::vec(prop::collection::vec(s_row(), 1..8), 0..3),
        prop::collection::vec(prop::collection::vec(u, 1..5), 0..2),
        end,
    )
        .prop_map(|(s, u, end)| Round { s, u, end })
}

fn one_of(texts: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(texts).prop_map(str::to_owned)
}

const CONDITIONS: &[&str] = &[
    "v > 3",
    "k = 1",
    "g LIKE 'a%'",
    "v IS NULL",
    "k IN (0, 2, 4)",
    "f >= 1.5 OR g = 'b'",
    "v > 0 AND k < 4",
    "NOT (v BETWEEN 2 AND 9)",
    "coalesce(g, 'x') <> 'zz'",
    "true",
];

/// Queries that give the columns k, g, v.
fn relation() -> impl Strategy<Value = String> {
    let plain = one_of(CONDITIONS).prop_map(|c| format!("SELECT k, g, v FROM s WHERE {c}"));
    let project = one_of(CONDITIONS).prop_map(|c| {
        format!("SELECT k + 1 AS k, upper(g) AS g, CASE WHEN v > 5 THEN v * 2 ELSE v END AS v FROM s WHERE {c}")
    });
    let union = (one_of(CONDITIONS), one_of(CONDITIONS)).prop_map(|(a, b)| {
        format!(
            "SELECT k, g, v FROM s WHERE {a} UNION ALL SELECT k, h, x FROM u UNION ALL SELECT k, g, v FROM s WHERE {b}"
        )
    });
    let unnest = one_of(CONDITIONS).prop_map(|c| format!("SELECT k, g, unnest([v, k, 7]) AS v FROM s WHERE {c}"));
    let kinds = &["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"];
    let rest = (one_of(kinds), one_of(CONDITIONS)).prop_map(|(kind, c)| {
        format!("SELECT s.k, d.name AS g, s.v + coalesce(d.w, 0) AS v FROM (SELECT * FROM s WHERE {c}) s {kind} d ON s.k = d.k")
    });
    let both = (one_of(kinds), one_of(&["", " AND s.v > u.x", " AND s.g = u.h"]))
        .prop_map(|(kind, more)| format!("SELECT s.k, u.h AS g, s.v - u.x AS v FROM s {kind} u ON s.k = u.k{more}"));
    let semi = one_of(&["IN (SELECT k FROM u)", "IN (SELECT k FROM d)", "IN (SELECT x FROM u WHERE h > 'a')"])
        .prop_map(|c| format!("SELECT k, g, v FROM s WHERE k {c}"));
    let exists = one_of(&["EXISTS", "NOT EXISTS"])
        .prop_map(|e| format!("SELECT k, g, v FROM s WHERE {e} (SELECT 1 FROM u WHERE u.k = s.k AND u.x < s.v)"));
    prop_oneof![4 => plain, 2 => project, 2 => union, 1 => unnest, 3 => rest, 3 => both, 1 => semi, 2 => exists]
}

const AGGREGATES: &[&str] = &[
    "count(*)",
    "sum(v)",
    "min(v), max(g)",
    "avg(v)",
    "count(DISTINCT v)",
    "count(v) FILTER (WHERE v > 2), sum(k)",
    "bool_or(v > 3), bit_xor(v)",
    "round(stddev(v), 6)",
    "median(v)",
    "sum(DISTINCT v), count(*)",
    "approx_distinct(g)",
    "array_sort(array_agg(v))",
    "array_agg(v ORDER BY v DESC NULLS LAST)",
    "string_agg(g, '-' ORDER BY g, v)",
    "first_value(g ORDER BY v, g), last_value(v ORDER BY v)",
    "percentile_cont(0.25) WITHIN GROUP (ORDER BY v)",
    "avg(DISTINCT v), min(DISTINCT v), max(v)",
    "round(corr(k, v), 6), round(regr_slope(v, k), 6), round(covar_pop(k, v), 6)",
    "round(var_pop(v), 6), bool_and(v > 0), max(g)",
    "max(v) FILTER (WHERE k > 1), count(DISTINCT g) FILTER (WHERE v > 0)",
];

fn query() -> impl Strategy<Value = String> {
    let grouped = (relation(), one_of(&["k", "g", "k, g", "v % 3"]), one_of(AGGREGATES))
        .prop_map(|(r, by, a)| format!("SELECT {by}, {a} FROM ({r}) GROUP BY {by}"));
    let global = (relation(), one_of(AGGREGATES)).prop_map(|(r, a)| format!("SELECT {a} FROM ({r})"));
    let having = relation().prop_map(|r| format!("SELECT g, count(*) AS n FROM ({r}) GROUP BY g HAVING count(*) > 2"));
    let distinct = relation().prop_map(|r| format!("SELECT DISTINCT k, g FROM ({r})"));
    let nested = relation()
        .prop_map(|r| format!("SELECT n, count(*) FROM (SELECT k, count(*) AS n FROM ({r}) GROUP BY k) GROUP BY n"));
    let sets = (relation(), one_of(&["ROLLUP (k, g)", "CUBE (k, g)", "GROUPING SETS ((k), (k, g), (), (k), ())"]))
        .prop_map(|(r, by)| format!("SELECT k, g, grouping(k) AS a, count(*), max(v) FROM ({r}) GROUP BY {by}"));
    let windows =
        relation().prop_map(|r| format!("SELECT k, v, sum(v) OVER (PARTITION BY k) FROM ({r}) WHERE v IS NOT NULL"));
    let top = Just("SELECT id, v FROM s ORDER BY v DESC NULLS LAST, id LIMIT 5".to_owned());
    let limited = (relation(), one_of(&["LIMIT 3", "LIMIT 2 OFFSET 1", "LIMIT 0", "LIMIT 1000"]))
        .prop_map(|(r, limit)| format!("SELECT k, g, v FROM ({r}) ORDER BY v, g, k DESC {limit}"));
    let above = relation().prop_map(|r| format!(
        "SELECT g, n FROM (SELECT g, count(*) AS n, max(v) AS m FROM ({r}) GROUP BY g) ORDER BY m DESC, n, g LIMIT 2"
    ));
    let scalar = Just("SELECT id, v FROM s WHERE v > (SELECT avg(x) FROM u)".to_owned());
    let set_ops =
        one_of(&["INTERSECT", "EXCEPT", "UNION"]).prop_map(|op| format!("SELECT k, g FROM s {op} SELECT k, h FROM u"));
    let not_in = Just("SELECT id FROM s WHERE k NOT IN (SELECT x FROM u WHERE x IS NOT NULL)".to_owned());
    prop_oneof![
        6 => relation(), 6 => grouped, 3 => global, 1 => having, 2 => distinct, 1 => nested, 2 => sets, 1 => windows,
        1 => top, 2 => limited, 1 => above, 1 => scalar, 1 => set_ops, 1 => not_in,
    ]
}

/// Fewer than in tests/law.rs: files and kills take their time.
fn cases() -> u32 {
    crate::law::cases() / 4
}

/// Holds for queries of this kind, in one part of the cases; for that of FUSE_LAW_QUERY, if there is one.
fn law_of(query: impl Strategy<Value = String>, part: u32) {
    let query = query.prop_map(|query| std::env::var("FUSE_LAW_QUERY").unwrap_or(query));
    let cases = cases() / part;
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 60, ..Config::default() };
    let runtime = Runtime::new().expect("a runtime");
    let mut runner = TestRunner::new(config);
    let rounds = prop::collection::vec(round(), 1..4);
    let result = runner.run(&(query, rounds), |(query, rounds)| hold(&runtime, &query, &rounds));
    assert!(result.is_ok(), "{}", result.unwrap_err());
}

#[test]
fn epochs_equal_the_batch_first_half() {
    law_of(query(), 2);
}

#[test]
fn epochs_equal_the_batch_second_half() {
    law_of(query(), 2);
}
