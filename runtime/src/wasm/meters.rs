//! The meters of all releases that run on this node, or ran a short time ago.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wharf_types::node::AppUsage;
use wharf_types::{AppName, NamespaceName};

use super::allowance::Allowance;
use super::meter::Meter;

/// How long the figures of a release that runs no more can be read: long enough for those who look seldom.
const KEPT: Duration = Duration::from_secs(3600);
/// Of those, the newest releases of each app, so that one that is deployed all the time does not fill every list.
const KEPT_RELEASES: usize = 3;

/// An app's release by name and number.
type Key = (NamespaceName, AppName, u64);

#[derive(Debug, Default)]
pub(crate) struct Meters {
    known: Mutex<BTreeMap<Key, Entry>>,
}

#[derive(Debug)]
struct Entry {
    meter: Arc<Meter>,
    /// When it was first seen that nothing of the release is left.
    unused_since: Option<Instant>,
}

impl Meters {
    /// The meter of a release that is about to run. It goes on counting where the release has run a short time ago.
    pub(crate) fn of(&self, namespace: &NamespaceName, app: &AppName, release: u64) -> Arc<Meter> {
        self.of_or(namespace, app, release, Meter::default)
    }

    /// The same of guests, which use up what their namespace has.
    pub(crate) fn paid_by(
        &self,
        allowance: Arc<Allowance>,
        namespace: &NamespaceName,
        app: &AppName,
        release: u64,
    ) -> Arc<Meter> {
        self.of_or(namespace, app, release, || Meter::paid_by(allowance))
    }

    fn of_or(
        &self,
        namespace: &NamespaceName,
        app: &AppName,
        release: u64,
        new: impl FnOnce() -> Meter,
    ) -> Arc<Meter> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.entry((namespace.clone(), app.clone(), release));
        entry.or_insert_with(|| Entry { meter: Arc::new(new()), unused_since: None }).meter.clone()
    }

    /// Every meter's figures. Whoever reads them also has the old ones forgotten.
    pub(crate) fn read(&self, now: Instant) -> Vec<AppUsage> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in known.values_mut() {
            // Whatever counts has the meter, and new ones get it under this lock.
            let is_used = Arc::strong_count(&entry.meter) > 1;
            entry.unused_since = if is_used { None } else { entry.unused_since.or(Some(now)) };
        }
        let forgotten = forgotten(now, known.iter().map(|(key, entry)| (key, entry.unused_since)));
        known.retain(|key, _| !forgotten.contains(key));
        known
            .iter()
            .map(|((namespace, app, release), entry)| {
                entry.meter.usage(namespace.clone(), app.clone(), *release)
            })
            .collect()
    }
}

/// The releases of which nothing is to be known any more; they come in order, each with the time since when it is unused.
fn forgotten<'a>(
    now: Instant,
    releases: impl DoubleEndedIterator<Item = (&'a Key, Option<Instant>)>,
) -> BTreeSet<Key> {
    let mut newer: HashMap<(&NamespaceName, &AppName), usize> = HashMap::new();
    let mut forgotten = BTreeSet::new();
    for (key, unused_since) in releases.rev() {
        let Some(since) = unused_since else { continue };
        let newer = newer.entry((&key.0, &key.1)).or_default();
        if *newer >= KEPT_RELEASES || now.saturating_duration_since(since) >= KEPT {
            forgotten.insert(key.clone());
        }
        *newer += 1;
    }
    forgotten
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(meters: &Meters, app: &str, release: u64) -> Arc<Meter> {
        meters.of(&"default".parse().unwrap(), &app.parse().unwrap(), release)
    }

    fn read(meters: &Meters, now: Instant) -> Vec<String> {
        let name = |usage: AppUsage| format!("{} {}", usage.app, usage.release);
        meters.read(now).into_iter().map(name).collect()
    }

    #[test]
    fn a_release_that_runs_is_never_forgotten_and_one_that_has_ended_after_a_while() {
        let meters = Meters::default();
        let running = of(&meters, "running", 1);
        drop(of(&meters, "ended", 1));
        let start = Instant::now();
        assert_eq!(read(&meters, start), ["ended 1", "running 1"]);
        assert_eq!(read(&meters, start + KEPT / 2), ["ended 1", "running 1"]);
        assert_eq!(read(&meters, start + KEPT), ["running 1"]);
        drop(running);
        assert_eq!(read(&meters, start + KEPT), ["running 1"], "its hour begins");
        assert!(read(&meters, start + 2 * KEPT).is_empty());
    }

    #[test]
    fn of_an_app_that_is_deployed_often_the_newest_releases_are_kept() {
        let meters = Meters::default();
        let oldest = of(&meters, "busy", 1);
        (2..100).for_each(|release| drop(of(&meters, "busy", release)));
        drop(of(&meters, "calm", 7));
        assert_eq!(read(&meters, Instant::now()), ["busy 1", "busy 97", "busy 98", "busy 99", "calm 7"]);
        drop(oldest);
    }

    #[test]
    fn a_release_that_comes_back_goes_on_counting() {
        let meters = Meters::default();
        of(&meters, "hello", 1).add_sent(5);
        let start = Instant::now();
        meters.read(start);
        let back = of(&meters, "hello", 1);
        meters.read(start + KEPT);
        back.add_sent(6);
        assert_eq!(meters.read(start + KEPT)[0].sent_bytes, 11);
    }
}
