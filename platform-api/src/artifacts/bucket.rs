//! A bucket of an S3-compatible object store, with artifacts by their digest: `PREFIX/sha256/ab/<64 digits>`, as in a folder.
//!
//! What goes out is checked by the store (each request is signed with the digest of its body), what comes in is checked here.

mod at;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path as Key;
use object_store::{
    BackoffConfig, ClientConfigKey, MultipartUpload, ObjectStore, ObjectStoreExt, RetryConfig,
};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use wharf_types::{Digest, Timestamp};

use super::owner::{MARK, Mark};
use super::{ArtifactError, IMAGE_ARCHIVE_MOST_BYTES, STALL_MAX, UPLOAD_MAX};
pub use at::{BucketAt, BucketUrl, NotABucketUrl};

/// What is larger goes up in parts of this size. All parts but the last have to be equal, and 5 MiB at least.
const PART_BYTES: usize = 8 << 20;
/// Parts that are on their way, and in memory, at the same time.
const PARTS_AT_ONCE: usize = 3;
/// How long a request without much of a body may take in all, with its retries.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// What is below here was found to be something else than its name says.
const DAMAGED: &str = "damaged";

/// Why a bucket cannot be used. Each message says where, and what to do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BucketError {
    #[error(
        "the storage of {url} does not answer: see that it runs, and that the control plane reaches {endpoint}"
    )]
    Away {
        url: BucketUrl,
        endpoint: String,
        #[source]
        source: Cause,
    },
    #[error(
        "the storage of {url} refuses the keys of the control plane: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY have to be those of somebody who may read, write, list and delete there"
    )]
    Refused {
        url: BucketUrl,
        #[source]
        source: Cause,
    },
    #[error("there is no bucket `{}` at {endpoint}: make it, or name another with --artifacts", url.bucket())]
    NoBucket {
        url: BucketUrl,
        endpoint: String,
        #[source]
        source: Cause,
    },
    #[error("the settings for {url} do not fit together: {why}")]
    Settings { url: BucketUrl, why: String },
    #[error(
        "{url} has the artifacts of another platform, and two of them would remove what they do not know of each other: name a prefix of its own, such as {url}/{}",
        own.split('-').next().unwrap_or_default()
    )]
    OfAnother { url: BucketUrl, own: String },
    #[error("what {url} has as {digest} is something else, so it is not used: push the same file again")]
    Damaged { url: BucketUrl, digest: Digest },
    #[error("the storage of {url} failed")]
    Failed {
        url: BucketUrl,
        #[source]
        source: Cause,
    },
}

/// What the object store's client says.
type Cause = Arc<dyn std::error::Error + Send + Sync>;

impl BucketError {
    /// Whether somebody else than the user has to do something.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. })
    }
}

/// A bucket that can be used.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    store: Arc<AmazonS3>,
    at: BucketAt,
}

impl Bucket {
    /// Asks nothing of the bucket yet.
    pub(crate) fn connect(at: &BucketAt) -> Result<Self, BucketError> {
        Ok(Self { store: Arc::new(client(at)?), at: at.clone() })
    }

    pub(crate) fn at(&self) -> &BucketAt {
        &self.at
    }

    /// Whose artifacts are here. None: nobody's.
    pub(crate) async fn mark(&self) -> Result<Option<Mark>, BucketError> {
        let mark = self.at.key(MARK);
        let read = self.within(ANSWER_MAX, async { self.store.get(&mark).await?.bytes().await }).await;
        match read {
            Ok(content) => serde_json::from_slice(&content).map(Some).map_err(|error| {
                let why =
                    format!("`{mark}` says nothing that this version knows ({error}): see what is there");
                BucketError::Settings { url: self.at.url.clone(), why }
            }),
            Err(error) if is_missing_object(&error) => Ok(None),
            Err(error) => Err(self.error(error)),
        }
    }

    /// Makes sure that this is the bucket of this platform and of no other, and that it can be written, read and listed. The mark is written
    /// at each start, which shows that this can be done.
    pub(crate) async fn claim(&self, platform: &str, moves: u64) -> Result<(), BucketError> {
        let url = || self.at.url.clone();
        if self.mark().await?.is_some_and(|mark| mark.platform != platform) {
            return Err(BucketError::OfAnother { url: url(), own: platform.to_owned() });
        }
        let mark = Mark::new(platform, moves);
        self.ask(self.store.put(&self.at.key(MARK), json!(mark).to_string().into())).await?;
        if self.mark().await? != Some(mark) {
            let why = format!("`{}` does not read as it was written", self.at.key(MARK));
            return Err(BucketError::Settings { url: url(), why });
        }
        let dir = self.at.key("sha256");
        self.ask(async { self.store.list(Some(&dir)).next().await.transpose() }).await?;
        Ok(())
    }

