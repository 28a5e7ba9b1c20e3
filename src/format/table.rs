//! Tables for people: a box on a terminal or in a file, or Markdown.
//!
//! Enters: batches. Leaves: aligned columns. Always holds: at most a window of rows is held back: the first
//! rows decide the widths, and a later, wider value moves its line and nothing else; on a terminal, with a
//! row limit, only the first and last rows are held.

use std::collections::VecDeque;
use std::io::Write;

use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use unicode_width::UnicodeWidthStr;

use super::Encoder;
use super::cell::{Column, columns};
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
}

/// Numbers stand to the right.
fn right_aligned(kind: &DataType) -> bool {
    kind.is_numeric()
}

/// The cells of a batch. What would break the lines or steer the terminal is shown as an escape.
fn cells(batch: &RecordBatch, mut each: impl FnMut(Row) -> Result<()>) -> Result<()> {
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

fn printable(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

fn pad(text: &str, width: usize, right: bool) -> String {
    let gap = " ".repeat(width.saturating_sub(text.width()));
    if right { format!("{gap}{text}") } else { format!("{text}{gap}") }
}

/// Cuts a text to `width` columns and ends it in `…`.
fn clip(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    for c in text.chars() {
        cut.push(c);
        if cut.width() + 1 > width {
            cut.pop();
            break;
        }
    }
    cut.push('…');
    cut
}

pub(super) struct TableEncoder {
    out: Out,
    shape: Shape,
    names: Row,
    right: Vec<bool>,
    /// Rows held back for their widths, or the first rows of a limited table.
    head: Vec<Row>,
    /// The last rows of a limited table.
    tail: VecDeque<Row>,
    skipped: usize,
    /// Set once the header is out.
    widths: Option<Vec<usize>>,
}

impl TableEncoder {
    pub(super) fn new(schema: &SchemaRef, out: Out, shape: Shape) -> Self {
        let names = schema.fields().iter().map(|field| printable(field.name())).collect();
        let right = schema.fields().iter().map(|field| right_aligned(field.data_type())).collect();
        let (head, tail) = (Vec::new(), VecDeque::new());
        Self { out, shape, names, right, head, tail, skipped: 0, widths: None }
    }

    fn take(&mut self, row: Row) -> Result<()> {
        if let Some(limit) = self.shape.rows {
            if self.head.len() < limit.div_ceil(2) {
                self.head.push(row);
                return Ok(());
            }
            self.tail.push_back(row);
            if self.tail.len() > limit / 2 {
                self.tail.pop_front();
                self.skipped += 1;
            }
            return Ok(());
        }
        match self.widths.clone() {
            Some(widths) => self.line(&row, &widths, false),
            None => {
                self.head.push(row);
                if self.head.len() >= TABLE_WINDOW_ROWS { self.open() } else { Ok(()) }
            }
        }
    }

    /// Writes the header and what was held back.
    fn open(&mut self) -> Result<()> {
        let widths = self.fit();
        self.rule(&widths, ['┌', '┬', '┐'])?;
        let names = std::mem::take(&mut self.names);
        self.line(&names, &widths, true)?;
        self.rule(&widths, ['├', '┼', '┤'])?;
        for row in std::mem::take(&mut self.head) {
            self.line(&row, &widths, false)?;
        }
        if self.skipped > 0 {
            let dots: Row = widths.iter().map(|_| "·".to_owned()).collect();
            self.line(&dots, &widths, false)?;
        }
        for row in std::mem::take(&mut self.tail) {
            self.line(&row, &widths, false)?;
        }
        self.widths = Some(widths);
        Ok(())
    }

    /// The widths of the columns: what their values need, then the widest are narrowed until all fit.
    fn fit(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.names.iter().map(|name| name.width().max(1)).collect();
        for row in self.head.iter().chain(&self.tail) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        let Some(room) = self.shape.width else { return widths };
        const MINIMUM: usize = 3;
        let borders = 3 * widths.len() + 1;
        while widths.iter().sum::<usize>() + borders > room {
            match widths.iter_mut().max() {
                Some(widest) if *widest > MINIMUM => *widest -= 1,
                _ => break,
            }
        }
        widths
    }

    fn line(&mut self, row: &Row, widths: &[usize], header: bool) -> Result<()> {
        let mut text = String::from("│");
        for (at, cell) in row.iter().enumerate() {
            let cell = if self.shape.width.is_some() { clip(cell, widths[at]) } else { cell.clone() };
            text.push(' ');
            text.push_str(&pad(&cell, widths[at], self.right[at] && !header));
            text.push_str(" │");
        }
        text.push('\n');
        Ok(self.out.write_all(text.as_bytes())?)
    }

    fn rule(&mut self, widths: &[usize], [left, middle, right]: [char; 3]) -> Result<()> {
        let bars: Vec<String> = widths.iter().map(|width| "─".repeat(width + 2)).collect();
        Ok(writeln!(self.out, "{left}{}{right}", bars.join(&middle.to_string()))?)
    }
}

impl Encoder for TableEncoder {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        cells(batch, |row| self.take(row))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        if self.widths.is_none() {
            self.open()?;
        }
        let widths = self.widths.clone().unwrap_or_default();
        self.rule(&widths, ['└', '┴', '┘'])?;
        if self.skipped > 0 {
            let shown = self.shape.rows.unwrap_or_default();
            writeln!(self.out, "{} rows, {shown} shown", self.skipped + shown)?;
        }
        Ok(self.out.flush()?)
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

    fn finish(mut self: Box<Self>) -> Result<()> {
        Ok(self.0.flush()?)
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
