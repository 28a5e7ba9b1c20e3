//! A block of lines for each row, a column a line: for rows that are wider than a terminal.
//!
//! Enters: batches. Leaves: blocks of lines. Always holds: values are shown whole; with a row limit, only the
//! first and last rows are held.

use std::io::Write;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use unicode_width::UnicodeWidthStr;

use super::table::{cells, pad, printable};
use super::window::Window;
use super::{Encoder, Shape, Shown};
use crate::error::Result;

pub(super) struct ExpandedEncoder {
    out: Box<dyn Write + Send>,
    names: Vec<String>,
    /// The width of the names.
    width: usize,
    window: Option<Window>,
    row: usize,
}

impl ExpandedEncoder {
    pub(super) fn new(schema: &SchemaRef, out: Box<dyn Write + Send>, shape: Shape) -> Self {
        let names: Vec<String> = schema.fields().iter().map(|field| printable(field.name())).collect();
        let width = names.iter().map(|name| name.width()).max().unwrap_or_default();
        let names = names.iter().map(|name| pad(name, width, false)).collect();
        Self { out, names, width, window: shape.rows.map(Window::new), row: 0 }
    }

    fn blocks(&mut self, batch: &RecordBatch) -> Result<()> {
        cells(batch, |row| {
            self.row += 1;
            let title = format!("─[ {} ]", self.row);
            let lines = "─".repeat(self.width.saturating_sub(title.width() - 1));
            writeln!(self.out, "{title}{lines}")?;
            for (name, cell) in self.names.iter().zip(&row) {
                writeln!(self.out, "{}", format!("{name} │ {cell}").trim_end())?;
            }
            Ok(())
        })
    }
}

impl Encoder for ExpandedEncoder {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match &mut self.window {
            Some(window) => {
                window.push(batch);
                Ok(())
            }
            None => self.blocks(batch),
        }
    }

    fn finish(mut self: Box<Self>) -> Result<Shown> {
        let mut shown = Shown::default();
        if let Some(window) = self.window.take() {
            let ends = window.ends();
            ends.first.iter().try_for_each(|batch| self.blocks(batch))?;
            if ends.skipped > 0 {
                writeln!(self.out, "…")?;
                self.row += ends.skipped;
            }
            ends.last.iter().try_for_each(|batch| self.blocks(batch))?;
            shown.rows = (ends.skipped > 0).then_some(self.row - ends.skipped);
        }
        self.out.flush()?;
        Ok(shown)
    }
}