    /// Stores a file that has been found to have this digest and this length.
    pub(crate) async fn upload(&self, file: &Path, digest: Digest, bytes: u64) -> Result<(), ArtifactError> {
        let key = self.key(digest);
        let mut file = tokio::fs::File::open(file).await?;
        if bytes <= PART_BYTES as u64 {
            let content = read_part(&mut file).await?;
            self.ask(self.store.put(&key, content.into())).await?;
            return Ok(());
        }
        let mut upload = self.ask(self.store.put_multipart(&key)).await?;
        let sent = timeout(UPLOAD_MAX, self.send_parts(&mut file, upload.as_mut())).await;
        let sent = sent.unwrap_or_else(|late| Err(self.away(Arc::new(late)).into()));
        if sent.is_err() {
            // The store keeps what came of it otherwise, and somebody pays for that.
            let _ = timeout(ANSWER_MAX, upload.abort()).await;
        }
        sent
    }

    async fn send_parts(
        &self,
        file: &mut tokio::fs::File,
        upload: &mut dyn MultipartUpload,
    ) -> Result<(), ArtifactError> {
        let mut under_way = FuturesUnordered::new();
        loop {
            let part = read_part(file).await?;
            if part.is_empty() {
                break;
            }
            under_way.push(upload.put_part(part.into()));
            if under_way.len() >= PARTS_AT_ONCE {
                under_way.next().await.transpose().map_err(|error| self.error(error))?;
            }
        }
        under_way.try_collect::<()>().await.map_err(|error| self.error(error))?;
        upload.complete().await.map_err(|error| self.error(error))?;
        Ok(())
    }

    /// Brings an artifact into a file, which is made. Returns its length; None: there is no such artifact.
    pub(crate) async fn download(&self, digest: Digest, to: &Path) -> Result<Option<u64>, ArtifactError> {
        let key = self.key(digest);
        let found = match self.within(ANSWER_MAX, self.store.get(&key)).await {
            Err(error) if is_missing_object(&error) => return Ok(None),
            found => found.map_err(|error| self.error(error))?,
        };
        let mut file = tokio::fs::File::create_new(to).await?;
        let (mut hasher, mut bytes) = (Sha256::new(), 0_u64);
        let mut chunks = found.into_stream();
        while let Some(chunk) = self.ask_within(STALL_MAX, async { chunks.next().await.transpose() }).await? {
            bytes += chunk.len() as u64;
            if bytes > IMAGE_ARCHIVE_MOST_BYTES {
                return Err(self.damaged(digest).into());
            }
            hasher.update(&chunk);
            file.write_all(&chunk).await?;
        }
        // It gets its name only when it is on the disk.
        file.sync_all().await?;
        let found = Digest::from_bytes(hasher.finalize().into());
        if found == digest { Ok(Some(bytes)) } else { Err(self.damaged(digest).into()) }
    }

