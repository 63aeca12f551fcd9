//! Bodies on their way into a guest and out of it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TE, TRANSFER_ENCODING};
use http::{Method, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio_util::sync::WaitForCancellationFutureOwned;
use wasmtime_wasi_http::{Error, WasiBody};

use super::admission::Admitted;
use super::failure::InvokeError;
use super::invoke::{GuestTask, panicked};
use super::meter::Meter;
use super::service::Caller;

/// Octets that have gone through a body and of which its app's meter does not know yet. The meter is one for all requests of a
/// release, so it is told once for each body, and of those that go on for long now and then.
#[derive(Debug, Default)]
struct Untold(u64);

/// That many octets are worth an atomic addition of their own.
const TOLD_AT: u64 = 1 << 20;

impl Untold {
    fn add(&mut self, frame: &Frame<Bytes>, tell: impl FnOnce(u64)) {
        self.0 += data_length(frame);
        if self.0 >= TOLD_AT {
            self.end(tell);
        }
    }

    fn end(&mut self, tell: impl FnOnce(u64)) {
        if self.0 > 0 {
            tell(std::mem::take(&mut self.0));
        }
    }
}

fn data_length(frame: &Frame<Bytes>) -> u64 {
    frame.data_ref().map_or(0, |data| data.len() as u64)
}

/// Takes from trailers what says where a message ends, and how (RFC 9110 §6.5.1): a guest that hands it on would speak of another message.
fn without_framing(frame: &mut Frame<Bytes>) {
    if let Some(trailers) = frame.trailers_mut() {
        for name in [CONTENT_LENGTH, TRANSFER_ENCODING, TE] {
            trailers.remove(name);
        }
    }
}

/// A request body with a limit, and the limit's error in the words of `wasi:http`. What is read of it is counted.
pub(super) struct LimitedBody<B> {
    body: B,
    left: u64,
    max: u64,
    untold: Untold,
    /// None: there is nothing to count.
    meter: Option<Arc<Meter>>,
}

impl<B: Body> LimitedBody<B> {
    pub(super) fn new(body: B, max: u64, meter: &Arc<Meter>) -> Self {
        let meter = (!body.is_end_stream()).then(|| meter.clone());
        Self { body, left: max, max, untold: Untold::default(), meter }
    }
}

impl<B> Drop for LimitedBody<B> {
    fn drop(&mut self) {
        if let Some(meter) = &self.meter {
            self.untold.end(|bytes| meter.add_received(bytes));
        }
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
            Some(Ok(mut frame)) => match self.left.checked_sub(data_length(&frame)) {
                Some(left) => {
                    let this = &mut *self;
                    this.left = left;
                    if let Some(meter) = &this.meter {
                        this.untold.add(&frame, |bytes| meter.add_received(bytes));
                    }
                    without_framing(&mut frame);
                    Some(Ok(frame))
                }
                None => Some(Err(Error::HttpRequestBodySize(Some(self.max)))),
            },
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
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Why a response broke off, for its app's log. `left`: octets that its `content-length` announced and that have not been sent.
fn why_broken_off(error: &Error, left: Option<u64>) -> String {
    let what = match error {
        // What the engine makes of a body that was dropped, or is not as long as announced.
        Error::HttpProtocolError => "the guest did not finish its body".to_owned(),
        // One line, whatever the guest says.
        other => other.to_string().replace(['\r', '\n'], " "),
    };
    match left {
        Some(left) if left > 0 => {
            format!("the response broke off: {what}; {left} octets of its `content-length` are missing")
        }
        _ => format!("the response broke off: {what}"),
    }
}

/// Who keeps the request's place.
pub(super) enum Seat {
    Own(Admitted),
    /// A caller of a store that others may share.
    Shared(Caller),
}

impl Seat {
    fn admitted(&self) -> &Admitted {
        match self {
            Self::Own(admitted) => admitted,
            Self::Shared(caller) => caller.admitted(),
        }
    }
}

/// A body of which the first frames may be here already.
pub(super) struct Frames {
    first: Option<Frame<Bytes>>,
    second: Option<Frame<Bytes>>,
    rest: Option<WasiBody>,
}

impl From<WasiBody> for Frames {
    fn from(body: WasiBody) -> Self {
        Self { first: None, second: None, rest: Some(body) }
    }
}

impl Frames {
    /// Takes what is there of the body, as far as there is room for it here, and lets go of the body if that was all.
    pub(super) fn collect(&mut self) -> Result<(), Error> {
        let mut cx = Context::from_waker(Waker::noop());
        while let Some(body) = &mut self.rest
            && self.second.is_none()
        {
            match Pin::new(body).poll_frame(&mut cx) {
                Poll::Ready(Some(frame)) if self.first.is_none() => self.first = Some(frame?),
                Poll::Ready(Some(frame)) => self.second = Some(frame?),
                Poll::Ready(None) => self.rest = None,
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    pub(super) fn is_whole(&self) -> bool {
        self.rest.is_none()
    }

    fn ready(&self) -> impl Iterator<Item = &Frame<Bytes>> {
        self.first.iter().chain(&self.second)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(frame) = self.first.take().or_else(|| self.second.take()) {
            return Poll::Ready(Some(Ok(frame)));
        }
        match &mut self.rest {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ready().next().is_none() && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let here: u64 = self.ready().map(data_length).sum();
        match &self.rest {
            // A length that is known would leave no room for trailers.
            None if self.ready().any(Frame::is_trailers) => SizeHint::default(),
            None => SizeHint::with_exact(here),
            Some(body) => {
                let mut hint = body.size_hint();
                let (lower, upper) = (hint.lower(), hint.upper());
                if let Some(upper) = upper {
                    hint.set_upper(upper.saturating_add(here));
                }
                hint.set_lower(lower.saturating_add(here));
                hint
            }
        }
    }
}

/// The body of a guest's response, together with what is left of the guest.
pub struct GuestBody {
    frames: Frames,
    rest: Option<GuestTask>,
    /// What `content-length` announced and has not been sent.
    left: Option<u64>,
    untold: Untold,
    ended: bool,
    /// None: handed to what is left of the guest.
    seat: Option<Seat>,
    /// Ends when the app has to go; made when the body is first waited for.
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl GuestBody {
    pub(super) fn wrap(
        response: Response<Frames>,
        may_have_body: bool,
        rest: Option<GuestTask>,
        seat: Seat,
    ) -> Response<Self> {
        let length = response.headers().get(CONTENT_LENGTH);
        let left = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let ended = response.body().is_end_stream() || is_complete(may_have_body, response.status(), left);
        response.map(|frames| Self {
            frames,
            rest,
            left,
            untold: Untold::default(),
            ended,
            seat: Some(seat),
            cut: None,
        })
    }

    fn sent(&mut self, frame: &Frame<Bytes>) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(data_length(frame));
        }
        if let Some(seat) = &self.seat {
            self.untold.add(frame, |bytes| seat.admitted().app().meter().add_sent(bytes));
        }
    }

    /// Tells the app why its response ends early. How a store of several callers has ended is told where it is polled.
    fn tell_broken_off(&self, error: &Error, cx: &mut Context<'_>) {
        match &self.seat {
            Some(Seat::Shared(caller)) if matches!(caller.poll_end(cx), Poll::Ready(Some(_))) => {}
            Some(seat) => seat.admitted().broke_off(&why_broken_off(error, self.left)),
            None => {}
        }
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
            if let Poll::Ready(frame) = this.frames.poll_frame(cx) {
                if frame.is_none()
                    && let Some(Seat::Shared(caller)) = &this.seat
                {
                    let Poll::Ready(end) = caller.poll_end(cx) else { return Poll::Pending };
                    if let Some(error) = end {
                        this.ended = true;
                        caller.admitted().app().meter().trapped();
                        return Poll::Ready(Some(Err(Error::InternalError(Some(error.to_string())))));
                    }
                }
                match &frame {
                    Some(Ok(frame)) => this.sent(frame),
                    Some(Err(error)) => this.tell_broken_off(error, cx),
                    None => {}
                }
                if frame.is_none() || this.left == Some(0) || this.frames.is_end_stream() {
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
        self.frames.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.frames.size_hint()
    }
}

impl Drop for GuestBody {
    fn drop(&mut self) {
        if let (true, Some(Seat::Shared(caller))) = (self.ended, &mut self.seat) {
            caller.has_all();
        }
        if let Some(seat) = &self.seat {
            self.untold.end(|bytes| seat.admitted().app().meter().add_sent(bytes));
        }
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

    fn body(frames: Vec<&'static [u8]>) -> impl Body<Data = Bytes, Error = Error> + Unpin {
        let frames = frames.into_iter().map(|data| Ok(Frame::data(Bytes::from_static(data))));
        http_body_util::StreamBody::new(futures::stream::iter(frames))
    }

    /// Reads so many frames.
    fn read(body: &mut (impl Body<Data = Bytes> + Unpin), frames: usize) {
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..frames {
            assert!(matches!(Pin::new(&mut *body).poll_frame(&mut cx), Poll::Ready(Some(Ok(_)))));
        }
    }

    fn received(meter: &Meter) -> u64 {
        meter.usage("default".parse().unwrap(), "hello".parse().unwrap(), 1).received_bytes
    }

    #[test]
    fn what_was_read_of_a_request_is_counted_once_it_is_let_go_of() {
        let meter = Arc::default();
        let mut body = LimitedBody::new(body(vec![b"one", b"two", b"three"]), 100, &meter);
        read(&mut body, 2);
        assert_eq!(received(&meter), 0);
        drop(body);
        assert_eq!(received(&meter), 6);
    }

    #[test]
    fn a_body_that_goes_on_for_long_is_counted_meanwhile() {
        static MEGABYTE: [u8; 1 << 20] = [0; 1 << 20];
        let meter = Arc::default();
        let mut body = LimitedBody::new(body(vec![b"one", &MEGABYTE, b"two"]), u64::MAX, &meter);
        read(&mut body, 3);
        assert_eq!(received(&meter), 3 + (1 << 20));
        drop(body);
        assert_eq!(received(&meter), 6 + (1 << 20));
    }

    #[test]
    fn what_is_beyond_the_limit_does_not_reach_the_guest_and_is_not_counted() {
        let meter = Arc::default();
        let mut body = LimitedBody::new(body(vec![b"one", b"too much"]), 5, &meter);
        read(&mut body, 1);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(
            Pin::new(&mut body).poll_frame(&mut cx),
            Poll::Ready(Some(Err(Error::HttpRequestBodySize(Some(5)))))
        ));
        drop(body);
        assert_eq!(received(&meter), 3);
    }

    #[test]
    fn trailers_lose_what_frames_a_message_and_keep_the_rest() {
        let fields = ["content-length", "transfer-encoding", "te", "x-sum"];
        let trailers = fields.map(|name| (name.parse().unwrap(), http::HeaderValue::from_static("1")));
        let frames = [Ok::<_, Error>(Frame::trailers(http::HeaderMap::from_iter(trailers)))];
        let frames = http_body_util::StreamBody::new(futures::stream::iter(frames));
        let mut body = LimitedBody::new(frames, 5, &Arc::default());
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) else {
            panic!("the trailers are there");
        };
        let left = frame.into_trailers().unwrap();
        assert_eq!((left.len(), left["x-sum"].as_bytes()), (1, b"1".as_slice()));
    }

    #[test]
    fn a_response_that_breaks_off_says_why_and_how_much_is_missing() {
        assert_eq!(
            why_broken_off(&Error::HttpProtocolError, Some(4)),
            "the response broke off: the guest did not finish its body; 4 octets of its `content-length` are missing"
        );
        assert_eq!(
            why_broken_off(&Error::HttpProtocolError, None),
            "the response broke off: the guest did not finish its body"
        );
        let error = Error::InternalError(Some("no more rows".to_owned()));
        assert_eq!(why_broken_off(&error, Some(0)), "the response broke off: internal error: no more rows");
    }

    #[test]
    fn a_response_that_cannot_have_a_body_is_complete_with_its_head() {
        let get = may_have_body(&Method::GET);
        assert!(is_complete(may_have_body(&Method::HEAD), StatusCode::OK, Some(5)));
        assert!(is_complete(get, StatusCode::SEE_OTHER, Some(0)));
        assert!(is_complete(get, StatusCode::NO_CONTENT, None));
        assert!(is_complete(get, StatusCode::RESET_CONTENT, Some(5)));
        assert!(is_complete(get, StatusCode::NOT_MODIFIED, Some(5)));
        assert!(!is_complete(get, StatusCode::OK, Some(5)));
        assert!(!is_complete(get, StatusCode::OK, None));
    }
}
