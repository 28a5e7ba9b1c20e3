//! Rows that do not fit.
//!
//! Enters: a record with too many or too few fields, and what the fields of the other rows look like. Leaves: the
//! one way to read it in which each field looks like its column's, or nothing.
//! Always holds: of two ways none is taken; no digit is parted from a digit unless all values before it are
//! of one form.

use std::collections::{BTreeSet, HashSet};

use super::{Dialect, Records, Step};

/// Forms from which a column counts as free text.
const FORMS: usize = 24;
/// Rows that must have been seen before a row is held against them.
const ROWS: usize = 5;
/// The longest line that is tried at each place.
const LINE_BYTES: usize = 8 << 10;

/// What the values of a column look like.
#[derive(Debug, Clone, Default)]
struct Column {
    has_empty: bool,
    /// Digits as 9, letters as a and A: `12:30` is `99:99`. Empty for free text.
    forms: HashSet<Vec<u8>>,
    free: bool,
    first: HashSet<u8>,
    prefix: Option<Vec<u8>>,
}

/// What the rows of a file look like.
#[derive(Debug, Clone)]
pub(super) struct Profile {
    columns: Vec<Column>,
    rows: usize,
}

/// A record that was repaired.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Repaired {
    pub(super) fields: Vec<Vec<u8>>,
}

fn class(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => b'9',
        b'a'..=b'z' => b'a',
        b'A'..=b'Z' => b'A',
        128.. => b'a',
        other => other,
    }
}

impl Column {
    fn see(&mut self, text: &[u8]) {
        const LONG: usize = 40;
        let Some(first) = text.first() else {
            self.has_empty = true;
            return;
        };
        self.first.insert(class(*first));
        match &mut self.prefix {
            None => self.prefix = Some(text.to_vec()),
            Some(prefix) => {
                let common = prefix.iter().zip(text).take_while(|(a, b)| a == b).count();
                prefix.truncate(common);
            }
        }
        if !self.free {
            self.forms.insert(text.iter().copied().map(class).collect());
            self.free = self.forms.len() > FORMS || text.len() > LONG;
        }
    }

    fn fits(&self, text: &[u8]) -> bool {
        let Some(first) = text.first() else { return self.has_empty };
        if !self.free {
            let form: Vec<u8> = text.iter().copied().map(class).collect();
            let short = |form: &[u8]| {
                let mut form = form.to_vec();
                form.dedup();
                form
            };
            // Numbers of more or fewer digits are of one form, unless all have the same number of them.
            return self.forms.contains(&form)
                || (!self.one_form() && self.forms.iter().any(|known| short(known) == short(&form)));
        }
        let begins = self.prefix.as_ref().is_none_or(|prefix| prefix.len() < 4 || text.starts_with(prefix));
        begins && self.first.contains(&class(*first))
    }

    fn one_form(&self) -> bool {
        !self.free && self.forms.len() == 1 && self.forms.iter().all(|form| form.len() >= 4)
    }
}

impl Profile {
    pub(super) fn new(columns: usize) -> Self {
        Self { columns: vec![Column::default(); columns], rows: 0 }
    }

    /// Looks at the sound records with the right number of fields.
    pub(super) fn learn(&mut self, records: &Records) {
        const ENOUGH: usize = 20_000;
        for record in 0..records.len() {
            if self.rows > ENOUGH {
                return;
            }
            if records.is_sound(record) && records.width(record) == self.columns.len() {
                self.rows += 1;
                records.fields(record).zip(&mut self.columns).for_each(|(text, column)| column.see(text));
            }
        }
    }

