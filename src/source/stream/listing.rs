//! What is in a folder, again and again.
//!
//! Enters: a location, and which files are done. Leaves: the files that may have something new. Always holds: in a
//! local folder, a file that is done is not looked at, and a folder that has not changed is not listed; every file
//! that may still grow is looked at in time.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use object_store::path::Path as StorePath;
use object_store::{ObjectMeta, ObjectStore};

use crate::config::QUIET_MICROS;
use crate::error::{Error, Result};
use crate::source::Location;

/// Files that are looked at in each listing although they have been quiet for long.
const QUIET_FILES: usize = 1_000;
/// For how long a file has not changed when it is looked at less often.
const LONG_QUIET_MICROS: i64 = 30 * QUIET_MICROS;

/// What is known of the folders and files of one location.
#[derive(Debug, Default)]
pub(super) struct Listing {
    folders: HashMap<PathBuf, Folder>,
    /// Counts the listings.
    turn: usize,
}

#[derive(Debug, Default)]
struct Folder {
    changed_micros: i64,
    /// When it was listed; a change soon before or after may have the same time.
    listed_micros: i64,
    /// All that was in it: a name is looked into once.
    names: HashSet<OsString>,
    folders: Vec<PathBuf>,
    /// Those that are not done, with the time of their last change, if they were looked at.
    files: Vec<(PathBuf, StorePath, Option<i64>)>,
}

impl Listing {
    /// The files that may have something new, in the order of their names. `done`: nothing comes behind it any more.
    pub(super) async fn files(
        &mut self,
        location: &Location,
        store: &dyn ObjectStore,
        done: &(dyn Fn(&StorePath) -> bool + Sync),
        now_micros: i64,
    ) -> Result<Vec<ObjectMeta>> {
        let root = location.local_path().map(|_| Path::new("/").join(location.url.prefix().as_ref()));
        // What has a `%` in its name is named otherwise in the store.
        let Some(root) = root.filter(|root| root.is_dir() && !root.as_os_str().as_encoded_bytes().contains(&b'%'))
        else {
            let mut files = location.files_in(store).await?;
            files.retain(|file| !done(&file.location));
            return Ok(files);
        };
        let mut found = Vec::new();
        self.turn += 1;
        let mut todo = vec![root];
        while let Some(path) = todo.pop() {
            let folder = self.folders.entry(path.clone()).or_default();
            if let Err(error) = folder.list(&path, location, done, now_micros) {
                if error.kind() == std::io::ErrorKind::NotFound {
                    self.folders.remove(&path);
                    continue;
                }
                return Err(Error::io(path.display(), &error));
            }
            todo.extend(folder.folders.iter().cloned());
            folder.look(self.turn, done, now_micros, &mut found);
        }
        found.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(found)
    }
}

impl Folder {
    /// Reads the names that are in it and are new, if it has changed.
    fn list(
        &mut self,
        path: &Path,
        location: &Location,
        done: &dyn Fn(&StorePath) -> bool,
        now_micros: i64,
    ) -> std::io::Result<()> {
        let changed_micros = micros(&fs::metadata(path)?);
        let settled = self.listed_micros - changed_micros > QUIET_MICROS;
        if settled && changed_micros == self.changed_micros {
            return Ok(());
        }
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name();
            if self.names.contains(&name) {
                continue;
            }
            self.names.insert(name);
            let path = entry.path();
            let kind = entry.file_type()?;
            let is_folder = if kind.is_symlink() { path.is_dir() } else { kind.is_dir() };
            // A name that the store cannot have is no data.
            let Ok(place) = StorePath::from_absolute_path(&path) else { continue };
            if is_folder {
                self.folders.push(path);
            } else if location.holds(&place) && !done(&place) {
                self.files.push((path, place, None));
            }
        }
        (self.changed_micros, self.listed_micros) = (changed_micros, now_micros);
        Ok(())
    }

    /// Looks at the files: those that change at each turn, the others a part at a turn.
    fn look(&mut self, turn: usize, done: &dyn Fn(&StorePath) -> bool, now_micros: i64, found: &mut Vec<ObjectMeta>) {
        self.files.retain(|(_, place, _)| !done(place));
        let parts = self.files.len().div_ceil(QUIET_FILES).max(1);
        let mut gone = false;
        for (at, (path, place, changed)) in self.files.iter_mut().enumerate() {
            let quiet = changed.is_some_and(|changed| now_micros - changed > LONG_QUIET_MICROS);
            if quiet && at % parts != turn % parts {
                continue;
            }
            let Some(metadata) = fs::metadata(&*path).ok().filter(Metadata::is_file) else {
                // If it comes again, it is a new one.
                path.file_name().map(|name| self.names.remove(name));
                *path = PathBuf::new();
                gone = true;
                continue;
            };
            *changed = Some(micros(&metadata));
            found.push(ObjectMeta {
                location: place.clone(),
                last_modified: chrono::DateTime::from_timestamp_micros(micros(&metadata)).unwrap_or_default(),
                size: metadata.len(),
                e_tag: None,
                version: None,
            });
        }
        if gone {
            self.files.retain(|(path, ..)| !path.as_os_str().is_empty());
        }
    }
}

