//! Places for what all guests of this process have in common: connections, and threads that look up names.
//!
//! Whoever takes a place takes one of its release, one of its namespace and one of the node. So an app has no more of them because it has more
//! replicas, and a namespace that hangs on all of its places leaves most of the node's to others.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use wharf_types::{AppName, NamespaceName};

/// An app's release by name and number.
type Release = (NamespaceName, AppName, u64);

/// The places of all releases that have any.
#[derive(Debug)]
pub(super) struct Shares {
    release_max: usize,
    namespace_max: usize,
    node: Arc<Semaphore>,
    releases: Known<Release>,
    namespaces: Known<NamespaceName>,
}

impl Shares {
    /// Of so many places of the node, of which a namespace gets a quarter and a release `release_max` at most.
    pub(super) fn new(release_max: usize, node_max: usize, node: Arc<Semaphore>) -> Self {
        let namespace_max = of_namespace(node_max);
        Self { release_max, namespace_max, node, releases: Known::new(), namespaces: Known::new() }
    }

    /// Those of a release, the same for all of its instances.
    pub(super) fn of(&self, release: &Release) -> Places {
        Places {
            release: self.releases.of(release, self.release_max),
            namespace: self.namespaces.of(&release.0, self.namespace_max),
            node: self.node.clone(),
        }
    }
}

/// What one namespace may take of the node's places.
fn of_namespace(node_max: usize) -> usize {
    (node_max / 4).max(1)
}

/// The places of each, as long as somebody may take one or has one: who starts anew meanwhile gets no others.
#[derive(Debug)]
struct Known<K>(Mutex<HashMap<K, Weak<Semaphore>>>);

impl<K: Clone + Eq + Hash> Known<K> {
    fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    fn of(&self, key: &K, max: usize) -> Arc<Semaphore> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = known.get(key).and_then(Weak::upgrade) {
            return places;
        }
        // Whoever is new has those forgotten whom nothing is left of.
        known.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(max));
        known.insert(key.clone(), Arc::downgrade(&places));
        places
    }
}

/// Where the guests of one release take a place.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) release: Arc<Semaphore>,
    pub(super) namespace: Arc<Semaphore>,
    pub(super) node: Arc<Semaphore>,
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    _held: [OwnedSemaphorePermit; 3],
}

impl Places {
    /// Of somebody who shares the node with no other namespace.
    pub(super) fn alone(max: usize, node: Arc<Semaphore>) -> Self {
        Self { release: Arc::new(Semaphore::new(max)), namespace: Arc::new(Semaphore::new(max)), node }
    }

    /// Waits for a place; who calls sets a limit to that. The node's own comes last, so that nobody has one without using it.
    pub(super) async fn take(&self) -> Result<Taken, AcquireError> {
        let release = self.release.clone().acquire_owned().await?;
        let namespace = self.namespace.clone().acquire_owned().await?;
        let node = self.node.clone().acquire_owned().await?;
        Ok(Taken { _held: [release, namespace, node] })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn release(namespace: &str, app: &str, release: u64) -> Release {
        (namespace.parse().unwrap(), app.parse().unwrap(), release)
    }

    /// Takes as many places as there are.
    fn take_all(places: &Places) -> Vec<Taken> {
        std::iter::from_fn(|| places.take().now_or_never()).map(Result::unwrap).collect()
    }

    #[test]
    fn the_instances_of_a_release_share_its_places() {
        let shares = Shares::new(3, 100, Arc::new(Semaphore::new(100)));
        let (one, other) = (shares.of(&release("team", "web", 1)), shares.of(&release("team", "web", 1)));
        let taken = take_all(&one);
        assert_eq!(taken.len(), 3);
        assert!(other.take().now_or_never().is_none());
        assert_eq!(take_all(&shares.of(&release("team", "web", 2))).len(), 3);
        drop(taken);
        assert_eq!(take_all(&other).len(), 3);
    }

    #[test]
    fn a_namespace_takes_a_quarter_and_leaves_the_rest_to_others() {
        let shares = Shares::new(3, 16, Arc::new(Semaphore::new(16)));
        let apps = ["a", "b", "c", "d", "e", "f"].map(|app| shares.of(&release("greedy", app, 1)));
        let taken: Vec<Taken> = apps.iter().flat_map(take_all).collect();
        assert_eq!(taken.len(), 4);
        assert_eq!(take_all(&shares.of(&release("other", "a", 1))).len(), 3);
        assert_eq!(of_namespace(4096), 1024);
        assert_eq!(of_namespace(1), 1);
    }

    #[test]
    fn who_starts_anew_has_no_other_places_while_those_of_before_are_taken() {
        let shares = Shares::new(2, 100, Arc::new(Semaphore::new(100)));
        let key = release("team", "web", 1);
        let held = take_all(&shares.of(&key));
        assert_eq!(held.len(), 2);
        assert!(take_all(&shares.of(&key)).is_empty());
        drop(held);
        drop(shares.of(&release("team", "api", 1)));
        assert_eq!(shares.releases.0.lock().unwrap().len(), 1, "what nobody has is forgotten");
        assert_eq!(take_all(&shares.of(&key)).len(), 2);
    }
}
