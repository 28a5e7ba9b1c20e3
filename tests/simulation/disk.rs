//! A disk that loses what was not synced.
//!
//! Enters: the actions of the durable layer, a seed, and when trouble comes. Leaves: what a reader sees, and after a
//! power cut what such a cut may leave. Always holds: synced bytes and names stay; of other names a folder keeps the
//! first few, in their order; other bytes are there, in part, or not at all.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use fuse::durable::{Disk, DiskFile, FolderLock};

use super::Random;

/// What happens to a life, at the action of that number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Trouble {
    None,
    /// The power fails: this action and all behind it do not return.
    Cut(u64),
    /// This action fails, before or after its effect; those behind it do not.
    Error(u64),
    /// From this action on nothing more can be written, until the next life.
    Full(u64),
}

#[derive(Debug, Default, Clone)]
struct Inode {
    durable: Vec<u8>,
    now: Vec<u8>,
}

#[derive(Debug)]
enum Change {
    Set(PathBuf, usize),
    Gone(PathBuf),
}

#[derive(Debug)]
struct State {
    random: Random,
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    /// Changes of names by folder, since it was synced.
    changes: BTreeMap<PathBuf, Vec<Change>>,
    actions: u64,
    trouble: Trouble,
    dead: bool,
}

/// Clones share it.
#[derive(Debug, Clone)]
pub(super) struct SimulatedDisk(Arc<Mutex<State>>);

/// When an action fails.
enum Fate {
    Works,
    FailsBefore(io::Error),
    FailsAfter(io::Error),
}

impl State {
    fn fate(&mut self, writes: bool) -> Fate {
        self.actions += 1;
        let gone = || io::Error::other("the power is gone");
        if self.dead {
            return Fate::FailsBefore(gone());
        }
        let (at, error) = match self.trouble {
            Trouble::Cut(at) => (at, gone()),
            Trouble::Error(at) => (at, io::Error::other("the disk failed")),
            Trouble::Full(at) if self.actions >= at && writes => {
                return Fate::FailsBefore(io::Error::from(io::ErrorKind::StorageFull));
            }
            _ => return Fate::Works,
        };
        if self.actions != at {
            return Fate::Works;
        }
        self.dead = matches!(self.trouble, Trouble::Cut(_));
        if self.random.below(2) == 0 { Fate::FailsBefore(error) } else { Fate::FailsAfter(error) }
    }

    fn act<T>(&mut self, writes: bool, effect: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<T> {
        match self.fate(writes) {
            Fate::Works => effect(self),
            Fate::FailsBefore(error) => Err(error),
            Fate::FailsAfter(error) => effect(self).and(Err(error)),
        }
    }

    fn inode(&self, path: &Path) -> io::Result<usize> {
        self.names.get(path).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn set(&mut self, path: &Path, inode: usize) {
        self.names.insert(path.to_owned(), inode);
        self.changed(path, Change::Set(path.to_owned(), inode));
    }

    fn drop_name(&mut self, path: &Path) {
        self.names.remove(path);
        self.changed(path, Change::Gone(path.to_owned()));
    }

    fn changed(&mut self, path: &Path, change: Change) {
        self.changes.entry(path.parent().expect("a folder").to_owned()).or_default().push(change);
    }
}

fn apply(names: &mut BTreeMap<PathBuf, usize>, change: Change) {
    match change {
        Change::Set(path, inode) => names.insert(path, inode),
        Change::Gone(path) => names.remove(&path),
    };
}

impl SimulatedDisk {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            random: Random::new(seed),
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable: BTreeMap::new(),
            changes: BTreeMap::new(),
            actions: 0,
            trouble: Trouble::None,
            dead: false,
        })))
    }

    /// Begins a life. What the power cut of the one before leaves is decided here.
    pub(super) fn live(&self, trouble: Trouble) {
        let state = &mut *self.0.lock().unwrap();
        if state.dead {
            for (_, changes) in std::mem::take(&mut state.changes) {
                let kept = state.random.below(changes.len() as u64 + 1) as usize;
                changes.into_iter().take(kept).for_each(|change| apply(&mut state.durable, change));
            }
            state.names = state.durable.clone();
            for inode in &mut state.inodes {
                if inode.durable != inode.now {
                    let torn = state.random.below(inode.now.len() as u64 + 1) as usize;
                    inode.now = match state.random.below(3) {
                        0 => inode.durable.clone(),
                        1 => inode.now[..torn].to_vec(),
                        _ => inode.now.clone(),
                    };
                    inode.durable = inode.now.clone();
                }
            }
        }
        (state.actions, state.trouble, state.dead) = (0, trouble, false);
    }

    /// How many actions this life has had.
    pub(super) fn actions(&self) -> u64 {
        self.0.lock().unwrap().actions
    }

    /// The names of all files in a folder and below.
    pub(super) fn names(&self, folder: &str) -> Vec<String> {
        let state = self.0.lock().unwrap();
        let below = state.names.keys().filter_map(|path| path.strip_prefix(folder).ok());
        below.map(|path| path.display().to_string()).collect()
    }

    /// The files that a reader of a folder sees; nothing hidden.
    pub(super) fn visible(&self, folder: &str) -> Vec<(String, Vec<u8>)> {
        let state = self.0.lock().unwrap();
        let below = state.names.iter().filter_map(|(path, inode)| {
            let name = path.strip_prefix(folder).ok()?.to_str()?.to_owned();
            (!name.split('/').any(|part| part.starts_with('.'))).then(|| (name, state.inodes[*inode].now.clone()))
        });
        below.collect()
    }
}

