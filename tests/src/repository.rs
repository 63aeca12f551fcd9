//! A git repository of a user, with the git of this machine.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

use crate::{Platform, Ran, Wharf, within};

/// No command of git takes longer here, not even a push that is built.
const LIMIT: Duration = Duration::from_secs(300);

/// A repository in a folder of its own, and the user whose it is.
#[derive(Debug)]
pub struct Repository {
    folder: TempDir,
    user: Wharf,
    home: PathBuf,
}

impl Repository {
    /// An empty one of the user of this machine, who is logged in at the platform.
    pub async fn new(platform: &Platform) -> Self {
        Self::of(platform.user(), platform.home()).await
    }

    pub async fn of(user: Wharf, home: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let user = user.in_folder(folder.path());
        let repository = Self { folder, user, home: home.to_owned() };
        repository.git(&["init", "--quiet", "--initial-branch=main"]).await.ok();
        repository
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The user, in this folder.
    pub fn user(&self) -> &Wharf {
        &self.user
    }

    /// The command, not yet started. It ends with the test.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        command
            .args(args)
            .current_dir(self.folder())
            .env("HOME", &self.home)
            .env("XDG_CONFIG_HOME", self.home.join("config"))
            .env("XDG_DATA_HOME", self.home.join("share"))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .envs([("GIT_AUTHOR_NAME", "A U Thor"), ("GIT_AUTHOR_EMAIL", "author@example.com")])
            .envs([("GIT_COMMITTER_NAME", "C O Mitter"), ("GIT_COMMITTER_EMAIL", "committer@example.com")])
            .env_remove("WHARF_TOKEN")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs git to its end, whatever its code.
    pub async fn git(&self, args: &[&str]) -> Ran {
        let what = format!("the end of `git {}`", args.join(" "));
        let output = within(LIMIT, &what, self.command(args).output()).await.unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.folder().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Commits all that is in the folder; the commit's id.
    pub async fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]).await.ok();
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message]).await.ok();
        self.git(&["rev-parse", "HEAD"]).await.ok().trim().to_owned()
    }

    /// Pushes to the remote `wharf`.
    pub async fn push(&self, refs: &[&str]) -> Ran {
        self.git(&[&["push", "wharf"], refs].concat()).await
    }
}

/// What the other side said, without what git puts in front of it.
pub fn remote_lines(ran: &Ran) -> Vec<String> {
    let lines = ran.stderr.lines().filter_map(|line| line.strip_prefix("remote: "));
    lines.map(|line| line.trim_end().to_owned()).collect()
}
