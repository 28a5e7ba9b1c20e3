//! `len()` and `length()` of a text or of a list.
//!
//! Enters: DataFusion's two functions. Leaves: one that asks the type of its argument. Always holds: a text
//! is counted in characters, a list in elements; NULL has no length.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::Result as DfResult;
use datafusion::common::types::logical_string;
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use crate::error::{Error, Result};

/// Puts it in the place of DataFusion's `length()`.
pub(super) fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    if let (Ok(text), Ok(list)) = (registry.udf("character_length"), registry.udf("cardinality")) {
        let signature = Signature::user_defined(Volatility::Immutable);
        let length = Length { text, list, aliases: vec!["len".to_owned()], signature };
        registry.register_udf(Arc::new(ScalarUDF::new_from_impl(length)))?;
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Length {
    text: Arc<ScalarUDF>,
    list: Arc<ScalarUDF>,
    aliases: Vec<String>,
    signature: Signature,
}

fn is_list(kind: &DataType) -> bool {
    matches!(kind, DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) | DataType::Map(..))
}

impl ScalarUDFImpl for Length {
    fn name(&self) -> &str {
        "length"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, args: &[DataType]) -> DfResult<Vec<DataType>> {
        let [kind] = args else { return Err(Error::sql("length takes 1 argument(s)").into()) };
        if is_list(kind) {
            return Ok(vec![kind.clone()]);
        }
        let text = datafusion::common::types::LogicalType::default_cast_for(logical_string().as_ref(), kind);
        Ok(vec![text.unwrap_or(DataType::Utf8)])
    }

    fn return_type(&self, args: &[DataType]) -> DfResult<DataType> {
        match args.first() {
            Some(kind) if is_list(kind) => self.list.return_type(args),
            _ => self.text.return_type(args),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        match args.args.first() {
            Some(value) if is_list(&value.data_type()) => self.list.invoke_with_args(args),
            _ => self.text.invoke_with_args(args),
        }
    }
}
