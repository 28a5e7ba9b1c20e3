//! What users meet: the command line.
//!
//! Enters: arguments. Leaves: data on standard output, all else on standard error, an exit code. Always
//! holds: standard output carries nothing but data.

mod args;
mod output;
mod query;
mod report;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::config::{PLANNER_STACK_BYTES, WORKER_STACK_BYTES};
use crate::error::{Error, Kind, Result};

use args::{Args, Command};

/// How long a stopped statement may take to clean up after Ctrl-C.
const INTERRUPT_GRACE: Duration = Duration::from_secs(2);

/// Runs the program; gives its exit code.
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // `--help` and `--version` come here too: they print to standard output and are no error.
            let code = error.exit_code();
            let _ = error.print();
            return ExitCode::from(u8::try_from(code).unwrap_or(2));
        }
    };
    // Deeply nested SQL needs a deep stack. Only what is used of it costs memory.
    let thread = std::thread::Builder::new().name("fuse".to_owned()).stack_size(PLANNER_STACK_BYTES);
    let done = thread.spawn(move || start(args)).map(std::thread::JoinHandle::join);
    match done {
        Ok(Ok(code)) => code,
        // The panic has printed its message.
        Ok(Err(_)) => ExitCode::from(Kind::Query.exit_code()),
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            ExitCode::from(Kind::Query.exit_code())
        }
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
            runtime.shutdown_timeout(INTERRUPT_GRACE);
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
    match args.command {
        Command::Query(args) => query::query(&args).await,
        Command::Check(args) => query::check(&args).await,
    }
}

/// Waits for Ctrl-C. Should the caller be unable to stop, because a reader of our output does not read, the
/// process ends all the same.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        return std::future::pending().await;
    }
    std::thread::spawn(|| {
        std::thread::sleep(INTERRUPT_GRACE);
        std::process::exit(i32::from(Kind::Interrupted.exit_code()));
    });
}
