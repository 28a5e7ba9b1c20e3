//! What a watermark says of the columns of a plan.
//!
//! Enters: nodes, inputs first, and the watermarks of their sources. Leaves: of each column, if it is known, a bound
//! that rises with the watermarks: no change comes any more of rows whose value is below it; and from that what each
//! operator can forget. Always holds: where it is not sure, there is no bound.

use std::fmt;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{Column, DFSchema, DFSchemaRef, JoinType, ScalarValue};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    BinaryExpr, Cast, Expr, ExprSchemable, Join, LogicalPlan, Operator, Unnest, cast, ident,
};

use super::asof::AsOfJoin;
use super::incremental::{IncrementalPlan, Node, NodeId, Op, SourceNode, Step};
use super::time_windows::END;
use super::windows;
use crate::error::Result;

/// The column that the watermark of a source is, in the expressions of a [`Term`].
pub const WATERMARK: &str = "watermark";

/// What one source adds to a bound: it is at most this.
#[derive(Debug, Clone, PartialEq)]
pub struct Term {
    /// Among [`IncrementalPlan::sources`].
    pub source: usize,
    /// The name of its table.
    pub table: String,
    /// Over [`WATERMARK`]; a larger watermark never gives less.
    pub expr: Expr,
    /// The type of the watermark: that of the column it is of.
    pub kind: DataType,
}

impl Term {
    /// What the expression is over.
    pub fn input(&self) -> Result<DFSchema> {
        let field = Field::new(WATERMARK, self.kind.clone(), true);
        Ok(DFSchema::try_from(Schema::new(vec![field]))?)
    }

    fn map(&self, change: impl Fn(Expr) -> Expr) -> Self {
        Self { expr: change(self.expr.clone()), ..self.clone() }
    }
}

/// The least of its terms; without any, nothing changes any more.
pub type Bound = Vec<Term>;

/// What an operator forgets: what it keeps of an input whose value is below the bound.
#[derive(Debug, Clone, PartialEq)]
pub struct Eviction {
    /// Which input.
    pub input: usize,
    /// Of an aggregate: which key.
    pub key: usize,
    /// Over the columns of the input; of SESSION, the end of the session.
    pub value: Expr,
    /// What is over.
    pub bound: Bound,
}

impl fmt::Display for Eviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} < {}", self.value, display(&self.bound))
    }
}

/// A bound in words.
pub(super) fn display(bound: &Bound) -> String {
    let term = |term: &Term| term.expr.to_string().replace(WATERMARK, &format!("watermark of {}", term.table));
    let mut terms: Vec<String> = bound.iter().map(term).collect();
    terms.dedup();
    match terms.as_slice() {
        [] => "all time".to_owned(),
        [one] => one.clone(),
        terms => format!("least({})", terms.join(", ")),
    }
}

/// The bounds of the columns of one node.
pub(super) type Columns = Vec<Option<Bound>>;

/// The bounds of the columns of all nodes.
pub(super) fn bounds(plan: &IncrementalPlan) -> Result<Vec<Columns>> {
    let mut all: Vec<Columns> = Vec::with_capacity(plan.nodes.len());
    for node in &plan.nodes {
        let columns = of_node(plan, node, &all)?;
        all.push(columns);
    }
    Ok(all)
}

/// Finds what each operator can forget.
pub(super) fn plan_evictions(plan: &mut IncrementalPlan) -> Result<()> {
    let all = bounds(plan)?;
    for at in 0..plan.nodes.len() {
        plan.nodes[at].evict = evictions(plan, at, &all)?;
    }
    Ok(())
}

