//! Plans for people.
//!
//! Enters: the rows of EXPLAIN, or the operators that EXPLAIN ANALYZE ran. Leaves: indented text. Always holds:
//! each operator is a line; on a terminal a line is cut to its width and ends in `…`.

use arrow::array::Array;
use arrow::record_batch::RecordBatch;
use arrow::util::display::array_value_to_string;
use nu_ansi_term::{Color, Style};
use unicode_width::UnicodeWidthStr;

use super::report::digits;
use crate::error::Result;
use crate::format::clip;
use crate::function::infix;
use crate::session::{Operator, size};

/// The share of the time from which an operator is marked, in per cent.
const EXPENSIVE: f64 = 20.0;

/// The rows of EXPLAIN: what each is, and below it the plan.
pub(super) fn plans(batches: &[RecordBatch]) -> Result<String> {
    let mut text = String::new();
    for batch in batches {
        let (names, plans) = (batch.column(0), batch.column(batch.num_columns() - 1));
        for row in (0..batch.num_rows()).filter(|row| !plans.is_null(*row)) {
            let name = array_value_to_string(names, row)?.replace('_', " ");
            let plan = infix(&array_value_to_string(plans, row)?);
            let gap = if text.is_empty() { "" } else { "\n" };
            text.push_str(&format!("{gap}{name}\n"));
            plan.trim_end().lines().for_each(|line| text.push_str(&format!("  {line}\n")));
        }
    }
    Ok(text)
}

/// The operators as a tree, with rows, time and share of the time. `width`: of the terminal.
pub(super) fn tree(operators: &[Operator], width: Option<usize>, colour: bool) -> String {
    let total: u64 = operators.iter().map(|operator| operator.nanoseconds).sum();
    let mut text = format!("{:>14}  {:>10}  {:>5}\n", "rows", "time", "share");
    for (at, operator) in operators.iter().enumerate() {
        let share = operator.nanoseconds as f64 * 100.0 / total.max(1) as f64;
        let expensive = share >= EXPENSIVE;
        let rows = operator.rows.map_or_else(|| "-".to_owned(), digits);
        let mark = if expensive { "◀" } else { " " };
        let numbers = format!("{rows:>14}  {:>10}  {share:>3.0} %{mark}", time(operator.nanoseconds));
        let spilled = match operator.spilled {
            0 => String::new(),
            bytes => format!(" (spilled {})", size(bytes)),
        };
        let line = format!("{numbers} {}{}{spilled}", branch(operators, at), infix(&operator.text));
        let line = width.map_or_else(|| line.clone(), |width| clip(&line, width.saturating_sub(1)));
        let style = if colour && expensive { Color::Red.bold() } else { Style::new() };
        text.push_str(&format!("{}\n", style.paint(line)));
    }
    text.push_str(&format!("{:>14}  {:>10}  time of all threads together\n", "", time(total)));
    text
}

/// The lines that lead to an operator of the tree.
fn branch(operators: &[Operator], at: usize) -> String {
    let depth = operators[at].depth;
    // At each level: does a sibling follow?
    let follows = |level: usize| {
        let below = operators[at + 1..].iter().take_while(|next| next.depth >= level);
        below.into_iter().any(|next| next.depth == level)
    };
    let mut text: String = (1..depth).map(|level| if follows(level) { "│ " } else { "  " }).collect();
    if depth > 0 {
        text.push_str(if follows(depth) { "├─" } else { "└─" });
    }
    debug_assert_eq!(text.width(), depth * 2);
    text
}

/// `0.12 ms`, `1.50 s`
fn time(nanoseconds: u64) -> String {
    let seconds = nanoseconds as f64 / 1e9;
    if seconds >= 1.0 { format!("{seconds:.2} s") } else { format!("{:.2} ms", seconds * 1e3) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operator(depth: usize, text: &str, milliseconds: u64) -> Operator {
        let nanoseconds = milliseconds * 1_000_000;
        Operator { depth, text: text.to_owned(), rows: Some(1_204_331), nanoseconds, spilled: 0 }
    }

    #[test]
    fn the_tree_shows_who_took_the_time() {
        let operators =
            [operator(0, "Join", 10), operator(1, "Filter", 80), operator(2, "Scan a", 5), operator(1, "Scan b", 5)];
        let text = tree(&operators, None, false);
        let expected = "          rows        time  share
     1,204,331    10.00 ms   10 %  Join
     1,204,331    80.00 ms   80 %◀ ├─Filter
     1,204,331     5.00 ms    5 %  │ └─Scan a
     1,204,331     5.00 ms    5 %  └─Scan b
                 100.00 ms  time of all threads together
";
        assert_eq!(text, expected);
        let narrow = tree(&operators, Some(40), true);
        assert!(narrow.contains("\u{1b}[1;31m") && narrow.contains('…'), "{narrow}");
    }
}
