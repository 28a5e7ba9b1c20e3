//! A Delta table, as a growing one.
//!
//! Enters: CREATE STREAM … STORED AS DELTA. Leaves: the table, with the columns that it has there, or those of them that
//! are declared. Always holds: a column is read in the type that it has; a table whose rows only come says so itself,
//! by its property delta.appendOnly, or by OPTIONS.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::catalog::Session;
use datafusion::logical_expr::CreateExternalTable;

use super::super::ops::Upkeep;
use super::super::options::{StreamOptions, plain};
use super::{Kind, Remembered, StreamTable, Watermark};
use crate::database::{Address, Lake, look};
use crate::error::{Error, Result, sql_type};

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
        let known = state.config().get_extension::<Remembered>().and_then(|known| known.get(&cmd.name.to_string()));
        let address = Address::of_lake(lake.clone());
        let found = look(&address).await?;
        let found = found.ok_or_else(|| Error::query(format!("there is no Delta table in {address}")))?;
        let declared = Arc::clone(cmd.schema.inner());
        let columns = match known {
            _ if !declared.fields().is_empty() => declared,
            Some(known) => known.columns,
            None => Arc::clone(&found.columns),
        };
        for field in columns.fields() {
            let there = found.columns.field_with_name(field.name()).ok();
            if there.is_none_or(|there| !there.data_type().equals_datatype(field.data_type())) {
                let now =
                    there.map_or("is not there".to_owned(), |there| format!("is {}", sql_type(there.data_type())));
                return Err(Error::query(format!("column {} of {address} {now}", field.name()))
                    .note(format!("here it is {}", sql_type(field.data_type())))
                    .hint("leave the columns out to take those of the table; a pipeline begins anew with --fresh"));
            }
        }
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
