//! Functions that need each value once: min and max where rows are taken away, and DISTINCT.
//!
//! Enters: rows with weights. Leaves: the results of groups. Always holds: how often each value is in a group, for min
//! and max in the order of the values; the work follows the rows, and not the values that are kept.

use std::collections::{BTreeMap, btree_map};
use std::ops::Bound;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, UInt32Array, UInt64Array, new_null_array};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef, UInt32Type};
use hashbrown::{HashMap, hash_map};

use super::function::{Batch, Fold, Function, Moved};
use super::sums::Sums;
use super::value_key::{PACKED_BYTES, ValueKey};
use super::{GROUP, SHARD};
use crate::change::{RowEncoder, WEIGHT, retracted_too_often, with_columns};
use crate::checkpoint::{Pieces, Saved};
use crate::error::Result;
use crate::operator::keys::canonical;
use crate::operator::log::{Log, ToSave};
use crate::planner::Sum;

/// So much room for the keys of an epoch is kept for the next one.
const KEPT_KEYS: usize = 1 << 19;

enum Role {
    Least,
    Greatest,
    /// A value counts once, however often it is there.
    Distinct(Box<Sums>),
}

/// How often each value is there.
enum Counts<K> {
    /// In the order of the values, where one asks for it.
    Ordered(BTreeMap<K, i64>),
    Hashed(HashMap<K, i64>),
    /// By the number of the group, where groups are forgotten; and how many there are.
    Grouped(Vec<HashMap<K, i64>>, usize),
}

impl<K: ValueKey> Counts<K> {
    fn len(&self) -> usize {
        match self {
            Self::Ordered(counts) => counts.len(),
            Self::Hashed(counts) => counts.len(),
            Self::Grouped(_, len) => *len,
        }
    }

    fn get(&self, key: &K::Slice) -> i64 {
        let count = match self {
            Self::Ordered(counts) => counts.get(key),
            Self::Hashed(counts) => counts.get(key),
            Self::Grouped(groups, _) => groups.get(K::group_of(key) as usize).and_then(|counts| counts.get(key)),
        };
        count.copied().unwrap_or(0)
    }

    /// Changes the count of a key, and gives what it was.
    fn add(&mut self, key: K, more: i64) -> i64 {
        match self {
            Self::Ordered(counts) => match counts.entry(key) {
                btree_map::Entry::Occupied(mut known) => {
                    let before = *known.get();
                    if before + more == 0 {
                        known.remove();
                    } else {
                        *known.get_mut() += more;
                    }
                    before
                }
                btree_map::Entry::Vacant(new) => {
                    new.insert(more);
                    0
                }
            },
            Self::Hashed(counts) => add(counts, key, more),
            Self::Grouped(groups, len) => {
                let group = key.group() as usize;
                if groups.len() <= group {
                    groups.resize_with(group + 1, HashMap::new);
                }
                let counts = &mut groups[group];
                let there = counts.len();
                let before = add(counts, key, more);
                *len = *len + counts.len() - there;
                if counts.is_empty() {
                    *counts = HashMap::new();
                }
                before
            }
        }
    }

    /// All keys, in order.
    fn keys(&self) -> Vec<&K> {
        let mut keys: Vec<&K> = match self {
            Self::Ordered(counts) => return counts.keys().collect(),
            Self::Hashed(counts) => counts.keys().collect(),
            Self::Grouped(groups, _) => groups.iter().flat_map(HashMap::keys).collect(),
        };
        keys.sort_unstable();
        keys
    }
}

fn add<K: ValueKey>(counts: &mut HashMap<K, i64>, key: K, more: i64) -> i64 {
    match counts.entry(key) {
        hash_map::Entry::Occupied(mut known) => {
            let before = *known.get();
            if before + more == 0 {
                known.remove();
            } else {
                *known.get_mut() += more;
            }
            before
        }
        hash_map::Entry::Vacant(new) => {
            new.insert(more);
            0
        }
    }
}

/// How often each value is in each group.
pub(super) struct Counted<K: ValueKey> {
    function: Function,
    role: Role,
    kind: DataType,
    encoder: RowEncoder,
    /// Bytes of an encoded value, where all are as long.
    width: usize,
    counts: Counts<K>,
    key_bytes: usize,
    /// What the epoch adds.
    added: HashMap<K, i64>,
    log: Log<K>,
    schema: SchemaRef,
}

/// Bytes of a value of this type as the encoder writes it: a byte that says whether it is NULL, then the value.
fn packed_width(kind: &DataType) -> Option<usize> {
    kind.primitive_width().map(|width| width + 1).filter(|width| *width <= PACKED_BYTES)
}

/// The least of the values.
pub(super) fn least(function: Function) -> Result<Box<dyn Fold>> {
    counted(function, Role::Least, false)
}

/// The greatest of the values.
pub(super) fn greatest(function: Function) -> Result<Box<dyn Fold>> {
    counted(function, Role::Greatest, false)
}