fn micros(metadata: &Metadata) -> i64 {
    metadata.mtime() * 1_000_000 + metadata.mtime_nsec() / 1000
}

#[cfg(test)]
mod tests {
    use object_store::local::LocalFileSystem;

    use super::*;

    #[tokio::test]
    async fn done_files_are_not_looked_at_and_new_ones_are_found() {
        let root = tempfile::tempdir().expect("a folder");
        let text = format!("{}/", root.path().display());
        let put = |name: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            fs::write(path, "x").expect("writes");
        };
        ["a.json", "b.json", "_hidden.json", "day=1/c.json"].into_iter().for_each(put);
        let location = Location::parse(&text).expect("a location");
        let store = LocalFileSystem::new();
        let mut listing = Listing::default();
        let done = std::sync::Mutex::new(HashSet::new());
        let now = crate::clock::now_micros();
        let mut names = async |now| -> Vec<String> {
            let is_done = |path: &StorePath| done.lock().expect("no panic").contains(&path.to_string());
            let files = listing.files(&location, &store, &is_done, now).await.expect("lists");
            files.iter().filter_map(|file| file.location.filename().map(str::to_owned)).collect()
        };
        assert_eq!(names(now).await, ["a.json", "b.json", "c.json"]);
        let gone = StorePath::from_absolute_path(root.path().join("a.json")).expect("a path");
        done.lock().expect("no panic").insert(gone.to_string());
        assert_eq!(names(now).await, ["b.json", "c.json"]);
        put("day=1/d.json");
        assert_eq!(names(now).await, ["b.json", "c.json", "d.json"]);
        // One that is gone and comes again is found.
        fs::remove_file(root.path().join("b.json")).expect("removes");
        assert_eq!(names(now).await, ["c.json", "d.json"]);
        put("b.json");
        assert_eq!(names(now).await, ["b.json", "c.json", "d.json"]);
        // Long after, the folders are not listed again, and the files are looked at.
        assert_eq!(names(now + 100 * LONG_QUIET_MICROS).await, ["b.json", "c.json", "d.json"]);
        put("e.json");
        assert!(names(now + 101 * LONG_QUIET_MICROS).await.contains(&"e.json".to_owned()));
    }

    #[tokio::test]
    async fn files_that_are_long_quiet_take_turns() {
        let root = tempfile::tempdir().expect("a folder");
        let count = QUIET_FILES + 500;
        (0..count).for_each(|at| fs::write(root.path().join(format!("{at}.json")), "x").expect("writes"));
        let location = Location::parse(&format!("{}/", root.path().display())).expect("a location");
        let store = LocalFileSystem::new();
        let mut listing = Listing::default();
        let later = crate::clock::now_micros() + 2 * LONG_QUIET_MICROS;
        let mut seen = HashSet::new();
        for turn in 0..3 {
            let files = listing.files(&location, &store, &|_| false, later).await.expect("lists");
            if turn > 0 {
                assert!(files.len() <= QUIET_FILES, "{}", files.len());
                seen.extend(files.into_iter().map(|file| file.location));
            }
        }
        assert_eq!(seen.len(), count);
    }
}
