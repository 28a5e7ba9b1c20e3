//! The law of fusion over every source and every sink: what a sink has is what the query gives as a batch.
//!
//! Enters: servers of Kafka, Postgres and S3; random rows, which come, change and go there; kills. Leaves: nothing. Always
//! holds: after each round a sink of any kind has the answer over all rows that were written so far, from sources of any
//! two kinds. FUSE_CONNECTOR_CASES sets how many cases a sink has, FUSE_LAW_SEED the seed.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::databases::server::{self, fuse};
use crate::kafka::broker::Broker;
use crate::kafka::sink::{held, messages};
use crate::law::seed;
use crate::object_store;
use crate::support::{Dice, Place, Ran};

/// Where rows come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Json,
    Csv,
    Parquet,
    /// A folder of what rows do.
    Ops,
    Topic,
    Bucket,
    Lake,
    Table,
}

const SOURCES: [Source; 8] = [
    Source::Json,
    Source::Csv,
    Source::Parquet,
    Source::Ops,
    Source::Topic,
    Source::Bucket,
    Source::Lake,
    Source::Table,
];

/// Where answers go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sink {
    File,
    Bucket,
    Sqlite,
    Postgres,
    Lake,
    Topic,
}

/// Queries whose first column is a key.
const KEYED: [&str; 6] = [
    "SELECT k, count(*) AS n, sum(v) AS s FROM a GROUP BY k",
    "SELECT a.k, count(*) AS n, sum(a.v + b.v) AS s FROM a JOIN b ON a.k = b.k GROUP BY a.k",
    "SELECT b.id AS k, count(a.id) AS n, max(a.v) AS s FROM b LEFT JOIN a ON a.k = b.k AND a.v > b.v GROUP BY b.id",
    "SELECT k, id AS n, v AS s FROM a QUALIFY row_number() OVER (PARTITION BY k ORDER BY id DESC) = 1",
    "SELECT id AS k, k AS n, v AS s FROM a WHERE k IN (SELECT k FROM b WHERE v > 2) OR v IS NULL",
    "SELECT k, count(DISTINCT v) AS n, min(v) AS s FROM (SELECT k, v FROM a UNION SELECT k, v FROM b) GROUP BY k",
];

/// Queries whose rows only come, if those of their tables do.
const GROWING: [&str; 3] = [
    "SELECT id AS k, k AS n, v * 2 AS s FROM a WHERE v % 3 <> 0",
    "SELECT a.id AS k, b.id AS n, a.v + b.v AS s FROM a JOIN b ON a.k = b.k AND a.v = b.v",
    "SELECT id AS k, k AS n, v AS s FROM a UNION ALL SELECT -id, k, v FROM b",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    k: u64,
    v: Option<u64>,
}

/// What a round does to a table: rows that come or take the place of others, and the ids of rows that go.
#[derive(Debug, Default)]
struct Round {
    put: BTreeMap<u64, Row>,
    gone: Vec<u64>,
}

/// The servers of a test, started as they are needed.
#[derive(Default)]
struct World {
    broker: OnceCell<Broker>,
    postgres: OnceCell<server::Server>,
    bucket: OnceCell<object_store::Server>,
}

impl World {
    fn broker(&self) -> &Broker {
        self.broker.get_or_init(Broker::start)
    }

    fn postgres(&self) -> &server::Server {
        self.postgres.get_or_init(server::Server::start)
    }

    fn bucket(&self) -> &object_store::Server {
        self.bucket.get_or_init(object_store::Server::start)
    }

    fn command(&self, place: &Place, args: &[&str]) -> Command {
        let mut command = fuse(place, args);
        if let Some(bucket) = self.bucket.get() {
            bucket.reach(&mut command);
        }
        command
    }

    fn run(&self, place: &Place, args: &[&str]) -> String {
        Ran::from(self.command(place, args).output().expect("runs")).data()
    }

    fn sql(&self, place: &Place, sql: &str) -> Vec<String> {
        let data = self.run(place, &["query", "-q", "--format", "csv", "-c", sql]);
        let mut rows: Vec<String> = data.lines().skip(1).map(str::to_owned).collect();
        rows.sort();
        rows
    }
}

