//! `fuse verify`: what a pipeline shows and keeps, beside a batch over what it took.
//!
//! Enters: pipelines that have run, and damage to what they left. Leaves: nothing. Always holds: what is intact is equal,
//! and each damage is found.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::support::{Place, Ran};

const SQL: &str = "
    CREATE STREAM s (k BIGINT, v BIGINT, g VARCHAR, f DOUBLE) STORED AS JSON LOCATION 'in/';
    CREATE STREAM u (k BIGINT, x BIGINT) STORED AS CSV LOCATION 'u/';
    CREATE TABLE names AS VALUES (1, 'one'), (2, 'two');
    COPY (SELECT k, v, g, f FROM s WHERE v > 0) TO 'rows/' STORED AS PARQUET;
    COPY (SELECT g, v FROM s) TO 'parts/' STORED AS CSV PARTITIONED BY (g);
    COPY (SELECT k, count(*) AS n, sum(v) AS total, avg(f) AS mean FROM s GROUP BY k) TO 'sums.parquet';
    COPY (SELECT g, sum(f) AS total FROM s GROUP BY g ORDER BY g) TO 'floats.csv';
    COPY (SELECT s.k, s.v, u.x FROM s LEFT JOIN u ON s.k = u.k) TO 'joined/' STORED AS JSON OPTIONS ('mode' 'changelog');
    COPY (SELECT column2 AS name, max(v) AS v FROM s JOIN names ON k = column1 GROUP BY name) TO 'names.json';
    SELECT k, max(v) AS m FROM s GROUP BY k;";

fn write(place: &Place) {
    for file in 0..3 {
        let line = |row: i64| {
            let (k, v) = (row % 4, row * 7 % 11 - 2);
            let g = if row % 5 == 0 { "null".to_owned() } else { format!("\"g{}\"", row % 3) };
            format!("{{\"k\":{k},\"v\":{v},\"g\":{g},\"f\":{}}}\n", row as f64 / 10.0)
        };
        let text: String = (file * 20..file * 20 + 20).map(line).collect();
        place.write(&format!("in/{file}.json"), text);
    }
    place.write("u/0.csv", "k,x\n1,10\n2,20\n");
}

fn run(place: &Place, sql: &str) {
    place.run(&["query", "-q", "--once", "--state", "state", "-c", sql]).data();
}

fn verify(place: &Place, sql: &str) -> Ran {
    place.run(&["verify", "--state", "state", "-c", sql])
}

/// A pipeline that has run three times, with input in between.
fn pipeline() -> Place {
    let place = Place::new();
    write(&place);
    run(&place, SQL);
    place.write("in/5.json", "{\"k\":1,\"v\":100,\"g\":\"new\",\"f\":0.1}\n{\"k\":9,\"v\":1,\"g\":\"\",\"f\":0.3}\n");
    run(&place, SQL);
    place.write("u/1.csv", "k,x\n1,11\n3,30\n");
    run(&place, SQL);
    place
}

#[test]
fn what_is_intact_is_equal() {
    let place = pipeline();
    // It has not been taken.
    place.write("in/7.json", "{\"k\":1,\"v\":1000,\"g\":\"late\",\"f\":1}\n");
    let before = place.files();
    let ran = verify(&place, SQL);
    let text = ran.data();
    assert!(text.contains("equal: 7 statements"), "{text}");
    assert!(text.contains("batch:  ") && text.contains("epochs: ") && text.contains("66 rows read"), "{text}");
    assert!(text.contains("note: what went to the console cannot be read again"), "{text}");
    assert_eq!(place.files(), before, "nothing is written");
    assert_eq!(place.run(&["verify", "-q", "--state", "state", "-c", SQL]).data(), "");
    // And it goes on as if nothing had been.
    run(&place, SQL);
    assert!(verify(&place, SQL).data().contains("equal: 7 statements"));
}

