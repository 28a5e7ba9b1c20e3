//! Two multisets of rows → what differs.
//!
//! Enters: the rows that should be there and those that are. Leaves: rows with a weight, above 0 where they are
//! missing and below 0 where they are too much. Always holds: rows that are equal to the bit never differ; rows that
//! differ in the rounding of floats, or in the order of a list, are counted apart.

use std::collections::HashMap;

use arrow::array::{AsArray, Int64Array, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::Value;

use crate::change::{Changes, consolidate, take_rows, with_columns};
use crate::error::{Error, Result};
use crate::sink::stream::LINE;

/// Floats are close when they differ by less than this part of the larger one: sums may be taken in another order.
const CLOSE: f64 = 1e-9;

/// What differs between what should be and what is.
#[derive(Debug, Clone, Default)]
pub struct Difference {
    /// The rows: of weight above 0 those that are missing, below 0 those that are too much.
    pub rows: Option<Changes>,
    /// Rows that are the same but for the rounding of floats or the order of lists.
    pub close: u64,
}

impl Difference {
    /// How many rows are missing, and how many too much.
    pub fn counts(&self) -> (u64, u64) {
        let weights = self.rows.iter().flat_map(|rows| (0..rows.len()).map(|row| rows.weight(row)));
        weights.fold((0, 0), |(missing, extra), weight| {
            let count = weight.unsigned_abs();
            if weight > 0 { (missing + count, extra) } else { (missing, extra + count) }
        })
    }
}

/// What must be equal in a cell.
#[derive(Clone, Copy, PartialEq)]
enum Exactness {
    Exact,
    Float,
    /// A list, whose elements come in the order in which rows came.
    List,
}

impl Exactness {
    fn of(kind: &DataType) -> Self {
        match kind {
            DataType::Float16 | DataType::Float32 | DataType::Float64 => Exactness::Float,
            DataType::List(_) | DataType::LargeList(_) | DataType::ListView(_) => Exactness::List,
            _ => Exactness::Exact,
        }
    }
}

/// Compares. `query` has the columns of the query, whose types texts of files do not tell.
pub(super) fn difference(query: &SchemaRef, expected: Vec<Changes>, found: Vec<Changes>) -> Result<Difference> {
    let mut all: Vec<Changes> = expected.into_iter().filter(|changes| !changes.is_empty()).collect();
    for changes in found.into_iter().filter(|changes| !changes.is_empty()) {
        let weights = Int64Array::from_iter_values((0..changes.len()).map(|row| -changes.weight(row)));
        all.push(Changes::weighted(changes.rows, weights));
    }
    let Some(schema) = all.first().map(|changes| changes.rows.schema()) else { return Ok(Difference::default()) };
    let named = all.into_iter().map(|Changes { rows, weights }| {
        let same =
            rows.schema().fields().iter().map(|f| f.data_type()).eq(schema.fields().iter().map(|f| f.data_type()));
        if !same {
            return Err(Error::query("the columns are not those of the query"));
        }
        Ok(Changes { rows: with_columns(&schema, rows.columns().to_vec(), rows.num_rows())?, weights })
    });
    let Some(left) = consolidate(&schema, &named.collect::<Result<Vec<_>>>()?)? else {
        return Ok(Difference::default());
    };
    pair_close(query, left)
}

/// Takes out the rows that are close to one another.
fn pair_close(query: &SchemaRef, left: Changes) -> Result<Difference> {
    let cells = cells(query, &left.rows)?;
    let mut weights: Vec<i64> = (0..left.len()).map(|row| left.weight(row)).collect();
    let mut extra: HashMap<String, Vec<usize>> = HashMap::new();
    for row in (0..left.len()).filter(|row| weights[*row] < 0) {
        extra.entry(key(&cells[row])).or_default().push(row);
    }
    let mut close = 0;
    for row in 0..left.len() {
        for other in extra.get(&key(&cells[row])).into_iter().flatten() {
            if weights[row] > 0 && weights[*other] < 0 && is_close(&cells[row], &cells[*other]) {
                let paired = weights[row].min(-weights[*other]);
                weights[row] -= paired;
                weights[*other] += paired;
                close += paired.unsigned_abs();
            }
        }
    }
    let places: Vec<u64> = (0..left.len()).filter(|row| weights[*row] != 0).map(|row| row as u64).collect();
    if places.is_empty() {
        return Ok(Difference { rows: None, close });
    }
    let kept = Int64Array::from_iter_values(places.iter().map(|row| weights[*row as usize]));
    let rows = take_rows(&left.rows, &UInt64Array::from(places))?;
    Ok(Difference { rows: Some(Changes::weighted(rows, kept)), close })
}

/// The cells of each row as text, with what must be equal in them.
fn cells(query: &SchemaRef, rows: &RecordBatch) -> Result<Vec<Vec<(String, Exactness)>>> {
    let schema = rows.schema();
    let exactness = |name: &str, kind: &DataType| {
        let known = query.field_with_name(name).map(|field| Exactness::of(field.data_type()));
        known.unwrap_or_else(|_| Exactness::of(kind))
    };
    let lines = schema.fields().len() == 1 && schema.field(0).name() == LINE && query.field_with_name(LINE).is_err();
    if lines {
        let lines = rows.column(0).as_string::<i32>().iter();
        let members = |line: Option<&str>| match serde_json::from_str::<Value>(line.unwrap_or_default()) {
            Ok(Value::Object(members)) => {
                let cell = |(name, value): (&String, &Value)| (value.to_string(), exactness(name, &DataType::Utf8));
                members.iter().map(cell).collect()
            }
            _ => vec![(line.unwrap_or_default().to_owned(), Exactness::Exact)],
        };
        return Ok(lines.map(members).collect());
    }
    let options = FormatOptions::default().with_null("NULL");
    let columns = rows.columns().iter().zip(schema.fields()).map(|(column, field)| {
        Ok((ArrayFormatter::try_new(column, &options)?, exactness(field.name(), field.data_type())))
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let row = |row: usize| columns.iter().map(|(column, exact)| (column.value(row).to_string(), *exact)).collect();
    Ok((0..rows.num_rows()).map(row).collect())
}

/// What rows that are close have in common.
fn key(cells: &[(String, Exactness)]) -> String {
    let exact = cells.iter().map(|(text, exact)| match exact {
        Exactness::Exact => text.as_str(),
        Exactness::Float | Exactness::List => "",
    });
    exact.collect::<Vec<_>>().join("\u{1f}")
}

fn is_close(one: &[(String, Exactness)], other: &[(String, Exactness)]) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|((a, exact), (b, _))| match exact {
            _ if a == b => true,
            Exactness::Exact => false,
            Exactness::Float => are_close(a, b),
            Exactness::List => {
                let elements = |text: &str| {
                    let mut all: Vec<String> =
                        text.split(',').map(|e| e.trim_matches([' ', '[', ']']).to_owned()).collect();
                    all.sort();
                    all
                };
                let (a, b) = (elements(a), elements(b));
                a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a == b || are_close(a, b))
            }
        })
}

