//! Functions that need each value once: min and max where rows are taken away, and DISTINCT.
//!
//! Enters: rows with weights. Leaves: the results of groups. Always holds: how often each value is in a group, in the
//! order of the values; the work follows the rows, and not the values that are kept.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, UInt32Array, UInt64Array, new_null_array};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type, Schema, SchemaRef, UInt32Type};

use super::function::{Batch, Fold, Function, Moved};
use super::sums::Sums;
use super::{GROUP, SHARD};
use crate::change::{RowEncoder, WEIGHT, retracted_too_often, with_columns};
use crate::checkpoint::{Pieces, Saved};
use crate::error::Result;
use crate::operator::keys::canonical;
use crate::operator::log::{Log, ToSave};
use crate::planner::Sum;

/// A group's number and a value, in the order of both.
type Key = Box<[u8]>;

enum Role {
    Least,
    Greatest,
    /// A value counts once, however often it is there.
    Distinct(Box<Sums>),
}

/// How often each value is in each group.
pub(super) struct Counted {
    function: Function,
    role: Role,
    kind: DataType,
    encoder: RowEncoder,
    counts: BTreeMap<Key, i64>,
    key_bytes: usize,
    /// What the epoch adds.
    added: HashMap<Key, i64>,
    log: Log<Key>,
    schema: SchemaRef,
}

impl Counted {
    /// The least of the values.
    pub(super) fn least(function: Function) -> Result<Self> {
        Self::new(function, Role::Least)
    }

    /// The greatest of the values.
    pub(super) fn greatest(function: Function) -> Result<Self> {
        Self::new(function, Role::Greatest)
    }

    /// What the values sum up to, each taken once. `input` are the columns that the function is over.
    pub(super) fn distinct(function: Function, sum: Sum, input: &SchemaRef) -> Result<Self> {
        let sums = Sums::new(function.of_all(input)?, sum);
        Self::new(function, Role::Distinct(Box::new(sums)))
    }

    fn new(function: Function, role: Role) -> Result<Self> {
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
            role,
            kind,
            counts: BTreeMap::new(),
            key_bytes: 0,
            added: HashMap::new(),
            log: Log::default(),
            schema,
        })
    }

    fn set(&mut self, key: Key, count: i64) {
        let len = key.len();
        if count == 0 {
            if self.counts.remove(&key).is_some() {
                self.key_bytes -= len;
            }
        } else if self.counts.insert(key, count).is_none() {
            self.key_bytes += len;
        }
    }

    /// The values of keys.
    fn values<'a>(&self, keys: impl Iterator<Item = &'a Key>) -> Result<ArrayRef> {
        let columns = self.encoder.decode(keys.map(|key| &key[4..]))?;
        Ok(Arc::clone(&columns[0]))
    }

    /// A group's values, in their order.
    fn keys_of(&self, group: u32) -> impl DoubleEndedIterator<Item = &Key> {
        let first: Key = group.to_be_bytes().into();
        let range = match group.checked_add(1) {
            Some(next) => self.counts.range(first..next.to_be_bytes().into()),
            None => self.counts.range(first..),
        };
        range.map(|(key, _)| key)
    }

    fn extreme(&self, group: u32) -> Option<&Key> {
        let mut keys = self.keys_of(group);
        if matches!(self.role, Role::Least) { keys.next() } else { keys.next_back() }
    }
}

fn group_of(key: &[u8]) -> u32 {
    key.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

impl Fold for Counted {
    fn update(&mut self, batch: &Batch<'_>) -> Result<()> {
        let arguments = self.function.arguments(batch.rows)?;
        let selected = self.function.selected(batch.rows)?;
        let values = match self.role {
            Role::Distinct(_) => canonical(&arguments[0]),
            _ => Arc::clone(&arguments[0]),
        };
        let nulls = values.logical_nulls();
        let encoded = self.encoder.encode(&[values], batch.len())?;
        let mut key = Vec::new();
        for row in 0..batch.len() {
            let left_out = selected.as_ref().is_some_and(|selected| !selected.value(row));
            if left_out || nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                continue;
            }
            key.clear();
            key.extend_from_slice(&batch.numbers[row].to_be_bytes());
            key.extend_from_slice(encoded.row(row));
            match self.added.get_mut(key.as_slice()) {
                Some(count) => *count += batch.weight(row),
                None => {
                    self.added.insert(key.as_slice().into(), batch.weight(row));
                }
            }
        }
        Ok(())
    }

    fn settle(&mut self, touched: &[u32], groups: usize) -> Result<()> {
        let mut turned: Vec<(Key, i64)> = Vec::new();
        for (key, added) in std::mem::take(&mut self.added) {
            if added == 0 {
                continue;
            }
            let before = self.counts.get(&key).copied().unwrap_or(0);
            let after = before + added;
            if after < 0 {
                return Err(retracted_too_often());
            }
            if (before == 0) != (after == 0) {
                turned.push((key.clone(), if before == 0 { 1 } else { -1 }));
            }
            self.set(key.clone(), after);
            self.log.set(key, ());
        }
        if !matches!(self.role, Role::Distinct(_)) {
            return Ok(());
        }
        let values = self.values(turned.iter().map(|(key, _)| key))?;
        let numbers: Vec<u32> = turned.iter().map(|(key, _)| group_of(key)).collect();
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
        let keys: Vec<Option<&Key>> = groups.iter().map(|group| self.extreme(*group)).collect();
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
        let keys: Vec<Key> = self.keys_of(group).cloned().collect();
        for key in keys {
            self.set(key.clone(), 0);
            self.log.set(key, ());
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
        let keys: Vec<&Key> = match &saved {
            ToSave::Nothing => return Ok(Some(Saved::Unchanged)),
            ToSave::Changed(changed) => changed.keys().collect(),
            ToSave::All => self.counts.keys().collect(),
        };
        let counts = keys.iter().map(|key| self.counts.get(*key).copied().unwrap_or(0));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from(vec![shard; keys.len()])),
            Arc::new(UInt32Array::from_iter_values(keys.iter().map(|key| group_of(key)))),
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
            for row in 0..batch.num_rows() {
                // Values of a group that is gone by now are gone too.
                if let Some(group) = moved.number(shards.value(row), groups.value(row)) {
                    let key = [&group.to_be_bytes(), encoded.row(row)].concat();
                    self.set(key.into(), counts.value(row));
                }
            }
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        let sums = if let Role::Distinct(sums) = &self.role { sums.bytes() } else { 0 };
        // A key's pointer, length and count, and what a tree leaves free.
        sums + self.key_bytes + self.counts.len() * 36
    }
}
