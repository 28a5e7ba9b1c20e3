//! The interactive session, driven as a person drives it.
//!
//! Enters: keys, through tmux on a socket of its own. Leaves: nothing. Always holds: each test has a terminal of
//! a fixed size and folders of its own for history and configuration; what is expected is waited for.

mod screens;
mod terminal;

use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Place, Ran};
use terminal::Terminal;

#[test]
fn a_statement_goes_on_until_its_semicolon() {
    let mut terminal = Terminal::start(80, 24);
    terminal.line("SELECT 'a;b' AS t, -- not yet;");
    terminal.line("  12345 AS n");
    terminal.line(";");
    let expected = "\
fuse> SELECT 'a;b' AS t, -- not yet;
  ...   12345 AS n
  ... ;
┌──────┬────────┐
│ t    │ n      │
│ text │ bigint │
├──────┼────────┤
│ a;b  │  12345 │
└──────┴────────┘
1 row, 2 columns, 0.";
    terminal.wait(expected);
    // What was typed is one entry of the history, and can be edited as a whole.
    terminal.keys(&["Up"]);
    terminal.wait_for(|screen| screen.trim_end().ends_with("\n  ... ;"), "the statement");
    terminal.keys(&["Down", "C-e"]);
    terminal.type_text(", 5 AS five");
    terminal.wait_for(|screen| screen.contains("12345 AS n, 5 AS five\n  ... ;"), "the edited statement");
    terminal.keys(&["Enter"]);
    terminal.wait("│ a;b  │  12345 │      5 │");
}

#[test]
fn history_outlives_the_session_and_can_be_searched() {
    let mut terminal = Terminal::start(80, 24);
    terminal.line("SELECT 1 AS one,");
    terminal.line("2 AS two;");
    terminal.wait("1 row, 2 columns");
    terminal.line("SELECT 'other';");
    terminal.wait("│ other");
    terminal.line(".quit");
    terminal.wait("code 0");
    let mut terminal = terminal.again(80, 24);
    terminal.keys(&["C-r"]);
    terminal.type_text("AS one");
    terminal.wait("SELECT 1 AS one,\n");
    terminal.keys(&["Enter"]);
    terminal.wait("  ... 2 AS two;");
    terminal.keys(&["Enter"]);
    terminal.wait("1 row, 2 columns");
    let files = terminal.place.files();
    assert!(files.contains(&"data/fuse/history".to_owned()), "{files:?}");
    assert!(!files.iter().any(|name| name.starts_with("work/") && name.contains("history")), "{files:?}");
    // What runs is of no interest to others.
    let history = std::fs::metadata(terminal.place.path().join("data/fuse/history")).expect("a history");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&history.permissions()) & 0o777, 0o600);
}

#[test]
fn tab_knows_what_can_stand_there() {
    let mut terminal = Terminal::start(80, 24);
    terminal.file("work/stations.csv", "station_id,district,docks\n1,Old Town,24\n");
    for (typed, completed) in [
        ("FROM 'stat", "FROM 'stations.csv'"),
        ("FROM 'stations.csv' WHERE distr", "WHERE district"),
        ("FROM 'stations.csv' s WHERE s.do", "WHERE s.docks"),
        ("SET fuse.table_r", "SET fuse.table_rows"),
        ("SELECT date_tr", "SELECT date_trunc("),
        (".func", ".functions"),
        (".mode mark", ".mode markdown"),
        (".read st", ".read stations.csv"),
    ] {
        terminal.type_text(typed);
        terminal.wait(typed);
        terminal.keys(&["Tab"]);
        terminal.wait(completed);
        terminal.keys(&["C-c"]);
        terminal.wait_for(|screen| screen.trim_end().ends_with("\nfuse>"), "an empty line");
    }
    // More than one: a menu, with types and signatures.
    terminal.type_text("SELECT d FROM 'stations.csv'");
    terminal.keys(&["C-a", "M-f", "Right", "Right", "Tab"]);
    terminal.wait("district              text\n");
    terminal.wait("docks                 bigint\n");
    terminal.wait("date_trunc(           date_trunc(precision, expression)\n");
    terminal.keys(&["C-c"]);
    terminal.wait_for(|screen| screen.trim_end().ends_with("\nfuse>"), "an empty line");
    terminal.line("CREATE VIEW wide AS SELECT 1 AS \"Big One\";");
    terminal.wait("done");
    terminal.type_text("FROM wi");
    terminal.wait("FROM wi");
    terminal.keys(&["Tab"]);
    terminal.wait("FROM wide");
    terminal.type_text(" WHERE \"B");
    terminal.wait("WHERE \"B");
    terminal.keys(&["Tab"]);
    terminal.wait("WHERE \"Big One\"");
}

