//! Pipelines that are killed, and that fail at each durable step.
//!
//! Enters: the program, a generator of input, SIGKILL and failpoints. Leaves: nothing. Always holds: afterwards no
//! row is lost and none is there twice, and a reader that polls throughout sees whole epochs only.
//! FUSE_KILLS sets how often it is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::support::{Place, Ran};

const ROWS: u64 = 20;

const SQL: &str = "
    CREATE STREAM ev (id BIGINT, f BIGINT) STORED AS JSON LOCATION 'in/' OPTIONS ('max_files_per_epoch' '4');
    CREATE STREAM t (n BIGINT, v BIGINT) STORED AS CSV LOCATION 't.csv' OPTIONS ('has_header' 'false');
    CREATE TABLE names AS VALUES (0, 'even'), (1, 'odd');
    COPY (SELECT id, f FROM ev) TO 'rows/' STORED AS PARQUET OPTIONS ('roll_rows' '500');
    COPY (SELECT f, count(*) AS n FROM ev GROUP BY f ORDER BY f) TO 'agg.parquet';
    COPY (SELECT n, column2 AS name FROM t JOIN names ON v % 2 = column1) TO 'tail/' STORED AS JSON;
    COPY (SELECT v, count(*) AS n FROM t GROUP BY v) TO 'log/' STORED AS CSV OPTIONS ('mode' 'changelog');
    COPY (SELECT id, f, id % 3 AS part FROM ev) TO 'parts/' STORED AS PARQUET PARTITIONED BY (part)
        OPTIONS ('mode' 'changelog');";

/// And what comes through a named pipe.
const PIPE: &str = "
    CREATE STREAM p (n BIGINT) STORED AS JSON LOCATION 'fifo' OPTIONS ('max_spool_bytes' '1MB');
    COPY (SELECT n FROM p) TO 'piped/' STORED AS PARQUET;";

/// Appends to the inputs until it is told to stop; gives the number of files and of lines.
fn generate(root: &Path, stop: &AtomicBool) -> (u64, u64) {
    fs::create_dir_all(root.join("in")).expect("a folder");
    let mut lines = File::options().create(true).append(true).open(root.join("t.csv")).expect("a file");
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let rows = (0..ROWS).map(|row| format!("{{\"id\":{},\"f\":{number}}}\n", number * ROWS + row));
        let path = root.join(format!("in/{number:06}.json"));
        fs::write(path.with_extension("part"), rows.collect::<String>()).expect("writes");
        fs::rename(path.with_extension("part"), path).expect("renames");
        // Half a line now, the other half later.
        write!(lines, "{number},").expect("writes");
        lines.flush().expect("flushes");
        std::thread::sleep(Duration::from_millis(12));
        writeln!(lines, "{}", number % 7).expect("writes");
        number += 1;
    }
    (number, number)
}

/// Writes lines into the pipe until it is told to stop; gives their number. The pipe stays open, so what a killed
/// reader has left in it is there for the next one.
fn fill_pipe(root: &Path, stop: &AtomicBool) -> u64 {
    let mut pipe = File::options().read(true).write(true).open(root.join("fifo")).expect("a pipe");
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let lines: String = (number..number + 7).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        pipe.write_all(lines.as_bytes()).expect("writes");
        number += 7;
        std::thread::sleep(Duration::from_millis(3));
    }
    number
}

/// The numbers that are whole lines in the spool.
fn spooled(root: &Path) -> BTreeSet<i64> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(root.join(".fuse/p/spool")).into_iter().flatten().flatten() {
        let text = fs::read_to_string(entry.path()).expect("a segment");
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let number = |line: &str| line.strip_prefix("{\"n\":")?.strip_suffix('}')?.parse::<i64>().ok();
        found.extend(whole.lines().map(|line| number(line).expect("a whole line")));
    }
    found
}

/// A file as a reader that opens it once finds it, and the epoch that its end names.
fn read(path: &Path) -> (Vec<RecordBatch>, i64) {
    let file = File::open(path).expect("a file that was listed");
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).expect("a whole file");
    let keys = builder.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
    let epoch = keys.iter().find(|pair| pair.key == "fuse.epoch").and_then(|pair| pair.value.as_ref()?.parse().ok());
    let rows = builder.build().expect("a reader").collect::<Result<_, _>>().expect("whole rows");
    (rows, epoch.expect("an epoch"))
}

