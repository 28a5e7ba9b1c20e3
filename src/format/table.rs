//! Tables for people: a box on a terminal or in a file, or Markdown.
//!
//! Enters: batches. Leaves: aligned columns. Always holds: at most a window of rows is held back: the first
//! rows decide the widths, and a later, wider value moves its line and nothing else; on a terminal, with a
//! row limit, only the first and last rows are held. What is cut ends in `…`.

use std::io::Write;

use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use unicode_width::UnicodeWidthStr;

use super::cell::{Column, columns};
use super::fit::{Need, Slot, fit};
use super::kind::type_name;
use super::window::Window;
use super::{Encoder, Shown};
use crate::chart::clip;
use crate::config::TABLE_WINDOW_ROWS;
use crate::error::Result;

type Out = Box<dyn Write + Send>;
type Row = Vec<String>;

/// How a table fits what it is shown on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shape {
    /// Columns of the terminal; none: as wide as it gets.
    pub width: Option<usize>,
    /// Rows to show, half from the start and half from the end; none: all.
    pub rows: Option<usize>,
    /// Types stand under the names.
    pub types: bool,
}

/// Numbers stand to the right.
fn right_aligned(kind: &DataType) -> bool {
    kind.is_numeric()
}

/// The cells of a batch. What would break the lines or steer the terminal is shown as an escape.
pub(super) fn cells(batch: &RecordBatch, mut each: impl FnMut(Row) -> Result<()>) -> Result<()> {
    let columns = columns(batch)?;
    for row in 0..batch.num_rows() {
        let mut text = String::new();
        let mut cell = |column: &Column| -> Result<String> {
            Ok(if column.read(row, &mut text)? { printable(&text) } else { "NULL".to_owned() })
        };
        each(columns.iter().map(&mut cell).collect::<Result<Row>>()?)?;
    }
    Ok(())
}

