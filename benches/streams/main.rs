//! What streams cost: rows a second beside the same query as a batch, an epoch of one row, recovery, memory.
//!
//! Enters: names of parts, or nothing for all of them. Leaves: a line a figure. Always holds: the stream and the
//! batch that are compared read the same files, write the same rows, and run in turn, on one thread.

mod memory;
mod nowhere;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Int64Array, RecordBatch};
use fuse::checkpoint::{Commit, EpochRecord, Logs};
use fuse::config::Settings;
use fuse::durable::Folder;
use fuse::offset::OffsetRange;
use fuse::operator::{Dataflow, EpochContext};
use fuse::runtime::{self, ProgressCell, RunOptions, Until};
use fuse::session::Session;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;

use self::memory::MemoryDisk;
use self::nowhere::Nowhere;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let asked: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let wanted = |name: &str| asked.is_empty() || asked.iter().any(|arg| arg == name);
    let runtime = Runtime::new()?;
    if wanted("throughput") {
        throughput(&runtime)?;
    }
    if wanted("epoch") {
        epochs(&runtime)?;
    }
    if wanted("recovery") {
        recovery(&runtime)?;
    }
    if wanted("memory") {
        memory(&runtime)?;
    }
    Ok(())
}

fn one_thread() -> Settings {
    let mut settings = Settings::default();
    settings.threads = 1;
    settings
}

/// Seconds of all cores that this process has used.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(|field| field.parse().unwrap_or(0.0))
        .collect();
    // User and system time, in hundredths of a second.
    (fields.get(11).unwrap_or(&0.0) + fields.get(12).unwrap_or(&0.0)) / 100.0
}

fn resident_megabytes() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: f64 = statm.split(' ').nth(1).and_then(|field| field.parse().ok()).unwrap_or(0.0);
    pages * 4096.0 / 1e6
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs the statements as a pipeline over what is there; console statements go nowhere.
async fn pipeline(sql: &str, state: Folder, progress: &ProgressCell) -> Result<()> {
    let session = Session::new(one_thread())?;
    session.execute_text(sql).await?;
    let pipeline = session.pipeline(&|_, _, _| Box::new(Nowhere))?.ok_or("no pipeline")?;
    let options = RunOptions { folder: state, trigger: Duration::ZERO, until: Until::CaughtUp, fresh: false };
    let (_stop, stopped) = watch::channel(false);
    runtime::run(pipeline, &options, stopped, progress).await?;
    Ok(())
}

const MILLION: i64 = 1_000_000;

/// Rows a second of one core, from folders of four files of a million rows each.
fn throughput(runtime: &Runtime) -> Result<()> {
    let place = tempfile::tempdir()?;
    let root = place.path().display().to_string();
    println!("rows/s of one core, 4 M rows in 4 files, epochs of 1 M rows; medians of 9, in turn");
    println!("{:<24}{:>12}{:>12}{:>8}", "", "batch", "stream", "ratio");
    // The kernel counts in hundredths of a second: what is quick runs more often for a figure.
    for (format, ending, times) in [("JSON", "json", 1), ("CSV", "csv", 2), ("PARQUET", "parquet", 5)] {
        let session = Session::new(Settings::default())?;
        for part in 0..4 {
            let copy = format!(
                "COPY (SELECT value AS id, value % 100 AS g, value * 7919 % 100003 AS v, 'name ' || value % 1000 AS s
                       FROM generate_series({}, {})) TO '{root}/{ending}/{part}.{ending}'",
                part * MILLION,
                (part + 1) * MILLION - 1
            );
            runtime.block_on(session.execute_text(&copy))?;
        }
        let columns = "(id BIGINT, g BIGINT, v BIGINT, s VARCHAR)";
        let options =
            "OPTIONS ('max_rows_per_epoch' '1000000', 'max_files_per_epoch' '1', 'max_bytes_per_epoch' '1GB')";
        for (name, query) in [
            ("stateless", "SELECT id, upper(s) AS s, v * 2 AS w FROM t WHERE v % 10 < 3"),
            ("100 groups", "SELECT g, count(*) AS n, sum(v) AS s, max(id) AS m FROM t GROUP BY g"),
        ] {
            let table = format!("EXTERNAL TABLE t {columns} STORED AS {format} LOCATION '{root}/{ending}/'");
            let (mut batch, mut stream) = (Vec::new(), Vec::new());
            for run in 0..9 {
                let (mut batch_seconds, mut stream_seconds) = (0.0, 0.0);
                for time in 0..times {
                    let out = format!("{root}/{ending}-{}-{run}-{time}", name.replace(' ', "-"));
                    let target = if name == "stateless" { format!("{out}/") } else { format!("{out}.parquet") };
                    let begun = cpu_seconds();
                    let session = Session::new(one_thread())?;
                    let sql = format!(
                        "CREATE {table}; COPY ({query}) TO '{}' STORED AS PARQUET",
                        target.replace(&out, &format!("{out}-b"))
                    );
                    runtime.block_on(session.execute_text(&sql))?;
                    let between = cpu_seconds();
                    let sql =
                        format!("CREATE UNBOUNDED {table} {options}; COPY ({query}) TO '{target}' STORED AS PARQUET");
                    let state = Folder::local(Path::new(&format!("{out}-state")))?;
                    runtime.block_on(pipeline(&sql, state, &ProgressCell::default()))?;
                    batch_seconds += between - begun;
                    stream_seconds += cpu_seconds() - between;
                }
                batch.push(batch_seconds / f64::from(times));
                stream.push(stream_seconds / f64::from(times));
            }
            let rate = |seconds: Vec<f64>| 4.0 * MILLION as f64 / median(seconds);
            let (batch, stream) = (rate(batch), rate(stream));
            println!("{:<24}{batch:>12.0}{stream:>12.0}{:>8.2}", format!("{format}, {name}"), stream / batch);
        }
    }
    Ok(())
}

