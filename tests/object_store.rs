//! Files on an object store.
//!
//! Enters: an S3 server on loopback, of the virtual environment that ./tests/run makes. Leaves: nothing; the
//! server ends with the test. Always holds: what a COPY writes there shows when it has succeeded, and never
//! before; what is missing is named.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Place, Ran};

struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start() -> Self {
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

    fn sql(&self, place: &Place, sql: &str) -> Ran {
        let mut command = place.command(&["query", "--format", "csv", "-c", sql]);
        command.env("AWS_ACCESS_KEY_ID", "key").env("AWS_SECRET_ACCESS_KEY", "a-secret").env("AWS_REGION", "us-east-1");
        command.env("AWS_ENDPOINT", format!("http://127.0.0.1:{}", self.port)).env("AWS_ALLOW_HTTP", "true");
        Ran::from(command.output().expect("the program runs"))
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
