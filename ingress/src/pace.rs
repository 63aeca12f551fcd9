//! How fast octets leave: as many in each second as the quota of their namespace says, and a burst of one second's worth. What is more
//! waits here, and is never refused.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::limit::{self, Bucket};

/// What one answer or connection has to wait for. Without a bucket, nothing.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    bucket: Option<Arc<Bucket>>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    pub(crate) fn of(bucket: Option<Arc<Bucket>>) -> Self {
        Self { bucket, pause: None }
    }

    /// Whether the next octets may leave.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(bucket) = &self.bucket else { return Poll::Ready(()) };
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match bucket.owed(limit::now()) {
                // Others may have been quicker when it ends.
                Some(owed) => self.pause = Some(Box::pin(tokio::time::sleep(owed))),
                None => return Poll::Ready(()),
            }
        }
    }

    /// So many have left.
    pub(crate) fn took(&self, octets: usize) {
        if let Some(bucket) = &self.bucket {
            bucket.take(limit::now(), octets as u64);
        }
    }
}

/// A client whose octets leave at that pace.
#[derive(Debug)]
pub(crate) struct Paced<C> {
    pub(crate) client: C,
    pub(crate) pace: Pace,
}

impl<C: AsyncRead + Unpin> AsyncRead for Paced<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.client).poll_read(cx, buf)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Paced<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.pace.poll_ready(cx));
        let written = ready!(Pin::new(&mut self.client).poll_write(cx, buf))?;
        self.pace.took(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.client).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.client).poll_shutdown(cx)
    }
}
