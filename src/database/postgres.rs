//! A server of Postgres.
//!
//! Enters: rows of stored types, statements of [`Connection`]. Leaves: rows, and what was done. Always holds: rows go
//! in and come out by COPY, as text, in a session whose settings say how values are written.

mod filter;
mod follow;
mod tls;
mod values;

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{SinkExt, StreamExt, pin_mut};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config};

use super::{Address, Connection, EPOCHS, Found, Query, SinkName, create_sql, name_list, quoted};
use tls::Tls;

use crate::error::{Error, Result};
use crate::offset::Epoch;

pub use filter::filter_sql;
pub use follow::{Change, Follower, Relation, Snapshot, Transaction};
pub use values::{Text, TextColumns};

/// How long a server has to answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes that are sent at a time.
const PIECE: usize = 256 * 1024;
/// The number of the lock under which tables are made.
const MAKING: i64 = 0x0066_7573_6500;
/// How values are written, whatever the server's settings are.
const SESSION: &str = "SET datestyle TO 'ISO, YMD'; SET timezone TO 'UTC'; SET intervalstyle TO 'postgres'; \
    SET bytea_output TO 'hex'; SET extra_float_digits TO 3; SET standard_conforming_strings TO on; \
    SET client_min_messages TO 'warning'";

/// A connection to a server.
pub(super) struct Postgres {
    address: Address,
    client: Arc<Client>,
}

/// Connects, and sets how values are written.
async fn client(address: &Address) -> Result<Client> {
    let wrong = || Error::sql(format!("{address} is no URL of a Postgres database"));
    let mut url = address.url().ok_or_else(wrong)?.clone();
    let tls = Tls::of(&mut url)?;
    let mut config: Config = url.as_str().parse().map_err(|error| wrong().note(format!("{error}")))?;
    if let Some(password) = address.password()? {
        config.password(password);
    }
    config.application_name("fuse");
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(PATIENCE);
    }
    config.ssl_mode(tls.mode);
    let connected = config.connect(tls.connector()?).await;
    let (client, connection) = connected.map_err(|error| unreachable(address, &error))?;
    // It ends with the client; what went wrong is told where an answer is awaited.
    tokio::spawn(async { drop(connection.await) });
    client.batch_execute(SESSION).await.map_err(|error| failed(address, &error))?;
    Ok(client)
}

fn unreachable(address: &Address, error: &tokio_postgres::Error) -> Error {
    let this = failed(address, error);
    match error.as_db_error() {
        Some(_) => this,
        None => {
            this.hint("is the server there, and are the host, the port and the password in LOCATION and OPTIONS right?")
        }
    }
}

fn failed(address: &Address, error: &tokio_postgres::Error) -> Error {
    let Some(db) = error.as_db_error() else {
        let cause = std::error::Error::source(error).map_or(String::new(), |cause| format!(": {cause}"));
        return Error::query(format!("{address}: {error}{cause}"));
    };
    let mut this = Error::query(format!("{address}: {}", db.message()));
    for more in [db.detail(), db.hint()].into_iter().flatten() {
        this = this.note(more);
    }
    match db.code().code() {
        "23505" => this
            .note(format!("a row of this key is in {} already", address.table()))
            .hint("a query whose rows have one key each may write there, to a table that nobody else fills; fuse query … --fresh empties a table that was empty when the pipeline began"),
        _ => this,
    }
}

/// A table's name in SQL: `schema.table`, or a name alone.
fn table_sql(table: &str) -> String {
    table.splitn(2, '.').map(quoted).collect::<Vec<_>>().join(".")
}

/// The type that a column is declared with.
fn declared(kind: &DataType) -> String {
    match kind {
        DataType::Boolean => "boolean",
        DataType::Int16 => "smallint",
        DataType::Int32 => "integer",
        DataType::Int64 => "bigint",
        DataType::Float32 => "real",
        DataType::Float64 => "double precision",
        DataType::Decimal128(digits, scale) => return format!("numeric({digits},{scale})"),
        DataType::Binary => "bytea",
        DataType::Date32 => "date",
        DataType::Time64(_) => "time",
        DataType::Timestamp(_, None) => "timestamp",
        DataType::Timestamp(_, Some(_)) => "timestamptz",
        _ => "text",
    }
    .to_owned()
}

