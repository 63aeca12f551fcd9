//! A node: what is known of it, and what is taken of it by whom.

use wharf_types::node::NodeRegistration;
use wharf_types::spec::Priority;
use wharf_types::{AppId, InstanceId, NodeId, Timestamp};

use super::Resources;
use super::cluster::Held;

pub(super) const BANDS: usize = 3;
pub(super) const NO_CLASS: u32 = u32::MAX;

/// See the module.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: NodeId,
    /// None: it is gone, or has not come yet, and something is known to be placed on it.
    pub(super) registration: Option<NodeRegistration>,
    /// What it is called, or was when it was there. Empty: nobody has said so.
    pub(super) hostname: String,
    pub(super) ready: bool,
    /// [`NO_CLASS`] while it is not there.
    pub(super) class: u32,
    /// In its class's ranking, if it is ready.
    pub(super) leaf: Option<u32>,
    /// All that is taken, also by instances that are leaving.
    pub(super) used: Resources,
    pub(super) leaving: Resources,
    /// Taken by instances that are to stay, by band.
    pub(super) staying: [Resources; BANDS],
    pub(super) claimed: [Resources; BANDS],
    pub(super) instances: Vec<Resident>,
}

/// An instance on a node: a [`Held`] without the node, because there may be a million of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resident {
    pub(super) id: InstanceId,
    pub(super) app: AppId,
    takes: Resources,
    priority: Priority,
    created_at: Timestamp,
    leaving: bool,
}

impl Resident {
    pub(super) fn new(id: InstanceId, held: Held) -> Self {
        let Held { app, node: _, takes, priority, created_at, leaving } = held;
        Self { id, app, takes, priority, created_at, leaving }
    }

    pub(super) fn held(&self, node: NodeId) -> Held {
        let Self { id: _, app, takes, priority, created_at, leaving } = *self;
        Held { app, node, takes, priority, created_at, leaving }
    }
}

impl Node {
    pub(super) fn new(id: NodeId) -> Self {
        Self {
            id,
            registration: None,
            hostname: String::new(),
            ready: false,
            class: NO_CLASS,
            leaf: None,
            used: Resources::default(),
            leaving: Resources::default(),
            staying: [Resources::default(); BANDS],
            claimed: [Resources::default(); BANDS],
            instances: Vec::new(),
        }
    }

    pub(super) fn total(&self) -> Resources {
        self.registration.as_ref().map_or(Resources::default(), |registration| Resources {
            memory_bytes: registration.memory_bytes,
            cpu_millis: u64::from(registration.cpus) * 1000,
        })
    }

    /// What somebody of a band may take at once.
    pub(super) fn free_for(&self, band: usize) -> Resources {
        self.total().minus(self.used).least(self.coming_for(band, Resources::default()))
    }

    /// What somebody of a band may take when everything that leaves has left, and `given` with it.
    pub(super) fn coming_for(&self, band: usize, given: Resources) -> Resources {
        let claimed = Resources::sum(self.claimed[band..].iter().copied());
        // The sum before the difference: a node may be overbooked, and then the first room that comes is not there to be taken.
        self.total().plus(self.leaving).plus(given).minus(self.used.plus(claimed))
    }

    /// What instances that are to stay have taken, of all bands below `band`.
    pub(super) fn staying_below(&self, band: usize) -> Resources {
        Resources::sum(self.staying[..band].iter().copied())
    }

    pub(super) fn free(&self) -> Resources {
        self.free_for(0)
    }

    pub(super) fn is_present(&self) -> bool {
        self.registration.is_some()
    }

    /// The name that its user knows it by.
    pub(super) fn name(&self) -> String {
        if self.hostname.is_empty() { self.id.to_string() } else { self.hostname.clone() }
    }
}

pub(super) fn band(priority: Priority) -> usize {
    match priority {
        Priority::Low => 0,
        Priority::Normal => 1,
        Priority::High => 2,
    }
}
