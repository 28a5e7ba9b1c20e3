//! What changes in a table, by logical replication.
//!
//! Enters: a slot and a publication of fuse's own. Leaves: what was there when it began, and behind it each
//! transaction that has changed the table, in the order of commits. Always holds: looking does not move the slot, so
//! what was told is told again, until [`Follower::advance`].

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::values::{Text, batches};
use super::{client, failed, read_as, select, table_sql};
use crate::database::{Address, Query, quoted};
use crate::error::{Error, Result};

/// Which transactions a snapshot has seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// `xmin:xmax:xip,…`
    pub visible: String,
    /// No transaction that commits behind this place has been seen.
    pub lsn: u64,
}

impl Snapshot {
    /// True if it has seen that transaction, which is told by the lower half of its number.
    pub fn has_seen(&self, transaction: &Transaction) -> bool {
        if transaction.end_lsn > self.lsn {
            return false;
        }
        let mut parts = self.visible.split(':');
        let mut number = || parts.next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let (least, next) = (number(), number());
        let running: Vec<u64> = parts.next().unwrap_or("").split(',').filter_map(|text| text.parse().ok()).collect();
        // Nearer than half of all numbers to the next one.
        let ahead = transaction.xid.wrapping_sub(next as u32) as i32;
        let xid = next.wrapping_add_signed(i64::from(ahead));
        xid < least || (xid < next && !running.contains(&xid))
    }
}

/// The columns of a table, as a change tells them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// Their names, and the types that they are read in.
    pub columns: Vec<(String, DataType)>,
}

/// What a transaction did to the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// What follows is of these columns.
    Columns(Arc<Relation>),
    /// A new row.
    Insert(Vec<Text>),
    /// A row as it was, if that is told (all of it, or its key), and as it is.
    Update(Option<Vec<Text>>, Vec<Text>),
    /// A row as it was, or its key.
    Delete(Vec<Text>),
    /// All rows went.
    Truncate,
}

/// A transaction that has changed the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The lower half of its number.
    pub xid: u32,
    /// Behind its commit.
    pub end_lsn: u64,
    /// What it did.
    pub changes: Vec<Change>,
}

impl Transaction {
    /// How many rows it has changed.
    pub fn rows(&self) -> u64 {
        self.changes.iter().filter(|change| !matches!(change, Change::Columns(_))).count() as u64
    }
}

/// A connection that follows a table.
pub struct Follower {
    address: Address,
    client: Arc<Client>,
}

/// `16/B374D848`
pub(super) fn lsn_text(lsn: u64) -> String {
    format!("{:X}/{:X}", lsn >> 32, lsn & 0xFFFF_FFFF)
}

fn lsn_of(text: &str) -> Result<u64> {
    let halves = text
        .split_once('/')
        .and_then(|(high, low)| Some((u64::from_str_radix(high, 16).ok()? << 32) | u64::from_str_radix(low, 16).ok()?));
    halves.ok_or_else(|| Error::query(format!("the server names a place in its log as {text}")))
}

impl Follower {
    /// Connects.
    pub async fn connect(address: &Address) -> Result<Self> {
        Ok(Self { address: address.clone(), client: Arc::new(client(address).await?) })
    }

    async fn run(&self, sql: &str) -> Result<()> {
        self.client.batch_execute(sql).await.map_err(|error| failed(&self.address, &error))
    }

