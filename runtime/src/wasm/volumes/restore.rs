//! Fills a folder from an archive.
//!
//! The folder is new and nobody else's yet. An archive may come from anywhere: no path of it leads out, nothing goes through a link that it
//! has brought along, and it ends where the volume is full.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, fstat, futimens, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat, geteuid, linkat, symlinkat};
use wharf_types::transfer::{Owners, Restored};

use super::archive::{Entry, Kind, PATH_MAX_BYTES, Reader, TarError, Time};
use super::backup::shown;
use super::measure::{DEPTH_MAX, ENTRIES_MAX, FOLDER};
use super::quota::ENTRY_BYTES;

const NAME_MAX_BYTES: usize = 255;
const CHUNK_BYTES: usize = 64 << 10;
/// A file that is not there yet.
const NEW: OFlag = OFlag::O_WRONLY
    .union(OFlag::O_CREAT)
    .union(OFlag::O_EXCL)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// What may come out of an archive, and whose it is then.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) size_bytes: u64,
    pub(super) entries_max: u64,
    pub(super) owners: Owners,
}

impl Limits {
    pub(super) fn new(size_bytes: u64, owners: Owners) -> Self {
        Self { size_bytes, entries_max: ENTRIES_MAX as u64, owners }
    }
}

/// Why a volume is not filled.
#[derive(Debug, thiserror::Error)]
pub(super) enum RestoreError {
    #[error(transparent)]
    Archive(#[from] TarError),
    #[error("the archive is refused: `{path}` {problem}")]
    Refused { path: String, problem: String },
    #[error(
        "the archive holds more than the volume's {size_bytes} octets, of which each file, folder and link takes {ENTRY_BYTES} beside its length: deploy with a larger `size`"
    )]
    TooLarge { size_bytes: u64 },
    #[error("the archive has more than {0} files, folders and links, and a volume has no more")]
    TooMany(u64),
    #[error("`{path}` could not be written")]
    Write {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("`{path}` could not be given to its owner {uid}:{gid}: the worker has to run as root for that")]
    Owner { path: String, uid: u64, gid: u64 },
}

/// Puts all that is in the archive below `into`. `notice` is told what is left out.
pub(super) fn unpack(
    from: impl Read,
    into: &File,
    limits: Limits,
    notice: &mut dyn FnMut(String),
) -> Result<Restored, RestoreError> {
    let root = into.as_fd().try_clone_to_owned();
    let root = root.map_err(|source| RestoreError::Write { path: "./".to_owned(), source })?;
    let modified = modified_at(&root).map_err(|errno| failed(b"./", errno))?;
    let mut unpacking = Unpacking {
        reader: Reader::new(from),
        limits,
        is_root: geteuid().is_root(),
        open: vec![Level { name: Vec::new(), folder: root, modified }],
        done: Restored::default(),
    };
    while let Some(entry) = unpacking.reader.next_entry()? {
        unpacking.put(&entry)?;
    }
    unpacking.leave(0, b"./")?;
    if unpacking.reader.has_attributes() {
        notice("extended attributes and access lists of files were left out".to_owned());
    }
    Ok(unpacking.done)
}

struct Unpacking<R> {
    reader: Reader<R>,
    limits: Limits,
    is_root: bool,
    /// The folder of the entry before this one, within all that it lies in.
    open: Vec<Level>,
    done: Restored,
}

struct Level {
    name: Vec<u8>,
    folder: OwnedFd,
    /// Every file that is put there changes this, so it is set when the folder is left.
    modified: TimeSpec,
}

impl<R: Read> Unpacking<R> {
    fn put(&mut self, entry: &Entry) -> Result<(), RestoreError> {
        let path = &entry.path[..];
        let names = names_of(path).map_err(|problem| refused(path, problem))?;
        if let Kind::Other(what) = entry.kind {
            return Err(refused(path, &format!("is {what}")));
        }
        if names.len() + usize::from(entry.kind == Kind::Folder) > DEPTH_MAX {
            return Err(refused(path, &format!("lies within more than {DEPTH_MAX} folders")));
        }
        if entry.kind == Kind::Folder {
            self.enter(&names, path)?;
            let level = self.open.last_mut().expect("the folder of all stays open");
            level.modified = time_spec(entry.modified);
            let folder = level.folder.try_clone();
            let folder = folder.map_err(|source| RestoreError::Write { path: shown(path), source })?;
            return self.give(&folder, entry);
        }
        let Some((name, parents)) = names.split_last() else {
            return Err(refused(path, "is the volume itself, and not a folder"));
        };
        self.enter(parents, path)?;
        match entry.kind {
            Kind::File => self.file(name, entry),
            Kind::Symlink => self.symlink(name, entry),
            Kind::HardLink => self.hard_link(name, entry),
            Kind::Folder | Kind::Other(_) => Ok(()),
        }
    }

