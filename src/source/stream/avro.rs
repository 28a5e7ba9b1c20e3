//! Blocks of Avro object container files.
//!
//! Enters: a file. Leaves: where its blocks are, and the batches of some of them. Always holds: a file whose last
//! block is not whole is taken for one that is still written.

use std::io::{BufReader, Read, Seek, SeekFrom};

use arrow::array::RecordBatch;
use arrow_avro::reader::ReaderBuilder;

use super::decode::BATCH_ROWS;
use crate::error::{Error, Result};

const MAGIC: &[u8] = b"Obj\x01";
const SYNC_BYTES: u64 = 16;

/// One block of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) rows: u64,
    from: u64,
    to: u64,
}

/// The blocks of a file; nothing while its end is not there.
pub(super) fn blocks(input: impl Read + Seek) -> Option<Vec<Block>> {
    let mut input = BufReader::new(input);
    let size = input.seek(SeekFrom::End(0)).ok()?;
    input.seek(SeekFrom::Start(0)).ok()?;
    let mut magic = [0; 4];
    input.read_exact(&mut magic).ok()?;
    if magic != MAGIC {
        return None;
    }
    skip_metadata(&mut input)?;
    input.seek_relative(SYNC_BYTES as i64).ok()?;
    let mut blocks = Vec::new();
    let mut from = input.stream_position().ok()?;
    while from < size {
        let rows = u64::try_from(long(&mut input)?).ok()?;
        let bytes = u64::try_from(long(&mut input)?).ok()?;
        let to = input.stream_position().ok()?.checked_add(bytes)?.checked_add(SYNC_BYTES)?;
        if to > size {
            return None;
        }
        input.seek_relative(i64::try_from(bytes + SYNC_BYTES).ok()?).ok()?;
        blocks.push(Block { rows, from, to });
        from = to;
    }
    (from == size).then_some(blocks)
}

/// The names and values of the header.
fn skip_metadata(input: &mut BufReader<impl Read + Seek>) -> Option<()> {
    loop {
        let count = long(input)?;
        if count == 0 {
            return Some(());
        }
        if count < 0 {
            let bytes = long(input)?;
            input.seek_relative(bytes).ok()?;
            continue;
        }
        for _ in 0..count.checked_mul(2)? {
            let bytes = long(input).filter(|bytes| *bytes >= 0)?;
            input.seek_relative(bytes).ok()?;
        }
    }
}

/// A number of variable length, in zigzag order.
fn long(input: &mut impl Read) -> Option<i64> {
    let (mut number, mut shift) = (0u64, 0);
    loop {
        let mut byte = [0];
        input.read_exact(&mut byte).ok()?;
        number |= u64::from(byte[0] & 0x7f).checked_shl(shift)?;
        if byte[0] & 0x80 == 0 {
            return Some((number >> 1) as i64 ^ -((number & 1) as i64));
        }
        shift += 7;
    }
}

/// Reads the blocks `from..to`.
pub(super) fn read(mut input: impl Read + Seek, from: usize, to: usize) -> Result<Vec<RecordBatch>> {
    let failed = |e: std::io::Error| Error::query(format!("cannot read it: {e}"));
    let blocks = blocks(&mut input).unwrap_or_default();
    let (Some(zero), Some(first), Some(last)) = (blocks.first(), blocks.get(from), blocks.get(to.wrapping_sub(1)))
    else {
        return if from == to { Ok(Vec::new()) } else { Err(Error::query("the file is shorter than it was")) };
    };
    input.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut bytes = Vec::new();
    input.by_ref().take(zero.from).read_to_end(&mut bytes).map_err(failed)?;
    input.seek(SeekFrom::Start(first.from)).map_err(failed)?;
    let wanted = input.take(last.to - first.from);
    let text = BufReader::new(bytes.as_slice().chain(wanted));
    let reader = ReaderBuilder::new().with_batch_size(BATCH_ROWS).build(text)?;
    Ok(reader.collect::<Result<Vec<_>, _>>()?)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use arrow_avro::writer::AvroWriter;

    use super::*;

    fn file() -> Vec<u8> {
        let schema = Schema::new(vec![Field::new("a", DataType::Int64, false)]);
        let mut writer = AvroWriter::new(Vec::new(), schema.clone()).expect("a writer");
        for block in 0..3i64 {
            let values = Arc::new(Int64Array::from_iter_values(block * 100..block * 100 + 100));
            let batch = RecordBatch::try_new(Arc::new(schema.clone()), vec![values]).expect("a batch");
            writer.write(&batch).expect("writes");
        }
        writer.finish().expect("ends");
        writer.into_inner()
    }

    #[test]
    fn blocks_are_read_alone_and_half_a_file_has_none() {
        let file = file();
        let found = blocks(Cursor::new(&file)).expect("whole");
        assert_eq!(found.iter().map(|block| block.rows).collect::<Vec<_>>(), [100, 100, 100]);
        let read = read(Cursor::new(&file), 1, 3).expect("reads");
        let values: Vec<i64> =
            read.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        assert_eq!(values, (100..300).collect::<Vec<_>>());
        for length in 0..file.len() {
            let cut = blocks(Cursor::new(&file[..length]));
            assert!(cut.is_none_or(|cut| cut.len() < 3), "{length}");
        }
    }
}
