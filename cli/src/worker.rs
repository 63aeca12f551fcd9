//! A worker with its ingress, in this process.
//!
//! It follows the control plane over HTTP, also where both are in one process. Only requests and connections take a shorter way: the
//! ingress calls the guests of this process through [`LocalGuests`], and [`LocalPlaces`].

use std::future::Future;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::BoxFuture;
use http::{Response, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;
use wharf_docker::Engine;
use wharf_ingress::{
    ArtifactBytes, ArtifactReader, CallError, Config as IngressConfig, ContainerConnector, DatagramFlow,
    Egress, EgressBudget, ErrorCode, Ingress, IngressError, LocalCall, NeighbourCaller, NeighbourError,
    PeerArtifacts, PeerTls, TcpConfig, TcpError, TcpPlace, TcpPlaces, Upgraded,
};
use wharf_runtime::artifacts::{ArtifactPeers, Artifacts, Asked};
use wharf_runtime::container::backend::{Backends, ContainerBackend, Shared};
use wharf_runtime::container::copy::Copies;
use wharf_runtime::container::exec::Execs;
use wharf_runtime::control::ControlClient;
use wharf_runtime::logs::{LogShipper, LogSink};
use wharf_runtime::orders::Follower;
use wharf_runtime::reach::door::{Door, OpenDoor};
use wharf_runtime::reach::{FarContainers, FarDatagrams, FarStream, Reach};
use wharf_runtime::session::{Figures, Kept, Session, Takers};
use wharf_runtime::space::{self, Space};
use wharf_runtime::supervisor::{Grace, Shutdown, Supervisor};
use wharf_runtime::wasm::backend::WasmBackend;
use wharf_runtime::wasm::compiler::CompileCommand;
use wharf_runtime::wasm::compiler::key::key_in;
use wharf_runtime::wasm::failure::InvokeError;
use wharf_runtime::wasm::host::WasmHost;
use wharf_runtime::wasm::outbound::EgressLimit;
use wharf_runtime::wasm::ports::Ports;
use wharf_runtime::wasm::table;
use wharf_runtime::wasm::table::{
    AnswerBody, Counted, DispatchError, FarBody, FarError, FarNeighbours, Table,
};
use wharf_runtime::wasm::volumes::Volumes;
use wharf_runtime::wasm::volumes::transfers::Transfers;
use wharf_types::figures::NodeFigures;
use wharf_types::incarnation::Incarnation;
use wharf_types::log::{LogRecord, LogStream};
use wharf_types::node::NodeRegistration;
use wharf_types::route::RouteTable;
use wharf_types::{AppName, Digest, InstanceId, NamespaceName, NodeId, ProcessId, Timestamp};

use crate::ending::{Stopped, tell_waiting};

/// How long the requests and connections that this front door has led to other nodes may go on after SIGTERM. Those of the apps here have what
/// their apps declare.
const LED_ELSEWHERE: Duration = Duration::from_secs(30);
/// How long requests wait for what a worker that has just started takes up again.
const START_GRACE: Duration = Duration::from_secs(5);
/// What is read at once of an artifact that another node gets.
const CHUNK_BYTES: usize = 256 << 10;
/// How often a worker that is to end asks whether it is empty,
const LEAVE_LOOK: Duration = Duration::from_millis(200);
/// how long an answer may take,
const LEAVE_ANSWER: Duration = Duration::from_secs(2);
/// and how long it does so without one. Another control plane has taken over by then, if there is one.
const LEAVE_UNHEARD: Duration = Duration::from_secs(6);
/// The same where there is only one, which may be about to come back.
const LEAVE_UNHEARD_OF_ONE: Duration = Duration::from_secs(2);
/// How long the parts behind the ingress may take to end, each.
pub const PART_GRACE: Duration = Duration::from_secs(5);
/// The longest that what is open of an app, and after it a container, gets to end with this process, whatever its `stop.drain` is.
pub const DRAIN_MOST: Duration = Duration::from_secs(600);
/// How long it may take to kill and remove what has not ended by then.
const FINISH_LIMIT: Duration = Duration::from_secs(20);

/// The guests' side of a worker with this folder.
pub fn host_in(
    folder: &Path,
    compile: CompileCommand,
    logs: LogSink,
    unload_after: Duration,
    space: Arc<Space>,
) -> anyhow::Result<Arc<WasmHost>> {
    let key = worker_key(folder)?;
    Ok(WasmHost::new(&folder.join(space::COMPILED), key, compile, logs, unload_after, space)?)
}

/// The worker's own key, which authenticates what it has compiled, and from which others are derived.
fn worker_key(folder: &Path) -> anyhow::Result<[u8; 32]> {
    key_in(&folder.join("compiled.key")).context("cannot read the worker's key")
}

/// What a worker is started with.
pub struct WorkerConfig<'a> {
    /// What lasts: its id, what was compiled and unpacked, the volumes of apps.
    pub folder: &'a Path,
    pub control: ControlClient,
    /// Where the apps are served.
    pub listener: TcpListener,
    /// Where the ingresses of other nodes come, and how they are known. None: none do.
    pub peers: Option<(TcpListener, Arc<PeerTls>)>,
    pub file_handles_max: u64,
    pub unload_after: Duration,
    /// Of compiled code and copies of artifacts. None: as much as the disk takes.
    pub cache_max_bytes: Option<u64>,
    pub registration: NodeRegistration,
    /// Whether it may start while no control plane is there, and runs what it was told last then.
    pub keeps_assignment: bool,
    /// What runs containers. None: nothing does.
    pub engine: Option<Engine>,
    /// Where containers reach apps by name. None: only on this node, and as the engine has it.
    pub door: Option<Door>,
    /// Whether containers go on when this process ends, for the next one to adopt.
    pub leaves_containers: bool,
}

