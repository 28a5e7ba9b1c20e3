//! Where results go.
//!
//! Enters: the rows of each result, and the settings at that moment. Leaves: bytes on standard output or in
//! the file of `-o`. Always holds: that file shows when all statements have succeeded, and not before; what a
//! result that failed has put into it is taken out again.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Seek, SeekFrom, Write};
use std::path::Path;

use arrow::record_batch::RecordBatch;

use super::turn::Turn;
use super::{explain, report};
use crate::config::Settings;
use crate::durable::OutputFile;
use crate::error::{Error, Kind, Result};
use crate::format::{Format, Packing, Shape, Shown, encoder};
use crate::parser::Statement;
use crate::session::Rows;

/// Bytes that are gathered before they are written out.
const BUFFER_BYTES: usize = 64 * 1024;

/// The printer of a run.
#[derive(Default)]
pub(super) struct Output {
    /// The file of `-o`, once a result went there.
    file: Option<Open>,
    /// The format of the last result on standard output.
    printed: Option<Format>,
}

/// A file that gathers results.
struct Open {
    path: String,
    file: OutputFile,
    results: usize,
    /// While a result is written: the length before it.
    before: Option<u64>,
}

/// What was printed.
pub(super) struct Printed {
    /// Rows of the result.
    pub(super) rows: u64,
    /// Its columns.
    pub(super) columns: usize,
    /// How much of it was shown.
    pub(super) shown: Shown,
    /// It went to a terminal, as a table for people.
    pub(super) for_people: bool,
    /// It was the text of a plan.
    pub(super) plan: bool,
}

impl Output {
    /// Prints one result; `each` sees its batches.
    pub(super) async fn print(
        &mut self,
        rows: Rows,
        statement: &Statement,
        settings: &Settings,
        turn: &Turn,
        each: impl FnMut(&RecordBatch),
    ) -> Result<Printed> {
        let printed = self.print_rows(rows, statement, settings, turn, each).await?;
        if let Some(open) = &mut self.file {
            open.before = None;
        }
        Ok(printed)
    }

    async fn print_rows(
        &mut self,
        mut rows: Rows,
        statement: &Statement,
        settings: &Settings,
        turn: &Turn,
        mut each: impl FnMut(&RecordBatch),
    ) -> Result<Printed> {
        let format = format(settings)?;
        let packing = packing(settings, format)?;
        let to_file = !settings.output.is_empty();
        let terminal = !to_file && std::io::stdout().is_terminal();
        if terminal && format.is_binary() {
            return Err(Error::usage("a terminal cannot show binary data").hint("use -o FILE, or pipe the output"));
        }
        if !to_file && !terminal {
            let before = self.printed.replace(format);
            if before.is_some_and(|before| !before.concatenates() || !format.concatenates()) {
                return Err(one_result("standard output"));
            }
        }
        let (schema, plan) = (rows.schema(), statement.is_explain() && format == Format::Table);
        // An error before the first row leaves standard output empty, and the file unopened.
        let mut next = rows.next().await?;
        let out: Box<dyn Write + Send> =
            if to_file { Box::new(self.open(&settings.output, format).await?) } else { Box::new(turn.printer()) };
        let mut out: Box<dyn Write + Send> = Box::new(BufWriter::with_capacity(BUFFER_BYTES, out));
        if let Some(packing) = packing {
            out = Box::new(BufWriter::with_capacity(BUFFER_BYTES, packing.writer(out)?));
        }
        let shape = shape(terminal, settings);
        let columns = schema.fields().len();
        if plan {
            let mut batches = Vec::new();
            while let Some(batch) = next {
                batches.push(batch);
                next = rows.next().await?;
            }
            let text = match rows.analyzed() {
                Some(operators) => explain::tree(&operators, shape.width, terminal && report::colours()),
                None => explain::plans(&batches)?,
            };
            out.write_all(text.as_bytes())?;
            out.flush()?;
            return Ok(Printed { rows: 0, columns, shown: Shown::default(), for_people: terminal, plan });
        }
        let mut encoder = encoder(format, &schema, out, shape, !to_file)?;
        let mut count = 0;
        let at_file = |error: Error| match error.kind {
            Kind::Query if to_file => Error { message: format!("{}: {}", settings.output, error.message), ..error },
            _ => error,
        };
        while let Some(batch) = next {
            count += batch.num_rows() as u64;
            each(&batch);
            encoder.write(&batch).map_err(at_file)?;
            next = rows.next().await?;
        }
        let shown = encoder.finish().map_err(at_file)?;
        let for_people = terminal && matches!(format, Format::Table | Format::Expanded);
        Ok(Printed { rows: count, columns, shown, for_people, plan })
    }

