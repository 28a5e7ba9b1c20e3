//! What a state folder belongs to.
//!
//! Enters: what a pipeline computes, in text. Leaves: on a first run an identity of its own; later the same, or an
//! error that says what differs. Always holds: the state of one pipeline is never used for another.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::log::{seal, unseal};
use crate::durable::Folder;
use crate::error::{Error, Result, as_sql};
use crate::offset::Epoch;

/// The form of all files in a state folder. It counts up when one of them changes so that an older fuse, or a newer
/// one, would read it wrongly.
pub const STATE_FORMAT: u32 = 1;

/// What every form of [`Identity`] says.
#[derive(Deserialize)]
struct Written {
    /// Nothing from before there was a number.
    #[serde(default)]
    format: u32,
    version: String,
    id: String,
}

/// Which pipeline a state belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// The form of the files.
    pub format: u32,
    /// The version of fuse that made it.
    pub version: String,
    /// A part of the names of the files that its sinks write.
    pub id: String,
    /// What it computes.
    pub computes: String,
    /// Where its sinks write.
    pub writes: Vec<String>,
    /// Its growing tables, in the order of the parts of the state that are theirs.
    #[serde(default)]
    pub sources: Vec<String>,
    /// What each operator does that keeps state; a part of the state is named by the place of its operator here.
    #[serde(default)]
    pub operators: Vec<String>,
    /// The growing tables whose columns are not declared, as they were found when it was first run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub found: BTreeMap<String, FoundTable>,
}

/// What was found of a growing table in what was there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FoundTable {
    /// Its columns, for people.
    pub columns: Vec<String>,
    /// How its files are written, as options.
    pub options: BTreeMap<String, String>,
    /// The columns, as the hexadecimal digits of an Arrow stream without rows.
    pub schema: String,
}

/// The error that ended a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// When, in microseconds since 1970.
    pub micros: i64,
    /// The epoch that was under way, or was to begin.
    pub epoch: Epoch,
    /// What it said.
    pub message: String,
    /// What else it said.
    pub notes: Vec<String>,
}

const FILE: &str = "pipeline.json";
const FAILURE: &str = "error.json";

impl Failure {
    /// What is kept of an error.
    pub fn new(error: &Error, epoch: Epoch, micros: i64) -> Self {
        let hint = error.hint.iter().map(ToString::to_string);
        let notes = error.notes.iter().cloned().chain(hint).collect();
        Self { micros, epoch, message: error.message.clone(), notes }
    }

    /// The last one of a state; nothing if there was none.
    pub async fn read(folder: &Folder) -> Result<Option<Self>> {
        match folder.read(FAILURE).await? {
            Some(bytes) => Ok(Some(unseal(&bytes, &format!("{}/{FAILURE}", folder.name()))?)),
            None => Ok(None),
        }
    }

    /// Keeps it in the state.
    pub async fn write(&self, folder: &Folder) -> Result<()> {
        folder.replace(FAILURE, seal(self)?).await
    }
}

impl Identity {
    /// The identity of a pipeline that begins at `now_micros`.
    pub fn new(computes: String, writes: Vec<String>, now_micros: i64) -> Self {
        let seed = format!("{now_micros} {} {computes}", std::process::id());
        let id = format!("{:08x}", crc32fast::hash(seed.as_bytes()));
        let (sources, operators, found) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self {
            format: STATE_FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            id,
            computes,
            writes,
            sources,
            operators,
            found,
        }
    }

    /// The identity in a state folder; nothing if the folder is new. A folder of another form is an error.
    pub async fn read(folder: &Folder) -> Result<Option<Self>> {
        let Some(bytes) = folder.read(FILE).await? else { return Ok(None) };
        let name = format!("{}/{FILE}", folder.name());
        let Written { format, version, .. } = unseal(&bytes, &name)?;
        if format != STATE_FORMAT {
            let (ours, own) = (STATE_FORMAT, env!("CARGO_PKG_VERSION"));
            let what = format!("the state in {} has format {format}, this fuse reads and writes {ours}", folder.name());
            return Err(Error::query(what)
                .note(format!("fuse {version} wrote it, this is fuse {own}"))
                .hint("go on with the fuse that wrote it; or start anew with --fresh, or with another --state"));
        }
        Ok(Some(unseal(&bytes, &name)?))
    }

    /// The [`id`](Self::id) in a state folder of any form.
    pub async fn read_id(folder: &Folder) -> Result<Option<String>> {
        let Some(bytes) = folder.read(FILE).await? else { return Ok(None) };
        let Written { id, .. } = unseal(&bytes, &format!("{}/{FILE}", folder.name()))?;
        Ok(Some(id))
    }

    /// Writes it into a new state folder; false if another process has written one first.
    pub async fn write(&self, folder: &Folder) -> Result<bool> {
        folder.create(FILE, seal(self)?).await
    }

    /// Puts it in place of the one that is there, of the same pipeline.
    pub async fn rewrite(&self, folder: &Folder) -> Result<()> {
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
            error = error.note(format!("then: {}", as_sql(line.trim())));
        }
        for line in now.iter().filter(|line| !before.contains(line)).take(3) {
            error = error.note(format!("now:  {}", as_sql(line.trim())));
        }
        Err(error.hint("--fresh starts anew and replaces what was written; --state DIR uses another folder"))
    }
}
