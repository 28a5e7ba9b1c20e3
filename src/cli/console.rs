//! The result of a pipeline on standard output.
//!
//! Enters: changes. Leaves: on a terminal a table at each commit, else an object a line with `op` ("insert" or
//! "delete"). Always holds: an epoch is printed when it is committed.

use std::io::{IsTerminal, Write};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;

use crate::change::{Changes, concat, consolidate, with_columns};
use crate::config::Settings;
use crate::error::Result;
use crate::format::{self, Format, Shape};
use crate::offset::Epoch;
use crate::sink::stream::{Order, Sink};

/// Standard output.
pub(super) struct ConsoleSink {
    columns: SchemaRef,
    append_only: bool,
    order: Option<Order>,
    format: Format,
    taken: Vec<Changes>,
    staged: Option<RecordBatch>,
}

impl ConsoleSink {
    pub(super) fn boxed(
        columns: SchemaRef,
        append_only: bool,
        order: Option<Order>,
        settings: &Settings,
    ) -> Box<dyn Sink> {
        let default = if std::io::stdout().is_terminal() { Format::Table } else { Format::Ndjson };
        let format = settings.format.parse().unwrap_or(default);
        Box::new(Self { columns, append_only, order, format, taken: Vec::new(), staged: None })
    }

    /// The changes, with `op` before the columns; a table that only grows needs none.
    fn rows(&self, changes: &Changes) -> Result<RecordBatch> {
        let (rows, ops) = changes.with_ops()?;
        let ordered = |rows: RecordBatch| match &self.order {
            Some(order) if order.hides() && !self.append_only => Ok(rows),
            Some(order) => order.shown(&order.sorted(&rows)?),
            None => Ok(rows),
        };
        if self.append_only && self.format == Format::Table {
            return ordered(rows);
        }
        // What goes stands before what comes; each in the order of the statement.
        let gone = ops.iter().filter(|op| *op == Some("delete")).count();
        let parts = [rows.slice(0, gone), rows.slice(gone, rows.num_rows() - gone)];
        let parts = parts.into_iter().map(ordered).collect::<Result<Vec<_>>>()?;
        let rows = concat(&parts[0].schema(), &parts)?;
        let op: ArrayRef = Arc::new(ops);
        let mut fields = vec![Arc::new(Field::new("op", DataType::Utf8, false))];
        fields.extend(rows.schema().fields().iter().cloned());
        let columns = std::iter::once(op).chain(rows.columns().iter().cloned()).collect();
        with_columns(&Arc::new(Schema::new(fields)), columns, rows.num_rows())
    }
}

#[async_trait]
impl Sink for ConsoleSink {
    fn take(&mut self, changes: Vec<Changes>, shown: bool) -> Result<()> {
        if !shown {
            self.taken.extend(changes);
        }
        Ok(())
    }

    async fn stage(&mut self, _epoch: Epoch, _now_micros: i64) -> Result<()> {
        let mut taken = std::mem::take(&mut self.taken);
        let mut columns = Arc::clone(&self.columns);
        if let Some(order) = self.order.as_ref().filter(|order| order.hides() && !self.append_only) {
            // That a row has another place now is no change of it.
            columns = order.shown(&RecordBatch::new_empty(columns))?.schema();
            for change in &mut taken {
                change.rows = order.shown(&change.rows)?;
            }
        }
        let changes = consolidate(&columns, &taken)?;
        self.staged = changes.map(|changes| self.rows(&changes)).transpose()?;
        Ok(())
    }

    fn is_idempotent(&self) -> bool {
        false
    }

    async fn commit(&mut self, _epoch: Epoch) -> Result<()> {
        let Some(rows) = self.staged.take() else { return Ok(()) };
        if std::io::stderr().is_terminal() && std::io::stdout().is_terminal() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
        let out = Box::new(std::io::stdout());
        let mut encoder = format::encoder(self.format, &rows.schema(), out, Shape::default(), true)?;
        encoder.write(&rows)?;
        encoder.finish().map(drop)
    }
}
