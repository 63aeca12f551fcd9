//! What became of the requests to each release: a few counters that every instance of it shares.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use http::StatusCode;
use wharf_types::requests::{AnswerTimes, RequestCounts, RequestTotals};
use wharf_types::{AppName, NamespaceName};

use crate::stats::add_one;

/// Releases without instances whose counters are kept: long enough for the last of their requests to be reported.
const RETIRED_MAX: usize = 256;

/// Counters of one release.
#[derive(Debug, Default)]
pub struct Meter {
    ok: AtomicU64,
    redirects: AtomicU64,
    client_errors: AtomicU64,
    server_errors: AtomicU64,
    failed: AtomicU64,
    cut: AtomicU64,
    answer_micros: AtomicU64,
    /// By bucket. Only of releases that were compared with another: the others need no room for it, here and in reports.
    times: OnceLock<Box<[AtomicU64]>>,
}

impl Meter {
    /// A guest answered after so long.
    pub(crate) fn answered(&self, status: StatusCode, after: Duration) {
        add_one(match status.as_u16() {
            0..=299 => &self.ok,
            300..=399 => &self.redirects,
            400..=499 => &self.client_errors,
            _ => &self.server_errors,
        });
        let micros = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        self.answer_micros.fetch_add(micros, Ordering::Relaxed);
        if let Some(count) = self.times.get().and_then(|times| times.get(AnswerTimes::bucket(micros))) {
            add_one(count);
        }
    }

    /// From now on it is counted how many answers take how long.
    pub(crate) fn ensure_times(&self) {
        self.times.get_or_init(|| (0..AnswerTimes::BUCKETS).map(|_| AtomicU64::new(0)).collect());
    }

    /// The ingress answered with this error of its own.
    pub(crate) fn refused(&self, status: StatusCode) {
        add_one(if status.is_client_error() { &self.client_errors } else { &self.failed });
    }

    /// An answer, or a connection, was broken off.
    pub(crate) fn cut(&self) {
        add_one(&self.cut);
    }

    fn counts(&self) -> RequestCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        RequestCounts {
            ok: read(&self.ok),
            redirects: read(&self.redirects),
            client_errors: read(&self.client_errors),
            server_errors: read(&self.server_errors),
            failed: read(&self.failed),
            cut: read(&self.cut),
            answer_micros: read(&self.answer_micros),
            times: self.times.get().into_iter().flatten().map(read).enumerate().collect(),
        }
    }
}

type Key = (NamespaceName, AppName, u64);

/// The meters of all releases that have instances here, and of the last that had.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    meters: HashMap<Key, Entry>,
    /// In the order in which nobody needed them any more. One that is in use again may still be here.
    retired: VecDeque<Key>,
}

#[derive(Debug, Default)]
struct Entry {
    meter: Arc<Meter>,
    retired: bool,
}

impl Meters {
    /// That of a release; of release 0: of the requests to the app that no instance could be given to.
    pub(crate) fn of(&self, namespace: &NamespaceName, app: &AppName, release: u64) -> Arc<Meter> {
        let mut known = self.lock();
        let entry = known.meters.entry((namespace.clone(), app.clone(), release)).or_default();
        entry.retired = false;
        entry.meter.clone()
    }

    /// Retires those that nobody refers to, and forgets the ones that were retired first.
    pub(crate) fn retire_the_unused(&self) {
        let Known { meters, retired } = &mut *self.lock();
        for (key, entry) in meters.iter_mut() {
            if !entry.retired && Arc::strong_count(&entry.meter) == 1 {
                entry.retired = true;
                retired.push_back(key.clone());
            }
        }
        while retired.len() > RETIRED_MAX {
            let Some(key) = retired.pop_front() else { break };
            if meters.get(&key).is_some_and(|entry| entry.retired) {
                meters.remove(&key);
            }
        }
    }

    /// Totals of every release that was asked for anything.
    pub(crate) fn totals(&self) -> Vec<RequestTotals> {
        let known = self.lock();
        let mut totals: Vec<_> = known
            .meters
            .iter()
            .map(|((namespace, app, release), entry)| RequestTotals {
                namespace: namespace.clone(),
                app: app.clone(),
                release: *release,
                counts: entry.meter.counts(),
            })
            .filter(|totals| !totals.counts.is_zero())
            .collect();
        totals.sort_by(|a, b| (&a.namespace, &a.app, a.release).cmp(&(&b.namespace, &b.app, b.release)));
        totals
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(meters: &Meters, release: u64) -> Arc<Meter> {
        meters.of(&NamespaceName::default_namespace(), &"hello".parse().unwrap(), release)
    }

    #[test]
    fn requests_are_counted_by_what_became_of_them() {
        let meters = Meters::default();
        let meter = of(&meters, 7);
        for status in [200, 204, 301, 404, 500] {
            meter.answered(StatusCode::from_u16(status).unwrap(), Duration::from_micros(10));
        }
        meter.refused(StatusCode::PAYLOAD_TOO_LARGE);
        meter.refused(StatusCode::BAD_GATEWAY);
        meter.cut();
        let totals = meters.totals();
        assert_eq!(
            totals[0].counts,
            RequestCounts {
                ok: 2,
                redirects: 1,
                client_errors: 2,
                server_errors: 1,
                failed: 1,
                cut: 1,
                answer_micros: 50,
                ..RequestCounts::default()
            }
        );
    }

    #[test]
    fn times_are_counted_once_somebody_compares() {
        let meters = Meters::default();
        let meter = of(&meters, 7);
        meter.answered(StatusCode::OK, Duration::from_micros(10));
        assert!(meter.counts().times.is_empty());
        for _ in 0..2 {
            meter.ensure_times();
            meter.answered(StatusCode::OK, Duration::from_micros(10));
        }
        meter.answered(StatusCode::OK, Duration::MAX);
        let times = meter.counts().times;
        assert_eq!((times.count(), times.percentile(50)), (3, Some(10..11)));
    }

    #[test]
    fn what_a_release_has_counted_outlives_its_instances_for_a_while() {
        let meters = Meters::default();
        for release in 1..=1000 {
            of(&meters, release).cut();
            meters.retire_the_unused();
        }
        let totals = meters.totals();
        assert_eq!((totals.len(), totals[0].release), (RETIRED_MAX, 1000 - RETIRED_MAX as u64 + 1));
        // One that is used again is not forgotten, however many come after it.
        let kept = of(&meters, 1000);
        for release in 2000..3000 {
            of(&meters, release).cut();
            meters.retire_the_unused();
        }
        kept.cut();
        assert_eq!(of(&meters, 1000).counts().cut, 2);
    }
}
