//! A database that is one file.
//!
//! Enters: rows of stored types, statements of [`Connection`]. Leaves: rows, and what was done. Always holds: a commit
//! is synced before it returns; a database that fuse makes keeps a write-ahead log, so that who reads does not wait
//! for who writes.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, Float64Builder, Int64Builder, RecordBatch, StringArray, StringBuilder,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use rusqlite::types::{ToSqlOutput, Value, ValueRef};
use rusqlite::{Connection as Rusqlite, OpenFlags, OptionalExtension, ToSql, params, params_from_iter};

use super::{Address, Connection, EPOCHS, Found, Query, SinkName, create_sql, literal, name_list, quoted};
use crate::change::with_columns;
use crate::error::{Error, Result};
use crate::format::texts;
use crate::offset::Epoch;

/// How long a writer waits for another one.
const PATIENCE: Duration = Duration::from_secs(60);
/// Rows of a batch.
const BATCH_ROWS: usize = 8192;

/// A connection to a file.
pub(super) struct Sqlite {
    address: Address,
    inner: Rusqlite,
}

impl Sqlite {
    pub(super) fn open(address: &Address, make: bool) -> Result<Self> {
        let path = address.path();
        let new = address.is_missing();
        if let Some(folder) = path.parent().filter(|_| make) {
            std::fs::create_dir_all(folder).map_err(|error| Error::io(folder.display(), &error))?;
        }
        let access = match make {
            true => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
            false => OpenFlags::SQLITE_OPEN_READ_ONLY,
        };
        let failed = |error| failed(address, &error);
        let inner = Rusqlite::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(failed)?;
        inner.busy_timeout(PATIENCE).map_err(failed)?;
        if make {
            // The name of a new file is synced with its log.
            let log = if new { "PRAGMA journal_mode = WAL; " } else { "" };
            inner.execute_batch(&format!("{log}PRAGMA synchronous = FULL;")).map_err(failed)?;
        }
        Ok(Self { address: address.clone(), inner })
    }

    fn failed(&self, error: &rusqlite::Error) -> Error {
        failed(&self.address, error)
    }

    fn run(&self, sql: &str) -> Result<()> {
        self.inner.execute_batch(sql).map_err(|error| self.failed(&error))
    }

    /// Runs a statement once a row.
    fn each(&self, sql: &str, rows: &RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let columns = rows.columns().iter().map(Cells::of).collect::<Result<Vec<_>>>()?;
        let mut statement = self.inner.prepare(sql).map_err(|error| self.failed(&error))?;
        for row in 0..rows.num_rows() {
            let cells = columns.iter().zip(rows.schema_ref().fields()).map(|(cells, field)| cells.at(row, field));
            let cells = cells.collect::<Result<Vec<_>>>()?;
            statement.execute(params_from_iter(cells)).map_err(|error| self.failed(&error))?;
        }
        Ok(())
    }
}

fn failed(address: &Address, error: &rusqlite::Error) -> Error {
    use rusqlite::ErrorCode::{ConstraintViolation, DatabaseBusy, DatabaseLocked, DiskFull, NotADatabase};
    let text = error.to_string();
    let this = Error::query(format!("{address}: {text}"));
    match error.sqlite_error_code() {
        Some(ConstraintViolation) if text.contains("UNIQUE") => {
            Error::query(format!("{address}: a row of this key is in {} already: {text}", address.table()))
                .hint("a query whose rows have one key each may write there, to a table that nobody else fills; fuse query … --fresh empties a table that was empty when the pipeline began")
        }
        Some(DatabaseBusy | DatabaseLocked) => this.hint("another program holds the database: end its transaction"),
        Some(NotADatabase) => this.hint("STORED AS SQLITE is a SQLite database; files of rows have other formats"),
        Some(DiskFull) => Error::io(address, &std::io::Error::from(std::io::ErrorKind::StorageFull)),
        _ => this,
    }
}

/// The values of a column, as they are bound.
enum Cells<'a> {
    Whole(arrow::array::Int64Array),
    Real(arrow::array::Float64Array),
    Bytes(&'a arrow::array::BinaryArray),
    Text(StringArray),
}

