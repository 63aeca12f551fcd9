//! Files that apps are shipped with, unpacked on this node: one folder for each archive, which its guests see and cannot change.
//!
//! A folder is made under another name and renamed when it is whole. It stays as long as somebody has it; a worker that starts begins with
//! none, so that nobody has to find out what an earlier one left.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::task::JoinError;
use wasmtime_wasi::{FsPerms, WasiCtxBuilder};
use wharf_types::Digest;
use wharf_types::archive::{self, InvalidArchive};
use wharf_types::node::ReasonKind;

use super::compile_child;
use super::failure::chain;
use crate::backend::Failure;
use crate::space::Space;
use crate::space::decide::Need;

/// The unpacked archives of a node.
pub(super) struct FileFolders {
    dir: PathBuf,
    space: Arc<Space>,
    /// Locked while a folder is made or removed.
    known: Mutex<HashMap<Digest, Weak<Folder>>>,
}

/// An unpacked archive. It is there as long as this is.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

/// An unpacked archive, and where a guest sees it.
#[derive(Clone, Debug)]
pub(super) struct Mount {
    pub(super) folder: Arc<Folder>,
    pub(super) guest_path: String,
}

impl Mount {
    /// Gives it to a guest, to read.
    pub(super) fn open_in(&self, wasi: &mut WasiCtxBuilder) -> Result<(), String> {
        let Folder(folder) = &*self.folder;
        let opened = wasi.preopened_dir(folder, &self.guest_path, FsPerms::ReadOnly).map(drop);
        opened.map_err(|error| format!("the app's files cannot be opened: {}", chain(&error)))
    }
}

impl FileFolders {
    /// Empties `dir`, which is made if there is none.
    pub(super) fn new(dir: PathBuf, space: Arc<Space>) -> io::Result<Self> {
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(&dir)?;
        Ok(Self { dir, space, known: Mutex::default() })
    }

    /// The folder of an archive; `fetch` is called for its bytes only if it is not there.
    pub(super) async fn open<F>(
        &self,
        digest: Digest,
        fetch: impl FnOnce() -> F,
    ) -> Result<Arc<Folder>, Failure>
    where
        F: Future<Output = Result<Bytes, Failure>>,
    {
        if let Some(folder) = self.known.lock().await.get(&digest).and_then(Weak::upgrade) {
            return Ok(folder);
        }
        // Not under the lock, so that a slow transfer is in nobody's way.
        let bytes = fetch().await?;
        let mut known = self.known.lock().await;
        if let Some(folder) = known.get(&digest).and_then(Weak::upgrade) {
            return Ok(folder);
        }
        let path = self.dir.join(digest.hex());
        let expected = bytes.len() as u64;
        let _ = self.space.make_room(Need { cache_bytes: 0, disk_bytes: expected }).await;
        let mut unpacked = self.unpack(bytes.clone(), path.clone()).await;
        if is_full(&unpacked) {
            self.space.drop_unused().await;
            unpacked = self.unpack(bytes, path.clone()).await;
        }
        if is_full(&unpacked) {
            return Err(self.space.disk_is_full(&format!("the files {digest}"), expected));
        }
        let failed =
            |kind, why: String| Failure::new(kind, format!("the files {digest} cannot be unpacked: {why}"));
        match unpacked {
            Ok(Ok(())) => {
                let folder = Arc::new(Folder(path));
                known.insert(digest, Arc::downgrade(&folder));
                Ok(folder)
            }
            // The disk, most likely; the control plane takes in nothing that is not an archive.
            Ok(Err(InvalidArchive::Damaged(error))) => Err(failed(ReasonKind::Platform, error.to_string())),
            Ok(Err(invalid)) => Err(failed(ReasonKind::Artifact, invalid.to_string())),
            Err(_) => Err(failed(ReasonKind::Platform, "the host failed while it did that".to_owned())),
        }
    }

    async fn unpack(&self, archive: Bytes, to: PathBuf) -> Result<Result<(), InvalidArchive>, JoinError> {
        let draft = self.dir.join("incoming");
        let unpacking = move || {
            let unpacked = unpack(&archive, &draft, &to);
            if unpacked.is_err() {
                // It may be what fills the disk.
                let _ = fs::remove_dir_all(&draft);
            }
            unpacked
        };
        tokio::task::spawn_blocking(unpacking).await
    }

