//! Functions where they cannot stand, and with clauses that they do not have.
//!
//! Enters: a statement. Leaves: nothing, or an error that points at the function. Always holds: what a subquery does
//! within is its own; no clause of a call is ignored.

use std::ops::ControlFlow;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr as PlanExpr, ExprSchemable, LogicalPlan, WindowFrameBound, WindowFrameUnits};
use datafusion::sql::parser::{CopyToSource, Statement as Body};
use datafusion::sql::sqlparser::ast::{
    DuplicateTreatment, Expr, Function, FunctionArgumentClause, FunctionArguments, GroupByExpr, JoinConstraint,
    JoinOperator, Query, Select, Visit, Visitor,
};

use super::rewrite::place;
use crate::error::{Error, Result, sql_type};

/// What a name means.
pub(super) trait Known {
    /// It groups rows.
    fn is_aggregate(&self, name: &str) -> bool;
    /// It is a function of one row, and of nothing else.
    fn is_scalar(&self, name: &str) -> bool;
}

impl Known for SessionState {
    fn is_aggregate(&self, name: &str) -> bool {
        self.aggregate_functions().contains_key(name)
    }

    fn is_scalar(&self, name: &str) -> bool {
        let windowed = self.aggregate_functions().contains_key(name) || self.window_functions().contains_key(name);
        self.scalar_functions().contains_key(name) && !windowed
    }
}

/// Refuses functions that stand where they cannot, and clauses of calls that would be ignored.
pub(super) fn refuse(body: &Body, known: &dyn Known) -> Result<()> {
    let mut pass = Pass { known, inside: vec![Vec::new()] };
    let flow = match body {
        Body::Statement(sql) => sql.visit(&mut pass),
        Body::CopyTo(copy) => match &copy.source {
            CopyToSource::Query(query) => query.visit(&mut pass),
            CopyToSource::Relation(_) => return Ok(()),
        },
        Body::Explain(explain) => return refuse(&explain.statement, known),
        Body::CreateExternalTable(_) | Body::Reset(_) => return Ok(()),
    };
    match flow {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Pass<'a> {
    known: &'a dyn Known,
    /// The aggregates and window functions around the place, for each query around it.
    inside: Vec<Vec<Around>>,
}

/// A call that others may stand within.
struct Around {
    name: String,
    is_window: bool,
}

impl Around {
    fn kind(&self) -> &'static str {
        if self.is_window { "window function" } else { "aggregate" }
    }

    /// True if the call cannot be within the other. Aggregates are computed before windows are.
    fn is_refused_in(&self, outer: &Around) -> bool {
        self.is_window || !outer.is_window
    }
}

fn name_of(call: &Function) -> String {
    call.name.to_string().to_lowercase()
}

impl Pass<'_> {
    /// An aggregate that groups rows, or a window function: the same name with OVER.
    fn of_rows<'e>(&self, expr: &'e Expr) -> Option<(Around, &'e Function)> {
        let Expr::Function(call) = expr else { return None };
        let (name, is_window) = (name_of(call), call.over.is_some());
        (is_window || self.known.is_aggregate(&name)).then_some((Around { name, is_window }, call))
    }
}