/// What the values sum up to, each taken once. `input` are the columns that the function is over; `forgets`: groups go
/// with their rows.
pub(super) fn distinct(function: Function, sum: Sum, input: &SchemaRef, forgets: bool) -> Result<Box<dyn Fold>> {
    let sums = Sums::new(function.of_all(input)?, sum);
    counted(function, Role::Distinct(Box::new(sums)), forgets)
}

fn counted(function: Function, role: Role, forgets: bool) -> Result<Box<dyn Fold>> {
    Ok(match packed_width(&function.types[0]) {
        Some(width) => Box::new(Counted::<u128>::new(function, role, width, forgets)?),
        None => Box::new(Counted::<Box<[u8]>>::new(function, role, 0, forgets)?),
    })
}

impl<K: ValueKey> Counted<K> {
    fn new(function: Function, role: Role, width: usize, forgets: bool) -> Result<Self> {
        let kind = function.types[0].clone();
        let schema = Arc::new(Schema::new(vec![
            Field::new(SHARD, DataType::UInt32, false),
            Field::new(GROUP, DataType::UInt32, false),
            Field::new("value", kind.clone(), true),
            Field::new(WEIGHT, DataType::Int64, false),
        ]));
        Ok(Self {
            encoder: RowEncoder::new([kind.clone()])?,
            function,
            counts: match role {
                Role::Distinct(_) if forgets => Counts::Grouped(Vec::new(), 0),
                Role::Distinct(_) => Counts::Hashed(HashMap::new()),
                Role::Least | Role::Greatest => Counts::Ordered(BTreeMap::new()),
            },
            role,
            kind,
            width,
            key_bytes: 0,
            added: HashMap::new(),
            log: Log::default(),
            schema,
        })
    }

    /// Changes the count of a key by a number that is not 0, and gives what it was.
    fn add(&mut self, key: K, more: i64) -> i64 {
        let bytes = key.bytes();
        let before = self.counts.add(key, more);
        if before == 0 {
            self.key_bytes += bytes;
        } else if before + more == 0 {
            self.key_bytes -= bytes;
        }
        before
    }

    /// Sets the count of a key, as it was saved.
    fn put(&mut self, key: K, count: i64) {
        let before = self.counts.get(key.borrow());
        if before != count {
            self.add(key, count - before);
        }
    }

    /// The values of keys.
    fn values<'a>(&self, keys: impl Iterator<Item = &'a K>) -> Result<ArrayRef> {
        let (mut bytes, mut ends) = (Vec::new(), vec![0]);
        for key in keys {
            key.write(self.width, &mut bytes);
            ends.push(bytes.len());
        }
        let columns = self.encoder.decode(ends.windows(2).map(|ends| &bytes[ends[0]..ends[1]]))?;
        Ok(Arc::clone(&columns[0]))
    }

    /// The keys of a group, in the order of the values where one asks for it.
    fn keys_of(&self, group: u32) -> Box<dyn Iterator<Item = &K> + '_> {
        match &self.counts {
            Counts::Ordered(counts) => Box::new(range_of(counts, group)),
            Counts::Hashed(counts) => Box::new(counts.keys().filter(move |key| key.group() == group)),
            Counts::Grouped(groups, _) => Box::new(groups.get(group as usize).into_iter().flat_map(HashMap::keys)),
        }
    }

    fn extreme(&self, group: u32) -> Option<&K> {
        let Counts::Ordered(counts) = &self.counts else { return None };
        let mut keys = range_of(counts, group);
        if matches!(self.role, Role::Least) { keys.next() } else { keys.next_back() }
    }
}

/// The keys of a group, in order.
fn range_of<K: ValueKey>(counts: &BTreeMap<K, i64>, group: u32) -> impl DoubleEndedIterator<Item = &K> {
    let (first, next) = (K::first_of(group), group.checked_add(1).map(K::first_of));
    let end = next.as_ref().map_or(Bound::Unbounded, |next| Bound::Excluded(next.borrow()));
    counts.range::<K::Slice, _>((Bound::Included(first.borrow()), end)).map(|(key, _)| key)
}

