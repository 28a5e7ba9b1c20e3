//! The line editor.
//!
//! Enters: keys. Leaves: whole inputs: a command, or statements up to their `;`. Always holds: what ends a
//! statement is decided by the tokenizer that reads it afterwards; history lies in the user's data folder, never
//! in the current one, and only its owner can read it.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use etcetera::BaseStrategy;
use nu_ansi_term::{Color, Style};
use reedline::{
    ColumnarMenu, EditCommand, Emacs, FileBackedHistory, Highlighter, InputMode, KeyCode, KeyModifiers, MenuBuilder,
    Prompt, PromptEditMode, PromptHistorySearch, PromptHistorySearchStatus, Reedline, ReedlineEvent, ReedlineMenu,
    StyledText, ValidationResult, Validator, default_emacs_keybindings,
};

use super::command::is_command;
use super::complete::{Helper, is_keyword};
use crate::error::{Error, Result};
use crate::parser::{Lexeme, LexemeKind, is_complete, lex};

/// Inputs that the history keeps.
const HISTORY_INPUTS: usize = 10_000;
const MENU: &str = "completion";

/// An editor; `empty` tells whether there is text in it.
pub(super) fn editor(helper: Helper, colour: bool, empty: Arc<AtomicBool>) -> Result<Reedline> {
    let functions = helper.function_names().collect();
    let mut keys = default_emacs_keybindings();
    let next = ReedlineEvent::UntilFound(vec![ReedlineEvent::Menu(MENU.to_owned()), ReedlineEvent::MenuNext]);
    keys.add_binding(KeyModifiers::NONE, KeyCode::Tab, next);
    keys.add_binding(KeyModifiers::SHIFT, KeyCode::BackTab, ReedlineEvent::MenuPrevious);
    let undo = ReedlineEvent::Edit(vec![EditCommand::Undo]);
    keys.add_binding(KeyModifiers::CONTROL, KeyCode::Char('_'), undo);
    let menu = ColumnarMenu::default()
        .with_name(MENU)
        .with_columns(4)
        .with_marker("> ")
        .with_input_mode(InputMode::FullBuffer);
    let editor = Reedline::create()
        .with_ansi_colors(colour)
        .use_bracketed_paste(true)
        .with_edit_mode(Box::new(Emacs::new(keys)))
        .with_menu(ReedlineMenu::EngineCompleter(Box::new(menu)))
        .with_quick_completions(true)
        .with_partial_completions(true)
        .with_completer(Box::new(helper))
        .with_highlighter(Box::new(Colours { functions, empty }))
        .with_validator(Box::new(WholeStatements));
    Ok(match history() {
        Ok(history) => editor.with_history(Box::new(history)),
        Err(error) => {
            eprintln!("history is not kept: {}", error.message);
            editor
        }
    })
}

/// The folder of the user's data or configuration that is ours.
pub(super) fn folder(kind: impl Fn(&etcetera::base_strategy::Xdg) -> PathBuf) -> Option<PathBuf> {
    let strategy = etcetera::base_strategy::Xdg::new().ok()?;
    Some(kind(&strategy).join("fuse"))
}

fn history() -> Result<FileBackedHistory> {
    let folder = folder(|user| user.data_dir()).ok_or_else(|| Error::query("no home folder is known"))?;
    let path = folder.join("history");
    std::fs::create_dir_all(&folder).map_err(|e| Error::io(folder.display(), &e))?;
    // SQL may hold secrets.
    let made = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    made.map_err(|e| Error::io(path.display(), &e))?;
    FileBackedHistory::with_file(HISTORY_INPUTS, path.clone())
        .map_err(|e| Error::query(format!("{}: {e}", path.display())))
}

/// Enter goes on until the statement has its `;`.
struct WholeStatements;

impl Validator for WholeStatements {
    fn validate(&self, text: &str) -> ValidationResult {
        let command = text.trim().lines().count() <= 1 && is_command(text);
        // The last line may be a command behind statements, in a script that was pasted.
        let last =
            text.trim_end().rsplit_once('\n').is_some_and(|(above, last)| is_command(last) && is_complete(above));
        if command || last || is_complete(text) { ValidationResult::Complete } else { ValidationResult::Incomplete }
    }
}

/// What is before the text.
pub(super) struct Signs;

impl Prompt for Signs {
    fn render_prompt_left(&self) -> Cow<'_, str> {
        Cow::Borrowed("fuse")
    }

    fn render_prompt_right(&self) -> Cow<'_, str> {
        Cow::Borrowed("")
    }

    fn render_prompt_indicator(&self, _mode: PromptEditMode) -> Cow<'_, str> {
        Cow::Borrowed("> ")
    }

    fn render_prompt_multiline_indicator(&self) -> Cow<'_, str> {
        Cow::Borrowed("  ... ")
    }

    fn render_prompt_history_search_indicator(&self, search: PromptHistorySearch) -> Cow<'_, str> {
        let failed = if matches!(search.status, PromptHistorySearchStatus::Failing) { "nothing " } else { "" };
        Cow::Owned(format!(" {failed}with '{}': ", search.term))
    }
}

