//! Connections of guests: resolved, checked, made, counted.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use nix::sys::resource::{Resource, getrlimit};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use wasmtime_wasi_http::Error;
use wharf_types::figures::Share;
use wharf_types::spec::OutboundScheme;

use super::egress::{Pace, Payer};
use super::home::Home;
use super::policy::Policy;
use super::shares::{Places, Shares, Taken};

/// How long connecting may take, the wait for a place among the connections included.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Connections of one release's guests, also those that wait to be used again.
const RELEASE_CONNECTIONS_MAX: usize = 256;
/// Connections of all guests of this process, where it has file handles in plenty.
const PROCESS_CONNECTIONS_MAX: usize = 4096;

static PROCESS_PLACES_MAX: LazyLock<usize> = LazyLock::new(|| {
    let file_handles_max = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    process_connections_within(file_handles_max)
});

static PROCESS_PLACES: LazyLock<Arc<Semaphore>> =
    LazyLock::new(|| Arc::new(Semaphore::new(*PROCESS_PLACES_MAX)));

/// Connections of all guests of this process.
pub(in super::super) fn connections() -> Share {
    let max = *PROCESS_PLACES_MAX;
    let used = max.saturating_sub(PROCESS_PLACES.available_permits());
    Share { used: used as u64, max: max as u64 }
}

/// The connections of all guests of this process, for those who share them.
pub(super) fn shares() -> Shares {
    Shares::new(RELEASE_CONNECTIONS_MAX, *PROCESS_PLACES_MAX, PROCESS_PLACES.clone())
}

/// The same of somebody who shares them with no other namespace.
pub(super) fn places() -> Places {
    Places::alone(RELEASE_CONNECTIONS_MAX, PROCESS_PLACES.clone())
}

/// An eighth of the file handles: the front door has most of them, and the worker itself needs some.
fn process_connections_within(file_handles_max: u64) -> usize {
    usize::try_from(file_handles_max / 8).unwrap_or(usize::MAX).clamp(1, PROCESS_CONNECTIONS_MAX)
}

tokio::task_local! {
    /// How long the request that is polled wants to wait for a connection. The client between it and the connector has no
    /// way to tell.
    pub(super) static CONNECT_TIMEOUT: Duration;
}

/// Why no connection came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("the name resolves to addresses that no grant permits")]
    Denied,
    #[error("the name does not resolve")]
    Resolve,
    #[error("no address accepted the connection")]
    Refused,
    #[error("no way leads to the address")]
    Unroutable,
    #[error("connecting took too long")]
    Timeout,
    #[error("there are as many connections as there may be")]
    TooMany,
    #[error("the worker is stopping")]
    Stopping,
}

impl ConnectError {
    fn of_connecting(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => Self::Unroutable,
            io::ErrorKind::TimedOut => Self::Timeout,
            _ => Self::Refused,
        }
    }

    /// The same in the words of `wasi:http`.
    pub(super) fn code(self) -> Error {
        match self {
            Self::Denied => Error::DestinationIpProhibited,
            // The system's resolver does not say what the name server answered.
            Self::Resolve => Error::DnsError { rcode: None, info_code: None },
            Self::Refused => Error::ConnectionRefused,
            Self::Unroutable => Error::DestinationIpUnroutable,
            Self::Timeout => Error::ConnectionTimeout,
            Self::TooMany => Error::ConnectionLimitReached,
            Self::Stopping => Error::ConnectionTerminated,
        }
    }
}

/// Resolves, checks, connects: in that order, so that what was checked is what is connected to.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    policy: Arc<Policy>,
    home: Home,
    payer: Option<Payer>,
    places: Places,
}

impl Connector {
    pub(super) fn new(policy: Arc<Policy>, home: Home, payer: Option<Payer>, places: Places) -> Self {
        Self { policy, home, payer, places }
    }

    async fn connect(self, uri: Uri, within: Duration) -> Result<GuestStream, ConnectError> {
        let deadline = tokio::time::Instant::now() + within;
        // Waiting, because a pooled connection may be dropped, or come free for this very request.
        let place = tokio::time::timeout_at(deadline, self.places.take()).await;
        let place = place.map_err(|_| ConnectError::TooMany)?.map_err(|_| ConnectError::Stopping)?;
        let stream = tokio::time::timeout_at(deadline, connect(&self.policy, &uri))
            .await
            .map_err(|_| ConnectError::Timeout)??;
        let pace = Pace::new(self.payer, self.home);
        Ok(GuestStream { stream: TokioIo::new(stream), pace, _place: place })
    }
}