    async fn one(&self, sql: &str) -> Result<Option<String>> {
        let row = self.client.query_opt(sql, &[]).await.map_err(|error| failed(&self.address, &error))?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Refuses a table whose changes the server would not tell.
    pub async fn expect_followable(&self, has_key: bool) -> Result<()> {
        let level = self.one("SELECT setting FROM pg_settings WHERE name = 'wal_level'").await?;
        if level.as_deref() != Some("logical") {
            return Err(Error::query(format!("{}: its log does not tell what changes in tables", self.address))
                .hint("set wal_level = logical in postgresql.conf, and restart the server"));
        }
        let table = self.address.table();
        let sql = "SELECT relreplident::text || relkind::text FROM pg_class WHERE oid = to_regclass($1)";
        let row = self.client.query_opt(sql, &[&table_sql(table)]).await;
        let found = row.map_err(|error| failed(&self.address, &error))?.map(|row| row.get::<_, String>(0));
        let full = format!("ALTER TABLE {} REPLICA IDENTITY FULL", table_sql(table));
        match found.unwrap_or_default().as_str() {
            "fr" => Ok(()),
            "dr" if has_key => Ok(()),
            "dr" => {
                Err(Error::query(format!("{table} has no primary key, so it is not told which rows change and go"))
                    .hint(format!("give it one, or: {full}")))
            }
            "nr" | "ir" => {
                Err(Error::query(format!("the REPLICA IDENTITY of {table} is neither its key nor FULL")).hint(full))
            }
            _ => Err(Error::query(format!("{table} is no plain table, and has no changes of its own"))
                .hint("a partitioned table is followed by its partitions, a view by its tables")),
        }
    }

    /// Makes the slot and the publication of that name.
    pub async fn begin(&self, name: &str) -> Result<()> {
        let table = table_sql(self.address.table());
        self.run(&format!("CREATE PUBLICATION {} FOR TABLE {table}", quoted(name))).await?;
        let sql = format!("SELECT lsn::text FROM pg_create_logical_replication_slot('{name}', 'pgoutput')");
        self.one(&sql).await.map(drop)
    }

    /// Removes them, as far as they are there.
    pub async fn forget(&self, name: &str) -> Result<()> {
        let sql = format!(
            "SELECT pg_drop_replication_slot(slot_name)::text FROM pg_replication_slots WHERE slot_name = '{name}'"
        );
        self.one(&sql).await?;
        self.run(&format!("DROP PUBLICATION IF EXISTS {}", quoted(name))).await
    }

    /// True if the slot is there, and has all that comes behind that place.
    pub async fn holds(&self, name: &str, lsn: u64) -> Result<bool> {
        let sql = format!(
            "SELECT coalesce(confirmed_flush_lsn <= '{}'::pg_lsn AND wal_status <> 'lost', false)::text
             FROM pg_replication_slots WHERE slot_name = '{name}'",
            lsn_text(lsn)
        );
        Ok(self.one(&sql).await?.as_deref() == Some("true"))
    }

    /// Reads all rows, as of one moment behind [`Follower::begin`]; [`Follower::end_snapshot`] is behind it.
    pub async fn snapshot(&self, columns: &SchemaRef) -> Result<(String, BoxStream<'static, Result<RecordBatch>>)> {
        self.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let visible = self.one("SELECT pg_current_snapshot()::text").await?.unwrap_or_default();
        let query = Query { columns: Arc::clone(columns), filters: Vec::new(), limit: None };
        let sql = format!("COPY ({}) TO STDOUT", select(self.address.table(), &query));
        let rows = self.client.copy_out(&sql).await.map_err(|error| failed(&self.address, &error))?;
        let address = self.address.clone();
        let bytes = rows.map(move |bytes| bytes.map_err(|error| failed(&address, &error))).boxed();
        Ok((visible, batches(Arc::clone(columns), bytes)))
    }

    /// Ends the snapshot's transaction; gives a place in the log behind all that it has seen.
    pub async fn end_snapshot(&self) -> Result<u64> {
        self.run("COMMIT").await?;
        lsn_of(&self.one("SELECT pg_current_wal_insert_lsn()::text").await?.unwrap_or_default())
    }

    /// How far the log is written.
    pub async fn written(&self) -> Result<u64> {
        lsn_of(&self.one("SELECT pg_current_wal_flush_lsn()::text").await?.unwrap_or_default())
    }

    /// The transactions that end behind `from`, and not behind `to`.
    pub async fn peek(&self, name: &str, from: u64, to: u64) -> Result<Vec<Transaction>> {
        let sql = format!(
            "SELECT data FROM pg_logical_slot_peek_binary_changes('{name}', '{}'::pg_lsn, NULL,
                'proto_version', '1', 'publication_names', '{name}')",
            lsn_text(to)
        );
        let rows = self.client.query(&sql, &[]).await.map_err(|error| failed(&self.address, &error))?;
        let mut reader = Reader::default();
        for row in &rows {
            reader
                .message(row.get(0))
                .ok_or_else(|| Error::query("the server told a change that is not understood"))?;
        }
        let mut all = reader.done;
        all.retain(|transaction| transaction.end_lsn > from && transaction.end_lsn <= to);
        Ok(all)
    }

    /// Nothing up to that place is asked for any more.
    pub async fn advance(&self, name: &str, lsn: u64) -> Result<()> {
        let lsn = lsn_text(lsn);
        let behind = format!(
            "SELECT slot_name::text FROM pg_replication_slots
             WHERE slot_name = '{name}' AND confirmed_flush_lsn < '{lsn}'::pg_lsn"
        );
        if self.one(&behind).await?.is_some() {
            self.one(&format!("SELECT end_lsn::text FROM pg_replication_slot_advance('{name}', '{lsn}'::pg_lsn)"))
                .await?;
        }
        Ok(())
    }
}

/// Reads the messages of pgoutput.
#[derive(Default)]
struct Reader {
    xid: u32,
    changes: Vec<Change>,
    done: Vec<Transaction>,
    /// Columns are told once, before what is first of them.
    known: Option<Arc<Relation>>,
}

/// The rest of a message.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (first, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(first)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<String> {
        let end = memchr::memchr(0, self.0)?;
        let text = String::from_utf8(self.take(end)?.to_vec()).ok()?;
        self.take(1)?;
        Some(text)
    }

    fn row(&mut self) -> Option<Vec<Text>> {
        let count = self.u16()?;
        let value = |bytes: &mut Self| match bytes.u8()? {
            b'n' => Some(Text::Null),
            b'u' => Some(Text::Unchanged),
            b't' => {
                let length = usize::try_from(bytes.u32()?).ok()?;
                Some(Text::Value(String::from_utf8(bytes.take(length)?.to_vec()).ok()?))
            }
            _ => None,
        };
        (0..count).map(|_| value(self)).collect()
    }
}

