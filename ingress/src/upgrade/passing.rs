//! What passes between a client and an instance once their connection has left HTTP, and how long nothing may.

use std::fmt;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;

use crate::body::OpenRequest;
use crate::pace::Paced;
use crate::peers::tunnel::Tunnel;
use crate::proxy::Session;
use crate::router::OpenAt;
use crate::stream::ClientStream;
use crate::tcp::splice::GONE_GRACE;

/// How long it may take until the sending side of a stream of HTTP/2 has heard that the client has given it up.
const RESET_GRACE: Duration = Duration::from_millis(20);

/// A connection that an instance has taken over from HTTP, in an answer 101 to a request with the extension [`hyper::ext::Protocol`]. Whoever
/// takes it out has it alone.
#[derive(Clone)]
pub struct Upgraded(Arc<Mutex<Option<OtherEnd>>>);

/// The instance's side of it.
pub(crate) struct OtherEnd {
    io: Box<dyn Io>,
    cut: CancellationToken,
    gone: CancellationToken,
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Upgraded {
    /// `io` counts as a request of the instance until it is dropped, and resets the instance's side where it is dropped before it was shut down.
    /// `cut` is cancelled when it has to end although the instance goes on, and `gone` when the instance has ended.
    pub fn new(
        io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        cut: CancellationToken,
        gone: CancellationToken,
    ) -> Self {
        Self(Arc::new(Mutex::new(Some(OtherEnd { io: Box::new(io), cut, gone }))))
    }

    pub(crate) fn take(self) -> Option<OtherEnd> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgraded").finish_non_exhaustive()
    }
}

impl OtherEnd {
    /// Joins it to a client of another node, which looks after the client.
    pub(crate) async fn join(self, mut tunnel: Tunnel, open: Option<OpenAt>, end: CancellationToken) {
        let Self { mut io, cut, gone } = self;
        let let_go = tunnel.let_go();
        tokio::select! {
            // Dropped, each resets what has not ended.
            _ = copy_bidirectional(&mut tunnel, &mut io) => {}
            () = let_go.cancelled() => {}
            () = end.cancelled() => {}
            () = is_over(&cut, &gone) => {}
        }
        drop(open);
    }
}

/// Returns when the instance's side has to end.
async fn is_over(cut: &CancellationToken, gone: &CancellationToken) {
    tokio::select! {
        () = cut.cancelled() => {}
        // What the instance has said last arrives.
        () = async { gone.cancelled().await; sleep(GONE_GRACE).await } => {}
    }
}

/// Where a connection waits for what has become of it.
pub(crate) type Slot = Mutex<Option<TakenOver>>;

/// A client's request that has become a connection to an instance. It counts as an open request until it is dropped.
pub(crate) struct TakenOver {
    open: OpenRequest,
    instance: OtherEnd,
}

impl TakenOver {
    pub(crate) fn new(open: OpenRequest, instance: OtherEnd) -> Self {
        Self { open, instance }
    }

    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.open.session
    }

    /// Over what was a connection of HTTP/1.1. `read` came with the request.
    pub(crate) async fn over_connection(self, mut client: ClientStream, read: Bytes) {
        let connection = self.open.session.connection.clone();
        client.keep_alive();
        if !self.pass(&mut client, read, connection.cut()).await {
            // It learns that it was not the instance that had finished.
            client.reset_when_dropped();
        }
    }

    /// Over a stream of HTTP/2, which ends with its connection at the latest.
    pub(crate) async fn over_stream(self, stream: OnUpgrade) {
        // It fails where the client has left.
        let Ok(stream) = stream.await else { return };
        let client = Stream { io: TokioIo::new(stream), pause: None };
        self.pass(client, Bytes::new(), std::future::pending()).await;
    }

    /// Copies both ways. Returns whether all that the instance has said was handed on.
    async fn pass(
        self,
        client: impl AsyncRead + AsyncWrite + Unpin,
        read: Bytes,
        cut: impl Future<Output = ()>,
    ) -> bool {
        let Self { mut open, instance: OtherEnd { io, cut: instance_cut, gone } } = self;
        let (quiet_max, half_closed_max) = {
            let config = &open.session.shared.config;
            (config.upgraded_idle, config.idle)
        };
        let seen = Seen::default();
        let client = Side { io: client, first: read, moves: &seen.moves, has_ended: &seen.client_ended };
        let mut client = Paced { client, pace: open.take_pace() };
        let mut instance =
            Side { io, first: Bytes::new(), moves: &seen.moves, has_ended: &seen.instance_ended };
        let (is_whole, was_cut) = tokio::select! {
            biased;
            copied = copy_bidirectional(&mut client, &mut instance) => (copied.is_ok(), false),
            () = cut => (false, true),
            () = is_over(&instance_cut, &gone) => (false, true),
            () = seen.is_quiet(quiet_max, half_closed_max) => (false, true),
        };
        if was_cut && let Some(target) = open.target() {
            target.meter.cut();
        }
        is_whole || seen.instance_ended.load(Relaxed)
    }
}

