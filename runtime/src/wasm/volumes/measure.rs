//! Measures what a volume holds.
//!
//! Guests may rename while this goes on, and put links where folders were: every step goes from an open folder to a name in
//! it, and never through a link, so nothing outside is ever looked at.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, fstatat};

use super::quota::ENTRY_BYTES;

/// Folders within folders that are followed. Each takes a file handle meanwhile.
const DEPTH_MAX: usize = 128;

const FOLDER: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Octets below `root`, and those of files that are open and have no name any more.
pub(super) fn measure(root: &File, open: &[Arc<File>]) -> io::Result<u64> {
    let mut seen = HashSet::new();
    let mut held = 0;
    for file in open {
        let metadata = file.metadata()?;
        if metadata.nlink() == 0 && seen.insert((metadata.dev(), metadata.ino())) {
            held += ENTRY_BYTES + metadata.len();
        }
    }
    let mut root = Dir::openat(root, ".", FOLDER, Mode::empty())?;
    Ok(held + folder(&mut root, &mut seen, 0)?)
}

/// `seen` are files with several names, whose length counts once.
fn folder(folder: &mut Dir, seen: &mut HashSet<(u64, u64)>, depth: usize) -> io::Result<u64> {
    if depth >= DEPTH_MAX {
        return Err(io::Error::other(format!("there are more than {DEPTH_MAX} folders within each other")));
    }
    let mut held = 0;
    let names: Vec<_> = folder.iter().map(|entry| entry.map(|entry| entry.file_name().to_owned())).collect();
    for name in names {
        let name = name?;
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = match fstatat(&*folder, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            // It was deleted since it was listed.
            Err(Errno::ENOENT) => continue,
            other => other?,
        };
        held += ENTRY_BYTES;
        match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => match Dir::openat(&*folder, name.as_c_str(), FOLDER, Mode::empty()) {
                Ok(mut inner) => held += self::folder(&mut inner, seen, depth + 1)?,
                // Something else is there by now.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
                Err(error) => return Err(error.into()),
            },
            _ if stat.st_nlink > 1 && !seen.insert((stat.st_dev, stat.st_ino)) => {}
            _ => held += u64::try_from(stat.st_size).unwrap_or(0),
        }
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_file_counts_once_and_nothing_behind_a_link_does() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let root = File::open(dir.path()).unwrap();
        let entries = |count: u64, bytes: u64| count * ENTRY_BYTES + bytes;
        assert_eq!(measure(&root, &[]).unwrap(), 0);
        fs::create_dir_all(at("a/b")).unwrap();
        fs::write(at("a/b/one"), vec![0; 1000]).unwrap();
        assert_eq!(measure(&root, &[]).unwrap(), entries(3, 1000));
        fs::hard_link(at("a/b/one"), at("same")).unwrap();
        symlink("/usr", at("usr")).unwrap();
        assert_eq!(measure(&root, &[]).unwrap(), entries(5, 1000 + 4));
    }

    #[test]
    fn a_file_without_a_name_counts_as_long_as_it_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        let path = dir.path().join("gone");
        fs::write(&path, vec![0; 500]).unwrap();
        let open = Arc::new(File::open(&path).unwrap());
        assert_eq!(measure(&root, std::slice::from_ref(&open)).unwrap(), ENTRY_BYTES + 500);
        fs::remove_file(&path).unwrap();
        assert_eq!(measure(&root, &[open.clone(), open]).unwrap(), ENTRY_BYTES + 500);
        assert_eq!(measure(&root, &[]).unwrap(), 0);
    }

    #[test]
    fn folders_too_deep_to_follow_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("d/".repeat(DEPTH_MAX + 1))).unwrap();
        assert!(measure(&File::open(dir.path()).unwrap(), &[]).is_err());
    }
}
