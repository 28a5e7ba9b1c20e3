//! Incremental plans at work.
//!
//! Enters: an [`IncrementalPlan`], then epoch by epoch the rows of its sources. Leaves: the changes of each output.
//! Always holds: an operator is stepped once an epoch, from the sources up; each key lives in one shard, and shards
//! share nothing; what an operator keeps it can save, and go on from there after a restart.

mod aggregate;
pub mod arrangement;
mod asof;
mod build;
mod chunks;
mod closing;
mod exchange;
mod exists;
pub mod expiry;
mod index;
mod join;
mod kept;
pub mod keys;
mod log;
pub mod multiset;
mod near;
mod net;
mod ordered;
mod pages;
mod random;
mod ranking;
mod recompute;
mod running;
mod sessions;
mod spilled;
mod stateless;
mod temporal;
mod timeline;
mod top;
mod waiting;
mod window;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use datafusion::common::DFSchema;
use datafusion::execution::SessionState;
use datafusion::execution::disk_manager::DiskManager;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryReservation, human_readable_size};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use tokio::runtime::Handle;

use crate::change::{self, Changes};
use crate::checkpoint::{Pieces, Saved, StateStore, Work};
use crate::clock::Stopwatch;
use crate::durable::planted;
use crate::error::{Error, Result};
use crate::offset::Epoch;
use crate::planner::{IncrementalPlan, NodeId, Op};

use exchange::Exchange;

/// Rows of an epoch from which shards run in parallel: below it, handing work to a thread costs more than it gains.
const PARALLEL_ROWS: usize = 16 * 1024;

/// How many fourths of the memory limit the state may take; the rest is for what an epoch computes.
const STATE_QUARTERS: usize = 3;

/// What an operator may ask while it steps.
pub struct EpochContext {
    /// The epoch's number.
    pub epoch: Epoch,
    /// What the epoch has recorded for random() and uuid().
    pub seed: u64,
    /// The runtime that plans of DataFusion's run in.
    pub runtime: Handle,
    /// How they are planned.
    pub state: SessionState,
    /// The watermark of each source behind this epoch, in microseconds since 1970.
    pub watermarks: Vec<i64>,
    /// What it takes from each source, in words, for messages.
    pub taken: BTreeMap<String, String>,
}

/// The memory that one operator may take while it is restored.
pub struct Room {
    /// Bytes, about.
    limit: usize,
    disk: Arc<DiskManager>,
}

/// One of the parts into which keys are divided.
#[derive(Clone, Copy)]
pub struct Shard<'a> {
    /// Which one.
    pub index: usize,
    /// Of how many.
    pub count: usize,
    /// What is restored was saved by another number of shards: all of it has to be saved again.
    pub moved: bool,
    /// Where what does not fit into memory goes.
    pub room: &'a Room,
}

impl Shard<'_> {
    /// Where an operator that is restored takes so many bytes, lets it spill.
    fn fit(self, bytes: usize, spill: impl FnOnce(usize, &Arc<DiskManager>) -> Result<usize>) -> Result<()> {
        if bytes > self.room.limit {
            spill(bytes - self.room.limit / 2, &self.room.disk)?;
        }
        Ok(())
    }

    fn has(self, hash: u64) -> bool {
        keys::shard_of(hash, self.count) == self.index
    }
}

/// The work of one node in one shard.
pub trait Operator: Send {
    /// Takes what has changed on each input in this epoch; gives what has changed in the result.
    fn step(&mut self, inputs: Vec<Vec<Changes>>, context: &EpochContext) -> Result<Vec<Changes>>;

    /// What has changed in each part of its state since the last call.
    fn save(&mut self) -> Result<Vec<Saved>> {
        Ok(Vec::new())
    }

    /// Takes over what was saved of each part, as far as it belongs to this shard.
    fn restore(&mut self, _saved: Vec<Pieces>, _shard: Shard) -> Result<()> {
        Ok(())
    }

    /// True if its result changes with the time that is set now, without any input.
    fn is_due(&mut self) -> Result<bool> {
        Ok(false)
    }

    /// How many rows of its source it has left out since the last call.
    fn take_left_out(&mut self) -> u64 {
        0
    }

    /// Rows and bytes of its state, about.
    fn size(&self) -> (usize, usize) {
        (0, 0)
    }

