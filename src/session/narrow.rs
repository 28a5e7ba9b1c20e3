//! Aggregates beneath a join read only the rows whose groups the join can meet.
//!
//! Enters: a physical plan. Leaves: the same plan, in which the first side of a hash join notes its keys, and the scan
//! beneath an aggregate on the other side leaves out rows of other keys: `x > (SELECT avg(x) FROM t WHERE t.k = s.k)`
//! aggregates the groups of `s`, and not all of `t` (sideways information passing, the "magic sets" of Beeri and
//! Ramakrishnan 1987, at run time). Always holds: a row that is left out is in no row of the result, whatever the keys
//! are; what is left out by a hash may be kept, since the join compares the keys themselves; no expression that could
//! fail is spared a row.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Schema};
use datafusion::common::hash_utils::{RandomState, create_hashes};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{JoinType, NullEquality};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{
    BinaryExpr, CastExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal, NotExpr,
};
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{StreamExt, TryStreamExt};

use crate::config::{NARROWING_KEYS, NARROWING_ROWS};

type Plan = Arc<dyn ExecutionPlan>;

/// The plan, with aggregates that read less.
pub(super) fn narrow_aggregates(plan: Plan) -> Result<Plan> {
    // What runs more than once would find the keys of its first run.
    if has(&plan, &|node| node.name() == "RecursiveQueryExec") || !has(&plan, &|node| node.is::<AggregateExec>()) {
        return Ok(plan);
    }
    narrow(plan)
}

fn has(plan: &Plan, wanted: &dyn Fn(&dyn ExecutionPlan) -> bool) -> bool {
    wanted(plan.as_ref()) || plan.children().into_iter().any(|child| has(child, wanted))
}

fn with_children(plan: Plan, children: Vec<Plan>) -> Result<Plan> {
    plan.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep))
}

fn narrow(plan: Plan) -> Result<Plan> {
    let old: Vec<Plan> = plan.children().into_iter().cloned().collect();
    let mut new = old.iter().map(|child| narrow(Arc::clone(child))).collect::<Result<Vec<_>>>()?;
    if let Some(join) = plan.downcast_ref::<HashJoinExec>().filter(|join| may_narrow(join)) {
        for (left, right) in join.on() {
            let (Some(left), Some(right)) = (left.downcast_ref::<Column>(), right.downcast_ref::<Column>()) else {
                continue;
            };
            let of = |plan: &Plan, column: &Column| plan.schema().field(column.index()).data_type().clone();
            let kind = of(&new[0], left);
            if kind != of(&new[1], right) || !has_one_hash(&kind) {
                continue;
            }
            let keys = Arc::new(Keys::default());
            if let Some(read) = place(&new[1], right.index(), false, &keys)? {
                new[0] = noted(Arc::clone(&new[0]), left.index(), &keys)?;
                new[1] = read;
            }
        }
    }
    let same = old.iter().zip(&new).all(|(old, new)| Arc::ptr_eq(old, new));
    if same { Ok(plan) } else { with_children(plan, new) }
}

/// True if a row of the second side that meets none of the first is in no row of the result.
fn may_narrow(join: &HashJoinExec) -> bool {
    use JoinType::*;
    matches!(join.join_type(), Inner | Left | LeftSemi | LeftAnti | LeftMark)
        && join.null_equality() == NullEquality::NullEqualsNothing
        && !join.null_aware
        // Of all rows of a table nothing is left out.
        && has(join.left(), &|node| node.is::<FilterExec>())
}

/// True for types whose equal values have the same hash.
fn has_one_hash(kind: &DataType) -> bool {
    kind.is_integer()
        || kind.is_temporal()
        || matches!(kind, DataType::Decimal128(..) | DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8)
}

/// The same with a filter of these keys above the scan that a column comes from; nothing if it comes through no
/// aggregate, or through something that has to see all rows.
fn place(plan: &Plan, column: usize, aggregated: bool, keys: &Arc<Keys>) -> Result<Option<Plan>> {
    if plan.is::<DataSourceExec>() {
        let narrowed = || Narrowed { input: Arc::clone(plan), column, keys: Arc::clone(keys) };
        return Ok(aggregated.then(|| Arc::new(narrowed()) as Plan));
    }
    let Some((child, column)) = beneath(plan, column) else { return Ok(None) };
    let aggregated = aggregated || plan.is::<AggregateExec>();
    let mut children: Vec<Plan> = plan.children().into_iter().cloned().collect();
    let Some(new) = place(&children[child], column, aggregated, keys)? else { return Ok(None) };
    children[child] = new;
    with_children(Arc::clone(plan), children).map(Some)
}

