//! Delta Lake tables.
//!
//! Enters: the program, files of JSON, SIGKILL and failpoints; a reader of a few lines of Python replays the log, and
//! so does the library of others. Leaves: nothing. Always holds: each version of a table is the answer after some epoch.

use std::path::Path;
use std::process::Command;

#[cfg(feature = "failpoints")]
use super::fails_and_goes_on;
use super::sqlite::python;
use super::{ROWS, input, killed};
use crate::support::{Place, Ran};

const SQL: &str = "
    CREATE STREAM ev (id BIGINT, f BIGINT) STORED AS JSON LOCATION 'in/' OPTIONS ('max_files_per_epoch' '2');
    CREATE EXTERNAL TABLE ids (id BIGINT, f BIGINT) STORED AS DELTA LOCATION 'lake/ids';
    CREATE EXTERNAL TABLE agg (g BIGINT, n BIGINT, most BIGINT, PRIMARY KEY (g)) STORED AS DELTA LOCATION 'lake/agg';
    CREATE EXTERNAL TABLE last (id BIGINT, g BIGINT, PRIMARY KEY (id)) STORED AS DELTA PARTITIONED BY (g)
        LOCATION 'lake/last' OPTIONS ('compact_every' '3');
    INSERT INTO ids SELECT id, f FROM ev;
    INSERT INTO agg SELECT id % 17, count(*), max(id) FROM ev GROUP BY id % 17;
    INSERT INTO last SELECT id, id % 17 FROM ev QUALIFY row_number() OVER (PARTITION BY id % 17 ORDER BY id DESC) = 1;";

/// Replays the log of a table and shows the rows of its files: nothing but JSON and Parquet.
const READER: &str = "
import json, os, sys, urllib.parse
import pyarrow as pa, pyarrow.parquet as pq
def table(path):
    files, parts, schema, log = {}, [], None, os.path.join(path, '_delta_log')
    for name in sorted(name for name in os.listdir(log) if name.endswith('.json') and name[:20].isdigit()):
        for line in open(os.path.join(log, name)):
            action = json.loads(line)
            if 'metaData' in action:
                parts = action['metaData']['partitionColumns']
                schema = [field['name'] for field in json.loads(action['metaData']['schemaString'])['fields']]
            if 'add' in action: files[action['add']['path']] = action['add']
            if 'remove' in action: files.pop(action['remove']['path'])
    rows = []
    for name, add in files.items():
        assert 'deletionVector' not in add or add['deletionVector'] is None
        for row in pq.ParquetFile(os.path.join(path, urllib.parse.unquote(name))).read().to_pylist():
            for part in parts: row[part] = int(add['partitionValues'][part])
            rows.append(tuple(row[column] for column in schema))
    return sorted(rows)
";

/// The rows of a table by that reader, in order.
fn read(place: &Place, table: &str) -> String {
    python(place, &format!("{READER}\nfor row in table('lake/{table}'): print(*row, sep=',')"))
}

/// Ends Python as the library's threads, which may still run, cannot.
const LEAVE: &str = "import os, sys\nsys.stdout.flush()\nos._exit(0)";

/// The same by the library of others.
fn read_by_library(place: &Place, table: &str) -> String {
    python(
        place,
        &format!(
            "import deltalake\nt = deltalake.DeltaTable('lake/{table}').to_pyarrow_table()
for row in sorted(tuple(row.values()) for row in t.to_pylist()): print(*row, sep=',')
{LEAVE}"
        ),
    )
}

fn once(place: &Place, failpoints: &str) -> Ran {
    let mut command = place.command(&["query", "p.sql", "--once", "--quiet"]);
    Ran::from(command.env("FAILPOINTS", failpoints).output().expect("runs"))
}

/// The rows of a query by fuse over all input, without a header.
fn batch(place: &Place, sql: &str) -> String {
    let data =
        place.sql(&format!("CREATE EXTERNAL TABLE ev (id BIGINT, f BIGINT) STORED AS JSON LOCATION 'in/'; {sql}"));
    data.data().split_once('\n').expect("a header").1.to_owned()
}

const TABLES: [(&str, &str); 3] = [
    ("ids", "SELECT id, f FROM ev ORDER BY id, f"),
    ("agg", "SELECT id % 17 AS g, count(*), max(id) FROM ev GROUP BY 1 ORDER BY 1"),
    ("last", "SELECT max(id) AS id, id % 17 FROM ev GROUP BY id % 17 ORDER BY 1"),
];

