//! now(), current_date and current_time of a pipeline.
//!
//! Enters: the time that an epoch has recorded. Leaves: functions that give it. Always holds: an epoch that is run
//! again gives the same; DataFusion's own become constants when the pipeline is planned.

use std::hash::{Hash, Hasher};

use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result as DfResult, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ExprSchemable, LogicalPlan, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use crate::clock::EpochTime;
use crate::error::Result;

const NAMES: [&str; 3] = ["now", "current_date", "current_time"];

/// The epoch's time, as one of the three.
#[derive(Debug)]
struct EpochNow {
    name: &'static str,
    kind: DataType,
    time: EpochTime,
    signature: Signature,
}

impl PartialEq for EpochNow {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.kind == other.kind
    }
}

impl Eq for EpochNow {}

impl Hash for EpochNow {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.name, &self.kind).hash(state);
    }
}

impl ScalarUDFImpl for EpochNow {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> DfResult<DataType> {
        Ok(self.kind.clone())
    }

    fn invoke_with_args(&self, _args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let now = ScalarValue::TimestampMicrosecond(Some(self.time.micros()), None).to_array()?;
        let now = match &self.kind {
            // A time with a zone is the same instant.
            DataType::Timestamp(unit, Some(zone)) => {
                let utc = cast(&now, &DataType::Timestamp(*unit, None))?;
                let values = utc.to_data().into_builder().data_type(DataType::Timestamp(*unit, Some(zone.clone())));
                arrow::array::make_array(values.build()?)
            }
            kind => cast(&now, kind)?,
        };
        Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&now, 0)?))
    }
}

/// True for a call of one of these.
pub fn is_epoch_time(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(call) if call.func.inner().downcast_ref::<EpochNow>().is_some())
}

/// The plan with the epoch's time in the place of that of planning.
pub fn with_epoch_time(plan: LogicalPlan, time: &EpochTime) -> Result<LogicalPlan> {
    let replace = |expr: Expr| -> DfResult<Transformed<Expr>> {
        let Expr::ScalarFunction(call) = &expr else { return Ok(Transformed::no(expr)) };
        let Some(name) = NAMES.into_iter().find(|name| *name == call.func.name()).filter(|_| call.args.is_empty())
        else {
            return Ok(Transformed::no(expr));
        };
        let kind = expr.get_type(&DFSchema::empty())?;
        let signature = Signature::nullary(Volatility::Volatile);
        let function = ScalarUDF::new_from_impl(EpochNow { name, kind, time: time.clone(), signature });
        Ok(Transformed::yes(function.call(Vec::new())))
    };
    let replaced = plan.transform_up_with_subqueries(|node| node.map_expressions(|expr| expr.transform_up(replace)));
    Ok(replaced?.data)
}
