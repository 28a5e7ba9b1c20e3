//! A server of Postgres, for one test.
//!
//! Enters: nothing. Leaves: a cluster in a temporary folder, on a free port. Always holds: it is stopped when the test
//! ends, also when it fails; connections need the password.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::{Place, certificates};

/// The password of the server, which is to be seen nowhere.
pub(crate) const PASSWORD: &str = "canary-7f3a";

/// A running server.
pub(crate) struct Server {
    folder: TempDir,
    process: Child,
    pub(crate) port: u16,
}

/// The programs of Postgres.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("postgresql, which ./tests/run installs");
    let newest = versions.flatten().map(|entry| entry.path().join("bin")).max();
    newest.expect("a version")
}

/// A command of a user that may run a server: it refuses root.
fn as_user(program: &Path) -> Command {
    let id = Command::new("id").arg("-u").output().expect("id");
    if id.stdout != b"0\n" {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    // With its parent it ends, too.
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=INT"]).arg(program);
    command
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_as(false)
    }

    /// One that encrypts, with a certificate by `ca.pem` of its folder.
    pub(crate) fn start_encrypted() -> Self {
        Self::start_as(true)
    }

    /// The certificate of the authority.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn start_as(encrypts: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let pass = folder.path().join("password");
        std::fs::write(&pass, PASSWORD).expect("writes");
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("a folder");
        if encrypts {
            certificates(folder.path());
        }
        let all = format!("chmod 755 {0}; chown -R postgres {0} 2>/dev/null; true", folder.path().display());
        assert!(Command::new("sh").args(["-c", &all]).status().expect("sh").success());
        let mut init = as_user(&programs().join("initdb"));
        init.arg("-D").arg(&data).args(["-U", "fuse", "-A", "scram-sha-256", "--no-sync", "--pwfile"]).arg(&pass);
        let made =
            init.args(["-E", "UTF8", "--locale", "C.UTF-8"]).current_dir(folder.path()).output().expect("initdb");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("a port").port();
        let mut run = as_user(&programs().join("postgres"));
        run.arg("-D").arg(&data).args(["-p", &port.to_string(), "-k"]).arg(folder.path());
        run.args(["-c", "wal_level=logical", "-c", "fsync=off", "-c", "listen_addresses=127.0.0.1"]);
        if encrypts {
            let file = |name: &str| folder.path().join(name).display().to_string();
            run.args(["-c", "ssl=on", "-c", &format!("ssl_cert_file={}", file("server.pem"))]);
            run.args(["-c", &format!("ssl_key_file={}", file("server.key"))]);
        }
        let process = run.current_dir(folder.path()).stderr(Stdio::null()).spawn().expect("starts");
        let this = Self { folder, process, port };
        let begun = Instant::now();
        while !this.psql("SELECT 1").output().expect("psql").status.success() {
            assert!(begun.elapsed() < Duration::from_secs(30), "the server does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        this
    }

    fn psql(&self, sql: &str) -> Command {
        let mut command = Command::new("psql");
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "fuse", "-d", "postgres", "-X", "-q"]);
        command.args(["-A", "-t", "-F", ",", "-v", "ON_ERROR_STOP=1", "-c", sql]).env("PGPASSWORD", PASSWORD);
        command
    }

    /// What a text of SQL gives there.
    #[track_caller]
    pub(crate) fn run(&self, sql: &str) -> String {
        let output = self.psql(sql).output().expect("psql");
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// LOCATION and OPTIONS of a table, the password by name.
    pub(crate) fn table(&self, table: &str) -> String {
        format!(
            "STORED AS POSTGRES LOCATION 'postgres://fuse@127.0.0.1:{}/postgres'
             OPTIONS ('table' '{table}', 'password' 'env:FUSE_TEST_PASSWORD')",
            self.port
        )
    }

    /// The URL, with the password in it.
    pub(crate) fn url(&self) -> String {
        format!("postgres://fuse:{PASSWORD}@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-INT", &self.process.id().to_string()]).status();
        let _ = self.process.wait();
    }
}

/// The program, which finds the password where tables name it.
pub(crate) fn fuse(place: &Place, args: &[&str]) -> Command {
    let mut command = place.command(args);
    command.env("FUSE_TEST_PASSWORD", PASSWORD);
    command
}
