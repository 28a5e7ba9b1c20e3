//! JSON values → columns.
//!
//! Enters: values, one for each row, from a [`Scanner`]. Leaves: an array of the column's type. Always holds:
//! a value is in the array as it was written, or it is a fault: no fraction is cut off, no number wraps, and
//! no member is dropped unless [`Members::Ignored`] says so. What was taken of a row can be taken back.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, BooleanBufferBuilder, Float64Array, GenericStringArray, Int64Array, ListArray,
    NullArray, NullBufferBuilder, OffsetSizeTrait, StringViewArray, StructArray,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Fields};
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use hashbrown::HashMap;

use super::scan::{Fault, Number, Scan, Scanner, Token, WrongKind};

/// What to do about members that the columns do not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Members {
    /// They are an error.
    Refused,
    /// They are left out.
    Ignored,
}

/// The rows of a column, as far as they were read.
pub(super) trait Column: Send {
    /// Takes the value of the next row.
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Scan<()>;
    /// The next row has no value.
    fn null(&mut self);
    /// Takes back all rows from this one on.
    fn truncate(&mut self, rows: usize);
    /// The array, after which the column is empty. An error names the first row that it cannot hold, if one.
    fn finish(&mut self) -> Result<ArrayRef, (usize, ArrowError)>;
}

/// The column that reads values of a type.
pub(super) fn column(kind: &DataType, members: Members) -> Result<Box<dyn Column>, ArrowError> {
    Ok(match kind {
        DataType::Null => Box::new(Nothing(0)),
        DataType::Boolean => {
            Box::new(Booleans { values: BooleanBufferBuilder::new(0), nulls: NullBufferBuilder::new(0) })
        }
        DataType::Int8 => Integers::boxed(kind, i64::from(i8::MIN), i64::from(i8::MAX)),
        DataType::Int16 => Integers::boxed(kind, i64::from(i16::MIN), i64::from(i16::MAX)),
        DataType::Int32 => Integers::boxed(kind, i64::from(i32::MIN), i64::from(i32::MAX)),
        DataType::Int64 => Integers::boxed(kind, i64::MIN, i64::MAX),
        DataType::UInt8 => Integers::boxed(kind, 0, i64::from(u8::MAX)),
        DataType::UInt16 => Integers::boxed(kind, 0, i64::from(u16::MAX)),
        DataType::UInt32 => Integers::boxed(kind, 0, i64::from(u32::MAX)),
        DataType::Float32 | DataType::Float64 => {
            Box::new(Floats { values: Vec::new(), nulls: NullBufferBuilder::new(0), kind: kind.clone() })
        }
        DataType::List(item) => Box::new(Lists {
            item: Arc::clone(item),
            child: column(item.data_type(), members)?,
            offsets: vec![0],
            children: 0,
            nulls: NullBufferBuilder::new(0),
        }),
        DataType::Struct(fields) => Box::new(Structs::new(fields, None, members)?),
        _ => {
            if kind.is_nested() {
                // An error of an unreadable type comes here and not with the first row.
                ReaderBuilder::new_with_field(Field::new("value", kind.clone(), true)).build_decoder()?;
            }
            Box::new(Texts::new(kind.clone()))
        }
    })
}

/// A name of a type as SQL says it, for messages.
fn sql_name(kind: &DataType) -> String {
    match kind {
        DataType::Boolean => "true or false (BOOLEAN)".to_owned(),
        DataType::Int8 => "a whole number from -128 to 127 (TINYINT)".to_owned(),
        DataType::Int16 => "a whole number that fits SMALLINT".to_owned(),
        DataType::Int32 => "a whole number that fits INTEGER".to_owned(),
        DataType::Int64 => "a whole number that fits BIGINT".to_owned(),
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => format!("a whole number that fits {kind}"),
        DataType::Float32 => "a number that fits FLOAT".to_owned(),
        DataType::Float64 => "a number that fits DOUBLE".to_owned(),
        DataType::List(_) => "a list".to_owned(),
        DataType::Struct(_) => "an object".to_owned(),
        DataType::Null => "null, as the column was wherever its type was looked for".to_owned(),
        other => format!("of type {other}"),
    }
}

/// The value that begins at `start` is not of a type.
fn mismatch<T>(scanner: &mut Scanner<'_>, start: usize, kind: &DataType) -> Scan<T> {
    const SHOWN: usize = 60;
    if scanner.at == start {
        scanner.skip()?;
    }
    let text = scanner.since(start);
    let shown = match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    };
    scanner.wrong(WrongKind::Value, start, format!("{shown} is not {}", sql_name(kind)))
}

struct Nothing(usize);

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

struct Booleans {
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

struct Integers {
    values: Vec<i64>,
    nulls: NullBufferBuilder,
    kind: DataType,
    least: i64,
    most: i64,
}

impl Integers {
    fn boxed(kind: &DataType, least: i64, most: i64) -> Box<dyn Column> {
        Box::new(Self { values: Vec::new(), nulls: NullBufferBuilder::new(0), kind: kind.clone(), least, most })
    }
}

/// The whole number that a number is: `2`, and also `2.0` and `2e0`.
fn whole(number: Number<'_>) -> Option<i64> {
    /// From here on a float does not tell each whole number from the next.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.whole {
        return number.text.parse().ok();
    }
    let value: f64 = number.text.parse().ok()?;
    (value.fract() == 0.0 && value.abs() < EXACT).then_some(value as i64)
}

