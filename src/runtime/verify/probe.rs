//! Whether the state of the operators is what the input that was taken makes of it.
//!
//! Enters: the state as it was saved, with the epochs behind it. Leaves: what differs. Always holds: nothing is assumed
//! of how an operator keeps its state.
//!
//! Two dataflows stand side by side: one with the saved state, and one that has read all the input anew, cut in another
//! way. All input is then pushed into both once more. Each row meets the state of its key, so a state that differs gives
//! other changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use datafusion::physical_plan::collect;
use tokio::runtime::Handle;

use super::difference::difference;
use super::{Compared, Input, Still, inserted};
use crate::change::{Changes, consolidate, count, with_columns};
use crate::checkpoint::{EpochRecord, StateStore};
use crate::error::Result;
use crate::offset::{Epoch, NO_WATERMARK, OffsetRange};
use crate::operator::{Dataflow, EpochContext};
use crate::planner::{NodeId, Op};
use crate::runtime::Pipeline;
use crate::runtime::event_time::EventTime;
use crate::source::stream::{LateRows, pieces};

/// About how many bytes of a source are read at a time.
const STEP_BYTES: u64 = 64 << 20;

/// Compares what the pipeline keeps; what differs goes to `statements`.
pub(super) async fn probe(
    mut pipeline: Pipeline,
    still: Still,
    input: &Input,
    batches: &[Vec<RecordBatch>],
    statements: &mut [Compared],
    notes: &mut Vec<String>,
) -> Result<()> {
    let tables = tables(&pipeline, &still.store, notes).await?;
    let mut saved = Flow::new(&pipeline, still.store.last().epoch)?;
    (saved.dataflow, _) = saved.dataflow.restored(still.store).await?;
    let mut event_time = EventTime::new(&pipeline.plan, 0);
    event_time.restore(&still.parts)?;
    for record in &still.begun {
        let rows = event_time.admit(record, read_record(&pipeline, record).await?)?.on_time;
        saved.context.watermarks = event_time.watermarks();
        pipeline.time.set(record.now_micros);
        saved.context.seed = record.seed.unwrap_or_default();
        let outputs = saved.step(rows, if record.epoch == 1 { tables.clone() } else { BTreeMap::new() }).await?;
        for (sink, changes) in pipeline.sinks.iter_mut().zip(outputs) {
            sink.take(changes, true)?;
        }
    }
    for (at, sink) in pipeline.sinks.iter().enumerate() {
        if let Some(kept) = sink.kept()? {
            let columns = pipeline.plan.outputs[at].columns.inner();
            statements[at].kept = difference(columns, inserted(&batches[at]), vec![kept])?;
        }
    }
    saved.context.seed = 0;
    let mut anew = Flow::new(&pipeline, 0)?;
    // What an operator in the middle has wrong may be lost on the way out: of equal rows max() takes one.
    anew.dataflow.watch();
    saved.dataflow.watch();
    let mut tables = Some(tables);
    let steps = steps(&input.taken);
    let late = late_rows(&pipeline, input).await?;
    let mut left_out = late.clone();
    for step in &steps {
        let rows = read_on_time(&pipeline, step, &mut left_out).await?;
        anew.step(rows, tables.take().unwrap_or_default()).await?;
    }
    // What is over is forgotten by both.
    for flow in [&mut anew, &mut saved] {
        flow.context.watermarks = input.watermarks.clone();
        flow.step(vec![Vec::new(); pipeline.sources.len()], BTreeMap::new()).await?;
    }
    let mut differing = BTreeMap::new();
    let changes = push_again(&pipeline, [&mut anew, &mut saved], &steps, late).await?;
    for (node, [expected, found]) in changes.into_iter().enumerate() {
        let probed = difference(&pipeline.plan.nodes[node].schema, expected, found)?;
        if probed.rows.is_some() {
            differing.insert(node, probed);
        }
    }
    for (output, statement) in pipeline.plan.outputs.iter().zip(statements) {
        // The one that is nearest to the result tells most.
        let nodes = beneath(&pipeline, output.node);
        if let Some(node) = nodes.into_iter().find(|node| differing.contains_key(node))
            && statement.kept.rows.is_none()
        {
            statement.kept = differing[&node].clone();
        }
    }
    Ok(())
}

/// Pushes all input into both once more; gives what changes in each node.
async fn push_again(
    pipeline: &Pipeline,
    [anew, saved]: [&mut Flow; 2],
    steps: &[Vec<Option<OffsetRange>>],
    mut late: Vec<Option<LateRows>>,
) -> Result<Vec<[Vec<Changes>; 2]>> {
    let mut changes: Vec<[Vec<Changes>; 2]> = pipeline.plan.nodes.iter().map(|_| Default::default()).collect();
    for step in steps {
        let rows = read_on_time(pipeline, step, &mut late).await?;
        let both = [anew.step(rows.clone(), BTreeMap::new()).await?, saved.step(rows, BTreeMap::new()).await?];
        for (side, outputs) in both.into_iter().enumerate() {
            for (at, more) in outputs.into_iter().enumerate() {
                let all = &mut changes[at][side];
                all.extend(more);
                *all = consolidate(&pipeline.plan.nodes[at].schema, all)?.into_iter().collect();
            }
        }
    }
    Ok(changes)
}

/// A node and all that it reads, level by level.
fn beneath(pipeline: &Pipeline, node: NodeId) -> Vec<NodeId> {
    let mut all = vec![node];
    let mut at = 0;
    while at < all.len() {
        let inputs = pipeline.plan.nodes[all[at]].inputs.iter();
        let new: Vec<NodeId> = inputs.copied().filter(|input| !all.contains(input)).collect();
        all.extend(new);
        at += 1;
    }
    all
}

