//! A pipeline at work: epoch after epoch.
//!
//! Enters: a [`Pipeline`], its state folder, and when to stop. Leaves: what its sinks show. Always holds: an epoch is
//! logged before it begins; its sinks show it when all of them have staged it; after a kill, the epochs behind the
//! newest checkpoint are run again over the same ranges, and what was shown is not shown twice.

mod event_time;
mod progress;
mod recovery;
mod verify;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use crate::change::{self, Changes};
use crate::checkpoint::{Commit, Cost, EpochRecord, Explained, Failure, Logs, StateStore};
use crate::clock::{EpochTime, Stopwatch, chance, now_micros};
use crate::config::{CHECKPOINT_EPOCHS, CHECKPOINT_MICROS};
use crate::durable::{Folder, FolderLock, planted};
use crate::error::{Error, Result};
use crate::offset::Epoch;
use crate::operator::{Dataflow, EpochContext};
use crate::planner::{IncrementalPlan, NodeId, Op};
use crate::sink::stream::Sink;
use crate::source::stream::{Look, OnError, Read, STANDARD_INPUT, Source, StreamTable, Waiting, bury, bury_late};

use event_time::{Admitted, EventTime};

pub use progress::{Progress, ProgressCell};
pub use verify::{Compared, Difference, Verdict, sample, verify};

/// Statements that run together.
pub struct Pipeline {
    /// What each epoch computes.
    pub plan: Arc<IncrementalPlan>,
    /// The sources of the plan, in its order.
    pub sources: Vec<Box<dyn Source>>,
    /// The sinks of its outputs, in their order.
    pub sinks: Vec<Box<dyn Sink>>,
    /// Where each sink writes and how, in words.
    pub targets: Vec<String>,
    /// How plans of DataFusion's are run within it.
    pub state: SessionState,
    /// Into how many parts keys are divided.
    pub shards: usize,
    /// What now() reads.
    pub time: EpochTime,
    /// What is computed anew from all input, each time, and why.
    pub recomputed: Vec<(String, String)>,
    /// It goes on behind a run of this plan, from which its own differs by columns that were added to tables.
    pub evolved_from: Option<Arc<IncrementalPlan>>,
    /// The statements as they were planned, for a rerun as a batch.
    pub statements: Vec<Planned>,
    /// How that is run.
    pub batch: SessionState,
    /// Opens a source of a table once more.
    pub open: OpenSource,
}

impl Pipeline {
    /// What it computes and where it writes, in text.
    pub fn identity(&self) -> Result<String> {
        Ok(format!("{}{}", self.plan.fingerprint()?, self.targets.join("\n")))
    }

    /// True if one of its tables is standard input.
    pub fn reads_standard_input(&self) -> bool {
        let pipes = self.plan.sources.iter().filter_map(|source| source.stream()?.pipe());
        pipes.into_iter().any(|pipe| pipe == STANDARD_INPUT)
    }
}

/// A statement of a pipeline.
pub struct Planned {
    /// Its query.
    pub plan: LogicalPlan,
    /// Where it writes, in the words of the statement.
    pub target: String,
}

/// Opens a source of a table, for these of its columns.
pub type OpenSource = Arc<dyn Fn(&StreamTable, &[usize]) -> Result<Box<dyn Source>> + Send + Sync>;

/// When a pipeline stops by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Never.
    Stopped,
    /// When all that is there has been taken.
    CaughtUp,
    /// When nothing has come for so long.
    Idle(Duration),
}

/// How a pipeline runs.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Where its state is.
    pub folder: Folder,
    /// The least time from the start of an epoch to that of the next, while nothing waits.
    pub trigger: Duration,
    /// When it stops.
    pub until: Until,
    /// Removes the state and what was written before, and begins anew.
    pub fresh: bool,
}

/// How a run ended that did not fail.
#[derive(Debug)]
pub enum Ended {
    /// Behind this epoch.
    Stopped(Epoch),
    /// The next epoch has columns that a table does not have and asks for: that table and its columns with them. To
    /// be planned anew.
    Evolved(BTreeMap<String, Look>),
}

