//! The way of a request to the port of a container.
//!
//! Connections over HTTP/1.1 are kept and used again, the newest first. A request leaves here only over a connection that stands, so one
//! that finds none goes back as it came, for another instance.
//!
//! A connection has no task of its own: whoever has a request open over it does its work, so that no request changes tasks on its way.
//!
//! A request with the extension [`Protocol`] asks the container to go over to another protocol. Where it does, the connection is handed out as a
//! [`ContainerConnection`].

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::wasm::admission::{Gate, Refused};
use crate::wasm::failure::InvokeError;
use crate::wasm::meter::Meter;
use crate::wasm::table::{DispatchError, FarBody};

/// Connections without a request that are kept.
const IDLE_MAX: usize = 64;
/// For less long than most servers keep theirs, so that a request seldom meets the end of one.
const IDLE_TIME: Duration = Duration::from_secs(4);
/// How long a kept connection may take to be ready for the next request.
const READY_MAX: Duration = Duration::from_millis(5);
/// A port on a bridge of this machine answers at once, or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The port of a container that answers HTTP.
pub struct Upstream {
    address: SocketAddr,
    gate: Gate,
    timeout: Duration,
    request_body_max: usize,
    idle: Mutex<Vec<Idle>>,
    meter: Arc<Meter>,
    /// The container has ended.
    ended: CancellationToken,
}

struct Idle {
    connection: Box<Link>,
    since: Instant,
}

/// A connection, and the way to give it a request.
struct Link {
    requests: SendRequest<FarBody>,
    connection: Connection<TokioIo<TcpStream>, FarBody>,
    has_ended: bool,
}

impl Link {
    /// Does what there is to do: takes what has come, and sends what can be sent.
    fn work(&mut self, cx: &mut Context<'_>) {
        if !self.has_ended {
            // Whoever has a request open hears of an error.
            self.has_ended = Pin::new(&mut self.connection).poll(cx).is_ready();
        }
    }

    /// Waits until it can take a request. False: it has ended.
    async fn ready(&mut self) -> bool {
        poll_fn(|cx| {
            self.work(cx);
            if self.has_ended {
                Poll::Ready(false)
            } else {
                self.requests.poll_ready(cx).map(|it| it.is_ok())
            }
        })
        .await
    }

    /// What `answer` comes to, which is of a request over this connection.
    async fn answer<T>(&mut self, answer: impl Future<Output = T>) -> T {
        let mut answer = std::pin::pin!(answer);
        poll_fn(|cx| {
            self.work(cx);
            answer.as_mut().poll(cx)
        })
        .await
    }
}

/// What bounds the requests to a container.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) concurrency: u32,
    /// Until the head of an answer.
    pub(super) timeout: Duration,
    pub(super) request_body_max: u64,
}

/// A request's place in a container, until dropped.
pub struct Place {
    upstream: Arc<Upstream>,
    has_place: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.upstream.meter.end();
        if self.has_place {
            self.upstream.gate.leave();
        }
    }
}