    fn fits<'a>(&self, fields: impl ExactSizeIterator<Item = &'a [u8]>) -> bool {
        fields.len() == self.columns.len() && fields.zip(&self.columns).all(|(text, column)| column.fits(text))
    }

    /// The fields of the record as they must have been; nothing if that is not certain.
    pub(super) fn repair(&self, fields: &[Vec<u8>], line: &[u8], dialect: &Dialect) -> Option<Repaired> {
        let width = self.columns.len();
        if self.rows < ROWS {
            let surplus = fields.get(width..).filter(|rest| !rest.is_empty() && rest.iter().all(Vec::is_empty));
            return surplus.map(|_| Repaired { fields: fields[..width].to_vec() });
        }
        let mut ways = BTreeSet::new();
        if fields.len() > width {
            self.without_empty(fields, &mut ways);
        }
        let quotes = || dialect.quote.is_some_and(|quote| line.contains(&quote));
        if (fields.len() + 1 == width || (fields.len() > width && quotes())) && line.len() <= LINE_BYTES {
            self.with_delimiter(line, dialect, &mut ways);
        }
        if line.len() <= LINE_BYTES {
            self.with_other_delimiter(line, dialect, &mut ways);
        }
        if ways.len() == 1 { ways.pop_first() } else { None }
    }

    /// Without as many empty fields, one behind the other, as are too many.
    fn without_empty(&self, fields: &[Vec<u8>], ways: &mut BTreeSet<Repaired>) {
        let surplus = fields.len() - self.columns.len();
        for at in 0..=fields.len() - surplus {
            if fields[at..at + surplus].iter().all(Vec::is_empty) {
                let rest = [&fields[..at], &fields[at + surplus..]].concat();
                if self.fits(rest.iter().map(Vec::as_slice)) {
                    ways.insert(Repaired { fields: rest });
                }
            }
        }
    }

    /// With a delimiter more, wherever the line then fits.
    fn with_delimiter(&self, line: &[u8], dialect: &Dialect, ways: &mut BTreeSet<Repaired>) {
        for at in 0..=line.len() {
            let trial = [&line[..at], &[dialect.delimiter], &line[at..]].concat();
            let mut records = Records::default();
            if !matches!(records.read(&trial, 0, dialect, true), Step::Read(_)) || !records.is_sound(0) {
                continue;
            }
            // Where the line was cut: behind this field.
            let cut = {
                let mut before = Records::default();
                before.read(&trial[..at], 0, dialect, true);
                if before.is_empty() { 0 } else { before.width(0) - 1 }
            };
            let alike = at > 0 && line.get(at).is_some_and(|next| class(*next) == class(line[at - 1]));
            let letters = line.get(at).is_some_and(|next| class(*next) == b'9' || next.is_ascii_alphabetic());
            if alike && letters && !self.columns.get(cut).is_some_and(Column::one_form) {
                continue;
            }
            let quote_inside = |text: &[u8]| dialect.quote.is_some_and(|quote| text.len() > 1 && text.contains(&quote));
            let plain = |field: &[u8]| !quote_inside(field) || line.windows(2).any(|pair| pair == b"\"\"");
            if self.fits(records.fields(0)) && records.fields(0).all(plain) {
                ways.insert(Repaired { fields: records.fields(0).map(<[u8]>::to_vec).collect() });
            }
        }
    }

    /// With another delimiter, of which some may stand in a text.
    fn with_other_delimiter(&self, line: &[u8], dialect: &Dialect, ways: &mut BTreeSet<Repaired>) {
        let width = self.columns.len();
        for delimiter in [b',', b';', b'\t', b'|', b' '] {
            if delimiter == dialect.delimiter {
                continue;
            }
            let other = Dialect { delimiter, ..dialect.clone() };
            let mut records = Records::default();
            if !matches!(records.read(line, 0, &other, true), Step::Read(_)) || records.width(0) < width {
                continue;
            }
            let fields: Vec<&[u8]> = records.fields(0).collect();
            let surplus = fields.len() - width;
            for at in 0..width {
                let joined = fields[at..=at + surplus].join(&delimiter);
                let all: Vec<&[u8]> = fields[..at]
                    .iter()
                    .copied()
                    .chain([joined.as_slice()])
                    .chain(fields[at + surplus + 1..].iter().copied())
                    .collect();
                if self.fits(all.iter().copied()) {
                    ways.insert(Repaired { fields: all.into_iter().map(<[u8]>::to_vec).collect() });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repair(rows: &str, line: &str) -> Option<Vec<String>> {
        let dialect = Dialect::default();
        let (mut records, mut at) = (Records::default(), 0);
        while let Step::Read(next) = records.read(rows.as_bytes(), at, &dialect, true) {
            at = next;
        }
        let mut profile = Profile::new(records.width(0));
        profile.learn(&records);
        let mut odd = Records::default();
        odd.read(line.as_bytes(), 0, &dialect, true);
        let fields: Vec<Vec<u8>> = odd.fields(0).map(<[u8]>::to_vec).collect();
        let repaired = profile.repair(&fields, line.as_bytes(), &dialect)?;
        Some(repaired.fields.iter().map(|field| String::from_utf8_lossy(field).into_owned()).collect())
    }

    #[test]
    fn a_row_is_repaired_in_the_one_way_that_fits() {
        let rows: String = (10..30).map(|n| format!("{n}:15,{},AB-12{n},text {n},\n", n % 7)).collect();
        let whole = Some(["11:45", "5", "XY-9999", "text 11", ""].map(str::to_owned).to_vec());
        for line in [
            ",11:45,5,XY-9999,text 11,",
            "11:45,5,,XY-9999,text 11,",
            "11:455,XY-9999,text 11,",
            "11:45,5XY-9999,text 11,",
            "11:45,5,XY-9999,text 11",
            "11:45 5 XY-9999 text 11 ",
        ] {
            assert_eq!(repair(&rows, line), whole, "{line}");
        }
    }

    #[test]
    fn nothing_is_guessed() {
        let rows: String = (1..30).map(|n| format!("{n},{},{}\n", n * 3, n * 7)).collect();
        for line in ["12,34", "1,2,3,4", "1"] {
            assert_eq!(repair(&rows, line), None, "{line}");
        }
    }
}