    /// Removes the folders that nobody has any more.
    pub(super) async fn sweep(&self) {
        let mut known = self.known.lock().await;
        let unused: Vec<Digest> = known
            .iter()
            .filter(|(_, folder)| folder.strong_count() == 0)
            .map(|(digest, _)| *digest)
            .collect();
        for digest in unused {
            match tokio::fs::remove_dir_all(self.dir.join(digest.hex())).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!("cannot remove the unpacked files {digest}, trying again later: {error}");
                }
                _ => drop(known.remove(&digest)),
            }
        }
    }
}

fn is_full(unpacked: &Result<Result<(), InvalidArchive>, JoinError>) -> bool {
    matches!(unpacked, Ok(Err(InvalidArchive::Damaged(error))) if compile_child::is_full(error))
}

/// Unpacks into `draft`, and makes that `to` once it is whole.
fn unpack(archive: &[u8], draft: &Path, to: &Path) -> Result<(), InvalidArchive> {
    for leftover in [draft, to] {
        match fs::remove_dir_all(leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(InvalidArchive::Damaged(error));
            }
            _ => {}
        }
    }
    fs::create_dir(draft).map_err(InvalidArchive::Damaged)?;
    archive::read(archive, |path, content| {
        let file = draft.join(path);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        io::copy(content, &mut fs::File::create_new(file)?).map(drop)
    })?;
    fs::rename(draft, to).map_err(InvalidArchive::Damaged)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn archive(files: &[(&str, &str)]) -> Bytes {
        let mut writer = archive::Writer::new(Vec::new());
        for (path, content) in files {
            writer.append(path, content.len() as u64, content.as_bytes()).unwrap();
        }
        writer.finish().unwrap().0.into()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn an_archive_is_fetched_and_unpacked_once_and_goes_with_the_last_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let folders =
            FileFolders::new(dir.path().join("files"), Space::new(dir.path().into(), None)).unwrap();
        let bytes = archive(&[("index.html", "<p>hello"), ("css/all.css", "p {}")]);
        let (digest, fetched) = (Digest::of(&bytes), AtomicUsize::new(0));
        let fetch = || {
            fetched.fetch_add(1, Ordering::Relaxed);
            let bytes = bytes.clone();
            async move { Ok(bytes) }
        };
        let first = folders.open(digest, fetch).await.unwrap();
        let second = folders.open(digest, fetch).await.unwrap();
        assert_eq!(fetched.load(Ordering::Relaxed), 1);
        assert_eq!(fs::read_to_string(first.0.join("css/all.css")).unwrap(), "p {}");
        drop(first);
        folders.sweep().await;
        assert_eq!(names(&folders.dir), [digest.hex()]);
        drop(second);
        folders.sweep().await;
        assert_eq!(names(&folders.dir), [""; 0]);
        folders.open(digest, fetch).await.unwrap();
        assert_eq!(fetched.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn what_an_earlier_worker_left_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("files/incoming/half")).unwrap();
        let folders =
            FileFolders::new(dir.path().join("files"), Space::new(dir.path().into(), None)).unwrap();
        assert_eq!(names(&folders.dir), [""; 0]);
    }

    #[tokio::test]
    async fn nothing_is_left_in_place_of_an_archive_that_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let folders =
            FileFolders::new(dir.path().join("files"), Space::new(dir.path().into(), None)).unwrap();
        let whole = archive(&[("a", &"x".repeat(5000))]);
        let cut = whole.slice(..3000);
        let digest = Digest::of(&cut);
        let failure = folders.open(digest, || async { Ok(cut) }).await.unwrap_err();
        assert_eq!(failure.reason.kind, ReasonKind::Platform);
        assert!(!folders.dir.join(digest.hex()).exists());
        // And what it left half done is in nobody's way.
        folders.open(Digest::of(&whole), || async { Ok(whole.clone()) }).await.unwrap();
    }
}
