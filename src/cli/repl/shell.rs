//! What an input does.
//!
//! Enters: inputs and files of SQL and commands. Leaves: results, and what the commands say. Always holds: the
//! first error ends an input; the last result is kept as far as a limit, and a longer one is asked for again.

use std::io::{BufWriter, IsTerminal, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use tokio::sync::watch;

use super::super::output::Output;
use super::super::query::read_script;
use super::super::report;
use super::super::status::Status;
use super::super::turn::Turn;
use super::command::{Action, COMMANDS, Command, Piece, pieces};
use super::live::{Keys, Screen};
use crate::chart::Chart;
use crate::config::KEPT_RESULT_BYTES;
use crate::error::{Error, Kind, Result, Span};
use crate::format::{Format, Shape, encoder, refuse_many_rows, type_name};
use crate::parser::{self, Reading, Script, Statement};
use crate::runtime::{self, Ended, ProgressCell, RunOptions, Until};
use crate::session::{Outcome, Session};

/// Files that may read one another.
const NESTED_FILES: usize = 16;

/// How often new input is looked for, where the result is shown, and where it is written.
const SHOWN_TRIGGER: Duration = Duration::from_millis(100);
const WRITTEN_TRIGGER: Duration = Duration::from_secs(1);

/// What is not a table of the user.
const USER_TABLES: &str = "WHERE table_schema <> 'information_schema'";

/// What comes after an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Continue,
    /// It failed: what follows it in its file does not run.
    Failed,
    /// Ctrl-C.
    Stopped,
    Quit,
}

/// The last result.
struct Last {
    statement: Statement,
    /// Its SQL.
    text: String,
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    bytes: usize,
    rows: u64,
    /// All of its batches are kept.
    whole: bool,
}

/// The side of the session.
pub(super) struct Shell {
    session: Arc<Session>,
    output: Output,
    reading: Reading,
    last: Option<Last>,
    /// Set while a pager has the terminal.
    foreign: Arc<AtomicBool>,
    files: usize,
    /// SQL of ours runs: its result is not the last one.
    asking: bool,
    /// No row is left out.
    all_rows: bool,
}

impl Shell {
    pub(super) fn new(session: Arc<Session>, reading: Reading, foreign: Arc<AtomicBool>) -> Self {
        Self {
            session,
            output: Output::default(),
            reading,
            last: None,
            foreign,
            files: 0,
            asking: false,
            all_rows: false,
        }
    }

    /// Runs a text; `name` is what errors call it by.
    pub(super) async fn input(&mut self, name: &str, text: &str, turn: &Turn) -> Flow {
        for piece in pieces(text) {
            let flow = match piece {
                Piece::Command(range) => self.command(&text[range], turn).await,
                Piece::Sql(range) => {
                    // What is before turns to blanks, so that places count from the start of the text.
                    let blank: String = text[..range.start].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
                    let text = format!("{blank}{}", &text[range]);
                    self.statements(&Script { name: name.to_owned(), text }, turn).await
                }
            };
            if flow != Flow::Continue {
                return flow;
            }
        }
        Flow::Continue
    }

    /// Runs a file.
    pub(super) async fn file(&mut self, name: &str, turn: &Turn) -> Flow {
        if self.files == NESTED_FILES {
            return tell(turn, Error::usage(format!("{name}: more than {NESTED_FILES} files that read one another")));
        }
        let script = match read_script(name) {
            Ok(script) => script,
            Err(error) => return tell(turn, error),
        };
        self.files += 1;
        let flow = Box::pin(self.input(&script.name, &script.text, turn)).await;
        self.files -= 1;
        flow
    }

    /// After Ctrl-C.
    pub(super) fn stopped(&mut self) {
        self.files = 0;
        (self.asking, self.all_rows) = (false, false);
        self.foreign.store(false, Ordering::Relaxed);
        let _ = self.output.undo();
    }

    /// At the end of the session: the file of `.output` gets its name.
    pub(super) async fn finish(&mut self) -> Result<()> {
        self.output.commit().await
    }

    async fn statements(&mut self, script: &Script, turn: &Turn) -> Flow {
        let statements = match parser::parse(script, &self.reading) {
            Ok(statements) => statements,
            Err(error) => return tell_at(turn, &error, script, None),
        };
        for statement in statements {
            if let Err(error) = self.statement(script, &statement, turn).await {
                self.session.abort().await;
                let _ = self.output.undo();
                return tell_at(turn, &parser::locate(error, &statement), script, Some(statement.span));
            }
            self.reading.note(&statement);
        }
        Flow::Continue
    }

