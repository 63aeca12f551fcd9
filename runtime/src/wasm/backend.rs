//! The Wasm side of the [`Backend`] seam, and the way from a request to its instance.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Limited};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wasmtime::component::Component;
use wasmtime_wasi_config::WasiConfigVariables;
use wasmtime_wasi_http::{Error, WasiBody};
use wharf_types::node::{AppUsage, AssignedInstance, ReasonKind};
use wharf_types::{AppName, Digest, InstanceId, NamespaceName};

use super::app::{HttpApp, Outputs, outputs};
use super::body::GuestBody;
use super::command::Command;
use super::compiler::check_resources;
use super::failure::InvokeError;
use super::host::{Guest, WasmHost};
use super::keyvalue::KeyValueHost;
use super::lane::Laned;
use super::meter::Meter;
use super::outbound::{Neighbours, Outbound};
use super::state::{State, Template, closed_wasi, new_store};
use crate::backend::{Backend, Ended, Failure, Run};
use crate::control::ControlClient;

/// A health check reads this much of a response's body; it is the status that counts.
const PROBE_BODY_MAX_BYTES: usize = 64 << 10;

/// The wait before the next try to fetch an artifact doubles up to this, then fetching has failed.
const FETCH_WAIT_MAX: Duration = Duration::from_secs(5);

/// Runs instances in this process.
pub struct WasmBackend {
    host: WasmHost,
    control: ControlClient,
    table: Arc<Table>,
    running: Mutex<HashMap<InstanceId, Live>>,
    prepared: Mutex<HashMap<InstanceId, (Digest, Component)>>,
    meters: Mutex<BTreeMap<(NamespaceName, AppName, u64), Arc<Meter>>>,
}

/// The apps that answer requests, swapped as a whole: a request reads it without a lock.
#[derive(Default)]
pub struct Table {
    apps: ArcSwap<Apps>,
}

#[derive(Clone, Default)]
struct Apps {
    by_instance: HashMap<InstanceId, Arc<HttpApp>>,
    by_name: HashMap<(NamespaceName, AppName), Vec<Arc<HttpApp>>>,
}

/// Why a request got no response from an instance.
#[derive(Debug)]
pub enum DispatchError<B> {
    /// The instance is not (or no longer) here; the request is as it was.
    NotHere(Box<Request<B>>),
    Invoke(InvokeError),
}

enum Live {
    Http { app: Arc<HttpApp>, ids: Vec<InstanceId>, concurrency: u32 },
    Command { ended: watch::Receiver<Option<Ended>>, cancel: CancellationToken },
}

impl WasmBackend {
    pub fn new(host: WasmHost, control: ControlClient) -> Arc<Self> {
        Arc::new(Self {
            host,
            control,
            table: Arc::default(),
            running: Mutex::default(),
            prepared: Mutex::default(),
            meters: Mutex::default(),
        })
    }

    pub fn table(&self) -> Arc<Table> {
        self.table.clone()
    }

    /// Totals of every release that has run here since the worker started.
    pub fn usage(&self) -> Vec<AppUsage> {
        let meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        meters
            .iter()
            .map(|((namespace, app, release), meter)| meter.usage(namespace.clone(), app.clone(), *release))
            .collect()
    }

    fn meter(&self, assigned: &AssignedInstance) -> Arc<Meter> {
        let key = (assigned.namespace.clone(), assigned.app.clone(), assigned.release);
        self.meters.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone()
    }

    fn component(&self, id: InstanceId) -> Option<Component> {
        let prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        prepared.get(&id).map(|(_, component)| component.clone())
    }

    fn template(&self, assigned: &AssignedInstance) -> Template {
        let spec = &assigned.spec;
        let neighbours =
            NamespaceNeighbours { table: Arc::downgrade(&self.table), namespace: assigned.namespace.clone() };
        Template {
            config: Arc::new(
                spec.env
                    .iter()
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect::<WasiConfigVariables>(),
            ),
            keyvalue: KeyValueHost::platform(
                self.control.clone(),
                assigned.namespace.clone(),
                assigned.app.clone(),
            ),
            outbound: Arc::new(Outbound::new(&spec.outbound.allow, Some(Arc::new(neighbours)))),
            meter: self.meter(assigned),
            memory_max_bytes: spec.limits.memory.as_bytes(),
            cpu_max: if assigned.world.is_http() { spec.limits.cpu.as_duration() } else { Duration::MAX },
        }
    }