/// The type in which a column of this type is read; as text, if there is no other.
fn read_as(kind: &str) -> DataType {
    let (name, rest) = kind.split_once('(').unwrap_or((kind, ""));
    let zone = kind.ends_with("with time zone");
    match name.trim().split(' ').next().unwrap_or_default() {
        _ if kind.ends_with(']') => DataType::Utf8,
        "boolean" => DataType::Boolean,
        "smallint" => DataType::Int16,
        "integer" => DataType::Int32,
        "bigint" | "oid" => DataType::Int64,
        "real" => DataType::Float32,
        "double" => DataType::Float64,
        "bytea" => DataType::Binary,
        "date" => DataType::Date32,
        "time" if !zone => DataType::Time64(TimeUnit::Microsecond),
        "timestamp" if zone => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, None),
        "numeric" => numeric(rest.trim_end_matches(')')),
        _ => DataType::Utf8,
    }
}

/// `10,2`, or nothing: then a number has ten digits behind the point, and one with more is an error.
fn numeric(text: &str) -> DataType {
    let parts = text.split_once(',').map(|(digits, scale)| (digits.trim().parse(), scale.trim().parse()));
    match parts {
        Some((Ok(digits @ 1..=38), Ok(scale @ 0..=38))) => DataType::Decimal128(digits, scale),
        Some(_) => DataType::Utf8,
        None => DataType::Decimal128(38, 10),
    }
}

impl Postgres {
    pub(super) async fn connect(address: &Address) -> Result<Self> {
        Ok(Self { address: address.clone(), client: Arc::new(client(address).await?) })
    }

    fn failed(&self, error: &tokio_postgres::Error) -> Error {
        failed(&self.address, error)
    }

    async fn run(&self, sql: &str) -> Result<()> {
        self.client.batch_execute(sql).await.map_err(|error| self.failed(&error))
    }

    async fn count(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<u64> {
        self.client.execute(sql, values).await.map_err(|error| self.failed(&error))
    }

    /// Sends rows to a table.
    async fn copy(&self, table: &str, rows: &RecordBatch) -> Result<()> {
        let schema = rows.schema();
        let names = name_list(schema.fields().iter().map(|field| field.name()));
        let sql = format!("COPY {table} ({names}) FROM STDIN");
        let copied = self.client.copy_in::<_, Bytes>(&sql).await;
        let sink = copied.map_err(|error| self.failed(&error))?;
        pin_mut!(sink);
        for piece in values::copy_text(rows, PIECE)? {
            sink.send(Bytes::from(piece)).await.map_err(|error| self.failed(&error))?;
        }
        sink.finish().await.map(drop).map_err(|error| self.failed(&error))
    }

    /// Sends rows to a table of the session's own, with columns of those of `table`; gives its name.
    async fn hand_over(&self, table: &str, rows: &RecordBatch) -> Result<String> {
        let own = quoted(&format!("_fuse_new_{}", table.replace('.', "_")));
        let of = table_sql(table);
        self.run(&format!("CREATE TEMP TABLE IF NOT EXISTS {own} AS SELECT * FROM {of} WITH NO DATA; TRUNCATE {own}"))
            .await?;
        self.copy(&own, rows).await?;
        Ok(own)
    }
}

#[async_trait]
impl Connection for Postgres {
    async fn look(&mut self, table: &str) -> Result<Option<Found>> {
        let sql = "SELECT a.attname, format_type(CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE a.atttypid END,
                CASE t.typtype WHEN 'd' THEN t.typtypmod ELSE a.atttypmod END), a.attnotnull,
                coalesce((SELECT array_position(i.indkey::int2[], a.attnum) FROM pg_index i
                    WHERE i.indrelid = a.attrelid AND i.indisprimary), -1)::int4
            FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
            WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
        let rows = self.client.query(sql, &[&table_sql(table)]).await.map_err(|error| self.failed(&error))?;
        if rows.is_empty() {
            return Ok(None);
        }
        let field = |row: &tokio_postgres::Row| {
            let (name, kind, not_null): (String, String, bool) = (row.get(0), row.get(1), row.get(2));
            Field::new(name, read_as(&kind), !not_null)
        };
        let columns = Arc::new(Schema::new(rows.iter().map(field).collect::<Vec<_>>()));
        let places = rows.iter().enumerate().map(|(at, row)| (row.get::<_, i32>(3), at));
        let mut key: Vec<(i32, usize)> = places.filter(|(place, _)| *place >= 0).collect();
        key.sort_unstable();
        Ok(Some(Found { columns, key: key.into_iter().map(|(_, at)| at).collect(), append_only: false }))
    }

