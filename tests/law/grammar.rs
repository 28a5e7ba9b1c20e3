//! Random queries over random tables.
//!
//! Enters: a list of numbers, each of which decides something. Leaves: tables, their rows, and a query in SQL whose
//! answer does not hang on the order of rows. Always holds: 0 decides for the simplest, and what is not decided is 0;
//! so a shorter list with smaller numbers is a simpler case.

use std::fmt::Write as _;

/// Decisions.
pub(crate) struct Choices<'a> {
    all: &'a [u32],
    at: usize,
}

impl<'a> Choices<'a> {
    pub(crate) fn new(all: &'a [u32]) -> Self {
        Self { all, at: 0 }
    }

    /// One of `count`.
    pub(crate) fn pick(&mut self, count: usize) -> usize {
        let choice = self.all.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        choice as usize % count
    }

    pub(crate) fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.pick(of.len())].clone()
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.pick(100) >= 100 - percent
    }

    fn is_over(&self) -> bool {
        self.at >= self.all.len()
    }
}

/// The type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Int,
    Text,
    Float,
    Decimal,
    Date,
    Bool,
}

const KINDS: [Kind; 6] = [Kind::Int, Kind::Text, Kind::Float, Kind::Decimal, Kind::Date, Kind::Bool];

impl Kind {
    pub(crate) fn sql(self) -> &'static str {
        match self {
            Kind::Int => "BIGINT",
            Kind::Text => "VARCHAR",
            Kind::Float => "DOUBLE",
            Kind::Decimal => "DECIMAL(12,2)",
            Kind::Date => "DATE",
            Kind::Bool => "BOOLEAN",
        }
    }

    /// Values, few enough to meet again; those that break things are among them.
    fn values(self) -> &'static [&'static str] {
        match self {
            Kind::Int => &["0", "1", "2", "3", "-1", "NULL"],
            Kind::Text => &["'a'", "'b'", "''", "'ab'", "'a' || chr(0)", "chr(0) || 'b'", "NULL"],
            Kind::Float => &["0.0", "1.5", "-2.25", "4.0", "'NaN'::DOUBLE", "NULL", "'inf'::DOUBLE", "-0.0"],
            Kind::Decimal => &["0.00", "1.10", "-2.50", "99.99", "NULL"],
            Kind::Date => &["'2024-01-01'", "'2024-02-29'", "'1969-12-31'", "NULL"],
            Kind::Bool => &["true", "false", "NULL"],
        }
    }

    pub(crate) fn value(self, choices: &mut Choices<'_>) -> String {
        format!("CAST({} AS {})", choices.one(self.values()), self.sql())
    }

    fn is_number(self) -> bool {
        matches!(self, Kind::Int | Kind::Float | Kind::Decimal)
    }
}

/// A table.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) columns: Vec<(String, Kind)>,
    pub(crate) grows: bool,
}

/// The tables of a case. `gone` takes rows of `a` and `b` away, and gives them back.
pub(crate) fn tables(choices: &mut Choices<'_>) -> Vec<Table> {
    let mut tables = Vec::new();
    for (name, grows) in [("a", true), ("b", true), ("c", true), ("d", false)] {
        let mut columns = vec![("id".to_owned(), Kind::Int)];
        for column in 0..2 + choices.pick(3) {
            columns.push((format!("x{column}"), choices.one(&KINDS)));
        }
        tables.push(Table { name, columns, grows });
    }
    let columns = vec![("id".to_owned(), Kind::Int), ("sign".to_owned(), Kind::Int)];
    tables.push(Table { name: "gone", columns, grows: true });
    tables
}

/// A relation.
#[derive(Debug, Clone)]
struct Relation {
    sql: String,
    columns: Vec<Column>,
}

#[derive(Debug, Clone)]
struct Column {
    name: String,
    kind: Kind,
}

/// Makes queries.
pub(crate) struct Grammar<'a, 'c> {
    tables: &'a [Table],
    choices: &'a mut Choices<'c>,
    names: usize,
}

const DEPTH: usize = 3;

/// A query over these tables.
pub(crate) fn query(tables: &[Table], choices: &mut Choices<'_>) -> String {
    Grammar { tables, choices, names: 0 }.relation(DEPTH).sql
}

impl Grammar<'_, '_> {
    fn name(&mut self, stem: &str) -> String {
        self.names += 1;
        format!("{stem}{}", self.names)
    }

