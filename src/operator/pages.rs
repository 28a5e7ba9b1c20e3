//! Rows in the order of their keys, in memory or on disk.
//!
//! Enters: keys, each with a weight. Leaves: the rows from a key on, or before it. Always holds: a row of weight 0 is not
//! there; rows lie on pages of some dozens, and a page is in memory, on disk, or both as long as it does not change. What
//! is asked for is read back page by page, and stays in memory until `spill` chooses it again; so what an epoch touches
//! has to fit. Of a page on disk its place and the beginning of its first key stay in memory.

mod disk;
mod page;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, VecDeque, btree_map};
use std::ops::Bound;
use std::sync::Arc;

use datafusion::execution::disk_manager::DiskManager;

use crate::error::Result;
use disk::{Files, Place};
use page::{Row, Rows, in_common};

/// Rows of a page, at most.
const PAGE_ROWS: usize = 128;
/// Bytes of the keys of a page of several rows, at most.
const PAGE_BYTES: usize = 32 * 1024;
/// Bytes that are written at once, at least.
const WRITE_BYTES: usize = 1 << 20;

/// What is compared: the partition, the order, the whole row, one behind the other.
pub(super) type Key = Box<[u8]>;

/// What there is of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) weight: i64,
    /// Where in the key the order begins, and where the row.
    pub(super) order: u32,
    pub(super) row: u32,
}

/// Rows that stand one behind the other.
#[derive(Default)]
struct Page {
    /// Its rows, if they are in memory.
    rows: OnceCell<Rows>,
    /// Where the same rows are on disk.
    cold: Option<Place>,
    len: usize,
    /// Bytes of its keys.
    key_bytes: usize,
    /// It was asked for since it was last passed.
    used: Cell<bool>,
    /// It is among those of which some may go to disk.
    queued: Cell<bool>,
}

/// Rows by key.
pub(super) struct Pages {
    /// The page of the keys from this one on, up to the next. The first one begins with the empty key.
    index: BTreeMap<Key, u32>,
    pages: Vec<Page>,
    /// Places in `pages` that are empty.
    free: Vec<u32>,
    /// The pages in memory, those first that may go first.
    queue: RefCell<VecDeque<u32>>,
    rows: usize,
    /// Memory of the pages, and of the keys of the index.
    warm_bytes: Cell<usize>,
    index_bytes: usize,
    files: Files,
}

/// Pages that are to be written together.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Each with how many bytes it is.
    pages: Vec<(u32, u32)>,
}

impl Page {
    /// Memory of its rows, if they are there.
    fn bytes(&self) -> usize {
        self.rows.get().map_or(0, |rows| self.key_bytes + rows.bytes())
    }
}

/// The shortest key that is behind the first one and not behind the second one.
fn between(before: &[u8], behind: &[u8]) -> Key {
    behind[..behind.len().min(in_common(before, behind) + 1)].into()
}

