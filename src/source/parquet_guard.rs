//! Parquet pages that unpack to far more than they are.
//!
//! Enters: what a reader of Parquet files gets. Leaves: the same, or an error for bytes that would fill the memory.
//! Always holds: the headers of pages are looked at before the pages are unpacked; what cannot be read as headers is
//! left to the reader behind.
//!
//! A page may claim 2 GB, and four kilobytes of Brotli hold that claim.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::Result as DfResult;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    FileScanConfig, FileScanConfigBuilder, ParquetFileReaderFactory, ParquetSource,
};
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::ParquetMetaData;

use super::infer::display;
use crate::config::{PACKING_LIMIT, UNPACKED_BYTES_LIMIT};
use crate::error::Error;

/// The scan of Parquet files with a guard before its reader; nothing for a scan of others.
pub(super) fn guarded(config: &FileScanConfig) -> Option<FileScanConfig> {
    let source = config.file_source().downcast_ref::<ParquetSource>()?;
    let inner = Arc::clone(source.parquet_file_reader_factory()?);
    let source = source.clone().with_parquet_file_reader_factory(Arc::new(Guards { inner }));
    Some(FileScanConfigBuilder::from(config.clone()).with_source(Arc::new(source)).build())
}

#[derive(Debug)]
struct Guards {
    inner: Arc<dyn ParquetFileReaderFactory>,
}

impl ParquetFileReaderFactory for Guards {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> DfResult<Box<dyn AsyncFileReader + Send>> {
        let name = display(&file.object_meta);
        let inner = self.inner.create_reader(partition, file, hint, metrics)?;
        Ok(Box::new(Guard { inner, name }))
    }
}

struct Guard {
    inner: Box<dyn AsyncFileReader + Send>,
    name: String,
}

impl AsyncFileReader for Guard {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        self.inner.get_bytes(range)
    }

    /// The bytes of pages.
    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        async move {
            let pieces = self.inner.get_byte_ranges(ranges).await?;
            for piece in &pieces {
                let unpacked = unpacked_bytes(piece);
                let packed = piece.len() as u64;
                if unpacked > UNPACKED_BYTES_LIMIT && unpacked / PACKING_LIMIT > packed {
                    let error = Error::query(format!(
                        "{}: {packed} bytes of a column would unpack to {} MB: the file is damaged, or made to do harm",
                        self.name,
                        unpacked >> 20
                    ));
                    return Err(ParquetError::External(Box::new(error)));
                }
            }
            Ok(pieces)
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        self.inner.get_metadata(options)
    }
}

/// What the pages in `bytes` unpack to, as far as they can be read.
fn unpacked_bytes(bytes: &[u8]) -> u64 {
    let (mut at, mut unpacked) = (0, 0_u64);
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let mut header = Thrift { rest };
        let Some((more, packed)) = header.page() else { break };
        unpacked = unpacked.saturating_add(more);
        let read = rest.len() - header.rest.len();
        at = usize::try_from(packed)
            .ok()
            .and_then(|packed| at.checked_add(read)?.checked_add(packed))
            .unwrap_or(bytes.len());
    }
    unpacked
}

/// Thrift's compact protocol, as far as page headers need it.
struct Thrift<'a> {
    rest: &'a [u8],
}

impl Thrift<'_> {
    /// The sizes of a page, unpacked and packed.
    fn page(&mut self) -> Option<(u64, u64)> {
        let (mut id, mut sizes) = (0, [None; 2]);
        while let Some(kind) = self.field(&mut id)? {
            match (id, kind) {
                (2 | 3, 5) => {
                    let size = self.varint()?;
                    sizes[usize::from(id == 3)] = u64::try_from((size >> 1) as i64 ^ -((size & 1) as i64)).ok();
                }
                _ => self.skip(kind, 0)?,
            }
        }
        Some((sizes[0]?, sizes[1]?))
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// The type of the next field, whose number is put into `id`; nothing in it at the end of the struct.
    fn field(&mut self, id: &mut i64) -> Option<Option<u8>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Some(None);
        }
        *id = match i64::from(byte >> 4) {
            0 => i64::try_from(self.varint()? >> 1).ok()?,
            more => *id + more,
        };
        Some(Some(byte & 0x0f))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        const DEEPEST: usize = 16;
        if depth > DEEPEST {
            return None;
        }
        match kind {
            1 | 2 => {}
            3 => drop(self.byte()?),
            4..=6 => drop(self.varint()?),
            7 => self.rest = self.rest.get(8..)?,
            8 => {
                let length = usize::try_from(self.varint()?).ok()?;
                self.rest = self.rest.get(length..)?;
            }
            9 | 10 => {
                let head = self.byte()?;
                let count = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
                for _ in 0..count {
                    match head & 0x0f {
                        1 | 2 => drop(self.byte()?),
                        kind => self.skip(kind, depth + 1)?,
                    }
                }
            }
            12 => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, depth + 1)?;
                }
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields 1 to 3, then a struct with a field in it, the end of both, and five bytes of data.
    const PAGE: [u8; 17] = [0x15, 0, 0x15, 0xd0, 0x0f, 0x15, 0x0a, 0x2c, 0x15, 0x02, 0, 0, 1, 2, 3, 4, 5];

    #[test]
    fn the_sizes_of_pages_are_added_up() {
        assert_eq!(unpacked_bytes(&PAGE), 1000);
        assert_eq!(unpacked_bytes(&PAGE.repeat(3)), 3000);
        assert_eq!(unpacked_bytes(&PAGE[..9]), 0);
        for end in 0..PAGE.len() {
            unpacked_bytes(&PAGE[..end]);
        }
        assert_eq!(unpacked_bytes(b"PAR1 and no page"), 0);
    }
}
