//! NaN in Parquet files is found by every predicate that it satisfies.
//!
//! Enters: files whose statistics leave NaN out. Leaves: nothing. Always holds: a file and a table in memory give
//! the same rows.

use crate::support::Place;

/// Ten rows a row group: groups of numbers, of numbers and NaN, and of NaN alone.
const ROWS: &str = "SELECT i, CASE WHEN i >= 40 THEN 'NaN'::DOUBLE WHEN i >= 30 THEN NULL WHEN i % 10 = 9 AND i > 9 \
                    THEN 'NaN'::DOUBLE ELSE i::DOUBLE END AS x FROM generate_series(0, 49) t(i)";

#[test]
fn predicates_find_nan_in_every_row_group() {
    let place = Place::new();
    let copy = format!(
        "COPY (SELECT i, x, arrow_cast(x, 'Float32') AS y FROM ({ROWS})) TO 't.parquet' \
         OPTIONS ('format.max_row_group_size' '10', 'format.data_page_row_count_limit' '5')"
    );
    place.sql(&copy).data();
    let predicates = "x > 5 ¦ x >= 100 ¦ x <> 5 ¦ x = 'NaN'::DOUBLE ¦ x < 5 ¦ x <= 25 ¦ x = 12 ¦ 5 < x ¦ 5 > x ¦ NOT (x < 5)
        ¦ x BETWEEN 3 AND 12 ¦ x NOT BETWEEN 3 AND 12 ¦ x IN (3, 12) ¦ x IN (3, 'NaN'::DOUBLE) ¦ x NOT IN (1, 2) ¦ x + 1 > 100
        ¦ -x < 0 ¦ abs(x) > 100 ¦ x IS NULL ¦ x IS NOT NULL ¦ x > 100 OR i < 3 ¦ x < 2 OR i > 47 ¦ isnan(x) ¦ y > 100 ¦ y <> 3
        ¦ y = 'NaN'::DOUBLE ¦ y < 5 ¦ x IS DISTINCT FROM 3 ¦ x > 100 AND i > 20 ¦ x = y ¦ x >= 'NaN'::DOUBLE ¦ x < 'NaN'::DOUBLE";
    for set in ["", "SET datafusion.execution.parquet.pushdown_filters = true;"] {
        let mut wrong = Vec::new();
        let statements: Vec<String> = predicates
            .split('¦')
            .map(|predicate| {
                let from = |table: &str| format!("(SELECT count(*) FROM {table} WHERE {predicate})");
                format!(
                    "SELECT '{}' AS p, {} AS file, {} AS memory",
                    predicate.trim().replace('\'', ""),
                    from("'t.parquet'"),
                    from("m")
                )
            })
            .collect();
        let memory = "CREATE TABLE m AS SELECT * FROM 't.parquet'";
        let data = place.sql(&format!("{set} {memory}; {}", statements.join(" UNION ALL "))).data();
        assert_eq!(data.lines().count(), statements.len() + 1);
        for line in data.lines().skip(1) {
            let numbers: Vec<&str> = line.rsplit(',').take(2).collect();
            if numbers[0] != numbers[1] {
                wrong.push(line.to_owned());
            }
        }
        assert!(wrong.is_empty(), "{set}\n{}", wrong.join("\n"));
        let top = format!(
            "{set} SELECT count(*) FROM (SELECT x FROM 't.parquet' WHERE x IS NOT NULL ORDER BY x DESC LIMIT 12) WHERE isnan(x)"
        );
        assert_eq!(place.sql(&top).data().lines().last(), Some("12"), "{set}");
        let join = format!("{set} SELECT count(*) FROM 't.parquet' a JOIN (SELECT 'NaN'::DOUBLE AS k) b ON a.x = b.k");
        assert_eq!(place.sql(&join).data().lines().last(), Some("12"), "{set}");
    }
    // What NaN cannot satisfy still skips row groups.
    let plan = place.sql("EXPLAIN SELECT i FROM 't.parquet' WHERE x < 5 AND x > 1").data();
    assert!(plan.contains("pruning_predicate=") && plan.contains("x_min@") && !plan.contains("x_max@"), "{plan}");
}
