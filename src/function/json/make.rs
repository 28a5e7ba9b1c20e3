//! Functions that make JSON of values.
//!
//! Enters: values of any type. Leaves: JSON. Always holds: texts are escaped; a number that JSON does not have (NaN,
//! infinity) becomes null; NULL within a value is null.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use arrow::json::writer::{EncoderOptions, make_encoder};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};

use super::scan::write_string;
use crate::error::{Error, Result};

/// What is made of the arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    /// The only argument as JSON; NULL of NULL.
    Value,
    /// The same, but null of NULL.
    Item,
    /// An array of all.
    Array,
    /// An object of names and values in turn.
    Object,
}

const FUNCTIONS: [(&str, &[&str], What); 4] = [
    ("to_json", &["json_quote", "row_to_json", "array_to_json"], What::Value),
    ("fuse_json_item", &[], What::Item),
    ("json_array", &[], What::Array),
    ("json_object", &[], What::Object),
];

pub(super) fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    for (name, aliases, what) in FUNCTIONS {
        let kinds = match what {
            What::Value | What::Item => TypeSignature::Any(1),
            _ => TypeSignature::OneOf(vec![TypeSignature::VariadicAny, TypeSignature::Nullary]),
        };
        let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
        let function = Make { name, aliases, what, signature: Signature::new(kinds, Volatility::Immutable) };
        registry.register_udf(Arc::new(ScalarUDF::new_from_impl(function)))?;
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Make {
    name: &'static str,
    aliases: Vec<String>,
    what: What,
    signature: Signature,
}

impl ScalarUDFImpl for Make {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        if self.what == What::Object && !types.len().is_multiple_of(2) {
            return Err(Error::sql("json_object takes names and values in turn: json_object('a', 1, 'b', 2)")
                .mark("json_object")
                .into());
        }
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let single = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if single { 1 } else { args.number_rows };
        let mut columns = Vec::with_capacity(args.args.len());
        for (at, value) in args.args.iter().enumerate() {
            let name = self.what == What::Object && at % 2 == 0;
            let column = value.to_array(rows)?;
            columns.push(if name { names(&column)? } else { values(&column, self.what == What::Value)? });
        }
        let made: ArrayRef = match (self.what, columns.pop()) {
            (What::Value | What::Item, Some(column)) => Arc::new(column),
            (what, last) => {
                columns.extend(last);
                Arc::new(assembled(what, &columns, rows))
            }
        };
        Ok(match single {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&made, 0)?),
            false => ColumnarValue::Array(made),
        })
    }
}

/// Arrays, or objects, of the parts in each row.
fn assembled(what: What, columns: &[StringArray], rows: usize) -> StringArray {
    let (open, close) = if what == What::Array { ('[', ']') } else { ('{', '}') };
    let mut made = StringBuilder::with_capacity(rows, rows * 16);
    for row in 0..rows {
        let mut text = String::from(open);
        for (at, column) in columns.iter().enumerate() {
            if at > 0 {
                text.push(if what == What::Object && at % 2 == 1 { ':' } else { ',' });
            }
            text.push_str(column.value(row));
        }
        text.push(close);
        made.append_value(text);
    }
    made.finish()
}

/// Texts as names of members.
fn names(column: &ArrayRef) -> Result<StringArray> {
    let texts = cast(column, &DataType::Utf8)?;
    let texts: &StringArray = arrow::array::AsArray::as_string(texts.as_ref());
    let names = texts.iter().map(|text| {
        let text = text.ok_or_else(|| Error::query("json_object: a name is NULL"))?;
        let mut name = String::new();
        write_string(text, &mut name);
        Ok(Some(name))
    });
    names.collect()
}

/// Values as JSON; `keep`: NULL stays NULL.
fn values(column: &ArrayRef, keep: bool) -> Result<StringArray> {
    let mut made = StringBuilder::with_capacity(column.len(), column.len() * 8);
    let field = Arc::new(Field::new("value", column.data_type().clone(), true));
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let mut encoder = make_encoder(&field, column.as_ref(), &options)?;
    let mut text = Vec::new();
    for row in 0..column.len() {
        if column.is_null(row) || *column.data_type() == DataType::Null {
            made.append_option((!keep).then_some("null"));
            continue;
        }
        text.clear();
        encoder.encode(row, &mut text);
        made.append_value(String::from_utf8_lossy(&text));
    }
    Ok(made.finish())
}
