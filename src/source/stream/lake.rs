//! A Delta table, and what its commits change.
//!
//! Enters: the files of the version that was there first, and behind it the commits of the log. Leaves: rows, and what
//! each does where the table's rows change. Always holds: a commit is taken whole, in one epoch; what was taken is read
//! again from the same versions, as long as their files are not vacuumed.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int8Array, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use async_trait::async_trait;

use super::{Limits, Read, Source, Waiting};
use crate::change::{DELETE, INSERT, OP, with_columns};
use crate::checkpoint::Saved;
use crate::database::{Lake, LakeFile, LakeFollower};
use crate::error::{Error, Result, sql_type};
use crate::offset::{FileSlice, OffsetRange};

/// What a range of the first version is of: its files, in the order of their names. The version's number is behind it.
const FILES: &str = "files of version ";
/// What a range of commits is of.
const COMMITS: &str = "commits";

/// What was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Position {
    /// The version that was there first, and 1; 0: it is not known yet.
    first: u64,
    /// Files of that.
    files: u64,
    /// True if that was all of them.
    whole: bool,
    /// The last version that was taken.
    version: u64,
}

/// Follows a table.
pub(super) struct Delta {
    lake: Lake,
    follower: LakeFollower,
    /// The columns that are read, and [`OP`] where rows change.
    schema: SchemaRef,
    /// The columns that are read.
    columns: SchemaRef,
    changes: bool,
    /// The version that was there first is all that is wanted.
    history: bool,
    limits: Limits,
    position: Position,
    /// The newest version when it was asked last, and the rows that wait there.
    newest: u64,
    stops: bool,
    end: Option<u64>,
}

impl Delta {
    /// `history`: the version that is there first is all that is wanted.
    pub(super) fn new(
        (lake, history): (&Lake, bool),
        table: &SchemaRef,
        columns: &[usize],
        changes: bool,
        limits: Limits,
    ) -> Result<Self> {
        let fields: Vec<Field> = columns.iter().map(|at| table.field(*at).clone().with_nullable(true)).collect();
        let op = changes.then(|| Field::new(OP, DataType::Int8, false));
        Ok(Self {
            lake: lake.clone(),
            follower: LakeFollower::open(lake)?,
            schema: Arc::new(Schema::new(fields.iter().cloned().chain(op).collect::<Vec<_>>())),
            columns: Arc::new(Schema::new(fields)),
            changes,
            history,
            limits,
            position: Position::default(),
            newest: 0,
            stops: false,
            end: None,
        })
    }

    /// Refuses a version that does not have the columns in their types.
    async fn expect_columns(&self, version: u64) -> Result<()> {
        let there = self.follower.found(version).await?.columns;
        for field in self.columns.fields() {
            let now = there.field_with_name(field.name()).ok();
            if now.is_none_or(|now| !now.data_type().equals_datatype(field.data_type())) {
                let now = now.map_or("is gone".to_owned(), |now| format!("is {} now", sql_type(now.data_type())));
                return Err(Error::query(format!("the columns of {} have changed: {} {now}", self.lake, field.name()))
                    .note(format!(
                        "it was {}; all up to version {} has been taken",
                        sql_type(field.data_type()),
                        version.saturating_sub(1)
                    ))
                    .hint("--fresh begins anew with the columns that it has; columns that are added disturb nobody"));
            }
        }
        Ok(())
    }

    /// The part of the first version that an epoch takes.
    async fn next_of_files(&mut self) -> Result<OffsetRange> {
        let version = match self.position.first {
            0 if !self.follower.is_there().await? => {
                return Err(Error::query(format!("there is no Delta table in {}", self.lake)));
            }
            0 => self.follower.newest(0).await?,
            first => first - 1,
        };
        let files = self.follower.files(version).await?;
        let (from, mut to, mut rows, mut bytes) = (self.position.files, self.position.files, 0, 0);
        while let Some(file) = files.get(usize::try_from(to).unwrap_or(usize::MAX)) {
            if to > from && rows + file.rows > self.limits.rows {
                break;
            }
            (rows, bytes, to) = (rows + file.rows, bytes + file.bytes, to + 1);
        }
        let last = usize::try_from(to).is_ok_and(|to| to == files.len());
        self.newest = self.newest.max(version);
        Ok(slice(format!("{FILES}{version}"), from, to, bytes, last))
    }

    /// The commits that an epoch takes.
    async fn next_of_commits(&mut self) -> Result<OffsetRange> {
        let from = self.position.version;
        let mut newest = self.follower.newest(from).await?;
        if self.stops {
            newest = newest.min(*self.end.get_or_insert(newest));
        }
        self.newest = newest;
        let (mut to, mut rows, mut bytes) = (from, 0, 0);
        while to < newest {
            let commit = self.follower.commit(to + 1).await?.ok_or_else(|| self.is_gone(to + 1))?;
            if rows > 0 && rows + commit.rows() > self.limits.rows {
                break;
            }
            if !commit.added.is_empty() || !commit.removed.is_empty() {
                if let Err(error) = self.expect_columns(to + 1).await {
                    if to == from {
                        return Err(error);
                    }
                    // What comes before is taken first.
                    break;
                }
                if !self.changes && !commit.removed.is_empty() {
                    return Err(Error::query(format!("version {} of {} deletes or changes rows", to + 1, self.lake))
                        .note("its rows only come: OPTIONS ('append_only' 'true'), or the property delta.appendOnly, say so")
                        .hint("CREATE STREAM with OPTIONS ('append_only' 'false'), and --fresh"));
                }
            }
            rows += commit.rows();
            bytes += commit.added.iter().chain(&commit.removed).map(|file| file.bytes).sum::<u64>();
            to += 1;
        }
        Ok(if to == from { OffsetRange::Files(Vec::new()) } else { slice(COMMITS.to_owned(), from, to, bytes, false) })
    }

