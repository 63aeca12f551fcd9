//! Commands that people run in containers, files that they copy, and transfers of volumes: which worker is told of which, and what goes to and fro until it has ended.
//!
//! A server cannot reach a worker by itself, so each worker follows its orders, those about containers where it has an engine, and comes for
//! every one with a connection of its own. Nothing here lasts: what is under way ends with the server that leads.

pub(crate) mod frames;
pub(crate) mod relay;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use wharf_types::{ExecId, NamespaceName, NodeId};

use self::frames::Frames;

/// Of one kind at once on a node.
pub(crate) const EXECS_MAX: usize = 16;
/// Of these, those of one namespace, where that is counted.
pub(crate) const SHARE_MAX: usize = 4;

/// All of one kind of orders.
pub(crate) struct Execs<O> {
    nodes: Mutex<HashMap<NodeId, OfNode<O>>>,
}

impl<O> Default for Execs<O> {
    fn default() -> Self {
        Self { nodes: Mutex::default() }
    }
}

struct OfNode<O> {
    /// None: its worker follows no orders.
    orders: Option<mpsc::Sender<O>>,
    places: usize,
    /// How many of them each namespace has, where that is counted.
    shares: HashMap<NamespaceName, usize>,
    /// Those that the worker has not come for yet.
    waiting: HashMap<ExecId, oneshot::Sender<Joined>>,
}

impl<O> Default for OfNode<O> {
    fn default() -> Self {
        Self { orders: None, places: 0, shares: HashMap::new(), waiting: HashMap::new() }
    }
}

/// A worker that has come for an order.
pub(crate) struct Joined {
    /// What it says.
    pub(crate) frames: Frames,
    /// Dropping it ends what was ordered.
    pub(crate) to_worker: mpsc::Sender<Bytes>,
}

/// Why a node takes no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Its worker follows no orders of the kind: it has no engine, is older than this, or is on its way back.
    Away,
    /// So many are under way.
    Full,
    /// So many of the namespace are under way.
    ShareFull,
}

/// A place among the orders of a node. Dropping it gives it back.
pub(crate) struct Place<O> {
    execs: Arc<Execs<O>>,
    node: NodeId,
    /// Whose share it is of.
    namespace: Option<NamespaceName>,
    id: ExecId,
}

impl<O> Execs<O> {
    /// The orders of a node. Whoever followed them before gets no more.
    pub(crate) fn follow(&self, node: NodeId) -> mpsc::Receiver<O> {
        let (orders, followed) = mpsc::channel(EXECS_MAX);
        self.lock().entry(node).or_default().orders = Some(orders);
        followed
    }

    pub(crate) fn reserve(self: &Arc<Self>, node: NodeId) -> Result<Place<O>, Refused> {
        let mut nodes = self.lock();
        let of_node = nodes.get_mut(&node).ok_or(Refused::Away)?;
        if of_node.orders.as_ref().is_none_or(mpsc::Sender::is_closed) {
            return Err(Refused::Away);
        }
        if of_node.places >= EXECS_MAX {
            return Err(Refused::Full);
        }
        of_node.places += 1;
        Ok(Place { execs: self.clone(), node, namespace: None, id: ExecId::new() })
    }

    /// The same for what takes long: one namespace leaves places to the others.
    pub(crate) fn reserve_share(
        self: &Arc<Self>,
        node: NodeId,
        namespace: &NamespaceName,
    ) -> Result<Place<O>, Refused> {
        let mut place = self.reserve(node)?;
        {
            let mut nodes = self.lock();
            let share = nodes.entry(node).or_default().shares.entry(namespace.clone()).or_default();
            if *share < SHARE_MAX {
                *share += 1;
                place.namespace = Some(namespace.clone());
            }
        }
        // What is refused gives its place back, which takes the lock.
        if place.namespace.is_some() { Ok(place) } else { Err(Refused::ShareFull) }
    }

