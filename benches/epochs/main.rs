//! What an epoch costs while the state grows: queries of TPC-H and Nexmark beside the same query as a batch; and what
//! a second thread and a hot key make of it; and what its checkpoints cost.
//!
//! Enters: names of queries, or nothing for all of them; FUSE_BENCH_ROWS, rows of state, by commas. Leaves: a line for
//! each query and size. Always holds: the epochs and the batch read the same rows, from memory, on one thread; rows
//! are those of the largest growing table of a query (Nexmark: events), and what belongs to them comes with them.

#[expect(dead_code, reason = "the other bench has fuse write Parquet files by its command line")]
#[path = "../tpch/data.rs"]
mod data;
mod feed;
mod groups;
#[path = "../streams/nowhere.rs"]
mod nowhere;
mod skew;
mod state;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use datafusion::datasource::MemTable;
use fuse::config::Settings;
use fuse::operator::{Dataflow, EpochContext};
use fuse::planner::Op;
use fuse::runtime::Pipeline;
use fuse::session::{Outcome, Session};
use tokio::runtime::{Handle, Runtime};

use self::feed::Feed;
use self::nowhere::Nowhere;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Rows of one epoch, and how many epochs are timed.
const EPOCHS: [(usize, usize); 3] = [(1, 101), (1_000, 21), (100_000, 5)];
/// Rows of one epoch while the state is filled.
const LOAD: usize = 1_000_000;
const TPCH: [&str; 6] = ["q01", "q03", "q05", "q13", "q18", "q21"];
const NEXMARK: [&str; 3] = ["q4", "q9", "q20"];

fn main() -> Result<()> {
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let text = std::env::var("FUSE_BENCH_ROWS").unwrap_or_else(|_| "1000000,10000000".to_owned());
    let sizes: Vec<usize> = text.split(',').filter_map(|size| size.trim().parse().ok()).collect();
    let runtime = Runtime::new()?;
    let place = tempfile::tempdir()?;
    let spare: usize = EPOCHS.iter().map(|(rows, times)| rows * times).sum();
    let largest = sizes.iter().max().copied().unwrap_or(0) + spare;
    println!("one thread; a median epoch of so many rows; the batch reads the same rows");
    println!(
        "{:<13}{:>10}{:>9}{:>9}{:>10}{:>10}{:>10}{:>9}{:>8}{:>11}{:>9}",
        "query", "rows", "batch s", "load s", "1 row µs", "1k µs", "100k ms", "state MB", "B/row", "batch/1k", "load/b"
    );
    let wanted = |name: &str| asked.is_empty() || asked.iter().any(|arg| name.contains(arg.as_str()));
    let names = TPCH.iter().map(|name| format!("tpch-{name}")).chain(NEXMARK.iter().map(|q| format!("nexmark-{q}")));
    for name in names.filter(|name| wanted(name)) {
        if name.starts_with("tpch") {
            runtime.block_on(feed::generate(place.path(), largest))?;
        }
        for rows in &sizes {
            runtime.block_on(measure(&name, *rows, place.path()))?;
        }
    }
    for rows in sizes.iter().filter(|_| wanted("state")) {
        runtime.block_on(state::measure(*rows as u64))?;
    }
    if wanted("groups") {
        runtime.block_on(groups::measure(1_000_000))?;
    }
    if wanted("skew") {
        runtime.block_on(skew::measure())?;
    }
    Ok(())
}

