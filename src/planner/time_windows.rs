//! TUMBLE, HOP and SESSION in FROM.
//!
//! Enters: `TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10 seconds')` and its like. Leaves: a plan that gives the columns
//! of the table, window_start and window_end. Always holds: a row whose time is NULL is in no window; windows begin at
//! multiples of their distance from 1970, and do not have their end in them, but for those of SESSION.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Column, DFSchema, Result as DfResult, ScalarValue};
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, ScalarUDF, cast, ident, lit};
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, SetExpr, Spanned,
    TableFactor,
};

use super::sessions::Sessions;
use crate::config::WINDOWS_OF_A_ROW;
use crate::error::{Error, Result, Span, sql_type};
use crate::parser::{TIME_WINDOWS, is_mark, mark};

/// The columns that a window adds.
pub(super) const START: &str = "window_start";
/// See [`START`].
pub(super) const END: &str = "window_end";

/// Plans the functions that put rows into windows of time.
#[derive(Debug)]
pub struct TimeWindows;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tumble,
    Hop,
    Session,
}

impl Kind {
    fn of(name: &ObjectName) -> Option<Self> {
        let kinds = [Kind::Tumble, Kind::Hop, Kind::Session];
        let name = name.to_string();
        TIME_WINDOWS.iter().zip(kinds).find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, kind)| kind)
    }

    fn usage(self) -> &'static str {
        match self {
            Kind::Tumble => "TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10 seconds'), and perhaps an offset",
            Kind::Hop => {
                "HOP(TABLE t, DESCRIPTOR(ts), INTERVAL '5 seconds', INTERVAL '10 seconds'): a window begins each 5 s \
                 and is 10 s long; and perhaps an offset"
            }
            Kind::Session => "SESSION(TABLE t PARTITION BY k, DESCRIPTOR(ts), INTERVAL '10 seconds')",
        }
    }

    fn intervals(self) -> std::ops::RangeInclusive<usize> {
        match self {
            Kind::Tumble => 1..=2,
            Kind::Hop => 2..=3,
            Kind::Session => 1..=1,
        }
    }
}

/// A query in the place of the name of a table as an argument, so that the table is known before it is planned.
pub(super) fn name_table(factor: &mut TableFactor) {
    let TableFactor::Table { name, args: Some(list), .. } = factor else { return };
    if Kind::of(name).is_none() {
        return;
    }
    let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(table))) = list.args.first_mut() else { return };
    let parts = match table {
        SqlExpr::Identifier(name) => vec![name.clone()],
        SqlExpr::CompoundIdentifier(names) => names.clone(),
        _ => return,
    };
    *table = SqlExpr::Subquery(Box::new(super::rewrite::all_of(ObjectName::from(parts))));
}

impl RelationPlanner for TimeWindows {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> DfResult<RelationPlanning> {
        if let TableFactor::Table { name, args: Some(list), alias, .. } = &relation
            && let Some(kind) = Kind::of(name)
        {
            let plan = Call::read(kind, &list.args, context)
                .and_then(|call| call.plan(context))
                .map_err(|error| if error.span.is_some() { error } else { error.at(Span::from(name.span())) })?;
            return Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.clone()))));
        }
        Ok(RelationPlanning::Original(Box::new(relation)))
    }
}

/// A call, taken apart.
struct Call {
    kind: Kind,
    input: LogicalPlan,
    time: Expr,
    intervals: Vec<Length>,
    partition: Vec<Expr>,
}

/// An interval, of months or of a fixed time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Length {
    months: i64,
    nanos: i64,
}

