//! Tables in databases, SQLite and Postgres, and in lakes, Delta.
//!
//! Enters: where a table is, as a statement says it; rows that are inserted, replaced and deleted by key. Leaves: its
//! columns, its rows, and the number of the last epoch that it holds of a pipeline. Always holds: a password is in no
//! text that leaves; all rows of an epoch and the epoch's number are in one transaction.

mod address;
#[cfg(feature = "delta")]
mod delta;
mod lake;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;
mod types;
mod upsert;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::error::{Error, Result};
use crate::offset::Epoch;

pub use address::{Address, System};
#[cfg(feature = "delta")]
pub use delta::{LakeCommit, LakeFile, LakeFollower, append as append_to_lake, provider as lake_table};
pub use lake::{Lake, Version, time as version_time};
#[cfg(feature = "postgres")]
pub use postgres::{Change, Follower, Relation, Snapshot, Text, TextColumns, Transaction, filter_sql};
pub use types::{expect_same, in_types, stored};
pub use upsert::{Upserts, upserts};

/// The table in which a database keeps which epochs it holds.
pub const EPOCHS: &str = "_fuse_epochs";

/// What a database has under a table's name.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its columns, in the types that they are read in.
    pub columns: SchemaRef,
    /// The places of the columns of its primary key, in order.
    pub key: Vec<usize>,
    /// It says that its rows only come.
    pub append_only: bool,
}

/// Which rows are read, and of which columns.
#[derive(Debug, Clone)]
pub struct Query {
    /// The columns, in the types that are wanted.
    pub columns: SchemaRef,
    /// Conditions in the SQL of the database, all of which hold.
    pub filters: Vec<String>,
    /// So many rows at the most.
    pub limit: Option<usize>,
}

/// A connection to a database.
#[async_trait]
pub trait Connection: Send {
    /// What is there under a table's name.
    async fn look(&mut self, table: &str) -> Result<Option<Found>>;

    /// Makes a table.
    async fn create(&mut self, table: &str, columns: &SchemaRef, key: &[usize]) -> Result<()>;

    /// Begins a transaction.
    async fn begin(&mut self) -> Result<()>;

    /// Ends it, durably.
    async fn commit(&mut self) -> Result<()>;

    /// Ends it, and nothing of it has been.
    async fn rollback(&mut self) -> Result<()>;

    /// Inserts rows of columns of [`stored`] types; a row whose key is there is an error. `key`: the places of its columns.
    async fn insert(&mut self, table: &str, rows: &RecordBatch, key: &[usize]) -> Result<()>;

    /// Inserts rows, each in place of the one of its key.
    async fn replace(&mut self, table: &str, rows: &RecordBatch, key: &[usize]) -> Result<()>;

    /// Deletes the rows of these keys.
    async fn delete(&mut self, table: &str, keys: &RecordBatch) -> Result<()>;

    /// Makes the table of epochs, should it be missing.
    async fn make_epochs(&mut self) -> Result<()>;

    /// The last epoch that is there of a sink of a pipeline.
    async fn epoch(&mut self, sink: &SinkName) -> Result<Option<Epoch>>;

    /// Notes that a sink begins; `empty`: with a table without rows.
    async fn begin_epochs(&mut self, sink: &SinkName, empty: bool) -> Result<()>;

    /// Notes the last epoch.
    async fn set_epoch(&mut self, sink: &SinkName, epoch: Epoch) -> Result<()>;

    /// Forgets the sinks of a pipeline that wrote to a table. True if it was empty when they began, and no other
    /// pipeline writes there: all rows are theirs.
    async fn forget_epochs(&mut self, pipeline: &str, table: &str) -> Result<bool>;

    /// True if a table has no rows.
    async fn is_empty(&mut self, table: &str) -> Result<bool>;

    /// Deletes all rows.
    async fn clear(&mut self, table: &str) -> Result<()>;

    /// The rows of a table.
    async fn read(&mut self, table: &str, query: &Query) -> Result<BoxStream<'static, Result<RecordBatch>>>;

    /// True if it is of no use any more.
    fn is_lost(&self) -> bool {
        false
    }
}

/// A sink of a pipeline, as the table of epochs knows it.
#[derive(Debug, Clone, Default)]
pub struct SinkName {
    /// The identity of the pipeline.
    pub pipeline: String,
    /// The place of the statement in it.
    pub statement: u32,
    /// The table that it writes to.
    pub table: String,
}

