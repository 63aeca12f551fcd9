//! The system's git as a user has it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// A working copy.
pub(crate) struct Client {
    folder: TempDir,
}

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    #[track_caller]
    pub(crate) fn succeeds(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    pub(crate) fn fails_with(self, words: &str) -> Self {
        assert_ne!(self.code, Some(0), "{}", self.stderr);
        assert!(self.stderr.contains(words), "`{words}` is not in\n{}", self.stderr);
        self
    }
}

impl Client {
    /// A folder without a repository.
    pub(crate) fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A repository with one commit on `main`.
    pub(crate) async fn with_commit() -> Self {
        let client = Self::empty();
        client.git(&["init", "--quiet", "--initial-branch=main"]).await.succeeds();
        client.commit("README", "hello\n").await;
        client
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Commits one file, and says the id.
    pub(crate) async fn commit(&self, path: &str, content: impl AsRef<[u8]>) -> String {
        self.write(path, content);
        self.commit_all(&format!("change {path}")).await
    }

    pub(crate) async fn commit_all(&self, message: &str) -> String {
        self.git(&["add", "--all"]).await.succeeds();
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message]).await.succeeds();
        self.head().await
    }

    pub(crate) async fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"]).await.succeeds().stdout.trim().to_owned()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", self.path())
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .args([
                "-c",
                "user.name=Ada",
                "-c",
                "user.email=ada@example.com",
                "-c",
                "protocol.file.allow=always",
            ])
            .args(["-c", "gc.auto=0"])
            .args(arguments)
            .current_dir(self.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// The body of a push of `main`, as git would send it, and how much of that is before the pack.
    pub(crate) async fn body(&self, name: &str) -> (Vec<u8>, usize) {
        let (zero, head) = ("0".repeat(40), self.head().await);
        let command = format!("{zero} {head} {name}\0 report-status side-band-64k object-format=sha1");
        let mut body = format!("{:04x}{command}0000", command.len() + 4).into_bytes();
        let length = body.len();
        let list = self.git(&["rev-list", "--objects", "HEAD"]).await.succeeds().stdout;
        let mut pack =
            self.command(&["pack-objects", "--stdout", "--quiet"]).stdin(Stdio::piped()).spawn().unwrap();
        pack.stdin.take().unwrap().write_all(list.as_bytes()).await.unwrap();
        body.extend(crate::within(pack.wait_with_output()).await.unwrap().stdout);
        (body, length)
    }

    pub(crate) async fn git(&self, arguments: &[&str]) -> Ran {
        self.git_with(arguments, b"").await
    }

    pub(crate) async fn git_with(&self, arguments: &[&str], input: &[u8]) -> Ran {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let write = async move {
            let _ = stdin.write_all(input).await;
        };
        let (output, ()) = crate::within(async { tokio::join!(child.wait_with_output(), write) }).await;
        let output = output.unwrap();
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
