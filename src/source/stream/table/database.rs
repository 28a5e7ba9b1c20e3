//! A table of a database, as a growing one.
//!
//! Enters: CREATE STREAM … STORED AS POSTGRES. Leaves: the table, with the columns and the key that it has there. Always
//! holds: a column is read in the type that it has, so that a change of it is noticed.

use datafusion::catalog::Session;
use datafusion::logical_expr::CreateExternalTable;

use super::super::ops::Upkeep;
use super::super::options::{StreamOptions, plain};
use super::{Kind, StreamTable, columns_there};
use crate::database::{Address, System, look};
use crate::error::{Error, Result};

impl StreamTable {
    /// A table of Postgres, with the columns and the key that it has there, or those of its columns that are declared.
    pub(in crate::source) async fn of_postgres(state: &dyn Session, cmd: &CreateExternalTable) -> Result<Self> {
        const LIMIT: &str = "max_rows_per_epoch";
        let address = Address::of(System::Postgres, &cmd.locations, &cmd.options, &[LIMIT])?;
        let limit = cmd.options.iter().filter(|(name, _)| plain(name) == LIMIT);
        let limit = limit.map(|(name, value)| (name.clone(), value.clone())).collect();
        let options = StreamOptions::read(&limit, &cmd.file_type)?;
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
        let kind = Kind::Postgres(Box::new(address));
        Ok(Self { kind, columns, options, found: true, upkeep: Some(upkeep), watermark: None, history: None })
    }
}
