//! The law of fusion, for a user to see.
//!
//! Enters: a pipeline and its state. Leaves: a [`Verdict`]: whether what its sinks show, and what it keeps, is what the
//! same statements give as a batch over exactly the input that was taken. Always holds: nothing is changed, neither
//! the state nor what was written.

mod difference;
mod probe;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::datasource::{ViewTable, provider_as_source, source_as_provider};
use datafusion::execution::memory_pool::PeakRecordingPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, lit};

use super::Pipeline;
use super::event_time::{EventTime, late_ranges};
use crate::change::Changes;
use crate::checkpoint::{Commit, Cost, EpochRecord, Identity, Logs, StateStore};
use crate::clock::{Stopwatch, now_micros};
use crate::durable::Folder;
use crate::error::{Error, Result};
use crate::offset::{ENDED, Epoch, OffsetRange};
use crate::operator::Dataflow;
use crate::operator::expiry::Horizon;
use crate::planner::{Bound, EmitFinal, Maintained, Op, SourceNode, Term};
use crate::source::stream::{LateRanges, NetTable, Open, StreamTable, TakenTable};
use crate::times::in_type;

pub use difference::{Difference, sample};

/// What a statement should have given and what it has.
#[derive(Debug)]
pub struct Compared {
    /// Where it writes.
    pub target: String,
    /// Rows of the batch.
    pub rows: u64,
    /// What differs in what readers see; nothing if it cannot be read again.
    pub shown: Option<Difference>,
    /// What differs in what is kept between epochs.
    pub kept: Difference,
}

/// What was found.
#[derive(Debug)]
pub struct Verdict {
    /// The last epoch that was committed.
    pub epoch: Epoch,
    /// By the places of the statements.
    pub statements: Vec<Compared>,
    /// What the batch has cost.
    pub batch: Cost,
    /// What the epochs have cost.
    pub epochs: Cost,
    /// What has to be known to judge it.
    pub notes: Vec<String>,
}

impl Verdict {
    /// True if nothing differs.
    pub fn is_equal(&self) -> bool {
        let equal = |difference: &Difference| difference.rows.is_none();
        self.statements.iter().all(|one| equal(&one.kept) && one.shown.as_ref().is_none_or(equal))
    }
}

/// A state that stands still.
struct Still {
    parts: BTreeMap<String, Vec<RecordBatch>>,
    /// The epochs behind the checkpoint.
    begun: Vec<EpochRecord>,
    committed: Commit,
    store: StateStore,
}

/// Runs the statements as a batch over what the pipeline has taken, and compares.
pub async fn verify(mut pipeline: Pipeline, folder: &Folder) -> Result<Verdict> {
    let _lock = folder.lock()?.ok_or_else(|| {
        Error::query(format!("another process runs on the state in {}", folder.name()))
            .hint("stop it: what it shows changes while it is compared")
    })?;
    let still = open(&mut pipeline, folder).await?;
    let mut taken = Vec::new();
    for (source, node) in pipeline.sources.iter_mut().zip(&pipeline.plan.sources) {
        for record in &still.begun {
            record.sources.get(&node.name).map_or(Ok(()), |range| source.advance(range))?;
        }
        taken.push(source.taken().map_err(|error| gone(error, &node.name))?);
    }
    let mut notes = Vec::new();
    let input = Input { late: late(&pipeline, &still)?, watermarks: watermarks(&pipeline, &still).await?, taken };
    let (batches, batch) = rerun(&pipeline, folder, &input).await?;
    let mut statements = Vec::new();
    for (at, rows) in batches.iter().enumerate() {
        statements.push(compare(&mut pipeline, at, rows).await?);
    }
    if statements.iter().any(|one| one.shown.is_none()) {
        let note = "what went to the console cannot be read again: of its statement the state is checked, and no rows";
        notes.push(note.to_owned());
    }
    let epochs = still.committed.cost;
    let epoch = still.committed.epoch;
    let tells_time = pipeline.statements.iter().any(|one| is_volatile(&one.plan));
    let at_rest = pipeline.plan.nodes.iter().any(|node| matches!(node.op, Op::Static { .. }));
    if !still.committed.late.is_empty() {
        let late: u64 = still.committed.late.values().sum();
        notes.push(format!("rows that were late were left out, here as well: {late}"));
    }
    probe::probe(pipeline, still, &input, &batches, &mut statements, &mut notes).await?;
    let mut verdict = Verdict { epoch, statements, batch, epochs, notes };
    if at_rest && !verdict.is_equal() {
        let note = "tables at rest were read when the pipeline began, and here as they are now";
        verdict.notes.push(note.to_owned());
    }
    if tells_time && !verdict.is_equal() {
        let note = "now() and the like were the times of the epochs, and random() has other values each time";
        verdict.notes.push(note.to_owned());
    }
    Ok(verdict)
}

