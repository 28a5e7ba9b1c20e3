//! The scan of Arrow IPC files, with a footer or as a stream.
//!
//! Enters: a file, or a range of one, and the columns to be read. Leaves: batches of those columns, by name. Always
//! holds: lengths that a file claims are held against its size, and against what its bytes can unpack to, before
//! memory is taken for them.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, new_null_array};
use arrow::buffer::Buffer;
use arrow::compute::cast;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::reader::FileDecoder;
use arrow::ipc::{Block, Message, MessageHeader, MetadataVersion, root_as_footer, root_as_message};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use bytes::Bytes;
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileOpenFuture, FileOpener};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use super::infer::display;
use super::scan::{Format, Wanted};
use crate::config::{PACKING_LIMIT, UNPACKED_BYTES_LIMIT};
use crate::error::{Error, Result};

/// What a file with a footer begins and ends with.
const MAGIC: &[u8] = b"ARROW1";
/// The length of the footer and the magic, at the end of a file.
const TRAILER_BYTES: u64 = 10;
/// What each message begins with, but for those of old writers.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Bytes that are read at once, so that small messages do not take a request each.
const READ_BYTES: u64 = 1 << 20;

/// Arrow IPC.
#[derive(Clone)]
pub(super) struct Arrow;

impl Format for Arrow {
    const NAME: &'static str = "arrow";

    fn cuts(&self, _schema: &SchemaRef) -> bool {
        true
    }

    fn opener(&self, wanted: Wanted) -> Arc<dyn FileOpener> {
        Arc::new(Opener { wanted })
    }
}

/// The columns of a file.
pub(super) async fn columns(store: Arc<dyn ObjectStore>, file: &ObjectMeta) -> Result<SchemaRef> {
    Ok(Contents::open(Ranges::new(store, file)).await?.schema)
}

struct Opener {
    wanted: Wanted,
}

impl FileOpener for Opener {
    fn open(&self, file: PartitionedFile) -> DfResult<FileOpenFuture> {
        let wanted = self.wanted.clone();
        Ok(Box::pin(async move {
            let ranges = Ranges::new(Arc::clone(&wanted.store), &file.object_meta);
            let mut contents = Contents::open(ranges).await?;
            if let Some(range) = &file.range {
                let place = |at: i64| u64::try_from(at).unwrap_or(0);
                contents.keep(place(range.start)..place(range.end));
            }
            let reading = Reading::new(contents, &wanted)?;
            Ok(stream::try_unfold(reading, Reading::next).map_err(DataFusionError::from).boxed())
        }))
    }
}

/// The bytes of a file, read in large pieces.
struct Ranges {
    store: Arc<dyn ObjectStore>,
    file: ObjectMeta,
    start: u64,
    piece: Bytes,
}

impl Ranges {
    fn new(store: Arc<dyn ObjectStore>, file: &ObjectMeta) -> Self {
        Self { store, file: file.clone(), start: 0, piece: Bytes::new() }
    }

    fn damaged(&self, what: &str) -> Error {
        Error::query(format!("{}: the file is damaged: {what}", display(&self.file)))
    }

    /// `length` bytes from `at` on.
    async fn read(&mut self, at: u64, length: u64) -> Result<Bytes> {
        let end = at.checked_add(length).filter(|end| *end <= self.file.size);
        let Some(end) = end else { return Err(self.damaged("it ends early, or claims to be longer than it is")) };
        if at < self.start || end > self.start + self.piece.len() as u64 {
            let behind = self.file.size.min(end.max(at + READ_BYTES));
            self.piece = self.store.get_range(&self.file.location, at..behind).await?;
            self.start = at;
        }
        let from = usize::try_from(at - self.start).unwrap_or(usize::MAX);
        let Some(found) = self.piece.get(from..).and_then(|rest| rest.get(..usize::try_from(length).ok()?)) else {
            return Err(self.damaged("it ends early"));
        };
        Ok(self.piece.slice_ref(found))
    }
}

/// Where the batches of a file are.
struct Contents {
    ranges: Ranges,
    schema: SchemaRef,
    version: MetadataVersion,
    dictionaries: Vec<Block>,
    batches: Batches,
}

enum Batches {
    /// In these blocks, of which the first is the next.
    Listed(std::vec::IntoIter<Block>),
    /// One behind the other, from this place on.
    From(u64),
}

impl Contents {
    async fn open(mut ranges: Ranges) -> Result<Self> {
        let size = ranges.file.size;
        let begins = size > TRAILER_BYTES && ranges.read(0, MAGIC.len() as u64).await?.as_ref() == MAGIC;
        if begins { Self::of_file(ranges).await } else { Self::of_stream(ranges).await }
    }

