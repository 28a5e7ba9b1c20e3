//! Topics that are written: transactions of epochs, keys, envelopes, and what a kill leaves.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use super::broker::Broker;
use super::{numbers, once};
use crate::support::Place;

/// The messages of a topic that were committed: keys and values, in the order of the offsets of each partition.
pub(crate) fn messages(broker: &Broker, topic: &str) -> Vec<(Option<String>, Option<String>)> {
    let lines = broker.run(&["read", topic], "");
    let message = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let text = |name: &str| message[name].as_str().map(str::to_owned);
        (text("key"), text("value"))
    };
    lines.lines().map(message).collect()
}

/// What is left of keyed messages.
pub(crate) fn held(broker: &Broker, topic: &str) -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    for (key, value) in messages(broker, topic) {
        let key = key.expect("a key");
        match value {
            Some(value) => drop(rows.insert(key, value)),
            None => drop(rows.remove(&key).expect("what is deleted was there")),
        }
    }
    rows
}

#[test]
fn rows_become_messages_once() {
    let broker = Broker::start();
    let place = Place::new();
    place.write("in/1.json", "{\"id\":1,\"s\":\"a\\nb\"}\n{\"id\":2}\n");
    let sql = format!(
        "CREATE STREAM t (id BIGINT, s VARCHAR) STORED AS JSON LOCATION 'in/';
         CREATE EXTERNAL TABLE out (id BIGINT, s VARCHAR) STORED AS JSON LOCATION '{}';
         INSERT INTO out SELECT id, s FROM t;",
        broker.location("made")
    );
    place.write("p.sql", &sql);
    once(&place).data();
    once(&place).data();
    place.write("in/2.json", "{\"id\":3,\"s\":\"c\"}\n");
    once(&place).data();
    let mut values: Vec<String> = messages(&broker, "made").into_iter().filter_map(|(_, value)| value).collect();
    values.sort();
    assert_eq!(values, ["{\"id\":1,\"s\":\"a\\nb\"}", "{\"id\":2,\"s\":null}", "{\"id\":3,\"s\":\"c\"}"]);
    // kcat reads the same.
    let mut read: Vec<String> = broker.kcat(&["-C", "-e", "-t", "made"], "").lines().map(str::to_owned).collect();
    read.sort();
    assert_eq!(read, values);
}

#[test]
fn a_key_holds_the_row_as_it_is() {
    let broker = Broker::start();
    let place = Place::new();
    place.write("in/1.json", "{\"id\":1,\"k\":\"a\",\"n\":1}\n{\"id\":2,\"k\":\"b\",\"n\":5}\n");
    let sql = format!(
        "CREATE STREAM t (id BIGINT PRIMARY KEY, k VARCHAR, n BIGINT) STORED AS JSON LOCATION 'in/' OPTIONS ('op_column' 'op');
         CREATE EXTERNAL TABLE sums (k VARCHAR, n BIGINT, PRIMARY KEY (k)) STORED AS JSON LOCATION '{}';
         CREATE EXTERNAL TABLE told (k VARCHAR, n BIGINT, PRIMARY KEY (k)) STORED AS DEBEZIUM LOCATION '{}';
         INSERT INTO sums SELECT k, sum(n) FROM t GROUP BY k;
         INSERT INTO told SELECT k, sum(n) FROM t GROUP BY k;",
        broker.location("sums"),
        broker.location("told")
    );
    let with_op = |text: &str| text.replace("}\n", ",\"op\":\"c\"}\n");
    place.write("in/1.json", with_op(&place.read("in/1.json")));
    place.write("p.sql", &sql);
    once(&place).data();
    let row = |k: &str, n: i64| (k.to_owned(), format!("{{\"k\":\"{k}\",\"n\":{n}}}"));
    assert_eq!(held(&broker, "sums"), BTreeMap::from([row("a", 1), row("b", 5)]));
    place.write("in/2.json", "{\"id\":3,\"k\":\"a\",\"n\":10,\"op\":\"c\"}\n{\"id\":2,\"op\":\"d\"}\n");
    once(&place).data();
    assert_eq!(held(&broker, "sums"), BTreeMap::from([row("a", 11)]));
    // What was told as envelopes is read back as the same table.
    let back = format!(
        "CREATE STREAM told (k VARCHAR PRIMARY KEY, n BIGINT) STORED AS DEBEZIUM LOCATION '{}';
         COPY (SELECT k, n FROM told) TO 'back.csv';",
        broker.location("told")
    );
    place.write("back.sql", &back);
    place.run(&["query", "back.sql", "--once", "--quiet"]).data();
    assert_eq!(place.read("back.csv"), "k,n\na,11\n");
    let ops: Vec<String> = messages(&broker, "told")
        .into_iter()
        .filter_map(|(_, value)| {
            let value: serde_json::Value = serde_json::from_str(&value?).expect("JSON");
            value["op"].as_str().map(str::to_owned)
        })
        .collect();
    assert_eq!(ops.iter().filter(|op| *op == "u").count(), 1, "{ops:?}");
    // Two rows of one key cannot both be there.
    let wrong = sql.replace("GROUP BY k;", "GROUP BY k, id;").replace("/told'", "/told2'").replace("/sums'", "/sums2'");
    place.write("w.sql", &wrong);
    let error = place.run(&["query", "w.sql", "--once", "--quiet"]).error(1);
    assert!(error.contains("two rows have the same PRIMARY KEY (k): a"), "{error}");
    let unkeyed = sql.replace(", PRIMARY KEY (k)", "");
    place.write("u.sql", &unkeyed);
    let error = place.run(&["check", "u.sql"]);
    let error = if error.code == Some(0) { place.run(&["query", "u.sql", "--once", "--quiet"]) } else { error };
    assert!(error.stderr.contains("the topic sums has no key"), "{error:?}");
}

