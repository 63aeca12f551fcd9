//! A store that many requests share, with the event loop in which the guest's tasks run.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::Request;
use wasmtime::Store;
use wasmtime::component::Accessor;
use wasmtime_wasi_http::p3;
use wasmtime_wasi_http::p3::bindings::Service;
use wasmtime_wasi_http::{Error, FieldMap, WasiBody, WasiHttpHooks, WasiHttpView};

use super::super::allowance::Purpose;
use super::super::app::HttpApp;
use super::super::cpu;
use super::super::failure::{InvokeError, classify, is_pool_exhausted};
use super::super::host;
use super::super::invoke::panicked;
use super::super::lane::Guest;
use super::super::state::{State, begin_epoch, new_store};
use super::mailbox::{Capacity, Job, Mailbox, Outlook};

/// A store with its event loop, which runs while somebody polls it. The app that it belongs to may keep it, so it does not keep the app.
pub(super) struct SharedStore {
    guest: Guest<Result<(), InvokeError>>,
    mailbox: Arc<Mailbox>,
    /// How it has ended; None inside for without an error.
    end: Option<Option<InvokeError>>,
    woken: Arc<Woken>,
    /// Of `woken`.
    waker: Waker,
    idle_since: Instant,
}

/// Whether the store was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

impl SharedStore {
    /// A store for the request, whose guest is instantiated in the first poll.
    pub(super) fn new(app: Arc<HttpApp>, purpose: Purpose) -> Self {
        let mailbox = Arc::<Mailbox>::default();
        let woken = Arc::<Woken>::default();
        Self {
            guest: Guest::new(Box::pin(run(app, mailbox.clone(), purpose))),
            mailbox,
            end: None,
            waker: woken.clone().into(),
            woken,
            idle_since: Instant::now(),
        }
    }

    pub(super) fn mailbox(&self) -> &Arc<Mailbox> {
        &self.mailbox
    }

    pub(super) fn guest(&mut self) -> &mut Guest<Result<(), InvokeError>> {
        &mut self.guest
    }

    pub(super) fn poll(&mut self, app: &Arc<HttpApp>, cx: &mut Context<'_>) {
        if self.end.is_some() {
            return;
        }
        self.mailbox.begin_poll();
        match self.guest.poll(app, cx) {
            Poll::Pending => self.mailbox.end_poll(),
            Poll::Ready(end) => self.end(app, end.err()),
        }
    }

    /// A poll by somebody who will not wait for the store. True: it has something to do already, and has not computed for long.
    pub(super) fn poll_here(&mut self, app: &Arc<HttpApp>) -> bool {
        self.woken.0.store(false, Relaxed);
        let waker = self.waker.clone();
        self.poll(app, &mut Context::from_waker(&waker));
        self.woken.0.load(Relaxed) && !self.guest.is_interrupted()
    }

    /// What is to become of it. One that has ended is over, and those who waited know why.
    pub(super) fn outlook(&self, capacity: Capacity) -> Outlook {
        if self.end.is_some() { Outlook::Over } else { self.mailbox.outlook(capacity) }
    }

    pub(super) fn end(&mut self, app: &HttpApp, error: Option<InvokeError>) {
        // What never began is told with each request that it has cost, by the front door, and in bounds.
        let is_told_elsewhere =
            |error: &InvokeError| matches!(error, InvokeError::OverQuota(_) | InvokeError::Busy);
        if let Some(error) = error.as_ref().filter(|error| !is_told_elsewhere(error)) {
            app.say(&format!("a store of this instance ended: {error}"));
        }
        self.mailbox.end(error.clone());
        self.end = Some(error);
    }

    /// The error with which it has ended.
    pub(super) fn error(&self) -> Option<&InvokeError> {
        self.end.as_ref()?.as_ref()
    }

    /// Nobody polls it from here on, or until its next request.
    pub(super) fn rest(&mut self, app: &Arc<HttpApp>) {
        self.guest.close(app);
        self.idle_since = Instant::now();
    }

    pub(super) fn idle_since(&self) -> Instant {
        self.idle_since
    }
}

impl Drop for SharedStore {
    fn drop(&mut self) {
        // Where it has not ended before, only a panic leaves somebody waiting.
        self.mailbox.end(Some(panicked()));
    }
}

/// From the guest's instantiation until it fails.
async fn run(app: Arc<HttpApp>, mailbox: Arc<Mailbox>, purpose: Purpose) -> Result<(), InvokeError> {
    let (mut store, service) = start(&app, purpose).await?;
    let app = {
        let weak = Arc::downgrade(&app);
        drop(app);
        weak
    };
    let served = store.run_concurrent(async |accessor| serve(accessor, &service, &app, &mailbox).await).await;
    let error = match served {
        Ok(never) => match never {},
        Err(error) => error,
    };
    let denied = store.data().bounds.denied();
    let last_words = app.upgrade().map(|app| app.last_words()).unwrap_or_default();
    Err(classify(&error, denied, &last_words))
}

/// A new store with its guest.
pub(super) async fn start(
    app: &Arc<HttpApp>,
    purpose: Purpose,
) -> Result<(Store<State>, Service), InvokeError> {
    let begun = Instant::now();
    loop {
        if let Some(started) = try_start(app, purpose).await? {
            return Ok(started);
        }
        app.shared.wait_for_pool(begun).await?;
    }
}