/// The worker and its ingress.
pub struct Worker {
    ingress: wharf_ingress::IngressHandle,
    session: Session,
    supervisor: Supervisor,
    shipper: LogShipper,
    control: ControlClient,
    process: ProcessId,
    backends: Arc<Backends>,
    containers: Option<Arc<ContainerBackend>>,
    /// Whether they go on when this process ends.
    leaves_containers: bool,
    /// What people want done beside the instances.
    followers: Vec<Follower>,
    /// None: they reach by name what the engine has.
    door: Option<OpenDoor>,
}

impl Worker {
    /// The folder's lock is held by whoever calls.
    pub fn start(config: WorkerConfig<'_>) -> anyhow::Result<Self> {
        let WorkerConfig { folder, control, listener, peers, file_handles_max, unload_after, .. } = config;
        let (cache_max_bytes, registration, keeps_assignment) =
            (config.cache_max_bytes, config.registration, config.keeps_assignment);
        let (engine, door, leaves_containers) = (config.engine, config.door, config.leaves_containers);
        let node = control.node();
        let incarnation = incarnation(folder)
            .with_context(|| format!("cannot use the worker's folder {}", folder.display()))?;
        let address = peers.as_ref().and(registration.address);
        let process = incarnation.process;
        let registration = NodeRegistration { incarnation, address, ..registration };
        let logs = LogSink::new();
        let space = Space::new(folder.to_owned(), cache_max_bytes);
        let host =
            host_in(folder, CompileCommand::this_program(), logs.clone(), unload_after, space.clone())?;
        host.give_up_old_engines();
        let volumes =
            Volumes::new(folder.join("volumes")).context("cannot use the folder for the volumes of apps")?;
        let (removed_volumes, asked) = watch::channel(Vec::new());
        tokio::spawn(volumes.clone().remove_as_asked(asked));
        let artifacts = match peers {
            Some(_) => Artifacts::keeping(control.clone(), folder.join(space::COPIES), space.clone())
                .context("cannot use the folder for copies of artifacts")?,
            None => Artifacts::passing(control.clone()),
        };
        let backend =
            WasmBackend::new(host, control.clone(), artifacts.clone(), folder.join("files"), volumes.clone())
                .context("cannot use the folder for the files of apps")?;
        let shared = Shared {
            artifacts: artifacts.clone(),
            space: space.clone(),
            table: backend.table(),
            ports: backend.ports(),
            reach: backend.reach(),
            volumes: volumes.clone(),
            secrets: backend.secrets(),
            logs: logs.clone(),
        };
        let reach = backend.reach();
        reach.start(logs.clone());
        // Before any container is made, which is told of it.
        let door = door.map(|door| door.serve(&reach, backend.table()));
        let door = door.transpose().context("cannot serve the names of apps to containers")?;
        let containers =
            engine.map(|engine| ContainerBackend::new(engine, shared, folder.join("containers")));
        let containers =
            containers.transpose().context("cannot use the folder for the marks of containers")?;
        let both = Backends::new(backend.clone(), containers.clone());
        let supervisor = Supervisor::spawn(both.clone(), rand::random());

        let (routes_to, routes) = watch::channel(Arc::new(RouteTable::default()));
        let routes = table::relay(backend.table(), reach.clone(), routes);
        let mut config = IngressConfig::new(node);
        config.start_grace = START_GRACE;
        config.max_connections = wharf_ingress::connections_within(file_handles_max);
        config.tcp = TcpConfig {
            // Whoever reaches the apps' HTTP reaches their ports.
            host: listener.local_addr()?.ip(),
            max_connections: wharf_ingress::tcp_connections_within(file_handles_max),
            places: Arc::new(LocalPlaces(backend.ports(), reach.clone())),
            on_error: Arc::new({
                let logs = logs.clone();
                move |error| tell_app_of_port(&logs, error)
            }),
        };
        config.on_error = Arc::new({
            let logs = logs.clone();
            move |error| tell_app(&logs, error)
        });
        config.peers = peers.as_ref().map(|(_, tls)| tls.clone());
        config.speaks = control.speaks();
        config.artifacts = Some(Arc::new(OwnArtifacts(artifacts.clone())));
        backend.table().serve_at(listener.local_addr()?.port());
        let ingress = Ingress::spawn(vec![listener], config, routes, LocalGuests(backend.table()));
        backend.table().count_egress(Arc::new(SameBudget(ingress.egress())));
        backend.table().reach_others(Arc::new(OthersApps(ingress.neighbours())));
        if let Some((listener, _)) = peers {
            if control.speaks().knows(2) {
                artifacts.ask_peers(Arc::new(OthersArtifacts(ingress.artifacts())));
            }
            ingress.serve_peers(listener, LocalGuests(backend.table()));
            reach.reach_others(Arc::new(OthersContainers(ingress.containers())));
        }
        let secrets = backend.secrets();
        let front_door = ingress.stats_reader();
        let counted = containers.clone();
        let mut followers = Vec::new();
        if let Some(containers) = &containers {
            followers.push(Execs::spawn(control.clone(), process, containers.clone()));
            followers.push(Copies::spawn(control.clone(), process, containers.clone()));
        }
        let of_before = containers.clone();
        let is_clean = Arc::new(move || of_before.as_ref().is_none_or(|it| it.has_swept()));
        followers.push(Transfers::spawn(control.clone(), process, volumes, is_clean));
        let figures = Arc::new(move || Figures {
            apps: backend.usage().into_iter().chain(counted.iter().flat_map(|it| it.usage())).collect(),
            node: NodeFigures {
                front_door: front_door().into(),
                datagrams: backend.reach().datagram_figures(),
                ..backend.figures()
            },
        });
        let kept = match keeps_assignment {
            true => Some(Kept::new(folder.join("assignment"), &worker_key(folder)?)),
            false => None,
        };
        let takers = Takers {
            supervisor: supervisor.handle(),
            secrets,
            space,
            routes: routes_to,
            removed_volumes,
            kept,
        };
        let session = Session::spawn(
            control.clone(),
            registration,
            takers,
            (ingress.applied(), ingress.calls()),
            figures,
        );
        let shipper = LogShipper::spawn(logs, control.clone());
        Ok(Self {
            ingress,
            session,
            supervisor,
            shipper,
            control,
            process,
            backends: both,
            containers,
            leaves_containers,
            followers,
            door,
        })
    }

