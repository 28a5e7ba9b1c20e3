//! A folder of small durable files: logs, checkpoints, spools.
//!
//! Enters: names and bytes. Leaves: files that are whole and synced when a call returns. Always holds: a name is
//! given once by [`Folder::create`]: of two writers the second is told; each durable step passes [`step`], where
//! tests make it fail.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use rustix::fs::{CWD, RenameFlags};

use super::local;
use crate::error::{Error, Result};

/// A folder on the local file system or on an object store.
#[derive(Debug, Clone)]
pub struct Folder(Place);

#[derive(Debug, Clone)]
enum Place {
    Local(PathBuf),
    Remote { store: Arc<dyn ObjectStore>, prefix: StorePath },
}

/// Held while a process writes to a folder.
#[derive(Debug)]
pub struct FolderLock {
    _file: Option<File>,
}

/// A durable step of that name is about to happen, or has happened. Test builds make it fail or end the process.
pub fn step(name: &'static str) -> io::Result<()> {
    fail::fail_point!(name, |action| {
        if action.as_deref() == Some("exit") {
            std::process::abort();
        }
        Err(io::Error::other(format!("failpoint {name}")))
    });
    let _ = name;
    Ok(())
}

/// True if a test has planted the error of that name in this process.
pub fn planted(name: &'static str) -> bool {
    fail::fail_point!(name, |_| true);
    let _ = name;
    false
}

