//! What a release has used on this node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use wharf_types::node::AppUsage;
use wharf_types::{AppName, NamespaceName};

use super::allowance::Allowance;
use super::engine::Profile;
use super::lane::Account;
use super::places::Holding;
use super::tuning::Used;

/// Counters of one release. Written on the request path, so all are relaxed atomics, and as few as will do.
#[derive(Debug, Default)]
pub struct Meter {
    invocations: AtomicU64,
    ended: AtomicU64,
    traps: AtomicU64,
    limited: AtomicU64,
    refused: AtomicU64,
    cpu_nanos: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    memory_bytes: AtomicU64,
    /// What a store of it is expected to hold.
    store_bytes: AtomicU64,
    profile: ArcSwapOption<Profile>,
    /// What the guests of the namespace may use together. None: nobody counts that, such as for containers, which the engine bounds.
    allowance: Option<Arc<Allowance>>,
    /// Of the node's places.
    holding: Holding,
}

impl Meter {
    /// Of guests of a namespace.
    pub(super) fn paid_by(allowance: Arc<Allowance>) -> Self {
        Self { allowance: Some(allowance), ..Self::default() }
    }

    pub(super) fn allowance(&self) -> Option<&Arc<Allowance>> {
        self.allowance.as_ref()
    }

    pub(super) fn holding(&self) -> &Holding {
        &self.holding
    }

    /// An invocation begins, which [`Meter::end`] must follow.
    pub(crate) fn begin(&self) {
        self.invocations.fetch_add(1, Relaxed);
    }

    pub(crate) fn end(&self) {
        self.ended.fetch_add(1, Relaxed);
    }

    /// Counts an invocation from here until the guard is dropped.
    pub(super) fn invocation(self: &Arc<Self>) -> Invocation {
        self.begin();
        Invocation(self.clone())
    }

    pub(super) fn trapped(&self) {
        self.traps.fetch_add(1, Relaxed);
    }

    pub(super) fn hit_limit(&self) {
        self.limited.fetch_add(1, Relaxed);
    }

    /// A request found every place taken.
    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(crate) fn add_received(&self, bytes: u64) {
        self.received_bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn add_sent(&self, bytes: u64) {
        self.sent_bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn add_cpu(&self, time: Duration) {
        self.cpu_nanos.fetch_add(time.as_nanos() as u64, Relaxed);
        if let Some(allowance) = &self.allowance {
            allowance.charge(time);
        }
    }

    pub(super) fn store_bytes(&self) -> u64 {
        self.store_bytes.load(Relaxed)
    }

    /// A store has held so much at the most. More is expected of the next ones at once, less by and by.
    pub(super) fn learn_store(&self, bytes: u64) {
        let known = self.store_bytes();
        let learnt = if bytes >= known { bytes } else { known - (known - bytes).div_ceil(32) };
        if learnt != known {
            self.store_bytes.store(learnt, Relaxed);
        }
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_bytes.load(Relaxed)
    }

    pub(crate) fn add_memory(&self, bytes: u64) {
        self.memory_bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn free_memory(&self, bytes: u64) {
        self.memory_bytes.fetch_sub(bytes, Relaxed);
    }

    /// The release's code is compiled for this from here on.
    pub(super) fn set_profile(&self, profile: Profile) {
        self.profile.store(Some(Arc::new(profile)));
    }

    /// In all so far, by invocations that have ended.
    pub(super) fn used(&self) -> Used {
        Used { requests: self.ended.load(Relaxed), cpu: Duration::from_nanos(self.cpu_nanos.load(Relaxed)) }
    }

    /// Invocations under way.
    pub fn active(&self) -> u64 {
        // In this order, so that one that ends in between is not counted below zero.
        let ended = self.ended.load(Relaxed);
        self.invocations.load(Relaxed).saturating_sub(ended)
    }

    pub fn usage(&self, namespace: NamespaceName, app: AppName, release: u64) -> AppUsage {
        AppUsage {
            namespace,
            app,
            release,
            invocations: self.invocations.load(Relaxed),
            traps: self.traps.load(Relaxed),
            limited: self.limited.load(Relaxed),
            refused: self.refused.load(Relaxed),
            cpu_millis: self.cpu_nanos.load(Relaxed) / 1_000_000,
            received_bytes: self.received_bytes.load(Relaxed),
            sent_bytes: self.sent_bytes.load(Relaxed),
            memory_bytes: self.memory_bytes(),
            active: self.active(),
            profile: self.profile.load().as_ref().map(|profile| profile.as_str().to_owned()),
        }
    }
}

/// An invocation under way.
#[derive(Debug)]
pub(super) struct Invocation(Arc<Meter>);

impl Drop for Invocation {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Account for Arc<Meter> {
    fn begin_poll(&self) {}

    fn charge(&self, time: Duration) {
        self.add_cpu(time);
    }

    fn close(&self, _: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_store_is_expected_again_at_once_and_forgotten_by_and_by() {
        let meter = Meter::default();
        meter.learn_store(1 << 20);
        meter.learn_store(40 << 20);
        assert_eq!(meter.store_bytes(), 40 << 20);
        (0..10).for_each(|_| meter.learn_store(1 << 20));
        assert!(((20 << 20)..(40 << 20)).contains(&meter.store_bytes()));
        (0..1000).for_each(|_| meter.learn_store(1 << 20));
        assert_eq!(meter.store_bytes(), 1 << 20);
    }
}
