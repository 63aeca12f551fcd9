//! Memory of guests: a limit for each store, and one for all of them together, so that no app can take the host's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use wasmtime::ResourceLimiter;
use wharf_types::figures::Share;

use super::allowance::Room;
use super::meter::Meter;
use super::pool::TABLE_ELEMENTS_MAX;

/// What the guests of this host use together.
#[derive(Debug)]
pub(super) struct HostMemory {
    used: AtomicU64,
    /// Growths that did not fit, since the start.
    refused: AtomicU64,
    max_bytes: u64,
}

/// The host's memory where it cannot be found out.
const ASSUMED_BYTES: u64 = 1 << 30;

impl HostMemory {
    /// Three quarters of the host's memory; the rest is the system's and this process's own.
    pub(super) fn of_this_host() -> Self {
        Self::new(crate::machine::memory_total_bytes().unwrap_or(ASSUMED_BYTES) / 4 * 3)
    }

    fn new(max_bytes: u64) -> Self {
        Self { used: AtomicU64::new(0), refused: AtomicU64::new(0), max_bytes }
    }

    /// Whether `more` fits, for an app that has `of_app` already. An app gets no more than half of everything, whatever its
    /// limit for one store is; its first octets it gets as long as there are any.
    fn take(&self, more: u64, of_app: u64) -> bool {
        let fits = self.try_take(more, of_app);
        if !fits {
            self.refused.fetch_add(1, Relaxed);
        }
        fits
    }

    fn try_take(&self, more: u64, of_app: u64) -> bool {
        if of_app > 0 && of_app.saturating_add(more) > self.max_bytes / 2 {
            return false;
        }
        let before = self.used.fetch_add(more, Relaxed);
        let fits = before.saturating_add(more) <= self.max_bytes;
        if !fits {
            self.used.fetch_sub(more, Relaxed);
        }
        fits
    }

    pub(super) fn share(&self) -> Share {
        Share { used: self.used.load(Relaxed), max: self.max_bytes }
    }

    /// Growths that did not fit, since the start.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Relaxed);
    }
}

/// Whether the host has less than a tenth of its memory left for whoever wants it.
pub(super) fn is_host_short_of_memory() -> bool {
    match (crate::machine::memory_available_bytes(), crate::machine::memory_total_bytes()) {
        (Some(available), Some(total)) => available < total / 10,
        _ => false,
    }
}

/// Why a guest was refused memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// `limits.memory`, in octets.
    Limit(u64),
    /// The host has no more, or no more for this app.
    Host,
    /// The quota of the namespace. `alone`: it is less than this guest would hold by itself.
    Namespace { max_bytes: u64, alone: bool },
    /// A table would have had more than [`TABLE_ELEMENTS_MAX`].
    Table,
}

/// What the host may keep behind one open handle: header fields, or what was written to a body and not sent. A map of fields may
/// take twice as much and the three handles of a body as much each, so this is right within a factor of two.
pub(super) const HANDLE_BYTES: u64 = 64 << 10;

/// So many open handles are free: no request does without them, and few guests ever have more.
const HANDLES_FREE: u64 = 100;

/// Counts all memories and tables of a store, and what the host keeps for it, against one limit.
pub(super) struct Limits {
    meter: Arc<Meter>,
    host: Arc<HostMemory>,
    max_bytes: u64,
    bytes: u64,
    /// The part of `bytes` that counts for open handles.
    kept_bytes: u64,
    /// Of the memory of the namespace.
    room: Room,
    /// The most that it has held, or would have if the namespace had had more.
    most_bytes: u64,
    pub(super) denied: Option<Denied>,
}

impl Limits {
    pub(super) fn new(meter: Arc<Meter>, host: Arc<HostMemory>, max_bytes: u64) -> Self {
        let room = Room::of(meter.allowance());
        Self { meter, host, max_bytes, bytes: 0, kept_bytes: 0, room, most_bytes: 0, denied: None }
    }

