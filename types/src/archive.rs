//! Files that an app is shipped with, as they travel: a tar archive of regular files and nothing else.
//!
//! Whoever receives an archive reads it by [`read`], so that no link, no device and no path that leads out ever reaches a disk, whoever made
//! it. The same files make the same octets, and so the same digest ([`Writer`]).

use std::collections::HashSet;
use std::io::{self, Read, Write};

use tar::{Archive, Builder, EntryType, Header};

/// The largest archive, and the most octets of all its files together.
pub const ARCHIVE_MAX_BYTES: u64 = 256 << 20;
/// The most files of an archive.
pub const FILES_MAX: u64 = 10_000;

/// Why something is not an archive of files.
#[derive(Debug, thiserror::Error)]
pub enum InvalidArchive {
    #[error("it is not a tar archive, or it is damaged")]
    Damaged(#[source] io::Error),
    #[error("`{path}` is {kind}: only files and folders can be shipped")]
    NotAFile { path: String, kind: String },
    #[error("`{0}` is not a path below the folder: it must be relative, without `.` and `..`, in UTF-8")]
    BadPath(String),
    #[error("`{0}` is there twice, or is a file and a folder")]
    Twice(String),
    #[error("the path `{0}` is too long: a folder's may have 155 octets, and a file's name in it 100")]
    LongPath(String),
    #[error("there are more than {FILES_MAX} files")]
    TooMany,
    #[error("the files have more than {} MiB in all", ARCHIVE_MAX_BYTES >> 20)]
    TooLarge,
}

/// What is in an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    pub files: u64,
    /// Of all files together.
    pub bytes: u64,
}

/// Reads an archive to its end and gives each file, with its path and its content, to `each`. An error of `each` ends it as damaged.
pub fn read(
    archive: impl Read,
    mut each: impl FnMut(&str, &mut dyn Read) -> io::Result<()>,
) -> Result<Contents, InvalidArchive> {
    let mut archive = Archive::new(archive);
    let mut contents = Contents::default();
    let (mut files, mut folders) = (HashSet::new(), HashSet::new());
    // Raw, so that extensions such as other names for the next file are entries, too, and refused as such.
    for entry in archive.entries().map_err(InvalidArchive::Damaged)?.raw(true) {
        let mut entry = entry.map_err(InvalidArchive::Damaged)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let kind = entry.header().entry_type();
        if kind != EntryType::Regular {
            return Err(InvalidArchive::NotAFile { path, kind: name_of(kind) });
        }
        check_path(&path)?;
        let is_new = files.insert(path.clone()) && !folders.contains(&path);
        let mut below = path.match_indices('/').map(|(slash, _)| &path[..slash]);
        if !is_new || below.any(|folder| files.contains(folder)) {
            return Err(InvalidArchive::Twice(path));
        }
        folders.extend(path.match_indices('/').map(|(slash, _)| path[..slash].to_owned()));
        contents.files += 1;
        contents.bytes =
            contents.bytes.saturating_add(entry.header().size().map_err(InvalidArchive::Damaged)?);
        if contents.files > FILES_MAX {
            return Err(InvalidArchive::TooMany);
        }
        if contents.bytes > ARCHIVE_MAX_BYTES {
            return Err(InvalidArchive::TooLarge);
        }
        each(&path, &mut entry).map_err(InvalidArchive::Damaged)?;
        // Also where `each` did not read it, so that an archive that was cut off is found out.
        let rest = io::copy(&mut entry, &mut io::sink());
        rest.map_err(InvalidArchive::Damaged)?;
    }
    Ok(contents)
}

fn name_of(kind: EntryType) -> String {
    match kind {
        EntryType::Symlink => "a symbolic link".to_owned(),
        EntryType::Link => "a hard link".to_owned(),
        EntryType::Directory => "a folder of its own".to_owned(),
        other => format!("something else (kind {other:?})"),
    }
}

fn check_path(path: &str) -> Result<(), InvalidArchive> {
    let is_name =
        |name: &str| !name.is_empty() && name != "." && name != ".." && !name.contains(['\0', '\u{fffd}']);
    if path.split('/').all(is_name) { Ok(()) } else { Err(InvalidArchive::BadPath(path.to_owned())) }
}

/// Writes an archive. To make the same octets of the same files, they are to be given in the order of their paths.
pub struct Writer<W: Write> {
    builder: Builder<W>,
    contents: Contents,
}

impl<W: Write> Writer<W> {
    pub fn new(to: W) -> Self {
        Self { builder: Builder::new(to), contents: Contents::default() }
    }

