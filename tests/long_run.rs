//! A pipeline that runs for long.
//!
//! Enters: generated rows at a steady rate, restarts, kills. Leaves: nothing. Always holds: the memory, the open files
//! and the state folder of a pipeline whose state is bounded do not grow, and in the end its outputs are what the batch
//! gives. FUSE_LONG_SECONDS sets how long; epochs, samples and their times are printed.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Dice, Place};

const SQL: &str = "
    CREATE STREAM r (WATERMARK FOR ts AS ts - INTERVAL '2 seconds') STORED AS RATE OPTIONS ('rows_per_second' '2000');
    CREATE STREAM q (WATERMARK FOR ts AS ts - INTERVAL '2 seconds') STORED AS RATE OPTIONS ('rows_per_second' '500');
    CREATE EXTERNAL TABLE totals (k BIGINT, n BIGINT, s BIGINT, PRIMARY KEY (k)) STORED AS DELTA LOCATION 'lake/totals'
        OPTIONS ('compact_every' '20', 'vacuum_after' '20 seconds');
    INSERT INTO totals SELECT value % 200, count(*), sum(value) FROM r GROUP BY value % 200;
    COPY (SELECT window_start, count(*) AS n, sum(value) AS s FROM TUMBLE(TABLE r, DESCRIPTOR(ts), INTERVAL '1 second')
          GROUP BY window_start EMIT FINAL) TO 'windows/' STORED AS PARQUET;
    COPY (SELECT r.value AS a, q.value AS b FROM r JOIN q
          ON r.value % 1000 = q.value % 1000 AND r.ts BETWEEN q.ts AND q.ts + INTERVAL '1 second')
        TO 'pairs/' STORED AS PARQUET;";

/// What a process held at one moment.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    /// Since it was started.
    age: Duration,
    megabytes: u64,
    files: usize,
    state_bytes: u64,
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

fn sample(child: &Child, begun: Instant, place: &Place) -> Option<Sample> {
    let process = format!("/proc/{}", child.id());
    let status = std::fs::read_to_string(format!("{process}/status")).ok()?;
    let held = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = held.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(Sample {
        age: begun.elapsed(),
        megabytes: kilobytes / 1024,
        files: std::fs::read_dir(format!("{process}/fd")).ok()?.count(),
        state_bytes: bytes_below(&place.path().join(".fuse")),
    })
}

#[test]
fn what_is_bounded_stays_flat() {
    let seconds = std::env::var("FUSE_LONG_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let place = Place::new();
    place.write("p.sql", SQL);
    let dice = Dice::new(u64::from(std::process::id()));
    let (begun, mut samples) = (Instant::now(), Vec::new());
    while begun.elapsed() < Duration::from_secs(seconds) {
        let mut command = place.command(&["query", "p.sql", "--quiet", "--trigger", "300ms"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
        let (started, lives) = (Instant::now(), Duration::from_secs(8 + dice.below(seconds / 4 + 1)));
        while started.elapsed() < lives && begun.elapsed() < Duration::from_secs(seconds) {
            std::thread::sleep(Duration::from_millis(500));
            samples.extend(sample(&child, started, &place));
            assert!(child.try_wait().expect("asks").is_none(), "it ended by itself");
        }
        match dice.below(2) {
            0 => child.kill().expect("kills"),
            _ => drop(Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill")),
        }
        let told = child.wait_with_output().expect("ends");
        assert!(!String::from_utf8_lossy(&told.stderr).contains("error"), "{told:?}");
    }
    place.run(&["query", "p.sql", "--quiet", "--once"]).data();
    let verified = place.run(&["verify", "p.sql"]).data();
    assert!(verified.contains("equal: 3 statements"), "{verified}");
    flat(&samples);
}

/// The last third of the samples is no higher than the one before, but for what chance does.
fn flat(samples: &[Sample]) {
    // A process that was just started has not reached its height.
    let grown: Vec<Sample> = samples.iter().filter(|one| one.age > Duration::from_secs(5)).copied().collect();
    let third = grown.len() / 3;
    let high = |part: &[Sample]| {
        // A compaction opens files for a moment: it is the middle that must not grow.
        let mut files: Vec<usize> = part.iter().map(|one| one.files).collect();
        files.sort_unstable();
        Sample {
            age: part.iter().map(|one| one.age).max().unwrap_or_default(),
            megabytes: part.iter().map(|one| one.megabytes).max().unwrap_or_default(),
            files: files.get(files.len() / 2).copied().unwrap_or_default(),
            state_bytes: part.iter().map(|one| one.state_bytes).max().unwrap_or_default(),
        }
    };
    let (before, last) = (high(&grown[third..2 * third]), high(&grown[2 * third..]));
    println!("{} samples; in the second third {before:?}, in the last {last:?}", grown.len());
    assert!(last.megabytes <= before.megabytes + before.megabytes / 3 + 30, "memory: {before:?}, {last:?}");
    assert!(last.files <= before.files + 10, "open files: {before:?}, {last:?}");
    assert!(last.state_bytes <= before.state_bytes * 2 + 1_000_000, "the state: {before:?}, {last:?}");
}
