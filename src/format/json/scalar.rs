//! JSON values → columns of one value each: booleans, numbers, texts and what Arrow makes of texts.
//!
//! Enters: values from a [`Scanner`]. Leaves: an array. Always holds: no fraction is cut off, no number wraps, and no
//! digit of a decimal is rounded away.

use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, BooleanArray, BooleanBufferBuilder, GenericStringArray, NullArray,
    NullBufferBuilder, OffsetSizeTrait, PrimitiveArray, StringViewArray,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type};
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;

use super::column::{Column, mismatch};
use super::scan::{Number, Scan, Scanner, Token};

#[derive(Default)]
pub(super) struct Nothing(usize);

impl Column for Nothing {
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Scan<()> {
        if scanner.token()? != Token::Null {
            let start = scanner.at;
            return mismatch(scanner, start, &DataType::Null);
        }
        scanner.word("null")?;
        self.0 += 1;
        Ok(())
    }

    fn null(&mut self) {
        self.0 += 1;
    }

    fn truncate(&mut self, rows: usize) {
        self.0 = rows.min(self.0);
    }

    fn finish(&mut self) -> Result<ArrayRef, (usize, ArrowError)> {
        Ok(Arc::new(NullArray::new(std::mem::take(&mut self.0))))
    }
}

pub(super) struct Booleans {
    values: BooleanBufferBuilder,
    nulls: NullBufferBuilder,
}

impl Column for Booleans {
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Scan<()> {
        let token = scanner.token()?;
        let start = scanner.at;
        let value = match token {
            Token::True => scanner.word("true").map(|()| Some(true))?,
            Token::False => scanner.word("false").map(|()| Some(false))?,
            Token::Text => scanner.string()?.parse().ok(),
            Token::Null => {
                scanner.word("null")?;
                self.null();
                return Ok(());
            }
            _ => None,
        };
        let Some(value) = value else { return mismatch(scanner, start, &DataType::Boolean) };
        self.values.append(value);
        self.nulls.append_non_null();
        Ok(())
    }

    fn null(&mut self) {
        self.values.append(false);
        self.nulls.append_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
        self.nulls.truncate(rows);
    }

    fn finish(&mut self) -> Result<ArrayRef, (usize, ArrowError)> {
        Ok(Arc::new(BooleanArray::new(self.values.finish(), self.nulls.finish())))
    }
}

impl Booleans {
    pub(super) fn new() -> Self {
        Self { values: BooleanBufferBuilder::new(0), nulls: NullBufferBuilder::new(0) }
    }
}

/// What a native type makes of JSON.
pub(super) trait Native: ArrowPrimitiveType {
    fn of_number(number: Number<'_>, range: &RangeInclusive<Self::Native>) -> Option<Self::Native>;
    fn of_text(text: &str, range: &RangeInclusive<Self::Native>) -> Option<Self::Native>;
}

impl Native for Int64Type {
    /// The whole number that a number is: `2`, and also `2.0` and `2e0`.
    fn of_number(number: Number<'_>, range: &RangeInclusive<i64>) -> Option<i64> {
        /// From here on a float does not tell each whole number from the next.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if number.whole {
            return Self::of_text(number.text, range);
        }
        let value: f64 = number.text.parse().ok()?;
        (value.fract() == 0.0 && value.abs() < EXACT).then_some(value as i64).filter(|value| range.contains(value))
    }

    fn of_text(text: &str, range: &RangeInclusive<i64>) -> Option<i64> {
        text.parse().ok().filter(|value| range.contains(value))
    }
}

impl Native for Float64Type {
    fn of_number(number: Number<'_>, range: &RangeInclusive<f64>) -> Option<f64> {
        number.text.parse().ok().filter(|value| range.contains(value))
    }

    /// Texts may say NaN and infinity, which numbers cannot.
    fn of_text(text: &str, _range: &RangeInclusive<f64>) -> Option<f64> {
        text.parse().ok()
    }
}

/// Numbers, in a native type that holds those of `kind`.
pub(super) struct Numbers<T: Native> {
    values: Vec<T::Native>,
    nulls: NullBufferBuilder,
    kind: DataType,
    range: RangeInclusive<T::Native>,
}

impl<T: Native> Numbers<T> {
    pub(super) fn boxed(kind: &DataType, range: RangeInclusive<T::Native>) -> Box<dyn Column> {
        Box::new(Self { values: Vec::new(), nulls: NullBufferBuilder::new(0), kind: kind.clone(), range })
    }
}

impl<T: Native> Column for Numbers<T> {
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Scan<()> {
        let token = scanner.token()?;
        let start = scanner.at;
        let value = match token {
            Token::Number => T::of_number(scanner.number()?, &self.range),
            Token::Text => T::of_text(scanner.string()?.as_ref(), &self.range),
            Token::Null => {
                scanner.word("null")?;
                self.null();
                return Ok(());
            }
            _ => None,
        };
        match value {
            Some(value) => {
                self.values.push(value);
                self.nulls.append_non_null();
                Ok(())
            }
            None => mismatch(scanner, start, &self.kind),
        }
    }

    fn null(&mut self) {
        self.values.push(T::Native::default());
        self.nulls.append_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
        self.nulls.truncate(rows);
    }

