//! The rows that the queries read, epoch by epoch.
//!
//! Enters: a query's name, and which rows an epoch takes. Leaves: the rows of each source, in the columns that the
//! pipeline reads. Always holds: an order comes in the epoch of its first line, or before.

use std::path::Path;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use fuse::offset::OffsetRange;
use fuse::runtime::Pipeline;
use fuse::session::{Outcome, Session};

use super::{Result, data, one_thread};

/// Rows of lineitem at scale factor 1, about.
const LINES: f64 = 6_000_000.0;
const GROWING: [&str; 2] = ["orders", "lineitem"];

/// Writes the tables of TPC-H with at least so many orders and lines, if they are not there.
pub(super) async fn generate(place: &Path, rows: usize) -> Result<()> {
    if place.join("region.parquet").exists() {
        return Ok(());
    }
    // q13 reads orders alone: a fourth of the lines.
    let scale = rows as f64 / LINES * 1.02;
    for (table, columns) in data::TABLES {
        let scale = if table == "orders" { scale * 4.0 } else { scale };
        let tbl = place.join(format!("{table}.tbl"));
        data::write_tbl(table, scale, &tbl)?;
        let sql = format!(
            "CREATE EXTERNAL TABLE {table} ({columns}) STORED AS CSV LOCATION {} \
             OPTIONS ('format.delimiter' '|', 'format.has_header' 'false'); COPY {table} TO {}",
            data::literal(&tbl),
            data::literal(&place.join(format!("{table}.parquet")))
        );
        one_thread()?.execute_text(&sql).await?;
        std::fs::remove_file(&tbl)?;
    }
    Ok(())
}

/// A query with its input.
pub(super) struct Feed {
    pub(super) sql: String,
    /// Creates the tables that rest.
    pub(super) resting: String,
    /// By source: all its rows, and the place of the order's key; nothing for those of Nexmark.
    rows: Vec<(String, RecordBatch, usize)>,
}

impl Feed {
    /// Creates the tables that a query reads.
    pub(super) async fn declare(name: &str, session: &Session, place: &Path) -> Result<Self> {
        let (of, query) = name.split_once('-').ok_or("a name without a benchmark")?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql").join(of);
        let text = std::fs::read_to_string(root.join(format!("{query}.sql")))?;
        let mut resting = String::new();
        let text: String =
            text.lines().filter(|line| !line.trim_start().starts_with("--")).flat_map(|l| [l, "\n"]).collect();
        let (creates, query) = text.trim().trim_end_matches(';').rsplit_once(';').unwrap_or(("", &text));
        if of == "nexmark" {
            session.execute_text(creates).await?;
        } else {
            for (table, _) in data::TABLES {
                let parquet = data::literal(&place.join(format!("{table}.parquet")));
                if GROWING.contains(&table) {
                    let folder = place.join(table);
                    std::fs::create_dir_all(&folder)?;
                    let columns = place.join(table).join("columns.parquet");
                    let copy = format!("COPY (SELECT * FROM {parquet} LIMIT 0) TO {}", data::literal(&columns));
                    if !columns.exists() {
                        session.execute_text(&copy).await?;
                    }
                    let location = data::literal(&folder.join(""));
                    session
                        .execute_text(&format!("CREATE STREAM {table} STORED AS PARQUET LOCATION {location}"))
                        .await?;
                } else {
                    resting.push_str(&format!("CREATE EXTERNAL TABLE {table} STORED AS PARQUET LOCATION {parquet};"));
                }
            }
            session.execute_text(&resting).await?;
        }
        let sql = query.to_owned();
        Ok(Self { sql, resting, rows: Vec::new() })
    }

    /// Reads what the pipeline reads of tables that grow.
    pub(super) async fn open(&mut self, pipeline: &Pipeline, place: &Path) -> Result<()> {
        for source in pipeline.plan.sources.iter().filter(|source| GROWING.contains(&source.name.as_str())) {
            let all = source.table.schema();
            let names: Vec<String> = source.columns.iter().map(|column| all.field(*column).name().clone()).collect();
            let key = format!("{}_orderkey", &source.name[..1]);
            let columns = names.join(", ");
            let parquet = data::literal(&place.join(format!("{}.parquet", source.name)));
            let sql = format!("SELECT {columns}, {key} AS __key FROM {parquet}");
            let Outcome::Rows(rows) = one_thread()?.execute_text(&sql).await? else { return Err("no rows".into()) };
            let schema = rows.schema();
            let rows = concat_batches(&schema, &rows.collect().await?)?;
            let key = rows.num_columns() - 1;
            self.rows.push((source.name.clone(), rows, key));
        }
        Ok(())
    }

    /// The rows of each source in an epoch that takes these rows.
    pub(super) async fn rows(&self, from: usize, to: usize, pipeline: &Pipeline) -> Result<Vec<Vec<RecordBatch>>> {
        if self.rows.is_empty() {
            let range = OffsetRange::Rows { from: from as u64, to: to as u64 };
            let mut all = Vec::new();
            for source in &pipeline.sources {
                all.push(source.read(&range).await?.batches);
            }
            return Ok(all);
        }
        let (_, lines, key) = self.rows.iter().find(|(name, ..)| name == "lineitem").unwrap_or(&self.rows[0]);
        let driver = lines.column(*key).as_primitive::<Int64Type>().values();
        let end = |at: usize| at.checked_sub(1).map_or(i64::MIN, |last| driver[last]);
        let (after, up_to) = (end(from), end(to));
        let mut all = Vec::new();
        for (name, rows, key) in &self.rows {
            let (from, to) = if std::ptr::eq(rows, lines) {
                (from, to)
            } else {
                let keys = rows.column(*key).as_primitive::<Int64Type>().values();
                (keys.partition_point(|key| *key <= after), keys.partition_point(|key| *key <= up_to))
            };
            if to > rows.num_rows() {
                return Err(format!("{name} has only {} rows", rows.num_rows()).into());
            }
            let columns: Vec<usize> = (0..rows.num_columns() - 1).collect();
            all.push(cut(&rows.slice(from, to - from).project(&columns)?));
        }
        Ok(all)
    }
}

/// In batches as readers give them.
fn cut(rows: &RecordBatch) -> Vec<RecordBatch> {
    let count = rows.num_rows();
    (0..count).step_by(8192).map(|at| rows.slice(at, 8192.min(count - at))).collect()
}
