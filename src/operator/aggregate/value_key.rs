//! A group and a value of it, as one key.
//!
//! Enters: a group's number, and a value as bytes that compare as it does. Leaves: keys in the order of both. Always
//! holds: of one type all keys are of the same kind, so that two of them are equal where group and value are.

use std::borrow::Borrow;
use std::hash::Hash;

/// Bytes of a value that fit into a number beside the group.
pub(super) const PACKED_BYTES: usize = 12;

/// What stands for a group and a value.
pub(super) trait ValueKey: Clone + Ord + Hash + Send + Borrow<Self::Slice> + 'static {
    /// What it is looked up by.
    type Slice: Ord + Hash + ?Sized;
    /// Where that is made.
    type Scratch: Default;

    /// The key that belongs to a value.
    fn place<'a>(group: u32, value: &[u8], scratch: &'a mut Self::Scratch) -> &'a Self::Slice;

    /// A key of its own.
    fn own(slice: &Self::Slice) -> Self;

    /// The least key of a group.
    fn first_of(group: u32) -> Self;

    fn group_of(slice: &Self::Slice) -> u32;

    fn group(&self) -> u32 {
        Self::group_of(self.borrow())
    }

    /// Appends the bytes of the value, which are `width` where all are as long.
    fn write(&self, width: usize, bytes: &mut Vec<u8>);

    /// Bytes beside those of the key itself.
    fn bytes(&self) -> usize;
}

/// Values of fixed width: the group in the first 32 bits, then the value.
impl ValueKey for u128 {
    type Slice = Self;
    type Scratch = Self;

    fn place<'a>(group: u32, value: &[u8], scratch: &'a mut Self) -> &'a Self {
        let mut bytes = [0; 4 + PACKED_BYTES];
        bytes[..4].copy_from_slice(&group.to_be_bytes());
        bytes[4..4 + value.len()].copy_from_slice(value);
        *scratch = Self::from_be_bytes(bytes);
        scratch
    }

    fn own(slice: &Self) -> Self {
        *slice
    }

    fn first_of(group: u32) -> Self {
        Self::from(group) << (8 * PACKED_BYTES)
    }

    fn group_of(slice: &Self) -> u32 {
        (slice >> (8 * PACKED_BYTES)) as u32
    }

    fn write(&self, width: usize, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.to_be_bytes()[4..4 + width]);
    }

    fn bytes(&self) -> usize {
        0
    }
}

/// All others: the bytes of both.
impl ValueKey for Box<[u8]> {
    type Slice = [u8];
    type Scratch = Vec<u8>;

    fn place<'a>(group: u32, value: &[u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
        scratch.clear();
        scratch.extend_from_slice(&group.to_be_bytes());
        scratch.extend_from_slice(value);
        scratch
    }

    fn own(slice: &[u8]) -> Self {
        slice.into()
    }

    fn first_of(group: u32) -> Self {
        group.to_be_bytes().into()
    }

    fn group_of(slice: &[u8]) -> u32 {
        slice.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }

    fn write(&self, _width: usize, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self[4..]);
    }

    fn bytes(&self) -> usize {
        self.len()
    }
}