/// What the epochs have read.
struct Input {
    /// Of each source.
    taken: Vec<OffsetRange>,
    /// What of that was late, by source.
    late: Vec<LateRanges>,
    /// Where the watermark of each source stands in the end.
    watermarks: Vec<i64>,
}

/// What has brought late rows: what checkpoints say of it, and all epochs behind them.
fn late(pipeline: &Pipeline, still: &Still) -> Result<Vec<LateRanges>> {
    let known = late_ranges(&still.parts)?;
    let of = |node: &SourceNode| {
        let Some(watermark) = node.stream().and_then(StreamTable::watermark) else { return LateRanges::default() };
        let known = known.iter().filter(|late| late.source == node.name);
        let known = known.map(|late| (late.range.clone(), late.watermark));
        let behind = still
            .begun
            .iter()
            .filter_map(|record| Some((record.sources.get(&node.name)?.clone(), *record.watermarks.get(&node.name)?)));
        LateRanges { ranges: known.chain(behind).collect(), column: watermark.column }
    };
    Ok(pipeline.plan.sources.iter().map(of).collect())
}

/// Where the watermarks stand behind the last epoch.
async fn watermarks(pipeline: &Pipeline, still: &Still) -> Result<Vec<i64>> {
    let mut event_time = EventTime::new(&pipeline.plan, 0);
    event_time.restore(&still.parts)?;
    for record in &still.begun {
        event_time.admit(record, probe::read_record(pipeline, record).await?)?;
    }
    Ok(event_time.watermarks())
}

/// True if a query has other answers at other times.
fn is_volatile(plan: &LogicalPlan) -> bool {
    let text = plan.display_indent().to_string();
    ["now()", "current_date()", "current_time()", "random()", "uuid()"].iter().any(|call| text.contains(call))
}

fn gone(error: Error, table: &str) -> Error {
    Error { message: format!("{table}: {}", error.message), ..error }
        .note("a batch over what was taken needs all of it once more")
}

/// Opens the state of this pipeline as it is.
async fn open(pipeline: &mut Pipeline, folder: &Folder) -> Result<Still> {
    let nothing = || Error::query(format!("there is no state of a pipeline in {}", folder.name()));
    let known = Identity::read(folder).await?.ok_or_else(nothing)?;
    let new = super::recovery::identity(&pipeline.plan, pipeline.targets.clone(), now_micros())?;
    known.expect(&new, folder)?;
    pipeline.sinks.iter_mut().for_each(|sink| sink.identify(&known.id));
    let store = StateStore::open(folder.clone()).await?;
    let parts = store.parts(|name| !Dataflow::has_part(name)).await?;
    let (begun, committed) = Logs::new(folder.clone()).read(store.last().epoch).await?;
    if let Some(last) = begun.last().filter(|last| last.epoch > committed.epoch) {
        return Err(Error::query(format!("epoch {} was begun and is not committed", last.epoch))
            .note("some of what it brings may be shown already")
            .hint("fuse query … --once finishes it"));
    }
    for (at, source) in pipeline.sources.iter_mut().enumerate() {
        source.attach(folder, &format!("source{at}"))?;
        source.restore(parts.get(&format!("source{at}")).cloned().unwrap_or_default())?;
    }
    for (at, sink) in pipeline.sinks.iter_mut().enumerate() {
        if let Some(saved) = parts.get(&format!("sink{at}")) {
            sink.restore(saved.clone())?;
        }
    }
    Ok(Still { parts, begun, committed, store })
}

/// The rows of each statement, as a batch over these ranges of the sources.
async fn rerun(pipeline: &Pipeline, folder: &Folder, input: &Input) -> Result<(Vec<Vec<RecordBatch>>, Cost)> {
    let watch = Stopwatch::start();
    let read = Arc::new(AtomicU64::new(0));
    let env = pipeline.batch.runtime_env();
    let pool = Arc::new(PeakRecordingPool::new(Arc::clone(&env.memory_pool)));
    let env = RuntimeEnvBuilder::from_runtime_env(env).with_memory_pool(Arc::clone(&pool) as _).build_arc()?;
    let state = SessionStateBuilder::new_from_existing(pipeline.batch.clone()).with_runtime_env(env).build();
    let mut results = Vec::new();
    for statement in &pipeline.statements {
        let plan = over_taken(statement.plan.clone(), pipeline, folder, input, &read)?;
        results.push(run(&state, &plan).await?);
    }
    let micros = u64::try_from(watch.elapsed().as_micros()).unwrap_or(u64::MAX);
    let cost = Cost { micros, rows: read.load(Ordering::Relaxed), bytes: pool.max_reserved() as u64 };
    Ok((results, cost))
}

