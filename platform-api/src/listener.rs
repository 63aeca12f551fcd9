//! Serves the API on its socket: takes connections, as many as there are places, and waits for none of them without a limit.
//!
//! HTTP/1.1 only: its one deadline for a request's head covers a connection from its first octet on, also while nothing comes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::{Request, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::CertificateError;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::{debug, warn};
use wharf_pki::Role;
use wharf_types::NodeId;
use wharf_types::seldom::Seldom;

use crate::api::{PeerNode, Remote};
use crate::authority::Authorities;
use crate::forward::{self, Forwarded, take_caller};

/// How long a connection may be silent before a request, and how long the request's head may take.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// Open connections; the next ones wait in the kernel.
const CONNECTIONS_MAX: usize = 1024;
/// The same of workers, each of which has one, or a few while it reconnects.
const WORKER_CONNECTIONS_MAX: usize = 16_384;
/// How long to wait when the system has no room for another connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(500);

/// Serves until `shutdown`, and then until the requests that are open have ended.
pub(crate) async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    serve_within(HEAD_MAX, listener, router, shutdown).await;
}

async fn serve_within(
    head_max: Duration,
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head_max);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut open = JoinSet::new();
    loop {
        let accepting = async {
            let place = places.clone().acquire_owned().await;
            (accept(&listener).await, place)
        };
        let ((socket, remote), place) = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = open.join_next() => continue,
            accepted = accepting => accepted,
        };
        let service = router.clone().map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Remote(remote));
            request
        });
        let service = TowerToHyperService::new(service);
        let connection = http.serve_connection(TokioIo::new(socket), service).with_upgrades();
        let shutdown = shutdown.clone();
        open.spawn(async move {
            let mut connection = pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => Some(ended),
                () = shutdown.cancelled() => None,
            };
            let ended = match ended {
                Some(ended) => ended,
                None => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                debug!("a connection to the API broke: {error}");
            }
            drop(place);
        });
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

/// How long the handshake of TLS may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Requests of one worker at once.
const STREAMS_MAX: u32 = 256;
/// A worker that does not answer a ping within this, after so long without a word, is gone.
const PING: Duration = Duration::from_secs(2);
/// How often the log says for each reason that somebody was refused who comes from the same address.
const REFUSED_EVERY: Duration = Duration::from_secs(60);

/// Who was refused, and why: a flood of strangers is to be one line and not thousands.
type Refusals = Seldom<(IpAddr, String)>;

/// Serves workers over TLS, and hosts that join, until `shutdown`. A worker is known by its certificate.
pub(crate) async fn serve_workers(
    listener: TcpListener,
    router: Router,
    authorities: Arc<Authorities>,
    shutdown: CancellationToken,
) {
    serve_workers_within(HANDSHAKE_MAX, listener, router, authorities, shutdown).await;
}

async fn serve_workers_within(
    handshake_max: Duration,
    listener: TcpListener,
    router: Router,
    authorities: Arc<Authorities>,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(WORKER_CONNECTIONS_MAX));
    let refusals = Arc::new(Refusals::new(REFUSED_EVERY));
    let mut open = JoinSet::new();
    loop {
        let accepting = async {
            let place = places.clone().acquire_owned().await;
            (accept(&listener).await, place)
        };
        let ((socket, remote), place) = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = open.join_next() => continue,
            accepted = accepting => accepted,
        };
        let (router, tls, shutdown) = (router.clone(), authorities.tls(), shutdown.clone());
        let refusals = refusals.clone();
        open.spawn(async move {
            let handshake = TlsAcceptor::from(tls).accept(socket);
            match timeout(handshake_max, handshake).await {
                Ok(Ok(stream)) => serve_worker(stream, remote, (router, refusals.as_ref()), shutdown).await,
                Ok(Err(error)) => say_refused(&refusals, remote, refusal(&error)),
                Err(_) => debug!("{remote} did not finish its handshake"),
            }
            drop(place);
        });
    }
    while open.join_next().await.is_some() {}
}

fn say_refused(refusals: &Refusals, remote: SocketAddr, why: String) {
    if let Some(more) = refusals.say((remote.ip(), why.clone())) {
        warn!("{remote} was refused as a worker: {why}{more}");
    }
}

/// Why a handshake has failed.
fn refusal(error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        )) => format!(
            "{error}; it was not renewed for a day, and `wharf node token create --node ID` lets that node back in, whose own log says which it is"
        ),
        _ => error.to_string(),
    }
}

