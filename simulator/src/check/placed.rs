//! Where something is placed, who has to leave for whom, and what a drain takes away: by an account of its own of rooms and labels.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use wharf_platform_api::cores::NodeStatus;
use wharf_platform_api::plan::scheduler::Held;
use wharf_platform_api::plan::{Change, InstanceView, ReleaseView};
use wharf_types::spec::{PlacementSpec, Priority};
use wharf_types::state::{Health, InstanceState, Wanted};
use wharf_types::{AppId, InstanceId, JobId, NodeId};

use super::rows::{LEASE, Silence};
use crate::setup::Extras;
use crate::store::App;
use crate::world::World;

/// What a control plane knew of a node when it decided.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) silence: Silence,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) is_drained: bool,
    /// Whether anything has come from it since this control plane began.
    pub(crate) has_spoken: bool,
}

/// One more instance of something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asks<'a> {
    owner: AppId,
    memory_bytes: u64,
    placement: &'a PlacementSpec,
    /// The only node that will do.
    only: Option<NodeId>,
}

impl Seen {
    pub(super) fn meets(&self, placement: &PlacementSpec) -> bool {
        placement.constraints.iter().all(|constraint| meets(&self.labels, constraint))
    }
}

/// Knows the operators that the simulator's users use.
fn meets(labels: &BTreeMap<String, String>, constraint: &str) -> bool {
    let words: Vec<&str> = constraint.split(' ').collect();
    let [key, operator, value] = words[..] else { panic!("`{constraint}` has other than three words") };
    let key = key.strip_prefix("node.labels.").expect("nothing but labels is asked for");
    let is_same = labels.get(key).is_some_and(|known| known == value);
    match operator {
        "==" => is_same,
        "!=" => !is_same,
        _ => panic!("`{operator}` is unknown"),
    }
}

impl<'a> Asks<'a> {
    pub(super) fn of_slot(app: &App, release: &'a ReleaseView, slot: u32) -> Self {
        let home = || app.view.volumes.iter().find_map(|volume| volume.node);
        let only = if release.spec.is_global() {
            app.view.places.slots.get(slot as usize).and_then(|place| Some(place.as_ref()?.node))
        } else if release.spec.volumes.is_empty() {
            None
        } else {
            home()
        };
        Self {
            owner: app.view.id,
            memory_bytes: release.reservation().memory_bytes,
            placement: &release.spec.placement,
            only,
        }
    }

    pub(super) fn of_job(job: &'a crate::store::Job) -> Self {
        let command = &job.view.command.spec;
        Self {
            owner: job.view.id.as_owner(),
            memory_bytes: command.reserve.memory.unwrap_or(command.limits.memory).as_bytes(),
            placement: &job.view.spec.placement,
            only: None,
        }
    }
}

impl World {
    /// Everything that takes something of a node.
    pub(super) fn held(&self) -> Vec<Held> {
        let instances = self.store.apps.values().flat_map(|app| {
            app.view.instances.iter().filter_map(move |it| app.releases.get(&it.release)?.held(&app.view, it))
        });
        let jobs = self.store.jobs.values();
        let runs = jobs.flat_map(|job| job.view.runs.iter().filter_map(move |run| job.view.held(run)));
        instances.chain(runs).collect()
    }

    /// A node that could take one more, where there is room, or something of a lower priority has it.
    pub(super) fn room(&self, asks: Asks<'_>, seen: &BTreeMap<NodeId, Seen>) -> Option<NodeId> {
        let held = self.held();
        let has_room = |node: NodeId| {
            let on_node = || held.iter().filter(|held| held.node == node);
            let stays = |held: &&Held| held.app == asks.owner || held.priority >= asks.placement.priority;
            let taken: u64 = on_node().filter(stays).map(|held| held.takes.memory_bytes).sum();
            let own = on_node().filter(|held| held.app == asks.owner).count();
            taken + asks.memory_bytes <= self.store.nodes[&node].memory_bytes
                && asks.placement.max_per_node.is_none_or(|most| own < most as usize)
        };
        let may_have_it = |node: NodeId, seen: &Seen| {
            !seen.is_drained
                && seen.has_spoken
                && seen.silence.span < LEASE
                && seen.meets(asks.placement)
                && asks.only.is_none_or(|only| only == node)
                && has_room(node)
        };
        seen.iter().find(|(node, seen)| may_have_it(**node, seen)).map(|(node, _)| *node)
    }

    /// Something was placed on a node by what was seen of it.
    pub(super) fn check_placed(
        &mut self,
        what: &dyn Display,
        node: NodeId,
        placement: &PlacementSpec,
        seen: &BTreeMap<NodeId, Seen>,
    ) {
        let at = seen.get(&node);
        if at.is_none_or(|at| at.is_drained || at.silence.ends_lease()) {
            let what = format!("{what} goes to {node}: {at:?}");
            self.fail("nothing is placed on a node that is drained or dead", what);
        } else if !at.is_some_and(|at| at.has_spoken) {
            let what = format!("{what} goes to {node}: {at:?}");
            self.fail("nothing is placed on a node before it has spoken to the control plane", what);
        } else if !at.is_some_and(|at| at.meets(placement)) {
            let what = format!("{what} wants {:?} and goes to {node}: {at:?}", placement.constraints);
            self.fail("nothing is placed where its constraints do not hold", what);
        }
    }

