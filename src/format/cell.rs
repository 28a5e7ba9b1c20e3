//! One value as text.
//!
//! Enters: arrays. Leaves: formatters that write any Arrow type. Always holds: the text of a value does
//! not depend on the format around it.

use arrow::array::ArrayRef;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, DurationFormat, FormatOptions};

use crate::error::Result;

/// NULL inside of lists and structs, where it cannot be an empty field.
const OPTIONS: FormatOptions<'static> =
    FormatOptions::new().with_display_error(true).with_null("NULL").with_duration_format(DurationFormat::ISO8601);

/// A formatter for each column of a batch.
pub(super) fn formatters(batch: &RecordBatch) -> Result<Vec<(&ArrayRef, ArrayFormatter<'_>)>> {
    batch.columns().iter().map(|column| Ok((column, ArrayFormatter::try_new(column.as_ref(), &OPTIONS)?))).collect()
}
