//! One release of an HTTP app, ready to be invoked.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi_http::Error;
use wharf_types::InstanceId;
use wharf_types::node::AssignedInstance;
use wharf_types::spec::{ReuseMode, ReuseSpec};

use super::admission::{Admitted, Gate, Refused};
use super::allowance::{Purpose, Room};
use super::body::{GuestBody, LimitedBody};
use super::code::{Code, Mapped};
use super::engine::Profile;
use super::failure::InvokeError;
use super::habit::Habit;
use super::host;
use super::invoke::Proxy02;
use super::lane::Account;
use super::meter::Meter;
use super::pool::places_for;
use super::service::{Capacity, Service03};
use super::shared::{Shared, StorePlace};
use super::state::{Template, closed_wasi};
use super::stdio::GuestOutput;
use super::tuning::Tuning;
use super::warm::WarmStores;
use crate::logs::{LineBuffer, LogSink};
use crate::secrets::Environment;
use wharf_types::log::LogStream;

/// Warm stores that one instance keeps at most.
const WARM_MAX: usize = 64;

/// How long a store waits for its next request, where the app does not say.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// An instance's guest. Holds no store while it is idle, unless its settings ask for reuse and nobody else needs the room.
pub struct HttpApp {
    pub(super) shared: Arc<Shared>,
    pub(super) template: Template,
    pub(super) instance: InstanceId,
    pub(super) timeout: Duration,
    idle_timeout: Duration,
    request_body_max: u64,
    pub(super) gate: Gate,
    /// Places in the pool that each store takes.
    places: u32,
    pub(super) habit: Habit,
    outputs: Outputs,
    env: Environment,
    args: Vec<String>,
    guest: Guest,
    code: ArcSwap<Code>,
    tuning: Tuning,
}

enum Guest {
    P2(Proxy02),
    P3(Service03),
}

impl Guest {
    fn new(is_03: bool, reuse: &ReuseSpec) -> Self {
        let mode = match (reuse.mode, is_03) {
            (Some(mode), _) => mode,
            (None, false) => ReuseMode::PerRequest,
            (None, true) => ReuseMode::Concurrent,
        };
        let uses = match mode {
            ReuseMode::PerRequest => 1,
            ReuseMode::Serial | ReuseMode::Concurrent => {
                reuse.max_requests.unwrap_or(if is_03 { 128 } else { 1000 })
            }
        };
        let warm_max = if uses > 1 { WARM_MAX } else { 1 };
        if !is_03 {
            return Self::P2(Proxy02 { uses, warm: WarmStores::new(warm_max) });
        }
        let concurrent = match mode {
            ReuseMode::PerRequest | ReuseMode::Serial => 1,
            ReuseMode::Concurrent => reuse.max_concurrent.unwrap_or(16),
        };
        let capacity = Capacity { uses: uses as usize, concurrent: concurrent as usize };
        Self::P3(Service03::new(capacity, warm_max))
    }
}

/// What an instance prints, and what the platform says of it.
pub(crate) struct Outputs {
    pub(crate) stdout: GuestOutput,
    pub(crate) stderr: GuestOutput,
    pub(crate) platform: GuestOutput,
}

/// The outputs of an instance as log records, numbered together.
pub(crate) fn outputs(logs: &LogSink, id: InstanceId, assigned: &AssignedInstance) -> Outputs {
    let seq = Arc::new(AtomicU64::new(0));
    let job = assigned.job.as_ref().map(|job| job.id);
    let buffer = |stream| {
        let lines = LineBuffer::new(
            logs.clone(),
            assigned.namespace.clone(),
            assigned.app.clone(),
            assigned.release,
            id,
            stream,
            seq.clone(),
        );
        GuestOutput::log(lines.of_job(job))
    };
    Outputs {
        stdout: buffer(LogStream::Stdout),
        stderr: buffer(LogStream::Stderr),
        platform: buffer(LogStream::Platform),
    }
}

