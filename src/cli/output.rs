//! Where results go.
//!
//! Enters: the rows of each result, and the settings at that moment. Leaves: bytes on standard output or in
//! the file of `-o`. Always holds: that file shows when all statements have succeeded, and not before.

use std::io::{BufWriter, IsTerminal, Write};
use std::path::Path;

use crate::config::Settings;
use crate::durable::OutputFile;
use crate::error::{Error, Kind, Result};
use crate::format::{Format, Packing, Shape, encoder};
use crate::session::Rows;

/// Bytes that are gathered before they are written out.
const BUFFER_BYTES: usize = 64 * 1024;

/// The printer of a run.
#[derive(Default)]
pub(super) struct Output {
    /// The file of `-o`, once a result went there, and how many did.
    file: Option<(String, OutputFile, usize)>,
    /// The format of the last result on standard output.
    printed: Option<Format>,
}

impl Output {
    /// Prints one result; gives the number of its rows.
    pub(super) async fn print(&mut self, mut rows: Rows, settings: &Settings) -> Result<u64> {
        let format = format(settings)?;
        let packing = packing(settings, format)?;
        let to_file = !settings.output.is_empty();
        let terminal = !to_file && std::io::stdout().is_terminal();
        if terminal && format.is_binary() {
            return Err(Error::usage("a terminal cannot show binary data").hint("use -o FILE, or pipe the output"));
        }
        if !to_file {
            let before = self.printed.replace(format);
            if before.is_some_and(|before| !before.concatenates() || !format.concatenates()) {
                return Err(one_result("standard output"));
            }
        }
        // An error before the first row leaves standard output empty, and the file unopened.
        let mut next = rows.next().await?;
        let out: Box<dyn Write + Send> =
            if to_file { Box::new(self.open(&settings.output, format).await?) } else { Box::new(std::io::stdout()) };
        let mut out: Box<dyn Write + Send> = Box::new(BufWriter::with_capacity(BUFFER_BYTES, out));
        if let Some(packing) = packing {
            out = Box::new(BufWriter::with_capacity(BUFFER_BYTES, packing.writer(out)?));
        }
        let mut encoder = encoder(format, &rows.schema(), out, shape(terminal, settings), !to_file)?;
        let mut count = 0;
        let at_file = |error: Error| match error.kind {
            Kind::Query if to_file => Error { message: format!("{}: {}", settings.output, error.message), ..error },
            _ => error,
        };
        while let Some(batch) = next {
            count += batch.num_rows() as u64;
            encoder.write(&batch).map_err(at_file)?;
            next = rows.next().await?;
        }
        encoder.finish().map_err(at_file)?;
        Ok(count)
    }

    /// A handle on the output file; a result after the first one follows it.
    async fn open(&mut self, path: &str, format: Format) -> Result<std::fs::File> {
        if self.file.as_ref().is_some_and(|(known, _, _)| known != path) {
            self.commit().await?;
        }
        let (_, file, results) = match &mut self.file {
            Some(open) => open,
            none => none.insert((path.to_owned(), OutputFile::create(Path::new(path))?, 0)),
        };
        *results += 1;
        if *results > 1 && !format.concatenates() {
            return Err(one_result(&format!("'{path}'")));
        }
        file.handle()
    }

    /// Gives the output file its name.
    pub(super) async fn commit(&mut self) -> Result<()> {
        match self.file.take() {
            Some((_, file, _)) => file.commit().await,
            None => Ok(()),
        }
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
    Shape { width, rows }
}
