//! What was typed.
//!
//! Enters: the command line. Leaves: [`Args`], and from them the session's settings. Always holds: no I/O
//! happens here.

use std::time::Duration;

use clap::{Args as Flags, Parser, Subcommand};

use crate::config::{Settings, parse_micros};
use crate::error::{Error, Result};
use crate::format::{Format, Packing};
use crate::parser::Defines;

/// One SQL engine for data at rest and data in motion.
///
/// Without a command, fuse opens an interactive session on a terminal, and runs the SQL of standard input otherwise.
#[derive(Debug, Parser)]
#[command(name = "fuse", version, args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    /// Without one.
    #[command(flatten)]
    pub(super) repl: ReplArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run SQL files: results go to standard output, all else to standard error
    Query(QueryArgs),
    /// Parse and plan SQL files, and run nothing
    Check(CheckArgs),
    /// Rerun a pipeline as a batch over what it has taken, and compare with what it has written
    Verify(VerifyArgs),
    /// Tell what the state folder of a pipeline holds
    Inspect(InspectArgs),
}

/// `fuse` alone.
#[derive(Debug, Flags)]
pub(super) struct ReplArgs {
    /// Run this file first, in place of rc.sql in the folder fuse of the user's configuration (~/.config)
    #[arg(long, value_name = "FILE")]
    pub(super) init: Option<String>,
    /// Put a value in place of $NAME in the SQL
    #[arg(short = 'D', long = "define", value_name = "NAME=VALUE")]
    pub(super) define: Vec<String>,
    /// How to run.
    #[command(flatten)]
    pub(super) flags: RunFlags,
}

/// `fuse verify`.
#[derive(Debug, Flags)]
pub(super) struct VerifyArgs {
    /// The SQL of the pipeline.
    #[command(flatten)]
    pub(super) input: Input,
    /// Folder or s3:// prefix of its state [default: .fuse/NAME of the first SQL file]
    #[arg(long, value_name = "DIR")]
    pub(super) state: Option<String>,
    /// How differing rows are printed: table, csv, ndjson and others as for fuse query
    #[arg(short, long, default_value = "table")]
    pub(super) format: String,
    /// Threads of the batch [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) threads: Option<u16>,
    /// Print nothing if nothing differs
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// `fuse inspect`.
#[derive(Debug, Flags)]
pub(super) struct InspectArgs {
    /// The folder, or s3:// prefix
    #[arg(value_name = "STATE")]
    pub(super) state: String,
    /// How it is printed: text or json
    #[arg(short, long)]
    pub(super) format: Option<String>,
}

/// Where the SQL comes from.
#[derive(Debug, Flags)]
pub(super) struct Input {
    /// SQL files, run one after the other; - is standard input
    #[arg(value_name = "FILE.sql", required_unless_present = "command")]
    pub(super) files: Vec<String>,
    /// Run this SQL
    #[arg(short = 'c', long, value_name = "SQL", conflicts_with = "files", allow_hyphen_values = true)]
    pub(super) command: Vec<String>,
    /// Put a value in place of $NAME in the SQL
    #[arg(short = 'D', long = "define", value_name = "NAME=VALUE")]
    pub(super) define: Vec<String>,
}

/// `fuse check`.
#[derive(Debug, Flags)]
pub(super) struct CheckArgs {
    /// The SQL.
    #[command(flatten)]
    pub(super) input: Input,
    /// Print nothing but errors
    #[arg(short, long)]
    pub(super) quiet: bool,
}

/// How SQL over growing tables runs.
#[derive(Debug, Flags)]
pub(super) struct PipelineArgs {
    /// Take what is there now, commit, and exit
    #[arg(long)]
    pub(super) once: bool,
    /// Exit when nothing has come for so long, such as 5s
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "once")]
    pub(super) until_idle: Option<Duration>,
    /// Look for new input so often
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1s")]
    pub(super) trigger: Duration,
    /// Folder or s3:// prefix of offsets, checkpoints and state [default: .fuse/NAME of the first SQL file]
    #[arg(long, value_name = "DIR")]
    pub(super) state: Option<String>,
    /// Forget the state, remove what was written from it, and start anew
    #[arg(long)]
    pub(super) fresh: bool,
}

