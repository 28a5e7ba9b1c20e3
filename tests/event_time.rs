//! Watermarks: late rows, what operators forget, EMIT FINAL.
//!
//! Enters: rows out of order, some of them late. Leaves: nothing. Always holds: what a pipeline shows that forgets is
//! what the batch gives over the rows that were on time, after every epoch; what it keeps does not grow with time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int32Array, RecordBatch, TimestampNanosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampNanosecondType};
use datafusion::datasource::MemTable;
use fuse::config::Settings;
use fuse::planner::Strategy;
use fuse::session::{Outcome, Session};

use crate::epochs::{Fedline, Feed, lines, temporary};
use crate::law::seed;
use crate::support::Place;

const SECOND: i64 = 1_000_000_000;
/// 2024-01-01.
const BASE: i64 = 1_704_067_200 * SECOND;
/// How far the watermarks stay behind.
const DELAY: i64 = 20;

/// Queries that forget; none is computed anew as a whole. Windows of 10 s.
const FORGETTING: [&str; 26] = [
    "SELECT window_start, window_end, k, count(*) AS n, sum(v), min(v), max(v), count(DISTINCT v), median(v) \
     FROM TUMBLE(TABLE a, DESCRIPTOR(ts), INTERVAL '10 seconds') GROUP BY window_start, window_end, k",
    "SELECT window_end, count(*) FROM HOP(TABLE a, DESCRIPTOR(ts), INTERVAL '5 seconds', INTERVAL '15 seconds') \
     GROUP BY window_start, window_end HAVING count(*) > 1",
    "SELECT k, window_start, window_end, count(*), max(v) \
     FROM SESSION(TABLE a PARTITION BY k, DESCRIPTOR(ts), INTERVAL '4 seconds') GROUP BY k, window_start, window_end",
    "SELECT * FROM SESSION(TABLE b PARTITION BY k, DESCRIPTOR(ts), INTERVAL '4 seconds')",
    "SELECT window_end, sum(v) FROM SESSION(TABLE a, DESCRIPTOR(ts), INTERVAL '2 seconds') GROUP BY window_end",
    "SELECT date_bin(INTERVAL '10 seconds', ts) AS w, string_agg(v::VARCHAR, ',' ORDER BY v) FROM a GROUP BY w",
    "SELECT date_trunc('minute', ts) AS m, avg(v) FROM a WHERE v > 1 GROUP BY m",
    "SELECT DISTINCT k, window_start FROM TUMBLE(TABLE a, DESCRIPTOR(ts), INTERVAL '10 seconds')",
    "SELECT a.k, a.v, b.v AS w, a.ts, b.ts AS bts FROM a JOIN b ON a.k = b.k \
     AND b.ts BETWEEN a.ts - INTERVAL '5 seconds' AND a.ts + INTERVAL '3 seconds'",
    "SELECT a.k, a.v, b.v AS w, a.ts FROM a LEFT JOIN b ON a.k = b.k AND a.v <> b.v \
     AND b.ts >= a.ts - INTERVAL '5 seconds' AND b.ts < a.ts + INTERVAL '3 seconds'",
    "SELECT x.k, x.v, y.v AS w, x.window_start FROM TUMBLE(TABLE a, DESCRIPTOR(ts), INTERVAL '10 seconds') x \
     FULL JOIN TUMBLE(TABLE b, DESCRIPTOR(ts), INTERVAL '10 seconds') y \
     ON x.k = y.k AND x.window_start = y.window_start",
    "SELECT x.k, x.v FROM TUMBLE(TABLE a, DESCRIPTOR(ts), INTERVAL '10 seconds') x WHERE EXISTS (SELECT 1 \
     FROM TUMBLE(TABLE b, DESCRIPTOR(ts), INTERVAL '10 seconds') y WHERE x.k = y.k AND x.window_end = y.window_end)",
    "SELECT x.k, x.v FROM TUMBLE(TABLE a, DESCRIPTOR(ts), INTERVAL '10 seconds') x WHERE NOT EXISTS (SELECT 1 \
     FROM TUMBLE(TABLE b, DESCRIPTOR(ts), INTERVAL '10 seconds') y WHERE x.k = y.k AND x.window_end = y.window_end)",
    "SELECT * FROM TUMBLE(TABLE a, DESCRIPTOR(ts), INTERVAL '10 seconds') \
     QUALIFY row_number() OVER (PARTITION BY window_start, k ORDER BY v DESC, ts) <= 2",
    "SELECT k, v, ts, sum(v) OVER (PARTITION BY window_start ORDER BY v, ts, k) AS s \
     FROM TUMBLE(TABLE a, DESCRIPTOR(ts), INTERVAL '10 seconds')",
    "WITH n AS (SELECT k, window_start AS w, count(*) AS n FROM HOP(TABLE a, DESCRIPTOR(ts), INTERVAL '5 seconds', \
     INTERVAL '10 seconds') GROUP BY k, window_start) \
     SELECT n.k, n.w, n.n FROM n JOIN (SELECT w, max(n) AS most FROM n GROUP BY w) m ON n.w = m.w AND n.n = m.most",
    "SELECT w, count(*), sum(v) FROM (SELECT date_bin(INTERVAL '10 seconds', ts) AS w, v FROM a UNION ALL \
     SELECT date_bin(INTERVAL '10 seconds', ts), v FROM b) GROUP BY w",
    "SELECT x.k, x.n, y.n AS m FROM (SELECT k, window_start AS w, count(*) AS n FROM TUMBLE(TABLE a, DESCRIPTOR(ts), \
     INTERVAL '10 seconds') GROUP BY k, window_start) x LEFT JOIN (SELECT k, window_start AS w, count(*) AS n \
     FROM TUMBLE(TABLE b, DESCRIPTOR(ts), INTERVAL '10 seconds') GROUP BY k, window_start) y ON x.k = y.k AND x.w = y.w",
    "SELECT a.k, a.v, a.ts, b.v AS w, b.ts AS bts FROM a ASOF LEFT JOIN (SELECT k, ts, max(v) AS v FROM b GROUP BY k, ts) b \
     ON a.k = b.k AND a.ts >= b.ts",
    "SELECT a.v, a.ts, b.v AS w FROM (SELECT v, ts, count(*) AS n FROM a GROUP BY v, ts) a \
     ASOF JOIN (SELECT ts, sum(v) AS v FROM b GROUP BY ts) b ON a.ts > b.ts",
    "SELECT k, count(*), sum(w) FROM (SELECT a.k, date_bin(INTERVAL '10 seconds', a.ts) AS t, b.v AS w FROM a \
     ASOF JOIN (SELECT k, ts, max(v) AS v FROM b GROUP BY k, ts) b ON a.k = b.k AND a.ts >= b.ts) GROUP BY k, t",
    "SELECT a.k, a.v, a.ts, b.v AS w, b.ts AS bts FROM a ASOF LEFT JOIN (SELECT k, ts, max(v) AS v FROM b GROUP BY k, ts) b \
     ON a.k = b.k AND a.ts <= b.ts",
    "SELECT a.v, a.ts, b.v AS w FROM (SELECT v, ts, count(*) AS n FROM a GROUP BY v, ts) a \
     ASOF JOIN (SELECT ts, sum(v) AS v FROM b GROUP BY ts) b ON a.ts < b.ts",
    "SELECT k, v, ts, lag(v) OVER (PARTITION BY window_start ORDER BY ts, v, k) AS l, count(*) OVER (PARTITION BY \
     window_start ORDER BY ts, v, k) AS n FROM TUMBLE(TABLE a, DESCRIPTOR(ts), INTERVAL '10 seconds')",
    "SELECT k, v, ts, max(v) OVER (PARTITION BY window_start, k ORDER BY ts, v ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING) \
     AS m FROM TUMBLE(TABLE a, DESCRIPTOR(ts), INTERVAL '10 seconds')",
    "SELECT window_start, names.name, count(*) FROM TUMBLE(TABLE a, DESCRIPTOR(ts), INTERVAL '10 seconds') x \
     LEFT JOIN names ON x.k = names.k GROUP BY window_start, names.name",
];

