//! Removes a folder that a guest has filled.
//!
//! However deep its folders lie within each other, neither the stack nor the file handles of this process may run out: folders are moved up
//! to the top and emptied there, so that no more than two are open at a time and no path is ever built.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, renameat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

const FOLDER: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Removes everything in a folder, and the folder. What is gone already is as good as removed.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let mut names = 0;
    // A pass may miss what was moved up during it.
    while remove_entries(&top, |folder| empty_into(folder, &top, &mut names))? > 0 {}
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the files of a folder, and its folders once `empty` has emptied them; how many entries there were.
fn remove_entries(folder: &File, mut empty: impl FnMut(File) -> io::Result<()>) -> io::Result<usize> {
    let mut count = 0;
    for_each_entry(folder, |name| {
        count += 1;
        match unlinkat(folder, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => {
                empty(File::from(nix::fcntl::openat(folder, name, FOLDER, Mode::empty())?))?;
                gone(unlinkat(folder, name, UnlinkatFlags::RemoveDir))
            }
            other => gone(other),
        }
    })?;
    Ok(count)
}

/// Removes the files of a folder and moves its folders to the top.
fn empty_into(folder: File, top: &File, names: &mut u64) -> io::Result<()> {
    for_each_entry(&folder, |name| match unlinkat(&folder, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR) => loop {
            *names += 1;
            match renameat(&folder, name, top, format!("{names}").as_str()) {
                // The guest has given that name to something.
                Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
                other => return gone(other),
            }
        },
        other => gone(other),
    })
}

fn for_each_entry(folder: &File, mut take: impl FnMut(&CStr) -> io::Result<()>) -> io::Result<()> {
    let mut entries = Dir::openat(folder, ".", FOLDER, Mode::empty())?;
    for entry in entries.iter() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            take(entry.file_name())?;
        }
    }
    Ok(())
}

fn gone(result: nix::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::sys::stat::mkdirat;

    use super::*;

    #[test]
    fn everything_in_it_goes_and_nothing_behind_a_link_does() {
        let dir = tempfile::tempdir().unwrap();
        let doomed = dir.path().join("doomed");
        fs::create_dir_all(doomed.join("a/b/c")).unwrap();
        fs::create_dir_all(doomed.join("1/2/3")).unwrap();
        fs::write(doomed.join("a/b/file"), "x").unwrap();
        fs::write(dir.path().join("kept"), "x").unwrap();
        std::os::unix::fs::symlink(dir.path(), doomed.join("a/out")).unwrap();
        remove_tree(&doomed).unwrap();
        assert!(!doomed.exists() && dir.path().join("kept").exists());
        remove_tree(&doomed).unwrap();
    }

    #[test]
    fn the_deepest_tree_takes_neither_stack_nor_handles() {
        let dir = tempfile::tempdir().unwrap();
        let doomed = dir.path().join("doomed");
        fs::create_dir(&doomed).unwrap();
        let mut deepest = File::open(&doomed).unwrap();
        for _ in 0..5_000 {
            mkdirat(&deepest, "d", Mode::S_IRWXU).unwrap();
            deepest = File::from(nix::fcntl::openat(&deepest, "d", FOLDER, Mode::empty()).unwrap());
        }
        drop(deepest);
        let path = doomed.clone();
        let small = std::thread::Builder::new().stack_size(128 << 10);
        small.spawn(move || remove_tree(&path)).unwrap().join().unwrap().unwrap();
        assert!(!doomed.exists());
    }
}
