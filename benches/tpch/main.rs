//! Generates the data of the TPC-H benchmark; `run.py` beside this file is what measures.
//!
//! Enters: `--generate SF DIR`, a scale factor and a folder. `FUSE_BIN` names the fuse binary that
//! writes the Parquet files; without it, it is the one that cargo built for this benchmark.
//! Leaves: the eight tables in the folder as Parquet files, and a file `complete`.
//! Always holds: `complete` is written last, so a folder that has it has all eight tables.

mod data;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "usage: cargo bench --bench tpch -- --generate SF DIR";

fn main() -> ExitCode {
    // Cargo adds `--bench` to the arguments of every benchmark.
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        // With nothing to do, as under `cargo bench` for all benchmarks: no failure.
        [] => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        ["--generate", scale, dir] => match scale.parse::<f64>() {
            Ok(scale) if scale > 0.0 => report(generate(scale, Path::new(dir))),
            _ => report(Err(io::Error::other(format!("not a scale factor: {scale}")))),
        },
        _ => report(Err(io::Error::other(USAGE))),
    }
}

fn report(outcome: io::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Generates one table after the other, so that only one `.tbl` file takes room at a time.
fn generate(scale: f64, dir: &Path) -> io::Result<()> {
    let fuse = std::env::var_os("FUSE_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_fuse")), PathBuf::from);
    let complete = dir.join("complete");
    fs::create_dir_all(dir)?;
    if complete.exists() {
        fs::remove_file(&complete)?;
    }
    for (table, columns) in data::TABLES {
        let tbl = dir.join(format!("{table}.tbl"));
        let parquet = dir.join(format!("{table}.parquet"));
        println!("{}", parquet.display());
        data::write_tbl(table, scale, &tbl)?;
        data::to_parquet(&fuse, (table, columns), &tbl, &parquet)?;
        fs::remove_file(&tbl)?;
    }
    fs::write(complete, format!("TPC-H scale factor {scale}\n"))
}
