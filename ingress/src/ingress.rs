//! Starting and ending an ingress.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::Response;
use http_body::Body;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wharf_types::route::RouteTable;

use crate::BoxError;
use crate::accept::Acceptor;
use crate::call::{CallError, LocalCall};
use crate::config::Config;
use crate::connection::Connections;
use crate::egress::Egress;
use crate::load;
use crate::peers::Peers;
use crate::peers::container::ContainerConnector;
use crate::peers::content::ArtifactReader;
use crate::peers::neighbour::NeighbourCaller;
use crate::peers::serve::{ARTIFACTS_MAX, OpenByNode, PeerDoor};
use crate::proxy::Shared;
use crate::router::{Router, Targets};
use crate::serve::Protocols;
use crate::start::Start;
use crate::stats::{Stats, StatsSnapshot};
use crate::tcp::ports::{Front, Ports};
use crate::watchdog::Limits;

/// How long a cut connection's task may take to notice.
const CUT_GRACE: Duration = Duration::from_secs(1);

/// The front door of a node, with `S` as the way to the guests.
pub struct Ingress<S> {
    service: PhantomData<S>,
}

/// Handle to a running ingress. Dropping it leaves the ingress running.
pub struct IngressHandle {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    peers: Arc<OpenByNode>,
    /// Ends what came from peers.
    cut_peers: CancellationToken,
    connections: Arc<Connections>,
    applied: watch::Receiver<u64>,
    calls: watch::Receiver<u64>,
    /// Ends the accept loops, and with them the listeners.
    stop_accepting: CancellationToken,
    /// Ends what looks after the routes and the connections.
    stop: CancellationToken,
    acceptors: TaskTracker,
    /// Connections, and HTTP/2 streams.
    serving: TaskTracker,
    minders: TaskTracker,
}

/// How a shutdown went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Every open request was answered, and every connection to a TCP port has ended.
    Clean,
    /// The time was up before these had ended.
    Forced { cut: Vec<CutConnection> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutConnection {
    pub remote: SocketAddr,
    pub open_requests: usize,
}

impl<S, B> Ingress<S>
where
    S: tower::Service<LocalCall, Response = Response<B>, Error = CallError> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Starts to serve with the table that `routes` holds now. Must be called inside a Tokio runtime.
    pub fn spawn(
        listeners: Vec<TcpListener>,
        config: Config,
        mut routes: watch::Receiver<Arc<RouteTable>>,
        service: S,
    ) -> IngressHandle {
        let stats = Arc::new(Stats::default());
        let connections = Arc::new(Connections::new(stats.clone(), config.max_connections));
        let limits = Limits { header_timeout: config.header_timeout, idle: config.idle };
        let peers = Peers::new(config.peers.clone(), stats.peers.clone());
        let mut targets = Targets::new(stats.meters.clone(), stats.loads.clone(), peers);
        let first = Router::build(&routes.borrow_and_update(), config.node, &mut targets);
        let (applied_to, applied) = watch::channel(first.generation());
        let (acceptors, serving, minders) = (TaskTracker::new(), TaskTracker::new(), TaskTracker::new());
        let (stop_accepting, stop) = (CancellationToken::new(), CancellationToken::new());
        let protocols = Arc::new(Protocols::new(&config, serving.clone()));
        let (installed, calls) = (watch::Sender::new(first.generation()), stats.loads.calls());
        let start = Start::new(config.start_grace);
        let shared =
            Arc::new(Shared { config, start, table: ArcSwap::from_pointee(first), installed, stats });

        let ports = Ports::new(Front {
            shared: shared.clone(),
            connections: connections.clone(),
            acceptors: acceptors.clone(),
            serving: serving.clone(),
            stop: stop_accepting.clone(),
        });
        let following = follow(shared.clone(), routes, targets, ports, applied_to);
        minders.spawn(stop.clone().run_until_cancelled_owned(following));
        minders.spawn(stop.clone().run_until_cancelled_owned(load::look(shared.clone())));
        minders.spawn(stop.clone().run_until_cancelled_owned(watch_over(connections.clone(), limits)));
        let acceptor = Acceptor {
            shared: shared.clone(),
            protocols,
            connections: connections.clone(),
            service,
            tasks: serving.clone(),
        };
        let addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();
        for listener in listeners {
            acceptors.spawn(acceptor.clone().run(listener, stop_accepting.clone()));
        }
        IngressHandle {
            addresses,
            shared,
            peers: Arc::default(),
            cut_peers: CancellationToken::new(),
            connections,
            applied,
            calls,
            stop_accepting,
            stop,
            acceptors,
            serving,
            minders,
        }
    }
}

