//! How far a pipeline is.
//!
//! Enters: what each epoch did. Leaves: a [`Progress`] for who paints it. Always holds: reading it never waits for
//! an epoch.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::checkpoint::{EpochRecord, Explained};
use crate::clock::now_micros;
use crate::offset::Epoch;
use crate::source::stream::Waiting;

/// How far a pipeline is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Progress {
    /// The last epoch that all sinks show.
    pub epoch: Epoch,
    /// When it was committed, in microseconds since 1970.
    pub committed_micros: i64,
    /// How long it took.
    pub took: Duration,
    /// Rows read, in all epochs of this run.
    pub rows_in: u64,
    /// Changes written, in all epochs of this run.
    pub rows_out: u64,
    /// Records that could not be read and were left out, since the pipeline began.
    pub skipped: u64,
    /// Rows that were late and were left out, since the pipeline began.
    pub late: u64,
    /// What waits in the sources.
    pub waiting: Waiting,
    /// When the oldest input was written that is not committed, in microseconds since 1970.
    pub behind_since: Option<i64>,
    /// Rows and bytes of the operators' state.
    pub state: (usize, usize),
    /// The last checkpoint, and its size on disk.
    pub checkpoint: (Epoch, u64),
    /// What each operator had cost at the last checkpoint.
    pub operators: Vec<Explained>,
    /// Epochs that were run again at the start.
    pub replayed: usize,
}

/// Where a pipeline puts its [`Progress`].
#[derive(Debug, Clone, Default)]
pub struct ProgressCell(Arc<Mutex<Progress>>);

impl ProgressCell {
    /// How far it is now.
    pub fn read(&self) -> Progress {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// An epoch begins whose oldest input was written then.
    pub(super) fn begun(&self, since_micros: Option<i64>) {
        self.change(|progress| {
            progress.behind_since = [progress.behind_since, since_micros].into_iter().flatten().min();
        });
    }

    pub(super) fn committed(
        &self,
        record: &EpochRecord,
        rows: (usize, usize),
        waiting: Waiting,
        state: (usize, usize),
        took: Duration,
    ) {
        self.change(|progress| {
            progress.epoch = record.epoch;
            progress.committed_micros = now_micros();
            progress.took = took;
            progress.rows_in += rows.0 as u64;
            progress.rows_out += rows.1 as u64;
            progress.waiting = waiting;
            progress.behind_since = waiting.since_micros;
            progress.state = state;
        });
    }

    pub(super) fn left_out(&self, bad: u64, late: u64) {
        self.change(|progress| (progress.skipped, progress.late) = (bad, late));
    }

    pub(super) fn checkpointed(&self, epoch: Epoch, bytes: u64, operators: &[Explained]) {
        self.change(|progress| {
            progress.checkpoint = (epoch, bytes);
            progress.operators = operators.to_vec();
        });
    }

    pub(super) fn recovered(&self, epoch: Epoch, replayed: usize) {
        self.change(|progress| {
            progress.epoch = epoch;
            progress.replayed = replayed;
        });
    }
}
