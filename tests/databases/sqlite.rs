//! SQLite.
//!
//! Enters: the program, files of JSON, SIGKILL and failpoints; Python's sqlite3 reads. Leaves: nothing.
//! Always holds: a table holds the answer of a batch over the same input.

use std::path::PathBuf;
use std::process::Command;

#[cfg(feature = "failpoints")]
use super::fails_and_goes_on;
use super::{TORN, input, killed};
use crate::support::{Place, Ran};

const SQL: &str = "
    CREATE STREAM ev (id BIGINT, f BIGINT) STORED AS JSON LOCATION 'in/' OPTIONS ('max_files_per_epoch' '2');
    CREATE EXTERNAL TABLE ids (id BIGINT, f BIGINT) STORED AS SQLITE LOCATION 'out.db' OPTIONS ('table' 'ids');
    CREATE EXTERNAL TABLE agg (g BIGINT, n BIGINT, most BIGINT, PRIMARY KEY (g))
        STORED AS SQLITE LOCATION 'out.db' OPTIONS ('table' 'agg');
    CREATE EXTERNAL TABLE last (id BIGINT, g BIGINT, PRIMARY KEY (id))
        STORED AS SQLITE LOCATION 'other.db' OPTIONS ('table' 'last');
    INSERT INTO ids SELECT id, f FROM ev;
    INSERT INTO agg SELECT id % 17, count(*), max(id) FROM ev GROUP BY id % 17;
    INSERT INTO last SELECT id, id % 17 FROM ev QUALIFY row_number() OVER (PARTITION BY id % 17 ORDER BY id DESC) = 1;";

fn once(place: &Place, failpoints: &str) -> Ran {
    let mut command = place.command(&["query", "p.sql", "--once", "--quiet"]);
    Ran::from(command.env("FAILPOINTS", failpoints).output().expect("runs"))
}

