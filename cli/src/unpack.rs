//! A folder that comes as a tar archive on stdin.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read};
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use anyhow::Context as _;
use flate2::bufread::GzDecoder;
use tar::{Archive, EntryType};

use crate::exit::Failure;

/// What an archive may hold, unpacked: as many octets, and as many files, folders and links.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub bytes: u64,
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 2 << 30, entries: 200_000 }
    }
}

/// Unpacks an archive, plain or compressed with gzip, into an empty folder. Nothing is written outside of it, whatever the archive says.
pub fn unpack(from: impl Read, into: &Path, limits: Limits) -> anyhow::Result<()> {
    let mut from = BufReader::new(from);
    let is_gzip = from.fill_buf().context("could not read stdin")?.starts_with(&[0x1f, 0x8b]);
    // One more than may be read tells that there is more.
    let most = limits.bytes.saturating_add(limits.entries.saturating_mul(1024)) + 1;
    if is_gzip {
        unpack_plain(GzDecoder::new(from).take(most), into, limits)
    } else {
        unpack_plain(from.take(most), into, limits)
    }
}

fn unpack_plain(from: impl Read, into: &Path, limits: Limits) -> anyhow::Result<()> {
    let mut archive = Archive::new(from);
    let (mut bytes, mut entries) = (0_u64, 0_u64);
    for entry in archive.entries().map_err(not_an_archive)? {
        let mut entry = entry.map_err(not_an_archive)?;
        entries += 1;
        bytes = bytes.saturating_add(entry.size());
        if bytes > limits.bytes || entries > limits.entries {
            return Err(Failure::invalid(format!(
                "the archive holds more than {} MiB or {} files: leave out what the app is not built from",
                limits.bytes >> 20,
                limits.entries
            ))
            .into());
        }
        let path = entry.path().map_err(not_an_archive)?.into_owned();
        let Some(target) = inside(&path) else {
            return Err(Failure::invalid(format!("the archive has {}, which leads out of it", shown(&path)))
                .help("pack the folder itself: `tar -C FOLDER -c . | wharf deploy -`")
                .into());
        };
        if target.as_os_str().is_empty() {
            continue;
        }
        let writing = || format!("could not unpack {}", shown(&path));
        match entry.header().entry_type() {
            EntryType::Directory => {
                no_links(into, &target)?;
                fs::create_dir_all(into.join(&target)).with_context(writing)?;
            }
            EntryType::Regular | EntryType::Continuous => {
                let mode = if entry.header().mode().unwrap_or(0) & 0o100 == 0 { 0o644 } else { 0o755 };
                prepare(into, &target)?;
                let mut options = OpenOptions::new();
                let mut file = options
                    .write(true)
                    .create_new(true)
                    .mode(mode)
                    .open(into.join(&target))
                    .with_context(writing)?;
                io::copy(&mut entry, &mut file).with_context(writing)?;
            }
            EntryType::Symlink => {
                let link = entry.link_name().map_err(not_an_archive)?.unwrap_or_default().into_owned();
                let depth = target.components().count() - 1;
                if !stays_inside(&link, depth) {
                    let text = format!(
                        "{} is a link to {}, which leads out of the archive",
                        shown(&path),
                        shown(&link)
                    );
                    return Err(Failure::invalid(text).into());
                }
                prepare(into, &target)?;
                symlink(&link, into.join(&target)).with_context(writing)?;
            }
            // What they say about the next entry has been taken into account.
            EntryType::XGlobalHeader
            | EntryType::XHeader
            | EntryType::GNULongName
            | EntryType::GNULongLink => {}
            _ => {
                let text = format!("{} is neither a file, a folder nor a symbolic link", shown(&path));
                return Err(Failure::invalid(text)
                    .help("copy what a hard link leads to into the archive")
                    .into());
            }
        }
    }
    if entries == 0 {
        return Err(Failure::invalid("there is no tar archive on stdin")
            .help("`tar -C FOLDER -c . | wharf deploy -`")
            .into());
    }
    Ok(())
}

/// How much is told of what the reader says is wrong: it repeats octets of what it has read.
const PROBLEM_MAX_CHARS: usize = 120;

fn not_an_archive(error: io::Error) -> anyhow::Error {
    let problem = error.to_string();
    let end = if problem.chars().nth(PROBLEM_MAX_CHARS).is_some() { "…" } else { "" };
    let problem: String = problem.chars().take(PROBLEM_MAX_CHARS).flat_map(char::escape_debug).collect();
    Failure::invalid(format!("what is on stdin is not a whole tar archive: {problem}{end}"))
        .help("`tar -C FOLDER -c . | wharf deploy -`")
        .into()
}

/// The path within the folder. None: it leads out.
pub fn inside(path: &Path) -> Option<PathBuf> {
    let mut target = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) => target.push(name),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(target)
}

