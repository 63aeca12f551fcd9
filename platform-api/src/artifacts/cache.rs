//! Copies of artifacts that are kept elsewhere: as many as fit, and those that were used last.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tracing::warn;
use wharf_types::Digest;

use super::folder::{keep, path_in};
use super::incoming::{self, Draft};

/// Within the data directory.
pub(super) const DIR: &str = "artifact-cache";
/// The copies of a server, all together, where no archive of an image may have more than half of it.
const USUAL_MAX_BYTES: u64 = 2 << 30;

/// A folder of copies. Each was found right when it came in. One that is open can be read although it has gone.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    dir: PathBuf,
    incoming: PathBuf,
    max_bytes: u64,
}

/// A copy, as it counts for what has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Copy {
    digest: Digest,
    bytes: u64,
    used: SystemTime,
}

impl Cache {
    pub(super) fn open(dir: PathBuf, max_bytes: u64) -> io::Result<Self> {
        fs::create_dir_all(dir.join("sha256"))?;
        let incoming = incoming::folder_in(&dir)?;
        Ok(Self { dir, incoming, max_bytes })
    }

    pub(super) fn draft(&self) -> Draft {
        Draft::in_folder(&self.incoming)
    }

    /// A copy and its length, which counts as a use.
    pub(super) async fn get(&self, digest: Digest) -> io::Result<Option<(u64, tokio::fs::File)>> {
        let path = path_in(&self.dir, digest);
        let opened = tokio::task::spawn_blocking(move || {
            let file = match File::open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                opened => opened?,
            };
            // If it cannot be set, it goes sooner.
            let _ = file.set_modified(SystemTime::now());
            io::Result::Ok(Some((file.metadata()?.len(), file)))
        });
        let opened = opened.await.map_err(io::Error::other)??;
        Ok(opened.map(|(bytes, file)| (bytes, tokio::fs::File::from_std(file))))
    }

    /// Makes a copy of a draft whose digest was found right, and lets go of what was not used for longest.
    pub(super) async fn keep(&self, draft: Draft, digest: Digest) -> io::Result<()> {
        let cache = self.clone();
        let kept = tokio::task::spawn_blocking(move || {
            keep(&draft.0, &path_in(&cache.dir, digest))?;
            cache.shrink_to(cache.max_bytes, Some(digest));
            Ok(())
        });
        kept.await.map_err(io::Error::other)?
    }

    /// A copy that cannot be removed costs room and nothing else.
    pub(super) async fn remove(&self, digest: Digest) -> io::Result<()> {
        let cache = self.clone();
        tokio::task::spawn_blocking(move || cache.drop_copy(digest)).await.map_err(io::Error::other)
    }

    /// Lets go of everything, because the disk is full.
    pub(super) async fn clear(&self) -> io::Result<()> {
        let cache = self.clone();
        tokio::task::spawn_blocking(move || cache.shrink_to(0, None)).await.map_err(io::Error::other)
    }

    fn drop_copy(&self, digest: Digest) {
        let _ = fs::remove_file(path_in(&self.dir, digest));
    }

    fn shrink_to(&self, bytes_max: u64, newest: Option<Digest>) {
        match copies_in(&self.dir.join("sha256")) {
            Ok(copies) => {
                for digest in to_drop(copies, bytes_max).into_iter().filter(|it| Some(*it) != newest) {
                    self.drop_copy(digest);
                }
            }
            Err(error) => warn!("cannot look through the copies of artifacts: {error}"),
        }
    }
}

/// What the copies of a server may have, so that one archive of an image leaves room for another.
pub(super) fn max_bytes(image_archive_max_bytes: u64) -> u64 {
    image_archive_max_bytes.saturating_mul(2).max(USUAL_MAX_BYTES)
}

/// Which copies have to go, those first that were not used for longest, so that the rest has so many bytes at the most.
fn to_drop(mut copies: Vec<Copy>, bytes_max: u64) -> Vec<Digest> {
    copies.sort_by_key(|copy| (copy.used, copy.digest));
    let mut bytes: u64 = copies.iter().map(|copy| copy.bytes).sum();
    let mut dropped = Vec::new();
    for copy in copies {
        if bytes <= bytes_max {
            break;
        }
        bytes -= copy.bytes;
        dropped.push(copy.digest);
    }
    dropped
}

fn copies_in(dir: &Path) -> io::Result<Vec<Copy>> {
    let mut copies = Vec::new();
    for group in fs::read_dir(dir)? {
        for file in fs::read_dir(group?.path())? {
            let file = file?;
            let name = file.file_name();
            let digest = name.to_str().and_then(|hex| format!("sha256:{hex}").parse().ok());
            let (Some(digest), Ok(metadata)) = (digest, file.metadata()) else { continue };
            copies.push(Copy { digest, bytes: metadata.len(), used: metadata.modified()? });
        }
    }
    Ok(copies)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_not_used_for_longest_goes_first_and_no_more_than_has_to() {
        let copy = |name: &str, bytes, secs| Copy {
            digest: Digest::of(name.as_bytes()),
            bytes,
            used: SystemTime::UNIX_EPOCH + Duration::from_secs(secs),
        };
        let copies = vec![copy("new", 10, 3), copy("old", 10, 1), copy("middle", 10, 2)];
        let [new, middle, old] = ["new", "middle", "old"].map(|name| Digest::of(name.as_bytes()));
        for (bytes_max, dropped) in [
            (30, vec![]),
            (29, vec![old]),
            (20, vec![old]),
            (19, vec![old, middle]),
            (0, vec![old, middle, new]),
        ] {
            assert_eq!(to_drop(copies.clone(), bytes_max), dropped, "{bytes_max}");
        }
    }

    #[test]
    fn the_largest_archive_leaves_room_for_another() {
        assert_eq!([0, 1 << 30, 3 << 30].map(max_bytes), [2 << 30, 2 << 30, 6 << 30]);
    }

    #[tokio::test]
    async fn a_copy_that_is_read_outlives_its_name_and_the_next_start_finds_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path().into(), max_bytes(0)).unwrap();
        let digest = Digest::of(b"a");
        let draft = cache.draft();
        fs::write(&draft.0, b"a").unwrap();
        cache.keep(draft, digest).await.unwrap();
        let cache = Cache::open(dir.path().into(), max_bytes(0)).unwrap();
        let (bytes, mut file) = cache.get(digest).await.unwrap().unwrap();
        cache.clear().await.unwrap();
        assert!(cache.get(digest).await.unwrap().is_none());
        let mut content = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut file, &mut content).await.unwrap();
        assert_eq!((bytes, content.as_slice()), (1, &b"a"[..]));
    }
}
