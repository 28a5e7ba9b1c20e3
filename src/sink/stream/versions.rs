//! Parquet files of which a reader may hold an older end.
//!
//! Enters: batches. Leaves: the file's next version. Always holds: what an earlier version refers to stays at its
//! place in the next one. Readers open a file more than once, for its end and then for its rows, and some go by the
//! size that a listing gave: whichever versions they meet, they read one of them.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::{
    ColumnChunkMetaData, FileMetaData, KeyValue, ParquetMetaData, ParquetMetaDataReader, ParquetMetaDataWriter,
    RowGroupMetaData,
};
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use crate::change::with_columns;
use crate::config::{CREATED_BY, ROW_GROUP_ROWS, VERSION_MICROS};
use crate::error::Result;
use crate::offset::{Epoch, GROWS_KEY};

/// The bytes that begin and end a Parquet file.
const MAGIC: &[u8] = b"PAR1";
/// The entry of a file's end that names the last epoch in it.
const EPOCH_KEY: &str = "fuse.epoch";
/// So many small row groups in a row become one.
const FAN: usize = 16;

/// Rows as a file has them, from behind its first bytes to before its end.
struct Body {
    bytes: Vec<u8>,
    groups: Vec<RowGroupMetaData>,
    head: FileMetaData,
}

/// Without indexes of pages: those tell places within a file, and these rows are put anywhere.
fn encode(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<Body> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_offset_index_disabled(true)
        .set_created_by(CREATED_BY.to_owned());
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, Arc::clone(schema), Some(properties.build()))?;
    for batch in batches {
        writer.write(batch)?;
    }
    let metadata = writer.close()?;
    let groups = metadata.row_groups().to_vec();
    let end = groups.iter().flat_map(RowGroupMetaData::columns).map(|column| {
        let (from, length) = column.byte_range();
        from + length
    });
    let end = end.max().unwrap_or(MAGIC.len() as u64);
    bytes.truncate(usize::try_from(end).unwrap_or(usize::MAX));
    bytes.drain(..MAGIC.len());
    Ok(Body { bytes, groups, head: metadata.file_metadata().clone() })
}

/// A row group whose rows are put so many bytes further on.
fn moved(group: &RowGroupMetaData, by: i64) -> Result<RowGroupMetaData> {
    let column = |column: &ColumnChunkMetaData| -> Result<ColumnChunkMetaData> {
        let (data, dictionary) = (column.data_page_offset() + by, column.dictionary_page_offset().map(|at| at + by));
        let built = column.clone().into_builder().set_data_page_offset(data).set_dictionary_page_offset(dictionary);
        Ok(built.build()?)
    };
    let columns = group.columns().iter().map(column).collect::<Result<Vec<_>>>()?;
    let file_offset = group.file_offset().unwrap_or_default() + by;
    Ok(group.clone().into_builder().set_column_metadata(columns).set_file_offset(file_offset).build()?)
}

fn all_moved(body: &Body, to: usize) -> Result<Vec<RowGroupMetaData>> {
    let by = i64::try_from(to).unwrap_or(i64::MAX) - MAGIC.len() as i64;
    body.groups.iter().map(|group| moved(group, by)).collect()
}

fn metadata(head: &FileMetaData, groups: &[RowGroupMetaData], epoch: Option<Epoch>) -> Result<ParquetMetaData> {
    let mut keys = head.key_value_metadata().cloned().unwrap_or_default();
    keys.retain(|pair| pair.key != EPOCH_KEY);
    keys.extend(epoch.map(|epoch| KeyValue::new(EPOCH_KEY.to_owned(), epoch.to_string())));
    let rows = groups.iter().map(RowGroupMetaData::num_rows).sum();
    let orders = head.column_orders().cloned();
    let created_by = head.created_by().map(str::to_owned);
    let head = FileMetaData::new(head.version(), rows, created_by, Some(keys), head.schema_descr_ptr(), orders);
    let numbered = groups.iter().enumerate().map(|(at, group)| {
        let ordinal = i16::try_from(at).unwrap_or(i16::MAX);
        Ok(group.clone().into_builder().set_ordinal(ordinal).build()?)
    });
    Ok(ParquetMetaData::new(head, numbered.collect::<Result<_>>()?))
}

