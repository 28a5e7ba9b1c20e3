//! The queries of `sql/nexmark` in epochs.
//!
//! Enters: the events of the generator, in order and out of order, in epochs of random length. Leaves: nothing. Always
//! holds: after every epoch a query shows what the batch gives over the events so far, and none is computed anew as a
//! whole.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::compute::{cast, concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Int64Type, SchemaRef, TimestampMillisecondType};
use datafusion::datasource::MemTable;
use fuse::config::Settings;
use fuse::planner::Strategy;
use fuse::session::{Outcome, Session};

use crate::epochs::{Fedline, lines, temporary};
use crate::law::seed;
use crate::support::Place;

/// The watermarks of the files stay so far behind, in milliseconds.
const DELAY_MILLIS: u64 = 4_000;

const TABLES: [&str; 3] = ["person", "auction", "bid"];

fn file(query: usize) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("sql/nexmark/q{query}.sql"))
}

/// What a file sets up, and its query; that of a COPY is the one in it.
fn statements(query: usize) -> (Vec<String>, String) {
    let text = std::fs::read_to_string(file(query)).expect("a query");
    let mut all: Vec<String> = text.split(';').map(|one| one.trim().to_owned()).filter(|one| !one.is_empty()).collect();
    let last = all.pop().expect("a query");
    let last = match last.strip_prefix("COPY (") {
        Some(copy) => copy.rsplit_once(") TO").expect("COPY (…) TO").0.to_owned(),
        None => last,
    };
    (all, last)
}

/// The events of the generator, a thousand times slower, so that there are minutes of them.
struct Events {
    tables: BTreeMap<&'static str, RecordBatch>,
}

impl Events {
    fn new() -> Self {
        let place = Place::new();
        let slow = |column: &str| {
            format!("to_timestamp_millis(1436918400000 + ({column}::BIGINT - 1436918400000) * 1000) AS {column}")
        };
        let mut tables = BTreeMap::new();
        for table in TABLES {
            let expires = if table == "auction" { format!(", {}", slow("expires")) } else { String::new() };
            let sql = format!(
                "CREATE STREAM {table} STORED AS NEXMARK OPTIONS ('rows' '1500'); \
                 COPY (SELECT * REPLACE ({}{expires}) FROM {table}) TO '{table}.parquet';",
                slow("date_time"),
            );
            place.run(&["query", "-q", "--once", "--state", &format!("state-{table}"), "-c", &sql]).data();
            let file = std::fs::File::open(place.path().join(format!("{table}.parquet"))).expect("a file");
            let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet");
            let batches: Vec<RecordBatch> =
                reader.build().expect("reads").map(|batch| batch.expect("a batch")).collect();
            let schema = batches.first().expect("rows").schema();
            tables.insert(table, concat_batches(&schema, &batches).expect("one batch"));
        }
        Self { tables }
    }

    /// The events in epochs. Out of order, an event comes up to the delay of the watermarks later than its time says.
    fn epochs(
        &self,
        schemas: &BTreeMap<String, SchemaRef>,
        dice: &mut Dice,
        ordered: bool,
    ) -> Vec<Vec<(String, RecordBatch)>> {
        let mut events: Vec<(i64, &str, u64)> = Vec::new();
        for (table, rows) in &self.tables {
            let times = cast(rows.column_by_name("date_time").expect("a time"), &DataType::Int64).expect("a number");
            for (row, time) in times.as_primitive::<Int64Type>().values().iter().enumerate() {
                let late = if ordered { 0 } else { dice.below(DELAY_MILLIS) as i64 };
                events.push((time / per_milli(rows) + late, table, row as u64));
            }
        }
        events.sort();
        let mut epochs = Vec::new();
        let mut from = 0;
        while from < events.len() {
            let to = (from + 1 + dice.below(400) as usize).min(events.len());
            let mut epoch = Vec::new();
            for (table, schema) in schemas {
                let rows = events[from..to].iter().filter(|(_, of, _)| of == table).map(|(.., row)| *row);
                let rows = UInt64Array::from_iter_values(rows);
                let rows = take_record_batch(&self.tables[table.as_str()], &rows).expect("rows");
                let columns: Vec<ArrayRef> = schema
                    .fields()
                    .iter()
                    .map(|field| {
                        cast(rows.column_by_name(field.name()).expect("a column"), field.data_type()).expect("casts")
                    })
                    .collect();
                epoch.push((table.clone(), RecordBatch::try_new(Arc::clone(schema), columns).expect("a batch")));
            }
            epochs.push(epoch);
            from = to;
        }
        epochs
    }
}

/// How many units of its time are in a millisecond.
fn per_milli(rows: &RecordBatch) -> i64 {
    match rows.column_by_name("date_time").expect("a time").data_type() {
        DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, _) => 1,
        DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, _) => 1_000,
        DataType::Timestamp(arrow::datatypes::TimeUnit::Nanosecond, _) => 1_000_000,
        other => panic!("{other}"),
    }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn sorted(batch: &RecordBatch) -> Vec<String> {
    let mut all = lines(batch);
    all.sort();
    all
}

fn session() -> Session {
    let mut settings = Settings::default();
    settings.threads = 2;
    Session::new(settings).expect("a session")
}

