//! How far a pipeline is, in one line.
//!
//! Enters: the [`ProgressCell`] of a pipeline. Leaves: `running 02:14  in 48.1k/s  out 120/s  lag 310 rows / 0.4s
//! state 82 MB  commit 3s ago (#41)`. Always holds: the speeds are those of the last second or more.

use std::time::{Duration, Instant};

use super::report::{count, digits};
use crate::clock::now_micros;
use crate::runtime::{Progress, ProgressCell};

/// Over how long a speed is measured at the least.
const WINDOW: Duration = Duration::from_secs(1);

/// Watches a pipeline.
pub(super) struct Status {
    start: Instant,
    progress: ProgressCell,
    before: (Instant, Progress),
    rates: (f64, f64),
}

impl Status {
    pub(super) fn new(progress: ProgressCell) -> Self {
        let now = Instant::now();
        Self { start: now, progress, before: (now, Progress::default()), rates: (0.0, 0.0) }
    }

    /// The line as of now.
    pub(super) fn line(&mut self) -> String {
        let now = self.progress.read();
        let seconds = self.before.0.elapsed().as_secs_f64();
        if self.before.0.elapsed() >= WINDOW {
            let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
            self.rates = (rate(now.rows_in, self.before.1.rows_in), rate(now.rows_out, self.before.1.rows_out));
            self.before = (Instant::now(), now.clone());
        }
        line(&now, self.start.elapsed(), self.rates, now_micros())
    }

    /// What the run has done.
    pub(super) fn summary(&self) -> String {
        let now = self.progress.read();
        format!(
            "{} read{}, {} written, epoch {}",
            count(now.rows_in, "row"),
            left_out(&now),
            count(now.rows_out, "change"),
            now.epoch,
        )
    }

    /// How long it has run.
    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

fn line(now: &Progress, running: Duration, rates: (f64, f64), micros: i64) -> String {
    let commit = match now.epoch {
        0 => "no commit yet".to_owned(),
        _ if now.committed_micros == 0 => format!("going on behind #{}", now.epoch),
        epoch => format!("commit {} ago (#{epoch})", seconds((micros - now.committed_micros) as f64 / 1e6, 0)),
    };
    format!(
        "running {}  in {}/s  out {}/s  lag {}  state {}  {commit}{}",
        clock(running.as_secs()),
        short(rates.0),
        short(rates.1),
        lag(now, micros),
        bytes(now.state.1 as f64),
        left_out(now),
    )
}

/// What waits, as rows where they are known, and for how long.
fn lag(now: &Progress, micros: i64) -> String {
    let what = match (now.waiting.rows, now.waiting.bytes) {
        (Some(0) | None, 0) => None,
        (Some(rows), 0) => Some(format!("{} rows", digits(rows))),
        (_, waiting) => Some(bytes(waiting as f64)),
    };
    let age = now.behind_since.map(|since| seconds((micros - since).max(0) as f64 / 1e6, 1));
    let parts: Vec<String> = what.into_iter().chain(age).collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(" / ") }
}

/// How many records could not be read, and how many rows were late, if any.
fn left_out(now: &Progress) -> String {
    [(now.skipped, "bad record"), (now.late, "late row")].map(|(rows, what)| dropped(rows, what)).concat()
}

/// `, 2 late rows left out`, or nothing.
pub(super) fn dropped(rows: u64, what: &str) -> String {
    if rows == 0 { String::new() } else { format!(", {} left out", count(rows, what)) }
}

/// `02:14`, or `1:02:14`.
fn clock(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes:02}:{seconds:02}") }
}

/// A time such as 0.4s, 12s, 3m, 5h or 2d; short ones with so many decimals.
fn seconds(seconds: f64, decimals: usize) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.decimals$}s"),
        s if s < 120.0 => format!("{s:.0}s"),
        s if s < 7200.0 => format!("{:.0}m", s / 60.0),
        s if s < 172_800.0 => format!("{:.0}h", s / 3600.0),
        s => format!("{:.0}d", s / 86_400.0),
    }
}

/// A number such as 48.1k.
fn short(number: f64) -> String {
    match number {
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n if n >= 1e3 => format!("{:.1}k", n / 1e3),
        n => format!("{n:.0}"),
    }
}

/// A size such as 82 MB.
pub(super) fn bytes(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.1} GB", n / 1e9),
        n if n >= 1e6 => format!("{:.0} MB", n / 1e6),
        n if n >= 1e3 => format!("{:.0} kB", n / 1e3),
        n => format!("{n:.0} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::stream::Waiting;

    #[test]
    fn the_line_tells_speed_lag_state_and_the_last_commit() {
        let micros = 1_000_000_000;
        let mut now = Progress {
            epoch: 41,
            committed_micros: micros - 3_200_000,
            waiting: Waiting { bytes: 0, rows: Some(310), since_micros: None },
            behind_since: Some(micros - 400_000),
            state: (7, 82_000_000),
            ..Progress::default()
        };
        let shown = |now: &Progress, seconds| line(now, Duration::from_secs(seconds), (48_100.0, 120.0), micros);
        assert_eq!(
            shown(&now, 134),
            "running 02:14  in 48.1k/s  out 120/s  lag 310 rows / 0.4s  state 82 MB  commit 3s ago (#41)"
        );
        now.waiting = Waiting { bytes: 3_200, rows: None, since_micros: None };
        now.behind_since = Some(micros - 300_000_000);
        now.skipped = 2;
        let line = shown(&now, 3_734);
        assert!(line.starts_with("running 1:02:14") && line.contains("lag 3 kB / 5m "), "{line}");
        assert!(line.ends_with(", 2 bad records left out"), "{line}");
        now.late = 1;
        let line = shown(&now, 3_734);
        assert!(line.ends_with(", 2 bad records left out, 1 late row left out"), "{line}");
        let line = shown(&Progress::default(), 0);
        assert!(line.ends_with("lag none  state 0 B  no commit yet"), "{line}");
    }
}
