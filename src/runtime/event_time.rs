//! The watermarks of the sources.
//!
//! Enters: what an epoch has read, and the watermarks before it, as they were logged. Leaves: the rows that are on
//! time, those that are late, and the watermarks behind the epoch. Always holds: a watermark never falls; what is late
//! depends on the log and the rows alone, so that a replay finds the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::{filter_record_batch, max, not};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};

use crate::change::with_columns;
use crate::checkpoint::{EpochRecord, Saved};
use crate::error::{Error, Result};
use crate::offset::{ENDED, NO_WATERMARK, OffsetRange};
use crate::planner::IncrementalPlan;
use crate::times::{late_rows, micros_of, ordered};

/// The parts of a state: the watermarks, and what has brought rows that were late.
pub(super) const WATERMARKS: &str = "watermarks";
/// See [`WATERMARKS`].
pub(super) const LATE: &str = "late";

/// The watermarks of all sources.
pub(super) struct EventTime {
    sources: Vec<SourceTime>,
    /// Ranges that had late rows, since the last checkpoint.
    fresh: Vec<LateRange>,
}

struct SourceTime {
    name: String,
    /// What it declares, if it does.
    declared: Option<Declared>,
    /// In microseconds since 1970.
    watermark: i64,
    /// When rows have come last, or this run has begun, in microseconds since 1970.
    active: i64,
}

#[derive(Clone)]
struct Declared {
    /// The place of the column in what the source gives.
    place: usize,
    expr: Arc<dyn PhysicalExpr>,
    /// A later time never has a lesser value, so that the last one tells.
    grows: bool,
    idle_micros: Option<i64>,
}

/// A time, or one so far before or behind it: calendar arithmetic takes longer than all else of a simple epoch.
fn grows_with_time(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let shifted = |binary: &BinaryExpr| {
        matches!(binary.op(), Operator::Plus | Operator::Minus)
            && binary.left().is::<Column>()
            && binary.right().is::<Literal>()
    };
    expr.is::<Column>() || expr.downcast_ref::<BinaryExpr>().is_some_and(shifted)
}

/// A range of a source, and the watermark before it: rows of it that were behind that were left out.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LateRange {
    pub(super) source: String,
    pub(super) range: OffsetRange,
    pub(super) watermark: i64,
}

/// The rows of an epoch, by source.
pub(super) struct Admitted {
    pub(super) on_time: Vec<Vec<RecordBatch>>,
    pub(super) late: Vec<Vec<RecordBatch>>,
}

impl EventTime {
    pub(super) fn new(plan: &IncrementalPlan, now_micros: i64) -> Self {
        let source = |node: &crate::planner::SourceNode| {
            let declared = node.stream().and_then(|table| table.watermark()).map(|watermark| Declared {
                place: node.columns.binary_search(&watermark.column).unwrap_or_default(),
                expr: Arc::clone(&watermark.expr),
                grows: grows_with_time(&watermark.expr),
                idle_micros: watermark.idle_micros,
            });
            SourceTime { name: node.name.clone(), declared, watermark: NO_WATERMARK, active: now_micros }
        };
        Self { sources: plan.sources.iter().map(source).collect(), fresh: Vec::new() }
    }

    /// The watermarks before an epoch that takes these ranges; `ended` are the sources of which nothing comes any more.
    pub(super) fn before(
        &self,
        now_micros: i64,
        ranges: &BTreeMap<String, OffsetRange>,
        ended: &[bool],
    ) -> BTreeMap<String, i64> {
        let idle = |source: &SourceTime| {
            let limit = source.declared.as_ref().and_then(|declared| declared.idle_micros);
            !ranges.contains_key(&source.name) && limit.is_some_and(|limit| now_micros - source.active >= limit)
        };
        let at_work = self
            .sources
            .iter()
            .zip(ended)
            .filter(|(source, ended)| source.declared.is_some() && !**ended && !idle(source));
        let least = at_work.map(|(source, _)| source.watermark).min();
        let mut watermarks = BTreeMap::new();
        for (source, ended) in self.sources.iter().zip(ended).filter(|(source, _)| source.declared.is_some()) {
            let watermark = match least {
                _ if *ended && !ranges.contains_key(&source.name) => ENDED,
                Some(least) if idle(source) => source.watermark.max(least),
                _ => source.watermark,
            };
            if watermark != NO_WATERMARK {
                watermarks.insert(source.name.clone(), watermark);
            }
        }
        watermarks
    }

    /// True if these are not those that stand.
    pub(super) fn differ(&self, watermarks: &BTreeMap<String, i64>) -> bool {
        self.sources.iter().any(|source| {
            source.declared.is_some()
                && watermarks.get(&source.name).copied().unwrap_or(NO_WATERMARK) > source.watermark
        })
    }

    /// Separates what is late, and takes the watermarks to where they are behind the epoch.
    pub(super) fn admit(&mut self, record: &EpochRecord, rows: Vec<Vec<RecordBatch>>) -> Result<Admitted> {
        let mut admitted = Admitted { on_time: Vec::new(), late: Vec::new() };
        for (source, batches) in self.sources.iter_mut().zip(rows) {
            let Some(declared) = &source.declared else {
                admitted.on_time.push(batches);
                admitted.late.push(Vec::new());
                continue;
            };
            let before = record.watermarks.get(&source.name).copied().unwrap_or(NO_WATERMARK).max(source.watermark);
            source.watermark = before;
            let (mut on_time, mut late) = (Vec::new(), Vec::new());
            for batch in batches {
                source.active = record.now_micros;
                let batch = match late_rows(&batch, declared.place, before)? {
                    Some(mask) => {
                        late.push(filter_record_batch(&batch, &mask)?);
                        filter_record_batch(&batch, &not(&mask)?)?
                    }
                    None => batch,
                };
                source.watermark = source.watermark.max(declared.watermark(&batch)?);
                on_time.push(batch);
            }
            if !late.is_empty()
                && let Some(range) = record.sources.get(&source.name)
            {
                let (source, range) = (source.name.clone(), range.clone());
                self.fresh.push(LateRange { source, range, watermark: before });
            }
            admitted.on_time.push(on_time);
            admitted.late.push(late);
        }
        Ok(admitted)
    }

