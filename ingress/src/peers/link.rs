//! One HTTP/2 connection to a peer, and whether the peer is still at its other end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::client::conn::http2::{Builder, Connection, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wharf_types::NodeId;

use super::gather::Gather;
use super::neighbour::NeighbourBody;
use super::wire::{self, Ask};
use super::{
    CONNECTION_WINDOW_BYTES, FRAME_MAX_BYTES, PeerTls, STREAM_WINDOW_BYTES, STREAMS_MAX, UPGRADE, tunnel,
    upload,
};
use crate::{BoxError, limit};

/// How long a peer may take to accept a connection, and then to make it one of HTTP/2 over TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(400);
/// A connection that was silent for so long is asked whether anybody is there before anything is given to it.
const FRESH: Duration = Duration::from_millis(500);
const FRESH_TIMEOUT: Duration = Duration::from_millis(300);
/// While requests are under way it is asked whenever it was silent for so long.
const CHECK_EVERY: Duration = Duration::from_millis(200);
const CHECK_TIMEOUT: Duration = Duration::from_millis(450);
/// How long a link that nobody uses may outlive those who had it.
const IDLE_LOOK: Duration = Duration::from_secs(2);
/// When a connection is given up, with the requests on it: a ping after each so long, and the wait for its answer. Together they outlast a
/// node's lease, so that requests are not cut because a node stood still for a moment.
const PING_EVERY: Duration = Duration::from_secs(1);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct Link {
    sender: SendRequest<Outgoing>,
    pub(super) address: SocketAddr,
    /// Of the TLS that it was made with.
    pub(super) tls_generation: u64,
    open: AtomicUsize,
    /// When the peer was last heard, in nanoseconds of [`limit::now`].
    heard: AtomicU64,
    /// Whether it takes nothing new.
    retired: AtomicBool,
    /// Whether the peer was asked, and said nothing.
    silent: AtomicBool,
    /// Told when the first request begins.
    in_use: Notify,
    asking: Mutex<()>,
}

pub(super) type Driver = Connection<TokioIo<TlsStream<TcpStream>>, Outgoing, TokioExecutor>;

/// A place on a link, until it is dropped.
#[derive(Debug)]
pub(crate) struct Held(Arc<Link>);

