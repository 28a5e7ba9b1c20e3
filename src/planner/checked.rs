//! Arithmetic that does not wrap.
//!
//! Enters: plans of DataFusion's, whose `+`, `-`, `*` and negation of whole numbers wrap around. Leaves: the same
//! plans, in which a result that its type cannot hold is an error. Always holds: names and types of columns stay.
//!
//! Physical plans are changed before any other rule sees them, so that what later rules move keeps it. Constants are
//! computed earlier, by the logical optimizer: [`CheckConstants`] computes them first. The arguments of window
//! functions cannot be changed in a physical plan; [`CheckWindows`] puts functions in their places.

use std::sync::Arc;

use arrow::array::{ArrayRef, Datum, RecordBatch, RecordBatchOptions};
use arrow::compute::kernels::numeric;
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError, Result as DfResult, ScalarValue};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion::optimizer::{ApplyOrder, Optimizer, OptimizerConfig, OptimizerRule};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Literal, NegativeExpr};
use datafusion::physical_expr::{LexOrdering, create_physical_expr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::{AggregateExec, PhysicalGroupBy};
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    HashJoinExec, HashJoinExecBuilder, NestedLoopJoinExec, NestedLoopJoinExecBuilder, SortMergeJoinExec,
};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

use super::decimals;
use super::filters::PushDownFilters;
use super::like::LikeInOrder;

/// DataFusion's rules for logical plans, with ours at their places.
pub fn logical_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let mut rules = Optimizer::new().rules;
    let simplify = rules.iter().position(|rule| rule.name() == "simplify_expressions").unwrap_or(0);
    rules.insert(simplify, Arc::new(CheckConstants));
    if let Some(pushes) = rules.iter_mut().find(|rule| rule.name() == "push_down_filter") {
        *pushes = Arc::new(PushDownFilters::default());
    }
    rules.push(Arc::new(CheckWindows));
    rules.push(Arc::new(LikeInOrder));
    rules
}

fn wraps(op: Operator) -> bool {
    matches!(op, Operator::Plus | Operator::Minus | Operator::Multiply)
}

/// arrow's kernel of `+`, `-` or `*`, which does not wrap.
pub(super) fn kernel(op: Operator, left: &dyn Datum, right: &dyn Datum) -> Result<ArrayRef, ArrowError> {
    match op {
        Operator::Plus => numeric::add(left, right),
        Operator::Minus => numeric::sub(left, right),
        _ => numeric::mul(left, right),
    }
}

/// Sets the switch of each operator that wraps, in a physical plan.
#[derive(Debug)]
pub(super) struct CheckArithmetic;

impl PhysicalOptimizerRule for CheckArithmetic {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> DfResult<Arc<dyn ExecutionPlan>> {
        let change = |node: Arc<dyn ExecutionPlan>| {
            Ok(match checked_node(node.as_ref())? {
                Some(changed) => Transformed::yes(changed),
                None => Transformed::no(node),
            })
        };
        plan.transform_up(change).data()
    }