    /// Puts rows on disk until so many bytes of memory are free, or none can go; gives how many are.
    fn spill(&mut self, _bytes: usize, _disk: &Arc<DiskManager>) -> Result<usize> {
        Ok(0)
    }
}

/// A node at work.
struct Running {
    inputs: Vec<(NodeId, Exchange)>,
    shards: Vec<Box<dyn Operator>>,
}

/// All nodes of a pipeline at work.
pub struct Dataflow {
    plan: Arc<IncrementalPlan>,
    nodes: Vec<Option<Running>>,
    shards: usize,
    /// How many inputs are still to read each node's result in an epoch.
    readers: Vec<usize>,
    /// What each node has cost.
    work: Vec<Work>,
    /// An epoch gives the changes of all nodes, and not of the outputs.
    watched: bool,
    /// The memory of the state, as the session's pool knows it.
    memory: MemoryReservation,
    env: Arc<RuntimeEnv>,
}

/// The changes of one node, by shard.
type Sharded = Vec<Vec<Changes>>;

impl Dataflow {
    /// Builds the operators of a plan in so many shards.
    pub fn build(plan: Arc<IncrementalPlan>, shards: usize, state: &SessionState) -> Result<Self> {
        let mut nodes = Vec::new();
        let mut readers = vec![0; plan.nodes.len()];
        for node in &plan.nodes {
            node.inputs.iter().for_each(|input| readers[*input] += 1);
            nodes.push(build::operators(&plan, node, shards, state)?);
        }
        plan.outputs.iter().for_each(|output| readers[output.node] += 1);
        let memory = MemoryConsumer::new("the state of the pipeline").register(&state.runtime_env().memory_pool);
        let work = plan.keys().into_iter().map(|key| Work { key, ..Work::default() }).collect();
        let env = Arc::clone(state.runtime_env());
        Ok(Self { plan, nodes, shards, readers, work, watched: false, memory, env })
    }

    /// Goes on counting where an earlier run has ended.
    pub fn count_from(&mut self, known: &[Work]) {
        for work in &mut self.work {
            if let Some(known) = known.iter().find(|known| known.key == work.key) {
                *work = known.clone();
            }
        }
    }

