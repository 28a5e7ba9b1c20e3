//! Names → tables.
//!
//! Enters: a name in a statement. Leaves: the table that was created under it or, for a path, a table over
//! the files there. Always holds: a created table hides a file of the same name; a name that means nothing
//! is an error with the nearest known name.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{TableProvider, UrlTableFactory};
use datafusion::common::Result as DfResult;
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::SessionState;

use crate::error::{Error, Kind, near_name};
use crate::parser::FILE_FUNCTIONS;
use crate::source::{self, Rejects};

/// Gives the session's state at the moment, if the session is still there.
type StateNow = Box<dyn Fn() -> Option<SessionState> + Send + Sync>;

/// Resolves paths in FROM.
#[derive(Default)]
pub struct PathTables {
    rejects: Arc<Rejects>,
    state: OnceLock<StateNow>,
    /// What COPY would have written: `fuse check` plans statements that read it, but runs none.
    planned: Mutex<HashMap<String, SchemaRef>>,
}

impl fmt::Debug for PathTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PathTables")
    }
}

impl PathTables {
    /// Ties the tables to the session that was built with them. The first call counts.
    pub fn attach(&self, state: impl Fn() -> Option<SessionState> + Send + Sync + 'static) {
        self.state.get_or_init(|| Box::new(state));
    }

    /// What scans tell of rows that are not as the others.
    pub fn rejects(&self) -> &Arc<Rejects> {
        &self.rejects
    }

    /// From now on `path` is an empty table of these columns.
    pub fn plan_file(&self, path: &str, schema: SchemaRef) {
        let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        planned.insert(path.trim_end_matches('/').to_owned(), schema);
    }

    fn planned(&self, path: &str) -> Option<SchemaRef> {
        let planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        if planned.is_empty() {
            return None;
        }
        // `out/daily/**/*.parquet` reads what was copied to `out/daily/`.
        let folder = path.split('*').next().unwrap_or(path).trim_end_matches('/');
        planned.get(path.trim_end_matches('/')).or_else(|| planned.get(folder)).cloned()
    }
}

#[async_trait]
impl UrlTableFactory for PathTables {
    async fn try_new(&self, name: &str) -> DfResult<Option<Arc<dyn TableProvider>>> {
        if let Some(schema) = self.planned(name) {
            return Ok(Some(Arc::new(EmptyTable::new(schema))));
        }
        if let Some(table) = self.rejects.table(name)? {
            return Ok(Some(table));
        }
        let Some(state) = self.state.get().and_then(|state| state()) else { return Ok(None) };
        if let Some(table) = source::table_for_call(&state, name).await? {
            return Ok(Some(table));
        }
        #[cfg(feature = "delta")]
        if let Some(table) = source::delta_table(&state, name).await? {
            return Ok(Some(table));
        }
        Ok(source::table_for_path(&state, name).await?)
    }
}

/// Gives an error about an unknown table or function the nearest name that is known.
pub fn explain_unknown_name(state: &SessionState, error: Error) -> Error {
    if error.kind != Kind::Sql {
        return error;
    }
    let quoted = |prefix: &str| Some(error.message.strip_prefix(prefix)?.split('\'').next()?.to_owned());
    if let Some(full) = quoted("table '") {
        let name = full.trim_start_matches("datafusion.public.").to_owned();
        let known = table_names(state);
        let mut better = Error { message: format!("no table named {name}"), ..error.clone() };
        better = better.mark(format!("'{name}'|{name}"));
        let hint = match near_name(&name, known.iter().map(String::as_str)) {
            Some(near) => Some(format!("did you mean {near}?")),
            None if name.contains('.') && neighbour(&name).is_some() => {
                neighbour(&name).map(|near| format!("did you mean '{near}'?"))
            }
            None if Path::new(&name).is_dir() => Some(format!("a folder is named with a slash: FROM '{name}/'")),
            None => Some("SHOW TABLES lists the tables; a file is named in quotes: FROM 'data.parquet'".to_owned()),
        };
        better.hint = hint.map(String::into_boxed_str);
        return better;
    }
    if let Some(name) = quoted("table function '") {
        let known = state.table_functions().keys().map(String::as_str).chain(FILE_FUNCTIONS);
        let mut better = Error { message: format!("no table function named {name}"), ..error.clone() }.mark(&name);
        better.hint = near_name(&name, known).map(|near| format!("did you mean {near}?").into());
        return better;
    }
    if let Some(name) = quoted("Invalid function '") {
        if state.window_functions().contains_key(&name) {
            let better = Error { message: format!("{name} is a window function"), notes: Vec::new(), ..error };
            return better.hint(format!("say over which rows: {name}() OVER (ORDER BY …)"));
        }
        let known = state.scalar_functions().keys().chain(state.aggregate_functions().keys());
        let known = known.chain(state.window_functions().keys()).chain(state.table_functions().keys());
        let known = known.map(String::as_str).chain(FILE_FUNCTIONS);
        let mut better = Error { message: format!("no function named {name}"), notes: Vec::new(), ..error.clone() };
        better = better.mark(&name);
        better.hint = near_name(&name, known).map(|near| format!("did you mean {near}?").into());
        return better;
    }
    error
}

/// A file of the working folder with a near name.
fn neighbour(name: &str) -> Option<String> {
    let files = std::fs::read_dir(".").ok()?.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let files: Vec<String> = files.collect();
    near_name(name, files.iter().map(String::as_str)).map(str::to_owned)
}

fn table_names(state: &SessionState) -> Vec<String> {
    let mut names = Vec::new();
    let catalogs = state.catalog_list();
    for catalog in catalogs.catalog_names().iter().filter_map(|name| catalogs.catalog(name)) {
        for schema in catalog.schema_names().iter().filter_map(|name| catalog.schema(name)) {
            names.extend(schema.table_names());
        }
    }
    names
}
