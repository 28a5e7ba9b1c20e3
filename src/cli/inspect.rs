//! `fuse inspect`.
//!
//! Enters: a pipeline's state folder. Leaves: what it holds, as text or as one JSON object. Always holds: nothing in
//! it is changed, also while a pipeline runs on it; manifests and logs are read, and no state.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::args::InspectArgs;
use super::report::count;
use super::status::{bytes, dropped};
use crate::checkpoint::{Checkpoint, Commit, EpochRecord, Explained, Failure, Identity, Logs, StateStore};
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::function::plan_in_sql;
use crate::offset::ENDED;
use crate::session::Session;

/// What a state folder holds.
struct Found {
    name: String,
    identity: Identity,
    /// The newest first.
    checkpoints: Vec<Checkpoint>,
    /// Epochs that were begun and are still in the log.
    begun: Vec<EpochRecord>,
    committed: Commit,
    failure: Option<Failure>,
}

/// Prints what a state folder holds.
pub(super) async fn inspect(args: &InspectArgs) -> Result<()> {
    let found = Found::read(&args.state).await?;
    match args.format.as_deref() {
        Some("json") => println!("{}", found.json()),
        None | Some("text") => print!("{}", found.text()),
        Some(other) => return Err(Error::usage(format!("--format {other}")).hint("text or json")),
    }
    Ok(())
}

impl Found {
    async fn read(state: &str) -> Result<Self> {
        let nothing = || Error::query(format!("there is no state of a pipeline in '{state}'"));
        if !state.contains("://") && !std::path::Path::new(state).is_dir() {
            return Err(nothing());
        }
        let folder = Session::new(Settings::default())?.state_folder(state)?;
        let identity = Identity::read(&folder).await?.ok_or_else(nothing)?;
        let checkpoints = StateStore::list(folder.clone()).await?;
        let after = checkpoints.last().map_or(0, |oldest| oldest.epoch);
        let (begun, committed) = Logs::new(folder.clone()).read(after).await?;
        let failure = Failure::read(&folder).await?;
        Ok(Self { name: folder.name(), identity, checkpoints, begun, committed, failure })
    }

    /// Rows and bytes of what each part of the pipeline keeps in the newest checkpoint.
    fn kept(&self) -> Vec<(String, u64, u64)> {
        let mut kept: BTreeMap<(u8, usize), (u64, u64)> = BTreeMap::new();
        for (part, rows, bytes) in self.checkpoints.iter().take(1).flat_map(Checkpoint::sizes) {
            let number = |prefix: &str| -> Option<usize> {
                part.strip_prefix(prefix)?.split('-').next().and_then(|number| number.parse().ok())
            };
            let kinds = ["keep", "source", "sink"].into_iter().zip(0_u8..);
            let Some(place) = kinds.filter_map(|(prefix, kind)| Some((kind, number(prefix)?))).next() else { continue };
            let sum = kept.entry(place).or_default();
            *sum = (sum.0 + rows, sum.1 + bytes);
        }
        let sources = &self.identity.sources;
        let name = |(kind, at): (u8, usize)| match kind {
            0 => self.identity.operators.get(at).map_or_else(|| format!("operator {at}"), |line| plan_in_sql(line)),
            1 => format!("source {}", sources.get(at).map_or_else(|| at.to_string(), ToString::to_string)),
            _ => format!("sink {}", self.identity.writes.get(at).map_or_else(|| at.to_string(), ToString::to_string)),
        };
        kept.into_iter().map(|(place, (rows, bytes))| (name(place), rows, bytes)).collect()
    }

    /// What the newest checkpoint tells of the operators.
    fn operators(&self) -> &[Explained] {
        self.checkpoints.first().map_or(&[], |newest| &newest.operators)
    }

    fn begun_epoch(&self) -> u64 {
        self.begun.last().map_or(self.committed.epoch, |last| last.epoch.max(self.committed.epoch))
    }

    fn json(&self) -> Value {
        let checkpoints = self.checkpoints.iter().map(
            |checkpoint| json!({ "epoch": checkpoint.epoch, "rows": checkpoint.rows(), "bytes": checkpoint.bytes() }),
        );
        let epochs = self.begun.iter().map(
            |record| json!({ "epoch": record.epoch, "begun_at": time(record.now_micros), "sources": record.sources }),
        );
        let watermarks = self.committed.watermarks.iter().map(|(table, micros)| match *micros {
            ENDED => (table, Some("ended".to_owned())),
            micros => (table, time(micros)),
        });
        let kept = self.kept();
        let operators = kept.iter().map(|(what, rows, bytes)| json!({ "what": what, "rows": rows, "bytes": bytes }));
        json!({
            "state": self.name,
            "id": self.identity.id,
            "version": self.identity.version,
            "committed_epoch": self.committed.epoch,
            "committed_at": time(self.committed.committed_micros),
            "begun_epoch": self.begun_epoch(),
            "checkpoints": checkpoints.collect::<Vec<_>>(),
            "last_error": self.failure.as_ref().map(|failure| json!({
                "at": time(failure.micros),
                "epoch": failure.epoch,
                "message": failure.message,
                "notes": failure.notes,
            })),
            "skipped_records": self.committed.skipped,
            "late_rows": self.committed.late,
            "watermarks": watermarks.collect::<BTreeMap<_, _>>(),
            "sources": self.committed.sources,
            "sinks": self.identity.writes,
            "keeps": operators.collect::<Vec<_>>(),
            "computes": self.identity.computes.lines().map(plan_in_sql).collect::<Vec<_>>(),
            "operators": self.operators().iter().map(|line| json!({
                "operator": plan_in_sql(&line.operator),
                "strategy": line.strategy,
                "output": line.output,
                "reason": line.reason,
                "state_rows": line.work.rows,
                "state_bytes": line.work.bytes,
                "epochs": line.work.epochs,
                "epoch_micros": line.work.epoch_micros(),
            })).collect::<Vec<_>>(),
            "epochs": epochs.collect::<Vec<_>>(),
        })
    }