async fn serve_worker(
    stream: TlsStream<TcpStream>,
    remote: SocketAddr,
    (router, refusals): (Router, &Refusals),
    shutdown: CancellationToken,
) {
    let (_, tls) = stream.get_ref();
    let visitor = match tls.peer_certificates().map(wharf_pki::peer_of) {
        None => Visitor::Stranger,
        Some(Some(peer)) => match peer.role {
            Role::Worker => Visitor::Worker(peer.node),
            Role::Server => Visitor::Server,
        },
        Some(None) => {
            return say_refused(refusals, remote, "its certificate does not say whose it is".to_owned());
        }
    };
    let speaks_http2 = tls.alpn_protocol() == Some(b"h2");
    let service = router.map_request(move |request| visitor.introduces(request, remote));
    let (service, stream) = (TowerToHyperService::new(service), TokioIo::new(stream));
    let broke = |error: hyper::Error| debug!("the connection of a worker at {remote} broke: {error}");
    if speaks_http2 {
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PING);
        if visitor == Visitor::Server {
            http.max_concurrent_streams(forward::STREAMS_MAX)
                .max_header_list_size(256 << 10)
                .initial_stream_window_size(forward::STREAM_WINDOW_BYTES)
                .initial_connection_window_size(forward::CONNECTION_WINDOW_BYTES)
                // Resets come from clients of that server, who must not bring down the connection of all of them.
                .max_pending_accept_reset_streams(Some(forward::STREAMS_MAX as usize))
                .max_local_error_reset_streams(None);
        } else {
            http.max_concurrent_streams(STREAMS_MAX).max_header_list_size(16 << 10).adaptive_window(true);
        }
        let connection = http.serve_connection(stream, service);
        let mut connection = pin!(connection);
        tokio::select! {
            ended = &mut connection => return ended.unwrap_or_else(broke),
            () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await.unwrap_or_else(broke);
    } else {
        // One that joins says a few words, and goes.
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX).keep_alive(visitor != Visitor::Stranger);
        http.serve_connection(stream, service).await.unwrap_or_else(broke);
    }
}

/// The request has come to the port of workers, and is for none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotForWorkers;

/// Who has come to the port of workers, by its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Visitor {
    /// It has none.
    Stranger,
    Worker(NodeId),
    /// Another server of the cluster, with requests of others: it alone says whose.
    Server,
}

impl Visitor {
    /// Says of a request whose it is, and leads it away from where this visitor has no business.
    fn introduces(self, mut request: Request<Incoming>, remote: SocketAddr) -> Request<Incoming> {
        let (node, remote) = match self {
            Self::Stranger => (None, remote),
            Self::Worker(node) => (Some(node), remote),
            Self::Server => {
                let (node, origin) = take_caller(request.headers_mut());
                request.extensions_mut().insert(Forwarded);
                (node, origin.unwrap_or(remote))
            }
        };
        if self != Self::Server && !is_for_workers(request.uri().path(), node.is_some()) {
            // Nothing of the API for users is to be found here.
            *request.uri_mut() = Uri::from_static("/not-for-workers");
            request.extensions_mut().insert(NotForWorkers);
        }
        request.extensions_mut().insert(Remote(remote));
        if let Some(node) = node {
            request.extensions_mut().insert(PeerNode(node));
        }
        request
    }
}

/// Whoever shows no certificate can join, and nothing else.
fn is_for_workers(path: &str, has_certificate: bool) -> bool {
    path == "/v1/join"
        || has_certificate && (path.starts_with("/v1/nodes/") || path.starts_with("/v1/artifacts/"))
}

