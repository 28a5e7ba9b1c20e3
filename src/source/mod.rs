//! Where rows come from.
//!
//! Enters: a path, URL or glob that a statement names. Leaves: a table over the files behind it.
//! Always holds: what is not there, or cannot be read, is an error that names the file.

mod arrow_scan;
mod call;
mod created;
mod csv_format;
mod csv_scan;
mod database;
mod diagnose;
mod file_format;
mod find_value;
mod infer;
mod infer_csv;
mod infer_json;
mod json_scan;
#[cfg(feature = "delta")]
mod lake;
mod location;
mod look;
mod parquet_guard;
mod rejects;
mod scan;
mod sniff;
mod stores;
pub mod stream;
mod table;
mod topic;

pub use call::table_for_call;
pub use created::FileTableFactory;
pub use database::DatabaseTable;
pub use diagnose::{explain_panic, explain_scan_error};
#[cfg(feature = "delta")]
pub use lake::{delta_table, lake_at};
pub use location::{DATA_ENDINGS, FileKind, Location};
pub use rejects::Rejects;
pub use stores::Stores;
pub use table::{register_formats, table_for_path};
pub use topic::TopicTable;
