//! Functions of JSON, by DuckDB's names.
//!
//! Enters: texts of JSON and paths into them. Leaves: the values there, as JSON or as text, and facts about them.
//! Always holds: a text that is no JSON is an error with its place (but for `json_valid`); NULL in an argument makes
//! NULL; numbers keep their digits.

mod make;
mod path;
mod scan;
mod values;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanBuilder, Int64Array, ListArray, ListBuilder, StringArray, StringBuilder,
    UInt64Builder,
};
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::{Result as DfResult, ScalarValue};
use datafusion::execution::FunctionRegistry;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use self::path::Path;
use self::scan::{Kind, Malformed, Scanner};
use super::{arrays, columnar};
use crate::error::{Error, Result, clip, sql_type};

/// What a function of a JSON text, and perhaps a path, gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Wanted {
    /// The value as JSON.
    Value,
    /// The value as text: a text without its quotes, NULL for null.
    Text,
    /// The value as JSON, unless it is a list or an object.
    Plain,
    /// How many items an array has; 0 for what is none.
    Length,
    /// The names of members; none for what is no object.
    Keys,
    /// What the value is.
    Type,
    /// Whether there is one.
    Exists,
    /// Its members and items by their types.
    Structure,
    /// The value on as many lines as it has parts.
    Pretty,
    /// Whether the text is JSON.
    Valid,
}

const FUNCTIONS: [(&str, &[&str], Wanted); 11] = [
    ("json_extract", &["json_extract_path"], Wanted::Value),
    ("json_extract_string", &["json_extract_path_text"], Wanted::Text),
    ("json_value", &[], Wanted::Plain),
    ("json_array_length", &[], Wanted::Length),
    ("json_keys", &[], Wanted::Keys),
    ("json_type", &[], Wanted::Type),
    ("json_exists", &[], Wanted::Exists),
    ("json_structure", &[], Wanted::Structure),
    ("json_pretty", &[], Wanted::Pretty),
    ("json_valid", &[], Wanted::Valid),
    ("json", &[], Wanted::Value),
];

/// A call of one of the functions by its name.
pub fn json_call(name: &str, args: Vec<Expr>) -> Expr {
    let known = FUNCTIONS.into_iter().find(|(known, ..)| *known == name);
    let (name, aliases, wanted) = known.unwrap_or(FUNCTIONS[0]);
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(udf(name, aliases, wanted)), args))
}

fn udf(name: &'static str, aliases: &[&str], wanted: Wanted) -> ScalarUDF {
    let aliases = aliases.iter().map(|alias| (*alias).to_owned()).collect();
    let signature = Signature::user_defined(Volatility::Immutable);
    ScalarUDF::new_from_impl(Look { name, aliases, wanted, signature })
}

/// Registers them.
pub(super) fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    for (name, aliases, wanted) in FUNCTIONS {
        registry.register_udf(Arc::new(udf(name, aliases, wanted)))?;
    }
    values::register(registry)?;
    make::register(registry)
}

/// A function that looks into JSON.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Look {
    name: &'static str,
    aliases: Vec<String>,
    wanted: Wanted,
    signature: Signature,
}

fn list_of(kind: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(kind, true)))
}

/// The text of JSON that an argument is cast to.
pub(super) fn json_type(name: &str, given: &DataType) -> Result<DataType> {
    match given {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => Ok(DataType::Utf8),
        DataType::Dictionary(_, value) => json_type(name, value),
        kind if kind.is_numeric() || *kind == DataType::Boolean => Ok(DataType::Utf8),
        other => Err(Error::sql(format!("{name} takes a text of JSON, not {}", sql_type(other)))
            .hint("to_json(x) makes JSON of any value")
            .mark(name)),
    }
}

impl Look {
    /// One value of this kind.
    fn one(&self) -> DataType {
        match self.wanted {
            Wanted::Length => DataType::UInt64,
            Wanted::Keys => list_of(DataType::Utf8),
            Wanted::Exists | Wanted::Valid => DataType::Boolean,
            _ => DataType::Utf8,
        }
    }

