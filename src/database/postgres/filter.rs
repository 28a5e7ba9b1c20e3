//! Conditions in the SQL of Postgres.
//!
//! Enters: a condition of a query. Leaves: the same in SQL, or nothing. Always holds: what leaves is true for the same
//! rows there as here; comparisons of floats stay here, where NaN has an order of its own, and texts are compared by
//! their bytes.

use arrow::datatypes::{DataType, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use crate::database::{literal, quoted};

/// The condition in SQL; nothing, if it does not say the same there.
pub fn filter_sql(filter: &Expr, columns: &Schema) -> Option<String> {
    match filter {
        Expr::Alias(alias) => filter_sql(&alias.expr, columns),
        Expr::Not(inner) => Some(format!("NOT ({})", filter_sql(inner, columns)?)),
        Expr::IsNull(inner) => Some(format!("{} IS NULL", column(inner, columns)?.0)),
        Expr::IsNotNull(inner) => Some(format!("{} IS NOT NULL", column(inner, columns)?.0)),
        Expr::Column(_) => {
            let (name, kind) = column(filter, columns)?;
            (kind == DataType::Boolean).then_some(name)
        }
        Expr::Between(between) => {
            let low = comparison(&between.expr, Operator::GtEq, &between.low, columns)?;
            let high = comparison(&between.expr, Operator::LtEq, &between.high, columns)?;
            let not = if between.negated { "NOT " } else { "" };
            Some(format!("{not}({low} AND {high})"))
        }
        Expr::InList(list) => {
            let equal = |value| comparison(&list.expr, Operator::Eq, value, columns);
            let any = list.list.iter().map(equal).collect::<Option<Vec<_>>>()?.join(" OR ");
            let not = if list.negated { "NOT " } else { "" };
            (!any.is_empty()).then(|| format!("{not}({any})"))
        }
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            Some(format!("({} {op} {})", filter_sql(left, columns)?, filter_sql(right, columns)?))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            comparison(left, *op, right, columns).or_else(|| comparison(right, op.swap()?, left, columns))
        }
        _ => None,
    }
}

fn comparison(left: &Expr, op: Operator, right: &Expr, columns: &Schema) -> Option<String> {
    let (name, kind) = column(left, columns)?;
    let Expr::Literal(value, _) = right else { return None };
    let value = value_sql(value, &kind)?;
    let ordered = matches!(op, Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq);
    if !ordered && !matches!(op, Operator::Eq | Operator::NotEq) {
        return None;
    }
    let collation = if ordered && kind == DataType::Utf8 { " COLLATE \"C\"" } else { "" };
    let op = if op == Operator::NotEq { "<>".to_owned() } else { op.to_string() };
    Some(format!("({name}{collation} {op} {value})"))
}

/// A column whose values are compared as they are here.
fn column(expr: &Expr, columns: &Schema) -> Option<(String, DataType)> {
    let Expr::Column(column) = expr else { return None };
    let kind = columns.field_with_name(&column.name).ok()?.data_type().clone();
    let name = quoted(&column.name);
    match &kind {
        DataType::Float32 | DataType::Float64 | DataType::Binary => None,
        // Other types are read as text, too.
        DataType::Utf8 => Some((format!("{name}::text"), kind)),
        _ => Some((name, kind)),
    }
}

fn value_sql(value: &ScalarValue, kind: &DataType) -> Option<String> {
    if value.is_null() {
        return None;
    }
    let same = match (value, kind) {
        (
            ScalarValue::Utf8(Some(text)) | ScalarValue::LargeUtf8(Some(text)) | ScalarValue::Utf8View(Some(text)),
            kind,
        ) => {
            return (*kind == DataType::Utf8 && !text.contains('\0')).then(|| literal(text));
        }
        (ScalarValue::Boolean(_), DataType::Boolean) => return Some(value.to_string()),
        (value, DataType::Int16 | DataType::Int32 | DataType::Int64) if value.data_type().is_integer() => {
            return Some(format!("({value})"));
        }
        (ScalarValue::Decimal128(..), DataType::Decimal128(..)) => "numeric",
        (ScalarValue::Date32(_), DataType::Date32) => "date",
        (ScalarValue::TimestampMicrosecond(_, None), DataType::Timestamp(_, None)) => "timestamp",
        (ScalarValue::TimestampMicrosecond(_, Some(_)), DataType::Timestamp(_, Some(_))) => "timestamptz",
        _ => return None,
    };
    let array = value.to_array().ok()?;
    let text = crate::format::texts(&array, "").ok()?;
    // Years of five digits and those before the first are written in other ways.
    let text = text.value(0);
    let plain = same == "numeric" || text.as_bytes().get(4) == Some(&b'-');
    plain.then(|| format!("{}::{same}", literal(text)))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;
    use datafusion::logical_expr::{col, lit};

    use super::*;

    #[test]
    fn conditions_are_said_in_sql_or_stay_here() {
        let field = |name, kind| Field::new(name, kind, true);
        let columns = Schema::new(vec![
            field("k", DataType::Int32),
            field("t", DataType::Utf8),
            field("f", DataType::Float64),
            field("d", DataType::Date32),
        ]);
        let said = |filter: Expr| filter_sql(&filter, &columns);
        assert_eq!(said(col("k").gt(lit(3_i32))).as_deref(), Some("(\"k\" > (3))"));
        assert_eq!(said(lit(3_i32).gt(col("k"))).as_deref(), Some("(\"k\" < (3))"));
        assert_eq!(said(col("t").eq(lit("it's"))).as_deref(), Some("(\"t\"::text = 'it''s')"));
        assert_eq!(said(col("t").lt(lit("b"))).as_deref(), Some("(\"t\"::text COLLATE \"C\" < 'b')"));
        let date = lit(ScalarValue::Date32(Some(0)));
        assert_eq!(said(col("d").lt_eq(date)).as_deref(), Some("(\"d\" <= '1970-01-01'::date)"));
        let both = col("k").is_not_null().and(col("k").in_list(vec![lit(1_i32), lit(2_i32)], false));
        assert_eq!(said(both).as_deref(), Some("(\"k\" IS NOT NULL AND ((\"k\" = (1)) OR (\"k\" = (2))))"));
        assert_eq!(said(col("f").gt(lit(1.0))), None);
        assert_eq!(said(col("k").gt(lit(ScalarValue::Int32(None)))), None);
    }
}