/// Queries whose rows have a time from which they are final, and the condition that says so of the batch's rows.
const FINAL: [(&str, &str); 5] = [
    (
        "SELECT window_start, window_end, k, count(*) AS n, min(v) AS least \
         FROM TUMBLE(TABLE a, DESCRIPTOR(ts), INTERVAL '10 seconds') GROUP BY window_start, window_end, k",
        "window_end <= W",
    ),
    (
        "SELECT window_end, sum(v) AS total \
         FROM HOP(TABLE a, DESCRIPTOR(ts), INTERVAL '5 seconds', INTERVAL '15 seconds') GROUP BY window_start, window_end",
        "window_end <= W",
    ),
    (
        "SELECT k, window_start, window_end, count(*) AS n \
         FROM SESSION(TABLE a PARTITION BY k, DESCRIPTOR(ts), INTERVAL '4 seconds') GROUP BY k, window_start, window_end",
        "window_end < W",
    ),
    (
        "SELECT date_bin(INTERVAL '10 seconds', ts) AS w, k, count(*) AS n FROM a GROUP BY w, k HAVING count(*) > 1",
        "w + INTERVAL '10 seconds' <= W",
    ),
    (
        "SELECT k, v, window_end, row_number() OVER (PARTITION BY window_end, k ORDER BY v DESC, ts) AS place \
         FROM TUMBLE(TABLE a, DESCRIPTOR(ts), INTERVAL '10 seconds') QUALIFY place <= 1",
        "window_end <= W",
    ),
];

