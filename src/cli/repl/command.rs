//! Dot commands, and the psql habits that mean the same.
//!
//! Enters: what was typed or read from a file. Leaves: its pieces in order, commands and SQL. Always holds: a
//! command begins a line where no statement is open, so a `.` or a `\` within a statement is part of it.

use std::ops::Range;

use crate::error::{Error, Result, near_name};
use crate::parser::{LexemeKind, lex};

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Help,
    Tables,
    Schema,
    Functions,
    Read,
    Output,
    Mode,
    Timer,
    Explain,
    Expanded,
    Last,
    Plot,
    Quit,
}

/// A command: its names, its argument, what it does, and a sentence about it.
pub(super) struct Known {
    /// The first is the one that is listed.
    pub(super) names: &'static [&'static str],
    pub(super) argument: &'static str,
    pub(super) action: Action,
    pub(super) help: &'static str,
}

/// All commands.
pub(super) const COMMANDS: [Known; 13] = [
    known(&[".help", "\\?", "\\h", ".h"], "", Action::Help, "This list"),
    known(&[".tables", "\\dt", "\\d", "\\dv"], "[PATTERN]", Action::Tables, "Tables and views"),
    known(&[".schema", "\\d+", ".describe"], "[TABLE]", Action::Schema, "Columns of a table or file, or of all tables"),
    known(&[".functions", "\\df"], "[PATTERN]", Action::Functions, "Functions, with how they are called"),
    known(&[".read", "\\i"], "FILE", Action::Read, "Run a file of SQL and commands"),
    known(&[".output", "\\o"], "[FILE]", Action::Output, "Send results to a file, until .output alone ends it"),
    known(&[".mode"], "[FORMAT]", Action::Mode, "How results are printed: table, expanded, csv, json, …"),
    known(&[".timer", "\\timing"], "[on|off]", Action::Timer, "Show how long statements take"),
    known(&[".explain"], "[analyze] [SQL]", Action::Explain, "The plan of a query, or of the last one"),
    known(&[".expanded", "\\x"], "[on|off]", Action::Expanded, "A line a column, for wide rows"),
    known(&[".last"], "", Action::Last, "The whole last result, in $PAGER or less -S"),
    known(&[".plot"], "[line|bar|scatter]", Action::Plot, "Draw the last result"),
    known(&[".quit", "\\q", ".exit", ".q"], "", Action::Quit, "Leave, as Ctrl-D does"),
];

const fn known(names: &'static [&'static str], argument: &'static str, action: Action, help: &'static str) -> Known {
    Known { names, argument, action, help }
}

/// A command with its argument.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) action: Action,
    pub(super) argument: String,
}

impl Command {
    /// Reads a line that [`is_command`].
    pub(super) fn parse(line: &str) -> Result<Self> {
        let line = line.trim().trim_end_matches(';').trim_end();
        if matches!(line.to_ascii_lowercase().as_str(), "exit" | "quit") {
            return Ok(Self { action: Action::Quit, argument: String::new() });
        }
        let (name, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let argument = argument.trim();
        let all = || COMMANDS.iter().flat_map(|known| known.names.iter().map(move |name| (*name, known.action)));
        let Some((_, action)) = all().find(|(known, _)| *known == name) else {
            let error = Error::usage(format!("no command named {name}"));
            let near = near_name(name, all().map(|(name, _)| name));
            let begun = || all().map(|(known, _)| known).find(|known| name.len() > 2 && known.starts_with(name));
            return Err(match near.or_else(begun) {
                Some(near) => error.hint(format!("did you mean {near}?")),
                None => error.hint(".help lists the commands"),
            });
        };
        // psql: \d lists the tables, \d name describes one.
        let action = if name == "\\d" && !argument.is_empty() { Action::Schema } else { action };
        Ok(Self { action, argument: argument.to_owned() })
    }

    /// The argument as a file: quotes around it are taken off.
    pub(super) fn file(&self) -> &str {
        let text = self.argument.as_str();
        let quoted = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
        quoted('\'').or_else(|| quoted('"')).unwrap_or(text)
    }
}

/// True for a line that is a command.
pub(super) fn is_command(line: &str) -> bool {
    let line = line.trim();
    line.starts_with(['.', '\\'])
        || matches!(line.trim_end_matches(';').trim_end().to_ascii_lowercase().as_str(), "exit" | "quit")
}

/// A part of what was typed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A line with a command.
    Command(Range<usize>),
    /// Statements.
    Sql(Range<usize>),
}

/// The commands of a text, and the statements between them.
pub(super) fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < text.len() {
        let rest = &text[start..];
        let blank = rest.len() - rest.trim_start().len();
        let line_end = rest[blank..].find('\n').map_or(text.len(), |at| start + blank + at);
        if is_command(&text[start + blank..line_end]) {
            pieces.push(Piece::Command(start + blank..line_end));
            start = line_end;
            continue;
        }
        let end = start + statements(rest);
        pieces.push(Piece::Sql(start..end));
        start = end;
    }
    pieces.retain(|piece| !matches!(piece, Piece::Sql(range) if text[range.clone()].trim().is_empty()));
    pieces
}

/// Bytes of the statements at the start of a text, up to the first line that is a command.
fn statements(text: &str) -> usize {
    // True behind a `;`, where the next line may be a command.
    let mut between = true;
    for lexeme in lex(text) {
        match lexeme.kind {
            LexemeKind::Space | LexemeKind::Comment => {
                let piece = &text[lexeme.range.clone()];
                let next = text[lexeme.range.end..].trim_start_matches([' ', '\t']).split('\n').next().unwrap_or("");
                if between && piece.ends_with('\n') && is_command(next) {
                    return lexeme.range.end;
                }
            }
            LexemeKind::End => between = true,
            _ => between = false,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<(bool, &str)> {
        let piece = |piece| match piece {
            Piece::Command(range) => (true, text[range].trim()),
            Piece::Sql(range) => (false, text[range].trim()),
        };
        pieces(text).into_iter().map(piece).collect()
    }

    #[test]
    fn commands_stand_between_statements() {
        let text = "-- note\n.timer on\nselect 1\n.5 + 2;\nselect '\n.x;';\n\\d t;\nexit";
        let expected = [
            (false, "-- note"),
            (true, ".timer on"),
            (false, "select 1\n.5 + 2;\nselect '\n.x;';"),
            (true, "\\d t;"),
            (true, "exit"),
        ];
        assert_eq!(texts(text), expected);
        assert_eq!(texts("select 1"), [(false, "select 1")]);
        assert_eq!(texts(" \n "), []);
    }

    #[test]
    fn habits_of_psql_are_known() {
        let action = |line| Command::parse(line).map(|command| command.action).ok();
        assert_eq!(action("\\d"), Some(Action::Tables));
        assert_eq!(action("\\d trips;"), Some(Action::Schema));
        assert_eq!(action("\\x on"), Some(Action::Expanded));
        assert_eq!(action("EXIT;"), Some(Action::Quit));
        assert_eq!(Command::parse(".read 'a b.sql'").expect("parses").file(), "a b.sql");
        let hint = |line| Command::parse(line).expect_err("unknown").hint;
        assert_eq!(hint(".tabels").as_deref(), Some("did you mean .tables?"));
        assert_eq!(hint(".func").as_deref(), Some("did you mean .functions?"));
        assert_eq!(hint(".nothing").as_deref(), Some(".help lists the commands"));
    }
}