/// What is wrong with the tables, if anything is.
fn mistakes(place: &Place) -> Vec<String> {
    let differs = |(table, sql): &&(&str, &str)| read(place, table) != batch(place, sql);
    TABLES.iter().filter(differs).map(|(table, _)| (*table).to_owned()).collect()
}

#[test]
fn a_table_holds_the_answer_after_each_run() {
    let place = Place::new();
    place.write("p.sql", SQL);
    for round in 0..4 {
        input(&place, round * 2);
        input(&place, round * 2 + 1);
        once(&place, "").data();
        assert_eq!(mistakes(&place), Vec::<String>::new(), "round {round}");
    }
    assert_eq!(once(&place, "").data(), "");
    for (table, sql) in TABLES {
        let rows = batch(&place, sql);
        assert_eq!(read_by_library(&place, table), rows, "{table}");
        let data = place.sql(&format!("SELECT * FROM 'lake/{table}/' ORDER BY 1")).data();
        assert_eq!(data.split_once('\n').expect("a header").1, rows, "{table}");
    }
    let verdict = place.run(&["verify", "p.sql"]).data();
    assert!(verdict.contains("equal: 3 statements"), "{verdict}");
}

#[test]
fn nothing_is_lost_or_doubled_however_often_it_is_killed() {
    let kills = std::env::var("FUSE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(40).min(60);
    let place = Place::new();
    place.write("p.sql", SQL);
    input(&place, 0);
    once(&place, "").data();
    // Whole files of rows, however many.
    let torn = || python(&place, &format!("{READER}\nprint(sum(row[1] for row in table('lake/agg')) % {ROWS})"));
    killed(&place, kills, (100, 700), || place.command(&["query", "p.sql", "--trigger", "1ms"]), torn);
    once(&place, "").data();
    assert_eq!(mistakes(&place), Vec::<String>::new());
}

#[test]
#[cfg(feature = "failpoints")]
fn each_durable_step_may_fail() {
    let of_lake = include_str!("../../src/database/delta.rs");
    let own = of_lake.split("step(\"").skip(1).filter_map(|rest| rest.split('"').next());
    for step in super::sqlite::STEPS.into_iter().chain(own) {
        for action in ["exit", "error"] {
            let place = Place::new();
            place.write("p.sql", SQL);
            fails_and_goes_on(&place, step, action, &|failpoints| once(&place, failpoints));
            assert_eq!(mistakes(&place), Vec::<String>::new(), "{step} {action}");
        }
    }
}

/// The files of data in the folder of a table.
fn data_files(folder: &Path) -> usize {
    let output = Command::new("find").arg(folder).args(["-name", "*.parquet"]).output().expect("finds");
    String::from_utf8_lossy(&output.stdout).lines().filter(|line| !line.contains("_delta_log")).count()
}

#[test]
fn small_files_are_put_together_and_old_ones_go() {
    let place = Place::new();
    place.write(
        "p.sql",
        "CREATE STREAM ev (id BIGINT, f BIGINT) STORED AS JSON LOCATION 'in/' OPTIONS ('max_files_per_epoch' '1');
         CREATE EXTERNAL TABLE ids (id BIGINT, f BIGINT) STORED AS DELTA LOCATION 'lake/ids'
             OPTIONS ('compact_every' '5', 'vacuum_after' '0s');
         INSERT INTO ids SELECT id, f FROM ev;",
    );
    (0..25).for_each(|number| input(&place, number));
    once(&place, "").data();
    assert_eq!(read(&place, "ids"), batch(&place, "SELECT id, f FROM ev ORDER BY id"));
    let files = data_files(&place.path().join("lake/ids"));
    assert!(files < 12, "{files} files");
}

#[test]
fn a_table_is_read_at_a_version_or_time() {
    let place = Place::new();
    let declared = "CREATE EXTERNAL TABLE t (k BIGINT, v VARCHAR) STORED AS DELTA LOCATION 'lake/t';";
    place.sql(&format!("{declared} INSERT INTO t VALUES (1, 'a'), (2, 'b');")).data();
    let between = place.sql("SELECT now()::TIMESTAMP::VARCHAR AS t").data().lines().nth(1).expect("a row").to_owned();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    place.sql("CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION 'lake/t'; INSERT INTO t VALUES (3, 'c');").data();
    let ask = |sql: &str| place.sql(sql).data();
    assert_eq!(ask("SELECT count(*) AS n FROM 'lake/t/'"), "n\n3\n");
    assert_eq!(ask("SELECT count(*) AS n FROM 'lake/t/' VERSION AS OF 1"), "n\n2\n");
    assert_eq!(ask("SELECT count(*) AS n FROM 'lake/t/' VERSION AS OF 0"), "n\n0\n");
    assert_eq!(ask(&format!("SELECT count(*) AS n FROM 'lake/t/' TIMESTAMP AS OF '{between}'")), "n\n2\n");
    let table = "CREATE EXTERNAL TABLE t STORED AS DELTA LOCATION 'lake/t'";
    assert_eq!(ask(&format!("{table}; SELECT max(t.v) AS v FROM t VERSION AS OF 1 WHERE t.k < 9")), "v\nb\n");
    assert_eq!(ask(&format!("{table} OPTIONS ('version' '1'); SELECT max(v) AS v FROM t")), "v\nb\n");
    let joined = "SELECT count(*) AS n FROM t AS new LEFT ANTI JOIN t VERSION AS OF 1 AS old ON new.k = old.k";
    assert_eq!(ask(&format!("{table}; {joined}")), "n\n1\n");
    let wrong = place.sql("SELECT * FROM 'lake/t/' VERSION AS OF 9").error(1);
    assert!(wrong.contains("lake/t") && wrong.contains('9'), "{wrong}");
    let wrong = place.sql("CREATE TABLE m (k INT); SELECT * FROM m VERSION AS OF 9").error(2);
    assert!(wrong.contains("m has no versions"), "{wrong}");
}

#[test]
fn types_come_back_and_others_are_refused() {
    let place = Place::new();
    let values = "SELECT 1::TINYINT AS a, 2::BIGINT UNSIGNED AS b, 1.5::REAL AS c, 2.25 AS d, 12.34::DECIMAL(9,2) AS e,
        true AS f, DATE '2024-02-29' AS g, TIMESTAMP '2024-02-29 12:00:00.123456' AS h,
        TIMESTAMPTZ '2024-02-29 12:00:00Z' AS i, 'text' AS j, X'00ff' AS k, [1, 2] AS l, {'m': 1, 'n': 'x'} AS m,
        NULL::BIGINT AS o";
    place.write("p.sql", format!("COPY ({values}) TO 'v.parquet'"));
    place.run(&["query", "p.sql"]).data();
    let columns = "a TINYINT, b DECIMAL(20,0), c REAL, d DOUBLE, e DECIMAL(9,2), f BOOLEAN, g DATE, h TIMESTAMP(6),
        i TIMESTAMP(6) WITH TIME ZONE, j VARCHAR, k BYTEA, l BIGINT[], m STRUCT(m BIGINT, n VARCHAR), o BIGINT";
    let made = format!("CREATE EXTERNAL TABLE t ({columns}) STORED AS DELTA LOCATION 'lake/t'");
    place.sql(&format!("{made}; INSERT INTO t SELECT * FROM 'v.parquet'")).data();
    let rows = |from: &str| place.sql(&format!("SELECT * FROM '{from}'")).data();
    assert_eq!(rows("lake/t/"), rows("v.parquet"));
    let wrong = place.sql(
        "CREATE EXTERNAL TABLE w (a TIME) STORED AS DELTA LOCATION 'lake/w'; INSERT INTO w VALUES (TIME '10:00:00')",
    );
    let wrong = wrong.error(2);
    assert!(wrong.contains("Delta has no type for the column a"), "{wrong}");
    let wrong = place.sql("CREATE EXTERNAL TABLE w STORED AS DELTA LOCATION 'lake/none'").error(1);
    assert!(wrong.contains("there is no Delta table in"), "{wrong}");
}

#[test]
fn a_key_has_one_row() {
    let place = Place::new();
    let table = "CREATE EXTERNAL TABLE t (k BIGINT, v VARCHAR, PRIMARY KEY (k)) STORED AS DELTA LOCATION 'lake/t';";
    let insert = |rows: &str| place.sql(&format!("{table} INSERT INTO t VALUES {rows}"));
    insert("(1, 'a'), (2, 'b')").data();
    for rows in ["(3, 'c'), (2, 'x')", "(4, 'd'), (4, 'e')"] {
        let told = insert(rows).error(1);
        assert!(told.contains("would be in") && told.contains("PRIMARY KEY is (k)"), "{told}");
    }
    assert_eq!(place.sql("SELECT count(*) AS n FROM 'lake/t/'").data(), "n\n2\n");
    // In a pipeline whose rows only come.
    place.write("in.json", "{\"k\":5}\n");
    place.write(
        "p.sql",
        format!(
            "{table} CREATE STREAM ev (k BIGINT) STORED AS JSON LOCATION 'in.json'; INSERT INTO t SELECT k, 'x' FROM ev"
        ),
    );
    once(&place, "").data();
    place.write("in.json", "{\"k\":5}\n{\"k\":1}\n");
    let told = once(&place, "").error(1);
    assert!(told.contains("the key (1) would be in"), "{told}");
    let other = "CREATE EXTERNAL TABLE t (k BIGINT, v VARCHAR, PRIMARY KEY (v)) STORED AS DELTA LOCATION 'lake/t'";
    let told = place.sql(other).error(2);
    assert!(told.contains("another key"), "{told}");
}

#[test]
fn rows_that_are_gone_are_told_and_fresh_begins_anew() {
    let place = Place::new();
    place.write("p.sql", SQL);
    input(&place, 0);
    once(&place, "").data();
    std::fs::remove_dir_all(place.path().join("lake/agg")).expect("removes");
    input(&place, 1);
    let told = once(&place, "").error(1);
    assert!(told.contains("up to epoch 1 are gone"), "{told}");
    let fresh = place.run(&["query", "p.sql", "--once", "--quiet", "--fresh"]);
    fresh.data();
    assert_eq!(mistakes(&place), Vec::<String>::new());
    let other = "CREATE EXTERNAL TABLE ids STORED AS DELTA LOCATION 'lake/ids'; INSERT INTO ids VALUES (-1, 0)";
    place.sql(other).data();
    let told = place.run(&["query", "p.sql", "--once", "--quiet", "--fresh"]).error(1);
    assert!(told.contains("holds rows of others"), "{told}");
}

const FOLLOWING: &str = "
    CREATE STREAM t STORED AS DELTA LOCATION 'lake/t';
    CREATE EXTERNAL TABLE sums (g BIGINT, n BIGINT, s BIGINT, PRIMARY KEY (g)) STORED AS DELTA LOCATION 'lake/sums';
    INSERT INTO sums SELECT k % 5, count(*), sum(v) FROM t GROUP BY k % 5;
    COPY (SELECT count(*) AS n, sum(v) AS s FROM t) TO 'total.parquet';";

/// What the library of others does to a table.
fn by_others_at(place: &Place, table: &str, what: &str) {
    python(place, &format!("import deltalake, pyarrow as pa\nt = deltalake.DeltaTable('{table}')\n{what}\n{LEAVE}"));
}

fn by_others(place: &Place, what: &str) {
    by_others_at(place, "lake/t", what);
}

fn following(place: &Place, failpoints: &str) -> Ran {
    let mut command = place.command(&["query", "p.sql", "--once", "--quiet"]);
    Ran::from(command.env("FAILPOINTS", failpoints).output().expect("runs"))
}

#[test]
fn what_others_change_is_followed() {
    let place = Place::new();
    python(
        &place,
        "import deltalake, pyarrow as pa
deltalake.write_deltalake('lake/t', pa.table({'k': list(range(100)), 'v': list(range(100))}))
deltalake.write_deltalake('lake/t', pa.table({'k': [100, 101], 'v': [1, 2]}), mode='append')",
    );
    place.write("p.sql", FOLLOWING);
    let changes = [
        "",
        "t.delete('k < 10')",
        "t.update(updates={'v': 'v + 1000'}, predicate='k % 7 = 0')",
        "deltalake.write_deltalake(t, pa.table({'k': [7, 500, 501], 'v': [1, 2, 3]}), mode='append')",
        "t.optimize.compact()",
        "(t.merge(pa.table({'k': [20, 900], 'v': [5, 6]}), 't.k = s.k', source_alias='s', target_alias='t')
.when_matched_update_all().when_not_matched_insert_all().execute())",
        "t.delete('k = 900')\nt.delete('k = 901')\nt.update(updates={'v': '0'}, predicate='k = 20')",
        "t.alter.add_columns([deltalake.Field('w', deltalake.schema.PrimitiveType('long'), True)])",
        "t.delete()",
        "deltalake.write_deltalake(t, pa.table({'k': [1, 2], 'v': [3, 4], 'w': [5, 6]}), mode='append')",
    ];
    for change in changes {
        by_others(&place, change);
        following(&place, "").data();
        let sums =
            place.sql("SELECT k % 5 AS g, count(*) AS n, sum(v) AS s FROM 'lake/t/' GROUP BY 1 ORDER BY 1").data();
        assert_eq!(place.sql("SELECT * FROM 'lake/sums/' ORDER BY 1").data(), sums, "{change}");
        let total = place.sql("SELECT count(*) AS n, sum(v) AS s FROM 'lake/t/'").data();
        assert_eq!(place.sql("SELECT * FROM 'total.parquet'").data(), total, "{change}");
    }
    let verdict = place.run(&["verify", "p.sql"]).data();
    assert!(verdict.contains("equal: 2 statements"), "{verdict}");
    by_others(
        &place,
        "deltalake.write_deltalake(t, pa.table({'k': ['x']}), mode='overwrite', schema_mode='overwrite')",
    );
    let told = following(&place, "").error(1);
    assert!(told.contains("column k") && told.contains("--fresh"), "{told}");
}

