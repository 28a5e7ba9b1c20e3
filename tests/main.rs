//! The one integration binary: DataFusion is linked once.
//!
//! Enters: the library and the built program. Leaves: nothing. Always holds: a test writes below
//! temporary folders only, and each file says what it holds true.

// A test that cannot go on panics.
#![allow(clippy::expect_used, clippy::unwrap_used)]

mod backfill;
mod bad_input;
mod bank;
mod bombs;
mod chance;
mod changes;
mod charts;
mod clauses;
mod command_line;
mod connectors;
mod csv_reading;
mod databases;
mod dependencies;
mod durability;
mod epochs;
mod equivalence;
mod event_time;
mod json;
mod kafka;
mod kill;
mod law;
mod long_run;
mod memory;
mod mutations;
mod nan;
mod network;
mod nexmark;
mod object_store;
mod overflow;
mod repl;
mod round_trip;
mod shards;
mod shared;
mod simulation;
mod slt;
mod slt_epochs;
mod streams;
mod support;
mod tidy;
mod tour;
mod tpch;
mod tpch_epochs;
mod upgrade;
mod verify;
mod web;
mod writing;
mod wrong_sql;