impl Reader {
    /// Takes a message; nothing if it is not one.
    fn message(&mut self, bytes: &[u8]) -> Option<()> {
        let mut bytes = Bytes(bytes);
        match bytes.u8()? {
            b'B' => {
                bytes.take(16)?;
                self.xid = bytes.u32()?;
                self.changes = self.known.iter().cloned().map(Change::Columns).collect();
            }
            b'C' => {
                bytes.take(9)?;
                let end_lsn = bytes.u64()?;
                let changes = std::mem::take(&mut self.changes);
                self.done.push(Transaction { xid: self.xid, end_lsn, changes });
            }
            b'R' => {
                let relation = Arc::new(relation(&mut bytes)?);
                self.known = Some(Arc::clone(&relation));
                self.changes.push(Change::Columns(relation));
            }
            b'I' => {
                bytes.take(5)?;
                self.changes.push(Change::Insert(bytes.row()?));
            }
            b'U' => {
                bytes.take(4)?;
                let old = if bytes.u8()? == b'N' { None } else { Some(bytes.row()?) };
                if old.is_some() {
                    bytes.take(1)?;
                }
                self.changes.push(Change::Update(old, bytes.row()?));
            }
            b'D' => {
                bytes.take(5)?;
                self.changes.push(Change::Delete(bytes.row()?));
            }
            b'T' => self.changes.push(Change::Truncate),
            // Types, origins and messages of others.
            _ => {}
        }
        Some(())
    }
}

fn relation(bytes: &mut Bytes<'_>) -> Option<Relation> {
    bytes.take(4)?;
    bytes.text()?;
    bytes.text()?;
    bytes.take(1)?;
    let count = bytes.u16()?;
    let column = |bytes: &mut Bytes<'_>| {
        bytes.take(1)?;
        let name = bytes.text()?;
        let (oid, modifier) = (bytes.u32()?, bytes.u32()?);
        Some((name, kind_of(oid, modifier)))
    };
    Some(Relation { columns: (0..count).map(|_| column(bytes)).collect::<Option<_>>()? })
}

/// The type that a number means in every server; others are read as text.
fn kind_of(oid: u32, modifier: u32) -> DataType {
    read_as(match oid {
        16 => "boolean",
        17 => "bytea",
        20 | 26 => "bigint",
        21 => "smallint",
        23 => "integer",
        700 => "real",
        701 => "double precision",
        1082 => "date",
        1083 => "time",
        1114 => "timestamp",
        1184 => "timestamp with time zone",
        1700 if modifier == u32::MAX => "numeric",
        1700 => {
            let modifier = modifier.wrapping_sub(4);
            return read_as(&format!("numeric({},{})", modifier >> 16, modifier & 0x7FF));
        }
        _ => "text",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction(xid: u32, end_lsn: u64) -> Transaction {
        Transaction { xid, end_lsn, changes: Vec::new() }
    }

    #[test]
    fn a_snapshot_knows_what_it_has_seen() {
        let snapshot = Snapshot { visible: "100:110:103,105".to_owned(), lsn: 1000 };
        for (xid, seen) in [(99, true), (100, true), (103, false), (104, true), (105, false), (109, true), (110, false)]
        {
            assert_eq!(snapshot.has_seen(&transaction(xid, 900)), seen, "{xid}");
        }
        assert!(!snapshot.has_seen(&transaction(99, 1001)), "it committed behind the snapshot");
        // Numbers begin anew behind four thousand millions.
        let next = (1_u64 << 32) + 5;
        let snapshot = Snapshot { visible: format!("{next}:{next}:"), lsn: 1000 };
        assert!(snapshot.has_seen(&transaction(u32::MAX, 900)));
        assert!(snapshot.has_seen(&transaction(4, 900)));
        assert!(!snapshot.has_seen(&transaction(5, 900)));
    }

    #[test]
    fn places_in_the_log_are_read_as_they_are_written() {
        assert_eq!(lsn_of("16/B374D848").ok(), Some(0x16_B374_D848));
        assert_eq!(lsn_text(0x16_B374_D848), "16/B374D848");
    }

    #[test]
    fn half_a_message_is_no_message() {
        let mut whole = vec![b'I', 0, 0, 0, 1, b'N', 0, 2, b't', 0, 0, 0, 2];
        whole.extend_from_slice(b"abu");
        for end in 1..whole.len() {
            assert!(Reader::default().message(&whole[..end]).is_none(), "{end}");
        }
        let mut reader = Reader::default();
        reader.message(&whole).expect("a message");
        assert_eq!(reader.changes, [Change::Insert(vec![Text::Value("ab".to_owned()), Text::Unchanged])]);
    }
}
