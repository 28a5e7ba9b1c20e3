//! A file that always shows the whole result.
//!
//! Enters: changes. Leaves: one file, exchanged at each commit that changes something. Always holds: the file is the
//! result after an epoch, in the order of the statement.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, new_null_array};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;

use super::encode::Growing;
use super::image::Image;
use super::versions::Replaced;
use super::{FileEncoding, Sink};
use crate::change::{Changes, RowEncoder, repeat, with_columns};
use crate::checkpoint::Saved;
use crate::durable::{Folder, Shown, StagedFile};
use crate::error::{Error, Result};
use crate::format::carried;
use crate::offset::Epoch;

/// Puts rows into the order of the statement.
type Sort = dyn Fn(&RecordBatch) -> Result<RecordBatch> + Send + Sync;

/// The order of the statement, which may need columns that the statement does not have: they come behind the others.
#[derive(Clone)]
pub struct Order {
    sort: Arc<Sort>,
    hidden: usize,
}

impl Order {
    /// `hidden`: so many columns at the end are there for the order alone.
    pub fn new(sort: Arc<Sort>, hidden: usize) -> Self {
        Self { sort, hidden }
    }

    /// The rows in order, with all columns.
    pub fn sorted(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        (self.sort)(rows)
    }

    /// The rows without the columns that are there for the order alone.
    pub fn shown(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        Ok(rows.project(&(0..rows.num_columns().saturating_sub(self.hidden)).collect::<Vec<_>>())?)
    }

    /// True if there are such columns.
    pub fn hides(&self) -> bool {
        self.hidden > 0
    }
}

/// One file.
pub struct ReplaceSink {
    folder: Folder,
    name: String,
    encoding: FileEncoding,
    /// What is kept.
    columns: SchemaRef,
    /// What is written.
    shown_columns: SchemaRef,
    order: Option<Order>,
    encoder: RowEncoder,
    rows: BTreeMap<Box<[u8]>, i64>,
    /// Since the last checkpoint.
    added: Vec<Changes>,
    saved_rows: usize,
    changed: bool,
    /// The versions of a Parquet file; nothing before the first one of this run.
    versions: Option<Replaced>,
    staged: Option<StagedFile>,
    shown: Shown,
}

impl ReplaceSink {
    /// A sink that writes the file `name` in `folder`.
    pub fn new(
        folder: Folder,
        name: String,
        encoding: FileEncoding,
        columns: SchemaRef,
        order: Option<Order>,
    ) -> Result<Self> {
        let encoder = RowEncoder::of(&columns)?;
        let none = RecordBatch::new_empty(Arc::clone(&columns));
        let shown_columns = order.as_ref().map_or(Ok(none.clone()), |order| order.shown(&none))?.schema();
        Ok(Self {
            folder,
            name,
            encoding,
            columns,
            shown_columns,
            order,
            encoder,
            rows: BTreeMap::new(),
            added: Vec::new(),
            saved_rows: 0,
            changed: true,
            versions: None,
            staged: None,
            shown: Shown::default(),
        })
    }

    fn apply(&mut self, change: &Changes) -> Result<()> {
        let rows = self.encoder.encode(change.rows.columns(), change.len())?;
        for at in 0..change.len() {
            let row = rows.row(at);
            let weight = match self.rows.get_mut(row) {
                Some(weight) => weight,
                None => self.rows.entry(row.into()).or_insert(0),
            };
            *weight += change.weight(at);
            if *weight == 0 {
                self.rows.remove(row);
            }
        }
        Ok(())
    }

    fn result(&self) -> Result<Changes> {
        let columns = self.encoder.decode(self.rows.keys().map(|row| &**row))?;
        let rows = with_columns(&self.columns, columns, self.rows.len())?;
        Ok(Changes::weighted(rows, Int64Array::from_iter_values(self.rows.values().copied())))
    }
}

#[async_trait]
impl Sink for ReplaceSink {
    fn take(&mut self, changes: Vec<Changes>, shown: bool) -> Result<()> {
        for change in changes.into_iter().filter(|change| !change.is_empty()) {
            self.apply(&change)?;
            self.added.push(change);
            self.changed |= !shown;
        }
        Ok(())
    }

