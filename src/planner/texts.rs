//! Texts compared with a constant by their views.
//!
//! Enters: a physical plan. Leaves: the same, whose filters and projections compare the views of texts with the view of
//! the constant, 16 bytes in one step. Always holds: a comparison gives what it gave.
//!
//! A view has the length of its text and the first 4 bytes, and all of it up to 12 bytes; what is unused is zero
//! (Arrow columnar format, "Variable-size Binary View Layout"). arrow's kernel compares in more steps: a third of
//! TPC-H q12.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, MAX_INLINE_VIEW_LEN, RecordBatch, StringViewArray, make_view};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{DataType, Schema};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Result as DfResult, ScalarValue, internal_datafusion_err};
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::expressions::{BinaryExpr, Literal};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::filter::{FilterExec, FilterExecBuilder};
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::{ExecutionPlan, PhysicalExpr};

/// Comes behind the rules that look for comparisons of columns with constants: those that leave out row groups.
#[derive(Debug, Default)]
pub(super) struct CompareViews;

impl PhysicalOptimizerRule for CompareViews {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> DfResult<Arc<dyn ExecutionPlan>> {
        let change = |node: Arc<dyn ExecutionPlan>| {
            if let Some(filter) = node.downcast_ref::<FilterExec>() {
                let predicate = by_views(filter.predicate(), &filter.input().schema())?;
                if predicate.transformed {
                    let changed = FilterExecBuilder::from(filter).with_predicate(predicate.data).build()?;
                    return Ok(Transformed::yes(Arc::new(changed) as _));
                }
            } else if let Some(projection) = node.downcast_ref::<ProjectionExec>() {
                let schema = projection.input().schema();
                let mut any = false;
                let columns = projection.expr().iter().map(|column| {
                    let expr = by_views(&column.expr, &schema)?;
                    any |= expr.transformed;
                    Ok(ProjectionExpr { expr: expr.data, alias: column.alias.clone() })
                });
                let columns = columns.collect::<DfResult<Vec<_>>>()?;
                if any {
                    let changed = ProjectionExec::try_new(columns, Arc::clone(projection.input()))?;
                    return Ok(Transformed::yes(Arc::new(changed) as _));
                }
            }
            Ok(Transformed::no(node))
        };
        plan.transform_up(change).data()
    }

    fn name(&self) -> &str {
        "compare_views"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn by_views(expr: &Arc<dyn PhysicalExpr>, schema: &Schema) -> DfResult<Transformed<Arc<dyn PhysicalExpr>>> {
    Arc::clone(expr).transform_up(|node| {
        Ok(match node.downcast_ref::<BinaryExpr>().and_then(|binary| OfViews::new(binary, schema)) {
            Some(changed) => Transformed::yes(Arc::new(changed) as _),
            None => Transformed::no(node),
        })
    })
}

/// `text = 'constant'`, or `<>`.
#[derive(Debug, PartialEq, Eq, Hash)]
struct OfViews {
    comparison: BinaryExpr,
    constant: String,
}

impl OfViews {
    fn new(comparison: &BinaryExpr, schema: &Schema) -> Option<Self> {
        let known = matches!(comparison.op(), Operator::Eq | Operator::NotEq)
            && comparison.left().data_type(schema).is_ok_and(|kind| kind == DataType::Utf8View);
        let constant = comparison.right().downcast_ref::<Literal>().filter(|_| known)?;
        let ScalarValue::Utf8View(Some(constant)) = constant.value() else { return None };
        Some(Self { comparison: comparison.clone(), constant: constant.clone() })
    }

    fn compared(&self, texts: &StringViewArray) -> BooleanArray {
        let constant = self.constant.as_str();
        let differs = *self.comparison.op() == Operator::NotEq;
        let view = make_view(constant.as_bytes(), 0, 0);
        let views = texts.views();
        let found = if constant.len() <= MAX_INLINE_VIEW_LEN as usize {
            BooleanBuffer::collect_bool(views.len(), |row| (views[row] == view) != differs)
        } else {
            // Length and first bytes, then all of them.
            let equal = |row: usize| views[row] as u64 == view as u64 && texts.value(row) == constant;
            BooleanBuffer::collect_bool(views.len(), |row| equal(row) != differs)
        };
        BooleanArray::new(found, texts.nulls().cloned())
    }
}

impl fmt::Display for OfViews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.comparison.fmt(f)
    }
}

impl PhysicalExpr for OfViews {
    fn data_type(&self, input_schema: &Schema) -> DfResult<DataType> {
        self.comparison.data_type(input_schema)
    }

    fn nullable(&self, input_schema: &Schema) -> DfResult<bool> {
        self.comparison.nullable(input_schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> DfResult<ColumnarValue> {
        match self.comparison.left().evaluate(batch)? {
            ColumnarValue::Array(texts) => Ok(ColumnarValue::Array(Arc::new(self.compared(texts.as_string_view())))),
            ColumnarValue::Scalar(_) => self.comparison.evaluate(batch),
        }
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![self.comparison.left()]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> DfResult<Arc<dyn PhysicalExpr>> {
        let text = children.into_iter().next().ok_or_else(|| internal_datafusion_err!("a comparison has a text"))?;
        let comparison = BinaryExpr::new(text, *self.comparison.op(), Arc::clone(self.comparison.right()));
        Ok(Arc::new(Self { comparison, constant: self.constant.clone() }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.comparison.fmt_sql(f)
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;
    use datafusion::physical_expr::expressions::Column;

    use super::*;

    #[test]
    fn the_answers_are_those_of_arrow() {
        let long = "a text of more than 12 bytes";
        let texts = [
            Some(""),
            Some("a"),
            None,
            Some("a\0"),
            Some("twelve bytes"),
            Some("thirteen byte"),
            Some(long),
            Some("a t"),
        ];
        let other = "a text of more than 12 bytez";
        let texts: StringViewArray = texts.into_iter().chain([Some(other)]).cycle().take(150).collect();
        let schema = Schema::new(vec![Field::new("t", DataType::Utf8View, true)]);
        // A slice, as filters and limits make them.
        let texts = Arc::new(texts.slice(3, 140)) as _;
        let batch = RecordBatch::try_new(Arc::new(schema.clone()), vec![texts]).expect("a batch");
        for constant in ["", "a", "a\0", "twelve bytes", "thirteen byte", long, other, "none of them is"] {
            for op in [Operator::Eq, Operator::NotEq] {
                let literal = Arc::new(Literal::new(ScalarValue::Utf8View(Some(constant.to_owned()))));
                let plain: Arc<dyn PhysicalExpr> =
                    Arc::new(BinaryExpr::new(Arc::new(Column::new("t", 0)), op, literal));
                let changed = by_views(&plain, &schema).expect("an expression");
                assert!(changed.transformed);
                assert_eq!(plain.to_string(), changed.data.to_string());
                let rows = |expr: &Arc<dyn PhysicalExpr>| {
                    expr.evaluate(&batch).expect("evaluates").into_array(batch.num_rows()).expect("an array")
                };
                assert_eq!(&rows(&plain), &rows(&changed.data), "{constant} {op}");
            }
        }
    }
}
