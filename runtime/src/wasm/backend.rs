//! The Wasm side of the [`Backend`] seam, and the way from a request to its instance.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wasmtime_wasi_config::WasiConfigVariables;
use wharf_types::InstanceId;
use wharf_types::figures::NodeFigures;
use wharf_types::node::{AppUsage, AssignedJob, ReasonKind};

use super::admission::Admitted;
use super::allowance::Purpose;
use super::app::{HttpApp, Outputs, outputs};
use super::code::{Code, Fetch, Mapped};
use super::command::CommandEnd;
use super::files::{FileFolders, Mount};
use super::host::{Guest, WasmHost, keep_swept};
use super::keyvalue::{KeyValueHost, KeyValueShares};
use super::lane::Laned;
use super::meters::Meters;
use super::outbound::{Outbound, Outbounds, know_servers};
use super::pool::check_resources;
use super::pool::places_for;
use super::ports::{Listening, Ports};
use super::state::{Template, closed_wasi};
use super::stdio::GuestOutput;
use super::table::{NamespaceNeighbours, Table, Target};
use super::tuning;
use super::volumes::{Mounts, Volumes};
use crate::artifacts::Artifacts;
use crate::backend::{Backend, Ended, Failure, Run};
use crate::control::ControlClient;
use crate::drain::Draining;
use crate::probe::probe;
use crate::reach::Reach;
use crate::secrets::{Environment, SecretStore};
use crate::space::Hold;

/// Runs instances in this process.
pub struct WasmBackend {
    host: Arc<WasmHost>,
    control: ControlClient,
    artifacts: Arc<Artifacts>,
    /// What the instances here are made of, from before they are prepared until they are removed.
    held: Mutex<HashMap<InstanceId, Hold>>,
    table: Arc<Table>,
    ports: Arc<Ports>,
    reach: Arc<Reach>,
    running: Mutex<HashMap<InstanceId, Live>>,
    draining: Draining,
    prepared: Mutex<HashMap<InstanceId, Arc<Code>>>,
    files: FileFolders,
    /// Of the prepared instances, those that have files.
    mounts: Mutex<HashMap<InstanceId, Mount>>,
    volumes: Arc<Volumes>,
    meters: Meters,
    outbounds: Outbounds,
    secrets: Arc<SecretStore>,
    keyvalue: KeyValueShares,
}

enum Live {
    Http {
        app: Arc<HttpApp>,
        ids: Vec<InstanceId>,
        /// How long open requests may go on when it has to end.
        drain: Duration,
    },
    Command(LiveCommand),
}

struct LiveCommand {
    ended: watch::Receiver<Option<Ended>>,
    cancel: CancellationToken,
    /// What the platform says of it.
    platform: GuestOutput,
    listener: Option<Listener>,
    /// As of an app that answers HTTP.
    drain: Duration,
}

impl Live {
    /// None: nothing can be open.
    fn drain(&self) -> Option<Duration> {
        match self {
            Self::Http { drain, .. } => Some(*drain),
            Self::Command(command) => command.listener.as_ref().map(|_| command.drain),
        }
    }
}

/// A command that listens.
#[derive(Clone)]
struct Listener {
    listening: Arc<Listening>,
    ids: Vec<InstanceId>,
}

impl WasmBackend {
    /// To be called within a runtime. `files` is a folder for the files of apps; what is in there is removed.
    pub fn new(
        host: Arc<WasmHost>,
        control: ControlClient,
        artifacts: Arc<Artifacts>,
        files: PathBuf,
        volumes: Arc<Volumes>,
    ) -> io::Result<Arc<Self>> {
        let files = FileFolders::new(files, host.space.clone())?;
        tokio::spawn(keep_swept(Arc::downgrade(&host)));
        let table = Arc::<Table>::default();
        tokio::spawn(know_servers(Arc::downgrade(&table.hosts()), control.clone()));
        Ok(Arc::new(Self {
            host,
            control,
            artifacts,
            held: Mutex::default(),
            table,
            ports: Arc::default(),
            reach: Arc::default(),
            running: Mutex::default(),
            draining: Draining::default(),
            prepared: Mutex::default(),
            files,
            mounts: Mutex::default(),
            volumes,
            meters: Meters::default(),
            outbounds: Outbounds::default(),
            secrets: Arc::default(),
            keyvalue: KeyValueShares::default(),
        }))
    }

    pub fn table(&self) -> Arc<Table> {
        self.table.clone()
    }

