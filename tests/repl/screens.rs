//! Whole screens of the interactive session, as golden files.
//!
//! Enters: what a person types. Leaves: `tests/repl/screens/*.txt`, which `FUSE_BLESS=1` writes anew. Always holds: each
//! is all that the terminal shows, but for the times that things took, which are written `0.00`.

use super::terminal::Terminal;

/// A screen: its name, the size of the terminal, what is typed line by line, and what is there at the end.
const SCREENS: [(&str, (u32, u32), &[&str], &str); 7] = [
    (
        "result",
        (80, 24),
        &["SELECT 'a' AS t, 12345 AS n, [1, 2] AS l, NULL AS z, DATE '2024-02-29' AS d;"],
        "1 row, 5 columns",
    ),
    (
        "long_result",
        (60, 50),
        &["SELECT value AS v, value * value AS square FROM generate_series(1, 1000);"],
        "1,000 rows, 2 columns",
    ),
    (
        "wide_result",
        (60, 24),
        &["SELECT 'some text' AS a, repeat('x', 50) AS b, repeat('y', 50) AS c, 1.5 AS d, 2 AS e, 3 AS f;"],
        "6 columns",
    ),
    ("error", (80, 24), &["SELECT nmae FROM (SELECT 1 AS name);"], "did you mean name?"),
    (
        "tables",
        (80, 24),
        &[
            "CREATE TABLE t (a INT, b VARCHAR);",
            "CREATE VIEW v AS SELECT a FROM t;",
            ".tables",
            ".schema t",
            "DESCRIBE t;",
        ],
        "VARCHAR",
    ),
    (
        "expanded",
        (80, 24),
        &[".mode expanded", "SELECT 'x' AS name, 1 AS n UNION ALL SELECT 'y', 2 ORDER BY n;"],
        "2 rows, 2 columns",
    ),
    ("plot", (80, 40), &["SELECT value AS x, value * value AS y FROM generate_series(0, 20);", ".plot line"], "400"),
];

#[test]
fn screens_are_as_they_were() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/repl/screens");
    let mut changed = Vec::new();
    for (name, (width, height), lines, last) in SCREENS {
        let mut terminal = Terminal::start(width, height);
        for (at, line) in lines.iter().enumerate() {
            terminal.line(line);
            // The prompt is back before the next line is typed.
            terminal.wait_for(
                |screen| {
                    screen.trim_end().ends_with("fuse>") && screen.matches("fuse>").count() > at + 1
                        || screen.contains(last)
                },
                line,
            );
        }
        terminal.wait_for(|screen| screen.contains(last) && screen.trim_end().ends_with("fuse>"), last);
        let screen = timeless(&terminal.screen());
        let golden = folder.join(format!("{name}.txt"));
        if std::env::var_os("FUSE_BLESS").is_some() {
            std::fs::write(&golden, &screen).expect("a golden file");
        }
        let known = std::fs::read_to_string(&golden).unwrap_or_default();
        if screen != known {
            changed.push(format!("{name}: it was\n{known}\nand is\n{screen}"));
        }
    }
    assert!(changed.is_empty(), "FUSE_BLESS=1 rewrites tests/repl/screens:\n{}", changed.join("\n"));
}

/// The screen with `0.00 s` for each time, and without spaces at the ends of lines.
fn timeless(screen: &str) -> String {
    let line = |line: &str| {
        let line = line.trim_end();
        match line.strip_suffix(" s").and_then(|rest| rest.rsplit_once(", ")) {
            Some((before, time)) if time.parse::<f64>().is_ok() => format!("{before}, 0.00 s"),
            _ => line.to_owned(),
        }
    };
    let lines: Vec<String> = screen.trim_end().lines().map(line).collect();
    lines.join("\n") + "\n"
}
