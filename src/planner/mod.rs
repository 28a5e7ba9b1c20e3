//! Statements → plans.
//!
//! Enters: a parsed statement. Leaves: what it means to write, and the statement as DataFusion plans it.
//! Always holds: nothing is written or run here.

mod logical;
mod physical;

pub use logical::{Target, prepare};
pub use physical::SpillLargeTops;
