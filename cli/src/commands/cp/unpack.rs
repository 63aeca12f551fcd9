//! What comes out of a container, written to its place here.
//!
//! Nothing is written outside of that place, whatever the archive says: not by a path, and not through a link that came before or was there.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tar::{Archive, Entry, EntryType};

use super::Copied;
use crate::exit::{Exit, Failure};
use crate::unpack::{Limits, inside, no_links, prepare, shown, stays_inside};

/// Where something of this name comes: into a folder that is there, or to the path itself.
pub(super) fn place(to: &Path, name: &str) -> anyhow::Result<PathBuf> {
    if to.is_dir() {
        return Ok(to.join(name));
    }
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if to.as_os_str().as_bytes().ends_with(b"/") || to.file_name().is_none() {
        return Err(Failure::invalid(format!("there is no folder {}", to.display())).into());
    }
    if !parent.is_dir() {
        let message = format!("there is no folder {} to put {} into", parent.display(), to.display());
        return Err(Failure::invalid(message).into());
    }
    Ok(to.to_owned())
}

/// Writes an archive, which is of one file or folder, to `place`. Files that are there are replaced, and folders added to.
pub(super) fn unpack(
    from: impl Read,
    place: &Path,
    limits: Limits,
    notice: &mut dyn FnMut(String),
) -> anyhow::Result<Copied> {
    let (Some(base), Some(name)) = (place.parent(), place.file_name()) else {
        return Err(Failure::usage(format!("{} is no place for files", place.display())).into());
    };
    let mut unpacking = Unpacking { base, name, notice };
    let mut archive = Archive::new(from);
    let mut copied = Copied::default();
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        copied.entries += 1;
        copied.bytes = copied.bytes.saturating_add(entry.size());
        if copied.bytes > limits.bytes || copied.entries > limits.entries {
            let message = format!(
                "there is more than {} GiB, or {} files: copy it in parts; what has come already stays",
                limits.bytes >> 30,
                limits.entries
            );
            return Err(Failure::invalid(message).into());
        }
        unpacking.one(&mut entry)?;
    }
    // Whether it is whole is known when the last octet has come.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(broken)?;
    Ok(copied)
}

struct Unpacking<'a> {
    /// The folder in which it comes, and by which name.
    base: &'a Path,
    name: &'a OsStr,
    notice: &'a mut dyn FnMut(String),
}

impl Unpacking<'_> {
    fn one(&mut self, entry: &mut Entry<'_, impl Read>) -> anyhow::Result<()> {
        let path = entry.path().map_err(broken)?.into_owned();
        let Some(inner) = below(&path) else {
            let text = format!("the archive has {}, which leads out of it", shown(&path));
            return Err(Failure::invalid(text).into());
        };
        let target = self.target(&inner);
        let (base, full) = (self.base, self.base.join(&target));
        let writing = || format!("could not write {}", full.display());
        match entry.header().entry_type() {
            EntryType::Directory => {
                prepare(base, &target)?;
                match fs::symlink_metadata(&full) {
                    Ok(about) if about.is_dir() => {}
                    Ok(_) => {
                        return Err(in_the_way(&full, "a folder in the container, and something else here"));
                    }
                    Err(_) => fs::create_dir(&full).with_context(writing)?,
                }
            }
            EntryType::Regular | EntryType::Continuous => {
                let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
                prepare(base, &target)?;
                make_way(&full)?;
                let mut options = OpenOptions::new();
                options.write(true).create_new(true).mode(mode);
                let mut file = options.open(&full).with_context(writing)?;
                io::copy(entry, &mut file).with_context(writing)?;
            }
            EntryType::Link => {
                let link = entry.link_name().map_err(broken)?.unwrap_or_default().into_owned();
                let Some(first) = below(&link).map(|inner| self.target(&inner)) else {
                    let text = format!(
                        "{} is a name of {}, which leads out of the archive",
                        shown(&path),
                        shown(&link)
                    );
                    return Err(Failure::invalid(text).into());
                };
                no_links(base, &first)?;
                prepare(base, &target)?;
                make_way(&full)?;
                fs::hard_link(base.join(&first), &full).with_context(writing)?;
            }
            EntryType::Symlink => {
                let link = entry.link_name().map_err(broken)?.unwrap_or_default().into_owned();
                let depth = inner.components().count().checked_sub(1);
                if !depth.is_some_and(|depth| stays_inside(&link, depth)) {
                    let text = "which leads out of what is copied, so it is left out";
                    (self.notice)(format!("{} is a link to {}, {text}", shown(&path), shown(&link)));
                    return Ok(());
                }
                prepare(base, &target)?;
                make_way(&full)?;
                symlink(&link, &full).with_context(writing)?;
            }
            // What they say about the next entry has been taken into account.
            EntryType::XGlobalHeader
            | EntryType::XHeader
            | EntryType::GNULongName
            | EntryType::GNULongLink => {}
            _ => (self.notice)(format!("{} is no file, folder or link, and is left out", shown(&path))),
        }
        Ok(())
    }

    /// The place of what is at a path within what is copied.
    fn target(&self, inner: &Path) -> PathBuf {
        let name = Path::new(self.name);
        // Joining nothing would put a slash at its end.
        if inner.as_os_str().is_empty() { name.to_owned() } else { name.join(inner) }
    }
}

/// A path of the archive within what is copied, whose own name comes first. None: it leads out.
fn below(path: &Path) -> Option<PathBuf> {
    Some(inside(path)?.components().skip(1).collect())
}