    fn relation(&mut self, depth: usize) -> Relation {
        if depth == 0 || self.choices.is_over() {
            return self.base();
        }
        let below = depth - 1;
        match self.choices.pick(23) {
            0 => self.base(),
            1 => self.filter(below),
            2 => self.project(below),
            3..=5 => self.join(below),
            6 | 7 => self.semi(below),
            8..=10 => self.aggregate(below),
            11 => self.distinct(below),
            12 | 13 => self.set(below),
            14 => self.window(below),
            15 => self.top(below),
            16 => self.scalar(below),
            17 => self.correlated(below),
            18 => self.twice(below),
            19 => self.distinct_on(below),
            20 => self.some(below),
            21 => self.timed(below),
            _ => self.unnest(),
        }
    }

    /// A table, or what is left of one.
    fn base(&mut self) -> Relation {
        let table = self.choices.one(&self.tables[..4]);
        let alive = matches!(table.name, "a" | "b") && self.choices.chance(40);
        let condition = match (alive, self.choices.pick(2)) {
            (false, _) => String::new(),
            (true, 0) => {
                " WHERE NOT EXISTS (SELECT 1 FROM (SELECT id FROM gone GROUP BY id HAVING sum(sign) > 0) AS g \
                          WHERE g.id = t.id)"
                    .to_owned()
            }
            (true, _) => " WHERE coalesce(id, 0) NOT IN (SELECT id FROM gone WHERE id IS NOT NULL GROUP BY id \
                          HAVING sum(sign) > 0)"
                .to_owned(),
        };
        let columns = table.columns.iter().map(|(name, kind)| (format!("t.{name}"), *kind)).collect();
        self.select(columns, &format!("{} AS t{condition}", table.name), "")
    }

    /// SELECT of these expressions, each under a name of its own.
    fn select(&mut self, exprs: Vec<(String, Kind)>, from: &str, more: &str) -> Relation {
        let mut columns = Vec::new();
        let mut list = Vec::new();
        for (expr, kind) in exprs {
            let name = self.name("c");
            list.push(format!("{expr} AS {name}"));
            columns.push(Column { name, kind });
        }
        Relation { sql: format!("SELECT {more}{} FROM {from}", list.join(", ")), columns }
    }

    /// A relation in FROM under a name, and its columns as they are written there.
    fn from(&mut self, relation: &Relation) -> (String, Vec<(String, Kind)>) {
        let name = self.name("r");
        let columns = relation.columns.iter().map(|column| (format!("{name}.{}", column.name), column.kind)).collect();
        (format!("({}) AS {name}", relation.sql), columns)
    }

    fn filter(&mut self, depth: usize) -> Relation {
        let input = self.relation(depth);
        let (from, columns) = self.from(&input);
        let condition = self.condition(&columns);
        self.select(columns, &format!("{from} WHERE {condition}"), "")
    }

    fn condition(&mut self, columns: &[(String, Kind)]) -> String {
        let one = self.comparison(columns);
        match self.choices.pick(5) {
            0..=2 => one,
            3 => format!("({one} OR {})", self.comparison(columns)),
            _ => format!("NOT ({one} AND {})", self.comparison(columns)),
        }
    }

    fn comparison(&mut self, columns: &[(String, Kind)]) -> String {
        let (name, kind) = self.choices.one(columns);
        let value = kind.value(self.choices);
        match self.choices.pick(7) {
            0 | 1 => format!("{name} {} {value}", self.choices.one(&["=", "<>", "<", ">="])),
            2 => format!("{name} IS NULL"),
            3 => format!("{name} IS NOT DISTINCT FROM {value}"),
            4 => format!("{name} IN ({value}, {})", kind.value(self.choices)),
            5 => format!("{name} IS NOT NULL"),
            _ => match columns.iter().rev().find(|(_, other)| *other == kind) {
                Some((other, _)) => format!("{name} <= {other}"),
                None => "true".to_owned(),
            },
        }
    }