/// What has passed.
#[derive(Debug, Default)]
struct Seen {
    /// Octets, and ends.
    moves: AtomicU64,
    client_ended: AtomicBool,
    instance_ended: AtomicBool,
}

/// Since when nothing has.
#[derive(Debug)]
struct Quiet {
    moves: u64,
    since: Instant,
}

impl Quiet {
    /// When it has been quiet for too long, if nothing more passes.
    fn until(&mut self, moves: u64, max: Duration, now: Instant) -> Instant {
        if moves != self.moves {
            *self = Self { moves, since: now };
        }
        self.since + max
    }
}

impl Seen {
    /// Returns when nothing has passed for too long. `half_closed_max` is for when one side has ended. Polled after whatever moves octets.
    async fn is_quiet(&self, max: Duration, half_closed_max: Duration) {
        let mut quiet = Quiet { moves: 0, since: Instant::now() };
        let mut timer = pin!(sleep(max));
        std::future::poll_fn(|cx| {
            loop {
                let is_half_closed = self.client_ended.load(Relaxed) || self.instance_ended.load(Relaxed);
                let max = if is_half_closed { half_closed_max.min(max) } else { max };
                let now = Instant::now();
                let until = quiet.until(self.moves.load(Relaxed), max, now);
                if until <= now {
                    return Poll::Ready(());
                }
                // While octets pass it goes off too early, which costs less than to set it each time.
                if until < timer.deadline() {
                    timer.as_mut().reset(until);
                }
                ready!(timer.as_mut().poll(cx));
                timer.as_mut().reset(until);
            }
        })
        .await;
    }
}

/// One end, which tells what passes and when it has said all.
struct Side<'a, C> {
    io: C,
    /// What was read of it before.
    first: Bytes,
    moves: &'a AtomicU64,
    has_ended: &'a AtomicBool,
}

impl<C: AsyncRead + Unpin> AsyncRead for Side<'_, C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = buf.filled().len();
        if self.first.is_empty() {
            ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
        } else {
            let count = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first[..count]);
            self.first.advance(count);
        }
        let count = buf.filled().len() - filled;
        if count == 0 {
            self.has_ended.store(true, Relaxed);
        }
        self.moves.fetch_add(count.max(1) as u64, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Side<'_, C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.moves.fetch_add(written as u64, Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A client's stream. hyper reads one that the client has given up as one that has ended; its sending side knows better, a moment later.
struct Stream<C> {
    io: C,
    pause: Option<Pin<Box<Sleep>>>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let pause = match &mut this.pause {
            Some(pause) => pause,
            None => {
                let filled = buf.filled().len();
                ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
                if buf.filled().len() > filled {
                    return Poll::Ready(Ok(()));
                }
                this.pause.insert(Box::pin(sleep(RESET_GRACE)))
            }
        };
        ready!(pause.as_mut().poll(cx));
        match Pin::new(&mut this.io).poll_flush(cx) {
            Poll::Ready(Err(error)) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, error)))
            }
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(())),
        }
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Stream<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_begins_anew_with_each_octet() {
        let start = Instant::now();
        let after = |secs| start + Duration::from_secs(secs);
        let mut quiet = Quiet { moves: 0, since: start };
        let hour = Duration::from_secs(3600);
        assert_eq!(quiet.until(0, hour, after(100)), after(3600));
        assert_eq!(quiet.until(1, hour, after(3599)), after(3599 + 3600));
        // One side has ended, which is something as well.
        assert_eq!(quiet.until(2, Duration::from_secs(60), after(5000)), after(5060));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_quiet_after_its_time_and_sooner_when_one_side_has_ended() {
        let seen = Seen::default();
        let (hour, minute) = (Duration::from_secs(3600), Duration::from_secs(60));
        let began = Instant::now();
        let moves = async {
            for _ in 0..10 {
                sleep(hour / 2).await;
                seen.moves.fetch_add(1, Relaxed);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = moves => {}
            () = seen.is_quiet(hour, minute) => {}
        }
        assert_eq!(began.elapsed().as_secs(), 6 * 3600);
        let began = Instant::now();
        let ends = async {
            sleep(hour / 2).await;
            seen.client_ended.store(true, Relaxed);
            seen.moves.fetch_add(1, Relaxed);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = ends => {}
            () = seen.is_quiet(hour, minute) => {}
        }
        assert_eq!(began.elapsed().as_secs(), 1800 + 60);
    }
}
