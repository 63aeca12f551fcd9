//! One fault of a node takes no app out of service that serves on two.
//!
//! It is asked where it can be answered with yes or no: messages are not lost, the control plane and the nodes in question have been well for
//! long, and the app is as it should be when something happens to one node. From there on, and until something else happens or somebody
//! wants something, each ingress on another node that led to both has to lead to one that serves.

use std::collections::BTreeSet;
use std::time::Duration;

use wharf_types::AppId;
use wharf_types::state::{Health, InstanceState, Wanted};

use crate::queue::Time;
use crate::setup::Fault;
use crate::store::App;
use crate::world::World;

/// After what happened to a node or a control plane is over, it still may wait for an answer that never comes, and be taken for dead.
const WELL_AFTER: Duration = Duration::from_secs(15);
/// The longest that a fault of a control plane lasts.
const CONTROL_FAULT_MAX: Duration = Duration::from_secs(8);

impl World {
    /// Which apps have to go on serving, whatever this fault does.
    pub(crate) fn hold_service(&mut self, fault: Fault, victim: usize) {
        self.check.held.clear();
        if !fault.is_of_a_node() {
            let until = self.now + CONTROL_FAULT_MAX;
            self.check.control_well_at = self.check.control_well_at.max(until + WELL_AFTER);
            return;
        }
        let is_lossy = self.setup.lost + self.setup.late + self.setup.doubled > 0;
        if is_lossy || self.setup.extras.any() || self.now < self.check.control_well_at {
            return;
        }
        let mut held = BTreeSet::new();
        for (id, app) in self.store.apps.iter().filter(|(_, app)| self.is_promised(app) && is_steady(app)) {
            let ingresses =
                (0..self.workers.len()).filter(|ingress| *ingress != victim && self.is_well(*ingress));
            let leads_to_two = |ingress: &usize| {
                let nodes: BTreeSet<usize> = self.serving(*ingress, app.view.name.as_str()).collect();
                nodes.into_iter().filter(|node| self.is_well(*node)).count() >= 2
            };
            held.extend(ingresses.filter(leads_to_two).map(|ingress| (*id, ingress)));
        }
        self.check.held = held;
    }

    /// Something happens to a node until then.
    pub(crate) fn touch_node(&mut self, worker: usize, until: Time) {
        let well_at = self.check.nodes_well_at.entry(worker).or_default();
        *well_at = until.saturating_add(WELL_AFTER).max(*well_at);
    }

    /// Somebody wants something, or everything gets well at once.
    pub(crate) fn let_service_go(&mut self) {
        self.check.held.clear();
    }

    pub(super) fn check_held(&mut self) {
        let is_cut_off = |(id, ingress): &&(AppId, usize)| {
            let app = self.store.apps.get(id);
            app.is_some_and(|app| !self.reaches(*ingress, app.view.name.as_str()))
        };
        let Some((id, ingress)) = self.check.held.iter().find(is_cut_off).copied() else { return };
        let what =
            format!("the ingress of worker {ingress} does not reach {}", self.store.apps[&id].view.name);
        self.fail("one fault of a node takes no app out of service that serves on two", what);
    }

    fn is_well(&self, worker: usize) -> bool {
        let known = &self.workers[worker];
        let well_at = self.check.nodes_well_at.get(&worker).copied().unwrap_or_default();
        known.is_up && known.stalled_until <= self.now && well_at <= self.now
    }
}

impl Fault {
    /// Whether it happens to one node and what is on it.
    fn is_of_a_node(self) -> bool {
        match self {
            Self::WorkerCrash
            | Self::NodeDown
            | Self::Partition
            | Self::OneWay
            | Self::WorkerStall
            | Self::GuestCrash
            | Self::Unhealthy => true,
            Self::ControlCrash | Self::LeaderFlip | Self::Stall | Self::ClockJump => false,
        }
    }
}

/// Whether it has what it should have, and nothing is under way.
fn is_steady(app: &App) -> bool {
    let view = &app.view;
    let (Some(target), Some(stable)) = (&view.target, &view.stable) else { return false };
    let replicas = view.scaled_to.unwrap_or_else(|| target.spec.scale.replicas.first());
    let live = || view.instances.iter().filter(|instance| !instance.state.is_final());
    let slots: BTreeSet<u32> = live().map(|instance| instance.slot).collect();
    let is_one_a_slot = live().count() == slots.len() && slots.len() == replicas as usize;
    let is_as_wanted = live().all(|instance| {
        instance.release == target.id
            && instance.wanted == Wanted::Run
            && instance.state == InstanceState::Running
            && instance.health == Health::Healthy
            && !instance.moves
    });
    let is_at_rest = app.rollouts.iter().all(|rollout| rollout.state.is_final()) && stable.id == target.id;
    !target.spec.is_global() && is_one_a_slot && is_as_wanted && is_at_rest
}
