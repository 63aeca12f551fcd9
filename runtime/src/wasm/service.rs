//! Invocations of WASI 0.3 HTTP apps: many requests in one store.
//!
//! A store is a future that anybody may poll. A request takes one that is idle and polls it where it is, in the task of its
//! connection: most guests answer in that poll, and the store is idle again, without a task, a channel or another thread. A
//! guest that does not gets a task that polls its store until it is idle, and while it waits, other requests may join it. A trap ends
//! every request that shares the store, which is why an app can ask for less sharing (`reuse`).

mod drive;
mod mailbox;
mod store;

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use wasmtime_wasi_http::WasiBody;

use super::admission::Admitted;
use super::allowance::Purpose;
use super::app::HttpApp;
use super::body::{Frames, GuestBody, Seat, may_have_body};
use super::cpu;
use super::failure::InvokeError;
use super::places::Joined;
use super::warm::WarmStores;
pub(super) use mailbox::Capacity;
use mailbox::{Call, Job, Mailbox, Outlook};
use store::SharedStore;

/// Polls of a store by the request that it was given, before it gets a task. A guest that yields, which most do once or twice, is
/// polled anew.
const POLLS_HERE_MAX: usize = 16;

/// A WASI 0.3 guest.
pub(super) struct Service03 {
    capacity: Capacity,
    idle: WarmStores<Box<SharedStore>>,
    /// Stores at work, in tasks of their own.
    at_work: Mutex<Vec<Arc<Mailbox>>>,
}

impl Service03 {
    pub(super) fn new(capacity: Capacity, idle_max: usize) -> Self {
        Self { capacity, idle: WarmStores::new(idle_max), at_work: Mutex::default() }
    }

    pub(super) async fn try_start(&self, app: &Arc<HttpApp>) -> Result<(), InvokeError> {
        store::start(app, Purpose::Check).await.map(drop)
    }

    /// Drops an idle store; false: there is none.
    pub(super) fn drop_idle(&self) -> bool {
        self.idle.take().is_some()
    }

    /// Drops the idle stores about whose time of last use `is_young` says no; how many are left.
    pub(super) fn drop_old(&self, is_young: impl Fn(Instant) -> bool) -> usize {
        self.idle.retain(|store| is_young(store.idle_since()))
    }

    /// Gives the request to a store: an idle one, or one that others use, or a new one. Where nobody polls it, it comes back for
    /// that.
    fn hand_in(
        &self,
        app: &Arc<HttpApp>,
        request: Request<WasiBody>,
        call: &Arc<Call>,
        purpose: Purpose,
    ) -> (Open, Option<Box<SharedStore>>) {
        let mut job = Some(Job { request, call: call.clone() });
        let open = |mailbox, joined| Open { call: call.clone(), mailbox, has_all: false, _joined: joined };
        let store = match self.idle.take() {
            Some(store) => store,
            None => match self.join(app, &mut job) {
                Some((mailbox, joined)) => return (open(mailbox, Some(joined)), None),
                None => Box::new(SharedStore::new(app.clone(), purpose)),
            },
        };
        let mailbox = store.mailbox().clone();
        if let Some(job) = job {
            mailbox.hand_in(job);
        }
        (open(mailbox, None), Some(store))
    }

    /// Gives the request to a store that others use, if one has room.
    fn join(&self, app: &Arc<HttpApp>, job: &mut Option<Job>) -> Option<(Arc<Mailbox>, Joined)> {
        if self.capacity.concurrent < 2 {
            return None;
        }
        let joined = app.shared.places.try_join(app.meter())?;
        let at_work = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        let mailbox = at_work.iter().find(|mailbox| mailbox.try_join(job, self.capacity))?;
        Some((mailbox.clone(), joined))
    }

    /// After a poll that has left nothing to wait for, or so it seems.
    fn settle(&self, app: &Arc<HttpApp>, mut store: Box<SharedStore>) {
        match store.outlook(self.capacity) {
            Outlook::Idle => self.keep(app, store),
            Outlook::Over => store.rest(app),
            Outlook::Busy => {
                let lane = store.guest().lane();
                drive::spawn(app.clone(), store, lane);
            }
        }
    }

    fn keep(&self, app: &Arc<HttpApp>, mut store: Box<SharedStore>) {
        store.rest(app);
        if !app.gate.is_closed() {
            self.idle.keep(store);
        }
    }
}

/// The side that waits for the answer, and then reads it.
pub(super) struct Caller {
    open: Open,
    admitted: Admitted,
}