#[test]
fn ctrl_c_gives_the_prompt_back_at_once() {
    let mut terminal = Terminal::start(80, 24);
    terminal.keys(&["C-c"]);
    terminal.wait("Ctrl-D or .quit leaves.");
    terminal.type_text("SELECT nothing");
    terminal.wait("SELECT nothing");
    terminal.keys(&["C-c"]);
    terminal.wait_for(|screen| screen.trim_end().ends_with("nothing\nfuse>"), "an empty line");
    // A query on all cores; progress shows, and goes.
    terminal.line("SELECT count(*) FROM generate_series(1, 1000000000000) WHERE value % 7 = 8;");
    terminal.wait("rows/s");
    let waited = terminal.interrupt(1);
    assert!(waited < Duration::from_millis(350), "{waited:?}");
    assert!(!terminal.everything().contains("rows/s"), "{}", terminal.everything());
    // An operator that is busy for a long time, and cannot stop.
    terminal.line("SELECT length(regexp_replace(repeat('ab', 40000000), 'a', 'cc', 'g')) AS n;");
    std::thread::sleep(Duration::from_millis(300));
    let waited = terminal.interrupt(2);
    assert!(waited < Duration::from_millis(350), "{waited:?}");
    // A write leaves nothing.
    terminal.line("COPY (SELECT value FROM generate_series(1, 1000000000)) TO 'a.parquet';");
    terminal.wait("writing");
    terminal.interrupt(3);
    terminal.line("SELECT 40 + 2 AS answer;");
    terminal.wait("│     42 │");
    assert!(!terminal.place.files().iter().any(|name| name.starts_with("work/")), "{:?}", terminal.place.files());
    assert!(!terminal.everything().contains("120000000"), "a stopped statement prints nothing");
    terminal.keys(&["C-d"]);
    terminal.wait("code 0");
}

#[test]
fn an_error_keeps_the_session() {
    let mut terminal = Terminal::start(80, 24);
    terminal.line("CREATE VIEW v AS SELECT 5 AS five;");
    terminal.wait("done");
    terminal.line("SELECT fve FROM v;");
    terminal.wait("1 | SELECT fve FROM v;\n  |        ^^^\n");
    terminal.wait("help: did you mean five?");
    terminal.line("COPY (SELECT 1 / (five - 5) AS x FROM v) TO 'x.csv';");
    terminal.wait("division by zero");
    terminal.line("SELECT five FROM v;");
    terminal.wait("│      5 │");
    for (line, answer) in [
        (".tabels", "did you mean .tables?"),
        ("\\dtt", "did you mean \\dt?"),
        (".read nothing.sql", "nothing.sql"),
        (".plot", "time, then numbers"),
    ] {
        if line == ".plot" {
            terminal.line("SELECT 'a' AS a;");
        }
        terminal.line(line);
        terminal.wait(answer);
    }
    assert!(!terminal.place.files().iter().any(|name| name.starts_with("work/")), "{:?}", terminal.place.files());
}

