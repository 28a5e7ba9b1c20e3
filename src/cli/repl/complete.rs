//! Completion.
//!
//! Enters: the text and the place of the cursor. Leaves: what may stand there: tables behind FROM, columns of
//! the statement's tables, functions with their signatures, settings, files inside of quotes, commands. Always
//! holds: what a table is, the session says; a slow one is not waited for.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::AsArray;
use reedline::{Completer, CompletionResult, Span, Suggestion};
use tokio::runtime::Handle;

use super::command::{Action, COMMANDS, Command, is_command};
use crate::format::{Format, type_name};
use crate::parser::{Lexeme, LexemeKind, lex};
use crate::session::{Outcome, Session};

/// How long a key may wait for the columns of a table.
const PATIENCE: Duration = Duration::from_millis(500);

/// Words that are offered, and coloured.
const KEYWORDS: &str = "ALL ALTER ANALYZE AND ANTI ANY ARRAY AS ASC BETWEEN BIGINT BOOLEAN BY CASE CAST COLUMN COPY \
    CREATE CROSS CURRENT CURRENT_DATE CURRENT_TIMESTAMP DATE DATABASE DECIMAL DEFAULT DELETE DESC DESCRIBE DISTINCT \
    DOUBLE DROP ELSE END ESCAPE EXCEPT EXCLUDE EXECUTE EXISTS EXPLAIN EXTERNAL EXTRACT FALSE FETCH FILTER FIRST FLOAT \
    FOLLOWING FROM FULL FUNCTION GROUP GROUPING HAVING IF ILIKE IN INNER INSERT INT INTEGER INTERSECT INTERVAL INTO IS \
    JOIN LAST LATERAL LEFT LIKE LIMIT LOCATION NATURAL NOT NULL NULLS OFFSET ON OPTIONS OR ORDER OUTER OVER OVERWRITE \
    PARTITION PARTITIONED PRECEDING PREPARE QUALIFY RANGE RECURSIVE REPLACE RESET RIGHT ROLLUP ROW ROWS SCHEMA SELECT \
    SEMI SET SETS SHOW SIMILAR SMALLINT STORED STRUCT TABLE TABLES TABLESAMPLE TEXT THEN TIME TIMESTAMP TINYINT TO TRUE \
    UNBOUNDED UNION UNNEST UPDATE USING VALUES VARCHAR VIEW WHEN WHERE WINDOW WITH WITHIN";

/// True for a keyword in any case.
pub(super) fn is_keyword(word: &str) -> bool {
    KEYWORDS.split_whitespace().any(|keyword| keyword.eq_ignore_ascii_case(word))
}

/// A table of the statement: what stands in FROM, and its other name.
#[derive(Debug, PartialEq, Eq)]
struct Table<'a> {
    text: &'a str,
    alias: Option<&'a str>,
}

/// Knows what can be typed.
pub(super) struct Helper {
    session: Arc<Session>,
    runtime: Handle,
    /// Name and signature.
    functions: Vec<(String, String)>,
    settings: Vec<String>,
    /// Counts the inputs: what is remembered of tables holds for one.
    inputs: Arc<AtomicU64>,
    remembered: u64,
    columns: HashMap<String, Vec<(String, String)>>,
    tables: Option<Vec<String>>,
}

impl Helper {
    pub(super) fn new(session: Arc<Session>, runtime: Handle, inputs: Arc<AtomicU64>) -> Self {
        let mut helper = Self {
            session,
            runtime,
            functions: Vec::new(),
            settings: Vec::new(),
            inputs,
            remembered: 0,
            columns: HashMap::new(),
            tables: None,
        };
        let functions = "SELECT routine_name, coalesce(min(syntax_example), '') FROM information_schema.routines \
                         GROUP BY routine_name ORDER BY routine_name";
        helper.functions = helper.pairs(functions);
        let settings = "SELECT name, '' FROM information_schema.df_settings ORDER BY name";
        helper.settings = helper.pairs(settings).into_iter().map(|(name, _)| name).collect();
        helper
    }

    pub(super) fn function_names(&self) -> impl Iterator<Item = String> {
        self.functions.iter().map(|(name, _)| name.to_lowercase())
    }