async fn rows(session: &Session, sql: &str) -> Vec<String> {
    let outcome = session.execute_text(sql).await.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
    let Outcome::Rows(rows) = outcome else { panic!("{sql}: no rows") };
    let mut all: Vec<String> = rows.collect().await.expect("rows").iter().flat_map(sorted).collect();
    all.sort();
    all
}

/// What a query shows after each epoch, and the operators that forget.
async fn shown(query: usize, epochs: &[Vec<(String, RecordBatch)>]) -> (Vec<Vec<String>>, usize) {
    let (before, sql) = statements(query);
    let moving = session();
    for one in &before {
        moving.execute_text(one).await.unwrap_or_else(|e| panic!("q{query}: {e:?}"));
    }
    assert!(matches!(moving.execute_text(&sql).await.expect("plans"), Outcome::Continuous), "q{query}");
    let shown = Arc::new(Mutex::new(Vec::new()));
    let mut line = Fedline::new(Arc::new(Mutex::new(epochs.to_vec())));
    let all = Arc::clone(&shown);
    line.watcher = Some(Arc::new(move |_, _, now| {
        all.lock().unwrap().push(sorted(&now.batch()?));
        Ok(())
    }));
    let state = temporary();
    line.run(&moving, &state.path().join("state"), None).await.unwrap_or_else(|e| panic!("q{query}: {e:?}"));
    let plan = line.plan.lock().unwrap().clone().expect("it ran");
    for node in &plan.nodes {
        assert_ne!(node.strategy(&plan).expect("known").0, Strategy::Full, "q{query}");
    }
    let forgetting = plan.nodes.iter().filter(|node| !node.evict.is_empty()).count();
    let shown = shown.lock().unwrap().clone();
    (shown, forgetting)
}

async fn hold(query: usize, events: &Events, dice: &mut Dice, ordered: bool) {
    let (before, sql) = statements(query);
    let rest = session();
    let mut schemas = BTreeMap::new();
    for one in &before {
        let table = TABLES.iter().find(|table| one.contains(&format!("CREATE STREAM {table} ")));
        rest.execute_text(one).await.unwrap_or_else(|e| panic!("q{query}: {e:?}"));
        if let Some(table) = table {
            let schema = rest.context().table_provider(*table).await.expect("a table").schema();
            schemas.insert((*table).to_owned(), schema);
            rest.context().deregister_table(*table).expect("deregisters");
        }
    }
    let epochs = events.epochs(&schemas, dice, ordered);
    let (shown, forgetting) = shown(query, &epochs).await;
    assert_eq!(shown.len(), epochs.len(), "q{query}");
    let forgets = [4, 5, 6, 7, 8, 9, 11, 15, 16, 17].contains(&query);
    assert_eq!(forgetting > 0, forgets, "q{query}: {forgetting} operators forget");
    let mut taken: BTreeMap<String, Vec<RecordBatch>> = BTreeMap::new();
    for (at, epoch) in epochs.iter().enumerate() {
        for (table, rows) in epoch {
            let all = taken.entry(table.clone()).or_default();
            all.push(rows.clone());
            let table_of = MemTable::try_new(Arc::clone(&schemas[table]), vec![all.clone()]).expect("a table");
            let _ = rest.context().deregister_table(table.as_str()).expect("deregisters");
            rest.context().register_table(table.as_str(), Arc::new(table_of)).expect("registers");
        }
        let expected = if query == 12 {
            // The time is that of the epoch, and none of the batch's.
            rows(&rest, "SELECT count(*) FROM bid").await
        } else {
            rows(&rest, &sql).await
        };
        let found = if query == 12 {
            let bids = shown[at]
                .iter()
                .map(|line| line.split(" | ").nth(1).expect("a count").parse::<u64>().expect("a number"));
            vec![bids.sum::<u64>().to_string()]
        } else {
            shown[at].clone()
        };
        assert_eq!(found, expected, "q{query}, in order: {ordered}, after epoch {}", at + 1);
    }
}

#[test]
fn the_queries_give_the_batch_answer_in_epochs() {
    let seed = seed();
    println!("FUSE_LAW_SEED={seed}");
    let events = Events::new();
    let runtime = crate::support::runtime();
    let mut dice = Dice(seed);
    runtime.block_on(async {
        for query in 0..=22 {
            for ordered in [true, false] {
                hold(query, &events, &mut dice, ordered).await;
            }
        }
    });
}

#[test]
fn the_events_span_several_windows() {
    let events = Events::new();
    let bids = &events.tables["bid"];
    let times = cast(
        bids.column_by_name("date_time").expect("a time"),
        &DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, None),
    );
    let times = times.expect("casts");
    let times = times.as_primitive::<TimestampMillisecondType>();
    let span = arrow::compute::max(times).expect("bids") - arrow::compute::min(times).expect("bids");
    assert!(span > 60_000, "{span} ms");
}

#[test]
fn the_files_plan_and_the_partitioned_one_writes() {
    let place = Place::new();
    for query in 0..=22 {
        let path = file(query).display().to_string();
        place.run(&["check", &path]).data();
    }
    let text = std::fs::read_to_string(file(10)).expect("a query").replace("'100000'", "'1000'");
    place.run(&["query", "-q", "--once", "--state", "state", "-c", &text]).data();
    let read = "SELECT count(*) AS n, count(DISTINCT dt) AS days FROM read_parquet('nexmark-q10/**/*.parquet')";
    let found = place.sql(read).data();
    assert_eq!(found, "n,days\n920,1\n");
}
