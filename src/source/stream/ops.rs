//! What the rows of a table do that others insert into, change and delete from.
//!
//! Enters: OPTIONS and PRIMARY KEY; batches whose last column says in words what a row does. Leaves: the same with
//! [`INSERT`] or [`DELETE`] there, and the rows of which it cannot be said. Always holds: a word that is not known is
//! told, and never taken for an insert.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int8Array, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::Constraint;
use datafusion::logical_expr::CreateExternalTable;

use super::StreamOptions;
use crate::change::{DELETE, INSERT, OP, OnMissing, with_columns};
use crate::error::{Error, Result, near_name};

/// How a table says that rows come, change and go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upkeep {
    /// Where it says what a row does.
    pub says: Says,
    /// The places of the columns of its key; without one, rows are inserted and deleted as wholes.
    pub key: Vec<usize>,
    /// What becomes of a delete of a row that is not there.
    pub on_missing: OnMissing,
}

/// Where a table says what a row does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Says {
    /// Nowhere: each row takes the place of the one of its key.
    Nothing,
    /// In a column of that name, which is not among those of the table.
    Column(String),
    /// Rows are envelopes of Debezium.
    Debezium,
}

/// What a row does, as others write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Insert,
    /// The row as it is now; what it was is not told.
    Update,
    Delete,
}

/// What is understood, for messages.
const WORDS: &str = "insert, update, delete; I, U, D; c, r, u, d; +I, -U, +U, -D; 1, -1; or true for a row that is deleted, false for one that is not";

fn word(text: &str) -> Option<Word> {
    Some(match text.trim().to_ascii_lowercase().as_str() {
        "insert" | "i" | "+i" | "c" | "create" | "r" | "read" | "+u" | "update_after" | "1" | "+1" => Word::Insert,
        "update" | "u" | "upsert" | "false" => Word::Update,
        "delete" | "d" | "-d" | "-u" | "update_before" | "-1" | "true" => Word::Delete,
        _ => return None,
    })
}

/// A row of which it cannot be said what it does.
pub(super) struct BadRow {
    pub(super) row: usize,
    pub(super) column: String,
    pub(super) reason: String,
}

impl Upkeep {
    /// How a statement says it; nothing if its rows only come. `columns` are those of the table.
    pub(super) fn of(cmd: &CreateExternalTable, options: &StreamOptions) -> Result<Option<Self>> {
        let says = match (&options.op_column, cmd.file_type.as_str()) {
            (Some(_), "DEBEZIUM") => {
                return Err(Error::sql("STORED AS DEBEZIUM has an op of its own, and no op_column"));
            }
            (Some(column), _) => Says::Column(column.clone()),
            (None, "DEBEZIUM") => Says::Debezium,
            (None, _) => Says::Nothing,
        };
        let mut key = None;
        for constraint in cmd.constraints.iter() {
            if let Constraint::PrimaryKey(places) = constraint {
                key = Some(places.clone());
            }
        }
        if says == Says::Nothing && key.is_none() {
            return match options.on_missing {
                Some(_) => Err(Error::sql("the option on_missing is of tables from which rows go")
                    .hint("OPTIONS ('op_column' 'op'), STORED AS DEBEZIUM, or PRIMARY KEY (id) make one")),
                None => Ok(None),
            };
        }
        if matches!(cmd.file_type.as_str(), "RATE" | "NEXMARK") {
            return Err(Error::sql(format!("rows of STORED AS {} only come", cmd.file_type))
                .hint("leave out op_column and PRIMARY KEY"));
        }
        Ok(Some(Self { says, key: key.unwrap_or_default(), on_missing: options.on_missing.unwrap_or_default() }))
    }

    /// The same for a history, whose rows are all there.
    pub(super) fn of_history(&self) -> Self {
        Self { says: Says::Nothing, ..self.clone() }
    }

    /// Of a table in a database, which tells each change once.
    #[cfg(any(feature = "postgres", feature = "delta"))]
    pub(super) fn of_database(key: Vec<usize>) -> Self {
        Self { says: Says::Nothing, key, on_missing: OnMissing::Fail }
    }