impl Pages {
    pub(super) fn new() -> Self {
        Self {
            index: BTreeMap::from([(Key::default(), 0)]),
            pages: vec![Page::default()],
            free: Vec::new(),
            queue: RefCell::default(),
            rows: 0,
            warm_bytes: Cell::new(0),
            index_bytes: 0,
            files: Files::new(),
        }
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// Memory, about.
    pub(super) fn bytes(&self) -> usize {
        // The index has about two thirds of its places taken.
        let index = self.index_bytes + self.index.len() * (size_of::<Key>() + size_of::<u32>()) * 3 / 2;
        self.warm_bytes.get() + index + self.pages.capacity() * (size_of::<Page>() + size_of::<u32>())
    }

    fn page(&self, at: u32) -> &Page {
        &self.pages[at as usize]
    }

    /// The page that has a key, if it is there.
    fn find(&self, key: &[u8]) -> u32 {
        let range = self.index.range::<[u8], _>((Bound::Unbounded, Bound::Included(key)));
        range.map(|(_, at)| *at).next_back().unwrap_or(0)
    }

    /// The rows of a page on disk, as they are there.
    fn read(&self, page: &Page) -> Result<Rows> {
        match page.cold {
            Some(place) => disk::decode(&self.files.read(place)?, page.len),
            None => Ok(Rows::default()),
        }
    }

    /// The rows of a page.
    fn rows(&self, at: u32) -> Result<&Rows> {
        let page = self.page(at);
        page.used.set(true);
        if let Some(rows) = page.rows.get() {
            return Ok(rows);
        }
        let read = self.read(page)?;
        let rows = page.rows.get_or_init(|| read);
        self.warmed(at);
        Ok(rows)
    }

    /// A page has come to memory.
    fn warmed(&self, at: u32) {
        self.warm_bytes.set(self.warm_bytes.get() + self.page(at).bytes());
        self.enqueue(at);
    }

    fn enqueue(&self, at: u32) {
        if !self.page(at).queued.replace(true) {
            self.queue.borrow_mut().push_back(at);
        }
    }

    /// Takes the rows of a page out, to change them.
    fn take(&mut self, at: u32) -> Result<Rows> {
        self.rows(at)?;
        let page = &mut self.pages[at as usize];
        self.warm_bytes.set(self.warm_bytes.get() - page.bytes());
        if let Some(cold) = page.cold.take() {
            self.files.forget(cold);
        }
        Ok(page.rows.take().unwrap_or_default())
    }

    /// Puts the rows of a page back, whose keys have so many bytes.
    fn put(&mut self, at: u32, rows: Rows, key_bytes: usize) {
        let page = &mut self.pages[at as usize];
        (page.len, page.key_bytes) = (rows.all().len(), key_bytes);
        page.rows = OnceCell::from(rows);
        self.warmed(at);
    }

    /// What there is of a row.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        let rows = self.rows(self.find(key))?;
        Ok(rows.find(key).ok().map(|place| rows.all()[place].entry))
    }

    /// Adds to the weight of a row; gives what it was before.
    pub(super) fn add(&mut self, key: &[u8], more: Entry) -> Result<i64> {
        let at = self.find(key);
        let mut rows = self.take(at)?;
        let mut bytes = self.page(at).key_bytes;
        let found = rows.find(key);
        let before = found.map_or(0, |place| rows.all()[place].entry.weight);
        let entry = Entry { weight: before + more.weight, ..more };
        match found {
            Ok(place) if entry.weight == 0 => {
                rows.remove(place);
                bytes -= key.len();
                self.rows -= 1;
                self.put(at, rows, bytes);
                self.merge(at, key)?;
            }
            Ok(place) => {
                rows.set(place, entry);
                self.put(at, rows, bytes);
            }
            Err(_) if entry.weight == 0 => self.put(at, rows, bytes),
            Err(place) => {
                rows.insert(place, key.into(), entry);
                bytes += key.len();
                self.rows += 1;
                let len = rows.all().len();
                if len >= PAGE_ROWS || (bytes > PAGE_BYTES && len > 1) {
                    self.split(at, rows, place);
                } else {
                    self.put(at, rows, bytes);
                }
            }
        }
        Ok(before)
    }

    /// Makes two pages of one that is full, to which a row was added at this place.
    fn split(&mut self, at: u32, mut rows: Rows, place: usize) {
        // What comes in order leaves full pages behind.
        let cut = match place {
            0 => 1,
            place if place + 1 == rows.all().len() => place,
            _ => rows.all().len() / 2,
        };
        let behind = rows.split_off(cut);
        let key = between(&rows.all()[cut - 1].key, &behind.all()[0].key);
        let new = self.free.pop().unwrap_or(self.pages.len() as u32);
        if new as usize == self.pages.len() {
            self.pages.push(Page::default());
        }
        self.index_bytes += key.len();
        self.index.insert(key, new);
        let bytes = rows.key_bytes();
        self.put(at, rows, bytes);
        let bytes = behind.key_bytes();
        self.put(new, behind, bytes);
    }