    async fn statement(&mut self, script: &Script, statement: &Statement, turn: &Turn) -> Result<()> {
        let start = Instant::now();
        if !self.session.settings().quiet {
            turn.show_progress(self.session.watch());
        }
        let outcome = self.session.execute(statement.clone()).await?;
        let mut settings = self.session.settings();
        if self.all_rows {
            settings.table_rows = 0;
        }
        let (summary, plan) = match outcome {
            Outcome::Done => ("done".to_owned(), false),
            Outcome::Continuous => (self.live(turn).await?, false),
            Outcome::Written { rows, target } => (format!("{} written to {target}", report::count(rows, "row")), false),
            Outcome::Rows(rows) => {
                let mut last = (!statement.is_explain() && !self.asking).then(|| Last {
                    statement: statement.clone(),
                    text: text_of(script, statement),
                    schema: rows.schema(),
                    batches: Vec::new(),
                    bytes: 0,
                    rows: 0,
                    whole: true,
                });
                let keep = |batch: &RecordBatch| {
                    if let Some(last) = &mut last {
                        last.keep(batch);
                    }
                };
                let printed = self.output.print(rows, statement, &settings, turn, keep).await?;
                self.last = last.or(self.last.take());
                let rows = report::count(printed.rows, "row");
                let summary = match printed.summary(true) {
                    Some(summary) if printed.for_people => summary,
                    _ if settings.output.is_empty() => rows,
                    _ => format!("{rows} for {}", settings.output),
                };
                (summary, printed.plan)
            }
        };
        let time = settings.timing.then(|| format!("{:.2} s", start.elapsed().as_secs_f64()));
        let parts: Vec<String> = (!plan).then_some(summary).into_iter().chain(time).collect();
        if !settings.quiet && !parts.is_empty() {
            turn.say(&parts.join(", "));
        }
        Ok(())
    }

    /// Runs a statement over growing tables until a key stops it; says how it ended.
    async fn live(&self, turn: &Turn) -> Result<String> {
        turn.hide_progress();
        let progress = ProgressCell::default();
        let screen = Screen::new(turn, Status::new(progress.clone()));
        let shown = AtomicBool::new(false);
        let console = |columns, append_only, order| {
            shown.store(true, Ordering::Relaxed);
            screen.sink(columns, append_only, order)
        };
        let Some(pipeline) = self.session.pipeline(&console)? else { return Ok("done".to_owned()) };
        if pipeline.reads_standard_input() {
            return Err(Error::query("standard input is the keyboard here")
                .hint("fuse query FILE.sql reads what is piped into it"));
        }
        for (operator, reason) in &pipeline.recomputed {
            turn.say(&format!("note: {operator} is computed anew from all input at each change: {reason}"));
        }
        // What is only shown is begun anew each time; what is written goes on.
        let scratch = tempfile::tempdir()?;
        let place = match shown.load(Ordering::Relaxed) {
            true => scratch.path().display().to_string(),
            false => format!(".fuse/session-{:08x}", crc32fast::hash(pipeline.identity()?.as_bytes())),
        };
        let trigger = if shown.load(Ordering::Relaxed) { SHOWN_TRIGGER } else { WRITTEN_TRIGGER };
        let folder = self.session.state_folder(&place)?;
        let options = RunOptions { folder, trigger, until: Until::Stopped, fresh: false };
        let (stop, stopped) = watch::channel(false);
        let (press, mut pressed) = watch::channel(0);
        let keys = Keys::listen(press)?;
        let run = tokio::select! {
            run = runtime::run(pipeline, &options, stopped, &progress) => run.map(Some),
            failed = screen.paint() => failed.map(|()| None),
            () = async {
                let _ = pressed.wait_for(|presses| *presses > 0).await;
                let _ = stop.send(true);
                if pressed.wait_for(|presses| *presses > 1).await.is_err() {
                    std::future::pending::<()>().await;
                }
            } => Ok(None),
        };
        let finished = screen.finish();
        drop(keys);
        self.session.remember_work(&progress.read().operators);
        let epoch = run?;
        finished?;
        Ok(match (epoch, shown.load(Ordering::Relaxed)) {
            (Some(Ended::Evolved(tables)), _) => {
                let tables = tables.into_keys().collect::<Vec<_>>().join(", ");
                return Err(Error::query(format!("{tables} has new columns"))
                    .hint("CREATE OR REPLACE the table to see them; fuse query FILE.sql adds them while it runs"));
            }
            (Some(Ended::Stopped(epoch)), false) => {
                format!("stopped at epoch {epoch}; the same statement goes on from there (state in {place})")
            }
            (None, false) => format!("stopped within an epoch, which the same statement runs again (state in {place})"),
            (_, true) => format!("stopped: {}", screen.summary()),
        })
    }

