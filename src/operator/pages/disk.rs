//! Pages on disk.
//!
//! Enters: rows as bytes. Leaves: the same, by their place. Always holds: pages are written one behind the other, and a
//! file is begun when the one before is full, so there are few; a file goes when none of its pages is needed.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use datafusion::execution::disk_manager::DiskManager;

use super::{Entry, Key, Rows};
use crate::error::{Error, Result};
use crate::operator::spilled::{Spilled, failed};

/// Bytes from which a file is full.
const FILE_BYTES: u64 = 1 << 28;
/// What stands before the bytes of a key: its length, the weight and two places.
const HEAD: usize = 20;

/// Where a page is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) file: u32,
    pub(super) start: u64,
    pub(super) length: u32,
}

/// The files of one map.
pub(super) struct Files {
    files: BTreeMap<u32, Stored>,
    /// The number of the last file that was made.
    made: u32,
    /// Bytes from which a file is full.
    pub(super) full: u64,
}

/// One file.
struct Stored {
    spilled: Spilled,
    size: u64,
    /// Bytes of pages that are needed.
    live: u64,
}

impl Files {
    pub(super) fn new() -> Self {
        Self { files: BTreeMap::new(), made: 0, full: FILE_BYTES }
    }

    /// Writes pages behind the others. Their places begin at the one that this gives, and are needed from now on.
    pub(super) fn append(&mut self, bytes: &[u8], disk: &Arc<DiskManager>) -> Result<(u32, u64)> {
        let open = self.files.get(&self.made).is_some_and(|pages| pages.size < self.full);
        if !open {
            let spilled = Spilled::new("ordered rows of a pipeline's state", disk)?;
            self.made += 1;
            self.files.insert(self.made, Stored { spilled, size: 0, live: 0 });
        }
        let Some(pages) = self.files.get_mut(&self.made) else { return Err(lost()) };
        pages.spilled.file.write_all_at(bytes, pages.size).map_err(|error| failed(&error))?;
        let start = pages.size;
        pages.size += bytes.len() as u64;
        pages.live += bytes.len() as u64;
        Ok((self.made, start))
    }

    /// The bytes of a page.
    pub(super) fn read(&self, place: Place) -> Result<Vec<u8>> {
        let mut bytes = vec![0; place.length as usize];
        let pages = self.files.get(&place.file).ok_or_else(lost)?;
        pages.spilled.read(&mut bytes, place.start)?;
        Ok(bytes)
    }

    /// The page at this place is not needed any more.
    pub(super) fn forget(&mut self, place: Place) {
        let Some(pages) = self.files.get_mut(&place.file) else { return };
        pages.live -= u64::from(place.length);
        if pages.live == 0 {
            self.files.remove(&place.file);
        }
    }

    /// The full files of which less than half is needed.
    pub(super) fn sparse(&self) -> Vec<u32> {
        let sparse = self.files.iter().filter(|(_, pages)| pages.size >= self.full && pages.live * 2 < pages.size);
        sparse.map(|(number, _)| *number).collect()
    }

    /// Bytes on disk, and of these the ones that are needed.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> (u64, u64) {
        self.files.values().fold((0, 0), |(size, live), pages| (size + pages.size, live + pages.live))
    }
}

fn lost() -> Error {
    Error::query("state on disk could not be read: it is not as it was written")
        .hint("run the pipeline again: it goes on from its last checkpoint")
}

/// Adds the rows of a page to those that will be written; gives how many bytes they are. Nothing: too many.
pub(super) fn encode(rows: &Rows, into: &mut Vec<u8>) -> Option<u32> {
    let bytes = rows.all().len() * HEAD + rows.key_bytes();
    let length = u32::try_from(bytes).ok()?;
    into.reserve(bytes);
    for row in rows.all() {
        let (key, entry) = (&row.key, &row.entry);
        into.extend_from_slice(&(key.len() as u32).to_le_bytes());
        into.extend_from_slice(&entry.weight.to_le_bytes());
        into.extend_from_slice(&entry.order.to_le_bytes());
        into.extend_from_slice(&entry.row.to_le_bytes());
        into.extend_from_slice(key);
    }
    Some(length)
}

/// The rows of a page.
pub(super) fn decode(bytes: &[u8], count: usize) -> Result<Rows> {
    let mut rows = Vec::with_capacity(count);
    let mut rest = bytes;
    while let Some((row, behind)) = split(rest) {
        rows.push(row);
        rest = behind;
    }
    if rest.is_empty() && rows.len() == count { Ok(Rows::new(rows.into_iter())) } else { Err(lost()) }
}

fn split(bytes: &[u8]) -> Option<((Key, Entry), &[u8])> {
    let (length, bytes) = bytes.split_first_chunk()?;
    let (weight, bytes) = bytes.split_first_chunk()?;
    let (order, bytes) = bytes.split_first_chunk()?;
    let (row, bytes) = bytes.split_first_chunk()?;
    let (key, bytes) = bytes.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let entry =
        Entry { weight: i64::from_le_bytes(*weight), order: u32::from_le_bytes(*order), row: u32::from_le_bytes(*row) };
    Some(((Key::from(key), entry), bytes))
}
