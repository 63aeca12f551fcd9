//! Writes the files of a commit to a folder, as they were pushed.
//!
//! `git ls-tree` lists them, `git cat-file` gives their contents, and both are read while they come, so a large tree needs no memory. Neither
//! knows attributes or filters: nothing is left out, converted or replaced.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::git::{self, GitError};
use crate::limits::CheckoutLimits;
use crate::object_id::ObjectId;
use crate::objects::{EntryKind, Objects, TreeLine};
use crate::text;

/// Files that `git cat-file` was asked for and has not given.
const AHEAD: usize = 1024;
/// The longest path; Linux opens none that are longer.
const PATH_MAX_BYTES: usize = 4096;
const LFS_HEAD: &[u8] = b"version https://git-lfs.github.com/spec/v1\n";

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checkout {
    pub files: u64,
    pub symlinks: u64,
    /// Of all files together.
    pub bytes: u64,
}

/// Why a commit cannot be built. The text is for who pushed it.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    #[error("there are more than {0} files: push only what the app is built from")]
    TooManyFiles(u64),
    #[error("the files have more than {} MiB in all: push only what the app is built from", .0 >> 20)]
    TooLarge(u64),
    #[error(
        "`{path}` has {bytes} octets, and a file may have {max_bytes}: keep large files out of the repository"
    )]
    FileTooLarge { path: String, bytes: u64, max_bytes: u64 },
    #[error(
        "`{0}` is a submodule, whose files are not in this repository: add them to it (`git rm {0}`, then `git subtree add --prefix {0} URL REF`)"
    )]
    Submodule(String),
    #[error(
        "`{0}` is a pointer of Git LFS, the file itself was not pushed: take it out of LFS with `git lfs migrate export --include={0}`, and push again"
    )]
    LfsPointer(String),
    #[error(
        "`{path}` is a symbolic link to `{target}`, which may lead out of the repository: link to a relative path in it, with `..` at its beginning only"
    )]
    SymlinkOut { path: String, target: String },
    #[error("`{0}` is not a path that can be written: rename it")]
    BadPath(String),
    #[error("could not write `{path}`")]
    Write {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("the folder {} is not empty", .0.display())]
    NotEmpty(PathBuf),
    #[error("could not make the folder {}", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("an object of the commit is missing or damaged: push to a fresh repository")]
    Damaged,
    #[error("it took longer than {} s to write the files", .0.as_secs())]
    Slow(Duration),
    #[error("nobody waits for the files any more")]
    Abandoned,
    #[error(transparent)]
    Git(#[from] GitError),
}

impl Objects {
    /// Writes all files of a commit to the folder `into`, which is made, or is empty. What is there after an error is up to the caller.
    pub async fn checkout(
        &self,
        commit: ObjectId,
        into: &Path,
        limits: &CheckoutLimits,
    ) -> Result<Checkout, CheckoutError> {
        let abandoned = Arc::new(AtomicBool::new(false));
        let guard = Abandon(abandoned.clone());
        let work = Work {
            listing: {
                let mut command = self.command();
                command.args(["ls-tree", "-r", "-z", "-l", "--full-tree"]).arg(commit.to_string());
                command
            },
            contents: {
                let mut command = self.command();
                command.args(["cat-file", "--batch", "--buffer"]);
                command
            },
            into: into.to_owned(),
            limits: limits.clone(),
            end: Instant::now() + limits.time,
            abandoned,
        };
        // A hundred thousand files are as many blocking calls.
        let written = tokio::task::spawn_blocking(move || work.run()).await;
        drop(guard);
        written.map_err(|panic| GitError::Pipe { command: "cat-file", source: io::Error::other(panic) })?
    }
}