    async fn create(&mut self, table: &str, columns: &SchemaRef, key: &[usize]) -> Result<()> {
        self.run(&create_sql(&table_sql(table), columns, key, declared)).await
    }

    async fn begin(&mut self) -> Result<()> {
        self.run("BEGIN").await
    }

    async fn commit(&mut self) -> Result<()> {
        self.run("COMMIT").await
    }

    async fn rollback(&mut self) -> Result<()> {
        self.run("ROLLBACK").await
    }

    async fn insert(&mut self, table: &str, rows: &RecordBatch, _key: &[usize]) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        self.copy(&table_sql(table), rows).await
    }

    async fn replace(&mut self, table: &str, rows: &RecordBatch, key: &[usize]) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let new = self.hand_over(table, rows).await?;
        let schema = rows.schema();
        let all = name_list(schema.fields().iter().map(|field| field.name()));
        let names = name_list(key.iter().map(|at| schema.field(*at).name()));
        let others = schema.fields().iter().enumerate().filter(|(at, _)| !key.contains(at));
        let set: Vec<String> = others.map(|(_, field)| format!("{0} = excluded.{0}", quoted(field.name()))).collect();
        let set = if set.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", set.join(", ")) };
        let table = table_sql(table);
        let sql = format!("INSERT INTO {table} ({all}) SELECT {all} FROM {new} ON CONFLICT ({names}) DO {set}");
        self.run(&sql).await
    }

    async fn delete(&mut self, table: &str, keys: &RecordBatch) -> Result<()> {
        if keys.num_rows() == 0 {
            return Ok(());
        }
        let gone = self.hand_over(table, keys).await?;
        let schema = keys.schema();
        let same = schema.fields().iter().map(|field| format!("t.{0} = g.{0}", quoted(field.name())));
        let same = same.collect::<Vec<_>>().join(" AND ");
        self.run(&format!("DELETE FROM {} t USING {gone} g WHERE {same}", table_sql(table))).await
    }

    async fn make_epochs(&mut self) -> Result<()> {
        // Two that make the same table at once would be in each other's way.
        self.run(&format!(
            "SELECT pg_advisory_xact_lock({MAKING});
             CREATE TABLE IF NOT EXISTS {EPOCHS} (pipeline text NOT NULL, statement bigint NOT NULL,
                \"table\" text NOT NULL, began_empty boolean NOT NULL, epoch bigint NOT NULL,
                PRIMARY KEY (pipeline, statement))"
        ))
        .await
    }

    async fn epoch(&mut self, sink: &SinkName) -> Result<Option<Epoch>> {
        let sql = format!("SELECT epoch FROM {EPOCHS} WHERE pipeline = $1 AND statement = $2");
        let row = self.client.query_opt(&sql, &[&sink.pipeline, &i64::from(sink.statement)]).await;
        let row = row.map_err(|error| self.failed(&error))?;
        Ok(row.map(|row| row.get::<_, i64>(0).unsigned_abs()))
    }

    async fn begin_epochs(&mut self, sink: &SinkName, empty: bool) -> Result<()> {
        let sql = format!("INSERT INTO {EPOCHS} VALUES ($1, $2, $3, $4, 0)");
        self.count(&sql, &[&sink.pipeline, &i64::from(sink.statement), &sink.table, &empty]).await.map(drop)
    }

    async fn set_epoch(&mut self, sink: &SinkName, epoch: Epoch) -> Result<()> {
        let sql = format!("UPDATE {EPOCHS} SET epoch = $1 WHERE pipeline = $2 AND statement = $3");
        let epoch = i64::try_from(epoch).unwrap_or(i64::MAX);
        self.count(&sql, &[&epoch, &sink.pipeline, &i64::from(sink.statement)]).await.map(drop)
    }

    async fn forget_epochs(&mut self, pipeline: &str, table: &str) -> Result<bool> {
        let sql = format!(
            "SELECT coalesce(bool_or(pipeline = $1 AND began_empty) AND NOT bool_or(pipeline <> $1), false)
             FROM {EPOCHS} WHERE \"table\" = $2"
        );
        let row = self.client.query_one(&sql, &[&pipeline, &table]).await.map_err(|error| self.failed(&error))?;
        let sql = format!("DELETE FROM {EPOCHS} WHERE pipeline = $1 AND \"table\" = $2");
        self.count(&sql, &[&pipeline, &table]).await?;
        Ok(row.get(0))
    }

    async fn is_empty(&mut self, table: &str) -> Result<bool> {
        let sql = format!("SELECT NOT EXISTS (SELECT 1 FROM {})", table_sql(table));
        Ok(self.client.query_one(&sql, &[]).await.map_err(|error| self.failed(&error))?.get(0))
    }

    async fn clear(&mut self, table: &str) -> Result<()> {
        self.run(&format!("DELETE FROM {}", table_sql(table))).await
    }

    async fn read(&mut self, table: &str, query: &Query) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let sql = format!("COPY ({}) TO STDOUT", select(table, query));
        let rows = self.client.copy_out(&sql).await.map_err(|error| self.failed(&error))?;
        let (client, address) = (Arc::clone(&self.client), self.address.clone());
        let bytes = rows.map(move |bytes| {
            // The connection ends with its last user.
            let _ = &client;
            bytes.map_err(|error| failed(&address, &error))
        });
        Ok(values::batches(Arc::clone(&query.columns), bytes.boxed()))
    }

    fn is_lost(&self) -> bool {
        self.client.is_closed()
    }
}

