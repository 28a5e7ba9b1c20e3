//! Envelopes of Debezium → rows of JSON.
//!
//! Enters: one envelope, with or without its schema. Leaves: an object a line with the columns of the table and
//! [`OP`], for the JSON reader. Always holds: a number that may be milliseconds or microseconds, and a text that may
//! be digits or base64, is read as the schema in the envelope or OPTIONS say, else it is an error.

use std::collections::HashMap;
use std::fmt::Write as _;

use arrow::datatypes::{DataType, Schema, i256};
use chrono::DateTime;

use super::json::{Fault, Scan, Scanner, Token};
use crate::change::OP;

/// What the numbers of times count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    /// Thousandths of a second.
    Milli,
    /// Millionths.
    Micro,
    /// Billionths.
    Nano,
}

/// How values are written where an envelope has no schema.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Writing {
    /// What the numbers of TIMESTAMP and TIME count.
    pub time_unit: Option<TimeUnit>,
    /// The texts of DECIMAL are digits in base64; else they are numbers.
    pub base64: Option<bool>,
}

/// What a schema says of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Days,
    Time(TimeUnit),
    /// Digits in base64, of which so many are behind the point.
    Digits(i32),
    Plain,
}

/// Why an envelope cannot be read: the column, if it is one, and what is wrong.
pub type Wrong = (Option<String>, String);

/// Reads envelopes of one table.
#[derive(Debug, Clone)]
pub struct Envelopes {
    /// The columns whose values Debezium writes in its own way.
    kinds: HashMap<String, DataType>,
    /// The columns of the key, if the table has one.
    key: Vec<String>,
    writing: Writing,
    /// The schema that was read last, and what it says of the fields.
    schema: Option<(String, HashMap<String, Meaning>)>,
}

/// What an envelope has.
#[derive(Default)]
struct Members<'a> {
    schema: Option<&'a str>,
    payload: Option<&'a str>,
    before: Option<&'a str>,
    after: Option<&'a str>,
    op: Option<String>,
}

impl Envelopes {
    /// Of a table of these columns, with a key of those at the places `key`, if it has one.
    pub fn new(columns: &Schema, key: &[usize], writing: Writing) -> Self {
        let own = |kind: &DataType| kind.is_temporal() || kind.is_decimal();
        let kinds = columns.fields().iter().filter(|field| own(field.data_type()));
        Self {
            kinds: kinds.map(|field| (field.name().clone(), field.data_type().clone())).collect(),
            key: key.iter().map(|at| columns.field(*at).name().clone()).collect(),
            writing,
            schema: None,
        }
    }

