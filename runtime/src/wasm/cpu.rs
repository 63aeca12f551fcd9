//! CPU time of guests.
//!
//! Two things need it: the budget of an invocation, which the engine's epoch callback checks from within the guest, and the choice
//! of the lane, which the guest's task makes between two polls. Reading a thread's clock is a system call, too much for each
//! poll of a short request; so polls are timed by the wall clock, and the thread's clock is read only in the callback, that
//! is, about once an epoch by guests that compute for that long.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::engine::TICK;
use super::lane::lanes_for;
use super::meter::Meter;

/// An epoch that ends sooner after its guest was polled had begun to wait before: the guest was away for that long, and has not
/// computed.
const JUST_RESUMED: Duration = TICK.checked_div(10).expect("ten is not zero");

/// What is known of the guest that this thread polls.
#[derive(Clone, Copy, Debug)]
struct Turn {
    spent: Duration,
    /// The end of what `spent` covers, by the wall clock and by the thread's clock.
    covered: Instant,
    covered_cpu: Option<Duration>,
    interrupted: bool,
}

thread_local! {
    static TURN: Cell<Option<Turn>> = const { Cell::new(None) };
}

/// CPU time of one guest over all its polls.
#[derive(Debug, Default)]
pub(super) struct Stopwatch {
    spent: Duration,
    interrupted: bool,
}

impl Stopwatch {
    /// Runs a poll of the guest, and counts what it took.
    pub(super) fn time<T>(&mut self, poll: impl FnOnce() -> T) -> T {
        /// A guest may call another one of this process, whose poll then lies inside its own; and a poll may panic.
        struct Outer(Option<Turn>);
        impl Drop for Outer {
            fn drop(&mut self) {
                TURN.set(self.0);
            }
        }
        let turn = Turn { spent: self.spent, covered: Instant::now(), covered_cpu: None, interrupted: false };
        let _outer = Outer(TURN.replace(Some(turn)));
        let polled = poll();
        if let Some(turn) = TURN.get() {
            // Computing for longer would have been interrupted, so what goes beyond was spent waiting for a core.
            self.spent = turn.spent + turn.covered.elapsed().min(2 * TICK);
            self.interrupted = turn.interrupted;
        }
        polled
    }

    pub(super) fn spent(&self) -> Duration {
        self.spent
    }

    /// Whether the last poll ended because the guest computed to the end of an epoch.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted
    }
}

/// A guest at the end of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EpochEnd {
    /// CPU time of the invocation so far.
    pub(super) spent: Duration,
    /// It has just been resumed, and the epoch ended while it waited: there is no reason to make it wait again.
    pub(super) just_resumed: bool,
}

/// Called from within the guest. None: nobody times it.
pub(super) fn at_epoch_end() -> Option<EpochEnd> {
    let mut turn = TURN.get()?;
    let (now, cpu) = (Instant::now(), thread_cpu_time());
    let by_wall = now - turn.covered;
    let by_cpu = match (cpu, turn.covered_cpu) {
        (Some(now), Some(before)) => now.saturating_sub(before),
        _ => 2 * TICK,
    };
    let just_resumed = !turn.interrupted && by_wall < JUST_RESUMED;
    turn.spent += by_wall.min(by_cpu);
    turn.covered = now;
    turn.covered_cpu = cpu;
    turn.interrupted |= !just_resumed;
    TURN.set(Some(turn));
    Some(EpochEnd { spent: turn.spent, just_resumed })
}

/// CPU time of a store that serves many requests at once and is polled by the engine's own scheduler. It is told when a request is
/// handed in and when a poll has ended, and takes what lies between for work: near enough, and cheap.
#[derive(Debug)]
pub(super) struct StoreClock {
    meter: Arc<Meter>,
    base: Instant,
    /// Since when the guest works, in nanoseconds after `base`; 0 while it waits.
    since: AtomicU64,
    /// What it has used since the last request was handed in.
    spent: AtomicU64,
    lanes: AtomicUsize,
}

impl StoreClock {
    pub(super) fn new(meter: Arc<Meter>) -> Self {
        Self {
            meter,
            base: Instant::now(),
            since: AtomicU64::new(0),
            spent: AtomicU64::new(0),
            lanes: AtomicUsize::new(0),
        }
    }

    fn now(&self) -> u64 {
        self.base.elapsed().as_nanos() as u64 + 1
    }