impl HttpApp {
    pub(super) fn new(
        template: Template,
        code: Arc<Code>,
        mapped: &Mapped,
        outputs: Outputs,
        instance: InstanceId,
        assigned: &AssignedInstance,
        env: Environment,
    ) -> Arc<Self> {
        let spec = &assigned.spec;
        let app = Arc::new(Self {
            gate: Gate::new(spec.limits.concurrency),
            places: places_for(&mapped.compiled),
            habit: Habit::default(),
            timeout: spec.limits.timeout.as_duration(),
            idle_timeout: spec.reuse.idle_timeout.map_or(IDLE_TIMEOUT, |span| span.as_duration()),
            request_body_max: spec.limits.request_body.as_bytes(),
            outputs,
            env,
            args: std::iter::once(assigned.app.to_string()).chain(spec.args.iter().cloned()).collect(),
            shared: code.host().shared.clone(),
            template,
            instance,
            guest: Guest::new(matches!(mapped.guest, host::Guest::Http03(_)), &spec.reuse),
            tuning: Tuning::new(spec.engine.profile),
            code: ArcSwap::new(code),
        });
        app.meter().set_profile(app.profile());
        app.shared.register(&app);
        app
    }

    /// The app's code, mapped anew where it was let go.
    pub(super) async fn code(&self) -> Result<Arc<Mapped>, InvokeError> {
        let code = self.code.load();
        if let Some(mapped) = &*code.now() {
            return Ok(mapped.clone());
        }
        let code = Arc::clone(&code);
        code.get().await.map_err(|failure| InvokeError::Platform(failure.reason.message))
    }

    /// The profile for which the app's code is compiled.
    pub fn profile(&self) -> Profile {
        let code = self.code.load();
        // A component of WASI 0.2 may need the engine of 0.3 for what it does within itself.
        code.mapped_for().unwrap_or(code.wanted())
    }

    /// Looks at what the app's requests have used lately. Where another profile suits them better, the result brings it about,
    /// while the present code goes on.
    pub(super) fn review(self: &Arc<Self>) -> Option<impl Future<Output = ()> + Send + use<>> {
        let now = self.profile();
        let better = self.tuning.review(now, self.meter().used()).filter(|better| *better != now)?;
        let app = self.clone();
        Some(async move {
            let code = app.code.load().for_profile(better);
            match code.get().await {
                Ok(_) => {
                    app.code.store(code);
                    app.meter().set_profile(app.profile());
                    while app.drop_idle_store() {}
                }
                Err(failure) => {
                    tracing::warn!("no code for the profile {better:?}: {}", failure.reason.message)
                }
            }
        })
    }

    pub fn meter(&self) -> &Arc<Meter> {
        &self.template.meter
    }

    pub(super) fn wasi(&self) -> WasiCtx {
        let mut wasi = closed_wasi();
        wasi.stdout(self.outputs.stdout.clone()).stderr(self.outputs.stderr.clone());
        if !self.env.is_empty() {
            wasi.envs(&self.env);
        }
        wasi.args(&self.args);
        super::command::grant_sockets(&mut wasi, self.template.outbound.policy(), &[]);
        if let Some(mount) = &self.template.mount
            && let Err(problem) = mount.open_in(&mut wasi)
        {
            self.say(&problem);
        }
        wasi.build()
    }

    /// Creates a store and the guest in it, without a request: whether the guest can start at all.
    pub(super) async fn try_start(self: &Arc<Self>) -> Result<(), InvokeError> {
        let started = async {
            match &self.guest {
                Guest::P2(proxy) => proxy.try_start(self).await,
                Guest::P3(service) => service.try_start(self).await,
            }
        };
        match tokio::time::timeout(self.timeout, started).await {
            Ok(result) => result,
            Err(_) => Err(InvokeError::Timeout(self.timeout)),
        }
    }

    /// Calls the guest. The request's URI must be absolute, since `wasi:http` hands scheme and authority to the guest.
    pub async fn call<B>(self: Arc<Self>, request: Request<B>) -> Result<Response<GuestBody>, InvokeError>
    where
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<Error>,
    {
        match Admitted::new(self.clone()).await {
            Ok(admitted) => admitted.call(request).await,
            Err(Refused::Full) => {
                self.meter().refused();
                Err(InvokeError::Busy)
            }
            Err(Refused::Closed) => Err(InvokeError::Stopped),
        }
    }

    /// Drops a store that waits for its next request; false: there is none.
    pub(super) fn drop_idle_store(&self) -> bool {
        match &self.guest {
            Guest::P2(proxy) => proxy.warm.take().is_some(),
            Guest::P3(service) => service.drop_idle(),
        }
    }

