//! Object stores by URL, made when first asked for.
//!
//! Enters: a URL. Leaves: the store behind it: local files, `s3://`, `gs://`, `az://`, `http(s)://`,
//! configured by the usual environment variables. Always holds: each store stages its writes, see
//! [`crate::durable`]; secrets stay in the environment.

mod whole;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::execution::object_store::ObjectStoreRegistry;
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use url::Url;

use crate::durable::{StagedStore, SyncedStore, Writes};
use crate::error::Error;

use whole::WholeListings;

/// The object stores of a session.
#[derive(Debug)]
pub struct Stores {
    writes: Writes,
    known: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

impl Stores {
    /// Stores whose writes go through `writes`.
    pub fn new(writes: Writes) -> Self {
        Self { writes, known: Mutex::default() }
    }

    /// The store behind a URL, without staging: for files that are whole when they are put.
    pub fn direct(&self, url: &Url) -> Result<Arc<dyn ObjectStore>, Error> {
        Self::open(url)
    }

    /// The store behind a URL, for a library that writes by itself: what it has written is durable.
    pub fn durable(url: &Url) -> Result<Arc<dyn ObjectStore>, Error> {
        Ok(Arc::new(match url.scheme() {
            "file" => SyncedStore::local(),
            _ => SyncedStore::remote(Self::open(url)?),
        }))
    }

    fn open(url: &Url) -> Result<Arc<dyn ObjectStore>, Error> {
        let root = &url[url::Position::BeforeScheme..url::Position::BeforePath];
        let whole = WholeListings::default();
        let store: Arc<dyn ObjectStore> = match url.scheme() {
            "file" => Arc::new(object_store::local::LocalFileSystem::new()),
            "s3" | "s3a" => {
                let builder = AmazonS3Builder::from_env().with_bucket_name(host(url)?);
                Arc::new(builder.with_http_connector(whole).build()?)
            }
            "gs" | "gcs" => {
                let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(host(url)?);
                Arc::new(builder.with_http_connector(whole).build()?)
            }
            "az" | "adl" | "azure" | "abfs" | "abfss" => {
                let builder = MicrosoftAzureBuilder::from_env().with_url(url.as_str());
                Arc::new(builder.with_http_connector(whole).build()?)
            }
            "http" | "https" => {
                let options = object_store::ClientOptions::new().with_allow_http(true);
                let builder = HttpBuilder::new().with_url(root).with_client_options(options);
                Arc::new(builder.with_http_connector(whole).build()?)
            }
            other => {
                return Err(Error::query(format!("{other}:// is not a known kind of location"))
                    .hint("known are paths, s3://, gs://, az://, http:// and https://"));
            }
        };
        Ok(store)
    }
}

fn host(url: &Url) -> Result<&str, Error> {
    url.host_str().ok_or_else(|| Error::query(format!("{url} names no bucket")))
}

impl ObjectStoreRegistry for Stores {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(key(url), store)
    }

    fn get_store(&self, url: &Url) -> DfResult<Arc<dyn ObjectStore>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = known.get(&key(url)) {
            return Ok(Arc::clone(store));
        }
        let store: Arc<dyn ObjectStore> = match url.scheme() {
            "file" => Arc::new(StagedStore::local(self.writes.clone())),
            _ => Arc::new(StagedStore::remote(Self::open(url).map_err(DataFusionError::from)?, self.writes.clone())),
        };
        known.insert(key(url), Arc::clone(&store));
        Ok(store)
    }
}

fn key(url: &Url) -> String {
    url[url::Position::BeforeScheme..url::Position::BeforePath].to_owned()
}
