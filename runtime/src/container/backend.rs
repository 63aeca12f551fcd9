//! The side of the [`Backend`] seam that runs containers, and the one that has both sides.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{RwLock, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};
use wharf_docker::{
    Engine, EngineError, Exit, Found, FoundState, ImageError, ImageId, LogLimit, NetworkError, NetworkJoin,
    NetworkName, Owner, Run as ContainerRun, Stopped, Usage, VolumeMount,
};
use wharf_types::node::{AppUsage, AssignedInstance, ReasonKind};
use wharf_types::problem::ProblemCode;
use wharf_types::quantity::ByteSize;
use wharf_types::spec::ContainerHealthSpec;
use wharf_types::state::InstanceState;
use wharf_types::{InstanceId, NamespaceName, Problem};

use super::brought::{self, Images};
use super::disk;
use super::egress;
use super::images::{self, EnsureError, Progress, failed};
use super::output::{self, Marks};
use super::run;
use super::upstream::{Bounds, Upstream};
use super::usage::{Measured, keep_measured};
use crate::artifacts::Artifacts;
use crate::backend::{Backend, Ended, Failure, Run};
use crate::drain::{self, Draining};
use crate::logs::LogSink;
use crate::probe::probe;
use crate::reach::Reach;
use crate::secrets::SecretStore;
use crate::space::{Hold, Space};
use crate::wasm::app::{Outputs, outputs};
use crate::wasm::backend::{WasmBackend, connections_cut, job_variables, requests_cut};
use crate::wasm::meters::Meters;
use crate::wasm::outbound::Egress;
use crate::wasm::ports::{Listening, Ports};
use crate::wasm::table::{DispatchError, Table, Target};
use crate::wasm::volumes::{Mounts, Volumes, Written};

/// Between tries while the engine is away.
const RETRY: Duration = Duration::from_secs(1);
/// How long a network is kept that nobody needs.
const NETWORKS_LINGER: Duration = Duration::from_secs(10);
/// The least time between the signal to end and the end, unless there is no time at all.
const GRACE_MIN: Duration = Duration::from_millis(500);

/// How long a container may take to end that has done what it may not.
const END_GRACE: Duration = Duration::from_secs(5);
/// How long the end of a run waits until all that it printed was read, and for how long where somebody waits for its stop.
const OUTPUT_LIMIT: Duration = Duration::from_secs(10);
const STOPPED_OUTPUT_LIMIT: Duration = Duration::from_secs(2);

/// To the port that answers HTTP, and to the others.
type WaysIn = (Option<Arc<Upstream>>, Option<Arc<Listening>>);

/// What this shares with the Wasm side of the same worker.
pub struct Shared {
    pub artifacts: Arc<Artifacts>,
    pub space: Arc<Space>,
    pub table: Arc<Table>,
    pub ports: Arc<Ports>,
    pub reach: Arc<Reach>,
    pub volumes: Arc<Volumes>,
    pub secrets: Arc<SecretStore>,
    pub logs: LogSink,
}

/// Runs instances in the containers of a Docker engine.
pub struct ContainerBackend {
    engine: Engine,
    shared: Shared,
    marks: Marks,
    images: Images,
    meters: Meters,
    /// How far the images are that are being brought.
    bringing: Progress,
    prepared: Mutex<HashMap<InstanceId, Prepared>>,
    running: Mutex<HashMap<InstanceId, Live>>,
    /// Whether containers are left running when this process ends.
    leaves: CancellationToken,
    draining: Draining,
    sweep: Sweep,
    /// Held by those who make networks until their instances are in `prepared`, and held whole to remove networks that nobody needs.
    networks: RwLock<()>,
    /// Whether somebody will look for networks that nobody needs.
    looks_for_networks: AtomicBool,
    own: Weak<Self>,
}

/// How far it has come that what is left of a process before this one is removed.
#[derive(Default)]
struct Sweep {
    has_begun: AtomicBool,
    is_done: AtomicBool,
}

impl Sweep {
    /// False: it is under way, or done.
    fn begin(&self) -> bool {
        !self.has_begun.swap(true, Ordering::AcqRel)
    }

    /// One that failed is begun again.
    fn end(&self, is_done: bool) {
        if is_done {
            self.is_done.store(true, Ordering::Release);
        } else {
            self.has_begun.store(false, Ordering::Release);
        }
    }
}

struct Prepared {
    /// With its namespace, as people are told of it.
    app: String,
    /// What it may take to end.
    drain: Duration,
    disk_max: ByteSize,
    image: ImageId,
    health: Option<ContainerHealthSpec>,
    networks: Vec<NetworkJoin>,
    /// It ran before this process began.
    is_adopted: bool,
    /// Nobody else may write to them until the container is gone.
    volumes: Option<Arc<Mounts>>,
    _held: Hold,
}