    /// Appends the rows of an envelope to `out`, a line each; says how many.
    pub fn read(&mut self, envelope: &str, out: &mut String) -> Result<usize, Wrong> {
        let plain = |reason: String| (None, reason);
        let Some(outer) = members(envelope).map_err(plain)? else { return Ok(0) };
        let schema = outer.schema;
        let inner = match outer.payload {
            Some(payload) if outer.op.is_none() => match members(payload).map_err(plain)? {
                Some(inner) => inner,
                None => return Ok(0),
            },
            _ => outer,
        };
        let Some(op) = inner.op.as_deref() else {
            return Err(plain("no envelope of Debezium: it has no op (rows without an envelope are STORED AS JSON, OPTIONS ('op_column' '__op'))".to_owned()));
        };
        self.learn(schema);
        let keyed = !self.key.is_empty();
        let needed = |image: Option<&'_ str>, name: &str| match image {
            Some(_) => Ok(()),
            None if name == "before" => Err(plain(format!(
                "op '{op}' without the row before: the database has to send it (REPLICA IDENTITY FULL), or the table wants a PRIMARY KEY"
            ))),
            None => Err(plain(format!("op '{op}' without the row after"))),
        };
        let start = out.len();
        let written = match op {
            "c" | "r" => needed(inner.after, "after").and_then(|()| self.row(inner.after, "+I", out)),
            "u" => needed(inner.after, "after")
                .and_then(|()| if keyed { Ok(()) } else { needed(inner.before, "before") })
                .and_then(|()| self.row(inner.before, "-U", out))
                .and_then(|before| Ok(before + self.row(inner.after, "+U", out)?)),
            "d" => needed(inner.before, "before").and_then(|()| self.row(inner.before, "-D", out)),
            // A message that an application left in the log of its database.
            "m" => Ok(0),
            "t" => Err(plain("op 't': the whole table was emptied, which a pipeline does not follow".to_owned())),
            other => Err(plain(format!("'{other}' is no op of Debezium: c, r, u, d, t or m"))),
        };
        if written.is_err() {
            out.truncate(start);
        }
        written
    }

    /// Keeps what the schema of an envelope says.
    fn learn(&mut self, schema: Option<&str>) {
        let Some(text) = schema else {
            self.schema = None;
            return;
        };
        if self.schema.as_ref().is_none_or(|(known, _)| known != text) {
            self.schema = Some((text.to_owned(), meanings(text)));
        }
    }

    /// Appends one row; nothing, if there is none.
    fn row(&self, image: Option<&str>, op: &str, out: &mut String) -> Result<usize, Wrong> {
        let Some(image) = image else { return Ok(0) };
        let keys_alone = op.starts_with('-') && !self.key.is_empty();
        let _ = write!(out, "{{\"{OP}\":\"{op}\"");
        let mut wrong: Option<Wrong> = None;
        let done = each_member(image, |name, value| {
            if wrong.is_some() || (keys_alone && !self.key.iter().any(|key| key == name)) {
                return;
            }
            let _ = write!(out, ",{}:", serde_json::Value::from(name));
            let written = match self.kinds.get(name) {
                Some(kind) if value != "null" => self.value(name, kind, value, out),
                _ => {
                    out.push_str(value);
                    Ok(())
                }
            };
            wrong = written.err().map(|reason| (Some(name.to_owned()), reason));
        });
        done.map_err(|reason| (None, reason))?;
        out.push_str("}\n");
        wrong.map_or(Ok(1), Err)
    }

    fn value(&self, name: &str, kind: &DataType, value: &str, out: &mut String) -> Result<(), String> {
        let known = self.schema.as_ref().and_then(|(_, fields)| fields.get(name)).copied();
        if kind.is_decimal() {
            return self.decimal(kind, known, value, out);
        }
        if value.starts_with('"') {
            out.push_str(value);
            return Ok(());
        }
        let count: i64 = value.parse().map_err(|_| format!("{value} is no date or time"))?;
        let date = matches!(kind, DataType::Date32 | DataType::Date64);
        let unit = match known {
            Some(Meaning::Days) => None,
            Some(Meaning::Time(unit)) => Some(unit),
            _ if date => None,
            _ => Some(self.writing.time_unit.ok_or_else(|| {
                format!("{value} may be milliseconds, microseconds or nanoseconds: OPTIONS ('time_unit' 'us'), or a schema in the envelope, say which")
            })?),
        };
        let text = moment(kind, unit, count).ok_or_else(|| format!("{value} is beyond what a date or time can be"))?;
        let _ = write!(out, "\"{text}\"");
        Ok(())
    }

    fn decimal(&self, kind: &DataType, known: Option<Meaning>, value: &str, out: &mut String) -> Result<(), String> {
        let declared = match kind {
            DataType::Decimal32(_, scale)
            | DataType::Decimal64(_, scale)
            | DataType::Decimal128(_, scale)
            | DataType::Decimal256(_, scale) => i32::from(*scale),
            _ => 0,
        };
        if value.starts_with('{') {
            let object: serde_json::Value = serde_json::from_str(value).map_err(|error| error.to_string())?;
            let scale = object["scale"].as_i64().and_then(|scale| i32::try_from(scale).ok());
            let digits = object["value"].as_str();
            let (Some(scale), Some(digits)) = (scale, digits) else { return Err(format!("{value} is no decimal")) };
            return digits_of(digits, scale, out);
        }
        let Some(text) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
            out.push_str(value);
            return Ok(());
        };
        match (known, self.writing.base64) {
            (Some(Meaning::Digits(scale)), _) => digits_of(text, scale, out),
            (Some(_), _) | (None, Some(false)) => {
                out.push_str(value);
                Ok(())
            }
            (None, Some(true)) => digits_of(text, declared, out),
            (None, None) => Err(format!(
                "{value} may be a number or digits in base64: OPTIONS ('decimals' 'string') or 'base64', or a schema in the envelope, say which"
            )),
        }
    }
}