fn of_node(plan: &IncrementalPlan, node: &Node, all: &[Columns]) -> Result<Columns> {
    let width = node.schema.fields().len();
    let none = || vec![None; width];
    let input = |at: usize| &all[node.inputs[at]];
    Ok(match &node.op {
        Op::Scan { source, columns } => scan(*source, &plan.sources[*source], columns),
        // Its rows come with the first epoch, and no more.
        Op::Static { .. } => vec![Some(Vec::new()); width],
        Op::Stateless { steps } => {
            let mut columns = input(0).clone();
            for step in steps {
                if let Step::Project { exprs, input, .. } = step {
                    columns = exprs.iter().map(|expr| of_expr(expr, input, &columns)).collect::<Result<_>>()?;
                }
            }
            columns
        }
        Op::Union if node.inputs.is_empty() => none(),
        Op::Union => (0..width)
            .map(|column| {
                let each = node.inputs.iter().map(|input| all[*input][column].clone());
                each.collect::<Option<Vec<Bound>>>().map(|bounds| bounds.concat())
            })
            .collect(),
        Op::Linear { plan } => match plan.as_ref() {
            LogicalPlan::Unnest(unnest) => of_unnest(unnest, input(0)),
            _ => none(),
        },
        Op::Aggregate { aggregate } => {
            let mut columns = none();
            for (column, key) in columns.iter_mut().zip(&aggregate.group_expr) {
                *column = of_expr(key, aggregate.input.schema(), input(0))?;
            }
            columns
        }
        Op::Join { join, .. } => of_join(join, [input(0), input(1)], width)?,
        Op::Window { partition, input: schema, .. } => of_partitions(partition, schema, input(0), width),
        Op::Ranking { window, .. } | Op::Near { window, .. } | Op::Running { window, .. } => {
            of_partitions(windows::ordered_by(window).0, window.input.schema(), input(0), width)
        }
        Op::Sessions { sessions } => {
            let mut columns = none();
            // A row that comes joins no session that has ended before it.
            columns[width - 1] = of_expr(&sessions.time, sessions.input.schema(), input(0))?;
            columns
        }
        Op::AsOf { asof } => of_asof_join(asof, [input(0), input(1)], width)?,
        Op::Final { column, .. } => {
            let mut columns = none();
            columns[*column] = input(0)[*column].clone();
            columns
        }
        Op::Random { .. } => input(0).iter().cloned().chain(none()).take(width).collect(),
        Op::Net { .. } | Op::Temporal { .. } | Op::Top { .. } | Op::First { .. } | Op::Recompute { .. } => none(),
    })
}

/// The bounds of an ASOF JOIN: that of the left time, since a right row reaches left rows behind it.
fn of_asof_join(asof: &AsOfJoin, inputs: [&Columns; 2], width: usize) -> Result<Columns> {
    let mut columns = vec![None; width];
    let (time, other) = asof.times();
    if let Expr::Column(name) = time
        && let Some(at) = asof.sides()[0].schema().maybe_index_of_column(name).filter(|_| asof.looks_back())
        && let Some(own) = inputs[0][at].clone()
        && let Some(theirs) = of_expr(other, asof.sides()[1].schema(), inputs[1])?
    {
        columns[at] = Some([own, theirs].concat());
    }
    Ok(columns)
}

fn scan(at: usize, source: &SourceNode, columns: &[usize]) -> Columns {
    let event_time = source.stream().and_then(|table| Some((table, table.options().event_time.as_ref()?)));
    let of = |column: &usize| {
        let (table, event_time) = event_time?;
        let field = table.columns().field(*column);
        if *field.name() != event_time.column {
            return None;
        }
        let expr = Expr::Column(Column::from_name(WATERMARK));
        Some(vec![Term { source: at, table: source.name.clone(), expr, kind: field.data_type().clone() }])
    };
    columns.iter().map(of).collect()
}

