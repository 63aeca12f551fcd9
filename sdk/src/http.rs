//! Requests, responses and their bodies: the types of the [`http`] crate, the same for WASI 0.2 and 0.3.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use http_body::{Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};

pub use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};

/// A request whose body arrives while the handler runs.
pub type Request = ::http::Request<Body>;

/// A response whose body is sent while it is made.
pub type Response = ::http::Response<Body>;

/// Any error. An app that returns one answers `500`, and the error is in its log.
pub type Error = anyhow::Error;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The content of a request or a response: octets in chunks, then trailers where there are any.
///
/// It implements [`http_body::Body`], so chunks and trailers are read with `http_body_util::BodyExt::frame`.
#[derive(Debug)]
pub struct Body(UnsyncBoxBody<Bytes, Error>);

impl Body {
    /// Nothing at all.
    pub fn empty() -> Self {
        Self::from(Bytes::new())
    }

    /// Anything that is a body. The way to send trailers.
    pub fn new<B>(body: B) -> Self
    where
        B: http_body::Body + Send + 'static,
        B::Data: Into<Bytes>,
        B::Error: Into<Error>,
    {
        Self(body.map_frame(|frame| frame.map_data(Into::into)).map_err(Into::into).boxed_unsync())
    }

    /// Sends each item as soon as the stream yields it. An error ends the connection, so that the client does not take
    /// what it has for the whole.
    pub fn from_stream<S, D, E>(stream: S) -> Self
    where
        S: Stream<Item = std::result::Result<D, E>> + Send + 'static,
        D: Into<Bytes>,
        E: Into<Error>,
    {
        Self::new(StreamBody::new(Chunks(Box::pin(stream))))
    }

    /// Waits for the end and returns all of it. Memory is limited; for what may be large, read frame by frame.
    ///
    /// # Errors
    /// When the client breaks off.
    pub async fn bytes(self) -> Result<Bytes> {
        Ok(self.0.collect().await?.to_bytes())
    }

    /// Waits for the end and returns all of it as text.
    ///
    /// # Errors
    /// When the client breaks off, or when what it sent is not UTF-8.
    pub async fn text(self) -> Result<String> {
        Ok(String::from_utf8(self.bytes().await?.into())?)
    }

    #[cfg(feature = "p2")]
    pub(crate) fn from_boxed(body: UnsyncBoxBody<Bytes, Error>) -> Self {
        Self(body)
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        // Not by `new`, whose mapping of frames forgets the length.
        Self(Full::new(bytes).map_err(|never| match never {}).boxed_unsync())
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// A stream's items as frames.
struct Chunks<S>(Pin<Box<S>>);

impl<S, D, E> Stream for Chunks<S>
where
    S: Stream<Item = std::result::Result<D, E>>,
    D: Into<Bytes>,
{
    type Item = std::result::Result<Frame<Bytes>, E>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = self.0.as_mut().poll_next(cx);
        item.map(|item| item.map(|chunk| chunk.map(|data| Frame::data(data.into()))))
    }
}

/// What the client gets: the handler's response with its length where that is known, or `500` for an error.
pub(crate) fn answer(result: Result<Response>) -> Response {
    let mut response = result.unwrap_or_else(|error| {
        eprintln!("the handler failed: {error:#}");
        let mut response = Response::new("Internal Server Error\n".into());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    });
    let length = http_body::Body::size_hint(response.body()).exact();
    let bodiless = matches!(response.status().as_u16(), 100..=199 | 204 | 304);
    if let (Some(length), false) = (length, bodiless) {
        response.headers_mut().entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_becomes_a_500_that_does_not_tell_it() {
        let response = answer(Err(Error::msg("the password is wrong")));
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()[header::CONTENT_LENGTH], "22");
    }

    #[test]
    fn a_known_length_is_told() {
        let response = answer(Ok(Response::new("four".into())));
        assert_eq!(response.headers()[header::CONTENT_LENGTH], "4");
    }

    #[test]
    fn a_stream_and_a_response_without_a_body_have_no_length() {
        let stream = http_body_util::StreamBody::new(futures_lite::stream::empty::<Result<Frame<Bytes>>>());
        assert!(!answer(Ok(Response::new(Body::new(stream)))).headers().contains_key(header::CONTENT_LENGTH));
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        assert!(!answer(Ok(response)).headers().contains_key(header::CONTENT_LENGTH));
    }

    #[test]
    fn a_body_is_read_to_its_end() {
        let chunks = ["one, ", "two"].map(Ok::<_, Error>);
        let body = Body::from_stream(futures_lite::stream::iter(chunks));
        assert_eq!(futures_lite::future::block_on(body.text()).expect("both chunks are text"), "one, two");
    }
}
