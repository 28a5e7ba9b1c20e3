//! The rows of a table that others insert into, change and delete from.
//!
//! Enters: rows in order, each with what it does. Leaves: what has changed in the table. Always holds: a row is there
//! once for each insert that no delete has taken back, or once for each key; a delete of a row that is not there is
//! an error, or counted.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int8Array, Int64Array, RecordBatch, new_null_array};
use arrow::datatypes::SchemaRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use hashbrown::HashTable;

use super::{Changes, Encoded, RowEncoder, hash, nullable, with_columns};
use crate::error::{Error, Result};

/// The column that says what a row does: [`INSERT`] or [`DELETE`].
pub const OP: &str = "__op";
/// The row is there from now on; of a table with a key, in place of the one of its key.
pub const INSERT: i8 = 1;
/// The row is there no more; of a table with a key, that of its key.
pub const DELETE: i8 = -1;

/// What becomes of a delete of a row that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnMissing {
    /// It is an error.
    #[default]
    Fail,
    /// It is left out, and counted.
    Skip,
}

type Bytes = Box<[u8]>;

/// A row that is there, or was at the last [`NetRows::settle`].
#[derive(Debug)]
struct Row {
    key: Bytes,
    /// The columns that are not in the key.
    rest: Bytes,
    weight: i64,
    /// It is among those that were touched.
    touched: bool,
}

/// What a row was before.
#[derive(Debug)]
struct Before {
    slot: u32,
    rest: Bytes,
    weight: i64,
}

/// The rows of a table.
pub struct NetRows {
    schema: SchemaRef,
    /// The places of the columns of the key; of all, if whole rows are inserted and deleted.
    key: Vec<usize>,
    rest: Vec<usize>,
    /// A row replaces the one of its key.
    keyed: bool,
    on_missing: OnMissing,
    encoders: [RowEncoder; 2],
    rows: Vec<Row>,
    free: Vec<u32>,
    slots: HashTable<(u64, u32)>,
    touched: Vec<Before>,
    bytes: usize,
    missing: u64,
}

impl NetRows {
    /// An empty table of these columns, of which those at the places `key` are its key; without one, rows are
    /// inserted and deleted as wholes.
    ///
    /// # Errors
    /// Columns of a type that cannot be compared.
    pub fn new(schema: &SchemaRef, key: &[usize], on_missing: OnMissing) -> Result<Self> {
        let keyed = !key.is_empty();
        let all = 0..schema.fields().len();
        let key: Vec<usize> = if keyed { key.to_vec() } else { all.clone().collect() };
        let rest: Vec<usize> = all.filter(|at| !key.contains(at)).collect();
        let encoder = |places: &[usize]| RowEncoder::new(places.iter().map(|at| schema.field(*at).data_type().clone()));
        let encoders = [encoder(&key)?, encoder(&rest)?];
        let (rows, free, touched) = (Vec::new(), Vec::new(), Vec::new());
        let (slots, bytes, missing) = (HashTable::new(), 0, 0);
        let schema = nullable(schema);
        Ok(Self { schema, key, rest, keyed, on_missing, encoders, rows, free, slots, touched, bytes, missing })
    }

    /// How many different rows there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The memory that it takes, about.
    pub fn bytes(&self) -> usize {
        self.bytes + self.rows.capacity() * size_of::<Row>() + self.slots.capacity() * 24
    }

    /// Forgets all rows, and gives their memory back.
    pub fn clear(&mut self) {
        (self.rows, self.free, self.touched) = (Vec::new(), Vec::new(), Vec::new());
        (self.slots, self.bytes) = (HashTable::new(), 0);
    }

    /// The bytes of the keys of these rows, as [`NetRows::settle`] tells them.
    pub fn keys(&self, rows: &RecordBatch) -> Result<Encoded> {
        self.encoders[0].encode(&self.columns(rows, &self.key), rows.num_rows())
    }

    /// True if a row of this key is there.
    pub fn has(&self, key: &[u8]) -> bool {
        self.find(hash(key), key).is_some()
    }

    /// How many deletes were left out since the last call.
    pub fn take_missing(&mut self) -> u64 {
        std::mem::take(&mut self.missing)
    }

    fn columns(&self, rows: &RecordBatch, places: &[usize]) -> Vec<ArrayRef> {
        places.iter().map(|at| Arc::clone(rows.column(*at))).collect()
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        let same = |(other, slot): &(u64, u32)| *other == hash && *self.rows[*slot as usize].key == *key;
        self.slots.find(hash, same).map(|(_, slot)| *slot)
    }

