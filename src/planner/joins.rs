//! ASOF JOIN as ordinary joins and windows, over tables at rest; over growing ones [`AsOfJoin`] is an operator.
//!
//! Enters: `a ASOF [LEFT] JOIN b ON a.k = b.k AND a.t >= b.t`, with USING, or with MATCH_CONDITION. Leaves: a
//! plan of union, window and hash join. Always holds: the cost is that of sorting both tables once,
//! n log n; a row of `a` meets one row of `b` at the most.
//!
//! The rows of `b` are numbered by key in the order of time. In the union of both tables, in the same order,
//! a running sum counts for each row of `a` how many rows of `b` lie before it: the number of its partner.

use std::ops::ControlFlow;

use arrow::datatypes::DataType;
use datafusion::common::{Column, ScalarValue};
use datafusion::common::{DFSchema, Result as DfResult};
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprFunctionExt, JoinType, LogicalPlan, LogicalPlanBuilder, Operator, WindowFrame,
    WindowFrameBound, WindowFrameUnits, WindowFunctionDefinition, cast, ident, lit,
};
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, Join, JoinConstraint, JoinOperator, Select, TableFactor, TableWithJoins, VisitMut, VisitorMut,
};

use super::asof::AsOfJoin;
use super::time_windows::name_table;
use crate::error::{Error, Span};
use crate::parser::{is_mark, mark};

/// Plans the joins that DataFusion does not know.
#[derive(Debug)]
pub struct FriendlyJoins;

/// Puts each ASOF JOIN into parentheses of its own, where [`FriendlyJoins`] sees it; names the side of bare
/// SEMI and ANTI joins; makes a query of a table that is an argument of a window of time.
pub(super) fn group(node: &mut impl VisitMut) {
    let _ = node.visit(&mut Grouping);
}

struct Grouping;

impl VisitorMut for Grouping {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        select.from.iter_mut().for_each(|from| group_joins(from, false));
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        if let TableFactor::NestedJoin { table_with_joins, .. } = factor {
            group_joins(table_with_joins, true);
        }
        name_table(factor);
        ControlFlow::Continue(())
    }
}

/// Parentheses around what is left of each ASOF JOIN, and around it. `alone`: a single one has them already.
fn group_joins(from: &mut TableWithJoins, alone: bool) {
    let joins = std::mem::take(&mut from.joins);
    let count = joins.len();
    for mut join in joins {
        join.join_operator = match join.join_operator {
            JoinOperator::Semi(constraint) => JoinOperator::LeftSemi(constraint),
            JoinOperator::Anti(constraint) => JoinOperator::LeftAnti(constraint),
            other => other,
        };
        let asof = matches!(join.join_operator, JoinOperator::AsOf { .. });
        if !asof || (alone && count == 1) {
            from.joins.push(join);
            continue;
        }
        let left = TableWithJoins { relation: from.relation.clone(), joins: std::mem::take(&mut from.joins) };
        let left = if left.joins.is_empty() { left.relation } else { nested(left) };
        from.relation = nested(TableWithJoins { relation: left, joins: vec![join] });
    }
}

fn nested(table: TableWithJoins) -> TableFactor {
    TableFactor::NestedJoin { table_with_joins: Box::new(table), alias: None }
}

impl RelationPlanner for FriendlyJoins {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> DfResult<RelationPlanning> {
        let TableFactor::NestedJoin { table_with_joins, alias } = &relation else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let [Join { relation: right, join_operator: JoinOperator::AsOf { match_condition, constraint }, .. }] =
            table_with_joins.joins.as_slice()
        else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let left = context.plan(table_with_joins.relation.clone())?;
        let right = context.plan(right.clone())?;
        let asof = AsOf::new(left, right, match_condition, constraint, context)?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(AsOfJoin::plan(asof)?, alias.clone()))))
    }
}

/// An ASOF JOIN, taken apart.
#[derive(Debug, Clone)]
pub(super) struct AsOf {
    pub(super) left: LogicalPlan,
    pub(super) right: LogicalPlan,
    pub(super) kind: JoinType,
    /// Expressions that are equal, of the left and of the right table.
    pub(super) keys: Vec<(Expr, Expr)>,
    /// The times that are compared, and how.
    pub(super) times: Option<(Expr, Operator, Expr)>,
    /// Columns of the right table that USING leaves out.
    pub(super) hidden: Vec<String>,
}

fn wrong(message: &str) -> Error {
    Error::sql(message).hint("ASOF JOIN b ON a.key = b.key AND a.time >= b.time, or USING (key, time)")
}