/// A table of ten rows whose first commit is behind: then a commit that marks some of them as gone, and one that marks
/// more, each in a bitmap within the log (the portable form of 64-bit Roaring bitmaps, in Z85).
const MARKED: &str = r#"
import json, os, struct, sys
import pyarrow as pa, pyarrow.parquet as pq
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
def z85(data):
    text = ""
    for at in range(0, len(data), 4):
        number, part = int.from_bytes(data[at:at + 4], "big"), ""
        for _ in range(5): number, part = number // 85, DIGITS[number % 85] + part
        text += part
    return text
def marks(rows):
    bitmap = struct.pack("<IIHHI", 12346, 1, 0, len(rows) - 1, 16) + b"".join(struct.pack("<H", row) for row in rows)
    data = struct.pack("<IQI", 1681511377, 1, 0) + bitmap
    padded = data + b"\0" * (-len(data) % 4)
    return {"storageType": "i", "pathOrInlineDv": z85(padded), "sizeInBytes": len(data), "cardinality": len(rows)}
def commit(version, *actions):
    os.makedirs("lake/t/_delta_log", exist_ok=True)
    with open(f"lake/t/_delta_log/{version:020}.json", "w") as file:
        for action in actions: file.write(json.dumps(action) + "\n")
def add(mark=None):
    size = os.path.getsize("lake/t/a.parquet")
    file = {"path": "a.parquet", "partitionValues": {}, "size": size, "modificationTime": 0, "dataChange": True,
            "stats": json.dumps({"numRecords": 10})}
    return {"add": file | ({"deletionVector": mark} if mark else {})}