fn are_close(a: &str, b: &str) -> bool {
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => (a - b).abs() <= CLOSE * a.abs().max(b.abs()),
        _ => false,
    }
}

/// The first rows of a difference, with how often each is missing or too much, for people.
pub fn sample(rows: &Changes, most: usize) -> Result<Changes> {
    let places = UInt64Array::from_iter_values(0..rows.len().min(most) as u64);
    rows.take(&places)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, StringArray};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn rows(rows: &[(&str, f64)]) -> Vec<Changes> {
        let fields = vec![Field::new("k", DataType::Utf8, true), Field::new("f", DataType::Float64, true)];
        let keys = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0)));
        let floats = Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.1)));
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![keys, floats]).expect("a batch");
        vec![Changes::inserted(batch)]
    }

    fn compare(expected: &[(&str, f64)], found: &[(&str, f64)]) -> ((u64, u64), u64) {
        let (expected, found) = (rows(expected), rows(found));
        let query = expected[0].rows.schema();
        let difference = difference(&query, expected, found).expect("compares");
        (difference.counts(), difference.close)
    }

    #[test]
    fn rows_count_and_floats_may_be_rounded_otherwise() {
        assert_eq!(compare(&[("a", 1.0), ("b", 2.0)], &[("b", 2.0), ("a", 1.0)]), ((0, 0), 0));
        assert_eq!(compare(&[("a", 0.1 + 0.2)], &[("a", 0.3)]), ((0, 0), 1));
        assert_eq!(compare(&[("a", 0.3)], &[("b", 0.3)]), ((1, 1), 0));
        assert_eq!(compare(&[("a", 0.3)], &[("a", 0.300001)]), ((1, 1), 0));
        assert_eq!(compare(&[("a", 1.0), ("a", 1.0)], &[("a", 1.0)]), ((1, 0), 0));
        assert_eq!(compare(&[], &[("a", 1.0)]), ((0, 1), 0));
        assert_eq!(compare(&[("a", f64::NAN)], &[("a", 1.0)]), ((1, 1), 0));
    }
}
