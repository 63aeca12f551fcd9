//! Which of the two kinds of store a platform has, and the way from the one to the other.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tracing::warn;
use wharf_types::Digest;

use super::bucket::{Bucket, BucketAt, BucketError};
use super::cache::{self, Cache};
use super::folder::{LocalArtifacts, folder_of, path_in, stored_in};
use super::owner::{self, FolderError};
use super::shared::SharedArtifacts;
use super::{ArtifactError, ArtifactStore};
use crate::store::platform::Platform;
use crate::store::{self, Store, StoreError, Tx};

/// Where artifacts are kept.
#[derive(Clone, Debug, Default)]
pub enum ArtifactsAt {
    /// In the data directory: for one server, or several that share the folder.
    #[default]
    DataDir,
    /// In a bucket, which all servers on a database share.
    Bucket(BucketAt),
}

impl ArtifactsAt {
    /// Whether servers put things there beside each other.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Self::Bucket(_))
    }

    /// As a platform remembers it.
    pub(crate) fn bucket(&self) -> Option<String> {
        match self {
            Self::DataDir => None,
            Self::Bucket(at) => Some(at.url.to_string()),
        }
    }
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error(transparent)]
    Disk(#[from] io::Error),
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error(transparent)]
    Folder(FolderError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "the artifacts of this platform are in {known}: start with `--artifacts {known}`. To have them in another bucket, stop all servers and \
         copy everything there, with `wharf.json`"
    )]
    Elsewhere { known: String },
    #[error(
        "the server at {other} runs, and keeps artifacts {}: stop it first, so that nothing is pushed to where it will not be looked for",
        known.as_deref().unwrap_or("in its data folder")
    )]
    OthersRun { other: String, known: Option<String> },
}

impl From<FolderError> for PlaceError {
    fn from(error: FolderError) -> Self {
        match error {
            FolderError::Disk(error) => Self::Disk(error),
            error => Self::Folder(error),
        }
    }
}

impl From<ArtifactError> for PlaceError {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::Disk(error) => Self::Disk(error),
            ArtifactError::Bucket(error) => Self::Bucket(error),
        }
    }
}

/// What a start finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Where it was.
    Same,
    /// In a bucket from now on.
    Moves,
}

/// Whether artifacts may be `at` this place from now on.
fn check(platform: &Platform, at: &ArtifactsAt) -> Result<Place, PlaceError> {
    match (&platform.artifacts, at.bucket()) {
        (known, wanted) if *known == wanted => Ok(Place::Same),
        (Some(known), None) => Err(PlaceError::Elsewhere { known: known.clone() }),
        _ => Ok(Place::Moves),
    }
}

/// Makes sure that a platform has its artifacts in this place.
pub(crate) fn check_same(platform: &Platform, at: &ArtifactsAt) -> Result<(), PlaceError> {
    match &platform.artifacts {
        Some(known) if at.bucket().as_ref() != Some(known) => {
            Err(PlaceError::Elsewhere { known: known.clone() })
        }
        _ => Ok(()),
    }
}

/// Opens the store of a data directory whose lock is held, for this server. What its folder has goes into the bucket first, where there is
/// one.
pub(crate) async fn open(
    store: &Store,
    server: &str,
    data_dir: &Path,
    at: &ArtifactsAt,
    image_archive_max_bytes: u64,
) -> Result<Arc<dyn ArtifactStore>, PlaceError> {
    let folder = folder_of(data_dir);
    let found = owner::look(&folder)?;
    let mut tx = store.write().await?;
    let is_new = store::platform::found(&mut tx).await?;
    let platform = store::platform::get(&mut tx).await?.ok_or_else(|| io::Error::other("no platform"))?;
    let place = check(&platform, at)?;
    found.check(&platform.id)?;
    if is_new && !at.is_shared() && knows_none(&mut tx).await? {
        found.check_new()?;
    }
    tx.commit().await?;
    let at = match at {
        ArtifactsAt::DataDir => {
            let artifacts = LocalArtifacts::open(folder)?;
            found.claim(&platform.id, platform.moves)?;
            return Ok(Arc::new(artifacts));
        }
        ArtifactsAt::Bucket(at) => at,
    };
    let bucket = Bucket::connect(at)?;
    if place == Place::Moves {
        nobody_else_runs(store, server, &platform).await?;
        let mark = bucket.mark().await?;
        let is_copy = mark.is_some_and(|mark| mark.platform == platform.id && mark.moves >= platform.moves);
        if let Some(known) = platform.artifacts.clone().filter(|_| !is_copy) {
            return Err(PlaceError::Elsewhere { known });
        }
    }
    bucket.claim(&platform.id, platform.moves + u64::from(place == Place::Moves)).await?;
    bring_in(&folder, &bucket).await?;
    if place == Place::Moves {
        // Before the folder is put aside: a start without the bucket must not take an empty one for all that there is.
        let mut tx = store.write().await?;
        store::platform::move_artifacts(&mut tx, Some(at.url.to_string())).await?;
        tx.commit().await?;
    }
    put_aside(&folder)?;
    let cache = Cache::open(data_dir.join(cache::DIR), cache::max_bytes(image_archive_max_bytes))?;
    Ok(Arc::new(SharedArtifacts::open(bucket, cache)))
}