    /// Has what runs here started elsewhere, and returns when nothing is left that could be, or after `longest`. Where nothing runs, or the
    /// control plane does not answer or cannot do this, there is nothing to wait for.
    pub async fn leave(&self, longest: Duration) {
        if !self.control.speaks().knows(2) || longest.is_zero() {
            return;
        }
        let unheard_max =
            if self.control.has_several_servers() { LEAVE_UNHEARD } else { LEAVE_UNHEARD_OF_ONE };
        let begun = Instant::now();
        while begun.elapsed() < longest {
            match tokio::time::timeout(LEAVE_ANSWER, self.control.leave(self.process)).await {
                Ok(Ok(0)) => return,
                Ok(Err(error)) if !error.is_retryable() => {
                    return tracing::warn!("this node ends without being emptied first: {error}");
                }
                Ok(Err(_)) | Err(_) if !self.runs_something() => return,
                Ok(_) | Err(_) => {}
            }
            if self.control.heard_at().is_none_or(|heard| heard.elapsed() >= unheard_max) {
                return tracing::warn!(
                    "this node ends without being emptied first, as no control plane answers: what runs on it starts elsewhere when one is back"
                );
            }
            tokio::time::sleep(LEAVE_LOOK).await;
        }
        tracing::warn!("this node ends before all that runs on it has started elsewhere");
    }

