//! Types as SQL names them.
//!
//! Enters: Arrow's types. Leaves: the names that a user writes in CAST. Always holds: no name of Arrow's.

use arrow::datatypes::{DataType, IntervalUnit, TimeUnit};

/// The name of a type in SQL, such as `BIGINT`.
pub fn sql_type(kind: &DataType) -> String {
    let fixed = match kind {
        DataType::Null => "NULL",
        DataType::Boolean => "BOOLEAN",
        DataType::Int8 => "TINYINT",
        DataType::Int16 => "SMALLINT",
        DataType::Int32 => "INT",
        DataType::Int64 => "BIGINT",
        DataType::UInt8 => "TINYINT UNSIGNED",
        DataType::UInt16 => "SMALLINT UNSIGNED",
        DataType::UInt32 => "INT UNSIGNED",
        DataType::UInt64 => "BIGINT UNSIGNED",
        DataType::Float16 | DataType::Float32 => "REAL",
        DataType::Float64 => "DOUBLE",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "VARCHAR",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "BYTEA",
        DataType::Date32 | DataType::Date64 => "DATE",
        DataType::Time32(_) | DataType::Time64(_) => "TIME",
        DataType::Timestamp(_, None) => "TIMESTAMP",
        DataType::Timestamp(_, Some(_)) => "TIMESTAMP WITH TIME ZONE",
        DataType::Interval(_) | DataType::Duration(_) => "INTERVAL",
        _ => "",
    };
    if !fixed.is_empty() {
        return fixed.to_owned();
    }
    match kind {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) | DataType::LargeListView(item) => {
            format!("{}[]", sql_type(item.data_type()))
        }
        DataType::FixedSizeList(item, length) => format!("{}[{length}]", sql_type(item.data_type())),
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| format!("{} {}", field.name(), sql_type(field.data_type())));
            format!("STRUCT({})", fields.collect::<Vec<_>>().join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => {
                format!("MAP({}, {})", sql_type(pair[0].data_type()), sql_type(pair[1].data_type()))
            }
            _ => "MAP".to_owned(),
        },
        DataType::Dictionary(_, value) => sql_type(value),
        DataType::RunEndEncoded(_, value) => sql_type(value.data_type()),
        DataType::Union(_, _) => "UNION".to_owned(),
        other => other.to_string().to_uppercase(),
    }
}

/// Arrow's name of a type, as messages of libraries spell it, in SQL; nothing for what is no such name.
pub(super) fn sql_name(arrow: &str) -> Option<String> {
    if let Some(kind) = PLAIN.iter().find(|(name, _)| *name == arrow) {
        return Some(sql_type(&kind.1));
    }
    let kind: DataType = arrow.parse().ok()?;
    Some(sql_type(&kind))
}

/// Names that are no words of English, so that they can be found in a sentence.
const PLAIN: [(&str, DataType); 4] = [
    ("Utf8View", DataType::Utf8View),
    ("LargeUtf8", DataType::LargeUtf8),
    ("Timestamp(ns)", DataType::Timestamp(TimeUnit::Nanosecond, None)),
    ("Interval(MonthDayNano)", DataType::Interval(IntervalUnit::MonthDayNano)),
];
