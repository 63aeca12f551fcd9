//! Commands that people have run in the containers of this node.
//!
//! One task follows the orders of the control plane. Each command then has a connection of its own, by which it is told what is for its
//! stdin, and says what it prints; when that connection ends before the command does, nobody wants it any more, and it is killed.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use wharf_docker::{Command, EngineError, Exec, ExecOutput, ExecProcess};
use wharf_types::exec::{Decoder, ExecOrder, ExecSpec, FRAME_MAX_BYTES, Frame};
use wharf_types::log::LogStream;
use wharf_types::problem::ProblemCode;
use wharf_types::{ExecId, Problem, ProcessId};

use super::backend::ContainerBackend;
use crate::control::orders::Orders;
use crate::control::{ControlClient, ControlError};
use crate::orders::{Carrier, Follower, ToServer, Told, ping};

/// How long the engine may take to say how a command has ended, and to have it killed.
const END_MAX: Duration = Duration::from_secs(10);

/// Runs the commands.
pub struct Execs {
    containers: Arc<ContainerBackend>,
}

impl Execs {
    /// What runs of these commands is killed when it shuts down.
    pub fn spawn(control: ControlClient, process: ProcessId, containers: Arc<ContainerBackend>) -> Follower {
        Follower::spawn(control, process, Self { containers })
    }
}

impl Carrier for Execs {
    const KIND: Orders = Orders::Execs;
    type Order = ExecOrder;

    fn id(order: &ExecOrder) -> ExecId {
        order.id
    }

    async fn carry_out(
        &self,
        order: ExecOrder,
        told: &mut Told,
        to_server: &ToServer,
        cancel: &CancellationToken,
    ) -> Option<Frame> {
        match begin(&self.containers, &order).await {
            Ok(exec) => carry_out(exec, told, to_server, cancel).await,
            Err(problem) => Some(Frame::Error(problem)),
        }
    }
}

async fn begin(containers: &ContainerBackend, order: &ExecOrder) -> Result<Exec, Problem> {
    let instance = order.instance;
    containers.must_run(instance)?;
    containers.engine().exec(instance, &command_of(&order.spec)).await.map_err(|error| refused(&error))
}

fn command_of(spec: &ExecSpec) -> Command {
    Command {
        words: spec.command.clone(),
        tty: spec.tty,
        stdin: spec.stdin,
        user: spec.user.clone(),
        workdir: spec.workdir.clone(),
        env: spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
    }
}

fn refused(error: &EngineError) -> Problem {
    let code = if error.is_retryable() { ProblemCode::Unavailable } else { ProblemCode::InvalidRequest };
    Problem::new(code, error.to_string())
}

/// How it went on with a command.
enum Went {
    /// It has ended, or cannot be followed any more.
    Ended(Frame),
    /// Nobody wants it any more.
    Unwanted(Option<Frame>),
}

/// Returns what is to be said last.
async fn carry_out(
    exec: Exec,
    told: impl Stream<Item = Result<Bytes, ControlError>> + Unpin,
    to_server: &ToServer,
    cancel: &CancellationToken,
) -> Option<Frame> {
    let Exec { output, input, process } = exec;
    let went = tokio::select! {
        said = print(output, &process, to_server) => said,
        why = listen(told, input, &process) => Went::Unwanted(why),
        () = to_server.closed() => Went::Unwanted(None),
        () = ping(to_server) => Went::Unwanted(None),
        () = cancel.cancelled() => {
            let detail = "the worker is stopping, so the command was ended";
            Went::Unwanted(Some(Frame::Error(Problem::new(ProblemCode::Unavailable, detail))))
        }
    };
    match went {
        Went::Ended(last) => Some(last),
        Went::Unwanted(last) => {
            match timeout(END_MAX, process.kill()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!("a command that nobody wants any more could not be killed: {error}"),
                Err(_) => warn!("a command that nobody wants any more could not be killed in time"),
            }
            last
        }
    }
}

/// What the command prints, and then its exit code.
async fn print(
    mut output: Pin<Box<dyn Stream<Item = Result<ExecOutput, EngineError>> + Send>>,
    process: &ExecProcess,
    to_server: &ToServer,
) -> Went {
    while let Some(said) = output.next().await {
        let ExecOutput { stream, octets } = match said {
            Ok(said) => said,
            Err(error) => return Went::Unwanted(Some(Frame::Error(refused(&error)))),
        };
        for octets in octets.chunks(FRAME_MAX_BYTES) {
            let frame = match stream {
                LogStream::Stderr => Frame::Stderr(octets.to_vec()),
                LogStream::Stdout | LogStream::Platform => Frame::Stdout(octets.to_vec()),
            };
            if to_server.send(frame.encode().into()).await.is_err() {
                return Went::Unwanted(None);
            }
        }
    }
    match timeout(END_MAX, process.exit_code()).await {
        Ok(Ok(code)) => Went::Ended(Frame::Exit(code)),
        Ok(Err(error)) => Went::Ended(Frame::Error(refused(&error))),
        Err(_) => {
            let detail = "the command has closed its output without coming to its end, so it was ended";
            Went::Unwanted(Some(Frame::Error(Problem::new(ProblemCode::Unavailable, detail))))
        }
    }
}

/// What is for the command's stdin, and its terminal. Returns when nobody speaks any more, and with a reason where there is one.
async fn listen(
    mut told: impl Stream<Item = Result<Bytes, ControlError>> + Unpin,
    // Held to the end, because some commands end with it.
    mut input: Pin<Box<dyn AsyncWrite + Send>>,
    process: &ExecProcess,
) -> Option<Frame> {
    let (mut decoder, mut is_open) = (Decoder::default(), true);
    loop {
        let frame = match decoder.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => match told.next().await {
                Some(Ok(octets)) => {
                    decoder.push(&octets);
                    continue;
                }
                Some(Err(_)) | None => return None,
            },
            Err(error) => {
                return Some(Frame::Error(Problem::new(ProblemCode::InvalidRequest, error.to_string())));
            }
        };
        match frame {
            // A command may close its stdin, and goes on.
            Frame::Stdin(octets) if is_open && octets.is_empty() => {
                is_open = false;
                let _ = input.shutdown().await;
            }
            Frame::Stdin(octets) if is_open => {
                is_open = input.write_all(&octets).await.is_ok() && input.flush().await.is_ok();
            }
            Frame::Resize(size) => {
                if let Err(error) = process.resize(size.columns, size.rows).await {
                    debug!("a terminal has kept its size: {error}");
                }
            }
            _ => {}
        }
    }
}
