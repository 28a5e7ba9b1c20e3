//! CSV text → batches.
//!
//! Enters: bytes of a file or a stream, a [`Dialect`] that says how its records are written, and a schema.
//! Leaves: batches. Always holds: a row is read as it is written, or repaired in the one way in which it fits
//! the other rows and told, or left out and told, or it is an error that names its line.
//!
//! Clean text goes through arrow's decoder. A batch on which that fails, or whose quotes are not sound, is read
//! again record by record.

mod convert;
mod decode;
mod dialect;
mod edges;
mod encoding;
mod records;
mod repair;

pub use convert::{DATE_FORMATS, TIME_ENDINGS, plain_number};
pub use decode::{CsvDecoder, Fate, Told};
pub use dialect::{Dialect, OPTIONS, canonical_option};
pub use edges::{Edge, Edges};
pub use encoding::{Encoding, Transcoder};
pub use records::{Records, Step, lines};