#[test]
fn wide_and_long_results_fit_the_terminal() {
    let mut terminal = Terminal::start(80, 60);
    terminal.line(".timer off");
    terminal.wait("timer is off");
    let columns: Vec<String> = (0..30).map(|at| format!("value * {at} AS c{at}")).collect();
    terminal.line(&format!("CREATE VIEW w AS SELECT {} FROM generate_series(1, 100000);", columns.join(", ")));
    terminal.wait("done");
    terminal.line("SELECT * FROM w ORDER BY c1;");
    terminal.wait("100,000 rows, 30 columns (7 shown), 40 shown\n");
    terminal.wait("│ bigint │ bigint │ bigint │ bigint │ … │ bigint  │");
    terminal.wait("│      0 │      1 │      2 │      3 │ … │      27 │");
    terminal.line("SELECT repeat('ä', 200) AS t, 1234567890123 AS n, [1, 2] AS l;");
    terminal.wait("… │ 1234567890123 │ [1, 2]   │");
    terminal.resize(40, 30);
    terminal.line("SELECT repeat('ä', 200) AS t, 1234567890123 AS n;");
    terminal.wait("… │ 1234567890123 │\n");
    let screen = terminal.screen();
    let table = screen.rsplit_once('┌').expect("a table").1;
    assert!(table.lines().all(|line| line.chars().count() <= 40), "{screen}");
    terminal.line("\\x");
    terminal.wait("expanded is on");
    terminal.line("SELECT 'x' AS text, 2 AS number;");
    terminal.wait("─[ 1 ]─\ntext   │ x\nnumber │ 2\n1 row, 2 columns");
    assert_eq!(terminal.everything().matches("99999").count(), 1, "the last rows are shown once");
}

#[test]
fn the_whole_result_goes_to_the_pager_and_to_files() {
    let mut terminal = Terminal::start_with(80, 24, &[("PAGER", "cat > paged.txt")]);
    terminal.line("SELECT value, repeat('x', 100) AS t FROM generate_series(1, 5000);");
    terminal.wait("5,000 rows, 2 columns, 40 shown");
    terminal.line(".last");
    terminal.line(".output rows.csv");
    terminal.wait("results go to rows.csv");
    terminal.line("SELECT 1 AS a;");
    terminal.wait("1 row for rows.csv");
    terminal.line("SELECT 1 / 0;");
    terminal.wait("division by zero");
    terminal.line("SELECT 2 AS a;");
    terminal.wait_for(|screen| screen.matches("1 row for rows.csv").count() == 2, "a second result");
    assert!(!terminal.place.files().contains(&"work/rows.csv".to_owned()));
    terminal.line(".output");
    terminal.wait("rows.csv is written");
    assert_eq!(terminal.place.read("work/rows.csv"), "a\n1\na\n2\n");
    let paged = terminal.place.read("work/paged.txt");
    assert_eq!(paged.lines().count(), 5005, "{paged}");
    assert!(paged.contains(&"x".repeat(100)) && !paged.contains('…'));
    terminal.line(".mode csv");
    terminal.line("SELECT 3 AS a;");
    terminal.wait("a\n3\n1 row");
}

#[test]
fn the_last_result_is_drawn() {
    let mut terminal = Terminal::start(60, 30);
    terminal.line("SELECT * FROM (VALUES ('Old Town', 8), ('Harbour', 4)) t(name, trips);");
    terminal.wait("2 rows");
    terminal.line(".plot");
    terminal.wait("Old Town │████");
    terminal.line("SELECT DATE '2024-01-01' + value::int AS day, value * value AS n FROM generate_series(0, 40);");
    terminal.wait("41 rows");
    terminal.line(".plot");
    terminal.wait("2024-01-01   ");
    terminal.wait("2024-02-10");
    terminal.wait("1600");
    terminal.line(".plot pie");
    terminal.wait("charts are line, bar and scatter");
}

#[test]
fn plans_are_trees() {
    let mut terminal = Terminal::start(80, 40);
    terminal.line("SELECT count(*) FROM generate_series(1, 200000) WHERE value % 2 = 0;");
    terminal.wait("1 row");
    terminal.line(".explain");
    terminal.wait("physical plan\n  ");
    terminal.line(".explain analyze");
    terminal.wait("rows        time  share");
    terminal.wait("├─");
    terminal.wait("time of all threads together");
    assert!(terminal.screen().contains("%◀"), "{}", terminal.screen());
}