struct Live {
    /// Of a run of a job, once all that it printed was read.
    ended: watch::Receiver<Option<Ended>>,
    ids: Vec<InstanceId>,
    upstream: Option<Arc<Upstream>>,
    listening: Option<Arc<Listening>>,
    health: Option<ContainerHealthSpec>,
    measured: Measured,
    is_run: bool,
    /// Whether the engine has said how it ended.
    has_ended: Arc<AtomicBool>,
    /// Why this worker ends it, if it does.
    ended_for: Arc<OnceLock<Failure>>,
    platform: crate::wasm::stdio::GuestOutput,
    _follows: AbortOnDropHandle<()>,
    _waits: AbortOnDropHandle<()>,
}

impl Live {
    fn has_ways_in(&self) -> bool {
        self.upstream.is_some() || self.listening.is_some()
    }
}

impl ContainerBackend {
    /// `marks` is a folder for how far the containers' output was read, and which images were brought. To be called within a runtime.
    pub fn new(engine: Engine, shared: Shared, marks: PathBuf) -> io::Result<Arc<Self>> {
        let marks = Marks::new(marks)?;
        let images = Images::new(marks.folder());
        let backend = Arc::new_cyclic(|own| Self {
            engine,
            shared,
            marks,
            images,
            meters: Meters::default(),
            bringing: Progress::default(),
            prepared: Mutex::default(),
            running: Mutex::default(),
            leaves: CancellationToken::new(),
            draining: Draining::default(),
            sweep: Sweep::default(),
            networks: RwLock::default(),
            looks_for_networks: AtomicBool::new(false),
            own: own.clone(),
        });
        tokio::spawn(keep_measured(Arc::downgrade(&backend)));
        tokio::spawn(brought::keep_few(Arc::downgrade(&backend)));
        tokio::spawn(egress::keep(Arc::downgrade(&backend)));
        tokio::spawn(disk::keep_bounded(Arc::downgrade(&backend)));
        Ok(backend)
    }

    /// From here on, stopping an instance leaves its container as it is, for the next process to adopt.
    pub fn leave_containers(&self) {
        self.leaves.cancel();
    }

    /// The containers that have not ended yet, by app, with what each may take from its signal to its end.
    pub fn not_ended(&self) -> BTreeMap<String, Duration> {
        let over = self.runs_that_are_over();
        let mut apps = BTreeMap::new();
        for (_, prepared) in self.known().iter().filter(|(id, _)| !over.contains(id)) {
            let longest: &mut Duration = apps.entry(prepared.app.clone()).or_default();
            *longest = prepared.drain.max(*longest);
        }
        apps
    }

    /// Leaves nothing behind: what has not ended is killed, and what was killed is removed. What has ended of a run of a job stays, until the
    /// control plane knows how.
    pub async fn finish(&self) {
        let over = self.runs_that_are_over();
        let left: Vec<InstanceId> = self.known().keys().filter(|id| !over.contains(id)).copied().collect();
        futures::future::join_all(left.iter().map(|id| self.remove(*id))).await;
        // One that was just about to start, or about to be removed.
        if let Err(error) = self.engine.remove_unwanted(|id| over.contains(&id)).await {
            warn!("containers that are to be removed may be left: {error}");
        }
        self.remove_networks().await;
        egress::leave_nothing(&self.engine).await;
    }

    /// Of which the control plane may not have heard yet.
    fn runs_that_are_over(&self) -> HashSet<InstanceId> {
        let live = self.live();
        let over = live.iter().filter(|(_, it)| it.is_run && it.has_ended.load(Ordering::Relaxed));
        over.map(|(id, _)| *id).collect()
    }

    /// Totals of every release that runs here, or did a short time ago.
    pub fn usage(&self) -> Vec<AppUsage> {
        self.meters.read(std::time::Instant::now())
    }

    /// Whether nothing is left of a process before this one but what is to run.
    pub fn has_swept(&self) -> bool {
        self.sweep.is_done.load(Ordering::Acquire)
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Who counts what namespaces send. None: the front door is not open yet.
    pub(super) fn egress(&self) -> Option<Arc<dyn Egress>> {
        self.shared.table.egress().get().cloned()
    }

    pub(super) fn running_ids(&self) -> Vec<InstanceId> {
        self.live().keys().copied().collect()
    }

    /// What is asked of an instance that does not run is refused.
    pub(super) fn must_run(&self, id: InstanceId) -> Result<(), Problem> {
        if self.live().contains_key(&id) {
            return Ok(());
        }
        let detail = format!("the instance {id} does not run any more; try again");
        Err(Problem::new(ProblemCode::Conflict, detail))
    }

    pub(super) fn volumes_folder(&self) -> PathBuf {
        self.shared.volumes.dir().to_owned()
    }

    /// What a container may write outside its volumes, and the volumes that it writes to.
    pub(super) fn may_write(&self, id: InstanceId) -> Option<(ByteSize, Option<Written>)> {
        let known = self.known();
        let prepared = known.get(&id)?;
        Some((prepared.disk_max, prepared.volumes.as_ref().map(|volumes| volumes.written())))
    }

    /// Ends a container for a reason of this worker's, unless it has ended already.
    pub(super) async fn end_for(&self, id: InstanceId, failure: Failure) {
        {
            let live = self.live();
            let runs = |live: &&Live| !live.has_ended.load(Ordering::Relaxed);
            let Some(live) = live.get(&id).filter(runs) else { return };
            live.platform.say(&failure.reason.message);
            let _ = live.ended_for.set(failure);
        }
        if let Err(error) = self.engine.stop(id, END_GRACE).await {
            warn!(instance.id = %id, "could not end the container of instance {id}: {error}");
        }
    }

    pub(super) fn measured(&self, id: InstanceId, usage: Usage) {
        if let Some(live) = self.live().get_mut(&id) {
            live.measured.take(usage);
        }
    }

    fn live(&self) -> MutexGuard<'_, HashMap<InstanceId, Live>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<InstanceId, Prepared>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ensure_image(&self, run: &Run) -> Result<ImageId, EnsureError> {
        let given = (&self.shared.artifacts, &*self.shared.secrets);
        let told = self.bringing.of(run.id);
        images::ensure((&self.engine, &self.images), given, self.marks.folder(), &run.assigned, &told).await
    }

