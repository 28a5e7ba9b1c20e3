//! A table of Postgres, and what changes in it.
//!
//! Enters: a snapshot, and behind it the transactions of a replication slot. Leaves: rows with what each does. Always
//! holds: the snapshot is kept in the state before any of it is given; a transaction that it has seen is not given
//! again, and one that it has not is; the slot moves behind checkpoints only, so a range can be read again.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int8Array, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;
use async_trait::async_trait;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, OnceCell};

use super::{Limits, Read, Source, StreamTable, Upkeep, Waiting};
use crate::change::{DELETE, INSERT, OP, with_columns};
use crate::checkpoint::Saved;
use crate::clock::chance;
use crate::database::{Address, Change, Follower, Relation, Snapshot, Text, TextColumns, Transaction};
use crate::durable::{Folder, step};
use crate::error::{Error, Result};
use crate::offset::{FileSlice, OffsetRange};

/// What a range of the snapshot is of, in units of the files that it is kept in.
const SNAPSHOT: &str = "snapshot";
/// What a range of changes is of, in places of the server's log.
const LOG: &str = "log";
/// What all rows are of that were there at a place of the server's log.
const ALL: &str = "all";
/// Behind so many bytes of the server's log it is read on, and its slot moved.
const LOG_BYTES: u64 = 16 * 1024 * 1024;

/// What the state keeps of the slot.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Slot {
    /// The name of the slot, and of the publication.
    name: String,
    /// Nothing, until the snapshot is kept as a whole.
    snapshot: Option<Snapshot>,
    /// The files that it is kept in.
    files: u64,
}

/// What was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Position {
    /// Files of the snapshot.
    files: u64,
    /// The place in the log.
    lsn: u64,
}

/// Transactions that the slot has told.
#[derive(Default)]
struct Told {
    from: u64,
    to: u64,
    transactions: Vec<Transaction>,
}

/// Follows a table.
pub(super) struct Postgres {
    address: Address,
    /// The columns that are read, and [`OP`].
    schema: SchemaRef,
    /// The columns that are read.
    columns: SchemaRef,
    /// The places of the key among them.
    key: Vec<usize>,
    limits: Limits,
    /// Rows of files come before it, some of which it may change.
    has_history: bool,
    state: Option<Folder>,
    /// Its name in the state.
    name: String,
    opened: OnceCell<(Follower, Slot)>,
    position: Position,
    /// The two last checkpoints.
    saved: [Option<Position>; 2],
    /// The slot is to be moved there.
    release: Option<Position>,
    told: Mutex<Told>,
    /// How far the log was written when it was asked last.
    written: u64,
    /// What comes from now on is not wanted.
    stops: bool,
    /// Where it stops.
    end: Option<u64>,
}

impl Postgres {
    pub(super) fn new(address: Address, table: &StreamTable, columns: &[usize], upkeep: &Upkeep) -> Result<Self> {
        let place = |at: &usize| {
            let found = columns.iter().position(|one| one == at);
            found.ok_or_else(|| Error::query("a source does not read its key"))
        };
        let key = upkeep.key.iter().map(place).collect::<Result<_>>()?;
        let fields: Vec<Field> =
            columns.iter().map(|at| table.columns().field(*at).clone().with_nullable(true)).collect();
        let op = Field::new(OP, DataType::Int8, false);
        Ok(Self {
            address,
            schema: Arc::new(Schema::new(fields.iter().cloned().chain([op]).collect::<Vec<_>>())),
            columns: Arc::new(Schema::new(fields)),
            key,
            limits: table.options().limits.clone(),
            has_history: table.history().is_some(),
            state: None,
            name: String::new(),
            opened: OnceCell::new(),
            position: Position::default(),
            saved: [None, None],
            release: None,
            told: Mutex::default(),
            written: 0,
            stops: false,
            end: None,
        })
    }

    fn state(&self) -> Result<&Folder> {
        self.state.as_ref().ok_or_else(|| {
            Error::query(format!("the changes of {} can be followed in a pipeline only", self.address.table()))
        })
    }

    fn slot_file(name: &str) -> String {
        format!("spool/{name}-slot.json")
    }

    fn snapshot_file(&self, number: u64) -> String {
        format!("spool/{}-snapshot-{number:08}.arrow", self.name)
    }

