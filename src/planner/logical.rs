//! From our spellings to DataFusion's.
//!
//! Enters: COPY and CREATE EXTERNAL TABLE as users write them: formats by ending (`.csv.gz`, `.tsv`,
//! `.ndjson`), `OPTIONS ('mode' …)`. Leaves: the statement that DataFusion plans, and the [`Target`] of a
//! COPY. Always holds: the ending and STORED AS agree, or STORED AS wins; our own options never reach
//! DataFusion.

use std::fs;
use std::path::{Path, PathBuf};

use datafusion::sql::parser::{CopyToStatement, CreateExternalTable, Statement as Body};
use datafusion::sql::sqlparser::ast::{ColumnOption, TableConstraint, Value};

use crate::config::CopyMode;
use crate::durable::STAGE_PREFIX;
use crate::error::{Error, Result, unknown_format};
use crate::sink::stream::SinkOptions;
use crate::source::{DATA_ENDINGS, FileKind, Location};

/// Where a COPY writes.
#[derive(Debug, Clone)]
pub struct Target {
    /// As the user wrote it.
    pub text: String,
    /// True for a folder of files.
    pub folder: bool,
    /// The path, if it is local.
    local: Option<PathBuf>,
    /// `OPTIONS ('mode' …)`.
    mode: Option<String>,
    /// How a pipeline writes there.
    pub sink: SinkOptions,
}

impl Target {
    /// The local folder that is built as a whole, if the target is one that is new or is replaced. `default` is
    /// `fuse.copy_mode`.
    pub fn new_folder(&self, default: CopyMode) -> Result<Option<PathBuf>> {
        let mode = self.mode.as_ref().map_or(Ok(default), |word| word.parse())?;
        match &self.local {
            _ if !self.folder => Ok(None),
            Some(path) => new_folder(path, mode, &self.text),
            None if mode == CopyMode::Replace => {
                Err(Error::sql("mode 'replace' cannot exchange a folder on an object store in one step")
                    .hint("write to a new prefix, or remove the old objects first and use 'append'"))
            }
            None => Ok(None),
        }
    }

    /// How a pipeline writes there, with the mode that was given.
    pub fn sink_options(&self) -> Result<SinkOptions> {
        let mut sink = self.sink.clone();
        if let Some(mode) = &self.mode {
            sink.set("mode", mode)?;
        }
        Ok(sink)
    }
}

/// Rewrites the statement for DataFusion; says where a COPY goes, or how a created table is written to.
pub fn prepare(body: &mut Body) -> Result<Option<Target>> {
    match body {
        Body::CopyTo(copy) => prepare_copy(copy).map(Some),
        Body::CreateExternalTable(create) => prepare_create(create).map(Some),
        Body::Explain(explain) => prepare(&mut explain.statement),
        Body::Statement(_) | Body::Reset(_) => Ok(None),
    }
}

fn prepare_copy(copy: &mut CopyToStatement) -> Result<Target> {
    let text = copy.target.clone();
    let mode = take_option(&mut copy.options, "mode");
    let sink = take_sink_options(&mut copy.options)?;
    set_format(copy)?;
    unquote(&mut copy.partitioned_by);
    let single = copy.options.iter().find(|(key, _)| key == "single_file_output").map(|(_, value)| value.to_string());
    let existing_folder = Path::new(&copy.target).is_dir();
    let has_ending = copy.target.rsplit('/').next().is_some_and(|name| name.contains('.'));
    let folder = match single.as_deref() {
        Some(value) if value.trim_matches('\'') == "true" => false,
        Some(_) => true,
        None => !copy.partitioned_by.is_empty() || copy.target.ends_with('/') || existing_folder || !has_ending,
    };
    if folder && !copy.target.ends_with('/') {
        copy.target.push('/');
    }
    let local = Location::parse(&copy.target)?.local_path();
    Ok(Target { text, folder, local, mode, sink })
}

/// The options that only a pipeline knows.
fn take_sink_options(options: &mut Vec<(String, Value)>) -> Result<SinkOptions> {
    let mut sink = SinkOptions::default();
    for name in ["roll_rows", "roll_bytes", "roll_interval"] {
        if let Some(value) = take_option(options, name) {
            sink.set(name, &value)?;
        }
    }
    Ok(sink)
}

/// The folder, if it is to be built as a whole; nothing if files are added to it.
fn new_folder(path: &Path, mode: CopyMode, text: &str) -> Result<Option<PathBuf>> {
    let strangers = foreign_files(path).map_err(|e| Error::io(path.display(), &e))?;
    match (strangers, mode) {
        (Contents::Nothing, _) => Ok(Some(path.to_owned())),
        (_, CopyMode::Append) => Ok(None),
        (Contents::Data, CopyMode::Replace) => Ok(Some(path.to_owned())),
        (Contents::Other(name), CopyMode::Replace) => Err(Error::query(format!(
            "'{text}' is not replaced: it holds '{}', which is not a data file",
            name.display()
        ))
        .hint("move that file away, or write to another folder")),
        (_, CopyMode::Error) => Err(Error::query(format!("the folder '{text}' is not empty"))
            .hint("OPTIONS ('mode' 'replace') replaces it in one step, ('mode' 'append') adds files to it")),
    }
}

enum Contents {
    Nothing,
    Data,
    Other(PathBuf),
}

fn foreign_files(folder: &Path) -> std::io::Result<Contents> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Contents::Nothing),
        Err(error) => return Err(error),
    };
    let mut contents = Contents::Nothing;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() && !name.starts_with(STAGE_PREFIX) {
            match foreign_files(&entry.path())? {
                Contents::Nothing => {}
                Contents::Data => contents = Contents::Data,
                other => return Ok(other),
            }
        } else if FileKind::of(&name).is_some() || name.starts_with('_') {
            contents = Contents::Data;
        } else if !name.starts_with('.') {
            return Ok(Contents::Other(entry.path()));
        }
    }
    Ok(contents)
}