impl Caller {
    pub(super) fn admitted(&self) -> &Admitted {
        &self.admitted
    }

    /// The answer has come to its end, or nobody wants more of it than there was.
    pub(super) fn has_all(&mut self) {
        self.open.has_all = true;
    }

    /// For an answer that has come to its end: what ended it, if it was not the guest.
    pub(super) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<Option<InvokeError>> {
        self.open.mailbox.poll_end(cx)
    }
}

/// A call that is open until this is dropped.
struct Open {
    call: Arc<Call>,
    mailbox: Arc<Mailbox>,
    /// Its answer was read to the end.
    has_all: bool,
    _joined: Option<Joined>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.mailbox.leave(&self.call, self.has_all);
    }
}

impl HttpApp {
    pub(super) async fn call_p3<B>(
        self: &Arc<Self>,
        service: &Service03,
        request: Request<B>,
        admitted: Admitted,
    ) -> Result<Response<GuestBody>, InvokeError>
    where
        B: Body<Data = Bytes, Error = wasmtime_wasi_http::Error> + Send + 'static,
    {
        let has_body = may_have_body(request.method());
        let lane = admitted.lane();
        let call = Call::new();
        let request = request.map(BodyExt::boxed_unsync);
        let (open, store) = service.hand_in(self, request, &call, admitted.purpose());
        let (open, answer) = match store {
            // The engine forbids an event loop inside another one.
            Some(store) if lane > 0 || cpu::is_inside_a_guest() => {
                drive::spawn(self.clone(), store, lane);
                (Some(open), None)
            }
            Some(store) => self.poll_here(service, store, open),
            None => (Some(open), None),
        };
        let Some(open) = open else {
            let response = answer.unwrap_or(Err(InvokeError::NoResponse))?;
            return Ok(GuestBody::wrap(response, has_body, None, Seat::Own(admitted)));
        };
        let mut caller = Caller { open, admitted };
        let answer = match answer {
            Some(answer) => answer,
            None => self.answer(&caller).await.map(|response| response.map(Frames::from)),
        };
        // There is no more of an error than this.
        let response = answer.inspect_err(|_| caller.has_all())?;
        Ok(GuestBody::wrap(response, has_body, None, Seat::Shared(caller)))
    }

    /// Polls the store for as long as it goes on without waiting for anything, within limits. The call comes back where there will be
    /// more of its answer.
    fn poll_here(
        self: &Arc<Self>,
        service: &Service03,
        mut store: Box<SharedStore>,
        open: Open,
    ) -> (Option<Open>, Option<Result<Response<Frames>, InvokeError>>) {
        let mut open = Some(open);
        let mut answer = None;
        for _ in 0..POLLS_HERE_MAX {
            let goes_on = store.poll_here(self);
            if let Some(Open { call, .. }) = &open {
                answer =
                    answer.or_else(|| call.take_answer().map(|answer| answer.map(|it| it.map(Frames::from))));
                answer = answer.map(|answer| answer.and_then(|response| collect(response, store.error())));
                let is_whole = |answer: &Result<Response<Frames>, InvokeError>| {
                    answer.as_ref().map_or(true, |it| it.body().is_whole())
                };
                if answer.as_ref().is_some_and(is_whole)
                    && let Some(mut read) = open.take()
                {
                    read.has_all = true;
                }
            }
            if !goes_on || store.outlook(service.capacity) != Outlook::Busy {
                break;
            }
        }
        service.settle(self, store);
        (open, answer)
    }

    /// Waits for an answer that somebody else brings about.
    async fn answer(self: &Arc<Self>, caller: &Caller) -> Result<Response<WasiBody>, InvokeError> {
        let mut patience = pin!(self.clone().patience());
        std::future::poll_fn(|cx| {
            if let Poll::Ready(answer) = caller.open.call.poll_answer(cx) {
                return Poll::Ready(answer);
            }
            patience.as_mut().poll(cx).map(Err)
        })
        .await
    }
}

/// Takes what is there of the response's body. One that has failed before anything was sent is a failed answer; `store_error` is how
/// the store has ended, and perhaps the body with it.
fn collect(
    mut response: Response<Frames>,
    store_error: Option<&InvokeError>,
) -> Result<Response<Frames>, InvokeError> {
    response.body_mut().collect().map_err(|error| InvokeError::Guest(error.to_string()))?;
    match store_error {
        Some(error) if response.body().is_whole() && !response.headers().contains_key(CONTENT_LENGTH) => {
            Err(error.clone())
        }
        _ => Ok(response),
    }
}
