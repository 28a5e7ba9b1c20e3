//! BACKFILL FROM, as it is declared.
//!
//! Enters: OPTIONS that the clause became. Leaves: the table of the history, and the [`Backfill`] of both. Always holds:
//! both give the same columns, by their names.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::execution::SessionState;

use super::backfill::{Backfill, Seam};
use super::ops::Upkeep;
use super::options::{BackfillOptions, Start, StreamOptions};
use super::{Source, StreamTable};
use crate::change::RowEncoder;
use crate::error::{Error, Result, near_name};

/// Opens the source of one table, of these of its columns.
type OpenAlone<'a> = dyn Fn(&StreamTable, &[usize]) -> Result<Box<dyn Source>> + 'a;

/// A history, and how it is told where it ends.
#[derive(Debug)]
pub(super) struct History {
    /// Its files.
    pub(super) table: StreamTable,
    up_to: Option<String>,
    /// The places of the columns of DEDUPLICATE BY.
    by: Vec<usize>,
}

impl History {
    /// What the options of a stream say; nothing if it has no history.
    pub(super) fn of(
        options: &StreamOptions,
        columns: &SchemaRef,
        upkeep: Option<&Upkeep>,
        state: Option<&SessionState>,
    ) -> Result<Option<Self>> {
        let BackfillOptions { from: Some(from), up_to, by } = &options.backfill else { return Ok(None) };
        if options.kafka.start == Start::Latest {
            return Err(Error::sql("'start' 'latest' would leave out what comes while the history is read")
                .hint("('start' '2026-01-31 12:00:00') or 'earliest', with UP TO or DEDUPLICATE BY"));
        }
        if options.evolve {
            return Err(
                Error::sql("'schema' 'evolve' does not go with BACKFILL FROM").hint("declare the columns of both")
            );
        }
        if upkeep.is_some() && (up_to.is_some() || by.is_some()) {
            return Err(Error::sql("rows that change take the place of those of the history by their PRIMARY KEY")
                .hint("leave out UP TO and DEDUPLICATE BY"));
        }
        let find = |name: &str| {
            columns.index_of(name).map_err(|_| {
                let error = Error::sql(format!("DEDUPLICATE BY {name}, which is no column of the table"));
                match near_name(name, columns.fields().iter().map(|field| field.name().as_str())) {
                    Some(near) => error.hint(format!("did you mean {near}?")),
                    None => error,
                }
            })
        };
        let by = by.iter().flat_map(|by| by.split('\n')).map(find).collect::<Result<Vec<_>>>()?;
        let upkeep = upkeep.map(Upkeep::of_history);
        let history =
            Self { table: StreamTable::of_history(from, columns, options, upkeep, state)?, up_to: up_to.clone(), by };
        if let Some(state) = state {
            history.seam(&(0..columns.fields().len()).collect::<Vec<_>>(), columns, state)?;
        }
        Ok(Some(history))
    }

    /// In words: a state that was made with one history is not used with another.
    pub(super) fn describe(&self) -> String {
        let up_to = self.up_to.as_ref().map_or(String::new(), |up_to| format!(" up to {up_to}"));
        let by = if self.by.is_empty() { String::new() } else { format!(" deduplicated by {:?}", self.by) };
        format!(" behind {}{up_to}{by}", self.table.describe())
    }

    /// The columns that both must read where these are wanted, in the order of the table.
    fn read(&self, wanted: &[usize], columns: &SchemaRef, state: &SessionState) -> Result<Vec<usize>> {
        let mut read: Vec<usize> = wanted.iter().chain(&self.by).copied().collect();
        if let Some(up_to) = &self.up_to {
            let expr = state.create_logical_expr(up_to, &DFSchema::try_from(Arc::clone(columns))?)?;
            for column in expr.column_refs() {
                read.push(columns.index_of(&column.name)?);
            }
        }
        read.sort_unstable();
        read.dedup();
        Ok(read)
    }

    /// Where both meet, over these columns of the table.
    fn seam(&self, read: &[usize], columns: &SchemaRef, state: &SessionState) -> Result<Seam> {
        if let Some(up_to) = &self.up_to {
            let schema = DFSchema::try_from(columns.project(read)?)?;
            let expr = state.create_logical_expr(up_to, &schema).map_err(Error::from);
            let expr = expr.and_then(|expr| Ok(state.create_physical_expr(expr, &schema)?));
            let expr = expr.map_err(|error| error.note("UP TO is a condition of the table's columns"))?;
            if expr.data_type(schema.as_arrow())? != DataType::Boolean {
                return Err(Error::sql(format!("UP TO {up_to}: it is no condition")).hint(
                    "such as UP TO ts < TIMESTAMP '2026-01-01': rows for which it holds are taken from the history",
                ));
            }
            return Ok(Seam::UpTo(expr));
        }
        if self.by.is_empty() {
            return Ok(Seam::None);
        }
        let place = |at: &usize| read.binary_search(at).unwrap_or_default();
        let encoder = RowEncoder::new(self.by.iter().map(|at| columns.field(*at).data_type().clone()))?;
        Ok(Seam::Keys { places: self.by.iter().map(place).collect(), encoder, seen: Mutex::new(HashSet::new()) })
    }

    /// The source of both, of these columns of the table. `open` opens one of them.
    pub(super) fn open(
        &self,
        table: &StreamTable,
        wanted: &[usize],
        state: &SessionState,
        open: &OpenAlone<'_>,
    ) -> Result<Box<dyn Source>> {
        let columns = table.columns();
        let read = self.read(wanted, columns, state)?;
        let mut places: Vec<usize> = wanted.iter().map(|at| read.binary_search(at).unwrap_or_default()).collect();
        // What rows do stands behind them.
        places.extend(table.upkeep().map(|_| read.len()));
        let seam = self.seam(&read, columns, state)?;
        Ok(Box::new(Backfill::new(open(&self.table, &read)?, open(table, &read)?, seam, places)?))
    }
}
