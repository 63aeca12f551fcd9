//! The listener for peers: their requests and connections go to the instances of this node.
//!
//! Who they are for, which client they are of and what they may cost was settled where they came in. So nothing is routed, limited or
//! counted here a second time, but for what an instance has to do at the moment. A peer is trusted to say who its client is, and with nothing
//! else: whatever it sends or leaves out, it disturbs only its own requests.

mod answer;
mod exchange;

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use http::header::UPGRADE as UPGRADE_FIELD;
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncWriteExt as _, copy_bidirectional_with_sizes};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wharf_types::seldom::Seldom;
use wharf_types::{Digest, InstanceId, NodeId};

use super::gather::Gather;
use super::tunnel::{self, Tunnel};
use super::wire::{self, Ask, Verdict};
use super::{CONNECTION_WINDOW_BYTES, FRAME_MAX_BYTES, PeerTls, STREAM_WINDOW_BYTES, STREAMS_MAX, UPGRADE};
use crate::BoxError;
use crate::accept;
use crate::call::{CallError, LocalCall};
use crate::proxy::Shared;
use crate::request_body::RequestBody;
use crate::router::{OpenAt, OpenConnection, TcpRefused};
use crate::serve::StreamExecutor;
use crate::stats::add_one;
use crate::tcp::TcpPlace;
use crate::tcp::splice::{self, GONE_GRACE};
use crate::upgrade::Upgraded;
use answer::{ServeBody, fits, hand_on, refused, says, too_large};

/// How long somebody who connects may take to prove that he is a node of the cluster,
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
/// and how many may be at it.
const HANDSHAKES_MAX: usize = 256;
/// Artifacts that are given to others at the same time. Requests come first on the connections that they take.
pub(crate) const ARTIFACTS_MAX: usize = 8;
/// How long one who asked for an artifact may take nothing of it.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// Connections of one node.
const CONNECTIONS_MAX: usize = 64;
/// A connection takes nothing new after this time, so that a node which must not come in any more has to prove itself again.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(60 * 60);
/// How soon a node that was removed loses the connections that it has.
const REMOVED_LOOK: Duration = Duration::from_secs(1);
/// How often the log says of somebody who is refused that it comes again.
const REFUSED_EVERY: Duration = Duration::from_secs(60);
/// When a node that says nothing is given up, with its requests: its clients have gone with it.
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// What a listener for peers needs.
#[derive(Clone)]
pub(crate) struct PeerDoor<S> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) tls: Arc<PeerTls>,
    pub(crate) service: S,
    /// Connections and streams.
    pub(crate) serving: TaskTracker,
    /// Nothing new comes in from here on.
    pub(crate) stop: CancellationToken,
    /// Ends everything that is left.
    pub(crate) cut: CancellationToken,
    pub(crate) open: Arc<OpenByNode>,
    /// What the log has said lately.
    pub(crate) refusals: Arc<Refusals>,
    /// Places for connections to TCP ports, of all peers.
    pub(crate) tunnels: Arc<Semaphore>,
    /// The same for connections to ports of containers, by name.
    pub(crate) by_name: Arc<Semaphore>,
    /// Places for artifacts.
    pub(crate) artifacts: Arc<Semaphore>,
}

/// Who is refused, which is said once in a while: whoever is comes again, and strangers as often as they like.
pub(crate) struct Refusals(Seldom<Refused>);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Refused {
    OtherVersion(IpAddr),
    Stranger(IpAddr),
    Removed(NodeId),
    /// Of a node that was removed while it had connections.
    Cut(NodeId),
    /// A node with as many connections as it may have.
    Full(NodeId),
}

impl Default for Refusals {
    fn default() -> Self {
        Self(Seldom::new(REFUSED_EVERY))
    }
}

/// How many connections each node has.
#[derive(Debug, Default)]
pub(crate) struct OpenByNode(Mutex<HashMap<NodeId, usize>>);

/// A connection of a node, which counts until this is dropped.
struct OpenPeer {
    node: NodeId,
    open: Arc<OpenByNode>,
}

impl OpenByNode {
    /// None: the node has as many as it may.
    fn take(self: &Arc<Self>, node: NodeId) -> Option<OpenPeer> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(node).or_default();
        if *count >= CONNECTIONS_MAX {
            return None;
        }
        *count += 1;
        Some(OpenPeer { node, open: self.clone() })
    }
}

impl Drop for OpenPeer {
    fn drop(&mut self) {
        let mut open = self.open.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.node) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.node);
            }
        }
    }
}