/// Opens a connection. `make`: a database that is not there is made, where that can be.
pub async fn connect(address: &Address, make: bool) -> Result<Box<dyn Connection>> {
    match address.system() {
        #[cfg(feature = "sqlite")]
        System::Sqlite => Ok(Box::new(sqlite::Sqlite::open(address, make)?)),
        #[cfg(feature = "postgres")]
        System::Postgres => {
            let _ = make;
            Ok(Box::new(postgres::Postgres::connect(address).await?))
        }
        #[cfg(feature = "delta")]
        System::Delta => match address.lake() {
            Some(lake) => Ok(Box::new(delta::Delta::open(lake)?)),
            None => Err(Error::query(format!("{address} is no Delta table"))),
        },
        #[cfg(not(all(feature = "sqlite", feature = "postgres", feature = "delta")))]
        system => {
            let _ = make;
            Err(Error::sql(format!("this fuse was built without {}", system.name()))
                .hint("build it with its default features"))
        }
    }
}

/// What a database has under the name of a table; nothing also if there is no such database yet.
pub async fn look(address: &Address) -> Result<Option<Found>> {
    if address.is_missing() {
        return Ok(None);
    }
    connect(address, false).await?.look(address.table()).await
}

/// The connections of a pipeline: sinks that write to one database share one, and one transaction.
#[derive(Clone, Default)]
pub struct Connections(Arc<Mutex<HashMap<String, Shared>>>);

/// One connection, for all sinks that write there.
pub type Shared = Arc<tokio::sync::Mutex<Writing>>;

impl Connections {
    /// The one to that database.
    pub fn to(&self, address: &Address) -> Shared {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(tokio::sync::Mutex::new(Writing::new(address.clone())));
        Arc::clone(all.entry(address.database()).or_insert_with(new))
    }
}

/// A database that is written to, epoch by epoch.
pub struct Writing {
    address: Address,
    connection: Option<Box<dyn Connection>>,
    /// A transaction is under way.
    begun: bool,
}

impl Writing {
    fn new(address: Address) -> Self {
        Self { address, connection: None, begun: false }
    }

    /// The connection, outside of a transaction or in one.
    pub async fn connection(&mut self) -> Result<&mut dyn Connection> {
        let lost = self.connection.as_ref().is_some_and(|connection| connection.is_lost());
        if lost && self.begun {
            return Err(Error::query(format!("the connection to {} was lost", self.address))
                .hint("the same command goes on from the last epoch that is there"));
        }
        if lost {
            self.connection = None;
        }
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.address, true).await?,
        };
        Ok(self.connection.insert(connection).as_mut())
    }

    /// The connection, in a transaction.
    pub async fn transaction(&mut self) -> Result<&mut dyn Connection> {
        if !self.begun {
            self.connection().await?.begin().await?;
            self.begun = true;
        }
        self.connection().await
    }

    /// True if something is to be committed.
    pub fn is_begun(&self) -> bool {
        self.begun
    }

    /// Commits what all sinks have written.
    pub async fn commit(&mut self) -> Result<()> {
        if self.begun {
            self.connection().await?.commit().await?;
            self.begun = false;
        }
        Ok(())
    }
}

/// Makes a table if there is none, or refuses one of other columns; true if it was made.
pub async fn make_or_expect(
    connection: &mut dyn Connection,
    address: &Address,
    columns: &SchemaRef,
    key: &[usize],
) -> Result<bool> {
    match connection.look(address.table()).await? {
        Some(found) => expect_same(address, columns, key, &found).map(|()| false),
        None => connection.create(address.table(), columns, key).await.map(|()| true),
    }
}

/// A name as SQL writes it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as SQL writes it.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Names as a list in SQL.
pub(crate) fn name_list<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    names.into_iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ")
}

/// The statement that makes a table, should it not be there; `declared` is the type of a column in SQL.
pub(crate) fn create_sql(
    table: &str,
    columns: &SchemaRef,
    key: &[usize],
    declared: impl Fn(&DataType) -> String,
) -> String {
    let column = |(at, field): (usize, &FieldRef)| {
        let not_null = if field.is_nullable() && !key.contains(&at) { "" } else { " NOT NULL" };
        format!("{} {}{not_null}", quoted(field.name()), declared(field.data_type()))
    };
    let mut parts: Vec<String> = columns.fields().iter().enumerate().map(column).collect();
    if !key.is_empty() {
        let names = name_list(key.iter().map(|at| columns.field(*at).name()));
        parts.push(format!("PRIMARY KEY ({names})"));
    }
    format!("CREATE TABLE IF NOT EXISTS {table} ({})", parts.join(", "))
}