    fn path_is_needed(&self) -> bool {
        matches!(self.wanted, Wanted::Text | Wanted::Plain | Wanted::Exists) || self.name == "json_extract"
    }

    fn arguments(&self) -> std::ops::RangeInclusive<usize> {
        match self.wanted {
            Wanted::Valid | Wanted::Structure | Wanted::Pretty => 1..=1,
            Wanted::Value if self.name == "json" => 1..=1,
            _ if self.path_is_needed() => 2..=2,
            _ => 1..=2,
        }
    }
}

/// The paths of a call.
enum Paths {
    /// None: the value itself.
    Whole,
    /// The same for all rows.
    One(Option<Path>),
    /// A list for all rows.
    List(Vec<Option<Path>>),
    /// One for each row.
    Each(ArrayRef),
}

impl Paths {
    fn of(argument: Option<&ColumnarValue>, rows: usize) -> Result<Self> {
        let Some(argument) = argument else { return Ok(Paths::Whole) };
        if let ColumnarValue::Scalar(value) = argument {
            return Self::constant(value);
        }
        let column = argument.to_array(rows)?;
        match column.data_type() {
            DataType::List(_) => Err(Error::sql("a list of JSON paths has to be a constant")),
            _ => Ok(Paths::Each(column)),
        }
    }

    fn constant(value: &ScalarValue) -> Result<Self> {
        Ok(match value {
            ScalarValue::List(list) => Paths::List(paths_of(list)?),
            ScalarValue::Int64(number) => Paths::One(number.map(Path::item)),
            other => Paths::One(other.try_as_str().flatten().map(Path::read).transpose()?),
        })
    }

    /// True if a row's result is a list of values.
    fn many(&self) -> bool {
        match self {
            Paths::One(Some(path)) => path.many,
            Paths::List(_) => true,
            _ => false,
        }
    }

    /// The path of a row.
    fn at(&self, row: usize) -> Result<Option<Path>> {
        match self {
            Paths::Whole | Paths::List(_) => Ok(Some(Path { steps: Vec::new(), many: false })),
            Paths::One(path) => Ok(path.clone()),
            Paths::Each(column) if column.is_null(row) => Ok(None),
            Paths::Each(column) => match column.as_any().downcast_ref::<Int64Array>() {
                Some(numbers) => Ok(Some(Path::item(numbers.value(row)))),
                None => {
                    let path = Path::read(column.as_string::<i32>().value(row))?;
                    if path.many {
                        return Err(Error::sql("a JSON path that means several values has to be a constant"));
                    }
                    Ok(Some(path))
                }
            },
        }
    }
}

fn paths_of(list: &ListArray) -> Result<Vec<Option<Path>>> {
    let values = list.values();
    if let Some(numbers) = values.as_any().downcast_ref::<Int64Array>() {
        return Ok(numbers.iter().map(|number| number.map(Path::item)).collect());
    }
    values.as_string::<i32>().iter().map(|text| text.map(Path::read).transpose()).collect()
}

