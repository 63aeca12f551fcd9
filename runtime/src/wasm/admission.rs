//! A request's way into an app: how many it serves at once, and how many may wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{Semaphore, TryAcquireError};
use tokio_util::sync::CancellationToken;

use super::allowance::Purpose;
use super::app::HttpApp;
use super::failure::InvokeError;

/// How long a request waits for a place when the app's concurrency is used up.
pub(super) const QUEUE_TIMEOUT: Duration = Duration::from_millis(500);

/// The places of one app. More requests than it serves at once may wait for one; what comes on top is turned away.
pub(crate) struct Gate {
    places: Semaphore,
    waiting: AtomicUsize,
    concurrency: usize,
    /// Cuts the requests that are open when the app has to go.
    cut: CancellationToken,
}

/// Why a request did not get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Every place is taken, and none became free in time.
    Full,
    /// The app takes no more requests: it is being stopped.
    Closed,
}

impl Gate {
    pub(crate) fn new(concurrency: u32) -> Self {
        Self {
            places: Semaphore::new(concurrency as usize),
            waiting: AtomicUsize::new(0),
            concurrency: concurrency as usize,
            cut: CancellationToken::new(),
        }
    }

    /// Takes a place if there is one now; the caller gives it back.
    pub(crate) fn try_enter(&self) -> Result<(), Refused> {
        match self.places.try_acquire() {
            Ok(place) => {
                place.forget();
                Ok(())
            }
            Err(TryAcquireError::NoPermits) => Err(Refused::Full),
            Err(TryAcquireError::Closed) => Err(Refused::Closed),
        }
    }

    /// Takes a place, and waits for one if it must.
    pub(crate) async fn enter(&self) -> Result<(), Refused> {
        /// Counts a request that waits, also one whose client goes away meanwhile.
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Relaxed);
            }
        }
        let before = self.waiting.fetch_add(1, Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= self.concurrency {
            return Err(Refused::Full);
        }
        match tokio::time::timeout(QUEUE_TIMEOUT, self.places.acquire()).await {
            Ok(Ok(place)) => {
                place.forget();
                Ok(())
            }
            Ok(Err(_)) => Err(Refused::Closed),
            Err(_) => Err(Refused::Full),
        }
    }

    pub(crate) fn leave(&self) {
        self.places.add_permits(1);
    }

    /// Lets nobody in from here on. Returns when the open requests have ended, or cuts them when the time is up. The result
    /// tells whether all ended by themselves.
    pub(crate) async fn drain(&self, time: Duration) -> bool {
        let all = self.places.acquire_many(self.concurrency as u32);
        // A closed gate was drained before.
        let drained = tokio::time::timeout(time, all).await.is_ok();
        self.places.close();
        self.cut.cancel();
        drained
    }

    /// Cuts the requests that are open, and lets nobody in from here on. `false`: there were none, and others may still come.
    pub(crate) fn cut_open(&self) -> bool {
        let has_open = self.places.available_permits() < self.concurrency;
        if has_open {
            self.places.close();
            self.cut.cancel();
        }
        has_open
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.places.is_closed()
    }

    pub(crate) fn cut(&self) -> &CancellationToken {
        &self.cut
    }
}

/// A request's place in its app, and its entry in the meter, until dropped.
pub struct Admitted {
    app: Arc<HttpApp>,
    /// A health check takes none: an app that is busy is not ill.
    has_place: bool,
}

impl Admitted {
    /// A place that is free now. An app that is full comes back: the request may [wait](Self::wait) for it.
    pub fn try_new(app: Arc<HttpApp>) -> Result<Self, (Refused, Arc<HttpApp>)> {
        match app.gate.try_enter() {
            Ok(()) => Ok(Self::entered(app, true)),
            Err(refused) => Err((refused, app)),
        }
    }

