//! Compression of what the command line writes to a file.
//!
//! Enters: bytes for a file whose name ends in `.gz` or `.zst`. Leaves: these bytes, compressed. Always holds:
//! [`Write::flush`] comes once, at the end of a result, and ends what one result makes; the next result in the
//! same file starts anew, which readers of both formats take as one text.

use std::io::{self, Write};

use flate2::write::GzEncoder;

use crate::error::{Error, Result};

type Out = Box<dyn Write + Send>;

/// A compression that a file's ending tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// `.gz`
    Gzip,
    /// `.zst`
    Zstd,
}

impl Packing {
    /// The path without the ending of a compression, and that compression.
    pub fn split(path: &str) -> (&str, Option<Self>) {
        let Some((stem, ending)) = path.rsplit_once('.') else { return (path, None) };
        match ending.to_ascii_lowercase().as_str() {
            "gz" => (stem, Some(Packing::Gzip)),
            "zst" => (stem, Some(Packing::Zstd)),
            _ => (path, None),
        }
    }

    /// The compression of an output file; an error for one that is known and not done here.
    pub fn of_path(path: &str) -> Result<Option<Self>> {
        let ending = path.rsplit_once('.').map_or("", |(_, ending)| ending);
        if ["bz2", "xz"].iter().any(|known| ending.eq_ignore_ascii_case(known)) {
            return Err(Error::usage(format!("-o does not compress to .{ending}"))
                .hint(format!("end the name in .gz or .zst, or use COPY (SELECT …) TO '{path}'")));
        }
        Ok(Self::split(path).1)
    }

    /// A writer that compresses.
    pub fn writer(self, out: Out) -> Result<Out> {
        Ok(Box::new(match self {
            Packing::Gzip => Packed::Gzip(GzEncoder::new(out, flate2::Compression::default())),
            Packing::Zstd => Packed::Zstd(zstd::Encoder::new(out, zstd::DEFAULT_COMPRESSION_LEVEL)?),
        }))
    }
}

enum Packed {
    Gzip(GzEncoder<Out>),
    Zstd(zstd::Encoder<'static, Out>),
    Ended,
}

impl Write for Packed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Packed::Gzip(encoder) => encoder.write(bytes),
            Packed::Zstd(encoder) => encoder.write(bytes),
            Packed::Ended => Err(io::Error::other("a compressed result goes on behind its end")),
        }
    }

    /// Ends the compressed text. (Were it left to the drop, a full disk would go unnoticed.)
    fn flush(&mut self) -> io::Result<()> {
        match std::mem::replace(self, Packed::Ended) {
            Packed::Gzip(encoder) => encoder.finish()?.flush(),
            Packed::Zstd(encoder) => encoder.finish()?.flush(),
            Packed::Ended => Ok(()),
        }
    }
}