    fn name(&self) -> &str {
        "check_arithmetic"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// An expression that does not wrap; nothing if it is one.
fn checked(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> DfResult<Option<Arc<dyn PhysicalExpr>>> {
    let change = |node: Arc<dyn PhysicalExpr>| {
        if let Some(binary) = node.downcast_ref::<BinaryExpr>()
            && wraps(*binary.op())
        {
            let strict = binary.clone().with_fail_on_overflow(true);
            if let Some(fast) = decimals::fast(&strict, schema) {
                return Ok(Transformed::yes(fast));
            }
            return Ok(if strict == *binary { Transformed::no(node) } else { Transformed::yes(Arc::new(strict) as _) });
        }
        if let Some(negative) = node.downcast_ref::<NegativeExpr>()
            && let Ok(kind) = negative.arg().data_type(schema)
            && kind.is_signed_integer()
        {
            let zero = Arc::new(Literal::new(ScalarValue::new_zero(&kind)?));
            let difference = BinaryExpr::new(zero, Operator::Minus, Arc::clone(negative.arg()));
            return Ok(Transformed::yes(Arc::new(difference.with_fail_on_overflow(true)) as _));
        }
        Ok(Transformed::no(node))
    };
    let done = Arc::clone(expr).transform_up(change)?;
    Ok(done.transformed.then_some(done.data))
}

/// The same for several; nothing if all are.
fn checked_all<'a>(
    exprs: impl Iterator<Item = &'a Arc<dyn PhysicalExpr>>,
    schema: &Schema,
) -> DfResult<Option<Vec<Arc<dyn PhysicalExpr>>>> {
    let mut any = false;
    let exprs = exprs.map(|expr| {
        let strict = checked(expr, schema)?;
        any |= strict.is_some();
        Ok(strict.unwrap_or_else(|| Arc::clone(expr)))
    });
    let exprs = exprs.collect::<DfResult<Vec<_>>>()?;
    Ok(any.then_some(exprs))
}

fn checked_node(node: &dyn ExecutionPlan) -> DfResult<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(filter) = node.downcast_ref::<FilterExec>() {
        let Some(predicate) = checked(filter.predicate(), &filter.input().schema())? else { return Ok(None) };
        return Ok(Some(Arc::new(FilterExecBuilder::from(filter).with_predicate(predicate).build()?)));
    }
    if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
        let old = projection.expr();
        let schema = projection.input().schema();
        let Some(exprs) = checked_all(old.iter().map(|item| &item.expr), &schema)? else { return Ok(None) };
        let named = exprs.into_iter().zip(old).map(|(expr, item)| ProjectionExpr { expr, alias: item.alias.clone() });
        return Ok(Some(Arc::new(ProjectionExec::try_new(named, Arc::clone(projection.input()))?)));
    }
    if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        return checked_aggregate(aggregate);
    }
    if let Some(sort) = node.downcast_ref::<SortExec>() {
        let old = sort.expr();
        let Some(exprs) = checked_all(old.iter().map(|key| &key.expr), &sort.input().schema())? else {
            return Ok(None);
        };
        let keys = exprs.into_iter().zip(old.iter()).map(|(expr, key)| {
            let mut key = key.clone();
            key.expr = expr;
            key
        });
        let Some(keys) = LexOrdering::new(keys) else { return Ok(None) };
        let changed = SortExec::new(keys, Arc::clone(sort.input()))
            .with_fetch(sort.fetch())
            .with_preserve_partitioning(sort.preserve_partitioning());
        return Ok(Some(Arc::new(changed)));
    }
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        let Some(filter) = checked_filter(join.filter())? else { return Ok(None) };
        return Ok(Some(Arc::new(HashJoinExecBuilder::from(join).with_filter(Some(filter)).build()?)));
    }
    if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
        let Some(filter) = checked_filter(join.filter())? else { return Ok(None) };
        return Ok(Some(Arc::new(NestedLoopJoinExecBuilder::from(join).with_filter(Some(filter)).build()?)));
    }
    if let Some(join) = node.downcast_ref::<SortMergeJoinExec>() {
        let Some(filter) = checked_filter(join.filter().as_ref())? else { return Ok(None) };
        let changed = SortMergeJoinExec::try_new(
            Arc::clone(&join.left),
            Arc::clone(&join.right),
            join.on.clone(),
            Some(filter),
            join.join_type,
            join.sort_options.clone(),
            join.null_equality,
        )?;
        return Ok(Some(Arc::new(changed)));
    }
    Ok(None)
}

fn checked_filter(filter: Option<&JoinFilter>) -> DfResult<Option<JoinFilter>> {
    let Some(filter) = filter else { return Ok(None) };
    let strict = checked(filter.expression(), filter.schema())?;
    Ok(strict.map(|strict| JoinFilter::new(strict, filter.column_indices().to_vec(), Arc::clone(filter.schema()))))
}

fn checked_aggregate(aggregate: &AggregateExec) -> DfResult<Option<Arc<dyn ExecutionPlan>>> {
    // What is grouped and filtered stands in the input; the arguments of functions stand, in all stages of an
    // aggregation, in the input of the first.
    let (input, first) = (aggregate.input().schema(), aggregate.input_schema());
    let old = aggregate.group_expr();
    let groups = checked_all(old.expr().iter().map(|(expr, _)| expr), &input)?;
    let group_by = groups.as_ref().map(|groups| {
        let named = groups.iter().cloned().zip(old.expr().iter().map(|(_, name)| name.clone())).collect();
        PhysicalGroupBy::new(named, old.null_expr().to_vec(), old.groups().to_vec(), old.has_grouping_set())
    });
    let mut any = groups.is_some();
    let functions = aggregate.aggr_expr().iter().map(|function| {
        let strict = checked_function(function, &first)?;
        any |= strict.is_some();
        Ok(strict.map_or_else(|| Arc::clone(function), Arc::new))
    });
    let functions = functions.collect::<DfResult<Vec<_>>>()?;
    let filters = aggregate.filter_expr().iter().map(|filter| match filter {
        Some(filter) => {
            let strict = checked(filter, &input)?;
            any |= strict.is_some();
            Ok(Some(strict.unwrap_or_else(|| Arc::clone(filter))))
        }
        None => Ok(None),
    });
    let filters = filters.collect::<DfResult<Vec<_>>>()?;
    if !any {
        return Ok(None);
    }
    let group_by = group_by.unwrap_or_else(|| old.clone());
    let child = Arc::clone(aggregate.input());
    Ok(Some(Arc::new(AggregateExec::try_new(*aggregate.mode(), group_by, functions, filters, child, first)?)))
}

fn checked_function(function: &AggregateFunctionExpr, schema: &Schema) -> DfResult<Option<AggregateFunctionExpr>> {
    let all = function.all_expressions();
    let args = checked_all(all.args.iter(), schema)?;
    let keys = checked_all(all.order_by_exprs.iter(), schema)?;
    if args.is_none() && keys.is_none() {
        return Ok(None);
    }
    Ok(function.with_new_expressions(args.unwrap_or(all.args), keys.unwrap_or(all.order_by_exprs)))
}

