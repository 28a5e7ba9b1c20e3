//! How often the queries of WITH are planned.
//!
//! Enters: the queries and tables of a statement, in the order in which a visitor meets them. Leaves: how often its
//! tables are read once each WITH is put in the places of its name. Always holds: it is counted, and not done: twenty
//! queries that each read the one before twice are a million.

use std::collections::HashMap;

use datafusion::sql::sqlparser::ast::{Ident, ObjectName, Query};

/// The queries around the place that is visited, the outermost first.
#[derive(Default)]
pub(super) struct Inlined {
    queries: Vec<Frame>,
    /// Tables that are read by the statement, as it is written.
    written: u64,
    /// The same once names are replaced.
    read: u64,
}

#[derive(Default)]
struct Frame {
    /// Tables that the query reads.
    reads: u64,
    /// Of the queries of WITH that have been visited: how many tables each reads.
    known: HashMap<String, u64>,
    /// The places of those queries, by which they are known when they are left.
    parts: Vec<(*const Query, String)>,
}

fn key(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

impl Inlined {
    /// A query begins.
    pub(super) fn enter(&mut self, query: &Query) {
        let parts = query.with.iter().flat_map(|with| &with.cte_tables);
        let parts = parts.map(|part| (std::ptr::from_ref(part.query.as_ref()), key(&part.alias.name))).collect();
        self.queries.push(Frame { parts, ..Frame::default() });
    }

    /// A table is read.
    pub(super) fn read(&mut self, table: &ObjectName) {
        let name = match table.0.as_slice() {
            [part] => part.as_ident().map(key),
            _ => None,
        };
        let known = name.and_then(|name| self.queries.iter().rev().find_map(|query| query.known.get(&name)).copied());
        self.written += 1;
        self.add(known.unwrap_or(1));
    }

    fn add(&mut self, reads: u64) {
        match self.queries.last_mut() {
            Some(query) => query.reads = query.reads.saturating_add(reads),
            None => self.read = self.read.saturating_add(reads),
        }
    }

    /// A query ends.
    pub(super) fn leave(&mut self, query: &Query) {
        let Some(frame) = self.queries.pop() else { return };
        let here = std::ptr::from_ref(query);
        if let Some(around) = self.queries.last_mut()
            && let Some((_, name)) = around.parts.iter().find(|(part, _)| std::ptr::eq(*part, here))
        {
            around.known.insert(name.clone(), frame.reads.max(1));
            return;
        }
        self.add(frame.reads);
    }

    /// How many more tables are planned than the statement writes.
    pub(super) fn extra(&self) -> u64 {
        self.read.saturating_sub(self.written)
    }
}