    fn file(&mut self, name: &[u8], entry: &Entry) -> Result<(), RestoreError> {
        let path = &entry.path[..];
        self.count(entry.size)?;
        let made = openat(self.here(), name, NEW, Mode::S_IRUSR | Mode::S_IWUSR);
        let mut file = File::from(made.map_err(|errno| not_made(path, errno))?);
        let mut buffer = vec![0; usize::try_from(entry.size).unwrap_or(usize::MAX).min(CHUNK_BYTES)];
        while let read @ 1.. = self.reader.read_content(&mut buffer)? {
            let written = file.write_all(&buffer[..read]);
            written.map_err(|source| RestoreError::Write { path: shown(path), source })?;
        }
        self.give(&file, entry)?;
        futimens(&file, &TimeSpec::UTIME_OMIT, &time_spec(entry.modified))
            .map_err(|errno| failed(path, errno))
    }

    fn symlink(&mut self, name: &[u8], entry: &Entry) -> Result<(), RestoreError> {
        let (path, target) = (&entry.path[..], &entry.target[..]);
        if target.is_empty() || target.len() >= PATH_MAX_BYTES || target.contains(&0) {
            return Err(refused(path, "is a link to something that has no name"));
        }
        self.count(target.len() as u64)?;
        let at = self.here();
        symlinkat(target, at, name).map_err(|errno| not_made(path, errno))?;
        if self.limits.owners == Owners::Kept {
            let (uid, gid) = owner_of(entry)?;
            let given = fchownat(at, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW);
            given.map_err(|errno| not_given(entry, errno))?;
        }
        let modified = time_spec(entry.modified);
        utimensat(at, name, &TimeSpec::UTIME_OMIT, &modified, UtimensatFlags::NoFollowSymlink)
            .map_err(|errno| failed(path, errno))
    }