    fn start_command(&self, run: &Run, command: Command) -> Live {
        let assigned = &run.assigned;
        let template = self.template(assigned);
        let Outputs { stdout, stderr, platform: _ } = outputs(&self.host.shared.logs, run.id, assigned);
        let mut wasi = closed_wasi();
        let env: Vec<(&str, &str)> =
            assigned.spec.env.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        wasi.stdout(stdout).stderr(stderr).envs(&env).arg(assigned.app.as_str()).args(&assigned.spec.args);
        super::command::grant_sockets(&mut wasi, template.outbound.policy());
        let mut store = new_store(command.engine(), State::new(wasi.build(), &template));
        let (ended_tx, ended) = watch::channel(None);
        let cancel = CancellationToken::new();
        let (logs, id, meter) = (self.host.shared.logs.clone(), run.id, template.meter.clone());
        let held = self.host.shared.activity.hold();
        let guest = {
            let invocation = meter.invocation();
            async move {
                let _running = (held, invocation);
                command.run(&mut store).await
            }
        };
        let laned = Laned::new(Box::pin(guest), meter, 0);
        let cancelled = cancel.clone();
        tokio::spawn(async move {
            let end = tokio::select! {
                // Dropping the guest's future is what ends it.
                () = cancelled.cancelled() => Ended::Success,
                end = laned => match end {
                    Some(end) => end.into_ended(&logs.tail(id)),
                    None => Ended::Failed(Failure::new(ReasonKind::Platform, "the host failed while it ran the guest")),
                },
            };
            ended_tx.send_replace(Some(end));
        });
        Live::Command { ended, cancel }
    }
}

impl Table {
    /// Hands a request to an instance of this node. Its URI must be absolute.
    pub async fn dispatch<B>(
        &self,
        instance: InstanceId,
        request: Request<B>,
    ) -> Result<Response<GuestBody>, DispatchError<B>>
    where
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<Error>,
    {
        let app = self.apps.load().by_instance.get(&instance).cloned();
        match app {
            Some(app) => app.call(request).await.map_err(DispatchError::Invoke),
            None => Err(DispatchError::NotHere(Box::new(request))),
        }
    }

    fn insert(&self, ids: &[InstanceId], name: &(NamespaceName, AppName), app: &Arc<HttpApp>) {
        self.apps.rcu(|apps| {
            let mut apps = Apps::clone(apps);
            for id in ids {
                apps.by_instance.insert(*id, app.clone());
            }
            let instances = apps.by_name.entry(name.clone()).or_default();
            if !instances.iter().any(|other| Arc::ptr_eq(other, app)) {
                instances.push(app.clone());
            }
            apps
        });
    }

    fn remove(&self, ids: &[InstanceId], app: &Arc<HttpApp>) {
        self.apps.rcu(|apps| {
            let mut apps = Apps::clone(apps);
            for id in ids {
                // A replacement may answer for this id already.
                if apps.by_instance.get(id).is_some_and(|other| Arc::ptr_eq(other, app)) {
                    apps.by_instance.remove(id);
                }
            }
            apps.by_name.retain(|_, instances| {
                instances.retain(|other| !Arc::ptr_eq(other, app));
                !instances.is_empty()
            });
            apps
        });
    }
}