fn one_row_epochs(rows: u64) -> String {
    format!(
        "CREATE STREAM r STORED AS RATE
             OPTIONS ('rows' '{rows}', 'rows_per_second' '1000000000', 'max_rows_per_epoch' '1');
         SELECT value % 100 AS g, count(*) AS n, sum(value) AS s FROM r WHERE value % 10 < 9 GROUP BY value % 100"
    )
}

/// The time of an epoch of one row through a filter and an aggregate.
fn epochs(runtime: &Runtime) -> Result<()> {
    println!("\nan epoch of 1 row through filter and aggregate of 100 groups; median of 5 runs");
    let steps = (0..5).map(|_| runtime.block_on(operators(5_000))).collect::<Result<Vec<_>>>()?;
    println!("{:<60}{:>9.1} µs", "the operators", median(steps) * 1e6);
    let (disk, shared) = (tempfile::tempdir_in(".")?, tempfile::tempdir_in("/dev/shm")?);
    let mut number = 0;
    let mut time = |what: &str, rows: u64, sql: &str, open: &dyn Fn(&str) -> Result<Folder>| -> Result<()> {
        let mut times = Vec::new();
        for _ in 0..5 {
            number += 1;
            let begun = Instant::now();
            let sql = sql.replace("{n}", &number.to_string());
            runtime.block_on(pipeline(&sql, open(&format!("state{number}"))?, &ProgressCell::default()))?;
            times.push(begun.elapsed().as_secs_f64() / rows as f64);
        }
        println!("{what:<60}{:>9.1} µs", median(times) * 1e6);
        Ok(())
    };
    let in_memory = |name: &str| Ok(Folder::on(Arc::new(MemoryDisk::default()), &Path::new("/").join(name))?);
    let on_disk = |name: &str| Ok(Folder::local(&disk.path().join(name))?);
    let on_tmpfs = |name: &str| Ok(Folder::local(&shared.path().join(name))?);
    time("with its logs in memory, to no sink", 2_000, &one_row_epochs(2_000), &in_memory)?;
    time("with its logs on tmpfs, to no sink", 2_000, &one_row_epochs(2_000), &on_tmpfs)?;
    time("with its logs on disk, synced, to no sink", 500, &one_row_epochs(500), &on_disk)?;
    let create = one_row_epochs(500).split_once(';').map(|(create, _)| create.to_owned()).unwrap_or_default();
    for (what, root) in [("on tmpfs", shared.path()), ("on disk", disk.path())] {
        let root = root.display();
        let state: &dyn Fn(&str) -> Result<Folder> = if what == "on disk" { &on_disk } else { &on_tmpfs };
        let sql = format!("{create}; COPY (SELECT value FROM r) TO '{root}/rows{{n}}/' STORED AS PARQUET");
        time(&format!("with its logs {what}, to a folder there"), 500, &sql, state)?;
        let sql = format!(
            "{create}; COPY (SELECT value % 100 AS g, count(*) AS n FROM r GROUP BY value % 100) TO '{root}/agg{{n}}.parquet'"
        );
        time(&format!("with its logs {what}, to a file of 100 rows there"), 500, &sql, state)?;
    }
    Ok(())
}

