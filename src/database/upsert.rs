//! What an epoch does to the rows of a table that has a key.
//!
//! Enters: consolidated changes. Leaves: [`Upserts`]: which rows are new, which take the place of another, which keys
//! go. Always holds: a key has one row in the result, or the epoch is refused.

use std::collections::HashMap;

use arrow::array::{Array, RecordBatch, UInt64Array};

use crate::change::{Changes, RowEncoder, take_rows};
use crate::error::{Error, Result};
use crate::format::texts;

/// What an epoch does to a table.
pub struct Upserts {
    /// Rows whose keys were not there.
    pub inserts: RecordBatch,
    /// Rows that take the place of those of their keys.
    pub replaces: RecordBatch,
    /// Keys that go; their columns alone.
    pub deletes: RecordBatch,
}

#[derive(Default)]
struct Fate {
    /// The row that it has in the end.
    row: Option<u64>,
    /// A row that it had.
    gone: Option<u64>,
}

/// Takes changes apart by key. `table`: its name, for errors.
pub fn upserts(changes: &Changes, key: &[usize], table: &str) -> Result<Upserts> {
    let keys = changes.rows.project(key)?;
    for (column, field) in keys.columns().iter().zip(keys.schema().fields()) {
        if column.logical_null_count() > 0 {
            return Err(Error::query(format!("a row for {table} has NULL in {}, which is in its key", field.name()))
                .hint(format!("leave such rows out: WHERE {} IS NOT NULL", field.name())));
        }
    }
    let encoded = RowEncoder::of(&keys.schema())?.encode(keys.columns(), keys.num_rows())?;
    let mut fates: HashMap<&[u8], Fate> = HashMap::new();
    let mut order: Vec<&[u8]> = Vec::new();
    for row in 0..changes.len() {
        let fate = fates.entry(encoded.row(row)).or_insert_with(|| {
            order.push(encoded.row(row));
            Fate::default()
        });
        match changes.weight(row) {
            1 if fate.row.is_none() => fate.row = Some(row as u64),
            weight if weight > 0 => return Err(twice(&keys, row, table)),
            _ => fate.gone = Some(row as u64),
        }
    }
    let (mut inserts, mut replaces, mut deletes) = (Vec::new(), Vec::new(), Vec::new());
    for fate in order.iter().map(|key| &fates[key]) {
        match (fate.row, fate.gone) {
            (Some(row), Some(_)) => replaces.push(row),
            (Some(row), None) => inserts.push(row),
            (None, Some(row)) => deletes.push(row),
            (None, None) => {}
        }
    }
    Ok(Upserts {
        inserts: take_rows(&changes.rows, &UInt64Array::from(inserts))?,
        replaces: take_rows(&changes.rows, &UInt64Array::from(replaces))?,
        deletes: take_rows(&keys, &UInt64Array::from(deletes))?,
    })
}

fn twice(keys: &RecordBatch, row: usize, table: &str) -> Error {
    let names: Vec<String> = keys.schema().fields().iter().map(|field| field.name().clone()).collect();
    twice_in(table, keys, row, &names)
}

/// The error of a key that a table would have twice.
pub(super) fn twice_in(table: &str, keys: &RecordBatch, row: usize, names: &[String]) -> Error {
    let value =
        |column: &arrow::array::ArrayRef| texts(&column.slice(row, 1), "NULL").map(|text| text.value(0).to_owned());
    let values = keys.columns().iter().map(|column| value(column).unwrap_or_default()).collect::<Vec<_>>().join(", ");
    let names = names.join(", ");
    Error::query(format!("the key ({values}) would be in {table} more than once: its PRIMARY KEY is ({names})"))
        .hint("the query has to give one row a key: GROUP BY it, or QUALIFY row_number() OVER (PARTITION BY it …) = 1; or add columns to the key")
}
