//! An object store whose answers are lost, and whose lists may be old.
//!
//! Enters: the requests of the durable layer, and when trouble comes. Leaves: what a store in memory makes of them.
//! Always holds: a put that fails has had its effect or not, and the caller cannot tell; a list leaves out at most
//! what was put last.

use std::collections::HashSet;
use std::fmt;
use std::sync::Mutex;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::Random;

/// A store in memory, with trouble.
#[derive(Debug)]
pub(super) struct FaultyStore {
    inner: InMemory,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    random: Random,
    requests: u64,
    fails_at: Option<u64>,
    dead: bool,
    /// What lists leave out.
    unlisted: HashSet<Path>,
    stale: bool,
}

impl FaultyStore {
    pub(super) fn new(seed: u64) -> Self {
        let state = State {
            random: Random::new(seed),
            requests: 0,
            fails_at: None,
            dead: false,
            unlisted: HashSet::new(),
            stale: false,
        };
        Self { inner: InMemory::new(), state: Mutex::new(state) }
    }

    /// Begins a life, which ends at the request of that number. `stale`: lists do not yet tell what was put last.
    pub(super) fn live(&self, fails_at: Option<u64>, stale: bool) {
        let mut state = self.state.lock().unwrap();
        (state.requests, state.fails_at, state.dead, state.stale) = (0, fails_at, false, stale);
        if !stale {
            state.unlisted.clear();
        }
    }

    pub(super) fn requests(&self) -> u64 {
        self.state.lock().unwrap().requests
    }

    /// True if the effect takes place, and what the caller is told in place of the answer.
    fn fate(&self) -> (bool, Result<()>) {
        let mut state = self.state.lock().unwrap();
        state.requests += 1;
        let gone = || Err(Error::Generic { store: "faulty", source: "the answer was lost".into() });
        if state.dead {
            return (false, gone());
        }
        if state.fails_at != Some(state.requests) {
            return (true, Ok(()));
        }
        state.dead = true;
        (state.random.below(2) == 0, gone())
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let (effect, told) = self.fate();
        let done = if effect { Some(self.inner.put_opts(location, payload, opts).await) } else { None };
        if matches!(done, Some(Ok(_))) {
            let mut state = self.state.lock().unwrap();
            if state.stale {
                state.unlisted.clear();
                state.unlisted.insert(location.clone());
            }
        }
        told?;
        done.expect("what is not told to have failed has had its effect")
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart".into(), implementer: "FaultyStore".into() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (effect, told) = self.fate();
        told?;
        assert!(effect);
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (effect, told) = self.fate();
        match told {
            Ok(()) => self.inner.delete_stream(locations),
            Err(error) if !effect => futures::stream::once(async { Err(error) }).boxed(),
            Err(error) => {
                let done = self.inner.delete_stream(locations).collect::<Vec<_>>();
                futures::stream::once(async move {
                    done.await;
                    Err(error)
                })
                .boxed()
            }
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (_, told) = self.fate();
        if let Err(error) = told {
            return futures::stream::once(async { Err(error) }).boxed();
        }
        let unlisted = self.state.lock().unwrap().unlisted.clone();
        let seen = move |meta: &Result<ObjectMeta>| {
            futures::future::ready(!meta.as_ref().is_ok_and(|meta| unlisted.contains(&meta.location)))
        };
        self.inner.list(prefix).filter(seen).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
