//! Measures what a volume holds.
//!
//! Guests may rename while this goes on, and put links where folders were: every step goes from an open folder to a name in
//! it, and never through a link, so nothing outside is ever looked at. They also choose how much there is to see: one name is
//! kept per level, and there is an end to the levels and to the names.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, fstatat};

use super::quota::ENTRY_BYTES;

/// Files, folders and links that are counted. A volume that has more is full, whatever its size.
pub(super) const ENTRIES_MAX: usize = 1_000_000;

/// Folders within folders that are followed. Each takes two file handles meanwhile.
pub(super) const DEPTH_MAX: usize = 128;

/// A folder and never a link to one, opened to be listed.
pub(super) const FOLDER: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measured {
    Bytes(u64),
    /// There is more than anybody counts.
    TooMany,
}

/// Octets below `root`, and those of files that are open and have no name any more; `entries_max` is [`ENTRIES_MAX`].
pub(super) fn measure(root: &File, open: &[Arc<File>], entries_max: usize) -> io::Result<Measured> {
    let mut walk = Walk { entries_left: entries_max, seen: HashSet::new(), held: 0 };
    for file in open {
        let metadata = file.metadata()?;
        if metadata.nlink() == 0 && walk.seen.insert((metadata.dev(), metadata.ino())) {
            walk.held += ENTRY_BYTES + metadata.len();
        }
    }
    let root = Dir::openat(root, ".", FOLDER, Mode::empty())?;
    Ok(match walk.folder(root, 0)? {
        ControlFlow::Continue(()) => Measured::Bytes(walk.held),
        ControlFlow::Break(()) => Measured::TooMany,
    })
}

struct Walk {
    entries_left: usize,
    /// Files with several names, whose length counts once.
    seen: HashSet<(u64, u64)>,
    held: u64,
}

impl Walk {
    /// Breaks off when there are too many.
    fn folder(&mut self, folder: Dir, depth: usize) -> io::Result<ControlFlow<()>> {
        if depth >= DEPTH_MAX {
            let problem = format!("there are more than {DEPTH_MAX} folders within each other");
            return Err(io::Error::other(problem));
        }
        let at = folder.as_fd().try_clone_to_owned()?;
        for entry in folder {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let Some(left) = self.entries_left.checked_sub(1) else { return Ok(ControlFlow::Break(())) };
            self.entries_left = left;
            let stat = match fstatat(&at, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                // It was deleted since it was listed.
                Err(Errno::ENOENT) => continue,
                other => other?,
            };
            self.held += ENTRY_BYTES;
            match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
                SFlag::S_IFDIR => match Dir::openat(&at, name, FOLDER, Mode::empty()) {
                    Ok(inner) => {
                        if self.folder(inner, depth + 1)?.is_break() {
                            return Ok(ControlFlow::Break(()));
                        }
                    }
                    // Something else is there by now.
                    Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                    Err(error) => return Err(error.into()),
                },
                _ if stat.st_nlink > 1 && !self.seen.insert((stat.st_dev, stat.st_ino)) => {}
                _ => self.held += u64::try_from(stat.st_size).unwrap_or(0),
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn bytes(root: &File, open: &[Arc<File>]) -> u64 {
        match measure(root, open, ENTRIES_MAX).unwrap() {
            Measured::Bytes(bytes) => bytes,
            Measured::TooMany => panic!("there are few"),
        }
    }

    #[test]
    fn every_file_counts_once_and_nothing_behind_a_link_does() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let root = File::open(dir.path()).unwrap();
        let entries = |count: u64, bytes: u64| count * ENTRY_BYTES + bytes;
        assert_eq!(bytes(&root, &[]), 0);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/b/one"), vec![0; 1000]).unwrap();
        assert_eq!(bytes(&root, &[]), entries(3, 1000));
        fs::hard_link(at("a/b/one"), at("same")).unwrap();
        symlink("/usr", at("usr")).unwrap();
        assert_eq!(bytes(&root, &[]), entries(5, 1000 + 4));
    }

    #[test]
    fn a_file_without_a_name_counts_as_long_as_it_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        let path = dir.path().join("gone");
        fs::write(&path, vec![0; 500]).unwrap();
        let open = Arc::new(File::open(&path).unwrap());
        assert_eq!(bytes(&root, std::slice::from_ref(&open)), ENTRY_BYTES + 500);
        fs::remove_file(&path).unwrap();
        assert_eq!(bytes(&root, &[open.clone(), open]), ENTRY_BYTES + 500);
        assert_eq!(bytes(&root, &[]), 0);
    }

    #[test]
    fn folders_too_deep_to_follow_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("d/".repeat(DEPTH_MAX + 1))).unwrap();
        assert!(measure(&File::open(dir.path()).unwrap(), &[], ENTRIES_MAX).is_err());
    }

    #[test]
    fn of_too_many_entries_the_rest_is_not_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        for folder in ["a/b", "c/d"] {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        assert_eq!(measure(&root, &[], 4).unwrap(), Measured::Bytes(4 * ENTRY_BYTES));
        assert_eq!(measure(&root, &[], 3).unwrap(), Measured::TooMany);
        assert_eq!(measure(&root, &[], 1).unwrap(), Measured::TooMany);
    }
}
