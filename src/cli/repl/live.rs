//! A query over growing tables in the interactive session.
//!
//! Enters: the changes of each epoch, and keys. Leaves: a table that is painted in place, its changed rows marked; or,
//! where rows are only added, rows that scroll; below them the line of a [`Status`]. Always holds: it is painted ten
//! times a second at the most; q or Ctrl-C ends it, the last table stays, and the terminal is as it was before.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use crossterm::event::{self, Event, KeyCode, KeyModifiers};
use crossterm::terminal::{disable_raw_mode, enable_raw_mode};
use tokio::sync::watch;

use super::super::report;
use super::super::status::Status;
use super::super::turn::Turn;
use crate::change::{Changes, RowEncoder, repeat, with_columns};
use crate::error::Result;
use crate::format::{Encoder, Format, Shape, clip, encoder};
use crate::offset::Epoch;
use crate::sink::stream::{Order, Sink};

/// The least time between two paintings.
const PAINT: Duration = Duration::from_millis(100);
/// How long changed rows are marked.
const MARKED: Duration = Duration::from_secs(2);
/// How often keys are looked for.
const KEYS: Duration = Duration::from_millis(50);
/// Lines of a table besides its rows: borders, names, types, rows that are not shown, and the status line.
const FRAME_LINES: usize = 7;

/// What a query gives, as far as it is to be seen.
pub(super) struct View {
    columns: SchemaRef,
    order: Option<Order>,
    encoder: Option<RowEncoder>,
    /// All rows with how often each is there; empty for rows that scroll.
    rows: BTreeMap<Box<[u8]>, i64>,
    /// Those that came with the last commit, until [`MARKED`] later.
    marked: HashSet<Box<[u8]>>,
    marked_at: Instant,
    /// Rows that scroll and were not printed.
    fresh: Vec<RecordBatch>,
    scrolls: bool,
    changed: bool,
}

impl View {
    fn new(columns: SchemaRef, append_only: bool, order: Option<Order>) -> Self {
        Self {
            scrolls: append_only && order.is_none(),
            columns,
            order,
            encoder: None,
            rows: BTreeMap::new(),
            marked: HashSet::new(),
            marked_at: Instant::now(),
            fresh: Vec::new(),
            changed: true,
        }
    }

    fn apply(&mut self, changes: &[Changes]) -> Result<()> {
        if changes.iter().all(Changes::is_empty) {
            return Ok(());
        }
        self.changed = true;
        if self.scrolls {
            self.fresh.extend(changes.iter().map(|change| change.rows.clone()));
            return Ok(());
        }
        self.marked.clear();
        self.marked_at = Instant::now();
        let encoder = match self.encoder.take() {
            Some(encoder) => encoder,
            None => RowEncoder::of(&self.columns)?,
        };
        let encoder = self.encoder.insert(encoder);
        for change in changes {
            let rows = encoder.encode(change.rows.columns(), change.len())?;
            for at in 0..change.len() {
                let row = rows.row(at);
                let weight = self.rows.entry(row.into()).or_insert(0);
                *weight += change.weight(at);
                if *weight > 0 {
                    self.marked.insert(row.into());
                } else if *weight == 0 {
                    self.rows.remove(row);
                    self.marked.remove(row);
                }
            }
        }
        Ok(())
    }

    /// Takes the marks away that have been seen long enough.
    fn unmark(&mut self) {
        if !self.marked.is_empty() && self.marked_at.elapsed() >= MARKED {
            self.marked.clear();
            self.changed = true;
        }
    }

    /// The first rows, as many as there is room for; the number of all; which of the first are marked.
    fn first(&self, room: usize) -> Result<(RecordBatch, usize, Vec<bool>)> {
        let shown = |rows: RecordBatch| self.order.as_ref().map_or(Ok(rows.clone()), |order| order.shown(&rows));
        let Some(encoder) = &self.encoder else {
            return Ok((shown(RecordBatch::new_empty(Arc::clone(&self.columns)))?, 0, Vec::new()));
        };
        let count = |weight: &i64| usize::try_from(*weight).unwrap_or(0);
        let all: usize = self.rows.values().map(count).sum();
        // An order is known when all rows are.
        let wanted = if self.order.is_some() { usize::MAX } else { room };
        let some: Vec<(&Box<[u8]>, i64)> = self.rows.iter().take(wanted).map(|(row, weight)| (row, *weight)).collect();
        let columns = encoder.decode(some.iter().map(|(row, _)| &***row))?;
        let rows = with_columns(&self.columns, columns, some.len())?;
        let weights = some.iter().map(|(_, weight)| *weight).collect::<Vec<_>>();
        let mut rows = repeat(&Changes::weighted(rows, weights.into()))?;
        if let Some(order) = &self.order {
            rows = order.sorted(&rows)?;
        }
        let rows = rows.slice(0, rows.num_rows().min(room));
        let bytes = encoder.encode(rows.columns(), rows.num_rows())?;
        let marks = (0..rows.num_rows()).map(|at| self.marked.contains(bytes.row(at))).collect();
        Ok((shown(rows)?, all, marks))
    }
}

