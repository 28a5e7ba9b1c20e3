//! `read_csv('x.txt', delim => ';')` → a table.
//!
//! Enters: the text of a call, as the parser has made it the name of a table. Leaves: the table over its files, or
//! what was found in a file. Always holds: an option that is not known is an error with the nearest that is.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, StringArray};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::common::DFSchema;
use datafusion::datasource::{MemTable, ViewTable, provider_as_source};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{ExprSchemable, LogicalPlanBuilder};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, UnaryOperator, Value,
};
use datafusion::sql::sqlparser::parser::Parser;

use super::table::{Wishes, find, wished_table};
use crate::error::{Error, Result, near_name, sql_type};
use crate::format::csv::{Dialect, OPTIONS, canonical_option};
use crate::parser::{FILE_FUNCTIONS, FuseDialect};

/// Options of CSV files that are not the dialect's.
const CSV: [&str; 8] =
    ["columns", "names", "types", "all_varchar", "auto_detect", "compression", "new_line", "strict_mode"];
/// Options of all formats.
const ANY: [&str; 3] = ["filename", "union_by_name", "hive_partitioning"];

/// The table that a call means, or nothing if `text` is no call of [`FILE_FUNCTIONS`].
pub async fn table_for_call(state: &SessionState, text: &str) -> Result<Option<Arc<dyn TableProvider>>> {
    let Some((name, _)) = text.split_once('(').filter(|_| text.ends_with(')')) else { return Ok(None) };
    if !FILE_FUNCTIONS.contains(&name) {
        return Ok(None);
    }
    let call = Call::read(state, text)?;
    if name == "sniff_csv" {
        return call.sniffed(state).await.map(Some);
    }
    if let [path] = call.paths.as_slice() {
        return wished_table(state, path, &call.wishes).await.map(Some);
    }
    let mut all: Option<LogicalPlanBuilder> = None;
    for path in &call.paths {
        let table = wished_table(state, path, &call.wishes).await?;
        let plan = LogicalPlanBuilder::scan("files", provider_as_source(table), None)?;
        all = Some(match all {
            Some(before) => before.union_by_name(plan.build()?)?,
            None => plan,
        });
    }
    let all = all.ok_or_else(|| Error::sql(format!("{name}: the list of files is empty")))?;
    Ok(Some(Arc::new(ViewTable::new(all.build()?, None))))
}

/// A call of one of [`FILE_FUNCTIONS`].
struct Call {
    function: String,
    paths: Vec<String>,
    wishes: Wishes,
    /// The options, as the user wrote them.
    given: Vec<(String, String)>,
}

impl Call {
    fn read(state: &SessionState, text: &str) -> Result<Self> {
        let unread = |error: &dyn std::fmt::Display| Error::sql(format!("{text} cannot be read: {error}"));
        let mut parser = Parser::new(&FuseDialect::PLAIN).try_with_sql(text).map_err(|e| unread(&e))?;
        let Expr::Function(function) = parser.parse_expr().map_err(|e| unread(&e))? else {
            return Err(unread(&"it is no call"));
        };
        let name = function.name.to_string();
        let FunctionArguments::List(list) = function.args else { return Err(unread(&"it has no arguments")) };
        let format = match name.as_str() {
            name if name.contains("parquet") => "PARQUET",
            name if name.contains("json") => "JSON",
            _ => "CSV",
        };
        let wishes = Wishes { format: Some(format), ..Wishes::default() };
        let mut call = Self { function: name, paths: Vec::new(), wishes, given: Vec::new() };
        for arg in list.args {
            match argument(arg)? {
                (None, Expr::Array(list)) => {
                    call.paths = list.elem.iter().map(text_of).collect::<Result<_>>()?;
                }
                (None, path) => call.paths.push(text_of(&path)?),
                (Some(option), value) => call.set(state, &option, &value)?,
            }
        }
        if call.paths.is_empty() {
            return Err(Error::sql(format!("{}: which file?", call.function))
                .mark(&call.function)
                .hint(format!("{}('data.csv'), or a list: {}(['a.csv', 'b.csv'])", call.function, call.function)));
        }
        Ok(call)
    }