fn columns() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Int32, true),
        Field::new("v", DataType::Int32, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Nanosecond, None), true),
    ]))
}

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % limit) as i64
    }
}

/// Rows of the tables, epoch by epoch: time goes on by about 6 s an epoch; most rows are on time, few are late.
fn rows(dice: &mut Dice, epochs: i64) -> Vec<Vec<(String, RecordBatch)>> {
    let batch = |dice: &mut Dice, epoch: i64| {
        let count = dice.below(7);
        let (mut k, mut v, mut ts) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..count {
            k.push((dice.below(9) > 0).then(|| dice.below(3) as i32));
            v.push((dice.below(9) > 0).then(|| dice.below(6) as i32));
            let back = if dice.below(12) == 0 { dice.below(90) } else { dice.below(15) };
            ts.push((dice.below(20) > 0).then(|| BASE + (epoch * 6 - back) * SECOND + dice.below(3) * 250_000_000));
        }
        let values: Vec<ArrayRef> = vec![
            Arc::new(Int32Array::from(k)),
            Arc::new(Int32Array::from(v)),
            Arc::new(TimestampNanosecondArray::from(ts)),
        ];
        RecordBatch::try_new(columns(), values).expect("a batch")
    };
    (0..epochs)
        .map(|epoch| ["a", "b"].map(|table| (table.to_owned(), batch(dice, epoch))).into_iter().collect())
        .collect()
}

/// What of an epoch is on time, and the watermark behind it.
fn on_time(batch: &RecordBatch, watermark: &mut Option<i64>) -> RecordBatch {
    let times = batch.column(2).as_primitive::<TimestampNanosecondType>();
    let before = *watermark;
    let kept: Vec<bool> = times.iter().map(|time| time.is_none_or(|time| before.is_none_or(|w| time >= w))).collect();
    let kept = arrow::compute::filter_record_batch(batch, &kept.into()).expect("filters");
    let times = kept.column(2).as_primitive::<TimestampNanosecondType>();
    *watermark = arrow::compute::max(times).map(|max| max - DELAY * SECOND).into_iter().chain(before).max();
    kept
}

