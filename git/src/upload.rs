//! What a client asks for before it fetches or pushes, and fetching.

use std::io;
use std::process::Stdio;

use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;

use crate::git::{self, GitError, SHORT};
use crate::limits::Limits;
use crate::pkt;
use crate::repositories::Repository;
use crate::service::{Protocol, Service};

/// What is read from git at once, and how many of these wait for the client.
const CHUNK_BYTES: usize = 64 << 10;
const CHUNKS: usize = 2;

/// Why nothing can be fetched.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("the request to fetch is larger than {0} octets")]
    TooLarge(u64),
    #[error("the request to fetch sent nothing for {0} s: run it again")]
    Stalled(u64),
    #[error("the request to fetch broke off")]
    Body(#[source] io::Error),
    #[error(transparent)]
    Git(#[from] GitError),
}

impl Repository {
    /// The answer to `info/refs?service=…`: what the service can do, and in the older protocols all refs.
    pub async fn advertise(&self, service: Service, protocol: Protocol) -> Result<Bytes, GitError> {
        let mut command = self.service(service, protocol);
        command.args(["--stateless-rpc", "--advertise-refs"]).arg(&self.path);
        let refs = git::run(service.command(), command, b"", SHORT).await?.output()?;
        let mut answer = BytesMut::from(&pkt::service_line(service.name())[..]);
        answer.extend_from_slice(&refs);
        Ok(answer.freeze())
    }

    /// Answers a request to clone or fetch. The body is plain (see [`crate::decoded`]).
    ///
    /// It comes back with the first octets of the answer, so that what goes wrong before has a status of its own, and so that a client which
    /// waits for `100 Continue` gets that first.
    pub async fn upload(
        &self,
        protocol: Protocol,
        body: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<BoxStream<'static, io::Result<Bytes>>, UploadError> {
        let mut command = self.service(Service::UploadPack, protocol);
        command.args(["--stateless-rpc", "--strict"]).arg(&self.path);
        let child = tokio::process::Command::from(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(GitError::Start)?;
        git::give_way(child.id());
        let (answer, mut chunks) = mpsc::channel(CHUNKS);
        let upload = Upload { child, answer, limits: self.shared.limits.clone() };
        tokio::spawn(upload.run(body.boxed()));
        match chunks.recv().await {
            None => Ok(futures::stream::empty().boxed()),
            Some(first) => {
                let first = first?;
                let rest = ReceiverStream::new(chunks).map(|chunk| chunk.map_err(io::Error::other));
                Ok(futures::stream::iter([Ok(first)]).chain(rest).boxed())
            }
        }
    }

    pub(crate) fn service(&self, service: Service, protocol: Protocol) -> std::process::Command {
        let mut command = self.shared.git.command(Some(&self.path));
        self.settings(&mut command);
        if let Some(version) = protocol.variable() {
            command.env("GIT_PROTOCOL", version);
        }
        // The repository is an argument of these commands.
        command.env_remove("GIT_DIR").arg(service.command());
        command
    }
}

enum Answered {
    Nothing,
    Something,
}

/// One fetch.
struct Upload {
    child: Child,
    answer: mpsc::Sender<Result<Bytes, UploadError>>,
    limits: Limits,
}

impl Upload {
    async fn run(mut self, body: BoxStream<'static, io::Result<Bytes>>) {
        let deadline = Instant::now() + self.limits.fetch;
        let stdin = self.child.stdin.take();
        let stderr = tokio::spawn(git::tail(self.child.stderr.take()));
        let limits = self.limits.clone();
        let ended = timeout_at(deadline, async {
            // Both at once: git answers while it reads.
            let (asked, answered) = tokio::join!(ask(stdin, body, &limits), self.answer());
            asked.map(|()| answered)
        });
        let failure = match ended.await {
            Err(_) => GitError::Slow { command: "upload-pack", limit: self.limits.fetch }.into(),
            Ok(Err(error)) => error,
            Ok(Ok(Answered::Nothing)) => match self.child.wait().await {
                Ok(status) if !status.success() => {
                    let message = git::message(&stderr.await.unwrap_or_default());
                    GitError::Failed { command: "upload-pack", message }.into()
                }
                _ => return,
            },
            // If it failed after that, it has told so in its own protocol, or the pack is short, which clients see.
            Ok(Ok(Answered::Something)) => return,
        };
        let _ = timeout(self.limits.stall, self.answer.send(Err(failure))).await;
    }

    /// Passes on what git says, as long as somebody listens.
    async fn answer(&mut self) -> Answered {
        let Some(mut stdout) = self.child.stdout.take() else { return Answered::Nothing };
        let mut answered = Answered::Nothing;
        loop {
            let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
            let Ok(1..) = stdout.read_buf(&mut chunk).await else { return answered };
            answered = Answered::Something;
            let Ok(Ok(())) = timeout(self.limits.stall, self.answer.send(Ok(chunk.freeze()))).await else {
                return answered;
            };
        }
    }
}

/// Gives git what the client asks for.
async fn ask(
    stdin: Option<ChildStdin>,
    mut body: BoxStream<'static, io::Result<Bytes>>,
    limits: &Limits,
) -> Result<(), UploadError> {
    let Some(mut stdin) = stdin else { return Ok(()) };
    let mut left_bytes = limits.fetch_request_max_bytes;
    loop {
        let chunk = match timeout(limits.stall, body.next()).await {
            Err(_) => return Err(UploadError::Stalled(limits.stall.as_secs())),
            Ok(None) => return Ok(()),
            Ok(Some(chunk)) => chunk.map_err(UploadError::Body)?,
        };
        left_bytes = left_bytes
            .checked_sub(chunk.len() as u64)
            .ok_or(UploadError::TooLarge(limits.fetch_request_max_bytes))?;
        // Git may have heard enough.
        if stdin.write_all(&chunk).await.is_err() {
            return Ok(());
        }
    }
}