    fn hard_link(&mut self, name: &[u8], entry: &Entry) -> Result<(), RestoreError> {
        let path = &entry.path[..];
        let names = names_of(&entry.target).map_err(|problem| {
            refused(path, &format!("is another name of `{}`, which {problem}", shown(&entry.target)))
        })?;
        let missing = || {
            refused(
                path,
                &format!("is another name of `{}`, which is no file before it", shown(&entry.target)),
            )
        };
        let (target, parents) = names.split_last().ok_or_else(missing)?;
        self.count(0)?;
        let mut at = self.open[0]
            .folder
            .try_clone()
            .map_err(|source| RestoreError::Write { path: shown(path), source })?;
        for name in parents {
            at = openat(&at, *name, FOLDER, Mode::empty()).map_err(|_| missing())?;
        }
        match linkat(&at, *target, self.here(), name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::ENOENT | Errno::EPERM) => Err(missing()),
            Err(errno) => Err(not_made(path, errno)),
        }
    }

    /// Opens the folder of these names, and makes those that are missing.
    fn enter(&mut self, names: &[&[u8]], path: &[u8]) -> Result<(), RestoreError> {
        let open = self.open[1..].iter().zip(names);
        let common = open.take_while(|(level, name)| level.name == **name).count();
        self.leave(common + 1, path)?;
        for name in &names[common..] {
            let opened = match openat(self.here(), *name, FOLDER, Mode::empty()) {
                Err(Errno::ENOENT) => {
                    self.count(0)?;
                    let mode = Mode::from_bits_truncate(0o755);
                    mkdirat(self.here(), *name, mode).map_err(|errno| failed(path, errno))?;
                    let made = openat(self.here(), *name, FOLDER, Mode::empty());
                    // Not what the process takes away from the mode.
                    made.and_then(|made| fchmod(&made, mode).map(|()| made))
                }
                opened => opened,
            };
            let folder = opened.map_err(|errno| match errno {
                Errno::ELOOP | Errno::ENOTDIR => refused(path, "goes through a link, or through a file"),
                errno => failed(path, errno),
            })?;
            let modified = modified_at(&folder).map_err(|errno| failed(path, errno))?;
            self.open.push(Level { name: name.to_vec(), folder, modified });
        }
        Ok(())
    }

    /// Closes folders until so many are open.
    fn leave(&mut self, stay: usize, path: &[u8]) -> Result<(), RestoreError> {
        while self.open.len() > stay {
            let Some(Level { folder, modified, .. }) = self.open.pop() else { break };
            futimens(&folder, &TimeSpec::UTIME_OMIT, &modified).map_err(|errno| failed(path, errno))?;
        }
        Ok(())
    }

    fn here(&self) -> &OwnedFd {
        &self.open.last().expect("the folder of all stays open").folder
    }

    /// Gives a file or folder its owner and mode.
    fn give(&self, file: impl AsFd, entry: &Entry) -> Result<(), RestoreError> {
        let is_folder = entry.kind == Kind::Folder;
        let mode = match self.limits.owners {
            Owners::Kept => {
                let (uid, gid) = owner_of(entry)?;
                fchown(&file, Some(uid), Some(gid)).map_err(|errno| not_given(entry, errno))?;
                // Who is not root could not fill a folder otherwise.
                entry.mode & 0o7777 | if is_folder && !self.is_root { 0o700 } else { 0 }
            }
            Owners::Worker => entry.mode & 0o777 | if is_folder { 0o700 } else { 0o600 },
        };
        fchmod(&file, Mode::from_bits_truncate(mode)).map_err(|errno| failed(&entry.path, errno))
    }

    /// Counts a file, folder or link before it is made, as a measurement counts it.
    fn count(&mut self, bytes: u64) -> Result<(), RestoreError> {
        let Limits { size_bytes, entries_max, .. } = self.limits;
        if self.done.entries >= entries_max {
            return Err(RestoreError::TooMany(entries_max));
        }
        let held = self.done.bytes.saturating_add(ENTRY_BYTES).saturating_add(bytes);
        if held > size_bytes {
            return Err(RestoreError::TooLarge { size_bytes });
        }
        self.done = Restored { entries: self.done.entries + 1, bytes: held };
        Ok(())
    }
}

/// The names that a path is made of. None: it is the volume itself.
fn names_of(path: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    if path.is_empty() {
        return Err("has no name");
    }
    if path.starts_with(b"/") {
        return Err("is an absolute path: only what lies below the volume is put there");
    }
    let mut names = Vec::new();
    for name in path.split(|octet| *octet == b'/').filter(|name| !matches!(*name, b"" | b".")) {
        if name == b".." {
            return Err("leads out of a folder by `..`");
        }
        if name.len() > NAME_MAX_BYTES || name.contains(&0) {
            return Err("has a name that no file has");
        }
        names.push(name);
    }
    Ok(names)
}

fn owner_of(entry: &Entry) -> Result<(Uid, Gid), RestoreError> {
    // The largest number means that nothing is changed.
    let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
    let ids = id(entry.uid).zip(id(entry.gid));
    let (uid, gid) = ids.ok_or_else(|| refused(&entry.path, "has an owner that there cannot be"))?;
    Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
}

fn modified_at(folder: &OwnedFd) -> nix::Result<TimeSpec> {
    let stat = fstat(folder)?;
    Ok(TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec))
}

fn time_spec(time: Time) -> TimeSpec {
    TimeSpec::new(time.seconds, time.nanos.into())
}

fn refused(path: &[u8], problem: &str) -> RestoreError {
    RestoreError::Refused { path: shown(path), problem: problem.to_owned() }
}

fn failed(path: &[u8], errno: Errno) -> RestoreError {
    RestoreError::Write { path: shown(path), source: errno.into() }
}

fn not_made(path: &[u8], errno: Errno) -> RestoreError {
    match errno {
        Errno::EEXIST => refused(path, "is there twice"),
        errno => failed(path, errno),
    }
}