/// The bound of what an expression gives, where it never falls when its column rises.
fn of_expr(expr: &Expr, schema: &DFSchemaRef, columns: &Columns) -> Result<Option<Bound>> {
    let inner = |inner: &Expr| of_expr(inner, schema, columns);
    let mapped = |bound: Option<Bound>, change: &dyn Fn(Expr) -> Expr| {
        Ok(bound.map(|terms| terms.iter().map(|term| term.map(change)).collect()))
    };
    match expr {
        Expr::Alias(alias) => inner(&alias.expr),
        Expr::Column(column) => Ok(schema.maybe_index_of_column(column).and_then(|at| columns[at].clone())),
        Expr::Cast(cast) if keeps_order(&cast.expr.get_type(schema)?, cast.field.data_type()) => {
            mapped(inner(&cast.expr)?, &|term| Expr::Cast(Cast { expr: Box::new(term), field: cast.field.clone() }))
        }
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Plus | Operator::Minus), right }) => {
            if !is_interval(right) {
                return Ok(None);
            }
            mapped(inner(left)?, &|term| Expr::BinaryExpr(BinaryExpr::new(Box::new(term), *op, right.clone())))
        }
        Expr::ScalarFunction(call) if call.func.name() == "generate_series" => {
            let ([first, _, step], DataType::List(times)) = (call.args.as_slice(), expr.get_type(schema)?) else {
                return Ok(None);
            };
            // Its elements rise from the first one on.
            if !is_interval_above_zero(step) {
                return Ok(None);
            }
            mapped(inner(first)?, &|term| cast(term, times.data_type().clone()))
        }
        Expr::ScalarFunction(call) => {
            let place = match (call.func.name(), call.args.as_slice()) {
                ("date_bin", [Expr::Literal(..), _] | [Expr::Literal(..), _, Expr::Literal(..)]) => 1,
                ("date_trunc", [Expr::Literal(..), of]) if has_no_zone(&of.get_type(schema)?) => 1,
                _ => return Ok(None),
            };
            mapped(inner(&call.args[place])?, &|term| {
                let mut call = call.clone();
                call.args[place] = term;
                Expr::ScalarFunction(call)
            })
        }
        _ => Ok(None),
    }
}

fn has_no_zone(kind: &DataType) -> bool {
    matches!(kind, DataType::Timestamp(_, None) | DataType::Date32)
}

/// True if a cast of a time never puts a later one before an earlier one.
fn keeps_order(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (DataType::Timestamp(_, from), DataType::Timestamp(_, to)) => from.is_some() == to.is_some(),
        (from, to) => has_no_zone(from) && has_no_zone(to),
    }
}

fn is_interval(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(value, _) => matches!(value.data_type(), DataType::Interval(_) | DataType::Duration(_)),
        Expr::Cast(cast) => is_interval(&cast.expr),
        _ => false,
    }
}

fn is_interval_above_zero(expr: &Expr) -> bool {
    let Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(step)), _) = expr else { return false };
    step.months >= 0 && step.days >= 0 && step.nanoseconds >= 0
}

/// Of lists of times, that of the first one.
fn of_unnest(unnest: &Unnest, input: &Columns) -> Columns {
    unnest.dependency_indices.iter().map(|at| input.get(*at).cloned().flatten()).collect()
}

/// The bounds of the columns by which rows are separated: a change reaches rows that have the same there.
fn of_partitions(partition: &[Expr], schema: &DFSchemaRef, input: &Columns, width: usize) -> Columns {
    let mut columns = vec![None; width];
    for expr in partition {
        if let Expr::Column(column) = expr
            && let Some(at) = schema.maybe_index_of_column(column)
        {
            columns[at] = input[at].clone();
        }
    }
    columns
}

/// What a join demands of two rows: the expression of one side is equal to, or not below, that of the other.
struct Link {
    /// By side.
    exprs: [Expr; 2],
    /// By side: its expression is not below the other's.
    not_below: [bool; 2],
}

