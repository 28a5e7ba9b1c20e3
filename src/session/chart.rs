//! COPY to a chart.
//!
//! Enters: a [`ChartCopy`]. Leaves: an SVG file. Always holds: the file shows as a whole, or not at all.

use std::io::Write;

use super::{Outcome, Rows, Session};
use crate::chart::Chart;
use crate::durable::OutputFile;
use crate::error::{Error, Result};
use crate::format::refuse_many_rows;
use crate::planner::ChartCopy;

impl Session {
    /// Runs the query and draws its rows.
    pub(super) async fn copy_chart(&self, chart: ChartCopy) -> Result<Outcome> {
        let plan = self.plan(chart.query, true).await?;
        let (state, plan) = self.resolve(plan).await?;
        let mut rows = Rows::start(state, plan, &self.current).await?;
        let (mut batches, mut count) = (Vec::new(), 0);
        while let Some(batch) = rows.next().await? {
            count += batch.num_rows();
            refuse_many_rows(count)?;
            batches.push(batch);
        }
        let document = Chart::new(&rows.schema(), &batches, chart.kind)?.svg(chart.title.as_deref())?;
        let file = OutputFile::create(&chart.path)?;
        let written = file.handle()?.write_all(document.as_bytes());
        written.map_err(|error| Error::io(chart.path.display(), &error))?;
        file.commit().await?;
        Ok(Outcome::Written { rows: count as u64, target: chart.target })
    }
}
