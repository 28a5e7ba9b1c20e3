//! A network that fails.
//!
//! Enters: servers of S3, Postgres and Kafka, behind a proxy that resets connections, holds them up, cuts answers, and
//! swallows those to requests that were done. Leaves: nothing. Always holds: a run ends well or with an error that says
//! what was not reached; when the network is well again, each row is there once. FUSE_NETWORK_SEED sets the faults.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use crate::databases::server;
use crate::kafka::broker::Broker;
use crate::object_store;
use crate::support::{Dice, Place, Ran};

/// What becomes of a connection.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Well,
    /// It is not taken.
    Refused,
    /// It is held up at first.
    Slow,
    /// It ends behind so many bytes of answers.
    Cut(u64),
    /// Of the answers none comes: what was asked for is done.
    Swallowed,
}

/// Stands before a server.
struct Proxy {
    port: u16,
    fails: Arc<AtomicBool>,
}

/// What is passed on.
#[derive(Debug, Clone, Copy)]
enum Speaks {
    Bytes,
    /// Frames behind their lengths; the port that a broker tells of itself is that of the proxy.
    Kafka {
        proxy: u16,
        broker: u16,
    },
}

impl Proxy {
    fn start(server: u16, seed: u64) -> Self {
        Self::start_as(server, seed, |_| Speaks::Bytes)
    }

    fn start_as(server: u16, seed: u64, speaks: impl Fn(u16) -> Speaks) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let speaks = speaks(port);
        let fails = Arc::new(AtomicBool::new(true));
        let (failing, dice) = (Arc::clone(&fails), Arc::new(Dice::new(seed)));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let fate = match dice.below(20) {
                    _ if !failing.load(Ordering::Relaxed) => Fate::Well,
                    0 | 1 => Fate::Refused,
                    2 | 3 => Fate::Slow,
                    4..7 => Fate::Cut(dice.below(3000)),
                    7 | 8 => Fate::Swallowed,
                    _ => Fate::Well,
                };
                std::thread::spawn(move || pass(client, server, fate, speaks));
            }
        });
        Self { port, fails }
    }

    fn is_well(&self) {
        self.fails.store(false, Ordering::Relaxed);
    }
}

impl Speaks {
    /// Reads what comes next; nothing at the end.
    fn read(self, mut from: &TcpStream, buffer: &mut Vec<u8>) -> Option<usize> {
        let Speaks::Kafka { proxy, broker } = self else {
            buffer.resize(4096, 0);
            return from.read(buffer).ok().filter(|count| *count > 0);
        };
        buffer.resize(4, 0);
        from.read_exact(buffer).ok()?;
        let length = u32::from_be_bytes(buffer[..4].try_into().ok()?);
        buffer.resize(4 + length as usize, 0);
        from.read_exact(&mut buffer[4..]).ok()?;
        let at = |port: u16| [b"127.0.0.1", u32::from(port).to_be_bytes().as_slice()].concat();
        let (old, new) = (at(broker), at(proxy));
        let found: Vec<usize> = memchr::memmem::find_iter(buffer, &old).collect();
        for place in found {
            buffer[place..place + new.len()].copy_from_slice(&new);
        }
        Some(buffer.len())
    }
}

