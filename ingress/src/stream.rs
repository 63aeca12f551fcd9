//! A client's socket: it tells HTTP/1 from HTTP/2 by the first octets, and counts what passes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop;

use crate::connection::Connection;
use crate::tcp::splice;

/// What every HTTP/2 client sends first (RFC 9113 §3.4).
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Pieces that are together no longer than this are copied into one before they are sent: `writev` costs the kernel more than
/// such a copy costs us, and most answers are a head and a few octets of body.
const JOINED_MAX_BYTES: usize = 1024;

/// tokio lets a task go on for 128 operations before others have their turn, and takes one of two octets and one of a megabyte for the
/// same. An operation is counted once for each so many octets that it has moved, so that one who moves as much as he can leaves the
/// thread after half a megabyte, which takes a fraction of a millisecond.
const OPERATION_BYTES: usize = 4 * 1024;

/// Counts the operations of the task's turn that `bytes` stand for, beyond the first, which tokio counts. Where the turn is
/// over, the next operation of the task waits.
fn count_towards_turn(cx: &mut Context<'_>, bytes: usize) {
    for _ in 0..bytes / OPERATION_BYTES {
        match coop::poll_proceed(cx) {
            Poll::Ready(operation) => operation.made_progress(),
            Poll::Pending => return,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

pub(crate) struct ClientStream {
    socket: TcpStream,
    connection: Arc<Connection>,
    /// Octets that were read to find out the protocol, and which of them are still to be handed on.
    first: [u8; PREFACE.len()],
    first_start: usize,
    first_end: usize,
}

impl ClientStream {
    pub(crate) fn new(socket: TcpStream, connection: Arc<Connection>) -> Self {
        Self { socket, connection, first: [0; PREFACE.len()], first_start: 0, first_end: 0 }
    }

    /// Waits for as many octets as it takes to know; for most requests that is one.
    pub(crate) async fn sniff(&mut self) -> io::Result<Protocol> {
        loop {
            let count = self.socket.read(&mut self.first[self.first_end..]).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.connection.read_bytes.fetch_add(count as u64, Relaxed);
            self.first_end += count;
            if self.first[..self.first_end] != PREFACE[..self.first_end] {
                return Ok(Protocol::Http1);
            }
            if self.first_end == PREFACE.len() {
                return Ok(Protocol::Http2);
            }
        }
    }
}

impl ClientStream {
    /// For a connection that may be silent for long: a client that has vanished is noticed all the same.
    pub(crate) fn keep_alive(&self) {
        splice::keep_alive(&self.socket);
    }

    /// Has the client learn, when this is dropped, that the connection has not ended but was broken off.
    pub(crate) fn reset_when_dropped(&self) {
        // It fails only where the client has left.
        let _ = self.socket.set_zero_linger();
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first_start < self.first_end {
            let count = buf.remaining().min(self.first_end - self.first_start);
            buf.put_slice(&self.first[self.first_start..self.first_start + count]);
            self.first_start += count;
            if self.first_start < self.first_end {
                return Poll::Ready(Ok(()));
            }
            // Usually the rest is there already. Where it is not, or the client has closed, the next read finds out.
            let filled = buf.filled().len();
            let _ = Pin::new(&mut self.socket).poll_read(cx, buf);
            let more = (buf.filled().len() - filled) as u64;
            self.connection.read_bytes.fetch_add(more, Relaxed);
            return Poll::Ready(Ok(()));
        }
        let filled = buf.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(cx, buf);
        if polled.is_ready() {
            let count = buf.filled().len() - filled;
            self.connection.read_bytes.fetch_add(count as u64, Relaxed);
            count_towards_turn(cx, count);
        }
        polled
    }
}

impl ClientStream {
    fn count(&self, cx: &mut Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &polled {
            self.connection.written_bytes.fetch_add(*count as u64, Relaxed);
            count_towards_turn(cx, *count);
        }
        polled
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.count(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        let polled = if length <= JOINED_MAX_BYTES {
            let mut joined = [0; JOINED_MAX_BYTES];
            let mut end = 0;
            for buf in bufs {
                joined[end..end + buf.len()].copy_from_slice(buf);
                end += buf.len();
            }
            Pin::new(&mut self.socket).poll_write(cx, &joined[..length])
        } else {
            Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
        };
        self.count(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces of `bytes` that a task may move in one turn.
    async fn pieces_in_a_turn(bytes: usize) -> usize {
        let task = tokio::spawn(async move {
            let mut pieces = 0;
            std::future::poll_fn(|cx| {
                pieces = 0;
                // As a socket does it: one operation for itself.
                while let Poll::Ready(operation) = coop::poll_proceed(cx) {
                    operation.made_progress();
                    count_towards_turn(cx, bytes);
                    pieces += 1;
                }
                Poll::Ready(())
            })
            .await;
            pieces
        });
        task.await.unwrap()
    }

    #[tokio::test]
    async fn a_turn_ends_after_half_a_megabyte_or_128_small_pieces() {
        assert_eq!(pieces_in_a_turn(1).await, 128);
        assert_eq!(pieces_in_a_turn(64 << 10).await, 8);
        assert_eq!(pieces_in_a_turn(8 << 20).await, 1);
    }
}
