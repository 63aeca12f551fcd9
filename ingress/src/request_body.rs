//! The body of a request, which tells its connection when a guest waits for the client.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::connection::Connection;

/// What a client sends after the head of its request.
#[derive(Debug)]
pub struct RequestBody {
    /// None: there is none.
    body: Option<Incoming>,
    /// None: the request has no body, or comes from a peer, so nobody waits for a client here.
    connection: Option<Arc<Connection>>,
    /// Whether somebody waits for what the client has not sent.
    awaited: bool,
    /// What was taken of it in vain.
    again: Option<Box<Taken>>,
    /// Whether it ends where it says so, and not only where it stops.
    is_http2: bool,
}

/// The first part of a body.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) data: VecDeque<Bytes>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl RequestBody {
    pub(crate) fn new(body: Incoming, connection: &Arc<Connection>, is_http2: bool) -> Self {
        let connection = (!body.is_end_stream()).then(|| connection.clone());
        Self { body: Some(body), connection, awaited: false, again: None, is_http2 }
    }

    /// One that a peer passes on: it looks after the client.
    pub(crate) fn of_peer(body: Incoming) -> Self {
        Self { body: Some(body), connection: None, awaited: false, again: None, is_http2: true }
    }

    /// That of a request without one.
    pub(crate) fn nothing() -> Self {
        Self { body: None, connection: None, awaited: false, again: None, is_http2: false }
    }

    /// Puts back what was taken, in front of the rest.
    pub(crate) fn put_back(&mut self, taken: Taken) {
        self.set_awaited(false);
        let left = self.again.take();
        let again = self.again.insert(Box::new(taken));
        if let Some(left) = left {
            again.data.extend(left.data);
            again.trailers = again.trailers.take().or(left.trailers);
        }
    }

    fn has_ended(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn set_awaited(&mut self, awaited: bool) {
        if let Some(connection) = &self.connection {
            match (self.awaited, awaited) {
                (false, true) => connection.upload_awaited(),
                (true, false) => connection.upload_arrived(),
                _ => {}
            }
            self.awaited = awaited;
        }
    }
}

impl Taken {
    fn next(&mut self) -> Option<Frame<Bytes>> {
        let data = self.data.pop_front().map(Frame::data);
        data.or_else(|| self.trailers.take().map(Frame::trailers))
    }

    fn is_empty(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.set_awaited(false);
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(again) = &mut self.again {
            if let Some(frame) = again.next() {
                return Poll::Ready(Some(Ok(frame)));
            }
            self.again = None;
        }
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        self.set_awaited(polled.is_pending());
        if let (Poll::Ready(Some(Ok(_))), Some(connection)) = (&polled, &self.connection) {
            connection.frame_passes();
        }
        // hyper takes a connection that it has given up itself for the end of the body. Nothing more comes, and who waits for it is
        // dropped with the connection in a moment: what came so far must not be taken for the whole.
        if self.is_http2 && matches!(polled, Poll::Ready(None)) && !self.has_ended() {
            return Poll::Pending;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.again.as_ref().is_none_or(|again| again.is_empty()) && self.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint);
        if let Some(again) = &self.again {
            let again = again.data.iter().map(|data| data.len() as u64).sum::<u64>();
            if let Some(upper) = hint.upper() {
                hint.set_upper(upper.saturating_add(again));
            }
            hint.set_lower(hint.lower().saturating_add(again));
        }
        hint
    }
}
