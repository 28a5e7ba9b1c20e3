//! `fuse` on a terminal: read, run, print, and again.
//!
//! Enters: inputs that were typed. Leaves: results on the terminal. Always holds: an error, or Ctrl-C in a
//! statement, ends that input and keeps the session.
//!
//! Two threads: one reads keys and waits, one runs inputs in order. So Ctrl-C gives the prompt back at once, also
//! while an operator is busy and cannot stop yet: its turn is over, it prints no more, and the next input waits
//! for its end.

mod command;
mod complete;
mod editor;
mod live;
mod shell;

use std::io::{IsTerminal, Write};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use etcetera::BaseStrategy;
use futures::FutureExt;
use reedline::{Reedline, Signal};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::args::{ReplArgs, defines};
use super::interrupt::{INTERRUPT_GRACE, Interrupt};
use super::report;
use super::turn::Turn;
use crate::config::WORKER_STACK_BYTES;
use crate::error::{Error, Result};
use crate::parser::Reading;
use crate::session::Session;
use complete::Helper;
use editor::Signs;
use shell::{Flow, Shell};

/// How long the prompt waits for a stopped statement.
const STOP_PATIENCE: Duration = Duration::from_millis(50);

/// An input, and the turn in which it runs.
struct Input {
    what: What,
    turn: Turn,
    done: oneshot::Sender<Flow>,
}

enum What {
    /// What was typed.
    Text(String),
    /// The file that is run first.
    File(String),
}

/// Runs a session on the terminal.
pub(super) async fn repl(args: &ReplArgs, interrupt: Interrupt) -> Result<()> {
    let mut settings = args.flags.settings()?;
    settings.timing = true;
    let quiet = settings.quiet;
    let session = Arc::new(Session::new(settings)?);
    let reading = Reading { defines: defines(&args.define)?, dialect: None };
    let foreign = Arc::new(AtomicBool::new(false));
    let mut shell = Shell::new(Arc::clone(&session), reading, Arc::clone(&foreign));
    let (send, mut inputs) = mpsc::unbounded_channel::<Input>();
    let front = Front {
        session: Arc::clone(&session),
        runtime: Handle::current(),
        send,
        interrupt,
        foreign,
        init: args.init.clone(),
        quiet,
        busy: None,
    };
    // It plans small queries for completion.
    let thread = std::thread::Builder::new().name("prompt".to_owned()).stack_size(WORKER_STACK_BYTES);
    let front = thread.spawn(move || front.run())?;
    while let Some(Input { what, turn, done }) = inputs.recv().await {
        let run = async {
            match what {
                What::Text(text) => shell.input("", &text, &turn).await,
                What::File(name) => shell.file(&name, &turn).await,
            }
        };
        let flow = tokio::select! {
            biased;
            () = turn.ended() => Flow::Stopped,
            flow = AssertUnwindSafe(run).catch_unwind() => flow.unwrap_or_else(|panic| {
                turn.on_screen(|| report::error(&Error::from_panic(panic.as_ref()), None));
                Flow::Failed
            }),
        };
        if flow == Flow::Stopped {
            session.abort().await;
            shell.stopped();
        }
        turn.hide_progress();
        let _ = done.send(flow);
    }
    let result = front.join().unwrap_or_else(|panic| Err(Error::from_panic(panic.as_ref())));
    shell.finish().await?;
    result
}

/// The side of the keyboard.
struct Front {
    session: Arc<Session>,
    runtime: Handle,
    send: mpsc::UnboundedSender<Input>,
    interrupt: Interrupt,
    /// A pager has the terminal, and Ctrl-C is for it.
    foreign: Arc<AtomicBool>,
    init: Option<String>,
    quiet: bool,
    /// A stopped input that has not ended yet.
    busy: Option<oneshot::Receiver<Flow>>,
}

impl Front {
    fn run(mut self) -> Result<()> {
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let inputs = Arc::new(AtomicU64::new(0));
        let empty = Arc::new(AtomicBool::new(true));
        let helper = Helper::new(Arc::clone(&self.session), self.runtime.clone(), Arc::clone(&inputs));
        let mut editor = editor::editor(helper, colour, Arc::clone(&empty))?;
        if !self.quiet {
            eprintln!("fuse {}. .help lists the commands, Ctrl-D leaves.", env!("CARGO_PKG_VERSION"));
        }
        if self.run_first()? == Flow::Quit {
            return Ok(());
        }
        loop {
            match editor.read_line(&Signs) {
                Ok(Signal::Success(text)) => {
                    let _ = editor.sync_history();
                    let flow = self.turn(What::Text(text));
                    inputs.fetch_add(1, Ordering::Relaxed);
                    if flow == Flow::Quit {
                        break;
                    }
                }
                Ok(Signal::CtrlC) => {
                    if empty.swap(true, Ordering::Relaxed) {
                        eprintln!("Ctrl-D or .quit leaves.");
                    }
                }
                Ok(Signal::CtrlD) => break,
                Ok(_) => {}
                // The terminal has gone.
                Err(_) => break,
            }
        }
        self.leave(editor);
        Ok(())
    }

    /// The file of `--init`, or the user's rc.sql if there is one.
    fn run_first(&mut self) -> Result<Flow> {
        if let Some(name) = self.init.take() {
            return Ok(self.turn(What::File(name)));
        }
        match editor::folder(|user| user.config_dir()).map(|folder| folder.join("rc.sql")) {
            Some(path) if path.exists() => Ok(self.turn(What::File(path.display().to_string()))),
            _ => Ok(Flow::Continue),
        }
    }

    /// Runs an input; Ctrl-C ends its turn.
    fn turn(&mut self, what: What) -> Flow {
        let turn = Turn::new();
        let (done, mut finished) = oneshot::channel();
        self.interrupt.forget();
        if self.send.send(Input { what, turn: turn.clone(), done }).is_err() {
            return Flow::Quit;
        }
        let Self { runtime, interrupt, foreign, busy, .. } = self;
        runtime.block_on(async {
            loop {
                tokio::select! {
                    flow = &mut finished => {
                        *busy = None;
                        return flow.unwrap_or(Flow::Quit);
                    }
                    () = interrupt.pressed() => {
                        if foreign.load(Ordering::Relaxed) {
                            interrupt.forget();
                            continue;
                        }
                        turn.end();
                        eprintln!("\ninterrupted");
                        if tokio::time::timeout(STOP_PATIENCE, &mut finished).await.is_err() {
                            *busy = Some(finished);
                        }
                        return Flow::Continue;
                    }
                }
            }
        })
    }

    /// Ends the process should a stopped statement not end.
    fn leave(self, editor: Reedline) {
        drop(editor);
        if std::io::stdin().is_terminal() && !self.quiet {
            let _ = writeln!(std::io::stderr());
        }
        if let Some(mut busy) = self.busy
            && busy.try_recv().is_err()
        {
            std::thread::spawn(|| {
                std::thread::sleep(INTERRUPT_GRACE);
                std::process::exit(0);
            });
        }
    }
}
