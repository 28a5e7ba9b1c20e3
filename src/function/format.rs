//! `printf('%5.2f', x)` and `format('{:>8}', x)`.
//!
//! Enters: a text with places in it, and values. Leaves: the text with the values in its places. Always holds: NULL in
//! an argument makes NULL; a place that cannot be filled is an error that names it; the size of a result is known
//! before memory is taken for it.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, UInt64Type};
use datafusion::common::Result as DfResult;
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};

use super::limited::refuse_large;
use super::{arrays, columnar};
use crate::error::{Error, Result};

/// Digits behind the point that can be asked for.
const MOST_DIGITS: usize = 400;

/// Registers both.
pub(super) fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    for (name, read) in [("printf", percents as Reader), ("format", braces as Reader)] {
        let function = Formatted { name, read: Read(read), signature: Signature::user_defined(Volatility::Immutable) };
        registry.register_udf(Arc::new(ScalarUDF::new_from_impl(function)))?;
    }
    Ok(())
}

/// A piece of a pattern.
#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Text(String),
    Value(usize, Spec),
}

/// How a value is written.
#[derive(Debug, Clone, Default, PartialEq)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    /// `+` or a space before what is not negative.
    sign: Option<char>,
    /// `0x` before a hexadecimal number.
    alternate: bool,
    zeros: bool,
    width: usize,
    commas: bool,
    precision: Option<usize>,
    kind: Option<char>,
}

type Reader = fn(&str) -> Result<Vec<Piece>>;

/// A reader of patterns: which one does not tell functions apart, their names do.
#[derive(Debug)]
struct Read(Reader);

#[derive(Debug)]
struct Formatted {
    name: &'static str,
    read: Read,
    signature: Signature,
}

impl PartialEq for Formatted {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Formatted {}

impl std::hash::Hash for Formatted {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Formatted {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        if types.is_empty() {
            return Err(Error::sql(format!("{} takes a pattern, and values for it", self.name)).mark(self.name).into());
        }
        let kind = |(at, kind): (usize, &DataType)| match kind {
            _ if at == 0 => DataType::Utf8,
            DataType::UInt64 => DataType::UInt64,
            kind if kind.is_integer() => DataType::Int64,
            kind if kind.is_floating() || kind.is_decimal() => DataType::Float64,
            _ => DataType::Utf8,
        };
        Ok(types.iter().enumerate().map(kind).collect())
    }

    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let (columns, single) = arrays(&args.args)?;
        let check = |bytes: usize| {
            refuse_large(&format!("{}()", self.name), i64::try_from(bytes).unwrap_or(i64::MAX), &args.config_options)
        };
        columnar(self.run(&columns, check)?, single)
    }
}

/// A value to be written.
enum Value<'a> {
    Whole(i128),
    Real(f64),
    Text(&'a str),
}

fn value(column: &ArrayRef, row: usize) -> Value<'_> {
    match column.data_type() {
        DataType::Int64 => Value::Whole(column.as_primitive::<Int64Type>().value(row).into()),
        DataType::UInt64 => Value::Whole(column.as_primitive::<UInt64Type>().value(row).into()),
        DataType::Float64 => Value::Real(column.as_primitive::<Float64Type>().value(row)),
        _ => Value::Text(column.as_string::<i32>().value(row)),
    }
}