    /// A request is handed in.
    pub(super) fn begin(&self) {
        self.spent.store(0, Relaxed);
        if self.since.load(Relaxed) == 0 {
            self.since.store(self.now(), Relaxed);
        }
    }

    /// The guest waits, for whatever it is.
    pub(super) fn pause(&self) {
        if self.since.load(Relaxed) != 0 {
            self.charge(0);
        }
    }

    /// Counts the time since it began to work, which is less than two epochs: longer work would have been interrupted.
    fn charge(&self, since: u64) -> Duration {
        let worked = self.now().saturating_sub(self.since.swap(since, Relaxed));
        let worked = Duration::from_nanos(worked).min(2 * TICK);
        self.meter.add_cpu(worked);
        worked
    }

    pub(super) fn at_epoch_end(&self) -> EpochEnd {
        let now = self.now();
        if self.since.load(Relaxed) == 0 {
            self.since.store(now, Relaxed);
            return EpochEnd { spent: self.spent(), just_resumed: true };
        }
        let worked = self.charge(now);
        self.spent.fetch_add(worked.as_nanos() as u64, Relaxed);
        let spent = self.spent();
        self.lanes.fetch_max(lanes_for(spent), Relaxed);
        EpochEnd { spent, just_resumed: false }
    }

    fn spent(&self) -> Duration {
        Duration::from_nanos(self.spent.load(Relaxed))
    }

    /// The lane that its work asked for.
    pub(super) fn lanes(&self) -> usize {
        self.lanes.load(Relaxed)
    }
}

fn thread_cpu_time() -> Option<Duration> {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uses up CPU time of this thread.
    fn compute(time: Duration) {
        let start = thread_cpu_time().unwrap();
        while thread_cpu_time().unwrap() - start < time {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn what_a_guest_computes_counts_and_what_it_waits_does_not() {
        let mut stopwatch = Stopwatch::default();
        stopwatch.time(|| {
            compute(TICK);
            let end = at_epoch_end().unwrap();
            assert!(end.spent >= TICK && !end.just_resumed, "{end:?}");
            // Somebody else has the core.
            std::thread::sleep(20 * TICK);
            let end = at_epoch_end().unwrap();
            assert!(end.spent <= 5 * TICK, "{end:?}");
        });
        assert!(stopwatch.is_interrupted());
        std::thread::sleep(20 * TICK);
        stopwatch.time(|| ());
        assert!(!stopwatch.is_interrupted());
        assert!((TICK..=8 * TICK).contains(&stopwatch.spent()), "{stopwatch:?}");
    }

    #[test]
    fn an_epoch_that_ended_while_the_guest_waited_does_not_interrupt_it() {
        let mut stopwatch = Stopwatch::default();
        // The machine may take the core away in between; it does not do so each time.
        let resumed = (0..100).any(|_| stopwatch.time(|| at_epoch_end().unwrap().just_resumed));
        assert!(resumed && !stopwatch.is_interrupted());
    }

    #[test]
    fn a_guest_inside_another_has_a_stopwatch_of_its_own() {
        let (mut outer, mut inner) = (Stopwatch::default(), Stopwatch::default());
        outer.time(|| {
            inner.time(|| {
                compute(TICK);
                at_epoch_end().unwrap();
            });
            assert!(inner.is_interrupted());
            assert!(TURN.get().is_some_and(|turn| !turn.interrupted));
        });
        assert!(!outer.is_interrupted());
        assert_eq!(at_epoch_end(), None, "nothing is timed outside");
    }

    #[test]
    fn a_poll_that_panics_leaves_nothing_behind() {
        let poll = || Stopwatch::default().time(|| panic!("on purpose"));
        assert!(std::panic::catch_unwind(poll).is_err());
        assert_eq!(at_epoch_end(), None);
    }

    #[test]
    fn a_shared_store_pays_for_work_and_not_for_waiting() {
        let meter = Arc::new(Meter::default());
        let clock = StoreClock::new(meter.clone());
        clock.begin();
        compute(TICK);
        let end = clock.at_epoch_end();
        assert!(!end.just_resumed && end.spent >= TICK, "{end:?}");
        clock.pause();
        std::thread::sleep(20 * TICK);
        let end = clock.at_epoch_end();
        assert!(end.just_resumed && end.spent <= 4 * TICK, "{end:?}");
        clock.begin();
        assert_eq!(clock.spent(), Duration::ZERO, "a new request has a new budget");
        assert_eq!(clock.lanes(), 1);
    }
}
