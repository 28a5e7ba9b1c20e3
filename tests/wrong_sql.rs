//! Wrong statements of all kinds, and what is said of each.
//!
//! Enters: `tests/wrong/statements.txt`, a statement a line. Leaves: `tests/wrong/said.txt`, which `FUSE_BLESS=1`
//! writes anew. Always holds: each is an error, in the words of a user, without a word of the libraries beneath; an
//! error of the SQL shows its place.

use std::fmt::Write as _;

use crate::support::Place;

/// What there is when a statement runs.
const BEFORE: &str = "CREATE TABLE t (a INT, b VARCHAR) AS VALUES (1, 'x'), (2, 'y'); \
                      CREATE TABLE u (a INT, c DOUBLE) AS VALUES (1, 1.5), (2, 2.5)";

/// Words that tell a user nothing.
const FOREIGN: [&str; 34] = [
    "internal",
    "bug",
    "panick",
    "backtrace",
    "datafusion error",
    "arrow error",
    "execution error",
    "planning",
    "coercion",
    "coerce",
    "schema error",
    "sqltorel",
    "logical",
    "physical",
    "expr",
    "datatype",
    "utf8",
    "int64",
    "int32",
    "float64",
    "unsupported ast",
    "not implemented",
    "signature",
    "logicaltype",
    "udf",
    "udaf",
    "native",
    "listingtable",
    "objectstore",
    "generic file",
    "os error",
    ": none",
    "some(",
    "recordbatch",
];

/// Words of a message that the statement itself has, or that are named as they are.
const NAMED: [&str; 5] =
    ["datafusion.execution", "datafusion.sql_parser", "an expression", "regular expression", "'nope'"];

#[test]
fn a_wrong_statement_is_told_in_the_words_of_a_user() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wrong");
    let statements = std::fs::read_to_string(root.join("statements.txt")).expect("the statements");
    let (mut said, mut wrong, mut count, mut unplaced) = (String::new(), String::new(), 0, 0);
    for line in statements.lines() {
        if line.is_empty() || line.starts_with('#') {
            let _ = writeln!(said, "{line}");
            continue;
        }
        let place = Place::new();
        place.write("good.csv", "a,b\n1,x\n2,y\n");
        let ran = place.run(&["query", "-q", "-f", "csv", "-c", BEFORE, "-c", line]);
        let (message, marked) = shown(&ran.stderr);
        let _ = writeln!(said, "{line}\n{message}");
        count += 1;
        unplaced += usize::from(ran.code == Some(2) && !marked);
        let mut plain = message.to_lowercase();
        for word in NAMED.into_iter().chain(line.split_whitespace()) {
            plain = plain.replace(&word.to_lowercase(), "");
        }
        let foreign: Vec<&str> = FOREIGN.into_iter().filter(|word| plain.contains(word)).collect();
        let failed = matches!(ran.code, Some(1 | 2)) && !message.is_empty();
        if !failed || !ran.stdout.is_empty() || !foreign.is_empty() {
            let _ = writeln!(wrong, "{line}\n    exit code {:?}, {foreign:?}\n{message}{}", ran.code, ran.stdout);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(count > 300, "{count} statements");
    assert!(unplaced * 20 < count, "{unplaced} of {count} errors of SQL show no place");
    let golden = root.join("said.txt");
    if std::env::var_os("FUSE_BLESS").is_some() {
        std::fs::write(&golden, &said).expect("the golden file");
    }
    let known = std::fs::read_to_string(&golden).unwrap_or_default();
    let differs = said.lines().zip(known.lines()).find(|(new, old)| new != old);
    assert!(said == known, "FUSE_BLESS=1 rewrites tests/wrong/said.txt; the first difference: {differs:?}");
}

/// The message with its place in the statement, notes and help; and whether there is a mark.
fn shown(stderr: &str) -> (String, bool) {
    let mut message = String::new();
    let mut mark = None;
    let mut title = true;
    for line in stderr.lines() {
        let text = line.trim_start();
        if let Some(error) = text.strip_prefix("error: ") {
            let _ = write!(message, "    {error}");
        } else if let Some(fact) = text.strip_prefix("= ") {
            let _ = write!(message, "\n    {fact}");
        } else if let Some(marked) = text.strip_prefix("| ").filter(|marked| marked.trim_start().starts_with('^')) {
            mark = Some((marked.len() - marked.trim_start().len() + 1, marked.trim().len()));
        } else if title && !text.starts_with("-->") && !text.starts_with('|') && !message.is_empty() {
            let _ = write!(message, "\n    {text}");
        }
        title &= !text.starts_with("-->");
    }
    if let Some((column, width)) = mark {
        let _ = write!(message, "\n    at {column}, {width} wide");
    }
    (message, mark.is_some())
}
