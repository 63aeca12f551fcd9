//! Where the artifacts of a backup come from, and where those of one that is restored go.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use wharf_types::Digest;

use super::BackupError;
use super::restore::Made;
use crate::artifacts::{self, ArtifactError, ArtifactsAt, Bucket, PlaceError, artifact_file, owner};
use crate::data_dir::OpenError;

/// Of an artifact, in memory.
const CHUNK_BYTES: usize = 256 << 10;

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

    /// Puts an artifact there, of which a piece at a time is in memory. None: it has another digest, and is not kept.
    pub(super) async fn put(
        &self,
        digest: Digest,
        from: &mut impl Read,
        archive: &Path,
        made: &mut Made,
    ) -> Result<Option<u64>, BackupError> {
        let draft = match self {
            Self::Folder(data_dir) => artifacts::draft_of(data_dir),
            Self::Bucket { file, .. } => file.clone(),
        };
        let put = self.put_by(&draft, digest, from, archive, made).await;
        // Unless it has got its name.
        let _ = fs::remove_file(&draft);
        put
    }

    async fn put_by(
        &self,
        draft: &Path,
        digest: Digest,
        from: &mut impl Read,
        archive: &Path,
        made: &mut Made,
    ) -> Result<Option<u64>, BackupError> {
        let (found, bytes) = copy(from, archive, draft)?;
        if found != digest {
            return Ok(None);
        }
        match self {
            Self::Folder(data_dir) => {
                let file = artifact_file(data_dir, digest);
                if !file.exists() {
                    made.add(file.clone());
                }
                artifacts::keep(draft, &file).map_err(io_error(&file))?;
            }
            Self::Bucket { bucket, .. } => {
                bucket.upload(draft, digest, bytes).await.map_err(content_error(draft))?;
            }
        }
        Ok(Some(bytes))
    }
}

/// Writes what comes out of an archive to a file, and returns its digest and its length.
fn copy(from: &mut impl Read, archive: &Path, to: &Path) -> Result<(Digest, u64), BackupError> {
    let (unreadable, unwritable) = (io_error(archive), io_error(to));
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).map_err(&unwritable)?;
    }
    let mut out = File::create(to).map_err(&unwritable)?;
    let (mut hasher, mut bytes, mut chunk) = (Sha256::new(), 0_u64, vec![0; CHUNK_BYTES]);
    loop {
        let read = match from.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(&unreadable)?,
        };
        if read == 0 {
            break;
        }
        hasher.update(&chunk[..read]);
        out.write_all(&chunk[..read]).map_err(&unwritable)?;
        bytes += read as u64;
    }
    out.sync_all().map_err(&unwritable)?;
    Ok((Digest::from_bytes(hasher.finalize().into()), bytes))
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