fn pass(client: TcpStream, server: u16, fate: Fate, speaks: Speaks) {
    if matches!(fate, Fate::Refused) {
        return;
    }
    if matches!(fate, Fate::Slow) {
        std::thread::sleep(Duration::from_millis(700));
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { return };
    let (Ok(mut asking), Ok(mut asked)) = (client.try_clone(), server.try_clone()) else { return };
    let there = std::thread::spawn(move || {
        let _ = std::io::copy(&mut asking, &mut asked);
        let _ = asked.shutdown(Shutdown::Write);
    });
    let (mut to, mut passed, mut buffer) = (&client, 0, Vec::new());
    while let Some(count) = speaks.read(&server, &mut buffer) {
        let may = match fate {
            Fate::Cut(bytes) => usize::try_from(bytes - passed.min(bytes)).unwrap_or(0).min(count),
            Fate::Swallowed => 0,
            _ => count,
        };
        if to.write_all(&buffer[..may]).is_err() || may < count {
            break;
        }
        passed += may as u64;
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
    let _ = there.join();
}

fn seed() -> u64 {
    let given = std::env::var("FUSE_NETWORK_SEED").ok().and_then(|text| text.parse().ok());
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(1, |since| since.as_micros() as u64);
    let seed = given.unwrap_or_else(now);
    println!("FUSE_NETWORK_SEED={seed}");
    seed
}

const ROWS: u64 = 10;

fn input(place: &Place, number: u64) {
    let rows = (0..ROWS).map(|row| format!("{{\"id\":{}}}\n", number * ROWS + row));
    place.write("in/.part", rows.collect::<String>());
    std::fs::rename(place.path().join("in/.part"), place.path().join(format!("in/{number}.json"))).expect("renames");
}

/// Runs a pipeline while the network fails and input comes, then once more when it is well.
fn endured(place: &Place, proxy: &Proxy, run: impl Fn() -> Command) {
    let mut failed = 0;
    for number in 0..12 {
        input(place, number);
        let ran = Ran::from(run().output().expect("runs"));
        if ran.code != Some(0) {
            failed += 1;
            assert_eq!(ran.code, Some(1), "{}", ran.stderr);
            assert!(ran.stderr.starts_with("error: ") && !ran.stderr.contains("panicked"), "{}", ran.stderr);
        }
    }
    println!("{failed} of 12 runs failed");
    proxy.is_well();
    Ran::from(run().output().expect("runs")).data();
}

#[test]
fn each_row_is_in_the_bucket_once() {
    let (server, place) = (object_store::Server::start(), Place::new());
    let proxy = Proxy::start(server.port, seed());
    place.write(
        "p.sql",
        "CREATE STREAM t (id BIGINT) STORED AS JSON LOCATION 'in/' OPTIONS ('max_files_per_epoch' '1');
         CREATE EXTERNAL TABLE ids (id BIGINT) STORED AS PARQUET LOCATION 's3://lake/ids/';
         CREATE EXTERNAL TABLE agg (g BIGINT, n BIGINT, s BIGINT, PRIMARY KEY (g)) STORED AS DELTA LOCATION 's3://lake/agg';
         INSERT INTO ids SELECT id FROM t;
         INSERT INTO agg SELECT id % 3, count(*), sum(id) FROM t GROUP BY id % 3;",
    );
    endured(&place, &proxy, || {
        let mut command =
            server.command(&place, &["query", "p.sql", "--once", "--quiet", "--state", "s3://lake/state"]);
        command.env("AWS_ENDPOINT", format!("http://127.0.0.1:{}", proxy.port));
        command
    });
    let expected = "n,s\n120,7140\n";
    assert_eq!(server.sql(&place, "SELECT count(*) AS n, sum(id) AS s FROM 's3://lake/ids/'").data(), expected);
    assert_eq!(server.sql(&place, "SELECT sum(n) AS n, sum(s) AS s FROM 's3://lake/agg/'").data(), expected);
}

#[test]
fn each_row_is_in_the_database_once() {
    let (server, place) = (server::Server::start(), Place::new());
    let proxy = Proxy::start(server.port, seed());
    let table = |name: &str| server.table(name).replace(&format!(":{}/", server.port), &format!(":{}/", proxy.port));
    place.write(
        "p.sql",
        format!(
            "CREATE STREAM t (id BIGINT) STORED AS JSON LOCATION 'in/' OPTIONS ('max_files_per_epoch' '1');
             CREATE EXTERNAL TABLE ids (id BIGINT) {};
             CREATE EXTERNAL TABLE agg (g BIGINT, n BIGINT, s BIGINT, PRIMARY KEY (g)) {};
             INSERT INTO ids SELECT id FROM t;
             INSERT INTO agg SELECT id % 3, count(*), sum(id) FROM t GROUP BY id % 3;",
            table("ids"),
            table("agg")
        ),
    );
    endured(&place, &proxy, || server::fuse(&place, &["query", "p.sql", "--once", "--quiet"]));
    assert_eq!(server.run("SELECT count(*), sum(id) FROM ids"), "120,7140\n");
    assert_eq!(server.run("SELECT sum(n), sum(s) FROM agg"), "120,7140\n");
}

#[test]
fn each_message_is_in_the_topic_once() {
    let (broker, place) = (Broker::start(), Place::new());
    let speaks = |proxy| Speaks::Kafka { proxy, broker: broker.port };
    let proxy = Proxy::start_as(broker.port, seed(), speaks);
    let at = format!("kafka://127.0.0.1:{}", proxy.port);
    broker.run(&["create", "from", "2"], "");
    let sql = format!(
        "CREATE STREAM t (id BIGINT) STORED AS JSON LOCATION 'in/' OPTIONS ('max_files_per_epoch' '1');
         CREATE STREAM u (id BIGINT) STORED AS JSON LOCATION '{at}/from';
         CREATE EXTERNAL TABLE ids (id BIGINT) STORED AS JSON LOCATION '{at}/ids';
         INSERT INTO ids SELECT id FROM t UNION ALL SELECT id FROM u;"
    );
    place.write("p.sql", sql);
    let written: String = (1000..1100).map(|id| format!("{{\"value\":\"{{\\\"id\\\":{id}}}\"}}\n")).collect();
    broker.run(&["write", "from"], &written);
    endured(&place, &proxy, || place.command(&["query", "p.sql", "--once", "--quiet"]));
    let read = broker.run(&["read", "ids"], "");
    let message = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["value"].to_string();
    let mut read: Vec<String> = read.lines().map(message).collect();
    assert_eq!(read.len(), 220);
    read.sort();
    read.dedup();
    assert_eq!(read.len(), 220);
}