/// Runs until the end that `options` name, until `stop` becomes true, or until columns are added to a table.
pub async fn run(
    pipeline: Pipeline,
    options: &RunOptions,
    stop: watch::Receiver<bool>,
    progress: &ProgressCell,
) -> Result<Ended> {
    let opened = Runner::open(pipeline, options, progress).await;
    let mut runner = opened.map_err(|error| with_what_is_kept(error, 0))?;
    let done = match runner.recover().await {
        Ok(()) => runner.run(options, stop).await,
        failed => failed,
    };
    let done = done.map_err(|error| with_what_is_kept(error, progress.read().epoch));
    if let Err(error) = &done {
        let failure = Failure::new(error, runner.epoch + 1, now_micros());
        // The error that ended it is told, and not that it could not be kept.
        let _ = failure.write(&options.folder).await;
    }
    // The folder is not given back while a checkpoint is written to it.
    let written = runner.checkpoint_written().await;
    let written = written.map_err(|error| with_what_is_kept(error, progress.read().epoch));
    done?;
    written?;
    Ok(if runner.evolved.is_empty() { Ended::Stopped(runner.epoch) } else { Ended::Evolved(runner.evolved) })
}

/// What a task leaves that did not end.
fn stopped(error: JoinError) -> Error {
    match error.try_into_panic() {
        Ok(panic) => Error::from_panic(panic.as_ref()),
        Err(_) => Error::query("stopped"),
    }
}

fn failed_before() -> Error {
    Error::query("an epoch before has failed")
}

/// On a full disk: what is there, and how to go on.
fn with_what_is_kept(error: Error, committed: Epoch) -> Error {
    if !error.is_full_disk() {
        return error;
    }
    let kept = match committed {
        0 => "what was committed before is kept".to_owned(),
        epoch => format!("what was committed up to epoch {epoch} is kept"),
    };
    error.hint(format!("free some space; {kept}, and the same command goes on from there"))
}

struct Runner<'a> {
    plan: Arc<IncrementalPlan>,
    sources: Vec<Box<dyn Source>>,
    sinks: Vec<Box<dyn Sink>>,
    /// Taken while a thread steps it.
    dataflow: Option<Dataflow>,
    context: Option<EpochContext>,
    time: EpochTime,
    logs: Logs,
    /// Away while a checkpoint is written.
    store: Option<StateStore>,
    /// The checkpoint that is being written while epochs go on: at most one.
    saving: JoinSet<Result<(StateStore, Epoch)>>,
    /// A part of the names of files that belong to this pipeline.
    id: String,
    /// Records that were left out so far, by source.
    skipped: BTreeMap<String, u64>,
    /// Rows that were late so far, by source.
    late: BTreeMap<String, u64>,
    event_time: EventTime,
    /// Tables with the columns that the next epoch would add to them.
    evolved: BTreeMap<String, Look>,
    /// What the epochs so far have cost.
    cost: Cost,
    /// The last epoch that was run.
    epoch: Epoch,
    checkpointed: Epoch,
    checkpointed_micros: i64,
    progress: &'a ProgressCell,
    /// No other process can write to the state.
    locked: bool,
    _lock: FolderLock,
}

