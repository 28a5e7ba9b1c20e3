//! `LIKE '%one%two%'`.
//!
//! Enters: texts, and a pattern that begins with `%` and has no `_` and no `\`. Leaves: whether the parts between the
//! `%` stand in each text, one behind the other. Always holds: the answer is that of LIKE. DataFusion makes a regular
//! expression of such a pattern anew for each batch, which takes longer than the search in some thousand texts.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArrayType};
use arrow::datatypes::DataType;
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr::{Like, ScalarFunction};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use memchr::memmem::Finder;

use crate::error::Error;

/// The same as this LIKE, without a regular expression; nothing where there is none.
pub fn like_in_order(like: &Like, text: &DataType) -> Option<Expr> {
    let plain = like.escape_char.is_none() && !like.case_insensitive;
    let is_text = matches!(text, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let Expr::Literal(pattern, _) = like.pattern.as_ref() else { return None };
    let pattern = pattern.try_as_str().flatten()?;
    let parts = pattern.split('%').filter(|part| !part.is_empty()).count();
    // One part is searched for without a regular expression.
    if !plain || !is_text || parts < 2 || !pattern.starts_with('%') || pattern.contains(['_', '\\']) {
        return None;
    }
    let args = vec![like.expr.as_ref().clone(), like.pattern.as_ref().clone()];
    let call = Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(InOrder::new())), args));
    Some(if like.negated { Expr::Not(Box::new(call)) } else { call })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct InOrder {
    signature: Signature,
}

impl InOrder {
    fn new() -> Self {
        Self { signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for InOrder {
    fn name(&self) -> &str {
        "like_in_order"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _args: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let [text, ColumnarValue::Scalar(pattern)] = args.args.as_slice() else {
            return Err(Error::sql("like_in_order takes a text and a constant pattern").into());
        };
        let pattern = Pattern::new(pattern.try_as_str().flatten().unwrap_or_default());
        Ok(match text {
            ColumnarValue::Array(texts) => ColumnarValue::Array(Arc::new(pattern.matches_all(texts))),
            ColumnarValue::Scalar(text) => {
                let text = text.try_as_str().flatten();
                ColumnarValue::Scalar(ScalarValue::Boolean(text.map(|text| pattern.matches(text.as_bytes()))))
            }
        })
    }
}

/// What is searched for.
struct Pattern<'a> {
    parts: Vec<Finder<'a>>,
    /// What the text ends with.
    end: &'a [u8],
}

impl<'a> Pattern<'a> {
    fn new(pattern: &'a str) -> Self {
        let (before, end) = pattern.rsplit_once('%').unwrap_or(("", pattern));
        let parts = before.split('%').filter(|part| !part.is_empty()).map(Finder::new).collect();
        Self { parts, end: end.as_bytes() }
    }

    fn matches(&self, mut text: &[u8]) -> bool {
        for part in &self.parts {
            let Some(at) = part.find(text) else { return false };
            text = &text[at + part.needle().len()..];
        }
        text.ends_with(self.end)
    }

    fn matches_each<'b>(&self, texts: impl StringArrayType<'b>) -> BooleanArray {
        texts.iter().map(|text| text.map(|text| self.matches(text.as_bytes()))).collect()
    }

    fn matches_all(&self, texts: &ArrayRef) -> BooleanArray {
        match texts.data_type() {
            DataType::Utf8View => self.matches_each(texts.as_string_view()),
            DataType::LargeUtf8 => self.matches_each(texts.as_string::<i64>()),
            _ => self.matches_each(texts.as_string::<i32>()),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Scalar, StringArray};
    use arrow::compute::kernels::comparison::like;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_like(pattern in "%[ab%]{0,6}", texts in prop::collection::vec(prop::option::of("[abc]{0,8}"), 0..20)) {
            let texts: ArrayRef = Arc::new(StringArray::from(texts));
            let expected = like(&texts, &Scalar::new(StringArray::from(vec![pattern.clone()]))).expect("matches");
            prop_assert_eq!(Pattern::new(&pattern).matches_all(&texts), expected);
        }
    }
}
