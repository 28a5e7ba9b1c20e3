//! The 22 TPC-H queries in epochs: orders, lineitem and partsupp grow, some of their rows go and come back, and after
//! every epoch each query gives what the batch gives.
//!
//! Enters: the tables at scale factor 0.01, a seed. Leaves: nothing. Always holds: rows go by an anti join against keys
//! that are dropped, so every query retracts and inserts again; no operator of any query recomputes everything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::datasource::MemTable;
use fuse::config::Settings;
use fuse::planner::{IncrementalPlan, Strategy};
use fuse::session::{Outcome, Session};

use crate::epochs::{Fedline, Feed, declare, lines, temporary};
use crate::tpch::data;

const SCALE: f64 = 0.01;
const GROWING: [&str; 3] = ["orders", "lineitem", "partsupp"];
/// In each, new rows come; in the later ones keys are dropped, and come back.
const EPOCHS: u64 = 7;

/// What the queries read: rows whose key is dropped are not there.
const VIEWS: &str = "
    CREATE VIEW gone AS SELECT t, k FROM dropped GROUP BY t, k HAVING sum(d) > 0;
    CREATE VIEW orders AS SELECT * FROM orders_in WHERE NOT EXISTS
        (SELECT 1 FROM gone WHERE t = 'order' AND k = o_orderkey);
    CREATE VIEW lineitem AS SELECT * FROM lineitem_in WHERE NOT EXISTS
        (SELECT 1 FROM gone WHERE t = 'order' AND k = l_orderkey);
    CREATE VIEW partsupp AS SELECT * FROM partsupp_in WHERE NOT EXISTS
        (SELECT 1 FROM gone WHERE t = 'part' AND k = ps_partkey);";

type Tables = BTreeMap<String, RecordBatch>;

fn dropped_schema() -> SchemaRef {
    let field = |name: &str, kind| Field::new(name, kind, false);
    Arc::new(Schema::new(vec![field("t", DataType::Utf8), field("k", DataType::Int64), field("d", DataType::Int64)]))
}

