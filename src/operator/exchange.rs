//! From one way of dividing rows to another.
//!
//! Enters: the changes of all shards. Leaves: the same, by the hash of a key, or all in the first shard. Always
//! holds: equal keys go to one shard, in this run and in every later one.

use std::sync::Arc;

use arrow::array::UInt64Array;
use arrow::datatypes::DataType;
use datafusion::physical_expr::PhysicalExpr;

use super::keys::{canonical, evaluate, hash, shard_of};
use super::{EpochContext, Operator};
use crate::change::{Changes, RowEncoder, count};
use crate::error::{Error, Result};

/// How an operator wants its input divided.
pub(super) enum Exchange {
    /// As it comes.
    None,
    /// All in the first shard.
    One,
    /// By the hash of these columns.
    Key { exprs: Vec<Arc<dyn PhysicalExpr>>, encoder: RowEncoder },
}

impl Exchange {
    /// By the hash of these columns; without columns, all in the first shard.
    pub(super) fn by_key(exprs: Vec<Arc<dyn PhysicalExpr>>, types: Vec<DataType>) -> Result<Self> {
        if exprs.is_empty() {
            return Ok(Exchange::One);
        }
        Ok(Exchange::Key { exprs, encoder: RowEncoder::new(types)? })
    }

    /// Divides the changes of all shards anew.
    pub(super) fn divide(&self, changes: Vec<Vec<Changes>>, shards: usize) -> Result<Vec<Vec<Changes>>> {
        match self {
            Exchange::None => Ok(changes),
            _ if shards == 1 => Ok(changes),
            Exchange::One => {
                let mut all = vec![Vec::new(); shards];
                all[0] = changes.into_iter().flatten().collect();
                Ok(all)
            }
            Exchange::Key { exprs, encoder } => {
                let rows: usize = changes.iter().map(|changes| count(changes)).sum();
                let divide = |changes: Vec<Changes>| by_key(exprs, encoder, &changes, shards);
                let parts: Vec<Vec<Vec<Changes>>> = if rows < super::PARALLEL_ROWS {
                    changes.into_iter().map(divide).collect::<Result<_>>()?
                } else {
                    std::thread::scope(|scope| {
                        let threads: Vec<_> =
                            changes.into_iter().map(|changes| scope.spawn(|| divide(changes))).collect();
                        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                            thread.join().unwrap_or_else(|panic| Err(Error::from_panic(panic.as_ref())))
                        };
                        threads.into_iter().map(join).collect::<Result<_>>()
                    })?
                };
                let mut all = vec![Vec::new(); shards];
                for part in parts {
                    for (shard, changes) in part.into_iter().enumerate() {
                        all[shard].extend(changes);
                    }
                }
                Ok(all)
            }
        }
    }
}

fn by_key(
    exprs: &[Arc<dyn PhysicalExpr>],
    encoder: &RowEncoder,
    changes: &[Changes],
    shards: usize,
) -> Result<Vec<Vec<Changes>>> {
    let mut divided = vec![Vec::new(); shards];
    for change in changes {
        let keys: Vec<_> = evaluate(exprs, &change.rows)?.iter().map(canonical).collect();
        let encoded = encoder.encode(&keys, change.len())?;
        let mut rows: Vec<Vec<u64>> = vec![Vec::new(); shards];
        for row in 0..encoded.len() {
            rows[shard_of(hash(encoded.row(row)), shards)].push(row as u64);
        }
        for (shard, rows) in rows.into_iter().enumerate() {
            if rows.len() == change.len() {
                divided[shard].push(change.clone());
            } else if !rows.is_empty() {
                divided[shard].push(change.take(&UInt64Array::from(rows))?);
            }
        }
    }
    Ok(divided)
}

/// What the other shards do where all work is in the first.
pub(super) struct Idle;

impl Operator for Idle {
    fn step(&mut self, _inputs: Vec<Vec<Changes>>, _context: &EpochContext) -> Result<Vec<Changes>> {
        Ok(Vec::new())
    }
}
