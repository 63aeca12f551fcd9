//! An artifact on its way into a file, piece by piece, and found right at its end.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use wharf_types::Digest;

use crate::control::{ControlClient, ControlError};

/// How long the control plane may take to begin: it may have to bring the artifact from a bucket first.
const ANSWER_MAX: Duration = Duration::from_secs(300);
/// How long it may then send nothing.
const STALL_MAX: Duration = Duration::from_secs(30);
/// How long the disk may take for one piece, whoever sends it.
const DISK_MAX: Duration = Duration::from_secs(30);
/// More is no artifact. How much one may really have is said where it is pushed.
const FILE_MAX_BYTES: u64 = 16 << 30;

/// Why a file is not there.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotBrought<E: Display> {
    #[error("{0}")]
    Sender(E),
    #[error("nothing came within {} s", .0.as_secs())]
    Stalled(Duration),
    #[error("it took more than {} s", .0.as_secs())]
    Slow(Duration),
    #[error("more came than an artifact may have")]
    TooLong,
    #[error("what came has the digest {found}, and not {wanted}")]
    Other { wanted: Digest, found: Digest },
    #[error("it could not be put on this node's disk: {0}")]
    Disk(io::Error),
}

impl NotBrought<ControlError> {
    pub(super) fn is_retryable(&self) -> bool {
        match self {
            Self::Sender(error) => error.is_retryable(),
            Self::Stalled(_) | Self::Slow(_) | Self::Other { .. } => true,
            Self::TooLong | Self::Disk(_) => false,
        }
    }
}

/// Brings it from the control plane.
pub(super) async fn bring(
    control: &ControlClient,
    digest: Digest,
    to: &Path,
) -> Result<(), NotBrought<ControlError>> {
    let Ok(chunks) = timeout(ANSWER_MAX, control.artifact_stream(digest)).await else {
        return Err(NotBrought::Stalled(ANSWER_MAX));
    };
    put_into(to, digest, chunks.map_err(NotBrought::Sender)?, STALL_MAX).await
}

/// Writes what comes into a new file, in the place of what is there.
pub(super) async fn put_into<E: Display>(
    to: &Path,
    digest: Digest,
    chunks: impl Stream<Item = Result<Bytes, E>>,
    stall_max: Duration,
) -> Result<(), NotBrought<E>> {
    // What is there may be another name of a copy.
    match tokio::fs::remove_file(to).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(NotBrought::Disk(error)),
        Ok(()) | Err(_) => {}
    }
    let mut file = File::create(to).await.map_err(NotBrought::Disk)?;
    let (mut hasher, mut bytes) = (Sha256::new(), 0_u64);
    futures::pin_mut!(chunks);
    loop {
        let chunk = match timeout(stall_max, chunks.next()).await {
            Ok(Some(chunk)) => chunk.map_err(NotBrought::Sender)?,
            Ok(None) => break,
            Err(_) => return Err(NotBrought::Stalled(stall_max)),
        };
        bytes += chunk.len() as u64;
        if bytes > FILE_MAX_BYTES {
            return Err(NotBrought::TooLong);
        }
        hasher.update(&chunk);
        in_time(file.write_all(&chunk)).await.map_err(NotBrought::Disk)?;
    }
    // What was written last may still fail.
    in_time(file.flush()).await.map_err(NotBrought::Disk)?;
    let found = Digest::from_bytes(hasher.finalize().into());
    if found == digest { Ok(()) } else { Err(NotBrought::Other { wanted: digest, found }) }
}

async fn in_time(written: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    timeout(DISK_MAX, written).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