/// STORED AS and the options that the ending of the target tells.
fn set_format(copy: &mut CopyToStatement) -> Result<()> {
    let kind = FileKind::of(&copy.target);
    let name = match (&copy.stored_as, kind) {
        (Some(name), _) => name.to_uppercase(),
        (None, Some(kind)) => kind.ending.to_uppercase(),
        (None, None) => {
            return Err(Error::sql(format!("the format of '{}' is not known", copy.target))
                .hint(format!("end it in .{}, or add STORED AS PARQUET", DATA_ENDINGS.join(", ."))));
        }
    };
    let (format, tabs) = format_name(&name);
    if copy.target.contains(['*', '?']) {
        return Err(Error::sql(format!("'{}' is a pattern, not a file to write", copy.target)));
    }
    if matches!(format, "SQLITE" | "POSTGRES") {
        return Err(Error::sql(format!("COPY writes files, and {format} is a database")).hint(format!(
            "CREATE EXTERNAL TABLE t (column TYPE, …) STORED AS {format} LOCATION … OPTIONS ('table' 't'); INSERT INTO t SELECT …"
        )));
    }
    if !matches!(format, "PARQUET" | "CSV" | "JSON" | "ARROW" | "AVRO") {
        return Err(unknown_format(format));
    }
    if format == "AVRO" {
        return Err(Error::sql("Avro can be read but not written").hint("write Parquet, Arrow, CSV or JSON"));
    }
    if matches!(format, "PARQUET" | "ARROW")
        && let Some(word) = kind.and_then(|kind| kind.compression_word())
    {
        let (name, ending) = if format == "PARQUET" { ("Parquet", "parquet") } else { ("Arrow", "arrow") };
        return Err(Error::sql(format!("'{}': {name} files are compressed inside, not as .{word}", copy.target))
            .hint(format!("end it in .{ending}")));
    }
    copy.stored_as = Some(format.to_owned());
    add_options(&mut copy.options, format, tabs, kind);
    Ok(())
}

/// The options that STORED AS and the ending tell and the user has not given.
fn add_options(options: &mut Vec<(String, Value)>, format: &str, tabs: bool, kind: Option<FileKind>) {
    if tabs && !has_option(options, "delimiter") {
        set_option(options, "format.delimiter", "\t");
    }
    if let Some(name) = kind.and_then(|kind| kind.compression_name())
        && matches!(format, "CSV" | "JSON")
        && !has_option(options, "compression")
    {
        set_option(options, "format.compression", name);
    }
}

/// The parser leaves the names of PARTITIONED BY in their quotes.
fn unquote(names: &mut [String]) {
    for name in names {
        if let Some(inner) = name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            *name = inner.replace("\"\"", "\"");
        }
    }
}

/// DataFusion's name for a format, and whether its fields are parted by tabs.
fn format_name(name: &str) -> (&str, bool) {
    match name {
        "TSV" => ("CSV", true),
        "NDJSON" | "JSONL" => ("JSON", false),
        "FEATHER" => ("ARROW", false),
        other => (other, false),
    }
}

/// A PRIMARY KEY says by what a row replaces another; what is unique for no purpose nobody could hold.
fn refuse_unique(create: &CreateExternalTable) -> Result<()> {
    let unique = |option: &ColumnOption| matches!(option, ColumnOption::Unique(_));
    let in_columns = create.columns.iter().any(|column| column.options.iter().any(|option| unique(&option.option)));
    if in_columns || create.constraints.iter().any(|one| matches!(one, TableConstraint::Unique(_))) {
        return Err(Error::sql("UNIQUE is not supported for tables over files: nobody could hold it")
            .mark("UNIQUE")
            .hint("leave it out; or CREATE TABLE … AS SELECT …, which is in memory and checks its keys"));
    }
    Ok(())
}

fn prepare_create(create: &mut CreateExternalTable) -> Result<Target> {
    let (format, tabs) = format_name(&create.file_type);
    let format = format.to_owned();
    if has_option(&create.options, "null_regex") {
        return Err(Error::sql("the option null_regex is not supported")
            .hint("read the column as VARCHAR, and use nullif(column, 'n/a')"));
    }
    refuse_unique(create)?;
    unquote(&mut create.table_partition_cols);
    let kind = create.locations.first().and_then(|location| FileKind::of(location));
    add_options(&mut create.options, &format, tabs, kind);
    create.file_type = format;
    let text = create.locations.first().cloned().unwrap_or_default();
    let (mut mode, mut sink) = (None, SinkOptions::default());
    if !create.unbounded {
        mode = take_option(&mut create.options, "mode");
        sink = take_sink_options(&mut create.options)?;
    }
    Ok(Target { folder: text.ends_with('/'), text, local: None, mode, sink })
}

fn has_option(options: &[(String, Value)], name: &str) -> bool {
    options.iter().any(|(key, _)| key.eq_ignore_ascii_case(name) || key.eq_ignore_ascii_case(&format!("format.{name}")))
}

fn set_option(options: &mut Vec<(String, Value)>, key: &str, value: &str) {
    options.push((key.to_owned(), Value::SingleQuotedString(value.to_owned())));
}

pub(super) fn take_option(options: &mut Vec<(String, Value)>, name: &str) -> Option<String> {
    let at = options.iter().position(|(key, _)| key.eq_ignore_ascii_case(name))?;
    let (_, value) = options.remove(at);
    Some(value.clone().into_string().unwrap_or_else(|| value.to_string()))
}