    async fn command(&mut self, line: &str, turn: &Turn) -> Flow {
        let command = match Command::parse(line) {
            Ok(command) => command,
            Err(error) => return tell(turn, error),
        };
        let done = match command.action {
            Action::Quit => return Flow::Quit,
            Action::Read if command.argument.is_empty() => Err(Error::usage(".read needs a file")),
            Action::Read => return self.file(command.file(), turn).await,
            Action::Help => self.help(turn),
            Action::Tables => return self.tables(&command.argument, turn).await,
            Action::Schema => return self.schema(&command.argument, turn).await,
            Action::Functions => return self.functions(&command.argument, turn).await,
            Action::Output => self.send_to(command.file(), turn).await,
            Action::Mode => self.mode(&command.argument, turn).await,
            Action::Timer => self.switch("fuse.timing", &command.argument, turn).await,
            Action::Expanded => self.expanded(&command.argument, turn).await,
            Action::Explain => return self.explain(&command.argument, turn).await,
            Action::Last => self.whole(turn).await,
            Action::Plot => self.plot(&command.argument, turn),
        };
        done.map_or_else(|error| tell(turn, error), |()| Flow::Continue)
    }

    /// Runs SQL of ours, without keeping its result.
    async fn ask(&mut self, sql: &str, turn: &Turn) -> Flow {
        self.asking = true;
        let script = Script { name: String::new(), text: sql.to_owned() };
        let flow = self.statements(&script, turn).await;
        self.asking = false;
        flow
    }

    fn help(&self, turn: &Turn) -> Result<()> {
        let mut lines = String::new();
        for known in &COMMANDS {
            let usage = format!("{} {}", known.names[0], known.argument);
            let habits: Vec<&str> = known.names[1..].iter().filter(|name| name.starts_with('\\')).copied().collect();
            lines.push_str(&format!("{usage:<26} {:<10} {}\n", habits.join(" "), known.help));
        }
        lines.push_str(
            "\nA statement ends with ; and may take several lines. Tab completes, Ctrl-R searches the history,\n\
             Ctrl-C stops a statement. SHOW fuse lists the settings, SET fuse.table_rows = 100 changes one.\n",
        );
        Ok(turn.printer().write_all(lines.as_bytes())?)
    }

    async fn tables(&mut self, pattern: &str, turn: &Turn) -> Flow {
        let sql = format!(
            "SELECT t.table_name AS name, lower(t.table_type) AS kind, count(c.column_name) AS columns \
             FROM information_schema.tables t LEFT JOIN information_schema.columns c \
             ON c.table_schema = t.table_schema AND c.table_name = t.table_name \
             WHERE t.table_schema <> 'information_schema' AND t.table_name ILIKE {} \
             GROUP BY ALL ORDER BY name",
            like(pattern)
        );
        self.ask(&sql, turn).await
    }

    async fn schema(&mut self, table: &str, turn: &Turn) -> Flow {
        match self.columns(table).await {
            Ok(sql) => self.ask(&sql, turn).await,
            Err(error) => tell(turn, error),
        }
    }

    /// A query for the columns of a table or file, or of all tables, with their types as SQL names them.
    async fn columns(&self, table: &str) -> Result<String> {
        let quote = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let tables = if table.is_empty() {
            self.texts(&format!("SELECT table_name FROM information_schema.tables {USER_TABLES} ORDER BY table_name"))
                .await?
        } else {
            vec![table.to_owned()]
        };
        let mut rows = Vec::new();
        for table in &tables {
            // A path is written without quotes in a shell.
            let path = table.contains(['/', '*']) || (table.contains('.') && std::path::Path::new(table).exists());
            let name = if path && !table.starts_with(['\'', '"']) { quote(table) } else { table.clone() };
            let Outcome::Rows(found) = self.session.execute_text(&format!("SELECT * FROM {name} LIMIT 0")).await?
            else {
                continue;
            };
            for field in found.schema().fields() {
                let null = if field.is_nullable() { "yes" } else { "no" };
                let texts = [table, field.name(), &type_name(field.data_type()), null].map(quote);
                rows.push(format!("({})", texts.join(", ")));
            }
        }
        if rows.is_empty() {
            return Err(Error::usage("there are no tables").hint("name a file: .schema data.parquet"));
        }
        let columns = if table.is_empty() { "*" } else { "* EXCLUDE (table)" };
        Ok(format!("SELECT {columns} FROM (VALUES {}) AS c (table, column, type, nullable)", rows.join(", ")))
    }

