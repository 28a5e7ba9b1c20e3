//! One value as text.
//!
//! Enters: arrays. Leaves: formatters that write any Arrow type. Always holds: the text of a value does
//! not depend on the format around it.

use arrow::array::Array;
use arrow::buffer::NullBuffer;
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, DurationFormat, FormatOptions};

use crate::error::Result;

/// NULL inside of lists and structs, where it cannot be an empty field.
pub(super) const OPTIONS: FormatOptions<'static> =
    FormatOptions::new().with_display_error(false).with_null("NULL").with_duration_format(DurationFormat::ISO8601);

/// A column of a batch as text.
pub(super) struct Column<'a> {
    nulls: Option<NullBuffer>,
    formatter: ArrayFormatter<'a>,
}

impl Column<'_> {
    /// Puts the text of a row's value in place of `text`; says false for NULL. A value that has no text, such
    /// as a time beyond the calendar, is an error.
    pub(super) fn read(&self, row: usize, text: &mut String) -> Result<bool> {
        text.clear();
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            return Ok(false);
        }
        self.formatter.value(row).write(text)?;
        Ok(true)
    }
}

/// The columns of a batch. NULL is what the value says, also behind a dictionary's key.
pub(super) fn columns(batch: &RecordBatch) -> Result<Vec<Column<'_>>> {
    let mut columns = Vec::with_capacity(batch.num_columns());
    for array in batch.columns() {
        let formatter = ArrayFormatter::try_new(array.as_ref(), &OPTIONS)?;
        columns.push(Column { nulls: array.logical_nulls(), formatter });
    }
    Ok(columns)
}
