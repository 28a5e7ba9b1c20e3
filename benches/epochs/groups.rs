//! What a change of few of many groups costs.
//!
//! Enters: a number of groups. Leaves: a line for each size of epoch. Always holds: each group has two rows before the
//! clock starts, and an epoch changes as many groups as it has rows.

use fuse::offset::OffsetRange;

use super::nowhere::Nowhere;
use super::{LOAD, Result, Running, median, one_thread};

/// Rows of one epoch, and how many epochs are timed.
const EPOCHS: [(u64, u64); 2] = [(1, 1_001), (10_000, 21)];

pub(super) async fn measure(groups: u64) -> Result<()> {
    println!("\n{groups} groups with count, sum, min and max; a median epoch");
    let session = one_thread()?;
    // 7919 has no factor in common with the number of groups.
    let query = format!(
        "CREATE STREAM r STORED AS RATE;
         SELECT k, count(*) AS n, sum(v) AS s, min(v) AS low, max(v) AS high
         FROM (SELECT value * 7919 % {groups} AS k, value AS v FROM r) GROUP BY k"
    );
    session.execute_text(&query).await?;
    let pipeline = session.pipeline(&|_, _, _| Box::new(Nowhere))?.ok_or("no pipeline")?;
    let mut running = Running::new(pipeline).await?;
    let mut at = 0;
    while at < 2 * groups {
        let to = (2 * groups).min(at + LOAD as u64);
        let rows = running.pipeline.sources[0].read(&OffsetRange::Rows { from: at, to }).await?.batches;
        running.step(&[rows])?;
        at = to;
    }
    for (rows, times) in EPOCHS {
        let mut seconds = Vec::new();
        for _ in 0..times {
            let range = OffsetRange::Rows { from: at, to: at + rows };
            let batches = running.pipeline.sources[0].read(&range).await?.batches;
            seconds.push(running.step(&[batches])?);
            at += rows;
        }
        println!("{rows:>10} rows{:>12.1} µs", median(seconds) * 1e6);
    }
    Ok(())
}
