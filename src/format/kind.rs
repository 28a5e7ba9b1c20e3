//! Types as SQL names them.
//!
//! Enters: Arrow types. Leaves: short names for people, such as `bigint` and `text[]`. Always holds: a name says
//! what a value is, not how it is stored: a dictionary of texts is text.

use arrow::datatypes::{DataType, TimeUnit};

/// The name of a type.
pub fn type_name(kind: &DataType) -> String {
    use DataType as T;
    match kind {
        T::Null => "null".to_owned(),
        T::Boolean => "boolean".to_owned(),
        T::Int8 => "tinyint".to_owned(),
        T::Int16 => "smallint".to_owned(),
        T::Int32 => "int".to_owned(),
        T::Int64 => "bigint".to_owned(),
        T::UInt8 => "utinyint".to_owned(),
        T::UInt16 => "usmallint".to_owned(),
        T::UInt32 => "uint".to_owned(),
        T::UInt64 => "ubigint".to_owned(),
        T::Float16 => "half".to_owned(),
        T::Float32 => "float".to_owned(),
        T::Float64 => "double".to_owned(),
        T::Utf8 | T::LargeUtf8 | T::Utf8View => "text".to_owned(),
        T::Binary | T::LargeBinary | T::BinaryView | T::FixedSizeBinary(_) => "bytea".to_owned(),
        T::Date32 | T::Date64 => "date".to_owned(),
        T::Time32(_) | T::Time64(_) => "time".to_owned(),
        T::Timestamp(unit, zone) => timestamp(*unit, zone.is_some()),
        T::Duration(_) => "duration".to_owned(),
        T::Interval(_) => "interval".to_owned(),
        T::Decimal32(digits, scale)
        | T::Decimal64(digits, scale)
        | T::Decimal128(digits, scale)
        | T::Decimal256(digits, scale) => format!("decimal({digits},{scale})"),
        T::List(item) | T::LargeList(item) | T::ListView(item) | T::LargeListView(item) | T::FixedSizeList(item, _) => {
            format!("{}[]", type_name(item.data_type()))
        }
        T::Struct(fields) => {
            let field = |(name, kind): (&String, &DataType)| format!("{name} {}", type_name(kind));
            let fields: Vec<String> = fields.iter().map(|f| field((f.name(), f.data_type()))).collect();
            format!("struct({})", fields.join(", "))
        }
        T::Map(entries, _) => match entries.data_type() {
            T::Struct(fields) => {
                let kinds: Vec<String> = fields.iter().map(|field| type_name(field.data_type())).collect();
                format!("map({})", kinds.join(", "))
            }
            other => format!("map({})", type_name(other)),
        },
        T::Dictionary(_, value) => type_name(value),
        T::RunEndEncoded(_, value) => type_name(value.data_type()),
        other => other.to_string().to_lowercase(),
    }
}

fn timestamp(unit: TimeUnit, zone: bool) -> String {
    let unit = match unit {
        TimeUnit::Second => "_s",
        TimeUnit::Millisecond => "_ms",
        TimeUnit::Microsecond => "",
        TimeUnit::Nanosecond => "_ns",
    };
    format!("timestamp{unit}{}", if zone { "tz" } else { "" })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::Field;

    use super::*;

    #[test]
    fn names_say_what_a_value_is() {
        let text = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8View));
        let list = DataType::List(Arc::new(Field::new("item", text, true)));
        let fields = vec![Field::new("a", DataType::Int64, true), Field::new("b", list, true)];
        assert_eq!(type_name(&DataType::Struct(fields.into())), "struct(a bigint, b text[])");
        assert_eq!(type_name(&DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))), "timestamptz");
    }
}
