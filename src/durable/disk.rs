//! The actions of a file system that durability rests on.
//!
//! Enters: paths and bytes. Leaves: what a file system makes of them. Always holds: nothing here combines two actions
//! into a promise; [`super::Folder`] does, over the real disk and, in tests, over one that loses what was not synced.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags};

use super::FolderLock;
use super::local;

/// A file system.
pub trait Disk: fmt::Debug + Send + Sync {
    /// A folder and those above it, each durable.
    fn make_folder(&self, path: &Path) -> io::Result<()>;

    /// A new file to write to, or an old one emptied.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// All bytes of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Gives a file another name, in place of what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Gives a file a name that nothing has; false if something does.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<bool>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Removes a folder and all in it.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;

    /// Names in a folder; true for those of folders.
    fn list(&self, path: &Path) -> io::Result<Vec<(String, bool)>>;

    /// Makes durable which names a folder has.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;

    /// Locks a folder for this process; nothing if another one holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<FolderLock>>;
}

/// A file that is written.
pub trait DiskFile: Write + Send {
    /// Makes its bytes durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// The file system of this machine.
#[derive(Debug)]
pub(super) struct RealDisk;

impl DiskFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Disk for RealDisk {
    fn make_folder(&self, path: &Path) -> io::Result<()> {
        local::make_folder(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::create(path)?))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<bool> {
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::EXIST) => Ok(false),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                // A file system without exclusive rename has links.
                match fs::hard_link(from, to) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
                    other => other?,
                }
                fs::remove_file(from).map(|()| true)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(String, bool)>> {
        let entry = |entry: io::Result<fs::DirEntry>| {
            let entry = entry?;
            Ok((entry.file_name().to_string_lossy().into_owned(), entry.file_type()?.is_dir()))
        };
        fs::read_dir(path)?.map(entry).collect()
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        local::sync_folder(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<FolderLock>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(FolderLock::of(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}
