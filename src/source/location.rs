//! What a user calls a file, a folder or a glob, and what it means.
//!
//! Enters: a text such as `data/*.csv.gz` or `s3://lake/orders/`. Leaves: a [`Location`] that can be
//! listed, and the [`FileKind`] that its ending tells. Always holds: hidden files (`.x`, `_x`) and empty
//! ones are not data.

use datafusion::catalog::Session;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::listing::ListingTableUrl;
use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use url::Url;

use crate::error::{Error, Result, near_name};

/// The endings of files that hold data, without compression.
pub const DATA_ENDINGS: [&str; 9] = ["parquet", "csv", "tsv", "json", "ndjson", "jsonl", "arrow", "feather", "avro"];

/// A file format and how it is compressed, told by a file's ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileKind {
    /// One of [`DATA_ENDINGS`].
    pub ending: &'static str,
    /// The ending behind it, such as `gz`, or none.
    pub compression: FileCompressionType,
}

impl FileKind {
    /// The kind that the ending of `path` tells.
    pub fn of(path: &str) -> Option<Self> {
        let name = path.rsplit('/').next()?.to_ascii_lowercase();
        let (stem, last) = name.rsplit_once('.')?;
        let compression: FileCompressionType = last.parse().unwrap_or(FileCompressionType::UNCOMPRESSED);
        let ending = if compression.is_compressed() { stem.rsplit_once('.')?.1 } else { last };
        let ending = DATA_ENDINGS.into_iter().find(|known| *known == ending)?;
        Some(Self { ending, compression })
    }

    /// The kind of a file that is of `format` whatever its name says; only the compression is told by it.
    pub(super) fn forced(format: &str, path: &str) -> Self {
        let ending = match format {
            "PARQUET" => "parquet",
            "CSV" => "csv",
            _ => "json",
        };
        let last = path.rsplit('.').next().unwrap_or("");
        let compression = last.to_ascii_lowercase().parse().unwrap_or(FileCompressionType::UNCOMPRESSED);
        Self { ending, compression }
    }

    /// The name of the format, as in STORED AS.
    pub fn format(&self) -> &'static str {
        match self.ending {
            "parquet" => "PARQUET",
            "csv" | "tsv" => "CSV",
            "arrow" | "feather" => "ARROW",
            "avro" => "AVRO",
            _ => "JSON",
        }
    }

    /// The whole ending, such as `.csv.gz`.
    pub fn suffix(&self) -> String {
        match self.compression_word() {
            Some(word) => format!(".{}.{word}", self.ending),
            None => format!(".{}", self.ending),
        }
    }

    /// DataFusion's name of the compression, such as `gzip`.
    pub fn compression_name(&self) -> Option<&'static str> {
        self.compression_word().map(|word| match word {
            "gz" => "gzip",
            "bz2" => "bzip2",
            "xz" => "xz",
            _ => "zstd",
        })
    }

    /// The ending of the compression, such as `gz`.
    pub fn compression_word(&self) -> Option<&'static str> {
        [
            ("gz", FileCompressionType::GZIP),
            ("bz2", FileCompressionType::BZIP2),
            ("xz", FileCompressionType::XZ),
            ("zst", FileCompressionType::ZSTD),
        ]
        .into_iter()
        .find(|(_, kind)| *kind == self.compression)
        .map(|(word, _)| word)
    }
}

/// What one listing of a location gave.
#[derive(Debug)]
pub struct Listed {
    /// Its data files, in order of their names.
    pub files: Vec<ObjectMeta>,
    /// What DataFusion takes for files of its glob, which is laxer and skips partition folders.
    pub seen: Vec<object_store::path::Path>,
}

/// A file, a folder or a glob.
#[derive(Debug, Clone)]
pub struct Location {
    /// As the user wrote it.
    pub text: String,
    /// Where to list.
    pub url: ListingTableUrl,
}

impl Location {
    /// True if `text` can only mean a file: it has a `/`, a glob or a scheme, or a data file's ending.
    pub fn looks_like_one(text: &str) -> bool {
        text.contains('/') || text.contains('*') || FileKind::of(text).is_some()
    }