/// A value that is bound.
enum Cell<'a> {
    Null,
    Whole(i64),
    Real(f64),
    Bytes(&'a [u8]),
    Text(&'a str),
}

impl ToSql for Cell<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Cell::Null => ToSqlOutput::Owned(Value::Null),
            Cell::Whole(value) => ToSqlOutput::Owned(Value::Integer(*value)),
            Cell::Real(value) => ToSqlOutput::Owned(Value::Real(*value)),
            Cell::Bytes(value) => ToSqlOutput::Borrowed(ValueRef::Blob(value)),
            Cell::Text(value) => ToSqlOutput::Borrowed(ValueRef::Text(value.as_bytes())),
        })
    }
}

impl<'a> Cells<'a> {
    fn of(column: &'a ArrayRef) -> Result<Self> {
        let cast = |to: &DataType| cast_with_options(column, to, &CastOptions { safe: false, ..Default::default() });
        Ok(match column.data_type() {
            DataType::Boolean | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
                Cells::Whole(cast(&DataType::Int64)?.as_primitive::<Int64Type>().clone())
            }
            DataType::Float32 | DataType::Float64 => {
                Cells::Real(cast(&DataType::Float64)?.as_primitive::<Float64Type>().clone())
            }
            DataType::Binary => Cells::Bytes(column.as_binary::<i32>()),
            DataType::Utf8 => Cells::Text(column.as_string::<i32>().clone()),
            // Texts of dates and times are in the order of time.
            _ => {
                let texts = texts(column, "")?;
                let kept = (0..column.len()).map(|row| column.is_valid(row).then(|| texts.value(row)));
                Cells::Text(kept.collect())
            }
        })
    }

    fn at(&self, row: usize, field: &Field) -> Result<Cell<'_>> {
        let null = match self {
            Cells::Whole(values) => values.is_null(row),
            Cells::Real(values) => values.is_null(row),
            Cells::Bytes(values) => values.is_null(row),
            Cells::Text(values) => values.is_null(row),
        };
        if null {
            return Ok(Cell::Null);
        }
        Ok(match self {
            Cells::Whole(values) => Cell::Whole(values.value(row)),
            Cells::Real(values) if values.value(row).is_nan() => {
                return Err(Error::query(format!("{}: SQLite has no NaN", field.name()))
                    .hint(format!("NULLIF({0}, 'NaN') AS {0} writes NULL", field.name())));
            }
            Cells::Real(values) => Cell::Real(values.value(row)),
            Cells::Bytes(values) => Cell::Bytes(values.value(row)),
            Cells::Text(values) => Cell::Text(values.value(row)),
        })
    }
}

/// The type that a column is declared with. Decimals are texts, since SQLite's numbers would not hold them.
fn declared(kind: &DataType) -> String {
    match kind {
        DataType::Boolean => "BOOLEAN".to_owned(),
        DataType::Int16 => "SMALLINT".to_owned(),
        DataType::Int32 => "INTEGER".to_owned(),
        DataType::Int64 => "BIGINT".to_owned(),
        DataType::Float32 => "FLOAT".to_owned(),
        DataType::Float64 => "DOUBLE".to_owned(),
        DataType::Decimal128(digits, scale) => format!("DECIMAL TEXT({digits},{scale})"),
        DataType::Binary => "BLOB".to_owned(),
        DataType::Date32 => "DATE".to_owned(),
        DataType::Time64(_) => "TIME".to_owned(),
        DataType::Timestamp(_, None) => "TIMESTAMP".to_owned(),
        DataType::Timestamp(_, Some(_)) => "TIMESTAMPTZ".to_owned(),
        _ => "TEXT".to_owned(),
    }
}

