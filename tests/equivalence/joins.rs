//! The law for joins and windows: every kind of join over every kind of side, every kind of window.
//!
//! Enters: random rows and epochs, from [`super`]. Leaves: nothing. Always holds: sides that only grow, that retract
//! and that rest occur on the left and on the right of each join.

use proptest::prelude::*;

use super::{law_of, one_of};

/// What joins are between: a growing table, rows that change, a table at rest. Each has k, g and v.
const SIDES: &[&str] = &[
    "(SELECT k, g, v FROM s)",
    "(SELECT k, h AS g, x AS v FROM u)",
    "(SELECT k, min(g) AS g, count(*) AS v FROM s GROUP BY k)",
    "(SELECT max(k) AS k, h AS g, sum(x) AS v FROM u GROUP BY h)",
    "(SELECT k, name AS g, w - 10 AS v FROM d)",
    "(SELECT DISTINCT k, g, v % 3 AS v FROM s)",
    "(SELECT s.k, u.h AS g, s.v FROM s LEFT JOIN u ON s.v = u.x)",
    "(SELECT k, g, v FROM s WHERE v > 1000)",
];

const CONDITIONS: &[&str] = &[
    "a.k = b.k",
    "a.k = b.k AND a.v > b.v",
    "a.k = b.k AND a.g = b.g",
    "(a.k IS NOT DISTINCT FROM b.k)",
    "(a.k IS NOT DISTINCT FROM b.k) AND a.v < b.v",
    "(a.g IS NOT DISTINCT FROM b.g) AND (a.k IS NOT DISTINCT FROM b.k)",
    "a.k + 1 = b.k * 2",
    "a.v < b.v",
    "a.v < b.v OR a.k = b.k",
    "a.k = b.k AND b.v > 3",
    "a.k = b.k AND a.v + b.v > 4",
    "true",
];

fn joined() -> impl Strategy<Value = String> {
    let kinds = &["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "JOIN"];
    let pairs = (one_of(SIDES), one_of(SIDES), one_of(kinds), one_of(CONDITIONS))
        .prop_map(|(a, b, kind, on)| format!("SELECT a.k, a.g, a.v, b.k, b.g, b.v FROM {a} a {kind} {b} b ON {on}"));
    let kinds = &["LEFT SEMI JOIN", "LEFT ANTI JOIN", "RIGHT SEMI JOIN", "RIGHT ANTI JOIN"];
    let alone = (one_of(SIDES), one_of(SIDES), one_of(kinds), one_of(CONDITIONS)).prop_map(|(a, b, kind, on)| {
        let side = if kind.starts_with("LEFT") { "a" } else { "b" };
        format!("SELECT {side}.k, {side}.g, {side}.v FROM {a} a {kind} {b} b ON {on}")
    });
    let mark = (one_of(SIDES), one_of(SIDES), one_of(CONDITIONS), one_of(&["", "NOT "])).prop_map(|(a, b, on, not)| {
        format!("SELECT k, g, v FROM {a} a WHERE {not}EXISTS (SELECT 1 FROM {b} b WHERE {on}) OR v = 2")
    });
    let tested = (one_of(SIDES), one_of(SIDES), one_of(&["IN", "NOT IN"]), one_of(&["k", "v", "k + 1", "v % 4"]))
        .prop_map(|(a, b, test, x)| format!("SELECT k, g, v FROM {a} a WHERE {x} {test} (SELECT v FROM {b} b)"));
    let correlated = (one_of(SIDES), one_of(SIDES), one_of(&["IN", "NOT IN"])).prop_map(|(a, b, test)| {
        format!("SELECT k, v FROM {a} a WHERE k {test} (SELECT b.v FROM {b} b WHERE b.g = a.g)")
    });
    let without_null = (one_of(SIDES), one_of(SIDES)).prop_map(|(a, b)| {
        format!("SELECT k, g FROM {a} a WHERE k NOT IN (SELECT v FROM {b} b WHERE v IS NOT NULL) AND k IS NOT NULL")
    });
    let floats =
        (one_of(&["JOIN", "LEFT JOIN", "FULL JOIN", "LEFT ANTI JOIN"]), one_of(&["-f", "f / 0", "f * 0", "f"]))
            .prop_map(|(kind, f)| {
                let shown = if kind.ends_with("ANTI JOIN") { "a.id" } else { "a.id, b.id" };
                format!("SELECT {shown} FROM s a {kind} (SELECT id, {f} AS f FROM s WHERE v > 2) b ON a.f * 0 = b.f")
            });
    let three = (one_of(SIDES), one_of(SIDES), one_of(kinds_of_three())).prop_map(|(a, b, kind)| {
        format!("SELECT s.id, a.v, b.g FROM s {kind} {a} a ON s.k = a.k {kind} {b} b ON a.v = b.v AND b.k >= s.k")
    });
    let counted = (one_of(SIDES), one_of(SIDES), one_of(CONDITIONS))
        .prop_map(|(a, b, on)| format!("SELECT count(*), sum(a.v), count(b.k) FROM {a} a FULL JOIN {b} b ON {on}"));
    prop_oneof![
        6 => pairs, 4 => alone, 3 => mark, 4 => tested, 1 => correlated, 1 => without_null, 2 => floats, 1 => three,
        1 => counted,
    ]
}

fn grows(query: &str) -> bool {
    query.contains("FROM s") || query.contains("FROM u")
}

fn kinds_of_three() -> &'static [&'static str] {
    &["JOIN", "LEFT JOIN", "RIGHT JOIN"]
}

