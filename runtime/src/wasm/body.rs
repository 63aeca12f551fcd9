//! Bodies on their way into a guest and out of it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio_util::sync::WaitForCancellationFutureOwned;
use wasmtime_wasi_http::{Error, WasiBody};

use super::admission::Admitted;
use super::failure::InvokeError;
use super::invoke::{GuestTask, panicked};
use super::service::Call;

/// A request body with a limit, and the limit's error in the words of `wasi:http`.
pub(super) struct LimitedBody<B> {
    body: B,
    left: u64,
    max: u64,
}

impl<B> LimitedBody<B> {
    pub(super) fn new(body: B, max: u64) -> Self {
        Self { body, left: max, max }
    }
}

impl<B> Body for LimitedBody<B>
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
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else { return Poll::Pending };
        Poll::Ready(match frame {
            None => None,
            Some(Err(error)) => Some(Err(error.into())),
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                match self.left.checked_sub(length) {
                    Some(left) => {
                        self.left = left;
                        Some(Ok(frame))
                    }
                    None => Some(Err(Error::HttpRequestBodySize(Some(self.max)))),
                }
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether the answer to such a request can have a body (RFC 9110 §9.3.2).
pub(super) fn may_have_body(method: &Method) -> bool {
    method != Method::HEAD
}

/// Whether a response is complete with its head. Nobody then asks for its body, which is no reason to end the guest.
fn is_complete(may_have_body: bool, status: StatusCode, content_length: Option<u64>) -> bool {
    !may_have_body
        || content_length == Some(0)
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Who keeps the request's place.
pub(super) enum Seat {
    Own(Admitted),
    /// Together with the store that serves it.
    Shared(Arc<Call>),
}

impl Seat {
    fn admitted(&self) -> &Admitted {
        match self {
            Self::Own(admitted) => admitted,
            Self::Shared(call) => call.admitted(),
        }
    }
}

/// The body of a guest's response, together with what is left of the guest.
pub struct GuestBody {
    body: WasiBody,
    rest: Option<GuestTask>,
    /// What `content-length` announced and has not been sent.
    left: Option<u64>,
    ended: bool,
    /// None: handed to what is left of the guest.
    seat: Option<Seat>,
    /// Ends when the app has to go; made when the body is first waited for.
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl GuestBody {
    pub(super) fn wrap(
        response: Response<WasiBody>,
        may_have_body: bool,
        rest: Option<GuestTask>,
        seat: Seat,
    ) -> Response<Self> {
        let length = response.headers().get(http::header::CONTENT_LENGTH);
        let left = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let ended = response.body().is_end_stream() || is_complete(may_have_body, response.status(), left);
        response.map(|body| Self { body, rest, left, ended, seat: Some(seat), cut: None })
    }

    /// Whether the app has to go before this body has ended.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(seat) = &self.seat else { return Poll::Pending };
        let cut = self
            .cut
            .get_or_insert_with(|| Box::pin(seat.admitted().app().gate.cut().clone().cancelled_owned()));
        cut.as_mut().poll(cx)
    }

    /// Polls the rest of the guest. An error of the guest ends the body, so that the client sees it cut short.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), InvokeError>> {
        let Some(rest) = &mut self.rest else { return Poll::Pending };
        let Poll::Ready(ended) = Pin::new(rest).poll(cx) else { return Poll::Pending };
        self.rest = None;
        let ended = ended.unwrap_or_else(|| Err(panicked()));
        if let (Err(error), Some(seat)) = (&ended, &self.seat) {
            seat.admitted().failed_late(error);
        }
        Poll::Ready(ended)
    }
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        loop {
            if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
                if let (Some(Ok(frame)), Some(left)) = (&frame, &mut this.left) {
                    *left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
                }
                if frame.is_none() || this.left == Some(0) || this.body.is_end_stream() {
                    this.ended = true;
                    // The guest usually only has to return. Let it do so here: after the last frame nobody polls again.
                    let _ = this.drive(cx);
                }
                return Poll::Ready(frame);
            }
            match this.drive(cx) {
                Poll::Pending if this.poll_cut(cx).is_ready() => {
                    this.rest = None;
                    let error = InvokeError::Stopped.to_string();
                    return Poll::Ready(Some(Err(Error::InternalError(Some(error)))));
                }
                Poll::Pending => return Poll::Pending,
                // What the guest wrote last is in the body now; a guest that failed has dropped its end of it.
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(Error::InternalError(Some(error.to_string())))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for GuestBody {
    fn drop(&mut self) {
        // The response is complete, but the guest is not done: it may log or store something after it has answered, and keeps
        // its place in the app until then. A guest whose client went away before the end is dropped instead.
        if let (true, Some(rest), Some(seat)) = (self.ended, self.rest.take(), self.seat.take())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                let admitted = seat.admitted();
                let ended = tokio::select! {
                    biased;
                    ended = rest => ended.unwrap_or_else(|| Err(panicked())),
                    error = admitted.app().clone().patience() => Err(error),
                };
                if let Err(error) = ended {
                    admitted.failed_late(&error);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_that_cannot_have_a_body_is_complete_with_its_head() {
        let get = may_have_body(&Method::GET);
        assert!(is_complete(may_have_body(&Method::HEAD), StatusCode::OK, Some(5)));
        assert!(is_complete(get, StatusCode::SEE_OTHER, Some(0)));
        assert!(is_complete(get, StatusCode::NO_CONTENT, None));
        assert!(is_complete(get, StatusCode::NOT_MODIFIED, Some(5)));
        assert!(!is_complete(get, StatusCode::OK, Some(5)));
        assert!(!is_complete(get, StatusCode::OK, None));
    }
}