/// The end of a file with these row groups.
fn end(head: &FileMetaData, groups: &[RowGroupMetaData], epoch: Epoch) -> Result<Vec<u8>> {
    let metadata = metadata(head, groups, Some(epoch))?;
    let mut bytes = Vec::new();
    ParquetMetaDataWriter::new(&mut bytes, &metadata).finish()?;
    Ok(bytes)
}

/// What is said of a file that rows are added to, with word of it for a pipeline that reads it.
fn marked(head: &FileMetaData) -> FileMetaData {
    let mut keys = head.key_value_metadata().cloned().unwrap_or_default();
    keys.push(KeyValue::new(GROWS_KEY.to_owned(), "true".to_owned()));
    let (created_by, orders) = (head.created_by().map(str::to_owned), head.column_orders().cloned());
    FileMetaData::new(head.version(), head.num_rows(), created_by, Some(keys), head.schema_descr_ptr(), orders)
}

/// A file that rows are added to: a version is the one before, with rows and a new end behind it.
pub(super) struct Grown {
    schema: SchemaRef,
    bytes: Vec<u8>,
    head: Option<FileMetaData>,
    /// How often the rows of each were merged.
    groups: Vec<(RowGroupMetaData, u32)>,
}

impl Grown {
    pub(super) fn new(schema: SchemaRef) -> Self {
        Self { schema, bytes: MAGIC.to_vec(), head: None, groups: Vec::new() }
    }

    /// Goes on from the version of so many bytes. What stands behind it was shown by a later one that is not known any
    /// more: it stays, for who has listed it.
    pub(super) fn open(schema: SchemaRef, bytes: Vec<u8>, version: usize) -> Result<Self> {
        let bytes = Bytes::from(bytes);
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&bytes.slice(..version.min(bytes.len())))?;
        let groups = metadata.row_groups().iter().map(|group| (group.clone(), 0)).collect();
        Ok(Self { schema, bytes: Vec::from(bytes), head: Some(metadata.file_metadata().clone()), groups })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn rows(&self) -> usize {
        let rows: i64 = self.groups.iter().map(|(group, _)| group.num_rows()).sum();
        usize::try_from(rows).unwrap_or_default()
    }

    /// Makes the version with these rows too.
    pub(super) fn add(&mut self, batches: &[RecordBatch], epoch: Epoch) -> Result<()> {
        self.append(batches, 0)?;
        while let Some(from) = self.small_groups() {
            let merges = self.groups[from].1 + 1;
            let rows = self.read(from)?;
            self.groups.truncate(from);
            self.append(&rows, merges)?;
        }
        let groups: Vec<RowGroupMetaData> = self.groups.iter().map(|(group, _)| group.clone()).collect();
        if let Some(head) = &self.head {
            self.bytes.extend(end(head, &groups, epoch)?);
        }
        Ok(())
    }

    fn append(&mut self, batches: &[RecordBatch], merges: u32) -> Result<()> {
        let body = encode(&self.schema, batches)?;
        let groups = all_moved(&body, self.bytes.len())?;
        self.bytes.extend_from_slice(&body.bytes);
        self.groups.extend(groups.into_iter().map(|group| (group, merges)));
        if self.head.is_none() {
            self.head = Some(marked(&body.head));
        }
        Ok(())
    }

    /// Where the last row groups begin, if they are so many and so small that one would do.
    fn small_groups(&self) -> Option<usize> {
        let from = self.groups.len().checked_sub(FAN)?;
        let last = &self.groups[from..];
        let rows: i64 = last.iter().map(|(group, _)| group.num_rows()).sum();
        let alike = last.iter().all(|(_, merges)| *merges == last[0].1);
        (alike && rows <= ROW_GROUP_ROWS as i64).then_some(from)
    }

