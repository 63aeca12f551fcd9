//! One ingress on port 0, its routes, and an instance to answer.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::channel::mpsc;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::ext::Protocol;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use wharf_ingress::{CallError, Config, Ingress, IngressError, IngressHandle, LocalCall, Upgraded};
use wharf_types::route::{Endpoint, RateLimit, Route, RouteTable, TcpEndpoint, TcpRoute};
use wharf_types::{InstanceId, NodeId};

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Fails instead of waiting for ever.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it takes far too long")
}

/// Waits until the condition holds.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    within(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Every instance of every app.
pub(crate) struct Guest {
    gone: Mutex<HashSet<InstanceId>>,
    busy: Mutex<HashSet<InstanceId>>,
    /// Who was called, in order.
    pub(crate) calls: Mutex<Vec<InstanceId>>,
    /// The clients, in the same order.
    pub(crate) clients: Mutex<Vec<SocketAddr>>,
    /// One permit lets one `/wait` request go on.
    pub(crate) go_on: Semaphore,
    /// Bodies that `/collect` has taken for whole.
    pub(crate) collected: Mutex<Vec<Bytes>>,
    /// What `/stream` answers with.
    stream: Mutex<Option<mpsc::UnboundedReceiver<Frame<Bytes>>>>,
    /// The instance's side of connections that it has taken over, the newest last, with the fields of the request.
    upgraded: Mutex<Vec<(DuplexStream, HeaderMap)>>,
    /// Has connections that were taken over end, as when an instance is stopped.
    pub(crate) cut: CancellationToken,
    /// Open calls whose future has not been dropped.
    pub(crate) running: Arc<()>,
}

