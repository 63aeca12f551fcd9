//! Writes what a volume holds to an archive.
//!
//! Whoever has the volume may go on with it meanwhile. As in [`super::measure`], every step goes from an open folder to a name in it and never
//! through a link, so nothing outside is ever read. A file that changes while it is read is taken as it comes; one that goes is left out.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt as _;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use super::archive::{AppendError, Entry, Kind, PATH_MAX_BYTES, Time, Writer};
use super::measure::{DEPTH_MAX, FOLDER};

/// A file and never a link to one. Opening what is a pipe by now must not wait for its other end.
const CONTENT: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_NOFOLLOW).union(OFlag::O_NONBLOCK).union(OFlag::O_CLOEXEC);
/// Of names of files that have several, octets that are kept until the other names have come.
const LINKS_MAX_BYTES: usize = 64 << 20;

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
pub(super) enum BackupError {
    #[error("`{path}` cannot be read")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "`{0}` lies within more than {DEPTH_MAX} folders, which is more than is written to an archive: move it up"
    )]
    TooDeep(String),
    #[error("`{0}` has a longer path than an archive can name: move it up")]
    LongPath(String),
    /// Nobody takes it any more.
    #[error("the archive could not be sent")]
    Send(#[source] io::Error),
}

/// Writes everything below `root`, and what should be known of it.
pub(super) fn back_up(
    root: &File,
    to: impl Write,
    notice: &mut dyn FnMut(String),
) -> Result<(), BackupError> {
    let mut walk =
        Walk { writer: Writer::new(to), path: b"./".to_vec(), links: HashMap::new(), links_bytes: 0, notice };
    let stat = fstat(root).map_err(|errno| walk.failed(errno))?;
    walk.append(entry_of(&stat, Kind::Folder), io::empty())?;
    let folder = Dir::openat(root, ".", FOLDER, Mode::empty()).map_err(|errno| walk.failed(errno))?;
    walk.folder(folder, 0)?;
    match walk.writer.finish() {
        Ok(_) => Ok(()),
        Err(AppendError::Archive(error) | AppendError::Content(error)) => Err(BackupError::Send(error)),
    }
}

struct Walk<'a, W> {
    writer: Writer<W>,
    /// Of what is looked at, with a slash at the end of a folder.
    path: Vec<u8>,
    /// The first name of each file that has more of them than were met.
    links: HashMap<(u64, u64), Link>,
    links_bytes: usize,
    notice: &'a mut dyn FnMut(String),
}

struct Link {
    path: Vec<u8>,
    /// How many names have not come yet.
    left: u64,
}

impl<W: Write> Walk<'_, W> {
    fn folder(&mut self, folder: Dir, depth: usize) -> Result<(), BackupError> {
        if depth >= DEPTH_MAX {
            return Err(BackupError::TooDeep(shown(&self.path)));
        }
        let at = folder.as_fd().try_clone_to_owned();
        let at = at.map_err(|source| BackupError::Read { path: shown(&self.path), source })?;
        let length = self.path.len();
        for entry in folder {
            let entry = entry.map_err(|errno| self.failed(errno))?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.path.extend_from_slice(name.to_bytes());
            if self.path.len() >= PATH_MAX_BYTES {
                return Err(BackupError::LongPath(shown(&self.path)));
            }
            match self.one(&at, name, depth) {
                // It was deleted, or is something else, since it was listed.
                Err(Step::Errno(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR)) => {}
                Err(Step::Errno(errno)) => return Err(self.failed(errno)),
                Err(Step::Failed(error)) => return Err(error),
                Ok(()) => {}
            }
            self.path.truncate(length);
        }
        Ok(())
    }

    fn one(&mut self, at: impl AsFd, name: &std::ffi::CStr, depth: usize) -> Result<(), Step> {
        let stat = fstatat(&at, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => {
                let inner = Dir::openat(&at, name, FOLDER, Mode::empty())?;
                self.path.push(b'/');
                self.append(entry_of(&fstat(&inner)?, Kind::Folder), io::empty())?;
                Ok(self.folder(inner, depth + 1)?)
            }
            SFlag::S_IFLNK => {
                let target = readlinkat(&at, name)?.into_vec();
                Ok(self.append(Entry { target, ..entry_of(&stat, Kind::Symlink) }, io::empty())?)
            }
            SFlag::S_IFREG => self.file(File::from(openat(&at, name, CONTENT, Mode::empty())?)),
            _ => {
                let path = shown(&self.path);
                (self.notice)(format!("`{path}` is a socket, a pipe or a device, and was left out"));
                Ok(())
            }
        }
    }

    fn file(&mut self, file: File) -> Result<(), Step> {
        let stat = fstat(&file)?;
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(Step::Errno(Errno::ENOENT));
        }
        if let Some(target) = self.first_name(&stat) {
            return Ok(self.append(Entry { target, ..entry_of(&stat, Kind::HardLink) }, io::empty())?);
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        Ok(self.append(Entry { size, ..entry_of(&stat, Kind::File) }, file)?)
    }

    /// The name by which a file is in the archive already. None: it is not, and this name is kept if there are more.
    fn first_name(&mut self, stat: &FileStat) -> Option<Vec<u8>> {
        #[allow(clippy::useless_conversion, reason = "the type differs between architectures")]
        let names = u64::from(stat.st_nlink);
        if names < 2 {
            return None;
        }
        let file = (stat.st_dev, stat.st_ino);
        if let Some(link) = self.links.get_mut(&file) {
            link.left = link.left.saturating_sub(1);
            if link.left > 0 {
                return Some(link.path.clone());
            }
            let path = self.links.remove(&file)?.path;
            self.links_bytes -= path.len();
            return Some(path);
        }
        if self.links_bytes + self.path.len() > LINKS_MAX_BYTES {
            let path = shown(&self.path);
            (self.notice)(format!("too many files have several names: `{path}` is written once for each"));
            return None;
        }
        self.links_bytes += self.path.len();
        self.links.insert(file, Link { path: self.path.clone(), left: names - 1 });
        None
    }

    fn append(&mut self, entry: Entry, content: impl Read) -> Result<(), BackupError> {
        let path = self.path.clone();
        match self.writer.append(&Entry { path, ..entry }, content) {
            Ok(0) => Ok(()),
            Ok(missing) => {
                let path = shown(&self.path);
                (self.notice)(format!(
                    "`{path}` became shorter while it was read: its last {missing} octets are zeros"
                ));
                Ok(())
            }
            Err(AppendError::Content(source)) => Err(BackupError::Read { path: shown(&self.path), source }),
            Err(AppendError::Archive(error)) => Err(BackupError::Send(error)),
        }
    }

    fn failed(&self, errno: Errno) -> BackupError {
        BackupError::Read { path: shown(&self.path), source: errno.into() }
    }
}

/// Why it does not go on with a name.
enum Step {
    Errno(Errno),
    Failed(BackupError),
}

impl From<Errno> for Step {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<BackupError> for Step {
    fn from(error: BackupError) -> Self {
        Self::Failed(error)
    }
}

/// Without a path, a target and a size.
fn entry_of(stat: &FileStat, kind: Kind) -> Entry {
    Entry {
        path: Vec::new(),
        kind,
        target: Vec::new(),
        size: 0,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid.into(),
        gid: stat.st_gid.into(),
        modified: Time {
            seconds: stat.st_mtime,
            nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0).min(999_999_999),
        },
    }
}

/// A path as people read it.
pub(super) fn shown(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    text.chars().take(200).filter(|character| !character.is_control()).collect()
}
