//! A result as a chart, for `-o chart.svg`.
//!
//! Enters: batches. Leaves: an SVG document, once all are here. Always holds: a result that is too long to be
//! seen in a chart is an error, so memory has a limit.

use std::io::Write;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::{Encoder, Shown};
use crate::chart::Chart;
use crate::config::CHART_ROWS;
use crate::error::{Error, Result};

/// Gathers the rows of a chart.
pub(super) struct SvgEncoder {
    schema: SchemaRef,
    out: Box<dyn Write + Send>,
    batches: Vec<RecordBatch>,
    rows: usize,
}

impl SvgEncoder {
    pub(super) fn new(schema: &SchemaRef, out: Box<dyn Write + Send>) -> Self {
        Self { schema: SchemaRef::clone(schema), out, batches: Vec::new(), rows: 0 }
    }
}

/// An error for more rows than a chart shows.
pub fn refuse_many_rows(rows: usize) -> Result<()> {
    if rows <= CHART_ROWS {
        return Ok(());
    }
    Err(Error::query(format!("a chart shows at most {CHART_ROWS} rows"))
        .hint("aggregate them, or take some with LIMIT or TABLESAMPLE"))
}

impl Encoder for SvgEncoder {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.rows += batch.num_rows();
        refuse_many_rows(self.rows)?;
        self.batches.push(batch.clone());
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Shown> {
        let document = Chart::new(&self.schema, &self.batches, None)?.svg(None)?;
        self.out.write_all(document.as_bytes())?;
        self.out.flush()?;
        Ok(Shown::default())
    }
}
