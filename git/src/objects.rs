//! Reading commits, folders and files, of a repository or of a push that has not been accepted yet.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use crate::git::{self, GitError, Ran, SHORT};
use crate::held::{self, Held};
use crate::object_id::ObjectId;
use crate::repositories::{Repository, Shared};
use crate::text;

/// Where the objects of a push are until it is accepted, as git tells its hooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quarantine {
    pub(crate) objects: String,
    pub(crate) alternates: String,
}

/// The objects of a repository, and of a push if these are from one. Those of a push can be read until its handler has answered.
#[derive(Clone, Debug)]
pub struct Objects {
    path: PathBuf,
    shared: Arc<Shared>,
    quarantine: Option<Quarantine>,
}

/// What a commit says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    pub id: ObjectId,
    /// The first paragraph of its message on one line, without control characters.
    pub subject: String,
    pub author: String,
    pub authored_at: Timestamp,
}

/// Something in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Git knows octets; what is not UTF-8 is replaced.
    pub name: String,
    pub kind: EntryKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    File { bytes: u64, is_executable: bool },
    Folder,
    Symlink,
    Submodule,
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("`{path}` has {bytes} octets; the most for this file are {max_bytes}")]
    TooLarge { path: String, bytes: u64, max_bytes: u64 },
    #[error("`{0}` is not a file: push a regular file of that name")]
    NotAFile(String),
    #[error(transparent)]
    Git(#[from] GitError),
}

impl Repository {
    /// What is in the repository.
    pub fn objects(&self) -> Objects {
        self.objects_with(None)
    }

    pub(crate) fn objects_with(&self, quarantine: Option<Quarantine>) -> Objects {
        Objects { path: self.path.clone(), shared: self.shared.clone(), quarantine }
    }
}

impl Objects {
    /// What a push has brought, as it would be kept; nothing, for those of a repository alone.
    pub async fn brought(&self) -> Result<Held, GitError> {
        match &self.quarantine {
            Some(quarantine) => held::in_folder(quarantine.objects.clone().into()).await,
            None => Ok(Held::default()),
        }
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = self.shared.git.command(Some(&self.path));
        if let Some(quarantine) = &self.quarantine {
            command.env("GIT_OBJECT_DIRECTORY", &quarantine.objects);
            command.env("GIT_ALTERNATE_OBJECT_DIRECTORIES", &quarantine.alternates);
        }
        command
    }

    async fn run(&self, name: &'static str, arguments: &[&str]) -> Result<Ran, GitError> {
        let mut command = self.command();
        command.arg(name).args(arguments);
        git::run(name, command, b"", SHORT).await
    }

    /// What a commit says of itself; for a tag, the commit that it leads to.
    pub async fn commit(&self, id: ObjectId) -> Result<Commit, GitError> {
        let format = "--format=%H%x00%at%x00%an%x00%s%x00";
        let commit = format!("{id}^{{commit}}");
        // Parents are not looked for: those of a shallow push are nowhere, and which they are is known to git only once it is accepted.
        let ran = self
            .run(
                "log",
                &[
                    "--no-walk",
                    "--no-show-signature",
                    "--encoding=UTF-8",
                    format,
                    "--end-of-options",
                    &commit,
                ],
            )
            .await?;
        let failure = ran.failure();
        let text = String::from_utf8_lossy(&ran.output()?).into_owned();
        let mut fields = text.split('\0');
        let mut field = || fields.next().unwrap_or_default();
        let (id, seconds) = (field().parse().map_err(|_| failure)?, field().parse().unwrap_or(0));
        let author = text::shown(field(), 200);
        let subject = text::shown(field(), 500);
        let authored_at = Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH);
        Ok(Commit { id, subject, author, authored_at })
    }

    /// Whether `old` is `new` or comes before it: whether nothing is lost when a branch goes from one to the other.
    pub async fn is_ancestor(&self, old: ObjectId, new: ObjectId) -> Result<bool, GitError> {
        let ran = self.run("merge-base", &["--is-ancestor", &old.to_string(), &new.to_string()]).await?;
        match ran.status.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => Err(ran.failure()),
        }
    }

    /// What is at the top of a commit.
    pub async fn entries(&self, commit: ObjectId) -> Result<Vec<Entry>, GitError> {
        let ran = self.run("ls-tree", &["-z", "-l", "--full-tree", &commit.to_string()]).await?;
        let listing = ran.output()?;
        Ok(listing.split(|&octet| octet == 0).filter_map(TreeLine::parse).map(TreeLine::entry).collect())
    }

    /// One file of a commit. None: there is none at this path.
    pub async fn file(
        &self,
        commit: ObjectId,
        path: &str,
        max_bytes: u64,
    ) -> Result<Option<Bytes>, FileError> {
        let ran = self.run("ls-tree", &["-z", "-l", "--full-tree", &commit.to_string(), "--", path]).await?;
        let listing = ran.output()?;
        let line = listing.split(|&octet| octet == 0).find_map(TreeLine::parse);
        let Some(line) = line.filter(|line| line.path == path.as_bytes()) else { return Ok(None) };
        let EntryKind::File { bytes, .. } = line.kind else {
            return Err(FileError::NotAFile(text::shown(path, 200)));
        };
        if bytes > max_bytes {
            return Err(FileError::TooLarge { path: text::shown(path, 200), bytes, max_bytes });
        }
        let ran = self.run("cat-file", &["blob", &line.id]).await?;
        Ok(Some(ran.output()?.into()))
    }
}

/// A line of `git ls-tree -z -l`: `MODE TYPE ID SIZE<tab>PATH`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TreeLine<'a> {
    pub(crate) kind: EntryKind,
    pub(crate) id: String,
    pub(crate) path: &'a [u8],
}

impl<'a> TreeLine<'a> {
    pub(crate) fn parse(line: &'a [u8]) -> Option<Self> {
        let tab = line.iter().position(|&octet| octet == b'\t')?;
        let (head, path) = (std::str::from_utf8(&line[..tab]).ok()?, &line[tab + 1..]);
        let mut words = head.split_ascii_whitespace();
        let (mode, _, id, size) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let kind = match mode {
            "040000" => EntryKind::Folder,
            "120000" => EntryKind::Symlink,
            "160000" => EntryKind::Submodule,
            _ => EntryKind::File { bytes: size.parse().ok()?, is_executable: mode == "100755" },
        };
        Some(Self { kind, id: id.to_owned(), path })
    }

    fn entry(self) -> Entry {
        Entry { name: String::from_utf8_lossy(self.path).into_owned(), kind: self.kind }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_all_kinds_are_read() {
        let id = "1".repeat(40);
        let parse = |text: String| TreeLine::parse(text.as_bytes()).map(TreeLine::entry);
        let file = |bytes, is_executable| EntryKind::File { bytes, is_executable };
        for (line, name, kind) in [
            (format!("100644 blob {id}      17\ta\tb\nc"), "a\tb\nc", file(17, false)),
            (format!("100755 blob {id}       0\trun"), "run", file(0, true)),
            (format!("040000 tree {id}       -\tsrc"), "src", EntryKind::Folder),
            (format!("120000 blob {id}       4\tlink"), "link", EntryKind::Symlink),
            (format!("160000 commit {id}       -\tlib"), "lib", EntryKind::Submodule),
        ] {
            assert_eq!(parse(line), Some(Entry { name: name.to_owned(), kind }));
        }
        assert_eq!(parse(format!("100644 blob {id}     BAD\ta")), None);
        assert_eq!(parse(String::new()), None);
    }
}
