//! Statements → plans.
//!
//! Enters: a parsed statement. Leaves: what it means to write, and the statement as DataFusion plans it.
//! Always holds: nothing is written or run here.

mod chart;
mod differentiate;
mod incremental;
mod logical;
mod physical;
pub mod placeholder;

pub use chart::{ChartCopy, chart_copy};
pub use differentiate::{differentiate, is_continuous};
pub use incremental::{IncrementalPlan, Node, NodeId, Op, Output, SourceNode, Step, Strategy};
pub use logical::{Target, prepare};
pub use physical::SpillLargeTops;
