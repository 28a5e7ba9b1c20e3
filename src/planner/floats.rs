//! One form for floats that SQL takes for equal.
//!
//! Enters: expressions by whose values rows are grouped, partitioned or numbered. Leaves: expressions of which -0.0
//! comes as 0.0 and every NaN as one (0.0 / 0.0 has a sign that a parsed NaN does not have). Always holds: other
//! values and other types stay, and a second time changes nothing.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, ExprSchema, Result as DfResult, ScalarValue};
use datafusion::functions::expr_fn::nanvl;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, lit};

/// Gives the floats among these expressions one form; true if there was one that did not have it.
pub(super) fn one_form<'a>(exprs: impl IntoIterator<Item = &'a mut Expr>, schema: &DFSchema) -> DfResult<bool> {
    let mut changed = false;
    for expr in exprs {
        if let Some(formed) = of_one_form(expr, schema)? {
            *expr = formed;
            changed = true;
        }
    }
    Ok(changed)
}

/// The expression in one form, if it is a float that may have others.
pub(super) fn of_one_form(expr: &Expr, schema: &dyn ExprSchema) -> DfResult<Option<Expr>> {
    let kind = expr.get_type(schema)?;
    if !kind.is_floating() || expr.is_volatile() || is_of_one_form(expr) {
        return Ok(None);
    }
    let zero = ScalarValue::new_zero(&kind)?;
    let nan = ScalarValue::Float64(Some(f64::NAN)).cast_to(&kind)?;
    Ok(Some(nanvl(expr.clone() + lit(zero), lit(nan))))
}

/// Groups by keys of one form, under their names. Grouping sets stay as they are.
pub(super) fn keys_of_one_form(aggregate: Aggregate) -> DfResult<Transformed<Aggregate>> {
    let mut changed = false;
    let mut keys = aggregate.group_expr.clone();
    for key in keys.iter_mut().filter(|key| !matches!(key, Expr::GroupingSet(_))) {
        if let Some(formed) = of_one_form(key, aggregate.input.schema().as_ref())? {
            let (relation, name) = key.qualified_name();
            *key = formed.alias_qualified(relation, name);
            changed = true;
        }
    }
    if !changed {
        return Ok(Transformed::no(aggregate));
    }
    Ok(Transformed::yes(Aggregate::try_new(aggregate.input, keys, aggregate.aggr_expr)?))
}

/// The rows with their floats in one form.
pub(super) fn rows_of_one_form(input: Arc<LogicalPlan>) -> DfResult<Transformed<Arc<LogicalPlan>>> {
    let mut changed = false;
    let mut columns = Vec::new();
    for (relation, field) in input.schema().iter() {
        let column = Expr::Column(Column::from((relation, field)));
        let formed = of_one_form(&column, input.schema().as_ref())?;
        changed |= formed.is_some();
        columns.push(formed.map_or(column, |formed| formed.alias_qualified(relation.cloned(), field.name())));
    }
    if !changed {
        return Ok(Transformed::no(input));
    }
    let rows = LogicalPlanBuilder::from(Arc::unwrap_or_clone(input)).project(columns)?.build()?;
    Ok(Transformed::yes(Arc::new(rows)))
}

fn is_of_one_form(expr: &Expr) -> bool {
    match expr {
        Expr::Alias(alias) => is_of_one_form(&alias.expr),
        Expr::ScalarFunction(call) if call.name() == "nanvl" => matches!(
            call.args.as_slice(),
            [Expr::BinaryExpr(sum), Expr::Literal(nan, _)]
                if sum.op == Operator::Plus
                    && matches!(*sum.right, Expr::Literal(..))
                    && nan.to_string() == f64::NAN.to_string()
        ),
        _ => false,
    }
}
