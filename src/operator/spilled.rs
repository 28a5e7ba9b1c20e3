//! Files for state that does not fit into memory.
//!
//! Enters: bytes, under the name of what they are. Leaves: the same. Always holds: a file goes with the last that names
//! it; what fails says what to do.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use datafusion::execution::SpillFile;
use datafusion::execution::disk_manager::DiskManager;

use crate::error::{Error, Result};

/// A file of its own.
pub(super) struct Spilled {
    pub(super) file: File,
    /// Is removed with this.
    _named: Arc<dyn SpillFile>,
}

impl Spilled {
    /// An empty one, for this.
    pub(super) fn new(what: &str, disk: &Arc<DiskManager>) -> Result<Self> {
        let named = disk.create_tmp_file(what)?;
        let path = named.path().ok_or_else(|| Error::query("state can only go to files of this machine"))?;
        let open = OpenOptions::new().read(true).write(true).open(path);
        let file = open.map_err(|error| Error::io(path.display(), &error))?;
        Ok(Self { file, _named: named })
    }

    /// Fills the buffer with what is there from a place on.
    pub(super) fn read(&self, into: &mut [u8], at: u64) -> Result<()> {
        let read = self.file.read_exact_at(into, at);
        read.map_err(|error| Error::query(format!("state on disk could not be read: {error}")))
    }
}

/// What could not be written.
pub(super) fn failed(error: &std::io::Error) -> Error {
    Error::query(format!("state that does not fit into memory could not go to disk: {error}"))
        .hint("make room in the folder of --temp-dir, or raise --memory-limit")
}