/// A number that differs from call to call.
fn random(state: &mut u64, below: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state % below
}

#[test]
fn a_reader_and_writer_that_is_killed_loses_and_doubles_nothing() {
    let broker = Broker::start();
    let place = Place::new();
    broker.run(&["create", "in", "2"], "");
    let sql = format!(
        "CREATE STREAM t (n BIGINT) STORED AS JSON LOCATION '{}' OPTIONS ('max_rows_per_epoch' '40');
         CREATE EXTERNAL TABLE copied (n BIGINT) STORED AS JSON LOCATION '{}';
         CREATE EXTERNAL TABLE sums (k BIGINT, c BIGINT, PRIMARY KEY (k)) STORED AS JSON LOCATION '{}';
         INSERT INTO copied SELECT n FROM t;
         INSERT INTO sums SELECT n % 5, count(*) FROM t GROUP BY n % 5;
         COPY (SELECT n FROM t) TO 'files/' STORED AS PARQUET;",
        broker.location("in"),
        broker.location("copied"),
        broker.location("sums")
    );
    place.write("p.sql", &sql);
    let kills: u64 = std::env::var("FUSE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(60).min(60);
    let (mut written, mut state) = (0, 0x9E37_79B9_7F4A_7C15);
    for _ in 0..kills {
        broker.run(&["write", "in"], &numbers(written..written + 60, 2));
        written += 60;
        let mut command = place.command(&["query", "p.sql", "--trigger", "1ms", "--quiet"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
        std::thread::sleep(Duration::from_millis(100 + random(&mut state, 900)));
        if let Some(ended) = child.try_wait().expect("asks") {
            let output = child.wait_with_output().expect("ends");
            panic!("it ended by itself: {ended} {}", String::from_utf8_lossy(&output.stderr));
        }
        child.kill().expect("kills");
        child.wait().expect("ends");
    }
    once(&place).data();
    let mut copied: Vec<u64> = messages(&broker, "copied")
        .into_iter()
        .filter_map(|(_, value)| value?.strip_prefix("{\"n\":")?.strip_suffix('}')?.parse().ok())
        .collect();
    copied.sort_unstable();
    assert_eq!(copied, (0..written).collect::<Vec<_>>());
    let sum = |k: u64| (k.to_string(), format!("{{\"k\":{k},\"c\":{}}}", written / 5));
    assert_eq!(held(&broker, "sums"), (0..5).map(sum).collect());
    assert_eq!(
        super::rows(&place, "SELECT count(*), count(DISTINCT n) FROM 'files/*.parquet'"),
        format!("{written},{written}\n")
    );
    // The commit log, not the files alone, says that nothing was shown twice.
    let verified = place.run(&["verify", "p.sql"]).data();
    assert!(verified.contains("equal"), "{verified}");
}

#[test]
fn the_page_of_the_tour_runs() {
    let broker = Broker::start();
    let place = Place::new();
    broker.run(&["create", "rides", "1"], "");
    let rides =
        "{\"id\": 1, \"station\": \"harbour\", \"minutes\": 12}\n{\"id\": 2, \"station\": \"park\", \"minutes\": 75}\n";
    broker.kcat(&["-P", "-t", "rides"], rides);
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/tour/03_kafka.sql");
    let page = std::fs::read_to_string(page).expect("the page");
    place.write("p.sql", page.replace("localhost:9092", &broker.address()));
    once(&place).data();
    broker.kcat(&["-P", "-t", "rides"], "{\"id\": 3, \"station\": \"park\", \"minutes\": 5}\n");
    once(&place).data();
    let row = |name: &str, rides: u64, minutes: u64| {
        (name.to_owned(), format!("{{\"station\":\"{name}\",\"rides\":{rides},\"minutes\":{minutes}}}"))
    };
    assert_eq!(held(&broker, "stations"), BTreeMap::from([row("harbour", 1, 12), row("park", 2, 80)]));
    let long = "SELECT id, station, kafka_partition, kafka_offset FROM 'out/tour/long_rides/*.parquet'";
    assert_eq!(super::rows(&place, long), "2,park,0,1\n");
}

#[test]
fn rows_at_rest_are_one_transaction() {
    let broker = Broker::start();
    let place = Place::new();
    let table = |name: &str, format: &str, key: &str| {
        let location = broker.location(name);
        format!("CREATE EXTERNAL TABLE {name} (id BIGINT, s VARCHAR{key}) STORED AS {format} LOCATION '{location}';\n")
    };
    let plain = table("plain", "JSON", "");
    let rows = "SELECT value, 'row ' || value FROM generate_series(1, 30000)";
    place.sql(&format!("{plain} INSERT INTO plain {rows}")).data();
    // One that ends with an error has written nothing, and what comes behind it is read at once.
    let wrong = format!("{plain} INSERT INTO plain SELECT 1 / (30000 - value), '' FROM generate_series(1, 30000)");
    place.sql(&wrong).error(1);
    place.sql(&format!("{plain} INSERT INTO plain VALUES (30001, NULL)")).data();
    let values: Vec<_> = messages(&broker, "plain").into_iter().map(|(_, value)| value.expect("a value")).collect();
    assert_eq!(values.len(), 30001);
    assert!(values.contains(&"{\"id\":7,\"s\":\"row 7\"}".to_owned()));
    assert_eq!(values.last().map(String::as_str), Some("{\"id\":30001,\"s\":null}"));
    // Under a key the last row is the one that holds; envelopes tell each.
    let (keyed, told) = (table("keyed", "JSON", ", PRIMARY KEY (id)"), table("told", "DEBEZIUM", ""));
    place
        .sql(&format!("{keyed} INSERT INTO keyed VALUES (1, 'a'), (2, 'b'); INSERT INTO keyed VALUES (1, 'c')"))
        .data();
    let row = |k: &str, s: &str| (k.to_owned(), format!("{{\"id\":{k},\"s\":\"{s}\"}}"));
    assert_eq!(held(&broker, "keyed"), BTreeMap::from([row("1", "c"), row("2", "b")]));
    place.sql(&format!("{told} INSERT INTO told VALUES (1, 'a')")).data();
    let envelope = messages(&broker, "told").remove(0).1.expect("a value");
    assert!(envelope.starts_with("{\"before\":null,\"after\":{\"id\":1,\"s\":\"a\"},\"op\":\"c\""), "{envelope}");
    // A key has to be there; a topic is only added to.
    let null = place.sql(&format!("{keyed} INSERT INTO keyed VALUES (NULL, 'a')")).error(1);
    assert!(null.contains("id is NULL, and in the PRIMARY KEY"), "{null}");
}
