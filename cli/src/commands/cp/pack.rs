//! What is here, as an archive for a container.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use nix::fcntl::OFlag;
use tar::{Builder, EntryType, Header};

use super::{Copied, Owner};

/// What was packed so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Tally {
    pub(super) fn add(&self, entries: u64, bytes: u64) {
        self.entries.fetch_add(entries, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn copied(&self) -> Copied {
        Copied { entries: self.entries.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

/// Packs a file or a folder, which is called `name` in the archive, with all that is in it. Links are packed as such.
pub(super) fn pack(
    source: &Path,
    name: &str,
    (owner, tally): (Owner, &Tally),
    to: impl Write,
    notice: &mut dyn FnMut(String),
) -> anyhow::Result<()> {
    let mut walk = Walk { builder: Builder::new(to), owner, tally, notice };
    walk.add(source, Path::new(name))?;
    let mut to = walk.builder.into_inner().context("could not send the files")?;
    to.flush().context("could not send the files")
}

struct Walk<'a, W: Write> {
    builder: Builder<W>,
    owner: Owner,
    tally: &'a Tally,
    notice: &'a mut dyn FnMut(String),
}

impl<W: Write> Walk<'_, W> {
    fn add(&mut self, path: &Path, name: &Path) -> anyhow::Result<()> {
        let reading = || format!("could not read {}", path.display());
        let packing = || format!("could not send {}", path.display());
        let about = fs::symlink_metadata(path).with_context(reading)?;
        let mut header = self.header(&about);
        if about.is_dir() {
            header.set_entry_type(EntryType::Directory);
            self.builder.append_data(&mut header, name, io::empty()).with_context(packing)?;
            self.tally.add(1, 0);
            let entries: Result<Vec<_>, _> = fs::read_dir(path).with_context(reading)?.collect();
            let mut entries = entries.with_context(reading)?;
            entries.sort_by_key(fs::DirEntry::file_name);
            for entry in entries {
                self.add(&entry.path(), &name.join(entry.file_name()))?;
            }
        } else if about.is_symlink() {
            let target = fs::read_link(path).with_context(reading)?;
            header.set_entry_type(EntryType::Symlink);
            self.builder.append_link(&mut header, name, target).with_context(packing)?;
            self.tally.add(1, 0);
        } else if about.is_file() {
            // What has become a link or a pipe meanwhile is neither followed nor waited for.
            let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
            let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
            let file = opened.with_context(reading)?;
            let about = file.metadata().with_context(reading)?;
            let mut header = self.header(&about);
            header.set_entry_type(EntryType::Regular);
            header.set_size(about.len());
            let content = Exact { file, left: about.len() };
            self.builder.append_data(&mut header, name, content).with_context(packing)?;
            self.tally.add(1, about.len());
        } else {
            (self.notice)(format!("{} is a socket, a pipe or a device, and is left out", path.display()));
        }
        Ok(())
    }

    fn header(&self, about: &fs::Metadata) -> Header {
        let mut header = Header::new_gnu();
        header.set_size(0);
        header.set_mode(about.mode() & 0o777);
        header.set_uid(self.owner.uid.into());
        header.set_gid(self.owner.gid.into());
        header.set_mtime(u64::try_from(about.mtime()).unwrap_or(0));
        header
    }
}

/// So much of a file as it had when its size was written down.
struct Exact {
    file: File,
    left: u64,
}

impl Read for Exact {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        match self.file.read(&mut buffer[..most])? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was read")),
            read => {
                self.left -= read as u64;
                Ok(read)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const OWNER: Owner = Owner { uid: 7, gid: 8 };

    #[test]
    fn a_folder_is_packed_by_its_new_name_with_links_as_links() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        fs::create_dir_all(source.join("b")).unwrap();
        fs::write(source.join("b/run"), "#!").unwrap();
        fs::set_permissions(source.join("b/run"), fs::Permissions::from_mode(0o4755)).unwrap();
        symlink("/etc/passwd", source.join("a")).unwrap();
        let _listens = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
        let (mut octets, tally, mut notices) = (Vec::new(), Tally::default(), Vec::new());
        pack(&source, "new", (OWNER, &tally), &mut octets, &mut |notice| notices.push(notice)).unwrap();
        let mut archive = tar::Archive::new(&octets[..]);
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (7, 8));
            (
                entry.path().unwrap().display().to_string(),
                header.entry_type(),
                header.mode().unwrap() & 0o7000,
            )
        });
        let expected = [
            ("new", EntryType::Directory, 0),
            ("new/a", EntryType::Symlink, 0),
            ("new/b", EntryType::Directory, 0),
            ("new/b/run", EntryType::Regular, 0),
        ];
        assert_eq!(
            entries.collect::<Vec<_>>(),
            expected.map(|(path, kind, bits)| (path.to_owned(), kind, bits))
        );
        assert_eq!(tally.copied(), Copied { entries: 4, bytes: 2 });
        assert!(notices.len() == 1 && notices[0].contains("socket"), "{notices:?}");
    }

    #[test]
    fn a_file_that_became_shorter_makes_no_archive() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(3).unwrap();
        let mut content = Exact { file, left: 4 };
        let error = io::copy(&mut content, &mut io::sink()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
