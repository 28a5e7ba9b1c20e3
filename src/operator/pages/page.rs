//! The rows of one page.
//!
//! Enters: keys, each with what there is of its row. Leaves: where a key is. Always holds: rows are in order, and eight
//! bytes of each key, behind those that all keys have in common, lie beside each other: a search looks at these, and at
//! whole keys only where they are equal.

use super::{Entry, Key, PAGE_ROWS};

/// A key, and what there is of its row.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// The bytes of its key behind those that all have in common.
    head: u64,
    pub(super) key: Key,
    pub(super) entry: Entry,
}

/// Rows in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Rows {
    rows: Vec<Row>,
    /// All keys have so many bytes in common, or more.
    skip: usize,
}

fn head(key: &[u8], skip: usize) -> u64 {
    let rest = key.get(skip..).unwrap_or_default();
    match rest.first_chunk() {
        Some(bytes) => u64::from_be_bytes(*bytes),
        None => rest.iter().zip((0..8).rev()).map(|(byte, at)| u64::from(*byte) << (8 * at)).sum(),
    }
}

/// How many bytes two keys begin with alike.
pub(super) fn in_common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Rows {
    /// Of rows that are in order.
    pub(super) fn new(rows: impl ExactSizeIterator<Item = (Key, Entry)>) -> Self {
        let mut all = Vec::with_capacity(rows.len());
        all.extend(rows.map(|(key, entry)| Row { head: 0, key, entry }));
        let mut all = Self { rows: all, skip: 0 };
        all.settle();
        all
    }

    /// The rows.
    pub(super) fn all(&self) -> &[Row] {
        &self.rows
    }

    /// Memory, without that of the keys.
    pub(super) fn bytes(&self) -> usize {
        self.rows.capacity() * size_of::<Row>()
    }

    /// Bytes of the keys.
    pub(super) fn key_bytes(&self) -> usize {
        self.rows.iter().map(|row| row.key.len()).sum()
    }

    /// Looks at what all keys have in common.
    fn settle(&mut self) {
        let ends = self.rows.first().zip(self.rows.last());
        self.skip = ends.map_or(0, |(first, last)| in_common(&first.key, &last.key));
        for row in &mut self.rows {
            row.head = head(&row.key, self.skip);
        }
    }

    /// Where a key is, or where it would be.
    pub(super) fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let Some(first) = self.rows.first() else { return Err(0) };
        let common = &first.key[..self.skip];
        if !key.starts_with(common) {
            return Err(if key < common { 0 } else { self.rows.len() });
        }
        let own = head(key, self.skip);
        self.rows.binary_search_by(|row| row.head.cmp(&own).then_with(|| (*row.key).cmp(key)))
    }

    /// The place of the first key that is not before this one.
    pub(super) fn place(&self, key: &[u8]) -> usize {
        self.find(key).unwrap_or_else(|place| place)
    }

    /// Says anew what there is of the row at a place.
    pub(super) fn set(&mut self, place: usize, entry: Entry) {
        self.rows[place].entry = entry;
    }

    pub(super) fn insert(&mut self, place: usize, key: Key, entry: Entry) {
        let len = self.rows.len();
        if len == self.rows.capacity() {
            self.rows.reserve_exact(len.max(4).min(PAGE_ROWS.saturating_sub(len).max(1)));
        }
        let fits = self.rows.first().is_some_and(|first| key.starts_with(&first.key[..self.skip]));
        self.rows.insert(place, Row { head: head(&key, self.skip), key, entry });
        if !fits {
            self.settle();
        }
    }

    pub(super) fn remove(&mut self, place: usize) {
        self.rows.remove(place);
        // What was there once is no reason to keep room.
        if self.rows.len() * 4 < self.rows.capacity() && self.rows.capacity() > 4 {
            self.rows.shrink_to(self.rows.len() * 2);
        }
    }

    /// Takes the rows from a place on.
    pub(super) fn split_off(&mut self, place: usize) -> Self {
        let mut behind = Self { rows: self.rows.split_off(place), skip: 0 };
        self.settle();
        behind.settle();
        behind
    }

    /// Adds rows that are behind these.
    pub(super) fn append(&mut self, mut behind: Self) {
        self.rows.reserve_exact(behind.rows.len());
        self.rows.append(&mut behind.rows);
        self.settle();
    }
}
