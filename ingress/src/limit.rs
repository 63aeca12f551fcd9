//! How many requests of a namespace pass, and how many octets leave: as many as its quota says in each second, and a burst of one
//! second's worth. Octets are counted when they leave; what is too much then makes the next wait.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use wharf_types::NamespaceName;
use wharf_types::rate::Rate;
pub(crate) use wharf_types::rate::now;
use wharf_types::route::RateLimit;

/// What is left of a namespace's requests, or octets.
#[derive(Debug)]
pub struct Bucket {
    rate: Rate,
    /// All that was counted by [`Self::take`].
    taken: AtomicU64,
    /// Whether anybody was told to wait since that was looked at.
    has_waited: AtomicBool,
}

impl Bucket {
    pub fn new(per_second: u64) -> Self {
        Self { rate: Rate::new(per_second), taken: AtomicU64::new(0), has_waited: AtomicBool::new(false) }
    }

    /// Whether one more request passes at `now`, which is then counted.
    pub fn admit(&self, now: u64) -> bool {
        self.rate.admit(now)
    }

    /// Counts what passes at `now`, however much there is left.
    pub fn take(&self, now: u64, amount: u64) {
        self.rate.take(now, amount);
        self.taken.fetch_add(amount, Ordering::Relaxed);
    }

    /// How long nothing more may pass, at most a second; then is to be asked again. None: something may.
    pub fn owed(&self, now: u64) -> Option<Duration> {
        let owed = self.rate.owed(now)?;
        self.has_waited.store(true, Ordering::Relaxed);
        Some(owed)
    }

    pub(crate) fn per_second(&self) -> u64 {
        self.rate.per_second()
    }

    /// All that was counted, and whether anybody was told to wait since this was asked last.
    pub(crate) fn look(&self) -> (u64, bool) {
        (self.taken.load(Ordering::Relaxed), self.has_waited.swap(false, Ordering::Relaxed))
    }
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
            bucket.rate.set(rate, now);
            Some((limit.namespace.clone(), bucket))
        });
        let buckets: HashMap<_, _> = buckets.collect();
        self.known = buckets.iter().map(|(name, bucket)| (name.clone(), Arc::downgrade(bucket))).collect();
        buckets
    }
}

#[cfg(test)]
mod tests {
    use wharf_types::rate::SECOND;

    use super::*;

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
    fn what_left_is_counted_and_so_is_whether_anybody_had_to_wait() {
        let bucket = Bucket::new(1000);
        bucket.take(0, 1000);
        assert_eq!((bucket.owed(0), bucket.look()), (None, (1000, false)));
        bucket.take(0, 250);
        assert_eq!(bucket.owed(0), Some(Duration::from_millis(250)));
        assert_eq!((bucket.look(), bucket.look()), ((1250, true), (1250, false)));
    }
}