/// What a program in Python prints.
pub(super) fn python(place: &Place, program: &str) -> String {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/fuse/venv");
    let venv = std::env::var_os("FUSE_TEST_VENV").map_or(home, Into::into);
    let mut command = Command::new(venv.join("bin/python"));
    let output = command.args(["-c", program]).current_dir(place.path()).output().expect("python, see ./tests/run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The rows of a query over a database, as Python's sqlite3 reads them.
fn read(place: &Place, database: &str, sql: &str) -> String {
    let program =
        format!("import sqlite3\nfor row in sqlite3.connect('{database}').execute('''{sql}'''): print(*row, sep=',')");
    python(place, &program)
}

/// The rows of a query by fuse, without a header.
fn batch(place: &Place, sql: &str) -> String {
    let data =
        place.sql(&format!("CREATE EXTERNAL TABLE ev (id BIGINT, f BIGINT) STORED AS JSON LOCATION 'in/'; {sql}"));
    data.data().split_once('\n').expect("a header").1.to_owned()
}

/// What is wrong with the tables, if anything is.
fn mistakes(place: &Place) -> Vec<String> {
    let pairs = [
        ("out.db", "SELECT id, f FROM ids ORDER BY id", "SELECT id, f FROM ev ORDER BY id"),
        (
            "out.db",
            "SELECT g, n, most FROM agg ORDER BY g",
            "SELECT id % 17 AS g, count(*), max(id) FROM ev GROUP BY 1 ORDER BY 1",
        ),
        ("other.db", "SELECT id, g FROM last ORDER BY g", "SELECT max(id), id % 17 FROM ev GROUP BY 2 ORDER BY 2"),
    ];
    let differs = |(database, here, there): &(&str, &str, &str)| read(place, database, here) != batch(place, there);
    pairs.iter().filter(|pair| differs(pair)).map(|pair| pair.1.to_owned()).collect()
}

#[test]
fn a_table_holds_the_answer_after_each_run() {
    let place = Place::new();
    place.write("p.sql", SQL);
    for round in 0..4 {
        input(&place, round * 2);
        input(&place, round * 2 + 1);
        once(&place, "").data();
        assert_eq!(mistakes(&place), Vec::<String>::new(), "round {round}");
    }
    assert_eq!(once(&place, "").data(), "");
    assert_eq!(read(&place, "out.db", "SELECT count(DISTINCT epoch) FROM _fuse_epochs"), "1\n");
    let verdict = place.run(&["verify", "p.sql"]).data();
    assert!(verdict.contains("equal: 3 statements"), "{verdict}");
}

#[test]
fn nothing_is_lost_or_doubled_however_often_it_is_killed() {
    let kills = std::env::var("FUSE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(40);
    let place = Place::new();
    place.write("p.sql", SQL);
    input(&place, 0);
    once(&place, "").data();
    let torn = || read(&place, "out.db", TORN);
    killed(&place, kills, (60, 400), || place.command(&["query", "p.sql", "--trigger", "1ms"]), torn);
    once(&place, "").data();
    assert_eq!(mistakes(&place), Vec::<String>::new());
}

/// The names of all durable steps of sinks in databases.
#[cfg(feature = "failpoints")]
pub(super) const STEPS: [&str; 6] = [
    "sink.database.make.before",
    "sink.database.make.after",
    "sink.database.write.before",
    "sink.database.write.after",
    "sink.database.commit.before",
    "sink.database.commit.after",
];

#[test]
#[cfg(feature = "failpoints")]
fn each_durable_step_may_fail() {
    let source = include_str!("../../src/sink/stream/database.rs");
    let named: Vec<&str> = source.split("step(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(
        {
            let mut named = named;
            named.sort_unstable();
            named
        },
        {
            let mut all = STEPS;
            all.sort_unstable();
            all
        }
    );
    for step in STEPS {
        for action in ["exit", "error"] {
            let place = Place::new();
            place.write("p.sql", SQL);
            fails_and_goes_on(&place, step, action, &|failpoints| once(&place, failpoints));
            assert_eq!(mistakes(&place), Vec::<String>::new(), "{step} {action}");
        }
    }
}

#[test]
fn two_pipelines_write_to_one_database() {
    let place = Place::new();
    (0..3).for_each(|number| input(&place, number));
    let statement = |name: &str| {
        format!(
            "CREATE STREAM ev (id BIGINT, f BIGINT) STORED AS JSON LOCATION 'in/' OPTIONS ('max_files_per_epoch' '1');
             CREATE EXTERNAL TABLE t (f BIGINT, n BIGINT, PRIMARY KEY (f))
             STORED AS SQLITE LOCATION 'out.db' OPTIONS ('table' '{name}');
             INSERT INTO t SELECT f, count(*) FROM ev GROUP BY f;"
        )
    };
    for name in ["a", "b"] {
        place.write(&format!("{name}.sql"), statement(name));
    }
    let start = |name: &str| {
        let file = format!("{name}.sql");
        place.command(&["query", &file, "--once", "--quiet"]).spawn().expect("starts")
    };
    for mut child in [start("a"), start("b")] {
        assert!(child.wait().expect("ends").success());
    }
    for name in ["a", "b"] {
        assert_eq!(read(&place, "out.db", &format!("SELECT * FROM {name} ORDER BY f")), "0,20\n1,20\n2,20\n");
    }
    assert_eq!(read(&place, "out.db", "SELECT count(*) FROM _fuse_epochs"), "2\n");
}

#[test]
fn what_is_written_comes_back() {
    let place = Place::new();
    let values = "SELECT * FROM (VALUES
        (1, true, CAST(1.5 AS DOUBLE), CAST('12.50' AS DECIMAL(10,2)), 'a''b', X'00ff', DATE '2024-02-29',
         TIMESTAMP '2024-02-29 23:59:59.123456', [1, 2]),
        (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
        (9223372036854775807, false, CAST('-inf' AS DOUBLE), CAST('-99999999.99' AS DECIMAL(10,2)), '',
         X'', DATE '1969-12-31', TIMESTAMP '1969-12-31 00:00:00', [])) AS v(k, b, d, m, t, y, day, ts, l)";
    let sql = format!(
        "CREATE EXTERNAL TABLE w (k BIGINT, b BOOLEAN, d DOUBLE, m DECIMAL(10,2), t VARCHAR, y BYTEA, day DATE,
            ts TIMESTAMP, l VARCHAR) STORED AS SQLITE LOCATION 'x/new.db' OPTIONS ('table' 'odd \"name\"');
         INSERT INTO w SELECT k, b, d, m, t, y, day, ts, CAST(l AS VARCHAR) FROM ({values});
         CREATE EXTERNAL TABLE r STORED AS SQLITE LOCATION 'x/new.db' OPTIONS ('table' 'odd \"name\"');"
    );
    let back = place.sql(&format!("{sql} SELECT k, b, d, m, t, y, day, ts FROM r ORDER BY k")).data();
    let direct = place.sql(&format!("SELECT k, b, d, m, t, y, day, ts FROM ({values}) ORDER BY k")).data();
    assert_eq!(back, direct);
    let read = "CREATE EXTERNAL TABLE r STORED AS SQLITE LOCATION 'x/new.db' OPTIONS ('table' 'odd \"name\"');";
    assert_eq!(
        place.sql(&format!("{read} SELECT column_name || ' ' || data_type AS c FROM (DESCRIBE r)")).data(),
        "c\nk BIGINT\nb BOOLEAN\nd DOUBLE\n\"m DECIMAL(10, 2)\"\nt VARCHAR\ny BYTEA\nday DATE\nts TIMESTAMP\nl VARCHAR\n"
    );
    assert_eq!(
        place.sql(&format!("{read} SELECT count(*) AS n, sum(k) FILTER (WHERE k < 9) AS s FROM r")).data(),
        "n,s\n3,3\n"
    );
    assert_eq!(place.sql(&format!("{read} SELECT t FROM r LIMIT 1")).data(), "t\na'b\n");
}

#[test]
fn what_cannot_be_is_an_error_that_says_what_to_do() {
    let place = Place::new();
    input(&place, 0);
    let stream = "CREATE STREAM ev (id BIGINT, f BIGINT) STORED AS JSON LOCATION 'in/';";
    let table = |columns: &str| {
        format!("CREATE EXTERNAL TABLE t ({columns}) STORED AS SQLITE LOCATION 'out.db' OPTIONS ('table' 't');")
    };
    let said = |sql: &str, code: i32| place.run(&["query", "--once", "--state", "s", "-c", sql]).error(code);
    let error = said(
        &format!("{stream}{} INSERT INTO t SELECT f, count(*) FROM ev GROUP BY f", table("f BIGINT, n BIGINT")),
        2,
    );
    assert!(error.contains("t has no key") && error.contains("PRIMARY KEY"), "{error}");
    let error = said(
        &format!("{stream}{} INSERT INTO t SELECT f, id FROM ev", table("f BIGINT, n BIGINT, PRIMARY KEY (f)")),
        1,
    );
    assert!(error.contains("the key (0) would be in t more than once"), "{error}");
    place.sql(&format!("{} INSERT INTO t VALUES (1, 2)", table("f BIGINT, n BIGINT, PRIMARY KEY (f)"))).data();
    let error = place.sql(&format!("{} SELECT 1", table("f BIGINT, m BIGINT"))).error(2);
    assert!(error.contains("with other columns") && error.contains("there: f BIGINT, n BIGINT"), "{error}");
    let error = place
        .sql(&format!("{} INSERT INTO t VALUES (3, 4), (1, 5)", table("f BIGINT, n BIGINT, PRIMARY KEY (f)")))
        .error(1);
    assert!(error.contains("a row of this key is in t already"), "{error}");
    assert_eq!(read(&place, "out.db", "SELECT * FROM t"), "1,2\n");
    let error = place.sql("CREATE EXTERNAL TABLE t STORED AS SQLITE LOCATION 'none.db' OPTIONS ('table' 't')").error(1);
    assert!(error.contains("there is no table t in"), "{error}");
    assert!(!place.files().contains(&"none.db".to_owned()));
    let error = place.sql("CREATE EXTERNAL TABLE t (a INT) STORED AS SQLITE LOCATION 'none.db'").error(2);
    assert!(error.contains("OPTIONS ('table' 'name')"), "{error}");
    place.write(
        "no.db",
        "this is no database, and it is longer than a header of one is: a hundred bytes and some more of them",
    );
    let error =
        place.sql("CREATE EXTERNAL TABLE t (a INT) STORED AS SQLITE LOCATION 'no.db' OPTIONS ('table' 't')").error(1);
    assert!(error.contains("no.db") && error.contains("not a database"), "{error}");
}

#[test]
fn rows_that_are_gone_are_told_and_fresh_begins_anew() {
    let place = Place::new();
    place.write("p.sql", SQL);
    input(&place, 0);
    once(&place, "").data();
    let mut command = place.command(&["query", "p.sql", "--once", "--quiet", "--fresh"]);
    assert!(command.status().expect("runs").success());
    assert_eq!(mistakes(&place), Vec::<String>::new());
    for ending in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(place.path().join(format!("out.db{ending}")));
    }
    input(&place, 1);
    let error = once(&place, "").error(1);
    assert!(error.contains("the rows of ids up to epoch 1 are gone"), "{error}");
    let mut command = place.command(&["query", "p.sql", "--once", "--quiet", "--fresh"]);
    assert!(command.status().expect("runs").success());
    assert_eq!(mistakes(&place), Vec::<String>::new());
}
