//! JSON is read as it is written, or refused with its place.
//!
//! Enters: files of JSON, good and bad. Leaves: nothing. Always holds: a value is read whole or named in an error.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::support::Place;

/// Lines of a file of which the first 50 KB are looked at; the last but ten is odd.
fn lines(odd: &str) -> String {
    let mut text: String = (1..=9_000).fold(String::new(), |mut text, line| {
        let _ = writeln!(text, r#"{{"a":{line},"b":"x{line}","c":null}}"#);
        text
    });
    // Behind the piece at the end that is looked at too, of 6 KB, nothing is odd.
    let at = text.match_indices('\n').nth(7_998).expect("a line").0 + 1;
    text.insert_str(at, &format!("{odd}\n"));
    text
}

const SMALL_SAMPLE: &str = "SET fuse.json_sample = '50KB'; ";

#[test]
fn what_first_appears_behind_the_sample_is_an_error_or_read() {
    let cases = [
        (r#"{"a":1.5,"b":"x"}"#, "line 8000, column a: 1.5 is not a whole number"),
        (r#"{"a":9223372036854775808}"#, "line 8000, column a: 9223372036854775808 is not a whole number"),
        (r#"{"a":"ten"}"#, "line 8000, column a: \"ten\" is not a whole number"),
        (r#"{"a":[1]}"#, "line 8000, column a: [1] is not a whole number"),
        (r#"{"c":1}"#, "line 8000, column c: 1 is not null"),
        (r#"{"a":1,"new":{"k":1}}"#, "line 8000: the member new is new"),
        (r#"{"a":1"#, "line 8000: the object that begins here is wrong in line 8001"),
        (r#"{"a":1,}"#, "line 8000: expected the name of a member"),
        (r#"{"a":01}"#, "line 8000: a number begins with 0"),
        ("1", "line 8000: expected an object"),
    ];
    let place = Place::new();
    for (odd, says) in cases {
        place.write("t.ndjson", lines(odd));
        for threads in [1, 4] {
            let set = format!(
                "{SMALL_SAMPLE} SET fuse.threads = {threads}; SET datafusion.optimizer.repartition_file_min_size = 1; "
            );
            let error = place.sql(&format!("{set} SELECT count(a), max(c) FROM 't.ndjson'")).error(1);
            assert!(error.contains(&format!("t.ndjson, {says}")), "{odd}: {error}");
        }
    }
    // The whole of a small file is looked at.
    place.write("t.ndjson", lines(r#"{"a":1.5,"b":7,"new":{"k":1}}"#));
    let all = "SELECT sum(a), max(b), max(new.k), count(*) FROM 't.ndjson'";
    assert_eq!(place.sql(all).data().lines().nth(1), Some("40504501.5,x999,1,9001"));
    // Declared columns say what is read.
    let declared = "CREATE EXTERNAL TABLE t (a VARCHAR, b VARCHAR) STORED AS JSON LOCATION 't.ndjson'";
    let rows = format!("{SMALL_SAMPLE} {declared}; SELECT a, b FROM t WHERE a IN ('1.5', '9000') ORDER BY a");
    assert_eq!(place.sql(&rows).data(), "a,b\n1.5,7\n9000,x9000\n");
    let refused = format!("{declared} OPTIONS ('ignore_unknown' 'false'); SELECT count(*) FROM t");
    assert!(place.sql(&refused).error(1).contains("the member c is new"));
    let wrong = format!("{declared} OPTIONS ('ignore_unknown' 'perhaps')");
    assert!(place.sql(&wrong).error(2).contains("true or false"));
}

#[test]
fn mixed_values_are_widened_and_none_is_lost() {
    let place = Place::new();
    place.write(
        "t.json",
        "\u{feff}[{\"f\":1,\"t\":1.50,\"j\":\"x\",\"n\":18446744073709551615},\n\
         {\"f\":2.5,\"t\":\"x\",\"j\":{\"k\": [1, 2]},\"n\":1},\n{\"f\":1e2,\"t\":true,\"j\":[],\"n\":null}, {}]",
    );
    assert_eq!(
        place.sql("SELECT * FROM 't.json'").data(),
        "f,t,j,n\n1.0,1.50,x,18446744073709551615\n2.5,x,\"{\"\"k\"\": [1, 2]}\",1\n100.0,true,[],\n,,,\n"
    );
    // Declared types take what they can hold, and nothing else.
    let declared = "CREATE EXTERNAL TABLE t (a INT, d DECIMAL(10, 2), w TIMESTAMP, y DATE, b BOOLEAN, u BIGINT UNSIGNED, \
                    r REAL, m DOUBLE NOT NULL) STORED AS JSON LOCATION 'd.ndjson'; SELECT * FROM t";
    let row = |changed: &str| {
        let row = r#"{"a":"7","d":1.5,"w":"2024-01-02T03:04:05","y":"2024-01-02","b":true,"u":18446744073709551615,"r":0.5,"m":1}"#;
        place.write("d.ndjson", format!("{row}\n{changed}\n"));
        place.sql(declared)
    };
    assert_eq!(
        row(r#"{"m":"NaN","a":2.0,"d":"0.25"}"#).data(),
        "a,d,w,y,b,u,r,m\n7,1.50,2024-01-02T03:04:05,2024-01-02,true,18446744073709551615,0.5,1.0\n2,0.25,,,,,,NaN\n"
    );
    let wrong = [
        (r#"{"m":1,"a":2147483648}"#, "column a: 2147483648 is not a whole number that fits INTEGER"),
        (r#"{"m":1,"d":1.555}"#, "column d: 1.555 is not of type Decimal"),
        (r#"{"m":1,"w":1700000000}"#, "column w"),
        (r#"{"m":1,"y":"yesterday"}"#, "column y"),
        (r#"{"m":1,"b":1}"#, "column b: 1 is not true or false"),
        (r#"{"m":1,"u":-1}"#, "column u"),
        (r#"{"m":1,"r":1e300}"#, "column r: 1e300 is not a number that fits FLOAT"),
        (r#"{"m":null}"#, "column m: no value"),
        ("{}", "column m: no value"),
    ];
    for (changed, says) in wrong {
        let error = row(changed).error(1);
        assert!(error.contains("d.ndjson, line 2") && error.contains(says), "{changed}: {error}");
    }
}

#[test]
fn arrays_and_objects_on_several_lines_are_read_by_any_number_of_threads() {
    let place = Place::new();
    let object = |row: usize| format!("{{\n \"a\": {row},\n \"l\": [\n{{\"x\": {row}}}\n,\n{{\"x\": 0}}\n]\n}}");
    let objects: Vec<String> = (1..=3_000).map(object).collect();
    place.write("lines/1.json", objects.join("\n"));
    place.write("mixed/1.json", objects.join("\n\n \r\n"));
    place.write("mixed/2.json", format!(" \n[\n{}\n]\n", objects.join(",\n")));
    place.write("mixed/3.json", "[]\n");
    place.write("mixed/4.json", objects[..5].concat());
    for threads in [1, 3, 7] {
        let set = format!(
            "SET fuse.threads = {threads}; SET datafusion.optimizer.repartition_file_min_size = 1; \
             SELECT count(*), sum(a), sum(l[1]['x']), count(DISTINCT a)"
        );
        let got = |from: &str| place.sql(&format!("{set} FROM '{from}'")).data();
        assert!(got("lines/").ends_with("3000,4501500,4501500,3000\n"), "{threads} threads");
        assert!(got("mixed/").ends_with("6005,9003015,9003015,3000\n"), "{threads} threads");
    }
    place.write("a.json", format!("[\n{},\n{{\"a\": 1, \"l\": [{{\"x\": 1.5.1}}]}}\n]", objects.join(",\n")));
    let error = place.sql("SELECT sum(a) FROM 'a.json'").error(1);
    assert!(error.contains("a.json, line 24002: expected ',' or '}', found '.'"), "{error}");
}

#[test]
fn a_record_beyond_the_limit_is_refused() {
    let place = Place::new();
    let mut text = lines("{}");
    let _ = writeln!(text, "{{\"a\":1,\"b\":\"{}\"}}", "x".repeat(65 << 20));
    text.push_str(&lines("{}"));
    place.write("long.ndjson", &text);
    let error = place.sql(&format!("{SMALL_SAMPLE} SELECT max(a) FROM 'long.ndjson'")).error(1);
    assert!(error.contains("long.ndjson, line 9002: a record is longer than 64 MB"), "{error}");
}

/// Documents that are no JSON objects, or not whole.
const BAD: &str = r#"{"a":1}} ¦ {"a":1 ¦ {"a" ¦ { ¦ [ ¦ [{"a":1} ¦ [{"a":1}, ¦ [{"a":1},] ¦ [,{"a":1}] ¦ [{"a":1}] x ¦ [{"a":1}]] ¦ {"a":1},
    ¦ {"a":1}{ ¦ 1 ¦ "a" ¦ null ¦ [1] ¦ [null] ¦ [[{"a":1}]] ¦ {a:1} ¦ {'a':1} ¦ {"a":1,,} ¦ {,"a":1} ¦ {"a"} ¦ {"a":} ¦ {"a":NaN}
    ¦ {"a":Infinity} ¦ {"a":+1} ¦ {"a":.5} ¦ {"a":1.} ¦ {"a":1e} ¦ {"a":0x10} ¦ {"a":1 2} ¦ {"a":"\x"} ¦ {"a":"\ud800"} ¦ {"a":tru}
    ¦ {"a":True} ¦ {"a":"b	c"} ¦ {"a":[1,]} ¦ {"a":[1 2]} ¦ {"a":1}/**/ ¦ # ¦ {"a":-} ¦ {"a":-01} ¦ {"a":1}{"a":1]"#;

#[test]
fn what_is_no_json_is_refused() {
    let place = Place::new();
    for text in BAD.split('¦').map(str::trim) {
        place.write("bad.json", text);
        let error = place.sql("SELECT * FROM 'bad.json'").error(1);
        assert!(error.contains("bad.json, line 1"), "{text}: {error}");
    }
    for text in ["[]", " ", "{}", "\u{feff}", "[{}]"] {
        place.write("none.json", text);
        let error = place.sql("SELECT * FROM 'none.json'").error(1);
        assert!(error.contains("no columns found in 'none.json'"), "{text}: {error}");
    }
    place.write("bytes.json", b"{\"a\":\"\xff\"}");
    assert!(place.sql("SELECT * FROM 'bytes.json'").error(1).contains("bytes.json, line 1: not UTF-8"));
    place.write("deep.json", format!("{{\"a\":{}", "[".repeat(100_000)));
    assert!(place.sql("SELECT * FROM 'deep.json'").error(1).contains("nested deeper"));
}

/// The documents of a public test suite, if `FUSE_JSON_DIR` names its folder: `y_` are good, `n_` are bad.
#[test]
fn documents_of_a_test_suite_are_read_or_refused() {
    let Ok(folder) = std::env::var("FUSE_JSON_DIR") else { return };
    let mut failed = Vec::new();
    for entry in fs::read_dir(Path::new(&folder)).expect("a folder").flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let ran = Place::new().sql(&format!("SELECT * FROM '{}'", path.display()));
        let bytes = fs::read(&path).expect("a file");
        let objects = match serde_json::from_slice(&bytes) {
            Ok(serde_json::Value::Object(members)) => !members.is_empty(),
            Ok(serde_json::Value::Array(all)) => !all.is_empty() && all.iter().all(serde_json::Value::is_object),
            _ => false,
        };
        let wanted = if name.starts_with("y_") && objects { 0 } else { 1 };
        if !name.starts_with("i_") && name.ends_with(".json") && ran.code != Some(wanted) {
            failed.push(format!("{name}: {ran:?}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