/// The child that a column of a node comes from as it is, and its place there, if rows of the child may be left out by
/// it before the node sees them.
fn beneath(plan: &Plan, column: usize) -> Option<(usize, usize)> {
    let place = |expr: &Arc<dyn PhysicalExpr>| expr.downcast_ref::<Column>().map(Column::index);
    let input = plan.children().first().map(|child| child.schema())?;
    let cannot_fail = |expr: &Arc<dyn PhysicalExpr>| cannot_fail(expr, &input);
    if plan.is::<RepartitionExec>() || plan.is::<CoalescePartitionsExec>() {
        return Some((0, column));
    }
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        let safe = projection.expr().iter().all(|one| cannot_fail(&one.expr));
        return place(&projection.expr().get(column)?.expr).filter(|_| safe).map(|at| (0, at));
    }
    if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        let at = filter.projection().as_ref().map_or(Some(column), |places| places.get(column).copied())?;
        return cannot_fail(filter.predicate()).then_some((0, at));
    }
    if let Some(aggregate) = plan.downcast_ref::<AggregateExec>() {
        let group = aggregate.group_expr();
        let merges = matches!(aggregate.mode(), AggregateMode::Final | AggregateMode::FinalPartitioned);
        // What merges takes states, by their places, and not the arguments that it names.
        let safe = merges || aggregate.aggr_expr().iter().all(|one| one.expressions().iter().all(&cannot_fail));
        let plain = group.is_single() && aggregate.filter_expr().iter().flatten().all(&cannot_fail) && safe;
        return place(&group.expr().get(column)?.0).filter(|_| plain).map(|at| (0, at));
    }
    let join = plan.downcast_ref::<HashJoinExec>()?;
    let at = join.projection.as_ref().map_or(Some(column), |places| places.get(column).copied())?;
    let of_left = join.left().schema().fields().len();
    match join.join_type() {
        _ if join.filter().is_some() => None,
        JoinType::Inner if at >= of_left => Some((1, at - of_left)),
        JoinType::Inner | JoinType::LeftSemi => Some((0, at)),
        _ => None,
    }
}

/// True for expressions that have a value for each row; of numbers with a fraction it is taken that they fit.
fn cannot_fail(expr: &Arc<dyn PhysicalExpr>, input: &Schema) -> bool {
    let fractional = |expr: &Arc<dyn PhysicalExpr>| {
        expr.data_type(input).is_ok_and(|kind| kind.is_floating() || matches!(kind, DataType::Decimal128(..)))
    };
    let known = expr.is::<Column>()
        || expr.is::<Literal>()
        || expr.is::<IsNullExpr>()
        || expr.is::<IsNotNullExpr>()
        || expr.is::<NotExpr>()
        || expr.is::<InListExpr>()
        || expr.is::<LikeExpr>()
        || (expr.is::<CastExpr>() && fractional(expr))
        || expr.downcast_ref::<BinaryExpr>().is_some_and(|binary| {
            use Operator::{And, Eq, Gt, GtEq, Lt, LtEq, Minus, Multiply, NotEq, Or, Plus};
            match binary.op() {
                And | Eq | Gt | GtEq | Lt | LtEq | NotEq | Or => true,
                Minus | Multiply | Plus => fractional(binary.left()) && fractional(binary.right()),
                _ => false,
            }
        });
    known && expr.children().into_iter().all(|child| cannot_fail(child, input))
}

/// The first side of a join, with its keys noted where they are known before the other side is read: beneath what
/// brings its partitions together.
fn noted(plan: Plan, column: usize, keys: &Arc<Keys>) -> Result<Plan> {
    if plan.is::<CoalescePartitionsExec>() || plan.is::<RepartitionExec>() {
        let child = noted(Arc::clone(plan.children()[0]), column, keys)?;
        return with_children(plan, vec![child]);
    }
    Ok(Arc::new(Noted { input: plan, column, keys: Arc::clone(keys) }))
}

/// The hashes of the keys of one side of a join.
#[derive(Debug, Default)]
struct Keys {
    found: Mutex<Found>,
    /// All keys; nothing if they are too many.
    all: OnceLock<Option<HashSet<u64>>>,
}

#[derive(Debug, Default)]
struct Found {
    hashes: HashSet<u64>,
    partitions: usize,
}