    async fn of_file(mut ranges: Ranges) -> Result<Self> {
        let size = ranges.file.size;
        let trailer = ranges.read(size - TRAILER_BYTES, TRAILER_BYTES).await?;
        let length = match trailer.split_at(4) {
            (length, MAGIC) => length.try_into().map_or(-1, i32::from_le_bytes),
            _ => return Err(ranges.damaged("it has no end")),
        };
        let wrong = |ranges: &Ranges| ranges.damaged("its footer is wrong");
        let length = u64::try_from(length).ok().filter(|length| *length <= size - TRAILER_BYTES);
        let Some(length) = length else { return Err(wrong(&ranges)) };
        let bytes = ranges.read(size - TRAILER_BYTES - length, length).await?;
        let Ok(footer) = root_as_footer(&bytes) else { return Err(wrong(&ranges)) };
        let Some(schema) = footer.schema() else { return Err(wrong(&ranges)) };
        let blocks: Vec<Block> = footer.recordBatches().into_iter().flatten().copied().collect();
        let dictionaries: Vec<Block> = footer.dictionaries().into_iter().flatten().copied().collect();
        let inside = |block: &Block| range_of(block).is_some_and(|range| range.end <= size);
        if !blocks.iter().chain(&dictionaries).all(inside) {
            return Err(wrong(&ranges));
        }
        let version = footer.version();
        let Some(schema) = unharmed(|| Arc::new(fb_to_schema(schema))) else { return Err(wrong(&ranges)) };
        Ok(Self { ranges, schema, version, dictionaries, batches: Batches::Listed(blocks.into_iter()) })
    }

    async fn of_stream(mut ranges: Ranges) -> Result<Self> {
        let name = display(&ranges.file);
        let other = move || Error::query(format!("{name} is not an Arrow file"));
        let Some((metadata, behind)) = read_metadata(&mut ranges, 0).await.map_err(|_| other())? else {
            return Err(other());
        };
        let message = message_of(&metadata).ok_or_else(&other)?;
        let schema = message.header_as_schema().ok_or_else(&other)?;
        let version = message.version();
        let schema = unharmed(|| Arc::new(fb_to_schema(schema))).ok_or_else(&other)?;
        Ok(Self { ranges, schema, version, dictionaries: Vec::new(), batches: Batches::From(behind) })
    }

    /// Leaves the batches that begin in a range. A stream has no list of them: its first range has all.
    fn keep(&mut self, range: Range<u64>) {
        match &mut self.batches {
            Batches::Listed(blocks) => {
                let here = |block: &Block| range_of(block).is_some_and(|block| range.contains(&block.start));
                let kept: Vec<Block> = blocks.filter(here).collect();
                *blocks = kept.into_iter();
            }
            Batches::From(at) if range.start > 0 => *at = self.ranges.file.size,
            Batches::From(_) => {}
        }
    }
}

/// What `work` gives; nothing if the decoder stumbles over what it does not expect.
fn unharmed<T>(work: impl FnOnce() -> T) -> Option<T> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).ok()
}

fn range_of(block: &Block) -> Option<Range<u64>> {
    let start = u64::try_from(block.offset()).ok()?;
    let metadata = u64::try_from(block.metaDataLength()).ok()?;
    let body = u64::try_from(block.bodyLength()).ok()?;
    Some(start..start.checked_add(metadata)?.checked_add(body)?)
}

/// The metadata of the message at `at`, with the length before it, and the place behind it; nothing at the end.
async fn read_metadata(ranges: &mut Ranges, at: u64) -> Result<Option<(Bytes, u64)>> {
    if at >= ranges.file.size {
        return Ok(None);
    }
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
    let first = ranges.read(at, 4).await?;
    let (prefix, length) = match first.as_ref() == CONTINUATION.as_slice() {
        true => (8, word(&ranges.read(at + 4, 4).await?)),
        false => (4, word(&first)),
    };
    if length == 0 {
        return Ok(None);
    }
    let whole = prefix + u64::from(length);
    Ok(Some((ranges.read(at, whole).await?, at + whole)))
}

/// The message in its metadata, which begins with its length.
fn message_of(metadata: &[u8]) -> Option<Message<'_>> {
    let prefix = if metadata.starts_with(&CONTINUATION) { 8 } else { 4 };
    root_as_message(metadata.get(prefix..)?).ok()
}

/// A file that is being read.
struct Reading {
    ranges: Ranges,
    decoder: FileDecoder,
    dictionaries: std::vec::IntoIter<Block>,
    batches: Batches,
    /// The columns that are wanted, and where each is among those that are read.
    schema: SchemaRef,
    places: Vec<Option<usize>>,
}

