//! Invocations of WASI 0.2 HTTP apps.
//!
//! The guest is a future that is polled where the response is awaited: in the task of the connection, with no task and no
//! channel between them. Once the guest has set the response's head, what is left of it travels inside the response's
//! body and is polled whenever the body is; so a client that goes away drops the guest with the body, and a client
//! that reads slowly slows its own guest down and nobody else.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use wasmtime::Store;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::{Error, WasiBody, WasiHttpView};

use super::app::HttpApp;
use super::failure::{InvokeError, classify};
use super::lane::{Laned, LongRunning};
use super::meter::{Active, Meter};
use super::state::{State, new_store};

/// A WASI 0.2 guest: instantiated for each request, or kept warm for the next one.
pub(super) struct Proxy02 {
    pub(super) pre: ProxyPre<State>,
    /// Requests that one store serves.
    pub(super) uses: u32,
    pub(super) warm: ArrayQueue<Warm>,
}

/// A store that has served requests and may serve more.
pub(super) struct Warm {
    store: Store<State>,
    proxy: Proxy,
    uses: u32,
}

impl Proxy02 {
    pub(super) async fn try_start(&self, app: &Arc<HttpApp>) -> Result<(), InvokeError> {
        let long_running = LongRunning::default();
        let app_for_guest = app.clone();
        let start = async move { Self::instantiate(&app_for_guest, long_running).await.map(drop) };
        guest_task(app, LongRunning::default(), start).await.unwrap_or_else(|| Err(panicked()))
    }

    async fn instantiate(app: &Arc<HttpApp>, long_running: LongRunning) -> Result<Warm, InvokeError> {
        let Some(proxy) = app.proxy() else { return Err(InvokeError::Platform("not a WASI 0.2 app".into())) };
        let place = app.place().await?;
        let mut state = State::new(app.wasi(), &app.template);
        state.cpu.reset(long_running);
        state.hold(place);
        let mut store = new_store(&app.shared.engine, state);
        match proxy.pre.instantiate_async(&mut store).await {
            Ok(proxy) => Ok(Warm { store, proxy, uses: 0 }),
            Err(error) => Err(app.explain(&error, &store)),
        }
    }
}

fn panicked() -> InvokeError {
    InvokeError::Platform("the host failed while it ran the guest; the platform's log says how".into())
}

/// Where the guest's response appears while its future is polled.
type ResponseSlot = Arc<Mutex<Option<Result<Response<WasiBody>, ErrorCode>>>>;

/// What is left of a guest.
pub(super) type GuestTask = Laned<Result<(), InvokeError>>;

fn guest_task<T: Send + 'static>(
    app: &Arc<HttpApp>,
    long_running: LongRunning,
    guest: impl Future<Output = T> + Send + 'static,
) -> Laned<T> {
    let metered = Metered { guest, meter: app.meter().clone(), _running: Running::new(&app.shared.active) };
    Laned::new(Box::pin(metered), long_running, app.shared.lanes.clone())
}

impl HttpApp {
    pub(super) async fn call_p2<B>(
        self: &Arc<Self>,
        request: Request<B>,
        permit: OwnedSemaphorePermit,
        active: Active,
    ) -> Result<Response<GuestBody>, InvokeError>
    where
        B: Body<Data = Bytes, Error = Error> + Send + 'static,
    {
        let slot = ResponseSlot::default();
        let long_running = LongRunning::default();
        let guest = run(self.clone(), request, slot.clone(), long_running.clone());
        let mut task = guest_task(self, long_running, guest);
        let mut deadline: Option<Pin<Box<Sleep>>> = None;
        let take = || slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ended = std::future::poll_fn(|cx| {
            match Pin::new(&mut task).poll(cx) {
                Poll::Ready(ended) => return Poll::Ready(Ok(Some(ended.unwrap_or_else(|| Err(panicked()))))),
                Poll::Pending if slot.lock().unwrap_or_else(PoisonError::into_inner).is_some() => {
                    return Poll::Ready(Ok(None));
                }
                Poll::Pending => {}
            }
            // Most guests answer in the first poll and never need a timer.
            let timer = deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.timeout)));
            timer.as_mut().poll(cx).map(|()| Err(InvokeError::Timeout(self.timeout)))
        });
        let rest = match ended.await? {
            None => Some(task),
            Some(Ok(())) => None,
            Some(Err(error)) => return Err(error),
        };
        match take() {
            Some(Ok(response)) => Ok(GuestBody::wrap(response, rest, permit, active, self.clone())),
            Some(Err(code)) => Err(InvokeError::Guest(format!("{code:?}"))),
            None => Err(InvokeError::NoResponse),
        }
    }

    fn explain(&self, error: &wasmtime::Error, store: &Store<State>) -> InvokeError {
        if error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>().is_some() {
            return InvokeError::Busy;
        }
        classify(error, store.data().limits.denied, &self.last_words())
    }
}

