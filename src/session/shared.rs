//! Aggregates that a query has more than once are computed once.
//!
//! Enters: a physical plan. Leaves: the same plan, in which the second of two equal aggregates, such as those of a
//! CTE that is named twice, reads what the first has computed. Always holds: aggregates are equal only where all that
//! is beneath them is, down to the same ranges of the same files, and where none of it is volatile; what is kept for
//! the second goes to disk where memory ends.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arrow::array::RecordBatch;
use datafusion::common::DataFusionError;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, SpillFile, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, SpillMetrics};
use datafusion::physical_plan::spill::SpillManager;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::future::{BoxFuture, Shared};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use regex::Regex;

/// What a filter that only comes to be while the query runs looks like.
const DYNAMIC: &str = r"( AND |, predicate=)?DynamicFilter \[[^\]]*\]|, dynamic_rg_pruning=\w+";

/// The plan, with equal aggregates shared.
pub(super) fn share_aggregates(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    // Most plans have one or none, and are not read further.
    if count(&plan) < 2 {
        return Ok(plan);
    }
    let mut seen = Seen::new();
    collect(&plan, &mut seen);
    seen.retain(|_, found| found.times > 1 && found.whole.is_some());
    if seen.is_empty() { Ok(plan) } else { replace(plan, &seen, &mut HashMap::new()) }
}

/// How many aggregates a plan has.
fn count(plan: &Arc<dyn ExecutionPlan>) -> usize {
    usize::from(is_final(plan.as_ref())) + plan.children().into_iter().map(count).sum::<usize>()
}

/// True for an aggregate that gives results, and not states.
fn is_final(plan: &dyn ExecutionPlan) -> bool {
    let mode = plan.downcast_ref::<AggregateExec>().map(|aggregate| *aggregate.mode());
    mode.is_some_and(|mode| !matches!(mode, AggregateMode::Partial | AggregateMode::PartialReduce))
}

fn dynamic_filters() -> Option<&'static Regex> {
    static COMPILED: OnceLock<Option<Regex>> = OnceLock::new();
    COMPILED.get_or_init(|| Regex::new(DYNAMIC).ok()).as_ref()
}

/// By how they read, the aggregates of a plan.
type Seen = HashMap<String, Found>;

struct Found {
    times: usize,
    /// One whose input is not filtered by what another part of the plan finds: it serves all.
    whole: Option<Arc<dyn ExecutionPlan>>,
}

fn collect(plan: &Arc<dyn ExecutionPlan>, seen: &mut Seen) {
    if let Some((text, is_whole)) = text_of_aggregate(plan.as_ref()) {
        let found = seen.entry(text).or_insert(Found { times: 0, whole: None });
        found.times += 1;
        if is_whole {
            found.whole.get_or_insert_with(|| Arc::clone(plan));
        }
        if found.times > 1 {
            return;
        }
    }
    plan.children().into_iter().for_each(|child| collect(child, seen));
}

fn replace(
    plan: Arc<dyn ExecutionPlan>,
    seen: &Seen,
    made: &mut HashMap<String, Arc<Kept>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let text = text_of_aggregate(plan.as_ref()).map(|(text, _)| text);
    let found = text.and_then(|text| Some((seen.get(&text)?.whole.as_ref()?, text)));
    let Some((whole, text)) = found else { return replace_beneath(plan, seen, made) };
    if let Some(kept) = made.get(&text) {
        return Ok(Arc::new(SharedExec { kept: Arc::clone(kept), first: false }));
    }
    let input = replace_beneath(Arc::clone(whole), seen, made)?;
    let kept = Arc::new(Kept::new(input));
    made.insert(text, Arc::clone(&kept));
    Ok(Arc::new(SharedExec { kept, first: true }))
}

fn replace_beneath(
    plan: Arc<dyn ExecutionPlan>,
    seen: &Seen,
    made: &mut HashMap<String, Arc<Kept>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let old: Vec<Arc<dyn ExecutionPlan>> = plan.children().into_iter().cloned().collect();
    let new = old.iter().map(|child| replace(Arc::clone(child), seen, made)).collect::<Result<Vec<_>>>()?;
    let same = old.iter().zip(&new).all(|(old, new)| Arc::ptr_eq(old, new));
    if same {
        Ok(plan)
    } else {
        plan.replace_children(new, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }
}

/// How an aggregate and all beneath it read, and whether nothing in it waits for another part of the plan.
fn text_of_aggregate(plan: &dyn ExecutionPlan) -> Option<(String, bool)> {
    if !is_final(plan) {
        return None;
    }
    let mut text = String::new();
    describe(plan, 0, &mut text)?;
    // A value that another part of the plan computes has no name.
    if text.contains("scalar_subquery") {
        return None;
    }
    let known = dynamic_filters()?.replace_all(&text, "").into_owned();
    let is_whole = known == text;
    Some((known, is_whole))
}

struct Line<'a>(&'a dyn ExecutionPlan);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_as(DisplayFormatType::Verbose, f)
    }
}

