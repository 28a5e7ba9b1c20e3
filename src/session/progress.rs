//! How far a statement is, and what each of its operators did.
//!
//! Enters: the plan at work, its metrics and the memory pool. Leaves: [`Progress`] at the moment, and the
//! [`Operator`]s of a plan. Always holds: this only reads numbers that DataFusion counts anyway, when somebody
//! asks; it keeps no plan alive.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::sink::DataSinkExec;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::analyze::AnalyzeExec;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::prelude::SessionContext;

use crate::durable::Writes;

type Plan = Arc<dyn ExecutionPlan>;

/// The plan that runs now, if one does.
#[derive(Clone, Default)]
pub(super) struct Current(Arc<Mutex<Option<Weak<dyn ExecutionPlan>>>>);

impl Current {
    pub(super) fn set(&self, plan: &Plan) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::downgrade(plan));
    }

    fn get(&self) -> Option<Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.upgrade()
    }
}

/// What a statement is at.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// A verb in -ing, and what was spilled or how many files are done.
    pub phase: String,
    /// How much of the phase is done, from 0 to 1, where that can be known.
    pub done: Option<f64>,
    /// Rows read.
    pub rows: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Bytes of memory that the operators hold.
    pub memory: u64,
}

/// Looks at a session from outside, on any thread.
#[derive(Clone)]
pub struct Watch {
    pub(super) context: SessionContext,
    pub(super) current: Current,
    pub(super) writes: Writes,
}

impl Watch {
    /// How far the running statement is; nothing if none has been planned yet.
    pub fn progress(&self) -> Option<Progress> {
        let memory = self.context.runtime_env().memory_pool.reserved() as u64;
        if let Some((done, all)) = self.writes.committing() {
            let phase = format!("committing {done}/{all} files");
            return Some(Progress { phase, done: None, rows: 0, bytes: 0, memory });
        }
        let mut work = Work::default();
        work.look(&self.current.get()?, true);
        Some(Progress { phase: work.phase(), done: work.done(), rows: work.rows, bytes: work.bytes, memory })
    }
}

/// What the operators of a plan have done together.
#[derive(Default)]
struct Work {
    scanned: f64,
    to_scan: f64,
    /// False once a scan's end is unknown.
    blind: bool,
    rows: u64,
    bytes: u64,
    spilled: u64,
    /// Rows that came out of the sorts, and went in.
    sorted: Option<(u64, u64)>,
    aggregates: bool,
    writes: bool,
}

impl Work {
    /// `countable`: these rows pass no LIMIT, so the end of the scan is the end of reading.
    fn look(&mut self, plan: &Plan, countable: bool) {
        let metrics = plan.metrics().unwrap_or_default();
        let rows = metrics.output_rows().unwrap_or_default() as u64;
        self.spilled += metrics.spilled_bytes().unwrap_or_default() as u64;
        let children = plan.children();
        if children.is_empty() {
            self.rows += rows;
            match scan(plan, &metrics) {
                Some(scan) if countable => {
                    self.bytes += scan.bytes;
                    self.scanned += scan.done * scan.size;
                    self.to_scan += scan.size;
                }
                Some(scan) => {
                    self.bytes += scan.bytes;
                    self.blind = true;
                }
                None => self.blind |= rows > 0,
            }
        }
        if plan.downcast_ref::<SortExec>().is_some_and(|sort| sort.fetch().is_none()) {
            let (out, into) = self.sorted.unwrap_or_default();
            self.sorted = Some((out + rows, into + rows_into(plan)));
        }
        self.aggregates |= plan.downcast_ref::<AggregateExec>().is_some();
        self.writes |= plan.downcast_ref::<DataSinkExec>().is_some();
        // A sort reads all of its input, whatever is kept of it.
        let countable = plan.downcast_ref::<SortExec>().is_some() || (countable && plan.fetch().is_none());
        for child in children {
            self.look(child, countable);
        }
    }

    fn read_all(&self) -> bool {
        !self.blind && self.to_scan > 0.0 && self.scanned >= self.to_scan * 0.995
    }

    fn phase(&self) -> String {
        let sorting = self.sorted.is_some_and(|(out, into)| out < into && (self.read_all() || self.spilled > 0));
        let verb = match () {
            () if sorting => "sorting",
            () if !self.read_all() && self.writes => "writing",
            () if !self.read_all() && self.to_scan > 0.0 => "reading",
            () if self.writes => "writing",
            () if self.aggregates => "aggregating",
            () => "computing",
        };
        match self.spilled {
            0 => verb.to_owned(),
            spilled => format!("{verb}, spilled {}", size(spilled)),
        }
    }

    /// A phase whose end is unknown has no share: better none than one that stands at 99 %.
    fn done(&self) -> Option<f64> {
        match self.sorted {
            _ if !self.blind && self.to_scan > 0.0 && !self.read_all() => Some(self.scanned / self.to_scan),
            Some((out, into)) if self.read_all() && into > 0 && out > 0 => Some(out as f64 / into as f64),
            _ => None,
        }
    }
}

/// `2.1 GB`
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut number = bytes as f64;
    let mut unit = 0;
    while number >= 999.5 && unit + 1 < UNITS.len() {
        number /= 1000.0;
        unit += 1;
    }
    if unit == 0 || number >= 99.5 {
        format!("{number:.0} {}", UNITS[unit])
    } else {
        format!("{number:.1} {}", UNITS[unit])
    }
}

fn rows_into(plan: &Plan) -> u64 {
    let rows = |child: &&Plan| child.metrics().and_then(|metrics| metrics.output_rows()).unwrap_or_default() as u64;
    plan.children().iter().map(rows).sum()
}