/// As without flags.
impl Default for PipelineArgs {
    fn default() -> Self {
        let trigger = Duration::from_secs(1);
        Self { once: false, until_idle: None, trigger, state: None, fresh: false }
    }
}

fn duration(text: &str) -> std::result::Result<Duration, String> {
    let micros = parse_micros(text).and_then(|micros| u64::try_from(micros).ok());
    micros.map(Duration::from_micros).ok_or_else(|| "a time is written as 500ms, 10s, 5m or 1h".to_owned())
}

/// `fuse query`.
#[derive(Debug, Flags)]
pub(super) struct QueryArgs {
    /// The SQL.
    #[command(flatten)]
    pub(super) input: Input,
    /// How to run it.
    #[command(flatten)]
    pub(super) flags: RunFlags,
    /// How to run it over growing tables.
    #[command(flatten)]
    pub(super) pipeline: PipelineArgs,
}

/// What becomes a setting.
#[derive(Debug, Clone, Flags)]
pub(super) struct RunFlags {
    /// How results are printed: table, expanded, csv, tsv, json, ndjson, markdown, parquet, arrow or svg [default: by the ending of -o, else table]
    #[arg(short, long)]
    pub(super) format: Option<String>,
    /// Write results to this file, in one atomic step
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<String>,
    /// Threads that a statement may use [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) threads: Option<u16>,
    /// Memory that a statement may use before it spills to disk, such as 8GB [default: three quarters of the machine's]
    #[arg(long, value_name = "SIZE")]
    pub(super) memory_limit: Option<String>,
    /// Folder for what does not fit in memory
    #[arg(long, value_name = "DIR")]
    pub(super) temp_dir: Option<String>,
    /// Print how long each statement took
    #[arg(long)]
    pub(super) timing: bool,
    /// Print nothing but data and errors
    #[arg(short, long)]
    pub(super) quiet: bool,
}

impl RunFlags {
    /// The settings that these flags make.
    pub(super) fn settings(&self) -> Result<Settings> {
        let mut settings = Settings::default();
        if let Some(format) = &self.format {
            format.parse::<Format>()?;
            settings.format.clone_from(format);
        }
        if self.output.as_deref() == Some("") {
            return Err(Error::usage("-o needs the name of a file"));
        }
        if let Some(output) = &self.output {
            settings.output.clone_from(output);
            Packing::of_path(output)?;
            if self.format.is_none() && Format::of_path(output).is_none() {
                return Err(
                    Error::usage(format!("the ending of '{output}' does not tell a format")).hint("add --format")
                );
            }
        }
        settings.threads = self.threads.map_or(0, usize::from);
        if let Some(limit) = &self.memory_limit {
            crate::config::parse_bytes(limit)?;
            settings.memory_limit.clone_from(limit);
        }
        settings.temp_dir = self.temp_dir.clone().unwrap_or_default();
        settings.timing = self.timing;
        settings.quiet = self.quiet;
        Ok(settings)
    }
}

impl ReplArgs {
    /// Without a terminal to talk to: as `fuse query -`.
    pub(super) fn piped(self) -> QueryArgs {
        let input = Input { files: vec!["-".to_owned()], command: Vec::new(), define: self.define };
        QueryArgs { input, flags: self.flags, pipeline: PipelineArgs::default() }
    }
}

impl Input {
    /// What the first text is called.
    pub(super) fn name(&self) -> &str {
        self.files.first().map_or("-c", String::as_str)
    }

    /// The values of `-D`.
    pub(super) fn defines(&self) -> Result<Defines> {
        defines(&self.define)
    }
}

/// The values of `-D`.
pub(super) fn defines(define: &[String]) -> Result<Defines> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Error::usage(format!("-D {text} is not NAME=VALUE"))),
    };
    define.iter().map(pair).collect()
}
