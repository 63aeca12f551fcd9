//! The answer to a push, as a window that a client looks through: it may close, or nobody may look, and what is behind it goes on.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use tokio::sync::mpsc;

use crate::receive::ReceiveError;

/// With so much unread, nothing more is said that can be left out.
const FULL_BYTES: usize = 256 << 10;
/// With so much unread, nobody is there any more.
const GONE_BYTES: usize = 4 << 20;

/// What is shown. None: that was all, although the inner side may still be held by somebody.
type Shown = Option<Result<Bytes, ReceiveError>>;

/// The inner side.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    answer: mpsc::UnboundedSender<Shown>,
    unread: Arc<AtomicUsize>,
}

/// The outer side: the answer to a push, for the client.
#[derive(Debug)]
pub struct Answer {
    first: Option<Bytes>,
    answer: mpsc::UnboundedReceiver<Shown>,
    unread: Arc<AtomicUsize>,
}

/// Opens a window.
pub(crate) fn open() -> (Window, Answer) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let unread = Arc::new(AtomicUsize::new(0));
    (Window { answer: sender, unread: unread.clone() }, Answer { first: None, answer: receiver, unread })
}

impl Window {
    /// Shows something. It never waits: if the client does not look for too long, the rest of the answer is lost to it, and nothing else.
    pub(crate) fn show(&self, bytes: Bytes) {
        let unread = self.unread.load(Ordering::Relaxed);
        if bytes.is_empty() || unread > GONE_BYTES {
            return;
        }
        let length = bytes.len();
        if self.unread.fetch_add(length, Ordering::Relaxed) + length > GONE_BYTES {
            let _ = self.answer.send(Some(Err(ReceiveError::Unread)));
        } else {
            let _ = self.answer.send(Some(Ok(bytes)));
        }
    }

    /// Ends the answer with an error.
    pub(crate) fn fail(&self, error: ReceiveError) {
        let _ = self.answer.send(Some(Err(error)));
    }

    pub(crate) fn end(&self) {
        let _ = self.answer.send(None);
    }

    /// Comes back once nobody looks any more.
    pub(crate) async fn closed(&self) {
        self.answer.closed().await;
    }

    /// Whether the client is behind, or has gone.
    pub(crate) fn is_full(&self) -> bool {
        self.answer.is_closed() || self.unread.load(Ordering::Relaxed) > FULL_BYTES
    }
}

impl Answer {
    /// Waits until there is something to see, or the end.
    pub(crate) async fn begun(mut self) -> Result<Self, ReceiveError> {
        self.first = self.answer.recv().await.flatten().transpose()?;
        Ok(self)
    }
}

impl Stream for Answer {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let bytes = match self.first.take() {
            Some(bytes) => bytes,
            None => match std::task::ready!(self.answer.poll_recv(context)).flatten() {
                Some(Ok(bytes)) => bytes,
                Some(Err(error)) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                None => return Poll::Ready(None),
            },
        };
        self.unread.fetch_sub(bytes.len(), Ordering::Relaxed);
        Poll::Ready(Some(Ok(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn what_is_shown_is_seen_in_order() {
        let (window, answer) = open();
        window.show(Bytes::from_static(b"a"));
        window.show(Bytes::from_static(b"b"));
        window.end();
        let answer = answer.begun().await.unwrap();
        let seen: Vec<_> = answer.map(Result::unwrap).collect().await;
        assert_eq!(seen, ["a", "b"]);
    }

    #[tokio::test]
    async fn a_window_that_nobody_looks_through_holds_little_and_ends_in_an_error() {
        let (window, mut answer) = open();
        let chunk = Bytes::from(vec![0; 64 << 10]);
        window.show(chunk.clone());
        assert!(!window.is_full());
        for _ in 0..1000 {
            window.show(chunk.clone());
        }
        assert!(window.is_full());
        let (mut seen, mut failed) = (0, false);
        drop(window);
        while let Some(item) = answer.next().await {
            match item {
                Ok(bytes) => seen += bytes.len(),
                Err(_) => failed = true,
            }
        }
        assert!(failed && seen <= GONE_BYTES, "{seen}");
    }

    #[tokio::test]
    async fn who_waits_for_nobody_to_look_hears_when_the_answer_is_dropped() {
        let (window, answer) = open();
        let closed = tokio::spawn({
            let window = window.clone();
            async move { window.closed().await }
        });
        window.end();
        tokio::task::yield_now().await;
        assert!(!closed.is_finished(), "an answer that has ended may still be read");
        drop(answer);
        closed.await.unwrap();
    }

    #[test]
    fn a_window_that_was_closed_is_full() {
        let (window, answer) = open();
        drop(answer);
        assert!(window.is_full());
        window.show(Bytes::from_static(b"a"));
    }
}