impl Keys {
    /// Takes the keys of a partition that has ended, of so many.
    fn take(&self, hashes: HashSet<u64>, of: usize) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.hashes.extend(hashes);
        found.partitions += 1;
        if found.partitions == of {
            let hashes = std::mem::take(&mut found.hashes);
            let _ = self.all.set((hashes.len() <= NARROWING_KEYS).then_some(hashes));
        }
    }
}

fn hashes(column: &ArrayRef) -> Result<Vec<u64>> {
    let mut hashes = vec![0; column.len()];
    create_hashes([column], &RandomState::default(), &mut hashes)?;
    Ok(hashes)
}

/// Passes rows on, and notes the keys.
#[derive(Debug)]
struct Noted {
    input: Plan,
    column: usize,
    keys: Arc<Keys>,
}

/// Passes on the rows of keys that were noted.
#[derive(Debug)]
struct Narrowed {
    input: Plan,
    column: usize,
    keys: Arc<Keys>,
}

/// What a [`Narrowed`] has seen of a partition.
#[derive(Default)]
struct Seen {
    read: usize,
    kept: usize,
}

impl Seen {
    /// The rows of a batch that are passed on.
    fn pass(&mut self, batch: RecordBatch, column: usize, keys: &Keys) -> Result<RecordBatch> {
        let Some(Some(known)) = keys.all.get() else { return Ok(batch) };
        // Where most rows stay, looking for them costs more than it spares.
        if self.read > NARROWING_ROWS && self.kept * 2 > self.read {
            return Ok(batch);
        }
        let kept =
            hashes(batch.column(column))?.iter().map(|hash| Some(known.contains(hash))).collect::<BooleanArray>();
        self.read += batch.num_rows();
        self.kept += kept.true_count();
        Ok(filter_record_batch(&batch, &kept)?)
    }
}

/// Both nodes look like their input to what is above.
macro_rules! as_its_input {
    ($node:ident, $shown:literal) => {
        impl DisplayAs for $node {
            fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}: {}", $shown, self.input.schema().field(self.column).name())
            }
        }

        impl ExecutionPlan for $node {
            fn name(&self) -> &'static str {
                $shown
            }

            fn properties(&self) -> &Arc<PlanProperties> {
                self.input.properties()
            }

            fn children(&self) -> Vec<&Plan> {
                vec![&self.input]
            }

            fn apply_expressions(
                &self,
                _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
            ) -> Result<TreeNodeRecursion> {
                Ok(TreeNodeRecursion::Continue)
            }

            fn replace_children(self: Arc<Self>, mut new: Vec<Plan>, _: ReplaceChildrenOptions) -> Result<Plan> {
                let input = new.pop().unwrap_or_else(|| Arc::clone(&self.input));
                Ok(Arc::new($node { input, column: self.column, keys: Arc::clone(&self.keys) }))
            }

            fn with_new_children(self: Arc<Self>, new: Vec<Plan>) -> Result<Plan> {
                self.replace_children(new, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
            }

            fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
                let input = self.input.execute(partition, context)?;
                Ok(Box::pin(RecordBatchStreamAdapter::new(input.schema(), self.rows(input))))
            }
        }
    };
}

as_its_input!(Noted, "KeysNotedExec");
as_its_input!(Narrowed, "KeysKnownExec");

impl Noted {
    fn rows(
        &self,
        input: SendableRecordBatchStream,
    ) -> impl futures::Stream<Item = Result<RecordBatch>> + Send + 'static {
        let (column, keys) = (self.column, Arc::clone(&self.keys));
        let partitions = self.input.properties().output_partitioning().partition_count();
        let state = (input, Some(HashSet::new()), keys);
        futures::stream::try_unfold(state, move |(mut input, mut found, keys)| async move {
            let next = input.try_next().await?;
            match (&next, &mut found) {
                (Some(batch), Some(found)) if found.len() <= NARROWING_KEYS => {
                    found.extend(hashes(batch.column(column))?);
                }
                (None, _) => keys.take(found.take().unwrap_or_default(), partitions),
                _ => {}
            }
            Ok(next.map(|batch| (batch, (input, found, keys))))
        })
    }
}

impl Narrowed {
    fn rows(
        &self,
        input: SendableRecordBatchStream,
    ) -> impl futures::Stream<Item = Result<RecordBatch>> + Send + 'static {
        let (column, keys, mut seen) = (self.column, Arc::clone(&self.keys), Seen::default());
        input.map(move |batch| seen.pass(batch?, column, &keys))
    }
}