impl Call {
    fn read(kind: Kind, args: &[FunctionArg], context: &mut dyn RelationPlannerContext) -> Result<Self> {
        let usage = |message: &str| Error::sql(message).hint(kind.usage());
        let mut exprs = Vec::new();
        for arg in args {
            let FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) = arg else {
                return Err(usage("a window of time takes a table, DESCRIPTOR(column) and intervals"));
            };
            exprs.push(expr);
        }
        let marked = exprs.last().and_then(|expr| call_of(expr, |name| is_mark(name, mark::PARTITION)));
        if marked.is_some() {
            exprs.pop();
        }
        if marked.is_some() && kind != Kind::Session {
            return Err(usage("PARTITION BY is for SESSION: other windows do not depend on other rows"));
        }
        let [table, time, intervals @ ..] = exprs.as_slice() else {
            return Err(usage("a window of time takes a table, DESCRIPTOR(column) and intervals"));
        };
        let SqlExpr::Subquery(query) = table else {
            return Err(usage("the first argument of a window of time is a table"));
        };
        if !kind.intervals().contains(&intervals.len()) {
            return Err(usage(&format!("{} intervals are too few or too many", intervals.len())));
        }
        let input = context.plan(relation(query))?;
        let time = time_column(time, &input, context).map_err(|error| match error.hint {
            Some(_) => error,
            None => error.hint(kind.usage()),
        })?;
        let intervals = intervals.iter().map(|expr| Length::read(expr, context)).collect::<Result<Vec<_>>>()?;
        let partition = marked.unwrap_or_default().into_iter();
        let partition = partition.map(|expr| Ok(context.sql_to_expr(expr.clone(), input.schema())?));
        let partition = partition.collect::<Result<Vec<_>>>()?;
        for name in [START, END] {
            if input.schema().has_column_with_unqualified_name(name) {
                return Err(Error::sql(format!("the table has a column {name} already"))
                    .hint(format!("give it another name: TABLE (SELECT * RENAME ({name} AS other) FROM …)")));
            }
        }
        Ok(Self { kind, input, time, intervals, partition })
    }

    fn plan(self, context: &dyn RelationPlannerContext) -> Result<LogicalPlan> {
        let function = |name: &str| -> Result<Arc<ScalarUDF>> {
            let function = context.context_provider().get_function_meta(name);
            function.ok_or_else(|| Error::sql(format!("no function named {name}")))
        };
        match self.kind {
            Kind::Tumble => self.tumble(function("date_bin")?.as_ref()),
            Kind::Hop => self.hop(function("date_bin")?.as_ref(), function("generate_series")?.as_ref()),
            Kind::Session => {
                let gap = self.intervals[0];
                if gap.months != 0 || gap.nanos <= 0 {
                    return Err(Error::sql("the gap of a SESSION is a time above 0, and not of months"));
                }
                Sessions::plan(self.input, self.time, self.partition, gap.nanos)
            }
        }
    }

    /// The start of the last window that begins before the time, or at it.
    fn last_start(&self, distance: Length, offset: Option<&Length>, date_bin: &ScalarUDF) -> Result<Expr> {
        let mut args = vec![distance.expr(), self.time.clone()];
        if let Some(offset) = offset {
            if offset.months != 0 {
                return Err(Error::sql("the offset of a window is a time, and not of months"));
            }
            args.push(lit(ScalarValue::TimestampNanosecond(Some(offset.nanos), None)));
        }
        Ok(date_bin.call(args))
    }

    fn tumble(&self, date_bin: &ScalarUDF) -> Result<LogicalPlan> {
        let size = self.intervals[0].above_zero("size")?;
        let start = self.last_start(size, self.intervals.get(1), date_bin)?;
        let with_start = self.rows()?.project(self.columns([start.alias(START)]))?;
        let end = (ident(START) + size.expr()).alias(END);
        Ok(with_start.project(self.columns([ident(START), end]))?.build()?)
    }

    fn hop(&self, date_bin: &ScalarUDF, series: &ScalarUDF) -> Result<LogicalPlan> {
        let (slide, size) = (self.intervals[0].above_zero("slide")?, self.intervals[1].above_zero("size")?);
        let windows = size
            .over(slide)
            .ok_or_else(|| Error::sql("the size of a HOP is not a multiple of its slide").hint(Kind::Hop.usage()))?;
        if windows > WINDOWS_OF_A_ROW {
            return Err(Error::sql(format!(
                "each row would be in {windows} windows, and {WINDOWS_OF_A_ROW} is the most"
            ))
            .hint("make the slide longer, or the size shorter"));
        }
        let last = self.last_start(slide, self.intervals.get(2), date_bin)?;
        let first = last.clone() - size.minus(slide).expr();
        let starts = series.call(vec![first, last, slide.expr()]);
        let kind = self.time.get_type(self.input.schema())?;
        let all = self.rows()?.project(self.columns([starts.alias(START)]))?.unnest_column(START)?;
        let typed = all.project(self.columns([cast(ident(START), kind).alias(START)]))?;
        let end = (ident(START) + size.expr()).alias(END);
        Ok(typed.project(self.columns([ident(START), end]))?.build()?)
    }

    /// The rows that have a time.
    fn rows(&self) -> Result<LogicalPlanBuilder> {
        Ok(LogicalPlanBuilder::from(self.input.clone()).filter(self.time.clone().is_not_null())?)
    }

    /// All columns of the table, and more.
    fn columns<const N: usize>(&self, more: [Expr; N]) -> Vec<Expr> {
        let all = self.input.schema().iter().map(|field| Expr::Column(Column::from(field)));
        all.chain(more).collect()
    }
}

