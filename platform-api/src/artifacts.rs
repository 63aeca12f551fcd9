//! Where the bytes of artifacts are kept, by their digest: in a folder of this server, or in a bucket that servers share.

mod bucket;
mod cache;
pub(crate) mod collect;
mod folder;
mod incoming;
pub(crate) mod owner;
mod place;
mod shared;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::sync::OwnedSemaphorePermit;
use wharf_types::{Digest, Timestamp};

use crate::inspect::{self, InvalidArtifact};

pub(crate) use bucket::Bucket;
pub use bucket::{BucketAt, BucketError, BucketUrl, NotABucketUrl};
pub use folder::artifact_file;
pub(crate) use folder::{draft_of, folder_of, keep};
pub use place::ArtifactsAt;
pub(crate) use place::{PlaceError, check_same, open};

/// The largest artifact that is no archive of an image.
pub(crate) const ARTIFACT_MAX_BYTES: u64 = 256 << 20;
/// The largest archive of an image, where nobody says otherwise: as much as workers of before take.
pub const IMAGE_ARCHIVE_USUAL_BYTES: u64 = 1 << 30;
/// What nobody can set it beyond.
pub const IMAGE_ARCHIVE_MOST_BYTES: u64 = 16 << 30;
/// Uploads at the same time; each holds a thread that writes.
pub(crate) const UPLOADS_MAX: u32 = 16;
/// How long an upload may send nothing.
const STALL_MAX: Duration = Duration::from_secs(30);
/// How long a whole upload may take.
const UPLOAD_MAX: Duration = Duration::from_secs(900);

/// One of the [`UPLOADS_MAX`].
pub(crate) type Place = Arc<OwnedSemaphorePermit>;

pub(crate) type Body = futures::stream::BoxStream<'static, io::Result<Bytes>>;

/// What is taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// WebAssembly, an image's document, or the archive of an image, which has a limit of its own.
    Artifact { image_max_bytes: u64 },
    /// An archive, which is looked at when it is there.
    Files,
}

impl Content {
    fn check_head(self, head: &[u8]) -> Result<(), InvalidArtifact> {
        match self {
            Self::Artifact { .. } => inspect::check_head(head),
            Self::Files => Ok(()),
        }
    }

    /// The most octets of what begins so.
    fn max_bytes(self, head: &[u8]) -> u64 {
        match self {
            Self::Artifact { image_max_bytes } if inspect::is_archive(head) => image_max_bytes,
            Self::Artifact { .. } | Self::Files => ARTIFACT_MAX_BYTES,
        }
    }

    /// The most octets of anything of the kind.
    pub(crate) fn most_bytes(self) -> u64 {
        match self {
            Self::Artifact { image_max_bytes } => image_max_bytes.max(ARTIFACT_MAX_BYTES),
            Self::Files => ARTIFACT_MAX_BYTES,
        }
    }
}

/// Content-addressed bytes: a folder, or an object store.
#[async_trait::async_trait]
pub(crate) trait ArtifactStore: Send + Sync {
    /// Takes bytes in. They are kept only when they are whole, have the announced digest, and begin as such content does. The place is held
    /// while anything is done for them, also when nobody waits for that any more.
    async fn put(&self, digest: Digest, content: Content, body: Body, place: &Place)
    -> Result<u64, PutError>;

    /// The bytes and their number, in a file of this server. None: there are none of this digest.
    async fn open(&self, digest: Digest) -> Result<Option<(u64, tokio::fs::File)>, ArtifactError>;

    /// How many bytes are kept for good: a copy that may go does not count, and neither does what is not what its name says, as far as that
    /// is found out without bringing an archive of an image from a bucket.
    async fn size(&self, digest: Digest) -> Result<Option<u64>, ArtifactError>;

    /// Gives the bytes up again.
    async fn remove(&self, digest: Digest) -> Result<(), ArtifactError>;

    /// What there is, and since when.
    async fn list(&self) -> Result<Vec<(Digest, Timestamp)>, ArtifactError>;
}

impl Clone for ArtifactError {
    fn clone(&self) -> Self {
        match self {
            // The kind, and what it says, are all that anybody looks at.
            Self::Disk(error) => Self::Disk(io::Error::new(error.kind(), error.to_string())),
            Self::Bucket(error) => Self::Bucket(error.clone()),
        }
    }
}

/// Why bytes cannot be had, or given up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArtifactError {
    #[error(transparent)]
    Disk(#[from] io::Error),
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PutError {
    #[error("the artifact is larger than {} MiB, the most that is accepted", max_bytes >> 20)]
    TooLarge { max_bytes: u64 },
    #[error("the bytes have the digest {actual}, not the announced {announced}: push the file again")]
    Mismatch { announced: Digest, actual: Digest },
    #[error(transparent)]
    Invalid(#[from] InvalidArtifact),
    #[error("the upload broke off")]
    Upload(#[source] io::Error),
    #[error(
        "the upload was too slow: send something at least every {} s, and everything within {} minutes; push it again",
        STALL_MAX.as_secs(),
        UPLOAD_MAX.as_secs() / 60
    )]
    Slow,
    #[error("the artifact could not be written")]
    Write(#[source] io::Error),
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

/// With the usual limits.
#[cfg(test)]
pub(crate) const AN_ARTIFACT: Content = Content::Artifact { image_max_bytes: IMAGE_ARCHIVE_USUAL_BYTES };

/// A place that nobody else wants.
#[cfg(test)]
pub(crate) fn a_place() -> Place {
    let places = Arc::new(tokio::sync::Semaphore::new(1));
    Arc::new(places.try_acquire_owned().unwrap())
}

/// Reads a stored artifact as a stream.
pub(crate) fn stream(file: tokio::fs::File) -> impl Stream<Item = io::Result<Bytes>> {
    tokio_util::io::ReaderStream::with_capacity(file, 256 << 10)
}