/// A scan of files.
struct Scan {
    /// Bytes of its files.
    size: f64,
    /// How much of them has been read, from 0 to 1.
    done: f64,
    /// Bytes read.
    bytes: u64,
}

fn scan(plan: &Plan, metrics: &MetricsSet) -> Option<Scan> {
    let source = plan.downcast_ref::<DataSourceExec>()?;
    let config = source.data_source().downcast_ref::<FileScanConfig>()?;
    let files: Vec<&PartitionedFile> = config.file_groups.iter().flat_map(|group| group.files()).collect();
    let size: f64 = files.iter().map(|file| bytes_of(file) as f64).sum();
    let count = |name: &str| metrics.sum_by_name(name).map_or(0, |value| value.as_usize());
    let processed = count("files_processed") as f64 / files.len().max(1) as f64;
    let bytes = count("bytes_scanned") as u64;
    // Files that tell their rows (Parquet) are measured by rows, others by how far they have been read.
    let told = StatisticsContext::new()
        .compute(plan.as_ref(), &StatisticsArgs::new())
        .ok()
        .and_then(|s| s.num_rows.get_value().copied());
    let rows = metrics.output_rows().unwrap_or_default();
    let done = match told {
        Some(all) if all > 0 => processed.max(rows as f64 / all as f64),
        _ => {
            let open: u64 = positions(&files).iter().sum();
            processed + open as f64 / size.max(1.0)
        }
    };
    let done = done.min(1.0);
    Some(Scan { size, done, bytes: if bytes > 0 { bytes } else { (size * done) as u64 } })
}

fn bytes_of(file: &PartitionedFile) -> u64 {
    file.range.as_ref().map_or(file.object_meta.size, |range| u64::try_from(range.end - range.start).unwrap_or(0))
}

/// How far the open ones of these local files have been read, as the system tells it.
fn positions(files: &[&PartitionedFile]) -> Vec<u64> {
    let mut ranges: HashMap<PathBuf, Vec<(u64, u64)>> = HashMap::new();
    for file in files {
        let meta = &file.object_meta;
        let range = file.range.as_ref().map_or((0, meta.size), |range| (range.start as u64, range.end as u64));
        ranges.entry(Path::new("/").join(meta.location.as_ref())).or_default().push(range);
    }
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return Vec::new() };
    let position = |entry: std::fs::DirEntry| {
        let ranges = ranges.get(&std::fs::read_link(entry.path()).ok()?)?;
        let info = std::fs::read_to_string(Path::new("/proc/self/fdinfo").join(entry.file_name())).ok()?;
        let at: u64 = info.lines().find_map(|line| line.strip_prefix("pos:"))?.trim().parse().ok()?;
        ranges.iter().find(|(start, end)| (start..=end).contains(&&at)).map(|(start, _)| at - start)
    };
    open.flatten().filter_map(position).collect()
}

/// What an operator of a plan did.
#[derive(Debug, Clone)]
pub struct Operator {
    /// Its level below the top.
    pub depth: usize,
    /// What it does, as DataFusion words it.
    pub text: String,
    /// Rows that it gave.
    pub rows: Option<u64>,
    /// Time that all its threads spent in it together, in nanoseconds.
    pub nanoseconds: u64,
    /// Bytes that it spilled.
    pub spilled: u64,
}

/// The operators that EXPLAIN ANALYZE ran, from the top; nothing for another plan, or for a verbose one.
pub(super) fn analyzed(plan: &Plan) -> Option<Vec<Operator>> {
    if let Some(analyze) = plan.downcast_ref::<AnalyzeExec>() {
        let mut operators = Vec::new();
        list(analyze.input(), 0, &mut operators);
        return (!analyze.verbose()).then_some(operators);
    }
    plan.children().into_iter().find_map(analyzed)
}

fn list(plan: &Plan, depth: usize, operators: &mut Vec<Operator>) {
    let metrics = plan.metrics().unwrap_or_default();
    let time = |name: &str| metrics.sum_by_name(name).map_or(0, |value| value.as_usize()) as u64;
    // The time of a scan is counted under another name.
    let nanoseconds = metrics.elapsed_compute().unwrap_or_default() as u64;
    let nanoseconds = nanoseconds.max(time("time_elapsed_processing"));
    operators.push(Operator {
        depth,
        text: displayable(plan.as_ref()).one_line().to_string().trim().to_owned(),
        rows: metrics.output_rows().map(|rows| rows as u64),
        nanoseconds,
        spilled: metrics.spilled_bytes().unwrap_or_default() as u64,
    });
    for child in plan.children() {
        list(child, depth + 1, operators);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit_and_few_digits() {
        for (bytes, text) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_140_000_000, "2.1 GB"), (340_000_000, "340 MB")]
        {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_phase_has_a_share_only_while_its_end_is_known() {
        let reading = Work { scanned: 30.0, to_scan: 100.0, sorted: Some((0, 5)), ..Work::default() };
        assert_eq!((reading.phase().as_str(), reading.done()), ("reading", Some(0.3)));
        let sorting = Work { scanned: 100.0, sorted: Some((2, 8)), spilled: 2_100_000_000, ..reading };
        assert_eq!((sorting.phase().as_str(), sorting.done()), ("sorting, spilled 2.1 GB", Some(0.25)));
        let aggregating = Work { sorted: None, aggregates: true, spilled: 0, ..sorting };
        assert_eq!((aggregating.phase().as_str(), aggregating.done()), ("aggregating", None));
    }
}