    /// Drops stores that have waited for their next request for long; how many go on waiting.
    pub(super) fn drop_stores_idle_since(&self, now: Instant) -> usize {
        let is_young = |since: Instant| now.saturating_duration_since(since) < self.idle_timeout;
        match &self.guest {
            Guest::P2(proxy) => proxy.warm.retain(|store| is_young(store.since())),
            Guest::P3(service) => service.drop_old(is_young),
        }
    }

    pub(super) fn service(&self) -> Option<&Service03> {
        match &self.guest {
            Guest::P2(_) => None,
            Guest::P3(service) => Some(service),
        }
    }

    pub(super) fn proxy(&self) -> Option<&Proxy02> {
        match &self.guest {
            Guest::P2(proxy) => Some(proxy),
            Guest::P3(_) => None,
        }
    }

    /// No new requests from here on; returns when the open ones have ended, or have been cut because the time is up.
    pub(super) async fn drain(&self, time: Duration) -> bool {
        let drained = self.gate.drain(time).await;
        while self.drop_idle_store() {}
        drained
    }

    /// Room for one store, in the engine's pool and in what the namespace has. That of the namespace comes first: who waits for it takes nothing of
    /// what others need.
    pub(super) async fn place(&self, purpose: Purpose) -> Result<StorePlace, InvokeError> {
        let room = match self.meter().allowance() {
            Some(allowance) => {
                let make_room = || self.shared.drop_a_warm_store_of(allowance);
                allowance.room(self.meter().store_bytes(), purpose, make_room).await?
            }
            None => Room::default(),
        };
        Ok(StorePlace { pool: self.shared.place(self.meter(), self.places, purpose).await?, room })
    }

    /// What ends the wait for a guest that does not answer.
    pub(super) async fn patience(self: Arc<Self>) -> InvokeError {
        tokio::select! {
            biased;
            () = self.gate.cut().cancelled() => InvokeError::Stopped,
            () = tokio::time::sleep(self.timeout) => InvokeError::Timeout(self.timeout),
        }
    }

    /// Says something in the app's own log.
    pub(super) fn say(&self, message: &str) {
        self.outputs.platform.say(message);
    }

    pub(super) fn last_words(&self) -> Vec<String> {
        self.shared.logs.tail(self.instance)
    }

    /// What the guest has said, as the platform may quote it.
    pub(super) fn quotable_text(&self, said: &str) -> String {
        self.shared.logs.quotable(self.instance, said)
    }

    fn quotable(&self, error: InvokeError) -> InvokeError {
        match error {
            InvokeError::Guest(said) => InvokeError::Guest(self.quotable_text(&said)),
            error => error,
        }
    }
}

impl Admitted {
    /// Calls the guest. The request's URI must be absolute, since `wasi:http` hands scheme and authority to the guest.
    pub async fn call<B>(self, request: Request<B>) -> Result<Response<GuestBody>, InvokeError>
    where
        B: Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: Into<Error>,
    {
        let app = self.app().clone();
        let announced = request.headers().get(http::header::CONTENT_LENGTH);
        if announced
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok())
            .is_some_and(|length| length > app.request_body_max)
        {
            return Err(InvokeError::BodyTooLarge);
        }
        let request = request.map(|body| LimitedBody::new(body, app.request_body_max, app.meter()));
        let time = self.time().await;
        let result = match (time, &app.guest) {
            (Err(error), _) => Err(error),
            (Ok(()), Guest::P2(_)) => app.call_p2(request, self).await,
            (Ok(()), Guest::P3(service)) => app.call_p3(service, request, self).await,
        };
        let result = result.map_err(|error| app.quotable(error));
        match &result {
            Err(InvokeError::Trap(_) | InvokeError::NoResponse) => app.meter().trapped(),
            Err(InvokeError::Timeout(_) | InvokeError::Cpu(_)) => app.meter().hit_limit(),
            Err(InvokeError::Busy | InvokeError::OverQuota(_)) => app.meter().refused(),
            _ => {}
        }
        result
    }
}

impl Account for Arc<HttpApp> {
    fn begin_poll(&self) {
        self.shared.activity.note_poll();
    }

    fn charge(&self, time: Duration) {
        self.meter().add_cpu(time);
    }

    fn close(&self, lanes: usize) {
        self.habit.learn(lanes);
    }
}