    /// Takes what was set aside for the store, before it holds anything.
    pub(super) fn settle(&mut self, room: Room) {
        self.room = room;
    }

    /// How long the guests of the namespace may not compute, if they may not.
    pub(super) fn owed(&self) -> Option<Duration> {
        self.meter.allowance()?.owed()
    }

    fn grow(&mut self, current: u64, desired: u64) -> bool {
        let more = desired.saturating_sub(current);
        if self.bytes.saturating_add(more) > self.max_bytes {
            self.denied = Some(Denied::Limit(self.max_bytes));
            return false;
        }
        if !self.host.take(more, self.meter.memory_bytes()) {
            self.denied = Some(Denied::Host);
            return false;
        }
        self.most_bytes = self.most_bytes.max(self.bytes + more);
        if let Err(denied) = self.room.cover(self.bytes + more) {
            self.host.give_back(more);
            self.denied = Some(denied);
            return false;
        }
        self.bytes += more;
        self.meter.add_memory(more);
        true
    }
}

impl Limits {
    /// Counts the store's open handles anew; false: they are too many for the memory that it may have.
    pub(super) fn count_handles(&mut self, open: u64) -> bool {
        let (before, now) = (self.kept_bytes, open.saturating_sub(HANDLES_FREE) * HANDLE_BYTES);
        if !self.grow(before, now) {
            return false;
        }
        self.let_go(before.saturating_sub(now));
        self.kept_bytes = now;
        true
    }

    /// Counts octets that the host holds for the guest until it lets go of them; false: they do not fit, of which the guest itself is told.
    pub(super) fn hold(&mut self, bytes: u64) -> bool {
        let before = self.denied;
        let fits = self.grow(0, bytes);
        if !fits {
            self.denied = before;
        }
        fits
    }

    pub(super) fn let_go(&mut self, bytes: u64) {
        self.meter.free_memory(bytes);
        self.host.give_back(bytes);
        self.bytes -= bytes;
    }
}

impl Drop for Limits {
    fn drop(&mut self) {
        if self.room.is_telling() {
            self.meter.learn_store(self.most_bytes);
        }
        self.meter.free_memory(self.bytes);
        self.host.give_back(self.bytes);
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(maximum.is_none_or(|maximum| desired <= maximum) && self.grow(current as u64, desired as u64))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if desired > TABLE_ELEMENTS_MAX {
            self.denied = Some(Denied::Table);
            return Ok(false);
        }
        // An element is a pointer.
        let bytes = |elements: usize| 8 * elements as u64;
        Ok(maximum.is_none_or(|maximum| desired <= maximum) && self.grow(bytes(current), bytes(desired)))
    }
}

#[cfg(test)]
mod tests {
    use wharf_types::route::RateLimit;

    use super::super::allowance::Allowances;
    use super::*;

    fn limits(meter: &Arc<Meter>, host: &Arc<HostMemory>, max_bytes: u64) -> Limits {
        Limits::new(meter.clone(), host.clone(), max_bytes)
    }

    #[test]
    fn memory_counts_over_all_memories_and_tables_of_a_store() {
        let (meter, host) = (Arc::default(), Arc::new(HostMemory::new(1000)));
        let mut limits = limits(&meter, &host, 100);
        assert!(limits.memory_growing(0, 60, None).unwrap());
        assert!(!limits.memory_growing(0, 60, None).unwrap(), "a second memory");
        assert_eq!(limits.denied, Some(Denied::Limit(100)));
        assert!(limits.table_growing(0, 5, None).unwrap(), "5 elements of 8 octets");
        assert!(!limits.table_growing(5, 6, None).unwrap());
        assert_eq!((meter.memory_bytes(), host.used.load(Relaxed)), (100, 100));
        drop(limits);
        assert_eq!((meter.memory_bytes(), host.used.load(Relaxed)), (0, 0));
    }