    async fn keep_slot(&self, slot: &Slot) -> Result<()> {
        let text = serde_json::to_vec(slot).map_err(|error| Error::query(error.to_string()))?;
        self.state()?.replace(&Self::slot_file(&self.name), text).await
    }

    async fn known_slot(state: &Folder, name: &str) -> Result<Option<Slot>> {
        let Some(bytes) = state.read(&Self::slot_file(name)).await? else { return Ok(None) };
        let slot = serde_json::from_slice(&bytes);
        slot.map(Some).map_err(|error| Error::query(format!("{} cannot be read: {error}", Self::slot_file(name))))
    }

    /// Connects; makes slot and snapshot, where they are not there yet.
    async fn open(&self) -> Result<(&Follower, &Slot)> {
        let (follower, slot) = self.opened.get_or_try_init(|| self.connect()).await?;
        Ok((follower, slot))
    }

    async fn connect(&self) -> Result<(Follower, Slot)> {
        let follower = Follower::connect(&self.address).await?;
        let known = Self::known_slot(self.state()?, &self.name).await?;
        if let Some(slot) = known.as_ref().filter(|slot| slot.snapshot.is_some()) {
            let lsn = self.position.lsn.max(slot.snapshot.as_ref().map_or(0, |snapshot| snapshot.lsn));
            if !follower.holds(&slot.name, lsn).await? {
                return Err(Error::query(format!("the slot {} has no changes behind what was taken", slot.name))
                    .note("it was dropped, or the server has let go of its log")
                    .hint("--fresh begins anew, with all rows that are there now"));
            }
            return Ok((follower, slot.clone()));
        }
        if let Some(unfinished) = known {
            follower.forget(&unfinished.name).await?;
        }
        let slot = self.begin(&follower).await?;
        Ok((follower, slot))
    }

    /// Makes the slot, and keeps a snapshot behind it.
    async fn begin(&self, follower: &Follower) -> Result<Slot> {
        follower.expect_followable(!self.key.is_empty()).await?;
        let name = format!("fuse_{:016x}", chance());
        let mut slot = Slot { name, snapshot: None, files: 0 };
        // Known before it is made: what a kill leaves is removed by the next run.
        self.keep_slot(&slot).await?;
        step("source.slot.before")?;
        follower.begin(&slot.name).await?;
        step("source.slot.after")?;
        let (visible, mut rows) = follower.snapshot(&self.columns).await?;
        while let Some(batch) = rows.next().await {
            let mut writer = FileWriter::try_new(Vec::new(), &self.columns)?;
            writer.write(&batch?)?;
            self.state()?.replace(&self.snapshot_file(slot.files), writer.into_inner()?).await?;
            slot.files += 1;
        }
        slot.snapshot = Some(Snapshot { visible, lsn: follower.end_snapshot().await? });
        step("source.snapshot.before")?;
        self.keep_slot(&slot).await?;
        step("source.snapshot.after")?;
        Ok(slot)
    }

    /// The transactions of a part of the log.
    async fn transactions(&self, from: u64, to: u64) -> Result<Vec<Transaction>> {
        let mut told = self.told.lock().await;
        if told.from > from || told.to < to {
            let (follower, slot) = self.open().await?;
            let mut transactions = follower.peek(&slot.name, from, to).await?;
            transactions.retain(|one| slot.snapshot.as_ref().is_none_or(|seen| !seen.has_seen(one)));
            *told = Told { from, to, transactions };
        }
        let wanted = |one: &&Transaction| one.end_lsn > from && one.end_lsn <= to;
        Ok(told.transactions.iter().filter(wanted).cloned().collect())
    }

    /// Moves the slot, and removes the snapshot, behind the checkpoint before the last.
    async fn let_go(&mut self) -> Result<()> {
        let Some(done) = self.release.take() else { return Ok(()) };
        let (follower, slot) = self.open().await?;
        if done.lsn > 0 {
            step("source.advance.before")?;
            follower.advance(&slot.name, done.lsn).await?;
            step("source.advance.after")?;
        }
        if done.files == slot.files && slot.files > 0 && done.lsn > 0 {
            let state = self.state()?;
            let prefix = format!("{}-snapshot-", self.name);
            let names = state.list("spool").await?.into_iter().filter(|name| name.starts_with(&prefix));
            let names: Vec<String> = names.map(|name| format!("spool/{name}")).collect();
            state.remove(&names).await?;
        }
        Ok(())
    }