#[test]
fn rc_files_commands_and_scripts_run() {
    let place = Place::new();
    place.write("config/fuse/rc.sql", "-- mine\n.timer off\nCREATE VIEW mine AS SELECT 7 AS seven;\n");
    place.write("work/more.sql", ".mode csv\nSELECT seven FROM mine;\nSELECT oops;\nSELECT 'not reached';\n");
    let mut terminal = Terminal::in_place(place, 80, 30, &[]);
    terminal.line("FROM mine;");
    terminal.wait("1 row, 1 column\n");
    terminal.line(".tables");
    terminal.wait("│ mine │ view │       1 │");
    terminal.line("\\d mine");
    terminal.wait("│ seven  │ bigint │");
    terminal.line("\\df date_tru");
    terminal.wait("date_trunc(precision, expression)");
    terminal.line(".read more.sql");
    terminal.wait("seven\n7\n");
    terminal.wait("--> more.sql:3:8");
    assert!(!terminal.everything().contains("not reached"));
    terminal.keys(&["C-d"]);
    terminal.wait("code 0");
    terminal.place.write("work/init.sql", "SELECT 'from init' AS x;");
    let mut terminal = terminal.again_with(80, 24, &[], &["--init", "init.sql"]);
    terminal.wait("from init");
    terminal.line("FROM mine;");
    terminal.wait("no table named mine");
    terminal.line("exit");
    terminal.wait("code 0");
}

#[test]
fn pasted_scripts_run_as_they_are() {
    let mut terminal = Terminal::start(80, 24);
    let statements: Vec<String> =
        (0..16).map(|n| format!("SELECT {n} AS n, ';' AS t\n  FROM generate_series(1, 2)\n  LIMIT 1;")).collect();
    terminal.paste(&format!("-- fifty lines\n{}\n.timer off\n", statements.join("\n")));
    terminal.keys(&["Enter"]);
    terminal.wait("│     15 │ ;    │");
    terminal.wait("timer is off");
    assert_eq!(terminal.everything().matches("1 row, 2 columns").count(), 16);
}

#[test]
fn no_color_means_no_colour() {
    let sql = "SELECT 'x' AS t, 1 AS n; SELECT nope;";
    let colourful = |variables: &[(&str, &str)]| {
        let mut terminal = Terminal::start_with(80, 24, variables);
        terminal.line(sql);
        terminal.wait("no column named nope");
        terminal.styled().contains('\u{1b}')
    };
    assert!(colourful(&[]));
    assert!(!colourful(&[("NO_COLOR", "1")]));
}