    fn runs_something(&self) -> bool {
        self.supervisor.reports().borrow().iter().any(|instance| !instance.state.is_final())
    }

    /// Lets what is open finish, in the time that each app declares (`stop.drain`), then ends what runs. From `now` on nothing is waited for
    /// any more. The session ends before the instances do, so that the control plane does not take the end of this process for the end of the apps. `tell` is told what is waited for.
    pub async fn shutdown(self, now: &CancellationToken, tell: &(dyn Fn(String) + Sync)) -> Stopped {
        let part = || if now.is_cancelled() { Duration::ZERO } else { PART_GRACE };
        // It is never given up half way: what it has not cut would go on being served.
        let (backends, has_cut) = (self.backends, AtomicBool::new(false));
        let drained = async {
            let (here, elsewhere) =
                (backends.cut_in_time(DRAIN_MOST, &has_cut), tokio::time::sleep(LED_ELSEWHERE));
            let _ = now.run_until_cancelled(futures::future::join(here, elsewhere)).await;
        };
        let ingress = self.ingress.shutdown_before(drained).await;
        // Whoever is not waited for has been told to end all the same.
        self.followers.iter().for_each(Follower::cancel);
        let ends = self.followers.into_iter().map(|follower| follower.shutdown(PART_GRACE));
        let _ = now.run_until_cancelled(futures::future::join_all(ends)).await;
        self.session.shutdown().await;
        let ended_here = self.containers.as_ref().filter(|_| !self.leaves_containers);
        if let Some(containers) = self.containers.as_ref().filter(|_| self.leaves_containers) {
            containers.leave_containers();
        }
        let mut supervisor = self.supervisor;
        let grace = Grace { guests: PART_GRACE, containers: ended_here.map_or(PART_GRACE, |_| DRAIN_MOST) };
        let ending = async {
            let Some(containers) = ended_here else { return supervisor.shutdown(grace).await };
            tokio::select! {
                outcome = supervisor.shutdown(grace) => outcome,
                never = tell_waiting(containers, tell) => match never {},
            }
        };
        let outcome = now.run_until_cancelled(ending).await;
        if outcome.is_none() {
            // What is killed now is not started again by whoever looked after it.
            supervisor.abort().await;
        }
        let mut killed = Vec::new();
        if let Some(containers) = ended_here {
            killed.extend(containers.not_ended().into_keys());
            if tokio::time::timeout(FINISH_LIMIT, containers.finish()).await.is_err() {
                tracing::warn!(
                    "containers may be left: the Docker engine took too long; the next start removes them"
                );
            }
        }
        if let Some(door) = self.door {
            let _ = tokio::time::timeout(PART_GRACE, door.close()).await;
        }
        self.shipper.shutdown(part()).await;
        let is_clean = ingress == wharf_ingress::Shutdown::Clean && outcome == Some(Shutdown::Clean);
        Stopped { are_requests_cut: !is_clean || has_cut.into_inner(), killed }
    }
}

