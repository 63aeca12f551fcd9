//! What it costs that an instance is on another node: `cargo bench --bench peers`.
//!
//! Three ingresses answer the same request, by turns, in one run: one that knows of no other node, one that does and has an instance
//! itself, and one whose only instance is on another node. The first two should not differ; the third pays for TLS, HTTP/2 and another hop,
//! client, both ingresses and the guest being on this machine.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use wharf_ingress::{CallError, Config, Ingress, IngressHandle, LocalCall, PeerTls};
use wharf_types::route::{Endpoint, Route, RouteNode, RouteTable};
use wharf_types::{InstanceId, NodeId};

const ROUNDS: usize = 9;
const REQUESTS: usize = 2000;
const CONNECTIONS: usize = 32;
const SPAN: Duration = Duration::from_millis(700);
const LARGE_BYTES: usize = 64 << 20;
const SMALL: &str = "GET / HTTP/1.1\r\nhost: hello.test\r\n\r\n";
const LARGE: &str = "GET /large HTTP/1.1\r\nhost: hello.test\r\n\r\n";

#[derive(Clone)]
struct Guest {
    large: Bytes,
}

impl Guest {
    fn new() -> Self {
        Self { large: Bytes::from(vec![b'x'; LARGE_BYTES]) }
    }
}

impl tower::Service<LocalCall> for Guest {
    type Response = Response<Full<Bytes>>;
    type Error = CallError;
    type Future = Ready<Result<Self::Response, CallError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: LocalCall) -> Self::Future {
        let body = match call.request.uri().path() {
            "/large" => self.large.clone(),
            _ => Bytes::from_static(b"hello"),
        };
        ready(Ok(Response::new(Full::new(body))))
    }
}

/// The certificates of the cluster.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    nodes: Arc<Mutex<HashMap<Vec<u8>, NodeId>>>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, nodes: Arc::default() }
    }

    fn tls(&self, node: NodeId) -> Arc<PeerTls> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let roots = Arc::new(roots);
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![format!("{node}.node.wharf.internal")]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        self.nodes.lock().unwrap().insert(certificate.to_vec(), node);
        let key = || PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let client = ClientConfig::builder().with_root_certificates(roots.clone());
        let client = client.with_client_auth_cert(vec![certificate.clone()], key()).unwrap();
        let verifier = rustls::server::WebPkiClientVerifier::builder(roots).build().unwrap();
        let server = ServerConfig::builder().with_client_cert_verifier(verifier);
        let server = server.with_single_cert(vec![certificate], key()).unwrap();
        let nodes = self.nodes.clone();
        Arc::new(PeerTls::new(Arc::new(client), Arc::new(server), move |chain| {
            nodes.lock().unwrap().get(chain.first()?.as_ref()).copied()
        }))
    }
}

/// An ingress that is measured, with what keeps it running.
struct Front {
    name: &'static str,
    address: SocketAddr,
    _ingress: IngressHandle,
    _routes: watch::Sender<Arc<RouteTable>>,
    /// Microseconds of the median and of 99 of 100 requests, requests a second, and MB a second, of each round.
    rounds: Vec<[f64; 4]>,
}

