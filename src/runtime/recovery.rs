//! How a pipeline begins, and goes on.
//!
//! Enters: a state folder, new or left by an earlier run. Leaves: a runner behind the last epoch that was begun.
//! Always holds: one process at a time; the newest intact checkpoint is taken, and the epochs behind it are run
//! again; only the last of them may not have been shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::event_time::EventTime;
use super::{Pipeline, ProgressCell, RunOptions, Runner};
use crate::checkpoint::{Cost, EpochRecord, Identity, Logs, StateStore};
use crate::clock::now_micros;
use crate::durable::{Folder, planted};
use crate::error::{Error, Result};
use crate::offset::Epoch;
use crate::operator::{Dataflow, EpochContext};
use crate::planner::IncrementalPlan;
use crate::sink::stream::Sink;
use crate::source::stream::{Source, unbury};

impl<'a> Runner<'a> {
    /// Opens the state; nothing is visible yet.
    pub(super) async fn open(pipeline: Pipeline, options: &RunOptions, progress: &'a ProgressCell) -> Result<Self> {
        let Pipeline { plan, mut sources, mut sinks, targets, state, shards, time, evolved_from, .. } = pipeline;
        let folder = options.folder.clone();
        let lock = folder.lock()?.ok_or_else(|| {
            Error::query(format!("another process runs on the state in {}", folder.name()))
                .hint("stop it, or give this one its own folder with --state")
        })?;
        if options.fresh {
            forget(&folder, &mut sinks, &mut sources).await?;
        }
        folder.settle(&[".", "offsets", "commits", "checkpoints", "state", "tables"])?;
        for (at, source) in sources.iter_mut().enumerate() {
            source.attach(&folder, &format!("source{at}"))?;
        }
        let now = now_micros();
        let new = identity(&plan, targets, now)?;
        let identity = known_identity(&folder, new, &evolved_from, &plan, &mut sinks).await?;
        sinks.iter_mut().for_each(|sink| sink.identify(&identity.id));
        let store = StateStore::open(folder.clone()).await?;
        let parts = store.parts(|name| !Dataflow::has_part(name)).await?;
        let (mut dataflow, store) = Dataflow::build(Arc::clone(&plan), shards, &state)?.restored(store).await?;
        dataflow.count_from(&store.last().operators.iter().map(|line| line.work.clone()).collect::<Vec<_>>());
        for (at, source) in sources.iter_mut().enumerate() {
            source.restore(parts.get(&format!("source{at}")).cloned().unwrap_or_default())?;
        }
        for (at, sink) in sinks.iter_mut().enumerate() {
            if let Some(saved) = parts.get(&format!("sink{at}")) {
                sink.restore(saved.clone())?;
            }
        }
        let epoch = store.last().epoch;
        let mut event_time = EventTime::new(&plan, now);
        event_time.restore(&parts)?;
        let watermarks = event_time.watermarks();
        let (runtime, taken) = (Handle::current(), BTreeMap::new());
        let context = EpochContext { epoch, seed: 0, runtime, state, watermarks, taken };
        Ok(Self {
            time,
            plan,
            sources,
            sinks,
            dataflow: Some(dataflow),
            context: Some(context),
            logs: Logs::new(folder),
            checkpointed: epoch,
            checkpointed_micros: now,
            store: Some(store),
            saving: JoinSet::new(),
            id: identity.id,
            locked: lock.is_held(),
            skipped: BTreeMap::new(),
            late: BTreeMap::new(),
            event_time,
            evolved: BTreeMap::new(),
            cost: Cost::default(),
            epoch,
            progress,
            _lock: lock,
        })
    }

    /// Runs the epochs behind the checkpoint again.
    pub(super) async fn recover(&mut self) -> Result<()> {
        let (mut begun, committed) = self.logs.read(self.epoch).await?;
        if committed.epoch < self.epoch && self.epoch > 0 {
            return Err(Error::query("the commit log ends before the checkpoint")
                .hint("restore the folder from a backup, or start anew with --fresh: outputs are then written again"));
        }
        begun.extend(self.claim(begun.last().map_or(self.epoch, |last| last.epoch)).await?);
        for (at, sink) in self.sinks.iter_mut().enumerate() {
            sink.resume(committed.sinks.get(at).unwrap_or(&serde_json::Value::Null)).await?;
        }
        for record in begun.iter().filter(|record| record.epoch > committed.epoch) {
            self.sinks.iter_mut().try_for_each(|sink| sink.unclear(record.epoch))?;
        }
        self.skipped = committed.skipped;
        self.late = committed.late;
        self.cost = committed.cost;
        for record in &begun {
            let shown = record.epoch <= committed.epoch && !planted("control.forget_commits");
            let read = self.read(record).await?;
            self.run_epoch(record, read, shown).await?;
        }
        if !begun.is_empty() || self.epoch > 0 {
            self.progress.recovered(self.epoch, begun.len());
        }
        Ok(())
    }
}