/// Tells the thread that nobody waits, when what waits is dropped.
struct Abandon(Arc<AtomicBool>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Work {
    listing: Command,
    contents: Command,
    into: PathBuf,
    limits: CheckoutLimits,
    end: Instant,
    abandoned: Arc<AtomicBool>,
}

/// A file or link that is to be written.
struct Wanted {
    path: Vec<u8>,
    kind: EntryKind,
}

impl Work {
    fn run(mut self) -> Result<Checkout, CheckoutError> {
        empty_folder(&self.into)?;
        let mut listing = Process::start("ls-tree", &mut self.listing)?;
        let mut contents = Process::start("cat-file", &mut self.contents)?;
        let (ask, entries) = (contents.stdin.take(), listing.stdout.take());
        let (wanted, next) = sync_channel(AHEAD);
        let limits = &self.limits;
        thread::scope(|scope| {
            let lister = scope.spawn(move || list(entries, ask, &wanted, limits));
            let written = self.write(contents.stdout.take(), next);
            if written.is_err() {
                // It may wait for one of them.
                listing.kill();
                contents.kill();
            }
            let listed = lister.join().unwrap_or(Err(CheckoutError::Damaged));
            // What is wrong with the tree says more than what its end looks like from here.
            let checkout = match (listed, written) {
                (Err(error), Err(CheckoutError::Damaged)) | (Err(error), Ok(_)) => return Err(error),
                (_, written) => written?,
            };
            listing.finish()?;
            contents.finish()?;
            Ok(checkout)
        })
    }

    fn write(
        &self,
        contents: Option<ChildStdout>,
        next: Receiver<Wanted>,
    ) -> Result<Checkout, CheckoutError> {
        let mut contents = BufReader::with_capacity(128 << 10, contents.ok_or(CheckoutError::Damaged)?);
        let mut checkout = Checkout::default();
        let mut links = Vec::new();
        let mut folder = PathBuf::new();
        for wanted in next {
            if self.abandoned.load(Ordering::Relaxed) {
                return Err(CheckoutError::Abandoned);
            }
            if Instant::now() > self.end {
                return Err(CheckoutError::Slow(self.limits.time));
            }
            let bytes = object_head(&mut contents)?;
            match wanted.kind {
                EntryKind::File { is_executable, .. } => {
                    let path = Path::new(std::ffi::OsStr::from_bytes(&wanted.path));
                    self.make_folder_of(path, &mut folder)?;
                    write_file(&self.into.join(path), &wanted.path, &mut contents, bytes, is_executable)?;
                    checkout.files += 1;
                    checkout.bytes += bytes;
                }
                _ => links.push((link_target(&wanted.path, &mut contents, bytes)?, wanted.path)),
            }
            let mut end = [0];
            contents.read_exact(&mut end).map_err(|_| CheckoutError::Damaged)?;
        }
        // Links come last, so that nothing is ever written through one.
        for (target, path) in links {
            let relative = Path::new(std::ffi::OsStr::from_bytes(&path));
            self.make_folder_of(relative, &mut folder)?;
            symlink(std::ffi::OsStr::from_bytes(&target), self.into.join(relative))
                .map_err(|source| CheckoutError::Write { path: text::path(&path), source })?;
            checkout.symlinks += 1;
        }
        Ok(checkout)
    }

    /// Trees are listed in order, so a folder is made once, when its first file comes.
    fn make_folder_of(&self, path: &Path, last: &mut PathBuf) -> Result<(), CheckoutError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        if folder == last {
            return Ok(());
        }
        fs::create_dir_all(self.into.join(folder)).map_err(|source| CheckoutError::Write {
            path: text::path(folder.as_os_str().as_bytes()),
            source,
        })?;
        folder.clone_into(last);
        Ok(())
    }
}

/// Reads the tree, checks it, and asks for the contents of its files.
fn list(
    entries: Option<ChildStdout>,
    ask: Option<ChildStdin>,
    wanted: &SyncSender<Wanted>,
    limits: &CheckoutLimits,
) -> Result<(), CheckoutError> {
    let (Some(entries), Some(ask)) = (entries, ask) else { return Err(CheckoutError::Damaged) };
    let mut entries = BufReader::with_capacity(64 << 10, entries);
    let mut ask = BufWriter::new(ask);
    let mut tally = Tally::default();
    let mut line = Vec::new();
    let mut unsent = 0;
    loop {
        line.clear();
        let read = entries.by_ref().take(PATH_MAX_BYTES as u64 + 200).read_until(0, &mut line);
        if read.map_err(|_| CheckoutError::Damaged)? == 0 {
            break;
        }
        let Some(line) = line.strip_suffix(&[0]) else {
            return Err(CheckoutError::BadPath(text::path(&line)));
        };
        let entry = TreeLine::parse(line).ok_or(CheckoutError::Damaged)?;
        tally.add(&entry, limits)?;
        writeln!(ask, "{}", entry.id).map_err(|_| CheckoutError::Damaged)?;
        unsent += 1;
        if unsent == AHEAD / 2 {
            // Before the channel is full: the other side waits for what was asked for.
            ask.flush().map_err(|_| CheckoutError::Damaged)?;
            unsent = 0;
        }
        if wanted.send(Wanted { path: entry.path.to_owned(), kind: entry.kind }).is_err() {
            return Ok(());
        }
    }
    ask.flush().map_err(|_| CheckoutError::Damaged)
}