    /// The length of what is called so, which may be something else.
    pub(crate) async fn size(&self, digest: Digest) -> Result<Option<u64>, BucketError> {
        let key = self.key(digest);
        match self.within(ANSWER_MAX, self.store.head(&key)).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.error(error)),
        }
    }

    /// Puts aside what is called so, so that nobody takes it for the artifact.
    pub(crate) async fn put_aside(&self, digest: Digest) -> Result<(), BucketError> {
        let aside = self.at.key(&format!("{DAMAGED}/{}", digest.hex()));
        self.ask(self.store.rename(&self.key(digest), &aside)).await
    }

    pub(crate) async fn remove(&self, digest: Digest) -> Result<(), BucketError> {
        let key = self.key(digest);
        match self.within(ANSWER_MAX, self.store.delete(&key)).await {
            Err(error) if !is_missing_object(&error) => Err(self.error(error)),
            _ => Ok(()),
        }
    }

    pub(crate) async fn list(&self) -> Result<Vec<(Digest, Timestamp)>, BucketError> {
        let dir = self.at.key("sha256");
        let mut objects = self.store.list(Some(&dir));
        let mut listed = Vec::new();
        while let Some(object) =
            self.ask_within(STALL_MAX, async { objects.next().await.transpose() }).await?
        {
            // What is not named like an artifact is not ours.
            let name = object.location.filename().unwrap_or_default();
            let Ok(digest) = format!("sha256:{name}").parse() else { continue };
            let written_at = Timestamp::from_microsecond(object.last_modified.timestamp_micros());
            listed.push((digest, written_at.unwrap_or(Timestamp::MAX)));
        }
        Ok(listed)
    }

    fn key(&self, digest: Digest) -> Key {
        let hex = digest.hex();
        self.at.key(&format!("sha256/{}/{hex}", &hex[..2]))
    }

    async fn ask<T>(&self, answer: impl Future<Output = object_store::Result<T>>) -> Result<T, BucketError> {
        self.ask_within(ANSWER_MAX, answer).await
    }

    async fn ask_within<T>(
        &self,
        limit: Duration,
        answer: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, BucketError> {
        self.within(limit, answer).await.map_err(|error| self.error(error))
    }

    async fn within<T>(
        &self,
        limit: Duration,
        answer: impl Future<Output = object_store::Result<T>>,
    ) -> object_store::Result<T> {
        match timeout(limit, answer).await {
            Ok(answer) => answer,
            Err(late) => Err(object_store::Error::Generic { store: "S3", source: late.into() }),
        }
    }

    fn damaged(&self, digest: Digest) -> BucketError {
        BucketError::Damaged { url: self.at.url.clone(), digest }
    }

    fn away(&self, source: Cause) -> BucketError {
        BucketError::Away { url: self.at.url.clone(), endpoint: self.at.endpoint(), source }
    }

    fn error(&self, error: object_store::Error) -> BucketError {
        use object_store::Error;
        let url = self.at.url.clone();
        match error {
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                BucketError::Refused { url, source: Arc::new(error) }
            }
            Error::NotFound { .. } => {
                BucketError::NoBucket { url, endpoint: self.at.endpoint(), source: Arc::new(error) }
            }
            Error::Generic { .. } if !self.at.has_keys() => {
                // The client then asks the machine that it runs on, which only answers in a cloud.
                let why = "no keys are given: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
                BucketError::Settings { url, why: format!("{why} ({error})") }
            }
            Error::Generic { .. } => self.away(Arc::new(error)),
            error => BucketError::Failed { url, source: Arc::new(error) },
        }
    }
}

/// Up to [`PART_BYTES`] of a file, from where it is.
async fn read_part(file: &mut tokio::fs::File) -> io::Result<Bytes> {
    let mut part = BytesMut::with_capacity(PART_BYTES);
    while part.len() < PART_BYTES {
        let left = PART_BYTES - part.len();
        if file.take(left as u64).read_buf(&mut part).await? == 0 {
            break;
        }
    }
    Ok(part.freeze())
}

/// Whether it is the object that is not there, and not the whole bucket.
fn is_missing_object(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. }) && !error.to_string().contains("NoSuchBucket")
}

fn client(at: &BucketAt) -> Result<AmazonS3, BucketError> {
    let settings = |why: String| BucketError::Settings { url: at.url.clone(), why };
    if at.endpoint().starts_with("http://") && !at.allows_http() {
        let why = format!("{} is not encrypted; set AWS_ALLOW_HTTP=true if that is meant", at.endpoint());
        return Err(settings(why));
    }
    // The HTTP client asks for a provider. An error says that the process has chosen one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let retries = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: 3,
        retry_timeout: Duration::from_secs(10),
    };
    let client = AmazonS3ConfigKey::Client;
    let mut builder = AmazonS3Builder::new()
        .with_config(client(ClientConfigKey::ConnectTimeout), "3s")
        .with_config(client(ClientConfigKey::ReadTimeout), "15s")
        // Of one request with its body: a part, or what is left of an artifact, which is asked for again from where it was.
        .with_config(client(ClientConfigKey::Timeout), "120s")
        .with_retry(retries)
        // One request an object, which every such store knows.
        .with_disable_bulk_delete(true);
    for (key, value) in at.settings() {
        // The environment has variables for other programs, too.
        if let Ok(key) = key.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            builder = builder.with_config(key, value);
        }
    }
    builder.with_bucket_name(at.url.bucket()).build().map_err(|error| settings(error.to_string()))
}
