//! What an operator can forget, in the order of time.
//!
//! Enters: rows with a value that a watermark bounds, and the watermarks of an epoch. Leaves: the rows whose value the
//! bound has passed. Always holds: what is forgotten could not change any more; the work follows what is forgotten.

use std::collections::VecDeque;
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
    /// What was noted since it was last asked.
    new: Vec<(i64, T)>,
    /// The same of before, each run in order of the values, and more than twice as long as the next: as they are
    /// merged, each value moves as often as the logarithm of their number (Bentley and Saxe, "Decomposable searching
    /// problems", 1980).
    runs: Vec<VecDeque<(i64, T)>>,
}

impl<T> Expiry<T> {
    /// `value` is over rows of the input that the eviction names.
    pub(super) fn new(eviction: &Eviction, value: Arc<dyn PhysicalExpr>, state: &SessionState) -> Result<Self> {
        Ok(Self { horizon: Horizon::new(&eviction.bound, state)?, value, new: Vec::new(), runs: Vec::new() })
    }

    /// The values of rows; one that is NULL is never over.
    pub(super) fn values(&self, rows: &RecordBatch) -> Result<Int64Array> {
        ordered(&self.value.evaluate(rows)?.into_array(rows.num_rows())?)
    }

    /// Which of these rows are over as soon as they come; nothing if none is.
    pub(super) fn already_over(&mut self, rows: &RecordBatch, context: &EpochContext) -> Result<Option<Vec<bool>>> {
        let Some(horizon) = self.horizon.at(&context.watermarks)? else { return Ok(None) };
        let over: Vec<bool> =
            self.values(rows)?.iter().map(|value| value.is_some_and(|value| value < horizon)).collect();
        Ok(over.contains(&true).then_some(over))
    }

    /// Notes what has that value.
    pub(super) fn push(&mut self, value: i64, what: T) {
        self.new.push((value, what));
    }

    /// Makes a run of what is new.
    fn settle(&mut self) {
        if self.new.is_empty() {
            return;
        }
        let mut run = VecDeque::from(std::mem::take(&mut self.new));
        run.make_contiguous().sort_unstable_by_key(|(value, _)| *value);
        while let Some(mut before) = self.runs.pop_if(|before| before.len() <= 2 * run.len()) {
            let in_order = before.back().is_none_or(|last| run.front().is_none_or(|first| last.0 <= first.0));
            before.extend(run);
            run = before;
            if !in_order {
                // Two runs one behind the other: a stable sort merges them.
                run.make_contiguous().sort_by_key(|(value, _)| *value);
            }
        }
        self.runs.push(run);
    }

    /// What is over now. Who asks looks whether it is still there, and still has that value.
    pub(super) fn over(&mut self, context: &EpochContext) -> Result<Vec<(i64, T)>> {
        let Some(horizon) = self.horizon.at(&context.watermarks)? else { return Ok(Vec::new()) };
        self.settle();
        let mut over = Vec::new();
        for run in &mut self.runs {
            let count = run.partition_point(|(value, _)| *value < horizon);
            over.extend(run.drain(..count));
            if run.capacity() > 4 * run.len() {
                run.shrink_to_fit();
            }
        }
        self.runs.retain(|run| !run.is_empty());
        Ok(over)
    }

    /// Memory, about, without what stands behind `T`.
    pub(super) fn bytes(&self) -> usize {
        let runs = self.runs.iter().map(VecDeque::capacity).sum::<usize>();
        (self.new.capacity() + runs) * size_of::<(i64, T)>()
    }
}

impl Expiry<u32> {
    /// The slots of what is over now, and its rows.
    pub(super) fn rows_over(&mut self, rows: &Chunks, context: &EpochContext) -> Result<(Vec<u32>, RecordBatch)> {
        let mut over: Vec<(u32, i64)> = self.over(context)?.into_iter().map(|(value, slot)| (slot, value)).collect();
        over.sort_unstable();
        let mut slots: Vec<u32> = over.iter().map(|(slot, _)| *slot).filter(|slot| rows.is_live(*slot)).collect();
        slots.dedup();
        let found = rows.gather(&slots)?;
        let values = self.values(&found)?;
        // A slot may have been given to another row since.
        let same = |at: &usize| !values.is_null(*at) && over.binary_search(&(slots[*at], values.value(*at))).is_ok();
        let places: Vec<usize> = (0..slots.len()).filter(same).collect();
        let found = take_rows(&found, &UInt64Array::from_iter_values(places.iter().map(|at| *at as u64)))?;
        Ok((places.into_iter().map(|at| slots[at]).collect(), found))
    }
}
