//! Which of the two kinds of store a data directory has, and the way from the one to the other.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::warn;
use wharf_types::Digest;

use super::bucket::{Bucket, BucketAt, BucketError};
use super::folder::{DIR, LocalArtifacts, path_in, stored_in};
use super::shared::SharedArtifacts;
use super::{ArtifactError, ArtifactStore, cache};
use crate::data_dir::{read_secret, write_secret};

/// Says which bucket has the artifacts of a data directory, so that no start takes its folder for all there is.
const MARK: &str = "artifacts.at";

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
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error(transparent)]
    Disk(#[from] io::Error),
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error("the artifacts of {} are in {other}: start with `--artifacts {other}`. If they have been brought elsewhere, remove {}", dir.display(), dir.join(MARK).display())]
    Elsewhere { dir: PathBuf, other: String },
}

impl From<ArtifactError> for PlaceError {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::Disk(error) => Self::Disk(error),
            ArtifactError::Bucket(error) => Self::Bucket(error),
        }
    }
}

/// Makes sure that a data directory does not have its artifacts in another place.
pub(crate) fn check_place(data_dir: &Path, at: &ArtifactsAt) -> Result<(), PlaceError> {
    let Some(known) = read_secret(&data_dir.join(MARK))? else { return Ok(()) };
    match at {
        ArtifactsAt::Bucket(at) if at.url.to_string() == known => Ok(()),
        _ => Err(PlaceError::Elsewhere { dir: data_dir.to_owned(), other: known }),
    }
}

/// Lets every later start of a data directory know where its artifacts are.
pub(crate) fn mark(data_dir: &Path, at: &BucketAt) -> io::Result<()> {
    let mark = data_dir.join(MARK);
    if mark.exists() { Ok(()) } else { write_secret(&mark, &at.url.to_string()) }
}

/// Opens the store of a data directory whose lock is held. What its folder has goes into the bucket first, where there is one.
pub(crate) async fn open(data_dir: &Path, at: &ArtifactsAt) -> Result<Arc<dyn ArtifactStore>, PlaceError> {
    check_place(data_dir, at)?;
    let folder = data_dir.join(DIR);
    let at = match at {
        ArtifactsAt::DataDir => return Ok(Arc::new(LocalArtifacts::open(folder)?)),
        ArtifactsAt::Bucket(at) => at,
    };
    let bucket = Bucket::open(at).await?;
    bring_in(&folder, &bucket).await?;
    // Before the folder is put aside: a start without the bucket must not take an empty one for all that there is.
    mark(data_dir, at)?;
    put_aside(&folder)?;
    Ok(Arc::new(SharedArtifacts::open(bucket, data_dir.join(cache::DIR))?))
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
        if Digest::of(&fs::read(&file)?) == *digest {
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