fn values(rows: &BTreeMap<u64, Row>) -> String {
    let value = |v: Option<u64>| v.map_or("NULL".to_owned(), |v| v.to_string());
    let rows: Vec<String> = rows.iter().map(|(id, row)| format!("({id}, {}, {})", row.k, value(row.v))).collect();
    rows.join(", ")
}

fn objects(rows: &BTreeMap<u64, Row>, more: &str) -> String {
    let mut text = String::new();
    for (id, Row { k, v }) in rows {
        let v = v.map_or("null".to_owned(), |v| v.to_string());
        writeln!(text, "{{\"id\":{id},\"k\":{k},\"v\":{v}{more}}}").expect("writes");
    }
    text
}

impl Source {
    /// True if its rows change and go.
    fn changes(self) -> bool {
        matches!(self, Source::Ops | Source::Table)
    }

    /// The table of one name; `at`: what it is called where others can see it.
    fn declare(self, world: &World, name: &str, at: &str) -> String {
        let columns = "(id BIGINT, k BIGINT, v BIGINT)";
        let few = "OPTIONS ('max_files_per_epoch' '1')";
        match self {
            Source::Json => format!("CREATE STREAM {name} {columns} STORED AS JSON LOCATION '{at}/' {few};"),
            Source::Csv => format!("CREATE STREAM {name} {columns} STORED AS CSV LOCATION '{at}/' {few};"),
            Source::Parquet => format!("CREATE STREAM {name} {columns} STORED AS PARQUET LOCATION '{at}/' {few};"),
            Source::Ops => format!(
                "CREATE STREAM {name} (id BIGINT PRIMARY KEY, k BIGINT, v BIGINT) STORED AS JSON LOCATION '{at}/'
                 OPTIONS ('op_column' 'op', 'max_rows_per_epoch' '7');"
            ),
            Source::Topic => format!(
                "CREATE STREAM {name} {columns} STORED AS JSON LOCATION '{}' OPTIONS ('max_rows_per_epoch' '7');",
                world.broker().location(at)
            ),
            Source::Bucket => {
                format!("CREATE STREAM {name} {columns} STORED AS JSON LOCATION 's3://lake/{at}/' {few};")
            }
            Source::Lake => format!(
                "CREATE STREAM {name} {columns} STORED AS DELTA LOCATION 'lake/{at}' OPTIONS ('append_only' 'true');"
            ),
            Source::Table => format!("CREATE STREAM {name} {};", world.postgres().table(at)),
        }
    }

    /// Makes it, before anything is in it.
    fn make(self, world: &World, at: &str) {
        match self {
            Source::Topic => drop(world.broker().run(&["create", at, "2"], "")),
            Source::Table => {
                drop(world.postgres().run(&format!("CREATE TABLE {at} (id bigint PRIMARY KEY, k bigint, v bigint)")));
            }
            Source::Bucket => drop(world.bucket()),
            _ => {}
        }
    }

