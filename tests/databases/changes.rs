//! What changes in a table of Postgres, as a stream.
//!
//! Enters: the program, a server whose tables others write to meanwhile, SIGKILL. Leaves: nothing. Always holds: a
//! pipeline over the table has the server's own answer; nothing is missed or doubled between the snapshot and the log.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::server::{Server, fuse};
use crate::support::{Place, Ran};

const ANSWERS: [(&str, &str); 3] = [
    ("agg", "SELECT g, count(*), sum(n) FROM account GROUP BY g"),
    ("joined", "SELECT account.id, name, n FROM account JOIN owner ON account.owner = owner.id"),
    ("whole", "SELECT note, count(*), 0 FROM log GROUP BY note"),
];

fn statements(server: &Server) -> String {
    format!(
        "CREATE STREAM account {}; CREATE STREAM owner {}; CREATE STREAM log {};
         CREATE EXTERNAL TABLE agg (g INT, c BIGINT, s BIGINT, PRIMARY KEY (g)) {};
         CREATE EXTERNAL TABLE joined (id INT, name VARCHAR, n BIGINT, PRIMARY KEY (id)) {};
         CREATE EXTERNAL TABLE whole (note VARCHAR, c BIGINT, z BIGINT, PRIMARY KEY (note)) {};
         INSERT INTO agg {}; INSERT INTO joined {}; INSERT INTO whole {};",
        server.table("account"),
        server.table("owner"),
        server.table("log"),
        server.table("agg"),
        server.table("joined"),
        server.table("whole"),
        ANSWERS[0].1,
        ANSWERS[1].1,
        ANSWERS[2].1,
    )
}

const TABLES: &str = "
    CREATE TABLE owner (id int PRIMARY KEY, name text);
    CREATE TABLE account (id int PRIMARY KEY, owner int, g int, n bigint);
    CREATE TABLE log (note text); ALTER TABLE log REPLICA IDENTITY FULL;
    INSERT INTO owner SELECT i, 'owner ' || i FROM generate_series(0, 9) i;
    INSERT INTO account SELECT i, i % 10, i % 7, 100 FROM generate_series(0, 19999) i;
    INSERT INTO log SELECT 'note ' || i % 3 FROM generate_series(0, 99) i;";

/// One transaction of a writer: rows come, change and go, keys move, and now and then nothing of it stays.
fn write(server: &Server, turn: u64, writer: u64) {
    let id = 100_000 * (writer + 1) + turn;
    let end = if turn % 5 == 4 { "ROLLBACK" } else { "COMMIT" };
    server.run(&format!(
        "BEGIN; INSERT INTO account VALUES ({id}, {o}, {g}, {turn});
         UPDATE account SET n = n + 1 WHERE id % 1000 = {turn} % 1000;
         UPDATE account SET id = -id WHERE id = {previous};
         DELETE FROM account WHERE id = {gone};
         UPDATE owner SET name = name || '.' WHERE id = {o};
         INSERT INTO log VALUES ('note {g}'), ('note {g}'); UPDATE log SET note = 'moved' WHERE ctid IN
            (SELECT ctid FROM log WHERE note = 'note {g}' LIMIT 1);
         DELETE FROM log WHERE ctid IN (SELECT ctid FROM log WHERE note = 'moved' LIMIT 1); {end}",
        o = turn % 10,
        g = turn % 7,
        previous = id.saturating_sub(2),
        gone = turn * 3 + writer,
    ));
}

fn once(place: &Place) -> Ran {
    Ran::from(fuse(place, &["query", "p.sql", "--once", "--quiet"]).output().expect("runs"))
}

fn mistakes(server: &Server) -> Vec<String> {
    let differs = |table: &str, query: &str| {
        server.run(&format!("SELECT * FROM {table} ORDER BY 1")) != server.run(&format!("{query} ORDER BY 1"))
    };
    ANSWERS.iter().filter(|(table, query)| differs(table, query)).map(|(table, _)| (*table).to_owned()).collect()
}