    /// Gives the engine back images that were brought for what is neither assigned nor runs. Returns how many have gone.
    pub(super) async fn remove_unused_images(&self, kept_for: Duration) -> usize {
        self.images.remove_unused(&self.engine, || self.shared.space.used(), kept_for).await
    }

    async fn prepare_new(&self, run: &Run) -> Result<(), Failure> {
        let assigned = &run.assigned;
        let adopted = self.to_be_adopted(run).await?;
        let is_adopted = adopted.is_some();
        let held = self.shared.space.hold(assigned);
        let image = match adopted.and_then(|found| found.image) {
            Some(image) => {
                self.images.used(image, assigned.artifact);
                image
            }
            None => {
                let ensured = self.ensure_image(run).await;
                // With what nothing needs gone, it may fit.
                let is_full = matches!(ensured, Err(EnsureError::DiskFull(_)));
                if is_full && self.remove_unused_images(Duration::ZERO).await > 0 {
                    self.ensure_image(run).await?
                } else {
                    ensured?
                }
            }
        };
        let config = patiently(is_adopted, || self.engine.image_config(image));
        let config = config.await.map_err(|error| failed(&error, error.is_retryable()))?;
        // How a run does is said by its end.
        let health =
            if assigned.job.is_some() { None } else { run::health(&assigned.spec.container, &config) };
        let _making = self.networks.read().await;
        let mut networks = Vec::new();
        for (joins, aliases) in run::networks(assigned) {
            let made = patiently(is_adopted, || self.ensure_network(&assigned.namespace, joins));
            let network = made.await.map_err(|error| {
                if matches!(error, NetworkError::NoSubnet) {
                    self.remove_networks_after(Duration::ZERO);
                }
                failed(&error, true)
            })?;
            networks.push(NetworkJoin { network, aliases });
        }
        let prepared = Prepared {
            app: format!("{}/{}", assigned.namespace, assigned.app),
            drain: assigned.spec.stop.drain.as_duration(),
            disk_max: assigned.spec.container.disk_max(),
            image,
            health,
            networks,
            is_adopted,
            volumes: None,
            _held: held,
        };
        self.known().insert(run.id, prepared);
        Ok(())
    }

    /// The container of an instance that ran in a process before this one. One that has gone meanwhile is never made again. While the
    /// engine does not answer nothing is known, so it is waited for.
    async fn to_be_adopted(&self, run: &Run) -> Result<Option<Found>, Failure> {
        if run.id != run.assigned.id || run.assigned.observed < InstanceState::Starting {
            return Ok(None);
        }
        let found = patiently(true, || self.engine.find(run.id));
        match found.await.map_err(|error| failed(&error, true))? {
            Some(found) if found.state != FoundState::Created => Ok(Some(found)),
            _ => {
                let message = "its container was gone when the worker started again";
                Err(Failure::new(ReasonKind::Platform, message))
            }
        }
    }

