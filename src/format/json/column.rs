//! JSON values → columns.
//!
//! Enters: values, one for each row, from a [`Scanner`]. Leaves: an array of the column's type. Always holds:
//! a value is in the array as it was written, or it is a fault: no fraction is cut off, no number wraps, and
//! no member is dropped unless [`Members::Ignored`] says so. What was taken of a row can be taken back.

use std::sync::Arc;

use arrow::array::{ArrayRef, ListArray, NullBufferBuilder, StructArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Float64Type, Int64Type};
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use hashbrown::HashMap;

use super::scalar::{Booleans, Nothing, Numbers, Texts};
use super::scan::{Fault, Scan, Scanner, Token, WrongKind};

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
        DataType::Null => Box::new(Nothing::default()),
        DataType::Boolean => Box::new(Booleans::new()),
        DataType::Int8 => Numbers::<Int64Type>::boxed(kind, i64::from(i8::MIN)..=i64::from(i8::MAX)),
        DataType::Int16 => Numbers::<Int64Type>::boxed(kind, i64::from(i16::MIN)..=i64::from(i16::MAX)),
        DataType::Int32 => Numbers::<Int64Type>::boxed(kind, i64::from(i32::MIN)..=i64::from(i32::MAX)),
        DataType::Int64 => Numbers::<Int64Type>::boxed(kind, i64::MIN..=i64::MAX),
        DataType::UInt8 => Numbers::<Int64Type>::boxed(kind, 0..=i64::from(u8::MAX)),
        DataType::UInt16 => Numbers::<Int64Type>::boxed(kind, 0..=i64::from(u16::MAX)),
        DataType::UInt32 => Numbers::<Int64Type>::boxed(kind, 0..=i64::from(u32::MAX)),
        DataType::Float32 => Numbers::<Float64Type>::boxed(kind, f64::from(f32::MIN)..=f64::from(f32::MAX)),
        DataType::Float64 => Numbers::<Float64Type>::boxed(kind, f64::MIN..=f64::MAX),
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
pub(super) fn mismatch<T>(scanner: &mut Scanner<'_>, start: usize, kind: &DataType) -> Scan<T> {
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
        let arrays = self
            .columns
            .iter_mut()
            .zip(&self.fields)
            .map(|(column, field)| column.finish().map_err(|(row, error)| (row, field.name().clone(), error)));
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