impl Upstream {
    pub(super) fn new(address: SocketAddr, bounds: Bounds, meter: Arc<Meter>) -> Arc<Self> {
        Arc::new(Self {
            address,
            gate: Gate::new(bounds.concurrency),
            timeout: bounds.timeout,
            request_body_max: usize::try_from(bounds.request_body_max).unwrap_or(usize::MAX),
            idle: Mutex::default(),
            meter,
            ended: CancellationToken::new(),
        })
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Takes a place if there is one now.
    pub(crate) fn try_enter(self: &Arc<Self>) -> Result<Place, Refused> {
        self.gate.try_enter()?;
        Ok(self.entered(true))
    }

    /// Takes a place, and waits for one if it must.
    pub(crate) async fn enter(self: &Arc<Self>) -> Result<Place, Refused> {
        self.gate.enter().await?;
        Ok(self.entered(true))
    }

    /// For a health check, which passes by the others.
    pub(super) fn enter_for_check(self: &Arc<Self>) -> Place {
        self.entered(false)
    }

    fn entered(self: &Arc<Self>, has_place: bool) -> Place {
        self.meter.begin();
        Place { upstream: self.clone(), has_place }
    }

    /// The container has ended: its address is nobody's, so that whoever connects would wait in vain.
    pub(super) fn end(&self) {
        self.ended.cancel();
    }

    /// Lets nobody in from here on, and waits for the open requests.
    pub(super) async fn drain(&self, time: Duration) -> bool {
        self.gate.drain(time).await
    }

    /// Cuts the open requests. `false`: there were none.
    pub(super) fn cut_open(&self) -> bool {
        self.gate.cut_open()
    }

    /// A connection that stands, and whether it has served before.
    async fn connection(&self) -> io::Result<(Box<Link>, bool)> {
        while let Some(mut connection) = self.take_idle() {
            // A connection that has ended says so here.
            if let Ok(true) = tokio::time::timeout(READY_MAX, connection.ready()).await {
                return Ok((connection, true));
            }
        }
        Ok((self.connect().await?, false))
    }

    fn take_idle(&self) -> Option<Box<Link>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        // The newest stands last: where it is too old, so are all.
        match idle.pop() {
            Some(newest) if newest.since.elapsed() < IDLE_TIME => Some(newest.connection),
            _ => {
                idle.clear();
                None
            }
        }
    }

    fn keep(&self, mut connection: Box<Link>) {
        // Nobody waits for it any more. One whose request is still being sent, although it was answered, would be ready only when its client
        // wants it to be.
        connection.work(&mut Context::from_waker(Waker::noop()));
        if connection.has_ended || !connection.requests.is_ready() || self.gate.is_closed() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(Idle { connection, since: Instant::now() });
        }
    }

    async fn connect(&self) -> io::Result<Box<Link>> {
        let connect = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(self.address));
        let connect = self.ended.run_until_cancelled(connect).await;
        let stream =
            connect.ok_or(io::ErrorKind::ConnectionRefused)?.map_err(|_| io::ErrorKind::TimedOut)??;
        stream.set_nodelay(true)?;
        let (requests, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Box::new(Link { requests, connection, has_ended: false }))
    }
}

impl Place {
    /// Hands a request to the container. Its URI must be absolute.
    pub(crate) async fn call<B>(
        self,
        request: Request<B>,
    ) -> Result<Response<ContainerBody>, DispatchError<B>>
    where
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let upstream = self.upstream.clone();
        let (connection, is_used) = match upstream.connection().await {
            Ok(found) => found,
            Err(_) => return Err(DispatchError::NotHere(Box::new(request))),
        };
        let asks_for_protocol = request.extensions().get::<Protocol>().is_some();
        let request = upstream.prepare(request).map_err(DispatchError::Invoke)?;
        let exchange = upstream.exchange(connection, is_used, request);
        let answered = tokio::time::timeout(upstream.timeout, exchange).await;
        let (response, connection) = match answered {
            Ok(answered) => answered.map_err(DispatchError::Invoke)?,
            Err(_) => return Err(DispatchError::Invoke(InvokeError::Timeout(upstream.timeout))),
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS && !asks_for_protocol {
            let words = "the container went over to another protocol without having been asked to";
            return Err(DispatchError::Invoke(InvokeError::Guest(words.to_owned())));
        }
        Ok(response.map(|incoming| ContainerBody { incoming, open: Some((connection, self)) }))
    }
}