/// The SQL of a query.
fn select(table: &str, query: &Query) -> String {
    let names = query.columns.fields().iter().map(|field| match field.data_type() {
        // As conditions see them.
        DataType::Utf8 => format!("{}::text", quoted(field.name())),
        _ => quoted(field.name()),
    });
    let names = names.collect::<Vec<_>>().join(", ");
    let conditions = match query.filters.join(" AND ") {
        none if none.is_empty() => none,
        all => format!(" WHERE {all}"),
    };
    let limit = query.limit.map_or(String::new(), |limit| format!(" LIMIT {limit}"));
    format!("SELECT {names} FROM {}{conditions}{limit}", table_sql(table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_postgres_have_types_of_ours() {
        let stamp = |zone: Option<&str>| DataType::Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
        for (name, kind) in [
            ("integer", DataType::Int32),
            ("integer[]", DataType::Utf8),
            ("numeric(10,2)", DataType::Decimal128(10, 2)),
            ("numeric", DataType::Decimal128(38, 10)),
            ("numeric(50,2)", DataType::Utf8),
            ("timestamp(3) without time zone", stamp(None)),
            ("timestamp with time zone", stamp(Some("UTC"))),
            ("time without time zone", DataType::Time64(TimeUnit::Microsecond)),
            ("time with time zone", DataType::Utf8),
            ("character varying(20)", DataType::Utf8),
            ("double precision", DataType::Float64),
        ] {
            assert_eq!(read_as(name), kind, "{name}");
        }
    }
}