impl Disk for SimulatedDisk {
    fn make_folder(&self, _path: &Path) -> io::Result<()> {
        self.0.lock().unwrap().act(true, |_| Ok(()))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.lock().unwrap().act(true, |state| {
            state.inodes.push(Inode::default());
            let inode = state.inodes.len() - 1;
            state.set(path, inode);
            Ok(Box::new(SimulatedFile { disk: self.clone(), inode }) as _)
        })
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.lock().unwrap().act(false, |state| Ok(state.inodes[state.inode(path)?].now.clone()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.lock().unwrap().act(false, |state| {
            let inode = state.inode(from)?;
            state.drop_name(from);
            state.set(to, inode);
            Ok(())
        })
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<bool> {
        self.0.lock().unwrap().act(false, |state| {
            let inode = state.inode(from)?;
            if state.names.contains_key(to) {
                return Ok(false);
            }
            state.drop_name(from);
            state.set(to, inode);
            Ok(true)
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.lock().unwrap().act(false, |state| {
            state.inode(path)?;
            state.drop_name(path);
            Ok(())
        })
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.0.lock().unwrap().act(false, |state| {
            let below: Vec<PathBuf> = state.names.keys().filter(|name| name.starts_with(path)).cloned().collect();
            below.iter().for_each(|name| state.drop_name(name));
            Ok(())
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
        self.0.lock().unwrap().act(false, |state| {
            let mut found = BTreeMap::new();
            for name in state.names.keys() {
                let Ok(below) = name.strip_prefix(path) else { continue };
                let mut parts = below.iter().map(|part| part.to_string_lossy().into_owned());
                found.insert(parts.next().unwrap_or_default(), parts.next().is_some());
            }
            Ok(found.into_iter().collect())
        })
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.0.lock().unwrap().act(false, |state| {
            let changes = state.changes.remove(path).unwrap_or_default();
            changes.into_iter().for_each(|change| apply(&mut state.durable, change));
            Ok(())
        })
    }

    fn lock(&self, _path: &Path) -> io::Result<Option<FolderLock>> {
        Ok(Some(FolderLock::alone()))
    }
}

struct SimulatedFile {
    disk: SimulatedDisk,
    inode: usize,
}

impl Write for SimulatedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let state = &mut *self.disk.0.lock().unwrap();
        let torn = state.random.below(bytes.len() as u64 + 1) as usize;
        let written = match state.fate(true) {
            Fate::Works => Ok(bytes.len()),
            Fate::FailsBefore(error) | Fate::FailsAfter(error) => Err(error),
        };
        let taken = if written.is_ok() { bytes.len() } else { torn };
        state.inodes[self.inode].now.extend_from_slice(&bytes[..taken]);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for SimulatedFile {
    fn sync(&mut self) -> io::Result<()> {
        let inode = self.inode;
        self.disk.0.lock().unwrap().act(true, |state| {
            state.inodes[inode].durable = state.inodes[inode].now.clone();
            Ok(())
        })
    }
}