impl Formatted {
    fn run(&self, columns: &[ArrayRef], check: impl Fn(usize) -> Result<()>) -> Result<ArrayRef> {
        let patterns = cast(&columns[0], &DataType::Utf8)?;
        let patterns = patterns.as_string::<i32>();
        let mut last: Option<(&str, Vec<Piece>)> = None;
        let mut made = StringBuilder::new();
        let mut bytes = 0_usize;
        for row in 0..patterns.len() {
            if columns.iter().any(|column| column.is_null(row) || *column.data_type() == DataType::Null) {
                made.append_null();
                continue;
            }
            let pattern = patterns.value(row);
            if last.as_ref().is_none_or(|(known, _)| *known != pattern) {
                last = Some((pattern, (self.read.0)(pattern)?));
            }
            let pieces = last.as_ref().map_or(&[][..], |(_, pieces)| pieces);
            for piece in pieces {
                let text = match piece {
                    Piece::Text(text) => text.clone(),
                    Piece::Value(at, spec) => {
                        bytes = bytes.saturating_add(spec.width.max(spec.precision.unwrap_or(0)));
                        check(bytes)?;
                        let column = columns.get(at + 1).ok_or_else(|| {
                            Error::query(format!("{}('{pattern}', …) has no value number {}", self.name, at + 1))
                        })?;
                        spec.write(value(column, row)).map_err(|why| {
                            Error::query(format!("{}('{pattern}', …), value number {}: {why}", self.name, at + 1))
                        })?
                    }
                };
                bytes = bytes.saturating_add(text.len());
                check(bytes)?;
                let _ = made.write_str(&text);
            }
            made.append_value("");
        }
        Ok(Arc::new(made.finish()))
    }
}

impl Spec {
    /// The value as text, or why it has none.
    fn write(&self, value: Value<'_>) -> Result<String, String> {
        let kind = self.kind;
        let wrong = |what: &str| Err(format!("'{}' is not for {what}", kind.unwrap_or(' ')));
        let (negative, digits, right) = match (value, kind) {
            (Value::Whole(n), None | Some('d' | 'i' | 's' | 'u')) => {
                (n < 0, self.grouped(n.unsigned_abs().to_string()), true)
            }
            (Value::Whole(n), Some('x' | 'X' | 'o' | 'b' | 'B')) => (n < 0, self.in_base(n.unsigned_abs()), true),
            (Value::Whole(n), Some('c')) => {
                let c = u32::try_from(n).ok().and_then(char::from_u32);
                (false, c.ok_or_else(|| format!("{n} is no character"))?.to_string(), false)
            }
            (Value::Whole(n), _) => (n < 0, self.real(n.unsigned_abs() as f64)?, true),
            (Value::Real(x), None | Some('s')) if self.precision.is_none() => {
                (x < 0.0, self.grouped(plain(x.abs())), true)
            }
            (Value::Real(_), Some('d' | 'i' | 'x' | 'X' | 'o' | 'b' | 'B' | 'c' | 'u')) => {
                return wrong("a number with a fraction");
            }
            (Value::Real(x), _) => (x.is_sign_negative() && !x.is_nan(), self.real(x.abs())?, true),
            (Value::Text(text), None | Some('s')) => {
                let cut = self.precision.unwrap_or(usize::MAX);
                (false, text.chars().take(cut).collect(), false)
            }
            (Value::Text(_), _) => return wrong("a text"),
        };
        let sign = if negative {
            "-"
        } else {
            match self.sign {
                Some('+') if right => "+",
                Some(' ') if right => " ",
                _ => "",
            }
        };
        let length = sign.len() + digits.chars().count();
        let missing = self.width.saturating_sub(length);
        if self.zeros && right && self.align.is_none() {
            return Ok(format!("{sign}{}{digits}", "0".repeat(missing)));
        }
        let fill = |count: usize| String::from(self.fill.unwrap_or(' ')).repeat(count);
        let (before, behind) = match self.align.unwrap_or(if right { '>' } else { '<' }) {
            '<' => (0, missing),
            '^' => (missing / 2, missing - missing / 2),
            _ => (missing, 0),
        };
        Ok(format!("{}{sign}{digits}{}", fill(before), fill(behind)))
    }

    fn in_base(&self, n: u128) -> String {
        let mark = |mark: &'static str| if self.alternate { mark } else { "" };
        match self.kind {
            Some('x') => format!("{}{n:x}", mark("0x")),
            Some('X') => format!("{}{n:X}", mark("0X")),
            Some('o') => format!("{}{n:o}", mark("0")),
            _ => format!("{}{n:b}", mark("0b")),
        }
    }

