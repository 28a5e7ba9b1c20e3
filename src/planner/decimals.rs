//! Decimal arithmetic at the speed of whole numbers.
//!
//! Enters: `+`, `-` and `*` of two decimals of 128 bits. Leaves: an expression that gives what arrow's kernels give.
//! Always holds: where all values of a batch fit into 64 bits no result can overflow, and no row is checked;
//! any other batch goes to arrow's kernels, which check each row.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Datum, Decimal128Array, RecordBatch};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Decimal128Type, Schema};
use arrow::error::ArrowError;
use datafusion::common::Result as DfResult;
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::expressions::BinaryExpr;
use datafusion::physical_expr_common::datum::apply;
use datafusion::physical_plan::PhysicalExpr;

use super::checked::kernel;

/// 10^18 is the last power of ten within 64 bits.
const DIGITS_OF_64_BITS: u32 = 18;

/// `+`, `-` or `*` in its fast form; nothing if it is not of two decimals of 128 bits.
pub(super) fn fast(binary: &BinaryExpr, schema: &Schema) -> Option<Arc<dyn PhysicalExpr>> {
    let decimal = |side: &Arc<dyn PhysicalExpr>| matches!(side.data_type(schema), Ok(DataType::Decimal128(..)));
    (decimal(binary.left()) && decimal(binary.right())).then(|| Arc::new(OfDecimals(binary.clone())) as _)
}

/// `+`, `-` or `*` of two decimals of 128 bits.
#[derive(Debug, PartialEq, Eq, Hash)]
struct OfDecimals(BinaryExpr);

impl fmt::Display for OfDecimals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl PhysicalExpr for OfDecimals {
    fn data_type(&self, input_schema: &Schema) -> DfResult<DataType> {
        self.0.data_type(input_schema)
    }

