//! The line of progress.
//!
//! Enters: a [`Watch`] on the session. Leaves: a line on standard error once a statement has taken a second, drawn
//! anew ten times a second. Always holds: dropped, it is gone from the screen; it runs on a thread of its own, and
//! the statement does nothing for it.

use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use unicode_width::UnicodeWidthStr;

use super::report::digits;
use crate::format::clip;
use crate::session::{Progress, Watch, size};

/// What ends sooner shows no progress.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(100);
/// Columns of the bar, where there is room.
const BAR_WIDTH: usize = 30;

/// A line of progress.
pub(super) struct Bar {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Bar {
    pub(super) fn start(watch: Watch) -> Self {
        let (stop, stopped) = channel();
        let start = Instant::now();
        let thread = std::thread::Builder::new().name("progress".to_owned());
        let thread = thread.spawn(move || draw(&watch, start, &stopped)).ok();
        Self { stop: Some(stop), thread }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn draw(watch: &Watch, start: Instant, stopped: &Receiver<()>) {
    let waits = |time| stopped.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
    if !waits(PATIENCE) {
        return;
    }
    let mut shown = false;
    loop {
        if let Some(progress) = watch.progress() {
            let width = terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0));
            show(&line(&progress, start.elapsed(), width));
            shown = true;
        }
        if !waits(INTERVAL) {
            break;
        }
    }
    if shown {
        show("");
    }
}

/// Puts a line in place of the one that the cursor is in.
fn show(line: &str) {
    let mut screen = std::io::stderr().lock();
    // Nothing can be done about a terminal that has gone.
    let _ = write!(screen, "\r\u{1b}[2K{line}");
    let _ = screen.flush();
}

/// The line, somewhat narrower than the terminal: what Ctrl-C echoes behind it must not begin another line, or
/// it could not be taken away.
fn line(progress: &Progress, elapsed: Duration, width: usize) -> String {
    let message = message(progress, elapsed);
    let width = width.saturating_sub(4);
    let room = width.saturating_sub(progress.phase.width() + message.width() + 2).min(BAR_WIDTH);
    let bar = match progress.done {
        Some(done) if room > 5 => {
            let full = ((done * room as f64) as usize).min(room);
            format!("{}{} ", "━".repeat(full), "─".repeat(room - full))
        }
        _ => String::new(),
    };
    clip(&format!("{} {bar}{message}", progress.phase), width)
}

/// What stands behind the bar.
fn message(progress: &Progress, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(0.001);
    let mut parts = Vec::new();
    if progress.rows > 0 {
        parts.push(format!("{} rows/s", short(progress.rows as f64 / seconds)));
    }
    if progress.bytes > 0 {
        parts.push(format!("{}/s", size((progress.bytes as f64 / seconds) as u64)));
    }
    if let Some(done) = progress.done.filter(|done| *done > 0.01) {
        parts.push(format!("{} left", clock(seconds * (1.0 - done) / done)));
    } else {
        parts.push(clock(seconds));
    }
    parts.push(format!("memory {}", size(progress.memory)));
    let message = parts.join("  ");
    match progress.done {
        Some(done) => format!("{:.0} %  {message}", done * 100.0),
        None => message,
    }
}

/// `0:07`, `12:30`, `1:02:03`
fn clock(seconds: f64) -> String {
    let seconds = seconds.min(1e9) as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// `950`, `12.3 k`, `4.5 M`
fn short(number: f64) -> String {
    match number {
        n if n >= 1e9 => format!("{:.1} G", n / 1e9),
        n if n >= 1e6 => format!("{:.1} M", n / 1e6),
        n if n >= 1e4 => format!("{:.1} k", n / 1e3),
        n => digits(n as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_the_speed_and_what_is_left() {
        let progress = Progress {
            phase: "reading".into(),
            done: Some(0.25),
            rows: 5_000_000,
            bytes: 80_000_000,
            memory: 1_200_000,
        };
        let shown = |progress: &Progress, seconds, width| line(progress, Duration::from_secs(seconds), width);
        assert_eq!(
            shown(&progress, 2, 90),
            "reading ━━━━━───────────────── 25 %  2.5 M rows/s  40.0 MB/s  0:06 left  memory 1.2 MB"
        );
        assert_eq!(shown(&progress, 2, 40), "reading 25 %  2.5 M rows/s  40.0 MB…");
        let unknown = Progress { done: None, ..progress };
        assert_eq!(shown(&unknown, 3700, 90), "reading 1,351 rows/s  21.6 kB/s  1:01:40  memory 1.2 MB");
    }
}