    async fn start_new(&self, run: &Run) -> Result<(), Failure> {
        let (image, health, networks, is_adopted) = match self.known().get(&run.id) {
            Some(known) => (known.image, known.health.clone(), known.networks.clone(), known.is_adopted),
            None => {
                let message = "the instance was started before it was prepared";
                return Err(Failure::new(ReasonKind::Platform, message));
            }
        };
        let assigned = &run.assigned;
        self.shared.logs.hide(run.id, self.shared.secrets.mask(assigned));
        let volumes = self.shared.volumes.mount(assigned).await?;
        if let Some(overfull) = volumes.as_ref().and_then(|volumes| volumes.written().overfull()) {
            return Err(disk::is_overfull(&overfull));
        }
        if let Some(prepared) = self.known().get_mut(&run.id) {
            prepared.volumes = volumes;
        }
        if !is_adopted {
            self.start_container(run, image, networks.clone()).await?;
        }
        let found = patiently(is_adopted, || self.engine.find(run.id));
        let Some(found) = found.await.map_err(|error| failed(&error, true))? else {
            return Err(Failure::new(ReasonKind::Platform, "somebody has removed the container at once"));
        };
        let (upstream, listening) = self.ways_in(assigned, &found, &networks)?;
        let is_run = assigned.job.is_some();
        let reach = self.shared.reach.clone();
        let address = run::address(&found, networks.first().map(|join| &join.network));
        if let Some(address) = address.filter(|_| !is_run) {
            // What is apart from others is called so in its networks, and not by guests.
            let known = if assigned.spec.names.is_empty() { &networks[..] } else { &[] };
            let names = known.iter().flat_map(|join| join.aliases.iter().map(String::as_str));
            reach.names.insert(&assigned.namespace, assigned.app.as_str(), names, (run.id, address));
        }
        reach.containers.insert(run::present(assigned, run.id, &found, address));
        let Outputs { platform, .. } = outputs(&self.shared.logs, run.id, assigned);
        let follows = output::follow(
            self.engine.clone(),
            run.id,
            outputs(&self.shared.logs, run.id, assigned),
            self.marks.clone(),
        );
        let (read, all_read) = oneshot::channel();
        let follows = AbortOnDropHandle::new(tokio::spawn(async move {
            follows.await;
            let _ = read.send(());
        }));
        let (ended_tx, ended) = watch::channel(None);
        let (engine, logs, id) = (self.engine.clone(), self.shared.logs.clone(), run.id);
        let of_ended = upstream.clone();
        let has_ended = Arc::new(AtomicBool::new(false));
        let says_ended = has_ended.clone();
        let ended_for = Arc::<OnceLock<Failure>>::default();
        let reason = ended_for.clone();
        let waits = AbortOnDropHandle::new(tokio::spawn(async move {
            let exit = engine.wait(id).await;
            says_ended.store(true, Ordering::Relaxed);
            // What somebody finds out later has not ended it.
            let reason = reason.get().cloned();
            reach.containers.end(id);
            if let Some(upstream) = of_ended {
                upstream.end();
            }
            if is_run {
                let _ = timeout(OUTPUT_LIMIT, all_read).await;
            }
            let ended = match reason {
                Some(failure) => Ended::Failed(Failure { exit_code: code_of(&exit), ..failure }),
                None => into_ended(&exit, &logs.tail(id), is_run),
            };
            ended_tx.send_replace(Some(ended));
        }));
        let mut ids = run.replaces.clone();
        ids.push(run.id);
        if let Some(upstream) = &upstream {
            self.shared.table.insert(&ids, Target::Container(upstream.clone()));
        }
        if let Some(listening) = &listening {
            self.shared.ports.insert(&ids, listening);
        }
        if is_adopted {
            info!(instance.id = %run.id, "the container of instance {} of {} is adopted", run.id, assigned.app);
        }
        let meter = self.meters.of(&assigned.namespace, &assigned.app, assigned.release);
        let live = Live {
            ended,
            ids,
            upstream,
            listening,
            health,
            measured: Measured::new(meter, is_adopted),
            is_run,
            has_ended,
            ended_for,
            platform,
            _follows: follows,
            _waits: waits,
        };
        self.live().insert(run.id, live);
        Ok(())
    }

    async fn start_container(
        &self,
        run: &Run,
        image: ImageId,
        networks: Vec<NetworkJoin>,
    ) -> Result<(), Failure> {
        let assigned = &run.assigned;
        let (spec, container) = (&assigned.spec, &assigned.spec.container);
        let environment = self.shared.secrets.environment(assigned)?;
        let (mut env, files) = run::split(container, &environment)?;
        let port = container.http_port.map(|port| port.to_string());
        if let Some(port) = &port
            && !env.iter().any(|(name, _)| *name == "PORT")
        {
            env.push(("PORT", port));
        }
        let of_job: Vec<(&str, String)> = assigned.job.iter().flat_map(job_variables).collect();
        env.extend(of_job.iter().map(|(name, value)| (*name, value.as_str())));
        let volumes = spec.volumes.iter().filter_map(|volume| {
            let known = assigned.volumes.iter().find(|known| known.name == volume.name)?;
            let folder = self.shared.volumes.folder(known.id);
            Some(VolumeMount { folder, path: volume.path.clone(), is_read_only: volume.read_only })
        });
        let run = ContainerRun {
            id: run.id,
            owner: Owner {
                namespace: assigned.namespace.clone(),
                app: assigned.app.clone(),
                release: assigned.release,
                slot: assigned.slot,
            },
            image,
            spec: container,
            args: &spec.args,
            env,
            memory: spec.limits.memory,
            volumes: volumes.collect(),
            networks,
            files,
            stop_grace: spec.stop.drain.as_duration(),
            dns: match container.host_network {
                true => Vec::new(),
                false => self.shared.reach.dns().iter().map(ToString::to_string).collect(),
            },
            log: LogLimit::default(),
        };
        let started = self.engine.create_and_start(&run).await;
        started.map_err(|error| failed(&error, error.is_retryable()))
    }

