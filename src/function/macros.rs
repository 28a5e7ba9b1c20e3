//! Functions that are written in SQL.
//!
//! Enters: nothing. Leaves: their names, parameters and bodies. Always holds: each body is an expression of
//! functions that are there, so that it runs wherever they do; FILTER, OVER and DISTINCT of a call go to the
//! aggregates in it. One name may stand here several times, with different numbers of parameters.

/// Name, parameters (with `name := default`), body.
pub const MACROS: &[(&str, &[&str], &str)] = &[
    // Aggregates.
    ("count_if", &["x"], "count(CASE WHEN x THEN 1 END)"),
    ("countif", &["x"], "count(CASE WHEN x THEN 1 END)"),
    ("count_star", &[], "count(*)"),
    ("arg_max", &["a", "b"], ARG_MAX),
    ("max_by", &["a", "b"], ARG_MAX),
    ("argmax", &["a", "b"], ARG_MAX),
    ("arg_min", &["a", "b"], ARG_MIN),
    ("min_by", &["a", "b"], ARG_MIN),
    ("argmin", &["a", "b"], ARG_MIN),
    ("arg_max", &["a", "b", "n"], ARG_MAX_N),
    ("max_by", &["a", "b", "n"], ARG_MAX_N),
    ("arg_min", &["a", "b", "n"], ARG_MIN_N),
    ("min_by", &["a", "b", "n"], ARG_MIN_N),
    ("arg_max_null", &["a", "b"], "first_value(a ORDER BY b DESC) FILTER (WHERE b IS NOT NULL)"),
    ("arg_min_null", &["a", "b"], "first_value(a ORDER BY b) FILTER (WHERE b IS NOT NULL)"),
    ("max", &["x", "n"], "array_slice(array_agg(x ORDER BY x DESC) FILTER (WHERE x IS NOT NULL), 1, n)"),
    ("min", &["x", "n"], "array_slice(array_agg(x ORDER BY x) FILTER (WHERE x IS NOT NULL), 1, n)"),
    ("quantile_disc", &["x", "q"], QUANTILE_DISC),
    ("quantile", &["x", "q"], QUANTILE_DISC),
    ("product", &["x"], "array_product(array_agg(CAST(x AS DOUBLE)))"),
    ("geomean", &["x"], "exp(avg(ln(x)))"),
    ("geometric_mean", &["x"], "exp(avg(ln(x)))"),
    ("sem", &["x"], "stddev_pop(x) / sqrt(count(x))"),
    ("weighted_avg", &["x", "w"], WEIGHTED_AVG),
    ("wavg", &["x", "w"], WEIGHTED_AVG),
    ("group_concat", &["x"], "string_agg(CAST(x AS VARCHAR), ',')"),
    ("group_concat", &["x", "sep"], "string_agg(CAST(x AS VARCHAR), sep)"),
    ("listagg", &["x"], "string_agg(CAST(x AS VARCHAR), ',')"),
    ("listagg", &["x", "sep"], "string_agg(CAST(x AS VARCHAR), sep)"),
    ("string_agg", &["x"], "string_agg(x, ',')"),
    ("skewness", &["x"], SKEWNESS),
    ("kurtosis", &["x"], KURTOSIS),
    ("kurtosis_pop", &["x"], KURTOSIS_POP),
    ("json_group_array", &["x"], "'[' || string_agg(fuse_json_item(x), ',') || ']'"),
    ("json_group_object", &["k", "x"], JSON_GROUP_OBJECT),
    // Text.
    ("regexp_extract", &["s", "p", "g := 0"], REGEXP_EXTRACT),
    ("regexp_full_match", &["s", "p"], "regexp_like(s, concat('^(?:', p, ')$'))"),
    ("hex", &["x"], "upper(to_hex(x))"),
    ("base64", &["x"], "encode(x, 'base64pad')"),
    ("to_base64", &["x"], "encode(x, 'base64pad')"),
    ("from_base64", &["x"], "decode(x, 'base64pad')"),
    ("unhex", &["x"], "decode(x, 'hex')"),
    ("from_hex", &["x"], "decode(x, 'hex')"),
    ("bar", &["x", "lo", "hi"], "bar(x, lo, hi, 80)"),
    ("parse_filename", &["p"], "regexp_replace(p, '^.*/', '')"),
    // Numbers.
    ("mod", &["a", "b"], "a % b"),
    ("add", &["a", "b"], "a + b"),
    ("subtract", &["a", "b"], "a - b"),
    ("multiply", &["a", "b"], "a * b"),
    ("divide", &["a", "b"], "a / b"),
    ("xor", &["a", "b"], "a ^ b"),
    ("fdiv", &["a", "b"], "floor(CAST(a AS DOUBLE) / b)"),
    ("fmod", &["a", "b"], "a - b * floor(CAST(a AS DOUBLE) / b)"),
    ("isinf", &["x"], "abs(x) = CAST('Infinity' AS DOUBLE)"),
    ("isfinite", &["x"], "(abs(x) < CAST('Infinity' AS DOUBLE))"),
    ("even", &["x"], "sign(x) * 2 * ceil(abs(x) / 2.0)"),
    ("if", &["c", "a", "b"], "CASE WHEN c THEN a ELSE b END"),
    // Dates and times.
    ("year", &["t"], "date_part('year', t)"),
    ("quarter", &["t"], "date_part('quarter', t)"),
    ("month", &["t"], "date_part('month', t)"),
    ("week", &["t"], "date_part('week', t)"),
    ("weekofyear", &["t"], "date_part('week', t)"),
    ("day", &["t"], "date_part('day', t)"),
    ("dayofmonth", &["t"], "date_part('day', t)"),
    ("dayofweek", &["t"], "date_part('dow', t)"),
    ("weekday", &["t"], "date_part('dow', t)"),
    ("isodow", &["t"], "(date_part('dow', t) + 6) % 7 + 1"),
    ("dayofyear", &["t"], "date_part('doy', t)"),
    ("hour", &["t"], "date_part('hour', t)"),
    ("minute", &["t"], "date_part('minute', t)"),
    ("second", &["t"], "CAST(floor(date_part('second', t)) AS BIGINT)"),
    ("epoch", &["t"], "epoch_us(t) / 1000000.0"),
    ("epoch_ns", &["t"], "epoch_us(t) * 1000"),
    ("make_timestamp", &["us"], "epoch_us(CAST(us AS BIGINT))"),
    ("make_timestamp_ms", &["ms"], "epoch_ms(CAST(ms AS BIGINT))"),
    ("make_timestamp", &["y", "mo", "d", "h", "mi", "s"], MAKE_TIMESTAMP),
    ("decade", &["t"], "CAST(floor(date_part('year', t) / 10.0) AS BIGINT)"),
    ("century", &["t"], "CAST(ceil(date_part('year', t) / 100.0) AS BIGINT)"),
    ("dayname", &["t"], "to_char(t, '%A')"),
    ("monthname", &["t"], "to_char(t, '%B')"),
    ("strptime", &["s", "format"], "to_timestamp_micros(s, format)"),
    ("date_add", &["t", "i"], "t + i"),
    ("ago", &["i"], "now() - i"),
    ("to_days", &["n"], "CAST(concat(n, ' days') AS INTERVAL)"),
    ("to_weeks", &["n"], "CAST(concat(n, ' weeks') AS INTERVAL)"),
    ("to_hours", &["n"], "CAST(concat(n, ' hours') AS INTERVAL)"),
    ("to_minutes", &["n"], "CAST(concat(n, ' minutes') AS INTERVAL)"),
    ("to_seconds", &["n"], "CAST(concat(n, ' seconds') AS INTERVAL)"),
    ("to_milliseconds", &["n"], "CAST(concat(n, ' milliseconds') AS INTERVAL)"),
    ("to_months", &["n"], "CAST(concat(n, ' months') AS INTERVAL)"),
    ("to_years", &["n"], "CAST(concat(n, ' years') AS INTERVAL)"),
    // Lists and maps.
    ("list_count", &["l"], "cardinality(array_compact(l))"),
    ("list_unique", &["l"], "cardinality(array_distinct(array_compact(l)))"),
    ("array_unique", &["l"], "cardinality(array_distinct(array_compact(l)))"),
    ("list_string_agg", &["l"], "array_to_string(l, ',')"),
    ("list_string_agg", &["l", "sep"], "array_to_string(l, sep)"),
    ("list_reverse_sort", &["l"], "array_sort(l, 'DESC', 'NULLS LAST')"),
    ("array_reverse_sort", &["l"], "array_sort(l, 'DESC', 'NULLS LAST')"),
    ("list_first", &["l"], "array_element(l, 1)"),
    ("list_last", &["l"], "array_element(l, -1)"),
    ("list_cosine_similarity", &["a", "b"], "1 - cosine_distance(a, b)"),
    ("map_contains", &["m", "k"], "array_has(map_keys(m), k)"),
];