    /// The watermark of each source, in microseconds since 1970.
    pub(super) fn watermarks(&self) -> Vec<i64> {
        self.sources.iter().map(|source| source.watermark).collect()
    }

    /// The same by the names of the tables that have one.
    pub(super) fn named(&self) -> BTreeMap<String, i64> {
        let known = self.sources.iter().filter(|source| source.watermark != NO_WATERMARK);
        known.map(|source| (source.name.clone(), source.watermark)).collect()
    }

    /// What is to be kept; nothing if no table has a watermark.
    pub(super) fn save(&mut self) -> Result<Vec<(String, Saved)>> {
        if self.sources.iter().all(|source| source.declared.is_none()) {
            return Ok(Vec::new());
        }
        let named = self.named();
        let columns = vec![
            Arc::new(StringArray::from_iter_values(named.keys())) as _,
            Arc::new(Int64Array::from_iter_values(named.values().copied())) as _,
        ];
        let watermarks = Saved::Whole(vec![with_columns(&saved_schema(false), columns, named.len())?].into());
        let fresh = std::mem::take(&mut self.fresh);
        let late = if fresh.is_empty() { Saved::Unchanged } else { Saved::Added(vec![save_late(&fresh)?].into()) };
        Ok(vec![(WATERMARKS.to_owned(), watermarks), (LATE.to_owned(), late)])
    }

    /// Goes to where a checkpoint left it.
    pub(super) fn restore(&mut self, parts: &BTreeMap<String, Vec<RecordBatch>>) -> Result<()> {
        for batch in parts.get(WATERMARKS).into_iter().flatten() {
            let (names, watermarks) = (texts(batch, 0)?, numbers(batch, 1)?);
            for row in 0..batch.num_rows() {
                let source = self.sources.iter_mut().find(|source| source.name == names.value(row));
                source.into_iter().for_each(|source| source.watermark = watermarks.value(row));
            }
        }
        Ok(())
    }
}

impl Declared {
    /// The greatest value in a batch; an expression of one column, which is the only one that it sees.
    fn watermark(&self, batch: &RecordBatch) -> Result<i64> {
        let mut alone = batch.project(&[self.place])?;
        if self.grows {
            let times = ordered(alone.column(0))?;
            let Some(last) = max(&times) else { return Ok(NO_WATERMARK) };
            let row = (0..times.len()).find(|row| times.is_valid(*row) && times.value(*row) == last);
            alone = alone.slice(row.unwrap_or_default(), 1);
        }
        let values = self.expr.evaluate(&alone)?.into_array(alone.num_rows())?;
        Ok(max(&ordered(&values)?).map_or(NO_WATERMARK, |value| micros_of(value, values.data_type())))
    }
}

fn saved_schema(late: bool) -> SchemaRef {
    let mut fields = vec![Field::new("table", DataType::Utf8, false), Field::new("watermark", DataType::Int64, false)];
    if late {
        fields.push(Field::new("range", DataType::Utf8, false));
    }
    Arc::new(Schema::new(fields))
}

fn save_late(late: &[LateRange]) -> Result<RecordBatch> {
    let ranges = late
        .iter()
        .map(|one| serde_json::to_string(&one.range).map_err(|e| Error::query(format!("cannot write state: {e}"))));
    let columns = vec![
        Arc::new(StringArray::from_iter_values(late.iter().map(|one| &one.source))) as _,
        Arc::new(Int64Array::from_iter_values(late.iter().map(|one| one.watermark))) as _,
        Arc::new(StringArray::from_iter_values(ranges.collect::<Result<Vec<_>>>()?)) as _,
    ];
    with_columns(&saved_schema(true), columns, late.len())
}

/// The ranges that had late rows, as checkpoints have them.
pub(super) fn late_ranges(parts: &BTreeMap<String, Vec<RecordBatch>>) -> Result<Vec<LateRange>> {
    let mut late = Vec::new();
    for batch in parts.get(LATE).into_iter().flatten() {
        let (names, watermarks, ranges) = (texts(batch, 0)?, numbers(batch, 1)?, texts(batch, 2)?);
        for row in 0..batch.num_rows() {
            let range = serde_json::from_str(ranges.value(row)).map_err(|_| damaged())?;
            late.push(LateRange { source: names.value(row).to_owned(), range, watermark: watermarks.value(row) });
        }
    }
    Ok(late)
}

fn damaged() -> Error {
    Error::query("the watermarks in the state cannot be read")
}

fn texts(batch: &RecordBatch, column: usize) -> Result<StringArray> {
    let texts = arrow::compute::cast(batch.column(column), &DataType::Utf8)?;
    texts.as_any().downcast_ref::<StringArray>().cloned().ok_or_else(damaged)
}

fn numbers(batch: &RecordBatch, column: usize) -> Result<Int64Array> {
    batch.column(column).as_any().downcast_ref::<Int64Array>().cloned().ok_or_else(damaged)
}
