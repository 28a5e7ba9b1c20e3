//! A disk in memory.
//!
//! Enters: the actions of the durable layer. Leaves: the same bytes. Always holds: nothing is ever synced, since there
//! is nothing to lose it.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuse::durable::{Disk, DiskFile, FolderLock};

type Bytes = Arc<Mutex<Vec<u8>>>;

/// Files by their paths.
#[derive(Debug, Default)]
pub(super) struct MemoryDisk(Mutex<BTreeMap<PathBuf, Bytes>>);

struct MemoryFile(Bytes);

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

fn missing() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Write for MemoryFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        held(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for MemoryFile {
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn make_folder(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let bytes = Bytes::default();
        held(&self.0).insert(path.to_owned(), Arc::clone(&bytes));
        Ok(Box::new(MemoryFile(bytes)))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        held(&self.0).get(path).map(|bytes| held(bytes).clone()).ok_or_else(missing)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = held(&self.0);
        let bytes = files.remove(from).ok_or_else(missing)?;
        files.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<bool> {
        if held(&self.0).contains_key(to) {
            return Ok(false);
        }
        self.rename(from, to).map(|()| true)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        held(&self.0).remove(path).map(|_| ()).ok_or_else(missing)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        held(&self.0).retain(|name, _| !name.starts_with(path));
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
        let files = held(&self.0);
        let below = files.keys().filter_map(|name| {
            let mut parts = name.strip_prefix(path).ok()?.iter().map(|part| part.to_string_lossy().into_owned());
            Some((parts.next()?, parts.next().is_some()))
        });
        Ok(below.collect::<BTreeMap<_, _>>().into_iter().collect())
    }

    fn sync_folder(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _path: &Path) -> io::Result<Option<FolderLock>> {
        Ok(Some(FolderLock::alone()))
    }
}
