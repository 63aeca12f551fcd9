//! The system's `git`, run with nothing of this process's environment and none of the host's configuration.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use std::{io, process};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::limits::Limits;
use crate::text;

/// How long a command may take that only looks something up or sets it.
pub(crate) const SHORT: Duration = Duration::from_secs(60);
/// What such a command may print.
const OUTPUT_MAX_BYTES: u64 = 32 << 20;
/// As nice(1) has it: requests to apps come first, and nobody waits for a push by the millisecond. Builds have the same.
const NICENESS: i32 = 10;
/// What is kept of the errors that git prints.
const ERRORS_MAX_BYTES: u64 = 8 << 10;

/// Why git did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    #[error(
        "git could not be started: install git 2.31 or later on this host, where the PATH of this process finds it"
    )]
    Start(#[source] io::Error),
    #[error("`git {command}` failed: {message}")]
    Failed { command: &'static str, message: String },
    #[error("`git {command}` took longer than {} s", limit.as_secs())]
    Slow { command: &'static str, limit: Duration },
    #[error("`git {command}` printed more than {} MiB", OUTPUT_MAX_BYTES >> 20)]
    Long { command: &'static str },
    #[error("`git {command}` was cut off")]
    Pipe {
        command: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("could not use {}", path.display())]
    Disk {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// How git is started.
#[derive(Debug)]
pub(crate) struct Git {
    /// By its path, where it was found. A process that was given both a name and a `PATH` is forked, with a copy of all page tables, while one with a
    /// path is spawned, which takes a tenth of the time and lets other threads go on.
    program: OsString,
    search_path: OsString,
    /// Empty, so there is nothing in it that git could read.
    home: PathBuf,
    hooks: PathBuf,
    object_memory_max_bytes: u64,
}

/// What a command has printed, and how it ended.
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    command: &'static str,
    stderr: Vec<u8>,
}

impl Git {
    pub(crate) fn new(home: PathBuf, hooks: PathBuf, limits: &Limits) -> Self {
        let search_path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        let program = found_in(&search_path).map_or_else(|| "git".into(), PathBuf::into_os_string);
        Self { program, search_path, home, hooks, object_memory_max_bytes: limits.object_memory_max_bytes }
    }

    pub(crate) fn hooks(&self) -> &Path {
        &self.hooks
    }

    /// A command without arguments yet, in a repository unless that is still to be made.
    pub(crate) fn command(&self, repository: Option<&Path>) -> process::Command {
        let mut command = process::Command::new(&self.program);
        command
            .env_clear()
            .env("PATH", &self.search_path)
            .env("HOME", &self.home)
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_LITERAL_PATHSPECS", "1")
            // Tests of git itself use this one; it is the only bound on what a single object takes.
            .env("GIT_ALLOC_LIMIT", self.object_memory_max_bytes.to_string())
            .current_dir(&self.home);
        setting(&mut command, "core.hooksPath", &self.hooks);
        for (name, value) in [
            ("core.bigFileThreshold", "16m"),
            ("core.deltaBaseCacheLimit", "32m"),
            ("core.packedGitWindowSize", "32m"),
            ("core.packedGitLimit", "256m"),
            ("pack.threads", "2"),
            ("pack.windowMemory", "64m"),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            ("transfer.hideRefs", crate::ref_name::HIDDEN.trim_end_matches('/')),
        ] {
            setting(&mut command, name, value);
        }
        if let Some(repository) = repository {
            // The data directory may have been given to this process by another user.
            setting(&mut command, "safe.directory", repository);
            command.env("GIT_DIR", repository);
        }
        command
    }
}

fn found_in(search_path: &OsStr) -> Option<PathBuf> {
    let places = std::env::split_paths(search_path).filter(|folder| folder.is_absolute());
    places.map(|folder| folder.join("git")).find(|place| {
        place.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    })
}

/// Adds a setting, as git takes them: before the name of the command.
pub(crate) fn setting(command: &mut process::Command, name: &str, value: impl AsRef<std::ffi::OsStr>) {
    let mut pair = OsString::from(name);
    pair.push("=");
    pair.push(value);
    command.arg("-c").arg(pair);
}

/// Has a command that was just started give way to what else runs on this host, with all that it starts from now on. That it cannot be nicer is
/// no reason to fail.
pub(crate) fn give_way(child: Option<u32>) {
    let Some(child) = child else { return };
    // SAFETY: a plain system call. The child has not been waited for, so its id is nobody else's.
    unsafe { nix::libc::setpriority(nix::libc::PRIO_PROCESS, child, NICENESS) };
}

/// Runs a short command to its end, gives it `input`, and keeps what it prints.
pub(crate) async fn run(
    name: &'static str,
    command: process::Command,
    input: &[u8],
    limit: Duration,
) -> Result<Ran, GitError> {
    let mut child = tokio::process::Command::from(command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(GitError::Start)?;
    give_way(child.id());
    let (mut stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin.take() {
            // A command that has seen enough does not read to the end.
            let _ = stdin.write_all(input).await;
        }
    };
    let all = async {
        let ((), stdout, stderr) = tokio::join!(write, read_all(stdout, OUTPUT_MAX_BYTES + 1), tail(stderr));
        let pipe = |source| GitError::Pipe { command: name, source };
        let stdout = stdout.map_err(pipe)?;
        if stdout.len() as u64 > OUTPUT_MAX_BYTES {
            return Err(GitError::Long { command: name });
        }
        let status = child.wait().await.map_err(pipe)?;
        Ok(Ran { status, stdout, command: name, stderr })
    };
    timeout(limit, all).await.map_err(|_| GitError::Slow { command: name, limit })?
}

async fn read_all(from: Option<impl AsyncRead + Unpin>, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(max_bytes).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// Reads to the end and keeps the last of it.
pub(crate) async fn tail(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let Some(mut from) = from else { return Vec::new() };
    let mut kept = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..read]);
        let surplus = kept.len().saturating_sub(ERRORS_MAX_BYTES as usize);
        kept.drain(..surplus);
    }
    kept
}

/// The errors of git in one line.
pub(crate) fn message(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.trim().trim_start_matches("fatal: ").trim_start_matches("error: "))
        .filter(|line| !line.is_empty())
        .map(|line| text::shown(line, 300))
        .collect();
    if lines.is_empty() {
        return "it gave no reason".to_owned();
    }
    lines[lines.len().saturating_sub(3)..].join("; ")
}

impl Ran {
    pub(crate) fn failure(&self) -> GitError {
        GitError::Failed { command: self.command, message: message(&self.stderr) }
    }

    /// What was printed, unless the command failed.
    pub(crate) fn output(self) -> Result<Vec<u8>, GitError> {
        if self.status.success() { Ok(self.stdout) } else { Err(self.failure()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_is_the_last_lines_without_git_words_before_them() {
        let stderr = b"hint: a\nwarning: b\nerror: c\nfatal: \x1b[31mnot\xffours\n";
        assert_eq!(message(stderr), "warning: b; c; \\u{1b}[31mnot\u{fffd}ours");
        assert_eq!(message(b"\n"), "it gave no reason");
    }

    #[test]
    fn a_command_knows_nothing_of_this_process() {
        let git = Git::new("/home-of-nobody".into(), "/hooks".into(), &Limits::default());
        let command = git.command(None);
        let names: Vec<_> = command.get_envs().map(|(name, _)| name.to_str().unwrap()).collect();
        assert!(!names.contains(&"USER") && names.contains(&"GIT_CONFIG_NOSYSTEM"), "{names:?}");
        assert!(Path::new(command.get_program()).is_absolute(), "{command:?}");
        assert!(command.get_args().any(|argument| argument == "core.hooksPath=/hooks"));
    }
}
