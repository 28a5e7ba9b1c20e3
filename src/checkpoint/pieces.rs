//! One part of a state, batch by batch.
//!
//! Enters: where it is. Leaves: its batches, in the order in which they were saved. Always holds: a batch is read when it
//! is asked for, so that a state is not in memory a second time while it is saved or restored.

use arrow::record_batch::RecordBatch;

use crate::error::Result;

/// The batches of one part.
pub struct Pieces(Box<dyn Iterator<Item = Result<RecordBatch>> + Send>);

impl Pieces {
    /// What this gives.
    pub fn new(batches: impl Iterator<Item = Result<RecordBatch>> + Send + 'static) -> Self {
        Self(Box::new(batches))
    }
}

impl From<Vec<RecordBatch>> for Pieces {
    fn from(batches: Vec<RecordBatch>) -> Self {
        Self::new(batches.into_iter().map(Ok))
    }
}

impl std::fmt::Debug for Pieces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pieces")
    }
}

impl Default for Pieces {
    fn default() -> Self {
        Self::new(std::iter::empty())
    }
}

impl Iterator for Pieces {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}
