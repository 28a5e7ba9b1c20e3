//! A table in a database.
//!
//! Enters: changes. Leaves: rows that are inserted, replaced and deleted by key, in one transaction an epoch for all
//! sinks that write to that database. Always holds: the number of the epoch is in the same transaction, so an epoch
//! is there once, however often it is written.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use futures::TryStreamExt;

use super::Sink;
use super::image::Image;
use crate::change::{Changes, consolidate, repeat};
use crate::database::{Address, Connections, Query, Shared, SinkName, in_types, look, make_or_expect, stored, upserts};
use crate::durable::step;
use crate::error::{Error, Result};
use crate::offset::Epoch;

/// A table that a statement writes to.
pub struct DatabaseSink {
    address: Address,
    shared: Shared,
    name: SinkName,
    /// The columns of the query, which are those of the table.
    columns: SchemaRef,
    /// The same as they are stored.
    stored: SchemaRef,
    key: Vec<usize>,
    taken: Vec<Changes>,
    /// The last epoch that is there.
    held: Epoch,
}

impl DatabaseSink {
    /// The sink of the statement at this place of its pipeline. `append_only`: its rows never go.
    pub fn new(
        address: Address,
        connections: &Connections,
        statement: u32,
        columns: SchemaRef,
        key: Vec<usize>,
        append_only: bool,
    ) -> Result<Self> {
        if key.is_empty() && !append_only {
            let table = address.table();
            return Err(Error::sql(format!("rows of this query change after they were written, and {table} has no key"))
                .note("by its key a row is found again that is to be replaced or deleted")
                .hint(format!(
                    "CREATE EXTERNAL TABLE … (…, PRIMARY KEY (…)): the columns that tell the rows of the query apart, such as those of its GROUP BY; a table {table} that is there needs that key too"
                )));
        }
        let name = SinkName { pipeline: String::new(), statement, table: address.table().to_owned() };
        let (shared, stored) = (connections.to(&address), stored(address.system(), &columns));
        Ok(Self { address, shared, name, columns, stored, key, taken: Vec::new(), held: 0 })
    }

    /// Writes an epoch into the transaction.
    async fn write(&mut self, changes: Vec<Changes>, epoch: Epoch) -> Result<()> {
        let mut shared = self.shared.lock().await;
        let connection = shared.transaction().await?;
        self.held = connection.epoch(&self.name).await?.unwrap_or(0);
        if self.held >= epoch {
            return Ok(());
        }
        step("sink.database.write.before")?;
        let table = self.address.table();
        for change in changes {
            if self.key.is_empty() {
                connection.insert(table, &in_types(&self.stored, &repeat(&change)?)?, &[]).await?;
                continue;
            }
            let change = Changes { rows: in_types(&self.stored, &change.rows)?, weights: change.weights };
            let upserts = upserts(&change, &self.key, table)?;
            connection.delete(table, &upserts.deletes).await?;
            connection.replace(table, &upserts.replaces, &self.key).await?;
            connection.insert(table, &upserts.inserts, &self.key).await?;
        }
        connection.set_epoch(&self.name, epoch).await?;
        self.held = epoch;
        Ok(step("sink.database.write.after")?)
    }
}

#[async_trait]
impl Sink for DatabaseSink {
    fn identify(&mut self, id: &str) {
        id.clone_into(&mut self.name.pipeline);
    }

    fn take(&mut self, changes: Vec<Changes>, shown: bool) -> Result<()> {
        if !shown {
            self.taken.extend(changes.into_iter().filter(|change| !change.is_empty()));
        }
        Ok(())
    }

    async fn stage(&mut self, epoch: Epoch, _now_micros: i64) -> Result<()> {
        let mut changes = std::mem::take(&mut self.taken);
        if !self.key.is_empty() {
            changes = consolidate(&self.columns, &changes)?.into_iter().collect();
        }
        if changes.is_empty() {
            return Ok(());
        }
        self.write(changes, epoch).await
    }

    async fn commit(&mut self, _epoch: Epoch) -> Result<()> {
        let mut shared = self.shared.lock().await;
        if !shared.is_begun() {
            return Ok(());
        }
        step("sink.database.commit.before")?;
        shared.commit().await?;
        Ok(step("sink.database.commit.after")?)
    }

    fn position(&self) -> serde_json::Value {
        serde_json::json!({ "epoch": self.held })
    }

    async fn resume(&mut self, position: &serde_json::Value) -> Result<()> {
        let logged = position["epoch"].as_u64().unwrap_or(0);
        let mut shared = self.shared.lock().await;
        let connection = shared.transaction().await?;
        connection.make_epochs().await?;
        let made = make_or_expect(connection, &self.address, &self.stored, &self.key).await?;
        let held = connection.epoch(&self.name).await?;
        self.held = held.unwrap_or(0);
        if self.held < logged || (made && self.held > 0) {
            connection.rollback().await?;
            let table = self.address.table();
            return Err(Error::query(format!("{}: the rows of {table} up to epoch {logged} are gone", self.address))
                .note("the pipeline wrote them there, and goes on behind them")
                .hint("restore the database, or write all of it once more with --fresh"));
        }
        if held.is_none() {
            let empty = made || connection.is_empty(self.address.table()).await?;
            connection.begin_epochs(&self.name, empty).await?;
        }
        step("sink.database.make.before")?;
        shared.commit().await?;
        Ok(step("sink.database.make.after")?)
    }

    async fn forget(&mut self, id: &str) -> Result<()> {
        let table = self.address.table();
        if look(&self.address).await?.is_none() {
            return Ok(());
        }
        let mut shared = self.shared.lock().await;
        let connection = shared.transaction().await?;
        connection.make_epochs().await?;
        if connection.forget_epochs(id, table).await? {
            connection.clear(table).await?;
        } else if !connection.is_empty(table).await? {
            return Err(Error::query(format!("{table} holds rows of others beside those of this pipeline"))
                .note("it had rows before the pipeline began, or another one writes there too")
                .hint(format!("delete from {table} what is not to stay, all of it, and say --fresh again")));
        }
        shared.commit().await
    }

    async fn shown(&mut self) -> Result<Option<Image>> {
        let columns = Arc::clone(&self.stored);
        if look(&self.address).await?.is_none() {
            return Ok(Some(Image { columns, rows: Vec::new() }));
        }
        let query = Query { columns: Arc::clone(&columns), filters: Vec::new(), limit: None };
        let rows = self.shared.lock().await.connection().await?.read(self.address.table(), &query).await?;
        let rows = rows.map_ok(Changes::inserted).try_collect().await?;
        Ok(Some(Image { columns, rows }))
    }

    fn image(&self, rows: &RecordBatch) -> Result<Vec<Changes>> {
        Ok(vec![Changes::inserted(in_types(&self.stored, rows)?)])
    }
}