fn links(join: &Join) -> Vec<Link> {
    let mut links: Vec<Link> =
        join.on.iter().map(|(l, r)| Link { exprs: [l.clone(), r.clone()], not_below: [true, true] }).collect();
    let of = |expr: &Expr, schema: &DFSchema| {
        let columns = expr.column_refs();
        !columns.is_empty() && columns.into_iter().all(|column| schema.has_column(column))
    };
    let mut compare = |greater: &Expr, less: &Expr| {
        let [left, right] = [join.left.schema(), join.right.schema()];
        if of(greater, left) && of(less, right) {
            links.push(Link { exprs: [greater.clone(), less.clone()], not_below: [true, false] });
        } else if of(greater, right) && of(less, left) {
            links.push(Link { exprs: [less.clone(), greater.clone()], not_below: [false, true] });
        }
    };
    for term in join.filter.iter().flat_map(split_conjunction) {
        match term {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Gt | Operator::GtEq, right }) => compare(left, right),
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Lt | Operator::LtEq, right }) => compare(right, left),
            Expr::Between(between) if !between.negated => {
                compare(&between.expr, &between.low);
                compare(&between.high, &between.expr);
            }
            _ => {}
        }
    }
    links
}

fn of_join(join: &Join, inputs: [&Columns; 2], width: usize) -> Result<Columns> {
    let schemas = [join.left.schema(), join.right.schema()];
    let links = links(join);
    let both = [schemas[0].fields().len(), schemas[1].fields().len()];
    let shown: &[usize] = match join.join_type {
        JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => &[0, 1],
        JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => &[0],
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => &[1],
    };
    let mut columns = Vec::new();
    for side in shown.iter().copied() {
        for column in 0..both[side] {
            columns.push(of_joined(&links, schemas, inputs, (side, column))?);
        }
    }
    columns.resize(width, None);
    Ok(columns)
}

/// The bound of a column of one side in the result of a join: what comes on either side changes rows of the result.
fn of_joined(
    links: &[Link],
    schemas: [&DFSchemaRef; 2],
    inputs: [&Columns; 2],
    (side, column): (usize, usize),
) -> Result<Option<Bound>> {
    let Some(own) = inputs[side][column].clone() else { return Ok(None) };
    let other = inputs[1 - side];
    if !other.is_empty() && other.iter().all(|bound| bound.as_ref().is_some_and(Vec::is_empty)) {
        return Ok(Some(own));
    }
    for link in links.iter().filter(|link| link.not_below[side]) {
        let Some(theirs) = of_expr(&link.exprs[1 - side], schemas[1 - side], other)? else { continue };
        let isolated: Option<Bound> = theirs
            .iter()
            .map(|term| {
                let expr = isolated(&link.exprs[side], schemas[side], column, term.expr.clone())?;
                Some(Term { expr, ..term.clone() })
            })
            .collect();
        if let Some(theirs) = isolated {
            return Ok(Some([own, theirs].concat()));
        }
    }
    Ok(None)
}

