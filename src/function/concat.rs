//! `a || b`, as a function of as many texts.
//!
//! Enters: texts, and what is no text but can be written as one. Leaves: all of them, one behind the other; NULL
//! where one is NULL. Always holds: the size of the result is known before memory is taken for it.
//!
//! DataFusion's operator copies the texts before it for each `||`, and has no limit.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, GenericStringArray, GenericStringBuilder, OffsetSizeTrait};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result as DfResult, plan_datafusion_err};
use datafusion::logical_expr::binary::BinaryTypeCoercer;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::limited::refuse_large;
use super::{arrays, columnar};
use crate::error::Result;

/// The type of `left || right`, if it is text.
fn text_type(left: &DataType, right: &DataType) -> Option<DataType> {
    let kind = BinaryTypeCoercer::new(left, &Operator::StringConcat, right).get_result_type().ok()?;
    kind.is_string().then_some(kind)
}

/// `left || right`, if it is text: chains become one call.
pub fn concatenation(left: &Expr, right: &Expr, types: (&DataType, &DataType)) -> Option<Expr> {
    text_type(types.0, types.1)?;
    let mut args = match left {
        Expr::ScalarFunction(call) if call.func.inner().is::<Concatenate>() => call.args.clone(),
        other => vec![other.clone()],
    };
    args.push(right.clone());
    let function = Concatenate { signature: Signature::user_defined(Volatility::Immutable) };
    let function = Arc::new(ScalarUDF::new_from_impl(function));
    Some(Expr::ScalarFunction(ScalarFunction::new_udf(function, args)))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Concatenate {
    signature: Signature,
}

impl ScalarUDFImpl for Concatenate {
    fn name(&self) -> &str {
        "||"
    }

    fn display_name(&self, args: &[Expr]) -> DfResult<String> {
        Ok(args.iter().map(ToString::to_string).collect::<Vec<_>>().join(" || "))
    }

    fn schema_name(&self, args: &[Expr]) -> DfResult<String> {
        Ok(args.iter().map(|arg| arg.schema_name().to_string()).collect::<Vec<_>>().join(" || "))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        let mut kinds = types.iter();
        let first = kinds.next().cloned().unwrap_or(DataType::Utf8);
        let common = kinds.try_fold(first, |left, right| text_type(&left, right));
        let common = common.ok_or_else(|| plan_datafusion_err!("|| takes texts"))?;
        Ok(vec![common; types.len()])
    }

    fn return_type(&self, types: &[DataType]) -> DfResult<DataType> {
        Ok(types.first().cloned().unwrap_or(DataType::Utf8))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        let kind = args.arg_fields.first().map_or(DataType::Utf8, |field| field.data_type().clone());
        Ok(Arc::new(Field::new(self.name(), kind, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let kind = args.return_type().clone();
        let (columns, single) = arrays(&args.args)?;
        let check = |bytes: usize| refuse_large("||", i64::try_from(bytes).unwrap_or(i64::MAX), &args.config_options);
        let joined = match kind {
            DataType::LargeUtf8 => join::<i64>(&columns, DataType::LargeUtf8, check)?,
            _ => join::<i32>(&columns, DataType::Utf8, check)?,
        };
        columnar(if kind == *joined.data_type() { joined } else { cast(&joined, &kind)? }, single)
    }
}

fn join<O: OffsetSizeTrait>(
    columns: &[ArrayRef],
    kind: DataType,
    check: impl FnOnce(usize) -> Result<()>,
) -> Result<ArrayRef> {
    let texts = columns.iter().map(|column| Ok(cast(column, &kind)?)).collect::<Result<Vec<_>>>()?;
    let texts: Vec<&GenericStringArray<O>> = texts.iter().map(|column| column.as_string::<O>()).collect();
    let rows = texts.first().map_or(0, |column| column.len());
    let bytes = texts.iter().map(|column| column.value_data().len());
    let bytes = bytes.fold(0, usize::saturating_add);
    check(bytes)?;
    let mut builder = GenericStringBuilder::<O>::with_capacity(rows, bytes);
    for row in 0..rows {
        if texts.iter().any(|column| column.is_null(row)) {
            builder.append_null();
            continue;
        }
        for column in &texts {
            let _ = builder.write_str(column.value(row));
        }
        builder.append_value("");
    }
    Ok(Arc::new(builder.finish()))
}