impl Visitor for Pass<'_> {
    type Break = Error;

    fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<Error> {
        self.inside.push(Vec::new());
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<Error> {
        self.inside.pop();
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Error> {
        let grouped = match &select.group_by {
            GroupByExpr::Expressions(exprs, _) => exprs.as_slice(),
            GroupByExpr::All(_) => &[],
        };
        for (clause, expr) in select
            .selection
            .iter()
            .map(|expr| ("WHERE", expr))
            .chain(grouped.iter().map(|expr| ("GROUP BY", expr)))
            .chain(select.having.iter().map(|expr| ("HAVING", expr)))
            .chain(conditions(select).map(|expr| ("ON", expr)))
        {
            no_window(clause, expr)?;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Error> {
        if let Expr::Function(call) = expr {
            if self.known.is_scalar(&name_of(call)) {
                no_clauses(call)?;
            } else if call.over.is_some() {
                has_value(call)?;
            }
        }
        let Some((inner, call)) = self.of_rows(expr) else { return ControlFlow::Continue(()) };
        let Some(around) = self.inside.last_mut() else { return ControlFlow::Continue(()) };
        if let Some(outer) = around.iter().rev().find(|outer| inner.is_refused_in(outer)) {
            let (name, kind, outer_kind) = (&inner.name, inner.kind(), outer.kind());
            let use_it = if outer.is_window { "use" } else { "aggregate" };
            let error = Error::sql(format!("the {kind} {name} stands within the {outer_kind} {}", outer.name))
                .hint(format!("compute the inner one in a subquery, and {use_it} its result"));
            return ControlFlow::Break(at(error, call));
        }
        around.push(inner);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Error> {
        if self.of_rows(expr).is_some()
            && let Some(around) = self.inside.last_mut()
        {
            around.pop();
        }
        ControlFlow::Continue(())
    }
}

/// The error of a clause that a function of one row does not have.
fn no_clauses(call: &Function) -> ControlFlow<Error> {
    let name = name_of(call);
    let (distinct, ordered) = match &call.args {
        FunctionArguments::List(list) => {
            let ordered = list.clauses.iter().any(|clause| matches!(clause, FunctionArgumentClause::OrderBy(_)));
            (list.duplicate_treatment == Some(DuplicateTreatment::Distinct), ordered)
        }
        _ => (false, false),
    };
    let clause = if call.over.is_some() {
        return ControlFlow::Break(at(
            Error::sql(format!("{name} is not a window function: OVER has no meaning for it")),
            call,
        ));
    } else if call.filter.is_some() {
        "FILTER"
    } else if distinct {
        "DISTINCT"
    } else if ordered || !call.within_group.is_empty() {
        "ORDER BY"
    } else {
        return ControlFlow::Continue(());
    };
    ControlFlow::Break(at(Error::sql(format!("{name} is not an aggregate: {clause} has no meaning for it")), call))
}

/// The error of a window function that lacks its value.
fn has_value(call: &Function) -> ControlFlow<Error> {
    let name = name_of(call);
    let empty = matches!(&call.args, FunctionArguments::List(list) if list.args.is_empty());
    if empty && matches!(name.as_str(), "first_value" | "last_value" | "nth_value" | "first" | "last") {
        return ControlFlow::Break(at(Error::sql(format!("{name} needs an argument")), call));
    }
    ControlFlow::Continue(())
}

/// Refuses `RANGE BETWEEN 1 PRECEDING …` where ORDER BY is no number and no time.
pub(super) fn refuse_ranges(plan: &LogicalPlan) -> Result<()> {
    plan.apply_with_subqueries(|node| {
        let LogicalPlan::Window(window) = node else { return Ok(TreeNodeRecursion::Continue) };
        for expr in &window.window_expr {
            expr.apply(|expr| {
                let PlanExpr::WindowFunction(call) = expr else { return Ok(TreeNodeRecursion::Continue) };
                let frame = &call.params.window_frame;
                let offset = [&frame.start_bound, &frame.end_bound].into_iter().any(|bound| match bound {
                    WindowFrameBound::Preceding(value) | WindowFrameBound::Following(value) => !value.is_null(),
                    WindowFrameBound::CurrentRow => false,
                });
                let key = call.params.order_by.first().map(|key| key.expr.get_type(window.input.schema()));
                if frame.units == WindowFrameUnits::Range
                    && offset
                    && let Some(Ok(kind)) = key
                    && !kind.is_numeric()
                    && !kind.is_temporal()
                {
                    let error = Error::sql(format!(
                        "RANGE with a distance needs ORDER BY a number or a time, not {}",
                        sql_type(&kind)
                    ));
                    return Err(error.mark("RANGE").hint("ROWS counts rows").into());
                }
                Ok(TreeNodeRecursion::Continue)
            })?;
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(())
}

fn at(error: Error, call: &Function) -> Error {
    match place(&call.name) {
        Some(place) => error.at(place),
        None => error,
    }
}

/// The conditions of the joins of a SELECT.
fn conditions(select: &Select) -> impl Iterator<Item = &Expr> {
    let joins = select.from.iter().flat_map(|table| &table.joins);
    joins.filter_map(|join| condition(&join.join_operator))
}

fn condition(join: &JoinOperator) -> Option<&Expr> {
    use JoinOperator as Op;
    match join {
        Op::Join(on)
        | Op::Inner(on)
        | Op::Left(on)
        | Op::LeftOuter(on)
        | Op::Right(on)
        | Op::RightOuter(on)
        | Op::FullOuter(on)
        | Op::Semi(on)
        | Op::LeftSemi(on)
        | Op::RightSemi(on)
        | Op::Anti(on)
        | Op::LeftAnti(on)
        | Op::RightAnti(on) => match on {
            JoinConstraint::On(condition) => Some(condition),
            _ => None,
        },
        _ => None,
    }
}

/// The error of a window function in a clause that is done before windows are.
fn no_window(clause: &str, expr: &Expr) -> ControlFlow<Error> {
    let mut pass = Windows { depth: 0 };
    let ControlFlow::Break(call) = expr.visit(&mut pass) else { return ControlFlow::Continue(()) };
    let remedy = match clause {
        "WHERE" | "HAVING" => "filter on it with QUALIFY, or in a query around this one",
        _ => "compute it in a subquery",
    };
    let name = name_of(&call);
    let error = Error::sql(format!("the window function {name} cannot stand in {clause}, which comes before windows"));
    ControlFlow::Break(at(error.hint(remedy), &call))
}

struct Windows {
    depth: usize,
}

impl Visitor for Windows {
    type Break = Box<Function>;

    fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<Self::Break> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<Self::Break> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        match expr {
            Expr::Function(call) if call.over.is_some() && self.depth == 0 => {
                ControlFlow::Break(Box::new(call.clone()))
            }
            _ => ControlFlow::Continue(()),
        }
    }
}
