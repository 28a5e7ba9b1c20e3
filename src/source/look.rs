//! The columns of a growing table, in what is there.
//!
//! Enters: CREATE STREAM without columns. Leaves: the columns of its files, and how they are written. Always holds: a
//! large folder is looked at in some of its files; folders named `key=value` are no columns.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion::execution::SessionState;
use datafusion::logical_expr::CreateExternalTable;

use super::file_format::growing_json_columns;
use super::infer::union;
use super::location::Listed;
use super::stream::{Look, csv_options};
use super::table::{Found, Wishes, create_format, forced_files, format_options};
use super::{FileKind, Location};
use crate::error::{Error, Result};

/// Files that are looked at.
const SAMPLE_FILES: usize = 200;

/// What the files of a growing table tell that are there.
pub(super) async fn look_for_stream(state: &SessionState, cmd: &CreateExternalTable) -> Result<Look> {
    let text = cmd.locations.first().map_or("", String::as_str);
    let location = Location::parse(text)?;
    let store = state.runtime_env().object_store(&location.url)?;
    let listed = location.files(state).await?.files;
    if listed.is_empty() {
        return Err(location.missing(store.as_ref()).await);
    }
    let step = listed.len().div_ceil(SAMPLE_FILES);
    let files = listed.into_iter().filter(|file| file.size > 0).step_by(step).collect::<Vec<_>>();
    if files.is_empty() {
        return Err(Error::query(format!("'{text}' is empty")));
    }
    if cmd.file_type == "JSON" {
        let mut schemas = Vec::new();
        for file in &files {
            let compression = FileKind::forced("JSON", file.location.as_ref()).compression;
            schemas.push(growing_json_columns(state, store.as_ref(), file, compression).await?);
        }
        let all = union(&files, &schemas, false)?;
        // A text holds whatever comes of what was only null.
        let texts = all.fields().iter().map(|field| match field.data_type() {
            DataType::Null => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8)),
            _ => Arc::clone(field),
        });
        let columns = Arc::new(Schema::new(texts.collect::<Vec<_>>()));
        return Ok(Look { columns, options: Vec::new() });
    }
    let (mut files, mut options) = (files, HashMap::new());
    if cmd.file_type == "CSV" {
        let (kind, _, chosen) = forced_files("CSV", &location, files, store.as_ref()).await?;
        files = chosen;
        options = format_options(&kind, store.as_ref(), &files).await?;
        options.extend(csv_options(&cmd.options).into_iter().map(|(name, value)| (format!("format.{name}"), value)));
    }
    let format = create_format(state, &cmd.file_type, &options)?;
    let wishes = Wishes { unpartitioned: true, ..Wishes::default() };
    let files = Listed { files, seen: Vec::new() };
    let found = Found::look(state, &store, location, format, files, &wishes).await?;
    if found.has_several_dialects() {
        return Err(Error::query(format!("the files of '{text}' are written in several ways"))
            .hint("say which is meant: OPTIONS ('delimiter' ';', 'has_header' 'true')"));
    }
    let options = found.dialect().map(|dialect| dialect.found_options()).unwrap_or_default();
    Ok(Look {
        columns: Arc::clone(found.schema()),
        options: options.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
    })
}
