//! Rows of apps: states that only grow, wishes that stay, nodes that are never too full, and what a plan may write.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use wharf_platform_api::plan::{Change, InstanceView};
use wharf_types::state::{InstanceState, RolloutState, Wanted};
use wharf_types::{AppId, NodeId};

use super::placed::Seen;
use crate::store::App;
use crate::world::World;

const BACKWARDS: &str = "observed state never goes backwards";
/// What the lease of a node is. Not taken from the code that is looked at.
pub(super) const LEASE: Duration = Duration::from_millis(2000);
/// A process that stood still forgives up to so much more than that each time, because it had not looked before for as long as a pass and a slow write take.
const FORGIVEN: Duration = Duration::from_millis(1100);
/// And forgives nothing if it stood still for no longer than this.
pub(crate) const UNFORGIVEN: Duration = Duration::from_secs(1);

impl World {
    pub(super) fn check_rows(&mut self) {
        let before = std::mem::take(&mut self.check.apps_before);
        let mut found = Vec::new();
        for (id, before) in &before {
            match self.store.apps.get(id) {
                Some(after) if Arc::ptr_eq(before, after) => {}
                Some(after) => found.extend(
                    compare(before, after).map(|(invariant, what)| (invariant, format!("{id}: {what}"))),
                ),
                None if before.view.deleting => {}
                None => found.push(("every acknowledged write survives", format!("{id} is gone"))),
            }
        }
        for (invariant, what) in found {
            self.fail(invariant, what);
        }
    }

    pub(super) fn check_capacity(&mut self) {
        let mut taken: BTreeMap<NodeId, u64> = BTreeMap::new();
        for held in self.held() {
            *taken.entry(held.node).or_default() += held.takes.memory_bytes;
        }
        let full = |(node, taken): (&NodeId, &u64)| *taken > self.store.nodes[node].memory_bytes;
        if let Some((node, taken)) = taken.iter().find(|(node, taken)| full((node, taken))) {
            let what = format!("{} MiB of node {node} are taken", taken >> 20);
            self.fail("the capacity of a node is never exceeded", what);
        }
    }

    /// What a control plane has written of an app, by what it had seen of each node when it decided.
    pub(crate) fn check_changes(&mut self, app: AppId, changes: &[Change], seen: &BTreeMap<NodeId, Seen>) {
        for change in changes {
            match change {
                Change::CreateInstance { id, slot, .. } => {
                    self.check_instance_placed((app, *id), seen);
                    self.check_surge(app, *slot);
                }
                Change::Preempt { instance, app: victim, .. } => {
                    self.check_preempted((app, self.own_priority(app)), *victim, *instance);
                }
                Change::SetWanted { instance, wanted: Wanted::Stop } => {
                    let is_ready = |node: &NodeId| {
                        seen.get(node).is_some_and(|seen| seen.silence.span + UNFORGIVEN < LEASE)
                    };
                    let leads = |worker: &&crate::world::worker::Worker| {
                        let routes = worker.routes.routes.iter().flat_map(|route| &route.endpoints);
                        worker.is_up
                            && is_ready(&worker.node)
                            && routes.into_iter().any(|it| it.instance == *instance)
                    };
                    if let Some(worker) = self.workers.iter().find(leads) {
                        let what = format!(
                            "{instance} of {app} stops, and {} leads to it",
                            worker.registration.hostname
                        );
                        self.fail("an instance stops only after every ready ingress has let go of it", what);
                    }
                }
                _ => {}
            }
        }
    }
}

/// How long nothing came from a node, as far as its control plane did not stand still.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Silence {
    pub(crate) span: Duration,
    pub(crate) standstills: u32,
    /// How much longer it is for a control plane that does not know of its short standstills.
    pub(crate) unforgiven: Duration,
}

impl Silence {
    pub(super) fn ends_lease(&self) -> bool {
        self.span >= LEASE + FORGIVEN * self.standstills.max(1)
    }

    /// Whether nobody may take the lease for ended: not even who holds short standstills against the node.
    pub(super) fn keeps_lease(&self) -> bool {
        self.span + self.unforgiven < LEASE
    }
}

