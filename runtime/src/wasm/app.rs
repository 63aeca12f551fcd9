//! One release of an HTTP app, ready to be invoked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi_http::Error;
use wasmtime_wasi_http::handler::ProxyHandler;
use wharf_types::InstanceId;
use wharf_types::node::AssignedInstance;
use wharf_types::spec::ReuseMode;

use super::body::{GuestBody, LimitedBody};
use super::engine::Activity;
use super::failure::{InvokeError, classify};
use super::habit::Habit;
use super::invoke::Proxy02;
use super::lane::Account;
use super::meter::Meter;
use super::service::ServiceState;
use super::state::{State, Template, closed_wasi};
use super::stdio::GuestOutput;
use super::warm::WarmStores;
use crate::logs::{LineBuffer, LogSink};
use wharf_types::log::LogStream;

/// How long a request waits for a place when the app's concurrency is used up.
const QUEUE_TIMEOUT: Duration = Duration::from_millis(500);

/// Warm stores that one instance keeps at most.
const WARM_MAX: usize = 64;

/// What every app of a worker shares.
pub struct Shared {
    pub(super) activity: Arc<Activity>,
    /// Places in the engine's pool.
    pub(super) stores: Arc<Semaphore>,
    pub(super) logs: LogSink,
}

/// An instance's guest. Holds no store while it is idle, unless its settings ask for reuse.
pub struct HttpApp {
    pub(super) shared: Arc<Shared>,
    pub(super) template: Template,
    pub(super) instance: InstanceId,
    pub(super) timeout: Duration,
    request_body_max: u64,
    permits: Semaphore,
    /// Requests that wait for a place; more than the app serves at once are turned away.
    waiting: AtomicUsize,
    waiting_max: usize,
    pub(super) habit: Habit,
    outputs: Outputs,
    env: Vec<(String, String)>,
    args: Vec<String>,
    guest: Guest,
}

enum Guest {
    P2(Box<Proxy02>),
    P3(ProxyHandler<ServiceState>),
}

/// A component that was matched with a world and linked.
pub enum Linked {
    P2(wasmtime_wasi_http::p2::bindings::ProxyPre<State>),
    P3(wasmtime_wasi_http::p3::bindings::ServicePre<State>),
}

/// What an instance prints, and what the platform says of it.
pub(super) struct Outputs {
    pub(super) stdout: GuestOutput,
    pub(super) stderr: GuestOutput,
    pub(super) platform: GuestOutput,
}

/// The outputs of an instance as log records, numbered together.
pub(super) fn outputs(logs: &LogSink, id: InstanceId, assigned: &AssignedInstance) -> Outputs {
    let seq = Arc::new(AtomicU64::new(0));
    let buffer = |stream| {
        GuestOutput::log(LineBuffer::new(
            logs.clone(),
            assigned.namespace.clone(),
            assigned.app.clone(),
            assigned.release,
            id,
            stream,
            seq.clone(),
        ))
    };
    Outputs {
        stdout: buffer(LogStream::Stdout),
        stderr: buffer(LogStream::Stderr),
        platform: buffer(LogStream::Platform),
    }
}