/// Computes constants before the optimizer does, to see whether they wrap.
#[derive(Debug)]
struct CheckConstants;

impl OptimizerRule for CheckConstants {
    fn name(&self) -> &str {
        "check_constants"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, _config: &dyn OptimizerConfig) -> DfResult<Transformed<LogicalPlan>> {
        plan.apply_expressions(|expr| {
            expr.apply(|node| {
                let arithmetic = match node {
                    Expr::BinaryExpr(binary) => wraps(binary.op),
                    Expr::Negative(_) => true,
                    _ => false,
                };
                if !arithmetic || !is_constant(node)? {
                    return Ok(TreeNodeRecursion::Continue);
                }
                compute(node)?;
                Ok(TreeNodeRecursion::Jump)
            })
        })?;
        Ok(Transformed::no(plan))
    }
}

/// True for literals, operators and functions that give the same at any time.
fn is_constant(expr: &Expr) -> DfResult<bool> {
    let varies = expr.exists(|node| {
        Ok(match node {
            Expr::Literal(..) | Expr::BinaryExpr(_) | Expr::Negative(_) | Expr::Cast(_) | Expr::Case(_) => false,
            Expr::ScalarFunction(call) => call.func.signature().volatility != Volatility::Immutable,
            _ => true,
        })
    })?;
    Ok(!varies)
}

/// The error of a constant that wraps.
fn compute(expr: &Expr) -> DfResult<()> {
    let schema = DFSchema::empty();
    if !expr.get_type(&schema).is_ok_and(|kind| kind.is_integer()) {
        return Ok(());
    }
    let context = PhysicalPlanningContext::default();
    let Ok(physical) = create_physical_expr(expr, &schema, &ExecutionProps::new(), &context) else { return Ok(()) };
    let strict = checked(&physical, schema.as_arrow())?.unwrap_or(physical);
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let row = RecordBatch::try_new_with_options(Arc::clone(schema.inner()), Vec::new(), &options)?;
    match strict.evaluate(&row) {
        Err(error) if matches!(error.find_root(), DataFusionError::ArrowError(cause, _) if is_overflow(cause)) => {
            Err(error)
        }
        // Other errors come when the query runs, if it needs the value.
        _ => Ok(()),
    }
}

fn is_overflow(error: &ArrowError) -> bool {
    matches!(error, ArrowError::ArithmeticOverflow(_))
}

/// Puts functions that do not wrap in the place of operators in windows.
#[derive(Debug)]
struct CheckWindows;

impl OptimizerRule for CheckWindows {
    fn name(&self) -> &str {
        "check_windows"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, _config: &dyn OptimizerConfig) -> DfResult<Transformed<LogicalPlan>> {
        let LogicalPlan::Window(window) = &plan else { return Ok(Transformed::no(plan)) };
        let input = Arc::clone(window.input.schema());
        let names = NamePreserver::new(&plan);
        plan.map_expressions(|expr| {
            let name = names.save(&expr);
            let changed = expr.transform_up(|node| checked_operator(node, &input))?;
            Ok(changed.update_data(|expr| name.restore(expr)))
        })
    }
}

fn checked_operator(node: Expr, schema: &DFSchema) -> DfResult<Transformed<Expr>> {
    let whole = |expr: &Expr| expr.get_type(schema).is_ok_and(|kind| kind.is_integer());
    let (left, op, right) = match node {
        Expr::BinaryExpr(binary) if wraps(binary.op) && whole(&binary.left) && whole(&binary.right) => {
            (*binary.left, binary.op, *binary.right)
        }
        Expr::Negative(inner) if whole(&inner) => {
            let zero = ScalarValue::new_zero(&inner.get_type(schema)?)?;
            (Expr::Literal(zero, None), Operator::Minus, *inner)
        }
        node => return Ok(Transformed::no(node)),
    };
    let function = CheckedOperator { op, signature: Signature::any(2, Volatility::Immutable) };
    let call = ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(function)), vec![left, right]);
    Ok(Transformed::yes(Expr::ScalarFunction(call)))
}

/// `+`, `-` or `*` of two whole numbers of one type, as a function.
#[derive(Debug, PartialEq, Eq, Hash)]
struct CheckedOperator {
    op: Operator,
    signature: Signature,
}

impl ScalarUDFImpl for CheckedOperator {
    fn name(&self) -> &str {
        match self.op {
            Operator::Plus => "checked_add",
            Operator::Minus => "checked_subtract",
            _ => "checked_multiply",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> DfResult<DataType> {
        Ok(arguments.first().cloned().unwrap_or(DataType::Int64))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let sides: Vec<ArrayRef> = ColumnarValue::values_to_arrays(&args.args)?;
        let [left, right] = sides.as_slice() else { return Ok(ColumnarValue::Scalar(ScalarValue::Null)) };
        Ok(ColumnarValue::Array(kernel(self.op, left, right)?))
    }
}