/// Appends a number whose digits are in base64, `scale` of them behind the point.
fn digits_of(base64: &str, scale: i32, out: &mut String) -> Result<(), String> {
    let wrong = || format!("\"{base64}\" is no decimal in base64");
    let bytes = from_base64(base64).filter(|bytes| (1..=32).contains(&bytes.len())).ok_or_else(wrong)?;
    let mut all = [if bytes[0] & 0x80 == 0 { 0 } else { 0xFF }; 32];
    all[32 - bytes.len()..].copy_from_slice(&bytes);
    let text = i256::from_be_bytes(all).to_string();
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("-", digits));
    if scale <= 0 {
        let _ = write!(out, "{sign}{digits}");
        // Zero stays one digit.
        out.extend(std::iter::repeat_n('0', if digits == "0" { 0 } else { scale.unsigned_abs().min(100) as usize }));
        return Ok(());
    }
    let scale = usize::try_from(scale).unwrap_or(0).min(100);
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let _ = write!(out, "{sign}{whole}.{fraction}");
    Ok(())
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| {
        Some(match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        })
    };
    // JSON may write a slash behind a backslash.
    let text = text.replace("\\/", "/");
    let text = text.trim_end_matches('=').as_bytes();
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
    for byte in text {
        bits = bits << 6 | u32::from(digit(*byte)?);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    (text.len() % 4 != 1).then_some(bytes)
}

/// A date or time as text. `unit`: what the number counts; nothing: days.
fn moment(kind: &DataType, unit: Option<TimeUnit>, count: i64) -> Option<String> {
    let (seconds, nanos) = match unit {
        None => (count.checked_mul(86_400)?, 0),
        Some(TimeUnit::Milli) => (count.div_euclid(1_000), count.rem_euclid(1_000) * 1_000_000),
        Some(TimeUnit::Micro) => (count.div_euclid(1_000_000), count.rem_euclid(1_000_000) * 1_000),
        Some(TimeUnit::Nano) => (count.div_euclid(1_000_000_000), count.rem_euclid(1_000_000_000)),
    };
    let time = DateTime::from_timestamp(seconds, u32::try_from(nanos).ok()?)?;
    Some(match kind {
        DataType::Date32 | DataType::Date64 => {
            // A time of day would be cut off.
            (seconds.rem_euclid(86_400) == 0 && nanos == 0).then(|| time.format("%Y-%m-%d").to_string())?
        }
        DataType::Time32(_) | DataType::Time64(_) => {
            (0..86_400).contains(&seconds).then(|| time.format("%H:%M:%S%.f").to_string())?
        }
        DataType::Timestamp(_, Some(_)) => time.format("%Y-%m-%dT%H:%M:%S%.fZ").to_string(),
        _ => time.format("%Y-%m-%dT%H:%M:%S%.f").to_string(),
    })
}

/// What a schema says of the fields of a row.
fn meanings(schema: &str) -> HashMap<String, Meaning> {
    let schema: serde_json::Value = serde_json::from_str(schema).unwrap_or_default();
    let fields = |of: &serde_json::Value| of["fields"].as_array().cloned().unwrap_or_default();
    let row = fields(&schema).into_iter().find(|field| field["field"] == "after").unwrap_or_default();
    let one = |field: serde_json::Value| {
        let scale = &field["parameters"]["scale"];
        let scale = scale.as_str().and_then(|text| text.parse().ok()).or_else(|| i32::try_from(scale.as_i64()?).ok());
        let meaning = match field["name"].as_str().unwrap_or_default() {
            "io.debezium.time.Date" | "org.apache.kafka.connect.data.Date" => Meaning::Days,
            "io.debezium.time.Timestamp"
            | "io.debezium.time.Time"
            | "org.apache.kafka.connect.data.Timestamp"
            | "org.apache.kafka.connect.data.Time" => Meaning::Time(TimeUnit::Milli),
            "io.debezium.time.MicroTimestamp" | "io.debezium.time.MicroTime" => Meaning::Time(TimeUnit::Micro),
            "io.debezium.time.NanoTimestamp" | "io.debezium.time.NanoTime" => Meaning::Time(TimeUnit::Nano),
            "org.apache.kafka.connect.data.Decimal" => Meaning::Digits(scale.unwrap_or(0)),
            _ => Meaning::Plain,
        };
        Some((field["field"].as_str()?.to_owned(), meaning))
    };
    fields(&row).into_iter().filter_map(one).collect()
}

/// The members of an envelope; nothing for `null`, which is a tombstone.
fn members(text: &str) -> Result<Option<Members<'_>>, String> {
    if text.trim() == "null" {
        return Ok(None);
    }
    let mut found = Members::default();
    each_member(text, |name, value| {
        let some = Some(value).filter(|value| *value != "null");
        match name {
            "schema" => found.schema = some,
            "payload" => found.payload = Some(value),
            "before" => found.before = some,
            "after" => found.after = some,
            "op" => found.op = serde_json::from_str(value).ok(),
            _ => {}
        }
    })?;
    Ok(Some(found))
}