/// The type in which a column of this declaration is read.
fn read_as(declared: &str) -> DataType {
    let name = declared.to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
    if let Some(numbers) = name.strip_prefix("DECIMAL TEXT(").and_then(|rest| rest.strip_suffix(')'))
        && let Some((digits, scale)) = numbers.split_once(',')
        && let (Ok(digits), Ok(scale)) = (digits.trim().parse(), scale.trim().parse())
    {
        return DataType::Decimal128(digits, scale);
    }
    if has(&["INT"]) {
        DataType::Int64
    } else if has(&["CHAR", "CLOB", "TEXT", "JSON", "UUID"]) {
        DataType::Utf8
    } else if name.is_empty() || has(&["BLOB", "BINARY"]) {
        if name.is_empty() { DataType::Utf8 } else { DataType::Binary }
    } else if has(&["BOOL"]) {
        DataType::Boolean
    } else if has(&["TIMESTAMPTZ", "WITH TIME ZONE"]) {
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
    } else if has(&["TIMESTAMP", "DATETIME"]) {
        DataType::Timestamp(TimeUnit::Microsecond, None)
    } else if has(&["DATE"]) {
        DataType::Date32
    } else if has(&["TIME"]) {
        DataType::Time64(TimeUnit::Microsecond)
    } else {
        DataType::Float64
    }
}

#[async_trait]
impl Connection for Sqlite {
    async fn look(&mut self, table: &str) -> Result<Option<Found>> {
        let failed = |error| self.failed(&error);
        let sql = format!("SELECT name, type, \"notnull\", pk FROM pragma_table_info({}) ORDER BY cid", literal(table));
        let mut statement = self.inner.prepare(&sql).map_err(failed)?;
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
        let rows = statement.query_map([], row).map_err(failed)?;
        let rows: Vec<(String, String, bool, u32)> = rows.collect::<rusqlite::Result<_>>().map_err(failed)?;
        if rows.is_empty() {
            return Ok(None);
        }
        let fields = rows.iter().map(|(name, kind, not_null, _)| Field::new(name, read_as(kind), !not_null));
        let columns = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let mut key: Vec<(u32, usize)> =
            rows.iter().enumerate().filter(|(_, row)| row.3 > 0).map(|(at, row)| (row.3, at)).collect();
        key.sort_unstable();
        Ok(Some(Found { columns, key: key.into_iter().map(|(_, at)| at).collect(), append_only: false }))
    }

    async fn create(&mut self, table: &str, columns: &SchemaRef, key: &[usize]) -> Result<()> {
        self.run(&create_sql(&quoted(table), columns, key, declared))
    }

    async fn begin(&mut self) -> Result<()> {
        self.run("BEGIN IMMEDIATE")
    }

    async fn commit(&mut self) -> Result<()> {
        self.run("COMMIT")
    }

    async fn rollback(&mut self) -> Result<()> {
        if self.inner.is_autocommit() { Ok(()) } else { self.run("ROLLBACK") }
    }

    async fn insert(&mut self, table: &str, rows: &RecordBatch, _key: &[usize]) -> Result<()> {
        self.each(&insert_sql(table, &rows.schema()), rows)
    }

    async fn replace(&mut self, table: &str, rows: &RecordBatch, key: &[usize]) -> Result<()> {
        let schema = rows.schema();
        let names = name_list(key.iter().map(|at| schema.field(*at).name()));
        let others = schema.fields().iter().enumerate().filter(|(at, _)| !key.contains(at));
        let set: Vec<String> = others.map(|(_, field)| format!("{0} = excluded.{0}", quoted(field.name()))).collect();
        let set = if set.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", set.join(", ")) };
        self.each(&format!("{} ON CONFLICT ({names}) DO {set}", insert_sql(table, &schema)), rows)
    }

    async fn delete(&mut self, table: &str, keys: &RecordBatch) -> Result<()> {
        let schema = keys.schema();
        let conditions = schema.fields().iter().map(|field| format!("{} = ?", quoted(field.name())));
        let conditions = conditions.collect::<Vec<_>>().join(" AND ");
        self.each(&format!("DELETE FROM {} WHERE {conditions}", quoted(table)), keys)
    }

    async fn make_epochs(&mut self) -> Result<()> {
        self.run(&format!(
            "CREATE TABLE IF NOT EXISTS {EPOCHS} (pipeline TEXT NOT NULL, statement INTEGER NOT NULL,
                \"table\" TEXT NOT NULL, began_empty BOOLEAN NOT NULL, epoch BIGINT NOT NULL, PRIMARY KEY (pipeline, statement))"
        ))
    }

