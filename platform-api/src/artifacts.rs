//! Where the bytes of artifacts are kept, by their digest.

pub(crate) mod collect;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use wharf_types::{Digest, Timestamp};

use crate::data_dir::sync_dir;
use crate::inspect::{self, InvalidArtifact};

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

/// Content-addressed bytes. An object store may stand behind it as well as a folder.
#[async_trait::async_trait]
pub(crate) trait ArtifactStore: Send + Sync {
    /// Takes bytes in. They are kept only when they are whole, have the announced digest, and begin as such content does.
    async fn put(&self, digest: Digest, content: Content, body: Body) -> Result<u64, PutError>;

    /// The bytes and their number. None: there are none of this digest.
    async fn open(&self, digest: Digest) -> io::Result<Option<(u64, tokio::fs::File)>>;

    /// Gives the bytes up again.
    async fn remove(&self, digest: Digest) -> io::Result<()>;

    /// What there is, and since when.
    async fn list(&self) -> io::Result<Vec<(Digest, Timestamp)>>;
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
}

/// Within the data directory.
pub(crate) const DIR: &str = "artifacts";

/// `DIR/sha256/ab/<64 digits>`.
pub(crate) struct LocalArtifacts {
    dir: PathBuf,
}

impl LocalArtifacts {
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(dir.join("sha256"))?;
        // What was being written when the process ended is of no use.
        let incoming = dir.join("incoming");
        match fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir(&incoming)?;
        Ok(Self { dir })
    }

    fn path(&self, digest: Digest) -> PathBuf {
        path_in(&self.dir, digest)
    }
}

fn path_in(dir: &Path, digest: Digest) -> PathBuf {
    let hex = digest.hex();
    dir.join("sha256").join(&hex[..2]).join(hex)
}

/// Where the platform with this data directory keeps an artifact. It never changes, so whoever reads it needs no lock; it may go.
pub fn artifact_file(data_dir: &Path, digest: Digest) -> PathBuf {
    path_in(&data_dir.join(DIR), digest)
}

#[async_trait::async_trait]
impl ArtifactStore for LocalArtifacts {
    async fn put(&self, digest: Digest, content: Content, mut body: Body) -> Result<u64, PutError> {
        let temporary = self.dir.join("incoming").join(uuid::Uuid::now_v7().to_string());
        let target = self.path(digest);
        // Hashing and writing block, so a thread does them; the channel holds little, so a slow disk slows the sender.
        let (chunks, incoming) = mpsc::channel(4);
        let writer = tokio::task::spawn_blocking(move || {
            let outcome = receive(&temporary, &target, digest, content, incoming);
            if outcome.is_err() {
                let _ = fs::remove_file(&temporary);
            }
            outcome
        });
        let end = Instant::now() + UPLOAD_MAX;
        loop {
            let limit = end.min(Instant::now() + STALL_MAX);
            let chunk = match timeout_at(limit, body.next()).await {
                Ok(Some(chunk)) => chunk.map_err(PutError::Upload),
                Ok(None) => break,
                Err(_) => Err(PutError::Slow),
            };
            let broken = chunk.is_err();
            if chunks.send(Some(chunk)).await.is_err() || broken {
                break;
            }
        }
        // If the client goes away, this future is dropped before the end mark is sent, and nothing is kept.
        let _ = chunks.send(None).await;
        drop(chunks);
        match writer.await {
            Ok(outcome) => outcome,
            Err(panic) => Err(PutError::Write(io::Error::other(panic))),
        }
    }

