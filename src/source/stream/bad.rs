//! Records that cannot be read, and rows that are late.
//!
//! Enters: a record, where it is, and why it cannot be read; a row. Leaves: an error, or a row in a folder of dead letters.
//! Always holds: the file of an epoch has the same name and rows when the epoch is run again.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;

use crate::durable::Folder;
use crate::error::{Error, Result};
use crate::offset::Epoch;

/// Characters of a record that an error shows.
const SHOWN_CHARS: usize = 200;

/// What becomes of records that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// The first one ends the pipeline.
    Fail,
    /// They are left out, and counted.
    Skip,
    /// They are left out, counted, and kept in a folder.
    DeadLetter,
}

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRecord {
    /// The file that it is in.
    pub file: String,
    /// Its first byte there.
    pub position: u64,
    /// The record itself, without its line end.
    pub payload: String,
    /// The column that is at fault, if it is one.
    pub column: Option<String>,
    /// What is wrong.
    pub reason: String,
}

impl BadRecord {
    /// The error that it is where it is not left out. `line` is counted from 1.
    pub(super) fn error(&self, line: u64) -> Error {
        self.error_at(format!("{}, line {line}", self.file))
    }

    /// The same for a record that is there, in words.
    pub(super) fn error_at(&self, place: String) -> Error {
        let column = self.column.as_ref().map_or(String::new(), |column| format!(", column {column}"));
        let mut shown: String = self.payload.chars().take(SHOWN_CHARS).collect();
        if shown.len() < self.payload.len() {
            shown.push('…');
        }
        let record = if place.contains(", line ") { "line" } else { "message" };
        Error::query(format!("{place}{column}: {}", self.reason)).note(format!("the {record} is: {shown}")).hint(
            format!(
                "OPTIONS ('on_error' 'skip') leaves such {record}s out; ('dead_letter' 'folder/') keeps them there"
            ),
        )
    }
}

/// What is kept in a folder of dead letters.
const KINDS: [&str; 2] = [BAD, LATE];
const BAD: &str = "bad";
const LATE: &str = "late";

/// The name of the file that keeps what an epoch has left out.
fn file(kind: &str, id: &str, source: &str, epoch: Epoch) -> String {
    let source: String = source.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
    format!("{kind}-{id}-{source}-{epoch:012}.parquet")
}

/// Keeps the bad records that an epoch has found in a source, for the pipeline of that identity.
pub async fn bury(folder: &Folder, id: &str, source: &str, epoch: Epoch, bad: &[BadRecord]) -> Result<()> {
    let text = |name, null| Field::new(name, DataType::Utf8, null);
    let schema = Schema::new(vec![
        text("payload", false),
        text("file", false),
        Field::new("position", DataType::Int64, false),
        text("column", true),
        text("reason", false),
    ]);
    let batch = RecordBatch::try_new(
        Arc::new(schema),
        vec![
            Arc::new(StringArray::from_iter_values(bad.iter().map(|bad| &bad.payload))),
            Arc::new(StringArray::from_iter_values(bad.iter().map(|bad| &bad.file))),
            Arc::new(Int64Array::from_iter_values(bad.iter().map(|bad| bad.position as i64))),
            Arc::new(StringArray::from_iter(bad.iter().map(|bad| bad.column.as_ref()))),
            Arc::new(StringArray::from_iter_values(bad.iter().map(|bad| &bad.reason))),
        ],
    )?;
    write(folder, &file(BAD, id, source, epoch), &[batch]).await
}

/// Keeps the rows of an epoch that were late.
pub async fn bury_late(folder: &Folder, id: &str, source: &str, epoch: Epoch, late: &[RecordBatch]) -> Result<()> {
    write(folder, &file(LATE, id, source, epoch), late).await
}

async fn write(folder: &Folder, name: &str, batches: &[RecordBatch]) -> Result<()> {
    let Some(first) = batches.first() else { return Ok(()) };
    let mut writer = ArrowWriter::try_new(Vec::new(), first.schema(), None)?;
    batches.iter().try_for_each(|batch| writer.write(batch))?;
    folder.replace(name, writer.into_inner()?).await
}

/// Removes what the pipeline of that identity has kept.
pub async fn unbury(folder: &Folder, id: &str) -> Result<()> {
    let names = folder.list("").await?;
    let own = names.into_iter().filter(|name| KINDS.iter().any(|kind| name.starts_with(&format!("{kind}-{id}-"))));
    folder.remove(&own.collect::<Vec<_>>()).await
}