    async fn epoch(&mut self, sink: &SinkName) -> Result<Option<Epoch>> {
        let sql = format!("SELECT epoch FROM {EPOCHS} WHERE pipeline = ? AND statement = ?");
        let epoch = self.inner.query_row(&sql, params![sink.pipeline, sink.statement], |row| row.get::<_, i64>(0));
        let epoch = epoch.optional().map_err(|error| self.failed(&error))?;
        Ok(epoch.map(|epoch| epoch.unsigned_abs()))
    }

    async fn begin_epochs(&mut self, sink: &SinkName, empty: bool) -> Result<()> {
        let sql = format!("INSERT INTO {EPOCHS} VALUES (?, ?, ?, ?, 0)");
        let done = self.inner.execute(&sql, params![sink.pipeline, sink.statement, sink.table, empty]);
        done.map(drop).map_err(|error| self.failed(&error))
    }

    async fn set_epoch(&mut self, sink: &SinkName, epoch: Epoch) -> Result<()> {
        let sql = format!("UPDATE {EPOCHS} SET epoch = ? WHERE pipeline = ? AND statement = ?");
        let epoch = i64::try_from(epoch).unwrap_or(i64::MAX);
        let done = self.inner.execute(&sql, params![epoch, sink.pipeline, sink.statement]);
        done.map(drop).map_err(|error| self.failed(&error))
    }

    async fn forget_epochs(&mut self, pipeline: &str, table: &str) -> Result<bool> {
        let count = |condition: &str| -> Result<i64> {
            let sql = format!("SELECT count(*) FROM {EPOCHS} WHERE \"table\" = ? AND {condition}");
            let count = self.inner.query_row(&sql, params![table, pipeline], |row| row.get(0));
            count.map_err(|error| self.failed(&error))
        };
        let all_are_theirs = count("pipeline = ? AND began_empty")? > 0 && count("pipeline <> ?")? == 0;
        let sql = format!("DELETE FROM {EPOCHS} WHERE pipeline = ? AND \"table\" = ?");
        self.inner.execute(&sql, params![pipeline, table]).map_err(|error| self.failed(&error))?;
        Ok(all_are_theirs)
    }

    async fn is_empty(&mut self, table: &str) -> Result<bool> {
        let sql = format!("SELECT NOT EXISTS (SELECT 1 FROM {})", quoted(table));
        self.inner.query_row(&sql, [], |row| row.get(0)).map_err(|error| self.failed(&error))
    }

    async fn clear(&mut self, table: &str) -> Result<()> {
        self.run(&format!("DELETE FROM {}", quoted(table)))
    }

    async fn read(&mut self, table: &str, query: &Query) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let address = self.address.clone();
        let names = query.columns.fields().iter().map(|field| quoted(field.name())).collect::<Vec<_>>();
        let names = if names.is_empty() { "1".to_owned() } else { names.join(", ") };
        let limit = query.limit.map_or(String::new(), |limit| format!(" LIMIT {limit}"));
        let sql = format!("SELECT {names} FROM {}{limit}", quoted(table));
        let columns = Arc::clone(&query.columns);
        let (sender, receiver) = tokio::sync::mpsc::channel(2);
        tokio::task::spawn_blocking(move || {
            let done = Self::open(&address, false).and_then(|it| it.send(&sql, &columns, &sender));
            if let Err(error) = done {
                // Nobody may be reading any more.
                let _ = sender.blocking_send(Err(error));
            }
        });
        let next =
            |mut receiver: tokio::sync::mpsc::Receiver<_>| async { receiver.recv().await.map(|it| (it, receiver)) };
        Ok(futures::stream::unfold(receiver, next).boxed())
    }
}

fn insert_sql(table: &str, columns: &Schema) -> String {
    let names = name_list(columns.fields().iter().map(|field| field.name()));
    let marks = vec!["?"; columns.fields().len()].join(", ");
    format!("INSERT INTO {} ({names}) VALUES ({marks})", quoted(table))
}

type Sender = tokio::sync::mpsc::Sender<Result<RecordBatch>>;

