//! Charts as files.
//!
//! Enters: COPY to `.svg`, and `-o`. Leaves: nothing. Always holds: a chart is written as a whole or not at all,
//! and what cannot be drawn says why.

use crate::support::Place;

const TRIPS: &str = "(SELECT * FROM (VALUES ('Old Town', 8, 3), ('Harbour & Sea', 4, 1)) t(name, trips, bikes))";

#[test]
fn copy_and_o_write_a_chart() {
    let place = Place::new();
    let sql = format!("COPY {TRIPS} TO 'new/bars.svg' OPTIONS ('title' 'Trips < bikes')");
    assert!(place.run(&["query", "-c", &sql]).stderr.contains("2 rows written to new/bars.svg"));
    let bars = place.read("new/bars.svg");
    assert!(bars.starts_with("<svg") && bars.trim_end().ends_with("</svg>"), "{bars}");
    for text in ["Old Town", "Harbour &amp; Sea", "trips", "bikes", "Trips &lt; bikes"] {
        assert!(bars.contains(text), "{text} in {bars}");
    }
    let days = "SELECT DATE '2024-01-01' + value::int AS day, value AS n FROM generate_series(0, 9)";
    place.run(&["query", "-c", days, "-o", "line.svg"]).data();
    assert!(place.read("line.svg").contains("2024-01-0"), "{}", place.read("line.svg"));
    place.sql(&format!("CREATE VIEW v AS {days}; COPY v TO 'points.svg' OPTIONS ('chart' 'scatter')")).data();
    assert_eq!(place.read("points.svg").matches("<circle").count(), 10);
    assert_eq!(place.files(), ["line.svg", "new/bars.svg", "points.svg"]);
}

#[test]
fn what_cannot_be_drawn_leaves_the_old_file() {
    let place = Place::new();
    place.write("a.svg", "old");
    for (sql, code, message) in [
        ("COPY (SELECT 'x' AS t) TO 'a.svg'", 1, "a chart needs a column of numbers"),
        ("COPY (SELECT value FROM generate_series(1, 100000)) TO 'a.svg'", 1, "at most 50000 rows"),
        ("COPY (SELECT 1 AS n) TO 'a.svg' OPTIONS ('chart' 'pie')", 2, "no chart named 'pie'"),
        ("COPY (SELECT 1 AS n) TO 'a.svg' OPTIONS ('compression' 'zstd')", 2, "a chart has no option compression"),
        ("COPY (SELECT 1 AS n, 2 AS k) TO 'a.svg' PARTITIONED BY (k)", 2, "a chart is one file"),
        ("COPY (SELECT 1 AS n) TO 's3://bucket/a.svg'", 2, "written to a local file"),
        ("COPY (SELECT nope) TO 'a.svg'", 2, "no column named nope"),
    ] {
        let error = place.run(&["query", "-c", sql]).error(code);
        assert!(error.contains(message), "{sql}: {error}");
    }
    place.run(&["query", "-c", "SELECT 'x' AS t", "-o", "a.svg"]).error(1);
    assert_eq!(place.read("a.svg"), "old");
    assert_eq!(place.files(), ["a.svg"]);
    let check = place.run(&["check", "-c", "COPY (SELECT 1 AS n) TO 'b.svg'"]);
    assert_eq!((check.code, place.files().len()), (Some(0), 1));
}
