//! What a peer gets: an instance's answer, or why there is none.

use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::sync::mpsc;

use crate::BoxError;
use crate::call::CallError;
use crate::peers::gather::Gather;
use crate::peers::tunnel;
use crate::peers::wire::{self, Verdict};
use crate::router::OpenAt;

/// An instance's answer, as a peer gets it.
pub(super) fn hand_on<B>(open: Option<OpenAt>, answer: Response<B>) -> Response<ServeBody<B>> {
    let (mut parts, body) = answer.into_parts();
    if parts.status.is_informational() {
        let status = parts.status;
        return says(
            Verdict::Failed,
            &format!("the guest answered with {status}, which is not a final status"),
        );
    }
    crate::headers::strip_response(&mut parts.headers);
    if !fits(&parts.headers) {
        return too_large();
    }
    Response::from_parts(parts, ServeBody::Guest { body: Gather::new(Caught { body }), _open: open })
}

/// Whether a peer takes these fields.
pub(super) fn fits(headers: &HeaderMap) -> bool {
    wire::fields_bytes(headers) <= wire::FIELDS_MAX_BYTES
}

pub(super) fn too_large<B>() -> Response<ServeBody<B>> {
    let most = wire::FIELDS_MAX_BYTES;
    says(Verdict::Failed, &format!("the header fields of its answer are larger than {most} octets"))
}

pub(super) fn says<B>(verdict: Verdict, words: &str) -> Response<ServeBody<B>> {
    let end = words.floor_char_boundary(wire::DETAIL_MAX_BYTES);
    verdict.respond(ServeBody::Words { words: Some(Bytes::copy_from_slice(&words.as_bytes()[..end])) })
}

pub(super) fn refused<B>(error: CallError) -> Response<ServeBody<B>> {
    match error {
        CallError::NotHere(_) => says(Verdict::NotHere, ""),
        CallError::Busy(Some(_)) => says(Verdict::Busy, ""),
        CallError::Busy(None) => says(Verdict::BusyAndGone, ""),
        // For an ingress of before it is busy, which is as true.
        CallError::OverQuota(words) => says(Verdict::BusyAndGone, &words),
        CallError::BodyTooLarge => says(Verdict::BodyTooLarge, ""),
        CallError::ClientGone => says(Verdict::ClientGone, ""),
        CallError::Timeout(words) => says(Verdict::Timeout, &words),
        CallError::Failed(words) => says(Verdict::Failed, &words),
        CallError::BadRequest(words) => says(Verdict::BadRequest, &words),
    }
}

pin_project! {
    /// What a peer gets.
    #[project = ServeBodyProjection]
    pub(crate) enum ServeBody<B> {
        Nothing,
        Words { words: Option<Bytes> },
        Artifact { chunks: mpsc::Receiver<io::Result<Bytes>>, bytes: u64 },
        Guest {
            #[pin]
            body: Gather<Caught<B>>,
            _open: Option<OpenAt>,
        },
        Connection {
            #[pin]
            body: Gather<tunnel::Outgoing>,
        },
    }
}

impl<B> Body for ServeBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.project() {
            ServeBodyProjection::Nothing => Poll::Ready(None),
            ServeBodyProjection::Words { words } => {
                Poll::Ready(words.take().map(|words| Ok(Frame::data(words))))
            }
            ServeBodyProjection::Artifact { chunks, bytes } => {
                Poll::Ready(match std::task::ready!(chunks.poll_recv(cx)) {
                    Some(Ok(chunk)) => {
                        *bytes = bytes.saturating_sub(chunk.len() as u64);
                        Some(Ok(Frame::data(chunk)))
                    }
                    Some(Err(error)) => Some(Err(error.into())),
                    None if *bytes == 0 => None,
                    None => Some(Err("the artifact was not taken in time".into())),
                })
            }
            ServeBodyProjection::Guest { body, .. } => body.poll_frame(cx),
            ServeBodyProjection::Connection { body } => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Words { words } => words.as_ref().is_none_or(Bytes::is_empty),
            Self::Artifact { bytes, .. } => *bytes == 0,
            Self::Guest { body, .. } => body.is_end_stream(),
            Self::Connection { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing => SizeHint::with_exact(0),
            Self::Words { words } => {
                SizeHint::with_exact(words.as_ref().map_or(0, |words| words.len() as u64))
            }
            Self::Artifact { bytes, .. } => SizeHint::with_exact(*bytes),
            Self::Guest { body, .. } => body.size_hint(),
            Self::Connection { body } => body.size_hint(),
        }
    }
}

pin_project! {
    /// A guest's body. Where the host panics in it, the peer gets an error, and not what looks like an end.
    pub(crate) struct Caught<B> {
        #[pin]
        body: B,
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the node has failed at the answer")]
struct Panicked;

impl<B> Body for Caught<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let body = self.project().body;
        match std::panic::catch_unwind(AssertUnwindSafe(|| body.poll_frame(cx))) {
            Ok(polled) => polled.map(|frame| frame.map(|frame| frame.map_err(Into::into))),
            Err(_) => Poll::Ready(Some(Err(Panicked.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