    pub fn ports(&self) -> Arc<Ports> {
        self.ports.clone()
    }

    /// What guests and containers here reach by name.
    pub fn reach(&self) -> Arc<Reach> {
        self.reach.clone()
    }

    /// What the guests here are given beside their plain variables.
    pub fn secrets(&self) -> Arc<SecretStore> {
        self.secrets.clone()
    }

    /// Totals of every release that runs here, or did a short time ago.
    pub fn usage(&self) -> Vec<AppUsage> {
        self.meters.read(Instant::now())
    }

    /// What is in use of what all guests share.
    pub fn figures(&self) -> NodeFigures {
        let (volumes, removed_volumes) = (self.volumes.figures(), self.volumes.removed());
        NodeFigures { volumes, removed_volumes, ..self.host.figures() }
    }

    fn code(&self, id: InstanceId) -> Option<Arc<Code>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn template(&self, run: &Run, env: &Environment, volumes: Option<Arc<Mounts>>) -> Template {
        let assigned = &run.assigned;
        let spec = &assigned.spec;
        let neighbours =
            NamespaceNeighbours { table: Arc::downgrade(&self.table), namespace: assigned.namespace.clone() };
        Template {
            config: Arc::new(
                env.iter()
                    .map(|(key, value)| (key.clone(), String::clone(value)))
                    .collect::<WasiConfigVariables>(),
            ),
            keyvalue: KeyValueHost::platform(
                self.control.clone(),
                assigned.namespace.clone(),
                assigned.app.clone(),
                &self.keyvalue,
            ),
            outbound: self.outbounds.of((&**assigned).into(), || {
                Outbound::new(&spec.outbound.allow, Some(Arc::new(neighbours)))
                    .with_names(spec.names.clone())
                    .with_containers(self.reach.clone(), assigned.namespace.clone())
                    .with_hosts(self.table.hosts())
                    .paid_by(self.table.egress(), assigned.namespace.clone())
            }),
            meter: self.meters.paid_by(
                self.table.allowance(&assigned.namespace),
                &assigned.namespace,
                &assigned.app,
                assigned.release,
            ),
            mount: self.mounts.lock().unwrap_or_else(PoisonError::into_inner).get(&run.id).cloned(),
            volumes,
            host_memory: self.host.shared.memory.clone(),
            memory_max_bytes: spec.limits.memory.as_bytes(),
            profiler: None,
            cpu_max: if assigned.world.is_http() { spec.limits.cpu.as_duration() } else { Duration::MAX },
        }
    }

    async fn start_command(
        &self,
        run: &Run,
        mapped: Arc<Mapped>,
        env: Environment,
        volumes: Option<Arc<Mounts>>,
    ) -> Result<Live, Failure> {
        let assigned = &run.assigned;
        let template = self.template(run, &env, volumes);
        let listening = Listening::reserve(&assigned.spec.tcp).map_err(|error| {
            let message = format!("could not reserve a port of this machine for the guest: {error}");
            Failure::new(ReasonKind::Platform, message)
        })?;
        let Outputs { stdout, stderr, platform } = outputs(&self.host.shared.logs, run.id, assigned);
        let mut wasi = closed_wasi();
        wasi.stdout(stdout).stderr(stderr).envs(&env).arg(assigned.app.as_str()).args(&assigned.spec.args);
        for (name, value) in assigned.job.iter().flat_map(job_variables) {
            wasi.env(name, value);
        }
        let mut ports = Vec::new();
        if let Some(listening) = &listening {
            for (name, port) in listening.variables() {
                wasi.env(name, port);
            }
            ports = listening.local_ports();
        }
        super::command::grant_sockets(&mut wasi, template.outbound.policy(), &ports);
        if let Some(mount) = &template.mount {
            mount.open_in(&mut wasi).map_err(|problem| Failure::new(ReasonKind::Platform, problem))?;
        }
        let places = places_for(&mapped.compiled);
        let place = self.host.shared.place(&template.meter, places, Purpose::Command).await;
        let place = place.map_err(|error| error.failure())?;
        template.meter.set_profile(mapped.profile);
        let (ended_tx, ended) = watch::channel(None);
        let cancel = CancellationToken::new();
        let (logs, id, meter) = (self.host.shared.logs.clone(), run.id, template.meter.clone());
        let held = self.host.shared.activity.hold();
        let guest = {
            let invocation = meter.invocation();
            async move {
                let _running = (held, invocation);
                match &mapped.guest {
                    Guest::Command(command) => command.run(wasi, &template, Some(place)).await,
                    Guest::Http02(_) | Guest::Http03(_) => CommandEnd::Exit(0),
                }
            }
        };
        let laned = Laned::new(Box::pin(guest), meter.clone(), 0);
        let cancelled = cancel.clone();
        tokio::spawn(async move {
            let end = tokio::select! {
                // Dropping the guest's future is what ends it.
                () = cancelled.cancelled() => Ended::Success,
                end = laned => match end {
                    Some(end) => {
                        if end.is_trap() {
                            meter.trapped();
                        }
                        end.into_ended(&logs.tail(id))
                    }
                    None => Ended::Failed(Failure::new(ReasonKind::Platform, "the host failed while it ran the guest")),
                },
            };
            ended_tx.send_replace(Some(end));
        });
        let listener = listening.map(|listening| {
            let ids: Vec<InstanceId> = run.replaces.iter().copied().chain([run.id]).collect();
            self.ports.insert(&ids, &listening);
            Listener { listening, ids }
        });
        let drain = assigned.spec.stop.drain.as_duration();
        Ok(Live::Command(LiveCommand { ended, cancel, platform, listener, drain }))
    }