impl<K: ValueKey> Fold for Counted<K> {
    fn update(&mut self, batch: &Batch<'_>) -> Result<()> {
        let arguments = self.function.arguments(batch.rows)?;
        let selected = self.function.selected(batch.rows)?;
        let values = match self.role {
            Role::Distinct(_) => canonical(&arguments[0]),
            _ => Arc::clone(&arguments[0]),
        };
        let nulls = values.logical_nulls();
        let encoded = self.encoder.encode(&[values], batch.len())?;
        let mut scratch = K::Scratch::default();
        for row in 0..batch.len() {
            let left_out = selected.as_ref().is_some_and(|selected| !selected.value(row));
            if left_out || nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                continue;
            }
            let key = K::place(batch.numbers[row], encoded.row(row), &mut scratch);
            match self.added.get_mut(key) {
                Some(count) => *count += batch.weight(row),
                None => {
                    self.added.insert(K::own(key), batch.weight(row));
                }
            }
        }
        Ok(())
    }

    fn settle(&mut self, touched: &[u32], groups: usize) -> Result<()> {
        let mut turned: Vec<(K, i64)> = Vec::new();
        let mut added = std::mem::take(&mut self.added);
        for (key, more) in added.drain().filter(|(_, more)| *more != 0) {
            let before = self.add(key.clone(), more);
            let after = before + more;
            if after < 0 {
                return Err(retracted_too_often());
            }
            self.log.set_among(self.counts.len(), || key.clone(), ());
            if (before == 0) != (after == 0) {
                turned.push((key, if before == 0 { 1 } else { -1 }));
            }
        }
        // The next epoch has about as many; what a history has brought is given back.
        if added.capacity() <= KEPT_KEYS {
            self.added = added;
        }
        if !matches!(self.role, Role::Distinct(_)) {
            return Ok(());
        }
        let values = self.values(turned.iter().map(|(key, _)| key))?;
        let numbers: Vec<u32> = turned.iter().map(|(key, _)| key.group()).collect();
        if let Role::Distinct(sums) = &mut self.role {
            sums.add(&[values], &numbers, groups, Some(turned.iter().map(|(_, times)| *times).collect()))?;
            sums.settle(touched, groups)?;
        }
        Ok(())
    }

    fn results(&self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        if let Role::Distinct(sums) = &self.role {
            return sums.results(groups);
        }
        let keys: Vec<Option<&K>> = groups.iter().map(|group| self.extreme(*group)).collect();
        let values = self.values(keys.iter().copied().flatten())?;
        if values.is_empty() {
            return Ok(vec![new_null_array(&self.kind, groups.len())]);
        }
        let mut next = 0;
        let places = keys.iter().map(|key| {
            key.map(|_| {
                next += 1;
                next - 1
            })
        });
        Ok(vec![arrow::compute::take(&values, &places.collect::<UInt64Array>(), None)?])
    }

    fn remove(&mut self, group: u32) {
        if let Role::Distinct(sums) = &mut self.role {
            sums.remove(group);
        }
    }

    fn forget(&mut self, group: u32) -> Result<()> {
        let keys: Vec<K> = self.keys_of(group).cloned().collect();
        for key in keys {
            let count = self.counts.get(key.borrow());
            self.add(key.clone(), -count);
            self.log.set_among(self.counts.len(), || key, ());
        }
        self.remove(group);
        Ok(())
    }

    fn fields(&self) -> Vec<FieldRef> {
        match &self.role {
            Role::Distinct(sums) => sums.fields(),
            _ => Vec::new(),
        }
    }

    fn states(&self, groups: &[u32]) -> Result<Vec<ArrayRef>> {
        match &self.role {
            Role::Distinct(sums) => sums.states(groups),
            _ => Ok(Vec::new()),
        }
    }

    fn restore_states(&mut self, groups: &[u32], total: usize, columns: &[ArrayRef]) -> Result<()> {
        match &mut self.role {
            Role::Distinct(sums) => sums.restore_states(groups, total, columns),
            _ => Ok(()),
        }
    }

    fn has_part(&self) -> bool {
        true
    }

    fn save(&mut self, shard: u32, whole: bool) -> Result<Option<Saved>> {
        let saved = self.log.take(self.counts.len(), whole);
        let keys: Vec<&K> = match &saved {
            ToSave::Nothing => return Ok(Some(Saved::Unchanged)),
            ToSave::Changed(changed) => changed.keys().collect(),
            ToSave::All => self.counts.keys(),
        };
        let counts = keys.iter().map(|key| self.counts.get((*key).borrow()));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from(vec![shard; keys.len()])),
            Arc::new(UInt32Array::from_iter_values(keys.iter().map(|key| key.group()))),
            self.values(keys.iter().copied())?,
            Arc::new(Int64Array::from_iter_values(counts)),
        ];
        let rows = with_columns(&self.schema, columns, keys.len())?;
        Ok(Some(saved.of(vec![rows])))
    }

    fn restore(&mut self, saved: Pieces, moved: &dyn Moved) -> Result<()> {
        for batch in saved {
            let batch = batch?;
            // Groups that have moved are saved as a whole by who asks.
            self.log.restored(batch.num_rows(), false);
            let shards = batch.column(0).as_primitive::<UInt32Type>();
            let groups = batch.column(1).as_primitive::<UInt32Type>();
            let counts = batch.column(3).as_primitive::<Int64Type>();
            let encoded = self.encoder.encode(&batch.columns()[2..3], batch.num_rows())?;
            let mut scratch = K::Scratch::default();
            for row in 0..batch.num_rows() {
                // Values of a group that is gone by now are gone too.
                if let Some(group) = moved.number(shards.value(row), groups.value(row)) {
                    let key = K::own(K::place(group, encoded.row(row), &mut scratch));
                    self.put(key, counts.value(row));
                }
            }
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        let sums = if let Role::Distinct(sums) = &self.role { sums.bytes() } else { 0 };
        // The key itself and its count, and what a tree or table leaves free.
        let groups = if let Counts::Grouped(groups, _) = &self.counts {
            groups.capacity() * size_of::<HashMap<K, i64>>()
        } else {
            0
        };
        sums + groups + self.key_bytes + self.counts.len() * (size_of::<K>() + 8) * 3 / 2
    }
}
