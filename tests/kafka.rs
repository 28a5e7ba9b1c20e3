//! Topics of Kafka, read and written.
//!
//! Enters: a broker that speaks Kafka's protocol, and clients that are not fuse's: confluent-kafka and kcat, which
//! ./tests/run installs. Leaves: nothing; the broker ends with the test. Always holds: what was committed to a topic is
//! read once, whatever stops meanwhile; an offset that is gone is an error.

pub(crate) mod broker;
mod door;
mod schemas;
pub(crate) mod sink;

use crate::support::{Place, Ran};

use broker::Broker;

/// Numbers as messages, each in partition `number % partitions`.
fn numbers(range: std::ops::Range<u64>, partitions: u64) -> String {
    let line = |n: u64| {
        let partition = n % partitions;
        format!("{{\"value\":\"{{\\\"n\\\":{n}}}\",\"key\":\"k{n}\",\"partition\":{partition}}}\n")
    };
    range.map(line).collect()
}

/// The same in one partition, with a second between their times.
fn numbers_in_time(range: std::ops::Range<u64>) -> String {
    let timed =
        |n: u64| numbers(n..n + 1, 1).replace("}\n", &format!(",\"timestamp\":{}}}\n", 1_700_000_000_000 + n * 1000));
    range.map(timed).collect()
}

fn once(place: &Place) -> Ran {
    place.run(&["query", "p.sql", "--once", "--quiet"])
}

/// All rows that were written to a folder, without the header.
fn rows(place: &Place, sql: &str) -> String {
    let data = place.sql(sql).data();
    data.split_once('\n').map_or(String::new(), |(_, rows)| rows.to_owned())
}

#[test]
fn a_topic_is_read_from_where_it_was_left() {
    let broker = Broker::start();
    let place = Place::new();
    broker.run(&["create", "t", "2"], "");
    broker.run(&["write", "t"], &numbers(0..1000, 2));
    place.write(
        "p.sql",
        format!(
            "CREATE STREAM t (n BIGINT, kafka_partition INT, kafka_offset BIGINT, kafka_key VARCHAR,
                 kafka_timestamp TIMESTAMP, kafka_topic VARCHAR, kafka_headers VARCHAR)
                 STORED AS JSON LOCATION '{}' OPTIONS ('max_rows_per_epoch' '300', 'group' 'shown');
             COPY (SELECT * FROM t) TO 'out/' STORED AS PARQUET;",
            broker.location("t")
        ),
    );
    once(&place).data();
    let sums = "SELECT count(*), count(DISTINCT n), sum(n) FROM 'out/*.parquet'";
    assert_eq!(rows(&place, sums), "1000,1000,499500\n");
    let beside = "SELECT n, kafka_partition, kafka_offset, kafka_key, kafka_timestamp > TIMESTAMP '2025-01-01' AS new,
                  kafka_topic, kafka_headers FROM 'out/*.parquet' WHERE n = 7";
    assert_eq!(rows(&place, beside), "7,1,3,k7,true,t,{}\n");
    assert_eq!(broker.run(&["group", "shown", "t"], ""), "{\"0\": 500, \"1\": 500}\n");
    // What comes while it stands still, also in a partition that is new.
    broker.run(&["write", "t"], &numbers(1000..1100, 2));
    broker.run(&["partitions", "t", "3"], "");
    let third = numbers(1100..1110, 1).replace("\"partition\":0", "\"partition\":2,\"headers\":{\"h\":\"x\"}");
    broker.run(&["write", "t"], &third);
    once(&place).data();
    assert_eq!(rows(&place, sums), "1110,1110,615495\n");
    let headers = "SELECT DISTINCT kafka_partition, kafka_headers FROM 'out/*.parquet' WHERE n >= 1100";
    assert_eq!(rows(&place, headers), "2,\"{\"\"h\"\":\"\"x\"\"}\"\n");
    let verified = place.run(&["verify", "p.sql"]).data();
    assert!(verified.contains("equal: 1 statement, 1,110 rows"), "{verified}");
    let told = place.run(&["inspect", ".fuse/p"]).data();
    assert!(told.contains("550"), "{told}");
}

#[test]
fn compressed_messages_are_read() {
    let broker = Broker::start();
    let place = Place::new();
    broker.run(&["create", "t", "1"], "");
    for (at, codec) in ["gzip", "snappy", "lz4", "zstd"].into_iter().enumerate() {
        let from = at as u64 * 500;
        broker.run(&["write", "t", codec], &numbers(from..from + 500, 1));
    }
    place.write(
        "p.sql",
        format!(
            "CREATE STREAM t (n BIGINT) STORED AS JSON LOCATION '{}';
             COPY (SELECT count(DISTINCT n) AS n, sum(n) AS s FROM t) TO 'sum.csv';",
            broker.location("t")
        ),
    );
    once(&place).data();
    assert_eq!(place.read("sum.csv"), "n,s\n2000,1999000\n");
}