impl tower::Service<Uri> for Connector {
    type Response = GuestStream;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<GuestStream, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let within = CONNECT_TIMEOUT.try_get().unwrap_or(CONNECT_MAX);
        // At home, because a socket belongs to the runtime that makes it.
        let connecting = self.home.spawn(self.clone().connect(uri, within));
        Box::pin(async move { connecting.await.unwrap_or(Err(ConnectError::Stopping)) })
    }
}

/// The same with TLS where the scheme asks for it. The whole may take twice the time of connecting: a handshake that never ends, because
/// the other side says nothing or nothing may be sent, would keep its places.
#[derive(Clone)]
pub(super) struct SecureConnector {
    inner: HttpsConnector<Connector>,
    home: Home,
}

impl SecureConnector {
    pub(super) fn new(inner: HttpsConnector<Connector>, home: Home) -> Self {
        Self { inner, home }
    }
}

impl tower::Service<Uri> for SecureConnector {
    type Response = MaybeHttpsStream<GuestStream>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        tower::Service::<Uri>::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let within = CONNECT_TIMEOUT.try_get().unwrap_or(CONNECT_MAX) * 2;
        // At home, where the client goes on with it when another connection came free for the request, also after the guest's lane is gone.
        let too_late = self.home.spawn(async move { tokio::time::sleep(within).await });
        let connecting = tower::Service::call(&mut self.inner, uri);
        Box::pin(async move {
            tokio::select! {
                biased;
                connected = connecting => connected,
                _ = too_late => Err(ConnectError::Timeout.into()),
            }
        })
    }
}

async fn connect(policy: &Policy, uri: &Uri) -> Result<TcpStream, ConnectError> {
    let (scheme, default_port) = match uri.scheme_str() {
        Some("https") => (OutboundScheme::Https, 443),
        _ => (OutboundScheme::Http, 80),
    };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(default_port);
    let mut refusal = ConnectError::Resolve;
    let addresses = policy.names.resolve(host, port).await.map_err(|_| ConnectError::Resolve)?;
    for address in addresses {
        match connect_to(policy, scheme, address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

async fn connect_to(
    policy: &Policy,
    scheme: OutboundScheme,
    address: SocketAddr,
) -> Result<TcpStream, ConnectError> {
    if !policy.permits_address(scheme, address) {
        return Err(ConnectError::Denied);
    }
    let stream = TcpStream::connect(address).await.map_err(|error| ConnectError::of_connecting(&error))?;
    // Without it, small writes wait up to 40 ms for the peer's delayed acknowledgement. It is not fatal.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

/// A connection with its place, which comes free when it is closed. Octets leave at the pace of its namespace.
pub(super) struct GuestStream {
    stream: TokioIo<TcpStream>,
    pace: Pace,
    _place: Taken,
}

impl Connection for GuestStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for GuestStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for GuestStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.pace.poll_ready(cx))?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.pace.took(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.pace.poll_ready(cx))?;
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        self.pace.took(written);
        Poll::Ready(Ok(written))
    }
}

#[cfg(test)]
mod tests {
    use tower::Service as _;

    use super::*;

    /// A listener that nobody accepts from, and a connector that may reach it and has so many places.
    async fn connector(places: usize) -> (tokio::net::TcpListener, Uri, Connector) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}", listener.local_addr().unwrap());
        let policy = Arc::new(Policy::new(std::slice::from_ref(&uri)));
        let places = Places::alone(places, PROCESS_PLACES.clone());
        (listener, uri.parse().unwrap(), Connector::new(policy, Home::here(), None, places))
    }

    #[test]
    fn guests_leave_most_file_handles_to_others() {
        assert_eq!(process_connections_within(1024), 128);
        assert_eq!(process_connections_within(u64::MAX), PROCESS_CONNECTIONS_MAX);
    }

    #[tokio::test]
    async fn one_connection_too_many_waits_for_a_place_and_then_fails() {
        let (_listener, uri, mut connector) = connector(1).await;
        let first = connector.call(uri.clone()).await.unwrap();
        let soon = Duration::from_millis(20);
        let refused = CONNECT_TIMEOUT.scope(soon, async { connector.call(uri.clone()).await }).await;
        assert_eq!(refused.err(), Some(ConnectError::TooMany));
        let waits = connector.call(uri);
        drop(first);
        assert!(waits.await.is_ok());
    }

    #[tokio::test]
    async fn an_address_without_a_grant_is_not_connected_to() {
        let (listener, _, _) = connector(1).await;
        let uri: Uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let policy = Arc::new(Policy::new(&["http://*".to_owned()]));
        let mut connector = Connector::new(policy, Home::here(), None, places());
        assert_eq!(connector.call(uri).await.err(), Some(ConnectError::Denied));
    }
}