    /// The part of the log that an epoch takes.
    async fn next_of_log(&mut self) -> Result<OffsetRange> {
        let nothing = OffsetRange::Files(Vec::new());
        let (follower, slot) = self.open().await?;
        let start = slot.snapshot.as_ref().map_or(0, |snapshot| snapshot.lsn);
        let mut written = follower.written().await?;
        if self.stops {
            written = written.min(*self.end.get_or_insert(written));
        }
        let from = self.position.lsn;
        if written == self.written {
            return Ok(nothing);
        }
        let transactions = self.transactions(from, written).await?;
        let mut expected = Expected::new(&self.columns, self.address.table());
        let (mut to, mut rows) = (from, 0);
        for transaction in transactions.iter().filter(|one| one.rows() > 0) {
            if let Err(error) = expected.check(transaction) {
                if to == from {
                    return Err(error);
                }
                // What comes before is taken first.
                return Ok(of_log(from, to));
            }
            rows += transaction.rows();
            to = transaction.end_lsn;
            if rows >= self.limits.rows {
                return Ok(of_log(from, to));
            }
        }
        self.written = written;
        let quiet = written.saturating_sub(from.max(start));
        if to == from && quiet > LOG_BYTES {
            // Others have written much: a checkpoint lets the server forget it.
            to = written;
        }
        Ok(if to == from { nothing } else { of_log(from, to) })
    }

    async fn snapshot_rows(&self, from: u64, to: u64) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::new();
        for number in from..to {
            let name = self.snapshot_file(number);
            let bytes = self.state()?.read(&name).await?;
            let bytes = bytes.ok_or_else(|| Error::query(format!("{name} is gone, which the snapshot was kept in")))?;
            for batch in FileReader::try_new(std::io::Cursor::new(bytes), None)? {
                batches.push(self.inserted(&batch?)?);
            }
        }
        Ok(batches)
    }

    /// All rows that were there at a place of the log, from the table as it is now: it must not have changed since.
    async fn rows_at(&self, lsn: u64) -> Result<Vec<RecordBatch>> {
        // Of its own: the slot may have moved behind what this source, which looks back, has taken.
        let follower = Follower::connect(&self.address).await?;
        let slot = Self::known_slot(self.state()?, &self.name).await?;
        let slot = slot.ok_or_else(|| Error::query(format!("{} is gone", Self::slot_file(&self.name))))?;
        let (visible, mut rows) = follower.snapshot(&self.columns).await?;
        let mut batches = Vec::new();
        while let Some(batch) = rows.next().await {
            batches.push(self.inserted(&batch?)?);
        }
        let now = Snapshot { visible, lsn: follower.end_snapshot().await? };
        let since = follower.peek(&slot.name, lsn, now.lsn).await?;
        let taken = |one: &Transaction| slot.snapshot.as_ref().is_some_and(|seen| seen.has_seen(one));
        if since.iter().any(|one| one.rows() > 0 && now.has_seen(one) && !taken(one)) {
            return Err(Error::query(format!("{} has changed since it was read last", self.address.table()))
                .hint("run the pipeline once more, and then this"));
        }
        Ok(batches)
    }

    /// Rows that are new.
    fn inserted(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let mut columns = batch.columns().to_vec();
        columns.push(Arc::new(Int8Array::from(vec![INSERT; batch.num_rows()])) as ArrayRef);
        with_columns(&self.schema, columns, batch.num_rows())
    }

    /// The rows of transactions, with what each does.
    fn log_rows(&self, transactions: &[Transaction]) -> Result<Vec<RecordBatch>> {
        let mut rows = Rows::new(&self.columns, &self.key, self.address.table());
        for change in transactions.iter().flat_map(|transaction| &transaction.changes) {
            rows.take(change)?;
        }
        let (columns, ops) = (rows.values.finish()?, rows.ops);
        if ops.is_empty() {
            return Ok(Vec::new());
        }
        let mut all = columns.columns().to_vec();
        let count = ops.len();
        all.push(Arc::new(Int8Array::from(ops)));
        Ok(vec![with_columns(&self.schema, all, count)?])
    }
}

fn of_log(from: u64, to: u64) -> OffsetRange {
    // Of the first part, where the log begins is not known.
    let bytes = if from == 0 { 0 } else { to - from };
    OffsetRange::Files(vec![FileSlice { path: LOG.to_owned(), from, to, bytes, last: false, file: None }])
}