#[test]
fn only_what_was_committed_is_read() {
    let broker = Broker::start();
    let place = Place::new();
    broker.run(&["create", "t", "1"], "");
    let sql = format!(
        "CREATE STREAM t (n BIGINT) STORED AS JSON LOCATION '{}';
         COPY (SELECT sum(n) AS s, count(*) AS c FROM t) TO 'sum.csv';",
        broker.location("t")
    );
    place.write("p.sql", &sql);
    let line = |n: u64| numbers(n..n + 1, 1);
    let open = format!("{}commit\n{}abort\n{}commit\n{}", line(1), line(100), line(2), line(1000));
    broker.run(&["transact", "t"], &open);
    once(&place).data();
    assert_eq!(place.read("sum.csv"), "s,c\n3,2\n");
    // The writer comes again: what it left open is given up. From the start: to readers that begin behind them, this broker
    // names transactions as given up that they do not have, and confluent-kafka finds nothing there either.
    broker.run(&["transact", "t"], &format!("{}commit\n", line(4)));
    place.run(&["query", "p.sql", "--once", "--quiet", "--fresh"]).data();
    assert_eq!(place.read("sum.csv"), "s,c\n7,3\n");
}

#[test]
fn an_offset_that_is_gone_is_an_error() {
    let broker = Broker::start();
    let place = Place::new();
    broker.run(&["create", "t", "1"], "");
    broker.run(&["write", "t"], &numbers(0..100, 1));
    let sql = format!(
        "CREATE STREAM t (n BIGINT) STORED AS JSON LOCATION '{}';
         COPY (SELECT n FROM t) TO 'out/' STORED AS PARQUET;",
        broker.location("t")
    );
    place.write("p.sql", &sql);
    once(&place).data();
    broker.run(&["write", "t"], &numbers(100..200, 1));
    broker.run(&["cut", "t", "0", "150"], "");
    let error = once(&place).error(1);
    assert!(error.contains("offset 100 of t, partition 0, is gone"), "{error}");
    assert_eq!(rows(&place, "SELECT count(*) FROM 'out/*.parquet'"), "100\n");
    // A topic that was made anew is no continuation.
    broker.run(&["delete", "t"], "");
    broker.run(&["create", "t", "1"], "");
    broker.run(&["write", "t"], &numbers(0..10, 1));
    let error = once(&place).error(1);
    assert!(error.contains("was read up to offset 100, and now ends at 10"), "{error}");
}

#[test]
fn reading_begins_where_options_say() {
    let broker = Broker::start();
    broker.run(&["create", "t", "1"], "");
    broker.run(&["write", "t"], &numbers_in_time(0..10));
    let run = |start: &str, more: &dyn Fn(&Place)| {
        let place = Place::new();
        let sql = format!(
            "CREATE STREAM t (n BIGINT) STORED AS JSON LOCATION '{}' OPTIONS ('start' '{start}');
             COPY (SELECT n FROM t) TO 'out/' STORED AS PARQUET;",
            broker.location("t")
        );
        place.write("p.sql", &sql);
        once(&place).data();
        more(&place);
        once(&place).data();
        if place.path().join("out").exists() {
            rows(&place, "SELECT min(n), count(*) FROM 'out/*.parquet'")
        } else {
            String::new()
        }
    };
    assert_eq!(run("earliest", &|_| {}), "0,10\n");
    assert_eq!(run("2023-11-14 22:13:24", &|_| {}), "4,6\n");
    // What came after the first run began is read, also what came between two runs.
    let after = |_: &Place| drop(broker.run(&["write", "t"], &numbers_in_time(10..13)));
    assert_eq!(run("latest", &after), "10,3\n");
}