const ARG_MAX: &str = "first_value(a ORDER BY b DESC) FILTER (WHERE a IS NOT NULL AND b IS NOT NULL)";
const ARG_MIN: &str = "first_value(a ORDER BY b) FILTER (WHERE a IS NOT NULL AND b IS NOT NULL)";
const ARG_MAX_N: &str =
    "array_slice(array_agg(a ORDER BY b DESC) FILTER (WHERE a IS NOT NULL AND b IS NOT NULL), 1, n)";
const ARG_MIN_N: &str = "array_slice(array_agg(a ORDER BY b) FILTER (WHERE a IS NOT NULL AND b IS NOT NULL), 1, n)";
const WEIGHTED_AVG: &str =
    "sum(CASE WHEN w IS NOT NULL THEN CAST(x AS DOUBLE) * w END) / sum(CASE WHEN x IS NOT NULL THEN w END)";
const QUANTILE_DISC: &str = "array_element(array_agg(x ORDER BY x) FILTER (WHERE x IS NOT NULL), \
     greatest(CAST(ceil(q * count(x)) AS BIGINT), 1))";
const MAKE_TIMESTAMP: &str = "CAST(make_date(y, mo, d) AS TIMESTAMP) + \
     CAST(concat(h, ' hours ', mi, ' minutes ', s, ' seconds') AS INTERVAL)";