impl Reading {
    fn new(contents: Contents, wanted: &Wanted) -> Result<Self> {
        let Contents { ranges, schema, version, dictionaries, batches } = contents;
        let output = Arc::new(wanted.schema.project(&wanted.columns)?);
        let mut read = Vec::new();
        let mut places = Vec::with_capacity(wanted.columns.len());
        for field in output.fields() {
            places.push(schema.index_of(field.name()).ok().map(|at| {
                read.push(at);
                read.len() - 1
            }));
        }
        let decoder = FileDecoder::new(schema, version).with_projection(read);
        Ok(Self { ranges, decoder, dictionaries: dictionaries.into_iter(), batches, schema: output, places })
    }

    async fn next(mut self) -> Result<Option<(RecordBatch, Self)>> {
        while let Some(block) = self.dictionaries.next() {
            self.read(&block).await?;
        }
        loop {
            let Some(block) = self.next_block().await? else { return Ok(None) };
            if let Some(batch) = self.read(&block).await? {
                let batch = self.as_wanted(&batch)?;
                return Ok(Some((batch, self)));
            }
        }
    }

    async fn next_block(&mut self) -> Result<Option<Block>> {
        let at = match &mut self.batches {
            Batches::Listed(blocks) => return Ok(blocks.next()),
            Batches::From(at) => *at,
        };
        let Some((metadata, behind)) = read_metadata(&mut self.ranges, at).await? else { return Ok(None) };
        let message = message_of(&metadata).ok_or_else(|| self.ranges.damaged("a message in it is wrong"))?;
        let offset = i64::try_from(at).unwrap_or(i64::MAX);
        let block = Block::new(offset, i32::try_from(behind - at).unwrap_or(i32::MAX), message.bodyLength());
        let range = range_of(&block).filter(|range| range.end <= self.ranges.file.size);
        let end = range.ok_or_else(|| self.ranges.damaged("a message in it claims more than there is"))?.end;
        self.batches = Batches::From(end);
        Ok(Some(block))
    }

    /// The batch of a block; nothing for a dictionary, which the decoder keeps.
    async fn read(&mut self, block: &Block) -> Result<Option<RecordBatch>> {
        let Some(range) = range_of(block) else { return Err(self.ranges.damaged("its footer is wrong")) };
        let bytes = self.ranges.read(range.start, range.end - range.start).await?;
        let metadata = usize::try_from(block.metaDataLength()).unwrap_or(0);
        let message = message_of(&bytes[..metadata.min(bytes.len())]);
        let message = message.ok_or_else(|| self.ranges.damaged("a message in it is wrong"))?;
        check(&message, &bytes[metadata.min(bytes.len())..]).map_err(|what| self.ranges.damaged(what))?;
        let (kind, bytes) = (message.header_type(), Buffer::from(bytes.clone()));
        let decoder = &mut self.decoder;
        let read = unharmed(|| match kind {
            MessageHeader::DictionaryBatch => decoder.read_dictionary(block, &bytes).map(|()| None),
            MessageHeader::RecordBatch => decoder.read_record_batch(block, &bytes),
            _ => Ok(None),
        });
        match read {
            Some(Ok(batch)) => Ok(batch),
            Some(Err(error)) => Err(self.ranges.damaged(&Error::from(error).message)),
            None => Err(self.ranges.damaged("a message in it is wrong")),
        }
    }

    /// The columns that are wanted, in their types; NULL where the file has none of that name.
    fn as_wanted(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.schema.fields().iter().zip(&self.places).map(|(field, place)| match place {
            Some(at) if batch.column(*at).data_type() == field.data_type() => Ok(Arc::clone(batch.column(*at))),
            Some(at) => Ok(cast(batch.column(*at), field.data_type())?),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        });
        let columns = columns.collect::<Result<Vec<ArrayRef>>>()?;
        let schema = Schema::new(
            self.schema.fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect::<Vec<_>>(),
        );
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        Ok(RecordBatch::try_new_with_options(Arc::new(schema), columns, &options)?)
    }
}

