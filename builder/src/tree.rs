//! A tree of sources as detection sees it: names of folders, and small text files.
//!
//! Nothing outside of the tree is ever read. A link that stays inside is followed, one that leads out is as good as absent.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The largest file that detection reads.
pub(crate) const FILE_MAX_BYTES: u64 = 1 << 20;
/// Names of a folder beyond this many are not looked at.
const ENTRIES_MAX: usize = 10_000;

/// Where detection reads. Paths are relative, with `/` between names; the tree itself is the empty path.
pub trait Tree {
    /// The names in a folder, sorted. None: there is no such folder.
    fn list(&self, folder: &str) -> Option<Vec<Entry>>;

    /// A text file. `Ok(None)`: there is no such regular file in the tree.
    fn read(&self, path: &str) -> Result<Option<String>, Unreadable>;
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub name: String,
    pub kind: EntryKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    File,
    Folder,
    /// A device, a pipe, or a link that leads nowhere or out of the tree.
    Other,
}

/// Why a file that is there cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("`{path}` is larger than {} KiB", FILE_MAX_BYTES >> 10)]
    TooLarge { path: String },
    #[error("`{path}` is not text in UTF-8")]
    NotText { path: String },
    #[error("could not read `{path}`")]
    Io {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

/// A folder of this machine.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// # Errors
    /// When there is no such folder.
    pub fn open(root: &Path) -> std::io::Result<Self> {
        let root = root.canonicalize()?;
        if !root.is_dir() {
            return Err(std::io::Error::from(std::io::ErrorKind::NotADirectory));
        }
        Ok(Self { root })
    }
}

impl Tree for Folder {
    fn list(&self, folder: &str) -> Option<Vec<Entry>> {
        let folder = inside(&self.root, Path::new(folder))?;
        let names = std::fs::read_dir(&folder).ok()?.flatten().take(ENTRIES_MAX);
        let mut entries: Vec<Entry> = names
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                Some(Entry { kind: kind_of(&self.root, &entry.path()), name })
            })
            .collect();
        entries.sort();
        Some(entries)
    }

    fn read(&self, path: &str) -> Result<Option<String>, Unreadable> {
        let Some(file) = inside(&self.root, Path::new(path)).filter(|file| file.is_file()) else {
            return Ok(None);
        };
        let io = |source| Unreadable::Io { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        std::fs::File::open(file)
            .and_then(|file| file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes))
            .map_err(io)?;
        text(path, bytes).map(Some)
    }
}

/// A tree that is in memory: what a git repository lists, or a test makes up.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    files: BTreeMap<String, Vec<u8>>,
}

impl Listing {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file, and the folders that it is in.
    pub fn insert(&mut self, path: impl Into<String>, content: impl Into<Vec<u8>>) {
        self.files.insert(path.into(), content.into());
    }
}

impl<P: Into<String>, C: Into<Vec<u8>>> FromIterator<(P, C)> for Listing {
    fn from_iter<I: IntoIterator<Item = (P, C)>>(files: I) -> Self {
        let mut listing = Self::new();
        files.into_iter().for_each(|(path, content)| listing.insert(path, content));
        listing
    }
}

impl Tree for Listing {
    fn list(&self, folder: &str) -> Option<Vec<Entry>> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let below = self.files.keys().filter_map(|path| path.strip_prefix(&prefix));
        let mut entries: Vec<Entry> = below
            .map(|path| match path.split_once('/') {
                Some((name, _)) => Entry { name: name.to_owned(), kind: EntryKind::Folder },
                None => Entry { name: path.to_owned(), kind: EntryKind::File },
            })
            .collect();
        entries.sort();
        entries.dedup();
        (folder.is_empty() || !entries.is_empty()).then_some(entries)
    }

    fn read(&self, path: &str) -> Result<Option<String>, Unreadable> {
        let Some(content) = self.files.get(path) else { return Ok(None) };
        text(path, content.clone()).map(Some)
    }
}

/// The place of a relative path, if it exists and is inside of the folder after all links. `root` is canonical.
pub(crate) fn inside(root: &Path, relative: &Path) -> Option<PathBuf> {
    let place = root.join(relative).canonicalize().ok()?;
    place.starts_with(root).then_some(place)
}

fn kind_of(root: &Path, path: &Path) -> EntryKind {
    match inside(root, path).and_then(|place| place.metadata().ok()) {
        Some(metadata) if metadata.is_file() => EntryKind::File,
        Some(metadata) if metadata.is_dir() => EntryKind::Folder,
        _ => EntryKind::Other,
    }
}

fn text(path: &str, bytes: Vec<u8>) -> Result<String, Unreadable> {
    if bytes.len() as u64 > FILE_MAX_BYTES {
        return Err(Unreadable::TooLarge { path: path.to_owned() });
    }
    String::from_utf8(bytes).map_err(|_| Unreadable::NotText { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_that_leads_out_is_neither_read_nor_listed() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        std::fs::write(folder.path().join("secret"), "secret").unwrap();
        std::fs::write(tree.join("real"), "here").unwrap();
        symlink("../secret", tree.join("out")).unwrap();
        symlink("/etc", tree.join("etc")).unwrap();
        symlink("real", tree.join("within")).unwrap();
        let tree = Folder::open(&tree).unwrap();
        assert_eq!(tree.read("within").unwrap().as_deref(), Some("here"));
        for path in ["out", "etc/passwd", "../secret", "/etc/passwd", "absent"] {
            assert!(tree.read(path).unwrap().is_none(), "{path}");
        }
        assert!(tree.list("etc").is_none());
        let kinds: Vec<_> = tree.list("").unwrap().into_iter().map(|it| (it.name, it.kind)).collect();
        assert_eq!(
            kinds,
            [
                ("etc".to_owned(), EntryKind::Other),
                ("out".to_owned(), EntryKind::Other),
                ("real".to_owned(), EntryKind::File),
                ("within".to_owned(), EntryKind::File)
            ]
        );
    }

    #[test]
    fn what_is_no_small_text_file_is_refused_or_absent() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("large"), vec![b'a'; FILE_MAX_BYTES as usize + 1]).unwrap();
        std::fs::write(folder.path().join("binary"), [0xff, 0xfe]).unwrap();
        nix::unistd::mkfifo(&folder.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let tree = Folder::open(folder.path()).unwrap();
        assert!(matches!(tree.read("large"), Err(Unreadable::TooLarge { .. })));
        assert!(matches!(tree.read("binary"), Err(Unreadable::NotText { .. })));
        // A pipe would be waited for.
        assert!(tree.read("pipe").unwrap().is_none());
    }

    #[test]
    fn a_listing_has_the_folders_of_its_files() {
        let tree: Listing = [("a.txt", "a"), ("b/c/d.txt", "d"), ("b/e.txt", "e")].into_iter().collect();
        let names = |folder: &str| -> Vec<String> {
            tree.list(folder).unwrap().into_iter().map(|entry| entry.name).collect()
        };
        assert_eq!(names(""), ["a.txt", "b"]);
        assert_eq!(names("b"), ["c", "e.txt"]);
        assert!(tree.list("x").is_none());
    }
}