/// The guest, from its instantiation to its return.
async fn run<B>(
    app: Arc<HttpApp>,
    request: Request<B>,
    slot: ResponseSlot,
    long_running: LongRunning,
) -> Result<(), InvokeError>
where
    B: Body<Data = Bytes, Error = Error> + Send + 'static,
{
    let Some(proxy) = app.proxy() else { return Err(InvokeError::Platform("not a WASI 0.2 app".into())) };
    let mut warm = match proxy.warm.pop() {
        Some(mut warm) => {
            warm.store.set_epoch_deadline(2);
            warm.store.data_mut().cpu.reset(long_running);
            warm
        }
        None => Proxy02::instantiate(&app, long_running).await?,
    };
    let http = |error: wasmtime::Error| InvokeError::BadRequest(error.to_string());
    let request = warm.store.data_mut().http().new_incoming_request(Scheme::Http, request).map_err(http)?;
    let out = warm
        .store
        .data_mut()
        .http()
        .new_response_outparam_from_callback(move |response| {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(response);
        })
        .map_err(http)?;
    let handler = warm.proxy.wasi_http_incoming_handler();
    if let Err(error) = handler.call_handle(&mut warm.store, request, out).await {
        return Err(app.explain(&error, &warm.store));
    }
    warm.uses += 1;
    if warm.uses < proxy.uses {
        // A full queue drops the store: there are more warm ones than the app has had use for.
        let _ = proxy.warm.push(warm);
    }
    Ok(())
}

/// Measures how long a guest is polled, and tells the epoch ticker that there is one.
struct Metered<F> {
    guest: F,
    meter: Arc<Meter>,
    _running: Running,
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: `guest` is never moved out of the pinned struct; the other fields are not pinned.
        let (guest, meter) = unsafe {
            let this = self.get_unchecked_mut();
            (Pin::new_unchecked(&mut this.guest), &this.meter)
        };
        let begin = Instant::now();
        let polled = guest.poll(cx);
        meter.add_cpu(begin.elapsed());
        polled
    }
}

/// Counts a guest as running until dropped.
pub(super) struct Running(Arc<AtomicU64>);

impl Running {
    pub(super) fn new(active: &Arc<AtomicU64>) -> Self {
        active.fetch_add(1, Relaxed);
        Self(active.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// The body of a guest's response, together with what is left of the guest.
pub struct GuestBody {
    body: WasiBody,
    rest: Option<GuestTask>,
    /// What `content-length` announced and has not been sent.
    left: Option<u64>,
    ended: bool,
    app: Arc<HttpApp>,
    _permit: OwnedSemaphorePermit,
    _active: Active,
}

impl GuestBody {
    pub(super) fn wrap(
        response: Response<WasiBody>,
        rest: Option<GuestTask>,
        permit: OwnedSemaphorePermit,
        active: Active,
        app: Arc<HttpApp>,
    ) -> Response<Self> {
        let length = response.headers().get(http::header::CONTENT_LENGTH);
        let left = length.and_then(|length| length.to_str().ok()?.parse().ok());
        response.map(|body| Self { body, rest, left, ended: false, app, _permit: permit, _active: active })
    }

    /// Polls the rest of the guest. An error of the guest ends the body, so that the client sees it cut short.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), InvokeError>> {
        let Some(rest) = &mut self.rest else { return Poll::Pending };
        let Poll::Ready(ended) = Pin::new(rest).poll(cx) else { return Poll::Pending };
        self.rest = None;
        let ended = ended.unwrap_or_else(|| Err(panicked()));
        if let Err(error) = &ended {
            self.app.meter().trapped();
            self.app.say(&format!("{error}, after the response had begun"));
        }
        Poll::Ready(ended)
    }
}

impl Body for GuestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        loop {
            if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
                if let (Some(Ok(frame)), Some(left)) = (&frame, &mut this.left) {
                    *left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
                }
                if frame.is_none() || this.left == Some(0) || this.body.is_end_stream() {
                    this.ended = true;
                    // The guest usually only has to return. Let it do so here: after the last frame nobody polls again.
                    let _ = this.drive(cx);
                }
                return Poll::Ready(frame);
            }
            match this.drive(cx) {
                Poll::Pending => return Poll::Pending,
                // What the guest wrote last is in the body now; a guest that failed has dropped its end of it.
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    this.ended = true;
                    return Poll::Ready(Some(Err(Error::InternalError(Some(error.to_string())))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for GuestBody {
    fn drop(&mut self) {
        // The response is complete, but the guest is not done: it may log or store something after it has answered.
        // A guest whose client went away before the end is dropped instead.
        if let (true, Some(rest)) = (self.ended, self.rest.take())
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let timeout = self.app.timeout;
            runtime.spawn(async move { tokio::time::timeout(timeout, rest).await });
        }
    }
}