    async fn stage(&mut self, epoch: Epoch, now_micros: i64) -> Result<()> {
        if !std::mem::take(&mut self.changed) {
            return Ok(());
        }
        let result = self.result()?;
        if result.weights.iter().flat_map(|weights| weights.values()).any(|weight| *weight < 0) {
            return Err(Error::query("a row was retracted that was never inserted"));
        }
        let mut rows = repeat(&result)?;
        if let Some(order) = &self.order {
            rows = order.shown(&order.sorted(&rows)?)?;
        }
        let columns = self.encoding.schema(&self.shown_columns)?;
        if self.encoding != FileEncoding::Parquet {
            let mut file = Growing::new(self.encoding, columns);
            file.push(&rows)?;
            self.staged = Some(self.folder.stage(&self.name, file.version(epoch)?).await?);
            return Ok(());
        }
        let rows = carried(&columns, &rows)?;
        let mut versions = match self.versions.take() {
            Some(versions) => versions,
            None => Replaced::new(columns, self.folder.read(&self.name).await?),
        };
        self.staged = Some(self.folder.stage(&self.name, versions.replace(&rows, epoch, now_micros)?).await?);
        self.versions = Some(versions);
        Ok(())
    }

    async fn commit(&mut self, _epoch: Epoch) -> Result<()> {
        match self.staged.take() {
            Some(staged) => staged.show(&mut self.shown).await,
            None => Ok(()),
        }
    }

    fn settle(&mut self) -> Result<()> {
        self.shown.settle()
    }

    fn replaces(&self) -> bool {
        true
    }

    fn save(&mut self) -> Result<Saved> {
        let added = std::mem::take(&mut self.added);
        if added.is_empty() {
            return Ok(Saved::Unchanged);
        }
        self.saved_rows += added.iter().map(Changes::len).sum::<usize>();
        if self.saved_rows > 2 * self.rows.len() + 1000 {
            self.saved_rows = self.rows.len();
            return Ok(Saved::Whole(vec![self.result()?.with_weight_column()?].into()));
        }
        let added = added.iter().map(Changes::with_weight_column).collect::<Result<Vec<_>>>()?;
        let schema = added[0].schema();
        Ok(Saved::Added(vec![concat_batches(&schema, &added)?].into()))
    }

    async fn shown(&mut self) -> Result<Option<Image>> {
        let file = self.encoding.schema(&self.shown_columns)?;
        let columns = self.encoding.image_columns(&file);
        let Some(bytes) = self.folder.read(&self.name).await? else {
            return Ok(Some(Image { columns, rows: Vec::new() }));
        };
        let batches = self.encoding.image_of_file(bytes, &file).map_err(|error| Error {
            message: format!("{}/{}: {}", self.folder.name(), self.name, error.message),
            ..error
        })?;
        Ok(Some(Image { columns, rows: batches.into_iter().map(Changes::inserted).collect() }))
    }

    fn image(&self, rows: &RecordBatch) -> Result<Vec<Changes>> {
        let image = self.encoding.image_of_rows(rows, &self.encoding.schema(&self.shown_columns)?)?;
        Ok(image.into_iter().map(Changes::inserted).collect())
    }

    fn kept(&self) -> Result<Option<Changes>> {
        let Changes { rows, weights } = self.result()?;
        let rows = self.order.as_ref().map_or(Ok(rows.clone()), |order| order.shown(&rows))?;
        Ok(Some(Changes { rows, weights }))
    }

    fn restore(&mut self, saved: Vec<RecordBatch>) -> Result<()> {
        for batch in saved {
            self.saved_rows += batch.num_rows();
            let Changes { rows, weights } = Changes::from_weight_column(&batch)?;
            // Columns may have been added since.
            let columns = self.columns.fields().iter().map(|field| match rows.column_by_name(field.name()) {
                Some(column) => Arc::clone(column),
                None => new_null_array(field.data_type(), rows.num_rows()),
            });
            let rows = match rows.num_columns() == self.columns.fields().len() {
                true => rows,
                false => with_columns(&self.columns, columns.collect(), rows.num_rows())?,
            };
            self.apply(&Changes { rows, weights })?;
        }
        self.changed = false;
        Ok(())
    }
}