    /// The rows of the row groups from there on.
    fn read(&mut self, from: usize) -> Result<Vec<RecordBatch>> {
        let Some(head) = &self.head else { return Ok(Vec::new()) };
        let groups: Vec<RowGroupMetaData> = self.groups.iter().map(|(group, _)| group.clone()).collect();
        let metadata =
            ArrowReaderMetadata::try_new(Arc::new(metadata(head, &groups, None)?), ArrowReaderOptions::default())?;
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes.clone(), metadata)
            .with_row_groups((from..groups.len()).collect())
            .with_batch_size(ROW_GROUP_ROWS)
            .build()?;
        let rows = reader.map(|batch| {
            let batch = batch?;
            with_columns(&self.schema, batch.columns().to_vec(), batch.num_rows())
        });
        let rows = rows.collect::<Result<Vec<_>>>()?;
        // Nobody else has them any more, so this copies nothing.
        self.bytes = Vec::from(bytes);
        Ok(rows)
    }
}

/// Bytes of a version in a file.
#[derive(Debug, Clone, Copy)]
struct Region {
    from: usize,
    to: usize,
    /// When a newer version was made; nothing: this is the newest.
    old_since: Option<i64>,
}

/// A file whose rows are all replaced: a version is put where no other one is that a reader may still want.
pub(super) struct Replaced {
    schema: SchemaRef,
    bytes: Vec<u8>,
    /// In the order in which they were made.
    regions: Vec<Region>,
}

impl Replaced {
    /// The versions behind the one that is there already, if it is one.
    pub(super) fn new(schema: SchemaRef, there: Option<Bytes>) -> Self {
        let known = there.filter(|bytes| {
            let metadata = ParquetMetaDataReader::new().parse_and_finish(bytes);
            let keys = metadata.ok().and_then(|metadata| metadata.file_metadata().key_value_metadata().cloned());
            keys.is_some_and(|keys| keys.iter().any(|pair| pair.key == EPOCH_KEY))
        });
        let bytes = known.map(Vec::from).unwrap_or_default();
        let whole = Region { from: 0, to: bytes.len(), old_since: None };
        let regions = if bytes.is_empty() { Vec::new() } else { vec![whole] };
        Self { schema, bytes, regions }
    }

    /// Makes the version with these rows, and no others.
    pub(super) fn replace(&mut self, rows: &RecordBatch, epoch: Epoch, now_micros: i64) -> Result<&[u8]> {
        let body = encode(&self.schema, std::slice::from_ref(rows))?;
        self.forget(body.bytes.len(), now_micros);
        let from = self.gap(body.bytes.len());
        let to = from + body.bytes.len();
        self.regions.push(Region { from, to, old_since: None });
        let all = self.regions.iter().map(|region| region.to).max().unwrap_or(to);
        self.bytes.resize(all, 0);
        self.bytes[..MAGIC.len()].copy_from_slice(MAGIC);
        self.bytes[from..to].copy_from_slice(&body.bytes);
        self.bytes.extend(end(&body.head, &all_moved(&body, from)?, epoch)?);
        Ok(&self.bytes)
    }

    /// Lets the oldest versions go that nobody should be reading any more, and those beyond a few times the size of
    /// the new one; never the newest.
    fn forget(&mut self, size: usize, now_micros: i64) {
        if let Some(newest) = self.regions.last_mut() {
            newest.old_since.get_or_insert(now_micros);
        }
        while self.regions.len() > 1 {
            let kept: usize = self.regions[1..].iter().map(|region| region.to - region.from).sum();
            let old = self.regions[0].old_since.is_some_and(|since| now_micros - since >= VERSION_MICROS);
            if !old && kept <= 2 * size + (1 << 20) {
                break;
            }
            self.regions.remove(0);
        }
    }

