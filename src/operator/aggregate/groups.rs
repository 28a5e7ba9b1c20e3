//! Groups → numbers.
//!
//! Enters: group columns. Leaves: a number for each group, under which its states are kept, and its columns again.
//! Always holds: a number is a group's own until the group is gone, and may then be given to another; floats that
//! SQL takes for equal (-0.0 and 0.0, all NaN) are one group.

use arrow::array::{ArrayRef, Int64Array, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::DataType;
use hashbrown::{HashSet, HashTable};

use super::packed::{Packing, Row};
use crate::change::{RowMatcher, fold};
use crate::error::Result;
use crate::operator::keys::{KeyHasher, canonical, hash};

/// If one row of so many is the first of its kind, or fewer, the others are not looked at.
const MOST_EQUAL: usize = 4;

/// The groups of one shard.
pub(super) struct Groups {
    keys: Keys,
    hasher: KeyHasher,
    free: Vec<u32>,
    /// By group: how many rows it has. One of none is no group, but for the one without GROUP BY.
    pub(super) rows: Vec<i64>,
    /// Those that have changed since they were last taken, and by group, whether it is one of them.
    changed: (Vec<u32>, Vec<bool>),
}

/// The keys of the groups, by number.
enum Keys {
    Packed(Packed),
    Bytes(Bytes),
}

/// Keys of a few short columns.
struct Packed {
    packing: Packing,
    table: HashTable<u32>,
    rows: Vec<u128>,
    nulls: Vec<u16>,
}

/// All other keys.
struct Bytes {
    matcher: RowMatcher,
    table: HashTable<u32>,
    hashes: Vec<u64>,
    keys: Vec<Box<[u8]>>,
    key_bytes: usize,
}

impl Groups {
    pub(super) fn new(types: Vec<DataType>) -> Result<Self> {
        let table = HashTable::new();
        let keys = match Packing::of(&types) {
            Some(packing) => Keys::Packed(Packed { packing, table, rows: Vec::new(), nulls: Vec::new() }),
            None => {
                let matcher = RowMatcher::new(types.clone())?;
                Keys::Bytes(Bytes { matcher, table, hashes: Vec::new(), keys: Vec::new(), key_bytes: 0 })
            }
        };
        let changed = (Vec::new(), Vec::new());
        Ok(Self { keys, hasher: KeyHasher::new(types)?, free: Vec::new(), rows: Vec::new(), changed })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len() - self.free.len()
    }

    /// One more than the largest number that was ever given.
    pub(super) fn numbers(&self) -> usize {
        self.rows.len()
    }

    /// The number of each row's group; a group that is new gets one.
    pub(super) fn intern(&mut self, columns: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
        let columns: Vec<ArrayRef> = columns.iter().map(canonical).collect();
        let mut new = NewNumbers { free: &mut self.free, rows: &mut self.rows };
        match &mut self.keys {
            Keys::Packed(keys) => Ok(keys.intern(&columns, rows, &mut new)),
            Keys::Bytes(keys) => keys.intern(&columns, rows, &mut new),
        }
    }

    /// Takes groups back, under the numbers that they had, if they are given.
    pub(super) fn restore(&mut self, columns: &[ArrayRef], rows: usize, numbers: Option<Vec<u32>>) -> Result<Vec<u32>> {
        let Some(numbers) = numbers else { return self.intern(columns, rows) };
        let last = numbers.iter().max().map_or(0, |number| *number as usize + 1);
        self.rows.resize(last.max(self.rows.len()), 0);
        match &mut self.keys {
            Keys::Packed(keys) => {
                let packed = keys.packing.pack(columns, rows);
                packed.into_iter().zip(&numbers).for_each(|(row, number)| keys.place(*number, packed_hash(row), row));
            }
            Keys::Bytes(keys) => {
                let encoded = keys.matcher.encoder().encode(columns, rows)?;
                for (row, number) in numbers.iter().enumerate() {
                    keys.place(*number, hash(encoded.row(row)), encoded.row(row));
                }
            }
        }
        let mut taken = vec![false; self.rows.len()];
        numbers.iter().for_each(|number| taken[*number as usize] = true);
        self.free = (0..taken.len() as u32).filter(|number| !taken[*number as usize]).collect();
        Ok(numbers)
    }

    /// The numbers of all groups.
    pub(super) fn all(&self) -> Vec<u32> {
        let free: HashSet<u32> = self.free.iter().copied().collect();
        (0..self.rows.len() as u32).filter(|number| !free.contains(number)).collect()
    }

    /// The hashes by which groups of these columns are dealt to shards.
    pub(super) fn hashes(&self, columns: &[ArrayRef], rows: usize) -> Result<Vec<u64>> {
        self.hasher.hashes(columns, rows)
    }

    /// Forgets all groups, and gives their memory back.
    pub(super) fn clear(&mut self) {
        match &mut self.keys {
            Keys::Packed(keys) => {
                (keys.table, keys.rows, keys.nulls) = (HashTable::new(), Vec::new(), Vec::new());
            }
            Keys::Bytes(keys) => {
                (keys.table, keys.hashes, keys.keys, keys.key_bytes) = (HashTable::new(), Vec::new(), Vec::new(), 0);
            }
        }
        (self.free, self.rows, self.changed) = (Vec::new(), Vec::new(), (Vec::new(), Vec::new()));
    }

    /// Forgets a group; its number may be given again.
    pub(super) fn remove(&mut self, number: u32) {
        let known = match &mut self.keys {
            Keys::Packed(keys) => keys.remove(number),
            Keys::Bytes(keys) => keys.remove(number),
        };
        if known {
            self.rows[number as usize] = 0;
            self.free.push(number);
        }
    }

    /// Counts rows, so many times each, for their groups.
    pub(super) fn count(&mut self, numbers: &[u32], weights: Option<&Int64Array>) {
        match weights {
            None => numbers.iter().for_each(|number| self.rows[*number as usize] += 1),
            Some(weights) => {
                numbers.iter().zip(weights.values()).for_each(|(number, weight)| self.rows[*number as usize] += weight)
            }
        }
    }

    /// Notes that a group has changed.
    pub(super) fn change(&mut self, number: u32) {
        let (all, marks) = &mut self.changed;
        if marks.len() < self.rows.len() {
            marks.resize(self.rows.len(), false);
        }
        if !std::mem::replace(&mut marks[number as usize], true) {
            all.push(number);
        }
    }

    /// Takes the groups that have changed since the last call.
    pub(super) fn take_changed(&mut self) -> Vec<u32> {
        let (all, marks) = &mut self.changed;
        let mut all = std::mem::take(all);
        all.iter().for_each(|number| marks[*number as usize] = false);
        all.sort_unstable();
        all
    }

    /// The group columns of these groups.
    pub(super) fn columns(&self, numbers: &[u32]) -> Result<Vec<ArrayRef>> {
        let at = |number: &u32| *number as usize;
        match &self.keys {
            Keys::Packed(keys) => {
                keys.packing.unpack(numbers.iter().map(|number| (keys.rows[at(number)], keys.nulls[at(number)])))
            }
            Keys::Bytes(keys) => keys.matcher.encoder().decode(numbers.iter().map(|number| &*keys.keys[at(number)])),
        }
    }

    /// Memory, about.
    pub(super) fn bytes(&self) -> usize {
        let keys = match &self.keys {
            Keys::Packed(keys) => keys.rows.capacity() * 18 + keys.table.capacity() * 5,
            Keys::Bytes(keys) => {
                keys.key_bytes + keys.keys.capacity() * 16 + keys.hashes.capacity() * 8 + keys.table.capacity() * 5
            }
        };
        keys + self.rows.capacity() * 8 + self.changed.0.capacity() * 4 + self.changed.1.capacity()
    }
}

/// Where the numbers of new groups come from.
struct NewNumbers<'a> {
    free: &'a mut Vec<u32>,
    rows: &'a mut Vec<i64>,
}