/// Writes how a plan reads; nothing where that does not say all, or twice need not be the same.
fn describe(plan: &dyn ExecutionPlan, depth: usize, text: &mut String) -> Option<()> {
    let mut volatile = false;
    let expressions = plan.apply_expressions(&mut |expr: &Arc<dyn PhysicalExpr>| {
        volatile |= is_volatile(expr);
        Ok(TreeNodeRecursion::Continue)
    });
    if expressions.is_err() || volatile {
        return None;
    }
    writeln!(text, "{depth} {} {:?} {}", plan.name(), plan.schema().fields(), Line(plan)).ok()?;
    let children = plan.children();
    if children.is_empty() {
        let scan = plan.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref::<FileScanConfig>()?;
        write!(text, "{:?} {:?}", scan.object_store_url, scan.limit).ok()?;
        // How files of other formats are read does not show in a line.
        if scan.file_source().file_type() != "parquet" {
            return None;
        }
    }
    children.into_iter().try_for_each(|child| describe(child.as_ref(), depth + 1, text))
}

/// The rows of a partition, and the memory that is accounted for them.
type Filled = Arc<(Vec<Piece>, MemoryReservation)>;
type Filling = Shared<BoxFuture<'static, std::result::Result<Filled, Arc<DataFusionError>>>>;

/// A plan, and what its partitions have given.
struct Kept {
    input: Arc<dyn ExecutionPlan>,
    /// By partition; who needs one first begins it, and whoever waits for it drives it.
    partitions: Vec<Mutex<Option<Filling>>>,
    metrics: ExecutionPlanMetricsSet,
}

/// Some rows of a partition.
enum Piece {
    Rows(RecordBatch),
    OnDisk(Arc<dyn SpillFile>),
}

/// The rows of one partition while they come.
struct Collected {
    pieces: Vec<Piece>,
    rows: Vec<RecordBatch>,
    memory: MemoryReservation,
    disk: SpillManager,
}

impl Collected {
    fn push(&mut self, batch: RecordBatch) -> Result<()> {
        if self.memory.try_grow(batch.get_array_memory_size()).is_err() {
            self.rows.push(batch);
            let file = self.disk.spill_record_batch_and_finish(&self.rows, "rows that are read twice")?;
            self.pieces.extend(file.map(Piece::OnDisk));
            self.rows.clear();
            self.memory.free();
        } else {
            self.rows.push(batch);
        }
        Ok(())
    }
}

impl Kept {
    fn new(input: Arc<dyn ExecutionPlan>) -> Self {
        let partitions = input.properties().output_partitioning().partition_count();
        let partitions = (0..partitions).map(|_| Mutex::new(None)).collect();
        Self { input, partitions, metrics: ExecutionPlanMetricsSet::new() }
    }

    fn disk(&self, partition: usize, context: &TaskContext) -> SpillManager {
        SpillManager::new(context.runtime_env(), SpillMetrics::new(&self.metrics, partition), self.input.schema())
    }

    fn fill(&self, partition: usize, context: &Arc<TaskContext>) -> Result<Filling> {
        let mut filling = self.partitions[partition].lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(filling) = filling.as_ref() {
            return Ok(filling.clone());
        }
        let mut input = self.input.execute(partition, Arc::clone(context))?;
        let memory = MemoryConsumer::new("SharedExec").with_can_spill(true).register(context.memory_pool());
        let disk = self.disk(partition, context);
        let all = async move {
            let mut collected = Collected { pieces: Vec::new(), rows: Vec::new(), memory, disk };
            while let Some(batch) = input.try_next().await? {
                collected.push(batch)?;
            }
            let Collected { mut pieces, rows, memory, .. } = collected;
            pieces.extend(rows.into_iter().map(Piece::Rows));
            Ok(Arc::new((pieces, memory)))
        };
        let all = all.map(|all: Result<Filled>| all.map_err(Arc::new)).boxed().shared();
        *filling = Some(all.clone());
        Ok(all)
    }
}

/// Gives the rows of an aggregate that other parts of the plan read too.
struct SharedExec {
    kept: Arc<Kept>,
    /// The aggregate stands beneath this one; the others have nothing beneath.
    first: bool,
}

impl fmt::Debug for SharedExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedExec").field("first", &self.first).finish_non_exhaustive()
    }
}

impl DisplayAs for SharedExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.first { "SharedExec: read more than once" } else { "SharedExec: computed above" })
    }
}

impl ExecutionPlan for SharedExec {
    fn name(&self) -> &'static str {
        "SharedExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.kept.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        if self.first { vec![&self.kept.input] } else { Vec::new() }
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    /// Plans are shared last: no rule changes one afterwards.
    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let filling = self.kept.fill(partition, &context)?;
        let disk = self.kept.disk(partition, &context);
        let rows = async move {
            let filled = filling.await.map_err(DataFusionError::Shared)?;
            let pieces = (0..filled.0.len()).map(move |at| Ok::<_, DataFusionError>((Arc::clone(&filled), at)));
            let rows = stream::iter(pieces).and_then(move |(filled, at)| {
                let rows: Result<BoxStream<'static, Result<RecordBatch>>> = match &filled.0[at] {
                    Piece::Rows(rows) => Ok(stream::iter([Ok(rows.clone())]).boxed()),
                    Piece::OnDisk(file) => disk.read_spill_as_stream(Arc::clone(file), None).map(StreamExt::boxed),
                };
                std::future::ready(rows)
            });
            Ok::<_, DataFusionError>(rows.try_flatten())
        };
        let rows = stream::once(rows).try_flatten();
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.kept.input.schema(), rows)))
    }
}