    /// Makes one page of this and the one beside it, if both are small; `key` belongs to this one.
    fn merge(&mut self, at: u32, key: &[u8]) -> Result<()> {
        let len = self.page(at).len;
        if len >= PAGE_ROWS / 4 {
            return Ok(());
        }
        let small = |other: u32| {
            let (page, other) = (self.page(at), self.page(other));
            page.len + other.len <= PAGE_ROWS / 2 && page.key_bytes + other.key_bytes <= PAGE_BYTES / 2
        };
        let next = self.index.range::<[u8], _>((Bound::Excluded(key), Bound::Unbounded)).next();
        let next = next.filter(|(_, next)| len > 0 && small(**next)).map(|(key, next)| (at, key.clone(), *next));
        // One that is empty goes, whatever is before it.
        let before = || {
            let own = self.index.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()?.0;
            let (_, before) = self.index.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(&**own))).next_back()?;
            (len == 0 || small(*before)).then(|| (*before, own.clone(), at))
        };
        let Some((left, key, right)) = next.or_else(before) else { return Ok(()) };
        if self.page(right).len > 0 {
            // If it cannot be read, all stays as it is.
            self.rows(left)?;
        }
        let more = self.take(right)?;
        if !more.all().is_empty() {
            let mut rows = self.take(left)?;
            rows.append(more);
            let bytes = rows.key_bytes();
            self.put(left, rows, bytes);
        }
        self.index_bytes -= key.len();
        self.index.remove(&key);
        let queued = self.page(right).queued.clone();
        self.pages[right as usize] = Page { queued, ..Page::default() };
        self.free.push(right);
        Ok(())
    }

    /// The rows from a key on.
    pub(super) fn from(&self, key: &[u8]) -> Forward<'_> {
        let found = self.index.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        let first = found.map(|(_, at)| {
            let rows = self.rows(*at)?;
            Ok(&rows.all()[rows.place(key)..])
        });
        Forward { all: self, first, page: found.map(|(page, _)| page), behind: None, rows: [].iter() }
    }

    /// The rows before a key, the last one first; nothing: before the end.
    pub(super) fn before(&self, key: Option<&[u8]>) -> Backward<'_> {
        let mut before = self.index.range::<[u8], _>((Bound::Unbounded, key.map_or(Bound::Unbounded, Bound::Included)));
        let first = key.and_then(|key| {
            let rows = self.rows(*before.next_back()?.1);
            Some(rows.map(|rows| &rows.all()[..rows.place(key)]))
        });
        Backward { all: self, first, before, rows: [].iter() }
    }

    /// All rows in order, so many at a time or somewhat more. What is on disk does not come to memory.
    pub(super) fn blocks(&self, rows: usize, mut take: impl FnMut(&[(&Key, &Entry)]) -> Result<()>) -> Result<()> {
        let mut pages: Vec<Cow<'_, Rows>> = Vec::new();
        let mut count = 0;
        for (place, at) in self.index.values().enumerate() {
            let page = self.page(*at);
            count += page.len;
            pages.push(match page.rows.get() {
                Some(rows) => Cow::Borrowed(rows),
                None => Cow::Owned(self.read(page)?),
            });
            if count > 0 && (count >= rows || place + 1 == self.index.len()) {
                let rows = pages.iter().flat_map(|page| page.all());
                let block: Vec<_> = rows.map(|row| (&row.key, &row.entry)).collect();
                take(&block)?;
                count = 0;
                pages.clear();
            }
        }
        Ok(())
    }

    /// Puts pages on disk until so many bytes of memory are free, or none is left; gives how many are. Those that were
    /// asked for since they were last passed are passed once.
    pub(super) fn spill(&mut self, bytes: usize, disk: &Arc<DiskManager>) -> Result<usize> {
        let (mut freed, mut batch) = (0, Batch::default());
        let mut left = 2 * self.queue.get_mut().len();
        while freed < bytes && left > 0 {
            left -= 1;
            let Some(at) = self.queue.get_mut().pop_front() else { break };
            let page = &mut self.pages[at as usize];
            if page.used.replace(false) {
                self.queue.get_mut().push_back(at);
                continue;
            }
            page.queued.set(false);
            let frees = page.bytes();
            match page.rows.get().filter(|rows| !rows.all().is_empty()) {
                Some(rows) if page.cold.is_none() => match disk::encode(rows, &mut batch.bytes) {
                    Some(length) => batch.pages.push((at, length)),
                    None => continue,
                },
                Some(_) => {
                    page.rows.take();
                    self.warm_bytes.set(self.warm_bytes.get() - frees);
                }
                None => continue,
            }
            freed += frees;
            if batch.bytes.len() >= WRITE_BYTES {
                self.write(&mut batch, disk)?;
            }
        }
        self.write(&mut batch, disk)?;
        self.rewrite(disk)?;
        Ok(freed)
    }

    /// Writes pages, which then are on disk only.
    fn write(&mut self, batch: &mut Batch, disk: &Arc<DiskManager>) -> Result<()> {
        if batch.pages.is_empty() {
            return Ok(());
        }
        let written = self.files.append(&batch.bytes, disk);
        if written.is_err() {
            // They are where they were.
            batch
                .pages
                .iter()
                .filter(|(at, _)| self.page(*at).rows.get().is_some())
                .for_each(|(at, _)| self.enqueue(*at));
        }
        let (file, mut start) = written?;
        batch.bytes.clear();
        for (at, length) in batch.pages.drain(..) {
            let page = &mut self.pages[at as usize];
            let old = page.cold.replace(Place { file, start, length });
            self.warm_bytes.set(self.warm_bytes.get() - page.bytes());
            page.rows.take();
            old.into_iter().for_each(|old| self.files.forget(old));
            start += u64::from(length);
        }
        Ok(())
    }

    /// Writes the pages again that are needed of files of which most are not. That costs less than it cost to write
    /// the others.
    fn rewrite(&mut self, disk: &Arc<DiskManager>) -> Result<()> {
        let sparse = self.files.sparse();
        if sparse.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        for at in 0..self.pages.len() {
            let page = &mut self.pages[at];
            let Some(place) = page.cold.filter(|place| sparse.contains(&place.file)) else { continue };
            if page.rows.get().is_some() {
                page.cold = None;
                self.files.forget(place);
                continue;
            }
            batch.bytes.extend(self.files.read(place)?);
            batch.pages.push((at as u32, place.length));
            if batch.bytes.len() >= WRITE_BYTES {
                self.write(&mut batch, disk)?;
            }
        }
        self.write(&mut batch, disk)
    }
}

