//! Statements → plans.
//!
//! Enters: a parsed statement. Leaves: what it means to write, and its logical plan.
//! Always holds: nothing is written here; what has to be run to make a plan (the values that PIVOT turns
//! into columns) is run by whoever asks for the plan.

mod asof;
mod chart;
mod checked;
mod conjunction;
mod decimals;
mod differentiate;
mod emit;
mod event_time;
mod filters;
mod floats;
mod grouping;
mod incremental;
mod inlined;
mod joins;
mod like;
mod logical;
mod maintained;
mod misplaced;
mod nan;
mod operators;
mod ordered;
mod physical;
pub mod placeholder;
mod random;
mod repair;
mod rewrite;
mod sessions;
mod statement;
mod temporal;
mod texts;
mod time_windows;
mod upkeep;
mod windows;

pub use asof::AsOfJoin;
pub use chart::{ChartCopy, chart_copy};
pub use checked::logical_rules;
pub use differentiate::{differentiate, is_continuous, maintained_views};
pub use emit::{EmitFinal, emits_final, place_final};
pub use event_time::{Bound, Eviction, Term, WATERMARK};
pub use incremental::{IncrementalPlan, Node, NodeId, Op, Output, SourceNode, Step, Strategy};
pub use joins::FriendlyJoins;
pub use logical::{Target, prepare};
pub use maintained::{Maintained, map_views};
pub use operators::TypedOperators;
pub use physical::physical_rules;
pub use random::{Chance, with_calls_beneath};
pub use rewrite::{Definition, Macros, definition};
pub use sessions::{Sessions, analyzer_rules};
pub use statement::{Run, plan, query_of_value, value_of};
pub use temporal::{TimeBound, depends_on_time};
pub use time_windows::TimeWindows;
pub use upkeep::{Called, Pair, Sum, Upkeep};
pub use windows::{Rank, RankLimit, Reach, SoFar, SoFarKind, ordered_by};
