//! What passes at a rate: so much in each second, and a burst of one second's worth.
//!
//! It is one number, the time at which nothing is owed any more if nobody comes: whatever passes moves it on by what it is worth, and what
//! would move it more than a second ahead of now does not pass (the generic cell rate algorithm). So it costs one atomic operation, and nothing
//! has to run in the background. What is counted when it has passed may move it further ahead; then the next wait.
//!
//! ```
//! use std::time::Duration;
//! use wharf_types::rate::Rate;
//!
//! let rate = Rate::new(1000);
//! rate.take(0, 1250);
//! assert_eq!(rate.owed(0), Some(Duration::from_millis(250)));
//! assert_eq!(rate.owed(250_000_000), None);
//! ```

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// In nanoseconds.
pub const SECOND: u64 = 1_000_000_000;

/// How much may pass in a second, and what has.
#[derive(Debug)]
pub struct Rate {
    /// 0: nothing passes.
    per_second: AtomicU64,
    /// When nothing is owed any more, in nanoseconds of the same clock as `now`.
    even_at: AtomicU64,
}

impl Rate {
    pub fn new(per_second: u64) -> Self {
        Self { per_second: AtomicU64::new(per_second), even_at: AtomicU64::new(0) }
    }

    pub fn per_second(&self) -> u64 {
        self.per_second.load(Relaxed)
    }

    /// From now on so much. What is owed by the rate of before would keep a faster one waiting for as long as the slower would have taken, so
    /// no more than a second of it stays. `now` is only asked where the rate is another one.
    pub fn set(&self, per_second: u64, now: impl FnOnce() -> u64) {
        if self.per_second.swap(per_second, Relaxed) != per_second {
            self.even_at.fetch_min(now().saturating_add(SECOND), Relaxed);
        }
    }

    /// Whether one more passes at `now`, which is then counted.
    pub fn admit(&self, now: u64) -> bool {
        let interval = interval(self.per_second());
        let one_more = |even_at: u64| {
            let even_at = even_at.max(now).saturating_add(interval);
            (interval > 0 && even_at - now <= SECOND).then_some(even_at)
        };
        self.even_at.fetch_update(Relaxed, Relaxed, one_more).is_ok()
    }

    /// Counts what passes at `now`, however much there is left.
    pub fn take(&self, now: u64, amount: u64) {
        self.take_forgiving(now, amount, u64::MAX);
    }

    /// The same, and what is owed beyond so many nanoseconds is forgiven.
    pub fn take_forgiving(&self, now: u64, amount: u64, owed_max: u64) {
        let rate = u128::from(self.per_second().max(1));
        let span = u64::try_from(u128::from(amount) * u128::from(SECOND) / rate).unwrap_or(u64::MAX);
        let latest = now.saturating_add(owed_max);
        let more = |even_at: u64| Some(even_at.max(now).saturating_add(span).min(latest));
        let _ = self.even_at.fetch_update(Relaxed, Relaxed, more);
    }

    /// How long nothing more may pass, at most a second; then is to be asked again, as the rate may be another by then. None: something may.
    pub fn owed(&self, now: u64) -> Option<Duration> {
        let owed = match self.per_second() {
            0 => SECOND,
            _ => self.even_at.load(Relaxed).saturating_sub(now).saturating_sub(SECOND).min(SECOND),
        };
        (owed > 0).then(|| Duration::from_nanos(owed))
    }
}

fn interval(per_second: u64) -> u64 {
    SECOND.checked_div(per_second).map_or(0, |span| span.max(1))
}

/// Nanoseconds since the process asked first.
pub fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_owed_by_a_slow_rate_is_forgiven_by_a_faster_one() {
        let rate = Rate::new(1);
        rate.take(0, 1_000_000);
        rate.set(1, || 0);
        assert_eq!(rate.owed(100 * SECOND), Some(Duration::from_secs(1)), "it is the same rate");
        rate.set(1_000_000, || 0);
        assert_eq!(rate.owed(0), None);
    }

    #[test]
    fn a_second_worth_passes_at_once_and_then_one_each_interval() {
        let rate = Rate::new(10);
        let now = 5 * SECOND;
        assert_eq!((0..100).filter(|_| rate.admit(now)).count(), 10);
        assert!(!rate.admit(now + SECOND / 10 - 1));
        assert!(rate.admit(now + SECOND / 10));
        assert!(!rate.admit(now + SECOND / 10));
        assert_eq!(
            (0..100).filter(|_| rate.admit(now + 60 * SECOND)).count(),
            10,
            "no more than a second is saved up"
        );
    }

    #[test]
    fn a_rate_of_nothing_lets_nothing_pass_and_the_largest_one_everything() {
        assert!(!Rate::new(0).admit(0));
        let rate = Rate::new(u64::MAX);
        assert!((0..10_000).all(|_| rate.admit(7)));
    }

    #[test]
    fn what_has_passed_is_owed_until_its_time_has_passed() {
        let rate = Rate::new(1000);
        rate.take(0, 1000);
        assert_eq!(rate.owed(0), None, "a second's worth is a burst");
        rate.take(0, 250);
        assert_eq!(rate.owed(0), Some(Duration::from_millis(250)));
        assert_eq!(rate.owed(SECOND / 4), None);
        rate.take(SECOND / 4, 5000);
        assert_eq!(rate.owed(SECOND / 4), Some(Duration::from_secs(1)), "the rate may be another by then");
        rate.set(0, || 0);
        assert!(rate.owed(u64::MAX).is_some());
    }

    #[test]
    fn what_is_owed_beyond_a_bound_is_forgiven() {
        let rate = Rate::new(1);
        rate.take_forgiving(0, 3600, 60 * SECOND);
        assert!(rate.owed(59 * SECOND - 1).is_some());
        assert_eq!(rate.owed(59 * SECOND), None);
    }

    proptest! {
        #[test]
        fn what_waits_for_what_it_owes_keeps_to_the_rate(
            per_second in 1..1_000_000_u64, amounts in prop::collection::vec(1..100_000_u64, 1..50)
        ) {
            let rate = Rate::new(per_second);
            let (mut now, mut passed) = (0, 0_u128);
            for amount in amounts {
                while let Some(owed) = rate.owed(now) {
                    now += owed.as_nanos() as u64;
                }
                // What passes at this moment was allowed by what had passed before.
                let most = u128::from(per_second) * (u128::from(now) + u128::from(SECOND)) / u128::from(SECOND) + 1;
                prop_assert!(passed <= most);
                rate.take(now, amount);
                passed += u128::from(amount);
            }
        }

        #[test]
        fn never_more_are_admitted_than_the_rate_and_a_burst(
            per_second in 1..500_u64, gaps in prop::collection::vec(0..50_000_000_u64, 1..300)
        ) {
            let rate = Rate::new(per_second);
            let (mut now, mut passed) = (0, 0);
            for gap in gaps {
                now += gap;
                passed += u64::from(rate.admit(now));
                // One that just fits at the edge counts for the next interval.
                let most = per_second + (u128::from(now) * u128::from(per_second) / u128::from(SECOND)) as u64 + 1;
                prop_assert!(passed <= most, "{passed} of {most} by {now}");
            }
        }

        #[test]
        fn who_keeps_below_the_rate_is_never_refused(
            per_second in 1..500_u64, extra in prop::collection::vec(0..5_000_u64, 1..300)
        ) {
            let rate = Rate::new(per_second);
            let mut now = 0;
            for extra in extra {
                now += SECOND / per_second + extra;
                prop_assert!(rate.admit(now));
            }
        }
    }
}
