//! From one way of dividing rows to another.
//!
//! Enters: the changes of all shards. Leaves: the same, by the hash of a key, or all in the first shard, of groups
//! with many rows summed up before; or their number, for all shards. Always holds: equal keys go to one shard, in this
//! run and in every later one.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, UInt64Array};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use hashbrown::{HashMap, HashSet};

use super::aggregate::Partial;
use super::exists::tally_schema;
use super::keys::{KeyHasher, evaluate_key, nulls, shard_of};
use super::{EpochContext, Operator};
use crate::change::{Changes, count, with_columns};
use crate::error::{Error, Result};

/// Rows that show whether groups have many.
const SAMPLE: usize = 4096;
/// Keys are few if each has so many of these rows, taken all together.
const FEW: usize = 8;
/// A key is hot if it has this part of them.
const HOT: usize = 256;

/// How an operator wants its input divided.
pub(super) enum Exchange {
    /// As it comes.
    None,
    /// All in the first shard.
    One,
    /// By the hash of these columns.
    Key { exprs: Vec<Arc<dyn PhysicalExpr>>, hasher: KeyHasher },
    /// Like `rows`; rows of groups that have many are summed up before, by each shard its own, and the sums are divided.
    Groups { rows: Box<Exchange>, shards: Vec<Partial>, sums: Box<Exchange> },
    /// How many rows there are, and in how many a column is NULL: the same for all shards.
    Tally { exprs: Vec<Arc<dyn PhysicalExpr>> },
}

impl Exchange {
    /// By the hash of these columns; without columns, all in the first shard.
    pub(super) fn by_key(exprs: Vec<Arc<dyn PhysicalExpr>>, types: Vec<DataType>) -> Result<Self> {
        if exprs.is_empty() {
            return Ok(Exchange::One);
        }
        Ok(Exchange::Key { exprs, hasher: KeyHasher::new(types)? })
    }

    /// By the hash of whole rows.
    pub(super) fn by_row(schema: &SchemaRef) -> Result<Self> {
        let columns = schema.fields().iter().enumerate();
        let exprs = columns.map(|(at, field)| Arc::new(Column::new(field.name(), at)) as Arc<dyn PhysicalExpr>);
        let types = schema.fields().iter().map(|field| field.data_type().clone());
        Self::by_key(exprs.collect(), types.collect())
    }

    /// By the columns of groups; `shards` sum up the rows of their groups.
    pub(super) fn by_group(rows: Exchange, shards: Vec<Partial>) -> Result<Self> {
        let Some(first) = shards.first() else { return Ok(rows) };
        let keys = match &rows {
            Exchange::Key { exprs, .. } => exprs.len(),
            _ => 0,
        };
        let keys: Vec<usize> = (0..keys).collect();
        let sums = Box::new(Self::by_row(&Arc::new(first.schema().project(&keys)?))?);
        Ok(Exchange::Groups { rows: Box::new(rows), shards, sums })
    }

    /// Divides the changes of all shards anew.
    pub(super) fn divide(&mut self, changes: Vec<Vec<Changes>>, shards: usize) -> Result<Vec<Vec<Changes>>> {
        match self {
            Exchange::None => Ok(changes),
            Exchange::Tally { exprs } => Ok(vec![tally(exprs, &changes)?; shards]),
            _ if shards == 1 => Ok(changes),
            Exchange::One => {
                let mut all = vec![Vec::new(); shards];
                all[0] = changes.into_iter().flatten().collect();
                Ok(all)
            }
            Exchange::Key { exprs, hasher } => {
                let divide =
                    |changes: Vec<Changes>| by_key(exprs, hasher, &changes, |hash| shard_of(hash, shards), shards);
                let parts = if rows_of(&changes) < super::PARALLEL_ROWS {
                    changes.into_iter().map(divide).collect::<Result<_>>()?
                } else {
                    in_parallel(changes, divide)?
                };
                Ok(joined(parts, shards))
            }
            Exchange::Groups { rows, shards: partials, sums } => by_sums(rows, partials, sums, changes, shards),
        }
    }
}

/// Divides rows by their groups; those of groups that have many are summed up before.
fn by_sums(
    rows: &mut Exchange,
    partials: &mut [Partial],
    sums: &mut Exchange,
    changes: Vec<Vec<Changes>>,
    shards: usize,
) -> Result<Vec<Vec<Changes>>> {
    if rows_of(&changes) < super::PARALLEL_ROWS {
        return rows.divide(changes, shards);
    }
    let hot = match rows {
        Exchange::Key { exprs, hasher } => repeated(exprs, hasher, &changes)?,
        _ => Repeated::Most,
    };
    if matches!(hot, Repeated::None) {
        return rows.divide(changes, shards);
    }
    let apart = match (&hot, &*rows) {
        (Repeated::These(hot), Exchange::Key { exprs, hasher }) => Some((hot, exprs, hasher)),
        _ => None,
    };
    let work = changes.into_iter().zip(partials).filter(|(changes, _)| !changes.is_empty()).collect();
    let parts = in_parallel(work, |(changes, partial)| {
        let (hot, others) = match apart {
            Some((hot, exprs, hasher)) => {
                let part = |hash| if hot.contains(&hash) { shards } else { shard_of(hash, shards) };
                let mut parts = by_key(exprs, hasher, &changes, part, shards + 1)?;
                (parts.pop().unwrap_or_default(), parts)
            }
            None => (changes, Vec::new()),
        };
        Ok((if hot.is_empty() { Vec::new() } else { vec![partial.combine(&hot)?] }, others))
    })?;
    let (summed, others): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
    let mut all = sums.divide(summed, shards)?;
    all.resize(shards, Vec::new());
    for (shard, changes) in joined(others, shards).into_iter().enumerate() {
        all[shard].extend(changes);
    }
    Ok(all)
}

