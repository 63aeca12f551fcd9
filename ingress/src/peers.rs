//! The ingresses of other nodes: what an instance elsewhere is asked for goes to the one beside it, over HTTP/2 and TLS.
//!
//! The first ingress settles everything about a request: its route, its client, the limits, the pace and the count. The second one
//! ([`serve`]) hands it to the instance and adds nothing. [`wire`] is what they say to each other beside the request, [`peer`] a node with
//! its connections ([`link`]), [`health`] decides whether it is asked.
//!
//! Two things are told apart. A peer that is *ejected* gets nothing new while others can take it; that follows from less than a second of
//! silence, and one answer undoes it. A connection that is *given up* takes the requests on it along; that takes longer than a node's lease.

mod call;
pub(crate) mod container;
pub(crate) mod content;
pub(crate) mod datagrams;
mod gather;
mod health;
mod link;
pub(crate) mod neighbour;
mod peer;
pub(crate) mod serve;
pub(crate) mod tunnel;
mod upload;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use wharf_types::NodeId;
use wharf_types::figures::PeerFigures;
use wharf_types::route::RouteNode;

pub(crate) use call::{PeerBody, PeerError};
use link::Held;
pub(crate) use peer::Peer;

/// What one side sends of a body before the other has read any of it. A window of a connection is as large as those of all its streams, so
/// that a client which takes nothing, or a guest which reads nothing, holds up nobody else.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;
/// Requests on one connection at once.
const STREAMS_MAX: usize = 512;
/// Bodies are cut into frames of this length, so that a short answer does not wait for long behind a large one.
const FRAME_MAX_BYTES: u32 = 32 * 1024;

/// How the nodes of a cluster know each other.
///
/// A certificate that is there says which node somebody is; what makes one good is up to the verifiers in the configurations.
pub struct PeerTls {
    client: ArcSwap<ClientConfig>,
    server: ArcSwap<ServerConfig>,
    identify: Box<Identify>,
    name: fn(NodeId) -> ServerName<'static>,
    /// Counts the renewals.
    generation: AtomicU64,
}

/// The node that certificates are of, the leaf first.
type Identify = dyn Fn(&[CertificateDer<'_>]) -> Option<NodeId> + Send + Sync;

impl PeerTls {
    /// `server` must demand a certificate of the client. Only TLS 1.3 is spoken, whatever else the configurations allow.
    pub fn new(
        client: Arc<ClientConfig>,
        server: Arc<ServerConfig>,
        identify: impl Fn(&[CertificateDer<'_>]) -> Option<NodeId> + Send + Sync + 'static,
    ) -> Self {
        Self {
            client: ArcSwap::new(client),
            server: ArcSwap::new(server),
            identify: Box::new(identify),
            name: node_name,
            generation: AtomicU64::new(0),
        }
    }

    /// The name that the certificate of a node has to be for. Default: `NODE-ID.node.wharf.internal`.
    pub fn with_names(self, name: fn(NodeId) -> ServerName<'static>) -> Self {
        Self { name, ..self }
    }

    /// From now on connections are made with these. Requests on the connections before end in peace.
    pub fn renew(&self, client: Arc<ClientConfig>, server: Arc<ServerConfig>) {
        self.client.store(client);
        self.server.store(server);
        self.generation.fetch_add(1, Relaxed);
    }

    /// Who is at the other end of a connection. None: somebody without a certificate of this cluster, or with an older TLS.
    fn identify(&self, connection: &rustls::CommonState) -> Option<NodeId> {
        if connection.protocol_version() != Some(rustls::ProtocolVersion::TLSv1_3) {
            return None;
        }
        (self.identify)(connection.peer_certificates()?)
    }
}

/// What to do where two front doors do not understand each other.
const UPGRADE: &str = "upgrade the worker of the older version first";

/// Whether a handshake has failed because the two sides speak no version in common.
fn is_of_another_version(error: &std::io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(
        error,
        Some(
            rustls::Error::NoApplicationProtocol
                | rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)
        )
    )
}

fn node_name(node: NodeId) -> ServerName<'static> {
    ServerName::try_from(format!("{node}.node.wharf.internal")).expect("an id is a label of a hostname")
}

impl fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerTls").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// What became of what was sent to peers, and came from them.
#[derive(Debug, Default)]
pub(crate) struct PeerStats {
    pub(crate) requests: AtomicU64,
    /// No connection, so that another instance could be asked.
    pub(crate) unreachable: AtomicU64,
    /// Given to the peer, and no answer came.
    pub(crate) lost: AtomicU64,
    /// Asked of another instance after a peer had not taken it.
    pub(crate) retried: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) ejections: AtomicU64,
    /// From peers.
    pub(crate) served: AtomicU64,
    /// Datagrams for which there was no room.
    pub(crate) datagrams_dropped: AtomicU64,
    pub(crate) open: AtomicU64,
    pub(crate) ejected: AtomicU64,
}

impl PeerStats {
    pub(crate) fn figures(&self) -> PeerFigures {
        PeerFigures {
            open_connections: self.open.load(Relaxed),
            ejected: self.ejected.load(Relaxed),
            connections: self.connections.load(Relaxed),
            ejections: self.ejections.load(Relaxed),
            requests: self.requests.load(Relaxed),
            unreachable: self.unreachable.load(Relaxed),
            lost: self.lost.load(Relaxed),
            retried: self.retried.load(Relaxed),
            served: self.served.load(Relaxed),
            datagrams_dropped: self.datagrams_dropped.load(Relaxed),
        }
    }
}

/// The peers of the newest route table. Without TLS there are none, whatever the table says.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    tls: Option<Arc<PeerTls>>,
    stats: Arc<PeerStats>,
    known: Arc<BTreeMap<NodeId, Arc<Peer>>>,
}

impl Peers {
    pub(crate) fn new(tls: Option<Arc<PeerTls>>, stats: Arc<PeerStats>) -> Self {
        Self { tls, stats, known: Arc::default() }
    }

    /// Makes them those of a table, but for the node itself. One that stays keeps its connections.
    pub(crate) fn follow(&mut self, nodes: &[RouteNode], this: NodeId) {
        let Some(tls) = &self.tls else { return };
        let mut known = BTreeMap::new();
        for RouteNode { node, address } in nodes.iter().filter(|it| it.node != this) {
            let peer = match self.known.get(node) {
                Some(peer) => peer.clone(),
                None => Arc::new(Peer::new(*node, *address, tls.clone(), self.stats.clone())),
            };
            peer.moved_to(*address);
            known.insert(*node, peer);
        }
        self.known = Arc::new(known);
    }

    /// All of them, as they are now.
    pub(crate) fn all(&self) -> Arc<BTreeMap<NodeId, Arc<Peer>>> {
        self.known.clone()
    }

    pub(crate) fn get(&self, node: NodeId) -> Option<&Arc<Peer>> {
        self.known.get(&node)
    }
}

/// For tests that connect to nobody.
#[cfg(test)]
pub(crate) fn nobodys_tls() -> Arc<PeerTls> {
    #[derive(Debug)]
    struct NoCertificate;
    impl rustls::server::ResolvesServerCert for NoCertificate {
        fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
            None
        }
    }
    let client = ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty());
    let server = ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(NoCertificate));
    Arc::new(PeerTls::new(Arc::new(client.with_no_client_auth()), Arc::new(server), |_| None))
}