struct Bench {
    runtime: tokio::runtime::Runtime,
    rest: Session,
    moving: Session,
    root: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let session = || {
            let mut settings = Settings::default();
            settings.threads = 2;
            Session::new(settings).expect("a session")
        };
        let runtime = crate::support::runtime();
        let this = Self { runtime, rest: session(), moving: session(), root: temporary() };
        this.runtime.block_on(async {
            for table in ["a", "b"] {
                std::fs::create_dir(this.root.path().join(table)).expect("a folder");
                let sql = format!(
                    "CREATE STREAM {table} (k INT, v INT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '{DELAY} seconds') \
                     STORED AS JSON LOCATION '{}/{table}/'",
                    this.root.path().display()
                );
                this.moving.execute_text(&sql).await.expect("a stream");
            }
            for session in [&this.rest, &this.moving] {
                session.execute_text("CREATE TABLE names AS VALUES (0, 'zero'), (1, 'one')").await.expect("a table");
                let view = "CREATE VIEW named AS SELECT column1 AS k, column2 AS name FROM names";
                session.execute_text(view).await.expect("a view");
            }
        });
        this
    }

    /// Runs a query over the feed; gives what is shown after each epoch.
    fn epochs(&self, sql: &str, feed: &[Vec<(String, RecordBatch)>], stops: &[u64]) -> BTreeMap<u64, Vec<String>> {
        let shown: Arc<Mutex<BTreeMap<u64, Vec<String>>>> = Arc::default();
        let all: Feed = Arc::new(Mutex::new(feed.to_vec()));
        let mut line = Fedline::new(all);
        let seen = Arc::clone(&shown);
        line.watcher = Some(Arc::new(move |_, epoch, now| {
            seen.lock().unwrap().insert(epoch, sorted(&now.batch()?));
            Ok(())
        }));
        let state = tempfile::tempdir_in(self.root.path()).expect("a folder");
        let mut stops = stops.iter().map(|micros| Duration::from_micros(*micros));
        self.runtime.block_on(async {
            loop {
                let outcome = self.moving.execute_text(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
                assert!(matches!(outcome, Outcome::Continuous), "{sql}");
                let limit = stops.next();
                match line.run(&self.moving, &state.path().join("state"), limit).await {
                    // A program that another test has just started holds the lock too until it runs.
                    Err(error) if error.message.contains("another process runs") => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    done => {
                        if done.unwrap_or_else(|e| panic!("{sql}: {e:?}")) && limit.is_none() {
                            break;
                        }
                    }
                }
            }
        });
        let plan = line.plan.lock().unwrap().clone().expect("it ran");
        assert!(plan.forgets(), "nothing is forgotten: {sql}\n{:?}", plan.explain());
        for node in &plan.nodes {
            assert_ne!(node.strategy(&plan).expect("known").0, Strategy::Full, "{sql}");
        }
        shown.lock().unwrap().clone()
    }

    /// The batch's answer over these rows.
    fn batch(&self, sql: &str, rows: &BTreeMap<String, Vec<RecordBatch>>) -> Vec<String> {
        self.runtime.block_on(async {
            for (table, rows) in rows {
                let table_of = MemTable::try_new(columns(), vec![rows.clone()]).expect("a table");
                let _ = self.rest.context().deregister_table(table.as_str()).expect("deregisters");
                self.rest.context().register_table(table.as_str(), Arc::new(table_of)).expect("registers");
            }
            let outcome = self.rest.execute_text(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
            let Outcome::Rows(rows) = outcome else { panic!("{sql}: no rows") };
            let mut all: Vec<String> = rows.collect().await.expect("rows").iter().flat_map(sorted).collect();
            all.sort();
            all
        })
    }
}

fn sorted(batch: &RecordBatch) -> Vec<String> {
    let mut all = lines(batch);
    all.sort();
    all
}

/// How a batch says what a pipeline is to show, if it differs.
type Expected<'a> = &'a dyn Fn(&str, Option<i64>) -> String;

fn hold(seed: u64, queries: &[&str], asked: &dyn Fn(&str) -> String, expected: Expected<'_>) {
    let mut dice = Dice(seed);
    let bench = Bench::new();
    for (at, query) in queries.iter().enumerate() {
        let query = query.replace("JOIN names", "JOIN named AS names");
        let feed = rows(&mut dice, 24);
        let stops: Vec<u64> = if at % 3 == 0 { vec![20_000, 40_000] } else { Vec::new() };
        let shown = bench.epochs(&asked(&query), &feed, &stops);
        let mut watermarks = BTreeMap::from([("a", None), ("b", None)]);
        let mut taken: BTreeMap<String, Vec<RecordBatch>> = BTreeMap::new();
        for (epoch, rows) in (1..).zip(&feed) {
            for (table, rows) in rows {
                let watermark = watermarks.get_mut(table.as_str()).expect("a table");
                taken.entry(table.clone()).or_default().push(on_time(rows, watermark));
            }
            let expected = bench.batch(&expected(&query, watermarks["a"]), &taken);
            let found = shown.range(..=epoch).next_back().map(|(_, found)| found.clone()).unwrap_or_default();
            assert_eq!(found, expected, "FUSE_LAW_SEED={seed}, after epoch {epoch}: {query}");
        }
    }
}

#[test]
fn what_is_forgotten_changes_nothing() {
    hold(seed(), &FORGETTING, &str::to_owned, &|query, _| query.to_owned());
}

#[test]
fn a_match_that_comes_again_shows_no_row_twice() {
    // The side of the matches is behind the other one, which had its match forgotten.
    hold(1_795_766_198_030_057, &FORGETTING, &str::to_owned, &|query, _| query.to_owned());
}

#[test]
fn final_rows_are_shown_when_their_window_is_over() {
    let queries = FINAL.map(|(query, _)| query);
    let closed = |query: &str, watermark: Option<i64>| {
        let (_, condition) = FINAL.iter().find(|(known, _)| *known == query).expect("one of these");
        let nanos =
            watermark.map_or_else(|| "NULL::TIMESTAMP".to_owned(), |nanos| format!("to_timestamp_nanos({nanos})"));
        format!("SELECT * FROM ({query}) WHERE {}", condition.replace('W', &nanos))
    };
    hold(seed(), &queries, &|query| format!("{query} EMIT FINAL"), &closed);
}

fn line(k: i64, second: i64) -> String {
    let time = chrono::DateTime::from_timestamp(BASE / SECOND + second, 0).expect("a time").format("%Y-%m-%dT%H:%M:%S");
    format!("{{\"k\":{k},\"ts\":\"{time}\"}}\n")
}

const STREAM: &str =
    "CREATE STREAM s (k BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '5 seconds') STORED AS JSON";
const COUNT: &str = "SELECT window_start, k, count(*) AS n \
                     FROM TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '10 seconds') GROUP BY window_start, k";

#[test]
fn late_rows_are_counted_and_kept_where_options_say_so() {
    let place = Place::new();
    let sql = format!(
        "{STREAM} LOCATION 'in/' OPTIONS ('late' 'dead_letter', 'dead_letter' 'dead/', 'max_files_per_epoch' '1'); \
         COPY ({COUNT}) TO 'counts.parquet';"
    );
    let run = || place.run(&["query", "--once", "--state", "state", "-c", &sql]);
    place.write("in/1.json", line(1, 0) + &line(1, 21));
    // Behind the watermark, which is at 16; at it; before it by a row of its own epoch.
    place.write("in/2.json", line(2, 15) + &line(2, 16) + &line(2, 40) + &line(2, 17));
    let ran = run();
    assert!(ran.stderr.contains("1 late row left out"), "{}", ran.stderr);
    place.write("in/3.json", line(3, 34) + &line(3, 35));
    run().data();
    let read = |sql: &str| place.sql(sql).data();
    assert_eq!(read("SELECT k, n FROM 'counts.parquet' ORDER BY window_start, k"), "k,n\n1,1\n2,2\n1,1\n3,1\n2,1\n");
    assert_eq!(
        read("SELECT k, ts FROM 'dead/late-*.parquet' ORDER BY k"),
        "k,ts\n2,2024-01-01T00:00:15\n3,2024-01-01T00:00:34\n"
    );
    let inspected = place.run(&["inspect", "state"]).data();
    assert!(inspected.contains("watermark 2024-01-01 00:00:35 UTC, 2 late rows left out"), "{inspected}");
    let json = place.run(&["inspect", "state", "--format", "json"]).data();
    assert!(json.contains("\"late_rows\":{\"s\":2}") && json.contains("2024-01-01T00:00:35.000Z"), "{json}");
    let verified = place.run(&["verify", "--state", "state", "-c", &sql]).data();
    assert!(
        verified.contains("equal: 1 statement") && verified.contains("late were left out, here as well: 2"),
        "{verified}"
    );
    // What was late is known of epochs that are in the log, and of those that a checkpoint has.
    let wrong = place.read("state/pipeline.json").contains("watermark for ts");
    assert!(wrong, "the watermark belongs to what the state is of");
}

#[test]
fn windows_close_when_the_input_has_ended_and_only_then() {
    let place = Place::new();
    let copy = format!("COPY ({COUNT} EMIT FINAL) TO 'out/' STORED AS PARQUET OPTIONS ('mode' 'append');");
    let shown = || place.sql("SELECT count(*) AS windows, sum(n) AS total FROM 'out/*.parquet'").data();
    // A folder may go on, whatever it is asked for.
    place.write("in/1.json", (0..40).map(|second| line(second % 2, second)).collect::<String>());
    let sql = format!("{STREAM} LOCATION 'in/'; {copy}");
    for how in [&["--once"][..], &["--until-idle", "1s"]] {
        place.run(&[&["query", "-q", "--state", "state", "-c", &sql], how].concat()).data();
        assert_eq!(shown(), "windows,total\n6,30\n", "{how:?}");
    }
    assert!(place.run(&["verify", "--state", "state", "-c", &sql]).data().contains("equal: 1 statement"));
    // A pipe ends.
    std::fs::remove_dir_all(place.path().join("out")).expect("removes");
    let sql = format!("{STREAM} LOCATION '-'; {copy}");
    let mut child = place
        .command(&["query", "-q", "--state", "piped", "-c", &sql])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("the program runs");
    let text: String = (0..40).map(|second| line(second % 2, second)).collect();
    std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), text.as_bytes()).expect("writes");
    assert!(child.wait().expect("ends").success());
    assert_eq!(shown(), "windows,total\n8,40\n");
    assert!(place.run(&["inspect", "piped"]).data().contains(", ended"));
    // So does a generator of so many rows.
    std::fs::remove_dir_all(place.path().join("out")).expect("removes");
    let count = "SELECT window_start, count(*) AS n FROM TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '10 seconds') \
                 GROUP BY window_start";
    let sql = format!(
        "CREATE STREAM s (WATERMARK FOR ts AS ts) STORED AS RATE OPTIONS ('rows' '95', 'rows_per_second' '1000'); \
         COPY ({count} EMIT FINAL) TO 'out/' STORED AS PARQUET;"
    );
    place.run(&["query", "-q", "--state", "rate", "-c", &sql]).data();
    assert_eq!(shown(), "windows,total\n1,95\n");
    assert!(place.run(&["verify", "--state", "rate", "-c", &sql]).data().contains("equal: 1 statement"));
}