    fn is_gone(&self, version: u64) -> Error {
        Error::query(format!("version {version} of {} is gone from its log", self.lake))
            .note("the pipeline has not taken it, and what it changed is not known any more")
            .hint("--fresh begins anew, with all rows that are there now")
    }

    async fn rows(&self, version: u64, files: &[LakeFile], op: i8) -> Result<Vec<RecordBatch>> {
        let batches = self.follower.rows(version, files, &self.columns).await?;
        let with_op = |batch: RecordBatch| {
            let mut columns = batch.columns().to_vec();
            if self.changes {
                columns.push(Arc::new(Int8Array::from(vec![op; batch.num_rows()])) as ArrayRef);
            }
            with_columns(&self.schema, columns, batch.num_rows())
        };
        batches.into_iter().map(with_op).collect()
    }
}

fn slice(path: String, from: u64, to: u64, bytes: u64, last: bool) -> OffsetRange {
    OffsetRange::Files(vec![FileSlice { path, from, to, bytes, last, file: None }])
}

/// The version whose files a range is of; nothing if it is of commits.
fn version_of(slice: &FileSlice) -> Option<u64> {
    slice.path.strip_prefix(FILES).and_then(|number| number.parse().ok())
}

#[async_trait]
impl Source for Delta {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    async fn next(&mut self, _now_micros: i64) -> Result<OffsetRange> {
        match self.position.whole {
            true if self.history => Ok(OffsetRange::Files(Vec::new())),
            true => self.next_of_commits().await,
            false => self.next_of_files().await,
        }
    }

    fn advance(&mut self, range: &OffsetRange) -> Result<()> {
        let OffsetRange::Files(slices) = range else { return Err(Error::query("not a range of a Delta table")) };
        for slice in slices {
            match version_of(slice) {
                Some(version) => {
                    self.position = Position { first: version + 1, files: slice.to, whole: slice.last, version };
                }
                None => self.position.version = slice.to,
            }
        }
        Ok(())
    }

    async fn read(&self, range: &OffsetRange) -> Result<Read> {
        let OffsetRange::Files(slices) = range else { return Err(Error::query("not a range of a Delta table")) };
        let mut batches = Vec::new();
        for slice in slices {
            if let Some(version) = version_of(slice) {
                let files = self.follower.files(version).await?;
                let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(files.len());
                batches.extend(self.rows(version, &files[place(slice.from)..place(slice.to)], INSERT).await?);
                continue;
            }
            for version in slice.from + 1..=slice.to {
                let commit = self.follower.commit(version).await?.ok_or_else(|| self.is_gone(version))?;
                batches.extend(self.rows(version - 1, &commit.removed, DELETE).await?);
                batches.extend(self.rows(version, &commit.added, INSERT).await?);
            }
        }
        Ok(batches.into())
    }

    fn stop_growing(&mut self) {
        self.stops = true;
    }

    fn waiting(&self) -> Waiting {
        // A commit's rows are not known before it is looked at.
        let commits = self.newest.saturating_sub(self.position.version);
        Waiting {
            bytes: if self.position.whole && !self.history { commits } else { 0 },
            rows: None,
            since_micros: None,
        }
    }

    fn position(&self) -> serde_json::Value {
        serde_json::json!({ "version": self.position.version, "files": self.position.files, "whole": self.position.whole })
    }

    fn taken(&self) -> Result<OffsetRange> {
        let Position { first, files, whole, version } = self.position;
        // What is there now is what was there first and what commits have made of it.
        let (version, files) = if whole { (version, u64::MAX) } else { (first.saturating_sub(1), files) };
        Ok(if first == 0 {
            OffsetRange::Files(Vec::new())
        } else {
            slice(format!("{FILES}{version}"), 0, files, 0, whole)
        })
    }

    fn save(&mut self) -> Result<Saved> {
        let Position { first, files, whole, version } = self.position;
        let values = [first, files, u64::from(whole), version];
        let fields = ["first", "files", "whole", "version"].map(|name| Field::new(name, DataType::UInt64, false));
        let values = values.map(|value| Arc::new(UInt64Array::from(vec![value])) as ArrayRef);
        Ok(Saved::Whole(vec![RecordBatch::try_new(Arc::new(Schema::new(fields.to_vec())), values.to_vec())?].into()))
    }

    fn restore(&mut self, saved: Vec<RecordBatch>) -> Result<()> {
        for batch in saved.iter().filter(|batch| batch.num_rows() > 0) {
            let value = |at: usize| batch.column(at).as_primitive::<UInt64Type>().value(0);
            self.position = Position { first: value(0), files: value(1), whole: value(2) == 1, version: value(3) };
        }
        Ok(())
    }
}
