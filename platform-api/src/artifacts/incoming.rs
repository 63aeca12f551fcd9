//! An upload on its way to a file: whole, of the announced digest, and not slower than is bearable.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use wharf_types::Digest;

use super::{Body, Content, PutError, STALL_MAX, UPLOAD_MAX};
use crate::inspect;

/// Within the folder of artifacts.
pub(super) const DIR: &str = "incoming";

/// Makes a folder for what is being written, without what was when the process ended before.
pub(super) fn folder_in(dir: &Path) -> io::Result<PathBuf> {
    let incoming = dir.join(DIR);
    match fs::remove_dir_all(&incoming) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir(&incoming)?;
    Ok(incoming)
}

/// A file that is being written, and goes with this unless it has got another name.
#[derive(Debug)]
pub(super) struct Draft(pub(super) PathBuf);

impl Draft {
    pub(super) fn in_folder(incoming: &Path) -> Self {
        Self(incoming.join(uuid::Uuid::now_v7().to_string()))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Writes a body to a file, syncs it, and lets `keep` give it its name. Nothing is left of one that fails.
pub(super) async fn take_in(
    file: PathBuf,
    digest: Digest,
    content: Content,
    mut body: Body,
    keep: impl FnOnce(&Path) -> io::Result<()> + Send + 'static,
) -> Result<u64, PutError> {
    // Hashing and writing block, so a thread does them; the channel holds little, so a slow disk slows the sender.
    let (chunks, incoming) = mpsc::channel(4);
    let writer = tokio::task::spawn_blocking(move || {
        let outcome = receive(&file, digest, content, incoming)
            .and_then(|bytes| keep(&file).map(|()| bytes).map_err(PutError::Write));
        if outcome.is_err() {
            let _ = fs::remove_file(&file);
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

/// Writes what comes in until the end mark.
fn receive(
    to: &Path,
    digest: Digest,
    content: Content,
    mut incoming: mpsc::Receiver<Option<Result<Bytes, PutError>>>,
) -> Result<u64, PutError> {
    let mut file = fs::File::create_new(to).map_err(PutError::Write)?;
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
        if head.len() < inspect::HEAD_BYTES {
            head.extend(chunk.iter().take(inspect::HEAD_BYTES - head.len()));
            if head.len() == inspect::HEAD_BYTES {
                content.check_head(&head)?;
            }
        }
        let max_bytes = content.max_bytes(&head);
        if bytes > max_bytes {
            return Err(PutError::TooLarge { max_bytes });
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
    Ok(bytes)
}
