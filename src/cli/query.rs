//! `fuse query` and `fuse check`.
//!
//! Enters: SQL files. Leaves: their results. Always holds: statements run in order, and nothing runs after
//! the first error; Ctrl-C stops the running one and leaves no partial output.

use std::collections::HashSet;
use std::io::Read;
use std::time::Instant;

use datafusion::sql::parser::Statement as Body;
use datafusion::sql::sqlparser::ast::Statement as Sql;

use super::args::{CheckArgs, Input, QueryArgs};
use super::output::Output;
use super::turn::Turn;
use super::{Interrupt, pipeline, report};
use crate::config::{SCRIPT_BYTES_LIMIT, Settings};
use crate::error::{Error, Kind, Result, near_name};
use crate::format::csv::{Encoding, Transcoder};
use crate::parser::{self, Reading, Script, Statement};
use crate::session::{Outcome, Session};

/// Runs the statements of all files, and those over growing tables together.
pub(super) async fn query(args: &QueryArgs, interrupt: Interrupt) -> Result<()> {
    let scripts = scripts(&args.input)?;
    let name = pipeline_name(&args.input, &scripts);
    let (mut done, mut evolved) = (HashSet::new(), None);
    loop {
        let session = Session::new(args.flags.settings()?)?;
        match &evolved {
            Some(columns) => pipeline::Evolved::apply(columns, &session),
            None => pipeline::remember(&session, &args.pipeline, &name).await?,
        }
        let explained = statements(args, &session, &scripts, &mut done, interrupt.clone()).await?;
        let piped = args.input.name() == "-";
        let told = pipeline::Told { name: &name, piped, explained };
        let run = pipeline::run(&session, &args.pipeline, &told, interrupt.clone(), evolved.as_ref());
        evolved = run.await?;
        if evolved.is_none() {
            return Ok(());
        }
    }
}

/// By what the state of a pipeline is known: its first file, or the SQL itself where that has no name.
pub(super) fn pipeline_name(input: &Input, scripts: &[Script]) -> String {
    match input.name() {
        "-" | "-c" => {
            let texts: Vec<&str> = scripts.iter().map(|script| script.text.as_str()).collect();
            format!("command-{:08x}", crc32fast::hash(texts.join("\n").as_bytes()))
        }
        file => file.to_owned(),
    }
}

/// Runs each statement; true if one was EXPLAIN INCREMENTAL. `done`: the places of those that have printed or written,
/// and are not run again.
async fn statements(
    args: &QueryArgs,
    session: &Session,
    scripts: &[Script],
    done: &mut HashSet<(usize, usize)>,
    mut interrupt: Interrupt,
) -> Result<bool> {
    let reading = Reading { defines: args.input.defines()?, dialect: None };
    let (mut output, mut explained) = (Output::default(), false);
    for (file, script) in scripts.iter().enumerate() {
        for (at, statement) in parse(script, &reading)?.into_iter().enumerate() {
            explained |= statement.incremental;
            if done.contains(&(file, at)) {
                continue;
            }
            let turn = Turn::new();
            let run = run(session, &mut output, &statement, &turn);
            let result = tokio::select! {
                biased;
                () = interrupt.pressed() => Err(Error::new(Kind::Interrupted, "interrupted")),
                result = run => result,
            };
            turn.end();
            match result {
                Ok(false) => {}
                Ok(true) => _ = done.insert((file, at)),
                Err(error) => {
                    session.abort().await;
                    return fail(error, script, Some(&statement)).map(|()| explained);
                }
            }
        }
    }
    output.commit().await.map(|()| explained)
}

/// Plans the statements of all files.
pub(super) async fn check(args: &CheckArgs) -> Result<()> {
    let reading = Reading { defines: args.input.defines()?, dialect: None };
    let session = Session::new(Settings::default())?;
    for script in scripts(&args.input)? {
        let statements = parse(&script, &reading)?;
        let count = statements.len();
        for statement in statements {
            let place = statement.clone();
            if let Err(error) = session.check(statement).await {
                return fail(error, &script, Some(&place));
            }
        }
        if !args.quiet {
            eprintln!("{}: {count} statements, no errors", script.name);
        }
    }
    Ok(())
}

/// Prints an error with its place; what is left to the caller is the exit code.
pub(super) fn fail(error: Error, script: &Script, statement: Option<&Statement>) -> Result<()> {
    let error = statement.into_iter().fold(error, parser::locate);
    match error.kind {
        Kind::Closed => {}
        Kind::Interrupted => report::error(&error, None),
        _ => report::error(&error, Some((script, statement.map(|statement| statement.span)))),
    }
    // It has been reported.
    Err(Error::new(error.kind, ""))
}