type Found = (&'static str, String);

fn compare(before: &App, after: &App) -> Option<Found> {
    for old in &before.view.instances {
        let Some(new) = after.view.instances.iter().find(|new| new.id == old.id) else {
            if old.state.is_final() {
                continue;
            }
            // Two reports of one batch may end it and forget it.
            let ended =
                after.view.instances.iter().filter(|new| new.slot == old.slot && new.state.is_final());
            if ended.count() < 5 {
                return Some((BACKWARDS, format!("{} is forgotten before its end", old.id)));
            }
            continue;
        };
        let ended_anew = old.state.is_final() && old.state != new.state;
        if new.state < old.state || ended_anew || new.wanted < old.wanted || (old.replaced && !new.replaced) {
            return Some((BACKWARDS, format!("{old:?} became {new:?}")));
        }
    }
    for old in &before.rollouts {
        let new = after.rollouts.iter().find(|new| new.id == old.id);
        let is_fine =
            |state: RolloutState| state >= old.state && (!old.state.is_final() || state == old.state);
        if !new.is_some_and(|new| is_fine(new.state)) {
            return Some((BACKWARDS, format!("rollout {old:?} became {new:?}")));
        }
    }
    let wished =
        |app: &App| (app.view.scaled_to, app.view.stopped.clone(), app.view.deleting, app.last_release);
    if wished(before) != wished(after) {
        let what = format!("{:?} became {:?}", wished(before), wished(after));
        return Some(("every acknowledged write survives", what));
    }
    ends(before, after).or_else(|| two_writers(after)).or_else(|| two_on_a_node(before, after))
}

/// Where an app goes when a rollout of it ends.
fn ends(before: &App, after: &App) -> Option<Found> {
    let ended = |old: &&wharf_platform_api::plan::RolloutView| {
        let new = after.rollouts.iter().find(|new| new.id == old.id);
        !old.state.is_final() && new.is_some_and(|new| new.state.is_final())
    };
    let rollout = before.rollouts.iter().find(ended)?;
    let target = after.view.target.as_ref().map(|target| target.id);
    let stable = before.view.stable.as_ref().map(|stable| stable.id);
    let is_fine = [Some(rollout.to), rollout.from, stable, None].contains(&target);
    (!is_fine).then(|| {
        let what = format!("{rollout:?} ended in {target:?}");
        ("a rollout ends in the new release or the one before", what)
    })
}

/// Of a global release, beside what its node has already.
fn two_on_a_node(before: &App, after: &App) -> Option<Found> {
    let is_new = |instance: &&InstanceView| {
        instance.state == InstanceState::Assigned
            && !before.view.instances.iter().any(|it| it.id == instance.id)
    };
    let is_global = |instance: &&InstanceView| {
        after.releases.get(&instance.release).is_some_and(|release| release.spec.is_global())
    };
    // A restart starts another beside the one that it replaces.
    let renewed =
        after.rollout_under_way().filter(|rollout| rollout.renews).map(|rollout| rollout.started_at);
    after.view.instances.iter().filter(is_new).filter(is_global).find_map(|new| {
        let is_beside = |other: &&InstanceView| {
            other.id != new.id
                && other.release == new.release
                && other.node == new.node
                && other.is_wanted()
                && renewed.is_none_or(|since| other.created_at >= since)
        };
        let other = after.view.instances.iter().find(is_beside)?;
        Some(("a global app has one instance on a node", format!("{new:?} is placed beside {other:?}")))
    })
}

fn two_writers(app: &App) -> Option<Found> {
    let writes = |instance: &&InstanceView| {
        let release = app.releases.get(&instance.release);
        instance.is_live() && release.is_some_and(|release| release.spec.is_exclusive())
    };
    let writers: Vec<_> = app.view.instances.iter().filter(writes).map(|instance| instance.id).collect();
    (writers.len() > 1).then(|| ("a volume never has two writers", format!("{writers:?} are placed")))
}
