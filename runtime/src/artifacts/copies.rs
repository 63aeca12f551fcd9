//! Copies of artifacts in a folder: `DIGEST`, and beside it `DIGEST.key`, which whoever wants it from here has to know.
//!
//! The control plane tells the key of an artifact to the nodes that are to run something of it, and to nobody else. So a node that asks with
//! it may have what it asks for, without a word of the control plane's at that moment.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
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

    /// Puts a copy that is what it is called into a file. False: there is none, or it cannot be put there.
    pub(super) async fn read_into(&self, digest: Digest, to: &Path) -> bool {
        let (file, to) = (self.file(digest), to.to_owned());
        let read = tokio::task::spawn_blocking(move || {
            let Ok(from) = fs::File::open(&file) else { return false };
            match copy_and_hash(from, &to) {
                Ok(found) if found == digest => {
                    touch(&file);
                    true
                }
                Ok(_) => {
                    warn!("{} was changed; it is brought again", file.display());
                    let _ = fs::remove_file(&file);
                    false
                }
                Err(error) => {
                    debug!("{} cannot be copied: {error}", file.display());
                    false
                }
            }
        });
        read.await.unwrap_or(false)
    }

    /// Keeps a copy, if there is room. Whoever brought the artifact has it in any case.
    pub(super) async fn keep(&self, digest: Digest, bytes: Bytes, key: &str) {
        let need = bytes.len() as u64;
        self.keep_what(digest, need, key, move |draft| fs::write(draft, &bytes)).await;
    }

    /// The same of a file, which is the copy from then on: whoever writes something else there makes another file in its place.
    pub(super) async fn keep_file(&self, digest: Digest, from: &Path, key: &str) {
        let Ok(metadata) = fs::metadata(from) else { return };
        let from = from.to_owned();
        // A second name takes no time, for which others would wait here. Only another file system takes none.
        let link_or_copy =
            move |draft: &Path| fs::hard_link(&from, draft).or_else(|_| fs::copy(&from, draft).map(drop));
        self.keep_what(digest, metadata.len(), key, link_or_copy).await;
    }

    async fn keep_what(
        &self,
        digest: Digest,
        need: u64,
        key: &str,
        write_draft: impl FnOnce(&Path) -> io::Result<()> + Send + 'static,
    ) {
        let _one_at_a_time = self.writing.lock().await;
        if let Err(short) = self.space.make_room(Need { cache_bytes: need, disk_bytes: need }).await {
            debug!("no copy of {digest} is kept: {short:?}");
            return;
        }
        let (draft, file, key) = (self.folder.join(DRAFT), self.file(digest), key.to_owned());
        let kept = tokio::task::spawn_blocking(move || write(&draft, &file, &key, write_draft));
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
fn write(
    draft: &Path,
    file: &Path,
    key: &str,
    write_draft: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<()> {
    // One that is left over may be another name of a copy, which must not be written to.
    let _ = fs::remove_file(draft);
    let written = write_draft(draft)
        .and_then(|()| fs::write(file.with_extension("key"), key))
        .and_then(|()| fs::rename(draft, file));
    if written.is_err() {
        let _ = fs::remove_file(draft);
    }
    written
}

fn copy_and_hash(mut from: fs::File, to: &Path) -> io::Result<Digest> {
    // What is there may be another name of a copy.
    match fs::remove_file(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let (mut to, mut hasher) = (fs::File::create(to)?, Sha256::new());
    let mut chunk = vec![0; 256 << 10];
    loop {
        match from.read(&mut chunk)? {
            0 => return Ok(Digest::from_bytes(hasher.finalize().into())),
            read => {
                hasher.update(&chunk[..read]);
                to.write_all(&chunk[..read])?;
            }
        }
    }
}