/// Puts each new table in use, and says so once no request or connection goes by an older one and the ports are open.
async fn follow(
    shared: Arc<Shared>,
    mut routes: watch::Receiver<Arc<RouteTable>>,
    mut targets: Targets,
    mut ports: Ports,
    applied: watch::Sender<u64>,
) {
    ports.adjust().await;
    loop {
        tokio::select! {
            changed = routes.changed() => if changed.is_err() {
                // The sender is gone: the last routes stay in use, and the ports open.
                std::future::pending::<()>().await;
            },
            () = ports.retry_is_due() => {
                ports.adjust().await;
                continue;
            }
        }
        let table = routes.borrow_and_update().clone();
        let current = shared.table.load().generation();
        if table.generation < current {
            tracing::warn!(
                "refused routes of generation {}: generation {current} is in use",
                table.generation
            );
            continue;
        }
        let router = Router::build(&table, shared.config.node, &mut targets);
        shared.install(router).await;
        ports.adjust().await;
        applied.send_replace(table.generation);
    }
}

async fn watch_over(connections: Arc<Connections>, limits: Limits) {
    let mut looks = tokio::time::interval(limits.period());
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        connections.sweep(Instant::now(), &limits);
    }
}

impl IngressHandle {
    /// Where it listens, in the order of the listeners.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The generation in use. Once a number shows here, no request is given to an instance by an older table.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.clone()
    }

    /// Grows whenever a request begins to wait for an app that sleeps: the control plane has to be told at once.
    pub fn calls(&self) -> watch::Receiver<u64> {
        self.calls.clone()
    }

    pub fn stats(&self) -> StatsSnapshot {
        self.connections.snapshot()
    }

    /// The way to [`Self::stats`] for somebody else, also when the ingress has been shut down.
    pub fn stats_reader(&self) -> impl Fn() -> StatsSnapshot + Send + Sync + use<> {
        let connections = self.connections.clone();
        move || connections.snapshot()
    }

    /// The way to the artifacts of other nodes.
    pub fn artifacts(&self) -> ArtifactReader {
        ArtifactReader(self.shared.clone())
    }

    /// The way to apps that have instances on other nodes, for guests of this one.
    pub fn neighbours(&self) -> NeighbourCaller {
        NeighbourCaller(self.shared.clone())
    }

    /// What namespaces may still send, for their guests on this node.
    pub fn egress(&self) -> Egress {
        Egress(self.shared.clone())
    }

    /// The way to the ports of containers on other nodes, for those of their namespace here.
    pub fn containers(&self) -> ContainerConnector {
        ContainerConnector(self.shared.clone())
    }

    /// Takes requests and connections of other nodes for the instances of this one, which `service` leads to. Who is one of them follows from
    /// [`Config::peers`]; without it, nobody is, and nothing is done. Must be called inside a Tokio runtime.
    pub fn serve_peers<S, B>(&self, listener: TcpListener, service: S)
    where
        S: tower::Service<LocalCall, Response = Response<B>, Error = CallError> + Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let Some(tls) = self.shared.config.peers.clone() else { return };
        let tunnels_max = self.shared.config.tcp.max_connections;
        let door = PeerDoor {
            shared: self.shared.clone(),
            tls,
            service,
            serving: self.serving.clone(),
            stop: self.stop_accepting.clone(),
            cut: self.cut_peers.clone(),
            open: self.peers.clone(),
            refusals: Arc::default(),
            tunnels: Arc::new(Semaphore::new(tunnels_max.min(Semaphore::MAX_PERMITS))),
            by_name: Arc::new(Semaphore::new(tunnels_max.min(Semaphore::MAX_PERMITS))),
            artifacts: Arc::new(Semaphore::new(ARTIFACTS_MAX)),
        };
        self.acceptors.spawn(door.run(listener));
    }

    /// Takes no new connection, answers the open requests, lets connections to TCP ports end, and after `grace` cuts what is left.
    pub async fn shutdown(self, grace: Duration) -> Shutdown {
        self.shutdown_before(tokio::time::sleep(grace)).await
    }

    /// The same, where what is left is cut when `limit` has come.
    pub async fn shutdown_before(self, limit: impl Future<Output = ()>) -> Shutdown {
        self.stop_accepting.cancel();
        self.connections.close();
        self.acceptors.close();
        self.serving.close();
        self.minders.close();
        let ended = async {
            self.acceptors.wait().await;
            self.serving.wait().await;
        };
        let outcome = tokio::select! {
            biased;
            () = ended => Shutdown::Clean,
            () = limit => {
                self.cut_peers.cancel();
                let cut = self.connections.cut().into_iter();
                let cut =
                    cut.map(|(remote, open_requests)| CutConnection { remote, open_requests }).collect();
                // A guest that never yields could keep its task for ever, so this wait ends too.
                let _ = tokio::time::timeout(CUT_GRACE, self.serving.wait()).await;
                Shutdown::Forced { cut }
            }
        };
        self.stop.cancel();
        self.minders.wait().await;
        outcome
    }
}