    /// How requests and connections get to the container.
    fn ways_in(
        &self,
        assigned: &AssignedInstance,
        found: &Found,
        networks: &[NetworkJoin],
    ) -> Result<WaysIn, Failure> {
        let spec = &assigned.spec;
        let is_asked = spec.container.http_port.is_some() || !spec.tcp.ports.is_empty();
        if !is_asked || found.state != FoundState::Running {
            return Ok((None, None));
        }
        let Some(address) = run::address(found, networks.first().map(|join| &join.network)) else {
            return Err(Failure::new(ReasonKind::Platform, "the container has no address in any network"));
        };
        let bounds = Bounds {
            concurrency: spec.limits.concurrency,
            timeout: spec.limits.timeout.as_duration(),
            request_body_max: spec.limits.request_body.as_bytes(),
        };
        let meter = self.meters.of(&assigned.namespace, &assigned.app, assigned.release);
        let upstream =
            spec.container.http_port.map(|port| Upstream::new((address, port).into(), bounds, meter));
        let listening = Listening::elsewhere(&spec.tcp, &run::tcp_addresses(assigned, address));
        Ok((upstream, listening))
    }

    async fn ensure_network(
        &self,
        namespace: &NamespaceName,
        joins: run::Joins<'_>,
    ) -> Result<NetworkName, NetworkError> {
        match joins {
            run::Joins::Own => self.engine.ensure_network(namespace, None).await,
            run::Joins::Other(name) => self.engine.ensure_network(namespace, Some(name)).await,
            run::Joins::Internal(name) => self.engine.ensure_internal_network(namespace, name).await,
        }
    }

    /// Does that later: whoever comes in the place of an instance mostly needs the same networks, and to make one takes a while.
    fn remove_networks_after(&self, time: Duration) {
        if self.looks_for_networks.swap(true, Ordering::Relaxed) && !time.is_zero() {
            return;
        }
        let backend = self.own.clone();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            let Some(backend) = backend.upgrade() else { return };
            backend.looks_for_networks.store(false, Ordering::Relaxed);
            backend.remove_networks().await;
        });
    }

    /// Gives the engine back the networks of instances that are over; it has not many.
    async fn remove_networks(&self) {
        let _alone = self.networks.write().await;
        let in_use = self.known().values().flat_map(|it| &it.networks).map(|it| it.network.clone()).collect();
        if let Err(error) = self.engine.remove_unwanted_networks(&in_use).await {
            warn!("networks that nobody needs any more may be left: {error}");
        }
    }

    /// Takes an instance out of the ways in, waits for what is open, and ends its container in what is left of the time: how much that was.
    async fn end(
        &self,
        id: InstanceId,
        live: Option<&Live>,
        drain: Duration,
    ) -> (Duration, Result<Stopped, EngineError>) {
        let began = Instant::now();
        if let Some(live) = live {
            let _drains = live.has_ways_in().then(|| self.draining.begin(id, drain));
            self.close(live, drain).await;
        }
        let grace = match drain.is_zero() {
            true => Duration::ZERO,
            false => drain.saturating_sub(began.elapsed()).max(GRACE_MIN),
        };
        (grace, self.engine.stop(id, grace).await)
    }

    /// How long what is open of each instance may go on, if all have to end now.
    fn drains(&self) -> Vec<(InstanceId, Duration)> {
        let live = self.live();
        let running: Vec<InstanceId> =
            live.iter().filter(|(_, it)| it.has_ways_in()).map(|(id, _)| *id).collect();
        drop(live);
        let known = self.known();
        let of_running = running.into_iter().filter_map(|id| Some((id, known.get(&id)?.drain)));
        of_running.chain(self.draining.left()).collect()
    }

    /// Cuts what is open of an instance after that time, while its container goes on. `false`: nothing was.
    async fn cut_open(&self, id: InstanceId, drain: Duration) -> bool {
        let ways_in = self
            .live()
            .get(&id)
            .map(|live| (live.upstream.clone(), live.listening.clone(), live.platform.clone()));
        let Some((upstream, listening, platform)) = ways_in else { return false };
        let are_requests_cut = upstream.is_some_and(|upstream| upstream.cut_open());
        if are_requests_cut {
            platform.say(&requests_cut(drain));
        }
        let Some(listening) = listening.filter(|listening| listening.has_open()) else {
            return are_requests_cut;
        };
        listening.cut().await;
        platform.say(&connections_cut(drain));
        true
    }

    /// Takes an instance out of the ways in, and waits for what is open.
    async fn close(&self, live: &Live, drain: Duration) {
        if let Some(upstream) = &live.upstream {
            self.shared.table.remove(&live.ids, &Target::Container(upstream.clone()));
        }
        if let Some(listening) = &live.listening {
            self.shared.ports.remove(&live.ids, listening);
        }
        let http = async {
            if let Some(upstream) = &live.upstream
                && !upstream.drain(drain).await
            {
                live.platform.say(&requests_cut(drain));
            }
        };
        let tcp = async {
            let Some(listening) = &live.listening else { return };
            let mut ended = live.ended.clone();
            let all_closed = tokio::select! {
                all_closed = listening.drain(drain) => all_closed,
                _ = ended.wait_for(Option::is_some) => true,
            };
            if !all_closed {
                listening.cut().await;
                live.platform.say(&connections_cut(drain));
            }
        };
        tokio::join!(http, tcp);
    }
}

