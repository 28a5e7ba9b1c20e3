//! Postgres: tables at rest, and sinks.
//!
//! Enters: the program, a server, SIGKILL and failpoints. Leaves: nothing. Always holds: a table holds the answer of a
//! batch over the same input; the password is seen nowhere.

#[cfg(feature = "failpoints")]
use super::fails_and_goes_on;
use super::server::{PASSWORD, Server, fuse};
use super::{TORN, input, killed};
use crate::support::{Place, Ran};

fn statements(server: &Server) -> String {
    format!(
        "CREATE STREAM ev (id BIGINT, f BIGINT) STORED AS JSON LOCATION 'in/' OPTIONS ('max_files_per_epoch' '2');
         CREATE EXTERNAL TABLE ids (id BIGINT, f BIGINT) {};
         CREATE EXTERNAL TABLE agg (g BIGINT, n BIGINT, most BIGINT, PRIMARY KEY (g)) {};
         CREATE EXTERNAL TABLE last (id BIGINT, g BIGINT, PRIMARY KEY (id)) {};
         INSERT INTO ids SELECT id, f FROM ev;
         INSERT INTO agg SELECT id % 17, count(*), max(id) FROM ev GROUP BY id % 17;
         INSERT INTO last SELECT id, id % 17 FROM ev
            QUALIFY row_number() OVER (PARTITION BY id % 17 ORDER BY id DESC) = 1;",
        server.table("ids"),
        server.table("public.agg"),
        server.table("last"),
    )
}

fn once(place: &Place, failpoints: &str) -> Ran {
    let mut command = fuse(place, &["query", "p.sql", "--once", "--quiet"]);
    Ran::from(command.env("FAILPOINTS", failpoints).output().expect("runs"))
}

fn sql(place: &Place, sql: &str) -> Ran {
    Ran::from(fuse(place, &["query", "-c", sql, "--format", "csv"]).output().expect("runs"))
}

/// What is wrong with the tables, if anything is.
fn mistakes(place: &Place, server: &Server) -> Vec<String> {
    let pairs = [
        ("SELECT id, f FROM ids ORDER BY id", "SELECT id, f FROM ev ORDER BY id"),
        (
            "SELECT g, n, most FROM agg ORDER BY g",
            "SELECT id % 17 AS g, count(*), max(id) FROM ev GROUP BY 1 ORDER BY 1",
        ),
        ("SELECT id, g FROM last ORDER BY g", "SELECT max(id), id % 17 FROM ev GROUP BY 2 ORDER BY 2"),
    ];
    let batch = |query: &str| {
        let table = "CREATE EXTERNAL TABLE ev (id BIGINT, f BIGINT) STORED AS JSON LOCATION 'in/';";
        place.sql(&format!("{table} {query}")).data().split_once('\n').expect("a header").1.to_owned()
    };
    pairs.iter().filter(|(here, there)| server.run(here) != batch(there)).map(|pair| pair.0.to_owned()).collect()
}

#[test]
fn nothing_is_lost_or_doubled_however_often_it_is_killed() {
    let kills = std::env::var("FUSE_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(30);
    let (place, server) = (Place::new(), Server::start());
    place.write("p.sql", statements(&server));
    input(&place, 0);
    once(&place, "").data();
    let torn = || server.run(TORN);
    killed(&place, kills, (80, 500), || fuse(&place, &["query", "p.sql", "--trigger", "1ms"]), torn);
    once(&place, "").data();
    assert_eq!(mistakes(&place, &server), Vec::<String>::new());
}

#[test]
#[cfg(feature = "failpoints")]
fn each_durable_step_may_fail() {
    let server = Server::start();
    for step in super::sqlite::STEPS {
        for action in ["exit", "error"] {
            let place = Place::new();
            server.run("DROP TABLE IF EXISTS ids, agg, last, _fuse_epochs");
            place.write("p.sql", statements(&server));
            fails_and_goes_on(&place, step, action, &|failpoints| once(&place, failpoints));
            assert_eq!(mistakes(&place, &server), Vec::<String>::new(), "{step} {action}");
        }
    }
}

/// A table of many types.
const TYPES: &str = "CREATE TABLE types (k int PRIMARY KEY, s smallint, l bigint, r real, d double precision,
        m numeric(12,3), n numeric, b boolean, t text, v varchar(9), c char(4), y bytea, day date, at time(3),
        ts timestamp, z timestamptz, u uuid, j jsonb, a int[]);
    INSERT INTO types VALUES
        (1, -32768, 9223372036854775807, 1.5, 'NaN', -12.345, 0.1, true, E'a\\tb\\\\n\\n', 'é', 'ab', '\\x00ff',
         '2024-02-29', '23:59:59.5', '2024-02-29 10:00:00.123456', '2024-02-29 10:00:00+02',
         '6b0a3b8e-8c3c-4c7c-9f2b-0f8f3b1c2d4e', '{\"a\": 1}', '{1,2}'),
        (2), (3, 0, 0, '-Infinity', 1e300, 0, 12345678901234567890, false, '', '', '', '', '1969-12-31', '00:00',
         '0001-01-01', '1970-01-01Z', '6b0a3b8e-8c3c-4c7c-9f2b-0f8f3b1c2d4f', 'null', '{}');";