    /// An instance of an app was placed.
    pub(super) fn check_instance_placed(
        &mut self,
        (owner, id): (AppId, InstanceId),
        seen: &BTreeMap<NodeId, Seen>,
    ) {
        let Some(app) = self.store.apps.get(&owner).cloned() else { return };
        let Some(instance) = app.view.instances.iter().find(|it| it.id == id) else { return };
        let (Some(node), Some(release)) = (instance.node, app.releases.get(&instance.release)) else {
            return;
        };
        let placement = &release.spec.placement;
        self.check_placed(&format!("{id} of {owner}"), node, placement, seen);
        if let Some(rollout) = app.rollout_under_way() {
            self.check.made_by.insert(id, rollout.id);
        }
        let is_there = |it: &&InstanceView| it.node == Some(node) && !it.state.is_final();
        let there = app.view.instances.iter().filter(is_there).count();
        if placement.max_per_node.is_some_and(|most| there > most as usize) {
            let what = format!("{there} of {owner} are on {node}, and {:?} may be", placement.max_per_node);
            self.fail("a node never has more of an app than it may", what);
        }
    }

    fn priority_of(&self, owner: AppId, id: InstanceId) -> Option<Priority> {
        if let Some(app) = self.store.apps.get(&owner) {
            let instance = app.view.instances.iter().find(|it| it.id == id)?;
            return Some(app.releases.get(&instance.release)?.spec.placement.priority);
        }
        let job = self.store.jobs.get(&JobId::from_uuid(owner.as_uuid()))?;
        Some(job.view.spec.placement.priority)
    }

    /// Something of another owner is to leave for something of this priority.
    pub(super) fn check_preempted(
        &mut self,
        (owner, own): (AppId, Option<Priority>),
        victim: AppId,
        instance: InstanceId,
    ) {
        let given = self.priority_of(victim, instance);
        // One that has ended and was forgotten meanwhile has no priority any more.
        let is_fine = given.is_none_or(|given| own.is_some_and(|own| given < own)) && victim != owner;
        if !is_fine {
            let what = format!("{instance} of {victim} ({given:?}) leaves for {owner} ({own:?})");
            self.fail("only what is of a lower priority has to leave", what);
        }
    }

    /// The priority by which an app has others leave.
    pub(super) fn own_priority(&self, app: AppId) -> Option<Priority> {
        let view = &self.store.apps.get(&app)?.view;
        [&view.target, &view.stable]
            .into_iter()
            .flatten()
            .map(|release| release.spec.placement.priority)
            .max()
    }

    /// What a control plane is about to do with an app, which stands in the store as it was planned with.
    pub(crate) fn check_planned(
        &mut self,
        id: AppId,
        changes: &[Change],
        seen: &BTreeMap<NodeId, Seen>,
        statuses: &[NodeStatus],
    ) {
        let Some(app) = self.store.apps.get(&id).cloned() else { return };
        self.check_spread(&app, changes, seen, statuses);
        self.check_not_made_again(&app, changes, seen);
        let is_under_way = app.rollout_under_way().is_some()
            || changes.iter().any(|change| matches!(change, Change::RollBack { .. }));
        if !self.setup.extras.drains || is_under_way {
            return;
        }
        for change in changes {
            if let Change::SetWanted { instance, wanted: Wanted::Unroute } = change {
                self.check_leaving(&app, *instance, seen);
            }
        }
    }

    /// What a rollout has made of its release is not made once more as long as it is wanted, and may stay where it is. A node that was silent
    /// for its lease does not keep it, and a control plane cannot tell a standstill of its own from that silence when it was a short one.
    fn check_not_made_again(&mut self, app: &App, changes: &[Change], seen: &BTreeMap<NodeId, Seen>) {
        let Some(rollout) = app.rollout_under_way().map(|rollout| rollout.id) else { return };
        let may_stay =
            |node: NodeId| seen.get(&node).is_some_and(|seen| !seen.is_drained && seen.silence.keeps_lease());
        for change in changes {
            let Change::CreateInstance { id, release, slot, .. } = change else { continue };
            let has_it = |it: &&InstanceView| {
                (it.slot, it.release) == (*slot, *release)
                    && it.is_wanted()
                    && self.check.made_by.get(&it.id) == Some(&rollout)
                    && it.node.is_some_and(may_stay)
            };
            let is_global = app.releases.get(release).is_none_or(|release| release.spec.is_global());
            if let Some(known) = app.view.instances.iter().filter(|_| !is_global).find(has_it) {
                let what = format!("{id} of {} is made beside {known:?}", app.view.name);
                return self.fail("a rollout makes nothing twice", what);
            }
        }
    }

