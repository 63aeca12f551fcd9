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

#[derive(Clone, Copy, Debug)]
struct Grant {
    until: Instant,
    /// How long the machine had slept since its start when that was said.
    slept: Duration,
    /// Whether the control plane has said so. Before that, it is only for how long to wait.
    is_granted: bool,
}

impl Grant {
    fn is_over(&self) -> bool {
        Instant::now() >= self.until || slept() > self.slept + LOOK
    }
}

/// Prolongs the lease of a slot.
#[derive(Debug)]
pub(super) struct Granter(watch::Sender<Grant>);

impl Granter {
    pub(super) fn grant(&self, until: Instant) {
        // What has come to its end stays there: the slot ends, perhaps without having noticed yet.
        self.0.send_if_modified(|grant| {
            let prolongs = !grant.is_over() && (until > grant.until || !grant.is_granted);
            if prolongs {
                *grant = Grant { until, slept: slept(), is_granted: true };
            }
            prolongs
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
    let (granter, lease) =
        watch::channel(Grant { until: now + SINGLETON_LEASE, slept: slept(), is_granted: false });
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
            if grant.is_over() {
                return;
            }
            let look = sleep_until(grant.until.min(Instant::now() + LOOK));
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
        granter.grant(begin + Duration::from_secs(9));
        lease.granted().await;
        assert_eq!(Instant::now(), begin, "it is granted");
        granter.grant(begin + Duration::from_secs(4));
        lease.over().await;
        assert_eq!(Instant::now(), begin + Duration::from_secs(9), "an older answer does not shorten it");
        granter.grant(begin + Duration::from_secs(60));
        lease.over().await;
        assert_eq!(Instant::now(), begin + Duration::from_secs(9), "what is over stays so");
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