    fn set(&mut self, state: &SessionState, option: &str, value: &Expr) -> Result<()> {
        let name = option.to_ascii_lowercase();
        self.given.push((name.clone(), value.to_string()));
        let csv = self.wishes.format == Some("CSV");
        let canonical = canonical_option(&name);
        let wishes = &mut self.wishes;
        match name.as_str() {
            "filename" => wishes.filename = truth(&name, value)?,
            "union_by_name" if truth(&name, value)? => {}
            "union_by_name" => {
                return Err(Error::sql("union_by_name cannot be false: columns of several files are matched by name"));
            }
            "hive_partitioning" => wishes.unpartitioned = !truth(&name, value)?,
            "columns" if wishes.format != Some("PARQUET") => {
                wishes.columns = Some(named_types(state, &name, value)?);
                if !csv {
                    // Who names the columns may leave some out.
                    wishes.options.entry("ignore_unknown".to_owned()).or_insert_with(|| "true".to_owned());
                }
            }
            "ignore_unknown" if wishes.format == Some("JSON") => {
                wishes.options.insert(name.clone(), truth(&name, value)?.to_string());
            }
            "types" | "dtypes" | "column_types" if csv => wishes.types = named_types(state, &name, value)?,
            "names" | "column_names" if csv => wishes.names = texts(&name, value)?,
            "all_varchar" if csv => wishes.all_text = truth(&name, value)?,
            "auto_detect" | "auto_type_candidates" if csv && truth(&name, value)? => {}
            "auto_detect" if csv => wishes.all_text = true,
            "strict_mode" if csv => {
                wishes.options.insert("repair".to_owned(), (!truth(&name, value)?).to_string());
            }
            "compression" if wishes.format != Some("PARQUET") => {
                let word = text_of(value)?.to_ascii_lowercase();
                let word = if word == "none" { "uncompressed".to_owned() } else { word };
                wishes.options.insert("compression".to_owned(), word);
            }
            "nullstr" | "null" | "nulls" if csv => {
                let all = texts(&name, value)?;
                wishes.options.insert("nullstr".to_owned(), all.join("\u{1}"));
            }
            _ if csv && (OPTIONS.contains(&canonical) || SHARED.contains(&canonical)) => {
                wishes.options.insert(canonical.to_owned(), text_of(value)?);
            }
            _ => return Err(self.unknown(&name)),
        }
        // A wrong value is told by its name.
        let options: HashMap<String, String> = self.wishes.options.clone();
        Dialect::from_options(&options).map(drop)
    }

    fn unknown(&self, name: &str) -> Error {
        let csv = self.wishes.format == Some("CSV");
        let mut known: Vec<&str> = ANY.to_vec();
        if csv {
            known.extend(SHARED.iter().chain(&CSV).chain(&OPTIONS));
            known.extend(["delim", "sep", "header"]);
        }
        if self.wishes.format == Some("JSON") {
            known.extend(["columns", "compression", "ignore_unknown"]);
        }
        known.sort_unstable();
        let error = Error::sql(format!("{} has no option named {name}", self.function)).mark(name);
        match near_name(name, known.iter().copied()) {
            Some(near) => error.hint(format!("did you mean {near}?")),
            None => error.hint(format!("options are {}", known.join(", "))),
        }
    }

    /// What was found in the first file, and a call that says it all.
    async fn sniffed(&self, state: &SessionState) -> Result<Arc<dyn TableProvider>> {
        let [path] = self.paths.as_slice() else { return Err(Error::sql("sniff_csv takes one file")) };
        let found = find(state, path, &self.wishes).await?;
        let dialect = found.dialect().cloned().unwrap_or_default();
        let pairs = found.schema().fields().iter();
        let columns =
            pairs.map(|field| format!("'{}': '{}'", field.name().replace('\'', "''"), sql_type(field.data_type())));
        let columns = format!("{{{}}}", columns.collect::<Vec<_>>().join(", "));
        let mut options: Vec<String> = Vec::new();
        for (name, value) in dialect.found_options() {
            let quoted = match value.as_str() {
                "true" | "false" => value.clone(),
                text if text.parse::<i64>().is_ok() => value.clone(),
                "\t" => "'\\t'".to_owned(),
                text => format!("'{}'", text.replace('\'', "''")),
            };
            let name = if name == "has_header" { "header" } else { name };
            options.push(format!("{name} => {quoted}"));
        }
        options.push(format!("columns => {columns}"));
        for (name, value) in
            self.given.iter().filter(|(name, _)| !matches!(name.as_str(), "columns" | "types" | "names"))
        {
            let known =
                |option: &String| option.starts_with(&format!("{} =>", canonical_option(name).replace("has_", "")));
            if !options.iter().any(known) {
                options.push(format!("{name} => {value}"));
            }
        }
        let prompt = format!("FROM read_csv('{}', {})", path.replace('\'', "''"), options.join(", "));
        let byte = |byte: Option<u8>| byte.map(|byte| char::from(byte).to_string());
        let text = |text: Option<String>| Arc::new(StringArray::from(vec![text])) as ArrayRef;
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("delimiter", text(byte(Some(dialect.delimiter))), true),
            ("quote", text(byte(dialect.quote)), true),
            ("escape", text(byte(dialect.escape)), true),
            ("comment", text(byte(dialect.comment)), true),
            ("skip_rows", Arc::new(Int64Array::from(vec![i64::try_from(dialect.skip).unwrap_or(i64::MAX)])), true),
            ("has_header", Arc::new(BooleanArray::from(vec![dialect.header])), true),
            ("columns", text(Some(columns)), true),
            ("dateformat", text(dialect.dateformat.clone()), true),
            ("timestampformat", text(dialect.timestampformat.clone()), true),
            ("decimal_separator", text(byte(Some(dialect.decimal))), true),
            ("encoding", text(Some(dialect.encoding.to_string())), true),
            ("prompt", text(Some(prompt)), true),
        ])?;
        Ok(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?))
    }
}

