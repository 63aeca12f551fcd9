//! Several hosts in one process, which meet over real sockets and TLS, and walls between them that let nothing through.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use wharf_ingress::{Config, Ingress, IngressError, IngressHandle, PeerTls};
use wharf_types::figures::PeerFigures;
use wharf_types::route::{Endpoint, Route, RouteNode, RouteTable, TcpEndpoint, TcpRoute};
use wharf_types::{InstanceId, NodeId};

use crate::fixture::{Guest, GuestService, Reply, read_reply, within};

/// Who may be a node.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    roots: Arc<RootCertStore>,
    /// Whose the certificates are.
    nodes: Arc<Mutex<HashMap<Vec<u8>, NodeId>>>,
    /// Whether the certificates of all nodes are good for the name that is asked for.
    has_common_name: bool,
}

/// A certificate with its key.
pub(crate) type Identity = (CertificateDer<'static>, PrivateKeyDer<'static>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(issuer.der().clone()).unwrap();
        Self { issuer, roots: Arc::new(roots), nodes: Arc::default(), has_common_name: false }
    }

    pub(crate) fn identity(&self, node: NodeId) -> Identity {
        let key = KeyPair::generate().unwrap();
        let names = vec![format!("{node}.node.wharf.internal"), "any.wharf.internal".to_owned()];
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        self.nodes.lock().unwrap().insert(certificate.der().to_vec(), node);
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    pub(crate) fn client(&self, (certificate, key): &Identity) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder().with_root_certificates(self.roots.clone());
        Arc::new(builder.with_client_auth_cert(vec![certificate.clone()], key.clone_key()).unwrap())
    }

    pub(crate) fn server(&self, (certificate, key): &Identity) -> Arc<ServerConfig> {
        let verifier = rustls::server::WebPkiClientVerifier::builder(self.roots.clone()).build().unwrap();
        let builder = ServerConfig::builder().with_client_cert_verifier(verifier);
        Arc::new(builder.with_single_cert(vec![certificate.clone()], key.clone_key()).unwrap())
    }

    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        self.roots.clone()
    }

    /// It is nobody's any more.
    pub(crate) fn forget(&self, (certificate, _): &Identity) {
        self.nodes.lock().unwrap().remove(certificate.as_ref());
    }

    pub(crate) fn anonymous(&self) -> Arc<ClientConfig> {
        Arc::new(ClientConfig::builder().with_root_certificates(self.roots.clone()).with_no_client_auth())
    }

    pub(crate) fn tls(&self, identity: &Identity) -> PeerTls {
        let nodes = self.nodes.clone();
        let tls = PeerTls::new(self.client(identity), self.server(identity), move |chain| {
            nodes.lock().unwrap().get(chain.first()?.as_ref()).copied()
        });
        match self.has_common_name {
            true => tls.with_names(|_| "any.wharf.internal".try_into().unwrap()),
            false => tls,
        }
    }
}

/// One node.
pub(crate) struct Host {
    pub(crate) node: NodeId,
    pub(crate) guest: Arc<Guest>,
    pub(crate) ingress: IngressHandle,
    pub(crate) tls: Arc<PeerTls>,
    /// Where clients come in, and where peers do.
    pub(crate) address: SocketAddr,
    pub(crate) peer_address: SocketAddr,
    pub(crate) errors: Arc<Mutex<Vec<IngressError>>>,
    routes: watch::Sender<Arc<RouteTable>>,
}

impl Host {
    async fn start(authority: &Authority, configure: impl FnOnce(&mut Config)) -> Self {
        let (node, guest, errors) = (NodeId::new(), Guest::new(), Arc::new(Mutex::new(Vec::new())));
        let tls = Arc::new(authority.tls(&authority.identity(node)));
        let mut config = Config::new(node);
        let sink = errors.clone();
        config.on_error = Arc::new(move |error| sink.lock().unwrap().push(error.clone()));
        config.peers = Some(tls.clone());
        configure(&mut config);
        let (routes, receiver) = watch::channel(Arc::new(RouteTable::default()));
        let service = GuestService(guest.clone());
        let ingress = Ingress::spawn(vec![bind().await], config, receiver, service.clone());
        let peers = bind().await;
        let (address, peer_address) = (ingress.addresses()[0], peers.local_addr().unwrap());
        ingress.serve_peers(peers, service);
        Self { node, guest, ingress, tls, address, peer_address, errors, routes }
    }

    pub(crate) fn figures(&self) -> PeerFigures {
        self.ingress.stats().peers
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        within(TcpStream::connect(self.address)).await.unwrap()
    }

    pub(crate) async fn send(&self, request: &str) -> Reply {
        let mut socket = self.connect().await;
        socket.write_all(request.as_bytes()).await.unwrap();
        read_reply(&mut socket).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: hello.test\r\n\r\n")).await
    }

    /// Sends `GET` and waits until a guest has it.
    pub(crate) async fn begin(&self, path: &str) -> TcpStream {
        let mut socket = self.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: hello.test\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        socket
    }

    pub(crate) fn codes(&self) -> Vec<&'static str> {
        self.errors.lock().unwrap().iter().map(|error| error.code.as_str()).collect()
    }

    /// Replaces the routes, and waits until they are in use.
    pub(crate) async fn route(&self, table: RouteTable) {
        let generation = table.generation;
        self.routes.send_replace(Arc::new(table));
        let mut applied = self.ingress.applied();
        within(applied.wait_for(|applied| *applied == generation)).await.unwrap();
    }
}