#[test]
fn a_table_at_rest_has_the_rows_and_types_that_it_has_there() {
    let (place, server) = (Place::new(), Server::start());
    server.run(&TYPES.replace("(2), (3", "(2, NULL), (3").replace("(2, NULL)", &format!("(2{})", ", NULL".repeat(18))));
    let table = format!("CREATE EXTERNAL TABLE t {};", server.table("types"));
    let types = sql(&place, &format!("{table} SELECT data_type FROM (DESCRIBE t)")).data();
    let expected = "data_type INT SMALLINT BIGINT REAL DOUBLE DECIMAL(12, 3) DECIMAL(38, 10) BOOLEAN VARCHAR VARCHAR \
         VARCHAR BYTEA DATE TIME TIMESTAMP TIMESTAMP WITH TIME ZONE VARCHAR VARCHAR VARCHAR";
    assert_eq!(types.replace('"', "").replace('\n', " ").trim(), expected);
    let rows =
        sql(&place, &format!("{table} SELECT k, s, l, r, d, m, n, b, v, day, at, ts, z, u, j, a FROM t ORDER BY k"));
    let rows = rows.data();
    let lines: Vec<&str> = rows.lines().collect();
    assert_eq!(
        lines[1],
        "1,-32768,9223372036854775807,1.5,NaN,-12.345,0.1000000000,true,é,2024-02-29,23:59:59.500,\
         2024-02-29T10:00:00.123456,2024-02-29T08:00:00Z,6b0a3b8e-8c3c-4c7c-9f2b-0f8f3b1c2d4e,\"{\"\"a\"\": 1}\",\"{1,2}\""
    );
    assert_eq!(lines[2], format!("2{}", ",".repeat(15)));
    assert!(lines[3].contains("-inf,1e300,0.000,12345678901234567890.0000000000,false,"), "{}", lines[3]);
    let same = |condition: &str| {
        let pushed = sql(&place, &format!("{table} SELECT k FROM t WHERE {condition} ORDER BY k")).data();
        // A table of rows is asked here, and not there.
        let here = format!("{table} CREATE TABLE h AS SELECT * FROM t; SELECT k FROM h WHERE {condition} ORDER BY k");
        assert_eq!(pushed, sql(&place, &here).data(), "{condition}");
        pushed.lines().count()
    };
    for (condition, rows) in [
        ("k > 1 AND t IS NOT NULL", 1),
        ("t < 'b' OR l = 0", 2),
        ("day >= DATE '2024-01-01'", 1),
        ("ts BETWEEN TIMESTAMP '2024-02-29 10:00:00' AND TIMESTAMP '2024-02-29 10:00:01'", 1),
        ("m < 0.5", 2),
        ("NOT b", 1),
        ("u = '6b0a3b8e-8c3c-4c7c-9f2b-0f8f3b1c2d4e'", 1),
        ("c = 'ab'", 1),
        ("d > 5", 2),
        ("k IN (1, 3, 7) AND s <> 0", 1),
    ] {
        assert_eq!(same(condition), rows + 1, "{condition}");
    }
    let plan = sql(&place, &format!("{table} EXPLAIN SELECT k FROM t WHERE k > 1 LIMIT 1")).data();
    assert!(plan.contains("full_filters=[t.k > Int32(1)], fetch=1"), "{plan}");
    assert!(!plan.contains("FilterExec"), "{plan}");
    assert_eq!(sql(&place, &format!("{table} SELECT count(*) AS n FROM t")).data(), "n\n3\n");
    let refused = format!("CREATE EXTERNAL TABLE t (k BIGINT) {};", server.table("types"));
    assert!(sql(&place, &refused).error(2).contains("with other columns"));
    let none = format!("CREATE EXTERNAL TABLE t {};", server.table("nothing"));
    assert!(sql(&place, &none).error(1).contains("there is no table nothing in"));
}

#[test]
fn what_is_written_comes_back() {
    let (place, server) = (Place::new(), Server::start());
    let values = "SELECT * FROM (VALUES
        (1, true, CAST('NaN' AS DOUBLE), CAST('12.50' AS DECIMAL(10,2)), E'a''b\\t\\\\N', X'00ff', DATE '2024-02-29',
         TIMESTAMP '2024-02-29 23:59:59.123456'),
        (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
        (3, false, CAST('-inf' AS DOUBLE), CAST('-99999999.99' AS DECIMAL(10,2)), '\\N', X'', DATE '1969-12-31',
         TIMESTAMP '1969-12-31 00:00:00')) AS v(k, b, d, m, t, y, day, ts)";
    let table = format!(
        "CREATE EXTERNAL TABLE w (k BIGINT, b BOOLEAN, d DOUBLE, m DECIMAL(10,2), t VARCHAR, y BYTEA, day DATE,
            ts TIMESTAMP, PRIMARY KEY (k)) {};",
        server.table("odd \"name")
    );
    sql(&place, &format!("{table} INSERT INTO w {values}")).data();
    let back = sql(&place, &format!("{table} SELECT * FROM w ORDER BY k")).data();
    assert_eq!(back, sql(&place, &format!("{values} ORDER BY k")).data());
    let error = sql(&place, &format!("{table} INSERT INTO w (k) VALUES (4), (3)")).error(1);
    assert!(error.contains("a row of this key is in"), "{error}");
    assert_eq!(server.run("SELECT count(*) FROM \"odd \"\"name\""), "3\n");
}