    /// The rows of a query for two texts; none where it fails or takes too long.
    fn pairs(&self, sql: &str) -> Vec<(String, String)> {
        let query = async {
            let Ok(Outcome::Rows(rows)) = self.session.execute_text(sql).await else { return Vec::new() };
            rows.collect().await.unwrap_or_default()
        };
        let batches = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, query).await }).unwrap_or_default();
        let mut pairs = Vec::new();
        for batch in batches {
            let text = |at: usize| arrow::compute::cast(batch.column(at), &arrow::datatypes::DataType::Utf8);
            let (Ok(names), Ok(others)) = (text(0), text(1)) else { continue };
            let (names, others) = (names.as_string::<i32>(), others.as_string::<i32>());
            let pair = |row| (names.value(row).to_owned(), others.value(row).to_owned());
            pairs.extend((0..batch.num_rows()).map(pair));
        }
        pairs
    }

    /// Names and types of the columns of what stands in FROM.
    fn columns_of(&mut self, table: &str) -> Vec<(String, String)> {
        if let Some(known) = self.columns.get(table) {
            return known.clone();
        }
        let sql = format!("SELECT * FROM {table} LIMIT 0");
        let query = async {
            match self.session.execute_text(&sql).await {
                Ok(Outcome::Rows(rows)) => rows.schema().fields().iter().cloned().collect(),
                _ => Vec::new(),
            }
        };
        let fields = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, query).await }).unwrap_or_default();
        let columns: Vec<_> =
            fields.iter().map(|field| (quoted_name(field.name()), type_name(field.data_type()))).collect();
        self.columns.insert(table.to_owned(), columns.clone());
        columns
    }

    fn table_names(&mut self) -> Vec<String> {
        if self.tables.is_none() {
            let sql = "SELECT table_name, '' FROM information_schema.tables \
                       WHERE table_schema <> 'information_schema' ORDER BY table_name";
            self.tables = Some(self.pairs(sql).into_iter().map(|(name, _)| quoted_name(&name)).collect());
        }
        self.tables.clone().unwrap_or_default()
    }

    fn suggest(&mut self, text: &str, cursor: usize) -> Vec<Suggestion> {
        let now = self.inputs.load(Ordering::Relaxed);
        if now != self.remembered {
            self.remembered = now;
            self.columns.clear();
            self.tables = None;
        }
        let before = &text[..cursor];
        let line = before.rsplit('\n').next().unwrap_or(before);
        if is_command(line)
            && (line.len() == before.len() || crate::parser::is_complete(&before[..cursor - line.len()]))
        {
            return self.for_command(line, cursor);
        }
        let lexemes = lex(before);
        if let Some(last) = lexemes.last().filter(|last| last.kind == LexemeKind::Unfinished)
            && before[last.range.start..].starts_with('\'')
        {
            let closed = text[cursor..].starts_with('\'');
            return files(&before[last.range.start + 1..], cursor, if closed { "" } else { "'" });
        }
        if let Some(last) = lexemes.last().filter(|last| last.kind == LexemeKind::Unfinished)
            && before[last.range.start..].starts_with('"')
        {
            return self.for_sql(text, &lexemes, last.range.start, cursor);
        }
        let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
        let start = before.char_indices().rev().take_while(|(_, c)| is_part(*c)).last().map_or(cursor, |(at, _)| at);
        self.for_sql(text, &lexemes, start, cursor)
    }

    /// `start`: where the word at the cursor begins.
    fn for_sql(&mut self, text: &str, before: &[Lexeme], start: usize, cursor: usize) -> Vec<Suggestion> {
        let word = &text[start..cursor];
        let begin = before.iter().rfind(|l| l.kind == LexemeKind::End).map_or(0, |l| l.range.end);
        let solid = |lexeme: &&Lexeme| {
            !matches!(lexeme.kind, LexemeKind::Space | LexemeKind::Comment)
                && lexeme.range.start >= begin
                && lexeme.range.end <= start
        };
        let piece = |lexeme: &Lexeme| text[lexeme.range.clone()].to_uppercase();
        let words: Vec<String> = before.iter().filter(solid).map(piece).collect();
        let first = words.first().map_or("", String::as_str);
        let last = words.last().map_or("", String::as_str);
        if matches!(first, "SET" | "SHOW" | "RESET") && words.len() == 1 {
            let settings = self.settings.iter().map(|name| (name.clone(), String::new())).collect();
            return choices(word, start, cursor, settings);
        }
        let clause = words.iter().rfind(|word| CLAUSES.contains(&word.as_str())).map_or("", String::as_str);
        let names_table = matches!(last, "FROM" | "JOIN" | "INTO" | "TABLE" | "DESCRIBE" | "VIEW" | "UPDATE")
            || (last == "," && matches!(clause, "FROM" | "JOIN"));
        if names_table {
            let mut tables: Vec<_> = self.table_names().into_iter().map(|name| (name, "table".to_owned())).collect();
            tables.extend(common_tables(text, begin).into_iter().map(|name| (name, "WITH".to_owned())));
            return choices(word, start, cursor, tables);
        }
        let statement_end =
            lex(&text[begin..]).iter().find(|l| l.kind == LexemeKind::End).map(|l| begin + l.range.start);
        let statement = &text[begin..statement_end.unwrap_or(text.len())];
        let tables = tables_of(statement);
        if let Some((qualifier, _)) = word.rsplit_once('.') {
            let named = |table: &&Table| table.alias.unwrap_or(table.text).eq_ignore_ascii_case(qualifier);
            let table = tables.iter().find(named).map_or(qualifier, |table| table.text);
            let columns = self.columns_of(table);
            return choices(&word[qualifier.len() + 1..], start + qualifier.len() + 1, cursor, columns);
        }
        let mut all = Vec::new();
        for table in &tables {
            all.extend(self.columns_of(table.text));
        }
        all.extend(tables.iter().filter_map(|table| Some((table.alias?.to_owned(), table.text.to_owned()))));
        // With nothing typed, functions and keywords would bury the columns.
        if !word.is_empty() || all.is_empty() {
            all.extend(self.functions.iter().map(|(name, signature)| (format!("{name}("), signature.clone())));
            let lower = word.chars().next().is_some_and(char::is_lowercase);
            let case = |keyword: &str| if lower { keyword.to_lowercase() } else { keyword.to_owned() };
            all.extend(KEYWORDS.split_whitespace().map(|keyword| (format!("{} ", case(keyword)), String::new())));
        }
        choices(word, start, cursor, all)
    }

    fn for_command(&mut self, line: &str, cursor: usize) -> Vec<Suggestion> {
        let from = cursor - line.trim_start().len();
        let line = line.trim_start();
        let Some((name, argument)) = line.split_once(' ') else {
            let all = COMMANDS.iter().flat_map(|known| known.names.iter().map(move |name| (*name, known)));
            // A `.` asks for our names, a `\` for those of psql.
            let all = all.map(|(name, known)| (name.to_owned(), format!("{} {}", known.argument, known.help)));
            return choices(line, from, cursor, all.map(|(name, help)| (name, help.trim().to_owned())).collect());
        };
        let word = argument.trim_start();
        let start = cursor - word.len();
        let plain = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), String::new())).collect();
        let found = match Command::parse(name).map(|command| command.action) {
            Ok(Action::Read | Action::Output) => return files(word, cursor, ""),
            Ok(Action::Schema | Action::Tables) => {
                self.table_names().into_iter().map(|name| (name, String::new())).collect()
            }
            Ok(Action::Mode) => Format::NAMES.iter().map(|(name, _)| ((*name).to_owned(), String::new())).collect(),
            Ok(Action::Timer | Action::Expanded) => plain(&["on", "off"]),
            Ok(Action::Plot) => plain(&["line", "bar", "scatter"]),
            Ok(Action::Functions) => self.functions.clone(),
            _ => Vec::new(),
        };
        choices(word, start, cursor, found)
    }
}

