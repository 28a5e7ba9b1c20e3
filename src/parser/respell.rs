//! Statements and clauses that the parser does not know, spelled so that it reads them.
//!
//! Enters: the tokens of one statement. Leaves: tokens that the parser reads, with the names of [`mark`] in
//! them, which the planner knows. Always holds: each token keeps its place in the text; a statement without
//! these words passes as it is.
//!
//! `PIVOT t ON year USING sum(n) GROUP BY city` becomes
//! `SELECT "fuse.pivot", year, "fuse.using", sum(n) FROM t GROUP BY city`: the parser reads all its parts,
//! wherever a query may stand.

use datafusion::sql::sqlparser::tokenizer::{Span as Place, Token, TokenWithSpan, Word};

use super::mark;
use crate::error::{Error, Result};

/// Rewrites the tokens of one statement.
pub(super) fn respell(tokens: &mut Vec<TokenWithSpan>) -> Result<()> {
    if !tokens.iter().any(|token| is_trigger(&token.token)) {
        return Ok(());
    }
    tokens.retain(|token| !matches!(token.token, Token::Whitespace(_)));
    let mut text = Text { tokens: std::mem::take(tokens) };
    text.definitions();
    text.time_windows();
    text.insert_by_name();
    text.filters();
    text.json_arrows();
    text.lambdas();
    text.comprehensions();
    text.star_patterns();
    text.samples()?;
    text.joins()?;
    text.pivots_in_from();
    text.queries();
    *tokens = text.tokens;
    Ok(())
}

fn is_trigger(token: &Token) -> bool {
    const WORDS: [&str; 16] = [
        "POSITION",
        "PIVOT",
        "UNPIVOT",
        "SUMMARIZE",
        "DESCRIBE",
        "ASOF",
        "POSITIONAL",
        "NAME",
        "MACRO",
        "VARIABLE",
        "SAMPLE",
        "LAMBDA",
        "FOR",
        "COLUMNS",
        "LIKE",
        "TABLESAMPLE",
    ];
    const MORE: [&str; 8] = ["ILIKE", "GLOB", "SIMILAR", "LIMIT", "FILTER", "TUMBLE", "HOP", "SESSION"];
    let known = |word: &Word| WORDS.iter().chain(&MORE).any(|known| word.value.eq_ignore_ascii_case(known));
    *token == Token::Arrow || matches!(token, Token::Word(word) if word.quote_style.is_none() && known(word))
}

/// Tokens without white space.
pub(super) struct Text {
    pub(super) tokens: Vec<TokenWithSpan>,
}

pub(super) fn word(text: &str, span: Place) -> TokenWithSpan {
    TokenWithSpan { token: Token::make_keyword(text), span }
}

pub(super) fn mark_word(name: &str, span: Place) -> TokenWithSpan {
    TokenWithSpan { token: Token::make_word(name, Some('"')), span }
}

pub(super) fn sign(token: Token, span: Place) -> TokenWithSpan {
    TokenWithSpan { token, span }
}

impl Text {
    pub(super) fn is(&self, at: usize, text: &str) -> bool {
        matches!(self.tokens.get(at).map(|token| &token.token), Some(Token::Word(word))
            if word.quote_style.is_none() && word.value.eq_ignore_ascii_case(text))
    }