impl Upstream {
    /// As it goes over the wire: with a path alone, and a body that is bounded.
    fn prepare<B>(&self, request: Request<B>) -> Result<Request<FarBody>, InvokeError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let length =
            request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        if length.is_some_and(|length: usize| length > self.request_body_max) {
            return Err(InvokeError::BodyTooLarge);
        }
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().cloned();
        parts.uri = path.map_or_else(Uri::default, Uri::from);
        parts.version = Version::HTTP_11;
        if let Some(protocol) = parts.extensions.get::<Protocol>() {
            let protocol = HeaderValue::from_str(protocol.as_str());
            let protocol = protocol.map_err(|error| InvokeError::BadRequest(error.to_string()))?;
            parts.headers.insert(UPGRADE, protocol);
            parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        if body.is_end_stream() {
            let nothing = Empty::new().map_err(|never| match never {});
            return Ok(Request::from_parts(parts, nothing.boxed_unsync()));
        }
        let meter = self.meter.clone();
        let counted = body.map_frame(move |frame| {
            if let Some(data) = frame.data_ref() {
                meter.add_received(data.len() as u64);
            }
            frame
        });
        let body = Limited::new(counted, self.request_body_max).boxed_unsync();
        Ok(Request::from_parts(parts, body))
    }

    /// Sends over a connection. One that was used before may have ended at this moment: then the request is sent over a new one, unless
    /// anything of it has left.
    async fn exchange(
        &self,
        mut connection: Box<Link>,
        is_used: bool,
        request: Request<FarBody>,
    ) -> Result<(Response<Incoming>, Box<Link>), InvokeError> {
        let answer = connection.requests.try_send_request(request);
        let unsent = match connection.answer(answer).await {
            Ok(response) => return Ok((response, connection)),
            Err(mut failed) => match failed.take_message().filter(|_| is_used) {
                Some(unsent) => unsent,
                None => return Err(failure(&failed.into_error())),
            },
        };
        let no_answer = |error: io::Error| {
            InvokeError::Guest(format!(
                "the container does not accept connections at {}: {error}",
                self.address
            ))
        };
        let mut connection = self.connect().await.map_err(no_answer)?;
        let answer = connection.requests.send_request(unsent);
        let response = connection.answer(answer).await.map_err(|error| failure(&error))?;
        Ok((response, connection))
    }
}

fn failure(error: &hyper::Error) -> InvokeError {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.is::<LengthLimitError>() {
            return InvokeError::BodyTooLarge;
        }
        source = cause.source();
    }
    InvokeError::Guest(format!("the container broke off the connection: {error}"))
}

/// The body of a container's answer. When it has come to its end the connection may serve again.
pub struct ContainerBody {
    incoming: Incoming,
    /// None: it has been given back, or taken.
    open: Option<(Box<Link>, Place)>,
}

impl ContainerBody {
    fn give_back(&mut self) {
        if let Some((connection, place)) = self.open.take() {
            place.upstream.keep(connection);
        }
    }

    /// The connection that an answer 101 has made of this one.
    pub(crate) fn take_connection(&mut self) -> Option<ContainerConnection> {
        let (link, place) = self.open.take()?;
        let left = link.connection.into_parts();
        Some(ContainerConnection {
            stream: left.io.into_inner(),
            first: left.read_buf,
            place,
            is_finished: false,
        })
    }
}

/// A connection that a container has taken over from HTTP. It has the place of its request. Dropped before it was shut down, it is reset.
pub struct ContainerConnection {
    stream: TcpStream,
    /// What came with the answer.
    first: Bytes,
    place: Place,
    is_finished: bool,
}

impl ContainerConnection {
    /// Cancelled when it has to end although the container goes on.
    pub fn cut(&self) -> CancellationToken {
        self.place.upstream.gate.cut().clone()
    }

    /// Cancelled when the container has ended.
    pub fn gone(&self) -> CancellationToken {
        self.place.upstream.ended.clone()
    }
}