pub(super) fn printable(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

pub(super) fn pad(text: &str, width: usize, right: bool) -> String {
    let gap = " ".repeat(width.saturating_sub(text.width()));
    if right { format!("{gap}{text}") } else { format!("{text}{gap}") }
}

pub(super) struct TableEncoder {
    out: Out,
    shape: Shape,
    names: Row,
    /// Under the names, on a terminal.
    types: Option<Row>,
    right: Vec<bool>,
    /// Half a number is no number, and half a time is none.
    whole: Vec<bool>,
    /// The ends of a limited table.
    window: Option<Window>,
    /// Rows held back for their widths.
    held: Vec<Row>,
    /// Set once the header is out.
    slots: Option<Vec<Slot>>,
}

impl TableEncoder {
    pub(super) fn new(schema: &SchemaRef, out: Out, shape: Shape) -> Self {
        let fields = schema.fields();
        let names = fields.iter().map(|field| printable(field.name())).collect();
        let types = shape.types.then(|| fields.iter().map(|field| printable(&type_name(field.data_type()))).collect());
        let right = fields.iter().map(|field| right_aligned(field.data_type())).collect();
        let whole = |kind: &DataType| right_aligned(kind) || kind.is_temporal();
        let whole = fields.iter().map(|field| whole(field.data_type())).collect();
        Self {
            out,
            shape,
            names,
            types,
            right,
            whole,
            window: shape.rows.map(Window::new),
            held: Vec::new(),
            slots: None,
        }
    }

    fn take(&mut self, row: Row) -> Result<()> {
        if let Some(slots) = self.slots.take() {
            self.line(&row, &slots, false)?;
            self.slots = Some(slots);
            return Ok(());
        }
        self.held.push(row);
        if self.held.len() >= TABLE_WINDOW_ROWS { self.open() } else { Ok(()) }
    }

    /// Writes the header and what was held back.
    fn open(&mut self) -> Result<()> {
        let slots = self.header()?;
        for row in std::mem::take(&mut self.held) {
            self.line(&row, &slots, false)?;
        }
        self.slots = Some(slots);
        Ok(())
    }

    fn header(&mut self) -> Result<Vec<Slot>> {
        let slots = fit(&self.needs(), self.shape.width);
        self.rule(&slots, ['┌', '┬', '┐'])?;
        let names = std::mem::take(&mut self.names);
        self.line(&names, &slots, true)?;
        if let Some(types) = self.types.take() {
            self.line(&types, &slots, true)?;
        }
        self.rule(&slots, ['├', '┼', '┤'])?;
        Ok(slots)
    }

    /// What the columns need for what is held back. A type may be cut, so it asks for little.
    fn needs(&self) -> Vec<Need> {
        const TYPE_WIDTH: usize = 12;
        let mut cells = vec![0; self.names.len()];
        for row in &self.held {
            for (width, cell) in cells.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        let need = |at: usize| {
            let kind = self.types.as_ref().map_or(0, |types| types[at].width().min(TYPE_WIDTH));
            Need::new(self.names[at].width().max(kind), cells[at], self.whole[at])
        };
        (0..self.names.len()).map(need).collect()
    }

    fn line(&mut self, row: &Row, slots: &[Slot], header: bool) -> Result<()> {
        let mut text = String::from("│");
        for slot in slots {
            let cell = slot.at.map_or("…", |at| row[at].as_str());
            // Without a width to fit in, a late wide value moves its line; a cut is for terminals, and for types.
            let cut = self.shape.width.is_some() || header;
            let cell = if cut { clip(cell, slot.width) } else { cell.to_owned() };
            text.push(' ');
            text.push_str(&pad(&cell, slot.width, slot.at.is_some_and(|at| self.right[at]) && !header));
            text.push_str(" │");
        }
        text.push('\n');
        Ok(self.out.write_all(text.as_bytes())?)
    }

    fn rule(&mut self, slots: &[Slot], [left, middle, right]: [char; 3]) -> Result<()> {
        let bars: Vec<String> = slots.iter().map(|slot| "─".repeat(slot.width + 2)).collect();
        Ok(writeln!(self.out, "{left}{}{right}", bars.join(&middle.to_string()))?)
    }

    /// Writes the two ends of a limited table; says how many rows they are, if some lie between.
    fn ends(&mut self, window: Window) -> Result<Option<usize>> {
        let ends = window.ends();
        let mut rows = |batches: &[RecordBatch]| -> Result<usize> {
            batches.iter().try_for_each(|batch| {
                cells(batch, |row| {
                    self.held.push(row);
                    Ok(())
                })
            })?;
            Ok(self.held.len())
        };
        let first = rows(&ends.first)?;
        let all = rows(&ends.last)?;
        let slots = self.header()?;
        for (at, row) in std::mem::take(&mut self.held).iter().enumerate() {
            if at == first && ends.skipped > 0 {
                let dots: Row = self.right.iter().map(|_| "·".to_owned()).collect();
                self.line(&dots, &slots, false)?;
            }
            self.line(row, &slots, false)?;
        }
        self.slots = Some(slots);
        Ok((ends.skipped > 0).then_some(all))
    }
}

impl Encoder for TableEncoder {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match &mut self.window {
            Some(window) => {
                window.push(batch);
                Ok(())
            }
            None => cells(batch, |row| self.take(row)),
        }
    }

    fn flush(&mut self) -> Result<()> {
        if self.slots.is_none() && self.window.is_none() { self.open() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>) -> Result<Shown> {
        let rows = match self.window.take() {
            Some(window) => self.ends(window)?,
            None => None,
        };
        if self.slots.is_none() {
            self.open()?;
        }
        let slots = self.slots.take().unwrap_or_default();
        self.rule(&slots, ['└', '┴', '┘'])?;
        self.out.flush()?;
        let columns = slots.iter().filter(|slot| slot.at.is_some()).count();
        Ok(Shown { rows, columns: (columns < self.right.len()).then_some(columns) })
    }
}

pub(super) struct MarkdownEncoder(Out);

impl MarkdownEncoder {
    pub(super) fn new(schema: &SchemaRef, mut out: Out) -> Result<Self> {
        let names: Vec<String> = schema.fields().iter().map(|field| markdown(&printable(field.name()))).collect();
        let rules: Vec<&str> =
            schema.fields().iter().map(|field| if right_aligned(field.data_type()) { "---:" } else { "---" }).collect();
        writeln!(out, "| {} |\n| {} |", names.join(" | "), rules.join(" | "))?;
        Ok(Self(out))
    }
}

fn markdown(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|")
}

impl Encoder for MarkdownEncoder {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        cells(batch, |row| {
            let row: Vec<String> = row.iter().map(|cell| markdown(cell)).collect();
            Ok(writeln!(self.0, "| {} |", row.join(" | "))?)
        })
    }

    fn finish(mut self: Box<Self>) -> Result<Shown> {
        self.0.flush()?;
        Ok(Shown::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cutting_counts_columns_and_not_bytes() {
        assert_eq!(clip("abcdef", 4), "abc…");
        assert_eq!(clip("日本語", 4), "日…");
        assert_eq!(clip("日本", 4), "日本");
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
    }
}