    fn nullable(&self, input_schema: &Schema) -> DfResult<bool> {
        self.0.nullable(input_schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> DfResult<ColumnarValue> {
        let (left, right) = (self.0.left().evaluate(batch)?, self.0.right().evaluate(batch)?);
        apply(&left, &right, |left, right| computed(*self.0.op(), left, right))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.0.children()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> DfResult<Arc<dyn PhysicalExpr>> {
        let [left, right] = <[_; 2]>::try_from(children)
            .map_err(|_| datafusion::common::internal_datafusion_err!("an operator has two sides"))?;
        let binary = BinaryExpr::new(left, *self.0.op(), right).with_fail_on_overflow(true);
        Ok(Arc::new(Self(binary)))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_sql(f)
    }
}

fn computed(op: Operator, left: &dyn Datum, right: &dyn Datum) -> Result<ArrayRef, ArrowError> {
    if let (Some(left), Some(right)) = (Side::new(left), Side::new(right))
        && let Some(result) = unchecked(op, &left, &right)?
    {
        return Ok(result);
    }
    kernel(op, left, right)
}

/// One side of an operation, whose values all fit into 64 bits.
struct Side<'a> {
    values: &'a [i128],
    nulls: Option<&'a NullBuffer>,
    /// True where one value stands for each row.
    constant: bool,
    precision: u8,
    scale: i8,
}

impl<'a> Side<'a> {
    fn new(datum: &'a dyn Datum) -> Option<Self> {
        let (array, constant) = datum.get();
        let DataType::Decimal128(precision, scale) = *array.data_type() else { return None };
        let array: &Decimal128Array = array.as_primitive::<Decimal128Type>();
        let values: &[i128] = array.values();
        // One pass without a branch: the bits above the 64th repeat it.
        let outside = values.iter().fold(0, |outside, value| outside | (value ^ i128::from(*value as i64)));
        let known = outside == 0 && !(constant && array.null_count() > 0);
        known.then_some(Self { values, nulls: array.nulls().filter(|_| !constant), constant, precision, scale })
    }
}

/// The result by products of 64 bits, whose sum fits into 128; nothing where powers of ten do not.
fn unchecked(op: Operator, left: &Side<'_>, right: &Side<'_>) -> Result<Option<ArrayRef>, ArrowError> {
    let product = |a: i128, b: i128| i128::from(a as i64) * i128::from(b as i64);
    let max = arrow::datatypes::DECIMAL128_MAX_PRECISION;
    let (values, precision, scale) = if op == Operator::Multiply {
        let scale = left.scale.saturating_add(right.scale);
        let precision = left.precision.saturating_add(right.precision).saturating_add(1).min(max);
        if scale > arrow::datatypes::DECIMAL128_MAX_SCALE {
            return Ok(None);
        }
        (paired(left, right, product), precision, scale)
    } else {
        let scale = left.scale.max(right.scale);
        let whole = |side: &Side<'_>| side.precision as i8 - side.scale;
        let precision = (scale.saturating_add(whole(left).max(whole(right))) as u8).saturating_add(1).min(max);
        let power = |side: &Side<'_>| {
            let missing = u32::try_from(i16::from(scale) - i16::from(side.scale)).ok()?;
            (missing <= DIGITS_OF_64_BITS).then(|| 10_i128.pow(missing))
        };
        let (Some(l), Some(r)) = (power(left), power(right)) else { return Ok(None) };
        let values = match (op, l == 1 && r == 1) {
            (Operator::Plus, true) => paired(left, right, |a, b| a + b),
            (Operator::Plus, false) => paired(left, right, |a, b| product(a, l) + product(b, r)),
            (_, true) => paired(left, right, |a, b| a - b),
            (_, false) => paired(left, right, |a, b| product(a, l) - product(b, r)),
        };
        (values, precision, scale)
    };
    let nulls = NullBuffer::union(left.nulls, right.nulls);
    let array = Decimal128Array::new(values.into(), nulls).with_precision_and_scale(precision, scale)?;
    Ok(Some(Arc::new(array)))
}

fn paired(left: &Side<'_>, right: &Side<'_>, operation: impl Fn(i128, i128) -> i128) -> Vec<i128> {
    match (left.constant, right.constant) {
        (true, _) => right.values.iter().map(|b| operation(left.values[0], *b)).collect(),
        (_, true) => left.values.iter().map(|a| operation(*a, right.values[0])).collect(),
        _ => left.values.iter().zip(right.values).map(|(a, b)| operation(*a, *b)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Scalar;
    use arrow::compute::kernels::numeric;

    use super::*;

    fn decimals(values: Vec<Option<i128>>, precision: u8, scale: i8) -> Decimal128Array {
        Decimal128Array::from(values).with_precision_and_scale(precision, scale).expect("a type")
    }

    #[test]
    fn the_answers_are_those_of_arrow() {
        let (low, high) = (i128::from(i64::MIN), i128::from(i64::MAX));
        let small = vec![Some(0), Some(-1), None, Some(low), Some(high), Some(12_345), None];
        let other = vec![Some(7), None, Some(-3), Some(low), Some(low), Some(-99), None];
        let wide = vec![Some(high + 1), Some(1), Some(low - 1), None, Some(5), Some(6), Some(7)];
        let mut fast = 0;
        for (a, b) in [(&small, &other), (&other, &small), (&small, &wide), (&wide, &other)] {
            for (p1, s1, p2, s2) in [(19, 2, 19, 2), (19, 2, 20, 0), (38, 10, 19, -3), (15, 2, 23, 2), (38, 30, 38, 2)]
            {
                let (left, right) = (decimals(a.clone(), p1, s1), decimals(b.clone(), p2, s2));
                let one = Scalar::new(decimals(vec![Some(100)], p1, s1));
                let none = Scalar::new(decimals(vec![None], p1, s1));
                let pairs: [(&dyn Datum, &dyn Datum); 5] =
                    [(&left, &right), (&one, &right), (&right, &one), (&none, &right), (&one, &one)];
                for (left, right) in pairs {
                    for op in [Operator::Plus, Operator::Minus, Operator::Multiply] {
                        let expected = match op {
                            Operator::Plus => numeric::add(left, right),
                            Operator::Minus => numeric::sub(left, right),
                            _ => numeric::mul(left, right),
                        };
                        let both = Side::new(left).zip(Side::new(right));
                        fast +=
                            usize::from(both.is_some_and(|(l, r)| unchecked(op, &l, &r).is_ok_and(|it| it.is_some())));
                        match (computed(op, left, right), expected) {
                            (Ok(result), Ok(expected)) => assert_eq!(&result, &expected, "{op}"),
                            (result, expected) => assert_eq!(result.is_err(), expected.is_err(), "{op}"),
                        }
                    }
                }
            }
        }
        assert!(fast > 100, "{fast} went without checks");
    }
}
