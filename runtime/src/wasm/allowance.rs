//! What the guests of a namespace use of this node together, and how much of it the quota of the namespace lets them: memory that they hold,
//! and time that they compute.
//!
//! `limits` bound one guest, and say nothing of how many there are at once. What a namespace has for all of them is counted here, as it is used.
//! What begins beyond it waits for a short while, one behind the other, and is then turned away; what has begun is refused more memory, and
//! computes on when its time has come back.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use wharf_types::NamespaceName;
use wharf_types::quantity::{ByteSize, CpuShare};
use wharf_types::rate::{Rate, SECOND, now};
use wharf_types::route::RateLimit;

use super::admission::QUEUE_TIMEOUT;
use super::failure::InvokeError;
use super::memory::Denied;
use super::places::Holding;

/// In the place of a limit.
const UNLIMITED: u64 = u64::MAX;
/// Nanoseconds that a thousandth of a processor computes in a second.
const OF_MILLI: u64 = SECOND / 1000;

/// What a store is expected to hold of whose kind none has ended yet.
const STORE_BYTES: u64 = 1 << 20;

/// What a guest gets in any case that is started to see whether it works. An app whose namespace has no memory left is not ill, and must not be
/// taken out of the routes, or started again and again, because of that.
const CHECK_BYTES: u64 = 16 << 20;

/// What is owed beyond this is forgiven, so that a rate that was much too low for long is forgotten within a minute.
const DEBT_MAX: u64 = 60 * SECOND;

/// For what a store is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Request,
    /// The platform wants to know whether the guest works.
    Check,
    /// A command starts, and goes on.
    Command,
}

/// What the guests of one namespace use together, and may use.
#[derive(Debug)]
pub(crate) struct Allowance {
    memory: Memory,
    cpu: Budget,
    for_cpu: Line,
    /// Of the node's places.
    holding: Holding,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            memory: Memory::default(),
            cpu: Budget::new(UNLIMITED),
            for_cpu: Line::default(),
            holding: Holding::default(),
        }
    }
}

impl Allowance {
    fn set(&self, limit: Option<&RateLimit>) {
        let (memory, cpu) = limit.map_or((None, None), |limit| (limit.memory_bytes, limit.cpu_millis));
        self.memory.max.store(memory.unwrap_or(UNLIMITED), SeqCst);
        // There may be more room now.
        self.memory.freed.notify_one();
        self.cpu.set_rate(cpu.unwrap_or(UNLIMITED), now);
    }

    pub(super) fn holding(&self) -> &Holding {
        &self.holding
    }

    /// Sets aside the memory that a store is expected to hold. Where there is not so much, `make_room` gives up something of the namespace that
    /// it can do without, and says whether there was any; then somebody has to let go of it.
    pub(super) async fn room(
        self: &Arc<Self>,
        expected: u64,
        purpose: Purpose,
        make_room: impl Fn() -> bool,
    ) -> Result<Room, InvokeError> {
        if purpose == Purpose::Check {
            return Ok(Room { of: Some(self.clone()), held: 0, sure: CHECK_BYTES.max(expected) });
        }
        let memory = &self.memory;
        let expected = if expected == 0 { STORE_BYTES } else { expected };
        let held = expected.min(memory.max.load(SeqCst));
        if !(memory.line.is_empty() && memory.try_take(held)) {
            let turn = async {
                while !memory.try_take(held) {
                    if !make_room() {
                        memory.freed.notified().await;
                    }
                }
            };
            if !memory.line.wait(turn).await {
                return Err(no_memory(memory.max.load(Relaxed)));
            }
        }
        Ok(Room { of: Some(self.clone()), held, sure: 0 })
    }

    /// Waits until the guests may compute.
    pub(super) async fn time(&self) -> Result<(), InvokeError> {
        if self.for_cpu.is_empty() && self.owed().is_none() {
            return Ok(());
        }
        let turn = async {
            while let Some(owed) = self.owed() {
                tokio::time::sleep(owed).await;
            }
        };
        if self.for_cpu.wait(turn).await { Ok(()) } else { Err(no_time(self.cpu.millis())) }
    }

    /// How long no guest may compute, at most a second; then is to be asked again. None: they may.
    pub(super) fn owed(&self) -> Option<Duration> {
        self.cpu.owed(now)
    }

    /// A guest has computed for so long.
    pub(super) fn charge(&self, spent: Duration) {
        self.cpu.charge(now, spent);
    }
}

/// A guest that has not begun, because the others hold all that there is.
pub(super) fn no_memory(max_bytes: u64) -> InvokeError {
    InvokeError::OverQuota(format!(
        "memory: the guests of the namespace hold what its quota allows on a node, {}, and nothing became free in time",
        ByteSize::bytes(max_bytes)
    ))
}

fn no_time(millis: u64) -> InvokeError {
    let cpus = CpuShare::millis(u32::try_from(millis).unwrap_or(u32::MAX));
    InvokeError::OverQuota(format!(
        "cpu: the guests of the namespace have computed for as long as its quota, {cpus}, allows on a node"
    ))
}

/// Memory that guests hold together.
#[derive(Debug)]
struct Memory {
    used: AtomicU64,
    max: AtomicU64,
    line: Line,
    /// Somebody has let go of some.
    freed: Notify,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            used: AtomicU64::new(0),
            max: AtomicU64::new(UNLIMITED),
            line: Line::default(),
            freed: Notify::new(),
        }
    }
}

