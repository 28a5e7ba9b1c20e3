//! percentile_cont() over several partitions.
//!
//! Enters: DataFusion's function. Leaves: the same, but a batch of states is merged row by row. Always holds:
//! the result does not depend on how the rows were split.
//!
//! DataFusion 55.2 reads only the first row of a batch of states, and so forgets the values of the others.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams};
use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, GroupsAccumulator, Signature,
};

use crate::error::Result;

const NAME: &str = "percentile_cont";

/// Puts it in the place of DataFusion's.
pub(super) fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    if let Ok(inner) = registry.udaf(NAME) {
        registry.register_udaf(Arc::new(AggregateUDF::new_from_impl(RowByRow { inner })))?;
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct RowByRow {
    inner: Arc<AggregateUDF>,
}

impl AggregateUDFImpl for RowByRow {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn schema_name(&self, params: &AggregateFunctionParams) -> DfResult<String> {
        self.inner.schema_name(params)
    }

    fn display_name(&self, params: &AggregateFunctionParams) -> DfResult<String> {
        self.inner.display_name(params)
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, args: &[DataType]) -> DfResult<DataType> {
        self.inner.return_type(args)
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> DfResult<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> DfResult<Box<dyn Accumulator>> {
        Ok(Box::new(Merger { inner: self.inner.accumulator(args)? }))
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> DfResult<Box<dyn GroupsAccumulator>> {
        self.inner.create_groups_accumulator(args)
    }

    fn coerce_types(&self, args: &[DataType]) -> DfResult<Vec<DataType>> {
        self.inner.coerce_types(args)
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.inner.supports_null_handling_clause()
    }

    fn supports_within_group_clause(&self) -> bool {
        self.inner.supports_within_group_clause()
    }

    /// What DataFusion makes of it (min, max, or nothing new) calls it by our name again.
    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        let inner = self.inner.simplify()?;
        let (theirs, ours) = (
            Arc::clone(&self.inner),
            Arc::new(AggregateUDF::new_from_impl(RowByRow { inner: Arc::clone(&self.inner) })),
        );
        Some(Box::new(move |call, info| {
            let simplified = inner(AggregateFunction { func: Arc::clone(&theirs), ..call }, info)?;
            Ok(match simplified {
                datafusion::logical_expr::Expr::AggregateFunction(call) if call.func == theirs => {
                    datafusion::logical_expr::Expr::AggregateFunction(AggregateFunction {
                        func: Arc::clone(&ours),
                        ..call
                    })
                }
                other => other,
            })
        }))
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }
}

#[derive(Debug)]
struct Merger {
    inner: Box<dyn Accumulator>,
}

impl Accumulator for Merger {
    fn update_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        self.inner.update_batch(values)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> DfResult<()> {
        for row in 0..states.first().map_or(0, |column| column.len()) {
            let one: Vec<ArrayRef> = states.iter().map(|column| column.slice(row, 1)).collect();
            self.inner.merge_batch(&one)?;
        }
        Ok(())
    }

    fn state(&mut self) -> DfResult<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn evaluate(&mut self) -> DfResult<ScalarValue> {
        self.inner.evaluate()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> DfResult<()> {
        self.inner.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }
}