/// The keys that the first rows show to have many rows.
fn repeated(exprs: &[Arc<dyn PhysicalExpr>], hasher: &KeyHasher, changes: &[Vec<Changes>]) -> Result<Repeated> {
    let Some(first) = changes.iter().flatten().max_by_key(|change| change.len()) else { return Ok(Repeated::None) };
    let rows = first.rows.slice(0, first.len().min(SAMPLE));
    let mut times: HashMap<u64, usize> = HashMap::new();
    for hash in hasher.hashes(&evaluate_key(exprs, &rows)?, rows.num_rows())? {
        *times.entry(hash).or_default() += 1;
    }
    if times.len() * FEW <= rows.num_rows() {
        return Ok(Repeated::Most);
    }
    times.retain(|_, times| *times * HOT >= rows.num_rows());
    Ok(if times.is_empty() { Repeated::None } else { Repeated::These(times.into_keys().collect()) })
}

/// Which keys come again and again.
enum Repeated {
    /// None is seen: summing up rows that are alone costs more than it saves.
    None,
    /// Nearly all.
    Most,
    /// Those with these hashes.
    These(HashSet<u64>),
}

/// The parts of each shard, of what all shards have divided.
fn joined(parts: Vec<Vec<Vec<Changes>>>, shards: usize) -> Vec<Vec<Changes>> {
    let mut all = vec![Vec::new(); shards];
    for part in parts {
        for (shard, changes) in part.into_iter().enumerate() {
            all[shard].extend(changes);
        }
    }
    all
}

fn rows_of(changes: &[Vec<Changes>]) -> usize {
    changes.iter().map(|changes| count(changes)).sum()
}

/// Does the work of each shard, each in a thread of its own.
pub(super) fn in_parallel<T: Send, R: Send>(work: Vec<T>, one: impl Fn(T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let one = &one;
    std::thread::scope(|scope| {
        let threads: Vec<_> = work.into_iter().map(|work| scope.spawn(move || one(work))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| Err(Error::from_panic(panic.as_ref())))
        };
        threads.into_iter().map(join).collect()
    })
}

/// Rows by the part that the hash of their key belongs to.
fn by_key(
    exprs: &[Arc<dyn PhysicalExpr>],
    hasher: &KeyHasher,
    changes: &[Changes],
    part_of: impl Fn(u64) -> usize,
    parts: usize,
) -> Result<Vec<Vec<Changes>>> {
    let mut divided = vec![Vec::new(); parts];
    for change in changes {
        let hashes = hasher.hashes(&evaluate_key(exprs, &change.rows)?, change.len())?;
        let mut rows: Vec<Vec<u64>> = vec![Vec::new(); parts];
        for (row, hash) in hashes.into_iter().enumerate() {
            rows[part_of(hash)].push(row as u64);
        }
        for (part, rows) in rows.into_iter().enumerate() {
            if rows.len() == change.len() {
                divided[part].push(change.clone());
            } else if !rows.is_empty() {
                divided[part].push(change.take(&UInt64Array::from(rows))?);
            }
        }
    }
    Ok(divided)
}

/// By how much the numbers of rows and of NULLs change.
fn tally(exprs: &[Arc<dyn PhysicalExpr>], changes: &[Vec<Changes>]) -> Result<Vec<Changes>> {
    let (mut rows, mut null_rows) = (0, 0);
    for change in changes.iter().flatten() {
        let nulls = nulls(&evaluate_key(exprs, &change.rows)?);
        for row in 0..change.len() {
            rows += change.weight(row);
            null_rows += if nulls.as_ref().is_some_and(|nulls| nulls[row]) { change.weight(row) } else { 0 };
        }
    }
    if rows == 0 && null_rows == 0 {
        return Ok(Vec::new());
    }
    let columns = [rows, null_rows].map(|sum| Arc::new(Int64Array::from(vec![sum])) as ArrayRef);
    Ok(vec![Changes::inserted(with_columns(&tally_schema(), columns.to_vec(), 1)?)])
}

/// What the other shards do where all work is in the first.
pub(super) struct Idle;

impl Operator for Idle {
    fn step(&mut self, _inputs: Vec<Vec<Changes>>, _context: &EpochContext) -> Result<Vec<Changes>> {
        Ok(Vec::new())
    }
}
