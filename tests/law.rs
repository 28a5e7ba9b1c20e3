//! The law of fusion over random queries: what is shown after every epoch is what the batch gives over the epochs so far.
//!
//! Enters: random tables, rows, queries and stops. Leaves: nothing. Always holds: a failing case is shrunk, and printed
//! with its SQL and its seed. FUSE_LAW_CASES sets how many cases, FUSE_LAW_SEED the seed.

mod grammar;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    StringViewArray,
};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::datasource::MemTable;
use fuse::config::Settings;
use fuse::error::Error;
use fuse::session::{Outcome, Session};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tokio::runtime::Runtime;

use self::grammar::{Choices, Kind, Table, query, tables};
use crate::epochs::{Fedline, declare, lines, temporary};

/// Most rows of an epoch.
const EPOCH_ROWS: usize = 5;
/// A batch that takes longer is no case.
const PATIENCE: Duration = Duration::from_secs(20);

/// What decides a case.
#[derive(Clone)]
struct Case {
    tables: Vec<u32>,
    query: Vec<u32>,
    epochs: Vec<Vec<u32>>,
    /// The pipeline is stopped after so many microseconds, and goes on in another run.
    stops: Vec<u64>,
}

impl Case {
    fn tables(&self) -> (Vec<Table>, bool) {
        let mut choices = Choices::new(&self.tables);
        (tables(&mut choices), choices.chance(50))
    }

    fn sql(&self) -> String {
        query(&self.tables().0, &mut Choices::new(&self.query))
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.sql())?;
        for table in self.tables().0 {
            let columns: Vec<String> =
                table.columns.iter().map(|(name, kind)| format!("{name} {}", kind.sql())).collect();
            writeln!(f, "  {} ({})", table.name, columns.join(", "))?;
        }
        for (epoch, rows) in feed(self).iter().enumerate() {
            for (table, batch) in rows {
                writeln!(f, "  epoch {}: {table} {}", epoch + 1, lines(batch).join("; "))?;
            }
        }
        write!(f, "  stops {:?}", self.stops)
    }
}

fn schema(table: &Table, views: bool) -> SchemaRef {
    let columns = table.columns.iter().map(|(name, kind)| {
        let array = array(*kind, &[], views);
        Field::new(name, array.data_type().clone(), true)
    });
    Arc::new(Schema::new(columns.collect::<Vec<_>>()))
}

/// Values of a kind, each by its number.
fn array(kind: Kind, picks: &[usize], views: bool) -> ArrayRef {
    fn of<T: Copy>(values: &[Option<T>], picks: &[usize]) -> Vec<Option<T>> {
        picks.iter().map(|pick| values[pick % values.len()]).collect()
    }
    match kind {
        Kind::Int => {
            Arc::new(Int64Array::from(of(&[Some(0), Some(1), Some(2), Some(3), Some(-1), None, Some(1)], picks)))
        }
        Kind::Text => {
            let texts = [Some("a"), Some("b"), Some(""), Some("ab"), Some("a\0"), Some("\0b"), None];
            let texts = of(&texts, picks);
            if views { Arc::new(StringViewArray::from(texts)) } else { Arc::new(StringArray::from(texts)) }
        }
        Kind::Float => {
            let floats =
                [Some(0.0), Some(1.5), Some(-2.25), Some(4.0), Some(f64::NAN), None, Some(f64::INFINITY), Some(-0.0)];
            Arc::new(Float64Array::from(of(&floats, picks)))
        }
        Kind::Decimal => {
            let decimals = Decimal128Array::from(of(&[Some(0), Some(110), Some(-250), Some(9999), None], picks));
            Arc::new(decimals.with_precision_and_scale(12, 2).expect("it fits"))
        }
        Kind::Date => Arc::new(Date32Array::from(of(&[Some(19723), Some(19782), Some(-1), None], picks))),
        Kind::Bool => Arc::new(BooleanArray::from(of(&[Some(true), Some(false), None], picks))),
    }
}

/// What each epoch brings, and for the table at rest, what it holds: that is the first entry.
fn feed(case: &Case) -> Vec<Vec<(String, RecordBatch)>> {
    let (tables, views) = case.tables();
    let mut epochs = Vec::new();
    for (epoch, choices) in case.epochs.iter().enumerate() {
        let mut choices = Choices::new(choices);
        let mut rows: BTreeMap<usize, Vec<Vec<usize>>> = BTreeMap::new();
        for _ in 0..choices.pick(EPOCH_ROWS * 2 + 1) {
            let at = choices.pick(tables.len());
            let row = tables[at].columns.iter().map(|_| choices.pick(8)).collect();
            rows.entry(at).or_default().push(row);
        }
        let batch = |at: &usize, rows: &Vec<Vec<usize>>| {
            let table = &tables[*at];
            let column = |column: usize| {
                let picks: Vec<usize> = rows.iter().map(|row| row[column]).collect();
                if table.name == "gone" && column == 1 {
                    let signs = picks.iter().map(|pick| if pick % 2 == 0 { 1 } else { -1 });
                    return Arc::new(Int64Array::from_iter_values(signs)) as ArrayRef;
                }
                array(table.columns[column].1, &picks, views)
            };
            let columns = (0..table.columns.len()).map(column).collect();
            (table.name.to_owned(), RecordBatch::try_new(schema(table, views), columns).expect("a batch"))
        };
        let of_epoch = rows.iter().filter(|(at, _)| tables[**at].grows || epoch == 0);
        epochs.push(of_epoch.map(|(at, rows)| batch(at, rows)).collect());
    }
    epochs
}

