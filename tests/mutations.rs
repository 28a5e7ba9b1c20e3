//! What is read from the outside, changed at random: no panic, no abort, no hang.
//!
//! Enters: the statements of tests and pages, files of each format, a state; seeds. Leaves: nothing. Always holds: what a
//! changed input gives is rows or an error in words. FUSE_MUTATION_SECONDS sets how long, FUSE_MUTATION_FROM
//! the first seed; FUSE_MUTATION_SEED runs one input, which is the one that a failure names. The work is done in a process of its own, so that it may die.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fuse::config::Settings;
use fuse::error::Error;
use fuse::parser::{Reading, Script, parse};
use fuse::session::{Outcome, Session};

use crate::support::{Dice, Place};

/// Set in the process that does the work: the folder that it may write to.
const WORK: &str = "FUSE_MUTATION_FOLDER";
/// What takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// A session is exchanged behind so many inputs.
const INPUTS_OF_A_SESSION: u64 = 200;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.extension().is_some_and(|it| it == ending) {
            found.push(path);
        }
    }
}

/// All statements that there are, apart.
fn statements() -> Vec<String> {
    let mut paths = vec![root().join("tests/wrong/statements.txt")];
    files(&root().join("sql"), "sql", &mut paths);
    files(&root().join("tests/slt"), "slt", &mut paths);
    paths.sort();
    let mut all = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("a text");
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("txt") => all.extend(text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned)),
            Some("slt") => {
                for record in text.split("\n\n") {
                    let mut lines =
                        record.lines().skip_while(|line| !line.starts_with("query") && !line.starts_with("statement"));
                    if lines.next().is_some() {
                        all.push(lines.take_while(|line| *line != "----").collect::<Vec<_>>().join("\n"));
                    }
                }
            }
            _ => all.extend(text.split(";\n").map(str::to_owned)),
        }
    }
    all.retain(|statement| !statement.trim().is_empty());
    all
}

/// The pieces of a statement: words, numbers, and each other character.
fn pieces(text: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    let mut in_word = false;
    for c in text.chars() {
        let word = c.is_alphanumeric() || c == '_';
        match pieces.last_mut() {
            Some(last) if word && in_word => last.push(c),
            _ => pieces.push(c.to_string()),
        }
        in_word = word;
    }
    pieces
}

const ODD: [&str; 24] = [
    "(",
    ")",
    "'",
    "\"",
    "$",
    ";",
    "--",
    "/*",
    "NULL",
    "-1",
    "0",
    "9223372036854775808",
    "1e400",
    "''",
    "\u{0}",
    "é",
    "*",
    "[",
    "]",
    "{",
    "}",
    ".",
    "::INT",
    " UNION ALL ",
];

fn changed_text(dice: &Dice, all: &[String]) -> String {
    let pick = || &all[dice.below(all.len() as u64) as usize];
    let mut these = pieces(pick());
    let others = pieces(pick());
    for _ in 0..1 + dice.below(6) {
        if these.is_empty() {
            break;
        }
        let at = dice.below(these.len() as u64) as usize;
        let to = at + dice.below((these.len() - at) as u64 + 1) as usize;
        match dice.below(7) {
            0 => drop(these.drain(at..to.min(at + 5))),
            1 => these.insert(at, ODD[dice.below(ODD.len() as u64) as usize].to_owned()),
            2 => these[at] = ODD[dice.below(ODD.len() as u64) as usize].to_owned(),
            3 if !others.is_empty() => {
                let from = dice.below(others.len() as u64) as usize;
                let until = (from + 1 + dice.below(30) as usize).min(others.len());
                drop(these.splice(at..at, others[from..until].to_vec()));
            }
            4 => {
                let part = these[at..to.min(at + 20)].to_vec();
                (0..1 + dice.below(8)).for_each(|_| drop(these.splice(at..at, part.clone())));
            }
            5 => {
                let other = dice.below(these.len() as u64) as usize;
                these.swap(at, other);
            }
            _ => these.truncate(at + 1),
        }
    }
    these.concat()
}

fn changed_bytes(dice: &Dice, mut bytes: Vec<u8>, other: &[u8]) -> Vec<u8> {
    for _ in 0..1 + dice.below(5) {
        if bytes.is_empty() {
            break;
        }
        let at = dice.below(bytes.len() as u64) as usize;
        let some = (at + 1 + dice.below(16) as usize).min(bytes.len());
        match dice.below(7) {
            0 => bytes[at] ^= 1 << dice.below(8),
            1 => bytes[at] = dice.below(256) as u8,
            2 => drop(bytes.drain(at..some)),
            3 => {
                let part = bytes[at..some].to_vec();
                drop(bytes.splice(at..at, part));
            }
            4 => bytes[at..some].fill([0, 255, b'"', b'\n', b',', 0x7f][dice.below(6) as usize]),
            5 if !other.is_empty() => {
                let from = dice.below(other.len() as u64) as usize;
                let until = (from + 1 + dice.below(64) as usize).min(other.len());
                drop(bytes.splice(at..some, other[from..until].to_vec()));
            }
            _ => bytes.truncate(at + 1),
        }
    }
    bytes
}