    /// What each node has cost so far, and what it keeps.
    pub fn work(&self) -> Vec<Work> {
        let kept = self.nodes.iter().map(|node| {
            let shards = node.iter().flat_map(|node| &node.shards);
            shards.map(|shard| shard.size()).fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1))
        });
        let all = self.work.iter().zip(kept);
        all.map(|(work, (rows, bytes))| Work { rows: rows as u64, bytes: bytes as u64, ..work.clone() }).collect()
    }

    /// From now on an epoch gives the changes of each node, in their order.
    pub fn watch(&mut self) {
        self.watched = true;
        self.readers.iter_mut().for_each(|readers| *readers += 1);
    }

    /// Runs one epoch. `sources` are the new rows of each source, `tables` those of the tables at rest, which come
    /// with the first epoch. Gives the changes of each output.
    pub fn step(
        &mut self,
        sources: &[Vec<RecordBatch>],
        tables: &mut BTreeMap<NodeId, Vec<RecordBatch>>,
        context: &EpochContext,
    ) -> Result<Vec<Vec<Changes>>> {
        let mut results: Vec<Sharded> = Vec::with_capacity(self.nodes.len());
        let mut unread = self.readers.clone();
        let plan = Arc::clone(&self.plan);
        let (watch, mut before) = (Stopwatch::start(), Duration::ZERO);
        for (at, node) in plan.nodes.iter().enumerate() {
            let result = match &node.op {
                Op::Scan { source, columns } => self.scan(&plan, *source, columns, &sources[*source])?,
                Op::Static { .. } => deal(tables.remove(&at).unwrap_or_default(), self.shards),
                _ => self.run(at, &mut results, &mut unread, context)?,
            };
            results.push(result);
            let now = watch.elapsed();
            self.work[at].nanos += u64::try_from((now - before).as_nanos()).unwrap_or(u64::MAX);
            self.work[at].epochs += 1;
            before = now;
        }
        let mut outputs = Vec::new();
        let given = if self.watched {
            (0..plan.nodes.len()).collect::<Vec<NodeId>>()
        } else {
            plan.outputs.iter().map(|output| output.node).collect()
        };
        for node in given {
            outputs.push(take(&mut results, &mut unread, node).into_iter().flatten().collect());
        }
        self.fit()?;
        Ok(outputs)
    }

    /// The bytes of memory that there may be.
    fn limit(&self) -> usize {
        match self.env.memory_pool.memory_limit() {
            MemoryLimit::Finite(limit) => limit,
            _ => usize::MAX,
        }
    }

    /// Puts rows of the state on disk if it takes more than its share of the memory that there may be.
    fn fit(&mut self) -> Result<()> {
        let (limit, all) = (self.limit(), planted("force.spill"));
        if limit == usize::MAX && !all {
            return Ok(());
        }
        let (_, mut bytes) = self.size();
        if all || bytes > limit / 4 * STATE_QUARTERS {
            // Half of it, so that not every epoch writes a little.
            let mut operators: Vec<_> = self.nodes.iter_mut().flatten().flat_map(|node| &mut node.shards).collect();
            operators.sort_by_key(|operator| std::cmp::Reverse(operator.size().1));
            for operator in operators {
                let frees = if all { usize::MAX } else { bytes.saturating_sub(limit / 2) };
                bytes -= operator.spill(frees, &self.env.disk_manager)?.min(bytes);
            }
        }
        if bytes > limit {
            let bytes = human_readable_size(bytes);
            return Err(Error::query(format!(
                "the state of the pipeline takes {bytes}, and no more of it can go to disk"
            ))
            .hint("raise --memory-limit; EXPLAIN INCREMENTAL shows what keeps it"));
        }
        self.memory.resize(bytes);
        Ok(())
    }

    /// The columns of a scan, dealt out to the shards.
    fn scan(&self, plan: &IncrementalPlan, source: usize, columns: &[usize], rows: &[RecordBatch]) -> Result<Sharded> {
        let read = &plan.sources[source].columns;
        let places = columns.iter().map(|column| {
            let place = read.binary_search(column);
            place.map_err(|_| Error::query("a source does not read a column that is scanned"))
        });
        let mut places = places.collect::<Result<Vec<_>>>()?;
        // What its rows do is behind its columns; they are taken in their order, so by one shard.
        let in_order = plan.sources[source].stream().is_some_and(|table| table.upkeep().is_some());
        places.extend(in_order.then_some(read.len()));
        let rows = rows.iter().map(|batch| Ok(batch.project(&places)?)).collect::<Result<Vec<_>>>()?;
        if in_order {
            let mut all = vec![Vec::new(); self.shards];
            all[0] = rows.into_iter().map(Changes::inserted).collect();
            return Ok(all);
        }
        Ok(deal(rows, self.shards))
    }

    /// How many rows were left out since the last call, by source.
    pub fn take_left_out(&mut self) -> Vec<(usize, u64)> {
        let mut all = Vec::new();
        for (node, running) in self.plan.nodes.iter().zip(&mut self.nodes) {
            if let (Op::Net { source, .. }, Some(running)) = (&node.op, running) {
                all.push((*source, running.shards.iter_mut().map(|shard| shard.take_left_out()).sum()));
            }
        }
        all
    }

    fn run(
        &mut self,
        at: NodeId,
        results: &mut [Sharded],
        unread: &mut [usize],
        context: &EpochContext,
    ) -> Result<Sharded> {
        let Some(node) = self.nodes[at].as_mut() else { return Ok(vec![Vec::new(); self.shards]) };
        // By shard, then by input.
        let mut work: Vec<Vec<Vec<Changes>>> = vec![Vec::new(); self.shards];
        for (input, exchange) in &mut node.inputs {
            let changes = take(results, unread, *input);
            for (shard, changes) in exchange.divide(changes, self.shards)?.into_iter().enumerate() {
                work[shard].push(changes);
            }
        }
        let rows = |inputs: &Vec<Vec<Changes>>| inputs.iter().map(|input| change::count(input)).sum::<usize>();
        let busy = work.iter().filter(|inputs| rows(inputs) > 0).count();
        let parallel = busy > 1 && work.iter().map(rows).sum::<usize>() >= PARALLEL_ROWS;
        let pairs = node.shards.iter_mut().zip(work);
        if !parallel {
            return pairs.map(|(shard, inputs)| shard.step(inputs, context)).collect();
        }
        exchange::in_parallel(pairs.collect(), |(shard, inputs)| shard.step(inputs, context))
    }

    /// What each operator has changed since the last checkpoint, by the name of its part.
    pub fn save(&mut self) -> Result<Vec<(String, Saved)>> {
        let mut all = Vec::new();
        for (at, node) in self.plan.keepers().into_iter().enumerate() {
            let operators = self.nodes[node].iter_mut().flat_map(|node| &mut node.shards);
            for (shard, operator) in operators.enumerate() {
                for (part, saved) in operator.save()?.into_iter().enumerate() {
                    all.push((format!("keep{at}-part{part}-shard{shard}of{}", self.shards), saved));
                }
            }
        }
        Ok(all)
    }

    /// True if this is the name of what an operator has saved.
    pub fn has_part(name: &str) -> bool {
        name.starts_with("keep")
    }

    /// Takes over what was saved, also if it was by another number of shards.
    ///
    /// # Errors
    /// What was saved cannot be read, or is of other operators.
    pub async fn restored(mut self, store: StateStore) -> Result<(Self, StateStore)> {
        let runtime = Handle::current();
        // Operators wait for what they ask for.
        let work = move || self.restore(&store, &runtime).map(|()| (self, store));
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(panic) => Err(Error::query(format!("the state could not be restored: {panic}"))),
        }
    }

    fn restore(&mut self, store: &StateStore, runtime: &Handle) -> Result<()> {
        let count = self.shards;
        let of = format!("of{count}");
        let names: Vec<&str> =
            store.last().parts.keys().map(String::as_str).filter(|name| Self::has_part(name)).collect();
        let moved = names.iter().any(|name| !name.ends_with(&of));
        // Beside what is restored before, of which half of the memory may be full.
        let room = Room { limit: self.limit() / 4 / count, disk: Arc::clone(&self.env.disk_manager) };
        for (at, node) in self.plan.keepers().into_iter().enumerate() {
            let parts = names.iter().filter_map(|name| {
                let (part, shard) = name.strip_prefix(&format!("keep{at}-part"))?.split_once("-shard")?;
                Some((part.parse::<usize>().ok()?, shard, *name))
            });
            let parts: Vec<(usize, &str, &str)> = parts.collect();
            let Some(last) = parts.iter().map(|(part, _, _)| *part).max() else { continue };
            for (index, operator) in self.nodes[node].iter_mut().flat_map(|node| &mut node.shards).enumerate() {
                // What the same shard has saved is all that is its own.
                let own = format!("{index}{of}");
                let part = |part: usize| {
                    let its = parts.iter().filter(|(at, shard, _)| *at == part && (moved || *shard == own));
                    let its: Vec<Pieces> = its.map(|(_, _, name)| store.pieces(name, runtime)).collect();
                    Pieces::new(its.into_iter().flatten())
                };
                operator.restore((0..=last).map(part).collect(), Shard { index, count, moved, room: &room })?;
            }
            self.fit()?;
        }
        Ok(())
    }

    /// True if a result changes with the time that is set now, without any input.
    pub fn is_due(&mut self) -> Result<bool> {
        for operator in self.nodes.iter_mut().flatten().flat_map(|node| &mut node.shards) {
            if operator.is_due()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Rows and bytes of all state, about.
    pub fn size(&self) -> (usize, usize) {
        let operators = self.nodes.iter().flatten().flat_map(|node| &node.shards);
        operators.map(|operator| operator.size()).fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1))
    }
}

/// The result of a node; the last reader takes it, others copy.
fn take(results: &mut [Sharded], unread: &mut [usize], node: NodeId) -> Sharded {
    unread[node] -= 1;
    if unread[node] == 0 { std::mem::take(&mut results[node]) } else { results[node].clone() }
}

/// Rows dealt out to the shards, batch by batch.
fn deal(rows: Vec<RecordBatch>, shards: usize) -> Sharded {
    let mut dealt = vec![Vec::new(); shards];
    for (at, batch) in rows.into_iter().enumerate() {
        dealt[at % shards].push(Changes::inserted(batch));
    }
    dealt
}

/// An expression as it is evaluated, over rows of these columns.
fn physical(expr: &Expr, input: &DFSchema, state: &SessionState) -> Result<Arc<dyn PhysicalExpr>> {
    let context = PhysicalPlanningContext::default();
    Ok(create_physical_expr(expr, input, state.execution_props(), &context)?)
}
