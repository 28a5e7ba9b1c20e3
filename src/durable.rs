//! Writes that are seen whole or not at all, and stay once seen.
//!
//! Enters: the bytes of one statement's files, through DataFusion's object stores or [`OutputFile`].
//! Leaves: after [`Writes::commit`], all of them under their names; before it, and after a failure or
//! a kill, none. Always holds: a local file goes temp file → fsync → rename → fsync of the folder; an
//! object store's upload is completed at commit.
//!
//! Where it is staged: a hidden folder `.fuse-tmp-…` on the same file system, next to the target, its
//! files ending in `.tmp`, held by a file lock while the writer lives. What a killed writer left has no
//! lock, and the next writer to the same folder removes it.
//! (object_store's own local store neither syncs nor waits for the other files of the statement.)

mod disk;
mod folder;
mod local;
mod store;
mod synced;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use disk::{Disk, DiskFile};
pub use folder::{Folder, FolderLock, Shown, StagedFile, planted, step};
pub use store::{ESCAPED_EQUALS, StagedStore};
pub use synced::SyncedStore;

use crate::error::{Error, Result};
pub use local::STAGE_PREFIX;
use local::Stage;

/// The writes of one statement at a time. Clones share them.
#[derive(Clone, Default)]
pub struct Writes(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The folder that is built as a whole, and the stage that becomes it.
    folder: Option<(PathBuf, Stage)>,
    /// Stages of files that are renamed one by one.
    stages: Vec<Stage>,
    /// Staged file and where it goes.
    files: Vec<(PathBuf, PathBuf)>,
    remote: Vec<store::Pending>,
    /// The first write that failed. DataFusion's writers may hide it.
    failure: Option<Error>,
    /// Files that a commit has shown, and how many it is to show.
    committing: Option<(usize, usize)>,
}

impl fmt::Debug for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Writes({} files, {} uploads)", self.state().files.len(), self.state().remote.len())
    }
}

impl Writes {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now to the commit, what is written below the local `folder` makes a new folder, which
    /// takes the place of the old one, if there is one, in a single step.
    pub fn begin_folder(&self, folder: &Path) -> Result<()> {
        let folder = local::resolve(folder).map_err(|e| Error::io(folder.display(), &e))?;
        let parent = local::parent(&folder);
        let stage = fs::create_dir_all(&parent).and_then(|()| Stage::new(&parent));
        let stage = stage.map_err(|e| Error::io(folder.display(), &e))?;
        self.state().folder = Some((folder, stage));
        Ok(())
    }

    /// The staged path for what shall become `target`. Its folder exists.
    fn stage(&self, target: &Path) -> io::Result<PathBuf> {
        let target = local::resolve(target)?;
        let mut state = self.state();
        if let Some((folder, stage)) = &state.folder
            && let Ok(relative) = target.strip_prefix(folder)
        {
            return stage.path_for(relative);
        }
        let base = local::existing_ancestor(&target);
        let relative = target.strip_prefix(&base).unwrap_or(&target).to_path_buf();
        let at = match state.stages.iter().position(|stage| stage.base() == base) {
            Some(at) => at,
            None => {
                let stage = Stage::new(&base)?;
                state.stages.push(stage);
                state.stages.len() - 1
            }
        };
        let staged = state.stages[at].path_for(&relative)?;
        state.files.push((staged.clone(), target));
        Ok(staged)
    }

    /// What the first failed write of the statement said.
    pub fn failure(&self) -> Option<Error> {
        self.state().failure.clone()
    }

    /// While a commit runs: the files that it has shown, and how many it is to show.
    pub fn committing(&self) -> Option<(usize, usize)> {
        self.state().committing
    }

    fn fail(&self, error: Error) {
        self.state().failure.get_or_insert(error);
    }

    fn push_remote(&self, pending: store::Pending) {
        self.state().remote.push(pending);
    }

    /// Shows everything that was staged. On an error, what was not yet shown is removed.
    pub async fn commit(&self) -> Result<()> {
        let state = std::mem::take(&mut *self.state());
        let all = usize::from(state.folder.is_some()) + state.files.len() + state.remote.len();
        self.state().committing = Some((0, all));
        let shown = self.show(state).await;
        self.state().committing = None;
        shown
    }