impl NewNumbers<'_> {
    fn next(&mut self) -> u32 {
        self.free.pop().unwrap_or_else(|| {
            self.rows.push(0);
            self.rows.len() as u32 - 1
        })
    }
}

/// A hash of one process: that of a [`KeyHasher`] takes longer.
#[inline]
fn packed_hash((bits, nulls): Row) -> u64 {
    let low = fold(bits as u64 ^ 0x9E37_79B9_7F4A_7C15, 0xA076_1D64_78BD_642F);
    match ((bits >> 64) as u64, nulls) {
        (0, 0) => low,
        (high, nulls) => fold(low ^ high ^ u64::from(nulls), 0xE703_7ED1_A0B4_28DB),
    }
}

impl Packed {
    fn intern(&mut self, columns: &[ArrayRef], rows: usize, new: &mut NewNumbers<'_>) -> Vec<u32> {
        let longs = self.packing.longs(columns);
        let packed = if longs.is_none() { self.packing.pack(columns, rows) } else { Vec::new() };
        let mut number = |row: Row| {
            let hash = packed_hash(row);
            let same = |number: &u32| (self.rows[*number as usize], self.nulls[*number as usize]) == row;
            if let Some(known) = self.table.find(hash, same) {
                return *known;
            }
            let number = new.next();
            self.place(number, hash, row);
            number
        };
        match longs {
            Some(longs) => longs.iter().map(|bits| number((u128::from(*bits), 0))).collect(),
            None => packed.into_iter().map(number).collect(),
        }
    }