/// What the program said, with its exit code, and without times and sizes.
fn said(ran: &Ran) -> String {
    let text = format!("{}{}exit code {:?}\n", ran.stdout, ran.stderr, ran.code.unwrap_or(-1));
    let times = regex::Regex::new(r"\d+\.\d\d s,").expect("an expression");
    let sizes = regex::Regex::new(r"[0-9.]+ [kMG]?B of").expect("an expression");
    sizes.replace_all(&times.replace_all(&text, "0.00 s,"), "0 B of").into_owned()
}

/// FUSE_BLESS=1 writes `tests/verify/*.txt` anew.
#[test]
fn what_is_said_is_as_it_was() {
    let place = Place::new();
    let sql = "CREATE STREAM s (k BIGINT, v DOUBLE) STORED AS JSON LOCATION 'in/';
        COPY (SELECT k, count(*) AS n, sum(v) AS v FROM s GROUP BY k ORDER BY k) TO 'sums.csv';
        COPY (SELECT k FROM s WHERE v > 1) TO 'rows/' STORED AS CSV;";
    place.write("in/0.json", "{\"k\":1,\"v\":1.5}\n{\"k\":2,\"v\":0.25}\n{\"k\":1,\"v\":0.5}\n");
    run(&place, sql);
    place.write("in/1.json", "{\"k\":3,\"v\":7}\n");
    run(&place, sql);
    let equal = said(&verify(&place, sql));
    place.write("sums.csv", "k,n,v\n1,2,2.0\n2,5,0.25\n2,5,0.25\n3,1,7.0\n");
    let differing = verify(&place, sql);
    assert_eq!(differing.code, Some(1));
    for (name, text) in [("equal", equal), ("differing", said(&differing))] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/verify/{name}.txt"));
        if std::env::var_os("FUSE_BLESS").is_some() {
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(&path, &text).expect("a file");
        }
        assert_eq!(
            text,
            fs::read_to_string(&path).unwrap_or_default(),
            "FUSE_BLESS=1 rewrites tests/verify/{name}.txt"
        );
    }
}

/// A file whose path contains this.
fn file(place: &Place, part: &str) -> PathBuf {
    let files = place.files();
    let found = files.iter().filter(|name| name.contains(part) && !name.contains("/."));
    place.path().join(found.max().unwrap_or_else(|| panic!("no {part} among {files:?}")))
}

#[track_caller]
fn differs(place: &Place, what: &str) -> String {
    let ran = verify(place, SQL);
    let text = format!("{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.code, Some(1), "{what}: {text}");
    assert!(ran.stderr.contains("from the batch"), "{what}: {text}");
    text
}

#[test]
fn a_row_that_is_gone_from_a_file_is_found() {
    for (part, target) in
        [("parts/g=g1/", "parts/"), ("joined/", "joined/"), ("floats.csv", "floats.csv"), ("names.json", "names.json")]
    {
        let place = pipeline();
        let path = file(&place, part);
        let text = fs::read_to_string(&path).expect("reads");
        let kept = text.trim_end().rsplit_once('\n').expect("lines").0;
        fs::write(&path, format!("{kept}\n")).expect("writes");
        let text = differs(&place, part);
        assert!(text.contains(target) && text.contains("of what is shown"), "{text}");
    }
    for part in ["rows/", "sums.parquet"] {
        let place = pipeline();
        let path = file(&place, part);
        change(&path, |rows| rows.slice(1, rows.num_rows() - 1));
        let text = differs(&place, part);
        assert!(text.contains("1 row is missing and 0 too much"), "{part}: {text}");
    }
}

#[test]
fn a_row_that_is_there_twice_or_changed_is_found() {
    let place = pipeline();
    change(&file(&place, "rows/"), |rows| {
        arrow::compute::concat_batches(&rows.schema(), [rows, &rows.slice(0, 1)]).expect("more")
    });
    assert!(differs(&place, "twice").contains("0 rows are missing and 1 too much"));
    let place = pipeline();
    change(&file(&place, "rows/"), |rows| add_one(rows, 1, |row| row == 0));
    assert!(differs(&place, "changed").contains("1 row is missing and 1 too much"));
    let place = pipeline();
    fs::remove_file(file(&place, "sums.parquet")).expect("removes");
    assert!(differs(&place, "no file").contains("sums.parquet"));
}

/// Writes a Parquet file anew with other rows.
fn change(path: &Path, change: impl Fn(&RecordBatch) -> RecordBatch) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(path).expect("opens")).expect("Parquet");
    let batches: Vec<RecordBatch> = reader.build().expect("reads").map(|batch| batch.expect("a batch")).collect();
    let mut writer = ArrowWriter::try_new(Vec::new(), batches[0].schema(), None).expect("a writer");
    for (at, batch) in batches.iter().enumerate() {
        writer.write(&if at == 0 { change(batch) } else { batch.clone() }).expect("writes");
    }
    fs::write(path, writer.into_inner().expect("ends")).expect("writes");
}