fn relation(query: &datafusion::sql::sqlparser::ast::Query) -> TableFactor {
    // `SELECT * FROM t` is t, whose columns keep its name.
    if let SetExpr::Select(select) = query.body.as_ref()
        && let [from] = select.from.as_slice()
        && query.to_string() == format!("SELECT * FROM {}", from.relation)
    {
        return from.relation.clone();
    }
    TableFactor::Derived { lateral: false, subquery: Box::new(query.clone()), alias: None, sample: None }
}

/// The arguments of a call of that name.
fn call_of(expr: &SqlExpr, is: impl Fn(&Ident) -> bool) -> Option<Vec<&SqlExpr>> {
    let SqlExpr::Function(Function { name, args: FunctionArguments::List(list), .. }) = expr else { return None };
    let [part] = name.0.as_slice() else { return None };
    let name = part.as_ident().filter(|name| is(name));
    name?;
    let plain = list.args.iter().filter_map(|arg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    });
    Some(plain.collect())
}

/// The time of a row: `DESCRIPTOR(ts)`, or just `ts`.
fn time_column(expr: &SqlExpr, input: &LogicalPlan, context: &mut dyn RelationPlannerContext) -> Result<Expr> {
    let described = call_of(expr, |name| name.value.eq_ignore_ascii_case("descriptor"));
    let named = match described.as_deref() {
        Some([column]) => column,
        Some(_) => return Err(Error::sql("DESCRIPTOR names one column").at(Span::from(expr.span()))),
        None => expr,
    };
    let place = Span::from(named.span());
    let column = context.sql_to_expr(named.clone(), input.schema()).map_err(|e| Error::from(e).at(place))?;
    if !matches!(column, Expr::Column(_)) {
        return Err(Error::sql("DESCRIPTOR names a column of the table").at(place));
    }
    match column.get_type(input.schema())? {
        DataType::Timestamp(..) => Ok(column),
        DataType::Date32 | DataType::Date64 => Ok(cast(column, DataType::Timestamp(TimeUnit::Microsecond, None))),
        kind => Err(Error::sql(format!("{named} is {}, and no time", sql_type(&kind)))
            .at(place)
            .hint("to_timestamp(…) makes a time of a text or a number, in TABLE (SELECT …)")),
    }
}

impl Length {
    fn read(expr: &SqlExpr, context: &mut dyn RelationPlannerContext) -> Result<Self> {
        let place = Span::from(expr.span());
        let wrong = |message: &str| {
            let error = Error::sql(message);
            (if place.start.0 > 0 { error.at(place) } else { error }).hint("such as INTERVAL '10 seconds'")
        };
        let value = match context.sql_to_expr(expr.clone(), &DFSchema::empty()) {
            Ok(Expr::Literal(value, _)) => value,
            _ => return Err(wrong(&format!("{expr} is no constant INTERVAL"))),
        };
        let too_large = || wrong(&format!("{expr} is too large"));
        let (months, nanos) = match value {
            ScalarValue::IntervalYearMonth(Some(months)) => (i64::from(months), Some(0)),
            ScalarValue::IntervalDayTime(Some(value)) => {
                (0, nanos_of(value.days).and_then(|days| days.checked_add(i64::from(value.milliseconds) * 1_000_000)))
            }
            ScalarValue::IntervalMonthDayNano(Some(value)) => {
                let nanos = nanos_of(value.days).and_then(|days| days.checked_add(value.nanoseconds));
                (i64::from(value.months), nanos)
            }
            _ => return Err(wrong(&format!("{expr} is no constant INTERVAL"))),
        };
        let nanos = nanos.ok_or_else(too_large)?;
        if months != 0 && nanos != 0 {
            return Err(wrong("an interval of a window is of months, or of a fixed time, and not of both"));
        }
        Ok(Self { months, nanos })
    }

    fn above_zero(self, what: &str) -> Result<Self> {
        if self.months <= 0 && self.nanos <= 0 {
            return Err(Error::sql(format!("the {what} of a window is above 0")));
        }
        Ok(self)
    }

    /// How often the other one goes into it, if it does without a rest.
    fn over(self, other: Self) -> Option<i64> {
        let (whole, part) = if other.months > 0 { (self.months, other.months) } else { (self.nanos, other.nanos) };
        let same = (self.months > 0) == (other.months > 0);
        (same && whole % part == 0).then(|| whole / part)
    }

    fn minus(self, other: Self) -> Self {
        Self { months: self.months - other.months, nanos: self.nanos - other.nanos }
    }

    fn expr(self) -> Expr {
        let months = i32::try_from(self.months).unwrap_or(i32::MAX);
        lit(ScalarValue::new_interval_mdn(months, 0, self.nanos))
    }
}

/// A day is 24 hours.
fn nanos_of(days: i32) -> Option<i64> {
    i64::from(days).checked_mul(86_400_000_000_000)
}