/// The sink of a view.
struct LiveSink {
    view: Arc<Mutex<View>>,
    taken: Vec<Changes>,
}

#[async_trait]
impl Sink for LiveSink {
    fn take(&mut self, changes: Vec<Changes>, _shown: bool) -> Result<()> {
        self.taken.extend(changes);
        Ok(())
    }

    async fn stage(&mut self, _epoch: Epoch, _now_micros: i64) -> Result<()> {
        Ok(())
    }

    async fn commit(&mut self, _epoch: Epoch) -> Result<()> {
        let taken = std::mem::take(&mut self.taken);
        self.view.lock().unwrap_or_else(PoisonError::into_inner).apply(&taken)
    }
}

/// Bytes that an encoder writes, to be taken out again.
#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn take(&self) -> String {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is on the screen of a running query.
pub(super) struct Screen {
    /// Nothing where the rows go to files.
    view: Mutex<Option<Arc<Mutex<View>>>>,
    turn: Turn,
    state: Mutex<Painted>,
}

struct Painted {
    status: Status,
    /// Lines of the table above the status line, which the next painting replaces.
    lines: usize,
    /// The table that scrolls, once its header is out.
    scroll: Option<(Box<dyn Encoder>, Buffer)>,
    /// The table as it is now.
    table: Vec<String>,
}

impl Screen {
    pub(super) fn new(turn: &Turn, status: Status) -> Self {
        let state = Painted { status, lines: 0, scroll: None, table: Vec::new() };
        Self { view: Mutex::new(None), turn: turn.clone(), state: Mutex::new(state) }
    }

    /// Makes the sink for the rows of a query.
    pub(super) fn sink(&self, columns: SchemaRef, append_only: bool, order: Option<Order>) -> Box<dyn Sink> {
        let view = Arc::new(Mutex::new(View::new(columns, append_only, order)));
        *self.view.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&view));
        Box::new(LiveSink { view, taken: Vec::new() })
    }

    fn state(&self) -> MutexGuard<'_, Painted> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Paints again and again.
    pub(super) async fn paint(&self) -> Result<()> {
        loop {
            let start = Instant::now();
            self.paint_once(true)?;
            // Painting a large result takes no more than a third of the time.
            tokio::time::sleep(PAINT.max(start.elapsed() * 2)).await;
        }
    }

    /// What the query has done.
    pub(super) fn summary(&self) -> String {
        self.state().status.summary()
    }

    /// Paints the last table, and leaves it there.
    pub(super) fn finish(&self) -> Result<()> {
        self.paint_once(false)
    }

    fn paint_once(&self, running: bool) -> Result<()> {
        let (width, height) = match terminal_size::terminal_size() {
            Some((width, height)) => (usize::from(width.0), usize::from(height.0)),
            None => (80, 24),
        };
        let mut state = self.state();
        let view = self.view.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut new = Vec::new();
        if let Some(view) = view {
            let mut view = view.lock().unwrap_or_else(PoisonError::into_inner);
            view.unmark();
            if view.scrolls {
                new = state.scroll(&mut view, height, running)?;
            } else if std::mem::take(&mut view.changed) || !running {
                state.table = table(&view, width, height)?;
            }
        }
        let mut text = String::from("\r");
        if state.lines > 0 {
            text.push_str(&format!("\x1b[{}A", state.lines));
        }
        text.push_str("\x1b[J");
        for line in new.iter().chain(&state.table) {
            text.push_str(line);
            text.push_str("\r\n");
        }
        if running {
            let line = format!("{}  (q stops)", state.status.line());
            text.push_str(&clip(&line, width.saturating_sub(1)));
        }
        state.lines = state.table.len();
        drop(state);
        self.turn.on_screen(|| {
            let mut out = io::stdout().lock();
            // Nothing can be done about a terminal that has gone.
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        });
        Ok(())
    }
}