#[test]
fn without_a_terminal_fuse_runs_standard_input() {
    let place = Place::new();
    let mut child = place.command(&["--format", "csv", "-D", "n=5"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    child.stdin.take().expect("a pipe").write_all(b"SELECT $n AS a; SELECT 2 AS b").expect("writes");
    assert_eq!(Ran::from(child.wait_with_output().expect("ends")).data(), "a\n5\nb\n2\n");
    let help = place.run(&["--help"]).data();
    for word in ["query", "check", "--init", "--memory-limit"] {
        assert!(help.contains(word), "{word} in {help}");
    }
}

#[test]
fn progress_is_shown_and_taken_away() {
    let place = Place::new();
    let sql = "SELECT count(*) AS n FROM generate_series(1, 1500000000) WHERE value % 7 = 8";
    let start = Instant::now();
    let mut terminal = Terminal::of_query(place, 80, 24, sql);
    terminal.wait("rows/s");
    assert!(start.elapsed() > Duration::from_millis(900), "a second of patience");
    terminal.interrupt(0);
    terminal.wait("code 130");
    assert!(!terminal.everything().contains("rows/s"), "{}", terminal.everything());
}

#[test]
fn a_query_over_a_growing_table_is_a_table_that_changes_in_place() {
    let mut terminal = Terminal::start(90, 24);
    terminal.line("CREATE STREAM r STORED AS RATE OPTIONS ('rows_per_second' '40');");
    terminal.wait("done");
    terminal.line("SELECT value % 2 AS k, count(*) > 20 AS many FROM r GROUP BY 1;");
    terminal.wait("┃      0 │ true");
    terminal.wait("lag ");
    terminal.wait("(q stops)");
    terminal.keys(&["q"]);
    terminal.wait("stopped: ");
    // One table stays, without the status line, and the session goes on.
    assert_eq!(terminal.everything().matches("│ k ").count(), 1, "{}", terminal.everything());
    assert!(!terminal.everything().contains("(q stops)"), "{}", terminal.everything());
    terminal.line("SELECT 40 + 2 AS answer;");
    terminal.wait("│     42 │");
    // Rows that are only added scroll; Ctrl-C stops too.
    terminal.line("SELECT 'row ' || value AS row FROM r;");
    terminal.wait("│ row 3 ");
    terminal.keys(&["C-c"]);
    terminal.wait_for(|screen| screen.matches("stopped: ").count() == 2, "the end");
    // What is written goes on where it was stopped.
    terminal.line("COPY (SELECT count(*) AS n FROM r) TO 'n.csv';");
    terminal.wait("commit ");
    terminal.keys(&["q"]);
    terminal.wait("the same statement goes on from there");
    let first: u64 = terminal.place.read("work/n.csv").lines().nth(1).and_then(|n| n.parse().ok()).expect("a count");
    terminal.keys(&["Up", "Enter"]);
    let path = terminal.place.path().join("work/n.csv");
    terminal.wait_for(
        |_| {
            let now = std::fs::read_to_string(&path).unwrap_or_default();
            now.lines().nth(1).and_then(|n| n.parse().ok()).is_some_and(|n: u64| n > first)
        },
        "more rows",
    );
    terminal.keys(&["q"]);
    terminal.wait_for(|screen| screen.matches("goes on from there").count() == 2, "the end");
    terminal.line("SELECT 'still here' AS x;");
    terminal.wait("│ still here │");
    // EXPLAIN INCREMENTAL knows what ran.
    terminal.line(".mode json");
    terminal.line("EXPLAIN INCREMENTAL SELECT count(*) AS n FROM r;");
    terminal.wait("\"state_rows\":1,");
    terminal.wait("\"epoch_micros\":");
}

#[test]
fn a_statement_that_inserts_runs_until_a_key_and_goes_on() {
    let mut terminal = Terminal::start(90, 24);
    terminal.line("CREATE STREAM r STORED AS RATE OPTIONS ('rows_per_second' '40');");
    terminal.wait("done");
    terminal.line("CREATE EXTERNAL TABLE o (value BIGINT) STORED AS CSV LOCATION 'o/';");
    terminal.wait_for(|screen| screen.matches("done").count() == 2, "the table");
    let folder = terminal.place.path().join("work/o");
    let rows = || -> Vec<u64> {
        let files = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let files = files.filter(|file| !file.file_name().to_string_lossy().starts_with('.'));
        let texts = files.map(|file| std::fs::read_to_string(file.path()).unwrap_or_default());
        let mut rows: Vec<u64> =
            texts.flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>()).collect();
        rows.sort_unstable();
        rows
    };
    terminal.line("INSERT INTO o SELECT value FROM r;");
    terminal.wait("commit ");
    terminal.keys(&["q"]);
    terminal.wait("the same statement goes on from there");
    let first = rows();
    assert!(!first.is_empty());
    terminal.keys(&["Up", "Enter"]);
    terminal.wait_for(|_| rows().len() > first.len(), "more rows");
    terminal.keys(&["q"]);
    terminal.wait_for(|screen| screen.matches("goes on from there").count() == 2, "the end");
    // Nothing is lost and nothing is there twice, and the table can be read.
    let all = rows();
    assert_eq!(all, (0..all.len() as u64).collect::<Vec<_>>());
    terminal.line("SELECT count(*) AS n, max(value) AS most FROM o;");
    terminal.wait(&format!("│ {:>6} │ {:>6} │", all.len(), all.len() - 1));
}
