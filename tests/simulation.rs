//! Lives of a pipeline on a simulated disk and a simulated object store.
//!
//! Enters: seeds. Leaves: nothing. Always holds: after each life, however it ended, the outputs are those of whole
//! epochs, each row once, and no epoch is missing that was told to be committed; the last life finishes with the
//! answer of the batch. FUSE_SIM_SEEDS sets how many seeds, FUSE_SIM_SEED the first one.

mod disk;
mod store;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use fuse::config::Settings;
use fuse::durable::Folder;
use fuse::error::Error;
use fuse::runtime::{self, ProgressCell, RunOptions, Until};
use fuse::session::Session;
use fuse::sink::stream::{AppendSink, FileEncoding, Mode, ReplaceSink, Roll, Sink};
use object_store::ObjectStoreExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use self::disk::{SimulatedDisk, Trouble};
use self::store::FaultyStore;

/// A generator of numbers.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

const ROWS: i64 = 96;
const EPOCH_ROWS: i64 = 7;
const SQL: &str = "
    CREATE STREAM r STORED AS RATE
        OPTIONS ('rows' '96', 'rows_per_second' '1000000000', 'max_rows_per_epoch' '7');
    SELECT value FROM r;
    SELECT value % 5 AS k, count(*) AS n, sum(value) AS s FROM r GROUP BY value % 5;
    SELECT value % 3 AS k, count(*) AS n FROM r GROUP BY value % 3";

/// Where a pipeline keeps its state and writes.
type Open<'a> = &'a dyn Fn(&str) -> Result<Folder, Error>;

/// One life. Gives how many rows were committed, as it was told, and how it ended. `stop_after`: it is asked to stop
/// when so many epochs are committed.
async fn live(open: Open<'_>, stop_after: u64) -> (i64, Result<(), Error>) {
    let progress = ProgressCell::default();
    let work = async {
        let session = Session::new(Settings::default())?;
        for statement in SQL.split(';') {
            session.execute_text(statement).await?;
        }
        let folders = std::cell::RefCell::new(vec![open("log")?, open("agg")?, open("rows")?]);
        let sink = |columns, append_only: bool, _| -> Box<dyn Sink> {
            let folder = folders.borrow_mut().pop().expect("a folder for each sink");
            let roll = Roll { rows: 20, ..Roll::default() };
            if append_only {
                let sink = AppendSink::new(folder, FileEncoding::Parquet, columns, vec![], Mode::Append, roll, true);
                return Box::new(sink.expect("a sink"));
            }
            if folders.borrow().is_empty() {
                let sink = AppendSink::new(folder, FileEncoding::Json, columns, vec![0], Mode::Changelog, roll, true);
                return Box::new(sink.expect("a sink"));
            }
            Box::new(ReplaceSink::new(folder, "a.parquet".into(), FileEncoding::Parquet, columns, None).expect("one"))
        };
        let pipeline = session.pipeline(&sink)?.expect("a pipeline");
        let folder = open("state")?;
        let options = RunOptions { folder, trigger: Duration::ZERO, until: Until::CaughtUp, fresh: false };
        let (stop, stopped) = watch::channel(false);
        let run = runtime::run(pipeline, &options, stopped, &progress);
        let watcher = async {
            while progress.read().epoch < stop_after {
                tokio::task::yield_now().await;
            }
            let _ = stop.send(true);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            done = run => done.map(drop),
            () = watcher => unreachable!("it waits for ever"),
        }
    };
    let ended = work.await;
    ((progress.read().epoch as i64 * EPOCH_ROWS).min(ROWS), ended)
}

/// Files by their names.
type Files = Vec<(String, Vec<u8>)>;

fn parquet(bytes: Vec<u8>) -> Result<Vec<RecordBatch>, String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes)).and_then(|reader| reader.build());
    let reader = reader.map_err(|error| format!("no whole file: {error}"))?;
    reader.collect::<Result<_, _>>().map_err(|error| format!("no whole rows: {error}"))
}

/// How many rows are shown, if they are those of whole epochs.
fn shown_rows(files: Files) -> Result<i64, String> {
    let mut rows = Vec::new();
    for (name, bytes) in files {
        for batch in parquet(bytes).map_err(|error| format!("{name}: {error}"))? {
            rows.extend(batch.column(0).as_primitive::<Int64Type>().values().iter().copied());
        }
    }
    rows.sort_unstable();
    let count = rows.len() as i64;
    if rows != (0..count).collect::<Vec<_>>() {
        return Err(format!("rows are lost or twice: {rows:?}"));
    }
    if count % EPOCH_ROWS != 0 && count != ROWS {
        return Err(format!("{count} rows are not whole epochs"));
    }
    Ok(count)
}

