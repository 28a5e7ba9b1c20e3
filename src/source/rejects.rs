//! Rows that are not as the others.
//!
//! Enters: what the scans of text files tell. Leaves: the table `rejects`, and a sentence for each file. Always
//! holds: a row is held once, however often its file is read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;

use crate::error::Result;
use crate::format::csv::{Fate, Told};

/// Rows that are held; more are counted.
const ROWS_LIMIT: usize = 100_000;

/// The name of the table.
const TABLE: &str = "rejects";

/// What a session has been told of its text files.
#[derive(Debug, Default)]
pub struct Rejects(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    rows: BTreeMap<(String, u64), Told>,
    /// For each file: rows repaired and left out since it was last spoken of.
    fresh: BTreeMap<String, [u64; 2]>,
    /// How files were read, since it was last asked.
    read_as: BTreeMap<String, String>,
}

impl Rejects {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a row of `file`.
    pub fn tell(&self, file: &str, told: Told) {
        let mut inner = self.inner();
        let key = (file.to_owned(), told.line);
        if inner.rows.contains_key(&key) {
            return;
        }
        let counts = inner.fresh.entry(file.to_owned()).or_default();
        counts[usize::from(told.fate == Fate::LeftOut)] += 1;
        if inner.rows.len() < ROWS_LIMIT {
            inner.rows.insert(key, told);
        }
    }

    /// Holds how a file is read.
    pub(super) fn read_as(&self, file: &str, words: String) {
        self.inner().read_as.insert(file.to_owned(), words);
    }

    /// How files were read since the last call.
    pub fn take_readings(&self) -> Vec<String> {
        let readings = std::mem::take(&mut self.inner().read_as);
        readings.into_iter().map(|(file, words)| format!("{file} is read with {words}")).collect()
    }

    /// A sentence for each file of which something was told since the last call.
    pub fn take_notes(&self) -> Vec<String> {
        let fresh = std::mem::take(&mut self.inner().fresh);
        let sentence = |(file, [repaired, left_out]): (String, [u64; 2])| {
            let rows = |count: u64| if count == 1 { "1 row".to_owned() } else { format!("{count} rows") };
            let mut parts = Vec::new();
            if repaired > 0 {
                parts.push(format!("{} repaired", rows(repaired)));
            }
            if left_out > 0 {
                parts.push(format!("{} left out", rows(left_out)));
            }
            format!("{file}: {}; FROM {TABLE} shows them", parts.join(", "))
        };
        fresh.into_iter().map(sentence).collect()
    }

    /// The table of that name.
    pub fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        if name != TABLE {
            return Ok(None);
        }
        let inner = self.inner();
        let text = |name: &str| Field::new(name, DataType::Utf8, true);
        let schema = Arc::new(Schema::new(vec![
            text("file"),
            Field::new("line", DataType::Int64, true),
            text("column"),
            text("text"),
            text("reason"),
            text("fate"),
        ]));
        let rows = || inner.rows.iter();
        let fate = |fate: Fate| if fate == Fate::Repaired { "repaired" } else { "left out" };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(rows().map(|((file, _), _)| file))),
            Arc::new(Int64Array::from_iter_values(
                rows().map(|((_, line), _)| i64::try_from(*line).unwrap_or(i64::MAX)),
            )),
            Arc::new(StringArray::from_iter(rows().map(|(_, told)| told.column.as_deref()))),
            Arc::new(StringArray::from_iter_values(rows().map(|(_, told)| &told.text))),
            Arc::new(StringArray::from_iter_values(rows().map(|(_, told)| &told.reason))),
            Arc::new(StringArray::from_iter_values(rows().map(|(_, told)| fate(told.fate)))),
        ];
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
        Ok(Some(Arc::new(MemTable::try_new(schema, vec![vec![batch]])?)))
    }
}
