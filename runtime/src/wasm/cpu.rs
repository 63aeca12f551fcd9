//! CPU time of guests.
//!
//! Two things need it: the budget of an invocation, which the engine's epoch callback checks from within the guest, and the choice
//! of the lane, which the guest's task makes between two polls. Reading a thread's clock is a system call, too much for each
//! poll of a short request; so polls are timed by the wall clock, and the thread's clock is read a few times an epoch: in the
//! callback, by guests that compute for that long, and before a poll when the last reading is old.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::engine::TICK;

/// An epoch that ends sooner after its guest was polled had begun to wait before: the guest was away for that long, and has not
/// computed.
const JUST_RESUMED: Duration = TICK.checked_div(10).expect("ten is not zero");

/// An epoch in which the guest had the CPU for less was taken by others.
const LEFT_WITHOUT_CPU: Duration = TICK.checked_div(2).expect("two is not zero");

/// What is known of the guest that this thread polls.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// Of the current budget, and in all.
    spent: Duration,
    total: Duration,
    /// The end of what these cover, by the wall clock and by the thread's clock.
    covered: Instant,
    covered_cpu: Option<Duration>,
    interrupted: bool,
}

/// When a thread's clock was read, and what it said.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    cpu: Option<Duration>,
}

/// A reading is good for so long. What the thread did between it and the beginning of a guest's poll is counted as the guest's, so
/// this is also the error.
const READING_GOOD_FOR: Duration = TICK.checked_div(4).expect("four is not zero");

/// The thread's clock, read anew where the last reading is too old.
fn read_thread_clock(now: Instant) -> Option<Duration> {
    if let Some(reading) = READING.get()
        && now.saturating_duration_since(reading.at) < READING_GOOD_FOR
    {
        return reading.cpu;
    }
    let cpu = thread_cpu_time();
    READING.set(Some(Reading { at: now, cpu }));
    cpu
}

thread_local! {
    static TURN: Cell<Option<Turn>> = const { Cell::new(None) };
    static READING: Cell<Option<Reading>> = const { Cell::new(None) };
}

/// CPU time of one guest over all its polls.
#[derive(Debug, Default)]
pub(super) struct Stopwatch {
    spent: Duration,
    total: Duration,
    interrupted: bool,
    /// When the last poll ended.
    ended: Option<Instant>,
    debt: Duration,
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
        let now = Instant::now();
        self.debt = self.debt_at(now);
        let turn = Turn {
            spent: self.spent,
            total: self.total,
            covered: now,
            covered_cpu: read_thread_clock(now),
            interrupted: false,
        };
        let _outer = Outer(TURN.replace(Some(turn)));
        let polled = poll();
        if let Some(turn) = TURN.get() {
            // Computing for longer would have been interrupted, so what goes beyond was spent waiting for a core.
            let end = Instant::now();
            let rest = (end - turn.covered).min(2 * TICK);
            let total = turn.total + rest;
            self.debt += total - self.total;
            self.spent = turn.spent + rest;
            self.total = total;
            self.interrupted = turn.interrupted;
            self.ended = Some(end);
        }
        polled
    }

    pub(super) fn total(&self) -> Duration {
        self.total
    }

    /// CPU time that the guest has not made up for by waiting for as long. Waiting for the CPU does not count.
    pub(super) fn debt_at(&self, now: Instant) -> Duration {
        match self.ended {
            Some(ended) if !self.interrupted => {
                self.debt.saturating_sub(now.saturating_duration_since(ended))
            }
            _ => self.debt,
        }
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
    /// It has just been resumed, or was kept from the CPU by others: there is no reason to make it wait again.
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
    let just_resumed = !turn.interrupted && (by_wall < JUST_RESUMED || by_cpu < LEFT_WITHOUT_CPU);
    turn.spent += by_wall.min(by_cpu);
    turn.total += by_wall.min(by_cpu);
    turn.covered = now;
    turn.covered_cpu = cpu;
    READING.set(Some(Reading { at: now, cpu }));
    turn.interrupted |= !just_resumed;
    TURN.set(Some(turn));
    Some(EpochEnd { spent: turn.spent, just_resumed })
}

/// A request is handed to the guest that this thread polls, whose CPU budget begins anew.
pub(super) fn begin_budget() {
    let Some(turn) = TURN.get() else { return };
    let now = Instant::now();
    let before = (now - turn.covered).min(2 * TICK);
    TURN.set(Some(Turn { spent: Duration::ZERO, total: turn.total + before, covered: now, ..turn }));
}

/// What the guest that this thread polls has computed in all, without what was not counted yet of this poll.
pub(super) fn total_before() -> Duration {
    TURN.get().map_or(Duration::ZERO, |turn| turn.total)
}

/// Whether this thread is within the poll of a guest: the guest has called something of this process.
pub(super) fn is_inside_a_guest() -> bool {
    TURN.get().is_some()
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
        assert!((TICK..=8 * TICK).contains(&stopwatch.spent), "{stopwatch:?}");
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
    fn waiting_makes_up_for_computing() {
        let mut stopwatch = Stopwatch::default();
        stopwatch.time(|| compute(TICK));
        let debt = stopwatch.debt_at(Instant::now());
        assert!(debt >= TICK / 2, "{debt:?}");
        assert_eq!(stopwatch.debt_at(Instant::now() + 3 * TICK), Duration::ZERO);
        stopwatch.time(|| {
            compute(2 * TICK);
            at_epoch_end().unwrap();
        });
        assert!(stopwatch.debt_at(Instant::now() + 100 * TICK) >= TICK, "it waits for the CPU");
    }

    #[test]
    fn a_new_budget_does_not_forget_what_was_spent_before() {
        let mut stopwatch = Stopwatch::default();
        stopwatch.time(|| {
            compute(TICK);
            begin_budget();
            compute(TICK / 4);
        });
        let before = stopwatch.total();
        assert_eq!(stopwatch.time(total_before), before);
        assert!(stopwatch.total() >= TICK, "{stopwatch:?}");
        assert!(stopwatch.spent < stopwatch.total(), "{stopwatch:?}");
    }

    #[test]
    fn a_guest_whose_core_was_taken_is_not_interrupted() {
        let mut stopwatch = Stopwatch::default();
        stopwatch.time(|| {
            std::thread::sleep(20 * TICK);
            assert!(at_epoch_end().unwrap().just_resumed);
        });
        assert!(!stopwatch.is_interrupted());
    }
}
