//! Tasks that poll stores which have more to do than one poll.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::Sleep;

use super::super::app::HttpApp;
use super::super::failure::InvokeError;
use super::super::lane;
use super::mailbox::{Mailbox, Outlook};
use super::store::SharedStore;

/// Has the store polled by a task of its own, in that lane, until it is idle or over.
pub(super) fn spawn(app: Arc<HttpApp>, store: Box<SharedStore>, lane: usize) {
    let task = drive(app, store, lane);
    // The place where requests arrive is where this is called, unless a guest that is in a lane calls.
    match lane::handle(lane) {
        Some(runtime) => runtime.spawn(task),
        None => tokio::spawn(task),
    };
}

/// Why a task lets go of its store.
enum Done {
    Idle,
    Over,
    /// It belongs further down.
    Moves(usize),
}

async fn drive(app: Arc<HttpApp>, mut store: Box<SharedStore>, lane: usize) {
    let Some(service) = app.service() else { return };
    let at_work = AtWork::enter(&app, store.mailbox());
    let done = {
        let mut cut = pin!(app.gate.cut().cancelled());
        let mut alarm = Alarm::default();
        std::future::poll_fn(|cx| {
            store.mailbox().register(cx.waker());
            store.poll(&app, cx);
            match store.outlook(service.capacity) {
                Outlook::Busy => {}
                Outlook::Idle => return Poll::Ready(Done::Idle),
                Outlook::Over => return Poll::Ready(Done::Over),
            }
            // Outside of the store's own event loop, because a guest can keep that from going on.
            let ended = match () {
                () if cut.as_mut().poll(cx).is_ready() => Some(InvokeError::Stopped),
                () if alarm.poll(store.mailbox().deadline(app.timeout), cx).is_ready() => {
                    Some(InvokeError::Timeout(app.timeout))
                }
                () => None,
            };
            if let Some(error) = ended {
                store.end(&app, Some(error));
                return Poll::Ready(Done::Over);
            }
            if !store.guest().is_interrupted() {
                store.mailbox().open();
                return Poll::Pending;
            }
            match store.guest().lane() {
                to if to > lane => Poll::Ready(Done::Moves(to)),
                _ => Poll::Pending,
            }
        })
        .await
    };
    drop(at_work);
    match done {
        Done::Idle => service.keep(&app, store),
        Done::Over => store.rest(&app),
        Done::Moves(to) => spawn(app.clone(), store, to),
    }
}

/// A store's entry among those that others may join.
struct AtWork<'a> {
    app: &'a HttpApp,
    mailbox: Arc<Mailbox>,
}

impl<'a> AtWork<'a> {
    fn enter(app: &'a HttpApp, mailbox: &Arc<Mailbox>) -> Self {
        if let Some(service) = app.service() {
            service.at_work.lock().unwrap_or_else(PoisonError::into_inner).push(mailbox.clone());
        }
        Self { app, mailbox: mailbox.clone() }
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        if let Some(service) = self.app.service() {
            let mut at_work = service.at_work.lock().unwrap_or_else(PoisonError::into_inner);
            at_work.retain(|other| !Arc::ptr_eq(other, &self.mailbox));
        }
    }
}

/// A timer for a deadline that may change.
#[derive(Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    fn poll(&mut self, deadline: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = deadline.map(tokio::time::Instant::from_std) else {
            self.0 = None;
            return Poll::Pending;
        };
        let sleep = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if sleep.deadline() != deadline {
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx)
    }
}