    fn real(&self, x: f64) -> Result<String, String> {
        let precision = self.precision.unwrap_or(6);
        if precision > MOST_DIGITS {
            return Err(format!("{MOST_DIGITS} digits behind the point are the most"));
        }
        if !x.is_finite() {
            return Ok(if x.is_nan() { "nan".to_owned() } else { "inf".to_owned() });
        }
        let upper = self.kind.is_some_and(char::is_uppercase);
        let text = match self.kind.unwrap_or('g').to_ascii_lowercase() {
            'f' => self.grouped(format!("{x:.precision$}")),
            '%' => self.grouped(format!("{:.precision$}%", x * 100.0)),
            'e' => powers(x, precision),
            'g' => general(x, precision.max(1)),
            other => return Err(format!("'{other}' is not known")),
        };
        Ok(if upper { text.to_uppercase() } else { text })
    }

    /// Commas between groups of three digits, if they are asked for.
    fn grouped(&self, digits: String) -> String {
        let whole = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        if !self.commas || whole <= 3 {
            return digits;
        }
        let mut text = String::new();
        for (at, digit) in digits[..whole].char_indices() {
            if at > 0 && (whole - at) % 3 == 0 {
                text.push(',');
            }
            text.push(digit);
        }
        text + &digits[whole..]
    }
}

/// The shortest text that reads back as the number.
fn plain(x: f64) -> String {
    if x.is_finite() && (x == 0.0 || (1e-5..1e16).contains(&x)) { format!("{x:?}") } else { powers(x, usize::MAX) }
}

/// `1.5e+03`.
fn powers(x: f64, precision: usize) -> String {
    if !x.is_finite() {
        return if x.is_nan() { "nan".to_owned() } else { "inf".to_owned() };
    }
    let text = if precision == usize::MAX { format!("{x:e}") } else { format!("{x:.precision$e}") };
    let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
    let power: i32 = power.parse().unwrap_or(0);
    format!("{digits}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs())
}

/// As many digits as asked, without zeros at the end: C's `%g`.
fn general(x: f64, digits: usize) -> String {
    let scientific = powers(x, digits - 1);
    let power: i32 = scientific.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    let short = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    let most = i32::try_from(digits).unwrap_or(i32::MAX);
    if x == 0.0 || (-4..most).contains(&power) {
        let behind = usize::try_from(most - 1 - power).unwrap_or(0);
        return short(&format!("{x:.behind$}"));
    }
    match scientific.split_once('e') {
        Some((mantissa, power)) => format!("{}e{power}", short(mantissa)),
        None => scientific,
    }
}

/// Characters of a pattern.
type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

fn number(chars: &mut Chars<'_>) -> Option<usize> {
    let mut digits = String::new();
    while let Some(digit) = chars.next_if(char::is_ascii_digit) {
        digits.push(digit);
    }
    (!digits.is_empty()).then(|| digits.parse().unwrap_or(usize::MAX))
}

/// `%-5.2f`.
fn percents(pattern: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let (mut text, mut next) = (String::new(), 0);
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            text.push('%');
            continue;
        }
        let mut spec = Spec::default();
        while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '+' | ' ' | '0' | '#' | ',')) {
            match flag {
                '-' => spec.align = Some('<'),
                '0' => spec.zeros = true,
                '#' => spec.alternate = true,
                ',' => spec.commas = true,
                sign => spec.sign = Some(sign),
            }
        }
        spec.width = number(&mut chars).unwrap_or(0);
        if chars.next_if_eq(&'.').is_some() {
            spec.precision = Some(number(&mut chars).unwrap_or(0));
        }
        while chars.next_if(|c| matches!(c, 'l' | 'h' | 'q' | 'j' | 'z')).is_some() {}
        let kind = chars.next().filter(|c| "diusxXobBcfFeEgG".contains(*c));
        spec.kind = Some(kind.ok_or_else(|| unreadable("printf", pattern, "%%"))?);
        pieces.push(Piece::Text(std::mem::take(&mut text)));
        pieces.push(Piece::Value(next, spec));
        next += 1;
    }
    pieces.push(Piece::Text(text));
    Ok(pieces)
}

