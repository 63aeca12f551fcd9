//! A TCP connection within a stream of HTTP/2: what goes one way is the body of a request, what goes the other that of its answer.
//!
//! A body that ends is one direction that has ended, and a stream that is reset a connection that was reset: `CONNECT`, as hyper has it, makes
//! an end of both.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, PollSender};

use super::Held;
use crate::BoxError;

/// One end. Dropped before it has been shut down, it resets the other.
pub(crate) struct Tunnel {
    incoming: Incoming,
    /// What has come and was not read.
    unread: Bytes,
    sender: PollSender<Bytes>,
    is_finished: Arc<AtomicBool>,
    let_go: CancellationToken,
    _held: Option<Held>,
}

/// What is written into a [`Tunnel`].
pub(super) struct Outgoing {
    receiver: mpsc::Receiver<Bytes>,
    is_finished: Arc<AtomicBool>,
    let_go: CancellationToken,
}

/// The way in for what an end writes.
pub(super) struct Writer {
    sender: PollSender<Bytes>,
    is_finished: Arc<AtomicBool>,
    let_go: CancellationToken,
}

#[derive(Debug, thiserror::Error)]
#[error("the connection was reset")]
struct Reset;

pub(super) fn outgoing() -> (Writer, Outgoing) {
    // One piece is on its way while the next is read; more would only be late.
    let (sender, receiver) = mpsc::channel(1);
    let (is_finished, let_go) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
    (
        Writer { sender: PollSender::new(sender), is_finished: is_finished.clone(), let_go: let_go.clone() },
        Outgoing { receiver, is_finished, let_go },
    )
}

impl Writer {
    /// Ends the body in order: nothing is written into it.
    pub(super) fn end(self) {
        self.is_finished.store(true, Ordering::Release);
    }
}

impl Tunnel {
    pub(super) fn new(incoming: Incoming, writer: Writer, held: Option<Held>) -> Self {
        let Writer { sender, is_finished, let_go } = writer;
        Self { incoming, unread: Bytes::new(), sender, is_finished, let_go, _held: held }
    }

    /// Cancelled when the other side takes nothing any more. Who waits for something to write would not notice, once the other side has finished
    /// its own direction.
    pub(crate) fn let_go(&self) -> CancellationToken {
        self.let_go.clone()
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if !self.is_finished.load(Ordering::Acquire) {
            self.let_go.cancel();
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                Some(Ok(frame)) => self.unread = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, error)));
                }
                // See [`crate::request_body`].
                None if !self.incoming.is_end_stream() => {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread[..count]);
        self.unread.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        ready!(self.sender.poll_reserve(cx)).map_err(|_| reset())?;
        self.sender.send_item(Bytes::copy_from_slice(buf)).map_err(|_| reset())?;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_finished.store(true, Ordering::Release);
        self.sender.close();
        Poll::Ready(Ok(()))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(match ready!(self.receiver.poll_recv(cx)) {
            Some(data) => Some(Ok(Frame::data(data))),
            None if self.is_finished.load(Ordering::Acquire) => None,
            None => Some(Err(Reset.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        false
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
