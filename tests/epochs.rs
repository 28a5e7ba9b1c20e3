//! Pipelines that are fed by tests: what each epoch takes is said to the row.
//!
//! Enters: a session whose statements over growing tables have been taken in, and a [`Feed`]. Leaves: what was shown
//! after each epoch. Always holds: entry N of the feed is epoch N; no row is shown less than zero times.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::{Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use async_trait::async_trait;
use fuse::change::{Changes, consolidate, repeat};
use fuse::checkpoint::Saved;
use fuse::error::Error;
use fuse::offset::{Epoch, OffsetRange};
use fuse::planner::IncrementalPlan;
use fuse::runtime::{self, ProgressCell, RunOptions, Until};
use fuse::session::Session;
use fuse::sink::stream::{Order, Sink};
use fuse::source::stream::{Read, Source};
use tokio::sync::watch;

/// What each epoch brings: rows of tables, by the tables' names. It may grow between two runs of a pipeline.
pub(crate) type Feed = Arc<Mutex<Vec<Vec<(String, RecordBatch)>>>>;

/// One table of a feed.
struct Fed {
    table: String,
    schema: SchemaRef,
    columns: Vec<usize>,
    feed: Feed,
    /// The entry of the next epoch.
    next: u64,
}

#[async_trait]
impl Source for Fed {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    async fn next(&mut self, _now_micros: i64) -> Result<OffsetRange, Error> {
        let there = self.feed.lock().unwrap().len() as u64;
        Ok(OffsetRange::Rows { from: self.next, to: there.min(self.next + 1) })
    }

    fn advance(&mut self, range: &OffsetRange) -> Result<(), Error> {
        let OffsetRange::Rows { to, .. } = range else { panic!("not a range of a feed") };
        self.next = *to;
        Ok(())
    }

    async fn read(&self, range: &OffsetRange) -> Result<Read, Error> {
        let OffsetRange::Rows { from, to } = range else { panic!("not a range of a feed") };
        let feed = self.feed.lock().unwrap();
        let entries = feed[*from as usize..*to as usize].iter().flatten();
        let rows = entries.filter(|(table, _)| *table == self.table).map(|(_, rows)| rows.project(&self.columns));
        Ok(rows.collect::<Result<Vec<_>, _>>()?.into())
    }

    fn position(&self) -> serde_json::Value {
        self.next.into()
    }

    fn save(&mut self) -> Result<Saved, Error> {
        let schema = Schema::new(vec![Field::new("next", DataType::Int64, false)]);
        let next = Arc::new(Int64Array::from(vec![self.next as i64]));
        Ok(Saved::Whole(vec![RecordBatch::try_new(Arc::new(schema), vec![next])?].into()))
    }

    fn restore(&mut self, saved: Vec<RecordBatch>) -> Result<(), Error> {
        if let Some(batch) = saved.last() {
            self.next = batch.column(0).as_any().downcast_ref::<Int64Array>().expect("a number").value(0) as u64;
        }
        Ok(())
    }
}

/// What one statement of a pipeline has shown.
#[derive(Clone, Default)]
pub(crate) struct Shown {
    /// Its rows, each once, with how often it is there.
    pub(crate) rows: Vec<Changes>,
    pub(crate) columns: Option<SchemaRef>,
    pub(crate) order: Option<Order>,
    /// The epochs that were committed.
    pub(crate) epochs: Vec<Epoch>,
}

impl Shown {
    /// A sink that shows its rows here; the place is that of its statement.
    pub(crate) fn sink(shown: &Arc<Mutex<Self>>, columns: SchemaRef, order: Option<Order>) -> Collector {
        let mut first = shown.lock().unwrap();
        (first.columns, first.order) = (Some(columns), order);
        drop(first);
        Collector { place: 0, shown: Arc::clone(shown), taken: Vec::new(), watcher: None }
    }

    /// The rows, in the order of the statement if it has one.
    pub(crate) fn batch(&self) -> Result<RecordBatch, Error> {
        let columns = self.columns.as_ref().expect("a pipeline that ran");
        let rows = match consolidate(columns, &self.rows)? {
            Some(rows) => repeat(&rows)?,
            None => RecordBatch::new_empty(Arc::clone(columns)),
        };
        self.order.as_ref().map_or(Ok(rows.clone()), |order| order.shown(&order.sorted(&rows)?))
    }
}

/// Is told each commit: the statement's place, the epoch, and what is shown now.
pub(crate) type Watcher = Arc<dyn Fn(usize, Epoch, &Shown) -> Result<(), Error> + Send + Sync>;

/// A sink whose commit is one step, and which knows its last epoch.
pub(crate) struct Collector {
    place: usize,
    shown: Arc<Mutex<Shown>>,
    taken: Vec<Changes>,
    watcher: Option<Watcher>,
}

#[async_trait]
impl Sink for Collector {
    fn take(&mut self, changes: Vec<Changes>, shown: bool) -> Result<(), Error> {
        self.taken = if shown { Vec::new() } else { changes };
        Ok(())
    }