    /// Gives a key a number that no other has.
    fn place(&mut self, number: u32, hash: u64, (bits, nulls): Row) {
        let at = number as usize;
        if self.rows.len() <= at {
            self.rows.resize(at + 1, 0);
            self.nulls.resize(at + 1, 0);
        }
        (self.rows[at], self.nulls[at]) = (bits, nulls);
        self.table.insert_unique(hash, number, |number| {
            packed_hash((self.rows[*number as usize], self.nulls[*number as usize]))
        });
    }

    fn remove(&mut self, number: u32) -> bool {
        let hash = packed_hash((self.rows[number as usize], self.nulls[number as usize]));
        self.table.find_entry(hash, |known| *known == number).is_ok_and(|entry| {
            entry.remove();
            true
        })
    }
}

impl Bytes {
    fn intern(&mut self, columns: &[ArrayRef], rows: usize, new: &mut NewNumbers<'_>) -> Result<Vec<u32>> {
        // Of equal rows one is looked up.
        let firsts = self.matcher.firsts(columns, &self.matcher.hashes(columns, rows)?)?;
        let distinct: Vec<u32> = (0..rows as u32).filter(|row| firsts[*row as usize] == *row).collect();
        if distinct.len() * MOST_EQUAL > rows {
            let encoded = self.matcher.encoder().encode(columns, rows)?;
            return Ok((0..rows).map(|row| self.number(encoded.row(row), new)).collect());
        }
        let places = UInt32Array::from(distinct);
        let columns = columns.iter().map(|column| Ok(take(column, &places, None)?)).collect::<Result<Vec<_>>>()?;
        let encoded = self.matcher.encoder().encode(&columns, places.len())?;
        let mut numbers = vec![0; rows];
        for (at, row) in places.values().iter().enumerate() {
            numbers[*row as usize] = self.number(encoded.row(at), new);
        }
        Ok(firsts.into_iter().map(|first| numbers[first as usize]).collect())
    }

    fn number(&mut self, key: &[u8], new: &mut NewNumbers<'_>) -> u32 {
        let hash = hash(key);
        let same = |number: &u32| self.hashes[*number as usize] == hash && *self.keys[*number as usize] == *key;
        if let Some(known) = self.table.find(hash, same) {
            return *known;
        }
        let number = new.next();
        self.place(number, hash, key);
        number
    }

    /// Gives a key a number that no other has.
    fn place(&mut self, number: u32, hash: u64, key: &[u8]) {
        let at = number as usize;
        if self.keys.len() <= at {
            self.keys.resize(at + 1, Box::default());
            self.hashes.resize(at + 1, 0);
        }
        self.hashes[at] = hash;
        self.keys[at] = key.into();
        self.key_bytes += key.len();
        self.table.insert_unique(hash, number, |number| self.hashes[*number as usize]);
    }

    fn remove(&mut self, number: u32) -> bool {
        let hash = self.hashes[number as usize];
        let Ok(entry) = self.table.find_entry(hash, |known| *known == number) else { return false };
        entry.remove();
        self.key_bytes -= self.keys[number as usize].len();
        self.keys[number as usize] = Box::default();
        true
    }
}