/// Words that say what follows them.
const CLAUSES: [&str; 10] = ["SELECT", "FROM", "JOIN", "ON", "WHERE", "GROUP", "HAVING", "ORDER", "SET", "LIMIT"];

impl Completer for Helper {
    fn complete(&mut self, text: &str, cursor: usize) -> CompletionResult {
        CompletionResult::fresh(self.suggest(text, cursor))
    }
}

/// Those that begin with the word, in any case; each once.
fn choices(word: &str, start: usize, end: usize, all: Vec<(String, String)>) -> Vec<Suggestion> {
    let wanted = word.to_lowercase();
    let mut found: Vec<Suggestion> = Vec::new();
    for (value, description) in all {
        let begins =
            value.to_lowercase().starts_with(&wanted) || value.to_lowercase().starts_with(&format!("\"{wanted}"));
        if begins && !found.iter().any(|known| known.value == value) {
            let description = (!description.is_empty()).then_some(description);
            found.push(Suggestion { value, description, span: Span::new(start, end), ..Suggestion::default() });
        }
    }
    found
}

/// Files and folders that a path may go on to; `close` ends the literal.
fn files(path: &str, cursor: usize, close: &str) -> Vec<Suggestion> {
    let (folder, name) = path.rfind('/').map_or(("", path), |at| path.split_at(at + 1));
    let Ok(entries) = std::fs::read_dir(if folder.is_empty() { "." } else { folder }) else { return Vec::new() };
    let mut found: Vec<String> = Vec::new();
    for entry in entries.flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let hidden = file.starts_with('.') && !name.starts_with('.');
        if file.starts_with(name) && !hidden {
            let is_folder = entry.path().is_dir();
            found.push(format!("{folder}{file}{}", if is_folder { "/" } else { close }));
        }
    }
    found.sort();
    let shown = |value: &String| value[folder.len()..].trim_end_matches('\'').to_owned();
    let span = Span::new(cursor - path.len(), cursor);
    let suggestion =
        |value: String| Suggestion { display_override: Some(shown(&value)), value, span, ..Suggestion::default() };
    found.into_iter().map(suggestion).collect()
}