pub(super) fn parse(script: &Script, reading: &Reading) -> Result<Vec<Statement>> {
    match parser::parse(script, reading) {
        Ok(statements) => Ok(statements),
        Err(error) => fail(error, script, None).map(|()| Vec::new()),
    }
}

pub(super) fn scripts(input: &Input) -> Result<Vec<Script>> {
    if !input.command.is_empty() {
        return Ok(vec![Script { name: "-c".to_owned(), text: input.command.join(";\n") }]);
    }
    input.files.iter().map(|name| read_script(name)).collect()
}

pub(super) fn read_script(name: &str) -> Result<Script> {
    let mut bytes = Vec::new();
    let name = if name == "-" {
        std::io::stdin().take(SCRIPT_BYTES_LIMIT + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > SCRIPT_BYTES_LIMIT {
            return Err(Error::usage(format!("standard input holds more than {} MB of SQL", SCRIPT_BYTES_LIMIT >> 20))
                .hint("- reads SQL, not data: CREATE STREAM t (…) STORED AS JSON LOCATION '-' reads data"));
        }
        "<stdin>"
    } else {
        bytes = std::fs::read(name).map_err(|e| unread_script(name, &e))?;
        name
    };
    let encoding = Encoding::of_start(&bytes);
    if encoding != Encoding::Utf8 {
        let mut text = Vec::with_capacity(bytes.len());
        Transcoder::new(encoding).push(&bytes, &mut text);
        bytes = text;
    }
    let text = String::from_utf8(bytes).map_err(|e| {
        let line = e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::sql(format!("{name}, line {line}: not UTF-8"))
    })?;
    Ok(Script { name: name.to_owned(), text: text.trim_start_matches('\u{feff}').to_owned() })
}

/// A file of SQL that is not there, with one beside it of a near name.
fn unread_script(name: &str, cause: &std::io::Error) -> Error {
    let error = Error { kind: Kind::Usage, ..Error::io(name, cause) };
    let path = std::path::Path::new(name);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let files = std::fs::read_dir(folder.unwrap_or(std::path::Path::new("."))).into_iter().flatten().flatten();
    let names: Vec<String> = files.map(|file| file.file_name().to_string_lossy().into_owned()).collect();
    let wanted = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match near_name(&wanted, names.iter().map(String::as_str)) {
        Some(near) if cause.kind() == std::io::ErrorKind::NotFound => {
            error.hint(format!("did you mean {}?", path.with_file_name(near).display()))
        }
        _ => error,
    }
}

/// Runs a statement; true if it has printed or written.
async fn run(session: &Session, output: &mut Output, statement: &Statement, turn: &Turn) -> Result<bool> {
    let start = Instant::now();
    let line = statement.span.start.0;
    let describes = matches!(&statement.body, Body::Statement(sql) if matches!(**sql, Sql::ExplainTable { .. }));
    if !session.settings().quiet {
        turn.show_progress(session.watch());
    }
    let outcome = session.execute(statement.clone()).await?;
    let settings = session.settings();
    let readings = session.take_readings();
    let tell = |text: Option<String>| {
        if let Some(text) = text.filter(|_| !settings.quiet) {
            turn.say(&text);
        }
    };
    let shows = matches!(outcome, Outcome::Written { .. } | Outcome::Rows(_));
    let summary = match outcome {
        Outcome::Done | Outcome::Continuous => String::new(),
        Outcome::Written { rows, target } => {
            tell(Some(format!("{} written to {target}", report::count(rows, "row"))));
            report::count(rows, "row")
        }
        Outcome::Rows(rows) => {
            let printed = output.print(rows, statement, &settings, turn, |_| ()).await?;
            tell(printed.summary(false));
            report::count(printed.rows, "row")
        }
    };
    if !settings.quiet {
        let notes = session.take_notes().into_iter().chain(readings.into_iter().filter(|_| describes));
        notes.for_each(|note| eprintln!("note: {note}"));
    }
    if settings.timing {
        let seconds = start.elapsed().as_secs_f64();
        let comma = if summary.is_empty() { "" } else { ", " };
        turn.say(&format!("line {line}: {seconds:.3} s{comma}{summary}"));
    }
    Ok(shows)
}