/// Whether a database speaks of no artifacts at all.
async fn knows_none(tx: &mut Tx) -> Result<bool, PlaceError> {
    Ok(store::artifact::digests(tx).await?.is_empty() && store::archive::digests(tx).await?.is_empty())
}

async fn nobody_else_runs(store: &Store, server: &str, platform: &Platform) -> Result<(), PlaceError> {
    let servers = store.servers().await?;
    match servers.into_iter().flatten().find(|other| other.is_there && other.about.id != server) {
        None => Ok(()),
        Some(other) => {
            Err(PlaceError::OthersRun { other: other.about.address, known: platform.artifacts.clone() })
        }
    }
}

/// Brings what a folder has into a bucket. A start that breaks off does it again.
async fn bring_in(folder: &Path, bucket: &Bucket) -> Result<(), PlaceError> {
    let stored = match stored_in(&folder.join("sha256")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        stored => stored?,
    };
    let mut brought = 0;
    for (digest, _) in &stored {
        let file = path_in(folder, *digest);
        let bytes = fs::metadata(&file)?.len();
        if bucket.size(*digest).await? == Some(bytes) {
            continue;
        }
        if is_whole(&file, *digest).await? {
            bucket.upload(&file, *digest, bytes).await?;
            brought += 1;
        } else {
            warn!("{} is damaged and was not brought along; push the same file again", file.display());
        }
    }
    if brought > 0 {
        warn!("{brought} artifacts have been brought into {}", bucket.at().url);
    }
    Ok(())
}

/// Whether a file is what its name says. An archive of an image may have gigabytes, of which a piece at a time is in memory.
async fn is_whole(file: &Path, digest: Digest) -> io::Result<bool> {
    let file = file.to_owned();
    let found = tokio::task::spawn_blocking(move || Digest::of_reader(fs::File::open(file)?));
    Ok(found.await.map_err(io::Error::other)?? == digest)
}

fn put_aside(folder: &Path) -> io::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    let mut aside = folder.with_extension("moved");
    if aside.exists() {
        aside.set_extension(format!("moved-{}", uuid::Uuid::now_v7()));
    }
    fs::rename(folder, &aside)?;
    warn!("{} is not used any more", aside.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_not_what_its_name_says_is_found_out() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        let octets = vec![7; 200_000];
        fs::write(&file, &octets).unwrap();
        assert!(is_whole(&file, Digest::of(&octets)).await.unwrap());
        assert!(!is_whole(&file, Digest::of(b"other")).await.unwrap());
        assert!(is_whole(&folder.path().join("b"), Digest::of(b"")).await.is_err());
    }

    #[test]
    fn a_platform_moves_to_a_bucket_but_never_back_unawares() {
        let bucket = |url: &str| ArtifactsAt::Bucket(BucketAt::new(url.parse().unwrap(), []));
        let of = |artifacts: Option<&str>| Platform {
            id: "a".to_owned(),
            artifacts: artifacts.map(str::to_owned),
            moves: 0,
        };
        assert_eq!(check(&of(None), &ArtifactsAt::DataDir).unwrap(), Place::Same);
        assert_eq!(check(&of(None), &bucket("s3://b/c")).unwrap(), Place::Moves);
        assert_eq!(check(&of(Some("s3://b/c")), &bucket("s3://b/c/")).unwrap(), Place::Same);
        assert_eq!(check(&of(Some("s3://b/c")), &bucket("s3://b/d")).unwrap(), Place::Moves);
        assert!(check(&of(Some("s3://b/c")), &ArtifactsAt::DataDir).is_err());
        assert!(check_same(&of(Some("s3://b/c")), &bucket("s3://b/d")).is_err());
    }
}
