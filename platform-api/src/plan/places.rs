//! Which node each slot of a global app is for.
//!
//! A slot stays with its node for as long as the node may have an instance: it is known, not to be emptied, and passes the constraints.
//! One that is silent counts until it is given up, so that nothing is taken for done there. Then the slot is given up, and with it the instance; the next node that comes takes its number. What was settled last is stored, so
//! that whoever plans next goes on from it, and so that those who show an app, or count what it uses, need to know no nodes.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use wharf_types::{NodeId, ReleaseId};

use super::draft::Draft;
use super::scheduler::{Cluster, Needs};
use super::{AppView, Change, InstanceView, ReleaseView};

/// See the module. Empty for an app that is not global.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// The release whose constraints were asked last. Where the app moves to another by now, these are those of before.
    pub of: Option<ReleaseId>,
    /// By slot. None: its node has gone, and nothing runs in it.
    pub slots: Vec<Option<Place>>,
}

/// The node of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub node: NodeId,
    /// Whether the target release runs there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub target: bool,
    /// Whether the release before does, which a rollout may go back to. Of no interest without a rollout.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stable: bool,
}

impl Places {
    /// How many instances the target release has.
    pub fn count(&self) -> u32 {
        let of_target = self.slots.iter().flatten().filter(|place| place.target).count();
        u32::try_from(of_target).unwrap_or(u32::MAX)
    }

    pub(crate) fn at(&self, slot: u32) -> Option<&Place> {
        self.slots.get(slot as usize)?.as_ref()
    }
}

/// Takes in which nodes there are.
pub(super) fn settle(draft: &mut Draft<'_>) {
    let places = settled(&draft.app, draft.cluster);
    if places != draft.app.places {
        draft.push(Change::SetPlaces { places });
    }
}

fn settled(app: &AppView, cluster: &mut Cluster) -> Places {
    let Some(target) = app.target.as_ref() else { return Places::default() };
    let stable = app.stable.as_ref().filter(|stable| app.is_rolling_out() && stable.id != target.id);
    if !target.spec.is_global() && !stable.is_some_and(|stable| stable.spec.is_global()) {
        return Places::default();
    }
    let of_target = allowed(target, cluster);
    let of_stable = stable.map(|stable| allowed(stable, cluster)).unwrap_or_default();
    let place = |node: NodeId| {
        let (target, stable) = (of_target.contains(&node), of_stable.contains(&node));
        (target || stable).then_some(Place { node, target, stable })
    };
    let mut slots: Vec<Option<Place>> =
        app.places.slots.iter().map(|known| place(known.as_ref()?.node)).collect();
    let known: BTreeSet<NodeId> = slots.iter().flatten().map(|place| place.node).collect();
    let mut new: BTreeSet<NodeId> =
        of_target.union(&of_stable).filter(|node| !known.contains(node)).copied().collect();
    // Where one runs already, from when the app had a number, that one's slot is the node's.
    for instance in app.instances.iter().filter(|instance| instance.is_wanted()) {
        let is_free = slots.get(instance.slot as usize).is_none_or(Option::is_none);
        let Some(node) = instance.node.filter(|node| is_free && new.contains(node)) else { continue };
        let is_others = |it: &InstanceView| it.slot == instance.slot && it.node != instance.node;
        if !app.instances.iter().any(|it| lives(it, target) && is_others(it)) {
            new.remove(&node);
            set(&mut slots, instance.slot, place(node));
        }
    }
    let mut taken = taken(app, target);
    taken.extend((0..).zip(&slots).filter(|(_, place)| place.is_some()).map(|(slot, _)| slot));
    let free = (0..).filter(|slot| !taken.contains(slot));
    for (node, slot) in new.into_iter().zip(free) {
        set(&mut slots, slot, place(node));
    }
    while slots.last().is_some_and(Option::is_none) {
        slots.pop();
    }
    Places { of: Some(target.id), slots }
}

fn set(slots: &mut Vec<Option<Place>>, slot: u32, place: Option<Place>) {
    let index = slot as usize;
    slots.resize(slots.len().max(index + 1), None);
    slots[index] = place;
}

fn allowed(release: &ReleaseView, cluster: &mut Cluster) -> BTreeSet<NodeId> {
    match release.spec.is_global() {
        true => cluster.allowed(&release.spec.placement, Needs::of(release.world, false)),
        false => BTreeSet::new(),
    }
}

fn lives(instance: &InstanceView, target: &ReleaseView) -> bool {
    instance.is_live() && instance.release == target.id
}

/// Slots that a node is not to take over yet: one of the node before has not ended, or has failed in the rollout that is under way.
fn taken(app: &AppView, target: &ReleaseView) -> BTreeSet<u32> {
    let live = app.instances.iter().filter(|it| lives(it, target)).map(|instance| instance.slot);
    let failed = app.rollout_under_way().into_iter().flat_map(|rollout| rollout.failed_slots.iter().copied());
    live.chain(failed).collect()
}

#[cfg(test)]
mod tests;
