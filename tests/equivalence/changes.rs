//! The law for tables that others insert into, change and delete from.
//!
//! Enters: random inserts, updates and deletes, in each way in which a source may write them; random epochs, stops and
//! kills. Leaves: nothing. Always holds: the oracle never reads what the pipeline reads: the test keeps the rows that
//! are there itself, and writes them as a plain table; the bounded table of the same options gives the same rows.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use fuse::error::Error;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Runtime;

use super::{End, Epoch, Multiset, SRow, Shown, batch, cases, put, query, run, s_row, shown_rows, temporary};

/// How the source writes what happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// JSON with a column of ops, whole rows.
    Ops([&'static str; 4]),
    /// The same as CSV.
    Csv([&'static str; 4]),
    /// JSON with a column of ops and a key; a delete has the key alone.
    Keyed([&'static str; 4]),
    /// JSON with a key, and no deletes.
    Upsert,
    /// Envelopes.
    Debezium { keyed: bool, wrapped: bool },
}

const COLUMNS: &str = "id BIGINT, k BIGINT, g VARCHAR, v BIGINT, f DOUBLE";

const FORMS: [Form; 10] = [
    Form::Ops(["insert", "delete", "insert", "delete"]),
    Form::Ops(["+I", "-U", "+U", "-D"]),
    Form::Csv(["I", "D", "I", "D"]),
    Form::Csv(["1", "-1", "1", "-1"]),
    Form::Keyed(["c", "", "u", "d"]),
    Form::Keyed(["false", "", "false", "true"]),
    Form::Upsert,
    Form::Debezium { keyed: false, wrapped: false },
    Form::Debezium { keyed: true, wrapped: false },
    Form::Debezium { keyed: true, wrapped: true },
];

impl Form {
    fn keyed(self) -> bool {
        matches!(self, Form::Keyed(_) | Form::Upsert | Form::Debezium { keyed: true, .. })
    }

    /// The table that is read.
    fn table(self, root: &Path, unbounded: bool) -> String {
        let kind = if unbounded { "UNBOUNDED" } else { "" };
        let key = if self.keyed() { ", PRIMARY KEY (id)" } else { "" };
        let (stored, options) = match self {
            Form::Ops(_) | Form::Keyed(_) => ("JSON", ", 'op_column' 'op'"),
            Form::Csv(_) => ("CSV", ", 'op_column' 'op'"),
            Form::Upsert => ("JSON", ""),
            Form::Debezium { .. } => ("DEBEZIUM", ""),
        };
        format!(
            "CREATE {kind} EXTERNAL TABLE s ({COLUMNS}{key}) STORED AS {stored} LOCATION '{}/s/'
             OPTIONS ('max_files_per_epoch' '1'{options});",
            root.display()
        )
    }

    fn ending(self) -> &'static str {
        if matches!(self, Form::Csv(_)) { "csv" } else { "json" }
    }
}

/// A row that is there.
type Row = (i64, SRow);

/// What happens: the row that is gone, and the row that is there in its place.
type Event = (Option<Row>, Option<Row>);

fn members((id, (k, g, v, f)): &Row) -> String {
    let number = |n: &Option<i64>| n.map_or("null".to_owned(), |n| n.to_string());
    let g = g.as_ref().map_or("null".to_owned(), |g| format!("\"{g}\""));
    let f = f.map_or("null".to_owned(), |f| format!("{}", f as f64 / 4.0));
    format!("\"id\":{id},\"k\":{},\"g\":{g},\"v\":{},\"f\":{f}", number(k), number(v))
}

fn fields((id, (k, g, v, f)): &Row) -> String {
    let number = |n: &Option<i64>| n.map_or(String::new(), |n| n.to_string());
    let f = f.map_or(String::new(), |f| format!("{}", f as f64 / 4.0));
    let g = g.clone().unwrap_or_default();
    format!("{id},{},{g},{},{f}", number(k), number(v))
}

/// What a source writes of an event.
fn written(form: Form, event: &Event) -> String {
    let mut text = String::new();
    let words = |[insert, before, after, delete]: [&'static str; 4]| match event {
        (None, Some(_)) => ("", insert),
        (Some(_), Some(_)) => (before, after),
        _ => (delete, ""),
    };
    match form {
        Form::Ops(ops) => {
            for (row, op) in [(&event.0, words(ops).0), (&event.1, words(ops).1)] {
                let _ = row.iter().try_for_each(|row| writeln!(text, "{{\"op\":\"{op}\",{}}}", members(row)));
            }
        }
        Form::Csv(ops) => {
            for (row, op) in [(&event.0, words(ops).0), (&event.1, words(ops).1)] {
                let _ = row.iter().try_for_each(|row| writeln!(text, "{},{op}", fields(row)));
            }
        }
        Form::Keyed(ops) => {
            let _ = match event {
                (_, Some(row)) => writeln!(text, "{{{},\"op\":\"{}\"}}", members(row), words(ops).1),
                (Some((id, _)), None) => writeln!(text, "{{\"id\":{id},\"op\":\"{}\"}}", words(ops).0),
                (None, None) => Ok(()),
            };
        }
        Form::Upsert => {
            let _ = event.1.iter().try_for_each(|row| writeln!(text, "{{{}}}", members(row)));
        }
        Form::Debezium { keyed, wrapped } => {
            let op = match event {
                (None, Some((id, _))) if id % 2 == 0 => "r",
                (None, _) => "c",
                (Some(_), Some(_)) => "u",
                _ => "d",
            };
            let image =
                |row: &Option<Row>| row.as_ref().map_or("null".to_owned(), |row| format!("{{{}}}", members(row)));
            // A table with a key needs no rows before, where the key stays.
            let before = if keyed && op == "u" { "null".to_owned() } else { image(&event.0) };
            let envelope = format!("{{\"before\":{before},\"after\":{},\"op\":\"{op}\"}}", image(&event.1));
            let _ = match wrapped {
                true => writeln!(text, "{{\"schema\":{{\"type\":\"struct\"}},\"payload\":{envelope}}}"),
                false => writeln!(text, "{envelope}"),
            };
            if op == "d" {
                text += "null\n";
            }
        }
    }
    text
}

/// One choice: which row it is about, what kind of event it is, and the new row.
type Choice = (prop::sample::Index, u8, SRow);

#[derive(Debug, Clone)]
struct Round {
    files: Vec<Vec<Choice>>,
    end: End,
}

/// The next event, for a table that has these rows.
fn event(form: Form, there: &mut Vec<Row>, next: &mut i64, (at, kind, row): &Choice) -> Option<Event> {
    let mut row = row.clone();
    if form.ending() == "csv" {
        // In CSV an empty text is NULL.
        row.1 = row.1.filter(|text| !text.is_empty());
    }
    let insert = there.is_empty() || *kind < 4;
    if insert {
        *next += 1;
        // Without a key a row may be there twice.
        let id = if form.keyed() { *next } else { *next % 5 };
        there.push((id, row.clone()));
        return Some((None, Some((id, row.clone()))));
    }
    let at = at.index(there.len());
    if *kind < 7 {
        let old = std::mem::replace(&mut there[at].1, row.clone());
        return Some((Some((there[at].0, old)), Some(there[at].clone())));
    }
    if form == Form::Upsert {
        return None;
    }
    Some((Some(there.remove(at)), None))
}

fn tables(root: &Path, s: &str, unbounded: bool) -> String {
    let kind = if unbounded { "UNBOUNDED" } else { "" };
    format!(
        "{s}
        CREATE {kind} EXTERNAL TABLE u (k BIGINT, x BIGINT, h VARCHAR) STORED AS CSV LOCATION '{}/u/';
        CREATE TABLE d (k BIGINT, name VARCHAR, w BIGINT) AS VALUES
            (0, 'zero', 10), (1, 'one', 20), (1, 'uno', 21), (3, 'three', NULL), (NULL, 'none', 5);",
        root.display()
    )
}

fn plain(root: &Path, there: &[Row]) -> String {
    std::fs::create_dir_all(root.join("there")).expect("a folder");
    let text: String = there.iter().map(|row| format!("{{{}}}\n", members(row))).collect();
    put(root, "there/s.json", &text);
    format!("CREATE EXTERNAL TABLE s ({COLUMNS}) STORED AS JSON LOCATION '{}/there/';", root.display())
}

fn hold(runtime: &Runtime, form: Form, query: &str, rounds: &[Round]) -> Result<(), TestCaseError> {
    let folder = temporary();
    let root = folder.path();
    for name in ["s", "u"] {
        std::fs::create_dir(root.join(name)).expect("a folder");
    }
    put(root, "u/1.csv", "k,x,h\n0,1,a\n1,2,b\n1,3,\n,4,ab\n2,,b\n");
    let shown = Arc::new(Mutex::new(Shown::default()));
    let (mut there, mut next, mut number) = (Vec::new(), 0, 0);
    for (at, round) in rounds.iter().enumerate() {
        for choices in &round.files {
            let events = choices.iter().filter_map(|choice| event(form, &mut there, &mut next, choice));
            let text: String = events.map(|event| written(form, &event)).collect();
            let header = if form.ending() == "csv" { "id,k,g,v,f,op\n" } else { "" };
            put(root, &format!("s/{number:05}.{}", form.ending()), &format!("{header}{text}"));
            number += 1;
        }
        let fail = |error: Error| TestCaseError::fail(format!("{form:?} {query}\nround {at}: {error:?}"));
        let growing = tables(root, &form.table(root, true), true);
        if !runtime.block_on(run(root, &growing, query, &shown, &round.end)).map_err(fail)? {
            runtime.block_on(run(root, &growing, query, &shown, &End::CaughtUp)).map_err(fail)?;
        }
        let expected = runtime.block_on(batch(&tables(root, &plain(root, &there), false), query));
        let epochs = shown.lock().unwrap().epochs.clone();
        let sequence: Vec<Epoch> = (1..=epochs.len() as u64).collect();
        prop_assert_eq!(&epochs, &sequence, "{:?} {}: epochs in order, each once", form, query);
        prop_assert_eq!(&shown_rows(&shown), &expected, "{:?} {}\nround {}", form, query, at);
        let rests: Multiset = runtime.block_on(batch(&tables(root, &form.table(root, false), false), query));
        prop_assert_eq!(&rests, &expected, "{:?} {}\nround {}, as a bounded table", form, query, at);
    }
    Ok(())
}

fn round() -> impl Strategy<Value = Round> {
    let end = prop_oneof![3 => Just(End::CaughtUp), 2 => (0_u64..40_000).prop_map(End::Killed)];
    let choice = (any::<prop::sample::Index>(), 0_u8..10, s_row());
    (prop::collection::vec(prop::collection::vec(choice, 1..9), 0..3), end)
        .prop_map(|(files, end)| Round { files, end })
}

#[test]
fn tables_that_others_change_hold_the_law() {
    let query = query().prop_map(|query| std::env::var("FUSE_LAW_QUERY").unwrap_or(query));
    let config = Config { cases: cases() / 3, failure_persistence: None, max_shrink_iters: 60, ..Config::default() };
    let runtime = Runtime::new().expect("a runtime");
    let rounds = prop::collection::vec(round(), 1..4);
    let strategy = (prop::sample::select(FORMS.to_vec()), query, rounds);
    let result = TestRunner::new(config).run(&strategy, |(form, query, rounds)| hold(&runtime, form, &query, &rounds));
    assert!(result.is_ok(), "{}", result.unwrap_err());
}
