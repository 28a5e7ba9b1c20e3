//! A terminal with the program in it.
//!
//! Enters: keys. Leaves: what the screen shows. Always holds: tmux runs on a socket of this test alone, without
//! the user's configuration, and ends with it.

use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::support::Place;

/// How long something may take to show.
const PATIENCE: Duration = Duration::from_secs(20);
const GLANCE: Duration = Duration::from_millis(10);

/// A terminal; it works in the folder `work` of its place.
pub(super) struct Terminal {
    pub(super) place: Place,
    socket: String,
}

impl Terminal {
    pub(super) fn start(width: u32, height: u32) -> Self {
        Self::start_with(width, height, &[])
    }

    pub(super) fn start_with(width: u32, height: u32, variables: &[(&str, &str)]) -> Self {
        Self::in_place(Place::new(), width, height, variables)
    }

    pub(super) fn in_place(place: Place, width: u32, height: u32, variables: &[(&str, &str)]) -> Self {
        let mut terminal = Self::run(place, width, height, variables, &[]);
        terminal.wait("fuse>");
        terminal
    }

    /// `fuse query` on a terminal.
    pub(super) fn of_query(place: Place, width: u32, height: u32, sql: &str) -> Self {
        Self::run(place, width, height, &[], &["query", "-c", sql])
    }

    /// A new session, with the history of this one.
    pub(super) fn again(self, width: u32, height: u32) -> Self {
        self.again_with(width, height, &[], &[])
    }

    pub(super) fn again_with(self, width: u32, height: u32, variables: &[(&str, &str)], args: &[&str]) -> Self {
        let place = std::mem::replace(&mut { self }.place, Place::new());
        let mut terminal = Self::run(place, width, height, variables, args);
        terminal.wait("fuse>");
        terminal
    }

    fn run(place: Place, width: u32, height: u32, variables: &[(&str, &str)], args: &[&str]) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let socket = format!("fuse-test-{}-{number}", std::process::id());
        let work = place.path().join("work");
        std::fs::create_dir_all(&work).expect("a folder");
        let mut words = vec!["env".to_owned(), "-u".to_owned(), "NO_COLOR".to_owned(), "LC_ALL=C.UTF-8".to_owned()];
        for (name, folder) in [("XDG_DATA_HOME", "data"), ("XDG_CONFIG_HOME", "config")] {
            words.push(format!("{name}={}", place.path().join(folder).display()));
        }
        words.extend(variables.iter().map(|(name, value)| format!("{name}={value}")));
        words.push(env!("CARGO_BIN_EXE_fuse").to_owned());
        words.extend(args.iter().map(|word| (*word).to_owned()));
        let quoted: Vec<String> = words.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
        let command = format!("{}; echo \"code $?\"; sleep 60", quoted.join(" "));
        let terminal = Self { place, socket };
        let size = [width.to_string(), height.to_string()];
        let folder = work.display().to_string();
        let start = ["-f", "/dev/null", "new-session", "-d", "-x", &size[0], "-y", &size[1], "-c", &folder, &command];
        terminal.tmux(&start);
        terminal
    }

    fn tmux(&self, args: &[&str]) -> Output {
        let mut command = Command::new("tmux");
        let command = command.arg("-u").args(["-L", &self.socket]).args(args).stdin(Stdio::null());
        let output = command.output().expect("tmux runs");
        assert!(output.status.success(), "tmux {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output
    }

    fn capture(&self, args: &[&str]) -> String {
        let output = self.tmux(&[&["capture-pane", "-p"], args].concat());
        String::from_utf8_lossy(&output.stdout).lines().map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n"
    }

    /// Types characters.
    pub(super) fn type_text(&mut self, text: &str) {
        // tmux takes a last `;` for its own.
        let text = text.strip_suffix(';').map_or_else(|| text.to_owned(), |text| format!("{text}\\;"));
        if !text.is_empty() {
            self.tmux(&["send-keys", "-l", "--", &text]);
        }
    }

    /// Types a line, and Enter, once the program is ready for it.
    pub(super) fn line(&mut self, text: &str) {
        self.wait_for(ready, "a prompt");
        self.type_text(text);
        self.keys(&["Enter"]);
    }

    /// Presses keys by their names.
    pub(super) fn keys(&mut self, names: &[&str]) {
        self.tmux(&[&["send-keys"], names].concat());
    }

    /// Pastes as a terminal does that marks what is pasted.
    pub(super) fn paste(&mut self, text: &str) {
        self.place.write("pasted", text);
        let path = self.place.path().join("pasted").display().to_string();
        self.tmux(&["load-buffer", &path]);
        self.tmux(&["paste-buffer", "-p"]);
    }

    pub(super) fn resize(&mut self, width: u32, height: u32) {
        self.tmux(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    pub(super) fn file(&self, name: &str, text: &str) {
        self.place.write(name, text);
    }

    /// What the screen shows.
    pub(super) fn screen(&self) -> String {
        self.capture(&[])
    }

    /// The screen, and what has left it.
    pub(super) fn everything(&self) -> String {
        self.capture(&["-S", "-"])
    }

    /// The screen with its escape codes.
    pub(super) fn styled(&self) -> String {
        self.capture(&["-e", "-S", "-"])
    }

    /// Waits until a text shows.
    #[track_caller]
    pub(super) fn wait(&mut self, text: &str) {
        self.wait_for(|screen| screen.contains(text), text);
    }

    #[track_caller]
    pub(super) fn wait_for(&mut self, shows: impl Fn(&str) -> bool, what: &str) {
        let start = Instant::now();
        while !shows(&self.everything()) {
            assert!(start.elapsed() < PATIENCE, "does not show: {what}\n{}", self.everything());
            std::thread::sleep(GLANCE);
        }
    }

    /// Presses Ctrl-C; gives the time until the prompt is back for the `times`th time.
    #[track_caller]
    pub(super) fn interrupt(&mut self, times: usize) -> Duration {
        let start = Instant::now();
        self.keys(&["C-c"]);
        self.wait_for(|screen| screen.matches("\ninterrupted\nfuse>").count() >= times, "interrupted");
        start.elapsed()
    }
}

/// True if the last line is a prompt.
fn ready(screen: &str) -> bool {
    let last = screen.trim_end().rsplit('\n').next().unwrap_or_default();
    last == "fuse>" || last.starts_with("  ...")
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.socket, "kill-server"]).stderr(Stdio::null()).status();
    }
}