    /// Appends a file of exactly so many octets. Who owns it, when it was written and whether it may be executed are left out.
    pub fn append(&mut self, path: &str, bytes: u64, content: impl Read) -> Result<(), InvalidArchive> {
        check_path(path)?;
        self.contents.files += 1;
        self.contents.bytes = self.contents.bytes.saturating_add(bytes);
        if self.contents.files > FILES_MAX {
            return Err(InvalidArchive::TooMany);
        }
        if self.contents.bytes > ARCHIVE_MAX_BYTES {
            return Err(InvalidArchive::TooLarge);
        }
        let mut header = Header::new_ustar();
        header.set_path(path).map_err(|_| InvalidArchive::LongPath(path.to_owned()))?;
        header.set_size(bytes);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_cksum();
        self.builder.append(&header, content.take(bytes)).map_err(InvalidArchive::Damaged)
    }

    /// Ends the archive.
    pub fn finish(self) -> Result<(W, Contents), InvalidArchive> {
        Ok((self.builder.into_inner().map_err(InvalidArchive::Damaged)?, self.contents))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for (path, content) in files {
            writer.append(path, content.len() as u64, *content).unwrap();
        }
        writer.finish().unwrap().0
    }

    fn contents(archive: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
        let mut files = Vec::new();
        let read = read(archive, |path, content| {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes)?;
            files.push((path.to_owned(), bytes));
            Ok(())
        });
        read.map(|contents| {
            assert_eq!(contents.files, files.len() as u64);
            files
        })
        .map_err(|error| error.to_string())
    }

    /// An entry that no [`Writer`] makes.
    fn entry(path: &str, kind: EntryType, link: &str) -> Vec<u8> {
        let mut header = Header::new_ustar();
        let name = &mut header.as_old_mut().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        }
        header.set_size(0);
        header.set_cksum();
        let mut builder = Builder::new(Vec::new());
        builder.append(&header, io::empty()).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn what_is_written_is_read_and_the_same_files_are_the_same_octets() {
        let long = format!("{}/{}", "d".repeat(150), "f".repeat(90));
        let files: [(&str, &[u8]); 3] = [("a.txt", b"hello"), ("b/c/d.bin", &[0; 2000]), (&long, b"")];
        let archive = archive(&files);
        let expected = files.map(|(path, content)| (path.to_owned(), content.to_vec()));
        assert_eq!(contents(&archive).unwrap(), expected);
        assert_eq!(archive, super::tests::archive(&files));
        assert_eq!(contents(&super::tests::archive(&[])).unwrap(), []);
    }

    #[test]
    fn links_devices_and_extensions_are_refused_by_name() {
        for (kind, words) in [
            (EntryType::Symlink, "a symbolic link"),
            (EntryType::Link, "a hard link"),
            (EntryType::Block, "kind Block"),
            (EntryType::GNULongName, "kind GNULongName"),
            (EntryType::XHeader, "kind XHeader"),
        ] {
            let refused = contents(&entry("x/evil", kind, "/etc/passwd")).unwrap_err();
            assert!(refused.contains("`x/evil`") && refused.contains(words), "{refused}");
        }
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for path in ["/etc/passwd", "..", "a/../../b", "./a", "a//b", "a/"] {
            let refused = contents(&entry(path, EntryType::Regular, "")).unwrap_err();
            assert!(refused.contains("is not a path below the folder"), "{path}: {refused}");
            assert!(Writer::new(Vec::new()).append(path, 0, io::empty()).is_err(), "{path}");
        }
    }

    #[test]
    fn one_path_is_one_file() {
        for second in ["a/b", "a/b/c", "a"] {
            let refused = contents(&archive(&[("a/b", b"1"), (second, b"2")])).unwrap_err();
            assert!(refused.contains("there twice"), "{second}: {refused}");
        }
    }

    #[test]
    fn limits_hold_on_both_sides() {
        let mut writer = Writer::new(io::sink());
        let refused = writer.append("large", ARCHIVE_MAX_BYTES + 1, io::empty()).unwrap_err();
        assert!(matches!(refused, InvalidArchive::TooLarge));
        let mut writer = Writer::new(Vec::new());
        for number in 0..FILES_MAX {
            writer.append(&number.to_string(), 0, io::empty()).unwrap();
        }
        assert!(matches!(writer.append("more", 0, io::empty()), Err(InvalidArchive::TooMany)));
        let refused = Writer::new(Vec::new()).append(&"x".repeat(300), 0, io::empty()).unwrap_err();
        assert!(matches!(refused, InvalidArchive::LongPath(_)), "{refused}");
    }

    #[test]
    fn what_is_cut_off_or_no_archive_is_refused() {
        let whole = archive(&[("a", &[7; 5000])]);
        assert!(contents(&whole[..3000]).is_err());
        assert!(contents(&[b'x'; 2048]).unwrap_err().contains("not a tar archive"));
    }

    proptest::proptest! {
        #[test]
        fn any_octets_are_survived(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..3000)) {
            let _ = contents(&bytes);
        }
    }
}