/// Where the columns that are read stand in a change.
struct Expected<'a> {
    columns: &'a SchemaRef,
    table: &'a str,
    places: Vec<usize>,
}

impl<'a> Expected<'a> {
    fn new(columns: &'a SchemaRef, table: &'a str) -> Self {
        Self { columns, table, places: Vec::new() }
    }

    /// Refuses a transaction that cannot be taken.
    fn check(&mut self, transaction: &Transaction) -> Result<()> {
        for change in &transaction.changes {
            match change {
                Change::Columns(relation) => self.learn(relation)?,
                Change::Truncate => {
                    return Err(Error::query(format!("{} was truncated", self.table))
                        .note("the server does not tell which rows went with it")
                        .hint("--fresh begins anew, with all rows that are there now; DELETE tells the rows"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn learn(&mut self, relation: &Relation) -> Result<()> {
        let place = |field: &Arc<Field>| {
            let found = relation.columns.iter().position(|(name, _)| name == field.name());
            let same = found.filter(|at| relation.columns[*at].1 == *field.data_type());
            same.ok_or_else(|| {
                let now = found.map_or("is gone".to_owned(), |at| {
                    format!("is {} now", crate::error::sql_type(&relation.columns[at].1))
                });
                Error::query(format!("the columns of {} have changed: {} {now}", self.table, field.name()))
                    .note(format!(
                        "it was {}; all that was written before has been taken",
                        crate::error::sql_type(field.data_type())
                    ))
                    .hint("--fresh begins anew with the columns that it has; columns that are added disturb nobody")
            })
        };
        self.places = self.columns.fields().iter().map(place).collect::<Result<_>>()?;
        Ok(())
    }
}

/// Rows that are built.
struct Rows<'a> {
    expected: Expected<'a>,
    key: &'a [usize],
    values: TextColumns,
    ops: Vec<i8>,
}

impl<'a> Rows<'a> {
    fn new(columns: &'a SchemaRef, key: &'a [usize], table: &'a str) -> Self {
        let values = TextColumns::new(Arc::clone(columns));
        Self { expected: Expected::new(columns, table), key, values, ops: Vec::new() }
    }

    fn take(&mut self, change: &Change) -> Result<()> {
        match change {
            Change::Columns(relation) => self.expected.learn(relation)?,
            Change::Insert(row) => self.push(row, None, INSERT)?,
            Change::Delete(row) => self.push(row, None, DELETE)?,
            Change::Update(old, new) => {
                let place = |at: &usize| self.expected.places[*at];
                let moved = |old: &Vec<Text>| self.key.iter().any(|at| old.get(place(at)) != new.get(place(at)));
                if let Some(old) = old.as_ref().filter(|old| self.key.is_empty() || moved(old)) {
                    self.push(old, None, DELETE)?;
                }
                self.push(new, old.as_deref(), INSERT)?;
            }
            Change::Truncate => {}
        }
        Ok(())
    }

    /// Adds a row; a value that has not changed is that of the old one.
    fn push(&mut self, row: &[Text], old: Option<&[Text]>, op: i8) -> Result<()> {
        let mut values = Vec::with_capacity(self.expected.places.len());
        for (column, place) in self.expected.places.iter().enumerate() {
            let value = match row.get(*place) {
                Some(Text::Unchanged) => old.and_then(|old| old.get(*place)),
                value => value,
            };
            values.push(match value {
                Some(Text::Value(text)) => Some(text.as_str()),
                Some(Text::Null) => None,
                _ => {
                    let (table, name) = (self.expected.table, self.expected.columns.field(column).name());
                    return Err(Error::query(format!(
                        "{table}: a large value of {name} has not changed, and is not told"
                    ))
                    .hint(format!(
                        "ALTER TABLE {table} REPLICA IDENTITY FULL has the server tell it; then --fresh begins anew"
                    )));
                }
            });
        }
        self.values.push(values.into_iter());
        self.ops.push(op);
        Ok(())
    }
}

#[async_trait]
impl Source for Postgres {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn attach(&mut self, state: &Folder, name: &str) -> Result<()> {
        self.state = Some(state.clone());
        name.clone_into(&mut self.name);
        Ok(())
    }

    async fn next(&mut self, _now_micros: i64) -> Result<OffsetRange> {
        self.let_go().await?;
        let (_, slot) = self.open().await?;
        let (from, files) = (self.position.files, slot.files);
        if from == files {
            return self.next_of_log().await;
        }
        // About so many rows are in a file.
        let count = self.limits.rows.div_ceil(8192).max(1);
        let to = files.min(from + count);
        let slice = FileSlice { path: SNAPSHOT.to_owned(), from, to, bytes: 0, last: to == files, file: None };
        Ok(OffsetRange::Files(vec![slice]))
    }

    fn advance(&mut self, range: &OffsetRange) -> Result<()> {
        let OffsetRange::Files(slices) = range else { return Err(Error::query("not a range of a database")) };
        for slice in slices {
            match slice.path.as_str() {
                SNAPSHOT => self.position.files = slice.to,
                _ => self.position.lsn = slice.to,
            }
        }
        Ok(())
    }

    async fn read(&self, range: &OffsetRange) -> Result<Read> {
        let OffsetRange::Files(slices) = range else { return Err(Error::query("not a range of a database")) };
        let mut batches = Vec::new();
        for slice in slices {
            batches.extend(match slice.path.as_str() {
                SNAPSHOT => self.snapshot_rows(slice.from, slice.to).await?,
                ALL => self.rows_at(slice.to).await?,
                _ => self.log_rows(&self.transactions(slice.from, slice.to).await?)?,
            });
        }
        Ok(batches.into())
    }

    fn taken(&self) -> Result<OffsetRange> {
        let Position { files, lsn } = self.position;
        if self.has_history {
            return Err(Error::query("what the server tells of its rows is not kept, and a history is before it"));
        }
        let (path, to) = if lsn == 0 { (SNAPSHOT, files) } else { (ALL, lsn) };
        let slice = FileSlice { path: path.to_owned(), from: 0, to, bytes: 0, last: true, file: None };
        Ok(OffsetRange::Files(vec![slice]))
    }

    fn wants_checkpoint(&self) -> bool {
        let since = self.saved[1].unwrap_or_default();
        since.lsn > 0 && self.position.lsn.saturating_sub(since.lsn) > LOG_BYTES
    }

    fn release(&mut self) -> Result<()> {
        self.release = self.saved[0];
        Ok(())
    }

    fn stop_growing(&mut self) {
        self.stops = true;
    }

    fn waiting(&self) -> Waiting {
        let bytes = if self.position.lsn == 0 { 0 } else { self.written.saturating_sub(self.position.lsn) };
        // What others write is in the same log.
        Waiting { bytes: if bytes > LOG_BYTES { bytes } else { 0 }, rows: None, since_micros: None }
    }

    fn position(&self) -> serde_json::Value {
        let slot = self.opened.get().map(|(_, slot)| slot.name.clone());
        serde_json::json!({ "slot": slot, "lsn": self.position.lsn, "snapshot_files": self.position.files })
    }

    fn save(&mut self) -> Result<Saved> {
        self.saved = [self.saved[1], Some(self.position)];
        // With the checkpoint before: a run that ends before it could let go leaves that to the next.
        let before = self.saved[0].unwrap_or_default();
        let values = [self.position.files, self.position.lsn, before.files, before.lsn];
        let fields =
            ["files", "lsn", "files_before", "lsn_before"].map(|name| Field::new(name, DataType::UInt64, false));
        let values = values.map(|value| Arc::new(UInt64Array::from(vec![value])) as ArrayRef);
        Ok(Saved::Whole(vec![RecordBatch::try_new(Arc::new(Schema::new(fields.to_vec())), values.to_vec())?].into()))
    }

    fn restore(&mut self, saved: Vec<RecordBatch>) -> Result<()> {
        for batch in saved.iter().filter(|batch| batch.num_rows() > 0) {
            let value = |at: usize| batch.column(at).as_primitive::<UInt64Type>().value(0);
            self.position = Position { files: value(0), lsn: value(1) };
            self.release = Some(Position { files: value(2), lsn: value(3) });
            self.saved = [self.release, Some(self.position)];
        }
        Ok(())
    }

    async fn forget(&mut self, state: &Folder, name: &str) -> Result<()> {
        if let Ok(Some(slot)) = Self::known_slot(state, name).await {
            Follower::connect(&self.address).await?.forget(&slot.name).await?;
        }
        Ok(())
    }
}
