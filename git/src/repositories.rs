//! The bare repositories of a platform, one for each app, in one folder.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::git::{self, Git, GitError, SHORT, setting};
use crate::limits::Limits;
use crate::object_id::ObjectId;
use crate::receive::hook;
use crate::receive::turn::UnderWay;

/// How long cleaning up may take.
const TIDY: Duration = Duration::from_secs(1800);
/// Names of folders that are being made or removed begin so.
const NEW: &str = ".new-";
const REMOVED: &str = ".removed-";

/// All repositories below a folder.
#[derive(Clone, Debug)]
pub struct Repositories {
    root: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) git: Git,
    pub(crate) limits: Limits,
    /// Pushes under way.
    pub(crate) pushes: TaskTracker,
    pub(crate) under_way: UnderWay,
}

/// One repository. It may be removed while this is held; then everything fails.
#[derive(Clone, Debug)]
pub struct Repository {
    pub(crate) path: PathBuf,
    pub(crate) shared: Arc<Shared>,
}

impl Repositories {
    /// Opens the folder, which is made if needed, and gives up what was being made or removed when the process ended before. Blocks, but not for
    /// long. Only one process may use a folder.
    pub fn open(root: &Path, limits: Limits) -> Result<Self, GitError> {
        let disk = |source| GitError::Disk { path: root.to_owned(), source };
        private_folder(root).map_err(disk)?;
        let root = root.canonicalize().map_err(disk)?;
        for entry in fs::read_dir(&root).map_err(disk)? {
            let entry = entry.map_err(disk)?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(NEW) || name.starts_with(REMOVED) {
                fs::remove_dir_all(entry.path()).map_err(disk)?;
            }
        }
        let (home, hooks) = (root.join(".home"), root.join(".hooks"));
        private_folder(&home).map_err(disk)?;
        hook::install(&hooks)?;
        let git = Git::new(home, hooks, &limits);
        Ok(Self {
            root,
            shared: Arc::new(Shared {
                git,
                limits,
                pushes: TaskTracker::new(),
                under_way: UnderWay::default(),
            }),
        })
    }

    /// The repository with this id, which is made if there is none.
    pub async fn ensure(&self, id: Uuid) -> Result<Repository, GitError> {
        if let Some(repository) = self.find(id).await? {
            return Ok(repository);
        }
        let draft = self.root.join(format!("{NEW}{}", Uuid::now_v7()));
        let mut command = self.shared.git.command(None);
        command
            .args([
                "init",
                "--quiet",
                "--bare",
                "--template=",
                "--initial-branch=main",
                "--object-format=sha1",
            ])
            .arg(&draft);
        git::run("init", command, b"", SHORT).await?.output()?;
        let repository = self.repository(id);
        match tokio::fs::rename(&draft, &repository.path).await {
            // Somebody else was quicker.
            Err(_) if exists(&repository.path).await? => remove(draft).await?,
            renamed => renamed.map_err(|source| GitError::Disk { path: repository.path.clone(), source })?,
        }
        Ok(repository)
    }

    pub async fn find(&self, id: Uuid) -> Result<Option<Repository>, GitError> {
        let repository = self.repository(id);
        Ok(exists(&repository.path).await?.then_some(repository))
    }

    /// Removes a repository with all that is in it. It has gone for everybody at once, whatever happens while it is deleted. False: there was none.
    pub async fn remove(&self, id: Uuid) -> Result<bool, GitError> {
        let path = self.repository(id).path;
        let aside = self.root.join(format!("{REMOVED}{}", Uuid::now_v7()));
        match tokio::fs::rename(&path, &aside).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(GitError::Disk { path, source }),
            Ok(()) => {}
        }
        remove(aside).await?;
        Ok(true)
    }

    /// Waits until no push is under way. More may begin.
    pub async fn idle(&self) {
        // A closed tracker goes on taking tasks; only the wait needs it closed.
        self.shared.pushes.close();
        self.shared.pushes.wait().await;
    }

    fn repository(&self, id: Uuid) -> Repository {
        Repository { path: self.root.join(format!("{id}.git")), shared: self.shared.clone() }
    }
}

impl Repository {
    /// Packs what pushes have left in pieces, and gives up what no ref has led to for a day: longer than any push takes, which may need such things.
    pub async fn tidy(&self) -> Result<(), GitError> {
        let mut command = self.shared.git.command(Some(&self.path));
        command.args(["gc", "--quiet", "--prune=1.day.ago"]);
        git::run("gc", command, b"", TIDY).await?.output().map(drop)
    }

    /// A command that looks something up or sets it.
    pub(crate) async fn run(&self, name: &'static str, arguments: &[&str]) -> Result<git::Ran, GitError> {
        let mut command = self.shared.git.command(Some(&self.path));
        command.arg(name).args(arguments);
        git::run(name, command, b"", SHORT).await
    }

    /// What a client of a service may do here, which the repository's own configuration does not say.
    pub(crate) fn settings(&self, command: &mut std::process::Command) {
        let limits = &self.shared.limits;
        setting(command, "receive.maxInputSize", limits.pack_max_bytes.to_string());
        for (name, value) in [
            ("transfer.fsckObjects", "true"),
            ("receive.fsckObjects", "true"),
            // Flaws that old versions of git have left in the history of many projects, and that harm nobody.
            ("receive.fsck.badTimezone", "ignore"),
            ("receive.fsck.missingSpaceBeforeDate", "ignore"),
            ("receive.fsck.zeroPaddedFilemode", "ignore"),
            // What may be deleted and rewritten is up to who is asked about the push.
            ("receive.denyDeletes", "false"),
            ("receive.denyDeleteCurrent", "ignore"),
            ("receive.denyNonFastForwards", "false"),
            // A clone without history is enough to deploy from.
            ("receive.shallowUpdate", "true"),
            ("receive.advertisePushOptions", "true"),
            ("receive.autogc", "false"),
            // Packs are checked with less memory than what is unpacked at once.
            ("receive.unpackLimit", "1"),
            ("receive.keepAlive", "5"),
            ("uploadpack.keepAlive", "5"),
        ] {
            setting(command, name, value);
        }
    }

    /// The branch that clones check out.
    pub async fn point_head(&self, branch: &crate::RefName) -> Result<(), GitError> {
        self.run("symbolic-ref", &["HEAD", branch.as_str()]).await?.output().map(drop)
    }

    /// The commit that a branch, tag, full name of a ref or id leads to. None: there is no such thing. Expressions such as `main~1` are not
    /// looked up.
    pub async fn resolve(&self, name: &str) -> Result<Option<ObjectId>, GitError> {
        let is_name = !name.is_empty()
            && name.len() <= 500
            && !name.starts_with('-')
            && !name.contains("..")
            && !name.contains("@{")
            && !name.contains(|letter: char| letter.is_control() || " ~^:?*[\\".contains(letter));
        if !is_name {
            return Ok(None);
        }
        let commit = format!("{name}^{{commit}}");
        let ran = self.run("rev-parse", &["--verify", "--quiet", "--end-of-options", &commit]).await?;
        if !ran.status.success() {
            return Ok(None);
        }
        // Old versions print the separator, too.
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        Ok(text.lines().find_map(|line| line.parse().ok()))
    }
}

fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

async fn exists(path: &Path) -> Result<bool, GitError> {
    tokio::fs::try_exists(path).await.map_err(|source| GitError::Disk { path: path.to_owned(), source })
}

async fn remove(path: PathBuf) -> Result<(), GitError> {
    tokio::fs::remove_dir_all(&path).await.map_err(|source| GitError::Disk { path, source })
}