impl Guest {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            gone: Mutex::default(),
            busy: Mutex::default(),
            calls: Mutex::default(),
            clients: Mutex::default(),
            go_on: Semaphore::new(0),
            collected: Mutex::default(),
            stream: Mutex::default(),
            upgraded: Mutex::default(),
            cut: CancellationToken::new(),
            running: Arc::new(()),
        })
    }

    pub(crate) fn leaves(&self, instance: InstanceId) {
        self.gone.lock().unwrap().insert(instance);
    }

    pub(crate) fn returns(&self, instance: InstanceId) {
        self.gone.lock().unwrap().remove(&instance);
    }

    pub(crate) fn is_busy(&self, instance: InstanceId) {
        self.busy.lock().unwrap().insert(instance);
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    pub(crate) fn running(&self) -> usize {
        Arc::strong_count(&self.running) - 1
    }

    /// The next `/stream` request is answered with what is sent here.
    pub(crate) fn stream(&self) -> mpsc::UnboundedSender<Frame<Bytes>> {
        let (sender, receiver) = mpsc::unbounded();
        *self.stream.lock().unwrap() = Some(receiver);
        sender
    }

    /// The instance's side of the connection that was taken over last, and the fields of its request.
    pub(crate) async fn upgraded(&self) -> (DuplexStream, HeaderMap) {
        until(|| !self.upgraded.lock().unwrap().is_empty()).await;
        self.upgraded.lock().unwrap().pop().unwrap()
    }

    /// Goes over to what was asked for, or to what the query says. Without having been asked it answers with what it was sent.
    fn upgrade(&self, request: &Request<wharf_ingress::RequestBody>) -> Response<Body> {
        let Some(protocol) = request.extensions().get::<Protocol>() else {
            return Response::new(text(format!("plain {:?}", request.headers())));
        };
        let (ours, theirs) = tokio::io::duplex(1024);
        self.upgraded.lock().unwrap().push((theirs, request.headers().clone()));
        let mut response = Response::new(text(""));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        let to = request.uri().query().unwrap_or(protocol.as_str());
        headers.insert("upgrade", to.parse().unwrap());
        headers.insert("connection", HeaderValue::from_static("upgrade"));
        headers.insert("sec-websocket-protocol", HeaderValue::from_static("chat"));
        if let Some(key) = request.headers().get("sec-websocket-key") {
            headers.insert("sec-websocket-accept", accept_of(key.to_str().unwrap()).parse().unwrap());
        }
        response.extensions_mut().insert(Upgraded::new(ours, self.cut.clone(), CancellationToken::new()));
        response
    }

    async fn call(self: Arc<Self>, call: LocalCall) -> Result<Response<Body>, CallError> {
        let _running = self.running.clone();
        self.calls.lock().unwrap().push(call.instance);
        self.clients.lock().unwrap().push(call.remote);
        if self.gone.lock().unwrap().contains(&call.instance) {
            return Err(CallError::NotHere(Box::new(call.request)));
        }
        if self.busy.lock().unwrap().contains(&call.instance) {
            return Err(CallError::Busy(Some(Box::new(call.request))));
        }
        match call.request.uri().path() {
            "/trap" => Err(CallError::Failed("secret backtrace".into())),
            "/timeout" => Err(CallError::Timeout("`limits.cpu` is reached".to_owned())),
            "/too-large" => Err(CallError::BodyTooLarge),
            "/bad" => Err(CallError::BadRequest("It has a <bad> header.".into())),
            "/gone" => Err(CallError::ClientGone),
            "/busy" => Err(CallError::Busy(None)),
            "/switch" => {
                Ok(Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).body(text("")).unwrap())
            }
            "/upgrade" => Ok(self.upgrade(&call.request)),
            "/wait" => {
                self.go_on.acquire().await.unwrap().forget();
                Ok(Response::new(text("waited")))
            }
            "/stream" => {
                let frames = self.stream.lock().unwrap().take().expect("a test that streams says what");
                let body = StreamBody::new(frames.map(Ok)).boxed_unsync();
                Ok(Response::builder().header("trailer", "x-sum").body(body).unwrap())
            }
            "/collect" => {
                let body = call.request.into_body().collect().await.map_err(|_| CallError::ClientGone)?;
                let body = body.to_bytes();
                self.collected.lock().unwrap().push(body.clone());
                Ok(Response::new(text(body)))
            }
            // The body comes back as it comes in, its trailers too.
            "/echo" => {
                let body = call.request.into_body().map_err(std::io::Error::other);
                Ok(Response::builder().header("trailer", "x-sum").body(body.boxed_unsync()).unwrap())
            }
            "/break" => {
                let breaks = async move {
                    self.go_on.acquire().await.unwrap().forget();
                    Err(std::io::Error::other("it broke"))
                };
                let begins = futures::stream::iter([Ok(Frame::data("begun".into()))]);
                let frames = begins.chain(futures::stream::once(breaks));
                Ok(Response::new(StreamBody::new(frames).boxed_unsync()))
            }
            // Single octets, as fast as they are taken, and then a few words.
            "/drip" => {
                let octets = futures::stream::repeat(()).take(300_000).map(|()| Ok(Frame::data("x".into())));
                Ok(Response::new(StreamBody::new(octets).boxed_unsync()))
            }
            "/large" => {
                let piece = Bytes::from(vec![b'x'; 64 << 10]);
                let pieces = futures::stream::repeat(piece).take(512).map(|piece| Ok(Frame::data(piece)));
                Ok(Response::new(StreamBody::new(pieces).boxed_unsync()))
            }
            "/head-too-large" => {
                Ok(Response::builder().header("x-large", "a".repeat(300_000)).body(text("")).unwrap())
            }
            "/not-modified" => {
                Ok(Response::builder().status(304).header("content-length", "7").body(text("")).unwrap())
            }
            "/own-error" => Ok(Response::builder()
                .status(StatusCode::SERVICE_UNAVAILABLE)
                .header("wharf-peer-verdict", "not-here")
                .header("x-wharf-error", "busy")
                .body(text("own words"))
                .unwrap()),
            "/panic" => panic!("a fault of the host"),
            _ => {
                let mut seen = format!("{} {}\n", call.request.method(), call.request.uri());
                for (name, value) in call.request.headers() {
                    seen.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
                }
                let response = Response::builder()
                    .header("connection", "close, x-private")
                    .header("x-private", "1")
                    .header("keep-alive", "timeout=1")
                    .header("x-instance", call.instance.to_string());
                Ok(response.body(text(seen)).unwrap())
            }
        }
    }
}

