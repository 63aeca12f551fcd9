//! Invocations of WASI 0.2 HTTP apps.
//!
//! The guest is a future that is polled where the response is awaited: in the task of the connection, with no task and no
//! channel between them. Once the guest has set the response's head, what is left of it travels inside the response's
//! body and is polled whenever the body is; so a client that goes away drops the guest with the body, and a client
//! that reads slowly slows its own guest down and nobody else.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::sync::oneshot;
use wasmtime::Store;
use wasmtime_wasi_http::p2::bindings::Proxy;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpView};

use super::admission::Admitted;
use super::allowance::{Purpose, no_memory};
use super::app::HttpApp;
use super::body::{Frames, GuestBody, Seat, may_have_body};
use super::failure::{InvokeError, classify, is_pool_exhausted};
use super::host;
use super::lane::Laned;
use super::memory::Denied;
use super::state::{State, begin_epoch, new_store};
use super::warm::WarmStores;

/// A WASI 0.2 guest: instantiated for each request, or kept warm for the next one.
pub(super) struct Proxy02 {
    /// Requests that one store serves.
    pub(super) uses: u32,
    pub(super) warm: WarmStores<Warm>,
}

/// A store that has served requests and may serve more.
pub(super) struct Warm {
    store: Store<State>,
    proxy: Proxy,
    uses: u32,
    since: Instant,
}

impl Warm {
    /// When its last request ended.
    pub(super) fn since(&self) -> Instant {
        self.since
    }
}

impl Proxy02 {
    pub(super) async fn try_start(&self, app: &Arc<HttpApp>) -> Result<(), InvokeError> {
        let app_for_guest = app.clone();
        let start = async move { Self::instantiate(&app_for_guest, Purpose::Check).await.map(drop) };
        guest_task(app, 0, start).await.unwrap_or_else(|| Err(panicked()))
    }

    async fn instantiate(app: &Arc<HttpApp>, purpose: Purpose) -> Result<Warm, InvokeError> {
        let begun = Instant::now();
        loop {
            if let Some(warm) = Self::try_instantiate(app, purpose).await? {
                return Ok(warm);
            }
            app.shared.wait_for_pool(begun).await?;
        }
    }

    /// None: the engine's pool lacks something just now.
    async fn try_instantiate(app: &Arc<HttpApp>, purpose: Purpose) -> Result<Option<Warm>, InvokeError> {
        let code = app.code().await?;
        let host::Guest::Http02(pre) = &code.guest else {
            return Err(InvokeError::Platform("not a WASI 0.2 app".into()));
        };
        let place = app.place(purpose).await?;
        let mut state = State::new(app.wasi(), &app.template);
        state.bounds.settle(place);
        let mut store = new_store(pre.engine(), state);
        match pre.instantiate_async(&mut store).await {
            Ok(proxy) => Ok(Some(Warm { store, proxy, uses: 0, since: Instant::now() })),
            Err(error) if is_pool_exhausted(&error) => Ok(None),
            Err(error) => Err(app.explain_start(&error, &store)),
        }
    }
}

pub(super) fn panicked() -> InvokeError {
    InvokeError::Platform("the host failed while it ran the guest; the platform's log says how".into())
}

/// What the guest gives to its `response-outparam`.
type Outcome = Result<Response<WasiBody>, ErrorCode>;

/// What is left of a guest.
pub(super) type GuestTask = Laned<Result<(), InvokeError>, Arc<HttpApp>>;

fn guest_task<T: Send + 'static>(
    app: &Arc<HttpApp>,
    lane: usize,
    guest: impl Future<Output = T> + Send + 'static,
) -> Laned<T, Arc<HttpApp>> {
    Laned::new(Box::pin(guest), app.clone(), lane)
}