/// What the column is not below where the expression, which is of that column, is not below `bound`.
fn isolated(expr: &Expr, schema: &DFSchemaRef, column: usize, bound: Expr) -> Option<Expr> {
    match expr {
        Expr::Column(name) => (schema.maybe_index_of_column(name) == Some(column)).then_some(bound),
        Expr::Cast(outer) => {
            let kind = outer.expr.get_type(schema).ok().filter(|kind| keeps_order(kind, outer.field.data_type()))?;
            isolated(&outer.expr, schema, column, cast(bound, kind))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_interval(right) => {
            let inverse = match op {
                Operator::Plus => Operator::Minus,
                Operator::Minus => Operator::Plus,
                _ => return None,
            };
            let bound = Expr::BinaryExpr(BinaryExpr::new(Box::new(bound), inverse, right.clone()));
            isolated(left, schema, column, bound)
        }
        _ => None,
    }
}

fn evictions(plan: &IncrementalPlan, at: NodeId, all: &[Columns]) -> Result<Vec<Eviction>> {
    let node = &plan.nodes[at];
    let columns = |input: usize| &all[node.inputs[input]];
    let first = |exprs: &[Expr], schema: &DFSchemaRef| -> Result<Vec<Eviction>> {
        for (key, expr) in exprs.iter().enumerate() {
            if let Some(bound) = of_expr(expr, schema, columns(0))?.filter(|bound| !bound.is_empty()) {
                return Ok(vec![Eviction { input: 0, key, value: expr.clone(), bound }]);
            }
        }
        Ok(Vec::new())
    };
    match &node.op {
        Op::Aggregate { aggregate } => first(&aggregate.group_expr, aggregate.input.schema()),
        Op::Window { partition, input, .. } => first(partition, input),
        Op::Ranking { window, .. } | Op::Near { window, .. } | Op::Running { window, .. } => {
            first(windows::ordered_by(window).0, window.input.schema())
        }
        Op::Sessions { sessions } => {
            let found = first(std::slice::from_ref(&sessions.time), sessions.input.schema())?.into_iter();
            // A row that comes joins no session that has ended before it.
            Ok(found.map(|eviction| Eviction { value: ident(END), ..eviction }).collect())
        }
        Op::Final { column, input } => first(&[Expr::Column(input.qualified_field(*column).into())], input),
        Op::AsOf { asof } => of_asof(asof, [columns(0), columns(1)], plan.nodes[node.inputs[0]].append_only),
        Op::Join { join, .. } if !join.null_aware => {
            let grows = |side: usize| plan.nodes[node.inputs[side]].append_only;
            of_sides(join, [columns(0), columns(1)], [grows(0), grows(1)])
        }
        _ => Ok(Vec::new()),
    }
}

/// What an ASOF JOIN forgets. Where the partner is before: left rows that no right row can reach any more; right rows that
/// are before all that comes, but the last of each key. Where it is behind: right rows before all that comes, and with
/// them the left rows before these, which have their partner.
fn of_asof(asof: &AsOfJoin, inputs: [&Columns; 2], grows: bool) -> Result<Vec<Eviction>> {
    let ([left, right], (time, other)) = (asof.sides(), asof.times());
    let own = of_expr(time, left.schema(), inputs[0])?;
    let Some(theirs) = of_expr(other, right.schema(), inputs[1])? else { return Ok(Vec::new()) };
    let mut evictions = Vec::new();
    if asof.looks_back()
        && let Some(own) = if grows { Some(Vec::new()) } else { own.clone() }
    {
        let bound = [theirs.clone(), own].concat();
        evictions.push(Eviction { input: 0, key: 0, value: time.clone(), bound });
    }
    if let Some(own) = own {
        evictions.push(Eviction { input: 1, key: 0, value: other.clone(), bound: [own, theirs].concat() });
    }
    Ok(evictions)
}

/// What a join forgets of each side: rows that nothing on the other side can meet any more, and that do not change. A row
/// that only says whether others have a match is kept as long as one like it may come: that one would be the first again.
fn of_sides(join: &Join, inputs: [&Columns; 2], grows: [bool; 2]) -> Result<Vec<Eviction>> {
    let schemas = [join.left.schema(), join.right.schema()];
    let links = links(join);
    let tests = match join.join_type {
        JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => Some(1),
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => Some(0),
        _ => None,
    };
    let mut evictions = Vec::new();
    for side in 0..2 {
        for link in links.iter().filter(|link| link.not_below[side]) {
            let theirs = of_expr(&link.exprs[1 - side], schemas[1 - side], inputs[1 - side])?;
            let own = if grows[side] && tests != Some(side) {
                Some(Vec::new())
            } else {
                of_expr(&link.exprs[side], schemas[side], inputs[side])?
            };
            let (Some(theirs), Some(own)) = (theirs.filter(|bound| !bound.is_empty()), own) else { continue };
            let value = link.exprs[side].clone();
            evictions.push(Eviction { input: side, key: 0, value, bound: [theirs, own].concat() });
            break;
        }
    }
    Ok(evictions)
}
