//! What an operator has changed since the last checkpoint.
//!
//! Enters: keys, each with what the operator wants to know of it. Leaves: at a checkpoint, those that have changed, or
//! word that all has to be saved. Always holds: what the files of a checkpoint hold stays in proportion to what there
//! is, however often it changes.

use std::collections::BTreeMap;

use arrow::record_batch::RecordBatch;

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
            ToSave::All => Saved::Whole(rows),
            _ if rows.is_empty() => Saved::Unchanged,
            _ => Saved::Added(rows),
        }
    }
}

/// Keys whose rows have changed.
pub(super) struct Log<K, V = ()> {
    changed: BTreeMap<K, V>,
    /// Rows that were saved since all of them were.
    saved_rows: usize,
    save_all: bool,
}

impl<K, V> Default for Log<K, V> {
    fn default() -> Self {
        Self { changed: BTreeMap::new(), saved_rows: 0, save_all: false }
    }
}

impl<K: Ord, V> Log<K, V> {
    /// A key has changed; what was said of it before is forgotten.
    pub(super) fn set(&mut self, key: K, value: V) {
        self.changed.insert(key, value);
    }

    /// A key changes for the first time since the last checkpoint, or again; what was said of it first stays.
    pub(super) fn set_first(&mut self, key: &K, value: V)
    where
        K: Clone,
    {
        if !self.changed.contains_key(key) {
            self.changed.insert(key.clone(), value);
        }
    }

    /// Forgets a key of which this holds: it is as it was at the last checkpoint.
    pub(super) fn forget_if(&mut self, key: &K, same: impl Fn(&V) -> bool) {
        if self.changed.get(key).is_some_and(same) {
            self.changed.remove(key);
        }
    }

    /// What the next checkpoint has to hold, where `rows` rows are there. `all`: whatever has changed.
    pub(super) fn take(&mut self, rows: usize, all: bool) -> ToSave<K, V> {
        let changed = std::mem::take(&mut self.changed);
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
    fn what_is_said_first_stays_if_it_should() {
        let mut log: Log<u32, &str> = Log::default();
        log.set_first(&1, "a");
        log.set_first(&1, "b");
        log.set(2, "a");
        log.set(2, "b");
        let ToSave::Changed(changed) = log.take(10, false) else { panic!("nothing has changed") };
        assert_eq!(changed.into_iter().collect::<Vec<_>>(), [(1, "a"), (2, "b")]);
    }
}
