//! Where the bytes of artifacts are kept, by their digest: in a folder of this server, or in a bucket that servers share.

mod bucket;
mod cache;
pub(crate) mod collect;
mod folder;
mod incoming;
mod place;
mod shared;

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use wharf_types::{Digest, Timestamp};

use crate::inspect::{self, InvalidArtifact};

pub(crate) use bucket::Bucket;
pub use bucket::{BucketAt, BucketError, BucketUrl, NotABucketUrl};
pub use folder::artifact_file;
pub use place::ArtifactsAt;
pub(crate) use place::{PlaceError, check_place, mark, open};

/// The largest artifact.
pub(crate) const ARTIFACT_MAX_BYTES: u64 = 256 << 20;
/// Uploads at the same time; each holds a thread that writes.
pub(crate) const UPLOADS_MAX: u32 = 16;
/// How long an upload may send nothing.
const STALL_MAX: Duration = Duration::from_secs(30);
/// How long a whole upload may take.
const UPLOAD_MAX: Duration = Duration::from_secs(900);

pub(crate) type Body = futures::stream::BoxStream<'static, io::Result<Bytes>>;

/// What is taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Wasm,
    /// An archive, which is looked at when it is there.
    Files,
}

impl Content {
    fn check_head(self, head: &[u8]) -> Result<(), InvalidArtifact> {
        match self {
            Self::Wasm => inspect::check_head(head),
            Self::Files => Ok(()),
        }
    }
}

/// Content-addressed bytes: a folder, or an object store.
#[async_trait::async_trait]
pub(crate) trait ArtifactStore: Send + Sync {
    /// Takes bytes in. They are kept only when they are whole, have the announced digest, and begin as such content does.
    async fn put(&self, digest: Digest, content: Content, body: Body) -> Result<u64, PutError>;

    /// The bytes and their number, in a file of this server. None: there are none of this digest.
    async fn open(&self, digest: Digest) -> Result<Option<(u64, tokio::fs::File)>, ArtifactError>;

    /// How many bytes are kept for good: a copy that may go does not count, and neither does what is not what its name says.
    async fn size(&self, digest: Digest) -> Result<Option<u64>, ArtifactError>;

    /// Gives the bytes up again.
    async fn remove(&self, digest: Digest) -> Result<(), ArtifactError>;

    /// What there is, and since when.
    async fn list(&self) -> Result<Vec<(Digest, Timestamp)>, ArtifactError>;
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
    #[error("the artifact is larger than {} MiB, the most that is accepted", ARTIFACT_MAX_BYTES >> 20)]
    TooLarge,
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

/// Reads a stored artifact as a stream.
pub(crate) fn stream(file: tokio::fs::File) -> impl Stream<Item = io::Result<Bytes>> {
    tokio_util::io::ReaderStream::with_capacity(file, 256 << 10)
}
