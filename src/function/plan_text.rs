//! What a plan says, as SQL would.
//!
//! Enters: a line of a plan, as DataFusion prints it. Leaves: the same with literals, types, `||` and `count(*)` as they
//! are written in a statement. Always holds: names and texts within quotes stay.

use crate::error::as_sql;

/// A line of a plan in the words of SQL.
pub fn plan_in_sql(line: &str) -> String {
    let line = infix(&as_sql(line)).replace("count(1)", "count(*)");
    line.replace("count(*) AS count(*)", "count(*)").replace("SubqueryAlias: ", "")
}

/// A text with `||(a, b)`, as plans print the call, as `a || b`.
pub fn infix(text: &str) -> String {
    let Some(start) = text.find("||(") else { return text.to_owned() };
    let inner = &text[start + 3..];
    let (mut depth, mut quote, mut from) = (0_usize, None, 0);
    let mut operands = Vec::new();
    for (at, c) in inner.char_indices() {
        match (quote, c) {
            (Some(open), _) => quote = (c != open).then_some(open),
            (None, '"' | '\'') => quote = Some(c),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ',') if depth == 0 => {
                operands.push(inner[from..at].trim());
                from = at + 1;
            }
            (None, ')') if depth == 0 => {
                operands.push(inner[from..at].trim());
                let operands: Vec<String> = operands.into_iter().map(infix).collect();
                return format!("{}{}{}", &text[..start], operands.join(" || "), infix(&inner[at + 1..]));
            }
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    // A quote within a text can hide the end of the call.
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_print_the_operator_between_its_operands() {
        for (plan, shown) in [
            ("Projection: ||(t.a, t.b)", "Projection: t.a || t.b"),
            (
                "expr=[||(a@0, upper(b@1)) as x, ||(c, Utf8(\"), (\")) as y]",
                "expr=[a@0 || upper(b@1) as x, c || Utf8(\"), (\") as y]",
            ),
            ("f(||(||(a, b), coalesce(c, d)), 1)", "f(a || b || coalesce(c, d), 1)"),
            ("a || b", "a || b"),
            ("||(a, Utf8(\"))", "||(a, Utf8(\"))"),
        ] {
            assert_eq!(infix(plan), shown);
        }
    }

    #[test]
    fn lines_are_in_the_words_of_sql() {
        for (plan, shown) in [
            ("Aggregate by [a]: count(Int64(1)) AS count(*), sum(a.b)", "Aggregate by [a]: count(*), sum(a.b)"),
            (
                "Filter CAST(a AS Float64) > Float64(1.5) AND b = Utf8(\"x y\")",
                "Filter CAST(a AS DOUBLE) > 1.5 AND b = 'x y'",
            ),
            ("Scan tmp/x.csv.gz", "Scan tmp/x.csv.gz"),
        ] {
            assert_eq!(plan_in_sql(plan), shown);
        }
    }
}
