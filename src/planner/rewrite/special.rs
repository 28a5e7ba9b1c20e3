//! Calls that are spelled in ways of their own.
//!
//! Enters: a call. Leaves: one that DataFusion knows, where the arguments have to be read to find it:
//! `struct_pack(a := 1)`, `list_aggregate(l, 'sum')`, `strftime(t, '%g')`, or that has another name there. Always holds: other calls pass.

use datafusion::sql::sqlparser::ast::{
    AccessExpr, DataType as SqlType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident,
    ObjectName, Subscript, TimezoneInfo,
};

use super::{ast, wrong};
use crate::error::Result;
use crate::function::NAMES;

const SPECIAL: [&str; 7] =
    ["time_bucket", "struct_pack", "list_aggregate", "list_aggr", "array_aggregate", "array_aggr", "strftime"];

/// True for what [`respelled`] may change.
pub(super) fn is_respelled(call: &Function) -> bool {
    let name = call.name.to_string().to_lowercase();
    SPECIAL.contains(&name.as_str()) || NAMES.iter().any(|(given, _)| *given == name)
}

/// The call in other words, if it is one of these.
pub(super) fn respelled(call: &Function) -> Option<Result<Expr>> {
    let name = call.name.to_string().to_lowercase();
    match name.as_str() {
        "struct_pack" => Some(struct_pack(call)),
        "list_aggregate" | "list_aggr" | "array_aggregate" | "array_aggr" => Some(list_aggregate(call)),
        "strftime" => Some(strftime(call)),
        "time_bucket" => Some(time_bucket(call)),
        _ => {
            let (_, meant) = NAMES.iter().find(|(given, _)| *given == name)?;
            let name = ObjectName::from(vec![Ident { value: (*meant).to_owned(), ..last_part(&call.name)? }]);
            Some(Ok(Expr::Function(Function { name, ..call.clone() })))
        }
    }
}

/// `struct_pack(a := 1, b := 2)` is `named_struct('a', 1, 'b', 2)`.
fn struct_pack(call: &Function) -> Result<Expr> {
    let FunctionArguments::List(list) = &call.args else { return Ok(Expr::Function(call.clone())) };
    let mut args = Vec::new();
    for arg in &list.args {
        match arg {
            FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. } => {
                args.extend([ast::text(&ast::meant(name)), value.clone()]);
            }
            FunctionArg::ExprNamed { name: Expr::Identifier(name), arg: FunctionArgExpr::Expr(value), .. } => {
                args.extend([ast::text(&ast::meant(name)), value.clone()]);
            }
            FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Identifier(name))) => {
                args.extend([ast::text(&ast::meant(name)), Expr::Identifier(name.clone())]);
            }
            _ => {
                return Err(wrong("struct_pack takes names and values", &call.name).hint("struct_pack(a := 1, b := 2)"));
            }
        }
    }
    Ok(ast::call("named_struct", args))
}

/// `list_aggregate(l, 'sum')` is `list_sum(l)`.
fn list_aggregate(call: &Function) -> Result<Expr> {
    const KNOWN: [&str; 6] = ["sum", "min", "max", "avg", "product", "any_value"];
    let args = ast::args(call);
    let function = match args.as_slice() {
        [_, Expr::Value(name), ..] => name.value.clone().into_string().unwrap_or_default().to_lowercase(),
        _ => String::new(),
    };
    let list: Vec<Expr> = args.first().map(|list| Expr::clone(list)).into_iter().collect();
    let rest = args.iter().skip(2).map(|arg| Expr::clone(arg));
    match function.as_str() {
        "count" => Ok(ast::call("array_length", vec![ast::call("array_compact", list)])),
        "string_agg" => {
            let mut all = list;
            all.extend(rest.chain([ast::text(",")]).take(1));
            Ok(ast::call("array_to_string", all))
        }
        name if KNOWN.contains(&name) => Ok(ast::call(&format!("array_{name}"), list)),
        _ => Err(wrong(format!("list_aggregate does not know '{function}'"), &call.name).hint(
            "it knows sum, min, max, avg, product, count, any_value and string_agg; else unnest the list and group",
        )),
    }
}

fn last_part(name: &ObjectName) -> Option<Ident> {
    name.0.last().and_then(|part| part.as_ident()).cloned()
}

/// `time_bucket(width, t)`: buckets of weeks begin on a Monday, those of months on the first.
fn time_bucket(call: &Function) -> Result<Expr> {
    let args: Vec<Expr> = ast::args(call).into_iter().cloned().collect();
    let [width, time] = args.as_slice() else { return Ok(ast::call("date_bin", args)) };
    let text = width.to_string().to_lowercase();
    let months = ["month", "quarter", "year", "decade", "centur"].iter().any(|unit| text.contains(unit));
    let origin = ast::text(if months { "2000-01-01T00:00:00" } else { "2000-01-03T00:00:00" });
    let origin = ast::cast(origin, SqlType::Timestamp(None, TimezoneInfo::None));
    Ok(ast::call("date_bin", vec![width.clone(), time.clone(), origin]))
}

/// Accesses that DataFusion reads in another form: `e.field`, and slices that are open at one end.
pub(super) fn access(expr: &mut Expr) {
    match expr {
        Expr::CompoundFieldAccess { root, access_chain } => {
            // A dot behind a name may stand for a column of a table.
            let named = matches!(root.as_ref(), Expr::Identifier(_) | Expr::CompoundIdentifier(_));
            for access in access_chain {
                match access {
                    AccessExpr::Dot(Expr::Identifier(name)) if !named => {
                        *access = AccessExpr::Subscript(Subscript::Index { index: ast::text(&ast::meant(name)) });
                    }
                    AccessExpr::Subscript(Subscript::Slice { lower_bound, upper_bound, .. }) => {
                        lower_bound.get_or_insert_with(|| ast::number(1));
                        upper_bound.get_or_insert_with(|| ast::number(-1));
                    }
                    _ => {}
                }
            }
        }
        Expr::Cast { data_type: kind @ SqlType::Blob(_), .. } => *kind = SqlType::Bytea,
        _ => {}
    }
}

/// `strftime(t, format)`, and with the format first. DuckDB's %f and %g are micro- and milliseconds.
fn strftime(call: &Function) -> Result<Expr> {
    let args = ast::args(call);
    let format = |expr: &Expr| match expr {
        Expr::Value(value) => value.value.clone().into_string(),
        _ => None,
    };
    let (time, text) = match args.as_slice() {
        [first, second] => match (format(first), format(second)) {
            (_, Some(text)) => (*first, Some(text)),
            (Some(text), None) => (*second, Some(text)),
            (None, None) => return Ok(ast::call("to_char", vec![Expr::clone(first), Expr::clone(second)])),
        },
        _ => return Err(wrong("strftime takes a time and a format", &call.name).hint("strftime(t, '%Y-%m-%d')")),
    };
    let text = text.unwrap_or_default().replace("%f", "%6f").replace("%g", "%3f");
    Ok(ast::call("to_char", vec![time.clone(), ast::text(&text)]))
}
