//! What an operator has changed since the last checkpoint.
//!
//! Enters: keys, each with what the operator wants to know of it. Leaves: at a checkpoint, those that have changed, or
//! word that all has to be saved. Always holds: what the files of a checkpoint hold stays in proportion to what there
//! is, however often it changes.

use std::collections::BTreeMap;
use std::hash::Hash;

use arrow::record_batch::RecordBatch;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use crate::checkpoint::Saved;

/// Rows that may be saved beyond twice what there is.
const SPARE_ROWS: usize = 1000;

/// What a checkpoint has to hold.
pub(super) enum ToSave<K, V> {
    /// Nothing more than the one before.
    Nothing,
    /// What has changed.
    Changed(BTreeMap<K, V>),
    /// All that there is.
    All,
}

impl<K, V> ToSave<K, V> {
    /// These rows, as a checkpoint takes them.
    pub(super) fn of(&self, rows: Vec<RecordBatch>) -> Saved {
        match self {
            ToSave::All => Saved::Whole(rows.into()),
            _ if rows.is_empty() => Saved::Unchanged,
            _ => Saved::Added(rows.into()),
        }
    }
}

/// Keys whose rows have changed.
pub(super) struct Log<K, V = ()> {
    changed: HashMap<K, V>,
    /// Rows that were saved since all of them were.
    saved_rows: usize,
    save_all: bool,
}

impl<K, V> Default for Log<K, V> {
    fn default() -> Self {
        Self { changed: HashMap::new(), saved_rows: 0, save_all: false }
    }
}

impl<K: Ord + Hash, V> Log<K, V> {
    /// A key has changed; what was said of it before is forgotten.
    pub(super) fn set(&mut self, key: K, value: V) {
        self.changed.insert(key, value);
    }

    /// The same of one of `rows` keys that are there: where half of them have changed, all will be saved, and no more
    /// is noted.
    pub(super) fn set_among(&mut self, rows: usize, key: impl FnOnce() -> K, value: V) {
        if self.notes(rows) {
            self.changed.insert(key(), value);
        }
    }

    /// True as long as what changes is noted.
    fn notes(&mut self, rows: usize) -> bool {
        if !self.save_all && self.changed.len() > rows / 2 + SPARE_ROWS {
            (self.changed, self.save_all) = (HashMap::new(), true);
        }
        !self.save_all
    }

    /// One of `rows` keys that are there has changed: from what was said of it so far comes what is said now. Nothing: it
    /// is as at the last checkpoint, and is forgotten.
    pub(super) fn update(&mut self, rows: usize, key: K, change: impl FnOnce(Option<&V>) -> Option<V>) {
        if !self.notes(rows) {
            return;
        }
        match self.changed.entry(key) {
            Entry::Occupied(mut known) => match change(Some(known.get())) {
                Some(value) => {
                    known.insert(value);
                }
                None => {
                    known.remove();
                }
            },
            Entry::Vacant(new) => {
                change(None).map(|value| new.insert(value));
            }
        }
    }

    /// Takes what has changed since the last checkpoint, in order, as if nothing had.
    pub(super) fn take_changed(&mut self) -> BTreeMap<K, V> {
        std::mem::take(&mut self.changed).into_iter().collect()
    }

    /// What was noted is of a checkpoint.
    pub(super) fn clear(&mut self) {
        (self.changed, self.save_all) = (HashMap::new(), false);
    }

    /// So many rows more are saved with what was taken last.
    pub(super) fn count(&mut self, rows: usize) {
        self.saved_rows += rows;
    }

    /// What the next checkpoint has to hold, where `rows` rows are there. `all`: whatever has changed.
    pub(super) fn take(&mut self, rows: usize, all: bool) -> ToSave<K, V> {
        let changed = self.take_changed();
        self.saved_rows += changed.len();
        if std::mem::take(&mut self.save_all) || all || self.saved_rows > 2 * rows + SPARE_ROWS {
            self.saved_rows = rows;
            return ToSave::All;
        }
        if changed.is_empty() { ToSave::Nothing } else { ToSave::Changed(changed) }
    }

    /// So many rows of a checkpoint were taken over. `moved`: from other shards, so that all has to be saved again.
    pub(super) fn restored(&mut self, rows: usize, moved: bool) {
        self.changed.clear();
        self.saved_rows += rows;
        self.save_all |= moved;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count<V>(save: ToSave<u32, V>) -> Option<usize> {
        match save {
            ToSave::Nothing => Some(0),
            ToSave::Changed(changed) => Some(changed.len()),
            ToSave::All => None,
        }
    }

    #[test]
    fn all_is_saved_when_much_was_saved_again() {
        let mut log = Log::default();
        assert_eq!(count(log.take(10, false)), Some(0));
        // 10 rows at a time, until there are more than 1,020; then 10 count that were saved with all.
        let rounds = (0..220).filter(|_| {
            (0..10).for_each(|key| log.set(key, ()));
            count(log.take(10, false)).is_none()
        });
        assert_eq!(rounds.collect::<Vec<u32>>(), [102, 204]);
        log.set(1, ());
        assert_eq!(count(log.take(10, true)), None);
        log.restored(5, true);
        assert_eq!(count(log.take(10, false)), None);
    }

    #[test]
    fn half_of_all_is_all() {
        let mut log: Log<u32> = Log::default();
        let mut change = |keys: u32| (0..keys).for_each(|key| log.set_among(10_000, || key, ()));
        change(6000);
        change(6001);
        change(6002);
        assert_eq!(count(log.take(10_000, false)), None);
        (0..6000).for_each(|key| log.set_among(10_000, || key, ()));
        assert_eq!(count(log.take(10_000, false)), Some(6000));
    }

    #[test]
    fn what_is_as_it_was_is_forgotten() {
        let mut log: Log<u32, i64> = Log::default();
        let mut add = |key: u32, more: i64| {
            log.update(10, key, |known| Some(known.copied().unwrap_or(0) + more).filter(|sum| *sum != 0));
        };
        [(1, 2), (2, 5), (1, 1), (2, -5), (3, 0)].into_iter().for_each(|(key, more)| add(key, more));
        log.set(4, 7);
        log.set(4, 8);
        let ToSave::Changed(changed) = log.take(10, false) else { panic!("nothing has changed") };
        assert_eq!(changed.into_iter().collect::<Vec<_>>(), [(1, 3), (4, 8)]);
    }
}