/// Writes a file that is whole, old or new, whenever the machine stops. Nobody else can read it.
pub fn write_whole(file: &Path, text: &str) -> std::io::Result<()> {
    let mut draft = tempfile::NamedTempFile::new_in(file.parent().unwrap_or(Path::new(".")))?;
    draft.write_all(text.as_bytes())?;
    draft.as_file().sync_all()?;
    draft.persist(file)?;
    Ok(())
}

/// This node's id, the same after every start.
pub fn node_id(folder: &Path) -> anyhow::Result<NodeId> {
    let file = folder.join("node.id");
    match std::fs::read_to_string(&file) {
        Ok(text) => text.trim().parse().with_context(|| format!("{} is damaged", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(folder)?;
            let node = NodeId::new();
            write_whole(&file, &format!("{node}\n"))?;
            Ok(node)
        }
        Err(error) => Err(error.into()),
    }
}

/// This process, as the control plane tells it from those before. The folder's lock is held, so no other process works with it.
fn incarnation(folder: &Path) -> anyhow::Result<Incarnation> {
    let file = folder.join("incarnation");
    let before = match std::fs::read_to_string(&file) {
        Ok(text) => {
            text.trim().parse().with_context(|| format!("{} is damaged: remove it", file.display()))?
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error.into()),
    };
    let clock = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
    let number = Incarnation::number_after(before, clock);
    write_whole(&file, &format!("{number}\n"))?;
    let home = std::fs::metadata(folder)?;
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let home = format!("{}:{}:{}", boot.trim(), home.dev(), home.ino());
    Ok(Incarnation { number, process: ProcessId::new(), home })
}

/// What this machine says of itself.
pub fn registration(labels: Vec<(String, String)>, role: &str) -> anyhow::Result<NodeRegistration> {
    let hostname =
        nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    // A quarter is left to the system and to this process itself.
    let memory_bytes = wharf_runtime::machine::memory_total_bytes().unwrap_or(1 << 30) / 4 * 3;
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
    let registration = NodeRegistration {
        hostname,
        memory_bytes,
        cpus,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        labels: labels.into_iter().collect(),
        os: std::env::consts::OS.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        role: role.to_owned(),
        ..NodeRegistration::default()
    };
    registration.validate().context("--label")?;
    Ok(registration)
}

/// An error that the ingress made itself belongs into the log of the app that it was made for.
fn tell_app(logs: &LogSink, error: &IngressError) {
    let (Some(namespace), Some(app)) = (&error.namespace, &error.app) else { return };
    static RATE_LIMITED: AtomicI64 = AtomicI64::new(i64::MIN);
    static QUOTA_REACHED: AtomicI64 = AtomicI64::new(i64::MIN);
    let is_told = match error.code {
        ErrorCode::RateLimited => is_first_of_second(&RATE_LIMITED),
        ErrorCode::QuotaReached => is_first_of_second(&QUOTA_REACHED),
        _ => true,
    };
    if !is_told {
        return;
    }
    let detail = error.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
    let message = format!(
        "{} {} answered {} ({}){detail} [request {}]",
        error.method,
        error.path,
        error.code.status().as_u16(),
        error.code.as_str(),
        error.request_id
    );
    logs.push(of_ingress(namespace, app, error.instance, message));
}

/// Requests beyond a quota come by the thousand, and would drive everything else out of the app's log; the metrics count them all.
fn is_first_of_second(told: &AtomicI64) -> bool {
    let now = Timestamp::now().as_second();
    told.swap(now, Ordering::Relaxed) != now
}

/// The same for its ports.
fn tell_app_of_port(logs: &LogSink, error: &TcpError) {
    logs.push(of_ingress(&error.namespace, &error.app, error.instance, error.to_string()));
}

fn of_ingress(
    namespace: &NamespaceName,
    app: &AppName,
    instance: Option<InstanceId>,
    message: String,
) -> LogRecord {
    LogRecord {
        time: Timestamp::now(),
        namespace: namespace.clone(),
        app: app.clone(),
        job: None,
        release: 0,
        instance: instance.unwrap_or_else(|| InstanceId::from_uuid(uuid::Uuid::nil())),
        stream: LogStream::Platform,
        seq: 0,
        message,
    }
}

/// The guests of this process that listen, as the ingress sees them.
struct LocalPlaces(Arc<Ports>, Arc<Reach>);

impl TcpPlaces for LocalPlaces {
    fn admit(&self, instance: InstanceId, port: u16) -> Option<TcpPlace> {
        let place = self.0.admit(instance, port)?;
        let (address, cut, gone) = (place.address, place.cut.clone(), place.gone.clone());
        Some(TcpPlace { address, cut, gone, held: Box::new(place) })
    }

    fn admit_by_name(&self, instance: InstanceId, port: u16) -> Option<TcpPlace> {
        let (address, gone) = self.1.container_at(instance, port)?;
        Some(TcpPlace { address, cut: CancellationToken::new(), gone, held: Box::new(()) })
    }
}

/// The containers of other nodes, for guests and containers of this one.
struct OthersContainers(ContainerConnector);

impl FarContainers for OthersContainers {
    fn connect(
        &self,
        containers: Vec<(NodeId, InstanceId)>,
        port: u16,
    ) -> BoxFuture<'static, Result<FarStream, String>> {
        let connector = self.0.clone();
        Box::pin(async move {
            let stream = connector.connect(&containers, port).await?;
            Ok(Box::pin(stream) as FarStream)
        })
    }

    fn exchange(
        &self,
        containers: Vec<(NodeId, InstanceId)>,
        port: u16,
    ) -> BoxFuture<'static, Result<FarDatagrams, String>> {
        let connector = self.0.clone();
        Box::pin(async move {
            let DatagramFlow { to, from } = connector.exchange(&containers, port).await?;
            Ok(FarDatagrams { to, from })
        })
    }
}

