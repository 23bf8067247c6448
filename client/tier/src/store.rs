//! Where objects are: one bucket, container or directory, and a prefix in it, as a URL says.
//!
//! Keys are `<prefix>/<cluster>/<topic>/<partition>/<ledger>/<attempt>.seg` (protocol 7.3): two uploads never write the same
//! object (T1). What the store answers is checked for length here, and for content by whoever asked.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use geminga_metastore::record::{Custom, TierObject};
use geminga_proto::ids::{ClusterUuid, LedgerId, PartitionIndex, TopicId};
use geminga_runtime::fail_point;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    Error, MultipartUpload, ObjectStore, ObjectStoreExt, ObjectStoreScheme, PutMode, PutOptions,
    RetryConfig,
};
use tokio::time::{Instant, error::Elapsed, timeout};
use url::Url;

use crate::error::ObjectError;
use crate::metrics;

/// Parts of an upload are so large: S3 allows 10,000 of them, of 5 MiB at least.
pub const PART_BYTES: usize = 16 << 20;
/// Parts of one upload that are on their way at a time.
const PARTS_AT_ONCE: usize = 2;
/// How often, and for how long, one call is repeated where the store says to come back later.
const RETRIES: usize = 5;
const RETRY_FOR: Duration = Duration::from_secs(30);
/// No call takes longer, whatever the store does.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Ends the key of every ledger's object.
const SUFFIX: &str = ".seg";
/// Ends the key of every object that lists segments, and where it has the ledger's id those have this.
const MANIFEST_SUFFIX: &str = ".man";
const MANIFEST: &str = "manifest";
/// The key below the prefix of the object that says whose the store is.
const MARKER: &str = "geminga.store";

/// What an operator may say beside the URL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Where the store is, when that is not the vendor's own address.
    pub endpoint: Option<String>,
    /// Whether the bucket is the first part of the path, not of the host; S3 only.
    pub path_style: bool,
}

/// A store that cannot be used as configured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--object-store {url}: {why}")]
pub struct Invalid {
    /// As given.
    pub url: String,
    /// What to do about it.
    pub why: String,
}

/// An object as the store lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// When it was written last, milliseconds since the Unix epoch.
    pub modified_ms: i64,
    /// What the store calls this version of it; empty when it names none.
    pub etag: String,
}

/// What the key of an object says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionIndex,
    /// The ledger.
    pub ledger: LedgerId,
    /// The upload.
    pub attempt: u128,
}

/// What the key of an object that lists segments says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestName {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionIndex,
    /// The write that made it.
    pub attempt: u128,
}

/// What objects of a store are called.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Names {
    bucket: String,
    prefix: Path,
}

impl Names {
    /// Those of a bucket without a prefix.
    pub fn of(bucket: &str) -> Self {
        Self { bucket: bucket.to_owned(), prefix: Path::default() }
    }

    /// The part of the store's URL up to the prefix.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// The key of one upload of a ledger (T1).
    pub fn key(
        &self,
        cluster: ClusterUuid,
        custom: &Custom,
        ledger: LedgerId,
        attempt: u128,
    ) -> String {
        let Custom { topic, partition, .. } = custom;
        let parts = format!("{cluster}/{topic}/{partition}/{ledger}/{attempt:032x}{SUFFIX}");
        parts.split('/').fold(self.prefix.clone(), |path, part| path.join(part)).to_string()
    }
}

/// Where objects are. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    names: Names,
    /// Where its files are, of one that is a directory.
    files: Option<LocalFileSystem>,
}

