//! The screen while statements run: one at a time owns it.
//!
//! Enters: what a statement prints, and the end of its turn. Leaves: text on standard output and standard error,
//! and a line of progress on standard error while nothing is printed. Always holds: the line of progress is gone
//! before anything else shows; once a turn is over, nothing of it shows any more.

use std::io::{self, IsTerminal, Stdout, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FileType;
use tokio::sync::watch;

use super::progress::Bar;
use crate::session::Watch;

/// One turn. Clones share it.
#[derive(Clone)]
pub(super) struct Turn {
    screen: Arc<Mutex<Screen>>,
    over: Arc<watch::Sender<bool>>,
}

#[derive(Default)]
struct Screen {
    bar: Option<Bar>,
    over: bool,
}

impl Turn {
    pub(super) fn new() -> Self {
        Self { screen: Arc::default(), over: Arc::new(watch::Sender::new(false)) }
    }

    fn screen(&self) -> MutexGuard<'_, Screen> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows progress from now on, if a terminal is there to show it.
    pub(super) fn show_progress(&self, watch: Watch) {
        let mut screen = self.screen();
        if !screen.over && io::stderr().is_terminal() {
            screen.bar = Some(Bar::start(watch));
        }
    }

    /// Takes the line of progress from the screen.
    pub(super) fn hide_progress(&self) {
        self.screen().bar = None;
    }

    /// Prints a line to standard error.
    pub(super) fn say(&self, text: &str) {
        self.on_screen(|| {
            // Nothing can be done about a closed standard error.
            let _ = writeln!(io::stderr(), "{text}");
        });
    }

    /// Calls what prints, unless the turn is over.
    pub(super) fn on_screen(&self, print: impl FnOnce()) {
        let mut screen = self.screen();
        screen.bar = None;
        if !screen.over {
            print();
        }
    }

    /// Standard output, for this turn.
    pub(super) fn printer(&self) -> Printer {
        let out = io::stdout();
        let is_file = rustix::fs::fstat(&out).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file());
        Printer { terminal: out.is_terminal(), is_file, out, turn: self.clone() }
    }

    /// Ends the turn: who works for it should stop, and prints no more.
    pub(super) fn end(&self) {
        let mut screen = self.screen();
        screen.bar = None;
        screen.over = true;
        self.over.send_replace(true);
    }

    /// Returns once the turn is over.
    pub(super) async fn ended(&self) {
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }
}

/// Standard output, while the turn lasts.
pub(super) struct Printer {
    out: Stdout,
    terminal: bool,
    is_file: bool,
    turn: Turn,
}

impl Write for Printer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut screen = self.turn.screen();
        if screen.over {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        // A pipe may lead to a pager, which draws on the same terminal.
        if !self.is_file {
            screen.bar = None;
        }
        // The end of the turn does not wait for a reader that does not read.
        if !self.terminal {
            drop(screen);
        }
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