    /// Reads a path, a URL, or either with a glob.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::query("the path is empty"));
        }
        let wrong = |why: String| Error::query(format!("'{text}' is not a path or URL: {why}"));
        let expanded = match (text.strip_prefix("~/"), std::env::var("HOME")) {
            (Some(rest), Ok(home)) => format!("{home}/{rest}"),
            _ => text.to_owned(),
        };
        let url = match expanded.split_once("://") {
            Some((scheme, rest)) if rest.contains(['*', '[']) => {
                // `ListingTableUrl::parse` looks for globs in local paths only.
                let first = rest.split('/').position(|part| part.contains(['*', '['])).unwrap_or(0);
                let split = rest.split('/').take(first).map(|part| part.len() + 1).sum::<usize>();
                let (folder, glob) = rest.split_at(split);
                let url = Url::parse(&format!("{scheme}://{folder}")).map_err(|e| wrong(e.to_string()))?;
                ListingTableUrl::try_new(url, None).and_then(|url| url.with_glob(glob))
            }
            _ => ListingTableUrl::parse(&expanded),
        };
        Ok(Self { text: text.to_owned(), url: url.map_err(|e| wrong(e.to_string()))? })
    }

    /// The local path, if it is one.
    pub fn local_path(&self) -> Option<std::path::PathBuf> {
        (self.url.scheme() == "file").then(|| self.url.get_url().to_file_path().ok()).flatten()
    }

    /// All data files here, in order of their names.
    pub async fn files(&self, state: &dyn Session) -> Result<Listed> {
        let store = state.runtime_env().object_store(&self.url)?;
        self.list(store.as_ref()).await
    }

    /// The same in the store of this location.
    pub async fn files_in(&self, store: &dyn ObjectStore) -> Result<Vec<ObjectMeta>> {
        Ok(self.list(store).await?.files)
    }

    async fn list(&self, store: &dyn ObjectStore) -> Result<Listed> {
        if !self.url.is_collection() && self.url.get_glob().is_none() {
            // Opening a pipe would wait for a writer.
            let local = self.local_path().and_then(|path| std::fs::metadata(path).ok());
            if local.is_some_and(|found| !found.is_file() && !found.is_dir()) {
                return Err(Error::query(format!("'{}' is a pipe or device, not a file", self.text)));
            }
            match store.head(self.url.prefix()).await {
                Ok(meta) => return Ok(Listed { files: vec![meta], seen: Vec::new() }),
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(self.unreadable(error)),
            }
        }
        let web = matches!(self.url.scheme(), "http" | "https");
        if web && self.url.get_glob().is_none() && !self.url.is_collection() {
            return Ok(Listed { files: Vec::new(), seen: Vec::new() });
        }
        let listed = store.list(Some(self.url.prefix())).try_collect::<Vec<_>>().await;
        let mut files = listed.map_err(|error| match web {
            true => Error::query(format!("cannot list '{}': a web server tells what it has by WebDAV only", self.text))
                .note(Error::from(error).message)
                .hint("name the files: read_csv(['https://…/a.csv', 'https://…/b.csv'])"),
            false => self.unreadable(error),
        })?;
        let loose = |file: &&ObjectMeta| self.url.get_glob().is_some() && self.url.contains(&file.location, false);
        let seen = files.iter().filter(loose).map(|file| file.location.clone()).collect();
        files.retain(|file| self.holds(&file.location));
        files.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(Listed { files, seen })
    }

    /// True for a file of that name: it is no hidden one, and of the glob's form.
    pub(super) fn holds(&self, file: &object_store::path::Path) -> bool {
        self.matches(file) && !self.is_hidden(file)
    }

    /// True if the file is below the folder and, in all its parts, of the glob's form: `*` stays within a
    /// folder, `**` does not.
    fn matches(&self, file: &object_store::path::Path) -> bool {
        let Some(below) = self.url.strip_prefix(file) else { return false };
        let below = below.collect::<Vec<_>>().join("/");
        let exact = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::new() };
        self.url.get_glob().as_ref().is_none_or(|glob| glob.matches_with(&below, exact))
    }

    /// True if DataFusion would list the same `files`, of those that it sees.
    pub fn lists_the_same(&self, suffix: &str, seen: &[object_store::path::Path], files: &[ObjectMeta]) -> bool {
        let of_suffix = seen.iter().filter(|file| file.as_ref().ends_with(suffix)).count();
        self.url.get_glob().is_none()
            || (of_suffix == files.len() && files.iter().all(|file| self.url.contains(&file.location, false)))
    }

    fn unreadable(&self, error: object_store::Error) -> Error {
        let mut error = Error::from(error);
        error.message = format!("cannot read '{}': {}", self.text, error.message);
        error
    }

    fn is_hidden(&self, file: &object_store::path::Path) -> bool {
        let Some(mut below) = self.url.strip_prefix(file) else { return false };
        below.any(|part| part.starts_with('.') || (part.starts_with('_') && !part.contains('=')))
    }

    /// The error for a location where nothing is.
    pub async fn missing(&self, store: &dyn ObjectStore) -> Error {
        if self.url.get_glob().is_some() {
            return Error::query(format!("no file matches '{}'", self.text));
        }
        if self.local_path().is_some_and(|path| path.is_dir()) {
            return Error::query(format!("the folder '{}' holds no data files", self.text))
                .hint(format!("data files end in .{}", DATA_ENDINGS.join(", .")));
        }
        let error = Error::query(format!("no such file or folder: '{}'", self.text));
        match self.neighbour(store).await {
            Some(name) => error.hint(format!("did you mean '{name}'?")),
            None => error,
        }
    }

    /// A file or folder beside the missing one whose name is near.
    async fn neighbour(&self, store: &dyn ObjectStore) -> Option<String> {
        if matches!(self.url.scheme(), "http" | "https") {
            return None;
        }
        let parts: Vec<_> = self.url.prefix().parts().collect();
        let (last, above) = parts.split_last()?;
        let above = object_store::path::Path::from_iter(above.iter().cloned());
        let list = store.list_with_delimiter(Some(&above)).await.ok()?;
        let files = list.objects.iter().map(|object| &object.location);
        let names: Vec<String> =
            files.chain(&list.common_prefixes).filter_map(|path| Some(path.filename()?.to_owned())).collect();
        let near = near_name(last.as_ref(), names.iter().map(String::as_str))?;
        let folder = self.text.trim_end_matches('/').rsplit_once('/').map(|(folder, _)| format!("{folder}/"));
        Some(format!("{}{near}", folder.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ending_tells_format_and_compression() {
        let kind = FileKind::of("a/b.CSV.gz").expect("a kind");
        assert_eq!((kind.format(), kind.suffix().as_str()), ("CSV", ".csv.gz"));
        assert_eq!(FileKind::of("x.ndjson").map(|kind| kind.format()), Some("JSON"));
        assert_eq!(FileKind::of("notes.txt"), None);
        assert_eq!(FileKind::of("archive.gz"), None);
    }

    #[test]
    fn a_glob_behind_a_scheme_is_one() {
        let location = Location::parse("s3://lake/orders/*/part-*.parquet").expect("parses");
        assert_eq!(location.url.prefix().as_ref(), "orders");
        assert_eq!(location.url.get_glob().as_ref().map(|g| g.as_str()), Some("*/part-*.parquet"));
    }
}
