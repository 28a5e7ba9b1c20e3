//! Groups → numbers.
//!
//! Enters: group columns. Leaves: a number for each group, under which its states are kept, and its columns again.
//! Always holds: a number is a group's own until the group is gone, and may then be given to another; floats that
//! SQL takes for equal (-0.0 and 0.0, all NaN) are one group.

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::DataType;
use hashbrown::{HashSet, HashTable};

use crate::change::RowMatcher;
use crate::error::Result;
use crate::operator::keys::{canonical, hash};

/// If one row of so many is the first of its kind, or fewer, the others are not looked at.
const MOST_EQUAL: usize = 4;

/// The groups of one shard.
pub(super) struct Groups {
    matcher: RowMatcher,
    table: HashTable<u32>,
    hashes: Vec<u64>,
    keys: Vec<Box<[u8]>>,
    key_bytes: usize,
    free: Vec<u32>,
    /// By group: how many rows it has. One of none is no group, but for the one without GROUP BY.
    pub(super) rows: Vec<i64>,
}

impl Groups {
    pub(super) fn new(types: Vec<DataType>) -> Result<Self> {
        Ok(Self {
            matcher: RowMatcher::new(types)?,
            table: HashTable::new(),
            hashes: Vec::new(),
            keys: Vec::new(),
            key_bytes: 0,
            free: Vec::new(),
            rows: Vec::new(),
        })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.keys.len() - self.free.len()
    }

    /// One more than the largest number that was ever given.
    pub(super) fn numbers(&self) -> usize {
        self.keys.len()
    }

    /// The number of each row's group; a group that is new gets one.
    pub(super) fn intern(&mut self, columns: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
        let columns: Vec<ArrayRef> = columns.iter().map(canonical).collect();
        // Of equal rows one is looked up.
        let firsts = self.matcher.firsts(&columns, &self.matcher.hashes(&columns, rows)?)?;
        let distinct: Vec<u32> = (0..rows as u32).filter(|row| firsts[*row as usize] == *row).collect();
        if distinct.len() * MOST_EQUAL > rows {
            let encoded = self.matcher.encoder().encode(&columns, rows)?;
            return Ok((0..rows).map(|row| self.number(encoded.row(row))).collect());
        }
        let places = UInt32Array::from(distinct);
        let columns = columns.iter().map(|column| Ok(take(column, &places, None)?)).collect::<Result<Vec<_>>>()?;
        let encoded = self.matcher.encoder().encode(&columns, places.len())?;
        let mut numbers = vec![0; rows];
        for (at, row) in places.values().iter().enumerate() {
            numbers[*row as usize] = self.number(encoded.row(at));
        }
        Ok(firsts.into_iter().map(|first| numbers[first as usize]).collect())
    }

    fn number(&mut self, key: &[u8]) -> u32 {
        let hash = hash(key);
        let same = |number: &u32| self.hashes[*number as usize] == hash && *self.keys[*number as usize] == *key;
        if let Some(known) = self.table.find(hash, same) {
            return *known;
        }
        let number = self.free.pop().unwrap_or(self.keys.len() as u32);
        self.place(number, hash, key);
        number
    }

    /// Gives a key a number that no other has.
    fn place(&mut self, number: u32, hash: u64, key: &[u8]) {
        let at = number as usize;
        if self.keys.len() <= at {
            self.keys.resize(at + 1, Box::default());
            self.hashes.resize(at + 1, 0);
            self.rows.resize(at + 1, 0);
        }
        self.hashes[at] = hash;
        self.keys[at] = key.into();
        self.key_bytes += key.len();
        self.table.insert_unique(hash, number, |number| self.hashes[*number as usize]);
    }

    /// Takes groups back, under the numbers that they had, if they are given.
    pub(super) fn restore(&mut self, columns: &[ArrayRef], rows: usize, numbers: Option<Vec<u32>>) -> Result<Vec<u32>> {
        let Some(numbers) = numbers else { return self.intern(columns, rows) };
        let encoded = self.matcher.encoder().encode(columns, rows)?;
        for (row, number) in numbers.iter().enumerate() {
            self.place(*number, hash(encoded.row(row)), encoded.row(row));
        }
        let taken: HashSet<u32> = numbers.iter().copied().collect();
        self.free = (0..self.keys.len() as u32).filter(|number| !taken.contains(number)).collect();
        Ok(numbers)
    }

    /// The numbers of all groups.
    pub(super) fn all(&self) -> Vec<u32> {
        let free: HashSet<u32> = self.free.iter().copied().collect();
        (0..self.keys.len() as u32).filter(|number| !free.contains(number)).collect()
    }

    /// The hash by which groups are dealt to shards.
    pub(super) fn hash(&self, number: u32) -> u64 {
        self.hashes[number as usize]
    }

    /// Forgets a group; its number may be given again.
    pub(super) fn remove(&mut self, number: u32) {
        let hash = self.hashes[number as usize];
        if let Ok(entry) = self.table.find_entry(hash, |known| *known == number) {
            entry.remove();
            self.key_bytes -= self.keys[number as usize].len();
            self.keys[number as usize] = Box::default();
            self.rows[number as usize] = 0;
            self.free.push(number);
        }
    }

    /// The group columns of these groups.
    pub(super) fn columns(&self, numbers: &[u32]) -> Result<Vec<ArrayRef>> {
        self.matcher.encoder().decode(numbers.iter().map(|number| &*self.keys[*number as usize]))
    }

    /// Memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.key_bytes
            + self.keys.capacity() * 16
            + (self.hashes.capacity() + self.rows.capacity()) * 8
            + self.table.capacity() * 5
    }
}
