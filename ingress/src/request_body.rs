//! The body of a request, which tells its connection when a guest waits for the client.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::connection::Connection;

/// What a client sends after the head of its request.
#[derive(Debug)]
pub struct RequestBody {
    body: Incoming,
    /// None: the request has no body, so nobody waits for it.
    connection: Option<Arc<Connection>>,
    /// Whether somebody waits for what the client has not sent.
    awaited: bool,
}

impl RequestBody {
    pub(crate) fn new(body: Incoming, connection: &Arc<Connection>) -> Self {
        let connection = (!body.is_end_stream()).then(|| connection.clone());
        Self { body, connection, awaited: false }
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
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.set_awaited(polled.is_pending());
        if let (Poll::Ready(Some(Ok(_))), Some(connection)) = (&polled, &self.connection) {
            connection.frame_passes();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