impl Runner<'_> {
    async fn run(&mut self, options: &RunOptions, mut stop: watch::Receiver<bool>) -> Result<()> {
        let mut idle = Stopwatch::start();
        loop {
            let tick = Stopwatch::start();
            let ran = self.try_epoch().await?;
            if ran {
                idle = Stopwatch::start();
            }
            if options.until == Until::CaughtUp {
                self.sources.iter_mut().for_each(|source| source.stop_growing());
            }
            let finished = self.sources.iter().all(|source| source.is_finished());
            let over = match options.until {
                _ if finished && !ran => true,
                Until::Stopped => false,
                Until::CaughtUp => !ran && self.sources.iter().all(|source| !source.is_waiting()),
                Until::Idle(limit) => !ran && idle.elapsed() >= limit,
            };
            if over || *stop.borrow() || !self.evolved.is_empty() {
                break;
            }
            let behind = ran && self.sources.iter().any(|source| !source.waiting().is_nothing());
            let hurry = options.until == Until::CaughtUp && self.sources.iter().all(|source| !source.is_waiting());
            let pause = if behind || hurry { Duration::ZERO } else { options.trigger.saturating_sub(tick.elapsed()) };
            // Even a sleep of no time takes one of the timer's milliseconds.
            if pause.is_zero() {
                tokio::task::yield_now().await;
            } else {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    changed = stop.changed() => if changed.is_err() { break },
                }
            }
            if *stop.borrow() {
                break;
            }
        }
        if self.epoch > self.checkpointed {
            self.checkpoint().await?;
        } else {
            self.logs.flush().await?;
        }
        self.checkpoint_written().await
    }

    /// Runs an epoch over what has come; false if nothing has.
    async fn try_epoch(&mut self) -> Result<bool> {
        if let Some(done) = self.saving.try_join_next() {
            self.written(done).await?;
        }
        // The time of epochs does not go back where the clock does.
        let now = now_micros().max(self.time.micros());
        let mut ranges = BTreeMap::new();
        for (source, node) in self.sources.iter_mut().zip(&self.plan.sources) {
            let range = source.next(now).await?;
            if !range.is_empty() {
                ranges.insert(node.name.clone(), range);
            }
        }
        let ended: Vec<bool> = self.sources.iter().map(|source| source.is_ended()).collect();
        let watermarks = self.event_time.before(now, &ranges, &ended);
        let closes = self.plan.forgets() && self.event_time.differ(&watermarks);
        if ranges.is_empty() && self.epoch > 0 && !closes {
            self.time.set(now);
            if !self.dataflow.as_mut().map_or(Ok(false), Dataflow::is_due)? {
                self.logs.flush().await?;
                return Ok(false);
            }
        }
        let taking = self.sources.iter().filter_map(|source| source.taking_since()).min();
        self.progress.begun(taking);
        let seed = self.plan.has_chance().then(chance);
        let record = EpochRecord { epoch: self.epoch + 1, now_micros: now, seed, sources: ranges, watermarks };
        self.time.set(record.now_micros);
        if record.epoch == 1 {
            self.keep_tables().await?;
        }
        // What cannot be read ends the pipeline before the epoch begins.
        let read = self.read(&record).await?;
        if self.evolves(&read) {
            return Ok(false);
        }
        let late = planted("control.log_late");
        if !late {
            self.logs.begin(&record).await?;
        }
        self.run_epoch(&record, read, false).await?;
        if late {
            self.logs.begin(&record).await?;
        }
        let due = self.sources.iter().any(|source| source.wants_checkpoint())
            || now - self.checkpointed_micros >= CHECKPOINT_MICROS;
        if due || self.epoch - self.checkpointed >= CHECKPOINT_EPOCHS {
            self.checkpoint().await?;
        }
        Ok(true)
    }

    /// True if what was read has columns that are to be added to a table.
    fn evolves(&mut self, read: &[Read]) -> bool {
        for (node, read) in self.plan.sources.iter().zip(read) {
            if let Some(table) = node.stream()
                && !read.new.is_empty()
            {
                self.evolved.insert(node.name.clone(), table.with_columns(&read.new));
            }
        }
        !self.evolved.is_empty()
    }

    /// What waits in all sources.
    fn waiting(&self) -> Waiting {
        self.sources.iter().map(|source| source.waiting()).fold(Waiting::default(), Waiting::and)
    }

    /// Computes the tables at rest, and keeps them for the replay of the first epoch.
    async fn keep_tables(&self) -> Result<()> {
        let store = self.store.as_ref().ok_or_else(failed_before)?;
        for (at, node) in self.plan.nodes.iter().enumerate() {
            let Op::Static { plan } = &node.op else { continue };
            let state = self.state()?;
            let physical = state.create_physical_plan(plan).await?;
            let batches = datafusion::physical_plan::collect(physical, state.task_ctx()).await?;
            // A file without columns would have no rows.
            let batches = batches.into_iter().map(|batch| match batch.num_columns() {
                0 => Changes::inserted(batch).with_weight_column(),
                _ => Ok(batch),
            });
            store.save_table(&format!("node{at}"), &batches.collect::<Result<Vec<_>>>()?).await?;
        }
        Ok(())
    }

    async fn load_tables(&self) -> Result<BTreeMap<NodeId, Vec<RecordBatch>>> {
        let store = self.store.as_ref().ok_or_else(failed_before)?;
        let mut tables = BTreeMap::new();
        for (at, node) in self.plan.nodes.iter().enumerate() {
            if matches!(node.op, Op::Static { .. }) {
                let batches = store.load_table(&format!("node{at}")).await?;
                let columns = |batch: &RecordBatch| batch.columns()[..node.schema.fields().len()].to_vec();
                let named =
                    batches.iter().map(|batch| change::with_columns(&node.schema, columns(batch), batch.num_rows()));
                tables.insert(at, named.collect::<Result<_>>()?);
            }
        }
        Ok(tables)
    }

    fn state(&self) -> Result<SessionState> {
        let context = self.context.as_ref().ok_or_else(failed_before)?;
        Ok(context.state.clone())
    }

    /// Reads what an epoch takes from each source.
    async fn read(&self, record: &EpochRecord) -> Result<Vec<Read>> {
        let mut all = Vec::new();
        for (source, node) in self.sources.iter().zip(&self.plan.sources) {
            all.push(match record.sources.get(&node.name) {
                Some(range) => source.read(range).await?,
                None => Read::default(),
            });
        }
        Ok(all)
    }

    /// Counts the rows that were late, and keeps them where OPTIONS say so.
    async fn bury_late(&mut self, epoch: Epoch, late: &[Vec<RecordBatch>]) -> Result<()> {
        for ((source, node), late) in self.sources.iter().zip(&self.plan.sources).zip(late) {
            let rows: usize = late.iter().map(RecordBatch::num_rows).sum();
            if rows == 0 {
                continue;
            }
            *self.late.entry(node.name.clone()).or_default() += rows as u64;
            let keeps = node.stream().and_then(StreamTable::watermark).is_some_and(|watermark| watermark.keeps_late);
            if let Some(folder) = source.dead_letters().filter(|_| keeps) {
                bury_late(folder, &self.id, &node.name, epoch, late).await?;
            }
        }
        Ok(())
    }

    /// Counts the records that were left out, and keeps them where OPTIONS say so.
    async fn bury(&mut self, epoch: Epoch, read: &[Read]) -> Result<()> {
        for ((source, node), read) in self.sources.iter().zip(&self.plan.sources).zip(read) {
            if read.bad.is_empty() {
                continue;
            }
            *self.skipped.entry(node.name.clone()).or_default() += read.bad.len() as u64;
            let keeps = node.stream().is_some_and(|table| table.options().on_error == OnError::DeadLetter);
            if let Some(folder) = source.dead_letters().filter(|_| keeps) {
                bury(folder, &self.id, &node.name, epoch, &read.bad).await?;
            }
        }
        Ok(())
    }

    /// Runs one epoch over what was read for it. `shown`: its sinks showed it before a restart.
    async fn run_epoch(&mut self, record: &EpochRecord, read: Vec<Read>, shown: bool) -> Result<()> {
        let watch = Stopwatch::start();
        for (source, node) in self.sources.iter_mut().zip(&self.plan.sources) {
            record.sources.get(&node.name).map_or(Ok(()), |range| source.advance(range))?;
        }
        if !shown {
            self.bury(record.epoch, &read).await?;
        }
        self.time.set(record.now_micros);
        let rows: Vec<Vec<RecordBatch>> = read.into_iter().map(|read| read.batches).collect();
        let read: usize = rows.iter().flatten().map(RecordBatch::num_rows).sum();
        let Admitted { on_time: rows, late } = self.event_time.admit(record, rows)?;
        if !shown {
            self.bury_late(record.epoch, &late).await?;
        }
        let tables = if record.epoch == 1 { self.load_tables().await? } else { BTreeMap::new() };
        let outputs = self.step(record, rows, tables).await?;
        self.count_left_out(shown);
        let written: usize = outputs.iter().map(|changes| change::count(changes)).sum();
        for (sink, changes) in self.sinks.iter_mut().zip(outputs) {
            sink.take(changes, shown)?;
        }
        self.epoch = record.epoch;
        if shown {
            return Ok(());
        }
        for sink in &mut self.sinks {
            sink.stage(record.epoch, record.now_micros).await?;
        }
        let early = planted("control.commit_early");
        if early {
            self.log_commit();
            self.logs.flush().await?;
        }
        for last in [false, true] {
            for sink in self.sinks.iter_mut().filter(|sink| sink.replaces() == last) {
                sink.commit(record.epoch).await?;
            }
        }
        self.sinks.iter_mut().try_for_each(|sink| sink.settle())?;
        let size = self.dataflow.as_ref().map_or((0, 0), Dataflow::size);
        self.cost.micros += u64::try_from(watch.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.cost.rows += read as u64;
        self.cost.bytes = self.cost.bytes.max(size.1 as u64);
        if !early {
            self.log_commit();
        }
        if !self.sinks.iter().all(|sink| sink.is_idempotent()) {
            self.logs.flush().await?;
        }
        let waiting = self.waiting();
        self.progress.committed(record, (read, written), waiting, size, watch.elapsed());
        self.progress.left_out(self.skipped.values().sum(), self.late.values().sum());
        Ok(())
    }

    /// Counts what operators have left out. `shown`: it was counted before a restart.
    fn count_left_out(&mut self, shown: bool) {
        let left_out = self.dataflow.as_mut().map(Dataflow::take_left_out).unwrap_or_default();
        for (source, rows) in left_out.into_iter().filter(|(_, rows)| *rows > 0 && !shown) {
            *self.skipped.entry(self.plan.sources[source].name.clone()).or_default() += rows;
        }
    }

    /// Logs that all sinks hold the epoch, and where they stand.
    fn log_commit(&mut self) {
        let places = self.plan.sources.iter().zip(&self.sources);
        self.logs.commit(Commit {
            epoch: self.epoch,
            committed_micros: now_micros(),
            sinks: self.sinks.iter().map(|sink| sink.position()).collect(),
            sources: places.map(|(node, source)| (node.name.clone(), source.position())).collect(),
            skipped: self.skipped.clone(),
            late: self.late.clone(),
            watermarks: self.event_time.named(),
            cost: self.cost,
        });
    }

    /// Steps the operators, on a thread that may compute.
    async fn step(
        &mut self,
        record: &EpochRecord,
        rows: Vec<Vec<RecordBatch>>,
        mut tables: BTreeMap<NodeId, Vec<RecordBatch>>,
    ) -> Result<Vec<Vec<Changes>>> {
        let (Some(mut dataflow), Some(mut context)) = (self.dataflow.take(), self.context.take()) else {
            return Err(failed_before());
        };
        context.epoch = record.epoch;
        context.watermarks = self.event_time.watermarks();
        context.seed = record.seed.unwrap_or_default();
        context.taken = record.sources.iter().map(|(name, range)| (name.clone(), range.describe())).collect();
        let work = move || {
            let outputs = dataflow.step(&rows, &mut tables, &context);
            (dataflow, context, outputs)
        };
        let done = tokio::task::spawn_blocking(work).await;
        let (dataflow, context, outputs) = done.map_err(stopped)?;
        self.dataflow = Some(dataflow);
        self.context = Some(context);
        outputs
    }

    /// The operators, with what they have cost.
    fn explained(&self) -> Result<Vec<Explained>> {
        let mut lines = self.plan.explain()?;
        let work = self.dataflow.as_ref().map(Dataflow::work).unwrap_or_default();
        for line in &mut lines {
            if let Some(work) = work.iter().find(|work| work.key == line.work.key) {
                line.work = work.clone();
            }
        }
        Ok(lines)
    }

    /// Takes what has changed of all state, and begins to write it; epochs go on meanwhile.
    async fn checkpoint(&mut self) -> Result<()> {
        self.checkpoint_written().await?;
        let mut parts = self.dataflow.as_mut().map(Dataflow::save).transpose()?.unwrap_or_default();
        for (at, source) in self.sources.iter_mut().enumerate() {
            parts.push((format!("source{at}"), source.save()?));
        }
        for (at, sink) in self.sinks.iter_mut().enumerate() {
            parts.push((format!("sink{at}"), sink.save()?));
        }
        parts.extend(self.event_time.save()?);
        self.logs.flush().await?;
        let operators = self.explained()?;
        let (mut store, epoch) = (self.store.take().ok_or_else(failed_before)?, self.epoch);
        self.saving.spawn(async move {
            let needless = store.save(epoch, parts, operators).await?;
            Ok((store, needless))
        });
        self.checkpointed = self.epoch;
        self.checkpointed_micros = now_micros();
        Ok(())
    }

    /// Waits until no checkpoint is being written.
    async fn checkpoint_written(&mut self) -> Result<()> {
        match self.saving.join_next().await {
            Some(done) => self.written(done).await,
            None => Ok(()),
        }
    }

    /// A checkpoint stands: removes the logs that it makes needless, and what sources kept for it.
    async fn written(&mut self, done: std::result::Result<Result<(StateStore, Epoch)>, JoinError>) -> Result<()> {
        let (store, needless) = done.map_err(stopped)??;
        self.progress.checkpointed(store.last().epoch, store.last().bytes(), &store.last().operators);
        self.store = Some(store);
        self.logs.trim(needless).await?;
        self.sources.iter_mut().try_for_each(|source| source.release())
    }
}
