//! Invocations of WASI 0.3 HTTP apps: many requests in one store.
//!
//! wasmtime's own [`ProxyHandler`](wasmtime_wasi_http::handler::ProxyHandler) schedules requests onto stores; this module gives it our stores, limits and words. A trap ends every
//! request that shares the store, which is why an app can ask for less sharing (`reuse`).

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;
use wasmtime::{Result, Store, StoreContextMut, format_err};
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, Proxy, ShouldAccept, WorkerExpiration, WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::p3::bindings::ServicePre;

use super::app::HttpApp;
use super::engine::Held;
use super::failure::InvokeError;
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

impl HandlerState for ServiceState {
    type StoreData = State;
    type WorkerExpiration = Expiration;
    type WorkerState = Worker;

    async fn instantiate(&self) -> Result<Instance<State, Expiration, Worker>> {
        let app = self.app.upgrade().ok_or_else(|| format_err!("the app has been stopped"))?;
        let (mut store, held) = self.store(&app).await?;
        let proxy = Proxy::P3(self.pre.instantiate_async(&mut store).await?);
        let timeout = app.timeout;
        Ok(Instance {
            store,
            proxy,
            view: <State as WasiHttpView>::http,
            expiration: Expiration { timeout, sleep: Box::pin(tokio::time::sleep(timeout)) },
            state: Worker { app, uses: self.uses, concurrent: self.concurrent, _held: held },
        })
    }
}

/// Ends a store that is idle for long, or whose guest keeps the host from timing a request out by itself.
pub(super) struct Expiration {
    timeout: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl WorkerExpiration for Expiration {
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>, status: WorkerStatus, start: Instant) -> Poll<()> {
        let this = self.get_mut();
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
    _held: Held,
}

impl WorkerState for Worker {
    type StoreData = State;
    type RequestData = ();

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
        (): (),
        _: wasmtime::component::GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + 'static + Send + Sync>> {
        store.data_mut().cpu.reset();
        // The epochs in which the store waited are over.
        store.set_epoch_deadline(2);
        Box::pin(tokio::time::sleep(self.app.timeout))
    }

    fn drop(&self, store: Store<State>, result: Result<()>) {
        if let Err(error) = result {
            let explained = super::failure::classify(&error, store.data().limits.denied, &[]);
            self.app.say(&format!("a store of this instance ended: {explained}"));
        }
    }
}
