//! What is ours about CSV files.
//!
//! Enters: the options of a table, as users write them. Leaves: DataFusion's options and a dialect. Always holds:
//! what a user has set is not looked for in the file.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::common::config::CsvOptions;
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::datasource::file_format::csv::CsvFormat;

use crate::error::{Error, Result, near_name};
use crate::format::csv::{Dialect, OPTIONS, canonical_option};

/// Options that describe records and that DataFusion knows too.
const SHARED: [&str; 5] = ["delimiter", "has_header", "quote", "escape", "comment"];
/// Options of DataFusion's that have another name here, too.
const THEIRS: [&str; 5] = ["null_value", "date_format", "timestamp_format", "truncated_rows", "schema_infer_max_rec"];

/// A CSV format: DataFusion's options, which writers use, and how files are read.
#[derive(Debug, Clone)]
pub(super) struct CsvText {
    pub(super) options: CsvOptions,
    pub(super) dialect: Dialect,
    /// The options that the user has set, by their names in [`canonical_option`].
    pub(super) given: Arc<HashSet<String>>,
}

impl CsvText {
    pub(super) fn new(options: CsvOptions, ours: &HashMap<String, String>, has_header: bool) -> Result<Self> {
        let mut given: HashSet<String> = ours.keys().cloned().collect();
        let mut dialect = Dialect::from_options(ours)?;
        if !has_header && !given.contains("has_header") {
            given.insert("has_header".to_owned());
            dialect.header = false;
        }
        Ok(Self { options, dialect, given: Arc::new(given) })
    }

    /// The same with what was found in the files.
    pub(super) fn with_dialect(&self, dialect: Dialect) -> (CsvFormat, Self) {
        let mut options = self.options.clone();
        options.delimiter = dialect.delimiter;
        options.has_header = Some(dialect.header);
        options.quote = dialect.quote.unwrap_or(options.quote);
        options.escape = dialect.escape;
        options.comment = dialect.comment;
        let format = CsvFormat::default().with_options(options.clone());
        (format, Self { options, dialect, given: Arc::clone(&self.given) })
    }

    /// True if files are to be cut at line ends and read by several threads, as DataFusion does it.
    pub(super) fn is_cut(&self) -> bool {
        let plain = Dialect { delimiter: self.dialect.delimiter, ..Dialect::default() };
        self.options.newlines_in_values == Some(false)
            && Dialect { header: true, escape: None, comment: None, quote: plain.quote, ..self.dialect.clone() }
                == plain
    }
}

/// Parts the options into those that describe records, by their one name, and those for DataFusion.
pub(super) fn split_options(options: &HashMap<String, String>) -> (HashMap<String, String>, HashMap<String, String>) {
    let (mut ours, mut theirs) = (HashMap::new(), HashMap::new());
    for (key, value) in options {
        let name = key.strip_prefix("format.").unwrap_or(key).to_ascii_lowercase();
        let canonical = canonical_option(&name);
        let shared = SHARED.contains(&canonical);
        if shared || OPTIONS.contains(&canonical) {
            ours.insert(canonical.to_owned(), value.clone());
        }
        let value = if value == "\\t" { "\t" } else { value.as_str() };
        if THEIRS.contains(&name.as_str()) {
            theirs.insert(key.clone(), value.to_owned());
        } else if shared {
            if !value.is_empty() {
                theirs.insert(format!("format.{canonical}"), value.to_owned());
            }
        } else if !OPTIONS.contains(&canonical) {
            theirs.insert(key.clone(), value.to_owned());
        }
    }
    (ours, theirs)
}

/// An option that no CSV format has.
pub(super) fn explain_option(error: DataFusionError) -> DataFusionError {
    let message = error.strip_backtrace();
    let Some((_, rest)) = message.split_once("Config value \"") else { return error };
    let Some((name, _)) = rest.split_once("\" not found") else { return error };
    let known = OPTIONS.iter().chain(&SHARED).chain(&["compression", "newlines_in_values"]);
    let unknown = Error::sql(format!("CSV files have no option named {name}")).mark(format!("'{name}'|{name}"));
    DataFusionError::from(match near_name(name, known.copied()) {
        Some(near) => unknown.hint(format!("did you mean {near}?")),
        None => unknown.hint(format!("options are {}, {}, compression", SHARED.join(", "), OPTIONS.join(", "))),
    })
}

/// Checks that an option is one byte and the like before DataFusion does.
pub(super) fn checked(ours: &HashMap<String, String>) -> DfResult<()> {
    Dialect::from_options(ours).map(drop).map_err(DataFusionError::from)
}