    /// The texts that a query of ours gives.
    async fn texts(&self, sql: &str) -> Result<Vec<String>> {
        let Outcome::Rows(rows) = self.session.execute_text(sql).await? else { return Ok(Vec::new()) };
        let mut texts = Vec::new();
        for batch in rows.collect().await? {
            let column = cast(batch.column(0), &DataType::Utf8)?;
            texts.extend(column.as_string::<i32>().iter().flatten().map(str::to_owned));
        }
        Ok(texts)
    }

    async fn functions(&mut self, pattern: &str, turn: &Turn) -> Flow {
        let sql = format!(
            "SELECT coalesce(min(syntax_example), routine_name || '()') AS call, \
             coalesce(min(description), '') AS what_it_does \
             FROM information_schema.routines WHERE routine_name ILIKE {} GROUP BY routine_name ORDER BY routine_name",
            like(pattern)
        );
        // The list is looked through as a whole.
        self.all_rows = true;
        let flow = self.ask(&sql, turn).await;
        self.all_rows = false;
        flow
    }

    async fn send_to(&mut self, file: &str, turn: &Turn) -> Result<()> {
        let before = self.session.settings().output.clone();
        self.output.commit().await?;
        if !before.is_empty() && !self.session.settings().quiet {
            turn.say(&format!("{before} is written"));
        }
        if !file.is_empty() && Format::of_path(file).is_none() && self.session.settings().format.is_empty() {
            return Err(Error::usage(format!("the ending of '{file}' does not tell a format"))
                .hint("choose one first, as in .mode csv"));
        }
        self.set("fuse.output", file).await?;
        if !file.is_empty() && !self.session.settings().quiet {
            turn.say(&format!("results go to {file}, which shows at the next .output, or at the end"));
        }
        Ok(())
    }

    async fn mode(&mut self, name: &str, turn: &Turn) -> Result<()> {
        if name.is_empty() {
            let names: Vec<&str> = Format::NAMES.iter().map(|(name, _)| *name).collect();
            let now = self.session.settings().format.clone();
            let now = if now.is_empty() { "table" } else { &now };
            turn.say(&format!("{now}; formats are {}", names.join(", ")));
            return Ok(());
        }
        let name = match name {
            "box" | "duckbox" | "aligned" => "table",
            "line" => "expanded",
            "md" => "markdown",
            "jsonlines" => "ndjson",
            "tabs" => "tsv",
            other => other,
        };
        name.parse::<Format>()?;
        self.set("fuse.format", if name == "table" { "" } else { name }).await
    }

    async fn expanded(&mut self, word: &str, turn: &Turn) -> Result<()> {
        let on = match word {
            "" => self.session.settings().format != "expanded",
            word => on_or_off(word)?,
        };
        self.set("fuse.format", if on { "expanded" } else { "" }).await?;
        turn.say(if on { "expanded is on" } else { "expanded is off" });
        Ok(())
    }

    async fn switch(&mut self, name: &str, word: &str, turn: &Turn) -> Result<()> {
        let on = match word {
            "" => !self.session.settings().timing,
            word => on_or_off(word)?,
        };
        self.set(name, if on { "true" } else { "false" }).await?;
        turn.say(if on { "timer is on" } else { "timer is off" });
        Ok(())
    }

    async fn set(&self, name: &str, value: &str) -> Result<()> {
        let sql = format!("SET {name} = '{}'", value.replace('\'', "''"));
        self.session.execute_text(&sql).await.map(drop)
    }

    async fn explain(&mut self, argument: &str, turn: &Turn) -> Flow {
        let (first, rest) = argument.split_once(char::is_whitespace).unwrap_or((argument, ""));
        let analyze = first.eq_ignore_ascii_case("analyze");
        let sql = if analyze { rest.trim() } else { argument };
        let sql = match (&self.last, sql) {
            (Some(last), "") => last.text.clone(),
            (None, "") => return tell(turn, Error::usage("there is no query yet").hint("name one: .explain SELECT …")),
            (_, sql) => sql.to_owned(),
        };
        let verb = if analyze { "EXPLAIN ANALYZE" } else { "EXPLAIN" };
        self.ask(&format!("{verb} {sql}"), turn).await
    }

