//! Pipelines that are killed, and that fail at each durable step.
//!
//! Enters: the program, a generator of input, SIGKILL and failpoints. Leaves: nothing. Always holds: afterwards no
//! row is lost and none is there twice, and a reader that polls throughout sees whole epochs only.
//! FUSE_KILLS sets how often it is killed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::AsArray;
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
    COPY (SELECT v, count(*) AS n FROM t GROUP BY v) TO 'log/' STORED AS CSV OPTIONS ('mode' 'changelog');";

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
        std::thread::sleep(Duration::from_millis(4));
        writeln!(lines, "{}", number % 7).expect("writes");
        number += 1;
    }
    (number, number)
}

/// Reads the rows that are shown, and counts those of each input file: an epoch takes a file whole.
fn poll(root: &Path) -> u64 {
    let mut counts: BTreeMap<i64, u64> = BTreeMap::new();
    let Ok(entries) = fs::read_dir(root.join("rows")) else { return 0 };
    let files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    for path in files {
        let file = File::open(&path).expect("a file that was listed");
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("a whole file").build().expect("a reader");
        for batch in reader {
            let batch = batch.expect("whole rows");
            for f in batch.column(1).as_primitive::<Int64Type>().values() {
                *counts.entry(*f).or_default() += 1;
            }
        }
    }
    for (f, count) in &counts {
        assert_eq!(*count, ROWS, "file {f} is shown in part, or twice");
    }
    counts.len() as u64
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

#[test]
fn nothing_is_lost_or_doubled_however_often_it_is_killed() {
    let kills = std::env::var("FUSE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let place = Place::new();
    place.write("p.sql", SQL);
    let (stop, root) = (AtomicBool::new(false), place.path());
    let (generated, seen) = std::thread::scope(|scope| {
        let generator = scope.spawn(|| generate(root, &stop));
        let reader = scope.spawn(|| {
            let mut most = 0;
            while !stop.load(Ordering::Relaxed) {
                let files = poll(root);
                assert!(files >= most, "{files} files are shown, and {most} were");
                most = files;
                std::thread::sleep(Duration::from_millis(20));
            }
            most
        });
        std::thread::sleep(Duration::from_millis(50));
        for _ in 0..kills {
            let mut command = place.command(&["query", "p.sql", "--trigger", "1ms"]);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
            std::thread::sleep(Duration::from_millis(40 + random(160)));
            assert!(child.try_wait().expect("asks").is_none(), "it ended by itself");
            child.kill().expect("kills");
            child.wait().expect("ends");
        }
        stop.store(true, Ordering::Relaxed);
        (generator.join().expect("the generator"), reader.join().expect("the reader"))
    });
    once(&place, "").data();
    assert_eq!(mistakes(&place), Vec::<String>::new());
    assert_eq!(poll(root), generated.0);
    assert!(seen > 0, "the reader saw nothing while it ran");
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
const STEPS: [&str; 13] = [
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
    assert_eq!(found["sinks"].as_array().map(Vec::len), Some(4));
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
