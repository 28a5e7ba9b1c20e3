//! What a checkpoint writes, and how long its state takes to come back.
//!
//! Enters: rows of state. Leaves: a line for each query. Always holds: checkpoints go to a folder on disk, through the
//! store that pipelines use.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use fuse::checkpoint::StateStore;
use fuse::durable::Folder;
use fuse::offset::OffsetRange;
use fuse::operator::{Dataflow, EpochContext};
use fuse::runtime::Pipeline;

use super::nowhere::Nowhere;
use super::{LOAD, Result, context, one_thread};

/// Rows of an epoch.
const CHANGES: u64 = 1_000;
/// Epochs from one checkpoint to the next.
const EPOCHS: u64 = 10;

const QUERIES: [(&str, &str); 2] = [
    ("a group a row, two sums", "SELECT value AS k, count(*) AS n, sum(value) AS s FROM r GROUP BY value"),
    ("join with a row a key", "SELECT r.value, d.value AS w FROM r JOIN d ON r.value = d.value"),
];

pub(super) async fn measure(rows: u64) -> Result<()> {
    println!("\ncheckpoints of {rows} rows of state; then {EPOCHS} epochs of {CHANGES} rows, and another");
    println!(
        "{:<28}{:>9}{:>10}{:>12}{:>13}{:>8}{:>11}",
        "", "first s", "first MB", "changed MB", "second MB", "ratio", "restore s"
    );
    for (name, query) in QUERIES {
        let place = tempfile::tempdir_in(".")?;
        let folder = || Folder::local(&place.path().join("state"));
        folder()?.settle(&[".", "checkpoints", "state", "tables"])?;
        let mut store = StateStore::open(folder()?).await?;
        let session = one_thread()?;
        session
            .execute_text(&format!("CREATE STREAM r STORED AS RATE; CREATE STREAM d STORED AS RATE; {query}"))
            .await?;
        let pipeline = session.pipeline(&|_, _, _| Box::new(Nowhere))?.ok_or("no pipeline")?;
        let mut dataflow = Dataflow::build(Arc::clone(&pipeline.plan), 1, &pipeline.state)?;
        let all = rows / pipeline.sources.len() as u64;
        let mut at = 0;
        while at < all {
            let to = all.min(at + LOAD as u64);
            step(&mut dataflow, &pipeline, at, to).await?;
            at = to;
        }
        let begun = Instant::now();
        store.save(1, dataflow.save()?, Vec::new()).await?;
        let first = (begun.elapsed().as_secs_f64(), store.last().bytes());
        let mut changed = 0;
        for epoch in 0..EPOCHS {
            changed += step(&mut dataflow, &pipeline, all + epoch * CHANGES, all + (epoch + 1) * CHANGES).await?;
        }
        store.save(2, dataflow.save()?, Vec::new()).await?;
        let second = store.last().bytes() - first.1;
        drop((dataflow, store));
        let begun = Instant::now();
        let store = StateStore::open(folder()?).await?;
        Dataflow::build(Arc::clone(&pipeline.plan), 1, &pipeline.state)?.restored(store).await?;
        println!(
            "{name:<28}{:>9.2}{:>10.1}{:>12.3}{:>13.3}{:>8.2}{:>11.2}",
            first.0,
            first.1 as f64 / 1e6,
            changed as f64 / 1e6,
            second as f64 / 1e6,
            second as f64 / changed as f64,
            begun.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

/// An epoch of these rows of each source; gives their bytes.
async fn step(dataflow: &mut Dataflow, pipeline: &Pipeline, from: u64, to: u64) -> Result<usize> {
    let mut rows = Vec::new();
    for source in &pipeline.sources {
        rows.push(source.read(&OffsetRange::Rows { from, to }).await?.batches);
    }
    let bytes = rows.iter().flatten().map(|batch| batch.num_rows() * 8).sum();
    let context = EpochContext { epoch: to, ..context(pipeline) };
    tokio::task::block_in_place(|| dataflow.step(&rows, &mut BTreeMap::new(), &context))?;
    Ok(bytes)
}
