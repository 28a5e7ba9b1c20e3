//! `fuse inspect`.
//!
//! Enters: a pipeline's state folder. Leaves: what it holds, as text or as one JSON object. Always holds: nothing in
//! it is changed, also while a pipeline runs on it.

use serde_json::{Value, json};

use super::args::InspectArgs;
use crate::checkpoint::{Identity, Logs, StateStore};
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::session::Session;

/// Prints what a state folder holds.
pub(super) async fn inspect(args: &InspectArgs) -> Result<()> {
    let nothing = || Error::query(format!("there is no state of a pipeline in '{}'", args.state));
    if !args.state.contains("://") && !std::path::Path::new(&args.state).is_dir() {
        return Err(nothing());
    }
    let folder = Session::new(Settings::default())?.state_folder(&args.state)?;
    let identity = Identity::read(&folder).await?.ok_or_else(nothing)?;
    let (store, _) = StateStore::open(folder.clone()).await?;
    let checkpoint = store.last();
    let (begun, committed) = Logs::new(folder).read(checkpoint.epoch).await?;
    let last = begun.last();
    let found = json!({
        "id": identity.id,
        "version": identity.version,
        "begun_epoch": last.map_or(checkpoint.epoch, |record| record.epoch),
        "committed_epoch": committed.epoch,
        "checkpoint": { "epoch": checkpoint.epoch, "rows": checkpoint.rows(), "bytes": checkpoint.bytes() },
        "sinks": identity.writes,
        "skipped_records": committed.skipped,
        "last_epoch": last.map(|record| json!({ "now_micros": record.now_micros, "sources": record.sources })),
        "computes": identity.computes.lines().collect::<Vec<_>>(),
    });
    match args.format.as_deref() {
        Some("json") => println!("{found}"),
        None | Some("text") => found.as_object().into_iter().flatten().for_each(|(name, value)| print(name, value)),
        Some(other) => return Err(Error::usage(format!("--format {other}")).hint("text or json")),
    }
    Ok(())
}

fn print(name: &str, value: &Value) {
    match value {
        Value::Array(lines) => {
            println!("{name}:");
            lines.iter().for_each(|line| println!("  {}", line.as_str().unwrap_or_default()));
        }
        Value::String(text) => println!("{name}: {text}"),
        other => println!("{name}: {other}"),
    }
}
