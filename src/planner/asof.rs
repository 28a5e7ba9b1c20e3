//! ASOF JOIN as a node of a plan.
//!
//! Enters: an [`AsOf`], taken apart. Leaves: a node for it, where its times can be compared as numbers. Always holds:
//! over tables at rest it becomes what [`AsOf::plan`] says; over growing ones it has an operator.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, DFSchemaRef, Result as DfResult};
use datafusion::logical_expr::{
    Expr, ExprSchemable, Extension, JoinType, LogicalPlan, Operator, UserDefinedLogicalNodeCore,
};

use super::joins::AsOf;

/// The join.
#[derive(Debug, Clone)]
pub struct AsOfJoin {
    asof: AsOf,
    times: (Expr, Expr),
    op: Operator,
    schema: DFSchemaRef,
}

impl AsOfJoin {
    /// A node, or what it means in other nodes.
    pub(super) fn plan(asof: AsOf) -> DfResult<LogicalPlan> {
        match Self::new(asof.clone())? {
            Some(node) => Ok(LogicalPlan::Extension(Extension { node: Arc::new(node) })),
            None => asof.plan(),
        }
    }

    fn new(asof: AsOf) -> DfResult<Option<Self>> {
        let Some((left_time, op, right_time)) = asof.times.clone() else { return Ok(None) };
        let same = |left: &Expr, right: &Expr| -> DfResult<Option<DataType>> {
            let kinds = (left.get_type(asof.left.schema())?, right.get_type(asof.right.schema())?);
            Ok((kinds.0 == kinds.1).then_some(kinds.0))
        };
        let is_number = |kind: DataType| {
            matches!(kind, DataType::Timestamp(..) | DataType::Int32 | DataType::Int64 | DataType::Date32)
        };
        if !same(&left_time, &right_time)?.is_some_and(is_number) {
            return Ok(None);
        }
        for (left, right) in &asof.keys {
            if same(left, right)?.is_none() {
                return Ok(None);
            }
        }
        let left = asof.left.schema().iter().map(|(table, field)| (table.cloned(), Arc::clone(field)));
        let right = asof.right.schema().iter().filter(|(_, field)| !asof.hidden.contains(field.name()));
        let right = right.map(|(table, field)| (table.cloned(), Arc::new(field.as_ref().clone().with_nullable(true))));
        let schema = DFSchema::new_with_metadata(left.chain(right).collect(), asof.left.schema().metadata().clone())?;
        Ok(Some(Self { asof, times: (left_time, right_time), op, schema: Arc::new(schema) }))
    }

    /// Both sides.
    pub fn sides(&self) -> [&LogicalPlan; 2] {
        [&self.asof.left, &self.asof.right]
    }

    /// What has to be equal, of the left and of the right side.
    pub fn keys(&self) -> &[(Expr, Expr)] {
        &self.asof.keys
    }

    /// The times of both sides.
    pub fn times(&self) -> (&Expr, &Expr) {
        (&self.times.0, &self.times.1)
    }

    /// Left rows without a partner stay.
    pub fn is_outer(&self) -> bool {
        self.asof.kind == JoinType::Left
    }

    /// The partner is the last row before, and not the first behind.
    pub fn looks_back(&self) -> bool {
        matches!(self.op, Operator::Gt | Operator::GtEq)
    }

    /// Or at the same time.
    pub fn or_at(&self) -> bool {
        matches!(self.op, Operator::GtEq | Operator::LtEq)
    }

    /// The columns of the right side that the result has.
    pub fn shown(&self) -> Vec<usize> {
        let fields = self.asof.right.schema().fields().iter().enumerate();
        fields.filter(|(_, field)| !self.asof.hidden.contains(field.name())).map(|(at, _)| at).collect()
    }

    /// The same in other nodes.
    pub(super) fn expanded(&self) -> DfResult<LogicalPlan> {
        self.asof.clone().plan()
    }
}

impl fmt::Display for AsOfJoin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_outer() { "Left " } else { "" };
        let keys: String = self.asof.keys.iter().map(|(left, right)| format!("{left} = {right} AND ")).collect();
        write!(f, "AsOf {kind}Join on {keys}{} {} {}", self.times.0, self.op, self.times.1)
    }
}

impl PartialEq for AsOfJoin {
    fn eq(&self, other: &Self) -> bool {
        let one = |one: &Self| (one.asof.kind, one.op, one.asof.hidden.clone());
        one(self) == one(other)
            && self.sides() == other.sides()
            && self.asof.keys == other.asof.keys
            && self.times == other.times
    }
}

impl Eq for AsOfJoin {}

impl Hash for AsOfJoin {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.asof.left, &self.asof.right, &self.asof.keys, &self.times).hash(state);
    }
}

impl PartialOrd for AsOfJoin {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (self == other).then_some(Ordering::Equal)
    }
}

impl UserDefinedLogicalNodeCore for AsOfJoin {
    fn name(&self) -> &str {
        "AsOfJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        self.sides().to_vec()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        let pairs = self.asof.keys.iter().chain([&self.times]);
        pairs.flat_map(|(left, right)| [left.clone(), right.clone()]).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> DfResult<Self> {
        let mut asof = self.asof.clone();
        let mut exprs = exprs.into_iter();
        let mut pairs = Vec::new();
        while let (Some(left), Some(right)) = (exprs.next(), exprs.next()) {
            pairs.push((left, right));
        }
        if let Some((left, right)) = pairs.pop() {
            asof.times = Some((left, self.op, right));
            asof.keys = pairs;
        }
        let mut inputs = inputs.into_iter();
        if let (Some(left), Some(right)) = (inputs.next(), inputs.next()) {
            (asof.left, asof.right) = (left, right);
        }
        Ok(Self::new(asof)?.unwrap_or_else(|| self.clone()))
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let [left, right] = self.sides().map(|side| side.schema());
        let (width, shown) = (left.fields().len(), self.shown());
        let mut needed = [Vec::new(), Vec::new()];
        for column in output_columns {
            match column.checked_sub(width) {
                None => needed[0].push(*column),
                Some(at) => needed[1].push(*shown.get(at)?),
            }
        }
        for (left_expr, right_expr) in self.asof.keys.iter().chain([&self.times]) {
            let own = |expr: &Expr, schema: &DFSchemaRef| -> Vec<usize> {
                expr.column_refs().into_iter().filter_map(|column| schema.maybe_index_of_column(column)).collect()
            };
            needed[0].extend(own(left_expr, left));
            needed[1].extend(own(right_expr, right));
        }
        for side in &mut needed {
            side.sort_unstable();
            side.dedup();
        }
        Some(needed.to_vec())
    }
}