#[test]
fn a_message_that_cannot_be_read_is_told_with_its_offset() {
    let broker = Broker::start();
    broker.run(&["create", "t", "1"], "");
    let lines = "{\"value\":\"{\\\"n\\\": 1}\"}\n{\"value\":\"{\\\"n\\\": \\\"x\\\"}\"}\n{\"value\":\"\"}\n{\"key\":\"k\"}\n{\"value\":\"{\\n\\\"n\\\": 2}\"}\n{\"value\":\"{\\\"n\\\":3}\\n{\\\"n\\\":4}\"}\n";
    broker.run(&["write", "t"], lines);
    let run = |options: &str| {
        let place = Place::new();
        let sql = format!(
            "CREATE STREAM t (n BIGINT, kafka_offset BIGINT) STORED AS JSON LOCATION '{}' OPTIONS ({options});
             COPY (SELECT n, kafka_offset FROM t) TO 'out/' STORED AS PARQUET;",
            broker.location("t")
        );
        place.write("p.sql", &sql);
        let ran = once(&place);
        (place, ran)
    };
    let error = run("'on_error' 'fail'").1.error(1);
    assert!(error.contains("t, partition 0, offset 1, column n: \"x\" is not a whole number"), "{error}");
    let (place, ran) = run("'on_error' 'dead_letter', 'dead_letter' 'bad/'");
    ran.data();
    assert_eq!(rows(&place, "SELECT n, kafka_offset FROM 'out/*.parquet' ORDER BY n"), "1,0\n2,4\n");
    let bad = "SELECT file, \"position\", reason FROM 'bad/*.parquet' ORDER BY \"position\"";
    let bad = rows(&place, bad);
    let offsets: Vec<&str> = bad.lines().map(|line| &line[..5]).collect();
    assert_eq!(offsets, ["t/0,1", "t/0,2", "t/0,3", "t/0,5"], "{bad}");
}

#[test]
fn values_are_csv_or_bytes_as_well() {
    let broker = Broker::start();
    broker.run(&["create", "t", "1"], "");
    broker.run(&["write", "t"], "{\"value\":\"1,\\\"a\\nb\\\"\"}\n{\"value\":\"2,\\\"c\"}\n{\"value\":\"3,d\"}\n");
    let place = Place::new();
    let location = broker.location("t");
    let sql = format!(
        "CREATE STREAM c (n BIGINT, s VARCHAR) STORED AS CSV LOCATION '{location}' OPTIONS ('on_error' 'skip');
         CREATE STREAM r STORED AS RAW LOCATION '{location}';
         COPY (SELECT n, s FROM c) TO 'csv/' STORED AS PARQUET;
         COPY (SELECT value FROM r) TO 'raw/' STORED AS PARQUET;"
    );
    place.write("p.sql", &sql);
    once(&place).data();
    assert_eq!(rows(&place, "SELECT n, replace(s, chr(10), '|') FROM 'csv/*.parquet' ORDER BY n"), "1,a|b\n3,d\n");
    assert_eq!(rows(&place, "SELECT count(*), max(length(value)) FROM 'raw/*.parquet'"), "3,7\n");
}

#[test]
fn a_key_replaces_and_a_tombstone_deletes() {
    let broker = Broker::start();
    broker.run(&["create", "t", "1"], "");
    let put = |key: &str, value: &str| format!("{{\"key\":\"{key}\",\"value\":\"{}\"}}\n", value.replace('"', "\\\""));
    let gone = |key: &str| format!("{{\"key\":\"{key}\"}}\n");
    let place = Place::new();
    let sql = format!(
        "CREATE STREAM t (id BIGINT PRIMARY KEY, v VARCHAR, kafka_offset BIGINT) STORED AS JSON LOCATION '{}';
         COPY (SELECT id, v, kafka_offset AS o FROM t ORDER BY id) TO 'now.csv';",
        broker.location("t")
    );
    place.write("p.sql", &sql);
    let first =
        put("1", "{\"id\":1,\"v\":\"a\"}") + &put("2", "{\"id\":2,\"v\":\"b\"}") + &put("1", "{\"id\":1,\"v\":\"c\"}");
    broker.run(&["write", "t"], &first);
    once(&place).data();
    assert_eq!(place.read("now.csv"), "id,v,o\n1,c,2\n2,b,1\n");
    broker.run(
        &["write", "t"],
        &(gone("1") + &gone("{\\\"id\\\": 2}") + &gone("9") + &put("3", "{\"id\":3,\"v\":\"d\"}")),
    );
    once(&place).data();
    assert_eq!(place.read("now.csv"), "id,v,o\n3,d,6\n");
    let verified = place.run(&["verify", "p.sql"]).data();
    assert!(verified.contains("equal"), "{verified}");
}