/// The artifacts of this process, for other nodes.
struct OwnArtifacts(Arc<Artifacts>);

impl PeerArtifacts for OwnArtifacts {
    fn give(&self, digest: Digest, key: String) -> BoxFuture<'static, Option<(u64, ArtifactBytes)>> {
        let artifacts = self.0.clone();
        Box::pin(async move {
            let (bytes, file) = artifacts.give(digest, &key).await?;
            let chunks: ArtifactBytes = Box::pin(ReaderStream::with_capacity(file, CHUNK_BYTES));
            Some((bytes, chunks))
        })
    }
}

/// The artifacts of other nodes, for this process.
struct OthersArtifacts(ArtifactReader);

impl ArtifactPeers for OthersArtifacts {
    fn ask(&self, node: NodeId, digest: Digest, key: String) -> BoxFuture<'static, Asked> {
        let reader = self.0.clone();
        Box::pin(async move { reader.ask(node, digest, &key).await })
    }
}

/// What the guests and containers of this process send, out of the budget that their answers come from.
struct SameBudget(Egress);

impl wharf_runtime::wasm::outbound::Egress for SameBudget {
    fn owed(&self, namespace: &NamespaceName) -> Option<Duration> {
        self.0.owed(namespace)
    }

    fn took(&self, namespace: &NamespaceName, octets: usize) {
        self.0.took(namespace, octets);
    }

