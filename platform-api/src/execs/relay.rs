//! Carries what is said between whoever runs a command, copies files, or moves what a volume holds, and the worker that does it.

use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};
use wharf_types::Problem;
use wharf_types::exec::Frame;
use wharf_types::problem::ProblemCode;

use super::frames::Frames;
use super::{Joined, Place};
use crate::context::Context;

/// Frames on their way to one side, each of up to 64 KiB.
pub(crate) const FRAMES_MAX: usize = 4;
/// How long a worker may take to come for a command.
const JOIN_MAX: Duration = Duration::from_secs(10);
/// How long a session may go on in which neither side says anything.
const IDLE_MAX: Duration = Duration::from_secs(3600);
/// How often a client is written to, which finds out that it is gone.
const PING: Duration = Duration::from_secs(10);
/// How long a client may take for the last word.
const LAST_WORD_MAX: Duration = Duration::from_secs(2);

pub(crate) type ToClient = mpsc::Sender<Result<Bytes, Infallible>>;

/// One command that somebody runs, one copy, or one transfer.
pub(crate) struct Session<O> {
    pub(crate) place: Place<O>,
    /// What it is, in a word.
    pub(crate) what: &'static str,
    /// When the worker has come.
    pub(crate) joined: oneshot::Receiver<Joined>,
    pub(crate) client: Frames,
    pub(crate) to_client: ToClient,
    /// The node, as people know it.
    pub(crate) node: String,
}

/// How a session came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// The client was told, or has gone.
    Done,
    NotTaken,
    WorkerLost,
    Idle,
    Stopping,
    Nonsense(String),
}

impl<O> Session<O> {
    /// To its end, or until one of both sides is gone.
    pub(crate) async fn run(self, context: Arc<Context>) {
        let Self { place, what, mut joined, mut client, to_client, node } = self;
        let end = tokio::select! {
            end = carry(&mut joined, &mut client, &to_client) => end,
            () = context.shutdown.cancelled() => End::Stopping,
            () = to_client.closed() => End::Done,
        };
        if let Some(problem) = end.problem(&node, what) {
            let last_word = to_client.send(Ok(Frame::Error(problem).encode().into()));
            let _ = timeout(LAST_WORD_MAX, last_word).await;
        }
        drop(place);
    }
}

impl End {
    /// What the client is told at last.
    fn problem(self, node: &str, what: &str) -> Option<Problem> {
        let (code, detail) = match self {
            Self::Done => return None,
            Self::NotTaken => (
                ProblemCode::Unavailable,
                format!("{node} did not come for the {what} within {} s; try again", JOIN_MAX.as_secs()),
            ),
            Self::WorkerLost => (
                ProblemCode::Unavailable,
                format!("the connection to {node} broke while the {what} ran, so nobody knows how it ended"),
            ),
            Self::Idle => {
                (ProblemCode::Unavailable, format!("nothing was said for an hour, so the {what} was ended"))
            }
            Self::Stopping => (
                ProblemCode::Unavailable,
                format!("the control plane is stopping, so the {what} was ended; run it again in a moment"),
            ),
            Self::Nonsense(detail) => (ProblemCode::InvalidRequest, detail),
        };
        Some(Problem::new(code, detail))
    }
}

async fn carry(joined: &mut oneshot::Receiver<Joined>, client: &mut Frames, to_client: &ToClient) -> End {
    let Ok(Ok(Joined { mut frames, to_worker })) = timeout(JOIN_MAX, joined).await else {
        return End::NotTaken;
    };
    let heard = Heard::now();
    tokio::select! {
        end = down(&mut frames, to_client, &heard) => end,
        end = up(client, &to_worker, &heard) => end,
        end = watch(to_client, &heard) => end,
    }
}

/// From the client to the worker.
async fn up(client: &mut Frames, to_worker: &mpsc::Sender<Bytes>, heard: &Heard) -> End {
    loop {
        let frame = match client.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return End::Done,
            Err(error) => return End::Nonsense(error.to_string()),
        };
        if !matches!(frame, Frame::Stdin(_) | Frame::Resize(_)) {
            return End::Nonsense("a client says what is for stdin, and the size of its terminal".to_owned());
        }
        heard.again();
        if to_worker.send(frame.encode().into()).await.is_err() {
            // The worker has ended, and what it said last is on its way.
            return pending().await;
        }
    }
}