def remove(mark=None):
    file = {"path": "a.parquet", "deletionTimestamp": 0, "dataChange": True}
    return {"remove": file | ({"deletionVector": mark} if mark else {})}
version = int(sys.argv[1])
if version == 0:
    os.makedirs("lake/t")
    pq.write_table(pa.table({"k": list(range(10)), "v": list(range(100, 110))}), "lake/t/a.parquet")
    fields = [{"name": name, "type": "long", "nullable": True, "metadata": {}} for name in "kv"]
    commit(0, {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors"],
                            "writerFeatures": ["deletionVectors"]}},
           {"metaData": {"id": "t", "format": {"provider": "parquet", "options": {}}, "partitionColumns": [],
                         "schemaString": json.dumps({"type": "struct", "fields": fields}),
                         "configuration": {"delta.enableDeletionVectors": "true"}, "createdTime": 0}}, add())
elif version == 1: commit(1, remove(), add(marks([1, 5])))
else: commit(2, remove(marks([1, 5])), add(marks([0, 1, 5, 9])))
"#;

#[test]
fn rows_that_are_marked_as_gone_are() {
    let place = Place::new();
    place.write("p.sql", FOLLOWING);
    for (version, total) in ["10,1045", "8,839", "6,630"].into_iter().enumerate() {
        python(&place, &MARKED.replace("sys.argv[1]", &version.to_string()));
        following(&place, "").data();
        let rows = place.sql("SELECT count(*) AS n, sum(v) AS s FROM 'lake/t/'").data();
        assert_eq!(rows, format!("n,s\n{total}\n"));
        assert_eq!(place.sql("SELECT * FROM 'total.parquet'").data(), rows);
    }
    let before = "SELECT k FROM 'lake/t/' VERSION AS OF 1 WHERE k < 6 ORDER BY k";
    assert_eq!(place.sql(before).data(), "k\n0\n2\n3\n4\n");
}

