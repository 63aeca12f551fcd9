//! What an app's builds leave for the next one: a folder for each app, which no other app ever sees.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::{Flock, FlockArg};
use wharf_types::AppId;

use crate::disk;

const ONCE: &str = "once-";

/// The cache as one build found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheUse {
    /// The build had none.
    None,
    /// There was none before.
    New,
    Used,
    /// It had grown too large, or was damaged, and the build began anew.
    Emptied,
}

/// The cache of an app while one build has it.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    pub(crate) found: CacheUse,
    /// None: it is removed with the build.
    lock: Option<Flock<std::fs::File>>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CacheError {
    #[error("another build of this app is running")]
    Busy,
    #[error("the cache {} cannot be used", folder.display())]
    Io { folder: PathBuf, source: io::Error },
}

impl Cache {
    /// Opens an app's cache below `caches`, for its user if it is not ours. One that is too large is emptied.
    pub(crate) fn open(
        caches: &Path,
        app: Option<AppId>,
        uid: Option<u32>,
        max_bytes: u64,
        files_max: u64,
    ) -> Result<Self, CacheError> {
        let name = app.map_or_else(temporary_name, |app| app.to_string());
        let folder = caches.join(&name);
        let failed = |source| CacheError::Io { folder: folder.clone(), source };
        make_private(caches).map_err(failed)?;
        let lock = match app {
            Some(_) => {
                Some(lock(&caches.join(format!("{name}.lock"))).map_err(failed)?.ok_or(CacheError::Busy)?)
            }
            None => None,
        };
        let mut cache = Self { folder: folder.clone(), found: CacheUse::None, lock };
        let found = cache.ready(uid, max_bytes, files_max).map_err(failed)?;
        cache.found = if app.is_some() { found } else { CacheUse::None };
        Ok(cache)
    }

    /// The home of the build's user.
    pub(crate) fn home(&self) -> PathBuf {
        self.folder.join("home")
    }

    /// A folder that stands in the place of one in the tree.
    pub(crate) fn kept(&self, name: &str, uid: Option<u32>) -> io::Result<PathBuf> {
        let kept = self.folder.join("kept");
        make_private(&kept)?;
        let folder = kept.join(name);
        make_for(&folder, uid)?;
        Ok(folder)
    }

    fn ready(&self, uid: Option<u32>, max_bytes: u64, files_max: u64) -> io::Result<CacheUse> {
        let existed = self.folder.exists();
        let fits = || {
            let usage = disk::measure(std::slice::from_ref(&self.folder), files_max);
            let is_ours = std::fs::symlink_metadata(self.home())
                .is_ok_and(|home| home.is_dir() && uid.is_none_or(|uid| home.uid() == uid));
            is_ours && usage.is_ok_and(|usage| usage.bytes <= max_bytes)
        };
        let found = match existed {
            false => CacheUse::New,
            true if fits() => CacheUse::Used,
            true => {
                disk::remove_tree(&self.folder)?;
                CacheUse::Emptied
            }
        };
        make_private(&self.folder)?;
        make_for(&self.home(), uid)?;
        Ok(found)
    }
}

/// Removes what an app's builds have kept.
///
/// # Errors
/// While a build has it.
pub(crate) fn remove(caches: &Path, app: AppId) -> io::Result<()> {
    let lock_path = caches.join(format!("{app}.lock"));
    if !lock_path.exists() {
        return Ok(());
    }
    let lock = lock(&lock_path)?.ok_or(io::ErrorKind::ResourceBusy)?;
    disk::remove_tree(&caches.join(app.to_string()))?;
    // While the lock is held, so that whoever has opened the file before finds out.
    std::fs::remove_file(lock_path)?;
    drop(lock);
    Ok(())
}

/// Removes what processes that have ended meanwhile had for one build only.
pub(crate) fn reap(caches: &Path) {
    for entry in std::fs::read_dir(caches).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(ONCE).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            // The next start tries again.
            let _ = disk::remove_tree(&entry.path());
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        if self.lock.is_none() {
            // What stays is in nobody's way, and goes with the folder of caches.
            let _ = disk::remove_tree(&self.folder);
        }
    }
}

/// `once-PROCESS-NUMBER`.
pub(crate) fn temporary_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{ONCE}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// None: somebody has it.
fn lock(path: &Path) -> io::Result<Option<Flock<std::fs::File>>> {
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        // Removed between the two: a lock of a file that nobody else finds.
        Ok(lock) if lock.metadata()?.nlink() == 0 => Ok(None),
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// A folder that only we get into.
pub(crate) fn make_private(folder: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn make_for(folder: &Path, uid: Option<u32>) -> io::Result<()> {
    make_private(folder)?;
    match uid {
        Some(uid) if std::fs::symlink_metadata(folder)?.uid() != uid => {
            std::os::unix::fs::lchown(folder, Some(uid), Some(uid))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(caches: &Path, app: Option<AppId>, max_bytes: u64) -> Result<Cache, CacheError> {
        Cache::open(caches, app, None, max_bytes, 1000)
    }

    #[test]
    fn what_is_kept_is_found_again_until_it_is_too_large() {
        let folder = tempfile::tempdir().unwrap();
        let caches = folder.path().join("caches");
        let app = Some(AppId::new());
        let first = open(&caches, app, 1 << 20).unwrap();
        assert_eq!(first.found, CacheUse::New);
        std::fs::write(first.home().join("crate"), vec![1; 100_000]).unwrap();
        drop(first);
        let second = open(&caches, app, 1 << 20).unwrap();
        assert_eq!(second.found, CacheUse::Used);
        assert!(second.home().join("crate").exists());
        assert_eq!(open(&caches, Some(AppId::new()), 1 << 20).unwrap().found, CacheUse::New);
        drop(second);
        let third = open(&caches, app, 50_000).unwrap();
        assert_eq!(third.found, CacheUse::Emptied);
        assert!(!third.home().join("crate").exists());
    }

    #[test]
    fn one_build_of_an_app_has_its_cache() {
        let folder = tempfile::tempdir().unwrap();
        let app = Some(AppId::new());
        let first = open(folder.path(), app, 1 << 20).unwrap();
        assert!(matches!(open(folder.path(), app, 1 << 20), Err(CacheError::Busy)));
        drop(first);
        open(folder.path(), app, 1 << 20).unwrap();
    }

    #[test]
    fn a_removed_cache_is_gone_and_one_in_use_stays() {
        let folder = tempfile::tempdir().unwrap();
        let app = AppId::new();
        let cache = open(folder.path(), Some(app), 1 << 20).unwrap();
        assert_eq!(remove(folder.path(), app).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        drop(cache);
        remove(folder.path(), app).unwrap();
        remove(folder.path(), app).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_process_that_is_gone_has_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        // Numbers of processes end below this one.
        let (gone, alive) = (folder.path().join("once-5000000-1"), folder.path().join(temporary_name()));
        for once in [&gone, &alive] {
            std::fs::create_dir(once).unwrap();
        }
        reap(folder.path());
        assert!(!gone.exists() && alive.exists());
    }

    #[test]
    fn a_cache_of_no_app_is_gone_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(folder.path(), None, 1 << 20).unwrap();
        assert!(cache.home().exists());
        drop(cache);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