/// Whether a link in a folder of this depth leads to something in the archive: `..` may stand at its beginning only.
pub fn stays_inside(link: &Path, depth: usize) -> bool {
    let mut up = 0;
    let mut is_beginning = true;
    for part in link.components() {
        match part {
            Component::ParentDir if is_beginning => up += 1,
            Component::CurDir => {}
            Component::Normal(_) => is_beginning = false,
            _ => return false,
        }
    }
    up <= depth
}

/// Makes the folders above a path.
pub fn prepare(into: &Path, target: &Path) -> anyhow::Result<()> {
    no_links(into, target)?;
    let parent = into.join(target.parent().unwrap_or(Path::new("")));
    fs::create_dir_all(&parent).with_context(|| format!("could not make {}", parent.display()))
}

/// A link that was unpacked before may lead anywhere once another one has been followed.
pub fn no_links(into: &Path, target: &Path) -> anyhow::Result<()> {
    let mut folder = into.to_owned();
    for part in target.parent().unwrap_or(Path::new("")).components() {
        folder.push(part);
        if folder.is_symlink() {
            return Err(
                Failure::invalid(format!("the archive unpacks {} through a link", shown(target))).into()
            );
        }
    }
    Ok(())
}

pub fn shown(path: &Path) -> String {
    format!("`{}`", path.to_string_lossy().chars().take(200).flat_map(char::escape_debug).collect::<String>())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    enum Item<'a> {
        File(&'a str, &'a [u8]),
        Link(&'a str, &'a str),
        Hard(&'a str, &'a str),
    }

    /// An archive with just these names, whatever they are.
    fn archive(items: &[Item<'_>]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for item in items {
            let mut header = tar::Header::new_gnu();
            let (path, content, kind, link) = match *item {
                Item::File(path, content) => (path, content, EntryType::Regular, None),
                Item::Link(path, link) => (path, &b""[..], EntryType::Symlink, Some(link)),
                Item::Hard(path, link) => (path, &b""[..], EntryType::Link, Some(link)),
            };
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            if let Some(link) = link {
                header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
            }
            header.set_entry_type(kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            header.set_cksum();
            builder.append(&header, content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpacked(octets: &[u8]) -> (tempfile::TempDir, anyhow::Result<()>) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        let limits = Limits { bytes: 1 << 20, entries: 10 };
        let done = unpack(octets, &folder.path().join("in"), limits);
        (folder, done)
    }

    #[test]
    fn files_folders_and_links_are_unpacked_plain_or_compressed() {
        let plain = archive(&[
            Item::File("./a/b.txt", b"hi"),
            Item::Link("a/c", "b.txt"),
            Item::Link("d", "a/b.txt"),
        ]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        for octets in [plain, gzip.finish().unwrap()] {
            let (folder, done) = unpacked(&octets);
            done.unwrap();
            for path in ["in/a/b.txt", "in/a/c", "in/d"] {
                assert_eq!(fs::read(folder.path().join(path)).unwrap(), b"hi", "{path}");
            }
        }
    }

    #[test]
    fn nothing_leads_out() {
        for (items, words) in [
            (vec![Item::File("/etc/x", b"")], "leads out"),
            (vec![Item::File("../x", b"")], "leads out"),
            (vec![Item::File("a/../../x", b"")], "leads out"),
            (vec![Item::Link("a", "/etc")], "leads out"),
            (vec![Item::Link("a", "../x")], "leads out"),
            (vec![Item::Link("a", "b/../../x")], "leads out"),
            (vec![Item::Link("b", "."), Item::File("b/x", b"")], "through a link"),
            (vec![Item::Hard("a", "/etc/passwd")], "hard link"),
        ] {
            let (folder, done) = unpacked(&archive(&items));
            let error = done.unwrap_err();
            let told = crate::exit::told(&error);
            let text = format!("{} {}", told.0, told.1.unwrap_or_default());
            assert!(text.contains(words), "{text}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn bombs_and_what_is_no_archive_are_refused() {
        let zeros = vec![0; 2 << 20];
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&archive(&[Item::File("zeros", &zeros)])).unwrap();
        let many: Vec<Item<'_>> =
            ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"].map(|it| Item::File(it, b"")).into();
        for octets in [gzip.finish().unwrap(), archive(&many)] {
            assert!(unpacked(&octets).1.unwrap_err().to_string().contains("holds more than"));
        }
        for octets in
            [&b""[..], b"hello, this is no archive at all", &archive(&[Item::File("a", b"x")])[..300]]
        {
            let error = unpacked(octets).1.unwrap_err().to_string();
            assert!(error.contains("tar archive"), "{error}");
        }
        let garbage: Vec<u8> = (0..2048_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let error = unpacked(&garbage).1.unwrap_err().to_string();
        assert!(error.chars().count() < 1500 && !error.contains(char::is_control), "{error}");
    }
}