    /// A handle on the output file; a result after the first one follows it.
    async fn open(&mut self, path: &str, format: Format) -> Result<File> {
        if self.file.as_ref().is_some_and(|open| open.path != path) {
            self.commit().await?;
        }
        let open = match &mut self.file {
            Some(open) => open,
            none => {
                let file = OutputFile::create(Path::new(path))?;
                none.insert(Open { path: path.to_owned(), file, results: 0, before: None })
            }
        };
        open.results += 1;
        if open.results > 1 && !format.concatenates() {
            return Err(one_result(&format!("'{path}'")));
        }
        let handle = open.file.handle()?;
        open.before = Some(handle.metadata()?.len());
        Ok(handle)
    }

    /// Takes what an unfinished result has written out of the file, so that others can follow.
    pub(super) fn undo(&mut self) -> Result<()> {
        let Some(open) = &mut self.file else { return Ok(()) };
        let Some(before) = open.before.take() else { return Ok(()) };
        open.results = open.results.saturating_sub(1);
        let mut file = open.file.handle()?;
        if file.metadata()?.is_file() {
            file.set_len(before)?;
            file.seek(SeekFrom::Start(before))?;
        }
        Ok(())
    }

    /// Gives the output file its name.
    pub(super) async fn commit(&mut self) -> Result<()> {
        match self.file.take() {
            Some(open) => open.file.commit().await,
            None => Ok(()),
        }
    }
}

impl Printed {
    /// `1,204,331 rows, 14 columns, 40 shown`; `always`: also where all is shown.
    pub(super) fn summary(&self, always: bool) -> Option<String> {
        if self.plan || !always && self.shown == Shown::default() {
            return None;
        }
        let mut text = format!("{}, {}", report::count(self.rows, "row"), report::count(self.columns as u64, "column"));
        if let Some(columns) = self.shown.columns {
            text.push_str(&format!(" ({columns} shown)"));
        }
        if let Some(rows) = self.shown.rows {
            text.push_str(&format!(", {} shown", report::digits(rows as u64)));
        }
        Some(text)
    }
}

fn one_result(place: &str) -> Error {
    Error::usage(format!("{place} can hold one result in this format, and this is the second"))
        .hint("write each with its own COPY … TO, or choose csv or ndjson")
}

fn format(settings: &Settings) -> Result<Format> {
    if !settings.format.is_empty() {
        return settings.format.parse();
    }
    if settings.output.is_empty() {
        return Ok(Format::Table);
    }
    Format::of_path(&settings.output).ok_or_else(|| {
        Error::usage(format!("the ending of '{}' does not tell a format", settings.output)).hint("add --format")
    })
}

/// How the file of `-o` is compressed.
fn packing(settings: &Settings, format: Format) -> Result<Option<Packing>> {
    let packing = Packing::of_path(&settings.output)?;
    if packing.is_some() && format.is_binary() {
        return Err(Error::usage(format!("'{}': Parquet and Arrow files are compressed inside", settings.output))
            .hint(format!("write to '{}'", Packing::split(&settings.output).0)));
    }
    Ok(packing)
}

fn shape(terminal: bool, settings: &Settings) -> Shape {
    if !terminal {
        return Shape::default();
    }
    let width = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    let rows = (settings.table_rows > 0).then_some(settings.table_rows);
    Shape { width, rows, types: true }
}