#[test]
fn more_rows_than_memory_holds_are_inserted() {
    let place = Place::new();
    let table = "CREATE EXTERNAL TABLE t (k BIGINT, s VARCHAR) STORED AS DELTA LOCATION 'lake/t'";
    // As text some 500 MB.
    let rows = "SELECT value AS k, repeat('some text ', 10) || value AS s FROM generate_series(1, 4000000)";
    let insert = format!("{table}; INSERT INTO t {rows}");
    let ran = place.run(&["query", "-q", "--memory-limit", "200MB", "--format", "csv", "-c", &insert]);
    ran.data();
    let read = "SELECT count(*) AS n, sum(k) AS s, count(DISTINCT k % 1000) AS d FROM 'lake/t/'";
    assert_eq!(place.sql(read).data(), "n,s,d\n4000000,8000002000000,1000\n");
    // One that fails adds nothing.
    let wrong = format!("{table}; INSERT INTO t SELECT 1 / (2000000 - value), '' FROM generate_series(1, 3000000)");
    let told = place.sql(&wrong).error(1);
    assert!(told.to_lowercase().contains("divi"), "{told}");
    assert_eq!(place.sql(read).data(), "n,s,d\n4000000,8000002000000,1000\n");
}

#[test]
fn a_table_whose_rows_only_come_has_a_watermark() {
    let place = Place::new();
    let append = |minutes: [u32; 2]| {
        let times = minutes.map(|minute| format!("datetime.datetime(2026, 1, 1, 10, {minute})")).join(", ");
        python(
            &place,
            &format!(
                "import datetime, deltalake, pyarrow as pa
ts = pa.array([{times}], pa.timestamp('us'))
deltalake.write_deltalake('lake/t', pa.table({{'ts': ts, 'v': [1, 1]}}), mode='append')"
            ),
        );
    };
    append([1, 2]);
    let sql = |options: &str| {
        format!(
            "CREATE STREAM t (ts TIMESTAMP(6), v BIGINT, WATERMARK FOR ts AS ts - INTERVAL '1 minute') STORED AS DELTA
                 LOCATION 'lake/t' {options};
             CREATE EXTERNAL TABLE out (start TIMESTAMP, n BIGINT) STORED AS PARQUET LOCATION 'out/';
             INSERT INTO out SELECT window_start, count(*) FROM TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '5 minutes')
                 GROUP BY window_start EMIT FINAL;"
        )
    };
    place.write("p.sql", sql(""));
    let told = following(&place, "").error(2);
    assert!(told.contains("append_only"), "{told}");
    place.write("p.sql", sql("OPTIONS ('append_only' 'true')"));
    following(&place, "").data();
    append([4, 7]);
    append([8, 13]);
    following(&place, "").data();
    let counts = place.sql("SELECT n FROM 'out/' ORDER BY start").data();
    assert_eq!(counts, "n\n3\n2\n");
    by_others(&place, "t.delete('v = 1')");
    let told = following(&place, "").error(1);
    assert!(told.contains("deletes or changes rows"), "{told}");
}