/// What is left to do for an instance that is over.
struct Removing {
    engine: Engine,
    marks: Marks,
    logs: LogSink,
    /// With its claim on volumes, which lasts as long as something could write to them.
    prepared: Option<Prepared>,
}

impl Removing {
    /// Tries until the container is gone, however long the engine is away.
    async fn until_gone(self, id: InstanceId) {
        while let Err(error) = self.engine.remove(id).await {
            warn!(instance.id = %id, "the container of instance {id} is not removed yet: {error}");
            tokio::time::sleep(RETRY).await;
        }
        self.marks.forget(id);
        self.logs.forget(id);
        drop(self.prepared);
    }
}

/// Calls again and again while the engine is away, if there is reason to wait for that.
async fn patiently<T, E: Retryable, F: Future<Output = Result<T, E>>>(
    waits: bool,
    mut call: impl FnMut() -> F,
) -> Result<T, E> {
    loop {
        match call().await {
            Err(error) if waits && error.is_retryable() => tokio::time::sleep(RETRY).await,
            outcome => return outcome,
        }
    }
}

/// An error of the engine's crate.
trait Retryable {
    fn is_retryable(&self) -> bool;
}

impl Retryable for EngineError {
    fn is_retryable(&self) -> bool {
        self.is_retryable()
    }
}

impl Retryable for ImageError {
    fn is_retryable(&self) -> bool {
        self.is_retryable()
    }
}

impl Retryable for NetworkError {
    fn is_retryable(&self) -> bool {
        match self {
            Self::Engine(error) => error.is_retryable(),
            Self::NoSubnet | Self::NameTaken { .. } => false,
        }
    }
}

fn code_of(exit: &Exit) -> Option<i32> {
    match exit {
        Exit::Ended { code, .. } => Some(*code),
        Exit::Gone => None,
    }
}

/// How a container ended, with its last words where it failed. A run has the word itself, also where a child of it was killed.
fn into_ended(exit: &Exit, tail: &[String], is_run: bool) -> Ended {
    match exit {
        Exit::Ended { code: 0, error: None, is_out_of_memory } if is_run || !is_out_of_memory => {
            Ended::Success
        }
        Exit::Ended { code, is_out_of_memory, .. } => {
            let kind = if *is_out_of_memory { ReasonKind::Limit } else { ReasonKind::Exit };
            let words = if tail.is_empty() { String::new() } else { format!(": {}", tail.join(" | ")) };
            let failure = Failure::new(kind, format!("{exit}{words}"));
            Ended::Failed(Failure { exit_code: Some(*code), ..failure })
        }
        Exit::Gone => Ended::Failed(Failure::new(ReasonKind::Platform, exit.to_string())),
    }
}

#[async_trait]
impl Backend for ContainerBackend {
    async fn prepare(&self, run: &Run) -> Result<(), Failure> {
        if self.known().contains_key(&run.id) {
            return Ok(());
        }
        self.prepare_new(run).await
    }

    fn progress(&self, id: InstanceId) -> Option<String> {
        self.bringing.read(id)
    }

    async fn start(&self, run: &Run) -> Result<(), Failure> {
        if self.live().contains_key(&run.id) {
            return Ok(());
        }
        self.start_new(run).await
    }

    async fn wait(&self, id: InstanceId) -> Ended {
        let Some(mut ended) = self.live().get(&id).map(|live| live.ended.clone()) else {
            return std::future::pending().await;
        };
        let end = ended.wait_for(Option::is_some).await.map(|end| end.clone());
        match end {
            Ok(Some(end)) => end,
            // It is being stopped, and whoever does that says how it ended.
            _ => std::future::pending().await,
        }
    }

    async fn health_command(&self, id: InstanceId) -> Option<ContainerHealthSpec> {
        self.live().get(&id)?.health.clone()
    }

    async fn probe(&self, id: InstanceId, path: &str, timeout: Duration) -> Result<u16, Failure> {
        let upstream = self.live().get(&id).and_then(|live| live.upstream.clone());
        let Some(upstream) = upstream else {
            return Err(Failure::new(ReasonKind::Platform, "the instance does not run"));
        };
        probe(path, timeout, async |request| {
            upstream.enter_for_check().call(request).await.map_err(|error| {
                let message = match error {
                    DispatchError::NotHere(_) => {
                        "the container does not accept connections at container.http_port".to_owned()
                    }
                    DispatchError::Busy(_) => "the container is busy".to_owned(),
                    DispatchError::Invoke(error) => error.to_string(),
                };
                Failure::new(ReasonKind::Probe, message)
            })
        })
        .await
    }

