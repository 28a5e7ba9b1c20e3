//! Operators whose meaning depends on the type: `text[2]`, `text[2:4]`, `text || text`, `a // b`.
//!
//! Enters: an access by number or by range, or two operands. Leaves: substr() where the value is text, a function
//! with a limit for `||`, and the division, which has no fraction where both are whole numbers. Always holds: lists
//! keep their own access and `||`; places count from 1, and from the end where they are negative.

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, Result as DfResult};
use datafusion::functions::expr_fn::{character_length, substr, substring};
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr, RawFieldAccessExpr};
use datafusion::logical_expr::{Expr, ExprSchemable, GetFieldAccess, cast, lit, when};
use datafusion::sql::sqlparser::ast::BinaryOperator;

use crate::function::{concatenation, json_call};

/// Plans slices of text, `||` of texts, `->` and `->>` of JSON, and `//`.
#[derive(Debug)]
pub struct TypedOperators;

impl ExprPlanner for TypedOperators {
    fn plan_binary_op(&self, both: RawBinaryExpr, schema: &DFSchema) -> DfResult<PlannerResult<RawBinaryExpr>> {
        Ok(match both.op {
            BinaryOperator::DuckIntegerDivide => PlannerResult::Planned(both.left / both.right),
            BinaryOperator::StringConcat => {
                let types = (both.left.get_type(schema), both.right.get_type(schema));
                let text = match &types {
                    (Ok(left), Ok(right)) => concatenation(&both.left, &both.right, (left, right)),
                    _ => None,
                };
                text.map_or(PlannerResult::Original(both), PlannerResult::Planned)
            }
            BinaryOperator::Arrow | BinaryOperator::LongArrow => {
                let name = if both.op == BinaryOperator::Arrow { "json_extract" } else { "json_extract_string" };
                PlannerResult::Planned(json_call(name, vec![both.left, both.right]))
            }
            _ => PlannerResult::Original(both),
        })
    }

    fn plan_field_access(
        &self,
        access: RawFieldAccessExpr,
        schema: &DFSchema,
    ) -> DfResult<PlannerResult<RawFieldAccessExpr>> {
        let text =
            matches!(access.expr.get_type(schema), Ok(DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View));
        Ok(match &access.field_access {
            GetFieldAccess::ListIndex { key } if text => {
                let at = from_start(&access.expr, key.as_ref().clone())?;
                PlannerResult::Planned(substring(access.expr, at, lit(1_i64)))
            }
            GetFieldAccess::ListRange { start, stop, stride } if text && is_one(stride) => {
                let start = from_start(&access.expr, start.as_ref().clone())?;
                if is_end(stop) {
                    return Ok(PlannerResult::Planned(substr(access.expr, start)));
                }
                let stop = from_start(&access.expr, stop.as_ref().clone())?;
                let length = stop - start.clone() + lit(1_i64);
                let length = when(length.clone().lt(lit(0_i64)), lit(0_i64)).otherwise(length)?;
                PlannerResult::Planned(substring(access.expr, start, length))
            }
            _ => PlannerResult::Original(access),
        })
    }
}

/// A place that counts from the end if it is negative, as one from the start.
fn from_start(text: &Expr, place: Expr) -> DfResult<Expr> {
    let place = cast(place, DataType::Int64);
    let length = cast(character_length(text.clone()), DataType::Int64);
    when(place.clone().lt(lit(0_i64)), length + place.clone() + lit(1_i64)).otherwise(place)
}

fn is_one(stride: &Expr) -> bool {
    stride.to_string() == "Int64(1)"
}

/// `[2:]` comes as a range to -1.
fn is_end(stop: &Expr) -> bool {
    stop.to_string() == "Int64(-1)"
}
