//! Tags → numbers, in one array.
//!
//! Enters: 32 bits of a hash, and a number. Leaves: the numbers under a tag. Always holds: an entry stands at the
//! place that its tag names or behind it without a gap; a lookup reads one line of the cache, mostly; the places are
//! in the order of the tags, so that growing is one pass from front to back.

/// No number.
pub(super) const NONE: u32 = u32::MAX;

const EMPTY: u64 = u64::MAX;

/// How many lookups are begun before the first is finished: their waits for memory overlap.
const AHEAD: usize = 32;

/// A table of (tag, number).
#[derive(Default)]
pub(super) struct Index {
    /// The tag above, the number below.
    entries: Vec<u64>,
    used: usize,
}

/// The part of a hash that an index keeps.
pub(super) fn tag_of(hash: u64) -> u32 {
    (hash >> 32) as u32
}

fn tag_in(entry: u64) -> u32 {
    (entry >> 32) as u32
}

fn number_in(entry: u64) -> u32 {
    (entry & 0xFFFF_FFFF) as u32
}

impl Index {
    fn home(&self, tag: u32) -> usize {
        ((u64::from(tag) * self.entries.len() as u64) >> 32) as usize
    }

    fn after(&self, place: usize) -> usize {
        if place + 1 == self.entries.len() { 0 } else { place + 1 }
    }

    /// The numbers under a tag.
    pub(super) fn all(&self, tag: u32) -> impl Iterator<Item = u32> + '_ {
        let mut place = if self.entries.is_empty() { NONE as usize } else { self.home(tag) };
        std::iter::from_fn(move || {
            while let Some(entry) = self.entries.get(place).copied().filter(|entry| *entry != EMPTY) {
                place = self.after(place);
                if tag_in(entry) == tag {
                    return Some(number_in(entry));
                }
            }
            None
        })
    }

    /// For each hash the number under its tag, or [`NONE`]; for tables that have one at the most.
    pub(super) fn find(&self, hashes: &[u64]) -> Vec<u32> {
        if self.entries.is_empty() {
            return vec![NONE; hashes.len()];
        }
        let mut found = Vec::with_capacity(hashes.len());
        let mut first = [(0_usize, 0_u64); AHEAD];
        for hashes in hashes.chunks(AHEAD) {
            for (at, hash) in first.iter_mut().zip(hashes) {
                let home = self.home(tag_of(*hash));
                *at = (home, self.entries[home]);
            }
            for ((home, entry), hash) in first.iter().zip(hashes) {
                found.push(self.resolve(*home, *entry, tag_of(*hash)));
            }
        }
        found
    }

    fn resolve(&self, mut place: usize, mut entry: u64, tag: u32) -> u32 {
        while entry != EMPTY {
            if tag_in(entry) == tag {
                return number_in(entry);
            }
            place = self.after(place);
            entry = self.entries[place];
        }
        NONE
    }

    /// Begins to read the places of these hashes, so that what follows finds them in the cache.
    pub(super) fn warm(&self, hashes: impl Iterator<Item = u64>) {
        if !self.entries.is_empty() {
            let read = |sum: u64, hash: u64| sum ^ self.entries[self.home(tag_of(hash))];
            std::hint::black_box(hashes.fold(0, read));
        }
    }

    /// Puts a number in the place of the one under its tag; gives that one, or [`NONE`].
    pub(super) fn replace(&mut self, tag: u32, number: u32) -> u32 {
        self.reserve();
        let mut place = self.home(tag);
        loop {
            let entry = self.entries[place];
            if entry == EMPTY || tag_in(entry) == tag {
                self.entries[place] = u64::from(tag) << 32 | u64::from(number);
                self.used += usize::from(entry == EMPTY);
                return if entry == EMPTY { NONE } else { number_in(entry) };
            }
            place = self.after(place);
        }
    }

    /// Adds a number beside others under its tag.
    pub(super) fn insert(&mut self, tag: u32, number: u32) {
        self.reserve();
        self.put(u64::from(tag) << 32 | u64::from(number));
        self.used += 1;
    }

    /// Takes a number out.
    pub(super) fn remove(&mut self, tag: u32, number: u32) {
        if self.entries.is_empty() {
            return;
        }
        let wanted = u64::from(tag) << 32 | u64::from(number);
        let mut hole = self.home(tag);
        while self.entries[hole] != wanted {
            if self.entries[hole] == EMPTY {
                return;
            }
            hole = self.after(hole);
        }
        self.used -= 1;
        // What stands behind moves up, unless it would stand before its own place.
        let mut place = self.after(hole);
        while self.entries[place] != EMPTY {
            let home = self.home(tag_in(self.entries[place]));
            let stays = if hole < place { hole < home && home <= place } else { hole < home || home <= place };
            if !stays {
                self.entries[hole] = self.entries[place];
                hole = place;
            }
            place = self.after(place);
        }
        self.entries[hole] = EMPTY;
    }

    fn put(&mut self, entry: u64) {
        let mut place = self.home(tag_in(entry));
        while self.entries[place] != EMPTY {
            place = self.after(place);
        }
        self.entries[place] = entry;
    }

    /// Room for one more: at most three of four places are taken.
    fn reserve(&mut self) {
        let places = self.entries.len();
        if (self.used + 1) * 4 <= places * 3 {
            return;
        }
        let old = std::mem::replace(&mut self.entries, vec![EMPTY; places + places / 2 + 16]);
        old.into_iter().filter(|entry| *entry != EMPTY).for_each(|entry| self.put(entry));
    }

    pub(super) fn bytes(&self) -> usize {
        self.entries.capacity() * 8
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_are_found_under_their_tags(
            steps in prop::collection::vec((any::<bool>(), prop_oneof![0_u32..4, u32::MAX - 3..=u32::MAX, any::<u32>()], 0_u32..40), 1..400)
        ) {
            let mut index = Index::default();
            let mut model: BTreeSet<(u32, u32)> = BTreeSet::new();
            for (adds, tag, number) in steps {
                if adds && model.insert((tag, number)) {
                    index.insert(tag, number);
                } else if !adds {
                    // Mostly one that is there.
                    let (tag, number) = model.range((tag, 0)..).next().copied().unwrap_or((tag, number));
                    model.remove(&(tag, number));
                    index.remove(tag, number);
                }
                prop_assert_eq!(index.used, model.len());
                let tags: BTreeSet<u32> = model.iter().map(|(tag, _)| *tag).chain([tag, 7]).collect();
                for tag in tags {
                    let mut found: Vec<u32> = index.all(tag).collect();
                    found.sort_unstable();
                    let expected: Vec<u32> = model.range((tag, 0)..=(tag, NONE)).map(|(_, number)| *number).collect();
                    prop_assert_eq!(found, expected);
                }
            }
        }

        #[test]
        fn one_number_takes_the_place_of_another(steps in prop::collection::vec((0_u64..50, 0_u32..1000), 1..300)) {
            let mut index = Index::default();
            let mut model = std::collections::BTreeMap::new();
            for (key, number) in steps {
                let hash = (key * 0x0123_4567) << 32;
                let before = model.insert(key, number).unwrap_or(NONE);
                prop_assert_eq!(index.replace(tag_of(hash), number), before);
            }
            let keys: Vec<u64> = (0..60).collect();
            let hashes: Vec<u64> = keys.iter().map(|key| (key * 0x0123_4567) << 32).collect();
            let expected: Vec<u32> = keys.iter().map(|key| model.get(key).copied().unwrap_or(NONE)).collect();
            prop_assert_eq!(index.find(&hashes), expected);
        }
    }
}