fn listed(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|ending| ending == "parquet")).collect()
}

fn numbers(batches: &[RecordBatch], column: &str) -> Vec<i64> {
    let values =
        |batch: &RecordBatch| batch.column_by_name(column).expect(column).as_primitive::<Int64Type>().values().to_vec();
    batches.iter().flat_map(values).collect()
}

fn counted(values: impl IntoIterator<Item = i64>) -> BTreeMap<i64, i64> {
    let mut counts = BTreeMap::new();
    values.into_iter().for_each(|value| *counts.entry(value).or_default() += 1);
    counts
}

/// Reads the rows that are shown, and counts those of each input file: an epoch takes a file whole.
fn poll(root: &Path) -> u64 {
    let files = listed(&root.join("rows"));
    let counts = counted(files.iter().flat_map(|path| numbers(&read(path).0, "f")));
    for (f, count) in &counts {
        assert_eq!(*count, ROWS as i64, "file {f} is shown in part, or twice");
    }
    counts.len() as u64
}

/// Reads several outputs as of one epoch: the result that is replaced says which, and folders have it in a column.
fn poll_together(root: &Path) {
    if !root.join("agg.parquet").exists() {
        return;
    }
    let (result, epoch) = read(&root.join("agg.parquet"));
    let expected: BTreeMap<i64, i64> = numbers(&result, "f").into_iter().zip(numbers(&result, "n")).collect();
    let mut rows = Vec::new();
    for part in 0..3 {
        for path in listed(&root.join(format!("parts/part={part}"))) {
            let batches = read(&path).0;
            let up_to = numbers(&batches, "f").into_iter().zip(numbers(&batches, "epoch"));
            rows.extend(up_to.filter(|(_, of)| *of <= epoch).map(|(f, _)| f));
        }
    }
    assert_eq!(counted(rows), expected, "epoch {epoch} differs between the outputs");
}

fn once(place: &Place, failpoints: &str) -> Ran {
    let mut command = place.command(&["query", "p.sql", "--once", "--quiet"]);
    Ran::from(command.env("FAILPOINTS", failpoints).output().expect("runs"))
}

/// What is wrong with the outputs, if anything is.
fn mistakes(place: &Place) -> Vec<String> {
    let check = "
        CREATE EXTERNAL TABLE ev (id BIGINT, f BIGINT) STORED AS JSON LOCATION 'in/';
        CREATE EXTERNAL TABLE t (n BIGINT, v BIGINT) STORED AS CSV LOCATION 't.csv' OPTIONS ('has_header' 'false');
        CREATE VIEW want AS SELECT v, count(*) AS n FROM t GROUP BY v;
        CREATE VIEW got AS SELECT v, n FROM 'log/*.csv' GROUP BY v, n
            HAVING sum(CASE op WHEN 'insert' THEN 1 ELSE -1 END) = 1;
        SELECT 'rows lost' AS w, count(*) AS n FROM ev WHERE id NOT IN (SELECT id FROM 'rows/*.parquet')
        UNION ALL SELECT 'rows twice', count(*) - count(DISTINCT id) FROM 'rows/*.parquet'
        UNION ALL SELECT 'agg', count(*) FROM (SELECT f, count(*) AS n FROM ev GROUP BY f EXCEPT SELECT f, n FROM 'agg.parquet')
        UNION ALL SELECT 'agg more', count(*) FROM (SELECT f, n FROM 'agg.parquet' EXCEPT SELECT f, count(*) AS n FROM ev GROUP BY f)
        UNION ALL SELECT 'tail lost', count(*) FROM t WHERE n NOT IN (SELECT n FROM 'tail/*.json')
        UNION ALL SELECT 'tail twice', count(*) - count(DISTINCT n) FROM 'tail/*.json'
        UNION ALL SELECT 'log lost', count(*) FROM (SELECT v, n FROM want EXCEPT SELECT v, n FROM got)
        UNION ALL SELECT 'log more', count(*) FROM (SELECT v, n FROM got EXCEPT SELECT v, n FROM want)";
    let data = place.sql(check).data();
    data.lines().skip(1).filter(|line| !line.ends_with(",0")).map(str::to_owned).collect()
}

