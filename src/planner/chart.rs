//! COPY to a chart.
//!
//! Enters: `COPY … TO 'x.svg'`. Leaves: the query, and what the chart is to be. Always holds: what a chart has no
//! use for is refused.

use std::path::PathBuf;

use datafusion::sql::parser::{CopyToSource, CopyToStatement, Statement as Body};
use datafusion::sql::sqlparser::ast::Statement as Sql;

use super::logical::take_option;
use crate::chart::Kind;
use crate::error::{Error, Result};
use crate::parser::{self, Reading, Script};
use crate::source::Location;

/// A chart to be written.
#[derive(Debug)]
pub struct ChartCopy {
    /// Gives the rows.
    pub query: Body,
    /// As the user wrote it.
    pub target: String,
    /// The file.
    pub path: PathBuf,
    /// The chart, if the columns are not to choose it.
    pub kind: Option<Kind>,
    /// What stands above it.
    pub title: Option<String>,
}

/// The chart that a statement writes; nothing for another statement.
pub fn chart_copy(body: &Body) -> Result<Option<ChartCopy>> {
    let Body::CopyTo(copy) = body else { return Ok(None) };
    let svg = |text: &str| text.eq_ignore_ascii_case("svg");
    let ending = copy.target.rsplit_once('.').is_some_and(|(_, ending)| svg(ending));
    if !copy.stored_as.as_deref().map_or(ending, svg) {
        return Ok(None);
    }
    let CopyToStatement { source, target, partitioned_by, options, .. } = copy;
    let mut options = options.clone();
    let kind = take_option(&mut options, "chart").map(|word| word.parse()).transpose()?;
    let title = take_option(&mut options, "title");
    if let Some((name, _)) = options.first() {
        return Err(Error::sql(format!("a chart has no option {name}")).hint("its options are 'chart' and 'title'"));
    }
    if !partitioned_by.is_empty() || target.ends_with('/') {
        return Err(Error::sql("a chart is one file").hint("end its name in .svg, without PARTITIONED BY"));
    }
    let path = Location::parse(target)?.local_path().ok_or_else(|| {
        Error::sql(format!("'{target}': a chart is written to a local file")).hint("copy it from there")
    })?;
    let query = match source {
        CopyToSource::Query(query) => Body::Statement(Box::new(Sql::Query(query.clone()))),
        CopyToSource::Relation(name) => {
            let script = Script { name: "COPY".to_owned(), text: format!("SELECT * FROM {name}") };
            let mut statements = parser::parse(&script, &Reading::default())?;
            statements.pop().ok_or_else(|| Error::sql("COPY needs a table or a query"))?.body
        }
    };
    Ok(Some(ChartCopy { query, target: target.clone(), path, kind, title }))
}