    pub async fn wait(app: Arc<HttpApp>) -> Result<Self, Refused> {
        app.gate.enter().await?;
        Ok(Self::entered(app, true))
    }

    /// Waits only where it must.
    pub(super) async fn new(app: Arc<HttpApp>) -> Result<Self, Refused> {
        match Self::try_new(app) {
            Ok(admitted) => Ok(admitted),
            Err((Refused::Full, app)) => Self::wait(app).await,
            Err((Refused::Closed, _)) => Err(Refused::Closed),
        }
    }

    /// For a health check, which passes by the others.
    pub(super) fn health_check(app: Arc<HttpApp>) -> Self {
        Self::entered(app, false)
    }

    fn entered(app: Arc<HttpApp>, has_place: bool) -> Self {
        app.meter().begin();
        Self { app, has_place }
    }

    pub(super) fn app(&self) -> &Arc<HttpApp> {
        &self.app
    }

    /// For what a store that it needs is made.
    pub(super) fn purpose(&self) -> Purpose {
        if self.has_place { Purpose::Request } else { Purpose::Check }
    }

    /// Waits until the guests of the namespace may compute. A check is let through: its app is not ill.
    pub(super) async fn time(&self) -> Result<(), InvokeError> {
        match self.app.meter().allowance() {
            Some(allowance) if self.has_place => allowance.time().await,
            _ => Ok(()),
        }
    }

    /// The lane where the guest starts. The answer to a health check says nothing if it waited for others.
    pub(super) fn lane(&self) -> usize {
        if self.has_place { self.app.habit.lane() } else { 0 }
    }

    /// The guest has broken off its response, which only the app's log can tell. `why` may hold words of the guest.
    pub(super) fn broke_off(&self, why: &str) {
        self.app.say(&self.app.quotable_text(why));
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
        if self.has_place {
            self.app.gate.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn as_many_wait_as_are_served_and_the_rest_is_turned_away() {
        let gate = Gate::new(1);
        assert_eq!(gate.try_enter(), Ok(()));
        assert_eq!(gate.try_enter(), Err(Refused::Full));
        let mut first = Box::pin(gate.enter());
        assert_eq!(first.as_mut().now_or_never(), None);
        assert_eq!(gate.enter().await, Err(Refused::Full));
        gate.leave();
        assert_eq!(first.await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_stops_waiting_makes_room_for_the_next() {
        let gate = Gate::new(1);
        assert_eq!(gate.try_enter(), Ok(()));
        for _ in 0..10 {
            assert_eq!(gate.enter().now_or_never(), None, "its client goes away at once");
        }
        let mut next = Box::pin(gate.enter());
        assert_eq!(next.as_mut().now_or_never(), None);
        gate.leave();
        assert_eq!(next.await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_has_an_end() {
        let gate = Gate::new(1);
        assert_eq!(gate.try_enter(), Ok(()));
        assert_eq!(gate.enter().await, Err(Refused::Full));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drained_app_lets_nobody_in_and_cuts_what_does_not_end() {
        let gate = Gate::new(2);
        assert_eq!(gate.try_enter(), Ok(()));
        assert!(!gate.drain(Duration::from_secs(1)).await);
        assert!(gate.cut().is_cancelled());
        assert_eq!(gate.try_enter(), Err(Refused::Closed));
        assert_eq!(gate.enter().await, Err(Refused::Closed));
    }

    #[test]
    fn what_is_open_is_cut_and_an_app_without_requests_goes_on() {
        let gate = Gate::new(2);
        assert!(!gate.cut_open() && !gate.cut().is_cancelled());
        assert_eq!(gate.try_enter(), Ok(()));
        assert!(gate.cut_open() && gate.cut().is_cancelled());
        assert_eq!(gate.try_enter(), Err(Refused::Closed));
    }

    #[tokio::test]
    async fn an_app_without_requests_is_drained_at_once() {
        assert!(Gate::new(2).drain(Duration::ZERO).await);
    }
}
