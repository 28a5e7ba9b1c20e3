//! Arithmetic that its type cannot hold is an error, wherever it stands.
//!
//! Enters: statements whose results are too large. Leaves: nothing. Always holds: no answer wraps around, and no
//! answer that fits is refused.

use crate::support::Place;

/// `t` has the columns `a`, the largest BIGINT and 1, and `b`, 2 and 3.
const TABLE: &str = "CREATE TABLE t AS SELECT * FROM (VALUES (9223372036854775807, 2), (1, 3)) v(a, b); \
                     CREATE TABLE s AS SELECT 2 AS c; ";

#[test]
fn what_is_too_large_is_an_error_wherever_it_stands() {
    let place = Place::new();
    let queries = "SELECT 9223372036854775807 + 1
        SELECT -(-9223372036854775808)
        SELECT a + 1 FROM t
        SELECT a * b FROM t
        SELECT -a - b FROM t
        SELECT -x FROM (SELECT -a - 1 AS x FROM t)
        SELECT x * x FROM (SELECT arrow_cast(b * 40000, 'Int32') AS x FROM t)
        SELECT arrow_cast(1, 'UInt64') - arrow_cast(c, 'UInt64') FROM s
        SELECT count(*) FROM t WHERE a + b > 0
        SELECT a FROM t ORDER BY a + b
        SELECT count(*) FROM t GROUP BY a + b
        SELECT max(a + b) FROM t
        SELECT count(*) FILTER (WHERE a + b > 0) FROM t
        SELECT array_agg(b ORDER BY a + b) FROM t
        SELECT sum(a + b) OVER (ORDER BY b) FROM t
        SELECT lag(a + b) OVER (ORDER BY b) FROM t
        SELECT row_number() OVER (ORDER BY a + b) FROM t
        SELECT * FROM t JOIN s ON a + b = c
        SELECT * FROM t JOIN s ON a + c > b
        SELECT * FROM t LEFT JOIN s ON b = c AND a + c > 5
        SELECT * FROM t WHERE EXISTS (SELECT 1 FROM s WHERE b = c AND a + c > 5)
        SELECT CASE WHEN a > 1 THEN a + b END FROM t
        SELECT a FROM t WHERE array_any_match([a], x -> x + 1 > 0)
        SELECT b FROM t WHERE b > (SELECT max(a) + 1 FROM t)
        SELECT * FROM (VALUES (9223372036854775807 * 2)) v(a)
        WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n * 2 FROM r WHERE n > 0) SELECT max(n) FROM r
        INSERT INTO s SELECT a + b FROM t
        COPY (SELECT a + b AS x FROM t) TO 'x.csv'
        SELECT sum(a) FROM t
        SELECT sum(a) FROM t GROUP BY 1 = 1
        SELECT sum(a) OVER () FROM t
        SELECT sum(a) OVER (ORDER BY b ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t
        SELECT sum(DISTINCT a), count(DISTINCT b) FROM t
        SELECT sum(arrow_cast(a, 'UInt64') + arrow_cast(a - 1, 'UInt64') + arrow_cast(b, 'UInt64')) FROM t
        SELECT sum(arrow_cast(a, 'Duration(Second)')) FROM t
        SELECT sum(CAST('99999999999999999999999999999999999999' AS DECIMAL(38, 0))) FROM t
        SELECT sum(CAST('99999999999999999999999999999999999999' AS DECIMAL(38, 0))) FROM t GROUP BY 1 = 1
        SELECT to_timestamp_nanos(9223372036854775807) + INTERVAL '1 day'
        SELECT abs(-a - 1) FROM t";
    for query in queries.lines().map(str::trim) {
        let ran = place.sql(&format!("{TABLE}{query}"));
        let told = ["too large", "out of range", "verflow"].iter().any(|word| ran.stderr.contains(word));
        assert!(ran.code == Some(1) && told && ran.stdout.is_empty(), "{query}: {ran:?}");
    }
}

#[test]
fn what_fits_is_computed() {
    let place = Place::new();
    let queries = [
        ("SELECT sum(a) FROM (SELECT a FROM t UNION ALL SELECT -b FROM t)", "9223372036854775803"),
        (
            "SELECT sum(DISTINCT b), sum(DISTINCT c) FROM (SELECT b, b / 2 AS c FROM t UNION ALL SELECT b, 1 FROM t)",
            "5,1",
        ),
        ("SELECT sum(b) FILTER (WHERE b > 2), sum(b) FILTER (WHERE b > 9) FROM t", "3,"),
        ("SELECT max(x) FROM (SELECT sum(b) OVER (ORDER BY b ROWS 1 PRECEDING) AS x FROM t)", "5"),
        ("SELECT sum(DISTINCT b) OVER (ORDER BY a ROWS 1 PRECEDING) FROM t LIMIT 1", "3"),
        (
            "SELECT sum(p), sum(q), sum(r) FROM (SELECT b::DECIMAL(38, 2) AS p, b::DECIMAL(5, 1) AS q, arrow_cast(b, 'UInt8') AS r FROM t)",
            "5.00,5.0,5",
        ),
        ("SELECT sum(arrow_cast(b, 'Duration(Second)')), sum(b / 2.0), sum(NULLIF(b, b)) FROM t", "PT5S,2.5,"),
        ("SELECT arrow_typeof(sum(arrow_cast(b, 'Int8'))) FROM t", "Int64"),
        ("SELECT CAST(a AS DECIMAL(38, 0)) + 1 FROM t LIMIT 1", "9223372036854775808"),
        ("SELECT -a - 1 FROM t LIMIT 1", "-9223372036854775808"),
        ("SELECT CASE WHEN a > 1 THEN 0 ELSE a + 1 END FROM t LIMIT 1", "0"),
    ];
    for (query, answer) in queries {
        let data = place.sql(&format!("{TABLE}{query}")).data();
        assert_eq!(data.lines().last(), Some(answer), "{query}");
    }
    // A sum in many parts, spilled or not, is the same.
    let parts = "SELECT sum(s) FROM (SELECT g % 1000 AS k, sum(g * 1000000000000) AS s FROM generate_series(1, 200000) t(g) GROUP BY k)";
    for set in [
        "SET fuse.threads = 4",
        "SET fuse.threads = 1",
        "SET datafusion.execution.skip_partial_aggregation_probe_rows_threshold = 1",
    ] {
        assert!(place.sql(&format!("{set}; {parts}")).error(1).contains("too large"), "{set}");
        let fits = parts.replace("1000000000000)", "100000000)");
        assert!(place.sql(&format!("{set}; {fits}")).data().ends_with("\n2000010000000000000\n"), "{set}");
    }
}
