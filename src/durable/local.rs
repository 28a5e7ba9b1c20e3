//! Staging on a local file system.
//!
//! Enters: target paths. Leaves: staged paths, then files and folders under their names, synced.
//! Always holds: a stage is a hidden folder on the target's file system, locked while its owner lives.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, RenameFlags};

use crate::error::{Error, Result};

/// How a stage's name begins. Listings leave such names out.
pub const STAGE_PREFIX: &str = ".fuse-tmp-";

/// A hidden folder for files that are not to be seen yet. Dropped, it is removed.
#[derive(Debug)]
pub(super) struct Stage {
    base: PathBuf,
    path: PathBuf,
    /// Holds the lock that tells a living writer from a killed one.
    _lock: File,
}

impl Stage {
    /// A new stage in the folder `base`; stages that killed writers left there are removed.
    pub(super) fn new(base: &Path) -> io::Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        remove_abandoned(base);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("{STAGE_PREFIX}{}-{number}", std::process::id()));
        fs::create_dir(&path)?;
        let lock = File::open(&path)?;
        lock.try_lock().map_err(|e| io::Error::other(e.to_string()))?;
        Ok(Self { base: base.to_owned(), path, _lock: lock })
    }

    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    /// Where to write what shall be called `relative`; makes its folder.
    pub(super) fn path_for(&self, relative: &Path) -> io::Result<PathBuf> {
        let mut path: OsString = self.path.join(relative).into_os_string();
        path.push(".tmp");
        let path = PathBuf::from(path);
        fs::create_dir_all(parent(&path))?;
        Ok(path)
    }

    /// The stage takes the place of `folder`, which may be absent, empty or full.
    pub(super) fn become_folder(self, folder: &Path) -> io::Result<()> {
        finish_tree(&self.path)?;
        if fs::symlink_metadata(folder).is_ok() {
            exchange(&self.path, folder)?;
            // What is now under the stage's name is the old folder; dropping the stage removes it.
        } else {
            fs::rename(&self.path, folder)?;
        }
        sync_folder(&parent(folder))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Best effort: what stays behind is hidden, and the next writer removes it.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the stages in `base` that nobody holds a lock on.
fn remove_abandoned(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(STAGE_PREFIX)
            && let Ok(folder) = File::open(entry.path())
            && folder.try_lock().is_ok()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Takes `.tmp` off all files of a stage and syncs its folders.
fn finish_tree(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            finish_tree(&path)?;
        } else if path.extension().is_some_and(|ending| ending == "tmp") {
            fs::rename(&path, path.with_extension(""))?;
        }
    }
    sync_folder(folder)
}

/// Swaps two folders in one step where the file system can, else in two.
fn exchange(new: &Path, old: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            let aside = new.with_extension("old");
            fs::rename(old, &aside)?;
            fs::rename(new, old)?;
            fs::rename(&aside, new)
        }
        Err(error) => Err(error.into()),
    }
}

/// Gives staged, synced files their names and syncs the folders that changed.
pub(super) fn publish(files: &[(PathBuf, PathBuf)], shown: impl Fn()) -> Result<()> {
    let mut folders = Vec::new();
    for (staged, target) in files {
        let folder = parent(target);
        let step = || -> io::Result<()> {
            make_folder(&folder)?;
            if let Ok(old) = fs::metadata(target) {
                fs::set_permissions(staged, old.permissions())?;
            }
            fs::rename(staged, target)
        };
        step().map_err(|e| Error::io(target.display(), &e))?;
        shown();
        folders.push(folder);
    }
    folders.sort();
    folders.dedup();
    folders.iter().try_for_each(|folder| sync_folder(folder).map_err(|e| Error::io(folder.display(), &e)))
}

/// Makes a folder and those above it, each synced into the one above.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = parent(folder);
    make_folder(&above)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_folder(&above),
    }
}

pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The folder that `path` is in.
pub(super) fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The nearest folder at or above `path`'s that exists.
pub(super) fn existing_ancestor(path: &Path) -> PathBuf {
    let mut folder = parent(path);
    while !folder.is_dir() {
        folder = parent(&folder);
    }
    folder
}

/// An absolute path; a link is followed, so that what it points to is replaced and not the link.
pub(super) fn resolve(path: &Path) -> io::Result<PathBuf> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_symlink() => fs::canonicalize(path),
        _ => Ok(std::path::absolute(path)?.components().collect()),
    }
}
