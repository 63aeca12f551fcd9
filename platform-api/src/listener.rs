//! Serves the API on its socket: takes connections, as many as there are places, and waits for none of them without a limit.
//!
//! HTTP/1.1 only: its one deadline for a request's head covers a connection from its first octet on, also while nothing comes.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::{Request, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
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

use crate::api::{PeerNode, Remote};
use crate::authority::Authorities;

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
    let open = GracefulShutdown::new();
    loop {
        let accepting = async {
            let place = places.clone().acquire_owned().await;
            (accept(&listener).await, place)
        };
        let (socket, place) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accepting => accepted,
        };
        let (socket, remote) = socket;
        let service = router.clone().map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Remote(remote));
            request
        });
        let service = TowerToHyperService::new(service);
        let connection = open.watch(http.serve_connection(TokioIo::new(socket), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!("a connection to the API broke: {error}");
            }
            drop(place);
        });
    }
    drop(listener);
    open.shutdown().await;
}

/// How long the handshake of TLS may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Requests of one worker at once.
const STREAMS_MAX: u32 = 256;
/// A worker that does not answer a ping within this, after so long without a word, is gone.
const PING: Duration = Duration::from_secs(2);

/// Serves workers over TLS, and hosts that join, until `shutdown`. A worker is known by its certificate.
pub(crate) async fn serve_workers(
    listener: TcpListener,
    router: Router,
    authorities: Arc<Authorities>,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(WORKER_CONNECTIONS_MAX));
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
        open.spawn(async move {
            let handshake = TlsAcceptor::from(tls).accept(socket);
            match timeout(HANDSHAKE_MAX, handshake).await {
                Ok(Ok(stream)) => serve_worker(stream, remote, router, shutdown).await,
                Ok(Err(error)) => warn!("{remote} was refused as a worker: {error}"),
                Err(_) => debug!("{remote} did not finish its handshake"),
            }
            drop(place);
        });
    }
    while open.join_next().await.is_some() {}
}

async fn serve_worker(
    stream: TlsStream<TcpStream>,
    remote: SocketAddr,
    router: Router,
    shutdown: CancellationToken,
) {
    let (_, tls) = stream.get_ref();
    let peer = match tls.peer_certificates().map(wharf_pki::peer_of) {
        None => None,
        Some(Some(peer)) if peer.role == Role::Worker => Some(PeerNode(peer.node)),
        Some(_) => return warn!("{remote} was refused as a worker: its certificate is not that of a worker"),
    };
    let speaks_http2 = tls.alpn_protocol() == Some(b"h2");
    let service = router.map_request(move |mut request: Request<Incoming>| {
        if !is_for_workers(request.uri().path(), peer.is_some()) {
            // Nothing of the API for users is to be found here.
            *request.uri_mut() = Uri::from_static("/not-for-workers");
        }
        request.extensions_mut().insert(Remote(remote));
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        request
    });
    let (service, stream) = (TowerToHyperService::new(service), TokioIo::new(stream));
    let broke = |error: hyper::Error| debug!("the connection of a worker at {remote} broke: {error}");
    if speaks_http2 {
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(16 << 10)
            .adaptive_window(true);
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
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX).keep_alive(peer.is_some());
        http.serve_connection(stream, service).await.unwrap_or_else(broke);
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
