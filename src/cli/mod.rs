//! What users meet: the command line.
//!
//! Enters: arguments. Leaves: data on standard output, all else on standard error, an exit code. Always
//! holds: standard output carries nothing but data.

mod args;
mod console;
mod output;
mod pipeline;
mod query;
mod report;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;

use crate::config::{PLANNER_STACK_BYTES, WORKER_STACK_BYTES};
use crate::error::{Error, Kind, Result};

use args::{Args, Command};

/// How long a stopped statement may take to clean up after Ctrl-C.
const INTERRUPT_GRACE: Duration = Duration::from_secs(2);
/// How long the worker threads may take to notice that their query has gone.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(100);

/// Runs the program; gives its exit code.
pub fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    let _failpoints = fail::FailScenario::setup();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // `--help` and `--version` come here too: they print to standard output and are no error.
            let code = error.exit_code();
            let _ = error.print();
            return ExitCode::from(u8::try_from(code).unwrap_or(2));
        }
    };
    log_to_stderr();
    // A panic becomes an error of its statement. RUST_BACKTRACE=full shows where it came from.
    if std::env::var_os("RUST_BACKTRACE").is_none_or(|value| value != "full") {
        std::panic::set_hook(Box::new(|_| {}));
    }
    // Deeply nested SQL needs a deep stack. Only what is used of it costs memory.
    let thread = std::thread::Builder::new().name("fuse".to_owned()).stack_size(PLANNER_STACK_BYTES);
    let done = thread.spawn(move || start(args)).map(std::thread::JoinHandle::join);
    match done {
        Ok(Ok(code)) => code,
        Ok(Err(panic)) => {
            report::error(&Error::from_panic(panic.as_ref()), None);
            ExitCode::from(Kind::Query.exit_code())
        }
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            ExitCode::from(Kind::Query.exit_code())
        }
    }
}

/// What libraries log, for those who ask by RUST_LOG.
fn log_to_stderr() {
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_default_env() {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
}

fn start(args: Args) -> ExitCode {
    let threads = match &args.command {
        Command::Query(query) => query.threads.map(usize::from),
        Command::Check(_) => None,
    };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all().thread_stack_size(WORKER_STACK_BYTES);
    if let Some(threads) = threads {
        runtime.worker_threads(threads);
    }
    let result = match runtime.build() {
        Ok(runtime) => {
            let result = runtime.block_on(run(args));
            runtime.shutdown_timeout(SHUTDOWN_GRACE);
            result
        }
        Err(error) => Err(Error::from(error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if error.kind != Kind::Closed {
                report::error(&error, None);
            }
            ExitCode::from(error.kind.exit_code())
        }
    }
}

async fn run(args: Args) -> Result<()> {
    let interrupt = Interrupt::listen();
    match args.command {
        Command::Query(args) => query::query(&args, interrupt).await,
        Command::Check(args) => query::check(&args).await,
    }
}

/// Ctrl-C, seen by a thread of its own: a query may keep all others busy, and the one that prints may be
/// blocked by a reader that does not read.
struct Interrupt {
    presses: tokio::sync::watch::Receiver<u32>,
    patient: Arc<AtomicBool>,
}

impl Interrupt {
    /// Listens from now on. Should the program be unable to stop in time, the process ends all the same.
    fn listen() -> Self {
        let (sender, presses) = tokio::sync::watch::channel(0);
        let patient = Arc::new(AtomicBool::new(false));
        let waits = Arc::clone(&patient);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            while runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
                sender.send_modify(|presses| *presses += 1);
                if !waits.load(Ordering::Relaxed) || *sender.borrow() > 1 {
                    std::thread::sleep(INTERRUPT_GRACE);
                    std::process::exit(i32::from(Kind::Interrupted.exit_code()));
                }
            }
        });
        Self { presses, patient }
    }

    /// Returns once Ctrl-C has been pressed.
    async fn pressed(&mut self) {
        self.pressed_times(1).await;
    }

    /// Returns once Ctrl-C has been pressed twice.
    async fn pressed_again(&mut self) {
        self.pressed_times(2).await;
    }

    async fn pressed_times(&mut self, times: u32) {
        if self.presses.wait_for(|presses| *presses >= times).await.is_err() {
            // Nobody listens.
            std::future::pending::<()>().await;
        }
    }

    /// From now on the first Ctrl-C may take its time; the second ends the process.
    fn be_patient(&self) {
        self.patient.store(true, Ordering::Relaxed);
    }
}