    fn limits(&self) -> Vec<EgressLimit> {
        let limit = |budget: EgressBudget| {
            let EgressBudget { namespace, bytes_per_second, taken, has_waited } = budget;
            EgressLimit { namespace, bytes_per_second, taken, has_waited }
        };
        self.0.budgets().into_iter().map(limit).collect()
    }
}

/// The apps of other nodes, and those that sleep, for guests of this process.
struct OthersApps(NeighbourCaller);

impl FarNeighbours for OthersApps {
    fn call(
        &self,
        namespace: NamespaceName,
        app: AppName,
        request: http::Request<FarBody>,
    ) -> BoxFuture<'static, Result<Response<FarBody>, FarError>> {
        let caller = self.0.clone();
        Box::pin(async move { caller.call(&namespace, &app, request).await.map_err(far) })
    }

    fn wake(&self, namespace: NamespaceName, app: AppName) -> BoxFuture<'static, Result<(), FarError>> {
        let caller = self.0.clone();
        Box::pin(async move { caller.wake(&namespace, &app).await.map_err(far) })
    }

    fn count(&self, namespace: &NamespaceName, app: &AppName) -> Option<Counted> {
        self.0.count(namespace, app).map(|call| Box::new(call) as Counted)
    }
}

fn far(error: NeighbourError) -> FarError {
    match error {
        NeighbourError::NoneReady => FarError::NotFound,
        NeighbourError::Asleep(why) | NeighbourError::Unreachable(why) => FarError::Unavailable(why),
        NeighbourError::Busy => FarError::Unavailable(error.to_string()),
        NeighbourError::Timeout(why) => FarError::Timeout(why),
        NeighbourError::Lost(why) => FarError::Lost(why),
        NeighbourError::Failed(why) => FarError::Failed(why),
    }
}

/// The guests of this process, as the ingress sees them.
#[derive(Clone)]
struct LocalGuests(Arc<Table>);

impl tower::Service<LocalCall> for LocalGuests {
    type Response = Response<AnswerBody>;
    type Error = CallError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, CallError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: LocalCall) -> Self::Future {
        // The ingress holds its route table during this call only, so the request must have its place in the instance when
        // this returns: otherwise the instance may be stopped between the choice and the first poll.
        let admission = self.0.admit(call.instance);
        Box::pin(async move {
            let mut answer = admission.call(call.request).await.map_err(|error| match error {
                DispatchError::NotHere(request) => CallError::NotHere(request),
                DispatchError::Busy(request) => CallError::Busy(Some(request)),
                DispatchError::Invoke(error) => call_error(&error),
            })?;
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS
                && let Some(connection) = answer.body_mut().take_connection()
            {
                let (cut, gone) = (connection.cut(), connection.gone());
                answer.extensions_mut().insert(Upgraded::new(connection, cut, gone));
            }
            Ok(answer)
        })
    }
}

fn call_error(error: &InvokeError) -> CallError {
    match error {
        InvokeError::Busy => CallError::Busy(None),
        InvokeError::OverQuota(text) => CallError::OverQuota(text.clone()),
        InvokeError::Timeout(_) | InvokeError::Cpu(_) => CallError::Timeout(error.to_string()),
        InvokeError::BodyTooLarge => CallError::BodyTooLarge,
        InvokeError::BadRequest(text) => CallError::BadRequest(text.clone()),
        InvokeError::Stopped
        | InvokeError::Trap(_)
        | InvokeError::NoResponse
        | InvokeError::Guest(_)
        | InvokeError::Platform(_) => CallError::Failed(error.to_string()),
    }
}