impl AsOf {
    fn new(
        left: LogicalPlan,
        right: LogicalPlan,
        matched: &SqlExpr,
        constraint: &JoinConstraint,
        context: &mut dyn RelationPlannerContext,
    ) -> DfResult<Self> {
        let schema = left.schema().join(right.schema())?;
        let marked = |name| matches!(matched, SqlExpr::Identifier(ident) if is_mark(ident, name));
        // Snowflake's form, with MATCH_CONDITION, keeps all rows of the left table.
        let kind = if marked(mark::ASOF) { JoinType::Inner } else { JoinType::Left };
        let duckdb = marked(mark::ASOF) || marked(mark::ASOF_LEFT);
        let mut this = Self { left, right, kind, keys: Vec::new(), times: None, hidden: Vec::new() };
        let mut conditions = Vec::new();
        if !duckdb {
            conditions.extend(split_conjunction_owned(context.sql_to_expr(matched.clone(), &schema)?));
        }
        match constraint {
            JoinConstraint::On(on) => {
                let place = datafusion::sql::sqlparser::ast::Spanned::span(on);
                let on = split_conjunction_owned(context.sql_to_expr(on.clone(), &schema)?);
                conditions.extend(on);
                for condition in conditions {
                    this.add(condition).map_err(|error| error.at(Span::from(place)))?;
                }
            }
            JoinConstraint::Using(names) => {
                for condition in conditions {
                    this.add(condition)?;
                }
                for (at, name) in names.iter().enumerate() {
                    let name = name.0.last().and_then(|part| part.as_ident()).cloned();
                    let name = name.map(|ident| context.normalize_ident(ident)).unwrap_or_default();
                    let column = |plan: &LogicalPlan| -> DfResult<Expr> {
                        Ok(Expr::Column(Column::from(plan.schema().qualified_field_with_unqualified_name(&name)?)))
                    };
                    let (l, r) = (column(&this.left)?, column(&this.right)?);
                    if duckdb && at + 1 == names.len() {
                        this.times = Some((l, Operator::GtEq, r));
                    } else {
                        this.keys.push((l, r));
                    }
                    this.hidden.push(name);
                }
            }
            JoinConstraint::None if !duckdb => {
                for condition in conditions {
                    this.add(condition)?;
                }
            }
            JoinConstraint::Natural | JoinConstraint::None => {
                return Err(wrong("an ASOF JOIN needs ON or USING").into());
            }
        }
        if this.times.is_none() {
            return Err(wrong("an ASOF JOIN needs one comparison with >=, >, <= or <").mark("ASOF").into());
        }
        Ok(this)
    }

    /// Takes over one term of ON.
    fn add(&mut self, condition: Expr) -> Result<(), Error> {
        if only_of(&condition, self.right.schema()) {
            let right = LogicalPlanBuilder::from(self.right.clone()).filter(condition);
            self.right = right.and_then(LogicalPlanBuilder::build).map_err(Error::from)?;
            return Ok(());
        }
        let unknown = || wrong("an ASOF JOIN takes equalities and one comparison between both tables");
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else { return Err(unknown()) };
        let (l, op, r) = if only_of(&left, self.left.schema()) && only_of(&right, self.right.schema()) {
            (*left, op, *right)
        } else if only_of(&left, self.right.schema()) && only_of(&right, self.left.schema()) {
            (*right, op.swap().ok_or_else(unknown)?, *left)
        } else {
            return Err(unknown());
        };
        match op {
            Operator::Eq => self.keys.push((l, r)),
            Operator::Gt | Operator::GtEq | Operator::Lt | Operator::LtEq if self.times.is_none() => {
                self.times = Some((l, op, r));
            }
            Operator::Gt | Operator::GtEq | Operator::Lt | Operator::LtEq => {
                return Err(wrong("an ASOF JOIN takes one comparison only"));
            }
            _ => return Err(unknown()),
        }
        Ok(())
    }

    pub(super) fn plan(self) -> DfResult<LogicalPlan> {
        let Some((left_time, op, right_time)) = self.times.clone() else {
            return Err(wrong("an ASOF JOIN needs a comparison").into());
        };
        let rising = matches!(op, Operator::Gt | Operator::GtEq);
        let strict = matches!(op, Operator::Gt | Operator::Lt);
        let partners = self.partners(&right_time, rising)?;
        let counted = self.counted(&left_time, &right_time, rising, strict)?;
        let keys = 0..self.keys.len();
        let mut left_keys: Vec<Column> = keys.clone().map(|at| Column::from_name(key(at))).collect();
        let mut right_keys: Vec<Column> = keys.map(|at| Column::from_name(format!("right {}", key(at)))).collect();
        left_keys.push(Column::from_name(COUNT));
        right_keys.push(Column::from_name(NUMBER));
        let columns = |plan: &LogicalPlan, hidden: &[String]| -> Vec<Expr> {
            let fields = plan.schema().iter().filter(|(_, field)| !hidden.contains(field.name()));
            fields.map(|field| Expr::Column(Column::from(field))).collect()
        };
        let mut shown = columns(&self.left, &[]);
        shown.extend(columns(&self.right, &self.hidden));
        LogicalPlanBuilder::from(counted)
            .join(partners, self.kind, (left_keys, right_keys), None)?
            .project(shown)?
            .build()
    }