    /// Shows the whole last result.
    async fn whole(&mut self, turn: &Turn) -> Result<()> {
        let last = self.last.as_ref().ok_or_else(no_result)?;
        let settings = self.session.settings();
        let format = if settings.format == "expanded" { Format::Expanded } else { Format::Table };
        let mut pager = std::io::stdout().is_terminal().then(pager).transpose()?;
        let out: Box<dyn Write + Send> = match &mut pager {
            Some((_, input)) => Box::new(BufWriter::new(input.take().ok_or_else(no_result)?)),
            None => Box::new(turn.printer()),
        };
        self.foreign.store(pager.is_some(), Ordering::Relaxed);
        let mut encoder = encoder(format, &last.schema, out, Shape { types: true, ..Shape::default() }, true)?;
        let written = async {
            if last.whole {
                last.batches.iter().try_for_each(|batch| encoder.write(batch))?;
            } else if let Outcome::Rows(mut rows) = self.session.execute(last.statement.clone()).await? {
                while let Some(batch) = rows.next().await? {
                    encoder.write(&batch)?;
                    tokio::task::yield_now().await;
                }
            }
            encoder.finish().map(drop)
        };
        let written = written.await;
        if let Some((mut child, _)) = pager {
            let _ = tokio::task::spawn_blocking(move || child.wait()).await;
        }
        self.foreign.store(false, Ordering::Relaxed);
        match written {
            // Who has seen enough leaves the pager.
            Err(error) if error.kind == Kind::Closed => Ok(()),
            other => other,
        }
    }

    fn plot(&mut self, kind: &str, turn: &Turn) -> Result<()> {
        let last = self.last.as_ref().ok_or_else(no_result)?;
        let kind = if kind.is_empty() { None } else { Some(kind.parse()?) };
        refuse_many_rows(usize::try_from(last.rows).unwrap_or(usize::MAX))?;
        if !last.whole {
            return Err(Error::query("the last result is too large to be kept for a chart")
                .hint("select fewer columns, or aggregate"));
        }
        let chart = Chart::new(&last.schema, &last.batches, kind)?;
        let (width, height) = match terminal_size::terminal_size() {
            Some((width, height)) => (usize::from(width.0), usize::from(height.0)),
            None => (80, 24),
        };
        let text = chart.text(width, height.saturating_sub(4).clamp(8, 24), report::colours());
        Ok(turn.printer().write_all(text.as_bytes())?)
    }
}

impl Last {
    fn keep(&mut self, batch: &RecordBatch) {
        self.rows += batch.num_rows() as u64;
        self.bytes += batch.get_array_memory_size();
        self.whole &= self.bytes <= KEPT_RESULT_BYTES;
        if self.whole {
            self.batches.push(batch.clone());
        } else {
            self.batches.clear();
        }
    }
}

fn no_result() -> Error {
    Error::usage("there is no result yet")
}

/// Starts $PAGER, or less without line breaks.
fn pager() -> Result<(Child, Option<ChildStdin>)> {
    let pager = std::env::var("PAGER").ok().filter(|pager| !pager.trim().is_empty());
    let pager = pager.unwrap_or_else(|| "less -S".to_owned());
    let mut child = std::process::Command::new("sh").arg("-c").arg(&pager).stdin(Stdio::piped()).spawn()?;
    let input = child.stdin.take();
    Ok((child, input))
}

fn on_or_off(word: &str) -> Result<bool> {
    match word.to_ascii_lowercase().as_str() {
        "on" | "true" | "1" => Ok(true),
        "off" | "false" | "0" => Ok(false),
        _ => Err(Error::usage(format!("'{word}' is neither on nor off"))),
    }
}

/// A pattern for names that contain a word, or that match one with `*` or `%`.
fn like(pattern: &str) -> String {
    let pattern = pattern.trim_matches(['\'', '"']).replace('\'', "''").replace('*', "%");
    if pattern.contains('%') { format!("'{pattern}'") } else { format!("'%{pattern}%'") }
}

/// The SQL of a statement.
fn text_of(script: &Script, statement: &Statement) -> String {
    script.text[report::range_of(&script.text, statement.span)].to_owned()
}

/// Reports an error; what follows does not run.
fn tell(turn: &Turn, error: Error) -> Flow {
    turn.on_screen(|| report::error(&error, None));
    Flow::Failed
}

fn tell_at(turn: &Turn, error: &Error, script: &Script, statement: Option<Span>) -> Flow {
    if error.kind != Kind::Closed {
        turn.on_screen(|| report::error(error, Some((script, statement))));
    }
    Flow::Failed
}
