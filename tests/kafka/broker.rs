//! A broker for tests, and clients that are not fuse's.
//!
//! Enters: the virtual environment that ./tests/run makes. Leaves: a broker on a free port of loopback. Always holds:
//! it is stopped politely, so that it keeps what was written.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) struct Broker {
    child: Child,
    pub(crate) port: u16,
    data: TempDir,
}

pub(super) fn venv() -> PathBuf {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/fuse/venv");
    std::env::var_os("FUSE_TEST_VENV").map_or(home, Into::into)
}

/// Waits until something is so.
#[track_caller]
pub(super) fn until(what: &str, so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The server itself, not the script that starts it: a signal to the script does not reach the server.
fn program() -> PathBuf {
    let libraries = venv().join("lib");
    let mut found = std::fs::read_dir(&libraries).expect("what ./tests/run installs").flatten();
    let program = found
        .find_map(|python| Some(python.path().join("site-packages/noida_db/noida-db")).filter(|path| path.exists()))
        .expect("noida-db, which ./tests/run installs");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("may be run");
    program
}

fn spawn(port: u16, data: &Path) -> Child {
    let port_text = port.to_string();
    let child = Command::new(program())
        .args(["start", "--only", "kafka", "--kafka-port", &port_text, "--data-dir"])
        .arg(data)
        .current_dir(data)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("noida-db starts");
    until("the broker", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    child
}

impl Broker {
    pub(crate) fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let data = tempfile::tempdir().expect("a folder");
        Self { child: spawn(port, data.path()), port, data }
    }

    pub(super) fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            assert!(begun.elapsed() < Duration::from_secs(20), "the broker does not stop");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops it, and starts it again over what it has.
    pub(super) fn restart(&mut self) {
        self.stop();
        self.child = spawn(self.port, self.data.path());
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn location(&self, topic: &str) -> String {
        format!("kafka://{}/{topic}", self.address())
    }

    /// Runs a command of tests/kafka.py.
    #[track_caller]
    pub(crate) fn run(&self, args: &[&str], input: &str) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka.py");
        let mut command = Command::new(venv().join("bin/python"));
        command.arg(script).arg(self.address()).args(args);
        fed(command, input)
    }

    /// Runs kcat, a client in C.
    #[track_caller]
    pub(super) fn kcat(&self, args: &[&str], input: &str) -> String {
        let mut command = Command::new("kcat");
        command.args(["-b", &self.address(), "-q"]).args(args);
        fed(command, input)
    }
}

/// A server in Python, of tests/, which prints its port; it ends with the test.
pub(super) struct Script {
    child: Child,
    pub(super) port: u16,
}

impl Script {
    pub(super) fn start(name: &str, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name);
        let mut command = Command::new(venv().join("bin/python"));
        command.arg(script).args(args).envs(environment.iter().copied()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python, see ./tests/run");
        let mut port = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut port).expect("a line");
        Self { child, port: port.trim().parse().expect("a port") }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a program prints for an input.
#[track_caller]
fn fed(mut command: Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a client, which ./tests/run installs");
    child.stdin.take().expect("an input").write_all(input.as_bytes()).expect("writes");
    let output = child.wait_with_output().expect("ends");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.stop();
    }
}