/// One more in these rows of a column of numbers.
fn add_one(rows: &RecordBatch, column: usize, places: impl Fn(usize) -> bool) -> RecordBatch {
    let numbers = rows.column(column).as_primitive::<Int64Type>();
    assert!((0..numbers.len()).any(|row| numbers.is_valid(row) && places(row)), "nothing is changed");
    let changed = numbers.iter().enumerate().map(|(at, n)| n.map(|n| n + i64::from(places(at))));
    let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
    columns[column] = Arc::new(changed.collect::<Int64Array>());
    RecordBatch::try_new(rows.schema(), columns).expect("a batch")
}

/// Puts the checksum of a changed segment into the manifests that name it, so that nothing but its content is wrong.
fn reseal(place: &Place, segment: &Path) {
    let bytes = fs::read(segment).expect("reads");
    let name = segment.file_name().expect("a name").to_string_lossy().into_owned();
    for manifest in fs::read_dir(place.path().join("state/checkpoints")).expect("lists") {
        let path = manifest.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("reads");
        let body = text.rsplit_once(",\"crc32\":\"").expect("sealed").0;
        let mut value: serde_json::Value = serde_json::from_str(&format!("{body}}}")).expect("JSON");
        for part in value["parts"].as_object_mut().expect("parts").values_mut() {
            for one in part.as_array_mut().expect("segments").iter_mut().filter(|one| one["file"] == name.as_str()) {
                one["bytes"] = bytes.len().into();
                one["crc32"] = format!("{:08x}", crc32fast::hash(&bytes)).into();
            }
        }
        let mut body = value.to_string();
        body.pop();
        fs::write(&path, format!("{body},\"crc32\":\"{:08x}\"}}\n", crc32fast::hash(body.as_bytes()))).expect("writes");
    }
}

#[test]
fn a_state_that_was_changed_under_a_right_checksum_is_found() {
    let states = pipeline();
    let names: Vec<String> = states.files().into_iter().filter(|name| name.starts_with("state/state/")).collect();
    let kinds = names.iter().filter(|name| name.contains("-node") || name.contains("-sink"));
    let mut tried = 0;
    for name in kinds {
        let place = pipeline();
        // Runs are alike, so the other one has a file of the same name.
        let path = place.path().join(name);
        let reader = ParquetRecordBatchReaderBuilder::try_new(fs::File::open(&path).expect(name)).expect("Parquet");
        // What is only ever added has a weight of 1, whatever is written of it.
        let fields = reader.schema().fields().clone();
        let number = |field: &Arc<Field>| *field.data_type() == DataType::Int64 && field.name() != "__weight";
        let Some(column) = fields.iter().rposition(number) else { continue };
        // All rows: some are out of date, since a later checkpoint has their groups too.
        change(&path, |rows| add_one(rows, column, |_| true));
        reseal(&place, &path);
        differs(&place, name);
        tried += 1;
    }
    assert!(tried >= 4, "{names:?}");
}