    /// The rows of the right table with their number within the key.
    fn partners(&self, time: &Expr, rising: bool) -> DfResult<LogicalPlan> {
        let mut builder = LogicalPlanBuilder::from(self.right.clone());
        for expr in self.keys.iter().map(|(_, right)| right).chain([time]) {
            builder = builder.filter(expr.clone().is_not_null())?;
        }
        let by = self.keys.iter().map(|(_, right)| right.clone()).collect();
        let number = row_number().partition_by(by).order_by(vec![time.clone().sort(rising, true)]).build()?;
        let mut builder = builder.window(vec![number.alias(NUMBER)])?;
        let mut shown: Vec<Expr> = self.right.schema().iter().map(|field| Expr::Column(Column::from(field))).collect();
        for (at, (_, right)) in self.keys.iter().enumerate() {
            shown.push(right.clone().alias(format!("right {}", key(at))));
        }
        shown.push(cast(ident(NUMBER), DataType::Int64).alias(NUMBER));
        builder = builder.project(shown)?;
        builder.build()
    }

    /// The rows of the left table with the number of their partner.
    fn counted(&self, left_time: &Expr, right_time: &Expr, rising: bool, strict: bool) -> DfResult<LogicalPlan> {
        let fields: Vec<_> = self.left.schema().iter().collect();
        let place = |at: usize| format!("column {at}");
        let mut lefts = Vec::new();
        let mut rights = Vec::new();
        for (at, field) in fields.iter().enumerate() {
            lefts.push(Expr::Column(Column::from(*field)).alias(place(at)));
            rights.push(Expr::Literal(ScalarValue::try_from(field.1.data_type())?, None).alias(place(at)));
        }
        for (at, (left, right)) in self.keys.iter().enumerate() {
            lefts.push(left.clone().alias(key(at)));
            rights.push(right.clone().alias(key(at)));
        }
        lefts.extend([left_time.clone().alias(TIME), lit(0_i64).alias(SIDE)]);
        rights.extend([right_time.clone().alias(TIME), lit(1_i64).alias(SIDE)]);
        let mut right = LogicalPlanBuilder::from(self.right.clone());
        for expr in self.keys.iter().map(|(_, right)| right).chain([right_time]) {
            right = right.filter(expr.clone().is_not_null())?;
        }
        let left = LogicalPlanBuilder::from(self.left.clone()).project(lefts)?;
        let both = left.union(right.project(rights)?.build()?)?;
        let frame = WindowFrame::new_bounds(
            WindowFrameUnits::Rows,
            WindowFrameBound::Preceding(ScalarValue::UInt64(None)),
            WindowFrameBound::CurrentRow,
        );
        let sum = WindowFunction::new(WindowFunctionDefinition::AggregateUDF(sum_udaf()), vec![ident(SIDE)]);
        let before = Expr::from(sum)
            .partition_by((0..self.keys.len()).map(|at| ident(key(at))).collect())
            // Of rows at the same time, those that may meet the row come before it.
            .order_by(vec![ident(TIME).sort(rising, true), ident(SIDE).sort(strict, true)])
            .window_frame(frame)
            .build()?;
        let mut shown = Vec::new();
        for (at, (table, field)) in fields.iter().enumerate() {
            shown.push(ident(place(at)).alias_qualified(table.cloned(), field.name()));
        }
        shown.extend((0..self.keys.len()).map(|at| ident(key(at))));
        shown.push(ident(COUNT));
        both.window(vec![before.alias(COUNT)])?.filter(ident(SIDE).eq(lit(0_i64)))?.project(shown)?.build()
    }
}

const NUMBER: &str = "fuse number";
const COUNT: &str = "fuse count";
const TIME: &str = "fuse time";
const SIDE: &str = "fuse side";

fn key(at: usize) -> String {
    format!("fuse key {at}")
}

/// True if an expression uses columns, and all of them are in this schema.
fn only_of(expr: &Expr, schema: &DFSchema) -> bool {
    let columns = expr.column_refs();
    !columns.is_empty() && columns.into_iter().all(|column| schema.has_column(column))
}