/// What a tree has had so far.
#[derive(Default)]
struct Tally {
    files: u64,
    bytes: u64,
}

impl Tally {
    /// Whether an entry may be written.
    fn add(&mut self, entry: &TreeLine<'_>, limits: &CheckoutLimits) -> Result<(), CheckoutError> {
        let path = || text::path(entry.path);
        if !is_path(entry.path) {
            return Err(CheckoutError::BadPath(path()));
        }
        let bytes = match entry.kind {
            EntryKind::Submodule => return Err(CheckoutError::Submodule(path())),
            EntryKind::File { bytes, .. } => bytes,
            EntryKind::Folder | EntryKind::Symlink => 0,
        };
        if bytes > limits.file_max_bytes {
            return Err(CheckoutError::FileTooLarge {
                path: path(),
                bytes,
                max_bytes: limits.file_max_bytes,
            });
        }
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.files > limits.files_max {
            return Err(CheckoutError::TooManyFiles(limits.files_max));
        }
        if self.bytes > limits.total_max_bytes {
            return Err(CheckoutError::TooLarge(limits.total_max_bytes));
        }
        Ok(())
    }
}

fn is_path(path: &[u8]) -> bool {
    let is_name = |name: &[u8]| {
        !name.is_empty()
            && name.len() <= 255
            && !matches!(name, b"." | b"..")
            && !name.eq_ignore_ascii_case(b".git")
    };
    path.len() < PATH_MAX_BYTES && path.split(|&octet| octet == b'/').all(is_name)
}

/// Whether a link at `path` stays in the tree, whatever other links there are.
///
/// `..` may stand at the beginning only: there it leaves folders that the link is in, which are no links themselves. After a name it would leave
/// whatever that name leads to. So every link leads to a place in the tree by names alone, and so do links to links.
fn stays_inside(path: &[u8], target: &[u8]) -> bool {
    let depth = path.iter().filter(|&&octet| octet == b'/').count();
    let mut names =
        target.split(|&octet| octet == b'/').filter(|name| !matches!(*name, b"" | b".")).peekable();
    let mut up = 0;
    while names.next_if_eq(&&b".."[..]).is_some() {
        up += 1;
    }
    !target.starts_with(b"/") && !target.contains(&0) && up <= depth && names.all(|name| name != b"..")
}