#[test]
fn a_year_of_windows_keeps_a_day_of_state() {
    const KEYS: i64 = 200;
    let kept = |days: i64| {
        let place = Place::new();
        for day in 0..days {
            let rows: String = (0..KEYS).map(|key| line(day * KEYS + key, day * 86_400 + key)).collect();
            place.write(&format!("in/{day:03}.json"), rows);
        }
        let sql = format!(
            "{STREAM} LOCATION 'in/' OPTIONS ('max_files_per_epoch' '1'); \
             COPY (SELECT window_start, k, count(*) AS n FROM TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '1 day') \
             GROUP BY window_start, k EMIT FINAL) TO 'out/' STORED AS PARQUET;"
        );
        place.run(&["query", "-q", "--once", "--state", "state", "-c", &sql]).data();
        let text = place.run(&["inspect", "state", "--format", "json"]).data();
        let inspected: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let rows: u64 = inspected["keeps"]
            .as_array()
            .expect("operators")
            .iter()
            .map(|one| one["rows"].as_u64().expect("a number"))
            .sum();
        let shown = place.sql("SELECT count(*) AS n FROM 'out/*.parquet'").data();
        assert_eq!(shown, format!("n\n{}\n", (days - 1) * KEYS), "all days but the last are over");
        let verified = place.run(&["verify", "--state", "state", "-c", &sql]).data();
        assert!(verified.contains("equal: 1 statement"), "{verified}");
        let bytes = verified.lines().find(|line| line.starts_with("epochs: ")).expect("the cost").to_owned();
        (rows, bytes)
    };
    let ((month, month_cost), (year, year_cost)) = (kept(30), kept(365));
    // What is saved has rows that are gone in it, until they are most of it.
    assert!(year <= month + 2 * KEYS as u64, "{month} rows after a month, {year} after a year");
    let bytes = |cost: &str| -> f64 {
        let size = cost.split(", ").find_map(|part| part.strip_suffix(" of state")).expect("the size of the state");
        let (number, unit) = size.split_once(' ').expect("a number and a unit");
        number.parse::<f64>().expect("a number")
            * match unit {
                "B" => 1.0,
                "kB" => 1e3,
                "MB" => 1e6,
                other => panic!("{other}"),
            }
    };
    assert!(bytes(&year_cost) <= 1.5 * bytes(&month_cost), "{month_cost}\n{year_cost}");
}

