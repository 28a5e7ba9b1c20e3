//! JSON, as one array or as an object a line.
//!
//! Enters: batches, to be written; text, to be read ([`JsonDecoder`]). Leaves: an object a row with every column,
//! NULL included; batches. Always holds: an empty result is `[]` or nothing, both of which parse.

mod column;
mod decoder;
mod scalar;
mod scan;
mod shape;

pub use self::column::Members;
pub use self::decoder::{JsonDecoder, NOT_ONE_LINE, NOT_UTF8, Problem, Records};
pub use self::scan::WrongKind;
pub(super) use self::scan::{Fault, Scan, Scanner, Token};
pub use self::shape::Shapes;

use std::io::Write;

use arrow::json::writer::{JsonArray, LineDelimited, Writer, WriterBuilder};
use arrow::record_batch::RecordBatch;

use super::{Carrier, Encoder, Shown, carried};
use crate::error::Result;

type Out = Box<dyn Write + Send>;

/// Each row as an object, with a member for every column.
pub fn json_objects(rows: &RecordBatch) -> Result<Vec<Vec<u8>>> {
    let rows = carried(&Carrier::Json.schema(&rows.schema())?, rows)?;
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    writer.write(&rows)?;
    writer.finish()?;
    // A line end within a text is escaped.
    Ok(writer.into_inner().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect())
}

pub(super) enum JsonEncoder {
    Array(Writer<Out, JsonArray>),
    Lines(Writer<Out, LineDelimited>),
}

impl JsonEncoder {
    pub(super) fn array(out: Out) -> Self {
        Self::Array(WriterBuilder::new().with_explicit_nulls(true).build(out))
    }

    pub(super) fn lines(out: Out) -> Self {
        Self::Lines(WriterBuilder::new().with_explicit_nulls(true).build(out))
    }
}

impl Encoder for JsonEncoder {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match self {
            Self::Array(writer) => writer.write(batch)?,
            Self::Lines(writer) => writer.write(batch)?,
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Shown> {
        match *self {
            Self::Array(mut writer) => {
                writer.finish()?;
                let mut out = writer.into_inner();
                out.write_all(b"\n")?;
                out.flush()?;
            }
            Self::Lines(mut writer) => {
                writer.finish()?;
                writer.into_inner().flush()?;
            }
        }
        Ok(Shown::default())
    }
}
