//! Removes a folder, however deep it is.
//!
//! A guest chooses how deep its folders lie within each other, so nothing here goes down with them: what a subfolder holds is
//! moved up into the doomed folder, until all lies flat there. That takes a few file handles and no stack, and no path grows long.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::renameat;
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::measure::FOLDER;

/// Removes the folder and all in it. No folder is as good as one that was removed, so two may do this at once.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let doomed = File::options().read(true).custom_flags(FOLDER.bits()).open(path);
    let doomed = match doomed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let mut moved = 0;
    while !pass(&doomed, &mut moved)? {}
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Takes one layer off everything that is listed; true, if nothing was. What comes while a folder is listed may be listed or not.
fn pass(doomed: &File, moved: &mut u64) -> io::Result<bool> {
    let mut is_empty = true;
    for entry in Dir::openat(doomed, ".", FOLDER, Mode::empty())? {
        let entry = entry?;
        let name = entry.file_name();
        if is_itself(name) {
            continue;
        }
        is_empty = false;
        if !unlink(doomed, name)? {
            empty_folder(doomed, name, moved)?;
        }
    }
    Ok(is_empty)
}

/// Removes a subfolder of the doomed folder, whose own subfolders come to lie beside it.
fn empty_folder(doomed: &File, name: &CStr, moved: &mut u64) -> io::Result<()> {
    let inner = match Dir::openat(doomed, name, FOLDER, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(()),
        other => other?,
    };
    let at = inner.as_fd().try_clone_to_owned()?;
    for entry in inner {
        let entry = entry?;
        let name = entry.file_name();
        if !is_itself(name) && !unlink(&at, name)? {
            move_up(&at, name, doomed, moved)?;
        }
    }
    match unlinkat(doomed, name, UnlinkatFlags::RemoveDir) {
        // Some of it was not listed: the next pass sees it.
        Ok(()) | Err(Errno::ENOENT | Errno::ENOTEMPTY | Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Moves a folder to a name that is free in the doomed folder. Numbers only rise, so names of the guest's own that look the same
/// cost one try each.
fn move_up(from: impl AsFd, name: &CStr, doomed: &File, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        match renameat(&from, name, doomed, moved.to_string().as_str()) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// False: it is a folder.
fn unlink(folder: impl AsFd, name: &CStr) -> io::Result<bool> {
    match unlinkat(folder, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        // Linux says the one, POSIX the other.
        Err(Errno::EISDIR | Errno::EPERM) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn is_itself(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::thread;

    use nix::fcntl::openat;
    use nix::sys::stat::mkdirat;

    use super::*;

    /// Folders within each other, each with an empty one beside it.
    fn nest(path: &Path, levels: usize) {
        let mut folder = std::os::fd::OwnedFd::from(File::open(path).unwrap());
        for _ in 0..levels {
            mkdirat(&folder, "d", Mode::S_IRWXU).unwrap();
            mkdirat(&folder, "empty", Mode::S_IRWXU).unwrap();
            folder = openat(&folder, "d", FOLDER, Mode::empty()).unwrap();
        }
    }

    #[test]
    fn a_deep_tree_is_removed_with_a_small_stack() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("doomed");
        fs::create_dir(&path).unwrap();
        nest(&path, 5000);
        let removing = path.clone();
        let thread = thread::Builder::new().stack_size(128 << 10);
        thread.spawn(move || remove_tree(&removing).unwrap()).unwrap().join().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn names_that_the_guest_took_and_links_it_made_are_in_nobodys_way() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("note"), "x").unwrap();
        let path = dir.path().join("doomed");
        for folder in ["1/1/1", "2/3", "4", "a/b/c", "a/d/e"] {
            fs::create_dir_all(path.join(folder)).unwrap();
        }
        fs::write(path.join("3"), "x").unwrap();
        fs::write(path.join("4/5"), "x").unwrap();
        symlink(&outside, path.join("a/b/link")).unwrap();
        remove_tree(&path).unwrap();
        assert!(!path.exists());
        assert!(outside.join("note").exists());
        remove_tree(&path).unwrap();
    }
}
