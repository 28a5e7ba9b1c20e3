//! Where a Delta table is, and how it is written.
//!
//! Enters: LOCATION, OPTIONS and PARTITIONED BY. Leaves: a [`Lake`]. Always holds: two of one URL and version are equal.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use datafusion::execution::runtime_env::RuntimeEnv;
use object_store::ObjectStore;
use url::Url;

use crate::config::parse_micros;
use crate::error::{Error, Result};

/// The names of the options of a table STORED AS DELTA.
pub(super) const OPTIONS: [&str; 4] = ["version", "timestamp", "compact_every", "vacuum_after"];

/// After so many commits small files are put together.
const COMPACT_EVERY: u64 = 100;

/// So long files stay that no version needs any more: who reads an older version may still want them.
const VACUUM_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// A version of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// By its number.
    Number(u64),
    /// The last one that was there at that time.
    Time(DateTime<Utc>),
}

/// A Delta table.
#[derive(Clone)]
pub struct Lake {
    url: Url,
    store: Arc<dyn ObjectStore>,
    runtime: Arc<RuntimeEnv>,
    version: Option<Version>,
    partitions: Vec<String>,
    compact_every: u64,
    vacuum_after: Duration,
}

impl Lake {
    /// The URL of the folder that a LOCATION names.
    pub fn url_of(location: &str) -> Result<Url> {
        let wrong = |why: String| Error::sql(format!("'{location}' is no folder or URL: {why}"));
        let text = location.strip_prefix("delta://").unwrap_or(location);
        let mut url = match text.contains("://") {
            true => Url::parse(text).map_err(|error| wrong(error.to_string()))?,
            false => {
                let path = std::path::absolute(text).map_err(|error| Error::io(text, &error))?;
                if path.is_file() {
                    return Err(Error::sql(format!("'{location}' is a file, and a Delta table is a folder")));
                }
                Url::from_directory_path(path).map_err(|()| wrong("it has no absolute path".to_owned()))?
            }
        };
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        Ok(url)
    }

    /// The table in that folder. `store` writes durably; `option` gives the value of an option.
    pub fn new(
        url: Url,
        store: Arc<dyn ObjectStore>,
        runtime: Arc<RuntimeEnv>,
        options: &HashMap<String, String>,
    ) -> Result<Self> {
        let option = |name: &str| options.get(name).or_else(|| options.get(&format!("format.{name}")));
        let mut lake = Self {
            url,
            store,
            runtime,
            version: None,
            partitions: Vec::new(),
            compact_every: COMPACT_EVERY,
            vacuum_after: VACUUM_AFTER,
        };
        if let Some(text) = option("version") {
            let number = text.parse().map_err(|_| Error::sql(format!("'version' is a number, not '{text}'")))?;
            lake.version = Some(Version::Number(number));
        }
        if let Some(text) = option("timestamp") {
            if lake.version.is_some() {
                return Err(Error::sql("both 'version' and 'timestamp' say which version is read: leave one out"));
            }
            lake.version = Some(Version::Time(time(text)?));
        }
        if let Some(text) = option("compact_every") {
            lake.compact_every = text.parse().map_err(|_| {
                Error::sql(format!("'compact_every' is a number of commits, not '{text}'")).hint("0: never")
            })?;
        }
        if let Some(text) = option("vacuum_after") {
            let micros = parse_micros(text).and_then(|micros| u64::try_from(micros).ok());
            lake.vacuum_after = micros
                .map(Duration::from_micros)
                .ok_or_else(|| Error::sql(format!("'vacuum_after' is a time such as '7 days', not '{text}'")))?;
        }
        Ok(lake)
    }

    /// The same with partitions.
    #[must_use]
    pub fn partitioned(self, partitions: &[String]) -> Self {
        Self { partitions: partitions.to_vec(), ..self }
    }

    /// The same at a version.
    #[must_use]
    pub fn at(self, version: Version) -> Self {
        Self { version: Some(version), ..self }
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    pub(super) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    pub(super) fn runtime(&self) -> &Arc<RuntimeEnv> {
        &self.runtime
    }

    /// The version that is read; nothing: the newest.
    pub fn version(&self) -> Option<&Version> {
        self.version.as_ref()
    }

    pub(super) fn partitions(&self) -> &[String] {
        &self.partitions
    }

    pub(super) fn compact_every(&self) -> u64 {
        self.compact_every
    }

    pub(super) fn vacuum_after(&self) -> Duration {
        self.vacuum_after
    }

    /// The name of its folder.
    pub fn name(&self) -> String {
        let name = self.url.path_segments().and_then(|parts| parts.rev().find(|part| !part.is_empty()));
        let name = name.unwrap_or_default();
        percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned()
    }

    /// True if it is a local folder, or none, and no table.
    pub fn lacks_log(&self) -> bool {
        self.url.to_file_path().is_ok_and(|path| !path.join("_delta_log").is_dir())
    }

    /// True if it is a local folder that is not there.
    pub(super) fn is_missing(&self) -> bool {
        self.url.to_file_path().is_ok_and(|path| !path.exists())
    }
}

/// A time as OPTIONS and AS OF write it.
pub fn time(text: &str) -> Result<DateTime<Utc>> {
    let nanos = arrow::compute::kernels::cast_utils::string_to_timestamp_nanos(text);
    let nanos = nanos.map_err(|error| Error::sql(format!("'{text}' is no time: {error}")))?;
    Ok(DateTime::from_timestamp_nanos(nanos))
}

impl PartialEq for Lake {
    fn eq(&self, other: &Self) -> bool {
        self.url == other.url && self.version == other.version
    }
}

impl Eq for Lake {}

impl fmt::Debug for Lake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Lake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.url.to_file_path() {
            Ok(path) => write!(f, "{}", path.display()),
            Err(()) => write!(f, "{}", self.url),
        }
    }
}
