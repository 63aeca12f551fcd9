//! What a release has used on this node.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use wharf_types::node::AppUsage;
use wharf_types::{AppName, NamespaceName};

/// Counters of one release. Written on the request path, so all are relaxed atomics.
#[derive(Debug, Default)]
pub struct Meter {
    invocations: AtomicU64,
    traps: AtomicU64,
    limited: AtomicU64,
    cpu_nanos: AtomicU64,
    memory_bytes: AtomicU64,
    active: AtomicU64,
}

impl Meter {
    /// Counts an invocation from here until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Active {
        self.invocations.fetch_add(1, Relaxed);
        self.active.fetch_add(1, Relaxed);
        Active(self.clone())
    }

    pub(super) fn trapped(&self) {
        self.traps.fetch_add(1, Relaxed);
    }

    pub(super) fn hit_limit(&self) {
        self.limited.fetch_add(1, Relaxed);
    }

    pub(super) fn add_cpu(&self, time: Duration) {
        self.cpu_nanos.fetch_add(time.as_nanos() as u64, Relaxed);
    }

    pub(super) fn add_memory(&self, bytes: u64) {
        self.memory_bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn free_memory(&self, bytes: u64) {
        self.memory_bytes.fetch_sub(bytes, Relaxed);
    }

    /// Invocations under way.
    pub fn active(&self) -> u64 {
        self.active.load(Relaxed)
    }

    pub fn usage(&self, namespace: NamespaceName, app: AppName, release: u64) -> AppUsage {
        AppUsage {
            namespace,
            app,
            release,
            invocations: self.invocations.load(Relaxed),
            traps: self.traps.load(Relaxed),
            limited: self.limited.load(Relaxed),
            cpu_millis: self.cpu_nanos.load(Relaxed) / 1_000_000,
            memory_bytes: self.memory_bytes.load(Relaxed),
            active: self.active(),
        }
    }
}

/// An invocation under way.
#[derive(Debug)]
pub(super) struct Active(Arc<Meter>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}