#[test]
fn an_idle_table_does_not_hold_windows_open() {
    let place = Place::new();
    place.write("a/1.json", line(1, 0));
    place.write("b/1.json", (0..60).map(|second| line(2, second)).collect::<String>());
    let stream = |table: &str| {
        format!(
            "{} LOCATION '{table}/' OPTIONS ('idle_timeout' '1 s');",
            STREAM.replace("STREAM s", &format!("STREAM {table}"))
        )
    };
    let sql = format!(
        "{}{} COPY (SELECT window_start, count(*) AS n FROM TUMBLE(TABLE (SELECT * FROM a UNION ALL SELECT * FROM b), \
         DESCRIPTOR(ts), INTERVAL '10 seconds') GROUP BY window_start EMIT FINAL) TO 'out/' STORED AS PARQUET;",
        stream("a"),
        stream("b"),
    );
    place.run(&["query", "-q", "--once", "--state", "state", "-c", &sql]).data();
    let shown = || place.sql("SELECT count(*) AS n, sum(n) AS rows FROM 'out/*.parquet'");
    assert_ne!(shown().code, Some(0), "the watermark of a is before 2024");
    let mut child = place.command(&["query", "-q", "--state", "state", "-c", &sql]).spawn().expect("the program runs");
    // b goes on, and a does not.
    let started = std::time::Instant::now();
    let mut second = 60;
    while shown().stdout != "n,rows\n5,51\n" && started.elapsed() < Duration::from_secs(30) {
        place.write(&format!("b/{second}.json"), line(2, 59));
        second += 1;
        std::thread::sleep(Duration::from_millis(500));
    }
    child.kill().expect("stops");
    child.wait().expect("ends");
    assert_eq!(shown().stdout, "n,rows\n5,51\n");
    // What comes behind the others then is late.
    place.write("a/2.json", line(1, 5) + &line(1, 58));
    let ran = place.run(&["query", "--once", "--state", "state", "-c", &sql]);
    assert!(ran.stderr.contains("1 late row left out"), "{}", ran.stderr);
    assert!(place.run(&["verify", "--state", "state", "-c", &sql]).data().contains("equal: 1 statement"));
}

