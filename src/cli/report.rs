//! What users read on standard error.
//!
//! Enters: errors with their place in the SQL. Leaves: the statement's line with a mark under the place, and
//! what to do. Always holds: colour on a terminal only, and never where NO_COLOR is set.

use std::io::{IsTerminal, Write};

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::error::{Error, Span};
use crate::parser::Script;

/// Prints an error; `place`: the script, and the statement that failed.
pub(super) fn error(error: &Error, place: Option<(&Script, Option<Span>)>) {
    if error.message.is_empty() {
        return;
    }
    // Nothing can be done about a closed standard error.
    let _ = writeln!(std::io::stderr(), "{}", render(error, place, coloured()));
}

fn coloured() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// True if standard output may be coloured.
pub(super) fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// `1 row`, `2 rows`, `1,204,331 rows`.
pub(super) fn count(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", digits(number))
}

/// `1,204,331`
pub(super) fn digits(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn render(error: &Error, place: Option<(&Script, Option<Span>)>, colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let shown;
    let mut group = Group::with_title(Level::ERROR.primary_title(error.message.clone()));
    if let Some((script, statement)) = place
        && let Some(span) = error.span.or(statement)
    {
        // Without a place in it, the statement's first line is shown unmarked.
        let marked = match error.span {
            Some(span) => Some(range(&script.text, span)),
            None => marked_word(&script.text, span, error.mark.as_ref().map(|mark| mark.0.as_str()))
                .or_else(|| quoted_text(&script.text, span, &error.message))
                .or_else(|| named_file(&script.text, span, &error.message)),
        };
        let kind = if marked.is_some() { AnnotationKind::Primary } else { AnnotationKind::Visible };
        let range = marked.unwrap_or_else(|| first_line(&script.text, span));
        shown = without_passwords(&script.text);
        let mut snippet = Snippet::source(shown.as_str()).annotation(kind.span(range));
        if !script.name.is_empty() {
            snippet = snippet.path(script.name.as_str());
        }
        group = group.element(snippet);
    }
    for note in &error.notes {
        group = group.element(Level::NOTE.message(note.clone()));
    }
    if let Some(hint) = &error.hint {
        group = group.element(Level::HELP.message(hint.to_string()));
    }
    renderer.render(&[group])
}

/// The text with stars for passwords, in URLs and in OPTIONS: as many as they have bytes, so that places stay.
fn without_passwords(text: &str) -> String {
    const PASSWORDS: &str = r"(?i)://[^\s:/@']*:(?<url>[^\s'/]*)@|'[\w.]*(?:password|passphrase|secret|token|pem)[\w.]*'\s+'(?<option>(?:[^']|'')*)'";
    let Ok(passwords) = regex::Regex::new(PASSWORDS) else { return String::new() };
    let mut shown = text.to_owned();
    for found in passwords.captures_iter(text) {
        let secret = found.name("url").or_else(|| found.name("option"));
        if let Some(secret) = secret.filter(|secret| !secret.as_str().starts_with("env:")) {
            shown.replace_range(secret.range(), &"*".repeat(secret.len()));
        }
    }
    shown
}

/// Where the statement has the word that the error is about; `a|b`: either. Literals count only where the word
/// is one itself.
fn marked_word(text: &str, statement: Span, mark: Option<&str>) -> Option<std::ops::Range<usize>> {
    let mark = mark?;
    let range = offset(text, statement.start)..offset(text, statement.end);
    let body = text.get(range.clone())?;
    let lower = body.to_ascii_lowercase();
    let word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    for choice in mark.split('|').filter(|choice| !choice.is_empty()) {
        let choice = choice.to_ascii_lowercase();
        if choice.starts_with('\'')
            && let Some(at) = lower.find(&choice)
        {
            return Some(range.start + at..range.start + at + choice.len());
        }
        let is_word = word(choice.as_bytes().first());
        for (at, _) in lower.match_indices(&choice) {
            let before = at.checked_sub(1).and_then(|at| lower.as_bytes().get(at));
            let inside = lower[..at].matches('\'').count() % 2 == 1;
            if !inside && !(is_word && (word(before) || word(lower.as_bytes().get(at + choice.len())))) {
                return Some(range.start + at..range.start + at + choice.len());
            }
        }
    }
    None
}

/// Where the statement has the text that the message quotes, such as the path of a missing file.
fn quoted_text(text: &str, statement: Span, message: &str) -> Option<std::ops::Range<usize>> {
    let statement = offset(text, statement.start)..offset(text, statement.end);
    let from = message.find('\'')?;
    let to = from + 1 + message[from + 1..].find('\'')?;
    let at = statement.start + text.get(statement)?.find(&message[from..=to])?;
    Some(at..at + to - from + 1)
}

/// Where the statement names the file, or its folder, with which the message begins.
fn named_file(text: &str, statement: Span, message: &str) -> Option<std::ops::Range<usize>> {
    let statement = offset(text, statement.start)..offset(text, statement.end);
    let mut at = statement.start;
    for (place, part) in text.get(statement)?.split('\'').enumerate() {
        let range = at..at + part.len();
        at = range.end + 1;
        if place % 2 == 1 && !part.is_empty() && message.starts_with(part) {
            return Some(range.start - 1..range.end + 1);
        }
    }
    None
}

/// The bytes of a whole statement.
pub(super) fn range_of(text: &str, span: Span) -> std::ops::Range<usize> {
    offset(text, span.start)..offset(text, span.end)
}

/// The bytes of a span, on its first line.
fn range(text: &str, span: Span) -> std::ops::Range<usize> {
    let start = offset(text, span.start);
    let end = offset(text, span.end).max(start);
    // A mark stays on one line.
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    start..end.min(line_end)
}

fn first_line(text: &str, span: Span) -> std::ops::Range<usize> {
    let start = offset(text, span.start);
    start..start
}

/// The byte at a line and column, both from 1 and in characters.
fn offset(text: &str, (line, column): (usize, usize)) -> usize {
    let mut start = 0;
    for _ in 1..line {
        match text[start..].find('\n') {
            Some(at) => start += at + 1,
            None => return text.len(),
        }
    }
    let line_text = text[start..].split('\n').next().unwrap_or("");
    match line_text.char_indices().nth(column.saturating_sub(1)) {
        Some((at, _)) => start + at,
        None => start + line_text.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_under_the_place() {
        let script = Script { name: "a.sql".into(), text: "select 1;\nselect ä, frm from t".into() };
        let error =
            Error::sql("no column named frm").at(Span { start: (2, 11), end: (2, 14) }).hint("did you mean from?");
        let text = render(&error, Some((&script, None)), false);
        assert!(text.contains("--> a.sql:2:11"), "{text}");
        assert!(text.contains("2 | select ä, frm from t\n  |           ^^^"), "{text}");
        assert!(text.contains("help: did you mean from?"), "{text}");
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!(count(1, "row"), "1 row");
        assert_eq!(count(1_204_331, "row"), "1,204,331 rows");
    }
}
