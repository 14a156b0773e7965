//! Objects by URL: on local disk, in S3 and others, or in memory. Every call blocks until it has an answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use tokio::runtime::Runtime;

use crate::redact;

/// Why an object could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL is invalid.
    #[error("{url}: {why}; expected file:///folder, s3://bucket/prefix, az://..., gs://... or memory:///")]
    Url {
        /// The URL as configured, without secrets.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// The store returned an error or did not answer.
    #[error("object store: {0}")]
    Store(#[from] object_store::Error),
}

/// The store of a URL, and the path within it. `options` are settings under their usual names (`aws_region`); those of
/// the environment are added. The folder of a `file` URL is made.
///
/// # Errors
/// [`StoreError::Url`] when the URL is invalid or its folder cannot be made.
pub fn parse(url: &str, options: &BTreeMap<String, String>) -> Result<(Arc<dyn ObjectStore>, Path), StoreError> {
    // The message of a library may repeat the URL.
    let wrong =
        |why: String| StoreError::Url { url: redact::url(url).into_owned(), why: why.replace(url, &redact::url(url)) };
    let parsed = url::Url::parse(url).map_err(|e| wrong(e.to_string()))?;
    if let Ok(folder) = parsed.to_file_path() {
        std::fs::create_dir_all(&folder).map_err(|e| wrong(format!("cannot make {}: {e}", folder.display())))?;
    }
    let environment = std::env::vars().map(|(name, value)| (name.to_ascii_lowercase(), value));
    let of_a_store = |name: &str| ["aws_", "azure_", "google_"].iter().any(|prefix| name.starts_with(prefix));
    let options = environment
        .filter(|(name, _)| of_a_store(name))
        .chain(options.iter().map(|(name, value)| (name.clone(), value.clone())));
    let (store, prefix) =
        object_store::parse_url_opts(&parsed, options).map_err(|e| wrong(format!("{e}{NO_CLOUD}")))?;
    Ok((store.into(), prefix))
}

/// Added to the failure to open a store, by a build that has none of the clouds.
const NO_CLOUD: &str = match cfg!(feature = "cloud") {
    true => "",
    false => " (this build has no cloud stores: build with `cargo build --workspace`, or with `--features cloud`)",
};

/// Time limit for an answer. The client itself would retry for minutes.
pub const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
/// Time limit for writing an object.
pub const WRITES_WITHIN: Duration = Duration::from_secs(60);

/// The result of a call, with a time limit.
///
/// # Errors
/// The error of the call, or that there was no answer within the limit.
pub async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, object_store::Error>>,
) -> Result<T, object_store::Error> {
    let silent = |_| object_store::Error::Generic {
        store: "object store",
        source: format!("no answer within {} s", limit.as_secs()).into(),
    };
    tokio::time::timeout(limit, call).await.map_err(silent)?
}

/// A store of objects. Every call blocks until it has an answer.
pub trait Objects: std::fmt::Debug {
    /// Whether an object exists.
    ///
    /// # Errors
    /// [`StoreError::Store`] when the store does not answer. The same holds for the methods below.
    fn exists(&self, name: &str) -> Result<bool, StoreError>;

    /// The content of an object.
    ///
    /// # Errors
    /// See [`Objects::exists`].
    fn get(&self, name: &str) -> Result<Vec<u8>, StoreError>;

    /// Writes a whole object and replaces an existing one.
    ///
    /// # Errors
    /// See [`Objects::exists`].
    fn put(&self, name: &str, content: Vec<u8>) -> Result<(), StoreError>;

    /// Writes a whole object if none exists. Returns false if one exists.
    ///
    /// # Errors
    /// See [`Objects::exists`].
    fn create(&self, name: &str, content: Vec<u8>) -> Result<bool, StoreError>;

    /// Sorted names of the objects directly in a folder, without its path.
    ///
    /// # Errors
    /// See [`Objects::exists`].
    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError>;
}

/// The objects below a URL.
pub struct Store {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    runtime: Runtime,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store of a URL.
    ///
    /// # Errors
    /// [`StoreError::Url`] when the URL is invalid or its folder cannot be made.
    pub fn open(url: &str, options: &BTreeMap<String, String>) -> Result<Self, StoreError> {
        let (store, prefix) = parse(url, options)?;
        let wrong =
            |error: std::io::Error| StoreError::Url { url: redact::url(url).into_owned(), why: error.to_string() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(wrong)?;
        Ok(Self { store, prefix, runtime })
    }

    fn path(&self, name: &str) -> Path {
        name.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }
}

impl Objects for Store {
    fn exists(&self, name: &str) -> Result<bool, StoreError> {
        match self.runtime.block_on(within(ANSWERS_WITHIN, self.store.head(&self.path(name)))) {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn get(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let path = self.path(name);
        let read = async { self.store.get(&path).await?.bytes().await };
        Ok(self.runtime.block_on(within(ANSWERS_WITHIN, read))?.to_vec())
    }

    fn put(&self, name: &str, content: Vec<u8>) -> Result<(), StoreError> {
        let path = self.path(name);
        self.runtime.block_on(within(WRITES_WITHIN, self.store.put(&path, PutPayload::from(content))))?;
        Ok(())
    }

    fn create(&self, name: &str, content: Vec<u8>) -> Result<bool, StoreError> {
        let options = PutOptions::from(PutMode::Create);
        let path = self.path(name);
        let write = self.store.put_opts(&path, PutPayload::from(content), options);
        match self.runtime.block_on(within(WRITES_WITHIN, write)) {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let path = self.path(folder);
        let listing = self.runtime.block_on(within(ANSWERS_WITHIN, self.store.list_with_delimiter(Some(&path))))?;
        let names = listing.objects.iter().filter_map(|object| object.location.filename());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }
}
