//! What an operator can forget, in the order of time.
//!
//! Enters: rows with a value that a watermark bounds, and the watermarks of an epoch. Leaves: the rows whose value the
//! bound has passed. Always holds: what is forgotten could not change any more; the work follows what is forgotten.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, Int64Array, RecordBatch, UInt64Array};
use arrow::datatypes::DataType;
use datafusion::execution::SessionState;
use datafusion::physical_expr::PhysicalExpr;

use super::chunks::Chunks;
use super::{EpochContext, physical};
use crate::change::{take_rows, with_columns};
use crate::error::Result;
use crate::offset::{ENDED, NO_WATERMARK};
use crate::planner::{Bound, Eviction};
use crate::times::{in_type, in_units, ordered};

/// Below which value all is over.
pub struct Horizon {
    terms: Vec<Term>,
    /// What the watermarks were when it was last asked, and what it said.
    last: Option<(Vec<i64>, Option<i64>)>,
}

struct Term {
    source: usize,
    kind: DataType,
    expr: Arc<dyn PhysicalExpr>,
    schema: arrow::datatypes::SchemaRef,
}

impl Horizon {
    /// The least of what the terms of a bound give.
    ///
    /// # Errors
    /// An expression that cannot be evaluated.
    pub fn new(bound: &Bound, state: &SessionState) -> Result<Self> {
        let term = |term: &crate::planner::Term| -> Result<Term> {
            let input = term.input()?;
            let expr = physical(&term.expr, &input, state)?;
            Ok(Term { source: term.source, kind: term.kind.clone(), expr, schema: Arc::clone(input.inner()) })
        };
        Ok(Self { terms: bound.iter().map(term).collect::<Result<_>>()?, last: None })
    }

    /// Values below it are over; nothing: none is. `watermarks`: of all sources, in microseconds since 1970.
    ///
    /// # Errors
    /// A watermark for which an expression has no value.
    pub fn at(&mut self, watermarks: &[i64]) -> Result<Option<i64>> {
        let now: Vec<i64> = self.terms.iter().map(|term| watermarks[term.source]).collect();
        if let Some((last, value)) = &self.last
            && *last == now
        {
            return Ok(*value);
        }
        let mut least = i64::MAX;
        for (term, micros) in self.terms.iter().zip(&now) {
            match *micros {
                NO_WATERMARK => {
                    self.last = Some((now, None));
                    return Ok(None);
                }
                ENDED => {}
                micros => least = least.min(term.value(micros)?),
            }
        }
        self.last = Some((now, Some(least)));
        Ok(Some(least))
    }
}

impl Term {
    fn value(&self, micros: i64) -> Result<i64> {
        let value = in_type(in_units(micros, &self.kind)?, &self.kind)?;
        let row = with_columns(&self.schema, vec![value], 1)?;
        let values = ordered(&self.expr.evaluate(&row)?.into_array(1)?)?;
        Ok(if values.is_null(0) { i64::MIN } else { values.value(0) })
    }
}

/// Rows, or what stands for them, by their values.
pub(super) struct Expiry<T> {
    horizon: Horizon,
    value: Arc<dyn PhysicalExpr>,
    queue: BinaryHeap<Reverse<(i64, T)>>,
}

impl<T: Ord> Expiry<T> {
    /// `value` is over rows of the input that the eviction names.
    pub(super) fn new(eviction: &Eviction, value: Arc<dyn PhysicalExpr>, state: &SessionState) -> Result<Self> {
        Ok(Self { horizon: Horizon::new(&eviction.bound, state)?, value, queue: BinaryHeap::new() })
    }

    /// The values of rows; one that is NULL is never over.
    pub(super) fn values(&self, rows: &RecordBatch) -> Result<Int64Array> {
        ordered(&self.value.evaluate(rows)?.into_array(rows.num_rows())?)
    }

    /// Notes what has that value.
    pub(super) fn push(&mut self, value: i64, what: T) {
        self.queue.push(Reverse((value, what)));
    }

    /// What is over now. Who asks looks whether it is still there, and still has that value.
    pub(super) fn over(&mut self, context: &EpochContext) -> Result<Vec<(i64, T)>> {
        let Some(horizon) = self.horizon.at(&context.watermarks)? else { return Ok(Vec::new()) };
        let mut over = Vec::new();
        while self.queue.peek().is_some_and(|Reverse((value, _))| *value < horizon) {
            over.extend(self.queue.pop().map(|Reverse(one)| one));
        }
        Ok(over)
    }

    /// Memory, about, without what stands behind `T`.
    pub(super) fn bytes(&self) -> usize {
        self.queue.capacity() * size_of::<Reverse<(i64, T)>>()
    }
}

impl Expiry<u32> {
    /// The slots of what is over now, and its rows.
    pub(super) fn rows_over(&mut self, rows: &Chunks, context: &EpochContext) -> Result<(Vec<u32>, RecordBatch)> {
        let over: HashSet<(i64, u32)> = self.over(context)?.into_iter().collect();
        let mut slots: Vec<u32> = over.iter().map(|(_, slot)| *slot).filter(|slot| rows.is_live(*slot)).collect();
        slots.sort_unstable();
        slots.dedup();
        let found = rows.gather(&slots)?;
        let values = self.values(&found)?;
        // A slot may have been given to another row since.
        let same = |at: &usize| !values.is_null(*at) && over.contains(&(values.value(*at), slots[*at]));
        let places: Vec<usize> = (0..slots.len()).filter(same).collect();
        let found = take_rows(&found, &UInt64Array::from_iter_values(places.iter().map(|at| *at as u64)))?;
        Ok((places.into_iter().map(|at| slots[at]).collect(), found))
    }
}
