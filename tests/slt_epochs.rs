//! The epoch mode of the .slt files: tables grow, each INSERT is an epoch, a query is a view that was there before.
//!
//! Enters: statements, in the order of a file. Leaves: what the batch mode gives for them. Always holds: what a query
//! over growing tables gives comes out of a pipeline that saw the tables empty first, then one INSERT after the other.
//!
//! Two sessions: in one, tables are at rest, and INSERTs run as they do in batch; what they add is the feed of the
//! other, where the same tables grow. A table that is changed by UPDATE or the like is at rest in both.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::sql::parser::Statement as Body;
use datafusion::sql::sqlparser::ast::{FromTable, ObjectName, ObjectType, Statement as Sql, TableFactor, TableObject};
use fuse::config::Settings;
use fuse::error::Error;
use fuse::parser::{self, Reading, Script, Statement};
use fuse::session::{Outcome, Session};
use tempfile::TempDir;

use crate::epochs::{Fedline, declare, temporary};

/// An INSERT of more rows is several epochs.
const EPOCH_ROWS: usize = 200;

/// What a statement gave.
pub(crate) enum Answer {
    Done,
    Written(u64),
    Rows {
        columns: SchemaRef,
        batches: Vec<RecordBatch>,
        /// They come out of a pipeline, which keeps rows and not their order.
        unordered: bool,
    },
}

/// A file's tables and views in epochs.
pub(crate) struct Epochs {
    rest: Session,
    moving: Session,
    folder: TempDir,
    /// Tables that cannot grow, since something but INSERT changes them.
    still: HashSet<String>,
    seen: HashMap<String, Seen>,
    inserted: Vec<(String, RecordBatch)>,
    folders: usize,
}

/// A table of CREATE TABLE.
struct Seen {
    /// In the session at rest.
    provider: Arc<dyn TableProvider>,
    grows: bool,
    /// How many batches of each of its parts are in the feed.
    taken: Vec<usize>,
}

/// How a statement is dealt with.
enum Place {
    /// It makes a table.
    Create(String),
    /// It adds to a table, or changes it.
    Change,
    /// It goes to both sessions.
    Both,
    /// It asks.
    Ask,
}

impl Epochs {
    pub(crate) async fn new(settings: &Settings, dialect: Option<&str>, texts: &[String]) -> Result<Self, Error> {
        let (rest, moving) = (Session::new(settings.clone())?, Session::new(settings.clone())?);
        if let Some(dialect) = dialect {
            let set = format!("SET datafusion.sql_parser.dialect = '{dialect}'");
            rest.execute_text(&set).await?;
            moving.execute_text(&set).await?;
        }
        let still = texts.iter().flat_map(|text| parse(&rest, text).unwrap_or_default());
        let still = still.filter_map(|statement| changed_table(&statement)).collect();
        let (seen, inserted) = (HashMap::new(), Vec::new());
        Ok(Self { rest, moving, folder: temporary(), still, seen, inserted, folders: 0 })
    }

    /// Runs a text; gives the answer of its last statement.
    pub(crate) async fn run(&mut self, sql: &str) -> Result<Answer, Error> {
        let mut answer = Answer::Done;
        for statement in parse(&self.rest, sql)? {
            answer = match place(&statement) {
                Place::Create(table) => self.create(&table, statement).await?,
                Place::Change => {
                    let answer = taken(self.rest.execute(statement).await?).await?;
                    self.take_new().await?;
                    answer
                }
                Place::Ask => self.ask(statement).await?,
                Place::Both => {
                    let answer = taken(self.rest.execute(statement.clone()).await?).await?;
                    let dropped = dropped_tables(&statement);
                    self.moving.execute(statement).await?;
                    dropped.iter().for_each(|table| self.forget(table));
                    answer
                }
            };
        }
        Ok(answer)
    }

    async fn create(&mut self, table: &str, statement: Statement) -> Result<Answer, Error> {
        let answer = taken(self.rest.execute(statement).await?).await?;
        let provider = self.rest.context().table_provider(table).await?;
        if self.seen.get(table).is_some_and(|known| Arc::ptr_eq(&known.provider, &provider)) {
            return Ok(answer);
        }
        self.forget(table);
        let _ = self.moving.context().deregister_table(table)?;
        let memory = provider.downcast_ref::<MemTable>().is_some();
        // A name with a schema before it is too much for the words of CREATE STREAM below.
        let grows = memory && !table.contains('.') && !self.still.contains(table);
        if grows {
            self.folders += 1;
            let folder = self.folder.path().join(format!("table{}", self.folders));
            declare(&self.moving, table, &provider.schema(), &folder).await?;
        } else {
            self.moving.context().register_table(table, Arc::clone(&provider))?;
        }
        self.seen.insert(table.to_owned(), Seen { provider, grows, taken: Vec::new() });
        self.take_new().await?;
        Ok(answer)
    }