fn unreadable(name: &str, pattern: &str, literal: &str) -> Error {
    Error::query(format!("{name}: '{pattern}' cannot be read"))
        .hint(format!("the character itself is written {literal}"))
}

/// `{}`, `{0}` and `{:>8.2f}`.
fn braces(pattern: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let (mut text, mut next, mut named) = (String::new(), 0, false);
    let mut chars = pattern.chars().peekable();
    let wrong = || unreadable("format", pattern, "{{ or }}");
    while let Some(c) = chars.next() {
        match c {
            '{' | '}' if chars.next_if_eq(&c).is_some() => text.push(c),
            '}' => return Err(wrong()),
            '{' => {
                let given = number(&mut chars);
                named |= given.is_some();
                if named && (given.is_none() || next > 0) {
                    return Err(Error::query(format!("format: '{pattern}' has places with and without numbers")));
                }
                let at = given.unwrap_or(next);
                next += usize::from(given.is_none());
                let spec = if chars.next_if_eq(&':').is_some() { brace_spec(&mut chars) } else { Spec::default() };
                if chars.next() != Some('}') {
                    return Err(wrong());
                }
                pieces.push(Piece::Text(std::mem::take(&mut text)));
                pieces.push(Piece::Value(at, spec));
            }
            c => text.push(c),
        }
    }
    pieces.push(Piece::Text(text));
    Ok(pieces)
}

fn brace_spec(chars: &mut Chars<'_>) -> Spec {
    let mut spec = Spec::default();
    let is_align = |c: &char| matches!(c, '<' | '>' | '^');
    let mut ahead = chars.clone();
    ahead.next();
    if ahead.peek().is_some_and(is_align) {
        spec.fill = chars.next();
    }
    spec.align = chars.next_if(is_align);
    spec.sign = chars.next_if(|c| matches!(c, '+' | '-' | ' '));
    spec.alternate = chars.next_if_eq(&'#').is_some();
    spec.zeros = chars.next_if_eq(&'0').is_some();
    spec.width = number(chars).unwrap_or(0);
    spec.commas = chars.next_if_eq(&',').is_some();
    if chars.next_if_eq(&'.').is_some() {
        spec.precision = Some(number(chars).unwrap_or(0));
    }
    spec.kind = chars.next_if(|c| "diusxXobBcfFeEgG%".contains(*c));
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(pattern: &str, value: Value<'_>) -> String {
        let pieces = if pattern.contains('{') { braces(pattern) } else { percents(pattern) }.expect(pattern);
        let spec = pieces.iter().find_map(|piece| match piece {
            Piece::Value(_, spec) => Some(spec),
            Piece::Text(_) => None,
        });
        spec.expect("a place").write(value).unwrap_or_else(|error| error)
    }

    #[test]
    fn numbers_are_written_as_c_does() {
        for (pattern, x, text) in [
            ("%e", 12345.678, "1.234568e+04"),
            ("%g", 0.0001, "0.0001"),
            ("%g", 1e-5, "1e-05"),
            ("%g", 1234567.0, "1.23457e+06"),
            ("%G", 1e10, "1E+10"),
            ("%8.3f|", -1.5, "  -1.500"),
            ("%-8.1f|", 2.25, "2.2     "),
            ("%08.2f", -3.5, "-0003.50"),
            ("{:,.2f}", 1234567.891, "1,234,567.89"),
            ("{:.1%}", 0.256, "25.6%"),
            ("{:*^9}", 1.5, "***1.5***"),
        ] {
            assert_eq!(one(pattern, Value::Real(x)), text, "{pattern}");
        }
        for (pattern, n, text) in [
            ("%+d", 5, "+5"),
            ("%#x", 255, "0xff"),
            ("%,d", -1234567, "-1,234,567"),
            ("{:05d}", 42, "00042"),
            ("%c", 65, "A"),
        ] {
            assert_eq!(one(pattern, Value::Whole(n)), text, "{pattern}");
        }
        assert_eq!(one("%.2s", Value::Text("äöü")), "äö");
        assert_eq!(one("%d", Value::Text("x")), "'d' is not for a text");
    }
}
