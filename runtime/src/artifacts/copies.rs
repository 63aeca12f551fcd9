//! Copies of artifacts in a folder: `DIGEST`, and beside it `DIGEST.key`, which whoever wants it from here has to know.
//!
//! The control plane tells the key of an artifact to the nodes that are to run something of it, and to nobody else. So a node that asks with
//! it may have what it asks for, without a word of the control plane's at that moment.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tracing::{debug, warn};
use wharf_types::Digest;

use crate::space::decide::Need;
use crate::space::{Space, touch};

/// The name of what is being written.
const DRAFT: &str = "incoming.new";

pub(super) struct Copies {
    folder: PathBuf,
    space: Arc<Space>,
    /// One is written at a time.
    writing: tokio::sync::Mutex<()>,
}

impl Copies {
    pub(super) fn open(folder: PathBuf, space: Arc<Space>) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let _ = fs::remove_file(folder.join(DRAFT));
        Ok(Self { folder, space, writing: tokio::sync::Mutex::default() })
    }

    fn file(&self, digest: Digest) -> PathBuf {
        self.folder.join(digest.hex())
    }

    /// A copy that is what it is called.
    pub(super) async fn read(&self, digest: Digest) -> Option<Bytes> {
        let file = self.file(digest);
        let read = tokio::task::spawn_blocking(move || {
            let content = fs::read(&file).ok()?;
            if Digest::of(&content) == digest {
                touch(&file);
                return Some(Bytes::from(content));
            }
            warn!("{} was changed; it is brought again", file.display());
            let _ = fs::remove_file(&file);
            None
        });
        read.await.ok()?
    }

    /// Keeps a copy, if there is room. Whoever brought the artifact has it in any case.
    pub(super) async fn keep(&self, digest: Digest, bytes: Bytes, key: &str) {
        let _one_at_a_time = self.writing.lock().await;
        let need = bytes.len() as u64;
        if let Err(short) = self.space.make_room(Need { cache_bytes: need, disk_bytes: need }).await {
            debug!("no copy of {digest} is kept: {short:?}");
            return;
        }
        let (draft, file, key) = (self.folder.join(DRAFT), self.file(digest), key.to_owned());
        let kept = tokio::task::spawn_blocking(move || write(&draft, &file, &bytes, &key));
        if let Ok(Err(error)) = kept.await {
            debug!("no copy of {digest} is kept: {error}");
        }
    }

    pub(super) async fn give(&self, digest: Digest, key: &str) -> Option<(u64, tokio::fs::File)> {
        let (file, key) = (self.file(digest), blake3::hash(key.as_bytes()));
        let given = tokio::task::spawn_blocking(move || {
            let known = fs::read(file.with_extension("key")).ok()?;
            // Compared in a time that does not depend on how much of it is right.
            if blake3::hash(&known) != key {
                return None;
            }
            let file = fs::File::open(file).ok()?;
            Some((file.metadata().ok()?.len(), file))
        });
        let (bytes, file) = given.await.ok()??;
        Some((bytes, tokio::fs::File::from_std(file)))
    }
}

/// A copy that is cut off by a crash is found out when it is read.
fn write(draft: &Path, file: &Path, bytes: &[u8], key: &str) -> io::Result<()> {
    let written = fs::write(draft, bytes)
        .and_then(|()| fs::write(file.with_extension("key"), key))
        .and_then(|()| fs::rename(draft, file));
    if written.is_err() {
        let _ = fs::remove_file(draft);
    }
    written
}
