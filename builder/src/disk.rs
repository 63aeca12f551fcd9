//! Folders that strangers have written to: measured, handed over and removed, whatever is in them.
//!
//! Nothing here recurses, because the depth of a folder is up to who made it.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};

/// What folders take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// On disk: holes do not count, and what has several names counts once.
    pub(crate) bytes: u64,
    pub(crate) files: u64,
}

/// Why a folder cannot be measured: it has too much in it, or something that its owner has closed to everybody.
#[derive(Debug)]
pub(crate) enum Unmeasurable {
    TooMany,
    Closed,
}

/// Measures folders, which may be written to meanwhile. Ends early with more than `files_max` files.
pub(crate) fn measure(folders: &[PathBuf], files_max: u64) -> Result<Usage, Unmeasurable> {
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    let mut rest = folders.to_vec();
    while let Some(folder) = rest.pop() {
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error) => continue,
            // Among others: too deep to have a path.
            Err(_) => return Err(Unmeasurable::Closed),
        };
        for entry in entries {
            let metadata = match entry.and_then(|entry| Ok((entry.metadata()?, entry.path()))) {
                Ok(metadata) => metadata,
                Err(error) if is_gone(&error) => continue,
                Err(_) => return Err(Unmeasurable::Closed),
            };
            let (metadata, path) = metadata;
            usage.files += 1;
            if usage.files > files_max {
                return Err(Unmeasurable::TooMany);
            }
            let is_folder = metadata.is_dir();
            if is_folder || metadata.nlink() == 1 || seen.insert((metadata.dev(), metadata.ino())) {
                usage.bytes = usage.bytes.saturating_add(metadata.blocks().saturating_mul(512));
            }
            if is_folder {
                rest.push(path);
            }
        }
    }
    Ok(usage)
}

/// Somebody was faster, or put something else in its place.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Gives a folder and all in it to a user. Nobody may write to it meanwhile.
pub(crate) fn hand_over(folder: &Path, uid: u32) -> io::Result<()> {
    lchown(folder, Some(uid), Some(uid))?;
    let mut rest = vec![folder.to_owned()];
    while let Some(folder) = rest.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.uid() != uid || metadata.gid() != uid {
                lchown(entry.path(), Some(uid), Some(uid))?;
            }
            if metadata.is_dir() {
                rest.push(entry.path());
            }
        }
    }
    Ok(())
}

/// Removes a folder and all in it, however deep, and also what its owner has closed. Nobody may write to it meanwhile. A folder that is not
/// there is fine.
///
/// # Errors
/// When something cannot be removed; the rest is then still there.
pub fn remove_tree(folder: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.is_dir() => return std::fs::remove_file(folder),
        Ok(_) => {}
    }
    let mut moved = 0;
    loop {
        let below = remove_files(folder)?;
        if below.is_empty() {
            return std::fs::remove_dir(folder);
        }
        for name in below {
            let child = folder.join(name);
            // What is below moves up, so that no path grows longer than this and no folder is open meanwhile.
            for grandchild in remove_files(&child)? {
                let path = child.join(grandchild);
                open_up(&path)?;
                move_up(&path, folder, &mut moved)?;
            }
            std::fs::remove_dir(&child)?;
        }
    }
}

/// Removes all but the folders in a folder, and returns the names of these.
fn remove_files(folder: &Path) -> io::Result<Vec<OsString>> {
    open_up(folder)?;
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(entry.file_name());
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(folders)
}

/// Lets its owner into a folder.
fn open_up(folder: &Path) -> io::Result<()> {
    let mode = std::fs::symlink_metadata(folder)?.permissions().mode();
    if mode & 0o700 == 0o700 {
        return Ok(());
    }
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode | 0o700))
}

/// Moves a folder into another one, under a name that nothing there has.
fn move_up(from: &Path, to: &Path, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        let free = to.join(format!(".removed-{moved}"));
        if std::fs::symlink_metadata(&free).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return std::fs::rename(from, free);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Makes folders in each other, far deeper than a path can be long.
    fn make_deep(folder: &Path, depth: usize) {
        use nix::fcntl::{OFlag, open, openat};
        use nix::sys::stat::{Mode, mkdirat};
        let mut at = open(folder, OFlag::O_RDONLY, Mode::empty()).unwrap();
        for _ in 0..depth {
            mkdirat(&at, "d", Mode::S_IRWXU).unwrap();
            at = openat(&at, "d", OFlag::O_RDONLY, Mode::empty()).unwrap();
        }
    }

    #[test]
    fn a_folder_deeper_than_any_path_is_removed_and_not_measured() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        make_deep(&tree, 3_000);
        assert!(matches!(measure(std::slice::from_ref(&tree), 1_000_000), Err(Unmeasurable::Closed)));
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn removing_stays_inside_and_opens_what_was_closed() {
        let folder = tempfile::tempdir().unwrap();
        let (tree, other) = (folder.path().join("tree"), folder.path().join("other"));
        std::fs::create_dir_all(tree.join("a/b/c")).unwrap();
        std::fs::create_dir_all(tree.join(".removed-1")).unwrap();
        std::fs::create_dir(&other).unwrap();
        std::fs::write(other.join("kept"), "kept").unwrap();
        symlink(&other, tree.join("a/link")).unwrap();
        symlink(&other, tree.join("a/b/c/link")).unwrap();
        std::fs::set_permissions(tree.join("a/b"), std::fs::Permissions::from_mode(0o000)).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(std::fs::read_to_string(other.join("kept")).unwrap(), "kept");
        remove_tree(&tree).unwrap();
    }

    #[test]
    fn usage_is_what_the_disk_holds() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().to_owned();
        let usage = || measure(std::slice::from_ref(&tree), 10).unwrap();
        std::fs::write(tree.join("file"), vec![1; 100_000]).unwrap();
        let one = usage();
        assert!(one.files == 1 && (100_000..200_000).contains(&one.bytes), "{one:?}");
        std::fs::hard_link(tree.join("file"), tree.join("again")).unwrap();
        std::fs::File::create(tree.join("hole")).unwrap().set_len(1 << 30).unwrap();
        symlink("/usr", tree.join("out")).unwrap();
        let more = usage();
        assert!(more.files == 4 && more.bytes < one.bytes + 20_000, "{more:?}");
        assert!(matches!(measure(std::slice::from_ref(&tree), 3), Err(Unmeasurable::TooMany)));
    }
}
