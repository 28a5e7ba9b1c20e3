//! A table of a database, as a growing one.
//!
//! Enters: CREATE STREAM … STORED AS POSTGRES. Leaves: the table, with the columns and the key that it has there. Always
//! holds: a column is read in the type that it has, so that a change of it is noticed.

use datafusion::catalog::Session;
use datafusion::execution::SessionState;
use datafusion::logical_expr::CreateExternalTable;

use super::super::history::History;
use super::super::ops::Upkeep;
use super::super::options::{StreamOptions, plain};
use super::{Kind, StreamTable, columns_there};
use crate::database::{Address, System, look};
use crate::error::{Error, Result};

/// Options of how the table is read, which say nothing of where it is.
const READING: [&str; 4] = ["max_rows_per_epoch", "backfill_from", "backfill_up_to", "backfill_by"];

impl StreamTable {
    /// A table of Postgres, with the columns and the key that it has there, or those of its columns that are declared.
    pub(in crate::source) async fn of_postgres(state: &dyn Session, cmd: &CreateExternalTable) -> Result<Self> {
        let address = Address::of(System::Postgres, &cmd.locations, &cmd.options, &READING)?;
        let reading = cmd.options.iter().filter(|(name, _)| READING.contains(&plain(name)));
        let reading = reading.map(|(name, value)| (name.clone(), value.clone())).collect();
        let options = StreamOptions::read(&reading, &cmd.file_type)?;
        let found = look(&address)
            .await?
            .ok_or_else(|| Error::query(format!("there is no table {} in {address}", address.table())))?;
        let columns = columns_there(state, cmd, &found.columns, address.table(), PartialEq::eq)?;
        let key = found.key.iter().map(|at| columns.index_of(found.columns.field(*at).name()));
        let key = key.collect::<std::result::Result<Vec<_>, _>>().map_err(|_| {
            Error::sql("the columns that are declared lack some of the key of the table").hint("declare those, too")
        })?;
        let upkeep = Upkeep::of_database(key);
        upkeep.check(&columns, options.event_time.is_some())?;
        if upkeep.key.is_empty() && options.backfill.from.is_some() {
            return Err(Error::sql(format!(
                "{} has no PRIMARY KEY, by which its rows take the place of those of the history",
                address.table()
            ))
            .hint("give it one, or leave out BACKFILL FROM"));
        }
        let session = state.as_any().downcast_ref::<SessionState>();
        let history = History::of(&options, &columns, Some(&upkeep), session)?.map(Box::new);
        let kind = Kind::Postgres(Box::new(address));
        Ok(Self { kind, columns, options, found: true, upkeep: Some(upkeep), watermark: None, history })
    }
}
