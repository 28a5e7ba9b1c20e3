//! A network that fails.
//!
//! Enters: a server of S3 and one of Postgres, behind a proxy that resets connections, holds them up, cuts answers, and
//! swallows those to requests that were done. Leaves: nothing. Always holds: a run ends well or with an error that says
//! what was not reached; when the network is well again, each row is there once. FUSE_NETWORK_SEED sets the faults.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::databases::server;
use crate::object_store;
use crate::support::{Place, Ran};

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

fn random(state: &AtomicU64) -> u64 {
    let next = |state: u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
    state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).map_or(0, |state| state >> 33)
}

impl Proxy {
    fn start(server: u16, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let fails = Arc::new(AtomicBool::new(true));
        let (failing, dice) = (Arc::clone(&fails), Arc::new(AtomicU64::new(seed)));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let fate = match random(&dice) % 20 {
                    _ if !failing.load(Ordering::Relaxed) => Fate::Well,
                    0 | 1 => Fate::Refused,
                    2 | 3 => Fate::Slow,
                    4..7 => Fate::Cut(random(&dice) % 3000),
                    7 | 8 => Fate::Swallowed,
                    _ => Fate::Well,
                };
                std::thread::spawn(move || pass(client, server, fate));
            }
        });
        Self { port, fails }
    }

    fn is_well(&self) {
        self.fails.store(false, Ordering::Relaxed);
    }
}

fn pass(client: TcpStream, server: u16, fate: Fate) {
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
    let (mut from, mut to, mut passed, mut buffer) = (&server, &client, 0, [0; 4096]);
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 {
            break;
        }
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