    /// Does what a round says.
    fn write(self, world: &World, place: &Place, at: &str, number: u64, round: &Round) {
        let Round { put, gone } = round;
        let rows = format!("SELECT * FROM (VALUES {}) t(id, k, v)", values(put));
        let file = |ending: &str, text: String| {
            place.write(&format!("{at}/.part"), text);
            let (from, to) = (format!("{at}/.part"), format!("{at}/{number}.{ending}"));
            std::fs::rename(place.path().join(from), place.path().join(to)).expect("renames");
        };
        match self {
            Source::Json => file("json", objects(put, "")),
            Source::Csv => {
                let value = |v: Option<u64>| v.map_or(String::new(), |v| v.to_string());
                let line = |(id, row): (&u64, &Row)| format!("{id},{},{}\n", row.k, value(row.v));
                file("csv", "id,k,v\n".to_owned() + &put.iter().map(line).collect::<String>());
            }
            Source::Ops => {
                let going = gone.iter().map(|id| format!("{{\"id\":{id},\"op\":\"d\"}}\n"));
                file("json", going.collect::<String>() + &objects(put, ",\"op\":\"u\""));
            }
            Source::Topic => {
                let line = |line: &str| serde_json::json!({ "value": line }).to_string() + "\n";
                world.broker().run(&["write", at], &objects(put, "").lines().map(line).collect::<String>());
            }
            Source::Parquet if !put.is_empty() => {
                world.sql(place, &format!("COPY ({rows}) TO '{at}/{number}.parquet'"));
            }
            Source::Bucket if !put.is_empty() => {
                world.sql(place, &format!("COPY ({rows}) TO 's3://lake/{at}/{number}.json'"));
            }
            Source::Lake if !put.is_empty() => {
                let table = format!(
                    "CREATE EXTERNAL TABLE t (id BIGINT, k BIGINT, v BIGINT) STORED AS DELTA LOCATION 'lake/{at}'"
                );
                world.sql(place, &format!("{table}; INSERT INTO t {rows}"));
            }
            Source::Table => {
                for id in gone {
                    world.postgres().run(&format!("DELETE FROM {at} WHERE id = {id}"));
                }
                if !put.is_empty() {
                    let on = "ON CONFLICT (id) DO UPDATE SET k = excluded.k, v = excluded.v";
                    world.postgres().run(&format!("INSERT INTO {at} VALUES {} {on}", values(put)));
                }
            }
            _ => {}
        }
    }
}

impl Sink {
    /// The table that it is, where it is one.
    fn table(self, world: &World, at: &str, keyed: bool) -> Option<String> {
        let key = if keyed { ", PRIMARY KEY (k)" } else { "" };
        let stored = match self {
            Sink::File | Sink::Bucket => return None,
            Sink::Sqlite => format!("STORED AS SQLITE LOCATION 'out.db' OPTIONS ('table' '{at}')"),
            Sink::Postgres => world.postgres().table(at),
            Sink::Lake => format!("STORED AS DELTA LOCATION 'lake/{at}'"),
            Sink::Topic => format!("STORED AS JSON LOCATION '{}'", world.broker().location(at)),
        };
        Some(format!("CREATE EXTERNAL TABLE out (k BIGINT, n BIGINT, s BIGINT{key}) {stored};"))
    }

    /// What writes the rows of a query there.
    fn statement(self, world: &World, query: &str, at: &str, keyed: bool) -> String {
        match self.table(world, at, keyed) {
            Some(table) => format!("{table} INSERT INTO out {query};"),
            None => format!("COPY ({query}) TO '{}' STORED AS PARQUET;", self.place_of_files(at, keyed)),
        }
    }

    fn place_of_files(self, at: &str, keyed: bool) -> String {
        let name = if keyed { format!("{at}.parquet") } else { format!("{at}/") };
        if self == Sink::Bucket { format!("s3://lake/{name}") } else { name }
    }

    /// What is there.
    fn read(self, world: &World, place: &Place, at: &str, keyed: bool) -> Vec<String> {
        if self == Sink::Topic {
            let values: Vec<String> = match keyed {
                true => held(world.broker(), at).into_values().collect(),
                false => messages(world.broker(), at).into_iter().filter_map(|(_, value)| value).collect(),
            };
            let row = |text: String| {
                let row: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                ["k", "n", "s"].map(|name| row[name].as_i64().map_or(String::new(), |n| n.to_string())).join(",")
            };
            let mut rows: Vec<String> = values.into_iter().map(row).collect();
            rows.sort();
            return rows;
        }
        let table = self.table(world, at, keyed);
        let from = table.as_ref().map_or(format!("'{}'", self.place_of_files(at, keyed)), |_| "out".to_owned());
        world.sql(place, &format!("{} SELECT k, n, s FROM {from}", table.unwrap_or_default()))
    }
}