/// A number that depends on two others and the seed alone.
fn mixed(seed: u64, a: i64, b: i64) -> u64 {
    let mut x = seed ^ (a as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (b as u64).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
    x = (x ^ (x >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^ (x >> 29)
}

async fn tables(folder: &Path) -> Tables {
    let session = Session::new(Settings::default()).expect("a session");
    let mut tables = Tables::new();
    for (table, columns) in data::TABLES {
        let tbl = folder.join(format!("{table}.tbl"));
        data::write_tbl(table, SCALE, &tbl).expect("writes");
        let location = data::literal(&tbl);
        let create = format!(
            "CREATE EXTERNAL TABLE {table} ({columns}) STORED AS CSV LOCATION {location} \
             OPTIONS ('format.delimiter' '|', 'format.has_header' 'false'); SELECT * FROM {table};"
        );
        let Outcome::Rows(rows) = session.execute_text(&create).await.expect(table) else { panic!("{table}") };
        let schema = rows.schema();
        let rows = concat_batches(&schema, &rows.collect().await.expect(table)).expect(table);
        tables.insert(table.to_owned(), rows);
    }
    tables
}

/// The rows of a table by the epoch in which they come.
fn cut(rows: &RecordBatch, seed: u64) -> Vec<RecordBatch> {
    let keys = rows.column(0).as_primitive::<Int64Type>();
    let epoch = |row: u64| mixed(seed, keys.value(row as usize), row as i64) % EPOCHS;
    let of = |one: u64| {
        let places = UInt64Array::from_iter_values((0..rows.num_rows() as u64).filter(|row| epoch(*row) == one));
        take_record_batch(rows, &places).expect("takes")
    };
    (0..EPOCHS).map(of).collect()
}

/// Which keys go and come back in an epoch.
fn drops(tables: &Tables, seed: u64, epoch: u64) -> RecordBatch {
    let (mut t, mut k, mut d) = (Vec::new(), Vec::new(), Vec::new());
    for (kind, table) in [("order", "orders"), ("part", "partsupp")] {
        let keys: BTreeSet<i64> =
            tables[table].column(0).as_primitive::<Int64Type>().values().iter().copied().collect();
        for key in keys {
            // A third of the keys goes at some epoch, and most of it comes back at a later one.
            let (goes, back) = (2 + mixed(seed, key, 7) % 9, 2 + mixed(seed, key, 8) % 9);
            for (at, weight) in [(goes, 1), (goes.max(back) + 1, -1)] {
                if goes < EPOCHS - 1 && mixed(seed, key, 9).is_multiple_of(2) && at == epoch {
                    t.push(kind);
                    k.push(key);
                    d.push(weight);
                }
            }
        }
    }
    let columns: Vec<ArrayRef> =
        vec![Arc::new(StringArray::from(t)), Arc::new(Int64Array::from(k)), Arc::new(Int64Array::from(d))];
    RecordBatch::try_new(dropped_schema(), columns).expect("a batch")
}

fn feed(tables: &Tables, seed: u64) -> Vec<Vec<(String, RecordBatch)>> {
    let cuts: Vec<Vec<RecordBatch>> = GROWING.iter().map(|table| cut(&tables[*table], seed)).collect();
    let epoch = |at: u64| {
        let rows = GROWING.iter().zip(&cuts).map(|(table, cut)| (format!("{table}_in"), cut[at as usize].clone()));
        rows.chain([("dropped".to_owned(), drops(tables, seed, at))]).collect()
    };
    (0..EPOCHS).map(epoch).collect()
}

/// A session with the tables at rest, and the growing ones made by `grow`.
fn at_rest(session: &Session, tables: &Tables) {
    for (table, rows) in tables.iter().filter(|(table, _)| !GROWING.contains(&table.as_str())) {
        register(session, table, std::slice::from_ref(rows));
    }
}

fn register(session: &Session, table: &str, rows: &[RecordBatch]) {
    let memory = MemTable::try_new(rows[0].schema(), vec![rows.to_vec()]).expect("a table");
    session.context().register_table(table, Arc::new(memory)).expect("registers");
}

fn queries() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/tpch");
    let query = |number| {
        let name = format!("q{number:02}");
        let sql = fs::read_to_string(folder.join(format!("{name}.sql"))).expect("a query");
        (name, sql)
    };
    (1..=22).map(query).collect()
}

/// The answers of all queries as a batch over the first epochs.
async fn batch(tables: &Tables, feed: &[Vec<(String, RecordBatch)>]) -> Vec<Vec<String>> {
    let session = Session::new(Settings::default()).expect("a session");
    at_rest(&session, tables);
    for table in GROWING.iter().map(|table| format!("{table}_in")).chain(["dropped".to_owned()]) {
        let rows: Vec<_> = feed.iter().flatten().filter(|(of, _)| *of == table).map(|(_, rows)| rows.clone()).collect();
        register(&session, &table, &rows);
    }
    session.execute_text(VIEWS).await.expect("views");
    let mut answers = Vec::new();
    for (name, sql) in queries() {
        let Outcome::Rows(rows) = session.execute_text(&sql).await.expect(&name) else { panic!("{name}: no rows") };
        let mut answer: Vec<String> = rows.collect().await.expect(&name).iter().flat_map(lines).collect();
        answer.sort();
        answers.push(answer);
    }
    answers
}

/// The operators of an output that recompute everything.
fn full(plan: &IncrementalPlan, output: usize) -> Vec<String> {
    let (mut found, mut todo) = (Vec::new(), vec![plan.outputs[output].node]);
    while let Some(node) = todo.pop() {
        let node = &plan.nodes[node];
        let (strategy, reason) = node.strategy(plan).expect("a strategy");
        if strategy == Strategy::Full {
            found.push(reason);
        }
        todo.extend(&node.inputs);
    }
    found.sort();
    found.dedup();
    found
}

fn seed() -> u64 {
    std::env::var("FUSE_LAW_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

#[test]
fn tpch_queries_in_epochs_give_the_batch() {
    let runtime = crate::support::runtime();
    let root = temporary();
    let (seed, tables) = (seed(), runtime.block_on(tables(root.path())));
    let feed: Feed = Arc::new(Mutex::new(feed(&tables, seed)));
    let snapshots = Arc::new(Mutex::new(BTreeMap::new()));
    let mut line = Fedline::new(Arc::clone(&feed));
    let taken = Arc::clone(&snapshots);
    line.watcher = Some(Arc::new(move |place, epoch, shown| {
        taken.lock().unwrap().insert((epoch, place), shown.clone());
        Ok(())
    }));
    let run = async {
        let session = Session::new(Settings::default())?;
        at_rest(&session, &tables);
        for table in GROWING {
            let folder = root.path().join(format!("{table}_in"));
            declare(&session, &format!("{table}_in"), &tables[table].schema(), &folder).await?;
        }
        declare(&session, "dropped", &dropped_schema(), &root.path().join("dropped")).await?;
        session.execute_text(VIEWS).await?;
        for (_, sql) in queries() {
            session.execute_text(&sql).await?;
        }
        line.run(&session, &root.path().join("state"), None).await
    };
    assert!(runtime.block_on(run).expect("the pipeline runs"));
    let plan = line.plan.lock().unwrap().clone().expect("a plan");
    for (at, (name, _)) in queries().iter().enumerate() {
        let full = full(&plan, at);
        assert!(full.is_empty(), "{name} recomputes: {}", full.join("; "));
    }
    let entries = feed.lock().unwrap().clone();
    for epoch in 1..=EPOCHS {
        let expected = runtime.block_on(batch(&tables, &entries[..epoch as usize]));
        for (place, (name, _)) in queries().iter().enumerate() {
            let shown = snapshots.lock().unwrap()[&(epoch, place)].batch().expect("rows");
            let mut found = lines(&shown);
            found.sort();
            assert_eq!(found, expected[place], "{name} after epoch {epoch}, seed {seed}");
        }
    }
}
