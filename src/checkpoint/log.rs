//! The offset log and the commit log.
//!
//! Enters: what an epoch takes, before it begins; that it is done, when all sinks hold it. Leaves: the same, after a
//! restart. Always holds: an epoch's number is given once, so of two processes on one state one is turned away; of
//! what was committed at most the last epoch is not known to be after a restart.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::durable::Folder;
use crate::error::{Error, Result};
use crate::offset::{Epoch, OffsetRange};

/// What the offset log says of an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Its number.
    pub epoch: Epoch,
    /// What `now()` is in it, in microseconds since 1970.
    pub now_micros: i64,
    /// What `random()` and `uuid()` begin with in it, if anything calls them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// What it takes from each source, by the name of the table.
    pub sources: BTreeMap<String, OffsetRange>,
    /// The watermarks before it, in microseconds since 1970, by the name of the table: rows behind them are late.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub watermarks: BTreeMap<String, i64>,
}

/// That an epoch is done.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// Its number; 0: none.
    pub epoch: Epoch,
    /// When it was done, in microseconds since 1970.
    #[serde(default)]
    pub committed_micros: i64,
    /// Where each sink stands behind it, in the order of the statements.
    pub sinks: Vec<serde_json::Value>,
    /// Where each source stands behind it, for people, by the name of the table.
    #[serde(default)]
    pub sources: BTreeMap<String, serde_json::Value>,
    /// Records that could not be read and were left out up to it, by the name of the table.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub skipped: BTreeMap<String, u64>,
    /// Rows that were late and were left out up to it, by the name of the table.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub late: BTreeMap<String, u64>,
    /// The watermarks behind it, in microseconds since 1970, by the name of the table.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub watermarks: BTreeMap<String, i64>,
    /// What all epochs up to it have cost.
    #[serde(default)]
    pub cost: Cost,
}

/// What work has cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Time.
    pub micros: u64,
    /// Rows that were read.
    pub rows: u64,
    /// Bytes of memory, at the most: of epochs, the state of the operators.
    pub bytes: u64,
}

/// A file of the offset log: an epoch that begins, and with it the one that has ended, so that an epoch costs one file.
#[derive(Serialize, Deserialize)]
struct Begun {
    #[serde(flatten)]
    record: EpochRecord,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    committed: Option<Commit>,
}

/// Both logs of one pipeline.
#[derive(Debug)]
pub struct Logs {
    folder: Folder,
    /// A commit that is not in a file yet. Were it lost, its epoch would be run again, and show the same.
    waiting: Option<Commit>,
}

const OFFSETS: &str = "offsets";
const COMMITS: &str = "commits";

fn file(log: &str, epoch: Epoch) -> String {
    format!("{log}/{epoch:012}.json")
}

impl Logs {
    /// The logs in a pipeline's state folder.
    pub fn new(folder: Folder) -> Self {
        Self { folder, waiting: None }
    }

    /// Logs an epoch that is about to begin, and the commit of the one before.
    pub async fn begin(&mut self, record: &EpochRecord) -> Result<()> {
        let begun = Begun { record: record.clone(), committed: self.waiting.take() };
        if self.folder.create(&file(OFFSETS, record.epoch), seal(&begun)?).await? {
            return Ok(());
        }
        Err(Error::query(format!("another process runs on the state in {}", self.folder.name()))
            .note(format!("it has begun epoch {}, which this one was about to begin", record.epoch))
            .hint("stop one of them, or give each its own folder with --state"))
    }

    /// Takes it that all sinks hold an epoch; the next epoch, or [`Logs::flush`], writes it down.
    pub fn commit(&mut self, commit: Commit) {
        self.waiting = Some(commit);
    }

    /// Writes the last commit down, if it is not.
    pub async fn flush(&mut self) -> Result<()> {
        if let Some(commit) = self.waiting.take() {
            self.folder.create(&file(COMMITS, commit.epoch), seal(&commit)?).await?;
        }
        Ok(())
    }

    /// The epochs behind `after` that were begun, in order, and the last one that all sinks hold.
    pub async fn read(&self, after: Epoch) -> Result<(Vec<EpochRecord>, Commit)> {
        let mut committed = match epochs(&self.folder.list(COMMITS).await?).max() {
            Some(last) => self.open(COMMITS, last).await?,
            None => Commit::default(),
        };
        let mut begun = Vec::new();
        let names = self.folder.list(OFFSETS).await?;
        for epoch in epochs(&names).filter(|epoch| *epoch > after) {
            let Begun { record, committed: with }: Begun = self.open(OFFSETS, epoch).await?;
            let expected = after + 1 + begun.len() as u64;
            if record.epoch != epoch || epoch != expected {
                return Err(Error::query(format!(
                    "{}: epoch {expected} is missing from the offset log",
                    self.folder.name()
                ))
                .hint("restore the folder from a backup, or start anew with --fresh: outputs are then written again"));
            }
            if let Some(commit) = with.filter(|commit| commit.epoch > committed.epoch) {
                committed = commit;
            }
            begun.push(record);
        }
        Ok((begun, committed))
    }

