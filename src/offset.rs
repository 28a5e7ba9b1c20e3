//! Where a source stands, and what an epoch takes from it.
//!
//! Enters: what sources find. Leaves: an [`OffsetRange`] a source and epoch, as data that the offset log keeps.
//! Always holds: reading the same range again gives the same rows in the same order.

use serde::{Deserialize, Serialize};

/// One micro-batch, counted from 1.
pub type Epoch = u64;

/// The watermark of a source that has none yet.
pub const NO_WATERMARK: i64 = i64::MIN;

/// The watermark of a source of which nothing comes any more.
pub const ENDED: i64 = i64::MAX;

/// The entry in a Parquet file that says that rows are added behind those that it has, in versions of it.
pub const GROWS_KEY: &str = "fuse.grows";

/// What one epoch takes from one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OffsetRange {
    /// Pieces of files, in the order in which they are read.
    Files(Vec<FileSlice>),
    /// Rows of a generator, by number: the first, and the one behind the last.
    Rows {
        /// The first row.
        from: u64,
        /// The one behind the last row.
        to: u64,
    },
    /// Records of a topic's partitions.
    Partitions(Vec<PartitionSlice>),
    /// Of a table with a history: some of that.
    History(Box<OffsetRange>),
    /// Of a table with a history: some of the stream, and all of the history before it.
    Behind {
        /// All of the history.
        history: Box<OffsetRange>,
        /// Some of the stream.
        rest: Box<OffsetRange>,
    },
    /// All rows of a table at rest, as they were when the pipeline began.
    Table,
}

/// A piece of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSlice {
    /// The path in its store.
    pub path: String,
    /// Where the piece begins, in units of the format: bytes of text, row groups of Parquet (rows, where it has
    /// [`GROWS_KEY`]), batches of Arrow.
    pub from: u64,
    /// Where it ends, in the same units.
    pub to: u64,
    /// How much of the source the piece is, in bytes.
    pub bytes: u64,
    /// Nothing comes behind it: a binary file's end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub last: bool,
    /// Which file it is where names move between files: one that is followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileMark>,
}

/// Records of one partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionSlice {
    /// The partition.
    pub partition: i32,
    /// The first offset.
    pub from: i64,
    /// The one behind the last offset.
    pub to: i64,
}

/// By what a file is known again that was renamed, cut or written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMark {
    /// Its number in the file system.
    pub inode: u64,
    /// The CRC-32 of what was first and last in it, up to where it was taken.
    pub crc32: u32,
}

impl OffsetRange {
    /// What it takes, in words.
    pub fn describe(&self) -> String {
        match self {
            OffsetRange::Files(slices) => {
                let one = |slice: &FileSlice| format!("{} from {} to {}", slice.path, slice.from, slice.to);
                let mut text = slices.iter().take(3).map(one).collect::<Vec<_>>().join(", ");
                if slices.len() > 3 {
                    text += &format!(", and {} more files", slices.len() - 3);
                }
                text
            }
            OffsetRange::Rows { from, to } => format!("rows {from} to {to}"),
            OffsetRange::Partitions(slices) => {
                let one = |slice: &PartitionSlice| {
                    format!("partition {} from {} to {}", slice.partition, slice.from, slice.to)
                };
                slices.iter().map(one).collect::<Vec<_>>().join(", ")
            }
            OffsetRange::History(range) => format!("history: {}", range.describe()),
            OffsetRange::Behind { history, rest } => {
                format!("history: {}; then {}", history.describe(), rest.describe())
            }
            OffsetRange::Table => "a table".to_owned(),
        }
    }

    /// True if nothing is taken.
    pub fn is_empty(&self) -> bool {
        match self {
            OffsetRange::Files(slices) => slices.is_empty(),
            OffsetRange::Rows { from, to } => from >= to,
            OffsetRange::Partitions(slices) => slices.is_empty(),
            OffsetRange::History(range) => range.is_empty(),
            OffsetRange::Behind { history, rest } => history.is_empty() && rest.is_empty(),
            OffsetRange::Table => false,
        }
    }
}