impl Memory {
    fn take(&self, more: u64) {
        self.used.fetch_add(more, SeqCst);
    }

    /// Nobody sees more used than is: whoever waits for room would miss it.
    fn try_take(&self, more: u64) -> bool {
        let max = self.max.load(SeqCst);
        if max == UNLIMITED {
            self.take(more);
            return true;
        }
        let with = |used: u64| used.checked_add(more).filter(|used| *used <= max);
        self.used.fetch_update(SeqCst, SeqCst, with).is_ok()
    }

    fn give_back(&self, bytes: u64) {
        // In this order, which is the other one for who gets in line and then looks.
        self.used.fetch_sub(bytes, SeqCst);
        if !self.line.is_empty() {
            self.freed.notify_one();
        }
    }
}

/// Memory that a store has of its namespace's, given back when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// None: nobody counts.
    of: Option<Arc<Allowance>>,
    held: u64,
    /// It gets so much whatever the others hold.
    sure: u64,
}

impl Room {
    /// For a store for which nothing was set aside.
    pub(super) fn of(allowance: Option<&Arc<Allowance>>) -> Self {
        Self { of: allowance.cloned(), held: 0, sure: 0 }
    }

    /// Whether the store says what others will need. One that was only made for a look does not.
    pub(super) fn is_telling(&self) -> bool {
        self.of.is_some() && self.sure == 0
    }

    /// Makes sure that the store may hold so much in all.
    pub(super) fn cover(&mut self, bytes: u64) -> Result<(), Denied> {
        let Some(allowance) = &self.of else { return Ok(()) };
        let more = bytes.saturating_sub(self.held);
        if more == 0 {
            return Ok(());
        }
        if bytes <= self.sure {
            allowance.memory.take(more);
        } else if !allowance.memory.try_take(more) {
            let max_bytes = allowance.memory.max.load(Relaxed);
            return Err(Denied::Namespace { max_bytes, alone: bytes > max_bytes });
        }
        self.held += more;
        Ok(())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let (Some(allowance), 1..) = (&self.of, self.held) {
            allowance.memory.give_back(self.held);
        }
    }
}

/// CPU time that comes back at a rate, in nanoseconds. What comes back within a second may be used at once. Nobody looks at the clock where
/// there is no limit.
#[derive(Debug)]
struct Budget(Rate);

impl Budget {
    /// Of thousandths of a processor. 0: none may compute.
    fn new(millis: u64) -> Self {
        Self(Rate::new(millis.saturating_mul(OF_MILLI)))
    }

    fn set_rate(&self, millis: u64, now: impl Fn() -> u64) {
        self.0.set(millis.saturating_mul(OF_MILLI), now);
    }

    fn millis(&self) -> u64 {
        self.0.per_second() / OF_MILLI
    }

    fn charge(&self, now: impl Fn() -> u64, spent: Duration) {
        if self.0.per_second() != UNLIMITED {
            let spent = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
            self.0.take_forgiving(now(), spent, DEBT_MAX);
        }
    }

    fn owed(&self, now: impl Fn() -> u64) -> Option<Duration> {
        if self.0.per_second() == UNLIMITED { None } else { self.0.owed(now()) }
    }
}

/// Requests that wait one behind the other.
#[derive(Debug, Default)]
pub(super) struct Line {
    turn: tokio::sync::Mutex<()>,
    length: AtomicUsize,
}

impl Line {
    pub(super) fn is_empty(&self) -> bool {
        self.length.load(SeqCst) == 0
    }

    /// Waits for the turn behind those who came before, and then for `ready`. False: that took too long.
    pub(super) async fn wait(&self, ready: impl Future<Output = ()>) -> bool {
        /// Counts who waits, also one whose client goes away meanwhile.
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, SeqCst);
            }
        }
        self.length.fetch_add(1, SeqCst);
        let _waiting = Waiting(&self.length);
        let first = async {
            let _turn = self.turn.lock().await;
            ready.await;
        };
        tokio::time::timeout(QUEUE_TIMEOUT, first).await.is_ok()
    }
}

/// Those of all namespaces that run something here.
#[derive(Debug, Default)]
pub(crate) struct Allowances {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    allowances: HashMap<NamespaceName, Arc<Allowance>>,
    limits: HashMap<NamespaceName, RateLimit>,
}

impl Allowances {
    /// That of a namespace, which is the same one as long as anybody has it.
    pub(crate) fn of(&self, namespace: &NamespaceName) -> Arc<Allowance> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(allowance) = known.allowances.get(namespace) {
            return allowance.clone();
        }
        let allowance = Arc::<Allowance>::default();
        allowance.set(known.limits.get(namespace));
        known.allowances.insert(namespace.clone(), allowance.clone());
        allowance
    }

    /// These limits hold from here on, and no others.
    pub(crate) fn go_by(&self, limits: &[RateLimit]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = &mut *known;
        known.limits = limits.iter().map(|limit| (limit.namespace.clone(), limit.clone())).collect();
        known.allowances.retain(|_, allowance| Arc::strong_count(allowance) > 1);
        for (namespace, allowance) in &known.allowances {
            allowance.set(known.limits.get(namespace));
        }
    }
}

#[cfg(test)]
mod tests;