    #[test]
    fn what_the_host_holds_counts_until_it_lets_go_and_is_no_reason_to_end_a_guest() {
        let (meter, host) = (Arc::default(), Arc::new(HostMemory::new(1000)));
        let mut limits = limits(&meter, &host, 100);
        assert!(limits.memory_growing(0, 60, None).unwrap() && limits.hold(40));
        assert!(!limits.hold(1));
        assert_eq!((limits.denied, meter.memory_bytes()), (None, 100));
        limits.let_go(40);
        assert!(limits.memory_growing(60, 90, None).unwrap());
        assert_eq!((meter.memory_bytes(), host.used.load(Relaxed)), (90, 90));
    }

    #[test]
    fn what_a_namespace_has_is_shared_by_all_of_its_stores() {
        let limit = RateLimit { memory_bytes: Some(100), ..RateLimit::of("blue".parse().unwrap()) };
        let allowances = Allowances::default();
        allowances.go_by(&[limit]);
        let of_blue = || Arc::new(Meter::paid_by(allowances.of(&"blue".parse().unwrap())));
        let (one, other, host) = (of_blue(), of_blue(), Arc::new(HostMemory::new(1000)));
        let (mut first, mut second) = (limits(&one, &host, 500), limits(&other, &host, 500));
        assert!(first.grow(0, 60) && !second.grow(0, 60));
        assert_eq!(second.denied, Some(Denied::Namespace { max_bytes: 100, alone: false }));
        assert!(!second.grow(0, 101));
        assert_eq!(second.denied, Some(Denied::Namespace { max_bytes: 100, alone: true }));
        assert_eq!(host.used.load(Relaxed), 60, "what was refused is nobody's");
        drop(first);
        assert!(second.grow(0, 60));
        drop(second);
        assert_eq!((one.store_bytes(), other.store_bytes()), (60, 101));
        let stranger = Arc::default();
        assert!(limits(&stranger, &host, 500).grow(0, 400), "other namespaces do not notice");
    }

    #[test]
    fn open_handles_count_while_they_are_open() {
        let (meter, host) = (Arc::default(), Arc::new(HostMemory::new(u64::MAX)));
        let mut limits = limits(&meter, &host, 10 * HANDLE_BYTES);
        assert!(limits.count_handles(HANDLES_FREE) && meter.memory_bytes() == 0);
        assert!(limits.count_handles(HANDLES_FREE + 10));
        assert!(!limits.count_handles(HANDLES_FREE + 11));
        assert_eq!(limits.denied, Some(Denied::Limit(10 * HANDLE_BYTES)));
        assert!(!limits.grow(0, 1), "nothing is left for a memory");
        assert!(limits.count_handles(3) && limits.grow(0, 10 * HANDLE_BYTES));
        drop(limits);
        assert_eq!((meter.memory_bytes(), host.used.load(Relaxed)), (0, 0));
    }

    #[test]
    fn one_app_gets_half_of_the_host_and_leaves_the_rest_to_others() {
        let host = Arc::new(HostMemory::new(1000));
        let (greedy, modest) = (Arc::default(), Arc::default());
        let mut stores: Vec<Limits> = (0..6).map(|_| limits(&greedy, &host, 200)).collect();
        let grown: Vec<bool> = stores.iter_mut().map(|store| store.grow(0, 200)).collect();
        assert_eq!(grown, [true, true, false, false, false, false]);
        assert_eq!(stores[2].denied, Some(Denied::Host));
        assert_eq!((host.share(), host.refused()), (Share { used: 400, max: 1000 }, 4));
        assert!(limits(&modest, &host, 200).grow(0, 200));
    }

    #[test]
    fn a_host_that_is_full_refuses_everybody_until_somebody_frees_memory() {
        let host = Arc::new(HostMemory::new(1000));
        let mut first = limits(&Arc::default(), &host, 1000);
        assert!(first.grow(0, 900), "a single large store fits");
        let mut second = limits(&Arc::default(), &host, 1000);
        assert!(!second.grow(0, 200));
        drop(first);
        assert!(second.grow(0, 200));
    }
}