#[test]
fn explain_says_what_is_forgotten() {
    let place = Place::new();
    let explain = |query: &str| {
        let sql = format!("{STREAM} LOCATION 'in/'; EXPLAIN INCREMENTAL {query}");
        place.sql(&sql).data()
    };
    std::fs::create_dir(place.path().join("in")).expect("a folder");
    let text = explain(&format!("{COUNT} EMIT FINAL"));
    let over = "window_start < date_bin(INTERVAL '10s', watermark of s)";
    assert!(text.contains(&format!("Final rows; closed where {over}")), "{text}");
    assert!(text.contains(&format!("count(*); forgets {over}")), "{text}");
    let text = explain("SELECT k, count(*) FROM s GROUP BY k");
    assert!(!text.contains("forgets"), "{text}");
}

#[test]
fn a_view_of_final_rows_has_what_is_over() {
    let place = Place::new();
    let view = format!("{STREAM} LOCATION 'in/'; CREATE MATERIALIZED VIEW closed AS {COUNT} EMIT FINAL;");
    let sql = format!("{view} COPY (SELECT k, sum(n) AS n FROM closed GROUP BY k) TO 'counts.parquet';");
    std::fs::create_dir(place.path().join("in")).expect("a folder");
    let explained = place.sql(&format!("{view} EXPLAIN INCREMENTAL SELECT * FROM closed")).data();
    assert!(explained.contains("Final rows"), "{explained}");
    let run = || place.run(&["query", "-q", "--once", "--state", "state", "-c", &sql]).data();
    let read = || place.sql("SELECT k, n FROM 'counts.parquet' ORDER BY k").data();
    // The watermark is at 16: the first window is over.
    place.write("in/1.json", line(1, 0) + &line(1, 3) + &line(2, 5) + &line(1, 21));
    run();
    assert_eq!(read(), "k,n\n1,2\n2,1\n");
    place.write("in/2.json", line(2, 22) + &line(1, 40));
    run();
    assert_eq!(read(), "k,n\n1,3\n2,2\n");
    let verified = place.run(&["verify", "--state", "state", "-c", &sql]).data();
    assert!(verified.contains("equal: 1 statement"), "{verified}");
}