    /// Refuses columns that cannot be those of such a table.
    pub(super) fn check(&self, columns: &SchemaRef, has_watermark: bool) -> Result<()> {
        if has_watermark {
            return Err(Error::sql("a table whose rows change and go has no watermark")
                .note("a delete that came late would be left out, and its row would stay")
                .hint("leave out WATERMARK FOR"));
        }
        if let Says::Column(op) = &self.says
            && columns.index_of(op).is_ok()
        {
            return Err(Error::sql(format!("{op} says what a row does, and is no column of the table"))
                .hint(format!("leave {op} out of the columns; OPTIONS ('op_column' '{op}') names it"))
                .mark(op.clone()));
        }
        if columns.index_of(OP).is_ok() {
            return Err(Error::sql(format!("a table whose rows change cannot have a column named {OP}")));
        }
        let float = self.key.iter().map(|at| columns.field(*at)).find(|field| field.data_type().is_floating());
        if let Some(field) = float {
            return Err(Error::sql(format!("{} is a number with a fraction, and no key", field.name()))
                .hint("a PRIMARY KEY is of whole numbers, decimals, texts, dates or times"));
        }
        if self.says == Says::Debezium {
            let bytes = columns.fields().iter().find(|field| {
                matches!(field.data_type(), DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
            });
            if let Some(field) = bytes {
                return Err(Error::sql(format!("{}: Debezium writes bytes as text in base64", field.name()))
                    .hint("declare the column as VARCHAR"));
            }
        }
        Ok(())
    }

    /// The columns of what was found without the one that says what a row does.
    pub(super) fn without_op(&self, found: &SchemaRef) -> Result<SchemaRef> {
        let Says::Column(op) = &self.says else { return Ok(Arc::clone(found)) };
        if found.index_of(op).is_err() {
            let error = Error::sql(format!("there is no column {op} in what is there, and op_column names it"));
            return Err(match near_name(op, found.fields().iter().map(|field| field.name().as_str())) {
                Some(near) => error.hint(format!("did you mean {near}?")),
                None => error,
            });
        }
        let kept = found.fields().iter().filter(|field| field.name() != op).cloned();
        Ok(Arc::new(Schema::new(kept.collect::<Vec<_>>())))
    }

    /// The columns that are read where these are wanted, in the order of the table: the key with them, or all, since
    /// what is there is known by its whole row.
    pub fn columns(&self, wanted: &[usize], table: &SchemaRef) -> Vec<usize> {
        if self.key.is_empty() {
            return (0..table.fields().len()).collect();
        }
        let mut all: Vec<usize> = wanted.iter().chain(&self.key).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// In words: a state that was made for one way is not used for another.
    pub(super) fn describe(&self) -> String {
        match &self.says {
            Says::Nothing => String::new(),
            Says::Column(column) => format!(" by {column}"),
            Says::Debezium => " of Debezium".to_owned(),
        }
    }

    /// What a source reads of such a table: its columns, of which those of a delete may be missing, and the word.
    pub(super) fn read_schema(&self, table: &SchemaRef) -> SchemaRef {
        let fields = table.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
        let op = match &self.says {
            Says::Nothing => None,
            Says::Column(name) => Some(Field::new(name, DataType::Utf8, false)),
            Says::Debezium => Some(Field::new(OP, DataType::Utf8, false)),
        };
        Arc::new(Schema::new(fields.chain(op).collect::<Vec<_>>()))
    }
}

/// Makes of rows as they are read rows with [`OP`].
#[derive(Debug, Clone)]
pub(super) struct Ops {
    /// The name of the column of words; without one, each row is the one of its key from now on.
    word: Option<String>,
    keyed: bool,
    /// Places, among the columns that are read, of those of the key.
    key: Vec<usize>,
    /// Places of those that are NOT NULL.
    not_null: Vec<usize>,
    /// What leaves.
    schema: SchemaRef,
}

impl Ops {
    /// For the columns at these places of the table.
    pub(super) fn new(upkeep: &Upkeep, table: &SchemaRef, columns: &[usize]) -> Result<Self> {
        let place = |at: &usize| {
            let found = columns.iter().position(|one| one == at);
            found.ok_or_else(|| Error::query("a source does not read its key"))
        };
        let not_null = (0..columns.len()).filter(|at| !table.field(columns[*at]).is_nullable());
        let fields = columns.iter().map(|at| table.field(*at).clone().with_nullable(true));
        let op = Field::new(OP, DataType::Int8, false);
        Ok(Self {
            word: match &upkeep.says {
                Says::Nothing => None,
                Says::Column(name) => Some(name.clone()),
                Says::Debezium => Some(OP.to_owned()),
            },
            keyed: !upkeep.key.is_empty(),
            key: upkeep.key.iter().map(place).collect::<Result<_>>()?,
            not_null: not_null.collect(),
            schema: Arc::new(Schema::new(fields.chain([op]).collect::<Vec<_>>())),
        })
    }

    pub(super) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The rows of a batch with what each does, and those that are left out because it cannot be said.
    pub(super) fn of(&self, batch: &RecordBatch) -> Result<(RecordBatch, Vec<BadRow>)> {
        let count = batch.num_rows();
        let mut bad = Vec::new();
        let mut ops = Vec::with_capacity(count);
        let last = batch.num_columns() - 1;
        for row in 0..count {
            match self.op(batch, last, row) {
                Ok(op) => ops.push(op),
                Err((column, reason)) => {
                    ops.push(INSERT);
                    bad.push(BadRow { row, column, reason });
                }
            }
        }
        let columns = if self.word.is_some() { last } else { last + 1 };
        let mut all: Vec<ArrayRef> = batch.columns()[..columns].to_vec();
        all.push(Arc::new(Int8Array::from(ops)));
        let rows = with_columns(&self.schema, all, count)?;
        if bad.is_empty() {
            return Ok((rows, bad));
        }
        let mut good = vec![true; count];
        bad.iter().for_each(|bad| good[bad.row] = false);
        Ok((filter_record_batch(&rows, &BooleanArray::from(good))?, bad))
    }

    /// What a row does, or the column that does not allow to say it, and why.
    fn op(&self, batch: &RecordBatch, last: usize, row: usize) -> Result<i8, (String, String)> {
        let name = |at: usize| batch.schema_ref().field(at).name().clone();
        let mut op = INSERT;
        if let Some(column) = &self.word {
            let words = batch.column(last).as_string::<i32>();
            let text = if words.is_null(row) { "" } else { words.value(row) };
            op = match word(text) {
                Some(Word::Insert) => INSERT,
                Some(Word::Delete) => DELETE,
                Some(Word::Update) if self.keyed => INSERT,
                Some(Word::Update) => {
                    let reason = format!(
                        "'{text}' tells the new row alone, and which one it replaces is not known: the table wants a PRIMARY KEY"
                    );
                    return Err((column.clone(), reason));
                }
                None => return Err((column.clone(), format!("'{text}' is none of {WORDS}"))),
            };
        }
        let wanted: &[usize] = if op == INSERT { &self.not_null } else { &[] };
        for at in self.key.iter().chain(wanted) {
            if batch.column(*at).is_null(row) {
                let what = if self.key.contains(at) { "it is in the key" } else { "the column is NOT NULL" };
                return Err((name(*at), format!("it is NULL, and {what}")));
            }
        }
        Ok(op)
    }
}
