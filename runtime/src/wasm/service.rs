//! Invocations of WASI 0.3 HTTP apps: many requests in one store.
//!
//! wasmtime's own [`ProxyHandler`](wasmtime_wasi_http::handler::ProxyHandler) schedules requests onto stores; this module gives it our stores, limits and words. A trap ends every
//! request that shares the store, which is why an app can ask for less sharing (`reuse`).

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::sync::Notify;
use tokio::time::Sleep;
use wasmtime::{Result, Store, StoreContextMut, format_err};
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, Proxy, ProxyHandler, ShouldAccept, TrapOrPanicError, WorkerExpiration,
    WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::p3::bindings::ServicePre;

use super::admission::Admitted;
use super::app::HttpApp;
use super::body::{GuestBody, Seat, may_have_body};
use super::cpu::StoreClock;
use super::engine::Held;
use super::failure::{InvokeError, classify};
use super::lane;
use super::state::{State, new_store};

/// How long a store without requests is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// How the stores of one app are made.
pub(super) struct ServiceState {
    app: Weak<HttpApp>,
    pre: ServicePre<State>,
    /// Requests that one store serves in all, and at once.
    uses: usize,
    concurrent: usize,
}

impl ServiceState {
    pub(super) fn new(app: Weak<HttpApp>, pre: ServicePre<State>, uses: usize, concurrent: usize) -> Self {
        Self { app, pre, uses, concurrent }
    }

    pub(super) async fn try_start(&self, app: &Arc<HttpApp>) -> std::result::Result<(), InvokeError> {
        let (mut store, _held) = self.store(app).await.map_err(|error| app.classify(&error))?;
        match self.pre.instantiate_async(&mut store).await {
            Ok(_) => Ok(()),
            Err(error) => Err(app.classify(&error)),
        }
    }

    async fn store(&self, app: &Arc<HttpApp>) -> Result<(Store<State>, Held)> {
        let place = app.place().await?;
        let mut state = State::new(app.wasi(), &app.template);
        state.hold(place);
        Ok((new_store(self.pre.engine(), state), app.shared.activity.hold()))
    }
}

/// A request on its way through a store that others share.
pub(super) struct Call {
    admitted: Admitted,
    /// Nobody waits for the answer any more.
    is_abandoned: AtomicBool,
    /// Wakes the store's side when that happens.
    store: AtomicWaker,
    /// Set when a store has taken the request.
    end: OnceLock<Arc<StoreEnd>>,
}

/// How a store ended, for those who had requests in it.
#[derive(Default)]
struct StoreEnd {
    error: OnceLock<InvokeError>,
    known: Notify,
}

impl StoreEnd {
    /// The store is dropped at the time when those who wait in it learn that there will be no answer, or a moment later.
    async fn error(&self) -> Option<InvokeError> {
        let known = self.known.notified();
        if self.error.get().is_none() {
            let _ = tokio::time::timeout(STORE_END_MAX, known).await;
        }
        self.error.get().cloned()
    }
}

/// How long the end of a store may take.
const STORE_END_MAX: Duration = Duration::from_secs(1);

impl Call {
    pub(super) fn admitted(&self) -> &Admitted {
        &self.admitted
    }
}

/// The side that waits for the answer. The request's place is free when both sides have let go of it.
struct Caller(Arc<Call>);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.is_abandoned.store(true, Ordering::Release);
        self.0.store.wake();
    }
}

/// The store's side: when the answer is no longer worth waiting for.
struct Worthless {
    call: Arc<Call>,
    timeout: Sleep,
}

impl Future for Worthless {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: `timeout` is never moved out of the pinned struct; `call` is not pinned.
        let (call, timeout) = unsafe {
            let this = self.get_unchecked_mut();
            (&this.call, Pin::new_unchecked(&mut this.timeout))
        };
        call.store.register(cx.waker());
        if call.is_abandoned.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        timeout.poll(cx)
    }
}