#[test]
fn joins_and_aggregates_follow_a_table_that_others_write_to() {
    let (place, server) = (Place::new(), Server::start());
    server.run(TABLES);
    place.write("p.sql", statements(&server));
    let stop = AtomicBool::new(false);
    let kills = std::env::var("FUSE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    std::thread::scope(|scope| {
        for writer in 0..2 {
            let (server, stop) = (&server, &stop);
            scope.spawn(move || {
                let mut turn = 0;
                while !stop.load(Ordering::Relaxed) {
                    write(server, turn, writer);
                    turn += 1;
                }
                assert!(turn > 10, "the writer came to nothing");
            });
        }
        // The first runs are killed while they make the slot and take the snapshot.
        for kill in 0..kills {
            let mut command = fuse(&place, &["query", "p.sql", "--trigger", "1ms"]);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
            std::thread::sleep(Duration::from_millis(100 + kill * 7919 % 900));
            assert!(child.try_wait().expect("asks").is_none(), "it ended by itself: {}", once(&place).stderr);
            child.kill().expect("kills");
            child.wait().expect("ends");
        }
        stop.store(true, Ordering::Relaxed);
    });
    once(&place).data();
    assert_eq!(mistakes(&server), Vec::<String>::new());
    // What was killed while it began left no slot behind: three tables, three slots.
    assert_eq!(server.run("SELECT count(*) FROM pg_replication_slots"), "3\n");
    write(&server, 1, 7);
    once(&place).data();
    assert_eq!(mistakes(&server), Vec::<String>::new());
    // What was taken is what is there, as long as nobody writes.
    let verify = || Ran::from(fuse(&place, &["verify", "p.sql"]).output().expect("runs"));
    let verified = verify().data();
    assert!(verified.contains("equal: 3 statements"), "{verified}");
    write(&server, 2, 7);
    let error = verify().error(1);
    assert!(error.contains("account has changed since it was read last"), "{error}");
    once(&place).data();
    verify().data();
    server.run("UPDATE agg SET s = s + 1 WHERE g = 3");
    let differs = verify();
    assert_eq!(differs.code, Some(1), "{differs:?}");
    server.run("UPDATE agg SET s = s - 1 WHERE g = 3");
    // The slots move behind checkpoints, also those of runs that end at once.
    let slots = || server.run("SELECT slot_name, confirmed_flush_lsn FROM pg_replication_slots ORDER BY 1");
    let before = slots();
    for turn in 0..3 {
        write(&server, turn, 8);
        once(&place).data();
    }
    assert_eq!(mistakes(&server), Vec::<String>::new());
    for (before, after) in before.lines().zip(slots().lines()) {
        assert_ne!(before, after, "a slot has not moved");
    }
    let fresh = fuse(&place, &["query", "p.sql", "--once", "--quiet", "--fresh"]).output().expect("runs");
    Ran::from(fresh).data();
    assert_eq!(mistakes(&server), Vec::<String>::new());
    assert_eq!(server.run("SELECT count(*) FROM pg_replication_slots"), "3\n");
    assert_eq!(server.run("SELECT count(*) FROM pg_publication"), "3\n");
}