#[test]
fn a_lake_is_the_history_of_a_stream() {
    let place = Place::new();
    place
        .sql(
            "CREATE EXTERNAL TABLE h (id BIGINT, f BIGINT) STORED AS DELTA LOCATION 'lake/h' PARTITIONED BY (f);
         INSERT INTO h SELECT value AS id, value % 3 AS f FROM range(0, 100) AS t(value);",
        )
        .data();
    for (name, seam, rows) in [("up", "UP TO id < 60", "120,7140\n"), ("by", "DEDUPLICATE BY (id)", "120,7140\n")] {
        let lines =
            |range: std::ops::Range<u64>| range.map(|id| format!("{{\"id\":{id},\"f\":9}}\n")).collect::<String>();
        place.write(&format!("{name}/a.json"), lines(50..110));
        place.write(
            "p.sql",
            format!(
                "CREATE STREAM ev (id BIGINT, f BIGINT, more VARCHAR) STORED AS JSON LOCATION '{name}/'
                     BACKFILL FROM 'lake/h/' {seam};
                 COPY (SELECT count(*) AS n, sum(id) AS s FROM ev) TO '{name}.csv';"
            ),
        );
        let run = || place.run(&["query", "p.sql", "--once", "--quiet", "--state", &format!("state/{name}")]);
        run().data();
        place.sql("CREATE EXTERNAL TABLE h STORED AS DELTA LOCATION 'lake/h'; INSERT INTO h VALUES (-5, 0)").data();
        place.write(&format!("{name}/b.json"), lines(110..120));
        run().data();
        assert_eq!(place.read(&format!("{name}.csv")), format!("n,s\n{rows}"), "{seam}");
        // For the next: as it was.
        by_others_at(&place, "lake/h", "t.restore(1)");
    }
}