/// Seconds of a step of the operators over one row.
async fn operators(epochs: i64) -> Result<f64> {
    let session = Session::new(one_thread())?;
    session.execute_text(&one_row_epochs(1)).await?;
    let pipeline = session.pipeline(&|_, _, _| Box::new(Nowhere))?.ok_or("no pipeline")?;
    let mut dataflow = Dataflow::build(Arc::clone(&pipeline.plan), 1, &pipeline.state)?;
    let mut context = EpochContext {
        epoch: 0,
        seed: 0,
        runtime: Handle::current(),
        state: pipeline.state.clone(),
        taken: BTreeMap::new(),
        watermarks: vec![i64::MIN; pipeline.plan.sources.len()],
    };
    let schema = pipeline.sources[0].schema();
    tokio::task::block_in_place(|| {
        let mut begun = Instant::now();
        for epoch in 0..epochs + 100 {
            if epoch == 100 {
                begun = Instant::now();
            }
            context.epoch = epoch as u64 + 1;
            let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(vec![epoch]))])?;
            dataflow.step(&[vec![batch]], &mut BTreeMap::new(), &context)?;
        }
        Ok(begun.elapsed().as_secs_f64() / epochs as f64)
    })
}

/// The time until a pipeline with 10,000 logged epochs goes on: behind a checkpoint, and without any.
fn recovery(runtime: &Runtime) -> Result<()> {
    println!("\nrecovery with 10,000 logged epochs of 1 row, filter and aggregate");
    let place = tempfile::tempdir_in(".")?;
    let open = || Folder::local(&place.path().join("state"));
    let progress = ProgressCell::default();
    let more = one_row_epochs(20_000);
    // An identity; the epochs that come with it go.
    while !place.path().join("state/pipeline.json").exists() {
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_millis(200), pipeline(&more, open()?, &progress)).await.ok();
            Result::Ok(())
        })?;
    }
    for part in ["offsets", "commits", "checkpoints", "state"] {
        std::fs::remove_dir_all(place.path().join("state").join(part)).ok();
    }
    let mut logs = Logs::new(open()?);
    runtime.block_on(async {
        for epoch in 1..=10_000 {
            let sources = BTreeMap::from([("r".to_owned(), OffsetRange::Rows { from: epoch - 1, to: epoch })]);
            logs.begin(&EpochRecord { epoch, now_micros: 0, seed: None, sources, watermarks: BTreeMap::new() }).await?;
            logs.commit(Commit { epoch, sinks: vec![serde_json::Value::Null], ..Commit::default() });
        }
        logs.flush().await?;
        Result::Ok(())
    })?;
    let begun = Instant::now();
    let progress = ProgressCell::default();
    runtime.block_on(async {
        let run = pipeline(&more, open()?, &progress);
        let recovered = async {
            while progress.read().replayed == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! { _ = run => {}, () = recovered => {} }
        Result::Ok(())
    })?;
    println!(
        "{:<60}{:>9.3} s",
        format!("{} epochs run again", progress.read().replayed),
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

/// What the process holds while 100,000 epochs pass.
fn memory(runtime: &Runtime) -> Result<()> {
    println!("\nresident memory over 100,000 epochs of 1 row, filter and aggregate to a file, state on tmpfs");
    let place = tempfile::tempdir_in("/dev/shm")?;
    let out: PathBuf = place.path().join("agg.parquet");
    let sql = one_row_epochs(100_000);
    let (create, query) = sql.split_once(';').ok_or("two statements")?;
    let sql = format!("{create}; COPY ({query}) TO '{}'", out.display());
    let progress = ProgressCell::default();
    runtime.block_on(async {
        let run = pipeline(&sql, Folder::local(&place.path().join("state"))?, &progress);
        let watch = async {
            for mark in [1_000].into_iter().chain((10_000..=100_000).step_by(10_000)) {
                while progress.read().epoch < mark {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                println!("{mark:>10} epochs {:>10.1} MB", resident_megabytes());
            }
            std::future::pending::<()>().await;
        };
        tokio::select! { done = run => done, () = watch => Ok(()) }
    })
}
