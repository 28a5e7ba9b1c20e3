//! Aggregates of an epoch's rows before they are divided by group.
//!
//! Enters: the rows of one shard, as they come. Leaves: a row for each group among them, with what its functions keep
//! of it. Always holds: the shard of a group makes of such rows what it would have made of the rows themselves;
//! nothing is kept from one epoch to the next.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{Int64Type, SchemaRef};

use super::function::Batch;
use super::{Aggregate, Numbered};
use crate::change::{Changes, with_columns};
use crate::error::Result;

/// What sums up the rows of one shard.
pub(in crate::operator) struct Partial(Aggregate);

impl Partial {
    /// By an aggregate of its own, for the same shards as another; nothing if one of its functions needs the rows.
    pub(in crate::operator) fn new(aggregate: Aggregate, other: Option<&Self>) -> Option<Self> {
        let merges = aggregate.folds.iter().all(|fold| fold.merges());
        merges.then_some(Self(match other {
            Some(other) => aggregate.behind(other),
            None => aggregate,
        }))
    }

    /// The columns of the rows: those of the groups first.
    pub(in crate::operator) fn schema(&self) -> &SchemaRef {
        &self.0.partial
    }

    /// A row for each group of these rows.
    pub(in crate::operator) fn combine(&mut self, inputs: &[Changes]) -> Result<Changes> {
        let Self(aggregate) = self;
        aggregate.steps += 1;
        let mut touched = Vec::new();
        for change in inputs {
            let numbered = aggregate.touch(change, &mut touched)?;
            aggregate.take_in(change, &numbered)?;
        }
        for fold in &mut aggregate.folds {
            fold.settle(&touched, aggregate.groups.numbers())?;
        }
        let rows = with_columns(&aggregate.partial, aggregate.kept(&touched)?, touched.len())?;
        for group in touched {
            aggregate.folds.iter_mut().for_each(|fold| fold.remove(group));
            aggregate.groups.remove(group);
        }
        Ok(Changes::inserted(rows))
    }
}

impl Aggregate {
    /// The same, where its input comes from a [`Partial`].
    pub(in crate::operator) fn behind(self, partial: &Partial) -> Self {
        Self { partial: Arc::clone(partial.schema()), ..self }
    }

    /// True for rows that a [`Partial`] has made.
    pub(super) fn is_partial(&self, change: &Changes) -> bool {
        Arc::ptr_eq(change.rows.schema_ref(), &self.partial)
    }

    /// Adds rows to their groups.
    pub(super) fn take_in(&mut self, change: &Changes, numbered: &Numbered) -> Result<()> {
        let batch = Batch {
            rows: &change.rows,
            weights: change.weights.as_ref(),
            numbers: &numbered.numbers,
            places: &numbered.places,
            touched: numbered.touched,
            groups: self.groups.numbers(),
        };
        if !self.is_partial(change) {
            self.groups.count(batch.numbers, batch.weights);
            return self.folds.iter_mut().try_for_each(|fold| fold.update(&batch));
        }
        let (rows, mut states) = change.rows.columns()[self.by.len()..].split_at(1);
        self.groups.count(batch.numbers, Some(rows[0].as_primitive::<Int64Type>()));
        for fold in &mut self.folds {
            let (own, rest) = states.split_at(fold.fields().len());
            fold.merge(&batch, own)?;
            states = rest;
        }
        Ok(())
    }
}