const REGEXP_EXTRACT: &str = "CASE WHEN s IS NOT NULL AND p IS NOT NULL THEN \
     coalesce(array_element(regexp_match(s, concat('(', p, ')')), g + 1), '') END";
// With the sums of x, x², x³ and x⁴ of n rows, in one pass.
const SKEWNESS: &str = "CASE WHEN count(x) > 2 AND var_pop(x) > 0 THEN \
     sqrt(CAST(count(x) AS DOUBLE) * (count(x) - 1)) / (count(x) - 2) * \
     (sum(power(CAST(x AS DOUBLE), 3)) / count(x) - 3 * avg(x) * sum(power(CAST(x AS DOUBLE), 2)) / count(x) \
     + 2 * power(avg(x), 3)) / power(var_pop(x), 1.5) END";
const KURTOSIS_POP: &str = "CASE WHEN count(x) > 1 AND var_pop(x) > 0 THEN \
     (sum(power(CAST(x AS DOUBLE), 4)) / count(x) - 4 * avg(x) * sum(power(CAST(x AS DOUBLE), 3)) / count(x) \
     + 6 * power(avg(x), 2) * sum(power(CAST(x AS DOUBLE), 2)) / count(x) - 3 * power(avg(x), 4)) \
     / power(var_pop(x), 2) - 3 END";
const JSON_GROUP_OBJECT: &str =
    "'{' || string_agg(to_json(CAST(k AS VARCHAR)) || ':' || fuse_json_item(x), ',') || '}'";
const KURTOSIS: &str = "CASE WHEN count(x) > 3 AND var_pop(x) > 0 THEN \
     (CAST(count(x) AS DOUBLE) - 1) / ((count(x) - 2) * (count(x) - 3)) * ((count(x) + 1) * \
     ((sum(power(CAST(x AS DOUBLE), 4)) / count(x) - 4 * avg(x) * sum(power(CAST(x AS DOUBLE), 3)) / count(x) \
     + 6 * power(avg(x), 2) * sum(power(CAST(x AS DOUBLE), 2)) / count(x) - 3 * power(avg(x), 4)) \
     / power(var_pop(x), 2) - 3) + 6) END";
