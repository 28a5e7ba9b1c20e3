//! The columns that JSON objects have.
//!
//! Enters: objects. Leaves: a type for each of their members, in the order in which they first appear. Always
//! holds: the type holds all values that were seen as they are written, but for whole numbers among fractions,
//! which become floats; what no type holds is text, an object or a list among other things its JSON.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use hashbrown::HashMap;

use super::decoder::{Problem, Reader, Records};
use super::scan::{Scan, Scanner, Token, WrongKind};
use crate::config::COLUMNS_LIMIT;

/// Digits of the largest decimal.
const DECIMAL_DIGITS: usize = 38;

/// The kinds of values that were seen in one place.
#[derive(Debug, Default)]
struct Shape {
    boolean: bool,
    text: bool,
    /// A number with a fraction or an exponent.
    float: bool,
    /// Digits of the longest whole number.
    digits: usize,
    /// A whole number that is none of BIGINT's.
    large: bool,
    element: Option<Box<Shape>>,
    members: Option<Box<Shapes>>,
}

/// The members of the objects in one place.
#[derive(Debug, Default)]
pub struct Shapes {
    members: Vec<(String, Shape)>,
    places: HashMap<String, usize>,
}

impl Shape {
    fn see(&mut self, scanner: &mut Scanner<'_>) -> Scan<()> {
        match scanner.token()? {
            Token::Null => return scanner.word("null"),
            Token::True => scanner.word("true").map(|()| self.boolean = true)?,
            Token::False => scanner.word("false").map(|()| self.boolean = true)?,
            Token::Text => scanner.string().map(|_| self.text = true)?,
            Token::Number => {
                let number = scanner.number()?;
                if number.whole {
                    self.digits = self.digits.max(number.text.trim_start_matches('-').len());
                    self.large |= number.text.parse::<i64>().is_err();
                } else {
                    self.float = true;
                }
            }
            Token::List => {
                let element = self.element.get_or_insert_default();
                return scanner.list(|scanner| element.see(scanner));
            }
            Token::Object => return self.members.get_or_insert_default().see(scanner),
        }
        Ok(())
    }

    fn data_type(&self) -> DataType {
        let number = self.float || self.digits > 0;
        let (list, object) = (self.element.is_some(), self.members.is_some());
        let kinds = [self.boolean, self.text, number, list, object];
        match kinds.into_iter().filter(|kind| *kind).count() {
            0 => DataType::Null,
            1 => match (&self.element, &self.members) {
                (Some(element), _) => DataType::List(Arc::new(Field::new("item", element.data_type(), true))),
                (_, Some(members)) => DataType::Struct(members.fields().into()),
                _ if self.boolean => DataType::Boolean,
                _ if self.text => DataType::Utf8,
                _ if self.float => DataType::Float64,
                _ if !self.large => DataType::Int64,
                _ if self.digits <= DECIMAL_DIGITS => DataType::Decimal128(DECIMAL_DIGITS as u8, 0),
                // A float would change its digits.
                _ => DataType::Utf8,
            },
            _ => DataType::Utf8,
        }
    }
}

impl Shapes {
    fn see(&mut self, scanner: &mut Scanner<'_>) -> Scan<()> {
        let Self { members, places } = self;
        let mut next = 0;
        scanner.object(|scanner, name| {
            let known = match members.get(next) {
                Some((known, _)) if known == name => Some(next),
                _ => places.get(name).copied(),
            };
            let place = match known {
                Some(place) => place,
                None if members.len() == COLUMNS_LIMIT => {
                    let what = format!("more than {COLUMNS_LIMIT} different members");
                    return scanner.wrong(WrongKind::Size, scanner.at, what);
                }
                None => {
                    members.push((name.to_owned(), Shape::default()));
                    places.insert(name.to_owned(), members.len() - 1);
                    members.len() - 1
                }
            };
            next = place + 1;
            members[place].1.see(scanner)
        })
    }

    fn fields(&self) -> Vec<Field> {
        self.members.iter().map(|(name, shape)| Field::new(name, shape.data_type(), true)).collect()
    }

    /// Looks at the objects that have come.
    pub fn look(&mut self, records: &mut Records) -> Result<(), Problem> {
        records.read(usize::MAX, u64::MAX, self).map(drop)
    }

    /// The columns that were seen.
    pub fn schema(&self) -> Schema {
        Schema::new(self.fields())
    }
}

impl Reader for Shapes {
    fn read(&mut self, scanner: &mut Scanner<'_>, _offset: u64) -> Scan<()> {
        self.see(scanner)
    }

    /// What was seen of an object before it failed is there, so it counts.
    fn undo(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(text: &str) -> Vec<String> {
        let (mut records, mut shapes) = (Records::default(), Shapes::default());
        records.push(text.as_bytes());
        records.end();
        shapes.look(&mut records).expect(text);
        shapes.schema().fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect()
    }

    #[test]
    fn columns_keep_their_order_and_types_hold_what_was_seen() {
        assert_eq!(columns("{\"b\":1,\"a\":\"x\"}\n{\"c\":true,\"b\":null}"), ["b Int64", "a Utf8", "c Boolean"]);
        let cases = [
            ("1,1.5", "Float64"),
            ("1,1.0", "Float64"),
            ("9223372036854775807", "Int64"),
            ("1,9223372036854775808", "Decimal128(38, 0)"),
            ("9223372036854775808,1e3", "Float64"),
            ("123456789012345678901234567890123456789", "Utf8"),
            ("1,\"x\"", "Utf8"),
            ("true,1.5", "Utf8"),
            ("{},[]", "Utf8"),
            ("null,{},1", "Utf8"),
            ("null", "Null"),
        ];
        for (values, kind) in cases {
            assert_eq!(columns(&format!("[{{\"a\":[{values}]}}]")), [format!("a List({kind})")], "{values}");
        }
        assert_eq!(columns("{\"a\":{\"x\":1}}{\"a\":{\"y\":[],\"x\":0.5}}").len(), 1);
    }
}
