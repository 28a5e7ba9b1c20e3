//! Functions that compare and change whole JSON values.
//!
//! Enters: texts of JSON. Leaves: whether one contains another, one patched by another, and types in place of values.
//! Always holds: a text that is no JSON is an error; members keep their order.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, StringArray};
use arrow::datatypes::DataType;
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use serde_json::{Map, Value};

use super::{malformed, scan};
use crate::error::Result;
use crate::function::{arrays, columnar};

pub(super) fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    let mut add = |name: &str, result: DataType, run: fn(&StringArray, &StringArray) -> Result<ArrayRef>| {
        let run = move |args: &[ColumnarValue]| {
            let (arrays, single) = arrays(args)?;
            columnar(run(arrays[0].as_string::<i32>(), arrays[1].as_string::<i32>())?, single)
        };
        let texts = vec![DataType::Utf8, DataType::Utf8];
        registry.register_udf(Arc::new(create_udf(name, texts, result, Volatility::Immutable, Arc::new(run))))
    };
    add("json_contains", DataType::Boolean, |texts, wanted| {
        let rows = texts.iter().zip(wanted).map(|pair| match pair {
            (Some(text), Some(wanted)) => Ok(Some(contains(&read(text)?, &read(wanted)?))),
            _ => Ok(None),
        });
        Ok(Arc::new(rows.collect::<Result<BooleanArray>>()?))
    })?;
    add("json_merge_patch", DataType::Utf8, |texts, patches| {
        let rows = texts.iter().zip(patches).map(|pair| match pair {
            (Some(text), Some(patch)) => Ok(Some(patched(read(text)?, read(patch)?).to_string())),
            _ => Ok(None),
        });
        Ok(Arc::new(rows.collect::<Result<StringArray>>()?))
    })?;
    Ok(())
}

fn read(text: &str) -> Result<Value> {
    scan::check(text).map_err(|wrong| malformed(text, &wrong))?;
    Ok(serde_json::from_str(text).unwrap_or(Value::Null))
}

/// True if `wanted` is `value`, or within it; an object needs no more members than `wanted` has.
fn contains(value: &Value, wanted: &Value) -> bool {
    let here = match (value, wanted) {
        (Value::Object(value), Value::Object(wanted)) => {
            wanted.iter().all(|(name, wanted)| value.get(name).is_some_and(|value| contains(value, wanted)))
        }
        (Value::Array(value), Value::Array(wanted)) => {
            wanted.iter().all(|wanted| value.iter().any(|value| contains(value, wanted)))
        }
        (value, wanted) => value == wanted,
    };
    here || match value {
        Value::Object(members) => members.values().any(|value| contains(value, wanted)),
        Value::Array(items) => items.iter().any(|value| contains(value, wanted)),
        _ => false,
    }
}

/// RFC 7396.
fn patched(value: Value, patch: Value) -> Value {
    let Value::Object(patch) = patch else { return patch };
    let mut members = match value {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    for (name, patch) in patch {
        match patch {
            Value::Null => drop(members.shift_remove(&name)),
            patch => {
                let old = members.get(&name).cloned().unwrap_or(Value::Null);
                members.insert(name, patched(old, patch));
            }
        }
    }
    Value::Object(members)
}

/// Types in place of values; the items of an array as one.
pub(super) fn structure(text: &str) -> Result<String> {
    Ok(structure_of(&read(text)?).to_string())
}

fn structure_of(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            Value::Object(members.iter().map(|(name, value)| (name.clone(), structure_of(value))).collect())
        }
        Value::Array(items) => {
            let one = items.iter().map(structure_of).reduce(joined);
            Value::Array(vec![one.unwrap_or_else(|| Value::String("NULL".to_owned()))])
        }
        Value::String(_) => Value::String("VARCHAR".to_owned()),
        Value::Bool(_) => Value::String("BOOLEAN".to_owned()),
        Value::Null => Value::String("NULL".to_owned()),
        Value::Number(number) => {
            let name = if number.is_u64() {
                "UBIGINT"
            } else if number.is_i64() {
                "BIGINT"
            } else {
                "DOUBLE"
            };
            Value::String(name.to_owned())
        }
    }
}

/// The structure of values of both.
fn joined(a: Value, b: Value) -> Value {
    match (a, b) {
        (a, b) if a == b => a,
        (Value::String(null), other) | (other, Value::String(null)) if null == "NULL" => other,
        (Value::Object(mut a), Value::Object(b)) => {
            for (name, value) in b {
                let both = match a.get(&name) {
                    Some(old) => joined(old.clone(), value),
                    None => value,
                };
                a.insert(name, both);
            }
            Value::Object(a)
        }
        (Value::Array(mut a), Value::Array(mut b)) => match (a.pop(), b.pop()) {
            (Some(a), Some(b)) => Value::Array(vec![joined(a, b)]),
            (one, other) => Value::Array(one.or(other).into_iter().collect()),
        },
        (Value::String(a), Value::String(b)) => {
            let number = |name: &str| matches!(name, "UBIGINT" | "BIGINT" | "DOUBLE");
            let name = match (a.as_str(), b.as_str()) {
                ("UBIGINT" | "BIGINT", "UBIGINT" | "BIGINT") => "BIGINT",
                (a, b) if number(a) && number(b) => "DOUBLE",
                _ => "VARCHAR",
            };
            Value::String(name.to_owned())
        }
        _ => Value::String("JSON".to_owned()),
    }
}