    async fn run_check(&self, id: InstanceId, command: &[String], timeout: Duration) -> Result<(), Failure> {
        let probe = self.engine.probe_command(id, command, timeout).await;
        let probe = probe.map_err(|error| Failure::new(ReasonKind::Platform, error.to_string()))?;
        let said = self.shared.logs.quotable(id, probe.output.trim());
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        match probe.exit_code {
            Some(0) => Ok(()),
            Some(code) => {
                Err(Failure::new(ReasonKind::Probe, format!("the check ended with exit code {code}{said}")))
            }
            None => Err(Failure::new(
                ReasonKind::Probe,
                format!("the check did not end within {timeout:?}, and was killed{said}"),
            )),
        }
    }

    async fn accepts(&self, id: InstanceId, timeout: Duration) -> Result<(), Failure> {
        let listening = self.live().get(&id).and_then(|live| live.listening.clone());
        match listening {
            Some(listening) => listening.accepts(timeout).await,
            None => Err(Failure::new(ReasonKind::Platform, "the instance does not run, or has no ports")),
        }
    }

    async fn stop(&self, id: InstanceId, drain: Duration) {
        // None: a container that is about to start, or of a process before this one, ends as others do.
        let live = self.live().remove(&id);
        self.shared.reach.names.remove(id);
        self.shared.reach.containers.close(id);
        // Whoever waits for this may give up before its end.
        let _ends = self.shared.reach.containers.ends(id);
        // One that has got its signal goes on as well: the next process gives it its time.
        let Some((grace, stopped)) =
            self.leaves.run_until_cancelled(self.end(id, live.as_ref(), drain)).await
        else {
            return;
        };
        match stopped {
            Ok(Stopped::ByItself) => {}
            Ok(Stopped::Killed) if grace.is_zero() => {}
            Ok(Stopped::Killed) => {
                let said =
                    format!("the container did not end within {grace:?} of its stop signal and was killed");
                match &live {
                    Some(live) => live.platform.say(&said),
                    None => info!(instance.id = %id, "of instance {id}: {said}"),
                }
            }
            Err(error) => warn!(instance.id = %id, "could not stop the container of instance {id}: {error}"),
        }
        if let Some(live) = live.filter(|live| live.is_run) {
            let mut ended = live.ended.clone();
            let _ = timeout(STOPPED_OUTPUT_LIMIT, ended.wait_for(Option::is_some)).await;
        }
    }

    async fn remove(&self, id: InstanceId) {
        // What has ended holds up nobody, such as the one that takes its place.
        let ended = self.live().get(&id).map(|live| live.ended.borrow().is_some());
        let has_ended = ended.unwrap_or(false);
        if ended.is_some() {
            self.stop(id, Duration::ZERO).await;
        }
        if self.leaves.is_cancelled() {
            return;
        }
        let prepared = self.known().remove(&id);
        let holds_volumes = prepared.as_ref().is_some_and(|prepared| prepared.volumes.is_some());
        let removing = Removing {
            engine: self.engine.clone(),
            marks: self.marks.clone(),
            logs: self.shared.logs.clone(),
            prepared,
        };
        // Goes on also when nobody waits for it any more.
        let removed = tokio::spawn(removing.until_gone(id));
        if holds_volumes || !has_ended {
            let _ = removed.await;
        }
        self.remove_networks_after(NETWORKS_LINGER);
    }

    fn is_to_be_swept(&self) -> bool {
        !self.sweep.has_begun.load(Ordering::Acquire)
    }

    async fn sweep(&self, wanted: HashSet<InstanceId>) {
        if !self.sweep.begin() {
            return;
        }
        // What has taken the place of a wanted one meanwhile is no leftover.
        let is_wanted = |id| wanted.contains(&id) || self.known().contains_key(&id);
        let swept = self.engine.remove_unwanted(is_wanted).await;
        self.sweep.end(swept.is_ok());
        match swept {
            Ok(0) => {}
            Ok(removed) => info!("{removed} containers that nothing needs any more were removed"),
            Err(error) => warn!("containers that nothing needs any more may be left: {error}"),
        }
    }

    fn adopts(&self, assigned: &AssignedInstance) -> bool {
        assigned.world.is_container()
    }

    fn has_ended(&self, id: InstanceId) -> bool {
        self.live().get(&id).is_some_and(|live| live.has_ended.load(Ordering::Relaxed))
    }
}

/// Both sides: each instance is run by the one for its artifact.
pub struct Backends {
    wasm: Arc<WasmBackend>,
    /// None: no engine answered when the worker started.
    containers: Option<Arc<ContainerBackend>>,
    /// Instances that are containers, from before they are prepared.
    in_containers: Mutex<BTreeSet<InstanceId>>,
}

impl Backends {
    pub fn new(wasm: Arc<WasmBackend>, containers: Option<Arc<ContainerBackend>>) -> Arc<Self> {
        Arc::new(Self { wasm, containers, in_containers: Mutex::default() })
    }