struct Colours {
    functions: HashSet<String>,
    empty: Arc<AtomicBool>,
}

impl Highlighter for Colours {
    fn highlight(&self, text: &str, cursor: usize) -> StyledText {
        self.empty.store(text.trim().is_empty(), Ordering::Relaxed);
        let mut styled = StyledText::new();
        if is_command(text) {
            styled.push((Style::new().fg(Color::Cyan), text.to_owned()));
            return styled;
        }
        let lexemes = lex(text);
        let brackets = Brackets::of(text, &lexemes, cursor);
        for (at, lexeme) in lexemes.iter().enumerate() {
            let style = match lexeme.kind {
                LexemeKind::Open | LexemeKind::Close if brackets.lonely.contains(&at) => Color::Red.bold(),
                LexemeKind::Open | LexemeKind::Close if brackets.pair.is_some_and(|(a, b)| a == at || b == at) => {
                    Style::new().bold().underline()
                }
                _ => self.style(text, lexeme, lexemes.get(at + 1)),
            };
            styled.push((style, text[lexeme.range.clone()].to_owned()));
        }
        styled
    }
}

impl Colours {
    fn style(&self, text: &str, lexeme: &Lexeme, next: Option<&Lexeme>) -> Style {
        let piece = &text[lexeme.range.clone()];
        match lexeme.kind {
            LexemeKind::Word if is_keyword(piece) => Color::Blue.bold(),
            LexemeKind::Word
                if next.is_some_and(|next| next.kind == LexemeKind::Open)
                    && self.functions.contains(&piece.to_lowercase()) =>
            {
                Style::new().fg(Color::Cyan)
            }
            LexemeKind::Text => Style::new().fg(Color::Green),
            LexemeKind::Number => Style::new().fg(Color::Yellow),
            LexemeKind::Comment => Style::new().fg(Color::DarkGray),
            // A literal or a comment that is not closed yet is not wrong yet.
            LexemeKind::Unfinished if piece.starts_with(['\'', '"', '$']) => Style::new().fg(Color::Green).underline(),
            LexemeKind::Unfinished if piece.starts_with("/*") => Style::new().fg(Color::DarkGray),
            LexemeKind::Unfinished => Color::Red.bold(),
            _ => Style::new(),
        }
    }
}

/// Brackets by their places among the lexemes.
#[derive(Default)]
struct Brackets {
    /// Those at the cursor.
    pair: Option<(usize, usize)>,
    /// Closing ones that close nothing.
    lonely: Vec<usize>,
}

impl Brackets {
    fn of(text: &str, lexemes: &[Lexeme], cursor: usize) -> Self {
        let mut brackets = Self::default();
        let mut open: Vec<usize> = Vec::new();
        let at_cursor = |at: usize| lexemes[at].range.start == cursor || lexemes[at].range.end == cursor;
        let sign = |at: usize| &text[lexemes[at].range.clone()];
        for (at, lexeme) in lexemes.iter().enumerate() {
            match lexeme.kind {
                LexemeKind::Open => open.push(at),
                LexemeKind::Close => match open.pop() {
                    Some(start) if matches!((sign(start), sign(at)), ("(", ")") | ("[", "]") | ("{", "}")) => {
                        if at_cursor(at) || at_cursor(start) {
                            brackets.pair = Some((start, at));
                        }
                    }
                    _ => brackets.lonely.push(at),
                },
                LexemeKind::End => brackets.lonely.append(&mut open),
                _ => {}
            }
        }
        brackets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(text: &str) -> bool {
        matches!(WholeStatements.validate(text), ValidationResult::Complete)
    }

    #[test]
    fn enter_goes_on_until_the_statement_ends() {
        for text in [".tables", "\\d trips", "exit", "select 1;", "", "select 1;\n.tables", "select ';\n';"] {
            assert!(complete(text), "{text}");
        }
        for text in ["select 1", "select '\n.tables", "select 1\n.5", "-- x\nselect"] {
            assert!(!complete(text), "{text}");
        }
    }

    #[test]
    fn brackets_find_their_partner() {
        let text = "f(a[1)]; (";
        let brackets = Brackets::of(text, &lex(text), 0);
        assert_eq!(brackets.lonely.len(), 2);
        let text = "f(g(1), ')')";
        let lexemes = lex(text);
        let pair = Brackets::of(text, &lexemes, text.len()).pair.expect("a pair");
        assert_eq!((lexemes[pair.0].range.start, lexemes[pair.1].range.start), (1, text.len() - 1));
    }
}
