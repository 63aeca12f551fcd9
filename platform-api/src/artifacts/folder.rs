//! Artifacts in a folder of this server.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use wharf_types::{Digest, Timestamp};

use super::incoming::{self, Draft, take_in};
use super::{ArtifactError, ArtifactStore, Body, Content, Place, PutError};
use crate::data_dir::sync_dir;

/// Within the data directory.
const DIR: &str = "artifacts";

/// `DIR/sha256/ab/<64 digits>`, and beside them whose they are.
pub(crate) struct LocalArtifacts {
    dir: PathBuf,
    incoming: PathBuf,
}

impl LocalArtifacts {
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(dir.join("sha256"))?;
        let incoming = incoming::folder_in(&dir)?;
        Ok(Self { dir, incoming })
    }

    fn path(&self, digest: Digest) -> PathBuf {
        path_in(&self.dir, digest)
    }
}

pub(super) fn path_in(dir: &Path, digest: Digest) -> PathBuf {
    let hex = digest.hex();
    dir.join("sha256").join(&hex[..2]).join(hex)
}

/// Where the platform with this data directory keeps its artifacts, unless they are in a bucket.
pub(crate) fn folder_of(data_dir: &Path) -> PathBuf {
    data_dir.join(DIR)
}

/// Where an artifact of a backup is written before it gets its name. The next start clears the place.
pub(crate) fn draft_of(data_dir: &Path) -> PathBuf {
    folder_of(data_dir).join(incoming::DIR).join("restored")
}

/// Where the platform with this data directory keeps an artifact. It never changes, so whoever reads it needs no lock; it may go.
pub fn artifact_file(data_dir: &Path, digest: Digest) -> PathBuf {
    path_in(&folder_of(data_dir), digest)
}

/// Gives a file that is whole the name under which it is found, so that the name lasts.
pub(crate) fn keep(draft: &Path, target: &Path) -> io::Result<()> {
    if let Some(dir) = target.parent() {
        fs::create_dir_all(dir)?;
        sync_dir(dir)?;
    }
    fs::rename(draft, target)?;
    sync_dir(target)
}

#[async_trait::async_trait]
impl ArtifactStore for LocalArtifacts {
    async fn put(&self, digest: Digest, content: Content, body: Body, _: &Place) -> Result<u64, PutError> {
        let (draft, target) = (Draft::in_folder(&self.incoming), self.path(digest));
        take_in(draft.0.clone(), digest, content, body, move |file| keep(file, &target)).await
    }

    async fn open(&self, digest: Digest) -> Result<Option<(u64, tokio::fs::File)>, ArtifactError> {
        match tokio::fs::File::open(self.path(digest)).await {
            Ok(file) => Ok(Some((file.metadata().await?.len(), file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn size(&self, digest: Digest) -> Result<Option<u64>, ArtifactError> {
        Ok(self.open(digest).await?.map(|(bytes, _)| bytes))
    }

    async fn remove(&self, digest: Digest) -> Result<(), ArtifactError> {
        match tokio::fs::remove_file(self.path(digest)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn list(&self) -> Result<Vec<(Digest, Timestamp)>, ArtifactError> {
        let dir = self.dir.join("sha256");
        Ok(tokio::task::spawn_blocking(move || stored_in(&dir)).await.map_err(io::Error::other)??)
    }
}

/// What a folder of artifacts holds, and since when.
pub(super) fn stored_in(dir: &Path) -> io::Result<Vec<(Digest, Timestamp)>> {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use futures::{StreamExt, stream};

    use super::super::{AN_ARTIFACT, ARTIFACT_MAX_BYTES, STALL_MAX, a_place};
    use super::*;
    use crate::inspect::InvalidArtifact;

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
        assert_eq!(store.put(digest, AN_ARTIFACT, body(chunks), &a_place()).await.unwrap(), 8);
        let (bytes, file) = store.open(digest).await.unwrap().unwrap();
        assert_eq!(bytes, 8);
        let read: Vec<Bytes> = Box::pin(super::super::stream(file)).map(Result::unwrap).collect().await;
        assert_eq!(read.concat(), WASM);
        assert!(store.open(Digest::of(b"other")).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn nothing_is_kept_of_a_bad_upload() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalArtifacts::open(dir.path().into()).unwrap();
        let wrong = store
            .put(Digest::of(b"x"), AN_ARTIFACT, body(vec![Ok(Bytes::from_static(WASM))]), &a_place())
            .await;
        assert!(matches!(wrong, Err(PutError::Mismatch { .. })), "{wrong:?}");
        let broken = vec![Ok(Bytes::from_static(WASM)), Err(io::ErrorKind::ConnectionReset.into())];
        assert!(matches!(
            store.put(Digest::of(WASM), AN_ARTIFACT, body(broken), &a_place()).await,
            Err(PutError::Upload(_))
        ));
        let zeros = store
            .put(Digest::of(WASM), AN_ARTIFACT, body(vec![Ok(Bytes::from_static(&[0; 64]))]), &a_place())
            .await;
        assert!(matches!(zeros, Err(PutError::Invalid(_))), "{zeros:?}");
        assert!(matches!(
            store.put(Digest::of(b""), AN_ARTIFACT, body(vec![]), &a_place()).await,
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
        let upload =
            tokio::spawn(async move { store.put(Digest::of(WASM), AN_ARTIFACT, stalled, &a_place()).await });
        // The task may take a few turns to get to its wait.
        for _ in 0..2 * STALL_MAX.as_secs() {
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(matches!(upload.await.unwrap(), Err(PutError::Slow)));
        assert_eq!(files(dir.path()), 0);
    }

    #[tokio::test]
    async fn an_archive_of_an_image_has_a_limit_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalArtifacts::open(dir.path().into()).unwrap();
        let mut archive = vec![b'x'; 4096];
        archive[257..262].copy_from_slice(b"ustar");
        let put = async |octets: &[u8], image_max_bytes: u64| {
            let chunks = octets.chunks(200).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
            let content = Content::Artifact { image_max_bytes };
            store.put(Digest::of(octets), content, body(chunks), &a_place()).await
        };
        let refused = put(&archive, 4095).await;
        assert!(matches!(refused, Err(PutError::TooLarge { max_bytes: 4095 })), "{refused:?}");
        assert_eq!(files(dir.path()), 0);
        assert_eq!(put(&archive, 4096).await.unwrap(), 4096);
        let wasm = [WASM, &[0; 4096]].concat();
        assert!(put(&wasm, 0).await.is_ok(), "it is no archive");
        let content = Content::Artifact { image_max_bytes: 0 };
        assert_eq!(
            (content.most_bytes(), Content::Files.most_bytes()),
            (ARTIFACT_MAX_BYTES, ARTIFACT_MAX_BYTES)
        );
    }

    #[tokio::test]
    async fn zeros_without_end_are_refused_at_the_first_ones() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalArtifacts::open(dir.path().into()).unwrap();
        let zeros = stream::repeat_with(|| Ok(Bytes::from_static(&[0; 4096]))).boxed();
        let refused = store.put(Digest::of(b""), AN_ARTIFACT, zeros, &a_place()).await;
        assert!(matches!(refused, Err(PutError::Invalid(_))), "{refused:?}");
    }
}
