//! What the tests share: the program, and folders to run it in.
//!
//! Enters: arguments. Leaves: what the program printed. Always holds: the program runs in a temporary
//! folder, without the caller's settings for colour and terminals.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;

/// A temporary folder to run the program in.
pub(crate) struct Place {
    path: PathBuf,
    /// Removed with it.
    _folder: Option<TempDir>,
}

/// What a run of the program gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { path: folder.path().to_owned(), _folder: Some(folder) }
    }

    /// A folder that stays.
    pub(crate) fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), _folder: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file, and the folders above it.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
        std::fs::write(path, bytes).expect("a file");
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path.join(name)).expect(name)
    }

    /// The program, to be run here.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fuse"));
        command.current_dir(&self.path).args(args).env_remove("NO_COLOR").env_remove("RUST_LOG");
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::from(self.command(args).output().expect("the program runs"))
    }

    /// Runs one text of SQL.
    pub(crate) fn sql(&self, sql: &str) -> Ran {
        self.run(&["query", "-c", sql, "--format", "csv"])
    }

    /// All files here, by their paths below it.
    pub(crate) fn files(&self) -> Vec<String> {
        let mut files = Vec::new();
        let mut folders = vec![self.path.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.push(path.strip_prefix(&self.path).expect("below").display().to_string());
                }
            }
        }
        files.sort();
        files
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// The data, after a run without an error.
    #[track_caller]
    pub(crate) fn data(self) -> String {
        assert_eq!(self.code, Some(0), "stderr: {}", self.stderr);
        self.stdout
    }

    /// The message, after a run with this exit code and without data.
    #[track_caller]
    pub(crate) fn error(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert_eq!(self.stdout, "", "data before an error");
        self.stderr
    }
}

/// Makes an authority, and a certificate of 127.0.0.1 that it has signed.
const CERTIFICATES: &str = "
    set -e
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem
    openssl req -newkey rsa:2048 -nodes -subj /CN=server -keyout server.key -out server.csr
    printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE' > names
    openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem
    chmod 600 server.key; chmod 644 ca.pem server.pem";

/// Makes `ca.pem`, and `server.pem` with `server.key`, in a folder.
pub(crate) fn certificates(folder: &Path) {
    let made = Command::new("sh").args(["-c", CERTIFICATES]).current_dir(folder).output().expect("sh");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Numbers that are the same for the same seed.
pub(crate) struct Dice(AtomicU64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// A number below that one. (Knuth's MMIX generator, its upper bits.)
    pub(crate) fn below(&self, limit: u64) -> u64 {
        let next =
            |state: u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).map_or(0, |state| (state >> 33) % limit)
    }
}

/// Two threads with the stacks that the program gives its own.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().thread_stack_size(fuse::config::WORKER_STACK_BYTES);
    builder.build().expect("a runtime")
}