fn one_thread() -> Result<Session> {
    let mut settings = Settings::default();
    settings.threads = 1;
    Ok(Session::new(settings)?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What the operators ask for, before the first epoch.
fn context(pipeline: &Pipeline) -> EpochContext {
    EpochContext {
        epoch: 0,
        seed: 0,
        runtime: Handle::current(),
        state: pipeline.state.clone(),
        watermarks: vec![i64::MIN; pipeline.plan.sources.len()],
        taken: BTreeMap::new(),
    }
}

/// Operators with what they ask for while they step.
struct Running {
    pipeline: Pipeline,
    dataflow: Dataflow,
    context: EpochContext,
    tables: BTreeMap<usize, Vec<RecordBatch>>,
}

impl Running {
    async fn new(pipeline: Pipeline) -> Result<Self> {
        let mut tables = BTreeMap::new();
        for (at, node) in pipeline.plan.nodes.iter().enumerate() {
            if let Op::Static { plan } = &node.op {
                let physical = pipeline.state.create_physical_plan(plan).await?;
                let rows = datafusion::physical_plan::collect(physical, pipeline.state.task_ctx()).await?;
                tables.insert(at, rows);
            }
        }
        let dataflow = Dataflow::build(Arc::clone(&pipeline.plan), 1, &pipeline.state)?;
        let context = context(&pipeline);
        Ok(Self { pipeline, dataflow, context, tables })
    }

    /// Seconds of an epoch.
    fn step(&mut self, rows: &[Vec<RecordBatch>]) -> Result<f64> {
        self.context.epoch += 1;
        let begun = Instant::now();
        tokio::task::block_in_place(|| self.dataflow.step(rows, &mut self.tables, &self.context))?;
        Ok(begun.elapsed().as_secs_f64())
    }
}

/// Seconds of the query as a batch over these rows.
async fn batch(sql: &str, tables: &[(String, Vec<RecordBatch>)], rest: &str, times: usize) -> Result<f64> {
    let session = one_thread()?;
    session.execute_text(rest).await?;
    for (name, rows) in tables.iter().filter(|(_, rows)| !rows.is_empty()) {
        let table = MemTable::try_new(rows[0].schema(), vec![rows.clone()])?;
        session.context().register_table(name.as_str(), Arc::new(table))?;
    }
    let mut seconds = Vec::new();
    for _ in 0..times {
        let begun = Instant::now();
        let Outcome::Rows(rows) = session.execute_text(sql).await? else { return Err("no rows".into()) };
        std::hint::black_box(rows.collect().await?);
        seconds.push(begun.elapsed().as_secs_f64());
    }
    Ok(median(seconds))
}

async fn measure(name: &str, rows: usize, place: &Path) -> Result<()> {
    let session = one_thread()?;
    let mut feed = Feed::declare(name, &session, place).await?;
    session.execute_text(&feed.sql).await?;
    let pipeline = session.pipeline(&|_, _, _| Box::new(Nowhere))?.ok_or("no pipeline")?;
    feed.open(&pipeline, place).await?;
    let mut running = Running::new(pipeline).await?;
    let mut at = 0;
    let mut load = 0.0;
    let mut seen: Vec<(String, Vec<RecordBatch>)> =
        running.pipeline.plan.sources.iter().map(|source| (source.name.clone(), Vec::new())).collect();
    while at < rows {
        let to = rows.min(at + LOAD);
        let epoch = feed.rows(at, to, &running.pipeline).await?;
        load += running.step(&epoch)?;
        seen.iter_mut().zip(epoch).for_each(|((_, seen), new)| seen.extend(new));
        at = to;
    }
    let batch = batch(&feed.sql, &seen, &feed.resting, if rows > LOAD { 3 } else { 5 }).await?;
    drop(seen);
    let (_, bytes) = running.dataflow.size();
    let mut costs = Vec::new();
    for (count, times) in EPOCHS {
        let mut seconds = Vec::new();
        for _ in 0..times {
            let epoch = feed.rows(at, at + count, &running.pipeline).await?;
            seconds.push(running.step(&epoch)?);
            at += count;
        }
        costs.push(median(seconds));
    }
    println!(
        "{name:<13}{rows:>10}{batch:>9.3}{load:>9.2}{:>10.0}{:>10.0}{:>10.1}{:>9.1}{:>8.1}{:>11.0}{:>9.2}",
        costs[0] * 1e6,
        costs[1] * 1e6,
        costs[2] * 1e3,
        bytes as f64 / 1e6,
        bytes as f64 / rows as f64,
        batch / costs[1],
        load / batch
    );
    Ok(())
}