/// What a WebSocket server answers to a key.
fn accept_of(key: &str) -> String {
    use base64::Engine as _;
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    base64::prelude::BASE64_STANDARD.encode(digest)
}

fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

#[derive(Clone)]
pub(crate) struct GuestService(pub(crate) Arc<Guest>);

impl tower::Service<LocalCall> for GuestService {
    type Response = Response<Body>;
    type Error = CallError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, CallError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: LocalCall) -> Self::Future {
        Box::pin(self.0.clone().call(call))
    }
}

pub(crate) struct Fixture {
    pub(crate) node: NodeId,
    pub(crate) guest: Arc<Guest>,
    pub(crate) address: SocketAddr,
    pub(crate) ingress: IngressHandle,
    pub(crate) errors: Arc<Mutex<Vec<IngressError>>>,
    routes: watch::Sender<Arc<RouteTable>>,
}

impl Fixture {
    /// One app at `hello.test/` with as many instances.
    pub(crate) async fn with_instances(count: usize) -> (Self, Vec<InstanceId>) {
        Self::configured(count, |_| {}).await
    }

    pub(crate) async fn configured(
        count: usize,
        configure: impl FnOnce(&mut Config),
    ) -> (Self, Vec<InstanceId>) {
        let instances: Vec<_> = (0..count).map(|_| InstanceId::new()).collect();
        (Self::with_table(|node| table(1, node, &instances), configure).await, instances)
    }

    /// One that has just started: it knows no routes, and lets requests wait for so long.
    pub(crate) async fn starting(start_grace: Duration) -> Self {
        Self::with_table(|_| RouteTable::default(), |config| config.start_grace = start_grace).await
    }

