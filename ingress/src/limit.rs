//! How many requests of a namespace pass, and how many octets leave: as many as its quota says in each second, and a burst of one
//! second's worth.
//!
//! The bucket is one number, the time at which it will be empty again if nobody comes: each request that passes moves it on by what
//! one request is worth, and a request that would move it more than a second ahead of now does not pass (the generic cell rate
//! algorithm). So a request costs one atomic operation, and nothing has to run in the background. Octets are counted when they
//! leave, and may move it further ahead; then the next wait.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use wharf_types::NamespaceName;
use wharf_types::route::RateLimit;

const SECOND: u64 = 1_000_000_000;

/// What is left of a namespace's requests, or octets.
#[derive(Debug)]
pub struct Bucket {
    /// 0: nothing passes.
    per_second: AtomicU64,
    /// When it is empty again, in nanoseconds of the same clock as `now`.
    empty_at: AtomicU64,
    /// All that was counted by [`Self::take`].
    taken: AtomicU64,
    /// Whether anybody was told to wait since that was looked at.
    has_waited: AtomicBool,
}

impl Bucket {
    pub fn new(per_second: u64) -> Self {
        Self {
            per_second: AtomicU64::new(per_second),
            empty_at: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            has_waited: AtomicBool::new(false),
        }
    }

    fn set_rate(&self, per_second: u64) {
        if self.per_second.swap(per_second, Ordering::Relaxed) != per_second {
            // What is owed by the rate of before would keep a faster one waiting for as long as the slower would have taken.
            self.empty_at.fetch_min(now().saturating_add(SECOND), Ordering::Relaxed);
        }
    }

    /// Whether one more request passes at `now`, which is then counted.
    pub fn admit(&self, now: u64) -> bool {
        let interval = interval(self.per_second.load(Ordering::Relaxed));
        let one_more = |empty_at: u64| {
            let empty_at = empty_at.max(now).saturating_add(interval);
            (interval > 0 && empty_at - now <= SECOND).then_some(empty_at)
        };
        self.empty_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Counts what passes at `now`, however much there is left.
    pub fn take(&self, now: u64, amount: u64) {
        let rate = u128::from(self.per_second.load(Ordering::Relaxed).max(1));
        let span = u64::try_from(u128::from(amount) * u128::from(SECOND) / rate).unwrap_or(u64::MAX);
        let more = |empty_at: u64| Some(empty_at.max(now).saturating_add(span));
        let _ = self.empty_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        self.taken.fetch_add(amount, Ordering::Relaxed);
    }

    /// How long nothing more may pass, at most a second; then is to be asked again. None: something may.
    pub fn owed(&self, now: u64) -> Option<Duration> {
        let owed = match self.per_second() {
            0 => SECOND,
            _ => self.empty_at.load(Ordering::Relaxed).saturating_sub(now).saturating_sub(SECOND).min(SECOND),
        };
        if owed == 0 {
            return None;
        }
        self.has_waited.store(true, Ordering::Relaxed);
        Some(Duration::from_nanos(owed))
    }

    pub(crate) fn per_second(&self) -> u64 {
        self.per_second.load(Ordering::Relaxed)
    }

    /// All that was counted, and whether anybody was told to wait since this was asked last.
    pub(crate) fn look(&self) -> (u64, bool) {
        (self.taken.load(Ordering::Relaxed), self.has_waited.swap(false, Ordering::Relaxed))
    }
}

fn interval(requests_per_second: u64) -> u64 {
    SECOND.checked_div(requests_per_second).map_or(0, |span| span.max(1))
}

/// Nanoseconds since the process asked first.
pub(crate) fn now() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The buckets that any live router refers to, so that a new table takes over what the old one has counted.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    known: HashMap<NamespaceName, Weak<Bucket>>,
}