    async fn show(&self, state: State) -> Result<()> {
        let count = || {
            if let Some((done, _)) = &mut self.state().committing {
                *done += 1;
            }
        };
        if let Some((folder, stage)) = state.folder {
            stage.become_folder(&folder).map_err(|e| Error::io(folder.display(), &e))?;
            count();
        }
        local::publish(&state.files, count)?;
        drop(state.stages);
        for pending in state.remote {
            pending.finish().await?;
            count();
        }
        Ok(())
    }

    /// Removes everything that was staged.
    pub async fn abort(&self) {
        let state = std::mem::take(&mut *self.state());
        drop((state.folder, state.stages));
        for pending in state.remote {
            pending.abort().await;
        }
    }
}

/// A local file that is written in one atomic step; a device or pipe is written directly.
#[derive(Debug)]
pub struct OutputFile {
    path: PathBuf,
    file: File,
    writes: Option<Writes>,
}

impl OutputFile {
    /// Opens a staged file that becomes `path` at [`OutputFile::commit`].
    pub fn create(path: &Path) -> Result<Self> {
        let open = || -> io::Result<Self> {
            if fs::metadata(path).is_ok_and(|old| !old.is_file() && !old.is_dir()) {
                let file = File::options().write(true).open(path)?;
                return Ok(Self { path: path.to_owned(), file, writes: None });
            }
            let writes = Writes::default();
            let file = File::create_new(writes.stage(path)?)?;
            Ok(Self { path: path.to_owned(), file, writes: Some(writes) })
        };
        open().map_err(|e| Error::io(path.display(), &e))
    }

    /// A second handle to write through.
    pub fn handle(&self) -> Result<File> {
        self.file.try_clone().map_err(|e| Error::io(self.path.display(), &e))
    }

    /// Syncs the file and gives it its name.
    pub async fn commit(mut self) -> Result<()> {
        self.file.flush().map_err(|e| Error::io(self.path.display(), &e))?;
        match &self.writes {
            Some(writes) => {
                self.file.sync_all().map_err(|e| Error::io(self.path.display(), &e))?;
                writes.commit().await
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .expect("folder")
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_file_shows_at_commit_and_never_before() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("new/a.txt");
        let mut output = OutputFile::create(&path).expect("create");
        output.file.write_all(b"hello").expect("write");
        assert!(!path.exists());
        output.commit().await.expect("commit");
        assert_eq!(fs::read(&path).expect("read"), b"hello");
        assert_eq!(names(folder.path()), ["new"]);
    }

    #[tokio::test]
    async fn a_dropped_output_leaves_the_old_file() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("a.txt");
        fs::write(&path, "old").expect("write");
        let mut output = OutputFile::create(&path).expect("create");
        output.file.write_all(b"new").expect("write");
        drop(output);
        assert_eq!(fs::read(&path).expect("read"), b"old");
        assert_eq!(names(folder.path()), ["a.txt"]);
    }

    #[tokio::test]
    async fn a_folder_is_exchanged_in_one_step() {
        let root = tempfile::tempdir().expect("folder");
        let folder = root.path().join("out");
        fs::create_dir(&folder).expect("mkdir");
        fs::write(folder.join("old.parquet"), "old").expect("write");
        let writes = Writes::default();
        writes.begin_folder(&folder).expect("begin");
        let staged = writes.stage(&folder.join("k=1/new.parquet")).expect("stage");
        fs::write(staged, "new").expect("write");
        assert_eq!(names(&folder), ["old.parquet"]);
        writes.commit().await.expect("commit");
        assert_eq!(names(&folder), ["k=1"]);
        assert_eq!(names(&folder.join("k=1")), ["new.parquet"]);
        assert_eq!(names(root.path()), ["out"]);
    }

    #[tokio::test]
    async fn what_a_killed_writer_left_is_removed_by_the_next() {
        let folder = tempfile::tempdir().expect("folder");
        fs::create_dir(folder.path().join(".fuse-tmp-1-1")).expect("mkdir");
        fs::write(folder.path().join(".fuse-tmp-1-1/a.parquet.tmp"), "half").expect("write");
        let living = OutputFile::create(&folder.path().join("living.txt")).expect("create");
        let output = OutputFile::create(&folder.path().join("b.txt")).expect("create");
        output.commit().await.expect("commit");
        living.commit().await.expect("the living writer keeps its stage");
        assert_eq!(names(folder.path()), ["b.txt", "living.txt"]);
    }
}
