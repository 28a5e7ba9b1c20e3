//! Two threads beside one, and one key that has half of all rows beside keys that are all alike.
//!
//! Enters: nothing. Leaves: a line for each query. Always holds: the rows of both are as many, and are made before the
//! clock starts.

use std::sync::Arc;
use std::time::Instant;

use fuse::config::Settings;
use fuse::offset::OffsetRange;
use fuse::operator::Dataflow;
use fuse::session::Session;

use super::nowhere::Nowhere;
use super::{Result, context, median};

const ROWS: u64 = 1_000_000;
const EPOCHS: u64 = 5;

/// The queries over `a`, which has the keys `k` that are measured.
const QUERIES: [(&str, &str); 2] = [
    ("count, sum, avg by key", "SELECT k, count(*) AS n, sum(v) AS s, avg(v) AS m FROM a GROUP BY k"),
    ("join with a row a key", "SELECT a.k, a.v, d.value AS w FROM a JOIN d ON a.k = d.value"),
];

pub(super) async fn measure() -> Result<()> {
    println!("\nepochs of 1 M rows, 1 M keys; medians of {EPOCHS}");
    println!("{:<28}{:>14}{:>14}{:>9}{:>14}{:>9}", "", "1 thread ms", "2 threads ms", "speedup", "half one ms", "skew");
    for (name, query) in QUERIES {
        let key = "value * 7919 % 1000003";
        let one = run(query, key, 1).await?;
        let two = run(query, key, 2).await?;
        let half = run(query, &format!("CASE WHEN value % 2 = 0 THEN 7 ELSE {key} END"), 2).await?;
        println!(
            "{name:<28}{:>14.0}{:>14.0}{:>9.2}{:>14.0}{:>9.2}",
            one * 1e3,
            two * 1e3,
            one / two,
            half * 1e3,
            half / two
        );
    }
    Ok(())
}

/// Seconds of an epoch.
async fn run(query: &str, key: &str, threads: usize) -> Result<f64> {
    let mut settings = Settings::default();
    settings.threads = threads;
    let session = Session::new(settings)?;
    let sql = format!(
        "CREATE STREAM r STORED AS RATE; CREATE STREAM d STORED AS RATE;
         CREATE VIEW a AS SELECT {key} AS k, value AS v FROM r; {query}"
    );
    session.execute_text(&sql).await?;
    let pipeline = session.pipeline(&|_, _, _| Box::new(Nowhere))?.ok_or("no pipeline")?;
    let mut dataflow = Dataflow::build(Arc::clone(&pipeline.plan), threads, &pipeline.state)?;
    let mut context = context(&pipeline);
    let mut seconds = Vec::new();
    for epoch in 0..=EPOCHS {
        let mut rows = Vec::new();
        for (source, node) in pipeline.sources.iter().zip(&pipeline.plan.sources) {
            // The rows to join with are there before.
            let (from, to) = match (node.name.as_str(), epoch) {
                ("d", 0) => (0, 1_000_003),
                ("r", 1..) => ((epoch - 1) * ROWS, epoch * ROWS),
                _ => (0, 0),
            };
            rows.push(source.read(&OffsetRange::Rows { from, to }).await?.batches);
        }
        context.epoch = epoch + 1;
        let begun = Instant::now();
        tokio::task::block_in_place(|| dataflow.step(&rows, &mut Default::default(), &context))?;
        if epoch > 0 {
            seconds.push(begun.elapsed().as_secs_f64());
        }
    }
    Ok(median(seconds))
}