impl HttpApp {
    pub(super) fn new(
        shared: Arc<Shared>,
        template: Template,
        linked: Linked,
        outputs: Outputs,
        instance: InstanceId,
        assigned: &AssignedInstance,
    ) -> Arc<Self> {
        let spec = &assigned.spec;
        let concurrency = spec.limits.concurrency as usize;
        Arc::new_cyclic(|this| {
            let guest = match linked {
                Linked::P2(pre) => {
                    let uses = match spec.reuse.mode {
                        None | Some(ReuseMode::PerRequest) => 1,
                        Some(ReuseMode::Serial | ReuseMode::Concurrent) => {
                            spec.reuse.max_requests.unwrap_or(1000)
                        }
                    };
                    Guest::P2(Box::new(Proxy02 {
                        pre,
                        uses,
                        warm: WarmStores::new(if uses > 1 { WARM_MAX } else { 1 }),
                    }))
                }
                Linked::P3(pre) => {
                    let (uses, concurrent) = match spec.reuse.mode {
                        Some(ReuseMode::PerRequest) => (1, 1),
                        Some(ReuseMode::Serial) => (spec.reuse.max_requests.unwrap_or(128), 1),
                        None | Some(ReuseMode::Concurrent) => {
                            (spec.reuse.max_requests.unwrap_or(128), spec.reuse.max_concurrent.unwrap_or(16))
                        }
                    };
                    Guest::P3(ProxyHandler::new(ServiceState::new(
                        this.clone(),
                        pre,
                        uses as usize,
                        concurrent as usize,
                    )))
                }
            };
            Self {
                permits: Semaphore::new(concurrency),
                habit: Habit::default(),
                waiting: AtomicUsize::new(0),
                waiting_max: concurrency,
                timeout: spec.limits.timeout.as_duration(),
                request_body_max: spec.limits.request_body.as_bytes(),
                outputs,
                env: spec.env.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
                args: std::iter::once(assigned.app.to_string()).chain(spec.args.iter().cloned()).collect(),
                shared,
                template,
                instance,
                guest,
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
        super::command::grant_sockets(&mut wasi, self.template.outbound.policy());
        wasi.build()
    }

    /// Creates a store and the guest in it, without a request: whether the guest can start at all.
    pub(super) async fn try_start(self: &Arc<Self>) -> Result<(), InvokeError> {
        let started = async {
            match &self.guest {
                Guest::P2(proxy) => proxy.try_start(self).await,
                Guest::P3(service) => service.state().try_start(self).await,
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
        let announced = request.headers().get(http::header::CONTENT_LENGTH);
        if announced
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok())
            .is_some_and(|length| length > self.request_body_max)
        {
            return Err(InvokeError::BodyTooLarge);
        }
        let admitted = Admitted::new(self).await?;
        let app = admitted.app().clone();
        let request = request.map(|body| LimitedBody::new(body, app.request_body_max));
        let result = match &app.guest {
            Guest::P2(_) => app.call_p2(request, admitted).await,
            Guest::P3(service) => {
                let response = service
                    .handle((), request.map(BodyExt::boxed_unsync))
                    .await
                    .map_err(|error| app.classify(&error));
                response.map(|response| GuestBody::wrap(response, None, admitted))
            }
        };
        match &result {
            Err(InvokeError::Trap(_) | InvokeError::NoResponse) => app.meter().trapped(),
            Err(InvokeError::Timeout(_) | InvokeError::Cpu(_) | InvokeError::Busy) => app.meter().hit_limit(),
            _ => {}
        }
        result
    }

    pub(super) fn proxy(&self) -> Option<&Proxy02> {
        match &self.guest {
            Guest::P2(proxy) => Some(proxy),
            Guest::P3(_) => None,
        }
    }

    /// Waits for a place, which the caller gives back.
    async fn admit(&self) -> Result<(), InvokeError> {
        if let Ok(permit) = self.permits.try_acquire() {
            permit.forget();
            return Ok(());
        }
        if self.waiting.fetch_add(1, Relaxed) >= self.waiting_max {
            self.waiting.fetch_sub(1, Relaxed);
            return Err(InvokeError::Busy);
        }
        let acquired = tokio::time::timeout(QUEUE_TIMEOUT, self.permits.acquire()).await;
        self.waiting.fetch_sub(1, Relaxed);
        match acquired {
            Ok(Ok(permit)) => {
                permit.forget();
                Ok(())
            }
            _ => Err(InvokeError::Busy),
        }
    }

    /// No new requests from here on; returns when the open ones have ended or the time is up.
    pub(super) async fn drain(&self, time: Duration, concurrency: u32) -> bool {
        let all = self.permits.acquire_many(concurrency);
        // A closed semaphore says that the app was drained before.
        let drained = tokio::time::timeout(time, all).await.is_ok();
        self.permits.close();
        drained
    }

    pub(super) fn classify(&self, error: &wasmtime::Error) -> InvokeError {
        use wasmtime_wasi_http::handler::{ExpirationError, InstantiationError, TrapOrPanicError};
        if let Some(error) = error.downcast_ref::<InvokeError>() {
            return error.clone();
        }
        if error.downcast_ref::<ExpirationError>().is_some() {
            return InvokeError::Timeout(self.timeout);
        }
        if let Some(error) = error.downcast_ref::<InstantiationError<()>>() {
            if error.error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>().is_some() {
                return InvokeError::Busy;
            }
            return classify(&error.error, None, &self.last_words());
        }
        if error.downcast_ref::<TrapOrPanicError>().is_some() {
            let text = "the guest trapped in a store that it shared with other requests".to_owned();
            return InvokeError::Trap(self.with_last_words(text));
        }
        if let Some(error) = error.downcast_ref::<Error>() {
            return InvokeError::Guest(error.to_string());
        }
        if let Some(code) = error.downcast_ref::<wasmtime_wasi_http::p3::bindings::http::types::ErrorCode>() {
            return InvokeError::Guest(format!("{code:?}"));
        }
        classify(error, None, &self.last_words())
    }

    /// A place in the engine's pool for a store.
    pub(super) async fn place(&self) -> Result<OwnedSemaphorePermit, InvokeError> {
        if let Ok(place) = self.shared.stores.clone().try_acquire_owned() {
            return Ok(place);
        }
        match tokio::time::timeout(QUEUE_TIMEOUT, self.shared.stores.clone().acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(InvokeError::Busy),
        }
    }

    /// Says something in the app's own log.
    pub(super) fn say(&self, message: &str) {
        self.outputs.platform.say(message);
    }

    pub(super) fn last_words(&self) -> Vec<String> {
        self.shared.logs.tail(self.instance)
    }

    fn with_last_words(&self, mut text: String) -> String {
        let words = self.last_words();
        if !words.is_empty() {
            text.push_str("; it last printed: ");
            text.push_str(&words[words.len().saturating_sub(3)..].join(" / "));
        }
        text
    }
}

/// A request's place in its app, and its entry in the meter, until dropped.
pub(super) struct Admitted {
    app: Arc<HttpApp>,
}

impl Admitted {
    async fn new(app: Arc<HttpApp>) -> Result<Self, InvokeError> {
        app.admit().await?;
        app.meter().begin();
        Ok(Self { app })
    }

    pub(super) fn app(&self) -> &Arc<HttpApp> {
        &self.app
    }

    /// The guest has failed when its response had begun, so only the app's log can tell why.
    pub(super) fn failed_late(&self, error: &InvokeError) {
        self.app.meter().trapped();
        self.app.say(&format!("{error}, after the response had begun"));
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.app.meter().end();
        self.app.permits.add_permits(1);
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