/// Rows from a key on.
pub(super) struct Forward<'a> {
    all: &'a Pages,
    /// The rows of the first page.
    first: Option<Result<&'a [Row]>>,
    /// Its key, until one behind it is asked for, which mostly none is.
    page: Option<&'a Key>,
    behind: Option<btree_map::Range<'a, Key, u32>>,
    rows: std::slice::Iter<'a, Row>,
}

impl<'a> Forward<'a> {
    fn page(&mut self) -> Option<Result<&'a [Row]>> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        let all = self.all;
        if let Some(page) = self.page.take() {
            self.behind = Some(all.index.range::<[u8], _>((Bound::Excluded(&**page), Bound::Unbounded)));
        }
        self.behind.as_mut()?.next().map(|(_, at)| all.rows(*at).map(Rows::all))
    }
}

impl<'a> Iterator for Forward<'a> {
    type Item = Result<(&'a Key, &'a Entry)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.rows.next() {
                return Some(Ok((&row.key, &row.entry)));
            }
            match self.page()? {
                Ok(rows) => self.rows = rows.iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Rows before a key, the last one first.
pub(super) struct Backward<'a> {
    all: &'a Pages,
    /// Those of the last page.
    first: Option<Result<&'a [Row]>>,
    before: btree_map::Range<'a, Key, u32>,
    rows: std::slice::Iter<'a, Row>,
}

impl<'a> Iterator for Backward<'a> {
    type Item = Result<(&'a Key, &'a Entry)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.rows.next_back() {
                return Some(Ok((&row.key, &row.entry)));
            }
            let next = || self.before.next_back().map(|(_, at)| self.all.rows(*at).map(Rows::all));
            match self.first.take().or_else(next)? {
                Ok(rows) => self.rows = rows.iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