/// What is wrong with the buffers that a message claims, if anything is.
fn check(message: &Message<'_>, body: &[u8]) -> Result<(), &'static str> {
    let dictionary = message.header_as_dictionary_batch().and_then(|dictionary| dictionary.data());
    let Some(batch) = message.header_as_record_batch().or(dictionary) else { return Ok(()) };
    let mut unpacked = 0_u64;
    for buffer in batch.buffers().into_iter().flatten() {
        let place = |at: i64| usize::try_from(at).ok();
        let bytes =
            place(buffer.offset()).zip(place(buffer.length())).and_then(|(at, length)| body.get(at..)?.get(..length));
        let Some(bytes) = bytes else { return Err("a buffer in it is outside of its message") };
        if batch.compression().is_some()
            && let Some((claimed, _)) = bytes.split_at_checked(8)
        {
            let claimed = claimed.try_into().map_or(0, i64::from_le_bytes);
            unpacked = unpacked.saturating_add(u64::try_from(claimed).unwrap_or(0));
        }
    }
    let most = (body.len() as u64).saturating_mul(PACKING_LIMIT);
    if unpacked > UNPACKED_BYTES_LIMIT && unpacked > most {
        return Err("it claims to unpack to more than its bytes can hold");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::{DictionaryArray, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Int32Type};
    use arrow::ipc::CompressionType;
    use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
    use object_store::PutPayload;
    use object_store::memory::InMemory;

    use super::*;

    fn rows() -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter((0..300).map(|n| (n % 7 > 0).then_some(n / 9))));
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..300).map(|n| format!("name{}", n % 4))));
        let words: DictionaryArray<Int32Type> = (0..300).map(|n| if n % 2 == 0 { "even" } else { "odd" }).collect();
        RecordBatch::try_from_iter([("n", numbers), ("s", texts), ("w", Arc::new(words) as ArrayRef)]).expect("a batch")
    }

    /// Files with a footer and streams, packed in each way.
    fn files() -> Vec<Vec<u8>> {
        let batch = rows();
        let mut files = Vec::new();
        for packing in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
            let options = IpcWriteOptions::default().try_with_compression(packing).expect("options");
            let mut file =
                FileWriter::try_new_with_options(Vec::new(), &batch.schema(), options.clone()).expect("a writer");
            let mut stream =
                StreamWriter::try_new_with_options(Vec::new(), &batch.schema(), options).expect("a writer");
            for start in [0, 100, 200] {
                file.write(&batch.slice(start, 100)).expect("writes");
                stream.write(&batch.slice(start, 100)).expect("writes");
            }
            files.push(file.into_inner().expect("a file"));
            files.push(stream.into_inner().expect("a stream"));
        }
        files
    }

    /// What the columns `names` of a file are; `range`: of that part of it.
    async fn read(bytes: &[u8], names: &[&str], range: Option<Range<u64>>) -> Result<Vec<RecordBatch>> {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let path = object_store::path::Path::from("x.arrow");
        store.put(&path, PutPayload::from(bytes.to_vec())).await?;
        let file = store.head(&path).await?;
        let mut contents = Contents::open(Ranges::new(Arc::clone(&store), &file)).await?;
        let schema = Arc::clone(&contents.schema);
        if let Some(range) = range {
            contents.keep(range);
        }
        let columns = names.iter().map(|name| schema.index_of(name)).collect::<Result<Vec<_>, _>>()?;
        let compression = datafusion::datasource::file_format::file_compression_type::FileCompressionType::UNCOMPRESSED;
        let wanted = Wanted { store, compression, schema, columns, batch_rows: 100 };
        let mut reading = Reading::new(contents, &wanted)?;
        let mut batches = Vec::new();
        while let Some((batch, rest)) = reading.next().await? {
            batches.push(batch);
            reading = rest;
        }
        Ok(batches)
    }

    #[tokio::test]
    async fn columns_are_read_by_name_and_ranges_read_each_batch_once() {
        for bytes in files() {
            let batches = read(&bytes, &["w", "n"], None).await.expect("reads");
            let whole = arrow::compute::concat_batches(&batches[0].schema(), &batches).expect("one batch");
            assert!(**whole.column(1) == **rows().column(0));
            let texts = |column: &ArrayRef| cast(column, &DataType::Utf8).expect("texts");
            assert!(*texts(whole.column(0)) == *texts(rows().column(2)));
            let (half, end) = (bytes.len() as u64 / 2, bytes.len() as u64);
            let mut count = 0;
            for range in [0..half, half..end] {
                count += read(&bytes, &["n"], Some(range))
                    .await
                    .expect("reads")
                    .iter()
                    .map(RecordBatch::num_rows)
                    .sum::<usize>();
            }
            assert_eq!(count, 300);
        }
    }

    /// A damaged file is an error or other rows, and takes no more memory than it could hold.
    #[tokio::test]
    async fn a_file_that_claims_much_is_an_error() {
        let mut refused = 0;
        for bytes in files() {
            for at in (0..bytes.len().saturating_sub(8)).step_by(3) {
                for claim in [i64::MAX, 1 << 40, -1] {
                    let mut damaged = bytes.clone();
                    damaged[at..at + 8].copy_from_slice(&claim.to_le_bytes());
                    refused += usize::from(read(&damaged, &["n", "s", "w"], None).await.is_err());
                }
            }
            for length in (0..bytes.len()).step_by(5) {
                let _ = read(&bytes[..length], &["n", "s", "w"], None).await;
            }
        }
        assert!(refused > 1000, "{refused}");
    }
}
