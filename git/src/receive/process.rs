//! `git receive-pack`, with all that leads to it and from it.

use std::process::Stdio;
use std::time::Duration;

use bytes::BytesMut;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt as _;
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::hook::{self, Channel};
use crate::git::{self, GitError};
use crate::pkt::Boundaries;
use crate::repositories::Repository;
use crate::service::{Protocol, Service};
use crate::window::Window;

const NAME: &str = "receive-pack";
/// How long git may take to clean up when it is stopped.
const STOP: Duration = Duration::from_secs(5);
const CHUNK_BYTES: usize = 16 << 10;

pub(crate) struct ReceivePack {
    child: Child,
    /// Shows what git says; ends with what has passed.
    output: AbortOnDropHandle<Passed>,
    errors: AbortOnDropHandle<Vec<u8>>,
}

#[derive(Default)]
struct Passed {
    boundaries: Boundaries,
    is_empty: bool,
}

impl ReceivePack {
    pub(crate) fn start(
        repository: &Repository,
        window: Window,
    ) -> Result<(Self, ChildStdin, Channel), GitError> {
        let mut command = repository.service(Service::ReceivePack, Protocol::V0);
        command.arg("--stateless-rpc").arg(&repository.path);
        let channel = hook::connect(&mut command).map_err(GitError::Start)?;
        // Not killed with its handle: when this process ends, its pipes close, and it cleans up and ends.
        let mut child = tokio::process::Command::from(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Whoever interrupts this process in a terminal does not mean git.
            .process_group(0)
            .spawn()
            .map_err(GitError::Start)?;
        // Before it has read anything, and so before it starts anything itself.
        git::give_way(child.id());
        let input = child.stdin.take().expect("it was just made, with a pipe");
        let output = tokio::spawn(show(child.stdout.take(), window));
        let errors = tokio::spawn(git::tail(child.stderr.take()));
        let git =
            Self { child, output: AbortOnDropHandle::new(output), errors: AbortOnDropHandle::new(errors) };
        Ok((git, input, channel))
    }

    /// Waits for its end. An error is one that the client was not told.
    pub(crate) async fn finish(mut self, limit: Duration) -> Result<(), GitError> {
        let Ok(status) = timeout(limit, self.child.wait()).await else {
            self.stop().await;
            return Err(GitError::Slow { command: NAME, limit });
        };
        let status = status.map_err(|source| GitError::Pipe { command: NAME, source })?;
        let is_told = self.output.await.is_ok_and(|passed| !passed.is_empty);
        if status.success() || is_told {
            return Ok(());
        }
        let message = git::message(&self.errors.await.unwrap_or_default());
        Err(GitError::Failed { command: NAME, message })
    }

    /// Stops it with all that it has started. True: something may still be said to the client.
    pub(crate) async fn stop(mut self) -> bool {
        let group = self.child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            if let Some(group) = group {
                let _ = killpg(group, signal);
            }
            if timeout(STOP, self.child.wait()).await.is_ok() {
                break;
            }
        }
        timeout(STOP, self.output)
            .await
            .is_ok_and(|passed| passed.is_ok_and(|passed| passed.boundaries.is_between_lines()))
    }
}

/// Shows what git says.
async fn show(output: Option<ChildStdout>, window: Window) -> Passed {
    let mut passed = Passed { is_empty: true, ..Passed::default() };
    let Some(mut output) = output else { return passed };
    loop {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        let Ok(1..) = output.read_buf(&mut chunk).await else { return passed };
        passed.is_empty = false;
        passed.boundaries.pass(&chunk);
        window.show(chunk.freeze());
    }
}