    async fn stage(&mut self, _epoch: Epoch, _now_micros: i64) -> Result<(), Error> {
        Ok(())
    }

    async fn commit(&mut self, epoch: Epoch) -> Result<(), Error> {
        let mut shown = self.shown.lock().unwrap();
        if shown.epochs.last().is_some_and(|last| *last >= epoch) {
            return Ok(());
        }
        shown.epochs.push(epoch);
        let columns = Arc::clone(shown.columns.as_ref().expect("known since the sink was made"));
        let rows: Vec<Changes> = shown.rows.drain(..).chain(std::mem::take(&mut self.taken)).collect();
        shown.rows = consolidate(&columns, &rows)?.into_iter().collect();
        let weights = shown.rows.iter().filter_map(|change| change.weights.as_ref());
        if weights.flat_map(|weights| weights.values()).any(|weight| *weight < 0) {
            return Err(Error::query(format!("epoch {epoch}: a row was retracted that was never inserted")));
        }
        self.watcher.as_ref().map_or(Ok(()), |watcher| watcher(self.place, epoch, &shown))
    }
}

/// The statements of a session, fed and watched.
pub(crate) struct Fedline {
    pub(crate) feed: Feed,
    /// By the places of the statements.
    pub(crate) shown: Arc<Mutex<Vec<Arc<Mutex<Shown>>>>>,
    pub(crate) watcher: Option<Watcher>,
    /// What ran last.
    pub(crate) plan: Mutex<Option<Arc<IncrementalPlan>>>,
}

impl Fedline {
    pub(crate) fn new(feed: Feed) -> Self {
        Self { feed, shown: Arc::default(), watcher: None, plan: Mutex::default() }
    }

    /// Runs what the session has taken in until the feed is empty. Gives false if it was stopped by `limit`.
    pub(crate) async fn run(&self, session: &Session, state: &Path, limit: Option<Duration>) -> Result<bool, Error> {
        let at = AtomicUsize::new(0);
        let collector = |columns: SchemaRef, _append_only: bool, order: Option<Order>| -> Box<dyn Sink> {
            let place = at.fetch_add(1, Ordering::Relaxed);
            let mut all = self.shown.lock().unwrap();
            let count = all.len().max(place + 1);
            all.resize_with(count, Arc::default);
            let watcher = self.watcher.clone();
            Box::new(Collector { place, watcher, ..Shown::sink(&all[place], columns, order) })
        };
        let mut pipeline = session.pipeline(&collector)?.expect("statements over growing tables");
        let plan = Arc::clone(&pipeline.plan);
        *self.plan.lock().unwrap() = Some(Arc::clone(&plan));
        let fed = plan.sources.iter().map(|source| -> Result<Box<dyn Source>, Error> {
            let table = source.stream().expect("a growing table").columns();
            Ok(Box::new(Fed {
                table: source.name.rsplit('.').next().unwrap_or_default().trim_matches('"').to_owned(),
                schema: Arc::new(table.project(&source.columns)?),
                columns: source.columns.clone(),
                feed: Arc::clone(&self.feed),
                next: 0,
            }))
        });
        pipeline.sources = fed.collect::<Result<_, _>>()?;
        let folder = session.state_folder(&state.display().to_string())?;
        let options = RunOptions { folder, trigger: Duration::ZERO, until: Until::CaughtUp, fresh: false };
        let (_stop, stopped) = watch::channel(false);
        let progress = ProgressCell::default();
        let work = runtime::run(pipeline, &options, stopped, &progress);
        let Some(limit) = limit else { return work.await.map(|_| true) };
        match tokio::time::timeout(limit, work).await {
            Ok(done) => done.map(|_| true),
            Err(_) => Ok(false),
        }
    }
}

/// A folder in memory where there is one: the law does not hang on the disk, other tests do.
pub(crate) fn temporary() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder")
}

/// An empty Arrow file: a growing table over its folder has exactly these columns.
pub(crate) async fn declare(session: &Session, table: &str, columns: &Schema, folder: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(folder).expect("a folder");
    let file = std::fs::File::create(folder.join("columns.arrow")).expect("a file");
    arrow::ipc::writer::FileWriter::try_new(file, columns)?.finish()?;
    let location = folder.display();
    let sql = format!("CREATE STREAM \"{table}\" STORED AS ARROW LOCATION '{location}/'");
    session.execute_text(&sql).await.map(drop)
}

/// Each row as text; floats to nine digits, since sums may be taken in another order.
pub(crate) fn lines(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<_> =
        batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).expect("a formatter")).collect();
    let cell = |column: &ArrayFormatter<'_>, row: usize| {
        let text = column.value(row).to_string();
        match text.parse::<f64>() {
            Ok(number) if text.contains('.') => format!("{number:.9}"),
            _ => text,
        }
    };
    (0..batch.num_rows())
        .map(|row| columns.iter().map(|column| cell(column, row)).collect::<Vec<_>>().join(" | "))
        .collect()
}