impl Folder {
    /// A local folder; it is made if it is not there.
    pub fn local(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).map_err(|e| Error::io(path.display(), &e))?;
        local::make_folder(&path).map_err(|e| Error::io(path.display(), &e))?;
        Ok(Self(Place::Local(path)))
    }

    /// All below a prefix of an object store.
    pub fn remote(store: Arc<dyn ObjectStore>, prefix: StorePath) -> Self {
        Self(Place::Remote { store, prefix })
    }

    /// As errors print it.
    pub fn name(&self) -> String {
        match &self.0 {
            Place::Local(path) => path.display().to_string(),
            Place::Remote { prefix, .. } => format!("/{prefix}"),
        }
    }

    /// The path, if it is local.
    pub fn local_path(&self) -> Option<&Path> {
        match &self.0 {
            Place::Local(path) => Some(path),
            Place::Remote { .. } => None,
        }
    }

    /// Locks the folder for this process; nothing if another one holds it. An object store has no locks: there the
    /// offset log, whose names are given once, turns the second writer away.
    pub fn lock(&self) -> Result<Option<FolderLock>> {
        let Place::Local(path) = &self.0 else { return Ok(Some(FolderLock { _file: None })) };
        let open = || OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock"));
        let file = open().map_err(|e| Error::io(path.display(), &e))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(FolderLock { _file: Some(file) })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(e)) => Err(Error::io(path.display(), &e)),
        }
    }

    /// Writes a new file; false if there is one of that name.
    pub async fn create(&self, name: &str, bytes: Vec<u8>) -> Result<bool> {
        match &self.0 {
            Place::Local(root) => {
                let path = root.join(name);
                write_local(&path, &bytes, false).map_err(|e| Error::io(path.display(), &e))
            }
            Place::Remote { store, prefix } => {
                let location = below(prefix, name);
                let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
                let remote = |e| Error::io(&location, &e);
                step("state.put.before").map_err(remote)?;
                let put = store.put_opts(&location, PutPayload::from(bytes.clone()), options).await;
                step("state.put.after").map_err(remote)?;
                match put {
                    Ok(_) => Ok(true),
                    Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                        // A retry after an answer that was lost meets its own file.
                        let there = store.get(&location).await?.bytes().await?;
                        Ok(there == bytes)
                    }
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    /// Writes a file, new or in place of the old one.
    pub async fn replace(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        match &self.0 {
            Place::Local(root) => {
                let path = root.join(name);
                write_local(&path, &bytes, true).map_err(|e| Error::io(path.display(), &e))?;
            }
            Place::Remote { store, prefix } => {
                let location = below(prefix, name);
                let remote = |e| Error::io(&location, &e);
                step("state.put.before").map_err(remote)?;
                store.put(&location, PutPayload::from(bytes)).await?;
                step("state.put.after").map_err(remote)?;
            }
        }
        Ok(())
    }

    /// The bytes of a file; nothing if there is none.
    pub async fn read(&self, name: &str) -> Result<Option<Bytes>> {
        match &self.0 {
            Place::Local(root) => match fs::read(root.join(name)) {
                Ok(bytes) => Ok(Some(Bytes::from(bytes))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(Error::io(root.join(name).display(), &error)),
            },
            Place::Remote { store, prefix } => match store.get(&below(prefix, name)).await {
                Ok(found) => Ok(Some(found.bytes().await?)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// The names of the files in a folder of it, in order.
    pub async fn list(&self, folder: &str) -> Result<Vec<String>> {
        let mut names: Vec<String> = match &self.0 {
            Place::Local(root) => match fs::read_dir(root.join(folder)) {
                Ok(entries) => entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(Error::io(root.join(folder).display(), &error)),
            },
            Place::Remote { store, prefix } => {
                let files: Vec<_> = store.list(Some(&below(prefix, folder))).try_collect().await?;
                files.iter().filter_map(|file| file.location.filename().map(str::to_owned)).collect()
            }
        };
        names.retain(|name| !name.ends_with(".tmp"));
        names.sort();
        Ok(names)
    }

    /// The names of all files in it and in its folders.
    pub async fn list_all(&self) -> Result<Vec<String>> {
        match &self.0 {
            Place::Local(root) => {
                let mut names = Vec::new();
                local_files(root, "", &mut names).map_err(|e| Error::io(root.display(), &e))?;
                Ok(names)
            }
            Place::Remote { store, prefix } => {
                let files: Vec<_> = store.list(Some(prefix)).try_collect().await?;
                let below = |path: &StorePath| {
                    let parts: Vec<String> = path.prefix_match(prefix)?.map(|part| part.as_ref().to_owned()).collect();
                    Some(parts.join("/"))
                };
                Ok(files.iter().filter_map(|file| below(&file.location)).collect())
            }
        }
    }

    /// Removes files; those that are gone already are no error.
    pub async fn remove(&self, names: &[String]) -> Result<()> {
        match &self.0 {
            Place::Local(root) => {
                for name in names {
                    let path = root.join(name);
                    let gone = step("state.remove.before").and_then(|()| fs::remove_file(&path));
                    match gone {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => {
                            return Err(Error::io(path.display(), &error));
                        }
                        _ => step("state.remove.after").map_err(|e| Error::io(path.display(), &e))?,
                    }
                }
                Ok(())
            }
            Place::Remote { store, prefix } => {
                let locations = names.iter().map(|name| Ok(below(prefix, name))).collect::<Vec<_>>();
                let mut gone = store.delete_stream(futures::stream::iter(locations).boxed());
                while let Some(result) = gone.next().await {
                    match result {
                        Err(object_store::Error::NotFound { .. }) | Ok(_) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                Ok(())
            }
        }
    }
}

/// A file that is written and not yet seen.
#[derive(Debug)]
pub struct StagedFile {
    folder: Folder,
    name: String,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// A synced file of another name.
    Local(PathBuf),
    /// An object store shows an object as a whole when it is put.
    Remote(Vec<u8>),
}

/// The hidden folder for files that are staged.
const STAGE: &str = ".fuse-pipeline";

impl Folder {
    /// Writes and syncs a file that readers of the folder do not see yet.
    pub async fn stage(&self, name: &str, bytes: Vec<u8>) -> Result<StagedFile> {
        let content = match &self.0 {
            Place::Local(root) => {
                let path = root.join(STAGE).join(format!("{}.tmp", name.replace('/', "|")));
                stage_local(&path, &bytes).map_err(|e| Error::io(path.display(), &e))?;
                Content::Local(path)
            }
            Place::Remote { .. } => Content::Remote(bytes),
        };
        Ok(StagedFile { folder: self.clone(), name: name.to_owned(), content })
    }

    /// Removes what was staged and never shown.
    pub fn clear_stage(&self) -> Result<()> {
        let Place::Local(root) = &self.0 else { return Ok(()) };
        match fs::remove_dir_all(root.join(STAGE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(root.display(), &error)),
            _ => Ok(()),
        }
    }
}

impl StagedFile {
    /// Shows the file, in place of an older one of its name.
    pub async fn publish(self) -> Result<()> {
        match self.content {
            Content::Remote(bytes) => self.folder.replace(&self.name, bytes).await,
            Content::Local(staged) => {
                let Some(root) = self.folder.local_path() else { return Ok(()) };
                let path = root.join(&self.name);
                let show = || -> io::Result<()> {
                    let folder = local::parent(&path);
                    local::make_folder(&folder)?;
                    step("sink.rename.before")?;
                    fs::rename(&staged, &path)?;
                    step("sink.rename.after")?;
                    local::sync_folder(&folder)?;
                    step("sink.folder.synced")
                };
                show().map_err(|e| Error::io(path.display(), &e))
            }
        }
    }
}

fn stage_local(path: &Path, bytes: &[u8]) -> io::Result<()> {
    local::make_folder(&local::parent(path))?;
    step("sink.write.before")?;
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    step("sink.sync.before")?;
    file.sync_all()?;
    step("sink.sync.after")
}

fn local_files(folder: &Path, prefix: &str, names: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            local_files(&entry.path(), &format!("{name}/"), names)?;
        } else {
            names.push(name);
        }
    }
    Ok(())
}

fn below(prefix: &StorePath, name: &str) -> StorePath {
    StorePath::from(format!("{prefix}/{name}"))
}

/// Temporary file → fsync → rename → fsync of the folder. False if the name is taken and must not be replaced.
fn write_local(path: &Path, bytes: &[u8], replace: bool) -> io::Result<bool> {
    let folder = local::parent(path);
    local::make_folder(&folder)?;
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    step("state.write.before")?;
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    step("state.sync.before")?;
    if !planted("control.skip_sync") {
        file.sync_all()?;
    }
    step("state.rename.before")?;
    let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
    match rustix::fs::renameat_with(CWD, &temporary, CWD, path, flags) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => {
            fs::remove_file(&temporary)?;
            return Ok(false);
        }
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if !replace => {
            // A file system without exclusive rename has links.
            let linked = fs::hard_link(&temporary, path);
            fs::remove_file(&temporary)?;
            match linked {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
                other => other?,
            }
        }
        Err(error) => return Err(error.into()),
    }
    step("state.rename.after")?;
    local::sync_folder(&folder)?;
    step("state.sync.after")?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_given_once() {
        let root = tempfile::tempdir().expect("folder");
        let folder = Folder::local(root.path()).expect("opens");
        assert!(folder.create("offsets/1.json", b"a".to_vec()).await.expect("creates"));
        assert!(!folder.create("offsets/1.json", b"b".to_vec()).await.expect("is told"));
        assert_eq!(folder.read("offsets/1.json").await.expect("reads").as_deref(), Some(&b"a"[..]));
        folder.replace("offsets/1.json", b"c".to_vec()).await.expect("replaces");
        assert_eq!(folder.read("offsets/1.json").await.expect("reads").as_deref(), Some(&b"c"[..]));
        assert_eq!(folder.list("offsets").await.expect("lists"), ["1.json"]);
        folder.remove(&["offsets/1.json".to_owned(), "none".to_owned()]).await.expect("removes");
        assert!(folder.list("offsets").await.expect("lists").is_empty());
    }

    #[tokio::test]
    async fn a_second_process_is_turned_away() {
        let root = tempfile::tempdir().expect("folder");
        let folder = Folder::local(root.path()).expect("opens");
        let held = folder.lock().expect("locks");
        assert!(held.is_some());
        assert!(folder.lock().expect("asks").is_none());
        drop(held);
        assert!(folder.lock().expect("asks").is_some());
    }
}
