//! A pipeline on the command line.
//!
//! Enters: the statements over growing tables of a `fuse query`. Leaves: what they write, and how far they are, on
//! standard error: a line that is painted anew on a terminal, else a line every ten seconds. Always holds: Ctrl-C
//! ends it behind an epoch, a second one at once.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::args::PipelineArgs;
use super::console::ConsoleSink;
use super::interrupt::{Interrupt, Patience};
use super::status::Status;
use crate::config::Settings;
use crate::error::{Error, Kind, Result, sql_type};
use crate::format::clip;
use crate::planner::IncrementalPlan;
use crate::runtime::{self, Ended, Pipeline, ProgressCell, RunOptions, Until};
use crate::session::Session;
use crate::source::stream::Look;

/// How often a terminal is painted.
const PAINT: Duration = Duration::from_millis(200);
/// How often a line is logged where there is no terminal.
const LOG: Duration = Duration::from_secs(10);

/// Columns that were added to tables, and the plan without them.
pub(super) struct Evolved {
    tables: BTreeMap<String, Look>,
    before: Arc<IncrementalPlan>,
}

impl Evolved {
    /// Gives the tables of a session their columns.
    pub(super) fn apply(&self, session: &Session) {
        for (table, look) in &self.tables {
            session.remember_table(table, look.clone());
        }
    }
}

/// What is known of the SQL of a pipeline.
pub(super) struct Told<'a> {
    /// By what its state is known.
    pub(super) name: &'a str,
    /// It came on standard input.
    pub(super) piped: bool,
    /// It has EXPLAIN INCREMENTAL, which looks at a state too.
    pub(super) explained: bool,
}

/// Runs the pipeline of the session, if its statements made one. Gives columns that were added, with which all is to
/// be planned anew; `evolved` are those that were given before.
pub(super) async fn run(
    session: &Session,
    args: &PipelineArgs,
    told: &Told<'_>,
    mut interrupt: Interrupt,
    evolved: Option<&Evolved>,
) -> Result<Option<Evolved>> {
    let settings = session.settings();
    let Some(mut pipeline) = pipeline(session, &settings, told.explained)? else {
        return if told.explained { Ok(None) } else { args.expect_none().map(|()| None) };
    };
    if pipeline.reads_standard_input() && told.piped {
        return Err(Error::usage("standard input holds the SQL, so a table cannot read it")
            .hint("put the SQL into a file, or behind -c"));
    }
    pipeline.evolved_from = evolved.map(|evolved| Arc::clone(&evolved.before));
    let before = Arc::clone(&pipeline.plan);
    let mut options = options(session, args, told.name)?;
    options.fresh &= evolved.is_none();
    for (operator, reason) in pipeline.recomputed.iter().filter(|_| !settings.quiet && evolved.is_none()) {
        eprintln!("note: {operator} is computed anew from all input at each change: {reason}");
    }
    interrupt.be(Patience::Long);
    let (stop, stopped) = watch::channel(false);
    let progress = ProgressCell::default();
    let painter = Painter::new(&settings, &options, progress.clone());
    let result = tokio::select! {
        result = runtime::run(pipeline, &options, stopped, &progress) => result,
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
    let epoch = match result? {
        Ended::Stopped(epoch) => epoch,
        Ended::Evolved(tables) => {
            if !settings.quiet {
                tables.iter().for_each(|(table, look)| eprintln!("note: {}", added(table, look, &before)));
            }
            return Ok(Some(Evolved { tables, before }));
        }
    };
    if !settings.quiet {
        match options.until {
            Until::CaughtUp => eprintln!("{}", painter.summary()),
            _ => eprintln!("stopped at epoch {epoch}; the same command goes on from there"),
        }
    }
    Ok(None)
}

/// The columns that were added to a table, in words.
fn added(table: &str, look: &Look, before: &IncrementalPlan) -> String {
    let known = before.sources.iter().find(|source| source.name == table).map(|source| source.table.schema());
    let is_new = |name: &str| known.as_ref().is_none_or(|known| known.index_of(name).is_err());
    let new = look.columns.fields().iter().filter(|field| is_new(field.name()));
    let new: Vec<String> = new.map(|field| format!("{} {}", field.name(), sql_type(field.data_type()))).collect();
    format!("{table} has new columns: {}; from here on they are there, NULL in the rows before", new.join(", "))
}

/// The pipeline of the session's statements; nothing if there is none.
fn pipeline(session: &Session, settings: &Settings, explained: bool) -> Result<Option<Pipeline>> {
    let console = |columns, append_only, order| ConsoleSink::boxed(columns, append_only, order, settings);
    let pipeline = session.pipeline(&console)?;
    let unread = session.unread_views();
    if pipeline.is_none() && explained {
        return Ok(None);
    }
    if pipeline.is_none()
        && let Some(view) = unread.first()
    {
        return Err(Error::sql(format!("nothing reads the materialized view {view}, so there is nothing to do")).hint(
            format!("write it: COPY (SELECT * FROM {view}) TO '{view}.parquet'; or print it: SELECT * FROM {view}"),
        ));
    }
    if !settings.quiet {
        unread.iter().for_each(|view| eprintln!("note: nothing reads {view}, so it is not computed"));
    }
    Ok(pipeline)
}

/// Where the state is of a pipeline whose first SQL file has that name, unless it is `given`.
pub(super) fn state(given: Option<&str>, name: &str) -> String {
    let default = || {
        let stem = Path::new(name).file_stem().map(|stem| stem.to_string_lossy().into_owned());
        format!(".fuse/{}", stem.unwrap_or_else(|| name.to_owned()))
    };
    given.map_or_else(default, str::to_owned)
}

/// Growing tables keep the columns that they had when their pipeline was first run.
pub(super) async fn remember(session: &Session, args: &PipelineArgs, name: &str) -> Result<()> {
    let state = state(args.state.as_deref(), name);
    if args.fresh || !(state.contains("://") || Path::new(&state).is_dir()) {
        return Ok(());
    }
    session.remember(&session.state_folder(&state)?).await
}

fn options(session: &Session, args: &PipelineArgs, name: &str) -> Result<RunOptions> {
    let folder = session.state_folder(&state(args.state.as_deref(), name))?;
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
    status: Mutex<Status>,
    state: String,
}

impl Painter {
    fn new(settings: &Settings, options: &RunOptions, progress: ProgressCell) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let status = Mutex::new(Status::new(progress));
        Self { terminal, quiet: settings.quiet, status, state: options.folder.name() }
    }

    fn status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn paint(&self) -> ! {
        loop {
            tokio::time::sleep(if self.terminal { PAINT } else { LOG }).await;
            if self.quiet {
                continue;
            }
            let line = self.status().line();
            if self.terminal {
                let width = terminal_size::terminal_size_of(std::io::stderr()).map_or(80, |(width, _)| width.0);
                let _ = write!(std::io::stderr(), "\r\x1b[K{}", clip(&line, usize::from(width.saturating_sub(1))));
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

    fn summary(&self) -> String {
        let status = self.status();
        format!("{}, {:.2} s; state in {}", status.summary(), status.elapsed().as_secs_f64(), self.state)
    }
}