/// None: the engine's pool lacks something just now.
async fn try_start(
    app: &Arc<HttpApp>,
    purpose: Purpose,
) -> Result<Option<(Store<State>, Service)>, InvokeError> {
    let code = app.code().await?;
    let host::Guest::Http03(pre) = &code.guest else {
        return Err(InvokeError::Platform("not a WASI 0.3 app".into()));
    };
    let place = app.place(purpose).await?;
    let mut state = State::new(app.wasi(), &app.template);
    state.bounds.settle(place);
    let mut store = new_store(pre.engine(), state);
    match pre.instantiate_async(&mut store).await {
        Ok(guest) => Ok(Some((store, guest))),
        Err(error) if is_pool_exhausted(&error) => Ok(None),
        Err(error) => Err(app.explain_start(&error, &store)),
    }
}

/// The part of the event loop that hands requests to the guest and answers to their callers.
async fn serve(
    accessor: &Accessor<State>,
    service: &Service,
    app: &Weak<HttpApp>,
    mailbox: &Mailbox,
) -> std::convert::Infallible {
    let handle = *service.wasi_http_handler().func_handle().func();
    let (mut jobs, mut calls) = (Vec::new(), FuturesUnordered::new());
    let mut toil = Toil::new(accessor.with(|mut store| store.data_mut().bounds.cpu_max()));
    std::future::poll_fn(|cx| {
        mailbox.take_jobs(&mut jobs);
        if toil.is_at_rest && !jobs.is_empty() {
            accessor.with(|mut store| store.data_mut().bounds.forget_denied());
        }
        for job in jobs.drain(..) {
            cpu::begin_budget();
            calls.push(call(accessor, service, app, job));
        }
        while let Poll::Ready(Some(())) = calls.poll_next_unpin(cx) {}
        let is_quiet = calls.is_empty() && accessor.poll_no_interesting_tasks(cx).is_ready();
        let is_pressed = accessor.poll_ready_for_concurrent_call(handle, cx).is_pending();
        let is_worn = toil.goes_on(is_quiet, cpu::total_before());
        mailbox.note(is_quiet, is_pressed || is_worn);
        Poll::Pending
    })
    .await
}

/// What a store has computed since it was last at rest.
///
/// Its CPU budget begins anew with each request that it is given, and nobody can say which of its requests computes. So a store that has used up one
/// budget and was never at rest meanwhile is given no more of them: what computes in it, be it one task that outlasts all others, then has only what is left.
struct Toil {
    cpu_max: Duration,
    /// What had been computed when it was at rest.
    rested: Duration,
    is_at_rest: bool,
}

impl Toil {
    fn new(cpu_max: Duration) -> Self {
        Self { cpu_max, rested: Duration::ZERO, is_at_rest: true }
    }

    /// After a poll, with what was computed in all; whether that is too much for more requests.
    fn goes_on(&mut self, is_quiet: bool, total: Duration) -> bool {
        self.is_at_rest = is_quiet;
        if is_quiet {
            self.rested = total;
        }
        total.saturating_sub(self.rested) >= self.cpu_max
    }
}

/// One request, until its answer's head.
async fn call(accessor: &Accessor<State>, service: &Service, app: &Weak<HttpApp>, job: Job) {
    let (request, received) = accessor.with(|mut store| {
        begin_epoch(&mut store);
        from_http(store.data_mut().http().hooks, job.request)
    });
    let answered = match service.handle(accessor, request).await {
        Ok(Ok(response)) => accessor.with(|store| response.into_http(store, received)),
        Ok(Err(code)) => Err(InvokeError::Guest(format!("{code:?}")).into()),
        Err(error) => Err(error),
    };
    job.call.answer(answered.map_err(|error| match error.downcast::<InvokeError>() {
        Ok(error) => error,
        Err(error) => {
            let last_words = app.upgrade().map(|app| app.last_words()).unwrap_or_default();
            classify(&error, None, &last_words)
        }
    }));
}

/// A request of `wasi:http`, and the future of how reading it has gone.
fn from_http(
    hooks: &mut dyn WasiHttpHooks,
    request: Request<WasiBody>,
) -> (p3::Request, impl Future<Output = Result<(), Error>> + Send + use<>) {
    let (head, body) = request.into_parts();
    let headers = FieldMap::new_immutable(hooks, head.headers);
    let uri = head.uri.into_parts();
    p3::Request::new(head.method, uri.scheme, uri.authority, uri.path_and_query, headers, None, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_never_rests_is_given_no_more_once_it_has_computed_for_a_whole_budget() {
        let millis = Duration::from_millis;
        let mut toil = Toil::new(millis(100));
        assert!(toil.is_at_rest);
        assert!(!toil.goes_on(false, millis(60)) && !toil.is_at_rest);
        assert!(!toil.goes_on(true, millis(90)) && toil.is_at_rest);
        assert!(!toil.goes_on(false, millis(180)), "it has rested in between");
        assert!(toil.goes_on(false, millis(190)));
        assert!(!toil.goes_on(true, millis(300)), "it is at rest again");
    }
}
