//! The body of a request on its way to a peer, which comes back whole where no guest has touched it.
//!
//! hyper takes a body and drops it. So it gets a [`Handle`], and the body itself stays in [`Lent`], with all that has left. That is not much
//! while the guest has taken nothing: the peer reads no body before the guest does, and a stream's window is closed until it is read.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::STREAM_WINDOW_BYTES;
use crate::BoxError;
use crate::request_body::{RequestBody, Taken};

/// As much may have left without anybody's having read it: a window, and what waits for the window to open.
const KEPT_MAX_BYTES: usize = 2 * STREAM_WINDOW_BYTES as usize;

/// The owner of a body that is on its way. Dropped, it ends the upload.
pub(super) struct Lent(Arc<Mutex<Sending>>);

/// What hyper gets.
pub(super) struct Handle {
    sending: Arc<Mutex<Sending>>,
    size: SizeHint,
    is_empty: bool,
}

struct Sending {
    /// None: it has been taken back, or given up.
    body: Option<RequestBody>,
    /// All that has left. None: it was too much to be of use.
    left: Option<Taken>,
    left_bytes: usize,
    /// Whether the client has broken off.
    is_broken: bool,
    waker: Option<Waker>,
}

#[derive(Debug, thiserror::Error)]
#[error("the request is not sent any further")]
struct GivenUp;

pub(super) fn lend(body: RequestBody) -> (Handle, Lent) {
    let (size, is_empty) = (body.size_hint(), body.is_end_stream());
    let sending = Arc::new(Mutex::new(Sending {
        body: Some(body),
        left: Some(Taken::default()),
        left_bytes: 0,
        is_broken: false,
        waker: None,
    }));
    (Handle { sending: sending.clone(), size, is_empty }, Lent(sending))
}

impl Lent {
    /// The body as it was. None: too much of it has left, or the client has broken off.
    pub(super) fn take_back(self) -> Option<RequestBody> {
        let mut sending = lock(&self.0);
        let left = sending.left.take();
        let mut body = sending.stop()?;
        if sending.is_broken {
            return None;
        }
        body.put_back(left?);
        Some(body)
    }

    /// Whether the client has broken off.
    pub(super) fn is_broken(&self) -> bool {
        lock(&self.0).is_broken
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        lock(&self.0).stop();
    }
}

fn lock(sending: &Mutex<Sending>) -> MutexGuard<'_, Sending> {
    // A body that has panicked is not polled any more.
    sending.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sending {
    /// Ends the upload where it is.
    fn stop(&mut self) -> Option<RequestBody> {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        self.body.take()
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(left) = &mut self.left else { return };
        if let Some(trailers) = frame.trailers_ref() {
            left.trailers = Some(trailers.clone());
        }
        if let Some(data) = frame.data_ref() {
            // What would have been too much before this piece has been read by somebody.
            if self.left_bytes > KEPT_MAX_BYTES {
                self.left = None;
                return;
            }
            self.left_bytes += data.len();
            left.data.push_back(data.clone());
        }
    }
}

impl Body for Handle {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut sending = lock(&self.sending);
        let Some(body) = &mut sending.body else { return Poll::Ready(Some(Err(GivenUp.into()))) };
        match Pin::new(body).poll_frame(cx) {
            Poll::Pending => {
                sending.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Ok(frame))) => {
                sending.keep(&frame);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                sending.is_broken = true;
                Poll::Ready(Some(Err(error.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_empty || lock(&self.sending).body.as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}