fn numbers(rows: i64, by: i64) -> BTreeMap<i64, (i64, i64)> {
    let mut groups = BTreeMap::new();
    for value in 0..rows {
        let group: &mut (i64, i64) = groups.entry(value % by).or_default();
        *group = (group.0 + 1, group.1 + value);
    }
    groups
}

/// Of how many rows the aggregate that is shown is.
fn shown_aggregate(files: Files) -> Result<i64, String> {
    let Some((_, bytes)) = files.into_iter().find(|(name, _)| name == "a.parquet") else { return Ok(0) };
    let mut groups = BTreeMap::new();
    for batch in parquet(bytes).map_err(|error| format!("the aggregate: {error}"))? {
        let column = |at: usize| batch.column(at).as_primitive::<Int64Type>().values().clone();
        for row in 0..batch.num_rows() {
            groups.insert(column(0)[row], (column(1)[row], column(2)[row]));
        }
    }
    let rows = groups.values().map(|(n, _)| n).sum();
    if groups != numbers(rows, 5) { Err(format!("the aggregate is of no epoch: {groups:?}")) } else { Ok(rows) }
}

/// Of how many rows the changes add up to the aggregate.
fn shown_changes(files: Files) -> Result<i64, String> {
    let mut groups: BTreeMap<(i64, i64), i64> = BTreeMap::new();
    for (name, bytes) in files {
        let key = name.split('/').next().and_then(|part| part.strip_prefix("k=")).and_then(|text| text.parse().ok());
        let key: i64 = key.ok_or_else(|| format!("{name} is in no partition"))?;
        for line in String::from_utf8_lossy(&bytes).lines() {
            let row: serde_json::Value = serde_json::from_str(line).map_err(|e| format!("{name}: {line}: {e}"))?;
            let weight = if row["op"] == "insert" { 1 } else { -1 };
            *groups.entry((key, row["n"].as_i64().unwrap_or(-1))).or_default() += weight;
        }
    }
    groups.retain(|_, weight| *weight != 0);
    let rows = groups.keys().map(|(_, n)| n).sum();
    let whole: BTreeMap<(i64, i64), i64> = numbers(rows, 3).into_iter().map(|(k, (n, _))| ((k, n), 1)).collect();
    if groups != whole { Err(format!("the changes are of no epoch: {groups:?}")) } else { Ok(rows) }
}

/// What is wrong behind a life, if fewer rows, or an aggregate of fewer, are shown than `least` is wrong too. Partitions
/// of one commit get their names one after the other, so the changes are looked at only when a life has ended well.
fn mistake(look: &dyn Fn(&str) -> Files, least: (i64, i64), ended_well: bool) -> Result<(), String> {
    let (rows, aggregate) = (shown_rows(look("rows"))?, shown_aggregate(look("agg"))?);
    if rows < least.0 || aggregate < least.1 {
        return Err(format!("{least:?} rows were committed, {rows} are shown, and an aggregate of {aggregate}"));
    }
    if ended_well && (rows != aggregate || rows != shown_changes(look("log"))?) {
        return Err(format!("sinks differ: {rows} and {aggregate}"));
    }
    Ok(())
}

fn seeds(many: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("FUSE_SIM_SEED").unwrap_or(0);
    first..first + number("FUSE_SIM_SEEDS").unwrap_or(many)
}

/// Lives on a disk until one finishes.
fn lives_on_disk(runtime: &Runtime, seed: u64) -> Result<(), String> {
    let (disk, mut random) = (SimulatedDisk::new(seed), Random::new(seed + 1));
    let open = |name: &str| Folder::on(Arc::new(disk.clone()), &Path::new("/").join(name));
    let look = |name: &str| disk.visible(&format!("/{name}"));
    let (mut committed, mut life) = (0, 0);
    loop {
        life += 1;
        let at = 1 + random.below(if life < 3 { 260 } else { 90 });
        let trouble = match random.below(8) {
            _ if life > 8 => Trouble::None,
            0 | 1 => Trouble::Error(at),
            2 => Trouble::Full(at),
            _ => Trouble::Cut(at),
        };
        disk.live(trouble);
        let (told, ended) = runtime.block_on(live(&open, 1 + random.below(20)));
        let actions = disk.actions();
        let story = || format!("seed {seed}, life {life}, {trouble:?} of {actions} actions, {ended:?}");
        committed = told.max(committed);
        // The power comes back.
        disk.live(Trouble::None);
        println!("{}: {committed} rows committed, state {:?}", story(), disk.names("/state"));
        mistake(&look, (committed, committed), ended.is_ok()).map_err(|wrong| format!("{}: {wrong}", story()))?;
        match &ended {
            Err(error) if trouble == Trouble::None => return Err(format!("{}: {error:?}", story())),
            Err(error) if matches!(trouble, Trouble::Full(_)) && !error.message.contains("space") => {
                return Err(format!("{}: it does not say that the disk is full", story()));
            }
            Ok(_) if committed == ROWS => return Ok(()),
            _ => {}
        }
        if life > 60 {
            return Err(format!("{}: it does not get on", story()));
        }
    }
}