#[test]
fn a_join_with_the_next_row_forgets_what_has_met() {
    let place = Place::new();
    std::fs::create_dir(place.path().join("quotes")).expect("a folder");
    let quotes = STREAM.replace("STREAM s", "STREAM quotes").replace("(k BIGINT", "(k BIGINT, price BIGINT");
    let sql = format!(
        "{STREAM} LOCATION 'in/' OPTIONS ('max_files_per_epoch' '1'); \
         {quotes} LOCATION 'quotes/' OPTIONS ('max_files_per_epoch' '1'); \
         COPY (SELECT s.k, s.ts, q.price FROM s ASOF JOIN quotes q ON s.k = q.k AND s.ts <= q.ts) TO 'out.parquet';"
    );
    for hour in 0..100 {
        place.write(&format!("in/{hour:03}.json"), (0..5).map(|k| line(k, hour * 3600 + k)).collect::<String>());
        let priced = |k: i64| line(k, hour * 3600 + 60).replace("}", &format!(",\"price\":{hour}}}"));
        place.write(&format!("quotes/{hour:03}.json"), (0..5).map(priced).collect::<String>());
    }
    place.run(&["query", "-q", "--once", "--state", "state", "-c", &sql]).data();
    assert_eq!(place.sql("SELECT count(*) AS n, sum(price) AS p FROM 'out.parquet'").data(), "n,p\n500,24750\n");
    let text = place.run(&["inspect", "state", "--format", "json"]).data();
    let inspected: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let operators = inspected["operators"].as_array().expect("operators").iter();
    let joins = operators.filter(|one| one["operator"].as_str().expect("a text").contains("AsOf"));
    let kept: Vec<u64> = joins.map(|one| one["state_rows"].as_u64().expect("a number")).collect();
    assert!(kept.len() == 1 && kept[0] <= 40, "{kept:?} rows of 1,000 are kept\n{text}");
    let verified = place.run(&["verify", "--state", "state", "-c", &sql]).data();
    assert!(verified.contains("equal: 1 statement"), "{verified}");
}

#[test]
fn what_a_watermark_cannot_do_is_said() {
    let place = Place::new();
    std::fs::create_dir(place.path().join("in")).expect("a folder");
    let said = |sql: &str, code: i32| place.sql(sql).error(code);
    let stream =
        |columns: &str, more: &str| format!("CREATE STREAM s ({columns}) STORED AS JSON LOCATION 'in/' {more}");
    for (sql, message) in [
        (stream("k INT, WATERMARK FOR k AS k", ""), "WATERMARK FOR k, which is INT, and no time"),
        (stream("ts TIMESTAMP, WATERMARK FOR t AS ts", ""), "WATERMARK FOR t, which is no column"),
        (stream("ts TIMESTAMP, WATERMARK FOR ts AS 5", ""), "the watermark 5 is no time"),
        (stream("ts TIMESTAMP, k INT, WATERMARK FOR ts AS k", ""), "an expression of its column ts alone"),
        (stream("ts TIMESTAMP, WATERMARK FOR ts AS", ""), "a table has one WATERMARK"),
        (stream("ts TIMESTAMP", "OPTIONS ('late' 'drop')"), "the option late is of no use without a watermark"),
        (stream("ts TIMESTAMP, WATERMARK FOR ts AS ts", "OPTIONS ('late' 'keep')"), "late is 'drop' or 'dead_letter'"),
        (stream("ts TIMESTAMP, WATERMARK FOR ts AS ts", "OPTIONS ('late' 'dead_letter')"), "wants a folder"),
        (stream("ts TIMESTAMP, WATERMARK FOR ts AS ts", "OPTIONS ('idle_timeout' 'soon')"), "such as '30 s'"),
        (
            stream("ts TIMESTAMP, k INT PRIMARY KEY, WATERMARK FOR ts AS ts", ""),
            "a table whose rows change and go has no watermark",
        ),
        (
            stream("ts TIMESTAMP, k INT, WATERMARK FOR ts AS ts", "OPTIONS ('op_column' 'op')"),
            "a table whose rows change and go has no watermark",
        ),
        (
            format!("{STREAM} LOCATION 'in/'; SELECT k, count(*) FROM s GROUP BY k EMIT FINAL"),
            "EMIT FINAL wants windows",
        ),
        (format!("{STREAM} LOCATION 'in/'; SELECT k FROM s EMIT FINAL"), "EMIT FINAL wants windows"),
        (format!("{STREAM} LOCATION 'in/'; SELECT * FROM ({COUNT} EMIT FINAL)"), "EMIT stands at the end"),
    ] {
        let error = said(&sql, 2);
        assert!(error.contains(message), "{sql}\n{error}");
    }
    // Over tables at rest all rows are final.
    let rows = place.sql("SELECT 1 AS one EMIT FINAL").data();
    assert_eq!(rows, "one\n1\n");
}