impl Store {
    /// Opens what `url` names; makes no request. Credentials are those of `environment`, by the vendors' names
    /// (`AWS_ACCESS_KEY_ID`, `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_KEY` and so on).
    ///
    /// # Errors
    /// [`Invalid`].
    pub fn open(
        url: &str,
        options: &Options,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Invalid> {
        let invalid = |why: String| Invalid { url: url.to_owned(), why };
        let parsed = Url::parse(url).map_err(|error| {
            invalid(format!("{error}: give s3://BUCKET/PREFIX, gs://…, az://… or file:///PATH"))
        })?;
        let found = ObjectStoreScheme::parse(&parsed);
        let (scheme, prefix) = found.map_err(|error| invalid(error.to_string()))?;
        let environment: Vec<(String, String)> = environment.into_iter().collect();
        let files = (scheme == ObjectStoreScheme::Local).then(LocalFileSystem::new);
        let inner = build(scheme, &parsed, options, &environment).map_err(invalid)?;
        let bucket = match parsed.host_str() {
            Some(host) => format!("{}://{host}", parsed.scheme()),
            None => format!("{}://", parsed.scheme()),
        };
        Ok(Self { inner, names: Names { bucket, prefix }, files })
    }

    /// A store of whatever kind.
    pub fn of(inner: Arc<dyn ObjectStore>, bucket: &str) -> Self {
        Self { inner, names: Names::of(bucket), files: None }
    }

    /// What its objects are called.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The part of its URL up to the prefix.
    pub fn bucket(&self) -> &str {
        &self.names.bucket
    }

    /// Bucket and prefix: what tells it from others, but for those of the same name elsewhere.
    pub fn place(&self) -> String {
        format!("{}/{}", self.names.bucket, self.names.prefix)
    }

    /// The key of the object that says whose it is.
    pub fn marker_key(&self) -> String {
        self.names.prefix.clone().join(MARKER).to_string()
    }

    /// Whether this is the key of that object.
    pub fn is_marker(&self, key: &str) -> bool {
        key == self.marker_key()
    }

    /// Whether it is gone with this process.
    pub fn is_memory(&self) -> bool {
        self.names.bucket == "memory://"
    }

    /// The key of one object that lists segments.
    pub fn manifest_key(
        &self,
        cluster: ClusterUuid,
        topic: TopicId,
        partition: PartitionIndex,
        attempt: u128,
    ) -> String {
        let parts =
            format!("{cluster}/{topic}/{partition}/{MANIFEST}/{attempt:032x}{MANIFEST_SUFFIX}");
        parts.split('/').fold(self.names.prefix.clone(), |path, part| path.join(part)).to_string()
    }

    /// What the key of such an object of this cluster says; `None` of any other.
    pub fn parse_manifest_key(&self, cluster: ClusterUuid, key: &str) -> Option<ManifestName> {
        let rest = key.strip_prefix(self.root(cluster).as_ref())?.strip_prefix('/')?;
        let [topic, partition, MANIFEST, attempt] = rest.split('/').collect::<Vec<_>>()[..] else {
            return None;
        };
        Some(ManifestName {
            topic: topic.parse().ok()?,
            partition: PartitionIndex(partition.parse().ok()?),
            attempt: u128::from_str_radix(attempt.strip_suffix(MANIFEST_SUFFIX)?, 16).ok()?,
        })
    }

    /// The key of one upload of a ledger (T1).
    pub fn key(
        &self,
        cluster: ClusterUuid,
        custom: &Custom,
        ledger: LedgerId,
        attempt: u128,
    ) -> String {
        self.names.key(cluster, custom, ledger, attempt)
    }

    /// What the key of an object of this cluster says; `None` of any other.
    pub fn parse_key(&self, cluster: ClusterUuid, key: &str) -> Option<ObjectName> {
        let root = self.root(cluster);
        let rest = key.strip_prefix(root.as_ref())?.strip_prefix('/')?;
        let [topic, partition, ledger, attempt] = rest.split('/').collect::<Vec<_>>()[..] else {
            return None;
        };
        Some(ObjectName {
            topic: topic.parse().ok()?,
            partition: PartitionIndex(partition.parse().ok()?),
            ledger: LedgerId(u64::from_str_radix(ledger, 16).ok()?),
            attempt: u128::from_str_radix(attempt.strip_suffix(SUFFIX)?, 16).ok()?,
        })
    }

    /// What the key of an object of whatever cluster says, and of which; `None` of anything that is no such object.
    pub fn parse_any_key(&self, key: &str) -> Option<(ClusterUuid, ObjectName)> {
        let prefix = self.names.prefix.as_ref();
        let rest = match prefix.is_empty() {
            true => key,
            false => key.strip_prefix(prefix)?.strip_prefix('/')?,
        };
        let cluster = rest.split('/').next()?.parse().ok()?;
        Some((cluster, self.parse_key(cluster, key)?))
    }

    /// What the keys of all objects of a cluster begin with that are written here, up to a `/`.
    pub fn root_key(&self, cluster: ClusterUuid) -> String {
        self.root(cluster).to_string()
    }

    /// Whether an object that metadata names is one of the cluster's here.
    pub fn covers(&self, cluster: ClusterUuid, bucket: &str, key: &str) -> bool {
        let below = |root: Path| key.strip_prefix(root.as_ref())?.strip_prefix('/');
        bucket == self.names.bucket && below(self.root(cluster)).is_some()
    }

    fn root(&self, cluster: ClusterUuid) -> Path {
        self.names.prefix.clone().join(cluster.to_string())
    }

    /// Begins to write an object. Nobody sees it before [`Upload::complete`].
    pub fn upload(&self, key: &str) -> Upload {
        let parts = FuturesUnordered::new();
        Upload { store: self.clone(), key: key.to_owned(), multipart: None, parts }
    }

    /// What the store knows of an object; `None` when it is certain that there is none.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn head(&self, key: &str) -> Result<Option<Listed>, ObjectError> {
        match self.timed("head", key, self.inner.head(&Path::from(key))).await {
            Ok(meta) => Ok(Some(listed(meta))),
            Err(ObjectError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Some bytes of an object that metadata refers to: all of them, or an error.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn read(&self, object: &TierObject, range: Range<u64>) -> Result<Bytes, ObjectError> {
        self.read_at(&object.bucket, &object.key, range).await
    }

    /// All of a small object in one request; `None` when it is certain that there is none. Of one that is larger the beginning comes, by a
    /// byte more than `most`.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub(crate) async fn read_small(
        &self,
        key: &str,
        most: usize,
    ) -> Result<Option<Bytes>, ObjectError> {
        let whole = async {
            let mut body = self.inner.get(&Path::from(key)).await?.into_stream();
            let mut bytes = BytesMut::new();
            while let Some(part) = body.next().await {
                bytes.extend_from_slice(&part?);
                if bytes.len() > most {
                    bytes.truncate(most + 1);
                    break;
                }
            }
            Ok(bytes.freeze())
        };
        match self.timed("get", key, whole).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(ObjectError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The same of an object whose key is this, in a store that metadata calls `bucket`.
    pub(crate) async fn read_at(
        &self,
        bucket: &str,
        key: &str,
        range: Range<u64>,
    ) -> Result<Bytes, ObjectError> {
        if bucket != self.names.bucket {
            let (named, own) = (bucket.to_owned(), self.names.bucket.clone());
            return Err(ObjectError::OtherStore { named, own });
        }
        let path = Path::from(key);
        let bytes = self.timed("get", key, self.inner.get_range(&path, range.clone())).await?;
        let want = range.end - range.start;
        if bytes.len() as u64 != want {
            let have = bytes.len();
            return Err(ObjectError::Store(format!("{have} bytes came of {want} asked for")));
        }
        Ok(bytes)
    }

    /// Writes an object where there is none; no error when there is one. An error says nothing about what is there.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub(crate) async fn put_new(&self, key: &str, bytes: Bytes) -> Result<(), ObjectError> {
        let path = Path::from(key);
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match measured("put", self.inner.put_opts(&path, bytes.into(), create)).await {
            Ok(Ok(_) | Err(Error::AlreadyExists { .. })) => Ok(()),
            Ok(Err(error)) => Err(ObjectError::Store(error.to_string())),
            Err(_) => Err(ObjectError::Store(format!("no answer within {TIMEOUT:?}"))),
        }
    }

    /// Removes an object; no error when there is none.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn delete(&self, key: &str) -> Result<(), ObjectError> {
        match self.timed("delete", key, self.inner.delete(&Path::from(key))).await {
            Ok(()) | Err(ObjectError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// All objects of a cluster.
    pub fn list(&self, cluster: ClusterUuid) -> BoxStream<'static, Result<Listed, ObjectError>> {
        Self::listing(self.inner.list(Some(&self.root(cluster))))
    }

    /// All objects, whosever they are.
    pub fn list_all(&self) -> BoxStream<'static, Result<Listed, ObjectError>> {
        let prefix = Some(&self.names.prefix).filter(|prefix| !prefix.as_ref().is_empty());
        Self::listing(self.inner.list(prefix))
    }

    fn listing(
        listing: BoxStream<'static, Result<object_store::ObjectMeta, Error>>,
    ) -> BoxStream<'static, Result<Listed, ObjectError>> {
        type Listing = BoxStream<'static, Result<object_store::ObjectMeta, Error>>;
        let next = |mut listing: Listing, first: bool| async move {
            let object = async { listing.next().await.transpose() };
            // Those behind the first come with it, many at a time.
            let next = match first {
                true => measured("list", object).await,
                false => timeout(TIMEOUT, object).await,
            };
            match next {
                Ok(Ok(Some(meta))) => Some((Ok(listed(meta)), Some((listing, false)))),
                Ok(Ok(None)) => None,
                Ok(Err(error)) => {
                    Some((Err(ObjectError::Store(error.to_string())), Some((listing, false))))
                }
                Err(_) => {
                    let why = format!("the listing did not go on within {TIMEOUT:?}");
                    Some((Err(ObjectError::Store(why)), None))
                }
            }
        };
        let step = move |state: Option<(Listing, bool)>| async move {
            let (listing, first) = state?;
            next(listing, first).await
        };
        futures::stream::unfold(Some((listing, true)), step).boxed()
    }

    async fn timed<T>(
        &self,
        op: &'static str,
        key: &str,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, ObjectError> {
        match measured(op, call).await {
            Ok(answer) => answer.map_err(|error| match error {
                Error::NotFound { .. } => {
                    ObjectError::NotFound { bucket: self.names.bucket.clone(), key: key.to_owned() }
                }
                error => ObjectError::Store(error.to_string()),
            }),
            Err(_) => Err(ObjectError::Store(format!("no answer about {key} within {TIMEOUT:?}"))),
        }
    }
}

/// A call to the store, which is given up after [`TIMEOUT`].
async fn measured<T>(
    op: &'static str,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<Result<T, Error>, Elapsed> {
    let asked = Instant::now();
    let answer = timeout(TIMEOUT, call).await;
    let outcome = answer.as_ref().map_or("timeout", outcome);
    metrics::asked(op, outcome, asked.elapsed());
    answer
}

fn outcome<T>(answer: &Result<T, Error>) -> &'static str {
    match answer {
        // One that is there already is as good as written.
        Ok(_) | Err(Error::AlreadyExists { .. }) => "done",
        Err(Error::NotFound { .. }) => "not_found",
        Err(_) => "failed",
    }
}

fn listed(meta: object_store::ObjectMeta) -> Listed {
    Listed {
        key: meta.location.to_string(),
        size: meta.size,
        modified_ms: meta.last_modified.timestamp_millis(),
        etag: meta.e_tag.unwrap_or_default(),
    }
}

fn retries() -> RetryConfig {
    RetryConfig { max_retries: RETRIES, retry_timeout: RETRY_FOR, ..RetryConfig::default() }
}

fn build(
    scheme: ObjectStoreScheme,
    url: &Url,
    options: &Options,
    environment: &[(String, String)],
) -> Result<Arc<dyn ObjectStore>, String> {
    let only_s3 = || match options.path_style {
        true => Err("--object-store-path-style is for s3:// only".to_owned()),
        false => Ok(()),
    };
    let no_endpoint = || match options.endpoint {
        Some(_) => Err("--object-store-endpoint is for s3:// and az:// only".to_owned()),
        None => Ok(()),
    };
    let named = |url: &Url| url.to_string();
    // The builders also know short names, which mean something else in many an environment.
    let of = |vendor: &'static str| {
        environment.iter().filter(move |(key, _)| key.to_ascii_uppercase().starts_with(vendor))
    };
    Ok(match scheme {
        ObjectStoreScheme::Local => {
            only_s3()?;
            no_endpoint()?;
            // What metadata refers to must outlive a power cut: bookies drop their copies for it.
            Arc::new(LocalFileSystem::new().with_fsync(true))
        }
        ObjectStoreScheme::Memory => {
            only_s3()?;
            no_endpoint()?;
            Arc::new(InMemory::new())
        }
        ObjectStoreScheme::AmazonS3 => {
            let start = AmazonS3Builder::new().with_url(named(url)).with_retry(retries());
            let mut builder = of("AWS_").fold(start, |builder, (key, value)| {
                match key.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
                    Ok(key) if !matches!(key, AmazonS3ConfigKey::Bucket) => {
                        builder.with_config(key, value)
                    }
                    Ok(_) | Err(_) => builder,
                }
            });
            if let Some(endpoint) = &options.endpoint {
                let plain = endpoint.starts_with("http://");
                builder = builder.with_endpoint(endpoint).with_allow_http(plain);
            }
            let virtual_hosts = options.endpoint.is_none() && !options.path_style;
            builder = builder.with_virtual_hosted_style_request(virtual_hosts);
            Arc::new(builder.build().map_err(|error| error.to_string())?)
        }
        ObjectStoreScheme::GoogleCloudStorage => {
            only_s3()?;
            no_endpoint()?;
            let start = GoogleCloudStorageBuilder::new().with_url(named(url)).with_retry(retries());
            let builder = of("GOOGLE_").fold(start, |builder, (key, value)| {
                match key.to_ascii_lowercase().parse() {
                    Ok(key) => builder.with_config(key, value),
                    Err(_) => builder,
                }
            });
            Arc::new(builder.build().map_err(|error| error.to_string())?)
        }
        ObjectStoreScheme::MicrosoftAzure => {
            only_s3()?;
            let start = MicrosoftAzureBuilder::new().with_url(named(url)).with_retry(retries());
            let mut builder = of("AZURE_").fold(start, |builder, (key, value)| {
                match key.to_ascii_lowercase().parse() {
                    Ok(key) => builder.with_config(key, value),
                    Err(_) => builder,
                }
            });
            if let Some(endpoint) = &options.endpoint {
                let plain = endpoint.starts_with("http://");
                builder = builder.with_endpoint(endpoint.clone()).with_allow_http(plain);
            }
            Arc::new(builder.build().map_err(|error| error.to_string())?)
        }
        _ => {
            let scheme = url.scheme();
            return Err(format!("{scheme}:// is not known: give s3, gs, az, file or memory"));
        }
    })
}

