//! The place of an error that comes without one.
//!
//! Enters: an error of a statement that ran, and the statement. Leaves: the error with its place, where only one place
//! of the statement can be meant. Always holds: an error that has a place keeps it.

use std::ops::ControlFlow;

use datafusion::sql::parser::{CopyToSource, Statement as Body};
use datafusion::sql::sqlparser::ast::{Expr, Spanned, visit_expressions};

use super::Statement;
use crate::error::{Error, Span};

/// What the error of a subquery in place of a value begins with.
const SUBQUERY: &str = "a subquery in place of a value";

/// Adds the place, if it can be told.
pub fn locate(error: Error, statement: &Statement) -> Error {
    if error.span.is_some() || !error.message.starts_with(SUBQUERY) {
        return error;
    }
    match subqueries(&statement.body).as_slice() {
        [only] => error.at(*only),
        _ => error,
    }
}

/// The places of the subqueries that stand for values.
fn subqueries(body: &Body) -> Vec<Span> {
    let mut places = Vec::new();
    let mut note = |expr: &Expr| {
        if let Expr::Subquery(query) = expr {
            let span = query.span();
            if span.start.line > 0 {
                places.push(Span::from(span));
            }
        }
        ControlFlow::<()>::Continue(())
    };
    let _ = match body {
        Body::Statement(sql) => visit_expressions(sql.as_ref(), &mut note),
        Body::CopyTo(copy) => match &copy.source {
            CopyToSource::Query(query) => visit_expressions(query.as_ref(), &mut note),
            CopyToSource::Relation(_) => ControlFlow::Continue(()),
        },
        Body::Explain(explain) => return subqueries(&explain.statement),
        Body::CreateExternalTable(_) | Body::Reset(_) => ControlFlow::Continue(()),
    };
    places
}