#[test]
fn a_history_of_files_goes_on_in_a_table() {
    let (place, server) = (Place::new(), Server::start());
    // Rows that the server has still, others than those of the history, and some that it alone has.
    server.run(
        "CREATE TABLE account (id int PRIMARY KEY, g int, n bigint);
         INSERT INTO account SELECT i, i % 7, 1000 FROM generate_series(20000, 39999) i;
         CREATE TABLE nameless (id int); ALTER TABLE nameless REPLICA IDENTITY FULL",
    );
    for file in 0..6 {
        place.sql(&format!(
            "COPY (SELECT CAST(value AS INT) AS id, 5 AS n, CAST(value % 7 AS INT) AS g
                   FROM generate_series({0} * 5000, {0} * 5000 + 4999)) TO 'old/{file}.parquet'",
            file
        ));
    }
    let sql = format!(
        "CREATE STREAM account {} BACKFILL FROM 'old/*.parquet';
         CREATE EXTERNAL TABLE agg (g INT, c BIGINT, s BIGINT, PRIMARY KEY (g)) {};
         INSERT INTO agg SELECT g, count(*), sum(n) FROM account GROUP BY g;",
        server.table("account"),
        server.table("agg")
    );
    place.write("p.sql", &sql);
    for kill in 0..8 {
        let mut command = fuse(&place, &["query", "p.sql", "--trigger", "1ms"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
        std::thread::sleep(Duration::from_millis(60 + kill * 97));
        // One that is asked to stop keeps how far it came.
        match kill % 2 {
            0 => child.kill().expect("kills"),
            _ => drop(Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill")),
        }
        let error = String::from_utf8_lossy(&child.wait_with_output().expect("ends").stderr).into_owned();
        assert!(!error.contains("error"), "{error}");
        server.run(&format!(
            "UPDATE account SET n = n + 1 WHERE id % 100 = {kill}; INSERT INTO account VALUES ({kill}, 3, 7777)"
        ));
    }
    once(&place).data();
    // What goes from the table goes, also of what the history has.
    server.run("DELETE FROM account WHERE id % 1000 >= 500");
    once(&place).data();
    // What the server has takes the place of what the history has; what it deleted is gone, what it never had stays.
    let there = "SELECT id, g, n FROM account UNION ALL SELECT i, i % 7, 5 FROM generate_series(8, 19999) i";
    let expected = server.run(&format!("SELECT g, count(*), sum(n) FROM ({there}) t GROUP BY g ORDER BY g"));
    assert_eq!(server.run("SELECT * FROM agg ORDER BY g"), expected);
    let run = |clause: &str, table: &str| {
        let sql = format!("CREATE STREAM s {} {clause}; SELECT count(*) FROM s", server.table(table));
        Ran::from(fuse(&place, &["query", "--once", "-c", &sql]).output().expect("runs"))
    };
    let error = run("BACKFILL FROM 'old/*.parquet' UP TO id < 5", "account").error(2);
    assert!(error.contains("take the place of those of the history by their PRIMARY KEY"), "{error}");
    let error = run("BACKFILL FROM 'old/*.parquet'", "nameless").error(2);
    assert!(error.contains("nameless has no PRIMARY KEY"), "{error}");
    // Begun anew, it leaves no slot behind.
    Ran::from(fuse(&place, &["query", "p.sql", "--once", "--quiet", "--fresh"]).output().expect("runs")).data();
    assert_eq!(server.run("SELECT count(*) FROM pg_replication_slots"), "1\n");
}

/// A pipeline that copies a table of texts.
fn copying(place: &Place, server: &Server, columns: &str) {
    place.write(
        "p.sql",
        format!(
            "CREATE STREAM t {}; CREATE EXTERNAL TABLE o (k INT, v VARCHAR, n INT, PRIMARY KEY (k)) {};
             INSERT INTO o SELECT {columns} FROM t;",
            server.table("t"),
            server.table("o")
        ),
    );
}

#[test]
fn large_values_that_do_not_change_stay() {
    let (place, server) = (Place::new(), Server::start());
    server.run(
        "CREATE TABLE t (k int PRIMARY KEY, v text, n int); ALTER TABLE t ALTER v SET STORAGE EXTERNAL;
        INSERT INTO t SELECT i, repeat('x' || i, 5000), 0 FROM generate_series(1, 3) i",
    );
    copying(&place, &server, "k, v, n");
    once(&place).data();
    server.run("UPDATE t SET n = 1 WHERE k = 2");
    let error = once(&place).error(1);
    assert!(error.contains("a large value of v has not changed") && error.contains("REPLICA IDENTITY FULL"), "{error}");
    server.run("ALTER TABLE t REPLICA IDENTITY FULL");
    let fresh = fuse(&place, &["query", "p.sql", "--once", "--quiet", "--fresh"]).output().expect("runs");
    Ran::from(fresh).data();
    server.run("UPDATE t SET n = n + 1; UPDATE t SET k = 30 WHERE k = 3");
    once(&place).data();
    assert_eq!(server.run("SELECT * FROM o ORDER BY k"), server.run("SELECT * FROM t ORDER BY k"));
    assert_eq!(server.run("SELECT k, n, length(v) FROM o ORDER BY k"), "1,1,10000\n2,2,10000\n30,1,10000\n");
}

#[test]
fn a_table_of_other_columns_ends_the_pipeline_behind_what_came_before() {
    let (place, server) = (Place::new(), Server::start());
    server.run("CREATE TABLE t (k int PRIMARY KEY, v text, n int); INSERT INTO t VALUES (1, 'a', 1)");
    copying(&place, &server, "k, v, n");
    once(&place).data();
    // A column more disturbs nobody.
    server.run("ALTER TABLE t ADD more int; INSERT INTO t VALUES (2, 'b', 2, 2)");
    once(&place).data();
    assert_eq!(server.run("SELECT * FROM o ORDER BY k"), "1,a,1\n2,b,2\n");
    let mut command = fuse(&place, &["query", "p.sql", "--trigger", "1ms"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
    server.run("INSERT INTO t VALUES (3, 'c', 3, 3)");
    server.run("ALTER TABLE t DROP v; INSERT INTO t VALUES (4, 4, 4)");
    let error = String::from_utf8_lossy(&child.wait_with_output().expect("ends").stderr).into_owned();
    assert!(
        error.contains("column v of t is not there") || error.contains("the columns of t have changed: v is gone"),
        "{error}"
    );
    assert_eq!(server.run("SELECT * FROM o ORDER BY k"), "1,a,1\n2,b,2\n3,c,3\n");
    // What was truncated cannot be told row by row.
    server.run("DROP TABLE o; CREATE TABLE u (k int PRIMARY KEY); INSERT INTO u VALUES (1)");
    place.write(
        "u.sql",
        format!(
            "CREATE STREAM u {}; CREATE EXTERNAL TABLE o (n BIGINT, m INT, PRIMARY KEY (n)) {};
             INSERT INTO o SELECT count(*), max(k) FROM u;",
            server.table("u"),
            server.table("o")
        ),
    );
    let run = || Ran::from(fuse(&place, &["query", "u.sql", "--once", "--quiet"]).output().expect("runs"));
    run().data();
    server.run("INSERT INTO u VALUES (2); TRUNCATE u");
    let error = run().error(1);
    assert!(error.contains("u was truncated"), "{error}");
}

#[test]
fn what_cannot_be_followed_is_refused() {
    let (place, server) = (Place::new(), Server::start());
    server.run("CREATE TABLE t (k int); CREATE VIEW v AS SELECT * FROM t");
    let run = |table: &str| {
        let sql = format!("CREATE STREAM s {}; SELECT count(*) FROM s", server.table(table));
        Ran::from(fuse(&place, &["query", "--once", "-c", &sql]).output().expect("runs"))
    };
    let error = run("t").error(1);
    assert!(error.contains("has no primary key") && error.contains("REPLICA IDENTITY FULL"), "{error}");
    assert!(run("v").error(1).contains("no plain table"));
    assert!(run("none").error(1).contains("there is no table none"));
    assert_eq!(server.run("SELECT count(*) FROM pg_replication_slots"), "0\n");
}

#[test]
fn the_page_of_the_tour_runs() {
    let (place, server) = (Place::new(), Server::start());
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/tour/05_postgres.sql");
    let text = std::fs::read_to_string(&page).expect("the page");
    let made = text.lines().filter_map(|line| line.strip_prefix("--     "));
    let made: Vec<&str> = made.filter(|line| line.starts_with("CREATE TABLE") || line.starts_with("INSERT")).collect();
    assert_eq!(made.len(), 4);
    server.run(&made.join(" "));
    let page = page.display().to_string();
    let run = |args: &[&str]| {
        let mut command = place.command(&[&["query", "--once", page.as_str()], args].concat());
        Ran::from(command.env("TOUR_DATABASE", server.url()).output().expect("runs"))
    };
    run(&[]).data();
    assert_eq!(server.run("SELECT * FROM busy ORDER BY name"), "Harbour,2,52\nPark,1,5\n");
    server.run("UPDATE rental SET station = 7 WHERE id = 3; DELETE FROM rental WHERE id = 1");
    run(&[]).data();
    assert_eq!(server.run("SELECT * FROM busy ORDER BY name"), "Harbour,2,45\n");
}
