//! What users meet: the command line.
//!
//! Enters: arguments. Leaves: data on standard output, all else on standard error, an exit code. Always
//! holds: standard output carries nothing but data.

mod args;
mod console;
mod explain;
mod inspect;
mod interrupt;
mod output;
mod pipeline;
mod progress;
mod query;
mod repl;
mod report;
mod status;
mod turn;
mod verify;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::config::{PLANNER_STACK_BYTES, WORKER_STACK_BYTES};
use crate::error::{Error, Kind, Result};

use args::{Args, Command};
use interrupt::{Interrupt, Patience};

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
        Some(Command::Query(query)) => query.flags.threads.map(usize::from),
        Some(Command::Verify(verify)) => verify.threads.map(usize::from),
        Some(Command::Check(_) | Command::Inspect(_)) => None,
        None => args.repl.flags.threads.map(usize::from),
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
    // The line editor draws on standard error.
    let talks = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    match args.command {
        Some(Command::Query(args)) => query::query(&args, Interrupt::listen(Patience::Short)).await,
        Some(Command::Check(args)) => query::check(&args).await,
        Some(Command::Verify(args)) => verify::verify(&args).await,
        Some(Command::Inspect(args)) => inspect::inspect(&args).await,
        None if talks => repl::repl(&args.repl, Interrupt::listen(Patience::Endless)).await,
        None => query::query(&args.repl.piped(), Interrupt::listen(Patience::Short)).await,
    }
}
