//! States that earlier versions have written go on.
//!
//! Enters: the folders of testdata/upgrade, one for each format that states have had: a pipeline, its input, its state
//! and its outputs, as the last version with that format left them. Leaves: nothing. Always holds: with more input such a
//! pipeline goes on as if it had never stood still. FUSE_BLESS=1 writes the folder of today's format, if there is none.

use std::path::{Path, PathBuf};

use crate::support::Place;

/// A state belongs to the place of its pipeline: it is moved there, and not to a folder with a name of its own.
fn place() -> Place {
    let path = Path::new("/tmp/fuse-upgrade");
    let _ = std::fs::remove_dir_all(path);
    std::fs::create_dir_all(path).expect("a folder");
    Place::at(path)
}

/// What each output is to have, as a batch over all input; the name of its table in `answers`.
const OUTPUTS: [(&str, &str); 6] = [
    ("sums.csv", "SELECT k, count(*) AS n, sum(v) AS s, min(v) AS low, count(DISTINCT v) AS d FROM s GROUP BY k"),
    ("joined.parquet", "SELECT s.id, u.id AS other, s.v + u.v AS w FROM s LEFT JOIN u ON s.k = u.k AND s.v = u.v"),
    ("last.parquet", "SELECT k, id, v FROM s QUALIFY row_number() OVER (PARTITION BY k ORDER BY id DESC) <= 2"),
    ("top.csv", "SELECT id, v FROM s ORDER BY v DESC, id LIMIT 5"),
    ("without.csv", "SELECT DISTINCT k, v FROM s EXCEPT SELECT k, v FROM u"),
    ("running.parquet", "SELECT id, k, sum(v) OVER (PARTITION BY k ORDER BY id) AS r FROM s"),
];

fn tables(grow: bool) -> String {
    let columns = "(id BIGINT, k BIGINT, v BIGINT, ts TIMESTAMP)";
    let create = if grow { "CREATE STREAM" } else { "CREATE EXTERNAL TABLE" };
    let few = if grow { "OPTIONS ('max_files_per_epoch' '1')" } else { "" };
    ["s", "u"].map(|name| format!("{create} {name} {columns} STORED AS JSON LOCATION 'in/{name}/' {few};\n")).concat()
}

fn pipeline() -> String {
    let copy = |(file, query): &(&str, &str)| format!("COPY ({query}) TO '{file}';\n");
    let rows = "COPY (SELECT id, v FROM s WHERE v > 3) TO 'rows/' STORED AS PARQUET;\n";
    let windows = "COPY (SELECT window_start, count(*) AS n FROM TUMBLE(TABLE s, DESCRIPTOR(ts), INTERVAL '1 minute')
        GROUP BY window_start) TO 'windows.csv';\n";
    tables(true) + rows + windows + &OUTPUTS.iter().map(copy).collect::<String>()
}

fn input(place: &Place, numbers: std::ops::Range<u64>) {
    for number in numbers {
        for name in ["s", "u"] {
            let line = |row: u64| {
                let id = number * 20 + row;
                let (k, v) = (id * 7 % 5, id * 31 % 9);
                let minute = id % 7;
                format!("{{\"id\":{id},\"k\":{k},\"v\":{v},\"ts\":\"2026-01-01T10:{minute:02}:30\"}}\n")
            };
            let rows = if name == "s" { 0..20 } else { 0..7 };
            place.write(&format!("in/{name}/{number}.json"), rows.map(line).collect::<String>());
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("copies")),
        }
    }
}

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/upgrade");
    let Ok(found) = std::fs::read_dir(&root) else { return Vec::new() };
    found.flatten().map(|entry| entry.path()).collect()
}

const RUN: [&str; 6] = ["query", "p.sql", "--once", "--quiet", "--state", "state"];

#[test]
fn states_of_earlier_versions_go_on() {
    let format = fuse::checkpoint::STATE_FORMAT;
    let today = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("testdata/upgrade/format-{format}"));
    if std::env::var_os("FUSE_BLESS").is_some() && !today.exists() {
        let place = place();
        place.write("p.sql", pipeline());
        input(&place, 0..2);
        place.run(&RUN).data();
        input(&place, 2..4);
        place.run(&RUN).data();
        copy(place.path(), &today);
    }
    let folders = folders();
    assert!(folders.contains(&today), "the format of states is new: FUSE_BLESS=1 keeps one for versions to come");
    for folder in folders {
        let place = place();
        copy(&folder, place.path());
        input(&place, 4..7);
        place.run(&RUN).data();
        for (file, query) in OUTPUTS {
            let sorted = |sql: String| {
                let data = place.sql(&sql).data();
                let mut lines: Vec<String> = data.lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            let expected = sorted(format!("{} {query}", tables(false)));
            assert_eq!(sorted(format!("FROM '{file}'")), expected, "{file} of {}", folder.display());
        }
        let rows = place.sql("SELECT count(*) AS n, count(DISTINCT id) AS d FROM 'rows/'").data();
        let expected = place.sql(&format!("{} SELECT count(*) AS n, count(*) AS d FROM s WHERE v > 3", tables(false)));
        assert_eq!(rows, expected.data());
        let verified = place.run(&["verify", "p.sql", "--state", "state"]).data();
        assert!(verified.contains("equal: 8 statements"), "{verified}");
    }
}