/// Functions over an order that is total; `{by}` is PARTITION BY or nothing.
const TOTAL: &[&str] = &[
    "row_number() OVER ({by} ORDER BY v DESC NULLS LAST, id)",
    "sum(v) OVER ({by} ORDER BY id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)",
    "lag(v) OVER ({by} ORDER BY id), lead(g, 2, 'none') OVER ({by} ORDER BY id)",
    "first_value(v) OVER ({by} ORDER BY v NULLS FIRST, id), last_value(id) OVER ({by} ORDER BY id)",
    "rank() OVER ({by} ORDER BY v), dense_rank() OVER ({by} ORDER BY v DESC)",
    "percent_rank() OVER ({by} ORDER BY v), cume_dist() OVER ({by} ORDER BY g), ntile(3) OVER ({by} ORDER BY id)",
    "count(*) OVER ({by}), max(g) OVER ({by} ORDER BY v RANGE BETWEEN 2 PRECEDING AND 1 FOLLOWING)",
    "sum(v) OVER ({by}), sum(v) OVER (ORDER BY id), count(*) FILTER (WHERE v > 3) OVER (PARTITION BY g)",
    "avg(v) OVER ({by} ORDER BY v GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW)",
];

const PARTITIONS: &[&str] = &["PARTITION BY k", "PARTITION BY g", "PARTITION BY k, g", "PARTITION BY v % 2", ""];

/// What windows are over: id makes the order total.
const ROWS: &[&str] = &[
    "(SELECT id, k, g, v FROM s)",
    "(SELECT max(id) AS id, k, g, count(*) AS v FROM s GROUP BY k, g)",
    "(SELECT s.id, s.k, u.g, u.v FROM s JOIN (SELECT k, max(h) AS g, sum(x) AS v FROM u GROUP BY k) u ON s.k = u.k)",
];

fn windowed() -> impl Strategy<Value = String> {
    let all = (one_of(ROWS), one_of(TOTAL), one_of(PARTITIONS))
        .prop_map(|(rows, functions, by)| format!("SELECT id, {} FROM {rows}", functions.replace("{by}", &by)));
    let above = (one_of(ROWS), one_of(PARTITIONS), one_of(&["k", "g"])).prop_map(|(rows, by, key)| {
        let number = format!("row_number() OVER ({by} ORDER BY v, id)");
        format!("SELECT {key}, n, count(*), sum(v) FROM (SELECT *, {number} AS n FROM {rows}) GROUP BY {key}, n")
    });
    let orders = &["v DESC NULLS LAST, id", "v, id DESC", "id DESC", "g NULLS FIRST, v, id"];
    let limits = &["<= 1", "<= 2", "= 1", "< 4", "= 3", "BETWEEN 2 AND 3"];
    let numbered =
        (one_of(ROWS), one_of(PARTITIONS), one_of(orders), one_of(limits)).prop_map(|(rows, by, order, limit)| {
            format!("SELECT *, row_number() OVER ({by} ORDER BY {order}) AS n FROM {rows} QUALIFY n {limit}")
        });
    let ranked = (one_of(ROWS), one_of(PARTITIONS), one_of(&["rank", "dense_rank"]), one_of(&["v DESC", "g, v"]), one_of(limits))
        .prop_map(|(rows, by, rank, order, limit)| {
            format!(
                "SELECT id, k, n FROM (SELECT *, {rank}() OVER ({by} ORDER BY {order}) AS n FROM {rows}) WHERE n {limit} AND id > 2"
            )
        });
    let both = (one_of(ROWS), one_of(PARTITIONS)).prop_map(|(rows, by)| {
        let over = format!("OVER ({by} ORDER BY v NULLS FIRST, id)");
        format!("SELECT id, row_number() {over} AS n, rank() {over} AS r FROM {rows} QUALIFY n <= 3 AND r <= 2")
    });
    let last = one_of(ROWS).prop_map(|rows| {
        format!("SELECT k, n FROM (SELECT k, v AS n, row_number() OVER (PARTITION BY k ORDER BY id DESC) AS r FROM {rows}) WHERE r = 1")
    });
    prop_oneof![5 => all, 1 => above, 4 => numbered, 3 => ranked, 1 => both, 1 => last]
}

#[test]
fn joins_equal_the_batch() {
    law_of(joined().prop_filter("two tables at rest", |query| grows(query)), 2);
}

#[test]
fn windows_equal_the_batch() {
    law_of(windowed(), 4);
}
