//! What is written comes back.
//!
//! Enters: values of every type and shape, written by COPY, by `-o` and by INSERT. Leaves: nothing. Always
//! holds: a value that a format can carry comes back equal; where a format cannot carry a type, a table here
//! says what comes back instead; what cannot be written is refused by name, and leaves no file.
//! (`tests/readers.py` holds the same for other engines that read our Parquet files.)

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray, UnionArray};
use arrow::datatypes::{DataType, Field, UnionFields};
use arrow::ipc::writer::FileWriter;
use arrow::record_batch::RecordBatch;

use crate::support::{Place, Ran};

/// The two ways of a result into a file.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Copy,
    Output,
}

const WAYS: [Way; 2] = [Way::Copy, Way::Output];

/// A file for each ending and each way.
fn each<'a>(endings: &'a [&'a str]) -> impl Iterator<Item = (Way, String)> + 'a {
    endings.iter().flat_map(|ending| WAYS.map(|way| (way, format!("{way:?}.{ending}"))))
}

impl Way {
    fn write(self, place: &Place, query: &str, file: &str) -> Ran {
        match self {
            Way::Copy => place.run(&["query", "-q", "-c", &format!("COPY ({query}) TO '{file}'")]),
            Way::Output => place.run(&["query", "-q", "-c", query, "-o", file]),
        }
    }
}

/// Types that Parquet and Arrow files carry, each with the text of a value.
const SCALARS: &str = "Int8 = -128 | Int16 = -32768 | Int32 = -2147483648 | Int64 = -9223372036854775808 |
    UInt8 = 255 | UInt16 = 65535 | UInt32 = 4294967295 | UInt64 = 18446744073709551615 |
    Float16 = 1.5 | Float32 = 0.1 | Float64 = 0.1 | Float64 = NaN | Float64 = inf | Float64 = -inf | Float64 = -0.0 |
    Float64 = 1.7976931348623157e308 | Float64 = 5e-324 | Decimal32(9, 2) = 1.20 | Decimal64(18, 2) = -1.23 |
    Decimal128(38, 3) = 12345678901234567890123456789012345.678 |
    Decimal256(76, 3) = -1234567890123456789012345678901234567890.123 | Boolean = true | Utf8 = ä\"x | Utf8 = |
    LargeUtf8 = 日本 | Utf8View = a text of more than twelve bytes | Binary = x | LargeBinary = x | BinaryView = x |
    Date32 = 2024-02-29 | Date32 = 0001-01-01 | Date32 = 9999-12-31 | Date64 = 2024-02-29 |
    Time32(Second) = 23:59:59 | Time32(Millisecond) = 23:59:59.123 | Time64(Microsecond) = 23:59:59.123456 |
    Time64(Nanosecond) = 23:59:59.123456789 | Timestamp(Second, None) = 2024-02-29T12:34:56 |
    Timestamp(Millisecond, None) = 2024-02-29T12:34:56.123 | Timestamp(Microsecond, None) = 0001-01-01T00:00:00.000001 |
    Timestamp(Nanosecond, None) = 2024-02-29T12:34:56.123456789 |
    Timestamp(Second, Some(\"UTC\")) = 2024-02-28T12:34:56Z |
    Timestamp(Millisecond, Some(\"Europe/Berlin\")) = 2024-02-28T12:34:56.123Z |
    Timestamp(Microsecond, Some(\"+05:30\")) = 2024-02-28T12:34:56.123456Z |
    Timestamp(Nanosecond, Some(\"UTC\")) = 2024-02-28T12:34:56.123456789Z |
    Interval(YearMonth) = 1 year 2 months | Interval(DayTime) = 1 day 2 hours | Dictionary(Int32, Utf8) = x |
    RunEndEncoded(\"run_ends\": Int32, \"values\": Utf8) = x";

/// Values of further types, each with a name.
const EXPRESSIONS: &str = "binary_bytes = x'00ff' | binary_fixed = arrow_cast(x'00ff', 'FixedSizeBinary(2)') |
    duration_second = arrow_cast(5, 'Duration(Second)') | duration_ms = arrow_cast(5, 'Duration(Millisecond)') |
    duration_us = arrow_cast(5, 'Duration(Microsecond)') | duration_ns = arrow_cast(5, 'Duration(Nanosecond)') |
    list = [1, NULL, 2] | list_empty = arrow_cast([], 'List(Int64)') | list_of_lists = [[1], [2, 3]] |
    list_of_texts = ['a', 'b,\"c'] | list_of_structs = [{'a': 1}, {'a': 2}] |
    list_large = arrow_cast([1, 2], 'LargeList(Int64)') | list_fixed = arrow_cast([1, 2], 'FixedSizeList(2 x Int64)') |
    view_of_list = arrow_cast([1, 2], 'ListView(Int64)') | struct = {'a': 1, 'b': {'c': 'x', 'd': [1, 2]}} |
    map = map(['a', 'b'], [1, 2]) | map_of_numbers = map([1, 2], ['x', NULL]) | null = NULL";

/// A column of each type and its expression. Its name begins with the type's.
fn types() -> Vec<(String, String)> {
    let pair = |text: &'static str| text.trim().split_once(" =").expect("a name and a value");
    let scalar = |(at, (kind, value)): (usize, (&str, &str))| {
        let name: String = kind.chars().map(|c| if c.is_alphanumeric() { c } else { '_' }).collect();
        (format!("{}_{at}", name.to_lowercase()), format!("arrow_cast('{}', '{kind}')", value.trim()))
    };
    let scalars = SCALARS.split('|').map(pair).enumerate().map(scalar);
    let others = EXPRESSIONS.split('|').map(pair).map(|(name, value)| (name.to_owned(), value.to_owned()));
    scalars.chain(others).collect()
}

/// A row of values, then a row of NULLs.
fn select(types: &[(String, String)]) -> String {
    let column = |(name, value): &(String, String)| format!("CASE WHEN i = 1 THEN {value} END AS \"{name}\"");
    let columns: Vec<String> = types.iter().map(column).collect();
    format!("SELECT i, {} FROM (VALUES (1), (2)) AS t(i)", columns.join(", "))
}

fn records(csv_text: &str) -> Vec<Vec<String>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(csv_text.as_bytes());
    let fields = |record: csv::StringRecord| record.iter().map(str::to_owned).collect();
    reader.records().map(|record| fields(record.expect("CSV"))).collect()
}

/// Name, type and values of each column of a table that has a column `i`.
fn columns(place: &Place, table: &str) -> Vec<(String, String, Vec<String>)> {
    let printed = records(&place.sql(&format!("SELECT * FROM {table} ORDER BY i")).data());
    let (names, values) = printed.split_first().expect("a header");
    let types: Vec<String> = names.iter().map(|name| format!("arrow_typeof(\"{name}\") AS \"{name}\"")).collect();
    let types = records(&place.sql(&format!("SELECT {} FROM {table} LIMIT 1", types.join(", "))).data());
    let column = |(at, name): (usize, &String)| {
        let values = values.iter().map(|row| row[at].clone()).collect();
        (name.clone(), types[1][at].clone(), values)
    };
    let mut columns: Vec<_> = names.iter().enumerate().map(column).collect();
    columns.sort();
    columns
}

/// True if a text begins with a pattern; behind a star comes what stands anywhere later.
fn fits(text: &str, pattern: &str) -> bool {
    let (start, later) = pattern.split_once('*').unwrap_or((pattern, ""));
    text.strip_prefix(start).is_some_and(|rest| rest.contains(later))
}

/// Writes the types both ways to files with these endings. They come back with their values, and with the type
/// that `becomes` says for a column's name and type.
#[track_caller]
fn keeps(types: &[(String, String)], endings: &[&str], becomes: impl Fn(&str, &str) -> String) {
    let place = Place::new();
    let query = select(types);
    let want = columns(&place, &format!("({query})"));
    let mut lost = Vec::new();
    for (way, file) in each(endings) {
        let ran = way.write(&place, &query, &file);
        if ran.code != Some(0) {
            lost.push(format!("{file}: {}", ran.stderr.lines().next().unwrap_or_default()));
            continue;
        }
        let got = columns(&place, &format!("'{file}'"));
        for (name, kind, values) in &want {
            let kind = becomes(name, kind);
            let back = got.iter().find(|(known, _, _)| known == name);
            if !back.is_some_and(|(_, type_back, values_back)| fits(type_back, &kind) && values_back == values) {
                lost.push(format!("{file}: {name} is {back:?}, not {kind} {values:?}"));
            }
        }
    }
    assert!(lost.is_empty(), "{} differences\n  {}\n", lost.len(), lost.join("\n  "));
}

/// An Arrow file has one dictionary a column, a result has one a batch.
#[test]
fn arrow_keeps_every_type() {
    keeps(&types(), &["arrow"], |_, kind| kind.replace("Dictionary(Int32, Utf8)", "Utf8"));
}

/// Parquet has no seconds, and texts are read as views.
#[test]
fn parquet_keeps_every_type() {
    keeps(&types(), &["parquet"], |_, kind| match kind {
        "Utf8" | "LargeUtf8" => "Utf8View".to_owned(),
        "Binary" | "LargeBinary" => "BinaryView".to_owned(),
        "Date64" => "Timestamp(ms)".to_owned(),
        "Time32(s)" => "Time32(ms)".to_owned(),
        _ if kind.starts_with("RunEndEncoded") => "Utf8View".to_owned(),
        _ => kind.replace("Timestamp(s", "Timestamp(ms"),
    });
}

/// A type that comes back from CSV, one from JSON, and values that come back so, with their text unchanged.
const TEXTS: &[(&str, &str, &str)] = &[
    ("Int64", "Int64", "arrow_cast(-128, 'Int8') ¦ arrow_cast(4294967295, 'UInt32') ¦ -9223372036854775807"),
    ("Float64", "Float64", "arrow_cast('0.1', 'Float32') ¦ 1.7976931348623157e308 ¦ 5e-324 ¦ -0.0"),
    ("Float64", "Float64", "arrow_cast('1.23', 'Decimal128(9, 2)')"),
    ("Boolean", "Boolean", "true ¦ false"),
    ("Utf8", "Utf8", "'ä''\"x, ' || chr(10) || 'y' ¦ arrow_cast('x', 'Dictionary(Int32, Utf8)') ¦ x'00ff' ¦ '007'"),
    ("Utf8", "Utf8", "'2024-02-30' ¦ '2024-02-29 12:34:56 foo' ¦ time '23:59:59.123456789'"),
    ("Utf8", "Utf8", "interval '1 month 2 days' ¦ arrow_cast(5, 'Duration(Second)')"),
    ("Date32", "Utf8", "date '2024-02-29'"),
    ("Timestamp(", "Utf8", "timestamp '2024-02-29 12:34:56.123456789' ¦ to_timestamp_seconds(1)"),
    ("Timestamp(*, \"", "Utf8", "arrow_cast('2024-02-29T12:34:56.123456Z', 'Timestamp(Microsecond, Some(\"UTC\"))')"),
    ("Utf8", "List(Int64)", "[1, NULL, 2] ¦ arrow_cast([1, 2], 'LargeList(Int64)')"),
    ("Utf8", "List(Int64)", "arrow_cast([1, 2], 'FixedSizeList(2 x Int64)')"),
    ("Utf8", "List(Utf8)", "['a', 'b,\"c']"),
    ("Utf8", "Struct(\"a\": Int64, \"b\": Struct(", "{'a': 1, 'b': {'c': 'x', 'd': [1, 2]}}"),
    ("Utf8", "Struct(\"a\": Int64, \"b\": Int64", "map(['a', 'b'], [1, 2])"),
    ("Utf8", "Null", "NULL"),
];

/// Writes the texts to files with these endings; `back` tells the types from a row of the table.
#[track_caller]
fn keeps_texts(endings: &[&str], back: fn(&(&'static str, &'static str, &'static str)) -> &'static str) {
    let values = TEXTS.iter().flat_map(|row| row.2.split('¦').map(move |value| (back(row), value.trim())));
    let (kinds, values): (Vec<_>, Vec<_>) = values.unzip();
    let name = |(at, value): (usize, &&str)| (format!("c{at}"), (*value).to_owned());
    let types: Vec<_> = values.iter().enumerate().map(name).collect();
    keeps(&types, endings, |name, kind| {
        let at = types.iter().position(|(known, _)| known == name);
        at.map_or(kind, |at| kinds[at]).to_owned()
    });
}

#[test]
fn csv_gives_the_same_texts_and_these_types() {
    keeps_texts(&["csv", "tsv", "csv.gz", "tsv.zst"], |row| row.0);
}

#[test]
fn json_gives_the_same_texts_and_these_types() {
    keeps_texts(&["json", "ndjson", "ndjson.gz", "json.zst"], |row| row.1);
}

/// Text has no types, but a table that declares them gets the exact values.
#[test]
fn declared_columns_read_text_without_loss() {
    let place = Place::new();
    let types = "d DECIMAL(38, 3), u BIGINT UNSIGNED, z VARCHAR, t TIME, ts TIMESTAMP, f REAL, b BOOLEAN";
    let values = "SELECT arrow_cast('12345678901234567890123456789012345.678', 'Decimal128(38, 3)') AS d, \
                  arrow_cast('18446744073709551615', 'UInt64') AS u, '007' AS z, time '12:00:00.5' AS t, \
                  timestamp '2024-02-29 12:34:56.123456' AS ts, arrow_cast('0.1', 'Float32') AS f, true AS b";
    let want = place.sql(values).data();
    for (way, file) in each(&["csv", "tsv", "json", "ndjson"]) {
        way.write(&place, values, &file).data();
        let array = if file == "Output.json" { " OPTIONS ('format.newline_delimited' 'false')" } else { "" };
        let ending = file.rsplit('.').next().unwrap_or_default();
        let table = format!("CREATE EXTERNAL TABLE x ({types}) STORED AS {ending} LOCATION '{file}'{array}");
        assert_eq!(place.sql(&format!("{table}; SELECT * FROM x")).data(), want, "{file}");
    }
}

/// Nested values in CSV are JSON, so that they can be told apart and read again.
#[test]
fn nested_values_are_printed_as_json() {
    let place = Place::new();
    let nested = [
        ("[1, NULL, 2]", "[1,null,2]"),
        ("['a, b', 'NULL', NULL, '', '\"']", r#"["a, b","NULL",null,"","\""]"#),
        ("{'a': 1, 'b': {'c': 'x', 'd': [1]}}", r#"{"a":1,"b":{"c":"x","d":[1]}}"#),
        ("map(['a', 'b'], [1, NULL])", r#"{"a":1,"b":null}"#),
        ("map([1], [{'d': date '2024-02-29'}])", r#"{"1":{"d":"2024-02-29"}}"#),
        ("map([date '2024-02-29'], [true])", r#"{"2024-02-29":true}"#),
        ("arrow_cast([1, 2], 'LargeList(Int64)')", "[1,2]"),
    ];
    for (value, json) in nested {
        let query = format!("SELECT 1 AS i, {value} AS v");
        let printed = place.run(&["query", "-c", &query, "--format", "ndjson"]).data();
        assert_eq!(printed, format!("{{\"i\":1,\"v\":{json}}}\n"), "{value}");
        assert_eq!(records(&place.sql(&query).data())[1][1], json, "{value} in CSV");
        for way in WAYS {
            way.write(&place, &query, "a.csv").data();
            assert_eq!(records(&place.read("a.csv"))[1][1], json, "{value} in CSV by {way:?}");
        }
        Way::Copy.write(&place, &query, "a.ndjson").data();
        assert_eq!(place.read("a.ndjson"), printed, "{value} in JSON by COPY");
    }
}

/// Texts that delimiters, quotes, line ends, words and odd characters make difficult, as JSON.
const DIFFICULT: &str = r##" "plain" ¦ "a,b" ¦ "a\tb" ¦ "a\"b" ¦ "\"" ¦ "\"\"" ¦ "'" ¦ "a\nb" ¦ "a\r\nb" ¦ "\r" ¦ "\n" ¦
    " lead" ¦ "trail " ¦ "  " ¦ "NULL" ¦ "null" ¦ "\\N" ¦ "NaN" ¦ "true" ¦ "#c" ¦ ";" ¦ "|" ¦ "C:\\dir\\" ¦ "a,\\" ¦
    "\\\"" ¦ "é 日本語 😀" ¦ "a\u0000b" ¦ "\u001b[31m" ¦ "=1+1" ¦ "007" ¦ "1.0" ¦ "\ufeffx" "##;

/// A row for each text of a list, under the name `v`.
fn write_texts(place: &Place, file: &str, texts: &str) {
    let line = |(at, text): (usize, &str)| format!("{{\"i\":{at},\"v\":{}}}\n", text.trim());
    place.write(file, texts.split('¦').enumerate().map(line).collect::<String>());
}

#[test]
fn difficult_texts_come_back() {
    let place = Place::new();
    write_texts(&place, "texts.ndjson", DIFFICULT);
    let long = "SELECT i, v FROM 'texts.ndjson' UNION ALL SELECT 100, repeat('long \"text\", ', 100000)";
    let print = |table: &str| {
        let sql = format!("SELECT i, v FROM {table} ORDER BY i");
        place.run(&["query", "-c", &sql, "--format", "ndjson"]).data()
    };
    let want = print(&format!("({long})"));
    for (way, file) in each(&["csv", "tsv", "csv.gz", "tsv.zst", "json", "ndjson", "json.gz", "parquet", "arrow"]) {
        way.write(&place, long, &file).data();
        assert!(print(&format!("'{file}'")) == want, "{file} differs from texts.ndjson");
        let start: &[u8] = match file.rsplit('.').next() {
            Some("gz") => &[0x1f, 0x8b],
            Some("zst") => &[0x28, 0xb5, 0x2f, 0xfd],
            _ => &[],
        };
        assert!(fs::read(place.path().join(&file)).expect("a file").starts_with(start), "{file} is not compressed");
    }
}

#[test]
fn null_and_empty_texts_come_back() {
    let place = Place::new();
    let texts = "SELECT * FROM (VALUES (1, 'x'), (2, ''), (3, NULL)) AS t(i, v)";
    let one = "SELECT v FROM (VALUES (1), (NULL), (3)) AS t(v)";
    let none = "SELECT 1 AS i, arrow_cast(NULL, 'Utf8') AS v";
    for (way, file) in each(&["csv", "tsv", "json", "ndjson", "parquet", "arrow"]) {
        // CSV readers take an empty text for NULL.
        let empty = if file.ends_with("sv") { "NULL" } else { "''" };
        way.write(&place, texts, &file).data();
        let same = format!("v IS NOT DISTINCT FROM CASE i WHEN 1 THEN 'x' WHEN 2 THEN {empty} END");
        let same = format!("SELECT count(*) AS n FROM '{file}' WHERE {same}");
        assert_eq!(place.sql(&same).data(), "n\n3\n", "{file}");
        // One column: a NULL is no empty line, which readers skip.
        way.write(&place, one, &file).data();
        let counts = format!("SELECT count(*) AS n, count(v) AS v FROM '{file}'");
        assert_eq!(place.sql(&counts).data(), "n,v\n3,2\n", "one column in {file}");
        // A column of NULLs is still a column.
        way.write(&place, none, &file).data();
        assert_eq!(place.sql(&format!("SELECT i, v IS NULL AS v FROM '{file}'")).data(), "i,v\n1,true\n", "{file}");
    }
    for file in ["nan.json", "nan.ndjson"] {
        // JSON has no word for them.
        Way::Output.write(&place, "SELECT 1 AS i, 'NaN'::DOUBLE AS n, 'inf'::DOUBLE AS f", file).data();
        assert_eq!(place.sql(&format!("SELECT i, n, f FROM '{file}'")).data(), "i,n,f\n1,,\n");
    }
}

#[test]
fn no_rows_keep_their_columns() {
    let place = Place::new();
    let query = "SELECT 1 AS a, 'x' AS \"b c\", date '2024-01-01' AS d WHERE false";
    for (way, file) in each(&["parquet", "arrow", "csv", "tsv", "csv.gz"]) {
        way.write(&place, query, &file).data();
        assert_eq!(place.sql(&format!("SELECT * FROM '{file}'")).data(), "a,b c,d\n", "{file}");
        let days = place.sql(&format!("SELECT d FROM '{file}' WHERE d > date '2024-01-01'"));
        assert_eq!(days.data(), "d\n", "{file}");
    }
    // JSON has no header: the file is valid and empty, and reading it says so.
    Way::Output.write(&place, query, "a.json").data();
    assert_eq!(place.read("a.json").trim(), "[]");
    for file in ["a.json", "a.ndjson"] {
        Way::Copy.write(&place, query, "a.ndjson").data();
        let error = place.sql(&format!("SELECT * FROM '{file}'")).error(1);
        assert!(error.contains(file), "{error}");
    }
}

#[test]
fn column_names_come_back_in_order() {
    let place = Place::new();
    let names = ["z", "Upper", "upper", "a b", "x.y", "select", "ünï", "日本", "a\"q", "a'q", " a", "a,b", "#x", "*"];
    let quoted = names.map(|name| format!("\"{}\"", name.replace('"', "\"\"")));
    let values: Vec<String> = quoted.iter().enumerate().map(|(at, name)| format!("{at} AS {name}")).collect();
    let query = format!("SELECT {}", values.join(", "));
    let want = place.sql(&query).data();
    for (way, file) in each(&["parquet", "arrow", "csv", "tsv", "json", "ndjson"]) {
        way.write(&place, &query, &file).data();
        assert_eq!(place.sql(&format!("SELECT * FROM '{file}'")).data(), want, "{file}");
        assert_eq!(place.sql(&format!("SELECT {} FROM '{file}'", quoted.join(", "))).data(), want, "{file}");
    }
}

/// An error that says what and why: no panic, no file.
#[track_caller]
fn refused(place: &Place, ran: Ran, words: &[&str]) {
    let files = place.files();
    assert!(matches!(ran.code, Some(1 | 2)), "code {:?}, stderr: {}", ran.code, ran.stderr);
    assert!(words.iter().all(|word| ran.stderr.contains(word)), "{words:?} are not in: {}", ran.stderr);
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    assert!(files.iter().all(|file| !file.contains("out.")), "{files:?}");
}

/// A file of two columns that share a name would come back with one.
#[test]
fn two_columns_of_one_name_are_not_written() {
    let place = Place::new();
    let query = "SELECT * FROM (VALUES (1)) AS t(same) JOIN (VALUES (2)) AS u(same) ON true";
    for (way, file) in each(&["parquet", "arrow", "json", "ndjson", "csv"]) {
        refused(&place, way.write(&place, query, &format!("out.{file}")), &["same", "AS"]);
    }
}

#[test]
fn what_a_format_cannot_carry_is_refused_by_name() {
    let place = Place::new();
    let field = |name: &str, kind: DataType| Field::new(name, kind, true);
    let fields = UnionFields::try_new([0, 1], [field("n", DataType::Int64), field("s", DataType::Utf8)]);
    let children: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from(vec![1, 0])), Arc::new(StringArray::from(vec!["", "b"]))];
    let either = UnionArray::try_new(fields.expect("fields"), vec![0, 1].into(), None, children).expect("a union");
    let batch = RecordBatch::try_from_iter([("either", Arc::new(either) as ArrayRef)]).expect("a batch");
    let mut file = FileWriter::try_new(File::create(place.path().join("u.arrow")).expect("a file"), &batch.schema());
    let writer = file.as_mut().expect("a writer");
    writer.write(&batch).and_then(|()| writer.finish()).expect("written");

    for way in WAYS {
        let union = "SELECT * FROM 'u.arrow'";
        way.write(&place, union, "v.arrow").data();
        assert_eq!(place.sql("SELECT count(either) AS n FROM 'v.arrow'").data(), "n\n2\n");
        refused(&place, way.write(&place, union, "out.parquet"), &["either", "Union"]);
        refused(&place, way.write(&place, union, "out.ndjson"), &["either", "Union"]);
        let interval = "SELECT interval '1 month 2 days' AS pause";
        refused(&place, way.write(&place, interval, "out.parquet"), &["pause", "CAST"]);
    }
}

/// Quoted line ends wherever a large file is cut into pieces. The lines inside look like rows.
#[test]
fn large_csv_files_keep_their_line_ends() {
    let place = Place::new();
    let query = "SELECT value AS i, repeat('7,x' || chr(10), 100) || '8,y' AS s FROM generate_series(1, 30000)";
    let sums = "SELECT count(*) AS n, sum(i) AS i, count(DISTINCT s) AS d, sum(length(s)) AS l FROM";
    let want = place.sql(&format!("{sums} ({query})")).data();
    for ending in ["csv", "csv.gz"] {
        let file = format!("a.{ending}");
        Way::Copy.write(&place, query, &file).data();
        for threads in ["1", "2", "8"] {
            let sql = format!("{sums} '{file}'");
            let ran = place.run(&["query", "-c", &sql, "--format", "csv", "--threads", threads]);
            assert_eq!(ran.data(), want, "{file} with {threads} threads");
        }
    }
}

#[test]
fn large_files_of_many_batches_come_back() {
    let place = Place::new();
    // A dictionary for each batch, and a text that makes the JSON array too large for one piece.
    let query = "SELECT value AS i, arrow_cast('v' || (value % 40000), 'Dictionary(Int32, Utf8)') AS v, \
                 repeat('x', 100) AS s FROM generate_series(1, 100000)";
    let sums = "SELECT count(*) AS n, sum(i) AS i, count(DISTINCT v) AS v, sum(length(s)) AS s, \
                count(*) FILTER (WHERE v = 'v' || (i % 40000)) AS same FROM";
    let want = place.sql(&format!("{sums} ({query})")).data();
    for (way, file) in each(&["arrow", "json", "parquet"]) {
        way.write(&place, query, &file).data();
        assert_eq!(place.sql(&format!("{sums} '{file}'")).data(), want, "{file}");
    }
    let stream = place.command(&["query", "-c", query, "--format", "arrow"]).output().expect("runs");
    place.write("stream.arrow", stream.stdout);
    assert_eq!(place.sql(&format!("{sums} 'stream.arrow'")).data(), want, "a stream");
}

/// Statistics of a file leave NaN out; what a query gives does not depend on them.
#[test]
fn nan_in_a_file_is_found() {
    let place = Place::new();
    let values = "SELECT * FROM (VALUES (1, 1.0), (2, 'NaN'::DOUBLE), (3, 1.0), (4, NULL)) AS t(i, x)";
    Way::Copy.write(&place, values, "a.parquet").data();
    for ask in ["max(x) AS i FROM §", "min(x) AS i FROM §", "i FROM § WHERE isnan(x)", "i FROM § WHERE x < 5"] {
        let rows = |table: &str| place.sql(&format!("SELECT {} ORDER BY i", ask.replace('§', table))).data();
        assert_eq!(rows("'a.parquet'"), rows(&format!("({values})")), "{ask}");
    }
}

/// Texts that make difficult folder names, as JSON. In a path, `=` would be read as a second key.
const FOLDERS: &str = r##" "plain" ¦ "with space" ¦ " lead" ¦ "a/b" ¦ ".." ¦ ".hidden" ¦ "k=v" ¦ "100%" ¦ "%2F" ¦
    "ünï 日本" ¦ "a\\b" ¦ "q\"'q" ¦ "a*?#[b]" ¦ "a+b&c:d" ¦ "~" ¦ null "##;

#[test]
fn texts_in_partition_folders_come_back() {
    let place = Place::new();
    write_texts(&place, "keys.ndjson", &format!("{FOLDERS} ¦ \"\""));
    let keys = "(SELECT i, v AS k, i AS \"Odd name\" FROM 'keys.ndjson')";
    let print = |table: &str| {
        let sql = format!("SELECT i, k, \"Odd name\" FROM {table} ORDER BY i");
        place.run(&["query", "-c", &sql, "--format", "ndjson"]).data()
    };
    for ending in ["parquet", "csv", "tsv", "json", "arrow"] {
        let by = "PARTITIONED BY (k, \"Odd name\")";
        place.sql(&format!("COPY {keys} TO '{ending}/' STORED AS {ending} {by}")).data();
        for table in [format!("'{ending}/'"), format!("'{ending}/k=*/*/*.{ending}'")] {
            assert_eq!(print(&table), print(keys), "{table}");
        }
    }
    let names = place.files().join("\n");
    for part in ["/k=__HIVE_DEFAULT_PARTITION__/Odd name=15/", "/k=k%3Dv/", "/k=a%2Fb/"] {
        assert!(names.contains(part), "{part} in {names}");
    }
}

/// NULL is no other value, and a value that has no type in a path comes back as its text.
#[test]
fn typed_partition_folders_come_back() {
    let place = Place::new();
    let cases = [
        ("Int64", "Int64", &["-5", "0", "9223372036854775807", "-9223372036854775808"][..]),
        ("UInt8", "Int64", &["0", "255"]),
        ("Date32", "Date32", &["1970-01-01", "2024-02-29"]),
        ("Boolean", "Utf8", &["true", "false"]),
        ("Float64", "Utf8", &["1.5", "-2.25"]),
        ("Decimal128(10, 2)", "Utf8", &["0.00", "-1.50"]),
        ("Timestamp(Second, None)", "Utf8", &["2024-02-29T12:34:56"]),
        ("Dictionary(Int32, Utf8)", "Utf8", &["a", "b"]),
        // Months are written as 01: digits are numbers.
        ("Utf8", "Int64", &["1", "2"]),
    ];
    for (at, (kind, back, values)) in cases.into_iter().enumerate() {
        let mut rows: Vec<String> = values.iter().map(|value| format!("('{value}')")).collect();
        rows.push("(NULL)".to_owned());
        let keys = format!("SELECT arrow_cast(column1, '{kind}') AS k, column1 AS v FROM (VALUES {})", rows.join(", "));
        place.sql(&format!("COPY ({keys}) TO 'd{at}/' STORED AS PARQUET PARTITIONED BY (k)")).data();
        let text = if back == "Utf8" { "k" } else { "arrow_cast(k, 'Utf8')" };
        let same = format!(
            "SELECT count(*) AS n, count(*) FILTER (WHERE {text} IS NOT DISTINCT FROM v) AS same, count(k) AS k, \
             min(arrow_typeof(k)) AS kind FROM 'd{at}/'"
        );
        let count = values.len();
        let want = format!("n,same,k,kind\n{},{},{count},{back}", count + 1, count + 1);
        let got = place.sql(&same).data();
        assert!(fits(&got, &want), "{kind}: wanted {want}, got {got}");
    }
    let error = place.sql("COPY (SELECT 1 AS k) TO 'all/' STORED AS PARQUET PARTITIONED BY (k)").error(2);
    assert!(error.contains("PARTITIONED BY"), "{error}");
}

#[test]
fn inserted_rows_come_back_by_table_and_by_path() {
    let place = Place::new();
    let rows = "VALUES (1, 'x, \"y\"', 7), (2, NULL, 0), (3, 'a' || chr(10) || 'b', -1)";
    let want = place.sql(&format!("SELECT * FROM ({rows}) AS t(a, b, k) ORDER BY a")).data();
    let formats = [
        ("csv", ""),
        ("tsv", ""),
        ("json", ""),
        ("ndjson", ""),
        ("parquet", ""),
        ("arrow", ""),
        ("csv", "OPTIONS ('format.compression' 'gzip')"),
        ("json", "OPTIONS ('format.compression' 'zstd')"),
    ];
    for (format, options) in formats {
        for partitioned in ["", "PARTITIONED BY (k)"] {
            let folder = format!("{format}-{}-{}/", options.len(), partitioned.len());
            fs::create_dir(place.path().join(&folder)).expect("a folder");
            let table = format!(
                "CREATE EXTERNAL TABLE t (a BIGINT, b VARCHAR, k BIGINT) STORED AS {format} {partitioned} \
                 LOCATION '{folder}' {options}"
            );
            let sql = format!("{table}; INSERT INTO t {rows}; SELECT * FROM t ORDER BY a");
            assert_eq!(place.sql(&sql).data(), want, "{table}");
            assert_eq!(place.sql(&format!("SELECT * FROM '{folder}' ORDER BY a")).data(), want, "{folder} by path");
            let null = place.sql(&format!("{table}; INSERT INTO t VALUES (4, 'z', NULL)"));
            assert_eq!(null.code, Some(0), "{}", null.stderr);
            let found = place.sql(&format!("{table}; SELECT b FROM t WHERE k IS NULL")).data();
            assert_eq!(found, "b\nz\n", "{table}");
        }
    }
}

// Other engines.

/// What not all of DuckDB, Polars and pyarrow read.
const NOT_FOR_ALL: [&str; 4] = ["decimal256", "interval", "view_of_list", "timestamp_microsecond__some___05_30"];

/// The Python of the virtual environment that holds the other engines.
fn python() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/fuse/venv");
    let folder = std::env::var_os("FUSE_TEST_VENV").map_or_else(home, PathBuf::from);
    let python = folder.join("bin/python");
    assert!(
        python.is_file(),
        "no virtual environment with duckdb, polars and pyarrow in {} (FUSE_TEST_VENV): run ./tests/run, which makes it",
        folder.display()
    );
    python
}

/// Prints a query to a file in this format; the floats of `types` as their texts, since JSON has no NaN.
fn print_to(place: &Place, types: &[(String, String)], format: &str, file: &str) {
    let column = |(name, _): &(String, String)| match name.starts_with("float") {
        true => format!("arrow_cast(\"{name}\", 'Utf8') AS \"{name}\""),
        false => format!("\"{name}\""),
    };
    let columns: Vec<String> = types.iter().map(column).collect();
    let sql = format!("SELECT i, {} FROM ({}) ORDER BY i", columns.join(", "), select(types));
    place.write(file, place.run(&["query", "-c", &sql, "--format", format]).data());
}

#[test]
fn other_engines_read_what_fuse_writes() {
    let place = Place::new();
    let python = python();
    let odd = |(name, _): &(String, String)| NOT_FOR_ALL.iter().any(|odd| name.starts_with(odd));
    let (odd, all): (Vec<_>, Vec<_>) = types().into_iter().partition(odd);
    for (name, types) in [("types", &all), ("odd", &odd)] {
        print_to(&place, types, "ndjson", &format!("{name}.expected.ndjson"));
        for way in WAYS {
            way.write(&place, &select(types), &format!("{name}.{way:?}.parquet")).data();
        }
    }
    for format in ["json", "ndjson", "csv", "tsv"] {
        print_to(&place, &types(), format, &format!("printed.{format}"));
    }
    let rows = "SELECT value AS i, 'v' || value AS s, value / 3.0 AS f FROM generate_series(1, 600000)";
    for way in WAYS {
        way.write(&place, rows, &format!("rows.{way:?}.parquet")).data();
    }
    let sums = format!("SELECT count(*) AS n, sum(i) AS i, max(s) AS s FROM ({rows})");
    let sums = format!("{sums} WHERE i BETWEEN 300000 AND 300099");
    place.run(&["query", "-c", &sums, "-o", "rows.expected.ndjson"]).data();
    write_texts(&place, "keys.ndjson", FOLDERS);
    let keys = "SELECT i, v AS k, CASE WHEN i <> 3 THEN i - 2 END AS n FROM 'keys.ndjson'";
    place.sql(&format!("COPY ({keys}) TO 'parts/' STORED AS PARQUET PARTITIONED BY (k, n)")).data();
    place.run(&["query", "-c", keys, "-o", "parts.expected.ndjson"]).data();

    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/readers.py");
    let ran = Ran::from(Command::new(python).arg(script).arg(place.path()).output().expect("Python runs"));
    assert_eq!(ran.code, Some(0), "\n{}{}", ran.stdout, ran.stderr);
}
