//! `TUMBLE(TABLE t, DESCRIPTOR(ts), …)`, HOP and SESSION in FROM, spelled as calls that the parser reads.
//!
//! Enters: the tokens of one statement. Leaves: a query in the place of TABLE, and the columns of PARTITION BY as the
//! last argument, named [`mark::PARTITION`]. Always holds: other calls pass.

use datafusion::sql::sqlparser::tokenizer::Token;

use super::mark;
use super::respell::{Text, mark_word, sign, word};

/// Functions that put rows into windows of time.
pub const TIME_WINDOWS: [&str; 3] = ["tumble", "hop", "session"];

impl Text {
    /// Respells the arguments of each of [`TIME_WINDOWS`].
    pub(super) fn time_windows(&mut self) {
        let mut at = 0;
        while at + 2 < self.tokens.len() {
            if TIME_WINDOWS.iter().any(|name| self.is(at, name)) && self.is_open(at + 1) {
                self.table_argument(at + 2);
                self.partition_argument(at + 2);
            }
            at += 1;
        }
    }

    /// `TABLE t` is `(SELECT * FROM t)`, `TABLE (SELECT …)` its query.
    fn table_argument(&mut self, at: usize) {
        if !self.is(at, "TABLE") {
            return;
        }
        if self.is_open(at + 1) {
            self.splice(at..at + 1, Vec::new());
            return;
        }
        let span = self.place(at);
        let level = self.level(at + 1);
        let ends = |at: &usize| self.token(*at) == Some(&Token::Comma) || self.is(*at, "PARTITION");
        let end = level.iter().copied().find(ends).unwrap_or_else(|| self.end(at + 1));
        self.splice(end..end, vec![sign(Token::RParen, span)]);
        let query = vec![sign(Token::LParen, span), word("SELECT", span), sign(Token::Mul, span), word("FROM", span)];
        self.splice(at..at + 1, query);
    }

    /// `… PARTITION BY a, b, DESCRIPTOR(ts), gap` is `…, DESCRIPTOR(ts), gap, "fuse.partition"(a, b)`.
    fn partition_argument(&mut self, from: usize) {
        let Some(start) = self.find(from, &["PARTITION"]).filter(|at| self.is(at + 1, "BY")) else { return };
        let commas = self.level(start).into_iter().filter(|at| self.token(*at) == Some(&Token::Comma));
        let commas: Vec<usize> = commas.collect();
        let before_time = commas.iter().find(|comma| self.is(*comma + 1, "DESCRIPTOR")).or(commas.first());
        let Some(end) = before_time.copied() else { return };
        let span = self.place(start);
        let mut columns = self.tokens[start + 2..end].to_vec();
        let is = |token: Option<&datafusion::sql::sqlparser::tokenizer::TokenWithSpan>, sign: &Token| {
            token.is_some_and(|token| token.token == *sign)
        };
        if is(columns.first(), &Token::LParen) && is(columns.last(), &Token::RParen) {
            columns = columns[1..columns.len() - 1].to_vec();
        }
        let close = self.end(start);
        let mut argument = vec![sign(Token::Comma, span), mark_word(mark::PARTITION, span), sign(Token::LParen, span)];
        argument.extend(columns);
        argument.push(sign(Token::RParen, span));
        self.splice(close..close, argument);
        self.splice(start..end, Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Reading, Script, parse};

    fn respelled(text: &str) -> String {
        let script = Script { name: "test".into(), text: text.into() };
        parse(&script, &Reading::default()).expect("parses")[0].body.to_string()
    }

    #[test]
    fn tables_and_partitions_become_arguments() {
        assert_eq!(
            respelled("select * from TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1 hour') w"),
            "SELECT * FROM TUMBLE((SELECT * FROM t), DESCRIPTOR(ts), INTERVAL '1 hour') w"
        );
        assert_eq!(
            respelled("select * from session(table (select 1) partition by (a, b), descriptor(ts), interval '1 hour')"),
            "SELECT * FROM session((SELECT 1), descriptor(ts), INTERVAL '1 hour', \"fuse.partition\"(a, b))"
        );
        assert_eq!(
            respelled("select * from session(table s.t partition by a, b, descriptor(ts), interval '1 hour')"),
            "SELECT * FROM session((SELECT * FROM s.t), descriptor(ts), INTERVAL '1 hour', \"fuse.partition\"(a, b))"
        );
    }
}