/// An object on its way. Dropped without [`Upload::complete`], it leaves nothing that is seen; parts that a store keeps are removed by
/// [`Upload::abort`], or by a lifecycle rule of the bucket, or of a directory by [`Store::remove_unfinished`].
#[derive(Debug)]
pub struct Upload {
    store: Store,
    key: String,
    multipart: Option<Box<dyn MultipartUpload>>,
    parts: FuturesUnordered<BoxFuture<'static, Result<(), ObjectError>>>,
}

impl Upload {
    /// Sends a part, of [`PART_BYTES`]; waits while too many are on their way. Not cancel-safe.
    ///
    /// # Errors
    /// [`ObjectError`]: the upload is to be aborted.
    pub async fn part(&mut self, bytes: Bytes) -> Result<(), ObjectError> {
        if self.multipart.is_none() {
            let path = Path::from(self.key.as_str());
            let begun =
                self.store.timed("begin", &self.key, self.store.inner.put_multipart(&path)).await?;
            self.multipart = Some(begun);
        }
        while self.parts.len() >= PARTS_AT_ONCE {
            self.wait_for_part().await?;
        }
        if let Some(multipart) = &mut self.multipart {
            let part = multipart.put_part(bytes.into());
            // Without a limit of its own: it is not looked after while its caller does something else.
            let sending = async move {
                let asked = Instant::now();
                let sent = part.await;
                metrics::asked("part", outcome(&sent), asked.elapsed());
                sent.map_err(|error| ObjectError::Store(error.to_string()))
            };
            self.parts.push(sending.boxed());
        }
        Ok(())
    }