async fn run(state: &SessionState, plan: &LogicalPlan) -> Result<Vec<RecordBatch>> {
    let physical = state.create_physical_plan(&state.optimize(plan)?).await?;
    Ok(datafusion::physical_plan::collect(physical, state.task_ctx()).await?)
}

/// The plan with tables of what was taken in place of those that grow.
fn over_taken(
    plan: LogicalPlan,
    pipeline: &Pipeline,
    folder: &Folder,
    input: &Input,
    read: &Arc<AtomicU64>,
) -> Result<LogicalPlan> {
    let replaced = plan.transform_up_with_subqueries(|node| {
        if let Some(EmitFinal { input: rows, closed: Some((column, bound)) }) = EmitFinal::of(&node) {
            let closed = closed(pipeline, input, column, bound, rows.schema())?;
            return Ok(Transformed::yes(LogicalPlanBuilder::from(LogicalPlan::clone(rows)).filter(closed)?.build()?));
        }
        let LogicalPlan::TableScan(mut scan) = node else { return Ok(Transformed::no(node)) };
        let table = source_as_provider(&scan.source)?;
        if let Some(view) = table.downcast_ref::<Maintained>() {
            let plan = over_taken(view.plan().clone(), pipeline, folder, input, read)?;
            scan.source = provider_as_source(Arc::new(ViewTable::new(plan, None)));
            return Ok(Transformed::yes(LogicalPlan::TableScan(scan)));
        }
        let Some(stream) = table.downcast_ref::<StreamTable>() else {
            return Ok(Transformed::no(LogicalPlan::TableScan(scan)));
        };
        let at = pipeline.plan.sources.iter().position(|source| Arc::ptr_eq(&source.table, &table));
        // Of a source that no node reads any more, nothing is needed.
        let range = at.map_or(OffsetRange::Files(Vec::new()), |at| input.taken[at].clone());
        let late = at.map_or_else(LateRanges::default, |at| input.late[at].clone());
        let open = opener(pipeline, &table, folder, at.unwrap_or_default());
        let (columns, read) = (Arc::clone(stream.columns()), Arc::clone(read));
        let rows: Arc<dyn TableProvider> = match stream.upkeep() {
            Some(upkeep) => Arc::new(NetTable::taken(columns, upkeep.clone(), range, open, read)),
            None => Arc::new(TakenTable::new(columns, range, open, late, read)),
        };
        scan.source = provider_as_source(rows);
        Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
    })?;
    Ok(replaced.data)
}

/// Which rows EMIT FINAL has shown.
fn closed(pipeline: &Pipeline, input: &Input, column: &Column, bound: &Bound, rows: &DFSchema) -> Result<Expr> {
    // The bound knows the sources by the plan that it was found in.
    let here = |term: &Term| {
        let at = pipeline.plan.sources.iter().position(|source| source.name == term.table);
        Ok(Term { source: at.ok_or_else(|| Error::query("a watermark of no source"))?, ..term.clone() })
    };
    let bound = bound.iter().map(here).collect::<Result<Bound>>()?;
    let column = Expr::Column(column.clone());
    Ok(match Horizon::new(&bound, &pipeline.state)?.at(&input.watermarks)? {
        None => lit(false),
        Some(ENDED) => column.is_not_null(),
        Some(limit) => {
            let kind = column.get_type(rows)?;
            column.lt(Expr::Literal(ScalarValue::try_from_array(&in_type(limit, &kind)?, 0)?, None))
        }
    })
}

fn opener(pipeline: &Pipeline, table: &Arc<dyn TableProvider>, folder: &Folder, at: usize) -> Open {
    let (open, table, folder) = (Arc::clone(&pipeline.open), Arc::clone(table), folder.clone());
    Arc::new(move |columns| {
        let stream = table.downcast_ref::<StreamTable>().ok_or_else(|| Error::query("a table that does not grow"))?;
        let mut source = open(stream, columns)?;
        source.attach(&folder, &format!("source{at}"))?;
        Ok(source)
    })
}

/// What the sink of a statement shows, beside the rows of the batch.
async fn compare(pipeline: &mut Pipeline, at: usize, batches: &[RecordBatch]) -> Result<Compared> {
    let (sink, columns) = (&mut pipeline.sinks[at], pipeline.plan.outputs[at].columns.inner());
    let rows = batches.iter().map(|batch| batch.num_rows() as u64).sum();
    let shown = match sink.shown().await? {
        Some(image) => {
            let mut expected = Vec::new();
            for batch in batches {
                expected.extend(sink.image(batch)?);
            }
            Some(difference::difference(columns, expected, image.rows)?)
        }
        None => None,
    };
    Ok(Compared { target: pipeline.statements[at].target.clone(), rows, shown, kept: Difference::default() })
}

fn inserted(batches: &[RecordBatch]) -> Vec<Changes> {
    batches.iter().cloned().map(Changes::inserted).collect()
}