impl Painted {
    /// The rows that have come since the last painting: as many of the last ones as the screen holds.
    fn scroll(&mut self, view: &mut View, height: usize, running: bool) -> Result<Vec<String>> {
        let fresh = std::mem::take(&mut view.fresh);
        let mut surplus = fresh.iter().map(RecordBatch::num_rows).sum::<usize>().saturating_sub(height);
        let mut notes = String::new();
        if self.scroll.is_none() && (!fresh.is_empty() || !running) {
            let buffer = Buffer::default();
            let shape = Shape { types: true, ..Shape::default() };
            let encoder = encoder(Format::Table, &view.columns, Box::new(buffer.clone()), shape, true)?;
            self.scroll = Some((encoder, buffer));
        }
        let Some((encoder, buffer)) = &mut self.scroll else { return Ok(Vec::new()) };
        if surplus > 0 {
            notes = format!("· {} more\n", report::count(surplus as u64, "row"));
        }
        for batch in fresh {
            let left_out = surplus.min(batch.num_rows());
            surplus -= left_out;
            encoder.write(&batch.slice(left_out, batch.num_rows() - left_out))?;
        }
        encoder.flush()?;
        let mut text = buffer.take();
        if !running && let Some((encoder, buffer)) = self.scroll.take() {
            encoder.finish()?;
            text.push_str(&buffer.take());
        }
        let width = terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0));
        Ok(notes.lines().chain(text.lines()).map(|line| clip(line, width)).collect())
    }
}

/// The lines of the first rows as a table.
fn table(view: &View, width: usize, height: usize) -> Result<Vec<String>> {
    let room = height.saturating_sub(FRAME_LINES).max(1);
    let (rows, all, marks) = view.first(room)?;
    let buffer = Buffer::default();
    let shape = Shape { width: Some(width), types: true, rows: None };
    let mut encoder = encoder(Format::Table, &rows.schema(), Box::new(buffer.clone()), shape, true)?;
    encoder.write(&rows)?;
    encoder.finish()?;
    let mut lines: Vec<String> = buffer.take().lines().map(str::to_owned).collect();
    let header = lines.iter().position(|line| line.starts_with('├')).map_or(0, |rule| rule + 1);
    for (line, marked) in lines.iter_mut().skip(header).zip(&marks) {
        if *marked && let Some(rest) = line.strip_prefix('│') {
            *line = if report::colours() { format!("\x1b[1m┃{rest}\x1b[0m") } else { format!("┃{rest}") };
        }
    }
    if all > rows.num_rows() {
        lines.push(format!("{}, {} shown", report::count(all as u64, "row"), rows.num_rows()));
    }
    Ok(lines)
}

/// Keys that stop a query. Dropped, the terminal is as it was.
pub(super) struct Keys {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Keys {
    /// Listens for q and Ctrl-C; `presses` counts them.
    pub(super) fn listen(presses: watch::Sender<u32>) -> Result<Self> {
        enable_raw_mode()?;
        let over = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&over);
        let work = move || {
            while !done.load(Ordering::Relaxed) {
                let Ok(waiting) = event::poll(KEYS) else { break };
                if waiting && event::read().is_ok_and(|event| stops(&event)) {
                    presses.send_modify(|presses| *presses += 1);
                }
            }
        };
        let thread = std::thread::Builder::new().name("keys".to_owned()).spawn(work).ok();
        Ok(Self { over, thread })
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // Nothing can be done about a terminal that has gone.
        let _ = disable_raw_mode();
    }
}

fn stops(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    match key.code {
        KeyCode::Char('c' | 'd') => key.modifiers.contains(KeyModifiers::CONTROL),
        KeyCode::Char('q' | 'Q') | KeyCode::Esc => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};

    use super::*;

    fn change(rows: &[(i64, i64)]) -> Changes {
        let schema = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
        let values = Int64Array::from_iter_values(rows.iter().map(|(value, _)| *value));
        let weights = Int64Array::from_iter_values(rows.iter().map(|(_, weight)| *weight));
        Changes::weighted(RecordBatch::try_new(schema, vec![Arc::new(values)]).expect("a batch"), weights)
    }

    #[test]
    fn a_view_holds_the_rows_that_are_there_and_marks_the_new_ones() {
        let first = change(&[(5, 1), (3, 2), (4, 1)]);
        let mut view = View::new(first.rows.schema(), false, None);
        view.apply(&[first]).expect("applies");
        view.apply(&[change(&[(4, -1), (7, 1), (5, -1), (5, 1)])]).expect("applies");
        let (rows, all, marks) = view.first(10).expect("rows");
        assert_eq!(rows.column(0).as_primitive::<Int64Type>().values().to_vec(), [3, 3, 5, 7]);
        assert_eq!((all, marks), (4, vec![false, false, true, true]));
        assert_eq!(view.first(2).expect("rows").0.num_rows(), 2);
        let lines = table(&view, 40, 9).expect("a table");
        assert_eq!(lines.last().map(String::as_str), Some("4 rows, 2 shown"));
    }
}
