//! fuse: one SQL engine for data at rest and data in motion.
//!
//! Enters: SQL, and the files that it names. Leaves: rows on standard output, or files. Always holds: the
//! modules below are in the order in which a statement passes them, and each uses earlier ones only (the
//! floors of ARCHITECTURE.md).
//!
//! The life of a statement:
//! 1. [`cli`] reads a file and hands its text to [`parser::parse`], which gives statements;
//! 2. [`session::Session::execute`] has [`planner::prepare`] rewrite the statement for DataFusion, which
//!    plans it; names of files become tables through [`catalog`] and [`source`];
//! 3. DataFusion runs the plan on all cores; a query's batches go to a [`format::Encoder`];
//! 4. what a COPY or INSERT writes is staged by [`durable`] and shown as a whole at its commit.

// What several connectors share is not used where one of them is left out.
#![cfg_attr(
    not(all(feature = "delta", feature = "kafka", feature = "postgres", feature = "sqlite")),
    allow(dead_code, unused_imports)
)]

pub mod change;
pub mod chart;
pub mod clock;
pub mod config;
pub mod durable;
pub mod error;
pub mod kafka;
pub mod offset;

pub mod format;
pub mod function;
pub mod parser;
pub mod times;

pub mod checkpoint;
pub mod database;
pub mod folder;
#[cfg(feature = "kafka")]
pub mod message;

pub mod sink;
pub mod source;

pub mod catalog;
pub mod planner;

pub mod operator;
pub mod runtime;

pub mod session;

pub mod cli;

/// Here and not in the program, so that tests and benches have the same one: see DESIGN.md for what it gains.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
