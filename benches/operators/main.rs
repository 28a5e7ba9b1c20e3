//! What the state of a join costs.
//!
//! Enters: FUSE_BENCH_ROWS, numbers of rows, by commas. Leaves: a line for each measurement, on standard output.
//! Always holds: what is short is the median of several runs over the same state; a state is filled once.

#![expect(clippy::expect_used, reason = "a measurement that fails ends the bench")]

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringViewArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use fuse::change::{Changes, consolidate, take_rows};
use fuse::operator::arrangement::Side;
use fuse::operator::keys::KeyHasher;
use fuse::operator::multiset::Matches;

/// Rows of one change.
const BATCH: usize = 8192;
const RUNS: usize = 9;

/// Numbers that look random, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((u128::from(self.0) * u128::from(limit)) >> 64) as u64
    }
}

/// A key, two numbers, a float and a text.
fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Int64, false),
        Field::new("a", DataType::Int64, false),
        Field::new("b", DataType::Int64, false),
        Field::new("c", DataType::Float64, false),
        Field::new("s", DataType::Utf8View, false),
    ]))
}

fn batch(start: usize, rows: usize, keys: impl Iterator<Item = i64>) -> RecordBatch {
    let numbers = start as i64..(start + rows) as i64;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(keys.take(rows))),
        Arc::new(Int64Array::from_iter_values(numbers.clone())),
        Arc::new(Int64Array::from_iter_values(numbers.clone().map(|n| n % 1000))),
        Arc::new(Float64Array::from_iter_values(numbers.clone().map(|n| n as f64 / 7.0))),
        Arc::new(StringViewArray::from_iter_values(numbers.map(|n| format!("customer {}", n % 100_000)))),
    ];
    RecordBatch::try_new(schema(), columns).expect("a batch")
}

