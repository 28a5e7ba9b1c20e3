//! An object store whose writes are durable when they return.
//!
//! Enters: an object store: the local file system or a remote one. Leaves: the same, for libraries that write by
//! themselves. Always holds: what is put under a name that is given once is there whole and synced, or not at all; a
//! retry that meets what it has written itself, since only the answer was lost, has succeeded.

use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult, UploadPart,
};

use super::Folder;
use super::local::{parent, sync_folder};
use crate::error::{Error, Result};

/// An object store whose writes are durable when they return.
#[derive(Debug)]
pub struct SyncedStore {
    inner: Arc<dyn ObjectStore>,
    local: Option<LocalFileSystem>,
}

impl SyncedStore {
    /// The local file system.
    pub fn local() -> Self {
        Self { inner: Arc::new(LocalFileSystem::new()), local: Some(LocalFileSystem::new()) }
    }

    /// A remote store.
    pub fn remote(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, local: None }
    }

    /// The folder of a file, and the file's name in it.
    fn folder(&self, location: &Path) -> Result<(Folder, String)> {
        let name = location.filename().unwrap_or_default().to_owned();
        match &self.local {
            Some(local) => Ok((Folder::local(&parent(&local.path_to_filesystem(location)?))?, name)),
            None => {
                let mut parts: Vec<_> = location.parts().collect();
                parts.pop();
                Ok((Folder::remote(Arc::clone(&self.inner), Path::from_iter(parts)), name))
            }
        }
    }
}

fn generic(error: Error) -> object_store::Error {
    object_store::Error::Generic { store: "synced", source: Box::new(error) }
}

impl fmt::Display for SyncedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for SyncedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> StoreResult<PutResult> {
        let bytes = || payload.iter().flat_map(|part| part.iter().copied()).collect::<Vec<u8>>();
        let done = PutResult { e_tag: None, version: None };
        match opts.mode {
            PutMode::Create => {
                let (folder, name) = self.folder(location).map_err(generic)?;
                if folder.create(&name, bytes()).await.map_err(generic)? {
                    return Ok(done);
                }
                let source = "there is one already".into();
                Err(object_store::Error::AlreadyExists { path: location.to_string(), source })
            }
            PutMode::Overwrite => {
                let (folder, name) = self.folder(location).map_err(generic)?;
                folder.replace(&name, bytes()).await.map_err(generic)?;
                Ok(done)
            }
            PutMode::Update(_) => self.inner.put_opts(location, payload, opts).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        let Some(local) = &self.local else { return self.inner.put_multipart_opts(location, opts).await };
        let path = local.path_to_filesystem(location)?;
        self.folder(location).map_err(generic)?;
        Ok(Box::new(SyncedUpload { upload: self.inner.put_multipart_opts(location, opts).await?, path }))
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
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// A local file in parts, which is synced, and its name with it, as it is completed.
#[derive(Debug)]
struct SyncedUpload {
    upload: Box<dyn MultipartUpload>,
    path: PathBuf,
}

#[async_trait]
impl MultipartUpload for SyncedUpload {
    fn put_part(&mut self, payload: PutPayload) -> UploadPart {
        self.upload.put_part(payload)
    }

    async fn complete(&mut self) -> StoreResult<PutResult> {
        let result = self.upload.complete().await?;
        let synced = File::open(&self.path).and_then(|file| file.sync_all());
        synced
            .and_then(|()| sync_folder(&parent(&self.path)))
            .map_err(|error| generic(Error::io(self.path.display(), &error)))?;
        Ok(result)
    }

    async fn abort(&mut self) -> StoreResult<()> {
        self.upload.abort().await
    }
}