fn empty_folder(path: &Path) -> Result<(), CheckoutError> {
    let failed = |source| CheckoutError::Folder { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(failed)?;
    if fs::read_dir(path).map_err(failed)?.next().is_some() {
        return Err(CheckoutError::NotEmpty(path.to_owned()));
    }
    Ok(())
}

/// Reads `ID blob SIZE`, which stands before each content.
fn object_head(contents: &mut impl io::BufRead) -> Result<u64, CheckoutError> {
    let mut line = Vec::new();
    contents.by_ref().take(200).read_until(b'\n', &mut line).map_err(|_| CheckoutError::Damaged)?;
    let line = std::str::from_utf8(&line).map_err(|_| CheckoutError::Damaged)?;
    let size = line.split_once(" blob ").and_then(|(_, size)| size.trim_end().parse().ok());
    size.ok_or(CheckoutError::Damaged)
}

fn write_file(
    to: &Path,
    path: &[u8],
    contents: &mut impl io::BufRead,
    bytes: u64,
    is_executable: bool,
) -> Result<(), CheckoutError> {
    let failed = |source| CheckoutError::Write { path: text::path(path), source };
    let mut head = [0; LFS_HEAD.len()];
    let head = &mut head[..LFS_HEAD.len().min(usize::try_from(bytes).unwrap_or(usize::MAX))];
    contents.read_exact(head).map_err(|_| CheckoutError::Damaged)?;
    // A pointer is shorter than this by its specification.
    if *head == *LFS_HEAD && bytes < 1024 {
        return Err(CheckoutError::LfsPointer(text::path(path)));
    }
    let mode = if is_executable { 0o755 } else { 0o644 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(to).map_err(failed)?;
    file.write_all(head).map_err(failed)?;
    let mut left = bytes - head.len() as u64;
    while left > 0 {
        let chunk = contents.fill_buf().map_err(|_| CheckoutError::Damaged)?;
        if chunk.is_empty() {
            return Err(CheckoutError::Damaged);
        }
        let length = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.write_all(&chunk[..length]).map_err(failed)?;
        contents.consume(length);
        left -= length as u64;
    }
    Ok(())
}

fn link_target(path: &[u8], contents: &mut impl io::Read, bytes: u64) -> Result<Vec<u8>, CheckoutError> {
    let mut target = Vec::new();
    if bytes < PATH_MAX_BYTES as u64 {
        contents.take(bytes).read_to_end(&mut target).map_err(|_| CheckoutError::Damaged)?;
        if target.len() as u64 != bytes {
            return Err(CheckoutError::Damaged);
        }
    }
    if target.is_empty() || !stays_inside(path, &target) {
        return Err(CheckoutError::SymlinkOut { path: text::path(path), target: text::path(&target) });
    }
    Ok(target)
}

/// A process of git that goes with this.
struct Process {
    name: &'static str,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
}

impl Process {
    fn start(name: &'static str, command: &mut Command) -> Result<Self, GitError> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(GitError::Start)?;
        git::give_way(Some(child.id()));
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        Ok(Self { name, child, stdin, stdout })
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
    }

    fn finish(&mut self) -> Result<(), CheckoutError> {
        let status = self.child.wait().map_err(|source| GitError::Pipe { command: self.name, source })?;
        if status.success() { Ok(()) } else { Err(CheckoutError::Damaged) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_within_the_tree_are_fine() {
        for (path, target) in
            [("a", "b"), ("a", "./b/c"), ("d/a", "../b"), ("d/e/a", "../../b//c"), ("d/a", ".."), ("a", ".")]
        {
            assert!(stays_inside(path.as_bytes(), target.as_bytes()), "{path} -> {target}");
        }
    }

    #[test]
    fn links_that_may_lead_out_are_not() {
        for (path, target) in [
            ("a", "/etc/passwd"),
            ("a", ".."),
            ("a", "../b"),
            ("d/a", "../../b"),
            ("d/a", "./../../b"),
            ("a", "b/.."),
            ("a", "b/../../c"),
            ("a", "b\0c"),
        ] {
            assert!(!stays_inside(path.as_bytes(), target.as_bytes()), "{path} -> {target}");
        }
    }

    #[test]
    fn paths_that_git_never_makes_are_refused() {
        for path in ["a", "a/b c", "a/\n", ".gitignore", ".github/x"] {
            assert!(is_path(path.as_bytes()), "{path:?}");
        }
        let long = "x".repeat(256);
        for path in ["", "/a", "a//b", "a/", "..", "a/../b", ".", ".git/hooks/x", "a/.GIT", &long] {
            assert!(!is_path(path.as_bytes()), "{path:?}");
        }
    }

    #[test]
    fn limits_count_what_was_before() {
        let limits =
            CheckoutLimits { files_max: 2, total_max_bytes: 10, file_max_bytes: 8, ..Default::default() };
        let file = |bytes| TreeLine {
            kind: EntryKind::File { bytes, is_executable: false },
            id: "1".repeat(40),
            path: b"a",
        };
        let mut tally = Tally::default();
        assert!(matches!(tally.add(&file(9), &limits), Err(CheckoutError::FileTooLarge { bytes: 9, .. })));
        tally.add(&file(8), &limits).unwrap();
        assert!(matches!(tally.add(&file(3), &limits), Err(CheckoutError::TooLarge(10))));
        let mut tally = Tally::default();
        tally.add(&file(1), &limits).unwrap();
        tally.add(&file(1), &limits).unwrap();
        assert!(matches!(tally.add(&file(1), &limits), Err(CheckoutError::TooManyFiles(2))));
    }
}
