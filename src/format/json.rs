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

use super::{Encoder, Shown};
use crate::error::Result;

type Out = Box<dyn Write + Send>;

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
