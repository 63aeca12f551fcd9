//! What the flows of each namespace take of a node: how many there are, and how much waits in them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wharf_types::NamespaceName;

/// What may wait in the flows of a namespace.
const WAITING_MAX_BYTES: usize = 4 << 20;
/// What a datagram takes beside its octets.
const DATAGRAM_BYTES: usize = 128;

type Taken = Arc<Mutex<HashMap<NamespaceName, Used>>>;

#[derive(Debug, Default)]
struct Used {
    flows: usize,
    waiting_bytes: usize,
}

/// The bounds of all namespaces.
#[derive(Debug)]
pub(super) struct Rooms {
    flows_max: usize,
    taken: Taken,
}

/// The place of one flow, until dropped.
#[derive(Debug)]
pub(super) struct Room {
    namespace: NamespaceName,
    taken: Taken,
}

/// The place of one datagram, until dropped.
#[derive(Debug)]
pub(super) struct Waits {
    room: Arc<Room>,
    bytes: usize,
}

impl Rooms {
    /// `flows_max` is for each namespace.
    pub(super) fn new(flows_max: usize) -> Self {
        Self { flows_max, taken: Taken::default() }
    }

    /// None: the namespace has as many flows as it may.
    pub(super) fn take(&self, namespace: &NamespaceName) -> Option<Arc<Room>> {
        let mut taken = lock(&self.taken);
        let used = taken.entry(namespace.clone()).or_default();
        if used.flows >= self.flows_max {
            return None;
        }
        used.flows += 1;
        drop(taken);
        Some(Arc::new(Room { namespace: namespace.clone(), taken: self.taken.clone() }))
    }
}

impl Room {
    /// None: as much waits in the namespace as may.
    pub(super) fn take(self: &Arc<Self>, octets: usize) -> Option<Waits> {
        let bytes = octets + DATAGRAM_BYTES;
        let mut taken = lock(&self.taken);
        let used = taken.get_mut(&self.namespace)?;
        if used.waiting_bytes + bytes > WAITING_MAX_BYTES {
            return None;
        }
        used.waiting_bytes += bytes;
        drop(taken);
        Some(Waits { room: self.clone(), bytes })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        // What waits keeps its flow here, so that nothing is left when the last of them goes.
        if let Some(used) = taken.get_mut(&self.namespace) {
            used.flows -= 1;
            if used.flows == 0 {
                taken.remove(&self.namespace);
            }
        }
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        if let Some(used) = lock(&self.room.taken).get_mut(&self.room.namespace) {
            used.waiting_bytes -= self.bytes;
        }
    }
}

fn lock(taken: &Taken) -> MutexGuard<'_, HashMap<NamespaceName, Used>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_so_many_flows_and_leaves_the_rest_to_others() {
        let rooms = Rooms::new(2);
        let (ours, theirs) = ("ours".parse().unwrap(), "theirs".parse().unwrap());
        let taken: Vec<_> = (0..3).map(|_| rooms.take(&ours)).collect();
        assert_eq!(taken.iter().flatten().count(), 2);
        assert!(rooms.take(&theirs).is_some());
        drop(taken);
        assert!(rooms.take(&ours).is_some() && lock(&rooms.taken).is_empty());
    }

    #[test]
    fn so_much_waits_in_a_namespace_whatever_flow_it_is_of() {
        let rooms = Rooms::new(2);
        let namespace = "ours".parse().unwrap();
        let (one, other) = (rooms.take(&namespace).unwrap(), rooms.take(&namespace).unwrap());
        let large = WAITING_MAX_BYTES / 2;
        let first = one.take(large).unwrap();
        assert!(other.take(large).is_none(), "what each takes beside its octets counts as well");
        let second = other.take(large - 2 * DATAGRAM_BYTES).unwrap();
        assert!(one.take(0).is_none());
        drop(first);
        assert!(other.take(0).is_some());
        // What waits still counts when its flow has ended.
        drop((one, other));
        assert_eq!(lock(&rooms.taken).len(), 1);
        drop(second);
        assert!(lock(&rooms.taken).is_empty());
    }
}
