//! Functions beside DataFusion's.
//!
//! Enters: the session's registry. Leaves: it, with other names for what is there, functions that are not,
//! and limits on those that make much of a number. Always holds: the size of a result is known before memory
//! is taken for it.

mod concat;
mod counts;
mod extreme;
mod format;
mod json;
mod length;
mod like;
mod limited;
mod macros;
mod names;
mod now;
mod percentile;
mod plan_text;
mod sum;
mod text;
mod time;

use arrow::array::ArrayRef;
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::ColumnarValue;

use crate::error::Result;

pub use concat::concatenation;
pub use json::json_call;
pub use like::like_in_order;
pub use macros::MACROS;
pub use names::NAMES;
pub use now::{is_epoch_time, with_epoch_time};
pub use plan_text::{infix, plan_in_sql};
pub use sum::wide;

/// Registers all of them.
pub fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    text::register(registry)?;
    time::register(registry)?;
    counts::register(registry)?;
    json::register(registry)?;
    format::register(registry)?;
    percentile::register(registry)?;
    extreme::register(registry)?;
    length::register(registry)?;
    limited::register(registry)
}

/// The arguments as columns, and whether they are single values.
fn arrays(args: &[ColumnarValue]) -> DfResult<(Vec<ArrayRef>, bool)> {
    let single = args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
    Ok((ColumnarValue::values_to_arrays(args)?, single))
}

/// A column, or its only value.
fn columnar(array: ArrayRef, single: bool) -> DfResult<ColumnarValue> {
    Ok(match single {
        true => ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?),
        false => ColumnarValue::Array(array),
    })
}
