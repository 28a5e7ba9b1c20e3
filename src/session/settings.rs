//! What the settings of a session mean.
//!
//! Enters: values of [`Settings`]. Leaves: the limits that DataFusion runs under, and errors for values that it
//! would notice too late. Always holds: a wrong value is named where it is set.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::execution::memory_pool::{FairSpillPool, MemoryPool, TrackConsumersPool};
use datafusion::sql::parser::Statement as Body;
use datafusion::sql::sqlparser::ast::Statement as Sql;
use tempfile::TempDir;

use crate::config::{self, MOST_THREADS, Settings};
use crate::error::{Error, Result, near_name};
use crate::parser::{self, Reading, Script};

/// Operators that can spill share the memory evenly: with first come, first served, a sort that holds all of
/// it leaves none for its own merge. An error names the largest users.
pub(super) fn memory_pool(bytes: usize) -> Arc<dyn MemoryPool> {
    let named_in_errors = NonZeroUsize::new(3).unwrap_or(NonZeroUsize::MIN);
    Arc::new(TrackConsumersPool::new(FairSpillPool::new(bytes), named_in_errors))
}

/// A new folder below that of `fuse.temp_dir`, or of the system.
pub(super) fn spill_folder(temp_dir: &str) -> Result<TempDir> {
    let parent = if temp_dir.is_empty() { std::env::temp_dir() } else { PathBuf::from(temp_dir) };
    let make = || {
        std::fs::create_dir_all(&parent)?;
        tempfile::Builder::new().prefix("fuse-spill-").tempdir_in(&parent)
    };
    make().map_err(|e| Error::io(parent.display(), &e))
}

/// The memory that these settings mean, in bytes.
pub(super) fn memory_limit(settings: &Settings) -> Result<usize> {
    match settings.memory_limit.as_str() {
        "" => Ok(config::default_memory_limit()),
        text => config::parse_bytes(text),
    }
}

/// The threads that these settings mean.
pub(super) fn threads(settings: &Settings) -> usize {
    match settings.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}

/// Refuses a value that would be noticed only when it is used.
pub(super) fn validate(name: &str, value: &str) -> Result<()> {
    match name {
        "fuse.format" if !value.is_empty() => value.parse::<crate::format::Format>().map(drop),
        "fuse.threads" if value.parse::<usize>().is_ok_and(|threads| threads > MOST_THREADS) => {
            Err(Error::sql(format!("fuse.threads = {value}: at most {MOST_THREADS}")))
        }
        "fuse.on_full_recompute" => value.parse::<config::OnFullRecompute>().map(drop),
        "fuse.copy_mode" => value.parse::<config::CopyMode>().map(drop),
        "fuse.memory_limit" | "fuse.function_bytes" | "fuse.json_sample" if !value.is_empty() => {
            config::parse_bytes(value).map(drop)
        }
        _ => Ok(()),
    }
    .map_err(|error| Error { kind: crate::error::Kind::Sql, ..error })
}

/// An unknown setting gets the nearest one that there is.
pub(super) fn explain_setting(name: &str, options: &ConfigOptions, error: Error) -> Error {
    let known: Vec<String> = options.entries().into_iter().map(|entry| entry.key).collect();
    if known.iter().any(|known| known == name) || name.starts_with("datafusion.runtime.") && !unknown(&error) {
        return Error { kind: crate::error::Kind::Sql, ..error };
    }
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let error = Error::sql(format!("no setting named {name}")).mark(name);
    let near = near_name(name, known.iter().map(String::as_str)).map(str::to_owned);
    // The last part alone: `SET batch_size = …`.
    let near = near.or_else(|| known.iter().find(|known| last(known) == last(name)).cloned());
    let near = near.or_else(|| {
        let lasts: Vec<String> = known.iter().map(|known| last(known)).collect();
        let near = near_name(&last(name), lasts.iter().map(String::as_str))?;
        known.iter().find(|known| last(known) == near).cloned()
    });
    match near {
        Some(near) => error.hint(format!("did you mean {near}?")),
        None => error.hint("SHOW fuse lists the settings of fuse, SHOW ALL those of the engine too"),
    }
}

fn unknown(error: &Error) -> bool {
    error.message.contains("Unknown") || error.message.contains("not found")
}

/// `SHOW fuse` lists our settings, `SHOW ALL` every one; both with the sentence that explains them.
pub(super) fn list_settings(body: &Body) -> Option<Result<Body>> {
    let Body::Statement(sql) = body else { return None };
    let Sql::ShowVariable { variable } = sql.as_ref() else { return None };
    let [name] = variable.as_slice() else { return None };
    if !name.value.eq_ignore_ascii_case("fuse") {
        return None;
    }
    let text = "SELECT name, value, description FROM information_schema.df_settings \
                WHERE name LIKE 'fuse.%' ORDER BY name";
    let script = Script { name: "SHOW fuse".to_owned(), text: text.to_owned() };
    let parsed = parser::parse(&script, &Reading::default());
    Some(parsed.and_then(|mut all| Ok(all.pop().ok_or_else(|| Error::sql("SHOW what?"))?.body)))
}