/// Options of the dialect that DataFusion knows too.
const SHARED: [&str; 5] = ["delimiter", "has_header", "quote", "escape", "comment"];

/// An argument's name, if it has one, and value: `a => 1`, `a := 1` and `a = 1` are the same.
fn argument(arg: FunctionArg) -> Result<(Option<String>, Expr)> {
    let (name, value) = match arg {
        FunctionArg::Named { name, arg, .. } => (Some(name.value), arg),
        FunctionArg::ExprNamed { name, arg, .. } => (Some(name.to_string()), arg),
        FunctionArg::Unnamed(arg) => (None, arg),
    };
    match value {
        FunctionArgExpr::Expr(Expr::BinaryOp { left, op: BinaryOperator::Eq, right }) if name.is_none() => {
            Ok((Some(left.to_string()), *right))
        }
        FunctionArgExpr::Expr(value) => Ok((name, value)),
        other => Err(Error::sql(format!("{other} is no argument here"))),
    }
}

/// The text of a literal.
fn text_of(value: &Expr) -> Result<String> {
    match value {
        Expr::Value(value) => match &value.value {
            Value::Boolean(truth) => Ok(truth.to_string()),
            Value::Null => Ok(String::new()),
            other => Ok(other.clone().into_string().unwrap_or_else(|| other.to_string())),
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => Ok(format!("-{}", text_of(expr)?)),
        Expr::Identifier(name) => Ok(name.value.clone()),
        Expr::Nested(inner) => text_of(inner),
        other => Err(Error::sql(format!("{other} is no text, number, true or false"))
            .mark(other.to_string())
            .hint("arguments of these functions are literals; -D name=value puts a value in place of $name")),
    }
}

fn truth(name: &str, value: &Expr) -> Result<bool> {
    let text = text_of(value)?;
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(Error::sql(format!("{name} cannot be '{text}': it is true or false"))),
    }
}

/// A text, or a list of them.
fn texts(name: &str, value: &Expr) -> Result<Vec<String>> {
    match value {
        Expr::Array(list) => list.elem.iter().map(text_of).collect(),
        Expr::Value(_) => Ok(vec![text_of(value)?]),
        other => Err(Error::sql(format!("{name} cannot be {other}: it is a list of texts"))),
    }
}

/// `{'a': 'INT', 'b': 'DATE'}`.
fn named_types(state: &SessionState, name: &str, value: &Expr) -> Result<Vec<(String, DataType)>> {
    let Expr::Dictionary(fields) = value else {
        return Err(
            Error::sql(format!("{name} cannot be {value}")).hint(format!("{name} => {{'a': 'INT', 'b': 'VARCHAR'}}"))
        );
    };
    let one = |field: &datafusion::sql::sqlparser::ast::DictionaryField| {
        let word = text_of(&field.value)?;
        let none = DFSchema::empty();
        let cast = state.create_logical_expr(&format!("CAST(NULL AS {word})"), &none);
        let kind = cast.and_then(|cast| cast.get_type(&none)).map_err(|_| {
            Error::sql(format!("{name}: no type named {word}"))
                .hint("types are INT, BIGINT, DOUBLE, VARCHAR, DATE, TIMESTAMP, …")
        })?;
        Ok((field.key.value.clone(), kind))
    };
    fields.iter().map(one).collect()
}