fn not_given(entry: &Entry, errno: Errno) -> RestoreError {
    let Entry { path, uid, gid, .. } = entry;
    match errno {
        Errno::EPERM => RestoreError::Owner { path: shown(path), uid: *uid, gid: *gid },
        errno => failed(path, errno),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::path::Path;

    use nix::unistd::mkfifo;

    use super::super::archive::Writer;
    use super::super::backup::back_up;
    use super::*;

    const PLENTY: Limits = Limits { size_bytes: 1 << 30, entries_max: 1000, owners: Owners::Worker };

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry {
            path: path.into(),
            kind,
            target: Vec::new(),
            size: 0,
            mode: 0o644,
            uid: 0,
            gid: 0,
            modified: Time::default(),
        }
    }

    fn file(path: &str, content: &'static [u8]) -> (Entry, &'static [u8]) {
        (Entry { size: content.len() as u64, ..entry(path, Kind::File) }, content)
    }

    fn link(path: &str, kind: Kind, target: &str) -> (Entry, &'static [u8]) {
        (Entry { target: target.into(), ..entry(path, kind) }, b"")
    }

    fn archive(entries: &[(Entry, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for (entry, content) in entries {
            writer.append(entry, *content).unwrap();
        }
        writer.finish().unwrap()
    }

    fn unpacked(octets: &[u8], into: &Path, limits: Limits) -> Result<Restored, RestoreError> {
        unpack(octets, &File::open(into).unwrap(), limits, &mut |_| ())
    }

    fn refuses(entries: &[(Entry, &[u8])], word: &str) {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        fs::create_dir(&volume).unwrap();
        let words = unpacked(&archive(entries), &volume, PLENTY).unwrap_err().to_string();
        assert!(words.contains(word), "{words}");
        let outside: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(outside, ["volume"]);
    }

    fn backed_up(volume: &Path) -> (Vec<u8>, Vec<String>) {
        let (mut octets, mut notices) = (Vec::new(), Vec::new());
        back_up(&File::open(volume).unwrap(), &mut octets, &mut |notice| notices.push(notice)).unwrap();
        (octets, notices)
    }

    #[test]
    fn a_volume_comes_back_as_it_was_but_for_what_is_no_file() {
        let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| before.path().join(name);
        fs::create_dir_all(at("a/deep")).unwrap();
        fs::create_dir(at("empty")).unwrap();
        let long = "n".repeat(200);
        fs::write(at("a").join(&long), vec![7; 200_000]).unwrap();
        fs::hard_link(at("a").join(&long), at("again")).unwrap();
        fs::write(at("a/deep/run"), "#!").unwrap();
        fs::set_permissions(at("a/deep/run"), fs::Permissions::from_mode(0o4751)).unwrap();
        symlink("/etc/passwd", at("link")).unwrap();
        mkfifo(&at("pipe"), Mode::S_IRWXU).unwrap();
        fs::set_permissions(before.path(), fs::Permissions::from_mode(0o2770)).unwrap();
        let time = TimeSpec::new(1_600_000_000, 123_456_789);
        for name in ["a/deep/run", "a/deep", "a", ""] {
            futimens(File::open(at(name)).unwrap(), &time, &time).unwrap();
        }
        let (octets, notices) = backed_up(before.path());
        assert!(
            notices.len() == 1 && notices[0].contains("`./pipe` is a socket, a pipe or a device"),
            "{notices:?}"
        );

        let own = fs::metadata(before.path()).unwrap();
        let limits = Limits { owners: Owners::Kept, ..PLENTY };
        let restored = unpacked(&octets, after.path(), limits).unwrap();
        assert_eq!(restored, Restored { entries: 7, bytes: 7 * ENTRY_BYTES + 200_000 + 2 + 11 });
        let stat = |name: &str| fs::symlink_metadata(after.path().join(name)).unwrap();
        let is = |name: &str, mode: u32| {
            let found = stat(name);
            assert_eq!(
                (found.mode() & 0o7777, found.uid(), found.gid()),
                (mode, own.uid(), own.gid()),
                "{name}"
            );
            assert_eq!((found.mtime(), found.mtime_nsec()), (1_600_000_000, 123_456_789), "{name}");
        };
        is("a/deep/run", 0o4751);
        is("a/deep", fs::metadata(at("a/deep")).unwrap().mode() & 0o7777);
        is("", 0o2770);
        assert_eq!(fs::read(after.path().join("a").join(&long)).unwrap(), vec![7; 200_000]);
        assert_eq!(stat("again").ino(), stat(&format!("a/{long}")).ino());
        assert_eq!(fs::read_link(after.path().join("link")).unwrap(), Path::new("/etc/passwd"));
        assert!(stat("empty").is_dir() && !after.path().join("pipe").exists());
    }

    #[test]
    fn an_empty_volume_has_an_archive_too() {
        let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (octets, notices) = backed_up(before.path());
        assert_eq!(unpacked(&octets, after.path(), PLENTY).unwrap(), Restored::default());
        assert!(notices.is_empty() && fs::read_dir(after.path()).unwrap().next().is_none());
    }

    #[test]
    fn the_workers_own_files_can_be_opened_by_it_whatever_the_archive_says() {
        let dir = tempfile::tempdir().unwrap();
        let closed = Entry { mode: 0o6000, uid: 12345, ..entry("d", Kind::Folder) };
        let inner = Entry { mode: 0, uid: 12345, ..entry("d/f", Kind::File) };
        unpacked(&archive(&[(closed, b""), (inner, b"")]), dir.path(), PLENTY).unwrap();
        let stat = |name: &str| fs::metadata(dir.path().join(name)).unwrap();
        assert_eq!((stat("d").mode() & 0o7777, stat("d/f").mode() & 0o7777), (0o700, 0o600));
        assert_eq!(stat("d/f").uid(), fs::metadata(dir.path()).unwrap().uid());
    }

    #[test]
    fn no_path_of_an_archive_leads_out() {
        refuses(&[file("../x", b"1")], "`..`");
        refuses(&[file("a/../../x", b"1")], "`..`");
        refuses(&[file("/tmp/x", b"1")], "absolute");
        refuses(&[link("l", Kind::Symlink, ".."), file("l/x", b"1")], "goes through a link");
        refuses(&[link("l", Kind::Symlink, "."), (entry("l", Kind::Folder), b"")], "goes through a link");
        refuses(&[link("l", Kind::Symlink, "/tmp/x"), file("l", b"1")], "twice");
        refuses(&[link("l", Kind::HardLink, "../volume")], "`..`");
        refuses(
            &[link("l", Kind::Symlink, ".."), link("m", Kind::HardLink, "l/volume")],
            "no file before it",
        );
        refuses(&[link("l", Kind::HardLink, "later"), file("later", b"")], "no file before it");
        refuses(&[file("f", b""), file("f/x", b"")], "through a file");
        refuses(&[(entry(&"d/".repeat(200), Kind::Folder), b"")], "more than 128 folders");
        refuses(&[file(".", b"")], "the volume itself");
    }

    #[test]
    fn devices_are_refused() {
        let mut header = tar::Header::new_ustar();
        header.set_path("null").unwrap();
        header.set_entry_type(tar::EntryType::Char);
        header.set_size(0);
        header.set_mode(0o666);
        header.set_cksum();
        let dir = tempfile::tempdir().unwrap();
        let words = unpacked(header.as_bytes(), dir.path(), PLENTY).unwrap_err().to_string();
        assert!(words.contains("`null` is a device"), "{words}");
    }

    #[test]
    fn an_archive_ends_where_the_volume_is_full_before_more_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let octets = archive(&[file("a/b", b"12345"), file("c", b"")]);
        let limits = |size_bytes, entries_max| Limits { size_bytes, entries_max, owners: Owners::Worker };
        let exact = 3 * ENTRY_BYTES + 5;
        assert!(matches!(
            unpacked(&octets, dir.path(), limits(exact - 1, 3)),
            Err(RestoreError::TooLarge { .. })
        ));
        assert!(!dir.path().join("c").exists());
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(unpacked(&octets, dir.path(), limits(exact, 2)), Err(RestoreError::TooMany(2))));
        let dir = tempfile::tempdir().unwrap();
        let whole = unpacked(&octets, dir.path(), limits(exact, 3)).unwrap();
        assert_eq!(whole, Restored { entries: 3, bytes: exact });
        let bomb = Entry { size: 1 << 50, ..entry("bomb", Kind::File) };
        let mut octets = Vec::new();
        let _ = Writer::new(&mut octets).append(&bomb, Failing);
        let error = unpacked(&octets, dir.path(), PLENTY).unwrap_err();
        assert!(matches!(error, RestoreError::TooLarge { .. }), "{error}");
    }

    /// A content of which nothing can be read.
    struct Failing;

    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::Other.into())
        }
    }
}