    /// How long what is open of each instance may go on, if all have to end now.
    pub(crate) fn drains(&self) -> Vec<(InstanceId, Duration)> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let of_running = running.iter().filter_map(|(id, live)| Some((*id, live.drain()?)));
        of_running.chain(self.draining.left()).collect()
    }

    /// Cuts what is open of an instance after that time, while the instance goes on. `false`: nothing was.
    pub(crate) async fn cut_open(&self, id: InstanceId, drain: Duration) -> bool {
        let (app, listener) = match self.running.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            Some(Live::Http { app, .. }) => (Some(app.clone()), None),
            Some(Live::Command(command)) => {
                let listener = command.listener.as_ref();
                (None, listener.map(|it| (it.listening.clone(), command.platform.clone())))
            }
            None => (None, None),
        };
        if let Some(app) = app.filter(|app| app.gate.cut_open()) {
            app.say(&requests_cut(drain));
            return true;
        }
        let Some((listening, platform)) = listener.filter(|(listening, _)| listening.has_open()) else {
            return false;
        };
        listening.cut().await;
        platform.say(&connections_cut(drain));
        true
    }

    /// Lets the open connections of a command end, then ends the command.
    async fn stop_command(&self, command: LiveCommand, drain: Duration) {
        let LiveCommand { mut ended, cancel, platform, listener, .. } = command;
        if let Some(Listener { listening, ids }) = &listener {
            self.ports.remove(ids, listening);
            let all_closed = tokio::select! {
                all_closed = listening.drain(drain) => all_closed,
                // Whoever was connected to a guest that has ended is not cut off by this.
                _ = ended.wait_for(Option::is_some) => true,
            };
            if !all_closed {
                listening.cut().await;
                platform.say(&connections_cut(drain));
            }
        }
        cancel.cancel();
        // The task ends at the guest's next await or epoch, so in milliseconds.
        let _ = tokio::time::timeout(Duration::from_secs(5), ended.wait_for(Option::is_some)).await;
        if let Some(Listener { listening, .. }) = listener {
            listening.end();
        }
    }
}