    fn expression(&mut self, columns: &[(String, Kind)]) -> (String, Kind) {
        let (name, kind) = self.choices.one(columns);
        let value = kind.value(self.choices);
        match (self.choices.pick(5), kind) {
            (1, _) => (format!("coalesce({name}, {value})"), kind),
            (2, _) => (format!("CASE WHEN {} THEN {name} ELSE {value} END", self.comparison(columns)), kind),
            (3, Kind::Int) => (format!("{name} * 2 + 1"), kind),
            (3, Kind::Text) => (format!("upper({name}) || 'x'"), kind),
            (3, Kind::Float) => (format!("{name} * 2"), kind),
            (3, _) => (format!("({name} IS NULL)"), Kind::Bool),
            (4, Kind::Text) => (format!("CAST(octet_length({name}) AS BIGINT)"), Kind::Int),
            (4, Kind::Int) => (format!("CAST({name} AS DOUBLE)"), Kind::Float),
            _ => (name, kind),
        }
    }

    fn project(&mut self, depth: usize) -> Relation {
        let input = self.relation(depth);
        let (from, columns) = self.from(&input);
        let exprs = (0..1 + self.choices.pick(4)).map(|_| self.expression(&columns)).collect();
        self.select(exprs, &from, "")
    }

    /// Columns of the same type on both sides; nothing if there are none.
    fn pair(&mut self, left: &[(String, Kind)], right: &[(String, Kind)]) -> Option<(String, String)> {
        let pairs = left.iter().flat_map(|(one, kind)| {
            right.iter().filter(move |(_, other)| other == kind).map(move |(other, _)| (one.clone(), other.clone()))
        });
        let pairs: Vec<_> = pairs.collect();
        if pairs.is_empty() { None } else { Some(self.choices.one(&pairs)) }
    }

    /// What joins two sides, and whether it has an equality.
    fn on(&mut self, left: &[(String, Kind)], right: &[(String, Kind)]) -> Option<String> {
        let (one, other) = self.pair(left, right)?;
        let mut on = match self.choices.pick(8) {
            6 => format!("({one} IS NOT DISTINCT FROM {other})"),
            7 => format!("{one} < {other}"),
            _ => format!("{one} = {other}"),
        };
        if self.choices.chance(30)
            && let Some((one, other)) = self.pair(left, right)
        {
            let _ = write!(on, " AND {one} {} {other}", self.choices.one(&["=", "<>", "<"]));
        }
        if self.choices.chance(15) {
            let _ = write!(on, " AND {}", self.comparison(left));
        }
        Some(on)
    }