impl AsyncRead for ContainerConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = buf.filled().len();
        if self.first.is_empty() {
            std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        } else {
            let count = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first[..count]);
            self.first.advance(count);
        }
        self.place.upstream.meter.add_sent((buf.filled().len() - filled) as u64);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ContainerConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.place.upstream.meter.add_received(written as u64);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_finished = true;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for ContainerConnection {
    fn drop(&mut self) {
        if !self.is_finished {
            // It fails only where the container has left.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl Body for ContainerBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let mut polled = Pin::new(&mut this.incoming).poll_frame(cx);
        if let (Poll::Pending, Some((connection, _))) = (&polled, &mut this.open) {
            connection.work(cx);
            polled = Pin::new(&mut this.incoming).poll_frame(cx);
        }
        let frame = std::task::ready!(polled);
        match &frame {
            None => self.give_back(),
            Some(Ok(frame)) => {
                let octets = frame.data_ref().map_or(0, Bytes::len);
                if let Some((_, place)) = &this.open {
                    place.upstream.meter.add_sent(octets as u64);
                }
            }
            Some(Err(_)) => {}
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for ContainerBody {
    fn drop(&mut self) {
        // One that is known to be at its end is not asked for another frame.
        if self.incoming.is_end_stream() {
            self.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Empty, Full};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    fn bounds() -> Bounds {
        Bounds { concurrency: 2, timeout: Duration::from_secs(5), request_body_max: 16 }
    }

    fn upstream(address: SocketAddr) -> Arc<Upstream> {
        Upstream::new(address, bounds(), Arc::default())
    }

    fn get() -> Request<Empty<Bytes>> {
        Request::get("http://hello.localhost/a?b=c")
            .header("host", "hello.localhost")
            .body(Empty::new())
            .unwrap()
    }

    /// Answers so many requests of each connection, and then ends it without a word. Returns what came first on each.
    async fn server(answers: usize) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, seen_rx) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let seen = seen.clone();
                tokio::spawn(async move {
                    for _ in 0..answers {
                        let mut head = vec![0; 4096];
                        let Ok(read @ 1..) = stream.read(&mut head).await else { return };
                        let _ = seen.send(String::from_utf8_lossy(&head[..read]).into_owned());
                        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
                    }
                });
            }
        });
        (address, seen_rx)
    }

    async fn ask(upstream: &Arc<Upstream>) -> Bytes {
        let response = upstream.try_enter().unwrap().call(get()).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body().collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn a_connection_serves_again_and_the_request_has_its_path_and_host() {
        let (address, mut seen) = server(100).await;
        let upstream = upstream(address);
        for _ in 0..3 {
            assert_eq!(ask(&upstream).await, "hi");
        }
        assert_eq!(upstream.idle.lock().unwrap().len(), 1);
        let head = seen.recv().await.unwrap();
        assert!(
            head.starts_with("GET /a?b=c HTTP/1.1\r\n") && head.contains("host: hello.localhost"),
            "{head}"
        );
        assert_eq!(upstream.meter().active(), 0);
    }

    #[tokio::test]
    async fn a_request_that_meets_the_end_of_a_kept_connection_goes_over_another() {
        let (address, _seen) = server(1).await;
        let upstream = upstream(address);
        for _ in 0..20 {
            assert_eq!(ask(&upstream).await, "hi");
        }
    }

    /// A body of which more is always yet to come.
    #[derive(Debug)]
    struct Endless;

    impl Body for Endless {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_request_that_was_answered_before_it_was_sent_holds_up_no_other() {
        let (address, _seen) = server(100).await;
        let upstream = upstream(address);
        let slow = Request::post("http://a/").header("host", "a").body(Endless).unwrap();
        let response = upstream.try_enter().unwrap().call(slow).await.unwrap();
        response.into_body().collect().await.unwrap();
        let next = tokio::time::timeout(Duration::from_secs(5), ask(&upstream)).await;
        assert_eq!(next.expect("it waits for nobody"), "hi");
    }

    #[tokio::test]
    async fn nobody_waits_for_a_container_that_has_ended() {
        // A full backlog answers no more.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream = upstream(listener.local_addr().unwrap());
        let (waits, ends) = (upstream.clone(), upstream.clone());
        let begun = tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                match waits.connect().await {
                    Ok(connection) => open.push(connection),
                    Err(error) => return error,
                }
            }
        });
        ends.end();
        let error = tokio::time::timeout(Duration::from_secs(1), begun).await.unwrap().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    /// Goes over to `echo` with the first request of each connection, whatever it asks for. Returns its head, and what comes after it.
    async fn echo() -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<(String, TcpStream)>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (taken, taken_rx) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 4096];
                let read = stream.read(&mut head).await.unwrap();
                let answer =
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nfirst";
                stream.write_all(answer.as_bytes()).await.unwrap();
                let _ = taken.send((String::from_utf8_lossy(&head[..read]).into_owned(), stream));
            }
        });
        (address, taken_rx)
    }

    fn asks_for_echo() -> Request<Empty<Bytes>> {
        let mut request = get();
        request.extensions_mut().insert(Protocol::from_static("echo"));
        request
    }

    #[tokio::test]
    async fn a_connection_that_goes_over_keeps_its_place_until_it_is_dropped() {
        let (address, mut taken) = echo().await;
        let upstream = upstream(address);
        let mut response = upstream.try_enter().unwrap().call(asks_for_echo()).await.unwrap();
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()["upgrade"], "echo");
        let mut connection = response.body_mut().take_connection().unwrap();
        assert!(response.body_mut().take_connection().is_none());
        drop(response);
        let (head, mut container) = taken.recv().await.unwrap();
        assert!(
            head.contains("\r\nupgrade: echo\r\n") && head.contains("\r\nconnection: upgrade\r\n"),
            "{head}"
        );
        let mut first = [0; 5];
        connection.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"first");
        connection.write_all(b"ping").await.unwrap();
        let mut ping = [0; 4];
        container.read_exact(&mut ping).await.unwrap();
        assert_eq!((&ping, upstream.meter().active()), (b"ping", 1));
        // Whoever stops the container waits for it, and then has it cut.
        let cut = connection.cut();
        assert!(!cut.is_cancelled() && !upstream.drain(Duration::from_millis(10)).await);
        assert!(cut.is_cancelled());
        drop(connection);
        assert_eq!(upstream.meter().active(), 0);
        let reset = container.read(&mut ping).await.unwrap_err();
        assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_container_that_goes_over_without_having_been_asked_has_failed() {
        let (address, _taken) = echo().await;
        let upstream = upstream(address);
        let answer = upstream.try_enter().unwrap().call(get()).await;
        assert!(matches!(answer, Err(DispatchError::Invoke(InvokeError::Guest(_)))));
        assert_eq!((upstream.meter().active(), upstream.idle.lock().unwrap().len()), (0, 0));
    }

    #[tokio::test]
    async fn where_nobody_listens_the_request_comes_back() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let upstream = upstream(free);
        let back = upstream.try_enter().unwrap().call(get()).await;
        assert!(matches!(back, Err(DispatchError::NotHere(request)) if request.uri().path() == "/a"));
    }

    #[tokio::test]
    async fn bodies_and_places_are_bounded() {
        let (address, _seen) = server(100).await;
        let upstream = upstream(address);
        let large = || {
            let body = Full::new(Bytes::from_static(b"more than sixteen octets"));
            Request::post("http://a/").header("host", "a").body(body).unwrap()
        };
        let refused = upstream.try_enter().unwrap().call(large()).await;
        assert!(matches!(refused, Err(DispatchError::Invoke(InvokeError::BodyTooLarge))));
        let places = [upstream.try_enter().unwrap(), upstream.try_enter().unwrap()];
        assert!(matches!(upstream.try_enter(), Err(Refused::Full)));
        drop(places);
        assert!(upstream.drain(Duration::from_secs(1)).await);
        assert!(matches!(upstream.try_enter(), Err(Refused::Closed)));
    }

    #[tokio::test]
    async fn a_container_that_does_not_answer_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let upstream =
            Upstream::new(address, Bounds { timeout: Duration::from_millis(50), ..bounds() }, Arc::default());
        let silent = upstream.try_enter().unwrap().call(get()).await;
        assert!(matches!(silent, Err(DispatchError::Invoke(InvokeError::Timeout(_)))));
    }
}