/// What a round brings to a table that has these rows.
fn round(dice: &Dice, from: Source, rows: &mut BTreeMap<u64, Row>, next: &mut u64) -> Round {
    let mut round = Round::default();
    let row = || Row { k: dice.below(5), v: Some(dice.below(7)).filter(|v| *v > 0) };
    for _ in 0..1 + dice.below(12) {
        *next += 1;
        round.put.insert(*next, row());
    }
    if from.changes() {
        for id in rows.keys().copied().collect::<Vec<_>>() {
            match dice.below(6) {
                0 => round.gone.push(id),
                1 => drop(round.put.insert(id, row())),
                _ => {}
            }
        }
    }
    rows.retain(|id, _| !round.gone.contains(id));
    rows.extend(&round.put);
    round
}

fn case(world: &World, to: Sink, dice: &Dice, number: u64) {
    let place = Place::new();
    let sources = [0, 1].map(|_| SOURCES[dice.below(SOURCES.len() as u64) as usize]);
    let grows = !sources.iter().any(|source| source.changes()) && dice.below(2) == 0;
    let queries: &[&str] = if grows { &GROWING } else { &KEYED };
    let query = queries[dice.below(queries.len() as u64) as usize];
    let names = [format!("a{number}"), format!("b{number}")];
    let at = format!("out{number}");
    for (source, name) in sources.iter().zip(&names) {
        source.make(world, name);
    }
    let told = format!("{sources:?} to {to:?}: {query}");
    println!("{told}");
    let (mut rows, mut next): ([BTreeMap<u64, Row>; 2], u64) = Default::default();
    for turn in 0..3 {
        for ((source, name), rows) in sources.iter().zip(&names).zip(&mut rows) {
            source.write(world, &place, name, turn, &round(dice, *source, rows, &mut next));
        }
        let declared = [0, 1].map(|table| sources[table].declare(world, ["a", "b"][table], &names[table]));
        place.write("p.sql", declared.concat() + &to.statement(world, query, &at, !grows));
        let args = ["query", "p.sql", "--once", "--quiet"];
        while dice.below(2) == 0 {
            let mut command = world.command(&place, &args);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
            std::thread::sleep(Duration::from_millis(20 + dice.below(400)));
            child.kill().expect("kills");
            child.wait().expect("ends");
        }
        world.run(&place, &args);
        let mut model = String::new();
        for (name, rows) in ["a", "b"].iter().zip(&rows) {
            place.write(&format!("model/{name}.json"), objects(rows, ""));
            let columns = "(id BIGINT, k BIGINT, v BIGINT)";
            model += &format!("CREATE EXTERNAL TABLE {name} {columns} STORED AS JSON LOCATION 'model/{name}.json';");
        }
        let expected = world.sql(&place, &format!("{model} SELECT k, n, s FROM ({query})"));
        // A folder to which no row has come has no file of which it could be read what columns it has.
        let nothing = expected.is_empty() && grows && matches!(to, Sink::File | Sink::Bucket);
        if !nothing {
            assert_eq!(to.read(world, &place, &at, !grows), expected, "round {turn} of {told}");
        }
    }
    let verified = world.run(&place, &["verify", "p.sql"]);
    assert!(verified.contains("equal"), "{told}: {verified}");
}

fn law(to: Sink) {
    let cases = std::env::var("FUSE_CONNECTOR_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let seed = seed();
    println!("FUSE_LAW_SEED={seed}");
    let (world, dice) = (World::default(), Dice::new(seed.wrapping_add(to as u64)));
    if to == Sink::Bucket {
        world.bucket();
    }
    (0..cases).for_each(|number| case(&world, to, &dice, number));
}

#[test]
fn a_file_has_the_answer_over_all_sources() {
    law(Sink::File);
}

#[test]
fn a_bucket_has_the_answer_over_all_sources() {
    law(Sink::Bucket);
}

#[test]
fn sqlite_has_the_answer_over_all_sources() {
    law(Sink::Sqlite);
}

#[test]
fn postgres_has_the_answer_over_all_sources() {
    law(Sink::Postgres);
}

#[test]
fn a_lake_has_the_answer_over_all_sources() {
    law(Sink::Lake);
}

#[test]
fn a_topic_has_the_answer_over_all_sources() {
    law(Sink::Topic);
}
