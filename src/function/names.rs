//! Other names for functions that are there.
//!
//! Enters: nothing. Leaves: names that DuckDB's users type, each with the function that it means. Always
//! holds: both take the same arguments in the same order.

/// A name, and the function that is meant.
pub const NAMES: &[(&str, &str)] = &[
    // Text.
    ("ucase", "upper"),
    ("lcase", "lower"),
    ("string_split", "string_to_array"),
    ("str_split", "string_to_array"),
    ("split", "string_to_array"),
    ("string_split_regex", "regexp_split_to_array"),
    ("str_split_regex", "regexp_split_to_array"),
    ("strlen", "octet_length"),
    ("ord", "ascii"),
    ("unicode", "ascii"),
    ("prefix", "starts_with"),
    ("suffix", "ends_with"),
    ("regexp_matches", "regexp_like"),
    ("editdist3", "levenshtein"),
    // Numbers.
    ("ceiling", "ceil"),
    ("sign", "signum"),
    ("greatest_common_divisor", "gcd"),
    ("least_common_multiple", "lcm"),
    ("gen_random_uuid", "uuid"),
    ("uuidv4", "uuid"),
    ("typeof", "arrow_typeof"),
    // Times.
    ("get_current_timestamp", "now"),
    ("transaction_timestamp", "now"),
    // Lists, structs.
    ("list_value", "make_array"),
    ("list_pack", "make_array"),
    ("list_min", "array_min"),
    ("list_has", "array_has"),
    ("struct_extract", "get_field"),
    ("list_apply", "array_transform"),
    ("array_apply", "array_transform"),
    ("apply", "array_transform"),
    ("filter", "array_filter"),
    ("list_dot_product", "dot_product"),
    ("list_inner_product", "dot_product"),
    ("array_dot_product", "dot_product"),
    ("array_inner_product", "dot_product"),
    ("list_cosine_distance", "cosine_distance"),
    ("array_cosine_distance", "cosine_distance"),
    // Aggregates.
    ("list", "array_agg"),
    ("approx_count_distinct", "approx_distinct"),
    ("approx_quantile", "approx_percentile_cont"),
    ("arbitrary", "any_value"),
    ("variance", "var_samp"),
    ("favg", "avg"),
    ("fsum", "sum"),
    ("kahan_sum", "sum"),
    ("sumkahan", "sum"),
    ("first", "first_value"),
    ("last", "last_value"),
];
