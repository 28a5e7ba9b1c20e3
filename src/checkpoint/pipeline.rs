//! What a state folder belongs to.
//!
//! Enters: what a pipeline computes, in text. Leaves: on a first run an identity of its own; later the same, or an
//! error that says what differs. Always holds: the state of one pipeline is never used for another.

use serde::{Deserialize, Serialize};

use super::log::{seal, unseal};
use crate::durable::Folder;
use crate::error::{Error, Result};

/// Which pipeline a state belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// The version of fuse that made it.
    pub version: String,
    /// A part of the names of the files that its sinks write.
    pub id: String,
    /// What it computes.
    pub computes: String,
    /// Where its sinks write.
    pub writes: Vec<String>,
}

const FILE: &str = "pipeline.json";

impl Identity {
    /// The identity of a pipeline that begins at `now_micros`.
    pub fn new(computes: String, writes: Vec<String>, now_micros: i64) -> Self {
        let seed = format!("{now_micros} {} {computes}", std::process::id());
        let id = format!("{:08x}", crc32fast::hash(seed.as_bytes()));
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), id, computes, writes }
    }

    /// The identity in a state folder; nothing if the folder is new.
    pub async fn read(folder: &Folder) -> Result<Option<Self>> {
        match folder.read(FILE).await? {
            Some(bytes) => Ok(Some(unseal(&bytes, &format!("{}/{FILE}", folder.name()))?)),
            None => Ok(None),
        }
    }

    /// Writes it into a new state folder.
    pub async fn write(&self, folder: &Folder) -> Result<()> {
        folder.replace(FILE, seal(self)?).await
    }

    /// Refuses a state that was made for something else.
    pub fn expect(&self, new: &Identity, folder: &Folder) -> Result<()> {
        if self.computes == new.computes && self.writes == new.writes {
            return Ok(());
        }
        let lines = |identity: &Identity| -> Vec<String> {
            identity.computes.lines().map(str::to_owned).chain(identity.writes.iter().cloned()).collect()
        };
        let (before, now) = (lines(self), lines(new));
        let mut error = Error::query(format!("the state in {} belongs to another version of this SQL", folder.name()));
        for line in before.iter().filter(|line| !now.contains(line)).take(3) {
            error = error.note(format!("then: {}", line.trim()));
        }
        for line in now.iter().filter(|line| !before.contains(line)).take(3) {
            error = error.note(format!("now:  {}", line.trim()));
        }
        Err(error.hint("--fresh starts anew and replaces what was written; --state DIR uses another folder"))
    }
}