impl Sqlite {
    /// Sends the rows of a query, batch by batch.
    fn send(&self, sql: &str, columns: &SchemaRef, sender: &Sender) -> Result<()> {
        let failed = |error| self.failed(&error);
        let mut statement = self.inner.prepare(sql).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        let new = || columns.fields().iter().map(|field| Builder::of(field.data_type())).collect::<Vec<_>>();
        let (mut builders, mut count) = (new(), 0);
        while let Some(row) = rows.next().map_err(failed)? {
            for (at, (builder, field)) in builders.iter_mut().zip(columns.fields()).enumerate() {
                builder.push(row.get_ref(at).map_err(failed)?, field)?;
            }
            count += 1;
            if count == BATCH_ROWS {
                let full = std::mem::replace(&mut builders, new());
                if sender.blocking_send(finish(columns, full, count)).is_err() {
                    return Ok(());
                }
                count = 0;
            }
        }
        if count > 0 {
            let _ = sender.blocking_send(finish(columns, builders, count));
        }
        Ok(())
    }
}

fn finish(columns: &SchemaRef, builders: Vec<Builder>, count: usize) -> Result<RecordBatch> {
    let arrays = builders.into_iter().zip(columns.fields()).map(|(builder, field)| {
        let array = builder.finish();
        let named = |error: arrow::error::ArrowError| {
            let error = Error::from(error);
            Error { message: format!("column {}: {}", field.name(), error.message), ..error }
        };
        cast_with_options(&array, field.data_type(), &CastOptions { safe: false, ..Default::default() }).map_err(named)
    });
    with_columns(columns, arrays.collect::<Result<_>>()?, count)
}

/// The values of a column, in the kind that SQLite gives them in.
enum Builder {
    Whole(Int64Builder),
    Real(Float64Builder),
    Bytes(BinaryBuilder),
    Text(StringBuilder),
}

impl Builder {
    fn of(kind: &DataType) -> Self {
        match kind {
            DataType::Boolean => Builder::Whole(Int64Builder::new()),
            kind if kind.is_integer() => Builder::Whole(Int64Builder::new()),
            kind if kind.is_floating() => Builder::Real(Float64Builder::new()),
            kind if kind.is_binary() => Builder::Bytes(BinaryBuilder::new()),
            _ => Builder::Text(StringBuilder::new()),
        }
    }

    fn push(&mut self, value: ValueRef<'_>, field: &Field) -> Result<()> {
        match (&mut *self, value) {
            (Builder::Whole(values), ValueRef::Null) => values.append_null(),
            (Builder::Real(values), ValueRef::Null) => values.append_null(),
            (Builder::Bytes(values), ValueRef::Null) => values.append_null(),
            (Builder::Text(values), ValueRef::Null) => values.append_null(),
            (Builder::Whole(values), ValueRef::Integer(value)) => values.append_value(value),
            (Builder::Real(values), ValueRef::Real(value)) => values.append_value(value),
            (Builder::Real(values), ValueRef::Integer(value)) => values.append_value(value as f64),
            (Builder::Bytes(values), ValueRef::Blob(value) | ValueRef::Text(value)) => values.append_value(value),
            (Builder::Text(values), ValueRef::Integer(value)) => values.append_value(value.to_string()),
            (Builder::Text(values), ValueRef::Real(value)) => values.append_value(value.to_string()),
            (Builder::Text(values), ValueRef::Text(value)) => match std::str::from_utf8(value) {
                Ok(text) => values.append_value(text),
                Err(_) => return Err(Error::query(format!("column {}: a text is not UTF-8", field.name()))),
            },
            (_, value) => {
                return Err(Error::query(format!(
                    "column {} holds {:?}, and is read as {}",
                    field.name(),
                    value.data_type(),
                    crate::error::sql_type(field.data_type())
                ))
                .note("SQLite lets a column hold values of any type")
                .hint(format!("declare it: CREATE EXTERNAL TABLE … ({} VARCHAR, …)", field.name())));
            }
        }
        Ok(())
    }

    fn finish(self) -> ArrayRef {
        match self {
            Builder::Whole(mut values) => Arc::new(values.finish()),
            Builder::Real(mut values) => Arc::new(values.finish()),
            Builder::Bytes(mut values) => Arc::new(values.finish()),
            Builder::Text(mut values) => Arc::new(values.finish()),
        }
    }
}
