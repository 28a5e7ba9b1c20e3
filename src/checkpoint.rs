//! What a pipeline keeps between its runs.
//!
//! Enters: the offsets of each epoch, and from time to time the state of all operators and sinks. Leaves: after a
//! kill, the newest intact checkpoint and the epochs behind it. Always holds: an epoch is in the offset log before
//! anything of it is done, and in the commit log when all sinks hold it; a file that is damaged is never taken for
//! one that is absent.
//!
//! `pipeline.json` says what the state belongs to; `offsets/` and `commits/` have a file an epoch; `checkpoints/`
//! has a manifest for each checkpoint, and `state/` the Parquet files that manifests name. Each JSON file ends in
//! the CRC-32 of what is before it; manifests have that of each Parquet file.

mod log;
mod pieces;
mod pipeline;
mod store;

pub use log::{Commit, Cost, EpochRecord, Logs};
pub use pieces::Pieces;
pub use pipeline::{Failure, FoundTable, Identity, STATE_FORMAT};
pub use store::{Checkpoint, Explained, Saved, StateStore, Work};
