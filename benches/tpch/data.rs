//! The eight TPC-H tables, for the benchmark and for the tests.
//!
//! Enters: a table's name, a scale factor, the file to write, and for Parquet the fuse binary.
//! Leaves: the table as a `.tbl` file, and that file as Parquet, written by fuse itself.
//! Always holds: the rows are those of the official generator, byte for byte, but for the `|` that
//! it puts after the last column; quantities and money are `DECIMAL(15,2)`, and nothing is null.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::Command;

use tpchgen::generators as rows;

/// Each table's name and its columns, as they stand in a `CREATE TABLE`.
pub(crate) const TABLES: [(&str, &str); 8] = [
    ("region", "r_regionkey BIGINT NOT NULL, r_name VARCHAR NOT NULL, r_comment VARCHAR NOT NULL"),
    (
        "nation",
        "n_nationkey BIGINT NOT NULL, n_name VARCHAR NOT NULL, n_regionkey BIGINT NOT NULL, \
         n_comment VARCHAR NOT NULL",
    ),
    (
        "supplier",
        "s_suppkey BIGINT NOT NULL, s_name VARCHAR NOT NULL, s_address VARCHAR NOT NULL, \
         s_nationkey BIGINT NOT NULL, s_phone VARCHAR NOT NULL, \
         s_acctbal DECIMAL(15,2) NOT NULL, s_comment VARCHAR NOT NULL",
    ),
    (
        "customer",
        "c_custkey BIGINT NOT NULL, c_name VARCHAR NOT NULL, c_address VARCHAR NOT NULL, \
         c_nationkey BIGINT NOT NULL, c_phone VARCHAR NOT NULL, \
         c_acctbal DECIMAL(15,2) NOT NULL, c_mktsegment VARCHAR NOT NULL, \
         c_comment VARCHAR NOT NULL",
    ),
    (
        "part",
        "p_partkey BIGINT NOT NULL, p_name VARCHAR NOT NULL, p_mfgr VARCHAR NOT NULL, \
         p_brand VARCHAR NOT NULL, p_type VARCHAR NOT NULL, p_size INTEGER NOT NULL, \
         p_container VARCHAR NOT NULL, p_retailprice DECIMAL(15,2) NOT NULL, \
         p_comment VARCHAR NOT NULL",
    ),
    (
        "partsupp",
        "ps_partkey BIGINT NOT NULL, ps_suppkey BIGINT NOT NULL, ps_availqty INTEGER NOT NULL, \
         ps_supplycost DECIMAL(15,2) NOT NULL, ps_comment VARCHAR NOT NULL",
    ),
    (
        "orders",
        "o_orderkey BIGINT NOT NULL, o_custkey BIGINT NOT NULL, o_orderstatus VARCHAR NOT NULL, \
         o_totalprice DECIMAL(15,2) NOT NULL, o_orderdate DATE NOT NULL, \
         o_orderpriority VARCHAR NOT NULL, o_clerk VARCHAR NOT NULL, \
         o_shippriority INTEGER NOT NULL, o_comment VARCHAR NOT NULL",
    ),
    (
        "lineitem",
        "l_orderkey BIGINT NOT NULL, l_partkey BIGINT NOT NULL, l_suppkey BIGINT NOT NULL, \
         l_linenumber INTEGER NOT NULL, l_quantity DECIMAL(15,2) NOT NULL, \
         l_extendedprice DECIMAL(15,2) NOT NULL, l_discount DECIMAL(15,2) NOT NULL, \
         l_tax DECIMAL(15,2) NOT NULL, l_returnflag VARCHAR NOT NULL, \
         l_linestatus VARCHAR NOT NULL, l_shipdate DATE NOT NULL, l_commitdate DATE NOT NULL, \
         l_receiptdate DATE NOT NULL, l_shipinstruct VARCHAR NOT NULL, \
         l_shipmode VARCHAR NOT NULL, l_comment VARCHAR NOT NULL",
    ),
];

/// Writes the rows of one table at a scale factor, `|` between the columns and none at the end.
pub(crate) fn write_tbl(table: &str, scale: f64, file: &Path) -> io::Result<()> {
    match table {
        "region" => write_rows(rows::RegionGenerator::new(scale, 1, 1).iter(), file),
        "nation" => write_rows(rows::NationGenerator::new(scale, 1, 1).iter(), file),
        "supplier" => write_rows(rows::SupplierGenerator::new(scale, 1, 1).iter(), file),
        "customer" => write_rows(rows::CustomerGenerator::new(scale, 1, 1).iter(), file),
        "part" => write_rows(rows::PartGenerator::new(scale, 1, 1).iter(), file),
        "partsupp" => write_rows(rows::PartSuppGenerator::new(scale, 1, 1).iter(), file),
        "orders" => write_rows(rows::OrderGenerator::new(scale, 1, 1).iter(), file),
        "lineitem" => write_rows(rows::LineItemGenerator::new(scale, 1, 1).iter(), file),
        other => Err(io::Error::other(format!("TPC-H has no table {other}"))),
    }
}

fn write_rows(rows: impl Iterator<Item = impl Display>, file: &Path) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(file)?);
    for row in rows {
        let line = row.to_string();
        writeln!(out, "{}", line.strip_suffix('|').unwrap_or(&line))?;
    }
    out.flush()
}

/// Has fuse read a `.tbl` file and write it as one Parquet file, in place of any that is there.
pub(crate) fn to_parquet(fuse: &Path, (table, columns): (&str, &str), tbl: &Path, parquet: &Path) -> io::Result<()> {
    if parquet.exists() {
        std::fs::remove_file(parquet)?;
    }
    let sql = format!(
        "CREATE EXTERNAL TABLE {table} ({columns}) STORED AS CSV LOCATION {} \
         OPTIONS ('format.delimiter' '|', 'format.has_header' 'false'); \
         COPY {table} TO {} STORED AS PARQUET;",
        literal(tbl),
        literal(parquet),
    );
    let run = Command::new(fuse).args(["query", "-c", &sql]).output()?;
    if run.status.success() && parquet.is_file() {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{} did not write {} ({}):\n{}",
        fuse.display(),
        parquet.display(),
        run.status,
        String::from_utf8_lossy(&run.stderr),
    )))
}

/// A path as a SQL string.
pub(crate) fn literal(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "''"))
}