/// A dataflow, and what it needs to run.
struct Flow {
    dataflow: Dataflow,
    context: EpochContext,
}

impl Flow {
    fn new(pipeline: &Pipeline, epoch: Epoch) -> Result<Self> {
        let dataflow = Dataflow::build(Arc::clone(&pipeline.plan), pipeline.shards, &pipeline.state)?;
        let watermarks = vec![NO_WATERMARK; pipeline.plan.sources.len()];
        let state = pipeline.state.clone();
        let (runtime, taken) = (Handle::current(), BTreeMap::new());
        let context = EpochContext { epoch, seed: 0, runtime, state, watermarks, taken };
        Ok(Self { dataflow, context })
    }

    /// One epoch, on a thread that may compute.
    async fn step(
        &mut self,
        rows: Vec<Vec<RecordBatch>>,
        mut tables: BTreeMap<NodeId, Vec<RecordBatch>>,
    ) -> Result<Vec<Vec<Changes>>> {
        self.context.epoch += 1;
        tokio::task::block_in_place(|| self.dataflow.step(&rows, &mut tables, &self.context))
    }
}

/// The tables at rest, by their nodes: as they were when the pipeline began, where that is kept, else as they are.
async fn tables(
    pipeline: &Pipeline,
    store: &StateStore,
    notes: &mut Vec<String>,
) -> Result<BTreeMap<NodeId, Vec<RecordBatch>>> {
    let mut tables = BTreeMap::new();
    let mut changed = false;
    for (at, node) in pipeline.plan.nodes.iter().enumerate() {
        let Op::Static { plan } = &node.op else { continue };
        let physical = pipeline.state.create_physical_plan(plan).await?;
        let now = collect(physical, pipeline.state.task_ctx()).await?;
        let kept = store.load_table(&format!("node{at}")).await?;
        changed |= count(&inserted(&kept)) > 0
            && difference(&node.schema, inserted(&named(node, &now)?), inserted(&named(node, &kept)?))?.rows.is_some();
        tables.insert(at, named(node, &now)?);
    }
    if changed {
        notes.push("a table at rest has changed since the pipeline began; the batch reads it as it is now".to_owned());
    }
    Ok(tables)
}

fn named(node: &crate::planner::Node, batches: &[RecordBatch]) -> Result<Vec<RecordBatch>> {
    let columns = |batch: &RecordBatch| batch.columns()[..node.schema.fields().len()].to_vec();
    batches.iter().map(|batch| with_columns(&node.schema, columns(batch), batch.num_rows())).collect()
}

/// The rows of each source that were late.
async fn late_rows(pipeline: &Pipeline, input: &Input) -> Result<Vec<Option<LateRows>>> {
    let mut all = Vec::new();
    for ((source, node), late) in pipeline.sources.iter().zip(&pipeline.plan.sources).zip(&input.late) {
        if late.ranges.is_empty() {
            all.push(None);
            continue;
        }
        let time = node.columns.binary_search(&late.column).unwrap_or_default();
        let places: Vec<usize> = (0..node.columns.len()).collect();
        all.push(Some(LateRows::read(source.as_ref(), late, time, (source.schema(), &places)).await?));
    }
    Ok(all)
}

/// The rows of these ranges without those that were late.
async fn read_on_time(
    pipeline: &Pipeline,
    ranges: &[Option<OffsetRange>],
    late: &mut [Option<LateRows>],
) -> Result<Vec<Vec<RecordBatch>>> {
    let mut all = read(pipeline, ranges).await?;
    for (batches, late) in all.iter_mut().zip(late) {
        if let Some(late) = late {
            *batches = std::mem::take(batches).into_iter().map(|batch| late.strip(batch)).collect::<Result<_>>()?;
        }
    }
    Ok(all)
}

pub(super) async fn read_record(pipeline: &Pipeline, record: &EpochRecord) -> Result<Vec<Vec<RecordBatch>>> {
    let ranges = pipeline.plan.sources.iter().map(|node| record.sources.get(&node.name).cloned());
    read(pipeline, &ranges.collect::<Vec<_>>()).await
}

async fn read(pipeline: &Pipeline, ranges: &[Option<OffsetRange>]) -> Result<Vec<Vec<RecordBatch>>> {
    let mut all = Vec::new();
    for (source, range) in pipeline.sources.iter().zip(ranges) {
        all.push(match range {
            Some(range) => source.read(range).await?.batches,
            None => Vec::new(),
        });
    }
    Ok(all)
}

/// All that was taken, in steps of about [`STEP_BYTES`]: of each source a range, or nothing.
fn steps(taken: &[OffsetRange]) -> Vec<Vec<Option<OffsetRange>>> {
    let cut: Vec<Vec<OffsetRange>> = taken.iter().map(|range| grouped(pieces(range))).collect();
    // The first step brings the tables at rest.
    let count = cut.iter().map(Vec::len).max().unwrap_or(0).max(1);
    (0..count).map(|step| cut.iter().map(|source| source.get(step).cloned()).collect()).collect()
}

/// Files that are read together.
fn grouped(pieces: Vec<OffsetRange>) -> Vec<OffsetRange> {
    let mut groups: Vec<OffsetRange> = Vec::new();
    let mut bytes = 0;
    for piece in pieces {
        match (groups.last_mut(), piece) {
            (Some(OffsetRange::Files(group)), OffsetRange::Files(more)) if bytes < STEP_BYTES => {
                bytes += more.iter().map(|slice| slice.bytes).sum::<u64>();
                group.extend(more);
            }
            (_, piece) => {
                bytes = match &piece {
                    OffsetRange::Files(slices) => slices.iter().map(|slice| slice.bytes).sum(),
                    _ => 0,
                };
                groups.push(piece);
            }
        }
    }
    groups
}
