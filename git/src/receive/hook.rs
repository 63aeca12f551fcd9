//! The `pre-receive` hook, by which git asks this process whether a push is taken.
//!
//! It is a script of ours, in a folder of ours, and talks over two pipes that git passes on to it without knowing them. No other hook is ever run:
//! git looks for them in that folder only.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use nix::unistd::{AccessFlags, access};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use crate::git::GitError;
use crate::objects::Quarantine;
use crate::progress::Said;
use crate::push_head::{self, InvalidPush};
use crate::ref_name::RefUpdate;

const NAME: &str = "pre-receive";
const SCRIPT: &str = include_str!("pre-receive.sh");
/// As the script has them.
const FROM_SERVER: i32 = 8;
const TO_SERVER: i32 = 9;
/// Refs of the largest push, and paths.
const REQUEST_MAX_BYTES: u64 = 8 << 20;

/// Writes the hook to its folder, and sees that it runs. Without it git would take every push.
pub(crate) fn install(folder: &Path) -> Result<(), GitError> {
    let path = folder.join(NAME);
    let disk = |source| GitError::Disk { path: path.clone(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(disk)?;
    if fs::read(&path).ok().as_deref() != Some(SCRIPT.as_bytes()) {
        let draft = folder.join(format!(".{NAME}"));
        fs::write(&draft, SCRIPT).map_err(disk)?;
        fs::rename(&draft, &path).map_err(disk)?;
    }
    fs::set_permissions(&path, Permissions::from_mode(0o700)).map_err(disk)?;
    let answer = check_runs(&path).map_err(disk)?;
    if answer != b"ready\n" {
        return Err(disk(io::Error::other("the hook in it does not run: is there an `sh` on the PATH?")));
    }
    Ok(())
}

fn check_runs(path: &Path) -> io::Result<Vec<u8>> {
    let mut tries = 0..50;
    loop {
        match Command::new(path).arg("check").stdin(Stdio::null()).output() {
            // A process that was started by another thread a moment ago may still hold the file that was written.
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && tries.next().is_some() => {
                std::thread::sleep(Duration::from_millis(5));
            }
            output => return output.map(|output| output.stdout),
        }
    }
}

/// Whether git would find the hook. It passes over one that it may not execute.
pub(crate) fn check(folder: &Path) -> Result<(), GitError> {
    let path = folder.join(NAME);
    access(&path, AccessFlags::X_OK).map_err(|error| GitError::Disk { path, source: error.into() })
}

/// This process's ends of the pipes.
pub(crate) struct Channel {
    pub(crate) requests: pipe::Receiver,
    pub(crate) answers: pipe::Sender,
}

/// Has a command pass on the other ends.
pub(crate) fn connect(command: &mut Command) -> io::Result<Channel> {
    let (requests, to_server) = io::pipe()?;
    let (from_server, answers) = io::pipe()?;
    let mappings = vec![
        FdMapping { parent_fd: OwnedFd::from(to_server), child_fd: TO_SERVER },
        FdMapping { parent_fd: OwnedFd::from(from_server), child_fd: FROM_SERVER },
    ];
    command.fd_mappings(mappings).map_err(io::Error::other)?;
    Ok(Channel {
        requests: pipe::Receiver::from_owned_fd(requests.into())?,
        answers: pipe::Sender::from_owned_fd(answers.into())?,
    })
}

/// What the hook asks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// None: nothing was sent, as where refs are only deleted.
    pub(crate) quarantine: Option<Quarantine>,
    pub(crate) updates: Vec<RefUpdate>,
}

#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error("the hook could not be heard")]
    Pipe(#[source] io::Error),
    #[error("the hook says something else than is expected")]
    Format,
    #[error("the hook names a ref that the push does not")]
    Update(#[source] InvalidPush),
}

/// Waits until the hook asks. None: git has ended without.
pub(crate) async fn request(mut requests: pipe::Receiver) -> Result<Option<Request>, HookError> {
    let mut text = Vec::new();
    loop {
        if text.ends_with(b"\nend\n") {
            return Request::parse(&text).map(Some);
        }
        if text.len() as u64 > REQUEST_MAX_BYTES {
            return Err(HookError::Format);
        }
        if requests.read_buf(&mut text).await.map_err(HookError::Pipe)? == 0 {
            return Ok(None);
        }
    }
}

impl Request {
    pub(crate) fn parse(text: &[u8]) -> Result<Self, HookError> {
        let text = std::str::from_utf8(text).map_err(|_| HookError::Format)?;
        let mut lines = text.lines();
        let (Some(objects), Some(alternates)) = (lines.next(), lines.next()) else {
            return Err(HookError::Format);
        };
        let quarantine = (!objects.is_empty())
            .then(|| Quarantine { objects: objects.to_owned(), alternates: alternates.to_owned() });
        let updates = lines.take_while(|&line| line != "end").map(push_head::update);
        Ok(Self { quarantine, updates: updates.collect::<Result<_, _>>().map_err(HookError::Update)? })
    }
}

/// Passes on to the hook what is said, until the verdict. If nobody says one, the pipe closes, and the hook refuses.
pub(crate) async fn speak(mut said: mpsc::Receiver<Said>, mut answers: pipe::Sender) {
    while let Some(said) = said.recv().await {
        let is_verdict = !matches!(said, Said::Line(_));
        let text = match said {
            Said::Line(line) => format!("={line}\n"),
            Said::Accept => "accept\n".to_owned(),
            Said::Refuse => "refuse\n".to_owned(),
        };
        if answers.write_all(text.as_bytes()).await.is_err() || is_verdict {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "1111111111111111111111111111111111111111";
    const ZERO: &str = "0000000000000000000000000000000000000000";

    fn run(mut command: Command, said: Vec<Said>) -> (std::process::Output, Option<Request>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let channel = connect(&mut command).unwrap();
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = tokio::process::Command::from(command).spawn().unwrap();
            let line = format!("{ZERO} {A} refs/heads/main\n");
            child.stdin.take().unwrap().write_all(line.as_bytes()).await.unwrap();
            let request = request(channel.requests).await.unwrap();
            let (sender, receiver) = mpsc::channel(10);
            for said in said {
                sender.send(said).await.unwrap();
            }
            drop(sender);
            speak(receiver, channel.answers).await;
            (child.wait_with_output().await.unwrap(), request)
        })
    }

    fn hook() -> (tempfile::TempDir, Command) {
        let folder = tempfile::tempdir().unwrap();
        install(folder.path()).unwrap();
        let mut command = Command::new(folder.path().join(NAME));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        (folder, command)
    }

    #[test]
    fn the_hook_tells_what_is_pushed_and_says_what_it_is_told() {
        let (_folder, mut command) = hook();
        command.env("GIT_OBJECT_DIRECTORY", "/o/q").env("GIT_ALTERNATE_OBJECT_DIRECTORIES", "/o");
        let lines = vec![Said::Line(r"  -n \t %s 'x'".into()), Said::Line(String::new()), Said::Accept];
        let (output, request) = run(command, lines);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "  -n \\t %s 'x'\n\n");
        let request = request.unwrap();
        let quarantine = Quarantine { objects: "/o/q".into(), alternates: "/o".into() };
        assert_eq!(request.quarantine, Some(quarantine));
        assert_eq!(request.updates[0].name.as_str(), "refs/heads/main");
    }

    #[test]
    fn a_refusal_is_the_end_with_an_error() {
        let (_folder, command) = hook();
        let (output, request) = run(command, vec![Said::Line("no".into()), Said::Refuse]);
        assert_eq!((output.status.code(), &output.stderr[..]), (Some(1), &b"no\n"[..]));
        assert_eq!(request.unwrap().quarantine, None);
    }

    #[test]
    fn a_server_that_ends_without_a_verdict_has_not_accepted() {
        let (_folder, command) = hook();
        let (output, _) = run(command, vec![Said::Line("building".into())]);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8(output.stderr).unwrap().contains("the server ended before"));
    }

    #[test]
    fn a_hook_that_may_not_be_executed_is_noticed() {
        let (folder, _) = hook();
        check(folder.path()).unwrap();
        fs::remove_file(folder.path().join(NAME)).unwrap();
        assert!(check(folder.path()).unwrap_err().to_string().contains(NAME));
    }
}