    fn forget(&mut self, table: &str) {
        self.seen.remove(table);
        self.inserted.retain(|(of, _)| of != table);
    }

    /// Puts what tables have got into the feed.
    async fn take_new(&mut self) -> Result<(), Error> {
        for (table, seen) in self.seen.iter_mut().filter(|(_, seen)| seen.grows) {
            let Some(memory) = seen.provider.downcast_ref::<MemTable>() else { continue };
            seen.taken.resize(memory.batches.len(), 0);
            let mut new = Vec::new();
            for (part, taken) in memory.batches.iter().zip(&mut seen.taken) {
                let part = part.read().await;
                new.extend(part.iter().skip(*taken).cloned());
                *taken = part.len();
            }
            let rows = concat_batches(&seen.provider.schema(), &new)?;
            for from in (0..rows.num_rows()).step_by(EPOCH_ROWS) {
                let rows = rows.slice(from, EPOCH_ROWS.min(rows.num_rows() - from));
                self.inserted.push((table.clone(), rows));
            }
        }
        Ok(())
    }

    async fn ask(&mut self, statement: Statement) -> Result<Answer, Error> {
        let outcome = self.moving.execute(statement).await?;
        if !matches!(outcome, Outcome::Continuous) {
            return taken(outcome).await;
        }
        // The first epoch finds all tables empty.
        let epochs = std::iter::once(Vec::new()).chain(self.inserted.iter().map(|insert| vec![insert.clone()]));
        let fed = Fedline::new(Arc::new(Mutex::new(epochs.collect())));
        self.folders += 1;
        let state = self.folder.path().join(format!("state{}", self.folders));
        fed.run(&self.moving, &state, None).await?;
        let shown = fed.shown.lock().unwrap()[0].lock().unwrap().clone();
        let batch = shown.batch()?;
        Ok(Answer::Rows { columns: batch.schema(), batches: vec![batch], unordered: shown.order.is_none() })
    }
}

/// The outcome of a session, with all its rows.
pub(crate) async fn taken(outcome: Outcome) -> Result<Answer, Error> {
    match outcome {
        Outcome::Done | Outcome::Continuous => Ok(Answer::Done),
        Outcome::Written { rows, .. } => Ok(Answer::Written(rows)),
        Outcome::Rows(rows) => {
            let columns = rows.schema();
            Ok(Answer::Rows { columns, batches: rows.collect().await?, unordered: false })
        }
    }
}

fn parse(session: &Session, text: &str) -> Result<Vec<Statement>, Error> {
    let dialect = session.context().state().config().options().sql_parser.dialect.to_string();
    let script = Script { name: "-c".to_owned(), text: text.to_owned() };
    parser::parse(&script, &Reading { dialect: Some(dialect), ..Reading::default() })
}

/// A name as the catalog has it.
fn name(name: &ObjectName) -> String {
    let part = |text: String| match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(quoted) => quoted.to_owned(),
        None => text.to_lowercase(),
    };
    name.0.iter().map(|one| part(one.to_string())).collect::<Vec<_>>().join(".")
}

fn place(statement: &Statement) -> Place {
    let Body::Statement(sql) = &statement.body else {
        return match statement.body {
            Body::CopyTo(_) => Place::Change,
            _ => Place::Both,
        };
    };
    match sql.as_ref() {
        Sql::CreateTable(create) => Place::Create(name(&create.name)),
        Sql::Insert(_) | Sql::Update(_) | Sql::Delete(_) | Sql::Merge(_) | Sql::Truncate(_) => Place::Change,
        Sql::Query(_) => Place::Ask,
        _ => Place::Both,
    }
}

/// The table that a statement changes by other means than adding rows.
fn changed_table(statement: &Statement) -> Option<String> {
    let Body::Statement(sql) = &statement.body else { return None };
    let of = |factor: &TableFactor| match factor {
        TableFactor::Table { name: table, .. } => Some(name(table)),
        _ => None,
    };
    match sql.as_ref() {
        Sql::Update(update) => of(&update.table.relation),
        Sql::Merge(merge) => of(&merge.table),
        Sql::Truncate(truncate) => truncate.table_names.first().map(|table| name(&table.name)),
        Sql::Insert(insert) if insert.overwrite || insert.replace_into => match &insert.table {
            TableObject::TableName(table) => Some(name(table)),
            _ => None,
        },
        Sql::Delete(delete) => {
            let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
            from.first().and_then(|from| of(&from.relation))
        }
        _ => None,
    }
}

fn dropped_tables(statement: &Statement) -> Vec<String> {
    match &statement.body {
        Body::Statement(sql) => match sql.as_ref() {
            Sql::Drop { object_type: ObjectType::Table, names, .. } => names.iter().map(name).collect(),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}
