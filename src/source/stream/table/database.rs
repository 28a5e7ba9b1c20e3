//! A table of a database, as a growing one.
//!
//! Enters: CREATE STREAM … STORED AS POSTGRES. Leaves: the table, with the columns and the key that it has there. Always
//! holds: a column is read in the type that it has, so that a change of it is noticed.

use std::sync::Arc;

use datafusion::catalog::Session;
use datafusion::logical_expr::CreateExternalTable;

use super::super::ops::Upkeep;
use super::super::options::{StreamOptions, plain};
use super::{Kind, Remembered, StreamTable};
use crate::database::{Address, System, look};
use crate::error::{Error, Result, sql_type};

impl StreamTable {
    /// A table of Postgres, with the columns and the key that it has there, or those of its columns that are declared.
    pub(in crate::source) async fn of_postgres(state: &dyn Session, cmd: &CreateExternalTable) -> Result<Self> {
        const LIMIT: &str = "max_rows_per_epoch";
        let address = Address::of(System::Postgres, &cmd.locations, &cmd.options, &[LIMIT])?;
        let limit = cmd.options.iter().filter(|(name, _)| plain(name) == LIMIT);
        let limit = limit.map(|(name, value)| (name.clone(), value.clone())).collect();
        let options = StreamOptions::read(&limit, &cmd.file_type)?;
        let known = state.config().get_extension::<Remembered>().and_then(|known| known.get(&cmd.name.to_string()));
        let found = look(&address)
            .await?
            .ok_or_else(|| Error::query(format!("there is no table {} in {address}", address.table())))?;
        let declared = Arc::clone(cmd.schema.inner());
        let columns = match known {
            _ if !declared.fields().is_empty() => declared,
            Some(known) => known.columns,
            None => Arc::clone(&found.columns),
        };
        for field in columns.fields() {
            let there = found.columns.field_with_name(field.name()).ok();
            if there.is_none_or(|there| there.data_type() != field.data_type()) {
                let now =
                    there.map_or("is not there".to_owned(), |there| format!("is {}", sql_type(there.data_type())));
                let table = address.table();
                return Err(Error::query(format!("column {} of {table} {now}", field.name()))
                    .note(format!("here it is {}", sql_type(field.data_type())))
                    .hint("leave the columns out to take those of the table; a pipeline begins anew with --fresh"));
            }
        }
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