fn hashes(hasher: &KeyHasher, rows: &RecordBatch) -> Vec<u64> {
    hasher.hashes(&rows.columns()[..1], rows.num_rows()).expect("hashes")
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

fn timed(mut work: impl FnMut()) -> f64 {
    median(
        (0..RUNS)
            .map(|_| {
                let start = Instant::now();
                work();
                start.elapsed().as_secs_f64()
            })
            .collect(),
    )
}

fn line(rows: usize, what: &str, figure: f64, unit: &str) {
    println!("{rows:>10} rows  {what:<44} {figure:>12.2} {unit}");
}

/// A side of so many rows, of which two share a key; and the seconds that it took to fill it.
fn fill(rows: usize, append_only: bool, hasher: &KeyHasher) -> (Side, f64, usize) {
    let mut side = Side::new(schema(), append_only, false, true).expect("a side");
    let mut random = Random(7);
    let (mut seconds, mut size) = (0.0, 0);
    for start in (0..rows).step_by(BATCH) {
        let count = BATCH.min(rows - start);
        let keys = std::iter::repeat_with(|| random.below(rows as u64 / 2) as i64);
        let change = Changes::inserted(batch(start, count, keys));
        size += change.rows.get_array_memory_size();
        let start = Instant::now();
        side.add(&change, &hashes(hasher, &change.rows), Matches::Of(&[])).expect("adds");
        seconds += start.elapsed().as_secs_f64();
    }
    (side, seconds, size)
}

fn probe(rows: usize, side: &Side, hasher: &KeyHasher, count: usize) {
    let mut random = Random(11);
    let mut seconds = [Vec::new(), Vec::new()];
    for _ in 0..RUNS * 3 {
        let keys = std::iter::repeat_with(|| random.below(rows as u64 / 2) as i64);
        let probe = batch(0, count, keys);
        let start = Instant::now();
        let mut walk = side.walk(&hashes(hasher, &probe), |_| true);
        let mut found = Vec::new();
        loop {
            let (_, slots) = side.step(&mut walk);
            if slots.is_empty() {
                break;
            }
            found.push(slots);
        }
        seconds[0].push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        for slots in &found {
            std::hint::black_box(side.gather(slots).expect("rows"));
        }
        seconds[1].push(start.elapsed().as_secs_f64());
    }
    let [walk, gather] = seconds.map(median);
    line(rows, &format!("probe {count} keys"), count as f64 / walk / 1e6, "M rows/s");
    line(rows, &format!("gather what {count} keys found, 5 columns"), gather * 1e3, "ms");
}

/// Rows that are taken away and put back.
fn churn(rows: usize, side: &mut Side, hasher: &KeyHasher, count: usize) {
    let mut random = Random(13);
    let live = side.live();
    let seconds = timed(|| {
        let slots: Vec<u32> = (0..count).map(|_| live[random.below(live.len() as u64) as usize]).collect();
        let old = side.gather(&slots).expect("rows");
        let hashes = hashes(hasher, &old);
        for weight in [-1, 1] {
            let change = Changes::weighted(old.clone(), Int64Array::from(vec![weight; count]));
            side.add(&change, &hashes, Matches::Of(&[])).expect("adds");
        }
    });
    line(rows, &format!("retract {count} rows and put them back"), seconds * 1e3, "ms");
}

fn measure_side(rows: usize) {
    let hasher = KeyHasher::new([DataType::Int64]).expect("a hasher");
    for append_only in [true, false] {
        let kind = if append_only { "only grows" } else { "retracts" };
        let (mut side, seconds, _) = fill(rows, append_only, &hasher);
        line(rows, &format!("insert, {kind}"), rows as f64 / seconds / 1e6, "M rows/s");
        let arrow = side.gather(&side.live()[..100_000]).expect("rows");
        let exact = take_rows(&arrow, &UInt64Array::from_iter_values(0..arrow.num_rows() as u64)).expect("rows");
        let text: usize = (0..100_000).map(|n: usize| format!("customer {n}").len()).sum();
        let size = (exact.num_rows() * 48 + text) as f64 / exact.num_rows() as f64;
        let bytes = side.bytes() as f64 / rows as f64;
        line(rows, &format!("state, {kind} (Arrow: {size:.0} bytes a row)"), bytes, "bytes a row");
        if append_only {
            probe(rows, &side, &hasher, 100);
            probe(rows, &side, &hasher, 10_000);
        } else {
            churn(rows, &mut side, &hasher, 10_000);
        }
    }
}

/// One key has all rows.
fn measure_hot_key(rows: usize) {
    let hasher = KeyHasher::new([DataType::Int64]).expect("a hasher");
    let mut side = Side::new(schema(), false, false, true).expect("a side");
    for start in (0..rows).step_by(BATCH) {
        let count = BATCH.min(rows - start);
        let change = Changes::inserted(batch(start, count, std::iter::repeat(1)));
        side.add(&change, &hashes(&hasher, &change.rows), Matches::Of(&[])).expect("adds");
    }
    churn(rows, &mut side, &hasher, 1);
    churn(rows, &mut side, &hasher, 1000);
}

fn measure_consolidate(rows: usize) {
    let mut random = Random(17);
    let keys: Vec<i64> = (0..rows).map(|_| random.below(rows as u64 / 2) as i64).collect();
    let narrow = Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, false)]));
    let column = || Arc::new(Int64Array::from(keys.clone())) as ArrayRef;
    let change = RecordBatch::try_new(Arc::clone(&narrow), vec![column()]).expect("a batch");
    let change = [Changes::inserted(change)];
    let seconds = timed(|| {
        std::hint::black_box(consolidate(&narrow, &change).expect("consolidates"));
    });
    line(rows, "consolidate, a key", rows as f64 / seconds / 1e6, "M rows/s");
    let wide = [Changes::inserted(batch(0, rows, keys.into_iter()))];
    let seconds = timed(|| {
        std::hint::black_box(consolidate(&schema(), &wide).expect("consolidates"));
    });
    line(rows, "consolidate, 5 columns", rows as f64 / seconds / 1e6, "M rows/s");
}

fn main() {
    let text = std::env::var("FUSE_BENCH_ROWS").unwrap_or_else(|_| "100000,1000000,10000000".to_owned());
    let sizes: Vec<usize> = text.split(',').filter_map(|size| size.trim().parse().ok()).collect();
    for rows in &sizes {
        measure_side((*rows).max(100_000));
    }
    for rows in &sizes {
        measure_hot_key(*rows);
    }
    for rows in sizes.iter().filter(|rows| **rows <= 1_000_000) {
        measure_consolidate(*rows);
    }
}