    /// Where so many bytes fit between the versions that stay.
    fn gap(&self, size: usize) -> usize {
        let mut taken: Vec<(usize, usize)> = self.regions.iter().map(|region| (region.from, region.to)).collect();
        taken.sort_unstable();
        let mut from = MAGIC.len();
        for (begin, end) in taken {
            if from + size <= begin {
                break;
            }
            from = from.max(end);
        }
        from
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true), Field::new("t", DataType::Utf8, true)]))
    }

    fn batch(numbers: std::ops::Range<i64>) -> RecordBatch {
        let texts = StringArray::from_iter_values(numbers.clone().map(|n| format!("text {}", n % 7)));
        let columns = vec![Arc::new(Int64Array::from_iter_values(numbers)) as _, Arc::new(texts) as _];
        RecordBatch::try_new(schema(), columns).expect("a batch")
    }

    /// The numbers in a file, by the end that one version has and the rows that another one has.
    fn read(end: &[u8], rows: &[u8]) -> Vec<i64> {
        let end =
            ArrowReaderMetadata::load(&Bytes::copy_from_slice(end), ArrowReaderOptions::default()).expect("an end");
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(Bytes::copy_from_slice(rows), end);
        let batches = reader.build().expect("a reader").collect::<std::result::Result<Vec<_>, _>>().expect("rows");
        let numbers = |batch: &RecordBatch| {
            let (numbers, texts) = (batch.column(0), batch.column(1));
            let numbers = numbers.as_any().downcast_ref::<Int64Array>().expect("numbers").values().to_vec();
            let texts = texts.as_any().downcast_ref::<StringArray>().expect("texts");
            for (number, text) in numbers.iter().zip(texts) {
                assert_eq!(text, Some(format!("text {}", number % 7).as_str()));
            }
            numbers
        };
        batches.iter().flat_map(numbers).collect()
    }

    #[test]
    fn a_grown_file_begins_with_each_version_before() {
        let mut file = Grown::new(schema());
        let mut versions: Vec<Vec<u8>> = Vec::new();
        for epoch in 0..600 {
            file.add(&[batch(epoch * 3..epoch * 3 + 3)], epoch as u64).expect("adds");
            if let Some(before) = versions.last() {
                assert!(file.bytes().starts_with(before), "epoch {epoch}");
            }
            versions.push(file.bytes().to_vec());
            if epoch == 300 {
                // The last epoch was shown, and not logged: it is shown again after a restart.
                file = Grown::open(schema(), file.bytes().to_vec(), versions[299].len()).expect("opens");
                assert_eq!(file.rows(), 900);
                file.add(&[batch(900..903)], 300).expect("adds");
                assert!(file.bytes().starts_with(&versions[300]));
            }
        }
        assert!(file.groups.len() < 3 * FAN, "{}", file.groups.len());
        let last = versions.last().expect("one");
        assert_eq!(read(last, last), (0..1800).collect::<Vec<_>>());
        for (epoch, version) in versions.iter().enumerate().step_by(37) {
            assert_eq!(read(version, last), (0..(epoch as i64 + 1) * 3).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_replaced_file_keeps_the_rows_of_the_version_before() {
        let mut file = Replaced::new(schema(), None);
        let mut before: Option<(i64, Vec<u8>)> = None;
        let mut largest = 0;
        for version in 0..200 {
            let now = version * 400_000;
            let rows = 1 + version * 7919 % 5000;
            let bytes = file.replace(&batch(version..version + rows), version as u64, now).expect("replaces").to_vec();
            assert_eq!(read(&bytes, &bytes), (version..version + rows).collect::<Vec<_>>());
            if let Some((rows, old)) = &before {
                assert_eq!(read(old, &bytes), (version - 1..version - 1 + rows).collect::<Vec<_>>());
            }
            largest = largest.max(bytes.len());
            if version % 50 == 20 {
                file = Replaced::new(schema(), Some(Bytes::from(bytes.clone())));
            }
            before = Some((rows, bytes));
        }
        let alone = Replaced::new(schema(), None).replace(&batch(0..5000), 0, 0).expect("replaces").len();
        assert!(largest < 8 * alone + (2 << 20), "{largest} bytes for {alone}");
        let foreign = Replaced::new(schema(), Some(Bytes::from_static(b"PAR1 something else PAR1")));
        assert!(foreign.bytes.is_empty());
    }
}