    fn are(&self, at: usize, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(ahead, word)| self.is(at + ahead, word))
    }

    pub(super) fn token(&self, at: usize) -> Option<&Token> {
        self.tokens.get(at).map(|token| &token.token)
    }

    pub(super) fn place(&self, at: usize) -> Place {
        self.tokens.get(at).or(self.tokens.last()).map_or_else(Place::empty, |token| token.span)
    }

    /// The places from `from` on in the same parentheses, up to their end.
    pub(super) fn level(&self, from: usize) -> Vec<usize> {
        let mut depth = 0_i32;
        let mut places = Vec::new();
        for at in from..self.tokens.len() {
            match self.token(at) {
                Some(Token::RParen | Token::RBracket | Token::RBrace) => depth -= 1,
                Some(Token::EOF) | None => break,
                _ => {}
            }
            if depth < 0 {
                break;
            }
            if depth == 0 {
                places.push(at);
            }
            if let Some(Token::LParen | Token::LBracket | Token::LBrace) = self.token(at) {
                depth += 1;
            }
        }
        places
    }

    /// Where the parentheses end that `from` is in, or the statement.
    pub(super) fn end(&self, from: usize) -> usize {
        self.level(from).last().map_or(from, |last| last + 1)
    }

    /// The first of these words behind `from` in the same parentheses.
    pub(super) fn find(&self, from: usize, words: &[&str]) -> Option<usize> {
        self.level(from).into_iter().find(|at| words.iter().any(|word| self.is(*at, word)))
    }

    pub(super) fn splice(&mut self, range: std::ops::Range<usize>, new: Vec<TokenWithSpan>) {
        self.tokens.splice(range, new);
    }

    pub(super) fn is_open(&self, at: usize) -> bool {
        self.token(at) == Some(&Token::LParen)
    }

    /// True if a query may begin at this place.
    fn begins_query(&self, at: usize) -> bool {
        let Some(before) = at.checked_sub(1) else { return true };
        const WORDS: [&str; 8] = ["AS", "EXPLAIN", "ANALYZE", "VERBOSE", "UNION", "ALL", "EXCEPT", "INTERSECT"];
        self.is_open(before)
            || WORDS.iter().any(|word| self.is(before, word))
            || (self.token(before) == Some(&Token::RParen) && self.is(0, "WITH") && !self.is_open(at + 1))
            || self.is(before, "SUMMARIZE")
    }

    /// DROP MACRO, and SET VARIABLE as the definition of a macro without parameters.
    fn definitions(&mut self) {
        if self.are(0, &["DROP", "MACRO"]) {
            let span = self.place(1);
            let name = if self.is(2, "TABLE") { 3 } else { 2 };
            let name_at = if self.are(name, &["IF", "EXISTS"]) { name + 2 } else { name };
            let mark = vec![mark_word(mark::MACRO, span), sign(Token::Period, span)];
            self.splice(name_at..name_at, mark);
            self.splice(1..name, vec![word("FUNCTION", span)]);
        }
        if self.are(0, &["SET", "VARIABLE"]) && self.token(3) == Some(&Token::Eq) {
            let (start, end) = (self.place(0), self.tokens.len());
            let end = if self.token(end - 1) == Some(&Token::EOF) { end - 1 } else { end };
            self.splice(end..end, vec![sign(Token::RParen, self.place(end))]);
            let open = vec![
                sign(Token::LParen, start),
                sign(Token::RParen, start),
                word("AS", start),
                sign(Token::LParen, start),
            ];
            self.splice(3..4, open);
            let head = ["CREATE", "OR", "REPLACE", "MACRO"].map(|text| word(text, start));
            let mark = [mark_word(mark::VARIABLE, start), sign(Token::Period, start)];
            self.splice(0..2, head.into_iter().chain(mark).collect());
        }
    }

    /// `INSERT INTO t BY NAME SELECT …`.
    fn insert_by_name(&mut self) {
        if !self.is(0, "INSERT") {
            return;
        }
        let by = (2..self.tokens.len().min(12)).find(|at| self.is(*at, "BY"));
        let Some(by) = by else { return };
        let span = self.place(by);
        if self.is(by + 1, "NAME") {
            let mark = vec![sign(Token::LParen, span), mark_word(mark::BY_NAME, span), sign(Token::RParen, span)];
            self.splice(by..by + 2, mark);
        } else if self.is(by + 1, "POSITION") {
            self.splice(by..by + 2, Vec::new());
        }
    }

    /// `sum(x) FILTER (y > 0)` without WHERE.
    fn filters(&mut self) {
        for at in (1..self.tokens.len()).rev() {
            let call = self.token(at - 1) == Some(&Token::RParen);
            if call && self.is(at, "FILTER") && self.is_open(at + 1) && !self.is(at + 2, "WHERE") {
                self.splice(at + 2..at + 2, vec![word("WHERE", self.place(at + 1))]);
            }
        }
    }

    /// `lambda x, y: …` is `(x, y) -> …`.
    fn lambdas(&mut self) {
        let mut at = 0;
        while at < self.tokens.len() {
            let colon = (at + 2..at + 12).find(|at| self.token(*at) == Some(&Token::Colon));
            let names = |text: &Self, to: usize| {
                (at + 1..to).all(|n| matches!(text.token(n), Some(Token::Word(_) | Token::Comma)))
            };
            if self.is(at, "LAMBDA")
                && let Some(colon) = colon
                && names(self, colon)
            {
                let span = self.place(at);
                self.splice(colon..colon + 1, vec![sign(Token::RParen, span), sign(Token::Arrow, span)]);
                self.splice(at..at + 1, vec![sign(Token::LParen, span)]);
                if colon == at + 2 {
                    self.tokens.remove(at + 2);
                    self.tokens.remove(at);
                }
            }
            at += 1;
        }
    }

    /// `[e FOR x IN l IF c]` is `list_transform(list_filter(l, x -> c), x -> e)`; the innermost comes first.
    fn comprehensions(&mut self) {
        let opens: Vec<usize> = (0..self.tokens.len()).filter(|at| self.token(*at) == Some(&Token::LBracket)).collect();
        for open in opens.into_iter().rev() {
            let Some(for_at) = self.find(open + 1, &["FOR"]) else { continue };
            let Some(in_at) = self.find(for_at, &["IN"]) else { continue };
            let end = self.end(open + 1);
            if self.token(end) != Some(&Token::RBracket) {
                continue;
            }
            let if_at = self.find(in_at, &["IF"]).unwrap_or(end);
            let slice = |from: usize, to: usize| self.tokens[from..to].to_vec();
            let (expr, names, list) = (slice(open + 1, for_at), slice(for_at + 1, in_at), slice(in_at + 1, if_at));
            let filter = slice((if_at + 1).min(end), end);
            let span = self.place(open);
            let lambda = |body: Vec<TokenWithSpan>| {
                let mut all = vec![sign(Token::Comma, span)];
                let many = names.len() > 1;
                all.extend(many.then(|| sign(Token::LParen, span)));
                all.extend(names.clone());
                all.extend(many.then(|| sign(Token::RParen, span)));
                all.push(sign(Token::Arrow, span));
                all.extend(body);
                all.push(sign(Token::RParen, span));
                all
            };
            let call = |name: &str| [word(name, span), sign(Token::LParen, span)];
            let mut new = Vec::from(call("list_transform"));
            if !filter.is_empty() {
                new.extend(call("list_filter"));
            }
            new.extend(list);
            if !filter.is_empty() {
                new.extend(lambda(filter));
            }
            new.extend(lambda(expr));
            self.splice(open..end + 1, new);
        }
    }

    /// `* LIKE 'a%'` is `COLUMNS(c -> c LIKE 'a%')`, and `f(*COLUMNS(…))` a function of all columns.
    fn star_patterns(&mut self) {
        let mut at = 0;
        while at < self.tokens.len() {
            let begins = at > 0
                && (self.is(at - 1, "SELECT")
                    || self.is(at - 1, "DISTINCT")
                    || matches!(self.token(at - 1), Some(Token::Comma | Token::LParen)));
            if self.token(at) == Some(&Token::Mul) && begins {
                if self.is(at + 1, "COLUMNS") && self.is_open(at + 2) {
                    let span = self.place(at + 1);
                    self.splice(at..at + 2, vec![mark_word(mark::UNPACK, span)]);
                } else if let Some(text) = self.pattern(at + 1) {
                    let (span, column) = (self.place(at), mark_word("column", self.place(at)));
                    self.splice(text + 1..text + 1, vec![sign(Token::RParen, span)]);
                    let mut head = vec![word("COLUMNS", span), sign(Token::LParen, span), column.clone()];
                    head.extend([sign(Token::Arrow, span), column]);
                    if at >= 2 && self.is(at - 2, "COLUMNS") {
                        head.drain(..2);
                        self.tokens.remove(text + 1);
                    }
                    self.splice(at..at + 1, head);
                }
            }
            at += 1;
        }
    }

    /// The place of the text in `[NOT] LIKE 'text'`, if that stands here.
    fn pattern(&self, at: usize) -> Option<usize> {
        let at = if self.is(at, "NOT") { at + 1 } else { at };
        let text = match () {
            () if self.is(at, "LIKE") || self.is(at, "ILIKE") || self.is(at, "GLOB") => at + 1,
            () if self.are(at, &["SIMILAR", "TO"]) => at + 2,
            () => return None,
        };
        matches!(self.token(text), Some(Token::SingleQuotedString(_))).then_some(text)
    }

    /// ASOF JOIN with its condition in ON or USING.
    fn joins(&mut self) -> Result<()> {
        let mut at = 0;
        while at < self.tokens.len() {
            if self.are(at, &["POSITIONAL", "JOIN"]) && !(at > 0 && self.is(at - 1, "AS")) {
                return Err(Error::sql("POSITIONAL JOIN is not supported: rows of a table have no order of their own")
                    .at(self.place(at))
                    .hint("number the rows of both sides with row_number() OVER (ORDER BY …) and join on the number"));
            }
            let side = (1..4).find(|ahead| self.is(at + ahead, "JOIN"));
            if self.is(at, "ASOF")
                && let Some(side) = side
            {
                self.asof(at, at + side)?;
            }
            at += 1;
        }
        Ok(())
    }

    fn asof(&mut self, at: usize, join: usize) -> Result<()> {
        let span = self.place(at);
        if self.is(at + 1, "RIGHT") || self.is(at + 1, "FULL") || self.is(at + 1, "SEMI") || self.is(at + 1, "ANTI") {
            return Err(Error::sql("an ASOF JOIN is inner or LEFT")
                .at(self.place(at + 1))
                .hint("exchange the two tables and turn the comparison, or filter an ASOF LEFT JOIN"));
        }
        let left = self.is(at + 1, "LEFT");
        let Some(on) = self.find(join + 1, &["ON", "USING", "MATCH_CONDITION"]) else {
            return Err(Error::sql("an ASOF JOIN needs a condition")
                .at(span)
                .hint("ASOF JOIN b ON a.key = b.key AND a.time >= b.time, or USING (key, time)"));
        };
        if !self.is(on, "MATCH_CONDITION") {
            let name = if left { mark::ASOF_LEFT } else { mark::ASOF };
            let condition = vec![
                word("MATCH_CONDITION", span),
                sign(Token::LParen, span),
                mark_word(name, span),
                sign(Token::RParen, span),
            ];
            self.splice(on..on, condition);
        }
        self.splice(at + 1..join, Vec::new());
        Ok(())
    }

    /// In `t PIVOT (sum(n) FOR year IN (…) city IN (…) GROUP BY country)`, what the parser does not read
    /// becomes two more functions before the aggregates.
    fn pivots_in_from(&mut self) {
        let mut at = 0;
        while at + 1 < self.tokens.len() {
            if self.is(at, "PIVOT") && self.is_open(at + 1) && self.find(at + 2, &["FOR"]).is_some() {
                self.pivot_in_from(at + 2);
            }
            at += 1;
        }
    }

    fn pivot_in_from(&mut self, start: usize) {
        let span = self.place(start);
        let end = self.end(start);
        let Some(first_in) = self.find(start, &["FOR"]).and_then(|at| self.find(at, &["IN"])) else { return };
        // Behind IN and its parentheses.
        let Some(rest) = self.level(first_in).get(3).copied().filter(|rest| *rest < end) else { return };
        if self.is(rest, "DEFAULT") {
            return;
        }
        let group = self.find(rest, &["GROUP"]).filter(|at| self.is(at + 1, "BY")).unwrap_or(end);
        let slice = |from: usize, to: usize| self.tokens.get(from..to).unwrap_or_default().to_vec();
        let (more, groups) = (slice(rest, group), slice((group + 2).min(end), end));
        let mut new = Vec::new();
        let mut call = |name: &str, args: Vec<TokenWithSpan>| {
            new.extend([mark_word(name, span), sign(Token::LParen, span)]);
            new.extend(args);
            new.extend([sign(Token::RParen, span), sign(Token::Comma, span)]);
        };
        let mut one = Vec::new();
        let mut depth = 0_i32;
        for token in more {
            match token.token {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                _ => {}
            }
            let ends = depth == 0 && token.token == Token::RParen;
            one.push(token);
            if ends {
                call(mark::FOR, std::mem::take(&mut one));
            }
        }
        if group < end {
            call(mark::GROUP, groups);
        }
        self.splice(rest..end, Vec::new());
        self.splice(start..start, new);
    }

    /// PIVOT, UNPIVOT, SUMMARIZE and DESCRIBE as queries. From the end, so that inner ones come first.
    fn queries(&mut self) {
        for at in (0..self.tokens.len()).rev() {
            if !self.begins_query(at) {
                continue;
            }
            if self.is(at, "PIVOT") {
                self.pivot(at);
            } else if self.is(at, "UNPIVOT") {
                self.unpivot(at);
            } else if self.is(at, "SUMMARIZE") {
                self.of_relation(at, mark::SUMMARIZE);
            } else if at > 0 && self.is_open(at - 1) && self.is(at, "DESCRIBE") {
                self.of_relation(at, mark::DESCRIBE);
            }
        }
    }

    /// The tokens of a query: `SELECT mark, columns, … FROM source rest`.
    fn select(
        &self,
        at: usize,
        name: &str,
        columns: Vec<TokenWithSpan>,
        source: Vec<TokenWithSpan>,
    ) -> Vec<TokenWithSpan> {
        let span = self.place(at);
        let mut all = vec![word("SELECT", span), mark_word(name, span)];
        if !columns.is_empty() {
            all.push(sign(Token::Comma, span));
            all.extend(columns);
        }
        all.push(word("FROM", span));
        all.extend(source);
        all
    }

    fn pivot(&mut self, at: usize) {
        let Some(on) = self.find(at + 1, &["ON"]) else { return };
        let tail = self.find(on, &["GROUP", "ORDER", "LIMIT", "OFFSET", "UNION", "EXCEPT", "INTERSECT"]);
        let tail = tail.unwrap_or_else(|| self.end(at));
        let using = self.find(on, &["USING"]).filter(|using| *using < tail);
        let slice = |from: usize, to: usize| self.tokens.get(from..to).unwrap_or_default().to_vec();
        let mut columns = slice(on + 1, using.unwrap_or(tail));
        if let Some(using) = using {
            let span = self.place(using);
            columns.extend([sign(Token::Comma, span), mark_word(mark::USING, span), sign(Token::Comma, span)]);
            columns.extend(slice(using + 1, tail));
        }
        let new = self.select(at, mark::PIVOT, columns, slice(at + 1, on));
        self.splice(at..tail, new);
    }

    fn unpivot(&mut self, at: usize) {
        let Some(on) = self.find(at + 1, &["ON"]) else { return };
        let tail = self.find(on, &["ORDER", "LIMIT", "OFFSET", "UNION", "EXCEPT", "INTERSECT"]);
        let tail = tail.unwrap_or_else(|| self.end(at));
        let into = self.find(on, &["INTO"]).filter(|into| *into < tail);
        let slice = |from: usize, to: usize| self.tokens.get(from..to).unwrap_or_default().to_vec();
        let mut columns = slice(on + 1, into.unwrap_or(tail));
        if let Some(into) = into {
            let span = self.place(into);
            columns.extend([sign(Token::Comma, span), mark_word(mark::INTO, span)]);
            let mut names = slice(into + 1, tail);
            names.retain(|token| token.token != Token::Comma);
            let keyword = |token: &TokenWithSpan, text: &str| matches!(&token.token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(text));
            let value = names.iter().position(|token| keyword(token, "VALUE"));
            for (n, name) in names.into_iter().enumerate() {
                if !(n == 0 && keyword(&name, "NAME") || Some(n) == value) {
                    columns.extend([sign(Token::Comma, name.span), name]);
                }
            }
        }
        let new = self.select(at, mark::UNPIVOT, columns, slice(at + 1, on));
        self.splice(at..tail, new);
    }

    fn of_relation(&mut self, at: usize, name: &str) {
        let end = self.end(at);
        let query = ["SELECT", "FROM", "WITH", "VALUES"].iter().any(|word| self.is(at + 1, word));
        let mut source = self.tokens.get(at + 1..end).unwrap_or_default().to_vec();
        if query {
            source.insert(0, sign(Token::LParen, self.place(at)));
            source.push(sign(Token::RParen, self.place(end)));
        }
        let new = self.select(at, name, Vec::new(), source);
        self.splice(at..end, new);
    }

    /// `USING SAMPLE 10%` behind a query is TABLESAMPLE behind its only table.
    /// `LIMIT 10%` becomes `LIMIT "fuse.percent"(10)`.
    fn limit_of_percent(&mut self, at: usize) {
        let behind = |token: Option<&Token>| match token {
            Some(Token::Word(word)) => word.value.eq_ignore_ascii_case("OFFSET"),
            None | Some(Token::EOF | Token::RParen | Token::Comma) => true,
            _ => false,
        };
        if self.is(at, "LIMIT") && self.token(at + 2) == Some(&Token::Mod) && behind(self.token(at + 3)) {
            let span = self.place(at + 1);
            let number = self.tokens[at + 1].clone();
            let call =
                vec![mark_word(mark::PERCENT, span), sign(Token::LParen, span), number, sign(Token::RParen, span)];
            self.splice(at + 1..at + 3, call);
        }
    }

    fn samples(&mut self) -> Result<()> {
        for at in (0..self.tokens.len()).rev() {
            self.limit_of_percent(at);
            if self.is(at, "TABLESAMPLE")
                && let Some(span) = self.tokens.get(at).map(|token| token.span)
                && let Some((sample, end)) = self.sample_size(at + 1)
            {
                self.splice(at + 1..end, sample.into_iter().map(|token| sign(token, span)).collect());
            }
            if self.are(at, &["USING", "SAMPLE"]) {
                self.using_sample(at)?;
            }
        }
        Ok(())
    }

    fn using_sample(&mut self, at: usize) -> Result<()> {
        let span = self.place(at);
        let wrong = || {
            Error::sql("this USING SAMPLE is not supported")
                .at(span)
                .hint("USING SAMPLE 10%, or 100 ROWS, behind a query of one table; else TABLESAMPLE behind a table")
        };
        let (sample, end) = self.sample_size(at + 2).ok_or_else(wrong)?;
        let from = (0..at).rev().find(|from| self.is(*from, "FROM") && self.level(*from).contains(&at));
        let from = from.ok_or_else(wrong)?;
        let stop = self.find(from + 1, &["WHERE", "GROUP", "HAVING", "QUALIFY", "ORDER", "LIMIT", "USING"]);
        let stop = stop.ok_or_else(wrong)?;
        let joins = self.level(from + 1).into_iter().filter(|n| *n < stop);
        if joins.into_iter().any(|n| self.is(n, "JOIN") || self.token(n) == Some(&Token::Comma)) {
            return Err(wrong());
        }
        self.splice(at..end, Vec::new());
        let sample = std::iter::once(Token::make_keyword("TABLESAMPLE")).chain(sample);
        self.splice(stop..stop, sample.map(|token| sign(token, span)).collect());
        Ok(())
    }

    /// `10%`, `10 PERCENT`, `5 ROWS`, `5`, `10% (bernoulli)`, `reservoir(5 ROWS)` as `(10 PERCENT)`; and where
    /// it ends. Nothing for what the parser reads itself.
    fn sample_size(&self, at: usize) -> Option<(Vec<Token>, usize)> {
        if self.is_open(at) && self.token(at + 2) != Some(&Token::Mod) {
            return None;
        }
        let method = ["RESERVOIR", "BERNOULLI", "SYSTEM"].iter().any(|word| self.is(at, word)) && self.is_open(at + 1);
        let number = if method {
            at + 2
        } else if self.is_open(at) {
            at + 1
        } else {
            at
        };
        let Some(Token::Number(..)) = self.token(number) else { return None };
        let mut end = number + 1;
        let mut unit = "ROWS";
        let bare = self.token(end) == Some(&Token::RParen);
        if method && bare && !self.is(at, "RESERVOIR") {
            return None;
        }
        if self.token(end) == Some(&Token::Mod) || self.is(end, "PERCENT") {
            unit = "PERCENT";
            end += 1;
        } else if self.is(end, "ROWS") {
            end += 1;
        }
        if number > at {
            if self.token(end) != Some(&Token::RParen) {
                return None;
            }
            end += 1;
        } else if self.is_open(end) {
            if self.token(end + 2) != Some(&Token::RParen) {
                return None;
            }
            end += 3;
        }
        let number = self.token(number)?.clone();
        Some((vec![Token::LParen, number, Token::make_keyword(unit), Token::RParen], end))
    }
}
