//! SUMMARIZE and DESCRIBE in a query.
//!
//! Enters: the tables of FROM and their columns. Leaves: a SELECT with one row for each column. Always holds:
//! SUMMARIZE reads its input once; what a type does not have (the mean of a text) is NULL.
//!
//! All figures come from one aggregation, as one wide row; lists of it are unnested side by side.

use arrow::datatypes::DataType;
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, DataType as SqlType, ExactNumberInfo, Expr, Select, SelectItem, TableWithJoins, Value,
};

use super::{Column, Rewriter, Step, ast};
use crate::error::sql_type;

/// One row for each column: its type, range, distinct values, mean, deviation, quartiles, and NULLs.
pub(super) fn summarize(rewriter: &Rewriter<'_>, from: &[TableWithJoins]) -> Step<Select> {
    let columns = rewriter.columns_of(from)?;
    let mut wide = vec![ast::item(ast::count_rows(), Some(ast::name("rows")))];
    let mut lists: Vec<(&str, Vec<Expr>)> = FIGURES.iter().map(|name| (*name, Vec::new())).collect();
    for (at, column) in columns.iter().enumerate() {
        for ((name, list), figure) in lists.iter_mut().zip(figures(column)) {
            let value = match figure {
                Figure::Known(expr) => expr,
                Figure::Measured(expr) => {
                    let place = format!("{name} {at}");
                    wide.push(ast::item(expr, Some(ast::name(&place))));
                    ast::column(&place)
                }
            };
            list.push(value);
        }
    }
    let inner = ast::query(ast::select(wide, from.to_vec()));
    let unnested = lists.into_iter().map(|(name, list)| {
        let list = if list.is_empty() { vec![ast::null()] } else { list };
        ast::item(ast::call("unnest", vec![ast::call("make_array", list)]), Some(ast::name(name)))
    });
    let mut items: Vec<SelectItem> = unnested.collect();
    items.push(SelectItem::UnnamedExpr(ast::column("rows")));
    let long = ast::query(ast::select(items, vec![ast::alone(ast::derived(inner, Some(ast::alias("wide"))))]));
    let mut shown: Vec<SelectItem> = FIGURES
        .iter()
        .filter(|name| **name != "filled")
        .map(|name| SelectItem::UnnamedExpr(ast::column(name)))
        .collect();
    shown.push(ast::item(ast::column("rows"), Some(ast::name("count"))));
    shown.push(ast::item(null_percentage(), Some(ast::name("null_percentage"))));
    Ok(ast::select(shown, vec![ast::alone(ast::derived(long, Some(ast::alias("summary"))))]))
}

/// One row for each column: its name, its type, and whether it may be NULL.
pub(super) fn describe(rewriter: &Rewriter<'_>, from: &[TableWithJoins]) -> Step<Select> {
    let columns = rewriter.columns_of(from)?;
    let list = |items: Vec<Expr>| ast::call("unnest", vec![ast::call("make_array", items)]);
    let texts = |text: &dyn Fn(&Column) -> String| columns.iter().map(|column| ast::text(&text(column))).collect();
    let nullable = |column: &Column| if column.nullable { "YES".to_owned() } else { "NO".to_owned() };
    let items = vec![
        ast::item(list(texts(&|column| column.name.clone())), Some(ast::name("column_name"))),
        ast::item(list(texts(&|column| sql_type(&column.kind))), Some(ast::name("data_type"))),
        ast::item(list(texts(&nullable)), Some(ast::name("is_nullable"))),
    ];
    Ok(ast::select(items, Vec::new()))
}

const FIGURES: [&str; 11] =
    ["column_name", "column_type", "min", "max", "approx_unique", "avg", "std", "q25", "q50", "q75", "filled"];

enum Figure {
    /// A literal.
    Known(Expr),
    /// An aggregate of the input.
    Measured(Expr),
}

/// What [`FIGURES`] names, for one column.
fn figures(column: &Column) -> [Figure; FIGURES.len()] {
    use Figure::{Known, Measured};
    let this = || ast::column_of(column.table.as_ref(), &column.name);
    let as_text = |expr: Expr| ast::cast(expr, SqlType::Varchar(None));
    let none = || Known(as_text(ast::null()));
    let kind = &column.kind;
    let number = kind.is_numeric();
    let time = matches!(kind, DataType::Date32 | DataType::Timestamp(..));
    let flat = !kind.is_nested();
    let of = |function: &str| if flat { Measured(as_text(ast::call(function, vec![this()]))) } else { none() };
    let mean = |function: &str| {
        let double = ast::cast(this(), SqlType::Double(ExactNumberInfo::None));
        if number { Measured(as_text(ast::call(function, vec![double]))) } else { none() }
    };
    let quartile = |share: &str| match () {
        () if number => {
            let double = ast::cast(this(), SqlType::Double(ExactNumberInfo::None));
            Measured(as_text(ast::call("approx_percentile_cont", vec![double, ast::number(share)])))
        }
        () if time => {
            let whole = ast::text(&ticks(kind).to_string());
            let number = ast::call("arrow_cast", vec![this(), whole.clone()]);
            let double = ast::cast(number, SqlType::Double(ExactNumberInfo::None));
            let middle = ast::call("approx_percentile_cont", vec![double, ast::number(share)]);
            let number = ast::call("arrow_cast", vec![ast::call("round", vec![middle]), whole]);
            Measured(as_text(ast::call("arrow_cast", vec![number, ast::text(&kind.to_string())])))
        }
        () => none(),
    };
    let counted = kind.is_integer() || time || kind.is_string();
    let distinct = match kind {
        DataType::Null => ast::call("count", vec![this()]),
        _ if counted => ast::call("approx_distinct", vec![this()]),
        _ => ast::call("approx_distinct", vec![as_text(this())]),
    };
    [
        Known(ast::text(&column.name)),
        Known(ast::text(&sql_type(kind))),
        of("min"),
        of("max"),
        Measured(ast::cast(distinct, SqlType::BigInt(None))),
        mean("avg"),
        mean("stddev"),
        quartile("0.25"),
        quartile("0.5"),
        quartile("0.75"),
        Measured(ast::call("count", vec![this()])),
    ]
}

/// The whole numbers beneath a date or a timestamp.
fn ticks(kind: &DataType) -> DataType {
    if *kind == DataType::Date32 { DataType::Int32 } else { DataType::Int64 }
}

/// The share of NULLs among the rows, with two digits behind the point.
fn null_percentage() -> Expr {
    let missing = ast::binary(ast::column("rows"), BinaryOperator::Minus, ast::column("filled"));
    let share = ast::binary(
        ast::binary(Expr::value(Value::Number("100.0".to_owned(), false)), BinaryOperator::Multiply, missing),
        BinaryOperator::Divide,
        ast::call("nullif", vec![ast::column("rows"), ast::number(0)]),
    );
    ast::call("round", vec![share, ast::number(2)])
}