impl<S, B> PeerDoor<S>
where
    S: tower::Service<LocalCall, Response = Response<B>, Error = CallError> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    pub(crate) async fn run(self, listener: TcpListener) {
        let stop = self.stop.clone();
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        loop {
            let (socket, remote) = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = accept::accept(&listener, &self.shared.stats) => accepted,
            };
            let Ok(permit) = handshakes.clone().try_acquire_owned() else { continue };
            let _ = socket.set_nodelay(true);
            self.serving.spawn(self.clone().serve(socket, remote, permit, stop.clone()));
        }
    }

    async fn serve(
        self,
        socket: TcpStream,
        remote: SocketAddr,
        shaking: OwnedSemaphorePermit,
        stop: CancellationToken,
    ) {
        let acceptor = TlsAcceptor::from(self.tls.server.load_full());
        let shaken = tokio::select! {
            shaken = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket)) => shaken,
            () = stop.cancelled() => return,
        };
        if let Ok(Err(error)) = &shaken
            && super::is_of_another_version(error)
        {
            if let Some(more) = self.refusals.0.say(Refused::OtherVersion(remote.ip())) {
                tracing::warn!(
                    "{remote} speaks no version of the protocol between front doors that this one does: {UPGRADE}{more}"
                );
            }
            return;
        }
        let Ok(Ok(stream)) = shaken else {
            tracing::debug!("{remote} has not proved in time that it is a node of this cluster");
            return;
        };
        let Some(node) = self.tls.identify(stream.get_ref().1) else {
            if let Some(more) = self.refusals.0.say(Refused::Stranger(remote.ip())) {
                tracing::warn!("{remote} is not a node of this cluster; its connection is closed{more}");
            }
            return;
        };
        if self.shared.table.load().has_removed(node) {
            if let Some(more) = self.refusals.0.say(Refused::Removed(node)) {
                tracing::warn!(
                    node.id = %node,
                    "node {node} was taken out of the cluster; its connection from {remote} is closed. Stop its worker, which still runs{more}"
                );
            }
            return;
        }
        drop(shaking);
        let Some(open) = self.open.take(node) else {
            if let Some(more) = self.refusals.0.say(Refused::Full(node)) {
                tracing::warn!(node.id = %node, "node {node} has {CONNECTIONS_MAX} connections; one more is closed{more}");
            }
            return;
        };
        let (door, cut) = (self.clone(), self.cut.clone());
        let answer = service_fn(move |request| door.clone().answer(request));
        let mut http = pin!(http2(self.serving.clone()).serve_connection(TokioIo::new(stream), answer));
        let ended = tokio::select! {
            ended = http.as_mut() => ended,
            () = stop.cancelled() => finish(http, &cut).await,
            () = tokio::time::sleep(CONNECTION_AGE_MAX) => {
                // What may last for days on it, such as a WebSocket, keeps the node from no other connection.
                drop(open);
                tokio::select! {
                    ended = finish(http, &cut) => ended,
                    () = is_removed(self.shared.clone(), node) => return,
                }
            }
            // With all that is on it: who was removed gets nothing more.
            () = is_removed(self.shared.clone(), node) => {
                if let Some(more) = self.refusals.0.say(Refused::Cut(node)) {
                    tracing::warn!(node.id = %node, "node {node} was taken out of the cluster; its connections are cut{more}");
                }
                return;
            }
        };
        if let Err(error) = ended {
            tracing::debug!(node.id = %node, "a connection of node {node} ended: {error}");
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<ServeBody<B>>, Infallible> {
        let (mut parts, body) = request.into_parts();
        let is_whole = parts.uri.authority().is_some() && parts.uri.path_and_query().is_some_and(is_path);
        let speaks = self.shared.config.speaks;
        let response = match Ask::take(&mut parts.headers).filter(|ask| speaks.knows(ask.since())) {
            Some(Ask::Probe) => Response::new(ServeBody::Nothing),
            Some(Ask::Artifact { digest, key }) => self.give(digest, key).await,
            Some(Ask::Request { instance, client }) if is_whole => {
                let request = Request::from_parts(parts, RequestBody::of_peer(body));
                self.call(LocalCall { instance, request, remote: client }).await
            }
            Some(Ask::Connection { instance, port, client }) => self.join(instance, port, client, body).await,
            Some(Ask::Container { instance, port }) => self.join_container(instance, port, body).await,
            Some(Ask::Datagrams { instance, port }) => self.exchange(instance, port, body).await,
            Some(Ask::Upgrade { instance, protocol, client }) if is_whole => {
                let mut request = Request::from_parts(parts, RequestBody::nothing());
                request.extensions_mut().insert(Protocol::from(&protocol[..]));
                self.take_over(LocalCall { instance, request, remote: client }, body).await
            }
            Some(Ask::Request { .. } | Ask::Upgrade { .. }) | None => {
                says(Verdict::Malformed, "the request makes no sense")
            }
        };
        Ok(response)
    }

    async fn call(mut self, call: LocalCall) -> Response<ServeBody<B>> {
        match self.ask(call).await {
            Ok((open, answer)) => hand_on(open, answer),
            Err(refused) => *refused,
        }
    }

    /// Lets an instance go over to another protocol; `body` and that of the answer are what follows. An answer that does not is handed on.
    async fn take_over(mut self, call: LocalCall, body: Incoming) -> Response<ServeBody<B>> {
        let (open, mut answer) = match self.ask(call).await {
            Ok(answered) => answered,
            Err(refused) => return *refused,
        };
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return hand_on(open, answer);
        }
        let instance = answer.extensions_mut().remove::<Upgraded>().and_then(Upgraded::take);
        let (mut parts, _) = answer.into_parts();
        let mut protocols = parts.headers.get_all(UPGRADE_FIELD).iter().cloned();
        let (Some(instance), Some(protocol), None) = (instance, protocols.next(), protocols.next()) else {
            return says(
                Verdict::Failed,
                "its answer 101 does not say in one `Upgrade` header what it went over to",
            );
        };
        crate::headers::strip_response(&mut parts.headers);
        wire::write_upgraded(&mut parts.headers, protocol);
        if !fits(&parts.headers) {
            return too_large();
        }
        parts.status = StatusCode::OK;
        let (writer, outgoing) = tunnel::outgoing();
        self.serving.spawn(instance.join(Tunnel::new(body, writer, None), open, self.cut));
        Response::from_parts(parts, ServeBody::Connection { body: Gather::new(outgoing) })
    }

    /// Asks an instance. Its answer comes with the count of what is open there.
    async fn ask(
        &mut self,
        call: LocalCall,
    ) -> Result<(Option<OpenAt>, Response<B>), Box<Response<ServeBody<B>>>> {
        add_one(&self.shared.stats.peers.served);
        if let Err(error) = std::future::poll_fn(|cx| self.service.poll_ready(cx)).await {
            return Err(Box::new(refused(error)));
        }
        // The instance knows of the request when the table is let go of: see `proxy::answer`.
        let (open, answer) = {
            let table = self.shared.table.load();
            (table.open_here(call.instance), self.service.call(call))
        };
        // A task that dies would look like a client that has left.
        match AssertUnwindSafe(answer).catch_unwind().await {
            Ok(Ok(response)) => Ok((open, response)),
            Ok(Err(error)) => Err(Box::new(refused(error))),
            Err(_) => Err(Box::new(says(Verdict::Failed, "the node has failed at the request"))),
        }
    }

    /// Whoever asks for what is not here learns no more than who may not have it.
    async fn give(self, digest: Digest, key: String) -> Response<ServeBody<B>> {
        let Some(artifacts) = &self.shared.config.artifacts else { return says(Verdict::NotHere, "") };
        let Ok(permit) = self.artifacts.clone().try_acquire_owned() else {
            return says(Verdict::NotTaken, "its node gives as many artifacts as it can at the moment");
        };
        let Some((bytes, mut from)) = artifacts.give(digest, key).await else {
            return says(Verdict::NotHere, "");
        };
        let (to, chunks) = mpsc::channel(1);
        // Nobody asks a body for more while its reader takes nothing, so it is here that the time runs out.
        tokio::spawn(async move {
            let _permit = permit;
            while let Some(chunk) = from.next().await {
                match to.send_timeout(chunk, TAKEN_WITHIN).await {
                    Ok(()) => {}
                    Err(_) => break,
                }
            }
        });
        Response::new(ServeBody::Artifact { chunks, bytes })
    }

    /// Joins the bodies of a request and its answer to an instance that listens.
    async fn join(
        self,
        instance: InstanceId,
        port: u16,
        client: SocketAddr,
        body: Incoming,
    ) -> Response<ServeBody<B>> {
        add_one(&self.shared.stats.peers.served);
        let Ok(permit) = self.tunnels.clone().try_acquire_owned() else {
            return says(Verdict::NotTaken, "its node has as many TCP connections as it can take");
        };
        let (open, place) = {
            let table = self.shared.table.load();
            let open = match table.tcp(port).map(|route| route.admit_at(instance)) {
                None | Some(Err(TcpRefused::NoneReady)) => None,
                Some(Err(TcpRefused::Full)) => return says(Verdict::Busy, ""),
                Some(Ok(open)) => Some(open),
            };
            (open, self.shared.config.tcp.places.admit(instance, port))
        };
        let Some(place) = place else { return says(Verdict::NotHere, "") };
        tracing::debug!("joining {client} to port {port} of {instance}");
        self.splice(place, open, permit, body).await
    }

    /// The same to any port of a container: what it may cost, and whether it may be, was settled by the node that asks.
    async fn join_container(self, instance: InstanceId, port: u16, body: Incoming) -> Response<ServeBody<B>> {
        add_one(&self.shared.stats.peers.served);
        let Ok(permit) = self.by_name.clone().try_acquire_owned() else {
            return says(Verdict::NotTaken, "its node has as many connections by name as it can take");
        };
        let Some(place) = self.shared.config.tcp.places.admit_by_name(instance, port) else {
            return says(Verdict::NotHere, "");
        };
        // Containers go on when this process ends, so nobody would end such a connection before.
        let place = TcpPlace { cut: self.stop.clone(), ..place };
        self.splice(place, None, permit, body).await
    }

    async fn splice(
        self,
        place: TcpPlace,
        open: Option<OpenConnection>,
        permit: OwnedSemaphorePermit,
        body: Incoming,
    ) -> Response<ServeBody<B>> {
        let guest = match splice::connect(place.address).await {
            Ok(guest) => guest,
            Err(why) => return says(Verdict::NotTaken, &why),
        };
        let (writer, outgoing) = tunnel::outgoing();
        let joined =
            Joined { tunnel: Tunnel::new(body, writer, None), guest, place, _open: open, _permit: permit };
        self.serving.spawn(joined.pass(self.cut.clone()));
        Response::new(ServeBody::Connection { body: Gather::new(outgoing) })
    }
}