    fn text(&self) -> String {
        let mut lines =
            vec![format!("state       {} (fuse {}, id {})", self.name, self.identity.version, self.identity.id)];
        let begun = match self.begun_epoch() {
            begun if begun > self.committed.epoch => format!("; {begun} was begun and is not committed"),
            _ => String::new(),
        };
        lines.push(match self.committed.epoch {
            0 => format!("epoch       none is committed{begun}"),
            epoch => format!("epoch       {epoch}, committed {}{begun}", shown(self.committed.committed_micros)),
        });
        let size = |rows: u64, size: u64| format!("{}, {}", count(rows, "row"), bytes(size as f64));
        let mut label = "checkpoint";
        for checkpoint in &self.checkpoints {
            lines.push(format!("{label:<12}{}: {}", checkpoint.epoch, size(checkpoint.rows(), checkpoint.bytes())));
            label = "and before";
        }
        if let Some(failure) = &self.failure {
            let over = if failure.epoch <= self.committed.epoch { ", and it has gone on since" } else { "" };
            lines.push(format!("last error  {}, in epoch {}{over}:", shown(failure.micros), failure.epoch));
            lines.extend(std::iter::once(&failure.message).chain(&failure.notes).map(|line| format!("  {line}")));
        }
        lines.push("sources".to_owned());
        for (name, place) in &self.committed.sources {
            let skipped = dropped(self.committed.skipped.get(name).copied().unwrap_or(0), "bad record");
            let late = dropped(self.committed.late.get(name).copied().unwrap_or(0), "late row");
            let watermark = self.committed.watermarks.get(name).map(|micros| match *micros {
                ENDED => ", ended".to_owned(),
                micros => format!(", watermark {}", shown(micros)),
            });
            lines.push(format!("  {name}: {}{}{skipped}{late}", words(place), watermark.unwrap_or_default()));
        }
        lines.push("sinks".to_owned());
        lines.extend(self.identity.writes.iter().map(|target| format!("  {target}")));
        lines.push("keeps".to_owned());
        lines.extend(self.kept().into_iter().map(|(what, rows, bytes)| format!("  {what}: {}", size(rows, bytes))));
        lines.push("computes".to_owned());
        // The operators stand at the end, in the order in which the checkpoint has them.
        let operators = self.operators();
        let tables = self.identity.computes.lines().count().saturating_sub(operators.len());
        for (at, line) in self.identity.computes.lines().enumerate() {
            let cost = at.checked_sub(tables).and_then(|at| operators.get(at)).filter(|known| known.operator == line);
            lines.push(format!("  {}{}", plan_in_sql(line), cost.map_or_else(String::new, cost_in_words)));
        }
        lines.join("\n") + "\n"
    }
}

/// What an operator keeps, and the time that it takes.
fn cost_in_words(line: &Explained) -> String {
    let (work, micros) = (&line.work, line.work.epoch_micros());
    let state = match (work.rows, work.bytes) {
        (0, 0) => String::new(),
        (rows, size) => format!("{}, {} in memory, ", count(rows, "row"), bytes(size as f64)),
    };
    let time = if micros < 1000.0 { format!("{micros:.1} µs") } else { format!("{:.1} ms", micros / 1000.0) };
    format!(" ({state}{time} an epoch, {})", line.strategy)
}

/// The members of an object as words: `files 3, last in/3.json`.
fn words(place: &Value) -> String {
    let none = Map::new();
    let members = place.as_object().unwrap_or(&none).iter().map(|(name, value)| match value {
        Value::String(text) => format!("{name} {text}"),
        other => format!("{name} {other}"),
    });
    members.collect::<Vec<_>>().join(", ")
}

/// A time as programs read it; nothing for none.
fn time(micros: i64) -> Option<String> {
    let time = chrono::DateTime::from_timestamp_micros(micros).filter(|_| micros > 0)?;
    Some(time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}

/// A time as people read it.
fn shown(micros: i64) -> String {
    let time = chrono::DateTime::from_timestamp_micros(micros).filter(|_| micros > 0);
    time.map_or_else(
        || "at a time that is not known".to_owned(),
        |time| time.format("%Y-%m-%d %H:%M:%S UTC").to_string(),
    )
}