/// The body of whatever is sent to a peer.
pub(super) enum Outgoing {
    Nothing,
    Upload(Gather<upload::Handle>),
    Guest(Gather<NeighbourBody>),
    Tunnel(Gather<tunnel::Outgoing>),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("cannot connect to {0}")]
    Connect(SocketAddr, #[source] io::Error),
    #[error("{0} speaks no version of the protocol between front doors that this one does: {UPGRADE}")]
    Versions(SocketAddr),
    #[error("no answer from {0} within {CONNECT_TIMEOUT:?}")]
    Silent(SocketAddr),
    #[error("{0} has not proved that it is a node of this cluster")]
    Stranger(SocketAddr),
    #[error("{0} is another node, {1}")]
    Other(SocketAddr, NodeId),
    #[error("{0} does not speak HTTP/2")]
    Http(SocketAddr, #[source] hyper::Error),
    #[error("{0} does not answer, or does not take this node for one of its cluster")]
    NotTaken(SocketAddr),
}

impl Link {
    /// Connects to a node, and makes sure that it is the one that was meant.
    pub(super) async fn dial(
        node: NodeId,
        address: SocketAddr,
        tls: &PeerTls,
    ) -> Result<(Arc<Self>, Driver), DialError> {
        let tls_generation = tls.generation.load(Relaxed);
        let silent = |_| DialError::Silent(address);
        let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(address));
        let socket = connecting.await.map_err(silent)?.map_err(|error| DialError::Connect(address, error))?;
        // It fails only where the peer has left, which the handshake finds out.
        let _ = socket.set_nodelay(true);
        let shaking = async {
            let connector = TlsConnector::from(tls.client.load_full());
            let stream = connector.connect((tls.name)(node), socket).await;
            let stream = stream.map_err(|error| match super::is_of_another_version(&error) {
                true => DialError::Versions(address),
                false => DialError::Connect(address, error),
            })?;
            match tls.identify(stream.get_ref().1) {
                None => return Err(DialError::Stranger(address)),
                Some(other) if other != node => return Err(DialError::Other(address, other)),
                Some(_) => {}
            }
            let shaken = http2().handshake(TokioIo::new(stream)).await;
            let (sender, driver) = shaken.map_err(|error| DialError::Http(address, error))?;
            let link = Arc::new(Self {
                sender,
                address,
                tls_generation,
                open: AtomicUsize::new(0),
                heard: AtomicU64::new(limit::now()),
                retired: AtomicBool::new(false),
                silent: AtomicBool::new(false),
                in_use: Notify::new(),
                asking: Mutex::new(()),
            });
            Ok((link, driver))
        };
        timeout(CONNECT_TIMEOUT, shaking).await.map_err(silent)?
    }

    /// Takes a place. None: there is none.
    pub(super) fn hold(self: &Arc<Self>) -> Option<Held> {
        let one_more = |open| (open < STREAMS_MAX).then_some(open + 1);
        let before = self.open.fetch_update(Relaxed, Relaxed, one_more).ok()?;
        if before == 0 {
            self.in_use.notify_one();
        }
        Some(Held(self.clone()))
    }

    pub(super) fn open(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Whether it takes something new.
    pub(super) fn is_usable(&self) -> bool {
        !self.retired.load(Relaxed) && !self.silent.load(Relaxed) && !self.sender.is_closed()
    }

    /// Lets it take nothing new, and end when what is under way has.
    pub(super) fn retire(&self) {
        self.retired.store(true, Relaxed);
        self.in_use.notify_one();
    }

    /// Whether it takes something new, or may again.
    pub(super) fn is_kept(&self) -> bool {
        !self.retired.load(Relaxed) && !self.is_closed()
    }

    fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    fn silent_for(&self) -> Duration {
        Duration::from_nanos(limit::now().saturating_sub(self.heard.load(Relaxed)))
    }

    fn is_heard(&self) {
        self.heard.store(limit::now(), Relaxed);
    }

    /// Whether the peer is there, as far as can be known before something is sent to it. Many who ask at once ask the peer once.
    pub(super) async fn is_fresh(&self) -> bool {
        self.silent_for() < FRESH || self.ask(FRESH, FRESH_TIMEOUT).await
    }

    /// Whether the peer answers now.
    pub(super) async fn is_there(&self) -> bool {
        self.ask(Duration::ZERO, CHECK_TIMEOUT).await
    }

    /// Asks the peer whether it is there, unless it was heard within `recent`.
    async fn ask(&self, recent: Duration, within: Duration) -> bool {
        let asking = async {
            let _one_at_a_time = self.asking.lock().await;
            if self.silent_for() < recent {
                return true;
            }
            let mut request = Request::new(Outgoing::Nothing);
            *request.uri_mut() = Uri::from_static("http://peer.internal/");
            Ask::Probe.write(request.headers_mut());
            let answer = self.sender.clone().send_request(request).await;
            let is_there = answer.is_ok_and(|answer| wire::Verdict::of(answer.headers()).is_none());
            if is_there {
                self.is_heard();
            }
            is_there
        };
        let is_there = timeout(within, asking).await.unwrap_or(false);
        self.silent.store(!is_there, Relaxed);
        is_there
    }

    /// A round of [`watch`]. None: nothing more is to be watched.
    async fn look(&self) -> Option<()> {
        let is_idle = || self.open() == 0 && !self.silent.load(Relaxed);
        if is_idle() && !self.is_over() {
            let _ = timeout(IDLE_LOOK, self.in_use.notified()).await;
        }
        if self.is_over() {
            return None;
        }
        if !is_idle() {
            tokio::time::sleep(CHECK_EVERY).await;
            if !self.is_over() && self.silent_for() >= CHECK_EVERY {
                let is_there = self.ask(CHECK_EVERY, CHECK_TIMEOUT).await;
                if !is_there && self.open() == 0 {
                    self.retire();
                }
            }
        }
        Some(())
    }

    fn is_over(&self) -> bool {
        self.is_closed() || self.retired.load(Relaxed) && self.open() == 0
    }
}

/// Asks the peer while something is under way and nothing comes, and tells `changed` whenever it has fallen silent, or speaks again.
pub(super) async fn watch(link: Weak<Link>, mut changed: impl FnMut(bool)) {
    let mut was_silent = false;
    // In between nobody here keeps the link: it ends when those who use it let go.
    while let Some(link) = link.upgrade() {
        if link.look().await.is_none() {
            return;
        }
        let is_silent = link.silent.load(Relaxed);
        if is_silent != was_silent {
            was_silent = is_silent;
            changed(is_silent);
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("address", &self.address)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

fn http2() -> Builder<TokioExecutor> {
    let mut http2 = Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_MAX_BYTES)
        .max_send_buf_size(STREAM_WINDOW_BYTES as usize)
        // More than a peer sends, so that nothing that it sends is too much.
        .max_header_list_size(wire::FIELDS_MAX_BYTES as u32 * 2)
        .initial_max_send_streams(STREAMS_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        // Clients that leave reset streams, as many as they like. They must not bring down the connection that others use.
        .max_concurrent_reset_streams(8 * STREAMS_MAX)
        .max_local_error_reset_streams(None);
    http2
}

impl Held {
    /// Sends a request. What comes back with an error has not been sent.
    pub(super) async fn send(
        &self,
        request: Request<Outgoing>,
    ) -> Result<http::Response<hyper::body::Incoming>, (hyper::Error, Option<Request<Outgoing>>)> {
        let sent = self.0.sender.clone().try_send_request(request).await;
        match sent {
            Ok(response) => {
                self.0.is_heard();
                Ok(response)
            }
            Err(mut error) => {
                let unsent = error.take_message();
                Err((error.into_error(), unsent))
            }
        }
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.0
    }

    /// Something has come from the peer.
    pub(super) fn is_heard(&self) {
        self.0.is_heard();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Nothing => Poll::Ready(None),
            Self::Upload(body) => Pin::new(body).poll_frame(cx),
            Self::Guest(body) => Pin::new(body).poll_frame(cx),
            Self::Tunnel(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Upload(body) => body.is_end_stream(),
            Self::Guest(body) => body.is_end_stream(),
            Self::Tunnel(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing => SizeHint::with_exact(0),
            Self::Upload(body) => body.size_hint(),
            Self::Guest(body) => body.size_hint(),
            Self::Tunnel(body) => body.size_hint(),
        }
    }
}