#[async_trait]
impl Backend for WasmBackend {
    async fn prepare(&self, run: &Run) -> Result<(), Failure> {
        if self.code(run.id).is_some() {
            return Ok(());
        }
        let assigned = &run.assigned;
        let hold = self.host.space.hold(assigned);
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(run.id, hold);
        let (artifacts, digest) = (self.artifacts.clone(), assigned.artifact);
        let fetch_code: Fetch = Arc::new(move || {
            let artifacts = artifacts.clone();
            Box::pin(async move { artifacts.get(digest).await })
        });
        let wanted = tuning::first(assigned.spec.engine.profile, assigned.world.is_http());
        let code = self.host.code(&assigned.namespace, digest, wanted, fetch_code);
        check_resources(&code.get().await?.compiled, assigned.spec.limits.memory.as_bytes())?;
        if let Some(spec) = &assigned.spec.files {
            let folder = self.files.open(spec.digest, || self.artifacts.get(spec.digest)).await?;
            let mount = Mount { folder, guest_path: spec.mount.clone() };
            self.mounts.lock().unwrap_or_else(PoisonError::into_inner).insert(run.id, mount);
        }
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).insert(run.id, code);
        Ok(())
    }

    async fn start(&self, run: &Run) -> Result<(), Failure> {
        if self.running.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&run.id) {
            return Ok(());
        }
        let code = self.code(run.id).ok_or_else(|| {
            Failure::new(ReasonKind::Platform, "the instance was started before it was prepared")
        })?;
        let mapped = code.get().await?;
        let env = self.secrets.environment(&run.assigned)?;
        self.host.shared.logs.hide(run.id, self.secrets.mask(&run.assigned));
        let volumes = self.volumes.mount(&run.assigned).await?;
        let live = match &mapped.guest {
            Guest::Http02(_) | Guest::Http03(_) => {
                let assigned = &run.assigned;
                let outputs = outputs(&self.host.shared.logs, run.id, assigned);
                let template = self.template(run, &env, volumes);
                let app = HttpApp::new(template, code, &mapped, outputs, run.id, assigned, env);
                app.try_start().await.map_err(|error| error.failure())?;
                let mut ids = run.replaces.clone();
                ids.push(run.id);
                self.table.insert(&ids, Target::Guest(app.clone()));
                Live::Http { app, ids, drain: assigned.spec.stop.drain.as_duration() }
            }
            Guest::Command(_) => self.start_command(run, mapped, env, volumes).await?,
        };
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(run.id, live);
        Ok(())
    }

    async fn wait(&self, id: InstanceId) -> Ended {
        let ended = match self.running.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            Some(Live::Command(command)) => Some(command.ended.clone()),
            // An HTTP app holds nothing that could end: each request has a store, and a trap ends only that.
            Some(Live::Http { .. }) | None => None,
        };
        let Some(mut ended) = ended else { return std::future::pending().await };
        let end = ended.wait_for(Option::is_some).await.map(|end| end.clone());
        match end {
            Ok(Some(end)) => end,
            _ => Ended::Failed(Failure::new(ReasonKind::Platform, "the host failed while it ran the guest")),
        }
    }

    async fn probe(&self, id: InstanceId, path: &str, timeout: Duration) -> Result<u16, Failure> {
        let app = match self.running.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            Some(Live::Http { app, .. }) => app.clone(),
            _ => return Err(Failure::new(ReasonKind::Platform, "the instance does not run")),
        };
        probe(path, timeout, async |request| {
            Admitted::health_check(app).call(request).await.map_err(|error| error.failure())
        })
        .await
    }

    async fn accepts(&self, id: InstanceId, timeout: Duration) -> Result<(), Failure> {
        let listener = match self.running.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            Some(Live::Command(command)) => command.listener.clone(),
            Some(Live::Http { .. }) | None => None,
        };
        match listener {
            Some(listener) => listener.listening.accepts(timeout).await,
            None => Err(Failure::new(ReasonKind::Platform, "the instance does not run, or has no ports")),
        }
    }

    async fn stop(&self, id: InstanceId, drain: Duration) {
        let live = self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        let _drains = live.as_ref().and_then(Live::drain).map(|_| self.draining.begin(id, drain));
        match live {
            Some(Live::Http { app, ids, .. }) => {
                self.table.remove(&ids, &Target::Guest(app.clone()));
                if !app.drain(drain).await {
                    app.say(&requests_cut(drain));
                }
            }
            Some(Live::Command(command)) => self.stop_command(command, drain).await,
            None => {}
        }
    }

    async fn remove(&self, id: InstanceId) {
        self.stop(id, Duration::ZERO).await;
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        let mount = self.mounts.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        if mount.is_some() {
            drop(mount);
            self.files.sweep().await;
        }
        self.host.shared.logs.forget(id);
    }
}

/// What an app is told whose requests had no more time.
pub(crate) fn requests_cut(drain: Duration) -> String {
    format!("requests were still open after {drain:?} and have been cut")
}

/// What an app is told whose connections had no more time.
pub(crate) fn connections_cut(drain: Duration) -> String {
    format!("connections were still open after {drain:?} and have been cut")
}

/// What a run of a job is told of itself.
pub(crate) fn job_variables(job: &AssignedJob) -> impl Iterator<Item = (&'static str, String)> {
    let index = job.index.map(|index| ("WHARF_JOB_INDEX", index.to_string()));
    let known = [("WHARF_JOB", job.id.to_string()), ("WHARF_JOB_ATTEMPT", job.attempt.to_string())];
    known.into_iter().chain(index)
}