    fn finish(&mut self) -> Result<ArrayRef, (usize, ArrowError)> {
        let values = ScalarBuffer::from(std::mem::take(&mut self.values));
        let array: ArrayRef = Arc::new(PrimitiveArray::<T>::new(values, self.nulls.finish()));
        if self.kind == T::DATA_TYPE { Ok(array) } else { cast(&array, &self.kind).map_err(|error| (0, error)) }
    }
}

/// Values as text: of columns of text, and of the types that Arrow makes of text.
pub(super) struct Texts {
    text: String,
    ends: Vec<usize>,
    nulls: NullBufferBuilder,
    kind: DataType,
}

impl Texts {
    pub(super) fn new(kind: DataType) -> Self {
        Self { text: String::new(), ends: Vec::new(), nulls: NullBufferBuilder::new(0), kind }
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len());
        self.nulls.append_non_null();
    }

    /// Digits behind the point that the type keeps: Arrow would round the rest away.
    fn decimals(&self) -> usize {
        match self.kind {
            DataType::Decimal32(_, scale)
            | DataType::Decimal64(_, scale)
            | DataType::Decimal128(_, scale)
            | DataType::Decimal256(_, scale) => usize::try_from(scale).unwrap_or(0),
            _ => usize::MAX,
        }
    }

    fn array<O: OffsetSizeTrait>(&mut self) -> Result<GenericStringArray<O>, ArrowError> {
        let too_large = || ArrowError::OffsetOverflowError(self.text.len());
        let offsets = std::iter::once(&0).chain(&self.ends).map(|end| O::from_usize(*end)).collect::<Option<Vec<O>>>();
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets.ok_or_else(too_large)?));
        self.ends.clear();
        let text = Buffer::from_vec(std::mem::take(&mut self.text).into_bytes());
        GenericStringArray::try_new(offsets, text, self.nulls.finish())
    }

    fn made(&mut self) -> Result<ArrayRef, (usize, ArrowError)> {
        let first = |error| (0, error);
        Ok(match &self.kind {
            DataType::Utf8 => Arc::new(self.array::<i32>().map_err(first)?),
            DataType::LargeUtf8 => Arc::new(self.array::<i64>().map_err(first)?),
            DataType::Utf8View => Arc::new(StringViewArray::from(&self.array::<i32>().map_err(first)?)),
            kind if kind.is_nested() => {
                let kind = kind.clone();
                nested(&self.array::<i64>().map_err(first)?, &kind).map_err(first)?
            }
            kind => {
                let kind = kind.clone();
                let strict = CastOptions { safe: false, ..CastOptions::default() };
                let texts: ArrayRef = Arc::new(self.array::<i32>().map_err(first)?);
                let one = |row: usize| cast_with_options(&texts.slice(row, 1), &kind, &strict);
                cast_with_options(&texts, &kind, &strict).map_err(|error| {
                    let row = (0..texts.len()).find(|row| one(*row).is_err());
                    (row.unwrap_or(0), error)
                })?
            }
        })
    }
}

/// Digits behind the point of a number, without zeros at its end.
fn decimals(number: Number<'_>) -> usize {
    let digits = number.text.split(['e', 'E']).next().unwrap_or_default();
    digits.split_once('.').map_or(0, |(_, fraction)| fraction.trim_end_matches('0').len())
}

/// Values of a type that only Arrow's own reader knows: maps, lists of a fixed size.
fn nested(texts: &GenericStringArray<i64>, kind: &DataType) -> Result<ArrayRef, ArrowError> {
    let field = Field::new("value", kind.clone(), true);
    let mut decoder =
        ReaderBuilder::new_with_field(field).with_batch_size(texts.len()).with_strict_mode(true).build_decoder()?;
    for text in texts {
        decoder.decode(text.unwrap_or("null").as_bytes())?;
        decoder.decode(b"\n")?;
    }
    match decoder.flush()? {
        Some(batch) => Ok(Arc::clone(batch.column(0))),
        None => Ok(arrow::array::new_empty_array(kind)),
    }
}

impl Column for Texts {
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Scan<()> {
        let token = scanner.token()?;
        let start = scanner.at;
        let any = matches!(self.kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
        match token {
            Token::Null => {
                scanner.word("null")?;
                self.null();
            }
            Token::Text if !self.kind.is_nested() => {
                let text = scanner.string()?;
                self.push(&text);
            }
            Token::Number => {
                let number = scanner.number()?;
                if decimals(number) > self.decimals() {
                    return mismatch(scanner, start, &self.kind);
                }
                self.push(number.text);
            }
            _ if any || self.kind.is_nested() => {
                scanner.skip()?;
                self.push(scanner.since(start));
            }
            _ => return mismatch(scanner, start, &self.kind),
        }
        Ok(())
    }

    fn null(&mut self) {
        self.ends.push(self.text.len());
        self.nulls.append_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.ends.truncate(rows);
        self.nulls.truncate(rows);
        self.text.truncate(self.ends.last().copied().unwrap_or(0));
    }

    fn finish(&mut self) -> Result<ArrayRef, (usize, ArrowError)> {
        let made = self.made();
        self.truncate(0);
        made
    }
}
