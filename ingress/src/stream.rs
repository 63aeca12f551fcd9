//! A client's socket: it tells HTTP/1 from HTTP/2 by the first octets, and counts what passes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::connection::Connection;

/// What every HTTP/2 client sends first (RFC 9113 §3.4).
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Pieces that are together no longer than this are copied into one before they are sent: `writev` costs the kernel more than
/// such a copy costs us, and most answers are a head and a few octets of body.
const JOINED_MAX_BYTES: usize = 1024;

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
            self.connection.read_bytes.fetch_add((buf.filled().len() - filled) as u64, Relaxed);
        }
        polled
    }
}

impl ClientStream {
    fn count(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = &polled {
            self.connection.written_bytes.fetch_add(*count as u64, Relaxed);
        }
        polled
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.count(polled)
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
        self.count(polled)
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