    /// Removes what both logs say of epochs up to `through`; the last commit stays.
    pub async fn trim(&self, through: Epoch) -> Result<()> {
        let offsets = self.folder.list(OFFSETS).await?;
        let commits = self.folder.list(COMMITS).await?;
        let old = epochs(&offsets).filter(|epoch| *epoch <= through).map(|epoch| file(OFFSETS, epoch));
        let done = epochs(&commits).filter(|epoch| *epoch < through).map(|epoch| file(COMMITS, epoch));
        self.folder.remove(&old.chain(done).collect::<Vec<_>>()).await
    }

    async fn open<T: DeserializeOwned>(&self, log: &str, epoch: Epoch) -> Result<T> {
        let name = file(log, epoch);
        let bytes = self.folder.read(&name).await?.unwrap_or_default();
        unseal(&bytes, &format!("{}/{name}", self.folder.name()))
    }
}

fn epochs(names: &[String]) -> impl Iterator<Item = Epoch> {
    names.iter().filter_map(|name| name.strip_suffix(".json")?.parse().ok())
}

/// JSON with its CRC-32 behind it, so that the whole is a JSON document that SQL can read.
pub(super) fn seal<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let mut text = serde_json::to_string(value).map_err(|e| Error::query(format!("cannot write state: {e}")))?;
    text.pop();
    let crc = crc32fast::hash(text.as_bytes());
    text.push_str(&format!(",\"crc32\":\"{crc:08x}\"}}\n"));
    Ok(text.into_bytes())
}

/// What [`seal`] wrote; an error if it is not what was written.
pub(super) fn unseal<T: DeserializeOwned>(bytes: &[u8], name: &str) -> Result<T> {
    const TAIL: usize = ",\"crc32\":\"00000000\"}\n".len();
    let damaged = || {
        Error::query(format!("{name} is damaged"))
            .hint("restore it from a backup, or start anew with --fresh: outputs are then written again")
    };
    let cut = bytes.len().checked_sub(TAIL).ok_or_else(damaged)?;
    let (text, tail) = bytes.split_at(cut);
    if tail != format!(",\"crc32\":\"{:08x}\"}}\n", crc32fast::hash(text)).as_bytes() {
        return Err(damaged());
    }
    serde_json::from_slice(&[text, b"}"].concat()).map_err(|_| damaged())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn epochs_are_read_back_and_a_flipped_bit_is_noticed() {
        let root = tempfile::tempdir().expect("folder");
        let mut logs = Logs::new(Folder::local(root.path()).expect("opens"));
        for epoch in 1..=3 {
            let range = OffsetRange::Rows { from: epoch * 10, to: epoch * 10 + 10 };
            let sources = BTreeMap::from([("t".to_owned(), range)]);
            logs.begin(&EpochRecord { epoch, now_micros: 7, seed: Some(epoch), sources, watermarks: BTreeMap::new() })
                .await
                .expect("begins");
            if epoch < 3 {
                logs.commit(Commit { epoch, ..Commit::default() });
            }
        }
        let (begun, committed) = logs.read(1).await.expect("reads");
        assert_eq!((begun.len(), begun[0].epoch, committed.epoch), (2, 2, 2));
        let again = logs.begin(&begun[0]).await.expect_err("the number is taken");
        assert!(again.message.contains("another process"), "{again:?}");
        let path = root.path().join("offsets/000000000003.json");
        let bytes = std::fs::read(&path).expect("reads");
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 4;
            std::fs::write(&path, &flipped).expect("writes");
            assert!(logs.read(1).await.is_err(), "bit at {at}");
        }
        std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("writes");
        assert!(logs.read(1).await.is_err());
        std::fs::write(&path, &bytes).expect("writes");
        logs.commit(Commit { epoch: 3, ..Commit::default() });
        assert_eq!(logs.read(1).await.expect("reads").1.epoch, 2, "it is not written down");
        logs.flush().await.expect("writes");
        assert_eq!(logs.read(1).await.expect("reads").1.epoch, 3);
        logs.trim(2).await.expect("trims");
        assert_eq!(std::fs::read_dir(root.path().join("offsets")).expect("lists").count(), 1);
    }
}
