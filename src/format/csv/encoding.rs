//! Bytes → UTF-8.
//!
//! Enters: bytes in UTF-8, UTF-16 or Latin-1. Leaves: UTF-8. Always holds: a character that is cut off at
//! the end of one piece is joined with the next.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// How characters are written as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// UTF-8, with or without a mark at its start.
    #[default]
    Utf8,
    /// UTF-16, low byte first.
    Utf16Le,
    /// UTF-16, high byte first.
    Utf16Be,
    /// ISO 8859-1.
    Latin1,
}

impl Encoding {
    /// The encoding that the first bytes of a text tell by a mark or by the zeros of UTF-16.
    pub fn of_start(bytes: &[u8]) -> Self {
        let zeros = |at: usize| bytes.iter().take(64).skip(at).step_by(2).all(|byte| *byte == 0);
        match bytes {
            [0xff, 0xfe, ..] => Self::Utf16Le,
            [0xfe, 0xff, ..] => Self::Utf16Be,
            [first, 0, ..] if *first != 0 && bytes.len() >= 8 && zeros(1) => Self::Utf16Le,
            [0, second, ..] if *second != 0 && bytes.len() >= 8 && zeros(0) => Self::Utf16Be,
            _ => Self::Utf8,
        }
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Utf8 => "utf-8",
            Self::Utf16Le => "utf-16le",
            Self::Utf16Be => "utf-16be",
            Self::Latin1 => "latin-1",
        })
    }
}

impl FromStr for Encoding {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().replace(['-', '_'], "").as_str() {
            "utf8" => Ok(Self::Utf8),
            "utf16" | "utf16le" => Ok(Self::Utf16Le),
            "utf16be" => Ok(Self::Utf16Be),
            "latin1" | "iso88591" => Ok(Self::Latin1),
            _ => Err(Error::sql(format!("no encoding named '{name}'"))
                .hint("encodings are utf-8, utf-16le, utf-16be and latin-1; iconv converts from others")),
        }
    }
}

/// Turns pieces of a text into UTF-8.
#[derive(Debug)]
pub struct Transcoder {
    encoding: Encoding,
    carry: Vec<u8>,
}

impl Transcoder {
    /// A transcoder at the start of a text.
    pub fn new(encoding: Encoding) -> Self {
        Self { encoding, carry: Vec::new() }
    }

    /// Adds the next piece to `text`. What is no character becomes U+FFFD, but for UTF-8, which passes as it is.
    pub fn push(&mut self, bytes: &[u8], text: &mut Vec<u8>) {
        let unit: fn([u8; 2]) -> u16 = match self.encoding {
            Encoding::Utf8 => return text.extend_from_slice(bytes),
            Encoding::Latin1 => {
                let mut buffer = [0; 4];
                for byte in bytes {
                    text.extend_from_slice(char::from(*byte).encode_utf8(&mut buffer).as_bytes());
                }
                return;
            }
            Encoding::Utf16Le => u16::from_le_bytes,
            Encoding::Utf16Be => u16::from_be_bytes,
        };
        self.carry.extend_from_slice(bytes);
        let mut units: Vec<u16> = self.carry.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
        // The first half of a pair waits for the second.
        if units.last().is_some_and(|last| (0xd800..0xdc00).contains(last)) {
            units.pop();
        }
        self.carry.drain(..units.len() * 2);
        let mut buffer = [0; 4];
        for read in char::decode_utf16(units) {
            let read = read.unwrap_or(char::REPLACEMENT_CHARACTER);
            text.extend_from_slice(read.encode_utf8(&mut buffer).as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_utf16_join() {
        let text = "\u{feff}a,Zürich,𝄞\n";
        let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(Encoding::of_start(&bytes), Encoding::Utf16Le);
        for size in 1..bytes.len() {
            let mut transcoder = Transcoder::new(Encoding::Utf16Le);
            let mut read = Vec::new();
            bytes.chunks(size).for_each(|piece| transcoder.push(piece, &mut read));
            assert_eq!(String::from_utf8(read).as_deref(), Ok(text));
        }
    }
}
