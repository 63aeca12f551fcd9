//! Until when a slot of an app with `scale.singleton` may run.
//!
//! The control plane says so with the answer to each report, and counts from when the report came in; the worker counts from when it sent it,
//! and so ends earlier. A slot that was never told waits before it starts anything, and gives up after the same time.

use std::future::pending;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::select;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use wharf_types::node::SINGLETON_LEASE;
use wharf_types::spec::AppSpec;

/// How often it is looked whether the machine has slept meanwhile: timers stand still then.
const LOOK: Duration = Duration::from_millis(250);

/// The end of a span, by the clock that measures it, and by how long the machine had slept when it began: that clock stands still meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Until {
    at: Instant,
    slept: Duration,
}

impl Until {
    /// So long from now on.
    pub fn after(span: Duration) -> Self {
        Self { at: Instant::now() + span, slept: slept() }
    }

    #[cfg(test)]
    pub(super) fn at(at: Instant) -> Self {
        Self { at, slept: slept() }
    }

    fn is_over(self, now: Instant, slept: Duration) -> bool {
        now >= self.at || slept > self.slept + LOOK
    }
}

#[derive(Clone, Copy, Debug)]
struct Grant {
    until: Until,
    /// Whether the control plane has said so. Before that, it is only for how long to wait.
    is_granted: bool,
}

impl Grant {
    /// What the word of the control plane makes of it. None: nothing. What has come to its end stays there: the slot ends, perhaps without having
    /// noticed yet. And an answer that waited while the machine slept is of a time that is over, also for a slot that has begun since.
    fn prolonged(self, until: Until, now: Instant, slept: Duration) -> Option<Self> {
        let is_in_time = !self.until.is_over(now, slept) && !until.is_over(now, slept);
        let prolongs = until.at > self.until.at || !self.is_granted;
        (is_in_time && prolongs).then_some(Self { until, is_granted: true })
    }
}

/// Prolongs the lease of a slot.
#[derive(Debug)]
pub(super) struct Granter(watch::Sender<Grant>);

impl Granter {
    pub(super) fn grant(&self, until: Until) {
        let (now, slept) = (Instant::now(), slept());
        self.0.send_if_modified(|grant| {
            let prolonged = grant.prolonged(until, now, slept);
            *grant = prolonged.unwrap_or(*grant);
            prolonged.is_some()
        });
    }
}

/// A slot's own end of its lease. That of an app that may run twice has none, and never ends.
#[derive(Clone, Debug)]
pub(super) struct Lease(Option<watch::Receiver<Grant>>);

/// The lease of a new slot.
pub(super) fn of(spec: &AppSpec, now: Instant) -> (Option<Granter>, Lease) {
    if !spec.scale.singleton {
        return (None, Lease(None));
    }
    let until = Until { at: now + SINGLETON_LEASE, slept: slept() };
    let (granter, lease) = watch::channel(Grant { until, is_granted: false });
    (Some(Granter(granter)), Lease(Some(lease)))
}

impl Lease {
    /// Returns when the slot may run something. Look at [`Self::over`] beside it.
    pub(super) async fn granted(&mut self) {
        let Some(grant) = &mut self.0 else { return };
        if grant.wait_for(|grant| grant.is_granted).await.is_err() {
            pending().await
        }
    }

    /// Returns when the slot may run nothing any more.
    pub(super) async fn over(&mut self) {
        let Some(grants) = &mut self.0 else { return pending().await };
        loop {
            let grant = *grants.borrow_and_update();
            if grant.until.is_over(Instant::now(), slept()) {
                return;
            }
            let look = sleep_until(grant.until.at.min(Instant::now() + LOOK));
            select! {
                () = look => {}
                Ok(()) = grants.changed() => {}
            }
        }
    }
}

/// How long the machine has slept since its start: the one clock counts that, the other does not.
fn slept() -> Duration {
    let read = |clock| clock_gettime(clock).map(Duration::from).unwrap_or_default();
    read(ClockId::CLOCK_BOOTTIME).saturating_sub(read(ClockId::CLOCK_MONOTONIC))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn singleton() -> AppSpec {
        serde_json::from_str(r#"{"scale":{"singleton":true}}"#).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_lasts_for_as_long_as_it_is_prolonged_and_no_longer() {
        let begin = Instant::now();
        let (granter, mut lease) = of(&singleton(), begin);
        let granter = granter.unwrap();
        granter.grant(Until::at(begin + Duration::from_secs(9)));
        lease.granted().await;
        assert_eq!(Instant::now(), begin, "it is granted");
        granter.grant(Until::at(begin + Duration::from_secs(4)));
        lease.over().await;
        assert_eq!(Instant::now(), begin + Duration::from_secs(9), "an older answer does not shorten it");
        granter.grant(Until::at(begin + Duration::from_secs(60)));
        lease.over().await;
        assert_eq!(Instant::now(), begin + Duration::from_secs(9), "what is over stays so");
    }

    #[test]
    fn what_was_said_before_the_machine_slept_grants_nothing_afterwards() {
        let (sent, slept) = (Instant::now(), Duration::from_secs(3600));
        let until = |slept| Until { at: sent + SINGLETON_LEASE, slept };
        let waits = |slept| Grant { until: until(slept), is_granted: false };
        let prolonged = waits(slept).prolonged(until(slept), sent, slept);
        assert!(prolonged.is_some_and(|grant| grant.is_granted), "it has slept before");
        // By the clock that measures spans both are in time.
        let now_slept = slept + Duration::from_secs(60);
        assert!(waits(slept).prolonged(until(now_slept), sent, now_slept).is_none(), "a slot of before");
        assert!(waits(now_slept).prolonged(until(slept), sent, now_slept).is_none(), "an answer of before");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_never_confirmed_neither_starts_nor_waits_for_ever() {
        let begin = Instant::now();
        let (granter, mut lease) = of(&singleton(), begin);
        let mut waiting = lease.clone();
        select! {
            () = waiting.granted() => panic!("nobody has said that it may"),
            () = lease.over() => {}
        }
        assert_eq!(Instant::now(), begin + SINGLETON_LEASE);
        drop(granter);
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_that_may_run_twice_has_no_lease() {
        let (granter, mut lease) = of(&AppSpec::default(), Instant::now());
        assert!(granter.is_none());
        lease.granted().await;
        assert!(tokio::time::timeout(Duration::from_secs(3600), lease.over()).await.is_err());
    }
}
