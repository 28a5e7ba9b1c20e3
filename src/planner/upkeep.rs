//! How an aggregate function is kept up to date.
//!
//! Enters: a function and the types of its arguments. Leaves: what is kept of each group. Always holds: the choice
//! depends on the plan alone, so EXPLAIN INCREMENTAL tells what runs.

use arrow::datatypes::DataType;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable};

use crate::error::Result;

/// What is kept of each group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upkeep {
    /// A few sums.
    Sums(Sum),
    /// How often each value is there, in order; the result is the least.
    Least,
    /// The same; the result is the greatest.
    Greatest,
    /// How often each value is there; those that are there at all are summed.
    Distinct(Sum),
    /// The states of DataFusion's accumulators, which cannot take rows away.
    States,
    /// All rows: the result is computed anew.
    Rows,
}

/// What is summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sum {
    /// Rows without NULL.
    Count,
    /// Whole numbers and decimals, of this scale.
    Whole {
        /// Digits behind the point.
        scale: i8,
        /// The result is the average.
        average: bool,
    },
    /// Floats.
    Float {
        /// The result is the average.
        average: bool,
    },
    /// A float and its square.
    Variance,
    /// Two floats, their squares and their product, for this group of functions.
    Pair(Pair),
    /// True and false apart.
    Bool {
        /// All have to be true, and not just one.
        and: bool,
    },
}

/// In which order DataFusion keeps the moments of pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pair {
    /// covar_samp, covar_pop
    Covariance,
    /// corr
    Correlation,
    /// regr_…; the first argument is y.
    Regression,
}

/// What matters of a function.
pub struct Called<'a> {
    /// As DataFusion names it.
    pub name: &'a str,
    /// With DISTINCT.
    pub distinct: bool,
    /// With an ORDER BY of its own.
    pub ordered: bool,
    /// The types of its arguments.
    pub arguments: &'a [DataType],
    /// The type of its result.
    pub result: &'a DataType,
}

impl Called<'_> {
    /// What is kept for it. `grows`: its input never retracts.
    pub fn upkeep(&self, grows: bool) -> Upkeep {
        let sum = if self.ordered { None } else { self.sum() };
        let other = if grows { Upkeep::States } else { Upkeep::Rows };
        match (self.name, sum) {
            ("min", _) if !grows => Upkeep::Least,
            ("max", _) if !grows => Upkeep::Greatest,
            (_, Some(sum)) if self.distinct && self.arguments.len() == 1 => Upkeep::Distinct(sum),
            (_, Some(_)) if self.distinct => other,
            // Without retractions DataFusion's own states are faster.
            (_, Some(Sum::Variance | Sum::Pair(_))) if grows => other,
            (_, Some(sum)) => Upkeep::Sums(sum),
            (_, None) => other,
        }
    }

    fn sum(&self) -> Option<Sum> {
        use DataType::*;
        Some(match self.name {
            "count" => Sum::Count,
            "sum" => match self.result {
                Int64 | UInt64 | Duration(_) => Sum::Whole { scale: 0, average: false },
                Decimal32(_, scale) | Decimal64(_, scale) | Decimal128(_, scale) => {
                    Sum::Whole { scale: *scale, average: false }
                }
                Float64 => Sum::Float { average: false },
                _ => return None,
            },
            "avg" => match self.arguments {
                // Beyond that, DataFusion sums in 256 bits.
                [Decimal128(..=AVERAGE_DIGITS, scale)] => Sum::Whole { scale: *scale, average: true },
                [Float64] => Sum::Float { average: true },
                _ => return None,
            },
            "bool_and" => Sum::Bool { and: true },
            "bool_or" => Sum::Bool { and: false },
            "var" | "var_pop" | "stddev" | "stddev_pop" => Sum::Variance,
            "covar_samp" | "covar_pop" => Sum::Pair(Pair::Covariance),
            "corr" => Sum::Pair(Pair::Correlation),
            name if name.starts_with("regr_") => Sum::Pair(Pair::Regression),
            _ => return None,
        })
    }
}

/// Digits of a decimal whose average is summed in 128 bits.
const AVERAGE_DIGITS: u8 = 25;

/// The functions of an aggregate over input that retracts whose groups are computed anew, by their names.
pub(super) fn recomputed(aggregate: &Aggregate) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (at, expr) in aggregate.aggr_expr.iter().enumerate() {
        let Expr::AggregateFunction(AggregateFunction { func, params }) = expr.clone().unalias_nested().data else {
            continue;
        };
        let input = aggregate.input.schema().as_ref();
        let arguments = params.args.iter().map(|argument| argument.get_type(input));
        let first = aggregate.schema.fields().len() - aggregate.aggr_expr.len();
        let called = Called {
            name: func.name(),
            distinct: params.distinct,
            ordered: !params.order_by.is_empty(),
            arguments: &arguments.collect::<Result<Vec<_>, _>>()?,
            result: aggregate.schema.field(first + at).data_type(),
        };
        if called.upkeep(false) == Upkeep::Rows {
            names.push(format!("{}()", func.name()));
        }
    }
    names.dedup();
    Ok(names)
}
