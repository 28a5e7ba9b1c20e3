//! What a Delta table gains and loses, version by version.
//!
//! Enters: the versions of a table's log. Leaves: the files of a version, those that a commit has added and removed, and
//! their rows. Always holds: the rows of what is added less those of what is removed are what the commit has changed;
//! files that only moved, as compaction moves them, are neither.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, SchemaRef};
use datafusion::common::{Column, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::{Expr, cast, lit};
use datafusion::prelude::SessionContext;
use deltalake_core::DeltaTable;
use deltalake_core::delta_datafusion::FileSelection;
use deltalake_core::kernel::{Action, Add};
use deltalake_core::logstore::{LogStoreRef, get_actions};
use tokio::sync::Mutex;

use super::{Found, Lake, found, log_of, session, told};
use crate::error::{Error, Result};

/// So many versions are kept in memory: a commit is read of its own and the one before it.
const KEPT: usize = 2;

/// A file of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeFile {
    /// Its path below the table.
    pub path: String,
    /// Its rows, where they are known.
    pub rows: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// What a commit has done to the rows.
#[derive(Debug, Default)]
pub struct LakeCommit {
    /// Files with rows that were not there, or with what has become of rows that were.
    pub added: Vec<LakeFile>,
    /// Files whose rows are gone, or are among those added.
    pub removed: Vec<LakeFile>,
}

impl LakeCommit {
    /// Rows to read.
    pub fn rows(&self) -> u64 {
        self.added.iter().chain(&self.removed).map(|file| file.rows).sum()
    }
}

/// Follows a table.
pub struct LakeFollower {
    lake: Lake,
    log: LogStoreRef,
    session: SessionState,
    kept: Mutex<VecDeque<DeltaTable>>,
}

impl LakeFollower {
    /// The log of that table.
    pub fn open(lake: &Lake) -> Result<Self> {
        Ok(Self { lake: lake.clone(), log: log_of(lake)?, session: session(lake), kept: Mutex::default() })
    }

    /// The newest version; `known`: one that is there, or 0.
    pub async fn newest(&self, known: u64) -> Result<u64> {
        self.log.get_latest_version(known).await.map_err(|error| told(&self.lake, error))
    }

    /// The table at a version.
    async fn at(&self, version: u64) -> Result<DeltaTable> {
        let mut kept = self.kept.lock().await;
        if let Some(table) = kept.iter().find(|table| table.version() == Some(version)) {
            return Ok(table.clone());
        }
        let before = kept.iter().rfind(|table| table.version().is_some_and(|there| there < version));
        let mut table = before.cloned().unwrap_or_else(|| DeltaTable::new(Arc::clone(&self.log)));
        table.load_version(version).await.map_err(|error| {
            told(&self.lake, error)
                .note(format!("version {version} is needed, which the log may have let go of"))
                .hint("--fresh begins anew, with all rows that are there now")
        })?;
        kept.push_back(table.clone());
        while kept.len() > KEPT {
            kept.pop_front();
        }
        Ok(table)
    }

    /// Its columns at a version.
    pub async fn found(&self, version: u64) -> Result<Found> {
        found(&self.lake, &self.at(version).await?)
    }

    /// All files of a version, in an order that stays.
    pub async fn files(&self, version: u64) -> Result<Vec<LakeFile>> {
        let table = self.at(version).await?;
        let state = table.snapshot().map_err(|error| told(&self.lake, error))?;
        let number = |size: i64| u64::try_from(size).unwrap_or(0);
        let mut files: Vec<LakeFile> = state
            .log_data()
            .iter()
            .map(|file| LakeFile {
                path: file.path().into_owned(),
                rows: file.num_records().unwrap_or(0) as u64,
                bytes: number(file.size()),
            })
            .collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    /// What the commit of a version has changed; nothing if there is no such version yet.
    pub async fn commit(&self, version: u64) -> Result<Option<LakeCommit>> {
        let told = |error| told(&self.lake, error);
        let Some(bytes) = self.log.read_commit_entry(version).await.map_err(told)? else { return Ok(None) };
        let mut commit = LakeCommit::default();
        for action in get_actions(version, &bytes).map_err(told)? {
            match action {
                Action::Add(add) if add.data_change => commit.added.push(of_add(&add)),
                Action::Remove(remove) if remove.data_change => {
                    let bytes = u64::try_from(remove.size.unwrap_or(0)).unwrap_or(0);
                    commit.removed.push(LakeFile { path: remove.path, rows: 0, bytes });
                }
                _ => {}
            }
        }
        Ok(Some(commit))
    }

    /// The rows that a version has of these files, in these columns; a column that it lacks is NULL.
    pub async fn rows(&self, version: u64, files: &[LakeFile], columns: &SchemaRef) -> Result<Vec<RecordBatch>> {
        if files.is_empty() {
            return Ok(Vec::new());
        }
        let table = self.at(version).await?;
        let adds = files.iter().map(|file| Add { path: file.path.clone(), ..Add::default() });
        let provider = table.table_provider().with_file_selection(FileSelection::from_adds(adds)).await;
        let provider = provider.map_err(|error| Error::from(error).note(format!("of {}", self.lake)))?;
        let there = provider.schema();
        let column = |field: &Arc<Field>| {
            let column = match there.index_of(field.name()) {
                Ok(_) => Expr::Column(Column::from_name(field.name())),
                Err(_) => lit(ScalarValue::Null),
            };
            cast(column, field.data_type().clone()).alias(field.name())
        };
        let columns = columns.fields().iter().map(column).collect::<Vec<_>>();
        let rows = SessionContext::new_with_state(self.session.clone()).read_table(provider)?.select(columns)?;
        rows.collect().await.map_err(|error| {
            Error::from(error)
                .note(format!("of version {version} of {}; files that were vacuumed cannot be read", self.lake))
        })
    }

    /// True if there is a table.
    pub async fn is_there(&self) -> Result<bool> {
        let there = DeltaTable::new(Arc::clone(&self.log)).verify_deltatable_existence().await;
        there.map_err(|error| told(&self.lake, error))
    }
}

fn of_add(add: &Add) -> LakeFile {
    let rows = add.get_stats().ok().flatten().map_or(0, |stats| u64::try_from(stats.num_records).unwrap_or(0));
    LakeFile { path: add.path.clone(), rows, bytes: u64::try_from(add.size).unwrap_or(0) }
}
