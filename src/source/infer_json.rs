//! The columns of a JSON file.
//!
//! Enters: the start of a file of objects, one after the other with any white space between, or of one array
//! of objects; and pieces from its middle and end. Leaves: a type for each column, in the order in which they
//! first appear. Always holds: what is not JSON, or no object, in the start of the file is an error with its place.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;

use super::file_format::Sample;
use super::json_scan::{Edge, PIECE_BYTES};
use crate::error::Result;
use crate::format::{Problem, Records, Shapes};

/// Reads the columns of a file from its first `limit` bytes, and from pieces at other places of it.
pub(super) fn columns(mut sample: Sample, limit: u64, pieces: Vec<(u64, Bytes)>) -> Result<Result<SchemaRef, Problem>> {
    let (mut records, mut shapes) = (Records::default(), Shapes::default());
    let mut buffer = vec![0; PIECE_BYTES];
    let mut read = 0;
    while read < limit {
        // The records know how long one may be.
        sample.unbroken.store(0, Ordering::Relaxed);
        let left = usize::try_from(limit - read).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        let count = match sample.text.read(&mut buffer[..left]) {
            Ok(count) => count,
            // A compressed text that was cut off has no end.
            Err(_) if sample.cut && read > 0 => break,
            Err(error) => return Err(error.into()),
        };
        read += count as u64;
        records.push(&buffer[..count]);
        if count == 0 && !sample.cut {
            records.end();
        }
        if let Err(problem) = shapes.look(&mut records) {
            return Ok(Err(problem));
        }
        if count == 0 {
            break;
        }
    }
    if !records.is_array() {
        for (offset, piece) in pieces {
            let Some(start) = Edge::default().find(&piece) else { continue };
            let mut records = Records::lines_from(offset + start);
            records.push(&piece[usize::try_from(start).unwrap_or(piece.len())..]);
            // The scan tells what is wrong in the middle of a file.
            let _ = shapes.look(&mut records);
        }
    }
    Ok(Ok(Arc::new(shapes.schema())))
}
