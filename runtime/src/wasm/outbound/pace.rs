//! How long a guest waits for more of a response.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;
use wasmtime_wasi_http::Error;

use super::failed;

/// A body that fails when its next piece takes too long.
pub(super) struct Paced<B> {
    body: B,
    between_bytes: Duration,
    /// While somebody waits for a piece.
    wait: Option<Pin<Box<Sleep>>>,
}

impl<B> Paced<B> {
    pub(super) fn new(body: B, between_bytes: Duration) -> Self {
        Self { body, between_bytes, wait: None }
    }
}

impl<B> Body for Paced<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Error>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.wait = None;
            return Poll::Ready(frame.map(|frame| {
                frame.map_err(|error| match error.into() {
                    Error::Hyper(error) => failed::code(&error),
                    error => error,
                })
            }));
        }
        let between_bytes = self.between_bytes;
        let wait = self.wait.get_or_insert_with(|| Box::pin(tokio::time::sleep(between_bytes)));
        ready!(wait.as_mut().poll(cx));
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt as _, channel::mpsc};
    use http_body_util::{BodyExt as _, StreamBody};
    use tokio::time::{Instant, advance};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_pause_that_is_too_long_ends_a_body() {
        let (pieces, body) = mpsc::unbounded::<Bytes>();
        let body = StreamBody::new(body.map(|piece| Ok::<_, Error>(Frame::data(piece))));
        let mut paced = Paced::new(body, Duration::from_secs(2));
        for _ in 0..3 {
            assert!(futures::poll!(paced.frame()).is_pending());
            advance(Duration::from_millis(1900)).await;
            pieces.unbounded_send(Bytes::from_static(b"x")).unwrap();
            assert!(paced.frame().await.unwrap().is_ok());
        }
        let start = Instant::now();
        assert!(matches!(paced.frame().await, Some(Err(Error::ConnectionReadTimeout))));
        assert_eq!(start.elapsed().as_secs(), 2);
    }
}
