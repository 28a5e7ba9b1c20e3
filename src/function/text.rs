//! Functions of text.
//!
//! Enters: texts and numbers. Leaves: bars for charts, matches of patterns, distances. Always holds: NULL in
//! an argument makes NULL; a pattern that cannot be read is an error.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Float64Array, Int64Array, ListBuilder, StringArray, StringBuilder};
use arrow::datatypes::{DataType, Field};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use regex::Regex;

use super::arrays;
use crate::error::{Error, Result};

/// The longest bar.
const BAR_WIDTH_LIMIT: f64 = 1000.0;

/// Registers them.
pub(super) fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    let text = || DataType::Utf8;
    let texts = || DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
    let mut add = |name: &str, args: Vec<DataType>, result: DataType, run: fn(&[ArrayRef]) -> Result<ArrayRef>| {
        let run = move |args: &[ColumnarValue]| {
            let (arrays, single) = arrays(args)?;
            super::columnar(run(&arrays)?, single)
        };
        registry.register_udf(Arc::new(create_udf(name, args, result, Volatility::Immutable, Arc::new(run))))
    };
    let double = || DataType::Float64;
    add("bar", vec![double(), double(), double(), double()], text(), bars)?;
    add("glob", vec![text(), text()], DataType::Boolean, globs)?;
    add("regexp_extract_all", vec![text(), text()], texts(), |args| {
        patterns(args, |text, pattern| pattern.find_iter(text).map(|found| found.as_str().to_owned()).collect())
    })?;
    add("regexp_split_to_array", vec![text(), text()], texts(), |args| {
        patterns(args, |text, pattern| pattern.split(text).map(str::to_owned).collect())
    })?;
    add("jaro_similarity", vec![text(), text()], double(), |args| {
        Ok(Arc::new(pairs(args).map(|pair| pair.map(|(a, b)| strsim::jaro(a, b))).collect::<Float64Array>()))
    })?;
    add("jaro_winkler_similarity", vec![text(), text()], double(), |args| {
        Ok(Arc::new(pairs(args).map(|pair| pair.map(|(a, b)| strsim::jaro_winkler(a, b))).collect::<Float64Array>()))
    })?;
    add("damerau_levenshtein", vec![text(), text()], DataType::Int64, |args| {
        let distance = |(a, b): (&str, &str)| i64::try_from(strsim::damerau_levenshtein(a, b)).ok();
        Ok(Arc::new(pairs(args).map(|pair| pair.and_then(distance)).collect::<Int64Array>()))
    })?;
    add("bin", vec![DataType::Int64], text(), |args| Ok(numbers(args, |n| format!("{n:b}"))))?;
    add("format_bytes", vec![DataType::Int64], text(), |args| Ok(numbers(args, |n| bytes(n, 1024, "iB"))))?;
    add("formatreadabledecimalsize", vec![DataType::Int64], text(), |args| Ok(numbers(args, |n| bytes(n, 1000, "B"))))?;
    add("bit_count", vec![DataType::Int64], DataType::Int64, |args| {
        let numbers = args.first().and_then(|array| array.as_any().downcast_ref::<Int64Array>());
        let count = |n: Option<i64>| n.map(|n| i64::from(n.count_ones()));
        Ok(Arc::new(numbers.into_iter().flatten().map(count).collect::<Int64Array>()))
    })?;
    add("url_encode", vec![text()], text(), |args| {
        let encode = |text: &str| utf8_percent_encode(text, UNRESERVED).to_string();
        Ok(Arc::new(
            args.first().and_then(strings).into_iter().flatten().map(|text| text.map(encode)).collect::<StringArray>(),
        ))
    })?;
    add("url_decode", vec![text()], text(), |args| {
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        Ok(Arc::new(
            args.first().and_then(strings).into_iter().flatten().map(|text| text.map(decode)).collect::<StringArray>(),
        ))
    })?;
    add("hamming", vec![text(), text()], DataType::Int64, |args| {
        let mut distances = Vec::with_capacity(args[0].len());
        for pair in pairs(args) {
            distances.push(pair.map(|(a, b)| hamming(a, b)).transpose()?);
        }
        Ok(Arc::new(Int64Array::from(distances)))
    })?;
    Ok(())
}

/// What stays as it is in a URL.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

fn numbers(args: &[ArrayRef], text: impl Fn(i64) -> String) -> ArrayRef {
    let numbers = args.first().and_then(|array| array.as_any().downcast_ref::<Int64Array>());
    Arc::new(numbers.into_iter().flatten().map(|n| n.map(&text)).collect::<StringArray>())
}

