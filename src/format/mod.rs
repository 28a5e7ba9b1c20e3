//! Batches → bytes, for results that are printed or written by the command line.
//!
//! Enters: the batches of one result. Leaves: text or binary data on a writer. Always holds: an encoder
//! holds back no more than a window of rows, so memory does not grow with the result (a chart takes at most
//! [`crate::config::CHART_ROWS`]).
//! (Files of COPY are written by DataFusion's own sinks.)

mod binary;
mod carry;
mod cell;
pub mod csv;
mod debezium;
mod expanded;
mod fit;
mod json;
mod kind;
mod pack;
mod svg;
mod table;
mod text;
mod window;

use std::io::Write;
use std::str::FromStr;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;

use crate::error::{Error, Result};

pub use carry::{Carrier, carried, carry, is_nested, refuse_same_names, texts};
pub use debezium::{Envelopes, TimeUnit, Writing, Wrong};
pub use json::{JsonDecoder, Members, NOT_ONE_LINE, NOT_UTF8, Problem, Records, Shapes, WrongKind, json_objects};
pub use kind::type_name;
pub use pack::Packing;
pub use svg::refuse_many_rows;
pub use table::Shape;

pub use crate::chart::clip;

/// How a result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Aligned columns in a box.
    Table,
    /// A block of lines a row, a column a line.
    Expanded,
    /// Comma-separated values with a header; NULL is empty, an empty text is `""`, nested values are JSON.
    Csv,
    /// The same with tabs.
    Tsv,
    /// An array of objects.
    Json,
    /// An object a line.
    Ndjson,
    /// A Markdown table.
    Markdown,
    /// A Parquet file.
    Parquet,
    /// An Arrow IPC file, or a stream where the output is a pipe.
    Arrow,
    /// A chart.
    Svg,
}

impl Format {
    /// All of them, by the names that users give.
    pub const NAMES: [(&'static str, Format); 10] = [
        ("table", Format::Table),
        ("expanded", Format::Expanded),
        ("csv", Format::Csv),
        ("tsv", Format::Tsv),
        ("json", Format::Json),
        ("ndjson", Format::Ndjson),
        ("markdown", Format::Markdown),
        ("parquet", Format::Parquet),
        ("arrow", Format::Arrow),
        ("svg", Format::Svg),
    ];

    /// The format that a file's ending tells, before that of a compression.
    pub fn of_path(path: &str) -> Option<Self> {
        let (path, _) = Packing::split(path);
        let ending = path.rsplit('/').next()?.rsplit_once('.')?.1.to_ascii_lowercase();
        match ending.as_str() {
            "md" => Some(Format::Markdown),
            "jsonl" => Some(Format::Ndjson),
            "feather" | "ipc" => Some(Format::Arrow),
            "txt" => Some(Format::Table),
            other => other.parse().ok(),
        }
    }

    /// True for data that no terminal can show.
    pub fn is_binary(self) -> bool {
        matches!(self, Format::Parquet | Format::Arrow)
    }

    /// What decides how its values are carried; people read the others.
    fn carrier(self) -> Option<Carrier> {
        match self {
            Format::Table | Format::Expanded | Format::Markdown | Format::Svg => None,
            Format::Csv | Format::Tsv => Some(Carrier::Text),
            Format::Json | Format::Ndjson => Some(Carrier::Json),
            Format::Parquet => Some(Carrier::Parquet),
            Format::Arrow => Some(Carrier::Arrow),
        }
    }

    /// True if two results one after the other are still a file of this format.
    pub fn concatenates(self) -> bool {
        !matches!(self, Format::Parquet | Format::Arrow | Format::Json | Format::Svg)
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = Self::NAMES.iter().find(|(known, _)| name.eq_ignore_ascii_case(known));
        known.map(|(_, format)| *format).ok_or_else(|| {
            let names: Vec<&str> = Self::NAMES.iter().map(|(name, _)| *name).collect();
            Error::usage(format!("format '{name}' is not known")).hint(format!("formats are {}", names.join(", ")))
        })
    }
}

/// Writes the batches of one result.
pub trait Encoder: Send {
    /// Writes a batch.
    fn write(&mut self, batch: &RecordBatch) -> Result<()>;
    /// Writes what is held back, though more may come.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
    /// Writes what is held back and the end; says what was left out.
    fn finish(self: Box<Self>) -> Result<Shown>;
}

/// How much of a result was shown, where it was not all of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shown {
    /// Rows, if some were left out.
    pub rows: Option<usize>,
    /// Columns, if some were left out.
    pub columns: Option<usize>,
}

/// An encoder of `format` for a result with these columns. `pipe`: the reader cannot seek.
pub fn encoder(
    format: Format,
    schema: &SchemaRef,
    out: Box<dyn Write + Send>,
    shape: Shape,
    pipe: bool,
) -> Result<Box<dyn Encoder>> {
    let carrier = format.carrier();
    // People see two columns where programs would see one.
    if !pipe || !matches!(carrier, None | Some(Carrier::Text)) {
        refuse_same_names(schema)?;
    }
    let carried = carrier.map_or_else(|| Ok(SchemaRef::clone(schema)), |carrier| carrier.schema(schema))?;
    let inner: Box<dyn Encoder> = match format {
        Format::Table => Box::new(table::TableEncoder::new(&carried, out, shape)),
        Format::Expanded => Box::new(expanded::ExpandedEncoder::new(&carried, out, shape)),
        Format::Markdown => Box::new(table::MarkdownEncoder::new(&carried, out)?),
        Format::Csv => Box::new(text::TextEncoder::new(&carried, out, b',')?),
        Format::Tsv => Box::new(text::TextEncoder::new(&carried, out, b'\t')?),
        Format::Json => Box::new(json::JsonEncoder::array(out)),
        Format::Ndjson => Box::new(json::JsonEncoder::lines(out)),
        Format::Parquet => Box::new(binary::ParquetEncoder::new(&carried, out)?),
        Format::Svg => Box::new(svg::SvgEncoder::new(&carried, out)),
        Format::Arrow if pipe => Box::new(binary::ArrowStreamEncoder::new(&carried, out)?),
        Format::Arrow => Box::new(binary::ArrowFileEncoder::new(&carried, out)?),
    };
    Ok(if carried == *schema { inner } else { Box::new(carry::Carried { schema: carried, inner }) })
}