#[async_trait]
impl Backend for WasmBackend {
    async fn prepare(&self, run: &Run) -> Result<(), Failure> {
        if self.component(run.id).is_some() {
            return Ok(());
        }
        let digest = run.assigned.artifact;
        let shared = {
            let prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
            prepared.values().find(|(other, _)| *other == digest).map(|(_, component)| component.clone())
        };
        let component = match shared {
            Some(component) => component,
            None => {
                let control = self.control.clone();
                self.host.load(&run.assigned.namespace, digest, || fetch(control, digest)).await?
            }
        };
        check_resources(&component, run.assigned.spec.limits.memory.as_bytes())?;
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).insert(run.id, (digest, component));
        Ok(())
    }

    async fn start(&self, run: &Run) -> Result<(), Failure> {
        if self.running.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&run.id) {
            return Ok(());
        }
        let component = self.component(run.id).ok_or_else(|| {
            Failure::new(ReasonKind::Platform, "the instance was started before it was prepared")
        })?;
        let live = match self.host.link(&component)? {
            Guest::Http(linked) => {
                let assigned = &run.assigned;
                let outputs = outputs(&self.host.shared.logs, run.id, assigned);
                let app = HttpApp::new(
                    self.host.shared.clone(),
                    self.template(assigned),
                    linked,
                    outputs,
                    run.id,
                    assigned,
                );
                app.try_start().await.map_err(|error| Failure { reason: error.reason() })?;
                let mut ids = run.replaces.clone();
                ids.push(run.id);
                self.table.insert(&ids, &(assigned.namespace.clone(), assigned.app.clone()), &app);
                Live::Http { app, ids, concurrency: assigned.spec.limits.concurrency }
            }
            Guest::Command(command) => self.start_command(run, command),
        };
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(run.id, live);
        Ok(())
    }

    async fn wait(&self, id: InstanceId) -> Ended {
        let ended = match self.running.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            Some(Live::Command { ended, .. }) => Some(ended.clone()),
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
        let request = Request::get(format!("http://localhost{path}"))
            .header(http::header::HOST, "localhost")
            .header(http::header::USER_AGENT, "wharf-health-check")
            .body(Empty::<Bytes>::new())
            .map_err(|_| Failure::new(ReasonKind::Probe, format!("`{path}` is not a path")))?;
        let probe = async {
            let response = app.call(request).await.map_err(|error| Failure { reason: error.reason() })?;
            let status = response.status().as_u16();
            // Reading the body lets the guest return by itself instead of being dropped half-way.
            let _ = Limited::new(response.into_body(), PROBE_BODY_MAX_BYTES).collect().await;
            Ok(status)
        };
        match tokio::time::timeout(timeout, probe).await {
            Ok(result) => result,
            Err(_) => {
                Err(Failure::new(ReasonKind::Probe, format!("GET {path} did not answer within {timeout:?}")))
            }
        }
    }

    async fn stop(&self, id: InstanceId, drain: Duration) {
        let live = self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        match live {
            Some(Live::Http { app, ids, concurrency }) => {
                self.table.remove(&ids, &app);
                if !app.drain(drain, concurrency).await {
                    app.say(&format!("requests were still open after {drain:?} and have been cut"));
                }
            }
            Some(Live::Command { cancel, mut ended }) => {
                cancel.cancel();
                // The task ends at the guest's next await or epoch, so in milliseconds.
                let _ = tokio::time::timeout(Duration::from_secs(5), ended.wait_for(Option::is_some)).await;
            }
            None => {}
        }
    }

    async fn remove(&self, id: InstanceId) {
        self.stop(id, Duration::ZERO).await;
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.host.shared.logs.forget(id);
    }
}

/// Brings an artifact. A control plane that restarts is away for a moment, which must not fail a rollout.
async fn fetch(control: ControlClient, digest: Digest) -> Result<Bytes, Failure> {
    let mut wait = Duration::from_millis(100);
    loop {
        match control.artifact(digest).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) if error.is_retryable() && wait < FETCH_WAIT_MAX => {
                tracing::warn!("could not fetch {digest}, trying again in {wait:?}: {error}");
                tokio::time::sleep(wait).await;
                wait *= 2;
            }
            Err(error) => {
                return Err(Failure::new(ReasonKind::Platform, format!("could not fetch {digest}: {error}")));
            }
        }
    }
}

/// The other apps of a namespace, as far as they run on this node.
struct NamespaceNeighbours {
    table: Weak<Table>,
    namespace: NamespaceName,
}

impl Neighbours for NamespaceNeighbours {
    fn call(
        &self,
        app: &AppName,
        request: Request<WasiBody>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<WasiBody>, Error>> + Send>> {
        let found = self.table.upgrade().and_then(|table| {
            let apps = table.apps.load();
            let instances = apps.by_name.get(&(self.namespace.clone(), app.clone()))?;
            instances.iter().min_by_key(|instance| instance.meter().active()).cloned()
        });
        Box::pin(async move {
            let app = found.ok_or(Error::DestinationNotFound)?;
            match app.call(request).await {
                Ok(response) => Ok(response.map(BodyExt::boxed_unsync)),
                Err(InvokeError::Busy) => Err(Error::DestinationUnavailable),
                Err(InvokeError::Timeout(_)) => Err(Error::HttpResponseTimeout),
                Err(error) => Err(Error::InternalError(Some(error.to_string()))),
            }
        })
    }
}