#[test]
fn a_pipeline_outlives_its_broker() {
    let mut broker = Broker::start();
    broker.run(&["create", "t", "1"], "");
    broker.run(&["write", "t"], &numbers(0..10, 1));
    let place = Place::new();
    let sql = format!(
        "CREATE STREAM t (n BIGINT) STORED AS JSON LOCATION '{}';
         COPY (SELECT count(*) AS c FROM t) TO 'count.csv';",
        broker.location("t")
    );
    place.write("p.sql", &sql);
    let mut child = place.command(&["query", "p.sql", "--trigger", "50ms", "--quiet"]).spawn().expect("starts");
    broker::until("the first rows", || {
        std::fs::read_to_string(place.path().join("count.csv")).is_ok_and(|text| text == "c\n10\n")
    });
    broker.restart();
    broker.run(&["write", "t"], &numbers(10..30, 1));
    broker::until("the rows behind the restart", || place.read("count.csv") == "c\n30\n");
    assert!(child.try_wait().expect("asks").is_none(), "it has ended");
    child.kill().expect("kills");
    child.wait().expect("ends");
}

#[test]
fn a_secret_is_nowhere() {
    let broker = Broker::start();
    broker.run(&["create", "t", "1"], "");
    broker.run(&["write", "t"], &numbers(0..3, 1));
    let place = Place::new();
    place.write("secret.txt", "canary-file\n");
    let sql = format!(
        "CREATE STREAM t (n BIGINT) STORED AS JSON LOCATION '{}'
             OPTIONS ('kafka.security.protocol' 'PLAINTEXT', 'kafka.sasl.username' 'env:CANARY',
                      'kafka.sasl.password' 'file:secret.txt');
         EXPLAIN INCREMENTAL SELECT n FROM t;
         COPY (SELECT n FROM t) TO 'out/' STORED AS PARQUET;",
        broker.location("t")
    );
    place.write("p.sql", &sql);
    let run = |args: &[&str], canary: Option<&str>| {
        let mut command = place.command(args);
        if let Some(canary) = canary {
            command.env("CANARY", canary);
        }
        Ran::from(command.env("RUST_LOG", "debug").output().expect("runs"))
    };
    let mut told = Vec::new();
    let ran = run(&["query", "p.sql", "--once"], Some("canary-env"));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    told.push(ran);
    told.push(run(&["inspect", ".fuse/p"], Some("canary-env")));
    told.push(run(&["verify", "p.sql"], Some("canary-env")));
    let missing = run(&["query", "p.sql", "--once"], None);
    assert!(missing.stderr.contains("the environment has no CANARY"), "{missing:?}");
    // One that is wrong, and one that stands in the SQL.
    place.write("wrong.sql", sql.replace("'PLAINTEXT'", "'env:CANARY'"));
    told.push(run(&["query", "wrong.sql", "--once"], Some("canary-env")));
    place.write("inline.sql", sql.replace("'file:secret.txt'", "'hunter2'"));
    let inline = run(&["query", "inline.sql", "--once"], Some("canary-env"));
    assert!(inline.code != Some(0) && !inline.stderr.contains("hunter2"), "{inline:?}");
    for ran in &told {
        assert!(!ran.stdout.contains("canary") && !ran.stderr.contains("canary"), "{ran:?}");
    }
    for name in place.files().iter().filter(|name| *name != "secret.txt") {
        let bytes = std::fs::read(place.path().join(name)).expect("a file");
        assert!(memchr::memmem::find(&bytes, b"canary").is_none(), "{name}");
    }
}

#[test]
fn a_history_of_files_goes_on_in_a_topic() {
    let broker = Broker::start();
    let place = Place::new();
    broker.run(&["create", "t", "2"], "");
    // The topic has the last of what the history has.
    broker.run(&["write", "t"], &numbers(900..1000, 2));
    place.sql("COPY (SELECT value AS n FROM generate_series(0, 949)) TO 'old/a.parquet'");
    let sql = |name: &str, how: &str| {
        format!(
            "CREATE STREAM {name} (n BIGINT, kafka_offset BIGINT) STORED AS JSON LOCATION '{}' BACKFILL FROM 'old/*.parquet' {how};
             COPY (SELECT n, kafka_offset FROM {name}) TO '{name}/' STORED AS PARQUET;",
            broker.location("t")
        )
    };
    place.write("p.sql", sql("a", "UP TO n < 950") + &sql("b", "DEDUPLICATE BY (n)"));
    let check = |count: u64, sum: u64| {
        for name in ["a", "b"] {
            let sql =
                format!("SELECT count(*), count(DISTINCT n), sum(n), count(kafka_offset) FROM '{name}/*.parquet'");
            assert_eq!(rows(&place, &sql), format!("{count},{count},{sum},{}\n", count - 950), "{name}");
        }
    };
    once(&place).data();
    check(1000, 499_500);
    broker.run(&["write", "t"], &numbers(1000..1010, 2));
    once(&place).data();
    check(1010, 509_545);
    let verified = place.run(&["verify", "p.sql"]).data();
    assert!(verified.contains("equal: 2 statements"), "{verified}");
}