    /// A drain ends nothing that serves before another serves in its place, and of what is there only once nothing that could not go elsewhere.
    fn check_leaving(&mut self, app: &App, id: InstanceId, seen: &BTreeMap<NodeId, Seen>) {
        let view = &app.view;
        let (Some(instance), Some(target)) = (
            view.instances.iter().find(|it| it.id == id),
            view.target.as_ref().filter(|_| view.stopped.is_none()),
        ) else {
            return;
        };
        let is_drained = instance.node.and_then(|node| seen.get(&node)).is_some_and(|seen| seen.is_drained);
        let is_in_use =
            !view.deleting && instance.release == target.id && app.load().view.is_slot(instance.slot);
        if !is_drained || !is_in_use || !serves(instance) || target.spec.is_global() {
            return;
        }
        let is_other =
            |it: &&InstanceView| it.id != id && it.slot == instance.slot && it.release == target.id;
        let has_other = view.instances.iter().filter(is_other).any(serves);
        if target.spec.scale.singleton {
            if self.room(Asks::of_slot(app, target, instance.slot), seen).is_none() {
                let what = format!("{id} of {} leaves {:?} and fits nowhere else", view.name, instance.node);
                self.fail("a drain ends nothing that fits nowhere else", what);
            }
        } else if !has_other {
            let what = format!("{id} of {} leaves {:?}: {:?}", view.name, instance.node, view.instances);
            self.fail("a drain ends nothing before another serves in its place", what);
        }
    }

    /// The first instance that is placed goes to the value of its label that has the fewest. Only where there is room everywhere, and nothing
    /// has failed that would speak against a node.
    fn check_spread(
        &mut self,
        app: &App,
        changes: &[Change],
        seen: &BTreeMap<NodeId, Seen>,
        statuses: &[NodeStatus],
    ) {
        let Extras { priorities, labels, .. } = self.setup.extras;
        if !labels || priorities || self.setup.memory_mib < 64 {
            return;
        }
        let first = changes.iter().find_map(|change| match change {
            Change::CreateInstance { release, node, .. } => Some((app.releases.get(release)?, *node)),
            _ => None,
        });
        let Some((release, chosen)) = first else { return };
        let placement = &release.spec.placement;
        let [key] = &placement.spread[..] else { return };
        let has_failed = |it: &InstanceView| it.release == release.id && it.state == InstanceState::Failed;
        if !release.spec.volumes.is_empty() || app.view.instances.iter().any(has_failed) {
            return;
        }
        let present: BTreeSet<NodeId> =
            statuses.iter().filter(|node| !node.given_up).map(|node| node.id).collect();
        let live = || app.view.instances.iter().filter(|it| !it.state.is_final()).filter_map(|it| it.node);
        let value = |node: NodeId| seen.get(&node).and_then(|seen| seen.labels.get(key));
        let of_value = |node: NodeId| {
            live().filter(|other| present.contains(other) && value(*other) == value(node)).count()
        };
        let may_have_it = |node: &&NodeStatus| {
            let on_node = live().filter(|other| *other == node.id).count();
            node.takes_more
                && present.contains(&node.id)
                && seen.get(&node.id).is_some_and(|seen| !seen.is_drained && seen.meets(placement))
                && placement.max_per_node.is_none_or(|most| on_node < most as usize)
        };
        let better = statuses.iter().filter(may_have_it).find(|node| of_value(node.id) < of_value(chosen));
        if let Some(better) = better.map(|node| node.id) {
            let what = format!(
                "an instance of {} goes to {chosen} ({:?} has {}), and not to {better} ({:?} has {})",
                app.view.name,
                value(chosen),
                of_value(chosen),
                value(better),
                of_value(better)
            );
            self.fail("instances are spread over the values of a label", what);
        }
    }

    /// What is still on a node that is drained, and could be elsewhere.
    pub(super) fn not_drained(&self, seen: &BTreeMap<NodeId, Seen>) -> Option<String> {
        let is_drained = |node: &NodeId| seen.get(node).is_some_and(|seen| seen.is_drained);
        self.store.apps.values().find_map(|app| {
            let stays = |it: &InstanceView| {
                let Some(release) = app.releases.get(&it.release) else { return false };
                let has_no_room = || self.room(Asks::of_slot(app, release, it.slot), seen).is_none();
                !release.spec.volumes.is_empty() || (!release.spec.is_global() && has_no_room())
            };
            let on_drained =
                |it: &&InstanceView| !it.state.is_final() && it.node.as_ref().is_some_and(is_drained);
            let left = app.view.instances.iter().filter(on_drained).find(|it| !stays(it))?;
            Some(format!("{} is still on a node that is drained: {left:?}", app.view.name))
        })
    }
}

fn serves(instance: &InstanceView) -> bool {
    (instance.state, instance.health, instance.wanted)
        == (InstanceState::Running, Health::Healthy, Wanted::Run)
        && !instance.replaced
}