/// From the worker to the client.
async fn down(frames: &mut Frames, to_client: &ToClient, heard: &Heard) -> End {
    loop {
        let frame = match frames.next().await {
            Ok(Some(Frame::Ping)) => continue,
            Ok(Some(frame)) => frame,
            Ok(None) | Err(_) => return End::WorkerLost,
        };
        let is_last = match frame {
            Frame::Stdout(_) | Frame::Stderr(_) => false,
            Frame::Exit(_) | Frame::Error(_) => true,
            Frame::Start(_) | Frame::Stdin(_) | Frame::Resize(_) | Frame::Ping => return End::WorkerLost,
        };
        heard.again();
        if to_client.send(Ok(frame.encode().into())).await.is_err() || is_last {
            return End::Done;
        }
    }
}

/// Returns when nothing was said for long.
async fn watch(to_client: &ToClient, heard: &Heard) -> End {
    loop {
        sleep(PING).await;
        if heard.ago() >= IDLE_MAX {
            return End::Idle;
        }
        // Where there is no room, something is written already.
        let _ = to_client.try_send(Ok(Frame::Ping.encode().into()));
    }
}

/// When one of both sides has said something last.
struct Heard(Mutex<Instant>);

impl Heard {
    fn now() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn again(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn ago(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use futures::StreamExt;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    /// Both ends of a relay.
    struct Ends {
        from_client: mpsc::Sender<Frame>,
        at_client: Frames,
        from_worker: mpsc::Sender<Frame>,
        at_worker: mpsc::Receiver<Bytes>,
        relay: tokio::task::JoinHandle<End>,
    }

    fn frames_of(said: mpsc::Receiver<Frame>) -> Frames {
        let octets = ReceiverStream::new(said).map(|frame| Ok::<_, Infallible>(Bytes::from(frame.encode())));
        Frames::new(Body::from_stream(octets))
    }

    fn relay() -> Ends {
        let (from_client, client) = mpsc::channel(4);
        let (from_worker, worker) = mpsc::channel(4);
        let (to_client, at_client) = mpsc::channel(4);
        let (to_worker, at_worker) = mpsc::channel(4);
        let (waiting, mut joined) = oneshot::channel();
        let frames = frames_of(worker);
        assert!(waiting.send(Joined { frames, to_worker }).is_ok());
        let mut client = frames_of(client);
        let relay = tokio::spawn(async move { carry(&mut joined, &mut client, &to_client).await });
        let at_client = Frames::new(Body::from_stream(ReceiverStream::new(at_client)));
        Ends { from_client, at_client, from_worker, at_worker, relay }
    }

    #[tokio::test]
    async fn both_sides_hear_what_the_other_says_until_the_command_ends() {
        let Ends { from_client, mut at_client, from_worker, mut at_worker, relay } = relay();
        let input = Frame::Stdin(b"in".to_vec());
        from_client.send(input.clone()).await.unwrap();
        assert_eq!(at_worker.recv().await.unwrap(), input.encode());
        for said in [Frame::Stdout(b"out".to_vec()), Frame::Stderr(b"err".to_vec()), Frame::Exit(3)] {
            from_worker.send(said.clone()).await.unwrap();
            assert_eq!(at_client.next().await, Ok(Some(said)));
        }
        assert_eq!(at_client.next().await, Ok(None));
        assert_eq!(relay.await.unwrap(), End::Done);
        assert!(at_worker.recv().await.is_none());
    }

    #[tokio::test]
    async fn the_worker_learns_that_the_client_has_gone_and_the_client_that_the_worker_has() {
        let mut ends = relay();
        drop(ends.from_client);
        assert!(ends.at_worker.recv().await.is_none());
        assert_eq!(ends.relay.await.unwrap(), End::Done);
        let ends = relay();
        drop(ends.from_worker);
        assert_eq!(ends.relay.await.unwrap(), End::WorkerLost);
    }

    #[tokio::test]
    async fn neither_side_says_what_is_the_others_to_say() {
        let ends = relay();
        ends.from_client.send(Frame::Exit(0)).await.unwrap();
        assert!(matches!(ends.relay.await.unwrap(), End::Nonsense(_)));
        let ends = relay();
        ends.from_worker.send(Frame::Stdin(Vec::new())).await.unwrap();
        assert_eq!(ends.relay.await.unwrap(), End::WorkerLost);
    }

    #[tokio::test(start_paused = true)]
    async fn after_an_hour_of_silence_it_ends_and_a_worker_that_does_not_come_is_not_waited_for() {
        let mut ends = relay();
        let began = Instant::now();
        while let Ok(Some(frame)) = ends.at_client.next().await {
            assert_eq!(frame, Frame::Ping);
        }
        assert_eq!(ends.relay.await.unwrap(), End::Idle);
        assert!(began.elapsed() >= IDLE_MAX);

        let (_waiting, mut joined) = oneshot::channel();
        let (_from_client, client) = mpsc::channel(1);
        let (to_client, _at_client) = mpsc::channel(1);
        assert_eq!(carry(&mut joined, &mut frames_of(client), &to_client).await, End::NotTaken);
    }
}
