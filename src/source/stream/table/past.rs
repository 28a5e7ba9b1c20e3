//! What comes before a stream.
//!
//! Enters: the path of BACKFILL FROM. Leaves: a table over the files there, or the Delta table. Always holds: its columns
//! are those of the stream.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::execution::SessionState;

use super::super::ops::Upkeep;
use super::super::options::StreamOptions;
use super::{FileFormat, Kind, StreamTable};
use crate::error::{Error, Result};
#[cfg(feature = "delta")]
use crate::source::lake_at;
use crate::source::{FileKind, Location};

impl StreamTable {
    /// The files of a history, or the Delta table, with the columns of its stream.
    pub(in crate::source::stream) fn of_history(
        from: &str,
        columns: &SchemaRef,
        options: &StreamOptions,
        upkeep: Option<Upkeep>,
        state: Option<&SessionState>,
    ) -> Result<Self> {
        let mut own = StreamOptions { on_error: options.on_error, ..StreamOptions::default() };
        #[cfg(feature = "delta")]
        if let (None, Some(state)) = (FileKind::of(from), state)
            && let lake = lake_at(from, state)?
            && !lake.lacks_log()
        {
            let kind = Kind::Delta { lake: Box::new(lake), history: true };
            let (columns, watermark, history) = (Arc::clone(columns), None, None);
            return Ok(Self { kind, columns, options: own, found: false, upkeep, watermark, history });
        }
        let _ = state;
        let Some(kind) = FileKind::of(from) else {
            return Err(Error::sql(format!("the format of the history '{from}' is not known"))
                .hint("name its files, BACKFILL FROM 'folder/*.parquet', or the folder of a Delta table"));
        };
        let format = match kind.format() {
            "PARQUET" => FileFormat::Parquet,
            "CSV" => FileFormat::Csv,
            "ARROW" => FileFormat::Arrow,
            "AVRO" => FileFormat::Avro,
            _ => FileFormat::Json,
        };
        own.dead_letter.clone_from(&options.dead_letter);
        if kind.ending == "tsv" {
            own.dialect.delimiter = b'\t';
        }
        let kind = Kind::Files { location: Box::new(Location::parse(from)?), format };
        let (columns, watermark, history) = (Arc::clone(columns), None, None);
        Ok(Self { kind, columns, options: own, found: false, upkeep, watermark, history })
    }
}
