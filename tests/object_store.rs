//! Files on an object store.
//!
//! Enters: an S3 server on loopback, of the virtual environment that ./tests/run makes. Leaves: nothing; the
//! server ends with the test. Always holds: what a COPY writes there shows when it has succeeded, and never
//! before; what is missing is named; of two pipelines on one state there, one is turned away.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Place, Ran};

pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    pub(crate) fn start() -> Self {
        let home = std::path::PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/fuse/venv");
        let venv = std::env::var_os("FUSE_TEST_VENV").map_or(home, Into::into);
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let child = Command::new(venv.join("bin/moto_server"))
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("moto_server, which ./tests/run installs");
        let server = Self { child, port };
        let start = Instant::now();
        while !server.put("/lake").is_ok_and(|answer| answer.contains("200 OK")) {
            assert!(start.elapsed() < Duration::from_secs(30), "the server does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        server
    }

    fn put(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        write!(stream, "PUT {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    pub(crate) fn sql(&self, place: &Place, sql: &str) -> Ran {
        Ran::from(self.command(place, &["query", "--format", "csv", "-c", sql]).output().expect("the program runs"))
    }

    /// The program with what it needs to reach the server.
    pub(crate) fn command(&self, place: &Place, args: &[&str]) -> Command {
        let mut command = place.command(args);
        self.reach(&mut command);
        command
    }

    /// Gives a program what it needs to reach the server.
    pub(crate) fn reach(&self, command: &mut Command) {
        command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "a-secret").env("AWS_REGION", "us-east-1");
        command.env("AWS_ENDPOINT", format!("http://127.0.0.1:{}", self.port)).env("AWS_ALLOW_HTTP", "true");
    }
}

#[test]
fn a_bucket_is_read_and_written() {
    let (server, place) = (Server::start(), Place::new());
    let copy = "COPY (SELECT value AS v, value % 3 AS k FROM generate_series(1, 100)) TO 's3://lake/t/' \
                STORED AS PARQUET PARTITIONED BY (k)";
    server.sql(&place, copy).data();
    let read = "SELECT k, count(*) AS n FROM 's3://lake/t/' GROUP BY k ORDER BY k; \
                SELECT count(*) AS n FROM 's3://lake/t/k=[12]/*.parquet'";
    assert_eq!(server.sql(&place, read).data(), "k,n\n0,33\n1,34\n2,33\nn\n67\n");
    // Large enough to be sent in parts.
    let large = "COPY (SELECT value AS v, repeat('abc', 20) || value AS s FROM generate_series(1, 400000)) TO 's3://lake/x.csv'; \
                 SELECT count(*) AS n, max(v) AS m FROM 's3://lake/x.csv'";
    assert_eq!(server.sql(&place, large).data(), "n,m\n400000,400000\n");
    let fail = "COPY (SELECT 1 / (v - 399999) AS a, repeat('abc', 20) || v AS s FROM generate_series(1, 400000) t(v)) \
                TO 's3://lake/fail.csv'";
    server.sql(&place, fail).error(1);
    let missing = server.sql(&place, "SELECT * FROM 's3://lake/fail.csv'").error(1);
    assert!(missing.contains("no such file or folder: 's3://lake/fail.csv'"), "{missing}");
    let near = server.sql(&place, "SELECT * FROM 's3://lake/y.csv'").error(1);
    assert!(!near.contains("a-secret"), "{near}");
}

#[test]
fn a_folder_in_a_bucket_grows() {
    let (server, place) = (Server::start(), Place::new());
    place.write(
        "p.sql",
        "CREATE STREAM s (id BIGINT, k BIGINT) STORED AS JSON LOCATION 's3://lake/in/' OPTIONS ('max_files_per_epoch' '2');
         COPY (SELECT id FROM s) TO 's3://lake/rows/' STORED AS PARQUET;
         COPY (SELECT k, count(*) AS n FROM s GROUP BY k) TO 's3://lake/agg.parquet';",
    );
    let args = ["query", "p.sql", "--once", "--quiet", "--state", "s3://lake/state"];
    let put = |number: u64| {
        let rows = format!("SELECT value AS id, value % 10 AS k FROM generate_series({0}0, {0}9)", number);
        server.sql(&place, &format!("COPY ({rows}) TO 's3://lake/in/{number}.json'")).data();
    };
    for number in 0..12 {
        put(number);
        // Some runs find one file, some find several, and some are killed on their way.
        match number % 4 {
            0 => drop(Ran::from(server.command(&place, &args).output().expect("runs")).data()),
            1 => {
                let mut child = server.command(&place, &args).stderr(Stdio::null()).spawn().expect("runs");
                std::thread::sleep(Duration::from_millis(150 + 70 * number));
                child.kill().expect("stops");
                child.wait().expect("ends");
            }
            _ => {}
        }
    }
    Ran::from(server.command(&place, &args).output().expect("runs")).data();
    assert_eq!(outputs(&server, &place), "n,d,s\n120,120,120\n");
    let verify = server.command(&place, &["verify", "p.sql", "--state", "s3://lake/state"]).output().expect("runs");
    assert!(Ran::from(verify).data().contains("equal: 2 statements"));
}

#[test]
fn the_page_of_the_tour_runs() {
    let (server, place) = (Server::start(), Place::new());
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = root.join("sql/tour/07_s3.sql").display().to_string();
    let events = root.join("testdata/events.ndjson").display().to_string();
    let copy = |to: u64| format!("COPY (SELECT * FROM '{events}') TO 's3://lake/incoming/{to}.json'");
    let args = ["query", &page, "--once", "--quiet", "--state", "s3://lake/state"];
    let mut counts = Vec::new();
    for round in 1..3 {
        server.sql(&place, &copy(round)).data();
        Ran::from(server.command(&place, &args).output().expect("runs")).data();
        let rows = "SELECT sum(readings) AS n, (SELECT count(*) FROM 's3://lake/full/') AS f FROM 's3://lake/stations.parquet'";
        counts.push(server.sql(&place, rows).data());
    }
    let expected = |times: u64| {
        let rows =
            format!("SELECT {times} * count(*) AS n, {times} * count(*) FILTER (free_docks = 0) AS f FROM '{events}'");
        place.sql(&rows).data()
    };
    assert_eq!(counts, [expected(1), expected(2)]);
    let verify = server.command(&place, &["verify", &page, "--state", "s3://lake/state"]).output().expect("runs");
    assert!(Ran::from(verify).data().contains("equal"));
}

const PIPELINE: &str = "CREATE STREAM s (id BIGINT, k BIGINT) STORED AS JSON LOCATION 'in/';
    COPY (SELECT id FROM s) TO 's3://lake/rows/' STORED AS PARQUET;
    COPY (SELECT k, count(*) AS n FROM s GROUP BY k) TO 's3://lake/agg.parquet';";

/// Adds a file of ten rows.
fn input(place: &Place, number: u64) {
    let rows = (0..10).map(|row| format!("{{\"id\":{},\"k\":{row}}}\n", number * 10 + row));
    place.write("in/.part", rows.collect::<String>());
    std::fs::rename(place.path().join("in/.part"), place.path().join(format!("in/{number}.json"))).expect("renames");
}

fn outputs(server: &Server, place: &Place) -> String {
    let read = "SELECT count(*) AS n, count(DISTINCT id) AS d, (SELECT sum(n) FROM 's3://lake/agg.parquet') AS s
                FROM 's3://lake/rows/'";
    server.sql(place, read).data()
}

#[test]
fn a_pipeline_has_its_state_in_a_bucket() {
    let (server, place) = (Server::start(), Place::new());
    place.write("p.sql", PIPELINE);
    let args = ["query", "p.sql", "--quiet", "--state", "s3://lake/state"];
    let once = || Ran::from(server.command(&place, &[&args[..], &["--once"]].concat()).output().expect("runs"));
    input(&place, 0);
    once().data();
    assert_eq!(outputs(&server, &place), "n,d,s\n10,10,10\n");
    input(&place, 1);
    once().data();
    assert_eq!(outputs(&server, &place), "n,d,s\n20,20,20\n");
    // Killed, it goes on.
    for number in 2..6 {
        input(&place, number);
        let mut child = server.command(&place, &args).stderr(Stdio::null()).spawn().expect("starts");
        std::thread::sleep(Duration::from_millis(150 * number));
        child.kill().expect("kills");
        child.wait().expect("ends");
    }
    once().data();
    assert_eq!(outputs(&server, &place), "n,d,s\n60,60,60\n");
    let inspected = server.command(&place, &["inspect", "s3://lake/state", "--format", "json"]).output().expect("runs");
    let inspected = Ran::from(inspected).data();
    assert!(inspected.contains("\"committed_epoch\""), "{inspected}");
}

#[test]
fn a_folder_in_a_bucket_is_a_table() {
    let (server, place) = (Server::start(), Place::new());
    let table = "CREATE EXTERNAL TABLE t (id BIGINT) STORED AS PARQUET LOCATION 's3://lake/table/';";
    server.sql(&place, &format!("{table} INSERT INTO t VALUES (1), (2)")).data();
    server.sql(&place, &format!("{table} INSERT INTO t SELECT 3")).data();
    server.sql(&place, "COPY (SELECT 'other') TO 's3://lake/table/x.csv'").data();
    assert_eq!(server.sql(&place, &format!("{table} SELECT count(*) AS n, sum(id) AS s FROM t")).data(), "n,s\n3,6\n");
}

#[test]
#[cfg(feature = "delta")]
fn a_delta_table_in_a_bucket_holds_the_answer() {
    let (server, place) = (Server::start(), Place::new());
    place.write(
        "p.sql",
        "CREATE STREAM t (id BIGINT) STORED AS JSON LOCATION 'in/' OPTIONS ('max_files_per_epoch' '1');
         CREATE EXTERNAL TABLE agg (g BIGINT, n BIGINT, s BIGINT, PRIMARY KEY (g)) STORED AS DELTA
             LOCATION 's3://lake/agg' OPTIONS ('compact_every' '4');
         CREATE EXTERNAL TABLE ids (id BIGINT) STORED AS DELTA LOCATION 's3://lake/ids';
         INSERT INTO agg SELECT id % 3, count(*), sum(id) FROM t GROUP BY id % 3;
         INSERT INTO ids SELECT id FROM t;",
    );
    let args = ["query", "p.sql", "--quiet", "--state", "s3://lake/state-of-delta"];
    let once = || Ran::from(server.command(&place, &[&args[..], &["--once"]].concat()).output().expect("runs"));
    input(&place, 0);
    once().data();
    for number in 1..6 {
        input(&place, number);
        let mut child = server.command(&place, &args).stderr(Stdio::null()).spawn().expect("starts");
        std::thread::sleep(Duration::from_millis(200 * number));
        child.kill().expect("kills");
        child.wait().expect("ends");
    }
    once().data();
    let expected = server.sql(&place, "SELECT count(*) AS n, sum(id) AS s FROM 'in/'").data();
    for sql in [
        "SELECT sum(n) AS n, sum(s) AS s FROM 's3://lake/agg/'",
        "SELECT count(*) AS n, sum(id) AS s FROM 's3://lake/ids/'",
    ] {
        assert_eq!(server.sql(&place, sql).data(), expected, "{sql}");
    }
    // What changes there is followed.
    place.write(
        "f.sql",
        "CREATE STREAM agg STORED AS DELTA LOCATION 's3://lake/agg';
         COPY (SELECT sum(n) AS n, sum(s) AS s FROM agg) TO 'sums.csv';",
    );
    let follow = || Ran::from(server.command(&place, &["query", "f.sql", "--once", "--quiet"]).output().expect("runs"));
    follow().data();
    assert_eq!(place.read("sums.csv"), expected);
    input(&place, 6);
    once().data();
    follow().data();
    assert_eq!(place.read("sums.csv"), server.sql(&place, "SELECT count(*) AS n, sum(id) AS s FROM 'in/'").data());
}

#[test]
fn of_two_pipelines_on_one_bucket_one_is_turned_away() {
    let (server, place) = (Server::start(), Place::new());
    place.write("p.sql", PIPELINE);
    input(&place, 0);
    let args = ["query", "p.sql", "--quiet", "--trigger", "50ms", "--state", "s3://lake/state"];
    let run = || server.command(&place, &args).stderr(Stdio::piped()).spawn().expect("starts");
    let mut number = 1;
    // Those that start together, and one that starts behind.
    let mut both = vec![run(), run()];
    for _ in 0..2 {
        let start = Instant::now();
        let ended = loop {
            assert!(start.elapsed() < Duration::from_secs(60), "both go on");
            input(&place, number);
            number += 1;
            std::thread::sleep(Duration::from_millis(300));
            if let Some(at) = both.iter_mut().position(|child| child.try_wait().expect("asks").is_some()) {
                break at;
            }
        };
        let error = Ran::from(both.swap_remove(ended).wait_with_output().expect("ends")).error(1);
        assert!(error.contains("another process") && error.contains("on the state in"), "{error}");
        both.push(run());
    }
    for mut child in both {
        child.kill().expect("kills");
        child.wait().expect("ends");
    }
    Ran::from(server.command(&place, &[&args[..], &["--once"]].concat()).output().expect("runs")).data();
    assert_eq!(outputs(&server, &place), format!("n,d,s\n{0},{0},{0}\n", number * 10));
}