/// The sessions of many cases: a new one for each would cost more than the case.
struct Bench {
    runtime: Runtime,
    rest: Session,
    moving: Session,
}

impl Bench {
    fn new() -> Self {
        let session = |threads: usize| {
            let mut settings = Settings::default();
            settings.threads = threads;
            Session::new(settings).expect("a session")
        };
        let runtime = crate::support::runtime();
        Self { runtime, rest: session(1), moving: session(2) }
    }

    fn hold(&self, case: &Case) -> Result<(), TestCaseError> {
        self.runtime.block_on(async {
            match tokio::time::timeout(PATIENCE, self.try_hold(case)).await {
                Ok(held) => held,
                Err(_) => Err(TestCaseError::fail(format!("took more than {PATIENCE:?}\n{case:?}"))),
            }
        })
    }

    async fn try_hold(&self, case: &Case) -> Result<(), TestCaseError> {
        let (tables, views) = case.tables();
        let (sql, feed, root) = (case.sql(), feed(case), temporary());
        let mut memory = BTreeMap::new();
        for table in &tables {
            let schema = schema(table, views);
            for session in [&self.rest, &self.moving] {
                let _ = session.context().deregister_table(table.name).expect("deregisters");
            }
            let rows = feed[0].iter().filter(|(of, _)| !table.grows && of == table.name);
            let rows = rows.map(|(_, rows)| rows.clone()).collect();
            let here = Arc::new(MemTable::try_new(Arc::clone(&schema), vec![rows]).expect("a table"));
            self.rest.context().register_table(table.name, Arc::clone(&here) as _).expect("registers");
            if table.grows {
                let folder = root.path().join(table.name);
                declare(&self.moving, table.name, &schema, &folder).await.expect("a growing table");
            } else {
                self.moving.context().register_table(table.name, Arc::clone(&here) as _).expect("registers");
            }
            memory.insert(table.name.to_owned(), here);
        }
        let found = self.epochs(case, &sql, &feed, root.path()).await;
        let mut failure = found.as_ref().err().map(|error| format!("{error:?}"));
        for (at, rows) in feed.iter().enumerate() {
            for (table, rows) in rows.iter().filter(|(table, _)| table != "d") {
                memory[table].batches[0].write().await.push(rows.clone());
            }
            let expected = match batch(&self.rest, &sql).await {
                Ok(expected) => expected,
                // What the batch cannot say, epochs need not.
                Err(_) => return Ok(()),
            };
            if let Ok(Some(found)) = found.as_ref().map(|found| found.as_ref().map(|found| found.get(at))) {
                let found = found.cloned().unwrap_or_default();
                if found != expected {
                    failure = Some(differing(at, &expected, &found));
                    break;
                }
            }
        }
        failure.map_or(Ok(()), |failure| Err(TestCaseError::fail(format!("{failure}\n{case:?}"))))
    }

    /// What is shown after each epoch; nothing for a query over tables at rest alone.
    async fn epochs(
        &self,
        case: &Case,
        sql: &str,
        feed: &[Vec<(String, RecordBatch)>],
        root: &std::path::Path,
    ) -> Result<Option<Vec<Vec<String>>>, Error> {
        if !matches!(self.moving.execute_text(sql).await?, Outcome::Continuous) {
            return Ok(None);
        }
        let shown = Arc::new(Mutex::new(Vec::new()));
        let mut line = Fedline::new(Arc::new(Mutex::new(feed.to_vec())));
        let all = Arc::clone(&shown);
        line.watcher = Some(Arc::new(move |_, _, now| {
            all.lock().unwrap().push(sorted(now.batch()?));
            Ok(())
        }));
        let mut stops = case.stops.iter().map(|micros| Duration::from_micros(*micros));
        let mut limit = stops.next();
        loop {
            match line.run(&self.moving, &root.join("state"), limit).await {
                Ok(true) if limit.is_none() => break,
                Ok(_) => limit = stops.next(),
                // A program that another test has just started holds the lock too until it runs.
                Err(error) if error.message.contains("another process runs") => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => return Err(error),
            }
            self.moving.execute_text(sql).await?;
        }
        let mut shown = shown.lock().unwrap().clone();
        let reads = line.plan.lock().unwrap().as_ref().is_some_and(|plan| !plan.sources.is_empty());
        if let Some(only) = shown.last().cloned().filter(|_| !reads) {
            // The optimizer has found that the answer is always the same.
            shown.resize(feed.len(), only);
        }
        Ok(Some(shown))
    }
}