fn all_lives(many: u64) -> Result<(), String> {
    let runtime = Runtime::new().expect("a runtime");
    seeds(many).try_for_each(|seed| lives_on_disk(&runtime, seed))
}

#[test]
fn no_power_cut_loses_or_doubles_a_row() {
    if let Err(wrong) = all_lives(100) {
        panic!("{wrong}");
    }
}

/// Errors that are planted in the durable layer are found by the lives above.
#[test]
#[cfg(feature = "failpoints")]
fn lives_find_planted_errors() {
    let name = "FUSE_SIM_PLANTED";
    if let Ok(planted) = std::env::var(name) {
        fail::cfg(planted, "return").expect("a failpoint");
        println!("found: {:?}", all_lives(300).err());
        return;
    }
    for planted in ["skip_sync", "skip_sink_sync", "skip_folder_sync", "log_late", "commit_early", "forget_commits"] {
        let program = std::env::current_exe().expect("this program");
        let output = std::process::Command::new(program)
            .args(["simulation::lives_find_planted_errors", "--exact", "--nocapture"])
            .env(name, format!("control.{planted}"))
            .output()
            .expect("runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let found = text.lines().find(|line| line.contains("found:")).unwrap_or_default();
        assert!(found.contains("found: Some"), "control.{planted} was not found: {text}");
    }
}

/// Lives on an object store until one finishes.
fn lives_on_store(runtime: &Runtime, seed: u64) -> Result<(), String> {
    let (store, mut random) = (Arc::new(FaultyStore::new(seed)), Random::new(seed + 1));
    let open = |name: &str| Ok(Folder::remote(Arc::clone(&store) as _, name.into()));
    let look = |name: &str| -> Files {
        let folder = Folder::remote(Arc::clone(&store) as _, name.into());
        runtime.block_on(async {
            let mut files = Vec::new();
            for file in folder.list_all().await.expect("lists") {
                let path = object_store::path::Path::from(format!("{name}/{file}"));
                let bytes = store.get(&path).await.expect("reads").bytes().await.expect("reads");
                files.push((file, bytes.to_vec()));
            }
            files
        })
    };
    let (mut shown, mut life) = ((0, 0), 0);
    loop {
        life += 1;
        let fails_at = (life <= 8).then(|| 1 + random.below(if life < 3 { 150 } else { 60 }));
        store.live(fails_at, life <= 8 && random.below(2) == 0);
        let (_, ended) = runtime.block_on(live(&open, 1 + random.below(40)));
        let requests = store.requests();
        let story = || format!("seed {seed}, life {life}, fails at {fails_at:?} of {requests} requests, {ended:?}");
        store.live(None, false);
        println!("{}: {shown:?} rows were shown", story());
        mistake(&look, shown, ended.is_ok()).map_err(|wrong| format!("{}: {wrong}", story()))?;
        // Each start takes the number of an epoch, so epochs do not tell the rows; but all that is put is durable.
        shown = (shown_rows(look("rows"))?, shown_aggregate(look("agg"))?);
        match &ended {
            Err(error) if fails_at.is_none() => return Err(format!("{}: {error:?}", story())),
            Ok(_) if shown == (ROWS, ROWS) => return Ok(()),
            _ => {}
        }
        if life > 60 {
            return Err(format!("{}: it does not get on", story()));
        }
    }
}

#[test]
fn no_lost_answer_of_a_store_loses_or_doubles_a_row() {
    let runtime = Runtime::new().expect("a runtime");
    if let Err(wrong) = seeds(60).try_for_each(|seed| lives_on_store(&runtime, seed)) {
        panic!("{wrong}");
    }
}