pub(crate) async fn bind() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// Several nodes of one cluster, and one app at `hello.test/`.
pub(crate) struct Mesh {
    pub(crate) authority: Authority,
    pub(crate) hosts: Vec<Host>,
    generation: u64,
    /// Where each node is said to listen for peers.
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Mesh {
    pub(crate) async fn of(count: usize) -> Self {
        Self::configured(count, |_| {}).await
    }

    pub(crate) async fn configured(count: usize, configure: impl Fn(&mut Config)) -> Self {
        Self::of_authority(Authority::new(), count, configure).await
    }

    /// A cluster in which names say nothing.
    pub(crate) async fn with_a_common_name(count: usize) -> Self {
        Self::of_authority(Authority { has_common_name: true, ..Authority::new() }, count, |_| {}).await
    }

    async fn of_authority(authority: Authority, count: usize, configure: impl Fn(&mut Config)) -> Self {
        let mut hosts = Vec::new();
        for _ in 0..count {
            hosts.push(Host::start(&authority, &configure).await);
        }
        let addresses = hosts.iter().map(|host| host.peer_address).collect();
        Self { authority, hosts, generation: 0, addresses }
    }

    /// Puts instances of the app on hosts, as many as each of these numbers is there.
    pub(crate) async fn place(&mut self, on: &[usize]) -> Vec<InstanceId> {
        self.place_with(on, 0).await
    }

    pub(crate) async fn place_with(&mut self, on: &[usize], concurrency: u32) -> Vec<InstanceId> {
        let instances: Vec<_> = on.iter().map(|host| (InstanceId::new(), *host)).collect();
        let table = self.table(&instances, concurrency);
        self.route(table).await;
        instances.into_iter().map(|(instance, _)| instance).collect()
    }

    pub(crate) fn table(&mut self, instances: &[(InstanceId, usize)], concurrency: u32) -> RouteTable {
        let endpoint = |(instance, host): &(InstanceId, usize)| Endpoint {
            instance: *instance,
            node: self.hosts[*host].node,
            release: 1,
            concurrency,
        };
        let route = Route {
            pattern: "hello.test/".parse().unwrap(),
            namespace: "default".parse().unwrap(),
            app: "hello".parse().unwrap(),
            endpoints: instances.iter().map(endpoint).collect(),
            stopped: false,
            counted: true,
            wakes: false,
            canary: None,
        };
        RouteTable { routes: vec![Arc::new(route)], ..self.empty_table() }
    }

    pub(crate) fn table_of_port(
        &mut self,
        port: u16,
        instances: &[(InstanceId, usize)],
        (connections_max, proxy_protocol): (u32, bool),
    ) -> RouteTable {
        let endpoint = |(instance, host): &(InstanceId, usize)| TcpEndpoint {
            instance: *instance,
            node: self.hosts[*host].node,
            connections_max,
            proxy_protocol,
            release: 1,
        };
        let route = TcpRoute {
            port,
            namespace: "default".parse().unwrap(),
            app: "echo".parse().unwrap(),
            endpoints: instances.iter().map(endpoint).collect(),
            counted: false,
        };
        RouteTable { tcp: vec![Arc::new(route)], ..self.empty_table() }
    }

    fn empty_table(&mut self) -> RouteTable {
        self.generation += 1;
        let nodes = self.hosts.iter().zip(&self.addresses);
        let mut nodes: Vec<_> =
            nodes.map(|(host, address)| RouteNode { node: host.node, address: *address }).collect();
        nodes.sort_by_key(|node| node.node);
        RouteTable { generation: self.generation, nodes, ..RouteTable::default() }
    }

    pub(crate) async fn route(&self, table: RouteTable) {
        for host in &self.hosts {
            host.route(table.clone()).await;
        }
    }
}

/// Something between two hosts that passes octets on, or does not.
pub(crate) struct Wall {
    pub(crate) address: SocketAddr,
    state: watch::Sender<Passes>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passes {
    All,
    /// Connections stay open, new ones are accepted, and nothing arrives: as when a host has no power.
    Nothing,
    /// Connections are broken off: as when a process is killed.
    Cut,
}

impl Wall {
    pub(crate) async fn before(target: SocketAddr) -> Self {
        let listener = bind().await;
        let (address, (state, seen)) = (listener.local_addr().unwrap(), watch::channel(Passes::All));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let seen = seen.clone();
                tokio::spawn(async move {
                    let mut cut = seen.clone();
                    tokio::select! {
                        () = pass(near, target, seen) => {}
                        _ = cut.wait_for(|state| *state == Passes::Cut) => {}
                    }
                });
            }
        });
        Self { address, state }
    }

    pub(crate) fn set(&self, passes: Passes) {
        self.state.send_replace(passes);
    }
}

async fn pass(mut near: TcpStream, target: SocketAddr, seen: watch::Receiver<Passes>) {
    if seen.clone().wait_for(|state| *state == Passes::All).await.is_err() {
        return;
    }
    let mut far = TcpStream::connect(target).await.unwrap();
    let (near_read, near_write) = near.split();
    let (far_read, far_write) = far.split();
    tokio::join!(copy(near_read, far_write, seen.clone()), copy(far_read, near_write, seen));
}

async fn copy(
    mut from: impl tokio::io::AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
    mut seen: watch::Receiver<Passes>,
) {
    use tokio::io::AsyncReadExt as _;
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if seen.wait_for(|state| *state == Passes::All).await.is_err()
            || to.write_all(&buffer[..count]).await.is_err()
        {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Fails unless it is over within a second, in which a host that has died has to be noticed.
pub(crate) async fn within_a_second<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(1), future).await.expect("it takes more than a second")
}