/// Files of each format, some of them only to be changed into one another: the ending, and the bytes.
fn originals(place: &Place) -> Vec<(String, Vec<u8>)> {
    let rows = "SELECT value AS id, CAST(value AS DOUBLE) / 3 AS f, 'text ' || value AS s, value % 2 = 0 AS b,
        CAST('2026-01-01' AS DATE) + CAST(value AS INT) AS d, [value, NULL] AS l, {'x': value, 'y': 'z'} AS o,
        CAST(value AS DECIMAL(20, 3)) AS m, TIMESTAMP '2026-01-01 10:00:00' AS t FROM generate_series(1, 40)";
    let flat = "SELECT * EXCLUDE (l, o) FROM rows";
    let sql = format!(
        "CREATE VIEW rows AS {rows}; COPY (FROM rows) TO 'a.parquet'; COPY (FROM rows) TO 'a.arrow';
         COPY (FROM rows) TO 'a.ndjson'; COPY ({flat}) TO 'a.csv'; COPY ({flat}) TO 'a.tsv';
         COPY (FROM rows) TO 'b.parquet' STORED AS PARQUET OPTIONS ('compression' 'snappy', 'max_row_group_size' '10')"
    );
    let ran = place.run(&["query", "-q", "-c", &sql]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let mut all: Vec<(String, Vec<u8>)> = place
        .files()
        .into_iter()
        .filter_map(|name| {
            let ending = name.rsplit_once('.')?.1.to_owned();
            Some((ending, std::fs::read(place.path().join(&name)).ok()?))
        })
        .collect();
    let envelope = |id: u64| {
        format!(
            "{{\"before\":null,\"after\":{{\"id\":{id},\"s\":\"x\"}},\"op\":\"c\",\"ts_ms\":{id},\"source\":{{}}}}\n"
        )
    };
    all.push(("debezium".to_owned(), (0..9).map(envelope).collect::<String>().into_bytes()));
    all.push(("csv".to_owned(), b"a;b\n1;\"x\n\"\"y\"\n2,5;'z'\n".to_vec()));
    all.sort();
    all
}

/// Reads a file of a format to its end, at rest.
fn reading(path: &Path, ending: &str) -> String {
    let path = path.display();
    match ending {
        "debezium" => format!(
            "CREATE OR REPLACE EXTERNAL TABLE t (id BIGINT PRIMARY KEY, s VARCHAR) STORED AS DEBEZIUM LOCATION '{path}'; SELECT * FROM t"
        ),
        _ => format!("SELECT * FROM '{path}'"),
    }
}

/// A panic that no one took for what it is: damage that a library stumbles over has its own words.
fn expect_words(error: &Error) {
    if error.message.contains("stumbled") {
        eprintln!("{}", error.message);
        std::process::abort();
    }
}

async fn run(session: &Session, sql: &str) {
    let mut rows = match session.execute_text(sql).await {
        Ok(Outcome::Rows(rows)) => rows,
        Ok(_) => return,
        Err(error) => return expect_words(&error),
    };
    loop {
        match rows.next().await {
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(error) => return expect_words(&error),
        }
    }
}

async fn check(session: &Session, sql: &str) {
    let script = Script { name: "-c".to_owned(), text: sql.to_owned() };
    let Ok(statements) = parse(&script, &Reading::default()) else { return };
    for statement in statements {
        if let Err(error) = session.check(statement).await {
            return expect_words(&error);
        }
    }
}

fn session() -> Session {
    let mut settings = Settings::default();
    settings.threads = 2;
    settings.memory_limit = "1GB".to_owned();
    Session::new(settings).expect("a session")
}

/// The process that does the work.
fn work(folder: &Path, first: u64, end: Instant, only: bool) {
    std::panic::set_hook(Box::new(|_| {}));
    let runtime = crate::support::runtime();
    let (all, originals) = (statements(), originals(&Place::new()));
    let mut current = session();
    for seed in first.. {
        if Instant::now() > end && !only {
            break;
        }
        let dice = Dice::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        std::fs::write(folder.join("seed"), seed.to_string()).expect("writes");
        let of_text = dice.below(2) == 0;
        let sql = if of_text {
            changed_text(&dice, &all)
        } else {
            let pick = || &originals[dice.below(originals.len() as u64) as usize];
            let ((ending, bytes), (_, other)) = (pick(), pick());
            let name = if ending == "debezium" { "x.json".to_owned() } else { format!("x.{ending}") };
            let path = folder.join(name);
            std::fs::write(&path, changed_bytes(&dice, bytes.clone(), other)).expect("writes");
            reading(&path, ending)
        };
        std::fs::write(folder.join("sql"), &sql).expect("writes");
        let done = runtime.block_on(async {
            let work = async { if of_text { check(&current, &sql).await } else { run(&current, &sql).await } };
            tokio::time::timeout(PATIENCE, work).await
        });
        if done.is_err() {
            eprintln!("more than {PATIENCE:?}");
            std::process::abort();
        }
        if only {
            return;
        }
        if seed % INPUTS_OF_A_SESSION == 0 {
            current = session();
        }
    }
}

#[test]
fn changed_input_ends_with_rows_or_an_error() {
    let seconds = number("FUSE_MUTATION_SECONDS").unwrap_or(20);
    let only = number("FUSE_MUTATION_SEED");
    if let Some(folder) = std::env::var_os(WORK) {
        let first = only.or(number("FUSE_MUTATION_FROM")).unwrap_or(1);
        let end = Instant::now() + Duration::from_secs(seconds);
        // On the stack that the program gives statements.
        let thread = std::thread::Builder::new().stack_size(fuse::config::PLANNER_STACK_BYTES);
        let run = move || work(Path::new(&folder), first, end, only.is_some());
        return thread.spawn(run).expect("a thread").join().expect("ends");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["mutations::changed_input_ends_with_rows_or_an_error", "--exact", "--nocapture"])
        .env(WORK, folder.path())
        .current_dir(folder.path())
        .output()
        .expect("runs");
    let read =
        |name: &str| String::from_utf8_lossy(&std::fs::read(folder.path().join(name)).unwrap_or_default()).into_owned();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "FUSE_MUTATION_SEED={}\n{}\n{told}", read("seed"), read("sql"));
}
