//! Rows on disk.
//!
//! Enters: batches. Leaves: some of their rows. Always holds: a row is read by itself where few are asked for, so that
//! what is read follows what is asked for; a file goes when none of its rows is kept any more.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::execution::disk_manager::DiskManager;

use crate::change::{RowEncoder, with_columns};
use crate::error::Result;
use crate::operator::spilled::{Spilled, failed};

/// If one row of so many is asked for, all are read.
const DENSE: usize = 16;

/// A file while rows are written to it.
pub(super) struct ColdWriter {
    file: Arc<Spilled>,
    out: BufWriter<File>,
    at: u64,
}

/// The rows of a batch, on disk.
pub(super) struct ColdRows {
    file: Arc<Spilled>,
    start: u64,
    /// Where each ends, from `start` on.
    ends: Vec<u32>,
}

impl ColdWriter {
    pub(super) fn new(disk: &Arc<DiskManager>) -> Result<Self> {
        let file = Spilled::new("rows of a pipeline's state", disk)?;
        let out = file.file.try_clone().map_err(|error| failed(&error))?;
        Ok(Self { file: Arc::new(file), out: BufWriter::with_capacity(1 << 20, out), at: 0 })
    }

    /// Writes the rows; nothing if they are too large.
    pub(super) fn write(&mut self, rows: &RecordBatch, encoder: &RowEncoder) -> Result<Option<ColdRows>> {
        let encoded = encoder.encode(rows.columns(), rows.num_rows())?;
        let mut ends = Vec::with_capacity(rows.num_rows());
        let mut end = 0_u64;
        for row in 0..rows.num_rows() {
            end += encoded.row(row).len() as u64;
            let Ok(end) = u32::try_from(end) else { return Ok(None) };
            ends.push(end);
        }
        for row in 0..rows.num_rows() {
            self.out.write_all(encoded.row(row)).map_err(|error| failed(&error))?;
        }
        let start = self.at;
        self.at += end;
        Ok(Some(ColdRows { file: Arc::clone(&self.file), start, ends }))
    }

    /// From now on the rows can be read.
    pub(super) fn finish(mut self) -> Result<()> {
        self.out.flush().map_err(|error| failed(&error))
    }
}

impl ColdRows {
    /// What is left of it in memory.
    pub(super) fn bytes(&self) -> usize {
        self.ends.capacity() * 4
    }

    fn range(&self, row: usize) -> std::ops::Range<usize> {
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        start..self.ends[row] as usize
    }

    /// Rows, in this order.
    pub(super) fn read(&self, rows: &[usize], encoder: &RowEncoder, like: &RecordBatch) -> Result<RecordBatch> {
        let mut bytes = Vec::new();
        let mut ranges = Vec::with_capacity(rows.len());
        let get = |into: &mut [u8], at: usize| self.file.read(into, self.start + at as u64);
        if rows.len() * DENSE >= self.ends.len() {
            bytes.resize(self.ends.last().copied().unwrap_or(0) as usize, 0);
            get(&mut bytes, 0)?;
            ranges.extend(rows.iter().map(|row| self.range(*row)));
        } else {
            for row in rows {
                let range = self.range(*row);
                let (start, at) = (bytes.len(), range.start);
                bytes.resize(start + range.len(), 0);
                get(&mut bytes[start..], at)?;
                ranges.push(start..bytes.len());
            }
        }
        let columns = encoder.decode(ranges.into_iter().map(|range| &bytes[range]))?;
        with_columns(&like.schema(), columns, rows.len())
    }
}