    /// Goes on with what is on its way until a part is there; never returns when nothing is. Cancel-safe.
    ///
    /// # Errors
    /// [`ObjectError`]: the upload is to be aborted.
    pub async fn progress(&mut self) -> Result<(), ObjectError> {
        let part = async {
            match self.parts.next().await {
                Some(done) => done,
                None => std::future::pending().await,
            }
        };
        part.await?;
        fail_point("tier-3-part-sent");
        Ok(())
    }

    /// The same while nothing else is to be done, and no longer than any call may take.
    async fn wait_for_part(&mut self) -> Result<(), ObjectError> {
        let key = self.key.clone();
        match tokio::time::timeout(TIMEOUT, self.progress()).await {
            Ok(sent) => sent,
            Err(_) => Err(ObjectError::Store(format!("no part of {key} within {TIMEOUT:?}"))),
        }
    }

    /// Sends the rest and publishes the object, in one step that takes place or does not. An error says nothing about which.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn complete(&mut self, rest: Bytes) -> Result<(), ObjectError> {
        if self.multipart.is_some() {
            if !rest.is_empty() {
                self.part(rest).await?;
            }
            while !self.parts.is_empty() {
                self.wait_for_part().await?;
            }
            let Some(multipart) = &mut self.multipart else { return Ok(()) };
            return self.store.timed("complete", &self.key, multipart.complete()).await.map(|_| ());
        }
        // The key is this attempt's alone: where it is taken, an earlier try arrived, and its answer was lost. What is there is read back.
        self.store.put_new(&self.key, rest).await
    }

    /// Gives up; best effort.
    pub async fn abort(&mut self) {
        let Some(mut multipart) = self.multipart.take() else { return };
        self.parts.clear();
        if let Err(error) = self.store.timed("abort", &self.key, multipart.abort()).await {
            tracing::info!(key = self.key, %error, "parts of an upload that was given up stay until the bucket's lifecycle rule removes them");
        }
    }
}

mod unfinished;

#[cfg(test)]
mod tests;