    async fn with_table(
        table: impl FnOnce(NodeId) -> RouteTable,
        configure: impl FnOnce(&mut Config),
    ) -> Self {
        let node = NodeId::new();
        let errors = Arc::new(Mutex::new(Vec::new()));
        let mut config = Config::new(node);
        let sink = errors.clone();
        config.on_error = Arc::new(move |error| sink.lock().unwrap().push(error.clone()));
        configure(&mut config);
        let (routes, receiver) = watch::channel(Arc::new(table(node)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let guest = Guest::new();
        let ingress = Ingress::spawn(vec![listener], config, receiver, GuestService(guest.clone()));
        let address = ingress.addresses()[0];
        Self { node, guest, address, ingress, errors, routes }
    }

    /// Replaces the routes, and waits until they are in use.
    pub(crate) async fn route(&self, generation: u64, instances: &[InstanceId]) {
        self.routes.send_replace(Arc::new(table(generation, self.node, instances)));
        let mut applied = self.ingress.applied();
        within(applied.wait_for(|applied| *applied == generation)).await.unwrap();
    }

    /// The same for an app that may sleep.
    pub(crate) async fn route_sleeper(&self, generation: u64, instances: &[InstanceId]) {
        self.routes.send_replace(Arc::new(table_of(generation, self.node, instances, true)));
        let mut applied = self.ingress.applied();
        within(applied.wait_for(|applied| *applied == generation)).await.unwrap();
    }

    /// The same, and so many requests, or octets, a second.
    pub(crate) async fn route_limited(
        &self,
        generation: u64,
        instances: &[InstanceId],
        (requests_per_second, egress_bytes_per_second): (Option<u64>, Option<u64>),
    ) {
        let namespace = "default".parse().unwrap();
        let limit = RateLimit { requests_per_second, egress_bytes_per_second, ..RateLimit::of(namespace) };
        let table = RouteTable { limits: vec![limit], ..table(generation, self.node, instances) };
        self.routes.send_replace(Arc::new(table));
        let mut applied = self.ingress.applied();
        within(applied.wait_for(|applied| *applied == generation)).await.unwrap();
    }

    /// The same with a TCP port of these instances, and nothing else.
    pub(crate) async fn route_tcp(&self, generation: u64, port: u16, instances: &[InstanceId]) {
        let endpoint = |instance: &InstanceId| TcpEndpoint {
            instance: *instance,
            node: self.node,
            connections_max: 100,
            proxy_protocol: false,
            release: 1,
        };
        let route = TcpRoute {
            port,
            namespace: "default".parse().unwrap(),
            app: "echo".parse().unwrap(),
            endpoints: instances.iter().map(endpoint).collect(),
            counted: false,
        };
        let table = RouteTable { generation, tcp: vec![Arc::new(route)], ..RouteTable::default() };
        self.routes.send_replace(Arc::new(table));
        let mut applied = self.ingress.applied();
        within(applied.wait_for(|applied| *applied == generation)).await.unwrap();
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        within(TcpStream::connect(self.address)).await.unwrap()
    }

    /// One request on a connection of its own; the whole answer.
    pub(crate) async fn send(&self, request: &str) -> Reply {
        let mut socket = self.connect().await;
        socket.write_all(request.as_bytes()).await.unwrap();
        read_reply(&mut socket).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: hello.test\r\n\r\n")).await
    }
}

fn table(generation: u64, node: NodeId, instances: &[InstanceId]) -> RouteTable {
    table_of(generation, node, instances, false)
}

/// With `wakes`, requests wait while there is no instance.
fn table_of(generation: u64, node: NodeId, instances: &[InstanceId], wakes: bool) -> RouteTable {
    let endpoint = |instance: &InstanceId| Endpoint { instance: *instance, node, release: 1, concurrency: 0 };
    let route = Route {
        pattern: "hello.test/".parse().unwrap(),
        namespace: "default".parse().unwrap(),
        app: "hello".parse().unwrap(),
        endpoints: instances.iter().map(endpoint).collect(),
        stopped: false,
        counted: true,
        wakes,
        canary: None,
    };
    RouteTable { generation, routes: vec![Arc::new(route)], ..RouteTable::default() }
}

/// A response as it came over HTTP/1.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// Reads octet by octet up to and with `end`.
pub(crate) async fn read_until(socket: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    within(async {
        while !read.ends_with(end.as_bytes()) {
            match socket.read_u8().await {
                Ok(octet) => read.push(octet),
                Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&read)),
            }
        }
    })
    .await;
    String::from_utf8(read).unwrap()
}

/// Reads a response that says how long it is.
pub(crate) async fn read_reply(socket: &mut TcpStream) -> Reply {
    let head = read_until(socket, "\r\n\r\n").await;
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        headers.append(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
    }
    let length = headers.get("content-length").map_or(0, |length| length.to_str().unwrap().parse().unwrap());
    let mut body = vec![0; length];
    within(socket.read_exact(&mut body)).await.unwrap();
    Reply { status, headers, body: String::from_utf8(body).unwrap() }
}

/// Waits until the peer closes, after however many octets.
pub(crate) async fn closes(socket: &mut TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end as well.
    let _ = within(socket.read_to_end(&mut rest)).await;
}

/// An HTTP/2 client with prior knowledge.
pub(crate) async fn http2<B>(address: SocketAddr) -> hyper::client::conn::http2::SendRequest<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let socket = TcpStream::connect(address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(socket);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (sender, connection) = hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) fn http2_request<B>(path: &str, body: B) -> Request<B> {
    Request::builder().uri(format!("http://hello.test{path}")).header("te", "trailers").body(body).unwrap()
}
