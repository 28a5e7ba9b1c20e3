//! A Delta table, as a growing one.
//!
//! Enters: CREATE STREAM … STORED AS DELTA. Leaves: the table, with the columns that it has there, or those of them that
//! are declared. Always holds: a column is read in the type that it has; a table whose rows only come says so itself,
//! by its property delta.appendOnly, or by OPTIONS.

use arrow::datatypes::DataType;
use datafusion::catalog::Session;
use datafusion::logical_expr::CreateExternalTable;
use std::collections::HashMap;

use super::super::ops::Upkeep;
use super::super::options::{StreamOptions, plain};
use super::{Kind, StreamTable, Watermark, columns_there};
use crate::database::{Address, Lake, look};
use crate::error::{Error, Result};

const APPEND_ONLY: &str = "append_only";

/// Options of how the table is read, which say nothing of where it is.
const READING: [&str; 5] = ["max_rows_per_epoch", "watermark_for", "watermark", "late", "idle_timeout"];

impl StreamTable {
    /// A Delta table whose commits are followed.
    pub(in crate::source) async fn of_delta(
        state: &dyn Session,
        cmd: &CreateExternalTable,
        open: impl Fn(&[&str]) -> Result<Lake>,
    ) -> Result<Self> {
        let lake = open(&[&READING[..], &[APPEND_ONLY]].concat())?;
        if let Some(version) = lake.version() {
            return Err(Error::sql(format!("a stream goes on behind {version:?}"))
                .hint("leave 'version' and 'timestamp' out: it begins with all rows that are there"));
        }
        let reading = cmd.options.iter().filter(|(name, _)| READING.contains(&plain(name)));
        let reading: HashMap<String, String> = reading.map(|(name, value)| (name.clone(), value.clone())).collect();
        let options = StreamOptions::read(&reading, &cmd.file_type)?;
        let address = Address::of_lake(lake.clone());
        let found = look(&address).await?;
        let found = found.ok_or_else(|| Error::query(format!("there is no Delta table in {address}")))?;
        let columns = columns_there(state, cmd, &found.columns, &address.to_string(), DataType::equals_datatype)?;
        let append_only = match cmd.options.iter().find(|(name, _)| plain(name) == APPEND_ONLY) {
            Some((_, text)) => text.parse().map_err(|_| Error::sql("'append_only' is 'true' or 'false'"))?,
            None => found.append_only,
        };
        let upkeep = (!append_only).then(|| Upkeep::of_database(Vec::new()));
        let watermark = options.event_time.as_ref().map(|time| Watermark::new(state, time, &columns)).transpose()?;
        upkeep.as_ref().map_or(Ok(()), |upkeep| upkeep.check(&columns, watermark.is_some())).map_err(|error| {
            error.note("a Delta table whose rows only come says so: OPTIONS ('append_only' 'true'), or its property delta.appendOnly")
        })?;
        let kind = Kind::Delta { lake: Box::new(lake), history: false };
        Ok(Self { kind, columns, options, found: true, upkeep, watermark, history: None })
    }
}