    /// A worker comes for an order. False: nobody waits for that.
    pub(crate) fn join(&self, node: NodeId, id: ExecId, joined: Joined) -> bool {
        let waiting = self.lock().get_mut(&node).and_then(|of_node| of_node.waiting.remove(&id));
        waiting.is_some_and(|waiting| waiting.send(joined).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, OfNode<O>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<O> Place<O> {
    /// Tells the worker. It comes with what this returns, if it does.
    pub(crate) fn order(
        &self,
        order: impl FnOnce(ExecId) -> O,
    ) -> Result<oneshot::Receiver<Joined>, Refused> {
        let mut nodes = self.execs.lock();
        let of_node = nodes.get_mut(&self.node).ok_or(Refused::Away)?;
        let orders = of_node.orders.as_ref().ok_or(Refused::Away)?;
        orders.try_send(order(self.id)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refused::Full,
            mpsc::error::TrySendError::Closed(_) => Refused::Away,
        })?;
        let (waiting, joined) = oneshot::channel();
        of_node.waiting.insert(self.id, waiting);
        Ok(joined)
    }
}

impl<O> Drop for Place<O> {
    fn drop(&mut self) {
        if let Some(of_node) = self.execs.lock().get_mut(&self.node) {
            of_node.places = of_node.places.saturating_sub(1);
            of_node.waiting.remove(&self.id);
            if let Some(namespace) = &self.namespace
                && let Some(share) = of_node.shares.get_mut(namespace)
            {
                *share = share.saturating_sub(1);
                if *share == 0 {
                    of_node.shares.remove(namespace);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn execs() -> Arc<Execs<ExecId>> {
        Arc::default()
    }

    fn joined() -> Joined {
        Joined { frames: Frames::new(Body::empty()), to_worker: mpsc::channel(1).0 }
    }

    #[test]
    fn a_node_takes_so_many_commands_at_once_while_it_follows_its_orders() {
        let (execs, node) = (execs(), NodeId::new());
        assert_eq!(execs.reserve(node).err(), Some(Refused::Away));
        let followed = execs.follow(node);
        let mut places: Vec<_> = (0..EXECS_MAX).map(|_| execs.reserve(node).unwrap()).collect();
        assert_eq!(execs.reserve(node).err(), Some(Refused::Full));
        places.pop();
        places.push(execs.reserve(node).unwrap());
        drop(followed);
        assert_eq!(execs.reserve(node).err(), Some(Refused::Away));
        assert_eq!(places[0].order(|id| id).err(), Some(Refused::Away));
    }

    #[test]
    fn one_namespace_leaves_places_to_the_others() {
        let (execs, node) = (execs(), NodeId::new());
        let _followed = execs.follow(node);
        let (one, other) = ("one".parse().unwrap(), "other".parse().unwrap());
        let mut places: Vec<_> = (0..SHARE_MAX).map(|_| execs.reserve_share(node, &one).unwrap()).collect();
        assert_eq!(execs.reserve_share(node, &one).err(), Some(Refused::ShareFull));
        let _place = execs.reserve_share(node, &other).unwrap();
        places.pop();
        places.push(execs.reserve_share(node, &one).unwrap());
        assert_eq!(execs.reserve_share(node, &one).err(), Some(Refused::ShareFull));
        // What was refused holds nothing.
        let rest: Vec<_> = (SHARE_MAX + 1..EXECS_MAX).map(|_| execs.reserve(node).unwrap()).collect();
        assert_eq!(execs.reserve(node).err(), Some(Refused::Full));
        drop((places, rest));
        assert_eq!(execs.lock()[&node].shares.len(), 1);
    }

    #[test]
    fn only_the_node_that_was_told_comes_for_a_command_and_only_once() {
        let (execs, node, other) = (execs(), NodeId::new(), NodeId::new());
        let (mut followed, _others) = (execs.follow(node), execs.follow(other));
        let place = execs.reserve(node).unwrap();
        let mut waits = place.order(|id| id).unwrap();
        let id = followed.try_recv().unwrap();
        assert!(!execs.join(other, id, joined()) && !execs.join(node, ExecId::new(), joined()));
        assert!(waits.try_recv().is_err());
        assert!(execs.join(node, id, joined()));
        assert!(waits.try_recv().is_ok() && !execs.join(node, id, joined()));
        let place = execs.reserve(node).unwrap();
        let _waits = place.order(|id| id).unwrap();
        let id = followed.try_recv().unwrap();
        drop(place);
        assert!(!execs.join(node, id, joined()), "nobody waits any more");
    }
}