#[test]
fn a_password_is_seen_nowhere() {
    let (place, server) = (Place::new(), Server::start());
    server.run("CREATE TABLE t (k int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 1)");
    let url = server.url();
    let open =
        |name: &str, table: &str| format!("{name} STORED AS POSTGRES LOCATION '{url}' OPTIONS ('table' '{table}');");
    let at_rest = open("CREATE EXTERNAL TABLE t", "t");
    let mut said = String::new();
    let mut hear = |ran: Ran| {
        said += &ran.stdout;
        said += &ran.stderr;
        ran.code
    };
    let asked = "EXPLAIN SELECT * FROM t WHERE k > 0; EXPLAIN ANALYZE SELECT * FROM t; SHOW ALL; SELECT * FROM t;
        SELECT * FROM information_schema.tables; SELECT * FROM information_schema.views; SHOW CREATE TABLE t;";
    assert_eq!(hear(sql(&place, &format!("{at_rest} {asked}"))), Some(0));
    // The line of the statement is shown beside an error.
    assert_ne!(hear(sql(&place, &at_rest.replace("'t')", "'nope')"))), Some(0));
    assert_ne!(hear(sql(&place, &at_rest.replace("OPTIONS", "OPTIOSN"))), Some(0));
    assert_ne!(hear(sql(&place, &at_rest.replace("/postgres'", "/nowhere'"))), Some(0));
    assert_ne!(hear(sql(&place, &at_rest.replace("127.0.0.1", "127.0.0.1:9:9"))), Some(0));
    assert_ne!(hear(sql(&place, &at_rest.replace("fuse:canary", "fuse:not-canary"))), Some(0));
    // The state, the log and the errors of a pipeline.
    let pipeline = format!(
        "{} {} INSERT INTO o SELECT k, n FROM s;",
        open("CREATE STREAM s", "t"),
        open("CREATE EXTERNAL TABLE o (k INT, n INT, PRIMARY KEY (k))", "o")
    );
    let run = |more: &[&str]| {
        let args = [&["query", "--once", "--state", "state", "-c", pipeline.as_str()], more].concat();
        Ran::from(place.command(&args).env("RUST_LOG", "debug").output().expect("runs"))
    };
    assert_eq!(hear(run(&[])), Some(0));
    server.run("DROP TABLE o");
    server.run("INSERT INTO t VALUES (2, 2)");
    assert_ne!(hear(run(&[])), Some(0));
    hear(place.run(&["inspect", "state"]));
    hear(place.run(&["inspect", "state", "--format", "json"]));
    let explained = format!("{} EXPLAIN INCREMENTAL SELECT count(*) FROM s", open("CREATE STREAM s", "t"));
    assert_eq!(hear(sql(&place, &explained)), Some(0));
    assert!(said.contains("127.0.0.1"), "{said}");
    assert!(!said.contains(PASSWORD), "{}", said.lines().find(|line| line.contains(PASSWORD)).unwrap_or_default());
    for name in place.files() {
        let bytes = std::fs::read(place.path().join(&name)).expect("reads");
        assert!(!bytes.windows(PASSWORD.len()).any(|part| part == PASSWORD.as_bytes()), "{name}");
    }
}

#[test]
fn connections_are_encrypted_as_the_url_says() {
    let (server, plain, place) = (Server::start_encrypted(), Server::start(), Place::new());
    let view = "CREATE VIEW enc AS SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    server.run(view);
    plain.run(view);
    let ask = |server: &Server, query: &str| {
        let table = server.table("enc").replace("/postgres'", &format!("/postgres{query}'"));
        sql(&place, &format!("CREATE EXTERNAL TABLE enc {table}; SELECT ssl FROM enc"))
    };
    for (query, encrypted) in [("", true), ("?sslmode=disable", false), ("?sslmode=require", true)] {
        assert_eq!(ask(&server, query).data(), format!("ssl\n{encrypted}\n"), "{query}");
    }
    let authority = format!("?sslmode=verify-full&sslrootcert={}", server.authority().display());
    assert_eq!(ask(&server, &authority).data(), "ssl\ntrue\n");
    let told = ask(&server, "?sslmode=verify-full").error(1);
    assert!(told.contains("certificate"), "{told}");
    assert_eq!(ask(&plain, "").data(), "ssl\nfalse\n");
    let told = ask(&plain, "?sslmode=require").error(1);
    assert!(told.contains("TLS") || told.contains("encrypt"), "{told}");
    assert!(ask(&plain, "?sslmode=perhaps").error(2).contains("verify-full"));
}