impl Column for Integers {
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Scan<()> {
        let token = scanner.token()?;
        let start = scanner.at;
        let value = match token {
            Token::Number => whole(scanner.number()?),
            Token::Text => scanner.string()?.parse().ok(),
            Token::Null => {
                scanner.word("null")?;
                self.null();
                return Ok(());
            }
            _ => None,
        };
        match value.filter(|value| (self.least..=self.most).contains(value)) {
            Some(value) => {
                self.values.push(value);
                self.nulls.append_non_null();
                Ok(())
            }
            None => mismatch(scanner, start, &self.kind),
        }
    }

    fn null(&mut self) {
        self.values.push(0);
        self.nulls.append_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
        self.nulls.truncate(rows);
    }

    fn finish(&mut self) -> Result<ArrayRef, (usize, ArrowError)> {
        let values = ScalarBuffer::from(std::mem::take(&mut self.values));
        let array: ArrayRef = Arc::new(Int64Array::new(values, self.nulls.finish()));
        if self.kind == DataType::Int64 { Ok(array) } else { cast(&array, &self.kind).map_err(|error| (0, error)) }
    }
}

struct Floats {
    values: Vec<f64>,
    nulls: NullBufferBuilder,
    kind: DataType,
}

impl Column for Floats {
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Scan<()> {
        let token = scanner.token()?;
        let start = scanner.at;
        let most = if self.kind == DataType::Float32 { f64::from(f32::MAX) } else { f64::MAX };
        let value = match token {
            Token::Number => scanner.number()?.text.parse::<f64>().ok().filter(|value| value.abs() <= most),
            Token::Text => scanner.string()?.parse::<f64>().ok(),
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
        self.values.push(0.0);
        self.nulls.append_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.values.truncate(rows);
        self.nulls.truncate(rows);
    }

    fn finish(&mut self) -> Result<ArrayRef, (usize, ArrowError)> {
        let values = ScalarBuffer::from(std::mem::take(&mut self.values));
        let array: ArrayRef = Arc::new(Float64Array::new(values, self.nulls.finish()));
        if self.kind == DataType::Float64 { Ok(array) } else { cast(&array, &self.kind).map_err(|error| (0, error)) }
    }
}

/// Values as text: of columns of text, and of the types that Arrow makes of text.
struct Texts {
    text: String,
    ends: Vec<usize>,
    nulls: NullBufferBuilder,
    kind: DataType,
}

impl Texts {
    fn new(kind: DataType) -> Self {
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

struct Lists {
    item: FieldRef,
    child: Box<dyn Column>,
    offsets: Vec<i32>,
    /// The elements of all lists so far.
    children: usize,
    nulls: NullBufferBuilder,
}

impl Lists {
    fn end(&self) -> i32 {
        // A batch holds less text than i32 counts.
        i32::try_from(self.children).unwrap_or(i32::MAX)
    }
}

impl Column for Lists {
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Scan<()> {
        match scanner.token()? {
            Token::Null => {
                scanner.word("null")?;
                self.null();
            }
            Token::List => {
                let (child, children) = (&mut self.child, &mut self.children);
                scanner.list(|scanner| {
                    child.read(scanner)?;
                    *children += 1;
                    Ok(())
                })?;
                self.offsets.push(self.end());
                self.nulls.append_non_null();
            }
            _ => {
                let start = scanner.at;
                return mismatch(scanner, start, &DataType::List(Arc::clone(&self.item)));
            }
        }
        Ok(())
    }

    fn null(&mut self) {
        self.offsets.push(self.end());
        self.nulls.append_null();
    }

    fn truncate(&mut self, rows: usize) {
        self.offsets.truncate(rows + 1);
        self.nulls.truncate(rows);
        self.children = self.offsets.last().and_then(|end| usize::try_from(*end).ok()).unwrap_or(0);
        self.child.truncate(self.children);
    }

    fn finish(&mut self) -> Result<ArrayRef, (usize, ArrowError)> {
        let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(&mut self.offsets, vec![0])));
        self.children = 0;
        let row_of = |child: usize| offsets.partition_point(|end| usize::try_from(*end).is_ok_and(|end| end <= child));
        let values = self.child.finish().map_err(|(child, error)| (row_of(child).saturating_sub(1), error))?;
        let array = ListArray::try_new(Arc::clone(&self.item), offsets, values, self.nulls.finish());
        Ok(Arc::new(array.map_err(|error| (0, error))?))
    }
}

/// What becomes of a member.
#[derive(Debug, Clone, Copy)]
enum Slot {
    Column(usize),
    /// The file has it, and nobody asked for it.
    Unread,
}

/// Objects: a column for each member. The rows of a file are one of these.
pub(super) struct Structs {
    fields: Fields,
    columns: Vec<Box<dyn Column>>,
    /// Whether this row has a value in each column yet.
    filled: Vec<bool>,
    names: Vec<(String, Slot)>,
    slots: HashMap<String, usize>,
    nulls: NullBufferBuilder,
    rows: usize,
    members: Members,
}

impl Structs {
    /// `read`: the positions of the fields that are to be read; nothing: all.
    pub(super) fn new(fields: &Fields, read: Option<&[usize]>, members: Members) -> Result<Self, ArrowError> {
        let chosen: Vec<usize> = read.map_or_else(|| (0..fields.len()).collect(), <[usize]>::to_vec);
        let slot = |at: usize| chosen.iter().position(|read| *read == at).map_or(Slot::Unread, Slot::Column);
        let names: Vec<_> = fields.iter().enumerate().map(|(at, field)| (field.name().clone(), slot(at))).collect();
        let fields: Fields = chosen.iter().filter_map(|at| fields.get(*at).cloned()).collect();
        let columns = fields.iter().map(|field| column(field.data_type(), members)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            filled: vec![false; columns.len()],
            slots: names.iter().enumerate().map(|(at, (name, _))| (name.clone(), at)).collect(),
            fields,
            columns,
            names,
            nulls: NullBufferBuilder::new(0),
            rows: 0,
            members,
        })
    }