/// `1.4 KiB`, cut and not rounded.
fn bytes(n: i64, step: u64, unit: &str) -> String {
    let (sign, size) = (if n < 0 { "-" } else { "" }, n.unsigned_abs());
    if size < step {
        return format!("{sign}{size} {}", if size == 1 { "byte" } else { "bytes" });
    }
    let mut scale = step;
    let mut letters = "kMGTPE".chars().peekable();
    while size / scale >= step && letters.clone().count() > 1 {
        scale *= step;
        letters.next();
    }
    let letter = letters.next().map_or('E', |letter| if step == 1024 { letter.to_ascii_uppercase() } else { letter });
    let tenths = u128::from(size) * 10 / u128::from(scale);
    format!("{sign}{}.{} {letter}{unit}", tenths / 10, tenths % 10)
}

fn hamming(a: &str, b: &str) -> Result<i64> {
    let distance = strsim::hamming(a, b);
    let distance =
        distance.map_err(|_| Error::query(format!("hamming() of texts that differ in length: '{a}', '{b}'")))?;
    Ok(i64::try_from(distance).unwrap_or(i64::MAX))
}

fn strings(array: &ArrayRef) -> Option<&StringArray> {
    array.as_any().downcast_ref::<StringArray>()
}

/// The first two columns side by side; nothing where one is NULL.
fn pairs(args: &[ArrayRef]) -> impl Iterator<Item = Option<(&str, &str)>> {
    let pair = |at: usize| {
        let text =
            |n: usize| args.get(n).and_then(strings).filter(|texts| texts.is_valid(at)).map(|texts| texts.value(at));
        Some((text(0)?, text(1)?))
    };
    (0..args.first().map_or(0, |array| array.len())).map(pair)
}

/// Bars of eighths of a block, padded with spaces to their width.
fn bars(args: &[ArrayRef]) -> Result<ArrayRef> {
    let number = |n: usize, row: usize| {
        let column = args.get(n)?.as_any().downcast_ref::<Float64Array>()?;
        column.is_valid(row).then(|| column.value(row))
    };
    let mut bars = Vec::new();
    for row in 0..args.first().map_or(0, |array| array.len()) {
        let bar = match (number(0, row), number(1, row), number(2, row), number(3, row)) {
            (Some(x), Some(low), Some(high), Some(width)) => Some(bar(x, low, high, width)?),
            _ => None,
        };
        bars.push(bar);
    }
    Ok(Arc::new(StringArray::from(bars)))
}

fn bar(x: f64, low: f64, high: f64, width: f64) -> Result<String> {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    if !(1.0..=BAR_WIDTH_LIMIT).contains(&width) {
        return Err(Error::query(format!("bar(): the width is between 1 and {BAR_WIDTH_LIMIT}")));
    }
    if !x.is_finite() || !low.is_finite() || !high.is_finite() || low >= high {
        return Err(Error::query("bar(x, low, high, width): low is less than high, and all are finite"));
    }
    let filled = ((x - low) / (high - low)).clamp(0.0, 1.0) * width * 8.0;
    let eighths = filled as usize;
    let mut text = "█".repeat(eighths / 8);
    text.push_str(EIGHTHS[eighths % 8]);
    let missing = (width as usize).saturating_sub(text.chars().count());
    text.push_str(&" ".repeat(missing));
    Ok(text)
}

/// `text GLOB pattern`.
fn globs(args: &[ArrayRef]) -> Result<ArrayRef> {
    let mut known: HashMap<String, glob::Pattern> = HashMap::new();
    let mut found = Vec::new();
    for pair in pairs(args) {
        let Some((text, pattern)) = pair else {
            found.push(None);
            continue;
        };
        if !known.contains_key(pattern) {
            let read = glob::Pattern::new(pattern);
            let read = read.map_err(|error| Error::query(format!("'{pattern}' is not a pattern: {}", error.msg)))?;
            known.insert(pattern.to_owned(), read);
        }
        found.push(known.get(pattern).map(|pattern| pattern.matches(text)));
    }
    Ok(Arc::new(BooleanArray::from(found)))
}

/// A list of texts from each text and regular expression.
fn patterns(args: &[ArrayRef], parts: impl Fn(&str, &Regex) -> Vec<String>) -> Result<ArrayRef> {
    let mut known: HashMap<String, Regex> = HashMap::new();
    let mut lists = ListBuilder::new(StringBuilder::new());
    for pair in pairs(args) {
        let Some((text, pattern)) = pair else {
            lists.append_null();
            continue;
        };
        if !known.contains_key(pattern) {
            let read = Regex::new(pattern);
            let read = read.map_err(|_| Error::query(format!("the regular expression '{pattern}' cannot be read")))?;
            known.insert(pattern.to_owned(), read);
        }
        if let Some(pattern) = known.get(pattern) {
            lists.append_value(parts(text, pattern).into_iter().map(Some));
        }
    }
    Ok(Arc::new(lists.finish()))
}