#[test]
fn input_that_is_gone_is_told() {
    let place = pipeline();
    fs::remove_file(place.path().join("in/1.json")).expect("removes");
    let error = verify(&place, SQL).error(1);
    assert!(error.contains("in/1.json"), "{error}");

    let place = Place::new();
    let sql = "CREATE STREAM s (a BIGINT) STORED AS CSV LOCATION 'in/'; COPY (SELECT sum(a) AS a FROM s) TO 'sum.csv';";
    let error = verify(&place, sql).error(1);
    assert!(error.contains("there is no state of a pipeline in 'state'"), "{error}");
    let error = place.run(&["verify", "-c", "select 1"]).error(2);
    assert!(error.contains("nothing to verify"), "{error}");
    place.write("in/0.csv", "a\n1\n2\n");
    run(&place, sql);
    let other = sql.replace("sum(a)", "max(a)");
    let error = verify(&place, &other).error(1);
    assert!(error.contains("belongs to another version of this SQL"), "{error}");
    // What was cut, or written anew.
    place.write("in/0.csv", "a\n1\n3\n");
    let ran = verify(&place, sql);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stdout.contains("sum.csv: of what is shown, 1 row is missing and 1 too much"), "{ran:?}");
}

#[test]
fn what_differs_is_printed_and_counted() {
    let place = Place::new();
    let sql = "CREATE STREAM s (a BIGINT, b VARCHAR) STORED AS CSV LOCATION 'in/';
        COPY (SELECT b, sum(a) AS a FROM s GROUP BY b ORDER BY b) TO 'sums.csv'; SELECT count(*) FROM s;";
    place.write("in/0.csv", "a,b\n1,x\n2,x\n5,y\n");
    run(&place, sql);
    let printed = |ran: &Ran| -> String {
        // Seconds and bytes are not the same twice.
        let lines = ran
            .stdout
            .lines()
            .map(|line| line.split_once(": ").filter(|(name, _)| name.len() <= 6).map_or(line, |_| "…"));
        lines.map(|line| format!("{line}\n")).collect()
    };
    let args = ["verify", "--state", "state", "--format", "csv", "-c", sql];
    let equal = place.run(&args);
    let note =
        "note: what went to the console cannot be read again: of its statement the state is checked, and no rows";
    assert!(
        equal.stdout.contains(note) && equal.stdout.ends_with("equal: 2 statements, 3 rows after epoch 1\n"),
        "{equal:?}"
    );
    place.write("sums.csv", "b,a\nx,4\ny,5\n");
    let ran = place.run(&args);
    let expected = "sums.csv: of what is shown, 1 row is missing and 1 too much\n\
        difference,times,b,a\nmissing,1,x,3\ntoo much,1,x,4\n…\n…\n…\n";
    assert_eq!(printed(&ran), expected);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(1), "error: 1 of 2 statements differs from the batch\n"));
    let rows: String = (0..30).map(|row| format!("k{row},1\n")).collect();
    place.write("sums.csv", format!("b,a\n{rows}"));
    let ran = place.run(&args);
    assert!(
        ran.stdout.contains("2 rows are missing and 30 too much") && ran.stdout.contains("and 12 rows more"),
        "{ran:?}"
    );
}

#[test]
fn a_followed_file_is_verified_behind_its_rotation() {
    let place = Place::new();
    let sql = "CREATE STREAM s (a BIGINT) STORED AS JSON LOCATION 'app.log';
        COPY (SELECT a, count(*) AS n FROM s GROUP BY a) TO 'n.parquet';";
    place.write("app.log", "{\"a\":1}\n{\"a\":2}\n");
    run(&place, sql);
    fs::rename(place.path().join("app.log"), place.path().join("app.log.1")).expect("renames");
    place.write("app.log", "{\"a\":2}\n{\"a\":3}\n");
    run(&place, sql);
    let text = verify(&place, sql).data();
    assert!(text.contains("equal: 1 statement, 3 rows"), "{text}");
    fs::remove_file(place.path().join("app.log.1")).expect("removes");
    let error = verify(&place, sql).error(1);
    assert!(error.contains("app.log") && error.contains("gone"), "{error}");
}
