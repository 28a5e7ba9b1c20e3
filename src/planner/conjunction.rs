//! Conditions that are cheaper to compute than to leave out.
//!
//! Enters: a physical plan. Leaves: the same, whose filters compute neighbouring comparisons of numbers for all rows.
//! Always holds: a filter lets the same rows through; what may fail is computed for the rows that it would be.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::and_kleene;
use arrow::datatypes::{DataType, Schema};
use datafusion::common::Result as DfResult;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::split_conjunction;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

/// DataFusion filters a batch by the first condition of an AND before it computes the second, where the first lets a
/// fifth through or fewer. To do that takes longer than to compare two numbers: a tenth of TPC-H q6.
#[derive(Debug, Default)]
pub(super) struct CompareAll;

impl PhysicalOptimizerRule for CompareAll {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> DfResult<Arc<dyn ExecutionPlan>> {
        let change = |node: Arc<dyn ExecutionPlan>| {
            let Some(filter) = node.downcast_ref::<FilterExec>() else { return Ok(Transformed::no(node)) };
            let Some(predicate) = together(filter.predicate(), filter.input().schema().as_ref()) else {
                return Ok(Transformed::no(node));
            };
            let changed = FilterExecBuilder::from(filter).with_predicate(predicate).build()?;
            Ok(Transformed::yes(Arc::new(changed) as _))
        };
        plan.transform_up(change).data()
    }

    fn name(&self) -> &str {
        "compare_all"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The predicate with the comparisons that stand side by side in one; nothing if there are none.
fn together(predicate: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Option<Arc<dyn PhysicalExpr>> {
    let parts = split_conjunction(predicate);
    let runs = parts.chunk_by(|a, b| is_plain(a, schema) && is_plain(b, schema));
    let mut runs = runs.map(|run| -> Arc<dyn PhysicalExpr> {
        match run {
            [one] => Arc::clone(one),
            several => Arc::new(AllOf(several.iter().map(|part| Arc::clone(part)).collect())),
        }
    });
    let first = runs.next()?;
    let all = runs.fold((first, 1), |(left, count), right| {
        (Arc::new(BinaryExpr::new(left, Operator::And, right)) as Arc<dyn PhysicalExpr>, count + 1)
    });
    (all.1 < parts.len()).then_some(all.0)
}

/// True for a comparison of columns and constants that are numbers or times: it never fails.
fn is_plain(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    let Some(binary) = expr.downcast_ref::<BinaryExpr>() else { return false };
    let side = |side: &Arc<dyn PhysicalExpr>| {
        (side.is::<Column>() || side.is::<Literal>())
            && side.data_type(schema).is_ok_and(|kind| kind.primitive_width().is_some())
    };
    let compares = matches!(
        binary.op(),
        Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq
    );
    compares && side(binary.left()) && side(binary.right())
}

/// True where all of these are.
#[derive(Debug, PartialEq, Eq, Hash)]
struct AllOf(Vec<Arc<dyn PhysicalExpr>>);

impl fmt::Display for AllOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.0.iter().enumerate() {
            let and = if at == 0 { "" } else { " AND " };
            write!(f, "{and}{part}")?;
        }
        Ok(())
    }
}

impl PhysicalExpr for AllOf {
    fn data_type(&self, _input_schema: &Schema) -> DfResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, input_schema: &Schema) -> DfResult<bool> {
        self.0.iter().try_fold(false, |any, part| Ok(any || part.nullable(input_schema)?))
    }

    fn evaluate(&self, batch: &RecordBatch) -> DfResult<ColumnarValue> {
        let mut all: Option<BooleanArray> = None;
        for part in &self.0 {
            let value = part.evaluate(batch)?.into_array(batch.num_rows())?;
            let value = value.as_boolean();
            let both = match all {
                Some(before) => and_kleene(&before, value)?,
                None => value.clone(),
            };
            let nothing = both.null_count() == 0 && !both.has_true();
            all = Some(both);
            if nothing {
                break;
            }
        }
        let all = all.unwrap_or_else(|| BooleanArray::from(vec![true; batch.num_rows()]));
        Ok(ColumnarValue::Array(Arc::new(all)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.0.iter().collect()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> DfResult<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Self(children)))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.0.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { " AND " })?;
            part.fmt_sql(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array, StringArray};
    use arrow::datatypes::Field;
    use datafusion::common::ScalarValue;
    use proptest::prelude::*;

    use super::*;

    fn compare(column: usize, op: Operator, value: ScalarValue) -> Arc<dyn PhysicalExpr> {
        let column = Arc::new(Column::new(["a", "b", "c"][column], column));
        Arc::new(BinaryExpr::new(column, op, Arc::new(Literal::new(value))))
    }

    proptest! {
        #[test]
        fn the_same_rows_pass(rows in prop::collection::vec((prop::option::of(0_i64..9), prop::option::of(0_i64..9)), 0..40), bounds in (0_i64..9, 0_i64..9)) {
            let schema = Schema::new(vec![
                Field::new("a", DataType::Int64, true),
                Field::new("b", DataType::Float64, true),
                Field::new("c", DataType::Utf8, true),
            ]);
            let floats = rows.iter().map(|row| row.1.map(|value| if value == 8 { f64::NAN } else { value as f64 }));
            let texts = rows.iter().map(|row| row.0.map(|value| value.to_string()));
            let batch = RecordBatch::try_new(Arc::new(schema.clone()), vec![
                Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.0))),
                Arc::new(Float64Array::from_iter(floats)),
                Arc::new(StringArray::from_iter(texts)),
            ]).expect("a batch");
            let parts = [
                compare(0, Operator::GtEq, ScalarValue::from(bounds.0)),
                compare(1, Operator::Lt, ScalarValue::from(bounds.1 as f64)),
                compare(2, Operator::NotEq, ScalarValue::from("3")),
                compare(0, Operator::LtEq, ScalarValue::from(bounds.1)),
                compare(1, Operator::NotEq, ScalarValue::from(2.0)),
            ];
            let and = |left, right| Arc::new(BinaryExpr::new(left, Operator::And, right)) as Arc<dyn PhysicalExpr>;
            let plain = parts.into_iter().reduce(and).expect("a predicate");
            let changed = together(&plain, &schema).expect("comparisons side by side");
            prop_assert_eq!(plain.to_string(), changed.to_string());
            let rows = |expr: &Arc<dyn PhysicalExpr>| {
                let value = expr.evaluate(&batch).expect("evaluates").into_array(batch.num_rows()).expect("an array");
                let value = value.as_boolean();
                (0..value.len()).map(|row| value.is_valid(row) && value.value(row)).collect::<Vec<_>>()
            };
            prop_assert_eq!(rows(&plain), rows(&changed));
        }
    }

    use arrow::array::Array;
}