/// The next connection. An error concerns one connection, or goes away when others end.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((socket, remote)) => {
                if let Err(error) = socket.set_nodelay(true) {
                    debug!("cannot turn off Nagle's algorithm for an API connection: {error}");
                }
                return (socket, remote);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                warn!("cannot take a connection to the API, trying again in {ACCEPT_RETRY:?}: {error}");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::ClientConfig;
    use rustls::pki_types::ServerName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_rustls::TlsConnector;
    use tokio_util::sync::DropGuard;
    use wharf_pki::{Identity, NodeKey, Roots, client_config, joining_config};
    use wharf_types::Timestamp;

    /// The port of workers, with routes that say what they were asked for, and whose certificate was shown.
    struct Door {
        address: SocketAddr,
        authorities: Arc<Authorities>,
        _open: DropGuard,
    }

    impl Door {
        async fn open() -> Self {
            let authorities = Arc::new(Authorities::made());
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let router = Router::new().fallback(async |request: axum::extract::Request| {
                let peer = request.extensions().get::<PeerNode>().map(|PeerNode(node)| node.to_string());
                format!("{} {}", request.uri().path(), peer.unwrap_or_else(|| "nobody".into()))
            });
            let shutdown = CancellationToken::new();
            let brief = Duration::from_millis(500);
            tokio::spawn(serve_workers_within(
                brief,
                listener,
                router,
                authorities.clone(),
                shutdown.clone(),
            ));
            Self { address, authorities, _open: shutdown.drop_guard() }
        }

        fn worker(&self, of: &Authorities, node: NodeId) -> ClientConfig {
            let key = NodeKey::generate().unwrap();
            let (certificate, _) = of.issue(&key.request().unwrap(), node, Timestamp::now()).unwrap();
            let identity = Identity::load(&certificate, &key.to_pem(), "").unwrap();
            let roots = Roots::load(&self.authorities.current().believed).unwrap();
            client_config(&identity, &roots, &[Role::Server]).unwrap()
        }

        /// The whole answer. None: the connection broke before there was one.
        async fn ask(&self, tls: ClientConfig, path: &str) -> Option<String> {
            let socket = TcpStream::connect(self.address).await.unwrap();
            let name = ServerName::try_from("node.wharf").unwrap();
            let mut stream = TlsConnector::from(Arc::new(tls)).connect(name, socket).await.ok()?;
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            Some(answer.rsplit("\r\n").next().unwrap_or_default().to_owned())
        }

        fn joining(&self) -> ClientConfig {
            joining_config(self.authorities.pin()).unwrap()
        }
    }

    #[tokio::test]
    async fn the_workers_port_is_for_workers_and_for_those_who_join() {
        let door = Door::open().await;
        let node = NodeId::new();
        let worker = || door.worker(&door.authorities, node);
        let is = async |tls, path: &str, expected: &str| {
            assert_eq!(door.ask(tls, path).await.as_deref(), Some(expected), "{path}");
        };
        is(door.joining(), "/v1/join", "/v1/join nobody").await;
        for path in ["/v1/nodes/x", "/v1/artifacts/x", "/v1/namespaces", "/metrics", "/v1/join/", "/v1/join2"]
        {
            is(door.joining(), path, "/not-for-workers nobody").await;
        }
        is(worker(), "/v1/nodes/x/reports", &format!("/v1/nodes/x/reports {node}")).await;
        is(worker(), "/v1/artifacts/x", &format!("/v1/artifacts/x {node}")).await;
        is(worker(), "/v1/namespaces", &format!("/not-for-workers {node}")).await;
    }

    #[tokio::test]
    async fn strangers_at_the_workers_port_lose_their_connections_and_disturb_nobody() {
        let door = Door::open().await;
        for said in [&b""[..], b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n", &[0xff; 70_000]] {
            let mut connection = TcpStream::connect(door.address).await.unwrap();
            // What is not TLS may be cut off before all of it has gone.
            let _ = connection.write_all(said).await;
            let mut rest = Vec::new();
            let closed = timeout(Duration::from_secs(10), connection.read_to_end(&mut rest)).await;
            assert!(closed.is_ok(), "the connection is closed");
        }
        let others = Authorities::made();
        let foreign = door.worker(&others, NodeId::new());
        assert_eq!(door.ask(foreign, "/v1/nodes/x").await, None, "a certificate of another cluster");
        assert!(door.ask(door.joining(), "/v1/join").await.is_some());
    }

    #[test]
    fn the_log_says_what_helps_a_node_whose_certificate_has_expired() {
        let failed = |why| refusal(&io::Error::other(rustls::Error::InvalidCertificate(why)));
        assert!(failed(CertificateError::Expired).contains("`wharf node token create --node ID`"));
        assert!(!failed(CertificateError::UnknownIssuer).contains("wharf node"));
        assert!(!refusal(&io::Error::from(io::ErrorKind::UnexpectedEof)).is_empty());
    }

    #[tokio::test]
    async fn a_client_that_does_not_finish_its_head_loses_its_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let brief = Duration::from_millis(50);
        let serving = tokio::spawn(serve_within(brief, listener, Router::new(), shutdown.clone()));
        for begun in ["", "P", "GET / HTTP/1.1\r\nhost: x\r\n"] {
            let mut connection = TcpStream::connect(address).await.unwrap();
            connection.write_all(begun.as_bytes()).await.unwrap();
            let mut rest = Vec::new();
            let closed = timeout(Duration::from_secs(10), connection.read_to_end(&mut rest)).await;
            closed.expect("the connection is closed").unwrap();
        }
        shutdown.cancel();
        timeout(Duration::from_secs(10), serving).await.expect("it ends").unwrap();
    }
}