/// A name as SQL wants it.
fn quoted_name(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain && !name.starts_with(|c: char| c.is_ascii_digit()) && !name.is_empty() {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}

/// What stands behind FROM, JOIN and the commas between.
fn tables_of(statement: &str) -> Vec<Table<'_>> {
    let solid = |lexeme: &Lexeme| !matches!(lexeme.kind, LexemeKind::Space | LexemeKind::Comment);
    let lexemes: Vec<Lexeme> = lex(statement).into_iter().filter(solid).collect();
    let piece = |at: usize| lexemes.get(at).map_or("", |lexeme| &statement[lexeme.range.clone()]);
    let kind = |at: usize| lexemes.get(at).map(|lexeme| lexeme.kind);
    let is_name = |at: usize| match kind(at) {
        Some(LexemeKind::Word) => !is_keyword(piece(at)),
        Some(LexemeKind::QuotedName) => true,
        _ => false,
    };
    let mut tables = Vec::new();
    let (mut at, mut in_from) = (0, false);
    while at < lexemes.len() {
        let word = piece(at).to_uppercase();
        in_from = matches!(word.as_str(), "FROM" | "JOIN" | "INTO") || (in_from && (word == "," || !is_clause(&word)));
        let starts = matches!(word.as_str(), "FROM" | "JOIN" | "INTO") || (in_from && word == ",");
        at += 1;
        if !starts || !(is_name(at) || kind(at) == Some(LexemeKind::Text)) {
            continue;
        }
        let start = at;
        while piece(at + 1) == "." && is_name(at + 2) {
            at += 2;
        }
        let touches = lexemes.get(at + 1).is_some_and(|next| next.range.start == lexemes[at].range.end);
        if touches && kind(at + 1) == Some(LexemeKind::Open) {
            let mut depth = 0;
            while at + 1 < lexemes.len() {
                at += 1;
                depth += i32::from(kind(at) == Some(LexemeKind::Open)) - i32::from(kind(at) == Some(LexemeKind::Close));
                if depth == 0 {
                    break;
                }
            }
        }
        let text = &statement[lexemes[start].range.start..lexemes[at].range.end];
        at += 1;
        if piece(at).eq_ignore_ascii_case("AS") {
            at += 1;
        }
        tables.push(Table { text, alias: is_name(at).then(|| piece(at)) });
    }
    tables
}

fn is_clause(word: &str) -> bool {
    CLAUSES.contains(&word)
}

/// The names that WITH gives.
fn common_tables(text: &str, begin: usize) -> Vec<String> {
    let solid = |lexeme: &Lexeme| !matches!(lexeme.kind, LexemeKind::Space | LexemeKind::Comment);
    let text = &text[begin..];
    let words: Vec<&str> = lex(text).into_iter().filter(solid).map(|lexeme| &text[lexeme.range]).collect();
    if !words.first().is_some_and(|first| first.eq_ignore_ascii_case("WITH")) {
        return Vec::new();
    }
    let named = |three: &&[&str]| three[1].eq_ignore_ascii_case("AS") && three[2] == "(" && !is_keyword(three[0]);
    words.windows(3).filter(named).map(|three| three[0].to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(statement: &str) -> Vec<(&str, Option<&str>)> {
        tables_of(statement).into_iter().map(|table| (table.text, table.alias)).collect()
    }

    #[test]
    fn the_tables_of_a_statement_are_found_while_it_is_typed() {
        let sql = "SELECT  FROM 'a b.csv' AS w, s.t JOIN \"Big\" b ON w.x = b.y WHERE f(a, b) > 1";
        assert_eq!(tables(sql), [("'a b.csv'", Some("w")), ("s.t", None), ("\"Big\"", Some("b"))]);
        assert_eq!(tables("from generate_series(1, (2)) g select "), [("generate_series(1, (2))", Some("g"))]);
        assert_eq!(tables("select a from t where b in (select c from u)"), [("t", None), ("u", None)]);
        assert_eq!(tables("insert into t (a"), [("t", None)]);
    }

    #[test]
    fn names_are_quoted_where_they_must_be() {
        assert_eq!((quoted_name("a_1"), quoted_name("Total \"x\"")), ("a_1".into(), "\"Total \"\"x\"\"\"".into()));
    }

    #[test]
    fn names_of_with_are_tables() {
        assert_eq!(common_tables("with a as (select 1), b as (select 2) select * from ", 0), ["a", "b"]);
    }
}