impl Buckets {
    /// The bucket of each namespace that has a limit of this kind.
    pub(crate) fn of(
        &mut self,
        limits: &[RateLimit],
        per_second: fn(&RateLimit) -> Option<u64>,
    ) -> HashMap<NamespaceName, Arc<Bucket>> {
        let buckets = limits.iter().filter_map(|limit| {
            let rate = per_second(limit)?;
            let known = self.known.get(&limit.namespace).and_then(Weak::upgrade);
            let bucket = known.unwrap_or_else(|| Arc::new(Bucket::new(rate)));
            bucket.set_rate(rate);
            Some((limit.namespace.clone(), bucket))
        });
        let buckets: HashMap<_, _> = buckets.collect();
        self.known = buckets.iter().map(|(name, bucket)| (name.clone(), Arc::downgrade(bucket))).collect();
        buckets
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_owed_by_a_slow_rate_is_forgiven_by_a_faster_one() {
        let bucket = Bucket::new(1);
        bucket.take(now(), 1_000_000);
        bucket.set_rate(1);
        assert_eq!(bucket.owed(now() + 100 * SECOND), Some(Duration::from_secs(1)), "it is the same rate");
        bucket.set_rate(1_000_000);
        assert_eq!(bucket.owed(now()), None);
    }

    #[test]
    fn a_second_worth_passes_at_once_and_then_one_each_interval() {
        let bucket = Bucket::new(10);
        let now = 5 * SECOND;
        assert_eq!((0..100).filter(|_| bucket.admit(now)).count(), 10);
        assert!(!bucket.admit(now + SECOND / 10 - 1));
        assert!(bucket.admit(now + SECOND / 10));
        assert!(!bucket.admit(now + SECOND / 10));
        assert_eq!(
            (0..100).filter(|_| bucket.admit(now + 60 * SECOND)).count(),
            10,
            "no more than a second is saved up"
        );
    }

    #[test]
    fn a_limit_of_nothing_lets_nothing_pass_and_the_largest_one_everything() {
        assert!(!Bucket::new(0).admit(0));
        let bucket = Bucket::new(u64::MAX);
        assert!((0..10_000).all(|_| bucket.admit(7)));
    }

    #[test]
    fn what_was_counted_outlives_the_table_and_a_new_rate_holds_at_once() {
        let limit = |rate| {
            let namespace = "blue".parse().unwrap();
            [RateLimit { requests_per_second: Some(rate), ..RateLimit::of(namespace) }]
        };
        let requests: fn(&RateLimit) -> Option<u64> = |limit| limit.requests_per_second;
        let mut buckets = Buckets::default();
        let blue = "blue".parse().unwrap();
        let first = buckets.of(&limit(1), requests);
        assert!(first[&blue].admit(0));
        let second = buckets.of(&limit(1), requests);
        assert!(!second[&blue].admit(0));
        let faster = buckets.of(&limit(1000), requests);
        assert!(!faster[&blue].admit(0), "what is owed is owed");
        assert!(faster[&blue].admit(SECOND / 1000));
        drop((first, second, faster));
        assert!(
            buckets.of(&limit(1), |limit| limit.egress_bytes_per_second).is_empty()
                && buckets.known.is_empty()
        );
    }

    #[test]
    fn what_left_is_owed_until_its_time_has_passed() {
        let bucket = Bucket::new(1000);
        bucket.take(0, 1000);
        assert_eq!(bucket.owed(0), None, "a second's worth is a burst");
        assert_eq!(bucket.look(), (1000, false));
        bucket.take(0, 250);
        assert_eq!(bucket.owed(0), Some(Duration::from_millis(250)));
        assert_eq!((bucket.look(), bucket.look()), ((1250, true), (1250, false)));
        assert_eq!(bucket.owed(SECOND / 4), None);
        bucket.take(SECOND / 4, 5000);
        assert_eq!(bucket.owed(SECOND / 4), Some(Duration::from_secs(1)), "the rate may be another by then");
        bucket.set_rate(0);
        assert!(bucket.owed(u64::MAX).is_some());
    }

    proptest! {
        #[test]
        fn octets_keep_to_the_rate(rate in 1..1_000_000_u64, frames in prop::collection::vec(1..100_000_u64, 1..50)) {
            let bucket = Bucket::new(rate);
            let (mut now, mut left) = (0, 0_u128);
            for frame in frames {
                while let Some(owed) = bucket.owed(now) {
                    now += owed.as_nanos() as u64;
                }
                // What leaves at this moment was allowed by what had left before.
                prop_assert!(left <= u128::from(rate) * (u128::from(now) + u128::from(SECOND)) / u128::from(SECOND) + 1);
                bucket.take(now, frame);
                left += u128::from(frame);
            }
        }

        #[test]
        fn never_more_pass_than_the_rate_and_a_burst(
            rate in 1..500_u64, gaps in prop::collection::vec(0..50_000_000_u64, 1..300)
        ) {
            let bucket = Bucket::new(rate);
            let (mut now, mut passed) = (0, 0);
            for gap in gaps {
                now += gap;
                passed += u64::from(bucket.admit(now));
                // A request that just fits at the edge counts for the next interval.
                let most = rate + (u128::from(now) * u128::from(rate) / u128::from(SECOND)) as u64 + 1;
                prop_assert!(passed <= most, "{passed} of {most} by {now}");
            }
        }

        #[test]
        fn who_keeps_below_the_rate_is_never_refused(rate in 1..500_u64, extra in prop::collection::vec(0..5_000_u64, 1..300)) {
            let bucket = Bucket::new(rate);
            let mut now = 0;
            for extra in extra {
                now += SECOND / rate + extra;
                prop_assert!(bucket.admit(now));
            }
        }
    }
}