impl Runner<'_> {
    /// Where a folder cannot be locked, begins an epoch that takes nothing: who ran there before is turned away when
    /// it begins one of that number, and has not shown what is behind it.
    async fn claim(&mut self, last: Epoch) -> Result<Option<EpochRecord>> {
        if self.locked || last == 0 {
            return Ok(None);
        }
        let (sources, watermarks) = (BTreeMap::new(), BTreeMap::new());
        let record = EpochRecord { epoch: last + 1, now_micros: now_micros(), seed: None, sources, watermarks };
        self.logs.begin(&record).await?;
        Ok(Some(record))
    }
}

/// The identity of the state, if it is that of `new`; a state that is new takes that one.
async fn known_identity(
    folder: &Folder,
    new: Identity,
    evolved_from: &Option<Arc<IncrementalPlan>>,
    plan: &IncrementalPlan,
    sinks: &mut [Box<dyn Sink>],
) -> Result<Identity> {
    if let Some(known) = Identity::read(folder).await? {
        let Err(error) = known.expect(&new, folder) else { return Ok(known) };
        let Some(before) = evolved_from else { return Err(error) };
        expect_same_state(before, plan)?;
        let new = Identity { id: known.id, ..new };
        new.rewrite(folder).await?;
        return Ok(new);
    }
    for sink in sinks {
        sink.begin().await?;
    }
    if new.write(folder).await? {
        return Ok(new);
    }
    Err(Error::query(format!("another process has begun on the state in {}", folder.name()))
        .hint("stop one of them, or give each its own folder with --state"))
}

/// Refuses a plan whose operators keep other columns than those of the plan before.
fn expect_same_state(before: &IncrementalPlan, now: &IncrementalPlan) -> Result<()> {
    let (before, now) = (before.kept(), now.kept());
    if before == now {
        return Ok(());
    }
    let what = now.iter().find(|one| !before.contains(one)).or(now.first()).map_or("", String::as_str);
    let what = what.lines().next().unwrap_or_default();
    Err(Error::query("the new columns would change what the state keeps")
        .note(format!("this operator keeps rows with all columns: {what}"))
        .hint("name the columns that the query needs in place of *, or start anew with --fresh"))
}

/// What a new state is of.
pub(super) fn identity(plan: &IncrementalPlan, targets: Vec<String>, now_micros: i64) -> Result<Identity> {
    let looks = plan.sources.iter().filter_map(|source| Some((source.name.clone(), source.stream()?.look()?)));
    let found = looks.map(|(name, look)| Ok((name, look.to_record()?)));
    Ok(Identity {
        sources: plan.sources.iter().map(|source| source.name.clone()).collect(),
        operators: plan.operators(),
        found: found.collect::<Result<_>>()?,
        ..Identity::new(plan.fingerprint()?, targets, now_micros)
    })
}

/// Removes a state, and what its pipeline has written.
async fn forget(folder: &Folder, sinks: &mut [Box<dyn Sink>], sources: &mut [Box<dyn Source>]) -> Result<()> {
    // A damaged identity cannot say which files are its own: they stay.
    if let Ok(Some(id)) = Identity::read_id(folder).await {
        for sink in sinks {
            sink.forget(&id).await?;
        }
        for letters in sources.iter().filter_map(|source| source.dead_letters()) {
            unbury(letters, &id).await?;
        }
    }
    for (at, source) in sources.iter_mut().enumerate() {
        source.forget(folder, &format!("source{at}")).await?;
    }
    for part in ["offsets", "commits", "checkpoints", "state", "tables", "spool"] {
        let names = folder.list(part).await?;
        folder.remove(&names.into_iter().map(|name| format!("{part}/{name}")).collect::<Vec<_>>()).await?;
    }
    folder.remove(&["pipeline.json".to_owned(), "error.json".to_owned()]).await
}
