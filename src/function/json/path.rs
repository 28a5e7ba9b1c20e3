//! Paths into JSON.
//!
//! Enters: `$.a[0].*`, `/a/0`, or the name of a member. Leaves: steps. Always holds: a path that cannot be read is an
//! error with the place in it.

use crate::error::{Error, Result};

/// One step into a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The member of this name.
    Member(String),
    /// The item of this number, from the end if it is less than 0.
    Item(i64),
    /// Each member.
    AnyMember,
    /// Each item.
    AnyItem,
    /// The value, and all that is in it.
    Anywhere,
}

/// A path; with a step that means several values, its result is a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) steps: Vec<Step>,
    pub(super) many: bool,
}

impl Path {
    pub(super) fn item(number: i64) -> Self {
        Self { steps: vec![Step::Item(number)], many: false }
    }

    /// Reads a path.
    pub(super) fn read(text: &str) -> Result<Self> {
        let steps = if let Some(rest) = text.strip_prefix('$') {
            let wrong = |rest: &str| {
                Error::sql(format!("'{text}' is not a JSON path: it is wrong at '{rest}'"))
                    .hint("paths are written '$.member', '$.list[0]', '$.\"a name\"', '$.list[*].x', or '/member/0'")
            };
            steps(rest).map_err(wrong)?
        } else if let Some(pointer) = text.strip_prefix('/') {
            // `/a/0`: a number is an item or a member, which only the value tells; items are far more usual.
            let step = |part: &str| match part.parse::<i64>() {
                Ok(number) if number >= 0 => Step::Item(number),
                _ => Step::Member(part.replace("~1", "/").replace("~0", "~")),
            };
            pointer.split('/').map(step).collect()
        } else if text.is_empty() {
            Vec::new()
        } else {
            vec![Step::Member(text.to_owned())]
        };
        let many = steps.iter().any(|step| matches!(step, Step::AnyMember | Step::AnyItem | Step::Anywhere));
        Ok(Self { steps, many })
    }
}

/// The steps behind `$`, or the rest that cannot be read.
fn steps(mut rest: &str) -> Result<Vec<Step>, &str> {
    let mut steps = Vec::new();
    while !rest.is_empty() {
        let before = rest;
        if let Some(item) = rest.strip_prefix('[') {
            let (inside, behind) = item.split_once(']').ok_or(before)?;
            let number = inside.trim().trim_start_matches('#');
            steps.push(match number {
                "*" => Step::AnyItem,
                number => Step::Item(number.parse().map_err(|_| before)?),
            });
            rest = behind;
            continue;
        }
        rest = rest.strip_prefix('.').ok_or(before)?;
        if let Some(deeper) = rest.strip_prefix('.') {
            steps.push(Step::Anywhere);
            rest = deeper;
            if rest.starts_with('[') {
                continue;
            }
        }
        if let Some(behind) = rest.strip_prefix('*') {
            steps.push(Step::AnyMember);
            rest = behind;
        } else if let Some(quoted) = rest.strip_prefix('"') {
            let (name, behind) = quoted.split_once('"').ok_or(before)?;
            steps.push(Step::Member(name.to_owned()));
            rest = behind;
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            if end == 0 {
                return Err(before);
            }
            steps.push(Step::Member(rest[..end].to_owned()));
            rest = &rest[end..];
        }
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_or_refused_with_their_place() {
        let steps = |text: &str| Path::read(text).expect(text).steps;
        let member = |name: &str| Step::Member(name.to_owned());
        assert_eq!(steps("$"), []);
        assert_eq!(
            steps("$.a.\"b.c\"[0][-1][#-2]"),
            [member("a"), member("b.c"), Step::Item(0), Step::Item(-1), Step::Item(-2)]
        );
        assert_eq!(steps("$..a[*].*"), [Step::Anywhere, member("a"), Step::AnyItem, Step::AnyMember]);
        assert_eq!(steps("/a~1b/0"), [member("a/b"), Step::Item(0)]);
        assert_eq!(steps("a.b"), [member("a.b")]);
        for (text, place) in [("$.a.", "'.'"), ("$x", "'x'"), ("$[x]", "'[x]'"), ("$.\"a", "'.\"a'"), ("$[1", "'[1'")] {
            let error = Path::read(text).expect_err(text).message;
            assert!(error.ends_with(place), "{error}");
        }
    }
}
