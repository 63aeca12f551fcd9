//! Where the artifacts of a backup come from, and where those of one that is restored go.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use wharf_types::Digest;

use super::BackupError;
use crate::artifacts::{self, ArtifactError, ArtifactsAt, Bucket, PlaceError, artifact_file, owner};
use crate::data_dir::OpenError;

/// Of a backup.
pub(super) enum Source {
    Folder {
        data_dir: PathBuf,
        archive: PathBuf,
    },
    /// Each comes into a file first, beside the archive, which has room for them all.
    Bucket {
        bucket: Bucket,
        file: PathBuf,
    },
}

impl Source {
    pub(super) fn open(data_dir: &Path, at: &ArtifactsAt, archive: &Path) -> Result<Self, BackupError> {
        Ok(match at {
            ArtifactsAt::DataDir => Self::Folder { data_dir: data_dir.into(), archive: archive.into() },
            ArtifactsAt::Bucket(at) => {
                Self::Bucket { bucket: Bucket::connect(at)?, file: archive.with_extension("artifact.new") }
            }
        })
    }

    pub(super) async fn file(&self, digest: Digest) -> Result<File, BackupError> {
        match self {
            Self::Folder { data_dir, archive } => {
                File::open(artifact_file(data_dir, digest)).map_err(io_error(archive))
            }
            Self::Bucket { bucket, file } => {
                let brought = async {
                    remove(file)?;
                    let found = bucket.download(digest, file).await?;
                    Ok(found.map(|_| File::open(file)).transpose()?)
                };
                let brought = brought.await.map_err(content_error(file));
                // Open, it can be read without a name.
                let _ = fs::remove_file(file);
                brought?.ok_or_else(|| BackupError::Missing { url: bucket.at().url.clone(), digest })
            }
        }
    }
}

/// Of a backup that is restored.
pub(super) enum Target {
    Folder(PathBuf),
    Bucket { bucket: Bucket, file: PathBuf },
}

impl Target {
    pub(super) fn open(data_dir: &Path, at: &ArtifactsAt) -> Result<Self, BackupError> {
        Ok(match at {
            ArtifactsAt::DataDir => Self::Folder(data_dir.into()),
            ArtifactsAt::Bucket(at) => {
                Self::Bucket { bucket: Bucket::connect(at)?, file: data_dir.join("artifact.new") }
            }
        })
    }

    /// Makes sure that no other platform has its artifacts there.
    pub(super) async fn claim(&self, platform: &str, moves: u64) -> Result<(), BackupError> {
        match self {
            Self::Folder(data_dir) => {
                let found =
                    owner::look(&artifacts::folder_of(data_dir)).and_then(|found| found.check(platform));
                found.map_err(PlaceError::from).map_err(place_error(data_dir))
            }
            Self::Bucket { bucket, .. } => Ok(bucket.claim(platform, moves).await?),
        }
    }

    /// Puts octets there that have been found to have this digest.
    pub(super) async fn put(&self, digest: Digest, octets: &[u8]) -> Result<(), BackupError> {
        match self {
            Self::Folder(data_dir) => {
                let file = artifact_file(data_dir, digest);
                write(&file, octets).map_err(io_error(&file))
            }
            Self::Bucket { bucket, file } => {
                write(file, octets).map_err(io_error(file))?;
                let uploaded = bucket.upload(file, digest, octets.len() as u64).await;
                let _ = fs::remove_file(file);
                uploaded.map_err(content_error(file))
            }
        }
    }
}

fn write(file: &Path, octets: &[u8]) -> io::Result<()> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut out = File::create(file)?;
    out.write_all(octets)?;
    out.sync_all()
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn io_error(file: &Path) -> impl Fn(io::Error) -> BackupError {
    move |source| BackupError::File { file: file.to_owned(), source }
}

fn content_error(file: &Path) -> impl Fn(ArtifactError) -> BackupError {
    move |error| match error {
        ArtifactError::Disk(source) => BackupError::File { file: file.to_owned(), source },
        ArtifactError::Bucket(error) => BackupError::Bucket(error),
    }
}

/// What is said where the artifacts of a data directory are in another place.
pub(super) fn place_error(data_dir: &Path) -> impl Fn(PlaceError) -> BackupError {
    move |error| match error {
        PlaceError::Disk(source) => BackupError::File { file: data_dir.to_owned(), source },
        PlaceError::Bucket(error) => BackupError::Bucket(error),
        PlaceError::Store(error) => error.into(),
        error @ (PlaceError::Folder(_) | PlaceError::Elsewhere { .. } | PlaceError::OthersRun { .. }) => {
            OpenError::ArtifactsElsewhere(error.to_string()).into()
        }
    }
}