/// A number that differs from call to call.
fn random(below: u64) -> u64 {
    static STATE: AtomicU64 = AtomicU64::new(0x9E37_79B9_7F4A_7C15);
    let mut x = STATE.load(Ordering::Relaxed);
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    STATE.store(x, Ordering::Relaxed);
    x % below
}

/// Readers in other programs, which poll until `stop` is there.
fn pollers(root: &Path) -> Vec<Child> {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/fuse/venv");
    let venv = std::env::var_os("FUSE_TEST_VENV").map_or(home, Into::into);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/poll.py");
    let poller = |engine: &&str| {
        let mut command = Command::new(venv.join("bin/python"));
        command.arg(&script).arg(root).args([engine, ROWS.to_string().as_str()]).env("POLARS_MAX_THREADS", "1");
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("python, which ./tests/run installs")
    };
    ["duckdb", "polars", "pyarrow"].iter().map(poller).collect()
}

/// Runs it until it has committed something, and kills it; gives how long that took.
fn until_a_commit(place: &Place) -> Duration {
    let begun = Instant::now();
    let mut command = place.command(&["query", "p.sql", "--trigger", "1ms"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    while !place.path().join("agg.parquet").exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing is committed");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("kills");
    child.wait().expect("ends");
    begun.elapsed()
}

/// Runs and kills it so often: while it starts, recovers, spools, commits. Gives the numbers that were seen in the
/// spool.
fn run_and_kill(place: &Place, kills: u64) -> BTreeSet<i64> {
    let commit = until_a_commit(place).min(Duration::from_millis(400));
    let mut safe = spooled(place.path());
    for _ in 0..kills {
        let mut command = place.command(&["query", "p.sql", "--trigger", "1ms"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        std::thread::sleep(commit.mul_f64(0.3 + random(150) as f64 / 100.0));
        assert!(child.try_wait().expect("asks").is_none(), "it ended by itself");
        child.kill().expect("kills");
        child.wait().expect("ends");
        safe.extend(spooled(place.path()));
    }
    safe
}

#[test]
fn nothing_is_lost_or_doubled_however_often_it_is_killed() {
    let kills = std::env::var("FUSE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let place = Place::new();
    place.write("p.sql", format!("{SQL}{PIPE}"));
    let root = place.path();
    assert!(Command::new("mkfifo").arg(root.join("fifo")).status().expect("mkfifo").success());
    let (stop, close) = (AtomicBool::new(false), AtomicBool::new(false));
    let others = pollers(root);
    let (generated, piped, seen, safe) = std::thread::scope(|scope| {
        let generator = scope.spawn(|| generate(root, &stop));
        let pipe = scope.spawn(|| fill_pipe(root, &close));
        let reader = scope.spawn(|| {
            let mut most = 0;
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let files = poll(root);
                assert!(files >= most, "{files} files are shown, and {most} were");
                most = files;
                poll_together(root);
                std::thread::sleep(Duration::from_millis(20).max(begun.elapsed() * 3));
            }
            most
        });
        std::thread::sleep(Duration::from_millis(50));
        let safe = run_and_kill(&place, kills);
        stop.store(true, Ordering::Relaxed);
        let generated = generator.join().expect("the generator");
        let last = scope.spawn(|| once(&place, "").data());
        // It has opened the pipe by then, and ends with the pipe.
        std::thread::sleep(Duration::from_secs(2));
        close.store(true, Ordering::Relaxed);
        last.join().expect("the last run");
        (generated, pipe.join().expect("the pipe"), reader.join().expect("the reader"), safe)
    });
    place.write("stop", "");
    for other in others {
        let output = other.wait_with_output().expect("ends");
        let text = String::from_utf8_lossy(&output.stdout);
        println!("{text}");
        assert!(output.status.success(), "{text}");
    }
    assert_eq!(mistakes(&place), Vec::<String>::new());
    assert_eq!(poll(root), generated.0);
    poll_together(root);
    assert!(seen > 0, "the reader saw nothing while it ran");
    let rows: Vec<i64> = listed(&root.join("piped")).iter().flat_map(|path| numbers(&read(path).0, "n")).collect();
    let once: BTreeSet<i64> = rows.iter().copied().collect();
    assert_eq!(once.len(), rows.len(), "a line of the pipe is there twice");
    let lost: Vec<&i64> = safe.difference(&once).collect();
    assert_eq!(lost, Vec::<&i64>::new(), "lines that were spooled are lost");
    // Only what a process had read and not yet written to the spool when it was killed is gone.
    let gone = piped as usize - once.len();
    println!("{gone} of {piped} lines went with a process that had read them and not spooled them");
    assert!(once.len() > piped as usize / 2, "{gone} of {piped} lines are gone");
}

fn inputs(place: &Place, from: u64, to: u64) {
    for number in from..to {
        let rows = (0..ROWS).map(|row| format!("{{\"id\":{},\"f\":{number}}}\n", number * ROWS + row));
        place.write(&format!("in/{number:06}.json"), rows.collect::<String>());
    }
    place.write("t.csv", (0..to).map(|n| format!("{n},{}\n", n % 7)).collect::<String>());
}

/// The names of all durable steps of state folders and sinks on a local disk.
#[cfg(feature = "failpoints")]
const STEPS: [&str; 14] = [
    "state.folder.settled",
    "state.write.before",
    "state.sync.before",
    "state.rename.before",
    "state.rename.after",
    "state.sync.after",
    "state.remove.before",
    "state.remove.after",
    "sink.write.before",
    "sink.sync.before",
    "sink.sync.after",
    "sink.rename.before",
    "sink.rename.after",
    "sink.folder.synced",
];

#[test]
#[cfg(feature = "failpoints")]
fn each_durable_step_may_fail() {
    for step in STEPS {
        for action in ["exit", "error"] {
            let place = Place::new();
            place.write("p.sql", SQL);
            inputs(&place, 0, 6);
            let mut failed = 0;
            for skipped in [0, 1, 3, 8] {
                let points = format!("{step}={skipped}*off->1*return({action})->off");
                let ran = once(&place, &points);
                failed += usize::from(ran.code != Some(0));
                // Once more while it recovers.
                once(&place, &format!("{step}=1*return({action})->off"));
                inputs(&place, 6 + skipped, 7 + skipped);
            }
            assert!(failed > 0, "{step} was never reached");
            once(&place, "").data();
            assert_eq!(mistakes(&place), Vec::<String>::new(), "{step} {action}");
        }
    }
}

#[test]
#[cfg(feature = "failpoints")]
fn each_durable_step_has_a_failpoint() {
    let source = include_str!("../src/durable/folder.rs");
    let named: Vec<&str> = source.split("step(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    for name in &named {
        assert!(STEPS.contains(name) || name.starts_with("state.put"), "{name} is not in STEPS");
    }
    for step in STEPS {
        assert!(named.contains(&step), "{step} is not in the source");
    }
}

/// The checks above find what they are there for.
#[test]
#[cfg(feature = "failpoints")]
fn planted_errors_are_found() {
    for planted in ["control.log_late", "control.forget_commits"] {
        let place = Place::new();
        place.write("p.sql", SQL);
        inputs(&place, 0, 3);
        let kill = "state.rename.before=2*off->1*return(exit)->off";
        let mut found = false;
        for round in 1..8 {
            once(&place, &format!("{planted}=return;sink.folder.synced={round}*off->1*return(exit)->off"));
            once(&place, &format!("{planted}=return;{kill}"));
            inputs(&place, 3 + round, 4 + round);
            let ran = once(&place, &format!("{planted}=return"));
            found |= ran.code != Some(0) || !mistakes(&place).is_empty();
        }
        assert!(found, "{planted} was not noticed");
    }
}

/// Every file is synced before it gets its name, and its folder behind that.
#[test]
fn state_and_outputs_are_synced_before_they_are_named() {
    let trace = |failpoints: &str| {
        let place = Place::new();
        place.write("p.sql", SQL);
        inputs(&place, 0, 2);
        let path = place.path().join("trace");
        let status = Command::new("strace")
            .args(["-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2", "-o"])
            .arg(&path)
            .arg(env!("CARGO_BIN_EXE_fuse"))
            .args(["query", "p.sql", "--once", "--quiet"])
            .current_dir(place.path())
            .env("FAILPOINTS", failpoints)
            .status()
            .expect("strace, which ./tests/run installs");
        assert!(status.success());
        unsynced(&fs::read_to_string(path).expect("a trace"))
    };
    assert_eq!(trace(""), Vec::<String>::new());
    if cfg!(feature = "failpoints") {
        assert_ne!(trace("control.skip_sync=return"), Vec::<String>::new(), "the check finds nothing");
    }
}

/// Renames of files that were not synced, and folders that were not synced behind the last rename into them.
fn unsynced(trace: &str) -> Vec<String> {
    let mut synced: Vec<&str> = Vec::new();
    let mut waiting: BTreeMap<String, String> = BTreeMap::new();
    let mut found = Vec::new();
    let mut renames = 0;
    for line in trace.lines() {
        if line.contains("fsync(") {
            let path = line.split('<').nth(1).and_then(|rest| rest.split('>').next()).unwrap_or_default();
            synced.push(path);
            waiting.remove(path);
        } else if line.contains("rename") && line.contains(" = 0") {
            let names: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
            let [from, to] = names[..] else { continue };
            renames += 1;
            if !synced.contains(&from) {
                found.push(format!("{from} was not synced"));
            }
            let folder = Path::new(to).parent().expect("a folder").display().to_string();
            waiting.insert(folder, to.to_owned());
        }
    }
    assert!(renames > 5, "{trace}");
    found.extend(waiting.values().map(|name| format!("the folder of {name} was not synced")));
    found
}

#[test]
fn a_second_process_is_turned_away_before_it_writes() {
    let place = Place::new();
    place.write("p.sql", SQL);
    inputs(&place, 0, 3);
    let mut first = place.command(&["query", "p.sql", "--quiet"]).stderr(Stdio::null()).spawn().expect("starts");
    for _ in 0..200 {
        if place.path().join(".fuse/p/commits/000000000001.json").exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let before = place.files();
    let error = once(&place, "").error(1);
    assert!(error.contains("another process runs on the state"), "{error}");
    assert_eq!(place.files(), before);
    first.kill().expect("kills");
    first.wait().expect("ends");
    once(&place, "").data();
    assert_eq!(mistakes(&place), Vec::<String>::new());
}

#[test]
fn inspect_tells_what_a_state_holds() {
    let place = Place::new();
    place.write("p.sql", SQL);
    inputs(&place, 0, 3);
    once(&place, "").data();
    let text = place.run(&["inspect", ".fuse/p", "--format", "json"]).data();
    let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(found["committed_epoch"], 1);
    assert_eq!(found["checkpoints"][0]["epoch"], 1);
    assert_eq!(found["sinks"].as_array().map(Vec::len), Some(5));
    assert!(place.run(&["inspect", ".fuse/p"]).data().contains("epoch       1, committed 20"));
    assert!(place.run(&["inspect", "in"]).error(1).contains("no state"));
}

#[test]
fn damaged_state_is_an_error_or_the_checkpoint_before() {
    let place = Place::new();
    place.write("p.sql", SQL);
    for round in 0..3 {
        inputs(&place, round * 2, round * 2 + 2);
        once(&place, "").data();
    }
    let state: Vec<String> = place.files().into_iter().filter(|name| name.starts_with(".fuse/")).collect();
    let mut refused = 0;
    for name in state.iter().filter(|name| !name.ends_with("lock")) {
        let path = place.path().join(name);
        let bytes = fs::read(&path).expect("reads");
        for damage in 0..3 {
            let mut damaged = bytes.clone();
            match damage {
                0 => damaged.truncate(bytes.len() / 2),
                1 => damaged[bytes.len() / 2] ^= 1,
                _ => damaged.clear(),
            }
            fs::write(&path, damaged).expect("writes");
            let ran = once(&place, "");
            if ran.code == Some(0) {
                assert_eq!(mistakes(&place), Vec::<String>::new(), "{name}");
            } else {
                refused += 1;
                assert!(ran.stderr.contains("is damaged"), "{name}: {}", ran.stderr);
            }
            fs::write(&path, &bytes).expect("writes");
        }
    }
    assert!(refused > 0);
}