impl HttpApp {
    pub(super) async fn call_p3<B>(
        self: &Arc<Self>,
        service: &ProxyHandler<ServiceState>,
        request: Request<B>,
        admitted: Admitted,
    ) -> Result<Response<GuestBody>, InvokeError>
    where
        B: Body<Data = Bytes, Error = wasmtime_wasi_http::Error> + Send + 'static,
    {
        let has_body = may_have_body(request.method());
        let mut lane = Some(admitted.lane());
        let caller = Caller(Arc::new(Call {
            admitted,
            is_abandoned: AtomicBool::new(false),
            store: AtomicWaker::new(),
            end: OnceLock::new(),
        }));
        let mut answer = pin!(service.handle(caller.0.clone(), request.map(BodyExt::boxed_unsync)));
        let answered = std::future::poll_fn(|cx| {
            // A new store is started in the first poll, by a task of the runtime that is current then.
            let _lane = lane.take().and_then(lane::enter);
            answer.as_mut().poll(cx)
        });
        let result = tokio::select! {
            biased;
            result = answered => result,
            () = self.gate.cut().cancelled() => return Err(InvokeError::Stopped),
        };
        match result {
            Ok(response) => {
                let seat = Seat::Shared(caller.0.clone());
                Ok(GuestBody::wrap(response, has_body, None, seat))
            }
            Err(error) => {
                if error.downcast_ref::<TrapOrPanicError>().is_some()
                    && let Some(end) = caller.0.end.get()
                    && let Some(error) = end.error().await
                {
                    return Err(error);
                }
                Err(self.classify(&error))
            }
        }
    }
}

impl HandlerState for ServiceState {
    type StoreData = State;
    type WorkerExpiration = Expiration;
    type WorkerState = Worker;

    async fn instantiate(&self) -> Result<Instance<State, Expiration, Worker>> {
        let app = self.app.upgrade().ok_or_else(|| format_err!("the app has been stopped"))?;
        let (mut store, held) = self.store(&app).await?;
        let clock = Arc::new(StoreClock::new(app.meter().clone()));
        store.data_mut().cpu.clock = Some(clock.clone());
        let proxy = Proxy::P3(self.pre.instantiate_async(&mut store).await?);
        let timeout = app.timeout;
        Ok(Instance {
            store,
            proxy,
            view: <State as WasiHttpView>::http,
            expiration: Expiration {
                timeout,
                sleep: Box::pin(tokio::time::sleep(timeout)),
                clock: clock.clone(),
            },
            state: Worker {
                app,
                uses: self.uses,
                concurrent: self.concurrent,
                clock,
                end: Arc::default(),
                _held: held,
            },
        })
    }
}

/// Ends a store that is idle for long, or whose guest keeps the host from timing a request out by itself.
pub(super) struct Expiration {
    timeout: Duration,
    sleep: Pin<Box<Sleep>>,
    clock: Arc<StoreClock>,
}

impl WorkerExpiration for Expiration {
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>, status: WorkerStatus, start: Instant) -> Poll<()> {
        let this = self.get_mut();
        // This is called at the end of a poll that has left the guest waiting.
        this.clock.pause();
        let allowed = match status {
            WorkerStatus::Idle => IDLE_TIMEOUT,
            WorkerStatus::Requests | WorkerStatus::PostReturn => this.timeout,
        };
        let deadline = tokio::time::Instant::from_std(start + allowed);
        if deadline != this.sleep.deadline() {
            this.sleep.as_mut().reset(deadline);
        }
        this.sleep.as_mut().poll(cx)
    }
}

/// One store at work.
pub(super) struct Worker {
    app: Arc<HttpApp>,
    uses: usize,
    concurrent: usize,
    clock: Arc<StoreClock>,
    end: Arc<StoreEnd>,
    _held: Held,
}

impl WorkerState for Worker {
    type StoreData = State;
    type RequestData = Arc<Call>;

    fn should_accept_request(&self, concurrent_count: usize, total_count: usize) -> ShouldAccept {
        if total_count >= self.uses {
            ShouldAccept::Never
        } else if concurrent_count >= self.concurrent {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    fn on_request_start(
        &self,
        mut store: StoreContextMut<'_, State>,
        call: Arc<Call>,
        _: wasmtime::component::GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + 'static + Send + Sync>> {
        self.clock.begin();
        // The epochs in which the store waited are over.
        store.set_epoch_deadline(2);
        // It is set once: a store keeps what it has taken.
        let _ = call.end.set(self.end.clone());
        Box::pin(Worthless { call, timeout: tokio::time::sleep(self.app.timeout) })
    }

    fn drop(&self, store: Store<State>, result: Result<()>) {
        self.app.habit.learn(self.clock.lanes());
        let Err(error) = result else { return };
        let explained = match error.downcast_ref::<InvokeError>() {
            Some(error) => error.clone(),
            None => classify(&error, store.data().limits.denied, &self.app.last_words()),
        };
        self.app.say(&format!("a store of this instance ended: {explained}"));
        let _ = self.end.error.set(explained);
        self.end.known.notify_waiters();
    }
}
