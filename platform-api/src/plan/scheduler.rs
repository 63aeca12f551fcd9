//! Chooses nodes for the instances of an app.
//!
//! Filters say which nodes can take an instance at all: the node is ready and meets the app's constraints, it does not hold too many of
//! the app's instances, and has the memory and processors that are to be reserved. Of the rest the first by this order is taken:
//!
//! 1. fewest failures of this release there;
//! 2. fewest instances of the app where the first label of the spread has the same value, then the second, and so on;
//! 3. fewest instances of the app on the node;
//! 4. the artifact is there already;
//! 5. most free memory;
//! 6. the lowest id.
//!
//! So the same state always gives the same choice. When nothing fits, instances of a lower priority may have to leave (`preempt`).
//! When that does not help either, `explain` says for each filter how many nodes it refused, and `remedy` what would have to change.

mod cluster;
mod counts;
mod explain;
mod node;
mod preempt;
#[cfg(test)]
mod properties;
mod ranking;
mod remedy;
mod round;
mod shape;
#[cfg(test)]
mod tests;

use wharf_types::spec::{PlacementSpec, Priority};
use wharf_types::world::World;
use wharf_types::{InstanceId, NodeId};

pub use cluster::{Claim, Cluster, Held};
pub use explain::Refused;
pub use round::Round;

/// What an instance of an app asks of a node, the same for all that are placed in one round.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub takes: Resources,
    pub placement: &'a PlacementSpec,
    pub needs: Needs,
    /// The only node that will do: the app's volumes are there.
    pub pinned: Option<NodeId>,
    /// Nodes that have the artifact already.
    pub warm: &'a [NodeId],
    /// Nodes on which the release has failed, each with the number of times.
    pub failing: &'a [(NodeId, u32)],
}

/// What an instance asks of its node by what it is, beside the constraints of its app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Needs {
    #[default]
    Nothing,
    /// An engine that runs containers. Its worker is never of version 1 of the node protocol, which knows none.
    Engine,
    /// A worker that knows of singletons: one of version 1 could not even read that it is to have one. That an app is global is not said to
    /// workers, so those may go to any.
    Leases,
}

impl Needs {
    pub fn of(world: World, is_singleton: bool) -> Self {
        match (world.is_container(), is_singleton) {
            (true, _) => Self::Engine,
            (false, true) => Self::Leases,
            (false, false) => Self::Nothing,
        }
    }
}

/// Where an instance can go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placed {
    On(NodeId),
    /// There will be room on the node when these have left, which are of a lower priority. None to be told: all have been told already.
    After(NodeId, Vec<InstanceId>),
}

/// What is reserved of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub memory_bytes: u64,
    pub cpu_millis: u64,
}

impl Resources {
    pub(super) fn covers(self, needed: Self) -> bool {
        self.memory_bytes >= needed.memory_bytes && self.cpu_millis >= needed.cpu_millis
    }

    fn plus(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
        }
    }

    fn sum(all: impl IntoIterator<Item = Self>) -> Self {
        all.into_iter().fold(Self::default(), Self::plus)
    }

    /// Nothing is less than nothing.
    fn minus(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
            cpu_millis: self.cpu_millis.saturating_sub(other.cpu_millis),
        }
    }

    fn least(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.min(other.memory_bytes),
            cpu_millis: self.cpu_millis.min(other.cpu_millis),
        }
    }
}

impl Ask<'_> {
    fn priority(&self) -> Priority {
        self.placement.priority
    }

    /// Instances of the app that one node may hold.
    fn max_per_node(&self) -> u32 {
        self.placement.max_per_node.unwrap_or(u32::MAX)
    }
}
