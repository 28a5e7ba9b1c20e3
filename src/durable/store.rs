//! An object store whose writes wait for the commit of the statement.
//!
//! Enters: any object store. Leaves: the same to read; to write, one that stages. Always holds: a
//! write that has returned is durable or staged, and no reader sees it before [`Writes::commit`].

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult, UploadPart,
};

use super::Writes;
use super::local::STAGE_PREFIX;
use crate::error::{Error, Result};

/// What stands for a `=` in the value of a partition's folder until the folder is made, where it is `%3D`. (An
/// object store's path would escape the `%` again. No path has this character of its own.)
pub const ESCAPED_EQUALS: char = '\0';

fn with_equals(location: &Path) -> StoreResult<Path> {
    if !location.as_ref().contains("%00") {
        return Ok(location.clone());
    }
    Ok(Path::parse(location.as_ref().replace("%00", "%3D"))?)
}

/// An object store whose writes wait for [`Writes::commit`].
#[derive(Debug)]
pub struct StagedStore {
    inner: Arc<dyn ObjectStore>,
    local: Option<Arc<LocalFileSystem>>,
    writes: Writes,
}

impl StagedStore {
    /// The local file system.
    pub fn local(writes: Writes) -> Self {
        let local = Arc::new(LocalFileSystem::new());
        Self { inner: Arc::clone(&local) as Arc<dyn ObjectStore>, local: Some(local), writes }
    }

    /// A remote store.
    pub fn remote(inner: Arc<dyn ObjectStore>, writes: Writes) -> Self {
        Self { inner, local: None, writes }
    }

    /// A new staged file for `location` on the local file system.
    fn create_local(&self, local: &LocalFileSystem, location: &Path) -> StoreResult<(PathBuf, File)> {
        let target = local.path_to_filesystem(location)?;
        let create = || -> io::Result<(PathBuf, File)> {
            match fs::metadata(&target) {
                Ok(old) if old.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
                Ok(old) if !old.is_file() => return Err(io::Error::other("is a pipe or device; use -o")),
                _ => {}
            }
            let staged = self.writes.stage(&target)?;
            let file = File::create_new(&staged)?;
            Ok((target.clone(), file))
        };
        create().map_err(|e| failed(&self.writes, &target, &e))
    }
}

/// The error of a local write, also remembered as the statement's.
fn failed(writes: &Writes, path: &std::path::Path, error: &io::Error) -> object_store::Error {
    let error = Error::io(path.display(), error);
    writes.fail(error.clone());
    object_store::Error::Generic { store: "file", source: Box::new(error) }
}

impl fmt::Display for StagedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// True for what another statement has staged and not committed.
fn hidden(location: &Path) -> bool {
    location.parts().any(|part| part.as_ref().starts_with(STAGE_PREFIX))
}

#[async_trait]
impl ObjectStore for StagedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> StoreResult<PutResult> {
        let location = &with_equals(location)?;
        let Some(local) = &self.local else {
            let (store, location) = (Arc::clone(&self.inner), location.clone());
            self.writes.push_remote(Pending::Put { store, location, payload, opts });
            return Ok(PutResult { e_tag: None, version: None });
        };
        if opts.mode != PutMode::Overwrite && fs::exists(local.path_to_filesystem(location)?).unwrap_or(true) {
            let source = "the file is there already".into();
            return Err(object_store::Error::AlreadyExists { path: location.to_string(), source });
        }
        let (target, file) = self.create_local(local, location)?;
        let write = move || -> io::Result<()> {
            let mut offset = 0;
            for bytes in &payload {
                file.write_all_at(bytes, offset)?;
                offset += bytes.len() as u64;
            }
            file.sync_all()
        };
        blocking(write).await.map_err(|e| failed(&self.writes, &target, &e))?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        let location = &with_equals(location)?;
        match &self.local {
            Some(local) => {
                let (target, file) = self.create_local(local, location)?;
                Ok(Box::new(LocalUpload { target, file: Arc::new(file), offset: 0, writes: self.writes.clone() }))
            }
            None => {
                let upload = self.inner.put_multipart_opts(location, opts).await?;
                Ok(Box::new(RemoteUpload { upload: Some(upload), writes: self.writes.clone() }))
            }
        }
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[std::ops::Range<u64>]) -> StoreResult<Vec<bytes::Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        let list = self.inner.list(prefix);
        list.filter(|meta| {
            let seen = !meta.as_ref().is_ok_and(|meta| hidden(&meta.location));
            futures::future::ready(seen)
        })
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        let mut list = self.inner.list_with_delimiter(prefix).await?;
        list.common_prefixes.retain(|path| !hidden(path));
        Ok(list)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Runs I/O away from the threads that compute.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|join| Err(io::Error::other(join)))
}

/// Writes the parts of one staged local file, each at its offset.
#[derive(Debug)]
struct LocalUpload {
    target: PathBuf,
    file: Arc<File>,
    offset: u64,
    writes: Writes,
}

#[async_trait]
impl MultipartUpload for LocalUpload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        let (file, target, mut offset) = (Arc::clone(&self.file), self.target.clone(), self.offset);
        let writes = self.writes.clone();
        self.offset += payload.content_length() as u64;
        Box::pin(async move {
            let write = move || {
                payload.iter().try_for_each(|bytes| {
                    let result = file.write_all_at(bytes, offset);
                    offset += bytes.len() as u64;
                    result
                })
            };
            blocking(write).await.map_err(|e| failed(&writes, &target, &e))
        })
    }

    async fn complete(&mut self) -> StoreResult<PutResult> {
        let file = Arc::clone(&self.file);
        blocking(move || file.sync_all()).await.map_err(|e| failed(&self.writes, &self.target, &e))?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> StoreResult<()> {
        // The stage is removed as a whole.
        Ok(())
    }
}

/// Sends parts at once, but leaves the completion to the commit.
#[derive(Debug)]
struct RemoteUpload {
    upload: Option<Box<dyn MultipartUpload>>,
    writes: Writes,
}

#[async_trait]
impl MultipartUpload for RemoteUpload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        match &mut self.upload {
            Some(upload) => upload.put_part(payload),
            None => Box::pin(async { Err(done()) }),
        }
    }

    async fn complete(&mut self) -> StoreResult<PutResult> {
        let upload = self.upload.take().ok_or_else(done)?;
        self.writes.push_remote(Pending::Upload(upload));
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> StoreResult<()> {
        match self.upload.take() {
            Some(mut upload) => upload.abort().await,
            None => Ok(()),
        }
    }
}

fn done() -> object_store::Error {
    object_store::Error::Generic { store: "staged", source: "this upload has been completed".into() }
}

/// A write to an object store that waits for the commit.
pub(super) enum Pending {
    /// A small object, held in memory.
    Put { store: Arc<dyn ObjectStore>, location: Path, payload: PutPayload, opts: PutOptions },
    /// A large one, its parts sent.
    Upload(Box<dyn MultipartUpload>),
}

impl Pending {
    pub(super) async fn finish(self) -> Result<()> {
        match self {
            Pending::Put { store, location, payload, opts } => {
                store.put_opts(&location, payload, opts).await?;
            }
            Pending::Upload(mut upload) => {
                upload.complete().await?;
            }
        }
        Ok(())
    }

    pub(super) async fn abort(self) {
        if let Pending::Upload(mut upload) = self {
            // Best effort: stores remove parts of uploads that were never completed by their own rules.
            let _ = upload.abort().await;
        }
    }
}