impl Front {
    async fn start(
        name: &'static str,
        node: NodeId,
        peers: Option<Arc<PeerTls>>,
        on: &[NodeId],
        nodes: &[RouteNode],
    ) -> Self {
        let endpoint = |node: &NodeId| Endpoint {
            instance: InstanceId::new(),
            node: *node,
            release: 1,
            concurrency: 1000,
        };
        let route = Route {
            pattern: "hello.test/".parse().unwrap(),
            namespace: "default".parse().unwrap(),
            app: "hello".parse().unwrap(),
            endpoints: on.iter().map(endpoint).collect(),
            stopped: false,
            counted: false,
            wakes: false,
            canary: None,
        };
        let table = RouteTable {
            generation: 1,
            routes: vec![Arc::new(route)],
            nodes: nodes.to_vec(),
            ..RouteTable::default()
        };
        let (routes, receiver) = watch::channel(Arc::new(table));
        let config = Config { peers, ..Config::new(node) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ingress = Ingress::spawn(vec![listener], config, receiver, Guest::new());
        Self { name, address: ingress.addresses()[0], _ingress: ingress, _routes: routes, rounds: Vec::new() }
    }

    async fn measure(&mut self) {
        let (median, late) = latency(self.address).await;
        self.rounds.push([median, late, rate(self.address).await, throughput(self.address).await]);
    }

    fn medians(&self) -> [f64; 4] {
        std::array::from_fn(|column| {
            let mut values: Vec<_> = self.rounds.iter().map(|round| round[column]).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        })
    }
}

/// One connection of HTTP/1, whose answers all have the same length.
struct Client {
    socket: TcpStream,
    answer: Vec<u8>,
}

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        socket.write_all(SMALL.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let mut length = 0;
        while !answer[..length].ends_with(b"hello") {
            length += socket.read(&mut answer[length..]).await.unwrap();
        }
        answer.truncate(length);
        Self { socket, answer }
    }

    async fn get(&mut self) {
        self.socket.write_all(SMALL.as_bytes()).await.unwrap();
        self.socket.read_exact(&mut self.answer).await.unwrap();
        assert!(self.answer.ends_with(b"hello"));
    }
}

/// Of one request after another, in microseconds.
async fn latency(address: SocketAddr) -> (f64, f64) {
    let mut client = Client::connect(address).await;
    let mut micros = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let began = Instant::now();
        client.get().await;
        micros.push(began.elapsed().as_nanos() as f64 / 1000.0);
    }
    micros.sort_by(f64::total_cmp);
    (micros[REQUESTS / 2], micros[REQUESTS * 99 / 100])
}

/// Of many connections, in requests a second.
async fn rate(address: SocketAddr) -> f64 {
    let until = Instant::now() + SPAN;
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            tokio::spawn(async move {
                let (mut client, mut count) = (Client::connect(address).await, 0_u32);
                while Instant::now() < until {
                    client.get().await;
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut count = 0.0;
    for client in clients {
        count += f64::from(client.await.unwrap());
    }
    count / SPAN.as_secs_f64()
}

/// Of one large answer, in MB a second.
async fn throughput(address: SocketAddr) -> f64 {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let began = Instant::now();
    socket.write_all(LARGE.as_bytes()).await.unwrap();
    let (mut buffer, mut read) = (vec![0; 256 << 10], 0);
    while read < LARGE_BYTES {
        read += socket.read(&mut buffer).await.unwrap();
    }
    read as f64 / 1e6 / began.elapsed().as_secs_f64()
}

fn main() {
    // `cargo test` runs it as well, and only wants to know that it builds.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let (authority, here, there) = (Authority::new(), NodeId::new(), NodeId::new());
    let far = Front::start("", there, Some(authority.tls(there)), &[], &[]).await;
    let peers = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nodes = [RouteNode { node: there, address: peers.local_addr().unwrap() }];
    far._ingress.serve_peers(peers, Guest::new());
    let tls = authority.tls(here);
    let mut fronts = [
        Front::start("alone", here, None, &[here], &[]).await,
        Front::start("instance here", here, Some(tls.clone()), &[here, there, there, there], &nodes).await,
        Front::start("instance there", here, Some(tls), &[there], &nodes).await,
    ];
    for _ in 0..ROUNDS {
        for front in &mut fronts {
            front.measure().await;
        }
    }
    let alone = fronts[0].medians();
    println!("medians of {ROUNDS} rounds; in parentheses the ratio to the first line");
    for front in &fronts {
        let row = front.medians();
        let column = |at: usize, unit: &str| format!("{:9.1} {unit} ({:.2})", row[at], row[at] / alone[at]);
        let columns = [column(0, "µs p50"), column(1, "µs p99"), column(2, "req/s"), column(3, "MB/s")];
        println!("{:<15}{}", front.name, columns.join("  "));
    }
}