impl ScalarUDFImpl for Look {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, types: &[DataType]) -> DfResult<Vec<DataType>> {
        let takes = self.arguments();
        if !takes.contains(&types.len()) {
            let what = if takes.contains(&1) && takes.contains(&2) {
                "JSON, and perhaps a path"
            } else if takes.contains(&2) {
                "JSON and a path"
            } else {
                "JSON"
            };
            return Err(Error::sql(format!("{} takes {what}", self.name)).mark(self.name).into());
        }
        let mut kinds = vec![json_type(self.name, &types[0])?];
        for path in &types[1..] {
            kinds.push(match path {
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => DataType::Utf8,
                kind if kind.is_integer() => DataType::Int64,
                DataType::List(item) if item.data_type().is_integer() => list_of(DataType::Int64),
                DataType::List(_) => list_of(DataType::Utf8),
                other => {
                    return Err(Error::sql(format!(
                        "{}: a JSON path is a text or a number, not {}",
                        self.name,
                        sql_type(other)
                    ))
                    .mark(self.name)
                    .into());
                }
            });
        }
        Ok(kinds)
    }

    fn return_type(&self, _types: &[DataType]) -> DfResult<DataType> {
        Ok(self.one())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> DfResult<FieldRef> {
        let path = args.scalar_arguments.get(1).copied().flatten();
        // A list of paths is one before it is known to be a constant.
        let list = args.arg_fields.get(1).is_some_and(|field| field.data_type().is_nested());
        let many = list || path.map(Paths::constant).transpose()?.is_some_and(|paths| paths.many());
        let kind = if many { list_of(self.one()) } else { self.one() };
        Ok(Arc::new(Field::new(self.name, kind, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let paths = Paths::of(args.args.get(1), args.number_rows)?;
        let (columns, single) = arrays(&args.args)?;
        let texts = columns[0].as_string::<i32>();
        columnar(self.look(texts, &paths)?, single)
    }
}

impl Look {
    fn look(&self, texts: &StringArray, paths: &Paths) -> Result<ArrayRef> {
        if self.wanted == Wanted::Valid {
            let mut valid = BooleanBuilder::with_capacity(texts.len());
            texts.iter().for_each(|text| valid.append_option(text.map(|text| scan::check(text).is_ok())));
            return Ok(Arc::new(valid.finish()));
        }
        // All that is found, one behind the other, and how much of it is of each row.
        let mut found = Column::new(self.wanted);
        let mut rows: Vec<Option<usize>> = Vec::with_capacity(texts.len());
        for (row, text) in texts.iter().enumerate() {
            let path = paths.at(row)?;
            let (Some(text), Some(path)) = (text, path) else {
                rows.push(None);
                continue;
            };
            let several = match paths {
                Paths::List(paths) => {
                    for path in paths {
                        let place = match path {
                            Some(path) => self.places(text, path)?.into_iter().next(),
                            None => None,
                        };
                        found.add(place.map(|place| &text[place]))?;
                    }
                    rows.push(Some(paths.len()));
                    continue;
                }
                _ => self.places(text, &path)?,
            };
            if !paths.many() && several.is_empty() && self.wanted != Wanted::Exists {
                rows.push(None);
                continue;
            }
            if self.wanted == Wanted::Exists && !paths.many() {
                found.add(Some(if several.is_empty() { "" } else { "x" }))?;
            }
            rows.push(Some(several.len().max(usize::from(!paths.many()))));
            if self.wanted != Wanted::Exists || paths.many() {
                several.into_iter().try_for_each(|place| found.add(Some(&text[place])))?;
            }
        }
        found.finish(&rows, paths.many(), self.one())
    }

    fn places(&self, text: &str, path: &Path) -> Result<Vec<std::ops::Range<usize>>> {
        scan::find(text, &path.steps, path.many).map_err(|wrong| malformed(text, &wrong))
    }
}

/// The error of a text that is no JSON.
fn malformed(text: &str, wrong: &Malformed) -> Error {
    let start = text[..wrong.at.min(text.len())].char_indices().rev().nth(40).map_or(0, |(at, _)| at);
    Error::query(format!(
        "not JSON, at character {}: {}",
        text.get(..wrong.at).map_or(0, |text| text.chars().count()) + 1,
        wrong.what
    ))
    .note(format!("the text there is: {}", clip(&text[start..])))
    .hint("json_valid(x) tells which texts are JSON")
}

/// Results of one kind.
enum Column {
    Texts(Wanted, StringBuilder),
    Lengths(UInt64Builder),
    Names(ListBuilder<StringBuilder>),
    Facts(BooleanBuilder),
}

impl Column {
    fn new(wanted: Wanted) -> Self {
        match wanted {
            Wanted::Length => Column::Lengths(UInt64Builder::new()),
            Wanted::Keys => Column::Names(ListBuilder::new(StringBuilder::new())),
            Wanted::Exists | Wanted::Valid => Column::Facts(BooleanBuilder::new()),
            other => Column::Texts(other, StringBuilder::new()),
        }
    }

    /// Adds what is wanted of a value, which is known to be JSON.
    fn add(&mut self, value: Option<&str>) -> Result<()> {
        let wrong = |text: &str| {
            let text = text.to_owned();
            move |wrong: Malformed| malformed(&text, &wrong)
        };
        match self {
            Column::Facts(facts) => facts.append_value(value.is_some_and(|value| !value.is_empty())),
            Column::Lengths(lengths) => {
                let mut count = 0;
                if let Some(value) = value
                    && let mut scanner = Scanner::new(value)
                    && scanner.kind() == Ok(Kind::Array)
                {
                    let items = scanner.items(|scanner, _| {
                        count += 1;
                        scanner.value().map(drop)
                    });
                    items.map_err(wrong(value))?;
                }
                lengths.append_option(value.map(|_| count));
            }
            Column::Names(names) => {
                if let Some(value) = value
                    && let mut scanner = Scanner::new(value)
                    && scanner.kind() == Ok(Kind::Object)
                {
                    let members = scanner.members(|scanner, name| {
                        names.values().append_value(scan::unescape(&value[name]));
                        scanner.value().map(drop)
                    });
                    members.map_err(wrong(value))?;
                }
                names.append(value.is_some());
            }
            Column::Texts(wanted, texts) => match value {
                Some(value) => texts.append_option(text_of(*wanted, value)?),
                None => texts.append_null(),
            },
        }
        Ok(())
    }

    /// The column of rows that have as many of the results.
    fn finish(self, rows: &[Option<usize>], many: bool, kind: DataType) -> Result<ArrayRef> {
        let values: ArrayRef = match self {
            Column::Texts(_, mut texts) => Arc::new(texts.finish()),
            Column::Lengths(mut lengths) => Arc::new(lengths.finish()),
            Column::Names(mut names) => Arc::new(names.finish()),
            Column::Facts(mut facts) => Arc::new(facts.finish()),
        };
        if many {
            let counts = rows.iter().map(|row| row.unwrap_or(0));
            let offsets = arrow::buffer::OffsetBuffer::<i32>::from_lengths(counts);
            let valid = arrow::buffer::NullBuffer::from_iter(rows.iter().map(Option::is_some));
            let field = Arc::new(Field::new_list_field(kind, true));
            return Ok(Arc::new(ListArray::try_new(field, offsets, values, Some(valid))?));
        }
        if rows.iter().all(Option::is_some) {
            return Ok(values);
        }
        let mut next = 0;
        let places = rows.iter().map(|row| {
            row.map(|_| {
                next += 1;
                next - 1
            })
        });
        let places: arrow::array::PrimitiveArray<Int64Type> = places.collect();
        Ok(arrow::compute::take(&values, &places, None)?)
    }
}

/// What a function of text gives for a value.
fn text_of(wanted: Wanted, value: &str) -> Result<Option<String>> {
    let mut scanner = Scanner::new(value);
    let kind = scanner.kind().map_err(|wrong| malformed(value, &wrong))?;
    let write = |indent: Option<usize>| {
        let mut out = String::with_capacity(value.len());
        scan::write(value, &mut out, indent).map_err(|wrong| malformed(value, &wrong))?;
        Ok::<_, Error>(Some(out))
    };
    match (wanted, kind) {
        (Wanted::Type, kind) => Ok(Some(type_name(kind, value).to_owned())),
        (Wanted::Structure, _) => values::structure(value).map(Some),
        (Wanted::Pretty, _) => write(Some(0)),
        (Wanted::Text, Kind::Null) | (Wanted::Plain, Kind::Object | Kind::Array) => Ok(None),
        (Wanted::Text, Kind::Text) => Ok(Some(scan::unescape(&value[1..value.len() - 1]).into_owned())),
        _ => write(None),
    }
}

/// DuckDB's name of what a value is.
fn type_name(kind: Kind, value: &str) -> &'static str {
    match kind {
        Kind::Object => "OBJECT",
        Kind::Array => "ARRAY",
        Kind::Text => "VARCHAR",
        Kind::Boolean => "BOOLEAN",
        Kind::Null => "NULL",
        Kind::Number if value.parse::<u64>().is_ok() => "UBIGINT",
        Kind::Number if value.parse::<i64>().is_ok() => "BIGINT",
        Kind::Number => "DOUBLE",
    }
}