    /// Takes an object, whose brace is next.
    pub(super) fn row(&mut self, scanner: &mut Scanner<'_>) -> Scan<()> {
        let Self { fields, columns, filled, names, slots, rows, members, .. } = self;
        filled.fill(false);
        // Most objects have their members in the order of the columns.
        let mut next = 0;
        scanner.object(|scanner, name| {
            let place = match names.get(next) {
                Some((known, _)) if known == name => Some(next),
                _ => slots.get(name).copied(),
            };
            let Some(place) = place else {
                if *members == Members::Ignored {
                    return scanner.skip();
                }
                let place = scanner.at;
                return inside(name, scanner.wrong(WrongKind::Unknown, place, "no column has this name"));
            };
            next = place + 1;
            let Slot::Column(at) = names[place].1 else { return scanner.skip() };
            if !fields[at].is_nullable() && scanner.token()? == Token::Null {
                return inside(name, missing(scanner));
            }
            if std::mem::replace(&mut filled[at], true) {
                // The last of two members with one name counts.
                columns[at].truncate(*rows);
            }
            inside(name, columns[at].read(scanner))
        })?;
        for (at, filled) in filled.iter().enumerate() {
            if !filled {
                if !fields[at].is_nullable() {
                    return inside(fields[at].name(), missing(scanner));
                }
                columns[at].null();
            }
        }
        *rows += 1;
        Ok(())
    }

    /// The columns, and takes them; an error names the row and the column.
    pub(super) fn take(&mut self) -> Result<Vec<ArrayRef>, (usize, String, ArrowError)> {
        self.rows = 0;
        let arrays = self.columns.iter_mut().zip(&self.fields).map(|(column, field)| {
            column.finish().map_err(|(row, error)| (row, field.name().clone(), error))
        });
        arrays.collect()
    }
}

fn missing(scanner: &Scanner<'_>) -> Scan<()> {
    scanner.wrong(WrongKind::Value, scanner.at, "no value, and the column is NOT NULL")
}

/// Adds the name of the member to what is wrong inside of it.
fn inside(name: &str, result: Scan<()>) -> Scan<()> {
    match result {
        Err(Fault::Wrong(mut wrong)) => {
            if wrong.kind != WrongKind::Syntax {
                wrong.member.insert(0, name.to_owned());
            }
            Err(Fault::Wrong(wrong))
        }
        other => other,
    }
}

impl Column for Structs {
    fn read(&mut self, scanner: &mut Scanner<'_>) -> Scan<()> {
        match scanner.token()? {
            Token::Null => {
                scanner.word("null")?;
                self.null();
            }
            Token::Object => {
                self.row(scanner)?;
                self.nulls.append_non_null();
            }
            _ => {
                let start = scanner.at;
                return mismatch(scanner, start, &DataType::Struct(self.fields.clone()));
            }
        }
        Ok(())
    }

    fn null(&mut self) {
        for column in &mut self.columns {
            column.null();
        }
        self.rows += 1;
        self.nulls.append_null();
    }

    fn truncate(&mut self, rows: usize) {
        for column in &mut self.columns {
            column.truncate(rows);
        }
        self.rows = rows.min(self.rows);
        self.nulls.truncate(rows);
    }

    fn finish(&mut self) -> Result<ArrayRef, (usize, ArrowError)> {
        let rows = self.rows;
        let arrays = self.take().map_err(|(row, _, error)| (row, error))?;
        let nulls = self.nulls.finish();
        let array = if arrays.is_empty() {
            StructArray::new_empty_fields(rows, nulls)
        } else {
            StructArray::try_new(self.fields.clone(), arrays, nulls).map_err(|error| (0, error))?
        };
        Ok(Arc::new(array))
    }
}