impl HttpApp {
    pub(super) async fn call_p2<B>(
        self: &Arc<Self>,
        request: Request<B>,
        admitted: Admitted,
    ) -> Result<Response<GuestBody>, InvokeError>
    where
        B: Body<Data = Bytes, Error = Error> + Send + 'static,
    {
        let (answer, mut answered) = oneshot::channel();
        let (has_body, purpose) = (may_have_body(request.method()), admitted.purpose());
        let mut task = guest_task(self, admitted.lane(), run(self.clone(), request, answer, purpose));
        let mut patience: Option<Pin<Box<dyn Future<Output = InvokeError> + Send>>> = None;
        let mut outcome: Option<Outcome> = None;
        let mut gave_up = false;
        let ended = std::future::poll_fn(|cx| {
            if let Poll::Ready(ended) = Pin::new(&mut task).poll(cx) {
                return Poll::Ready(Ok(Some(ended.unwrap_or_else(|| Err(panicked())))));
            }
            if !gave_up && let Poll::Ready(answer) = Pin::new(&mut answered).poll(cx) {
                match answer {
                    Ok(answer) => {
                        outcome = Some(answer);
                        return Poll::Ready(Ok(None));
                    }
                    // It has dropped the outparam, and there is no response to come; how it ends says more.
                    Err(_) => gave_up = true,
                }
            }
            // Most guests answer in the first poll and never need a timer.
            let patience = patience.get_or_insert_with(|| Box::pin(self.clone().patience()));
            patience.as_mut().poll(cx).map(Err)
        });
        let rest = match ended.await? {
            None => Some(task),
            Some(Ok(())) => {
                outcome = answered.try_recv().ok();
                None
            }
            Some(Err(error)) => return Err(error),
        };
        match outcome {
            Some(Ok(response)) => {
                Ok(GuestBody::wrap(response.map(Frames::from), has_body, rest, Seat::Own(admitted)))
            }
            Some(Err(code)) => Err(InvokeError::Guest(format!("{code:?}"))),
            None => Err(InvokeError::NoResponse),
        }
    }

    /// Why a guest could not begin. One that found no memory has done nothing yet, and may another time.
    pub(super) fn explain_start(&self, error: &wasmtime::Error, store: &Store<State>) -> InvokeError {
        match store.data().bounds.denied() {
            Some(Denied::Namespace { max_bytes, alone: false }) => no_memory(max_bytes),
            _ => self.explain(error, store),
        }
    }

    pub(super) fn explain(&self, error: &wasmtime::Error, store: &Store<State>) -> InvokeError {
        classify(error, store.data().bounds.denied(), &self.last_words())
    }
}

/// The guest, from its instantiation to its return.
async fn run<B>(
    app: Arc<HttpApp>,
    request: Request<B>,
    answer: oneshot::Sender<Outcome>,
    purpose: Purpose,
) -> Result<(), InvokeError>
where
    B: Body<Data = Bytes, Error = Error> + Send + 'static,
{
    let Some(proxy) = app.proxy() else { return Err(InvokeError::Platform("not a WASI 0.2 app".into())) };
    let mut warm = match proxy.warm.take() {
        Some(mut warm) => {
            begin_epoch(&mut warm.store);
            warm.store.data_mut().bounds.forget_denied();
            warm
        }
        None => Proxy02::instantiate(&app, purpose).await?,
    };
    let http = |error: wasmtime::Error| InvokeError::BadRequest(error.to_string());
    let request = warm.store.data_mut().http().new_incoming_request(Scheme::Http, request).map_err(http)?;
    let out = warm
        .store
        .data_mut()
        .http()
        .new_response_outparam_from_callback(move |response| {
            // Where nobody waits any more, nobody wants the response.
            let _ = answer.send(response);
        })
        .map_err(http)?;
    let handler = warm.proxy.wasi_http_incoming_handler();
    if let Err(error) = handler.call_handle(&mut warm.store, request, out).await {
        return Err(app.explain(&error, &warm.store));
    }
    warm.uses += 1;
    if warm.uses < proxy.uses && !app.gate.is_closed() {
        warm.since = Instant::now();
        proxy.warm.keep(warm);
    }
    Ok(())
}