/// Removes a file that is to be replaced.
fn make_way(full: &Path) -> anyhow::Result<()> {
    match fs::symlink_metadata(full) {
        Ok(about) if about.is_dir() => {
            Err(in_the_way(full, "a folder here, and something else in the container"))
        }
        Ok(_) => fs::remove_file(full).with_context(|| format!("could not replace {}", full.display())),
        Err(_) => Ok(()),
    }
}

fn in_the_way(full: &Path, what: &str) -> anyhow::Error {
    Failure::new(Exit::Conflict, format!("{} is {what}", full.display())).into()
}

fn broken(error: io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context("what comes out of the container is no whole archive")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    enum Item<'a> {
        Folder(&'a str),
        File(&'a str, &'a [u8]),
        Link(&'a str, &'a str),
        Hard(&'a str, &'a str),
        Pipe(&'a str),
    }

    /// An archive with just these names, whatever they are.
    fn archive(items: &[Item<'_>]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for item in items {
            let mut header = tar::Header::new_gnu();
            let (path, content, kind, link) = match *item {
                Item::Folder(path) => (path, &b""[..], EntryType::Directory, ""),
                Item::File(path, content) => (path, content, EntryType::Regular, ""),
                Item::Link(path, link) => (path, &b""[..], EntryType::Symlink, link),
                Item::Hard(path, link) => (path, &b""[..], EntryType::Link, link),
                Item::Pipe(path) => (path, &b""[..], EntryType::Fifo, ""),
            };
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o750);
            header.set_cksum();
            builder.append(&header, content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    /// A folder with a place, to which an archive is unpacked.
    struct Here(tempfile::TempDir);

    impl Here {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn place(&self) -> PathBuf {
            self.0.path().join("place")
        }

        fn unpack(&self, items: &[Item<'_>]) -> (anyhow::Result<Copied>, Vec<String>) {
            let (limits, mut notices) = (Limits { bytes: 1 << 20, entries: 10 }, Vec::new());
            let octets = archive(items);
            let done = unpack(&octets[..], &self.place(), limits, &mut |notice| notices.push(notice));
            (done, notices)
        }
    }

    #[test]
    fn it_comes_into_a_folder_that_is_there_or_to_the_path_itself() {
        let here = Here::new();
        let folder = here.0.path();
        assert_eq!(place(folder, "a").unwrap(), folder.join("a"));
        assert_eq!(place(&folder.join("b"), "a").unwrap(), folder.join("b"));
        assert_eq!(place(Path::new("new"), "a").unwrap(), Path::new("new"));
        assert!(place(&folder.join("b/"), "a").is_err() && place(&folder.join("b/c"), "a").is_err());
    }

    #[test]
    fn a_file_or_a_folder_comes_by_the_name_of_its_place_and_replaces_files() {
        let here = Here::new();
        assert_eq!(here.unpack(&[Item::File("a", b"one")]).0.unwrap(), Copied { entries: 1, bytes: 3 });
        here.unpack(&[Item::File("b", b"two")]).0.unwrap();
        assert_eq!(fs::read(here.place()).unwrap(), b"two");
        let folder =
            [Item::Folder("a/"), Item::File("a/x", b"hi"), Item::Link("a/y", "x"), Item::Hard("a/z", "a/x")];
        let error = here.unpack(&folder).0.unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Conflict);
        fs::remove_file(here.place()).unwrap();
        // Twice, so that everything is there already.
        for _ in 0..2 {
            here.unpack(&folder).0.unwrap();
        }
        for name in ["x", "y", "z"] {
            assert_eq!(fs::read(here.place().join(name)).unwrap(), b"hi", "{name}");
        }
        assert_eq!(Exit::of(&here.unpack(&[Item::File("a", b"")]).0.unwrap_err()), Exit::Conflict);
    }

    #[test]
    fn nothing_is_written_outside() {
        for items in [
            &[Item::File("a/../../x", b"")][..],
            &[Item::File("/etc/x", b"")],
            &[Item::Folder("a"), Item::Hard("a/x", "../passwd")],
            &[Item::Folder("a"), Item::Link("a/b", "."), Item::File("a/b/x", b"")],
        ] {
            let here = Here::new();
            assert!(here.unpack(items).0.is_err());
            assert!(fs::read_dir(here.0.path()).unwrap().all(|entry| entry.unwrap().path() == here.place()));
        }
        // A link that was there already.
        let here = Here::new();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), here.place()).unwrap();
        assert!(here.unpack(&[Item::File("a/x", b"")]).0.is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_had_here_is_left_out_and_said() {
        let here = Here::new();
        let items = [
            Item::Folder("a"),
            Item::Link("a/out", "../b"),
            Item::Link("a/root", "/etc"),
            Item::Pipe("a/pipe"),
            Item::File("a/x", b"hi"),
        ];
        let (done, notices) = here.unpack(&items);
        done.unwrap();
        assert_eq!(notices.len(), 3, "{notices:?}");
        assert_eq!(fs::read_dir(here.place()).unwrap().count(), 1);
    }

    #[test]
    fn too_much_and_too_little_are_errors() {
        let here = Here::new();
        let zeros = vec![0; 2 << 20];
        let error = here.unpack(&[Item::File("a", &zeros)]).0.unwrap_err();
        assert!(error.to_string().contains("copy it in parts"), "{error}");
        assert!(here.unpack(&[Item::File("a", b""); 11]).0.is_err());
        let octets = archive(&[Item::File("a", &[1; 2000])]);
        let limits = Limits { bytes: 1 << 20, entries: 10 };
        assert!(unpack(&octets[..1000], &here.place(), limits, &mut |_| ()).is_err());
    }
}
