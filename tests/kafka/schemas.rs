//! Values in Avro and Protobuf.
//!
//! Enters: a broker, a stub of a schema registry, and clients that are not fuse's. Leaves: nothing. Always holds: a value
//! is the row that its own schema says, whichever came before it.

use std::path::Path;
use std::process::Command;

use super::broker::{Broker, Script, venv};
use super::{once, rows};
use crate::support::Place;

/// A registry; it ends with the test.
struct Registry {
    _script: Script,
    url: String,
}

impl Registry {
    /// `failures`: so many requests are not answered.
    fn start(failures: u32, password: &str) -> Self {
        let script = Script::start("registry.py", &[&failures.to_string()], &[("REGISTRY_PASSWORD", password)]);
        Self { url: format!("http://127.0.0.1:{}", script.port), _script: script }
    }
}

/// Runs a command of tests/kafka_schemas.py.
#[track_caller]
fn others(broker: &Broker, registry: &Registry, command: &str, topic: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka_schemas.py");
    let mut python = Command::new(venv().join("bin/python"));
    python.arg(script).args([&broker.address(), &registry.url, command, topic]);
    let output = python.output().expect("python, see ./tests/run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A pipeline from a topic to `out/`.
fn pipeline(broker: &Broker, columns: &str, format: &str, options: &str) -> String {
    format!(
        "CREATE STREAM t {columns} STORED AS {format} LOCATION '{}' OPTIONS ({options});
         COPY (SELECT * FROM t) TO 'out/' STORED AS PARQUET;",
        broker.location("t")
    )
}

#[test]
fn avro_is_read_by_the_schema_of_each_value() {
    let (broker, registry, place) = (Broker::start(), Registry::start(2, ""), Place::new());
    broker.run(&["create", "t", "1"], "");
    others(&broker, &registry, "avro", "t");
    let named = format!("'schema_registry' '{}', 'max_rows_per_epoch' '7'", registry.url);
    place.write("p.sql", pipeline(&broker, "", "AVRO", &named));
    once(&place).data();
    let all = "SELECT count(*), sum(id), sum(price), count(name), sum(added), min(at), max(day), count(*) FILTER (ok),
               sum(item.count), sum(len(tags)), count(*) FILTER (kind = 'A') FROM 'out/*.parquet'";
    // Values of the first schema have no `added`.
    assert_eq!(rows(&place, all), "25,300,75.00,16,72.5,2026-01-01T12:00:00.250Z,2026-01-25,13,300,24,13\n");
    // Columns that are declared, in types of one's own.
    let columns = "(id INT, price DOUBLE, added DOUBLE, item STRUCT(sku VARCHAR), kafka_offset BIGINT)";
    place.write("q.sql", pipeline(&broker, columns, "AVRO", &named).replace("'out/'", "'declared/'"));
    place.run(&["query", "q.sql", "--once", "--quiet"]).data();
    let some = "SELECT count(*), sum(price), sum(added), max(item.sku), max(kafka_offset) FROM 'declared/*.parquet'";
    assert_eq!(rows(&place, some), "25,75.0,72.5,s9,24\n");
    let verified = place.run(&["verify", "q.sql"]).data();
    assert!(verified.contains("equal: 1 statement, 25 rows"), "{verified}");
}

#[test]
fn a_value_that_its_schema_does_not_read_is_told_alone() {
    let (broker, registry, place) = (Broker::start(), Registry::start(0, ""), Place::new());
    broker.run(&["create", "t", "1"], "");
    others(&broker, &registry, "wrong", "t");
    let named = format!("'schema_registry' '{}'", registry.url);
    place.write("p.sql", pipeline(&broker, "(id BIGINT)", "AVRO", &named));
    let told = once(&place).error(1);
    assert!(told.contains("t, partition 0, offset 0") && told.contains("number of its schema"), "{told}");
    place.write("p.sql", pipeline(&broker, "(id BIGINT)", "AVRO", &format!("{named}, 'dead_letter' 'dead/'")));
    place.run(&["query", "p.sql", "--once", "--quiet", "--fresh"]).data();
    assert_eq!(rows(&place, "SELECT id FROM 'out/*.parquet'"), "100\n");
    let dead = rows(&place, "SELECT position, payload, reason FROM 'dead/**/*.parquet' ORDER BY position");
    let lines: Vec<&str> = dead.lines().collect();
    assert_eq!(lines.len(), 4, "{dead}");
    assert!(lines[0].starts_with("0,7b7d,") && lines[1].contains("has no schema 9999"), "{dead}");
    assert!(lines[2].contains("ends in the middle") && lines[3].contains("bytes stand behind"), "{dead}");
}

#[test]
fn keys_in_avro_say_what_tombstones_delete() {
    let (broker, registry, place) = (Broker::start(), Registry::start(0, ""), Place::new());
    broker.run(&["create", "t", "1"], "");
    others(&broker, &registry, "keyed", "t");
    place.write(
        "p.sql",
        format!(
            "CREATE STREAM t (k VARCHAR, v INT, PRIMARY KEY (k)) STORED AS AVRO LOCATION '{}'
                 OPTIONS ('schema_registry' '{}');
             COPY (SELECT * FROM t) TO 'now.csv';",
            broker.location("t"),
            registry.url
        ),
    );
    once(&place).data();
    assert_eq!(rows(&place, "SELECT * FROM 'now.csv' ORDER BY k"), "a,3\nc,4\n");
}

#[test]
fn schemas_refer_to_others_and_stand_in_files() {
    let (broker, registry, place) = (Broker::start(), Registry::start(0, ""), Place::new());
    let out = |sql: &str| rows(&place, sql);
    let named = format!("'schema_registry' '{}'", registry.url);
    let run = |topic: &str, columns: &str, format: &str, options: &str| {
        let sql = pipeline(&broker, columns, format, options).replace("/t'", &format!("/{topic}'"));
        place.write("p.sql", sql.replace("'out/'", &format!("'{topic}/'")));
        place.run(&["query", "p.sql", "--once", "--quiet", "--state", &format!("state/{topic}")])
    };
    for topic in ["references", "protobuf", "bare", "bare_protobuf", "json"] {
        broker.run(&["create", topic, "1"], "");
        others(&broker, &registry, topic, topic);
    }
    run("references", "", "AVRO", &named).data();
    assert_eq!(out("SELECT one.sku, two.count FROM 'references/*.parquet'"), "x,2\n");
    run(
        "protobuf",
        "(id BIGINT, name VARCHAR, amount DOUBLE, tags VARCHAR[], paid STRUCT(units BIGINT))",
        "PROTOBUF",
        &named,
    )
    .data();
    let sums = "SELECT count(*), sum(id), max(name), sum(amount), sum(len(tags)), sum(paid.units)";
    assert_eq!(out(&format!("{sums} FROM 'protobuf/*.parquet'")), "5,10,n4,5.0,4,35\n");
    place.write("r.avsc", "{\"type\":\"record\",\"name\":\"R\",\"fields\":[{\"name\":\"a\",\"type\":\"long\"}]}");
    run("bare", "", "AVRO", "'schema_file' 'r.avsc'").data();
    assert_eq!(out("SELECT sum(a) FROM 'bare/*.parquet'"), "10\n");
    place.write(
        "o.proto",
        "syntax = \"proto3\"; package shop; message Other { int64 x = 1; }
         message Order { int64 id = 1; string name = 2; double amount = 3; repeated string tags = 4; }",
    );
    let file = "'schema_file' 'o.proto'";
    run("bare_protobuf", "", "PROTOBUF", &format!("{file}, 'message' 'Order'")).data();
    assert_eq!(out("SELECT sum(id), sum(len(tags)) FROM 'bare_protobuf/*.parquet'"), "10,4\n");
    let told = run("bare_protobuf", "", "PROTOBUF", &format!("{file}, 'message' 'Ordr'")).error(2);
    assert!(told.contains("did you mean shop.Order") || told.contains("shop.Order"), "{told}");
    run("json", "(a INT)", "JSON", &named).data();
    assert_eq!(out("SELECT sum(a) FROM 'json/*.parquet'"), "10\n");
    let told = run("bare", "(a INT)", "AVRO", "'start' 'earliest'").error(2);
    assert!(told.contains("cannot be read without a schema"), "{told}");
}

#[test]
fn rows_are_written_in_avro_once() {
    let (broker, registry, place) = (Broker::start(), Registry::start(0, ""), Place::new());
    broker.run(&["create", "out", "1"], "");
    place.write("in.json", "{\"k\":1,\"v\":\"a\",\"at\":\"2026-01-01T00:00:00\"}\n{\"k\":2,\"v\":null,\"at\":null}\n");
    let columns = "k BIGINT, v VARCHAR, at TIMESTAMP";
    let sql = |key: &str, select: &str| {
        format!(
            "CREATE STREAM ev ({columns}) STORED AS JSON LOCATION 'in.json';
             CREATE EXTERNAL TABLE o ({columns}{key}) STORED AS AVRO LOCATION '{}' OPTIONS ('schema_registry' '{}');
             INSERT INTO o {select};",
            broker.location("out"),
            registry.url
        )
    };
    place.write("p.sql", sql("", "SELECT * FROM ev"));
    once(&place).data();
    once(&place).data();
    let read = others(&broker, &registry, "read", "out");
    assert_eq!(
        read,
        "None {\"k\": 1, \"v\": \"a\", \"at\": \"2026-01-01 00:00:00\"}\nNone {\"k\": 2, \"v\": null, \"at\": null}\n"
    );
    place.write(
        "back.sql",
        pipeline(&broker, "", "AVRO", &format!("'schema_registry' '{}'", registry.url)).replace("/t'", "/out'"),
    );
    place.run(&["query", "back.sql", "--once", "--quiet"]).data();
    assert_eq!(rows(&place, "SELECT k, v, at FROM 'out/*.parquet' ORDER BY k"), "1,a,2026-01-01T00:00:00\n2,,\n");
    broker.run(&["create", "keyed", "1"], "");
    let select = "SELECT k % 2, max(v), max(at) FROM ev GROUP BY k % 2 HAVING max(v) IS NOT NULL";
    place.write("k.sql", sql(", PRIMARY KEY (k)", select).replace("/out'", "/keyed'"));
    place.run(&["query", "k.sql", "--once", "--quiet"]).data();
    assert_eq!(
        others(&broker, &registry, "read", "keyed"),
        "1 {\"k\": 1, \"v\": \"a\", \"at\": \"2026-01-01 00:00:00\"}\n"
    );
    let told = place.sql(&sql("", "SELECT * FROM ev").replace(&registry.url, "http://127.0.0.1:1")).error(1);
    assert!(told.contains("schema registry http://127.0.0.1:1/ does not answer"), "{told}");
}

#[test]
fn the_password_of_a_registry_is_seen_nowhere() {
    let (broker, registry, place) = (Broker::start(), Registry::start(0, "canary"), Place::new());
    broker.run(&["create", "t", "1"], "");
    let named = format!("'schema_registry' '{}', 'schema_registry.user' 'me'", registry.url);
    place.write("p.sql", pipeline(&broker, "", "AVRO", &named));
    let told = once(&place).error(1);
    assert!(told.contains("who are you?"), "{told}");
    place.write("p.sql", pipeline(&broker, "", "AVRO", &format!("{named}, 'schema_registry.password' 'canary'")));
    let told = once(&place).error(2);
    assert!(
        told.contains("does not stand in SQL") && !told.replace(&place.read("p.sql"), "").contains("'canary' is"),
        "{told}"
    );
    place.write("p.sql", pipeline(&broker, "", "AVRO", &format!("{named}, 'schema_registry.password' 'env:SECRET'")));
    let mut command = place.command(&["query", "p.sql", "--once", "--quiet"]);
    let output = command.env("SECRET", "canary").output().expect("runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("has no subject t-value") && !told.contains("canary"), "{told}");
}
