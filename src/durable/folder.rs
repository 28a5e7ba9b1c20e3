//! A folder of small durable files: logs, checkpoints, spools.
//!
//! Enters: names and bytes. Leaves: files that are whole and synced when a call returns. Always holds: a name is
//! given once by [`Folder::create`]: of two writers the second is told; each durable step passes [`step`], where
//! tests make it fail.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::disk::{Disk, RealDisk};
use super::local;
use crate::error::{Error, Result};

/// A folder on a file system or on an object store.
#[derive(Debug, Clone)]
pub struct Folder(Place);

#[derive(Debug, Clone)]
enum Place {
    Local { disk: Arc<dyn Disk>, root: PathBuf },
    Remote { store: Arc<dyn ObjectStore>, prefix: StorePath },
}

/// Held while a process writes to a folder.
#[derive(Debug)]
pub struct FolderLock {
    /// Where the file system keeps the lock.
    _file: Option<File>,
    held: bool,
}

impl FolderLock {
    pub(super) fn of(file: File) -> Self {
        Self { _file: Some(file), held: true }
    }

    /// Of a disk that no other process can reach.
    pub fn alone() -> Self {
        Self { _file: None, held: true }
    }

    /// False where there are no locks.
    pub fn is_held(&self) -> bool {
        self.held
    }
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
        Self::on(Arc::new(RealDisk), &path)
    }

    /// A folder on that disk; it is made if it is not there.
    pub fn on(disk: Arc<dyn Disk>, path: &Path) -> Result<Self> {
        disk.make_folder(path).map_err(|e| Error::io(path.display(), &e))?;
        Ok(Self(Place::Local { disk, root: path.to_owned() }))
    }

    /// All below a prefix of an object store.
    pub fn remote(store: Arc<dyn ObjectStore>, prefix: StorePath) -> Self {
        Self(Place::Remote { store, prefix })
    }

    /// As errors print it.
    pub fn name(&self) -> String {
        match &self.0 {
            Place::Local { root, .. } => root.display().to_string(),
            Place::Remote { prefix, .. } => format!("/{prefix}"),
        }
    }

    /// The path, if it is local.
    pub fn local_path(&self) -> Option<&Path> {
        match &self.0 {
            Place::Local { root, .. } => Some(root),
            Place::Remote { .. } => None,
        }
    }

    /// Locks the folder for this process; nothing if another one holds it. An object store has no locks: there the
    /// offset log, whose names are given once, turns the second writer away.
    pub fn lock(&self) -> Result<Option<FolderLock>> {
        match &self.0 {
            Place::Local { disk, root } => disk.lock(root).map_err(|e| Error::io(root.display(), &e)),
            Place::Remote { .. } => Ok(Some(FolderLock { _file: None, held: false })),
        }
    }

    /// Writes a new file; false if there is one of that name.
    pub async fn create(&self, name: &str, bytes: Vec<u8>) -> Result<bool> {
        match &self.0 {
            Place::Local { disk, root } => {
                let path = root.join(name);
                write_local(disk.as_ref(), &path, &bytes, false).map_err(|e| Error::io(path.display(), &e))
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
            Place::Local { disk, root } => {
                let path = root.join(name);
                write_local(disk.as_ref(), &path, &bytes, true).map_err(|e| Error::io(path.display(), &e))?;
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
            Place::Local { disk, root } => match disk.read(&root.join(name)) {
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
            Place::Local { disk, root } => match disk.list(&root.join(folder)) {
                Ok(entries) => entries.into_iter().map(|(name, _)| name).collect(),
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

    /// Makes durable which names folders of it have, as far as they are there, and removes what a killed writer had not
    /// named yet. Who has found a file may find one whose name a run before could not sync any more; what is built on
    /// it must not outlive it. The caller holds the lock.
    pub fn settle(&self, folders: &[&str]) -> Result<()> {
        let Place::Local { disk, root } = &self.0 else { return Ok(()) };
        for folder in folders {
            let path = root.join(folder);
            let settle = || -> io::Result<()> {
                for (name, _) in
                    disk.list(&path)?.iter().filter(|(name, is_folder)| !is_folder && name.ends_with(".tmp"))
                {
                    disk.remove(&path.join(name))?;
                }
                disk.sync_folder(&path)?;
                step("state.folder.settled")
            };
            match settle() {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io(path.display(), &error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// The names of all files in it and in its folders.
    pub async fn list_all(&self) -> Result<Vec<String>> {
        match &self.0 {
            Place::Local { disk, root } => {
                let mut names = Vec::new();
                local_files(disk.as_ref(), root, "", &mut names).map_err(|e| Error::io(root.display(), &e))?;
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
            Place::Local { disk, root } => {
                for name in names {
                    let path = root.join(name);
                    let gone = step("state.remove.before").and_then(|()| disk.remove(&path));
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

/// Files that are seen, under names that a power cut may still take from them.
#[derive(Debug, Default)]
pub struct Shown(Vec<(Arc<dyn Disk>, PathBuf)>);

/// The hidden folder for files that are staged.
const STAGE: &str = ".fuse-pipeline";

impl Folder {
    /// Writes and syncs a file that readers of the folder do not see yet. The folder that it will be in is there when
    /// this returns, so that to show it is nothing but a rename.
    pub async fn stage(&self, name: &str, bytes: &[u8]) -> Result<StagedFile> {
        let content = match &self.0 {
            Place::Local { disk, root } => {
                let path = root.join(STAGE).join(format!("{}.tmp", name.replace('/', "|")));
                let target = local::parent(&root.join(name));
                let staged = disk.make_folder(&target).and_then(|()| stage_local(disk.as_ref(), &path, bytes));
                staged.map_err(|e| Error::io(path.display(), &e))?;
                Content::Local(path)
            }
            Place::Remote { .. } => Content::Remote(bytes.to_vec()),
        };
        Ok(StagedFile { folder: self.clone(), name: name.to_owned(), content })
    }

    /// Removes what was staged and never shown.
    pub fn clear_stage(&self) -> Result<()> {
        let Place::Local { disk, root } = &self.0 else { return Ok(()) };
        match disk.remove_folder(&root.join(STAGE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::io(root.display(), &error)),
            _ => Ok(()),
        }
    }
}

impl StagedFile {
    /// Shows the file, in place of an older one of its name, and adds it to `shown`.
    pub async fn show(self, shown: &mut Shown) -> Result<()> {
        match (self.content, &self.folder.0) {
            (Content::Remote(bytes), _) => self.folder.replace(&self.name, bytes).await,
            (Content::Local(staged), Place::Local { disk, root }) => {
                let path = root.join(&self.name);
                let show = || -> io::Result<()> {
                    step("sink.rename.before")?;
                    disk.rename(&staged, &path)?;
                    step("sink.rename.after")
                };
                show().map_err(|e| Error::io(path.display(), &e))?;
                shown.0.push((Arc::clone(disk), local::parent(&path)));
                Ok(())
            }
            (Content::Local(_), Place::Remote { .. }) => Ok(()),
        }
    }
}

impl Shown {
    /// Makes the names durable.
    pub fn settle(&mut self) -> Result<()> {
        self.0.sort_by(|(_, a), (_, b)| a.cmp(b));
        self.0.dedup_by(|(_, a), (_, b)| a == b);
        for (disk, folder) in self.0.drain(..) {
            let sync = || if planted("control.skip_folder_sync") { Ok(()) } else { disk.sync_folder(&folder) };
            let synced = sync().and_then(|()| step("sink.folder.synced"));
            synced.map_err(|e| Error::io(folder.display(), &e))?;
        }
        Ok(())
    }
}

fn stage_local(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    disk.make_folder(&local::parent(path))?;
    step("sink.write.before")?;
    let mut file = disk.create(path)?;
    file.write_all(bytes)?;
    step("sink.sync.before")?;
    if !planted("control.skip_sink_sync") {
        file.sync()?;
    }
    step("sink.sync.after")
}

fn local_files(disk: &dyn Disk, folder: &Path, prefix: &str, names: &mut Vec<String>) -> io::Result<()> {
    for (name, is_folder) in disk.list(folder)? {
        let path = format!("{prefix}{name}");
        if is_folder {
            local_files(disk, &folder.join(name), &format!("{path}/"), names)?;
        } else {
            names.push(path);
        }
    }
    Ok(())
}

fn below(prefix: &StorePath, name: &str) -> StorePath {
    StorePath::from(format!("{prefix}/{name}"))
}

/// Temporary file → fsync → rename → fsync of the folder. False if the name is taken and must not be replaced.
fn write_local(disk: &dyn Disk, path: &Path, bytes: &[u8], replace: bool) -> io::Result<bool> {
    let folder = local::parent(path);
    disk.make_folder(&folder)?;
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    if let Err(error) = write_temporary(disk, &temporary, bytes) {
        // On a full disk, half a file is in the way.
        let _ = disk.remove(&temporary);
        return Err(error);
    }
    step("state.rename.before")?;
    if replace {
        disk.rename(&temporary, path)?;
    } else if !disk.rename_new(&temporary, path)? {
        disk.remove(&temporary)?;
        return Ok(false);
    }
    step("state.rename.after")?;
    disk.sync_folder(&folder)?;
    step("state.sync.after")?;
    Ok(true)
}

fn write_temporary(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    step("state.write.before")?;
    let mut file = disk.create(path)?;
    file.write_all(bytes)?;
    step("state.sync.before")?;
    if planted("control.skip_sync") { Ok(()) } else { file.sync() }
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
