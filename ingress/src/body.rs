//! The body of a response, which keeps its request counted as open until it has ended.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Either;
use pin_project_lite::pin_project;

use crate::BoxError;
use crate::limit::Bucket;
use crate::pace::Pace;
use crate::peers::PeerBody;
use crate::proxy::Session;
use crate::router::Target;

/// An open request. It ends where it is dropped, however that comes about.
pub(crate) struct OpenRequest {
    pub(crate) session: Arc<Session>,
    target: Option<Arc<Target>>,
    /// At which its body leaves.
    pace: Pace,
    /// Whether the client has something to take.
    owed: bool,
    began: Instant,
}

impl OpenRequest {
    pub(crate) fn begin(session: Arc<Session>) -> Self {
        session.connection.request_begins();
        Self { session, target: None, pace: Pace::default(), owed: false, began: Instant::now() }
    }

    /// Counts the request towards `target`, and no longer towards the one before.
    pub(crate) fn count_towards(&mut self, target: Arc<Target>) {
        self.leave_target();
        target.open.fetch_add(1, Ordering::Relaxed);
        self.target = Some(target);
    }

    /// Lets its body leave no faster than the namespace may send.
    pub(crate) fn pace(&mut self, egress: Option<Arc<Bucket>>) {
        self.pace = Pace::of(egress);
    }

    /// The same for whoever sends in its place.
    pub(crate) fn take_pace(&mut self) -> Pace {
        std::mem::take(&mut self.pace)
    }

    /// A guest has answered with this status.
    pub(crate) fn is_answered(&self, status: StatusCode) {
        if let Some(target) = &self.target {
            target.meter.answered(status, self.began.elapsed());
        }
    }

    pub(crate) fn target(&self) -> Option<&Target> {
        self.target.as_deref()
    }

    fn leave_target(&mut self) {
        if let Some(target) = self.target.take() {
            target.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn set_owed(&mut self, owed: bool) {
        match (self.owed, owed) {
            (false, true) => self.session.connection.client_owes(),
            (true, false) => self.session.connection.client_took(),
            _ => {}
        }
        self.owed = owed;
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.set_owed(false);
        self.leave_target();
        self.session.connection.request_ends();
    }
}

/// The body of a guest's answer: of this node, or of another.
pub(crate) type Answer<B> = Either<B, PeerBody>;

pin_project! {
    /// A guest's body, one of our own, or none, where what follows is not HTTP.
    #[project = ResponseBodyProjection]
    pub(crate) enum ResponseBody<B> {
        Guest {
            #[pin]
            body: Answer<B>,
            open: Option<OpenRequest>,
        },
        Own {
            body: Option<Bytes>,
            open: OpenRequest,
        },
        Nothing,
    }
}

impl<B> Body for ResponseBody<B>
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
            ResponseBodyProjection::Guest { body, open } => {
                // Being asked for more means that the client has taken what there was.
                if let Some(open) = open {
                    open.set_owed(false);
                    ready!(open.pace.poll_ready(cx));
                }
                let polled = ready!(body.poll_frame(cx));
                match (&polled, &mut *open) {
                    (Some(Ok(frame)), Some(open)) => {
                        open.pace.took(frame.data_ref().map_or(0, Bytes::len));
                        open.session.connection.frame_passes();
                        open.set_owed(true);
                    }
                    (Some(Err(_)), Some(ended)) => {
                        if let Some(target) = ended.target() {
                            target.meter.cut();
                        }
                        *open = None;
                    }
                    _ => *open = None,
                }
                Poll::Ready(polled)
            }
            ResponseBodyProjection::Own { body, open } => {
                open.set_owed(false);
                let frame = body.take().map(|bytes| Ok(Frame::data(bytes)));
                if frame.is_some() {
                    open.set_owed(true);
                }
                Poll::Ready(frame)
            }
            ResponseBodyProjection::Nothing => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Guest { body, .. } => body.is_end_stream(),
            Self::Own { body, .. } => body.is_none(),
            Self::Nothing => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Guest { body, .. } => body.size_hint(),
            Self::Own { body, .. } => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
            Self::Nothing => SizeHint::with_exact(0),
        }
    }
}