    async fn open(&self, digest: Digest) -> io::Result<Option<(u64, tokio::fs::File)>> {
        match tokio::fs::File::open(self.path(digest)).await {
            Ok(file) => Ok(Some((file.metadata().await?.len(), file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn remove(&self, digest: Digest) -> io::Result<()> {
        match tokio::fs::remove_file(self.path(digest)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    async fn list(&self) -> io::Result<Vec<(Digest, Timestamp)>> {
        let dir = self.dir.join("sha256");
        tokio::task::spawn_blocking(move || stored_in(&dir)).await.map_err(io::Error::other)?
    }
}

fn stored_in(dir: &Path) -> io::Result<Vec<(Digest, Timestamp)>> {
    let mut stored = Vec::new();
    for group in fs::read_dir(dir)? {
        for file in fs::read_dir(group?.path())? {
            let file = file?;
            let digest = file.file_name().to_str().and_then(|hex| format!("sha256:{hex}").parse().ok());
            // What is not named like an artifact is not ours.
            let Some(digest) = digest else { continue };
            let written_at = Timestamp::try_from(file.metadata()?.modified()?).map_err(io::Error::other)?;
            stored.push((digest, written_at));
        }
    }
    Ok(stored)
}

/// Writes what comes in until the end mark.
fn receive(
    temporary: &Path,
    target: &Path,
    digest: Digest,
    content: Content,
    mut incoming: mpsc::Receiver<Option<Result<Bytes, PutError>>>,
) -> Result<u64, PutError> {
    let mut file = fs::File::create_new(temporary).map_err(PutError::Write)?;
    let mut hasher = Sha256::new();
    let mut head = Vec::with_capacity(inspect::HEAD_BYTES);
    let mut bytes = 0_u64;
    loop {
        let chunk = match incoming.blocking_recv() {
            Some(Some(chunk)) => chunk?,
            Some(None) => break,
            None => return Err(PutError::Upload(io::ErrorKind::UnexpectedEof.into())),
        };
        bytes += chunk.len() as u64;
        if bytes > ARTIFACT_MAX_BYTES {
            return Err(PutError::TooLarge);
        }
        if head.len() < inspect::HEAD_BYTES {
            head.extend(chunk.iter().take(inspect::HEAD_BYTES - head.len()));
            content.check_head(&head)?;
        }
        hasher.update(&chunk);
        file.write_all(&chunk).map_err(PutError::Write)?;
    }
    content.check_head(&head)?;
    let actual = Digest::from_bytes(hasher.finalize().into());
    if actual != digest {
        return Err(PutError::Mismatch { announced: digest, actual });
    }
    file.sync_all().map_err(PutError::Write)?;
    let keep = || {
        if let Some(dir) = target.parent() {
            fs::create_dir_all(dir)?;
            sync_dir(dir)?;
        }
        fs::rename(temporary, target)?;
        sync_dir(target)
    };
    keep().map_err(PutError::Write)?;
    Ok(bytes)
}

/// Reads a stored artifact as a stream.
pub(crate) fn stream(file: tokio::fs::File) -> impl Stream<Item = io::Result<Bytes>> {
    tokio_util::io::ReaderStream::with_capacity(file, 256 << 10)
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn body(chunks: Vec<io::Result<Bytes>>) -> Body {
        stream::iter(chunks).boxed()
    }

    fn files(dir: &Path) -> usize {
        let Ok(entries) = fs::read_dir(dir) else { return 1 };
        entries.map(|entry| files(&entry.unwrap().path())).sum()
    }

    const WASM: &[u8] = b"\0asm\x01\0\0\0";

    #[tokio::test]
    async fn what_is_put_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalArtifacts::open(dir.path().into()).unwrap();
        let digest = Digest::of(WASM);
        let chunks = WASM.chunks(3).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        assert_eq!(store.put(digest, Content::Wasm, body(chunks)).await.unwrap(), 8);
        let (bytes, file) = store.open(digest).await.unwrap().unwrap();
        assert_eq!(bytes, 8);
        let read: Vec<Bytes> = Box::pin(super::stream(file)).map(Result::unwrap).collect().await;
        assert_eq!(read.concat(), WASM);
        assert!(store.open(Digest::of(b"other")).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn nothing_is_kept_of_a_bad_upload() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalArtifacts::open(dir.path().into()).unwrap();
        let wrong =
            store.put(Digest::of(b"x"), Content::Wasm, body(vec![Ok(Bytes::from_static(WASM))])).await;
        assert!(matches!(wrong, Err(PutError::Mismatch { .. })), "{wrong:?}");
        let broken = vec![Ok(Bytes::from_static(WASM)), Err(io::ErrorKind::ConnectionReset.into())];
        assert!(matches!(
            store.put(Digest::of(WASM), Content::Wasm, body(broken)).await,
            Err(PutError::Upload(_))
        ));
        let zeros =
            store.put(Digest::of(WASM), Content::Wasm, body(vec![Ok(Bytes::from_static(&[0; 64]))])).await;
        assert!(matches!(zeros, Err(PutError::Invalid(_))), "{zeros:?}");
        assert!(matches!(
            store.put(Digest::of(b""), Content::Wasm, body(vec![])).await,
            Err(PutError::Invalid(InvalidArtifact::Empty))
        ));
        assert_eq!(files(dir.path()), 0);
    }

    #[tokio::test]
    async fn an_upload_that_stalls_is_given_up_and_nothing_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalArtifacts::open(dir.path().into()).unwrap();
        tokio::time::pause();
        let stalled = stream::iter([Ok(Bytes::from_static(WASM))]).chain(stream::pending()).boxed();
        let upload = tokio::spawn(async move { store.put(Digest::of(WASM), Content::Wasm, stalled).await });
        // The task may take a few turns to get to its wait.
        for _ in 0..2 * STALL_MAX.as_secs() {
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(matches!(upload.await.unwrap(), Err(PutError::Slow)));
        assert_eq!(files(dir.path()), 0);
    }

    #[tokio::test]
    async fn zeros_without_end_are_refused_at_the_first_ones() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalArtifacts::open(dir.path().into()).unwrap();
        let zeros = stream::repeat_with(|| Ok(Bytes::from_static(&[0; 4096]))).boxed();
        let refused = store.put(Digest::of(b""), Content::Wasm, zeros).await;
        assert!(matches!(refused, Err(PutError::Invalid(_))), "{refused:?}");
    }
}