/// Tells the name and the text of each member of an object.
fn each_member<'a>(text: &'a str, mut tell: impl FnMut(&str, &'a str)) -> Result<(), String> {
    let mut scanner = Scanner::new(text, 0);
    let mut read = || -> Scan<bool> {
        if scanner.token()? != Token::Object {
            return Ok(false);
        }
        scanner.object(|scanner, name| {
            let token = scanner.token()?;
            let start = scanner.at;
            // A number ends where something else begins, which inside of an object there is.
            if token == Token::Number {
                scanner.number().map(drop)?
            } else {
                scanner.skip()?
            }
            tell(name, scanner.since(start));
            Ok(())
        })?;
        Ok(scanner.peek().is_none())
    };
    match read() {
        Ok(true) => Ok(()),
        Ok(false) => Err("expected one object a line".to_owned()),
        Err(Fault::Cut) => Err("this object does not end: the rest is missing".to_owned()),
        Err(Fault::Wrong(wrong)) => Err(wrong.what),
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, TimeUnit as Unit};

    use super::*;

    fn envelopes(key: &[usize], writing: Writing) -> Envelopes {
        let field = |name: &str, kind| Field::new(name, kind, true);
        let columns = Schema::new(vec![
            field("id", DataType::Int64),
            field("d", DataType::Decimal128(10, 2)),
            field("ts", DataType::Timestamp(Unit::Microsecond, None)),
            field("day", DataType::Date32),
            field("at", DataType::Time64(Unit::Microsecond)),
        ]);
        Envelopes::new(&columns, key, writing)
    }

    fn rows(envelopes: &mut Envelopes, text: &str) -> Result<String, Wrong> {
        let mut out = String::new();
        let count = envelopes.read(text, &mut out)?;
        assert_eq!(out.lines().count(), count);
        Ok(out.replace('\n', " ").trim().to_owned())
    }

    #[test]
    fn each_op_gives_its_rows() {
        let mut whole = envelopes(&[], Writing::default());
        let mut keyed = envelopes(&[0], Writing::default());
        let insert = r#"{"before":null,"after":{"id":1,"x":"a\"b"},"source":{"ts_ms":5},"op":"c","ts_ms":7}"#;
        assert_eq!(rows(&mut whole, insert).unwrap(), r#"{"__op":"+I","id":1,"x":"a\"b"}"#);
        let wrapped = format!("{{\"schema\":null,\"payload\":{}}}", insert.replace("\"c\"", "\"r\""));
        assert_eq!(rows(&mut whole, &wrapped).unwrap(), r#"{"__op":"+I","id":1,"x":"a\"b"}"#);
        let update = r#"{"before":{"id":1,"x":2},"after":{"id":1,"x":3},"op":"u"}"#;
        assert_eq!(rows(&mut whole, update).unwrap(), r#"{"__op":"-U","id":1,"x":2} {"__op":"+U","id":1,"x":3}"#);
        assert_eq!(rows(&mut keyed, update).unwrap(), r#"{"__op":"-U","id":1} {"__op":"+U","id":1,"x":3}"#);
        let blind = r#"{"before":null,"after":{"id":1},"op":"u"}"#;
        assert_eq!(rows(&mut keyed, blind).unwrap(), r#"{"__op":"+U","id":1}"#);
        assert!(rows(&mut whole, blind).unwrap_err().1.contains("wants a PRIMARY KEY"));
        assert_eq!(rows(&mut keyed, r#"{"before":{"id":1,"x":3},"op":"d"}"#).unwrap(), r#"{"__op":"-D","id":1}"#);
        for nothing in ["null", r#"{"schema":{},"payload":null}"#, r#"{"op":"m","message":{}}"#] {
            assert_eq!(rows(&mut whole, nothing).unwrap(), "", "{nothing}");
        }
        let said = |text: &str| rows(&mut envelopes(&[], Writing::default()), text).unwrap_err().1;
        assert!(said(r#"{"op":"t","before":null,"after":null}"#).contains("emptied"));
        assert!(said(r#"{"id":1}"#).contains("no op"));
        assert!(said(r#"{"op":"x"}"#).contains("'x' is no op"));
        assert!(said(r#"{"op":"c","after":{"id":1}"#).contains("does not end"));
        assert!(said(r#"{"op":"c"}"#).contains("without the row after"));
    }

    #[test]
    fn times_are_read_by_their_schema_or_by_options() {
        let field = |name: &str, kind: &str| format!(r#"{{"type":"int64","name":"{kind}","field":"{name}"}}"#);
        let of = |kinds: [&str; 3], values: [&str; 3]| {
            let names = ["ts", "day", "at"];
            let fields: Vec<String> = names.iter().zip(kinds).map(|(name, kind)| field(name, kind)).collect();
            let after: Vec<String> =
                names.iter().zip(values).map(|(name, value)| format!("\"{name}\":{value}")).collect();
            format!(
                r#"{{"schema":{{"fields":[{{"field":"after","fields":[{}]}}]}},"payload":{{"op":"c","after":{{{}}}}}}}"#,
                fields.join(","),
                after.join(",")
            )
        };
        let mut all = envelopes(&[], Writing::default());
        let text =
            |at: &str| format!(r#"{{"__op":"+I","ts":"2020-01-01T00:00:00.123","day":"2020-01-01","at":"{at}"}}"#);
        let milli = ["io.debezium.time.Timestamp", "io.debezium.time.Date", "io.debezium.time.MicroTime"];
        let values = ["1577836800123", "18262", "3723000004"];
        assert_eq!(rows(&mut all, &of(milli, values)).unwrap(), text("01:02:03.000004"));
        let micro = ["io.debezium.time.MicroTimestamp", "org.apache.kafka.connect.data.Date", "io.debezium.time.Time"];
        let values = ["1577836800123000", "18262", "3723004"];
        assert_eq!(rows(&mut all, &of(micro, values)).unwrap(), text("01:02:03.004"));
        let nano = ["io.debezium.time.NanoTimestamp", "io.debezium.time.Date", "io.debezium.time.NanoTime"];
        let values = ["1577836800123000000", "18262", "3723000000005"];
        assert_eq!(rows(&mut all, &of(nano, values)).unwrap(), text("01:02:03.000000005"));
        let bare = r#"{"op":"c","after":{"ts":-1500000,"day":-1,"at":null}}"#;
        let (column, reason) = rows(&mut all, bare).unwrap_err();
        assert_eq!(column.as_deref(), Some("ts"));
        assert!(reason.contains("'time_unit'"), "{reason}");
        let mut micros = envelopes(&[], Writing { time_unit: Some(TimeUnit::Micro), base64: None });
        let expected = r#"{"__op":"+I","ts":"1969-12-31T23:59:58.500","day":"1969-12-31","at":null}"#;
        assert_eq!(rows(&mut micros, bare).unwrap(), expected);
        let zoned = r#"{"op":"c","after":{"ts":"2020-01-01T00:00:00Z"}}"#;
        assert_eq!(rows(&mut all, zoned).unwrap(), r#"{"__op":"+I","ts":"2020-01-01T00:00:00Z"}"#);
    }

    #[test]
    fn decimals_are_read_in_each_of_their_forms() {
        let decimal = |value: &str, writing| {
            rows(&mut envelopes(&[], writing), &format!(r#"{{"op":"c","after":{{"d":{value}}}}}"#))
                .map(|row| row.trim_start_matches(r#"{"__op":"+I","d":"#).trim_end_matches('}').to_owned())
        };
        let none = Writing::default();
        let base64 = Writing { base64: Some(true), ..none };
        assert_eq!(decimal("12.5", none).unwrap(), "12.5");
        for (digits, number) in
            [("BNI=", "12.34"), ("+y4=", "-12.34"), ("BQ==", "0.05"), ("+w==", "-0.05"), ("AA==", "0.00")]
        {
            assert_eq!(decimal(&format!("\"{digits}\""), base64).unwrap(), number);
        }
        assert_eq!(decimal("\"12.5\"", Writing { base64: Some(false), ..none }).unwrap(), "\"12.5\"");
        assert!(decimal("\"1234\"", none).unwrap_err().1.contains("'decimals'"));
        assert!(decimal("\"12.5\"", base64).unwrap_err().1.contains("no decimal in base64"));
        assert_eq!(decimal(r#"{"scale":3,"value":"BNI="}"#, none).unwrap(), "1.234");
        assert_eq!(decimal(r#"{"scale":-2,"value":"BQ=="}"#, none).unwrap(), "500");
        let field =
            r#"{"type":"bytes","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"1"},"field":"d"}"#;
        let wrapped = format!(
            r#"{{"schema":{{"fields":[{{"field":"after","fields":[{field}]}}]}},"payload":{{"op":"c","after":{{"d":"BNI="}}}}}}"#
        );
        let row = rows(&mut envelopes(&[], none), &wrapped).unwrap();
        assert_eq!(row, r#"{"__op":"+I","d":123.4}"#);
    }
}
