//! A pipeline on the command line.
//!
//! Enters: the statements over growing tables of a `fuse query`. Leaves: what they write, and how far they are, on
//! standard error: a line that is painted anew on a terminal, else a line every ten seconds. Always holds: Ctrl-C
//! ends it behind an epoch, a second one at once.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::args::PipelineArgs;
use super::console::ConsoleSink;
use super::interrupt::{Interrupt, Patience};
use super::report::count;
use crate::config::Settings;
use crate::error::{Error, Kind, Result};
use crate::runtime::{self, Pipeline, Progress, ProgressCell, RunOptions, Until};
use crate::session::Session;

/// How often a terminal is painted.
const PAINT: Duration = Duration::from_millis(200);
/// How often a line is logged where there is no terminal.
const LOG: Duration = Duration::from_secs(10);

/// Runs the pipeline of the session, if its statements made one. `name` is that of the first SQL file.
pub(super) async fn run(session: &Session, args: &PipelineArgs, name: &str, mut interrupt: Interrupt) -> Result<()> {
    let settings = session.settings();
    let console = |columns, append_only, order| ConsoleSink::boxed(columns, append_only, order, &settings);
    let Some(pipeline) = session.pipeline(&console)? else { return args.expect_none() };
    let options = options(session, args, name)?;
    for (operator, reason) in pipeline.recomputed.iter().filter(|_| !settings.quiet) {
        eprintln!("note: {operator} is computed anew from all input at each change: {reason}");
    }
    interrupt.be(Patience::Long);
    let (stop, stopped) = watch::channel(false);
    let progress = ProgressCell::default();
    let painter = Painter::new(&settings, &options, progress.clone());
    let result = tokio::select! {
        result = work(pipeline, &options, stopped, &progress) => result,
        never = async {
            interrupt.pressed().await;
            let _ = stop.send(true);
            interrupt.pressed_again().await;
            // What is under way is run again by the next run.
            std::process::exit(i32::from(Kind::Interrupted.exit_code()))
        } => never,
        never = painter.paint() => never,
    };
    painter.clear();
    let epoch = result?;
    if !settings.quiet {
        match options.until {
            Until::CaughtUp => eprintln!("{}", painter.summary()),
            _ => eprintln!("stopped at epoch {epoch}; the same command goes on from there"),
        }
    }
    Ok(())
}

async fn work(
    pipeline: Pipeline,
    options: &RunOptions,
    stopped: watch::Receiver<bool>,
    progress: &ProgressCell,
) -> Result<u64> {
    runtime::run(pipeline, options, stopped, progress).await
}

fn options(session: &Session, args: &PipelineArgs, name: &str) -> Result<RunOptions> {
    let default = || {
        let stem = Path::new(name).file_stem().map(|stem| stem.to_string_lossy().into_owned());
        format!(".fuse/{}", stem.filter(|stem| !stem.starts_with(['-', '<'])).unwrap_or_else(|| "command".to_owned()))
    };
    let folder = session.state_folder(&args.state.clone().unwrap_or_else(default))?;
    let until = match (args.once, args.until_idle) {
        (true, _) => Until::CaughtUp,
        (false, Some(limit)) => Until::Idle(limit),
        (false, None) => Until::Stopped,
    };
    Ok(RunOptions { folder, trigger: args.trigger, until, fresh: args.fresh })
}

impl PipelineArgs {
    /// Without a pipeline its flags mean nothing; those that only say when to stop are harmless.
    fn expect_none(&self) -> Result<()> {
        if self.fresh || self.state.is_some() {
            return Err(Error::usage("--state and --fresh are for SQL that reads a growing table")
                .hint("CREATE UNBOUNDED EXTERNAL TABLE makes one"));
        }
        Ok(())
    }
}

/// Says how far a pipeline is.
struct Painter {
    terminal: bool,
    quiet: bool,
    start: Instant,
    progress: ProgressCell,
    state: String,
}

impl Painter {
    fn new(settings: &Settings, options: &RunOptions, progress: ProgressCell) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { terminal, quiet: settings.quiet, start: Instant::now(), progress, state: options.folder.name() }
    }

    async fn paint(&self) -> ! {
        let mut before = (Instant::now(), Progress::default());
        let mut rates = (0.0, 0.0);
        loop {
            tokio::time::sleep(if self.terminal { PAINT } else { LOG }).await;
            if self.quiet {
                continue;
            }
            let now = self.progress.read();
            let seconds = before.0.elapsed().as_secs_f64();
            if seconds >= 1.0 {
                let rate = |now: u64, then: u64| (now - then) as f64 / seconds;
                rates = (rate(now.rows_in, before.1.rows_in), rate(now.rows_out, before.1.rows_out));
                before = (Instant::now(), now.clone());
            }
            let line = self.line(&now, rates);
            if self.terminal {
                let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
            } else {
                eprintln!("{line}");
            }
        }
    }

    fn clear(&self) {
        if self.terminal && !self.quiet {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }

    fn line(&self, now: &Progress, rates: (f64, f64)) -> String {
        let seconds = self.start.elapsed().as_secs();
        let lag = if now.waiting_bytes > 0 { bytes(now.waiting_bytes as f64) } else { "none".to_owned() };
        let clock = crate::clock::now_micros();
        let ago = if now.epoch == 0 {
            "no commit yet".to_owned()
        } else {
            let micros = clock - now.epoch_micros;
            format!("commit {}s ago (#{})", micros / 1_000_000, now.epoch)
        };
        format!(
            "running {:02}:{:02}  in {}/s  out {}/s  lag {lag}  state {}  {ago}{}",
            seconds / 60,
            seconds % 60,
            short(rates.0),
            short(rates.1),
            bytes(now.state.1 as f64),
            left_out(now.skipped),
        )
    }

    fn summary(&self) -> String {
        let now = self.progress.read();
        format!(
            "{} read{}, {} written, epoch {}, {:.2} s; state in {}",
            count(now.rows_in, "row"),
            left_out(now.skipped),
            count(now.rows_out, "change"),
            now.epoch,
            self.start.elapsed().as_secs_f64(),
            self.state,
        )
    }
}

/// How many records could not be read, if any.
fn left_out(skipped: u64) -> String {
    if skipped == 0 { String::new() } else { format!(", {} left out", count(skipped, "bad record")) }
}

/// A number such as 48.1k.
fn short(number: f64) -> String {
    match number {
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n if n >= 1e3 => format!("{:.1}k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

/// A size such as 82 MB.
fn bytes(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.1} GB", n / 1e9),
        n if n >= 1e6 => format!("{:.0} MB", n / 1e6),
        n if n >= 1e3 => format!("{:.0} kB", n / 1e3),
        n => format!("{n:.0} B"),
    }
}
