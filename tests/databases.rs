//! Databases: tables at rest, sinks that hold each epoch once, and what changes in one as a stream.
//!
//! Enters: the program, SQLite through Python, a server of Postgres. Leaves: nothing. Always holds: what a
//! database holds is the batch answer, also behind kills at any instant.

mod changes;
mod postgres;
mod server;
mod sqlite;