    /// Cuts the open requests and connections of each instance when the time that its app declares is over, `most` at the longest, while the
    /// instances go on. Returns when that is done for all. `has_cut` becomes true with the first that had something open.
    pub async fn cut_in_time(&self, most: Duration, has_cut: &AtomicBool) {
        let mut drains = self.wasm.drains();
        drains.extend(self.containers.iter().flat_map(|containers| containers.drains()));
        let cut = |id: InstanceId, drain: Duration| async move {
            let was_cut = match &self.containers {
                Some(containers) if containers.cut_open(id, drain).await => true,
                _ => self.wasm.cut_open(id, drain).await,
            };
            has_cut.fetch_or(was_cut, Ordering::Relaxed);
        };
        drain::cut_in_time(drains, most, cut).await;
    }

    fn of(&self, id: InstanceId) -> &dyn Backend {
        let is_container = self.in_containers.lock().unwrap_or_else(PoisonError::into_inner).contains(&id);
        match &self.containers {
            Some(containers) if is_container => &**containers,
            _ => &*self.wasm,
        }
    }

    fn of_run(&self, run: &Run) -> Result<&dyn Backend, Failure> {
        if !run.assigned.world.is_container() {
            return Ok(&*self.wasm);
        }
        let Some(containers) = &self.containers else {
            let message = "no Docker engine answered when this node started: start one, and restart the node";
            return Err(Failure::new(ReasonKind::Platform, message));
        };
        self.in_containers.lock().unwrap_or_else(PoisonError::into_inner).insert(run.id);
        Ok(&**containers)
    }
}

#[async_trait]
impl Backend for Backends {
    async fn prepare(&self, run: &Run) -> Result<(), Failure> {
        self.of_run(run)?.prepare(run).await
    }

    fn progress(&self, id: InstanceId) -> Option<String> {
        self.of(id).progress(id)
    }

    async fn start(&self, run: &Run) -> Result<(), Failure> {
        self.of_run(run)?.start(run).await
    }

    async fn wait(&self, id: InstanceId) -> Ended {
        self.of(id).wait(id).await
    }

    async fn health_command(&self, id: InstanceId) -> Option<ContainerHealthSpec> {
        self.of(id).health_command(id).await
    }

    async fn probe(&self, id: InstanceId, path: &str, timeout: Duration) -> Result<u16, Failure> {
        self.of(id).probe(id, path, timeout).await
    }

    async fn run_check(&self, id: InstanceId, command: &[String], timeout: Duration) -> Result<(), Failure> {
        self.of(id).run_check(id, command, timeout).await
    }

    async fn accepts(&self, id: InstanceId, timeout: Duration) -> Result<(), Failure> {
        self.of(id).accepts(id, timeout).await
    }

    async fn stop(&self, id: InstanceId, drain: Duration) {
        self.of(id).stop(id, drain).await;
    }

    async fn remove(&self, id: InstanceId) {
        let backend = self.of(id);
        self.in_containers.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        backend.remove(id).await;
    }

    fn is_to_be_swept(&self) -> bool {
        self.containers.as_ref().is_some_and(|containers| containers.is_to_be_swept())
    }

    async fn sweep(&self, wanted: HashSet<InstanceId>) {
        if let Some(containers) = &self.containers {
            containers.sweep(wanted).await;
        }
    }

    fn adopts(&self, assigned: &AssignedInstance) -> bool {
        self.containers.as_ref().is_some_and(|containers| containers.adopts(assigned))
    }

    fn has_ended(&self, id: InstanceId) -> bool {
        self.containers.as_ref().is_some_and(|containers| containers.has_ended(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_is_done_only_when_it_has_succeeded() {
        let sweep = Sweep::default();
        let is_done = || sweep.is_done.load(Ordering::Acquire);
        assert!(sweep.begin() && !sweep.begin());
        assert!(!is_done(), "it is under way");
        sweep.end(false);
        assert!(!is_done() && sweep.begin(), "one that failed is begun again");
        sweep.end(true);
        assert!(is_done() && !sweep.begin());
    }

    #[test]
    fn an_end_is_told_with_its_exit_code_and_the_last_words() {
        let exit = |code, is_out_of_memory| Exit::Ended { code, is_out_of_memory, error: None };
        assert_eq!(into_ended(&exit(0, false), &[], false), Ended::Success);
        let Ended::Failed(failure) = into_ended(&exit(7, false), &["no disk".to_owned()], false) else {
            panic!("failed")
        };
        assert_eq!((failure.exit_code, failure.reason.kind), (Some(7), ReasonKind::Exit));
        assert!(failure.reason.message.ends_with("exit code 7: no disk"), "{failure}");
        let Ended::Failed(failure) = into_ended(&exit(137, true), &[], true) else { panic!("failed") };
        assert_eq!(failure.reason.kind, ReasonKind::Limit);
        let Ended::Failed(failure) = into_ended(&Exit::Gone, &[], true) else { panic!("failed") };
        assert_eq!(failure.reason.kind, ReasonKind::Platform);
        assert_ne!(into_ended(&exit(0, true), &[], false), Ended::Success);
        assert_eq!(into_ended(&exit(0, true), &[], true), Ended::Success);
    }
}