/// Returns when a node was taken out of the cluster.
async fn is_removed(shared: Arc<Shared>, node: NodeId) {
    while !shared.table.load().has_removed(node) {
        tokio::time::sleep(REMOVED_LOOK).await;
    }
}

/// A connection of a client elsewhere, and the guest that has taken it.
struct Joined {
    tunnel: Tunnel,
    guest: TcpStream,
    place: TcpPlace,
    _open: Option<OpenConnection>,
    _permit: OwnedSemaphorePermit,
}

impl Joined {
    async fn pass(mut self, end: CancellationToken) {
        let (cut, gone) = (self.place.cut.clone(), self.place.gone.clone());
        let let_go = self.tunnel.let_go();
        let size = FRAME_MAX_BYTES as usize;
        let is_whole = tokio::select! {
            copied = copy_bidirectional_with_sizes(&mut self.tunnel, &mut self.guest, size, size) => copied.is_ok(),
            () = let_go.cancelled() => false,
            () = end.cancelled() => false,
            () = cut.cancelled() => false,
            () = async { gone.cancelled().await; tokio::time::sleep(GONE_GRACE).await } => false,
        };
        if is_whole {
            // Both directions have been told already.
            let _ = self.tunnel.shutdown().await;
        } else {
            let _ = self.guest.set_zero_linger();
        }
    }
}

/// Takes nothing new, and ends when the rest has, or is cut.
async fn finish<C: hyper_util::server::graceful::GracefulConnection>(
    mut http: Pin<&mut C>,
    cut: &CancellationToken,
) -> Result<(), C::Error> {
    http.as_mut().graceful_shutdown();
    tokio::select! {
        ended = http => ended,
        () = cut.cancelled() => Ok(()),
    }
}

fn http2(serving: TaskTracker) -> http2::Builder<StreamExecutor> {
    let mut http2 = http2::Builder::new(StreamExecutor(serving));
    http2
        .timer(TokioTimer::new())
        // Beside requests there are probes.
        .max_concurrent_streams(2 * STREAMS_MAX as u32)
        .max_header_list_size(wire::FIELDS_MAX_BYTES as u32 * 2)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_MAX_BYTES)
        .max_send_buf_size(STREAM_WINDOW_BYTES as usize)
        .auto_date_header(false)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        // Resets come from clients of the peer, who must not bring down the connection of all of them.
        .max_pending_accept_reset_streams(2 * STREAMS_MAX)
        .max_local_error_reset_streams(None);
    http2
}

fn is_path(target: &PathAndQuery) -> bool {
    target.as_str().starts_with('/')
}