    /// The slot of a key, which is taken by it from now on.
    fn slot(&mut self, hash: u64, key: &[u8]) -> u32 {
        if let Some(slot) = self.find(hash, key) {
            return slot;
        }
        self.bytes += key.len();
        let row = Row { key: key.into(), rest: Bytes::default(), weight: 0, touched: false };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.rows[slot as usize] = row;
                slot
            }
            None => {
                self.rows.push(row);
                (self.rows.len() - 1) as u32
            }
        };
        self.slots.insert_unique(hash, (hash, slot), |(hash, _)| *hash);
        slot
    }

    /// Gives a row other columns behind its key, and another weight.
    fn set(&mut self, slot: u32, rest: &[u8], weight: i64) {
        let row = &mut self.rows[slot as usize];
        if !row.touched {
            row.touched = true;
            self.touched.push(Before { slot, rest: row.rest.clone(), weight: row.weight });
        }
        row.weight = weight;
        if *row.rest != *rest {
            self.bytes = self.bytes + rest.len() - row.rest.len();
            row.rest = rest.into();
        }
    }

    /// Takes rows, one after the other: what each does is [`INSERT`] or [`DELETE`].
    ///
    /// # Errors
    /// A delete of a row that is not there, unless those are left out.
    pub fn apply(&mut self, rows: &RecordBatch, ops: &Int8Array) -> Result<()> {
        let count = rows.num_rows();
        let keys = self.encoders[0].encode(&self.columns(rows, &self.key), count)?;
        let rests = self.encoders[1].encode(&self.columns(rows, &self.rest), count)?;
        for row in 0..count {
            let key = keys.row(row);
            let hash = hash(key);
            if ops.value(row) == INSERT {
                let slot = self.slot(hash, key);
                let weight = if self.keyed { 1 } else { self.rows[slot as usize].weight + 1 };
                self.set(slot, rests.row(row), weight);
                continue;
            }
            match self.find(hash, key).filter(|slot| self.rows[*slot as usize].weight > 0) {
                Some(slot) => {
                    let weight = self.rows[slot as usize].weight - 1;
                    self.set(slot, &[], weight);
                }
                None if self.on_missing == OnMissing::Skip => self.missing += 1,
                None => return Err(self.missing_row(rows, row)),
            }
        }
        Ok(())
    }

    fn missing_row(&self, rows: &RecordBatch, row: usize) -> Error {
        let options = FormatOptions::default().with_null("NULL");
        let shown = self.key.iter().map(|at| {
            let value = ArrayFormatter::try_new(rows.column(*at), &options).map(|all| all.value(row).to_string());
            format!("{} = {}", self.schema.field(*at).name(), value.unwrap_or_default())
        });
        let shown = shown.collect::<Vec<_>>().join(", ");
        Error::query(format!("a delete of a row that is not there: {shown}"))
            .hint("OPTIONS ('on_missing' 'skip') leaves such deletes out, and counts them")
    }

    /// What has changed since the last call. `log` is told the key of each row that has.
    pub fn settle(&mut self, mut log: impl FnMut(&[u8])) -> Result<Option<Changes>> {
        // Slot and weight, and the columns behind the key where they are those of before.
        let mut out: Vec<(u32, Option<Bytes>, i64)> = Vec::new();
        let mut gone = Vec::new();
        for before in std::mem::take(&mut self.touched) {
            let row = &mut self.rows[before.slot as usize];
            row.touched = false;
            let same = before.rest == row.rest || before.weight == 0 || row.weight == 0;
            if same && before.weight == row.weight && before.rest == row.rest {
                // Nothing came of it.
            } else {
                log(&row.key);
                if same && before.weight < row.weight {
                    out.push((before.slot, None, row.weight - before.weight));
                } else if same {
                    out.push((before.slot, Some(before.rest), row.weight - before.weight));
                } else {
                    out.push((before.slot, Some(before.rest), -before.weight));
                    out.push((before.slot, None, row.weight));
                }
            }
            if row.weight == 0 {
                gone.push(before.slot);
            }
        }
        let changes = if out.is_empty() {
            None
        } else {
            let bytes = out.iter().map(|(slot, rest, _)| {
                let row = &self.rows[*slot as usize];
                (&*row.key, Some(rest.as_deref().unwrap_or(&row.rest)))
            });
            let rows = self.decode(bytes.collect())?;
            Some(Changes::weighted(rows, Int64Array::from_iter_values(out.iter().map(|(_, _, weight)| *weight))))
        };
        gone.into_iter().for_each(|slot| self.forget(slot));
        Ok(changes)
    }

    fn forget(&mut self, slot: u32) {
        let row = &mut self.rows[slot as usize];
        let (key, rest) = (std::mem::take(&mut row.key), std::mem::take(&mut row.rest));
        self.bytes -= key.len() + rest.len();
        if let Ok(entry) = self.slots.find_entry(hash(&key), |(_, other)| *other == slot) {
            entry.remove();
        }
        self.free.push(slot);
    }

    /// Rows of keys and what is behind them; nothing: NULL.
    fn decode(&self, rows: Vec<(&[u8], Option<&[u8]>)>) -> Result<RecordBatch> {
        let count = rows.len();
        let keys = self.encoders[0].decode(rows.iter().map(|(key, _)| *key))?;
        let known = rows.iter().all(|(_, rest)| rest.is_some());
        let rests = if known {
            self.encoders[1].decode(rows.iter().filter_map(|(_, rest)| *rest))?
        } else {
            // Of rows that are gone the key alone is told.
            let there = self.encoders[1].decode(rows.iter().filter_map(|(_, rest)| *rest))?;
            let mut at = 0;
            let places = rows.iter().map(|(_, rest)| {
                let place = rest.is_some().then_some(at);
                at += u64::from(rest.is_some());
                place
            });
            let places = arrow::array::UInt64Array::from_iter(places);
            let kinds = self.rest.iter().map(|at| self.schema.field(*at).data_type());
            let spread = there.iter().zip(kinds).map(|(column, kind)| -> Result<ArrayRef> {
                if column.is_empty() {
                    Ok(new_null_array(kind, count))
                } else {
                    Ok(arrow::compute::take(column, &places, None)?)
                }
            });
            spread.collect::<Result<_>>()?
        };
        let mut columns: Vec<Option<ArrayRef>> = vec![None; self.schema.fields().len()];
        let placed = self.key.iter().zip(keys).chain(self.rest.iter().zip(rests));
        placed.for_each(|(at, column)| columns[*at] = Some(column));
        with_columns(&self.schema, columns.into_iter().flatten().collect(), count)
    }

    /// All rows, each with how often it is there.
    pub fn all(&self, batch_rows: usize) -> impl Iterator<Item = Result<Changes>> + '_ {
        let slots: Vec<u32> = self.slots.iter().map(|(_, slot)| *slot).collect();
        let batches = slots.len().div_ceil(batch_rows.max(1));
        (0..batches).map(move |at| {
            let slots = &slots[at * batch_rows..((at + 1) * batch_rows).min(slots.len())];
            self.weighted(slots.iter().map(|slot| &self.rows[*slot as usize]).map(|row| (&*row.key, Some(row))))
        })
    }

    /// The rows of these keys as they are now; one that is gone has the weight 0.
    pub fn of<'a>(&'a self, keys: impl Iterator<Item = &'a [u8]>) -> Result<Changes> {
        self.weighted(keys.map(|key| (key, self.find(hash(key), key).map(|slot| &self.rows[slot as usize]))))
    }

    fn weighted<'a>(&self, rows: impl Iterator<Item = (&'a [u8], Option<&'a Row>)>) -> Result<Changes> {
        let rows: Vec<_> = rows.collect();
        let weights = Int64Array::from_iter_values(rows.iter().map(|(_, row)| row.map_or(0, |row| row.weight)));
        let bytes = rows.into_iter().map(|(key, row)| (key, row.map(|row| &*row.rest)));
        Ok(Changes::weighted(self.decode(bytes.collect())?, weights))
    }

    /// Takes what [`NetRows::of`] and [`NetRows::all`] gave; `wanted` are the rows among them. Of a row that comes
    /// several times the last counts.
    pub fn restore(&mut self, saved: &Changes, wanted: impl Fn(usize) -> bool) -> Result<()> {
        let keys = self.encoders[0].encode(&self.columns(&saved.rows, &self.key), saved.len())?;
        let rests = self.encoders[1].encode(&self.columns(&saved.rows, &self.rest), saved.len())?;
        for row in (0..saved.len()).filter(|row| wanted(*row)) {
            let slot = self.slot(hash(keys.row(row)), keys.row(row));
            self.set(slot, rests.row(row), saved.weight(row));
            self.rows[slot as usize].touched = false;
            self.touched.clear();
            if saved.weight(row) == 0 {
                self.forget(slot);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::StringArray;
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn table(key: &[usize], on_missing: OnMissing) -> NetRows {
        let fields = vec![Field::new("a", DataType::Utf8, true), Field::new("id", DataType::Int64, true)];
        NetRows::new(&Arc::new(Schema::new(fields)), key, on_missing).expect("a table")
    }

    /// Rows such as `+x1`: insert, a, id.
    fn apply(table: &mut NetRows, rows: &[&str]) -> Result<Vec<String>> {
        let texts = rows.iter().map(|row| Some(&row[1..2]).filter(|text| *text != "-"));
        let ids = rows.iter().map(|row| row[2..].parse::<i64>().ok());
        let ops = rows.iter().map(|row| if row.starts_with('+') { INSERT } else { DELETE });
        let batch = RecordBatch::try_new(
            Arc::clone(&table.schema),
            vec![Arc::new(StringArray::from_iter(texts)), Arc::new(Int64Array::from_iter(ids))],
        )?;
        table.apply(&batch, &Int8Array::from_iter_values(ops))?;
        let Some(changes) = table.settle(|_| {})? else { return Ok(Vec::new()) };
        Ok(shown(&changes))
    }

    fn shown(changes: &Changes) -> Vec<String> {
        let options = FormatOptions::default().with_null("-");
        let columns: Vec<_> =
            changes.rows.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).expect("shows")).collect();
        let line = |row: usize| format!("{:+}{}{}", changes.weight(row), columns[0].value(row), columns[1].value(row));
        (0..changes.len()).map(line).collect()
    }

    #[test]
    fn a_row_replaces_the_one_of_its_key() {
        let mut table = table(&[1], OnMissing::Fail);
        assert_eq!(apply(&mut table, &["+x1", "+y2"]).unwrap(), ["+1x1", "+1y2"]);
        assert_eq!(apply(&mut table, &["+z1", "--2"]).unwrap(), ["-1x1", "+1z1", "-1y2"]);
        assert_eq!(apply(&mut table, &["--1", "+z1"]).unwrap(), [""; 0]);
        assert_eq!(apply(&mut table, &["+a1", "+b1", "+c3", "--3"]).unwrap(), ["-1z1", "+1b1"]);
        let error = apply(&mut table, &["--2"]).unwrap_err();
        assert!(error.message.ends_with("not there: id = 2"), "{}", error.message);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn without_a_key_rows_are_counted() {
        let mut table = table(&[], OnMissing::Skip);
        assert_eq!(apply(&mut table, &["+x1", "+x1", "+x2"]).unwrap(), ["+2x1", "+1x2"]);
        assert_eq!(apply(&mut table, &["-x1", "-y1", "-x2", "-x2"]).unwrap(), ["-1x1", "-1x2"]);
        assert_eq!(table.take_missing(), 2);
        // In order: what is deleted before it is inserted was not there.
        assert_eq!(apply(&mut table, &["-q5", "+q5"]).unwrap(), ["+1q5"]);
        assert_eq!((table.take_missing(), table.len()), (1, 2));
    }

    #[test]
    fn what_was_saved_comes_back() {
        for key in [&[1][..], &[]] {
            let mut first = table(key, OnMissing::Skip);
            let mut changed: Vec<Bytes> = Vec::new();
            apply(&mut first, &["+x1", "+-2", "+y3"]).unwrap();
            let whole: Vec<Changes> = first.all(2).collect::<Result<_>>().unwrap();
            let (rows, ops) = (whole[0].rows.slice(0, 1), Int8Array::from_iter_values([DELETE]));
            first.apply(&rows, &ops).unwrap();
            first.settle(|key| changed.push(key.into())).unwrap();
            let mut second = table(key, OnMissing::Skip);
            let more = first.of(changed.iter().map(|key| &**key)).unwrap();
            for part in whole.iter().chain([&more]) {
                second.restore(part, |_| true).unwrap();
            }
            let all = |table: &NetRows| {
                let mut rows: Vec<String> = table.all(10).flat_map(|part| shown(&part.unwrap())).collect();
                rows.sort();
                rows
            };
            assert_eq!(all(&first), all(&second));
            assert_eq!(all(&second).len(), 2);
        }
    }
}