    fn join(&mut self, depth: usize) -> Relation {
        let (left, right) = (self.relation(depth), self.relation(depth.saturating_sub(1)));
        let ((one, left), (other, right)) = (self.from(&left), self.from(&right));
        let kind = self.choices.one(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let from = match self.on(&left, &right) {
            Some(on) => format!("{one} {kind} {other} ON {on}"),
            None => format!("{one} CROSS JOIN {other}"),
        };
        let all: Vec<_> = left.into_iter().chain(right).collect();
        let kept = 1 + self.choices.pick(all.len());
        self.select(all.into_iter().rev().take(kept).collect(), &from, "")
    }

    fn semi(&mut self, depth: usize) -> Relation {
        let (left, right) = (self.relation(depth), self.relation(depth.saturating_sub(1)));
        let ((from, columns), (other, inner)) = (self.from(&left), self.from(&right));
        let Some((one, two)) = self.pair(&columns, &inner) else { return left };
        let more = if self.choices.chance(25) { format!(" AND {}", self.comparison(&inner)) } else { String::new() };
        let exists = format!("EXISTS (SELECT 1 FROM {other} WHERE {two} = {one}{more})");
        let condition = match self.choices.pick(7) {
            0 => format!("{one} IN (SELECT {two} FROM {other})"),
            1 => format!("{one} NOT IN (SELECT {two} FROM {other})"),
            2 => exists,
            3 => format!("NOT {exists}"),
            4 => format!("({exists} OR {})", self.comparison(&columns)),
            5 => format!("NOT ({exists} AND {})", self.comparison(&columns)),
            _ => match self.pair(&columns, &inner) {
                Some((x, y)) => format!("{one} NOT IN (SELECT {two} FROM {other} WHERE {x} = {y})"),
                None => exists,
            },
        };
        self.select(columns, &format!("{from} WHERE {condition}"), "")
    }

    fn aggregates(&mut self, columns: &[(String, Kind)]) -> Vec<(String, Kind)> {
        (0..1 + self.choices.pick(3)).map(|_| self.aggregate_of(columns)).collect()
    }

    /// An aggregate whose value does not hang on the order of rows.
    fn aggregate_of(&mut self, columns: &[(String, Kind)]) -> (String, Kind) {
        let (name, kind) = self.choices.one(columns);
        let filter = if self.choices.chance(15) {
            format!(" FILTER (WHERE {})", self.comparison(columns))
        } else {
            String::new()
        };
        let (call, kind) = match self.choices.pick(15) {
            1 => (format!("count({name})"), Kind::Int),
            2 => (format!("min({name})"), kind),
            3 => (format!("max({name})"), kind),
            4 if kind.is_number() => (format!("sum({name})"), kind),
            5 if kind.is_number() => (format!("avg({name})"), kind),
            6 => (format!("count(DISTINCT {name})"), Kind::Int),
            7 if kind == Kind::Int => (format!("sum(DISTINCT {name})"), kind),
            8 if kind == Kind::Bool => (format!("bool_or({name})"), kind),
            9 if kind == Kind::Int => (format!("median({name})"), kind),
            10 if kind == Kind::Text => return (format!("string_agg({name}, ',' ORDER BY {name}){filter}"), kind),
            11 if kind == Kind::Int => (format!("bit_xor({name})"), kind),
            12 => (format!("first_value({name} ORDER BY {name} DESC)"), kind),
            13 => (format!("last_value({name} ORDER BY {name} NULLS FIRST)"), kind),
            14 if kind == Kind::Int => {
                let list = format!("array_agg({name} ORDER BY {name} DESC){filter}");
                return (format!("array_to_string({list}, ',', '-')"), Kind::Text);
            }
            _ => ("count(*)".to_owned(), Kind::Int),
        };
        let call = format!("{call}{filter}");
        // The type of what comes out is the one that is said.
        (format!("CAST({call} AS {})", kind.sql()), kind)
    }

    fn aggregate(&mut self, depth: usize) -> Relation {
        let input = self.relation(depth);
        let (from, columns) = self.from(&input);
        let mut by: Vec<(String, Kind)> = (0..self.choices.pick(3)).map(|_| self.choices.one(&columns)).collect();
        by.dedup();
        let mut list = by.clone();
        list.extend(self.aggregates(&columns));
        let names: Vec<String> = by.iter().map(|(name, _)| name.clone()).collect();
        let names = names.join(", ");
        let group = match (by.len(), self.choices.pick(6)) {
            (0, _) => String::new(),
            (_, 4) => format!(" GROUP BY ROLLUP ({names})"),
            (2, 5) => format!(" GROUP BY CUBE ({names})"),
            _ => format!(" GROUP BY {names}"),
        };
        let having = if self.choices.chance(20) { " HAVING count(*) > 1" } else { "" };
        self.select(list, &format!("{from}{group}{having}"), "")
    }

    fn distinct(&mut self, depth: usize) -> Relation {
        let input = self.relation(depth);
        let (from, columns) = self.from(&input);
        let kept = 1 + self.choices.pick(columns.len());
        self.select(columns.into_iter().take(kept).collect(), &from, "DISTINCT ")
    }

    fn set(&mut self, depth: usize) -> Relation {
        let (left, right) = (self.relation(depth), self.relation(depth.saturating_sub(1)));
        let ((one, left), (other, right)) = (self.from(&left), self.from(&right));
        let mut pairs = vec![self.pair(&left, &right), self.pair(&left, &right)];
        pairs.dedup();
        let kind = |name: &String| left.iter().find(|(known, _)| known == name).map_or(Kind::Int, |(_, kind)| *kind);
        let pairs: Vec<(String, String)> = pairs.into_iter().flatten().collect();
        if pairs.is_empty() {
            return self.select(left, &one, "");
        }
        let op = self.choices.one(&[
            "UNION ALL",
            "UNION",
            "EXCEPT",
            "INTERSECT",
            "EXCEPT ALL",
            "INTERSECT ALL",
            "UNION ALL",
        ]);
        let first = pairs.iter().map(|(name, _)| (name.clone(), kind(name))).collect();
        let mut relation = self.select(first, &one, "");
        let second = pairs.iter().map(|(_, name)| (name.clone(), Kind::Int)).collect();
        let second = self.select(second, &other, "");
        relation.sql = format!("{} {op} {}", relation.sql, second.sql);
        relation
    }

    /// All columns: rows that tie are equal.
    fn order(columns: &[(String, Kind)]) -> String {
        columns.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn window(&mut self, depth: usize) -> Relation {
        let input = self.relation(depth);
        let (from, columns) = self.from(&input);
        let (by, order) = (self.choices.one(&columns).0, Self::order(&columns));
        let (tied, _) = self.choices.one(&columns);
        let number = columns.iter().find(|(_, kind)| *kind == Kind::Int).map_or("1", |(name, _)| name);
        let call = match self.choices.pick(12) {
            0 => format!("row_number() OVER (PARTITION BY {by} ORDER BY {order})"),
            1 => format!("rank() OVER (PARTITION BY {by} ORDER BY {order})"),
            2 => format!("sum({number}) OVER (PARTITION BY {by})"),
            3 => format!("count(*) OVER (PARTITION BY {by} ORDER BY {order} ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)"),
            4 => format!("lag({number}) OVER (ORDER BY {order})"),
            // Rows that tie get the same.
            5 => format!("rank() OVER (PARTITION BY {by} ORDER BY {tied})"),
            6 => format!("dense_rank() OVER (ORDER BY {tied} DESC)"),
            7 => format!("sum({number}) OVER (ORDER BY {tied})"),
            8 => format!("sum({number}) OVER (ORDER BY {order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 FOLLOWING)"),
            9 => format!("max({number}) OVER (ORDER BY {order} ROWS BETWEEN 1 PRECEDING AND 2 FOLLOWING)"),
            10 => format!("lead({number}, 2, 7) OVER (PARTITION BY {by} ORDER BY {order})"),
            _ => format!("row_number() OVER (ORDER BY {order} DESC)"),
        };
        let call = format!("CAST({call} AS BIGINT)");
        let mut list = columns;
        list.push((call, Kind::Int));
        let windowed = self.select(list, &from, "");
        if !self.choices.chance(40) {
            return windowed;
        }
        let (from, columns) = self.from(&windowed);
        let last = columns.last().map(|(name, _)| name.clone()).unwrap_or_default();
        self.select(columns, &format!("{from} WHERE {last} <= 2"), "")
    }

    /// Days in windows of time. HOP is of a table, as UNNEST is.
    fn timed(&mut self, depth: usize) -> Relation {
        let kind = self.choices.pick(4);
        let input = if kind == 1 { self.base() } else { self.relation(depth) };
        let Some(day) = input.columns.iter().find(|column| column.kind == Kind::Date) else { return input };
        let (table, day) = (format!("TABLE ({})", input.sql), format!("DESCRIPTOR({})", day.name));
        let key = input.columns.iter().find(|column| !matches!(column.kind, Kind::Float | Kind::Date));
        let call = match (kind, key) {
            (0, _) => format!("TUMBLE({table}, {day}, INTERVAL '7 days')"),
            (1, _) => format!("HOP({table}, {day}, INTERVAL '30 days', INTERVAL '90 days')"),
            (2, Some(key)) => format!("SESSION({table} PARTITION BY {}, {day}, INTERVAL '59 days')", key.name),
            _ => format!("SESSION({table}, {day}, INTERVAL '58 days')"),
        };
        let name = self.name("w");
        let mut list: Vec<(String, Kind)> =
            input.columns.iter().map(|column| (format!("{name}.{}", column.name), column.kind)).collect();
        list.extend(["start", "end"].map(|part| (format!("CAST({name}.window_{part} AS DATE)"), Kind::Date)));
        self.select(list, &format!("{call} AS {name}"), "")
    }

    fn top(&mut self, depth: usize) -> Relation {
        let input = self.relation(depth);
        let (from, columns) = self.from(&input);
        let order = Self::order(&columns);
        let direction = self.choices.one(&["", " DESC", " NULLS FIRST"]);
        let offset = if self.choices.chance(30) { " OFFSET 1" } else { "" };
        let limit = 1 + self.choices.pick(4);
        match self.choices.pick(5) {
            // Which of the rows that tie are taken does not show.
            3 => {
                let tied = vec![columns[self.choices.pick(columns.len())].clone()];
                let order = Self::order(&tied);
                self.select(tied, &format!("{from} ORDER BY {order}{direction} LIMIT {limit}{offset}"), "")
            }
            // Within a query, DataFusion's batch may forget the order beneath OFFSET without LIMIT.
            4 if depth + 1 == DEPTH => {
                self.select(columns, &format!("{from} ORDER BY {order}{direction} OFFSET {limit}"), "")
            }
            _ => self.select(columns, &format!("{from} ORDER BY {order}{direction} LIMIT {limit}{offset}"), ""),
        }
    }

    /// LIMIT and OFFSET alone: how many rows there are does not hang on their order.
    fn some(&mut self, depth: usize) -> Relation {
        let input = self.relation(depth);
        let (from, columns) = self.from(&input);
        let (limit, offset) = (1 + self.choices.pick(4), self.choices.pick(3));
        let bounds = self.choices.one(&[
            format!("LIMIT {limit}"),
            format!("OFFSET {offset}"),
            format!("LIMIT {limit} OFFSET {offset}"),
        ]);
        let some = self.select(columns, &format!("{from} {bounds}"), "");
        let (from, _) = self.from(&some);
        self.select(vec![("count(*)".to_owned(), Kind::Int)], &from, "")
    }

    /// The first row of each group, by all columns.
    fn distinct_on(&mut self, depth: usize) -> Relation {
        let input = self.relation(depth);
        let (from, columns) = self.from(&input);
        let (by, order) = (self.choices.one(&columns).0, Self::order(&columns));
        let direction = self.choices.one(&["", " DESC", " NULLS FIRST"]);
        self.select(columns, &format!("{from} ORDER BY {by}, {order}{direction}"), &format!("DISTINCT ON ({by}) "))
    }

    fn scalar(&mut self, depth: usize) -> Relation {
        let (left, right) = (self.relation(depth), self.relation(depth.saturating_sub(1)));
        let ((from, mut columns), (other, inner)) = (self.from(&left), self.from(&right));
        let (one, two) = match self.pair(&columns, &inner) {
            Some(pair) if self.choices.chance(70) => pair,
            _ => {
                columns.push((format!("(SELECT count(*) FROM {other})"), Kind::Int));
                return self.select(columns, &from, "");
            }
        };
        let call = self.choices.one(&["max", "min"]);
        let compare = self.choices.one(&["=", "<", ">="]);
        self.select(columns, &format!("{from} WHERE {one} {compare} (SELECT {call}({two}) FROM {other})"), "")
    }

    fn correlated(&mut self, depth: usize) -> Relation {
        let (left, right) = (self.relation(depth), self.relation(depth.saturating_sub(1)));
        let ((from, mut columns), (other, inner)) = (self.from(&left), self.from(&right));
        let Some((one, two)) = self.pair(&columns, &inner) else { return left };
        let (call, kind) = self.aggregate_of(&inner);
        columns.push((format!("(SELECT {call} FROM {other} WHERE {two} = {one})"), kind));
        self.select(columns, &from, "")
    }

    /// A relation that is joined with itself.
    fn twice(&mut self, depth: usize) -> Relation {
        let input = self.relation(depth);
        let (with, x, y) = (self.name("w"), self.name("x"), self.name("y"));
        let of = |side: &str| -> Vec<(String, Kind)> {
            input.columns.iter().map(|column| (format!("{side}.{}", column.name), column.kind)).collect()
        };
        let (left, right) = (of(&x), of(&y));
        let (one, other) = self.pair(&left, &right).unwrap_or_default();
        let kind = self.choices.one(&["JOIN", "LEFT JOIN"]);
        let (mut columns, mut right) = (left, right);
        columns.truncate(2);
        right.truncate(2);
        columns.extend(right);
        let joined = self.select(columns, &format!("{with} AS {x} {kind} {with} AS {y} ON {one} = {other}"), "");
        let columns: Vec<String> = joined.columns.iter().map(|column| column.name.clone()).collect();
        let sql = format!("SELECT {} FROM (WITH {with} AS ({}) {})", columns.join(", "), input.sql, joined.sql);
        Relation { sql, columns: joined.columns }
    }

    /// Of a table: DataFusion takes the key of a group for a key of the rows that UNNEST makes of it.
    fn unnest(&mut self) -> Relation {
        let input = self.base();
        let (from, mut columns) = self.from(&input);
        let (name, kind) = self.choices.one(&columns);
        let value = kind.value(self.choices);
        columns.truncate(2);
        columns.push((format!("unnest([{name}, {value}])"), kind));
        self.select(columns, &from, "")
    }
}
