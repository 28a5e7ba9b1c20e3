//! `fuse verify`.
//!
//! Enters: the SQL of a pipeline, and its state. Leaves: a sentence if what it shows and keeps is what a batch gives over
//! the input that it took; else the rows that differ, and exit code 1. Always holds: nothing is changed.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};

use super::args::VerifyArgs;
use super::console::ConsoleSink;
use super::pipeline::state;
use super::query::{fail, parse, pipeline_name, scripts};
use super::report::count;
use super::status::bytes;
use crate::change::{Changes, with_columns};
use crate::checkpoint::Cost;
use crate::config::Settings;
use crate::error::{Error, Kind, Result};
use crate::format::{self, Format, Shape};
use crate::parser::Reading;
use crate::runtime::{self, Compared, Difference, Verdict, sample};
use crate::session::Session;

/// So many differing rows of a statement are printed.
const SHOWN_ROWS: usize = 20;

/// Compares a pipeline with a batch.
pub(super) async fn verify(args: &VerifyArgs) -> Result<()> {
    let format: Format = args.format.parse()?;
    let reading = Reading { defines: args.input.defines()?, dialect: None };
    let mut settings = Settings::default();
    settings.threads = args.threads.map_or(0, usize::from);
    let session = Session::new(settings.clone())?;
    let scripts = scripts(&args.input)?;
    let state = state(args.state.as_deref(), &pipeline_name(&args.input, &scripts));
    let is_there = state.contains("://") || Path::new(&state).is_dir();
    if is_there {
        session.remember(&session.state_folder(&state)?).await?;
    }
    for script in scripts {
        for statement in parse(&script, &reading)? {
            let place = statement.clone();
            if let Err(error) = session.set_up(statement).await {
                session.abort().await;
                return fail(error, &script, Some(&place));
            }
        }
    }
    let console = |columns, append_only, order| ConsoleSink::boxed(columns, append_only, order, &settings);
    let Some(pipeline) = session.pipeline(&console)? else {
        return Err(Error::usage("nothing to verify: no statement reads a growing table"));
    };
    if !is_there {
        return Err(Error::query(format!("there is no state of a pipeline in '{state}'"))
            .hint("--state DIR names the one of fuse query"));
    }
    let verdict = runtime::verify(pipeline, &session.state_folder(&state)?).await?;
    report(&verdict, format, args.quiet)
}

fn report(verdict: &Verdict, format: Format, quiet: bool) -> Result<()> {
    let differing: Vec<&Compared> = verdict.statements.iter().filter(|one| !one.is_equal()).collect();
    for one in &differing {
        let parts = [("is shown", one.shown.as_ref()), ("is kept in the state", Some(&one.kept))];
        for (what, difference) in parts {
            let Some((difference, rows)) = difference.and_then(|one| Some((one, one.rows.as_ref()?))) else { continue };
            print_rows(one, what, difference, rows, format)?;
        }
    }
    verdict.notes.iter().filter(|_| !quiet || !differing.is_empty()).for_each(|note| println!("note: {note}"));
    if !quiet || !differing.is_empty() {
        println!("{}", costs(verdict));
    }
    let all = count(verdict.statements.len() as u64, "statement");
    if !differing.is_empty() {
        let differ = if differing.len() == 1 { "differs" } else { "differ" };
        return Err(Error::new(Kind::Query, format!("{} of {all} {differ} from the batch", differing.len())));
    }
    if !quiet {
        let rows = verdict.statements.iter().map(|one| one.rows).sum();
        let close: u64 = verdict.statements.iter().filter_map(|one| one.shown.as_ref()).map(|one| one.close).sum();
        let but = if close == 0 {
            String::new()
        } else {
            format!(" ({} but for the rounding of floats or the order of lists)", count(close, "row"))
        };
        println!("equal: {all}, {} after epoch {}{but}", count(rows, "row"), verdict.epoch);
    }
    Ok(())
}

impl Compared {
    fn is_equal(&self) -> bool {
        self.kept.rows.is_none() && self.shown.as_ref().is_none_or(|shown| shown.rows.is_none())
    }
}

/// A sentence, and the first of the rows that differ.
fn print_rows(one: &Compared, what: &str, difference: &Difference, rows: &Changes, format: Format) -> Result<()> {
    let (missing, extra) = difference.counts();
    println!("{}: of what {what}, {} and {extra} too much", one.target, count_missing(missing));
    let first = sample(rows, SHOWN_ROWS)?;
    let weights: Vec<i64> = (0..first.len()).map(|row| first.weight(row)).collect();
    let mut fields = vec![
        Arc::new(Field::new("difference", DataType::Utf8, false)),
        Arc::new(Field::new("times", DataType::Int64, false)),
    ];
    fields.extend(first.rows.schema().fields().iter().cloned());
    let name = |weight: &i64| if *weight > 0 { "missing" } else { "too much" };
    let mut columns: Vec<arrow::array::ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(weights.iter().map(name))),
        Arc::new(Int64Array::from_iter_values(weights.iter().map(|weight| weight.abs()))),
    ];
    columns.extend(first.rows.columns().iter().cloned());
    let table = with_columns(&Arc::new(Schema::new(fields)), columns, first.len())?;
    let mut encoder = format::encoder(format, &table.schema(), Box::new(std::io::stdout()), Shape::default(), true)?;
    encoder.write(&table)?;
    encoder.finish()?;
    if rows.len() > first.len() {
        println!("and {} more", count((rows.len() - first.len()) as u64, "row"));
    }
    Ok(())
}

fn count_missing(missing: u64) -> String {
    format!("{} {} missing", count(missing, "row"), if missing == 1 { "is" } else { "are" })
}

/// What the batch has cost beside the epochs.
fn costs(verdict: &Verdict) -> String {
    let line = |cost: Cost, memory: &str| {
        let seconds = cost.micros as f64 / 1e6;
        format!("{seconds:.2} s, {} read, {} of {memory}", count(cost.rows, "row"), bytes(cost.bytes as f64))
    };
    format!(
        "batch:  {}\nepochs: {}, in {}",
        line(verdict.batch, "memory"),
        line(verdict.epochs, "state"),
        count(verdict.epoch, "epoch")
    )
}
