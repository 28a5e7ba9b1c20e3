//! CSV and TSV.
//!
//! Enters: batches. Leaves: a header and a line a row (RFC 4180, lines end in `\n`). Always holds: NULL is
//! an empty field and an empty text is `""`, so the two can be told apart; no row is an empty line.

use std::io::Write;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use super::cell::columns;
use super::{Encoder, Shown};
use crate::error::Result;

pub(super) struct TextEncoder {
    out: Box<dyn Write + Send>,
    delimiter: u8,
    line: Vec<u8>,
    field: String,
}

impl TextEncoder {
    pub(super) fn new(schema: &SchemaRef, mut out: Box<dyn Write + Send>, delimiter: u8) -> Result<Self> {
        let mut line = Vec::new();
        for (at, field) in schema.fields().iter().enumerate() {
            if at > 0 {
                line.push(delimiter);
            }
            quote(field.name(), delimiter, &mut line);
        }
        line.push(b'\n');
        out.write_all(&line)?;
        Ok(Self { out, delimiter, line, field: String::new() })
    }
}

impl Encoder for TextEncoder {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let columns = columns(batch)?;
        for row in 0..batch.num_rows() {
            self.line.clear();
            for (at, column) in columns.iter().enumerate() {
                if at > 0 {
                    self.line.push(self.delimiter);
                }
                if column.read(row, &mut self.field)? {
                    quote(&self.field, self.delimiter, &mut self.line);
                }
            }
            // Readers skip empty lines, and would miss the row of a NULL.
            if self.line.is_empty() {
                self.line.extend_from_slice(b"\"\"");
            }
            self.line.push(b'\n');
            self.out.write_all(&self.line)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Shown> {
        self.out.flush()?;
        Ok(Shown::default())
    }
}

fn quote(text: &str, delimiter: u8, line: &mut Vec<u8>) {
    let special = |byte: u8| byte == delimiter || matches!(byte, b'"' | b'\n' | b'\r');
    if !text.is_empty() && !text.bytes().any(special) {
        line.extend_from_slice(text.as_bytes());
        return;
    }
    line.push(b'"');
    for byte in text.bytes() {
        if byte == b'"' {
            line.push(b'"');
        }
        line.push(byte);
    }
    line.push(b'"');
}
