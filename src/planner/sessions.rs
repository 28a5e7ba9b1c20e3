//! SESSION windows as a node of a plan.
//!
//! Enters: rows, their time, by what they are partitioned, and a gap. Leaves: the rows with the first time of their
//! session and, as its end, the last one plus the gap. Always holds: two rows of a partition that are at most the gap
//! apart are in one session, and so are the rows between; over tables at rest the node becomes window functions, over
//! growing ones it has an operator.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result as DfResult, ScalarValue};
use datafusion::config::ConfigOptions;
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::functions_window::expr_fn::lag;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{
    AggregateUDF, Expr, ExprFunctionExt, ExprSchemable, Extension, LogicalPlan, LogicalPlanBuilder,
    UserDefinedLogicalNodeCore, WindowFrame, WindowFunctionDefinition, ident, lit, when,
};
use datafusion::optimizer::analyzer::{Analyzer, AnalyzerRule};

use super::asof::AsOfJoin;
use super::differentiate::is_continuous;
use super::time_windows::{END, START};
use crate::error::{Error, Result};

/// Rows and their sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sessions {
    /// The rows.
    pub input: Arc<LogicalPlan>,
    /// The time of a row, a timestamp.
    pub time: Expr,
    /// What separates rows.
    pub partition: Vec<Expr>,
    /// In nanoseconds.
    pub gap: i64,
    schema: DFSchemaRef,
}

impl Sessions {
    /// The node over the rows that have a time.
    pub(super) fn plan(input: LogicalPlan, time: Expr, partition: Vec<Expr>, gap: i64) -> Result<LogicalPlan> {
        let DataType::Timestamp(unit, _) = time.get_type(input.schema())? else {
            return Err(Error::sql("a session is of times"));
        };
        if gap % nanos_in(unit) != 0 {
            return Err(Error::sql("the gap of a SESSION is finer than the time of the rows"));
        }
        let input = LogicalPlanBuilder::from(input).filter(time.clone().is_not_null())?.build()?;
        let node = Self::new(input, time, partition, gap)?;
        Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) }))
    }

    fn new(input: LogicalPlan, time: Expr, partition: Vec<Expr>, gap: i64) -> DfResult<Self> {
        let kind = time.get_type(input.schema())?;
        let window = [START, END].map(|name| (None, Arc::new(Field::new(name, kind.clone(), true))));
        let fields = input.schema().iter().map(|(table, field)| (table.cloned(), Arc::clone(field)));
        let schema = DFSchema::new_with_metadata(fields.chain(window).collect(), input.schema().metadata().clone())?;
        Ok(Self { input: Arc::new(input), time, partition, gap, schema: Arc::new(schema) })
    }

    /// The gap in units of the time.
    pub fn gap_in_units(&self) -> Result<i64> {
        match self.time.get_type(self.input.schema())? {
            DataType::Timestamp(unit, _) => Ok(self.gap / nanos_in(unit)),
            kind => Err(Error::query(format!("a session over {kind}"))),
        }
    }

    /// The same in window functions.
    fn expanded(&self) -> DfResult<LogicalPlan> {
        const BEFORE: &str = "fuse before";
        const BEGINS: &str = "fuse begins";
        const SESSION: &str = "fuse session";
        let columns: Vec<Expr> = self.input.schema().iter().map(|field| Expr::Column(Column::from(field))).collect();
        let with = |more: Vec<Expr>| columns.iter().cloned().chain(more).collect::<Vec<_>>();
        let gap = lit(ScalarValue::new_interval_mdn(0, 0, self.gap));
        let by_time = vec![self.time.clone().sort(true, false)];
        let before =
            lag(self.time.clone(), Some(1), None).partition_by(self.partition.clone()).order_by(by_time.clone());
        let begins = when(self.time.clone().lt_eq(ident(BEFORE) + gap.clone()), lit(0_i64)).otherwise(lit(1_i64))?;
        let over = |function: Arc<AggregateUDF>, of: Expr| {
            Expr::from(WindowFunction::new(WindowFunctionDefinition::AggregateUDF(function), vec![of]))
        };
        let number = over(sum_udaf(), ident(BEGINS))
            .partition_by(self.partition.clone())
            .order_by(by_time)
            .window_frame(WindowFrame::new(Some(false)));
        let mut session = self.partition.clone();
        session.push(ident(SESSION));
        let whole = |function, name: &str| -> DfResult<Expr> {
            let function = over(function, self.time.clone()).partition_by(session.clone());
            Ok(function.window_frame(WindowFrame::new(None)).build()?.alias(name))
        };
        LogicalPlanBuilder::from(LogicalPlan::clone(&self.input))
            .window(vec![before.build()?.alias(BEFORE)])?
            .project(with(vec![begins.alias(BEGINS)]))?
            .window(vec![number.build()?.alias(SESSION)])?
            .window(vec![whole(min_udaf(), START)?, whole(max_udaf(), END)?])?
            .project(with(vec![ident(START), (ident(END) + gap).alias(END)]))?
            .build()
    }
}

fn nanos_in(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1000,
        TimeUnit::Nanosecond => 1,
    }
}

impl fmt::Display for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by: Vec<String> = self.partition.iter().map(ToString::to_string).collect();
        let gap = Duration::from_nanos(self.gap.unsigned_abs());
        write!(f, "Sessions of {} by [{}], {gap:?} apart", self.time, by.join(", "))
    }
}

impl Hash for Sessions {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.input, &self.time, &self.partition, self.gap).hash(state);
    }
}

impl PartialOrd for Sessions {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for Sessions {
    fn name(&self) -> &str {
        "Sessions"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        std::iter::once(&self.time).chain(&self.partition).cloned().collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        let mut exprs = exprs.into_iter();
        let time = exprs.next().unwrap_or_else(|| self.time.clone());
        let input = inputs.into_iter().next().unwrap_or_else(|| LogicalPlan::clone(&self.input));
        Self::new(input, time, exprs.collect(), self.gap)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let schema = self.input.schema();
        let mut needed: Vec<usize> = output_columns.iter().copied().filter(|at| *at < schema.fields().len()).collect();
        for expr in self.expressions() {
            needed.extend(expr.column_refs().into_iter().filter_map(|column| schema.maybe_index_of_column(column)));
        }
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}

/// DataFusion's rules for what was planned, behind ours.
pub fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    let mut rules = Analyzer::new().rules;
    rules.insert(0, Arc::new(ExpandAtRest));
    rules
}

/// Turns [`Sessions`] and [`AsOfJoin`] over tables at rest into window functions and joins.
#[derive(Debug)]
struct ExpandAtRest;

impl AnalyzerRule for ExpandAtRest {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> DfResult<LogicalPlan> {
        let expand = |node: LogicalPlan| {
            let LogicalPlan::Extension(extension) = &node else { return Ok(Transformed::no(node)) };
            match extension.node.as_any().downcast_ref::<Sessions>() {
                Some(sessions) if !is_continuous(&sessions.input)? => Ok(Transformed::yes(sessions.expanded()?)),
                Some(_) => Ok(Transformed::no(node)),
                None => match extension.node.as_any().downcast_ref::<AsOfJoin>() {
                    Some(asof) if !is_continuous(&node)? => Ok(Transformed::yes(asof.expanded()?)),
                    _ => Ok(Transformed::no(node)),
                },
            }
        };
        Ok(plan.transform_up_with_subqueries(expand)?.data)
    }

    fn name(&self) -> &str {
        "expand_at_rest"
    }
}