fn differing(at: usize, expected: &[String], found: &[String]) -> String {
    let only = |these: &[String], others: &[String]| {
        let mut others = others.to_vec();
        let mut only = Vec::new();
        for line in these {
            match others.iter().position(|other| other == line) {
                Some(place) => drop(others.swap_remove(place)),
                None => only.push(line.clone()),
            }
        }
        only.join("\n    ")
    };
    format!(
        "after epoch {}\n  missing:\n    {}\n  too much:\n    {}",
        at + 1,
        only(expected, found),
        only(found, expected)
    )
}

/// Rows as text, sorted. Which zero stands for a group of both is settled by the order of rows.
fn sorted(batch: RecordBatch) -> Vec<String> {
    let mut all: Vec<String> =
        lines(&batch).into_iter().map(|line| line.replace("-0.000000000", "0.000000000")).collect();
    all.sort();
    all
}

async fn batch(session: &Session, sql: &str) -> Result<Vec<String>, Error> {
    let Outcome::Rows(rows) = session.execute_text(sql).await? else { panic!("{sql}: no rows") };
    let mut all: Vec<String> = rows.collect().await?.into_iter().flat_map(sorted).collect();
    all.sort();
    Ok(all)
}

fn case() -> impl Strategy<Value = Case> {
    let choices = |count| prop::collection::vec(0_u32..10_000, 0..count);
    let stops = prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(0_u64..20_000, 1..3)];
    (choices(24), choices(90), prop::collection::vec(choices(60), 1..5), stops)
        .prop_map(|(tables, query, epochs, stops)| Case { tables, query, epochs, stops })
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// How many cases of this test there are, of all.
pub(crate) fn cases() -> u32 {
    number("FUSE_LAW_CASES").and_then(|cases| u32::try_from(cases).ok()).unwrap_or(2000)
}

/// The given seed, or one of its own for each run.
pub(crate) fn seed() -> u64 {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
    number("FUSE_LAW_SEED").unwrap_or_else(now)
}

/// Set in a process whose pipelines put all of their state on disk behind each epoch.
const SPILLS: &str = "FUSE_LAW_SPILLS";

fn law(part: u64, of: u32) {
    let config = Config {
        cases: cases() / of,
        failure_persistence: None,
        max_shrink_iters: 300,
        max_global_rejects: u32::MAX,
        ..Config::default()
    };
    let seed = seed().wrapping_add(part);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let bench = Bench::new();
    let result = runner.run(&case(), |case| bench.hold(&case));
    if let Err(error) = result {
        panic!("FUSE_LAW_SEED={} (part {part}): {error}", seed.wrapping_sub(part));
    }
}

#[test]
fn random_queries_in_epochs_give_the_batch_one() {
    law(0, 2);
}

#[test]
fn random_queries_in_epochs_give_the_batch_two() {
    law(1, 2);
}

/// The same where all state that can go to disk is there at the end of each epoch.
#[test]
#[cfg(feature = "failpoints")]
fn random_queries_with_their_state_on_disk_give_the_batch() {
    if std::env::var_os(SPILLS).is_some() {
        fail::cfg("force.spill", "return").expect("a failpoint");
        return law(2, 4);
    }
    let output = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["law::random_queries_with_their_state_on_disk_give_the_batch", "--exact", "--nocapture"])
        .env(SPILLS, "1")
        .output()
        .expect("runs");
    let told = || String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}", told());
}

/// Not even a query that cannot be planned as it stands may be wrong: most must run, or nothing is tested.
#[test]
fn most_random_queries_run() {
    let bench = Bench::new();
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut failures = Vec::new();
    for _ in 0..100 {
        let numbers: Vec<u32> = (0..90).map(|_| random.next_u32() % 10_000).collect();
        let case = Case { tables: numbers[..24].to_vec(), query: numbers, epochs: vec![Vec::new()], stops: Vec::new() };
        let (tables, views) = case.tables();
        for table in &tables {
            let _ = bench.rest.context().deregister_table(table.name).expect("deregisters");
            let memory = MemTable::try_new(schema(table, views), vec![vec![]]).expect("a table");
            bench.rest.context().register_table(table.name, Arc::new(memory)).expect("registers");
        }
        if let Err(error) = bench.runtime.block_on(batch(&bench.rest, &case.sql())) {
            failures.push(format!("{}: {}", error.message, case.sql()));
        }
    }
    assert!(failures.len() <= 10, "{}: {}", failures.len(), failures.join("\n"));
}
